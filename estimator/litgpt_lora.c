/* litgpt/lora.py: LoRA on linear layers, and on parts of the fused q, k and v. */
#include "estimator/litgpt.h"

#include <string.h>
#include "estimator/adapters.h"
#include "estimator/architecture.h"
#include "estimator/lora.h"

/* ---- which parts */

static const struct {
	const char *name;
	unsigned parts;
} names[] = {
	{ "q_proj", EST_LITGPT_QUERY }, { "query", EST_LITGPT_QUERY },
	{ "k_proj", EST_LITGPT_KEY }, { "key", EST_LITGPT_KEY },
	{ "v_proj", EST_LITGPT_VALUE }, { "value", EST_LITGPT_VALUE },
	{ "qkv_proj", EST_LITGPT_QUERY | EST_LITGPT_KEY | EST_LITGPT_VALUE },
	{ "query_key_value", EST_LITGPT_QUERY | EST_LITGPT_KEY | EST_LITGPT_VALUE },
	{ "o_proj", EST_LITGPT_PROJECTION }, { "dense", EST_LITGPT_PROJECTION }, { "projection", EST_LITGPT_PROJECTION },
	{ "gate_proj", EST_LITGPT_MLP }, { "up_proj", EST_LITGPT_MLP }, { "down_proj", EST_LITGPT_MLP },
	{ "gate_up_proj", EST_LITGPT_MLP }, { "fc1", EST_LITGPT_MLP }, { "fc2", EST_LITGPT_MLP },
	{ "dense_h_to_4h", EST_LITGPT_MLP }, { "dense_4h_to_h", EST_LITGPT_MLP }, { "mlp", EST_LITGPT_MLP },
	{ "lm_head", EST_LITGPT_HEAD }, { "embed_out", EST_LITGPT_HEAD }, { "head", EST_LITGPT_HEAD },
};
enum { ATTENTION_PARTS = EST_LITGPT_QUERY | EST_LITGPT_KEY | EST_LITGPT_VALUE };

static unsigned parts_of(const char *target)
{
	const char *dot = strrchr(target, '.');

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (!strcmp(dot ? dot + 1 : target, names[i].name))
			return names[i].parts;
	return 0;
}

unsigned est_litgpt_parts(const struct est_names *targets, const char **ret_unknown)
{
	unsigned parts = targets->all ? ATTENTION_PARTS | EST_LITGPT_PROJECTION | EST_LITGPT_MLP : 0;

	*ret_unknown = NULL;
	for (int i = 0; i < targets->count && !targets->all; i++) {
		unsigned more = parts_of(targets->name[i]);

		if (!more && !*ret_unknown)
			*ret_unknown = targets->name[i];
		parts |= more;
	}
	return parts;
}

/* The parts of fused q, k and v that have an adapter; ret_out[]: the width of each. */
static unsigned fused_parts(const struct est_model *model, unsigned parts, uint64_t ret_out[3])
{
	const uint64_t query = est_width(model, EST_WIDTH_QUERY), key = est_width(model, EST_WIDTH_KEY);
	unsigned count = 0;

	if (parts & EST_LITGPT_QUERY)
		ret_out[count++] = query;
	if (parts & EST_LITGPT_KEY)
		ret_out[count++] = key;
	if (parts & EST_LITGPT_VALUE)
		ret_out[count++] = key;
	return count;
}

/* ---- lora_A and lora_B */

static struct est_linear factor(struct est_pass *pass, uint64_t in, uint64_t out)
{
	struct est_tensor value = est_parameter_empty(pass, in * out, pass->parameter_element);
	struct est_linear linear = { .in = in, .out = out, .weight = est_leaf_new(pass->tape, value, true, true) };

	pass->tape->leaves[linear.weight].rows = out;
	pass->tape->leaves[linear.weight].inner = pass->tape->leaves[linear.weight].linear = true;
	return linear;
}

static struct est_adapter *adapter_new(struct est_pass *pass, uint64_t in, uint64_t rank, uint64_t rank_of_b,
				       uint64_t out)
{
	struct est_adapter *adapter = est_arena_take(pass->tape->arena, 1, sizeof(*adapter));

	if (!adapter)
		return NULL;
	adapter->a = factor(pass, in, rank);
	adapter->b = factor(pass, rank_of_b, out);
	adapter->dropout = pass->request->lora.dropout;
	return adapter;
}

/* ---- LoRAQKVLinear.forward: lora_B is a convolution over the positions, a group for each part */

/* extra: 0 whether grad and input are parts of wider tensors, which cuDNN gets as copies */
static void backward_conv1d(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	struct est_tensor grad = est_none, input = est_none;

	if (node->extra[0]) {
		grad = est_empty(tape, node->grad[0].numel, node->grad[0].element);
		input = est_empty(tape, node->edge_numel[0], node->grad[0].element);
	}
	for (unsigned i = 0; i < 2; i++)
		if (est_needs(node, i))
			ret[i] = est_grad_for(tape, node, i, node->grad[0].element);
	est_drop(tape, grad);
	est_drop(tape, input);
}
static const struct est_op conv1d_op = { "Conv1d", backward_conv1d };

/* F.conv1d(input, weight) to numel elements. input is released when temporary. */
static struct est_tensor conv1d(struct est_tape *tape, struct est_tensor input, struct est_tensor weight, bool copies,
				uint64_t numel)
{
	struct est_node *node = est_node_new(tape, &conv1d_op, 2, (struct est_tensor[]){ input, weight });
	struct est_tensor copy = est_none, out;

	est_save(tape, node, input);
	est_save(tape, node, weight);
	if (node)
		node->extra[0] = copies;
	if (copies)
		copy = est_empty(tape, input.numel, input.element);
	out = est_empty(tape, numel, input.element);
	est_drop(tape, copy);
	est_finish(tape, input);
	return est_output(tape, node, 0, out);
}

/* One convolution with groups, or, where the parts differ in width, one for each of them, joined */
static struct est_tensor convolve(struct est_tape *tape, const struct est_adapter *adapter, uint64_t rows,
				  struct est_tensor after_a)
{
	const unsigned count = adapter->parts;
	struct est_tensor weight = est_leaf_tensor(tape, adapter->b.weight), in[3], factor[3], part[3] = { { 0 } }, out;
	uint64_t in_numel[3], weight_numel[3];

	if (adapter->part[0] == adapter->part[count - 1])
		return est_hold(conv1d(tape, after_a, weight, false, rows * adapter->b.out));
	for (unsigned i = 0; i < count; i++) {
		in_numel[i] = after_a.numel / count;
		weight_numel[i] = adapter->part[i] * adapter->b.in;
	}
	/* the gradient comes back transposed */
	est_split(tape, adapter->one_sequence ? after_a : est_view_as_heads(tape, after_a), count, in_numel, in);
	est_split(tape, weight, count, weight_numel, factor);
	for (unsigned i = 0; i < count; i++) {
		part[i] = est_hold(conv1d(tape, in[i], factor[i], true, rows * adapter->part[i]));
		est_finish(tape, factor[i]);
	}
	out = est_hold(est_cat_of(tape, count, part));
	est_drop_all(tape, part, count);
	return out;
}

/* index_copy_() into zeros keeps its source, of which its formula asks the shape */
static const struct est_op index_copy_op = { "IndexCopy", est_backward_one };

/* zero_pad(): nothing for the parts without an adapter. x is borrowed, held. */
static struct est_tensor zero_pad(struct est_tape *tape, struct est_tensor x, uint64_t numel)
{
	struct est_node *node;
	struct est_tensor zeros;

	if (x.numel == numel)
		return est_hold(est_alias(tape, x));
	zeros = est_empty(tape, numel, x.element);
	node = est_node_new(tape, &index_copy_op, 1, &x);
	est_save(tape, node, x);
	return est_hold(est_output(tape, node, 0, zeros));
}

static struct est_tensor lora_qkv(struct est_tape *tape, const struct est_linear *linear, struct est_tensor x)
{
	const struct est_adapter *adapter = linear->adapter;
	uint64_t rows = x.numel / linear->in;
	struct est_tensor input = est_hold(x), pretrained, after_a, after_b, padded, lora, out;
	struct est_linear base = *linear;

	base.adapter = NULL;
	pretrained = est_hold(est_linear(tape, &base, input));
	after_a = est_hold(est_linear(tape, &adapter->a, est_dropout(tape, input, adapter->dropout)));
	after_b = convolve(tape, adapter, rows, after_a);
	padded = zero_pad(tape, after_b, rows * linear->out);
	lora = est_hold(est_mul_scalar(tape, padded));
	est_drop(tape, padded);
	out = est_add(tape, pretrained, lora);
	est_drop(tape, pretrained);
	est_drop(tape, lora);
	est_drop(tape, after_b);
	est_drop(tape, after_a);
	est_finish(tape, x);
	return out;
}

/* ---- building */

static bool adapt(struct est_pass *pass, struct est_linear *linear)
{
	uint64_t rank = (uint64_t)pass->request->lora.rank;
	struct est_adapter *adapter = adapter_new(pass, linear->in, rank, rank, linear->out);

	linear->adapter = adapter;
	if (adapter)
		adapter->forward = est_plain_lora_linear;
	return adapter != NULL;
}

static bool adapt_qkv(struct est_pass *pass, struct est_linear *linear, unsigned parts)
{
	uint64_t rank = (uint64_t)pass->request->lora.rank, width[3] = { 0 }, out = 0;
	unsigned count = fused_parts(pass->model, parts, width);
	struct est_adapter *adapter;

	for (unsigned i = 0; i < count; i++)
		out += width[i];
	adapter = adapter_new(pass, linear->in, rank * count, rank, out);
	linear->adapter = adapter;
	if (!adapter)
		return false;
	adapter->forward = lora_qkv;
	adapter->one_sequence = pass->batch == 1;
	adapter->parts = count;
	memcpy(adapter->part, width, sizeof(width));
	if (out < linear->out) /* _lora_ind */
		est_empty_as(pass->tape, out, EST_INT64, EST_BUFFERS);
	return true;
}

static bool adapt_layer(struct est_pass *pass, struct est_layer *layer, unsigned parts)
{
	struct est_linear *const mlp[] = { &layer->gate_proj, &layer->up_proj, &layer->down_proj };

	if (parts & ATTENTION_PARTS && !adapt_qkv(pass, &layer->qkv_proj, parts))
		return false;
	if (parts & EST_LITGPT_PROJECTION && !adapt(pass, &layer->o_proj))
		return false;
	for (size_t i = 0; i < sizeof(mlp) / sizeof(mlp[0]) && parts & EST_LITGPT_MLP; i++)
		if (mlp[i]->out && !adapt(pass, mlp[i]))
			return false;
	return true;
}

bool est_litgpt_lora_build(struct est_pass *pass)
{
	const char *unknown;
	unsigned parts = est_litgpt_parts(&pass->request->lora.target_modules, &unknown);

	for (int64_t i = 0; i < pass->model->num_hidden_layers; i++) {
		pass->tape->unit = est_unit_of_layer(i);
		if (!adapt_layer(pass, &pass->layers[i], parts))
			return false;
	}
	pass->tape->unit = 0;
	return !(parts & EST_LITGPT_HEAD) || adapt(pass, &pass->lm_head);
}

/* ---- counting */

int64_t est_litgpt_lora_parameters(const struct est_model *model, const struct est_lora *lora)
{
	const int64_t hidden = model->hidden_size, query = model->num_attention_heads * model->head_dim;
	const int64_t mlp = (hidden + model->intermediate_size) * (model->gated_mlp ? 3 : 2);
	const char *unknown;
	unsigned parts = est_litgpt_parts(&lora->target_modules, &unknown), count;
	uint64_t width[3] = { 0 };
	int64_t sides = 0;

	count = fused_parts(model, parts, width);
	sides += (int64_t)(width[0] + width[1] + width[2]) + hidden * (int64_t)count;
	sides += (parts & EST_LITGPT_PROJECTION ? query + hidden : 0) + (parts & EST_LITGPT_MLP ? mlp : 0);
	return lora->rank * (sides * model->num_hidden_layers + (parts & EST_LITGPT_HEAD ? hidden + model->vocab_size : 0));
}
