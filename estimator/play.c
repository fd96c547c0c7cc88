#include "estimator/play.h"

#include <string.h>
#include "estimator/blocks.h"

enum { STEPS = 4, ACCUMULATIONS = 3 }; /* later ones repeat the state of the allocator */

/* How often the part is played in this step. */
static uint64_t repeats(const struct est_play *play)
{
	uint64_t accumulated = play->program->accumulation_steps - 1;

	if (play->part == EST_PART_LOAD || play->part == EST_PART_STATES || play->part == EST_PART_REHEARSAL)
		return play->step == 0;
	if (play->part == EST_PART_SECOND_STEP)
		return play->step == 1;
	if (play->part == EST_PART_MICRO_FIRST && play->step == 0)
		return !play->program->rehearses_first;
	if (play->part == EST_PART_MICRO_NEXT && play->step == 0 && play->program->rehearses_all)
		return 0;
	if (play->part == EST_PART_MICRO_NEXT)
		return accumulated < ACCUMULATIONS ? accumulated : ACCUMULATIONS;
	return 1;
}

/* The allocs of a phase are over: without a limit, which phases are told of, what is reserved only grows. */
static void end_phase(struct est_play *play, bool served)
{
	if (served && play->phase_reserved[play->phase] < play->allocator->reserved)
		play->phase_reserved[play->phase] = play->allocator->reserved;
}

/* The rest of a part. False, and standing before the request, when one does not fit. Compiled for either kind of segments. */
__attribute__((always_inline)) static inline bool play_events(struct est_play *play, bool expandable)
{
	const struct est_event *events = play->program->events + play->program->begin[play->part];
	size_t count = play->program->end[play->part] - play->program->begin[play->part];
	struct est_allocator *allocator = play->allocator;
	bool watched = play->closed && play->step > 0, served = false;

	for (size_t i = play->event; i < count; i++) {
		const struct est_event *event = &events[i];

		if (event->kind == EST_EVENT_FREE) {
			est_serve_free(allocator, event->id, expandable);
		} else if (event->kind == EST_EVENT_ALLOC) {
			uint32_t units = est_units_served(event->bytes);
			unsigned pool = est_pool_for(event->stream, units);
			uint64_t growths = allocator->growths, found = est_serve(allocator, pool, event->id, units, expandable);

			if (!found) {
				play->event = i;
				return false;
			}
			served = true;
			if (watched && found != units) /* what fits exactly nothing fits better */
				est_recurrence_note(&play->recurrence, pool, units, (uint32_t)found);
			if (watched && growths != allocator->growths)
				est_recurrence_grow(&play->recurrence, pool, (uint32_t)found);
		} else {
			end_phase(play, served);
			served = false;
			play->phase = (enum est_phase)event->id;
		}
	}
	end_phase(play, served);
	play->event = 0;
	return true;
}

static bool play_part(struct est_play *play)
{
	return play->program->expandable ? play_events(play, true) : play_events(play, false);
}

/* The step just played would go on like this, in what is reserved now. */
static bool recurs(const struct est_play *play)
{
	return play->step > 0 && play->closed && !play->recurrence.broken && play->allocator->releases == play->releases;
}

static void repeat_in_what_is_reserved(struct est_play *play)
{
	for (unsigned phase = 0; phase < EST_PHASES; phase++)
		if (play->phase_reserved[phase])
			play->phase_reserved[phase] = play->allocator->reserved;
}

/* Whether there is another step that can differ. A step ends with nothing alive but what lives for good: when it
 * reserved nothing new (and so gave back nothing) it leaves the blocks as it found them, and the next one would be the
 * same again. */
static bool begin_step(struct est_play *play)
{
	const struct est_allocator *allocator = play->allocator;

	if (recurs(play)) {
		repeat_in_what_is_reserved(play);
		return false;
	}
	if ((play->step > 0 && allocator->growths == play->growths)
	    || (play->step > 1 && allocator->peak_reserved == play->peak) || play->step + 1 == STEPS)
		return false;
	play->step++;
	play->part = 0;
	play->growths = allocator->growths;
	play->releases = allocator->releases;
	play->peak = allocator->peak_reserved;
	memset(play->phase_reserved, 0, sizeof(play->phase_reserved));
	memset(&play->recurrence, 0, sizeof(play->recurrence));
	return true;
}

/* Whether the part just played would be played the same again, for what is said of steps: it is done with. */
static bool is_settled(const struct est_play *play)
{
	return play->part == EST_PART_MICRO_NEXT && play->repeats_alike && play->allocator->growths == play->part_growths;
}

void est_play_on(struct est_play *play)
{
	do {
		for (; play->part < EST_PARTS; play->part++, play->repeat = 0) {
			for (; play->repeat < repeats(play); play->repeat++) {
				if (play->event == 0)
					play->part_growths = play->allocator->growths;
				if (!play_part(play))
					return;
				if (is_settled(play))
					break;
			}
		}
	} while (begin_step(play));
}

/* Whether the events free only what they have allocated. alive, of all ids, and count say what is alive. */
static bool frees_its_own(const struct est_program *program, enum est_part part, bool *alive, size_t *count)
{
	for (size_t i = program->begin[part]; i < program->end[part]; i++) {
		const struct est_event *event = &program->events[i];

		if (event->kind == EST_EVENT_PHASE)
			continue;
		if (alive[event->id] == (event->kind == EST_EVENT_ALLOC))
			return false;
		alive[event->id] = event->kind == EST_EVENT_ALLOC;
		*count += event->kind == EST_EVENT_ALLOC ? 1 : (size_t)-1;
	}
	return true;
}

/* Whether the parts from first to last, without the making of states, free what they have allocated, all of it and nothing
 * else. False when arena is too small to tell. */
static bool leave_nothing(const struct est_program *program, enum est_part first, enum est_part last, struct est_arena *arena)
{
	size_t mark = arena->used, alive_count = 0;
	bool *alive = est_arena_take(arena, program->ids, sizeof(*alive)), alone = alive != NULL;

	for (enum est_part part = first; part <= last && alone; part++)
		if (part != EST_PART_STATES)
			alone = frees_its_own(program, part, alive, &alive_count);
	est_arena_rewind(arena, mark);
	return alone && alive_count == 0;
}

struct est_play est_play_begin(const struct est_program *program, struct est_allocator *allocator, struct est_arena *arena)
{
	struct est_play play = { .program = program, .allocator = allocator };

	play.repeats_alike = leave_nothing(program, EST_PART_MICRO_NEXT, EST_PART_MICRO_NEXT, arena);
	play.closed = !program->expandable && (play.repeats_alike || program->accumulation_steps <= 2)
		      && leave_nothing(program, EST_PART_MICRO_FIRST, EST_PART_UPDATE, arena);
	return play;
}

bool est_play_copy(struct est_play *to, const struct est_play *from)
{
	struct est_allocator *books = to->allocator;

	if (!est_allocator_copy(books, from->allocator))
		return false;
	*to = *from;
	to->allocator = books;
	return true;
}
