/* Plays a program of events: what is allocated, by category and phase, and what PyTorch's caching allocator makes of
 * it. */
#ifndef EST_REPLAY_H
#define EST_REPLAY_H

#include "estimator/allocator.h"
#include "estimator/report.h"
#include "estimator/step.h"

/* Sums of what is alive, over a run of which the first step makes the optimizer's states. Bytes. */
struct est_levels {
	uint64_t allocated;                     /* peak: torch.cuda.max_memory_allocated() */
	uint64_t at_peak[EST_CATEGORIES];
	enum est_phase phase;                   /* of the peak */
	uint64_t phase_peak[EST_PHASES];        /* within a step that has its states */
	uint64_t component[EST_CATEGORIES];     /* each category's own maximum */
};

void est_replay_levels(const struct est_program *program, struct est_levels *ret_levels);

/* The same run through the allocator until a step leaves it as it was (four steps at most). Bytes. */
struct est_reserved {
	uint64_t peak;              /* with room enough: torch.cuda.max_memory_reserved() */
	uint64_t phase[EST_PHASES]; /* the most in each phase of the last step */
	uint64_t least;             /* the least limit under which it succeeds: a multiple of est_limit_step(peak), or peak */
};

/* Whether the peak tells all that is wanted: then the least limit is not looked for. */
typedef bool est_enough(void *context, uint64_t peak);

/* floor: no limit below it can succeed (est_levels.allocated), at least 1. enough: NULL, or asked with the peak; where it
 * says so, least is the peak. Work space comes from arena, est_replay_arena_size() of it, and more, where it is there, to be faster;
 * false when that does not suffice. */
bool est_replay_reserved(const struct est_program *program, struct est_arena *arena, uint64_t floor, est_enough *enough,
			 void *context, struct est_reserved *ret_reserved);

/* The same without the least limit, which is a search of its own: least is the peak. */
bool est_replay_peak(const struct est_program *program, struct est_arena *arena, struct est_reserved *ret_reserved);

/* Arena bytes for the allocators of a program with so many ids. */
size_t est_replay_arena_size(uint32_t ids);

#endif
