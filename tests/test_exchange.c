#include <stdlib.h>
#include "server/exchange.h"
#include "tests/suite.h"

static struct srv_exchange exchange;
static struct srv_intake intake;

static void start(void)
{
	exchange = (struct srv_exchange){ 0 };
	intake = (struct srv_intake){ .limits = { .max_body = 1000, .body_budget = 3000 } };
}

static void finish(void)
{
	srv_exchange_finish(&exchange);
}

/* Feeds "Name: value" lines, each NUL-ended in one text, up to an empty one. */
static void feed(const char *lines)
{
	for (; *lines; lines += strlen(lines) + 1) {
		const char *colon = strchr(lines, ':');
		const char *value = colon + 1 + strspn(colon + 1, " ");

		srv_exchange_header(&exchange, lines, (size_t)(colon - lines), value, strlen(value));
	}
}

#define HOST "Host: x\0"

static const struct {
	const char *name, *method, *version, *lines;
	enum srv_problem problem;
} heads[] = {
	{ "a GET", "GET", "HTTP/1.1", HOST, SRV_OK },
	{ "a POST with a length", "POST", "HTTP/1.1", HOST "Content-Length: 10\0", SRV_OK },
	{ "a POST in chunks", "POST", "HTTP/1.1", HOST "Transfer-Encoding: chunked\0", SRV_OK },
	{ "chunked in capitals", "POST", "HTTP/1.1", HOST "transfer-encoding: CHUNKED\0", SRV_OK },
	{ "HTTP/1.0 without Host", "GET", "HTTP/1.0", "Accept: */*\0", SRV_OK },
	{ "white space within a value", "GET", "HTTP/1.1", HOST "User-Agent: a\tb c\0", SRV_OK },
	{ "bytes beyond ASCII in a value", "GET", "HTTP/1.1", HOST "X: \xc3\xa9\0", SRV_OK },
	{ "no Host", "GET", "HTTP/1.1", "Accept: */*\0", SRV_BAD_FRAMING },
	{ "two Hosts", "GET", "HTTP/1.1", HOST HOST, SRV_BAD_FRAMING },
	{ "two Hosts in HTTP/1.0", "GET", "HTTP/1.0", HOST HOST, SRV_BAD_FRAMING },
	{ "two lengths", "POST", "HTTP/1.1", HOST "Content-Length: 10\0Content-Length: 11\0", SRV_BAD_FRAMING },
	{ "the same length twice", "POST", "HTTP/1.1", HOST "Content-Length: 10\0Content-Length: 10\0",
	  SRV_BAD_FRAMING },
	{ "length and coding", "POST", "HTTP/1.1", HOST "Content-Length: 10\0Transfer-Encoding: chunked\0",
	  SRV_BAD_FRAMING },
	{ "coding and length", "POST", "HTTP/1.1", HOST "Transfer-Encoding: chunked\0Content-Length: 10\0",
	  SRV_BAD_FRAMING },
	{ "two codings", "POST", "HTTP/1.1", HOST "Transfer-Encoding: chunked\0Transfer-Encoding: chunked\0",
	  SRV_BAD_FRAMING },
	{ "a list of codings", "POST", "HTTP/1.1", HOST "Transfer-Encoding: gzip, chunked\0", SRV_BAD_FRAMING },
	{ "a coding that is none", "POST", "HTTP/1.1", HOST "Transfer-Encoding: xchunked\0", SRV_BAD_FRAMING },
	{ "an empty coding", "POST", "HTTP/1.1", HOST "Transfer-Encoding: \0", SRV_BAD_FRAMING },
	{ "a coding in HTTP/1.0", "POST", "HTTP/1.0", HOST "Transfer-Encoding: chunked\0", SRV_BAD_FRAMING },
	{ "a space before the colon", "POST", "HTTP/1.1", HOST "Transfer-Encoding : chunked\0", SRV_BAD_FRAMING },
	{ "a folded length", "POST", "HTTP/1.1", HOST "Content-Lengthx: 40\0", SRV_BAD_FRAMING },
	{ "a folded coding", "POST", "HTTP/1.1", HOST "Transfer-Encoding chunked: x\0", SRV_BAD_FRAMING },
	{ "a name with a control byte", "GET", "HTTP/1.1", HOST "X\x01Y: 1\0", SRV_BAD_FRAMING },
	{ "a name beyond ASCII", "GET", "HTTP/1.1", HOST "X\xe9: 1\0", SRV_BAD_FRAMING },
	{ "an empty name", "GET", "HTTP/1.1", HOST ": 1\0", SRV_BAD_FRAMING },
	{ "a value with a line end", "GET", "HTTP/1.1", HOST "X: a\rb\0", SRV_BAD_FRAMING },
	{ "a value with DEL", "GET", "HTTP/1.1", HOST "X: a\x7f\0", SRV_BAD_FRAMING },
	{ "a length with a sign", "POST", "HTTP/1.1", HOST "Content-Length: +10\0", SRV_BAD_FRAMING },
	{ "a length that is no number", "POST", "HTTP/1.1", HOST "Content-Length: 0x10\0", SRV_BAD_FRAMING },
	{ "a list of lengths", "POST", "HTTP/1.1", HOST "Content-Length: 10, 10\0", SRV_BAD_FRAMING },
	{ "a length of 30 digits", "POST", "HTTP/1.1", HOST "Content-Length: 100000000000000000000000000000\0",
	  SRV_TOO_LARGE },
	{ "a POST without a length", "POST", "HTTP/1.1", HOST, SRV_LENGTH_REQUIRED },
	{ "a length just allowed", "POST", "HTTP/1.1", HOST "Content-Length: 1000\0", SRV_OK },
	{ "a length to be drained", "POST", "HTTP/1.1", HOST "Content-Length: 1001\0", SRV_OK },
	{ "a length too long to be drained", "POST", "HTTP/1.1", HOST "Content-Length: 17000\0", SRV_TOO_LARGE },
	{ "a length too long, asked for before", "POST", "HTTP/1.1",
	  HOST "Content-Length: 1001\0Expect: 100-continue\0", SRV_TOO_LARGE },
	{ "100-continue", "POST", "HTTP/1.1", HOST "Content-Length: 10\0Expect: 100-Continue\0", SRV_OK },
	{ "another expectation", "POST", "HTTP/1.1", HOST "Content-Length: 10\0Expect: coffee\0",
	  SRV_EXPECTATION_FAILED },
};

START_TEST(a_head_is_let_through_or_refused)
{
	const char *detail = NULL;
	enum srv_problem problem;

	srv_exchange_begin(&exchange, heads[_i].method, "/estimate", heads[_i].version);
	feed(heads[_i].lines);
	problem = srv_exchange_check_head(&exchange, &intake, &detail);
	ck_assert_msg(problem == heads[_i].problem, "%s: %d", heads[_i].name, (int)problem);
	ck_assert_msg(!problem || (detail && *detail), "%s", heads[_i].name);
}
END_TEST

START_TEST(a_header_with_a_nul_is_refused)
{
	const char *detail;

	srv_exchange_begin(&exchange, "GET", "/", "HTTP/1.1");
	srv_exchange_header(&exchange, "Host", 4, "x", 1);
	srv_exchange_header(&exchange, "X", 1, "a\0b", 3);
	ck_assert_int_eq(srv_exchange_check_head(&exchange, &intake, &detail), SRV_BAD_FRAMING);
}
END_TEST

/* ---- target: the text as the library leaves it, a NUL behind it and then the version */

static const struct {
	const char *name, *line, *path, *query;
	enum srv_problem problem;
} targets[] = {
	{ "a path", "/gpus\0HTTP/1.1", "/gpus", NULL, SRV_OK },
	{ "a path and a query", "/gpus?q=a&b\0HTTP/1.1", "/gpus?", "q=a&b", SRV_OK },
	{ "an empty query", "/gpus?\0HTTP/1.0", "/gpus?", "", SRV_OK },
	{ "a second question mark", "/gpus?a?b\0HTTP/1.1", "/gpus?", "a?b", SRV_OK },
	{ "a NUL within", "/estimate\0.json HTTP/1.1", NULL, NULL, SRV_BAD_FRAMING },
	{ "no version", "/gpus\0\n", NULL, NULL, SRV_BAD_FRAMING },
	{ "nothing", "", NULL, NULL, SRV_BAD_FRAMING },
};

START_TEST(the_query_is_taken_out_of_the_target)
{
	char line[64] = { 0 };
	size_t length = strlen(targets[_i].line), rest = length ? strlen(targets[_i].line + length + 1) : 0;

	memcpy(line, targets[_i].line, length ? length + 1 + rest : 0);
	srv_exchange_target(&exchange, line);
	ck_assert_msg(exchange.problem == targets[_i].problem, "%s", targets[_i].name);
	if (exchange.problem)
		return;
	srv_exchange_begin(&exchange, "GET", line, "HTTP/1.1");
	ck_assert_str_eq(line, targets[_i].path);
	ck_assert_int_eq(exchange.request.query != NULL, targets[_i].query != NULL);
	if (targets[_i].query)
		ck_assert_str_eq(exchange.request.query, targets[_i].query);
}
END_TEST

START_TEST(a_query_of_8_kib_is_too_long)
{
	static char line[20000];
	const char *detail;

	for (size_t length = 8190; length <= 8192; length++) {
		srv_exchange_reset(&exchange);
		memset(line, 'a', sizeof line);
		memcpy(line, "/gpus?", 6);
		memcpy(line + 6 + length, "\0HTTP/1.1", 10);
		srv_exchange_target(&exchange, line);
		ck_assert_int_eq(exchange.problem, length < 8192 ? SRV_OK : SRV_TARGET_TOO_LONG);
		srv_exchange_begin(&exchange, "GET", "/gpus", "HTTP/1.1");
		feed(HOST);
		ck_assert_int_eq(srv_exchange_check_head(&exchange, &intake, &detail), exchange.problem);
	}
}
END_TEST

/* ---- body */

static void begin_post(const char *path)
{
	srv_exchange_begin(&exchange, "POST", path, "HTTP/1.1");
}

START_TEST(a_body_arrives_in_pieces)
{
	begin_post("/estimate");
	ck_assert(srv_exchange_add_body(&exchange, &intake, "{\"a\"", 4));
	ck_assert(srv_exchange_add_body(&exchange, &intake, ":1}", 3));
	ck_assert_uint_eq(exchange.request.body_length, 7);
	ck_assert_mem_eq(exchange.request.body, "{\"a\":1}", 7);
	ck_assert_uint_eq(atomic_load(&intake.body_bytes), 7);
	srv_exchange_forget_body(&exchange, &intake);
	ck_assert_uint_eq(atomic_load(&intake.body_bytes), 0);
}
END_TEST

START_TEST(a_body_beyond_the_limit_is_dropped_and_in_the_end_cut_off)
{
	static const char piece[1000];
	int taken = 0;

	begin_post("/estimate");
	ck_assert(srv_exchange_add_body(&exchange, &intake, piece, 1000));
	ck_assert_int_eq(exchange.problem, SRV_OK);
	ck_assert(srv_exchange_add_body(&exchange, &intake, piece, 1));
	ck_assert_int_eq(exchange.problem, SRV_TOO_LARGE);
	ck_assert_uint_eq(exchange.request.body_length, 0);
	ck_assert_uint_eq(atomic_load(&intake.body_bytes), 0);
	while (taken < 100 && srv_exchange_add_body(&exchange, &intake, piece, 1000))
		taken++;
	ck_assert_int_eq(taken, 15);
}
END_TEST

START_TEST(a_body_that_nobody_wants_costs_no_memory)
{
	static const char piece[900];

	begin_post("/presets");
	ck_assert(srv_exchange_add_body(&exchange, &intake, piece, sizeof piece));
	ck_assert_int_eq(exchange.problem, SRV_OK);
	ck_assert_uint_eq(exchange.body.capacity, 0);
	ck_assert_uint_eq(atomic_load(&intake.body_bytes), 0);
}
END_TEST

START_TEST(bodies_in_flight_have_a_budget)
{
	static const char piece[1000];
	const char *detail;

	atomic_store(&intake.body_bytes, 2500);
	begin_post("/estimate");
	feed(HOST "Content-Length: 600\0");
	ck_assert_int_eq(srv_exchange_check_head(&exchange, &intake, &detail), SRV_OVERLOADED);
	srv_exchange_reset(&exchange);
	begin_post("/estimate");
	feed(HOST "Transfer-Encoding: chunked\0");
	ck_assert_int_eq(srv_exchange_check_head(&exchange, &intake, &detail), SRV_OK);
	ck_assert(srv_exchange_add_body(&exchange, &intake, piece, 500));
	ck_assert(srv_exchange_add_body(&exchange, &intake, piece, 100));
	ck_assert_int_eq(exchange.problem, SRV_OVERLOADED);
	ck_assert_uint_eq(atomic_load(&intake.body_bytes), 2500);
}
END_TEST

START_TEST(a_used_exchange_remembers_nothing)
{
	char line[] = "/gpus?secret=1\0HTTP/1.1";

	srv_exchange_target(&exchange, line);
	begin_post("/estimate");
	feed(HOST "Accept: text/csv\0Expect: coffee\0");
	srv_exchange_add_body(&exchange, &intake, "secret", 6);
	srv_exchange_forget_body(&exchange, &intake);
	srv_exchange_reset(&exchange);
	srv_exchange_begin(&exchange, "GET", "/gpus", "HTTP/1.1");
	ck_assert_ptr_null(exchange.request.query);
	ck_assert_ptr_null(exchange.request.accept);
	ck_assert_ptr_null(exchange.expect);
	ck_assert_ptr_null(exchange.request.body);
	ck_assert_uint_eq(exchange.request.body_length, 0);
	ck_assert_int_eq(exchange.problem, SRV_OK);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("exchange");
	TCase *test = tcase_create("exchange");

	tcase_add_checked_fixture(test, start, finish);
	tcase_add_loop_test(test, a_head_is_let_through_or_refused, 0, COUNT(heads));
	tcase_add_test(test, a_header_with_a_nul_is_refused);
	tcase_add_loop_test(test, the_query_is_taken_out_of_the_target, 0, COUNT(targets));
	tcase_add_test(test, a_query_of_8_kib_is_too_long);
	tcase_add_test(test, a_body_arrives_in_pieces);
	tcase_add_test(test, a_body_beyond_the_limit_is_dropped_and_in_the_end_cut_off);
	tcase_add_test(test, a_body_that_nobody_wants_costs_no_memory);
	tcase_add_test(test, bodies_in_flight_have_a_budget);
	tcase_add_test(test, a_used_exchange_remembers_nothing);
	suite_add_tcase(suite, test);
	return run_suite(suite);
}
