/* ChunkKDAFunction of flash-linear-attention 0.6 (fla/ops/kda/chunk.py): Kimi's delta rule by Triton kernels. Kept are v by
 * itself, q and k normed, the decays and their sums, and the scores within chunks; the rest is made again in the backward. */
#include "estimator/chunks.h"
#include "estimator/kernels.h"

/* Positions of a block on the diagonal, solved in fp32; features that one program takes. */
enum { DIAGONAL = 16, FEATURES = 32 };

/* What node->extra holds: elements of q, k, v or g; of beta; of the scores; of the states of all chunks; the dtype of q, k
 * and v; in how many parts beta's gradient is summed up. */
enum { HEADS, GATE, SCORES, STATES, ELEMENT, PARTS };

/* chunk_kda_bwd_intra(): dq, dk and dg anew, in fp32, and db summed up */
static void backward_intra(struct est_tape *tape, const uint64_t *size, struct est_tensor *dq, struct est_tensor *dk,
			   struct est_tensor *dg, struct est_tensor *db)
{
	struct est_tensor dq2 = est_variable(tape, size[HEADS], EST_32BIT), dk2 = est_variable(tape, size[HEADS], EST_32BIT),
			  parts = est_variable(tape, size[PARTS] * size[GATE], EST_32BIT), dg2 = est_variable(tape, size[HEADS], EST_32BIT),
			  sum = est_variable(tape, size[GATE], EST_32BIT);

	est_drop(tape, parts);
	est_assign(tape, dq, dq2);
	est_assign(tape, dk, dk2);
	est_assign(tape, db, sum);
	est_assign(tape, dg, dg2);
}

/* l2norm_bwd(): in the dtype of what was normed */
static struct est_tensor backward_norm(struct est_tape *tape, const uint64_t *size, struct est_tensor grad)
{
	struct est_tensor dx = est_variable(tape, size[HEADS], (uint8_t)size[ELEMENT]);

	est_drop(tape, grad);
	return dx;
}

/* The order of ret is that of the inputs: q, k, v, g, beta. */
static void backward_rule(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	const uint64_t *size = node->extra;
	uint8_t element = (uint8_t)size[ELEMENT];
	const struct { /* w, u, qg, kg, h, v_new; dAqk, dv within chunks; dh, dv */
		uint64_t numel;
		uint8_t element;
	} locals[10] = { { size[HEADS], element }, { size[HEADS], element }, { size[HEADS], element }, { size[HEADS], element },
			 { size[STATES], element }, { size[HEADS], element }, { size[SCORES], EST_32BIT }, { size[HEADS], element },
			 { size[STATES], element }, { size[HEADS], element } };
	struct est_tensor local[10], dq, dk, dg, db, d_scores;

	for (unsigned i = 0; i < 10; i++)
		local[i] = est_variable(tape, locals[i].numel, locals[i].element);
	est_drop(tape, local[7]);
	dq = est_variable(tape, size[HEADS], EST_32BIT);
	dk = est_variable(tape, size[HEADS], EST_32BIT);
	ret[2] = est_variable(tape, size[HEADS], element);
	dg = est_variable(tape, size[HEADS], EST_32BIT);
	db = est_variable(tape, size[GATE], EST_32BIT);
	d_scores = est_variable(tape, size[SCORES], EST_32BIT);
	est_drop(tape, local[9]);
	backward_intra(tape, size, &dq, &dk, &dg, &db);
	ret[3] = est_variable(tape, size[HEADS], EST_32BIT); /* chunk_local_cumsum(dg) */
	est_drop(tape, dg);
	est_drop(tape, d_scores);
	for (unsigned i = 0; i < 9; i++)
		if (i != 7)
			est_drop(tape, local[i]);
	ret[0] = backward_norm(tape, size, dq);
	ret[1] = backward_norm(tape, size, dk);
	ret[4] = db;
	if (element != EST_32BIT) {
		ret[4] = est_variable(tape, size[GATE], element);
		est_drop(tape, db);
	}
	est_drop(tape, est_take_grad(node, 0));
}
static const struct est_op rule_op = { "ChunkKDAFunction", backward_rule };

/* What a forward makes, in this order but for v; the first SAVED are kept. */
enum { V, Q_NORMED, Q_RSTD, K_NORMED, K_RSTD, SUMS, AQK, AKK, SAVED, Q = SAVED, K, DIAGONALS, W, U, KG, H, V_NEW, MADE };

static void make_all(struct est_tape *tape, const uint64_t *size, struct est_tensor ret[MADE])
{
	uint8_t element = (uint8_t)size[ELEMENT];
	const struct {
		unsigned which;
		uint64_t numel;
		uint8_t element;
	} made[MADE] = {
		{ Q, size[HEADS], element },        { K, size[HEADS], element }, { V, size[HEADS], element }, /* input_guard's copies */
		{ Q_NORMED, size[HEADS], element }, { Q_RSTD, size[GATE], EST_32BIT },                        /* l2norm_fwd */
		{ K_NORMED, size[HEADS], element }, { K_RSTD, size[GATE], EST_32BIT },
		{ SUMS, size[HEADS], EST_32BIT },   { AQK, size[SCORES], element }, { AKK, size[SCORES], element },
		{ DIAGONALS, size[GATE] * DIAGONAL, EST_32BIT },
		{ W, size[HEADS], element },        { U, size[HEADS], element }, { KG, size[HEADS], element },
		{ H, size[STATES], element },       { V_NEW, size[HEADS], element },
	};

	for (unsigned i = 0; i < MADE; i++) {
		ret[made[i].which] = est_variable(tape, made[i].numel, made[i].element);
		if (made[i].which == KG) /* chunk_kda_fwd_intra() returns */
			est_drop(tape, ret[DIAGONALS]);
	}
	ret[DIAGONALS] = est_none;
}

static void size_up(const struct est_pass *pass, struct est_tensor q, uint64_t size[EST_NODE_EXTRA])
{
	uint64_t heads = (uint64_t)pass->model->linear_num_value_heads, width = (uint64_t)pass->model->linear_value_head_dim;

	size[HEADS] = q.numel;
	size[GATE] = pass->tokens * heads;
	size[SCORES] = size[GATE] * EST_CHUNK;
	size[STATES] = pass->batch * ((pass->sequence + EST_CHUNK - 1) / EST_CHUNK) * heads * width * width;
	size[ELEMENT] = q.element;
	size[PARTS] = (width + FEATURES - 1) / FEATURES;
}

struct est_tensor est_kernel_kimi_delta(struct est_pass *pass, const struct est_tensor qkv[3], struct est_tensor g,
					struct est_tensor beta)
{
	struct est_tape *tape = pass->tape;
	struct est_node *node = est_node_new(tape, &rule_op, 5, (struct est_tensor[]){ qkv[0], qkv[1], qkv[2], g, beta });
	uint64_t size[EST_NODE_EXTRA] = { 0 };
	struct est_tensor made[MADE], out;

	size_up(pass, qkv[0], size);
	est_save_shapes(node, size);
	make_all(tape, size, made);
	out = est_empty(tape, size[HEADS], (uint8_t)size[ELEMENT]);
	est_save_all(tape, node, made, SAVED);
	est_save(tape, node, g);
	est_save(tape, node, beta);
	est_drop_all(tape, made, MADE);
	return est_output(tape, node, 0, out);
}
