/* Gemma4TextDecoderLayer: layers that attend in full have heads of their own width; a mixture of experts may stand
 * beside the MLP. modeling_gemma4.py. */
#include "estimator/gemma4.h"

#include "estimator/architecture.h"
#include "estimator/per_layer_inputs.h"
#include "estimator/routers.h"

/* ---- norms */

/* Gemma4RMSNorm.forward; norm NULL: with_scale=False, of rows of width */
static struct est_tensor normed(struct est_pass *pass, const struct est_norm_weights *norm, uint64_t width,
				struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor x32 = est_hold(est_to(tape, est_hold(x), EST_32BIT)), mean_squared, y, scaled;

	mean_squared = est_hold(est_add_scalar(tape, est_mean(tape, est_pow(tape, x32), x.numel / width)));
	y = est_hold(est_mul(tape, x32, est_pow(tape, mean_squared)));
	est_drop(tape, mean_squared);
	est_drop(tape, x32);
	if (norm) {
		scaled = est_hold(est_mul(tape, y, est_to(tape, est_leaf_tensor(tape, norm->weight), EST_32BIT)));
		est_drop(tape, y);
		y = scaled;
	}
	scaled = est_to(tape, y, x.element);
	est_drop(tape, y);
	est_finish(tape, x);
	return scaled;
}

static struct est_tensor norm_forward(struct est_pass *pass, const struct est_norm_weights *norm, struct est_tensor x)
{
	return normed(pass, norm, norm->width, x);
}

struct est_tensor est_gemma4_norm(struct est_pass *pass, const struct est_norm_weights *norm, struct est_tensor x)
{
	return est_call_norm(pass, norm_forward, norm, x);
}

/* x = norm(x) of heads; x, held, moves in; the result is held */
static struct est_tensor norm_heads(struct est_pass *pass, const struct est_norm_weights *norm, struct est_tensor x)
{
	struct est_tensor y = norm ? est_gemma4_norm(pass, norm, x) : normed(pass, NULL, (uint64_t)pass->model->head_dim, x);

	est_drop(pass->tape, x);
	return est_hold(y);
}

/* ---- attention */

/* apply_rotary_pos_emb of one tensor: (x * cos) + (rotate_half(x) * sin); x, held, moves in */
static struct est_tensor rotate(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	const struct est_rope *rope = est_layer_rope(pass, layer);
	struct est_tape *tape = pass->tape;
	struct est_tensor y = est_mul(tape, x, rope->cos);

	y = est_hold(est_add(tape, y, est_mul(tape, est_rotate_half(tape, x), rope->sin)));
	est_drop(tape, x);
	return y;
}

struct est_tensor est_gemma4_heads(struct est_pass *pass, const struct est_layer *layer, const struct est_norm_weights *norm,
				   struct est_tensor x)
{
	return rotate(pass, layer, norm_heads(pass, norm, x));
}

struct est_tensor est_gemma4_values(struct est_pass *pass, const struct est_layer *layer, struct est_tensor v)
{
	return norm_heads(pass, NULL, est_hold(est_heads(pass, layer, v)));
}

static void make_states(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x, struct est_tensor ret[2])
{
	struct est_tape *tape = pass->tape;
	struct est_tensor k = est_linear(tape, &layer->k_proj, x), v;

	/* the rotation's gradient lies as its input did; that of what is only normed as attention leaves it */
	k = est_hold(layer->v_proj.out ? k : est_heads(pass, layer, k));
	if (layer->v_proj.out)
		v = est_hold(est_heads(pass, layer, est_linear(tape, &layer->v_proj, x)));
	else
		v = est_hold(est_alias(tape, k)); /* attention_k_eq_v */
	ret[0] = est_gemma4_heads(pass, layer, &layer->k_norm, k);
	ret[1] = norm_heads(pass, NULL, v);
	est_cache_update(pass, &ret[0], &ret[1]);
}

struct est_tensor est_share_attention(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x,
				      est_states_function *make_own)
{
	struct est_tape *tape = pass->tape;
	struct est_shared_entry *shared = layer->shares == EST_SHARES_NOTHING ? NULL : &tape->states->entries[layer->sliding];
	struct est_tensor q, states[2];

	est_share_begin(tape, false);
	q = est_gemma4_heads(pass, layer, &layer->q_norm, est_hold(est_linear(tape, &layer->q_proj, x)));
	if (layer->shares == EST_REUSES_STATES) {
		states[0] = est_hold(est_alias(tape, shared->key));
		states[1] = est_hold(est_alias(tape, shared->value));
		return est_attend_as_is(pass, layer, q, states[0], states[1]);
	}
	est_share_begin(tape, layer->shares == EST_STORES_STATES);
	make_own(pass, layer, x, states);
	if (shared)
		est_share(tape, shared, states[0], states[1]);
	return est_attend_as_is(pass, layer, q, states[0], states[1]);
}

static struct est_tensor attention(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	return est_share_attention(pass, layer, x, make_states);
}

/* ---- experts */

/* hidden_states * self.scale * self.scalar_root_size of normed tokens, held */
static struct est_tensor scale_tokens(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor tokens = est_hold(normed(pass, NULL, (uint64_t)pass->model->hidden_size, x)), scaled;

	scaled = est_hold(est_mul_scalar(tape, est_mul(tape, tokens, est_leaf_tensor(tape, layer->router_scale))));
	est_drop(tape, tokens);
	return scaled;
}

static void route(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x, struct est_routing *ret)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor tokens = scale_tokens(pass, layer, x), scores = est_hold(est_linear(tape, &layer->router, tokens));
	struct est_tensor weights, scales;

	ret->logits = est_hold(est_softmax(tape, est_to(tape, scores, EST_32BIT)));
	weights = est_choose_evenly(pass, ret->logits, &ret->indices);
	scales = est_gather_rows(tape, est_leaf_tensor(tape, layer->per_expert_scale), ret->indices, ret->indices.numel);
	ret->weights = est_hold(est_mul(tape, weights, scales));
	est_drop(tape, weights);
	est_drop(tape, scores);
	est_drop(tape, tokens);
}

/* post_feedforward_layernorm_1(mlp) + post_feedforward_layernorm_2(experts(pre_feedforward_layernorm_2(residual))),
 * held; mlp, held, moves in. frame: variables to the layer's end */
static struct est_tensor add_experts(struct est_pass *pass, const struct est_layer *layer, struct est_tensor residual,
				     struct est_tensor mlp, struct est_tensor frame[3], struct est_routing *routing)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor y, experts, sum;

	frame[0] = est_hold(est_gemma4_norm(pass, &layer->post_feedforward_layernorm_1, mlp));
	frame[1] = est_hold(est_reshape(tape, est_alias(tape, residual)));
	route(pass, layer, frame[1], routing);
	y = est_hold(est_gemma4_norm(pass, &layer->pre_feedforward_layernorm_2, frame[1]));
	experts = est_grouped_experts(pass, layer, y, routing);
	est_drop(tape, y);
	y = est_hold(est_reshape(tape, experts));
	frame[2] = est_hold(est_gemma4_norm(pass, &layer->post_feedforward_layernorm_2, y));
	est_drop(tape, y);
	sum = est_hold(est_add(tape, frame[0], frame[2]));
	est_drop(tape, mlp);
	return sum;
}

/* ---- the layer */

static const struct est_op scale_op = { "ScaleInPlace", est_backward_one };

/* x *= self.layer_scalar, a buffer, which autograd keeps: x moves in and out */
static struct est_tensor scale_in_place(struct est_tape *tape, const struct est_layer *layer, struct est_tensor x)
{
	struct est_node *node = est_node_new(tape, &scale_op, 1, &x);

	est_save(tape, node, layer->layer_scalar);
	return est_output(tape, node, 0, x);
}

struct est_tensor est_gemma4_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor per_layer_input = tape->second, frame[3] = { { 0 } };
	struct est_tensor y, z, residual;
	struct est_routing routing = { { 0 }, { 0 }, { 0 } };

	est_share_begin(tape, layer->shares == EST_STORES_STATES);
	y = est_hold(est_gemma4_norm(pass, &layer->input_layernorm, x));
	z = est_hold(est_call_attention(pass, layer, attention, y));
	est_drop(tape, y);
	y = est_gemma4_norm(pass, &layer->post_attention_layernorm, z);
	est_drop(tape, z);
	residual = est_hold(est_add(tape, x, y));
	y = est_hold(est_gemma4_norm(pass, &layer->pre_feedforward_layernorm, residual));
	z = est_hold(est_call_mlp(pass, layer, est_gated_mlp, y));
	est_drop(tape, y);
	if (layer->sparse)
		z = add_experts(pass, layer, residual, z, frame, &routing);
	y = est_gemma4_norm(pass, &layer->post_feedforward_layernorm, z);
	est_drop(tape, z);
	y = est_add(tape, residual, y);
	est_drop(tape, residual);
	if (per_layer_input.numel) {
		residual = est_hold(y);
		y = est_add(tape, residual, est_gate_per_layer_input(pass, layer, per_layer_input, residual));
		est_drop(tape, residual);
	}
	y = scale_in_place(tape, layer, y);
	est_drop_all(tape, frame, 3);
	est_routing_drop(tape, &routing);
	return y;
}
