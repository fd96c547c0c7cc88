#include "tests/ask.h"

#define T4 "{\"model\":\"llama-3.2-1b\",\"gpus\":\"t4\"}"

static const json_t *result(const json_t *answer, size_t i)
{
	return json_array_get(json_object_get(answer, "results"), i);
}

START_TEST(a_fault_in_one_does_not_spoil_the_others)
{
	json_t *answer;

	post("/estimates", "{\"requests\":[" T4 ",{\"model\":\"llama-3.2-1b\",\"lora\":{\"rank\":0}},7," T4 "]}");
	ck_assert_int_eq(reply.status, 200);
	answer = document();
	ck_assert_uint_eq(json_array_size(json_object_get(answer, "results")), 4);
	ck_assert(json_equal(result(answer, 0), result(answer, 3)));
	ck_assert_str_eq(member(json_array_get(json_object_get(result(answer, 0), "fits"), 0), "gpu"), "t4");
	ck_assert_int_eq(json_integer_value(json_object_get(result(answer, 1), "status")), 422);
	ck_assert_str_eq(member(json_array_get(json_object_get(result(answer, 1), "errors"), 0), "pointer"),
			 "/requests/1/lora/rank");
	ck_assert_str_eq(member(json_array_get(json_object_get(result(answer, 2), "errors"), 0), "pointer"), "/requests/2");
	json_decref(answer);
}
END_TEST

START_TEST(no_requests_have_no_results)
{
	post("/estimates", "{\"requests\":[]}");
	ck_assert_str_eq(text(), "{\"results\":[]}");
	post("/estimates?format=records", "{\"requests\":[]}");
	ck_assert_str_eq(text(), "[]");
	post("/estimates?format=ndjson", "{\"requests\":[]}");
	ck_assert_int_eq(reply.status, 200);
	ck_assert_str_eq(text(), "");
}
END_TEST

/* The line-th line of text, cut at its end; static. */
static const char *line_of(const char *lines, int line)
{
	static char cut[4096];

	for (; line; line--)
		lines = strchr(lines, '\n') + 1;
	snprintf(cut, sizeof cut, "%.*s", (int)strcspn(lines, "\n"), lines);
	return cut;
}

static size_t count_commas(const char *line)
{
	size_t count = 0;

	for (bool quoted = false; *line; line++) {
		quoted ^= *line == '"';
		count += *line == ',' && !quoted;
	}
	return count;
}

START_TEST(every_line_of_csv_has_every_column)
{
	size_t columns;

	post("/estimates?format=csv", "{\"request\":{\"model\":\"llama-3.2-1b\",\"gpus\":[\"t4\",\"l4\"]},"
				      "\"sweep\":{\"micro_batch_size\":[1,0],\"lora.target_modules\":[[\"q_proj\"]],\"method\":[\"lora\"]}}");
	ck_assert_int_eq(reply.status, 200);
	ck_assert_uint_eq(count_lines(text()), 3);
	ck_assert_ptr_nonnull(strstr(line_of(text(), 0), "request,model,method,micro_batch_size,lora.target_modules,gpus,status,error,"));
	columns = count_commas(line_of(text(), 0));
	for (int i = 1; i < 3; i++)
		ck_assert_msg(count_commas(line_of(text(), i)) == columns, "%s", line_of(text(), i));
	ck_assert_ptr_nonnull(strstr(line_of(text(), 1), "0,llama-3.2-1b,lora,1,\"[\"\"q_proj\"\"]\",\"[\"\"t4\"\",\"\"l4\"\"]\",200,,"));
	ck_assert_ptr_nonnull(strstr(line_of(text(), 2), "422,/micro_batch_size "));
}
END_TEST

START_TEST(a_batch_includes_what_its_requests_ask_for)
{
	json_t *answer;

	post("/estimates", "{\"requests\":[" T4 ",{\"model\":\"llama-3.2-1b\",\"gpus\":\"t4\",\"include\":[\"timeline\"]}]}");
	answer = document();
	ck_assert_ptr_null(json_object_get(result(answer, 0), "timeline"));
	ck_assert_ptr_null(json_object_get(result(answer, 0), "rule_of_thumb"));
	ck_assert_uint_eq(json_array_size(json_object_get(result(answer, 1), "timeline")), 5);
	json_decref(answer);
}
END_TEST

START_TEST(a_sweep_reaches_into_a_file)
{
	json_t *answer, *ignored;

	post("/estimates", "{\"request\":{\"from\":{\"axolotl\":{\"base_model\":\"llama-3.2-1b\",\"seed\":1}},\"gpus\":\"t4\"},"
			   "\"sweep\":{\"from.axolotl.micro_batch_size\":[1,0,2]}}");
	answer = document();
	ignored = json_object_get(result(answer, 0), "ignored");
	ck_assert_uint_eq(json_array_size(ignored), 1);
	ck_assert_str_eq(json_string_value(json_array_get(ignored, 0)), "/from/axolotl/seed");
	ck_assert_str_eq(member(json_array_get(json_object_get(result(answer, 1), "errors"), 0), "pointer"),
			 "/from/axolotl/micro_batch_size");
	ck_assert(!json_equal(json_object_get(result(answer, 0), "peak"), json_object_get(result(answer, 2), "peak")));
	json_decref(answer);
}
END_TEST

START_TEST(a_stream_may_be_left_half_way)
{
	struct srv_request request = { .method = "POST", .path = "/estimates", .content_type = "application/json",
				       .body = "{\"requests\":[" T4 "," T4 "]}" };
	struct srv_buffer buffer = { 0 };
	struct srv_span span;

	request.body_length = strlen(request.body);
	srv_route(context, &request, &reply);
	ck_assert_ptr_nonnull(reply.stream);
	span = srv_stream_span(reply.stream);
	ck_assert(srv_stream_part(reply.stream, &span, context, &buffer));
	ck_assert_msg(!strncmp(buffer.data, "{\"results\":[{\"model\":", 20), "%.40s", buffer.data);
	srv_reply_drop_stream(&reply); /* a sanitizer sees what is not freed */
	ck_assert_ptr_null(reply.stream);
	srv_buffer_finish(&buffer);
	post("/estimate", T4);
	ck_assert_int_eq(reply.status, 200);
}
END_TEST

int main(void)
{
	TCase *tcase = tcase_create("estimates");

	tcase_add_test(tcase, a_fault_in_one_does_not_spoil_the_others);
	tcase_add_test(tcase, no_requests_have_no_results);
	tcase_add_test(tcase, every_line_of_csv_has_every_column);
	tcase_add_test(tcase, a_batch_includes_what_its_requests_ask_for);
	tcase_add_test(tcase, a_sweep_reaches_into_a_file);
	tcase_add_test(tcase, a_stream_may_be_left_half_way);
	return run_cases("estimates", (TCase *const[]){ tcase }, 1);
}
