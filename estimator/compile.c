#include "estimator/compile.h"

#include <stddef.h>
#include "estimator/adapters.h"
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
	return request->torch_compile && request->framework == EST_TORCHTITAN && !est_compile_falls_back(request);
}

bool est_compiles_model(const struct est_request *request)
{
	return request->torch_compile && request->framework <= EST_LLAMA_FACTORY;
}

bool est_compiles_loss(const struct est_request *request)
{
	return est_compiles_layers(request) && request->versions.torch >= 2008;
}

bool est_compiles(const struct est_request *request)
{
	return est_compiles_layers(request) || est_compiles_model(request);
}

static uint64_t tokens_of(const struct est_request *request)
{
	return (uint64_t)(request->micro_batch_size * request->sequence_length);
}

uint64_t est_compile_temporaries(const struct est_request *request, const struct est_model *model)
{
	return est_compiles(request) ? 2 * 2 * tokens_of(request) * (uint64_t)model->intermediate_size : 0;
}

uint64_t est_compile_unpooled(const struct est_request *request, const struct est_model *model)
{
	uint64_t element = request->precision == EST_PURE_BF16 ? 2 : 4, vocabulary = (uint64_t)model->vocab_size;
	uint64_t logits = element * tokens_of(request) * vocabulary;
	uint64_t embedding = request->method == EST_FULL ? 4 * vocabulary * (uint64_t)model->hidden_size : 0;

	if (!est_compiles_model(request))
		return 0;
	return logits > embedding ? logits : embedding;
}

/* Llama and its kin without multipliers, and without biases but those of q, k and v */
static bool is_like_llama(const struct est_model *model)
{
	bool llama = model->architecture == EST_ARCH_LLAMA || model->architecture == EST_ARCH_QWEN3;
	bool plain = !model->o_bias && !model->mlp_bias && model->num_experts == 0;

	return llama && plain && model->gated_mlp && model->activation == EST_SILU && model->residual_multiplier == 0
	       && model->partial_rotary_factor >= 1 && model->no_rope_layer_interval == 0;
}

/* What compiled.c was read off */
static bool knows_model(const struct est_model *model)
{
	return is_like_llama(model) && !model->qkv_bias && model->sliding_window == 0;
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

/* torchtitan's layers */
static const char *refuse_layers(const struct est_request *request, const struct est_model *model)
{
	bool fused = request->attention == EST_SDPA || request->attention == EST_SDPA_FLASH;
	bool plain = request->method == EST_FULL && request->loss == EST_LOSS_STANDARD && !request->liger_kernel
		     && est_models_language(request);

	if (!knows_model(model))
		return "is modelled with Llama and Qwen3 and their dense kin only";
	if (!plain || !fused || request->attention_mask || !knows_precision(request) || !knows_checkpoint(request))
		return "is modelled with full training in 16 bits, SDPA without a mask, the standard loss, and checkpoints none, full or "
		       "selective by operator";
	return NULL;
}

/* ---- a whole model */

/* A window changes nothing but the mask's values, unless some layers have another. */
static bool has_one_mask(const struct est_model *model)
{
	bool sliding = est_model_layer_is_sliding(model, 0);

	for (int64_t i = 1; i < model->num_hidden_layers; i++)
		if (est_model_layer_is_sliding(model, i) != sliding)
			return false;
	return true;
}

/* Llama, Mistral, Qwen2 and Qwen3: a graph of another was not read. */
static bool knows_whole(const struct est_model *model)
{
	bool scaled = model->embedding_multiplier != 0 || model->logits_scaling != 0 || model->final_logit_softcapping != 0;

	return is_like_llama(model) && !scaled && !model->lm_head_bias && !model->mrope && model->vision.tower == EST_TOWER_NONE
	       && has_one_mask(model);
}

/* A dimension of some product that is no multiple of 8: inductor then times it, with padded copies of its operands and without
 * (torch/_inductor/fx_passes/pad_mm.py). */
static bool is_padded_by_timing(const struct est_request *request, const struct est_model *model)
{
	int64_t rank = request->method == EST_LORA ? request->lora.rank : 8;

	return (tokens_of(request) | (uint64_t)(model->vocab_size | model->hidden_size | model->intermediate_size | rank)) % 8 != 0;
}

/* Versions that are named and not those that were read. */
static bool is_of_other_versions(const struct est_versions *versions)
{
	return (versions->torch && versions->torch != 2013) || (versions->transformers && versions->transformers < 5000);
}

static bool knows_whole_precision(const struct est_request *request)
{
	bool autocast = request->precision == EST_BF16_MIXED || request->precision == EST_BF16_AUTOCAST;

	if (request->method == EST_LORA && request->base_dtype != EST_BF16)
		return false;
	return (autocast && request->outputs_to_fp32) || request->precision == EST_PURE_BF16;
}

/* A reason not to model a whole compiled model, where it is one. */
struct reason {
	bool is;
	const char *why;
};

static const char *first_of(const struct reason *reasons, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (reasons[i].is)
			return reasons[i].why;
	return NULL;
}

/* What ends Dynamo's graph, or gives it another model than was read */
static const char *refuse_graph(const struct est_request *request, const struct est_model *model)
{
	const struct est_names *targets = &request->lora.target_modules;
	bool lora = request->method == EST_LORA, checkpointed = request->checkpointing != EST_CHECKPOINT_NONE;
	bool adapts_head = lora && !targets->all && est_is_target(targets, "lm_head");
	const struct reason reasons[] = {
		{ request->framework == EST_TRL,
		  "of a whole model is not modelled with trl, which puts a head of its own in the model's place" },
		{ request->method == EST_QLORA,
		  "of a quantised model is not modelled: its kernels end the compiled graph in every layer" },
		{ request->method == EST_FREEZE, "of a whole model is modelled with method full or lora only" },
		{ request->parallelism.gpus > 1,
		  "of a whole model is modelled on one GPU only: DDP, FSDP and DeepSpeed run between layers, outside of its graph" },
		{ !knows_whole(model),
		  "of a whole model is modelled with Llama, Mistral, Qwen2 and Qwen3 only, dense and with one window or none" },
		{ request->attention != EST_SDPA,
		  "of a whole model is modelled with attention sdpa only: a package's call ends the graph" },
		{ lora && checkpointed,
		  "of a model with adapters is not modelled with checkpoints: enable_input_require_grads() ends the graph at the "
		  "embedding" },
		{ checkpointed && (request->checkpointing != EST_CHECKPOINT_FULL || request->use_reentrant),
		  "of a whole model is modelled with checkpoints none, or full without use_reentrant, only" },
		{ lora && (request->lora.dora || request->lora.modules_to_save.count > 0 || adapts_head),
		  "of a model with adapters is modelled with plain LoRA on layers only, without DoRA and modules_to_save" },
	};

	return first_of(reasons, sizeof(reasons) / sizeof(reasons[0]));
}

/* What is computed otherwise */
static const char *refuse_step(const struct est_request *request, const struct est_model *model)
{
	const struct reason reasons[] = {
		{ request->loss != EST_LOSS_STANDARD || request->liger_kernel,
		  "of a whole model is modelled with the standard loss and without liger_kernel only" },
		{ !est_models_language(request) || request->task != EST_CAUSAL_LM,
		  "of a whole model is modelled with objective sft or pretrain of a causal language model only" },
		{ !knows_whole_precision(request),
		  "of a whole model is modelled with precision bf16, and with bf16_autocast and bf16_mixed with outputs_to_fp32, and "
		  "of adapters on a base of bf16 only" },
		{ is_of_other_versions(&request->versions),
		  "of a whole model is modelled as torch 2.13 and Transformers 5 do it only: others give attention no mask, or order "
		  "the graph otherwise" },
		{ is_padded_by_timing(request, model),
		  "of a whole model is modelled with multiples of 8 only as a micro-batch's tokens, vocabulary, widths and rank: "
		  "whether others are padded inductor times on the card" },
		{ request->offload.activations != EST_ON_GPU || request->fuse_optimizer_in_backward,
		  "of a whole model is modelled without offloaded activations and with the optimizer after the backward only" },
	};

	return first_of(reasons, sizeof(reasons) / sizeof(reasons[0]));
}

const char *est_compile_refuses(const struct est_request *request, const struct est_model *model)
{
	const char *why;

	if (!request->torch_compile)
		return NULL;
	if (est_compile_falls_back(request))
		return est_model_mixes(model) ? "is not modelled of layers that are no attention, which no package's call keeps from "
						"being compiled" : NULL;
	if (est_compiles_layers(request))
		return refuse_layers(request, model);
	if (!est_compiles_model(request))
		return "is modelled with framework torchtitan, which compiles each layer by itself, and with those of Transformers' "
		       "Trainer, which compile the whole model, only";
	why = refuse_graph(request, model);
	return why ? why : refuse_step(request, model);
}
