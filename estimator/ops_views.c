/* Views, and copies of them. */
#include "estimator/ops.h"

/* cat's gradient is two views; neg of one; two slices that fill zeros and are added */
static void backward_rotate_half(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	uint8_t element = node->grad[0].element;
	struct est_tensor negated = est_empty(tape, node->edge_numel[0] / 2, element), other;

	ret[0] = est_grad_for(tape, node, 0, element);
	est_drop(tape, negated);
	other = est_grad_for(tape, node, 0, element);
	est_drop(tape, est_take_grad(node, 0));
	est_drop(tape, other);
}
static const struct est_op rotate_half_op = { "RotateHalf", backward_rotate_half };

struct est_tensor est_rotate_half(struct est_tape *tape, struct est_tensor x)
{
	struct est_node *node = est_node_new(tape, &rotate_half_op, 1, &x);
	struct est_tensor negated = est_empty(tape, x.numel / 2, x.element), out;

	out = est_empty(tape, x.numel, x.element);
	est_drop(tape, negated);
	est_finish(tape, x);
	return est_output(tape, node, 0, out);
}

static void backward_cat(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	struct est_tensor grad = est_take_grad(node, 0);

	for (unsigned i = 0; i < EST_NODE_INPUTS; i++) {
		if (!est_needs(node, i))
			continue;
		ret[i] = est_hold(est_alias(tape, grad));
		ret[i].numel = node->edge_numel[i];
		ret[i].view = true;
	}
	est_drop(tape, grad);
}
static const struct est_op cat_op = { "Cat", backward_cat };

struct est_tensor est_cat_of(struct est_tape *tape, unsigned n, const struct est_tensor parts[])
{
	struct est_node *node = est_node_new(tape, &cat_op, n, parts);
	uint8_t element = 0;
	uint64_t numel = 0;
	struct est_tensor out;

	for (unsigned i = 0; i < n; i++) {
		numel += parts[i].numel;
		element = parts[i].element > element ? parts[i].element : element;
	}
	out = est_output(tape, node, 0, est_empty(tape, numel, element));
	for (unsigned i = 0; i < n; i++)
		est_finish(tape, parts[i]);
	return out;
}

struct est_tensor est_cat(struct est_tape *tape, struct est_tensor a, struct est_tensor b)
{
	return est_cat_of(tape, 2, (struct est_tensor[]){ a, b });
}

static const struct est_op split_op = { "Split", est_backward_like_input };

void est_split(struct est_tape *tape, struct est_tensor x, unsigned n, const uint64_t numel[], struct est_tensor ret[])
{
	struct est_node *node = est_node_new(tape, &split_op, 1, &x);

	for (unsigned i = 0; i < n; i++) {
		ret[i] = est_output(tape, node, i, est_detach(tape, x));
		ret[i].numel = numel[i];
	}
	est_finish(tape, x);
}

static const struct est_op slice_op = { "Slice", est_backward_one };
static const struct est_op heads_op = { "ViewAsHeads", est_backward_one };

/* A view whose node is op. */
static struct est_tensor view(struct est_tape *tape, const struct est_op *op, struct est_tensor x, uint64_t numel)
{
	struct est_node *node = est_node_new(tape, op, 1, &x);
	struct est_tensor out = est_detach(tape, x);

	out.numel = numel;
	est_finish(tape, x);
	return est_output(tape, node, 0, out);
}

struct est_tensor est_view_as_heads(struct est_tape *tape, struct est_tensor x)
{
	return view(tape, &heads_op, x, x.numel);
}

struct est_tensor est_slice(struct est_tape *tape, struct est_tensor x, uint64_t numel)
{
	return view(tape, &slice_op, x, numel);
}

static const struct est_op reshape_op = { "Reshape", est_backward_pass_view };

struct est_tensor est_reshape(struct est_tape *tape, struct est_tensor x)
{
	return view(tape, &reshape_op, x, x.numel);
}

static const struct est_op clone_op = { "Clone", est_backward_pass };

struct est_tensor est_contiguous(struct est_tape *tape, struct est_tensor x)
{
	return est_unary(tape, &clone_op, x, false, false, x.numel);
}

static const struct est_op merge_op = { "MergeHeads", est_backward_one };

struct est_tensor est_merge_heads(struct est_tape *tape, struct est_tensor x)
{
	return est_unary(tape, &merge_op, x, false, false, x.numel);
}

/* the sum over the copies of each head, as a view of other sizes */
static const struct est_op repeat_op = { "RepeatKv", est_backward_view };

struct est_tensor est_repeat_kv(struct est_tape *tape, struct est_tensor x, uint64_t n_rep, bool one_head)
{
	if (one_head && n_rep > 1)
		return view(tape, &repeat_op, x, x.numel * n_rep);
	return n_rep == 1 ? x : est_unary(tape, &repeat_op, x, false, false, x.numel * n_rep);
}
