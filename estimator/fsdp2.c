/* FSDP2 (torch.distributed.fsdp.fully_shard): what its hooks allocate, and when what goes. Read off traces of torch
 * 2.13; DISTRIBUTED 1. */
#include "estimator/schedule.h"
#include "estimator/tensor_parallel.h"

/* Streams: the compute stream, that of all-gather copy-ins (the outputs lie in its pool too), that of
 * reduce-scatters, that of HSDP's all-reduces. A reference model is the root of communication of its own. */
enum { COMPUTE, COPY_IN, REDUCE_SCATTER, ALL_REDUCE, REFERENCE_COPY_IN };

/* Parts along another dimension than the first are copied out beside the parameter and into it from there, and out
 * of its gradient before they are copied into the reduction's input. */
static void copy_parts(struct est_tape *tape, const struct est_unit *unit, struct est_leaf *leaf, uint8_t element)
{
	if (unit->cuts_rows && unit->ranks > 1)
		leaf->copy = est_empty_as(tape, leaf->shard * unit->ranks, element, EST_BUFFERS).storage;
}

static void drop_copies(struct est_tape *tape, const struct est_unit *unit)
{
	for (struct est_leaf *leaf = unit->first; leaf; leaf = leaf->next) {
		est_storage_release(tape, leaf->copy);
		leaf->copy = 0;
	}
}

/* all_gather_inputs: a shard on the host comes to the card, and one of another dtype is cast. None where it is taken
 * as it lies. */
static struct est_tensor take_shard(const struct est_schedule *schedule, const struct est_leaf *leaf, unsigned stream)
{
	struct est_tensor shard = est_none, cast;

	if (schedule->offloads)
		shard = est_empty_on(schedule->tape, stream, leaf->shard, leaf->shard_element, EST_BUFFERS);
	if (leaf->shard_element == leaf->value.element)
		return shard;
	cast = est_empty_on(schedule->tape, stream, leaf->shard, leaf->value.element, EST_BUFFERS);
	est_drop(schedule->tape, shard);
	return cast;
}

/* One output for the unit, of bytes where dtypes differ. Shards of another dtype are cast for it into one tensor, those on the host come one by
 * one. */
static uint32_t all_gather(struct est_schedule *schedule, unsigned number, unsigned stream)
{
	const struct est_unit *unit = &schedule->units[number];
	struct est_tape *tape = schedule->tape;
	struct est_tensor cast, out;

	if (unit->ranks == 1) /* copy_out() takes the shards themselves */
		return 0;
	for (struct est_leaf *leaf = unit->first; leaf && schedule->offloads; leaf = leaf->next)
		leaf->copy = take_shard(schedule, leaf, stream).storage;
	cast = est_empty_on(tape, stream, schedule->offloads ? 0 : unit->cast, schedule->gathered_element, EST_BUFFERS);
	out = est_empty_on(tape, stream, unit->bytes, 1, EST_BUFFERS);
	est_drop(tape, cast);
	drop_copies(tape, unit);
	return out.storage;
}

/* The unsharded parameters, a storage each, filled from the all-gather's output; on one rank alone from each shard,
 * or a cast of it. */
static void copy_out(struct est_schedule *schedule, unsigned number)
{
	struct est_tape *tape = schedule->tape;
	struct est_unit *unit = &schedule->units[number];
	struct est_tensor input = est_none, last; /* a loop variable */

	for (struct est_leaf *leaf = unit->first; leaf; leaf = leaf->next) {
		last = input;
		input = unit->ranks == 1 ? take_shard(schedule, leaf, COMPUTE) : est_none;
		est_drop(tape, last);
		leaf->unsharded = est_empty_as(tape, leaf->shard * unit->ranks, leaf->value.element, EST_BUFFERS).storage;
		copy_parts(tape, unit, leaf, leaf->value.element);
	}
	est_drop(tape, input);
	drop_copies(tape, unit);
	unit->unsharded = true;
}

static void reshard(struct est_schedule *schedule, unsigned number)
{
	struct est_tape *tape = schedule->tape;

	if (!schedule->units[number].unsharded)
		return;
	for (struct est_leaf *leaf = schedule->units[number].first; leaf; leaf = leaf->next) {
		est_storage_release(tape, leaf->unsharded);
		leaf->unsharded = 0;
	}
	schedule->units[number].unsharded = false;
}

static void prefetch_on(struct est_schedule *schedule, unsigned number, unsigned stream)
{
	struct est_unit *unit = &schedule->units[number];

	if (!unit->unsharded && !unit->gathered)
		unit->gathered = all_gather(schedule, number, stream);
}

static void prefetch(struct est_schedule *schedule, unsigned number)
{
	prefetch_on(schedule, number, schedule->evaluates ? REFERENCE_COPY_IN : COPY_IN);
}

/* unshard(async_op=True), outside of forward and backward: on the current stream */
static void gather(struct est_schedule *schedule, unsigned number)
{
	prefetch_on(schedule, number, COMPUTE);
}

/* A layer with the experts within it. */
static void prefetch_whole(struct est_schedule *schedule, unsigned number)
{
	prefetch(schedule, number);
	if (schedule->units[number].nested)
		prefetch(schedule, schedule->units[number].nested);
}

/* set_modules_to_forward_prefetch(): the next layer whole, but of the embedding's, whose next is not known to have
 * experts */
static void prefetch_next(struct est_schedule *schedule, unsigned number)
{
	if (number == 0)
		prefetch(schedule, 1);
	else if (number <= schedule->layers)
		prefetch_whole(schedule, number + 1);
}

/* The all-gather's output stays until the next unit's copy-out has ended (comm_ctx.all_gather_state). */
static void before_forward(struct est_schedule *schedule, unsigned number)
{
	struct est_unit *unit = &schedule->units[number];

	schedule->passes += number == 0;
	if (!unit->unsharded) {
		prefetch(schedule, number);
		copy_out(schedule, number);
		est_storage_release(schedule->tape, schedule->held_gather);
		schedule->held_gather = unit->gathered;
		unit->gathered = 0;
	}
	if (schedule->prefetches_forward)
		prefetch_next(schedule, number);
}

/* The first group of a model that is one group outside its layers, and the last unit, stay gathered; what is only evaluated does as
 * it is told. */
static bool stays_gathered(const struct est_schedule *schedule, unsigned number)
{
	bool is_tail = number > schedule->layers && !schedule->units[number].within;
	bool is_last = is_tail || (number == 0 && !schedule->embeds_apart);

	return !schedule->request->parallelism.reshard_after_forward || (is_last && !schedule->evaluates);
}

/* A unit within a checkpoint runs again in the backward, for which it stays (is_bw()), and is taken for the root of
 * a forward. */
static void after_forward(struct est_schedule *schedule, unsigned number)
{
	if (schedule->units[number].within && schedule->tape->recomputing)
		est_schedule_forward_end(schedule);
	else if (!stays_gathered(schedule, number))
		reshard(schedule, number);
}

static unsigned unit_before(const struct est_schedule *schedule, unsigned number)
{
	while (--number > 0 && (!schedule->units[number].first || schedule->units[number].sleeps))
		;
	return number;
}

/* wait_for_unshard() but in the forward: the output goes with the copy */
static void await(struct est_schedule *schedule, unsigned number)
{
	struct est_unit *unit = &schedule->units[number];

	if (unit->unsharded)
		return;
	copy_out(schedule, number);
	est_storage_release(schedule->tape, unit->gathered);
	unit->gathered = 0;
}

/* Before the embedding came, in the order that is recorded of all passes, what ended the one before: it is gathered in vain. */
static void prefetch_of_pass_before(struct est_schedule *schedule)
{
	unsigned tail = est_unit_of_tail(schedule);

	if (schedule->passes > 1 && tail && !schedule->units[tail].sleeps)
		prefetch(schedule, tail);
}

/* In the backward the output goes as soon as it is copied; the unit that comes next is gathered ahead. */
static void before_backward(struct est_schedule *schedule, unsigned number)
{
	struct est_unit *unit = &schedule->units[number];

	if (!unit->unsharded) {
		prefetch(schedule, number);
		await(schedule, number);
	}
	if (unit->within)
		return; /* the one before has been asked for by the layer */
	if (number > schedule->layers)
		prefetch(schedule, unit_before(schedule, number));
	else if (number > 0)
		prefetch_whole(schedule, unit_before(schedule, number));
	else if (!schedule->embeds_apart)
		prefetch(schedule, schedule->layers);
	else
		prefetch_of_pass_before(schedule);
}

/* accumulate_unsharded_grad_if_needed(): to what micro-batches before have left in the dtype of the reduction */
static void accumulate(struct est_schedule *schedule, unsigned number)
{
	for (struct est_leaf *leaf = schedule->units[number].first; leaf; leaf = leaf->next) {
		if (!leaf->accumulated.storage)
			continue;
		est_drop(schedule->tape, leaf->grad);
		leaf->grad = est_none;
	}
}

/* Without synchronisation gradients stay, in the dtype of the reduction: to_accumulated_grad_if_needed() */
static void keep_gradients(struct est_schedule *schedule, unsigned number)
{
	struct est_tape *tape = schedule->tape;

	for (struct est_leaf *leaf = schedule->units[number].first; leaf; leaf = leaf->next) {
		if (!leaf->grad.storage || leaf->grad.element == schedule->units[number].reduced_element)
			continue;
		leaf->accumulated = est_hold(est_empty_as(tape, leaf->grad.numel, schedule->units[number].reduced_element, EST_GRADIENTS));
		est_drop(tape, leaf->grad);
		leaf->grad = est_none;
	}
}

static struct est_tensor take_gradient(struct est_leaf *leaf)
{
	struct est_tensor gradient = leaf->accumulated.storage ? leaf->accumulated : leaf->grad;

	leaf->grad = leaf->accumulated = est_none;
	return gradient;
}

static struct est_leaf *reversed(struct est_leaf *first)
{
	struct est_leaf *before = NULL;

	while (first) {
		struct est_leaf *next = first->next;

		first->next = before;
		before = first;
		first = next;
	}
	return before;
}

/* All are copied into one input, and their list is cleared, from its end: they go but for the last, which a loop variable keeps. ret:
 * that */
static struct est_tensor copy_in(struct est_schedule *schedule, unsigned number)
{
	struct est_unit *unit = &schedule->units[number];
	struct est_tensor last = est_none;

	unit->first = reversed(unit->first);
	for (struct est_leaf *leaf = unit->first; leaf; leaf = leaf->next) {
		if (!leaf->grad.storage && !leaf->accumulated.storage)
			continue;
		if (last.storage)
			est_drop(schedule->tape, take_gradient(leaf));
		else
			last = take_gradient(leaf);
	}
	unit->first = reversed(unit->first);
	return last;
}

static uint8_t gradient_element(const struct est_leaf *leaf)
{
	return leaf->accumulated.storage ? leaf->accumulated.element : leaf->grad.element;
}

/* The input of a reduction, filled with the gradients. ret_last: that of the last parameter, which a variable keeps;
 * the others are in the copies of their parts when that of the last is made */
static struct est_tensor fill_input(struct est_schedule *schedule, unsigned number, struct est_tensor *ret_last)
{
	struct est_unit *unit = &schedule->units[number];
	struct est_tape *tape = schedule->tape;
	struct est_leaf *last = NULL;
	struct est_tensor input;
	uint8_t element = 0;

	for (struct est_leaf *leaf = unit->first; unit->cuts_rows && leaf; leaf = leaf->next) {
		last = leaf;
		element = gradient_element(leaf);
		if (leaf->next)
			copy_parts(tape, unit, leaf, element);
	}
	if (last) {
		*ret_last = copy_in(schedule, number);
		copy_parts(tape, unit, last, element);
	}
	input = est_empty_as(tape, unit->trained, unit->reduced_element, EST_BUFFERS);
	if (last)
		drop_copies(tape, unit);
	else
		*ret_last = copy_in(schedule, number);
	if (unit->ranks > 1)
		return input;
	est_drop(tape, *ret_last); /* of one rank alone nothing is looped over */
	*ret_last = est_none;
	return input;
}

/* torchtitan divides by the tokens itself, and tells FSDP2 to divide by 1: of one rank alone what is reduced is
 * divided into a copy. */
static void divide(struct est_schedule *schedule, const struct est_unit *unit)
{
	struct est_tape *tape = schedule->tape;

	if (unit->within && unit->ranks == 1)
		est_drop(tape, est_empty_on(tape, REDUCE_SCATTER, unit->trained, unit->reduced_element, EST_GRADIENTS));
}

/* foreach_reduce() */
static void reduce(struct est_schedule *schedule, unsigned number)
{
	struct est_tape *tape = schedule->tape;
	struct est_unit *unit = &schedule->units[number];
	struct est_tensor last, input = fill_input(schedule, number, &last), out, cast;
	uint64_t numel = unit->trained / unit->ranks;

	out = est_empty_on(schedule->tape, REDUCE_SCATTER, numel, unit->reduced_element, EST_GRADIENTS);
	divide(schedule, unit);
	if (unit->reduced_element != unit->shard_element) {
		cast = est_empty_on(schedule->tape, schedule->replicates ? ALL_REDUCE : REDUCE_SCATTER, numel, unit->shard_element, EST_GRADIENTS);
		if (schedule->replicates) /* _all_reduce_state */
			unit->all_reduced = est_hold(out);
		else
			est_drop(tape, out);
		out = cast;
	}
	if (unit->gradient.storage || schedule->offloads)
		est_drop(tape, out); /* added to what earlier micro-batches left; copied to the host */
	else
		unit->gradient = est_hold(out);
	est_drop(tape, last);
	schedule->held_reduction = input.storage;
}

/* DTensor.redistribute() of gradients to what the parameters are over tensor-parallel ranks */
static void place_gradients(struct est_schedule *schedule, unsigned number)
{
	struct est_tape *tape = schedule->tape;

	for (struct est_leaf *leaf = schedule->units[number].first; leaf; leaf = leaf->next) {
		struct est_tensor part;

		if (!est_tensor_is_misplaced(leaf))
			continue;
		part = est_hold(est_empty_as(tape, leaf->value.numel, leaf->grad.element, EST_GRADIENTS));
		est_drop(tape, leaf->grad);
		leaf->grad = part;
	}
}

/* What was read and never gathered has its gradient as it is sharded, and adds to it. */
static void take_sharded(struct est_schedule *schedule, struct est_unit *unit)
{
	for (struct est_leaf *leaf = unit->first; leaf; leaf = leaf->next) {
		if (unit->gradient.storage)
			est_drop(schedule->tape, leaf->grad);
		else
			unit->gradient = leaf->grad;
		leaf->grad = est_none;
	}
	unit->reduced = true;
}

static void after_backward(struct est_schedule *schedule, unsigned number)
{
	struct est_unit *unit = &schedule->units[number];

	if (unit->sleeps) {
		take_sharded(schedule, unit);
		return;
	}
	accumulate(schedule, number);
	if (schedule->syncs)
		place_gradients(schedule, number);
	if (!schedule->stays_gathered)
		reshard(schedule, number);
	unit->reduced = true;
	if (!schedule->syncs) {
		keep_gradients(schedule, number);
		return;
	}
	est_storage_release(schedule->tape, schedule->held_reduction);
	schedule->held_reduction = 0;
	if (unit->trained > 0)
		reduce(schedule, number);
}

const struct est_strategy_row est_fsdp2 = { before_forward, after_forward, before_backward, after_backward,
					     .gather = gather, .await = await, .release = reshard };
