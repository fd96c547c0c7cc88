#include "config/batch.h"
#include <string.h>
#include "config/read.h"

enum { NAME_MAX_LENGTH = 64 };

/* ---- the envelope */

static void fault_list(struct est_faults *faults, const char *key, enum est_fault_code code, const char *detail)
{
	char pointer[EST_POINTER_MAX] = "/sweep";

	cfg_pointer_add(pointer, key);
	est_fault_add(faults, pointer, code, "%s", detail);
}

/* How many requests the sweep makes; stops counting beyond the most that are taken. */
static size_t count_sweep(const json_t *sweep, struct est_faults *faults)
{
	size_t count = 1;
	const char *key;
	json_t *values;

	json_object_foreach(cfg_json_iterable(sweep), key, values) {
		if (!json_is_array(values) || json_array_size(values) == 0)
			fault_list(faults, key, EST_WRONG_TYPE, "must be a list of at least one value");
		else if (strlen(key) >= NAME_MAX_LENGTH)
			fault_list(faults, key, EST_UNKNOWN_FIELD, "is not a known field");
		else if (count <= CFG_BATCH_MAX)
			count *= json_array_size(values);
	}
	return count;
}

static void read_sweep(struct cfg_batch *batch, struct est_faults *faults)
{
	if (!json_is_object(batch->request))
		est_fault_add(faults, "/request", batch->request ? EST_WRONG_TYPE : EST_MISSING,
			      batch->request ? "must be an object" : "is required, or requests instead");
	batch->count = 1;
	if (batch->sweep && !json_is_object(batch->sweep))
		est_fault_add(faults, "/sweep", EST_WRONG_TYPE, "must be an object of lists");
	else if (batch->sweep)
		batch->count = count_sweep(batch->sweep, faults);
	if (batch->count > CFG_BATCH_MAX)
		est_fault_add(faults, "/sweep", EST_OUT_OF_RANGE, "makes more than %d requests", CFG_BATCH_MAX);
}

static void read_list(struct cfg_batch *batch, struct est_faults *faults)
{
	batch->count = json_array_size(batch->requests);
	if (!json_is_array(batch->requests))
		est_fault_add(faults, "/requests", EST_WRONG_TYPE, "must be a list of requests");
	else if (batch->count > CFG_BATCH_MAX)
		est_fault_add(faults, "/requests", EST_OUT_OF_RANGE, "has more than %d requests", CFG_BATCH_MAX);
	if (batch->request || batch->sweep)
		est_fault_add(faults, batch->request ? "/request" : "/sweep", EST_CONTRADICTION,
			      "stands beside requests: one or the other");
}

bool cfg_batch_init(struct cfg_batch *batch, json_t *body, struct est_faults *faults)
{
	static const char *const known[] = { "requests", "request", "sweep", NULL };
	size_t before = faults->count;

	memset(batch, 0, sizeof(*batch));
	if (!json_is_object(body)) {
		est_fault_add(faults, "", EST_WRONG_TYPE, "must be an object");
		return false;
	}
	cfg_check_members(body, known, faults);
	batch->requests = json_object_get(body, "requests");
	batch->request = json_object_get(body, "request");
	batch->sweep = json_object_get(body, "sweep");
	batch->requests ? read_list(batch, faults) : read_sweep(batch, faults);
	if (faults->count > before)
		return false;
	batch->body = json_incref(body);
	return true;
}

void cfg_batch_finish(struct cfg_batch *batch)
{
	json_decref(batch->body);
	memset(batch, 0, sizeof(*batch));
}

/* ---- one of its requests */

/* Cuts the first segment off a dotted name. Returns what is behind the dot, NULL when there is none. */
static const char *cut(const char *name, char segment[NAME_MAX_LENGTH])
{
	size_t length = strcspn(name, ".");

	length = length < NAME_MAX_LENGTH ? length : NAME_MAX_LENGTH - 1;
	memcpy(segment, name, length);
	segment[length] = '\0';
	return name[length] == '.' ? name + length + 1 : NULL;
}

const json_t *cfg_json_at(const json_t *object, const char *name)
{
	char segment[NAME_MAX_LENGTH];

	while (name && object) {
		name = cut(name, segment);
		object = json_object_get(object, segment);
	}
	return object;
}

bool cfg_json_put(json_t *object, const char *name, json_t *value)
{
	char segment[NAME_MAX_LENGTH];
	const char *rest;

	while ((rest = cut(name, segment))) {
		json_t *inner = json_object_get(object, segment);

		if (!json_is_object(inner) && json_object_set_new(object, segment, inner = json_object()))
			return false;
		object = inner;
		name = rest;
	}
	return json_object_set(object, segment, value) == 0;
}

/* The digits of i in the mixed radix of the lists' lengths, from the last name on. */
static bool put_values(const json_t *sweep, size_t i, size_t count, json_t *request)
{
	const char *key;
	json_t *values;

	json_object_foreach(cfg_json_iterable(sweep), key, values) {
		count /= json_array_size(values);
		if (!cfg_json_put(request, key, json_array_get(values, i / count)))
			return false;
		i %= count;
	}
	return true;
}

json_t *cfg_batch_request(const struct cfg_batch *batch, size_t i, char base[EST_POINTER_MAX])
{
	json_t *request;

	base[0] = '\0';
	if (batch->requests) {
		cfg_pointer_add(base, "requests");
		cfg_pointer_add_index(base, i);
		return json_incref(json_array_get(batch->requests, i));
	}
	request = json_deep_copy(batch->request);
	if (request && (!batch->sweep || put_values(batch->sweep, i, batch->count, request)) && !cfg_json_is_short())
		return request;
	json_decref(request);
	return NULL;
}

const json_t *cfg_batch_value(const struct cfg_batch *batch, size_t i, const char *name)
{
	size_t count = batch->count;
	const char *key;
	json_t *values;

	if (batch->requests)
		return cfg_json_at(json_array_get(batch->requests, i), name);
	json_object_foreach(cfg_json_iterable(batch->sweep), key, values) {
		count /= json_array_size(values);
		if (!strcmp(key, name))
			return json_array_get(values, i / count);
		i %= count;
	}
	return cfg_json_at(batch->request, name);
}

/* Marks the rows of est_request_fields that object names below prefix ("", "lora."). */
static void mark_fields(const json_t *object, const char *prefix, bool *named)
{
	const char *key;
	json_t *value;

	json_object_foreach(cfg_json_iterable(object), key, value) {
		char name[NAME_MAX_LENGTH];
		size_t length = est_copy_text(name, sizeof(name), prefix);
		const struct est_field *field;

		length += est_copy_text(name + length, sizeof(name) - length, key);
		if (strchr(key, '.') || length + 2 > sizeof(name))
			continue;
		field = est_field_find(name);
		if (field)
			named[field - est_request_fields] = true;
		est_copy_text(name + length, sizeof(name) - length, ".");
		if (!field)
			mark_fields(value, name, named);
	}
}

void cfg_batch_fields(const struct cfg_batch *batch, bool named[])
{
	size_t i;
	const json_t *request;
	const char *key;
	json_t *values;

	memset(named, 0, est_request_field_count * sizeof(named[0]));
	mark_fields(batch->request, "", named);
	json_array_foreach(batch->requests, i, request)
		mark_fields(request, "", named);
	json_object_foreach(cfg_json_iterable(batch->sweep), key, values)
		if (est_field_find(key))
			named[est_field_find(key) - est_request_fields] = true;
}
