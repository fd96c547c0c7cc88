#include "config/plan.h"
#include <stdlib.h>
#include <string.h>
#include "config/search.h"
#include "estimator/device.h"

enum { RECIPES_A_TURN = 64 };

/* ---- entries */

static void add_entries(struct cfg_search *search, uint32_t recipe)
{
	const struct cfg_request *base = &search->space.base;
	struct est_request run = search->run;

	for (size_t card = 0; card < base->card_count; card++) {
		struct cfg_entry entry = { .recipe = recipe, .card = (uint16_t)card };

		if (est_device_refuses(base->cards[card], &run))
			continue;
		if (cfg_entry_settle(search, &entry))
			cfg_heap_push(search, &entry);
		else
			cfg_dropped_add(search, &entry);
	}
}

/* Recipes that are no valid request with the most GPUs and the least batch and length are left out. */
static void read_recipe(struct cfg_search *search)
{
	const struct cfg_space *space = &search->space;
	uint32_t i = (uint32_t)search->read++;
	struct cfg_known *known = &search->known[i];
	struct cfg_recipe recipe;
	uint16_t first = 0, last = 0;

	if (!cfg_space_recipe(space, i, &recipe) || !cfg_gpus_range(space, recipe.alone, &first, &last))
		return;
	search->examined += (uint64_t)(last - first + 1) * space->batches.count * space->lengths.count * space->base.card_count;
	cfg_recipe_scale(space, space->gpus.values[last], space->batches.values[0], space->lengths.values[0], &recipe);
	if (!cfg_vary(&space->base, recipe.changes, recipe.change_count, &search->run))
		return;
	known->parallelism = search->run.parallelism;
	known->offload = search->run.offload;
	known->method = search->run.method;
	known->precision = search->run.precision;
	known->gradient_accumulation_steps = search->run.gradient_accumulation_steps;
	est_floor_init(&known->floor, &search->run, &space->base.model);
	cfg_step_init(&known->step, &search->run, &space->base.model, &known->floor);
	add_entries(search, i);
}

/* The head of the heap: one replay of it, or its verdict. */
static enum cfg_progress look(struct cfg_search *search, struct est_arena *arena, struct cfg_plan *ret)
{
	struct cfg_entry *entry = &search->entries[0];
	struct cfg_point point;
	bool sure = cfg_choose_probe(search, entry, &point);
	const struct cfg_probe *made;
	bool passed, final;

	if (sure)
		cfg_doubt(search, entry, &point);
	made = cfg_probe_make(search, entry, point, sure, arena);
	if (!made)
		return CFG_SEARCH_NO_MEMORY;
	passed = made->required_high[entry->card] <= cfg_space_usable(&search->space, entry->card);
	final = sure && !memcmp(&point, &entry->point, sizeof(point));
	entry->doubtful = sure && !passed;
	if (final && passed) {
		cfg_plan_describe(search, entry, ret);
		cfg_heap_pop(search);
		search->found++;
		return CFG_FOUND;
	}
	if (passed || sure)
		entry->failures = 0;
	else if (entry->failures < 10)
		entry->failures++;
	if (passed)
		return CFG_SEARCHING;
	if (cfg_entry_settle(search, entry)) {
		cfg_heap_settle(search);
	} else {
		struct cfg_entry gone = *entry;

		cfg_heap_pop(search);
		cfg_dropped_add(search, &gone);
	}
	return CFG_SEARCHING;
}

enum cfg_progress cfg_search_advance(struct cfg_search *search, size_t layers, struct est_arena *arena,
				     struct cfg_plan *ret)
{
	uint64_t until = search->layers + layers;
	enum cfg_progress progress = CFG_SEARCHING;

	for (int i = 0; search->read < search->space.recipe_count; i++) {
		if (i == RECIPES_A_TURN)
			return CFG_SEARCHING;
		read_recipe(search);
	}
	do {
		search->cut = search->layers >= CFG_PLAN_LAYERS && search->entry_count > 0;
		if (!search->entry_count || search->found == search->space.limit || search->cut)
			return CFG_SEARCHED;
		progress = look(search, arena, ret);
	} while (progress == CFG_SEARCHING && search->layers < until);
	return progress;
}

/* ---- nothing fits */

/* The least that is known to be required at the entry's easiest point; judged: by the whole replay. */
static uint64_t shortage(struct cfg_search *search, const struct cfg_entry *entry, bool *ret_judged)
{
	const struct cfg_known *known = &search->known[entry->recipe];
	struct cfg_point point = cfg_point_easiest(search, known);
	uint64_t required, usable = cfg_space_usable(&search->space, entry->card);

	cfg_known_set(&search->space, known, point, &search->run);
	required = est_run_least(&search->run, &search->space.base.model, &known->floor,
				 search->space.base.cards[entry->card]);
	*ret_judged = false;
	for (const struct cfg_probe *made = known->probes; made; made = made->next) {
		if (memcmp(&made->point, &point, sizeof(point)) || !made->required_high[entry->card])
			continue;
		*ret_judged = *ret_judged || made->judged;
		required = made->required_high[entry->card] > required ? made->required_high[entry->card] : required;
	}
	return required > usable ? required - usable : 0;
}

static struct cfg_entry *least_short(struct cfg_search *search, bool *ret_judged)
{
	struct cfg_entry *nearest = NULL;
	uint64_t least = UINT64_MAX;

	for (size_t i = 0; i < search->dropped_count; i++) {
		bool judged;
		uint64_t missing = shortage(search, cfg_dropped(search, i), &judged);

		if (missing >= least)
			continue;
		least = missing;
		nearest = cfg_dropped(search, i);
		*ret_judged = judged;
	}
	return nearest;
}

/* Whoever seems least short is replayed, until that one was replayed whole. */
bool cfg_search_nearest(struct cfg_search *search, struct est_arena *arena, struct cfg_plan *ret)
{
	bool judged = false;
	struct cfg_entry *entry;

	while ((entry = least_short(search, &judged)) != NULL) {
		struct cfg_point point = cfg_point_easiest(search, &search->known[entry->recipe]);

		if (!cfg_probe_make(search, entry, point, true, arena))
			return false;
		if (!judged)
			continue;
		entry->point = point;
		cfg_plan_describe(search, entry, ret);
		return ret->required_high != UINT64_MAX;
	}
	return false;
}

/* ---- the search as a whole */

/* Takes the space over: cards of a size point into the request itself. */
static void adopt(struct cfg_search *search, const struct cfg_space *space)
{
	struct cfg_request *base = &search->space.base;

	search->space = *space;
	for (size_t i = 0; i < base->card_count; i++) {
		const struct cfg_card *row = cfg_catalog_find_card(space->catalog, base->cards[i]->id, NULL);
		size_t size = (size_t)(base->cards[i] - space->base.sizes);

		if (!row) {
			base->cards[i] = &base->sizes[size];
			base->sizes[size].id = base->sizes[size].name = base->size_id[size];
		}
		cfg_speed_init(&search->speeds[i], base->cards[i]->id, row ? row->row : NULL);
	}
	search->run = base->request;
}

struct cfg_search *cfg_search_create(const struct cfg_space *space)
{
	struct cfg_search *search = calloc(1, sizeof(*search));

	if (!search)
		return NULL;
	search->capacity = space->recipe_count * space->base.card_count;
	search->known = calloc(space->recipe_count, sizeof(*search->known));
	search->entries = calloc(search->capacity, sizeof(*search->entries));
	adopt(search, space);
	if (search->known && search->entries)
		return search;
	search->space.request = NULL;
	cfg_search_destroy(search);
	return NULL;
}

void cfg_search_destroy(struct cfg_search *search)
{
	if (!search)
		return;
	for (size_t i = 0; search->known && i < search->space.recipe_count; i++)
		for (struct cfg_probe *made = search->known[i].probes, *next; made; made = next) {
			next = made->next;
			free(made);
		}
	free(search->known);
	free(search->entries);
	cfg_space_finish(&search->space);
	free(search);
}

const struct cfg_space *cfg_search_space(const struct cfg_search *search)
{
	return &search->space;
}

uint64_t cfg_search_examined(const struct cfg_search *search)
{
	return search->examined;
}

uint64_t cfg_search_replays(const struct cfg_search *search)
{
	return search->replays;
}

bool cfg_search_complete(const struct cfg_search *search)
{
	return !search->cut;
}
