#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "config/config.h"
#include "tests/suite.h"

static struct est_notes notes;

static bool read_text(const char *text, struct est_model *ret_model, struct est_faults *faults)
{
	json_t *object = json_loads(text, 0, NULL);
	bool read;

	ck_assert_msg(object, "%s", text);
	faults->count = 0;
	notes.count = 0;
	read = cfg_model_from_parameters(object, "/model", ret_model, &notes, faults);
	json_decref(object);
	return read;
}

static const struct est_note *note_at(const char *pointer)
{
	for (size_t i = 0; i < notes.count; i++)
		if (!strcmp(notes.item[i].pointer, pointer))
			return &notes.item[i];
	return NULL;
}

/* Twenty sizes for each factor of ten, 1e5 to 1e13. */
enum { SIZES_PER_DECADE = 20, SIZES = 8 * SIZES_PER_DECADE + 1 };

START_TEST(a_size_alone_becomes_a_shape_of_that_size)
{
	double parameters = round(pow(10, 5 + (double)_i / SIZES_PER_DECADE));
	json_t *object = json_pack("{s:f}", "parameters", parameters);
	struct est_faults faults = { 0 };
	struct est_model model;

	notes.count = 0;
	ck_assert_msg(cfg_model_from_parameters(object, "/model", &model, &notes, &faults), "%.0f: %s", parameters,
		      faults.item[0].detail);
	json_decref(object);
	ck_assert_int_eq(model.parameters, (int64_t)parameters);
	ck_assert_double_le(fabs((double)est_model_count_parameters(&model) / parameters - 1), 0.02);
	ck_assert_int_eq(model.num_attention_heads * model.head_dim, model.hidden_size);
	ck_assert_int_eq(model.num_attention_heads % model.num_key_value_heads, 0);
	if (parameters >= 1e8) /* below, the vocabulary is most of it */
		ck_assert_msg(model.intermediate_size >= 2 * model.hidden_size
			      && model.intermediate_size <= 5 * model.hidden_size, "%.0f", parameters);
	ck_assert(model.inferred);
	ck_assert_str_eq(model.id, "custom");
}
END_TEST

START_TEST(the_size_of_llama_becomes_llama)
{
	struct est_faults faults;
	struct est_model model;

	ck_assert(read_text("{\"parameters\":8030261248}", &model, &faults));
	ck_assert_int_eq(model.hidden_size, 4096);
	ck_assert_int_eq(model.num_hidden_layers, 32);
	ck_assert_int_eq(model.num_attention_heads, 32);
	ck_assert_int_eq(model.num_key_value_heads, 8);
	ck_assert_int_eq(model.intermediate_size, 14336);
	ck_assert_int_eq(model.vocab_size, 128256);
	ck_assert_int_eq(est_model_count_parameters(&model), 8030261248);
}
END_TEST

static const struct {
	const char *text;
	int64_t parameters;
} spellings[] = {
	{ "{\"parameters\":8000000000}", INT64_C(8000000000) },
	{ "{\"parameters\":8e9}", INT64_C(8000000000) },
	{ "{\"parameters\":\"8B\"}", INT64_C(8000000000) },
	{ "{\"parameters\":\"8b\"}", INT64_C(8000000000) },
	{ "{\"parameters\":\"350M\"}", INT64_C(350000000) },
	{ "{\"parameters\":\"1.5e9\"}", INT64_C(1500000000) },
	{ "{\"parameters\":\"1.1T\"}", INT64_C(1100000000000) },
	{ "{\"parameters\":\"500k\"}", INT64_C(500000) },
	{ "{\"parameters\":\"7000000000\"}", INT64_C(7000000000) },
};

START_TEST(a_size_is_a_number_or_what_people_say)
{
	struct est_faults faults;
	struct est_model model;

	ck_assert_msg(read_text(spellings[_i].text, &model, &faults), "%s", spellings[_i].text);
	ck_assert_int_eq(model.parameters, spellings[_i].parameters);
}
END_TEST

START_TEST(what_is_inferred_is_said)
{
	static const char *const pointers[] = { "/model", "/model/hidden_size", "/model/num_hidden_layers",
		"/model/num_attention_heads", "/model/num_key_value_heads", "/model/head_dim",
		"/model/intermediate_size", "/model/vocab_size", "/model/tie_word_embeddings" };
	struct est_faults faults;
	struct est_model model;

	ck_assert(read_text("{\"parameters\":\"8B\"}", &model, &faults));
	ck_assert_uint_eq(notes.count, sizeof(pointers) / sizeof(pointers[0]));
	for (size_t i = 0; i < notes.count; i++)
		ck_assert_ptr_nonnull(note_at(pointers[i]));
	ck_assert_str_eq(note_at("/model/hidden_size")->value, "4096");
	ck_assert_str_eq(note_at("/model/tie_word_embeddings")->value, "false");
	ck_assert_ptr_nonnull(strstr(note_at("/model")->detail, "counts"));
}
END_TEST

#define GIVEN "{\"parameters\":\"7B\",\"hidden_size\":4096,\"num_hidden_layers\":32,\"num_attention_heads\":32," \
	"\"num_key_value_heads\":32,\"intermediate_size\":11008,\"vocab_size\":32000,\"tie_word_embeddings\":false}"

START_TEST(what_is_given_stays_and_is_not_said)
{
	struct est_faults faults;
	struct est_model model;

	ck_assert(read_text(GIVEN, &model, &faults));
	ck_assert_int_eq(est_model_count_parameters(&model), 6738415616);
	ck_assert_int_eq(model.parameters, 7000000000);
	ck_assert_int_eq(model.head_dim, 128);
	ck_assert_uint_eq(notes.count, 2);
	ck_assert_ptr_nonnull(note_at("/model"));
	ck_assert_ptr_nonnull(note_at("/model/head_dim"));
}
END_TEST

/* One or two members given: they stay, and the rest makes up for the size. */
static const struct {
	const char *text, *member;
	int64_t value;
	double parameters;
} partial[] = {
	{ "{\"parameters\":\"8B\",\"hidden_size\":3584}", "hidden_size", 3584, 8e9 },
	{ "{\"parameters\":\"8B\",\"num_hidden_layers\":48}", "layers", 48, 8e9 },
	{ "{\"parameters\":\"8B\",\"num_hidden_layers\":20,\"hidden_size\":4096}", "layers", 20, 8e9 },
	{ "{\"parameters\":\"8B\",\"vocab_size\":32000}", "vocab_size", 32000, 8e9 },
	{ "{\"parameters\":\"8B\",\"num_attention_heads\":40}", "heads", 40, 8e9 },
	{ "{\"parameters\":\"8B\",\"num_attention_heads\":40,\"head_dim\":128}", "heads", 40, 8e9 },
	{ "{\"parameters\":\"8B\",\"head_dim\":256}", "head_dim", 256, 8e9 },
	{ "{\"parameters\":\"8B\",\"intermediate_size\":11008}", "intermediate_size", 11008, 8e9 },
	{ "{\"parameters\":\"8B\",\"num_key_value_heads\":1}", "key_value", 1, 8e9 },
	{ "{\"parameters\":\"70B\",\"hidden_size\":8192}", "hidden_size", 8192, 7e10 },
};

START_TEST(the_rest_makes_up_for_what_is_given)
{
	struct est_faults faults;
	struct est_model model;

	ck_assert_msg(read_text(partial[_i].text, &model, &faults), "%s: %s", partial[_i].text, faults.item[0].detail);
	ck_assert_msg(fabs((double)est_model_count_parameters(&model) / partial[_i].parameters - 1) <= 0.02,
		      "%s counts %lld", partial[_i].text, (long long)est_model_count_parameters(&model));
	ck_assert_msg(model.hidden_size == partial[_i].value || model.num_hidden_layers == partial[_i].value
		      || model.vocab_size == partial[_i].value || model.num_attention_heads == partial[_i].value
		      || model.head_dim == partial[_i].value || model.intermediate_size == partial[_i].value
		      || model.num_key_value_heads == partial[_i].value, "%s", partial[_i].text);
}
END_TEST

static const struct {
	const char *name, *text, *pointer;
	enum est_fault_code code;
} faulty[] = {
	{ "no size", "{\"hidden_size\":64}", "/model/parameters", EST_MISSING },
	{ "a null", "{\"parameters\":null}", "/model/parameters", EST_MISSING },
	{ "a list", "{\"parameters\":[8]}", "/model/parameters", EST_WRONG_TYPE },
	{ "true", "{\"parameters\":true}", "/model/parameters", EST_WRONG_TYPE },
	{ "words", "{\"parameters\":\"large\"}", "/model/parameters", EST_WRONG_TYPE },
	{ "an empty text", "{\"parameters\":\"\"}", "/model/parameters", EST_WRONG_TYPE },
	{ "another unit", "{\"parameters\":\"8GB\"}", "/model/parameters", EST_WRONG_TYPE },
	{ "hexadecimal", "{\"parameters\":\"0x1p40\"}", "/model/parameters", EST_WRONG_TYPE },
	{ "infinity", "{\"parameters\":\"inf\"}", "/model/parameters", EST_WRONG_TYPE },
	{ "less than nothing", "{\"parameters\":-8e9}", "/model/parameters", EST_OUT_OF_RANGE },
	{ "eight", "{\"parameters\":8}", "/model/parameters", EST_OUT_OF_RANGE },
	{ "too much", "{\"parameters\":\"1e300\"}", "/model/parameters", EST_OUT_OF_RANGE },
	{ "a width of nothing", "{\"parameters\":8e9,\"hidden_size\":0}", "/model/hidden_size", EST_OUT_OF_RANGE },
	{ "a width in text", "{\"parameters\":8e9,\"hidden_size\":\"64\"}", "/model/hidden_size", EST_WRONG_TYPE },
	{ "half a layer", "{\"parameters\":8e9,\"num_hidden_layers\":0.5}", "/model/num_hidden_layers",
	  EST_OUT_OF_RANGE },
	{ "a switch in numbers", "{\"parameters\":8e9,\"tie_word_embeddings\":1}", "/model/tie_word_embeddings",
	  EST_WRONG_TYPE },
	{ "an unknown member", "{\"parameters\":8e9,\"hidden/size\":64}", "/model/hidden~1size", EST_UNKNOWN_FIELD },
	{ "heads that do not divide", "{\"parameters\":8e9,\"hidden_size\":4096,\"num_attention_heads\":33}",
	  "/model/num_attention_heads", EST_CONTRADICTION },
	{ "groups that do not divide", "{\"parameters\":8e9,\"num_key_value_heads\":7,\"num_attention_heads\":32}",
	  "/model/num_key_value_heads", EST_CONTRADICTION },
	{ "a shape of another size", "{\"parameters\":8e9,\"hidden_size\":64,\"num_hidden_layers\":1,"
	  "\"intermediate_size\":64}", "/model/parameters", EST_CONTRADICTION },
};

START_TEST(a_fault_points_at_the_member)
{
	struct est_faults faults;
	struct est_model model = { .hidden_size = -1 };

	ck_assert_msg(!read_text(faulty[_i].text, &model, &faults), "%s", faulty[_i].name);
	ck_assert_str_eq(faults.item[0].pointer, faulty[_i].pointer);
	ck_assert_msg(faults.item[0].code == faulty[_i].code, "%s: %s", faulty[_i].name, faults.item[0].detail);
	ck_assert_int_eq(model.hidden_size, -1);
	ck_assert_uint_eq(notes.count, 0);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("custom");
	TCase *test = tcase_create("custom");

	tcase_add_loop_test(test, a_size_alone_becomes_a_shape_of_that_size, 0, SIZES);
	tcase_add_test(test, the_size_of_llama_becomes_llama);
	tcase_add_loop_test(test, a_size_is_a_number_or_what_people_say, 0, COUNT(spellings));
	tcase_add_test(test, what_is_inferred_is_said);
	tcase_add_test(test, what_is_given_stays_and_is_not_said);
	tcase_add_loop_test(test, the_rest_makes_up_for_what_is_given, 0, COUNT(partial));
	tcase_add_loop_test(test, a_fault_points_at_the_member, 0, COUNT(faulty));
	suite_add_tcase(suite, test);
	return run_suite(suite);
}
