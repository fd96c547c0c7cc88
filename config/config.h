/* Text to checked structs: requests, query strings, catalogues, settings. Uses jansson and the estimator; knows no
 * HTTP. */
#ifndef CFG_CONFIG_H
#define CFG_CONFIG_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include "estimator/estimator.h"

/* ---- Catalogues (catalog.c): models.json and gpus.json, loaded once, read-only afterwards, shared by all threads. */
struct cfg_catalog;

struct cfg_preset {                 /* one row of models.json */
	const char *id, *hf_id, *family, *released, *verified; /* borrowed from the kept JSON */
	struct est_model model;
	const json_t *row;              /* the whole row, borrowed */
};
struct cfg_card {                   /* one row of gpus.json */
	struct est_gpu gpu;
	const json_t *row;
};

/* Loads and checks directory/models.json and directory/gpus.json. On a fault: NULL, and error (size bytes) names the
 * file, the row and what is wrong with it. The caller destroys the result. */
struct cfg_catalog *cfg_catalog_create(const char *directory, char *error, size_t size);
void cfg_catalog_destroy(struct cfg_catalog *catalog);

/* All rows, in the order of the file. Borrowed. */
const struct cfg_preset *cfg_catalog_presets(const struct cfg_catalog *catalog, size_t *ret_count);
const struct cfg_card *cfg_catalog_cards(const struct cfg_catalog *catalog, size_t *ret_count);

/* By id, alias or Hugging Face id / driver name, without regard to case, dash for blank or underscore. NULL when
 * there is none; with an alias of several rows NULL and *ret_candidates > 1 (ret_candidates may be NULL). */
const struct cfg_preset *cfg_catalog_find_preset(const struct cfg_catalog *catalog, const char *name,
						 size_t *ret_candidates);
const struct cfg_card *cfg_catalog_find_card(const struct cfg_catalog *catalog, const char *name,
					     size_t *ret_candidates);

/* The row that gpu, found in this catalogue, is of; NULL for one that is of none. */
const struct cfg_card *cfg_catalog_card_of(const struct cfg_catalog *catalog, const struct est_gpu *gpu);

/* The id nearest to name by edit distance, when near enough to suggest; else NULL. */
const char *cfg_catalog_suggest_preset(const struct cfg_catalog *catalog, const char *name);
const char *cfg_catalog_suggest_card(const struct cfg_catalog *catalog, const char *name);

/* ---- Model shapes (hf_config.c, custom.c, resolve.c). pointer is the JSON pointer of object, for faults. */

/* A Hugging Face config.json (or a preset's "config") -> shape. Unknown keys are allowed. A model_type that is known
 * but not modelled is no fault: its unsupported says why, and its parameters are 0. */
bool cfg_model_from_hf_config(const json_t *object, const char *pointer, struct est_model *ret_model,
			      struct est_faults *faults);
/* {"parameters": 8e9 or "8B", "hidden_size"?, ...} -> shape; what is absent is inferred and stated in notes. */
bool cfg_model_from_parameters(const json_t *object, const char *pointer, struct est_model *ret_model,
			       struct est_notes *notes, struct est_faults *faults);
/* The wire's "model": string or object of either kind. */
bool cfg_read_model(const json_t *value, const char *pointer, const struct cfg_catalog *catalog,
		    struct est_model *ret_model, struct est_notes *notes, struct est_faults *faults);

/* ---- Requests (read.c, query.c). A checked request and what it judges. */
enum { CFG_CARDS_MAX = 512, CFG_SIZES_MAX = 64 };
/* Pointers of values in "from" that were not used: total of them, the first count in text, each ended by NUL. */
struct cfg_ignored {
	bool listed;                                  /* there is a file */
	size_t total, count, used;
	char text[16384];
};

struct cfg_request {
	struct est_request request;
	struct est_model model;
	struct est_notes notes;                       /* assumptions made while reading */
	struct est_notes warnings;                    /* what was read and is not modelled as it stands: other versions */
	struct cfg_ignored ignored;
	size_t card_count;                            /* at least 1 */
	const struct est_gpu *cards[CFG_CARDS_MAX];   /* in the order of the request; all of the catalogue when none is named,
							 then led by h100-sxm5-80gb (an assumption) */
	const char *card_words[CFG_CARDS_MAX];        /* what the client called them, borrowed from its JSON; NULL:
						       * they have no name */
	bool cards_named;
	struct est_gpu sizes[CFG_SIZES_MAX];          /* cards made of gpu_memory_bytes; cards[] points here for those */
	char size_id[CFG_SIZES_MAX][32];
};

/* A JSON object -> request, field by field, then est_check(). All faults at once. Whether there were none (false
 * without any when memory was short). base is the JSON pointer of body ("" for a whole body, "/requests/3" in a
 * batch). */
bool cfg_read_request(const json_t *body, const char *base, const struct cfg_catalog *catalog, struct cfg_request *ret,
		      struct est_faults *faults);

/* The same without notes and warnings, for who does not tell them. */
bool cfg_read_run(const json_t *body, const char *base, const struct cfg_catalog *catalog, struct cfg_request *ret,
		  struct est_faults *faults);

/* JSON to bytes that are the same for all texts which differ in the order of members, in blanks and escapes, and for no
 * others. Returns how many of the room at to; 0 when it does not suffice. value nests no deeper than cfg_parse_json()
 * takes. */
size_t cfg_json_spell(const json_t *value, void *to, size_t room);

/* A query string (after '?', still percent-encoded) -> the same JSON object that POST would carry: nested names
 * dotted, lists repeated or comma separated, numbers from text by the field's kind. New reference; NULL with faults.
 * Keys in skip (NULL-ended: "format") are left out. */
json_t *cfg_query_to_json(const char *query, const char *const *skip, struct est_faults *faults);

/* The fields of a query string beside a body: puts them into the body's object (one that is none stays). A field
 * that stands in both is a fault. False with faults, or when memory is short. */
bool cfg_query_into(const char *query, const char *const *skip, json_t *body, struct est_faults *faults);

/* Parses JSON text as the wire wants it: nesting <= 32, values <= 131072, no duplicate keys. NULL when it is not:
 * reason (size bytes) says why with line and column in our words. *ret_no_memory tells a failed allocation (503)
 * from bad text (400). */
json_t *cfg_parse_json(const char *text, size_t length, char *reason, size_t size, bool *ret_no_memory);

/* Makes jansson allocate through us, so that a failed allocation is noticed; call once, before any thread. */
void cfg_json_init(void);
/* Whether an allocation of this thread's jansson failed since the last call; resets it. */
bool cfg_json_out_of_memory(void);
/* The same without the reset: what jansson made since is not to be trusted, it leaves out what it has no memory for. */
bool cfg_json_is_short(void);

/* ---- Near misses (suggest.c). */

/* Letters to insert, delete, change or swap with their neighbour to make b of a, without regard to case. */
size_t cfg_edit_distance(const char *a, const char *b);

/* Finds the candidate that name was meant to be: init with name, offer every candidate, read nearest (the first of the
 * nearest, borrowed; NULL when every one differs in a third of name's letters or more). */
struct cfg_suggestion {
	const char *name, *nearest;
	size_t distance;
};
void cfg_suggestion_init(struct cfg_suggestion *suggestion, const char *name);
void cfg_suggestion_offer(struct cfg_suggestion *suggestion, const char *candidate);

/* ---- Settings (settings.c): the command line. */
enum { CFG_LISTEN_MAX = 16, CFG_ORIGINS_MAX = 16, CFG_GPUS_MAX = 64 };
enum cfg_action { CFG_SERVE, CFG_ESTIMATE, CFG_CHECK, CFG_HEALTHCHECK, CFG_VERSION, CFG_HELP };
struct cfg_settings {
	enum cfg_action action;
	int listen_count;
	const char *listen[CFG_LISTEN_MAX];   /* "127.0.0.1:8080", "[::1]:0" */
	int threads;                          /* 0: one per core */
	size_t max_body;
	int max_connections;
	const char *catalog_directory;        /* NULL: the installed or source one */
	int origin_count;
	const char *cors_origin[CFG_ORIGINS_MAX];
	const char *token_file;               /* of bearer tokens, one of which is needed; NULL: none is */
	bool log_json;
	const char *healthcheck_url;
	const char *file;                     /* CFG_ESTIMATE: of the request; NULL or "-": standard input */
	const char *format;                   /* CFG_ESTIMATE: of the answer; NULL: json */
	int gpu_count;
	const char *gpu[CFG_GPUS_MAX];        /* CFG_ESTIMATE: in place of the request's own */
};
/* argv -> settings: options, or "estimate" with its own. False with one clear line in error; the program then exits
 * with 2. Strings are borrowed from argv. */
bool cfg_settings_read(int argc, char **argv, struct cfg_settings *ret, char *error, size_t size);
/* The directory of the catalogues: the one that was named, else the installed one where it exists, else the
 * source's. */
const char *cfg_settings_catalog(const struct cfg_settings *settings);
/* The text of --help. Static. */
const char *cfg_settings_help(void);

#endif
