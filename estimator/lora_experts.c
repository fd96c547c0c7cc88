/* PEFT's ParamWrapper: LoRA on bare parameters, on the fused weights of experts and on routers. The sum W + BA is
 * made in each forward, and kept by the products that take it. */
#include "estimator/lora.h"

static struct est_tensor leaf(struct est_tape *tape, uint32_t number)
{
	return est_leaf_tensor(tape, number);
}

/* register_parametrization() tries the sum once */
static void try_sum(struct est_tape *tape, struct est_tensor weight)
{
	est_drop(tape, est_empty(tape, weight.numel, weight.element));
}

void est_lora_open(struct est_tape *tape, uint32_t weight, const struct est_adapter *adapter, struct est_factors *ret)
{
	struct est_tensor w = leaf(tape, weight);

	*ret = (struct est_factors){ { 0 }, { 0 } };
	if (!adapter || tape->adapters_off)
		return;
	/* lora_B is permuted to [experts, out, rank]: its gradient comes back in another layout */
	ret->lhs = est_hold(
		est_to(tape, est_view_as_heads(tape, est_alias(tape, leaf(tape, adapter->b.weight))), w.element));
	ret->rhs = est_hold(est_to(tape, leaf(tape, adapter->a.weight), w.element));
	try_sum(tape, w);
}

/* baddbmm: batch1's gradient, then batch2's, each scaled (extra[0]) */
static void backward_fold(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	for (unsigned i = 0; i < 2; i++) {
		struct est_tensor product;

		if (!est_needs(node, i))
			continue;
		product = est_grad_for(tape, node, i, node->grad[0].element);
		ret[i] = node->extra[0] ? est_grad_for(tape, node, i, node->grad[0].element) : product;
		if (node->extra[0])
			est_drop(tape, product);
	}
}
static const struct est_op fold_op = { "Baddbmm", backward_fold };

struct est_tensor est_lora_fold(struct est_tape *tape, uint32_t weight, const struct est_adapter *adapter,
				const struct est_factors *factors)
{
	struct est_tensor w = leaf(tape, weight);
	struct est_node *node;

	if (!adapter || tape->adapters_off)
		return est_hold(est_alias(tape, w));
	node = est_node_new(tape, &fold_op, 2, (struct est_tensor[]){ factors->lhs, factors->rhs });
	est_save(tape, node, factors->lhs);
	est_save(tape, node, factors->rhs);
	if (node)
		node->extra[0] = adapter->scales;
	return est_hold(est_output(tape, node, 0, est_empty(tape, w.numel, w.element)));
}

void est_lora_close(struct est_tape *tape, const struct est_factors *factors)
{
	est_drop(tape, factors->lhs);
	est_drop(tape, factors->rhs);
}

struct est_tensor est_lora_delta(struct est_tape *tape, const struct est_linear *linear)
{
	struct est_tensor w = leaf(tape, linear->weight), a, b, delta;

	if (!linear->adapter || tape->adapters_off)
		return est_none;
	a = leaf(tape, linear->adapter->a.weight);
	b = leaf(tape, linear->adapter->b.weight);
	delta = est_mul_scalar(tape, est_bmm(tape, b, a, linear->in * linear->out));
	delta = est_hold(est_to(tape, delta, w.element));
	try_sum(tape, w);
	return delta;
}

struct est_tensor est_lora_sum(struct est_tape *tape, const struct est_linear *linear, struct est_tensor delta)
{
	struct est_tensor w = leaf(tape, linear->weight);

	return est_hold(delta.numel ? est_add(tape, w, delta) : est_alias(tape, w));
}
