/* Kimi Delta Attention as Transformers' modelling code runs it where flash-linear-attention is not installed:
 * chunk_kimi_delta_attention of modeling_kimi_linear.py. Each feature of a head decays by itself, so that what lies between two
 * positions of a chunk has an element for each feature: the largest tensors of the model by far. */
#include "estimator/kimi_delta.h"
#include "estimator/chunks.h"
#include "estimator/moe.h"

/* The scan is run chunk by chunk up to SCANNED; beyond, some chunks are run as one that keeps as much as all of them: none of the last
 * APART, where the backward begins, and most is alive. */
enum { SCANNED = 32, APART = 2 };

/* Sizes in elements of what one chunk of all heads and sequences makes; of all chunks: so many times that. */
struct sizes {
	uint64_t chunks, rows, heads, scores, pairs, state; /* rows: of positions; heads: q, k or v; pairs: scores of each feature */
};

struct rule {
	struct est_variables frame; /* of chunk_kimi_delta_attention */
	struct sizes one;
	struct est_tensor q, k, v, g, beta, k_beta, v_beta, decay_mask, attn, k_cumdecay;
};

/* ---- before the scan */

/* x.transpose(1, 2).contiguous().to(torch.float32): no copy of one head that lies so already */
static struct est_tensor by_head(struct est_tape *tape, struct est_tensor x, bool lies_so)
{
	x = est_alias(tape, x);
	return est_hold(est_to(tape, lies_so ? x : est_contiguous(tape, x), EST_32BIT));
}

/* x / torch.sqrt((x * x).sum(-1) + eps); x, held, moves in, the result is held */
static struct est_tensor l2norm(struct est_tape *tape, struct est_tensor x, uint64_t rows)
{
	struct est_tensor sum = est_sum_last(tape, est_mul(tape, x, x), rows);
	struct est_tensor inv_norm = est_hold(est_sqrt(tape, est_add_scalar(tape, sum)));
	struct est_tensor normed = est_hold(est_divide(tape, x, inv_norm));

	est_drop(tape, inv_norm);
	est_drop(tape, x);
	return normed;
}

/* F.pad(x), x moves in */
static struct est_tensor padded(struct est_tape *tape, struct est_tensor x, uint64_t numel)
{
	struct est_tensor out = est_pad(tape, x, numel);

	est_drop(tape, x);
	return out;
}

/* All in fp32, by head, q and k normed, padded to whole chunks. qkv are borrowed views, beta and g borrowed */
static void prepare(struct est_pass *pass, const struct est_tensor qkv[3], struct est_tensor beta, struct est_tensor g,
		    struct rule *rule)
{
	struct est_tape *tape = pass->tape;
	uint64_t heads = (uint64_t)pass->model->linear_num_value_heads, all = rule->one.chunks * rule->one.heads;
	struct est_tensor in[5], scaled;

	for (unsigned i = 0; i < 5; i++)
		in[i] = by_head(tape, i < 3 ? qkv[i] : i == 3 ? beta : g, i >= 3 && heads == 1);
	for (unsigned i = 0; i < 2; i++)
		in[i] = l2norm(tape, in[i], pass->tokens * heads);
	scaled = est_hold(est_mul_scalar(tape, est_pad(tape, in[0], all)));
	est_drop(tape, in[0]);
	rule->q = scaled;
	rule->k = est_hold(padded(tape, in[1], all));
	rule->v = est_hold(padded(tape, in[2], all));
	rule->g = est_hold(padded(tape, in[4], all));
	rule->beta = est_keep(&rule->frame, padded(tape, in[3], rule->one.chunks * rule->one.rows));
}

/* A mask of a chunk's positions: a triangle of ones. */
static struct est_tensor triangle(struct est_tape *tape)
{
	struct est_tensor ones = est_empty(tape, EST_CHUNK * EST_CHUNK, EST_BYTE);
	struct est_tensor mask = est_variable(tape, EST_CHUNK * EST_CHUNK, EST_BYTE);

	est_drop(tape, ones);
	return mask;
}

/* (a.unsqueeze(-2) * b.unsqueeze(-3) * decay).sum(-1).masked_fill(mask, 0): scores of numel pairs of positions. decay is released
 * when temporary */
static struct est_tensor scores_of(struct est_tape *tape, struct est_tensor pairs, struct est_tensor decay, struct est_tensor mask,
				   uint64_t numel)
{
	return est_masked_fill(tape, est_sum_last(tape, est_mul(tape, pairs, decay), numel), mask);
}

/* What decays between two positions, and the scores of k_beta and k with it */
static void score_chunks(struct est_tape *tape, struct rule *rule)
{
	uint64_t pairs = rule->one.chunks * rule->one.pairs;
	struct est_tensor mask = est_keep(&rule->frame, triangle(tape)), strict = est_keep(&rule->frame, triangle(tape)), scores;

	rule->decay_mask = est_keep(&rule->frame,
				    est_exp(tape, est_masked_fill(tape, est_sub_outer(tape, rule->g, rule->g, pairs), strict)));
	scores = est_mul_outer(tape, est_unsqueezed(tape, rule->k_beta), est_unsqueezed(tape, rule->k), pairs);
	scores = scores_of(tape, scores, rule->decay_mask, mask, rule->one.chunks * rule->one.scores);
	rule->attn = est_hold(est_neg(tape, scores));
}

/* x[rows][columns].clone(): of x first, then of that, numel elements; x is borrowed */
static struct est_tensor clone_of(struct est_tape *tape, struct est_tensor x, uint64_t first, uint64_t numel)
{
	return est_contiguous(tape, est_slice(tape, est_part(tape, x, first), numel));
}

/* Forward substitution, a row of each chunk at a time: attn[..., i, :i] = row + (row.unsqueeze(-1) * sub).sum(-2) */
static void substitute(struct est_tape *tape, struct rule *rule)
{
	uint64_t rows = rule->one.chunks * rule->one.rows, matrices = rows / EST_CHUNK;
	struct est_tensor row = est_none, sub = est_none, sum;

	for (uint64_t i = 1; i < EST_CHUNK; i++) {
		est_assign(tape, &row, clone_of(tape, rule->attn, rows, matrices * i));
		est_assign(tape, &sub, clone_of(tape, rule->attn, rows * i, matrices * i * i));
		sum = est_sum_last(tape, est_mul(tape, est_unsqueezed(tape, row), sub), matrices * i);
		rule->attn = est_copy_into_slice(tape, rule->attn, est_add(tape, row, sum), 0);
	}
	est_keep(&rule->frame, row);
	est_keep(&rule->frame, sub);
}

/* What each chunk is to itself: the values that the scan starts from */
static void transform(struct est_tape *tape, struct rule *rule)
{
	uint64_t heads = rule->one.chunks * rule->one.heads;
	struct est_tensor eye, attn, decayed;

	rule->v_beta = est_hold(est_mul(tape, rule->v, est_unsqueezed(tape, rule->beta)));
	rule->k_beta = est_hold(est_mul(tape, rule->k, est_unsqueezed(tape, rule->beta)));
	rule->q = est_keep(&rule->frame, est_reshape(tape, est_give_up(rule->q)));
	rule->k = est_keep(&rule->frame, est_reshape(tape, est_give_up(rule->k)));
	rule->k_beta = est_keep(&rule->frame, est_reshape(tape, est_give_up(rule->k_beta)));
	rule->v_beta = est_keep(&rule->frame, est_reshape(tape, est_give_up(rule->v_beta)));
	rule->g = est_keep(&rule->frame, est_cumsum(tape, est_reshape(tape, est_give_up(rule->g))));
	score_chunks(tape, rule);
	substitute(tape, rule);
	eye = est_empty(tape, EST_CHUNK * EST_CHUNK, EST_32BIT);
	attn = est_keep(&rule->frame, est_add(tape, rule->attn, eye));
	est_drop(tape, rule->attn);
	decayed = est_chunk_product(tape, attn, rule->v_beta, heads);
	est_drop(tape, rule->v);
	rule->v = est_keep(&rule->frame, decayed);
	decayed = est_hold(est_mul(tape, rule->k_beta, est_exp(tape, rule->g)));
	rule->k_cumdecay = est_keep(&rule->frame, est_chunk_product(tape, attn, decayed, heads));
	est_drop(tape, decayed);
}

/* ---- the scan */

/* Variables of the loop's body. */
struct body {
	struct est_tensor attn_inter, attn_intra, v_prime, v_new, state, core;
};

/* a @ b, of which a, temporary, is released */
static struct est_tensor product(struct est_tape *tape, struct est_tensor a, struct est_tensor b, uint64_t numel)
{
	struct est_tensor out = est_chunk_product(tape, a, b, numel);

	est_finish(tape, a);
	return out;
}

/* state * g[-1].exp() + (k * (g[-1:] - g).exp()).transpose(-1, -2) @ v_new */
static void update_state(struct est_tape *tape, const struct sizes *one, struct est_tensor k, struct est_tensor g, struct body *body)
{
	uint64_t ends = one->heads / EST_CHUNK;
	struct est_tensor decayed = est_mul(tape, body->state, est_reshape(tape, est_exp(tape, est_part(tape, g, ends)))), update;

	update = est_mul(tape, k, est_exp(tape, est_sub(tape, est_part(tape, g, ends), g)));
	update = product(tape, update, body->v_new, one->state);
	est_assign(tape, &body->state, est_add(tape, decayed, update));
}

/* What a chunk that is not the first keeps, in elements of fp32: decays, pairs of q and k, the state, and the operands of products:
 * queries, scores, v_new and keys; under autocast these are casts, and so is the state, of which there are two */
static uint64_t kept_by_chunk(const struct est_tape *tape, const struct sizes *one)
{
	uint64_t operands = 3 * one->heads + one->scores, decays = 2 * one->heads + one->heads / EST_CHUNK;

	return decays + one->pairs + one->state + (tape->autocast ? (operands + 2 * one->state) / 2 : operands);
}

/* One chunk, or several that are run as one; the node count at which the state's update begins is returned */
static uint32_t scan_chunk(struct est_tape *tape, struct rule *rule, uint64_t several, struct est_tensor mask, struct body *body)
{
	const struct sizes *one = &rule->one;
	const struct est_tensor whole[4] = { rule->q, rule->k, rule->v, rule->g };
	struct est_tensor in[4], pairs; /* q, k, v, g of the chunk */
	uint32_t unused;

	for (unsigned i = 0; i < 4; i++)
		in[i] = est_hold(est_part(tape, whole[i], one->heads));
	est_assign(tape, &body->attn_inter, product(tape, est_mul(tape, in[0], est_exp(tape, in[3])), body->state, one->heads));
	pairs = est_mul_outer(tape, est_unsqueezed(tape, in[0]), est_unsqueezed(tape, in[1]), one->pairs);
	est_assign(tape, &body->attn_intra, scores_of(tape, pairs, est_part(tape, rule->decay_mask, one->pairs), mask, one->scores));
	est_assign(tape, &body->v_prime, product(tape, est_part(tape, rule->k_cumdecay, one->heads), body->state, one->heads));
	est_assign(tape, &body->v_new, est_sub(tape, in[2], body->v_prime));
	pairs = est_add(tape, body->attn_inter, est_chunk_product(tape, body->attn_intra, body->v_new, one->heads));
	body->core = est_copy_into_slice(tape, body->core, pairs, (several - 1) * kept_by_chunk(tape, one));
	unused = tape->node_count;
	update_state(tape, one, in[1], in[3], body);
	est_drop_all(tape, in, 4);
	return unused;
}

/* How many chunks run number i of runs stands for. */
static uint64_t chunks_of_run(uint64_t chunks, uint64_t runs, uint64_t i)
{
	uint64_t shared = chunks - APART, by = runs - APART;

	if (chunks <= SCANNED || i >= by)
		return 1;
	return shared * (i + 1) / by - shared * i / by;
}

static struct est_tensor scan(struct est_pass *pass, struct rule *rule)
{
	struct est_tape *tape = pass->tape;
	uint64_t chunks = rule->one.chunks, runs = chunks < SCANNED ? chunks : SCANNED;
	uint8_t element = rule->v.element;
	struct body body = { .state = est_variable(tape, rule->one.state, element) };
	struct est_tensor mask;
	uint32_t unused = tape->node_count;

	body.core = est_variable(tape, rule->v.numel, element);
	mask = est_keep(&rule->frame, triangle(tape));
	for (uint64_t i = 0; i < runs; i++)
		unused = scan_chunk(tape, rule, chunks_of_run(chunks, runs, i), mask, &body);
	est_drop(tape, body.state);
	est_discard_nodes(tape, unused, tape->node_count); /* nobody asks for the last state */
	est_keep(&rule->frame, body.attn_inter);
	est_keep(&rule->frame, body.attn_intra);
	est_keep(&rule->frame, body.v_prime);
	est_keep(&rule->frame, body.v_new);
	return body.core;
}

struct est_tensor est_chunk_kimi_delta(struct est_pass *pass, const struct est_tensor qkv[3], struct est_tensor beta,
				       struct est_tensor g)
{
	struct est_tape *tape = pass->tape;
	uint64_t heads = (uint64_t)pass->model->linear_num_value_heads, width = (uint64_t)pass->model->linear_value_head_dim;
	uint64_t chunks = (pass->sequence + EST_CHUNK - 1) / EST_CHUNK, rows = pass->batch * heads * EST_CHUNK;
	struct rule rule = { .one = { chunks, rows, rows * width, rows * EST_CHUNK, rows * EST_CHUNK * width,
				      pass->batch * heads * width * width } };
	bool pads = pass->sequence % EST_CHUNK != 0;
	struct est_tensor core, out;

	prepare(pass, qkv, beta, g, &rule);
	transform(tape, &rule);
	core = est_reshape(tape, est_give_up(scan(pass, &rule)));
	core = est_hold(pads ? est_slice(tape, core, qkv[2].numel) : core);
	out = est_alias(tape, core);
	if (heads > 1 || (pads && pass->batch > 1)) /* transpose(1, 2).contiguous() */
		out = est_contiguous(tape, out);
	out = est_hold(est_to(tape, out, qkv[0].element));
	est_drop(tape, core);
	est_variables_drop(tape, &rule.frame);
	return out;
}
