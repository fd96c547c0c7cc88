/* Fused attention kernels: each allocates its output, keeps that, its inputs and the logsumexp of its rows, and
 * makes all three gradients in its backward. They differ in what the backward takes beside them. Read in
 * aten/src/ATen/native/transformers/cuda and csrc, hopper of Dao-AILab/flash-attention, cudnn-frontend's node of
 * SDPA, torch/_inductor/kernel/flex. */
#include "estimator/attention.h"

/* node->extra: elements of q, k, v; bytes of an element; what the backward takes: rows in fp32, the accumulator of
 * dq, those of dk and dv, a copy of the output or its gradient */
enum { QUERY, KEY, VALUE, ELEMENT, ROWS, ACCUMULATOR, GROUPED, COPY };

uint64_t est_round_up(uint64_t n, uint64_t multiple)
{
	return (n + multiple - 1) / multiple * multiple;
}

uint64_t est_attention_output(const struct est_pass *pass, struct est_tensor q)
{
	const struct est_model *model = pass->model;

	return q.numel / (uint64_t)model->head_dim * (uint64_t)(model->kv_lora_rank ? model->v_head_dim : model->head_dim);
}

/* ---- backward */

/* dq, dk and dv, needed or not */
static void make_input_grads(struct est_tape *tape, const struct est_node *node, struct est_tensor ret[])
{
	for (unsigned i = 0; i < 3; i++)
		ret[i] = est_empty(tape, node->extra[QUERY + i], (uint8_t)node->extra[ELEMENT]);
}

static struct est_tensor scratch(struct est_tape *tape, uint64_t numel, uint8_t element)
{
	return numel ? est_empty_as(tape, numel, element, EST_BUFFERS) : est_none;
}

static void drop_all(struct est_tape *tape, struct est_tensor work[], unsigned count)
{
	while (count-- > 0)
		est_drop(tape, work[count]);
}

/* attention_backward.cu: out.contiguous(). mha_bwd: softmax_d, the accumulator of dq, and dk, dv of every query head
 * when they are grouped */
static void backward_flash(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	struct est_tensor work[5] = { scratch(tape, node->extra[COPY], EST_16BIT) };

	make_input_grads(tape, node, ret);
	work[1] = scratch(tape, node->extra[ROWS], EST_32BIT);
	work[2] = scratch(tape, node->extra[ACCUMULATOR], EST_32BIT);
	work[3] = scratch(tape, node->extra[GROUPED], EST_16BIT);
	work[4] = scratch(tape, node->extra[GROUPED], EST_16BIT);
	drop_all(tape, work, 5);
}

/* mha_bwd of hopper: softmax_d, softmax_lse_log2, accumulators of dq and, when they are grouped, of dk and dv */
static void backward_flash_3(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	struct est_tensor work[5];

	make_input_grads(tape, node, ret);
	work[0] = scratch(tape, node->extra[ROWS], EST_32BIT);
	work[1] = scratch(tape, node->extra[ROWS], EST_32BIT);
	work[2] = scratch(tape, node->extra[ACCUMULATOR], EST_32BIT);
	work[3] = scratch(tape, node->extra[GROUPED], EST_32BIT);
	work[4] = scratch(tape, node->extra[GROUPED], EST_32BIT);
	drop_all(tape, work, 5);
}

/* attention_backward.cu: delta, and an accumulator of dq for 16-bit kernels */
static void backward_efficient(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	struct est_tensor work[2];

	make_input_grads(tape, node, ret);
	work[0] = scratch(tape, node->extra[ROWS], EST_32BIT);
	work[1] = scratch(tape, node->extra[ACCUMULATOR], EST_32BIT);
	drop_all(tape, work, 2);
}

/* run_cudnn_SDP_bprop: the output's gradient as the output lies, and one workspace: cudnn-frontend's sums of rows
 * and accumulator of dq. What cuDNN's plan adds is not published: dk and dv of every query head, as FlashAttention
 * has them. */
static void backward_cudnn(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	uint64_t in_fp32 = node->extra[ROWS] + node->extra[ACCUMULATOR] + node->extra[GROUPED];
	struct est_tensor work[2];

	make_input_grads(tape, node, ret);
	work[0] = scratch(tape, node->extra[COPY], EST_16BIT);
	work[1] = scratch(tape, in_fp32, EST_32BIT);
	drop_all(tape, work, 2);
}

/* The compiled graph takes a gradient of the logsumexp, which autograd makes of zeros: that, it over ln 2, and
 * (out * grad).sum(-1) less it; then dq, dv, dk */
static void backward_flex(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	static const unsigned order[3] = { 0, 2, 1 };
	struct est_tensor work[3];

	for (unsigned i = 0; i < 3; i++)
		work[i] = scratch(tape, node->extra[ROWS], EST_32BIT);
	est_drop(tape, work[1]);
	for (unsigned i = 0; i < 3; i++) {
		ret[order[i]] = est_empty(tape, node->extra[QUERY + order[i]], (uint8_t)node->extra[ELEMENT]);
		ret[order[i]].view = true;
	}
	est_drop(tape, work[2]);
	est_drop(tape, work[0]);
}

/* ---- what it takes */

/* What the kernels see of the heads */
struct heads {
	uint64_t batch, count, groups, sequence, dim, tokens, output;
	bool unpadded, causal, windowed, softcapped;
};

static struct heads heads_of(const struct est_pass *pass, const struct est_fused_call *call)
{
	const struct est_model *model = pass->model;
	uint64_t dim = (uint64_t)model->head_dim;

	return (struct heads){
		.batch = pass->batch, .count = (uint64_t)model->num_attention_heads,
		.groups = (call->half_keys ? 2 : 1) * call->in[1].numel / (pass->tokens * dim),
		.sequence = pass->sequence, .dim = dim, .tokens = pass->tokens, .output = call->output, .unpadded = call->unpadded,
		.causal = !est_model_is_bidirectional(model) && !call->windowed, .windowed = call->windowed,
		.softcapped = model->attn_logit_softcapping != 0,
	};
}

static void size_flash(const struct heads *heads, uint64_t extra[])
{
	uint64_t tokens = heads->unpadded ? heads->tokens + 128 * heads->batch
		: heads->batch * est_round_up(heads->sequence, 128);

	extra[ROWS] = heads->count * tokens;
	extra[ACCUMULATOR] = extra[ROWS] * (heads->dim <= 192 ? est_round_up(heads->dim, 32) : 256);
	extra[GROUPED] = heads->groups != heads->count ? extra[QUERY] : 0;
}

static uint64_t rounded_head(uint64_t dim)
{
	static const uint64_t built[] = { 64, 96, 128, 192 };

	for (unsigned i = 0; i < sizeof(built) / sizeof(built[0]); i++)
		if (dim <= built[i])
			return built[i];
	return 256;
}

/* kBlockM and kBlockN of sm90 */
static uint64_t query_block(const struct heads *heads, uint64_t dim)
{
	if (dim <= 64)
		return heads->causal && heads->softcapped ? 96 : 128;
	if (dim == 128 && !heads->causal && !heads->windowed && !heads->softcapped)
		return 80;
	return 64;
}

static uint64_t key_block(uint64_t dim)
{
	if (dim <= 128)
		return 128;
	return dim <= 192 ? 96 : 80;
}

static uint64_t padded_tokens(const struct heads *heads, uint64_t block)
{
	return heads->unpadded ? est_round_up(heads->tokens + heads->batch * block, block)
			       : heads->batch * est_round_up(heads->sequence, block);
}

static void size_flash_3(const struct heads *heads, uint64_t extra[])
{
	uint64_t dim = rounded_head(heads->dim);

	extra[ROWS] = heads->count * padded_tokens(heads, query_block(heads, dim));
	extra[ACCUMULATOR] = extra[ROWS] * dim;
	extra[GROUPED] = heads->groups != heads->count ? heads->groups * padded_tokens(heads, key_block(dim)) * dim : 0;
}

/* The accumulator in blocks of 128 rows and 64 columns. Its keys and values have all heads. */
static void size_efficient(const struct heads *heads, uint64_t extra[])
{
	extra[KEY] = extra[QUERY];
	extra[VALUE] = heads->output;
	extra[ROWS] = heads->count * heads->tokens;
	if (extra[ELEMENT] == EST_16BIT)
		extra[ACCUMULATOR] = heads->batch * heads->count * est_round_up(heads->sequence, 128) * est_round_up(heads->dim, 64);
}

static void size_cudnn(const struct heads *heads, uint64_t extra[])
{
	extra[ROWS] = heads->count * heads->tokens;
	extra[ACCUMULATOR] = extra[QUERY];
	extra[GROUPED] = heads->groups != heads->count ? extra[QUERY] : 0; /* two, of 16 bits each */
}

static void size_flex(const struct heads *heads, uint64_t extra[])
{
	extra[ROWS] = heads->count * heads->tokens;
}

static const struct row {
	struct est_op op;
	void (*size)(const struct heads *heads, uint64_t extra[]);
	unsigned lse_block;  /* the rows of its logsumexp are padded to so many */
	bool kept;           /* selective checkpoints keep its output */
} rows[] = {
	[EST_FUSED_ATEN_FLASH] = { { "FlashAttention", backward_flash }, size_flash, 1, true },
	[EST_FUSED_ATEN_EFFICIENT] = { { "EfficientAttention", backward_efficient }, size_efficient, 32, true },
	[EST_FUSED_ATEN_CUDNN] = { { "CudnnAttention", backward_cudnn }, size_cudnn, 1, true },
	[EST_FUSED_FLASH_2] = { { "FlashAttnFunc", backward_flash }, size_flash, 1, true },
	[EST_FUSED_FLASH_3] = { { "FlashAttnFunc", backward_flash_3 }, size_flash_3, 1, false },
	[EST_FUSED_FLEX] = { { "FlexAttention", backward_flex }, size_flex, 1, false },
};

/* ---- forward */

static struct est_tensor result(struct est_tape *tape, const struct row *row, uint64_t numel, uint8_t element)
{
	return row->kept ? est_result(tape, EST_RESULT_OF_ATTENTION, numel, element) : est_empty(tape, numel, element);
}

/* The compiled graph makes the logsumexp first, with the rows' maxima, which go, and ends with it times ln 2 */
static struct est_tensor run_compiled(struct est_pass *pass, const struct est_fused_call *call, struct est_node *node)
{
	struct est_tape *tape = pass->tape;
	uint64_t lines = pass->tokens * (uint64_t)pass->model->num_attention_heads;
	struct est_tensor lse = est_empty(tape, lines, EST_32BIT), maxima = est_empty(tape, lines, EST_32BIT);
	struct est_tensor out = est_empty(tape, call->output, call->in[0].element);

	est_drop(tape, maxima);
	*call->logsumexp = est_variable(tape, lines, EST_32BIT);
	est_save(tape, node, out);
	est_save(tape, node, lse);
	est_drop(tape, lse);
	return out;
}

/* PyTorch's kernels and FlashAttention 2 make two scalars of random state, of no account */
static struct est_tensor run(struct est_pass *pass, const struct row *row, const struct est_fused_call *call,
			     struct est_node *node)
{
	struct est_tape *tape = pass->tape;
	uint64_t lines = pass->batch * (uint64_t)pass->model->num_attention_heads * est_round_up(pass->sequence,
												 row->lse_block);
	/* the memory-efficient kernel makes it for a backward only */
	bool without = row == &rows[EST_FUSED_ATEN_EFFICIENT] && !node;
	struct est_tensor out, small[3];

	if (row == &rows[EST_FUSED_FLEX])
		return run_compiled(pass, call, node);
	out = result(tape, row, call->output, call->in[0].element);
	small[0] = result(tape, row, without ? 0 : lines, EST_32BIT);
	small[1] = est_empty(tape, 2, EST_INT64);
	small[2] = est_empty(tape, 1, EST_INT64);
	est_save(tape, node, out);
	est_save(tape, node, small[0]);
	drop_all(tape, small, 3);
	return out;
}

/* What the backward allocates */
static void size_backward(const struct est_pass *pass, enum est_fused_kernel kernel, const struct est_fused_call *call,
			  uint64_t extra[])
{
	struct heads heads = heads_of(pass, call);

	for (unsigned i = 0; i < 3; i++)
		extra[QUERY + i] = call->in[i].numel;
	extra[ELEMENT] = call->in[1].element;
	extra[ROWS] = extra[ACCUMULATOR] = extra[GROUPED] = 0;
	extra[COPY] = call->copies_output ? call->output : 0;
	rows[kernel].size(&heads, extra);
	if (call->half_keys)
		extra[GROUPED] /= 2;
}

void est_fused_gradients(struct est_pass *pass, enum est_fused_kernel kernel, const struct est_fused_call *call,
			 struct est_tensor ret[3])
{
	struct est_node node = { .saved_count = 0 };

	size_backward(pass, kernel, call, node.extra);
	rows[kernel].op.backward(pass->tape, &node, ret);
}

struct est_tensor est_fused_attention(struct est_pass *pass, enum est_fused_kernel kernel,
				      const struct est_fused_call *call)
{
	struct est_tape *tape = pass->tape;
	struct est_node *node = est_node_new(tape, &rows[kernel].op, 3, call->in);
	struct est_tensor out;

	est_save_all(tape, node, call->in, 3);
	if (call->mask.numel)
		est_save(tape, node, call->mask);
	out = run(pass, &rows[kernel], call, node);
	if (node)
		size_backward(pass, kernel, call, node->extra);
	for (unsigned i = 0; i < 3; i++)
		est_finish(tape, call->in[i]);
	return est_output(tape, node, 0, out);
}
