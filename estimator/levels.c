#include "estimator/replay.h"

#include <string.h>

/* Where a run stands, and the most so far. */
struct level {
	struct est_levels most;
	uint64_t current[EST_CATEGORIES], allocated;
	enum est_phase phase;
	bool steady; /* the states exist: a peak counts for its phase */
};

static void raise(uint64_t *peak, uint64_t value)
{
	if (*peak < value)
		*peak = value;
}

/* Less is alive from here on, or it is another phase. */
static void note_peaks(struct level *level)
{
	struct est_levels *most = &level->most;

	for (unsigned i = 0; i < EST_CATEGORIES; i++)
		raise(&most->component[i], level->current[i]);
	if (level->steady)
		raise(&most->phase_peak[level->phase], level->allocated);
	if (level->allocated > most->allocated) {
		most->allocated = level->allocated;
		most->phase = level->phase;
		memcpy(most->at_peak, level->current, sizeof(most->at_peak));
	}
}

/* Peaks are looked for where what has risen falls. */
static void play_level_events(const struct est_program *program, size_t begin, size_t end, struct level *level)
{
	const struct est_event *event = program->events + begin, *last = program->events + end;
	bool rises = false;

	for (; event < last; event++) {
		if (event->kind == EST_EVENT_ALLOC) {
			level->current[event->category] += event->bytes;
			level->allocated += event->bytes;
			rises = true;
			continue;
		}
		if (rises)
			note_peaks(level);
		rises = event->kind == EST_EVENT_PHASE; /* which begins with what there is */
		if (event->kind == EST_EVENT_PHASE) {
			level->phase = (enum est_phase)event->id;
		} else {
			level->current[event->category] -= event->bytes;
			level->allocated -= event->bytes;
		}
	}
	if (rises)
		note_peaks(level);
}

/* What is alive changes by the same in each copy, so that its first or its last has the most. Plays the first, and leaves out the
 * others but the last. Returns where that begins. */
static size_t play_first_copy(const struct est_program *program, const struct est_copies *copies, struct level *level)
{
	const struct level before = *level;

	play_level_events(program, copies->begin, copies->begin + copies->length, level);
	for (unsigned i = 0; i < EST_CATEGORIES; i++)
		level->current[i] += (copies->count - 2) * (level->current[i] - before.current[i]);
	level->allocated += (copies->count - 2) * (level->allocated - before.allocated);
	return copies->begin + (copies->count - 1) * copies->length;
}

static void play_levels(const struct est_program *program, enum est_part part, struct level *level)
{
	size_t at = program->begin[part];

	for (unsigned i = 0; i < program->copies_count; i++) {
		const struct est_copies *copies = &program->copies[i];

		if (copies->begin < at || copies->begin >= program->end[part])
			continue;
		play_level_events(program, at, copies->begin, level);
		at = play_first_copy(program, copies, level);
	}
	play_level_events(program, at, program->end[part], level);
}

void est_replay_levels(const struct est_program *program, struct est_levels *ret_levels)
{
	struct level level = { .steady = false };

	play_levels(program, EST_PART_LOAD, &level);
	memcpy(level.most.component, level.current, sizeof(level.most.component)); /* not what loading took for a moment */
	for (unsigned step = 0; step < 2; step++) {
		level.steady = step > 0;
		if (step == 1)
			play_levels(program, EST_PART_SECOND_STEP, &level);
		if (step == 0)
			play_levels(program, EST_PART_REHEARSAL, &level);
		play_levels(program, EST_PART_MICRO_FIRST, &level);
		play_levels(program, EST_PART_MICRO_NEXT, &level);
		play_levels(program, EST_PART_CLIP, &level);
		if (step == 0)
			play_levels(program, EST_PART_STATES, &level);
		play_levels(program, EST_PART_UPDATE, &level);
	}
	*ret_levels = level.most;
}
