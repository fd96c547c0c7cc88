/* Layers with Mamba-2's mixer other than Granite's and Nemotron-H's: Bamba, Falcon-H1, and Mamba-2 by itself. */
#include "estimator/pass.h"

/* ---- BambaDecoderLayer: the mixer or attention, then an MLP */

static struct est_tensor bamba_mixer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	return layer->kind == EST_LAYER_MIXES ? est_mamba2_mixer(pass, layer, x) : est_llama_attention(pass, layer, x);
}

struct est_tensor est_bamba_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	static const struct est_blocks blocks = { est_llama_norm, bamba_mixer, est_gated_mlp };

	return est_pre_norm_layer(pass, layer, x, &blocks);
}

/* ---- FalconH1DecoderLayer: the mixer and attention side by side, and multipliers everywhere */

/* x * multiplier; x, held, moves in, the result is held */
static struct est_tensor multiplied(struct est_tape *tape, struct est_tensor x)
{
	struct est_tensor y = est_hold(est_mul_scalar(tape, x));

	est_drop(tape, x);
	return y;
}

/* key_states * key_multiplier before the rotary embedding */
static struct est_tensor falcon_h1_attention(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor q = est_hold(est_query_heads(pass, layer, est_linear(tape, &layer->q_proj, x)));
	struct est_tensor k = est_hold(est_mul_scalar(tape, est_key_heads(pass, layer, est_linear(tape, &layer->k_proj, x))));
	struct est_tensor v = est_hold(est_heads(pass, layer, est_linear(tape, &layer->v_proj, x)));

	return est_attend(pass, layer, q, k, v);
}

/* down_proj(up_proj(x) * act(gate_proj(x) * gate_multiplier)) * down_multiplier; x is borrowed */
static struct est_tensor falcon_h1_mlp(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor up = est_linear(tape, &layer->up_proj, x),
		gate = est_mul_scalar(tape, est_linear(tape, &layer->gate_proj, x)), y;

	y = est_hold(est_mul(tape, up, est_activate(pass, gate)));
	x = est_mul_scalar(tape, est_linear(tape, &layer->down_proj, y));
	est_drop(tape, y);
	return x;
}

struct est_tensor est_falcon_h1_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor y = est_hold(est_llama_norm(pass, &layer->input_layernorm, x)), in, mixed, attended, residual;

	mixed = multiplied(tape, est_hold(est_mamba2_mixer(pass, layer, y)));
	in = est_hold(est_mul_scalar(tape, y)); /* * attention_in_multiplier */
	attended = est_hold(falcon_h1_attention(pass, layer, in));
	est_drop(tape, in);
	attended = multiplied(tape, attended);
	in = est_hold(est_add(tape, mixed, attended));
	est_drop(tape, y);
	residual = est_hold(est_add(tape, x, in));
	est_drop(tape, in);
	y = est_hold(est_llama_norm(pass, &layer->post_attention_layernorm, residual));
	in = est_hold(falcon_h1_mlp(pass, layer, y));
	est_drop(tape, y);
	x = est_add(tape, residual, in);
	est_drop(tape, in);
	est_drop(tape, residual);
	est_drop(tape, attended);
	est_drop(tape, mixed);
	return x;
}

/* ---- Mamba2Block: residual.float() + mixer(norm(x.to(norm.weight.dtype))) */

struct est_tensor est_mamba2_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	uint8_t element = est_leaf_tensor(tape, layer->input_layernorm.weight).element;
	struct est_tensor y = est_hold(est_llama_norm(pass, &layer->input_layernorm, est_to(tape, x, element))),
		residual, mixed;

	residual = est_hold(est_to(tape, x, pass->model->residual_in_fp32 ? EST_32BIT : x.element));
	mixed = est_hold(est_mamba2_mixer(pass, layer, y));
	est_drop(tape, y);
	x = est_add(tape, residual, mixed);
	est_drop(tape, mixed);
	est_drop(tape, residual);
	return x;
}
