/* Attention over a sequence that is dealt out to the ranks of context parallelism: context_parallel() of torch's
 * distributed.tensor.experimental, _context_parallel/_attention.py of 2.13, keys and values gathered once in each
 * direction (_RotateMethod.ALL_GATHER, the default of torch, accelerate and torchtitan), partial results merged in
 * fp32.
 *
 * A rank has a part of the head of each sequence and one of its tail. In each step but the first it attends to the
 * first half of another rank's keys: so does the last rank in all of them, which is replayed. */
#include "estimator/attention.h"

enum { STEPS_MAX = 4 };

struct ring {
	struct est_pass *pass;
	enum est_fused_kernel kernel;
	struct est_fused_call call;
};

static uint64_t ranks_of(const struct est_pass *pass)
{
	return (uint64_t)pass->request->parallelism.context;
}

/* Steps of the ring that are traced: all but the first and the last, which nothing is sent after, allocate the same. */
static uint64_t steps_of(const struct est_pass *pass)
{
	return ranks_of(pass) < STEPS_MAX ? ranks_of(pass) : STEPS_MAX;
}

/* key.contiguous(): heads are views of the projection's rows, unless there is one alone. */
static struct est_tensor contiguous(struct est_pass *pass, struct est_tensor x)
{
	return pass->model->num_key_value_heads == 1 ? est_none : est_empty(pass->tape, x.numel, x.element);
}

/* ---- forward */

/* _SDPAMerger._merge_one(): out - sigmoid(block_lse - lse) * (out - block_out), in fp32 */
static void merge(struct est_tape *tape, struct est_tensor *merged, struct est_tensor block)
{
	struct est_tensor difference, product, result;

	if (!merged->storage) {
		*merged = block;
		return;
	}
	difference = est_empty(tape, block.numel, EST_32BIT);
	product = est_empty(tape, block.numel, EST_32BIT);
	est_drop(tape, difference);
	result = est_empty(tape, block.numel, EST_32BIT);
	est_drop(tape, product);
	est_assign(tape, merged, result);
	est_drop(tape, block);
}

/* _templated_ring_attention(); lse, in fp32, is that of all keys in the end */
static struct est_tensor attend(struct est_pass *pass, const struct est_fused_call *call, struct est_tensor *ret_lse)
{
	struct est_tape *tape = pass->tape;
	uint64_t ranks = ranks_of(pass), steps = steps_of(pass), pair = call->in[1].numel + call->in[2].numel,
		lines = pass->tokens * (uint64_t)pass->model->num_attention_heads;
	struct est_tensor key = contiguous(pass, call->in[1]), value = contiguous(pass, call->in[2]);
	struct est_tensor gathered = est_none, out = est_none, merged = est_none, lse = est_none, result;

	for (uint64_t i = 0; i < steps; i++) {
		struct est_tensor sent = i + 1 < steps ? est_empty(tape, pair, call->in[1].element) : est_none;

		if (i == 0)
			gathered = est_empty(tape, ranks * pair, call->in[1].element);
		est_drop(tape, sent);
		est_assign(tape, &out, est_empty(tape, call->output, call->in[0].element));
		est_assign(tape, &lse, est_empty(tape, lines, EST_32BIT));
		merge(tape, &merged, est_empty(tape, call->output, EST_32BIT));
		if (i == 0) {
			est_drop(tape, key);
			est_drop(tape, value);
		}
	}
	result = est_result(tape, EST_RESULT_OF_ATTENTION, call->output, call->in[0].element);
	*ret_lse = est_result(tape, EST_RESULT_OF_ATTENTION, lines, EST_32BIT);
	est_drop(tape, lse);
	est_drop(tape, merged);
	est_drop(tape, out);
	est_drop(tape, gathered);
	return result;
}

/* ---- backward */

/* What goes round the ring: gradients of keys and values in fp32, as they were sent and as they come. */
struct travellers {
	struct est_tensor key, value, sent, came;
};

/* Those of another rank's keys come, and the first half is added to: _partial_update() concatenates. Then all go on. */
static void pass_on(struct est_tape *tape, struct travellers *grads, bool first, uint64_t key, uint64_t value)
{
	if (!first) {
		est_assign(tape, &grads->sent, est_none);
		est_assign(tape, &grads->key, est_empty(tape, key, EST_32BIT));
		est_assign(tape, &grads->value, est_empty(tape, value, EST_32BIT));
	}
	est_assign(tape, &grads->sent, est_empty(tape, key + value, EST_32BIT));
	est_assign(tape, &grads->came, est_empty(tape, key + value, EST_32BIT));
}

static void drop_travellers(struct est_tape *tape, const struct travellers *grads)
{
	est_drop(tape, grads->key);
	est_drop(tape, grads->value);
	est_drop(tape, grads->sent);
	est_drop(tape, grads->came);
}

/* The kernel's gradients of a step, all of the queries against all or half of the keys. */
static void kernel_gradients(const struct ring *ring, bool half, struct est_tensor grads[3])
{
	struct est_fused_call call = ring->call;
	struct est_tensor fresh[3];

	call.half_keys = half;
	for (unsigned i = 1; i < 3 && half; i++)
		call.in[i].numel /= 2;
	est_fused_gradients(ring->pass, ring->kernel, &call, fresh);
	for (unsigned i = 0; i < 3; i++)
		est_assign(ring->pass->tape, &grads[i], fresh[i]);
}

/* Both gradients are views of what came last, in the keys' dtype. */
static void hand_over(struct est_tape *tape, const struct est_fused_call *call, struct est_tensor ret[])
{
	uint64_t key = call->in[1].numel, value = call->in[2].numel;

	ret[1] = est_empty(tape, key + value, call->in[1].element);
	ret[1].view = true;
	ret[2] = est_alias(tape, ret[1]);
	ret[1].numel = key;
	ret[2].numel = value;
}

/* _templated_ring_attention_backward() */
static void backward_ring(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	const struct ring *ring = node->context;
	const struct est_tensor *in = ring->call.in;
	uint64_t ranks = ranks_of(ring->pass), steps = steps_of(ring->pass), pair = in[1].numel + in[2].numel;
	struct est_tensor query = est_empty(tape, in[0].numel, EST_32BIT), sent = est_none, gathered = est_none,
		grads[3] = { { 0 } };
	struct travellers round = { est_empty(tape, in[1].numel, EST_32BIT), est_empty(tape, in[2].numel, EST_32BIT),
				    est_none, est_none };
	struct est_tensor key = contiguous(ring->pass, in[1]), value = contiguous(ring->pass, in[2]);

	for (uint64_t i = 0; i < steps; i++) {
		if (i + 1 < steps)
			est_assign(tape, &sent, est_empty(tape, pair, in[1].element));
		if (i == 0)
			gathered = est_empty(tape, ranks * pair, in[1].element);
		kernel_gradients(ring, i > 0, grads);
		pass_on(tape, &round, i == 0, in[1].numel, in[2].numel);
		if (i == 0) {
			est_drop(tape, key);
			est_drop(tape, value);
		}
	}
	ret[0] = est_empty(tape, in[0].numel, in[0].element);
	ret[0].view = true;
	est_drop(tape, query);
	hand_over(tape, &ring->call, ret);
	drop_travellers(tape, &round);
	est_drop_all(tape, grads, 3);
	est_drop(tape, sent);
	est_drop(tape, gathered);
}
static const struct est_op ring_op = { "RingAttention", backward_ring };

/* ---- */

struct est_tensor est_ring_attention(struct est_pass *pass, enum est_fused_kernel kernel,
				     const struct est_fused_call *call)
{
	struct est_tape *tape = pass->tape;
	struct est_node *node = est_node_new(tape, &ring_op, 3, call->in);
	struct ring *ring = node && !tape->recomputing ? est_arena_take(tape->arena, 1, sizeof(*ring)) : NULL;
	struct est_tensor out, lse;

	if (ring)
		*ring = (struct ring){ pass, kernel, *call };
	else if (node && !tape->recomputing)
		tape->exhausted = true;
	if (node)
		node->context = ring;
	est_save_all(tape, node, call->in, 3);
	out = attend(pass, call, &lse);
	est_save(tape, node, out);
	est_save(tape, node, lse);
	est_drop(tape, lse);
	for (unsigned i = 0; i < 3; i++)
		est_finish(tape, call->in[i]);
	return est_output(tape, node, 0, out);
}
