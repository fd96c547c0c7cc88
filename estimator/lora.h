/* PEFT's LoRA on linear layers, and bitsandbytes' or GPTQ's quantised base under it. */
#ifndef EST_LORA_H
#define EST_LORA_H

#include "estimator/pass.h"

/* Wraps the target modules of the built model: lora_A, lora_B (and DoRA's magnitude) as trainable leaves, full
 * copies of modules_to_save. False when the arena is too small. */
bool est_lora_build(struct est_pass *pass);
/* Bytes of an element of such copies: the base's, or fp32 where accelerate casts what is trained. */
uint8_t est_saved_element(const struct est_pass *pass);

/* lora.Linear.forward and lora.bnb.Linear4bit.forward: base(x) + lora_B(lora_A(dropout(x))) * scaling. x is released
 * when temporary. */
struct est_tensor est_adapted_linear(struct est_tape *tape, const struct est_linear *linear, struct est_tensor x);

/* LoRALinear.forward of LitGPT and torchtune, of one dtype: linear(x) + lora_b(lora_a(dropout(x))) * scaling. As
 * above. */
struct est_tensor est_plain_lora_linear(struct est_tape *tape, const struct est_linear *linear, struct est_tensor x);

/* DoRA on the base's result: result + (m / |W + BA| - 1) * base + m / |W + BA| * BA(x), where base is the result or, of
 * an x that is dropped out before, W(x). x, in the dtype of the adapters, and result are borrowed. */
struct est_tensor est_dora(struct est_tape *tape, const struct est_linear *base, struct est_tensor x,
			   struct est_tensor result);

/* DoraLinearLayer.update_layer while the adapters are loaded, in element: the norm of the weight and its update, which
 * the magnitude begins as. */
struct est_tensor est_dora_magnitude(struct est_pass *pass, const struct est_linear *base, uint8_t element);

/* ---- lora_experts.c: bare parameters (PEFT's ParamWrapper). adapter NULL: the weight itself, without more ado */

/* B and A in the dtype of the weight, variables of the wrapper's frame. */
struct est_factors {
	struct est_tensor lhs, rhs;
};
void est_lora_open(struct est_tape *tape, uint32_t weight, const struct est_adapter *adapter, struct est_factors *ret);
/* W + BA of all experts in one baddbmm, held. */
struct est_tensor est_lora_fold(struct est_tape *tape, uint32_t weight, const struct est_adapter *adapter,
				const struct est_factors *factors);
void est_lora_close(struct est_tape *tape, const struct est_factors *factors);
/* The same of a matrix, which no fold is made for: BA, held by the wrapper, or none without an adapter; W + BA,
 * held. */
struct est_tensor est_lora_delta(struct est_tape *tape, const struct est_linear *linear);
struct est_tensor est_lora_sum(struct est_tape *tape, const struct est_linear *linear, struct est_tensor delta);

/* The element of a dtype that the request names, of the base or of adapters. */
uint8_t est_dtype_element(const struct est_request *request, enum est_dtype dtype);

/* PEFT's layer around a linear one: false when the arena is too small. */
bool est_lora_wrap(struct est_pass *pass, struct est_linear *linear);

/* A frozen weight as bitsandbytes keeps it: packed values, absmax, its own quantisation. Returns the leaf of the
 * packed values. */
uint32_t est_quantize(struct est_pass *pass, struct est_linear *linear);
/* bnb.nn.Linear4bit.forward, bnb.nn.Linear8bitLt.forward */
struct est_tensor est_quantized_linear(struct est_tape *tape, const struct est_linear *linear, struct est_tensor x);
/* copy.deepcopy() of such a layer of 4 bits: tensors of its own, until est_drop_copied(). */
struct est_copied_4bit {
	struct est_tensor part[12]; /* two quantisations of five tensors, packed values, a bias */
	unsigned count;
};
void est_copy_4bit(struct est_tape *tape, const struct est_linear *linear, struct est_copied_4bit *ret);
void est_drop_copied(struct est_tape *tape, const struct est_copied_4bit *copied);
/* The weight of such a layer, whole: dequantize_4bit(), int8_vectorwise_dequant(). A temporary tensor. */
struct est_tensor est_dequantize(struct est_tape *tape, const struct est_linear *linear);

/* The same of GPTQ (gptq.c): a checkpoint's packed values, zeros, scales and indices of groups. */
uint32_t est_gptq_pack(struct est_pass *pass, struct est_linear *linear);
/* QuantLinear.forward */
struct est_tensor est_gptq_linear(struct est_tape *tape, const struct est_linear *linear, struct est_tensor x);
/* result += x of PEFT's layer: result, held by the caller, is a view of what the linear layer gave. */
struct est_tensor est_gptq_add(struct est_tape *tape, const struct est_linear *linear, struct est_tensor result,
			       struct est_tensor x);
/* The same of HQQ (hqq.c): packed values, scales and zeros; HQQLinear.forward. */
uint32_t est_hqq_quantize(struct est_pass *pass, struct est_linear *linear);
struct est_tensor est_hqq_linear(struct est_tape *tape, const struct est_linear *linear, struct est_tensor x);
/* Whether the experts' checkpoint is in MXFP4; such a parameter of numel elements, dequantised while it is loaded
 * (mxfp4.c). */
bool est_is_mxfp4(const struct est_request *request);
struct est_tensor est_mxfp4_dequantize(struct est_pass *pass, uint64_t numel);
/* Bytes that a kernel would take beyond the modelled one, where the request leaves open which runs. */
uint64_t est_gptq_surplus(const struct est_pass *pass);

#endif
