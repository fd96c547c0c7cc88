/* What Qwen's gated delta rule and Kimi's are made of, chunk by chunk. */
#include "estimator/chunks.h"

/* CopySlices: the base's gradient anew, the slice's cloned, and cast to its source's dtype; zeros for what was
 * overwritten */
static void backward_copy_slices(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	uint8_t element = node->grad[0].element;
	struct est_tensor base = est_empty(tape, node->grad[0].numel, element), slice = est_grad_for(tape, node, 1, element);
	struct est_tensor zeros = est_needs(node, 0) ? est_grad_for(tape, node, 1, element) : est_none;

	ret[1] = slice;
	if (node->edge_element[1] != element) {
		ret[1] = est_grad_for(tape, node, 1, node->edge_element[1]);
		est_drop(tape, slice);
	}
	est_drop(tape, zeros);
	if (est_needs(node, 0))
		ret[0] = base;
	else
		est_drop(tape, base);
}
static const struct est_op copy_slices_op = { "CopySlices", backward_copy_slices };

struct est_tensor est_copy_into_slice(struct est_tape *tape, struct est_tensor base, struct est_tensor x,
					 uint64_t others)
{
	struct est_node *node = est_node_new(tape, &copy_slices_op, 2, (struct est_tensor[]){ base, x });
	struct est_tensor out = est_hold(est_output(tape, node, 0, base)), kept;

	if (node && others) {
		kept = est_empty(tape, others, EST_32BIT);
		est_save(tape, node, kept);
		est_drop(tape, kept);
	}
	est_finish(tape, x);
	return out;
}

struct est_tensor est_chunk_product(struct est_tape *tape, struct est_tensor a, struct est_tensor b, uint64_t numel)
{
	struct est_tensor in[2] = { est_hold(a), est_hold(b) };

	for (unsigned i = 2; i-- > 0;)
		in[i] = tape->autocast ? est_to(tape, in[i], EST_16BIT) : est_alias(tape, in[i]);
	for (unsigned i = 0; i < 2; i++)
		in[i] = est_reshape(tape, in[i]);
	return est_bmm(tape, in[0], in[1], numel);
}

struct est_tensor est_unsqueezed(struct est_tape *tape, struct est_tensor x)
{
	return est_reshape(tape, est_alias(tape, x));
}

struct est_tensor est_give_up(struct est_tensor x)
{
	x.temporary = true;
	return x;
}

struct est_tensor est_part(struct est_tape *tape, struct est_tensor x, uint64_t numel)
{
	return est_slice(tape, est_alias(tape, x), numel);
}
