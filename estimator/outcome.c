/* What a trace and its replay came to, as it is told. */
#include "estimator/outcome.h"

#include <string.h>
#include "estimator/compile.h"
#include "estimator/device.h"
#include "estimator/verdict.h"
#include "estimator/words.h"

/* What the request leaves open, as parts of a thousand: scratch of kernels that is not modelled (reductions, sorts),
 * and how blocks come to lie in the allocator. The second is the spread of our replay against traces of real runs
 * (docs/accuracy.md). */
enum { SCRATCH_PER_MILLE = 10, FRAGMENTATION_PER_MILLE = 40, SCRATCH_BYTES = 16 << 20 };

static struct est_range allocated_range(uint64_t expected)
{
	return (struct est_range){ expected, expected, expected + expected / 1000 * SCRATCH_PER_MILLE + SCRATCH_BYTES };
}

struct est_range est_reserved_range(uint64_t allocated, uint64_t reserved)
{
	return (struct est_range){ allocated, reserved,
				   reserved + reserved / 1000 * (SCRATCH_PER_MILLE + FRAGMENTATION_PER_MILLE) + SCRATCH_BYTES };
}

struct est_range est_range_widened(struct est_range range, uint64_t bytes)
{
	range.high += bytes;
	return range;
}

static struct est_range plus(struct est_range a, struct est_range b)
{
	return (struct est_range){ a.low + b.low, a.expected + b.expected, a.high + b.high };
}

uint64_t est_workspace_bytes(const struct est_gpu *gpu)
{
	return EST_WORKSPACES * est_device_workspace(gpu);
}

uint64_t est_whole_segments(uint64_t bytes)
{
	return (bytes + EST_LIMIT_STEP - 1) / EST_LIMIT_STEP * EST_LIMIT_STEP;
}

/* Managed memory is on the card while there is room. */
static struct est_range resident(const struct est_outcome *outcome, const struct est_gpu *gpu, struct est_range taken)
{
	uint64_t room = gpu->usable_bytes > taken.high ? gpu->usable_bytes - taken.high : 0;
	uint64_t bytes = outcome->managed < room ? outcome->managed : room;

	return (struct est_range){ 0, bytes, bytes };
}

/* What a compiled run may take less, in each phase. Of layers: a loss that is compiled too makes no fp32 copy of the logits and no two
 * gradients of them, 4 bytes a logit where it is 12; of short sequences inductor makes a gradient of the MLP's weights later than the
 * replay. Of a whole model: the same, or temporaries as wide as the MLP, and anywhere a buffer of the stream's size. */
static void compiled_less(const struct est_request *request, const struct est_model *model, uint64_t less[EST_PHASES])
{
	uint64_t tokens = (uint64_t)(request->micro_batch_size * request->sequence_length);
	uint64_t loss = est_compiles_loss(request) ? 0 : 8 * tokens * (uint64_t)model->vocab_size;
	uint64_t stream = 2 * tokens * (uint64_t)model->hidden_size;

	if (est_compiles_model(request)) {
		less[EST_PHASE_FORWARD] = less[EST_PHASE_LOSS_FORWARD] = less[EST_PHASE_LOSS_BACKWARD] = less[EST_PHASE_BACKWARD] = stream;
		less[EST_PHASE_BACKWARD] += est_compile_temporaries(request, model);
	} else {
		less[EST_PHASE_LOSS_FORWARD] = less[EST_PHASE_LOSS_BACKWARD] = loss;
	}
	less[EST_PHASE_BACKWARD] += 2 * (uint64_t)(model->hidden_size * model->intermediate_size);
}

static uint64_t least_compiled(const struct est_request *request, const struct est_model *model,
			       const struct est_outcome *outcome)
{
	uint64_t less[EST_PHASES] = { 0 }, least = 0;

	compiled_less(request, model, less);
	for (enum est_phase phase = EST_PHASE_FORWARD; phase < EST_PHASES; phase++)
		if (outcome->levels.phase_peak[phase] > less[phase])
			est_raise(&least, outcome->levels.phase_peak[phase] - less[phase]);
	return least;
}

static void report_peak(const struct est_request *request, const struct est_model *model,
			const struct est_outcome *outcome, const struct est_gpu *gpu, struct est_peak *peak)
{
	uint64_t workspace = est_workspace_bytes(gpu), allocated = outcome->levels.allocated + workspace;

	peak->gpu = gpu;
	peak->phase = outcome->levels.phase;
	memcpy(peak->at_peak, outcome->levels.at_peak, sizeof(peak->at_peak));
	peak->at_peak[EST_WORKSPACE] += workspace;
	peak->allocated = est_range_widened(allocated_range(allocated), outcome->unmodelled);
	peak->allocated.low = est_compiles(request) ? least_compiled(request, model, outcome)
		+ workspace : allocated - outcome->leftover;
	peak->reserved = est_range_widened(est_reserved_range(allocated,
							      outcome->reserved.peak + est_whole_segments(workspace)),
				 outcome->unmodelled + outcome->unpooled);
	peak->reserved.low = peak->allocated.low;
	peak->device = plus(peak->reserved, est_device_outside(gpu, &request->parallelism));
	peak->device = plus(peak->device, resident(outcome, gpu, peak->device));
}

static void report_ranks(const struct est_outcome *outcome, const struct est_gpu *gpu, struct est_report *report)
{
	report->rank_kind = outcome->kind;
	report->rank_count = outcome->rank_count;
	for (size_t i = 0; i < outcome->rank_count; i++) {
		report->ranks[i] = outcome->ranks[i];
		report->ranks[i].allocated += est_workspace_bytes(gpu);
	}
}

static void report_host(const struct est_request *request, const struct est_outcome *outcome, struct est_report *report)
{
	enum est_optimizer optimizer = request->optimizer;

	report->host_pinned = outcome->pinned;
	report->host_pageable = outcome->managed + outcome->host_states;
	if (outcome->managed)
		est_note_add(&report->warnings, "/optimizer", est_word_name(est_optimizer_words, (int)optimizer),
			     "the states are managed memory outside PyTorch's allocator: on the card while there is room (device counts "
			     "them), else on the host; no card needs room for them to run");
	if (optimizer == EST_GALORE_ADAMW)
		est_note_add(&report->warnings, "/optimizer", est_word_name(est_optimizer_words, (int)optimizer),
			     "the first step and every 200th decompose each matrix, which takes up to 12 bytes an element of it beside a "
			     "step's own temporaries and is not in these figures");
}

static void report_timeline(const struct est_outcome *outcome, const struct est_gpu *gpu, struct est_report *report)
{
	report->moments = 0;
	for (enum est_phase phase = EST_PHASE_FORWARD; phase < EST_PHASES; phase++)
		if (outcome->levels.phase_peak[phase]) /* no stage but the last has a loss */
			report->timeline[report->moments++] =
				(struct est_moment){ phase, outcome->levels.phase_peak[phase] + est_workspace_bytes(gpu),
						     outcome->reserved.phase[phase] + est_whole_segments(est_workspace_bytes(gpu)) };
}

void est_outcome_rows(const struct est_outcome *outcome, const struct est_gpu *gpu,
			const struct est_parallelism *parallelism, struct est_rows *rows)
{
	const uint64_t *component = outcome->levels.component;
	struct est_range outside = est_device_outside(gpu, parallelism);

	rows->weights = component[EST_WEIGHTS];
	rows->gradients = component[EST_GRADIENTS];
	rows->optimizer = component[EST_OPTIMIZER];
	rows->activations = component[EST_ACTIVATIONS];
	rows->buffers = component[EST_BUFFERS];
	/* workspaces, what the allocator keeps beyond the peak, and what lies outside it */
	rows->overhead = est_workspace_bytes(gpu) + (outcome->reserved.peak - outcome->levels.allocated) + outside.expected;
	rows->total = rows->weights + rows->gradients + rows->optimizer + rows->activations + rows->buffers + rows->overhead;
}

void est_outcome_report(const struct est_outcome *outcome, const struct est_request *request,
			const struct est_model *model, const struct est_gpu *gpu, struct est_report *report)
{
	report_ranks(outcome, gpu, report);
	report_peak(request, model, outcome, gpu, &report->peak);
	report_host(request, outcome, report);
	report_timeline(outcome, gpu, report);
	est_outcome_rows(outcome, gpu, &request->parallelism, &report->per_gpu);
}
