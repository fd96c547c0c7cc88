#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "config/config.h"
#include "tests/source.h"
#include "tests/suite.h"

static struct cfg_catalog *catalog; /* loaded once, before the tests fork */
static struct est_notes notes;

static bool read_text(const char *text, struct est_model *ret_model, struct est_faults *faults)
{
	json_t *value = json_loads(text, JSON_DECODE_ANY, NULL);
	bool read;

	ck_assert_msg(value, "%s", text);
	faults->count = 0;
	notes.count = 0;
	read = cfg_read_model(value, "/model", catalog, ret_model, &notes, faults);
	json_decref(value);
	return read;
}

#define SIZES "\"vocab_size\":100,\"hidden_size\":64,\"num_hidden_layers\":2,\"num_attention_heads\":4," \
	"\"intermediate_size\":160"

static const struct {
	const char *text, *id;
	size_t notes;
} models[] = {
	{ "\"llama-3.1-8b\"", "llama-3.1-8b", 0 },
	{ "\"LLAMA-3.1-8B\"", "llama-3.1-8b", 0 },
	{ "\"meta-llama/Llama-3.1-8B\"", "llama-3.1-8b", 0 },
	{ "\"meta_llama/llama_3.1_8b\"", "llama-3.1-8b", 0 },
	{ "\"mixtral-8x7b\"", "mixtral-8x7b", 0 },
	{ "\"opt-13b\"", "opt-13b", 1 },
	{ "\"command-r-plus\"", "command-r-plus", 1 },
	{ "{\"model_type\":\"llama\"," SIZES "}", "custom", 0 },
	{ "{\"model_type\":\"llama\"," SIZES ",\"parameters\":3}", "custom", 0 },
	{ "{\"parameters\":\"8B\"}", "custom", 9 },
};

START_TEST(a_model_is_named_described_or_sized)
{
	struct est_faults faults;
	struct est_model model;

	ck_assert_msg(read_text(models[_i].text, &model, &faults), "%s: %s", models[_i].text, faults.item[0].detail);
	ck_assert_str_eq(model.id, models[_i].id);
	ck_assert_int_gt(model.parameters, 0);
	ck_assert_msg(notes.count == models[_i].notes, "%s: %zu notes", models[_i].text, notes.count);
}
END_TEST

START_TEST(what_is_not_verified_is_said)
{
	struct est_faults faults;
	struct est_model model;

	ck_assert(read_text("\"opt-13b\"", &model, &faults));
	ck_assert_str_eq(notes.item[0].pointer, "/model");
	ck_assert_ptr_nonnull(strstr(notes.item[0].detail, "unverified"));
}
END_TEST

static const struct {
	const char *text, *pointer;
	enum est_fault_code code;
	const char *says;
} faulty[] = {
	{ "\"lama-3.1-8b\"", "/model", EST_UNKNOWN_VALUE, "did you mean \"llama-3.1-8b\"?" },
	{ "\"something-else-entirely\"", "/model", EST_UNKNOWN_VALUE, "is not a known model" },
	{ "\"\"", "/model", EST_UNKNOWN_VALUE, "is not a known model" },
	{ "8", "/model", EST_WRONG_TYPE, "must be a preset id" },
	{ "[]", "/model", EST_WRONG_TYPE, "must be a preset id" },
	{ "{}", "/model", EST_MISSING, "must be a preset id" },
	{ "{\"model_type\":null,\"parameters\":8e9}", "/model/model_type", EST_MISSING, "is required" },
	{ "{\"model_type\":\"dbrx\"," SIZES "}", "/model", EST_NOT_SUPPORTED_YET, "mixture of experts" },
	{ "{\"model_type\":\"llama\"}", "/model/vocab_size", EST_MISSING, "is required" },
	{ "{\"parameters\":\"many\"}", "/model/parameters", EST_WRONG_TYPE, "must be a number" },
};

START_TEST(a_faulty_model_is_told)
{
	struct est_faults faults;
	struct est_model model = { .hidden_size = -1 };

	ck_assert_msg(!read_text(faulty[_i].text, &model, &faults), "%s", faulty[_i].text);
	ck_assert_str_eq(faults.item[0].pointer, faulty[_i].pointer);
	ck_assert_int_eq(faults.item[0].code, faulty[_i].code);
	ck_assert_msg(strstr(faults.item[0].detail, faulty[_i].says), "%s: %s", faulty[_i].text, faults.item[0].detail);
	ck_assert_int_eq(model.hidden_size, -1);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("resolve");
	TCase *test = tcase_create("resolve");
	int failed;

	catalog = shipped_catalog();
	tcase_add_loop_test(test, a_model_is_named_described_or_sized, 0, COUNT(models));
	tcase_add_test(test, what_is_not_verified_is_said);
	tcase_add_loop_test(test, a_faulty_model_is_told, 0, COUNT(faulty));
	suite_add_tcase(suite, test);
	failed = run_suite(suite);
	cfg_catalog_destroy(catalog);
	return failed;
}
