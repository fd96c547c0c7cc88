/* Whether a step that made the allocator grow would, played again, take the same course and make it grow no more. Then
 * it need not be played again.
 *
 * A step leaves alive what it found alive. So the next one begins with the same blocks and, free throughout, the
 * segments that this one reserved. It goes through the same requests, and by induction each is served from the same
 * block: the best fit among the old blocks is what it was, and a segment that was not there yet takes its place only if
 * it fits better, that is, with s units asked for and t in the block that served them, if s <= segment < t. (Of two of
 * equal size the one at the lower address is taken, which is the older one.) The request that a segment was reserved
 * for finds that segment. If no request is in the way, nothing is reserved again.
 *
 * What served the requests is kept by classes of s, so that a step may be played again in vain but is never left out
 * wrongly. Holds for segments of fixed size while nothing is given back. Internal to play.c. */
#ifndef EST_RECURRENCE_H
#define EST_RECURRENCE_H

#include <stdbool.h>
#include <stdint.h>
#include "estimator/allocator.h"

/* Eight classes an octave. */
enum { EST_CLASS_BITS = 3, EST_CLASSES = (32 - EST_CLASS_BITS + 1) << EST_CLASS_BITS };

/* All zero where a step begins. */
struct est_recurrence {
	uint32_t reach[EST_POOLS][EST_CLASSES]; /* the most units in a block that served a request of the class */
	bool broken;                            /* a segment fits a request before it better than what served that */
};

static inline unsigned est_class_of(uint32_t units)
{
	unsigned log = 31U - (unsigned)__builtin_clz(units | 1U << EST_CLASS_BITS) - EST_CLASS_BITS;

	return (log << EST_CLASS_BITS) + (units >> log);
}

/* A block of so many units served a request. */
static inline void est_recurrence_note(struct est_recurrence *recurrence, unsigned pool, uint32_t units, uint32_t block)
{
	uint32_t *reach = &recurrence->reach[pool][est_class_of(units)];

	if (*reach < block)
		*reach = block;
}

/* A segment of so many units was reserved. */
static inline void est_recurrence_grow(struct est_recurrence *recurrence, unsigned pool, uint32_t segment)
{
	for (unsigned i = 0; i <= est_class_of(segment); i++)
		recurrence->broken |= recurrence->reach[pool][i] > segment;
}

#endif
