/* A training run as a program of events: loading, the micro-batches of a step, the optimizer's step. The parts are
 * traced once and replayed as often as wanted (replay.h). */
#ifndef EST_STEP_H
#define EST_STEP_H

#include "estimator/device.h"
#include "estimator/model.h"
#include "estimator/request.h"
#include "estimator/tape.h"

enum est_part {
	EST_PART_LOAD,        /* the model's constructor, and an optimizer's master weights */
	EST_PART_SECOND_STEP, /* what comes once, before the second step: DDP's buckets are made anew; or empty */
	EST_PART_REHEARSAL,   /* the first micro-batches of all, where they run otherwise than those of later steps;
			       * or empty */
	EST_PART_MICRO_FIRST, /* forward, loss, backward while no gradient exists */
	EST_PART_MICRO_NEXT,  /* the same with gradients to accumulate into; empty without accumulation */
	EST_PART_CLIP,        /* clip_grad_norm_(), and what optimizer.step() does before its states */
	EST_PART_STATES,      /* the optimizer's states: in the first step only */
	EST_PART_UPDATE,      /* the update's temporaries, zero_grad() */
	EST_PARTS
};

/* A stretch of events that comes again and again, one after the other, with other storages: count (2 at least) times from begin on. */
struct est_copies {
	size_t begin, length, count;
};

enum { EST_COPIES_MAX = 32 };

struct est_program {
	const struct est_event *events;
	size_t begin[EST_PARTS], end[EST_PARTS];
	uint32_t ids;               /* all ids are less */
	bool expandable;            /* the allocator has expandable segments */
	uint64_t pinned;            /* host bytes of checkpoints, and of shards and their gradients */
	uint64_t host_states;       /* host bytes of the optimizer's states */
	uint64_t managed;           /* bytes in managed memory: paged optimizer states, outside the allocator */
	uint64_t accumulation_steps;
	bool rehearses_first;       /* the rehearsal stands for EST_PART_MICRO_FIRST in the first step, else it comes before */
	bool rehearses_all;         /* and for EST_PART_MICRO_NEXT */
	uint64_t surplus;           /* bytes that another rank may hold beyond the one that is traced, at most */
	uint64_t leftover;          /* bytes that are alive of the batch before, and would not be if that were short */
	int64_t trainable_parameters;
	struct est_copies copies[EST_COPIES_MAX]; /* known ones, in the order of events; there may be others */
	unsigned copies_count;
	uint64_t reserved;          /* what an allocator of its own takes at most (MLX's); 0: PyTorch's is asked */
};

/* Traces the run. Tables and events come from arena and stay there. shards: how many ranks share what is in a category
 * (1: all of it). sdpa: what sdpa may choose on the card. False when the arena is too small. */
bool est_program_trace(struct est_program *program, const struct est_model *model, const struct est_request *request,
		       enum est_sdpa_choice sdpa, const uint64_t shards[EST_CATEGORIES], struct est_arena *arena);
/* The same by running all layers, where the other copies the events of those that are alike (repeat.h): it comes to the same
 * events, but for the storages' ids. */
bool est_program_trace_whole(struct est_program *program, const struct est_model *model, const struct est_request *request,
			     enum est_sdpa_choice sdpa, const uint64_t shards[EST_CATEGORIES], struct est_arena *arena);

/* What is recorded on tape between begin and end is the part; empty: nothing is. */
void est_program_begin(struct est_program *program, const struct est_tape *tape, enum est_part part);
void est_program_end(struct est_program *program, const struct est_tape *tape, enum est_part part);
void est_program_empty(struct est_program *program, const struct est_tape *tape, enum est_part part);

/* Arena bytes that suffice for a model with so many layers. */
size_t est_program_arena_size(int64_t layers);
/* How many ids a program of such a model can have. */
uint32_t est_program_ids(int64_t layers);

#endif
