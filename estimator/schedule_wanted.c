/* Which requests have a schedule: what is held against traces. Anything else is a static share (sharding.h). */
#include "estimator/schedule.h"

#include "estimator/generation.h"
#include "estimator/objective.h"
#include "estimator/optimizer.h"
#include "estimator/zero3.h"

static bool models_words(const struct est_request *request)
{
	return est_models_language(request) && request->task == EST_CAUSAL_LM;
}

/* The model's own loss, over logits */
static bool has_plain_loss(const struct est_request *request)
{
	return models_words(request)
	       && (request->loss == EST_LOSS_STANDARD || request->loss == EST_LOSS_VOCAB_PARALLEL || est_chunks_words(request));
}

bool est_schedule_fuses_head(const struct est_request *request)
{
	return models_words(request) && !has_plain_loss(request);
}

/* LoRA, and 4-bit QLoRA as it is quantised. */
static bool adapts_plainly(const struct est_request *request)
{
	const struct est_quantization *q = &request->quantization;
	bool adapts = request->method == EST_LORA
		      || (request->method == EST_QLORA && q->bits == 4 && !est_prepares_kbit(request));

	return adapts && !request->lora.dora && request->lora.modules_to_save.count == 0;
}

/* bitsandbytes' own storage. */
static bool packs_bytes(const struct est_request *request)
{
	const struct est_quantization *q = &request->quantization;

	return request->method == EST_QLORA && q->type != EST_GPTQ && q->quant_storage == EST_STORE_UINT8;
}

/* Flat parameters, a unit for each layer and the model as the root (what accelerate makes of it too): full models; adapters, each of
 * which PEFT's policy makes a unit, or, in the layers', where use_orig_params lets them be. Weights packed as bytes cannot be
 * flattened. Precisions: those of 16 bits, with a policy or without any, and of full models fp32 and masters. Fused losses read the head's
 * weight in the root's forward, which has gathered it. */
static bool is_replayed_fsdp1(const struct est_request *request)
{
	const struct est_parallelism *p = &request->parallelism;
	bool bytes = packs_bytes(request), mixed = est_is_mixed(request->precision);
	bool pure = request->precision == EST_PURE_BF16 || request->precision == EST_PURE_FP16
		    || (request->precision == EST_PURE_FP32 && request->method == EST_FULL);
	bool casts = p->param_dtype == EST_BF16 || p->param_dtype == EST_FP16;
	bool leaves = p->param_dtype == EST_DTYPE_NONE && p->reduce_dtype == EST_DTYPE_NONE;
	bool masters = est_has_master(request) && request->method == EST_FULL;
	bool half = mixed ? casts : pure ? leaves : masters && (casts || leaves);
	bool together = request->method == EST_LORA && p->wrap != EST_WRAP_PEFT && p->use_orig_params && half;
	bool adapts = adapts_plainly(request) && !bytes && (p->wrap == EST_WRAP_PEFT || together) && half;
	bool whole = request->method == EST_FULL && p->wrap != EST_WRAP_PEFT && (mixed || half);

	return est_optimizer_steps_parts(request) && models_words(request) && (whole || (adapts && request->loss != EST_LOSS_VOCAB_PARALLEL))
	       && request->offload.parameters == EST_ON_GPU;
}

/* All layers, or, of ranks that share nothing but parameters, the last ones. */
static bool trains_layers(const struct est_request *request)
{
	const struct est_parallelism *p = &request->parallelism;

	return request->method == EST_FULL
	       || (request->method == EST_FREEZE && p->tensor * p->pipeline * p->context * p->expert == 1);
}

/* TRL's trainers of preferences, whose ranks share nothing but parameters. A reference model is one that fully_shard() takes: none that
 * is quantised. */
static bool prefers(const struct est_request *request)
{
	const struct est_parallelism *p = &request->parallelism;

	return !est_models_language(request) && request->task == EST_CAUSAL_LM && p->tensor * p->pipeline * p->context * p->expert == 1
	       && !(est_objective_holds_reference(request) && request->method == EST_QLORA);
}

/* Full models, the last layers of them, and adapters. PEFT's policy is for adapters. */
static bool is_replayed_fsdp2(const struct est_request *request)
{
	const struct est_quantization *q = &request->quantization;
	bool packs = q->type == EST_NF4 || q->type == EST_FP4 || (q->bits == 4 && !est_prepares_kbit(request));

	return est_optimizer_steps_parts(request) && (models_words(request) || prefers(request)) && (request->method != EST_QLORA || packs)
	       && (est_has_adapters(request) || (trains_layers(request) && request->parallelism.wrap != EST_WRAP_PEFT));
}

bool est_schedule_wanted(const struct est_request *request)
{
	enum est_strategy strategy = request->parallelism.strategy;

	/* beside tensor parallelism one data-parallel rank alone is not wrapped */
	if (request->accounting != EST_REPLAY || (request->parallelism.tensor > 1 && est_shard_ranks(&request->parallelism) == 1))
		return false;
	if (strategy == EST_FSDP1)
		return is_replayed_fsdp1(request);
	if (strategy == EST_ZERO3)
		return est_zero3_wanted(request);
	return est_is_fsdp2(strategy) && is_replayed_fsdp2(request);
}
