#include "config/common.h"
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

/* apart: what the requests have in common is read once. */
static const struct {
	const char *name, *body;
	bool apart;
} sweeps[] = {
	{ "numbers and words, some of which contradict each other",
	  "{\"request\":{\"model\":\"llama-3.2-1b\",\"gpus\":\"t4\",\"lora\":{\"rank\":4,\"dropout\":0.1}},"
	  "\"sweep\":{\"lora.rank\":[8,16,0,\"x\"],\"method\":[\"lora\",\"qlora\",\"full\"],\"sequence_length\":[64,128]}}", true },
	{ "models", "{\"request\":{\"gpus\":\"t4\"},\"sweep\":{\"model\":[\"llama-3.2-1b\",{\"parameters\":\"1B\"},\"nobody\",7]}}", true },
	{ "cards", "{\"request\":{\"model\":\"llama-3.2-1b\"},\"sweep\":{\"gpus\":[\"T4\",[\"l4\",\"a100-80gb\"],\"nobody\",[]]}}", true },
	{ "sizes beside a card", "{\"request\":{\"model\":\"llama-3.2-1b\",\"gpus\":\"t4\",\"gpu_memory_bytes\":[1]},"
	  "\"sweep\":{\"gpu_memory_bytes\":[[17179869184],[8589934592,4294967296]]}}", true },
	{ "what is common to sizes", "{\"request\":{\"model\":\"llama-3.2-1b\",\"gpu_memory_bytes\":[17179869184]},"
	  "\"sweep\":{\"micro_batch_size\":[1,2]}}", true },
	{ "nothing", "{\"request\":{\"model\":\"llama-3.2-1b\",\"gpus\":\"t4\",\"optimizer\":\"sgd\"},"
	  "\"sweep\":{\"optimizer\":[null,\"adamw_8bit\"],\"model\":[\"llama-3.2-1b\",null]}}", true },
	{ "checkpoints", "{\"request\":{\"model\":\"llama-3.2-1b\",\"gpus\":\"l4\"},"
	  "\"sweep\":{\"gradient_checkpointing\":[true,false,\"selective\",{\"every_n_layers\":2},{\"x\":1}]}}", true },
	{ "names", "{\"request\":{\"model\":\"llama-3.2-1b\",\"gpus\":\"l4\",\"method\":\"lora\"},"
	  "\"sweep\":{\"lora.target_modules\":[\"all-linear\",[\"q_proj\",\"v_proj\"],[]],\"lora.modules_to_save\":[[],[\"lm_head\"]]}}", true },
	{ "parts of the answer", "{\"request\":{\"model\":\"llama-3.2-1b\",\"gpus\":\"l4\"},"
	  "\"sweep\":{\"include\":[[\"timeline\"],[\"hints\"],[\"limits\"]],\"framework\":[\"axolotl\",\"torchtune\"]}}", true },
	{ "a number of a group with a word", "{\"request\":{\"model\":\"llama-3.2-1b\",\"gpus\":\"l4\",\"parallelism\":"
	  "{\"gpus\":2,\"strategy\":\"zero2\",\"buckets\":\"auto\"}},\"sweep\":{\"parallelism.buckets.reduce_bucket_size\":[1000000]}}", false },
	{ "a group", "{\"request\":{\"model\":\"llama-3.2-1b\",\"gpus\":\"l4\",\"method\":\"lora\"},\"sweep\":{\"lora\":[{\"rank\":8},{}]}}", false },
	{ "a file", "{\"request\":{\"model\":\"llama-3.2-1b\",\"gpus\":\"l4\"},"
	  "\"sweep\":{\"from.training_arguments\":[{\"bf16\":true},{\"fp16\":true}]}}", false },
	{ "beside a file", "{\"request\":{\"from\":{\"axolotl\":{\"base_model\":\"llama-3.2-1b\",\"seed\":1}},\"gpus\":\"t4\"},"
	  "\"sweep\":{\"micro_batch_size\":[1,2]}}", false },
	{ "a fault of all", "{\"request\":{\"model\":\"llama-3.2-1b\",\"modle\":1},\"sweep\":{\"micro_batch_size\":[1,2]}}", false },
	{ "an unknown field", "{\"request\":{\"model\":\"llama-3.2-1b\"},\"sweep\":{\"lora.rnk\":[1,2]}}", false },
	{ "nothing varies", "{\"request\":{\"model\":\"llama-3.2-1b\",\"gpus\":\"t4\"}}", false },
};

/* {"requests": [...]} with the requests of the sweep, each written out; to be freed. */
static char *written_out(const struct cfg_batch *batch)
{
	json_t *list = json_array(), *body = json_pack("{s:o}", "requests", list);
	char base[EST_POINTER_MAX], *text;

	for (size_t i = 0; i < batch->count; i++)
		json_array_append_new(list, cfg_batch_request(batch, i, base));
	text = json_dumps(body, JSON_COMPACT);
	json_decref(body);
	return text;
}

static void check_same(const char *name, const json_t *one, const json_t *other)
{
	size_t i;
	const json_t *fault;

	if (!json_object_get(one, "errors")) {
		bool placed = json_object_get(one, "ignored"); /* says where in the body */

		ck_assert_msg(placed ? json_equal(json_object_get(one, "peak"), json_object_get(other, "peak"))
				     : json_equal(one, other), "%s", name);
		return;
	}
	ck_assert_uint_eq(json_array_size(json_object_get(one, "errors")), json_array_size(json_object_get(other, "errors")));
	json_array_foreach(json_object_get(one, "errors"), i, fault)
		ck_assert_str_eq(member(fault, "detail"), member(json_array_get(json_object_get(other, "errors"), i), "detail"));
}

/* The request in a list of its own, with which it has nothing in common. */
static void check_alone(const char *name, const struct cfg_batch *batch, size_t i, const json_t *among_others)
{
	char base[EST_POINTER_MAX], *body;
	json_t *list = json_pack("{s:[o]}", "requests", cfg_batch_request(batch, i, base)), *answer;

	body = json_dumps(list, JSON_COMPACT);
	post("/estimates", body);
	answer = document();
	check_same(name, among_others, result(answer, 0));
	free(body);
	json_decref(answer);
	json_decref(list);
}

START_TEST(a_sweep_is_its_requests_written_out)
{
	static struct est_faults faults;
	struct cfg_batch batch;
	struct cfg_common *common;
	json_t *body = json_loads(sweeps[_i].body, 0, NULL), *apart, *whole;
	char *list, *rows;

	ck_assert(cfg_batch_init(&batch, body, &faults));
	common = cfg_common_create(&batch, context->edition->catalog);
	ck_assert_msg((common != NULL) == sweeps[_i].apart, "%s", sweeps[_i].name);
	cfg_common_destroy(common);
	list = written_out(&batch);
	post("/estimates", sweeps[_i].body);
	apart = document();
	post("/estimates", list);
	whole = document();
	ck_assert_uint_eq(json_array_size(json_object_get(apart, "results")), batch.count);
	for (size_t i = 0; i < batch.count; i++) {
		check_same(sweeps[_i].name, result(apart, i), result(whole, i));
		check_alone(sweeps[_i].name, &batch, i, result(whole, i));
	}
	post("/estimates?format=csv", sweeps[_i].body);
	rows = strdup(text());
	post("/estimates?format=csv", list);
	if (sweeps[_i].apart && !strstr(rows, ",422,"))
		ck_assert_str_eq(rows, text());
	ck_assert_uint_eq(count_lines(rows), batch.count + 1);
	free(rows);
	free(list);
	json_decref(apart);
	json_decref(whole);
	json_decref(body);
	cfg_batch_finish(&batch);
}
END_TEST

/* What the requests of a list have in common is read once. */
START_TEST(a_list_answers_each_request_as_if_it_were_alone)
{
	static const char list[] =
		"{\"requests\":[{\"model\":\"llama-3.2-1b\",\"gpus\":\"t4\",\"lora\":{\"rank\":8},\"method\":\"lora\"},"
		"7,{\"gpus\":\"t4\",\"model\":\"llama-3.2-1b\",\"optimizer\":\"sgd\"},"
		"{\"model\":\"llama-3.2-1b\",\"gpus\":\"t4\",\"lora\":{\"dropout\":0.1},\"method\":\"qlora\"},"
		"{\"model\":\"llama-3.2-1b\",\"gpus\":\"t4\",\"lora\":{\"rank\":0},\"x\":1}]}";
	json_t *body = json_loads(list, 0, NULL), *answer;
	struct est_faults none = { 0 };
	struct cfg_batch batch;
	struct cfg_common *common;

	ck_assert(cfg_batch_init(&batch, body, &none));
	common = cfg_common_create(&batch, context->edition->catalog);
	ck_assert_ptr_nonnull(common);
	ck_assert_uint_eq(json_object_size(common->rest), 2);
	cfg_common_destroy(common);
	post("/estimates", list);
	answer = document();
	for (size_t i = 0; i < batch.count; i++)
		check_alone("a list", &batch, i, result(answer, i));
	ck_assert_str_eq(member(json_array_get(json_object_get(result(answer, 4), "errors"), 0), "pointer"), "/requests/4/lora/rank");
	json_decref(answer);
	json_decref(body);
	cfg_batch_finish(&batch);
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

	tcase_set_timeout(tcase, 60);
	tcase_add_test(tcase, a_fault_in_one_does_not_spoil_the_others);
	tcase_add_test(tcase, no_requests_have_no_results);
	tcase_add_test(tcase, every_line_of_csv_has_every_column);
	tcase_add_test(tcase, a_batch_includes_what_its_requests_ask_for);
	tcase_add_test(tcase, a_sweep_reaches_into_a_file);
	tcase_add_loop_test(tcase, a_sweep_is_its_requests_written_out, 0, COUNT(sweeps));
	tcase_add_test(tcase, a_list_answers_each_request_as_if_it_were_alone);
	tcase_add_test(tcase, a_stream_may_be_left_half_way);
	return run_cases("estimates", (TCase *const[]){ tcase }, 1);
}
