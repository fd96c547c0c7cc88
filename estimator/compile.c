#include "estimator/compile.h"

#include <stddef.h>
#include "estimator/schedule.h"

static bool calls_flash_package(const struct est_request *request)
{
	return request->attention == EST_FLASH_ATTENTION_2 || request->attention == EST_FLASH_ATTENTION_3;
}

/* torchtitan and its kin compile each layer with its checkpoint. */
bool est_compile_falls_back(const struct est_request *request)
{
	bool checkpointed = request->checkpointing == EST_CHECKPOINT_FULL || request->checkpointing == EST_CHECKPOINT_OFFLOAD;

	return request->torch_compile && request->framework == EST_TORCHTITAN && checkpointed && calls_flash_package(request);
}

bool est_compiles_layers(const struct est_request *request)
{
	return request->torch_compile && !est_compile_falls_back(request);
}

bool est_compiles_loss(const struct est_request *request)
{
	return est_compiles_layers(request) && request->versions.torch >= 2008;
}

uint64_t est_compile_temporaries(const struct est_request *request, const struct est_model *model)
{
	uint64_t tokens = (uint64_t)(request->micro_batch_size * request->sequence_length);

	return est_compiles_layers(request) ? 2 * 2 * tokens * (uint64_t)model->intermediate_size : 0;
}

/* Llama and its kin without biases, windows or multipliers: what compiled.c was read off. */
static bool knows_model(const struct est_model *model)
{
	bool llama = model->architecture == EST_ARCH_LLAMA || model->architecture == EST_ARCH_QWEN3;
	bool plain = !model->qkv_bias && !model->o_bias && !model->mlp_bias && model->num_experts == 0
		&& model->sliding_window == 0;

	return llama && plain && model->gated_mlp && model->activation == EST_SILU && model->residual_multiplier == 0
	       && model->partial_rotary_factor >= 1 && model->no_rope_layer_interval == 0;
}

/* 16-bit products without autocast: weights as FSDP2 gathers them, or as they are. */
static bool knows_precision(const struct est_request *request)
{
	bool gathered = est_schedule_wanted(request) && request->parallelism.strategy != EST_FSDP1
			&& (request->parallelism.param_dtype == EST_BF16 || request->parallelism.param_dtype == EST_FP16);

	return gathered || request->precision == EST_PURE_BF16 || request->precision == EST_PURE_FP16;
}

static bool knows_checkpoint(const struct est_request *request)
{
	if (request->checkpointing == EST_CHECKPOINT_SELECTIVE)
		return request->selective == EST_SELECTIVE_OP;
	return request->checkpointing == EST_CHECKPOINT_NONE
	       || (request->checkpointing == EST_CHECKPOINT_FULL && !request->use_reentrant);
}

const char *est_compile_refuses(const struct est_request *request, const struct est_model *model)
{
	bool fused = request->attention == EST_SDPA || request->attention == EST_SDPA_FLASH;
	bool plain = request->method == EST_FULL && request->loss == EST_LOSS_STANDARD && !request->liger_kernel
		     && (request->objective == EST_SFT || request->objective == EST_PRETRAIN);

	if (est_compile_falls_back(request) && est_model_mixes(model))
		return "is not modelled of layers that are no attention, which no package's call keeps from being compiled";
	if (!est_compiles_layers(request))
		return NULL;
	if (request->framework != EST_TORCHTITAN)
		return "is modelled with framework torchtitan only, which compiles each layer by itself";
	if (!knows_model(model))
		return "is modelled with Llama and Qwen3 and their dense kin only";
	if (!plain || !fused || request->attention_mask || !knows_precision(request) || !knows_checkpoint(request))
		return "is modelled with full training in 16 bits, SDPA without a mask, the standard loss, and checkpoints none, full or "
		       "selective by operator";
	return NULL;
}
