/* Mamba-2 as Transformers' modelling code runs it: Mamba2Mixer.forward and, where mamba-ssm is not installed
 * (mamba_kernel.c), mamba2_chunk_scan. */
#include "estimator/kernels.h"
#include "estimator/recurrent.h"

/* Elements of what the scan works on, padded to whole chunks. */
struct sizes {
	uint64_t heads, padded, chunks; /* positions of all sequences; chunks of one */
	uint64_t hidden, state;         /* x, and B or C of all heads */
	uint64_t chunk_states;          /* of all chunks but none of the positions */
	uint64_t scores;                /* position by position within each chunk */
};

static struct sizes sizes_of(const struct est_pass *pass)
{
	const struct est_model *model = pass->model;
	uint64_t chunk = (uint64_t)model->ssm_chunk_size, chunks = (pass->sequence + chunk - 1) / chunk;
	uint64_t heads = (uint64_t)model->ssm_num_heads, padded = pass->batch * chunks * chunk;
	uint64_t width = (uint64_t)model->ssm_head_dim, state = (uint64_t)model->ssm_state_size;

	return (struct sizes){ .heads = heads, .padded = padded, .chunks = chunks, .hidden = padded * heads * width,
			       .state = padded * heads * state, .chunk_states = pass->batch * chunks * heads * width * state,
			       .scores = padded * chunk * heads };
}

/* An operand of an einsum, which copies it where its dimensions lie otherwise than a product takes them. */
struct operand {
	struct est_tensor tensor;
	bool copied;
	bool last; /* of the product, though it is the first that is named */
};

/* torch.einsum of two operands (borrowed) to numel elements; autocast holds its casts of both to the end. */
static struct est_tensor einsum(struct est_tape *tape, struct operand a, struct operand b, uint64_t numel)
{
	struct operand in[2] = { a, b };
	struct est_tensor cast[2], copy[2], out;

	for (unsigned i = 0; i < 2; i++)
		cast[i] = est_hold(tape->autocast ? est_to(tape, in[i].tensor, EST_16BIT) : est_alias(tape, in[i].tensor));
	for (unsigned i = 0; i < 2; i++) {
		unsigned k = a.last ? 1 - i : i;

		copy[i] = in[k].copied ? est_permuted_copy(tape, cast[k]) : est_alias(tape, cast[k]);
	}
	out = est_bmm(tape, copy[0], copy[1], numel);
	est_drop(tape, cast[1]);
	est_drop(tape, cast[0]);
	return out;
}

/* The same where what follows takes the result permuted: its gradient is copied back. */
static struct est_tensor einsum_permuted(struct est_tape *tape, struct operand a, struct operand b, uint64_t numel)
{
	return est_view_as_heads(tape, einsum(tape, a, b, numel));
}

/* A boolean triangle of n by n, negated: ~tril(ones()); ret_mask: the triangle, a variable of the frame */
static struct est_tensor outside_triangle(struct est_tape *tape, uint64_t n, struct est_tensor *ret_mask)
{
	struct est_tensor ones = est_empty(tape, n * n, EST_BYTE), mask = est_variable(tape, n * n, EST_BYTE);

	est_drop(tape, ones);
	est_drop(tape, *ret_mask);
	*ret_mask = mask;
	return est_empty(tape, n * n, EST_BYTE);
}

/* segment_sum(): x expanded n times, its sums below the diagonal. x is released when temporary. */
static struct est_tensor segment_sum(struct est_tape *tape, struct est_tensor x, uint64_t n)
{
	struct est_tensor mask = est_none, input = est_hold(est_expand(tape, est_reshape(tape, x), n)), masked, sums, out;

	masked = est_hold(est_masked_fill(tape, input, outside_triangle(tape, n, &mask)));
	est_drop(tape, input);
	sums = est_hold(est_cumsum(tape, masked));
	out = est_masked_fill(tape, sums, outside_triangle(tape, n, &mask));
	est_drop(tape, sums);
	est_drop(tape, masked);
	est_drop(tape, mask);
	return out;
}

/* mamba2_chunk_scan */
struct scan {
	struct sizes size;
	struct est_variables frame;
	struct est_tensor hidden_states, a, b, c, dt, d_residual, a_cumsum, y_diag;
};

/* x padded and cut into chunks. That of four dimensions is permuted by what follows: its gradient is copied back. */
static struct est_tensor chunked(struct est_tape *tape, struct est_tensor x, uint64_t numel, bool permuted)
{
	struct est_tensor padded = est_pad(tape, x, numel);

	return permuted ? est_view_as_heads(tape, padded) : padded;
}

/* dt and everything that it discretises, in fp32 and in chunks; a moves in, the others are borrowed views of
 * in_proj's result */
static void discretize(struct est_pass *pass, const struct est_mixer *mixer, const struct est_tensor x_b_c[3],
		       struct est_tensor dt, struct est_tensor a, struct scan *scan)
{
	struct est_tape *tape = pass->tape;
	uint64_t repeats = scan->size.heads / (uint64_t)pass->model->ssm_num_groups;
	struct est_tensor positive, x32, x, b, c, bias = est_to(tape, est_leaf_tensor(tape, mixer->dt_bias), dt.element);

	dt = est_hold(est_add(tape, dt, bias));
	positive = est_hold(est_softplus(tape, dt));
	est_drop(tape, dt);
	scan->dt = est_keep(&scan->frame, est_clamp(tape, positive, 2));
	est_drop(tape, positive);
	x32 = est_hold(est_to(tape, x_b_c[0], EST_32BIT));
	b = est_hold(est_repeat_interleave(tape, est_to(tape, x_b_c[1], EST_32BIT), repeats));
	c = est_hold(est_repeat_interleave(tape, est_to(tape, x_b_c[2], EST_32BIT), repeats));
	scan->d_residual = est_keep(&scan->frame, est_mul(tape, est_leaf_tensor(tape, mixer->d),
							  est_pad(tape, x32, scan->size.hidden)));
	x = est_hold(est_mul(tape, x32, est_to(tape, scan->dt, EST_32BIT)));
	est_drop(tape, x32);
	a = est_hold(est_mul(tape, a, est_to(tape, scan->dt, EST_32BIT)));
	scan->hidden_states = est_keep(&scan->frame, chunked(tape, x, scan->size.hidden, true));
	scan->a = est_keep(&scan->frame, chunked(tape, a, scan->size.padded * scan->size.heads, false));
	scan->b = est_keep(&scan->frame, chunked(tape, b, scan->size.state, true));
	scan->c = est_keep(&scan->frame, chunked(tape, c, scan->size.state, true));
	est_drop(tape, x);
	est_drop(tape, a);
	est_drop(tape, b);
	est_drop(tape, c);
}

/* 1. the output of each chunk for itself: Y_diag */
static void scan_within_chunks(struct est_tape *tape, struct scan *scan, uint64_t chunk)
{
	struct est_tensor l, g, m;

	scan->a_cumsum = est_keep(&scan->frame, est_cumsum(tape, scan->a));
	l = est_keep(&scan->frame, est_exp(tape, segment_sum(tape, est_alias(tape, scan->a), chunk)));
	g = est_keep(&scan->frame, einsum(tape, (struct operand){ scan->c, true, false },
					  (struct operand){ scan->b, true, false }, scan->size.scores));
	m = est_keep(&scan->frame, est_mul(tape, g, l));
	scan->y_diag = est_keep(&scan->frame, einsum_permuted(tape, (struct operand){ m, false, false },
							      (struct operand){ scan->hidden_states, true, false },
						  scan->size.hidden));
}

/* The sums at the end of each chunk. */
static struct est_tensor last_sums(const struct est_pass *pass, const struct scan *scan)
{
	return est_slice(pass->tape, est_alias(pass->tape, scan->a_cumsum),
			 scan->a_cumsum.numel / (uint64_t)pass->model->ssm_chunk_size);
}

/* einsum("bzch,bzhpn->bchpn"): of one sequence heads are the first dimension of a stack already, and nothing is copied */
static struct est_tensor sum_states(const struct est_pass *pass, struct est_tensor decay_chunk, struct est_tensor states,
				    uint64_t numel)
{
	bool several = pass->batch > 1;
	struct operand decays = { decay_chunk, false, false }, summed = { states, several, false };

	return several ? einsum_permuted(pass->tape, decays, summed, numel) : einsum(pass->tape, decays, summed, numel);
}

/* 2. and 3.: the states of each chunk, and where each chunk begins: new_states[:, :-1] */
static struct est_tensor scan_between_chunks(struct est_pass *pass, struct scan *scan)
{
	struct est_tape *tape = pass->tape;
	uint64_t chunks = scan->size.chunks, one_state = scan->size.chunk_states / chunks;
	struct est_tensor decay_states, b_decay, states, previous_states, last, decay_chunk, new_states;

	decay_states = est_keep(&scan->frame, est_exp(tape, est_sub(tape, last_sums(pass, scan), scan->a_cumsum)));
	b_decay = est_keep(&scan->frame, est_mul(tape, scan->b, decay_states));
	states = einsum_permuted(tape, (struct operand){ b_decay, true, true },
				 (struct operand){ scan->hidden_states, true, false }, scan->size.chunk_states);
	previous_states = est_keep(&scan->frame, est_empty(tape, one_state, states.element));
	states = est_hold(est_cat(tape, previous_states, states));
	last = last_sums(pass, scan);
	last = est_pad(tape, last, last.numel / chunks * (chunks + 1));
	decay_chunk = est_keep(&scan->frame, est_exp(tape, segment_sum(tape, last, chunks + 1)));
	new_states = est_keep(&scan->frame, sum_states(pass, decay_chunk, states, scan->size.chunk_states + one_state));
	est_drop(tape, states);
	return est_keep(&scan->frame, est_slice(tape, est_alias(tape, new_states), scan->size.chunk_states));
}

/* 4. what the states add to each chunk's output */
static struct est_tensor add_states(struct est_tape *tape, struct scan *scan, struct est_tensor states)
{
	struct est_tensor decay = est_keep(&scan->frame, est_exp(tape, scan->a_cumsum)), y_off;

	y_off = est_keep(&scan->frame, einsum_permuted(tape, (struct operand){ scan->c, true, false },
						       (struct operand){ states, true, false }, scan->size.hidden));
	y_off = est_keep(&scan->frame, est_mul(tape, y_off, decay));
	return est_add(tape, est_contiguous(tape, est_add(tape, scan->y_diag, y_off)), scan->d_residual);
}

static struct est_tensor chunk_scan(struct est_pass *pass, const struct est_mixer *mixer,
				    const struct est_tensor x_b_c[3], struct est_tensor dt, struct est_tensor a)
{
	struct est_tape *tape = pass->tape;
	struct scan scan = { .size = sizes_of(pass) };
	struct est_tensor out;

	discretize(pass, mixer, x_b_c, dt, a, &scan);
	scan_within_chunks(tape, &scan, (uint64_t)pass->model->ssm_chunk_size);
	out = add_states(tape, &scan, scan_between_chunks(pass, &scan));
	if (scan.size.padded > pass->tokens)
		out = est_slice(tape, out, x_b_c[0].numel);
	est_variables_drop(tape, &scan.frame);
	return out;
}

/* RMSNormGated: norm(x * silu(gate.float())) * weight, all in fp32, of groups apart. x is borrowed. */
static struct est_tensor gated_norm(struct est_pass *pass, const struct est_norm_weights *norm, struct est_tensor x,
				    struct est_tensor gate)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor gated = est_hold(est_mul(tape, x, est_silu(tape, est_to(tape, gate, EST_32BIT)))), variance, y;

	y = est_hold(est_normalized(tape, gated, &variance, pass->tokens * (uint64_t)pass->model->ssm_num_groups));
	est_drop(tape, gated);
	gated = est_mul(tape, est_leaf_tensor(tape, norm->weight), y);
	est_drop(tape, y);
	est_drop(tape, variance);
	return gated;
}

/* Falcon-H1 without the norm: x * silu(gate) */
static struct est_tensor gated(struct est_pass *pass, const struct est_mixer *mixer, struct est_tensor x,
			       struct est_tensor gate)
{
	if (pass->model->ungated_norm)
		return est_mul(pass->tape, x, est_silu(pass->tape, gate));
	return gated_norm(pass, &mixer->norm, x, gate);
}

/* in_proj(x), with Falcon-H1's multipliers before and after. x is borrowed; ret_input, a variable of the frame, and
 * the result are held */
static struct est_tensor project(struct est_pass *pass, const struct est_mixer *mixer, struct est_tensor x,
				 struct est_tensor *ret_input)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor input = est_hold(est_without_padding(pass, est_alias(tape, x))), projected, scaled;

	*ret_input = input;
	if (!mixer->mup_vector.numel)
		return est_hold(est_linear(tape, &mixer->in_proj, input));
	*ret_input = est_hold(est_mul_scalar(tape, input));
	est_drop(tape, input);
	projected = est_hold(est_linear(tape, &mixer->in_proj, *ret_input));
	scaled = est_hold(est_mul(tape, projected, mixer->mup_vector));
	est_drop(tape, projected);
	return scaled;
}

/* What follows the input projection without the kernel that does all of it. projected is borrowed; input, held, moves in */
static struct est_tensor mix(struct est_pass *pass, const struct est_mixer *mixer, struct est_tensor projected,
			     struct est_tensor a, struct est_tensor input)
{
	const struct est_model *model = pass->model;
	struct est_tape *tape = pass->tape;
	uint64_t inner = pass->tokens * (uint64_t)est_model_ssm_width(model),
		conv = pass->tokens * (uint64_t)est_model_conv_width(model);
	uint64_t groups = (conv - inner) / 2;
	uint8_t element = input.element;
	struct est_tensor parts[3], x_b_c[3], mixed, scanned, out, x;

	est_split(tape, projected, 3, (const uint64_t[]){ inner, conv, pass->tokens * (uint64_t)model->ssm_num_heads }, parts);
	for (unsigned i = 0; i < 3; i++)
		parts[i] = est_hold(parts[i]);
	mixed = est_causal_conv(pass, mixer, parts[1], true);
	est_drop(tape, parts[1]);
	mixed = est_hold(est_without_padding(pass, mixed));
	est_split(tape, mixed, 3, (const uint64_t[]){ inner, groups, groups }, x_b_c);
	est_drop(tape, input); /* hidden_states, B, C = ... */
	for (unsigned i = 0; i < 3; i++)
		x_b_c[i] = est_hold(x_b_c[i]);
	scanned = est_hold(chunk_scan(pass, mixer, x_b_c, parts[2], a));
	out = est_hold(gated(pass, mixer, scanned, parts[0]));
	x = est_linear(tape, &mixer->out_proj, est_to(tape, out, element));
	est_drop(tape, out);
	est_drop(tape, scanned); /* scan_result */
	est_drop_all(tape, x_b_c, 3);
	est_drop(tape, mixed);
	est_drop(tape, parts[0]);
	est_drop(tape, parts[2]);
	return x;
}

struct est_tensor est_mamba2_mixer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	const struct est_mixer *mixer = &layer->mixer;
	struct est_tape *tape = pass->tape;
	struct est_tensor input, projected = project(pass, mixer, x, &input), a;

	a = est_hold(est_neg(tape, est_exp(tape, est_to(tape, est_leaf_tensor(tape, mixer->a_log), EST_32BIT))));
	if (est_kernel_runs_mamba2(pass->request, pass->model)) {
		x = est_kernel_mamba2(pass, mixer, projected, a);
		est_drop(tape, input);
	} else {
		x = mix(pass, mixer, projected, a, input);
	}
	est_drop(tape, a);
	est_drop(tape, projected);
	return x;
}
