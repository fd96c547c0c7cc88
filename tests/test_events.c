/* The replay against traces of real PyTorch, allocation by allocation: truth/README.md tells how the files are made. */
#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "config/config.h"
#include "estimator/pipeline.h"
#include "estimator/replay.h"
#include "tests/source.h"
#include "tests/suite.h"

/* FILES_MIN: so many are there; SLACK: what the scalars and shapes below a trace's threshold
 * add up to. */
enum { UNIT = 512, EVENTS_MIN = 100, EVENTS_MAX = 8192, FILES_MIN = 560, SLACK = 48 * 1024 };

struct allocation {
	uint64_t bytes, allocated; /* of it, and of all that is alive after it */
};

struct replayed {
	uint64_t threshold, allocated;
	bool recording;
	size_t count;
	struct allocation events[EVENTS_MAX];
};

static struct cfg_catalog *catalog;
static char folder[4096];
static struct dirent **files;
static int file_count;
static struct replayed replayed;

/* ---- ours */

static void play(const struct est_program *program, enum est_part part)
{
	for (size_t i = program->begin[part]; i < program->end[part]; i++) {
		const struct est_event *event = &program->events[i];

		if (event->kind == EST_EVENT_FREE)
			replayed.allocated -= event->bytes;
		if (event->kind != EST_EVENT_ALLOC)
			continue;
		replayed.allocated += event->bytes;
		if (!replayed.recording || event->bytes < replayed.threshold)
			continue;
		ck_assert_uint_lt(replayed.count, EVENTS_MAX);
		replayed.events[replayed.count++] = (struct allocation){ event->bytes, replayed.allocated };
	}
}

static void play_step(const struct est_program *program, bool first)
{
	play(program, EST_PART_MICRO_FIRST);
	for (uint64_t i = 1; i < program->accumulation_steps; i++)
		play(program, EST_PART_MICRO_NEXT);
	play(program, EST_PART_CLIP);
	if (first)
		play(program, EST_PART_STATES);
	play(program, EST_PART_UPDATE);
}

/* The allocations of the second step, of a pipeline's rank. */
static void replay(const char *name, json_t *body, int64_t rank, uint64_t threshold)
{
	static const uint64_t whole[EST_CATEGORIES] = { 1, 1, 1, 1, 1, 1 };
	static struct cfg_request request;
	static struct est_faults faults;
	struct est_program program;
	struct est_arena arena;
	struct est_model held;
	size_t size;

	ck_assert_msg(cfg_read_request(body, "", catalog, &request, &faults), "%s: %s %s", name, faults.item[0].pointer,
		      faults.item[0].detail);
	size = est_program_arena_size(2 * est_model_table_layers(&request.model)); /* of a pipeline several micro-batches are in flight */
	est_arena_init(&arena, malloc(size), size);
	ck_assert(est_stage_part(&request.model, &request.request, rank, &arena, &held));
	ck_assert_msg(est_program_trace(&program, &held, &request.request, true, whole, &arena), "%s", name);
	replayed.threshold = threshold;
	play(&program, EST_PART_LOAD);
	play_step(&program, true);
	replayed.recording = true;
	play_step(&program, false);
	free(arena.base);
}

/* ---- theirs */

static struct allocation event_at(json_t *events, size_t i)
{
	json_t *event = json_array_get(events, i);

	return (struct allocation){ (uint64_t)json_integer_value(json_array_get(event, 0)) * UNIT,
				    (uint64_t)json_integer_value(json_array_get(event, 1)) * UNIT };
}

static uint64_t distance(uint64_t a, uint64_t b)
{
	return a > b ? a - b : b - a;
}

START_TEST(the_replay_makes_the_allocations_of_real_pytorch)
{
	const char *name = files[_i]->d_name;
	char path[8192];
	json_t *file, *events;

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	file = json_load_file(path, 0, NULL);
	events = json_object_get(file, "events");
	ck_assert_msg(json_array_size(events) >= EVENTS_MIN, "%s: no trace", name);
	replay(name, json_object_get(file, "request"), json_integer_value(json_object_get(file, "rank")),
	       (uint64_t)json_integer_value(json_object_get(file, "threshold_bytes")));
	for (size_t i = 0; i < json_array_size(events) && i < replayed.count; i++) {
		struct allocation theirs = event_at(events, i), ours = replayed.events[i];

		ck_assert_msg(ours.bytes == theirs.bytes,
			      "%s: allocation %zu has %" PRIu64 " bytes, PyTorch's %" PRIu64, name, i, ours.bytes,
			      theirs.bytes);
		ck_assert_msg(distance(ours.allocated, theirs.allocated) <= SLACK,
			      "%s: %" PRIu64 " bytes are alive after allocation %zu (%" PRIu64
			      " bytes), in PyTorch %" PRIu64,
			      name, ours.allocated, i, ours.bytes, theirs.allocated);
	}
	ck_assert_msg(replayed.count == json_array_size(events), "%s: %zu allocations, PyTorch makes %zu", name,
		      replayed.count, json_array_size(events));
	json_decref(file);
}
END_TEST

START_TEST(no_trace_has_gone_missing)
{
	ck_assert_int_ge(file_count, FILES_MIN);
}
END_TEST

static int is_trace(const struct dirent *entry)
{
	const char *end = strrchr(entry->d_name, '.');

	return end && strcmp(end, ".json") == 0;
}

int main(void)
{
	Suite *suite = suite_create("events");
	TCase *test = tcase_create("events");
	int failed;

	snprintf(folder, sizeof(folder), "%s/tests/truth/events", source_root());
	catalog = shipped_catalog();
	file_count = scandir(folder, &files, is_trace, alphasort);
	tcase_add_loop_test(test, the_replay_makes_the_allocations_of_real_pytorch, 0, file_count);
	tcase_add_test(test, no_trace_has_gone_missing);
	suite_add_tcase(suite, test);
	failed = run_suite(suite);
	for (int i = 0; i < file_count; i++)
		free(files[i]);
	free(files);
	cfg_catalog_destroy(catalog);
	return failed;
}
