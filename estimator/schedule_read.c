/* DTensor.full_tensor(): a sharded parameter that is read, and no module called that would have gathered it. */
#include "estimator/ops.h"
#include "estimator/schedule.h"

/* redistribute() of the gradient to what the parameter is: the rank's rows are copied out of its own, and nothing is reduced. */
static void backward_full(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	bool is_whole = node->edge_numel[0] == node->grad[0].numel;

	ret[0] = is_whole ? est_take_grad(node, 0) : est_grad_for(tape, node, 0, node->edge_element[0]);
}
static const struct est_op full_op = { "FullTensor", backward_full };

/* The parameter as its shard, to which the gradient goes. */
static struct est_tensor shard_of(const struct est_leaf *leaf)
{
	struct est_tensor shard = leaf->value;

	shard.numel = leaf->shard;
	shard.element = leaf->shard_element;
	return shard;
}

static struct est_tensor full_tensor(struct est_tape *tape, const struct est_leaf *leaf, uint64_t ranks)
{
	struct est_tensor shard = shard_of(leaf), out = shard;
	struct est_node *node = est_node_new(tape, &full_op, 1, &shard);

	if (ranks > 1)
		out = est_empty_as(tape, leaf->shard * ranks, leaf->shard_element, EST_BUFFERS);
	return est_output(tape, node, 0, out);
}

struct est_tensor est_schedule_read(const struct est_schedule *schedule, struct est_tape *tape, uint32_t number)
{
	const struct est_leaf *leaf = &tape->leaves[number];
	const struct est_unit *unit = schedule && schedule->units ? &schedule->units[leaf->unit] : NULL;

	return unit && unit->sleeps ? full_tensor(tape, leaf, unit->ranks) : est_leaf_tensor(tape, number);
}
