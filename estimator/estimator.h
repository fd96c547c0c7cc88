/* vramcast's estimator: values in, values out. No JSON, no I/O, no clock, no globals that change. */
#ifndef EST_ESTIMATOR_H
#define EST_ESTIMATOR_H

#include "estimator/arena.h"
#include "estimator/fault.h"
#include "estimator/gpu.h"
#include "estimator/model.h"
#include "estimator/report.h"
#include "estimator/request.h"

/* The rules that span fields (heads divide, contradictions, what is not modelled yet), after every field by itself was
 * found right. Adds to faults and returns whether there were none. */
bool est_check(const struct est_request *request, const struct est_model *model, struct est_faults *faults);

/* Memory that the run needs, by category and phase, and the verdict of every card in gpus[0..gpu_count). peak is told
 * for gpus[0]; gpu_count is at least 1. The request must have passed est_check(). All work space and report->fits come
 * from arena. Same inputs, same report. False only when the arena is too small. */
bool est_run(const struct est_request *request, const struct est_model *model, const struct est_gpu *const *gpus,
	     size_t gpu_count, struct est_arena *arena, struct est_report *ret_report);

/* The verdicts that est_run() comes to, for a search that tries many requests: fills gpu, reason and verdict of
 * ret_fits[0..gpu_count). required and required_high are those of est_run() for the first exact cards; of another
 * card they may be bounds instead, on the same side of what the card has, so that less has to be replayed. Work
 * space comes from arena. False only when it is too small. */
bool est_judge_cards(const struct est_request *request, const struct est_model *model,
		     const struct est_gpu *const *gpus,
		     size_t gpu_count, size_t exact, struct est_arena *arena, struct est_fit *ret_fits);

/* The same without playing the allocator, from what is alive at once: required and required_high are no more than
 * those of est_run(), so that a card which does not fit does not fit. Replays, whatever the accounting. */
bool est_judge_alive(const struct est_request *request, const struct est_model *model,
		     const struct est_gpu *const *gpus,
		     size_t gpu_count, struct est_arena *arena, struct est_fit *ret_fits);

/* The least that required_high of the card can be, by floor (floor.h): no replay at all. Bytes. */
struct est_floor;
uint64_t est_run_least(const struct est_request *request, const struct est_model *model, const struct est_floor *floor,
		       const struct est_gpu *gpu);

/* Bytes of arena that are enough for est_run() on any checked request with that many cards. */
size_t est_arena_size(size_t gpu_count);

#endif
