/* BloomBlock and MptBlock: positions as a bias on the scores, by python operators. */
#include "estimator/architecture.h"
#include "estimator/recurrent.h"

/* ---- Bloom */

/* fused[..., i, :]: a view, whose gradient is put into zeros */
static struct est_tensor select_heads(struct est_pass *pass, struct est_tensor fused)
{
	return est_slice(pass->tape, fused, fused.numel / 3);
}

/* alibi.baddbmm(q, k, alpha=scale): each gradient is a product, scaled */
static void backward_baddbmm(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	for (unsigned i = 0; i < 2; i++) {
		struct est_tensor product = est_grad_for(tape, node, i, node->grad[0].element);

		ret[i] = est_grad_for(tape, node, i, node->grad[0].element);
		est_drop(tape, product);
	}
}
static const struct est_op baddbmm_op = { "Baddbmm", backward_baddbmm };

static struct est_tensor biased_scores(struct est_pass *pass, struct est_tensor q, struct est_tensor k)
{
	struct est_tape *tape = pass->tape;
	uint64_t scores = q.numel / (uint64_t)pass->model->head_dim * pass->sequence;
	struct est_tensor in[2] = { q, k }, bias = pass->position_bias, out;
	struct est_node *node;

	for (unsigned i = 2; i-- > 0;)
		in[i] = est_autocast(tape, in[i]);
	if (tape->autocast)
		bias = est_to(tape, bias, EST_16BIT);
	node = est_node_new(tape, &baddbmm_op, 2, in);
	est_save(tape, node, in[0]);
	est_save(tape, node, in[1]);
	out = est_output(tape, node, 0, est_empty(tape, scores, in[0].element));
	est_finish(tape, in[0]);
	est_finish(tape, in[1]);
	est_finish(tape, bias);
	return out;
}

/* residual + dropout(x); x is borrowed */
static struct est_tensor dropout_add(struct est_pass *pass, struct est_tensor x, struct est_tensor residual)
{
	return est_add(pass->tape, residual, est_dropout(pass->tape, x, pass->model->residual_dropout));
}

/* residual + dropout(down_proj(h)); h moves in, and goes before what it gives */
static struct est_tensor mlp_end(struct est_pass *pass, const struct est_layer *layer, struct est_tensor h,
				 struct est_tensor residual)
{
	struct est_tensor y = est_hold(est_linear(pass->tape, &layer->down_proj, h)), out = dropout_add(pass, y, residual);

	est_drop(pass->tape, h);
	est_drop(pass->tape, y);
	return out;
}

/* residual + dense(softmax((scores + mask).to(fp32)).to(dtype) @ v); the scores, too, are a variable */
static struct est_tensor bloom_attention(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x,
					 struct est_tensor residual)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor fused = est_hold(est_linear(tape, &layer->qkv_proj, x)), heads[3], in[3], scores, masked,
		weights, projected, out;

	for (unsigned i = 0; i < 3; i++)
		heads[i] = est_hold(select_heads(pass, fused));
	for (unsigned i = 0; i < 3; i++) {
		in[i] = est_hold(pass->batch > 1 ? est_contiguous(tape, heads[i]) : est_alias(tape, heads[i]));
		est_drop(tape, heads[i]);
	}
	scores = est_hold(biased_scores(pass, in[0], in[1]));
	masked = est_hold(est_add(tape, scores, pass->mask));
	weights = est_to(tape, est_softmax_in_fp32(tape, masked), in[0].element);
	weights = est_hold(est_dropout(tape, weights, pass->model->attention_dropout));
	out = est_hold(est_bmm(tape, weights, in[2], in[0].numel));
	x = est_hold(est_join_heads(pass, out));
	est_drop(tape, out);
	projected = est_hold(est_linear(tape, &layer->o_proj, x));
	out = dropout_add(pass, projected, residual);
	est_drop(tape, projected);
	est_drop(tape, fused);
	est_drop_all(tape, in, 3);
	est_drop(tape, scores);
	est_drop(tape, masked);
	est_drop(tape, x);
	pass->attn_weights = weights;
	return out;
}

/* GeLUFunction calculates by operators both ways: each step makes a tensor of the input's size, then what it was
 * made of is given up (steps by their index; -1: none). The last one is the result. */
enum { GELU_STEPS = 9, GELU_BACK_STEPS = 18 };

static struct est_tensor calculate(struct est_tape *tape, unsigned count, const signed char gives_up[][2],
				   uint64_t numel, uint8_t element)
{
	struct est_tensor made[GELU_BACK_STEPS];

	for (unsigned i = 0; i < count; i++) {
		made[i] = est_empty(tape, numel, element);
		for (unsigned j = 0; j < 2; j++)
			if (gives_up[i][j] >= 0)
				est_drop(tape, made[gives_up[i][j]]);
	}
	return made[count - 1];
}

static void backward_bloom_gelu(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	static const signed char gives_up[GELU_BACK_STEPS][2] = {
		{ -1, -1 }, { -1, -1 }, { 1, -1 }, { 2, -1 }, { 0, 3 }, { 4, -1 },     /* tanh_out */
		{ -1, -1 }, { -1, -1 }, { 7, -1 }, { -1, -1 }, { 9, -1 }, { 10, -1 }, { 8, 11 }, { 6, 12 },
		{ -1, -1 }, { 14, -1 }, { 13, 15 }, { 5, 16 },                         /* ff, ff * g */
	};

	ret[0] = calculate(tape, GELU_BACK_STEPS, gives_up, node->edge_numel[0], node->edge_element[0]);
}
static const struct est_op bloom_gelu_op = { "GeLUFunction", backward_bloom_gelu };

static struct est_tensor bloom_gelu(struct est_tape *tape, struct est_tensor x)
{
	static const signed char gives_up[GELU_STEPS][2] = {
		{ -1, -1 }, { -1, -1 }, { -1, -1 }, { 2, -1 }, { 3, -1 }, { 1, 4 }, { 5, -1 }, { 6, -1 }, { 0, 7 },
	};
	struct est_node *node = est_node_new(tape, &bloom_gelu_op, 1, &x);
	struct est_tensor out = calculate(tape, GELU_STEPS, gives_up, x.numel, x.element);

	est_save(tape, node, x);
	est_finish(tape, x);
	return est_output(tape, node, 0, out);
}

struct est_tensor est_bloom_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor y = est_hold(est_torch_layer_norm(pass, &layer->input_layernorm, x)), attended, h;

	attended = est_hold(bloom_attention(pass, layer, y, x));
	h = est_hold(est_torch_layer_norm(pass, &layer->post_attention_layernorm, attended));
	est_drop(tape, y);
	y = h;
	h = est_hold(bloom_gelu(tape, est_linear(tape, &layer->up_proj, y)));
	x = mlp_end(pass, layer, h, attended);
	est_drop(tape, y);
	est_drop(tape, attended);
	return x;
}

/* ---- MPT */

/* softmax((q @ k.T * scale + alibi).masked_fill(mask).float()).to(dtype) @ v */
static struct est_tensor mpt_attention(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	uint64_t width = pass->tokens * (uint64_t)pass->model->hidden_size;
	uint64_t scores = width / (uint64_t)pass->model->head_dim * pass->sequence;
	struct est_tensor qkv = est_hold(est_linear(tape, &layer->qkv_proj, x)), in[3], masked, weights, out;

	est_split(tape, qkv, 3, (const uint64_t[]){ width, width, width }, in);
	in[0] = est_hold(est_view_as_heads(tape, in[0]));
	in[1] = est_hold(in[1]);
	in[2] = est_hold(est_view_as_heads(tape, in[2]));
	masked = est_mul_scalar(tape, est_matmul_heads(pass, in[0], true, in[1], true, scores));
	masked = est_hold(est_masked_fill(tape, est_add(tape, masked, pass->position_bias), pass->mask));
	weights = est_to(tape, est_softmax_in_fp32(tape, est_hold(masked)), in[2].element);
	weights = est_hold(est_dropout(tape, weights, pass->model->attention_dropout));
	out = est_hold(est_join_heads(pass, est_matmul_heads(pass, weights, false, in[2], true, width)));
	x = est_linear(tape, &layer->o_proj, out);
	est_drop(tape, qkv);
	est_drop_all(tape, in, 3);
	est_drop(tape, masked);
	est_drop(tape, out);
	pass->attn_weights = weights;
	return x;
}

struct est_tensor est_mpt_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor y = est_hold(est_torch_layer_norm(pass, &layer->input_layernorm, x)), attended, residual, h;

	attended = est_hold(mpt_attention(pass, layer, y));
	residual = est_hold(dropout_add(pass, attended, x));
	h = est_hold(est_torch_layer_norm(pass, &layer->post_attention_layernorm, residual));
	est_drop(tape, y);
	y = h;
	h = est_hold(est_activate(pass, est_linear(tape, &layer->up_proj, y)));
	x = mlp_end(pass, layer, h, residual);
	est_drop(tape, y);
	est_drop(tape, attended);
	est_drop(tape, residual);
	return x;
}
