/* CohereDecoderLayer and Cohere2DecoderLayer: attention and MLP side by side, a LayerNorm without bias of python
 * operators. */
#include "estimator/pass.h"

/* x32 = x.to(fp32); mean; variance = (x32 - mean).pow(2).mean(); (weight32 * ((x32 - mean) *
 * rsqrt(variance))).to(dtype) */
static struct est_tensor normed(struct est_pass *pass, const struct est_norm_weights *norm, uint64_t rows,
				struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor x32, mean, variance, y, out;

	x = est_module_enter(tape, norm->module, x);
	x32 = est_hold(est_to(tape, est_hold(x), EST_32BIT));
	mean = est_hold(est_mean(tape, x32, rows));
	variance = est_hold(est_mean(tape, est_pow(tape, est_sub(tape, x32, mean)), rows));
	y = est_sub(tape, x32, mean);
	y = est_hold(est_mul(tape, y, est_rsqrt(tape, est_add_scalar(tape, variance))));
	est_drop(tape, x32);
	out = est_to(tape, est_leaf_tensor(tape, norm->weight), EST_32BIT);
	out = est_hold(est_mul(tape, out, y));
	est_drop(tape, y);
	y = est_to(tape, out, x.element);
	est_drop(tape, out);
	est_drop(tape, mean);
	est_drop(tape, variance);
	est_finish(tape, x);
	return est_module_leave(tape, norm->module, y);
}

struct est_tensor est_cohere_norm(struct est_pass *pass, const struct est_norm_weights *norm, struct est_tensor x)
{
	return normed(pass, norm, x.numel / norm->width, x);
}

/* q_norm(q), a mean and variance for each head; q moves in */
static struct est_tensor norm_heads(struct est_pass *pass, const struct est_norm_weights *norm, struct est_tensor heads)
{
	struct est_tensor out = est_hold(normed(pass, norm, heads.numel / (uint64_t)pass->model->head_dim, heads));

	est_drop(pass->tape, heads);
	return out;
}

static struct est_tensor attention(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor q, k, v;

	if (!layer->q_norm.width)
		return est_llama_attention(pass, layer, x);
	q = est_hold(est_rope_heads(pass, est_linear(tape, &layer->q_proj, x)));
	k = est_hold(est_rope_heads(pass, est_linear(tape, &layer->k_proj, x)));
	v = est_hold(est_heads(pass, layer, est_linear(tape, &layer->v_proj, x)));
	q = norm_heads(pass, &layer->q_norm, q);
	k = norm_heads(pass, &layer->k_norm, k);
	return est_attend(pass, layer, q, k, v);
}

/* residual + attention(norm(x)) + mlp(norm(x)) */
struct est_tensor est_cohere_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor y = est_hold(est_cohere_norm(pass, &layer->input_layernorm, x)), attended, mlp, out;

	attended = est_hold(attention(pass, layer, y));
	mlp = est_hold(est_gated_mlp(pass, layer, y));
	out = est_add(tape, est_add(tape, x, attended), mlp);
	est_drop(tape, y);
	est_drop(tape, attended);
	est_drop(tape, mlp);
	return out;
}
