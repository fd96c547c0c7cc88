/* TrainingArguments (transformers/training_args.py), with what TRL's configs add to it. */
#include "config/from_rows.h"

/* clang-format off */

static const struct cfg_from_word optimizers[] = {
	OPTIMIZER_NAMES, { "paged_adamw", "paged_adamw_32bit" }, { NULL, NULL }
};
static const struct cfg_from_word attentions[] = { { "kernels-community/flash-attn2", "flash_attention_2" },
						   { NULL, NULL } };
static const struct cfg_from_word loaded[] = { /* as enum est_dtype */
	{ "bfloat16", "0" }, { "float16", "1" }, { "float32", "2" }, { "auto", NULL }, { NULL, NULL }
};

const struct cfg_from_row cfg_from_training_rows[] = {
	OR("per_device_train_batch_size", "micro_batch_size", "8"),
	FIELD("per_gpu_train_batch_size", "micro_batch_size"),
	FIELD("gradient_accumulation_steps", "gradient_accumulation_steps"),
	FIELD("max_grad_norm", "max_grad_norm"),
	WORDS("optim", "optimizer", optimizers),
	OFF("optim_args", "name what it says of a rank in optimizer_rank instead: it is not read"),
	FIELD("gradient_checkpointing", "gradient_checkpointing"),
	FIELD("activation_checkpointing", "gradient_checkpointing"),
	FIELD("gradient_checkpointing_kwargs.use_reentrant", "use_reentrant"),
	FIELD("activation_checkpointing_kwargs.use_reentrant", "use_reentrant"),
	FACT("bf16", CFG_BF16, cfg_from_switch),
	FACT("fp16", CFG_FP16, cfg_from_switch),
	OFF("fp8", "fp8 arithmetic is not modelled"),
	FIELD("torch_compile", "torch_compile"),
	FILE_OF("deepspeed", "deepspeed"),
	FSDP("fsdp"),
	FIELD("parallelism_config.tp_size", "parallelism.tensor"),
	FACT("parallelism_config.cp_size", CFG_RING, NULL),
	FACT("parallelism_config.sp_size", CFG_ULYSSES, NULL),
	FACT("parallelism_config.dp_replicate_size", CFG_REPLICAS, NULL),
	FACT("parallelism_config.dp_shard_size", CFG_SHARDS, NULL),
	OFF("use_cpu", "training on a CPU needs no GPU"),
	WARN("label_smoothing_factor", "keeps log-probabilities of the logits"),
	WARN("neftune_noise_alpha", "adds noise to the embeddings"),
	WARN("auto_find_batch_size", "halves the batch until it fits"),
	END
};

static const struct cfg_from_row rows[] = {
	FIELD("use_liger_kernel", "liger_kernel"),
	/* TRL's */
	FIELD("max_length", "sequence_length"),
	FIELD("max_seq_length", "sequence_length"),
	FIELD("beta", "beta"),
	WORDS("precompute_ref_log_probs", "reference_model", WHEN_TRUE("precomputed")),
	OFF("activation_offloading", "name gradient_checkpointing offload instead: TRL's own is not modelled"),
	WORDS("model_init_kwargs.attn_implementation", "attention", attentions),
	FACT("model_init_kwargs.dtype", CFG_LOADED, loaded),
	FACT("model_init_kwargs.torch_dtype", CFG_LOADED, loaded),
	END
};
const struct cfg_from_format cfg_from_training_arguments = {
	"training_arguments", "TrainingArguments", rows, { cfg_from_training_rows, cfg_from_fsdp_rows }, NULL, "2", false
};
