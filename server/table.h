/* Rows of a struct as columns: one table says what a member is called and what it holds; JSON objects, csv, ndjson and
 * the table for people are loops over it. */
#ifndef SRV_TABLE_H
#define SRV_TABLE_H

#include <stddef.h>
#include "server/buffer.h"
#include "server/formats.h"

enum srv_kind {
	SRV_U64,   /* uint64_t */
	SRV_I64,   /* int64_t */
	SRV_RATIO, /* double, four decimals */
	SRV_BOOL,  /* bool */
	SRV_TEXT,  /* const char *; NULL is null */
	SRV_CHARS  /* char[], NUL-ended */
};

enum { SRV_KEY_ROOM = 40 };

struct srv_column {
	char key[SRV_KEY_ROOM]; /* ,"name": with comma, quotes and colon, ready to be written */
	size_t length;         /* of key */
	enum srv_kind kind;
	size_t offset;         /* in the row's struct */
	bool optional;         /* left out of the object when 0, "" or NULL; an empty cell in csv */
};
#define SRV_COLUMN(name, kind, type, member) { ",\"" name "\":", sizeof(name) + 3, kind, offsetof(type, member), false }
#define SRV_OPTIONAL(name, kind, type, member) { ",\"" name "\":", sizeof(name) + 3, kind, offsetof(type, member), true }

struct srv_table {
	const struct srv_column *columns;
	size_t count;
};
#define SRV_TABLE(columns) { columns, sizeof(columns) / sizeof((columns)[0]) }

/* Appends the members of the object at row, without braces. */
void srv_write_members(struct srv_buffer *buffer, const struct srv_table *table, const void *row);
/* The same in braces. */
void srv_write_object(struct srv_buffer *buffer, const struct srv_table *table, const void *row);

/* What a line of csv is made of: the columns' names, the cells of one row, the cell of a text; without the line's
 * end. */
void srv_write_csv_names(struct srv_buffer *buffer, const struct srv_table *table);
void srv_write_csv_cells(struct srv_buffer *buffer, const struct srv_table *table, const void *row);
void srv_write_csv_text(struct srv_buffer *buffer, const char *text);

/* Appends count rows in a format. json and records: an array of objects; ndjson: an object a line; csv: a header and a
 * line a row; table: aligned columns, what ends in _bytes in GiB. */
void srv_write_rows(struct srv_buffer *buffer, enum srv_format format, const struct srv_table *table,
		    const void *const *rows, size_t count);

#endif
