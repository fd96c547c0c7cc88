#include "estimator/split.h"

struct split {
	struct est_tensor whole;  /* the split's output, which has no elements of its own */
	struct est_tensor *grads; /* of the views */
	uint64_t count;
};

/* extra: 0 elements, 1 bytes of one */
static void backward_split(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	const struct split *split = node->context;

	ret[0] = est_empty(tape, node->extra[0], (uint8_t)node->extra[1]);
	for (uint64_t i = 0; i < split->count; i++)
		est_drop(tape, split->grads[i]);
}
static const struct est_op split_op = { "Split", backward_split };

/* Puts its gradient with the others: what goes on is empty. extra[0]: which one */
static void backward_part(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	const struct split *split = node->context;

	split->grads[node->extra[0]] = est_take_grad(node, 0);
	ret[0] = est_empty(tape, 0, node->edge_element[0]);
}
static const struct est_op part_op = { "SplitPart", backward_part };

/* NULL when the arena is too small. x is borrowed. */
static struct split *split_new(struct est_tape *tape, struct est_tensor x, uint64_t count)
{
	struct est_node *node = est_node_new(tape, &split_op, 1, &x);
	struct split *split = est_arena_take(tape->arena, 1, sizeof(*split));

	if (!split || !(split->grads = est_arena_take(tape->arena, count, sizeof(*split->grads))))
		return NULL;
	if (node) {
		node->context = split;
		node->extra[0] = x.numel;
		node->extra[1] = x.element;
	}
	split->count = count;
	split->whole = est_hold(est_output(tape, node, 0, est_detach(tape, x)));
	split->whole.numel = 0;
	return split;
}

/* View i, of numel elements: held. */
static struct est_tensor split_part(struct est_tape *tape, const struct split *split, uint64_t i, uint64_t numel)
{
	struct est_node *node = est_node_new(tape, &part_op, 1, &split->whole);
	struct est_tensor out = est_detach(tape, split->whole);

	if (node) {
		node->context = split;
		node->extra[0] = i;
	}
	out.numel = numel;
	return est_hold(est_output(tape, node, 0, out));
}

struct est_tensor *est_split_rows(struct est_tape *tape, struct est_tensor x, uint64_t rows, uint64_t per_part,
				  uint64_t width, uint64_t *ret_count)
{
	uint64_t count = *ret_count = (rows + per_part - 1) / per_part;
	struct est_tensor *parts = est_arena_take(tape->arena, count, sizeof(*parts));
	struct split *split = parts ? split_new(tape, x, count) : NULL;

	if (!split)
		return NULL;
	for (uint64_t i = 0; i < count; i++)
		parts[i] = split_part(tape, split, i, (i + 1 < count ? per_part : rows - i * per_part) * width);
	est_drop(tape, split->whole);
	return parts;
}
