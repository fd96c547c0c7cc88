/* A run of a program through the caching allocator, step by step until another step would be the same. It can be copied where it
 * stands, and go on under another limit. Internal to replay.c. */
#ifndef EST_PLAY_H
#define EST_PLAY_H

#include "estimator/allocator.h"
#include "estimator/recurrence.h"
#include "estimator/report.h"
#include "estimator/step.h"

/* Where a run stands: steps of parts, parts of events. */
struct est_play {
	const struct est_program *program;
	struct est_allocator *allocator;
	bool repeats_alike;               /* a micro-batch with gradients leaves alive what it found alive, and nothing else */
	bool closed;                      /* and so does a step that has its states */
	unsigned step, part, repeat;
	size_t event;                     /* the next one, counted from the begin of the part */
	uint64_t peak, growths, releases; /* of the allocator where the step began */
	uint64_t part_growths;            /* where the part began */
	struct est_recurrence recurrence; /* of the step */
	enum est_phase phase;
	uint64_t phase_reserved[EST_PHASES];
};

/* Before the first event of a program, with an allocator that holds nothing. Work space comes from arena, and is given back; where there
 * is too little, the run is only longer. */
struct est_play est_play_begin(const struct est_program *program, struct est_allocator *allocator, struct est_arena *arena);

/* Plays on until the run ends or is out of memory: then it stands before the request that did not fit. */
void est_play_on(struct est_play *play);

/* What from has played, with the allocator that to has. False when that has too little room. */
bool est_play_copy(struct est_play *to, const struct est_play *from);

#endif
