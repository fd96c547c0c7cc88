/* Lfm2DecoderLayer: a short convolution between two gates in the place of most layers' attention. */
#include "estimator/recurrent.h"
#include "estimator/routers.h"

/* B, C, x = in_proj(x).chunk(3); out_proj(C * conv(B * x)) */
struct est_tensor est_short_conv(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor input, projected, parts[3], hidden, conv, y;
	uint64_t width = x.numel;

	input = est_hold(est_without_padding(pass, est_alias(tape, x)));
	projected = est_hold(est_linear(tape, &layer->mixer.in_proj, input));
	est_drop(tape, input);
	est_split(tape, projected, 3, (const uint64_t[]){ width, width, width }, parts);
	for (unsigned i = 0; i < 3; i++)
		parts[i] = est_hold(parts[i]);
	hidden = est_hold(est_mul(tape, parts[0], parts[2]));
	conv = est_hold(est_causal_conv(pass, &layer->mixer, hidden, false));
	est_drop(tape, hidden);
	hidden = est_hold(est_mul(tape, parts[1], conv));
	y = est_linear(tape, &layer->mixer.out_proj, hidden);
	est_drop(tape, hidden);
	est_drop(tape, conv);
	est_drop_all(tape, parts, 3);
	est_drop(tape, projected);
	return y;
}

static struct est_tensor mixer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	return layer->kind == EST_LAYER_MIXES ? est_short_conv(pass, layer, x) : est_qwen3_attention(pass, layer, x);
}

static struct est_tensor feed_forward(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	return layer->sparse ? est_routed(pass, layer, x, est_route_lfm2) : est_gated_mlp(pass, layer, x);
}

struct est_tensor est_lfm2_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	static const struct est_blocks blocks = { est_llama_norm, mixer, feed_forward };

	return est_pre_norm_layer(pass, layer, x, &blocks);
}
