/* Pipeline parallelism: a stage holds some of the layers, and its micro-batches' forwards run ahead of their backwards.
 *
 * The stages are those of torch.distributed.pipelining under Schedule1F1B (schedules.py, stage.py of torch 2.13),
 * cut as torchtitan cuts them (generate_llm_fqn_per_model_part()): the embedding counts as a layer, final norm and
 * head as another, and what is left over by equal shares goes to the first stages. A stage is a model of fewer
 * layers, which the layers' code does not know of. */
#ifndef EST_PIPELINE_H
#define EST_PIPELINE_H

#include "estimator/fault.h"
#include "estimator/pass.h"
#include "estimator/report.h"

enum { EST_STAGES_MAX = 4 };

struct est_stage {
	enum est_rank_kind kind;
	int64_t index, count;         /* of the pipeline's stages */
	int64_t first_layer, layers;
	uint64_t in_flight;           /* micro-batches between their forward and their backward, at most */
};

/* Stage index (from 0) of a model whose step has so many micro-batches. */
struct est_stage est_stage(const struct est_model *model, const struct est_parallelism *parallelism,
			   int64_t micro_batches, int64_t index);
/* The stages that may be the most loaded: the first; the second, which of those in the middle has the most
 * micro-batches in flight; another with more parameters, where layers differ; and the last. In their order; how
 * many. */
unsigned est_stage_candidates(const struct est_model *model, const struct est_request *request,
			      struct est_stage ret[EST_STAGES_MAX]);
/* What the stage holds, as a model. */
struct est_model est_stage_model(const struct est_model *model, const struct est_stage *stage);

/* The same of the request's stage index; the whole model where there is no pipeline. */
struct est_model est_stage_part(const struct est_model *model, const struct est_request *request, int64_t index);

/* Micro-batches of a stage's model that are between their forward and their backward, at most; those that a trace
 * goes through, as what is between the first and the last ones repeats; layers that it needs tables for. */
uint64_t est_stage_in_flight(const struct est_model *stage, const struct est_request *request);
uint64_t est_stage_traced(const struct est_model *stage, const struct est_request *request);
int64_t est_stage_traced_layers(const struct est_model *stage, const struct est_request *request);

/* pipeline_step.c: the buffers that pass, of a stage's model, receives into, which live from the first step on. */
struct est_pipeline *est_pipeline_load(struct est_pass *pass);
/* One step's micro-batches, forwards and backwards in the order of the schedule. */
void est_pipeline_step(struct est_pipeline *pipeline);

/* Faults for what is not modelled of a stage, where the request has any. */
void est_pipeline_check(const struct est_request *request, const struct est_model *model, struct est_faults *faults);

#endif
