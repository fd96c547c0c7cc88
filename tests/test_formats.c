#include <jansson.h>
#include <stdlib.h>
#include "server/table.h"
#include "tests/suite.h"

static struct srv_buffer buffer;

static const struct {
	const char *name, *accept;
	bool acceptable;
	enum srv_format format;
} negotiations[] = {
	{ "no header is json", NULL, true, SRV_JSON },
	{ "an empty header is json", "", true, SRV_JSON },
	{ "anything is json", "*/*", true, SRV_JSON },
	{ "any application is json", "application/*", true, SRV_JSON },
	{ "json by name", "application/json", true, SRV_JSON },
	{ "letter case does not matter", "TEXT/CSV", true, SRV_CSV },
	{ "csv by name", "text/csv", true, SRV_CSV },
	{ "ndjson by name", "application/x-ndjson", true, SRV_NDJSON },
	{ "plain text is the table", "text/plain", true, SRV_FOR_PEOPLE },
	{ "records by their own name", "application/vnd.vramcast.records+json", true, SRV_RECORDS },
	{ "parameters do not matter", "text/csv; charset=utf-8; header=present", true, SRV_CSV },
	{ "the higher q wins", "application/json;q=0.5, text/csv;q=0.8", true, SRV_CSV },
	{ "q is 1 when it is not given", "application/json;q=0.9, text/csv", true, SRV_CSV },
	{ "a name wins over a range of the same q", "*/*, text/csv", true, SRV_CSV },
	{ "three decimals of q count", "text/csv;q=0.501, application/json;q=0.502", true, SRV_JSON },
	{ "a browser gets json", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", true, SRV_JSON },
	{ "white space is allowed", " text/html ,\ttext/csv ; q=1 ", true, SRV_CSV },
	{ "q=0 excludes, the range lets the others through", "application/json;q=0, */*;q=0.1", true, SRV_CSV },
	{ "what there is not is not acceptable", "text/html", false, SRV_JSON },
	{ "an image is not acceptable", "image/*", false, SRV_JSON },
	{ "everything excluded is not acceptable", "*/*;q=0", false, SRV_JSON },
	{ "q=0.000 is 0", "application/json;q=0.000", false, SRV_JSON },
	{ "a prefix is no match", "application/jsonp", false, SRV_JSON },
};

START_TEST(accept_chooses_the_format)
{
	enum srv_format format = SRV_FORMATS;
	bool found = srv_format_negotiate(negotiations[_i].accept, &format);

	ck_assert_msg(found == negotiations[_i].acceptable, "%s", negotiations[_i].name);
	if (found)
		ck_assert_msg(format == negotiations[_i].format, "%s: %d", negotiations[_i].name, (int)format);
}
END_TEST

START_TEST(formats_have_names_and_media_types)
{
	static const char *const names[SRV_FORMATS] = { "json", "csv", "ndjson", "records", "table" };
	enum srv_format format;

	for (int i = 0; i < SRV_FORMATS; i++) {
		ck_assert(srv_format_find(names[i], strlen(names[i]), &format));
		ck_assert_int_eq(format, i);
		ck_assert_ptr_nonnull(strchr(srv_format_media_type(format), '/'));
	}
	ck_assert(srv_format_find("CSV&", 3, &format));
	ck_assert_int_eq(format, SRV_CSV);
	ck_assert(!srv_format_find("xml", 3, &format));
	ck_assert(!srv_format_find("js", 2, &format));
	ck_assert(!srv_format_find("", 0, &format));
}
END_TEST

/* ---- rows */

struct row {
	const char *name, *note;
	uint64_t size;
	int64_t change;
	double share;
	bool good;
	int64_t rare;
};

static const struct srv_column columns[] = {
	SRV_COLUMN("name", SRV_TEXT, struct row, name),
	SRV_COLUMN("note", SRV_TEXT, struct row, note),
	SRV_COLUMN("size_bytes", SRV_U64, struct row, size),
	SRV_COLUMN("change_bytes", SRV_I64, struct row, change),
	SRV_COLUMN("share", SRV_RATIO, struct row, share),
	SRV_COLUMN("good", SRV_BOOL, struct row, good),
	SRV_OPTIONAL("rare", SRV_I64, struct row, rare),
};
static const struct srv_table table = SRV_TABLE(columns);

static const struct row rows[] = {
	{ "plain", "nothing special", UINT64_C(8) << 30, 5, 0.5, true, 7 },
	{ "comma, quote \" and\nline\r\nends", "", 0, -(INT64_C(3) << 29), 1.25, false, 0 },
	{ "\xe2\x82\xac", NULL, UINT64_C(9007199254740991), INT64_MIN, 0, true, -1 },
};
enum { ROWS = sizeof rows / sizeof rows[0] };
static const void *const pointers[] = { &rows[0], &rows[1], &rows[2] };

static char *write_rows(enum srv_format format, size_t count)
{
	srv_buffer_clear(&buffer);
	srv_write_rows(&buffer, format, &table, pointers, count);
	srv_buffer_add_byte(&buffer, '\0');
	ck_assert(!buffer.failed);
	return buffer.data;
}

static void check_object(const json_t *object, const struct row *row)
{
	const char *note = json_string_value(json_object_get(object, "note"));

	ck_assert_str_eq(json_string_value(json_object_get(object, "name")), row->name);
	ck_assert_int_eq(note != NULL, row->note != NULL);
	if (note)
		ck_assert_str_eq(note, row->note);
	ck_assert_int_eq(json_integer_value(json_object_get(object, "size_bytes")), (json_int_t)row->size);
	ck_assert_int_eq(json_integer_value(json_object_get(object, "change_bytes")), row->change);
	ck_assert_double_eq_tol(json_real_value(json_object_get(object, "share")), row->share, 0.0001);
	ck_assert_int_eq(json_is_true(json_object_get(object, "good")), row->good);
	ck_assert_int_eq(json_object_get(object, "rare") != NULL, row->rare != 0);
	ck_assert_int_eq(json_integer_value(json_object_get(object, "rare")), row->rare);
}

START_TEST(json_and_records_are_an_array_of_the_rows)
{
	enum srv_format format = _i ? SRV_RECORDS : SRV_JSON;
	json_t *array = json_loads(write_rows(format, ROWS), JSON_REJECT_DUPLICATES, NULL);

	ck_assert_uint_eq(json_array_size(array), ROWS);
	for (size_t i = 0; i < ROWS; i++)
		check_object(json_array_get(array, i), &rows[i]);
	json_decref(array);
}
END_TEST

START_TEST(ndjson_is_a_row_a_line)
{
	char *line = write_rows(SRV_NDJSON, ROWS);

	for (size_t i = 0; i < ROWS; i++) {
		char *end = strchr(line, '\n');
		json_t *object;

		ck_assert_ptr_nonnull(end);
		object = json_loadb(line, (size_t)(end - line), JSON_REJECT_DUPLICATES, NULL);
		ck_assert_ptr_nonnull(object);
		check_object(object, &rows[i]);
		json_decref(object);
		line = end + 1;
	}
	ck_assert_str_eq(line, "");
}
END_TEST

/* Takes the cell at *cursor as RFC 4180 has it; true when it was the last of its line. */
static bool next_cell(const char **cursor, char *ret)
{
	bool quoted = **cursor == '"';

	*cursor += quoted;
	while (**cursor && (quoted || !strchr(",\n", **cursor))) {
		if (quoted && **cursor == '"' && *++*cursor != '"')
			quoted = false;
		else
			*ret++ = *(*cursor)++;
	}
	*ret = '\0';
	return *(*cursor)++ == '\n';
}

static void check_line(const char **cursor, const char *const *cells)
{
	for (size_t i = 0; i < table.count; i++) {
		char cell[128];
		bool last = next_cell(cursor, cell);

		ck_assert_str_eq(cell, cells[i]);
		ck_assert_int_eq(last, i + 1 == table.count);
	}
}

START_TEST(csv_reads_back_whatever_is_in_the_cells)
{
	static const char *const lines[ROWS + 1][sizeof columns / sizeof columns[0]] = {
		{ "name", "note", "size_bytes", "change_bytes", "share", "good", "rare" },
		{ "plain", "nothing special", "8589934592", "5", "0.5000", "true", "7" },
		{ "comma, quote \" and\nline\r\nends", "", "0", "-1610612736", "1.2500", "false", "" },
		{ "\xe2\x82\xac", "", "9007199254740991", "-9223372036854775808", "0.0000", "true", "-1" },
	};
	const char *cursor = write_rows(SRV_CSV, ROWS);

	for (size_t i = 0; i < ROWS + 1; i++)
		check_line(&cursor, lines[i]);
	ck_assert_str_eq(cursor, "");
}
END_TEST

START_TEST(csv_quotes_only_where_it_must)
{
	const char *text = write_rows(SRV_CSV, ROWS);

	ck_assert_ptr_nonnull(strstr(text, "\nplain,nothing special,8589934592,"));
	ck_assert_ptr_nonnull(strstr(text, "\n\"comma, quote \"\" and\nline\r\nends\",,0,"));
}
END_TEST

START_TEST(the_table_lines_up_and_shows_gib)
{
	static const void *const two[] = { &rows[0], &rows[2] };

	srv_write_rows(&buffer, SRV_FOR_PEOPLE, &table, two, 2);
	srv_buffer_add_byte(&buffer, '\0');
	ck_assert_str_eq(buffer.data,
			 "name   note              size GiB     change GiB   share  good  rare\n"
			 "plain  nothing special        8.0            0.0  0.5000  true     7\n"
			 "\xe2\x82\xac      -                8388608.0  -8589934592.0  0.0000  true    -1\n");
}
END_TEST

START_TEST(a_column_that_no_row_fills_is_not_shown_to_people)
{
	static const void *const one[] = { &rows[1] };

	srv_write_rows(&buffer, SRV_FOR_PEOPLE, &table, one, 1);
	srv_buffer_add_byte(&buffer, '\0');
	ck_assert_ptr_nonnull(strstr(buffer.data, "note"));
	ck_assert_ptr_null(strstr(buffer.data, "rare"));
}
END_TEST

START_TEST(no_rows_are_an_empty_document)
{
	ck_assert_str_eq(write_rows(SRV_JSON, 0), "[]");
	ck_assert_str_eq(write_rows(SRV_RECORDS, 0), "[]");
	ck_assert_str_eq(write_rows(SRV_NDJSON, 0), "");
	ck_assert_str_eq(write_rows(SRV_CSV, 0), "name,note,size_bytes,change_bytes,share,good,rare\n");
	ck_assert_str_eq(write_rows(SRV_FOR_PEOPLE, 0), "name  note  size GiB  change GiB  share  good  rare\n");
}
END_TEST

static void finish(void)
{
	srv_buffer_finish(&buffer);
}

int main(void)
{
	Suite *suite = suite_create("formats");
	TCase *test = tcase_create("formats");

	tcase_add_checked_fixture(test, NULL, finish);
	tcase_add_loop_test(test, accept_chooses_the_format, 0, COUNT(negotiations));
	tcase_add_test(test, formats_have_names_and_media_types);
	tcase_add_loop_test(test, json_and_records_are_an_array_of_the_rows, 0, 2);
	tcase_add_test(test, ndjson_is_a_row_a_line);
	tcase_add_test(test, csv_reads_back_whatever_is_in_the_cells);
	tcase_add_test(test, csv_quotes_only_where_it_must);
	tcase_add_test(test, the_table_lines_up_and_shows_gib);
	tcase_add_test(test, a_column_that_no_row_fills_is_not_shown_to_people);
	tcase_add_test(test, no_rows_are_an_empty_document);
	suite_add_tcase(suite, test);
	return run_suite(suite);
}
