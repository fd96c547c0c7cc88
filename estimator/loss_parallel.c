/* torch.distributed.tensor.parallel.loss_parallel(): log_softmax and nll_loss in fp32 over a rank's part of the
 * vocabulary, by python operators. Read in torch 2.13 (loss.py). */
#include "estimator/loss.h"

/* grad_input of zeros, with -1 at the labels, then (grad_input + exp(x)) * grad_output: the gradient of
 * log_softmax's input at once. Variables of positions: the labels, those of this rank's words, what is put there,
 * where, and grad_output. extra[0]: positions */
static void backward_nll_loss(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	static const uint8_t elements[] = { EST_INT64, EST_INT64, EST_32BIT, EST_INT64, EST_32BIT };
	enum { COUNT = sizeof(elements) / sizeof(elements[0]) };
	uint64_t numel = node->edge_numel[0];
	struct est_tensor variables[COUNT], zeros, exp, sum;

	variables[0] = est_empty_as(tape, node->extra[0], elements[0], EST_BUFFERS);
	zeros = est_empty(tape, numel, EST_32BIT);
	for (unsigned i = 1; i < COUNT; i++)
		variables[i] = est_empty_as(tape, node->extra[0], elements[i], EST_BUFFERS);
	exp = est_empty(tape, numel, EST_32BIT);
	sum = est_empty(tape, numel, EST_32BIT);
	est_drop(tape, exp);
	ret[0] = est_variable(tape, numel, EST_32BIT);
	est_drop(tape, sum);
	est_drop(tape, zeros);
	est_drop_all(tape, variables, COUNT);
}
static const struct est_op nll_loss_op = { "ParallelNllLoss", backward_nll_loss };

static const struct est_op log_softmax_op = { "ParallelLogSoftmax", est_backward_pass };

/* shifted = x - max; shifted - log(sum(exp(shifted))), which is kept. logits are released when temporary. */
static struct est_tensor log_softmax(struct est_tape *tape, struct est_tensor logits32)
{
	struct est_node *node = est_node_new(tape, &log_softmax_op, 1, &logits32);
	struct est_tensor shifted = est_empty(tape, logits32.numel, EST_32BIT), out;

	est_drop(tape, est_empty(tape, logits32.numel, EST_32BIT)); /* exp(shifted) */
	out = est_empty(tape, logits32.numel, EST_32BIT);
	est_drop(tape, shifted);
	est_save(tape, node, out);
	return est_output(tape, node, 0, out);
}

struct est_tensor est_parallel_loss(struct est_pass *pass, struct est_tensor logits)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor logits32 = est_hold(est_to(tape, logits, EST_32BIT)), labels, out, loss;
	struct est_node *node;

	labels = est_buffer(tape, pass->tokens, EST_INT64);
	out = est_hold(log_softmax(tape, logits32));
	node = est_node_new(tape, &nll_loss_op, 1, &out);
	est_save(tape, node, out);
	est_save(tape, node, labels);
	if (node)
		node->extra[0] = pass->tokens;
	loss = est_hold(est_output(tape, node, 0, est_empty(tape, 1, EST_32BIT)));
	est_drop(tape, out);
	est_drop(tape, logits32);
	est_drop(tape, labels);
	return loss;
}
