/* DeepSpeed's ZeRO-3 on rank 0: every parameter is cut into parts, and each module gathers its own before it runs. A
 * coordinator, which has seen one forward and backward, gathers ahead of them and keeps what is soon used again.
 * Gradients pass through a bucket into a flat partition, which the optimizer steps by sub-groups. DeepSpeed 0.19:
 * partitioned_param_coordinator.py, stage3.py. */
#ifndef EST_ZERO3_H
#define EST_ZERO3_H

#include "estimator/schedule.h"

enum { EST_ZERO3_OWNERS = 4, EST_ZERO3_GATHER = 1, EST_ZERO3_REDUCE = 2,
       EST_ZERO3_REFERENCE = 3 }; /* modules that use a parameter at once; streams, the last of a reference model's all-gathers */

/* What is gathered of a leaf of the tape; its memory is est_leaf.unsharded. */
struct est_zero3_parameter {
	bool available, pending, persists; /* pending: its all-gather has not been waited for by the module that needs it */
	uint32_t persistent;               /* memory of one that persists, from the first step on */
	bool chosen;                       /* to be prefetched now */
	bool recomputed;                   /* in the list of a module that recomputes */
	uint8_t owners;
	uint32_t owner[EST_ZERO3_OWNERS];  /* modules that use it */
	uint32_t gather;                   /* the coalesced all-gather it is part of; 0: none */
	uint32_t next;                     /* of that all-gather; 0: the last. Leaves are counted from 1 here */
	uint32_t next_recomputed;          /* of that list */
	uint32_t first_use, last_use, use; /* of the trace: all, and the one that comes next */
	int64_t fetched_for;               /* the last step that a prefetch has seen of it */
};

struct est_zero3_module {
	struct est_leaf *first;            /* its own parameters, by est_leaf.next */
	uint32_t recomputed;               /* frozen parameters that a recomputation has gathered on its account */
	int32_t grads_remaining;           /* to come back before its backward is over: what a forward without gradients forgets */
	bool whole;                        /* a mixture that is gathered whole */
	uint32_t mixture;                  /* what is within such a one, and has no hooks: that; else 0 */
	uint32_t attention;                /* of a layer with such a one: its attention */
	uint64_t deep;                     /* elements of its parameters and of those within it, where there are such mixtures */
};

/* One use of a parameter in the trace. */
struct est_zero3_use {
	uint32_t leaf, step, next;         /* next: use of the same, from 1 */
};

/* A coalesced all-gather: its flat output lives until all its parameters have been waited for. */
struct est_zero3_gather {
	uint32_t flat, first, waiting;
	bool complete, held;
};

/* ZeRoTraceMode: each forward completes the trace that the one before has begun, or begins one; a module that it does not have there ends
 * it. */
enum est_zero3_mode { EST_ZERO3_INVALID, EST_ZERO3_RECORD, EST_ZERO3_COMPLETE };

struct est_zero3 {
	struct est_schedule *schedule;
	struct est_tape *tape;
	enum est_zero3_mode mode;
	bool cleans;                       /* lets go of what no module has waited for */
	bool persists;                     /* the first step is over: small parameters are there */
	bool offloads_parameters;
	bool offloads_optimizer;
	uint8_t gather_stream, reduce_stream;
	int64_t prefetch_bucket, max_live, max_reuse, available;
	struct est_zero3_parameter *parameters; /* by leaf: those of this model, from the first one to the count */
	uint32_t first_parameter, parameter_count;
	struct est_zero3_module *modules;
	uint32_t module_count;
	uint32_t *order;                   /* modules as they are called, forward and backward */
	uint64_t *before;                  /* elements of the parameters of all modules before */
	uint32_t step, steps, step_limit;
	struct est_zero3_use *uses;        /* by number, from 1 */
	uint32_t use_count, use_limit, queue;
	struct est_zero3_gather *gathers;  /* by number, from 1 */
	uint32_t gather_count;
	uint32_t *active, active_count;    /* modules whose backward runs, in the order in which it began */
	/* gradients */
	uint64_t bucket, filled;           /* elements of the bucket, and that wait in it */
	struct est_leaf **waiting;         /* whose gradients they are; one that is larger waits in its own memory */
	uint32_t waiting_count;
	uint8_t accumulated_element, reduced_element;
	uint64_t sub_group;                /* elements of a sub-group of the step */
	struct est_tensor flat;            /* gradients of the first, concatenated */
};

/* Whether the request is replayed so: bf16 weights with fp32 masters, a full model or adapters, a model of words and any of its losses,
 * or, but for QLoRA, TRL's objectives. */
bool est_zero3_wanted(const struct est_request *request);

/* Cuts the leaves of the tape, makes what the rank holds at rest, and hooks into all modules. False when the arena
 * is too small. */
bool est_zero3_init(struct est_zero3 *zero3, struct est_schedule *schedule, const struct est_model *model);

/* The same of a reference model, the leaves from first on: an engine of its own, which has no optimizer. */
bool est_zero3_init_reference(struct est_zero3 *zero3, struct est_schedule *schedule, const struct est_model *model, uint32_t first);

/* The first step is over. */
void est_zero3_rehearsed(struct est_zero3 *zero3);

static inline struct est_zero3_parameter *est_zero3_parameter_of(const struct est_zero3 *zero3, const struct est_leaf *leaf)
{
	return &zero3->parameters[leaf - zero3->tape->leaves];
}

static inline bool est_zero3_is_gathered(const struct est_zero3_parameter *parameter)
{
	return parameter->available || parameter->pending;
}

/* The module whose parameter it is to the coordinator. */
static inline uint32_t est_zero3_module_of(const struct est_zero3 *zero3, const struct est_leaf *leaf)
{
	uint32_t mixture = zero3->modules[leaf->module].mixture;

	return mixture ? mixture : leaf->module;
}

/* zero3_mixtures.c: joins what is within mixtures that are gathered whole. Whether such a one of a layer stays when it is let go of:
 * it, or what it is within, is called before max_reuse elements have gone by. */
void est_zero3_join_mixtures(struct est_zero3 *zero3, const struct est_model *model);
bool est_zero3_mixture_stays(const struct est_zero3 *zero3, uint32_t mixture, uint32_t layer);

/* zero3_trace.c: a forward begins (reset_step()); a module is called; what comes behind it is gathered. Whether a module uses a parameter
 * again before max_reuse elements have gone by. */
void est_zero3_reset(struct est_zero3 *zero3);
void est_zero3_trace(struct est_zero3 *zero3, uint32_t module);
void est_zero3_prefetch(struct est_zero3 *zero3, const struct est_zero3_module *module);
bool est_zero3_is_reused_soon(const struct est_zero3 *zero3, struct est_zero3_parameter *parameter);

/* zero3_gather.c: gathers count parameters, a list by est_zero3_parameter.next in the order of the leaves; makes one
 * available; frees it (what is pending or has owners must not be). */
void est_zero3_all_gather(struct est_zero3 *zero3, uint32_t first, uint32_t count);
void est_zero3_wait(struct est_zero3 *zero3, struct est_zero3_parameter *parameter);
void est_zero3_release(struct est_zero3 *zero3, struct est_zero3_parameter *parameter);
/* Waits for what no module has, and lets go of it. */
void est_zero3_clean(struct est_zero3 *zero3);
/* The model's own forward reads what are the parameters of a module that it does not call. */
void est_zero3_read(struct est_zero3 *zero3, uint32_t module);

/* zero3_gradients.c: partitions and the bucket at rest; those of what is frozen alone; what a flush leaves to be done when the backward is over. */
void est_zero3_partition(struct est_zero3 *zero3, const struct est_model *model);
void est_zero3_rest_frozen(struct est_zero3 *zero3);
void est_zero3_reduce_rest(struct est_zero3 *zero3);
/* The step: norms of the gradients, and the first sub-group's flattened; those of the others, one after the other.
 * schedule may be NULL or another strategy's. */
void est_zero3_flatten(struct est_schedule *schedule);
void est_zero3_flattened(struct est_schedule *schedule);
void est_zero3_step_rest(struct est_schedule *schedule);

#endif
