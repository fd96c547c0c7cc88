#include "estimator/context.h"

#include "estimator/fields.h"
#include "estimator/schedule.h"

/* What context_parallel() of torch 2.13, and accelerate around it, refuses: a mask that is not causal and whole;
 * anything but SDPA's fused kernels; sequences that do not divide into a part of the head and one of the tail for
 * each rank; parameters that are not sharded. */
static void check_ring(const struct est_request *request, const struct est_model *model, struct est_faults *faults)
{
	const struct est_parallelism *p = &request->parallelism;
	bool fused = request->attention == EST_SDPA || request->attention >= EST_SDPA_FLASH; /* the forced kernels end the list */

	if (request->sequence_length % (2 * p->context))
		est_fault_add(faults, "/sequence_length", EST_CONTRADICTION,
			      "must be a multiple of 2 x context = %lld: each rank has a part of the head and one of the tail",
			      (long long)(2 * p->context));
	if (!fused || request->attention == EST_SDPA_MATH)
		est_fault_add(faults, "/attention", EST_CONTRADICTION,
			      "must be sdpa, and not its math, with context above 1: context_parallel() takes the place of its kernels");
	if (request->attention_mask)
		est_fault_add(faults, "/attention_mask", EST_CONTRADICTION,
			      "must be false with context above 1: the ring attends causally, and accelerate drops masks");
	if (p->strategy == EST_SINGLE || p->strategy == EST_DDP || p->strategy == EST_FSDP1)
		est_fault_add(faults, "/parallelism/strategy", EST_CONTRADICTION,
			      "must be fsdp or hsdp with context above 1: its ranks share the parameters too");
	if (model->sliding_window || est_model_mixes(model) || est_model_is_encoder(model))
		est_fault_add(faults, "/parallelism/context", EST_CONTRADICTION,
			      "must be 1 with this model: the ring knows causal attention to the whole sequence only");
}

static bool deals_out(enum est_framework framework)
{
	return framework == EST_TRANSFORMERS || framework == EST_TRL || framework == EST_AXOLOTL
	       || framework == EST_TORCHTITAN;
}

void est_context_check(const struct est_request *request, const struct est_model *model, struct est_faults *faults)
{
	enum est_strategy strategy = request->parallelism.strategy;
	bool zero = strategy == EST_ZERO1 || strategy == EST_ZERO2 || strategy == EST_ZERO3;
	bool shards = strategy == EST_FSDP || strategy == EST_HSDP;
	const struct est_refusal rows[] = {
		{ "framework", !deals_out(request->framework) },
		{ "parallelism.strategy", zero }, /* DeepSpeed's Ulysses */
		{ "precision", shards && est_has_master(request) },
		{ "optimizer", shards && !est_has_master(request) && !est_schedule_wanted(request) },
		{ "use_reentrant", request->checkpointing != EST_CHECKPOINT_NONE && request->use_reentrant },
	};

	if (request->parallelism.context == 1 || request->accounting != EST_REPLAY
	    || model->architecture == EST_ARCH_UNSUPPORTED)
		return;
	check_ring(request, model, faults);
	est_refuse_with("context parallelism", rows, sizeof(rows) / sizeof(rows[0]), request, faults);
	est_refuse_other_steps("context parallelism", request, faults);
}
