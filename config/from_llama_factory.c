/* LLaMA-Factory's YAML (llamafactory/hparams/), which takes all that TrainingArguments do. */
#include "config/from_rows.h"

/* clang-format off */

static const struct cfg_from_word methods[] = { /* as enum est_method */
	{ "full", "0" }, { "lora", "1" }, { "freeze", "3" }, { NULL, NULL }
};
static const struct cfg_from_word targets[] = { { "all", "all-linear" }, { NULL, NULL } };
static const struct cfg_from_word bits[] = { { "4", "4" }, { "8", "8" }, { NULL, NULL } };
static const struct cfg_from_word quantizers[] = { { "bnb", NULL }, { "hqq", "hqq" }, { NULL, NULL } };
static const struct cfg_from_word stages[] = {
	{ "pt", "pretrain" }, { "sft", "sft" }, { "rm", "reward" }, { "dpo", "dpo" }, { "kto", "kto" }, { NULL, NULL }
};
/* SimPO and ORPO have no reference */
static const struct cfg_from_word losses[] = {
	{ "sigmoid", NULL }, { "hinge", NULL }, { "ipo", NULL }, { "kto_pair", NULL }, { "orpo", "none" }, { "simpo", "none" },
	{ NULL, NULL }
};
static const struct cfg_from_word attentions[] = {
	{ "disabled", "eager" }, { "fa2", "flash_attention_2" }, { "fa3", "flash_attention_3" }, { NULL, NULL }
};
static const struct cfg_from_word checkpoints[] = { { "true", "false" }, { "false", "true" }, { NULL, NULL } };

static const struct cfg_from_row rows[] = {
	FIELD("model_name_or_path", "model"),
	OR("cutoff_len", "sequence_length", "2048"),
	FACT("finetuning_type", CFG_ADAPTER, methods),
	FACT("quantization_bit", CFG_BITS, bits),
	WORDS("quantization_method", "quantization.type", quantizers),
	FIELD("quantization_type", "quantization.type"),
	FIELD("double_quantization", "quantization.double_quant"),
	OR("lora_rank", "lora.rank", "8"),
	FIELD("lora_alpha", "lora.alpha"),
	FIELD("lora_dropout", "lora.dropout"),
	WORDS("lora_target", "lora.target_modules", targets),
	FIELD("additional_target", "lora.modules_to_save"),
	FIELD("use_dora", "lora.dora"),
	FIELD("use_rslora", "lora.rslora"),
	OR("freeze_trainable_layers", "trainable_layers", "2"),
	FIELD("freeze_vision_tower", "freeze_vision_tower"),
	WORDS("stage", "objective", stages),
	WORDS("pref_loss", "reference_model", losses),
	FACT("pure_bf16", CFG_PURE, cfg_from_switch),
	WORDS("flash_attn", "attention", attentions),
	FIELD("enable_liger_kernel", "liger_kernel"),
	WORDS("disable_gradient_checkpointing", "gradient_checkpointing", checkpoints),
	FIELD("use_reentrant_gc", "use_reentrant"),
	WORDS("use_muon", "optimizer", WHEN_TRUE("muon")),
	OFF("use_unsloth", "Unsloth under LLaMA-Factory is not modelled: framework unsloth is"),
	OFF("use_unsloth_gc", "Unsloth's checkpoints under LLaMA-Factory are not modelled"),
	OFF("use_galore", "LLaMA-Factory's GaLore is not modelled"),
	OFF("use_apollo", "LLaMA-Factory's APOLLO is not modelled"),
	OFF("use_badam", "BAdam is not modelled"),
	OFF("use_adam_mini", "Adam-mini is not modelled"),
	OFF("use_llama_pro", "LLaMA Pro is not modelled"),
	OFF("use_mca", "its settings are not read: name framework megatron and parallelism"),
	OFF("use_megatron_bridge", "its settings are not read: name framework megatron and parallelism"),
	OFF("use_hyper_parallel", "HyperParallel is not modelled"),
	OFF("use_kt", "KTransformers is not modelled"),
	OFF("mixture_of_depths", "mixture of depths is not modelled"),
	OFF("shift_attn", "shifted attention is not modelled"),
	OFF("train_from_scratch", "name precision instead: a model that is made anew is fp32"),
	OFF("freeze_language_model", "freezing the language model is not modelled"),
	OFF("ref_model", "a reference of another model is not modelled"),
	OFF("pref_ftx", "a supervised loss beside the preference's is not modelled"),
	WARN("upcast_layernorm", "makes norms fp32"),
	WARN("upcast_lmhead_output", "makes logits fp32"),
	END
};
const struct cfg_from_format cfg_from_llama_factory = {
	"llama_factory", "LLaMA-Factory", rows, { cfg_from_training_rows, cfg_from_fsdp_rows }, "llama_factory", "2", false
};
