#include "estimator/words.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>
#include "estimator/request.h"

/* clang-format off */
const struct est_word est_framework_words[] = {
	{ "transformers", EST_TRANSFORMERS, false }, { "trl", EST_TRL, false }, { "axolotl", EST_AXOLOTL, false },
	{ "llama_factory", EST_LLAMA_FACTORY, false }, { "unsloth", EST_UNSLOTH, false },
	{ "deepspeed", EST_DEEPSPEED, false }, { "torchtitan", EST_TORCHTITAN, false },
	{ "torchtune", EST_TORCHTUNE, false }, { "litgpt", EST_LITGPT, false }, { "megatron", EST_MEGATRON, false },
	{ "mlx", EST_MLX, false }, { NULL, 0, false }
};

const struct est_word est_method_words[] = {
	{ "full", EST_FULL, false }, { "lora", EST_LORA, false }, { "qlora", EST_QLORA, false },
	{ "freeze", EST_FREEZE, false }, { NULL, 0, false }
};

const struct est_word est_precision_words[] = {
	{ "bf16_master", EST_BF16_MASTER, false }, { "fp16_master", EST_FP16_MASTER, false },
	{ "bf16_mixed", EST_BF16_MIXED, false }, { "fp16_mixed", EST_FP16_MIXED, false },
	{ "bf16", EST_PURE_BF16, false }, { "fp16", EST_PURE_FP16, false },
	{ "bf16_autocast", EST_BF16_AUTOCAST, false }, { "fp32", EST_PURE_FP32, false }, { NULL, 0, false }
};

const struct est_word est_dtype_words[] = {
	{ "bf16", EST_BF16, false }, { "fp16", EST_FP16, false }, { "fp32", EST_FP32, false },
	{ "none", EST_DTYPE_NONE, false }, { NULL, 0, false }
};

const struct est_word est_base_dtype_words[] = {
	{ "bf16", EST_BF16, false }, { "fp16", EST_FP16, false }, { "fp32", EST_FP32, false }, { NULL, 0, false }
};

const struct est_word est_optimizer_words[] = {
	{ "adamw_torch_fused", EST_ADAMW_TORCH_FUSED, false }, { "adamw", EST_ADAMW_TORCH_FUSED, true },
	{ "adamw_torch", EST_ADAMW_TORCH, false },
	{ "adamw_8bit", EST_ADAMW_8BIT, false }, { "adamw_bnb_8bit", EST_ADAMW_8BIT, true },
	{ "adamw_4bit", EST_ADAMW_4BIT, false }, { "adamw_fp8", EST_ADAMW_FP8, false },
	{ "paged_adamw_32bit", EST_PAGED_ADAMW_32BIT, false }, { "paged_adamw_8bit", EST_PAGED_ADAMW_8BIT, false },
	{ "adafactor", EST_ADAFACTOR, false }, { "lion", EST_LION, false }, { "lion_8bit", EST_LION_8BIT, false },
	{ "sgd", EST_SGD, false }, { "sgd_momentum", EST_SGD_MOMENTUM, false }, { "muon", EST_MUON, false },
	{ "galore_adamw", EST_GALORE_ADAMW, false }, { "apollo_adamw", EST_APOLLO_ADAMW, false },
	{ "apollo_adamw_mini", EST_APOLLO_ADAMW_MINI, false },
	{ "adamw_8bit_torchao", EST_ADAMW_8BIT_TORCHAO, false }, { NULL, 0, false }
};

const struct est_word est_checkpointing_words[] = {
	{ "none", EST_CHECKPOINT_NONE, false }, { "full", EST_CHECKPOINT_FULL, false },
	{ "selective", EST_CHECKPOINT_SELECTIVE, false }, { "offload", EST_CHECKPOINT_OFFLOAD, false },
	{ NULL, 0, false }
};

const struct est_word est_selective_words[] = {
	{ "op", EST_SELECTIVE_OP, false }, { "attention", EST_SELECTIVE_ATTENTION, false },
	{ "all_matmul", EST_SELECTIVE_ALL_MATMUL, false }, { NULL, 0, false }
};

const struct est_word est_attention_words[] = {
	{ "sdpa", EST_SDPA, false }, { "flash_attention_2", EST_FLASH_ATTENTION_2, false },
	{ "flash_attention_3", EST_FLASH_ATTENTION_3, false }, { "eager", EST_EAGER, false },
	{ "flex_attention", EST_FLEX_ATTENTION, false }, { "sdpa_flash", EST_SDPA_FLASH, false },
	{ "sdpa_efficient", EST_SDPA_EFFICIENT, false }, { "sdpa_cudnn", EST_SDPA_CUDNN, false },
	{ "sdpa_math", EST_SDPA_MATH, false }, { NULL, 0, false }
};

const struct est_word est_loss_words[] = {
	{ "standard", EST_LOSS_STANDARD, false }, { "chunked", EST_LOSS_CHUNKED, false },
	{ "liger", EST_LOSS_LIGER, false }, { "cut_cross_entropy", EST_LOSS_CUT_CROSS_ENTROPY, false },
	{ "vocab_parallel", EST_LOSS_VOCAB_PARALLEL, false }, { NULL, 0, false }
};

const struct est_word est_strategy_words[] = {
	{ "none", EST_SINGLE, false }, { "ddp", EST_DDP, false }, { "zero1", EST_ZERO1, false },
	{ "zero2", EST_ZERO2, false }, { "zero3", EST_ZERO3, false }, { "fsdp", EST_FSDP, false },
	{ "fsdp2", EST_FSDP, true }, { "fsdp1", EST_FSDP1, false }, { "hsdp", EST_HSDP, false }, { NULL, 0, false }
};

const struct est_word est_context_backend_words[] = {
	{ "ring", EST_RING, false }, { "ulysses", EST_ULYSSES, false }, { NULL, 0, false }
};

const struct est_word est_pipeline_schedule_words[] = {
	{ "1f1b", EST_1F1B, false }, { "interleaved_1f1b", EST_INTERLEAVED_1F1B, false },
	{ "interleaved1f1b", EST_INTERLEAVED_1F1B, true }, { NULL, 0, false }
};

const struct est_word est_wrap_words[] = {
	{ "accelerate", EST_WRAP_ACCELERATE, false }, { "layer_root", EST_WRAP_LAYER_ROOT, false },
	{ "peft", EST_WRAP_PEFT, false }, { NULL, 0, false }
};

const struct est_word est_auto_words[] = { { "auto", EST_AUTO, false }, { NULL, 0, false } };

const struct est_word est_device_words[] = {
	{ "none", EST_ON_GPU, false }, { "cpu", EST_ON_CPU, false }, { "nvme", EST_ON_NVME, false },
	{ NULL, 0, false }
};

const struct est_word est_all_linear_words[] = { { "all-linear", 1, false }, { NULL, 0, false } };

const struct est_word est_quantization_words[] = {
	{ "nf4", EST_NF4, false }, { "fp4", EST_FP4, false }, { "int8", EST_INT8, false },
	{ "gptq", EST_GPTQ, false }, { "hqq", EST_HQQ, false }, { "mxfp4", EST_MXFP4, false }, { "affine", EST_AFFINE, false },
	{ NULL, 0, false }
};

const struct est_word est_storage_words[] = {
	{ "uint8", EST_STORE_UINT8, false }, { "bf16", EST_STORE_BF16, false }, { "fp16", EST_STORE_FP16, false },
	{ "fp32", EST_STORE_FP32, false }, { NULL, 0, false }
};

const struct est_word est_objective_words[] = {
	{ "sft", EST_SFT, false }, { "pretrain", EST_PRETRAIN, false }, { "dpo", EST_DPO, false },
	{ "orpo", EST_ORPO, false }, { "kto", EST_KTO, false }, { "reward", EST_REWARD, false },
	{ "grpo", EST_GRPO, false }, { NULL, 0, false }
};

const struct est_word est_reference_words[] = {
	{ "model", EST_REFERENCE_MODEL, false }, { "adapter", EST_REFERENCE_ADAPTER, false },
	{ "precomputed", EST_REFERENCE_PRECOMPUTED, false }, { "none", EST_REFERENCE_NONE, false },
	{ NULL, 0, false }
};

const struct est_word est_task_words[] = {
	{ "causal_lm", EST_CAUSAL_LM, false }, { "masked_lm", EST_MASKED_LM, false },
	{ "sequence_classification", EST_SEQUENCE_CLASSIFICATION, false },
	{ "sequence_to_sequence", EST_SEQUENCE_TO_SEQUENCE, false }, { NULL, 0, false }
};

const struct est_word est_accounting_words[] = {
	{ "replay", EST_REPLAY, false }, { "rule_of_thumb", EST_RULE_OF_THUMB, false }, { NULL, 0, false }
};

const struct est_word est_timeline_words[] = {
	{ "phases", EST_TIMELINE_PHASES, false }, { "full", EST_TIMELINE_FULL, false }, { NULL, 0, false }
};

const struct est_word est_include_words[] = {
	{ "limits", EST_INCLUDE_LIMITS, false }, { "advice", EST_INCLUDE_ADVICE, false },
	{ "timeline", EST_INCLUDE_TIMELINE, false }, { "hints", EST_INCLUDE_HINTS, false },
	{ "rule_of_thumb", EST_INCLUDE_RULE_OF_THUMB, false }, { NULL, 0, false }
};
/* clang-format on */

size_t est_copy_text(char *to, size_t size, const char *text)
{
	size_t length = strlen(text);

	length = length < size ? length : size - 1;
	memcpy(to, text, length);
	to[length] = '\0';
	return length;
}

void est_whole_text(int64_t value, char *text, size_t size)
{
	char digits[24], *at = digits + sizeof(digits);
	uint64_t left = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;

	*--at = '\0';
	do
		*--at = (char)('0' + left % 10);
	while (left /= 10);
	if (value < 0)
		*--at = '-';
	est_copy_text(text, size, at);
}

const char *est_word_name(const struct est_word *words, int value)
{
	for (; words->name; words++)
		if (words->value == value)
			return words->name;
	return "";
}

const struct est_word *est_word_find(const struct est_word *words, const char *text, size_t length)
{
	for (; words->name; words++)
		if (strlen(words->name) == length && !strncasecmp(words->name, text, length))
			return words;
	return NULL;
}

const char *est_word_list(const struct est_word *words, char *text, size_t size)
{
	const char *separator = "";
	const struct est_word *word, *next;
	size_t used = 0;

	text[0] = '\0';
	for (word = words; word->name && used < size; word = next) {
		for (next = word + 1; next->name && next->alias; next++)
			;
		used += (size_t)snprintf(text + used, size - used, "%s%s", separator, word->name);
		separator = next->name && !next[1].name ? " or " : ", ";
	}
	return text;
}
