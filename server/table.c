#include "server/table.h"
#include <assert.h>
#include <stdint.h>
#include "server/write.h"

enum { COLUMNS_MAX = 32, CELL_GAP = 2 };

struct value {
	enum srv_kind kind;
	bool empty; /* 0, false, "" or NULL */
	union {
		uint64_t number;
		int64_t whole;
		double ratio;
		const char *text;
	};
};

static inline struct value column_value(const struct srv_column *column, const void *row)
{
	const char *at = (const char *)row + column->offset;
	struct value value = { .kind = column->kind };

	switch (column->kind) {
	case SRV_U64:
		memcpy(&value.number, at, sizeof value.number);
		value.empty = !value.number;
		break;
	case SRV_I64:
		memcpy(&value.whole, at, sizeof value.whole);
		value.empty = !value.whole;
		break;
	case SRV_RATIO:
		memcpy(&value.ratio, at, sizeof value.ratio);
		break;
	case SRV_BOOL:
		value.number = *(const bool *)at;
		value.empty = !value.number;
		break;
	case SRV_TEXT:
		memcpy(&value.text, at, sizeof value.text);
		value.empty = !value.text || !*value.text;
		break;
	case SRV_CHARS:
		value.text = at;
		value.empty = !*at;
		break;
	}
	return value;
}

static void write_number(struct srv_buffer *buffer, const struct value *value)
{
	if (value->kind == SRV_U64)
		srv_write_u64(buffer, value->number);
	else if (value->kind == SRV_I64)
		srv_write_i64(buffer, value->whole);
	else if (value->kind == SRV_RATIO)
		srv_write_fixed(buffer, value->ratio, 4);
	else
		srv_write_bool(buffer, value->number != 0);
}

static bool is_text(const struct value *value)
{
	return value->kind == SRV_TEXT || value->kind == SRV_CHARS;
}

static void write_member(struct srv_buffer *buffer, const struct srv_column *column, const struct value *value)
{
	srv_buffer_add(buffer, column->key, column->length);
	if (!is_text(value))
		write_number(buffer, value);
	else if (value->text)
		srv_write_string(buffer, value->text);
	else
		SRV_PUT(buffer, "null");
}

void srv_write_members(struct srv_buffer *buffer, const struct srv_table *table, const void *row)
{
	bool first = true;

	for (size_t i = 0; i < table->count; i++) {
		const struct srv_column *column = &table->columns[i];
		const struct value value = column_value(column, row);

		if (column->optional && value.empty)
			continue;
		if (!first)
			srv_buffer_add_byte(buffer, ',');
		first = false;
		write_member(buffer, column, &value);
	}
}

void srv_write_object(struct srv_buffer *buffer, const struct srv_table *table, const void *row)
{
	srv_buffer_add_byte(buffer, '{');
	srv_write_members(buffer, table, row);
	srv_buffer_add_byte(buffer, '}');
}

/* ---- csv (RFC 4180's quoting, lines end with LF) */

void srv_write_csv_text(struct srv_buffer *buffer, const char *text)
{
	if (!text[strcspn(text, ",\"\r\n")]) {
		srv_write_text(buffer, text);
		return;
	}
	srv_buffer_add_byte(buffer, '"');
	for (; *text; text++) {
		if (*text == '"')
			srv_buffer_add_byte(buffer, '"');
		srv_buffer_add_byte(buffer, *text);
	}
	srv_buffer_add_byte(buffer, '"');
}

void srv_write_csv_cells(struct srv_buffer *buffer, const struct srv_table *table, const void *row)
{
	for (size_t i = 0; i < table->count; i++) {
		struct value value = column_value(&table->columns[i], row);

		if (i)
			srv_buffer_add_byte(buffer, ',');
		if (value.empty && (table->columns[i].optional || is_text(&value)))
			continue;
		if (is_text(&value))
			srv_write_csv_text(buffer, value.text);
		else
			write_number(buffer, &value);
	}
}

void srv_write_csv_names(struct srv_buffer *buffer, const struct srv_table *table)
{
	for (size_t i = 0; i < table->count; i++) {
		if (i)
			srv_buffer_add_byte(buffer, ',');
		srv_buffer_add(buffer, table->columns[i].key + 1, table->columns[i].length - 3);
	}
}

static void write_csv(struct srv_buffer *buffer, const struct srv_table *table, const void *const *rows, size_t count)
{
	srv_write_csv_names(buffer, table);
	srv_buffer_add_byte(buffer, '\n');
	for (size_t i = 0; i < count; i++) {
		srv_write_csv_cells(buffer, table, rows[i]);
		srv_buffer_add_byte(buffer, '\n');
	}
}

/* ---- table for people */

static const char bytes_suffix[] = "_bytes";

static bool is_bytes(const struct srv_column *column)
{
	size_t suffix = sizeof bytes_suffix - 1, length = column->length - 3;

	return length > suffix && !memcmp(column->key + 1 + length - suffix, bytes_suffix, suffix);
}

static void write_heading(struct srv_buffer *buffer, const struct srv_column *column)
{
	size_t length = column->length - 3;

	if (!is_bytes(column)) {
		srv_buffer_add(buffer, column->key + 1, length);
		return;
	}
	srv_buffer_add(buffer, column->key + 1, length - (sizeof bytes_suffix - 1));
	SRV_PUT(buffer, " GiB");
}

static void write_cell(struct srv_buffer *buffer, const struct srv_column *column, const void *row)
{
	struct value value = column_value(column, row);
	double bytes = value.kind == SRV_I64 ? (double)value.whole : value.kind == SRV_U64 ? (double)value.number : 0;

	if (value.empty && (column->optional || is_text(&value)))
		srv_buffer_add_byte(buffer, '-');
	else if (is_text(&value))
		srv_write_text(buffer, value.text);
	else if (is_bytes(column))
		srv_write_fixed(buffer, bytes / (1024.0 * 1024 * 1024), 1);
	else
		write_number(buffer, &value);
}

/* Code points in the bytes of UTF-8 from start on. */
static size_t display_width(const struct srv_buffer *buffer, size_t start)
{
	size_t width = 0;

	for (size_t i = start; i < buffer->length; i++)
		width += ((unsigned char)buffer->data[i] & 0xc0) != 0x80;
	return width;
}

/* Whether every row leaves an optional column empty: people need not see it. */
static bool is_bare(const struct srv_column *column, const void *const *rows, size_t count)
{
	bool bare = column->optional && count;

	for (size_t i = 0; i < count && bare; i++)
		bare = column_value(column, rows[i]).empty;
	return bare;
}

/* Width of every column: the heading's or the widest cell's, 0 for a bare one. The cells are written behind the
 * buffer's end and dropped. */
static void measure(struct srv_buffer *buffer, const struct srv_table *table, const void *const *rows, size_t count,
		    size_t *ret_widths)
{
	size_t start = buffer->length;

	for (size_t i = 0; i < table->count; i++) {
		if (is_bare(&table->columns[i], rows, count))
			continue;
		write_heading(buffer, &table->columns[i]);
		ret_widths[i] = display_width(buffer, start);
		buffer->length = start;
		for (size_t j = 0; j < count; j++) {
			size_t width;

			write_cell(buffer, &table->columns[i], rows[j]);
			width = display_width(buffer, start);
			ret_widths[i] = width > ret_widths[i] ? width : ret_widths[i];
			buffer->length = start;
		}
	}
}

static void pad(struct srv_buffer *buffer, size_t count)
{
	while (count--)
		srv_buffer_add_byte(buffer, ' ');
}

/* The heading (row NULL) or the row in one column: text to the left, numbers to the right. */
static void write_padded(struct srv_buffer *buffer, const struct srv_column *column, const void *row, size_t width)
{
	bool left = column->kind == SRV_TEXT || column->kind == SRV_CHARS || column->kind == SRV_BOOL;
	size_t start = buffer->length, length, gap;

	if (row)
		write_cell(buffer, column, row);
	else
		write_heading(buffer, column);
	length = buffer->length - start;
	gap = width - display_width(buffer, start);
	pad(buffer, gap);
	if (left || buffer->failed)
		return;
	memmove(buffer->data + start + gap, buffer->data + start, length);
	memset(buffer->data + start, ' ', gap);
}

static void write_line(struct srv_buffer *buffer, const struct srv_table *table, const void *row, const size_t *widths)
{
	size_t start = buffer->length;

	for (size_t i = 0; i < table->count && !buffer->failed; i++) {
		if (!widths[i])
			continue;
		if (buffer->length > start)
			pad(buffer, CELL_GAP);
		write_padded(buffer, &table->columns[i], row, widths[i]);
	}
	while (!buffer->failed && buffer->length > start && buffer->data[buffer->length - 1] == ' ')
		buffer->length--;
	srv_buffer_add_byte(buffer, '\n');
}

static void write_table(struct srv_buffer *buffer, const struct srv_table *table, const void *const *rows, size_t count)
{
	size_t widths[COLUMNS_MAX] = { 0 };

	assert(table->count <= COLUMNS_MAX);
	measure(buffer, table, rows, count, widths);
	write_line(buffer, table, NULL, widths);
	for (size_t i = 0; i < count && !buffer->failed; i++)
		write_line(buffer, table, rows[i], widths);
}

/* ---- json, records, ndjson */

static void write_json(struct srv_buffer *buffer, const struct srv_table *table, const void *const *rows, size_t count)
{
	srv_buffer_add_byte(buffer, '[');
	for (size_t i = 0; i < count; i++) {
		if (i)
			srv_buffer_add_byte(buffer, ',');
		srv_write_object(buffer, table, rows[i]);
	}
	srv_buffer_add_byte(buffer, ']');
}

static void write_ndjson(struct srv_buffer *buffer, const struct srv_table *table, const void *const *rows,
			 size_t count)
{
	for (size_t i = 0; i < count; i++) {
		srv_write_object(buffer, table, rows[i]);
		srv_buffer_add_byte(buffer, '\n');
	}
}

void srv_write_rows(struct srv_buffer *buffer, enum srv_format format, const struct srv_table *table,
		    const void *const *rows, size_t count)
{
	static void (*const writers[SRV_FORMATS])(struct srv_buffer *, const struct srv_table *, const void *const *,
						  size_t) = {
		[SRV_JSON] = write_json, [SRV_RECORDS] = write_json, [SRV_NDJSON] = write_ndjson,
		[SRV_CSV] = write_csv, [SRV_FOR_PEOPLE] = write_table,
	};

	writers[format](buffer, table, rows, count);
}
