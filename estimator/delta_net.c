/* The gated delta rule of Qwen3-Next and Qwen3.5 as Transformers' modelling code runs it: GatedDeltaNet.forward and,
 * where flash-linear-attention is not installed (delta_kernel.c), torch_chunk_gated_delta_rule. */
#include "estimator/chunks.h"
#include "estimator/kernels.h"

/* The scan is run chunk by chunk up to SCANNED; beyond, some chunks are run as one that keeps as much as all of them
 * and holds as much for a moment as one. */
enum { SCANNED = 8 };

struct delta {
	struct est_variables frame; /* of torch_chunk_gated_delta_rule */
	uint64_t heads, chunks;     /* chunks of all sequences */
	uint64_t key, value;        /* of all value heads, padded to whole chunks */
	bool permuted;              /* q and k stay in the order of the projections: no cast, no padding has copied them; */
	bool scattered;             /* their heads lie within a position, so that a chunk of several sequences is no stack either */
	struct est_tensor q, k, v, beta, decay, k_beta, v_beta, cum_decay, intra_chunk_attn, new_values, k_cumdecay,
		chunk_decay;
};

/* ---- operators */

static void backward_solve(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	struct est_tensor product, negated;

	ret[1] = est_grad_for(tape, node, 1, node->grad[0].element);
	ret[1].view = true;
	product = est_grad_for(tape, node, 0, node->grad[0].element);
	negated = est_grad_for(tape, node, 0, node->grad[0].element);
	est_drop(tape, product);
	ret[0] = est_grad_for(tape, node, 0, node->grad[0].element);
	est_drop(tape, negated);
}
static const struct est_op solve_op = { "SolveTriangular", backward_solve };

/* torch.linalg.solve_triangular(system, x): keeps the system and the result; x's gradient comes out in columns, and
 * is copied */
static struct est_tensor solve_triangular(struct est_tape *tape, struct est_tensor system, struct est_tensor x)
{
	struct est_node *node = est_node_new(tape, &solve_op, 2, (struct est_tensor[]){ system, x });
	struct est_tensor out = est_empty(tape, x.numel, x.element);

	est_save(tape, node, system);
	est_save(tape, node, out);
	return est_output(tape, node, 0, out);
}

/* ---- before the scan */

/* x * torch.rsqrt((x * x).sum(-1) + eps); x, held, moves in, the result is held */
static struct est_tensor l2norm(struct est_tape *tape, struct est_tensor x, uint64_t rows)
{
	struct est_tensor inv_norm = est_hold(est_rsqrt(tape,
							est_add_scalar(tape, est_sum_last(tape, est_mul(tape, x, x), rows))));
	struct est_tensor normed = est_hold(est_mul(tape, x, inv_norm));

	est_drop(tape, inv_norm);
	est_drop(tape, x);
	return normed;
}

/* q and k for each value head, all in fp32, normed and padded. qkv are borrowed views, beta and g borrowed */
static void prepare(struct est_pass *pass, const struct est_tensor qkv[3], struct est_tensor beta, struct est_tensor g,
		    struct delta *delta)
{
	struct est_tape *tape = pass->tape;
	uint64_t repeats = (uint64_t)(pass->model->linear_num_value_heads / pass->model->linear_num_key_heads);
	uint64_t rows = pass->tokens * delta->heads, padded = delta->chunks * EST_CHUNK * delta->heads;
	struct est_tensor heads[2], in[3], scaled;

	for (unsigned i = 0; i < 2; i++)
		heads[i] = est_hold(repeats > 1 ? est_repeat_interleave(tape, est_alias(tape, qkv[i]), repeats)
						: est_alias(tape, qkv[i]));
	for (unsigned i = 0; i < 3; i++)
		in[i] = est_hold(est_to(tape, i < 2 ? heads[i] : qkv[2], EST_32BIT));
	beta = est_hold(est_to(tape, beta, EST_32BIT));
	est_drop_all(tape, heads, 2);
	for (unsigned i = 0; i < 2; i++)
		in[i] = l2norm(tape, in[i], rows);
	scaled = est_hold(est_mul_scalar(tape, in[0]));
	est_drop(tape, in[0]);
	delta->q = est_hold(est_pad(tape, scaled, delta->key));
	delta->k = est_hold(est_pad(tape, in[1], delta->key));
	delta->v = est_keep(&delta->frame, est_pad(tape, in[2], delta->value));
	est_drop(tape, scaled);
	est_drop(tape, in[1]);
	est_drop(tape, in[2]);
	delta->beta = est_keep(&delta->frame, est_pad(tape, beta, padded));
	delta->decay = est_keep(&delta->frame, est_pad(tape, g, padded));
	est_drop(tape, beta);
}

/* a @ b^T of all chunks: of what is permuted matmul() cannot see a stack of matrices, and copies it. Both are borrowed. */
static struct est_tensor scores_of(struct est_tape *tape, const struct delta *delta, struct est_tensor a, struct est_tensor b,
				   uint64_t numel)
{
	struct est_tensor in[2] = { a, b }, out;

	for (unsigned i = 0; i < 2; i++)
		in[i] = est_hold(delta->permuted ? est_contiguous(tape, est_alias(tape, in[i])) : est_alias(tape, in[i]));
	out = est_chunk_product(tape, in[0], in[1], numel);
	est_drop_all(tape, in, 2);
	return out;
}

/* What each chunk is to itself: the decays between its positions, its attention, and the deltas that the scan starts
 * from */
static void transform(struct est_tape *tape, struct delta *delta)
{
	uint64_t scores = delta->chunks * EST_CHUNK * EST_CHUNK * delta->heads;
	struct est_tensor ones, mask, pairwise, masked, ut_system, decayed;

	delta->v_beta = est_hold(est_mul(tape, delta->v, est_unsqueezed(tape, delta->beta)));
	delta->k_beta = est_hold(est_mul(tape, delta->k, est_unsqueezed(tape, delta->beta)));
	/* cut into chunks: gradients in columns are copied */
	delta->q = est_hold(est_reshape(tape, est_give_up(delta->q)));
	delta->k = est_hold(est_reshape(tape, est_give_up(delta->k)));
	delta->k_beta = est_keep(&delta->frame, est_view_as_heads(tape, est_give_up(delta->k_beta)));
	delta->v_beta = est_keep(&delta->frame, est_view_as_heads(tape, est_give_up(delta->v_beta)));
	ones = est_empty(tape, EST_CHUNK * EST_CHUNK, EST_BYTE);
	mask = est_keep(&delta->frame, est_empty(tape, EST_CHUNK * EST_CHUNK, EST_BYTE));
	est_drop(tape, ones);
	delta->cum_decay = est_keep(&delta->frame, est_cumsum(tape, delta->decay));
	pairwise = est_hold(est_sub_outer(tape, delta->cum_decay, delta->cum_decay, scores));
	masked = est_hold(est_masked_fill(tape, pairwise, mask));
	est_drop(tape, pairwise);
	pairwise = est_keep(&delta->frame, est_exp(tape, masked));
	est_drop(tape, masked);
	ut_system = est_keep(&delta->frame, est_mul(tape, scores_of(tape, delta, delta->k_beta, delta->k, scores), pairwise));
	delta->intra_chunk_attn = est_keep(&delta->frame, est_mul(tape, scores_of(tape, delta, delta->q, delta->k, scores), pairwise));
	decayed = est_exp(tape, delta->cum_decay);
	decayed = est_keep(&delta->frame, est_mul(tape, delta->k_beta, decayed));
	delta->new_values = est_keep(&delta->frame, solve_triangular(tape, ut_system, delta->v_beta));
	delta->k_cumdecay = est_keep(&delta->frame, solve_triangular(tape, ut_system, decayed));
}

/* query and key with their decays; the last sums are taken of each chunk */
static void decay_chunks(struct est_tape *tape, struct delta *delta)
{
	uint64_t ends = delta->chunks * delta->heads;
	struct est_tensor q, k, left;

	q = est_hold(est_mul(tape, delta->q, est_exp(tape, delta->cum_decay)));
	est_drop(tape, delta->q);
	left = est_exp(tape, est_sub(tape, est_slice(tape, est_alias(tape, delta->cum_decay), ends), delta->cum_decay));
	k = est_hold(est_mul(tape, delta->k, left));
	est_drop(tape, delta->k);
	delta->q = est_keep(&delta->frame, q);
	delta->k = est_keep(&delta->frame, k);
	delta->chunk_decay = est_keep(&delta->frame, est_exp(tape, est_slice(tape, est_alias(tape, delta->cum_decay), ends)));
}

/* ---- the scan */

/* Sizes of what one chunk of all heads and sequences makes. */
struct step {
	uint64_t key, value, scores, state, ends;
};

/* Elements of fp32 that a chunk's products and its state keep: the state and v_new, or, under autocast, casts of all
 * operands; copies of q and k */
static uint64_t kept_by_chunk(const struct est_tape *tape, const struct delta *delta, const struct step *step)
{
	if (!tape->autocast)
		return step->state + step->value + (delta->scattered ? 2 * step->key : 0);
	return step->state + (3 * step->key + 2 * step->state + step->scores + 2 * step->value) / 2;
}

/* A chunk of q or k, for a product */
static struct est_tensor chunk_of(struct est_tape *tape, const struct delta *delta, struct est_tensor x, uint64_t numel)
{
	struct est_tensor part = est_part(tape, x, numel);

	return delta->scattered ? est_contiguous(tape, part) : part;
}

/* One chunk, or several that are run as one: ret_core, held, moves in and out; frame[0..1]: v_new and
 * inter_chunk_attn of the last one */
static void scan_chunk(struct est_tape *tape, const struct delta *delta, const struct step *step, uint64_t several,
		       struct est_tensor frame[2], struct est_tensor state, struct est_tensor *ret_core)
{
	struct est_tensor new_values = est_part(tape, delta->new_values, step->value),
		k = est_part(tape, delta->k_cumdecay, step->key);
	struct est_tensor v_new = est_hold(est_sub(tape, new_values, est_chunk_product(tape, k, state, step->value))), inter, out;

	est_finish(tape, k);
	est_drop(tape, frame[0]);
	frame[0] = v_new;
	k = chunk_of(tape, delta, delta->q, step->key);
	inter = est_hold(est_chunk_product(tape, k, state, step->value));
	est_finish(tape, k);
	est_drop(tape, frame[1]);
	frame[1] = inter;
	k = est_part(tape, delta->intra_chunk_attn, step->scores);
	out = est_chunk_product(tape, k, v_new, step->value);
	est_finish(tape, k);
	*ret_core = est_copy_into_slice(tape, *ret_core, est_add(tape, inter, out), (several - 1) * kept_by_chunk(tape, delta, step));
}

/* state * decay + key^T @ v_new; state, held, moves in, the result is held */
static struct est_tensor update_state(struct est_tape *tape, const struct delta *delta, const struct step *step,
				      struct est_tensor state, struct est_tensor v_new)
{
	struct est_tensor decayed = est_mul(tape, state, est_part(tape, delta->chunk_decay, step->ends)),
		k = chunk_of(tape, delta, delta->k, step->key);
	struct est_tensor update = est_chunk_product(tape, k, v_new, step->state);

	est_finish(tape, k);
	update = est_hold(est_add(tape, decayed, update));
	est_drop(tape, state);
	return update;
}

static struct est_tensor scan(struct est_pass *pass, struct delta *delta)
{
	struct est_tape *tape = pass->tape;
	uint64_t chunks = delta->chunks / pass->batch, runs = chunks < SCANNED ? chunks : SCANNED,
		rows = pass->batch * delta->heads * EST_CHUNK;
	uint64_t width = (uint64_t)pass->model->linear_key_head_dim, value = (uint64_t)pass->model->linear_value_head_dim;
	struct step step = { rows * width, rows * value, rows * EST_CHUNK, pass->batch * delta->heads * width * value,
			     pass->batch * delta->heads };
	struct est_tensor state = est_variable(tape, step.state, EST_32BIT), frame[2] = { { 0 } };
	struct est_tensor core = est_variable(tape, delta->value, EST_32BIT);
	uint32_t unused = tape->node_count;

	decay_chunks(tape, delta);
	for (uint64_t i = 0; i < runs; i++) {
		scan_chunk(tape, delta, &step, (chunks * (i + 1)) / runs - (chunks * i) / runs, frame, state, &core);
		unused = tape->node_count;
		state = update_state(tape, delta, &step, state, frame[0]);
	}
	est_drop(tape, state);
	est_discard_nodes(tape, unused, tape->node_count); /* nobody asks for the last state */
	est_keep(&delta->frame, frame[0]);
	est_keep(&delta->frame, frame[1]);
	return core;
}

static struct est_tensor chunk_gated_delta_rule(struct est_pass *pass, const struct est_tensor qkv[3],
						struct est_tensor beta, struct est_tensor g)
{
	struct est_tape *tape = pass->tape;
	const struct est_model *model = pass->model;
	uint64_t heads = (uint64_t)model->linear_num_value_heads,
		chunks = pass->batch * ((pass->sequence + EST_CHUNK - 1) / EST_CHUNK);
	struct delta delta = { .heads = heads, .chunks = chunks,
			       .key = chunks * EST_CHUNK * heads * (uint64_t)model->linear_key_head_dim,
			       .value = chunks * EST_CHUNK * heads * (uint64_t)model->linear_value_head_dim };
	uint8_t element = qkv[0].element;
	struct est_tensor core;

	delta.scattered = element == EST_32BIT && pass->batch > 1 && pass->sequence % EST_CHUNK == 0
			  && model->linear_num_value_heads > model->linear_num_key_heads;
	delta.permuted = element == EST_32BIT && chunks > pass->batch && pass->sequence % EST_CHUNK == 0;
	prepare(pass, qkv, beta, g, &delta);
	transform(tape, &delta);
	core = scan(pass, &delta);
	/* in columns, as the solver's results are: reshape copies */
	core = est_contiguous(tape, est_give_up(core));
	if (core.numel != qkv[2].numel) /* a slice of everything is no slice */
		core = est_slice(tape, core, qkv[2].numel);
	core = est_to(tape, core, element);
	est_variables_drop(tape, &delta.frame);
	return core;
}

/* ---- the layer */

/* RMSNormGated of each head: weight * norm(x).to(dtype) * silu(gate.float()), cast back. x, held, moves in; gate is
 * borrowed */
static struct est_tensor gated_norm(struct est_pass *pass, const struct est_norm_weights *norm, struct est_tensor x,
				    struct est_tensor gate)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor x32 = est_hold(est_to(tape, x, EST_32BIT)), variance, y, gated, out;

	y = est_hold(est_normalized(tape, x32, &variance, x.numel / norm->width));
	est_drop(tape, x32);
	out = est_hold(est_mul(tape, est_leaf_tensor(tape, norm->weight), est_to(tape, y, x.element)));
	est_drop(tape, y);
	gated = est_silu(tape, est_to(tape, gate, EST_32BIT));
	gated = est_hold(est_mul(tape, out, gated));
	est_drop(tape, out);
	out = est_to(tape, gated, x.element);
	est_drop(tape, gated);
	est_drop(tape, variance);
	est_drop(tape, x);
	return out;
}

/* g = -A_log.float().exp() * softplus(a.float() + dt_bias) */
static struct est_tensor decays(struct est_tape *tape, const struct est_mixer *mixer, struct est_tensor a)
{
	struct est_tensor rate = est_neg(tape, est_exp(tape, est_to(tape, est_leaf_tensor(tape, mixer->a_log), EST_32BIT)));
	struct est_tensor dt = est_add(tape, est_to(tape, a, EST_32BIT), est_leaf_tensor(tape, mixer->dt_bias));

	return est_mul(tape, rate, est_softplus(tape, dt));
}

/* query, key, value of what the convolution gives: heads of their own, whose gradients come back permuted, but for
 * those that are repeated, and those of the kernel */
static void split_heads(struct est_pass *pass, struct est_tensor mixed, struct est_tensor ret[3])
{
	const struct est_model *model = pass->model;
	uint64_t key = pass->tokens * (uint64_t)(model->linear_num_key_heads * model->linear_key_head_dim);
	bool repeated = model->linear_num_key_heads != model->linear_num_value_heads,
	     kernel = pass->request->versions.flash_linear_attention != 0;

	est_split(pass->tape, mixed, 3, (const uint64_t[]){ key, key, mixed.numel - 2 * key }, ret);
	for (unsigned i = 0; i < 3; i++)
		ret[i] = est_hold(kernel || (i < 2 && repeated) ? ret[i] : est_view_as_heads(pass->tape, ret[i]));
}

/* What the layer's input becomes, and what else of the projections lives to the layer's end; all held. */
struct projected {
	struct est_tensor mixed, z, b, a;
	struct est_variables frame;
};

static void project(struct est_tape *tape, const struct est_mixer *mixer, struct est_tensor x, struct projected *ret)
{
	ret->mixed = est_hold(est_linear(tape, &mixer->in_proj, x));
	ret->z = est_keep(&ret->frame, est_linear(tape, &mixer->z_proj, x));
	ret->b = est_keep(&ret->frame, est_linear(tape, &mixer->b_proj, x));
	ret->a = est_keep(&ret->frame, est_linear(tape, &mixer->a_proj, x));
}

/* Qwen3-Next: in_proj_qkvz and in_proj_ba lie by head, and are cut up and copied apart; ret_heads: q, k and v, until
 * they are split again */
static void project_by_head(struct est_pass *pass, const struct est_mixer *mixer, struct est_tensor x,
			    struct projected *ret, struct est_tensor ret_heads[3])
{
	struct est_tape *tape = pass->tape;
	const struct est_model *model = pass->model;
	uint64_t key = pass->tokens * (uint64_t)(model->linear_num_key_heads * model->linear_key_head_dim);
	struct est_tensor qkvz = est_keep(&ret->frame, est_linear(tape, &mixer->in_proj, x)), part[4], gates[2];
	struct est_tensor ba = est_keep(&ret->frame, est_linear(tape, &mixer->b_proj, x));
	uint64_t value = qkvz.numel / 2 - key;

	est_split(tape, qkvz, 4, (const uint64_t[]){ key, key, value, value }, part);
	est_split(tape, ba, 2, (const uint64_t[]){ ba.numel / 2, ba.numel / 2 }, gates);
	ret_heads[2] = est_hold(est_contiguous(tape, part[2]));
	ret->z = est_keep(&ret->frame, est_contiguous(tape, part[3]));
	ret->b = est_keep(&ret->frame, est_contiguous(tape, gates[0]));
	ret->a = est_keep(&ret->frame, est_contiguous(tape, gates[1]));
	for (unsigned i = 0; i < 2; i++)
		ret_heads[i] = est_hold(est_contiguous(tape, part[i]));
	ret->mixed = est_hold(est_cat_of(tape, 3, ret_heads));
}

/* The rule, by the kernel or without, and its result as the norm's rows. */
static struct est_tensor scan_heads(struct est_pass *pass, const struct est_tensor qkv[3], struct est_tensor beta,
				    struct est_tensor g)
{
	struct est_tensor core;

	if (pass->request->versions.flash_linear_attention)
		return est_kernel_delta_rule(pass, qkv, g, beta);
	core = chunk_gated_delta_rule(pass, qkv, beta, g);
	if (core.element == EST_32BIT) /* no cast has made it contiguous: reshape does */
		core = est_contiguous(pass->tape, core);
	return core;
}

struct est_tensor est_delta_net(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	const struct est_mixer *mixer = &layer->mixer;
	struct est_tape *tape = pass->tape;
	struct projected projected = { 0 };
	struct est_tensor input = est_hold(est_without_padding(pass, est_alias(tape, x))), mixed, heads[3] = { { 0 } },
		qkv[3], beta, g, core;

	if (layer->mixer.z_proj.out)
		project(tape, mixer, input, &projected);
	else
		project_by_head(pass, mixer, input, &projected, heads);
	mixed = est_hold(est_causal_conv(pass, mixer, projected.mixed, true));
	est_drop(tape, projected.mixed);
	split_heads(pass, mixed, qkv);
	est_drop_all(tape, heads, 3);
	beta = est_keep(&projected.frame, est_tanh(tape, projected.b)); /* sigmoid */
	g = est_keep(&projected.frame, decays(tape, mixer, projected.a));
	core = scan_heads(pass, qkv, beta, g);
	core = est_hold(gated_norm(pass, &mixer->norm, est_hold(core), projected.z));
	x = est_linear(tape, &mixer->out_proj, core);
	est_drop(tape, core);
	est_drop_all(tape, qkv, 3);
	est_drop(tape, mixed);
	est_variables_drop(tape, &projected.frame);
	est_drop(tape, input);
	return x;
}
