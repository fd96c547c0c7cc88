/* accelerate's config (accelerate/commands/config/config_args.py), and the keys of its FSDP plugin, which trainers
 * share. */
#include "config/from_rows.h"

/* clang-format off */

/* fsdp_sharding_strategy by name or number, fsdp_reshard_after_forward also as a switch */
static const struct cfg_from_word shardings[] = {
	{ "FULL_SHARD", "1" }, { "true", "1" }, { "1", "1" }, { "SHARD_GRAD_OP", "0" }, { "false", "0" }, { "2", "0" },
	{ "NO_SHARD", "2" }, { "3", "2" }, { "HYBRID_SHARD", "3" }, { "4", "3" }, { NULL, NULL }
};
/* the words of TrainingArguments.fsdp; NULL: weights and states on the CPU */
const struct cfg_from_word cfg_from_fsdp_words[] = {
	{ "full_shard", "1" }, { "shard_grad_op", "0" }, { "no_shard", "2" }, { "hybrid_shard", "3" }, { "auto_wrap", "" },
	{ "true", "" }, { "offload", NULL }, { NULL, NULL }
};
static const struct cfg_from_word wraps[] = { { "TRANSFORMER_BASED_WRAP", NULL }, { NULL, NULL } };
const struct cfg_from_word cfg_from_fsdp_versions[] = { { "1", "1" }, { "2", "2" }, { NULL, NULL } };

const struct cfg_from_row cfg_from_fsdp_rows[] = {
	FACT("fsdp_config.version", CFG_FSDP_VERSION, cfg_from_fsdp_versions),
	FACT("fsdp_config.sharding_strategy", CFG_SHARDING, shardings),
	FACT("fsdp_config.reshard_after_forward", CFG_SHARDING, shardings),
	FACT("fsdp_config.offload_params", CFG_FSDP_OFFLOAD, cfg_from_switch),
	FACT("fsdp_config.cpu_offload", CFG_FSDP_OFFLOAD, cfg_from_switch),
	FACT("fsdp_config.activation_checkpointing", CFG_FSDP_CHECKPOINTS, cfg_from_switch),
	FACT("fsdp_config.auto_wrap_policy", CFG_FSDP_ON, wraps),
	FIELD("fsdp_config.use_orig_params", "parallelism.use_orig_params"),
	FIELD("fsdp_config.limit_all_gathers", "parallelism.limit_all_gathers"),
	OFF("fsdp_config.min_num_params", "units by size are not modelled"),
	OFF("fsdp_config.xla", "XLA is not modelled"),
	OFF("fsdp_config.mixed_precision_policy", "name parallelism.param_dtype, .reduce_dtype and .output_dtype instead"),
	END
};

static const struct cfg_from_word distributions[] = {
	{ "FSDP", "1" }, { "DEEPSPEED", NULL }, { "MULTI_GPU", NULL }, { "NO", NULL }, { NULL, NULL }
};
/* "no" leaves it to the trainer's own switches */
static const struct cfg_from_word bf16_words[] = {
	{ "bf16", "1" }, { "fp16", NULL }, { "no", NULL }, { NULL, NULL }
};
static const struct cfg_from_word fp16_words[] = {
	{ "fp16", "1" }, { "bf16", NULL }, { "no", NULL }, { NULL, NULL }
};
static const struct cfg_from_word compilers[] = { { "no", NULL }, { "inductor", "true" }, { "eager", NULL },
						  { NULL, NULL } };

static const struct cfg_from_row rows[] = {
	FACT("distributed_type", CFG_FSDP_ON, distributions),
	FACT("mixed_precision", CFG_BF16, bf16_words),
	FACT("mixed_precision", CFG_FP16, fp16_words),
	FIELD("num_processes", "parallelism.gpus"),
	FACT("num_machines", CFG_NODES, NULL),
	FIELD("gradient_accumulation_steps", "gradient_accumulation_steps"),
	FACT("deepspeed_config.zero_stage", CFG_STAGE, NULL),
	FIELD("deepspeed_config.gradient_accumulation_steps", "gradient_accumulation_steps"),
	FIELD("deepspeed_config.gradient_clipping", "max_grad_norm"),
	WORDS("deepspeed_config.offload_optimizer_device", "offload.optimizer", cfg_from_devices),
	WORDS("deepspeed_config.offload_param_device", "offload.parameters", cfg_from_devices),
	FILE_OF("deepspeed_config.deepspeed_config_file", "deepspeed"),
	FIELD("parallelism_config.tp_size", "parallelism.tensor"),
	FACT("parallelism_config.cp_size", CFG_RING, NULL),
	FACT("parallelism_config.sp_size", CFG_ULYSSES, NULL),
	FACT("parallelism_config.dp_replicate_size", CFG_REPLICAS, NULL),
	FACT("parallelism_config.dp_shard_size", CFG_SHARDS, NULL),
	WORDS("dynamo_config.backend", "torch_compile", compilers),
	OFF("fp8_config", "fp8 arithmetic is not modelled"),
	OFF("megatron_lm_config", "its settings are not read: name framework megatron and parallelism"),
	OFF("use_cpu", "training on a CPU needs no GPU"),
	END
};
const struct cfg_from_format cfg_from_accelerate = {
	"accelerate", "accelerate", rows, { cfg_from_fsdp_rows, NULL }, NULL, "1", false
};
