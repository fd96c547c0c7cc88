#include "tests/rules.h"
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "config/limits.h"
#include "config/vary.h"
#include "estimator/floor.h"
#include "estimator/step.h"
#include "estimator/verdict.h"

/* ---- one answer */

/* Far beyond what est_check() lets through, far below a sum that wraps. */
static const uint64_t most_bytes = UINT64_C(1) << 61;

static bool is_ordered(const struct est_range *range)
{
	return range->low <= range->expected && range->expected <= range->high && range->high < most_bytes;
}

static bool is_sum(const struct est_rows *rows)
{
	const uint64_t parts[] = { rows->weights, rows->gradients, rows->optimizer, rows->activations, rows->buffers,
				   rows->overhead };
	uint64_t sum = 0;

	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
		if (parts[i] >= most_bytes)
			return false;
		sum += parts[i];
	}
	return sum == rows->total;
}

static const char *rule_of_peak(const struct est_report *report)
{
	const struct est_peak *peak = &report->peak;
	uint64_t sum = 0;

	for (int i = 0; i < EST_CATEGORIES; i++)
		sum += peak->at_peak[i];
	if (sum != peak->allocated.expected)
		return "at_peak adds up to allocated";
	if (!is_ordered(&peak->allocated) || !is_ordered(&peak->reserved) || !is_ordered(&peak->device))
		return "low <= expected <= high";
	if (peak->allocated.expected > peak->reserved.expected || peak->reserved.expected > peak->device.expected)
		return "allocated <= reserved <= device";
	for (size_t i = 0; i < report->moments; i++)
		if (report->timeline[i].allocated > peak->allocated.expected)
			return "no phase has more than the peak";
	return NULL;
}

static const char *rule_of_fit(const struct est_request *request, const struct est_report *report,
			       const struct est_fit *fit)
{
	uint64_t usable = est_usable_bytes(fit->gpu, request->headroom_fraction);

	if (fit->required > fit->required_high || fit->required_high >= most_bytes)
		return "required <= required_high";
	if (report->replayed && fit->required < report->peak.at_peak[EST_WEIGHTS])
		return "weights <= required";
	if (fit->verdict != (fit->reason ? EST_UNSUPPORTED : est_judge(fit->required, fit->required_high, usable)))
		return "the verdict follows from what is required";
	return NULL;
}

const char *rule_of_report(const struct est_request *request, const struct est_report *report)
{
	const char *rule = report->replayed ? rule_of_peak(report) : NULL;

	if (rule)
		return rule;
	if (!is_sum(&report->per_gpu) || !is_sum(&report->single_gpu))
		return "the rows add up";
	if (report->trainable_parameters <= 0 || report->parameters <= 0)
		return "something is trained";
	if (report->host_pinned >= most_bytes || report->host_pageable >= most_bytes)
		return "the host's bytes are finite";
	for (size_t i = 0; i < report->fit_count && !rule; i++)
		rule = rule_of_fit(request, report, &report->fits[i]);
	return rule;
}

/* ---- its events */

const char *rule_of_events(const struct cfg_request *request, struct est_arena *arena)
{
	static const uint64_t whole[EST_CATEGORIES] = { 1, 1, 1, 1, 1, 1 };
	int64_t live[EST_CATEGORIES] = { 0 }, after[EST_PARTS] = { 0 };
	struct est_program program;
	const char *rule = NULL;
	size_t mark = arena->used;

	if (request->request.parallelism.pipeline > 1) /* it is stages that are traced, not the whole model */
		return NULL;
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

/* ---- more of something */

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

/* For who looks into a broken rule. */
static bool tell(const struct cfg_change *change, uint64_t before, uint64_t after)
{
	printf("# %s=%.16g: %llu bytes, not %llu\n", change->name, change->value, (unsigned long long)after,
	       (unsigned long long)before);
	return true;
}

/* The replay of more has to need as much at least. */
static bool falls(const struct cfg_request *request, const char *name, double factor, uint64_t before,
		  struct est_arena *arena)
{
	static struct est_request varied;
	const struct est_field *field = est_field_find(name);
	double value = est_field_get(field, &request->request);
	struct cfg_change change = { name, fmin(fmax(floor(value * factor), value + 1), field->max) };
	uint64_t after;

	if (change.value <= value || !cfg_vary(request, &change, 1, &varied))
		return false;
	after = least(request, &varied, arena);
	return after < before - before / SLACK && tell(&change, before, after);
}

/* More GPUs need no more, where there are several, the strategy stays, and they divide what is sharded: else copies
 * are padded (docs/plans.md). */
static bool rises(const struct cfg_request *request, double factor, uint64_t before, struct est_arena *arena)
{
	static struct est_request varied;
	double gpus = (double)request->request.parallelism.gpus;
	struct cfg_change change = { "parallelism.gpus", exp2(floor(log2(gpus * factor))) };
	uint64_t after;

	if (request->model.vision.tower != EST_TOWER_NONE) /* whose parameters are cut by ranks as they come */
		return false;
	if (gpus < 2 || change.value > PLAN_GPUS || change.value <= gpus || !cfg_vary(request, &change, 1, &varied))
		return false;
	after = least(request, &varied, arena);
	return after > before + before / SLACK && tell(&change, before, after);
}

const char *rule_of_more(const struct cfg_request *request, const struct est_report *report, double factor,
			 struct est_arena *arena)
{
	const struct est_request *run = &request->request;
	bool cuts_loss = run->framework == EST_UNSLOTH; /* of 4 GiB of logits in one piece, of a word more in four */
	struct est_floor bound;
	uint64_t alive = least(request, run, arena);

	est_floor_init(&bound, run, &request->model);
	if (est_run_least(run, &request->model, &bound, request->cards[0]) > alive)
		return "the floor lies below what is alive";
	if (alive > report->fits[0].required_high)
		return "what is alive lies below what is required";
	if (!cuts_loss && falls(request, "micro_batch_size", factor, alive, arena))
		return "a larger batch needs no less";
	if (!cuts_loss && falls(request, "sequence_length", factor, alive, arena))
		return "a longer sequence needs no less";
	if (est_has_adapters(run) && falls(request, "lora.rank", factor, alive, arena))
		return "larger adapters need no less";
	if (run->method == EST_FREEZE && falls(request, "trainable_layers", factor, alive, arena))
		return "more trained layers need no less";
	return rises(request, factor, alive, arena) ? "more GPUs need no more" : NULL;
}

/* ---- limits */

/* Ranks that hold one model between them. */
static int64_t ranks_of_one(const struct cfg_request *request)
{
	const struct est_parallelism *parallelism = &request->request.parallelism;

	return parallelism->tensor * parallelism->pipeline * parallelism->context;
}

/* Whether the card at index fits with that value of the field; more GPUs than one are zero3 where the request has no
 * strategy. */
static bool fits(const struct cfg_request *request, const char *name, int64_t value, size_t card,
		 struct est_arena *arena)
{
	static struct cfg_trial trial;
	struct cfg_change changes[] = { { name, (double)value }, { "parallelism.strategy", EST_ZERO3 } };
	bool shards = !strcmp(name, "parallelism.gpus") && value > ranks_of_one(request)
		&& request->request.parallelism.strategy == EST_SINGLE;
	size_t mark = arena->used;
	bool fitting = cfg_vary(request, changes, shards ? 2 : 1, &trial.request)
		       && est_run(&trial.request, &request->model, &request->cards[card], 1, arena, &trial.report)
		       && trial.report.fits[0].verdict == EST_FITS;

	est_arena_rewind(arena, mark);
	return fitting;
}


static const char *rule_of_most(const struct cfg_request *request, const char *name, int64_t value, size_t card,
				struct est_arena *arena)
{
	const struct est_field *field = est_field_find(name);
	int64_t step = field->step > 0 ? (int64_t)field->step : 1;

	if (value > 0 && !fits(request, name, value, card, arena))
		return "a card fits with its max";
	if (value + step <= (int64_t)field->max && fits(request, name, value + step, card, arena))
		return "a card does not fit beyond its max";
	return NULL;
}

static const char *rule_of_least(const struct cfg_request *request, int64_t gpus, size_t card, struct est_arena *arena)
{
	int64_t shard_size = request->request.parallelism.shard_size, step = ranks_of_one(request) * (shard_size ? shard_size : 1);

	if (gpus > 0 && !fits(request, "parallelism.gpus", gpus, card, arena))
		return "a card fits with min_gpus";
	if (gpus > step && fits(request, "parallelism.gpus", gpus - step, card, arena))
		return "a card does not fit with less than min_gpus";
	return NULL;
}

const char *rule_of_limits(const struct cfg_request *request, const struct est_report *report, struct est_arena *arena)
{
	const char *rule = NULL;

	for (size_t i = 0; i < report->fit_count && !rule; i++) {
		const struct est_fit *fit = &report->fits[i];

		rule = rule_of_most(request, "micro_batch_size", fit->max_micro_batch_size, i, arena);
		rule = rule ? rule : rule_of_most(request, "sequence_length", fit->max_sequence_length, i, arena);
		rule = rule ? rule : rule_of_least(request, fit->min_gpus, i, arena);
	}
	return rule;
}

void rule_print(const struct cfg_request *request)
{
	char text[256];

	printf("# model %s of %s, %lld layers:", request->model.id, request->model.model_type,
	       (long long)request->model.num_hidden_layers);
	for (size_t i = 0; i < est_request_field_count; i++)
		if (est_field_is_named(&est_request_fields[i], &request->request))
			printf(" %s=%s", est_request_fields[i].name,
			       est_field_text(&est_request_fields[i], &request->request, text, sizeof(text)));
	printf(" gpus=");
	for (size_t i = 0; i < request->card_count && i < 8; i++)
		printf("%s%s", i ? "," : "", request->cards[i]->id);
	printf("\n");
	fflush(stdout);
}
