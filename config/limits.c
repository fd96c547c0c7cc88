#include "config/limits.h"
#include <stdalign.h>
#include <string.h>
#include "config/vary.h"
#include "estimator/optimizer.h"
#include "estimator/verdict.h"

/* What is known of one card: it fits with one value and no longer with another, and how much it needs there. */
struct bracket {
	int64_t fits, fails;
	uint64_t need_fits, need_fails;
	unsigned guesses;
};

/* One field on its way to the limits of all cards: a trial of a value tells of each of them. */
struct search {
	const struct cfg_request *base;
	struct est_arena *arena;
	struct cfg_trial *trial;
	const char *field;
	int64_t step, least, most;  /* the values: least, least + step, ..., most */
	bool shrinks;               /* a larger value needs less: the limit is the least that fits */
	size_t count;
	struct bracket *brackets;
	const struct est_gpu **cards; /* those that a value is tried for: it lies between what is known of them */
	struct est_fit *fits;       /* and their verdicts */
	bool exhausted;             /* the arena was too small */
};

/* A linear guess is right where memory grows linearly; after some wrong ones halves are surer. */
enum { GUESSES_MAX = 6 };

static int64_t beyond(const struct search *search, bool fitting)
{
	bool low = fitting != search->shrinks;

	return low ? search->least - search->step : search->most + search->step;
}

static bool asks(const struct search *search, const struct bracket *bracket, int64_t value)
{
	int64_t low = search->shrinks ? bracket->fails : bracket->fits;
	int64_t high = search->shrinks ? bracket->fits : bracket->fails;

	return value > low && value < high; /* else it is told already; where it is not monotone, the first that was
					     * found stays */
}

/* fits: what the trial of value said of the cards that ask for it, in their order; NULL: it is no valid request, and
 * fits none. */
static void learn(struct search *search, const struct est_fit *fits, int64_t value)
{
	for (size_t i = 0; i < search->count; i++) {
		struct bracket *bracket = &search->brackets[i];
		const struct est_fit *fit;

		if (!asks(search, bracket, value))
			continue;
		fit = fits ? fits++ : NULL;
		if (fit && fit->verdict == EST_FITS) {
			bracket->fits = value;
			bracket->need_fits = fit->required_high;
		} else {
			bracket->fails = value;
			bracket->need_fails = fit ? fit->required_high : 0;
		}
	}
}

static size_t gather_cards(const struct search *search, int64_t value)
{
	size_t count = 0;

	for (size_t i = 0; i < search->count; i++)
		if (asks(search, &search->brackets[i], value))
			search->cards[count++] = search->base->cards[i];
	return count;
}

/* More GPUs than one without a strategy share as they do by default. */
static size_t make_changes(const struct search *search, int64_t value, struct cfg_change ret[2])
{
	const struct est_parallelism *parallelism = &search->base->request.parallelism;
	bool shards = search->shrinks && value > search->step && parallelism->strategy == EST_SINGLE;

	ret[0] = (struct cfg_change){ search->field, (double)value };
	ret[1] = (struct cfg_change){ "parallelism.strategy", est_optimizer_sharing(search->base->request.optimizer) };
	return shards ? 2 : 1;
}

static void try_value(struct search *search, int64_t value)
{
	struct cfg_trial *trial = search->trial;
	struct cfg_change changes[2];
	size_t mark = search->arena->used, count = make_changes(search, value, changes);

	if (!cfg_vary(search->base, changes, count, &trial->request))
		learn(search, NULL, value);
	else if (!est_judge_cards(&trial->request, &search->base->model, search->cards, gather_cards(search, value), 0,
				  search->arena, search->fits))
		search->exhausted = true;
	else
		learn(search, search->fits, value);
	est_arena_rewind(search->arena, mark);
}

static bool is_open(const struct search *search, const struct bracket *bracket)
{
	int64_t gap = search->shrinks ? bracket->fits - bracket->fails : bracket->fails - bracket->fits;

	return gap > search->step;
}

/* Where the line through both ends meets what the card has; the middle when it is of no use. */
static int64_t guess(const struct search *search, size_t card)
{
	struct bracket *bracket = &search->brackets[card];
	const struct est_request *request = &search->base->request;
	uint64_t usable = est_usable_bytes(search->base->cards[card], request->headroom_fraction);
	int64_t low = search->shrinks ? bracket->fails : bracket->fits,
		high = search->shrinks ? bracket->fits : bracket->fails;
	int64_t steps = (high - low) / search->step, at = steps / 2;

	if (!search->shrinks && bracket->need_fits && bracket->need_fails > bracket->need_fits && usable >= bracket->need_fits
	    && ++bracket->guesses <= GUESSES_MAX)
		at = (int64_t)((double)(usable - bracket->need_fits) / (double)(bracket->need_fails - bracket->need_fits)
			       * (double)steps);
	at = at < 1 ? 1 : at > steps - 1 ? steps - 1 : at;
	return low + at * search->step;
}

/* From the request's own value outwards, each time twice as far, until every card has both ends. */
static void widen(struct search *search, int64_t start)
{
	int64_t low = start, high = start;

	for (size_t i = 0; i < search->count && !search->exhausted; i++) {
		struct bracket *bracket = &search->brackets[i];

		while (!search->exhausted && is_open(search, bracket)
		       && (search->shrinks ? bracket->fits : bracket->fails) > search->most && high < search->most) {
			high = high > search->most / 2 ? search->most : 2 * high / search->step * search->step;
			try_value(search, high);
		}
		while (!search->exhausted && is_open(search, bracket)
		       && (search->shrinks ? bracket->fails : bracket->fits) < search->least && low > search->least) {
			low = low / 8 / search->step * search->step;
			low = low > search->least ? low : search->least;
			try_value(search, low);
		}
	}
}

static void close_brackets(struct search *search)
{
	for (size_t i = 0; i < search->count; i++)
		while (!search->exhausted && is_open(search, &search->brackets[i]))
			try_value(search, guess(search, i));
}

static bool find(struct search *search, const struct est_report *report, int64_t start)
{
	search->exhausted = false;
	for (size_t i = 0; i < search->count; i++)
		search->brackets[i] = (struct bracket){ .fits = beyond(search, true), .fails = beyond(search, false) };
	learn(search, report->fits, start);
	widen(search, start);
	close_brackets(search);
	return !search->exhausted;
}

/* What was found, of one card; 0 when no value fits. */
static int64_t found(const struct search *search, size_t card)
{
	int64_t value = search->brackets[card].fits;

	return value == beyond(search, true) ? 0 : value;
}

static bool find_largest(struct search *search, const char *name, int64_t start, struct est_report *report,
			 size_t member)
{
	const struct est_field *field = est_field_find(name);

	search->field = name;
	search->step = field->step > 0 ? (int64_t)field->step : 1;
	search->least = (int64_t)field->min;
	search->most = (int64_t)field->max;
	if (!find(search, report, start))
		return false;
	for (size_t i = 0; i < search->count; i++)
		*(int64_t *)(void *)((char *)&report->fits[i] + member) = found(search, i);
	return true;
}

static bool find_gpus(struct search *search, struct est_report *report)
{
	const struct est_parallelism *parallelism = &search->base->request.parallelism;
	int64_t ranks = parallelism->tensor * parallelism->pipeline * parallelism->context;

	search->field = "parallelism.gpus";
	search->shrinks = true;
	search->step = ranks * (parallelism->shard_size ? parallelism->shard_size : 1);
	search->least = search->step;
	search->most = CFG_LIMIT_GPUS / search->step * search->step;
	if (search->most < parallelism->gpus)
		search->most = parallelism->gpus;
	if (!find(search, report, parallelism->gpus))
		return false;
	for (size_t i = 0; i < search->count; i++)
		report->fits[i].min_gpus = found(search, i);
	return true;
}

size_t cfg_limits_arena_size(size_t card_count)
{
	return card_count * (sizeof(struct bracket) + sizeof(struct est_gpu *) + sizeof(struct est_fit))
		+ 4 * alignof(max_align_t);
}

bool cfg_limits(const struct cfg_request *request, struct est_arena *arena, struct cfg_trial *trial,
		struct est_report *report)
{
	struct search search = { .base = request, .arena = arena, .trial = trial, .count = report->fit_count };
	const struct est_request *run = &request->request;
	size_t mark = arena->used;
	bool complete;

	search.brackets = est_arena_take(arena, search.count, sizeof(*search.brackets));
	search.cards = est_arena_take(arena, search.count, sizeof(*search.cards));
	search.fits = est_arena_take(arena, search.count, sizeof(*search.fits));
	complete = search.brackets && search.cards && search.fits
		   && find_largest(&search, "micro_batch_size", run->micro_batch_size, report,
				   offsetof(struct est_fit, max_micro_batch_size))
		   && find_largest(&search, "sequence_length", run->sequence_length, report,
				   offsetof(struct est_fit, max_sequence_length))
		   && find_gpus(&search, report);
	est_arena_rewind(arena, mark);
	return complete;
}
