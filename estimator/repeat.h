/* Layers that are alike are traced once.
 *
 * A layer's events are those of the layer before, with other storages, where both are made of the same and neither is the
 * first or the last. So a trace runs a model of few layers: units of one period of layers (one layer, or as many as it takes
 * until kinds of layers come again), of which the first two and the last two of a row of equal ones are run, and what lies
 * between is left out. That is a whole model to autograd: its graph is connected, and its backward runs as it would.
 * Afterwards the events of the others are put in between, in the forward, the backward and wherever else storages of layers
 * go one after the other, and their leaves get their gradients. (repeat_copies.c)
 *
 * That the two units on either side of the gap make the same events, and let go of the same storages, of their own and of the
 * units beside them, is looked at event by event. Where they do not, the run is traced again with all its layers. */
#ifndef EST_REPEAT_H
#define EST_REPEAT_H

#include "estimator/pass.h"
#include "estimator/step.h"

/* Whose events are: of the units that are run, in the order of layers, or of none. */
enum est_repeat_unit { EST_UNIT_NONE, EST_UNIT_FIRST, EST_UNIT_BEFORE, EST_UNIT_AFTER, EST_UNIT_LAST };

/* From an event on, those are a unit's. */
struct est_repeat_mark {
	size_t event;
	enum est_repeat_unit unit;
};

enum { EST_REPEAT_MARKS = 128 };

struct est_repeat {
	int64_t first, period;      /* the first layer of the first unit, and the layers of each */
	int64_t copies;             /* units that are not run; 0: all layers are */
	bool leaps;                 /* some were not, in this micro-batch */
	bool failed;                /* units do not repeat as they should: the trace is none */
	uint64_t pinned;            /* host bytes where the second unit began */
	size_t begin;               /* of the micro-batch's events */
	struct est_repeat_mark marks[EST_REPEAT_MARKS];
	unsigned mark_count;
	struct est_copies list[EST_COPIES_MAX]; /* what was put between the events, for est_program */
	unsigned list_count;
};

/* Looks which layers need not be run, when all is built. tape->repeat is set where some need not. */
void est_repeat_plan(struct est_repeat *repeat, const struct est_pass *pass);

/* The layer (from 0) that is run after this one. */
int64_t est_repeat_next(struct est_tape *tape, int64_t layer);

/* Where tape->repeat is set: events from here on are of a layer (from 1), or, 0, of none; a micro-batch begins, and ends. */
void est_repeat_enter(struct est_tape *tape, unsigned layer);
void est_repeat_begin(struct est_tape *tape);
void est_repeat_end(struct est_tape *tape);

/* repeat_copies.c: puts the events of the units that were not run between those of a micro-batch, and gives their leaves
 * gradients. False where units do not repeat, or tables are full: the trace is none then. */
bool est_repeat_copy(struct est_tape *tape);
/* Arena bytes that suffice for it, and for est_repeat_plan(). */
size_t est_repeat_arena_size(const struct est_tape_limits *limits);

#endif
