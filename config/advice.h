/* What to change so that a run needs less: each an estimate of its own, not a rule. */
#ifndef CFG_ADVICE_H
#define CFG_ADVICE_H

#include "config/limits.h"
#include "config/vary.h"

enum { CFG_ADVICE_MAX = 24, CFG_ADVICE_CHANGES = 3 };

struct cfg_advice {
	size_t change_count;
	struct cfg_change changes[CFG_ADVICE_CHANGES];
	const char *cost;                          /* what one pays, in words; static */
	uint64_t saves, required;                  /* of the first card's required bytes */
	bool makes_fit[CFG_CARDS_MAX];             /* cards that are judged fits with it and were not without */
	double worth;                              /* bytes saved for what one pays: the order */
};

/* Tries every change of the table that makes sense for request, of which report is the estimate, and lists those
 * that save memory, the best first. ret has room for CFG_ADVICE_MAX; returns how many. False only when the arena is
 * too small. */
bool cfg_advise(const struct cfg_request *request, const struct est_report *report, struct est_arena *arena,
		struct cfg_trial *trial, struct cfg_advice *ret, size_t *ret_count);

#endif
