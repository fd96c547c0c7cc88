/* Trainers with model code of their own. */
#ifndef EST_FRAMEWORK_H
#define EST_FRAMEWORK_H

#include "estimator/fault.h"
#include "estimator/model.h"
#include "estimator/request.h"

/* The model as the request's trainer builds it from the same checkpoint; Transformers' own, but for those trainers. */
struct est_model est_framework_model(const struct est_request *request, const struct est_model *model);

/* Bytes, at most, of what the trainer's own code has alive beside Transformers' that is replayed for it.
 * torchtitan's experts weigh what they give in fp32, where Transformers' do it in 16 bits: up to three tensors of
 * all pairs of tokens and experts at once. */
uint64_t est_framework_surplus(const struct est_request *request, const struct est_model *model);

/* Faults for what is not modelled of a trainer's own code. */
void est_framework_check(const struct est_request *request, const struct est_model *model, struct est_faults *faults);

#endif
