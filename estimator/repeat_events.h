/* What is known of a micro-batch whose layers are not all run, and how the events of the others are copied. Internal to repeat_events.c,
 * which says what is copied, and repeat_copies.c, which copies it. */
#ifndef EST_REPEAT_EVENTS_H
#define EST_REPEAT_EVENTS_H

#include "estimator/repeat.h"

enum { EST_SEAMS = 32 };
#define EST_NOWHERE UINT32_MAX

/* Where events of the unit before the gap and of the one after it meet, in either order: there the others' belong. Positions
 * are counted from the begin of the micro-batch. */
struct est_seam {
	uint32_t before, after, length;
	uint32_t slot;      /* of its first event: seams one after the other */
};

/* An event that is copied. Its storage is named by the slot that allocates it, and the unit that does: its own, or the one
 * before or after. */
struct est_slot {
	uint32_t target;    /* of a release: the slot that allocates */
	int32_t toward;     /* from the unit that releases to the one that allocates: -1, 0 or 1 */
	uint32_t number;    /* of an allocation: its id, counted from the first of its kind */
	bool local;         /* it is released in the same seam: the ids of those are the same in all units */
	bool released;
};

/* What is known of the events of a micro-batch, and how they are copied. */
struct est_copying {
	struct est_tape *tape;
	const struct est_repeat *repeat;
	struct est_event *events;
	uint32_t count;
	uint32_t *birth;    /* of each id: 1 + the event that allocated it; 0: none of these, or it is released */
	uint32_t *origin;   /* of each release: that event, or EST_NOWHERE */
	uint8_t *unit;      /* of each event: enum est_repeat_unit */
	struct est_seam seams[EST_SEAMS];
	unsigned seam_count;
	struct est_slot *slots;
	uint32_t slot_count;
	uint32_t kept, locals; /* ids that each unit takes for itself, and that all take one after the other */
	uint32_t *steps;    /* of each slot of a seam */
	uint32_t adopted;   /* storages of a unit that its leaves have as gradients */
};

/* Names events, seams and slots. False where units do not repeat. */
bool est_repeat_find(struct est_copying *copying);
/* The slot of an event beside the gap, or EST_NOWHERE. */
uint32_t est_repeat_slot(const struct est_copying *copying, uint32_t event);

#endif
