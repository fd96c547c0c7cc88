/* Phi3DecoderLayer: qkv and gate_up are fused, and cut up as views. */
#include "estimator/liger.h"

/* query_states = query_states.view(...).transpose(1, 2): view takes the place of flat */
static struct est_tensor heads(struct est_tensor view, struct est_tape *tape, struct est_tensor flat)
{
	est_drop(tape, flat);
	return est_hold(view);
}

static struct est_tensor attention(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor qkv = est_hold(est_linear(tape, &layer->qkv_proj, x)), q, k, v, embed[2];
	uint64_t query = pass->tokens * (uint64_t)(pass->model->num_attention_heads * pass->model->head_dim);
	uint64_t key = pass->tokens * (uint64_t)(pass->model->num_key_value_heads * pass->model->head_dim);

	q = est_hold(est_slice(tape, qkv, query));
	k = est_hold(est_slice(tape, qkv, key));
	v = est_hold(est_slice(tape, qkv, key));
	q = heads(est_rope_heads(pass, est_alias(tape, q)), tape, q);
	k = heads(est_rope_heads(pass, est_alias(tape, k)), tape, k);
	v = heads(est_heads(pass, layer, est_alias(tape, v)), tape, v);
	est_apply_partial_rope(pass, est_layer_rope(pass, layer), q, k, embed);
	est_drop(tape, q);
	est_drop(tape, k);
	x = est_attend_as_is(pass, layer, embed[0], embed[1], v);
	est_drop(tape, qkv);
	return x;
}

struct est_tensor est_fused_mlp(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor gate_up = est_linear(tape, &layer->gate_up_proj, x), half[2], up;
	uint64_t width = pass->tokens * (uint64_t)pass->model->intermediate_size;

	est_split(tape, gate_up, 2, (const uint64_t[]){ width, width }, half);
	for (unsigned i = 0; i < 2; i++)
		half[i] = est_hold(half[i]);
	if (pass->request->liger_kernel) {
		x = est_linear(tape, &layer->down_proj, est_liger_gate(tape, half[0], half[1], true));
		est_drop(tape, half[1]);
	} else { /* up_states = up_states * ... */
		up = est_hold(est_mul(tape, half[1], est_activate(pass, half[0])));
		est_drop(tape, half[1]);
		x = est_linear(tape, &layer->down_proj, up);
		est_drop(tape, up);
	}
	est_drop(tape, half[0]);
	return x;
}

struct est_tensor est_phi3_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor y = est_hold(est_llama_norm(pass, &layer->input_layernorm, x)), residual;

	residual = attention(pass, layer, y);
	est_drop(tape, y);
	residual = est_hold(est_add(tape, x, est_dropout(tape, residual, pass->model->residual_dropout)));
	y = est_hold(est_llama_norm(pass, &layer->post_attention_layernorm, residual));
	x = est_fused_mlp(pass, layer, y);
	est_drop(tape, y);
	x = est_add(tape, residual, est_dropout(tape, x, pass->model->residual_dropout));
	est_drop(tape, residual);
	return x;
}
