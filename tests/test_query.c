#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "config/read.h"
#include "tests/catalog.h"
#include "tests/suite.h"

static struct est_faults faults;

static json_t *decode(const char *query)
{
	static const char *const skip[] = { "format", NULL };
	json_t *object;

	memset(&faults, 0, sizeof(faults));
	object = cfg_query_to_json(query, skip, &faults);
	ck_assert_int_eq(object == NULL, faults.count > 0);
	return object;
}

/* A query and the body of POST that it stands for (' for "). */
static const struct {
	const char *name, *query, *body;
} pairs[] = {
	{ "nothing", "", "{}" },
	{ "empty pairs", "&&", "{}" },
	{ "a string", "model=llama-3.1-8b", "{'model':'llama-3.1-8b'}" },
	{ "a model that looks like a number", "model=8", "{'model':'8'}" },
	{ "percent and plus", "model=meta-llama%2FLlama+3", "{'model':'meta-llama/Llama 3'}" },
	{ "lower and upper case escapes", "model=%c3%A9", "{'model':'\xC3\xA9'}" },
	{ "a key in escapes", "lora%2Erank=8", "{'lora':{'rank':8}}" },
	{ "numbers", "sequence_length=4096&max_grad_norm=0.5", "{'sequence_length':4096,'max_grad_norm':0.5}" },
	{ "a number with exponent", "model.parameters=8e9", "{'model':{'parameters':8e9}}" },
	{ "a number in words", "model.parameters=8B&model.hidden_size=4096",
	  "{'model':{'parameters':'8B','hidden_size':4096}}" },
	{ "a text where a number belongs", "sequence_length=4k", "{'sequence_length':'4k'}" },
	{ "nothing where a number belongs", "sequence_length=", "{'sequence_length':''}" },
	{ "a key alone", "torch_compile", "{'torch_compile':''}" },
	{ "a word", "method=qlora&parallelism.strategy=zero3",
	  "{'method':'qlora','parallelism':{'strategy':'zero3'}}" },
	{ "truth", "torch_compile=true&use_reentrant=false", "{'torch_compile':true,'use_reentrant':false}" },
	{ "a truth that is a number", "torch_compile=1", "{'torch_compile':1}" },
	{ "a version", "versions.torch=2.10", "{'versions':{'torch':'2.10'}}" },
	{ "a list by commas", "gpus=rtx-4090,h100-sxm5-80gb", "{'gpus':['rtx-4090','h100-sxm5-80gb']}" },
	{ "a list by repetition", "gpus=rtx-4090&gpus=h100-sxm5-80gb,l4",
	  "{'gpus':['rtx-4090','h100-sxm5-80gb','l4']}" },
	{ "a list of one", "include=limits", "{'include':['limits']}" },
	{ "a list of numbers", "gpu_memory_bytes=10,2e10", "{'gpu_memory_bytes':[10,2e10]}" },
	{ "names", "lora.target_modules=q_proj,v_proj", "{'lora':{'target_modules':['q_proj','v_proj']}}" },
	{ "all names", "lora.target_modules=all-linear", "{'lora':{'target_modules':'all-linear'}}" },
	{ "auto", "parallelism.buckets=auto", "{'parallelism':{'buckets':'auto'}}" },
	{ "a bucket", "parallelism.buckets.reduce_bucket_size=auto&parallelism.buckets.prefetch_bucket_size=5",
	  "{'parallelism':{'buckets':{'reduce_bucket_size':'auto','prefetch_bucket_size':5}}}" },
	{ "checkpointing", "gradient_checkpointing=true", "{'gradient_checkpointing':true}" },
	{ "checkpointing in a word", "gradient_checkpointing=offload", "{'gradient_checkpointing':'offload'}" },
	{ "checkpointing in an object", "gradient_checkpointing.every_n_layers=2",
	  "{'gradient_checkpointing':{'every_n_layers':2}}" },
	{ "an unknown key", "lora.rnk=8&zz=a", "{'lora':{'rnk':8},'zz':'a'}" },
	{ "what is skipped", "format=csv&method=full", "{'method':'full'}" },
	{ "json is text", "sequence_length=[1]&micro_batch_size={}",
	  "{'sequence_length':'[1]','micro_batch_size':'{}'}" },
	{ "an equals sign in a value", "model=a=b", "{'model':'a=b'}" },
};

START_TEST(a_query_stands_for_a_body)
{
	char text[512], *at;
	json_t *expected, *got = decode(pairs[_i].query);

	snprintf(text, sizeof(text), "%s", pairs[_i].body);
	for (at = strchr(text, '\''); at; at = strchr(at, '\''))
		*at = '"';
	expected = json_loads(text, 0, NULL);
	ck_assert_ptr_nonnull(expected);
	ck_assert_msg(json_equal(got, expected), "%s", pairs[_i].name);
	json_decref(expected);
	json_decref(got);
}
END_TEST

static const struct {
	const char *name, *query, *pointer;
	enum est_fault_code code;
} refused[] = {
	{ "given twice", "lora.rank=8&lora.rank=9", "/lora/rank", EST_CONTRADICTION },
	{ "whole and in parts", "lora=8&lora.rank=9", "/lora", EST_CONTRADICTION },
	{ "in parts and whole", "model.parameters=8&model=a", "/model", EST_CONTRADICTION },
	{ "a broken escape", "model=%4", "", EST_WRONG_TYPE },
	{ "a wrong escape", "model=%zz", "", EST_WRONG_TYPE },
	{ "an escape below the digits", "model=%1\x10", "", EST_WRONG_TYPE },
	{ "a NUL", "model=a%00b", "", EST_WRONG_TYPE },
	{ "a broken key", "%=1", "", EST_WRONG_TYPE },
	{ "a value that is not UTF-8", "model=%ff", "/model", EST_WRONG_TYPE },
	{ "an item that is not UTF-8", "gpus=a,%ff", "/gpus", EST_WRONG_TYPE },
	{ "a key that is not UTF-8", "%ff=1", "", EST_WRONG_TYPE },
	{ "too many segments", "a.b.c.d.e.f.g.h.i=1", "/a/b/c/d/e/f/g/h", EST_UNKNOWN_FIELD },
	{ "a segment that is too long",
	  "a.xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx=1", "/a",
			EST_UNKNOWN_FIELD },
};

START_TEST(a_query_that_is_none_is_refused)
{
	ck_assert_ptr_null(decode(refused[_i].query));
	ck_assert_uint_eq(faults.count, 1);
	ck_assert_str_eq(faults.item[0].pointer, refused[_i].pointer);
	ck_assert_msg(faults.item[0].code == refused[_i].code, "%s: %s", refused[_i].name, faults.item[0].detail);
}
END_TEST

START_TEST(tells_all_faults_at_once)
{
	ck_assert_ptr_null(decode("model=%ff&lora.rank=1&lora.rank=2&gpus=%"));
	ck_assert_uint_eq(faults.count, 3);
}
END_TEST

/* ---- Every row is reached both ways */

static struct cfg_request by_json, by_query;

/* A value that the field accepts and that is not its default, as it stands in a query. */
static void write_value(const struct est_field *field, char *text, size_t size)
{
	const struct est_word *word = field->words;

	switch (field->kind) {
	case EST_FIELD_BOOL:
		snprintf(text, size, "%s", field->fallback != 0 ? "false" : "true");
		break;
	case EST_FIELD_INT:
		snprintf(text, size, "%.0f", field->fallback == field->min ? field->max : field->min);
		break;
	case EST_FIELD_REAL:
		snprintf(text, size, "0.5");
		break;
	case EST_FIELD_NAMES:
		snprintf(text, size, "q_proj,v_proj");
		break;
	case EST_FIELD_VERSION:
		snprintf(text, size, "5.7");
		break;
	case EST_FIELD_MODEL:
		snprintf(text, size, "llama-3.2-1b");
		break;
	case EST_FIELD_GPUS:
		snprintf(text, size, "rtx-4090,h100-sxm5-80gb");
		break;
	case EST_FIELD_BYTES:
		snprintf(text, size, "1000000000,2000000000");
		break;
	default:
		while (word->alias || word->value == (int)field->fallback)
			word++;
		snprintf(text, size, "%s", word->name);
	}
}

/* The same as JSON, made without the query's reader: {"lora":{"rank":8}}. */
static json_t *write_body(const struct est_field *field, const char *value)
{
	bool quoted = field->kind == EST_FIELD_WORD || field->kind == EST_FIELD_VERSION
		|| field->kind == EST_FIELD_MODEL || field->kind == EST_FIELD_CHECKPOINTING;
	char text[512] = "{", name[96], *segment, *rest = NULL;
	int depth = 0;
	json_t *body;

	snprintf(name, sizeof(name), "%s", field->name);
	for (segment = strtok_r(name, ".", &rest); segment; segment = strtok_r(NULL, ".", &rest), depth++)
		sprintf(text + strlen(text), "%s\"%s\":", depth ? "{" : "", segment);
	if (field->kind == EST_FIELD_NAMES || field->kind == EST_FIELD_GPUS)
		sprintf(text + strlen(text), "[\"%.*s\",\"%s\"]", (int)strcspn(value, ","), value, strchr(value,
				',') + 1);
	else if (field->kind == EST_FIELD_WORDS)
		sprintf(text + strlen(text), "[\"%s\"]", value);
	else if (field->kind == EST_FIELD_BYTES)
		sprintf(text + strlen(text), "[%s]", value);
	else
		sprintf(text + strlen(text), "%s%s%s", quoted ? "\"" : "", value, quoted ? "\"" : "");
	while (depth--)
		strcat(text, "}");
	body = json_loads(text, 0, NULL);
	ck_assert_msg(body != NULL, "%s", text);
	if (field->kind != EST_FIELD_MODEL)
		json_object_set_new(body, "model", json_string("llama-3.1-8b"));
	return body;
}

/* Only what the reader finds is at stake; what the rules across fields say is another test's. */
static void read_object(json_t *object, struct cfg_request *ret)
{
	size_t i;

	memset(&faults, 0, sizeof(faults));
	cfg_read_request(object, "", catalog, ret, &faults);
	for (i = 0; i < faults.count; i++)
		ck_assert_msg(faults.item[i].code >= EST_CONTRADICTION || faults.item[i].code == EST_MISSING
			      || !strcmp(faults.item[i].pointer, "/sequence_length")
			      || !strcmp(faults.item[i].pointer, "/lora/rank"), "%s %s", faults.item[i].pointer,
			      faults.item[i].detail);
	json_decref(object);
}

START_TEST(every_row_is_reached_by_body_and_by_query)
{
	const struct est_field *field = &est_request_fields[_i];
	char value[96], query[256];
	double number;

	if (field->kind == EST_FIELD_FILE) /* a query names members of it: test_from.c */
		return;
	write_value(field, value, sizeof(value));
	snprintf(query, sizeof(query), "%s%s=%s", field->kind == EST_FIELD_MODEL ? "" : "model=llama-3.1-8b&",
		 field->name, value);
	read_object(write_body(field, value), &by_json);
	read_object(decode(query), &by_query);
	ck_assert(est_field_is_named(field, &by_json.request));
	ck_assert(est_field_is_named(field, &by_query.request));
	if (field->kind < EST_FIELD_MODEL) {
		number = est_field_get(field, &by_json.request);
		ck_assert_msg(number != field->fallback || !strcmp(field->name, "lora.modules_to_save"), "%s",
				field->name);
		ck_assert_msg(number == est_field_get(field, &by_query.request), "%s", field->name);
	}
	ck_assert(!memcmp(&by_json.request, &by_query.request, sizeof(by_json.request)));
	ck_assert_str_eq(by_json.model.id, by_query.model.id);
	ck_assert_uint_eq(by_json.card_count, by_query.card_count);
	ck_assert_str_eq(by_json.cards[0]->id, by_query.cards[0]->id);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("query");
	TCase *decoding = tcase_create("decoding"), *reaching = tcase_create("rows");

	cfg_json_init();
	tcase_add_loop_test(decoding, a_query_stands_for_a_body, 0, sizeof(pairs) / sizeof(pairs[0]));
	tcase_add_loop_test(decoding, a_query_that_is_none_is_refused, 0, sizeof(refused) / sizeof(refused[0]));
	tcase_add_test(decoding, tells_all_faults_at_once);
	tcase_add_checked_fixture(reaching, open_catalog, close_catalog);
	tcase_add_loop_test(reaching, every_row_is_reached_by_body_and_by_query, 0, (int)est_request_field_count);
	suite_add_tcase(suite, decoding);
	suite_add_tcase(suite, reaching);
	return run_suite(suite);
}
