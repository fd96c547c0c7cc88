/* DistributedDataParallel on one rank: gradients are reduced in buckets that live as long as the model. */
#ifndef EST_DDP_H
#define EST_DDP_H

#include "estimator/request.h"
#include "estimator/tape.h"

/* Makes the buckets of all trained parameters among the leaves from first to end, a model's, in the order in which their gradients come: 1 MiB first,
 * then 25 MiB each, a bucket ending with the gradient that fills it. Nothing for other strategies. DISTRIBUTED 3. */
void est_ddp_wrap(struct est_tape *tape, const struct est_request *request, uint32_t first, uint32_t end);

/* Before the backward of a micro-batch. Where it is reduced, a gradient is copied into its bucket as it arrives and, with
 * gradient_as_bucket_view, goes; otherwise it stays beside it. Under no_sync(), in all micro-batches but the last, it stays too. */
void est_ddp_micro_begin(struct est_tape *tape, const struct est_request *request, bool last);

/* Whether gradients go in the last micro-batch only. */
bool est_ddp_last_differs(const struct est_request *request);

#endif
