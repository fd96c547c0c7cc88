#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "config/plan.h"
#include "config/prices.h"
#include "config/steptime.h"
#include "estimator/device.h"
#include "tests/catalog.h"
#include "tests/suite.h"

enum { PLANS_MAX = 512 };

static struct est_arena arena;
static struct est_faults faults;
static struct cfg_space space;
static struct cfg_search *search;
static struct cfg_plan plans[PLANS_MAX];
static size_t plan_count;

static void start(void)
{
	size_t size = est_arena_size(CFG_CARDS_MAX);

	open_catalog();
	est_arena_init(&arena, malloc(size), size);
}

static void stop(void)
{
	free(arena.base);
	close_catalog();
}

static bool read_space(const char *text)
{
	json_t *body = json_loads(text, JSON_DECODE_ANY, NULL);
	bool read;

	ck_assert_msg(body != NULL, "%s", text);
	faults.count = 0;
	read = cfg_space_init(&space, body, catalog, &faults);
	json_decref(body);
	return read;
}

/* All plans of the space, in order; the search stays for questions. */
static void plan(const char *text)
{
	enum cfg_progress progress;

	ck_assert_msg(read_space(text), "%s: %s %s", text, faults.item[0].pointer, faults.item[0].detail);
	search = cfg_search_create(&space);
	ck_assert_ptr_nonnull(search);
	plan_count = 0;
	do {
		est_arena_rewind(&arena, 0);
		progress = cfg_search_advance(search, 1, &arena, &plans[plan_count]);
		plan_count += progress == CFG_FOUND;
	} while (progress != CFG_SEARCHED && progress != CFG_SEARCH_NO_MEMORY && plan_count < PLANS_MAX);
	ck_assert_int_eq(progress, CFG_SEARCHED);
}

/* ---- what is asked */

#define ONE "\"request\":{\"model\":\"llama-3.2-1b\"}"

static const struct { const char *body, *pointer; } bodies[] = { /* pointer of the one fault; NULL: none */
	{ "{" ONE "}", NULL },
	{ "{" ONE ",\"gpus\":\"t4\",\"max_gpus\":1024,\"limit\":100,\"objective\":\"CHEAPEST\",\"prices\":{\"t4\":0},\"vary\":[]}", NULL },
	{ "{" ONE ",\"vary\":{\"lora.rank\":[4,8],\"method\":null,\"loss\":[\"liger\"],\"gradient_checkpointing\":[true]}}", NULL },
	{ "{" ONE ",\"vary\":null,\"gpus\":null,\"limit\":null,\"max_gpus\":4.0}", NULL },
	{ "{}", "/request" },
	{ "7", "" },
	{ "{\"request\":7}", "/request" },
	{ "{\"request\":{}}", "/request/model" },
	{ "{\"request\":{\"model\":\"llama-3.2-1b\",\"lora\":{\"rank\":8}}}", "/request/lora/rank" },
	{ "{\"request\":{\"model\":\"llama-3.2-1b\",\"accounting\":\"rule_of_thumb\"}}", "/request/accounting" },
	{ "{\"request\":{\"model\":\"llama-3.2-1b\",\"from\":{\"training_arguments\":{\"bf16\":true}}}}", "/request/from" },
	{ "{" ONE ",\"a/b\":1}", "/a~1b" },
	{ "{" ONE ",\"gpus\":[\"t4\",\"t5x\"]}", "/gpus/1" },
	{ "{" ONE ",\"max_gpus\":1025}", "/max_gpus" },
	{ "{" ONE ",\"max_gpus\":\"8\"}", "/max_gpus" },
	{ "{" ONE ",\"limit\":0}", "/limit" },
	{ "{" ONE ",\"objective\":\"best\"}", "/objective" },
	{ "{" ONE ",\"objective\":1}", "/objective" },
	{ "{" ONE ",\"vary\":\"method\"}", "/vary" },
	{ "{" ONE ",\"vary\":[\"method\",\"model\"]}", "/vary/1" },
	{ "{" ONE ",\"vary\":[\"method\",\"method\"]}", "/vary/1" },
	{ "{" ONE ",\"vary\":[\"quantization\",\"quantization.bits\"]}", "/vary/1" },
	{ "{" ONE ",\"vary\":{\"methods\":[\"full\"]}}", "/vary/methods" },
	{ "{" ONE ",\"vary\":{\"model\":[\"llama-3.2-1b\"]}}", "/vary/model" },
	{ "{" ONE ",\"vary\":{\"parallelism.gpus\":[1,2]}}", "/vary/parallelism.gpus" },
	{ "{" ONE ",\"vary\":{\"method\":[]}}", "/vary/method" },
	{ "{" ONE ",\"vary\":{\"lora.rank\":[8,\"16\"]}}", "/vary/lora.rank/1" },
	{ "{" ONE ",\"vary\":{\"lora.rank\":[0]}}", "/vary/lora.rank/0" },
	{ "{" ONE ",\"vary\":{\"gradient_checkpointing\":[{\"every_n_layers\":2}]}}", "/vary/gradient_checkpointing/0" },
	{ "{" ONE ",\"prices\":[]}", "/prices" },
	{ "{" ONE ",\"prices\":{\"t4\":-1}}", "/prices/t4" },
	{ "{" ONE ",\"prices\":{\"t4\":\"1\"}}", "/prices/t4" },
	{ "{" ONE ",\"prices\":{\"nothing\":1}}", "/prices/nothing" },
};

START_TEST(reads_or_points_at_the_fault)
{
	bool read = read_space(bodies[_i].body);

	ck_assert_msg(read == (bodies[_i].pointer == NULL), "%s: %s %s", bodies[_i].body, faults.item[0].pointer,
		      faults.item[0].detail);
	ck_assert_msg(faults.count == (bodies[_i].pointer != NULL), "%s: %zu faults", bodies[_i].body, faults.count);
	if (bodies[_i].pointer)
		ck_assert_str_eq(faults.item[0].pointer, bodies[_i].pointer);
	if (read)
		cfg_space_finish(&space);
}
END_TEST

START_TEST(a_space_that_is_too_large_is_refused)
{
	ck_assert(!read_space("{" ONE ",\"vary\":{\"lora.rank\":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16],\"optimizer_rank\":[1,2,3,4,5,6,7,8,9,10,"
			      "11,12,13,14,15,16],\"max_grad_norm\":[0,1,2,3,4,5,6,7],\"beta\":[0,1,2,3,4,5,6,7,8,9]}}"));
	ck_assert_str_eq(faults.item[0].pointer, "/vary");
	ck_assert_int_eq(faults.item[0].code, EST_OUT_OF_RANGE);
}
END_TEST

/* ---- the search against trying everything */

static const char *const spaces[] = {
	"{\"request\":{\"model\":\"gpt2\",\"sequence_length\":512},\"gpus\":[\"t4\",\"rtx-3060\"],\"max_gpus\":3,\"limit\":100,"
	"\"vary\":{\"parallelism.strategy\":[\"none\",\"ddp\",\"zero3\"],\"precision\":[\"fp16\",\"fp32\"],\"micro_batch_size\":[1,8,16,24,32,48],"
	"\"gradient_checkpointing\":[\"none\",\"full\"]}}",
	"{\"request\":{\"model\":\"llama-3.2-1b\"},\"gpus\":[\"rtx-4090\",\"a100-40gb\"],\"max_gpus\":2,\"limit\":100,\"objective\":\"largest_batch\","
	"\"vary\":{\"optimizer\":[\"adamw\",\"adamw_8bit\"],\"micro_batch_size\":[1,2,4,8,12],\"parallelism.strategy\":[\"none\",\"zero2\",\"fsdp\"],"
	"\"gradient_checkpointing\":[\"none\",\"full\"]}}",
	"{\"request\":{\"model\":\"llama-3.2-1b\"},\"gpus\":[\"rtx-4090\",\"l4\"],\"max_gpus\":1,\"limit\":100,\"objective\":\"longest_sequence\","
	"\"vary\":{\"method\":[\"full\",\"lora\",\"qlora\"],\"lora.rank\":[8,64],\"sequence_length\":[512,1024,2048,3072,4096,8192],"
	"\"micro_batch_size\":[1,2]}}",
	"{\"request\":{\"model\":\"qwen3-0.6b\",\"micro_batch_size\":2},\"gpus\":[\"rtx-4090\",\"l4\",\"t4\"],\"max_gpus\":4,\"limit\":100,"
	"\"objective\":\"cheapest\",\"prices\":{\"t4\":0.2},\"vary\":{\"parallelism.strategy\":[\"none\",\"zero1\",\"zero3\"],"
	"\"offload\":null,\"sequence_length\":[1024,4096]}}",
};

/* The verdict of a recipe at a point for one card, by the whole estimate; fit is filled. */
static bool fits(const struct cfg_space *of, size_t recipe, size_t card, int64_t gpus, int64_t batch, int64_t length,
		 struct est_fit *fit)
{
	static struct est_request varied;
	static struct est_report report;
	struct cfg_recipe chosen;
	bool fitting;

	cfg_space_recipe(of, recipe, &chosen);
	cfg_recipe_scale(of, gpus, batch, length, &chosen);
	est_arena_rewind(&arena, 0);
	if (!cfg_vary(&of->base, chosen.changes, chosen.change_count, &varied))
		return false;
	ck_assert(est_run(&varied, &of->base.model, &of->base.cards[card], 1, &arena, &report));
	*fit = report.fits[0];
	fitting = fit->verdict == EST_FITS;
	return fitting;
}

struct best {
	int64_t gpus, batch, length;
	bool any;
};

/* Whether a comes before b for the objective, of one recipe on one card. */
static bool is_better(enum cfg_objective objective, const struct best *a, const struct best *b)
{
	int64_t first[] = { a->gpus, -a->length, -a->batch }, second[] = { b->gpus, -b->length, -b->batch };

	if (!b->any)
		return true;
	if (objective == CFG_LARGEST_BATCH && a->batch * a->gpus != b->batch * b->gpus)
		return a->batch * a->gpus > b->batch * b->gpus;
	if (objective == CFG_LONGEST_SEQUENCE && a->length != b->length)
		return a->length > b->length;
	for (int i = 0; i < COUNT(first); i++)
		if (first[i] != second[i])
			return first[i] < second[i];
	return false;
}

static struct best try_all(const struct cfg_space *of, size_t recipe, bool alone, size_t card)
{
	struct best best = { 0 };
	struct est_fit fit;

	for (size_t n = 0; n < of->gpus.count; n++)
		for (size_t b = 0; b < of->batches.count; b++)
			for (size_t s = 0; s < of->lengths.count; s++) {
				struct best point = { of->gpus.values[n], of->batches.values[b], of->lengths.values[s], true };

				if (alone != (point.gpus == 1) || !fits(of, recipe, card, point.gpus, point.batch, point.length, &fit))
					continue;
				if (is_better(of->objective, &point, &best))
					best = point;
			}
	return best;
}

/* The plan of the recipe on that card; NULL: there is none. */
static const struct cfg_plan *find_plan(const struct cfg_space *of, const struct cfg_recipe *recipe, size_t card)
{
	for (size_t i = 0; i < plan_count; i++) {
		struct cfg_recipe wanted = *recipe;

		if (plans[i].card != of->base.cards[card])
			continue;
		cfg_recipe_scale(of, plans[i].gpus, plans[i].batch, plans[i].length, &wanted);
		if (wanted.change_count == plans[i].recipe.change_count
		    && !memcmp(wanted.changes, plans[i].recipe.changes, wanted.change_count * sizeof(wanted.changes[0])))
			return &plans[i];
	}
	return NULL;
}

START_TEST(the_search_finds_what_trying_everything_finds)
{
	size_t expected = 0;
	const struct cfg_space *of;

	plan(spaces[_i]);
	of = cfg_search_space(search);
	for (size_t i = 0; i < of->recipe_count; i++) {
		struct cfg_recipe recipe;

		if (!cfg_space_recipe(of, i, &recipe))
			continue;
		for (size_t card = 0; card < of->base.card_count; card++) {
			struct best best = try_all(of, i, recipe.alone, card);
			const struct cfg_plan *found = find_plan(of, &recipe, card);

			expected += best.any;
			ck_assert_msg((found != NULL) == best.any, "recipe %zu on %s: %d", i, of->base.cards[card]->id, best.any);
			if (!found)
				continue;
			ck_assert_msg(found->gpus == best.gpus && found->batch == best.batch && found->length == best.length,
				      "recipe %zu on %s: %lld x %lld x %lld, not %lld x %lld x %lld", i, of->base.cards[card]->id,
				      (long long)found->gpus, (long long)found->batch, (long long)found->length,
				      (long long)best.gpus, (long long)best.batch, (long long)best.length);
		}
	}
	ck_assert_uint_eq(expected, plan_count);
	ck_assert_uint_gt(plan_count, 3);
	ck_assert(cfg_search_complete(search));
	cfg_search_destroy(search);
}
END_TEST

/* What the objective is about, in order; then the price where it is that. */
static double measure(enum cfg_objective objective, const struct cfg_plan *of)
{
	switch (objective) {
	case CFG_FEWEST_GPUS:
		return (double)of->gpus;
	case CFG_LARGEST_BATCH:
		return -(double)(of->gpus * of->batch);
	case CFG_LONGEST_SEQUENCE:
		return -(double)of->length;
	default:
		return isnan(of->price) ? INFINITY : of->price;
	}
}

START_TEST(plans_come_in_order_and_fewer_are_the_first_of_them)
{
	static struct cfg_plan all[PLANS_MAX];
	char text[2048];
	size_t count;
	char *limit;

	plan(spaces[_i]);
	for (size_t i = 1; i < plan_count; i++)
		ck_assert(measure(space.objective, &plans[i - 1]) <= measure(space.objective, &plans[i]));
	memcpy(all, plans, sizeof(all));
	count = plan_count;
	cfg_search_destroy(search);
	snprintf(text, sizeof(text), "%s", spaces[_i]);
	limit = strstr(text, "\"limit\":100");
	memcpy(limit, "\"limit\":3  ", 11);
	plan(text);
	ck_assert_uint_eq(plan_count, count < 3 ? count : 3);
	for (size_t i = 0; i < plan_count; i++)
		ck_assert(plans[i].gpus == all[i].gpus && plans[i].batch == all[i].batch && plans[i].required == all[i].required
			  && plans[i].card == all[i].card);
	cfg_search_destroy(search);
}
END_TEST

START_TEST(an_estimate_of_the_plans_request_confirms_it)
{
	static struct cfg_request request;
	static struct est_report report;

	plan(spaces[_i]);
	for (size_t i = 0; i < plan_count; i++) {
		json_t *body = cfg_space_request(cfg_search_space(search), &plans[i].recipe, plans[i].card);

		faults.count = 0;
		ck_assert_msg(cfg_read_request(body, "", catalog, &request, &faults), "%s", faults.item[0].detail);
		json_decref(body);
		est_arena_rewind(&arena, 0);
		ck_assert(est_run(&request.request, &request.model, request.cards, request.card_count, &arena, &report));
		ck_assert_uint_eq(report.fit_count, 1);
		ck_assert_ptr_eq(report.fits[0].gpu, plans[i].card);
		ck_assert_int_eq(report.fits[0].verdict, EST_FITS);
		ck_assert_uint_eq(report.fits[0].required, plans[i].required);
		ck_assert_uint_eq(report.fits[0].required_high, plans[i].required_high);
		ck_assert_int_eq(request.request.parallelism.gpus, plans[i].gpus);
	}
	cfg_search_destroy(search);
}
END_TEST

START_TEST(where_nothing_fits_the_least_short_is_told)
{
	uint64_t least = UINT64_MAX;
	struct cfg_plan nearest;

	plan("{\"request\":{\"model\":\"llama-3.1-8b\"},\"gpus\":[\"l4\",\"rtx-4090\"],\"max_gpus\":2,\"vary\":{\"parallelism.strategy\":"
	     "[\"none\",\"zero1\",\"zero3\"],\"optimizer\":[\"adamw\",\"sgd\"],\"micro_batch_size\":[1,2]}}");
	ck_assert_uint_eq(plan_count, 0);
	est_arena_rewind(&arena, 0);
	ck_assert(cfg_search_nearest(search, &arena, &nearest));
	for (size_t i = 0; i < space.recipe_count; i++)
		for (size_t card = 0; card < space.base.card_count; card++) {
			const struct cfg_space *of = cfg_search_space(search);
			struct cfg_recipe recipe;
			struct est_fit fit = { .required_high = UINT64_MAX };

			cfg_space_recipe(of, i, &recipe);
			ck_assert(!fits(of, i, card, recipe.alone ? 1 : 2, 1, 2048, &fit));
			if (fit.required_high - of->base.cards[card]->usable_bytes < least)
				least = fit.required_high - of->base.cards[card]->usable_bytes;
		}
	ck_assert_uint_eq(nearest.required_high - nearest.usable, least);
	cfg_search_destroy(search);
}
END_TEST

START_TEST(a_card_of_a_size_may_be_planned_for)
{
	json_t *request;

	plan("{\"request\":{\"model\":\"gpt2\",\"gpu_memory_bytes\":[17179869184]},\"max_gpus\":1,\"vary\":[]}");
	ck_assert_uint_eq(plan_count, 1);
	ck_assert(isnan(plans[0].price));
	request = cfg_space_request(cfg_search_space(search), &plans[0].recipe, plans[0].card);
	ck_assert_int_eq(json_integer_value(json_array_get(json_object_get(request, "gpu_memory_bytes"), 0)),
			 INT64_C(17179869184));
	ck_assert_ptr_null(json_object_get(request, "gpus"));
	json_decref(request);
	cfg_search_destroy(search);
}
END_TEST

/* A hundred thousand candidates take some hundred replays, whatever machine it is. */
START_TEST(most_candidates_are_never_replayed)
{
	plan("{\"request\":{\"model\":\"llama-3.1-8b\"},\"gpus\":[\"rtx-4090\",\"h100-sxm5-80gb\"],\"max_gpus\":64,\"vary\":[\"parallelism.strategy\","
	     "\"gradient_checkpointing\",\"optimizer\",\"micro_batch_size\",\"method\",\"offload\"]}");
	ck_assert_uint_eq(plan_count, 10);
	ck_assert_uint_gt(cfg_search_examined(search), 100000);
	ck_assert_uint_lt(cfg_search_replays(search), 300);
	ck_assert(cfg_search_complete(search));
	cfg_search_destroy(search);
}
END_TEST

/* ---- prices and times */

START_TEST(every_price_is_a_cards_with_date_and_source)
{
	size_t count;
	const struct cfg_price *prices = cfg_prices(&count);

	ck_assert_uint_gt(count, 10);
	for (size_t i = 0; i < count; i++) {
		const struct cfg_card *card = cfg_catalog_find_card(catalog, prices[i].gpu, NULL);
		int year, month, day;

		ck_assert_msg(card && !strcmp(card->gpu.id, prices[i].gpu), "%s", prices[i].gpu);
		ck_assert_msg(i == 0 || strcmp(prices[i - 1].gpu, prices[i].gpu) < 0, "%s", prices[i].gpu);
		ck_assert_msg(prices[i].usd_per_hour > 0 && prices[i].usd_per_hour < 100, "%s", prices[i].gpu);
		ck_assert_msg(sscanf(prices[i].date, "%4d-%2d-%2d", &year, &month, &day) == 3 && year >= 2026, "%s", prices[i].gpu);
		ck_assert(*prices[i].source);
	}
}
END_TEST

static double time_of(const char *text, const char *gpu)
{
	static struct cfg_request request;
	const struct cfg_card *card = cfg_catalog_find_card(catalog, gpu, NULL);
	json_t *body = json_loads(text, 0, NULL);
	struct est_floor bound;
	struct cfg_step step;
	struct cfg_speed speed;

	faults.count = 0;
	ck_assert_msg(cfg_read_request(body, "", catalog, &request, &faults), "%s: %s", text, faults.item[0].detail);
	json_decref(body);
	est_floor_init(&bound, &request.request, &request.model);
	cfg_step_init(&step, &request.request, &request.model, &bound);
	cfg_speed_init(&speed, gpu, card->row);
	return cfg_step_time(&step, &request.request, &speed);
}

#define LONG "\"model\":\"llama-3.1-8b\",\"micro_batch_size\":64,\"sequence_length\":8192"

/* With so many tokens the optimizer's pass is nothing: what is left is forwards. */
START_TEST(times_are_made_of_forwards)
{
	ck_assert_double_eq_tol(time_of("{" LONG "}", "h100-sxm5-80gb"), 1, 0.01);
	ck_assert_double_eq_tol(time_of("{" LONG ",\"gradient_checkpointing\":true}", "h100-sxm5-80gb"), 4.0 / 3, 0.01);
	ck_assert_double_eq_tol(time_of("{" LONG ",\"gradient_checkpointing\":\"selective\"}", "h100-sxm5-80gb"),
				3.5 / 3, 0.01);
	ck_assert_double_eq_tol(time_of("{" LONG ",\"method\":\"lora\"}", "h100-sxm5-80gb"), 2.0 / 3, 0.01);
}
END_TEST

START_TEST(what_is_moved_takes_time)
{
	static const char small[] = "{\"model\":\"llama-3.1-8b\",\"parallelism\":{\"strategy\":\"%s\",\"gpus\":%d},\"offload\":{\"parameters\":\"%s\","
				    "\"optimizer\":\"%s\"}}";
	char text[512];
	double alone, ddp, zero3, zero2, far, offloaded;

	alone = time_of("{\"model\":\"llama-3.1-8b\"}", "rtx-4090");
	snprintf(text, sizeof(text), small, "ddp", 8, "none", "none");
	ddp = time_of(text, "rtx-4090");
	snprintf(text, sizeof(text), small, "zero2", 8, "none", "none");
	zero2 = time_of(text, "rtx-4090");
	snprintf(text, sizeof(text), small, "zero3", 8, "none", "none");
	zero3 = time_of(text, "rtx-4090");
	ck_assert_double_lt(time_of(text, "h100-sxm5-80gb"), zero3); /* NVLink */
	snprintf(text, sizeof(text), small, "zero3", 16, "none", "none");
	far = time_of(text, "rtx-4090");
	snprintf(text, sizeof(text), small, "zero3", 8, "cpu", "cpu");
	offloaded = time_of(text, "rtx-4090");
	ck_assert_double_lt(alone, ddp);
	ck_assert_double_lt(ddp, zero2);
	ck_assert_double_lt(ddp, zero3); /* half as much again */
	ck_assert_double_lt(zero3, far);
	ck_assert_double_lt(zero3, offloaded);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("plan");
	TCase *test = tcase_create("plan");

	cfg_json_init();
	tcase_set_timeout(test, 200);
	tcase_add_unchecked_fixture(test, start, stop);
	tcase_add_loop_test(test, reads_or_points_at_the_fault, 0, COUNT(bodies));
	tcase_add_test(test, a_space_that_is_too_large_is_refused);
	tcase_add_loop_test(test, the_search_finds_what_trying_everything_finds, 0, COUNT(spaces));
	tcase_add_loop_test(test, plans_come_in_order_and_fewer_are_the_first_of_them, 0, COUNT(spaces));
	tcase_add_loop_test(test, an_estimate_of_the_plans_request_confirms_it, 0, COUNT(spaces));
	tcase_add_test(test, where_nothing_fits_the_least_short_is_told);
	tcase_add_test(test, a_card_of_a_size_may_be_planned_for);
	tcase_add_test(test, most_candidates_are_never_replayed);
	tcase_add_test(test, every_price_is_a_cards_with_date_and_source);
	tcase_add_test(test, times_are_made_of_forwards);
	tcase_add_test(test, what_is_moved_takes_time);
	suite_add_tcase(suite, test);
	return run_suite(suite);
}
