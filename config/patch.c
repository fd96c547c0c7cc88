#include "config/patch.h"
#include <stdio.h>
#include <string.h>
#include "config/read.h"

/* A pointer is cut where it is full, and would then lead elsewhere: this much room has to be left for what follows. */
enum { ROOM = 130 };

static void point_at_container(const struct cfg_template *template, const struct cfg_pod *pod,
			       char ret[EST_POINTER_MAX])
{
	snprintf(ret, EST_POINTER_MAX, "%s", template->pointer);
	cfg_pointer_add(ret, "spec");
	cfg_pointer_add(ret, "containers");
	cfg_pointer_add_index(ret, pod->container_index);
}

/* {key: value}; steals value. */
static json_t *object_of(const char *key, json_t *value)
{
	json_t *object = json_object();

	json_object_set_new(object, key, value);
	return object;
}

/* Steals value. */
static bool add(json_t *patch, const char *path, json_t *value)
{
	json_t *operation = object_of("op", json_string("add"));

	json_object_set_new(operation, "path", json_string(path));
	json_object_set_new(operation, "value", value);
	return !json_array_append_new(patch, operation);
}

bool cfg_patch_gpus(const struct cfg_template *template, const struct cfg_pod *pod, const char *resource, int64_t gpus,
		    json_t *patch)
{
	const json_t *amounts = json_object_get(pod->container, "resources"), *limits = json_object_get(amounts, "limits");
	char path[EST_POINTER_MAX], quantity[24];
	json_t *value;

	if (!pod->container || pod->asks || strlen(template->pointer) > EST_POINTER_MAX - ROOM)
		return false;
	snprintf(quantity, sizeof quantity, "%lld", (long long)gpus);
	value = json_string(quantity);
	point_at_container(template, pod, path);
	cfg_pointer_add(path, "resources");
	if (json_is_object(amounts))
		cfg_pointer_add(path, "limits");
	if (json_is_object(limits))
		cfg_pointer_add(path, resource);
	else
		value = object_of(resource, value);
	if (!json_is_object(amounts))
		value = object_of("limits", value);
	return add(patch, path, value);
}

/* ---- nodes */

static json_t *list_of(json_t *value)
{
	json_t *list = json_array();

	json_array_append_new(list, value);
	return list;
}

/* To every term of a list that is there. */
static bool add_to_terms(json_t *patch, const json_t *terms, const char *pointer, const json_t *expression)
{
	bool added = true;

	for (size_t i = 0; added && i < json_array_size(terms); i++) {
		bool listed = json_array_size(json_object_get(json_array_get(terms, i), "matchExpressions"));
		char path[EST_POINTER_MAX];
		json_t *value = json_deep_copy(expression);

		snprintf(path, sizeof path, "%s", pointer);
		cfg_pointer_add_index(path, i);
		cfg_pointer_add(path, "matchExpressions");
		if (listed)
			cfg_pointer_add(path, "-");
		added = add(patch, path, listed ? value : list_of(value));
	}
	return added && json_array_size(terms);
}

bool cfg_patch_affinity(const struct cfg_template *template, const char *key, const char *operator,
			const json_t *values, json_t *patch)
{
	static const char *const names[] = { "affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution",
					     "nodeSelectorTerms" };
	enum { NAMES = sizeof names / sizeof names[0] };
	const json_t *at = template->spec, *next;
	json_t *value;
	char path[EST_POINTER_MAX];
	bool added;
	int i = 0;

	if (strlen(template->pointer) > EST_POINTER_MAX - ROOM)
		return false;
	value = object_of("key", json_string(key));
	json_object_set_new(value, "operator", json_string(operator));
	json_object_set_new(value, "values", json_deep_copy(values));
	snprintf(path, sizeof path, "%s", template->pointer);
	cfg_pointer_add(path, "spec");
	for (; i < NAMES && (next = json_object_get(at, names[i])) && !json_is_null(next); i++, at = next)
		cfg_pointer_add(path, names[i]);
	if (i == NAMES) {
		added = add_to_terms(patch, at, path, value);
		json_decref(value);
		return added;
	}
	cfg_pointer_add(path, names[i]);
	value = list_of(object_of("matchExpressions", list_of(value)));
	for (int j = NAMES - 1; j > i; j--)
		value = object_of(names[j], value);
	return add(patch, path, value);
}
