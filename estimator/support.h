/* What the estimator models so far; the rest of the contract is refused, never ignored. */
#ifndef EST_SUPPORT_H
#define EST_SUPPORT_H

#include "estimator/fault.h"
#include "estimator/model.h"
#include "estimator/request.h"

/* Adds a fault not_supported_yet for every value that the request's accounting does not model. */
void est_support_check(const struct est_request *request, const struct est_model *model, struct est_faults *faults);

#endif
