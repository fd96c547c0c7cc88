/* The replay of every truth row against its plain form: what is not played again would have been the same. And of
 * some of them the verdicts, where they are looked for alone, against those of the whole estimate. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include "config/config.h"
#include "estimator/pipeline.h"
#include "estimator/sharding.h"
#include "tests/plain.h"
#include "tests/source.h"
#include "tests/suite.h"

static const struct {
	const char *file;
	unsigned least; /* so many are replayed */
} files[] = { { "single.jsonl", 400 }, { "distributed.jsonl", 140 }, { "published.jsonl", 20 },
	      { "published_oom.jsonl", 5 } };

enum { JUDGED_EACH = 20 };

static struct cfg_catalog *catalog;

static void compare(const struct est_program *program, struct est_arena *arena, const char *name)
{
	struct plain plain = { .program = program };
	struct est_levels levels;
	struct est_reserved reserved, peak;
	size_t mark = arena->used;

	est_replay_levels(program, &levels);
	ck_assert(est_replay_peak(program, arena, &peak));
	est_arena_rewind(arena, mark);
	ck_assert(est_replay_reserved(program, arena, levels.allocated, NULL, NULL, &reserved));
	est_arena_rewind(arena, mark);
	ck_assert(est_allocator_init(&plain.allocator, arena, program->ids, program->expandable, 0));
	ck_assert(plain_runs(&plain, 0));
	ck_assert_uint_eq(peak.peak, reserved.peak);
	ck_assert_msg(reserved.peak == plain.allocator.peak_reserved, "%s: peak %" PRIu64 ", plain %" PRIu64, name,
		      reserved.peak, plain.allocator.peak_reserved);
	for (unsigned i = 0; i < EST_PHASES; i++)
		ck_assert_msg(reserved.phase[i] == plain.phase_reserved[i], "%s: phase %u %" PRIu64, name, i, reserved.phase[i]);
	ck_assert_msg(reserved.least == plain_least(&plain, levels.allocated, reserved.peak), "%s: least %" PRIu64, name,
		      reserved.least);
}

/* On all cards: no verdict may differ, and what the first needs has to be exact. */
static void compare_verdicts(const struct cfg_request *request, struct est_arena *arena, const char *name)
{
	static struct est_report report;
	static struct est_fit fits[CFG_CARDS_MAX];
	const struct est_gpu *cards[CFG_CARDS_MAX];
	size_t count;
	const struct cfg_card *all = cfg_catalog_cards(catalog, &count);

	for (size_t i = 0; i < count; i++)
		cards[i] = &all[i].gpu;
	ck_assert(est_run(&request->request, &request->model, cards, count, arena, &report));
	for (size_t exact = 0; exact < 2; exact++) {
		ck_assert(est_judge_cards(&request->request, &request->model, cards, count, exact, arena, fits));
		ck_assert_msg(!exact || fits[0].required_high == report.fits[0].required_high, "%s", name);
		for (size_t i = 0; i < count; i++)
			ck_assert_msg(fits[i].verdict == report.fits[i].verdict, "%s on %s", name, cards[i]->id);
	}
}

/* judged: on all cards too. False when the row is not replayed. */
static bool compare_row(json_t *row, bool judged, const char *name)
{
	static struct cfg_request request;
	static struct est_faults faults;
	struct est_model held;
	uint64_t shards[EST_CATEGORIES];
	struct est_program program;
	struct est_arena arena;
	int64_t layers;
	size_t size;

	faults.count = 0;
	if (!cfg_read_request(json_object_get(row, "request"), "", catalog, &request, &faults)
	    || request.request.accounting == EST_RULE_OF_THUMB)
		return false;
	layers = (request.request.parallelism.pipeline > 1 ? 4 : 1) * est_model_table_layers(&request.model); /* passes in flight */
	size = est_program_arena_size(layers) + est_replay_arena_size(est_program_ids(layers)) + (1 << 20);
	est_arena_init(&arena, malloc(size), size);
	est_sharding_shares(&request.request, shards);
	ck_assert(est_stage_part(&request.model, &request.request, 0, &arena, &held));
	ck_assert_msg(est_program_trace(&program, &held, &request.request, true, shards, &arena), "%s", name);
	compare(&program, &arena, name);
	est_arena_rewind(&arena, 0);
	if (judged)
		compare_verdicts(&request, &arena, name);
	free(arena.base);
	return true;
}

START_TEST(a_row_is_replayed_as_in_the_plain_form)
{
	const char *source = getenv("VRAMCAST_SOURCE");
	char path[4096], name[256];
	unsigned number = 0, compared = 0;
	FILE *file;

	snprintf(path, sizeof(path), "%s/tests/truth/%s", source ? source : ".", files[_i].file);
	file = fopen(path, "r");
	ck_assert_msg(file != NULL, "%s", path);
	for (json_t *row; (row = json_loadf(file, JSON_DISABLE_EOF_CHECK, NULL)); json_decref(row)) {
		snprintf(name, sizeof(name), "%s row %u", files[_i].file, ++number);
		compared += compare_row(row, number % JUDGED_EACH == 0, name);
	}
	fclose(file);
	ck_assert_msg(compared >= files[_i].least, "%s: %u of %u rows", files[_i].file, compared, number);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("rows");
	TCase *test = tcase_create("rows");
	int failed;

	catalog = shipped_catalog();
	tcase_set_timeout(test, 180);
	tcase_add_loop_test(test, a_row_is_replayed_as_in_the_plain_form, 0, (int)(sizeof(files) / sizeof(files[0])));
	suite_add_tcase(suite, test);
	failed = run_suite(suite);
	cfg_catalog_destroy(catalog);
	return failed;
}
