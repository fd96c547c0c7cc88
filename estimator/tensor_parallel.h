/* Tensor parallelism as torch.distributed.tensor does it: parallelize_module() with the plan of PyTorch's tutorials
 * and of torchtitan, over the modules of Transformers. How a model is split over the ranks of a group is told here,
 * as a property of its shape: a rank's model has fewer heads, a narrower MLP and a shorter vocabulary
 * (est_tensor_part()), and each linear layer knows how its weight is cut (est_cut_of()). The layers run on the
 * rank's sizes and know of nothing; the collectives come with the cut layers (est_linear() calls est_cut_enter() and
 * est_cut_leave()) and, where the residual stream is split too, with attention and MLP (est_sequence_gather()).
 * DTensor's placements are in brackets. Facts: DISTRIBUTED 4, DISTRIBUTED_II 4. */
#ifndef EST_TENSOR_PARALLEL_H
#define EST_TENSOR_PARALLEL_H

#include "estimator/fault.h"
#include "estimator/model.h"
#include "estimator/request.h"
#include "estimator/tape.h"

/* How the weight [out, in] of a linear layer is cut: not at all; along its outputs, of which each rank computes its own
 * (ColwiseParallel, [Shard(0)]); along its inputs, so that the ranks' results are summed (RowwiseParallel,
 * [Shard(1)]). */
enum est_cut { EST_CUT_NONE, EST_CUT_OUTPUTS, EST_CUT_INPUTS };

/* The group that a rank is one of; ranks 1: there is none. */
struct est_tensor_group {
	uint64_t ranks;
	bool splits_sequence; /* a rank has a part of the positions of the residual stream (SequenceParallel) */
	bool splits_loss;     /* and its loss a part of the vocabulary (loss_parallel()) */
	bool sums_in_place;   /* without gradients a sum takes the place of what is summed: Transformers' local kernels */
	bool batched;         /* more than one sequence: positions of all ranks are gathered, or scattered, by a copy */
};

struct est_tensor_group est_tensor_group_of(const struct est_request *request);

/* The model as one rank has it, or the model itself. */
struct est_model est_tensor_part(const struct est_request *request, const struct est_model *model);

/* How a layer's module is cut where there is a group. */
struct est_module;
enum est_cut est_cut_of(const struct est_module *module);

/* Whether a gradient is not cut as its parameter is: that of the embedding is whole, that of a norm of a split
 * sequence is a sum over the rank's positions. The step, or FSDP2's reduction, makes the part of it that is the
 * rank's. */
bool est_tensor_is_misplaced(const struct est_leaf *leaf);

/* Bytes that a rank holds beyond the replay where the embedding is not cut, as by the plans that Transformers has
 * for its models (tp_plan="auto"); 0 for torchtitan, which cuts it. */
uint64_t est_tensor_surplus(const struct est_request *request, const struct est_model *model);

/* What of a request goes against the split: contradictions, and what is not modelled. Of requests without a group:
 * a loss that needs one. */
void est_tensor_check(const struct est_request *request, const struct est_model *model, struct est_faults *faults);

/* ---- tensor_collectives.c: operators; x is released when temporary, results are temporary */

/* Before a cut layer: the gradient of what every rank reads is summed over them; one that reads its own part leaves
 * it as it is. */
struct est_tensor est_cut_enter(struct est_tape *tape, const struct est_tensor_group *group, enum est_cut cut,
				struct est_tensor x);
/* After it: a sum over the ranks, of which each keeps all, or, of a split sequence, its part; each one's own outputs
 * stay. */
struct est_tensor est_cut_leave(struct est_tape *tape, const struct est_tensor_group *group, enum est_cut cut,
				struct est_tensor y);

/* A norm of a split sequence runs on DTensors: x, borrowed, as it enters (held), and y as it leaves. */
struct est_tensor est_sequence_enter(struct est_tape *tape, struct est_tensor x);
struct est_tensor est_sequence_leave(struct est_tape *tape, struct est_tensor y);

/* [Shard(1)] -> [Replicate()] before attention, MLP and head; the gradient is reduced and scattered. x itself where
 * the sequence is whole. */
struct est_tensor est_sequence_gather(struct est_tape *tape, const struct est_tensor_group *group, struct est_tensor x);
/* [Shard(-1)] -> [Replicate()] of the logits; of their gradient a rank copies its part. x itself where there is no
 * group. */
struct est_tensor est_vocabulary_gather(struct est_tape *tape, const struct est_tensor_group *group,
					struct est_tensor x);

/* F.embedding over a weight [Shard(0)] of rows rows here, summed over the ranks (RowwiseParallel). Its gradient is
 * that of the whole vocabulary on every rank, until the optimizer's step or FSDP2's reduction takes the rank's part.
 * ids are borrowed. */
struct est_tensor est_cut_embedding(struct est_tape *tape, const struct est_tensor_group *group, struct est_tensor ids,
				    uint32_t weight, uint64_t rows, uint64_t width);

#endif
