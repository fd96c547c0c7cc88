/* The peaks of a step's phases as truth rows tell them, and the estimate's beside them. Rows of several traces cut a
 * step differently: some know phases that an estimate has no word for (a reference model's forward), some have fewer
 * (an encoder's forward ends with its loss). */
#ifndef ACCURACY_PHASES_H
#define ACCURACY_PHASES_H

#include <jansson.h>
#include "estimator/estimator.h"

/* The most that was allocated in what the estimate calls phase; 0 where the row does not tell. peaks: the row's
 * "phase_peaks", or NULL. */
double phases_measured(const json_t *peaks, enum est_phase phase);

/* The most that the estimate has in phase and in those after it that the row does not tell apart. */
uint64_t phases_estimated(const struct est_report *report, const json_t *peaks, enum est_phase phase);

#endif
