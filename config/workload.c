#include "config/workload.h"
#include <stdio.h>
#include <string.h>
#include "config/read.h"

enum {
	KEYS_MAX = 6,
	PODS_MAX = 1 << 20 /* as many as a run has GPUs */
};

struct kind {
	const char *group, *name;            /* of apiVersion, without the version; "" is the core's */
	const char *list;                    /* member of spec with several, in an array or by name; NULL: there is one */
	const char *keys[KEYS_MAX];          /* from there to the template */
	int64_t (*pods)(const json_t *from); /* of what the keys start at; NULL: each is a run of its own */
};

/* ---- how many pods are one run */

static int64_t whole_of(const json_t *object, const char *key, int64_t fallback)
{
	const json_t *value = json_object_get(object, key);
	json_int_t number = json_is_integer(value) ? json_integer_value(value) : fallback;

	return number < 0 ? 0 : number > PODS_MAX ? PODS_MAX : number;
}

static int64_t pods_of_job_spec(const json_t *spec)
{
	const char *mode = json_string_value(json_object_get(spec, "completionMode"));

	return mode && !strcmp(mode, "Indexed") ? whole_of(spec, "parallelism", 1) : 1;
}

static int64_t pods_of_job(const json_t *object)
{
	return pods_of_job_spec(json_object_get(object, "spec"));
}

static int64_t pods_of_cron_job(const json_t *object)
{
	const json_t *template = json_object_get(json_object_get(object, "spec"), "jobTemplate");

	return pods_of_job_spec(json_object_get(template, "spec"));
}

static int64_t pods_of_replicas(const json_t *item)
{
	return whole_of(item, "replicas", 1);
}

/* Each of a JobSet's replicated jobs is as many jobs, all of one run. */
static int64_t pods_of_replicated_job(const json_t *item)
{
	const json_t *spec = json_object_get(json_object_get(item, "template"), "spec");

	return pods_of_replicas(item) * whole_of(spec, "parallelism", 1);
}

/* clang-format off */
static const struct kind kinds[] = {
	{ "", "Pod", NULL, { NULL }, NULL },
	{ "apps", "DaemonSet", NULL, { "spec", "template" }, NULL },
	{ "apps", "Deployment", NULL, { "spec", "template" }, NULL },
	{ "apps", "ReplicaSet", NULL, { "spec", "template" }, NULL },
	{ "apps", "StatefulSet", NULL, { "spec", "template" }, NULL },
	{ "batch", "CronJob", NULL, { "spec", "jobTemplate", "spec", "template" }, pods_of_cron_job },
	{ "batch", "Job", NULL, { "spec", "template" }, pods_of_job },
	{ "batch.volcano.sh", "Job", "tasks", { "template" }, pods_of_replicas },
	{ "jobset.x-k8s.io", "JobSet", "replicatedJobs", { "template", "spec", "template" }, pods_of_replicated_job },
	{ "kubeflow.org", "PyTorchJob", "pytorchReplicaSpecs", { "template" }, pods_of_replicas },
};
/* clang-format on */

static const struct kind *find_kind(const json_t *object)
{
	const char *version = json_string_value(json_object_get(object, "apiVersion"));
	const char *name = json_string_value(json_object_get(object, "kind"));
	const char *slash = version ? strrchr(version, '/') : NULL;
	size_t length = slash ? (size_t)(slash - version) : 0;

	for (size_t i = 0; version && name && i < sizeof kinds / sizeof kinds[0]; i++)
		if (!strcmp(kinds[i].name, name) && strlen(kinds[i].group) == length
		    && !strncmp(kinds[i].group, version, length))
			return &kinds[i];
	return NULL;
}

/* ---- down to the templates */

/* Fills the rest of ret, whose pointer leads to from. */
static bool read_template(const struct kind *kind, const json_t *from, struct cfg_template *ret)
{
	const json_t *at = from;

	for (int i = 0; i < KEYS_MAX && kind->keys[i]; i++) {
		at = json_object_get(at, kind->keys[i]);
		cfg_pointer_add(ret->pointer, kind->keys[i]);
	}
	ret->metadata = json_object_get(at, "metadata");
	ret->spec = json_object_get(at, "spec");
	ret->pods = kind->pods ? kind->pods(from) : 1;
	return json_is_object(ret->spec);
}

static size_t read_array(const struct kind *kind, const json_t *list, const char *pointer, struct cfg_template *ret)
{
	size_t count = 0;

	for (size_t i = 0; i < json_array_size(list) && count < CFG_TEMPLATES_MAX; i++) {
		const json_t *item = json_array_get(list, i);
		const char *name = json_string_value(json_object_get(item, "name"));
		struct cfg_template *template = &ret[count];

		snprintf(template->pointer, sizeof template->pointer, "%s", pointer);
		cfg_pointer_add_index(template->pointer, i);
		snprintf(template->name, sizeof template->name, "%s", name ? name : "");
		count += read_template(kind, item, template);
	}
	return count;
}

static size_t read_members(const struct kind *kind, const json_t *list, const char *pointer, struct cfg_template *ret)
{
	const char *key;
	json_t *item;
	size_t count = 0;

	json_object_foreach(cfg_json_iterable(list), key, item) {
		struct cfg_template *template = &ret[count];

		if (count == CFG_TEMPLATES_MAX)
			break;
		snprintf(template->pointer, sizeof template->pointer, "%s", pointer);
		cfg_pointer_add(template->pointer, key);
		snprintf(template->name, sizeof template->name, "%.*s", CFG_TEMPLATE_NAME_MAX - 1, key);
		count += read_template(kind, item, template);
	}
	return count;
}

size_t cfg_workload_templates(const json_t *object, struct cfg_template ret[CFG_TEMPLATES_MAX])
{
	const struct kind *kind = find_kind(object);
	char pointer[EST_POINTER_MAX] = "";
	const json_t *list;

	if (!kind)
		return 0;
	if (!kind->list) {
		ret->pointer[0] = ret->name[0] = '\0';
		return read_template(kind, object, ret);
	}
	list = json_object_get(json_object_get(object, "spec"), kind->list);
	cfg_pointer_add(pointer, "spec");
	cfg_pointer_add(pointer, kind->list);
	return json_is_array(list) ? read_array(kind, list, pointer, ret) : read_members(kind, list, pointer, ret);
}

bool cfg_workload_pod(const json_t *pod, struct cfg_template *ret)
{
	ret->pointer[0] = ret->name[0] = '\0';
	return read_template(&kinds[0], pod, ret);
}
