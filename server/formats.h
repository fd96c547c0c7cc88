/* The formats of an answer and how a client chooses one: ?format= first, then Accept. */
#ifndef SRV_FORMATS_H
#define SRV_FORMATS_H

#include <stdbool.h>
#include <stddef.h>

enum srv_format { SRV_JSON, SRV_CSV, SRV_NDJSON, SRV_RECORDS, SRV_FOR_PEOPLE, SRV_FORMATS };

/* The value of Content-Type. */
const char *srv_format_media_type(enum srv_format format);

/* The format called by length bytes at name ("json", "csv", "ndjson", "records", "table"), letter case ignored. */
bool srv_format_find(const char *name, size_t length, enum srv_format *ret_format);

/* The best format for the value of an Accept header (NULL: any): by q, then by how exactly the range names it, then by
 * the order above. False when the header excludes them all. */
bool srv_format_negotiate(const char *accept, enum srv_format *ret_format);

#endif
