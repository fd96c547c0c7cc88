/* The request's fields as data: what each is called, where it lives, its range, default, words and meaning.
 * One flat table; nested names are dotted ("lora.rank"). The JSON reader, the query string of GET, the description
 * (openapi, README) and the assumptions are all loops over these rows. */
#ifndef EST_FIELDS_H
#define EST_FIELDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "estimator/fault.h"
#include "estimator/request.h"
#include "estimator/words.h"

enum est_field_kind {
	EST_FIELD_BOOL,     /* bool */
	EST_FIELD_INT,      /* int64_t; with words, those are accepted too ("auto") */
	EST_FIELD_REAL,     /* double */
	EST_FIELD_WORD,     /* an enum: one of words */
	EST_FIELD_WORDS,    /* unsigned: bits of words, a list on the wire */
	EST_FIELD_NAMES,    /* struct est_names: a list of strings; "all-linear" where words say so */
	EST_FIELD_VERSION,  /* int64_t: "2.13" -> 2013 */
	EST_FIELD_CHECKPOINTING, /* bool, word or object -> checkpointing, selective, every_n_layers */
	EST_FIELD_MODEL,    /* read by config/model: string or object; no offset */
	EST_FIELD_GPUS,     /* read by config/: ids or aliases, one or a list; no offset */
	EST_FIELD_BYTES,    /* read by config/: list of byte counts (gpu_memory_bytes); no offset */
	EST_FIELD_FILE      /* read by config/: a trainer's own file, as an object; no offset */
};

/* When a field's value matters; est_field_applies() decides, by the rest of the request. */
enum est_when {
	EST_ALWAYS, EST_NEVER_ASSUMED, /* says how to answer, not what is run */
	EST_WITH_ADAPTERS, EST_WITH_QLORA, EST_WITH_TORCH_QLORA, EST_WITH_INT8, EST_WITH_LAYERS, EST_WITH_PROJECTION, EST_WITH_MEGATRON, EST_WITH_REFERENCE,
	EST_WITH_GRPO,
	EST_WITH_DECODER, EST_WITH_CHECKPOINTS, EST_WITH_LOSS_BY_LABEL, EST_WITH_GPUS, EST_WITH_TENSOR,
	EST_WITH_PIPELINE, EST_WITH_CONTEXT, EST_WITH_DDP,
	EST_WITH_HSDP, EST_WITH_FSDP, EST_WITH_FSDP1, EST_WITH_ZERO, EST_WITH_ZERO12, EST_WITH_ZERO3
};

struct est_field {
	const char *name;              /* "parallelism.strategy" */
	const char *pointer;           /* "/parallelism/strategy" */
	enum est_field_kind kind;
	size_t offset;                 /* in struct est_request */
	double min, max;               /* EST_FIELD_INT, _REAL, _BYTES (each item); max may be infinite */
	double step;                   /* EST_FIELD_INT: only min, min + step, ...; 0 is 1 */
	const struct est_word *words;
	double fallback;               /* value (or word value, or bits) when absent */
	bool required;
	enum est_when when;
	bool answers;                  /* says how to answer: what is run does not depend on it */
	bool by_framework;             /* the default depends on other fields; fallback is transformers' */
	const char *doc;               /* one sentence, ends with a full stop */
};

extern const struct est_field est_request_fields[];
extern const size_t est_request_field_count; /* at most 128: est_request.named has a bit for each */

/* The row called name (letter case counts); NULL when there is none. */
const struct est_field *est_field_find(const char *name);

/* Whether the client named the field (row of est_request_fields). */
bool est_request_names(const struct est_request *request, const char *name);

/* Marks the row as named by the client. */
void est_request_name(struct est_request *request, const struct est_field *field);
static inline bool est_field_is_named(const struct est_field *field, const struct est_request *request)
{
	size_t i = (size_t)(field - est_request_fields);

	return request->named[i / 64] >> i % 64 & 1;
}

/* The first row from number *at on that the client named, whose successor *at becomes; NULL when there is none. */
const struct est_field *est_next_named(const struct est_request *request, size_t *at);

/* Makes the row one that the client did not name, at its fallback. */
void est_request_forget(struct est_request *request, const struct est_field *field);

/* Every field at its fallback, none named. Names lists are empty, target_modules is all-linear. */
void est_request_init(struct est_request *ret_request);

/* A field as a number, and back: bool 0 or 1, a word its value, words their bits, checkpointing its enum, names
 * whether all. Not for the kinds without offset. Integers up to 2^53 are exact. */
double est_field_get(const struct est_field *field, const struct est_request *request);
void est_field_set(const struct est_field *field, struct est_request *request, double value);

/* Whether the field's value matters for the rest of the request: lora.rank does with a LoRA method. Where naming it
 * without that is a contradiction, *ret_only says with what it goes ("method lora or qlora"); else NULL. ret_only may
 * be NULL. */
bool est_field_applies(const struct est_field *field, const struct est_request *request, const char **ret_only);

/* Adds that the value of the field called name is not supported yet: the value, why (a format, "is not modelled yet
 * with ..."), and, where the client did not name it, how to get past the default. */
void est_field_refuse(const char *name, const struct est_request *request, struct est_faults *faults, const char *why,
		      ...)
	__attribute__((format(printf, 4, 5)));

/* A table of what does not go with something: each row refused whose value the request has. */
struct est_refusal {
	const char *field;
	bool refused;
};
/* est_field_refuse() of those rows: they are not modelled yet with what. */
void est_refuse_with(const char *what, const struct est_refusal rows[], size_t count, const struct est_request *request,
		     struct est_faults *faults);
/* The same of what makes a step another than a language model's plain one: objectives, heads and losses of other kinds,
 * Liger's kernels, a compiled model, an optimizer in the backward. */
void est_refuse_other_steps(const char *what, const struct est_request *request, struct est_faults *faults);

/* A field's value as text, as it would stand in a query string, into text (size bytes, cut when short). Returns text;
 * "" for the kinds without offset. */
const char *est_field_text(const struct est_field *field, const struct est_request *request, char *text, size_t size);

#endif
