#include <string.h>
#include "config/families.h"

/* Defaults are those of configuration_*.py, operators those of modeling_*.py, of Transformers 5.23. */
#define GATED(norm_kind, norms, act) GATED_PARTLY(norm_kind, norms, act, 1)
#define GATED_PARTLY(norm_kind, norms, act, rotary) \
	.norm = norm_kind, .norms_per_layer = norms, .final_norm = true, .gated_mlp = true, .activation = act, \
	.position = EST_ROPE, .partial_rotary_factor = rotary, .do_layer_norm_before = true
#define BARE_MLP(norm_kind, norms, positions, act) BARE_MLP_PARTLY(norm_kind, norms, positions, 1, act)
#define BARE_MLP_PARTLY(norm_kind, norms, positions, rotary, act) \
	.norm = norm_kind, .norms_per_layer = norms, .final_norm = true, .activation = act, .position = positions, \
	.partial_rotary_factor = rotary, .do_layer_norm_before = true
#define LAYERNORM_MLP(positions, rotary, act) LAYERNORMS_MLP(2, positions, rotary, act)
#define LAYERNORMS_MLP(norms, positions, rotary, act) \
	.norm = EST_LAYERNORM, .norms_per_layer = norms, .final_norm = true, .activation = act, .position = positions, \
	.partial_rotary_factor = rotary, .do_layer_norm_before = true, .qkv_bias = true, .o_bias = true, \
	.mlp_bias = true

#define QWEN2_VL \
	.architecture = EST_ARCH_QWEN2_VL, GATED(EST_RMSNORM, 2, EST_SILU), .max_position_embeddings = 32768, .qkv_bias = true, \
	.num_key_value_heads = 8, .sliding_window = 4096, .mrope = EST_MROPE_SECTIONS

#define DEEPSEEK (CFG_READS_EXPERTS | CFG_READS_EXPERT_WIDTH | CFG_READS_SHARED_EXPERTS)
#define LATENT_RANKS \
	.kv_lora_rank = 512, .q_lora_rank = 1536, .qk_nope_head_dim = 128, .qk_rope_head_dim = 64, .v_head_dim = 128
#define DEEPSEEK_V3_LAYERS \
	GATED(EST_RMSNORM, 2, EST_SILU), .num_experts = 256, .num_experts_per_tok = 8, .n_shared_experts = 1, \
	.moe_intermediate_size = 2048, .first_k_dense_replace = 3, .norm_topk_prob = true, .router_correction_bias = true, \
	.rope_interleave = true
#define DEEPSEEK_V3 \
	.architecture = EST_ARCH_DEEPSEEK_V3, .max_position_embeddings = 4096, .n_group = 8, .topk_group = 4, DEEPSEEK_V3_LAYERS, \
	LATENT_RANKS

#define GRANITE_MOE \
	.architecture = EST_ARCH_GRANITE_MOE, GATED(EST_RMSNORM, 2, EST_SILU), .max_position_embeddings = 2048, \
	.embedding_multiplier = 1, .residual_multiplier = 1, .logits_scaling = 1

#define LFM2 \
	.architecture = EST_ARCH_LFM2, GATED(EST_RMSNORM, 2, EST_SILU), .max_position_embeddings = 128000, \
	.qk_norm = EST_QK_NORM_HEAD, .tie_word_embeddings = true, .conv_kernel = 3

#define QWEN3_5 DELTA_NET, .architecture = EST_ARCH_QWEN3_5, .mrope = EST_MROPE_INTERLEAVED
#define DELTA_NET \
	GATED_PARTLY(EST_RMSNORM, 2, EST_SILU, 0.25), .max_position_embeddings = 32768, \
	.head_dim = 256, .qk_norm = EST_QK_NORM_HEAD, .gated_attention = true, .conv_kernel = 4, .linear_num_key_heads = 16, \
	.linear_num_value_heads = 32, .linear_key_head_dim = 128, .linear_value_head_dim = 128

#define ENCODER_LAYERS POSITIONED_ENCODER(EST_LEARNED_POSITIONS)
#define POSITIONED_ENCODER(positions) \
	LAYERNORM_MLP(positions, 1, EST_GELU), .tie_word_embeddings = true, .num_labels = 2, \
	.attention_dropout = 0.1, .residual_dropout = 0.1, .embedding_dropout = 0.1, .classifier_dropout = 0.1
#define ENCODER_AND_DECODER \
	.norm = EST_RMSNORM, .norms_per_layer = 2, .final_norm = true, .position = EST_RELATIVE_POSITIONS, \
	.partial_rotary_factor = 1, .do_layer_norm_before = true, .head_dim = 64, .relative_attention_num_buckets = 32, .tie_word_embeddings = true, \
	.attention_dropout = 0.1, .residual_dropout = 0.1

/* clang-format off */
const struct cfg_family cfg_families[] = {
	{ "llama", CFG_READS_GQA | CFG_READS_ATTENTION_BIAS | CFG_READS_MLP_BIAS, .shape = {
		.architecture = EST_ARCH_LLAMA, GATED(EST_RMSNORM, 2, EST_SILU), .max_position_embeddings = 2048 } },
	{ "mllama_text_model", CFG_READS_GQA, .shape = {
		.architecture = EST_ARCH_QWEN2_VL, GATED(EST_RMSNORM, 2, EST_SILU), .max_position_embeddings = 131072,
		.num_key_value_heads = 8 } },
	{ "mistral", CFG_READS_GQA | CFG_READS_WINDOW, .shape = {
		.architecture = EST_ARCH_LLAMA, GATED(EST_RMSNORM, 2, EST_SILU), .max_position_embeddings = 131072,
		.num_key_value_heads = 8, .sliding_window = 4096 } },
	{ "qwen2", CFG_READS_GQA | CFG_READS_WINDOW | CFG_READS_USE_WINDOW | CFG_READS_LAYER_TYPES, .shape = {
		.architecture = EST_ARCH_LLAMA, GATED(EST_RMSNORM, 2, EST_SILU),
		.max_position_embeddings = 32768, .qkv_bias = true,
		.num_key_value_heads = 32, .sliding_window = 4096 } },
	{ "qwen2_vl_text", CFG_READS_GQA | CFG_READS_WINDOW | CFG_READS_USE_WINDOW | CFG_READS_LAYER_TYPES,
	  .shape = { QWEN2_VL } },
	{ "qwen2_5_vl_text", CFG_READS_GQA | CFG_READS_WINDOW | CFG_READS_USE_WINDOW | CFG_READS_LAYER_TYPES,
	  .shape = { QWEN2_VL } },
	{ "granite", CFG_READS_GQA | CFG_READS_ATTENTION_BIAS | CFG_READS_MLP_BIAS | CFG_READS_MULTIPLIERS, .shape = {
		.architecture = EST_ARCH_LLAMA, GATED(EST_RMSNORM, 2, EST_SILU), .max_position_embeddings = 2048,
		.embedding_multiplier = 1, .residual_multiplier = 1, .logits_scaling = 1 } },
	{ "qwen3", CFG_READS_GQA | CFG_READS_ATTENTION_BIAS | CFG_READS_WINDOW | CFG_READS_USE_WINDOW
		| CFG_READS_LAYER_TYPES, .shape = {
		.architecture = EST_ARCH_QWEN3, GATED(EST_RMSNORM, 2, EST_SILU),
		.max_position_embeddings = 32768, .head_dim = 128,
		.qk_norm = EST_QK_NORM_HEAD, .num_key_value_heads = 32, .sliding_window = 4096 } },
	{ "qwen3_vl_text", CFG_READS_GQA | CFG_READS_ATTENTION_BIAS, .shape = {
		.architecture = EST_ARCH_QWEN3, GATED(EST_RMSNORM, 2, EST_SILU), .max_position_embeddings = 128000, .head_dim = 128,
		.qk_norm = EST_QK_NORM_HEAD, .num_key_value_heads = 32, .mrope = EST_MROPE_INTERLEAVED } },
	{ "gemma", CFG_READS_GQA | CFG_READS_ATTENTION_BIAS, .shape = {
		.architecture = EST_ARCH_GEMMA, GATED(EST_RMSNORM, 2, EST_GELU),
		.max_position_embeddings = 8192, .head_dim = 256,
		.num_key_value_heads = 16, .tie_word_embeddings = true } },
	{ "gemma2", CFG_READS_GQA | CFG_READS_ATTENTION_BIAS | CFG_READS_SOFTCAP | CFG_READS_WINDOW
		| CFG_READS_LAYER_TYPES, .shape = {
		.architecture = EST_ARCH_GEMMA2, GATED(EST_RMSNORM, 4, EST_GELU),
		.max_position_embeddings = 8192, .head_dim = 256,
		.num_key_value_heads = 4, .tie_word_embeddings = true,
		.sliding_window = 4096, .full_attention_every = 2, .final_logit_softcapping = 30,
		.attn_logit_softcapping = 50, .refuses_sdpa = true } },
	{ "gemma3_text", CFG_READS_GQA | CFG_READS_ATTENTION_BIAS | CFG_READS_SOFTCAP | CFG_READS_WINDOW
		| CFG_READS_LAYER_TYPES, .shape = {
		.architecture = EST_ARCH_GEMMA3, GATED(EST_RMSNORM, 4, EST_GELU),
		.max_position_embeddings = 131072, .head_dim = 256,
		.num_key_value_heads = 4, .tie_word_embeddings = true,
		.qk_norm = EST_QK_NORM_HEAD, .sliding_window = 4096, .full_attention_every = 6 } },
	{ "gemma4_text", CFG_READS_GQA | CFG_READS_ATTENTION_BIAS | CFG_READS_SOFTCAP | CFG_READS_WINDOW | CFG_READS_LAYER_TYPES
		| CFG_READS_EXPERTS | CFG_READS_EXPERT_WIDTH | CFG_READS_GEMMA4, .shape = {
		.architecture = EST_ARCH_GEMMA4, GATED(EST_RMSNORM, 4, EST_GELU), .max_position_embeddings = 131072, .head_dim = 256,
		.num_key_value_heads = 4, .tie_word_embeddings = true, .qk_norm = EST_QK_NORM_HEAD, .sliding_window = 512,
		.full_attention_every = 6, .global_head_dim = 512, .hidden_size_per_layer_input = 256,
		.vocab_size_per_layer_input = 262144 } },
	{ "gemma3n_text", CFG_READS_GQA | CFG_READS_ATTENTION_BIAS | CFG_READS_SOFTCAP | CFG_READS_WINDOW | CFG_READS_LAYER_TYPES
		| CFG_READS_GEMMA3N, .shape = {
		.architecture = EST_ARCH_GEMMA3N, GATED(EST_RMSNORM, 4, EST_GELU), .max_position_embeddings = 32768, .head_dim = 256,
		.num_key_value_heads = 2, .tie_word_embeddings = true, .qk_norm = EST_QK_NORM_HEAD, .sliding_window = 512,
		.full_attention_every = 5, .final_logit_softcapping = 30, .hidden_size_per_layer_input = 256,
		.vocab_size_per_layer_input = 262144, .num_kv_shared_layers = 15, .altup_num_inputs = 4, .laurel_rank = 64 } },
	{ "phi3", CFG_READS_GQA | CFG_READS_DROPOUT | CFG_READS_WINDOW | CFG_READS_PARTIAL_ROTARY, .shape = {
		.architecture = EST_ARCH_PHI3, GATED(EST_RMSNORM, 2, EST_SILU), .max_position_embeddings = 4096 } },
	{ "olmo", CFG_READS_GQA | CFG_READS_ATTENTION_BIAS | CFG_READS_CLIP_QKV, .shape = {
		.architecture = EST_ARCH_OLMO, GATED(EST_NORM_NONPARAMETRIC, 2, EST_SILU),
		.max_position_embeddings = 2048 } },
	{ "olmo2", CFG_READS_GQA | CFG_READS_ATTENTION_BIAS, .shape = {
		.architecture = EST_ARCH_OLMO2, GATED(EST_RMSNORM, 2, EST_SILU), .max_position_embeddings = 2048,
		.qk_norm = EST_QK_NORM_FULL } },
	{ "olmo3", CFG_READS_GQA | CFG_READS_ATTENTION_BIAS | CFG_READS_WINDOW | CFG_READS_LAYER_TYPES, .shape = {
		.architecture = EST_ARCH_OLMO2, GATED(EST_RMSNORM, 2, EST_SILU), .max_position_embeddings = 2048,
		.qk_norm = EST_QK_NORM_FULL, .sliding_window = 4096, .full_attention_every = 4 } },
	{ "gpt2", CFG_READS_DROPOUT | CFG_READS_EMBEDDING_DROPOUT, true, {
		.architecture = EST_ARCH_GPT2, LAYERNORM_MLP(EST_LEARNED_POSITIONS, 1, EST_GELU_NEW),
		.max_position_embeddings = 1024, .tie_word_embeddings = true,
		.attention_dropout = 0.1, .residual_dropout = 0.1, .embedding_dropout = 0.1 } },
	{ "gpt_neox", CFG_READS_ATTENTION_BIAS | CFG_READS_DROPOUT | CFG_READS_EMBEDDING_DROPOUT
		| CFG_READS_PARTIAL_ROTARY | CFG_READS_PARALLEL_RESIDUAL, .shape = {
		.architecture = EST_ARCH_GPT_NEOX, LAYERNORM_MLP(EST_ROPE, 0.25, EST_GELU),
		.max_position_embeddings = 2048, .parallel_residual = true } },
	{ "opt", CFG_READS_ENABLE_BIAS | CFG_READS_DROPOUT | CFG_READS_OPT, .shape = {
		.architecture = EST_ARCH_OPT, LAYERNORM_MLP(EST_LEARNED_POSITIONS, 1, EST_RELU),
		.max_position_embeddings = 2048, .position_offset = 2, .tie_word_embeddings = true,
		.residual_dropout = 0.1 } },
	{ "mixtral", CFG_READS_GQA | CFG_READS_WINDOW | CFG_READS_EXPERTS, .shape = {
		.architecture = EST_ARCH_MIXTRAL, GATED(EST_RMSNORM, 2, EST_SILU), .max_position_embeddings = 131072,
		.num_key_value_heads = 8, .num_experts = 8, .num_experts_per_tok = 2, .norm_topk_prob = true } },
	{ "qwen2_moe", CFG_READS_GQA | CFG_READS_WINDOW | CFG_READS_USE_WINDOW | CFG_READS_LAYER_TYPES | CFG_READS_EXPERTS
		| CFG_READS_EXPERT_WIDTH | CFG_READS_SHARED_WIDTH | CFG_READS_NORM_TOPK | CFG_READS_SPARSE_STEP, .shape = {
		.architecture = EST_ARCH_QWEN2_MOE, GATED(EST_RMSNORM, 2, EST_SILU), .max_position_embeddings = 32768,
		.qkv_bias = true, .num_key_value_heads = 16, .sliding_window = 4096,
		.num_experts = 60, .num_experts_per_tok = 4, .moe_intermediate_size = 1408,
		.shared_expert_intermediate_size = 5632, .shared_expert_gate = true } },
	{ "qwen3_moe", CFG_READS_GQA | CFG_READS_ATTENTION_BIAS | CFG_READS_WINDOW | CFG_READS_USE_WINDOW | CFG_READS_EXPERTS
		| CFG_READS_EXPERT_WIDTH | CFG_READS_NORM_TOPK | CFG_READS_SPARSE_STEP, .shape = {
		.architecture = EST_ARCH_QWEN3_MOE, GATED(EST_RMSNORM, 2, EST_SILU), .max_position_embeddings = 32768,
		.qk_norm = EST_QK_NORM_HEAD, .num_key_value_heads = 4, .sliding_window = 4096,
		.num_experts = 128, .num_experts_per_tok = 8, .moe_intermediate_size = 768 } },
	{ "qwen3_vl_moe_text", CFG_READS_GQA | CFG_READS_ATTENTION_BIAS | CFG_READS_EXPERTS | CFG_READS_EXPERT_WIDTH
		| CFG_READS_SPARSE_STEP, .shape = {
		.architecture = EST_ARCH_QWEN3_MOE, GATED(EST_RMSNORM, 2, EST_SILU), .max_position_embeddings = 128000,
		.head_dim = 128, .qk_norm = EST_QK_NORM_HEAD, .num_key_value_heads = 16, .num_experts = 60, .num_experts_per_tok = 4,
		.moe_intermediate_size = 1408, .norm_topk_prob = true, .mrope = EST_MROPE_INTERLEAVED } },
	{ "olmoe", CFG_READS_GQA | CFG_READS_ATTENTION_BIAS | CFG_READS_CLIP_QKV | CFG_READS_EXPERTS | CFG_READS_NORM_TOPK,
		.shape = {
		.architecture = EST_ARCH_OLMOE, GATED(EST_RMSNORM, 2, EST_SILU), .max_position_embeddings = 4096,
		.qk_norm = EST_QK_NORM_FULL, .num_experts = 64, .num_experts_per_tok = 8 } },
	{ "deepseek_v2", DEEPSEEK | CFG_READS_LATENT | CFG_READS_ATTENTION_BIAS | CFG_READS_MLP_BIAS | CFG_READS_GROUP_LIMIT,
		.shape = {
		.architecture = EST_ARCH_DEEPSEEK_V2, GATED(EST_RMSNORM, 2, EST_SILU), .max_position_embeddings = 2048,
		.num_experts = 64, .n_shared_experts = 2, .moe_intermediate_size = 1407, LATENT_RANKS } },
	{ "deepseek_v3", DEEPSEEK | CFG_READS_LATENT | CFG_READS_ATTENTION_BIAS | CFG_READS_NORM_TOPK,
	  .shape = { DEEPSEEK_V3 } },
	{ "glm4_moe_lite", DEEPSEEK | CFG_READS_LATENT | CFG_READS_ATTENTION_BIAS | CFG_READS_NORM_TOPK, .shape = {
		.architecture = EST_ARCH_DEEPSEEK_V3, GATED(EST_RMSNORM, 2, EST_SILU), .max_position_embeddings = 202752,
		.num_experts = 64, .num_experts_per_tok = 4, .n_shared_experts = 1, .moe_intermediate_size = 1536,
		.first_k_dense_replace = 1, .n_group = 1, .topk_group = 1, .norm_topk_prob = true,
		.router_correction_bias = true, .rope_interleave = true, .kv_lora_rank = 512, .q_lora_rank = 768,
		.qk_nope_head_dim = 192, .qk_rope_head_dim = 64, .v_head_dim = 256 } },
	{ "kimi_k2", DEEPSEEK | CFG_READS_LATENT | CFG_READS_ATTENTION_BIAS | CFG_READS_NORM_TOPK, .shape = { DEEPSEEK_V3 } },
	{ "glm4_moe", DEEPSEEK | CFG_READS_GQA | CFG_READS_QKV_BIAS | CFG_READS_PARTIAL_ROTARY | CFG_READS_NORM_TOPK,
	  .shape = {
		.architecture = EST_ARCH_GLM4_MOE, GATED_PARTLY(EST_RMSNORM, 2, EST_SILU, 0.5), .max_position_embeddings = 131072,
		.num_key_value_heads = 8, .num_experts = 128, .num_experts_per_tok = 8, .moe_intermediate_size = 1408,
		.n_shared_experts = 1, .first_k_dense_replace = 1, .n_group = 1, .topk_group = 1, .norm_topk_prob = true,
		.router_correction_bias = true } },
	{ "dots1", DEEPSEEK | CFG_READS_GQA | CFG_READS_ATTENTION_BIAS | CFG_READS_NORM_TOPK, .shape = {
		.architecture = EST_ARCH_DOTS1, GATED(EST_RMSNORM, 2, EST_SILU), .max_position_embeddings = 2048,
		.qk_norm = EST_QK_NORM_HEAD, .num_key_value_heads = 32, .moe_intermediate_size = 1408, .n_group = 1, .topk_group = 1,
		.router_correction_bias = true } },
	{ "exaone_moe", DEEPSEEK | CFG_READS_GQA | CFG_READS_WINDOW | CFG_READS_LAYER_TYPES | CFG_READS_NORM_TOPK, .shape = {
		.architecture = EST_ARCH_EXAONE_MOE, GATED(EST_RMSNORM, 2, EST_SILU), .max_position_embeddings = 2048,
		.num_key_value_heads = 32, .qk_norm = EST_QK_NORM_HEAD, .sliding_window = 4096, .full_attention_every = 4,
		.rotates_windows_only = true, .num_experts = 64, .num_experts_per_tok = 8, .moe_intermediate_size = 1024,
		.n_shared_experts = 1, .first_k_dense_replace = 1, .n_group = 1, .topk_group = 1, .norm_topk_prob = true,
		.router_correction_bias = true } },
	{ "solar_open", DEEPSEEK | CFG_READS_GQA | CFG_READS_QKV_BIAS | CFG_READS_NORM_TOPK, .shape = {
		.architecture = EST_ARCH_SOLAR_OPEN, GATED(EST_RMSNORM, 2, EST_SILU), .max_position_embeddings = 131072,
		.num_key_value_heads = 8, .head_dim = 128, .intermediate_size = 1280, .num_experts = 128, .num_experts_per_tok = 8,
		.moe_intermediate_size = 1280, .n_shared_experts = 1, .n_group = 1, .topk_group = 1, .norm_topk_prob = true,
		.router_correction_bias = true } },
	{ "flex_olmo", CFG_READS_GQA | CFG_READS_ATTENTION_BIAS | CFG_READS_EXPERTS | CFG_READS_NORM_TOPK, .shape = {
		.architecture = EST_ARCH_FLEX_OLMO, GATED(EST_RMSNORM, 2, EST_SILU), .max_position_embeddings = 4096,
		.qk_norm = EST_QK_NORM_FULL, .num_experts = 7, .num_experts_per_tok = 5 } },
	{ "youtu", CFG_READS_LATENT | CFG_READS_ATTENTION_BIAS, .shape = {
		.architecture = EST_ARCH_DEEPSEEK_V3, GATED(EST_RMSNORM, 2, EST_SILU), .max_position_embeddings = 131072,
		.tie_word_embeddings = true, .rope_interleave = true, LATENT_RANKS } },
	{ "minimax_m2", CFG_READS_GQA | CFG_READS_EXPERTS | CFG_READS_ROTARY_SHARE, .shape = {
		.architecture = EST_ARCH_MINIMAX_M2, GATED(EST_RMSNORM, 2, EST_SILU), .max_position_embeddings = 196608,
		.num_key_value_heads = 8, .head_dim = 128, .qk_norm = EST_QK_NORM_FULL, .num_experts = 256,
		.num_experts_per_tok = 8, .router_correction_bias = true } },
	{ "ernie4_5_moe", DEEPSEEK | CFG_READS_GQA | CFG_READS_ENABLE_BIAS, .shape = {
		.architecture = EST_ARCH_ERNIE4_5_MOE, GATED(EST_RMSNORM, 2, EST_SILU), .max_position_embeddings = 131072,
		.num_key_value_heads = 4, .tie_word_embeddings = true, .num_experts = 64, .num_experts_per_tok = 6,
		.moe_intermediate_size = 1536, .n_shared_experts = 2, .first_k_dense_replace = 1,
		.router_correction_bias = true } },
	{ "granitemoe", CFG_READS_GQA | CFG_READS_ATTENTION_BIAS | CFG_READS_MULTIPLIERS | CFG_READS_EXPERTS, .shape = {
		GRANITE_MOE, .num_experts = 8, .num_experts_per_tok = 2 } },
	{ "granitemoeshared", CFG_READS_GQA | CFG_READS_ATTENTION_BIAS | CFG_READS_MULTIPLIERS | CFG_READS_GRANITE_SHARED, .shape = { GRANITE_MOE, .num_experts = 8, .num_experts_per_tok = 2 } },
	{ "granitemoehybrid", CFG_READS_GQA | CFG_READS_ATTENTION_BIAS | CFG_READS_MULTIPLIERS
		| CFG_READS_GRANITE_SHARED | CFG_READS_LAYER_KINDS | CFG_READS_SSM | CFG_READS_POSITION_TYPE, .shape = {
		GRANITE_MOE, .ssm_num_heads = 128, .ssm_num_groups = 1, .ssm_state_size = 256, .ssm_chunk_size = 256,
		.conv_kernel = 4, .conv_bias = true } },
	{ "nemotron_h", CFG_READS_GQA | CFG_READS_LAYER_KINDS | CFG_READS_SSM | CFG_READS_NEMOTRON | CFG_READS_MLP_BIAS
		| CFG_READS_EXPERTS | CFG_READS_EXPERT_WIDTH | CFG_READS_NORM_TOPK, .shape = {
		.architecture = EST_ARCH_NEMOTRON_H, BARE_MLP(EST_RMSNORM, 1, EST_NO_POSITIONS, EST_RELU2), .single_blocks = true,
		.max_position_embeddings = 4096, .num_key_value_heads = 8, .head_dim = 128, .ssm_num_heads = 128, .ssm_head_dim = 64,
		.ssm_num_groups = 8, .ssm_state_size = 128, .ssm_chunk_size = 128, .conv_kernel = 4, .conv_bias = true,
		.num_experts = 8, .num_experts_per_tok = 2, .moe_intermediate_size = 7688, .shared_expert_intermediate_size = 7688,
		.n_group = 1, .topk_group = 1, .norm_topk_prob = true, .router_correction_bias = true } },
	{ "bamba", CFG_READS_GQA | CFG_READS_ATTENTION_BIAS | CFG_READS_MLP_BIAS | CFG_READS_LAYER_KINDS | CFG_READS_SSM
		| CFG_READS_BAMBA, .shape = {
		.architecture = EST_ARCH_BAMBA, GATED_PARTLY(EST_RMSNORM, 2, EST_SILU, 0.5), .max_position_embeddings = 262144,
		.num_key_value_heads = 8, .ssm_num_heads = 128, .ssm_num_groups = 1, .ssm_state_size = 256, .ssm_chunk_size = 256,
		.conv_kernel = 4, .conv_bias = true } },
	{ "falcon_h1", CFG_READS_GQA | CFG_READS_ATTENTION_BIAS | CFG_READS_MLP_BIAS | CFG_READS_LAYER_KINDS | CFG_READS_SSM
		| CFG_READS_FALCON_H1, .shape = {
		.architecture = EST_ARCH_FALCON_H1, GATED(EST_RMSNORM, 2, EST_SILU), .max_position_embeddings = 8192,
		.num_key_value_heads = 8, .ssm_num_heads = 128, .ssm_num_groups = 1, .ssm_state_size = 256, .ssm_chunk_size = 256,
		.conv_kernel = 4, .conv_bias = true, .attends_beside = true, .ungated_norm = true, .embedding_multiplier = 1,
		.logits_scaling = 1 } },
	{ "mamba2", CFG_READS_LAYER_KINDS | CFG_READS_SSM | CFG_READS_MAMBA2, .shape = {
		.architecture = EST_ARCH_MAMBA2, BARE_MLP(EST_RMSNORM, 1, EST_NO_POSITIONS, EST_SILU), .single_blocks = true,
		.vocab_size = 32768, .hidden_size = 4096, .num_hidden_layers = 64, .max_position_embeddings = 1 << 20,
		.ssm_num_heads = 128, .ssm_head_dim = 64, .ssm_num_groups = 8, .ssm_state_size = 128, .ssm_chunk_size = 256,
		.conv_kernel = 4, .conv_bias = true, .residual_in_fp32 = true } },
	{ "qwen3_next", CFG_READS_GQA | CFG_READS_ATTENTION_BIAS | CFG_READS_LAYER_KINDS | CFG_READS_DELTA | CFG_READS_PARTIAL_ROTARY
		| CFG_READS_EXPERTS | CFG_READS_EXPERT_WIDTH | CFG_READS_SHARED_WIDTH | CFG_READS_NORM_TOPK | CFG_READS_SPARSE_STEP,
		.shape = { DELTA_NET, .architecture = EST_ARCH_QWEN3_NEXT, .num_key_value_heads = 2, .intermediate_size = 5632,
		.num_experts = 512, .num_experts_per_tok = 10, .moe_intermediate_size = 512, .shared_expert_intermediate_size = 512,
		.shared_expert_gate = true, .norm_topk_prob = true } },
	{ "qwen3_5_text", CFG_READS_GQA | CFG_READS_ATTENTION_BIAS | CFG_READS_LAYER_KINDS | CFG_READS_DELTA | CFG_READS_PARTIAL_ROTARY,
		.shape = { QWEN3_5, .num_key_value_heads = 4 } },
	{ "qwen3_5_moe_text", CFG_READS_GQA | CFG_READS_ATTENTION_BIAS | CFG_READS_LAYER_KINDS | CFG_READS_DELTA
		| CFG_READS_PARTIAL_ROTARY | CFG_READS_EXPERTS | CFG_READS_EXPERT_WIDTH | CFG_READS_SHARED_WIDTH, .shape = {
		QWEN3_5, .num_key_value_heads = 2, .num_experts = 256, .num_experts_per_tok = 8,
		.moe_intermediate_size = 512, .shared_expert_intermediate_size = 512, .shared_expert_gate = true,
		.norm_topk_prob = true } },
	{ "kimi_linear", DEEPSEEK | CFG_READS_LATENT | CFG_READS_ATTENTION_BIAS | CFG_READS_NORM_TOPK | CFG_READS_LAYER_KINDS
		| CFG_READS_KIMI, .shape = {
		.architecture = EST_ARCH_KIMI_LINEAR, .norm = EST_RMSNORM, .norms_per_layer = 2, .final_norm = true, .gated_mlp = true,
		.position = EST_NO_POSITIONS, .partial_rotary_factor = 1, .do_layer_norm_before = true, .max_position_embeddings = 1048576,
		.num_experts = 256, .num_experts_per_tok = 8, .n_shared_experts = 1, .moe_intermediate_size = 1024,
		.first_k_dense_replace = 1, .n_group = 1, .topk_group = 1, .norm_topk_prob = true, .router_correction_bias = true,
		.kv_lora_rank = 512, .qk_nope_head_dim = 128, .qk_rope_head_dim = 64, .v_head_dim = 128,
		.conv_kernel = 4, .linear_num_value_heads = 32, .linear_value_head_dim = 128 } },
	{ "lfm2", CFG_READS_GQA | CFG_READS_LAYER_KINDS | CFG_READS_SHORT_CONV, .shape = {
		LFM2, .num_key_value_heads = 8 } },
	{ "lfm2_moe", CFG_READS_GQA | CFG_READS_LAYER_KINDS | CFG_READS_SHORT_CONV | CFG_READS_EXPERTS | CFG_READS_EXPERT_WIDTH
		| CFG_READS_NORM_TOPK, .shape = {
		LFM2, .num_key_value_heads = 8, .num_experts = 32, .num_experts_per_tok = 4, .moe_intermediate_size = 1792,
		.first_k_dense_replace = 2, .norm_topk_prob = true, .router_correction_bias = true } },
	{ "phimoe", CFG_READS_GQA | CFG_READS_WINDOW | CFG_READS_EXPERTS | CFG_READS_PHIMOE, .shape = {
		.architecture = EST_ARCH_PHIMOE, GATED(EST_LAYERNORM, 2, EST_SILU), .max_position_embeddings = 131072,
		.num_key_value_heads = 8, .num_experts = 16, .num_experts_per_tok = 2 } },
	{ "deepseek_v32", DEEPSEEK | CFG_READS_LATENT | CFG_READS_ATTENTION_BIAS | CFG_READS_NORM_TOPK | CFG_READS_INDEXER, .shape = {
		.architecture = EST_ARCH_DEEPSEEK_V32, DEEPSEEK_V3_LAYERS, LATENT_RANKS, .max_position_embeddings = 163840,
		.n_group = 8, .topk_group = 4, .refuses_flash = true,
		.index_topk = 2048, .index_n_heads = 64, .index_head_dim = 128 } },
	{ "glm_moe_dsa", DEEPSEEK | CFG_READS_LATENT | CFG_READS_ATTENTION_BIAS | CFG_READS_NORM_TOPK | CFG_READS_INDEXER, .shape = {
		.architecture = EST_ARCH_GLM_MOE_DSA, DEEPSEEK_V3_LAYERS, .max_position_embeddings = 202752, .refuses_flash = true,
		.n_group = 1, .topk_group = 1, .kv_lora_rank = 512, .q_lora_rank = 2048, .qk_nope_head_dim = 192,
		.qk_rope_head_dim = 64, .v_head_dim = 256,
		.index_topk = 2048, .index_n_heads = 32, .index_head_dim = 128, .index_topk_freq = 1, .index_skip_topk_offset = 2 } },
	{ "llama4_text", CFG_READS_GQA | CFG_READS_ATTENTION_BIAS | CFG_READS_EXPERTS | CFG_READS_EXPERT_WIDTH | CFG_READS_UNROTATED
		| CFG_READS_LLAMA4, .shape = {
		.architecture = EST_ARCH_LLAMA4, GATED(EST_RMSNORM, 2, EST_SILU), .max_position_embeddings = 131072,
		.num_key_value_heads = 8, .head_dim = 128, .intermediate_size = 16384, .num_experts = 16, .num_experts_per_tok = 1,
		.moe_intermediate_size = 8192, .moe_layer_interval = 1, .no_rope_layer_interval = 4, .sliding_window = 8192,
		.l2_qk_norm = true, .tunes_temperature = true, .refuses_flash = true } },
	{ "gpt_oss", CFG_READS_GQA | CFG_READS_ATTENTION_BIAS | CFG_READS_WINDOW | CFG_READS_LAYER_TYPES | CFG_READS_EXPERTS,
		.shape = {
		.architecture = EST_ARCH_GPT_OSS, GATED(EST_RMSNORM, 2, EST_SILU), .max_position_embeddings = 131072,
		.num_key_value_heads = 8, .head_dim = 64, .qkv_bias = true, .o_bias = true, .attention_sinks = true,
		.sliding_window = 128, .full_attention_every = 2, .refuses_sdpa = true, .num_experts = 128,
		.num_experts_per_tok = 4, .expert_bias = true } },
	{ "smollm3", CFG_READS_GQA | CFG_READS_ATTENTION_BIAS | CFG_READS_MLP_BIAS | CFG_READS_UNROTATED, .shape = {
		.architecture = EST_ARCH_LLAMA, GATED(EST_RMSNORM, 2, EST_SILU), .max_position_embeddings = 32768,
		.num_key_value_heads = 4, .tie_word_embeddings = true, .no_rope_layer_interval = 4 } },
	{ "seed_oss", CFG_READS_GQA | CFG_READS_OUT_BIAS | CFG_READS_MLP_BIAS | CFG_READS_DROPOUT, .shape = {
		.architecture = EST_ARCH_LLAMA, GATED(EST_RMSNORM, 2, EST_SILU), .max_position_embeddings = 524288,
		.num_key_value_heads = 8, .head_dim = 128, .qkv_bias = true, .attention_dropout = 0.1,
		.residual_dropout = 0.1 } },
	{ "ministral3", CFG_READS_GQA | CFG_READS_WINDOW, .shape = {
		.architecture = EST_ARCH_MINISTRAL3, GATED(EST_RMSNORM, 2, EST_SILU), .max_position_embeddings = 262144,
		.num_key_value_heads = 8, .head_dim = 128 } },
	{ "ernie4_5", CFG_READS_GQA | CFG_READS_ENABLE_BIAS, .shape = {
		.architecture = EST_ARCH_ERNIE4_5, GATED(EST_RMSNORM, 2, EST_SILU), .max_position_embeddings = 131072,
		.num_key_value_heads = 2, .head_dim = 128, .tie_word_embeddings = true } },
	{ "bert", CFG_READS_BERT, .shape = {
		.architecture = EST_ARCH_BERT, ENCODER_LAYERS, .max_position_embeddings = 512, .type_vocab_size = 2,
		.pooler = true } },
	{ "roberta", CFG_READS_BERT, .shape = {
		.architecture = EST_ARCH_ROBERTA, ENCODER_LAYERS, .max_position_embeddings = 512, .type_vocab_size = 2,
		.pooler = true } },
	{ "xlm-roberta", CFG_READS_BERT, .shape = {
		.architecture = EST_ARCH_ROBERTA, ENCODER_LAYERS, .max_position_embeddings = 512, .type_vocab_size = 2,
		.pooler = true } },
	{ "camembert", CFG_READS_BERT, .shape = {
		.architecture = EST_ARCH_ROBERTA, ENCODER_LAYERS, .max_position_embeddings = 512, .type_vocab_size = 2,
		.pooler = true } },
	{ "data2vec-text", CFG_READS_BERT, .shape = {
		.architecture = EST_ARCH_ROBERTA, ENCODER_LAYERS, .max_position_embeddings = 512, .type_vocab_size = 2,
		.pooler = true } },
	{ "ernie", CFG_READS_BERT | CFG_READS_ERNIE, .shape = {
		.architecture = EST_ARCH_BERT, ENCODER_LAYERS, .max_position_embeddings = 512, .type_vocab_size = 2,
		.pooler = true, .task_type_vocab_size = 3 } },
	{ "electra", CFG_READS_BERT | CFG_READS_ELECTRA, .shape = {
		.architecture = EST_ARCH_ELECTRA, ENCODER_LAYERS, .max_position_embeddings = 512, .type_vocab_size = 2,
		.embed_dim = 128 } },
	{ "modernbert", CFG_READS_MODERNBERT | CFG_READS_ATTENTION_BIAS | CFG_READS_MLP_BIAS, .shape = {
		.architecture = EST_ARCH_MODERNBERT, GATED(EST_LAYERNORM_NOBIAS, 2, EST_GELU), .max_position_embeddings = 8192,
		.tie_word_embeddings = true, .embedding_norm = true, .lm_head_bias = true, .num_labels = 2, .sliding_window = 128,
		.full_attention_every = 3, .full_attention_first = true } },
	{ "deberta-v2", CFG_READS_DEBERTA, .shape = {
		.architecture = EST_ARCH_DEBERTA, POSITIONED_ENCODER(EST_RELATIVE_POSITIONS), .max_position_embeddings = 512,
		.refuses_sdpa = true, .refuses_flash = true } },
	{ "distilbert", CFG_READS_DISTILBERT, .shape = {
		.architecture = EST_ARCH_DISTILBERT, ENCODER_LAYERS, .max_position_embeddings = 512 } },
	{ "t5", CFG_READS_T5, .shape = { .architecture = EST_ARCH_T5, ENCODER_AND_DECODER, .activation = EST_RELU,
		.scale_decoder_outputs = true } },
	{ "mt5", CFG_READS_T5, .shape = {
		.architecture = EST_ARCH_T5_GATED, ENCODER_AND_DECODER, .activation = EST_GELU_NEW, .gated_mlp = true } },
	{ "stablelm", CFG_READS_GQA | CFG_READS_PLAIN_QK | CFG_READS_DROPOUT | CFG_READS_PARTIAL_ROTARY, .shape = {
		.architecture = EST_ARCH_STABLELM, GATED_PARTLY(EST_LAYERNORM, 2, EST_SILU, 0.25),
		.max_position_embeddings = 4096, .num_key_value_heads = 32 } },
	{ "starcoder2", CFG_READS_GQA | CFG_READS_ENABLE_BIAS | CFG_READS_DROPOUT | CFG_READS_EMBEDDING_DROPOUT
		| CFG_READS_WINDOW, .shape = {
		.architecture = EST_ARCH_STARCODER2, LAYERNORM_MLP(EST_ROPE, 1, EST_GELU), .max_position_embeddings = 4096,
		.num_key_value_heads = 2, .tie_word_embeddings = true } },
	{ "phi", CFG_READS_GQA | CFG_READS_PLAIN_QK | CFG_READS_DROPOUT | CFG_READS_EMBEDDING_DROPOUT
		| CFG_READS_PARTIAL_ROTARY, .shape = {
		.architecture = EST_ARCH_PHI, LAYERNORMS_MLP(1, EST_ROPE, 0.5, EST_GELU_NEW),
		.max_position_embeddings = 2048, .lm_head_bias = true } },
	{ "cohere", CFG_READS_GQA | CFG_READS_ATTENTION_BIAS | CFG_READS_COHERE, .shape = {
		.architecture = EST_ARCH_COHERE, GATED(EST_LAYERNORM_NOBIAS, 1, EST_SILU), .max_position_embeddings = 8192,
		.tie_word_embeddings = true, .logits_scaling = 0.0625 } },
	{ "cohere2", CFG_READS_GQA | CFG_READS_ATTENTION_BIAS | CFG_READS_WINDOW | CFG_READS_LAYER_TYPES, .shape = {
		.architecture = EST_ARCH_COHERE, GATED(EST_LAYERNORM_NOBIAS, 1, EST_SILU), .max_position_embeddings = 8192,
		.tie_word_embeddings = true, .logits_scaling = 0.0625, .sliding_window = 4096, .full_attention_every = 4,
		.rotates_windows_only = true } },
	{ "glm", CFG_READS_GQA | CFG_READS_QKV_BIAS | CFG_READS_PARTIAL_ROTARY, .shape = {
		.architecture = EST_ARCH_GLM, GATED_PARTLY(EST_RMSNORM, 2, EST_SILU, 0.5), .max_position_embeddings = 131072,
		.num_key_value_heads = 2, .head_dim = 128, .qkv_bias = true } },
	{ "glm4", CFG_READS_GQA | CFG_READS_QKV_BIAS | CFG_READS_PARTIAL_ROTARY, .shape = {
		.architecture = EST_ARCH_GLM4, GATED_PARTLY(EST_RMSNORM, 4, EST_SILU, 0.5), .max_position_embeddings = 131072,
		.num_key_value_heads = 2, .head_dim = 128, .qkv_bias = true } },
	{ "exaone4", CFG_READS_GQA | CFG_READS_WINDOW | CFG_READS_LAYER_TYPES, .shape = {
		.architecture = EST_ARCH_EXAONE4, GATED(EST_RMSNORM, 2, EST_SILU), .max_position_embeddings = 2048,
		.num_key_value_heads = 32, .qk_norm = EST_QK_NORM_HEAD, .sliding_window = 4096, .full_attention_every = 4,
		.rotates_windows_only = true } },
	{ "apertus", CFG_READS_GQA | CFG_READS_ATTENTION_BIAS, .shape = {
		.architecture = EST_ARCH_APERTUS, .norm = EST_RMSNORM, .norms_per_layer = 2, .final_norm = true,
		.activation = EST_XIELU, .position = EST_ROPE, .partial_rotary_factor = 1, .do_layer_norm_before = true,
		.max_position_embeddings = 65536, .qk_norm = EST_QK_NORM_HEAD } },
	{ "arcee", CFG_READS_GQA | CFG_READS_ATTENTION_BIAS | CFG_READS_MLP_BIAS, .shape = {
		.architecture = EST_ARCH_ARCEE, BARE_MLP(EST_RMSNORM, 2, EST_ROPE, EST_RELU2), .max_position_embeddings = 4096 } },
	{ "jais2", CFG_READS_GQA | CFG_READS_ATTENTION_BIAS | CFG_READS_MLP_BIAS, .shape = {
		.architecture = EST_ARCH_JAIS2, LAYERNORM_MLP(EST_ROPE, 1, EST_RELU2), .max_position_embeddings = 8192 } },
	{ "nemotron", CFG_READS_GQA | CFG_READS_ATTENTION_BIAS | CFG_READS_MLP_BIAS | CFG_READS_PARTIAL_ROTARY, .shape = {
		.architecture = EST_ARCH_NEMOTRON, BARE_MLP_PARTLY(EST_LAYERNORM, 2, EST_ROPE, 0.5, EST_RELU2),
		.max_position_embeddings = 4096 } },
	{ "helium", CFG_READS_GQA | CFG_READS_QKV_BIAS | CFG_READS_MLP_BIAS, .shape = {
		.architecture = EST_ARCH_HELIUM, GATED(EST_RMSNORM, 2, EST_SILU), .max_position_embeddings = 4096,
		.num_key_value_heads = 20, .head_dim = 128 } },
	{ "hunyuan_v1_dense", CFG_READS_GQA | CFG_READS_ATTENTION_BIAS, .shape = {
		.architecture = EST_ARCH_HUNYUAN, GATED(EST_RMSNORM, 2, EST_SILU), .max_position_embeddings = 2048,
		.qk_norm = EST_QK_NORM_HEAD } },
	{ "hunyuan_v1_moe", CFG_READS_GQA | CFG_READS_ATTENTION_BIAS | CFG_READS_EXPERTS | CFG_READS_HUNYUAN, .shape = {
		.architecture = EST_ARCH_HUNYUAN_MOE, GATED(EST_RMSNORM, 2, EST_SILU), .max_position_embeddings = 2048,
		.qk_norm = EST_QK_NORM_HEAD, .num_experts = 1, .num_experts_per_tok = 1, .norm_topk_prob = true } },
	{ "nanochat", CFG_READS_GQA | CFG_READS_ATTENTION_BIAS | CFG_READS_SOFTCAP, .shape = {
		.architecture = EST_ARCH_NANOCHAT, BARE_MLP(EST_NORM_NONPARAMETRIC, 2, EST_ROPE, EST_RELU2),
		.max_position_embeddings = 2048, .final_logit_softcapping = 15, .l2_qk_norm = true } },
	{ "ministral", CFG_READS_GQA | CFG_READS_WINDOW | CFG_READS_LAYER_TYPES, .shape = {
		.architecture = EST_ARCH_LLAMA, GATED(EST_RMSNORM, 2, EST_SILU), .max_position_embeddings = 131072,
		.num_key_value_heads = 8, .sliding_window = 4096, .masks_both_kinds = true } },
	{ "cwm", CFG_READS_GQA | CFG_READS_MLP_BIAS | CFG_READS_WINDOW | CFG_READS_LAYER_TYPES, .shape = {
		.architecture = EST_ARCH_LLAMA, GATED(EST_RMSNORM, 2, EST_SILU), .max_position_embeddings = 131072,
		.num_key_value_heads = 8, .head_dim = 128, .sliding_window = 8192, .full_attention_every = 4,
		.full_attention_first = true, .masks_both_kinds = true } },
	{ "iquestcoder", CFG_READS_GQA | CFG_READS_ATTENTION_BIAS | CFG_READS_MLP_BIAS, .shape = {
		.architecture = EST_ARCH_LLAMA, GATED(EST_RMSNORM, 2, EST_SILU), .max_position_embeddings = 131072,
		.num_key_value_heads = 8, .head_dim = 128 } },
	{ "vaultgemma", CFG_READS_GQA | CFG_READS_ATTENTION_BIAS | CFG_READS_SOFTCAP | CFG_READS_WINDOW
		| CFG_READS_LAYER_TYPES, .shape = {
		.architecture = EST_ARCH_VAULTGEMMA, GATED(EST_RMSNORM, 2, EST_GELU), .max_position_embeddings = 8192,
		.head_dim = 256, .num_key_value_heads = 4, .tie_word_embeddings = true, .sliding_window = 4096,
		.full_attention_every = 2, .final_logit_softcapping = 30, .attn_logit_softcapping = 50, .refuses_sdpa = true } },
	{ "falcon", CFG_READS_FALCON | CFG_READS_GQA | CFG_READS_DROPOUT, .wide_mlp_by_default = true, .shape = {
		.architecture = EST_ARCH_FALCON, BARE_MLP(EST_LAYERNORM, 1, EST_ROPE, EST_GELU), .max_position_embeddings = 2048,
		.tie_word_embeddings = true } },
	{ "bloom", CFG_READS_BLOOM | CFG_READS_DROPOUT, .wide_mlp_by_default = true, .shape = {
		.architecture = EST_ARCH_BLOOM, LAYERNORM_MLP(EST_ALIBI, 1, EST_GELU), .max_position_embeddings = 2048,
		.tie_word_embeddings = true, .embedding_norm = true, .refuses_sdpa = true, .refuses_flash = true } },
	{ "mpt", CFG_READS_MPT, .wide_mlp_by_default = true, .shape = {
		.architecture = EST_ARCH_MPT, BARE_MLP(EST_LAYERNORM_NOBIAS, 2, EST_ALIBI, EST_GELU),
		.max_position_embeddings = 2048, .tie_word_embeddings = true, .refuses_sdpa = true, .refuses_flash = true } },
	{ "gptj", CFG_READS_ROTARY_DIM | CFG_READS_DROPOUT | CFG_READS_EMBEDDING_DROPOUT, .wide_mlp_by_default = true,
	  .shape = {
		.architecture = EST_ARCH_GPTJ, BARE_MLP(EST_LAYERNORM, 1, EST_ROPE, EST_GELU_NEW), .mlp_bias = true,
		.lm_head_bias = true, .max_position_embeddings = 2048, .refuses_sdpa = true } },
	{ "gpt_neo", CFG_READS_GPT_NEO | CFG_READS_WINDOW | CFG_READS_DROPOUT | CFG_READS_EMBEDDING_DROPOUT,
		.wide_mlp_by_default = true, .shape = {
		.architecture = EST_ARCH_GPT_NEO, BARE_MLP(EST_LAYERNORM, 2, EST_LEARNED_POSITIONS, EST_GELU_NEW), .o_bias = true,
		.mlp_bias = true, .max_position_embeddings = 2048, .sliding_window = 256, .tie_word_embeddings = true,
		.refuses_sdpa = true } },
	{ "gpt_bigcode", CFG_READS_MULTI_QUERY | CFG_READS_DROPOUT | CFG_READS_EMBEDDING_DROPOUT, .wide_mlp_by_default = true,
		.shape = {
		.architecture = EST_ARCH_GPT_BIGCODE, LAYERNORM_MLP(EST_LEARNED_POSITIONS, 1, EST_GELU), .num_key_value_heads = 1,
		.max_position_embeddings = 1024, .tie_word_embeddings = true, .attention_dropout = 0.1, .residual_dropout = 0.1,
		.embedding_dropout = 0.1 } },
};

#define MIXTURE "a mixture of experts, not modelled yet"
#define VISION "a vision-language model, not modelled yet"
#define HYBRID "layers other than attention (recurrent or convolutional), not modelled yet"
#define ENCODER_DECODER "an encoder and decoder, not modelled yet"
#define LATENT "latent attention, not modelled yet"
#define REMOTE "modelling code outside of Transformers, not modelled"
#define ENCODER "an encoder of another kind, not modelled yet"
#define OTHER "modelling code that is not modelled yet"

const struct cfg_refusal cfg_refusals[] = {
	{ "afmoe", MIXTURE },
	{ "albert", ENCODER },
	{ "baichuan", REMOTE },
	{ "bart", ENCODER_DECODER },
	{ "biogpt", OTHER },
	{ "bitnet", OTHER },
	{ "codegen", OTHER },
	{ "cohere2_moe", MIXTURE },
	{ "dbrx", MIXTURE },
	{ "deberta", ENCODER },
	{ "deepseek", MIXTURE },
	{ "deepseek_v4", MIXTURE },
	{ "diffllama", OTHER },
	{ "doge", OTHER },
	{ "eurobert", ENCODER },
	{ "exaone", REMOTE },
	{ "falcon_mamba", HYBRID },
	{ "gemma3n", VISION },
	{ "gemma4_unified", VISION },
	{ "gpt_neox_japanese", OTHER },
	{ "granite_swa", OTHER },
	{ "granitemoe_swa", MIXTURE },
	{ "gte", ENCODER },
	{ "internlm2", REMOTE },
	{ "internlm3", REMOTE },
	{ "jamba", HYBRID },
	{ "jetmoe", MIXTURE },
	{ "kimi_k3", MIXTURE },
	{ "longcat_flash", MIXTURE },
	{ "longt5", ENCODER_DECODER },
	{ "mamba", HYBRID },
	{ "marian", ENCODER_DECODER },
	{ "mbart", ENCODER_DECODER },
	{ "megatron-bert", ENCODER },
	{ "mimo", REMOTE },
	{ "mimo_v2_flash", MIXTURE },
	{ "minicpm", REMOTE },
	{ "minicpm3", LATENT },
	{ "minimax", MIXTURE },
	{ "minimax_m3", MIXTURE },
	{ "mistral4", MIXTURE },
	{ "modernbert-decoder", OTHER },
	{ "mpnet", ENCODER },
	{ "muse_glimmer", OTHER },
	{ "nomic_bert", ENCODER },
	{ "olmo_hybrid", HYBRID },
	{ "pegasus", ENCODER_DECODER },
	{ "persimmon", OTHER },
	{ "recurrent_gemma", HYBRID },
	{ "rwkv", HYBRID },
	{ "umt5", ENCODER_DECODER },
	{ "xglm", OTHER },
	{ "xlnet", OTHER },
	{ "xlstm", HYBRID },
	{ "zamba", HYBRID },
	{ "zamba2", HYBRID },
};
/* clang-format on */

const size_t cfg_family_count = sizeof(cfg_families) / sizeof(cfg_families[0]);
const size_t cfg_refusal_count = sizeof(cfg_refusals) / sizeof(cfg_refusals[0]);

const struct cfg_family *cfg_family_find(const char *model_type)
{
	for (size_t i = 0; i < cfg_family_count; i++)
		if (!strcmp(cfg_families[i].model_type, model_type))
			return &cfg_families[i];
	return NULL;
}

const struct cfg_refusal *cfg_refusal_find(const char *model_type)
{
	for (size_t i = 0; i < cfg_refusal_count; i++)
		if (!strcmp(cfg_refusals[i].model_type, model_type))
			return &cfg_refusals[i];
	return NULL;
}
