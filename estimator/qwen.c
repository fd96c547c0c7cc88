/* The first Qwen, whose code came with its checkpoints (modeling_qwen.py) before Transformers had Qwen2 in 4.37: q,
 * k and v in one product, rotation in fp32. Its shapes are those of Qwen 1.5. */
#include "estimator/generation.h"
#include "estimator/pass.h"

enum { LOGN_POSITIONS = 32767 };

struct est_model est_qwen_model(const struct est_model *model)
{
	struct est_model qwen = *model;

	qwen.architecture = EST_ARCH_QWEN;
	return qwen;
}

/* logn_tensor of each layer, in the dtype of the rest; cosine and sine of twice the positions, made once, in fp32 */
void est_qwen_build_tables(struct est_pass *pass)
{
	const struct est_model *model = pass->model;

	for (int64_t i = 0; i < model->num_hidden_layers; i++)
		est_empty_as(pass->tape, LOGN_POSITIONS, pass->parameter_element, EST_BUFFERS);
	for (unsigned i = 0; i < 2; i++)
		est_empty_as(pass->tape, 2 * pass->sequence * (uint64_t)model->head_dim, EST_32BIT, EST_BUFFERS);
}

/* RMSNorm: _norm(x.float()).type_as(x) * weight */
struct est_tensor est_qwen_norm(struct est_pass *pass, const struct est_norm_weights *norm, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor x32 = est_hold(est_to(tape, est_hold(x), EST_32BIT)), y;

	y = est_mean(tape, est_pow(tape, x32), x.numel / norm->width);
	y = est_mul(tape, x32, est_rsqrt(tape, est_add_scalar(tape, y)));
	est_drop(tape, x32);
	y = est_mul(tape, est_to(tape, y, x.element), est_leaf_tensor(tape, norm->weight));
	est_finish(tape, x);
	return y;
}

/* The gradients of the halves, one negated, stacked by the backward of unbind() */
static void backward_rotate(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	struct est_tensor half = est_empty(tape, node->edge_numel[0] / 2, node->grad[0].element);

	ret[0] = est_empty(tape, node->edge_numel[0], half.element);
	ret[0].view = true;
	est_drop(tape, half);
}
static const struct est_op rotate_op = { "RotateHalf", backward_rotate };

/* _rotate_half: cat((-x2, x1)) of x.unbind(); x is borrowed */
static struct est_tensor rotate_half(struct est_tape *tape, struct est_tensor x)
{
	struct est_node *node = est_node_new(tape, &rotate_op, 1, &x);
	struct est_tensor half = est_empty(tape, x.numel / 2, x.element);
	struct est_tensor out = est_output(tape, node, 0, est_empty(tape, x.numel, x.element));

	est_drop(tape, half);
	return out;
}

/* torch.cat of what was turned and of the rest of each head, which is nothing; the gradients are parts of one */
static void backward_join(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	ret[0] = est_take_grad(node, 0);
	ret[0].view = true;
	if (!est_needs(node, 1))
		return;
	ret[1] = est_hold(est_alias(tape, ret[0]));
	ret[1].numel = 1;
}
static const struct est_op join_op = { "Cat", backward_join };

/* both are borrowed */
static struct est_tensor join(struct est_tape *tape, struct est_tensor turned, struct est_tensor rest)
{
	struct est_node *node = est_node_new(tape, &join_op, 2, (struct est_tensor[]){ turned, rest });

	return est_output(tape, node, 0, est_empty(tape, turned.numel, turned.element));
}

/* apply_rotary_pos_emb: cat((t.float() * cos + _rotate_half(t.float()) * sin, t_pass)).type_as(t). t_pass has no
 * element but a gradient, zeros of the whole; here it has one. */
static struct est_tensor rotated(struct est_pass *pass, struct est_tensor t)
{
	struct est_tape *tape = pass->tape;
	const struct est_tensor table = { .numel = 1, .element = EST_32BIT }; /* est_qwen_build_tables() has its memory */
	struct est_tensor t_float = est_hold(est_to(tape, est_alias(tape, t), EST_32BIT)), t_rot, t_pass, out;

	t_pass = est_hold(est_slice(tape, est_alias(tape, t_float), 1));
	t_rot = est_mul(tape, t_float, table);
	t_rot = est_hold(est_add(tape, t_rot, est_mul(tape, rotate_half(tape, t_float), table)));
	out = est_hold(est_to(tape, join(tape, t_rot, t_pass), t.element));
	est_drop(tape, t_rot);
	est_drop(tape, t_pass);
	est_drop(tape, t_float);
	return out;
}

static struct est_tensor attention(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	uint64_t width = pass->tokens * (uint64_t)pass->model->hidden_size;
	struct est_tensor mixed_x_layer = est_hold(est_linear(tape, &layer->qkv_proj, x)), part[3], query, key;

	est_split(tape, mixed_x_layer, 3, (const uint64_t[]){ width, width, width }, part);
	for (unsigned i = 0; i < 3; i++)
		part[i] = est_hold(part[i]);
	query = rotated(pass, part[0]);
	est_drop(tape, part[0]);
	key = rotated(pass, part[1]);
	est_drop(tape, part[1]);
	x = est_attend_as_is(pass, layer, query, key, part[2]);
	est_drop(tape, mixed_x_layer);
	return x;
}

/* c_proj(w1(x) * silu(w2(x))) */
static struct est_tensor mlp(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor a1 = est_hold(est_linear(tape, &layer->up_proj, x)),
		a2 = est_hold(est_linear(tape, &layer->gate_proj, x));
	struct est_tensor both = est_hold(est_mul(tape, a1, est_silu(tape, a2))), out;

	out = est_linear(tape, &layer->down_proj, both);
	est_drop(tape, both);
	est_drop(tape, a1);
	est_drop(tape, a2);
	return out;
}

/* QWenBlock.forward: its frame holds what it has made to its end */
struct est_tensor est_qwen_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor layernorm_output = est_hold(est_qwen_norm(pass, &layer->input_layernorm, x)), attn_output,
		residual, y, out;

	attn_output = est_hold(attention(pass, layer, layernorm_output));
	residual = est_hold(est_add(tape, attn_output, x));
	y = est_hold(est_qwen_norm(pass, &layer->post_attention_layernorm, residual));
	est_drop(tape, layernorm_output);
	layernorm_output = y;
	y = est_hold(mlp(pass, layer, layernorm_output));
	out = est_add(tape, residual, y);
	est_drop(tape, y);
	est_drop(tape, layernorm_output);
	est_drop(tape, residual);
	est_drop(tape, attn_output);
	return out;
}
