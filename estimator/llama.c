/* LlamaDecoderLayer and those that read alike: Mistral, Qwen2, Qwen3, Granite, Gemma (1). */
#include "estimator/pass.h"

/* x *= sigmoid(gate); both, held, move in, the result is held */
static struct est_tensor gated(struct est_tape *tape, struct est_tensor x, struct est_tensor gate)
{
	struct est_tensor out = est_hold(est_mul(tape, x, est_tanh(tape, gate)));

	est_drop(tape, x);
	return out;
}

struct est_tensor est_attend_gated(struct est_pass *pass, const struct est_layer *layer, struct est_tensor q,
				   struct est_tensor k, struct est_tensor v, struct est_tensor gate)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor embed[2] = { q, k }, out;

	if (layer->rotated) {
		est_rotate(pass, layer, q, k, embed);
		est_drop(tape, q);
		est_drop(tape, k);
		embed[0] = est_scale_query(pass, embed[0]);
	}
	est_cache_update(pass, &embed[1], &v);
	out = est_hold(est_attention(pass, layer, embed[0], embed[1], v));
	if (gate.numel)
		out = gated(tape, out, gate);
	q = est_hold(est_linear(tape, &layer->o_proj, out));
	est_drop(tape, out);
	est_drop(tape, gate);
	out = est_dropout(tape, q, pass->model->residual_dropout);
	est_drop(tape, q);
	est_drop(tape, embed[0]);
	est_drop(tape, embed[1]);
	est_drop(tape, v);
	return out;
}

struct est_tensor est_attend(struct est_pass *pass, const struct est_layer *layer, struct est_tensor q,
			     struct est_tensor k, struct est_tensor v)
{
	return est_attend_gated(pass, layer, q, k, v, est_none);
}

struct est_tensor est_attend_as_is(struct est_pass *pass, const struct est_layer *layer, struct est_tensor q,
				   struct est_tensor k, struct est_tensor v)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor out = est_hold(est_attention(pass, layer, q, k, v)),
		projected = est_linear(tape, &layer->o_proj, out);

	est_drop(tape, out);
	est_drop(tape, q);
	est_drop(tape, k);
	est_drop(tape, v);
	return projected;
}

struct est_tensor est_llama_attention(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor q = est_hold(est_query_heads(pass, layer, est_linear(tape, &layer->q_proj, x)));
	struct est_tensor k = est_hold(est_key_heads(pass, layer, est_linear(tape, &layer->k_proj, x)));
	struct est_tensor v = est_hold(est_heads(pass, layer, est_linear(tape, &layer->v_proj, x)));

	return est_attend(pass, layer, q, k, v);
}

/* OLMo and Qwen2-VL cut their projections into heads after all three are made */
static struct est_tensor projected_attention(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor q = est_linear(tape, &layer->q_proj, x), k = est_linear(tape, &layer->k_proj, x);
	struct est_tensor v = est_linear(tape, &layer->v_proj, x);

	q = est_hold(est_rope_heads(pass, q));
	k = est_hold(est_rope_heads(pass, k));
	v = est_hold(est_heads(pass, layer, v));
	return est_attend(pass, layer, q, k, v);
}

/* q_norm and k_norm on each head, before the transposition */
struct est_tensor est_qwen3_attention(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor q = est_rope_heads(pass, est_linear(tape, &layer->q_proj, x)), k, v;

	q = est_hold(est_llama_norm(pass, &layer->q_norm, q));
	k = est_rope_heads(pass, est_linear(tape, &layer->k_proj, x));
	k = est_hold(est_llama_norm(pass, &layer->k_norm, k));
	v = est_hold(est_heads(pass, layer, est_linear(tape, &layer->v_proj, x)));
	return est_attend(pass, layer, q, k, v);
}

struct est_tensor est_norm_heads(struct est_pass *pass, const struct est_norm_weights *norm, struct est_tensor heads)
{
	struct est_tensor normed = est_hold(est_llama_norm(pass, norm, heads));

	est_drop(pass->tape, heads);
	return normed;
}

/* q_norm and k_norm on each head, after the transposition */
struct est_tensor est_head_norm_attention(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor q = est_hold(est_query_heads(pass, layer, est_linear(tape, &layer->q_proj, x)));
	struct est_tensor k = est_hold(est_key_heads(pass, layer, est_linear(tape, &layer->k_proj, x)));
	struct est_tensor v = est_hold(est_heads(pass, layer, est_linear(tape, &layer->v_proj, x)));

	q = est_norm_heads(pass, &layer->q_norm, q);
	k = est_norm_heads(pass, &layer->k_norm, k);
	return est_attend(pass, layer, q, k, v);
}

/* residual + hidden_states, or, for Granite, residual + hidden_states * self.residual_multiplier */
static struct est_tensor residual_add(struct est_pass *pass, struct est_tensor residual,
				      struct est_tensor hidden_states)
{
	struct est_tensor y = est_hold(hidden_states), out;

	if (pass->model->residual_multiplier != 0)
		out = est_add(pass->tape, residual, est_mul_scalar(pass->tape, y));
	else
		out = est_add(pass->tape, residual, y);
	est_drop(pass->tape, y);
	return out;
}

struct est_tensor est_pre_norm_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x,
				     const struct est_blocks *blocks)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor y = est_hold(blocks->norm(pass, &layer->input_layernorm, x)), residual;

	residual = est_call_attention(pass, layer, blocks->attention, y);
	est_drop(tape, y);
	residual = est_hold(residual_add(pass, x, residual));
	y = est_hold(blocks->norm(pass, &layer->post_attention_layernorm, residual));
	x = est_call_mlp(pass, layer, blocks->mlp, y);
	est_drop(tape, y);
	x = residual_add(pass, residual, x);
	est_drop(tape, residual);
	return x;
}

struct est_tensor est_llama_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	static const struct est_blocks blocks = { est_llama_norm, est_llama_attention, est_gated_mlp };

	return est_pre_norm_layer(pass, layer, x, &blocks);
}

struct est_tensor est_qwen2_vl_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	static const struct est_blocks blocks = { est_llama_norm, projected_attention, est_gated_mlp };

	return est_pre_norm_layer(pass, layer, x, &blocks);
}

struct est_tensor est_qwen3_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	static const struct est_blocks blocks = { est_llama_norm, est_qwen3_attention, est_gated_mlp };

	return est_pre_norm_layer(pass, layer, x, &blocks);
}

struct est_tensor est_gemma_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	static const struct est_blocks blocks = { est_gemma_norm, est_llama_attention, est_gated_mlp };

	return est_pre_norm_layer(pass, layer, x, &blocks);
}

struct est_tensor est_olmo_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	static const struct est_blocks blocks = { est_olmo_norm, projected_attention, est_gated_mlp };

	return est_pre_norm_layer(pass, layer, x, &blocks);
}

struct est_tensor est_starcoder2_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	static const struct est_blocks blocks = { est_torch_layer_norm, est_llama_attention, est_dropped_mlp };

	return est_pre_norm_layer(pass, layer, x, &blocks);
}

struct est_tensor est_glm_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	static const struct est_blocks blocks = { est_llama_norm, est_llama_attention, est_fused_mlp };

	return est_pre_norm_layer(pass, layer, x, &blocks);
}

struct est_tensor est_glm4_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	static const struct est_blocks blocks = { est_llama_norm, est_llama_attention, est_fused_mlp };

	return est_sandwich_layer(pass, layer, x, &blocks);
}

struct est_tensor est_exaone4_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	static const struct est_blocks blocks = { est_llama_norm, est_head_norm_attention, est_gated_mlp };

	return est_post_norm_layer(pass, layer, x, &blocks);
}

struct est_tensor est_helium_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	static const struct est_blocks blocks = { est_olmo2_norm, est_llama_attention, est_gated_mlp };

	return est_pre_norm_layer(pass, layer, x, &blocks);
}

struct est_tensor est_apertus_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	static const struct est_blocks blocks = { est_llama_norm, est_head_norm_attention, est_xielu_mlp };

	return est_pre_norm_layer(pass, layer, x, &blocks);
}
