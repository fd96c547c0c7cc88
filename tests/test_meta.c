#include "tests/ask.h"

START_TEST(readiness_goes_red_while_draining_and_liveness_does_not)
{
	get("/readyz");
	ck_assert_int_eq(reply.status, 200);
	ck_assert_str_eq(text(), "{\"status\":\"ok\"}");
	atomic_store(&service.draining, true);
	get("/readyz");
	check_problem("draining", 503);
	get("/healthz");
	ck_assert_int_eq(reply.status, 200);
}
END_TEST

START_TEST(metrics_count_by_route_method_and_status)
{
	struct srv_context *other = srv_context_create(&service);
	struct srv_context *both[] = { context, other };

	srv_metrics_count(&context->metrics, 0, "POST", 200, 90000);
	srv_metrics_count(&other->metrics, 0, "POST", 200, 2000000000);
	srv_metrics_count(&other->metrics, SRV_NO_ROUTE, "BREW", 404, 1);
	service.contexts = both;
	service.context_count = 2;
	get("/metrics");
	ck_assert_str_eq(reply.content_type, "text/plain; version=0.0.4; charset=utf-8");
	ck_assert_ptr_nonnull(
		strstr(text(), "vramcast_http_requests_total{route=\"/estimate\",method=\"POST\",code=\"200\"} 2\n"));
	ck_assert_ptr_nonnull(
		strstr(text(), "vramcast_http_requests_total{route=\"none\",method=\"other\",code=\"404\"} 1\n"));
	ck_assert_ptr_nonnull(strstr(text(), "duration_seconds_bucket{route=\"/estimate\",le=\"0.0001\"} 1\n"));
	ck_assert_ptr_nonnull(strstr(text(), "duration_seconds_bucket{route=\"/estimate\",le=\"1\"} 1\n"));
	ck_assert_ptr_nonnull(strstr(text(), "duration_seconds_bucket{route=\"/estimate\",le=\"+Inf\"} 2\n"));
	ck_assert_ptr_nonnull(strstr(text(), "duration_seconds_sum{route=\"/estimate\"} 2.000090\n"));
	ck_assert_ptr_nonnull(strstr(text(), "vramcast_http_requests_in_flight 0\n"));
	ck_assert_ptr_nonnull(strstr(text(), "vramcast_build_info{version=\""));
	srv_context_destroy(other);
}
END_TEST

START_TEST(metrics_are_lines_that_prometheus_reads)
{
	char *copy, *rest;

	srv_metrics_count(&context->metrics, 0, "GET", 422, 1);
	get("/metrics");
	copy = strdup(text());
	for (char *line = strtok_r(copy, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
		const char *space = strrchr(line, ' ');

		if (*line == '#') {
			ck_assert(!strncmp(line, "# HELP ", 7) || !strncmp(line, "# TYPE ", 7));
			continue;
		}
		ck_assert_msg(!strncmp(line, "vramcast_", 9) || !strncmp(line, "process_", 8), "%s", line);
		ck_assert_msg(space && space[1 + strspn(space + 1, "0123456789.")] == '\0', "%s", line);
	}
	free(copy);
}
END_TEST

START_TEST(every_problem_has_a_column_in_the_metrics)
{
	for (int i = SRV_OK + 1; i < SRV_PROBLEMS; i++) {
		int status = srv_problem_row((enum srv_problem)i)->status;
		char code[32];

		srv_metrics_count(&context->metrics, 0, "GET", status, 1);
		get("/metrics");
		snprintf(code, sizeof code, "code=\"%d\"} ", status);
		ck_assert_ptr_nonnull(strstr(text(), code));
	}
}
END_TEST

START_TEST(the_description_is_the_file_of_the_project)
{
	char path[4096];
	FILE *file;
	size_t length;
	const char *body;
	json_t *read;

	snprintf(path, sizeof path, "%s/openapi/openapi.yaml", getenv("VRAMCAST_SOURCE"));
	file = fopen(path, "rb");
	ck_assert_ptr_nonnull(file);
	get("/openapi.yaml");
	body = srv_reply_body(&reply, &length);
	for (size_t i = 0; i < length; i++)
		ck_assert_int_eq(fgetc(file), (unsigned char)body[i]);
	ck_assert_int_eq(fgetc(file), EOF);
	fclose(file);
	get("/openapi.json");
	read = document();
	ck_assert_ptr_nonnull(json_object_get(json_object_get(read, "paths"), "/estimate"));
	json_decref(read);
}
END_TEST

START_TEST(the_page_needs_nothing_from_elsewhere)
{
	static const char *const files[] = { "/", "/page/main.js", "/page/page.css" };
	static const char *const types[] = { "text/html; charset=utf-8", "text/javascript; charset=utf-8",
					     "text/css; charset=utf-8" };

	for (int i = 0; i < COUNT(files); i++) {
		get(files[i]);
		ck_assert_int_eq(reply.status, 200);
		ck_assert_str_eq(reply.content_type, types[i]);
		ck_assert_str_eq(header("Cache-Control"), "no-cache");
		ck_assert_ptr_nonnull(strstr(header("Content-Security-Policy"), "default-src 'none'; script-src 'self'"));
		ck_assert_ptr_null(strstr(header("Content-Security-Policy"), "unsafe"));
	}
	get("/page/nothing");
	check_problem("not-found", 404);
}
END_TEST

static TCase *meta_tests(void)
{
	TCase *test = tcase_create("service");

	tcase_add_test(test, readiness_goes_red_while_draining_and_liveness_does_not);
	tcase_add_test(test, metrics_count_by_route_method_and_status);
	tcase_add_test(test, metrics_are_lines_that_prometheus_reads);
	tcase_add_test(test, every_problem_has_a_column_in_the_metrics);
	tcase_add_test(test, the_description_is_the_file_of_the_project);
	tcase_add_test(test, the_page_needs_nothing_from_elsewhere);
	return test;
}

int main(void)
{
	TCase *const cases[] = { meta_tests() };

	return run_cases("meta", cases, COUNT(cases));
}
