/* DistributedDataParallel on one rank: gradients are reduced in buckets. The first ones, a bucket of all gradients of a dtype, do for one
 * step; then DDP knows in which order gradients come, and makes buckets of 25 MiB, which live as long as the model. */
#ifndef EST_DDP_H
#define EST_DDP_H

#include "estimator/request.h"
#include "estimator/tape.h"

struct est_ddp;

/* NULL for other strategies, and where the arena is too small. Of the tape's arena. */
struct est_ddp *est_ddp_new(struct est_tape *tape, const struct est_request *request);

/* ddp may be NULL in all that follow. Wraps a model, whose parameters are the leaves from first to end: makes its first buckets. Of a
 * pipeline's stages each is a model of its own. */
void est_ddp_wrap(struct est_ddp *ddp, uint32_t first, uint32_t end);

/* Before the backward of a micro-batch. Where it is reduced, a gradient is copied into its bucket as it arrives and, with
 * gradient_as_bucket_view, goes; otherwise it stays beside it. Under no_sync(), in all micro-batches but the last, it stays too. */
void est_ddp_micro_begin(const struct est_ddp *ddp, bool last);

/* Whether gradients go in the last micro-batch only. */
bool est_ddp_last_differs(const struct est_ddp *ddp);

/* Reducer::rebuild_buckets(), at the first forward after gradients have been reduced: the first buckets go, then others are made of the
 * parameters in the order in which their gradients came, for each dtype one of 1 MiB first and of 25 MiB each after that. A bucket ends with the
 * parameter that fills it. (Where every micro-batch is reduced that is the second one; here it is taken for the second step's.) */
void est_ddp_rebuild(const struct est_ddp *ddp);

#endif
