/* How tokens are given to experts: the TopKRouter classes of Transformers' modelling code. */
#include "estimator/routers.h"
#include "estimator/architecture.h"
#include "estimator/lora.h"
#include "estimator/moe.h"
#include "estimator/recurrent.h"
#include "estimator/router_loss.h"

static uint64_t choices(const struct est_pass *pass, int64_t per_token)
{
	return pass->tokens * (uint64_t)per_token;
}

/* ---- operators */

/* Zeros of the operand, into which the gradient is scattered */
static const struct est_op topk_op = { "Topk", est_backward_one };

/* torch.topk(x, k): values, and the indices held in ret_indices */
static struct est_tensor top_k(struct est_pass *pass, struct est_tensor x, struct est_tensor *ret_indices)
{
	struct est_tape *tape = pass->tape;
	struct est_node *node = est_node_new(tape, &topk_op, 1, &x);
	uint64_t pairs = choices(pass, pass->model->num_experts_per_tok);
	struct est_tensor values = est_empty(tape, pairs, x.element);

	*ret_indices = est_variable(tape, pairs, EST_INT64);
	est_save(tape, node, *ret_indices);
	est_finish(tape, x);
	return est_output(tape, node, 0, values);
}

/* The values of what was chosen, one for each index; both are borrowed */
static struct est_tensor chosen_values(struct est_tape *tape, struct est_tensor x, struct est_tensor indices)
{
	return est_gather_rows(tape, x, indices, indices.numel);
}

struct est_tensor est_best_experts(struct est_pass *pass, struct est_tensor probabilities, struct est_tensor *ret_indices)
{
	return top_k(pass, probabilities, ret_indices);
}

static struct est_tensor sum_of_each(struct est_pass *pass, struct est_tensor x)
{
	/* autocast sums into fp32 */
	return est_sum_to(pass->tape, x, pass->tokens, pass->tape->autocast ? EST_32BIT : x.element);
}

/* other's: -grad * ((self / other) / other); self's: grad / other. extra[0]: bytes of an element of a quotient */
static void backward_div(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	struct est_tensor work[3];
	uint64_t numel = node->edge_numel[0];
	uint8_t element = (uint8_t)node->extra[0];

	for (unsigned i = 0; i < 3; i++)
		work[i] = est_empty(tape, numel, i < 2 ? element : node->grad[0].element);
	ret[1] = est_empty(tape, numel, element);
	for (unsigned i = 3; i-- > 0;)
		est_drop(tape, work[i]);
	ret[0] = est_grad_for(tape, node, 0, element);
}
static const struct est_op div_op = { "Div", backward_div };

/* x /= divisor: for the divisor's gradient autograd keeps x as it was. x moves in, divisor is released if temporary. */
static struct est_tensor divide_in_place(struct est_tape *tape, struct est_tensor x, struct est_tensor divisor)
{
	struct est_node *node = est_node_new(tape, &div_op, 2, (struct est_tensor[]){ x, divisor });
	struct est_tensor copy = node ? est_empty(tape, x.numel, x.element) : est_none;

	if (node)
		node->extra[0] = divisor.element > x.element ? divisor.element : x.element;
	est_save(tape, node, divisor);
	est_save(tape, node, copy);
	est_drop(tape, copy);
	est_finish(tape, divisor);
	return est_output(tape, node, 0, x);
}

struct est_tensor est_divide(struct est_tape *tape, struct est_tensor x, struct est_tensor divisor)
{
	struct est_node *node = est_node_new(tape, &div_op, 2, (struct est_tensor[]){ x, divisor });
	uint8_t element = divisor.element > x.element ? divisor.element : x.element;
	struct est_tensor out;

	if (node)
		node->extra[0] = element;
	est_save(tape, node, divisor);
	est_save(tape, node, x);
	out = est_output(tape, node, 0, est_empty(tape, x.numel, element));
	est_finish(tape, divisor);
	est_finish(tape, x);
	return out;
}

/* the weight's gradient first, which is transposed */
static void backward_matmul(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	est_backward_products(tape, node, ret);
	ret[1].view = true;
}
static const struct est_op matmul_op = { "RouterMm", backward_matmul };

/* F.linear(x, weight) of matrices, with autocast's casts; both are borrowed */
static struct est_tensor multiply(struct est_pass *pass, struct est_tensor x, struct est_tensor weight)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor in[2] = { x, est_autocast(tape, weight) }, out;
	struct est_node *node;

	in[0] = est_autocast(tape, x);
	node = est_node_new(tape, &matmul_op, 2, in);
	if (node && in[1].requires_grad)
		est_save(tape, node, in[0]);
	if (node && in[0].requires_grad)
		est_save(tape, node, in[1]);
	out = est_output(tape, node, 0, est_empty(tape, choices(pass, pass->model->num_experts), in[0].element));
	est_finish(tape, in[0]);
	est_finish(tape, in[1]);
	return out;
}

/* F.linear(x, weight), or of both in fp32; some classes view x as a matrix first. The weight may be adapted; x is borrowed. */
enum { PLAIN = 0, VIEWED = 1, IN_FP32 = 2 };
static struct est_tensor router_logits(struct est_pass *pass, const struct est_linear *router, struct est_tensor x, unsigned how,
				       struct est_tensor ret_open[2])
{
	struct est_tape *tape = pass->tape;
	struct est_tensor tokens, in[2], logits;
	bool in_fp32 = how & IN_FP32;
	bool autocast = tape->autocast;

	ret_open[1] = est_lora_delta(tape, router);
	tape->autocast = autocast && !est_architecture_row(pass->model->architecture)->fp32_router;
	tokens = est_hold(how & VIEWED ? est_reshape(tape, est_alias(tape, x)) : est_alias(tape, x));
	in[0] = est_hold(in_fp32 ? est_to(tape, tokens, EST_32BIT) : est_alias(tape, tokens));
	ret_open[0] = est_lora_sum(tape, router, ret_open[1]);
	in[1] = est_hold(in_fp32 ? est_to(tape, ret_open[0], EST_32BIT) : est_alias(tape, ret_open[0]));
	logits = est_hold(multiply(pass, in[0], in[1]));
	est_drop(tape, in[0]);
	est_drop(tape, in[1]);
	est_drop(tape, tokens);
	tape->autocast = autocast;
	return logits;
}

/* ---- routers */

void est_call_router(struct est_pass *pass, const struct est_layer *layer, est_router *route, struct est_tensor x,
		     struct est_routing *ret)
{
	uint32_t module = layer->router.module;

	route(pass, layer, est_module_enter(pass->tape, module, x), ret);
	est_router_loss_record(pass, ret->logits);
	ret->weights = est_hold(est_module_leave(pass->tape, module, ret->weights));
}

void est_route_softmax(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x,
		       struct est_routing *ret)
{
	struct est_tape *tape = pass->tape;
	bool stays_fp32 = pass->model->architecture == EST_ARCH_MIXTRAL;
	struct est_tensor probabilities, weights, open[2];

	ret->logits = router_logits(pass, &layer->router, x, VIEWED, open);
	probabilities = est_hold(est_softmax(tape, est_to(tape, ret->logits, EST_32BIT)));
	weights = est_hold(top_k(pass, probabilities, &ret->indices));
	if (pass->model->norm_topk_prob)
		weights = est_hold(divide_in_place(tape, weights, sum_of_each(pass, weights)));
	ret->weights = weights;
	if (!stays_fp32) {
		ret->weights = est_hold(est_to(tape, weights, ret->logits.element));
		est_drop(tape, weights);
	}
	est_drop(tape, probabilities);
	est_drop_all(tape, open, 2);
}

struct est_tensor est_choose_evenly(struct est_pass *pass, struct est_tensor probabilities, struct est_tensor *ret_indices)
{
	struct est_tensor weights = est_hold(top_k(pass, probabilities, ret_indices));

	return est_hold(divide_in_place(pass->tape, weights, sum_of_each(pass, weights)));
}

void est_route_linear(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x, struct est_routing *ret)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor weights;

	ret->logits = est_hold(est_linear(tape, &layer->router, x));
	weights = est_hold(top_k(pass, est_softmax(tape, est_to(tape, ret->logits, EST_32BIT)), &ret->indices));
	weights = est_hold(divide_in_place(tape, weights, sum_of_each(pass, weights)));
	ret->weights = est_hold(est_to(tape, weights, x.element));
	est_drop(tape, weights);
}

void est_route_hunyuan(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x,
		       struct est_routing *ret)
{
	struct est_tape *tape = pass->tape;
	bool in_fp32 = layer->router.base == EST_BASE_DENSE; /* else its weight is bytes */
	struct est_tensor tokens = est_hold(est_to(tape, est_hold(x), in_fp32 ? EST_32BIT : x.element)), weights;

	ret->logits = est_hold(est_linear(tape, &layer->router, tokens));
	weights = est_hold(top_k(pass, est_softmax(tape, est_to(tape, ret->logits, EST_32BIT)), &ret->indices));
	weights = est_hold(divide_in_place(tape, weights, sum_of_each(pass, weights)));
	ret->weights = est_hold(est_to(tape, weights, ret->logits.element));
	est_drop(tape, weights);
	est_drop(tape, tokens);
}

/* The mask of the groups that are chosen by their scores [tokens, n_group]: true where an expert is in none. */
static struct est_tensor mask_groups(struct est_pass *pass, struct est_tensor work[3])
{
	struct est_tape *tape = pass->tape;
	uint64_t scores = choices(pass, pass->model->num_experts), groups = choices(pass, pass->model->n_group);
	uint64_t chosen = choices(pass, pass->model->topk_group);
	struct est_tensor values = est_variable(tape, chosen, EST_32BIT), in_group, mask;

	work[0] = est_variable(tape, chosen, EST_INT64);
	est_drop(tape, values);
	work[1] = est_variable(tape, groups, EST_32BIT);
	/* the mask of groups, expanded to their experts: a view where there is but one group */
	work[2] = pass->model->n_group > 1 ? est_variable(tape, scores, EST_32BIT) : est_none;
	in_group = est_variable(tape, scores, EST_BYTE);
	mask = est_empty(tape, scores, EST_BYTE);
	est_drop(tape, in_group);
	return mask;
}

/* What a choice among scores saves lives as long as its values do, where there is a graph that is no checkpoint's;
 * else it goes at once. */
static void keep_in_graph(struct est_tape *tape, struct est_tensor scores, struct est_tensor *saved)
{
	if (scores.requires_grad && !tape->packing)
		return;
	est_drop(tape, *saved);
	*saved = est_none;
}

/* DeepSeek-V2: groups by their best expert; what has no gradient is not kept. scores moves in. */
static struct est_tensor limit_to_groups(struct est_pass *pass, struct est_tensor scores, struct est_tensor work[5])
{
	uint64_t groups = choices(pass, pass->model->n_group);
	struct est_tensor limited;

	work[0] = est_variable(pass->tape, groups, EST_32BIT);
	work[1] = est_variable(pass->tape, groups, EST_INT64);
	keep_in_graph(pass->tape, scores, &work[1]);
	limited = est_hold(est_masked_fill(pass->tape, scores, mask_groups(pass, &work[2])));
	est_drop(pass->tape, scores);
	return limited;
}

void est_route_deepseek_v2(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x,
			   struct est_routing *ret)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor scores, work[5] = { { 0 } }, weights, open[2];

	ret->logits = router_logits(pass, &layer->router, x, VIEWED | IN_FP32, open);
	scores = est_hold(est_softmax(tape, est_to(tape, ret->logits, EST_32BIT)));
	if (pass->model->group_limited)
		scores = limit_to_groups(pass, scores, work);
	weights = est_hold(top_k(pass, scores, &ret->indices));
	ret->weights = est_hold(est_mul_scalar(tape, weights));
	est_drop(tape, weights);
	est_drop(tape, scores);
	est_drop_all(tape, work, 5);
	est_drop_all(tape, open, 2);
}

/* Scores that are corrected: autocast's 16 bits are those of the correction, unless that was kept in fp32
 * (_keep_in_fp32_modules_strict). */
static uint8_t corrected_element(const struct est_pass *pass)
{
	enum est_architecture architecture = pass->model->architecture;
	bool kept = architecture != EST_ARCH_KIMI_LINEAR && architecture != EST_ARCH_NEMOTRON_H;

	return pass->tape->autocast && !kept ? est_loaded_element(pass->request) : EST_32BIT;
}

/* The best two of each group, which live on as *ret_saved, and their sum, in fp32 whatever they are */
static struct est_tensor score_groups(struct est_pass *pass, struct est_tensor scores, uint8_t element, struct est_tensor *ret_saved)
{
	struct est_tape *tape = pass->tape;
	uint64_t groups = choices(pass, pass->model->n_group);
	struct est_tensor best = est_variable(tape, 2 * groups, element), sum, cast;

	*ret_saved = est_variable(tape, 2 * groups, EST_INT64);
	keep_in_graph(tape, scores, ret_saved);
	cast = est_to(tape, est_detach(tape, best), EST_32BIT);
	sum = est_variable(tape, groups, EST_32BIT);
	est_drop(tape, cast);
	est_drop(tape, best);
	return sum;
}

/* DeepSeek-V3 chooses by corrected scores: groups by the sum of their best two, then experts within them. Nothing of it
 * has a gradient that anyone asks for. Returns the indices; work lives as long as the router's frame. */
static struct est_tensor choose_corrected(struct est_pass *pass, struct est_tensor scores, struct est_tensor work[7])
{
	struct est_tape *tape = pass->tape;
	uint64_t pairs = choices(pass, pass->model->num_experts_per_tok);
	uint8_t element = corrected_element(pass);
	struct est_tensor corrected = est_variable(tape, scores.numel, element), best, indices;

	work[1] = score_groups(pass, scores, element, &work[0]);
	work[5] = est_hold(mask_groups(pass, &work[2]));
	work[6] = est_variable(tape, scores.numel, element);
	keep_in_graph(tape, scores, &work[5]);
	est_drop(tape, corrected);
	best = est_variable(tape, pairs, element);
	indices = est_variable(tape, pairs, EST_INT64);
	est_drop(tape, best);
	return indices;
}

void est_route_deepseek_v3(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x,
			   struct est_routing *ret)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor scores, weights, work[7], open[2];

	ret->logits = router_logits(pass, &layer->router, x, VIEWED | IN_FP32, open);
	scores = est_hold(est_tanh(tape, ret->logits)); /* sigmoid: it keeps its result too */
	ret->indices = choose_corrected(pass, scores, work);
	weights = est_hold(chosen_values(tape, scores, ret->indices));
	if (pass->model->norm_topk_prob)
		weights = est_hold(divide_in_place(tape, weights, est_add_scalar(tape, sum_of_each(pass, weights))));
	ret->weights = est_hold(est_mul_scalar(tape, weights));
	est_drop(tape, weights);
	est_drop_all(tape, work, 7);
	est_drop_all(tape, open, 2);
	est_drop(tape, scores);
}

void est_route_gpt_oss(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x,
		       struct est_routing *ret)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor best;

	ret->logits = est_hold(est_linear(tape, &layer->router, x));
	best = est_hold(top_k(pass, ret->logits, &ret->indices));
	ret->weights = est_hold(est_softmax(tape, best));
	est_drop(tape, best);
}

/* the best of logits.float(), softmax over them alone, type_as(hidden_states) */
void est_route_granite(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x, struct est_routing *ret)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor open[2], logits = router_logits(pass, &layer->router, x, PLAIN, open), best;

	ret->logits = est_hold(est_to(tape, logits, EST_32BIT));
	est_drop(tape, logits);
	best = est_hold(top_k(pass, ret->logits, &ret->indices));
	ret->weights = est_hold(est_to(tape, est_softmax(tape, best), x.element));
	est_drop(tape, best);
	est_drop_all(tape, open, 2);
}

/* _, indices = topk(scores + bias): what has no gradient is not kept; values and corrected live as long as the frame */
static struct est_tensor choose_best(struct est_pass *pass, struct est_tensor scores, struct est_tensor ret_frame[2])
{
	uint64_t pairs = choices(pass, pass->model->num_experts_per_tok);

	ret_frame[0] = est_variable(pass->tape, scores.numel, EST_32BIT);
	ret_frame[1] = est_variable(pass->tape, pairs, EST_32BIT);
	return est_variable(pass->tape, pairs, EST_INT64);
}

void est_route_minimax_m2(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x, struct est_routing *ret)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor scores, frame[2], weights, open[2];

	ret->logits = router_logits(pass, &layer->router, x, VIEWED, open);
	scores = est_hold(est_tanh(tape, est_to(tape, ret->logits, EST_32BIT))); /* sigmoid */
	ret->indices = choose_best(pass, scores, frame);
	weights = est_hold(chosen_values(tape, scores, ret->indices));
	ret->weights = est_hold(divide_in_place(tape, weights, sum_of_each(pass, weights)));
	est_drop(tape, scores);
	est_drop_all(tape, frame, 2);
	est_drop_all(tape, open, 2);
}

/* sigmoid in the logits' dtype; the corrected scores are fp32, as the correction is */
void est_route_lfm2(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x, struct est_routing *ret)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor scores, frame[2], weights, scaled, open[2];

	ret->logits = router_logits(pass, &layer->router, x, PLAIN, open);
	scores = est_hold(est_tanh(tape, ret->logits)); /* sigmoid */
	ret->indices = choose_best(pass, scores, frame);
	weights = est_hold(chosen_values(tape, scores, ret->indices));
	est_drop(tape, scores);
	if (pass->model->norm_topk_prob) {
		scaled = est_hold(est_divide(tape, weights, est_add_scalar(tape, sum_of_each(pass, weights))));
		est_drop(tape, weights);
		weights = scaled;
	}
	ret->weights = est_hold(est_mul_scalar(tape, weights));
	est_drop(tape, weights);
	est_drop_all(tape, frame, 2);
	est_drop_all(tape, open, 2);
}

/* All in fp32, outside of autocast; the router's weight is fp32 too. */
void est_route_ernie4_5(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x, struct est_routing *ret)
{
	struct est_tape *tape = pass->tape;
	bool autocast = tape->autocast;
	struct est_tensor probabilities, frame[2], chosen, weights, open[2];

	ret->logits = router_logits(pass, &layer->router, x, IN_FP32, open);
	tape->autocast = false;
	probabilities = est_hold(est_softmax(tape, ret->logits));
	ret->indices = choose_best(pass, probabilities, frame);
	est_drop(tape, frame[0]); /* a temporary here */
	chosen = est_hold(chosen_values(tape, probabilities, ret->indices));
	est_drop(tape, probabilities);
	weights = est_hold(est_divide(tape, chosen, est_clamp(tape, sum_of_each(pass, chosen), 1)));
	est_drop(tape, chosen);
	tape->autocast = autocast;
	ret->weights = est_hold(est_to(tape, weights, x.element));
	est_drop(tape, weights);
	est_drop(tape, frame[1]);
	est_drop_all(tape, open, 2);
}

/* What was scattered gets its part of the gradient. */
static const struct est_op scatter_op = { "ScatterSource", est_backward_one };

void est_route_llama4(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x, struct est_routing *ret)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor values, indices, scores;
	struct est_node *node;

	ret->logits = est_hold(est_linear(tape, &layer->router, x));
	ret->indices = est_none;
	values = est_hold(top_k(pass, ret->logits, &indices));
	scores = est_empty(tape, ret->logits.numel, ret->logits.element);
	node = est_node_new(tape, &scatter_op, 1, &values);
	est_save(tape, node, indices);
	scores = est_hold(est_output(tape, node, 0, scores));
	ret->weights = est_hold(est_to(tape, est_tanh(tape, est_to(tape, scores, EST_32BIT)), scores.element)); /* sigmoid */
	est_drop(tape, scores);
	est_drop(tape, values);
	est_drop(tape, indices);
}

void est_routing_drop(struct est_tape *tape, const struct est_routing *routing)
{
	est_drop(tape, routing->logits);
	est_drop(tape, routing->weights);
	est_drop(tape, routing->indices);
}
