/* bench [--rounds N]: what an estimate costs, part by part, in time of the processor. Every round runs every part once;
 * a figure is the median of the rounds. Beside it stands what it is in iterations of a fixed integer loop that is timed
 * in the same rounds: those figures may be compared between machines and days, times may not. docs/performance.md
 * tells what they mean. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "config/config.h"
#include "estimator/replay.h"
#include "tests/source.h"

enum { ROUNDS = 101, ROUNDS_MAX = 10001, LOOP = 200000, STEPS = 2 };

/* A request and what is made of it once, before the rounds. */
struct subject {
	const char *name, *body;
	json_t *json;
	struct cfg_request request;
	struct est_program program;     /* in program_arena */
	struct est_arena program_arena;
	uint64_t floor, required;       /* of the first run: every other one has to come to the same */
};

static struct subject subjects[] = {
	{ .name = "8B checkpointed",
	  .body = "{\"model\":\"llama-3.1-8b\",\"precision\":\"bf16\",\"gradient_checkpointing\":true}" },
	{ .name = "8B plain", .body = "{\"model\":\"llama-3.1-8b\",\"precision\":\"bf16\",\"gradient_checkpointing\":false}" },
	{ .name = "8B LoRA", .body = "{\"model\":\"llama-3.1-8b\",\"method\":\"lora\",\"gradient_checkpointing\":true}" },
	{ .name = "405B LoRA", .body = "{\"model\":\"llama-3.1-405b\",\"method\":\"lora\",\"gradient_checkpointing\":true}" },
	{ .name = "70B LoRA FSDP", .body = "{\"model\":\"llama-3.1-70b\",\"method\":\"lora\",\"gradient_checkpointing\":true,"
					   "\"parallelism\":{\"strategy\":\"fsdp\",\"gpus\":8}}" },
};
enum { SUBJECTS = sizeof(subjects) / sizeof(subjects[0]) };

static struct cfg_catalog *catalog;
static struct est_arena arena;

static void fail(const char *reason)
{
	fprintf(stderr, "bench: %s\n", reason);
	exit(1);
}

/* ---- the parts: each returns how many operations it did */

static uint64_t run_loop(struct subject *subject)
{
	volatile uint64_t result;
	uint64_t x = 88172645463325252;

	(void)subject;
	for (unsigned i = 0; i < LOOP; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
	}
	result = x;
	(void)result;
	return LOOP;
}

static uint64_t run_read(struct subject *subject)
{
	static struct cfg_request request;
	static struct est_faults faults;

	faults.count = 0;
	if (!cfg_read_request(subject->json, "", catalog, &request, &faults))
		fail("a request was refused");
	return 1;
}

static void trace(const struct subject *subject, struct est_arena *into, struct est_program *program)
{
	static const uint64_t shards[EST_CATEGORIES] = { 1, 1, 1, 1, 1, 1 };

	if (!est_program_trace(program, &subject->request.model, &subject->request.request, true, shards, into))
		fail("the arena is too small");
}

static uint64_t run_trace(struct subject *subject)
{
	struct est_program program;

	trace(subject, &arena, &program);
	return 1;
}

static uint64_t run_levels(struct subject *subject)
{
	struct est_levels levels;

	est_replay_levels(&subject->program, &levels);
	subject->floor = levels.allocated;
	return 1;
}

/* The replay of a run, without the search for the least limit: what is allocated and what is reserved. */
static uint64_t run_replay(struct subject *subject)
{
	struct est_program program;
	struct est_levels levels;
	struct est_reserved reserved;

	trace(subject, &arena, &program);
	est_replay_levels(&program, &levels);
	if (!est_replay_peak(&program, &arena, &reserved))
		fail("the arena is too small");
	return 1;
}

static uint64_t run_reserved(struct subject *subject)
{
	struct est_reserved reserved;

	if (!est_replay_reserved(&subject->program, &arena, subject->floor, NULL, NULL, &reserved))
		fail("the arena is too small");
	return 1;
}

/* The allocator alone: two steps without a limit. */
static uint64_t run_events(struct subject *subject)
{
	const struct est_program *program = &subject->program;
	struct est_allocator allocator;
	uint64_t count = 0;

	if (!est_allocator_init(&allocator, &arena, program->ids, false, 0))
		fail("the arena is too small");
	for (unsigned step = 0; step < STEPS; step++) {
		for (enum est_part part = step == 0 ? EST_PART_LOAD : EST_PART_MICRO_FIRST; part < EST_PARTS; part++) {
			for (size_t i = program->begin[part]; i < program->end[part] && (step == 0 || part != EST_PART_STATES); i++) {
				const struct est_event *event = &program->events[i];

				if (event->kind == EST_EVENT_ALLOC)
					est_allocator_alloc(&allocator, event->id, est_units(event->bytes));
				else if (event->kind == EST_EVENT_FREE)
					est_allocator_free(&allocator, event->id);
				count++;
			}
		}
	}
	if (allocator.exhausted)
		fail("the tables are too small");
	return count;
}

static void estimate(struct subject *subject, size_t cards)
{
	static struct est_report report;

	if (!est_run(&subject->request.request, &subject->request.model, subject->request.cards, cards, &arena, &report))
		fail("the arena is too small");
	if (subject->required && subject->required != report.fits[0].required)
		fail("two runs of one request differ");
	subject->required = report.fits[0].required;
}

static uint64_t run_one_card(struct subject *subject)
{
	estimate(subject, 1);
	return 1;
}

static uint64_t run_all_cards(struct subject *subject)
{
	estimate(subject, subject->request.card_count);
	return 1;
}

/* The verdict alone, of the first card, as a search for limits asks for it. */
static uint64_t run_verdict(struct subject *subject)
{
	struct est_fit fit;

	if (!est_judge_cards(&subject->request.request, &subject->request.model, subject->request.cards, 1, 0, &arena, &fit))
		fail("the arena is too small");
	return 1;
}

static uint64_t run_all_verdicts(struct subject *subject)
{
	static struct est_fit fits[CFG_CARDS_MAX];

	if (!est_judge_cards(&subject->request.request, &subject->request.model, subject->request.cards,
			     subject->request.card_count, 0, &arena, fits))
		fail("the arena is too small");
	return 1;
}

static const struct part {
	const char *name;
	uint64_t (*run)(struct subject *subject);
} parts[] = {
	{ "read the request", run_read },
	{ "trace the run", run_trace },
	{ "levels", run_levels },
	{ "reserved and least limit", run_reserved },
	{ "estimate, one card", run_one_card },
	{ "estimate, all cards", run_all_cards },
	{ "verdict, one card", run_verdict },
	{ "verdicts, all cards", run_all_verdicts },
	{ "allocator, an event", run_events },
	{ "replay: trace, levels, reserved", run_replay },
};
enum { PARTS = sizeof(parts) / sizeof(parts[0]) };

/* ---- timing */

static double now_ns(void)
{
	struct timespec time;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
	return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

static double time_once(uint64_t (*run)(struct subject *subject), struct subject *subject)
{
	double begin;
	uint64_t count;

	est_arena_rewind(&arena, 0);
	begin = now_ns();
	count = run(subject);
	return (now_ns() - begin) / (double)count;
}

static int compare_doubles(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double median(double *times, size_t count)
{
	qsort(times, count, sizeof(*times), compare_doubles);
	return times[count / 2];
}

/* ---- report */

static void print_line(const char *subject, const char *part, double ns, double loop_ns)
{
	printf("%-16s %-31s %12.0f a second %12.3f us %14.1f loop iterations\n", subject, part, 1e9 / ns, ns / 1e3,
	       ns / loop_ns);
}

static void print_subject(const struct subject *subject, const double ns[PARTS], double loop_ns)
{
	for (unsigned i = 0; i < PARTS; i++)
		print_line(subject->name, parts[i].name, ns[i], loop_ns);
}

/* Of the estimate for one card; the parts' order is that of parts[]. */
static void print_ratios(const struct subject *subject, const double ns[PARTS])
{
	const double whole = ns[4];

	printf("ratio %s: of an estimate for one card: reading %.4f, trace %.3f, levels %.3f, reserved and least limit %.3f; "
	       "the replay without the least limit %.3f; all %zu cards %.2f; verdict of one card %.2f, of all %.2f\n",
	       subject->name, ns[0] / whole, ns[1] / whole, ns[2] / whole, ns[3] / whole, ns[9] / whole, subject->request.card_count,
	       ns[5] / whole, ns[6] / whole, ns[7] / whole);
}

/* ---- setting up */

static void prepare(struct subject *subject)
{
	struct est_faults faults = { 0 };
	size_t size;

	subject->json = json_loads(subject->body, 0, NULL);
	if (!subject->json || !cfg_read_request(subject->json, "", catalog, &subject->request, &faults))
		fail("a request was refused");
	size = est_program_arena_size(est_model_table_layers(&subject->request.model));
	est_arena_init(&subject->program_arena, malloc(size), size);
	if (!subject->program_arena.base)
		fail("no memory");
	trace(subject, &subject->program_arena, &subject->program);
}

static size_t read_rounds(int argc, char **argv)
{
	size_t rounds = argc == 3 && strcmp(argv[1], "--rounds") == 0 ? strtoul(argv[2], NULL, 10) : argc == 1 ? ROUNDS : 0;

	if (rounds < 1 || rounds > ROUNDS_MAX)
		fail("usage: bench [--rounds N], N from 1 to 10001");
	return rounds;
}

int main(int argc, char **argv)
{
	static double times[SUBJECTS][PARTS][ROUNDS_MAX], loop_times[ROUNDS_MAX];
	double medians[SUBJECTS][PARTS], loop_ns;
	size_t rounds = read_rounds(argc, argv), size = est_arena_size(CFG_CARDS_MAX);

	catalog = shipped_catalog();
	est_arena_init(&arena, malloc(size), size);
	if (!arena.base)
		fail("no memory");
	for (unsigned s = 0; s < SUBJECTS; s++)
		prepare(&subjects[s]);
	for (size_t round = 0; round < rounds; round++) {
		loop_times[round] = time_once(run_loop, NULL);
		for (unsigned s = 0; s < SUBJECTS; s++)
			for (unsigned i = 0; i < PARTS; i++)
				times[s][i][round] = time_once(parts[i].run, &subjects[s]);
	}
	loop_ns = median(loop_times, rounds);
	printf("%-16s %-31s %12.0f a second %12.5f us   medians of %zu rounds\n", "integer loop", "an iteration",
	       1e9 / loop_ns, loop_ns / 1e3, rounds);
	for (unsigned s = 0; s < SUBJECTS; s++) {
		for (unsigned i = 0; i < PARTS; i++)
			medians[s][i] = median(times[s][i], rounds);
		print_subject(&subjects[s], medians[s], loop_ns);
	}
	for (unsigned s = 0; s < SUBJECTS; s++) {
		print_ratios(&subjects[s], medians[s]);
		free(subjects[s].program_arena.base);
		json_decref(subjects[s].json);
	}
	free(arena.base);
	cfg_catalog_destroy(catalog);
	return 0;
}
