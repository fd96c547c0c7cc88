#include "config/hf_keys.h"

#include <stdio.h>
#include <string.h>
#include "config/families.h"

enum key_kind { KEY_INT, KEY_BOOL, KEY_REAL, KEY_ACTIVATION };

/* One member of the shape and the names that config.json gives it, the class's own first. */
struct key {
	const char *names[6];
	enum key_kind kind;
	uint64_t reads; /* only in families that read one of these; 0: in all */
	size_t offset;  /* in struct est_model */
	double min, max;
};

#define MEMBER(member) offsetof(struct est_model, member)

/* The ranges keep every product of a count within 2^62. clang-format off */
static const struct key keys[] = {
	{ { "vocab_size" }, KEY_INT, 0, MEMBER(vocab_size), 1, 1 << 24 },
	{ { "hidden_size", "n_embd", "n_embed" }, KEY_INT, 0, MEMBER(hidden_size), 1, 1 << 17 },
	{ { "num_hidden_layers", "n_layer" }, KEY_INT, 0, MEMBER(num_hidden_layers), 1, EST_LAYERS_MAX },
	{ { "num_attention_heads", "n_head" }, KEY_INT, 0, MEMBER(num_attention_heads), 1, 4096 },
	{ { "num_key_value_heads" }, KEY_INT, CFG_READS_GQA, MEMBER(num_key_value_heads), 1, 4096 },
	{ { "num_kv_heads" }, KEY_INT, CFG_READS_FALCON, MEMBER(num_key_value_heads), 1, 4096 },
	{ { "ffn_hidden_size" }, KEY_INT, CFG_READS_FALCON, MEMBER(intermediate_size), 1, 1 << 20 },
	{ { "activation" }, KEY_ACTIVATION, CFG_READS_FALCON, MEMBER(activation), 0, 0 },
	{ { "num_layers" }, KEY_INT, CFG_READS_GPT_NEO, MEMBER(num_hidden_layers), 1, EST_LAYERS_MAX },
	{ { "num_heads" }, KEY_INT, CFG_READS_GPT_NEO, MEMBER(num_attention_heads), 1, 4096 },
	{ { "window_size" }, KEY_INT, CFG_READS_GPT_NEO, MEMBER(sliding_window), 1, 1 << 30 },
	{ { "d_model" }, KEY_INT, CFG_READS_MPT, MEMBER(hidden_size), 1, 1 << 17 },
	{ { "n_layers" }, KEY_INT, CFG_READS_MPT, MEMBER(num_hidden_layers), 1, EST_LAYERS_MAX },
	{ { "n_heads" }, KEY_INT, CFG_READS_MPT, MEMBER(num_attention_heads), 1, 4096 },
	{ { "max_seq_len" }, KEY_INT, CFG_READS_MPT, MEMBER(max_position_embeddings), 1, 1 << 24 },
	{ { "head_dim" }, KEY_INT, CFG_READS_GQA, MEMBER(head_dim), 1, 4096 },
	{ { "intermediate_size", "n_inner", "ffn_dim" }, KEY_INT, 0, MEMBER(intermediate_size), 1, 1 << 20 },
	{ { "max_position_embeddings", "n_positions" }, KEY_INT, 0, MEMBER(max_position_embeddings), 1, 1 << 30 },
	{ { "tie_word_embeddings" }, KEY_BOOL, 0, MEMBER(tie_word_embeddings), 0, 0 },
	{ { "attention_bias" }, KEY_BOOL, CFG_READS_ATTENTION_BIAS | CFG_READS_QKV_BIAS | CFG_READS_OUT_BIAS,
	  MEMBER(qkv_bias), 0, 0 },
	{ { "attention_bias" }, KEY_BOOL, CFG_READS_ATTENTION_BIAS, MEMBER(o_bias), 0, 0 },
	{ { "attention_out_bias" }, KEY_BOOL, CFG_READS_OUT_BIAS, MEMBER(o_bias), 0, 0 },
	{ { "mlp_bias" }, KEY_BOOL, CFG_READS_MLP_BIAS, MEMBER(mlp_bias), 0, 0 },
	{ { "enable_bias", "use_bias" }, KEY_BOOL, CFG_READS_ENABLE_BIAS, MEMBER(qkv_bias), 0, 0 },
	{ { "enable_bias", "use_bias" }, KEY_BOOL, CFG_READS_ENABLE_BIAS, MEMBER(o_bias), 0, 0 },
	{ { "enable_bias", "use_bias" }, KEY_BOOL, CFG_READS_ENABLE_BIAS, MEMBER(mlp_bias), 0, 0 },
	{ { "hidden_activation", "hidden_act", "activation_function" }, KEY_ACTIVATION, 0, MEMBER(activation), 0, 0 },
	{ { "attention_dropout", "attn_pdrop" }, KEY_REAL, 0, MEMBER(attention_dropout), 0, 1 },
	{ { "resid_pdrop", "hidden_dropout", "dropout", "residual_dropout", "resid_dropout" }, KEY_REAL,
	  CFG_READS_DROPOUT, MEMBER(residual_dropout), 0, 1 },
	{ { "embd_pdrop", "hidden_dropout", "embedding_dropout", "embed_dropout" }, KEY_REAL,
	  CFG_READS_EMBEDDING_DROPOUT, MEMBER(embedding_dropout), 0, 1 },
	{ { "final_logit_softcapping" }, KEY_REAL, CFG_READS_SOFTCAP, MEMBER(final_logit_softcapping), 0, 1e6 },
	{ { "attn_logit_softcapping" }, KEY_REAL, CFG_READS_SOFTCAP, MEMBER(attn_logit_softcapping), 0, 1e6 },
	{ { "embedding_multiplier" }, KEY_REAL, CFG_READS_MULTIPLIERS, MEMBER(embedding_multiplier), 1e-6, 1e6 },
	{ { "residual_multiplier" }, KEY_REAL, CFG_READS_MULTIPLIERS, MEMBER(residual_multiplier), 1e-6, 1e6 },
	{ { "logits_scaling" }, KEY_REAL, CFG_READS_MULTIPLIERS, MEMBER(logits_scaling), 1e-6, 1e6 },
	{ { "partial_rotary_factor", "rotary_pct" }, KEY_REAL, CFG_READS_PARTIAL_ROTARY | CFG_READS_ROTARY_SHARE,
	  MEMBER(partial_rotary_factor), 0, 1 },
	{ { "sliding_window" }, KEY_INT, CFG_READS_WINDOW, MEMBER(sliding_window), 1, 1 << 30 },
	{ { "sliding_window_pattern" }, KEY_INT, CFG_READS_LAYER_TYPES, MEMBER(full_attention_every), 1, 4096 },
	{ { "no_rope_layer_interval" }, KEY_INT, CFG_READS_UNROTATED, MEMBER(no_rope_layer_interval), 1, 4096 },
	{ { "use_parallel_residual" }, KEY_BOOL, CFG_READS_PARALLEL_RESIDUAL, MEMBER(parallel_residual), 0, 0 },
	{ { "word_embed_proj_dim", "embed_dim" }, KEY_INT, CFG_READS_OPT, MEMBER(embed_dim), 1, 1 << 17 },
	{ { "do_layer_norm_before" }, KEY_BOOL, CFG_READS_OPT, MEMBER(do_layer_norm_before), 0, 0 },
	{ { "num_local_experts", "n_routed_experts", "num_experts", "moe_num_experts" }, KEY_INT, CFG_READS_EXPERTS,
	  MEMBER(num_experts), 1, 4096 },
	{ { "num_experts_per_tok", "moe_k" }, KEY_INT, CFG_READS_EXPERTS, MEMBER(num_experts_per_tok), 1, 4096 },
	{ { "moe_intermediate_size" }, KEY_INT, CFG_READS_EXPERT_WIDTH, MEMBER(moe_intermediate_size), 1, 1 << 17 },
	{ { "shared_expert_intermediate_size" }, KEY_INT, CFG_READS_SHARED_WIDTH, MEMBER(shared_expert_intermediate_size),
	  1, 1 << 20 },
	{ { "num_local_experts", "num_experts" }, KEY_INT, CFG_READS_GRANITE_SHARED, MEMBER(num_experts), 0, 4096 },
	{ { "num_experts_per_tok" }, KEY_INT, CFG_READS_GRANITE_SHARED, MEMBER(num_experts_per_tok), 0, 4096 },
	{ { "shared_intermediate_size", "shared_expert_intermediate_size" }, KEY_INT, CFG_READS_GRANITE_SHARED,
	  MEMBER(shared_expert_intermediate_size), 1, 1 << 20 },
	{ { "qkv_bias", "use_qkv_bias" }, KEY_BOOL, CFG_READS_SHARED_WIDTH | CFG_READS_PLAIN_QK, MEMBER(qkv_bias), 0, 0 },
	{ { "norm_topk_prob" }, KEY_BOOL, CFG_READS_NORM_TOPK, MEMBER(norm_topk_prob), 0, 0 },
	{ { "n_shared_experts", "num_shared_experts", "moe_num_shared_experts" }, KEY_INT, CFG_READS_SHARED_EXPERTS,
	  MEMBER(n_shared_experts), 0, 64 },
	{ { "first_k_dense_replace", "moe_layer_start_index" }, KEY_INT, CFG_READS_SHARED_EXPERTS,
	  MEMBER(first_k_dense_replace), 0, EST_LAYERS_MAX },
	{ { "n_group" }, KEY_INT, CFG_READS_SHARED_EXPERTS, MEMBER(n_group), 1, 4096 },
	{ { "topk_group" }, KEY_INT, CFG_READS_SHARED_EXPERTS, MEMBER(topk_group), 1, 4096 },
	{ { "num_dense_layers", "first_k_dense_replace" }, KEY_INT, CFG_READS_SHORT_CONV, MEMBER(first_k_dense_replace),
	  0, EST_LAYERS_MAX },
	{ { "conv_L_cache", "conv_kernel" }, KEY_INT, CFG_READS_SHORT_CONV, MEMBER(conv_kernel), 1, 64 },
	{ { "conv_bias" }, KEY_BOOL, CFG_READS_SHORT_CONV, MEMBER(conv_bias), 0, 0 },
	{ { "conv_bias" }, KEY_BOOL, CFG_READS_SHORT_CONV, MEMBER(mixer_bias), 0, 0 },
	{ { "use_expert_bias" }, KEY_BOOL, CFG_READS_SHORT_CONV, MEMBER(router_correction_bias), 0, 0 },
	{ { "num_heads" }, KEY_INT, CFG_READS_MAMBA2, MEMBER(ssm_num_heads), 1, 4096 },
	{ { "head_dim" }, KEY_INT, CFG_READS_MAMBA2, MEMBER(ssm_head_dim), 1, 4096 },
	{ { "state_size" }, KEY_INT, CFG_READS_MAMBA2, MEMBER(ssm_state_size), 1, 4096 },
	{ { "use_bias" }, KEY_BOOL, CFG_READS_MAMBA2, MEMBER(mixer_bias), 0, 0 },
	{ { "residual_in_fp32" }, KEY_BOOL, CFG_READS_MAMBA2, MEMBER(residual_in_fp32), 0, 0 },
	{ { "projectors_bias", "mamba_proj_bias" }, KEY_BOOL, CFG_READS_FALCON_H1, MEMBER(mixer_bias), 0, 0 },
	{ { "mamba_n_heads", "mamba_num_heads" }, KEY_INT, CFG_READS_SSM, MEMBER(ssm_num_heads), 1, 4096 },
	{ { "mamba_d_state", "ssm_state_size" }, KEY_INT, CFG_READS_SSM, MEMBER(ssm_state_size), 1, 4096 },
	{ { "mamba_n_groups", "n_groups" }, KEY_INT, CFG_READS_SSM, MEMBER(ssm_num_groups), 1, 4096 },
	{ { "mamba_d_conv", "mamba_conv_kernel", "conv_kernel" }, KEY_INT, CFG_READS_SSM, MEMBER(conv_kernel), 1, 64 },
	{ { "mamba_chunk_size", "chunk_size" }, KEY_INT, CFG_READS_SSM, MEMBER(ssm_chunk_size), 1, 4096 },
	{ { "mamba_conv_bias", "use_conv_bias" }, KEY_BOOL, CFG_READS_SSM, MEMBER(conv_bias), 0, 0 },
	{ { "mamba_proj_bias" }, KEY_BOOL, CFG_READS_SSM, MEMBER(mixer_bias), 0, 0 },
	{ { "mlp_hidden_act", "hidden_act" }, KEY_ACTIVATION, CFG_READS_NEMOTRON, MEMBER(activation), 0, 0 },
	{ { "moe_shared_expert_intermediate_size", "shared_expert_intermediate_size" }, KEY_INT, CFG_READS_NEMOTRON,
	  MEMBER(shared_expert_intermediate_size), 1, 1 << 20 },
	{ { "moe_latent_size" }, KEY_INT, CFG_READS_NEMOTRON, MEMBER(moe_latent_size), 1, 1 << 17 },
	{ { "n_group" }, KEY_INT, CFG_READS_NEMOTRON, MEMBER(n_group), 1, 4096 },
	{ { "topk_group" }, KEY_INT, CFG_READS_NEMOTRON, MEMBER(topk_group), 1, 4096 },
	{ { "linear_num_key_heads" }, KEY_INT, CFG_READS_DELTA, MEMBER(linear_num_key_heads), 1, 4096 },
	{ { "linear_num_value_heads" }, KEY_INT, CFG_READS_DELTA, MEMBER(linear_num_value_heads), 1, 4096 },
	{ { "linear_key_head_dim" }, KEY_INT, CFG_READS_DELTA, MEMBER(linear_key_head_dim), 1, 4096 },
	{ { "linear_value_head_dim" }, KEY_INT, CFG_READS_DELTA, MEMBER(linear_value_head_dim), 1, 4096 },
	{ { "linear_conv_kernel_dim" }, KEY_INT, CFG_READS_DELTA, MEMBER(conv_kernel), 1, 64 },
	{ { "num_experts_per_token" }, KEY_INT, CFG_READS_KIMI, MEMBER(num_experts_per_tok), 1, 4096 },
	{ { "moe_renormalize" }, KEY_BOOL, CFG_READS_KIMI, MEMBER(norm_topk_prob), 0, 0 },
	{ { "num_expert_group" }, KEY_INT, CFG_READS_KIMI, MEMBER(n_group), 1, 4096 },
	{ { "model_max_length" }, KEY_INT, CFG_READS_KIMI, MEMBER(max_position_embeddings), 1, 1 << 30 },
	{ { "linear_num_heads" }, KEY_INT, CFG_READS_KIMI, MEMBER(linear_num_value_heads), 1, 4096 },
	{ { "linear_head_dim" }, KEY_INT, CFG_READS_KIMI, MEMBER(linear_value_head_dim), 1, 4096 },
	{ { "linear_conv_kernel_dim" }, KEY_INT, CFG_READS_KIMI, MEMBER(conv_kernel), 1, 64 },
	{ { "num_heads" }, KEY_INT, CFG_READS_KIMI_RULE, MEMBER(linear_num_value_heads), 1, 4096 },
	{ { "head_dim" }, KEY_INT, CFG_READS_KIMI_RULE, MEMBER(linear_value_head_dim), 1, 4096 },
	{ { "short_conv_kernel_size" }, KEY_INT, CFG_READS_KIMI_RULE, MEMBER(conv_kernel), 1, 64 },
	{ { "kv_lora_rank" }, KEY_INT, CFG_READS_LATENT, MEMBER(kv_lora_rank), 1, 1 << 16 },
	{ { "q_lora_rank" }, KEY_INT, CFG_READS_LATENT, MEMBER(q_lora_rank), 1, 1 << 16 },
	{ { "qk_nope_head_dim" }, KEY_INT, CFG_READS_LATENT, MEMBER(qk_nope_head_dim), 1, 4096 },
	{ { "qk_rope_head_dim" }, KEY_INT, CFG_READS_LATENT, MEMBER(qk_rope_head_dim), 1, 4096 },
	{ { "v_head_dim" }, KEY_INT, CFG_READS_LATENT, MEMBER(v_head_dim), 1, 4096 },
	{ { "rope_interleave" }, KEY_BOOL, CFG_READS_LATENT, MEMBER(rope_interleave), 0, 0 },
	{ { "attention_bias", "qkv_bias" }, KEY_BOOL, CFG_READS_PHIMOE, MEMBER(qkv_bias), 0, 0 },
	{ { "attention_bias", "o_bias" }, KEY_BOOL, CFG_READS_PHIMOE, MEMBER(o_bias), 0, 0 },
	{ { "lm_head_bias" }, KEY_BOOL, CFG_READS_PHIMOE, MEMBER(lm_head_bias), 0, 0 },
	{ { "input_jitter_noise" }, KEY_REAL, CFG_READS_PHIMOE, MEMBER(input_jitter_noise), 0, 1 },
	{ { "index_topk" }, KEY_INT, CFG_READS_INDEXER, MEMBER(index_topk), 1, 1 << 20 },
	{ { "index_n_heads" }, KEY_INT, CFG_READS_INDEXER, MEMBER(index_n_heads), 1, 4096 },
	{ { "index_head_dim" }, KEY_INT, CFG_READS_INDEXER, MEMBER(index_head_dim), 1, 4096 },
	{ { "index_topk_freq" }, KEY_INT, CFG_READS_INDEXER, MEMBER(index_topk_freq), 0, EST_LAYERS_MAX },
	{ { "index_skip_topk_offset" }, KEY_INT, CFG_READS_INDEXER, MEMBER(index_skip_topk_offset), 0, EST_LAYERS_MAX },
	{ { "intermediate_size" }, KEY_INT, CFG_READS_LLAMA4, MEMBER(moe_intermediate_size), 1, 1 << 17 },
	{ { "intermediate_size_mlp", "dense_intermediate_size" }, KEY_INT, CFG_READS_LLAMA4, MEMBER(intermediate_size),
	  1, 1 << 20 },
	{ { "attention_chunk_size" }, KEY_INT, CFG_READS_LLAMA4, MEMBER(sliding_window), 1, 1 << 30 },
	{ { "use_qk_norm" }, KEY_BOOL, CFG_READS_LLAMA4, MEMBER(l2_qk_norm), 0, 0 },
	{ { "attn_temperature_tuning" }, KEY_BOOL, CFG_READS_LLAMA4, MEMBER(tunes_temperature), 0, 0 },
	{ { "interleave_moe_layer_step" }, KEY_INT, CFG_READS_LLAMA4, MEMBER(moe_layer_interval), 1, EST_LAYERS_MAX },
	{ { "global_head_dim" }, KEY_INT, CFG_READS_GEMMA4, MEMBER(global_head_dim), 1, 4096 },
	{ { "num_global_key_value_heads" }, KEY_INT, CFG_READS_GEMMA4, MEMBER(num_global_key_value_heads), 1, 4096 },
	{ { "attention_k_eq_v" }, KEY_BOOL, CFG_READS_GEMMA4, MEMBER(attention_k_eq_v), 0, 0 },
	{ { "num_kv_shared_layers" }, KEY_INT, CFG_READS_GEMMA4 | CFG_READS_GEMMA3N, MEMBER(num_kv_shared_layers), 0, EST_LAYERS_MAX },
	{ { "use_double_wide_mlp" }, KEY_BOOL, CFG_READS_GEMMA4, MEMBER(use_double_wide_mlp), 0, 0 },
	{ { "hidden_size_per_layer_input" }, KEY_INT, CFG_READS_GEMMA4, MEMBER(hidden_size_per_layer_input), 0, 1 << 14 },
	{ { "hidden_size_per_layer_input" }, KEY_INT, CFG_READS_GEMMA3N, MEMBER(hidden_size_per_layer_input), 1, 1 << 14 },
	{ { "vocab_size_per_layer_input" }, KEY_INT, CFG_READS_GEMMA4 | CFG_READS_GEMMA3N, MEMBER(vocab_size_per_layer_input), 1, 1 << 24 },
	{ { "altup_num_inputs" }, KEY_INT, CFG_READS_GEMMA3N, MEMBER(altup_num_inputs), 2, EST_STREAMS_MAX },
	{ { "laurel_rank" }, KEY_INT, CFG_READS_GEMMA3N, MEMBER(laurel_rank), 1, 1 << 14 },
	{ { "top_k_experts", "num_experts_per_tok" }, KEY_INT, CFG_READS_GEMMA4, MEMBER(num_experts_per_tok), 1, 4096 },
	{ { "local_attention" }, KEY_INT, CFG_READS_MODERNBERT, MEMBER(sliding_window), 2, 1 << 30 },
	{ { "global_attn_every_n_layers" }, KEY_INT, CFG_READS_MODERNBERT, MEMBER(full_attention_every), 1, 4096 },
	{ { "decoder_bias" }, KEY_BOOL, CFG_READS_MODERNBERT, MEMBER(lm_head_bias), 0, 0 },
	{ { "embedding_dropout" }, KEY_REAL, CFG_READS_MODERNBERT, MEMBER(embedding_dropout), 0, 1 },
	{ { "position_buckets" }, KEY_INT, CFG_READS_DEBERTA, MEMBER(position_buckets), -1, 1 << 16 },
	{ { "task_type_vocab_size" }, KEY_INT, CFG_READS_ERNIE, MEMBER(task_type_vocab_size), 1, 1 << 10 },
	{ { "embedding_size" }, KEY_INT, CFG_READS_ELECTRA, MEMBER(embed_dim), 1, 1 << 17 },
	{ { "type_vocab_size" }, KEY_INT, CFG_READS_BERT, MEMBER(type_vocab_size), 1, 1 << 10 },
	{ { "attention_probs_dropout_prob" }, KEY_REAL, CFG_READS_BERT | CFG_READS_DEBERTA, MEMBER(attention_dropout), 0, 1 },
	{ { "hidden_dropout_prob" }, KEY_REAL, CFG_READS_BERT | CFG_READS_DEBERTA, MEMBER(residual_dropout), 0, 1 },
	{ { "dim" }, KEY_INT, CFG_READS_DISTILBERT, MEMBER(hidden_size), 1, 1 << 17 },
	{ { "n_layers" }, KEY_INT, CFG_READS_DISTILBERT, MEMBER(num_hidden_layers), 1, EST_LAYERS_MAX },
	{ { "n_heads" }, KEY_INT, CFG_READS_DISTILBERT, MEMBER(num_attention_heads), 1, 4096 },
	{ { "hidden_dim" }, KEY_INT, CFG_READS_DISTILBERT, MEMBER(intermediate_size), 1, 1 << 20 },
	{ { "activation" }, KEY_ACTIVATION, CFG_READS_DISTILBERT, MEMBER(activation), 0, 0 },
	{ { "dropout" }, KEY_REAL, CFG_READS_DISTILBERT, MEMBER(residual_dropout), 0, 1 },
	{ { "d_model" }, KEY_INT, CFG_READS_T5, MEMBER(hidden_size), 1, 1 << 17 },
	{ { "d_kv", "head_dim" }, KEY_INT, CFG_READS_T5, MEMBER(head_dim), 1, 4096 },
	{ { "d_ff" }, KEY_INT, CFG_READS_T5, MEMBER(intermediate_size), 1, 1 << 20 },
	{ { "num_layers" }, KEY_INT, CFG_READS_T5, MEMBER(num_hidden_layers), 1, EST_LAYERS_MAX / 2 },
	{ { "num_decoder_layers" }, KEY_INT, CFG_READS_T5, MEMBER(num_decoder_layers), 1, EST_LAYERS_MAX / 2 },
	{ { "num_heads" }, KEY_INT, CFG_READS_T5, MEMBER(num_attention_heads), 1, 4096 },
	{ { "relative_attention_num_buckets" }, KEY_INT, CFG_READS_T5, MEMBER(relative_attention_num_buckets), 2, 1 << 16 },
	{ { "dropout_rate" }, KEY_REAL, CFG_READS_T5, MEMBER(residual_dropout), 0, 1 },
	{ { "is_gated_act", "gated_mlp" }, KEY_BOOL, CFG_READS_T5, MEMBER(gated_mlp), 0, 0 },
	{ { "scale_decoder_outputs" }, KEY_BOOL, CFG_READS_T5, MEMBER(scale_decoder_outputs), 0, 0 },
};

/* Names of Transformers' activations.py whose operators the replay has. */
static const struct { const char *name; enum est_activation value; } activations[] = {
	{ "silu", EST_SILU },
	{ "swish", EST_SILU },
	{ "gelu", EST_GELU },
	{ "gelu_pytorch_tanh", EST_GELU },
	{ "gelu_new", EST_GELU_NEW },
	{ "relu", EST_RELU },
	{ "relu2", EST_RELU2 },
	{ "xielu", EST_XIELU },
};
/* clang-format on */

static const char unknown_activation[] = "an activation function that is not modelled yet";
static const char different_widths[] = "layers of different widths (intermediate_size), not modelled yet";

void cfg_hf_complain(const struct cfg_hf_reading *reading, const char *key, enum est_fault_code code,
		     const char *detail)
{
	char pointer[EST_POINTER_MAX];

	if (!reading->faults)
		return;
	snprintf(pointer, sizeof(pointer), "%s/%s", reading->pointer, key);
	est_fault_add(reading->faults, pointer, code, "%s", detail);
}

static void complain_range(const struct cfg_hf_reading *reading, const char *name, const struct key *key)
{
	char detail[EST_DETAIL_MAX];

	snprintf(detail, sizeof(detail), "must be a %s from %.15g to %.15g",
		 key->kind == KEY_INT ? "whole number" : "number", key->min, key->max);
	cfg_hf_complain(reading, name, EST_OUT_OF_RANGE, detail);
}

void cfg_hf_refuse(struct est_model *model, const char *reason)
{
	model->architecture = EST_ARCH_UNSUPPORTED;
	if (!model->unsupported)
		model->unsupported = reason;
}

static void read_number(const struct cfg_hf_reading *reading, const struct key *key, const char *name,
			const json_t *value)
{
	char *member = (char *)reading->model + key->offset;
	double number = json_is_null(value) ? 0 : json_number_value(value);

	if (!json_is_number(value) && !json_is_null(value))
		cfg_hf_complain(reading, name, EST_WRONG_TYPE, "must be a number");
	else if (json_is_number(value) && !(number >= key->min && number <= key->max))
		complain_range(reading, name, key);
	else if (key->kind == KEY_REAL)
		memcpy(member, &number, sizeof(number));
	else if (number != (double)(int64_t)number)
		complain_range(reading, name, key);
	else
		memcpy(member, &(int64_t){ (int64_t)number }, sizeof(int64_t));
}

static void read_bool(const struct cfg_hf_reading *reading, const struct key *key, const char *name,
		      const json_t *value)
{
	bool truth = json_is_true(value);

	if (json_is_boolean(value))
		memcpy((char *)reading->model + key->offset, &truth, sizeof(truth));
	else if (!json_is_null(value))
		cfg_hf_complain(reading, name, EST_WRONG_TYPE, "must be true or false");
}

void cfg_hf_set_activation(struct est_model *model, const char *word)
{
	for (size_t i = 0; i < sizeof(activations) / sizeof(activations[0]); i++)
		if (!strcmp(word, activations[i].name)) {
			model->activation = activations[i].value;
			return;
		}
	cfg_hf_refuse(model, unknown_activation);
}

static void read_activation(const struct cfg_hf_reading *reading, const char *name, const json_t *value)
{
	const char *word = json_string_value(value);

	if (json_is_null(value))
		return;
	if (!word) {
		cfg_hf_complain(reading, name, EST_WRONG_TYPE, "must be a string");
		return;
	}
	cfg_hf_set_activation(reading->model, word);
}

/* A list of one number for each layer, where all are the same, is that number. */
static const json_t *same_of_all(const struct cfg_hf_reading *reading, const json_t *list)
{
	const json_t *first = json_array_get(list, 0), *each;
	size_t layer;

	json_array_foreach(list, layer, each)
		if (!json_equal(each, first))
			cfg_hf_refuse(reading->model, different_widths);
	return first ? first : list;
}

static void read_key(const struct cfg_hf_reading *reading, const struct key *key, uint64_t reads)
{
	for (size_t i = 0; key->names[i]; i++) {
		const json_t *value = json_object_get(reading->object, key->names[i]);

		if (!value)
			continue;
		if (json_is_array(value) && (reads & CFG_READS_GEMMA3N))
			value = same_of_all(reading, value);
		if (key->kind == KEY_BOOL)
			read_bool(reading, key, key->names[i], value);
		else if (key->kind == KEY_ACTIVATION)
			read_activation(reading, key->names[i], value);
		else
			read_number(reading, key, key->names[i], value);
		return;
	}
}

void cfg_hf_read_keys(const struct cfg_hf_reading *reading, uint64_t reads)
{
	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
		if (!keys[i].reads || (keys[i].reads & reads))
			read_key(reading, &keys[i], reads);
}

bool cfg_hf_is_true(const struct cfg_hf_reading *reading, const char *key)
{
	return json_is_true(json_object_get(reading->object, key));
}

bool cfg_hf_is_sliding(const json_t *layer_types, size_t layer)
{
	const char *type = json_string_value(json_array_get(layer_types, layer));

	return type && !strcmp(type, "sliding_attention");
}
