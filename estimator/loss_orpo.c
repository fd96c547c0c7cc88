/* trl 1.16's experimental ORPOTrainer: whole logits, used twice: the chosen ones' cross entropy, log-probabilities
 * of all. */
#include "estimator/loss.h"

/* trl/kernels/logprob_entropy.py: keeps the logits; their gradient is another tensor of their size */
static const struct est_op log_prob_op = { "LogProbEntropy", est_backward_like_input };

/* selective_log_softmax_and_entropy: logits and labels are borrowed */
static struct est_tensor log_probabilities(struct est_tape *tape, struct est_tensor logits, struct est_tensor labels)
{
	struct est_node *node = est_node_new(tape, &log_prob_op, 1, &logits);
	struct est_tensor vectors[3]; /* log-probabilities, log-sum-exp, entropy */

	for (unsigned i = 0; i < 3; i++)
		vectors[i] = est_empty(tape, labels.numel, EST_32BIT);
	est_save(tape, node, logits);
	est_save(tape, node, labels);
	est_save(tape, node, vectors[1]);
	est_save(tape, node, vectors[2]);
	est_drop(tape, vectors[1]);
	est_drop(tape, vectors[2]);
	return est_output(tape, node, 0, vectors[0]);
}

/* logits[:chosen, :-1].contiguous(), which copies nothing of one sequence alone, and the cross entropy of its words */
static struct est_tensor chosen_loss(struct est_pass *pass, struct est_tensor logits)
{
	struct est_tape *tape = pass->tape;
	uint64_t vocabulary = pass->lm_head.out, positions = est_shifted_positions(pass) / 2;
	struct est_tensor chosen, labels, loss;

	chosen = est_slice(tape, est_slice(tape, est_alias(tape, logits), logits.numel / 2), positions * vocabulary);
	chosen = est_hold(pass->batch > 2 ? est_contiguous(tape, chosen) : chosen);
	labels = est_empty_as(tape, positions, EST_INT64, EST_BUFFERS);
	loss = est_cross_entropy(tape, chosen, labels);
	est_drop(tape, labels);
	est_drop(tape, chosen);
	return loss;
}

struct est_tensor est_orpo_loss(struct est_pass *pass, struct est_tensor hidden)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor logits = est_full_logits(pass, hidden), labels, shifted, nll, loss;

	labels = est_empty_as(tape, pass->tokens, EST_INT64, EST_BUFFERS);
	nll = chosen_loss(pass, logits);
	shifted = est_empty_as(tape, est_shifted_positions(pass), EST_INT64, EST_BUFFERS);
	loss = est_hold(est_slice(tape, est_alias(tape, logits), est_shifted_positions(pass) * pass->lm_head.out));
	hidden = est_mul_scalar(tape, log_probabilities(tape, loss, shifted));
	est_drop(tape, loss);
	loss = est_hold(est_add(tape, nll, est_sum(tape, hidden)));
	est_drop(tape, shifted);
	est_drop(tape, labels);
	est_drop(tape, logits);
	return loss;
}
