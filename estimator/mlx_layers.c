/* The decoder as mlx-lm writes it (mlx_lm/models/llama.py, qwen2.py, qwen3.py), adapters as mlx_lm/tuner/lora.py does. */
#include "estimator/mlx_step.h"

#include "estimator/adapters.h"

/* ---- parameters */

struct linear_row {
	enum est_mlx_slot slot;
	const char *name;          /* as PEFT's target_modules name it */
};

static const struct linear_row linears[] = {
	{ EST_MLX_Q, "q_proj" }, { EST_MLX_K, "k_proj" }, { EST_MLX_V, "v_proj" }, { EST_MLX_O, "o_proj" },
	{ EST_MLX_GATE, "gate_proj" }, { EST_MLX_DOWN, "down_proj" }, { EST_MLX_UP, "up_proj" },
};

static void widths_of(const struct est_model *model, enum est_mlx_slot slot, uint64_t *ret_in, uint64_t *ret_out)
{
	uint64_t hidden = (uint64_t)model->hidden_size, queries = (uint64_t)(model->num_attention_heads * model->head_dim);
	uint64_t keys = (uint64_t)(model->num_key_value_heads * model->head_dim), wide = (uint64_t)model->intermediate_size;

	*ret_in = slot == EST_MLX_O ? queries : slot == EST_MLX_DOWN ? wide : hidden;
	*ret_out = slot == EST_MLX_Q ? queries : slot == EST_MLX_K || slot == EST_MLX_V ? keys
		   : slot == EST_MLX_GATE || slot == EST_MLX_UP ? wide : hidden;
}

static bool has_bias(const struct est_model *model, enum est_mlx_slot slot)
{
	return slot == EST_MLX_Q || slot == EST_MLX_K || slot == EST_MLX_V ? model->qkv_bias
	       : slot == EST_MLX_O ? model->o_bias : model->mlp_bias;
}

static uint32_t parameter(struct est_mlx_step *step, enum est_mlx_type type, struct est_mlx_shape shape, bool trained)
{
	uint32_t leaf = est_mlx_leaf(&step->graph, type, shape, EST_WEIGHTS, !trained);

	if (trained)
		step->trained[step->trained_count++] = leaf;
	return leaf;
}

/* Of affine quantisation each group of weights has a scale and a bias (mx.quantize()). */
static void load_weight(struct est_mlx_step *step, uint32_t *slot, uint64_t in, uint64_t out, bool trained)
{
	uint64_t bits = (uint64_t)step->request->quantization.bits, group = (uint64_t)step->request->quantization.group_size;

	if (step->request->method != EST_QLORA) {
		slot[EST_MLX_WEIGHT] = parameter(step, step->type, EST_MLX_SHAPE(out, in), trained);
		return;
	}
	slot[EST_MLX_WEIGHT] = parameter(step, EST_MLX_I32, EST_MLX_SHAPE(out, in * bits / 32), false);
	slot[EST_MLX_SCALES] = parameter(step, step->type, EST_MLX_SHAPE(out, in / group), false);
	slot[EST_MLX_BIASES] = parameter(step, step->type, EST_MLX_SHAPE(out, in / group), false);
}

static void load_linear(struct est_mlx_step *step, uint32_t *slots, const struct linear_row *row, bool trained)
{
	const struct est_request *request = step->request;
	bool whole = trained && request->method == EST_FULL;
	uint64_t in, out, rank = (uint64_t)request->lora.rank;

	widths_of(step->model, row->slot, &in, &out);
	load_weight(step, slots + row->slot, in, out, whole);
	if (has_bias(step->model, row->slot))
		slots[row->slot + EST_MLX_BIAS] = parameter(step, step->type, EST_MLX_SHAPE(out), whole);
	if (!trained || whole || !est_is_target(&request->lora.target_modules, row->name))
		return;
	slots[row->slot + EST_MLX_LORA_A] = parameter(step, EST_MLX_F32, EST_MLX_SHAPE(in, rank), true);
	slots[row->slot + EST_MLX_LORA_B] = parameter(step, EST_MLX_F32, EST_MLX_SHAPE(rank, out), true);
}

static void load_layer(struct est_mlx_step *step, struct est_mlx_layer *layer, bool trained)
{
	const struct est_model *model = step->model;
	bool whole = trained && step->request->method == EST_FULL;
	uint64_t hidden = (uint64_t)model->hidden_size;
	unsigned i = 0;

	for (; i < 4; i++)
		load_linear(step, layer->slot, &linears[i], trained);
	if (model->qk_norm == EST_QK_NORM_HEAD) {
		layer->slot[EST_MLX_Q_NORM] = parameter(step, step->type, EST_MLX_SHAPE((uint64_t)model->head_dim), whole);
		layer->slot[EST_MLX_K_NORM] = parameter(step, step->type, EST_MLX_SHAPE((uint64_t)model->head_dim), whole);
	}
	for (; i < sizeof(linears) / sizeof(linears[0]); i++)
		load_linear(step, layer->slot, &linears[i], trained);
	layer->slot[EST_MLX_INPUT_NORM] = parameter(step, step->type, EST_MLX_SHAPE(hidden), whole);
	layer->slot[EST_MLX_POST_NORM] = parameter(step, step->type, EST_MLX_SHAPE(hidden), whole);
}

bool est_mlx_load(struct est_mlx_step *step)
{
	const struct est_model *model = step->model;
	uint64_t hidden = (uint64_t)model->hidden_size, words = (uint64_t)model->vocab_size;

	step->offset = est_mlx_scalar(&step->graph, EST_MLX_I32, 0);
	load_weight(step, step->ends.slot + EST_MLX_Q, hidden, words, false);
	for (int64_t i = 0; i < model->num_hidden_layers; i++)
		load_layer(step, &step->layers[i], i >= step->first_trained);
	step->ends.slot[EST_MLX_INPUT_NORM] = parameter(step, step->type, EST_MLX_SHAPE(hidden), false);
	if (!model->tie_word_embeddings)
		load_weight(step, step->ends.slot + EST_MLX_K, hidden, words, false);
	return !step->graph.exhausted;
}

/* ---- modules */

static uint32_t quantized_product(struct est_mlx_step *step, const uint32_t *slot, uint32_t x, uint64_t out)
{
	struct est_mlx_shape shape = est_mlx_at(&step->graph, x)->shape;
	const uint32_t inputs[4] = { x, slot[EST_MLX_WEIGHT], slot[EST_MLX_SCALES], slot[EST_MLX_BIASES] };

	shape.size[shape.dims - 1] = out;
	return est_mlx_new(&step->graph, EST_MLX_QUANTIZED_MATMUL, step->type, shape, 0, 4, inputs);
}

/* mx.addmm(): the bias is read by the product's kernel. */
static uint32_t product_with_bias(struct est_mlx_step *step, const uint32_t *slot, uint32_t x, uint64_t out)
{
	struct est_mlx_graph *graph = &step->graph;
	struct est_mlx_shape shape = est_mlx_at(graph, x)->shape;
	uint64_t width = shape.size[shape.dims - 1], rows = est_mlx_elements(&shape) / width;
	uint32_t inputs[3], product;

	inputs[1] = est_mlx_swap_last(graph, slot[EST_MLX_WEIGHT]);
	inputs[0] = est_mlx_reshape(graph, x, EST_MLX_SHAPE(rows, width));
	inputs[2] = est_mlx_broadcast_to(graph, slot[EST_MLX_BIAS], EST_MLX_SHAPE(rows, out));
	product = est_mlx_new(graph, EST_MLX_ADDMM, step->type, EST_MLX_SHAPE(rows, out), 0, 3, inputs);
	shape.size[shape.dims - 1] = out;
	return est_mlx_reshape(graph, product, shape);
}

static uint32_t linear(struct est_mlx_step *step, const uint32_t *slot, uint32_t x, uint64_t out)
{
	uint32_t y;

	if (slot[EST_MLX_SCALES]) {
		y = quantized_product(step, slot, x, out);
		return slot[EST_MLX_BIAS] ? est_mlx_binary(&step->graph, EST_MLX_ADD, y, slot[EST_MLX_BIAS]) : y;
	}
	if (slot[EST_MLX_BIAS])
		return product_with_bias(step, slot, x, out);
	return est_mlx_matmul(&step->graph, x, est_mlx_swap_last(&step->graph, slot[EST_MLX_WEIGHT]));
}

/* LoRALinear: matrices of fp32, so that the input is cast, and what is added is cast back. */
static uint32_t adapted(struct est_mlx_step *step, const uint32_t *slot, uint32_t x, uint64_t out)
{
	const double scale = 20; /* any; it is a number of its own */
	struct est_mlx_graph *graph = &step->graph;
	uint32_t y = linear(step, slot, x, out), z;

	if (!slot[EST_MLX_LORA_A])
		return y;
	z = est_mlx_matmul(graph, est_mlx_matmul(graph, x, slot[EST_MLX_LORA_A]), slot[EST_MLX_LORA_B]);
	z = est_mlx_astype(graph, est_mlx_scaled(graph, EST_MLX_MULTIPLY, z, scale), step->type);
	return est_mlx_binary(graph, EST_MLX_ADD, y, z);
}

static uint32_t norm(struct est_mlx_step *step, uint32_t x, uint32_t weight)
{
	const uint32_t inputs[2] = { x, weight };

	return est_mlx_like(&step->graph, EST_MLX_RMS_NORM, x, 0, 2, inputs);
}

static uint32_t rotate(struct est_mlx_step *step, uint32_t x)
{
	const uint32_t inputs[2] = { x, step->offset };

	return est_mlx_like(&step->graph, EST_MLX_ROPE, x, 0, 2, inputs);
}

/* (batch, length, heads, width) with heads before length */
static uint32_t heads_first(struct est_mlx_step *step, uint32_t x)
{
	return est_mlx_transpose(&step->graph, x, 0x3120);
}

static uint32_t as_heads(struct est_mlx_step *step, uint32_t x, int64_t heads, uint32_t weight)
{
	struct est_mlx_shape shape = EST_MLX_SHAPE(step->batch, step->length, (uint64_t)heads, (uint64_t)step->model->head_dim);
	uint32_t cut = est_mlx_reshape(&step->graph, x, shape);

	return heads_first(step, weight ? norm(step, cut, weight) : cut);
}

/* The causal mask, made of two ranges in each layer. */
static uint32_t mask(struct est_mlx_step *step)
{
	struct est_mlx_graph *graph = &step->graph;
	uint32_t rows = est_mlx_new(graph, EST_MLX_ARANGE, EST_MLX_I32, EST_MLX_SHAPE(step->length), 0, 0, NULL);
	uint32_t columns = est_mlx_new(graph, EST_MLX_ARANGE, EST_MLX_I32, EST_MLX_SHAPE(step->length), 0, 0, NULL);

	rows = est_mlx_expand(graph, rows, 1U << 1);
	return est_mlx_compare(graph, rows, est_mlx_expand(graph, columns, 1U << 0), 0);
}

/* mx.fast.scaled_dot_product_attention() in training: its fallback, on Metal as on the CPU (mlx/fast.cpp, and use_fallback() in
 * metal/scaled_dot_product_attention.cpp, which is true under a gradient's trace). */
static uint32_t attention(struct est_mlx_step *step, uint32_t q, uint32_t k, uint32_t v)
{
	struct est_mlx_graph *graph = &step->graph;
	const struct est_model *model = step->model;
	uint64_t heads = (uint64_t)model->num_key_value_heads, each = (uint64_t)model->num_attention_heads / heads;
	const uint64_t parts[2] = { heads, each };
	uint32_t scores, out;

	q = est_mlx_binary(graph, EST_MLX_MULTIPLY, est_mlx_scalar(graph, step->type, 0.125), q);
	if (each > 1) {
		q = est_mlx_unflatten(graph, q, 1, 2, parts);
		k = est_mlx_expand(graph, k, 1U << 2);
		v = est_mlx_expand(graph, v, 1U << 2);
	}
	scores = est_mlx_matmul(graph, q, est_mlx_swap_last(graph, k));
	scores = est_mlx_where(graph, mask(step), scores, est_mlx_scalar(graph, step->type, -1e38));
	scores = est_mlx_like(graph, EST_MLX_SOFTMAX, scores, 0, 1, &scores);
	out = est_mlx_matmul(graph, scores, v);
	return each > 1 ? est_mlx_flatten(graph, out, 1, 2) : out;
}

static uint32_t attend(struct est_mlx_step *step, const uint32_t *slot, uint32_t x)
{
	const struct est_model *model = step->model;
	uint64_t width = (uint64_t)(model->num_attention_heads * model->head_dim);
	uint64_t keys = (uint64_t)(model->num_key_value_heads * model->head_dim);
	uint32_t q = adapted(step, slot + EST_MLX_Q, x, width), k = adapted(step, slot + EST_MLX_K, x, keys);
	uint32_t v = adapted(step, slot + EST_MLX_V, x, keys), out;

	q = as_heads(step, q, model->num_attention_heads, slot[EST_MLX_Q_NORM]);
	k = as_heads(step, k, model->num_key_value_heads, slot[EST_MLX_K_NORM]);
	v = as_heads(step, v, model->num_key_value_heads, 0);
	out = attention(step, rotate(step, q), rotate(step, k), v);
	out = est_mlx_reshape(&step->graph, heads_first(step, out), EST_MLX_SHAPE(step->batch, step->length, width));
	return adapted(step, slot + EST_MLX_O, out, (uint64_t)model->hidden_size);
}

static uint32_t feed(struct est_mlx_step *step, const uint32_t *slot, uint32_t x)
{
	struct est_mlx_graph *graph = &step->graph;
	uint64_t wide = (uint64_t)step->model->intermediate_size;
	uint32_t gate = adapted(step, slot + EST_MLX_GATE, x, wide), up = adapted(step, slot + EST_MLX_UP, x, wide);

	gate = est_mlx_binary(graph, EST_MLX_MULTIPLY, gate, est_mlx_unary(graph, EST_MLX_SIGMOID, gate));
	return adapted(step, slot + EST_MLX_DOWN, est_mlx_binary(graph, EST_MLX_MULTIPLY, gate, up), (uint64_t)step->model->hidden_size);
}

static uint32_t run_layer(struct est_mlx_step *step, const struct est_mlx_layer *layer, uint32_t x)
{
	struct est_mlx_graph *graph = &step->graph;
	const uint32_t *slot = layer->slot;

	x = est_mlx_binary(graph, EST_MLX_ADD, x, attend(step, slot, norm(step, x, slot[EST_MLX_INPUT_NORM])));
	return est_mlx_binary(graph, EST_MLX_ADD, x, feed(step, slot, norm(step, x, slot[EST_MLX_POST_NORM])));
}

/* ---- checkpoints */

static bool is_trained(const struct est_mlx_step *step, uint32_t array)
{
	return array && !est_mlx_at(&step->graph, array)->tied;
}

uint32_t est_mlx_layer_again(void *context, uint64_t which, const uint32_t *arguments)
{
	struct est_mlx_step *step = context;
	struct est_mlx_layer layer = step->layers[which];
	unsigned next = 0;

	for (unsigned i = 0; i < EST_MLX_SLOTS; i++)
		if (is_trained(step, layer.slot[i]))
			layer.slot[i] = arguments[next++];
	return run_layer(step, &layer, arguments[next]);
}

/* mx.checkpoint() of a layer: its trained parameters and its input are arguments, and it runs once for its output. */
static uint32_t checkpointed(struct est_mlx_step *step, uint64_t which, uint32_t x)
{
	uint32_t arguments[EST_MLX_TRAINED_MAX + 2], output;
	unsigned count = 0;

	for (unsigned i = 0; i < EST_MLX_SLOTS; i++)
		if (is_trained(step, step->layers[which].slot[i]))
			arguments[count++] = step->layers[which].slot[i];
	arguments[count++] = x;
	output = est_mlx_layer_again(step, which, arguments);
	output = est_mlx_like(&step->graph, EST_MLX_STOP, output, 0, 1, &output);
	arguments[count++] = output;
	return est_mlx_like(&step->graph, EST_MLX_CHECKPOINT, x, which, count, arguments);
}

/* ---- the model */

/* Rows of a matrix: weight[ids] */
static uint32_t rows_of(struct est_mlx_step *step, uint32_t matrix, uint32_t ids)
{
	struct est_mlx_graph *graph = &step->graph;
	const struct est_mlx_array *from = est_mlx_at(graph, matrix);
	const uint32_t inputs[2] = { matrix, ids };
	struct est_mlx_shape shape = EST_MLX_SHAPE(step->batch, step->length, 1, from->shape.size[1]);
	uint32_t rows = est_mlx_new(graph, EST_MLX_GATHER, from->type, shape, 0, 2, inputs);

	return est_mlx_squeeze(graph, rows, 1U << 2);
}

static uint32_t embed(struct est_mlx_step *step, uint32_t ids)
{
	const uint32_t *slot = step->ends.slot + EST_MLX_Q;
	uint32_t inputs[3];

	if (!slot[EST_MLX_SCALES])
		return rows_of(step, slot[EST_MLX_WEIGHT], ids);
	for (unsigned i = 0; i < 3; i++)
		inputs[i] = rows_of(step, slot[EST_MLX_WEIGHT + i], ids);
	return est_mlx_new(&step->graph, EST_MLX_DEQUANTIZE, step->type,
			   EST_MLX_SHAPE(step->batch, step->length, (uint64_t)step->model->hidden_size), 0, 3, inputs);
}

uint32_t est_mlx_forward(struct est_mlx_step *step, uint32_t ids)
{
	const struct est_model *model = step->model;
	uint32_t x = embed(step, ids);

	for (int64_t i = 0; i < model->num_hidden_layers && !step->graph.exhausted; i++) {
		if (step->request->checkpointing == EST_CHECKPOINT_FULL)
			x = checkpointed(step, (uint64_t)i, x);
		else
			x = run_layer(step, &step->layers[i], x);
	}
	x = norm(step, x, step->ends.slot[EST_MLX_INPUT_NORM]);
	step->graph.phase = EST_PHASE_LOSS_FORWARD;
	return linear(step, step->ends.slot + (model->tie_word_embeddings ? EST_MLX_Q : EST_MLX_K), x, (uint64_t)model->vocab_size);
}
