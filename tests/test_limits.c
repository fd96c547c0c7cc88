#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "config/advice.h"
#include "config/limits.h"
#include "config/vary.h"
#include "tests/catalog.h"
#include "tests/drawn.h"
#include "tests/rules.h"
#include "tests/suite.h"

static struct cfg_request request;
static struct est_arena arena;
static struct cfg_trial trial;
static struct est_report report;

static void start(void)
{
	size_t size = est_arena_size(CFG_CARDS_MAX) + cfg_limits_arena_size(CFG_CARDS_MAX);

	open_catalog();
	est_arena_init(&arena, malloc(size), size);
}

static void stop(void)
{
	free(arena.base);
	close_catalog();
}

static char asked[512]; /* what a failure is about */

static void limit(const char *text)
{
	static struct est_faults faults;
	json_t *body = json_loads(text, 0, NULL);

	ck_assert_msg(body != NULL, "%s", text);
	faults.count = 0;
	ck_assert_msg(cfg_read_request(body, "", catalog, &request, &faults), "%s: %s", text, faults.item[0].detail);
	json_decref(body);
	snprintf(asked, sizeof(asked), "%s", text);
	est_arena_rewind(&arena, 0);
	ck_assert(est_run(&request.request, &request.model, request.cards, request.card_count, &arena, &report));
	ck_assert(cfg_limits(&request, &arena, &trial, &report));
}

static const char *const requests[] = {
	"{\"model\":\"llama-3.2-1b\",\"gpus\":[\"rtx-4090\",\"a100-40gb\",\"t4\"]}",
	"{\"model\":\"qwen3-0.6b\",\"precision\":\"bf16\",\"gradient_checkpointing\":true,\"micro_batch_size\":7,\"gpus\":[\"l4\",\"h100-sxm5-80gb\"]}",
	"{\"model\":\"llama-3.2-1b\",\"method\":\"lora\",\"sequence_length\":300,\"gpus\":[\"t4\",\"rtx-4090\"]}",
	"{\"model\":\"gpt2\",\"precision\":\"fp32\",\"sequence_length\":1024,\"gpus\":\"a100-80gb\"}",
	"{\"model\":\"llama-3.2-1b\",\"precision\":\"bf16_mixed\",\"parallelism\":{\"strategy\":\"fsdp\",\"gpus\":4},\"gpus\":[\"l4\",\"a100-40gb\"]}",
};

static void check_limits(void)
{
	const char *rule = rule_of_limits(&request, &report, &arena);

	ck_assert_msg(!rule, "%s: %s", asked, rule);
}

START_TEST(limits_are_where_the_verdict_changes)
{
	limit(requests[_i]);
	check_limits();
}
END_TEST

/* ---- the same on random requests over families, methods and strategies */

enum { DRAWS = 16, TRIES = 200 };
static struct draws draws;

#define ONE_OF(...) ((const char *const[]){ __VA_ARGS__ })[draw(&draws, sizeof((const char *const[]){ __VA_ARGS__ }) / sizeof(char *))]

/* A request that may be none: what goes together is for the reader to say. */
static void draw_text(char *text, size_t size)
{
	const char *model = ONE_OF("llama-3.2-1b", "qwen3-0.6b", "gemma-3-270m", "gpt2", "pythia-410m", "opt-125m", "bloom-560m", "t5-small",
				   "bert-base-uncased", "modernbert-base", "lfm2-350m", "falcon3-1b", "granite-4.0-350m", "smollm2-135m", "qwen3.5-0.8b");

	snprintf(text, size,
		 "{\"model\":\"%s\",\"method\":\"%s\",\"sequence_length\":%d,\"micro_batch_size\":%d,\"gradient_checkpointing\":%s,"
		 "\"optimizer\":\"%s\"%s%s,\"gpus\":[\"%s\"]}",
		 model, ONE_OF("full", "full", "lora", "qlora"), 64 << draw(&draws, 4), 1 << draw(&draws, 4), ONE_OF("true", "false"),
		 ONE_OF("adamw", "adamw_torch", "adamw_8bit", "sgd", "muon"),
		 ONE_OF("", ",\"precision\":\"bf16\"", ",\"precision\":\"bf16_mixed\"", ",\"precision\":\"bf16_master\""),
		 ONE_OF("", "", ",\"parallelism\":{\"gpus\":2,\"strategy\":\"ddp\"}", ",\"parallelism\":{\"gpus\":4,\"strategy\":\"fsdp\"}",
			",\"parallelism\":{\"gpus\":4,\"strategy\":\"zero2\"}", ",\"parallelism\":{\"gpus\":8,\"strategy\":\"zero3\"}"),
		 ONE_OF("rtx-4090", "l4", "rtx-3060-12gb", "a100-40gb", "h100-sxm5-80gb"));
}

static bool is_request(const char *text)
{
	static struct est_faults faults;
	json_t *body = json_loads(text, 0, NULL);
	bool right;

	ck_assert_msg(body != NULL, "%s", text);
	faults.count = 0;
	right = cfg_read_request(body, "", catalog, &request, &faults);
	for (size_t i = 0; i < faults.count; i++)
		ck_assert_msg(faults.item[i].code >= EST_CONTRADICTION, "%s: %s %s", text, faults.item[i].pointer, faults.item[i].detail);
	json_decref(body);
	return right;
}

static void draw_small_request(int seed, char *text, size_t size)
{
	int tries = 0;

	draws.state = (uint64_t)seed * 1000003;
	do
		draw_text(text, size);
	while (!is_request(text) && ++tries < TRIES);
	ck_assert_int_lt(tries, TRIES);
}

START_TEST(limits_of_random_requests_are_exact)
{
	char text[512];

	draw_small_request(_i, text, sizeof(text));
	limit(text);
	check_limits();
}
END_TEST

/* Each piece of advice is what the request with its changes is estimated to need, and what it makes fit. */
START_TEST(advice_on_random_requests_is_an_estimate)
{
	static struct cfg_advice advice[CFG_ADVICE_MAX];
	size_t count, mark;
	char text[512];

	draw_small_request(100 + _i, text, sizeof(text));
	est_arena_rewind(&arena, 0);
	ck_assert(est_run(&request.request, &request.model, request.cards, request.card_count, &arena, &report));
	ck_assert(cfg_advise(&request, &report, &arena, &trial, advice, &count));
	for (size_t i = 0; i < count; i++) {
		mark = arena.used;
		ck_assert(cfg_vary(&request, advice[i].changes, advice[i].change_count, &trial.request));
		ck_assert(est_run(&trial.request, &request.model, request.cards, request.card_count, &arena, &trial.report));
		ck_assert_uint_eq(trial.report.fits[0].required, advice[i].required);
		ck_assert_uint_eq(report.fits[0].required - advice[i].required, advice[i].saves);
		ck_assert_uint_gt(advice[i].saves, 0);
		ck_assert(advice[i].makes_fit[0] == (trial.report.fits[0].verdict == EST_FITS && report.fits[0].verdict != EST_FITS));
		est_arena_rewind(&arena, mark);
		if (i > 0)
			ck_assert(advice[i].worth <= advice[i - 1].worth);
	}
}
END_TEST

START_TEST(learned_positions_end_the_sequence)
{
	limit(requests[3]);
	ck_assert_int_eq(report.fits[0].max_sequence_length, 1024);
}
END_TEST

START_TEST(a_request_that_fits_nowhere_has_no_largest_values)
{
	limit("{\"model\":\"llama-3.1-70b\",\"gradient_checkpointing\":true,\"gpus\":[\"a100-40gb\"]}");
	ck_assert_int_eq(report.fits[0].verdict, EST_DOES_NOT_FIT);
	ck_assert_int_eq(report.fits[0].max_micro_batch_size, 0);
	ck_assert_int_eq(report.fits[0].max_sequence_length, 0);
	ck_assert_int_gt(report.fits[0].min_gpus, 16 * 70 / 40); /* 16 bytes a parameter */
}
END_TEST

START_TEST(a_card_that_cannot_run_it_has_no_limits)
{
	limit("{\"model\":\"llama-3.2-1b\",\"precision\":\"bf16\",\"gpus\":[\"v100-sxm2-32gb\",\"a100-40gb\"]}");
	ck_assert_int_eq(report.fits[0].verdict, EST_UNSUPPORTED);
	ck_assert_int_eq(report.fits[0].max_micro_batch_size + report.fits[0].min_gpus, 0);
	ck_assert_int_eq(report.fits[1].min_gpus, 1);
}
END_TEST

START_TEST(a_changed_field_takes_its_defaults_along)
{
	const struct cfg_change to_lora = { "method", EST_LORA };

	limit("{\"model\":\"llama-3.2-1b\",\"gpus\":\"a100-40gb\"}");
	ck_assert_int_eq(request.request.precision, EST_BF16_MASTER);
	ck_assert(cfg_vary(&request, &to_lora, 1, &trial.request));
	ck_assert_int_eq(trial.request.precision, EST_BF16_MIXED);
	ck_assert_int_eq((int)trial.request.lora.rank, 16);
	ck_assert_int_eq(request.request.method, EST_FULL);
}
END_TEST

START_TEST(a_contradiction_is_no_variant)
{
	const struct cfg_change fused = { "fuse_optimizer_in_backward", true };

	limit("{\"model\":\"llama-3.2-1b\",\"max_grad_norm\":1.0,\"gpus\":\"a100-40gb\"}");
	ck_assert(!cfg_vary(&request, &fused, 1, &trial.request));
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("limits");
	TCase *tcase = tcase_create("limits");

	cfg_json_init();
	tcase_add_unchecked_fixture(tcase, start, stop);
	tcase_set_timeout(tcase, 200);
	tcase_add_loop_test(tcase, limits_are_where_the_verdict_changes, 0, COUNT(requests));
	tcase_add_loop_test(tcase, limits_of_random_requests_are_exact, 0, DRAWS);
	tcase_add_loop_test(tcase, advice_on_random_requests_is_an_estimate, 0, DRAWS);
	tcase_add_test(tcase, learned_positions_end_the_sequence);
	tcase_add_test(tcase, a_request_that_fits_nowhere_has_no_largest_values);
	tcase_add_test(tcase, a_card_that_cannot_run_it_has_no_limits);
	tcase_add_test(tcase, a_changed_field_takes_its_defaults_along);
	tcase_add_test(tcase, a_contradiction_is_no_variant);
	suite_add_tcase(suite, tcase);
	return run_suite(suite);
}
