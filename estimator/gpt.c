/* GPT2Block, GPTNeoXLayer, OPTDecoderLayer: LayerNorm with biases, an MLP without a gate, dropout. */
#include "estimator/generation.h"
#include "estimator/pass.h"

static struct est_tensor dropout(struct est_pass *pass, struct est_tensor x)
{
	return est_dropout(pass->tape, x, pass->model->residual_dropout);
}

/* ---- GPT-2: Conv1D, q, k and v split from one product */

static struct est_tensor gpt2_attention(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	uint64_t width = pass->tokens * (uint64_t)pass->model->hidden_size;
	struct est_tensor qkv[3], out;

	est_split(tape, est_conv1d(tape, &layer->qkv_proj, x), 3, (const uint64_t[]){ width, width, width }, qkv);
	qkv[1] = est_hold(qkv[1]);
	qkv[2] = est_hold(est_heads(pass, layer, qkv[2]));
	qkv[0] = est_hold(est_heads(pass, layer, qkv[0]));
	out = est_attention(pass, layer, qkv[0], qkv[1], qkv[2]);
	out = dropout(pass, est_conv1d(tape, &layer->o_proj, out));
	est_drop_all(tape, qkv, 3);
	return out;
}

static struct est_tensor gpt2_mlp(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor h = est_hold(est_conv1d(tape, &layer->up_proj, x)), activated;

	activated = est_hold(est_activate(pass, h));
	est_drop(tape, h);
	h = est_hold(est_conv1d(tape, &layer->down_proj, activated));
	est_drop(tape, activated);
	activated = dropout(pass, h);
	est_drop(tape, h);
	return activated;
}

struct est_tensor est_gpt_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x,
				est_layer_function *attention, est_layer_function *mlp)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor y = est_hold(est_torch_layer_norm(pass, &layer->input_layernorm, x)), attended, residual, out;

	attended = est_hold(attention(pass, layer, y));
	residual = est_hold(est_add(tape, attended, x));
	est_drop(tape, y);
	y = est_hold(est_torch_layer_norm(pass, &layer->post_attention_layernorm, residual));
	x = est_hold(mlp(pass, layer, y));
	out = est_add(tape, residual, x);
	est_drop(tape, y);
	est_drop(tape, x);
	est_drop(tape, attended);
	est_drop(tape, residual);
	return out;
}

struct est_tensor est_gpt2_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	return est_gpt_layer(pass, layer, x, gpt2_attention, gpt2_mlp);
}

/* ---- GPT-BigCode: GPT-2 with nn.Linear, and one head of k and v */

/* GPTBigCodeFlashAttention2 of Transformers 4: the frame holds what it casts beside what it has cast, and the heads'
 * outputs until they have been dropped out. Checkpoints do not switch the cache off: keys and values are returned,
 * views of the whole product */
static struct est_tensor bigcode_flash_attention(struct est_pass *pass, const struct est_layer *layer,
						 struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	uint64_t query = pass->tokens * (uint64_t)pass->model->hidden_size;
	uint64_t key = pass->tokens * (uint64_t)(pass->model->num_key_value_heads * pass->model->head_dim);
	struct est_tensor part[2], key_value, qkv[3], in[3], heads, out;

	est_split(tape, est_linear(tape, &layer->qkv_proj, x), 2, (const uint64_t[]){ query, 2 * key }, part);
	qkv[0] = est_hold(part[0]);
	key_value = est_hold(part[1]);
	est_split(tape, key_value, 2, (const uint64_t[]){ key, key }, &qkv[1]);
	for (unsigned i = 0; i < 3; i++)
		in[i] = est_hold(est_to(tape, est_hold(qkv[i]), tape->autocast ? EST_16BIT : qkv[i].element));
	heads = est_hold(est_attention(pass, layer, in[0], in[1], in[2]));
	x = est_hold(est_linear(tape, &layer->o_proj, heads));
	out = dropout(pass, x);
	est_drop(tape, x);
	est_drop(tape, heads);
	for (unsigned i = 0; i < 3; i++) {
		est_drop(tape, in[i]);
		est_drop(tape, qkv[i]);
	}
	tape->beside = key_value;
	return out;
}

static struct est_tensor bigcode_attention(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	uint64_t query = pass->tokens * (uint64_t)pass->model->hidden_size;
	uint64_t key = pass->tokens * (uint64_t)(pass->model->num_key_value_heads * pass->model->head_dim);
	struct est_tensor qkv[3], out;

	if (est_is_old_transformers(&pass->request->versions))
		return bigcode_flash_attention(pass, layer, x);
	est_split(tape, est_linear(tape, &layer->qkv_proj, x), 3, (const uint64_t[]){ query, key, key }, qkv);
	qkv[0] = est_hold(est_query_heads(pass, layer, qkv[0]));
	qkv[1] = est_hold(qkv[1]);
	qkv[2] = est_hold(qkv[2]);
	out = est_hold(est_attention(pass, layer, qkv[0], qkv[1], qkv[2]));
	x = est_hold(est_linear(tape, &layer->o_proj, out));
	est_drop(tape, out);
	out = dropout(pass, x);
	est_drop(tape, x);
	est_drop_all(tape, qkv, 3);
	return out;
}

struct est_tensor est_gpt_bigcode_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	return est_gpt_layer(pass, layer, x, bigcode_attention, est_dropped_mlp);
}

/* ---- GPT-NeoX: rotary embedding on a part of each head, attention and MLP side by side */

static struct est_tensor neox_attention(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	uint64_t width = pass->tokens * (uint64_t)pass->model->hidden_size;
	struct est_tensor qkv = est_hold(est_view_as_heads(tape, est_linear(tape, &layer->qkv_proj, x))), part[3],
		embed[2], out;

	est_split(tape, qkv, 3, (const uint64_t[]){ width, width, width }, part);
	for (unsigned i = 0; i < 3; i++)
		part[i] = est_hold(part[i]);
	est_apply_partial_rope(pass, est_layer_rope(pass, layer), part[0], part[1], embed);
	est_drop(tape, part[0]);
	est_drop(tape, part[1]);
	out = est_linear(tape, &layer->o_proj, est_attention(pass, layer, embed[0], embed[1], part[2]));
	est_drop(tape, embed[0]);
	est_drop(tape, embed[1]);
	est_drop(tape, part[2]);
	est_drop(tape, qkv);
	return out;
}

struct est_tensor est_plain_mlp(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor h = est_hold(est_linear(tape, &layer->up_proj, x)), activated;

	activated = est_hold(est_activate(pass, h));
	est_drop(tape, h);
	h = est_linear(tape, &layer->down_proj, activated);
	est_drop(tape, activated);
	return h;
}

struct est_tensor est_dropped_mlp(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tensor y = est_hold(est_plain_mlp(pass, layer, x)), out;

	out = est_dropout(pass->tape, y, pass->model->residual_dropout);
	est_drop(pass->tape, y);
	return out;
}

struct est_tensor est_gpt_neox_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor y = est_torch_layer_norm(pass, &layer->input_layernorm, x), attention, mlp, out;

	y = est_hold(y);
	attention = est_hold(dropout(pass, neox_attention(pass, layer, y)));
	est_drop(tape, y);
	if (!pass->model->parallel_residual) {
		y = est_add(tape, attention, x);
		est_drop(tape, attention);
		attention = est_hold(y);
	}
	y = est_hold(est_torch_layer_norm(pass, &layer->post_attention_layernorm,
					  pass->model->parallel_residual ? x : attention));
	mlp = est_hold(dropout(pass, est_plain_mlp(pass, layer, y)));
	est_drop(tape, y);
	out = est_add(tape, mlp, attention);
	if (pass->model->parallel_residual)
		out = est_add(tape, out, x);
	est_drop(tape, mlp);
	est_drop(tape, attention);
	return out;
}

/* ---- OPT: biased projections, norms before (350m: after) each block */

static struct est_tensor opt_attention(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor q = est_hold(est_heads(pass, layer, est_mul_scalar(tape, est_linear(tape, &layer->q_proj, x))));
	struct est_tensor k = est_hold(est_heads(pass, layer, est_linear(tape, &layer->k_proj, x)));
	struct est_tensor v = est_hold(est_heads(pass, layer, est_linear(tape, &layer->v_proj, x))), out;

	out = est_linear(tape, &layer->o_proj, est_attention(pass, layer, q, k, v));
	est_drop(tape, q);
	est_drop(tape, k);
	est_drop(tape, v);
	return out;
}

/* The frame's hidden_states = f(hidden_states): x moves in. */
static struct est_tensor opt_norm_if(struct est_pass *pass, bool now, const struct est_norm_weights *norm,
				     struct est_tensor x)
{
	struct est_tensor y;

	if (!now)
		return x;
	y = est_hold(est_torch_layer_norm(pass, norm, x));
	est_drop(pass->tape, x);
	return y;
}

struct est_tensor est_opt_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	bool before = pass->model->do_layer_norm_before;
	struct est_tensor h = opt_norm_if(pass, before, &layer->input_layernorm, est_hold(est_alias(tape, x))), y, residual;

	y = est_hold(opt_attention(pass, layer, h));
	est_drop(tape, h);
	h = est_hold(dropout(pass, y));
	est_drop(tape, y);
	residual = est_hold(est_add(tape, x, h));
	est_drop(tape, h);
	residual = opt_norm_if(pass, !before, &layer->input_layernorm, residual);
	h = est_hold(est_reshape(tape, residual));
	est_drop(tape, residual);
	residual = h;
	h = opt_norm_if(pass, before, &layer->post_attention_layernorm, est_hold(est_alias(tape, residual)));
	y = est_hold(est_linear(tape, &layer->up_proj, h));
	est_drop(tape, h);
	h = est_hold(est_activate(pass, y));
	est_drop(tape, y);
	y = est_hold(est_linear(tape, &layer->down_proj, h));
	est_drop(tape, h);
	h = est_hold(dropout(pass, y));
	est_drop(tape, y);
	y = est_hold(est_reshape(tape, est_add(tape, residual, h)));
	est_drop(tape, h);
	est_drop(tape, residual);
	y = opt_norm_if(pass, !before, &layer->post_attention_layernorm, y);
	y.temporary = true;
	return y;
}
