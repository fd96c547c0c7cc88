/* DeepSeek's latent attention (MLA): modeling_deepseek_v2.py, modeling_deepseek_v3.py. */
#include "estimator/dsa.h"

/* ---- rotary embedding of pairs */

static void backward_sub(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	ret[1] = est_grad_for(tape, node, 1, node->grad[0].element); /* neg */
	ret[0] = est_take_grad(node, 0);
}
static const struct est_op sub_op = { "Sub", backward_sub };

static struct est_tensor subtract(struct est_tape *tape, struct est_tensor a, struct est_tensor b)
{
	struct est_node *node = est_node_new(tape, &sub_op, 2, (struct est_tensor[]){ a, b });
	struct est_tensor out = est_output(tape, node, 0, est_empty(tape, a.numel, a.element));

	est_finish(tape, a);
	est_finish(tape, b);
	return out;
}

/* Both halves of x: strided slices, or one chunk. */
static void halve(struct est_tape *tape, struct est_tensor x, bool interleaved, struct est_tensor ret[2])
{
	uint64_t numel[2] = { x.numel / 2, x.numel / 2 };

	if (interleaved)
		for (unsigned i = 0; i < 2; i++)
			ret[i] = est_hold(est_slice(tape, x, numel[i]));
	else
		est_split(tape, x, 2, numel, ret);
	ret[0] = est_hold(ret[0]);
	ret[1] = est_hold(ret[1]);
}

/* cat(x1 * cos - x2 * sin, x2 * cos + x1 * sin), held; half is given up */
static struct est_tensor rotate(struct est_tape *tape, struct est_tensor half[2], struct est_tensor cos,
				struct est_tensor sin)
{
	struct est_tensor first = est_mul(tape, half[0], cos), second, out;

	first = subtract(tape, first, est_mul(tape, half[1], sin));
	second = est_mul(tape, half[1], cos);
	second = est_add(tape, second, est_mul(tape, half[0], sin));
	out = est_hold(est_cat(tape, first, second));
	est_drop(tape, half[0]);
	est_drop(tape, half[1]);
	return out;
}

/* interleaved, cos and sin hold each angle twice, and the first half of them is taken */
static struct est_tensor angles(const struct est_rope *rope, bool interleaved, bool sine)
{
	struct est_tensor both = sine ? rope->sin : rope->cos;

	both.numel /= interleaved ? 2 : 1;
	return both;
}

void est_apply_paired_rope(struct est_pass *pass, const struct est_rope *rope, bool interleaved, struct est_tensor q,
			   struct est_tensor k, struct est_tensor ret[2])
{
	struct est_tensor cos = angles(rope, interleaved, false), sin = angles(rope, interleaved, true), half[2][2];
	struct est_tape *tape = pass->tape;

	if (interleaved) {
		halve(tape, q, true, half[0]);
		halve(tape, k, true, half[1]);
		ret[0] = rotate(tape, half[0], cos, sin);
		ret[1] = rotate(tape, half[1], cos, sin);
		return;
	}
	halve(tape, q, false, half[0]);
	ret[0] = rotate(tape, half[0], cos, sin);
	halve(tape, k, false, half[1]);
	ret[1] = rotate(tape, half[1], cos, sin);
}

/* ---- DeepSeek-V2's: complex numbers. extra: 0 elements of freqs_cis, 1 whether the gradient is copied first */

static void backward_complex(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	struct est_tensor contiguous = node->extra[1] ? est_empty(tape, node->edge_numel[0], EST_32BIT) : est_none,
			  conjugate;

	if (node->extra[1])
		est_drop(tape, est_take_grad(node, 0));
	conjugate = est_empty(tape, node->extra[0], EST_32BIT);
	ret[0] = est_grad_for(tape, node, 0, EST_32BIT);
	est_drop(tape, conjugate);
	est_drop(tape, contiguous);
}
static const struct est_op complex_op = { "ComplexMul", backward_complex };

static struct est_tensor complex_mul(struct est_tape *tape, struct est_tensor x, struct est_tensor freqs,
				     bool copies_grad)
{
	struct est_node *node = est_node_new(tape, &complex_op, 1, &x);

	est_save(tape, node, freqs);
	if (node) {
		node->extra[0] = freqs.numel;
		node->extra[1] = copies_grad;
	}
	return est_output(tape, node, 0, est_empty(tape, x.numel, EST_32BIT));
}

/* apply_rotary_emb: both in fp32, as complex numbers, and back */
void est_apply_complex_rope(struct est_pass *pass, struct est_permuted permuted, bool one_by_one, struct est_tensor q,
			    struct est_tensor k, struct est_tensor ret[2])
{
	struct est_tape *tape = pass->tape;
	struct est_tensor in[2] = { q, k }, x32[2], out[2];

	for (unsigned i = 0; i < 2; i++)
		x32[i] = est_hold(est_to(tape, in[i], EST_32BIT));
	for (unsigned i = 0; i < 2; i++) {
		out[i] = complex_mul(tape, x32[i], pass->ropes[0].cos, i == 0 ? permuted.query : permuted.key_value);
		if (one_by_one)
			ret[i] = est_hold(est_to(tape, out[i], in[i].element));
		else
			out[i] = est_hold(out[i]);
	}
	for (unsigned i = 0; i < 2 && !one_by_one; i++)
		ret[i] = est_hold(est_to(tape, out[i], in[i].element));
	for (unsigned i = 0; i < 2; i++) {
		est_drop(tape, x32[i]);
		if (!one_by_one)
			est_drop(tape, out[i]);
	}
}

/* ---- keys: new_empty(), into which k_nope and k_rot, expanded to all heads, are copied */

/* extra[0]: elements of the keys. CopySlices, the last copy first */
static void backward_fill_keys(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	uint8_t element = node->grad[0].element;
	uint64_t keys = node->extra[0], nope = node->edge_numel[0] ? node->edge_numel[0] : keys - node->extra[1];
	struct est_tensor rest = est_empty(tape, keys, element), all;

	ret[1] = est_empty(tape, node->extra[1], element);
	all = est_empty(tape, node->extra[1], element); /* zeros in its place */
	if (est_needs(node, 1) && node->edge_element[1] != element) {
		struct est_tensor cast = est_empty(tape, node->extra[1], node->edge_element[1]);

		est_drop(tape, ret[1]);
		ret[1] = cast;
	}
	est_drop(tape, all);
	est_drop(tape, est_take_grad(node, 0));
	all = est_empty(tape, keys, element);
	ret[0] = est_empty(tape, nope, element);
	est_drop(tape, all);
	est_drop(tape, rest);
}
static const struct est_op fill_keys_op = { "FillKeys", backward_fill_keys };

static struct est_tensor fill_keys(struct est_pass *pass, struct est_tensor k_nope, struct est_tensor k_rot)
{
	struct est_tape *tape = pass->tape;
	struct est_node *node = est_node_new(tape, &fill_keys_op, 2, (struct est_tensor[]){ k_nope, k_rot });
	uint64_t rotary = k_rot.numel * (uint64_t)pass->model->num_attention_heads;

	if (node) {
		node->extra[0] = k_nope.numel + rotary;
		node->extra[1] = rotary;
	}
	return est_hold(est_output(tape, node, 0, est_empty(tape, k_nope.numel + rotary, k_nope.element)));
}

/* ---- attention */

/* ret_resid: the compressed form, held where an indexer takes it too */
static struct est_tensor project_q(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x,
				   struct est_tensor *ret_resid)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor q;

	*ret_resid = est_none;
	if (!pass->model->q_lora_rank)
		return est_linear(tape, &layer->q_proj, x);
	q = est_llama_norm(pass, &layer->q_a_layernorm, est_linear(tape, &layer->q_a_proj, x));
	if (pass->model->index_topk)
		*ret_resid = q = est_hold(q);
	return est_linear(tape, &layer->q_b_proj, q);
}

/* Two held views of x, which is borrowed: numel[0] and numel[1] elements. */
static void split_held(struct est_tape *tape, struct est_tensor x, uint64_t first, struct est_tensor ret[2])
{
	uint64_t numel[2] = { first, x.numel - first };

	est_split(tape, x, 2, numel, ret);
	ret[0] = est_hold(ret[0]);
	ret[1] = est_hold(ret[1]);
}

static void rotate_parts(struct est_pass *pass, const struct est_layer *layer, struct est_tensor q, struct est_tensor k,
			 struct est_tensor ret[2])
{
	const struct est_rope *rope = est_layer_rope(pass, layer);

	if (pass->model->architecture == EST_ARCH_DEEPSEEK_V2)
		est_apply_complex_rope(pass, (struct est_permuted){ true, false }, true, q, k, ret);
	else if (pass->model->rope_interleave)
		est_apply_paired_rope(pass, rope, true, q, k, ret);
	else
		est_apply_rope(pass, rope, q, k, ret);
}

/* expand_kv: keys and values out of the compressed form, which is borrowed */
static void expand_kv(struct est_pass *pass, const struct est_layer *layer, struct est_tensor compressed,
		      struct est_tensor k_rot, struct est_tensor ret[2])
{
	struct est_tape *tape = pass->tape;
	struct est_tensor kv = est_hold(est_view_as_heads(tape, est_linear(tape, &layer->kv_b_proj, compressed))),
			  parts[2];
	uint64_t nope = pass->tokens * (uint64_t)(pass->model->num_attention_heads * pass->model->qk_nope_head_dim);

	split_held(tape, kv, nope, parts);
	ret[0] = fill_keys(pass, parts[0], k_rot);
	ret[1] = parts[1];
	est_drop(tape, parts[0]);
	est_drop(tape, kv);
}

/* GLM-5's layers return their choice, for the next ones to take; a reentrant checkpoint holds what its recomputation
 * returns until the layer's backward is over. choice moves in */
static void hand_on(struct est_pass *pass, struct est_tensor choice)
{
	if (pass->model->architecture != EST_ARCH_GLM_MOE_DSA)
		est_drop(pass->tape, choice);
	else if (pass->runs_layers)
		pass->next_indices = choice;
	else
		pass->tape->beside = choice;
}

/* Attention under the mask of the tokens that were chosen, where the model chooses. frame: what is held to the end */
static struct est_tensor attend(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x,
				struct est_tensor q_resid, const struct est_tensor qkv[3], struct est_tensor frame[3])
{
	struct est_tensor causal = pass->mask, out;

	if (pass->model->index_topk)
		frame[2] = pass->mask = est_choose_tokens(pass, layer, x, q_resid, frame);
	out = est_hold(est_attention(pass, layer, qkv[0], qkv[1], qkv[2]));
	pass->mask = causal;
	return out;
}

struct est_tensor est_latent_attention(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	uint64_t heads = pass->tokens * (uint64_t)pass->model->num_attention_heads;
	struct est_tensor q_resid, q = est_hold(est_view_as_heads(tape, project_q(pass, layer, x, &q_resid))), compressed, q_parts[2],
		kv_parts[2], rotated[2],
			  kv[2], query, out, latent, frame[3] = { { 0 } };

	split_held(tape, q, heads * (uint64_t)pass->model->qk_nope_head_dim, q_parts);
	compressed = est_hold(est_linear(tape, &layer->kv_a_proj_with_mqa, x));
	split_held(tape, compressed, pass->tokens * (uint64_t)pass->model->kv_lora_rank, kv_parts);
	latent = est_hold(est_llama_norm(pass, &layer->kv_a_layernorm, kv_parts[0]));
	est_drop(tape, kv_parts[0]);
	rotate_parts(pass, layer, q_parts[1], kv_parts[1], rotated);
	est_drop(tape, q_parts[1]);
	est_drop(tape, kv_parts[1]);
	query = est_hold(est_cat(tape, q_parts[0], rotated[0]));
	expand_kv(pass, layer, latent, rotated[1], kv);
	out = attend(pass, layer, x, q_resid, (const struct est_tensor[]){ query, kv[0], kv[1] }, frame);
	x = est_linear(tape, &layer->o_proj, out);
	est_drop(tape, out);
	est_drop(tape, q);
	est_drop(tape, q_parts[0]);
	est_drop(tape, rotated[0]);
	est_drop(tape, compressed);
	est_drop(tape, latent);
	est_drop(tape, rotated[1]);
	est_drop(tape, query);
	est_drop(tape, kv[0]);
	est_drop(tape, kv[1]);
	est_drop(tape, q_resid);
	est_drop(tape, frame[1]);
	est_drop(tape, frame[2]);
	hand_on(pass, frame[0]);
	return x;
}

struct est_tensor est_unrotated_latent_attention(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor q_resid, q = project_q(pass, layer, x, &q_resid), compressed, parts[2], latent, kv[2], out;

	q = est_hold(est_unrotated_query(pass, layer, q));
	compressed = est_hold(est_linear(tape, &layer->kv_a_proj_with_mqa, x));
	split_held(tape, compressed, pass->tokens * (uint64_t)pass->model->kv_lora_rank, parts);
	latent = est_hold(est_llama_norm(pass, &layer->kv_a_layernorm, parts[0]));
	est_drop(tape, parts[0]);
	expand_kv(pass, layer, latent, parts[1], kv);
	out = est_hold(est_attention(pass, layer, q, kv[0], kv[1]));
	x = est_linear(tape, &layer->o_proj, out);
	est_drop(tape, out);
	est_drop(tape, q);
	est_drop(tape, compressed);
	est_drop(tape, parts[1]);
	est_drop(tape, latent);
	est_drop(tape, kv[0]);
	est_drop(tape, kv[1]);
	return x;
}
