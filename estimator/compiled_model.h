/* A whole model as torch.compile runs it, its loss within: one graph forward, one backward. compiled_forward.c tells what is
 * kept between the two; compiled_backward.c what the second makes of it. Both were read off the code that torch 2.13's
 * inductor generates for Transformers 5.23 (docs/accuracy.md, "Compiled whole, traced"). */
#ifndef EST_COMPILED_MODEL_H
#define EST_COMPILED_MODEL_H

#include "estimator/attention.h"
#include "estimator/compiled_plan.h"

/* A layer's buffers. KEYS and VALUES are repeated for all heads; MIDDLE is the stream between attention and MLP;
 * ATTENDED_COPY is what an adapter of 32 bits on o_proj multiplies. */
enum est_compiled_buffer {
	EST_C_X, EST_C_RSTD, EST_C_NORMED, EST_C_QUERY, EST_C_KEY, EST_C_VALUE, EST_C_QUERY_RSTD, EST_C_KEY_RSTD,
	EST_C_QUERY_ROTATED, EST_C_KEYS, EST_C_VALUES, EST_C_ATTENDED, EST_C_LOGSUMEXP, EST_C_ATTENDED_COPY, EST_C_MIDDLE,
	EST_C_RSTD_AGAIN, EST_C_NORMED_AGAIN, EST_C_GATE, EST_C_UP, EST_C_PRODUCT, EST_C_DOWN, EST_C_BUFFERS
};

/* A layer's products. */
enum est_compiled_linear { EST_C_Q, EST_C_K, EST_C_V, EST_C_O, EST_C_GATE_PROJ, EST_C_UP_PROJ, EST_C_DOWN_PROJ, EST_C_LINEARS };

/* What a product keeps for its backward: autocast's copy of its weight, and of its adapter both copies, the narrow result,
 * and with dropout what is left of the input, and the mask of it, a byte an element. */
struct est_compiled_product {
	struct est_tensor weight, a, b, narrow, dropped, mask;
};

struct est_compiled_state {
	struct est_tensor buffer[EST_C_BUFFERS]; /* storage 0: not there */
	struct est_compiled_product product[EST_C_LINEARS];
};

struct est_compiled_model {
	struct est_pass *pass;
	struct est_compiled_state *layers;  /* and one more: X is the last one's output, NORMED the head's input */
	struct est_tensor *gradients;       /* by leaf; storage 0: none yet */
	struct est_compiled_state *before;  /* copies of layers, while a graph is counted */
	struct est_plan *plan;
	struct est_tensor mask, labels, logits, statistics[2];
	struct est_tensor outputs;          /* the logits as they leave the graph, where that is in 32 bits; or none */
	struct est_tensor zeros;            /* the gradient that autograd makes of them, as nobody else does */
	struct est_compiled_product head;
	uint8_t stream;                     /* bytes of an element of the residual stream: 4 where weights are of 32 bits */
	bool checkpoints;
	bool cudnn;                         /* attention is cuDNN's; else the memory-efficient kernel's */
	bool casts_outputs;                 /* convert_outputs_to_fp32() */
};

/* How far down a layer its gradients go: through all of it, but in the first layer of a model with adapters, whose
 * embedding is frozen. */
enum est_compiled_reach { EST_C_TO_DOWN, EST_C_TO_GATE, EST_C_TO_ATTENDED, EST_C_TO_HEADS, EST_C_TO_INPUT };

/* ---- compiled_buffers.c */

const struct est_linear *est_compiled_linear(const struct est_layer *layer, enum est_compiled_linear which);
/* Whether q and k are normed by themselves. */
bool est_compiled_has_head_norms(const struct est_compiled_model *model);
uint64_t est_compiled_size(const struct est_compiled_model *model, enum est_compiled_buffer which);
/* A temporary of a buffer's size. */
struct est_tensor est_compiled_like(const struct est_compiled_model *model, enum est_compiled_buffer which);
void est_compiled_make(const struct est_compiled_model *model, struct est_compiled_state *state, enum est_compiled_buffer which);
void est_compiled_drop(const struct est_compiled_model *model, struct est_compiled_state *state, enum est_compiled_buffer which);
/* to takes from's place. */
void est_compiled_reuse(const struct est_compiled_model *model, struct est_compiled_state *state, enum est_compiled_buffer from,
			enum est_compiled_buffer to);
enum est_compiled_reach est_compiled_reach(const struct est_compiled_model *model, const struct est_compiled_state *state);
/* Whether the gradient of a product's input is wanted. */
bool est_compiled_wants_input(const struct est_compiled_model *model, const struct est_compiled_state *state,
			      enum est_compiled_linear which);

/* ---- compiled_forward.c */

/* A layer from its X up to gate and up, and their product where that is wanted; kept: what stays, a bit a buffer. */
void est_compiled_forward(struct est_compiled_model *model, unsigned layer, uint32_t kept, bool multiplies);
/* From the tokens to the loss. */
void est_compiled_forward_graph(struct est_compiled_model *model);

/* ---- compiled_model.c */

/* Phases and layers, as est_mark() has them. */
void est_compiled_mark(const struct est_compiled_model *model, enum est_phase phase);
void est_compiled_mark_layer(const struct est_compiled_model *model, unsigned layer);
/* Runs a graph, of which inductor's plan is made first. */
void est_compiled_run(struct est_compiled_model *model, void (*graph)(struct est_compiled_model *model));

/* ---- compiled_backward.c */

extern const struct est_op est_compiled_model_op;

#endif
