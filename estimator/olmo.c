/* Olmo2DecoderLayer (and OLMo 3): norms of the whole q and k, and of what attention and MLP give. */
#include "estimator/pass.h"

/* q_norm(q_proj(x)), over all heads together */
static struct est_tensor project(struct est_pass *pass, const struct est_linear *linear,
				 const struct est_norm_weights *norm, struct est_tensor x)
{
	struct est_tensor y = est_hold(est_linear(pass->tape, linear, x)), normed = est_olmo2_head_norm(pass, norm, y);

	est_drop(pass->tape, y);
	return normed;
}

struct est_tensor est_olmo2_attention(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor q = project(pass, &layer->q_proj, &layer->q_norm, x);
	struct est_tensor k = project(pass, &layer->k_proj, &layer->k_norm, x);
	struct est_tensor v = est_linear(tape, &layer->v_proj, x);

	q = est_hold(est_rope_heads(pass, q));
	k = est_hold(est_rope_heads(pass, k));
	v = est_hold(est_heads(pass, layer, v));
	return est_attend(pass, layer, q, k, v);
}

/* x + norm(block(x)) */
static struct est_tensor post_normed(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x,
				     est_block_call *call, est_layer_function *block, est_norm_function *norm,
				     const struct est_norm_weights *weights)
{
	struct est_tensor y = est_hold(call(pass, layer, block, x)), normed;

	normed = norm(pass, weights, y);
	est_drop(pass->tape, y);
	return est_add(pass->tape, x, normed);
}

struct est_tensor est_post_norm_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x,
				      const struct est_blocks *blocks)
{
	struct est_tensor residual, out;

	residual = est_hold(post_normed(pass, layer, x, est_call_attention, blocks->attention, blocks->norm,
					&layer->post_attention_layernorm));
	out = post_normed(pass, layer, residual, est_call_mlp, blocks->mlp, blocks->norm, &layer->post_feedforward_layernorm);
	est_drop(pass->tape, residual);
	return out;
}

struct est_tensor est_olmo2_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	static const struct est_blocks blocks = { est_olmo2_norm, est_olmo2_attention, est_gated_mlp };

	return est_post_norm_layer(pass, layer, x, &blocks);
}
