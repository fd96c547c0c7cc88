/* est_replay_reserved() in its plain form: every step played, every limit tried from the start. What the replay does
 * not play again has to come to the same. */
#ifndef TESTS_PLAIN_H
#define TESTS_PLAIN_H

#include <check.h>
#include <string.h>
#include "estimator/replay.h"
#include "estimator/verdict.h"

enum { PLAIN_STEPS = 4, PLAIN_ACCUMULATIONS = 3 };

struct plain {
	const struct est_program *program;
	struct est_allocator allocator;
	enum est_phase phase;
	uint64_t phase_reserved[EST_PHASES];
};

static void plain_play(struct plain *plain, enum est_part part)
{
	const struct est_program *program = plain->program;

	for (size_t i = program->begin[part]; i < program->end[part]; i++) {
		const struct est_event *event = &program->events[i];
		uint64_t *most = &plain->phase_reserved[plain->phase];

		if (event->kind == EST_EVENT_PHASE)
			plain->phase = (enum est_phase)event->id;
		if (event->kind == EST_EVENT_FREE)
			est_allocator_free(&plain->allocator, event->id);
		if (event->kind != EST_EVENT_ALLOC)
			continue;
		est_allocator_alloc_on(&plain->allocator, event->stream, event->id, est_units(event->bytes));
		if (plain->allocator.reserved > *most)
			*most = plain->allocator.reserved;
	}
}

/* The micro-batches of a step. */
static void plain_play_micros(struct plain *plain, bool first)
{
	const struct est_program *program = plain->program;

	if (first)
		plain_play(plain, EST_PART_REHEARSAL);
	if (!(first && program->rehearses_first))
		plain_play(plain, EST_PART_MICRO_FIRST);
	for (unsigned i = 0; i < PLAIN_ACCUMULATIONS && i + 1 < program->accumulation_steps; i++)
		if (!(first && program->rehearses_all))
			plain_play(plain, EST_PART_MICRO_NEXT);
}

/* Whether the run succeeds under limit (0: none). */
static bool plain_runs(struct plain *plain, uint64_t limit)
{
	est_allocator_reset(&plain->allocator, limit);
	plain_play(plain, EST_PART_LOAD);
	for (unsigned step = 0; step < PLAIN_STEPS && !plain->allocator.out_of_memory; step++) {
		uint64_t before = plain->allocator.peak_reserved;

		memset(plain->phase_reserved, 0, sizeof(plain->phase_reserved));
		if (step == 1)
			plain_play(plain, EST_PART_SECOND_STEP);
		plain_play_micros(plain, step == 0);
		plain_play(plain, EST_PART_CLIP);
		if (step == 0)
			plain_play(plain, EST_PART_STATES);
		plain_play(plain, EST_PART_UPDATE);
		if (step > 1 && plain->allocator.peak_reserved == before)
			break;
	}
	ck_assert(!plain->allocator.exhausted);
	return !plain->allocator.out_of_memory;
}

/* The least limit of those in steps of est_limit_step(ceiling), or ceiling. */
static uint64_t plain_least(struct plain *plain, uint64_t floor, uint64_t ceiling)
{
	uint64_t step = est_limit_step(ceiling), low = (floor + step - 1) / step, high = (ceiling + step - 1) / step;

	while (low < high) {
		uint64_t middle = low + (high - low) / 2;

		if (plain_runs(plain, middle * step))
			high = middle;
		else
			low = middle + 1;
	}
	return high * step < ceiling ? high * step : ceiling;
}

#endif
