/* Replays of a recipe at a point. */
#include <stdlib.h>
#include "config/search.h"
#include "estimator/device.h"

/* The recipe at a point -> search->run. False: it is no valid request. */
static bool make_request(struct cfg_search *search, uint32_t i, struct cfg_point point)
{
	const struct cfg_space *space = &search->space;
	struct cfg_recipe recipe;

	cfg_space_recipe(space, i, &recipe);
	cfg_recipe_scale(space, space->gpus.values[point.gpus], space->batches.values[point.batch],
			 space->lengths.values[point.length], &recipe);
	return cfg_vary(&space->base, recipe.changes, recipe.change_count, &search->run);
}

/* The cards that the trace for card holds for, itself first. */
static size_t list_alike(const struct cfg_search *search, const struct est_request *run, size_t card,
			 const struct est_gpu **cards, uint16_t *ret_index)
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
static bool replay(struct cfg_search *search, const struct cfg_entry *entry, struct cfg_probe *probe,
		   struct est_arena *arena)
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
		probe->required_high[index[i]] = search->fits[i].verdict == EST_UNSUPPORTED
			? UINT64_MAX : search->fits[i].required_high;
	return true;
}

struct cfg_probe *cfg_probe_make(struct cfg_search *search, const struct cfg_entry *entry, struct cfg_point point,
				 bool judged,
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

void cfg_plan_describe(struct cfg_search *search, const struct cfg_entry *entry, struct cfg_plan *ret)
{
	const struct cfg_space *space = &search->space;

	*ret = (struct cfg_plan){ .card = space->base.cards[entry->card], .gpus = space->gpus.values[entry->point.gpus],
				  .batch = space->batches.values[entry->point.batch], .length = space->lengths.values[entry->point.length],
				  .required = search->fits[0].required, .required_high = search->fits[0].required_high,
				  .usable = cfg_space_usable(space, entry->card) };
	cfg_space_recipe(space, entry->recipe, &ret->recipe);
	cfg_recipe_scale(space, ret->gpus, ret->batch, ret->length, &ret->recipe);
	ret->step_time = cfg_search_step_time(search, &search->known[entry->recipe], entry->card, entry->point);
	ret->price = cfg_search_price(space, entry->card, ret->gpus);
}
