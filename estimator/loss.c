#include "estimator/loss.h"
#include "estimator/architecture.h"
#include "estimator/compile.h"
#include "estimator/generation.h"
#include "estimator/litgpt.h"
#include "estimator/torchtune.h"
#include "estimator/unsloth.h"
#include "estimator/zero3.h"

/* The head's input: its gradient is the end of the loss's backward. */
static void backward_mark(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	ret[0] = est_take_grad(node, 0);
	est_mark(tape, EST_PHASE_BACKWARD);
}
static const struct est_op mark_op = { "HeadInput", backward_mark };

struct est_tensor est_head_input(struct est_tape *tape, struct est_tensor x)
{
	struct est_node *node = est_node_new(tape, &mark_op, 1, &x);

	if (!tape->no_grad)
		est_mark(tape, EST_PHASE_LOSS_FORWARD);
	return est_output(tape, node, 0, x);
}

void est_read_head(const struct est_pass *pass)
{
	if (pass->schedule && pass->schedule->zero3)
		est_zero3_read(pass->schedule->zero3, pass->lm_head.module);
}

struct est_tensor est_loss_at_once(struct est_pass *pass, struct est_tensor hidden,
				   struct est_tensor (*make)(struct est_pass *pass, struct est_tensor hidden))
{
	struct est_tensor loss;

	hidden = est_hold(est_head_input(pass->tape, hidden));
	est_read_head(pass);
	loss = est_hold(make(pass, hidden));
	est_drop(pass->tape, hidden);
	est_autocast_exit(pass->tape);
	return loss;
}

struct est_tensor est_sum(struct est_tape *tape, struct est_tensor x)
{
	return est_sum_to(tape, x, 1, EST_32BIT);
}

uint64_t est_labelled_positions(const struct est_pass *pass)
{
	uint64_t shifted = est_shifted_positions(pass),
		 labelled = (uint64_t)((double)pass->tokens * pass->request->completion_fraction);

	if (labelled > shifted)
		return shifted;
	return labelled ? labelled : 1;
}

uint64_t est_shifted_positions(const struct est_pass *pass)
{
	return pass->batch * (pass->sequence > 1 ? pass->sequence - 1 : 1);
}

/* nll_loss_backward and _log_softmax_backward_data: a tensor of the logits' size and dtype each */
static const struct est_op log_softmax_op = { "LogSoftmax", est_backward_like_input };
static const struct est_op nll_loss_op = { "NllLoss", est_backward_like_input };

/* log_softmax keeps its result, nll_loss the same tensor, which autocast makes fp32, and the labels */
struct est_tensor est_cross_entropy(struct est_tape *tape, struct est_tensor logits, struct est_tensor labels)
{
	struct est_node *node = est_node_new(tape, &log_softmax_op, 1, &logits);
	struct est_tensor log_probabilities = est_empty(tape, logits.numel, logits.element), input, loss, total_weight;

	est_save(tape, node, log_probabilities);
	log_probabilities = est_hold(est_output(tape, node, 0, log_probabilities));
	input = est_hold(est_to(tape, log_probabilities, tape->autocast ? EST_32BIT : logits.element));
	node = est_node_new(tape, &nll_loss_op, 1, &input);
	est_save(tape, node, input);
	est_save(tape, node, labels);
	loss = est_empty(tape, 1, EST_32BIT);
	total_weight = est_empty(tape, 1, EST_32BIT);
	est_save(tape, node, total_weight);
	est_drop(tape, total_weight);
	est_drop(tape, input);
	est_drop(tape, log_probabilities);
	return est_output(tape, node, 0, loss);
}

/* ForCausalLMLoss: logits.float(), labels shifted by padding, cross entropy over all positions */
static struct est_tensor for_causal_lm_loss(struct est_pass *pass, struct est_tensor logits)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor logits32 = est_hold(est_to(tape, logits, EST_32BIT)), padded, shifted, loss;

	padded = est_buffer(tape, pass->batch * (pass->sequence + 1), EST_INT64);
	shifted = est_buffer(tape, pass->tokens, EST_INT64);
	loss = est_hold(est_cross_entropy(tape, logits32, shifted));
	est_drop(tape, logits32);
	est_drop(tape, padded);
	est_drop(tape, shifted);
	return loss;
}

/* The same to 4.48: logits[..., :-1, :].contiguous(), which copies nothing of one sequence alone, and labels[...,
 * 1:]. Some classes do not cast them. */
static struct est_tensor shifted_logits_loss(struct est_pass *pass, struct est_tensor logits)
{
	struct est_tape *tape = pass->tape;
	const uint64_t positions = est_shifted_positions(pass);
	bool copies = pass->batch > 1, casts = !est_shifts_uncast(&pass->request->versions, pass->model);
	struct est_tensor whole = est_hold(casts ? est_to(tape, logits, EST_32BIT) : est_alias(tape, logits));
	struct est_tensor shifted = est_slice(tape, est_alias(tape, whole), logits.numel / pass->tokens * positions),
		labels, loss;

	shifted = est_hold(copies ? est_contiguous(tape, shifted) : shifted);
	/* the batch's own labels, of which nothing is kept otherwise: as large as its input_ids */
	labels = copies ? est_buffer(tape, positions, EST_INT64) : pass->input_ids;
	loss = est_hold(est_cross_entropy(tape, shifted, labels));
	est_drop(tape, whole);
	est_drop(tape, shifted);
	if (copies)
		est_drop(tape, labels);
	return loss;
}

/* torch.compile(cross_entropy): the logits as they are, their maxima and the logarithms of sums; no copy in fp32 */
static const struct est_op compiled_loss_op = { "CompiledCrossEntropy", est_backward_like_input };

static struct est_tensor compiled_loss(struct est_pass *pass, struct est_tensor logits)
{
	struct est_tape *tape = pass->tape;
	struct est_node *node = est_node_new(tape, &compiled_loss_op, 1, &logits);
	struct est_tensor statistics[2], total_weight;

	est_save(tape, node, logits);
	for (unsigned i = 0; i < 2; i++) {
		statistics[i] = est_empty(tape, pass->tokens, EST_32BIT);
		est_save(tape, node, statistics[i]);
		est_drop(tape, statistics[i]);
	}
	total_weight = est_empty(tape, 1, EST_32BIT);
	est_save(tape, node, total_weight);
	est_drop(tape, total_weight);
	return est_hold(est_output(tape, node, 0, est_empty(tape, 1, EST_32BIT)));
}

/* lm_head(hidden), of all positions and words; hidden is borrowed */
static struct est_tensor head(struct est_pass *pass, struct est_tensor hidden)
{
	struct est_tensor whole, logits;

	if (pass->tensor.ranks <= 1)
		return est_linear(pass->tape, &pass->lm_head, hidden);
	whole = est_hold(est_sequence_gather(pass->tape, &pass->tensor, hidden));
	logits = est_linear(pass->tape, &pass->lm_head, whole);
	logits = est_vocabulary_gather(pass->tape, &pass->tensor, logits);
	est_drop(pass->tape, whole);
	return logits;
}

static struct est_tensor scaled_logits(struct est_pass *pass, struct est_tensor logits)
{
	const struct est_model *model = pass->model;

	if (model->logits_scaling != 0)
		logits = est_mul_scalar(pass->tape, logits);
	if (model->final_logit_softcapping != 0)
		logits = est_mul_scalar(pass->tape, est_tanh(pass->tape, est_mul_scalar(pass->tape, logits)));
	if (est_architecture_row(model->architecture)->fp32_logits)
		logits = est_to(pass->tape, logits, EST_32BIT);
	return est_hold(logits);
}

/* lm_head(hidden), which Mamba-2 casts to the head's dtype first; hidden is borrowed, the result is held */
static struct est_tensor logits_of(struct est_pass *pass, struct est_tensor hidden)
{
	if (pass->model->architecture == EST_ARCH_MAMBA2)
		hidden = est_to(pass->tape, hidden, est_leaf_tensor(pass->tape, pass->lm_head.weight).element);
	return scaled_logits(pass, head(pass, hidden));
}

/* FSDP2's own cast of what the root returns, when its last gather has been waited for. logits move in and out */
static struct est_tensor cast_by_policy(struct est_pass *pass, struct est_tensor logits)
{
	struct est_tensor out;

	if (!est_schedule_casts_outputs(pass->schedule))
		return logits;
	out = est_hold(est_to(pass->tape, logits, EST_16BIT));
	est_schedule_forward_end(pass->schedule);
	est_drop(pass->tape, logits);
	return out;
}

/* The end of the model's forward; accelerate's convert_outputs_to_fp32 after it. logits move in and out */
static struct est_tensor leave_forward(struct est_pass *pass, struct est_tensor logits)
{
	bool autocast = pass->tape->autocast;
	struct est_tensor logits32;

	est_autocast_exit(pass->tape);
	if (!autocast || !pass->request->outputs_to_fp32)
		return logits;
	logits32 = est_hold(est_to(pass->tape, logits, EST_32BIT));
	est_drop(pass->tape, logits);
	return cast_by_policy(pass, logits32);
}

struct est_tensor est_causal_lm_loss(struct est_pass *pass, struct est_tensor hidden)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor logits, loss;

	hidden = est_hold(est_head_input(tape, hidden));
	logits = logits_of(pass, hidden);
	if (pass->schedule && !pass->schedule->leaves_at_loss)
		logits = est_hold(est_schedule_leave(pass->schedule, est_unit_of_output(pass->schedule), logits));
	est_pass_give(pass, logits);
	if (pass->tensor.splits_loss) { /* the loss is not the model's: its forward has returned */
		est_drop(tape, hidden);
		est_schedule_forward_end(pass->schedule);
		hidden = est_none;
	}
	if (est_compiles_loss(pass->request))
		loss = compiled_loss(pass, logits);
	else if (pass->tensor.splits_loss)
		loss = est_parallel_loss(pass, logits);
	else
		loss = est_shifts_logits(&pass->request->versions) ? shifted_logits_loss(pass, logits)
								    : for_causal_lm_loss(pass, logits);
	est_drop(tape, hidden);
	est_drop(tape, leave_forward(pass, logits));
	return loss;
}

struct est_tensor est_full_logits(struct est_pass *pass, struct est_tensor hidden)
{
	struct est_tensor logits;

	hidden = est_hold(est_head_input(pass->tape, hidden));
	logits = logits_of(pass, hidden);
	est_drop(pass->tape, hidden);
	if (pass->schedule && !pass->schedule->leaves_at_loss)
		logits = est_pass_leave(pass, logits);
	logits = leave_forward(pass, logits);
	est_schedule_forward_end(pass->schedule);
	return logits;
}

struct est_tensor est_loss(struct est_pass *pass, struct est_tensor hidden)
{
	static struct est_tensor (*const losses[])(struct est_pass *, struct est_tensor) = {
		[EST_LOSS_STANDARD] = est_causal_lm_loss,
		[EST_LOSS_CHUNKED] = est_chunked_loss,
		[EST_LOSS_LIGER] = est_liger_loss,
		[EST_LOSS_CUT_CROSS_ENTROPY] = est_cut_loss,
		[EST_LOSS_VOCAB_PARALLEL] = est_causal_lm_loss,
	};

	if (est_unsloth_wanted(pass->request))
		return est_unsloth_loss(pass, hidden);
	if (pass->request->loss == EST_LOSS_CHUNKED && pass->request->framework == EST_TORCHTITAN)
		return est_vocabulary_loss(pass, hidden);
	if (pass->model->architecture == EST_ARCH_LITGPT)
		return est_litgpt_loss(pass, hidden);
	if (pass->model->architecture == EST_ARCH_TORCHTUNE)
		return est_torchtune_loss(pass, hidden);
	return losses[pass->request->loss](pass, hidden);
}
