/* Llama4TextDecoderLayer: rotated heads that are normed without weights, layers without rotation, and experts that
 * get every token, scaled by its score. modeling_llama4.py. */
#include "estimator/architecture.h"
#include "estimator/attention.h"
#include "estimator/recurrent.h"
#include "estimator/routers.h"

/* ---- norms: _norm(x.float()).type_as(x) */

static struct est_tensor normed(struct est_pass *pass, struct est_tensor x, uint64_t width)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor x32 = est_hold(est_to(tape, est_hold(x), EST_32BIT)), y;

	y = est_mean(tape, est_pow(tape, x32), x.numel / width);
	y = est_mul(tape, x32, est_rsqrt(tape, est_add_scalar(tape, y)));
	est_drop(tape, x32);
	return est_to(tape, y, x.element);
}

static struct est_tensor norm_and_scale(struct est_pass *pass, const struct est_norm_weights *norm, struct est_tensor x)
{
	struct est_tensor output = est_hold(normed(pass, x, norm->width)), y;

	y = est_mul(pass->tape, output, est_leaf_tensor(pass->tape, norm->weight));
	est_drop(pass->tape, output);
	est_finish(pass->tape, x);
	return y;
}

struct est_tensor est_llama4_norm(struct est_pass *pass, const struct est_norm_weights *norm, struct est_tensor x)
{
	return est_call_norm(pass, norm_and_scale, norm, x);
}

static struct est_tensor norm_alone(struct est_pass *pass, const struct est_norm_weights *norm, struct est_tensor x)
{
	struct est_tensor y = normed(pass, x, norm->width);

	est_finish(pass->tape, x);
	return y;
}

struct est_tensor est_l2_norm(struct est_pass *pass, const struct est_norm_weights *norm, struct est_tensor x)
{
	return est_call_norm(pass, norm_alone, norm, x);
}

/* ---- attention */

struct est_tensor est_l2_norm_heads(struct est_pass *pass, struct est_tensor heads)
{
	struct est_tensor y;

	if (!pass->model->l2_qk_norm)
		return heads;
	y = est_hold(normed(pass, heads, (uint64_t)pass->model->head_dim));
	est_drop(pass->tape, heads);
	return y;
}

/* (query_states * attn_scales).to(dtype), by position, where the layer is not rotated; q, held, moves in */
static struct est_tensor tune(struct est_pass *pass, struct est_tensor q)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor scales, tuned;

	if (!pass->model->tunes_temperature)
		return q;
	scales = est_empty_as(tape, pass->sequence, EST_32BIT, EST_BUFFERS);
	for (unsigned i = 0; i < 6; i++)
		scales = est_mul_scalar(tape, scales);
	tuned = est_hold(est_to(tape, est_mul(tape, q, scales), q.element));
	est_drop(tape, q);
	return tuned;
}

static struct est_tensor attention(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor q = est_linear(tape, &layer->q_proj, x), k, v, rotated[2];

	q = est_hold(layer->rotated ? q : est_unrotated_query(pass, layer, q));
	k = est_linear(tape, &layer->k_proj, x);
	k = est_hold(layer->rotated ? k : est_heads(pass, layer, k));
	v = est_hold(est_heads(pass, layer, est_linear(tape, &layer->v_proj, x)));
	if (layer->rotated) {
		est_apply_complex_rope(pass, est_permuted_gradients(pass, layer, q.element), false, q, k, rotated);
		est_drop(tape, q);
		est_drop(tape, k);
		q = est_l2_norm_heads(pass, rotated[0]);
		k = est_l2_norm_heads(pass, rotated[1]);
	} else {
		q = tune(pass, q);
	}
	est_cache_update(pass, &k, &v);
	return est_attend_as_is(pass, layer, q, k, v);
}

/* ---- experts */

/* bmm(up * act(gate), down_proj) of bmm(x, gate_up_proj), held; x is borrowed */
static struct est_tensor run_experts(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	uint64_t half = x.numel / (uint64_t)pass->model->hidden_size * (uint64_t)pass->model->moe_intermediate_size;
	struct est_tensor gate_up = est_hold(est_bmm(tape, x, est_leaf_tensor(tape, layer->experts.gate_up_proj),
						     2 * half)), part[2], next;

	est_split(tape, gate_up, 2, (const uint64_t[]){ half, half }, part);
	part[0] = est_hold(part[0]);
	part[1] = est_hold(part[1]);
	next = est_mul(tape, part[1], est_activate(pass, part[0]));
	next = est_hold(est_bmm(tape, next, est_leaf_tensor(tape, layer->experts.down_proj), x.numel));
	est_drop(tape, part[0]);
	est_drop(tape, part[1]);
	est_drop(tape, gate_up);
	return next;
}

static struct est_tensor mixture(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	uint64_t experts = (uint64_t)pass->model->num_experts;
	struct est_tensor tokens, routed_in, scaled, routed_out, out;
	struct est_routing routing;

	if (!layer->sparse)
		return est_gated_mlp(pass, layer, x);
	tokens = est_hold(est_reshape(tape, est_alias(tape, x)));
	est_route_llama4(pass, layer, tokens, &routing);
	routed_in = est_hold(est_repeat_interleave(tape, tokens, experts));
	scaled = est_hold(est_mul(tape, routed_in, est_permuted_copy(tape, routing.weights)));
	est_drop(tape, routed_in);
	routed_out = run_experts(pass, layer, scaled);
	out = est_gated_mlp(pass, layer, tokens);
	out = est_add_in_place(tape, out, est_sum_of_experts(tape, routed_out, tokens.numel));
	est_drop(tape, routed_out);
	est_drop(tape, scaled);
	est_drop(tape, pass->attn_weights); /* hidden_states, _ = hidden_states */
	pass->attn_weights = est_hold(est_alias(tape, routing.logits));
	est_routing_drop(tape, &routing);
	est_drop(tape, tokens);
	return out;
}

struct est_tensor est_llama4_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor y = est_hold(est_llama4_norm(pass, &layer->input_layernorm, x)), attention_states, residual, out;

	attention_states = est_hold(est_call_attention(pass, layer, attention, y));
	residual = est_hold(est_add(tape, x, attention_states));
	est_drop(tape, y);
	y = est_hold(est_llama4_norm(pass, &layer->post_attention_layernorm, residual));
	out = est_hold(est_call_mlp(pass, layer, mixture, y));
	est_drop(tape, y);
	y = est_add(tape, residual, out);
	est_drop(tape, out);
	est_drop(tape, residual);
	est_drop(tape, attention_states); /* a variable to the end */
	return y;
}
