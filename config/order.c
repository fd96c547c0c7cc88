#include <math.h>
#include <string.h>
#include "config/search.h"

/* ---- keys */

double cfg_search_price(const struct cfg_space *space, size_t card, int64_t gpus)
{
	return space->price[card] * (double)gpus;
}

double cfg_search_step_time(struct cfg_search *search, const struct cfg_known *known, size_t card,
			    struct cfg_point point)
{
	cfg_known_set(&search->space, known, point, &search->run);
	return cfg_step_time(&known->step, &search->run, &search->speeds[card]);
}

void cfg_order_key(struct cfg_search *search, struct cfg_entry *entry)
{
	const struct cfg_space *space = &search->space;
	const struct cfg_known *known = &search->known[entry->recipe];
	double gpus = (double)space->gpus.values[entry->point.gpus],
		length = (double)space->lengths.values[entry->point.length];
	double batch = gpus * (double)space->batches.values[entry->point.batch];
	double time = cfg_search_step_time(search, known, entry->card, entry->point),
		price = cfg_search_price(space, entry->card, (int64_t)gpus);
	const double keys[][CFG_KEYS] = {
		[CFG_FEWEST_GPUS] = { gpus, -length, isnan(price) ? INFINITY : price, time },
		[CFG_LARGEST_BATCH] = { -batch, -length, gpus, time },
		[CFG_LONGEST_SEQUENCE] = { -length, gpus, time, 0 },
		[CFG_CHEAPEST] = { isnan(price) ? INFINITY : price, -length, time, gpus },
	};

	memcpy(entry->key, keys[space->objective], sizeof(entry->key));
}

static int compare(const struct cfg_entry *a, const struct cfg_entry *b)
{
	for (size_t i = 0; i < CFG_KEYS; i++)
		if (a->key[i] < b->key[i] || a->key[i] > b->key[i])
			return a->key[i] < b->key[i] ? -1 : 1;
	if (a->recipe != b->recipe)
		return a->recipe < b->recipe ? -1 : 1;
	return (a->card > b->card) - (a->card < b->card);
}

/* ---- the heap */

static void sift_down(struct cfg_search *search, size_t at)
{
	struct cfg_entry *entries = search->entries, moved = entries[at];

	for (size_t child = 2 * at + 1; child < search->entry_count; child = 2 * at + 1) {
		child += child + 1 < search->entry_count && compare(&entries[child + 1], &entries[child]) < 0;
		if (compare(&entries[child], &moved) >= 0)
			break;
		entries[at] = entries[child];
		at = child;
	}
	entries[at] = moved;
}

void cfg_heap_push(struct cfg_search *search, const struct cfg_entry *entry)
{
	size_t at = search->entry_count++;

	while (at > 0 && compare(entry, &search->entries[(at - 1) / 2]) < 0) {
		search->entries[at] = search->entries[(at - 1) / 2];
		at = (at - 1) / 2;
	}
	search->entries[at] = *entry;
}

void cfg_heap_pop(struct cfg_search *search)
{
	search->entries[0] = search->entries[--search->entry_count];
	sift_down(search, 0);
}

struct cfg_entry *cfg_dropped(struct cfg_search *search, size_t i)
{
	return &search->entries[search->capacity - 1 - i];
}

void cfg_dropped_add(struct cfg_search *search, const struct cfg_entry *entry)
{
	*cfg_dropped(search, search->dropped_count++) = *entry;
}

void cfg_heap_settle(struct cfg_search *search)
{
	sift_down(search, 0);
}
