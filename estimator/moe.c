/* Mixtures of experts as Transformers 5 runs them: integrations/moe.py, grouped_mm_experts_forward. Every token visits
 * num_experts_per_tok experts; what follows is as long as the pairs of token and expert, however they are balanced. */
#include "estimator/lora.h"
#include "estimator/moe.h"

static uint64_t pairs_of(const struct est_pass *pass)
{
	return pass->tokens * (uint64_t)pass->model->num_experts_per_tok;
}

/* ---- operators */

static const struct est_op index_op = { "Index", est_backward_one };

/* Kernels take positions of 64 bits. */
static struct est_tensor in_64_bits(struct est_tape *tape, struct est_tensor rows)
{
	return rows.element < EST_INT64 ? est_empty(tape, rows.numel, EST_INT64) : est_none;
}

struct est_tensor est_gather_rows(struct est_tape *tape, struct est_tensor x, struct est_tensor rows, uint64_t numel)
{
	struct est_node *node = est_node_new(tape, &index_op, 1, &x);
	struct est_tensor cast = in_64_bits(tape, rows), out;

	est_save(tape, node, rows);
	out = est_output(tape, node, 0, est_empty(tape, numel, x.element));
	est_drop(tape, cast);
	est_finish(tape, x);
	est_finish(tape, rows);
	return out;
}

/* extra[0]: positions, extra[1]: bytes of one */
static void backward_put(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	struct est_tensor rows = { .numel = node->extra[0], .element = (uint8_t)node->extra[1] };
	struct est_tensor cast = in_64_bits(tape, rows);

	est_backward_one(tape, node, ret);
	est_drop(tape, cast);
}
static const struct est_op put_op = { "IndexPut", backward_put };

struct est_tensor est_put_rows(struct est_tape *tape, struct est_tensor target, struct est_tensor rows,
			       struct est_tensor values)
{
	struct est_node *node = est_node_new(tape, &put_op, 1, &values);

	if (node) {
		node->extra[0] = rows.numel;
		node->extra[1] = rows.element;
	}
	est_save(tape, node, rows);
	target = est_output(tape, node, 0, target);
	est_finish(tape, values);
	return target;
}

/* The weight's gradient first; it passes the transposition of the weight, where there is one (extra[0]). */
static void backward_grouped(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	est_backward_products(tape, node, ret);
	ret[1].view = node->extra[0];
}
static const struct est_op grouped_op = { "GroupedMm", backward_grouped };

struct est_tensor est_grouped_mm(struct est_tape *tape, struct est_tensor x, struct est_tensor weight, uint64_t numel,
				 bool transposed)
{
	struct est_tensor in[2] = { est_to(tape, x, weight.element), weight }, out;
	struct est_node *node = est_node_new(tape, &grouped_op, 2, in);

	if (node && weight.requires_grad)
		est_save(tape, node, in[0]);
	if (node && in[0].requires_grad)
		est_save(tape, node, transposed ? est_view_of_parameter(tape, weight) : weight);
	if (node)
		node->extra[0] = transposed;
	out = est_output(tape, node, 0, est_empty(tape, numel, weight.element));
	est_finish(tape, in[0]);
	return out;
}

static const struct est_op sum_op = { "SumOfExperts", est_backward_like_input };

struct est_tensor est_sum_of_experts(struct est_tape *tape, struct est_tensor x, uint64_t numel)
{
	struct est_node *node = est_node_new(tape, &sum_op, 1, &x);

	return est_output(tape, node, 0, est_empty(tape, numel, tape->autocast ? EST_32BIT : x.element));
}

/* ---- experts */

static struct est_tensor bias_of(struct est_pass *pass, uint32_t leaf, struct est_tensor rows, uint64_t width)
{
	if (leaf == EST_NO_LEAF)
		return est_none;
	return est_hold(est_gather_rows(pass->tape, est_leaf_tensor(pass->tape, leaf), rows, pairs_of(pass) * width));
}

static struct est_tensor grouped_linear(struct est_pass *pass, struct est_tensor x, struct est_tensor weight,
					struct est_tensor bias, uint64_t width)
{
	bool transposed = pass->model->architecture != EST_ARCH_GPT_OSS;
	struct est_tensor out = est_grouped_mm(pass->tape, x, weight, pairs_of(pass) * width, transposed);

	return est_hold(bias.numel ? est_add_in_place(pass->tape, out, bias) : out);
}

/* act_fn(gate) * up of the two halves; gate_up is borrowed */
static struct est_tensor apply_gate(struct est_pass *pass, struct est_tensor gate_up)
{
	struct est_tensor halves[2], out;
	uint64_t numel[2] = { gate_up.numel / 2, gate_up.numel / 2 };

	est_split(pass->tape, gate_up, 2, numel, halves);
	halves[0] = est_hold(halves[0]);
	halves[1] = est_hold(halves[1]);
	out = est_mul(pass->tape, est_activate(pass, halves[0]), halves[1]);
	est_drop(pass->tape, halves[0]);
	est_drop(pass->tape, halves[1]);
	return est_hold(out);
}

/* Between the two products; gate_up is borrowed, the result held. */
static struct est_tensor activate_experts(struct est_pass *pass, struct est_tensor gate_up)
{
	if (pass->model->architecture == EST_ARCH_GPT_OSS)
		return est_clamped_gate(pass, gate_up);
	return pass->model->gated_mlp ? apply_gate(pass, gate_up) : est_hold(est_activate(pass, gate_up));
}

/* What the wrappers of adapted experts hold while they run: factors, and the sums (or the weights themselves). */
struct open_experts {
	struct est_factors gate_up, down;
	struct est_tensor gate_up_proj, down_proj;
	struct est_tensor bias; /* of the pairs, the down projection's: a variable of the forward's frame */
};

/* down_proj(act(gate_up_proj(x))) of the pairs, which lie sorted by expert (rows). x is borrowed. */
static struct est_tensor run_experts(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x,
				     struct est_tensor rows, struct open_experts *open)
{
	struct est_tape *tape = pass->tape;
	uint64_t hidden = (uint64_t)est_model_expert_width(pass->model), width = (uint64_t)pass->model->moe_intermediate_size;
	const struct est_experts *experts = &layer->experts;
	uint64_t first = pass->model->gated_mlp ? 2 * width : width;
	struct est_tensor bias = bias_of(pass, experts->gate_up_proj_bias, rows, first), gate_up, gated, out;

	open->gate_up_proj = est_lora_fold(tape, experts->gate_up_proj, experts->gate_up_adapter, &open->gate_up);
	gate_up = grouped_linear(pass, x, open->gate_up_proj, bias, first);
	gated = activate_experts(pass, gate_up);
	est_drop(tape, gate_up);
	open->bias = bias_of(pass, experts->down_proj_bias, rows, hidden);
	est_drop(tape, bias);
	open->down_proj = est_lora_fold(tape, experts->down_proj, experts->down_adapter, &open->down);
	out = grouped_linear(pass, gated, open->down_proj, open->bias, hidden);
	est_drop(tape, gated);
	return out;
}

/* weighted[inv_perm].view(tokens, top_k, hidden).sum(dim=1).to(dtype); weighted moves in. ret_frame: inv_perm and
 * weighted anew */
static struct est_tensor combine(struct est_pass *pass, struct est_tensor weighted, struct est_tensor ret_frame[2],
				 uint8_t element)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor range, sum;

	ret_frame[0] = est_variable(tape, pairs_of(pass), EST_INT64);
	range = est_variable(tape, pairs_of(pass), EST_INT64);
	est_drop(tape, range);
	ret_frame[1] = est_hold(est_gather_rows(tape, weighted, ret_frame[0], weighted.numel));
	est_drop(tape, weighted);
	sum = est_hold(est_sum_of_experts(tape, ret_frame[1], pass->tokens * (uint64_t)est_model_expert_width(pass->model)));
	weighted = est_to(tape, sum, element);
	est_drop(tape, sum);
	return weighted;
}

static void close_experts(struct est_tape *tape, const struct open_experts *open)
{
	est_drop(tape, open->bias);
	est_drop(tape, open->gate_up_proj);
	est_drop(tape, open->down_proj);
	est_lora_close(tape, &open->gate_up);
	est_lora_close(tape, &open->down);
}

static struct est_tensor grouped_experts_forward(struct est_pass *pass, const struct est_layer *layer,
						 struct est_tensor x, const struct est_routing *routing,
						 struct open_experts *open)
{
	struct est_tape *tape = pass->tape;
	uint64_t pairs = pairs_of(pass), hidden = (uint64_t)est_model_expert_width(pass->model);
	struct est_tensor expert_ids = est_variable(tape, pairs, EST_INT64), permutation = est_variable(tape, pairs, EST_INT64);
	struct est_tensor tokens = est_empty(tape, pairs, EST_INT64), selected, weights, histogram, out, frame[2];

	selected = est_hold(est_gather_rows(tape, x, tokens, pairs * hidden));
	weights = est_hold(est_gather_rows(tape, routing->weights, permutation, pairs));
	histogram = est_variable(tape, pairs, EST_32BIT);
	out = run_experts(pass, layer, selected, expert_ids, open);
	x = combine(pass, est_hold(est_mul(tape, out, weights)), frame, x.element);
	est_drop(tape, expert_ids);
	est_drop(tape, permutation);
	est_drop(tape, selected);
	est_drop(tape, weights);
	est_drop(tape, histogram);
	est_drop(tape, out);
	est_drop(tape, frame[0]);
	est_drop(tape, frame[1]);
	return x;
}

struct est_tensor est_grouped_experts(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x,
				      const struct est_routing *routing)
{
	const struct est_experts *experts = &layer->experts;
	uint32_t module = pass->tape->leaves[experts->gate_up_proj].module;
	struct open_experts open;

	x = est_module_enter(pass->tape, module, x);
	/* the wrapper of down_proj stands around that of gate_up_proj */
	est_lora_open(pass->tape, experts->down_proj, experts->down_adapter, &open.down);
	est_lora_open(pass->tape, experts->gate_up_proj, experts->gate_up_adapter, &open.gate_up);
	x = grouped_experts_forward(pass, layer, x, routing, &open);
	close_experts(pass->tape, &open);
	return est_module_leave(pass->tape, module, x);
}
