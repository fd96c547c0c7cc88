/* FalconDecoderLayer: q, k and v fused, with one head of k and v that SDPA broadcasts, or (the new architecture) several
 * that are expanded first; attention and MLP side by side. */
#include "estimator/architecture.h"

/* x[..., [i], :]: a copy, whose gradient is put into zeros. extra[0]: elements of x */
static void backward_index(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	ret[0] = est_grad_for(tape, node, 0, node->grad[0].element);
}
static const struct est_op index_op = { "Index", backward_index };

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
	if (model->num_key_value_heads == 1)
		return;
	flat[0] = est_hold(est_contiguous(pass->tape, ret[0]));
	for (unsigned i = 1; i < 3; i++)
		flat[i] = est_hold(est_repeat_kv(pass->tape, ret[i], n_rep, false));
	for (unsigned i = 0; i < 3; i++) {
		est_drop(pass->tape, ret[i]);
		ret[i] = flat[i];
	}
}

/* A permuted operand, expanded to all heads where it has fewer, as matmul copies it. */
static struct est_tensor copied(struct est_pass *pass, struct est_tensor x, struct est_tensor query)
{
	x = est_autocast(pass->tape, x);
	if (x.numel != query.numel)
		return est_repeat_kv(pass->tape, x, query.numel / x.numel, false);
	return est_contiguous(pass->tape, x);
}

/* (q @ k.T) /= scale; softmax(scores + mask) @ v, in the dtype of the stream */
static struct est_tensor eager(struct est_pass *pass, const struct est_tensor in[3])
{
	struct est_tape *tape = pass->tape;
	uint64_t scores = in[0].numel / (uint64_t)pass->model->head_dim * pass->sequence;
	struct est_tensor q = copied(pass, in[0], in[0]), weights, masked, out;

	weights = est_hold(est_div_in_place(tape, est_bmm(tape, q, copied(pass, in[1], in[0]), scores)));
	masked = est_add(tape, weights, pass->mask);
	masked = est_to(tape, masked, pass->parameter_element);
	masked = est_hold(est_softmax(tape, masked));
	est_drop(tape, weights);
	out = est_bmm(tape, est_autocast(tape, masked), copied(pass, in[2], in[0]), in[0].numel);
	out = est_merge_heads(tape, out);
	pass->attn_weights = masked;
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
	for (unsigned i = 0; i < 3; i++)
		est_drop(tape, in[i]);
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
