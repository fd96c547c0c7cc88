/* ZeRO-3's parameters: PartitionedParameterCoordinator, by the names of its functions. */
#include "estimator/zero3.h"

#include "estimator/ops.h"
#include "estimator/optimizer.h"

/* ---- owners: ds_active_sub_modules */

static void own(struct est_zero3 *zero3, struct est_zero3_parameter *parameter, uint32_t module)
{
	for (unsigned i = 0; i < parameter->owners; i++)
		if (parameter->owner[i] == module)
			return;
	if (parameter->owners < EST_ZERO3_OWNERS)
		parameter->owner[parameter->owners++] = module;
	else
		zero3->tape->exhausted = true;
}

static void disown(struct est_zero3_parameter *parameter, uint32_t module)
{
	for (unsigned i = 0; i < parameter->owners; i++)
		if (parameter->owner[i] == module)
			parameter->owner[i--] = parameter->owner[--parameter->owners];
}

/* ---- fetch_sub_module() */

/* What of the module is not there, as a list by est_zero3_parameter.next. ret_count: how many */
static uint32_t list_missing(struct est_zero3 *zero3, const struct est_zero3_module *module, uint32_t *ret_count)
{
	uint32_t first = 0, *link = &first;

	*ret_count = 0;
	for (struct est_leaf *leaf = module->first; leaf; leaf = leaf->next) {
		struct est_zero3_parameter *parameter = est_zero3_parameter_of(zero3, leaf);

		if (est_zero3_is_gathered(parameter))
			continue;
		*link = (uint32_t)(leaf - zero3->tape->leaves) + 1;
		link = &parameter->next;
		++*ret_count;
	}
	*link = 0;
	return first;
}

/* update_recompute_parameters(): what is frozen has no hook of its own that lets go of it. */
static void attribute(struct est_zero3 *zero3, struct est_zero3_parameter *parameter, uint32_t owner)
{
	struct est_zero3_module *module = &zero3->modules[owner];

	own(zero3, parameter, owner);
	if (parameter->recomputed)
		return;
	parameter->recomputed = true;
	parameter->next_recomputed = module->recomputed;
	module->recomputed = (uint32_t)(parameter - zero3->parameters) + 1;
}

static void fetch(struct est_zero3 *zero3, uint32_t number, bool forward)
{
	const struct est_zero3_module *module = &zero3->modules[number];
	bool recomputes = forward && zero3->tape->backwards > 0 && zero3->active_count > 0;
	uint32_t count, first = list_missing(zero3, module, &count);

	est_zero3_all_gather(zero3, first, count);
	for (struct est_leaf *leaf = module->first; leaf; leaf = leaf->next) {
		struct est_zero3_parameter *parameter = est_zero3_parameter_of(zero3, leaf);

		own(zero3, parameter, number);
		if (recomputes && !leaf->value.requires_grad)
			attribute(zero3, parameter, zero3->active[zero3->active_count - 1]);
		if (parameter->pending)
			est_zero3_wait(zero3, parameter);
	}
}

/* A module's pre-forward or pre-backward hook. */
static void before_module(struct est_zero3 *zero3, uint32_t number, bool forward)
{
	est_zero3_trace(zero3, number);
	fetch(zero3, number, forward);
	est_zero3_prefetch(zero3, &zero3->modules[number]);
	zero3->step++;
}

/* ---- release_sub_module() */

static void release_parameter(struct est_zero3 *zero3, struct est_zero3_parameter *parameter)
{
	bool persists = parameter->persists && (zero3->persists || zero3->mode == EST_ZERO3_COMPLETE);

	if (parameter->available && !parameter->pending && !parameter->owners && !persists)
		est_zero3_release(zero3, parameter);
}

static bool stays(const struct est_zero3 *zero3, uint32_t number, const struct est_leaf *leaf)
{
	struct est_zero3_parameter *parameter = est_zero3_parameter_of(zero3, leaf);

	if (zero3->mode != EST_ZERO3_COMPLETE)
		return false;
	return parameter->fetched_for > zero3->step
	       || (zero3->modules[number].whole ? est_zero3_mixture_stays(zero3, number, leaf->unit) : est_zero3_is_reused_soon(zero3, parameter));
}

static void release(struct est_zero3 *zero3, uint32_t number)
{
	for (struct est_leaf *leaf = zero3->modules[number].first; leaf; leaf = leaf->next) {
		struct est_zero3_parameter *parameter = est_zero3_parameter_of(zero3, leaf);

		disown(parameter, number);
		if (!stays(zero3, number, leaf))
			release_parameter(zero3, parameter);
	}
}

static void release_recomputed(struct est_zero3 *zero3, uint32_t number)
{
	struct est_zero3_module *module = &zero3->modules[number];

	while (module->recomputed) {
		struct est_zero3_parameter *parameter = &zero3->parameters[module->recomputed - 1];

		module->recomputed = parameter->next_recomputed;
		parameter->recomputed = false;
		disown(parameter, number);
		release_parameter(zero3, parameter);
	}
}

/* ---- hooks */

static bool has_hooks(const struct est_zero3 *zero3, uint32_t module)
{
	return zero3->modules[module].mixture == 0;
}

static void before_forward(struct est_schedule *schedule, unsigned module)
{
	if (!has_hooks(schedule->zero3, module))
		return;
	schedule->zero3->modules[module].grads_remaining = 0;
	before_module(schedule->zero3, module, true);
}

/* PostBackwardFunctionModule */
static void entered(struct est_schedule *schedule, unsigned module)
{
	schedule->zero3->modules[module].grads_remaining++;
}

static void after_forward(struct est_schedule *schedule, unsigned module)
{
	if (has_hooks(schedule->zero3, module))
		release(schedule->zero3, module);
}

static void before_backward(struct est_schedule *schedule, unsigned module)
{
	struct est_zero3 *zero3 = schedule->zero3;
	uint32_t i = 0;

	if (!has_hooks(zero3, module))
		return;
	while (i < zero3->active_count && zero3->active[i] != module)
		i++;
	if (i == zero3->active_count)
		zero3->active[zero3->active_count++] = module;
	before_module(zero3, module, false);
}

static void after_backward(struct est_schedule *schedule, unsigned module)
{
	struct est_zero3 *zero3 = schedule->zero3;
	uint32_t i = zero3->active_count;

	if (!has_hooks(zero3, module) || --zero3->modules[module].grads_remaining != 0)
		return;
	while (i-- > 0 && zero3->active[i] != module)
		;
	if (i < zero3->active_count) {
		for (zero3->active_count--; i < zero3->active_count; i++)
			zero3->active[i] = zero3->active[i + 1];
	}
	release(zero3, module);
	release_recomputed(zero3, module);
}

/* Modules without a post-backward hook let go of theirs (release_backward_leftovers()), and all does before the step
 * (release_and_reset_all()). */
static void end(struct est_schedule *schedule)
{
	struct est_zero3 *zero3 = schedule->zero3;

	est_zero3_reduce_rest(zero3);
	while (zero3->active_count > 0)
		release_recomputed(zero3, zero3->active[--zero3->active_count]);
	for (uint32_t i = 0; i < zero3->parameter_count; i++) {
		struct est_zero3_parameter *parameter = &zero3->parameters[i];

		if (parameter->pending)
			est_zero3_wait(zero3, parameter);
		parameter->owners = 0;
		if (parameter->available && !(parameter->persists && zero3->persists))
			est_zero3_release(zero3, parameter);
	}
}

void est_zero3_rehearsed(struct est_zero3 *zero3)
{
	zero3->persists = true;
	for (uint32_t i = zero3->first_parameter; i < zero3->parameter_count; i++) {
		struct est_zero3_parameter *parameter = &zero3->parameters[i];

		if (parameter->available)
			est_zero3_release(zero3, parameter);
		parameter->available = parameter->persists;
		zero3->tape->leaves[i].unsharded = parameter->persistent;
	}
}

static void begin_forward(struct est_schedule *schedule)
{
	est_zero3_reset(schedule->zero3);
}

const struct est_strategy_row est_zero3_row = { before_forward, after_forward, before_backward, after_backward,
						.begin_forward = begin_forward, .end = end, .entered = entered };

/* ---- */

/* Weights in 4 bits are cut as any others where they are stored in 16. */
static bool quantises(const struct est_request *request)
{
	const struct est_quantization *q = &request->quantization;

	return request->method == EST_QLORA && (q->type == EST_NF4 || q->type == EST_FP4)
	       && q->quant_storage == EST_STORE_BF16;
}

/* The model's own, those that read the head's weight within the model's forward, and TRL's objectives. */
static bool has_loss(const struct est_request *request)
{
	return request->task == EST_CAUSAL_LM && (est_models_language(request) || request->method != EST_QLORA)
	       && request->loss != EST_LOSS_VOCAB_PARALLEL && !est_chunks_words(request);
}

bool est_zero3_wanted(const struct est_request *request)
{
	bool saves = request->lora.modules_to_save.count > 0;
	bool adapts = saves ? request->method == EST_LORA && est_models_language(request) : request->method == EST_LORA || quantises(request);

	return request->accounting == EST_REPLAY && request->parallelism.strategy == EST_ZERO3 && est_has_master(request)
	       && est_optimizer_steps_parts(request) && has_loss(request) && (adapts || !est_has_adapters(request));
}

/* "auto": as Transformers fills it in */
static int64_t threshold_of(const struct est_model *model, int64_t named)
{
	return named == EST_AUTO ? 10 * model->hidden_size : named;
}

static int64_t prefetch_of(const struct est_model *model, int64_t named)
{
	return named == EST_AUTO ? model->hidden_size * model->hidden_size * 9 / 10 : named;
}

static void cut(struct est_zero3 *zero3, struct est_leaf *leaf, uint64_t threshold)
{
	struct est_zero3_parameter *parameter = est_zero3_parameter_of(zero3, leaf);
	struct est_zero3_module *module = &zero3->modules[est_zero3_module_of(zero3, leaf)];
	struct est_leaf **link = &module->first;

	while (*link)
		link = &(*link)->next;
	*link = leaf;
	if (leaf->shared_with)
		zero3->modules[leaf->shared_with].first = leaf;
	leaf->value.element = EST_16BIT;
	leaf->ours = (leaf->value.numel + zero3->schedule->ranks - 1) / zero3->schedule->ranks;
	leaf->shard = leaf->ours;
	leaf->shard_element = EST_16BIT;
	parameter->persists = leaf->value.numel <= threshold;
	if (parameter->persists && (zero3->schedule->ranks > 1 || zero3->offloads_parameters)) /* else it is its part */
		parameter->persistent = est_persistent(zero3->tape, leaf->value.numel, EST_16BIT, EST_WEIGHTS).storage;
}

static bool make_tables(struct est_zero3 *zero3)
{
	struct est_tape *tape = zero3->tape;

	zero3->module_count = tape->modules + 1;
	zero3->step_limit = 4 * zero3->module_count + 64;
	zero3->use_limit = 4 * tape->leaf_count + 64;
	zero3->parameter_count = tape->leaf_count;
	zero3->parameters = est_arena_take(tape->arena, zero3->parameter_count, sizeof(*zero3->parameters));
	zero3->modules = est_arena_take(tape->arena, zero3->module_count, sizeof(*zero3->modules));
	zero3->active = est_arena_reserve(tape->arena, zero3->module_count, sizeof(*zero3->active));
	zero3->order = est_arena_reserve(tape->arena, zero3->step_limit, sizeof(*zero3->order));
	zero3->before = est_arena_reserve(tape->arena, zero3->step_limit, sizeof(*zero3->before));
	zero3->uses = est_arena_take(tape->arena, zero3->use_limit, sizeof(*zero3->uses));
	zero3->waiting = est_arena_reserve(tape->arena, tape->leaf_count, sizeof(*zero3->waiting));
	zero3->gathers = est_arena_take(tape->arena, tape->leaf_count + 1, sizeof(*zero3->gathers));
	return !tape->arena->exhausted;
}

/* Cuts the leaves from first on, whose modules are called. */
static bool prepare(struct est_zero3 *zero3, struct est_schedule *schedule, const struct est_model *model, uint32_t first)
{
	const struct est_request *request = schedule->request;
	const struct est_parallelism *p = &request->parallelism;

	zero3->schedule = schedule;
	zero3->tape = schedule->tape;
	zero3->offloads_parameters = request->offload.parameters != EST_ON_GPU;
	zero3->offloads_optimizer = request->offload.optimizer != EST_ON_GPU;
	zero3->first_parameter = first;
	zero3->gather_stream = !p->overlap_comm ? 0 : first ? EST_ZERO3_REFERENCE : EST_ZERO3_GATHER;
	zero3->reduce_stream = p->overlap_comm ? EST_ZERO3_REDUCE : 0;
	zero3->prefetch_bucket = prefetch_of(model, p->buckets.prefetch_bucket_size);
	zero3->max_live = p->max_live_parameters;
	zero3->max_reuse = p->max_reuse_distance;
	zero3->tape->zero3 = schedule->rehearses = true;
	if (!make_tables(zero3))
		return false;
	est_zero3_join_mixtures(zero3, model);
	for (uint32_t i = first; i < zero3->parameter_count; i++)
		cut(zero3, &zero3->tape->leaves[i], (uint64_t)threshold_of(model, p->buckets.param_persistence_threshold));
	return true;
}

bool est_zero3_init(struct est_zero3 *zero3, struct est_schedule *schedule, const struct est_model *model)
{
	if (!prepare(zero3, schedule, model, 0))
		return false;
	est_zero3_partition(zero3, model);
	return true;
}

bool est_zero3_init_reference(struct est_zero3 *zero3, struct est_schedule *schedule, const struct est_model *model, uint32_t first)
{
	if (!prepare(zero3, schedule, model, first))
		return false;
	est_zero3_rest_frozen(zero3);
	return true;
}
