/* Megatron-core's GPT with Transformer Engine, as Megatron-LM, Megatron-Bridge and Megatron-SWIFT run it: layers, buffers of
 * parameters and gradients, and optimizer are its own, so that nothing of the other replays applies.
 *
 * A rank's step is replayed tensor by tensor as in theirs, but without a tape: a layer keeps a fixed set of tensors between
 * its forward and its backward (struct est_megatron_layer), and what passes is allocated and freed in the order of the code.
 *
 *   parameters   16 bits; with the distributed optimizer (strategy zero1) they are moved into one buffer
 *   gradients    a buffer of fp32 (grad_accum_dtype), from the beginning to the end: products add to it as they are made
 *   optimizer    fp32 copies and Adam's moments, with zero1 a part of each data-parallel rank: 6 + 12 / n bytes a parameter;
 *                the ranks of experts are others than those of the rest
 *   layer        the residual stream is cut along the sequence where sequence_parallel says so, and gathered before each product
 *
 * Source: Megatron-LM (megatron/core) and TransformerEngine (transformer_engine/pytorch) of August 2026; nothing of it is
 * traced. Sequences are not packed, experts are dealt out evenly, gradients and gathers do not overlap with the step. */
#ifndef EST_MEGATRON_H
#define EST_MEGATRON_H

#include "estimator/fault.h"
#include "estimator/step.h"

/* Whether the request's step is Megatron's. */
bool est_megatron_wanted(const struct est_request *request);

/* The model as Megatron makes it. */
struct est_model est_megatron_model(const struct est_model *model);

/* Like est_program_trace(), of a rank of Megatron's; model is the rank's stage. */
bool est_megatron_trace(struct est_program *program, const struct est_model *model, const struct est_request *request,
			struct est_arena *arena);

/* What of a request Megatron refuses, or is not modelled of it. */
void est_megatron_check(const struct est_request *request, const struct est_model *model, struct est_faults *faults);

/* ---- megatron_layer.c: one layer of a rank */

/* What autograd keeps of a layer between its forward and its backward, under the names of its parts. */
enum est_megatron_kept {
	EST_MEGATRON_INPUT,             /* of the layer: the residual stream */
	EST_MEGATRON_NORMED,            /* input_layernorm's result */
	EST_MEGATRON_QUERY_NORMED, EST_MEGATRON_KEY_NORMED, /* what the norms of heads read */
	EST_MEGATRON_LATENT, EST_MEGATRON_LATENT_NORMED,    /* latent attention: keys and values compressed */
	EST_MEGATRON_QUERY_LATENT, EST_MEGATRON_QUERY_LATENT_NORMED,
	EST_MEGATRON_QUERY, EST_MEGATRON_KEY, EST_MEGATRON_VALUE, EST_MEGATRON_ATTENDED, EST_MEGATRON_LOGSUMEXP,
	EST_MEGATRON_RESIDUAL,          /* after attention */
	EST_MEGATRON_SECOND_NORMED,
	EST_MEGATRON_UP, EST_MEGATRON_ACTIVATED,            /* of the dense MLP, or of the shared experts */
	EST_MEGATRON_SCORES,            /* the router's */
	EST_MEGATRON_DISPATCHED, EST_MEGATRON_EXPERT_UP, EST_MEGATRON_EXPERT_ACTIVATED,
	EST_MEGATRON_KEPT
};

struct est_megatron_layer {
	struct est_tensor kept[EST_MEGATRON_KEPT]; /* numel 0: none */
};

/* Parameters that lie in one buffer. */
struct est_megatron_weights {
	uint64_t *numel;            /* of each */
	size_t count;
	uint64_t total;
};

/* Widths that a rank computes, and how many rows it does it for. */
struct est_megatron {
	struct est_tape *tape;
	const struct est_model *model;
	const struct est_request *request;
	uint64_t tokens;            /* of a micro-batch: rows of each product */
	uint64_t rows;              /* of the residual stream: a part of them where the sequence is split */
	uint64_t hidden, heads, key_value_heads, query_dim, value_dim, ffn, words;
	uint64_t experts, pairs;    /* of this rank; tokens that its experts get, each counted once for each expert */
	bool splits_sequence;
	struct est_megatron_weights others, routed; /* all of the rank but its experts', and those */
	struct est_megatron_layer *layers; /* of all micro-batches in flight */
	struct est_tensor *inputs;  /* embedding's, or received */
};

/* Elements of the weights of a layer on this rank (from 0 of the stage), in the order of its modules, its vectors as one; some
 * may be 0. How many. Experts' are apart: each has one matrix of so many elements, and one of twice as many. */
enum { EST_MEGATRON_WEIGHTS = 12 };
size_t est_megatron_list_layer(const struct est_megatron *run, int64_t layer, uint64_t ret[EST_MEGATRON_WEIGHTS]);
uint64_t est_megatron_expert_numel(const struct est_megatron *run, int64_t layer);

/* x, which moves in and is kept -> the layer's output. */
struct est_tensor est_megatron_layer_forward(const struct est_megatron *run, int64_t layer, struct est_megatron_layer *kept,
					     struct est_tensor x);
/* The gradient of the output, which moves in -> that of the input; what was kept goes. */
struct est_tensor est_megatron_layer_backward(const struct est_megatron *run, int64_t layer, struct est_megatron_layer *kept,
					      struct est_tensor grad);

/* numel elements of 16 bits that pass; the gathered form of what is split along the sequence (none where nothing is). */
struct est_tensor est_megatron_take(const struct est_megatron *run, uint64_t numel);
struct est_tensor est_megatron_gather(const struct est_megatron *run, uint64_t width);

#endif
