/* est_run(): traces the run, replays it, and judges the cards. */
#include "estimator/estimator.h"

#include <string.h>
#include "estimator/adapters.h"
#include "estimator/compile.h"
#include "estimator/device.h"
#include "estimator/floor.h"
#include "estimator/expert_parallel.h"
#include "estimator/framework.h"
#include "estimator/memo.h"
#include "estimator/notes.h"
#include "estimator/outcome.h"
#include "estimator/pipeline.h"
#include "estimator/replay.h"
#include "estimator/sharding.h"
#include "estimator/tensor_parallel.h"
#include "estimator/thumb.h"
#include "estimator/timeline.h"
#include "estimator/verdict.h"
#include "estimator/zero.h"
#include "estimator/zero3.h"

/* What of an outcome is wanted: what is alive, nothing of the allocator; without the least limit; whole; or as much of it as the
 * verdicts of the cards depend on. */
enum effort { ALIVE, PEAK, LEAST, VERDICTS };

struct run {
	const struct est_request *request;
	const struct est_model *model;
	struct est_arena *arena;
	const struct est_gpu *const *gpus;  /* that are judged */
	size_t gpu_count;
	struct est_outcome outcomes[EST_SDPA_CHOICES];
	struct est_point *points;           /* EST_POINTS_MAX of them to be drawn by the first trace, or NULL */
	size_t point_count;
};

/* The cards that one outcome is for. */
struct jury {
	const struct run *run;
	const struct est_outcome *outcome;
	enum est_sdpa_choice sdpa;
};
static bool is_unanimous(const struct jury *jury, uint64_t floor, uint64_t ceiling);

/* ---- replay */

/* The allocator counts a tensor of more than 2 TiB as one of 2 TiB: no card has that, but the figures must agree. */
static void reserve_what_is_allocated(const struct est_levels *levels, struct est_reserved *reserved)
{
	est_raise(&reserved->peak, levels->allocated);
	est_raise(&reserved->least, levels->allocated);
	for (unsigned phase = 0; phase < EST_PHASES; phase++)
		est_raise(&reserved->phase[phase], levels->phase_peak[phase]);
}

static bool peak_suffices(void *context, uint64_t peak)
{
	const struct jury *jury = context;

	return is_unanimous(jury, jury->outcome->levels.allocated, peak);
}

/* With VERDICTS the least limit, and with it the peak, may be one of the bounds between which the verdicts are the same. */
static bool replay(const struct run *run, const struct est_program *program, enum est_sdpa_choice sdpa, enum effort effort,
		   struct est_outcome *outcome)
{
	struct est_levels *levels = &outcome->levels;
	struct est_reserved *reserved = &outcome->reserved;
	struct jury jury = { run, outcome, sdpa };

	if (program->reserved) { /* what MLX's allocator caches it gives back before it fails */
		reserved->peak = program->reserved;
		reserved->least = levels->allocated;
	} else if (effort == ALIVE || (effort == VERDICTS && is_unanimous(&jury, levels->allocated, UINT64_MAX / 2)))
		reserved->peak = reserved->least = levels->allocated;
	else if (effort == PEAK ? !est_replay_peak(program, run->arena, reserved)
		 : !est_replay_reserved(program, run->arena, levels->allocated, effort == VERDICTS ? peak_suffices : NULL, &jury, reserved))
		return false;
	reserve_what_is_allocated(levels, reserved);
	return true;
}

/* The first trace, of the card that the peak is told for. */
static bool draw(struct run *run, const struct est_program *program)
{
	if (!run->points || run->point_count)
		return true;
	run->point_count = est_timeline_draw(program, run->arena, run->points, EST_POINTS_MAX);
	return run->point_count > 0;
}

/* What a pipeline's stage allocates at most. */
static bool weigh_stage(struct run *run, const struct est_model *part, const uint64_t shards[EST_CATEGORIES],
			enum est_sdpa_choice sdpa, uint64_t *ret_allocated)
{
	size_t mark = run->arena->used;
	struct est_program program;
	struct est_levels levels;
	bool complete = est_program_trace(&program, part, run->request, sdpa, shards, run->arena);

	if (complete)
		est_replay_levels(&program, &levels);
	est_arena_rewind(run->arena, mark);
	*ret_allocated = complete ? levels.allocated : 0;
	return complete;
}

/* Of a kind of ranks the most loaded one is told. */
static void tell_rank(struct est_outcome *outcome, const struct est_rank *rank)
{
	struct est_rank *last = outcome->rank_count ? &outcome->ranks[outcome->rank_count - 1] : NULL;

	if (!last || last->kind != rank->kind)
		outcome->ranks[outcome->rank_count++] = *rank;
	else if (rank->allocated > last->allocated)
		*last = *rank;
}

/* The model that the most loaded rank holds: of a pipeline the stage that allocates the most. False when the arena is too small. */
static bool choose_rank(struct run *run, const uint64_t shards[EST_CATEGORIES], enum est_sdpa_choice sdpa, struct est_outcome *outcome,
			struct est_model *ret_model)
{
	struct est_stage stages[EST_STAGES_MAX];
	uint64_t most = 0;
	unsigned count;

	*ret_model = *run->model;
	if (run->request->parallelism.pipeline <= 1)
		return true;
	count = est_stage_candidates(run->model, run->request, stages);
	for (unsigned i = 0; i < count; i++) {
		struct est_model part;
		struct est_rank rank = { stages[i].kind, stages[i].layers, (int64_t)stages[i].in_flight, 0 };

		if (!est_stage_part(run->model, run->request, stages[i].index, run->arena, &part)
		    || !weigh_stage(run, &part, shards, sdpa, &rank.allocated))
			return false;
		tell_rank(outcome, &rank);
		if (rank.allocated > most) {
			most = rank.allocated;
			outcome->kind = rank.kind;
			*ret_model = part;
		}
	}
	return true;
}

/* LLM.int8: where no input has an outlier, each product stays in the type of its input, which may be fp32. What the rank
 * allocates then at most; 0 for other runs. False when the arena is too small. */
static bool weigh_without_outliers(const struct run *run, const struct est_model *held, const uint64_t shards[EST_CATEGORIES],
				   enum est_sdpa_choice sdpa, uint64_t *ret_allocated)
{
	struct est_request request;
	struct run without = { .request = &request, .model = run->model, .arena = run->arena };
	const struct est_quantization *quantization = &run->request->quantization;

	*ret_allocated = 0;
	if (run->request->method != EST_QLORA || quantization->type != EST_INT8 || quantization->llm_int8_threshold == 0)
		return true;
	request = *run->request;
	request.quantization.llm_int8_threshold = 0;
	return weigh_stage(&without, held, shards, sdpa, ret_allocated);
}

static bool evaluate(struct run *run, const uint64_t shards[EST_CATEGORIES], enum est_sdpa_choice sdpa, enum effort effort,
		     struct est_outcome *outcome)
{
	size_t mark = run->arena->used;
	struct est_program program;
	struct est_model held;
	uint64_t without_outliers;
	bool complete;

	memset(outcome, 0, sizeof(*outcome));
	memset(&program, 0, sizeof(program));
	complete = choose_rank(run, shards, sdpa, outcome, &held)
		   && weigh_without_outliers(run, &held, shards, sdpa, &without_outliers)
		   && est_program_trace(&program, &held, run->request, sdpa, shards, run->arena) && draw(run, &program);
	outcome->trainable_parameters = program.trainable_parameters;
	outcome->pinned = program.pinned;
	outcome->host_states = program.host_states;
	outcome->managed = program.managed;
	outcome->unpooled = est_sharding_unpooled(run->request, run->model) + est_compile_unpooled(run->request, run->model);
	outcome->leftover = program.leftover;
	outcome->unmodelled = program.surplus + est_compile_temporaries(run->request, run->model) + est_framework_surplus(run->request, run->model)
			      + est_tensor_surplus(run->request, run->model) + est_expert_surplus(run->request, run->model)
			      + est_sharding_unmodelled(run->request, run->model, program.trainable_parameters);
	if (complete) {
		est_replay_levels(&program, &outcome->levels);
		if (without_outliers > outcome->levels.allocated)
			outcome->unmodelled += without_outliers - outcome->levels.allocated;
		complete = replay(run, &program, sdpa, effort, outcome);
	}
	outcome->traced = complete;
	est_arena_rewind(run->arena, mark);
	return complete;
}

/* The same, remembered where the thread has come to it before. What only the verdicts of some cards depend on is not, nor what
 * draws points. */
static bool recall(struct run *run, const uint64_t shards[EST_CATEGORIES], enum est_sdpa_choice sdpa, enum effort effort,
		   struct est_outcome *outcome)
{
	struct est_memo *memo = run->arena->memo;

	if (!memo || effort == VERDICTS || run->points)
		return evaluate(run, shards, sdpa, effort, outcome);
	est_key_write(&memo->key, run->request, run->model, sdpa, shards, (int)effort);
	if (est_memo_find(memo, &memo->key, outcome))
		return true;
	if (!evaluate(run, shards, sdpa, effort, outcome))
		return false;
	est_memo_keep(memo, &memo->key, outcome);
	return true;
}

/* effort: when it is not there yet. */
static struct est_outcome *outcome_for(struct run *run, const struct est_gpu *gpu, enum effort effort)
{
	enum est_sdpa_choice sdpa = est_device_sdpa(gpu, run->request);
	struct est_outcome *outcome = &run->outcomes[sdpa];
	uint64_t shards[EST_CATEGORIES];

	est_sharding_shares(run->request, shards);
	if (!outcome->traced && !recall(run, shards, sdpa, effort, outcome))
		return NULL;
	return outcome;
}

/* ---- report */

static void report_points(const struct run *run, const struct est_gpu *gpu, struct est_report *report)
{
	report->points = run->points;
	report->point_count = run->point_count;
	for (size_t i = 0; i < run->point_count; i++) {
		run->points[i].allocated += est_workspace_bytes(gpu);
		run->points[i].reserved += est_whole_segments(est_workspace_bytes(gpu));
	}
}

static bool report_single_gpu(struct run *run, const struct est_gpu *gpu, struct est_report *report)
{
	static const uint64_t whole[EST_CATEGORIES] = { 1, 1, 1, 1, 1, 1 };
	static const struct est_parallelism alone = { .gpus = 1, .tensor = 1, .pipeline = 1, .context = 1, .expert = 1 };
	struct est_request request;
	struct run single = { .request = &request, .model = run->model, .arena = run->arena };
	struct est_outcome outcome;

	if (run->request->parallelism.gpus == 1) {
		report->single_gpu = report->per_gpu;
		return true;
	}
	request = *run->request;
	request.parallelism = alone;
	if (request.loss == EST_LOSS_VOCAB_PARALLEL)
		request.loss = EST_LOSS_STANDARD;
	if (!recall(&single, whole, est_device_sdpa(gpu, run->request), PEAK, &outcome))
		return false;
	est_outcome_rows(&outcome, gpu, &alone, &report->single_gpu);
	return true;
}

/* ---- verdicts */

/* Of a run whose least limit is least. */
static void require(const struct run *run, const struct est_outcome *outcome, uint64_t least, struct est_fit *fit)
{
	struct est_range outside = est_device_outside(fit->gpu, &run->request->parallelism);
	uint64_t workspace = est_workspace_bytes(fit->gpu);
	struct est_range limit = est_range_widened(est_reserved_range(outcome->levels.allocated + workspace, least + workspace),
					 outcome->unmodelled + outcome->unpooled);

	fit->required = limit.expected + outside.expected;
	fit->required_high = limit.high + outside.high;
}

/* Whether each card has one verdict for all least limits from floor to ceiling: the more is required, the worse it is. */
static bool is_unanimous(const struct jury *jury, uint64_t floor, uint64_t ceiling)
{
	const struct run *run = jury->run;

	for (size_t i = 0; i < run->gpu_count; i++) {
		struct est_fit best = { .gpu = run->gpus[i], .reason = est_device_refuses(run->gpus[i], run->request) }, worst = best;

		if (best.reason || est_device_sdpa(best.gpu, run->request) != jury->sdpa)
			continue;
		require(run, jury->outcome, floor, &best);
		require(run, jury->outcome, ceiling, &worst);
		est_fit_judge(&best, run->request->headroom_fraction);
		est_fit_judge(&worst, run->request->headroom_fraction);
		if (best.verdict != worst.verdict)
			return false;
	}
	return true;
}

/* thumb: what every card needs by the rule of thumb; 0: the replay tells. exact: for how many of the first cards the least limit is
 * wanted; others: what of the rest. */
static bool judge_cards(struct run *run, uint64_t thumb, size_t exact, enum effort others, struct est_fit *fits)
{
	for (size_t i = 0; i < run->gpu_count; i++) {
		struct est_fit *fit = &fits[i];
		const struct est_outcome *outcome = thumb ? NULL : outcome_for(run, run->gpus[i], i < exact ? LEAST : others);

		if (!thumb && !outcome)
			return false;
		fit->gpu = run->gpus[i];
		fit->reason = est_device_refuses(fit->gpu, run->request);
		if (thumb)
			fit->required = fit->required_high = thumb;
		else
			require(run, outcome, outcome->reserved.least, fit);
		est_fit_judge(fit, run->request->headroom_fraction);
	}
	return true;
}

/* ---- entry */

static bool report_replay(struct run *run, const struct est_gpu *gpu, struct est_report *report)
{
	bool draws = run->request->timeline == EST_TIMELINE_FULL;
	const struct est_outcome *outcome;

	run->points = draws ? est_arena_take(run->arena, EST_POINTS_MAX, sizeof(*run->points)) : NULL;
	outcome = draws && !run->points ? NULL : outcome_for(run, gpu, LEAST);
	if (!outcome)
		return false;
	report->replayed = true;
	if (outcome->kind == EST_ANY_RANK) /* a stage trains a part of them */
		report->trainable_parameters = outcome->trainable_parameters;
	est_outcome_report(outcome, run->request, run->model, gpu, report);
	report_points(run, gpu, report);
	return report_single_gpu(run, gpu, report);
}

bool est_run(const struct est_request *request, const struct est_model *model, const struct est_gpu *const *gpus,
	     size_t gpu_count, struct est_arena *arena, struct est_report *ret_report)
{
	bool by_thumb = request->accounting == EST_RULE_OF_THUMB;
	const struct est_model own = by_thumb ? *model : est_framework_model(request, model);
	struct run run = { .request = request, .model = &own, .arena = arena, .gpus = gpus, .gpu_count = gpu_count };
	int64_t trainable = est_trainable_parameters(request, &own);

	est_report_init(ret_report);
	ret_report->parameters = own.parameters;
	ret_report->trainable_parameters = trainable;
	est_thumb(request, &own, trainable, &ret_report->thumb, &ret_report->thumb_per_gpu);
	if (!by_thumb && !report_replay(&run, gpus[0], ret_report))
		return false;
	if (by_thumb) {
		ret_report->single_gpu = ret_report->thumb;
		ret_report->per_gpu = ret_report->thumb_per_gpu;
		est_notes_of_thumb(request, gpus, gpu_count, ret_report);
	} else {
		est_notes_of_replay(request, &own, ret_report);
	}
	ret_report->fit_count = gpu_count;
	ret_report->fits = est_arena_take(arena, gpu_count, sizeof(*ret_report->fits));
	return ret_report->fits && judge_cards(&run, by_thumb ? ret_report->thumb_per_gpu.total : 0, gpu_count, LEAST, ret_report->fits);
}

bool est_judge_cards(const struct est_request *request, const struct est_model *model, const struct est_gpu *const *gpus,
		     size_t gpu_count, size_t exact, struct est_arena *arena, struct est_fit *ret_fits)
{
	bool by_thumb = request->accounting == EST_RULE_OF_THUMB;
	const struct est_model own = by_thumb ? *model : est_framework_model(request, model);
	struct run run = { .request = request, .model = &own, .arena = arena, .gpus = gpus, .gpu_count = gpu_count };
	struct est_rows thumb, thumb_per_gpu;

	est_thumb(request, &own, est_trainable_parameters(request, &own), &thumb, &thumb_per_gpu);
	memset(ret_fits, 0, gpu_count * sizeof(*ret_fits));
	return judge_cards(&run, by_thumb ? thumb_per_gpu.total : 0, exact, VERDICTS, ret_fits);
}

bool est_judge_alive(const struct est_request *request, const struct est_model *model, const struct est_gpu *const *gpus,
		     size_t gpu_count, struct est_arena *arena, struct est_fit *ret_fits)
{
	const struct est_model own = est_framework_model(request, model);
	struct run run = { .request = request, .model = &own, .arena = arena, .gpus = gpus, .gpu_count = gpu_count };

	memset(ret_fits, 0, gpu_count * sizeof(*ret_fits));
	return judge_cards(&run, 0, 0, ALIVE, ret_fits);
}

uint64_t est_run_least(const struct est_request *request, const struct est_model *model, const struct est_floor *floor,
		       const struct est_gpu *gpu)
{
	uint64_t level = est_floor_bytes(floor, request) + est_workspace_bytes(gpu);
	uint64_t unmodelled = est_sharding_is_static(request) ? est_sharding_unmodelled(request, model, floor->trained) : 0;

	return est_reserved_range(level, level).high + unmodelled + est_device_outside(gpu, &request->parallelism).high;
}

size_t est_arena_size(size_t gpu_count)
{
	size_t program = est_program_arena_size(EST_LAYERS_MAX);

	return program + est_replay_arena_size(est_program_ids(EST_LAYERS_MAX)) + (1 << 20) + EST_POINTS_MAX * sizeof(struct est_point)
	       + gpu_count * (sizeof(struct est_fit) + 64);
}
