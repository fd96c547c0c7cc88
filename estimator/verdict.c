#include "estimator/verdict.h"

enum { LIMIT_STEPS = 128 }; /* at least so many, where they are not of EST_LIMIT_STEP, make the peak */

uint64_t est_usable_bytes(const struct est_gpu *gpu, double headroom_fraction)
{
	uint64_t headroom = (uint64_t)(headroom_fraction * (double)gpu->memory_bytes);

	return headroom < gpu->usable_bytes ? gpu->usable_bytes - headroom : 0;
}

enum est_verdict est_judge(uint64_t required, uint64_t required_high, uint64_t usable)
{
	if (required_high <= usable && required <= usable)
		return EST_FITS;
	return required <= usable ? EST_TIGHT : EST_DOES_NOT_FIT;
}

void est_fit_judge(struct est_fit *fit, double headroom_fraction)
{
	if (fit->reason)
		fit->verdict = EST_UNSUPPORTED;
	else
		fit->verdict = est_judge(fit->required, fit->required_high,
					 est_usable_bytes(fit->gpu, headroom_fraction));
}

static uint64_t steps_for(uint64_t bytes, uint64_t step)
{
	return bytes / step + (bytes % step != 0);
}

uint64_t est_limit_step(uint64_t peak)
{
	uint64_t step = EST_LIMIT_STEP;

	while (step <= peak / (2 * LIMIT_STEPS))
		step *= 2;
	return step;
}

/* What bisection asks for between low and high, in steps, where all below fails_below is known to fail; high:
 * nothing. */
static uint64_t middle_of(uint64_t low, uint64_t high, uint64_t step, uint64_t fails_below)
{
	uint64_t middle = low + (high - low) / 2;

	while (low < high && middle * step < fails_below) {
		low = middle + 1;
		middle = low + (high - low) / 2;
	}
	return middle;
}

static struct est_limits ask_for(uint64_t low, uint64_t middle, uint64_t step, uint64_t fails_below)
{
	struct est_limits limits = { .limit = middle * step };

	for (unsigned i = 0; i < EST_BELOW; i++) {
		uint64_t next = middle_of(low, middle, step, fails_below);

		if (next == middle)
			break;
		limits.below[i] = next * step;
		middle = next;
	}
	return limits;
}

uint64_t est_least_limit(uint64_t floor, uint64_t ceiling, uint64_t step, est_attempt *attempt, void *context)
{
	uint64_t low = steps_for(floor, step), high = steps_for(ceiling, step); /* in steps: all below low fail */
	uint64_t fails_below = low * step, runs_from = high * step;          /* what attempts told of others */

	while (low < high) {
		uint64_t middle = low + (high - low) / 2, limit = middle * step, same;

		if (limit >= fails_below && limit < runs_from) {
			struct est_limits limits = ask_for(low, middle, step, fails_below);
			bool runs = attempt(context, &limits, &same);

			*(runs ? &runs_from : &fails_below) = same;
		}
		if (limit >= runs_from)
			high = middle;
		else
			low = middle + 1;
	}
	return high * step < ceiling ? high * step : ceiling;
}
