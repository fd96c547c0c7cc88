/* DeepSeek's sparse attention: a lightning indexer chooses the tokens that each token attends to.
 * modeling_deepseek_v32.py, modeling_glm_moe_dsa.py. */
#include "estimator/dsa.h"

#include "estimator/recurrent.h"

/* The number of elements that a query chooses among all keys. */
static uint64_t chosen(const struct est_pass *pass)
{
	uint64_t topk = (uint64_t)pass->model->index_topk;

	return topk < pass->sequence ? topk : pass->sequence;
}

/* torch.matmul(q.float(), k.float()), scaled, relu: [tokens, heads, keys]. Keys are copied for each query where
 * there are several sequences. q and k are borrowed. */
static struct est_tensor score(struct est_pass *pass, struct est_tensor q, struct est_tensor k)
{
	struct est_tape *tape = pass->tape;
	uint64_t numel = pass->tokens * (uint64_t)pass->model->index_n_heads * pass->sequence;
	struct est_tensor in[2] = { est_to(tape, q, EST_32BIT), est_none }, copy = est_none, product, scaled;

	in[1] = est_to(tape, k, EST_32BIT);
	for (unsigned i = 2; i-- > 0;)
		in[i] = est_autocast(tape, in[i]);
	if (pass->batch > 1)
		copy = est_empty(tape, in[1].numel * pass->sequence, in[1].element);
	product = est_empty(tape, numel, in[0].element);
	est_drop(tape, copy);
	est_finish(tape, in[0]);
	est_finish(tape, in[1]);
	scaled = est_empty(tape, numel, product.element);
	est_drop(tape, product);
	product = est_variable(tape, numel, scaled.element); /* relu's, in the place of the scaled ones */
	est_drop(tape, scaled);
	return product;
}

/* index_scores of every key, masked: fp32, but for autocast's products */
static struct est_tensor weigh(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x,
			       struct est_tensor scores)
{
	struct est_tape *tape = pass->tape;
	uint64_t numel = pass->tokens * pass->sequence;
	struct est_tensor weights = est_to(tape, est_linear(tape, &layer->indexer.weights_proj, x), EST_32BIT),
		index_scores, masked;

	weights = est_hold(est_mul_scalar(tape, weights));
	index_scores = est_empty(tape, numel, tape->autocast ? EST_16BIT : EST_32BIT);
	masked = pass->request->attention == EST_EAGER ? est_none : est_empty(tape, numel, EST_BYTE); /* ~attention_mask */
	scores = est_empty(tape, numel, index_scores.element);
	est_drop(tape, masked);
	est_drop(tape, index_scores);
	est_drop(tape, weights);
	return est_hold(scores);
}

/* index_scores.topk().indices.to(torch.int32), held; index_scores move in */
static struct est_tensor best(struct est_pass *pass, struct est_tensor index_scores)
{
	struct est_tape *tape = pass->tape;
	uint64_t numel = pass->tokens * chosen(pass);
	struct est_tensor values = est_empty(tape, numel, index_scores.element),
		indices = est_empty(tape, numel, EST_INT64), out;

	est_drop(tape, values);
	out = est_variable(tape, numel, EST_32BIT);
	est_drop(tape, indices);
	return out;
}

/* q, k = cat([rotated, rest]), held in embed[1]; rotated, held in embed[0]. What they are of, borrowed, stays: rest
 * is a view of it */
static void rotate(struct est_pass *pass, const struct est_layer *layer, struct est_tensor q, struct est_tensor k,
		   struct est_tensor embed[2][2])
{
	uint64_t width = (uint64_t)pass->model->qk_rope_head_dim, head = (uint64_t)pass->model->index_head_dim;
	struct est_tensor of[2] = { q, k }, part[2] = { q, k };

	for (unsigned i = 0; i < 2; i++)
		part[i].numel = of[i].numel / head * width;
	if (pass->model->architecture == EST_ARCH_GLM_MOE_DSA)
		est_apply_paired_rope(pass, est_layer_rope(pass, layer), true, part[0], part[1], embed[0]);
	else
		est_apply_rope(pass, est_layer_rope(pass, layer), part[0], part[1], embed[0]);
	for (unsigned i = 0; i < 2; i++)
		embed[1][i] = est_variable(pass->tape, of[i].numel, of[i].element);
}

/* DeepseekV32Indexer.forward, under torch.no_grad(): the indices of the chosen tokens, held */
static struct est_tensor index_tokens(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x,
				      struct est_tensor q_resid)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor q = est_hold(est_linear(tape, &layer->indexer.wq_b, q_resid)), k, embed[2][2], scores, index_scores;

	k = est_hold(est_torch_layer_norm(pass, &layer->indexer.k_norm, est_linear(tape, &layer->indexer.wk, x)));
	rotate(pass, layer, q, k, embed);
	scores = score(pass, embed[1][0], embed[1][1]);
	index_scores = weigh(pass, layer, x, scores);
	x = best(pass, index_scores);
	est_drop(tape, index_scores);
	est_drop(tape, scores);
	for (unsigned i = 0; i < 2; i++) {
		est_drop(tape, embed[0][i]);
		est_drop(tape, embed[1][i]);
	}
	est_drop(tape, q);
	est_drop(tape, k);
	return x;
}

/* ones().scatter(topk_indices.long(), False), held: true at the keys that were not chosen */
static struct est_tensor index_mask(struct est_pass *pass, struct est_tensor topk_indices)
{
	struct est_tape *tape = pass->tape;
	uint64_t scores = pass->tokens * pass->sequence;
	struct est_tensor ones = est_empty(tape, scores, EST_BYTE),
		indices = est_empty(tape, topk_indices.numel, EST_INT64), mask;

	mask = est_variable(tape, scores, EST_BYTE);
	est_drop(tape, indices);
	est_drop(tape, ones);
	return mask;
}

/* attention_mask & ~index_mask, or, of an additive mask, masked_fill(): held */
static struct est_tensor combine(struct est_pass *pass, struct est_tensor mask)
{
	struct est_tensor inverse, both;

	if (pass->request->attention == EST_EAGER)
		return est_variable(pass->tape, mask.numel, pass->mask.element);
	inverse = est_empty(pass->tape, mask.numel, EST_BYTE);
	both = est_variable(pass->tape, mask.numel, EST_BYTE);
	est_drop(pass->tape, inverse);
	return both;
}

/* What the layer before chose, held; in a recomputation the checkpoint has it among its arguments. */
static struct est_tensor chosen_before(struct est_pass *pass)
{
	struct est_tensor indices = est_hold(est_alias(pass->tape, pass->topk_indices));

	indices.numel = pass->tokens * chosen(pass);
	return indices;
}

struct est_tensor est_choose_tokens(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x,
				    struct est_tensor q_resid, struct est_tensor ret_frame[2])
{
	struct est_tape *tape = pass->tape;
	bool no_grad = tape->no_grad;

	tape->no_grad = true;
	ret_frame[0] = layer->indexed ? index_tokens(pass, layer, x, q_resid) : chosen_before(pass);
	tape->no_grad = no_grad;
	ret_frame[1] = index_mask(pass, ret_frame[0]);
	return combine(pass, ret_frame[1]);
}
