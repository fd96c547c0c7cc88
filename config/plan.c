#include "config/plan.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "config/points.h"
#include "estimator/device.h"

enum { KEYS = 4, RECIPES_A_TURN = 64 };

/* One recipe on one card, at the best point that is not excluded. */
struct entry {
	uint32_t recipe;
	uint16_t card;
	uint8_t failures;       /* in a row of the scale that is looked at */
	bool doubtful;          /* what is alive fitted, and the verdict was another */
	struct cfg_point point;
	double key[KEYS];       /* less is better */
};

struct cfg_search {
	struct cfg_space space;
	size_t read;            /* recipes that were looked at */
	struct cfg_known *known;
	struct entry *entries;  /* a heap, the best first; from the end on those that fit nowhere */
	size_t entry_count, dropped_count, capacity;
	uint64_t examined, replays, layers;
	size_t found;
	bool cut;
	struct cfg_speed speeds[CFG_SPACE_CARDS];
	struct est_request run; /* scratch */
	struct est_fit fits[CFG_SPACE_CARDS];
};

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

/* The numbers of GPUs lie side by side in the scale: [first, last]. False: none suits. */
static bool gpus_range(const struct cfg_space *space, bool alone, uint16_t *ret_first, uint16_t *ret_last)
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

	gpus_range(space, known->parallelism.strategy == EST_SINGLE, &first, &last);
	if (scale == GPUS)
		return (struct walk){ orders[space->objective].all_gpus ? last : first, last, 1 };
	return (struct walk){ (int)(scale == BATCH ? space->batches.count : space->lengths.count) - 1, 0, -1 };
}

static struct cfg_point easiest(const struct cfg_search *search, const struct cfg_known *known)
{
	return (struct cfg_point){ .gpus = (uint16_t)walk_of(search, known, GPUS).to };
}

/* ---- keys */

static double total_price(const struct cfg_space *space, size_t card, int64_t gpus)
{
	return space->price[card] * (double)gpus;
}

static double step_time(struct cfg_search *search, const struct cfg_known *known, size_t card, struct cfg_point point)
{
	cfg_known_set(&search->space, known, point, &search->run);
	return cfg_step_time(&known->step, &search->run, &search->speeds[card]);
}

static void set_key(struct cfg_search *search, struct entry *entry)
{
	const struct cfg_space *space = &search->space;
	const struct cfg_known *known = &search->known[entry->recipe];
	double gpus = (double)space->gpus.values[entry->point.gpus], length = (double)space->lengths.values[entry->point.length];
	double batch = gpus * (double)space->batches.values[entry->point.batch];
	double time = step_time(search, known, entry->card, entry->point), price = total_price(space, entry->card, (int64_t)gpus);
	const double keys[][KEYS] = {
		[CFG_FEWEST_GPUS] = { gpus, -length, isnan(price) ? INFINITY : price, time },
		[CFG_LARGEST_BATCH] = { -batch, -length, gpus, time },
		[CFG_LONGEST_SEQUENCE] = { -length, gpus, time, 0 },
		[CFG_CHEAPEST] = { isnan(price) ? INFINITY : price, -length, time, gpus },
	};

	memcpy(entry->key, keys[space->objective], sizeof(entry->key));
}

static int compare(const struct entry *a, const struct entry *b)
{
	for (size_t i = 0; i < KEYS; i++)
		if (a->key[i] < b->key[i] || a->key[i] > b->key[i])
			return a->key[i] < b->key[i] ? -1 : 1;
	if (a->recipe != b->recipe)
		return a->recipe < b->recipe ? -1 : 1;
	return (a->card > b->card) - (a->card < b->card);
}

/* ---- the heap */

static void sift_down(struct cfg_search *search, size_t at)
{
	struct entry *entries = search->entries, moved = entries[at];

	for (size_t child = 2 * at + 1; child < search->entry_count; child = 2 * at + 1) {
		child += child + 1 < search->entry_count && compare(&entries[child + 1], &entries[child]) < 0;
		if (compare(&entries[child], &moved) >= 0)
			break;
		entries[at] = entries[child];
		at = child;
	}
	entries[at] = moved;
}

static void push(struct cfg_search *search, const struct entry *entry)
{
	size_t at = search->entry_count++;

	while (at > 0 && compare(entry, &search->entries[(at - 1) / 2]) < 0) {
		search->entries[at] = search->entries[(at - 1) / 2];
		at = (at - 1) / 2;
	}
	search->entries[at] = *entry;
}

static void pop(struct cfg_search *search)
{
	search->entries[0] = search->entries[--search->entry_count];
	sift_down(search, 0);
}

static struct entry *dropped(struct cfg_search *search, size_t i)
{
	return &search->entries[search->capacity - 1 - i];
}

static void drop(struct cfg_search *search, const struct entry *entry)
{
	*dropped(search, search->dropped_count++) = *entry;
}

/* ---- points */

/* The best point that is not excluded: scale after scale, the ones behind at their easiest. False: there is none. */
static bool settle(struct cfg_search *search, struct entry *entry)
{
	const struct cfg_known *known = &search->known[entry->recipe];
	struct cfg_point point = easiest(search, known);

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
	set_key(search, entry);
	return cfg_known_allows(&search->space, known, entry->card, point, &search->run);
}

static int64_t value_at(const struct cfg_space *space, enum scale scale, int index)
{
	return scale == GPUS ? space->gpus.values[index] : scale == BATCH ? space->batches.values[index] : space->lengths.values[index];
}

/* What is alive by the replay at point with index of the scale; 0: not known. */
static double alive_at(const struct cfg_search *search, const struct entry *entry, struct cfg_point point, enum scale scale, int index)
{
	*index_of(&point, scale) = (uint16_t)index;
	return (double)cfg_known_at(&search->known[entry->recipe], entry->card, point, false);
}

/* Where batch or length should end by the line from the sure index, or the easiest, to the next one above best that was too much:
 * what is alive bends upwards, so that what lies below the line is right. -1: there is no such line. */
static int interpolate(const struct cfg_search *search, const struct entry *entry, struct cfg_point point, enum scale scale, int best,
		       int sure)
{
	const struct walk walk = walk_of(search, &search->known[entry->recipe], scale);
	double low = alive_at(search, entry, point, scale, sure), high = 0, room = (double)cfg_space_usable(&search->space, entry->card), end;
	int above = best;

	while (scale != GPUS && above < walk.from && high <= 0)
		high = alive_at(search, entry, point, scale, ++above);
	if (low <= 0 || low > room || high <= room)
		return -1;
	end = (double)value_at(&search->space, scale, sure)
	      + (room - low) / (high - low) * (double)(value_at(&search->space, scale, above) - value_at(&search->space, scale, sure));
	while (sure < best && (double)value_at(&search->space, scale, sure + 1) <= end)
		sure++;
	return sure;
}

/* The first index on the way from best to the easiest that is sure; the easiest when none is. */
static int find_sure(const struct cfg_search *search, const struct entry *entry, struct cfg_point point, enum scale scale, int best)
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

/* Where to look next on the way to entry's point: at the first scale that is not sure, the others behind it at their easiest. One above
 * where a line says that it ends; without a line after failures farther and farther from the best, and half way to what is sure. True when
 * all is sure but the allocator. */
static bool choose_probe(const struct cfg_search *search, const struct entry *entry, struct cfg_point *ret)
{
	const struct cfg_known *known = &search->known[entry->recipe];

	*ret = easiest(search, known);
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

/* After a verdict that what is alive did not foretell: where the last scale hardly matters, the verdict at its easiest tells of all. */
static void doubt(const struct cfg_search *search, const struct entry *entry, struct cfg_point *point)
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

/* ---- replays */

/* The recipe at a point -> search->run. False: it is no valid request. */
static bool make_request(struct cfg_search *search, uint32_t i, struct cfg_point point)
{
	const struct cfg_space *space = &search->space;
	struct cfg_recipe recipe;

	cfg_space_recipe(space, i, &recipe);
	cfg_recipe_scale(space, space->gpus.values[point.gpus], space->batches.values[point.batch], space->lengths.values[point.length],
			 &recipe);
	return cfg_vary(&space->base, recipe.changes, recipe.change_count, &search->run);
}

/* The cards that the trace for card holds for, itself first. */
static size_t list_alike(const struct cfg_search *search, const struct est_request *run, size_t card, const struct est_gpu **cards,
			 uint16_t *ret_index)
{
	const struct cfg_request *base = &search->space.base;
	size_t count = 1;

	ret_index[0] = (uint16_t)card;
	cards[0] = base->cards[card];
	for (size_t i = 0; i < base->card_count; i++) {
		if (i == card || est_device_sdpa(base->cards[i], run) != est_device_sdpa(base->cards[card], run))
			continue;
		ret_index[count] = (uint16_t)i;
		cards[count++] = base->cards[i];
	}
	return count;
}

/* search->run on every card that its trace holds for -> search->fits, the entry's card first, and probe. */
static bool replay(struct cfg_search *search, const struct entry *entry, struct cfg_probe *probe, struct est_arena *arena)
{
	const struct est_model *model = &search->space.base.model;
	const struct est_gpu *alike[CFG_SPACE_CARDS];
	uint16_t index[CFG_SPACE_CARDS];
	size_t count = list_alike(search, &search->run, entry->card, alike, index);

	search->replays++;
	search->layers += (uint64_t)est_model_all_layers(model) * (probe->judged ? CFG_JUDGED_LAYERS : 1);
	if (probe->judged ? !est_judge_cards(&search->run, model, alike, count, 1, arena, search->fits)
			  : !est_judge_alive(&search->run, model, alike, count, arena, search->fits))
		return false;
	for (size_t i = 0; i < count; i++)
		probe->required_high[index[i]] = search->fits[i].verdict == EST_UNSUPPORTED ? UINT64_MAX : search->fits[i].required_high;
	return true;
}

/* Replays a recipe at a point and keeps what came out; a point that is no valid request fits nowhere. NULL when memory is short. */
static struct cfg_probe *probe(struct cfg_search *search, const struct entry *entry, struct cfg_point point, bool judged,
			       struct est_arena *arena)
{
	struct cfg_known *known = &search->known[entry->recipe];
	size_t cards = search->space.base.card_count, mark = arena->used;
	struct cfg_probe *made = calloc(1, sizeof(*made) + cards * sizeof(made->required_high[0]));
	bool complete = made != NULL;

	if (!made)
		return NULL;
	*made = (struct cfg_probe){ .next = known->probes, .point = point, .judged = judged };
	search->fits[0] = (struct est_fit){ .required = UINT64_MAX, .required_high = UINT64_MAX };
	if (make_request(search, entry->recipe, point))
		complete = replay(search, entry, made, arena);
	else
		for (size_t i = 0; i < cards; i++)
			made->required_high[i] = UINT64_MAX;
	est_arena_rewind(arena, mark);
	if (!complete) {
		free(made);
		return NULL;
	}
	known->probes = made;
	return made;
}

static void describe(struct cfg_search *search, const struct entry *entry, struct cfg_plan *ret)
{
	const struct cfg_space *space = &search->space;

	*ret = (struct cfg_plan){ .card = space->base.cards[entry->card], .gpus = space->gpus.values[entry->point.gpus],
				  .batch = space->batches.values[entry->point.batch], .length = space->lengths.values[entry->point.length],
				  .required = search->fits[0].required, .required_high = search->fits[0].required_high,
				  .usable = cfg_space_usable(space, entry->card) };
	cfg_space_recipe(space, entry->recipe, &ret->recipe);
	cfg_recipe_scale(space, ret->gpus, ret->batch, ret->length, &ret->recipe);
	ret->step_time = step_time(search, &search->known[entry->recipe], entry->card, entry->point);
	ret->price = total_price(space, entry->card, ret->gpus);
}

/* ---- entries */

static void add_entries(struct cfg_search *search, uint32_t recipe)
{
	const struct cfg_request *base = &search->space.base;
	struct est_request run = search->run;

	for (size_t card = 0; card < base->card_count; card++) {
		struct entry entry = { .recipe = recipe, .card = (uint16_t)card };

		if (est_device_refuses(base->cards[card], &run))
			continue;
		if (settle(search, &entry))
			push(search, &entry);
		else
			drop(search, &entry);
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

	if (!cfg_space_recipe(space, i, &recipe) || !gpus_range(space, recipe.alone, &first, &last))
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
	struct entry *entry = &search->entries[0];
	struct cfg_point point;
	bool sure = choose_probe(search, entry, &point);
	const struct cfg_probe *made;
	bool passed, final;

	if (sure)
		doubt(search, entry, &point);
	made = probe(search, entry, point, sure, arena);
	if (!made)
		return CFG_SEARCH_NO_MEMORY;
	passed = made->required_high[entry->card] <= cfg_space_usable(&search->space, entry->card);
	final = sure && !memcmp(&point, &entry->point, sizeof(point));
	entry->doubtful = sure && !passed;
	if (final && passed) {
		describe(search, entry, ret);
		pop(search);
		search->found++;
		return CFG_FOUND;
	}
	if (passed || sure)
		entry->failures = 0;
	else if (entry->failures < 10)
		entry->failures++;
	if (passed)
		return CFG_SEARCHING;
	if (settle(search, entry)) {
		sift_down(search, 0);
	} else {
		struct entry gone = *entry;

		pop(search);
		drop(search, &gone);
	}
	return CFG_SEARCHING;
}

enum cfg_progress cfg_search_advance(struct cfg_search *search, size_t layers, struct est_arena *arena, struct cfg_plan *ret)
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
static uint64_t shortage(struct cfg_search *search, const struct entry *entry, bool *ret_judged)
{
	const struct cfg_known *known = &search->known[entry->recipe];
	struct cfg_point point = easiest(search, known);
	uint64_t required, usable = cfg_space_usable(&search->space, entry->card);

	cfg_known_set(&search->space, known, point, &search->run);
	required = est_run_least(&search->run, &search->space.base.model, &known->floor, search->space.base.cards[entry->card]);
	*ret_judged = false;
	for (const struct cfg_probe *made = known->probes; made; made = made->next) {
		if (memcmp(&made->point, &point, sizeof(point)) || !made->required_high[entry->card])
			continue;
		*ret_judged = *ret_judged || made->judged;
		required = made->required_high[entry->card] > required ? made->required_high[entry->card] : required;
	}
	return required > usable ? required - usable : 0;
}

static struct entry *least_short(struct cfg_search *search, bool *ret_judged)
{
	struct entry *nearest = NULL;
	uint64_t least = UINT64_MAX;

	for (size_t i = 0; i < search->dropped_count; i++) {
		bool judged;
		uint64_t missing = shortage(search, dropped(search, i), &judged);

		if (missing >= least)
			continue;
		least = missing;
		nearest = dropped(search, i);
		*ret_judged = judged;
	}
	return nearest;
}

/* Whoever seems least short is replayed, until that one was replayed whole. */
bool cfg_search_nearest(struct cfg_search *search, struct est_arena *arena, struct cfg_plan *ret)
{
	bool judged = false;
	struct entry *entry;

	while ((entry = least_short(search, &judged)) != NULL) {
		struct cfg_point point = easiest(search, &search->known[entry->recipe]);

		if (!probe(search, entry, point, true, arena))
			return false;
		if (!judged)
			continue;
		entry->point = point;
		describe(search, entry, ret);
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
