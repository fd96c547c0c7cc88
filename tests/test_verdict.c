#include <stdlib.h>
#include "estimator/verdict.h"
#include "tests/suite.h"

static const uint64_t gib = UINT64_C(1) << 30;
static const uint64_t mib = UINT64_C(1) << 20;

static const struct {
	const char *name;
	uint64_t required, required_high, usable;
	enum est_verdict verdict;
} judgements[] = {
	{ "room for the high scenario fits", 60, 70, 80, EST_FITS },
	{ "the high scenario to the byte still fits", 60, 80, 80, EST_FITS },
	{ "one byte too little for the high scenario is tight", 60, 81, 80, EST_TIGHT },
	{ "the expected scenario to the byte is tight", 80, 90, 80, EST_TIGHT },
	{ "one byte too little for the expected scenario does not fit", 81, 90, 80, EST_DOES_NOT_FIT },
	{ "nothing fits a card without memory", 1, 1, 0, EST_DOES_NOT_FIT },
	{ "a high scenario below the expected one does not hide it", 81, 70, 80, EST_DOES_NOT_FIT },
};

START_TEST(a_verdict_follows_from_the_bytes)
{
	ck_assert_msg(est_judge(judgements[_i].required, judgements[_i].required_high, judgements[_i].usable)
		      == judgements[_i].verdict, "%s", judgements[_i].name);
}
END_TEST

static const struct {
	const char *name;
	uint64_t memory, usable;
	double headroom;
	uint64_t expected;
} cards[] = {
	{ "without headroom all that is usable", 80, 79, 0, 79 },
	{ "headroom counts from the whole card", 80, 80, 0.25, 60 },
	{ "headroom comes on top of what is not usable", 64, 48, 0.5, 16 },
	{ "headroom never wraps", 64, 16, 0.5, 0 },
};

START_TEST(headroom_is_a_share_of_the_card)
{
	struct est_gpu gpu = { .memory_bytes = cards[_i].memory * gib, .usable_bytes = cards[_i].usable * gib };

	ck_assert_msg(est_usable_bytes(&gpu, cards[_i].headroom) == cards[_i].expected * gib, "%s", cards[_i].name);
}
END_TEST

START_TEST(a_reason_makes_the_verdict_unsupported_whatever_the_bytes)
{
	struct est_gpu gpu = { .memory_bytes = 80 * gib, .usable_bytes = 80 * gib };
	struct est_fit fit = { .gpu = &gpu, .required = 1, .required_high = 1 };

	est_fit_judge(&fit, 0);
	ck_assert_int_eq(fit.verdict, EST_FITS);
	fit.reason = "the card has no bf16 arithmetic";
	est_fit_judge(&fit, 0);
	ck_assert_int_eq(fit.verdict, EST_UNSUPPORTED);
}
END_TEST

START_TEST(headroom_turns_fits_into_tight_and_tight_into_does_not_fit)
{
	struct est_gpu gpu = { .memory_bytes = 80 * gib, .usable_bytes = 80 * gib };
	struct est_fit fit = { .gpu = &gpu, .required = 60 * gib, .required_high = 75 * gib };

	est_fit_judge(&fit, 0.05); /* 76 left */
	ck_assert_int_eq(fit.verdict, EST_FITS);
	est_fit_judge(&fit, 0.1); /* 72 left */
	ck_assert_int_eq(fit.verdict, EST_TIGHT);
	est_fit_judge(&fit, 0.3); /* 56 left */
	ck_assert_int_eq(fit.verdict, EST_DOES_NOT_FIT);
}
END_TEST

/* A run that succeeds from threshold on; counts and bounds what it is asked. */
struct run {
	uint64_t threshold, least_asked, most_asked, next;
	int calls;
	bool ran;
};

static bool runs_from_threshold(void *context, const struct est_limits *limits, uint64_t *ret_same)
{
	struct run *run = context;
	uint64_t limit = limits->limit;

	if (run->calls++ > 0 && run->ran)
		ck_assert_uint_eq(limit, run->next); /* as was said before */
	run->ran = limit >= run->threshold;
	run->next = limits->below[0];
	if (!run->least_asked || limit < run->least_asked)
		run->least_asked = limit;
	if (limit > run->most_asked)
		run->most_asked = limit;
	ck_assert_uint_eq(limit % EST_LIMIT_STEP, 0);
	*ret_same = limit >= run->threshold ? limit : limit + 1;
	return limit >= run->threshold;
}

static const struct {
	const char *name;
	uint64_t floor, ceiling, threshold, expected; /* MiB */
	int calls;                                    /* at most */
} searches[] = {
	{ "between the ends", 1000, 2000, 1500, 1500, 10 },
	{ "rounded up to a step", 1000, 2000, 1501, 1502, 10 },
	{ "the floor already runs", 1000, 2000, 0, 1000, 10 },
	{ "an odd floor is rounded up", 1001, 2000, 0, 1002, 10 },
	{ "only the ceiling runs", 1000, 2000, 2000, 2000, 10 },
	{ "floor and ceiling are one: nothing is tried", 1000, 1000, 0, 1000, 0 },
	{ "one step between them", 1000, 1002, 1000, 1000, 1 },
	{ "an odd ceiling is never exceeded", 1000, 1001, 1001, 1001, 1 },
	{ "64 GiB apart takes sixteen tries", 81920, 147456, 100002, 100002, 16 },
};

START_TEST(the_search_finds_the_least_limit)
{
	struct run run = { .threshold = searches[_i].threshold * mib };
	uint64_t found = est_least_limit(searches[_i].floor * mib, searches[_i].ceiling * mib, EST_LIMIT_STEP,
					 runs_from_threshold, &run);

	ck_assert_msg(found == searches[_i].expected * mib, "%s: %llu", searches[_i].name, (unsigned long long)found);
	ck_assert_msg(run.calls <= searches[_i].calls, "%s: %d calls", searches[_i].name, run.calls);
	if (run.calls) {
		ck_assert_uint_ge(run.least_asked, searches[_i].floor * mib);
		ck_assert_uint_le(run.most_asked, searches[_i].ceiling * mib);
	}
}
END_TEST

/* Succeeds from 1200 MiB on but for 1400 to 1600: releasing at another moment laid the blocks out worse. */
static bool runs_with_a_gap(void *context, const struct est_limits *limits, uint64_t *ret_same)
{
	uint64_t limit = limits->limit;
	bool runs = limit >= 1200 * mib && (limit < 1400 * mib || limit >= 1600 * mib);

	(void)context;
	*ret_same = runs ? limit : limit + 1;
	return runs;
}

START_TEST(where_success_is_not_monotone_the_answer_still_runs)
{
	for (uint64_t ceiling = 1600; ceiling <= 4000; ceiling += 50) {
		uint64_t found = est_least_limit(1000 * mib, ceiling * mib, EST_LIMIT_STEP, runs_with_a_gap, NULL);

		ck_assert(found == 1200 * mib || found == 1600 * mib);
	}
}
END_TEST

/* Courses of 100 MiB: an attempt tells of all limits of its own. */
static bool runs_in_courses(void *context, const struct est_limits *limits, uint64_t *ret_same)
{
	struct run *run = context;
	uint64_t course = limits->limit / (100 * mib) * (100 * mib);

	run->calls++;
	*ret_same = course >= run->threshold ? course : course + 100 * mib;
	return course >= run->threshold;
}

START_TEST(what_an_attempt_tells_of_other_limits_is_not_tried_again)
{
	for (uint64_t threshold = 1000; threshold <= 2000; threshold += 100) {
		struct run run = { .threshold = threshold * mib };
		uint64_t found = est_least_limit(1000 * mib, 2000 * mib, EST_LIMIT_STEP, runs_in_courses, &run);

		ck_assert_uint_eq(found, threshold * mib);
		ck_assert_int_le(run.calls, 4);
	}
}
END_TEST

static const struct {
	uint64_t peak, step; /* MiB */
} steps[] = { { 0, 2 }, { 511, 2 }, { 512, 4 }, { 1023, 4 }, { 1024, 8 }, { 80 * 1024, 512 }, { 128 * 1024, 1024 } };

START_TEST(a_limit_is_looked_for_in_steps_of_a_share_of_the_peak)
{
	ck_assert_uint_eq(est_limit_step(steps[_i].peak * mib), steps[_i].step * mib);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("verdict");
	TCase *test = tcase_create("verdict");

	tcase_add_loop_test(test, a_verdict_follows_from_the_bytes, 0, COUNT(judgements));
	tcase_add_loop_test(test, headroom_is_a_share_of_the_card, 0, COUNT(cards));
	tcase_add_test(test, a_reason_makes_the_verdict_unsupported_whatever_the_bytes);
	tcase_add_test(test, headroom_turns_fits_into_tight_and_tight_into_does_not_fit);
	tcase_add_loop_test(test, the_search_finds_the_least_limit, 0, COUNT(searches));
	tcase_add_loop_test(test, a_limit_is_looked_for_in_steps_of_a_share_of_the_peak, 0, COUNT(steps));
	tcase_add_test(test, where_success_is_not_monotone_the_answer_still_runs);
	tcase_add_test(test, what_an_attempt_tells_of_other_limits_is_not_tried_again);
	suite_add_tcase(suite, test);
	return run_suite(suite);
}
