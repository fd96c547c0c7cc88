/* FSDP1 (torch.distributed.fsdp.FullyShardedDataParallel): a unit's parameters are views of one flat parameter,
 * which its hooks gather and free as a whole. Read off traces of torch 2.13; DISTRIBUTED 2. */
#include "estimator/ops.h"
#include "estimator/schedule.h"

/* Streams: the compute stream (of the whole backward, as it was traced), that of casts of the shard, that of
 * all-gathers, that of reductions. */
enum { COMPUTE, PRE_UNSHARD, UNSHARD, POST_BACKWARD };

/* A shard of another dtype is cast for the all-gather, and goes with it. */
static void unshard(struct est_schedule *schedule, unsigned number)
{
	struct est_unit *unit = &schedule->units[number];
	struct est_tensor shard = est_none;

	if (unit->flat)
		return;
	for (struct est_leaf *leaf = unit->first; leaf; leaf = leaf->next)
		leaf->ungathered_element = 0;
	if (unit->cast > 0)
		shard = est_empty_on(schedule->tape, PRE_UNSHARD, unit->cast, unit->gathered_element, EST_BUFFERS);
	unit->flat = est_empty_on(schedule->tape, UNSHARD, unit->numel, unit->gathered_element, EST_BUFFERS).storage;
	est_drop(schedule->tape, shard);
}

/* Parameters as the model has them are views of the shard again (_use_sharded_views()), for the first time of that in fp32; flat ones'
 * views stay as they are. */
static void reshard(struct est_schedule *schedule, unsigned number)
{
	struct est_unit *unit = &schedule->units[number];

	est_storage_release(schedule->tape, unit->flat);
	unit->flat = 0;
	est_drop(schedule->tape, unit->replaced);
	unit->replaced = est_none;
	for (struct est_leaf *leaf = unit->first; leaf && schedule->request->parallelism.use_orig_params; leaf = leaf->next)
		leaf->ungathered_element = leaf->shard_element;
}

/* record_post_forward(): of a unit's first forward */
static void record(struct est_schedule *schedule, unsigned number)
{
	struct est_unit *unit = &schedule->units[number];

	if (unit->has_run)
		return;
	unit->has_run = true;
	unit->previous = schedule->last_run;
	schedule->last_run = number;
}

/* The root, unit 0, stays for the backward. */
static void after_forward(struct est_schedule *schedule, unsigned number)
{
	record(schedule, number);
	if (number > 0 && schedule->request->parallelism.reshard_after_forward)
		reshard(schedule, number);
}

/* The unit whose forward ended before this one's is gathered ahead, once: before the root's, the last layer's. */
static void before_backward(struct est_schedule *schedule, unsigned number)
{
	struct est_unit *unit = &schedule->units[number];

	unit->awaits_backward = false;
	unshard(schedule, number);
	if (unit->previous == EST_NO_UNIT || !schedule->units[unit->previous].awaits_backward)
		return;
	unshard(schedule, unit->previous);
}

/* The gradients of the views, zeros for what the forward did not run, concatenated (the backward of split), and
 * accumulated into what micro-batches before have left. ret: what was, which the engine holds while the hooks run */
static struct est_tensor gather_gradients(struct est_schedule *schedule, unsigned number)
{
	struct est_tape *tape = schedule->tape;
	struct est_unit *unit = &schedule->units[number];
	struct est_tensor flat;

	for (struct est_leaf *leaf = unit->first; leaf; leaf = leaf->next)
		if (!leaf->grad.storage)
			leaf->grad = est_hold(est_empty_as(tape, leaf->value.numel, unit->gathered_element, EST_GRADIENTS));
	flat = est_empty_on(schedule->tape, COMPUTE, unit->trained, unit->gathered_element, EST_GRADIENTS);
	for (struct est_leaf *leaf = unit->first; leaf; leaf = leaf->next) {
		est_drop(tape, leaf->grad);
		leaf->grad = est_none;
	}
	if (unit->unreduced.storage)
		return est_hold(flat);
	unit->unreduced = est_hold(flat);
	return est_none;
}

/* Without a policy gradients are reduced as they are. */
static uint8_t reduced_element(const struct est_schedule *schedule, const struct est_unit *unit)
{
	return schedule->request->parallelism.reduce_dtype == EST_DTYPE_NONE
	       ? unit->gathered_element : schedule->reduced_element;
}

/* _reduce_grad(): each cast stays beside what it was made of. */
static void reduce(struct est_schedule *schedule, unsigned number)
{
	struct est_tape *tape = schedule->tape;
	struct est_unit *unit = &schedule->units[number];
	uint64_t numel = unit->trained / schedule->ranks;
	uint8_t reduced = reduced_element(schedule, unit);
	struct est_tensor input = est_none, out, low = est_none;

	if (reduced != unit->gathered_element)
		input = est_empty_on(schedule->tape, POST_BACKWARD, unit->trained, reduced, EST_BUFFERS);
	out = est_empty_on(schedule->tape, POST_BACKWARD, numel, reduced, EST_GRADIENTS);
	if (reduced != unit->shard_element) {
		low = out;
		out = est_empty_on(schedule->tape, POST_BACKWARD, numel, unit->shard_element, EST_GRADIENTS);
	}
	est_drop(tape, low);
	if (unit->gradient.storage)
		est_drop(tape, out); /* _saved_grad_shard += */
	else
		unit->gradient = est_hold(out);
	est_drop(tape, input);
	est_drop(tape, unit->unreduced);
	unit->unreduced = est_none;
}

/* Without synchronisation parameters stay too where they stayed after the forward. */
static void after_backward(struct est_schedule *schedule, unsigned number)
{
	bool trained = schedule->units[number].trained > 0;
	struct est_tensor accumulated = est_none;

	if (!schedule->units[number].has_run) /* a vision tower's */
		return;
	if (trained)
		accumulated = gather_gradients(schedule, number);
	schedule->units[number].reduced = true;
	if (schedule->syncs || schedule->request->parallelism.reshard_after_forward)
		reshard(schedule, number);
	if (trained && schedule->syncs)
		reduce(schedule, number);
	est_drop(schedule->tape, accumulated);
}

/* init_flat_param_attributes(), before the first forward of all: each unit's buffers are made, on the compute
 * stream, and emptied. */
static void make_buffers(struct est_schedule *schedule)
{
	struct est_tape *tape = schedule->tape;

	for (unsigned number = 0; number < schedule->unit_count; number++) {
		struct est_unit *unit = &schedule->units[number];

		est_drop(tape, est_empty_as(tape, unit->cast, unit->gathered_element, EST_BUFFERS));
		est_drop(tape, est_empty_as(tape, unit->numel, unit->gathered_element, EST_BUFFERS));
		if (unit->cast > 0)
			est_drop(tape, est_empty_as(tape, unit->numel, unit->shard_element, EST_BUFFERS));
	}
}

static void begin(struct est_schedule *schedule)
{
	if (schedule->rehearses)
		make_buffers(schedule);
}

/* ---- units */

/* Of a unit that is trained in part the whole flat parameter is: what is frozen in it gets gradients too. */
static bool drag(struct est_unit *unit)
{
	bool trained = false;

	for (const struct est_leaf *leaf = unit->first; leaf; leaf = leaf->next)
		trained = trained || leaf->value.requires_grad;
	for (struct est_leaf *leaf = unit->first; leaf && trained; leaf = leaf->next) {
		leaf->dragged = !leaf->value.requires_grad;
		leaf->value.requires_grad = true;
	}
	return trained;
}

/* A flat parameter that the forward runs a part of has a gradient as a whole, zeros for the rest, and is stepped so. */
static void wake(struct est_unit *root)
{
	for (struct est_leaf *leaf = root->first; leaf; leaf = leaf->next)
		leaf->idle = false;
}

/* What is trained lies in fp32, as accelerate casts it in mixed precision; the rest as it is, of a full model in 16 bits. */
static void choose_elements(struct est_schedule *schedule, const struct est_unit *unit, bool trained)
{
	const struct est_request *request = schedule->request;
	enum est_dtype gathered = request->parallelism.param_dtype;

	for (struct est_leaf *leaf = unit->first; leaf; leaf = leaf->next) {
		leaf->shard_element = leaf->value.element;
		if (est_is_mixed(request->precision) && (trained || request->method == EST_FULL))
			leaf->shard_element = trained ? EST_32BIT : EST_16BIT;
		leaf->ungathered_element = leaf->shard_element;
		if (gathered != EST_DTYPE_NONE)
			leaf->value.element = gathered == EST_FP32 ? EST_32BIT : EST_16BIT;
	}
}

/* What the optimizer sees then is the flat parameter itself. */
static void fold(struct est_unit *unit, uint64_t share)
{
	for (struct est_leaf *leaf = unit->first; leaf; leaf = leaf->next) {
		leaf->folded = leaf != unit->first;
		leaf->shard = leaf->folded ? 0 : share;
	}
}

/* A flat parameter is cut as it lies: the first rank, which is replayed, has the unit's first parameters whole, a
 * part of one and nothing of the rest. */
static void shard(struct est_schedule *schedule, struct est_unit *unit)
{
	const struct est_request *request = schedule->request;
	bool trained = drag(unit);
	uint64_t numel = 0, share, left;
	uint8_t loaded = unit->first ? unit->first->value.element : 0;

	choose_elements(schedule, unit, trained);
	for (const struct est_leaf *leaf = unit->first; leaf; leaf = leaf->next)
		numel += leaf->value.numel;
	left = share = (numel + schedule->ranks - 1) / schedule->ranks;
	for (struct est_leaf *leaf = unit->first; leaf; leaf = leaf->next) {
		leaf->shard = leaf->value.numel < left ? leaf->value.numel : left;
		left -= leaf->shard;
		leaf->flat = true;
	}
	if (!unit->first)
		return;
	if (!request->parallelism.use_orig_params)
		fold(unit, share);
	if (request->method == EST_FULL && est_is_mixed(request->precision)) /* a full model is loaded in 16 bits too, and accelerate casts its shards */
		loaded = EST_16BIT;
	if (unit->first->shard_element != loaded && request->parallelism.use_orig_params)
		unit->replaced = est_persistent(schedule->tape, share, loaded, EST_WEIGHTS);
	est_persistent(schedule->tape, share, unit->first->shard_element, EST_WEIGHTS);
	unit->shard_element = unit->first->shard_element;
	unit->gathered_element = unit->first->value.element;
	unit->numel = share * schedule->ranks;
	unit->trained = trained ? unit->numel : 0;
	unit->cast = unit->first->shard_element != unit->first->value.element ? share : 0;
}

/* What the first forward of a full model does once, while nothing else is there yet. What it does not run shows its
 * shard as it was loaded. */
static void begin_whole(struct est_schedule *schedule)
{
	unsigned end = schedule->asleep ? schedule->asleep : schedule->unit_count;

	make_buffers(schedule);
	for (unsigned number = 0; number < end; number++)
		reshard(schedule, number);
}

void est_fsdp1_shard(struct est_schedule *schedule)
{
	wake(&schedule->units[0]);
	for (unsigned number = 0; number < schedule->unit_count; number++)
		shard(schedule, &schedule->units[number]);
	schedule->rehearses = schedule->request->method != EST_FULL;
	if (!schedule->rehearses)
		begin_whole(schedule);
	schedule->tape->keeps_boundaries = schedule->unit_of_module && est_unit_is_checkpointed(schedule);
}

static unsigned unit_of(const struct est_schedule *schedule, uint32_t module)
{
	return schedule->unit_of_module[module];
}

static void begin_module(void *context, uint32_t module)
{
	(void)context;
	(void)module;
}

static struct est_tensor enter_module(void *context, uint32_t module, struct est_tensor x)
{
	struct est_schedule *schedule = context;

	if (unit_of(schedule, module))
		est_schedule_begin(schedule, unit_of(schedule, module));
	return x;
}

static struct est_tensor leave_module(void *context, uint32_t module, struct est_tensor y)
{
	struct est_schedule *schedule = context;

	return unit_of(schedule, module) ? est_schedule_leave(schedule, unit_of(schedule, module), y) : y;
}

/* An adapter is reduced as soon as its gradient is there. */
static void accumulated(struct est_tape *tape, struct est_leaf *leaf, const void *context)
{
	struct est_schedule *schedule = (struct est_schedule *)(uintptr_t)context;

	(void)tape;
	after_backward(schedule, leaf->unit);
}

unsigned est_fsdp1_name_adapters(struct est_schedule *schedule)
{
	struct est_tape *tape = schedule->tape;
	unsigned count = 0;

	if (schedule->request->parallelism.wrap != EST_WRAP_PEFT)
		return 0;
	schedule->unit_of_module = est_arena_take(tape->arena, tape->modules + 1, sizeof(*schedule->unit_of_module));
	for (uint32_t i = 0; i < tape->leaf_count && schedule->unit_of_module; i++)
		if (tape->leaves[i].value.requires_grad)
			schedule->unit_of_module[tape->leaves[i].module] = schedule->layers + ++count;
	tape->hooks = (struct est_module_hooks){ schedule, begin_module, enter_module, leave_module };
	tape->accumulated = accumulated;
	tape->accumulated_context = schedule;
	return count;
}

const struct est_strategy_row est_fsdp1 = { unshard, after_forward, before_backward, after_backward,
					     .begin = begin };
