/* What the requests of a batch have in common, read once: of a sweep all but the fields that vary, of a list the members
 * that all requests have alike. */
#ifndef CFG_COMMON_H
#define CFG_COMMON_H

#include "config/batch.h"

struct cfg_common { /* read-only once it is made: threads share it */
	const struct cfg_batch *batch;
	const struct cfg_catalog *catalog;
	json_t *rest;                /* the members in common; what is read borrows from it */
	size_t size_count;
	struct cfg_request request;  /* those members, of which nothing is concluded yet */
};

/* On the heap; NULL when memory is short, or where every request has to be read as a whole: because of faults, of files, of
 * what varies, or because nothing is common. Borrows batch and catalog. destroy takes NULL. */
struct cfg_common *cfg_common_create(const struct cfg_batch *batch, const struct cfg_catalog *catalog);
void cfg_common_destroy(struct cfg_common *common);

/* Request number i as cfg_read_request() would read it, or cfg_read_run() if bare. False where that one has to be read as a
 * whole: faults are told otherwise there; they are left as they were. */
bool cfg_common_read(const struct cfg_common *common, size_t i, bool bare, struct cfg_request *ret, struct est_faults *faults);

#endif
