/* bitsandbytes: 4-bit (NF4, FP4) and LLM.int8 weights. bitsandbytes/functional.py, autograd/_functions.py, nn/modules.py. */
#include "estimator/lora.h"

enum { BLOCK = 64, NESTED_BLOCK = 256, CODE_BYTES = 1024, QUANT_MAP_BYTES = 64 };

static uint64_t blocks(uint64_t n, uint64_t size)
{
	return (n + size - 1) / size;
}

static struct est_tensor weights(struct est_pass *pass, uint64_t numel, uint8_t element)
{
	return est_hold(est_empty_as(pass->tape, numel, element, EST_WEIGHTS));
}

/* ---- loading: the weight arrives in 16 bits, is quantised and goes */

/* absmax of the blocks in fp32; with double quantisation its mean goes and it is quantised to bytes in blocks of its own */
static void keep_absmax(struct est_pass *pass, uint64_t count, bool nested, struct est_tensor absmax)
{
	struct est_tensor centred;

	if (!nested)
		return;
	weights(pass, 1, EST_32BIT); /* offset */
	centred = weights(pass, count, EST_32BIT);
	weights(pass, blocks(count, NESTED_BLOCK), EST_32BIT);
	weights(pass, count, EST_BYTE);
	weights(pass, CODE_BYTES, EST_BYTE);
	est_drop(pass->tape, centred);
	est_drop(pass->tape, absmax);
}

static struct est_tensor quantize_4bit(struct est_pass *pass, uint64_t n)
{
	struct est_tensor weight = weights(pass, n, EST_16BIT), absmax = weights(pass, blocks(n, BLOCK), EST_32BIT), packed;

	packed = weights(pass, (n + 1) / 2, EST_BYTE);
	weights(pass, QUANT_MAP_BYTES, EST_BYTE);
	keep_absmax(pass, blocks(n, BLOCK), pass->request->quantization.double_quant, absmax);
	est_drop(pass->tape, weight);
	return packed;
}

uint32_t est_quantize(struct est_pass *pass, struct est_linear *linear)
{
	uint64_t n = linear->in * linear->out;
	struct est_tensor packed;

	linear->base = pass->request->quantization.bits == 4 ? EST_BASE_4BIT : EST_BASE_INT8;
	linear->nested = pass->request->quantization.double_quant;
	if (linear->base == EST_BASE_4BIT) {
		packed = quantize_4bit(pass, n);
	} else {
		packed = weights(pass, n, EST_BYTE);
		weights(pass, linear->out, EST_32BIT); /* SCB */
	}
	return est_leaf_new(pass->tape, packed, false, true);
}

/* ---- 4 bits: the weight is dequantised for each product, forward and backward */

/* extra: 0 in, 1 out, 2 nested */
static void backward_4bit(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	uint64_t n = node->extra[0] * node->extra[1];
	struct est_tensor absmax = est_none, weight;

	if (node->extra[2])
		absmax = est_empty_as(tape, blocks(n, BLOCK), EST_32BIT, EST_BUFFERS);
	weight = est_empty_as(tape, n, EST_16BIT, EST_BUFFERS);
	est_drop(tape, absmax);
	ret[0] = est_grad_for(tape, node, 0, node->grad[0].element);
	ret[0].view = true;
	est_drop(tape, weight);
}
static const struct est_op matmul_4bit_op = { "MatMul4Bit", backward_4bit };

/* gemm_4bit of more rows than its kernel takes: absmax, its sum with the offset, the dequantised weight */
static struct est_tensor gemm_4bit(struct est_tape *tape, const struct est_linear *linear, struct est_tensor x)
{
	uint64_t n = linear->in * linear->out;
	struct est_tensor absmax[2] = { { 0 } }, weight, out;

	for (unsigned i = 0; i < 2 && linear->nested; i++)
		absmax[i] = est_empty_as(tape, blocks(n, BLOCK), EST_32BIT, EST_BUFFERS);
	weight = est_empty_as(tape, n, EST_16BIT, EST_BUFFERS);
	out = est_empty(tape, x.numel / linear->in * linear->out, EST_16BIT);
	est_drop(tape, absmax[1]);
	est_drop(tape, absmax[0]);
	est_drop(tape, weight);
	return out;
}

static struct est_tensor linear_4bit(struct est_tape *tape, const struct est_linear *linear, struct est_tensor x)
{
	uint8_t element = x.element;
	struct est_tensor input = est_hold(est_to(tape, est_hold(x), EST_16BIT)), out;
	struct est_node *node = est_node_new(tape, &matmul_4bit_op, 1, &input);

	if (node) {
		node->extra[0] = linear->in;
		node->extra[1] = linear->out;
		node->extra[2] = linear->nested;
	}
	out = est_to(tape, est_output(tape, node, 0, gemm_4bit(tape, linear, input)), element);
	est_drop(tape, input);
	est_finish(tape, x);
	return out;
}

struct est_tensor est_quantized_linear(struct est_tape *tape, const struct est_linear *linear, struct est_tensor x)
{
	return linear_4bit(tape, linear, x);
}
