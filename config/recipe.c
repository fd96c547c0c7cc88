/* A recipe of a space: its changes, and the request that they make. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "config/batch.h"
#include "config/space.h"
#include "estimator/fields.h"

static void change(struct cfg_recipe *recipe, const struct est_field *field, double value)
{
	size_t at = recipe->change_count;

	if (recipe->change_count == CFG_RECIPE_CHANGES)
		return;
	while (at > 0 && recipe->rows[at - 1] > field) {
		recipe->changes[at] = recipe->changes[at - 1];
		recipe->rows[at] = recipe->rows[at - 1];
		at--;
	}
	recipe->changes[at] = (struct cfg_change){ field->name, value };
	recipe->rows[at] = field;
	recipe->change_count++;
}

/* A change to what the request says already is none, but where it only follows from other fields. */
static void change_if_other(const struct cfg_space *space, struct cfg_recipe *recipe, const struct est_field *field,
			    double value)
{
	const struct est_request *request = &space->base.request;
	bool same = fabs(est_field_get(field, request) - value) < 1e-9 && field->kind != EST_FIELD_CHECKPOINTING;

	if (!same || (field->by_framework && !est_field_is_named(field, request)))
		change(recipe, field, value);
}

static void choose_offload(const struct cfg_space *space, struct cfg_recipe *recipe, double value)
{
	change_if_other(space, recipe, est_field_find("offload.optimizer"), value > 0 ? EST_ON_CPU : EST_ON_GPU);
	change_if_other(space, recipe, est_field_find("offload.parameters"), value > 1 ? EST_ON_CPU : EST_ON_GPU);
}

/* The choice of an axis in recipe i, and what is left of i. */
static double choose(const struct cfg_axis *axis, size_t *i, bool *ret_first)
{
	size_t at = *i % axis->count;

	*i /= axis->count;
	*ret_first = at == 0;
	return axis->values[at];
}

/* A request of the recipe's words alone, to know what applies. */
static void preview(const struct cfg_space *space, size_t i, struct est_request *ret)
{
	bool first;

	*ret = space->base.request;
	for (size_t axis = 0; axis < space->axis_count; axis++) {
		const struct est_field *field = space->axes[axis].field;
		double value = choose(&space->axes[axis], &i, &first);

		if (field)
			est_field_set(field, ret, value);
	}
}

/* What the request names and the recipe has no use for is left out. */
static void forget_companions(const struct cfg_space *space, const struct est_request *chosen,
			      struct cfg_recipe *recipe)
{
	for (size_t i = 0; i < est_request_field_count; i++) {
		const struct est_field *field = &est_request_fields[i];
		const char *only;

		if (est_field_is_named(field, &space->base.request) && !est_field_applies(field, chosen, &only) && only)
			change(recipe, field, NAN);
	}
}

bool cfg_space_recipe(const struct cfg_space *space, size_t i, struct cfg_recipe *ret)
{
	struct est_request chosen;
	bool unique = true;

	preview(space, i, &chosen);
	*ret = (struct cfg_recipe){ .alone = chosen.parallelism.strategy == EST_SINGLE };
	for (size_t axis = 0; axis < space->axis_count; axis++) {
		const struct est_field *field = space->axes[axis].field;
		bool first;
		double value = choose(&space->axes[axis], &i, &first);
		const char *only = NULL;

		if (field && !est_field_applies(field, &chosen, &only) && only)
			unique = unique && first;
		else if (field)
			change_if_other(space, ret, field, value);
		else
			choose_offload(space, ret, value);
	}
	forget_companions(space, &chosen, ret);
	return unique;
}

void cfg_recipe_scale(const struct cfg_space *space, int64_t gpus, int64_t batch, int64_t length,
		      struct cfg_recipe *recipe)
{
	change_if_other(space, recipe, est_field_find("parallelism.gpus"), (double)gpus);
	change_if_other(space, recipe, est_field_find("micro_batch_size"), (double)batch);
	if (length != space->base.request.sequence_length)
		change(recipe, est_field_find("sequence_length"), (double)length);
}

/* ---- as JSON */

static json_t *value_of(const struct cfg_change *given)
{
	const struct est_field *field = est_field_find(given->name);

	if (isnan(given->value))
		return json_null();
	switch (field->kind) {
	case EST_FIELD_BOOL:
		return json_boolean(given->value > 0);
	case EST_FIELD_WORD:
	case EST_FIELD_CHECKPOINTING:
		return json_string(est_word_name(field->words, (int)given->value));
	case EST_FIELD_REAL:
		return json_real(given->value);
	default:
		if (field->words && given->value < 0)
			return json_string(est_word_name(field->words, (int)given->value));
		return json_integer((json_int_t)given->value);
	}
}

static bool put_new(json_t *request, const char *name, json_t *value)
{
	bool done = value && cfg_json_put(request, name, value);

	json_decref(value);
	return done;
}

static bool put_card(const struct cfg_space *space, json_t *request, const struct est_gpu *card)
{
	bool is_size = !cfg_catalog_find_card(space->catalog, card->id, NULL);

	json_object_del(request, "gpus");
	json_object_del(request, "gpu_memory_bytes");
	if (is_size)
		return put_new(request, "gpu_memory_bytes", json_pack("[I]", (json_int_t)card->memory_bytes));
	return put_new(request, "gpus", json_pack("[s]", card->id));
}

json_t *cfg_space_request(const struct cfg_space *space, const struct cfg_recipe *recipe, const struct est_gpu *card)
{
	json_t *request = json_deep_copy(space->request);
	bool done = request != NULL;

	for (size_t i = 0; i < recipe->change_count && done; i++)
		done = put_new(request, recipe->changes[i].name, value_of(&recipe->changes[i]));
	if (done && put_card(space, request, card))
		return request;
	json_decref(request);
	return NULL;
}
