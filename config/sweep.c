#include "config/sweep.h"

#include <stdlib.h>
#include <string.h>
#include "config/read.h"

enum { NAME_MAX_LENGTH = 64 };

/* Takes the member at a dotted name out of object. False where something on the way is no object: to vary what is within
 * would replace it. */
static bool take_out(json_t *object, const char *name)
{
	char segment[NAME_MAX_LENGTH];

	for (const char *dot; (dot = strchr(name, '.')); name = dot + 1) {
		est_copy_text(segment, (size_t)(dot - name) + 1, name);
		object = json_object_get(object, segment);
		if (!object)
			return true;
		if (!json_is_object(object))
			return false;
	}
	json_object_del(object, name);
	return true;
}

/* Whether every field that varies stands for itself. */
static bool take_out_all(const json_t *sweep, json_t *rest)
{
	const char *name;
	json_t *values;

	json_object_foreach(cfg_json_iterable(sweep), name, values) {
		const struct est_field *field = est_field_find(name);

		if (!field || field->kind == EST_FIELD_FILE || !take_out(rest, name))
			return false;
	}
	return true;
}

static bool read_common(struct cfg_sweep *sweep)
{
	struct est_faults *faults = calloc(1, sizeof *faults);
	struct cfg_reader reader = { .catalog = sweep->catalog, .ret = &sweep->common, .faults = faults };
	bool read;

	if (!faults)
		return false;
	cfg_read_begin(&sweep->common);
	cfg_read_members(&reader, sweep->rest, "");
	sweep->size_count = reader.size_count;
	read = !faults->count && !sweep->common.ignored.listed && !cfg_json_is_short();
	free(faults);
	return read;
}

struct cfg_sweep *cfg_sweep_create(const struct cfg_batch *batch, const struct cfg_catalog *catalog)
{
	struct cfg_sweep *sweep;

	if (!batch->sweep)
		return NULL;
	sweep = calloc(1, sizeof *sweep);
	if (!sweep)
		return NULL;
	sweep->batch = batch;
	sweep->catalog = catalog;
	sweep->rest = json_deep_copy(batch->request);
	if (sweep->rest && take_out_all(batch->sweep, sweep->rest) && read_common(sweep))
		return sweep;
	cfg_sweep_destroy(sweep);
	return NULL;
}

void cfg_sweep_destroy(struct cfg_sweep *sweep)
{
	if (!sweep)
		return;
	json_decref(sweep->rest);
	free(sweep);
}

static void copy_notes(const struct est_notes *from, struct est_notes *to)
{
	to->count = from->count;
	memcpy(to->item, from->item, from->count * sizeof(from->item[0]));
}

/* What cfg_read_begin() and the fields that were read have set, of lists only as much as they hold. */
static void copy_common(const struct cfg_sweep *sweep, struct cfg_request *to)
{
	const struct cfg_request *from = &sweep->common;

	to->request = from->request;
	to->model = from->model;
	copy_notes(&from->notes, &to->notes);
	copy_notes(&from->warnings, &to->warnings);
	to->ignored.listed = false;
	to->ignored.total = to->ignored.count = to->ignored.used = 0;
	to->card_count = from->card_count;
	memcpy(to->cards, from->cards, from->card_count * sizeof(from->cards[0]));
	memcpy(to->card_words, from->card_words, from->card_count * sizeof(from->card_words[0]));
	to->cards_named = from->cards_named;
	memcpy(to->sizes, from->sizes, sweep->size_count * sizeof(from->sizes[0])); /* their names are ours: they stay */
}

bool cfg_sweep_read(const struct cfg_sweep *sweep, size_t i, bool bare, struct cfg_request *ret, struct est_faults *faults)
{
	size_t before = faults->count;
	struct cfg_reader reader = { .catalog = sweep->catalog, .ret = ret, .faults = faults, .size_count = sweep->size_count,
				     .bare = bare };
	const char *name;
	json_t *values;

	copy_common(sweep, ret);
	json_object_foreach(cfg_json_iterable(sweep->batch->sweep), name, values) {
		const struct est_field *field = est_field_find(name);
		const json_t *value = cfg_batch_value(sweep->batch, i, name);

		if (json_is_null(value))
			continue;
		cfg_read_value(&reader, field, value, field->pointer);
		est_request_name(&ret->request, field);
	}
	if (faults->count == before && cfg_read_finish(&reader, "", before))
		return true;
	faults->count = before;
	return false;
}
