/* The request's fields as data: what each is called, where it lives, its range, default, words and meaning.
 * One flat table; nested names are dotted ("lora.rank"). The JSON reader, the query string of GET, the description
 * (openapi, README) and the assumptions are all loops over these rows. */
#ifndef EST_FIELDS_H
#define EST_FIELDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "estimator/request.h"

enum est_field_kind {
	EST_FIELD_BOOL,     /* bool */
	EST_FIELD_INT,      /* int64_t; with words, those are accepted too ("auto") */
	EST_FIELD_REAL,     /* double */
	EST_FIELD_WORD,     /* an enum: one of words */
	EST_FIELD_WORDS,    /* unsigned: bits of words, a list on the wire */
	EST_FIELD_NAMES,    /* struct est_names: a list of strings; "all-linear" where words say so */
	EST_FIELD_VERSION,  /* int64_t: "2.13" -> 2013 */
	EST_FIELD_CHECKPOINTING, /* gradient_checkpointing: bool, word or object -> checkpointing, selective, every_n_layers */
	EST_FIELD_MODEL,    /* read by config/model: string or object; no offset */
	EST_FIELD_GPUS,     /* read by config/: ids or aliases, one or a list; no offset */
	EST_FIELD_BYTES     /* read by config/: list of byte counts (gpu_memory_bytes); no offset */
};

/* A word of the wire and its value. Aliases are further rows with alias = true; lists end with name NULL. */
struct est_word {
	const char *name;
	int value;
	bool alias;
};

struct est_field {
	const char *name;              /* "parallelism.strategy" */
	enum est_field_kind kind;
	size_t offset;                 /* in struct est_request */
	double min, max;               /* EST_FIELD_INT, EST_FIELD_REAL */
	const struct est_word *words;
	double fallback;               /* value (or word value, or bits) when absent */
	bool required;
	bool by_framework;             /* the default depends on framework, method or model: defaults fill it, fallback is transformers' */
	const char *doc;               /* one sentence, ends with a full stop */
};

extern const struct est_field est_request_fields[];
extern const size_t est_request_field_count; /* at most 128: est_request.named has a bit for each */

/* The row called name, letter case regarded; NULL when there is none. */
const struct est_field *est_field_find(const char *name);

/* The wire's word for value; "" when words has none. */
const char *est_word_name(const struct est_word *words, int value);

/* Whether the client named the field (row of est_request_fields). */
bool est_request_names(const struct est_request *request, const char *name);

#endif
