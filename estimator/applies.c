#include "estimator/fields.h"

typedef bool condition(const struct est_request *request);

static bool always(const struct est_request *request)
{
	(void)request;
	return true;
}

static bool never(const struct est_request *request)
{
	(void)request;
	return false;
}

static bool is_quantized(const struct est_request *request)
{
	return request->method == EST_QLORA;
}

/* By PyTorch's libraries: what they do around a quantised layer MLX does not */
static bool is_quantized_for_torch(const struct est_request *request)
{
	return request->method == EST_QLORA && request->framework != EST_MLX;
}

static bool is_int8(const struct est_request *request)
{
	return request->method == EST_QLORA && request->quantization.type == EST_INT8;
}

static bool trains_last_layers(const struct est_request *request)
{
	return request->method == EST_FREEZE || request->framework == EST_MLX;
}

static bool projects(const struct est_request *request)
{
	return request->optimizer == EST_GALORE_ADAMW || request->optimizer == EST_APOLLO_ADAMW;
}

static bool is_megatron(const struct est_request *request)
{
	return request->framework == EST_MEGATRON;
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

static bool is_pipeline(const struct est_request *request)
{
	return request->parallelism.pipeline > 1;
}

static bool is_context_parallel(const struct est_request *request)
{
	return request->parallelism.context > 1;
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
	return est_is_zero(request->parallelism.strategy);
}

static bool is_zero12(const struct est_request *request)
{
	return is_zero(request) && !is_zero3(request);
}

/* only: what a client who names the field all the same is told; NULL where naming it is harmless. */
static const struct {
	condition *holds;
	const char *only;
} conditions[] = {
	[EST_ALWAYS] = { always, NULL },
	[EST_NEVER_ASSUMED] = { never, NULL },
	[EST_WITH_ADAPTERS] = { est_has_adapters, "method lora or qlora" },
	[EST_WITH_QLORA] = { is_quantized, "method qlora" },
	[EST_WITH_TORCH_QLORA] = { is_quantized_for_torch, "method qlora, and not with framework mlx" },
	[EST_WITH_INT8] = { is_int8, "quantization.type int8" },
	[EST_WITH_LAYERS] = { trains_last_layers, "method freeze or framework mlx" },
	[EST_WITH_PROJECTION] = { projects, "optimizer galore_adamw or apollo_adamw" },
	[EST_WITH_MEGATRON] = { is_megatron, "framework megatron" },
	[EST_WITH_REFERENCE] = { has_reference, "objective dpo, kto or grpo" },
	[EST_WITH_GRPO] = { has_beta, NULL },
	[EST_WITH_DECODER] = { has_decoder_length, "task sequence_to_sequence" },
	[EST_WITH_CHECKPOINTS] = { is_checkpointed, NULL },
	[EST_WITH_LOSS_BY_LABEL] = { skips_unlabelled, NULL },
	[EST_WITH_GPUS] = { is_parallel, NULL },
	[EST_WITH_TENSOR] = { is_tensor_parallel, NULL },
	[EST_WITH_PIPELINE] = { is_pipeline, NULL },
	[EST_WITH_CONTEXT] = { is_context_parallel, NULL },
	[EST_WITH_DDP] = { is_ddp, NULL },
	[EST_WITH_HSDP] = { is_hsdp, "strategy hsdp" },
	[EST_WITH_FSDP] = { is_fsdp, NULL },
	[EST_WITH_FSDP1] = { is_fsdp1, NULL },
	[EST_WITH_ZERO] = { is_zero, NULL },
	[EST_WITH_ZERO12] = { is_zero12, NULL },
	[EST_WITH_ZERO3] = { is_zero3, NULL },
};

bool est_field_applies(const struct est_field *field, const struct est_request *request, const char **ret_only)
{
	if (ret_only)
		*ret_only = conditions[field->when].only;
	return conditions[field->when].holds(request);
}
