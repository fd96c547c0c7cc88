/* What is true of every answer of the estimator: sums, order of the figures, verdicts that follow from them. */
#ifndef TESTS_RULES_H
#define TESTS_RULES_H

#include "config/config.h"

/* The rule that report, the answer to request, breaks; NULL: none. */
const char *rule_of_report(const struct est_request *request, const struct est_report *report);

/* The rule that the events of the run break: nothing that a micro-batch made for itself outlives it. */
const char *rule_of_events(const struct cfg_request *request, struct est_arena *arena);

/* The rule that breaks when more is asked for (a search goes by it, config/points.h): factor times the batch, the
 * length, what is trained; and fewer GPUs. report is the answer to request. */
const char *rule_of_more(const struct cfg_request *request, const struct est_report *report, double factor,
			 struct est_arena *arena);

/* The rule that limits (config/limits.h) break, which report has: with them the card fits, one further it does not. */
const char *rule_of_limits(const struct cfg_request *request, const struct est_report *report, struct est_arena *arena);

/* request as it may be sent, on one line that begins with '#'. */
void rule_print(const struct cfg_request *request);

#endif
