#include "config/patch.h"
#include <stdio.h>
#include <string.h>
#include "config/read.h"

/* A pointer is cut where it is full, and would then lead elsewhere: this much room has to be left for what follows. */
enum { ROOM = 100 };

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

bool cfg_patch_gpus(const struct cfg_template *template, const struct cfg_pod *pod, const char *resource, int64_t gpus,
		    json_t *patch)
{
	const json_t *amounts = json_object_get(pod->container, "resources"), *limits = json_object_get(amounts, "limits");
	char path[EST_POINTER_MAX], quantity[24];
	json_t *value, *operation;

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
	operation = object_of("op", json_string("add"));
	json_object_set_new(operation, "path", json_string(path));
	json_object_set_new(operation, "value", value);
	return !json_array_append_new(patch, operation);
}
