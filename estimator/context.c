#include "estimator/context.h"

#include "estimator/fields.h"
#include "estimator/schedule.h"

/* What context_parallel() of torch 2.13, and accelerate around it, refuses: a mask that is not causal and whole;
 * anything but SDPA's fused kernels; sequences that do not divide into a part of the head and one of the tail for
 * each rank; parameters that are not sharded. */
static void check_parts(const struct est_request *request, const struct est_model *model, struct est_faults *faults)
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
	if (!est_is_fsdp2(p->strategy))
		est_fault_add(faults, "/parallelism/strategy", EST_CONTRADICTION,
			      "must be fsdp or hsdp with the ring of context ranks, which share the parameters too");
	if (model->sliding_window || est_model_mixes(model) || est_model_is_encoder(model))
		est_fault_add(faults, "/parallelism/context", EST_CONTRADICTION,
			      "must be 1 with this model: the ring knows causal attention to the whole sequence only");
}

/* ---- Ulysses */

/* What UlyssesSPAttentionHF of DeepSpeed 0.19, and accelerate around it, refuse. */
static void check_exchange(const struct est_request *request, const struct est_model *model, struct est_faults *faults)
{
	const struct est_parallelism *p = &request->parallelism;
	int64_t ranks = p->context, groups = model->num_key_value_heads;

	if (request->sequence_length % ranks)
		est_fault_add(faults, "/sequence_length", EST_CONTRADICTION, "must be a multiple of context = %lld",
			      (long long)ranks);
	if (model->num_attention_heads % ranks)
		est_fault_add(faults, "/parallelism/context", EST_CONTRADICTION,
			      "must divide the model's %lld attention heads with ulysses, which deals them out",
			      (long long)model->num_attention_heads);
	else if (groups % ranks && ranks % groups)
		est_fault_add(faults, "/parallelism/context", EST_CONTRADICTION,
			      "must divide the model's %lld key_value heads with ulysses, or be a multiple of them", (long long)groups);
	if (request->attention == EST_EAGER)
		est_fault_add(faults, "/attention", EST_CONTRADICTION,
			      "must not be eager with ulysses, which drops masks: DeepSpeed refuses it");
	if (!est_is_zero(p->strategy))
		est_fault_add(faults, "/parallelism/strategy", EST_CONTRADICTION,
			      "must be zero1, zero2 or zero3 with ulysses: it is DeepSpeed's");
	else if (p->strategy != EST_ZERO3 && p->communication_data_type != EST_FP32)
		est_fault_add(faults, "/parallelism/communication_data_type", EST_CONTRADICTION,
			      "must be fp32 with ulysses: stages 1 and 2 reduce in it");
	if (est_model_mixes(model))
		est_fault_add(faults, "/parallelism/context", EST_CONTRADICTION,
			      "must be 1 with recurrent layers: accelerate refuses to deal out their sequences");
}

static void check_ulysses(const struct est_request *request, const struct est_model *model, struct est_faults *faults)
{
	enum est_framework framework = request->framework;
	const struct est_refusal rows[] = {
		{ "framework", framework != EST_TRANSFORMERS && framework != EST_TRL && framework != EST_DEEPSPEED },
		{ "attention", request->attention == EST_FLEX_ATTENTION },
		{ "attention_mask", request->attention_mask },
		{ "use_reentrant", request->checkpointing != EST_CHECKPOINT_NONE && request->use_reentrant },
		{ "parallelism.context_backend", model->sliding_window || est_model_is_encoder(model) || model->kv_lora_rank
						 || model->position != EST_ROPE || model->global_head_dim },
	};

	check_exchange(request, model, faults);
	est_refuse_with("ulysses and this model or run", rows, sizeof(rows) / sizeof(rows[0]), request, faults);
}

/* ---- the ring */

static bool deals_out(enum est_framework framework)
{
	return framework == EST_TRANSFORMERS || framework == EST_TRL || framework == EST_AXOLOTL
	       || framework == EST_TORCHTITAN;
}

static void check_ring(const struct est_request *request, const struct est_model *model, struct est_faults *faults)
{
	bool shards = est_shards_dtensors(request);
	const struct est_refusal rows[] = {
		{ "framework", !deals_out(request->framework) },
		{ "precision", shards && est_has_master(request) },
		{ "optimizer", shards && !est_has_master(request) && !est_schedule_wanted(request) },
		{ "use_reentrant", request->checkpointing != EST_CHECKPOINT_NONE && request->use_reentrant },
	};

	check_parts(request, model, faults);
	est_refuse_with("context parallelism", rows, sizeof(rows) / sizeof(rows[0]), request, faults);
}

void est_context_check(const struct est_request *request, const struct est_model *model, struct est_faults *faults)
{
	bool ulysses = request->parallelism.context_backend == EST_ULYSSES;

	if (request->parallelism.context == 1) {
		if (ulysses)
			est_fault_add(faults, "/parallelism/context_backend", EST_CONTRADICTION, "needs context above 1");
		return;
	}
	if (request->accounting != EST_REPLAY || model->architecture == EST_ARCH_UNSUPPORTED)
		return;
	if (ulysses)
		check_ulysses(request, model, faults);
	else
		check_ring(request, model, faults);
	est_refuse_other_steps("context parallelism", request, faults);
}
