/* What the parts of Megatron's replay share; internal to megatron*.c. */
#ifndef EST_MEGATRON_RUN_H
#define EST_MEGATRON_RUN_H

#include "estimator/megatron.h"
#include "estimator/ops.h"

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

/* At most so many weights of a layer, and of its experts: these come by the thousand, and beyond 16 of a layer several count as
 * one. */
enum { EST_MEGATRON_WEIGHTS = 12, EST_MEGATRON_EXPERTS_APART = 16, EST_MEGATRON_EXPERT_WEIGHTS = 2 * EST_MEGATRON_EXPERTS_APART };

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
	struct est_tensor *inputs;  /* of each micro-batch in flight: ids, labels, positions, the loss's mask */
};

/* ---- megatron_load.c: what a rank holds */

/* Sizes up the rank's part of model, and makes what it holds for good; flights: micro-batches between their forward and their
 * backward, at most. False when the arena is too small. */
bool est_megatron_load(struct est_megatron *run, struct est_tape *tape, const struct est_model *model,
		       const struct est_request *request,
		       uint64_t flights);
/* One state of the optimizer, of so many bytes an element, for the parameters that this rank steps; on the host where it is
 * offloaded. */
void est_megatron_make_states(const struct est_megatron *run, uint8_t element);
/* How many these are. */
uint64_t est_megatron_stepped(const struct est_megatron *run);
uint8_t est_megatron_gradient_element(const struct est_request *request);

/* ---- megatron_layer.c: one layer of a rank */

/* Elements of the weights of a layer on this rank (from 0 of the stage), in the order of its modules, its vectors as one; some
 * may be 0. How many. Experts' are apart: each has one matrix of so many elements, and one of twice as many. */
size_t est_megatron_list_layer(const struct est_megatron *run, int64_t layer, uint64_t ret[EST_MEGATRON_WEIGHTS]);
uint64_t est_megatron_expert_numel(const struct est_megatron *run, int64_t layer);

/* x, which moves in and is kept -> the layer's output. */
struct est_tensor est_megatron_layer_forward(const struct est_megatron *run, int64_t layer,
					     struct est_megatron_layer *kept,
					     struct est_tensor x);
/* The gradient of the output, which moves in -> that of the input; what was kept goes. */
struct est_tensor est_megatron_layer_backward(const struct est_megatron *run, int64_t layer,
					      struct est_megatron_layer *kept,
					      struct est_tensor grad);

/* ---- megatron_attention.c */

/* The layer's input was kept; what attention adds to it, with the residual. */
struct est_tensor est_megatron_attention(const struct est_megatron *run, struct est_megatron_layer *layer);
/* The gradient of that moves in -> that of the layer's input. */
struct est_tensor est_megatron_attention_backward(const struct est_megatron *run, struct est_megatron_layer *layer,
						  struct est_tensor grad);
/* Elements of attention's weights, its vectors and the layer's norms as one. How many. */
size_t est_megatron_list_attention(const struct est_megatron *run, uint64_t ret[EST_MEGATRON_WEIGHTS]);

/* ---- megatron_modules.c: Transformer Engine's modules */

/* numel elements of 16 bits that pass; the gathered form of what is split along the sequence (none where nothing is). */
struct est_tensor est_megatron_take(const struct est_megatron *run, uint64_t numel);
struct est_tensor est_megatron_gather(const struct est_megatron *run, uint64_t width);
/* What the ranks sum, of width features, and part of it where the sequence is split; whole moves in. */
struct est_tensor est_megatron_scatter(const struct est_megatron *run, uint64_t width, struct est_tensor whole);
void est_megatron_keep(struct est_megatron_layer *layer, enum est_megatron_kept what, struct est_tensor tensor);
void est_megatron_release(const struct est_megatron *run, struct est_megatron_layer *layer,
			  enum est_megatron_kept what);
/* The same in fp32. */
struct est_tensor est_megatron_take32(const struct est_megatron *run, uint64_t numel);
/* numel elements for what moves in: of a norm, or of a sum. */
struct est_tensor est_megatron_another(const struct est_megatron *run, uint64_t numel, struct est_tensor old);
/* Linear layers of column- and of row-parallel weights: in and out are widths of this rank. The gradient of a row-parallel one is
 * borrowed, that of a column-parallel one moves in. */
struct est_tensor est_megatron_column(const struct est_megatron *run, uint64_t in, uint64_t out);
struct est_tensor est_megatron_column_backward(const struct est_megatron *run, uint64_t in, struct est_tensor grad);
struct est_tensor est_megatron_row(const struct est_megatron *run);
struct est_tensor est_megatron_row_backward(const struct est_megatron *run, uint64_t in);
/* bias_dropout_add(): residual + y; y moves in. */
struct est_tensor est_megatron_add_residual(const struct est_megatron *run, struct est_tensor y);

#endif
