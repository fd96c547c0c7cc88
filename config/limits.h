/* How far a request can be turned up on each card, and how many of the card it needs at least. */
#ifndef CFG_LIMITS_H
#define CFG_LIMITS_H

#include "config/config.h"

/* The most GPUs that min_gpus looks at; the most cards that limits are looked for, as each takes dozens of replays. */
enum { CFG_LIMIT_GPUS = 1024, CFG_LIMIT_CARDS = 16 };

/* Room for the requests that are tried. */
struct cfg_trial {
	struct est_request request;
	struct est_report report;
};

/* Fills max_micro_batch_size, max_sequence_length and min_gpus of every row of report->fits, which est_run() has
 * made of request. Each is found by replays alone: with that value the card is judged fits, with the next it is not.
 * 0: it fits with none. min_gpus keeps the strategy of the request; for one that names none, or none at all, more
 * than one GPU is zero3, the default. Needs est_arena_size() and CFG_LIMITS_ARENA bytes beside it. False when the
 * arena is too small. */
bool cfg_limits(const struct cfg_request *request, struct est_arena *arena, struct cfg_trial *trial,
		struct est_report *report);
size_t cfg_limits_arena_size(size_t card_count);

#endif
