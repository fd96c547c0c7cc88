/* What is added to a pod: operations of RFC 6902. */
#ifndef CFG_PATCH_H
#define CFG_PATCH_H

#include "config/pod.h"

/* Appends to patch the operation that gives the pod's container, in the object that template is of, so many GPUs as its
 * limit of resource. False when there is nothing to add it to, or it asks for GPUs already. Short memory shows in
 * cfg_json_is_short(). */
bool cfg_patch_gpus(const struct cfg_template *template, const struct cfg_pod *pod, const char *resource, int64_t gpus,
		    json_t *patch);

/* Appends the operations that have the pod require of its node: label key, by operator, values. To each of the terms
 * that it requires already, of which any will do; else to a term of its own. False when nothing was added. */
bool cfg_patch_affinity(const struct cfg_template *template, const char *key, const char *operator,
			const json_t *values, json_t *patch);

#endif
