/* bitsandbytes: 4-bit (NF4, FP4) and LLM.int8 weights. bitsandbytes/functional.py, autograd/_functions.py,
 * nn/modules.py. */
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

/* ---- loading: the weight arrives in the dtype of the rest, is quantised and goes */

/* absmax of the blocks in fp32; with double quantisation its mean goes and it is quantised to bytes in blocks of its
 * own */
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

/* fully_shard() shards bytes too; accelerate tells it not to (ignored_params). */
static bool shards_bytes(const struct est_request *request)
{
	return request->parallelism.wrap == EST_WRAP_LAYER_ROOT && est_shards_dtensors(request);
}

/* Two weights a byte, or four in what is stored as bf16. */
static struct est_tensor pack(struct est_pass *pass, uint64_t n)
{
	if (pass->schedule && pass->request->quantization.quant_storage == EST_STORE_BF16)
		return est_parameter_empty(pass, (n + 3) / 4, EST_16BIT);
	if (pass->schedule && shards_bytes(pass->request))
		return est_parameter_empty(pass, (n + 1) / 2, EST_BYTE);
	return weights(pass, (n + 1) / 2, EST_BYTE);
}

/* What a model was loaded through is given back before it is sharded. */
static struct est_tensor quantize_4bit(struct est_pass *pass, uint64_t n)
{
	struct est_tensor weight = pass->schedule ? est_none : weights(pass, n, pass->parameter_element),
		absmax = weights(pass, blocks(n, BLOCK), EST_32BIT), packed;

	packed = pack(pass, n);
	weights(pass, QUANT_MAP_BYTES, EST_BYTE);
	keep_absmax(pass, blocks(n, BLOCK), pass->request->quantization.double_quant, absmax);
	est_drop(pass->tape, weight);
	return packed;
}

uint32_t est_quantize(struct est_pass *pass, struct est_linear *linear)
{
	uint64_t n = linear->in * linear->out;
	struct est_tensor packed;
	uint32_t leaf;

	linear->base = pass->request->quantization.bits == 4 ? EST_BASE_4BIT : EST_BASE_INT8;
	if (linear->base == EST_BASE_4BIT && pass->model->architecture == EST_ARCH_LITGPT)
		linear->base = EST_BASE_4BIT_OLD;
	linear->nested = pass->request->quantization.double_quant;
	linear->quantized_from = pass->parameter_element;
	if (linear->base != EST_BASE_INT8) {
		packed = quantize_4bit(pass, n);
	} else {
		struct est_tensor weight = weights(pass, n, EST_16BIT);

		packed = weights(pass, n, EST_BYTE);
		weights(pass, linear->out, EST_32BIT); /* SCB */
		linear->mixed = pass->request->quantization.llm_int8_threshold > 0;
		est_drop(pass->tape, weight);
	}
	leaf = est_leaf_new(pass->tape, packed, false, true);
	pass->tape->leaves[leaf].packed = true;
	return leaf;
}

/* ---- copy.deepcopy() of a Linear4bit: Params4bit copies its quantisation, and the module's dictionary once more */

static void copy_part(struct est_tape *tape, uint64_t numel, uint8_t element, struct est_copied_4bit *copied)
{
	copied->part[copied->count++] = est_hold(est_empty_as(tape, numel, element, EST_BUFFERS));
}

static void copy_quant_state(struct est_tape *tape, const struct est_linear *linear, struct est_copied_4bit *copied)
{
	uint64_t count = blocks(linear->in * linear->out, BLOCK);

	copy_part(tape, count, linear->nested ? EST_BYTE : EST_32BIT, copied);
	copy_part(tape, QUANT_MAP_BYTES, EST_BYTE, copied);
	if (!linear->nested)
		return;
	copy_part(tape, 1, EST_32BIT, copied); /* offset */
	copy_part(tape, blocks(count, NESTED_BLOCK), EST_32BIT, copied);
	copy_part(tape, CODE_BYTES, EST_BYTE, copied);
}

void est_copy_4bit(struct est_tape *tape, const struct est_linear *linear, struct est_copied_4bit *ret)
{
	ret->count = 0;
	copy_quant_state(tape, linear, ret);
	copy_part(tape, (linear->in * linear->out + 1) / 2, EST_BYTE, ret);
	if (linear->has_bias)
		copy_part(tape, linear->out, tape->leaves[linear->bias].value.element, ret);
	copy_quant_state(tape, linear, ret);
}

void est_drop_copied(struct est_tape *tape, const struct est_copied_4bit *copied)
{
	est_drop_all(tape, copied->part, copied->count);
}

/* ---- 4 bits: the weight is dequantised for each product, forward and backward */

/* dequantize_4bit(): in the dtype that was quantised */
static struct est_tensor dequantize_4bit(struct est_tape *tape, uint64_t n, bool nested, uint8_t element)
{
	struct est_tensor absmax = nested ? est_empty_as(tape, blocks(n, BLOCK), EST_32BIT, EST_BUFFERS) : est_none, weight;

	weight = est_empty_as(tape, n, element, EST_BUFFERS);
	est_drop(tape, absmax);
	return weight;
}

/* dequantize_4bit(...).to(grad_output.dtype). extra: 0 in, 1 out, 2 nested, 3 the first. matmul() folds a batch with
 * _unsafe_view(): the product is no view. */
static void backward_4bit(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	uint64_t n = node->extra[0] * node->extra[1];
	struct est_tensor weight = dequantize_4bit(tape, n, node->extra[2] != 0, (uint8_t)node->extra[3]), cast;

	if (weight.element != node->grad[0].element) {
		cast = est_empty_as(tape, n, node->grad[0].element, EST_BUFFERS);
		est_drop(tape, weight);
		weight = cast;
	}
	ret[0] = est_grad_for(tape, node, 0, node->grad[0].element);
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

/* The weight is an attribute of the node. FSDP empties its memory all the same; ZeRO-3 lets go of it, and it stays
 * as long as the graph. */
static void attach_weight(struct est_tape *tape, const struct est_linear *linear, const struct est_node *node)
{
	if (tape->zero3)
		est_attach(tape, node, (struct est_tensor){ .storage = tape->leaves[linear->weight].unsharded });
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
		node->extra[3] = linear->quantized_from;
	}
	attach_weight(tape, linear, node);
	out = est_to(tape, est_output(tape, node, 0, gemm_4bit(tape, linear, input)), element);
	est_drop(tape, input);
	est_finish(tape, x);
	return out;
}

/* ---- the same before bitsandbytes 0.43.2, which keeps the input too, as an attribute; of a weight that was
 * quantised from fp16 */

/* dequantize_4bit(...).to(dtype of the input) */
static struct est_tensor dequantized(struct est_tape *tape, uint64_t n, bool nested)
{
	struct est_tensor absmax = nested ? est_empty_as(tape, blocks(n, BLOCK), EST_32BIT, EST_BUFFERS) : est_none;
	struct est_tensor half = est_empty_as(tape, n, EST_16BIT, EST_BUFFERS), weight;

	est_drop(tape, absmax);
	weight = est_empty_as(tape, n, EST_16BIT, EST_BUFFERS);
	est_drop(tape, half);
	return weight;
}

/* extra: 0 elements of the weight, 1 nested */
static void backward_4bit_old(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	struct est_tensor weight = dequantized(tape, node->extra[0], node->extra[1] != 0);

	ret[0] = est_grad_for(tape, node, 0, node->grad[0].element);
	est_drop(tape, weight);
}
static const struct est_op matmul_4bit_old_op = { "MatMul4Bit", backward_4bit_old };

static struct est_tensor linear_4bit_old(struct est_tape *tape, const struct est_linear *linear, struct est_tensor x)
{
	uint64_t n = linear->in * linear->out;
	struct est_node *node = est_node_new(tape, &matmul_4bit_old_op, 1, &x);
	struct est_tensor weight = dequantized(tape, n, linear->nested), out;

	if (node) {
		node->extra[0] = n;
		node->extra[1] = linear->nested;
	}
	est_attach(tape, node, x);
	out = est_output(tape, node, 0, est_empty(tape, x.numel / linear->in * linear->out, EST_16BIT));
	est_drop(tape, weight);
	est_finish(tape, x);
	return out;
}

/* ---- LLM.int8: rows of the input are quantised, outlier columns multiplied apart; MatMul8bitLt keeps its input as
 * an attribute */

enum { OUTLIERS = 8 }; /* columns beyond the threshold of 6: a usual number */

static void search_outliers(struct est_tape *tape, uint64_t numel)
{
	struct est_tensor absolute = est_empty(tape, numel, EST_16BIT), outlier = est_empty(tape, numel, EST_BYTE);

	est_drop(tape, absolute);
	est_drop(tape, outlier);
}

/* int8_vectorwise_quant of the fp16 input; ret[0] the rows' scales, ret[1] the int8 values */
static void quantize_rows(struct est_tape *tape, const struct est_linear *linear, struct est_tensor x,
			  struct est_tensor ret[2])
{
	struct est_tensor half = est_empty(tape, x.numel, EST_16BIT);

	ret[0] = est_empty(tape, x.numel / linear->in, EST_32BIT);
	ret[1] = est_empty(tape, x.numel, EST_BYTE);
	if (linear->mixed)
		search_outliers(tape, x.numel);
	est_drop(tape, half);
}

/* int8_scaled_mm: the int32 product, dequantised to fp16, in the dtype of x */
static struct est_tensor scaled_mm(struct est_tape *tape, uint64_t numel, uint8_t element)
{
	struct est_tensor product = est_empty(tape, numel, EST_32BIT), half = est_empty(tape, numel, EST_16BIT), out;

	out = est_empty(tape, numel, element);
	est_drop(tape, half);
	est_drop(tape, product);
	return out;
}

/* the weight dequantised into the dtype of the input: extra: 0 in, 1 out */
static void backward_int8(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	struct est_tensor weight = est_empty_as(tape, node->extra[0] * node->extra[1], node->edge_element[0], EST_BUFFERS);
	struct est_tensor grad = est_none;

	if (node->grad[0].element != node->edge_element[0])
		grad = est_empty(tape, node->grad[0].numel, node->edge_element[0]);
	ret[0] = est_grad_for(tape, node, 0, node->edge_element[0]);
	ret[0].view = true;
	est_drop(tape, grad);
	est_drop(tape, weight);
}
static const struct est_op matmul_8bit_op = { "MatMul8bitLt", backward_int8 };

/* A selective checkpoint's dispatch mode runs an operator's own products below autocast. */
static bool dispatches(const struct est_tape *tape)
{
	return tape->policy != EST_KEEP_NOTHING && (tape->packing || tape->recomputing);
}

/* output.addmm(outliers, their weights), which autocast runs in 16 bits */
static struct est_tensor add_outliers(struct est_tape *tape, struct est_tensor scaled)
{
	bool casts = tape->autocast && scaled.element != EST_16BIT && !dispatches(tape);
	struct est_tensor cast = casts ? est_empty(tape, scaled.numel, EST_16BIT) : est_none, out;

	out = est_empty(tape, scaled.numel, casts ? EST_16BIT : scaled.element);
	est_drop(tape, cast);
	est_drop(tape, scaled);
	return out;
}

static struct est_tensor linear_int8(struct est_tape *tape, const struct est_linear *linear, struct est_tensor x)
{
	uint64_t rows = x.numel / linear->in;
	struct est_node *node = est_node_new(tape, &matmul_8bit_op, 1, &x);
	struct est_tensor quantized[2], outliers = est_none, out;

	quantize_rows(tape, linear, x, quantized);
	if (linear->mixed)
		outliers = est_empty(tape, rows * OUTLIERS, x.element);
	out = scaled_mm(tape, rows * linear->out, x.element);
	if (linear->mixed)
		out = add_outliers(tape, out);
	est_drop(tape, quantized[1]);
	est_drop(tape, quantized[0]);
	est_attach(tape, node, outliers);
	est_attach(tape, node, x);
	est_drop(tape, outliers);
	if (node) {
		node->extra[0] = linear->in;
		node->extra[1] = linear->out;
	}
	est_finish(tape, x);
	return est_output(tape, node, 0, out);
}

struct est_tensor est_dequantize(struct est_tape *tape, const struct est_linear *linear)
{
	uint64_t n = linear->in * linear->out;
	struct est_tensor scaled, weight;

	if (linear->base == EST_BASE_4BIT)
		return dequantize_4bit(tape, n, linear->nested, linear->quantized_from);
	scaled = est_empty_as(tape, n, EST_32BIT, EST_BUFFERS); /* weight * SCB * (1 / 127) */
	weight = est_empty_as(tape, n, EST_32BIT, EST_BUFFERS);
	est_drop(tape, scaled);
	return weight;
}

struct est_tensor est_quantized_linear(struct est_tape *tape, const struct est_linear *linear, struct est_tensor x)
{
	switch (linear->base) {
	case EST_BASE_4BIT:
		return linear_4bit(tape, linear, x);
	case EST_BASE_4BIT_OLD:
		return linear_4bit_old(tape, linear, x);
	default:
		return linear_int8(tape, linear, x);
	}
}
