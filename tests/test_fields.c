#include <math.h>
#include <stdio.h>
#include <string.h>
#include "estimator/arena.h"
#include "estimator/fault.h"
#include "estimator/fields.h"
#include "estimator/report.h"
#include "tests/suite.h"

#define FIELD (&est_request_fields[_i])

static bool has_value(const struct est_field *field)
{
	return field->kind < EST_FIELD_MODEL;
}

START_TEST(a_row_is_called_as_it_lies_in_the_request)
{
	char pointer[96] = "/", *at;
	int i;

	strncat(pointer, FIELD->name, sizeof(pointer) - 2);
	for (at = strchr(pointer, '.'); at; at = strchr(at, '.'))
		*at = '/';
	ck_assert_str_eq(FIELD->pointer, pointer);
	ck_assert_ptr_eq(est_field_find(FIELD->name), FIELD);
	for (i = 0; i < _i; i++)
		ck_assert_msg(!has_value(FIELD) || !has_value(&est_request_fields[i])
			      || est_request_fields[i].offset != FIELD->offset, "%s lies on %s", FIELD->name,
			      est_request_fields[i].name);
}
END_TEST

START_TEST(a_row_says_in_a_sentence_what_it_means)
{
	size_t length = strlen(FIELD->doc);

	ck_assert_msg(length > 10 && length < 120, "%s", FIELD->name);
	ck_assert_msg(FIELD->doc[length - 1] == '.', "%s", FIELD->name);
}
END_TEST

START_TEST(a_row_has_what_its_kind_needs)
{
	bool is_number = FIELD->kind == EST_FIELD_INT || FIELD->kind == EST_FIELD_REAL
		|| FIELD->kind == EST_FIELD_BYTES || FIELD->kind == EST_FIELD_VERSION;
	bool is_worded = FIELD->kind == EST_FIELD_WORD || FIELD->kind == EST_FIELD_WORDS
		|| FIELD->kind == EST_FIELD_CHECKPOINTING;

	ck_assert_msg(!is_number || FIELD->min < FIELD->max, "%s", FIELD->name);
	ck_assert_msg(!is_worded || FIELD->words != NULL, "%s", FIELD->name);
	/* 0 stands for absent where the range begins at 1; auto lies below 0. */
	if (FIELD->kind == EST_FIELD_INT && FIELD->fallback > 0)
		ck_assert_msg(FIELD->fallback >= FIELD->min && FIELD->fallback <= FIELD->max, "%s", FIELD->name);
	if (FIELD->kind == EST_FIELD_WORD)
		ck_assert_str_ne(est_word_name(FIELD->words, (int)FIELD->fallback), "");
}
END_TEST

START_TEST(each_word_is_found_in_any_case_and_said_back)
{
	const struct est_word *word;
	char loud[64];
	size_t i;

	for (word = FIELD->words; word && word->name; word++) {
		for (i = 0; word->name[i]; i++)
			loud[i] = (char)(word->name[i] >= 'a' && word->name[i] <= 'z'
					? word->name[i] - 32 : word->name[i]);
		ck_assert_ptr_eq(est_word_find(FIELD->words, loud, i), word);
		ck_assert_ptr_ne(est_word_find(FIELD->words, loud, i - 1), word);
		if (!word->alias)
			ck_assert_str_eq(est_word_name(FIELD->words, word->value), word->name);
		else
			ck_assert_str_ne(est_word_name(FIELD->words, word->value), word->name);
	}
}
END_TEST

START_TEST(a_value_comes_back_and_moves_no_other)
{
	struct est_request request, before;
	double value = FIELD->kind == EST_FIELD_REAL ? 0.5 : 1;
	size_t i;

	est_request_init(&request);
	before = request;
	if (!has_value(FIELD))
		return;
	if (est_field_get(FIELD, &request) == value)
		value = 0;
	est_field_set(FIELD, &request, value);
	ck_assert_msg(est_field_get(FIELD, &request) == value, "%s", FIELD->name);
	for (i = 0; i < est_request_field_count; i++) {
		const struct est_field *other = &est_request_fields[i];

		if (has_value(other) && other != FIELD)
			ck_assert_msg(est_field_get(other, &request) == est_field_get(other, &before), "%s moves %s",
				      FIELD->name, other->name);
	}
}
END_TEST

START_TEST(a_fresh_request_holds_every_fallback_and_names_none)
{
	struct est_request request;

	est_request_init(&request);
	if (has_value(FIELD))
		ck_assert_msg(est_field_get(FIELD, &request) == FIELD->fallback, "%s", FIELD->name);
	ck_assert(!est_request_names(&request, FIELD->name));
	est_request_name(&request, FIELD);
	ck_assert(est_request_names(&request, FIELD->name));
	ck_assert_int_eq(__builtin_popcountll(request.named[0]) + __builtin_popcountll(request.named[1]), 1);
}
END_TEST

START_TEST(named_rows_are_found_in_order)
{
	static struct est_request request;
	const size_t last = est_request_field_count - 1, rows[] = { 0, 1, 63, 64, last };
	size_t at = 0;

	est_request_init(&request);
	ck_assert_ptr_null(est_next_named(&request, &at));
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		est_request_name(&request, &est_request_fields[rows[i]]);
	at = 0;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		ck_assert_ptr_eq(est_next_named(&request, &at), &est_request_fields[rows[i]]);
	ck_assert_ptr_null(est_next_named(&request, &at));
	ck_assert_ptr_null(est_next_named(&request, &at));
}
END_TEST

START_TEST(an_unknown_name_has_no_row)
{
	struct est_request request;

	est_request_init(&request);
	ck_assert_ptr_null(est_field_find("lora"));
	ck_assert_ptr_null(est_field_find("Method"));
	ck_assert(!est_request_names(&request, "lora"));
}
END_TEST

static const struct {
	const char *field;
	double value;
	const char *text;
} values[] = {
	{ "micro_batch_size", 4, "4" },
	{ "parallelism.sub_group_size", 1e15, "1000000000000000" },
	{ "parallelism.buckets.reduce_bucket_size", EST_AUTO, "auto" },
	{ "parallelism.buckets.reduce_bucket_size", 5e8, "500000000" },
	{ "quantization.group_size", -1, "-1" },
	{ "max_grad_norm", 0.25, "0.25" },
	{ "torch_compile", true, "true" },
	{ "attention", EST_EAGER, "eager" },
	{ "optimizer", EST_ADAMW_TORCH_FUSED, "adamw_torch_fused" },
	{ "versions.torch", 2013, "2.13" },
	{ "include", EST_INCLUDE_LIMITS | EST_INCLUDE_HINTS, "limits,hints" },
	{ "lora.target_modules", true, "all-linear" },
	{ "gradient_checkpointing", EST_CHECKPOINT_FULL, "full" },
	{ "gradient_checkpointing", EST_CHECKPOINT_EVERY_N, "every_n_layers 2" },
	{ "gradient_checkpointing", EST_CHECKPOINT_SELECTIVE, "selective all_matmul" },
	{ "gpus", 0, "" },
};

START_TEST(a_value_is_said_as_on_the_wire)
{
	struct est_request request;
	const struct est_field *field = est_field_find(values[_i].field);
	char text[64];

	est_request_init(&request);
	request.every_n_layers = 2;
	request.selective = EST_SELECTIVE_ALL_MATMUL;
	est_field_set(field, &request, values[_i].value);
	ck_assert_str_eq(est_field_text(field, &request, text, sizeof(text)), values[_i].text);
}
END_TEST

START_TEST(names_are_joined_and_cut)
{
	struct est_request request;
	const struct est_field *field = est_field_find("lora.target_modules");
	char text[64], little[8];

	est_request_init(&request);
	request.lora.target_modules = (struct est_names){ .count = 2, .name = { "q_proj", "v_proj" } };
	ck_assert_str_eq(est_field_text(field, &request, text, sizeof(text)), "q_proj,v_proj");
	ck_assert_str_eq(est_field_text(field, &request, little, sizeof(little)), "q_proj,");
}
END_TEST

START_TEST(words_are_listed_without_aliases)
{
	char text[512], little[12];

	ck_assert_str_eq(est_word_list(est_method_words, text, sizeof(text)), "full, lora, qlora or freeze");
	ck_assert_ptr_null(strstr(est_word_list(est_optimizer_words, text, sizeof(text)), "bnb"));
	ck_assert_str_eq(est_word_list(est_method_words, little, sizeof(little)), "full, lora,");
	ck_assert_str_eq(est_word_list(est_auto_words, text, sizeof(text)), "auto");
}
END_TEST

START_TEST(a_field_that_goes_only_with_another_says_so)
{
	struct est_request request;
	const char *only;

	est_request_init(&request);
	ck_assert(!est_field_applies(est_field_find("lora.rank"), &request, &only));
	ck_assert_str_eq(only, "method lora or qlora");
	request.method = EST_QLORA;
	ck_assert(est_field_applies(est_field_find("lora.rank"), &request, NULL));
	ck_assert(est_field_applies(est_field_find("quantization.bits"), &request, &only));
	ck_assert(!est_field_applies(est_field_find("parallelism.wrap"), &request, &only));
	ck_assert_ptr_null(only);
	ck_assert(est_field_applies(est_field_find("sequence_length"), &request, &only));
	ck_assert_ptr_null(only);
}
END_TEST

/* Another field's value, and a field that matters with it, or not (false). */
static const struct {
	const char *other;
	double value;
	const char *field;
	bool applies;
} conditions[] = {
	{ "optimizer", EST_GALORE_ADAMW, "optimizer_rank", true },
	{ "optimizer", EST_APOLLO_ADAMW, "optimizer_rank", true },
	{ "optimizer", EST_APOLLO_ADAMW_MINI, "optimizer_rank", false },
	{ "objective", EST_DPO, "reference_model", true },
	{ "objective", EST_KTO, "reference_model", true },
	{ "objective", EST_GRPO, "reference_model", true },
	{ "objective", EST_ORPO, "reference_model", false },
	{ "objective", EST_GRPO, "beta", true },
	{ "task", EST_SEQUENCE_TO_SEQUENCE, "target_length", true },
	{ "loss", EST_LOSS_CHUNKED, "completion_fraction", true },
	{ "gradient_checkpointing", EST_CHECKPOINT_FULL, "use_reentrant", true },
	{ "parallelism.gpus", 2, "offload.optimizer", true },
	{ "parallelism.tensor", 2, "parallelism.sequence_parallel", true },
	{ "parallelism.strategy", EST_DDP, "parallelism.gradient_as_bucket_view", true },
	{ "parallelism.strategy", EST_HSDP, "parallelism.shard_size", true },
	{ "parallelism.strategy", EST_HSDP, "parallelism.wrap", true },
	{ "parallelism.strategy", EST_FSDP, "parallelism.use_orig_params", false },
	{ "parallelism.strategy", EST_FSDP1, "parallelism.use_orig_params", true },
	{ "parallelism.strategy", EST_ZERO1, "parallelism.buckets.allgather_bucket_size", true },
	{ "parallelism.strategy", EST_ZERO3, "parallelism.buckets.allgather_bucket_size", false },
	{ "parallelism.strategy", EST_FSDP, "parallelism.buckets.allgather_bucket_size", false },
	{ "parallelism.strategy", EST_DDP, "parallelism.buckets.reduce_bucket_size", false },
	{ "parallelism.strategy", EST_ZERO3, "parallelism.sub_group_size", true },
	{ "method", EST_FREEZE, "trainable_layers", true },
};

START_TEST(a_field_matters_with_what_it_is_for)
{
	struct est_request request;

	est_request_init(&request);
	ck_assert(!est_field_applies(est_field_find(conditions[_i].field), &request, NULL));
	est_field_set(est_field_find(conditions[_i].other), &request, conditions[_i].value);
	ck_assert_msg(est_field_applies(est_field_find(conditions[_i].field), &request, NULL) == conditions[_i].applies,
		      "%s with %s", conditions[_i].field, conditions[_i].other);
}
END_TEST

START_TEST(faults_are_counted_beyond_the_list)
{
	struct est_faults faults = { 0 };
	int i;

	for (i = 0; i < EST_FAULTS_MAX + 3; i++)
		est_fault_add(&faults, "/a", EST_OUT_OF_RANGE, "must be below %d", i);
	ck_assert_uint_eq(faults.count, EST_FAULTS_MAX + 3);
	ck_assert_str_eq(faults.item[EST_FAULTS_MAX - 1].detail, "must be below 63");
	ck_assert_str_eq(est_fault_code_name(faults.item[0].code), "out_of_range");
	ck_assert_str_eq(est_fault_code_name(EST_FAULT_CODES), "");
}
END_TEST

START_TEST(a_refusal_names_the_value_and_tells_a_default_from_what_was_named)
{
	struct est_faults faults = { 0 };
	struct est_request request;

	est_request_init(&request);
	request.objective = EST_DPO;
	est_field_refuse("objective", &request, &faults, "is not modelled %s", "here");
	est_request_name(&request, est_field_find("objective"));
	est_refuse_with("care", (const struct est_refusal[]){ { "task", false }, { "objective", true } }, 2, &request,
			&faults);
	ck_assert_uint_eq(faults.count, 2);
	ck_assert_str_eq(faults.item[0].pointer, "/objective");
	ck_assert_int_eq(faults.item[0].code, EST_NOT_SUPPORTED_YET);
	ck_assert_str_eq(faults.item[0].detail, "dpo is not modelled here (the default here: name another)");
	ck_assert_str_eq(faults.item[1].pointer, "/objective");
	ck_assert_str_eq(faults.item[1].detail, "dpo is not modelled yet with care");
}
END_TEST

START_TEST(every_fault_has_a_name_of_its_own)
{
	int other;

	ck_assert_str_ne(est_fault_code_name((enum est_fault_code)_i), "");
	for (other = 0; other < _i; other++)
		ck_assert_str_ne(est_fault_code_name((enum est_fault_code)_i),
				 est_fault_code_name((enum est_fault_code)other));
}
END_TEST

START_TEST(notes_beyond_the_list_are_dropped)
{
	static struct est_notes notes;
	int i;

	for (i = 0; i < EST_NOTES_MAX + 3; i++)
		est_note_add(&notes, "/a", "b", "%d", i);
	ck_assert_uint_eq(notes.count, EST_NOTES_MAX);
	ck_assert_str_eq(notes.item[EST_NOTES_MAX - 1].detail, "63");
	ck_assert_str_eq(notes.item[0].value, "b");
}
END_TEST

START_TEST(an_arena_gives_zeroed_aligned_room_until_it_is_full)
{
	static _Alignas(max_align_t) char memory[256];
	struct est_arena arena;
	char *first, *second;
	size_t used;

	memset(memory, 0x55, sizeof(memory));
	est_arena_init(&arena, memory, sizeof(memory));
	first = est_arena_take(&arena, 3, 1);
	used = arena.used;
	second = est_arena_take(&arena, 2, 8);
	ck_assert_ptr_eq(first, memory);
	ck_assert_uint_eq((size_t)(second - first) % _Alignof(max_align_t), 0);
	ck_assert_int_eq(second[0] | second[15], 0);
	ck_assert_ptr_null(est_arena_take(&arena, 1, sizeof(memory)));
	ck_assert(arena.exhausted);
	ck_assert_ptr_null(est_arena_take(&arena, SIZE_MAX / 2, 4));
	ck_assert_ptr_null(est_arena_take(&arena, SIZE_MAX, 1));
	est_arena_rewind(&arena, used);
	ck_assert_ptr_eq(est_arena_take(&arena, 1, 1), second);
}
END_TEST

START_TEST(what_the_report_names_has_a_word)
{
	ck_assert_str_eq(est_category_name(EST_WORKSPACE), "workspace");
	ck_assert_str_eq(est_category_name(EST_CATEGORIES), "");
	ck_assert_str_eq(est_phase_name(EST_PHASE_LOSS_BACKWARD), "loss_backward");
	ck_assert_str_eq(est_phase_name(EST_PHASES), "");
	ck_assert_str_eq(est_verdict_name(EST_DOES_NOT_FIT), "does_not_fit");
	ck_assert_str_eq(est_verdict_name((enum est_verdict)(EST_UNSUPPORTED + 1)), "");
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("fields");
	TCase *rows = tcase_create("rows"), *values_case = tcase_create("values"), *lists = tcase_create("lists");
	const int count = (int)est_request_field_count;

	tcase_add_loop_test(rows, a_row_is_called_as_it_lies_in_the_request, 0, count);
	tcase_add_loop_test(rows, a_row_says_in_a_sentence_what_it_means, 0, count);
	tcase_add_loop_test(rows, a_row_has_what_its_kind_needs, 0, count);
	tcase_add_loop_test(rows, each_word_is_found_in_any_case_and_said_back, 0, count);
	tcase_add_loop_test(rows, a_value_comes_back_and_moves_no_other, 0, count);
	tcase_add_loop_test(rows, a_fresh_request_holds_every_fallback_and_names_none, 0, count);
	tcase_add_test(rows, named_rows_are_found_in_order);
	tcase_add_test(rows, an_unknown_name_has_no_row);
	tcase_add_loop_test(values_case, a_value_is_said_as_on_the_wire, 0, sizeof(values) / sizeof(values[0]));
	tcase_add_test(values_case, names_are_joined_and_cut);
	tcase_add_test(values_case, words_are_listed_without_aliases);
	tcase_add_test(values_case, a_field_that_goes_only_with_another_says_so);
	tcase_add_loop_test(values_case, a_field_matters_with_what_it_is_for, 0,
			    sizeof(conditions) / sizeof(conditions[0]));
	tcase_add_test(lists, faults_are_counted_beyond_the_list);
	tcase_add_test(lists, a_refusal_names_the_value_and_tells_a_default_from_what_was_named);
	tcase_add_loop_test(lists, every_fault_has_a_name_of_its_own, 0, EST_FAULT_CODES);
	tcase_add_test(lists, notes_beyond_the_list_are_dropped);
	tcase_add_test(lists, an_arena_gives_zeroed_aligned_room_until_it_is_full);
	tcase_add_test(lists, what_the_report_names_has_a_word);
	suite_add_tcase(suite, rows);
	suite_add_tcase(suite, values_case);
	suite_add_tcase(suite, lists);
	return run_suite(suite);
}
