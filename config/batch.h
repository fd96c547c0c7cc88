/* Many requests in one body: a list of them, or one of which some fields take every value of a list. */
#ifndef CFG_BATCH_H
#define CFG_BATCH_H

#include "config/config.h"

enum { CFG_BATCH_MAX = 10000 };

struct cfg_batch {
	json_t *body;            /* kept */
	const json_t *requests;  /* the list, or NULL; the rest is borrowed from body */
	const json_t *request;   /* the one, or NULL */
	const json_t *sweep;     /* dotted name -> list of values; the last name varies fastest */
	size_t count;
};

/* Checks the envelope {"requests": [...]} or {"request": {...}, "sweep": {...}}, not what is within. Takes a
 * reference of body when there are no faults. */
bool cfg_batch_init(struct cfg_batch *batch, json_t *body, struct est_faults *faults);
void cfg_batch_finish(struct cfg_batch *batch);

/* Request number i of count, and in base the JSON pointer of it for faults: where it stands in the body, "" in a
 * sweep. New reference; NULL when memory is short. */
json_t *cfg_batch_request(const struct cfg_batch *batch, size_t i, char base[EST_POINTER_MAX]);

/* The value that request number i has at a dotted name, as cfg_json_at() would find it there; borrowed. */
const json_t *cfg_batch_value(const struct cfg_batch *batch, size_t i, const char *name);

/* Which rows of est_request_fields any of the requests names: a bool for each. */
void cfg_batch_fields(const struct cfg_batch *batch, bool named[]);

/* The value at a dotted name of object; borrowed, NULL when there is none. */
const json_t *cfg_json_at(const json_t *object, const char *name);
/* Sets the value (borrowed) at a dotted name, making the objects on the way; what is no object there gives way.
 * False when memory is short. */
bool cfg_json_put(json_t *object, const char *name, json_t *value);

#endif
