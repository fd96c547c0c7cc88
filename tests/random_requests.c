/* random_requests [SEED [COUNT]]: estimates random valid requests and holds each answer to what is true of every answer: sums, order of
 * the figures, verdicts that follow from them. The same seed makes the same requests. Prints TAP; a request that breaks a rule is
 * printed as it would be sent. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "config/config.h"
#include "config/vary.h"
#include "estimator/floor.h"
#include "estimator/step.h"
#include "estimator/verdict.h"

enum { SEED = 1, COUNT = 400, TRIES = 40, CHANGES_MAX = 8 };

static uint64_t state;

static uint64_t draw(uint64_t below)
{
	state += UINT64_C(0x9e3779b97f4a7c15); /* splitmix64 */
	uint64_t mixed = (state ^ state >> 30) * UINT64_C(0xbf58476d1ce4e5b9);

	mixed = (mixed ^ mixed >> 27) * UINT64_C(0x94d049bb133111eb);
	return (mixed ^ mixed >> 31) % below;
}

/* ---- a random request */

static const char *const skipped[] = { "accounting", "include", "headroom_fraction", "versions.", "sequence_length", NULL };

static bool is_skipped(const struct est_field *field)
{
	for (size_t i = 0; skipped[i]; i++)
		if (!strncmp(field->name, skipped[i], strlen(skipped[i])))
			return true;
	return field->kind > EST_FIELD_WORD && field->kind != EST_FIELD_CHECKPOINTING;
}

static double draw_word(const struct est_word *words)
{
	size_t count = 0;

	while (words[count].name)
		count++;
	return words[draw(count)].value;
}

/* Small numbers mostly, powers of two often. */
static double draw_number(const struct est_field *field)
{
	static const double numbers[] = { 0, 1, 2, 3, 4, 7, 8, 16, 64, 100, 1e6, 5e8 };
	double value = numbers[draw(sizeof(numbers) / sizeof(numbers[0]))];

	return value < field->min ? field->min : value > field->max ? field->max : value;
}

static struct cfg_change draw_change(void)
{
	const struct est_field *field;

	do
		field = &est_request_fields[draw(est_request_field_count)];
	while (is_skipped(field));
	switch (field->kind) {
	case EST_FIELD_BOOL:
		return (struct cfg_change){ field->name, (double)draw(2) };
	case EST_FIELD_WORD:
	case EST_FIELD_CHECKPOINTING:
		return (struct cfg_change){ field->name, draw_word(field->words) };
	default:
		return (struct cfg_change){ field->name, draw_number(field) };
	}
}

/* A request of a random preset: its plainest first, then with changes as long as it stays valid. */
static bool draw_request(const struct cfg_catalog *catalog, struct cfg_request *ret)
{
	static struct est_request varied;
	static struct est_faults faults;
	size_t count;
	const struct cfg_preset *presets = cfg_catalog_presets(catalog, &count);
	json_t *body = json_pack("{s:s, s:[s,s,s], s:i}", "model", presets[draw(count)].id, "gpus", "h100-sxm5-80gb", "rtx-4090", "t4",
				 "sequence_length", 1 << (5 + draw(8)));
	bool valid;

	faults.count = 0;
	valid = cfg_read_request(body, "", catalog, ret, &faults);
	json_decref(body);
	for (int i = 0, made = 0; valid && i < TRIES && made < CHANGES_MAX; i++) {
		struct cfg_change change = draw_change();

		if (!cfg_vary(ret, &change, 1, &varied))
			continue;
		ret->request = varied;
		made++;
	}
	return valid;
}

/* ---- what is true of every answer */

static bool is_ordered(const struct est_range *range)
{
	return range->low <= range->expected && range->expected <= range->high && range->high < UINT64_C(1) << 61;
}

static const char *broken_rule(const struct est_request *request, const struct est_report *report)
{
	const struct est_peak *peak = &report->peak;
	const struct est_rows *rows = &report->per_gpu;
	uint64_t sum = 0, most = 0;

	for (int i = 0; i < EST_CATEGORIES; i++)
		sum += peak->at_peak[i];
	for (size_t i = 0; i < report->moments; i++)
		most = report->timeline[i].allocated > most ? report->timeline[i].allocated : most;
	if (sum != peak->allocated.expected)
		return "at_peak adds up to allocated";
	if (!is_ordered(&peak->allocated) || !is_ordered(&peak->reserved) || !is_ordered(&peak->device))
		return "low <= expected <= high";
	if (peak->allocated.expected > peak->reserved.expected || peak->reserved.expected > peak->device.expected)
		return "allocated <= reserved <= device";
	if (most > peak->allocated.expected)
		return "no phase has more than the peak";
	if (rows->total != rows->weights + rows->gradients + rows->optimizer + rows->activations + rows->buffers + rows->overhead)
		return "the rows add up";
	if (report->trainable_parameters <= 0)
		return "something is trained";
	for (size_t i = 0; i < report->fit_count; i++) {
		const struct est_fit *fit = &report->fits[i];
		uint64_t usable = est_usable_bytes(fit->gpu, request->headroom_fraction);

		if (fit->required > fit->required_high || fit->required < peak->at_peak[EST_WEIGHTS])
			return "weights <= required <= required_high";
		if (!fit->reason && fit->verdict != est_judge(fit->required, fit->required_high, usable))
			return "the verdict follows from what is required";
	}
	return NULL;
}

/* Nothing that a micro-batch made for itself may outlive it: the second ends with as much as the first. */
static const char *leak(const struct cfg_request *request, struct est_arena *arena)
{
	static const uint64_t whole[EST_CATEGORIES] = { 1, 1, 1, 1, 1, 1 };
	int64_t live[EST_CATEGORIES] = { 0 }, after[EST_PARTS] = { 0 };
	struct est_program program;
	const char *rule = NULL;
	size_t mark = arena->used;

	if (!est_program_trace(&program, &request->model, &request->request, EST_SDPA_HAS_FLASH, whole, arena))
		return "the arena is large enough for the program";
	for (int part = 0; part < EST_PARTS; part++) {
		for (size_t i = program.begin[part]; i < program.end[part]; i++) {
			const struct est_event *event = &program.events[i];

			if (event->kind == EST_EVENT_PHASE)
				continue;
			live[event->category] += event->kind == EST_EVENT_ALLOC ? (int64_t)event->bytes : -(int64_t)event->bytes;
			if (live[event->category] < 0)
				rule = "what is freed was allocated";
		}
		after[part] = live[EST_ACTIVATIONS];
	}
	if (!rule && after[EST_PART_LOAD])
		rule = "the load leaves no activations";
	if (!rule && after[EST_PART_MICRO_NEXT] != after[EST_PART_MICRO_FIRST])
		rule = "a micro-batch leaves no activations behind";
	est_arena_rewind(arena, mark);
	return rule;
}

/* ---- what a search over many runs goes by (config/plan.h) */

enum { PLAN_GPUS = 1024, SLACK = 64 }; /* of a bound: 1/64, for padded chunks and padded shards */

/* What the first card needs at least, by what is alive. */
static uint64_t least(const struct cfg_request *request, const struct est_request *run, struct est_arena *arena)
{
	struct est_fit fit;
	size_t mark = arena->used;
	bool complete = est_judge_alive(run, &request->model, request->cards, 1, arena, &fit);

	est_arena_rewind(arena, mark);
	return complete ? fit.required_high : 0;
}

/* The replay of more has to need as much at least. */
static const char *falls(const struct cfg_request *request, const char *name, double factor, uint64_t before, struct est_arena *arena)
{
	static struct est_request varied;
	const struct est_field *field = est_field_find(name);
	double value = est_field_get(field, &request->request);
	struct cfg_change change = { name, floor(value * factor) > value ? floor(value * factor) : value + 1 };
	uint64_t after;

	if (!cfg_vary(request, &change, 1, &varied))
		return NULL;
	after = least(request, &varied, arena);
	return after < before - before / SLACK ? "a larger batch or a longer one needs no less" : NULL;
}

/* More GPUs need no more, where there are several and the strategy stays. */
static const char *rises(const struct cfg_request *request, double factor, uint64_t before, struct est_arena *arena)
{
	static struct est_request varied;
	double gpus = (double)request->request.parallelism.gpus;
	struct cfg_change change = { "parallelism.gpus", floor(gpus * factor) };

	if (request->model.vision.tower != EST_TOWER_NONE) /* whose parameters are cut by ranks as they come */
		return NULL;
	if (gpus < 2 || change.value > PLAN_GPUS || change.value <= gpus || !cfg_vary(request, &change, 1, &varied))
		return NULL;
	return least(request, &varied, arena) > before + before / SLACK ? "more GPUs need no more" : NULL;
}

static const char *broken_bound(const struct cfg_request *request, const struct est_report *report, struct est_arena *arena)
{
	static const double factors[] = { 1.25, 1.5, 2, 3, 4 };
	double factor = factors[draw(sizeof(factors) / sizeof(factors[0]))];
	const struct est_request *run = &request->request;
	struct est_floor bound;
	uint64_t alive = least(request, run, arena);
	const char *rule;

	est_floor_init(&bound, run, &request->model);
	if (est_run_least(run, &request->model, &bound, request->cards[0]) > alive)
		return "the floor lies below what is alive";
	if (alive > report->fits[0].required_high)
		return "what is alive lies below what is required";
	rule = falls(request, "micro_batch_size", factor, alive, arena);
	rule = rule ? rule : falls(request, "sequence_length", factor, alive, arena);
	return rule ? rule : rises(request, factor, alive, arena);
}

static void print_request(const struct cfg_request *request)
{
	char text[256];

	printf("# model %s", request->model.id);
	for (size_t i = 0; i < est_request_field_count; i++)
		if (est_field_is_named(&est_request_fields[i], &request->request))
			printf(" %s=%s", est_request_fields[i].name,
			       est_field_text(&est_request_fields[i], &request->request, text, sizeof(text)));
	printf("\n");
}

int main(int argc, char **argv)
{
	static struct cfg_request request;
	static struct est_report report;
	const char *source = getenv("VRAMCAST_SOURCE");
	unsigned long count = argc > 2 ? strtoul(argv[2], NULL, 10) : COUNT;
	char directory[4096], error[512];
	struct cfg_catalog *catalog;
	struct est_arena arena;
	unsigned broken = 0, valid = 0;

	state = argc > 1 ? strtoull(argv[1], NULL, 10) : SEED;
	snprintf(directory, sizeof(directory), "%s/config", source ? source : ".");
	cfg_json_init();
	catalog = cfg_catalog_create(directory, error, sizeof(error));
	if (!catalog) {
		printf("Bail out! %s\n", error);
		return 3;
	}
	est_arena_init(&arena, malloc(est_arena_size(3)), est_arena_size(3));
	for (unsigned long i = 0; i < count; i++) {
		const char *rule;
		uint64_t before = state, after;

		if (!draw_request(catalog, &request))
			continue;
		valid++;
		est_arena_rewind(&arena, 0);
		arena.exhausted = false;
		if (getenv("VRAMCAST_VERBOSE")) {
			printf("# seed %" PRIu64 "\n", before);
			print_request(&request);
			fflush(stdout);
		}
		rule = est_run(&request.request, &request.model, request.cards, request.card_count, &arena, &report)
			       ? broken_rule(&request.request, &report) : "the arena is large enough";
		rule = rule ? rule : leak(&request, &arena);
		after = state;
		rule = rule ? rule : broken_bound(&request, &report, &arena);
		state = after; /* what is drawn for the bounds does not change the requests that follow */
		if (!rule)
			continue;
		printf("# broken: %s\n", rule);
		print_request(&request);
		broken++;
	}
	printf("1..2\n%s 1 - %u random requests of %lu are valid\n", valid > count / 3 ? "ok" : "not ok", valid, count);
	printf("%s 2 - what is true of every answer is true of them\n", broken ? "not ok" : "ok");
	free(arena.base);
	cfg_catalog_destroy(catalog);
	return broken != 0;
}
