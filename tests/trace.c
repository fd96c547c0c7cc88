/* trace REQUEST.json | - [RANK]: the events of the replay of a request, one a line, for comparison with a trace of
 * real PyTorch: "A id bytes allocated category", "F id bytes", "== part", "-- phase". With no argument but stdin,
 * reads the request from it. Of a pipeline: of its rank RANK, from 0, or of the first. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "config/config.h"
#include "estimator/pipeline.h"
#include "estimator/replay.h"
#include "tests/source.h"

static const char *const part_names[EST_PARTS] = { "load", "second_step", "rehearsal", "micro_first", "micro_next", "clip",
						   "states", "update" };

static void print_part(const struct est_program *program, enum est_part part, uint64_t *allocated)
{
	printf("== %s\n", part_names[part]);
	for (size_t i = program->begin[part]; i < program->end[part]; i++) {
		const struct est_event *event = &program->events[i];

		if (event->kind == EST_EVENT_PHASE) {
			printf("-- %s\n", est_phase_name((enum est_phase)event->id));
			continue;
		}
		*allocated += event->kind == EST_EVENT_ALLOC ? event->bytes : -event->bytes;
		printf("%c %7" PRIu32 " %12" PRIu64 " %14" PRIu64 " %s\n", event->kind == EST_EVENT_ALLOC ? 'A' : 'F', event->id,
		       event->bytes, *allocated, est_category_name(event->category));
	}
}

static void fail(const char *reason)
{
	fprintf(stderr, "trace: %s\n", reason);
	exit(1);
}

int main(int argc, char **argv)
{
	static const uint64_t shards[EST_CATEGORIES] = { 1, 1, 1, 1, 1, 1 };
	static struct cfg_request request;
	static struct est_model model;
	static struct est_faults faults;
	struct cfg_catalog *catalog = shipped_catalog();
	struct est_program program;
	struct est_arena arena;
	uint64_t allocated = 0;
	json_t *body;
	size_t size;

	body = argc > 1 && strcmp(argv[1], "-") != 0 ? json_load_file(argv[1], 0, NULL) : json_loadf(stdin, 0, NULL);
	if (!body)
		fail("not JSON");
	if (!cfg_read_request(body, "", catalog, &request, &faults)) {
		for (size_t i = 0; i < faults.count && i < EST_FAULTS_MAX; i++)
			fprintf(stderr, "%s %s\n", faults.item[i].pointer, faults.item[i].detail);
		return 1;
	}
	size = est_program_arena_size(EST_LAYERS_MAX);
	est_arena_init(&arena, malloc(size), size);
	if (!est_stage_part(&request.model, &request.request, argc > 2 ? strtol(argv[2], NULL, 10) : 0, &arena, &model)
	    || !est_program_trace(&program, &model, &request.request, true, shards, &arena))
		fail("the arena or the tables are too small");
	for (enum est_part part = EST_PART_LOAD; part < EST_PARTS; part++)
		print_part(&program, part, &allocated);
	free(arena.base);
	json_decref(body);
	cfg_catalog_destroy(catalog);
	return 0;
}
