/* GPTQ: packed int32 values, zeros and fp16 scales by groups of rows; the weight is dequantised for each product.
 * AutoGPTQ's qlinear_tritonv2.py and triton_utils/dequant.py, GPT-QModel's nn_modules/qlinear/torch.py; optimum puts
 * them in place. */
#include "estimator/architecture.h"
#include "estimator/generation.h"
#include "estimator/lora.h"

static uint64_t ceil_div(uint64_t n, uint64_t by)
{
	return (n + by - 1) / by;
}

static struct est_tensor buffer(struct est_pass *pass, uint64_t numel, uint8_t element)
{
	return est_hold(est_empty_as(pass->tape, numel, element, EST_WEIGHTS));
}

/* A buffer; where layers are sharded a parameter that shows it in 16 bits, as fms-acceleration makes one for FSDP. */
static struct est_tensor pack(struct est_pass *pass, uint64_t numel)
{
	return pass->schedule ? est_parameter_empty(pass, 2 * numel, EST_16BIT) : buffer(pass, numel, EST_32BIT);
}

/* qweight, qzeros, scales, g_idx: a checkpoint brings them packed, nothing else is ever loaded */
uint32_t est_gptq_pack(struct est_pass *pass, struct est_linear *linear)
{
	const struct est_quantization *quantization = &pass->request->quantization;
	uint64_t bits = (uint64_t)quantization->bits, in = linear->in, out = linear->out;
	uint64_t groups = quantization->group_size > 0 ? ceil_div(in, (uint64_t)quantization->group_size) : 1;
	struct est_tensor qweight = pack(pass, ceil_div(in * bits, 32) * out);

	linear->base = EST_BASE_GPTQ;
	linear->keeps_weight = est_keeps_dequantized(&pass->request->versions);
	linear->adds_in_place = est_adds_in_place(&pass->request->versions);
	buffer(pass, groups * ceil_div(out * bits, 32), EST_32BIT);
	buffer(pass, groups * out, EST_16BIT);
	buffer(pass, in, EST_32BIT);
	return est_leaf_new(pass->tape, qweight, false, true);
}

/* extra: 0 elements of the weight, which is dequantised again unless it was saved */
static void backward_gptq(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	struct est_tensor weight = node->extra[0] ? est_empty_as(tape, node->extra[0], EST_16BIT, EST_BUFFERS) : est_none;

	ret[0] = est_grad_for(tape, node, 0, node->grad[0].element);
	ret[0].view = true;
	est_drop(tape, weight);
}
static const struct est_op gptq_op = { "QuantLinear", backward_gptq };

/* QuantLinearFunction: the node stands before autocast's cast, which its own matmul makes */
static struct est_tensor function(struct est_tape *tape, const struct est_linear *linear, struct est_tensor x)
{
	struct est_node *node = est_node_new(tape, &gptq_op, 1, &x);
	struct est_tensor weight = est_empty_as(tape, linear->in * linear->out, EST_16BIT, EST_BUFFERS), cast = est_none, out;

	if (x.element == EST_32BIT)
		cast = est_empty(tape, x.numel, EST_16BIT);
	out = est_output(tape, node, 0, est_empty(tape, x.numel / linear->in * linear->out, EST_16BIT));
	if (node)
		node->extra[0] = linear->in * linear->out;
	est_drop(tape, cast);
	est_drop(tape, weight);
	return out;
}

/* torch.matmul(x, weights): autograd keeps the dequantised weight for the gradient of x */
static struct est_tensor product(struct est_tape *tape, const struct est_linear *linear, struct est_tensor x)
{
	struct est_tensor weight = est_buffer(tape, linear->in * linear->out, EST_16BIT), cast, input, out;
	struct est_node *node;

	if (x.element == EST_32BIT && !tape->autocast) {
		cast = est_buffer(tape, weight.numel, EST_32BIT);
		est_drop(tape, weight);
		weight = cast;
	}
	input = est_autocast(tape, est_hold(x));
	node = est_node_new(tape, &gptq_op, 1, &input);
	est_save(tape, node, weight);
	out = est_output(tape, node, 0, est_empty(tape, x.numel / linear->in * linear->out, input.element));
	est_finish(tape, input);
	est_drop(tape, weight);
	return out;
}

static struct est_tensor pass_on(struct est_tape *tape, const struct est_node *node, unsigned i, struct est_tensor grad)
{
	if (est_needs(node, i))
		return grad;
	est_drop(tape, grad);
	return est_none;
}

/* AsStridedBackward: zeros of the base; CopySlices: a copy of it, whose slice is copied once more for AddBackward */
static void backward_view_add(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	struct est_tensor grad = est_take_grad(node, 0), zeros = est_empty(tape, grad.numel, grad.element);
	struct est_tensor copy, slice;

	est_drop(tape, grad);
	copy = est_empty(tape, zeros.numel, zeros.element);
	slice = est_empty(tape, zeros.numel, zeros.element);
	est_drop(tape, zeros);
	ret[0] = pass_on(tape, node, 0, copy);
	ret[1] = pass_on(tape, node, 1, slice);
}
static const struct est_op view_add_op = { "CopySlices", backward_view_add };

/* x += y where x is a view */
static struct est_tensor add_to_view(struct est_tape *tape, struct est_tensor x, struct est_tensor y)
{
	struct est_node *node = est_node_new(tape, &view_add_op, 2, (struct est_tensor[]){ x, y });
	struct est_tensor out = est_output(tape, node, 0, est_detach(tape, x));

	est_finish(tape, x);
	est_finish(tape, y);
	return out;
}

struct est_tensor est_gptq_add(struct est_tape *tape, const struct est_linear *linear, struct est_tensor result,
			       struct est_tensor x)
{
	bool is_sum = linear->has_bias && !linear->keeps_weight; /* of the product and the bias: no view */

	return is_sum ? est_add_in_place(tape, result, x) : add_to_view(tape, result, x);
}

struct est_tensor est_gptq_linear(struct est_tape *tape, const struct est_linear *linear, struct est_tensor x)
{
	struct est_tensor out = linear->keeps_weight ? product(tape, linear, x) : function(tape, linear, x);

	/* AutoGPTQ adds the bias into another tensor, GPT-QModel in place */
	if (linear->has_bias && linear->keeps_weight)
		out = add_to_view(tape, out, est_leaf_tensor(tape, linear->bias));
	else if (linear->has_bias)
		out = est_add(tape, out, est_leaf_tensor(tape, linear->bias));
	est_finish(tape, x);
	return out;
}

/* ---- what other kernels take */

static uint64_t packed_elements(const struct est_pass *pass, int64_t layer)
{
	uint64_t sum = 0;

	for (const struct est_module *module = est_layer_modules(pass->model, layer); module->offset != SIZE_MAX; module++) {
		const struct est_linear *linear = (const void *)((const char *)&pass->layers[layer] + module->offset);

		if (module->kind == EST_MODULE_LINEAR && est_module_exists(pass->model, module))
			sum += linear->in * linear->out;
	}
	if (pass->layers[layer].experts.apart)
		sum += 3 * (uint64_t)(pass->model->num_experts * pass->model->hidden_size * pass->model->moe_intermediate_size);
	return sum;
}

/* AutoGPTQ's CUDA and PyTorch kernels keep what they dequantise, as torch.matmul() does: of a checkpointed layer
 * while it is recomputed, else of all layers at once. */
uint64_t est_gptq_surplus(const struct est_pass *pass)
{
	uint64_t largest = 0, all = 0;

	if (pass->request->method != EST_QLORA || pass->request->quantization.type != EST_GPTQ
	    || est_keeps_dequantized(&pass->request->versions))
		return 0;
	for (int64_t i = 0; i < est_model_stacked_layers(pass->model); i++) {
		uint64_t elements = packed_elements(pass, i);

		all += elements;
		if (largest < elements)
			largest = elements;
	}
	return (pass->request->checkpointing == EST_CHECKPOINT_NONE ? all : largest) * EST_16BIT;
}
