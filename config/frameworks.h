/* What trainers do when nothing is said, where it differs from the default in the field's own row (Transformers'). */
#ifndef CFG_FRAMEWORKS_H
#define CFG_FRAMEWORKS_H

#include <stddef.h>
#include "estimator/request.h"

/* A default of a trainer. value is the field's as est_field_set() takes it; source says where it is written. */
struct cfg_default {
	const char *field;
	double value;
	unsigned methods; /* bits of enum est_method */
	const char *source;
	const char *names; /* of a list of names: with blanks between */
};

enum { CFG_FRAMEWORK_DEFAULTS = 16 };
/* A trainer: its defaults, up to the first that has no field. */
struct cfg_framework {
	struct cfg_default defaults[CFG_FRAMEWORK_DEFAULTS];
};

/* One row a framework, by enum est_framework. */
extern const struct cfg_framework cfg_frameworks[];
extern const size_t cfg_framework_count;

#endif
