/* torch.compile: where a compiled model is known to run, and how. */
#ifndef EST_COMPILE_H
#define EST_COMPILE_H

#include "estimator/model.h"
#include "estimator/request.h"

/* Whether a compiled layer runs as it does uncompiled: a call into the flash attention package ends the graph within a
 * checkpoint, and torch.utils.checkpoint, called outside of a graph, switches Dynamo off for all that it runs. */
bool est_compile_falls_back(const struct est_request *request);

/* Whether layers run compiled, each with its checkpoint (est_compiled_layer()). */
bool est_compiles_layers(const struct est_request *request);

/* Whether the whole model runs compiled with its loss, as Transformers' Trainer and what is built on it has it
 * (est_compiled_model_loss()). */
bool est_compiles_model(const struct est_request *request);

/* Whether the loss is compiled too, as torchtitan's is since April 2025: told by torch's version, 2.8 or later. */
bool est_compiles_loss(const struct est_request *request);

/* Whether either runs compiled. */
bool est_compiles(const struct est_request *request);

/* Bytes that a compiled layer's backward may hold beyond what is replayed, in another order or with less fused: two
 * tensors as wide as the MLP. 0 where nothing is compiled. */
uint64_t est_compile_temporaries(const struct est_request *request, const struct est_model *model);

/* Bytes that the allocator may reserve beside: the logits of a whole model's graph, or the sums of its embedding's
 * gradient, lie in the largest segments, and where a small buffer takes a part of one, a step needs another. 0 where no
 * whole model is compiled. */
uint64_t est_compile_unpooled(const struct est_request *request, const struct est_model *model);

/* Why a compiled run is not modelled, or NULL when it is (or nothing is compiled). */
const char *est_compile_refuses(const struct est_request *request, const struct est_model *model);

#endif
