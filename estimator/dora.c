/* PEFT's DoRA on a linear layer: tuners/lora/dora.py, DoraLinearLayer.forward. The update's weight is multiplied out
 * to norm it: two matrices of the layer's size in the dtype of x live through the product. */
#include "estimator/lora.h"

/* lora_B(lora_A(eye(in))).T in the dtype of x */
static struct est_tensor lora_weight(struct est_tape *tape, const struct est_adapter *adapter, uint8_t element)
{
	uint8_t own = est_leaf_tensor(tape, adapter->a.weight).element;
	struct est_tensor eye = est_hold(est_empty(tape, adapter->a.in * adapter->a.in, own)), weight;

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

struct est_tensor est_dora(struct est_tape *tape, const struct est_linear *base, struct est_tensor x,
			   struct est_tensor result)
{
	const struct est_adapter *adapter = base->adapter;
	uint32_t first = tape->node_count, end;
	struct est_tensor update = lora_weight(tape, adapter, x.element), weight, norm, scale, delta, unbiased, of_base;

	end = tape->node_count;
	weight = est_hold(est_to(tape, est_leaf_tensor(tape, base->weight), x.element));
	norm = weight_norm(tape, weight, update, base->out);
	scale = est_hold(est_mul(tape, est_leaf_tensor(tape, adapter->magnitude), norm));
	delta = est_hold(est_linear(tape, &adapter->b, est_linear(tape, &adapter->a, x)));
	/* (scale - 1) * result + scale * delta * scaling */
	unbiased = est_hold(base->has_bias ? est_add(tape, result, est_leaf_tensor(tape, base->bias)) : est_alias(tape,
														  result));
	of_base = est_mul(tape, est_add_scalar(tape, scale), unbiased);
	of_base = est_add(tape, of_base, est_mul_scalar(tape, est_mul(tape, scale, delta)));
	est_drop(tape, unbiased);
	est_drop(tape, delta);
	est_drop(tape, scale);
	est_drop(tape, norm);
	est_drop(tape, weight);
	est_drop(tape, update);
	est_discard_nodes(tape, first, end); /* used detached only: its graph dies with it */
	return of_base;
}
