/* Elementwise operators and reductions. */
#include "estimator/ops.h"

/* ---- backwards that many operators share */

void est_backward_one(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	ret[0] = est_grad_for(tape, node, 0, node->grad[0].element);
}

void est_backward_view(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	est_backward_one(tape, node, ret);
	ret[0].view = true;
}

void est_backward_like_input(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	ret[0] = est_grad_for(tape, node, 0, node->edge_element[0]);
}

void est_backward_pass(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	(void)tape;
	ret[0] = est_take_grad(node, 0);
}

void est_backward_pass_view(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	est_backward_pass(tape, node, ret);
	ret[0].view = true;
}

void est_backward_products(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	for (unsigned i = 2; i-- > 0;)
		if (est_needs(node, i))
			ret[i] = est_grad_for(tape, node, i, node->grad[0].element);
}

struct est_tensor est_saved_grad(struct est_tape *tape, const struct est_node *node, unsigned i)
{
	if (!est_needs(node, i))
		return est_none;
	est_storage_retain(tape, node->saved[i]);
	return (struct est_tensor){ .storage = node->saved[i], .numel = node->edge_numel[i],
				    .element = node->edge_element[i] };
}

/* ---- casts, sums, products */

static const struct est_op to_op = { "ToCopy", est_backward_like_input };

struct est_tensor est_to(struct est_tape *tape, struct est_tensor x, uint8_t element)
{
	struct est_node *node;
	struct est_tensor out;

	if (x.element == element)
		return x.temporary ? x : est_alias(tape, x);
	node = est_node_new(tape, &to_op, 1, &x);
	out = est_output(tape, node, 0, est_empty(tape, x.numel, element));
	est_finish(tape, x);
	return out;
}

static void backward_add(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	struct est_tensor grad = est_take_grad(node, 0);

	if (est_needs(node, 0) && est_needs(node, 1))
		ret[1] = est_hold(est_alias(tape, grad));
	ret[est_needs(node, 0) ? 0 : 1] = grad;
}
static const struct est_op add_op = { "Add", backward_add };

static uint8_t promoted(struct est_tensor a, struct est_tensor b)
{
	uint8_t larger = a.element > b.element ? a.element : b.element;

	return a.element != b.element && larger == EST_OTHER_16BIT ? EST_32BIT : larger;
}

static struct est_tensor binary_output(struct est_tape *tape, struct est_node *node, struct est_tensor a,
				       struct est_tensor b)
{
	struct est_tensor out = est_empty(tape, a.numel > b.numel ? a.numel : b.numel, promoted(a, b));

	out = est_output(tape, node, 0, out);
	est_finish(tape, a);
	est_finish(tape, b);
	return out;
}

struct est_tensor est_add(struct est_tape *tape, struct est_tensor a, struct est_tensor b)
{
	struct est_node *node = est_node_new(tape, &add_op, 2, (struct est_tensor[]){ a, b });

	return binary_output(tape, node, a, b);
}

/* extra[0]: elements of the output; extra[1], extra[2]: bytes of an element of grad * b, grad * a */
static void backward_mul(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	for (unsigned i = 2; i-- > 0;) {
		bool broadcast = node->edge_numel[i] != node->extra[0]; /* then summed by the engine */
		uint8_t element = (uint8_t)node->extra[1 + i];

		if (est_needs(node, i))
			ret[i] = broadcast ? est_empty(tape, node->extra[0], element) : est_grad_for(tape, node, i, element);
	}
}
static const struct est_op mul_op = { "Mul", backward_mul };

struct est_tensor est_add_in_place(struct est_tape *tape, struct est_tensor a, struct est_tensor b)
{
	struct est_node *node = est_node_new(tape, &add_op, 2, (struct est_tensor[]){ a, b });
	struct est_tensor out = est_output(tape, node, 0, est_detach(tape, a));

	est_finish(tape, a);
	est_finish(tape, b);
	return out;
}

struct est_tensor est_mul_outer(struct est_tape *tape, struct est_tensor a, struct est_tensor b, uint64_t numel)
{
	struct est_node *node = est_node_new(tape, &mul_op, 2, (struct est_tensor[]){ a, b });
	struct est_tensor out;

	if (node && b.requires_grad)
		est_save(tape, node, a);
	if (node && a.requires_grad)
		est_save(tape, node, b);
	if (node) {
		node->extra[0] = numel;
		node->extra[1] = node->extra[2] = promoted(a, b);
	}
	out = est_output(tape, node, 0, est_empty(tape, numel, promoted(a, b)));
	est_finish(tape, a);
	est_finish(tape, b);
	return out;
}

struct est_tensor est_mul(struct est_tape *tape, struct est_tensor a, struct est_tensor b)
{
	return est_mul_outer(tape, a, b, a.numel > b.numel ? a.numel : b.numel);
}

/* extra[0]: elements of the output. The subtrahend's gradient is negated first */
static void backward_sub(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	if (est_needs(node, 1))
		ret[1] = est_empty(tape, node->extra[0], node->grad[0].element);
	if (est_needs(node, 0))
		ret[0] = est_take_grad(node, 0);
}
static const struct est_op sub_op = { "Sub", backward_sub };

struct est_tensor est_sub(struct est_tape *tape, struct est_tensor a, struct est_tensor b)
{
	struct est_node *node = est_node_new(tape, &sub_op, 2, (struct est_tensor[]){ a, b });

	if (node)
		node->extra[0] = a.numel > b.numel ? a.numel : b.numel;
	return binary_output(tape, node, a, b);
}

/* ---- functions of one operand */

struct est_tensor est_unary(struct est_tape *tape, const struct est_op *op, struct est_tensor x, bool keeps_input,
			    bool keeps_result, uint64_t numel)
{
	struct est_node *node = est_node_new(tape, op, 1, &x);
	struct est_tensor out;

	if (keeps_input)
		est_save(tape, node, x);
	out = est_empty(tape, numel, x.element);
	if (keeps_result)
		est_save(tape, node, out);
	est_finish(tape, x);
	return est_output(tape, node, 0, out);
}

static const struct est_op pass_op = { "AddScalar", est_backward_pass };

struct est_tensor est_add_scalar(struct est_tape *tape, struct est_tensor x)
{
	return est_unary(tape, &pass_op, x, false, false, x.numel);
}

static const struct est_op scale_op = { "MulScalar", est_backward_one };
static const struct est_op mean_op = { "Mean", est_backward_one };
static const struct est_op silu_op = { "Silu", est_backward_one };
static const struct est_op gelu_op = { "Gelu", est_backward_one };
static const struct est_op relu_op = { "Relu", est_backward_one };
static const struct est_op tanh_op = { "Tanh", est_backward_one };

struct est_tensor est_mul_scalar(struct est_tape *tape, struct est_tensor x)
{
	return est_unary(tape, &scale_op, x, false, false, x.numel);
}

struct est_tensor est_mean(struct est_tape *tape, struct est_tensor x, uint64_t rows)
{
	return est_unary(tape, &mean_op, x, false, false, rows);
}

/* The gradient of each element is its sum's: expanded, a view. */
static void backward_sum(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	est_backward_pass_view(tape, node, ret);
	ret[0].numel = node->edge_numel[0];
}
static const struct est_op sum_op = { "Sum", backward_sum };

struct est_tensor est_sum_to(struct est_tape *tape, struct est_tensor x, uint64_t numel, uint8_t element)
{
	struct est_node *node = est_node_new(tape, &sum_op, 1, &x);
	struct est_tensor out = est_output(tape, node, 0, est_empty(tape, numel, element));

	est_finish(tape, x);
	return out;
}

struct est_tensor est_silu(struct est_tape *tape, struct est_tensor x)
{
	return est_unary(tape, &silu_op, x, true, false, x.numel);
}

struct est_tensor est_gelu(struct est_tape *tape, struct est_tensor x)
{
	return est_unary(tape, &gelu_op, x, true, false, x.numel);
}

struct est_tensor est_relu(struct est_tape *tape, struct est_tensor x)
{
	return est_unary(tape, &relu_op, x, false, true, x.numel);
}

struct est_tensor est_tanh(struct est_tape *tape, struct est_tensor x)
{
	return est_unary(tape, &tanh_op, x, false, true, x.numel);
}

/* pow_backward: grad * (exponent * self.pow(exponent - 1)), three tensors at once */
static void backward_pow(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	struct est_tensor power = est_grad_for(tape, node, 0, node->edge_element[0]);
	struct est_tensor scaled = est_grad_for(tape, node, 0, node->edge_element[0]);

	ret[0] = est_grad_for(tape, node, 0, node->edge_element[0]);
	est_drop(tape, scaled);
	est_drop(tape, power);
}
static const struct est_op pow_op = { "Pow", backward_pow };
static const struct est_op rsqrt_op = { "Rsqrt", backward_pow }; /* -0.5 * grad * result.pow(3) */

struct est_tensor est_pow(struct est_tape *tape, struct est_tensor x)
{
	if (tape->autocast) /* one of those that it runs in fp32 */
		x = est_to(tape, x, EST_32BIT);
	return est_unary(tape, &pow_op, x, true, false, x.numel);
}

struct est_tensor est_rsqrt(struct est_tape *tape, struct est_tensor x)
{
	return est_unary(tape, &rsqrt_op, x, false, true, x.numel);
}

struct est_tensor est_div_in_place(struct est_tape *tape, struct est_tensor x)
{
	struct est_node *node = est_node_new(tape, &scale_op, 1, &x);
	struct est_tensor out = est_output(tape, node, 0, est_detach(tape, x));

	est_finish(tape, x);
	return out;
}

static const struct est_op dropout_op = { "NativeDropout", est_backward_one };

struct est_tensor est_dropout(struct est_tape *tape, struct est_tensor x, double p)
{
	struct est_node *node;
	struct est_tensor out, mask;

	if (p <= 0)
		return x.temporary ? x : est_alias(tape, x);
	node = est_node_new(tape, &dropout_op, 1, &x);
	out = est_empty(tape, x.numel, x.element);
	mask = est_empty(tape, x.numel, EST_BYTE);
	est_save(tape, node, mask);
	est_drop(tape, mask);
	est_finish(tape, x);
	return est_output(tape, node, 0, out);
}

static const struct est_op softmax_op = { "Softmax", est_backward_one };

struct est_tensor est_softmax(struct est_tape *tape, struct est_tensor x)
{
	return est_unary(tape, &softmax_op, x, false, true, x.numel);
}

static const struct est_op half_softmax_op = { "Softmax", est_backward_like_input };

struct est_tensor est_softmax_in_fp32(struct est_tape *tape, struct est_tensor x)
{
	struct est_node *node;
	struct est_tensor out;

	if (!tape->halves || x.element != EST_16BIT)
		return est_softmax(tape, est_to(tape, x, EST_32BIT));
	node = est_node_new(tape, &half_softmax_op, 1, &x);
	out = est_empty(tape, x.numel, EST_32BIT);
	est_save(tape, node, out);
	est_finish(tape, x);
	return est_output(tape, node, 0, out);
}

struct est_tensor est_safe_softmax(struct est_tape *tape, struct est_tensor x, uint64_t rows)
{
	struct est_node *node = est_node_new(tape, &softmax_op, 1, &x);
	struct est_tensor out = est_empty(tape, x.numel, x.element), masked, masked_rows;

	est_save(tape, node, out);
	masked = est_empty(tape, x.numel, EST_BYTE);
	masked_rows = est_empty(tape, rows, EST_BYTE);
	est_drop(tape, masked_rows);
	est_drop(tape, masked);
	est_finish(tape, x);
	return est_output(tape, node, 0, out);
}

/* ---- layer norm. extra[0]: rows */

static void backward_layer_norm(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	for (unsigned i = 0; i < 3; i++)
		if (est_needs(node, i))
			ret[i] = est_grad_for(tape, node, i, node->edge_element[i]);
}
static const struct est_op layer_norm_op = { "NativeLayerNorm", backward_layer_norm };

static struct est_tensor leaf_or_none(const struct est_tape *tape, uint32_t leaf)
{
	return leaf == EST_NO_LEAF ? est_none : est_leaf_tensor(tape, leaf);
}

/* autocast keeps F.layer_norm in fp32: 16-bit operands are cast, the last first */
static void cast_to_fp32(struct est_tape *tape, struct est_tensor operands[3])
{
	for (unsigned i = 3; i-- > 0;)
		if (operands[i].numel)
			operands[i] = est_to(tape, operands[i], EST_32BIT);
}

struct est_tensor est_layer_norm(struct est_tape *tape, struct est_tensor x, uint64_t rows, uint32_t weight,
				 uint32_t bias)
{
	struct est_tensor in[3] = { x, leaf_or_none(tape, weight), leaf_or_none(tape, bias) };

	if (tape->autocast)
		cast_to_fp32(tape, in);
	return est_layer_norm_as_is(tape, in, rows);
}

struct est_tensor est_layer_norm_as_is(struct est_tape *tape, const struct est_tensor in[3], uint64_t rows)
{
	struct est_node *node = est_node_new(tape, &layer_norm_op, 3, in);
	struct est_tensor out, mean, rstd;

	for (unsigned i = 0; i < 3; i++)
		if (in[i].numel)
			est_save(tape, node, in[i]);
	out = est_empty(tape, in[0].numel, in[0].element);
	mean = est_empty(tape, rows, EST_32BIT);
	rstd = est_empty(tape, rows, EST_32BIT);
	est_save(tape, node, mean);
	est_save(tape, node, rstd);
	est_drop(tape, mean);
	est_drop(tape, rstd);
	for (unsigned i = 0; i < 3; i++)
		est_finish(tape, in[i]);
	return est_output(tape, node, 0, out);
}
