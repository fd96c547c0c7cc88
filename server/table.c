#include "server/table.h"
#include <assert.h>
#include <stdint.h>
#include "server/write.h"

enum { COLUMNS_MAX = 32, CELL_GAP = 2 };

static inline uint64_t number_at(const char *at)
{
	uint64_t number;

	memcpy(&number, at, sizeof number);
	return number;
}

static inline bool is_text(const struct srv_column *column)
{
	return column->kind == SRV_TEXT || column->kind == SRV_CHARS;
}

static inline const char *text_at(const struct srv_column *column, const char *at)
{
	const char *text = at;

	if (column->kind == SRV_TEXT)
		memcpy(&text, at, sizeof text);
	return text;
}

/* 0, false, "" or NULL. */
static bool is_empty(const struct srv_column *column, const char *at)
{
	const char *text;

	switch (column->kind) {
	case SRV_U64:
	case SRV_I64:
		return !number_at(at);
	case SRV_RATIO:
		return false;
	case SRV_BOOL:
		return !*(const bool *)at;
	default:
		text = text_at(column, at);
		return !text || !*text;
	}
}

static inline const char *place(const struct srv_column *column, const void *row)
{
	return (const char *)row + column->offset;
}

static inline void write_number(struct srv_buffer *buffer, const struct srv_column *column, const char *at)
{
	double ratio;

	switch (column->kind) {
	case SRV_U64:
		srv_write_u64(buffer, number_at(at));
		break;
	case SRV_I64:
		srv_write_i64(buffer, (int64_t)number_at(at));
		break;
	case SRV_RATIO:
		memcpy(&ratio, at, sizeof ratio);
		srv_write_fixed(buffer, ratio, 4);
		break;
	default:
		srv_write_bool(buffer, *(const bool *)at);
		break;
	}
}

/* The key, without its comma where it is the first. All of the array is copied: that many bytes take no call. */
static inline void add_key(struct srv_buffer *buffer, const struct srv_column *column, bool first)
{
	if (buffer->capacity - buffer->length < SRV_KEY_ROOM && !srv_buffer_reserve(buffer, SRV_KEY_ROOM))
		return;
	memcpy(buffer->data + buffer->length, column->key + first, SRV_KEY_ROOM - 1);
	buffer->length += column->length - first;
}

static inline void write_value(struct srv_buffer *buffer, const struct srv_column *column, const char *at)
{
	const char *text;

	if (!is_text(column)) {
		write_number(buffer, column, at);
		return;
	}
	text = text_at(column, at);
	if (text)
		srv_write_string(buffer, text);
	else
		SRV_PUT(buffer, "null");
}

void srv_write_members(struct srv_buffer *buffer, const struct srv_table *table, const void *row)
{
	bool first = true;

	for (size_t i = 0; i < table->count; i++) {
		const struct srv_column *column = &table->columns[i];
		const char *at = place(column, row);

		if (column->optional && is_empty(column, at))
			continue;
		add_key(buffer, column, first);
		write_value(buffer, column, at);
		first = false;
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

/* A number that is not optional is shown when it is 0. */
static bool shows_nothing(const struct srv_column *column, const char *at)
{
	return (column->optional || is_text(column)) && is_empty(column, at);
}

void srv_write_csv_cells(struct srv_buffer *buffer, const struct srv_table *table, const void *row)
{
	for (size_t i = 0; i < table->count; i++) {
		const struct srv_column *column = &table->columns[i];
		const char *at = place(column, row);

		if (i)
			srv_buffer_add_byte(buffer, ',');
		if (shows_nothing(column, at))
			continue;
		if (is_text(column))
			srv_write_csv_text(buffer, text_at(column, at));
		else
			write_number(buffer, column, at);
	}
}

static const char *name_of(const struct srv_column *column)
{
	return column->key + sizeof(",\"") - 1;
}

static size_t name_length(const struct srv_column *column)
{
	return column->length - (sizeof(",\"\":") - 1);
}

void srv_write_csv_names(struct srv_buffer *buffer, const struct srv_table *table)
{
	for (size_t i = 0; i < table->count; i++) {
		if (i)
			srv_buffer_add_byte(buffer, ',');
		srv_buffer_add(buffer, name_of(&table->columns[i]), name_length(&table->columns[i]));
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
	size_t suffix = sizeof bytes_suffix - 1, length = name_length(column);

	return length > suffix && !memcmp(name_of(column) + length - suffix, bytes_suffix, suffix);
}

static void write_heading(struct srv_buffer *buffer, const struct srv_column *column)
{
	size_t length = name_length(column);

	if (!is_bytes(column)) {
		srv_buffer_add(buffer, name_of(column), length);
		return;
	}
	srv_buffer_add(buffer, name_of(column), length - (sizeof bytes_suffix - 1));
	SRV_PUT(buffer, " GiB");
}

static double number_of(const struct srv_column *column, const char *at)
{
	return column->kind == SRV_I64 ? (double)(int64_t)number_at(at) : (double)number_at(at);
}

static void write_cell(struct srv_buffer *buffer, const struct srv_column *column, const void *row)
{
	const char *at = place(column, row);

	if (shows_nothing(column, at))
		srv_buffer_add_byte(buffer, '-');
	else if (is_text(column))
		srv_write_text(buffer, text_at(column, at));
	else if (is_bytes(column))
		srv_write_fixed(buffer, number_of(column, at) / (1024.0 * 1024 * 1024), 1);
	else
		write_number(buffer, column, at);
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
		bare = is_empty(column, place(column, rows[i]));
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
