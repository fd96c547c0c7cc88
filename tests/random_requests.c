/* random_requests [SEED [COUNT]]: estimates random valid requests and holds each answer to what is true of every
 * answer (rules.h). The same seed makes the same requests. Prints TAP; a request that breaks a rule is printed as it
 * would be sent. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include "tests/drawn.h"
#include "tests/rules.h"

enum { SEED = 1, COUNT = 400 };

static const char *broken_rule(struct draws *draws, const struct cfg_request *request, struct est_arena *arena)
{
	static const double factors[] = { 1.25, 1.5, 2, 3, 4 };
	static struct est_report report;
	struct draws after = *draws; /* what is drawn for the bounds does not change the requests that follow */
	const char *rule;

	if (!est_run(&request->request, &request->model, request->cards, request->card_count, arena, &report))
		return "the arena is large enough";
	rule = rule_of_report(&request->request, &report);
	rule = rule ? rule : rule_of_events(request, arena);
	return rule ? rule : rule_of_more(request, &report, factors[draw(&after, sizeof(factors) / sizeof(factors[0]))],
					  arena);
}

int main(int argc, char **argv)
{
	static struct cfg_request request;
	struct draws draws = { .state = argc > 1 ? strtoull(argv[1], NULL, 10) : SEED };
	const char *source = getenv("VRAMCAST_SOURCE");
	unsigned long count = argc > 2 ? strtoul(argv[2], NULL, 10) : COUNT;
	char directory[4096], error[512];
	struct cfg_catalog *catalog;
	struct est_arena arena;
	unsigned broken = 0, valid = 0;

	snprintf(directory, sizeof(directory), "%s/config", source ? source : ".");
	cfg_json_init();
	catalog = cfg_catalog_create(directory, error, sizeof(error));
	if (!catalog) {
		printf("Bail out! %s\n", error);
		return 3;
	}
	est_arena_init(&arena, malloc(est_arena_size(3)), est_arena_size(3));
	for (unsigned long i = 0; i < count; i++) {
		uint64_t before = draws.state;
		const char *rule;

		if (!draw_request(&draws, catalog, false, &request))
			continue;
		valid++;
		est_arena_rewind(&arena, 0);
		arena.exhausted = false;
		if (getenv("VRAMCAST_VERBOSE")) {
			printf("# seed %" PRIu64 "\n", before);
			rule_print(&request);
		}
		rule = broken_rule(&draws, &request, &arena);
		if (!rule)
			continue;
		printf("# broken: %s\n", rule);
		rule_print(&request);
		broken++;
	}
	printf("1..2\n%s 1 - %u random requests of %lu are valid\n", valid > count / 3 ? "ok" : "not ok", valid, count);
	printf("%s 2 - what is true of every answer is true of them\n", broken ? "not ok" : "ok");
	free(arena.base);
	cfg_catalog_destroy(catalog);
	return broken != 0;
}
