/* PEFT's DoRA on a linear layer: tuners/lora/dora.py, DoraLinearLayer.forward. The update's weight is multiplied out
 * to norm it: two matrices of the layer's size in the dtype of x live through the product. */
#include "estimator/lora.h"

/* lora_B(lora_A(eye(in))).T in the dtype of x */
static struct est_tensor lora_weight(struct est_tape *tape, const struct est_adapter *adapter, uint8_t element)
{
	uint8_t own = est_leaf_tensor(tape, adapter->a.weight).element;
	struct est_tensor eye = est_variable(tape, adapter->a.in * adapter->a.in, own), weight;

	weight = est_linear(tape, &adapter->b, est_linear(tape, &adapter->a, eye));
	est_drop(tape, eye);
	return est_hold(est_to(tape, weight, element));
}

/* torch.linalg.norm(weight + scaling * lora_weight.detach(), dim=1): one number a row, without a gradient */
static struct est_tensor weight_norm(struct est_tape *tape, struct est_tensor weight, struct est_tensor update,
				     uint64_t rows)
{
	struct est_tensor sum = est_add(tape, est_detach(tape, weight), est_mul_scalar(tape, est_detach(tape, update)));
	struct est_tensor norm = est_empty(tape, rows, sum.element);

	est_finish(tape, sum);
	return est_hold(norm);
}

/* What is scaled beside the update: the layer's result less its bias, or, of an input that a dropout took, the product
 * of that, for which autograd keeps the weight. */
static struct est_tensor base_result(struct est_tape *tape, const struct est_linear *base, struct est_tensor weight,
				     struct est_tensor x, struct est_tensor result)
{
	if (base->adapter->has_dropout)
		return est_linear_by(tape, base, weight, x);
	return base->has_bias ? est_add(tape, result, est_leaf_tensor(tape, base->bias)) : est_alias(tape, result);
}

/* dequantize_module_weight(base_layer).to(x.dtype) */
static struct est_tensor base_weight(struct est_tape *tape, const struct est_linear *base, uint8_t element)
{
	struct est_tensor weight = base->base == EST_BASE_DENSE ? est_leaf_tensor(tape, base->weight) : est_dequantize(tape, base);

	return est_hold(est_to(tape, weight, element));
}

/* ---- loading */

/* The type of the base's weight with its update */
static uint8_t summed_element(const struct est_linear *base, uint8_t element)
{
	return base->base == EST_BASE_INT8 ? EST_32BIT : element;
}

/* lora_B @ lora_A, of fp16 multiplied in fp32: lora_A.float(), lora_B.float(), and back */
static struct est_tensor first_update(struct est_pass *pass, const struct est_linear *base, uint8_t element,
				      struct est_tensor in_fp32[2])
{
	uint64_t rank = (uint64_t)pass->request->lora.rank, n = base->in * base->out;
	bool halves = element != EST_32BIT && pass->request->base_dtype == EST_FP16;
	struct est_tensor update, half;

	in_fp32[0] = in_fp32[1] = est_none;
	if (!halves)
		return est_hold(est_empty_as(pass->tape, n, element, EST_BUFFERS));
	in_fp32[0] = est_empty_as(pass->tape, base->in * rank, EST_32BIT, EST_BUFFERS);
	in_fp32[1] = est_empty_as(pass->tape, base->out * rank, EST_32BIT, EST_BUFFERS);
	update = est_empty_as(pass->tape, n, EST_32BIT, EST_BUFFERS);
	half = est_empty_as(pass->tape, n, element, EST_BUFFERS);
	est_drop(pass->tape, update);
	return half;
}

/* linalg.norm(weight + scaling * lora_weight, dim=1), whose graph lives as long as the call */
struct est_tensor est_dora_magnitude(struct est_pass *pass, const struct est_linear *base, uint8_t element)
{
	uint8_t summed = summed_element(base, element);
	uint64_t n = base->in * base->out;
	struct est_tensor weight = est_none, update, scaled, sum, norm, in_fp32[2];
	struct est_copied_4bit copied = { .count = 0 };
	struct est_tape *tape = pass->tape;

	if (pass->schedule) /* sharded afterwards, when this is given back */
		return est_parameter_empty(pass, base->out, summed);
	if (base->base == EST_BASE_4BIT)
		est_copy_4bit(tape, base, &copied);
	if (base->base != EST_BASE_DENSE)
		weight = est_dequantize(tape, base);
	update = first_update(pass, base, element, in_fp32);
	scaled = est_empty_as(tape, n, element, EST_BUFFERS);
	sum = est_empty_as(tape, n, summed, EST_BUFFERS);
	est_drop(tape, scaled);
	norm = est_parameter_empty(pass, base->out, summed);
	est_drop(tape, sum);
	est_drop(tape, update);
	est_drop(tape, in_fp32[1]);
	est_drop(tape, in_fp32[0]);
	est_drop(tape, weight);
	est_drop_copied(tape, &copied);
	return norm;
}

struct est_tensor est_dora(struct est_tape *tape, const struct est_linear *base, struct est_tensor x,
			   struct est_tensor result)
{
	const struct est_adapter *adapter = base->adapter;
	struct est_tensor update, weight, norm, scale, delta, scaled, of_base;
	uint32_t first, end;

	x = est_hold(est_dropout(tape, est_alias(tape, x), adapter->dropout));
	first = tape->node_count;
	update = lora_weight(tape, adapter, x.element);
	end = tape->node_count;
	weight = base_weight(tape, base, x.element);
	norm = weight_norm(tape, weight, update, base->out);
	scale = est_hold(est_mul(tape, est_leaf_tensor(tape, adapter->magnitude), norm));
	delta = est_hold(est_linear(tape, &adapter->b, est_linear(tape, &adapter->a, x)));
	/* (scale - 1) * base_result + scale * delta * scaling */
	scaled = est_hold(base_result(tape, base, weight, x, result));
	of_base = est_mul(tape, est_add_scalar(tape, scale), scaled);
	of_base = est_add(tape, of_base, est_mul_scalar(tape, est_mul(tape, scale, delta)));
	est_drop(tape, scaled);
	est_drop(tape, delta);
	est_drop(tape, scale);
	est_drop(tape, norm);
	est_drop(tape, weight);
	est_drop(tape, update);
	est_discard_nodes(tape, first, end); /* used detached only: its graph dies with it */
	of_base = est_add(tape, result, of_base);
	est_drop(tape, x);
	return of_base;
}
