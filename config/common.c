#include "config/common.h"

#include <stdlib.h>
#include <string.h>
#include "config/read.h"

enum { NAME_MAX_LENGTH = 64 };

/* ---- a sweep */

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

/* ---- a list */

/* Leaves in rest what request has too. False where it names a file: what that says depends on all the rest. */
static bool keep_common(json_t *rest, const json_t *request)
{
	const char *key;
	json_t *value;
	void *next;

	json_object_foreach_safe(rest, next, key, value)
		if (!json_equal(value, json_object_get(request, key)))
			json_object_del(rest, key);
	return !json_object_get(request, "from");
}

/* The members of the first request that all others have alike; those that are no objects do not count. */
static bool keep_all_common(const json_t *requests, json_t *rest)
{
	size_t i;
	const json_t *request;

	json_array_foreach(requests, i, request)
		if (json_is_object(request) && !keep_common(rest, request))
			return false;
	return json_object_size(rest) > 0;
}

/* ---- both */

static json_t *find_rest(const struct cfg_batch *batch)
{
	json_t *rest = batch->requests ? json_copy(json_array_get(batch->requests, 0)) : json_deep_copy(batch->request);

	if (json_is_object(rest) && batch->count > 1
	    && (batch->requests ? keep_all_common(batch->requests, rest) : take_out_all(batch->sweep, rest)))
		return rest;
	json_decref(rest);
	return NULL;
}

static bool read_rest(struct cfg_common *common)
{
	struct est_faults *faults = calloc(1, sizeof *faults);
	struct cfg_reader reader = { .catalog = common->catalog, .ret = &common->request, .faults = faults };
	bool read;

	if (!faults)
		return false;
	cfg_read_begin(&common->request);
	cfg_read_members(&reader, common->rest, NULL, "");
	common->size_count = reader.size_count;
	read = !faults->count && !common->request.ignored.listed && !cfg_json_is_short();
	free(faults);
	return read;
}

struct cfg_common *cfg_common_create(const struct cfg_batch *batch, const struct cfg_catalog *catalog)
{
	json_t *rest = find_rest(batch);
	struct cfg_common *common = rest ? calloc(1, sizeof *common) : NULL;

	if (!common) {
		json_decref(rest);
		return NULL;
	}
	common->batch = batch;
	common->catalog = catalog;
	common->rest = rest;
	if (read_rest(common))
		return common;
	cfg_common_destroy(common);
	return NULL;
}

void cfg_common_destroy(struct cfg_common *common)
{
	if (!common)
		return;
	json_decref(common->rest);
	free(common);
}

static void copy_notes(const struct est_notes *from, struct est_notes *to)
{
	to->count = from->count;
	memcpy(to->item, from->item, from->count * sizeof(from->item[0]));
}

/* What cfg_read_begin() and the fields that were read have set, of lists only as much as they hold. */
static void copy_request(const struct cfg_common *common, struct cfg_request *to)
{
	const struct cfg_request *from = &common->request;

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
	/* their names are ours: they stay */
	memcpy(to->sizes, from->sizes, common->size_count * sizeof(from->sizes[0]));
}

static void read_varied(struct cfg_reader *reader, const struct cfg_batch *batch, size_t i)
{
	const char *name;
	json_t *values;

	json_object_foreach(cfg_json_iterable(batch->sweep), name, values) {
		const struct est_field *field = est_field_find(name);
		const json_t *value = cfg_batch_value(batch, i, name);

		if (json_is_null(value))
			continue;
		cfg_read_value(reader, field, value, field->pointer);
		est_request_name(&reader->ret->request, field);
	}
}

bool cfg_common_read(const struct cfg_common *common, size_t i, bool bare, struct cfg_request *ret, struct est_faults *faults)
{
	size_t before = faults->count;
	struct cfg_reader reader = { .catalog = common->catalog, .ret = ret, .faults = faults,
				     .size_count = common->size_count, .bare = bare };
	const json_t *request = json_array_get(common->batch->requests, i);

	if (common->batch->requests && !json_is_object(request))
		return false;
	copy_request(common, ret);
	if (request)
		cfg_read_members(&reader, request, common->rest, "");
	else
		read_varied(&reader, common->batch, i);
	if (faults->count == before && cfg_read_finish(&reader, "", before))
		return true;
	faults->count = before;
	return false;
}
