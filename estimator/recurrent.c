#include "estimator/recurrent.h"
#include "estimator/kernels.h"

#include <assert.h>

struct est_tensor est_keep(struct est_variables *variables, struct est_tensor x)
{
	assert(variables->count < EST_VARIABLES);
	variables->tensor[variables->count++] = est_hold(x);
	return est_hold(x);
}

void est_variables_drop(struct est_tape *tape, const struct est_variables *variables)
{
	est_drop_all(tape, variables->tensor, variables->count);
}

/* ---- functions of one operand */

static const struct est_op exp_op = { "Exp", est_backward_one };
static const struct est_op log_op = { "Log", est_backward_one };
static const struct est_op softplus_op = { "Softplus", est_backward_one };
static const struct est_op neg_op = { "Neg", est_backward_one };
static const struct est_op masked_fill_op = { "MaskedFill", est_backward_one };
static const struct est_op pad_op = { "ConstantPad", est_backward_one };
static const struct est_op repeat_op = { "RepeatInterleave", est_backward_one };

static struct est_tensor in_fp32(struct est_tape *tape, struct est_tensor x)
{
	return tape->autocast ? est_to(tape, x, EST_32BIT) : x;
}

struct est_tensor est_exp(struct est_tape *tape, struct est_tensor x)
{
	return est_unary(tape, &exp_op, in_fp32(tape, x), false, true, x.numel);
}

struct est_tensor est_log(struct est_tape *tape, struct est_tensor x)
{
	return est_unary(tape, &log_op, in_fp32(tape, x), true, false, x.numel);
}

/* grad / (2 * result) */
static void backward_sqrt(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	struct est_tensor twice = est_grad_for(tape, node, 0, node->grad[0].element);

	ret[0] = est_grad_for(tape, node, 0, node->grad[0].element);
	est_drop(tape, twice);
}
static const struct est_op sqrt_op = { "Sqrt", backward_sqrt };

struct est_tensor est_sqrt(struct est_tape *tape, struct est_tensor x)
{
	return est_unary(tape, &sqrt_op, x, false, true, x.numel);
}

/* where(condition, grad, 0) and its opposite, each with its 0 as a tensor */
static void backward_where(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	for (unsigned i = 2; i-- > 0;) {
		struct est_tensor zero = est_empty(tape, 1, node->grad[0].element);

		if (est_needs(node, i))
			ret[i] = est_grad_for(tape, node, i, node->grad[0].element);
		est_drop(tape, zero);
	}
}
static const struct est_op where_op = { "Where", backward_where };

struct est_tensor est_where_both(struct est_tape *tape, struct est_tensor condition, struct est_tensor a, struct est_tensor b)
{
	struct est_node *node = est_node_new(tape, &where_op, 2, (struct est_tensor[]){ a, b });
	struct est_tensor out;

	est_save(tape, node, condition);
	out = est_output(tape, node, 0, est_empty(tape, a.numel, a.element));
	est_finish(tape, a);
	est_finish(tape, b);
	est_finish(tape, condition);
	return out;
}

struct est_tensor est_softplus(struct est_tape *tape, struct est_tensor x)
{
	return est_unary(tape, &softplus_op, in_fp32(tape, x), true, false, x.numel);
}

struct est_tensor est_neg(struct est_tape *tape, struct est_tensor x)
{
	return est_unary(tape, &neg_op, x, false, false, x.numel);
}

struct est_tensor est_pad(struct est_tape *tape, struct est_tensor x, uint64_t numel)
{
	return est_unary(tape, &pad_op, x, false, false, numel);
}

struct est_tensor est_repeat_interleave(struct est_tape *tape, struct est_tensor x, uint64_t n)
{
	return est_unary(tape, &repeat_op, x, false, false, n * x.numel);
}

struct est_tensor est_expand(struct est_tape *tape, struct est_tensor x, uint64_t n)
{
	return est_repeat_kv(tape, x, n, true);
}

struct est_tensor est_permuted_copy(struct est_tape *tape, struct est_tensor x)
{
	return est_contiguous(tape, est_reshape(tape, est_alias(tape, x)));
}

static const struct est_op padding_op = { "MaskPadding", est_backward_one };

struct est_tensor est_without_padding(struct est_pass *pass, struct est_tensor x)
{
	return pass->request->attention_mask ? est_unary(pass->tape, &padding_op, x, false, false, x.numel) : x;
}

/* extra[0]: bounds */
static void backward_clamp(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	struct est_tensor within[2] = { { 0 } };

	for (unsigned i = 0; i < node->extra[0]; i++)
		within[i] = est_empty(tape, node->edge_numel[0], EST_BYTE);
	ret[0] = est_grad_for(tape, node, 0, node->grad[0].element);
	est_drop(tape, within[1]);
	est_drop(tape, within[0]);
}
static const struct est_op clamp_op = { "Clamp", backward_clamp };

struct est_tensor est_clamp(struct est_tape *tape, struct est_tensor x, unsigned bounds)
{
	struct est_node *node = est_node_new(tape, &clamp_op, 1, &x);
	struct est_tensor out;

	if (node)
		node->extra[0] = bounds;
	est_save(tape, node, x);
	out = est_output(tape, node, 0, est_empty(tape, x.numel, x.element));
	est_finish(tape, x);
	return out;
}

struct est_tensor est_sum_last(struct est_tape *tape, struct est_tensor x, uint64_t rows)
{
	return est_sum_to(tape, x, rows, x.element);
}

/* the subtrahend's gradient is negated first; the engine sums both */
static void backward_sub_outer(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	ret[1] = est_empty(tape, node->grad[0].numel, node->grad[0].element);
	ret[0] = est_hold(est_alias(tape, node->grad[0]));
}
static const struct est_op sub_outer_op = { "Sub", backward_sub_outer };

struct est_tensor est_sub_outer(struct est_tape *tape, struct est_tensor a, struct est_tensor b, uint64_t numel)
{
	struct est_node *node = est_node_new(tape, &sub_outer_op, 2, (struct est_tensor[]){ a, b });

	return est_output(tape, node, 0, est_empty(tape, numel, a.element));
}

/* grad.flip().cumsum().flip() */
static void backward_cumsum(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	uint8_t element = node->grad[0].element;
	struct est_tensor flipped = est_grad_for(tape, node, 0, element), sums = est_grad_for(tape, node, 0, element);

	ret[0] = est_grad_for(tape, node, 0, element);
	est_drop(tape, sums);
	est_drop(tape, flipped);
}
static const struct est_op cumsum_op = { "Cumsum", backward_cumsum };

struct est_tensor est_cumsum(struct est_tape *tape, struct est_tensor x)
{
	return est_unary(tape, &cumsum_op, in_fp32(tape, x), false, false, x.numel);
}

struct est_tensor est_masked_fill(struct est_tape *tape, struct est_tensor x, struct est_tensor mask)
{
	struct est_node *node = est_node_new(tape, &masked_fill_op, 1, &x);
	struct est_tensor out;

	est_save(tape, node, mask);
	out = est_output(tape, node, 0, est_empty(tape, x.numel, x.element));
	est_finish(tape, x);
	est_finish(tape, mask);
	return out;
}

/* ---- convolution */

/* Convolution.cpp copies a permuted input before it takes it for an image of one row, in the backward again;
 * DepthwiseConv2d.cu makes the weight's gradient first. The bias' is a sum. */
static void backward_conv(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	struct est_tensor input = est_empty(tape, node->edge_numel[0], node->grad[0].element);

	for (unsigned i = 0; i < 3; i++) {
		unsigned k = i == 2 ? 2 : 1 - i;

		if (est_needs(node, k))
			ret[k] = est_grad_for(tape, node, k, node->grad[0].element);
	}
	ret[1].view = true;
	est_drop(tape, input);
}
static const struct est_op conv_op = { "Convolution", backward_conv };

/* The weight is a view of its parameter: autocast's cast of it is not cached. */
static struct est_tensor cast(struct est_tape *tape, struct est_tensor x)
{
	return tape->autocast ? est_to(tape, x, EST_16BIT) : x;
}

struct est_tensor est_causal_conv(struct est_pass *pass, const struct est_mixer *mixer, struct est_tensor x,
				  bool activates)
{
	struct est_tape *tape = pass->tape;
	uint64_t kernel = (uint64_t)pass->model->conv_kernel,
		padded = x.numel / pass->sequence * (pass->sequence + kernel - 1);
	struct est_tensor in[3] = { x, est_leaf_tensor(tape, mixer->conv_weight), est_none }, out, copy;
	uint8_t element = x.element;
	struct est_node *node;

	if (pass->request->versions.causal_conv1d)
		return est_kernel_conv(tape, mixer, x);
	x = est_hold(est_to(tape, est_hold(x), in[1].element)); /* hidden_states.to(weight.dtype) */
	if (mixer->conv_bias != EST_NO_LEAF)
		in[2] = est_autocast(tape, est_leaf_tensor(tape, mixer->conv_bias));
	in[1] = cast(tape, in[1]);
	in[0] = cast(tape, x);
	node = est_node_new(tape, &conv_op, 3, in);
	est_save(tape, node, in[0]);
	est_save(tape, node, in[1]);
	copy = est_empty(tape, x.numel, in[0].element);
	out = est_output(tape, node, 0, est_empty(tape, padded, in[0].element));
	est_drop(tape, copy);
	for (unsigned i = 0; i < 3; i++)
		est_finish(tape, in[i]);
	est_drop(tape, x);
	out = est_slice(tape, out, x.numel);
	return est_to(tape, activates ? est_silu(tape, out) : out, element);
}
