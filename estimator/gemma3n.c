/* Gemma3nTextDecoderLayer. modeling_gemma3n.py. */
#include "estimator/altup.h"
#include "estimator/gemma4.h"
#include "estimator/per_layer_inputs.h"

static void make_states(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x, struct est_tensor ret[2])
{
	struct est_tape *tape = pass->tape;

	ret[0] = est_gemma4_heads(pass, layer, &layer->k_norm, est_hold(est_linear(tape, &layer->k_proj, x)));
	ret[1] = est_gemma4_values(pass, layer, est_linear(tape, &layer->v_proj, x));
}

static struct est_tensor attention(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	return est_share_attention(pass, layer, x, make_states);
}

/* ---- the MLP */

/* input and result are kept: (x - mean) * grad / std */
static void backward_std(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	struct est_tensor centred = est_grad_for(tape, node, 0, node->grad[0].element);

	ret[0] = est_grad_for(tape, node, 0, node->grad[0].element);
	est_drop(tape, centred);
}
static const struct est_op std_op = { "Std", backward_std };

/* _gaussian_topk: relu(x - (mean + std * quantile)); x, held, moves in, the result is held */
static struct est_tensor keep_largest(struct est_pass *pass, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor mean = est_hold(est_mean(tape, x, pass->tokens)), std, cutoff, out;

	std = est_hold(est_unary(tape, &std_op, x, true, true, pass->tokens));
	cutoff = est_hold(est_add(tape, mean, est_mul_scalar(tape, std)));
	out = est_hold(est_relu(tape, est_sub(tape, x, cutoff)));
	est_drop(tape, mean);
	est_drop(tape, std);
	est_drop(tape, cutoff);
	est_drop(tape, x);
	return out;
}

static struct est_tensor mlp(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor gate = est_hold(est_linear(tape, &layer->gate_proj, x)), activations, up, down;

	if (layer->sparse_mlp)
		gate = keep_largest(pass, gate);
	activations = est_hold(est_activate(pass, gate));
	up = est_hold(est_linear(tape, &layer->up_proj, x));
	down = est_linear(tape, &layer->down_proj, est_mul(tape, activations, up));
	est_drop(tape, up);
	est_drop(tape, activations);
	est_drop(tape, gate);
	return down;
}

/* x + post_laurel_norm(linear_right(linear_left(x))), held; x is borrowed */
static struct est_tensor augment(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor y = est_hold(est_linear(tape, &layer->laurel.linear_left, x)), z;

	z = est_hold(est_linear(tape, &layer->laurel.linear_right, y));
	est_drop(tape, y);
	y = est_hold(est_gemma4_norm(pass, &layer->laurel.post_laurel_norm, z));
	x = est_hold(est_add(tape, x, y));
	est_drop(tape, z);
	est_drop(tape, y);
	return x;
}

/* ---- the layer */

/* corrected[0], scaled, through the gate of this layer's input */
static struct est_tensor first_prediction(struct est_pass *pass, const struct est_layer *layer, struct est_tensor per_layer_input,
					  struct est_tensor corrected)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor stream = est_altup_stream(pass, corrected), y = est_hold(est_contiguous(tape, stream)), z;
	struct est_tensor scale = est_leaf_tensor(tape, layer->altup.correct_output_scale);

	est_drop(tape, stream);
	z = est_mul(tape, est_to(tape, y, scale.element), scale);
	z = est_to(tape, z, y.element);
	est_drop(tape, y);
	return est_gate_per_layer_input(pass, layer, per_layer_input, z);
}

struct est_tensor est_gemma3n_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	enum { PREDICTIONS, ACTIVE, NORMED, LAUREL, ATTENTION, GATED, ATTN_LAUREL, ATTN_NORM, FFW, FFW_NORM, FFW_LAUREL, FRAME };
	struct est_tape *tape = pass->tape;
	struct est_tensor per_layer_input = tape->second, frame[FRAME], y;

	est_share_begin(tape, layer->shares == EST_STORES_STATES);
	frame[PREDICTIONS] = est_altup_predict(pass, layer, x);
	frame[ACTIVE] = est_altup_stream(pass, frame[PREDICTIONS]);
	frame[NORMED] = est_hold(est_gemma4_norm(pass, &layer->input_layernorm, frame[ACTIVE]));
	est_share_begin(tape, false);
	frame[LAUREL] = augment(pass, layer, frame[NORMED]);
	y = est_hold(est_call_attention(pass, layer, attention, frame[NORMED]));
	frame[ATTENTION] = est_hold(est_gemma4_norm(pass, &layer->post_attention_layernorm, y));
	est_drop(tape, y);
	frame[GATED] = est_hold(est_add(tape, frame[ACTIVE], frame[ATTENTION]));
	frame[ATTN_LAUREL] = est_hold(est_mul_scalar(tape, est_add(tape, frame[GATED], frame[LAUREL])));
	frame[ATTN_NORM] = est_hold(est_gemma4_norm(pass, &layer->pre_feedforward_layernorm, frame[ATTN_LAUREL]));
	frame[FFW] = est_hold(est_call_mlp(pass, layer, mlp, frame[ATTN_NORM]));
	frame[FFW_NORM] = est_hold(est_gemma4_norm(pass, &layer->post_feedforward_layernorm, frame[FFW]));
	frame[FFW_LAUREL] = est_hold(est_add(tape, frame[ATTN_LAUREL], frame[FFW_NORM]));
	y = est_altup_correct(pass, layer, frame[PREDICTIONS], frame[FFW_LAUREL]);
	y = est_altup_add(pass, y, first_prediction(pass, layer, per_layer_input, y));
	est_drop_all(tape, frame, FRAME);
	y.temporary = true;
	return y;
}
