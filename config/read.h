/* Between the files that read a request: pointers, cards, defaults, assumptions. Only config/ includes it. */
#ifndef CFG_READ_H
#define CFG_READ_H

#include "config/config.h"
#include "estimator/fields.h"

/* One request being read. */
struct cfg_reader {
	const struct cfg_catalog *catalog;
	struct cfg_request *ret;
	struct est_faults *faults;
	size_t size_count; /* of ret->sizes */
	const json_t *files[5]; /* of "from", by cfg_from_formats[]; NULL: absent */
	bool bare;              /* what was assumed is not noted */
};

/* The three steps of cfg_read_request(): an empty request; the members of a body, which is an object, that lies at base,
 * but those that read, an object too or NULL, has; and what follows from them all, to be checked. before: the faults there were at first. False with faults, or when memory
 * is short. */
void cfg_read_begin(struct cfg_request *ret);
void cfg_read_members(struct cfg_reader *reader, const json_t *body, const json_t *read, const char *base);
bool cfg_read_finish(struct cfg_reader *reader, const char *base, size_t before);

/* A value that is present -> the member that field says, by field's kind (values.c). Faults at pointer. */
void cfg_read_value(struct cfg_reader *reader, const struct est_field *field, const json_t *value, const char *pointer);
/* text as the JSON value that field has for it in a query string: numbers, lists, words by its kind. New reference. */
json_t *cfg_text_value(const struct est_field *field, const char *text);
/* The row of words that value spells; NULL when words is NULL, value is no string, or none matches. */
const struct est_word *cfg_word_find(const struct est_word *words, const json_t *value);

/* Appends "/key" to pointer (RFC 6901: '~' and '/' escaped), cut between characters when it is full. */
void cfg_pointer_add(char pointer[EST_POINTER_MAX], const char *key);
/* The same for an index into an array. */
void cfg_pointer_add_index(char pointer[EST_POINTER_MAX], size_t index);

/* Faults every member of the body that is not among known, which ends with NULL and is named in the detail. */
void cfg_check_members(const json_t *body, const char *const known[], struct est_faults *faults);

/* json_loadb() of any JSON value without duplicate keys, made safe against failing allocations: NULL then, and
 * cfg_json_out_of_memory() says so. New reference; ret_error may be NULL. The caller has bounded the text. */
json_t *cfg_json_load(const char *text, size_t length, json_error_t *ret_error);

/* The same object for json_object_foreach(), which takes mutable ones only: it is not changed. */
json_t *cfg_json_iterable(const json_t *object);

/* A number that is a whole one within +-2^53 (4, 4.0, 4e0) -> ret. */
bool cfg_json_whole(const json_t *value, double *ret);

/* The wire's gpus (an id or alias, or a list of them) -> ret->cards, faults at pointer. */
void cfg_read_gpus(const json_t *value, const char *pointer, const struct cfg_catalog *catalog,
		   struct cfg_request *ret, struct est_faults *faults);
/* The wire's gpu_memory_bytes (a list within field's range) -> ret->sizes; how many. */
size_t cfg_read_sizes(const json_t *value, const char *pointer, const struct est_field *field,
		      struct cfg_request *ret, struct est_faults *faults);
/* Puts the sizes behind the cards; without either, every card of the catalogue, led by the one that the peak is told
 * for. Says so in ret->notes. */
void cfg_finish_cards(const struct cfg_catalog *catalog, size_t size_count, struct cfg_request *ret);

/* Why an unnamed field has its value: one text for each row of est_request_fields; NULL: simply the default. */
struct cfg_reasons {
	const char *text[128];
};
/* Fills every field that was not named and whose default depends on the framework, the method, the model or other
 * fields. model may not be NULL. */
void cfg_defaults_apply(struct est_request *request, const struct est_model *model, struct cfg_reasons *ret_reasons);

/* Notes every default that was taken and matters for this request. */
void cfg_note_assumptions(const struct est_request *request, const struct cfg_reasons *reasons,
			  struct est_notes *notes);
/* Warns of every named version that is not the modelled one. */
void cfg_warn_of_versions(const struct est_request *request, struct est_notes *warnings);

#endif
