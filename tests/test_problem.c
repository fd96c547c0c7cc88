#include "tests/ask.h"

/* ---- problems: every one is a problem document */

static const struct {
	const char *name, *method, *target;
	struct srv_request request;
	int status;
} refused[] = {
	{ "a body that is no JSON", "POST", "/estimate", { .body = "{" }, 400 },
	{ "an empty body", "POST", "/estimate", { .body = "" }, 400 },
	{ "a key twice", "POST", "/estimate", { .body = "{\"model\":\"llama-3.2-1b\",\"model\":\"t\"}" }, 400 },
	{ "text behind the JSON", "POST", "/estimate", { .body = MODEL "x" }, 400 },
	{ "a path that is none", "GET", "/nothing", { 0 }, 404 },
	{ "a path with a slash too many", "GET", "/presets/", { 0 }, 404 },
	{ "a path of another case", "GET", "/Presets", { 0 }, 404 },
	{ "a path with an escape", "GET", "/estimat%65", { 0 }, 404 },
	{ "a path with a NUL", "GET", "/estimate%00.json", { 0 }, 404 },
	{ "what is not there", "POST", "/plans", { .body = "{}" }, 404 },
	{ "a preset that is none", "GET", "/presets/llama-9", { 0 }, 404 },
	{ "a gpu that is none", "GET", "/gpus/h9000", { 0 }, 404 },
	{ "an id that is badly escaped", "GET", "/gpus/t4%2", { 0 }, 404 },
	{ "an id with a NUL", "GET", "/gpus/t4%00", { 0 }, 404 },
	{ "the asterisk for anything but OPTIONS", "GET", "*", { 0 }, 404 },
	{ "a method that is not allowed", "DELETE", "/presets", { 0 }, 405 },
	{ "a method in small letters", "get", "/presets", { 0 }, 405 },
	{ "a POST to a list", "POST", "/gpus", { .body = "{}" }, 405 },
	{ "a format that is none", "GET", "/gpus?format=xml", { 0 }, 406 },
	{ "an empty format", "GET", "/gpus?format=", { 0 }, 406 },
	{ "an Accept that cannot be met", "GET", "/presets", { .accept = "image/png" }, 406 },
	{ "a POST whose Accept cannot be met", "POST", "/estimate", { .body = MODEL, .accept = "text/html" }, 406 },
	{ "a body that is text", "POST", "/estimate", { .body = MODEL, .content_type = "text/plain" }, 415 },
	{ "a body of a near type", "POST", "/estimate", { .body = MODEL, .content_type = "application/jsonp" }, 415 },
	{ "a body that is compressed", "POST", "/estimate", { .body = MODEL, .content_encoding = "gzip" }, 415 },
	{ "a request that is a list", "POST", "/estimate", { .body = "[]" }, 422 },
	{ "a request without a model", "POST", "/estimate", { .body = "{}" }, 422 },
	{ "a model that is none", "POST", "/estimate", { .body = "{\"model\":\"llama-9\"}" }, 422 },
	{ "a query without a model", "GET", "/estimate", { 0 }, 422 },
	{ "a query with a typo", "GET", "/estimate?model=llama-3.2-1b&sequence_lenght=1", { 0 }, 422 },
	{ "a query on a POST", "POST", "/estimate?model=llama-3.2-1b", { .body = MODEL }, 422 },
	{ "a filter that is none", "GET", "/gpus?vendr=amd", { 0 }, 422 },
	{ "a filter twice", "GET", "/gpus?vendor=amd&vendor=nvidia", { 0 }, 422 },
	{ "a limit that is no number", "GET", "/presets?limit=many", { 0 }, 422 },
	{ "a limit with a fraction", "GET", "/presets?limit=1.5", { 0 }, 422 },
	{ "a limit of nothing", "GET", "/presets?limit=0", { 0 }, 422 },
	{ "an offset below zero", "GET", "/presets?offset=-1", { 0 }, 422 },
	{ "memory that is not a number", "GET", "/gpus?min_memory_gib=nan", { 0 }, 422 },
	{ "memory without end", "GET", "/gpus?min_memory_gib=1e999", { 0 }, 422 },
};

START_TEST(what_is_refused_is_a_problem_document)
{
	ask(refused[_i].method, refused[_i].target, refused[_i].request);
	check_problem(refused[_i].name, refused[_i].status);
}
END_TEST

START_TEST(the_transport_refuses_with_the_same_documents)
{
	for (int i = SRV_OK + 1; i < SRV_PROBLEMS; i++) {
		const struct srv_problem_row *row = srv_problem_row((enum srv_problem)i);
		const struct srv_request request = { .method = "POST", .path = "/estimate" };

		srv_refuse(context, &request, (enum srv_problem)i, "a reason", &reply);
		check_problem(row->title, row->status);
		ck_assert_int_eq(row->status == 503, *header("Retry-After") != '\0');
	}
}
END_TEST

START_TEST(every_status_of_the_contract_has_a_problem)
{
	static const int statuses[] = { 400, 404, 405, 406, 411, 413, 414, 415, 417, 422, 503 };
	bool found = false;

	for (int i = SRV_OK + 1; i < SRV_PROBLEMS; i++)
		found = found || srv_problem_row((enum srv_problem)i)->status == statuses[_i];
	ck_assert_msg(found, "%d", statuses[_i]);
}
END_TEST

START_TEST(a_fault_has_pointer_code_and_detail)
{
	json_t *problem, *errors;

	post("/estimate", "{\"model\":\"llama-3.2-1b\",\"loss\":1,\"a/b\":2,\"sequence_length\":0}");
	check_problem("three faults", 422);
	problem = document();
	errors = json_object_get(problem, "errors");
	ck_assert_uint_eq(json_array_size(errors), 3);
	for (size_t i = 0; i < 3; i++) {
		ck_assert_int_eq(*member(json_array_get(errors, i), "pointer"), '/');
		ck_assert(*member(json_array_get(errors, i), "code"));
		ck_assert(*member(json_array_get(errors, i), "detail"));
	}
	ck_assert_ptr_nonnull(strstr(text(), "\"/a~1b\""));
	ck_assert_ptr_null(json_object_get(problem, "count"));
	json_decref(problem);
}
END_TEST

START_TEST(beyond_64_faults_the_true_count_is_told)
{
	struct srv_buffer body = { 0 };
	json_t *problem;
	char key[32];

	SRV_PUT(&body, "{\"model\":\"llama-3.2-1b\"");
	for (int i = 0; i < 100; i++) {
		snprintf(key, sizeof key, ",\"nothing_%d\":1", i);
		srv_buffer_add(&body, key, strlen(key));
	}
	SRV_PUT(&body, "}\0");
	post("/estimate", body.data);
	srv_buffer_finish(&body);
	check_problem("100 faults", 422);
	problem = document();
	ck_assert_uint_eq(json_array_size(json_object_get(problem, "errors")), 64);
	ck_assert_int_eq(json_integer_value(json_object_get(problem, "count")), 100);
	json_decref(problem);
}
END_TEST

START_TEST(a_near_miss_is_suggested)
{
	get("/presets/llama-3.1-8");
	ck_assert_ptr_nonnull(strstr(text(), "did you mean llama-3.1-"));
	get("/gpus/h100-sxm5-80g");
	ck_assert_ptr_nonnull(strstr(text(), "did you mean h100-sxm5-80gb"));
}
END_TEST

START_TEST(client_text_is_never_echoed_unescaped)
{
	get("/gpus?%22%0a%ff=1");
	check_problem("a name of quotes, line ends and no UTF-8", 422);
	ck_assert_ptr_nonnull(strstr(text(), "/\\\"\\n\\ufffd"));
}
END_TEST

static TCase *problem_tests(void)
{
	TCase *test = tcase_create("problems");

	tcase_add_loop_test(test, what_is_refused_is_a_problem_document, 0, COUNT(refused));
	tcase_add_test(test, the_transport_refuses_with_the_same_documents);
	tcase_add_loop_test(test, every_status_of_the_contract_has_a_problem, 0, 11);
	tcase_add_test(test, a_fault_has_pointer_code_and_detail);
	tcase_add_test(test, beyond_64_faults_the_true_count_is_told);
	tcase_add_test(test, a_near_miss_is_suggested);
	tcase_add_test(test, client_text_is_never_echoed_unescaped);
	return test;
}

int main(void)
{
	TCase *const cases[] = { problem_tests() };

	return run_cases("problem", cases, COUNT(cases));
}
