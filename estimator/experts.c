/* Experts as Transformers 4 runs them: an nn.Linear each, one expert after the other (MixtralSparseMoeBlock). Tokens
 * are taken to be shared evenly; what the experts take together hangs on how little. */
#include "estimator/routers.h"

static const struct est_op index_op = { "Index", est_backward_view };

/* x[None, rows] and its kin: keeps the rows, its backward fills zeros of x, which pass the unsqueezing */
static struct est_tensor gather(struct est_tape *tape, struct est_tensor x, struct est_tensor rows, uint64_t numel)
{
	struct est_node *node = est_node_new(tape, &index_op, 1, &x);

	est_save(tape, node, rows);
	return est_output(tape, node, 0, est_empty(tape, numel, x.element));
}

/* The gradient of the sum passes; the summand's are its rows. */
static void backward_index_add(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	if (est_needs(node, 1))
		ret[1] = est_grad_for(tape, node, 1, node->grad[0].element);
	if (est_needs(node, 0))
		ret[0] = est_take_grad(node, 0);
}
static const struct est_op index_add_op = { "IndexAdd", backward_index_add };

/* sum.index_add_(0, rows, x): sum moves in and out */
static struct est_tensor index_add(struct est_tape *tape, struct est_tensor sum, struct est_tensor rows,
				   struct est_tensor x)
{
	struct est_node *node = est_node_new(tape, &index_add_op, 2, (struct est_tensor[]){ sum, x });

	est_save(tape, node, rows);
	est_save(tape, node, x); /* for its shape */
	sum = est_hold(est_output(tape, node, 0, sum));
	est_finish(tape, x);
	return sum;
}

/* What the loop's variables hold until the next expert's take their place. */
struct turn {
	struct est_tensor rows, current_state, current_hidden_states;
};

/* expert(x[rows]) * weights[rows], of count pairs of a token and this expert */
static void run_expert(struct est_pass *pass, const struct est_expert *expert, struct est_tensor x,
		       struct est_tensor weights, uint64_t count, struct turn *turn)
{
	struct est_tape *tape = pass->tape;
	uint64_t hidden = (uint64_t)pass->model->hidden_size;
	struct est_tensor y;

	est_assign(tape, &turn->rows, est_empty(tape, 2 * count, EST_INT64)); /* torch.where(): token and choice of each */
	est_assign(tape, &turn->current_state, gather(tape, x, turn->rows, count * hidden));
	y = est_gate_and_up(pass, &expert->w1, &expert->w3, &expert->w2, turn->current_state);
	est_assign(tape, &turn->current_hidden_states, est_mul(tape, y, gather(tape, weights, turn->rows, count)));
}

struct est_tensor est_looped_experts(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x,
				     const struct est_routing *routing)
{
	struct est_tape *tape = pass->tape;
	uint64_t experts = (uint64_t)pass->model->num_experts;
	uint64_t pairs = pass->tokens * (uint64_t)pass->model->num_experts_per_tok;
	struct est_tensor sum = est_variable(tape, x.numel, x.element);
	struct est_tensor expert_mask = est_variable(tape, pairs * experts, EST_INT64); /* one_hot() */
	struct turn turn = { { 0 }, { 0 }, { 0 } };

	for (uint64_t i = 0; i < experts; i++) {
		uint64_t count = pairs * (i + 1) / experts - pairs * i / experts;

		run_expert(pass, &layer->experts.apart[i], x, routing->weights, count, &turn);
		sum = index_add(tape, sum, turn.rows, est_to(tape, turn.current_hidden_states, x.element));
	}
	est_drop(tape, expert_mask);
	est_drop(tape, turn.rows);
	est_drop(tape, turn.current_state);
	est_drop(tape, turn.current_hidden_states);
	sum.temporary = true;
	return est_reshape(tape, sum);
}
