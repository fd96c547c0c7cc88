/* Megatron-core's GPT with Transformer Engine, as Megatron-LM, Megatron-Bridge and Megatron-SWIFT run it: layers, buffers of
 * parameters and gradients, and optimizer are its own, so that nothing of the other replays applies.
 *
 * A rank's step is replayed tensor by tensor as in theirs, but without a tape: a layer keeps a fixed set of tensors between
 * its forward and its backward (struct est_megatron_layer), and what passes is allocated and freed in the order of the code.
 *
 *   parameters   16 bits; with the distributed optimizer (strategy zero1) they are moved into one buffer
 *   gradients    a buffer of fp32 (grad_accum_dtype), from the beginning to the end: products add to it as they are made
 *   optimizer    fp32 copies and Adam's moments, with zero1 a part of each data-parallel rank: 6 + 12 / n bytes a parameter;
 *                the ranks of experts are others than those of the rest
 *   layer        the residual stream is cut along the sequence where sequence_parallel says so, and gathered before each product
 *
 * Source: Megatron-LM (megatron/core) and TransformerEngine (transformer_engine/pytorch) of August 2026; nothing of it is
 * traced. Sequences are not packed, experts are dealt out evenly, gradients and gathers do not overlap with the step. */
#ifndef EST_MEGATRON_H
#define EST_MEGATRON_H

#include "estimator/fault.h"
#include "estimator/step.h"

/* Whether the request's step is Megatron's. */
bool est_megatron_wanted(const struct est_request *request);

/* The model as Megatron makes it. */
struct est_model est_megatron_model(const struct est_model *model);

/* Like est_program_trace(), of a rank of Megatron's; model is the rank's stage. */
bool est_megatron_trace(struct est_program *program, const struct est_model *model, const struct est_request *request,
			struct est_arena *arena);

/* What of a request Megatron refuses, or is not modelled of it. */
void est_megatron_check(const struct est_request *request, const struct est_model *model, struct est_faults *faults);

#endif
