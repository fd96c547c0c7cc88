/* KimiLinearDeltaAttention of modeling_kimi_linear.py, what is around its rule: a convolution of q, k and v, the gate that says what is
 * forgotten, and one for what comes out. */
#include "estimator/chunks.h"
#include "estimator/kernels.h"
#include "estimator/kimi_delta.h"

/* KimiLinearForgetGate: -exp(A_log) * softplus(f_b_proj(f_a_proj(x)) + dt_bias), the softplus by hand; held */
static struct est_tensor forget_gate(struct est_tape *tape, const struct est_mixer *mixer, struct est_tensor x)
{
	struct est_tensor gate = est_hold(est_linear(tape, &mixer->f_b_proj, est_linear(tape, &mixer->f_a_proj, x)));
	struct est_tensor g, a_log, rate, is_large, softplus, out;

	g = est_to(tape, gate, EST_32BIT);
	g = est_hold(est_add(tape, g, est_to(tape, est_leaf_tensor(tape, mixer->dt_bias), EST_32BIT)));
	a_log = est_hold(est_to(tape, est_leaf_tensor(tape, mixer->a_log), EST_32BIT));
	rate = est_hold(est_exp(tape, a_log));
	is_large = est_empty(tape, g.numel, EST_BYTE);
	softplus = est_hold(est_where_both(tape, is_large, g, est_log(tape, est_add_scalar(tape, est_exp(tape, g)))));
	out = est_hold(est_mul(tape, est_neg(tape, rate), softplus));
	est_drop(tape, softplus);
	est_drop(tape, rate);
	est_drop(tape, a_log);
	est_drop(tape, g);
	est_drop(tape, gate);
	return out;
}

/* KimiLinearRMSNormGated of each head, in fp32 to its end: weight * norm(x) * sigmoid(gate). x and gate are borrowed */
static struct est_tensor gated_norm(struct est_tape *tape, const struct est_norm_weights *norm, struct est_tensor x, struct est_tensor gate)
{
	struct est_tensor x32 = est_hold(est_to(tape, x, EST_32BIT)), variance, y, out;

	y = est_hold(est_normalized(tape, x32, &variance, x.numel / norm->width));
	est_drop(tape, x32);
	out = est_hold(est_mul(tape, est_to(tape, est_leaf_tensor(tape, norm->weight), EST_32BIT), y));
	est_drop(tape, y);
	y = est_hold(est_mul(tape, out, est_tanh(tape, est_to(tape, gate, EST_32BIT)))); /* sigmoid */
	est_drop(tape, out);
	out = est_to(tape, y, x.element);
	est_drop(tape, y);
	est_drop(tape, variance);
	return out;
}

/* q, k and v side by side through the convolution, and what comes out (the result) as heads of each (ret), all held */
static struct est_tensor convolve(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x, struct est_tensor ret[3])
{
	struct est_tape *tape = pass->tape;
	const struct est_linear *projections[3] = { &layer->q_proj, &layer->k_proj, &layer->v_proj };
	bool permutes = pass->model->linear_num_value_heads > 1 && !pass->request->versions.flash_linear_attention;
	struct est_tensor in[3], mixed, convolved;
	uint64_t width;

	for (unsigned i = 0; i < 3; i++)
		in[i] = est_linear(tape, projections[i], x);
	width = in[0].numel;
	mixed = est_hold(est_cat_of(tape, 3, in));
	convolved = est_hold(est_causal_conv(pass, &layer->mixer, mixed, true));
	est_drop(tape, mixed);
	mixed = est_hold(est_slice(tape, est_give_up(convolved), convolved.numel)); /* mixed_qkv[:, :, -seq_len:] */
	est_split(tape, mixed, 3, (const uint64_t[]){ width, width, width }, ret);
	for (unsigned i = 0; i < 3; i++)
		ret[i] = est_hold(permutes ? est_view_as_heads(tape, ret[i]) : ret[i]);
	return mixed;
}

struct est_tensor est_kimi_delta_attention(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	const struct est_mixer *mixer = &layer->mixer;
	struct est_tape *tape = pass->tape;
	struct est_tensor input = est_hold(est_without_padding(pass, est_alias(tape, x))), qkv[3], mixed, g, beta, core, gate, out;

	mixed = convolve(pass, layer, input, qkv);
	g = forget_gate(tape, mixer, input);
	beta = est_hold(est_tanh(tape, est_linear(tape, &mixer->b_proj, input))); /* sigmoid */
	core = pass->request->versions.flash_linear_attention ? est_hold(est_kernel_kimi_delta(pass, qkv, g, beta))
							      : est_chunk_kimi_delta(pass, qkv, beta, g);
	gate = est_hold(est_linear(tape, &mixer->g_b_proj, est_linear(tape, &mixer->g_a_proj, input)));
	out = est_hold(gated_norm(tape, &mixer->norm, core, gate));
	x = est_linear(tape, &layer->o_proj, out);
	est_drop(tape, out);
	est_drop(tape, mixed);
	est_drop_all(tape, qkv, 3);
	est_drop(tape, g);
	est_drop(tape, beta);
	est_drop(tape, core);
	est_drop(tape, gate);
	est_drop(tape, input);
	return x;
}
