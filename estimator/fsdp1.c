/* FSDP1 (torch.distributed.fsdp.FullyShardedDataParallel): a unit's parameters are views of one flat parameter, which its hooks
 * gather and free as a whole. Read off traces of torch 2.13; DISTRIBUTED 2. */
#include "estimator/schedule.h"

/* Streams: the compute stream (of the whole backward, as it was traced), that of casts of the shard, that of all-gathers, that of
 * reductions. */
enum { COMPUTE, PRE_UNSHARD, UNSHARD, POST_BACKWARD };

static struct est_tensor on_stream(struct est_schedule *schedule, unsigned stream, uint64_t numel, uint8_t element,
				   enum est_category category)
{
	struct est_tensor tensor;

	schedule->tape->stream = (uint8_t)stream;
	tensor = est_empty_as(schedule->tape, numel, element, category);
	schedule->tape->stream = COMPUTE;
	return tensor;
}

/* A shard of another dtype is cast for the all-gather, and goes with it. */
static void unshard(struct est_schedule *schedule, unsigned number)
{
	struct est_unit *unit = &schedule->units[number];
	struct est_tensor shard = est_none;

	if (unit->flat)
		return;
	if (unit->cast > 0)
		shard = on_stream(schedule, PRE_UNSHARD, unit->cast, schedule->gathered_element, EST_BUFFERS);
	unit->flat = on_stream(schedule, UNSHARD, unit->numel, schedule->gathered_element, EST_BUFFERS).storage;
	est_drop(schedule->tape, shard);
}

static void reshard(struct est_schedule *schedule, unsigned number)
{
	est_storage_release(schedule->tape, schedule->units[number].flat);
	schedule->units[number].flat = 0;
}

/* The root, unit 0, stays for the backward. */
static void after_forward(struct est_schedule *schedule, unsigned number)
{
	if (number > 0 && schedule->request->parallelism.reshard_after_forward)
		reshard(schedule, number);
}

/* The unit whose forward ended before this one's is gathered ahead: before the root's, the last layer's. */
static void before_backward(struct est_schedule *schedule, unsigned number)
{
	unshard(schedule, number);
	if (number != 1)
		unshard(schedule, number > 0 ? number - 1 : schedule->layers);
}

/* The gradients of the views, concatenated (the backward of split), and accumulated into what micro-batches before have left. */
static void gather_gradients(struct est_schedule *schedule, unsigned number)
{
	struct est_tape *tape = schedule->tape;
	struct est_unit *unit = &schedule->units[number];
	struct est_tensor flat = on_stream(schedule, COMPUTE, unit->trained, schedule->gathered_element, EST_GRADIENTS);

	for (struct est_leaf *leaf = unit->first; leaf; leaf = leaf->next) {
		est_drop(tape, leaf->grad);
		leaf->grad = est_none;
	}
	if (unit->unreduced.storage)
		est_drop(tape, flat);
	else
		unit->unreduced = est_hold(flat);
}

/* _reduce_grad(): each cast stays beside what it was made of. */
static void reduce(struct est_schedule *schedule, unsigned number)
{
	struct est_tape *tape = schedule->tape;
	struct est_unit *unit = &schedule->units[number];
	uint64_t numel = unit->trained / schedule->ranks;
	struct est_tensor input = est_none, out, low = est_none;

	if (schedule->reduced_element != schedule->gathered_element)
		input = on_stream(schedule, POST_BACKWARD, unit->trained, schedule->reduced_element, EST_BUFFERS);
	out = on_stream(schedule, POST_BACKWARD, numel, schedule->reduced_element, EST_GRADIENTS);
	if (schedule->reduced_element != schedule->shard_element) {
		low = out;
		out = on_stream(schedule, POST_BACKWARD, numel, schedule->shard_element, EST_GRADIENTS);
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
	gather_gradients(schedule, number);
	schedule->units[number].reduced = true;
	if (schedule->syncs || schedule->request->parallelism.reshard_after_forward)
		reshard(schedule, number);
	if (schedule->syncs)
		reduce(schedule, number);
}

const struct est_strategy_row est_fsdp1 = { unshard, after_forward, before_backward, after_backward, NULL, NULL };
