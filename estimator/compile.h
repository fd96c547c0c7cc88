/* torch.compile: where a compiled model is known to run, and how. */
#ifndef EST_COMPILE_H
#define EST_COMPILE_H

#include "estimator/model.h"
#include "estimator/request.h"

/* Whether a compiled layer runs as it does uncompiled: a call into the flash attention package ends the graph within a
 * checkpoint, and torch.utils.checkpoint, called outside of a graph, switches Dynamo off for all that it runs. */
bool est_compile_falls_back(const struct est_request *request);

/* Why a compiled run is not modelled, or NULL when it is (or nothing is compiled). */
const char *est_compile_refuses(const struct est_request *request, const struct est_model *model);

#endif
