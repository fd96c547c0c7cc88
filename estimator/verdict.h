/* From bytes to verdicts. For every card allocated.expected + context <= required <= device.expected holds: the process
 * succeeds in required, the least memory for it, and is seen to take device where there is room. required is the least
 * limit on reserved under which the replay succeeds, which lies between peak allocated and peak reserved, plus what
 * lies outside the allocator, which is part of all three. */
#ifndef EST_VERDICT_H
#define EST_VERDICT_H

#include <stdbool.h>
#include <stdint.h>
#include "estimator/report.h"

enum { EST_LIMIT_STEP = 2 << 20 }; /* bytes: segments are multiples of it */

/* What a process may take of the card: its usable memory less fraction (0 to 1) of the whole. */
uint64_t est_usable_bytes(const struct est_gpu *gpu, double headroom_fraction);

/* EST_FITS when required_high is within usable, EST_TIGHT when only required is, else EST_DOES_NOT_FIT. */
enum est_verdict est_judge(uint64_t required, uint64_t required_high, uint64_t usable);

/* Fills fit->verdict from fit's card, bytes and reason: a reason makes it EST_UNSUPPORTED. */
void est_fit_judge(struct est_fit *fit, double headroom_fraction);

/* A limit, and those that are asked for next, if this one and each of them before succeeds; 0 after the last. */
enum { EST_BELOW = 3 };
struct est_limits {
	uint64_t limit, below[EST_BELOW];
};

/* Whether a run succeeds under limits->limit. ret_same: the limits between the two take the same course, hence come
 * to the same end. Of a success it is at most limit (what the run took), of a failure more (the least that was
 * refused). */
typedef bool est_attempt(void *context, const struct est_limits *limits, uint64_t *ret_same);

/* How finely the least limit below a peak is looked for: 2 MiB doubled as often as it stays within 1/128 of the
 * peak. A run near its least limit succeeds or fails by how blocks happen to lie, which a finer search would only
 * follow. */
uint64_t est_limit_step(uint64_t peak);

/* The least multiple of step in floor..ceiling under which the attempt succeeds, by bisection; ceiling, as it is,
 * when no lower one does. ceiling must succeed and is not tried (peak reserved without a limit); floor is the least
 * that could (peak allocated). At most 1 + log2((ceiling - floor) / step) attempts. Where success is not monotone in
 * the limit (a release can change how blocks lie) the answer still succeeds and the multiple below it does not. */
uint64_t est_least_limit(uint64_t floor, uint64_t ceiling, uint64_t step, est_attempt *attempt, void *context);

#endif
