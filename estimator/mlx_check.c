/* What mlx_lm.lora trains, and what of a request it does not have or is not modelled of it. */
#include "estimator/mlx.h"

#include <string.h>
#include "estimator/adapters.h"
#include "estimator/fields.h"
#include "estimator/mlx_step.h"

enum { NUM_LAYERS = 16, LAYERS_MAX = 256 };

bool est_mlx_wanted(const struct est_request *request)
{
	return request->framework == EST_MLX;
}

int64_t est_mlx_trained_layers(const struct est_request *request, const struct est_model *model)
{
	int64_t wanted = request->trainable_layers ? request->trainable_layers : NUM_LAYERS;

	return wanted < model->num_hidden_layers ? wanted : model->num_hidden_layers;
}

int64_t est_mlx_trainable_parameters(const struct est_request *request, const struct est_model *model)
{
	int64_t layers = est_mlx_trained_layers(request, model);

	if (!est_has_adapters(request))
		return layers * est_model_layer_parameters(model);
	return est_lora_parameters(model, &request->lora) / est_model_stacked_layers(model) * layers;
}

/* Model code of mlx_lm/models that is built here, by the model_type that asks for it; a model without one has Llama's shape. */
static bool is_modelled(const struct est_model *model)
{
	static const char *const types[] = { "", "llama", "mistral", "iquestcoder", "qwen2", "qwen3" };
	bool known = (model->architecture == EST_ARCH_LLAMA || model->architecture == EST_ARCH_QWEN3) && model->activation == EST_SILU;

	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++)
		if (!strcmp(model->model_type, types[i]))
			return known && model->embedding_multiplier == 0 && model->residual_multiplier == 0;
	return false;
}

static bool is_pure(enum est_precision precision)
{
	return precision == EST_PURE_BF16 || precision == EST_PURE_FP16 || precision == EST_PURE_FP32;
}

/* Neither does mlx_lm.lora convert the base: it trains over the checkpoint's own type */
static bool names_another_base(const struct est_request *request)
{
	static const enum est_precision of[] = { [EST_BF16] = EST_PURE_BF16, [EST_FP16] = EST_PURE_FP16, [EST_FP32] = EST_PURE_FP32 };

	return est_field_is_named(est_field_find("base_dtype"), request)
	       && (request->base_dtype > EST_FP32 || of[request->base_dtype] != request->precision);
}

/* Widths that groups of quantised weights must divide, and words of 32 bits. */
static bool cuts_groups(const struct est_request *request, const struct est_model *model)
{
	int64_t group = request->quantization.group_size, queries = model->num_attention_heads * model->head_dim;

	if (request->method != EST_QLORA)
		return false;
	return (group != 32 && group != 64 && group != 128) || model->hidden_size % group || model->intermediate_size % group || queries % group;
}

static void check_layers(const struct est_request *request, const struct est_model *model, struct est_faults *faults)
{
	if (request->trainable_layers > model->num_hidden_layers)
		est_fault_add(faults, "/trainable_layers", EST_OUT_OF_RANGE, "must be at most the model's %lld layers",
			      (long long)model->num_hidden_layers);
	if (model->num_hidden_layers > LAYERS_MAX)
		est_fault_add(faults, "/model", EST_NOT_SUPPORTED_YET, "more than %d layers are not modelled with mlx", LAYERS_MAX);
}

void est_mlx_check(const struct est_request *request, const struct est_model *model, struct est_faults *faults)
{
	bool adapts = est_has_adapters(request), quantized = request->method == EST_QLORA;
	const struct est_refusal rows[] = {
		{ "method", request->method == EST_FREEZE },
		{ "precision", !is_pure(request->precision) },
		{ "base_dtype", adapts && names_another_base(request) },
		{ "optimizer", !est_mlx_knows_optimizer(request->optimizer) },
		{ "max_grad_norm", request->max_grad_norm > 0 },
		{ "outputs_to_fp32", request->outputs_to_fp32 },
		{ "gradient_checkpointing", request->checkpointing != EST_CHECKPOINT_NONE && request->checkpointing != EST_CHECKPOINT_FULL },
		{ "attention", request->attention != EST_SDPA },
		{ "attention_mask", request->attention_mask },
		{ "loss", request->loss != EST_LOSS_STANDARD },
		{ "liger_kernel", request->liger_kernel },
		{ "torch_compile", request->torch_compile },
		{ "fuse_optimizer_in_backward", request->fuse_optimizer_in_backward },
		{ "objective", !est_models_language(request) },
		{ "task", request->task != EST_CAUSAL_LM },
		{ "parallelism.gpus", request->parallelism.gpus > 1 },
		{ "offload.optimizer", request->offload.optimizer != EST_ON_GPU },
		{ "offload.parameters", request->offload.parameters != EST_ON_GPU },
		{ "offload.activations", request->offload.activations != EST_ON_GPU },
		{ "lora.dropout", adapts && request->lora.dropout > 0 },
		{ "lora.dora", adapts && request->lora.dora },
		{ "lora.modules_to_save", adapts && request->lora.modules_to_save.count > 0 },
		{ "lora.adapter_dtype", adapts && request->lora.adapter_dtype != EST_FP32 },
		{ "quantization.type", quantized && request->quantization.type != EST_AFFINE },
		{ "quantization.group_size", cuts_groups(request, model) },
		{ "timeline", request->timeline == EST_TIMELINE_FULL },
	};

	est_refuse_with("mlx_lm.lora", rows, sizeof(rows) / sizeof(rows[0]), request, faults);
	if (model->architecture != EST_ARCH_UNSUPPORTED && !is_modelled(model))
		est_fault_add(faults, "/model", EST_NOT_SUPPORTED_YET,
			      "mlx-lm's code of this architecture is not modelled yet: llama, mistral, qwen2 and qwen3 are");
	check_layers(request, model, faults);
}
