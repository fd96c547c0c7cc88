/* Apertus' MLP: XIELUActivation as python operators, with two parameters of its own. */
#include "estimator/recurrent.h"

/* torch.min(x, eps) keeps x: the gradient is halved where both are equal, and masked where x is greater */
static void backward_min(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	uint64_t numel = node->edge_numel[0];
	struct est_tensor half = est_empty(tape, numel, node->grad[0].element), equal = est_empty(tape, numel, EST_BYTE);

	ret[0] = est_grad_for(tape, node, 0, node->grad[0].element);
	est_drop(tape, est_empty(tape, numel, EST_BYTE));
	est_drop(tape, equal);
	est_drop(tape, half);
}
static const struct est_op min_op = { "Minimum", backward_min };

/* torch.expm1(x), in fp32 under autocast: keeps its result; grad * (result + 1) */
static void backward_expm1(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	struct est_tensor sum = est_empty(tape, node->edge_numel[0], node->edge_element[0]);

	ret[0] = est_grad_for(tape, node, 0, node->grad[0].element);
	est_drop(tape, sum);
}
static const struct est_op expm1_op = { "Expm1", backward_expm1 };

static struct est_tensor expm1_of(struct est_tape *tape, struct est_tensor x)
{
	struct est_tensor in = est_to(tape, est_hold(x), tape->autocast ? EST_32BIT : x.element), out;
	struct est_node *node = est_node_new(tape, &expm1_op, 1, &in);

	out = est_empty(tape, in.numel, in.element);
	est_save(tape, node, out);
	est_drop(tape, in);
	est_finish(tape, x);
	return est_output(tape, node, 0, out);
}

static struct est_tensor min(struct est_tape *tape, struct est_tensor x)
{
	struct est_node *node = est_node_new(tape, &min_op, 1, &x);

	est_save(tape, node, x);
	return est_output(tape, node, 0, est_empty(tape, x.numel, x.element));
}

/* beta + softplus(alpha): one element, in fp32 under autocast, which makes fp32 of all that is multiplied by it */
static struct est_tensor alpha(struct est_tape *tape, uint32_t leaf)
{
	struct est_tensor x = est_leaf_tensor(tape, leaf);

	return est_hold(est_mul_scalar(tape, est_to(tape, x, tape->autocast ? EST_32BIT : x.element)));
}

/* where(x > 0, alpha_p * x * x + beta * x, (expm1(min(x, eps)) - x) * alpha_n + beta * x) */
static struct est_tensor xielu(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor alpha_p = alpha(tape, layer->alpha_p), alpha_n = alpha(tape, layer->alpha_n);
	struct est_tensor positive = est_empty(tape, x.numel, EST_BYTE), above, below;

	above = est_mul(tape, est_mul(tape, alpha_p, x), x);
	above = est_add(tape, above, est_mul_scalar(tape, x));
	below = est_mul(tape, est_sub(tape, expm1_of(tape, min(tape, x)), x), alpha_n);
	below = est_add(tape, below, est_mul_scalar(tape, x));
	below = est_where_both(tape, positive, above, below);
	est_drop(tape, alpha_p);
	est_drop(tape, alpha_n);
	return below;
}

struct est_tensor est_xielu_mlp(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor up = est_hold(est_linear(tape, &layer->up_proj, x)), activated;

	if (pass->model->activation == EST_XIELU) {
		activated = xielu(pass, layer, est_module_enter(tape, layer->act_fn, up));
		activated = est_module_leave(tape, layer->act_fn, activated);
	} else {
		activated = est_activate(pass, up);
	}
	est_drop(tape, up);
	return est_linear(tape, &layer->down_proj, activated);
}
