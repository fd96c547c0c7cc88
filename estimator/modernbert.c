/* ModernBertModel: a pre-norm encoder with fused projections, rotary embeddings in fp32, and windows in two layers
 * of three. */
#include "estimator/encoder.h"

/* ---- attention */

/* (x.float() * cos) + (rotate_half(x.float()) * sin), in fp32; x is borrowed */
static struct est_tensor rotated(struct est_tape *tape, const struct est_rope *rope, struct est_tensor x)
{
	struct est_tensor with_cos = est_mul(tape, est_to(tape, est_alias(tape, x), EST_32BIT), rope->cos);
	struct est_tensor half = est_rotate_half(tape, est_to(tape, est_alias(tape, x), EST_32BIT));

	return est_add(tape, with_cos, est_mul(tape, half, rope->sin));
}

void est_apply_modernbert_rope(struct est_pass *pass, const struct est_rope *rope, struct est_tensor q,
			       struct est_tensor k, struct est_tensor ret[2])
{
	struct est_tensor embed[2];

	embed[0] = est_hold(rotated(pass->tape, rope, q));
	embed[1] = est_hold(rotated(pass->tape, rope, k));
	ret[0] = est_hold(est_to(pass->tape, embed[0], q.element));
	ret[1] = est_hold(est_to(pass->tape, embed[1], k.element));
	est_drop(pass->tape, embed[0]);
	est_drop(pass->tape, embed[1]);
}

/* query, key, value = Wqkv(x).view(...).unbind(-3) */
static struct est_tensor self_attention(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor qkv = est_linear(tape, &layer->qkv_proj, x), part[3];
	uint64_t width = pass->tokens * (uint64_t)pass->model->hidden_size;

	est_split(tape, qkv, 3, (const uint64_t[]){ width, width, width }, part);
	for (unsigned i = 0; i < 3; i++)
		part[i] = est_hold(part[i]);
	return est_attend(pass, layer, part[0], part[1], part[2]);
}

/* Wo(drop(act(input) * gate)) */
static struct est_tensor mlp(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor fused = est_linear(tape, &layer->gate_up_proj, x), half[2], y;
	uint64_t width = pass->tokens * (uint64_t)pass->model->intermediate_size;

	est_split(tape, fused, 2, (const uint64_t[]){ width, width }, half);
	for (unsigned i = 0; i < 2; i++)
		half[i] = est_hold(half[i]);
	y = est_mul(tape, est_activate(pass, half[0]), half[1]);
	y = est_linear(tape, &layer->down_proj, est_dropout(tape, y, pass->model->residual_dropout));
	est_drop_all(tape, half, 2);
	return y;
}

struct est_tensor est_modernbert_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	bool normed = layer->input_layernorm.width > 0; /* not in the first layer */
	struct est_tensor y = normed ? est_hold(est_torch_layer_norm(pass, &layer->input_layernorm, x))
		: est_hold(est_alias(tape, x));
	struct est_tensor attended = est_hold(self_attention(pass, layer, y)), out;

	est_drop(tape, y);
	x = est_hold(est_add(tape, x, attended));
	y = est_hold(est_torch_layer_norm(pass, &layer->post_attention_layernorm, x));
	out = est_hold(mlp(pass, layer, y));
	est_drop(tape, y);
	y = est_add(tape, x, out);
	est_drop(tape, out);
	est_drop(tape, attended);
	est_drop(tape, x);
	return y;
}

/* ---- model */

/* create_bidirectional_sliding_window_mask: |q - k| <= window */
static struct est_tensor window_mask(struct est_pass *pass)
{
	struct est_tape *tape = pass->tape;
	uint64_t scores = pass->sequence * pass->sequence;
	struct est_tensor difference = est_buffer(pass->tape, scores, EST_INT64),
		distance = est_buffer(pass->tape, scores, EST_INT64), mask, next;
	bool padded = pass->request->attention_mask;

	est_drop(tape, difference);
	mask = est_buffer(pass->tape, scores, EST_BYTE);
	est_drop(tape, distance);
	for (unsigned i = 0; i < (padded ? 4 : 2); i++) { /* & of as many conditions, padding the last */
		next = est_buffer(pass->tape, i == 3 ? pass->batch * scores : scores, EST_BYTE);
		est_drop(tape, mask);
		mask = next;
	}
	mask.numel = pass->batch * scores; /* expanded over the batch */
	return mask;
}

static void make_masks(struct est_pass *pass)
{
	bool windows = pass->request->attention_mask || pass->sequence >= (uint64_t)pass->model->sliding_window;

	pass->mask = est_bidirectional_mask(pass, pass->sequence, pass->sequence, pass->parameter_element);
	if (windows)
		pass->sliding_mask = window_mask(pass);
}

/* drop(norm(tok_embeddings)), the layers, final_norm */
struct est_tensor est_modernbert_forward(struct est_pass *pass)
{
	const struct est_model *model = pass->model;
	struct est_tape *tape = pass->tape;
	struct est_tensor words, x, y;

	words = est_embedding(tape, pass->input_ids, pass->embed_tokens, (uint64_t)model->vocab_size,
			      (uint64_t)model->hidden_size);
	words = est_hold(est_require_input_grad(pass, words));
	x = est_hold(est_torch_layer_norm(pass, &pass->embedding_norm, words));
	est_drop(tape, words);
	y = est_hold(est_dropout(tape, x, model->embedding_dropout));
	est_drop(tape, x);
	make_masks(pass);
	est_make_ropes(pass, y.element);
	x = est_run_layers(pass, est_hold(est_alias(tape, y)));
	words = est_hold(est_torch_layer_norm(pass, &pass->norm, x));
	est_drop(tape, x);
	est_drop(tape, y); /* the masks' arguments have held it */
	return words;
}
