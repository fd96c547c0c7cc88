/* What-if: a checked request with some of its fields changed, as if the client had named them so. */
#ifndef CFG_VARY_H
#define CFG_VARY_H

#include "config/config.h"
#include "estimator/fields.h"

struct cfg_change {
	const char *name;    /* of a row of est_request_fields */
	double value;        /* as est_field_set() takes it; NAN: as if the client had not named it */
};

/* base with the changes made and every default that follows from them taken anew. False when that is no valid
 * request, or one that is not modelled. */
bool cfg_vary(const struct cfg_request *base, const struct cfg_change *changes, size_t count, struct est_request *ret);

#endif
