/* PhiDecoderLayer and StableLmDecoderLayer: LayerNorm; a part of each head is rotated, by variables of attention's
 * own frame. */
#include "estimator/pass.h"

/* The parts of q and k: what is rotated, then what is not. */
struct parts {
	struct est_tensor rot[2], rest[2];
};

static void cut(struct est_pass *pass, const struct est_tensor in[2], struct parts *parts)
{
	uint64_t dim = (uint64_t)pass->model->head_dim, rotary = (uint64_t)((double)dim * pass->model->partial_rotary_factor);

	for (unsigned i = 0; i < 2; i++) {
		parts->rot[i] = est_hold(est_slice(pass->tape, in[i], in[i].numel / dim * rotary));
		parts->rest[i] = est_hold(est_slice(pass->tape, in[i], in[i].numel / dim * (dim - rotary)));
	}
}

static void drop_pair(struct est_tape *tape, const struct est_tensor pair[2])
{
	est_drop(tape, pair[0]);
	est_drop(tape, pair[1]);
}

/* q and k as heads, and v. StableLM cuts its projections into heads after all three are made. */
static void project(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x,
		    struct est_tensor states[2], struct est_tensor *ret_v)
{
	bool late = pass->model->architecture == EST_ARCH_STABLELM;
	const struct est_linear *linears[2] = { &layer->q_proj, &layer->k_proj };
	struct est_tensor v;

	for (unsigned i = 0; i < 2; i++) {
		states[i] = est_linear(pass->tape, linears[i], x);
		if (!late)
			states[i] = est_rope_heads(pass, states[i]);
	}
	v = est_linear(pass->tape, &layer->v_proj, x);
	for (unsigned i = 0; i < 2; i++)
		states[i] = est_hold(late ? est_rope_heads(pass, states[i]) : states[i]);
	*ret_v = est_hold(est_heads(pass, layer, v));
}

static struct est_tensor attention(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor states[2], v, embed[2], joined[2];
	struct parts parts;

	project(pass, layer, x, states, &v);
	cut(pass, states, &parts);
	est_apply_rope(pass, est_layer_rope(pass, layer), parts.rot[0], parts.rot[1], embed);
	drop_pair(tape, parts.rot);
	for (unsigned i = 0; i < 2; i++)
		joined[i] = est_hold(est_cat(tape, embed[i], parts.rest[i]));
	drop_pair(tape, states);
	x = est_attend_as_is(pass, layer, joined[0], joined[1], v);
	for (unsigned i = 0; i < 2; i++) {
		est_drop(tape, embed[i]);
		est_drop(tape, parts.rest[i]);
	}
	return x;
}

/* self.resid_dropout(block(x)) */
static struct est_tensor dropped(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x,
				 est_layer_function *block)
{
	struct est_tensor y = est_hold(block(pass, layer, x)), out;

	out = est_hold(est_dropout(pass->tape, y, pass->model->residual_dropout));
	est_drop(pass->tape, y);
	return out;
}

/* attention(ln(x)) + mlp(ln(x)) + x */
struct est_tensor est_phi_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor y = est_hold(est_torch_layer_norm(pass, &layer->input_layernorm, x)), attended, mlp, out;

	attended = dropped(pass, layer, y, attention);
	mlp = dropped(pass, layer, y, est_plain_mlp);
	out = est_add(tape, est_add(tape, attended, mlp), x);
	est_drop(tape, y);
	est_drop(tape, attended);
	est_drop(tape, mlp);
	return out;
}

/* Llama's, but that its variables live to the end */
struct est_tensor est_stablelm_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor y = est_hold(est_torch_layer_norm(pass, &layer->input_layernorm, x)), attended, residual, mlp, out;

	attended = est_hold(attention(pass, layer, y));
	residual = est_hold(est_add(tape, x, attended));
	mlp = est_hold(est_gated_mlp(pass, layer, est_torch_layer_norm(pass, &layer->post_attention_layernorm, residual)));
	out = est_add(tape, residual, mlp);
	est_drop(tape, y);
	est_drop(tape, attended);
	est_drop(tape, residual);
	est_drop(tape, mlp);
	return out;
}
