/* liger_kernel 0.8.5: ops/fused_linear_cross_entropy.py, as transformers' models run it (lce_forward). */
#include "estimator/loss.h"

uint64_t est_liger_chunk(uint64_t positions, uint64_t vocabulary, uint64_t hidden)
{
	uint64_t factor = (vocabulary + hidden - 1) / hidden, wanted = (positions + factor - 1) / factor, chunk = 1;

	while (chunk < wanted)
		chunk *= 2;
	return chunk < positions ? chunk : positions;
}

/* The product's operands and what is made of them. */
struct head {
	struct est_tensor x, weight, grad_weight;
	uint64_t positions, vocabulary, hidden, chunk;
	bool with_gradient;
};

/* ---- the node: its gradients exist already */

static void backward_cross_entropy(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	for (unsigned i = 0; i < 3; i++) {
		ret[i] = est_saved_grad(tape, node, i);
		ret[i].view = i == 0;
	}
}
static const struct est_op cross_entropy_op = { "LigerFusedLinearCrossEntropy", backward_cross_entropy };

/* ---- a chunk of positions */

/* torch.mm(out=) where the operands have the dtype of the product as they are: only fp32 makes its weight gradient
 * beside */
static void run_in_place(struct est_tape *tape, const struct head *head)
{
	if (head->grad_weight.numel && head->weight.element == EST_32BIT)
		est_drop(tape, est_empty(tape, head->grad_weight.numel, EST_32BIT));
}

/* x.to(the product's dtype) */
static struct est_tensor cast_chunk(struct est_tape *tape, const struct head *head, uint64_t rows)
{
	return head->x.element != EST_16BIT ? est_empty(tape, rows * head->hidden, EST_16BIT) : est_none;
}

/* Under autocast: weight.t() is no leaf, so its cast is not kept; weight itself is cast once when it is trained */
static void run_cast(struct est_tape *tape, const struct head *head, uint64_t rows)
{
	bool casts = head->weight.element != EST_16BIT;
	struct est_tensor transposed = casts ? est_empty(tape, head->weight.numel, EST_16BIT) : est_none;
	struct est_tensor chunk = cast_chunk(tape, head, rows), logits, weight;

	logits = est_empty(tape, rows * head->vocabulary, EST_16BIT);
	est_drop(tape, chunk);
	est_drop(tape, transposed);
	if (head->with_gradient) {
		weight = est_autocast(tape, head->weight);
		est_drop(tape, est_empty(tape, rows * head->hidden, EST_16BIT));
		est_finish(tape, weight);
	}
	if (head->grad_weight.numel)
		est_drop(tape, cast_chunk(tape, head, rows));
	est_drop(tape, logits);
}

/* The first chunk, the second and the last: those between are like the second */
static void run_chunks(struct est_tape *tape, const struct head *head, bool in_place)
{
	uint64_t count = (head->positions + head->chunk - 1) / head->chunk;

	for (uint64_t i = 0; i < count; i = i >= 1 && i + 2 < count ? count - 1 : i + 1) {
		uint64_t rest = head->positions - i * head->chunk;

		if (in_place)
			run_in_place(tape, head);
		else
			run_cast(tape, head, rest < head->chunk ? rest : head->chunk);
	}
}

/* ---- all of them */

static bool multiplies_in_place(const struct est_tape *tape, const struct head *head)
{
	return head->x.element == head->weight.element && (!tape->autocast || head->x.element == EST_16BIT);
}

/* zeros_like(parameter) */
static struct est_tensor gradient_of(struct est_tape *tape, struct est_tensor parameter, bool wanted)
{
	return wanted ? est_empty_as(tape, parameter.numel, parameter.element, EST_GRADIENTS) : est_none;
}

/* LigerFusedLinearCrossEntropyFunction.apply: x is released when temporary */
static struct est_tensor cross_entropy(struct est_pass *pass, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	const struct est_linear *linear = &pass->lm_head;
	struct est_tensor in[3] = { x, est_leaf_tensor(tape, linear->weight), est_none }, grads[3], losses, mask,
			  buffer = est_none;
	struct head head = { .x = x,
			     .weight = in[1],
			     .positions = pass->tokens,
			     .vocabulary = linear->out,
			     .hidden = linear->in,
			     .chunk = est_liger_chunk(pass->tokens, linear->out, linear->in) };
	struct est_node *node;

	if (linear->has_bias)
		in[2] = est_leaf_tensor(tape, linear->bias);
	node = est_node_new(tape, &cross_entropy_op, 3, in);
	head.with_gradient = node && x.requires_grad;
	grads[0] = est_empty(tape, x.numel, x.element);
	grads[1] = head.grad_weight = gradient_of(tape, in[1], head.with_gradient && in[1].requires_grad);
	grads[2] = gradient_of(tape, in[2], head.with_gradient && in[2].requires_grad);
	losses = est_empty(tape, head.positions, EST_32BIT);
	mask = est_empty(tape, head.positions, EST_BYTE);
	if (multiplies_in_place(tape, &head))
		buffer = est_empty(tape, head.chunk * head.vocabulary, x.element);
	run_chunks(tape, &head, buffer.numel > 0);
	est_drop(tape, buffer);
	for (unsigned i = 0; i < 3; i++) {
		est_save(tape, node, grads[i]);
		est_drop(tape, grads[i]);
	}
	est_drop(tape, losses);
	est_drop(tape, mask);
	est_finish(tape, x);
	return est_output(tape, node, 0, est_empty(tape, 1, EST_32BIT));
}

static struct est_tensor shifted_cross_entropy(struct est_pass *pass, struct est_tensor hidden)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor padded = est_empty_as(tape, pass->batch * (pass->sequence + 1), EST_INT64, EST_BUFFERS);
	struct est_tensor shifted = est_empty_as(tape, pass->tokens, EST_INT64, EST_BUFFERS), loss;

	loss = cross_entropy(pass, est_reshape(tape, est_alias(tape, hidden)));
	est_drop(tape, padded);
	est_drop(tape, shifted);
	return loss;
}

struct est_tensor est_liger_loss(struct est_pass *pass, struct est_tensor hidden)
{
	return est_loss_at_once(pass, hidden, shifted_cross_entropy);
}
