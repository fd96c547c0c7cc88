#include "tests/ask.h"

static const struct {
	const char *target, *key;
} lists[] = { { "/presets", "presets" }, { "/gpus", "gpus" } };

START_TEST(a_list_has_the_same_rows_in_every_format)
{
	const struct srv_listing *listing = _i ? &context->edition->gpus : &context->edition->presets;
	char target[64];
	json_t *read;

	get(lists[_i].target);
	read = document();
	ck_assert_uint_eq(json_array_size(json_object_get(read, lists[_i].key)), listing->count);
	ck_assert_int_eq(json_integer_value(json_object_get(read, "total")), (json_int_t)listing->count);
	json_decref(read);

	snprintf(target, sizeof target, "%s?format=records", lists[_i].target);
	get(target);
	read = document();
	ck_assert_uint_eq(json_array_size(read), listing->count);
	json_decref(read);

	snprintf(target, sizeof target, "%s?format=ndjson", lists[_i].target);
	get(target);
	ck_assert_uint_eq(count_lines(text()), listing->count);
	snprintf(target, sizeof target, "%s?format=table", lists[_i].target);
	get(target);
	ck_assert_uint_eq(count_lines(text()), listing->count + 1);
	ask("GET", lists[_i].target, (struct srv_request){ .accept = "text/csv" });
	ck_assert_ptr_nonnull(strstr(reply.content_type, "text/csv"));
	ck_assert_uint_eq(count_lines(text()), listing->count + 1);
}
END_TEST

static size_t total_of(const char *target)
{
	json_t *read;
	size_t total;

	get(target);
	ck_assert_msg(reply.status == 200, "%s: %s", target, text());
	read = document();
	total = (size_t)json_integer_value(json_object_get(read, "total"));
	json_decref(read);
	return total;
}

START_TEST(filters_narrow_the_lists)
{
	static const struct {
		const char *target, *fragment;
		size_t least, most;
	} filters[] = {
		{ "/presets?q=LLAMA-3.1", "llama-3.1-8b", 3, 30 },
		{ "/presets?q=meta-llama%2FLlama-3.2-1B", "llama-3.2-1b", 1, 5 },
		{ "/presets?family=Llama", "llama-7b", 5, 100 },
		{ "/presets?q=no+such+thing", "[]", 0, 0 },
		{ "/presets?q=+INSTRUCT++llama-3.1+8b", "llama-3.1-8b", 1, 3 },
		{ "/presets?q=llama-3.1+nothing", "[]", 0, 0 },
		{ "/gpus?vendor=apple", "apple", 20, 60 },
		{ "/gpus?kind=mig&q=h100", "mig-1g", 2, 20 },
		{ "/gpus?vendor=nvidia&kind=discrete&min_memory_gib=79.5", "h100-sxm5-80gb", 5, 60 },
		{ "/gpus?min_memory_gib=1e6", "[]", 0, 0 },
	};

	for (int i = 0; i < COUNT(filters); i++) {
		size_t total = total_of(filters[i].target);

		ck_assert_msg(total >= filters[i].least && total <= filters[i].most, "%s: %zu", filters[i].target,
			      total);
		ck_assert_msg(strstr(text(), filters[i].fragment) != NULL, "%s", filters[i].target);
	}
}
END_TEST

START_TEST(limit_and_offset_cut_a_window_out_of_the_list)
{
	size_t total = total_of("/presets");
	json_t *all, *window;
	char target[64];

	get("/presets");
	all = document();
	get("/presets?limit=3&offset=5");
	window = document();
	ck_assert_uint_eq(json_array_size(json_object_get(window, "presets")), 3);
	ck_assert_int_eq(json_integer_value(json_object_get(window, "total")), (json_int_t)total);
	for (size_t i = 0; i < 3; i++)
		ck_assert(json_equal(json_array_get(json_object_get(window, "presets"), i),
				     json_array_get(json_object_get(all, "presets"), i + 5)));
	json_decref(window);
	json_decref(all);
	snprintf(target, sizeof target, "/presets?offset=%zu", total);
	ck_assert_uint_eq(total_of(target), total);
	ck_assert_ptr_nonnull(strstr(text(), "\"presets\":[]"));
}
END_TEST

START_TEST(one_row_is_found_by_id_and_alias_without_regard_to_case)
{
	static const char *const same[] = {
		"/presets/llama-3.1-8b", "/presets/LLAMA-3.1-8B", "/presets/meta-llama%2fLlama-3.1-8B",
		"/presets/meta-llama/Llama-3.1-8B",
	};

	for (int i = 0; i < COUNT(same); i++) {
		json_t *read;

		get(same[i]);
		ck_assert_msg(reply.status == 200, "%s", same[i]);
		read = document();
		ck_assert_str_eq(member(read, "id"), "llama-3.1-8b");
		ck_assert_int_eq(json_integer_value(json_object_get(read, "parameters")), 8030261248);
		ck_assert_str_eq(member(json_object_get(json_object_get(read, "catalog"), "config"), "model_type"),
				 "llama");
		json_decref(read);
	}
}
END_TEST

START_TEST(every_row_has_a_page_that_names_it)
{
	const struct srv_listing *listing = _i ? &context->edition->gpus : &context->edition->presets;

	for (size_t i = 0; i < listing->count; i++) {
		const char *id;
		char target[256];
		json_t *read;

		memcpy(&id, listing->rows[i], sizeof id); /* the first member of either row */
		snprintf(target, sizeof target, "%s/%s", lists[_i].target, id);
		get(target);
		ck_assert_msg(reply.status == 200, "%s", target);
		read = document();
		ck_assert_str_eq(member(read, "id"), id);
		ck_assert_str_eq(member(json_object_get(read, "catalog"), "id"), id);
		json_decref(read);
	}
}
END_TEST

static TCase *list_tests(void)
{
	TCase *test = tcase_create("lists");

	tcase_add_loop_test(test, a_list_has_the_same_rows_in_every_format, 0, COUNT(lists));
	tcase_add_test(test, filters_narrow_the_lists);
	tcase_add_test(test, limit_and_offset_cut_a_window_out_of_the_list);
	tcase_add_test(test, one_row_is_found_by_id_and_alias_without_regard_to_case);
	tcase_add_loop_test(test, every_row_has_a_page_that_names_it, 0, COUNT(lists));
	return test;
}

int main(void)
{
	TCase *const cases[] = { list_tests() };

	return run_cases("lists", cases, COUNT(cases));
}
