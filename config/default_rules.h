/* Rules for defaults that follow from other fields or from the model. Those of how ranks share a run stand in rules_sharding.c, the others in
 * defaults.c, whose table says in which order they are asked. Internal to these. */
#ifndef CFG_DEFAULT_RULES_H
#define CFG_DEFAULT_RULES_H

#include <stdbool.h>
#include "estimator/model.h"
#include "estimator/request.h"

struct cfg_rule_input {
	const struct est_request *request;
	const struct est_model *model;
};

/* NULL: it says nothing of the field. Else why it does, with the value. */
typedef const char *cfg_default_rule(const struct cfg_rule_input *input, double *ret);

/* Trainers that prepare models with accelerate; those of them, and its own engine, that run DeepSpeed for this request */
bool cfg_runs_accelerate(const struct est_request *request);
bool cfg_runs_deepspeed(const struct est_request *request);

cfg_default_rule cfg_strategy_of_gpus, cfg_precision_of_deepspeed, cfg_precision_of_fsdp, cfg_precision_of_pipeline,
	cfg_schedule_of_stages, cfg_stages_of_schedule, cfg_reshard_of_pipeline, cfg_dtype_of_precision,
	cfg_communication_of_precision, cfg_communication_of_ulysses, cfg_backend_of_strategy, cfg_overlap_of_zero3,
	cfg_wrap_of_adapters, cfg_wrap_of_experts, cfg_storage_of_shards;

#endif
