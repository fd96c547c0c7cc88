#include "tests/ask.h"

/* ---- every route with every method */

static const char *const methods[] = { "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW" };

/* Whether the table has the method on pattern; HEAD is where GET is, OPTIONS everywhere. */
static bool is_allowed(const char *pattern, const char *method)
{
	const char *row_method, *row_pattern, *wanted = strcmp(method, "HEAD") ? method : "GET";

	if (!strcmp(method, "OPTIONS"))
		return true;
	for (size_t i = 0; srv_route_row(i, &row_method, &row_pattern); i++)
		if (!strcmp(row_pattern, pattern) && !strcmp(row_method, wanted))
			return true;
	return false;
}

/* A target of pattern that can be answered. */
static const char *target_of(const char *pattern)
{
	if (!strcmp(pattern, "/presets/{id}"))
		return "/presets/llama-3.2-1b";
	if (!strcmp(pattern, "/gpus/{id}"))
		return "/gpus/t4";
	if (!strcmp(pattern, "/page/{id}"))
		return "/page/main.js";
	if (!strcmp(pattern, "/k8s/validate/{id}"))
		return "/k8s/validate/warn";
	return !strcmp(pattern, "/estimate") ? "/estimate?model=llama-3.2-1b&gpus=t4,l4" : pattern;
}

/* A body of pattern that can be answered. */
static const char *body_of(const char *pattern)
{
	if (!strcmp(pattern, "/plan"))
		return "{\"request\":" MODEL ",\"vary\":[]}";
	if (!strcmp(pattern, "/k8s/filter"))
		return "{\"Pod\":{\"spec\":{}},\"NodeNames\":[]}";
	if (!strncmp(pattern, "/k8s/", 5))
		return "{\"apiVersion\":\"admission.k8s.io/v1\",\"kind\":\"AdmissionReview\","
		       "\"request\":{\"uid\":\"1\",\"operation\":\"DELETE\"}}";
	return strcmp(pattern, "/estimates") ? MODEL : "{\"requests\":[" MODEL "]}";
}

/* Whether Allow lists exactly the methods that are allowed. */
static void check_allow(const char *pattern)
{
	char padded[128];

	snprintf(padded, sizeof padded, ", %s,", header("Allow"));
	for (int i = 0; i < COUNT(methods); i++) {
		char name[32];

		snprintf(name, sizeof name, ", %s,", methods[i]);
		ck_assert_msg((strstr(padded, name) != NULL) == is_allowed(pattern, methods[i]), "%s: %s in %s",
			      pattern, methods[i], padded);
	}
}

START_TEST(a_route_answers_the_methods_that_it_allows_and_no_other)
{
	const char *method, *pattern;

	for (size_t i = 0; srv_route_row(i, &method, &pattern); i++) {
		const char *name = methods[_i];
		bool is_post = !strcmp(name, "POST");

		ask(name, is_post && !strcmp(pattern, "/estimate") ? pattern : target_of(pattern),
		    (struct srv_request){ .body = is_post ? body_of(pattern) : NULL });
		if (!strcmp(name, "OPTIONS"))
			ck_assert_int_eq(reply.status, 204);
		else if (is_allowed(pattern, name))
			ck_assert_msg(reply.status == 200, "%s %s: %d", name, pattern, reply.status);
		else
			check_problem(pattern, 405);
		if (reply.status != 200)
			check_allow(pattern);
		ck_assert_msg(*header("X-Request-Id"), "%s %s", name, pattern);
	}
}
END_TEST

START_TEST(head_is_get)
{
	const char *method, *pattern;

	for (size_t i = 0; srv_route_row(i, &method, &pattern); i++) {
		size_t length, head_length;
		char *tag;

		if (strcmp(method, "GET") || !strcmp(pattern, "/metrics"))
			continue;
		get(target_of(pattern));
		srv_reply_body(&reply, &length);
		tag = strdup(header("ETag"));
		ask("HEAD", target_of(pattern), (struct srv_request){ 0 });
		srv_reply_body(&reply, &head_length);
		ck_assert_int_eq(reply.status, 200);
		ck_assert_str_eq(header("ETag"), tag);
		ck_assert_msg(length == head_length, "%s", pattern);
		free(tag);
	}
}
END_TEST

START_TEST(options_of_the_asterisk_is_answered)
{
	ask("OPTIONS", "*", (struct srv_request){ 0 });
	ck_assert_int_eq(reply.status, 204);
	ck_assert_ptr_null(reply.content_type);
}
END_TEST

/* ---- headers */

static const struct {
	const char *name, *sent;
	bool echoed;
} ids[] = {
	{ "a plain one", "abc-123_X.y", true },
	{ "64 characters", "0123456789012345678901234567890123456789012345678901234567890123", true },
	{ "65 characters", "01234567890123456789012345678901234567890123456789012345678901234", false },
	{ "an empty one", "", false },
	{ "one with a space", "a b", false },
	{ "one with a line end", "a\r\nSet-Cookie: x", false },
	{ "one with quotes", "\"", false },
	{ "none", NULL, false },
};

START_TEST(a_request_id_is_echoed_when_it_is_safe_and_made_when_not)
{
	char made[80];

	ask("GET", "/healthz", (struct srv_request){ .request_id = ids[_i].sent });
	if (ids[_i].echoed) {
		ck_assert_str_eq(header("X-Request-Id"), ids[_i].sent);
		return;
	}
	ck_assert_uint_eq(strlen(header("X-Request-Id")), 16);
	snprintf(made, sizeof made, "%s", header("X-Request-Id"));
	ask("GET", "/healthz", (struct srv_request){ .request_id = ids[_i].sent });
	ck_assert_str_ne(header("X-Request-Id"), made);
}
END_TEST

START_TEST(an_allowed_origin_may_read_the_answer)
{
	ask("POST", "/estimate", (struct srv_request){ .body = MODEL, .origin = "https://example.org" });
	ck_assert_str_eq(header("Access-Control-Allow-Origin"), "https://example.org");
	ck_assert_ptr_nonnull(strstr(header("Access-Control-Expose-Headers"), "ETag"));
	ck_assert_str_eq(header("Vary"), "Origin");
	ask("GET", "/nothing", (struct srv_request){ .origin = "https://example.org" });
	ck_assert_int_eq(reply.status, 404);
	ck_assert_str_eq(header("Access-Control-Allow-Origin"), "https://example.org");
}
END_TEST

START_TEST(a_preflight_of_an_allowed_origin_is_answered)
{
	ask("OPTIONS", "/estimate",
	    (struct srv_request){ .origin = "https://example.org", .preflight_method = "POST" });
	ck_assert_int_eq(reply.status, 204);
	ck_assert_str_eq(header("Access-Control-Allow-Origin"), "https://example.org");
	ck_assert_ptr_nonnull(strstr(header("Access-Control-Allow-Methods"), "POST"));
	ck_assert_ptr_nonnull(strstr(header("Access-Control-Allow-Headers"), "Content-Type"));
	ck_assert_str_ne(header("Access-Control-Max-Age"), "");
}
END_TEST

START_TEST(another_origin_gets_no_leave)
{
	static const char *const others[] = { "https://example.org.evil.test", "http://example.org", "null", "" };

	for (int i = 0; i < COUNT(others); i++) {
		ask("OPTIONS", "/estimate", (struct srv_request){ .origin = others[i], .preflight_method = "POST" });
		ck_assert_str_eq(header("Access-Control-Allow-Origin"), "");
		ck_assert_str_eq(header("Access-Control-Allow-Methods"), "");
		ck_assert_str_eq(header("Vary"), "Origin");
	}
	service.origin_count = 0;
	ask("GET", "/gpus", (struct srv_request){ .origin = "https://example.org" });
	ck_assert_str_eq(header("Access-Control-Allow-Origin"), "");
	ck_assert_str_eq(header("Vary"), "");
}
END_TEST

/* ---- ETag */

static const char *const tagged[] = {
	"/presets", "/presets?q=llama", "/presets/llama-3.2-1b", "/gpus", "/gpus?format=csv", "/gpus/t4",
	"/openapi.yaml", "/openapi.json", "/", "/page/page.css", "/estimate?model=llama-3.2-1b&gpus=t4",
};

START_TEST(what_the_client_has_is_not_sent_again)
{
	const char *target = tagged[_i];
	char tag[64], list[256];
	size_t length;

	get(target);
	ck_assert_int_eq(reply.status, 200);
	snprintf(tag, sizeof tag, "%s", header("ETag"));
	ck_assert_msg(tag[0] == '"' && strlen(tag) > 8 && tag[strlen(tag) - 1] == '"', "%s", tag);
	snprintf(list, sizeof list, "\"other\", W/%s , \"more\"", tag);
	for (int i = 0; i < 3; i++) {
		const char *const sent[] = { tag, list, "*" };

		ask("GET", target, (struct srv_request){ .if_none_match = sent[i] });
		ck_assert_msg(reply.status == 304, "%s: %s", target, sent[i]);
		ck_assert_str_eq(header("ETag"), tag);
		srv_reply_body(&reply, &length);
		ck_assert_uint_eq(length, 0);
		ck_assert_ptr_null(reply.content_type);
	}
	ask("GET", target, (struct srv_request){ .if_none_match = "\"other\", \"0\"" });
	ck_assert_int_eq(reply.status, 200);
}
END_TEST

START_TEST(another_representation_has_another_tag)
{
	static const char *const targets[] = {
		"/gpus", "/gpus?format=csv", "/gpus?q=a", "/gpus?q=b", "/presets", "/gpus/t4",
	};
	char tags[COUNT(targets)][64];

	for (int i = 0; i < COUNT(targets); i++) {
		get(targets[i]);
		snprintf(tags[i], sizeof tags[i], "%s", header("ETag"));
		for (int j = 0; j < i; j++)
			ck_assert_str_ne(tags[i], tags[j]);
	}
	ask("GET", "/gpus", (struct srv_request){ .accept = "text/csv" });
	ck_assert_str_ne(header("ETag"), tags[0]);
}
END_TEST

START_TEST(a_faulty_request_is_told_so_whatever_the_client_has)
{
	ask("GET", "/gpus?vendr=1", (struct srv_request){ .if_none_match = "*" });
	ck_assert_int_eq(reply.status, 422);
	ask("GET", "/estimate?model=nothing", (struct srv_request){ .if_none_match = "*" });
	ck_assert_int_eq(reply.status, 422);
	ck_assert_str_eq(header("ETag"), "");
}
END_TEST

static TCase *header_tests(void)
{
	TCase *test = tcase_create("methods and headers");

	tcase_add_loop_test(test, a_route_answers_the_methods_that_it_allows_and_no_other, 0, COUNT(methods));
	tcase_add_test(test, head_is_get);
	tcase_add_test(test, options_of_the_asterisk_is_answered);
	tcase_add_loop_test(test, a_request_id_is_echoed_when_it_is_safe_and_made_when_not, 0, COUNT(ids));
	tcase_add_test(test, an_allowed_origin_may_read_the_answer);
	tcase_add_test(test, a_preflight_of_an_allowed_origin_is_answered);
	tcase_add_test(test, another_origin_gets_no_leave);
	tcase_add_loop_test(test, what_the_client_has_is_not_sent_again, 0, COUNT(tagged));
	tcase_add_test(test, another_representation_has_another_tag);
	tcase_add_test(test, a_faulty_request_is_told_so_whatever_the_client_has);
	return test;
}

int main(void)
{
	TCase *const cases[] = { header_tests() };

	return run_cases("routes", cases, COUNT(cases));
}
