/* Plays a program of events: what is allocated, by category and phase, and what PyTorch's caching allocator makes of it. */
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

/* The same run through the allocator until a step reserves nothing new (four steps at most). Reserved bytes: the maximum, and
 * per phase of the last step (ret_phase may be NULL). False when it runs out of memory under limit (0: none). */
bool est_replay_reserved(const struct est_program *program, struct est_allocator *allocator, uint64_t limit,
			 uint64_t *ret_reserved, uint64_t ret_phase[EST_PHASES]);

#endif
