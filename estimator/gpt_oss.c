/* gpt-oss: rotary embedding of halves, attention sinks, experts with clamped activations. modeling_gpt_oss.py. */
#include "estimator/recurrent.h"

/* ---- attention */

/* extra[0]: elements of the scores without the sinks' column */
static void backward_cat_sinks(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	struct est_tensor grad = est_take_grad(node, 0);

	if (est_needs(node, 1))
		ret[1] = est_grad_for(tape, node, 1, node->edge_element[1]);
	if (est_needs(node, 0)) {
		ret[0] = est_hold(est_alias(tape, grad));
		ret[0].numel = node->edge_numel[0];
		ret[0].view = true;
	}
	est_drop(tape, grad);
}
static const struct est_op cat_sinks_op = { "CatSinks", backward_cat_sinks };

/* torch.cat([weights, sinks expanded to a column]), in the wider of their dtypes; weights are borrowed */
static struct est_tensor cat_sinks(struct est_tape *tape, struct est_tensor weights, struct est_tensor sinks,
				   uint64_t rows)
{
	uint8_t element = weights.element > sinks.element ? weights.element : sinks.element;
	struct est_tensor in[2] = { weights, sinks };
	struct est_node *node;

	if (tape->autocast)
		in[0] = est_to(tape, weights, element);
	node = est_node_new(tape, &cat_sinks_op, 2, in);
	weights = est_hold(est_output(tape, node, 0, est_empty(tape, weights.numel + rows, element)));
	est_finish(tape, in[0]);
	return weights;
}

/* Zeros, into which the rows' gradients are scattered */
static const struct est_op max_op = { "Max", est_backward_one };

/* the maximum's gradient is the negative of the difference's, summed over the row */
static void backward_shift(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	ret[1] = est_empty(tape, node->edge_numel[0], node->grad[0].element);
	ret[0] = est_take_grad(node, 0);
}
static const struct est_op shift_op = { "SubMax", backward_shift };

/* logits - logits.max(dim=-1, keepdim=True).values, held; logits move in */
static struct est_tensor shift(struct est_tape *tape, struct est_tensor logits, uint64_t rows)
{
	struct est_node *node = est_node_new(tape, &max_op, 1, &logits);
	struct est_tensor in[2] = { logits, est_output(tape, node, 0, est_empty(tape, rows, logits.element)) }, indices;

	indices = est_empty(tape, rows, EST_INT64);
	est_save(tape, node, indices);
	est_drop(tape, indices);
	node = est_node_new(tape, &shift_op, 2, in);
	logits = est_hold(est_output(tape, node, 0, est_empty(tape, logits.numel, logits.element)));
	est_finish(tape, in[1]);
	est_drop(tape, in[0]);
	return logits;
}

struct est_tensor est_attention_with_sinks(struct est_pass *pass, const struct est_layer *layer,
					   struct est_tensor weights, uint8_t element, struct est_tensor *ret_logits)
{
	struct est_tape *tape = pass->tape;
	uint64_t rows = weights.numel / pass->sequence;
	struct est_tensor probabilities;

	*ret_logits = shift(tape, cat_sinks(tape, weights, est_leaf_tensor(tape, layer->sinks), rows), rows);
	probabilities = est_slice(tape, est_softmax(tape, *ret_logits), weights.numel);
	return est_to(tape, probabilities, element);
}

struct est_tensor est_gpt_oss_attention(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor q = est_hold(est_rope_heads(pass, est_linear(tape, &layer->q_proj, x)));
	struct est_tensor k = est_hold(est_rope_heads(pass, est_linear(tape, &layer->k_proj, x)));
	struct est_tensor v = est_hold(est_heads(pass, layer, est_linear(tape, &layer->v_proj, x))), rotated[2];

	est_apply_paired_rope(pass, est_layer_rope(pass, layer), false, q, k, rotated);
	est_drop(tape, q);
	est_drop(tape, k);
	return est_attend_as_is(pass, layer, rotated[0], rotated[1], v);
}

/* ---- experts */

/* x.clamp(), held; x is given up */
static struct est_tensor clamp(struct est_tape *tape, struct est_tensor x, unsigned limits)
{
	struct est_tensor out = est_hold(est_clamp(tape, x, limits));

	est_drop(tape, x);
	return out;
}

struct est_tensor est_clamped_gate(struct est_pass *pass, struct est_tensor gate_up)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor gate = est_hold(est_slice(tape, gate_up, gate_up.numel / 2));
	struct est_tensor up = est_hold(est_slice(tape, gate_up, gate_up.numel / 2)), glu, gated;

	gate = clamp(tape, gate, 1);
	up = clamp(tape, up, 2);
	/* sigmoid keeps its result, as tanh does */
	glu = est_hold(est_mul(tape, gate, est_tanh(tape, est_mul_scalar(tape, gate))));
	gated = est_hold(est_mul(tape, est_add_scalar(tape, up), glu));
	est_drop(tape, gate);
	est_drop(tape, up);
	est_drop(tape, glu);
	return gated;
}
