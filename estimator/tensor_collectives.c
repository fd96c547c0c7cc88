/* The operators of tensor parallelism: torch.distributed.tensor's redistribute() between placements, with the
 * functional collectives behind it, whose results are tensors of their own. Read in torch 2.13 (_redistribute.py,
 * _api.py, _functional_collectives.py). */
#include "estimator/tensor_parallel.h"

#include "estimator/ops.h"

/* ---- collectives: x is borrowed, the result is temporary and without a node */

static struct est_tensor buffer_like(struct est_tape *tape, struct est_tensor x, uint64_t numel)
{
	return est_empty(tape, numel, x.element);
}

static struct est_tensor all_reduce(struct est_tape *tape, struct est_tensor x)
{
	return buffer_like(tape, x, x.numel);
}

/* What is gathered lies rank by rank; along an inner dimension it is cut and joined again. */
static struct est_tensor all_gather(struct est_tape *tape, struct est_tensor x, uint64_t ranks, bool joins)
{
	struct est_tensor gathered = buffer_like(tape, x, x.numel * ranks), joined;

	if (!joins)
		return gathered;
	joined = buffer_like(tape, x, gathered.numel);
	est_drop(tape, gathered);
	return joined;
}

/* The parts are put rank by rank first, along an inner dimension. */
static struct est_tensor reduce_scatter(struct est_tape *tape, struct est_tensor x, uint64_t ranks)
{
	struct est_tensor parts = buffer_like(tape, x, x.numel), out = buffer_like(tape, x, x.numel / ranks);

	est_drop(tape, parts);
	return out;
}

/* ---- nodes: extra[0] ranks, extra[1] whether gathering joins parts again */

static struct est_node *node_of(struct est_tape *tape, const struct est_op *op, const struct est_tensor_group *group,
				bool joins, struct est_tensor x)
{
	struct est_node *node = est_node_new(tape, op, 1, &x);

	if (node) {
		node->extra[0] = group->ranks;
		node->extra[1] = joins;
	}
	return node;
}

static struct est_tensor finish(struct est_tape *tape, struct est_node *node, struct est_tensor x,
				struct est_tensor out)
{
	out = est_output(tape, node, 0, out);
	est_finish(tape, x);
	return out;
}

static void backward_all_reduce(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	ret[0] = est_hold(all_reduce(tape, node->grad[0]));
}
static const struct est_op replicated_op = { "FromReplicated", backward_all_reduce };

static const struct est_op sum_op = { "PartialToReplicate", est_backward_pass_view };

static void backward_all_gather(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	ret[0] = est_hold(all_gather(tape, node->grad[0], node->extra[0], node->extra[1]));
}
static const struct est_op scatter_op = { "PartialToShard", backward_all_gather };

static void backward_reduce_scatter(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	ret[0] = est_hold(reduce_scatter(tape, node->grad[0], node->extra[0]));
}
static const struct est_op gather_op = { "ShardToReplicate", backward_reduce_scatter };

/* chunk(dim)[rank].clone() */
static const struct est_op gather_logits_op = { "ShardToReplicateAtEnd", est_backward_one };

/* from_local() of a rank's part of the features: its gradient is the part itself, no view of what was reshaped */
static void backward_part(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	est_backward_pass(tape, node, ret);
	ret[0].view = false;
}
static const struct est_op part_op = { "FromPart", backward_part };

/* from_local() of a rank's part: its gradient leaves the DTensors */
static const struct est_op from_local_op = { "FromLocal", est_backward_pass };

struct est_tensor est_sequence_enter(struct est_tape *tape, struct est_tensor x)
{
	struct est_node *node = est_node_new(tape, &from_local_op, 1, &x);

	tape->distributed = true;
	return est_hold(est_output(tape, node, 0, est_detach(tape, x)));
}

struct est_tensor est_sequence_leave(struct est_tape *tape, struct est_tensor y)
{
	tape->distributed = false;
	return y;
}

/* ---- around cut layers */

struct est_tensor est_cut_enter(struct est_tape *tape, const struct est_tensor_group *group, enum est_cut cut,
				struct est_tensor x)
{
	struct est_node *node;

	/* of a split sequence it was gathered before, where the gradients of all its readers are summed */
	if (cut == EST_CUT_NONE || (cut == EST_CUT_OUTPUTS && group->splits_sequence))
		return x;
	node = node_of(tape, cut == EST_CUT_OUTPUTS ? &replicated_op : &part_op, group, false, x);
	return finish(tape, node, x, est_detach(tape, x));
}

struct est_tensor est_cut_leave(struct est_tape *tape, const struct est_tensor_group *group, enum est_cut cut,
				struct est_tensor y)
{
	struct est_node *node;

	if (cut != EST_CUT_INPUTS || (tape->no_grad && group->sums_in_place && !group->splits_sequence))
		return y;
	node = node_of(tape, group->splits_sequence ? &scatter_op : &sum_op, group, group->batched, y);
	return finish(tape, node, y, group->splits_sequence ? reduce_scatter(tape, y, group->ranks) : all_reduce(tape, y));
}

struct est_tensor est_sequence_gather(struct est_tape *tape, const struct est_tensor_group *group, struct est_tensor x)
{
	struct est_node *node;

	if (!group->splits_sequence)
		return x.temporary ? x : est_alias(tape, x);
	node = node_of(tape, &gather_op, group, false, x);
	return finish(tape, node, x, all_gather(tape, x, group->ranks, group->batched));
}

struct est_tensor est_vocabulary_gather(struct est_tape *tape, const struct est_tensor_group *group,
					struct est_tensor x)
{
	struct est_node *node;

	if (group->ranks <= 1 || group->splits_loss)
		return x;
	node = node_of(tape, &gather_logits_op, group, false, x);
	return finish(tape, node, x, all_gather(tape, x, group->ranks, true));
}

/* ---- the embedding */

/* The gradient is that of the whole vocabulary, from all positions: gathered, where a rank has but a part of the
 * output. */
static const struct est_op embedding_op = { "CutEmbedding", est_embedding_backward };

/* _MaskPartial: which ids are another rank's, and the ids less the rank's first */
static struct est_tensor look_up(struct est_tape *tape, struct est_tensor ids, uint64_t width, uint8_t element)
{
	struct est_tensor mask = est_empty_as(tape, ids.numel, EST_BYTE, EST_BUFFERS);
	struct est_tensor masked = est_empty_as(tape, ids.numel, EST_INT64, EST_BUFFERS), out;

	out = est_empty(tape, ids.numel * width, element);
	est_drop(tape, masked);
	est_drop(tape, mask);
	return out;
}

struct est_tensor est_cut_embedding(struct est_tape *tape, const struct est_tensor_group *group, struct est_tensor ids,
				    uint32_t weight, uint64_t rows, uint64_t width)
{
	struct est_tensor table = est_leaf_tensor(tape, weight), out;
	struct est_node *node = est_node_new(tape, &embedding_op, 1, &table);

	est_save(tape, node, ids);
	if (node) {
		node->extra[0] = ids.numel;
		node->extra[1] = rows * group->ranks;
		node->edge_numel[0] *= group->ranks;
	}
	out = est_output(tape, node, 0, look_up(tape, ids, width, table.element));
	return est_cut_leave(tape, group, EST_CUT_INPUTS, out);
}
