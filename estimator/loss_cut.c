/* Apple's cut cross entropy (cut_cross_entropy/cce.py, cce_lse_forward.py, cce_backward.py), as patched into
 * transformers' models: from its source; no trace of it has been held against this. */
#include "estimator/loss.h"

/* A lock for each tile of 128 rows and 64 columns */
static struct est_tensor locks(struct est_tape *tape, uint64_t rows, uint64_t columns)
{
	return est_empty_as(tape, (rows + 127) / 128 * ((columns + 63) / 64), 4, EST_BUFFERS);
}

/* inputs e, c, bias; extra[0]: labelled positions. accum_e_fp32 and accum_c_fp32 are off: gradients accumulate in
 * their own dtype. */
static void backward_cut(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	uint64_t vocabulary = node->extra[1], width = node->extra[2];
	struct est_tensor order = est_empty_as(tape, vocabulary, EST_INT64, EST_BUFFERS), small, locked[2];

	small = est_empty_as(tape, vocabulary, 4, EST_BUFFERS);
	est_drop(tape, order);
	for (unsigned i = 0; i < 3; i++)
		if (est_needs(node, i))
			ret[i] = est_grad_for(tape, node, i, node->edge_element[i]);
	locked[0] = est_needs(node, 0) ? locks(tape, node->extra[0], width) : est_none;
	locked[1] = est_needs(node, 1) ? locks(tape, vocabulary, width) : est_none;
	est_drop(tape, locked[0]);
	est_drop(tape, locked[1]);
	est_drop(tape, small);
}
static const struct est_op cut_op = { "LinearCrossEntropy", backward_cut };

/* Indices of the labelled positions: nonzero's 64 bits, then 32 */
static struct est_tensor flat_valids(struct est_tape *tape, uint64_t positions)
{
	struct est_tensor wide = est_empty_as(tape, positions, EST_INT64, EST_BUFFERS);
	struct est_tensor narrow = est_empty_as(tape, positions, 4, EST_BUFFERS);

	est_drop(tape, wide);
	return narrow;
}

/* e is released when temporary */
static struct est_tensor cut(struct est_pass *pass, struct est_tensor e)
{
	struct est_tape *tape = pass->tape;
	const struct est_linear *head = &pass->lm_head;
	uint64_t positions = est_labelled_positions(pass);
	struct est_tensor in[3] = { e, est_autocast(tape, est_leaf_tensor(tape, head->weight)), est_none }, saved[3],
			  losses;
	struct est_node *node;

	if (head->has_bias)
		in[2] = est_leaf_tensor(tape, head->bias);
	in[0] = est_autocast(tape, e);
	node = est_node_new(tape, &cut_op, 3, in);
	saved[0] = flat_valids(tape, positions);
	saved[1] = est_empty(tape, positions, EST_32BIT); /* log-sum-exp */
	saved[2] = node ? est_empty(tape, head->out, EST_32BIT)
			: est_none; /* mean logit of each word: the order of the backward */
	losses = est_empty(tape, positions, EST_32BIT);
	for (unsigned i = 0; node && i < 3; i++) {
		if (in[i].numel)
			est_save(tape, node, in[i]);
		est_save(tape, node, saved[i]);
	}
	if (node) {
		node->extra[0] = positions;
		node->extra[1] = head->out;
		node->extra[2] = head->in;
	}
	for (unsigned i = 0; i < 3; i++) {
		est_drop(tape, saved[i]);
		est_finish(tape, in[i]);
	}
	est_drop(tape, losses);
	return est_output(tape, node, 0, est_empty(tape, 1, EST_32BIT));
}

struct est_tensor est_cut_loss(struct est_pass *pass, struct est_tensor hidden)
{
	return est_loss_at_once(pass, hidden, cut);
}
