/* A floor of what a run allocates, from a few products: what is certainly alive at once at the optimizer's step, or when the loss is
 * computed. Replaying takes milliseconds, this nanoseconds: a search over many runs leaves out what cannot fit without replaying it.
 * tests/rules.c holds it below the replay. */
#ifndef EST_FLOOR_H
#define EST_FLOOR_H

#include "estimator/model.h"
#include "estimator/request.h"

/* What does not depend on batch, length and the number of GPUs. Bytes, of the whole model. */
struct est_floor {
	double weights, gradients, states;
	double masters;                 /* elements of fp32 that a step copies gradients into */
	double checkpoints, logits;     /* of a token */
	int64_t trained;                /* parameters */
};

/* request must have passed est_check(), as far as it does not depend on batch, length and GPUs. */
void est_floor_init(struct est_floor *floor, const struct est_request *request, const struct est_model *model);

/* Bytes of the allocator that a rank needs at least with the batch, length and ranks of request. Grows with batch and length, falls with
 * the number of GPUs. */
uint64_t est_floor_bytes(const struct est_floor *floor, const struct est_request *request);

#endif
