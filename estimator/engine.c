/* torch.autograd: the backward of a tape. */
#include "estimator/tape.h"

/* InputBuffer::accumulate: in place when the first gradient is nobody else's and no view, else a third tensor. */
static struct est_tensor accumulate(struct est_tape *tape, struct est_tensor old, struct est_tensor grad, enum est_category category)
{
	struct est_tensor sum;

	if (!old.element)
		return grad;
	if (old.storage && tape->storages[old.storage].references == 1 && !old.view && !old.distributed) {
		est_drop(tape, grad);
		return old;
	}
	sum = est_hold(est_empty_as(tape, old.numel, old.element > grad.element ? old.element : grad.element, category));
	sum.distributed = old.distributed;
	est_drop(tape, old);
	est_drop(tape, grad);
	return sum;
}

static void add_to_grad(struct est_tape *tape, struct est_leaf *leaf, struct est_tensor grad)
{
	if (leaf->grad.storage) {
		est_drop(tape, grad); /* variable_grad += new_grad */
		return;
	}
	if (grad.storage && tape->storages[grad.storage].references > 1) { /* not ours alone: cloned */
		struct est_tensor copy = est_hold(est_empty_as(tape, grad.numel, grad.element, EST_GRADIENTS));

		est_drop(tape, grad);
		grad = copy;
	}
	leaf->grad = grad;
}

static void accumulate_grad(struct est_tape *tape, struct est_leaf *leaf)
{
	struct est_tensor grad = leaf->arrived;

	leaf->arrived = est_none;
	add_to_grad(tape, leaf, grad);
	if (tape->accumulated && leaf->parameter)
		tape->accumulated(tape, leaf, tape->accumulated_context);
}

/* Of a tied weight that tensor-parallel ranks have a part each of, the head's gradient is that of the part, the embedding's the whole:
 * DTensor's sum is that of the parts. */
static struct est_tensor accumulate_part(struct est_tape *tape, struct est_tensor old, struct est_tensor whole)
{
	struct est_tensor part = est_hold(est_empty_as(tape, old.numel, whole.element, EST_GRADIENTS)), sum;

	old.distributed = true;
	sum = accumulate(tape, old, part, EST_GRADIENTS);
	est_drop(tape, whole);
	return sum;
}

static struct est_tensor arrive(struct est_tape *tape, const struct est_leaf *leaf, struct est_tensor grad)
{
	if (leaf->parts && leaf->arrived.storage && grad.numel > leaf->arrived.numel)
		return accumulate_part(tape, leaf->arrived, grad);
	return accumulate(tape, leaf->arrived, grad, leaf->parameter ? EST_GRADIENTS : EST_ACTIVATIONS);
}

void est_deliver(struct est_tape *tape, uint32_t edge, struct est_tensor grad)
{
	if (!edge) { /* a graph that is not whole: tape->exhausted */
		est_drop(tape, grad);
	} else if (edge & EST_EDGE_LEAF) {
		struct est_leaf *leaf = &tape->leaves[edge & ~EST_EDGE_LEAF];

		leaf->arrived = arrive(tape, leaf, grad);
		if (--leaf->uses == 0)
			accumulate_grad(tape, leaf);
	} else {
		struct est_node *node = &tape->nodes[(edge - 1) / 4];
		unsigned output = (edge - 1) % 4;

		node->grad[output] = accumulate(tape, node->grad[output], grad, EST_ACTIVATIONS);
	}
}

void est_expect(struct est_tape *tape, const struct est_node *node, uint32_t leaf)
{
	if (node != &tape->scratch)
		tape->leaves[leaf].uses++;
}

/* The engine's validate_outputs(): a gradient takes the shape (a broadcast one is summed) and the dtype of its tensor. */
static struct est_tensor validate_output(struct est_tape *tape, const struct est_node *node, unsigned i, struct est_tensor grad)
{
	struct est_tensor out = grad;

	if (grad.numel != node->edge_numel[i]) {
		out = est_hold(est_grad_for(tape, node, i, grad.element));
		est_drop(tape, grad);
	}
	if (out.element != node->edge_element[i]) {
		grad = out;
		out = est_hold(est_grad_for(tape, node, i, node->edge_element[i]));
		est_drop(tape, grad);
	}
	return out;
}

/* A view without elements is a gradient too, and keeps its base alive. */
static bool is_defined(struct est_tensor grad)
{
	return grad.element != 0;
}

static bool has_gradient(const struct est_node *node)
{
	for (unsigned i = 0; i < EST_NODE_OUTPUTS; i++)
		if (is_defined(node->grad[i]))
			return true;
	return false;
}

static void release_saved(struct est_tape *tape, struct est_node *node)
{
	for (unsigned i = 0; i < node->saved_count && !node->frame; i++)
		est_storage_release(tape, node->saved[i]);
	node->saved_count = 0;
}

static void run_node(struct est_tape *tape, struct est_node *node)
{
	struct est_tensor ret[EST_NODE_INPUTS] = { { 0 } };
	uint32_t frame = node->frame, saved_count = node->saved_count;

	est_mark_layer(tape, node->layer);
	if (frame)
		est_frame_unpack(tape, node);
	node->op->backward(tape, node, ret);
	if (frame) /* what a hook has unpacked is a local of the formula; a saved variable lives as long as its node */
		release_saved(tape, node);
	for (unsigned i = 0; i < EST_NODE_INPUTS; i++)
		if (node->edge[i] && is_defined(ret[i])) {
			ret[i] = validate_output(tape, node, i, ret[i]);
			ret[i].distributed = node->distributed;
		}
	for (unsigned i = 0; i < EST_NODE_OUTPUTS; i++)
		est_drop(tape, est_take_grad(node, i));
	release_saved(tape, node);
	if (frame)
		est_frame_release(tape, frame, saved_count);
	for (unsigned k = 0; k < EST_NODE_INPUTS; k++) {
		unsigned i = node->backwards ? EST_NODE_INPUTS - 1 - k : k;

		if (node->edge[i] && is_defined(ret[i]))
			est_deliver(tape, node->edge[i], est_hold(ret[i]));
		else
			est_drop(tape, ret[i]);
	}
}

void est_tape_seed(struct est_tape *tape, struct est_tensor root, struct est_tensor grad)
{
	tape->backwards++;
	est_deliver(tape, root.source, est_hold(grad));
}

void est_tape_backward_of(struct est_tape *tape, uint32_t first, uint32_t end, struct est_tensor root, struct est_tensor grad)
{
	est_tape_seed(tape, root, grad);
	for (uint32_t i = end; i-- > first;) {
		struct est_node *node = &tape->nodes[i];

		if (has_gradient(node))
			run_node(tape, node);
		else
			est_pass_over(tape, node);
	}
	tape->backwards--;
}

void est_tape_backward(struct est_tape *tape, uint32_t first, struct est_tensor root, struct est_tensor grad)
{
	est_tape_backward_of(tape, first, tape->node_count, root, grad);
	tape->node_count = first;
}
