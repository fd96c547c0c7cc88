/* Expert parallelism as torchtitan 0.2.2 does it: the routed experts of a layer are dealt out to groups of ranks,
 * each of which has num_experts / expert of them whole. All other parameters are what they are without: FSDP2 shards
 * them over all data-parallel ranks, and a rank's experts over those ranks that have the same ones
 * (est_expert_shard_ranks()), as units of their own (schedule_experts.c). A layer's mixture is torchtitan's
 * (titan_moe.c), in the layers of Transformers, where later torchtitan's transformers_modeling_backend puts its own:
 * tokens are sent to their experts' ranks and back (all_to_all_single). Source:
 * torchtitan/distributed/expert_parallel.py, models/moe, models/llama4/infra/parallelize.py of v0.2.2. */
#ifndef EST_EXPERT_PARALLEL_H
#define EST_EXPERT_PARALLEL_H

#include "estimator/fault.h"
#include "estimator/model.h"
#include "estimator/request.h"

/* Ranks that share the parameters of the same experts: a divisor of est_shard_ranks() on a checked request. */
static inline uint64_t est_expert_shard_ranks(const struct est_parallelism *parallelism)
{
	return est_shard_ranks(parallelism) / (uint64_t)parallelism->expert;
}

/* Experts that a rank has. */
static inline uint64_t est_expert_share(const struct est_request *request, const struct est_model *model)
{
	return (uint64_t)(model->num_experts / request->parallelism.expert);
}

/* Whether FSDP2 cuts the experts' matrices along their second dimension: where there are more ranks than experts. */
bool est_expert_cuts_rows(const struct est_request *request, const struct est_model *model);

/* Bytes that the upper figures have room for: a rank may be sent twice its even share of the tokens. */
uint64_t est_expert_surplus(const struct est_request *request, const struct est_model *model);

/* Faults where the experts cannot be dealt out so, or what that means is not modelled. */
void est_expert_check(const struct est_request *request, const struct est_model *model, struct est_faults *faults);

#endif
