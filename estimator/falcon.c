/* FalconDecoderLayer: q, k and v fused, with one head of k and v that SDPA broadcasts, or (the new architecture) several
 * that are expanded first; attention and MLP side by side. */
#include "estimator/architecture.h"

/* x[..., [i], :]: a copy, whose gradient is put into zeros. extra[0]: elements of x */
static const struct est_op index_op = { "Index", est_backward_one };

static struct est_tensor one_head_of_each(struct est_tape *tape, struct est_tensor x, uint64_t numel)
{
	struct est_node *node = est_node_new(tape, &index_op, 1, &x);

	return est_output(tape, node, 0, est_empty(tape, numel, x.element));
}

/* _split_heads() */
static void split_heads(struct est_pass *pass, struct est_tensor fused, struct est_tensor ret[3])
{
	const struct est_model *model = pass->model;
	uint64_t query = pass->tokens * (uint64_t)model->hidden_size;
	uint64_t key = pass->tokens * (uint64_t)(model->num_key_value_heads * model->head_dim);
	uint64_t n_rep = (uint64_t)(model->num_attention_heads / model->num_key_value_heads);
	struct est_tensor flat[3];

	ret[0] = est_hold(est_slice(pass->tape, fused, query));
	ret[1] = est_hold(one_head_of_each(pass->tape, fused, key));
	ret[2] = est_hold(one_head_of_each(pass->tape, fused, key));
	if (model->num_key_value_heads == 1 || n_rep == 1) /* nothing to expand: flatten(2, 3) makes views */
		return;
	flat[0] = est_hold(est_contiguous(pass->tape, ret[0]));
	for (unsigned i = 1; i < 3; i++)
		flat[i] = est_hold(est_repeat_kv(pass->tape, ret[i], n_rep, false));
	for (unsigned i = 0; i < 3; i++) {
		est_drop(pass->tape, ret[i]);
		ret[i] = flat[i];
	}
}

/* a @ b: b is expanded to as many elements where it has fewer; both are copied, unless a lies as it is needed or the batch is 1 */
static struct est_tensor matmul(struct est_pass *pass, struct est_tensor a, bool permuted_a, struct est_tensor b, uint64_t elements,
				uint64_t numel)
{
	struct est_tape *tape = pass->tape;
	bool views = pass->batch == 1;
	struct est_tensor cast = est_autocast(tape, b), left = est_autocast(tape, a), copy = est_hold(left), out;

	if (permuted_a && !views)
		copy = est_contiguous(tape, copy);
	out = est_repeat_kv(tape, est_hold(cast), elements / b.numel, views);
	if (b.numel == elements && !views)
		out = est_contiguous(tape, out);
	out = est_bmm(tape, copy, out, numel);
	est_finish(tape, left);
	est_finish(tape, cast);
	return out;
}

/* (q @ k.T) /= scale; softmax(scores + mask, dtype of the norm's output) @ v */
static struct est_tensor eager(struct est_pass *pass, const struct est_tensor in[3])
{
	struct est_tape *tape = pass->tape;
	uint64_t query = in[0].numel, scores = query / (uint64_t)pass->model->head_dim * pass->sequence;
	struct est_tensor weights = est_hold(est_div_in_place(tape, matmul(pass, in[0], true, in[1], query, scores))), probabilities, out;

	probabilities = est_to(tape, est_add(tape, weights, pass->mask), tape->autocast ? EST_32BIT : in[0].element);
	probabilities = est_hold(est_softmax(tape, probabilities));
	est_drop(tape, weights);
	out = est_join_heads(pass, matmul(pass, probabilities, false, in[2], query, query));
	pass->attn_weights = probabilities;
	return out;
}

static struct est_tensor attention(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor fused = est_hold(est_linear(tape, &layer->qkv_proj, x)), in[3], embed[2], out;

	split_heads(pass, fused, in);
	est_apply_rope(pass, est_layer_rope(pass, layer), in[0], in[1], embed);
	for (unsigned i = 0; i < 2; i++) {
		est_drop(tape, in[i]);
		in[i] = embed[i];
	}
	if (pass->request->attention == EST_EAGER)
		out = est_hold(eager(pass, in));
	else
		out = est_hold(est_attention(pass, layer, in[0], in[1], in[2]));
	x = est_linear(tape, &layer->o_proj, out);
	est_drop(tape, out);
	est_drop(tape, fused);
	est_drop_all(tape, in, 3);
	return x;
}

/* x + (mlp(ln_mlp(x)) += attention(ln_attn(x))) */
struct est_tensor est_falcon_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor y = est_hold(est_torch_layer_norm(pass, &layer->input_layernorm, x)), z = y, attended, mlp, out;
	bool two_norms = layer->post_attention_layernorm.width > 0;

	if (two_norms)
		z = est_hold(est_torch_layer_norm(pass, &layer->post_attention_layernorm, x));
	attended = est_hold(attention(pass, layer, y));
	mlp = est_hold(est_plain_mlp(pass, layer, z));
	out = est_hold(est_add_in_place(tape, mlp, attended));
	est_drop(tape, mlp);
	mlp = out;
	out = est_add(tape, x, mlp);
	est_drop(tape, y);
	if (two_norms)
		est_drop(tape, z);
	est_drop(tape, attended);
	est_drop(tape, mlp);
	return out;
}
