/* The search of plan.c from within: its entries, their order (order.c), the points that one goes through (walk.c),
 * the replays that decide about them (confirm.c). */
#ifndef CFG_SEARCH_H
#define CFG_SEARCH_H

#include "config/plan.h"
#include "config/points.h"

enum { CFG_KEYS = 4 };

/* One recipe on one card, at the best point that is not excluded. */
struct cfg_entry {
	uint32_t recipe;
	uint16_t card;
	uint8_t failures;       /* in a row of the scale that is looked at */
	bool doubtful;          /* what is alive fitted, and the verdict was another */
	struct cfg_point point;
	double key[CFG_KEYS];       /* less is better */
};

struct cfg_search {
	struct cfg_space space;
	size_t read;            /* recipes that were looked at */
	struct cfg_known *known;
	struct cfg_entry *entries;  /* a heap, the best first; from the end on those that fit nowhere */
	size_t entry_count, dropped_count, capacity;
	uint64_t examined, replays, layers;
	size_t found;
	bool cut;
	struct cfg_speed speeds[CFG_SPACE_CARDS];
	struct est_request run; /* scratch */
	struct est_fit fits[CFG_SPACE_CARDS];
};

/* ---- order.c */

/* The entry's keys at its point, by the objective. */
void cfg_order_key(struct cfg_search *search, struct cfg_entry *entry);
/* By the planning model, relative to other points (steptime.h); US dollars an hour of that many cards. */
double cfg_search_step_time(struct cfg_search *search, const struct cfg_known *known, size_t card,
			    struct cfg_point point);
double cfg_search_price(const struct cfg_space *space, size_t card, int64_t gpus);
/* The heap: one more entry, the best one taken out, the best one after its keys have become worse. */
void cfg_heap_push(struct cfg_search *search, const struct cfg_entry *entry);
void cfg_heap_pop(struct cfg_search *search);
void cfg_heap_settle(struct cfg_search *search);
/* What fits nowhere: one more of it, and the i-th. */
void cfg_dropped_add(struct cfg_search *search, const struct cfg_entry *entry);
struct cfg_entry *cfg_dropped(struct cfg_search *search, size_t i);

/* ---- walk.c */

/* The numbers of GPUs that recipes of one rank, or of several, may have lie side by side in the scale: [first,
 * last]. False: none. */
bool cfg_gpus_range(const struct cfg_space *space, bool alone, uint16_t *ret_first, uint16_t *ret_last);
/* The point that needs least. */
struct cfg_point cfg_point_easiest(const struct cfg_search *search, const struct cfg_known *known);
/* Sets entry to the best point that is not excluded: scale after scale, the ones behind at their easiest. False:
 * there is none. */
bool cfg_entry_settle(struct cfg_search *search, struct cfg_entry *entry);
/* Where to look next on the way to entry's point: at the first scale that is not sure, the others behind it at their
 * easiest. One above where a line says that it ends; without a line after failures farther and farther from the
 * best, and half way to what is sure. True when all is sure but the allocator. */
bool cfg_choose_probe(const struct cfg_search *search, const struct cfg_entry *entry, struct cfg_point *ret);
/* After a verdict that what is alive did not foretell: where the last scale hardly matters, the verdict at its
 * easiest tells of all. */
void cfg_doubt(const struct cfg_search *search, const struct cfg_entry *entry, struct cfg_point *point);

/* ---- confirm.c */

/* Replays a recipe at a point and keeps what came out; a point that is no valid request fits nowhere. NULL when
 * memory is short. */
struct cfg_probe *cfg_probe_make(struct cfg_search *search, const struct cfg_entry *entry, struct cfg_point point,
				 bool judged, struct est_arena *arena);
/* The entry at its point as a plan, after cfg_probe_make() of it. */
void cfg_plan_describe(struct cfg_search *search, const struct cfg_entry *entry, struct cfg_plan *ret);

#endif
