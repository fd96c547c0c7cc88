/* The rule of thumb: bytes per parameter and 8 % on top, as popular calculators have it. For comparison with the
 * replay, and for who wants the well-known figures. */
#ifndef EST_THUMB_H
#define EST_THUMB_H

#include <stdint.h>
#include "estimator/model.h"
#include "estimator/report.h"
#include "estimator/request.h"

/* Rows in bytes. trainable (est_trainable_parameters()) are out of model->parameters; those of adapters come on top.
 *
 *   per parameter      weights  gradients  AdamW   8-bit  momentum  SGD, Adafactor
 *   bf16_, fp16_master    2         2      4 + 8   4 + 2    4 + 4         4
 *   bf16, fp16            2         2        8       2        4           0
 *   fp32, mixed           4         4        8       2        4           0
 *   frozen base: 2 or 4 by base_dtype, 0.55 in 4 bits, 1.05 in 8 bits
 *
 * activations 34 * b * s * h * L, with checkpointing 0.15 of that. ret_per_gpu: ZeRO-1 shards the optimizer over all
 * GPUs, ZeRO-2 the gradients too, ZeRO-3 and FSDP everything but activations; what is offloaded is not on the GPU.
 * overhead is 8 % of the sum, buffers 0. ret_single_gpu: the same without sharding. Rows saturate at 2^60. */
void est_thumb(const struct est_request *request, const struct est_model *model, int64_t trainable,
	       struct est_rows *ret_single_gpu, struct est_rows *ret_per_gpu);

#endif
