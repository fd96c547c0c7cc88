/* DeepSpeed's JSON (deepspeed/runtime/config.py, runtime/zero/config.py), and what files share. */
#include "config/from_rows.h"

/* clang-format off */

const struct cfg_from_word cfg_from_switch[] = {
	{ "true", "1" }, { "yes", "1" }, { "1", "1" }, { "false", "0" }, { "no", "0" }, { "0", "0" }, { NULL, NULL }
};
const struct cfg_from_word cfg_from_devices[] = {
	{ "none", "none" }, { "cpu", "cpu" }, { "nvme", "nvme" }, { "", NULL }, { NULL, NULL }
};
static const struct cfg_from_word types[] = {
	{ "fp32", "fp32" }, { "float32", "fp32" }, { "bf16", "bf16" }, { "bfp16", "bf16" }, { "bfloat16", "bf16" },
	{ "fp16", "fp16" }, { "float16", "fp16" }, { NULL, NULL }
};
/* Its Adam and AdamW are one fused kernel, without foreach's temporaries. */
static const struct cfg_from_word optimizers[] = {
	{ "Adam", "adamw_torch_fused" }, { "AdamW", "adamw_torch_fused" }, { "FusedAdam", "adamw_torch_fused" },
	{ "DeepSpeedCPUAdam", "adamw_torch_fused" }, { NULL, NULL }
};

static const struct cfg_from_row rows[] = {
	FIELD("train_micro_batch_size_per_gpu", "micro_batch_size"),
	FIELD("gradient_accumulation_steps", "gradient_accumulation_steps"),
	FIELD("gradient_clipping", "max_grad_norm"),
	FACT("train_batch_size", CFG_TRAIN_BATCH, NULL),
	FACT("bf16.enabled", CFG_BF16, cfg_from_switch),
	FACT("bfloat16.enabled", CFG_BF16, cfg_from_switch),
	FACT("fp16.enabled", CFG_FP16, cfg_from_switch),
	FACT("zero_optimization.stage", CFG_STAGE, NULL),
	FIELD("zero_optimization.overlap_comm", "parallelism.overlap_comm"),
	FIELD("zero_optimization.contiguous_gradients", "parallelism.contiguous_gradients"),
	FIELD("zero_optimization.reduce_bucket_size", "parallelism.buckets.reduce_bucket_size"),
	FIELD("zero_optimization.allgather_bucket_size", "parallelism.buckets.allgather_bucket_size"),
	FIELD("zero_optimization.stage3_prefetch_bucket_size", "parallelism.buckets.prefetch_bucket_size"),
	FIELD("zero_optimization.prefetch_bucket_size", "parallelism.buckets.prefetch_bucket_size"),
	FIELD("zero_optimization.stage3_param_persistence_threshold", "parallelism.buckets.param_persistence_threshold"),
	FIELD("zero_optimization.param_persistence_threshold", "parallelism.buckets.param_persistence_threshold"),
	FIELD("zero_optimization.sub_group_size", "parallelism.sub_group_size"),
	FIELD("zero_optimization.stage3_max_live_parameters", "parallelism.max_live_parameters"),
	FIELD("zero_optimization.max_live_parameters", "parallelism.max_live_parameters"),
	FIELD("zero_optimization.stage3_max_reuse_distance", "parallelism.max_reuse_distance"),
	FIELD("zero_optimization.max_reuse_distance", "parallelism.max_reuse_distance"),
	WORDS("zero_optimization.offload_optimizer.device", "offload.optimizer", cfg_from_devices),
	WORDS("zero_optimization.offload_param.device", "offload.parameters", cfg_from_devices),
	WORDS("zero_optimization.cpu_offload", "offload.optimizer", WHEN_TRUE("cpu")),
	OFF("zero_optimization.offload_optimizer.ratio", "a part of the optimizer offloaded is not modelled"),
	OFF("zero_optimization.zero_quantized_weights", "ZeRO++'s quantised weights are not modelled"),
	OFF("zero_optimization.zero_quantized_nontrainable_weights", "ZeRO++'s quantised weights are not modelled"),
	OFF("zero_optimization.zero_quantized_gradients", "ZeRO++'s quantised gradients are not modelled"),
	WORDS("data_types.grad_accum_dtype", "parallelism.grad_accum_dtype", types),
	WORDS("communication_data_type", "parallelism.communication_data_type", types),
	WORDS("optimizer.type", "optimizer", optimizers),
	FIELD("tensor_parallel.autotp_size", "parallelism.tensor"),
	OFF("torch_autocast.enabled", "DeepSpeed's own autocast is not modelled"),
	OFF("amp.enabled", "NVIDIA's apex is not modelled"),
	END
};
const struct cfg_from_format cfg_from_deepspeed = { "deepspeed", "DeepSpeed", rows, { NULL, NULL }, NULL, "1", false };
