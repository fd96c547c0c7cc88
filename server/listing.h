/* A catalogue prepared for being listed: rows with columns, a search text each, and the whole row as JSON for the page
 * of one. Made once at start, read-only afterwards, shared by all threads. */
#ifndef SRV_LISTING_H
#define SRV_LISTING_H

#include <jansson.h>
#include <stdint.h>
#include "server/table.h"

struct srv_listing {
	const char *name;             /* "presets": the key of the list */
	const struct srv_table *table;
	size_t count;
	void *storage;                /* the rows themselves, owned; rows[] points here */
	const void **rows;
	char **search;                /* lower case: id, aliases, names, a line each */
	char **source;                /* the catalogue's row as JSON text */
	uint64_t hash;                /* of all sources: the version of this catalogue */
};

/* Room for count rows of size bytes each, zeroed. False when memory is short; finish it either way. */
bool srv_listing_init(struct srv_listing *listing, const char *name, const struct srv_table *table, size_t count,
		      size_t size);
void srv_listing_finish(struct srv_listing *listing);

/* Row number i, to be filled. */
void *srv_listing_row(struct srv_listing *listing, size_t i, size_t size);

/* Keeps the catalogue's own row i: its JSON, and for searching its strings under keys (NULL-ended; lists of strings
 * too). */
bool srv_listing_keep(struct srv_listing *listing, size_t i, const json_t *source, const char *const *keys);

/* Whether the search text of row i holds every word of text, which is in lower case. "" is in all. */
bool srv_listing_matches(const struct srv_listing *listing, size_t i, const char *text);

/* Appends one row for its own page: its columns and, under "catalog", the catalogue's row. */
void srv_listing_write_one(struct srv_buffer *buffer, const struct srv_listing *listing, size_t i);

#endif
