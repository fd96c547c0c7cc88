/* What ends a run in its first step where ranks share parameters, each seen in a trace: an answer would be of a run that is none. */
#include "estimator/sharding.h"

#include "estimator/adapters.h"
#include "estimator/optimizer.h"
#include "estimator/words.h"

/* DeepSpeed flattens on one rank too, FSDP1 only what it cuts. */
static bool has_flat_parts(const struct est_request *request)
{
	const struct est_parallelism *p = &request->parallelism;

	return est_is_zero(p->strategy) || (p->strategy == EST_FSDP1 && est_shard_ranks(p) > 1);
}

/* FSDP2's parameters are DTensors, those of FSDP1 and ZeRO parts of flat ones: some optimizers' first step raises. */
static void check_optimizer(const struct est_request *request, struct est_faults *faults)
{
	const char *dtensors = est_optimizer_refuses_dtensors(request->optimizer);
	const char *vectors = est_optimizer_refuses_vectors(request->optimizer);
	const char *name = est_word_name(est_optimizer_words, (int)request->optimizer);

	if (request->framework >= EST_MEGATRON)
		return;
	if (dtensors && est_shards_dtensors(request) && est_shard_ranks(&request->parallelism) > 1)
		est_fault_add(faults, "/optimizer", EST_CONTRADICTION, "must not be %s with FSDP2: %s, and its first step fails; %s can", name,
			      dtensors, vectors ? "ddp" : "fsdp1, ddp and zero2");
	if (vectors && has_flat_parts(request))
		est_fault_add(faults, "/optimizer", EST_CONTRADICTION,
			      "must not be %s with FSDP1 or ZeRO: %s, and parts of flat parameters are vectors; %s can", name, vectors,
			      dtensors ? "ddp" : "fsdp and ddp");
}

/* DTensor cuts no matrix into more parts than it has rows; Muon's update is whole then, and cannot be added in place. */
static void check_rows(const struct est_request *request, struct est_faults *faults)
{
	uint64_t ranks = est_shard_ranks(&request->parallelism);

	if (request->optimizer == EST_MUON && est_shards_dtensors(request) && request->framework < EST_MEGATRON
	    && est_has_adapters(request) && (uint64_t)request->lora.rank < ranks)
		est_fault_add(faults, "/lora/rank", EST_CONTRADICTION,
			      "must be %llu at least with muon, as many as ranks that share a parameter: its step fails on a matrix of fewer rows",
			      (unsigned long long)ranks);
}

/* PEFT's wrappers of embedding and head hold the originals too, which are one parameter of a tied model: accelerate makes units of both
 * modules, and FSDP2's _validate_no_duplicate_params() raises in the first forward. */
static void check_saved_modules(const struct est_request *request, const struct est_model *model, struct est_faults *faults)
{
	const struct est_names *saved = &request->lora.modules_to_save;
	bool parts = est_saves_embedding(model, saved) || est_saves_head(model, saved);

	if (est_has_adapters(request) && parts && model->tie_word_embeddings && est_shards_dtensors(request)
	    && request->parallelism.wrap != EST_WRAP_LAYER_ROOT && request->accounting == EST_REPLAY)
		est_fault_add(faults, "/lora/modules_to_save", EST_CONTRADICTION,
			      "must be empty with FSDP2, whose units of embedding and head would share the weight that is tied: its first "
			      "forward fails; fsdp1, ddp and zero2 can");
}

/* Beside adapters the head is a unit by itself, which only its call would gather: Liger's product of hidden states and a DTensor raises. */
static void check_fused_head(const struct est_request *request, const struct est_model *model, struct est_faults *faults)
{
	if (request->loss == EST_LOSS_LIGER && est_has_adapters(request) && !model->tie_word_embeddings
	    && est_shards_dtensors(request) && request->parallelism.wrap != EST_WRAP_LAYER_ROOT
	    && request->accounting == EST_REPLAY)
		est_fault_add(faults, "/loss", EST_CONTRADICTION,
			      "must not be liger with adapters under FSDP2 over a head that is not tied: it is sharded by itself, is read and "
			      "not called, and Liger's first product with a DTensor fails; standard can");
}

void est_sharding_check(const struct est_request *request, const struct est_model *model, struct est_faults *faults)
{
	check_optimizer(request, faults);
	check_rows(request, faults);
	check_saved_modules(request, model, faults);
	check_fused_head(request, model, faults);
}
