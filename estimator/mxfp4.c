/* MXFP4: gpt-oss' checkpoints hold their experts in 4 bits. Nothing trains over them
 * (Mxfp4HfQuantizer.is_trainable), so they are dequantised while they are loaded:
 * transformers/integrations/mxfp4.py, _convert_moe_packed_tensors(). */
#include "estimator/lora.h"

/* Values to a block, which shares a scale; rows of 16 bytes that are converted at once. */
enum { VALUES = 32, ROWS = 1 << 25 };

bool est_is_mxfp4(const struct est_request *request)
{
	return request->method == EST_QLORA && request->quantization.type == EST_MXFP4;
}

static struct est_tensor take(struct est_pass *pass, uint64_t numel, uint8_t element)
{
	return est_empty_as(pass->tape, numel, element, EST_WEIGHTS);
}

/* lut[(bytes & 0x0F).to(torch.int)] of half of the values: the bytes go first */
static void look_up(struct est_pass *pass, uint64_t values)
{
	struct est_tensor halves = take(pass, values / 2, EST_BYTE), indices = take(pass, values / 2, EST_32BIT), values_found;

	est_drop(pass->tape, halves);
	values_found = take(pass, values / 2, pass->parameter_element);
	est_drop(pass->tape, values_found);
	est_drop(pass->tape, indices);
}

static void convert(struct est_pass *pass, uint64_t values)
{
	look_up(pass, values);
	look_up(pass, values);
	est_drop(pass->tape, take(pass, values / VALUES, EST_32BIT)); /* ldexp's powers of 2 */
}

/* The values come out in rows of the checkpoint; a transposed copy of them is the parameter. */
struct est_tensor est_mxfp4_dequantize(struct est_pass *pass, uint64_t numel)
{
	struct est_tensor blocks = take(pass, numel / 2, EST_BYTE), scales = take(pass, numel / VALUES, EST_BYTE),
		exponents[2], out;
	struct est_tensor parameter;

	exponents[0] = take(pass, numel / VALUES, EST_32BIT);
	exponents[1] = take(pass, numel / VALUES, EST_32BIT); /* less 127 */
	est_drop(pass->tape, exponents[0]);
	out = take(pass, numel, pass->parameter_element);
	for (uint64_t done = 0; done < numel; done += (uint64_t)ROWS * VALUES)
		convert(pass, numel - done < (uint64_t)ROWS * VALUES ? numel - done : (uint64_t)ROWS * VALUES);
	parameter = take(pass, numel, pass->parameter_element);
	est_drop(pass->tape, out);
	est_drop(pass->tape, exponents[1]);
	est_drop(pass->tape, scales);
	est_drop(pass->tape, blocks);
	return parameter;
}
