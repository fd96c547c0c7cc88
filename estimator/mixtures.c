/* Decoder layers with a mixture of experts: Mixtral, Qwen, OLMoE, DeepSeek, GLM, dots1. */
#include "estimator/routers.h"

/* ---- blocks in the place of the MLP; x is borrowed */

struct est_tensor est_routed(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x,
			     est_router *route)
{
	struct est_tensor tokens = est_hold(est_reshape(pass->tape, est_alias(pass->tape, x)));
	struct est_routing routing;

	est_call_router(pass, layer, route, tokens, &routing);
	x = est_grouped_experts(pass, layer, tokens, &routing);
	est_routing_drop(pass->tape, &routing);
	est_drop(pass->tape, tokens);
	return x;
}

static struct est_tensor softmax_mixture(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	return layer->sparse ? est_routed(pass, layer, x, est_route_softmax) : est_gated_mlp(pass, layer, x);
}

/* hidden_states, _ = self.mlp(hidden_states): what the router gives takes the place of attention's weights in the
 * layer's frame */
static void hold_in_frame(struct est_pass *pass, struct est_tensor given)
{
	est_drop(pass->tape, pass->attn_weights);
	pass->attn_weights = est_hold(est_alias(pass->tape, given));
}

/* Mixtral of Transformers 4 */
static struct est_tensor looped(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tensor tokens = est_hold(est_reshape(pass->tape, est_alias(pass->tape, x)));
	struct est_routing routing;

	est_route_linear(pass, layer, tokens, &routing);
	x = est_looped_experts(pass, layer, tokens, &routing);
	hold_in_frame(pass, routing.logits);
	est_routing_drop(pass->tape, &routing);
	est_drop(pass->tape, tokens);
	return x;
}

static struct est_tensor mixtral_mixture(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	return layer->experts.apart ? looped(pass, layer, x) : est_routed(pass, layer, x, est_route_softmax);
}

/* Qwen2-MoE: the shared expert first, its output weighted by a gate last */
struct est_tensor est_qwen2_mixture(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor tokens, shared, weighted, out;
	struct est_routing routing;

	if (!layer->sparse)
		return est_gated_mlp(pass, layer, x);
	tokens = est_hold(est_reshape(tape, est_alias(tape, x)));
	shared = est_hold(est_gated_mlp(pass, layer, tokens));
	est_call_router(pass, layer, est_route_softmax, tokens, &routing);
	out = est_hold(est_grouped_experts(pass, layer, tokens, &routing));
	weighted = est_tanh(tape, est_linear(tape, &layer->shared_expert_gate, tokens)); /* sigmoid */
	weighted = est_hold(est_mul(tape, weighted, shared));
	est_drop(tape, shared);
	x = est_add(tape, out, weighted);
	est_drop(tape, out);
	est_drop(tape, weighted);
	est_routing_drop(tape, &routing);
	est_drop(tape, tokens);
	return x;
}

/* ERNIE 4.5: the shared experts first, added last */
static struct est_tensor ernie4_5_mixture(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor tokens, shared = est_none, out, sum;
	struct est_routing routing;

	if (!layer->sparse)
		return est_gated_mlp(pass, layer, x);
	tokens = est_hold(est_reshape(tape, est_alias(tape, x)));
	if (layer->gate_proj.out)
		shared = est_hold(est_gated_mlp(pass, layer, tokens));
	est_call_router(pass, layer, est_route_ernie4_5, tokens, &routing);
	out = est_hold(est_grouped_experts(pass, layer, tokens, &routing));
	sum = shared.numel ? est_add(tape, out, shared) : est_alias(tape, out);
	est_drop(tape, out);
	est_drop(tape, shared);
	est_routing_drop(tape, &routing);
	est_drop(tape, tokens);
	return sum;
}

/* HunYuan: the shared expert first, added last */
static struct est_tensor hunyuan_mixture(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor shared = est_hold(est_gated_mlp(pass, layer, x)), tokens, out, sum;
	struct est_routing routing;

	tokens = est_hold(est_reshape(tape, est_alias(tape, x)));
	est_route_hunyuan(pass, layer, tokens, &routing);
	out = est_hold(est_reshape(tape, est_grouped_experts(pass, layer, tokens, &routing)));
	sum = est_add(tape, out, shared);
	est_drop(tape, out);
	est_drop(tape, shared);
	est_routing_drop(tape, &routing);
	est_drop(tape, tokens);
	return sum;
}

/* x = projection(x), where there is one; x, held, moves in, the result is held */
static struct est_tensor project(struct est_pass *pass, const struct est_linear *projection, struct est_tensor x)
{
	struct est_tensor y;

	if (!projection->out)
		return x;
	y = est_hold(est_linear(pass->tape, projection, x));
	est_drop(pass->tape, x);
	return y;
}

/* DeepSeek: experts(x) + shared_experts(x) */
static struct est_tensor shared_mixture(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x,
					est_router *route)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor tokens, out, sum;
	struct est_routing routing;

	if (!layer->sparse)
		return est_gated_mlp(pass, layer, x);
	est_call_router(pass, layer, route, x, &routing);
	tokens = project(pass, &layer->fc1_latent_proj, est_hold(est_reshape(tape, est_alias(tape, x))));
	out = est_hold(est_grouped_experts(pass, layer, tokens, &routing));
	est_drop(tape, tokens);
	tokens = project(pass, &layer->fc2_latent_proj, out);
	out = est_hold(est_reshape(tape, est_alias(tape, tokens)));
	est_drop(tape, tokens);
	sum = layer->down_proj.out ? est_add(tape, out, pass->model->gated_mlp ? est_gated_mlp(pass, layer, x)
									       : est_plain_mlp(pass, layer, x))
				   : est_alias(tape, out);
	est_drop(tape, out);
	est_routing_drop(tape, &routing);
	return sum;
}

static struct est_tensor deepseek_v2_mixture(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	return shared_mixture(pass, layer, x, est_route_deepseek_v2);
}

static struct est_tensor deepseek_v3_mixture(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	return shared_mixture(pass, layer, x, est_route_deepseek_v3);
}

static struct est_tensor minimax_m2_mixture(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	return est_routed(pass, layer, x, est_route_minimax_m2);
}

/* output_linear(act(first half) * second half) of one input_linear: Granite's MLP, alone or beside its experts */
static struct est_tensor granite_mlp(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor both = est_hold(est_linear(tape, &layer->gate_up_proj, x)), half[2], gated;

	est_split(tape, both, 2, (const uint64_t[]){ both.numel / 2, both.numel / 2 }, half);
	est_drop(tape, both);
	for (unsigned i = 0; i < 2; i++) /* variables to the end */
		half[i] = est_hold(half[i]);
	gated = est_hold(est_mul(tape, est_activate(pass, half[0]), half[1]));
	x = est_linear(tape, &layer->down_proj, gated);
	est_drop(tape, gated);
	est_drop(tape, half[0]);
	est_drop(tape, half[1]);
	return x;
}

static struct est_tensor granite_mixture(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor moe_hidden_states;

	if (!layer->sparse)
		return granite_mlp(pass, layer, x);
	moe_hidden_states = est_routed(pass, layer, x, est_route_granite);
	if (!layer->gate_up_proj.out)
		return moe_hidden_states;
	pass->frame = est_hold(est_reshape(tape, moe_hidden_states));
	return est_add(tape, pass->frame, granite_mlp(pass, layer, x));
}

static struct est_tensor gpt_oss_mixture(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tensor tokens = est_hold(est_reshape(pass->tape, est_alias(pass->tape, x)));
	struct est_routing routing;

	est_route_gpt_oss(pass, layer, tokens, &routing);
	x = est_grouped_experts(pass, layer, tokens, &routing);
	hold_in_frame(pass, routing.weights);
	est_routing_drop(pass->tape, &routing);
	est_drop(pass->tape, tokens);
	return x;
}

/* Nemotron-H: norm(x) into the layer's only block, and a residual */
static struct est_tensor nemotron_block(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	switch (layer->kind) {
	case EST_LAYER_MIXES:
		return est_mamba2_mixer(pass, layer, x);
	case EST_LAYER_FEEDS:
		return est_plain_mlp(pass, layer, x);
	case EST_LAYER_ROUTES:
		return deepseek_v3_mixture(pass, layer, x);
	case EST_LAYER_ATTENDS:
		break;
	}
	return est_llama_attention(pass, layer, x);
}

struct est_tensor est_nemotron_h_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor y = est_hold(est_olmo2_norm(pass, &layer->input_layernorm, x)), out;

	out = est_hold(nemotron_block(pass, layer, y));
	est_drop(tape, y);
	y = est_add(tape, x, out);
	est_drop(tape, out);
	return y;
}

/* ---- attention */

/* OLMoE: q_norm and k_norm over all heads */
static struct est_tensor olmoe_attention(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor q = est_hold(est_llama_norm(pass, &layer->q_norm, est_linear(tape, &layer->q_proj, x)));
	struct est_tensor k = est_hold(est_llama_norm(pass, &layer->k_norm, est_linear(tape, &layer->k_proj, x)));
	struct est_tensor v = est_linear(tape, &layer->v_proj, x), in[2] = { q, k };

	for (unsigned i = 0; i < 2; i++) {
		in[i] = est_hold(est_rope_heads(pass, est_alias(tape, in[i])));
		est_drop(tape, i == 0 ? q : k);
	}
	return est_attend(pass, layer, in[0], in[1], est_hold(est_heads(pass, layer, v)));
}

/* GLM-4-MoE projects q, k and v before its norms of heads, if it has them */
static struct est_tensor glm4_attention(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor q = est_rope_heads(pass, est_linear(tape, &layer->q_proj, x));
	struct est_tensor k = est_rope_heads(pass, est_linear(tape, &layer->k_proj, x));
	struct est_tensor v = est_heads(pass, layer, est_linear(tape, &layer->v_proj, x));

	if (pass->model->qk_norm != EST_QK_NORM_NONE) {
		q = est_llama_norm(pass, &layer->q_norm, q);
		k = est_llama_norm(pass, &layer->k_norm, k);
	}
	return est_attend(pass, layer, est_hold(q), est_hold(k), est_hold(v));
}

/* Granite 4.0 H: Mamba-2 in most layers */
static struct est_tensor granite_mixer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	return layer->kind == EST_LAYER_MIXES ? est_mamba2_mixer(pass, layer, x) : est_llama_attention(pass, layer, x);
}

/* Kimi-Linear: its delta rule in most layers, latent attention without positions in the others */
static struct est_tensor kimi_mixer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	return layer->kind == EST_LAYER_MIXES ? est_kimi_delta_attention(pass, layer, x) : est_unrotated_latent_attention(pass, layer, x);
}

/* ---- layers */

#define LAYER_OF(name, frame, norm, attention, mlp)                                                                    \
	struct est_tensor name(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)              \
	{                                                                                                              \
		static const struct est_blocks blocks = { norm, attention, mlp };                                      \
                                                                                                                       \
		return frame(pass, layer, x, &blocks);                                                                 \
	}
#define LAYER(name, norm, attention, mlp) LAYER_OF(name, est_pre_norm_layer, norm, attention, mlp)
#define POST_NORM_LAYER(name, norm, attention, mlp) LAYER_OF(name, est_post_norm_layer, norm, attention, mlp)

LAYER(est_mixtral_layer, est_llama_norm, est_llama_attention, mixtral_mixture)
LAYER(est_qwen2_moe_layer, est_llama_norm, est_llama_attention, est_qwen2_mixture)
LAYER(est_qwen3_moe_layer, est_llama_norm, est_qwen3_attention, softmax_mixture)
LAYER(est_olmoe_layer, est_llama_norm, olmoe_attention, softmax_mixture)
POST_NORM_LAYER(est_flex_olmo_layer, est_olmo2_norm, est_olmo2_attention, softmax_mixture)
LAYER(est_deepseek_v2_layer, est_llama_norm, est_latent_attention, deepseek_v2_mixture)
LAYER(est_deepseek_v3_layer, est_llama_norm, est_latent_attention, deepseek_v3_mixture)
LAYER(est_kimi_linear_layer, est_llama_norm, kimi_mixer, deepseek_v3_mixture)
LAYER(est_glm4_moe_layer, est_llama_norm, glm4_attention, deepseek_v3_mixture)
LAYER(est_solar_open_layer, est_llama_norm, est_llama_attention, deepseek_v3_mixture)
LAYER(est_dots1_layer, est_llama_norm, est_qwen3_attention, deepseek_v3_mixture)
LAYER(est_exaone_moe_layer, est_llama_norm, est_head_norm_attention, deepseek_v3_mixture)
LAYER(est_minimax_m2_layer, est_llama_norm, olmoe_attention, minimax_m2_mixture)
LAYER(est_ernie4_5_moe_layer, est_llama_norm, est_llama_attention, ernie4_5_mixture)
LAYER(est_hunyuan_moe_layer, est_llama_norm, est_hunyuan_attention, hunyuan_mixture)
LAYER(est_granite_moe_layer, est_llama_norm, granite_mixer, granite_mixture)
LAYER(est_gpt_oss_layer, est_olmo2_norm, est_gpt_oss_attention, gpt_oss_mixture)
