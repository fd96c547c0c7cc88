/* Kubernetes objects as far as they describe pods: a pod itself, and the kinds that make pods of templates. */
#ifndef CFG_WORKLOAD_H
#define CFG_WORKLOAD_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "estimator/fault.h"

enum { CFG_TEMPLATES_MAX = 16, CFG_TEMPLATE_NAME_MAX = 64 };

/* A pod or the template of pods within an object, from which everything is borrowed. */
struct cfg_template {
	char pointer[EST_POINTER_MAX];       /* of it within the object: "" of a pod, "/spec/template" of a Job */
	char name[CFG_TEMPLATE_NAME_MAX];    /* of one among several: "Worker"; else "" */
	const json_t *metadata, *spec;       /* objects */
	int64_t pods;                        /* of it that are one run together; 1 where each is a run of its own */
};

/* The templates of object by its apiVersion and kind, those that are objects, CFG_TEMPLATES_MAX at most; how many.
 * None of a kind that is not known. An Indexed Job's pods are one run, so are those of a JobSet, of a PyTorchJob and
 * of a Volcano Job. */
size_t cfg_workload_templates(const json_t *object, struct cfg_template ret[CFG_TEMPLATES_MAX]);

/* A pod whose kind is known without its saying so. False when it is none: no object with a spec. */
bool cfg_workload_pod(const json_t *pod, struct cfg_template *ret);

#endif
