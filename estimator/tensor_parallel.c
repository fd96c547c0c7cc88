#include "estimator/tensor_parallel.h"

#include "estimator/architecture.h"
#include "estimator/fields.h"
#include "estimator/generation.h"
#include "estimator/schedule.h"
#include "estimator/words.h"

struct est_tensor_group est_tensor_group_of(const struct est_request *request)
{
	return (struct est_tensor_group){ .ranks = (uint64_t)request->parallelism.tensor,
					  .splits_sequence = request->parallelism.sequence_parallel,
					  .sums_in_place = request->framework != EST_TORCHTITAN,
					  .splits_loss = request->loss == EST_LOSS_VOCAB_PARALLEL,
					  .batched = request->micro_batch_size > 1 };
}

struct est_model est_tensor_part(const struct est_request *request, const struct est_model *model)
{
	int64_t ranks = request->parallelism.tensor;
	struct est_model part = *model;

	if (ranks <= 1)
		return part;
	part.num_attention_heads /= ranks;
	part.num_key_value_heads /= ranks;
	part.intermediate_size /= ranks;
	part.vocab_size /= ranks;
	return part;
}

/* Whether a rank has a part of such features. */
static bool is_divided(enum est_width width)
{
	return width == EST_WIDTH_QUERY || width == EST_WIDTH_KEY || width == EST_WIDTH_MLP || width == EST_WIDTH_GATE;
}

enum est_cut est_cut_of(const struct est_module *module)
{
	if (is_divided(module->out))
		return EST_CUT_OUTPUTS;
	return is_divided(module->in) ? EST_CUT_INPUTS : EST_CUT_NONE;
}

bool est_tensor_is_misplaced(const struct est_leaf *leaf)
{
	return leaf->grad.storage && (leaf->grad.numel != leaf->value.numel || leaf->unsummed);
}

uint64_t est_tensor_surplus(const struct est_request *request, const struct est_model *model)
{
	uint64_t table = (uint64_t)model->vocab_size * (uint64_t)model->hidden_size;
	uint64_t element = request->precision == EST_BF16_MIXED || request->precision == EST_PURE_FP32 ? 4 : 2;
	uint64_t ranks = (uint64_t)request->parallelism.tensor, shards = est_shard_ranks(&request->parallelism);
	uint64_t master = est_has_master(request) ? 4 : 0, moment = master ? 4 : element;
	bool own = request->framework == EST_TORCHTITAN || request->framework == EST_MEGATRON; /* they cut it */

	if (ranks <= 1 || own || !est_leaves_embedding_whole(&request->versions))
		return 0;
	if (est_has_adapters(request))
		return (table - table / ranks) * (request->base_dtype == EST_FP32 ? 4 : 2);
	/* weight and two moments, of FSDP2 a shard of them; of FSDP2 the gathered copy and its all-gather's output too */
	return (table - table / ranks) * (element + master + 2 * moment) / shards
		+ (shards > 1 ? 2 * element * (table - table / ranks) : 0);
}

/* ---- what does not go */

/* Families whose layers are held to traces, or are made of the same modules: q, k, v and o, gate, up and down, and
 * norms of the whole stream or of a head. */
static bool is_modelled(const struct est_model *model)
{
	static const enum est_architecture known[] = { EST_ARCH_LLAMA, EST_ARCH_QWEN3, EST_ARCH_MINISTRAL3 };

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (model->architecture == known[i])
			return model->vision.tower == EST_TOWER_NONE;
	return false;
}

static void check_divisions(const struct est_request *request, const struct est_model *model, struct est_faults *faults)
{
	const struct { int64_t count; enum est_fault_code code; const char *what; } rows[] = {
		{ model->num_key_value_heads, EST_CONTRADICTION, "key_value heads: a rank cuts what it computes into whole ones" },
		{ model->intermediate_size, EST_NOT_SUPPORTED_YET, "features of the MLP: parts of other sizes are not modelled yet" },
		{ model->vocab_size, EST_NOT_SUPPORTED_YET, "words: parts of other sizes are not modelled yet" },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		if (rows[i].count % request->parallelism.tensor && model->num_attention_heads % request->parallelism.tensor == 0)
			est_fault_add(faults, "/parallelism/tensor", rows[i].code, "must divide the model's %lld %s",
				      (long long)rows[i].count, rows[i].what);
	if (request->parallelism.sequence_parallel && request->sequence_length % request->parallelism.tensor)
		est_fault_add(faults, "/sequence_length", EST_CONTRADICTION,
			      "must be a multiple of tensor with sequence_parallel: torchtitan asserts it");
}

/* Of quantised weights Transformers cuts torchao's and those in FP8, whose layers run on local tensors. */
static void check_quantised(const struct est_request *request, struct est_faults *faults)
{
	if (request->method == EST_QLORA)
		est_fault_add(faults, "/method", EST_CONTRADICTION,
			      "must not be qlora with tensor above 1: Transformers' plans cannot cut weights that are packed as by bitsandbytes, GPTQ or HQQ");
}

static void check_strategy(const struct est_request *request, struct est_faults *faults)
{
	enum est_strategy strategy = request->parallelism.strategy;

	if (strategy == EST_DDP)
		est_fault_add(faults, "/parallelism/strategy", EST_CONTRADICTION,
			      "must not be ddp with tensor above 1: accelerate and torchtitan refuse it (fsdp, or none on one group of ranks)");
	else if (strategy == EST_FSDP1 || est_is_zero(strategy)
		 || (est_has_adapters(request) && est_schedule_wanted(request)))
		est_field_refuse("parallelism.strategy", request, faults, "is not modelled yet with tensor above 1");
}

/* The optimizers of torch.optim step DTensors; others take a rank's part for a parameter, or have not been traced. */
static bool steps_parts(const struct est_request *request)
{
	return request->optimizer == EST_ADAMW_TORCH_FUSED || request->optimizer == EST_ADAMW_TORCH
	       || request->optimizer == EST_SGD
	       || request->optimizer == EST_SGD_MOMENTUM;
}

/* Transformers makes masks as long as what the layers get: of a split sequence a part of it. */
static bool makes_masks(const struct est_request *request, const struct est_model *model)
{
	return request->attention_mask || request->attention == EST_EAGER || request->framework == EST_TRL
	       || (model->sliding_window > 0 && model->sliding_window < request->sequence_length);
}

void est_tensor_check(const struct est_request *request, const struct est_model *model, struct est_faults *faults)
{
	bool own_loss = !est_models_language(request);
	bool adapts = est_has_adapters(request);
	const struct est_refusal rows[] = {
		{ "framework", request->framework == EST_TORCHTUNE || request->framework == EST_LITGPT
			       || request->framework == EST_UNSLOTH || request->framework == EST_DEEPSPEED },
		{ "method", request->method == EST_FREEZE || (adapts && request->framework == EST_TORCHTITAN) },
		{ "lora.dora", adapts && request->lora.dora },
		{ "lora.modules_to_save", adapts && request->lora.modules_to_save.count > 0 },
		{ "objective", own_loss },
		{ "task", request->task != EST_CAUSAL_LM },
		{ "loss", request->loss != EST_LOSS_STANDARD && (request->loss != EST_LOSS_VOCAB_PARALLEL || adapts) },
		{ "liger_kernel", request->liger_kernel },
		{ "torch_compile", request->torch_compile },
		{ "fuse_optimizer_in_backward", request->fuse_optimizer_in_backward },
		{ "optimizer", !steps_parts(request) },
		{ "parallelism.sequence_parallel", request->parallelism.sequence_parallel && (adapts || makes_masks(request, model)) },
		{ "parallelism.pipeline", adapts && request->parallelism.pipeline > 1 },
	};

	if (request->parallelism.tensor <= 1) {
		if (request->loss == EST_LOSS_VOCAB_PARALLEL)
			est_fault_add(faults, "/loss", EST_CONTRADICTION, "must not be vocab_parallel: it needs tensor above 1");
		return;
	}
	est_refuse_with("tensor above 1", rows, sizeof(rows) / sizeof(rows[0]), request, faults);
	if (model->architecture != EST_ARCH_UNSUPPORTED && !is_modelled(model))
		est_fault_add(faults, "/parallelism/tensor", EST_NOT_SUPPORTED_YET,
			      "above 1 is not modelled yet with the modules of this architecture");
	check_divisions(request, model, faults);
	check_strategy(request, faults);
	check_quantised(request, faults);
}
