/* Rotary embeddings other than Llama's: of neighbouring features (2 i, 2 i + 1), in fp32; Ministral-3's scaled
 * queries. */
#include "estimator/architecture.h"

/* (x * cos) + (rotate_half(x) * sin), in fp32 when cos and sin are: x borrowed */
static struct est_tensor rotated(struct est_tape *tape, struct est_tensor x, struct est_tensor cos,
				 struct est_tensor sin)
{
	struct est_tensor with_cos = est_mul(tape, x, cos);

	return est_add(tape, with_cos, est_mul(tape, est_rotate_half(tape, x), sin));
}

/* cos[..., :half].repeat_interleave(2): a tensor of its own for each layer */
static struct est_rope interleave(struct est_tape *tape, const struct est_rope *rope)
{
	struct est_rope pairs = { est_buffer(tape, rope->cos.numel, rope->cos.element), est_none };

	pairs.sin = est_buffer(tape, rope->sin.numel, rope->sin.element);
	return pairs;
}

static void drop_rope(struct est_tape *tape, struct est_rope *rope)
{
	est_drop(tape, rope->cos);
	est_drop(tape, rope->sin);
}

/* ERNIE 4.5: x.float() for each product, cast back at the end */
void est_apply_ernie_rope(struct est_pass *pass, const struct est_rope *rope, struct est_tensor q, struct est_tensor k,
			  struct est_tensor ret[2])
{
	struct est_tape *tape = pass->tape;
	struct est_rope pairs = interleave(tape, rope);
	struct est_tensor in[2] = { q, k }, embed[2];

	for (unsigned i = 0; i < 2; i++) {
		struct est_tensor with_cos = est_mul(tape, est_to(tape, in[i], EST_32BIT), pairs.cos);
		struct est_tensor half = est_to(tape, est_rotate_half(tape, in[i]), EST_32BIT);

		embed[i] = est_hold(est_add(tape, with_cos, est_mul(tape, half, pairs.sin)));
	}
	for (unsigned i = 0; i < 2; i++)
		ret[i] = est_hold(est_to(tape, embed[i], in[i].element));
	est_drop_all(tape, embed, 2);
	drop_rope(tape, &pairs);
}

/* Cohere: q and k become fp32 first */
void est_apply_cohere_rope(struct est_pass *pass, const struct est_rope *rope, struct est_tensor q, struct est_tensor k,
			   struct est_tensor ret[2])
{
	struct est_tape *tape = pass->tape;
	struct est_tensor in[2] = { q, k }, x32[2], embed[2];

	for (unsigned i = 0; i < 2; i++)
		x32[i] = est_hold(est_to(tape, in[i], EST_32BIT));
	for (unsigned i = 0; i < 2; i++)
		embed[i] = est_hold(rotated(tape, x32[i], rope->cos, rope->sin));
	for (unsigned i = 0; i < 2; i++)
		ret[i] = est_hold(est_to(tape, embed[i], in[i].element));
	for (unsigned i = 0; i < 2; i++) {
		est_drop(tape, embed[i]);
		est_drop(tape, x32[i]);
	}
}

/* GLM: on a part of each head */
void est_apply_glm_rope(struct est_pass *pass, const struct est_rope *rope, struct est_tensor q, struct est_tensor k,
			struct est_tensor ret[2])
{
	struct est_rope pairs = interleave(pass->tape, rope);

	est_apply_partial_rope(pass, &pairs, q, k, ret);
	drop_rope(pass->tape, &pairs);
}

/* Helium: on all of it */
void est_apply_helium_rope(struct est_pass *pass, const struct est_rope *rope, struct est_tensor q, struct est_tensor k,
			   struct est_tensor ret[2])
{
	struct est_rope pairs = interleave(pass->tape, rope);

	est_apply_rope(pass, &pairs, q, k, ret);
	drop_rope(pass->tape, &pairs);
}

/* ---- three positions a token: cos and sin of each sequence */

/* position_ids[..., None].float() * self.inv_freq */
static struct est_tensor frequencies(struct est_pass *pass, uint64_t numel)
{
	struct est_tensor positions = est_buffer(pass->tape, 3 * pass->tokens, EST_32BIT),
		freqs = est_buffer(pass->tape, numel, EST_32BIT);

	est_drop(pass->tape, positions);
	return freqs;
}

/* freqs.cos() * self.attention_scaling */
static struct est_tensor waves(struct est_pass *pass, uint64_t numel)
{
	struct est_tensor raw = est_buffer(pass->tape, numel, EST_32BIT), scaled = est_buffer(pass->tape, numel, EST_32BIT);

	est_drop(pass->tape, raw);
	return scaled;
}

/* recomposition_frequencies: of the three, the features that each has; then both halves. Qwen3-VL's writes into the
 * first of the three, Qwen2-VL's concatenates. waves moves in. */
static struct est_tensor recomposed(struct est_pass *pass, struct est_tensor waves)
{
	uint64_t pairs = pass->tokens * est_rotary_width(pass->model);
	struct est_tensor both;

	if (pass->model->mrope == EST_MROPE_INTERLEAVED) {
		both = est_buffer(pass->tape, pairs, EST_32BIT);
		est_drop(pass->tape, waves);
	} else {
		struct est_tensor half = est_buffer(pass->tape, pairs / 2, EST_32BIT);

		both = est_buffer(pass->tape, pairs, EST_32BIT);
		est_drop(pass->tape, half);
		est_drop(pass->tape, waves);
	}
	return both;
}

void est_make_multimodal_rope(struct est_pass *pass, struct est_rope *rope)
{
	uint64_t numel = 3 * pass->tokens * est_rotary_width(pass->model) / 2;
	struct est_tensor freqs = frequencies(pass, numel), cos = waves(pass, numel), sin = waves(pass, numel);

	sin = recomposed(pass, sin);
	cos = recomposed(pass, cos);
	rope->cos = est_hold(est_to(pass->tape, est_hold(cos), pass->parameter_element));
	rope->sin = est_hold(est_to(pass->tape, est_hold(sin), pass->parameter_element));
	est_drop(pass->tape, freqs);
	est_drop(pass->tape, cos);
	est_drop(pass->tape, sin);
}

struct est_tensor est_scale_query(struct est_pass *pass, struct est_tensor q)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor scale, scaled;

	if (!est_architecture_row(pass->model->architecture)->scales_queries)
		return q;
	scale = est_empty_as(tape, pass->sequence, EST_32BIT, EST_BUFFERS);
	for (unsigned i = 0; i < 5; i++)
		scale = est_mul_scalar(tape, scale);
	scaled = est_hold(est_mul(tape, q, est_to(tape, scale, q.element)));
	est_drop(tape, q);
	return scaled;
}

void est_rotate(struct est_pass *pass, const struct est_layer *layer, struct est_tensor q, struct est_tensor k,
		struct est_tensor ret[2])
{
	est_rope_function *rotate = est_architecture_row(pass->model->architecture)->rotate;

	if (!rotate)
		rotate = est_rotates_a_part(pass->model) ? est_apply_partial_rope : est_apply_rope;
	rotate(pass, est_layer_rope(pass, layer), q, k, ret);
}
