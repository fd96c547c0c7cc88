#include "estimator/replay.h"

#include <string.h>
#include "estimator/play.h"
#include "estimator/verdict.h"

enum { BOOKS = 3 }; /* the run's, and those of the two marks that there always are */

/* Where a run stood, with its books. */
struct mark {
	struct est_play play;
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
static void mark_lower(struct trial *trial, const struct est_play *play, uint64_t from)
{
	unsigned i = 0;

	while (i < EST_BELOW && trial->lower[i].from)
		i++;
	if (i == EST_BELOW)
		return;
	if (!trial->keepers[i].blocks && !est_allocator_init_keeper(&trial->keepers[i], trial->arena, play->allocator))
		return;
	trial->lower[i].play.allocator = &trial->keepers[i];
	if (est_play_copy(&trial->lower[i].play, play))
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
static uint64_t next_watch(const struct est_play *play, const struct est_limits *limits, unsigned *below)
{
	while (*below > 0 && limits->below[*below - 1] < play->allocator->peak_reserved)
		--*below; /* there is no such limit, or it has parted */
	return *below > 0 ? limits->below[--*below] : UINT64_MAX;
}

/* Plays under the limit, from a mark on, and sets others on the way: where it refuses first, and where the limits below part. */
static void play_limited(struct trial *trial, struct est_play *play, const struct est_limits *limits)
{
	struct est_allocator *allocator = play->allocator;
	unsigned below = play->program->expandable ? 0 : EST_BELOW;
	uint64_t refused = allocator->refused, watch = next_watch(play, limits, &below);

	est_allocator_limit(allocator, limits->limit, true);
	allocator->refused = refused;
	for (;;) {
		est_allocator_watch(allocator, watch);
		est_play_on(play);
		if (allocator->parted) {
			mark_lower(trial, play, watch);
			watch = next_watch(play, limits, &below);
		} else if (allocator->out_of_memory && allocator->keeps_cache) {
			est_play_copy(&trial->next.play, play);
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
	struct est_play play = { .allocator = allocator };
	bool success;

	est_play_copy(&play, &mark_for(trial, limits->limit)->play);
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

static void report_peak(const struct est_play *play, struct est_reserved *reserved)
{
	reserved->peak = reserved->least = play->allocator->peak_reserved;
	memcpy(reserved->phase, play->phase_reserved, sizeof(reserved->phase));
}

bool est_replay_peak(const struct est_program *program, struct est_arena *arena, struct est_reserved *ret_reserved)
{
	struct est_allocator books;
	struct est_play play;

	memset(ret_reserved, 0, sizeof(*ret_reserved));
	if (!est_allocator_init(&books, arena, program->ids, program->expandable, 0))
		return false;
	play = est_play_begin(program, &books, arena);
	est_play_on(&play);
	report_peak(&play, ret_reserved);
	return !books.exhausted;
}

bool est_replay_reserved(const struct est_program *program, struct est_arena *arena, uint64_t floor, est_enough *enough,
			 void *context, struct est_reserved *ret_reserved)
{
	uint64_t least = (floor + EST_LIMIT_STEP - 1) / EST_LIMIT_STEP * EST_LIMIT_STEP;
	struct est_allocator books[BOOKS];
	struct est_play play;
	struct trial trial = { .arena = arena, .allocator = &books[0], .left.play.allocator = &books[1],
			       .next.play.allocator = &books[2] };

	memset(ret_reserved, 0, sizeof(*ret_reserved));
	for (unsigned i = 0; i < BOOKS; i++)
		if (!est_allocator_init(&books[i], arena, program->ids, program->expandable, 0))
			return false;
	play = est_play_begin(program, &books[0], arena);
	est_allocator_limit(play.allocator, least, true);
	est_play_on(&play);
	if (books[0].out_of_memory) {
		est_play_copy(&trial.left.play, &play);
		est_allocator_limit(play.allocator, 0, false);
		est_play_on(&play);
	}
	report_peak(&play, ret_reserved);
	if (books[0].exhausted)
		return false;
	if (enough && enough(context, ret_reserved->peak))
		return true;
	ret_reserved->least = est_least_limit(floor, ret_reserved->peak, est_limit_step(ret_reserved->peak), succeeds, &trial);
	return !trial.exhausted;
}
