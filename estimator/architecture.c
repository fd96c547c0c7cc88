#include <assert.h>
#include <stddef.h>
#include "estimator/architecture.h"

/* A linear layer under Llama's name, and under another. */
#define LINEAR(module, in, out, bias) NAMED(module, #module, in, out, bias)
#define NAMED(module, name, in, out, bias) \
	{ offsetof(struct est_layer, module), false, EST_WIDTH_##in, EST_WIDTH_##out, EST_BIAS_##bias, name }
#define NORM(module, width) { offsetof(struct est_layer, module), true, EST_WIDTH_##width, EST_WIDTH_##width, EST_BIAS_NONE, #module }
#define END { SIZE_MAX, false, EST_WIDTH_HIDDEN, EST_WIDTH_HIDDEN, EST_BIAS_NONE, NULL }

/* clang-format off */
static const struct est_module llama[] = {
	LINEAR(q_proj, HIDDEN, QUERY, QKV), LINEAR(k_proj, HIDDEN, KEY, QKV), LINEAR(v_proj, HIDDEN, KEY, QKV),
	LINEAR(o_proj, QUERY, HIDDEN, O),
	LINEAR(gate_proj, HIDDEN, MLP, MLP), LINEAR(up_proj, HIDDEN, MLP, MLP), LINEAR(down_proj, MLP, HIDDEN, MLP),
	NORM(input_layernorm, HIDDEN), NORM(post_attention_layernorm, HIDDEN), END
};
static const struct est_module qwen3[] = {
	LINEAR(q_proj, HIDDEN, QUERY, QKV), LINEAR(k_proj, HIDDEN, KEY, QKV), LINEAR(v_proj, HIDDEN, KEY, QKV),
	LINEAR(o_proj, QUERY, HIDDEN, O), NORM(q_norm, HEAD), NORM(k_norm, HEAD),
	LINEAR(gate_proj, HIDDEN, MLP, MLP), LINEAR(up_proj, HIDDEN, MLP, MLP), LINEAR(down_proj, MLP, HIDDEN, MLP),
	NORM(input_layernorm, HIDDEN), NORM(post_attention_layernorm, HIDDEN), END
};
static const struct est_module gemma2[] = {
	LINEAR(q_proj, HIDDEN, QUERY, QKV), LINEAR(k_proj, HIDDEN, KEY, QKV), LINEAR(v_proj, HIDDEN, KEY, QKV),
	LINEAR(o_proj, QUERY, HIDDEN, O),
	LINEAR(gate_proj, HIDDEN, MLP, MLP), LINEAR(up_proj, HIDDEN, MLP, MLP), LINEAR(down_proj, MLP, HIDDEN, MLP),
	NORM(input_layernorm, HIDDEN), NORM(post_attention_layernorm, HIDDEN),
	NORM(pre_feedforward_layernorm, HIDDEN), NORM(post_feedforward_layernorm, HIDDEN), END
};
static const struct est_module gemma3[] = {
	LINEAR(q_proj, HIDDEN, QUERY, QKV), LINEAR(k_proj, HIDDEN, KEY, QKV), LINEAR(v_proj, HIDDEN, KEY, QKV),
	LINEAR(o_proj, QUERY, HIDDEN, O), NORM(q_norm, HEAD), NORM(k_norm, HEAD),
	LINEAR(gate_proj, HIDDEN, MLP, MLP), LINEAR(up_proj, HIDDEN, MLP, MLP), LINEAR(down_proj, MLP, HIDDEN, MLP),
	NORM(input_layernorm, HIDDEN), NORM(post_attention_layernorm, HIDDEN),
	NORM(pre_feedforward_layernorm, HIDDEN), NORM(post_feedforward_layernorm, HIDDEN), END
};
static const struct est_module phi3[] = {
	LINEAR(o_proj, QUERY, HIDDEN, O), LINEAR(qkv_proj, HIDDEN, QKV, QKV),
	LINEAR(gate_up_proj, HIDDEN, GATE_UP, MLP), LINEAR(down_proj, MLP, HIDDEN, MLP),
	NORM(input_layernorm, HIDDEN), NORM(post_attention_layernorm, HIDDEN), END
};
static const struct est_module olmo2[] = {
	LINEAR(q_proj, HIDDEN, QUERY, QKV), LINEAR(k_proj, HIDDEN, KEY, QKV), LINEAR(v_proj, HIDDEN, KEY, QKV),
	LINEAR(o_proj, QUERY, HIDDEN, O), NORM(q_norm, QUERY), NORM(k_norm, KEY),
	LINEAR(gate_proj, HIDDEN, MLP, MLP), LINEAR(up_proj, HIDDEN, MLP, MLP), LINEAR(down_proj, MLP, HIDDEN, MLP),
	NORM(post_attention_layernorm, HIDDEN), NORM(post_feedforward_layernorm, HIDDEN), END
};
/* ln_1, c_attn, c_proj, ln_2, mlp.c_fc, mlp.c_proj */
static const struct est_module gpt2[] = {
	NORM(input_layernorm, HIDDEN), NAMED(qkv_proj, "c_attn", HIDDEN, QKV, QKV), NAMED(o_proj, "c_proj", QUERY, HIDDEN, O),
	NORM(post_attention_layernorm, HIDDEN),
	NAMED(up_proj, "c_fc", HIDDEN, MLP, MLP), NAMED(down_proj, "c_proj", MLP, HIDDEN, MLP), END
};
/* query_key_value, dense, dense_h_to_4h, dense_4h_to_h */
static const struct est_module gpt_neox[] = {
	NORM(input_layernorm, HIDDEN), NORM(post_attention_layernorm, HIDDEN),
	NAMED(qkv_proj, "query_key_value", HIDDEN, QKV, QKV), NAMED(o_proj, "dense", QUERY, HIDDEN, O),
	NAMED(up_proj, "dense_h_to_4h", HIDDEN, MLP, MLP), NAMED(down_proj, "dense_4h_to_h", MLP, HIDDEN, MLP), END
};
/* k_proj, v_proj, q_proj, out_proj, self_attn_layer_norm, fc1, fc2, final_layer_norm */
static const struct est_module opt[] = {
	LINEAR(k_proj, HIDDEN, KEY, QKV), LINEAR(v_proj, HIDDEN, KEY, QKV), LINEAR(q_proj, HIDDEN, QUERY, QKV),
	NAMED(o_proj, "out_proj", QUERY, HIDDEN, O), NORM(input_layernorm, HIDDEN),
	NAMED(up_proj, "fc1", HIDDEN, MLP, MLP), NAMED(down_proj, "fc2", MLP, HIDDEN, MLP), NORM(post_attention_layernorm, HIDDEN), END
};

static const struct est_architecture_row architectures[] = {
	/*                    modules   layer               final norm            scaled rotary fp32   per type */
	[EST_ARCH_LLAMA]    = { llama, est_llama_layer, est_llama_norm, false, true, false, false },
	[EST_ARCH_QWEN3]    = { qwen3, est_qwen3_layer, est_llama_norm, false, true, false, false },
	[EST_ARCH_GEMMA]    = { llama, est_gemma_layer, est_gemma_norm, true, true, false, false },
	[EST_ARCH_GEMMA2]   = { gemma2, est_gemma2_layer, est_gemma_norm, true, true, false, false },
	[EST_ARCH_GEMMA3]   = { gemma3, est_gemma3_layer, est_gemma_norm, true, true, false, true },
	[EST_ARCH_PHI3]     = { phi3, est_phi3_layer, est_llama_norm, false, true, false, false },
	[EST_ARCH_OLMO]     = { llama, est_olmo_layer, est_olmo_norm, false, true, true, false },
	[EST_ARCH_OLMO2]    = { olmo2, est_olmo2_layer, est_olmo2_norm, false, true, true, true },
	[EST_ARCH_GPT2]     = { gpt2, est_gpt2_layer, est_torch_layer_norm, false, false, false, false },
	[EST_ARCH_GPT_NEOX] = { gpt_neox, est_gpt_neox_layer, est_torch_layer_norm, false, true, false, false },
	[EST_ARCH_OPT]      = { opt, est_opt_layer, est_torch_layer_norm, false, false, false, false },
};
/* clang-format on */

const struct est_architecture_row *est_architecture_row(enum est_architecture architecture)
{
	assert(architecture != EST_ARCH_UNSUPPORTED && architecture < sizeof(architectures) / sizeof(architectures[0]));
	return &architectures[architecture];
}

uint64_t est_width(const struct est_model *model, enum est_width width)
{
	uint64_t head = (uint64_t)model->head_dim;
	uint64_t query = (uint64_t)model->num_attention_heads * head, key = (uint64_t)model->num_key_value_heads * head;

	switch (width) {
	case EST_WIDTH_QUERY:
		return query;
	case EST_WIDTH_KEY:
		return key;
	case EST_WIDTH_QKV:
		return query + 2 * key;
	case EST_WIDTH_MLP:
		return (uint64_t)model->intermediate_size;
	case EST_WIDTH_GATE_UP:
		return 2 * (uint64_t)model->intermediate_size;
	case EST_WIDTH_HEAD:
		return head;
	case EST_WIDTH_HIDDEN:
		break;
	}
	return (uint64_t)model->hidden_size;
}
