/* ChunkGatedDeltaRuleFunction of flash-linear-attention 0.6 (fla/ops/gated_delta_rule/chunk.py): the gated delta rule by
 * Triton kernels. What lies within chunks is made again in the backward; kept are v by itself,
 * q and k normed, the sums of gates and the solved scores. */
#include "estimator/chunks.h"
#include "estimator/kernels.h"

/* What node->extra holds: elements of q or k; the same of all value heads; of v; of g or beta; of the states of all chunks;
 * the dtype of q, k and v, and that of their sums: fp32 under autocast. */
enum { QUERY, KEYS, VALUE, GATE, STATES, ELEMENT, SUMMED };

/* dq and dk of each value head, summed over those that share a key head; the first moves in */
static struct est_tensor sum_of_heads(struct est_tape *tape, const struct est_node *node, struct est_tensor by_value_head)
{
	struct est_tensor sum;

	if (node->extra[KEYS] == node->extra[QUERY])
		return by_value_head;
	sum = est_empty(tape, node->extra[QUERY], (uint8_t)node->extra[SUMMED]);
	est_drop(tape, by_value_head);
	return sum;
}

/* chunk_bwd_dqkwg(): ret: dq, dk, dw, dg */
static void backward_dqkwg(struct est_tape *tape, const struct est_node *node, struct est_tensor ret[4])
{
	uint8_t element = (uint8_t)node->extra[ELEMENT];
	struct est_tensor dg;

	ret[0] = est_empty(tape, node->extra[KEYS], element);
	ret[1] = est_empty(tape, node->extra[KEYS], element);
	dg = est_empty(tape, node->extra[GATE], EST_32BIT); /* of 128 features at once, where shared memory holds them */
	ret[2] = est_empty(tape, node->extra[KEYS], element);
	ret[0] = sum_of_heads(tape, node, ret[0]);
	ret[1] = sum_of_heads(tape, node, ret[1]);
	ret[3] = est_empty(tape, node->extra[GATE], EST_32BIT);
	est_drop(tape, dg);
}

/* prepare_wy_repr_bwd(): ret: dk2, dv, db, dg2 */
static void backward_wy(struct est_tape *tape, const struct est_node *node, struct est_tensor ret[4])
{
	uint8_t element = (uint8_t)node->extra[ELEMENT];

	ret[0] = est_empty(tape, node->extra[KEYS], element);
	ret[1] = est_empty(tape, node->extra[VALUE], element);
	ret[3] = est_empty(tape, node->extra[GATE], EST_32BIT);
	ret[2] = est_empty(tape, node->extra[GATE], element);
	ret[0] = sum_of_heads(tape, node, ret[0]);
}

/* l2norm_bwd(): the gradient of what was normed takes the place of that of the norm. */
static struct est_tensor backward_norm(struct est_tape *tape, const struct est_node *node, struct est_tensor grad)
{
	struct est_tensor dx = est_empty(tape, node->extra[QUERY], (uint8_t)node->extra[ELEMENT]);

	est_drop(tape, grad);
	return dx;
}

/* The order of ret is that of the inputs: q, k, v, g, beta. */
static void backward_rule(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	uint8_t element = (uint8_t)node->extra[ELEMENT];
	/* w, u, h, v_new, then dv of the chunks by themselves, dh, dv of all */
	const uint64_t sizes[7] = { node->extra[KEYS], node->extra[VALUE], node->extra[STATES], node->extra[VALUE],
				    node->extra[VALUE], node->extra[STATES], node->extra[VALUE] };
	struct est_tensor local[7], dqkwg[4], wy[4];

	for (unsigned i = 0; i < 7; i++)
		local[i] = est_empty(tape, sizes[i], element);
	est_drop(tape, local[4]);
	backward_dqkwg(tape, node, dqkwg);
	backward_wy(tape, node, wy);
	est_drop(tape, local[6]);
	ret[3] = est_empty(tape, node->extra[GATE], EST_32BIT); /* chunk_local_cumsum(dg) */
	for (unsigned i = 0; i < 6; i++)
		if (i != 4)
			est_drop(tape, local[i]);
	est_drop(tape, dqkwg[2]);
	est_drop(tape, dqkwg[3]);
	est_drop(tape, wy[0]);
	est_drop(tape, wy[3]);
	ret[0] = backward_norm(tape, node, dqkwg[0]);
	ret[1] = backward_norm(tape, node, dqkwg[1]);
	ret[2] = wy[1];
	ret[4] = wy[2];
	est_drop(tape, est_take_grad(node, 0));
}
static const struct est_op rule_op = { "ChunkGatedDeltaRuleFunction", backward_rule };

static void size_up(const struct est_pass *pass, const struct est_tensor qkv[3], uint64_t size[EST_NODE_EXTRA])
{
	const struct est_model *model = pass->model;
	uint64_t heads = (uint64_t)model->linear_num_value_heads, width = (uint64_t)model->linear_key_head_dim;
	uint64_t chunks = pass->batch * ((pass->sequence + EST_CHUNK - 1) / EST_CHUNK);

	size[QUERY] = qkv[0].numel;
	size[KEYS] = pass->tokens * heads * width;
	size[VALUE] = qkv[2].numel;
	size[GATE] = pass->tokens * heads;
	size[STATES] = chunks * heads * width * (uint64_t)model->linear_value_head_dim;
	size[ELEMENT] = qkv[0].element;
	size[SUMMED] = pass->tape->autocast ? EST_32BIT : qkv[0].element;
}

/* What a forward makes, in this order; the first SAVED are kept, and beta. */
enum { V, Q_NORMED, Q_RSTD, K_NORMED, K_RSTD, SUMS, A, SAVED, Q = SAVED, K, W, U, H, V_NEW, MADE };

static void make_all(struct est_pass *pass, const uint64_t size[EST_NODE_EXTRA], struct est_tensor ret[MADE])
{
	uint64_t norms = size[QUERY] / (uint64_t)pass->model->linear_key_head_dim;
	uint8_t element = (uint8_t)size[ELEMENT];
	const struct {
		unsigned which;
		uint64_t numel;
		uint8_t element;
	} made[MADE] = {
		{ Q, size[QUERY], element },        { K, size[QUERY], element },     { V, size[VALUE], element }, /* input_guard's copies */
		{ Q_NORMED, size[QUERY], element }, { Q_RSTD, norms, EST_32BIT },    /* l2norm_fwd */
		{ K_NORMED, size[QUERY], element }, { K_RSTD, norms, EST_32BIT },
		{ SUMS, size[GATE], EST_32BIT },    { A, size[GATE] * EST_CHUNK, element },
		{ W, size[KEYS], element },         { U, size[VALUE], element },
		{ H, size[STATES], element },       { V_NEW, size[VALUE], element },
	};

	for (unsigned i = 0; i < MADE; i++)
		ret[made[i].which] = est_variable(pass->tape, made[i].numel, made[i].element);
}

struct est_tensor est_kernel_delta_rule(struct est_pass *pass, const struct est_tensor qkv[3], struct est_tensor g,
					struct est_tensor beta)
{
	struct est_tape *tape = pass->tape;
	struct est_node *node = est_node_new(tape, &rule_op, 5, (struct est_tensor[]){ qkv[0], qkv[1], qkv[2], g, beta });
	uint64_t size[EST_NODE_EXTRA] = { 0 };
	struct est_tensor made[MADE], out;

	size_up(pass, qkv, size);
	est_save_shapes(node, size);
	make_all(pass, size, made);
	out = est_empty(tape, size[VALUE], (uint8_t)size[ELEMENT]);
	est_save_all(tape, node, made, SAVED);
	est_save(tape, node, beta);
	est_drop_all(tape, made, MADE);
	return est_output(tape, node, 0, out);
}
