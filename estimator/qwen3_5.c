/* Qwen3NextDecoderLayer and Qwen3_5DecoderLayer: the gated delta rule in most layers, attention with an output gate
 * in the others. */
#include "estimator/pass.h"

/* query_states, gate = q_proj(x).chunk(2); norms of heads as Gemma's */
static struct est_tensor gated_attention(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor both = est_linear(tape, &layer->q_proj, x), half[2], gate, q, k, v;

	est_split(tape, both, 2, (const uint64_t[]){ both.numel / 2, both.numel / 2 }, half);
	half[0] = est_hold(half[0]);
	gate = est_hold(est_contiguous(tape, half[1]));
	q = est_hold(est_gemma_norm(pass, &layer->q_norm, half[0]));
	est_drop(tape, half[0]);
	k = est_rope_heads(pass, est_linear(tape, &layer->k_proj, x));
	k = est_hold(est_gemma_norm(pass, &layer->k_norm, k));
	v = est_hold(est_heads(pass, layer, est_linear(tape, &layer->v_proj, x)));
	return est_attend_gated(pass, layer, q, k, v, gate);
}

static struct est_tensor mixer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	return layer->kind == EST_LAYER_MIXES ? est_delta_net(pass, layer, x) : gated_attention(pass, layer, x);
}

struct est_tensor est_qwen3_5_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	static const struct est_blocks blocks = { est_gemma_norm, mixer, est_qwen2_mixture };

	return est_pre_norm_layer(pass, layer, x, &blocks);
}
