/* HunYuanDenseV1DecoderLayer and NanoChatDecoderLayer: Llama's, with norms of the heads of q and k after their
 * rotation. */
#include "estimator/pass.h"

struct est_tensor est_hunyuan_attention(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor q = est_hold(est_query_heads(pass, layer, est_linear(tape, &layer->q_proj, x)));
	struct est_tensor k = est_hold(est_key_heads(pass, layer, est_linear(tape, &layer->k_proj, x)));
	struct est_tensor v = est_hold(est_heads(pass, layer, est_linear(tape, &layer->v_proj, x))), embed[2];

	est_rotate(pass, layer, q, k, embed);
	est_drop(tape, q);
	est_drop(tape, k);
	if (pass->model->l2_qk_norm) {
		embed[0] = est_l2_norm_heads(pass, embed[0]);
		embed[1] = est_l2_norm_heads(pass, embed[1]);
	} else {
		embed[0] = est_norm_heads(pass, &layer->q_norm, embed[0]);
		embed[1] = est_norm_heads(pass, &layer->k_norm, embed[1]);
	}
	return est_attend_as_is(pass, layer, embed[0], embed[1], v);
}

struct est_tensor est_hunyuan_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	static const struct est_blocks blocks = { est_llama_norm, est_hunyuan_attention, est_gated_mlp };

	return est_pre_norm_layer(pass, layer, x, &blocks);
}
