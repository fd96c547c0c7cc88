/* Runs of which layers are copied, against the same runs with all layers traced: the same events but for the storages' ids, and
 * the same levels. Of every truth row, and of requests at random. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "config/config.h"
#include "estimator/pipeline.h"
#include "estimator/replay.h"
#include "estimator/sharding.h"
#include "tests/drawn.h"
#include "tests/source.h"
#include "tests/suite.h"

static const struct {
	const char *file;
	unsigned least; /* so many rows have copies */
} files[] = { { "single.jsonl", 400 }, { "distributed.jsonl", 0 }, { "compiled.jsonl", 0 }, { "published.jsonl", 90 },
	      { "published_oom.jsonl", 30 } };

enum { SEEDS = 6, REQUESTS = 100, COPIED = 30 };

static struct cfg_catalog *catalog;

/* ---- the same events */

static bool is_same_event(const struct est_event *one, const struct est_event *other)
{
	return one->kind == other->kind && one->bytes == other->bytes && one->category == other->category
	       && one->stream == other->stream && (one->kind != EST_EVENT_PHASE || one->id == other->id);
}

/* Of each id the event that allocated it, counted from 1; 0: it is not alive. */
struct births {
	size_t *one, *other;
};

/* A storage of one is one of the other, as long as it lives. */
static bool is_same_storage(const struct births *births, const struct est_event *one, const struct est_event *other, size_t number)
{
	size_t *born = &births->one[one->id], *other_born = &births->other[other->id];

	if (one->kind == EST_EVENT_PHASE)
		return true;
	if (*born != *other_born || (one->kind == EST_EVENT_FREE && !*born))
		return false;
	*born = *other_born = one->kind == EST_EVENT_ALLOC ? number : 0;
	return true;
}

/* How many events are the same, from the first on. */
static size_t count_same(const struct est_program *one, const struct est_program *other, enum est_part part, const struct births *births)
{
	size_t i = one->begin[part], shift = other->begin[part] - i;

	for (; i < one->end[part]; i++) {
		const struct est_event *event = &one->events[i], *its = &other->events[i + shift];

		if (event->kind != EST_EVENT_PHASE && (event->id >= one->ids || its->id >= other->ids))
			break;
		if (!is_same_event(event, its) || !is_same_storage(births, event, its, i + 1))
			break;
	}
	return i - one->begin[part];
}

static void compare_part(const struct est_program *one, const struct est_program *other, enum est_part part, const struct births *births,
			 const char *name)
{
	size_t count = other->end[part] - other->begin[part], same;

	ck_assert_msg(one->end[part] - one->begin[part] == count, "%s: part %d has not %zu events", name, part, count);
	same = count_same(one, other, part, births);
	ck_assert_msg(same == count, "%s: part %d, event %zu of %zu", name, part, same, count);
}

/* Two steps: an id which a step makes again must not be one of what stays. */
static void compare_events(const struct est_program *one, const struct est_program *other, const char *name)
{
	static const enum est_part parts[] = { EST_PART_LOAD, EST_PART_REHEARSAL, EST_PART_MICRO_FIRST, EST_PART_MICRO_NEXT,
					       EST_PART_CLIP, EST_PART_STATES, EST_PART_UPDATE, EST_PART_SECOND_STEP,
					       EST_PART_MICRO_FIRST, EST_PART_MICRO_NEXT, EST_PART_CLIP, EST_PART_UPDATE };
	struct births births = { calloc(one->ids, sizeof(size_t)), calloc(other->ids, sizeof(size_t)) };
	size_t count = one->rehearses_first ? 7 : sizeof(parts) / sizeof(parts[0]); /* which lets parts stand for others */

	for (size_t i = 0; i < count; i++)
		compare_part(one, other, parts[i], &births, name);
	free(births.one);
	free(births.other);
}

static void compare_programs(const struct est_program *one, const struct est_program *other, const char *name)
{
	struct est_levels levels, all;

	ck_assert_uint_eq(one->pinned, other->pinned);
	ck_assert_uint_eq(one->host_states, other->host_states);
	ck_assert_uint_eq(one->managed, other->managed);
	ck_assert_uint_eq(one->accumulation_steps, other->accumulation_steps);
	ck_assert_uint_eq(one->surplus, other->surplus);
	ck_assert_uint_eq(one->leftover, other->leftover);
	ck_assert_int_eq(one->trainable_parameters, other->trainable_parameters);
	ck_assert_uint_eq(other->copies_count, 0);
	if (!one->reserved) /* MLX's */
		compare_events(one, other, name);
	est_replay_levels(one, &levels);
	est_replay_levels(other, &all);
	ck_assert_msg(levels.allocated == all.allocated && levels.phase == all.phase, "%s: allocated", name);
	ck_assert_msg(!memcmp(levels.at_peak, all.at_peak, sizeof(all.at_peak)), "%s: at the peak", name);
	ck_assert_msg(!memcmp(levels.phase_peak, all.phase_peak, sizeof(all.phase_peak)), "%s: phases", name);
	ck_assert_msg(!memcmp(levels.component, all.component, sizeof(all.component)), "%s: components", name);
}

/* Of size bytes at least, the one memory for all. */
static struct est_arena arena_of(size_t size)
{
	static void *memory;
	static size_t most;
	struct est_arena arena;

	if (size > most) {
		free(memory);
		memory = malloc(most = size);
	}
	est_arena_init(&arena, memory, most);
	return arena;
}

/* Whether layers were copied. */
static bool compare(const struct cfg_request *request, const char *name)
{
	int64_t layers = (request->request.parallelism.pipeline > 1 ? 4 : 1) * est_model_table_layers(&request->model);
	struct est_arena arena = arena_of(2 * est_program_arena_size(layers) + (1 << 20));
	struct est_program program, whole;
	uint64_t shards[EST_CATEGORIES];
	struct est_model held;

	est_sharding_shares(&request->request, shards);
	ck_assert(est_stage_part(&request->model, &request->request, 0, &arena, &held));
	ck_assert_msg(est_program_trace(&program, &held, &request->request, EST_SDPA_HAS_FLASH, shards, &arena), "%s", name);
	ck_assert_msg(est_program_trace_whole(&whole, &held, &request->request, EST_SDPA_HAS_FLASH, shards, &arena), "%s", name);
	compare_programs(&program, &whole, name);
	return program.copies_count > 0;
}

START_TEST(rows_have_the_events_of_all_their_layers)
{
	static struct cfg_request request;
	static struct est_faults faults;
	unsigned number = 0, copied = 0;
	char path[4096], name[256];
	FILE *file;

	snprintf(path, sizeof(path), "%s/tests/truth/%s", source_root(), files[_i].file);
	file = fopen(path, "r");
	ck_assert_msg(file != NULL, "%s", path);
	for (json_t *row; (row = json_loadf(file, JSON_DISABLE_EOF_CHECK, NULL)); json_decref(row)) {
		snprintf(name, sizeof(name), "%s row %u", files[_i].file, ++number);
		faults.count = 0;
		if (cfg_read_request(json_object_get(row, "request"), "", catalog, &request, &faults)
		    && request.request.accounting != EST_RULE_OF_THUMB)
			copied += compare(&request, name);
	}
	fclose(file);
	ck_assert_msg(copied >= files[_i].least, "%s: %u of %u rows", files[_i].file, copied, number);
}
END_TEST

START_TEST(requests_at_random_have_the_events_of_all_their_layers)
{
	static struct cfg_request request;
	struct draws draws = { .state = (uint64_t)_i };
	unsigned copied = 0;
	char name[256];

	for (unsigned i = 0; i < REQUESTS; i++) {
		if (!draw_request(&draws, catalog, false, &request))
			continue;
		snprintf(name, sizeof(name), "request %u of seed %d, of %s", i, _i, request.model.model_type);
		copied += compare(&request, name);
	}
	ck_assert_uint_ge(copied, COPIED);
}
END_TEST

/* By hand, so many seeds: test_repeat SEEDS. */
int main(int argc, char **argv)
{
	Suite *suite = suite_create("repeat");
	TCase *test = tcase_create("repeat");
	int failed, seeds = argc > 1 ? atoi(argv[1]) : SEEDS;

	catalog = shipped_catalog();
	tcase_set_timeout(test, 600);
	tcase_add_loop_test(test, rows_have_the_events_of_all_their_layers, 0, COUNT(files));
	tcase_add_loop_test(test, requests_at_random_have_the_events_of_all_their_layers, 0, seeds);
	suite_add_tcase(suite, test);
	failed = run_suite(suite);
	cfg_catalog_destroy(catalog);
	return failed;
}
