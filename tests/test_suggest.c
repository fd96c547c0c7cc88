#include <stdlib.h>
#include "config/config.h"
#include "tests/suite.h"

static const struct {
	const char *a, *b;
	size_t distance;
} distances[] = {
	{ "", "", 0 },
	{ "rank", "rank", 0 },
	{ "rank", "RANK", 0 },
	{ "", "rank", 4 },
	{ "rank", "", 4 },
	{ "rank", "ran", 1 },
	{ "rank", "rankk", 1 },
	{ "rank", "rang", 1 },
	{ "rank", "rnak", 1 },
	{ "kitten", "sitting", 3 },
	{ "ca", "abc", 3 }, /* a swapped pair is not edited again */
	{ "abcdefghij", "jihgfedcba", 9 }, /* the two in the middle swap */
};

START_TEST(a_distance_is_the_same_both_ways)
{
	ck_assert_uint_eq(cfg_edit_distance(distances[_i].a, distances[_i].b), distances[_i].distance);
	ck_assert_uint_eq(cfg_edit_distance(distances[_i].b, distances[_i].a), distances[_i].distance);
}
END_TEST

START_TEST(names_too_long_to_compare_are_all_different)
{
	char longest[64], longer[65];

	for (size_t i = 0; i < 64; i++)
		longest[i] = longer[i] = 'x';
	longest[63] = longer[64] = '\0';
	ck_assert_uint_eq(cfg_edit_distance(longest, longest), 0);
	ck_assert_uint_eq(cfg_edit_distance(longer, longer), 64);
	ck_assert_uint_eq(cfg_edit_distance(longer, "x"), 64);
}
END_TEST

static const struct {
	const char *name, *nearest;
} suggestions[] = {
	{ "sequence_lenght", "sequence_length" },
	{ "Sequence-Length", "sequence_length" },
	{ "methd", "method" },
	{ "gpu", "gpus" },
	{ "gpuss", "gpus" },
	{ "weights", NULL },
	{ "x", NULL },
	{ "", NULL },
};

START_TEST(the_nearest_is_suggested_when_it_is_near)
{
	static const char *const candidates[] = { "method", "sequence_length", "gpus", "x1234" };
	struct cfg_suggestion suggestion;

	cfg_suggestion_init(&suggestion, suggestions[_i].name);
	for (size_t i = 0; i < sizeof(candidates) / sizeof(candidates[0]); i++)
		cfg_suggestion_offer(&suggestion, candidates[i]);
	ck_assert_pstr_eq(suggestion.nearest, suggestions[_i].nearest);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("suggest");
	TCase *test = tcase_create("suggest");

	tcase_add_loop_test(test, a_distance_is_the_same_both_ways, 0, COUNT(distances));
	tcase_add_test(test, names_too_long_to_compare_are_all_different);
	tcase_add_loop_test(test, the_nearest_is_suggested_when_it_is_near, 0, COUNT(suggestions));
	suite_add_tcase(suite, test);
	return run_suite(suite);
}
