/* Gemma2DecoderLayer and Gemma3DecoderLayer: norms before and after attention and MLP; Gemma 3 norms the heads of q
 * and k. */
#include "estimator/liger.h"

/* query_states = self.q_norm(query_states), where the model has such norms; heads move in */
static struct est_tensor norm_heads(struct est_pass *pass, const struct est_norm_weights *norm, struct est_tensor heads)
{
	struct est_tensor normed;

	if (!norm->width)
		return heads;
	if (pass->request->liger_kernel)
		normed = est_hold(est_liger_head_norm(pass, norm, heads));
	else
		normed = est_hold(est_gemma_norm(pass, norm, heads));
	est_drop(pass->tape, heads);
	return normed;
}

static struct est_tensor attention(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor q = est_hold(est_rope_heads(pass, est_linear(tape, &layer->q_proj, x)));
	struct est_tensor k = est_hold(est_rope_heads(pass, est_linear(tape, &layer->k_proj, x)));
	struct est_tensor v = est_hold(est_heads(pass, layer, est_linear(tape, &layer->v_proj, x)));

	q = norm_heads(pass, &layer->q_norm, q);
	k = norm_heads(pass, &layer->k_norm, k);
	return est_attend(pass, layer, q, k, v);
}

/* residual + post(block(pre(x))) */
static struct est_tensor sandwiched(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x,
				    est_norm_function *norm, const struct est_norm_weights *pre, est_block_call *call,
				    est_layer_function *block, const struct est_norm_weights *post)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor y = est_hold(norm(pass, pre, x)), z;

	z = est_hold(call(pass, layer, block, y));
	est_drop(tape, y);
	y = norm(pass, post, z);
	est_drop(tape, z);
	return est_add(tape, x, y);
}

struct est_tensor est_sandwich_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x,
				     const struct est_blocks *blocks)
{
	struct est_tensor residual, out;

	residual = est_hold(sandwiched(pass, layer, x, blocks->norm, &layer->input_layernorm, est_call_attention,
				       blocks->attention, &layer->post_attention_layernorm));
	out = sandwiched(pass, layer, residual, blocks->norm, &layer->pre_feedforward_layernorm, est_call_mlp, blocks->mlp,
			 &layer->post_feedforward_layernorm);
	est_drop(pass->tape, residual);
	return out;
}

struct est_tensor est_gemma2_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	static const struct est_blocks blocks = { est_gemma_norm, attention, est_gated_mlp };

	return est_sandwich_layer(pass, layer, x, &blocks);
}

struct est_tensor est_vaultgemma_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	static const struct est_blocks blocks = { est_gemma_norm, attention, est_gated_mlp };

	return est_pre_norm_layer(pass, layer, x, &blocks);
}

struct est_tensor est_gemma3_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	return est_gemma2_layer(pass, layer, x);
}
