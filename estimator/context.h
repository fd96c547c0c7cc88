/* Context parallelism: each sequence is dealt out to ranks, which have their part of every layer's tokens
 * (est_pass.sequence) and attend to the others' keys in a ring (attention_ring.c). */
#ifndef EST_CONTEXT_H
#define EST_CONTEXT_H

#include "estimator/fault.h"
#include "estimator/model.h"
#include "estimator/request.h"

/* Faults where the request's sequences cannot be dealt out so, or what that means is not modelled. */
void est_context_check(const struct est_request *request, const struct est_model *model, struct est_faults *faults);

#endif
