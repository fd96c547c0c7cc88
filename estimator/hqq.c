/* HQQ: packed bytes, scales and zeros by groups; the weight is dequantised for each product, by PyTorch operators.
 * hqq's core/quantize.py (HQQLinear with its default backend, HQQMatmulNoCacheMul) and core/bitpack.py. */
#include "estimator/lora.h"

static uint64_t ceil_div(uint64_t n, uint64_t by)
{
	return (n + by - 1) / by;
}

static struct est_tensor weights(struct est_pass *pass, uint64_t numel, uint8_t element)
{
	return est_hold(est_empty_as(pass->tape, numel, element, EST_WEIGHTS));
}

/* W_q, scale and zero; the weight arrives in the dtype of the rest, and is quantised in fp32 */
uint32_t est_hqq_quantize(struct est_pass *pass, struct est_linear *linear)
{
	const struct est_quantization *quantization = &pass->request->quantization;
	uint64_t n = linear->in * linear->out;
	uint64_t groups = quantization->group_size > 0 ? ceil_div(n, (uint64_t)quantization->group_size) : linear->out;
	struct est_tensor weight = weights(pass, n, pass->parameter_element), in_fp32 = weights(pass, n, EST_32BIT), packed;

	linear->base = EST_BASE_HQQ;
	linear->nested = quantization->bits == 4; /* two values a byte */
	packed = weights(pass, linear->nested ? (n + 1) / 2 : n, EST_BYTE);
	for (unsigned i = 0; i < 2; i++)
		weights(pass, groups, EST_16BIT);
	est_drop(pass->tape, in_fp32);
	est_drop(pass->tape, weight);
	return est_leaf_new(pass->tape, packed, false, true);
}

static struct est_tensor temporary(struct est_tape *tape, uint64_t numel, uint8_t element)
{
	return est_empty_as(tape, numel, element, EST_BUFFERS);
}

/* tmp[:step] = (W_q & 0xf0) >> 4; tmp[step:] = W_q & 0x0f */
static void unpack_halves(struct est_tape *tape, uint64_t n)
{
	struct est_tensor high = temporary(tape, n / 2, EST_BYTE), shifted = temporary(tape, n / 2, EST_BYTE);

	est_drop(tape, high);
	est_drop(tape, shifted);
	est_drop(tape, temporary(tape, n / 2, EST_BYTE));
}

/* (W_r - zero) * scale */
static struct est_tensor dequantize(struct est_tape *tape, uint64_t n, bool halves)
{
	struct est_tensor unpacked = temporary(tape, n, EST_16BIT), centred, out;

	if (halves)
		unpack_halves(tape, n);
	centred = temporary(tape, n, EST_16BIT);
	out = temporary(tape, n, EST_16BIT);
	est_drop(tape, centred);
	est_drop(tape, unpacked);
	return out;
}

/* extra: 0 elements of the weight, 1 two of them a byte */
static void backward_hqq(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	struct est_tensor weight = dequantize(tape, node->extra[0], node->extra[1]);

	ret[0] = est_grad_for(tape, node, 0, node->grad[0].element);
	est_drop(tape, weight);
}
static const struct est_op hqq_op = { "HQQMatmulNoCacheMul", backward_hqq };

/* The function keeps its input, though a frozen weight needs none. */
struct est_tensor est_hqq_linear(struct est_tape *tape, const struct est_linear *linear, struct est_tensor x)
{
	struct est_node *node = est_node_new(tape, &hqq_op, 1, &x);
	uint64_t n = linear->in * linear->out;
	struct est_tensor weight = dequantize(tape, n, linear->nested), cast = est_none, out;

	if (x.element == EST_32BIT)
		cast = est_empty(tape, x.numel, EST_16BIT);
	out = est_empty(tape, x.numel / linear->in * linear->out, EST_16BIT);
	est_drop(tape, cast);
	est_drop(tape, weight);
	est_save(tape, node, x);
	if (node) {
		node->extra[0] = n;
		node->extra[1] = linear->nested;
	}
	out = est_output(tape, node, 0, out);
	est_finish(tape, x);
	return out;
}
