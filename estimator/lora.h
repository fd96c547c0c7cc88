/* PEFT's LoRA on linear layers, and bitsandbytes' quantised base under it. */
#ifndef EST_LORA_H
#define EST_LORA_H

#include "estimator/pass.h"

/* Wraps the target modules of the built model: lora_A, lora_B (and DoRA's magnitude) as trainable leaves, full copies of
 * modules_to_save. False when the arena is too small. */
bool est_lora_build(struct est_pass *pass);

/* lora.Linear.forward and lora.bnb.Linear4bit.forward: base(x) + lora_B(lora_A(dropout(x))) * scaling. x is released when
 * temporary. */
struct est_tensor est_adapted_linear(struct est_tape *tape, const struct est_linear *linear, struct est_tensor x);

/* DoRA's part of the sum beside the base's result: (m / |W + BA| - 1) * result + m / |W + BA| * BA(x). x, in the dtype of the
 * adapters, and result are borrowed. */
struct est_tensor est_dora(struct est_tape *tape, const struct est_linear *base, struct est_tensor x, struct est_tensor result);

/* A frozen weight as bitsandbytes keeps it: packed values, absmax, its own quantisation. Returns the leaf of the packed values. */
uint32_t est_quantize(struct est_pass *pass, struct est_linear *linear);
/* bnb.nn.Linear4bit.forward, bnb.nn.Linear8bitLt.forward */
struct est_tensor est_quantized_linear(struct est_tape *tape, const struct est_linear *linear, struct est_tensor x);

#endif
