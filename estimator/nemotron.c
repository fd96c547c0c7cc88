/* NemotronDecoderLayer, ArceeDecoderLayer, Jais2DecoderLayer: Llama's with an MLP without a gate, and norms of three
 * kinds. */
#include "estimator/pass.h"

/* NemotronLayerNorm1P: F.layer_norm(x, weight + 1, bias), outside of autocast on operands that are cast as if within */
static struct est_tensor layer_norm_1p(struct est_pass *pass, const struct est_norm_weights *norm, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor weight = est_hold(est_add_scalar(tape, est_leaf_tensor(tape, norm->weight)));
	struct est_tensor args[3] = { est_hold(x), weight, est_leaf_tensor(tape, norm->bias) }, y;
	bool autocast = tape->autocast;

	for (unsigned i = 0; i < 3; i++)
		args[i] = est_hold(est_to(tape, args[i], autocast ? EST_16BIT : args[i].element));
	est_drop(tape, weight);
	tape->autocast = false;
	y = est_layer_norm_as_is(tape, args, x.numel / norm->width);
	tape->autocast = autocast;
	est_drop_all(tape, args, 3);
	est_finish(tape, x);
	return y;
}

struct est_tensor est_nemotron_norm(struct est_pass *pass, const struct est_norm_weights *norm, struct est_tensor x)
{
	return est_call_norm(pass, layer_norm_1p, norm, x);
}

struct est_tensor est_nemotron_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	static const struct est_blocks blocks = { est_nemotron_norm, est_llama_attention, est_plain_mlp };

	return est_pre_norm_layer(pass, layer, x, &blocks);
}

struct est_tensor est_arcee_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	static const struct est_blocks blocks = { est_llama_norm, est_llama_attention, est_plain_mlp };

	return est_pre_norm_layer(pass, layer, x, &blocks);
}

struct est_tensor est_jais2_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	static const struct est_blocks blocks = { est_torch_layer_norm, est_llama_attention, est_plain_mlp };

	return est_pre_norm_layer(pass, layer, x, &blocks);
}
