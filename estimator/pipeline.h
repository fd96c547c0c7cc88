/* Pipeline parallelism: a rank holds some of the layers, and its micro-batches' forwards run ahead of their backwards.
 *
 * The stages are those of torch.distributed.pipelining under Schedule1F1B, one a rank, or ScheduleInterleaved1F1B, several
 * (schedules.py, stage.py of torch 2.13), cut as torchtitan cuts them (generate_llm_fqn_per_model_part()): the embedding
 * counts as a layer, final norm and head as another, and what is left over by equal shares goes to the first stages. Of p
 * ranks with v stages each, rank i has the stages i, i + p, ..., i + (v - 1) p. A stage is a model of fewer layers, which
 * the layers' code does not know of. */
#ifndef EST_PIPELINE_H
#define EST_PIPELINE_H

#include "estimator/fault.h"
#include "estimator/pass.h"
#include "estimator/report.h"

enum { EST_STAGES_MAX = 4 };

/* What a rank of the pipeline holds. */
struct est_stage {
	enum est_rank_kind kind;
	int64_t index, count;         /* of the pipeline's ranks */
	int64_t first_layer, layers;  /* the first of its first stage; of all its stages */
	uint64_t in_flight;           /* micro-batches between their forward and their backward, at most, of all its stages */
};

/* Rank index (from 0) of a model whose step has so many micro-batches. */
struct est_stage est_stage(const struct est_model *model, const struct est_parallelism *parallelism,
			   int64_t micro_batches, int64_t index);
/* The ranks that may be the most loaded: the first; the second, which of those in the middle has the most
 * micro-batches in flight; another with more parameters, where layers differ; and the last. In their order; how
 * many. */
unsigned est_stage_candidates(const struct est_model *model, const struct est_request *request,
			      struct est_stage ret[EST_STAGES_MAX]);

/* What rank index holds, as a model: its first stage, which leads to the others (next_stage) in the arena; the whole
 * model where there is no pipeline. False when the arena is too small. */
bool est_stage_part(const struct est_model *model, const struct est_request *request, int64_t index,
		    struct est_arena *arena, struct est_model *ret_part);

/* ---- pipeline_order.c: in which order a rank runs its micro-batches */

/* Forwards alone, then a forward and a backward in turn, then backwards. Its stages take turns of so many
 * micro-batches, the first one's first in the forward, the last one's in the backward. */
struct est_order {
	uint64_t stages;              /* of the rank */
	uint64_t turn;                /* micro-batches that go through a stage before the next one's turn */
	uint64_t ahead;               /* forwards before the first pair */
	uint64_t micro_batches;       /* of the step */
	uint64_t traced;              /* those that a trace goes through, as what is between the first and the last ones repeats */
};

/* Of rank index, with so many micro-batches a step; of a rank's model, as est_stage_part() makes it. */
struct est_order est_order_of_rank(const struct est_parallelism *parallelism, int64_t micro_batches, int64_t index);
struct est_order est_order_of(const struct est_model *part, const struct est_request *request);
/* Passes of a micro-batch through a stage that are between their forward and their backward, at most. */
uint64_t est_order_in_flight(const struct est_order *order);

/* One forward or backward of the order. */
struct est_action {
	bool backward;
	uint32_t stage;               /* of the rank's */
	uint64_t number;              /* of the micro-batch */
};
/* All those that are traced: 2 x stages x traced of them, in the arena; NULL when that is too small. */
struct est_action *est_order_actions(const struct est_order *order, struct est_arena *arena);

/* Layers that a trace of the order needs tables for, of a rank that holds so many. */
int64_t est_order_traced_layers(const struct est_order *order, int64_t layers);

/* ---- pipeline_step.c */

/* Builds the rank's other stages behind the pass of its first one. False when the arena is too small. */
bool est_pipeline_build(struct est_pass *pass);
/* The buffers that the stages receive into, which live from the first step on. NULL when the arena is too small. */
struct est_pipeline *est_pipeline_load(struct est_pass *pass);
/* One step's micro-batches, forwards and backwards in the order of the schedule. */
void est_pipeline_step(struct est_pipeline *pipeline);

/* Faults for what is not modelled of a stage, where the request has any. */
void est_pipeline_check(const struct est_request *request, const struct est_model *model, struct est_faults *faults);

#endif
