/* The requests of a sweep, of which all but a few fields are the same: what they have in common is read once. */
#ifndef CFG_SWEEP_H
#define CFG_SWEEP_H

#include "config/batch.h"

struct cfg_sweep { /* read-only once it is made: threads share it */
	const struct cfg_batch *batch;
	const struct cfg_catalog *catalog;
	json_t *rest;                /* the request without the fields that vary; what is common borrows from it */
	size_t size_count;
	struct cfg_request common;   /* of which nothing is concluded yet */
};

/* On the heap; NULL when memory is short, batch is no sweep, or one of which every request has to be read as a whole:
 * because of faults, of files, or of what varies. Borrows batch and catalog. destroy takes NULL. */
struct cfg_sweep *cfg_sweep_create(const struct cfg_batch *batch, const struct cfg_catalog *catalog);
void cfg_sweep_destroy(struct cfg_sweep *sweep);

/* Request number i as cfg_read_request() would read it, or cfg_read_run() if bare. False where that one has to be read as a
 * whole: faults are told otherwise there; they are left as they were. */
bool cfg_sweep_read(const struct cfg_sweep *sweep, size_t i, bool bare, struct cfg_request *ret, struct est_faults *faults);

#endif
