/* Scales in the order that the objective wants, and the way of an entry through their points. */
#include <stdlib.h>
#include "config/search.h"

/* ---- scales in the order that the objective wants */

enum scale { GPUS, BATCH, LENGTH, SCALES };

static const struct { enum scale order[SCALES]; bool all_gpus; } orders[] = {
	[CFG_FEWEST_GPUS] = { { GPUS, LENGTH, BATCH }, false }, [CFG_CHEAPEST] = { { GPUS, LENGTH, BATCH }, false },
	[CFG_LARGEST_BATCH] = { { BATCH, LENGTH, GPUS }, true }, [CFG_LONGEST_SEQUENCE] = { { LENGTH, GPUS, BATCH }, false },
};

static uint16_t *index_of(struct cfg_point *point, enum scale scale)
{
	return scale == GPUS ? &point->gpus : scale == BATCH ? &point->batch : &point->length;
}

/* Whether recipes with one rank, or with several, may have that many GPUs. */
static bool suits(const struct cfg_space *space, int64_t gpus, bool alone)
{
	const struct est_parallelism *p = &space->base.request.parallelism;
	int64_t ranks = p->tensor * p->pipeline * p->context;

	if (alone)
		return gpus == ranks;
	return gpus > ranks || (est_request_names(&space->base.request, "parallelism.strategy") && gpus == p->gpus);
}

bool cfg_gpus_range(const struct cfg_space *space, bool alone, uint16_t *ret_first, uint16_t *ret_last)
{
	bool any = false;

	for (size_t i = 0; i < space->gpus.count; i++) {
		if (!suits(space, space->gpus.values[i], alone))
			continue;
		*ret_first = any ? *ret_first : (uint16_t)i;
		*ret_last = (uint16_t)i;
		any = true;
	}
	return any;
}

/* Of a scale, from the best to the one that needs least: index, and which way on. */
struct walk {
	int from, to, step;
};

static struct walk walk_of(const struct cfg_search *search, const struct cfg_known *known, enum scale scale)
{
	const struct cfg_space *space = &search->space;
	uint16_t first = 0, last = 0;

	cfg_gpus_range(space, known->parallelism.strategy == EST_SINGLE, &first, &last);
	if (scale == GPUS)
		return (struct walk){ orders[space->objective].all_gpus ? last : first, last, 1 };
	return (struct walk){ (int)(scale == BATCH ? space->batches.count : space->lengths.count) - 1, 0, -1 };
}

struct cfg_point cfg_point_easiest(const struct cfg_search *search, const struct cfg_known *known)
{
	return (struct cfg_point){ .gpus = (uint16_t)walk_of(search, known, GPUS).to };
}

/* ---- points */

bool cfg_entry_settle(struct cfg_search *search, struct cfg_entry *entry)
{
	const struct cfg_known *known = &search->known[entry->recipe];
	struct cfg_point point = cfg_point_easiest(search, known);

	for (int i = 0; i < SCALES; i++) {
		enum scale scale = orders[search->space.objective].order[i];
		struct walk walk = walk_of(search, known, scale);
		uint16_t *index = index_of(&point, scale);
		int at = walk.from;

		for (; at != walk.to; at += walk.step) {
			*index = (uint16_t)at;
			if (cfg_known_allows(&search->space, known, entry->card, point, &search->run))
				break;
		}
		*index = (uint16_t)at;
	}
	entry->point = point;
	cfg_order_key(search, entry);
	return cfg_known_allows(&search->space, known, entry->card, point, &search->run);
}

static int64_t value_at(const struct cfg_space *space, enum scale scale, int index)
{
	if (scale == GPUS)
		return space->gpus.values[index];
	return scale == BATCH ? space->batches.values[index] : space->lengths.values[index];
}

/* What is alive by the replay at point with index of the scale; 0: not known. */
static double alive_at(const struct cfg_search *search, const struct cfg_entry *entry, struct cfg_point point,
		       enum scale scale, int index)
{
	*index_of(&point, scale) = (uint16_t)index;
	return (double)cfg_known_at(&search->known[entry->recipe], entry->card, point, false);
}

/* Where batch or length should end by the line from the sure index, or the easiest, to the next one above best that
 * was too much: what is alive bends upwards, so that what lies below the line is right. -1: there is no such line. */
static int interpolate(const struct cfg_search *search, const struct cfg_entry *entry, struct cfg_point point,
		       enum scale scale, int best, int sure)
{
	const struct walk walk = walk_of(search, &search->known[entry->recipe], scale);
	double low = alive_at(search, entry, point, scale, sure), high = 0,
		room = (double)cfg_space_usable(&search->space, entry->card), end;
	int above = best;

	while (scale != GPUS && above < walk.from && high <= 0)
		high = alive_at(search, entry, point, scale, ++above);
	if (low <= 0 || low > room || high <= room)
		return -1;
	end = (double)value_at(&search->space, scale, sure)
	      + (room - low) / (high - low) * (double)(value_at(&search->space, scale, above) - value_at(&search->space,
													 scale, sure));
	while (sure < best && (double)value_at(&search->space, scale, sure + 1) <= end)
		sure++;
	return sure;
}

/* The first index on the way from best to the easiest that is sure; the easiest when none is. */
static int find_sure(const struct cfg_search *search, const struct cfg_entry *entry, struct cfg_point point,
		     enum scale scale, int best)
{
	const struct cfg_known *known = &search->known[entry->recipe];
	struct walk walk = walk_of(search, known, scale);
	int sure = best;

	while (sure != walk.to) {
		sure += walk.step;
		*index_of(&point, scale) = (uint16_t)sure;
		if (cfg_known_passes(&search->space, known, entry->card, point))
			break;
	}
	return sure;
}

bool cfg_choose_probe(const struct cfg_search *search, const struct cfg_entry *entry, struct cfg_point *ret)
{
	const struct cfg_known *known = &search->known[entry->recipe];

	*ret = cfg_point_easiest(search, known);
	for (int i = 0; i < SCALES; i++) {
		enum scale scale = orders[search->space.objective].order[i];
		struct walk walk = walk_of(search, known, scale);
		uint16_t *index = index_of(ret, scale);
		struct cfg_point point = entry->point;
		int best = *index_of(&point, scale), stride = entry->failures ? 1 << (entry->failures - 1) : 0, sure, end;

		*index = (uint16_t)best;
		if (cfg_known_passes(&search->space, known, entry->card, *ret))
			continue;
		sure = find_sure(search, entry, *ret, scale, best);
		end = interpolate(search, entry, *ret, scale, best, sure);
		if (end == best && i == SCALES - 1)
			return true;
		stride = stride < abs(sure - best) / 2 || !stride ? stride : abs(sure - best) / 2;
		*index = (uint16_t)(end < 0 ? best + stride * walk.step : end < best ? end + 1 : best);
		if (cfg_known_at(known, entry->card, *ret, false))
			*index = (uint16_t)best; /* that one failed by so little that it tells nothing of others */
		return false;
	}
	return true;
}

void cfg_doubt(const struct cfg_search *search, const struct cfg_entry *entry, struct cfg_point *point)
{
	const struct cfg_known *known = &search->known[entry->recipe];
	enum scale scale = orders[search->space.objective].order[SCALES - 1];
	struct cfg_point easy = *point;
	uint64_t alive = cfg_known_at(known, entry->card, *point, false), least;

	*index_of(&easy, scale) = (uint16_t)walk_of(search, known, scale).to;
	least = cfg_known_at(known, entry->card, easy, false);
	if (entry->doubtful && least && alive && alive < least + least / 32 && !cfg_known_at(known, entry->card, easy, true))
		*point = easy;
}
