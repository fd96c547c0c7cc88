#include "estimator/expert_parallel.h"

#include "estimator/fields.h"
#include "estimator/schedule.h"

bool est_expert_cuts_rows(const struct est_request *request, const struct est_model *model)
{
	return est_shard_ranks(&request->parallelism) > (uint64_t)model->num_experts;
}

/* Layers whose graph lives at the same time. */
static uint64_t live_layers(const struct est_request *request, const struct est_model *model)
{
	if (request->checkpointing == EST_CHECKPOINT_NONE)
		return (uint64_t)model->num_hidden_layers;
	return request->checkpointing == EST_CHECKPOINT_EVERY_N ? (uint64_t)request->every_n_layers : 1;
}

uint64_t est_expert_surplus(const struct est_request *request, const struct est_model *model)
{
	uint64_t rows = (uint64_t)(request->micro_batch_size * request->sequence_length * model->num_experts_per_tok);
	/* of a row autograd keeps what the experts get, and four results of their width; on its way it is copied up
	 * to four times */
	uint64_t kept = 2 * (uint64_t)model->hidden_size + 8 * (uint64_t)model->moe_intermediate_size;
	uint64_t passing = 8 * (uint64_t)(model->hidden_size + model->moe_intermediate_size);

	return request->parallelism.expert > 1 ? rows * (live_layers(request, model) * kept + passing) : 0;
}

/* ---- what does not go */

/* Mixtures that torchtitan's is the same as: the best of softmax or sigmoid in fp32, of all experts or of the best
 * groups by the sum of their best two; shared experts without a gate; silu. */
static bool is_modelled(const struct est_model *model)
{
	static const enum est_architecture known[] = { EST_ARCH_MIXTRAL, EST_ARCH_QWEN3_MOE, EST_ARCH_OLMOE, EST_ARCH_DEEPSEEK_V2,
						       EST_ARCH_DEEPSEEK_V3, EST_ARCH_GLM4_MOE, EST_ARCH_DOTS1, EST_ARCH_EXAONE_MOE };
	bool by_best_expert = model->architecture == EST_ARCH_DEEPSEEK_V2 && model->group_limited;

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (model->architecture == known[i])
			return model->activation == EST_SILU && !by_best_expert && model->vision.tower == EST_TOWER_NONE;
	return false;
}

/* ParallelDims.build_mesh(): the ranks of experts are taken from those that share the parameters. */
static void check_ranks(const struct est_request *request, const struct est_model *model, struct est_faults *faults)
{
	const struct est_parallelism *p = &request->parallelism;
	int64_t ranks = (int64_t)est_shard_ranks(p), left = ranks / p->expert;

	if (ranks % p->expert)
		est_fault_add(faults, "/parallelism/expert", EST_CONTRADICTION,
			      "must divide the %lld ranks that share parameters, among which experts are dealt out", (long long)ranks);
	else if (left > 1 && est_expert_cuts_rows(request, model)
		 && (model->hidden_size % left || model->moe_intermediate_size % left))
		est_fault_add(faults, "/parallelism/expert", EST_CONTRADICTION,
			      "leaves %lld ranks to each expert, which do not divide its rows: torchtitan cuts along them where there are more ranks "
			      "than experts, and FSDP2 refuses parts of other sizes", (long long)left);
}

static void check_strategy(const struct est_request *request, struct est_faults *faults)
{
	enum est_strategy strategy = request->parallelism.strategy;

	if (strategy == EST_SINGLE || strategy == EST_DDP)
		est_fault_add(faults, "/parallelism/strategy", EST_CONTRADICTION,
			      "must be fsdp or hsdp with expert above 1: torchtitan takes the experts' ranks from those that shard parameters");
	else if (!est_is_fsdp2(strategy))
		est_field_refuse("parallelism.strategy", request, faults, "is not modelled yet with expert above 1");
}

/* The experts multiply in bf16 whatever they are given. */
static bool computes_otherwise(const struct est_request *request)
{
	enum est_dtype param = request->parallelism.param_dtype;

	return request->precision == EST_BF16_MIXED ? param != EST_BF16 : param != EST_BF16 && param != EST_DTYPE_NONE;
}

static void check_values(const struct est_request *request, struct est_faults *faults)
{
	const struct est_parallelism *p = &request->parallelism;
	const struct est_refusal rows[] = {
		{ "framework", request->framework != EST_TORCHTITAN },
		{ "method", request->method != EST_FULL },
		{ "precision", request->precision != EST_BF16_MIXED && request->precision != EST_PURE_BF16 },
		{ "parallelism.param_dtype", computes_otherwise(request) },
		{ "parallelism.wrap", p->wrap != EST_WRAP_ACCELERATE },
		{ "parallelism.tensor", p->tensor > 1 },
		{ "parallelism.pipeline", p->pipeline > 1 },
		{ "parallelism.context", p->context > 1 },
		{ "offload.parameters", request->offload.parameters == EST_ON_NVME },
		{ "use_reentrant", request->checkpointing != EST_CHECKPOINT_NONE && request->use_reentrant },
	};
	size_t before = faults->count;

	est_refuse_with("expert above 1", rows, sizeof(rows) / sizeof(rows[0]), request, faults);
	est_refuse_other_steps("expert above 1", request, faults);
	if (faults->count == before && est_is_fsdp2(p->strategy) && !est_schedule_wanted(request))
		est_field_refuse("optimizer", request, faults, "is not modelled yet with expert above 1");
}

void est_expert_check(const struct est_request *request, const struct est_model *model, struct est_faults *faults)
{
	int64_t expert = request->parallelism.expert;

	if (expert <= 1 || request->accounting != EST_REPLAY || model->architecture == EST_ARCH_UNSUPPORTED
	    || model->num_experts == 0 || model->num_experts % expert)
		return;
	check_strategy(request, faults);
	check_ranks(request, model, faults);
	check_values(request, faults);
	if (!is_modelled(model))
		est_fault_add(faults, "/parallelism/expert", EST_NOT_SUPPORTED_YET,
			      "above 1 is not modelled yet with the mixture of this architecture");
	else if (model->tie_word_embeddings)
		est_fault_add(faults, "/parallelism/expert", EST_NOT_SUPPORTED_YET, "above 1 is not modelled yet with a tied head");
}
