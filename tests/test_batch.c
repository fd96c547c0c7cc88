#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "config/batch.h"
#include "estimator/fields.h"
#include "tests/suite.h"

static struct est_faults faults;
static struct cfg_batch batch;

static bool read_batch(const char *text)
{
	json_t *body = json_loads(text, 0, NULL);
	bool right;

	ck_assert_msg(body != NULL, "%s", text);
	memset(&faults, 0, sizeof(faults));
	right = cfg_batch_init(&batch, body, &faults);
	json_decref(body);
	return right;
}

static bool is_named(const char *field)
{
	bool named[128];

	cfg_batch_fields(&batch, named);
	return named[est_field_find(field) - est_request_fields];
}

/* Request i as text; static. */
static const char *request(size_t i, char base[EST_POINTER_MAX])
{
	static char text[512];
	json_t *made = cfg_batch_request(&batch, i, base);
	char *dumped = json_dumps(made, JSON_COMPACT);

	snprintf(text, sizeof(text), "%s", dumped);
	free(dumped);
	json_decref(made);
	return text;
}

static const struct {
	const char *name, *body, *pointer;
	enum est_fault_code code;
} wrong[] = {
	{ "a list", "[]", "", EST_WRONG_TYPE },
	{ "nothing", "{}", "/request", EST_MISSING },
	{ "an unknown member", "{\"requests\":[],\"a/b\":1}", "/a~1b", EST_UNKNOWN_FIELD },
	{ "requests that are no list", "{\"requests\":{}}", "/requests", EST_WRONG_TYPE },
	{ "both forms", "{\"requests\":[],\"request\":{}}", "/request", EST_CONTRADICTION },
	{ "a sweep beside a list", "{\"requests\":[],\"sweep\":{}}", "/sweep", EST_CONTRADICTION },
	{ "a request that is no object", "{\"request\":1}", "/request", EST_WRONG_TYPE },
	{ "a sweep that is no object", "{\"request\":{},\"sweep\":[]}", "/sweep", EST_WRONG_TYPE },
	{ "values that are no list", "{\"request\":{},\"sweep\":{\"lora.rank\":8}}", "/sweep/lora.rank", EST_WRONG_TYPE },
	{ "no values", "{\"request\":{},\"sweep\":{\"a\":[]}}", "/sweep/a", EST_WRONG_TYPE },
};

START_TEST(a_wrong_envelope_is_a_fault)
{
	ck_assert_msg(!read_batch(wrong[_i].body), "%s", wrong[_i].name);
	ck_assert_msg(!strcmp(faults.item[0].pointer, wrong[_i].pointer), "%s: %s", wrong[_i].name, faults.item[0].pointer);
	ck_assert_msg(faults.item[0].code == wrong[_i].code, "%s", wrong[_i].name);
}
END_TEST

START_TEST(a_list_is_its_requests_with_their_places)
{
	char base[EST_POINTER_MAX];

	ck_assert(read_batch("{\"requests\":[{\"model\":\"a\"},{\"model\":\"b\",\"lora\":{\"rank\":8}}]}"));
	ck_assert_uint_eq(batch.count, 2);
	ck_assert_str_eq(request(1, base), "{\"model\":\"b\",\"lora\":{\"rank\":8}}");
	ck_assert_str_eq(base, "/requests/1");
	ck_assert(is_named("lora.rank") && is_named("model"));
	ck_assert(!is_named("lora.alpha"));
	cfg_batch_finish(&batch);
	ck_assert(read_batch("{\"requests\":[7,{\"lora.rank\":8,\"model\":{\"lora\":{\"alpha\":1}},\"lora\":[]},{\"parallelism\":{\"buckets\":"
			     "{\"reduce_bucket_size\":null}}}]}"));
	ck_assert(is_named("parallelism.buckets.reduce_bucket_size") && is_named("model"));
	ck_assert(!is_named("lora.rank") && !is_named("lora.alpha"));
	cfg_batch_finish(&batch);
}
END_TEST

START_TEST(a_sweep_is_every_combination_the_last_name_fastest)
{
	static const char *const wanted[] = {
		"{\"lora\":{\"alpha\":1,\"rank\":8},\"s\":1}", "{\"lora\":{\"alpha\":1,\"rank\":8},\"s\":\"x\"}",
		"{\"lora\":{\"alpha\":1,\"rank\":8},\"s\":null}", "{\"lora\":{\"alpha\":1,\"rank\":64},\"s\":1}",
		"{\"lora\":{\"alpha\":1,\"rank\":64},\"s\":\"x\"}", "{\"lora\":{\"alpha\":1,\"rank\":64},\"s\":null}",
	};
	char base[EST_POINTER_MAX];

	ck_assert(read_batch("{\"request\":{\"lora\":{\"alpha\":1}},\"sweep\":{\"lora.rank\":[8,64],\"s\":[1,\"x\",null]}}"));
	ck_assert_uint_eq(batch.count, COUNT(wanted));
	for (int i = 0; i < COUNT(wanted); i++) {
		ck_assert_str_eq(request((size_t)i, base), wanted[i]);
		ck_assert_str_eq(base, "");
	}
	ck_assert(is_named("lora.rank") && is_named("lora.alpha") && !is_named("model"));
	cfg_batch_finish(&batch);
}
END_TEST

START_TEST(a_swept_name_makes_the_objects_that_it_lies_in)
{
	char base[EST_POINTER_MAX];

	ck_assert(read_batch("{\"request\":{\"a\":1},\"sweep\":{\"a.b.c\":[2]}}"));
	ck_assert_str_eq(request(0, base), "{\"a\":{\"b\":{\"c\":2}}}");
	cfg_batch_finish(&batch);
	ck_assert(read_batch("{\"request\":{\"a\":1}}"));
	ck_assert_uint_eq(batch.count, 1);
	ck_assert_str_eq(request(0, base), "{\"a\":1}");
	cfg_batch_finish(&batch);
}
END_TEST

/* {"request":{},"sweep":{"a":[1,...,1],"b":[1,...,1]}} with that many values each */
static bool read_square(int values)
{
	json_t *body = json_pack("{s:{},s:{s:[],s:[]}}", "request", "sweep", "a", "b"),
		*sweep = json_object_get(body, "sweep");
	bool right;

	for (int i = 0; i < values; i++) {
		json_array_append_new(json_object_get(sweep, "a"), json_integer(i));
		json_array_append_new(json_object_get(sweep, "b"), json_integer(i));
	}
	memset(&faults, 0, sizeof(faults));
	right = cfg_batch_init(&batch, body, &faults);
	json_decref(body);
	return right;
}

START_TEST(ten_thousand_requests_are_taken_and_no_more)
{
	char base[EST_POINTER_MAX];

	ck_assert(read_square(100));
	ck_assert_uint_eq(batch.count, CFG_BATCH_MAX);
	ck_assert_str_eq(request(9999, base), "{\"a\":99,\"b\":99}");
	cfg_batch_finish(&batch);
	ck_assert(!read_square(101));
	ck_assert_str_eq(faults.item[0].pointer, "/sweep");
	ck_assert_int_eq(faults.item[0].code, EST_OUT_OF_RANGE);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("batch");
	TCase *tcase = tcase_create("batch");

	tcase_add_loop_test(tcase, a_wrong_envelope_is_a_fault, 0, COUNT(wrong));
	tcase_add_test(tcase, a_list_is_its_requests_with_their_places);
	tcase_add_test(tcase, a_sweep_is_every_combination_the_last_name_fastest);
	tcase_add_test(tcase, a_swept_name_makes_the_objects_that_it_lies_in);
	tcase_add_test(tcase, ten_thousand_requests_are_taken_and_no_more);
	suite_add_tcase(suite, tcase);
	return run_suite(suite);
}
