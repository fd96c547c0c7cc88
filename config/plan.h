/* The search of /plan: the best plans of a space, in order, each confirmed by the replay.
 *
 * Every recipe and card is an entry whose best point (GPUs, batch, length) is sought. The entries stand in order of
 * the best point that is not excluded yet, by floors or by replays; the first one is looked into until its point is
 * confirmed, or excluded and the entry goes back to where its next best belongs. What is confirmed at the head of
 * the order is the next plan: nothing behind it can be better. */
#ifndef CFG_PLAN_H
#define CFG_PLAN_H

#include "config/space.h"

struct cfg_plan {
	const struct est_gpu *card;
	int64_t gpus, batch, length;
	struct cfg_recipe recipe;          /* with gpus, batch and length among its changes */
	uint64_t required, required_high, usable;
	double step_time;                  /* steptime.h */
	double price;                      /* US dollars an hour of all GPUs; NAN: not known */
};

/* Replays are counted in layers, of which a search plays so many at most. */
enum { CFG_PLAN_LAYERS = 60000, CFG_JUDGED_LAYERS = 5 };

struct cfg_search;

/* Takes space over. NULL when memory is short; space is then the caller's still. */
struct cfg_search *cfg_search_create(const struct cfg_space *space);
void cfg_search_destroy(struct cfg_search *search);

enum cfg_progress { CFG_SEARCHING, CFG_FOUND, CFG_SEARCHED, CFG_SEARCH_NO_MEMORY };

/* Goes on with the search, for at most some so many layers. CFG_FOUND: ret is the next best plan. CFG_SEARCHED:
 * there are no more, or as many as were asked for, or the budget is spent. */
enum cfg_progress cfg_search_advance(struct cfg_search *search, size_t layers, struct est_arena *arena,
				     struct cfg_plan *ret);

/* After CFG_SEARCHED without a plan: the one that is least short. False when no candidate is a valid request, or
 * memory is short. */
bool cfg_search_nearest(struct cfg_search *search, struct est_arena *arena, struct cfg_plan *ret);

const struct cfg_space *cfg_search_space(const struct cfg_search *search);
/* Candidates that were decided about, by replays, bounds or their order; replays; whether the budget sufficed. */
uint64_t cfg_search_examined(const struct cfg_search *search);
uint64_t cfg_search_replays(const struct cfg_search *search);
bool cfg_search_complete(const struct cfg_search *search);

#endif
