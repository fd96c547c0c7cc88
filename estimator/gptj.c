/* GPTJBlock and GPTNeoBlock: scores and softmax in fp32 by python operators. */
#include "estimator/architecture.h"

/* ---- attention's arithmetic, q, k and v as permuted heads */

/* torch.where(self.bias, weights, mask_value): the mask is a part of a buffer */
static const struct est_op where_op = { "Where", est_backward_one };

static struct est_tensor where_causal(struct est_tape *tape, struct est_tensor x)
{
	struct est_node *node = est_node_new(tape, &where_op, 1, &x);
	struct est_tensor out = est_output(tape, node, 0, est_empty(tape, x.numel, x.element));

	est_finish(tape, x);
	return out;
}

/* _attn(): GPT-J divides the scores, GPT-Neo masks them by its own buffer, both then add the model's mask */
static struct est_tensor eager(struct est_pass *pass, const struct est_tensor in[3])
{
	struct est_tape *tape = pass->tape;
	uint64_t scores = in[0].numel / (uint64_t)pass->model->head_dim * pass->sequence;
	struct est_tensor q = est_hold(est_to(tape, in[0], EST_32BIT)), k = est_hold(est_to(tape, in[1], EST_32BIT)), a,
		b, out;

	a = est_matmul_heads(pass, q, true, k, true, scores);
	a = pass->model->architecture == EST_ARCH_GPTJ ? est_mul_scalar(tape, a) : where_causal(tape, a);
	a = est_add(tape, a, pass->mask);
	if (tape->autocast)
		a = est_to(tape, a, EST_32BIT);
	b = est_to(tape, est_softmax(tape, a), in[2].element);
	b = est_hold(est_dropout(tape, b, pass->model->attention_dropout));
	out = est_matmul_heads(pass, b, false, in[2], true, in[0].numel);
	est_drop(tape, q);
	est_drop(tape, k);
	pass->attn_weights = b;
	return out;
}

/* out_proj and dropout of the heads' outputs; in moves in */
static struct est_tensor attend(struct est_pass *pass, const struct est_layer *layer, struct est_tensor in[3])
{
	struct est_tape *tape = pass->tape;
	struct est_tensor out, projected;

	if (pass->request->attention == EST_EAGER)
		out = est_hold(est_join_heads(pass, eager(pass, in)));
	else
		out = est_hold(est_attention(pass, layer, in[0], in[1], in[2]));
	projected = est_hold(est_linear(tape, &layer->o_proj, out));
	est_drop(tape, out);
	out = est_dropout(tape, projected, pass->model->residual_dropout);
	est_drop(tape, projected);
	est_drop_all(tape, in, 3);
	return out;
}

/* ---- GPT-J: pairs of features of a part of each head are rotated */

/* sin and cos of each position, out of a table that is repeated for each sequence; all are variables of the frame */
struct angles {
	struct est_tensor table, ids, both;
};

static void gather_angles(struct est_pass *pass, uint8_t element, struct angles *ret)
{
	uint64_t rotary = est_rotary_width(pass->model), gathered = pass->sequence * rotary;
	struct est_tape *tape = pass->tape;

	ret->table = est_buffer(tape, (uint64_t)pass->model->max_position_embeddings * rotary, EST_32BIT);
	ret->ids = est_buffer(tape, gathered, EST_INT64);
	ret->both = est_hold(est_to(tape, est_empty_as(tape, gathered, EST_32BIT, EST_BUFFERS), element));
}

/* (x * cos) + (rotate_every_two(x) * sin), each angle repeated for its pair */
static struct est_tensor rotated(struct est_pass *pass, struct est_tensor x, uint8_t element)
{
	uint64_t angles = pass->sequence * est_rotary_width(pass->model);
	struct est_tape *tape = pass->tape;
	struct est_tensor sin = est_buffer(tape, angles, element), with_cos, out;
	struct est_tensor cos = est_buffer(tape, angles, element);

	with_cos = est_mul(tape, x, cos);
	out = est_add(tape, with_cos, est_mul(tape, est_rotate_half(tape, x), sin));
	est_drop(tape, sin);
	est_drop(tape, cos);
	return out;
}

/* key, then query: cut, rotated and joined; the parts are variables of the frame */
static void rotate(struct est_pass *pass, struct est_tensor in[2], struct est_tensor rot[2], struct est_tensor rest[2],
		   uint8_t element)
{
	uint64_t dim = (uint64_t)pass->model->head_dim, rotary = est_rotary_width(pass->model);
	struct est_tape *tape = pass->tape;

	for (unsigned i = 0; i < 2; i++) {
		rot[i] = est_hold(est_slice(tape, in[i], in[i].numel / dim * rotary));
		rest[i] = est_hold(est_slice(tape, in[i], in[i].numel / dim * (dim - rotary)));
	}
	for (unsigned i = 0; i < 2; i++) {
		struct est_tensor embed = est_hold(rotated(pass, rot[i], element));

		est_drop(tape, rot[i]);
		rot[i] = embed;
	}
	for (unsigned i = 0; i < 2; i++) {
		struct est_tensor joined = est_hold(est_cat(tape, rot[i], rest[i]));

		est_drop(tape, in[i]);
		in[i] = joined;
	}
}

static struct est_tensor gptj_attention(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor q = est_hold(est_linear(tape, &layer->q_proj, x)), k = est_hold(est_linear(tape, &layer->k_proj, x));
	struct est_tensor v = est_hold(est_view_as_heads(tape, est_linear(tape, &layer->v_proj, x)));
	struct est_tensor pair[2] = { k, q }, rot[2], rest[2];
	struct angles angles;

	gather_angles(pass, k.element, &angles);
	rotate(pass, pair, rot, rest, k.element);
	x = attend(pass, layer, (struct est_tensor[]){ pair[1], pair[0], v });
	est_drop(tape, angles.table);
	est_drop(tape, angles.ids);
	est_drop(tape, angles.both);
	for (unsigned i = 0; i < 2; i++) {
		est_drop(tape, rot[i]);
		est_drop(tape, rest[i]);
	}
	return x;
}

/* attention(ln_1(x)) + mlp(ln_1(x)) + x */
struct est_tensor est_gptj_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor y = est_hold(est_torch_layer_norm(pass, &layer->input_layernorm, x)), attended, mlp, out;

	attended = est_hold(gptj_attention(pass, layer, y));
	mlp = est_hold(est_dropped_mlp(pass, layer, y));
	out = est_add(tape, est_add(tape, attended, mlp), x);
	est_drop(tape, y);
	est_drop(tape, attended);
	est_drop(tape, mlp);
	return out;
}

/* ---- GPT-Neo */

static struct est_tensor gpt_neo_attention(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	const struct est_linear *linears[3] = { &layer->q_proj, &layer->k_proj, &layer->v_proj };
	struct est_tensor in[3];

	for (unsigned i = 0; i < 3; i++) {
		in[i] = est_linear(pass->tape, linears[i], x);
		if (i == 1) /* whose gradient is copied before it is viewed */
			in[i] = est_view_as_heads(pass->tape, in[i]);
	}
	in[0] = est_hold(est_view_as_heads(pass->tape, in[0]));
	in[1] = est_hold(in[1]);
	in[2] = est_hold(est_view_as_heads(pass->tape, in[2]));
	return attend(pass, layer, in);
}

struct est_tensor est_gpt_neo_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	return est_gpt_layer(pass, layer, x, gpt_neo_attention, est_dropped_mlp);
}
