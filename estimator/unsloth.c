/* Unsloth's models/llama.py and kernels/fast_lora.py, rms_layernorm.py, rope_embedding.py, swiglu.py, unsloth_zoo's
 * gradient_checkpointing.py. Adapters are multiplied within one function for q, k and v, one for the output and one
 * for the whole MLP; what it keeps is its input and the gate's two factors, and its backward writes the input's
 * gradient over the input. */
#include "estimator/unsloth.h"

#include <string.h>
#include "estimator/architecture.h"
#include "estimator/liger.h"

enum { BLOCK = 64, ROPE_ROWS = 4 * 8192, ROPE_STEP = 8192, MINIMUM_BYTES = 2 << 20 };

bool est_unsloth_wanted(const struct est_request *request)
{
	return request->framework == EST_UNSLOTH;
}

/* ---- what is replayed */

static bool takes_all_layers(const struct est_names *targets)
{
	static const char *const names[] = { "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj" };
	size_t found = 0;

	for (int i = 0; i < targets->count; i++)
		for (size_t k = 0; k < sizeof(names) / sizeof(names[0]); k++)
			found += !strcmp(targets->name[i], names[k]);
	return targets->all || (found == sizeof(names) / sizeof(names[0]) && (size_t)targets->count == found);
}

static bool knows(const struct est_model *model)
{
	static const char *const types[] = { "", "llama", "mistral", "qwen2", "qwen3" };

	if ((model->architecture != EST_ARCH_LLAMA && model->architecture != EST_ARCH_QWEN3) || model->num_experts > 0
	    || model->logits_scaling != 0 || model->o_bias || model->mlp_bias || model->vision.tower != EST_TOWER_NONE)
		return false;
	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++)
		if (!strcmp(types[i], model->model_type))
			return true;
	return false;
}

const char *est_unsloth_refuses(const struct est_request *request, const struct est_model *model)
{
	const struct est_quantization *quantization = &request->quantization;
	bool adapts = est_has_adapters(request), offloads = request->checkpointing == EST_CHECKPOINT_OFFLOAD;
	bool four_bits = quantization->type == EST_NF4 && quantization->double_quant && !quantization->prepare_kbit;
	const struct {
		bool otherwise;
		const char *what;
	} rows[] = {
		{ !adapts, "for methods lora and qlora only" },
		{ !knows(model), "for Llama, Mistral, Qwen2 and Qwen3 only" },
		{ adapts && (request->precision != EST_BF16_MIXED || request->base_dtype != EST_BF16),
		  "with precision bf16_mixed only" },
		{ request->method == EST_QLORA && !four_bits, "over nf4 with double_quant and without prepare_kbit only" },
		{ adapts && (!takes_all_layers(&request->lora.target_modules) || request->lora.dora || request->lora.dropout > 0
			     || request->lora.modules_to_save.count > 0 || request->lora.adapter_dtype != EST_FP32),
		  "with fp32 adapters of all seven projections, without dropout, DoRA and modules_to_save only" },
		{ !est_models_language(request), "with objectives sft and pretrain only" },
		{ request->loss != EST_LOSS_CHUNKED, "with its own loss, chunked, only" },
		{ request->attention != EST_SDPA && request->attention != EST_FLASH_ATTENTION_2,
		  "with attention sdpa and flash_attention_2 only" },
		{ request->liger_kernel || request->torch_compile, "without liger_kernel and torch_compile only" },
		{ request->checkpointing != EST_CHECKPOINT_NONE && !request->use_reentrant, "with reentrant checkpoints only" },
		{ request->checkpointing != EST_CHECKPOINT_NONE && request->checkpointing != EST_CHECKPOINT_FULL && !offloads,
		  "with gradient_checkpointing none, full and offload only" },
		{ request->parallelism.gpus > 1, "on one GPU only" },
		{ model->sliding_window > 0 && request->sequence_length > model->sliding_window, "within the sliding window only" },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		if (rows[i].otherwise)
			return rows[i].what;
	return NULL;
}

/* ---- what stays */

static uint64_t round_up(uint64_t n, uint64_t multiple)
{
	return (n + multiple - 1) / multiple * multiple;
}

static struct est_tensor keep(struct est_pass *pass, uint64_t numel, uint8_t element)
{
	return est_hold(est_persistent(pass->tape, numel, element, EST_BUFFERS));
}

/* cos and sin of so many positions at first, in the default dtype; of more in that of the stream */
static void keep_angles(struct est_pass *pass)
{
	uint64_t positions = (uint64_t)pass->model->max_position_embeddings, width = (uint64_t)pass->model->head_dim;
	bool extended = positions > ROPE_ROWS;
	uint64_t numel = (extended ? round_up(positions, ROPE_STEP) : positions) * width;
	uint8_t element = extended ? EST_16BIT : EST_32BIT;

	pass->angles = (struct est_rope){ .cos = keep(pass, numel, element) };
	pass->angles.sin = keep(pass, numel, element);
}

static uint64_t largest_weight(const struct est_pass *pass)
{
	uint64_t largest = 0;

	for (int64_t i = 0; i < pass->model->num_hidden_layers; i++) {
		const struct est_layer *layer = &pass->layers[i];
		const struct est_linear *linears[] = { &layer->q_proj, &layer->gate_proj };

		for (unsigned k = 0; k < 2; k++)
			if (linears[k]->in * linears[k]->out > largest)
				largest = linears[k]->in * linears[k]->out;
	}
	return largest;
}

static bool stages(const struct est_pass *pass)
{
	uint64_t bytes = pass->tokens * (uint64_t)pass->model->hidden_size * EST_16BIT;

	return est_unsloth_wanted(pass->request) && pass->request->checkpointing == EST_CHECKPOINT_OFFLOAD
	       && bytes > MINIMUM_BYTES;
}

void est_unsloth_load(struct est_pass *pass)
{
	uint64_t stream = pass->tokens * (uint64_t)pass->model->hidden_size;

	if (!est_unsloth_wanted(pass->request))
		return;
	keep_angles(pass);
	if (pass->request->method == EST_QLORA) {
		keep(pass, largest_weight(pass), EST_16BIT);
		keep(pass, largest_weight(pass) / BLOCK, EST_32BIT);
	}
	if (!stages(pass))
		return;
	pass->tape->staging = keep(pass, stream, EST_16BIT);
	keep(pass, stream, EST_16BIT); /* the other of a double buffer */
}

bool est_unsloth_offloads(const struct est_pass *pass, int64_t layer)
{
	return stages(pass) && layer + 1 < pass->model->num_hidden_layers;
}

/* ---- products with adapters */

static uint64_t rank(const struct est_linear *linear)
{
	return linear->adapter->a.out;
}

/* A.to(dtype) */
static struct est_tensor cast(struct est_tape *tape, const struct est_linear *adapter)
{
	return est_empty(tape, adapter->in * adapter->out, EST_16BIT);
}

/* matmul_lora() of rows of the input: out += (X A) B */
static struct est_tensor product(struct est_tape *tape, const struct est_linear *linear, uint64_t rows)
{
	struct est_tensor out = est_empty(tape, rows * linear->out, EST_16BIT), adapter = cast(tape, &linear->adapter->a), low;

	low = est_empty(tape, rows * rank(linear), EST_16BIT);
	est_drop(tape, adapter);
	est_drop(tape, cast(tape, &linear->adapter->b));
	est_drop(tape, low);
	return out;
}

/* A and B of each in 16 bits; their gradients in the order of the list */
enum { MATRICES = 6 };

struct lent {
	struct est_tensor tensor[MATRICES];
	unsigned count;
};

static struct lent lend(struct est_tape *tape, const struct est_linear *const linears[], unsigned count)
{
	struct lent lent = { .count = 2 * count };

	for (unsigned i = 0; i < lent.count; i++)
		lent.tensor[i] = cast(tape, i % 2 ? &linears[i / 2]->adapter->b : &linears[i / 2]->adapter->a);
	return lent;
}

static void give_back(struct est_tape *tape, const struct lent *lent)
{
	est_drop_all(tape, lent->tensor, lent->count);
}

/* X^T (dY B^T) and (A^T X^T) dY: a temporary of low rank for each */
static void multiply_gradients(struct est_tape *tape, const struct est_linear *const linears[], unsigned count,
			       uint64_t rows)
{
	for (unsigned i = 0; i < 2 * count; i++)
		est_drop(tape, est_empty(tape, rows * rank(linears[i / 2]), EST_16BIT));
}

/* fast_dequantize() outside the shared buffer */
static struct est_tensor dequantize(struct est_tape *tape, const struct est_linear *linear)
{
	uint64_t n = linear->in * linear->out;
	struct est_tensor weight;

	if (linear->base == EST_BASE_DENSE)
		return est_none;
	weight = est_empty_as(tape, n, EST_16BIT, EST_BUFFERS);
	est_drop(tape, est_empty_as(tape, n / BLOCK, EST_32BIT, EST_BUFFERS));
	return weight;
}

/* dX += dY W^T into the input's memory, then the adapter's part */
static void add_input_gradient(struct est_tape *tape, const struct est_linear *linear, uint64_t rows)
{
	est_drop(tape, dequantize(tape, linear));
	est_drop(tape, est_empty(tape, rows * rank(linear), EST_16BIT));
}

/* The engine casts what autograd is given to fp32: the first is an input of the node, the others arrive by
 * themselves */
static void hand_over(struct est_tape *tape, const struct est_linear *const linears[], const struct lent *grads,
		      const unsigned place[], struct est_tensor ret[])
{
	struct est_tensor whole[MATRICES] = { { 0 } };

	for (unsigned i = 0; i < grads->count; i++) {
		const struct est_linear *matrix = i % 2 ? &linears[i / 2]->adapter->b : &linears[i / 2]->adapter->a;

		whole[i] = est_hold(est_empty_as(tape, matrix->in * matrix->out, EST_32BIT, EST_GRADIENTS));
		est_drop(tape, grads->tensor[place[i]]);
	}
	ret[1] = whole[0];
	for (unsigned i = 1; i < grads->count; i++)
		est_deliver(tape, EST_EDGE_LEAF | (i % 2 ? linears[i / 2]->adapter->b.weight
						   : linears[i / 2]->adapter->a.weight), whole[i]);
}

/* inputs x and the first adapter's A; the other matrices are expected too */
static struct est_node *node_new(struct est_tape *tape, const struct est_op *op, const struct est_layer *layer,
				 struct est_tensor x, const struct est_linear *const linears[], unsigned count)
{
	struct est_tensor in[2] = { x, est_leaf_tensor(tape, linears[0]->adapter->a.weight) };
	struct est_node *node = est_node_new(tape, op, 2, in);

	for (unsigned i = 1; node && i < 2 * count; i++)
		est_expect(tape, node, i % 2 ? linears[i / 2]->adapter->b.weight : linears[i / 2]->adapter->a.weight);
	if (node)
		node->context = layer;
	return node;
}

/* The saved input, as its own gradient */
static struct est_tensor over_input(struct est_tape *tape, const struct est_node *node)
{
	if (!est_needs(node, 0))
		return est_none;
	est_storage_retain(tape, node->saved[0]);
	return (struct est_tensor){ .storage = node->saved[0], .numel = node->edge_numel[0], .element = EST_16BIT,
				    .view = true };
}

static uint64_t rows_of(const struct est_node *node)
{
	return node->extra[0];
}

/* ---- q, k and v */

static void backward_qkv(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	static const unsigned place[MATRICES] = { 0, 1, 2, 3, 4, 5 };
	const struct est_layer *layer = node->context;
	const struct est_linear *const linears[] = { &layer->q_proj, &layer->k_proj, &layer->v_proj };
	struct lent adapters = lend(tape, linears, 3), grads = lend(tape, linears, 3);

	multiply_gradients(tape, linears, 3, rows_of(node));
	for (unsigned i = 0; i < 3; i++)
		add_input_gradient(tape, linears[i], rows_of(node));
	give_back(tape, &adapters);
	for (unsigned i = 0; i < 3; i++)
		est_drop(tape, est_take_grad(node, i));
	hand_over(tape, linears, &grads, place, ret);
	ret[0] = over_input(tape, node);
}
static const struct est_op qkv_op = { "LoRA_QKV", backward_qkv };

static void apply_qkv(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x,
		      struct est_tensor ret[3])
{
	const struct est_linear *const linears[] = { &layer->q_proj, &layer->k_proj, &layer->v_proj };
	struct est_tape *tape = pass->tape;
	struct est_node *node;

	if (layer->q_proj.has_bias) { /* not patched: PEFT's layers */
		for (unsigned i = 0; i < 3; i++)
			ret[i] = est_hold(est_linear(tape, linears[i], x));
		return;
	}
	node = node_new(tape, &qkv_op, layer, x, linears, 3);
	for (unsigned i = 0; i < 3; i++)
		ret[i] = product(tape, linears[i], pass->tokens);
	est_save(tape, node, x);
	if (node)
		node->extra[0] = pass->tokens;
	for (unsigned i = 0; i < 3; i++)
		ret[i] = est_hold(est_output(tape, node, i, ret[i]));
}

/* ---- the output's projection, whose input is the attention's output: its gradient has memory of its own */

static void backward_output(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	static const unsigned place[MATRICES] = { 0, 1 };
	const struct est_layer *layer = node->context;
	const struct est_linear *const linears[] = { &layer->o_proj };
	struct lent adapters = lend(tape, linears, 1), grads = lend(tape, linears, 1);
	struct est_tensor weight, grad;

	multiply_gradients(tape, linears, 1, rows_of(node));
	weight = dequantize(tape, &layer->o_proj);
	grad = est_empty(tape, rows_of(node) * layer->o_proj.in, EST_16BIT);
	est_drop(tape, weight);
	est_drop(tape, est_empty(tape, rows_of(node) * rank(&layer->o_proj), EST_16BIT));
	give_back(tape, &adapters);
	hand_over(tape, linears, &grads, place, ret);
	ret[0] = grad;
}
static const struct est_op output_op = { "LoRA_W", backward_output };

static struct est_tensor apply_o(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	const struct est_linear *const linears[] = { &layer->o_proj };
	struct est_node *node = node_new(pass->tape, &output_op, layer, x, linears, 1);
	struct est_tensor out = product(pass->tape, &layer->o_proj, pass->tokens);

	est_save(pass->tape, node, x);
	if (node)
		node->extra[0] = pass->tokens;
	return est_output(pass->tape, node, 0, out);
}

/* ---- the MLP */

/* The product's gradient, then h, df and de over it, e and g; what is made first is of down_proj, what is returned
 * of gate_proj */
static void backward_mlp(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	static const unsigned place[MATRICES] = { 2, 3, 4, 5, 0, 1 };
	const struct est_layer *layer = node->context;
	const struct est_linear *const returned[] = { &layer->gate_proj, &layer->up_proj, &layer->down_proj };
	const struct est_linear *const made[] = { &layer->down_proj, &layer->gate_proj, &layer->up_proj };
	struct lent adapters = lend(tape, returned, 3), grads;
	struct est_tensor product = est_empty(tape, rows_of(node) * layer->down_proj.in, EST_16BIT);

	est_drop(tape, est_empty(tape, rows_of(node) * rank(&layer->down_proj), EST_16BIT));
	grads = lend(tape, made, 3);
	multiply_gradients(tape, made, 3, rows_of(node));
	add_input_gradient(tape, &layer->up_proj, rows_of(node));
	add_input_gradient(tape, &layer->gate_proj, rows_of(node));
	give_back(tape, &adapters);
	est_drop(tape, product);
	hand_over(tape, returned, &grads, place, ret);
	ret[0] = over_input(tape, node);
}
static const struct est_op mlp_op = { "LoRA_MLP", backward_mlp };

static struct est_tensor apply_mlp(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	const struct est_linear *const linears[] = { &layer->gate_proj, &layer->up_proj, &layer->down_proj };
	struct est_tape *tape = pass->tape;
	struct est_node *node = node_new(tape, &mlp_op, layer, x, linears, 3);
	struct est_tensor gate = product(tape, &layer->gate_proj, pass->tokens),
		up = product(tape, &layer->up_proj, pass->tokens);
	struct est_tensor gated = est_empty(tape, gate.numel, EST_16BIT), out = product(tape, &layer->down_proj, pass->tokens);

	est_drop(tape, gated);
	est_save(tape, node, x);
	est_save(tape, node, gate);
	est_save(tape, node, up);
	est_drop(tape, gate);
	est_drop(tape, up);
	if (node)
		node->extra[0] = pass->tokens;
	return est_output(tape, node, 0, out);
}

/* ---- a layer */

struct est_tensor est_unsloth_norm(struct est_pass *pass, const struct est_norm_weights *norm, struct est_tensor x)
{
	return est_liger_norm(pass, norm, x, true);
}

/* q_norm and k_norm of Qwen3: rows of a head */
static void norm_heads(struct est_pass *pass, const struct est_layer *layer, struct est_tensor heads[2])
{
	const struct est_norm_weights *norms[] = { &layer->q_norm, &layer->k_norm };

	for (unsigned i = 0; i < 2 && pass->model->architecture == EST_ARCH_QWEN3; i++) {
		struct est_tensor normed = est_hold(est_unsloth_norm(pass, norms[i], heads[i]));

		est_drop(pass->tape, heads[i]);
		heads[i] = normed;
	}
}

static struct est_tensor attention(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor heads[3], embed[2], out, result;

	apply_qkv(pass, layer, x, heads);
	norm_heads(pass, layer, heads);
	est_liger_rope(pass, &pass->ropes[0], heads[0], heads[1], embed);
	est_drop(tape, heads[0]);
	est_drop(tape, heads[1]);
	out = est_hold(est_attention(pass, layer, embed[0], embed[1], heads[2]));
	result = apply_o(pass, layer, out);
	est_drop(tape, out);
	est_drop(tape, embed[0]);
	est_drop(tape, embed[1]);
	est_drop(tape, heads[2]);
	return result;
}

struct est_tensor est_unsloth_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	static const struct est_blocks blocks = { est_unsloth_norm, attention, apply_mlp };

	return est_pre_norm_layer(pass, layer, x, &blocks);
}
