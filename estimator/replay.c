#include "estimator/replay.h"

#include <string.h>

enum { STEPS = 4, ACCUMULATIONS = 3 }; /* later ones repeat the state of the allocator */

/* ---- levels */

struct level {
	struct est_levels *levels;
	uint64_t current[EST_CATEGORIES], allocated;
	enum est_phase phase;
	bool steady; /* the states exist: a peak counts for its phase */
};

static void rise(struct level *level, uint8_t category, uint64_t bytes)
{
	struct est_levels *levels = level->levels;

	level->current[category] += bytes;
	level->allocated += bytes;
	if (level->current[category] > levels->component[category])
		levels->component[category] = level->current[category];
	if (level->steady && level->allocated > levels->phase_peak[level->phase])
		levels->phase_peak[level->phase] = level->allocated;
	if (level->allocated > levels->allocated) {
		levels->allocated = level->allocated;
		levels->phase = level->phase;
		memcpy(levels->at_peak, level->current, sizeof(levels->at_peak));
	}
}

static void play_levels(const struct est_program *program, enum est_part part, struct level *level)
{
	const struct est_event *event = program->events + program->begin[part], *end = program->events + program->end[part];

	for (; event < end; event++) {
		if (event->kind == EST_EVENT_ALLOC) {
			rise(level, event->category, event->bytes);
		} else if (event->kind == EST_EVENT_FREE) {
			level->current[event->category] -= event->bytes;
			level->allocated -= event->bytes;
		} else {
			level->phase = (enum est_phase)event->id;
			if (level->steady && level->allocated > level->levels->phase_peak[level->phase])
				level->levels->phase_peak[level->phase] = level->allocated;
		}
	}
}

void est_replay_levels(const struct est_program *program, struct est_levels *ret_levels)
{
	struct level level = { .levels = ret_levels };

	memset(ret_levels, 0, sizeof(*ret_levels));
	play_levels(program, EST_PART_LOAD, &level);
	for (unsigned step = 0; step < 2; step++) {
		level.steady = step > 0;
		play_levels(program, EST_PART_MICRO_FIRST, &level);
		play_levels(program, EST_PART_MICRO_NEXT, &level);
		play_levels(program, EST_PART_CLIP, &level);
		if (step == 0)
			play_levels(program, EST_PART_STATES, &level);
		play_levels(program, EST_PART_UPDATE, &level);
	}
}

/* ---- reserved */

struct play {
	const struct est_program *program;
	struct est_allocator *allocator;
	uint64_t *phase_reserved; /* or NULL */
	enum est_phase phase;
};

static void play_part(struct play *play, enum est_part part)
{
	const struct est_program *program = play->program;
	const struct est_event *event = program->events + program->begin[part], *end = program->events + program->end[part];

	for (; event < end; event++) {
		if (event->kind == EST_EVENT_ALLOC)
			est_allocator_alloc(play->allocator, event->id, est_units(event->bytes));
		else if (event->kind == EST_EVENT_FREE)
			est_allocator_free(play->allocator, event->id);
		else
			play->phase = (enum est_phase)event->id;
		if (event->kind == EST_EVENT_ALLOC && play->phase_reserved
		    && play->allocator->reserved > play->phase_reserved[play->phase])
			play->phase_reserved[play->phase] = play->allocator->reserved;
	}
}

static void play_step(struct play *play, bool first)
{
	uint64_t accumulations = play->program->accumulation_steps;

	play_part(play, EST_PART_MICRO_FIRST);
	for (uint64_t i = 1; i < accumulations && i <= ACCUMULATIONS; i++)
		play_part(play, EST_PART_MICRO_NEXT);
	play_part(play, EST_PART_CLIP);
	if (first)
		play_part(play, EST_PART_STATES);
	play_part(play, EST_PART_UPDATE);
}

bool est_replay_reserved(const struct est_program *program, struct est_allocator *allocator, uint64_t limit,
			 uint64_t *ret_reserved, uint64_t ret_phase[EST_PHASES])
{
	struct play play = { .program = program, .allocator = allocator };

	est_allocator_reset(allocator, limit);
	play_part(&play, EST_PART_LOAD);
	for (unsigned step = 0; step < STEPS && !allocator->out_of_memory; step++) {
		uint64_t before = allocator->peak_reserved;

		if (step > 0 && ret_phase) {
			play.phase_reserved = ret_phase;
			memset(ret_phase, 0, EST_PHASES * sizeof(*ret_phase));
		}
		play_step(&play, step == 0);
		if (step > 1 && allocator->peak_reserved == before)
			break;
	}
	*ret_reserved = allocator->peak_reserved;
	return !allocator->out_of_memory;
}
