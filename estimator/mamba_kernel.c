/* MambaSplitConv1dScanCombinedFn of mamba-ssm 2.3 (ops/triton/ssd_combined.py): all of a Mamba-2 mixer after its input
 * projection, and its output projection, as one autograd function. It keeps the projection's result, what the scan gives
 * and a number for each group of a token; the convolution, the states of chunks and their scores are made again in the
 * backward. */
#include "estimator/kernels.h"

/* PROCESSORS: what the kernels that share out heads and rows among programs count on the card, an H100's; the other cards'
 * sums of parts are a little smaller or larger. */
enum { PROCESSORS = 132, ALIGNED = 8, BLOCK = 32, STATE_BLOCK = 64, FUSED_BYTES = 65536 };

/* Elements of what it works on; element is the dtype of the projection's result. */
struct split {
	const struct est_mixer *mixer;
	uint64_t projected, conv, inner, gate; /* of all tokens: in_proj's result, x with B and C, x, dt */
	uint64_t by_chunk, chunk_parts;        /* dt padded to whole chunks; the same for each block of a chunk's positions */
	uint64_t states, last_states, scores;  /* of all chunks; of the last one */
	uint64_t state_parts;                  /* a number for each block of a chunk's states */
	uint64_t group, splits;                /* B or C; parts that their gradients are summed up in */
	uint64_t out, out_weight, norm_parts;  /* of all tokens; the weight; parts of the norm's gradient */
	uint8_t element, product;              /* product: of the output projection, in 16 bits under autocast */
	bool copies;                           /* views of the projection lie at odd offsets, and are copied for the convolution */
	bool gates;                            /* Falcon-H1 without the norm: the scan's kernel multiplies by the gate */
};

static uint64_t up(uint64_t n, uint64_t by)
{
	return (n + by - 1) / by;
}

/* _chunk_state_bwd_db and its like: how many programs share the heads of a group */
static uint64_t splits_of(uint64_t programs, uint64_t ratio)
{
	uint64_t heads = up(programs, PROCESSORS);

	heads = heads < ratio ? heads : ratio;
	return up(ratio, heads ? heads : 1);
}

/* _layer_norm_bwd: rows of partial sums */
static uint64_t norm_rows(uint64_t group, uint64_t groups, uint8_t element)
{
	uint64_t block = 1, most = FUSED_BYTES / est_element_bytes(element), warps;

	while (block < group)
		block *= 2;
	block = block < most ? block : most;
	warps = block / 256;
	warps = warps < 1 ? 1 : warps > 8 ? 8 : warps;
	return up(PROCESSORS * up(4, warps), groups);
}

static struct split size_up(const struct est_pass *pass, const struct est_mixer *mixer, struct est_tensor projected)
{
	const struct est_model *model = pass->model;
	uint64_t heads = (uint64_t)model->ssm_num_heads, groups = (uint64_t)model->ssm_num_groups,
		 chunk = (uint64_t)model->ssm_chunk_size, state = (uint64_t)model->ssm_state_size;
	uint64_t width = (uint64_t)est_model_ssm_width(model), chunks = pass->batch * up(pass->sequence, chunk);

	return (struct split){
		.mixer = mixer, .projected = projected.numel, .conv = pass->tokens * (uint64_t)est_model_conv_width(model),
		.inner = pass->tokens * width, .gate = pass->tokens * heads,
		.by_chunk = chunks * chunk * heads, .chunk_parts = chunks * chunk * heads * up(chunk, BLOCK),
		.states = chunks * width * state, .last_states = pass->batch * width * state,
		.scores = chunks * groups * chunk * chunk,
		.state_parts = chunks * heads * up(width / heads * state, STATE_BLOCK),
		.group = pass->tokens * groups * state, .splits = splits_of(chunks * heads, heads / groups),
		.out = pass->tokens * mixer->out_proj.out, .out_weight = mixer->out_proj.in * mixer->out_proj.out,
		.norm_parts = norm_rows(width / groups, groups, projected.element) * width,
		.element = projected.element, .product = pass->tape->autocast ? EST_16BIT : projected.element,
		.copies = projected.numel / pass->tokens % ALIGNED != 0, .gates = model->ungated_norm,
	};
}

/* causal_conv1d_fwd_function(ensure_stride(xBC)) */
static struct est_tensor convolve(struct est_tape *tape, const struct split *split)
{
	struct est_tensor copy = split->copies ? est_variable(tape, split->conv, split->element) : est_none, out;

	out = est_variable(tape, split->conv, split->element);
	est_drop(tape, copy);
	return out;
}

/* x.sum() of parts, in fp32; parts moves in */
static struct est_tensor sum_parts(struct est_tape *tape, uint64_t numel, struct est_tensor parts)
{
	struct est_tensor sum = est_variable(tape, numel, EST_32BIT);

	est_drop(tape, parts);
	return sum;
}

/* ---- backward */

/* The gradient of a parameter that is no input of the node; sum: the same in fp32 (moves in), or none yet */
static void deliver(struct est_tape *tape, uint32_t leaf, struct est_tensor sum, bool as_view)
{
	struct est_tensor value, grad = sum;

	if (leaf == EST_NO_LEAF)
		return;
	value = est_leaf_tensor(tape, leaf);
	if (!sum.numel || value.element != EST_32BIT)
		grad = est_hold(est_empty_as(tape, value.numel, value.element, EST_GRADIENTS));
	if (sum.numel && value.element != EST_32BIT)
		est_drop(tape, sum);
	grad.view = as_view;
	if (value.requires_grad)
		est_deliver(tape, EST_EDGE_LEAF | leaf, grad);
	else
		est_drop(tape, grad);
}

/* _layer_norm_bwd(): the gradient of what the scan gave; the weight's is ret */
static struct est_tensor backward_norm(struct est_tape *tape, const struct est_node *node, const struct split *split,
				       struct est_tensor *ret)
{
	struct est_tensor dx = est_variable(tape, split->inner, split->element), parts = est_variable(tape, split->norm_parts, EST_32BIT);
	uint64_t width = split->mixer->norm.width;

	parts = sum_parts(tape, width, parts);
	if (est_needs(node, 2))
		*ret = est_hold(est_grad_for(tape, node, 2, node->edge_element[2]));
	est_drop(tape, parts);
	return dx;
}

/* What _mamba_chunk_scan_combined_bwd() has until its end. */
enum { DT_IN, DT, DA_CUMSUM, CB, FINAL, DSTATES, STATES, DDT, DDA_NEXT, DB, DDA_PREVIOUS, DC, DCB, DDA_SUMS, DDA,
       LOCALS };

/* dt, the scores and the states of chunks once more; the states in fp32 are the result */
static struct est_tensor recompute(struct est_tape *tape, const struct split *split, struct est_tensor local[LOCALS])
{
	struct est_tensor states, passed;

	local[DT_IN] = est_variable(tape, split->gate, split->element);
	local[DT] = est_variable(tape, split->by_chunk, EST_32BIT);
	local[DA_CUMSUM] = est_variable(tape, split->by_chunk, EST_32BIT);
	local[CB] = est_variable(tape, split->scores, EST_32BIT);
	states = est_variable(tape, split->states, EST_32BIT);
	passed = est_variable(tape, split->states, EST_32BIT);
	local[FINAL] = est_variable(tape, split->last_states, EST_32BIT);
	est_drop(tape, states);
	return passed;
}

/* _chunk_scan_bwd_dstates(), _state_passing_bwd(): both states in the dtype of x; states, in fp32, moves in */
static void backward_states(struct est_tape *tape, const struct split *split, struct est_tensor states,
			    struct est_tensor local[LOCALS])
{
	struct est_tensor dstates = est_variable(tape, split->states, EST_32BIT), parts;

	local[DSTATES] = est_variable(tape, split->states, split->element);
	local[STATES] = split->element == EST_32BIT ? est_hold(est_alias(tape, states))
						    : est_variable(tape, split->states, split->element);
	parts = est_variable(tape, split->state_parts, EST_32BIT);
	est_drop(tape, parts);
	est_drop(tape, dstates);
	est_drop(tape, states);
}

/* The gradients of dt, B, C and of the chunks' scores */
static void backward_chunks(struct est_tape *tape, const struct split *split, struct est_tensor local[LOCALS])
{
	struct est_tensor flipped, sums;

	local[DDT] = est_variable(tape, split->by_chunk, EST_32BIT);
	local[DDA_NEXT] = est_variable(tape, split->by_chunk, EST_32BIT);
	local[DB] = sum_parts(tape, split->group, est_variable(tape, split->group * split->splits, EST_32BIT));
	local[DDA_PREVIOUS] = est_variable(tape, split->by_chunk, EST_32BIT);
	local[DC] = sum_parts(tape, split->group, est_variable(tape, split->group * split->splits, EST_32BIT));
	local[DCB] = sum_parts(tape, split->scores, est_variable(tape, split->scores * split->splits, EST_32BIT));
	flipped = est_variable(tape, split->by_chunk, EST_32BIT);
	sums = est_variable(tape, split->by_chunk, EST_32BIT);
	est_drop(tape, flipped);
	local[DDA_SUMS] = est_variable(tape, split->by_chunk, EST_32BIT);
	est_drop(tape, sums);
	local[DDA] = sum_parts(tape, split->by_chunk, est_variable(tape, split->chunk_parts, EST_32BIT));
	est_drop(tape, est_variable(tape, split->by_chunk, EST_32BIT)); /* ddA_next + ddA_prev */
}

/* _mamba_chunk_scan_combined_bwd(); with a gate it makes what went into the output projection again, the result */
static struct est_tensor backward_scan(struct est_tape *tape, const struct split *split)
{
	struct est_tensor local[LOCALS] = { { 0 } }, states = recompute(tape, split, local), gated = est_none, dout = est_none;

	if (split->gates) {
		gated = est_variable(tape, split->inner, split->element);
		dout = est_variable(tape, split->inner, split->product);
	}
	backward_states(tape, split, states, local);
	backward_chunks(tape, split, local);
	est_drop_all(tape, local, LOCALS);
	est_drop(tape, dout);
	return gated;
}

/* causal_conv1d_bwd_function() into its part of the projection's gradient, which is copied there where it lies odd */
static void backward_conv(struct est_tape *tape, const struct split *split)
{
	struct est_tensor copy[2] = { { 0 } }, sum[2] = { { 0 } };
	const uint32_t leaf[2] = { split->mixer->conv_weight, split->mixer->conv_bias };

	for (unsigned i = 0; i < 2 && split->copies; i++) /* xBC, and its gradient's place */
		copy[i] = est_variable(tape, split->conv, split->element);
	for (unsigned i = 0; i < 2; i++)
		if (leaf[i] != EST_NO_LEAF)
			sum[i] = est_hold(est_empty_as(tape, est_leaf_tensor(tape, leaf[i]).numel, EST_32BIT, EST_GRADIENTS));
	est_drop_all(tape, copy, 2);
	for (unsigned i = 0; i < 2; i++)
		deliver(tape, leaf[i], sum[i], i == 0); /* conv1d.weight.squeeze(1) */
}

/* einsum("bso,bsd->od", dout, out): the gradient of the output projection's weight, whoever needs it; autocast casts out */
static struct est_tensor weigh(struct est_tape *tape, const struct est_node *node, const struct split *split)
{
	bool is_gradient = est_needs(node, 3) && split->product == node->edge_element[3];
	struct est_tensor cast = split->product != split->element ? est_variable(tape, split->inner, split->product) : est_none, out;

	out = est_hold(est_empty_as(tape, split->out_weight, split->product, is_gradient ? EST_GRADIENTS : tape->category));
	est_drop(tape, cast);
	return out;
}

/* inputs: in_proj's result, A, and the weights of the norm and of out_proj, with its bias */
static void backward_split(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	const struct split *split = node->context;
	struct est_tensor held[6] = { { 0 } };

	if (!split)
		return;
	held[0] = est_variable(tape, split->inner, split->element); /* out_recompute */
	held[1] = convolve(tape, split);
	ret[0] = est_variable(tape, split->projected, split->element);
	held[2] = est_variable(tape, split->conv, split->element);  /* dxBC */
	held[3] = est_variable(tape, split->inner, split->product); /* dout @ outproj_weight */
	if (!split->gates)
		held[4] = backward_norm(tape, node, split, &ret[2]);
	held[5] = backward_scan(tape, split);
	ret[1] = est_variable(tape, (uint64_t)node->extra[0], EST_32BIT);
	ret[3] = weigh(tape, node, split);
	if (est_needs(node, 4))
		ret[4] = est_hold(est_grad_for(tape, node, 4, split->product));
	backward_conv(tape, split);
	deliver(tape, split->mixer->dt_bias, est_none, false);
	deliver(tape, split->mixer->d, est_none, false);
	est_drop_all(tape, held, 6);
	est_drop(tape, est_take_grad(node, 0)); /* an argument of a Python function goes with its frame */
}
static const struct est_op split_op = { "MambaSplitConv1dScanCombinedFn", backward_split };

/* ---- forward */

static struct est_node *node_new(struct est_tape *tape, const struct est_tensor in[5], const struct split *split)
{
	const struct est_mixer *mixer = split->mixer;
	const uint32_t expected[4] = { mixer->conv_weight, mixer->conv_bias, mixer->dt_bias, mixer->d };
	struct est_node *node = est_node_new(tape, &split_op, 5, in);
	struct split *kept;

	for (unsigned i = 0; node && i < 4; i++)
		if (expected[i] != EST_NO_LEAF && est_leaf_tensor(tape, expected[i]).requires_grad)
			est_expect(tape, node, expected[i]);
	if (!node || tape->recomputing)
		return node;
	kept = est_arena_take(tape->arena, 1, sizeof(*kept));
	if (kept)
		*kept = *split;
	else
		tape->exhausted = true;
	node->context = kept;
	node->extra[0] = in[1].numel;
	return node;
}

/* _mamba_chunk_scan_combined_fwd(): what the scan gives, and with a gate that as well; ret_local lives to the end of the
 * function */
static struct est_tensor scan(struct est_tape *tape, const struct split *split, struct est_tensor ret_local[4],
			      struct est_tensor *ret_gated)
{
	struct est_tensor states, scores, out;

	ret_local[0] = est_variable(tape, split->by_chunk, EST_32BIT); /* dt */
	ret_local[1] = est_variable(tape, split->by_chunk, EST_32BIT); /* dA_cumsum */
	states = est_variable(tape, split->states, EST_32BIT);
	ret_local[2] = est_variable(tape, split->states, split->element);
	ret_local[3] = est_variable(tape, split->last_states, EST_32BIT);
	est_drop(tape, states);
	scores = est_variable(tape, split->scores, EST_32BIT);
	if (split->gates)
		*ret_gated = est_variable(tape, split->inner, split->element);
	out = est_variable(tape, split->inner, split->element);
	est_drop(tape, scores);
	return out;
}

/* F.linear(out, outproj_weight): autocast's casts are the function's own, and those of weight and bias are kept; in: out
 * (which moves in), weight and bias */
static struct est_tensor project(struct est_tape *tape, struct est_node *node, const struct split *split,
				 const struct est_tensor in[3])
{
	struct est_tensor cast[3], out;

	for (unsigned i = 0; i < 3; i++)
		cast[i] = in[i].numel && in[i].element != split->product ? est_variable(tape, in[i].numel, split->product)
									: est_hold(est_alias(tape, in[i]));
	est_drop(tape, in[0]);
	out = est_empty(tape, split->out, split->product);
	for (unsigned i = 1; i < 3; i++)
		if (in[i].numel)
			est_save(tape, node, cast[i]);
	est_drop_all(tape, cast, 3);
	return out;
}

struct est_tensor est_kernel_mamba2(struct est_pass *pass, const struct est_mixer *mixer, struct est_tensor projected,
				    struct est_tensor a)
{
	struct est_tape *tape = pass->tape;
	const struct split split = size_up(pass, mixer, projected);
	const struct est_linear *linear = &mixer->out_proj;
	struct est_tensor in[5] = { projected, a, est_none, est_leaf_tensor(tape, linear->weight), est_none };
	struct est_tensor mixed, local[4], scanned, gated = est_none, rstd = est_none, out;
	struct est_node *node;

	if (!split.gates)
		in[2] = est_leaf_tensor(tape, mixer->norm.weight);
	if (linear->has_bias)
		in[4] = est_leaf_tensor(tape, linear->bias);
	node = node_new(tape, in, &split);
	mixed = convolve(tape, &split);
	scanned = scan(tape, &split, local, &gated);
	if (!split.gates) {
		gated = est_variable(tape, split.inner, split.element);
		rstd = est_variable(tape, pass->tokens * (uint64_t)pass->model->ssm_num_groups, EST_32BIT);
	}
	out = project(tape, node, &split, (struct est_tensor[]){ gated, in[3], in[4] });
	est_save(tape, node, projected);
	est_save(tape, node, scanned);
	est_save(tape, node, a);
	if (!split.gates)
		est_save(tape, node, rstd);
	est_drop(tape, rstd);
	est_drop(tape, scanned);
	est_drop_all(tape, local, 4);
	est_drop(tape, mixed);
	return est_output(tape, node, 0, out);
}
