#include "config/points.h"
#include "estimator/verdict.h"

enum { SLACK = 64 };

uint64_t cfg_space_usable(const struct cfg_space *space, size_t card)
{
	return est_usable_bytes(space->base.cards[card], space->base.request.headroom_fraction);
}

void cfg_known_set(const struct cfg_space *space, const struct cfg_known *known, struct cfg_point point,
		   struct est_request *run)
{
	run->parallelism = known->parallelism;
	run->offload = known->offload;
	run->method = known->method;
	run->precision = known->precision;
	run->gradient_accumulation_steps = known->gradient_accumulation_steps;
	run->parallelism.gpus = space->gpus.values[point.gpus];
	run->micro_batch_size = space->batches.values[point.batch];
	run->sequence_length = space->lengths.values[point.length];
}

/* Whether b needs at least as much as a. */
static bool is_harder(struct cfg_point b, struct cfg_point a)
{
	return b.gpus <= a.gpus && b.batch >= a.batch && b.length >= a.length;
}

static bool is_same(struct cfg_point a, struct cfg_point b)
{
	return is_harder(a, b) && is_harder(b, a);
}

bool cfg_known_allows(const struct cfg_space *space, const struct cfg_known *known, size_t card, struct cfg_point point,
		      struct est_request *run)
{
	uint64_t usable = cfg_space_usable(space, card);

	for (const struct cfg_probe *probe = known->probes; probe; probe = probe->next) {
		uint64_t required = probe->required_high[card];

		if (required > usable && is_same(point, probe->point))
			return false;
		if (required - required / SLACK > usable && is_harder(point, probe->point))
			return false;
	}
	cfg_known_set(space, known, point, run);
	return est_run_least(run, &space->base.model, &known->floor, space->base.cards[card]) <= usable;
}

uint64_t cfg_known_at(const struct cfg_known *known, size_t card, struct cfg_point point, bool judged)
{
	for (const struct cfg_probe *probe = known->probes; probe; probe = probe->next)
		if (probe->judged == judged && is_same(point, probe->point))
			return probe->required_high[card];
	return 0;
}

bool cfg_known_passes(const struct cfg_space *space, const struct cfg_known *known, size_t card, struct cfg_point point)
{
	uint64_t usable = cfg_space_usable(space, card);

	for (const struct cfg_probe *probe = known->probes; probe; probe = probe->next)
		if (probe->required_high[card] && probe->required_high[card] <= usable && is_harder(probe->point, point))
			return true;
	return false;
}
