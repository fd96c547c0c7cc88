#include "config/pod.h"
#include <stdlib.h>
#include <string.h>
#include "config/read.h"

static const char *const resources[] = {
	[EST_NVIDIA] = "nvidia.com/gpu", [EST_AMD] = "amd.com/gpu", [EST_INTEL] = "gpu.intel.com/xe",
	[EST_GOOGLE] = "google.com/tpu", [EST_AWS] = "aws.amazon.com/neuron",
	[EST_HABANA] = "habana.ai/gaudi",
};
enum {
	RESOURCES = sizeof resources / sizeof resources[0],
	GPUS_MAX = 1 << 20 /* that a request may name */
};

const char *cfg_gpu_resource(enum est_vendor vendor)
{
	return (size_t)vendor < RESOURCES ? resources[vendor] : NULL;
}

bool cfg_quantity_whole(const json_t *quantity, int64_t *ret)
{
	const char *text = json_string_value(quantity);
	char *end;

	if (json_is_integer(quantity)) {
		*ret = json_integer_value(quantity);
		return true;
	}
	if (!text)
		return false;
	*ret = strtoll(text, &end, 10);
	return end != text && !*end;
}

/* ---- annotations */

static const char *annotation_of(const json_t *metadata, const char *key)
{
	return json_string_value(json_object_get(json_object_get(metadata, "annotations"), key));
}

/* The template's own, else its owner's. */
static const char *find_annotation(const json_t *owner, const struct cfg_template *template, const char *key)
{
	const char *own = annotation_of(template->metadata, key);

	return own ? own : annotation_of(json_object_get(owner, "metadata"), key);
}

/* ---- the container that trains */

/* A resource of the same maker is a slice, a shared card, or what else its plugin offers. */
static bool is_of_gpus(const char *resource)
{
	for (size_t i = 0; i < RESOURCES; i++) {
		size_t maker = resources[i] ? strcspn(resources[i], "/") + 1 : 0;

		if (maker && !strncmp(resource, resources[i], maker))
			return true;
	}
	return false;
}

/* Limits or requests: whether they ask for GPUs. */
static bool asks_in(const json_t *amounts, int64_t *ret_gpus)
{
	const char *key;
	json_t *value;
	int64_t number = 0;
	bool asks = false;

	for (size_t i = 0; i < RESOURCES && number <= 0; i++)
		if (resources[i] && !cfg_quantity_whole(json_object_get(amounts, resources[i]), &number))
			number = 0;
	json_object_foreach(cfg_json_iterable(amounts), key, value)
		asks = asks || is_of_gpus(key);
	if (number > 0)
		*ret_gpus = number < GPUS_MAX ? number : GPUS_MAX;
	return asks;
}

static bool asks_for_gpus(const json_t *container, int64_t *ret_gpus)
{
	const json_t *amounts = json_object_get(container, "resources");
	bool limited, requested;

	*ret_gpus = 0;
	requested = asks_in(json_object_get(amounts, "requests"), ret_gpus);
	limited = asks_in(json_object_get(amounts, "limits"), ret_gpus);
	return limited || requested || json_array_size(json_object_get(amounts, "claims"));
}

/* Index of the container; that of none where name is of none. */
static size_t find_container(const json_t *containers, const char *name)
{
	size_t count = json_array_size(containers);
	int64_t gpus;

	for (size_t i = 0; i < count; i++) {
		const json_t *container = json_array_get(containers, i);
		const char *own = json_string_value(json_object_get(container, "name"));

		if (name ? own && !strcmp(own, name) : asks_for_gpus(container, &gpus))
			return i;
	}
	return name ? count : 0;
}

static void read_container(const struct cfg_template *template, const char *name, struct cfg_pod *ret)
{
	const json_t *containers = json_object_get(template->spec, "containers");

	ret->container_index = find_container(containers, name);
	ret->container = json_array_get(containers, ret->container_index);
	ret->asks = asks_for_gpus(ret->container, &ret->gpus);
}

void cfg_pod_read(const json_t *owner, const struct cfg_template *template, const struct cfg_catalog *catalog,
		  struct cfg_pod *ret)
{
	const char *cards = find_annotation(owner, template, CFG_ANNOTATION_GPU);
	const char *steer = find_annotation(owner, template, CFG_ANNOTATION_STEER);

	*ret = (struct cfg_pod){ .request = find_annotation(owner, template, CFG_ANNOTATION_REQUEST) };
	read_container(template, find_annotation(owner, template, CFG_ANNOTATION_CONTAINER), ret);
	cfg_wish_from_spec(template->spec, catalog, &ret->wish);
	ret->steers = steer && !strcmp(steer, "true") && cfg_wish_is_empty(&ret->wish);
	if (cards && !ret->wish.card_count && !ret->wish.size_count)
		cfg_wish_from_names(cards, catalog, &ret->wish);
}
