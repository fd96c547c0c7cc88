/* Norms, RoPE and MLPs as they stand in Transformers' modelling code. */
#include "estimator/architecture.h"
#include "estimator/liger.h"

struct est_tensor est_normalized(struct est_tape *tape, struct est_tensor x32, struct est_tensor *ret_variance, uint64_t rows)
{
	struct est_tensor variance = est_hold(est_mean(tape, est_pow(tape, x32), rows));

	*ret_variance = variance;
	return est_mul(tape, x32, est_rsqrt(tape, est_add_scalar(tape, variance)));
}

static struct est_tensor llama_norm(struct est_pass *pass, const struct est_norm_weights *norm, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor x32, variance, y, out;

	if (pass->request->liger_kernel)
		return est_liger_norm(pass, norm, x, true);
	x32 = est_hold(est_to(tape, est_hold(x), EST_32BIT));
	y = est_hold(est_normalized(tape, x32, &variance, x.numel / norm->width));
	est_drop(tape, x32);
	out = est_to(tape, y, x.element);
	out = est_mul(tape, est_leaf_tensor(tape, norm->weight), out);
	est_drop(tape, y);
	est_drop(tape, variance);
	est_finish(tape, x);
	return out;
}

static struct est_tensor olmo2_norm(struct est_pass *pass, const struct est_norm_weights *norm, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor x32 = est_hold(est_to(tape, est_hold(x), EST_32BIT)), variance, y, out;

	y = est_hold(est_normalized(tape, x32, &variance, x.numel / norm->width));
	est_drop(tape, x32);
	out = est_to(tape, est_mul(tape, est_leaf_tensor(tape, norm->weight), y), x.element);
	est_drop(tape, y);
	est_drop(tape, variance);
	est_finish(tape, x);
	return out;
}

struct est_tensor est_olmo2_norm(struct est_pass *pass, const struct est_norm_weights *norm, struct est_tensor x)
{
	if (pass->request->liger_kernel)
		return est_liger_norm(pass, norm, x, norm == &pass->norm);
	return est_olmo2_head_norm(pass, norm, x);
}

static struct est_tensor gemma_norm(struct est_pass *pass, const struct est_norm_weights *norm, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor x32, y, weight, out;

	if (pass->request->liger_kernel)
		return est_liger_norm(pass, norm, x, pass->model->architecture == EST_ARCH_GEMMA);
	x32 = est_hold(est_to(tape, est_hold(x), EST_32BIT));
	y = est_mean(tape, est_pow(tape, x32), x.numel / norm->width);
	y = est_hold(est_mul(tape, x32, est_rsqrt(tape, est_add_scalar(tape, y))));
	est_drop(tape, x32);
	weight = est_add_scalar(tape, est_to(tape, est_leaf_tensor(tape, norm->weight), EST_32BIT));
	out = est_hold(est_mul(tape, y, weight));
	est_drop(tape, y);
	y = est_to(tape, out, x.element);
	est_drop(tape, out);
	est_finish(tape, x);
	return y;
}

static struct est_tensor olmo_norm(struct est_pass *pass, const struct est_norm_weights *norm, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor y = est_layer_norm(tape, est_to(tape, est_hold(x), EST_32BIT), x.numel / norm->width, EST_NO_LEAF,
					     EST_NO_LEAF);

	y = est_to(tape, y, x.element);
	est_finish(tape, x);
	return y;
}

static struct est_tensor torch_layer_norm(struct est_pass *pass, const struct est_norm_weights *norm, struct est_tensor x)
{
	return est_layer_norm(pass->tape, x, x.numel / norm->width, norm->weight, norm->bias);
}

/* norm(x): a module's call */
struct est_tensor est_call_norm(struct est_pass *pass, est_norm_function *forward, const struct est_norm_weights *norm,
				struct est_tensor x)
{
	bool split = pass->tensor.splits_sequence && norm->width == (uint64_t)pass->model->hidden_size;
	struct est_tensor part, y;

	if (split) {
		part = est_sequence_enter(pass->tape, x);
		y = est_sequence_leave(pass->tape, forward(pass, norm, part));
		est_drop(pass->tape, part);
		return y;
	}
	x = est_module_enter(pass->tape, norm->module, x);
	return est_module_leave(pass->tape, norm->module, forward(pass, norm, x));
}

struct est_tensor est_llama_norm(struct est_pass *pass, const struct est_norm_weights *norm, struct est_tensor x)
{
	return est_call_norm(pass, llama_norm, norm, x);
}

struct est_tensor est_gemma_norm(struct est_pass *pass, const struct est_norm_weights *norm, struct est_tensor x)
{
	return est_call_norm(pass, gemma_norm, norm, x);
}

struct est_tensor est_olmo_norm(struct est_pass *pass, const struct est_norm_weights *norm, struct est_tensor x)
{
	return est_call_norm(pass, olmo_norm, norm, x);
}

struct est_tensor est_olmo2_head_norm(struct est_pass *pass, const struct est_norm_weights *norm, struct est_tensor x)
{
	return est_call_norm(pass, olmo2_norm, norm, x);
}

struct est_tensor est_torch_layer_norm(struct est_pass *pass, const struct est_norm_weights *norm, struct est_tensor x)
{
	return est_call_norm(pass, torch_layer_norm, norm, x);
}

/* NewGELUActivation: 0.5 * x * (1.0 + torch.tanh(c * (x + 0.044715 * torch.pow(x, 3.0)))) */
static struct est_tensor gelu_new(struct est_tape *tape, struct est_tensor x)
{
	struct est_tensor input = est_hold(x), half, inner;

	half = est_mul_scalar(tape, input);
	inner = est_add(tape, input, est_mul_scalar(tape, est_pow(tape, input)));
	inner = est_add_scalar(tape, est_tanh(tape, est_mul_scalar(tape, inner)));
	half = est_mul(tape, half, inner);
	est_finish(tape, x);
	return half;
}

static struct est_tensor activate(struct est_pass *pass, struct est_tensor x)
{
	switch (pass->model->activation) {
	case EST_SILU:
		return est_silu(pass->tape, x);
	case EST_GELU_NEW:
		return gelu_new(pass->tape, x);
	case EST_RELU:
		return est_relu(pass->tape, x);
	case EST_RELU2: { /* torch.square(relu(x)) */
		struct est_tensor relu = est_hold(est_relu(pass->tape, x)), square = est_pow(pass->tape, relu);

		est_drop(pass->tape, relu);
		return square;
	}
	case EST_GELU:
	case EST_XIELU: /* has parameters: est_xielu_mlp() */
		break;
	}
	return est_gelu(pass->tape, x);
}

struct est_tensor est_activate(struct est_pass *pass, struct est_tensor x)
{
	uint32_t module = pass->layer ? pass->layer->act_fn : 0; /* in the head of an encoder */

	x = est_module_enter(pass->tape, module, x);
	return est_module_leave(pass->tape, module, activate(pass, x));
}

/* PrepareModuleInput: what is gathered of a split sequence lives as long as the call. x is borrowed. */
static struct est_tensor on_all_positions(struct est_pass *pass, const struct est_layer *layer, est_layer_function *forward,
					  struct est_tensor x)
{
	struct est_tensor whole, y;

	if (!pass->tensor.splits_sequence)
		return forward(pass, layer, x);
	whole = est_hold(est_sequence_gather(pass->tape, &pass->tensor, x));
	y = forward(pass, layer, whole);
	est_drop(pass->tape, whole);
	return y;
}

struct est_tensor est_call_attention(struct est_pass *pass, const struct est_layer *layer, est_layer_function *forward,
				     struct est_tensor x)
{
	est_module_begin(pass->tape, layer->self_attn);
	return est_module_leave(pass->tape, layer->self_attn, on_all_positions(pass, layer, forward, x));
}

struct est_tensor est_call_mlp(struct est_pass *pass, const struct est_layer *layer, est_layer_function *forward, struct est_tensor x)
{
	if (layer->experts.permuted_indices.storage)
		forward = est_titan_mixture;
	x = est_module_enter(pass->tape, layer->mlp, x);
	return est_module_leave(pass->tape, layer->mlp, on_all_positions(pass, layer, forward, x));
}

/* (x * cos) + (rotate_half(x) * sin) */
static struct est_tensor rotated(struct est_pass *pass, const struct est_rope *rope, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor with_cos = est_mul(tape, x, rope->cos);

	return est_add(tape, with_cos, est_mul(tape, est_rotate_half(tape, x), rope->sin));
}

bool est_rotates_a_part(const struct est_model *model)
{
	return model->partial_rotary_factor < 1 || est_architecture_row(model->architecture)->cuts_whole_heads;
}

void est_apply_rope(struct est_pass *pass, const struct est_rope *rope, struct est_tensor q, struct est_tensor k,
		    struct est_tensor ret[2])
{
	struct est_tensor embed[2];

	if (pass->request->liger_kernel) {
		est_liger_rope(pass, rope, q, k, ret);
		return;
	}
	embed[0] = est_hold(rotated(pass, rope, q));
	embed[1] = est_hold(rotated(pass, rope, k));
	if (!est_architecture_row(pass->model->architecture)->fp32_rope) {
		ret[0] = embed[0];
		ret[1] = embed[1];
		return;
	}
	/* q_embed.to(q_type), k_embed.to(k_type) */
	for (unsigned i = 0; i < 2; i++)
		ret[i] = est_hold(est_to(pass->tape, embed[i], q.element));
	est_drop_all(pass->tape, embed, 2);
}

/* Partial rotary embedding: the rotated part and the rest of each head are cut, and joined again into contiguous heads. */
void est_apply_partial_rope(struct est_pass *pass, const struct est_rope *rope, struct est_tensor q, struct est_tensor k,
			    struct est_tensor ret[2])
{
	enum est_architecture architecture = pass->model->architecture;
	bool joined_at_once = architecture == EST_ARCH_PHI3, kept = architecture == EST_ARCH_NEMOTRON;
	struct est_tensor in[2] = { q, k }, rot[2], rest[2], embed[2];
	struct est_tape *tape = pass->tape;

	if (pass->request->liger_kernel) {
		est_liger_rope(pass, rope, q, k, ret);
		return;
	}
	for (unsigned i = 0; i < 2; i++) {
		uint64_t rotary = in[i].numel / (uint64_t)pass->model->head_dim
				  * (uint64_t)((double)pass->model->head_dim * pass->model->partial_rotary_factor);

		/* x[..., :all] is x itself; x[..., all:] is a view without elements */
		rot[i] = est_hold(rotary == in[i].numel ? est_alias(tape, in[i]) : est_slice(tape, in[i], rotary));
		rest[i] = est_hold(est_slice(tape, in[i], in[i].numel - rotary));
	}
	for (unsigned i = 0; i < 2; i++) {
		embed[i] = rotated(pass, rope, rot[i]);
		if (kept) /* variables to the end, which the joined heads do not take the place of */
			embed[i] = est_hold(embed[i]);
		if (joined_at_once)
			ret[i] = est_hold(est_cat(tape, embed[i], rest[i]));
	}
	for (unsigned i = 0; i < 2 && !joined_at_once; i++)
		ret[i] = est_hold(est_cat(tape, embed[i], rest[i]));
	for (unsigned i = 0; i < 2; i++) {
		if (kept)
			est_drop(tape, embed[i]);
		est_drop(tape, rot[i]);
		est_drop(tape, rest[i]);
	}
}

struct est_tensor est_gate_and_up(struct est_pass *pass, const struct est_linear *gate_proj, const struct est_linear *up_proj,
				  const struct est_linear *down_proj, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor gate = est_linear(tape, gate_proj, x), up;
	bool fused = pass->request->liger_kernel;

	if (!fused)
		gate = est_activate(pass, gate);
	up = est_linear(tape, up_proj, x);
	return est_linear(tape, down_proj, fused ? est_liger_gate(tape, gate, up, false) : est_mul(tape, gate, up));
}

struct est_tensor est_gated_mlp(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tensor down = est_gate_and_up(pass, &layer->gate_proj, &layer->up_proj, &layer->down_proj, est_hold(x));

	est_finish(pass->tape, x);
	return est_dropout(pass->tape, down, pass->model->residual_dropout);
}
