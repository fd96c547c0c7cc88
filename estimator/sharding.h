/* Sharding without a schedule, where a strategy is not replayed: shares of what one GPU holds. What is gathered and
 * bucketed on the way is only bounded. (DDP: ddp.h; FSDP2, HSDP, FSDP1: schedule.h; ZeRO-1, 2: zero.h; ZeRO-3:
 * zero3.h.) */
#ifndef EST_SHARDING_H
#define EST_SHARDING_H

#include "estimator/fault.h"
#include "estimator/model.h"
#include "estimator/request.h"
#include "estimator/tape.h"

/* sharding_check.c: adds what ends a run in its first step where its ranks share parameters. */
void est_sharding_check(const struct est_request *request, const struct est_model *model, struct est_faults *faults);

/* Whether the request's ranks share a model that is not replayed rank by rank. */
bool est_sharding_is_static(const struct est_request *request);
/* ret[category]: a rank holds one part in so many. ZeRO-1 shards the states, ZeRO-2 the gradients too, ZeRO-3 and
 * FSDP the weights too. */
void est_sharding_shares(const struct est_request *request, uint64_t ret[EST_CATEGORIES]);
/* Bytes that a real rank may hold beyond its shares, at most; 0 where the schedule is replayed. trained: parameters
 * with a gradient. From traces of DeepSpeed 0.19 (with its own bucket sizes) and of torch 2.13's FSDP1. */
uint64_t est_sharding_unmodelled(const struct est_request *request, const struct est_model *model, int64_t trained);
/* Bytes that the allocator may reserve beyond what is replayed, at most: of FSDP1, whose concatenated gradients of
 * the root and of a layer may come from the pool of another stream than the one they are freed to here. */
uint64_t est_sharding_unpooled(const struct est_request *request, const struct est_model *model);

#endif
