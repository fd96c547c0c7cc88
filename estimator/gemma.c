/* Gemma2DecoderLayer and Gemma3DecoderLayer: norms before and after attention and MLP; Gemma 3 norms the heads of q and k. */
#include "estimator/pass.h"

static struct est_tensor project(struct est_pass *pass, const struct est_linear *linear, const struct est_norm_weights *norm,
				 struct est_tensor x)
{
	struct est_tensor y = est_view_as_heads(pass->tape, est_linear(pass->tape, linear, x));

	return est_hold(norm->width ? est_gemma_norm(pass, norm, y) : y);
}

static struct est_tensor attention(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor q = project(pass, &layer->q_proj, &layer->q_norm, x);
	struct est_tensor k = project(pass, &layer->k_proj, &layer->k_norm, x);
	struct est_tensor v = est_hold(est_value_heads(pass, layer, est_linear(tape, &layer->v_proj, x))), q_embed, k_embed, out;

	q_embed = est_hold(est_rope(pass, q));
	k_embed = est_hold(est_rope(pass, k));
	est_drop(tape, q);
	est_drop(tape, k);
	out = est_linear(tape, &layer->o_proj, est_attention(pass, layer, q_embed, k_embed, v));
	est_drop(tape, q_embed);
	est_drop(tape, k_embed);
	est_drop(tape, v);
	return out;
}

/* residual + post(block(pre(x))) */
static struct est_tensor sandwiched(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x,
				    const struct est_norm_weights *pre, est_layer_function *block, const struct est_norm_weights *post)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor y = est_hold(est_gemma_norm(pass, pre, x)), z;

	z = est_hold(block(pass, layer, y));
	est_drop(tape, y);
	y = est_gemma_norm(pass, post, z);
	est_drop(tape, z);
	return est_add(tape, x, y);
}

struct est_tensor est_gemma2_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tensor residual, out;

	residual = est_hold(sandwiched(pass, layer, x, &layer->input_layernorm, attention, &layer->post_attention_layernorm));
	out = sandwiched(pass, layer, residual, &layer->pre_feedforward_layernorm, est_gated_mlp,
			 &layer->post_feedforward_layernorm);
	est_drop(pass->tape, residual);
	return out;
}

struct est_tensor est_gemma3_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	return est_gemma2_layer(pass, layer, x);
}
