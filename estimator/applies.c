#include "estimator/fields.h"

#include <string.h>

typedef bool condition(const struct est_request *request);

static bool never(const struct est_request *request)
{
	(void)request;
	return false;
}

static bool trains_adapters(const struct est_request *request)
{
	return request->method == EST_LORA || request->method == EST_QLORA;
}

static bool is_quantized(const struct est_request *request)
{
	return request->method == EST_QLORA;
}

static bool is_frozen(const struct est_request *request)
{
	return request->method == EST_FREEZE;
}

static bool projects(const struct est_request *request)
{
	return request->optimizer == EST_GALORE_ADAMW || request->optimizer == EST_APOLLO_ADAMW;
}

static bool has_reference(const struct est_request *request)
{
	return request->objective == EST_DPO || request->objective == EST_KTO || request->objective == EST_GRPO;
}

static bool has_beta(const struct est_request *request)
{
	return request->objective == EST_GRPO;
}

static bool has_decoder_length(const struct est_request *request)
{
	return request->task == EST_SEQUENCE_TO_SEQUENCE;
}

static bool is_checkpointed(const struct est_request *request)
{
	return request->checkpointing != EST_CHECKPOINT_NONE;
}

static bool skips_unlabelled(const struct est_request *request)
{
	return request->loss != EST_LOSS_STANDARD;
}

static bool is_parallel(const struct est_request *request)
{
	return request->parallelism.gpus > 1;
}

static bool is_tensor_parallel(const struct est_request *request)
{
	return request->parallelism.tensor > 1;
}

static bool is_ddp(const struct est_request *request)
{
	return request->parallelism.strategy == EST_DDP;
}

static bool is_hsdp(const struct est_request *request)
{
	return request->parallelism.strategy == EST_HSDP;
}

static bool is_fsdp1(const struct est_request *request)
{
	return request->parallelism.strategy == EST_FSDP1;
}

static bool is_fsdp(const struct est_request *request)
{
	return request->parallelism.strategy >= EST_FSDP;
}

static bool is_zero3(const struct est_request *request)
{
	return request->parallelism.strategy == EST_ZERO3;
}

static bool is_zero(const struct est_request *request)
{
	return request->parallelism.strategy >= EST_ZERO1 && request->parallelism.strategy <= EST_ZERO3;
}

static bool is_zero12(const struct est_request *request)
{
	return is_zero(request) && !is_zero3(request);
}

/* Names that end with a dot stand for all below them. only: what a client who names the field all the same is told;
 * NULL where naming it is harmless. */
static const struct row {
	const char *name;
	condition *holds;
	const char *only;
} rows[] = {
	{ "versions.", never, NULL },
	{ "accounting", never, NULL },
	{ "include", never, NULL },
	{ "headroom_fraction", never, NULL },
	{ "gpus", never, NULL },
	{ "gpu_memory_bytes", never, NULL },
	{ "model", never, NULL },
	{ "lora.alpha", never, NULL },
	{ "base_dtype", trains_adapters, "method lora or qlora" },
	{ "lora.", trains_adapters, "method lora or qlora" },
	{ "quantization.", is_quantized, "method qlora" },
	{ "trainable_layers", is_frozen, "method freeze" },
	{ "optimizer_rank", projects, "optimizer galore_adamw or apollo_adamw" },
	{ "reference_model", has_reference, "objective dpo, kto or grpo" },
	{ "beta", has_beta, NULL },
	{ "target_length", has_decoder_length, "task sequence_to_sequence" },
	{ "use_reentrant", is_checkpointed, NULL },
	{ "completion_fraction", skips_unlabelled, NULL },
	{ "offload.", is_parallel, NULL },
	{ "parallelism.strategy", is_parallel, NULL },
	{ "parallelism.gpus_per_node", is_parallel, NULL },
	{ "parallelism.tensor", is_parallel, NULL },
	{ "parallelism.pipeline", is_parallel, NULL },
	{ "parallelism.context", is_parallel, NULL },
	{ "parallelism.expert", is_parallel, NULL },
	{ "parallelism.sequence_parallel", is_tensor_parallel, NULL },
	{ "parallelism.shard_size", is_hsdp, "strategy hsdp" },
	{ "parallelism.gradient_as_bucket_view", is_ddp, NULL },
	{ "parallelism.use_orig_params", is_fsdp1, NULL },
	{ "parallelism.limit_all_gathers", is_fsdp1, NULL },
	{ "parallelism.reshard_after_forward", is_fsdp, NULL },
	{ "parallelism.wrap", is_fsdp, NULL },
	{ "parallelism.param_dtype", is_fsdp, NULL },
	{ "parallelism.reduce_dtype", is_fsdp, NULL },
	{ "parallelism.output_dtype", is_fsdp, NULL },
	{ "parallelism.checkpoint_outside_unit", is_fsdp, NULL },
	{ "parallelism.sync_each_microbatch", is_fsdp, NULL },
	{ "parallelism.overlap_comm", is_zero, NULL },
	{ "parallelism.contiguous_gradients", is_zero, NULL },
	{ "parallelism.grad_accum_dtype", is_zero, NULL },
	{ "parallelism.communication_data_type", is_zero, NULL },
	{ "parallelism.sub_group_size", is_zero3, NULL },
	{ "parallelism.max_live_parameters", is_zero3, NULL },
	{ "parallelism.max_reuse_distance", is_zero3, NULL },
	{ "parallelism.buckets.reduce_bucket_size", is_zero, NULL },
	{ "parallelism.buckets.allgather_bucket_size", is_zero12, NULL },
	{ "parallelism.buckets.", is_zero3, NULL },
};

static bool covers(const char *name, const char *field)
{
	size_t length = strlen(name);

	return name[length - 1] == '.' ? !strncmp(name, field, length) : !strcmp(name, field);
}

bool est_field_applies(const struct est_field *field, const struct est_request *request, const char **ret_only)
{
	size_t i;

	if (ret_only)
		*ret_only = NULL;
	for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		if (!covers(rows[i].name, field->name))
			continue;
		if (ret_only)
			*ret_only = rows[i].only;
		return rows[i].holds(request);
	}
	return true;
}
