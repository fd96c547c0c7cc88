/* torchtitan's mixture of experts over expert-parallel ranks (models/moe/moe.py and distributed/expert_parallel.py
 * of 0.2.2). How many tokens a rank is sent is known to the routers alone: here as many as it sends. Held to traces
 * of that code. */
#include "estimator/expert_parallel.h"
#include "estimator/moe.h"
#include "estimator/routers.h"

/* Rows of an expert's group are padded to a multiple of it (TOKEN_GROUP_ALIGN_SIZE_M). */
enum { ALIGNMENT = 8 };

static uint64_t pairs_of(const struct est_pass *pass)
{
	return pass->tokens * (uint64_t)pass->model->num_experts_per_tok;
}

static uint64_t hidden_of(const struct est_pass *pass)
{
	return (uint64_t)pass->model->hidden_size;
}

/* ---- TokenChoiceTopKRouter */

/* The experts of groups that are not among the best, masked out: groups are chosen by the sum of their best two.
 * scores moves in. in_graph: the choice of the best two saves what it chose. */
static struct est_tensor limit_to_groups(struct est_pass *pass, struct est_tensor scores, bool in_graph)
{
	struct est_tape *tape = pass->tape;
	uint64_t groups = pass->tokens * (uint64_t)pass->model->n_group;
	uint64_t chosen = pass->tokens * (uint64_t)pass->model->topk_group;
	struct est_tensor best = est_variable(pass->tape, 2 * groups, EST_32BIT), which = est_variable(pass->tape, 2 * groups, EST_INT64);
	struct est_tensor sums = est_variable(pass->tape, groups, EST_32BIT), values, indices, mask, limited;

	values = est_variable(pass->tape, chosen, EST_32BIT);
	indices = est_variable(pass->tape, chosen, EST_INT64);
	if (!in_graph)
		est_assign(tape, &which, est_none);
	mask = est_variable(pass->tape, groups, EST_BYTE);
	limited = est_variable(pass->tape, scores.numel, EST_32BIT);
	est_drop_all(tape, (struct est_tensor[]){ best, which, sums, values, indices, mask, scores }, 7);
	return limited;
}

/* scores + expert_bias, of which the best are chosen; no gradient comes back this way. ret: their indices, held */
static struct est_tensor choose(struct est_pass *pass, struct est_tensor scores, struct est_tensor ret_work[2])
{
	ret_work[0] = est_variable(pass->tape, scores.numel, EST_32BIT);
	if (pass->model->n_group > 1)
		ret_work[0] = limit_to_groups(pass, ret_work[0], scores.requires_grad && !pass->tape->packing);
	ret_work[1] = est_variable(pass->tape, pairs_of(pass), EST_32BIT);
	return est_variable(pass->tape, pairs_of(pass), EST_INT64);
}

static struct est_tensor scores_of(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor logits = est_hold(est_linear(tape, &layer->router, x));
	struct est_tensor scores = est_to(tape, logits, EST_32BIT);
	bool sigmoid = pass->model->router_correction_bias; /* which keeps its result, as tanh does */

	scores = est_hold(sigmoid ? est_tanh(tape, scores) : est_softmax(tape, scores));
	est_drop(tape, logits);
	return scores;
}

/* top_scores, selected_experts_indices and num_tokens_per_expert. x [tokens, hidden] is borrowed. */
static void route(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x, struct est_routing *ret,
		  struct est_tensor *ret_counts)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor scores = scores_of(pass, layer, x), work[2], sum = est_none, top;

	ret->indices = choose(pass, scores, work);
	top = est_hold(est_gather_rows(tape, scores, ret->indices, pairs_of(pass)));
	if (pass->model->norm_topk_prob) {
		sum = est_hold(est_add_scalar(tape, est_sum_to(tape, top, pass->tokens, EST_32BIT)));
		est_assign(tape, &top, est_divide(tape, top, sum));
	}
	est_assign(tape, &top, est_mul_scalar(tape, top));
	ret->weights = top;
	*ret_counts = est_variable(pass->tape, (uint64_t)pass->model->num_experts, EST_INT64);
	est_drop_all(tape, (struct est_tensor[]){ scores, work[0], sum, work[1] }, 4);
}

/* ---- ExpertParallel */

/* all_to_all_single(): as many rows come as go. The gradient takes the same way back. */
static const struct est_op exchange_op = { "AllToAll", est_backward_one };

static struct est_tensor exchange(struct est_tape *tape, struct est_tensor x)
{
	struct est_node *node = est_node_new(tape, &exchange_op, 1, &x);
	struct est_tensor out = est_output(tape, node, 0, est_empty(tape, x.numel, x.element));

	est_finish(tape, x);
	return out;
}

static uint64_t padded_rows(const struct est_pass *pass)
{
	uint64_t rows = pairs_of(pass) + ALIGNMENT * est_expert_share(pass->request, pass->model);

	return (rows + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

struct est_tensor est_titan_permutation(const struct est_pass *pass)
{
	return est_persistent(pass->tape, padded_rows(pass), EST_32BIT, EST_ACTIVATIONS);
}

/* _token_dispatch(): tokens go to their experts' ranks; a row of zeros, which the padding is made of, behind them;
 * sorted by expert. x is borrowed. ret: a rank's own, held */
static struct est_tensor dispatch(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	uint64_t rows = padded_rows(pass);
	struct est_tensor received = est_hold(exchange(tape, x)), fresh = est_variable(pass->tape, rows, EST_32BIT);
	struct est_tensor with_zeros, permuted;

	with_zeros = est_hold(est_cat(tape, received, est_empty(tape, hidden_of(pass), x.element)));
	permuted = est_hold(est_gather_rows(tape, with_zeros, layer->experts.permuted_indices, rows * hidden_of(pass)));
	est_drop(tape, with_zeros);
	est_drop(tape, received);
	est_drop(tape, fresh); /* they take the place of those before them */
	return permuted;
}

/* w2(silu(w1(x)) * w3(x)) of a rank's experts; x is borrowed. The result is held. */
static struct est_tensor run_experts(struct est_pass *pass, const struct est_experts *experts, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	uint64_t rows = padded_rows(pass), width = rows * (uint64_t)pass->model->moe_intermediate_size;
	struct est_tensor h, up;

	h = est_hold(est_silu(tape, est_grouped_mm(tape, x, est_leaf_tensor(tape, experts->w1), width, true)));
	up = est_grouped_mm(tape, x, est_leaf_tensor(tape, experts->w3), width, true);
	est_assign(tape, &h, est_mul(tape, h, up));
	up = est_hold(est_grouped_mm(tape, h, est_leaf_tensor(tape, experts->w2), rows * hidden_of(pass), true));
	est_drop(tape, h);
	return up;
}

/* _token_combine(): rows in the order in which they came, without the last, go back to their tokens' ranks. y, held,
 * moves in. */
static struct est_tensor combine(struct est_pass *pass, const struct est_layer *layer, struct est_tensor y)
{
	struct est_tape *tape = pass->tape;
	uint64_t sent = pairs_of(pass) * hidden_of(pass);
	struct est_tensor unpermuted = est_variable(pass->tape, sent + hidden_of(pass), y.element), out;

	unpermuted = est_put_rows(tape, unpermuted, layer->experts.permuted_indices, y);
	out = exchange(tape, est_slice(tape, unpermuted, sent));
	est_drop(tape, y);
	return out;
}

/* The experts' module: hooks stand around the exchanges. x is borrowed, the result held. */
static struct est_tensor call_experts(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	uint32_t module = pass->tape->leaves[layer->experts.w1].module;
	struct est_tensor y;

	x = dispatch(pass, layer, est_module_enter(pass->tape, module, x));
	y = combine(pass, layer, run_experts(pass, &layer->experts, x));
	est_drop(pass->tape, x); /* the call's argument */
	return est_hold(est_module_leave(pass->tape, module, y));
}

/* ---- MoE */

/* torch.bmm(top_scores, unsorted.float()).to(x.dtype) */
static struct est_tensor weigh(struct est_pass *pass, struct est_tensor top_scores, struct est_tensor unsorted)
{
	struct est_tape *tape = pass->tape;
	uint64_t numel = pass->tokens * hidden_of(pass);
	struct est_tensor in_fp32 = est_to(tape, est_reshape(tape, est_alias(tape, unsorted)), EST_32BIT);
	struct est_tensor weights = est_reshape(tape, est_alias(tape, top_scores));

	return est_to(tape, est_bmm(tape, weights, in_fp32, numel), unsorted.element);
}

struct est_tensor est_titan_mixture(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	uint64_t pairs = pairs_of(pass), numel = pairs * hidden_of(pass);
	struct est_tensor tokens = est_hold(est_reshape(tape, est_alias(tape, x)));
	struct est_tensor sorted, counts, sorted_scores, input, output, shared = est_none, unsorted, out;
	struct est_routing routing;

	route(pass, layer, tokens, &routing, &counts);
	/* TokenReorderer: argsort(), and the scores in its order, which weighing afterwards does not need */
	out = est_variable(pass->tape, pairs, EST_INT64);
	sorted = est_variable(pass->tape, pairs, EST_INT64);
	est_drop(tape, out);
	sorted_scores = est_variable(pass->tape, pairs, EST_32BIT);
	input = est_hold(est_gather_rows(tape, tokens, est_empty(tape, pairs, EST_INT64), numel));
	output = call_experts(pass, layer, input);
	if (layer->gate_proj.out)
		shared = est_hold(est_gated_mlp(pass, layer, tokens));
	unsorted = est_hold(est_put_rows(tape, est_variable(pass->tape, numel, output.element), sorted, output));
	out = est_hold(weigh(pass, routing.weights, unsorted));
	x = shared.numel ? est_add(tape, shared, out) : est_alias(tape, out);
	est_drop_all(tape, (struct est_tensor[]){ counts, sorted_scores, input, output, unsorted }, 5);
	est_drop_all(tape, (struct est_tensor[]){ out, shared, sorted, tokens, routing.weights, routing.indices }, 6);
	return est_reshape(tape, x);
}
