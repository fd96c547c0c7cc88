/* Attention over a sequence that is dealt out to ranks, each of which attends with a part of the heads to all of it:
 * DeepSpeed's UlyssesSPAttentionHF (deepspeed/runtime/sequence_parallel/ulysses_sp.py of 0.19), which takes the place of
 * Transformers' attention function. Query, key, value and what comes out are exchanged by an all-to-all each, in the
 * forward and in the backward. Held to traces allocation by allocation. */
#include "estimator/attention.h"

/* node->extra: elements of a rank's part of the sequence; elements after the exchange; whether those are copied into the order
 * of the exchange in the backward, and out of it again */
enum { PART, EXCHANGED, COPIES, RESTORES };

/* What the frame holds until all is exchanged: query, key and value, and positions. */
enum { FRAME = 5 };

static uint64_t ranks_of(const struct est_pass *pass)
{
	return (uint64_t)pass->request->parallelism.context;
}

/* ---- from parts of the sequence to parts of the heads */

/* The gradient in the order of the ranks, exchanged, and back in that of the positions: of one head a view; of repeated heads
 * the sum. */
static void backward_gather(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	uint8_t element = node->grad[0].element;
	struct est_tensor ordered = node->extra[COPIES] ? est_empty(tape, node->extra[EXCHANGED], element) : est_none;
	struct est_tensor exchanged = est_empty(tape, node->extra[EXCHANGED], element);

	est_drop(tape, ordered);
	est_drop(tape, est_take_grad(node, 0));
	ret[0] = est_hold(node->extra[RESTORES] ? est_empty(tape, node->extra[PART], element) : exchanged);
	if (node->extra[RESTORES])
		est_drop(tape, exchanged);
}
static const struct est_op gather_op = { "UlyssesGather", backward_gather };

/* combine_sequence(): x, borrowed, of all heads; heads: of a rank. Held. Fewer heads than ranks are repeated. */
static struct est_tensor gather(struct est_pass *pass, struct est_tensor x, uint64_t heads)
{
	struct est_tape *tape = pass->tape;
	uint64_t numel = pass->tokens * ranks_of(pass) * heads * (uint64_t)pass->model->head_dim;
	struct est_node *node = est_node_new(tape, &gather_op, 1, &x);
	struct est_tensor repeated = numel > x.numel ? est_empty(tape, numel, x.element) : est_none;
	struct est_tensor ordered = est_empty(tape, numel, x.element), exchanged;

	if (node) {
		node->extra[PART] = x.numel;
		node->extra[EXCHANGED] = numel;
		node->extra[COPIES] = heads > 1 || pass->batch > 1;
		node->extra[RESTORES] = heads > 1 || numel > x.numel;
	}
	est_drop(tape, repeated);
	exchanged = est_empty(tape, numel, x.element);
	est_drop(tape, ordered);
	return est_hold(est_output(tape, node, 0, exchanged));
}

/* rearrange("sl bs hc_l hs -> bs hc_l sl hs").contiguous(): of one head of one sequence the same */
static void order_heads(struct est_pass *pass, struct est_tensor *x, uint64_t heads)
{
	struct est_tensor gathered = *x;

	if (heads == 1 && pass->batch == 1)
		return;
	x->storage = est_empty(pass->tape, gathered.numel, gathered.element).storage;
	est_drop(pass->tape, gathered);
}

/* ---- and back */

static void backward_scatter(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	uint8_t element = node->grad[0].element;
	struct est_tensor ordered = est_empty(tape, node->extra[PART], element);

	ret[0] = est_variable(tape, node->extra[PART], element);
	est_drop(tape, ordered);
	est_drop(tape, est_take_grad(node, 0));
}
static const struct est_op scatter_op = { "UlyssesScatter", backward_scatter };

/* _partition_global_sequence(), and the caller's contiguous(): x, which moves in. The frame goes in between. */
static struct est_tensor scatter(struct est_pass *pass, struct est_tensor x, const struct est_tensor frame[FRAME])
{
	struct est_tape *tape = pass->tape;
	struct est_node *node = est_node_new(tape, &scatter_op, 1, &x);
	bool batched = pass->batch > 1;
	struct est_tensor ordered = batched ? est_empty(tape, x.numel, x.element) : est_none;
	struct est_tensor exchanged = est_empty(tape, x.numel, x.element);
	struct est_tensor merged = est_empty(tape, x.numel, x.element), out = merged;

	if (node)
		node->extra[PART] = x.numel;
	est_drop(tape, exchanged);
	est_drop(tape, ordered);
	est_drop_all(tape, frame, FRAME);
	est_drop(tape, x);
	if (batched) {
		out = est_empty(tape, x.numel, x.element);
		est_drop(tape, merged);
	}
	return est_output(tape, node, 0, out);
}

/* ---- */

/* A rank's part of the heads. */
static struct est_model part_of(const struct est_model *model, int64_t ranks)
{
	struct est_model part = *model;

	part.num_attention_heads /= ranks;
	part.num_key_value_heads = part.num_key_value_heads > ranks ? part.num_key_value_heads / ranks : 1;
	return part;
}

struct est_tensor est_ulysses_attention(struct est_pass *pass, const struct est_layer *layer, const struct est_tensor qkv[3])
{
	uint64_t ranks = ranks_of(pass);
	const struct est_model part = part_of(pass->model, (int64_t)ranks);
	const uint64_t heads[3] = { (uint64_t)part.num_attention_heads, (uint64_t)part.num_key_value_heads,
				    (uint64_t)part.num_key_value_heads };
	struct est_pass whole = *pass;
	struct est_tensor frame[FRAME];

	whole.model = &part;
	whole.sequence *= ranks;
	whole.tokens *= ranks;
	whole.gathers_sequence = true;
	for (unsigned i = 3; i < FRAME; i++) /* every rank's position_ids, and all of them in one */
		frame[i] = est_buffer(pass->tape, whole.tokens, EST_INT64);
	for (unsigned i = 0; i < 3; i++)
		frame[i] = gather(pass, qkv[i], heads[i]);
	for (unsigned i = 0; i < 3; i++)
		order_heads(pass, &frame[i], heads[i]);
	return scatter(pass, est_hold(est_attention(&whole, layer, frame[0], frame[1], frame[2])), frame);
}

/* Gradients come back position by position, and those of one head a rank in the order of the ranks. */
struct est_permuted est_ulysses_permutes(const struct est_pass *pass)
{
	int64_t ranks = (int64_t)ranks_of(pass);
	bool batched = pass->batch > 1;

	return (struct est_permuted){ batched || pass->model->num_attention_heads == ranks,
				      batched || pass->model->num_key_value_heads == ranks };
}
