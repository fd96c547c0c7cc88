/* Inductor's planning of memory (torch/_inductor/codegen/wrapper.py): a graph's buffers with their lives, of which one
 * that is done with becomes another of the same size and type later on, where keeping it until then raises no peak. What
 * it estimates leaves out parameters, and what kernels take for themselves.
 *
 * A graph is run twice over: est_plan_begin(), its takes and gives, which are only counted, est_plan_settle(), and the
 * same takes and gives again, in the same order, which then reach the tape. */
#ifndef EST_COMPILED_PLAN_H
#define EST_COMPILED_PLAN_H

#include "estimator/tape.h"

enum { EST_PLAN_STEPS_PER_LAYER = 320 };

/* One take or give. */
struct est_plan_step {
	uint64_t bytes;
	int64_t level;             /* what is alive after it, as inductor estimates it */
	struct est_tensor parked;  /* given, and to be taken again */
	uint32_t pair;             /* 1 + the step: of a take the give whose buffer it gets, of a give the take; 0: none */
	uint32_t next;             /* of a give: the one before it in its pool, as above */
	uint8_t element;
	bool gives, pooled;
};

/* Buffers of a size and type that may be taken again: the last one given first. */
struct est_plan_pool {
	uint64_t bytes;
	uint32_t last;
	uint8_t element;
};
enum { EST_PLAN_POOLS = 96 };

struct est_plan {
	struct est_tape *tape;
	struct est_plan_step *steps;
	uint32_t count, limit;
	struct est_plan_pool pools[EST_PLAN_POOLS];
	unsigned pool_count;
	int64_t level, peak;
	bool counts;               /* the first time over */
};

/* level: bytes of what the graph is given and may let go. */
void est_plan_begin(struct est_plan *plan, struct est_tape *tape, uint64_t level);
/* The second time over begins. */
void est_plan_settle(struct est_plan *plan);
/* A buffer: held. */
struct est_tensor est_plan_take(struct est_plan *plan, uint64_t numel, uint8_t element, enum est_category category);
/* A buffer that a kernel of PyTorch's makes itself, as tensor once the graph is run. */
struct est_tensor est_plan_receive(struct est_plan *plan, uint64_t numel, uint8_t element, struct est_tensor tensor);
/* The graph is done with it. */
void est_plan_give(struct est_plan *plan, struct est_tensor *tensor);
/* Another buffer in tensor's own place: inductor counts both for the kernel that makes it. What the graph was given
 * becomes its own so. */
struct est_tensor est_plan_adopt(struct est_plan *plan, struct est_tensor tensor);

#endif
