/* Phi-3.5-MoE: Mixtral's layer with LayerNorm; experts chosen by sparsemixer(), one after the other.
 * modeling_phimoe.py. */
#include "estimator/recurrent.h"
#include "estimator/routers.h"

/* Zeros where a value was written, in a copy of the gradient */
static const struct est_op scatter_op = { "Scatter", est_backward_one };

/* PhimoeMultiplier.backward: what it saved was the multiplier, the choice and the gates. extra[0]: bytes of an
 * element */
static void backward_multiplier(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	uint64_t rows = node->grad[0].numel;
	uint8_t element = (uint8_t)node->extra[0];
	struct est_tensor grad = est_empty(tape, rows, element), negative = est_empty(tape, rows, element);

	ret[0] = est_empty(tape, node->edge_numel[0], element);
	est_drop(tape, negative);
	est_drop(tape, grad);
	if (element == node->edge_element[0])
		return;
	grad = ret[0];
	ret[0] = est_grad_for(tape, node, 0, node->edge_element[0]);
	est_drop(tape, grad);
}
static const struct est_op multiplier_op = { "PhimoeMultiplier", backward_multiplier };

/* The variables of sparsemixer()'s frame: the second expert's take the places of the first's. */
struct mixer {
	struct est_tensor factor, mask, max_ind, max_scores, one, rest[8];
	unsigned count;
};

static struct est_tensor keep(struct mixer *mixer, struct est_tensor x)
{
	return mixer->rest[mixer->count++] = est_hold(x);
}

/* ((threshold - scores) / factor) > (2 * jitter_eps), where threshold is the maximum of the row of candidates */
static void find_sparse(struct est_pass *pass, struct mixer *mixer, struct est_tensor scores)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor threshold = est_empty(tape, pass->tokens, scores.element), work, quotient;

	est_assign(tape, &mixer->max_ind, est_empty(tape, pass->tokens, EST_INT64));
	est_drop(tape, mixer->mask);
	mixer->mask = threshold;
	work = est_empty(tape, scores.numel, scores.element); /* scores.abs() */
	quotient = est_empty(tape, scores.numel, scores.element);
	est_drop(tape, work);
	est_assign(tape, &mixer->factor, quotient);
	work = est_empty(tape, scores.numel, scores.element);
	quotient = est_empty(tape, scores.numel, scores.element);
	est_drop(tape, work);
	work = est_empty(tape, scores.numel, EST_BYTE);
	est_drop(tape, quotient);
	est_assign(tape, &mixer->mask, work);
}

/* (masked_gates - noise.exponential_().log()).max(dim=-1)[1]: nothing of it has a gradient */
static struct est_tensor sample(struct est_pass *pass, struct est_tensor gates)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor noise = est_variable(tape, gates.numel, gates.element), logarithm, values, indices;

	logarithm = est_exp(tape, noise); /* which allocates as log does, under autocast too */
	est_drop(tape, noise);
	noise = est_empty(tape, gates.numel, logarithm.element);
	est_drop(tape, logarithm);
	values = est_empty(tape, pass->tokens, noise.element);
	indices = est_empty(tape, pass->tokens, EST_INT64);
	est_drop(tape, noise);
	est_drop(tape, values);
	return indices;
}

/* selected == max_ind, or at random; then 1 or 1/3 in the dtype of the gates */
static void make_mask_for_one(struct est_pass *pass, struct mixer *mixer, struct est_tensor gates)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor best, random, above, either, third;

	est_assign(tape, &mixer->max_scores, est_empty(tape, pass->tokens, gates.element));
	est_assign(tape, &mixer->max_ind, est_empty(tape, pass->tokens, EST_INT64));
	best = est_empty(tape, pass->tokens, EST_BYTE);
	random = est_empty(tape, pass->tokens, gates.element);
	above = est_empty(tape, pass->tokens, EST_BYTE);
	est_drop(tape, random);
	either = est_empty(tape, pass->tokens, EST_BYTE);
	est_drop(tape, above);
	est_drop(tape, best);
	est_assign(tape, &mixer->one, either);
	third = est_empty(tape, pass->tokens, EST_32BIT);
	est_assign(tape, &mixer->one, est_to(tape, third, gates.element));
}

/* PhimoeMultiplier.apply(scores, multiplier, selected_experts, masked_gates, mask_for_one) */
static struct est_tensor apply_multiplier(struct est_tape *tape, struct est_tensor scores, struct est_tensor multiplier,
					  struct est_tensor selected, struct est_tensor gates)
{
	struct est_node *node = est_node_new(tape, &multiplier_op, 1, &scores);
	struct est_tensor out = est_empty(tape, multiplier.numel, gates.element);

	if (node)
		node->extra[0] = gates.element;
	est_save(tape, node, multiplier);
	est_save(tape, node, selected);
	est_save(tape, node, gates);
	return est_output(tape, node, 0, out);
}

/* One expert for each token among candidates: its multiplier, and ret_selected. */
static struct est_tensor choose(struct est_pass *pass, struct mixer *mixer, struct est_tensor scores,
				struct est_tensor candidates, struct est_tensor *ret_selected)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor masked, gates, multiplier;

	find_sparse(pass, mixer, scores);
	masked = est_hold(est_masked_fill(tape, candidates, mixer->mask));
	*ret_selected = keep(mixer, sample(pass, masked));
	gates = keep(mixer, est_softmax(tape, tape->autocast ? est_to(tape, masked, EST_32BIT) : masked));
	est_drop(tape, masked);
	multiplier = keep(mixer, est_gather_rows(tape, gates, *ret_selected, pass->tokens));
	make_mask_for_one(pass, mixer, gates);
	return keep(mixer, apply_multiplier(tape, scores, multiplier, *ret_selected, gates));
}

/* torch.scatter(scores, -1, selected, -inf), held */
static struct est_tensor scatter(struct est_tape *tape, struct est_tensor scores, struct est_tensor selected)
{
	struct est_node *node = est_node_new(tape, &scatter_op, 1, &scores);

	est_save(tape, node, selected);
	return est_hold(est_output(tape, node, 0, est_empty(tape, scores.numel, scores.element)));
}

static void route_sparsemixer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x,
			      struct est_routing *ret)
{
	struct est_tape *tape = pass->tape;
	struct mixer mixer = { .count = 0 };
	struct est_tensor first, second, selected[2], masked_scores;

	ret->logits = est_hold(est_linear(tape, &layer->router, x));
	first = choose(pass, &mixer, ret->logits, ret->logits, &selected[0]);
	masked_scores = scatter(tape, ret->logits, selected[0]);
	second = choose(pass, &mixer, ret->logits, masked_scores, &selected[1]);
	ret->weights = est_hold(est_cat(tape, first, second));
	ret->indices = est_variable(tape, 2 * pass->tokens, EST_INT64);
	est_drop_all(tape, mixer.rest, mixer.count);
	est_drop(tape, masked_scores);
	est_drop(tape, mixer.factor);
	est_drop(tape, mixer.mask);
	est_drop(tape, mixer.max_ind);
	est_drop(tape, mixer.max_scores);
	est_drop(tape, mixer.one);
}

/* ---- jitter: hidden_states *= noise, by the block, and then by the router, on a matrix that is a view of it */

static const struct est_op jitter_op = { "JitterInPlace", est_backward_one };

/* What came for the view is put into zeros of its base (AsStrided); then CopySlices: the base's gradient, the view's cloned
 * out of it and multiplied, and copied back */
static void backward_jitter_view(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	uint8_t element = node->grad[0].element;
	struct est_tensor strided = est_grad_for(tape, node, 0, element), cloned, product;

	est_drop(tape, est_take_grad(node, 0));
	ret[0] = est_grad_for(tape, node, 0, element);
	cloned = est_grad_for(tape, node, 0, element);
	product = est_grad_for(tape, node, 0, element);
	est_drop(tape, cloned);
	est_drop(tape, product);
	est_drop(tape, strided);
}
static const struct est_op jitter_view_op = { "JitterView", backward_jitter_view };

/* x *= torch.empty_like(x).uniform_(): the noise is kept. x is borrowed, the result held */
static struct est_tensor jitter(struct est_tape *tape, const struct est_op *op, struct est_tensor x)
{
	struct est_node *node = est_node_new(tape, op, 1, &x);
	struct est_tensor noise = est_empty(tape, x.numel, x.element);

	est_save(tape, node, noise);
	est_drop(tape, noise);
	return est_hold(est_output(tape, node, 0, est_detach(tape, x)));
}

static struct est_tensor phimoe_mixture(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor once, twice;

	if (pass->model->input_jitter_noise <= 0)
		return est_routed(pass, layer, x, route_sparsemixer);
	once = jitter(tape, &jitter_op, x);
	twice = jitter(tape, &jitter_view_op, once);
	x = est_routed(pass, layer, twice, route_sparsemixer);
	est_drop(tape, twice);
	est_drop(tape, once);
	return x;
}

struct est_tensor est_phimoe_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	static const struct est_blocks blocks = { est_torch_layer_norm, est_llama_attention, phimoe_mixture };

	return est_pre_norm_layer(pass, layer, x, &blocks);
}
