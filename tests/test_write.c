#include <float.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include "server/write.h"
#include "tests/suite.h"

static struct srv_buffer buffer;

static const char *written(void)
{
	srv_buffer_add_byte(&buffer, '\0');
	ck_assert(!buffer.failed);
	return buffer.data;
}

static void clear(void)
{
	srv_buffer_clear(&buffer);
}

static const uint64_t numbers[] = {
	0, 1, 9, 10, 11, 99, 100, 101, 999, 1000, 12345, 99999, 100000, 4294967295, 4294967296, 9007199254740991,
	UINT64_C(9999999999999999999), UINT64_C(10000000000000000000), UINT64_MAX,
};

START_TEST(whole_numbers_are_written_as_printf_writes_them)
{
	char expected[32];

	snprintf(expected, sizeof expected, "%" PRIu64, numbers[_i]);
	srv_write_u64(&buffer, numbers[_i]);
	ck_assert_str_eq(written(), expected);
}
END_TEST

START_TEST(every_number_up_to_a_hundred_thousand_is_right)
{
	for (uint64_t i = 0; i < 100000; i++) {
		char expected[32];

		snprintf(expected, sizeof expected, "%" PRIu64, i);
		clear();
		srv_write_u64(&buffer, i);
		ck_assert_str_eq(written(), expected);
	}
}
END_TEST

START_TEST(negative_numbers_reach_the_least_one)
{
	srv_write_i64(&buffer, -1);
	srv_buffer_add_byte(&buffer, ' ');
	srv_write_i64(&buffer, INT64_MIN);
	srv_buffer_add_byte(&buffer, ' ');
	srv_write_i64(&buffer, INT64_MAX);
	ck_assert_str_eq(written(), "-1 -9223372036854775808 9223372036854775807");
}
END_TEST

static const struct {
	double value;
	int decimals;
	const char *expected;
} fixed[] = {
	{ 0, 4, "0.0000" },         { 0.99724, 4, "0.9972" },   { 0.99725, 4, "0.9973" }, { 1.99999, 4, "2.0000" },
	{ 12.5, 0, "13" },          { -0.25, 1, "-0.3" },       { -0.00001, 4, "0.0000" }, { 79.65, 1, "79.7" },
	{ 123456.789, 3, "123456.789" }, { 5e-7, 6, "0.000001" }, { NAN, 2, "0.00" },      { INFINITY, 2, "0.00" },
	{ -INFINITY, 2, "0.00" },   { DBL_MAX, 1, "0.0" },
};

START_TEST(fixed_decimals_are_rounded_once_and_never_nan)
{
	srv_write_fixed(&buffer, fixed[_i].value, fixed[_i].decimals);
	ck_assert_str_eq(written(), fixed[_i].expected);
}
END_TEST

static const struct {
	const char *name, *text, *expected;
} strings[] = {
	{ "nothing", "", "\"\"" },
	{ "plain", "llama-3.1-8b", "\"llama-3.1-8b\"" },
	{ "quotes and backslashes", "a\"b\\c", "\"a\\\"b\\\\c\"" },
	{ "the short escapes", "\b\t\n\f\r", "\"\\b\\t\\n\\f\\r\"" },
	{ "other control bytes", "\x01\x1f\x7f", "\"\\u0001\\u001f\\u007f\"" },
	{ "two, three and four bytes of UTF-8", "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80",
	  "\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\"" },
	{ "a byte that starts nothing", "a\xffz", "\"a\\ufffdz\"" },
	{ "a lone continuation", "\x80", "\"\\ufffd\"" },
	{ "an overlong slash", "\xc0\xaf", "\"\\ufffd\\ufffd\"" },
	{ "an overlong three", "\xe0\x80\xaf", "\"\\ufffd\\ufffd\\ufffd\"" },
	{ "a surrogate", "\xed\xa0\x80", "\"\\ufffd\\ufffd\\ufffd\"" },
	{ "beyond the last plane", "\xf4\x90\x80\x80", "\"\\ufffd\\ufffd\\ufffd\\ufffd\"" },
	{ "a sequence cut off by the end", "x\xe2\x82", "\"x\\ufffd\\ufffd\"" },
	{ "a sequence cut off by a letter", "\xe2\x82z", "\"\\ufffd\\ufffdz\"" },
};

START_TEST(strings_are_escaped)
{
	json_t *read;

	srv_write_string(&buffer, strings[_i].text);
	ck_assert_msg(!strcmp(written(), strings[_i].expected), "%s: %s", strings[_i].name, buffer.data);
	read = json_loads(buffer.data, JSON_DECODE_ANY, NULL);
	ck_assert_msg(read != NULL, "%s: not JSON", strings[_i].name);
	json_decref(read);
}
END_TEST

START_TEST(every_pair_of_bytes_gives_json)
{
	for (int i = 0; i < 65536; i++) {
		char pair[2] = { (char)(i >> 8), (char)i };
		json_t *read;

		clear();
		srv_write_string_n(&buffer, pair, 2);
		ck_assert(!buffer.failed);
		read = json_loadb(buffer.data, buffer.length, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
		ck_assert_msg(read != NULL, "bytes %02x %02x", (unsigned)(i >> 8), (unsigned)(i & 255));
		json_decref(read);
	}
}
END_TEST

START_TEST(every_byte_is_seen_wherever_it_stands)
{
	char text[32];

	for (size_t length = 1; length < sizeof text; length++) {
		for (size_t at = 0; at < length; at++) {
			char byte = (char)_i;
			json_t *read;

			memset(text, 'x', length);
			text[at] = byte;
			clear();
			srv_write_string_n(&buffer, text, length);
			read = json_loadb(buffer.data, buffer.length, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
			ck_assert_msg(read != NULL, "byte %02x at %zu of %zu", (unsigned)_i, at, length);
			if (_i < 0x80) {
				ck_assert_uint_eq(json_string_length(read), length);
				ck_assert_mem_eq(json_string_value(read), text, length);
			}
			json_decref(read);
		}
	}
}
END_TEST

START_TEST(hexadecimal_is_as_printf_writes_it)
{
	char expected[32], digits_of[SRV_HEX_SIZE];

	snprintf(expected, sizeof expected, "%016" PRIx64, numbers[_i]);
	srv_hex(numbers[_i], digits_of);
	ck_assert_str_eq(digits_of, expected);
	srv_write_hex_byte(&buffer, (unsigned char)numbers[_i]);
	ck_assert_str_eq(written(), expected + 14);
}
END_TEST

START_TEST(a_buffer_grows_and_keeps_what_it_has)
{
	for (int i = 0; i < 10000; i++)
		SRV_PUT(&buffer, "0123456789");
	ck_assert(!buffer.failed);
	ck_assert_uint_eq(buffer.length, 100000);
	for (size_t i = 0; i < buffer.length; i++)
		ck_assert_int_eq(buffer.data[i], (int)('0' + i % 10));
}
END_TEST

START_TEST(a_failed_allocation_sticks_until_the_buffer_is_cleared)
{
	SRV_PUT(&buffer, "kept");
	ck_assert(!srv_buffer_reserve(&buffer, SIZE_MAX / 2));
	ck_assert(buffer.failed);
	for (int i = 0; i < 1000; i++)
		SRV_PUT(&buffer, "more than there is room for, and so not written at all");
	ck_assert(buffer.failed);
	ck_assert_uint_le(buffer.length, buffer.capacity);
	clear();
	SRV_PUT(&buffer, "again");
	ck_assert_str_eq(written(), "again");
}
END_TEST

START_TEST(released_bytes_belong_to_the_caller)
{
	size_t length;
	char *bytes;

	SRV_PUT(&buffer, "abc");
	bytes = srv_buffer_release(&buffer, &length);
	ck_assert_uint_eq(length, 3);
	ck_assert_mem_eq(bytes, "abc", 3);
	ck_assert_ptr_null(buffer.data);
	ck_assert_uint_eq(buffer.capacity, 0);
	free(bytes);
}
END_TEST

static void finish(void)
{
	srv_buffer_finish(&buffer);
}

int main(void)
{
	Suite *suite = suite_create("write");
	TCase *test = tcase_create("write");

	tcase_add_checked_fixture(test, NULL, finish);
	tcase_add_loop_test(test, whole_numbers_are_written_as_printf_writes_them, 0, COUNT(numbers));
	tcase_add_test(test, every_number_up_to_a_hundred_thousand_is_right);
	tcase_add_test(test, negative_numbers_reach_the_least_one);
	tcase_add_loop_test(test, fixed_decimals_are_rounded_once_and_never_nan, 0, COUNT(fixed));
	tcase_add_loop_test(test, strings_are_escaped, 0, COUNT(strings));
	tcase_add_test(test, every_pair_of_bytes_gives_json);
	tcase_add_loop_test(test, every_byte_is_seen_wherever_it_stands, 0, 256);
	tcase_add_loop_test(test, hexadecimal_is_as_printf_writes_it, 0, COUNT(numbers));
	tcase_add_test(test, a_buffer_grows_and_keeps_what_it_has);
	tcase_add_test(test, a_failed_allocation_sticks_until_the_buffer_is_cleared);
	tcase_add_test(test, released_bytes_belong_to_the_caller);
	suite_add_tcase(suite, test);
	return run_suite(suite);
}
