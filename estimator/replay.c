#include "estimator/replay.h"

#include <string.h>
#include "estimator/blocks.h"
#include "estimator/recurrence.h"
#include "estimator/verdict.h"

enum { STEPS = 4, ACCUMULATIONS = 3 }; /* later ones repeat the state of the allocator */
enum { BOOKS = 3 }; /* the run's, and those of the two marks that there always are */

/* ---- levels */

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

/* ---- reserved */

/* A run through the allocator, and where in it it stands: steps of parts, parts of events. */
struct play {
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

/* How often the part is played in this step. */
static uint64_t repeats(const struct play *play)
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
static void end_phase(struct play *play, bool served)
{
	if (served)
		raise(&play->phase_reserved[play->phase], play->allocator->reserved);
}

/* The rest of a part. False, and standing before the request, when one does not fit. Compiled for either kind of segments. */
__attribute__((always_inline)) static inline bool play_events(struct play *play, bool expandable)
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

static bool play_part(struct play *play)
{
	return play->program->expandable ? play_events(play, true) : play_events(play, false);
}

/* The step just played would go on like this, in what is reserved now. */
static bool recurs(const struct play *play)
{
	return play->step > 0 && play->closed && !play->recurrence.broken && play->allocator->releases == play->releases;
}

static void repeat_in_what_is_reserved(struct play *play)
{
	for (unsigned phase = 0; phase < EST_PHASES; phase++)
		if (play->phase_reserved[phase])
			play->phase_reserved[phase] = play->allocator->reserved;
}

/* Whether there is another step that can differ. A step ends with nothing alive but what lives for good: when it
 * reserved nothing new (and so gave back nothing) it leaves the blocks as it found them, and the next one would be the
 * same again. */
static bool begin_step(struct play *play)
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
static bool is_settled(const struct play *play)
{
	return play->part == EST_PART_MICRO_NEXT && play->repeats_alike && play->allocator->growths == play->part_growths;
}

/* Plays on until the run ends or is out of memory. */
static void play_on(struct play *play)
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

static void look_for_repetition(struct play *play, struct est_arena *arena)
{
	const struct est_program *program = play->program;

	play->repeats_alike = leave_nothing(program, EST_PART_MICRO_NEXT, EST_PART_MICRO_NEXT, arena);
	play->closed = !program->expandable && (play->repeats_alike || program->accumulation_steps <= 2)
		       && leave_nothing(program, EST_PART_MICRO_FIRST, EST_PART_UPDATE, arena);
}

/* Where a run stood, with its books. */
struct mark {
	struct play play;
	uint64_t from; /* 0: it tells nothing */
};

/* Runs under limits are one run up to where one of them refuses what the others take. An attempt begins where all limits that are
 * left are still one run (left), or, if it is known, where its own and the last that succeeded part: lower[] stands where the last
 * success first reserved more than from, and every limit from there to that success comes so far. */
struct trial {
	struct mark left, next, lower[EST_BELOW]; /* next: where the attempt refuses first */
	struct est_allocator keepers[EST_BELOW];  /* of lower: as many as the arena has room for */
	struct est_allocator *allocator;
	struct est_arena *arena;
	bool exhausted;
};

static bool copy_play(struct play *to, const struct play *from)
{
	struct est_allocator *books = to->allocator;

	if (!est_allocator_copy(books, from->allocator))
		return false;
	*to = *from;
	to->allocator = books;
	return true;
}

static void swap_marks(struct mark *one, struct mark *other)
{
	struct mark swapped = *one;

	*one = *other;
	*other = swapped;
}

/* The latest place to begin at. */
static const struct mark *mark_for(const struct trial *trial, uint64_t limit)
{
	const struct mark *best = &trial->left;

	for (unsigned i = 0; i < EST_BELOW; i++)
		if (trial->lower[i].from && trial->lower[i].from <= limit && (best == &trial->left || trial->lower[i].from > best->from))
			best = &trial->lower[i];
	return best;
}

/* Marks where play stands, before it reserves more than from. */
static void mark_lower(struct trial *trial, const struct play *play, uint64_t from)
{
	unsigned i = 0;

	while (i < EST_BELOW && trial->lower[i].from)
		i++;
	if (i == EST_BELOW)
		return;
	if (!trial->keepers[i].blocks && !est_allocator_init_keeper(&trial->keepers[i], trial->arena, play->allocator))
		return;
	trial->lower[i].play.allocator = &trial->keepers[i];
	if (copy_play(&trial->lower[i].play, play))
		trial->lower[i].from = from;
}

/* Marks that a limit has made useless: those from it on when it succeeds, those up to it when not. */
static void forget(struct trial *trial, uint64_t limit, bool success)
{
	for (unsigned i = 0; i < EST_BELOW; i++)
		if (success ? trial->lower[i].from >= limit : trial->lower[i].from <= limit)
			trial->lower[i].from = 0;
}

/* The lowest of the limits below, from the last, that reserves as much as this run so far; UINT64_MAX: none. */
static uint64_t next_watch(const struct play *play, const struct est_limits *limits, unsigned *below)
{
	while (*below > 0 && limits->below[*below - 1] < play->allocator->peak_reserved)
		--*below; /* there is no such limit, or it has parted */
	return *below > 0 ? limits->below[--*below] : UINT64_MAX;
}

/* Plays under the limit, from a mark on, and sets others on the way: where it refuses first, and where the limits below part. */
static void play_limited(struct trial *trial, struct play *play, const struct est_limits *limits)
{
	struct est_allocator *allocator = play->allocator;
	unsigned below = play->program->expandable ? 0 : EST_BELOW;
	uint64_t refused = allocator->refused, watch = next_watch(play, limits, &below);

	est_allocator_limit(allocator, limits->limit, true);
	allocator->refused = refused;
	for (;;) {
		est_allocator_watch(allocator, watch);
		play_on(play);
		if (allocator->parted) {
			mark_lower(trial, play, watch);
			watch = next_watch(play, limits, &below);
		} else if (allocator->out_of_memory && allocator->keeps_cache) {
			copy_play(&trial->next.play, play);
			refused = allocator->refused;
			est_allocator_limit(allocator, limits->limit, false);
			allocator->refused = refused;
		} else {
			return;
		}
	}
}

static bool succeeds(void *context, const struct est_limits *limits, uint64_t *ret_same)
{
	struct trial *trial = context;
	struct est_allocator *allocator = trial->allocator;
	struct play play = { .allocator = allocator };
	bool success;

	copy_play(&play, &mark_for(trial, limits->limit)->play);
	play_limited(trial, &play, limits);
	trial->exhausted |= allocator->exhausted;
	success = !allocator->out_of_memory;
	*ret_same = success ? allocator->peak_reserved : allocator->refused;
	forget(trial, limits->limit, success);
	if (!success) /* later attempts have more */
		swap_marks(&trial->left, &trial->next);
	return success;
}

size_t est_replay_arena_size(uint32_t ids)
{
	return BOOKS * est_allocator_arena_size(ids);
}

static void report_peak(const struct play *play, struct est_reserved *reserved)
{
	reserved->peak = reserved->least = play->allocator->peak_reserved;
	memcpy(reserved->phase, play->phase_reserved, sizeof(reserved->phase));
}

bool est_replay_peak(const struct est_program *program, struct est_arena *arena, struct est_reserved *ret_reserved)
{
	struct est_allocator books;
	struct play play = { .program = program, .allocator = &books };

	memset(ret_reserved, 0, sizeof(*ret_reserved));
	if (!est_allocator_init(&books, arena, program->ids, program->expandable, 0))
		return false;
	look_for_repetition(&play, arena);
	play_on(&play);
	report_peak(&play, ret_reserved);
	return !books.exhausted;
}

bool est_replay_reserved(const struct est_program *program, struct est_arena *arena, uint64_t floor, est_enough *enough,
			 void *context, struct est_reserved *ret_reserved)
{
	uint64_t least = (floor + EST_LIMIT_STEP - 1) / EST_LIMIT_STEP * EST_LIMIT_STEP;
	struct est_allocator books[BOOKS];
	struct play play = { .program = program, .allocator = &books[0] };
	struct trial trial = { .arena = arena, .allocator = &books[0], .left.play.allocator = &books[1],
			       .next.play.allocator = &books[2] };

	memset(ret_reserved, 0, sizeof(*ret_reserved));
	for (unsigned i = 0; i < BOOKS; i++)
		if (!est_allocator_init(&books[i], arena, program->ids, program->expandable, 0))
			return false;
	look_for_repetition(&play, arena);
	est_allocator_limit(play.allocator, least, true);
	play_on(&play);
	if (books[0].out_of_memory) {
		copy_play(&trial.left.play, &play);
		est_allocator_limit(play.allocator, 0, false);
		play_on(&play);
	}
	report_peak(&play, ret_reserved);
	if (books[0].exhausted)
		return false;
	if (enough && enough(context, ret_reserved->peak))
		return true;
	ret_reserved->least = est_least_limit(floor, ret_reserved->peak, est_limit_step(ret_reserved->peak), succeeds, &trial);
	return !trial.exhausted;
}
