/* Olmo2DecoderLayer (and OLMo 3): norms of the whole q and k, and of what attention and MLP give. */
#include "estimator/pass.h"

static struct est_tensor attention(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor q, k, v, q_embed, k_embed, out;

	q = est_hold(est_view_as_heads(tape, est_olmo2_norm(pass, &layer->q_norm, est_linear(tape, &layer->q_proj, x))));
	k = est_hold(est_view_as_heads(tape, est_olmo2_norm(pass, &layer->k_norm, est_linear(tape, &layer->k_proj, x))));
	v = est_hold(est_value_heads(pass, layer, est_linear(tape, &layer->v_proj, x)));
	q_embed = est_hold(est_rope(pass, q));
	k_embed = est_hold(est_rope(pass, k));
	q_embed = est_hold(est_to(tape, q_embed, q.element));
	k_embed = est_hold(est_to(tape, k_embed, k.element));
	est_drop(tape, q);
	est_drop(tape, k);
	out = est_linear(tape, &layer->o_proj, est_attention(pass, layer, q_embed, k_embed, v));
	est_drop(tape, q_embed);
	est_drop(tape, k_embed);
	est_drop(tape, v);
	return out;
}

/* x + norm(block(x)) */
static struct est_tensor post_normed(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x,
				     est_layer_function *block, const struct est_norm_weights *norm)
{
	struct est_tensor y = est_hold(block(pass, layer, x)), normed;

	normed = est_olmo2_norm(pass, norm, y);
	est_drop(pass->tape, y);
	return est_add(pass->tape, x, normed);
}

struct est_tensor est_olmo2_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tensor residual = est_hold(post_normed(pass, layer, x, attention, &layer->post_attention_layernorm)), out;

	out = post_normed(pass, layer, residual, est_gated_mlp, &layer->post_feedforward_layernorm);
	est_drop(pass->tape, residual);
	return out;
}
