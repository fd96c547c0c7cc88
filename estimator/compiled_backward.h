/* What the backward of a whole compiled model is made of (compiled_model.h): compiled_products.c has its products,
 * compiled_checkpoint.c a layer with its checkpoint, compiled_backward.c the others and both ends. */
#ifndef EST_COMPILED_BACKWARD_H
#define EST_COMPILED_BACKWARD_H

#include "estimator/compiled_model.h"

/* The gradient of the stream, and what products take in its place: autocast's copy in 16 bits, or, times an adapter's
 * scale (which may be 1), a second one. */
struct est_compiled_flow {
	struct est_compiled_model *model;
	struct est_tensor stream, second;
};

/* The gradient of a product's result: as it is for its weight, times the scale for its adapter. */
struct est_compiled_pair {
	struct est_tensor grad, scaled;
};

/* Of its input, in as many parts. */
struct est_compiled_parts {
	struct est_tensor part[2];
};

/* ---- compiled_products.c */

void est_compiled_release(const struct est_compiled_model *model, struct est_tensor *tensor);
/* Of 16 bits. */
struct est_tensor est_compiled_temporary(const struct est_compiled_model *model, uint64_t numel);
bool est_compiled_trains(const struct est_compiled_model *model, uint32_t leaf);
/* A parameter's gradient, where it is trained. */
void est_compiled_train(struct est_compiled_model *model, uint32_t leaf);
/* A product of 16 bits, which is the gradient itself (none is returned then) unless the parameter is of 32; its cast. */
struct est_tensor est_compiled_begin_training(struct est_compiled_model *model, uint32_t leaf);
void est_compiled_end_training(struct est_compiled_model *model, uint32_t leaf, struct est_tensor product);
/* Both, of a layer's linear and its bias. */
void est_compiled_train_linear(struct est_compiled_model *model, struct est_compiled_state *state, enum est_compiled_linear which);
bool est_compiled_adapts(const struct est_compiled_model *model, const struct est_compiled_state *state,
			 enum est_compiled_linear which);
/* The gradients of weight and adapter, and of the input where it is wanted, of the size of input, which goes where it is
 * the last that needs it. */
struct est_compiled_parts est_compiled_through(struct est_compiled_model *model, struct est_compiled_state *state,
					       enum est_compiled_linear which, enum est_compiled_buffer input, bool last);
struct est_compiled_pair est_compiled_pair_like(const struct est_compiled_model *model, const struct est_compiled_state *state,
						enum est_compiled_linear which, enum est_compiled_buffer like);
void est_compiled_drop_pair(const struct est_compiled_model *model, struct est_compiled_pair *pair);
void est_compiled_drop_parts(const struct est_compiled_model *model, struct est_compiled_parts *parts);
/* The memory-efficient kernel: gradients of q, and of k and v of all heads; it may be given a copy of the mask for each
 * head. */
void est_compiled_through_attention(struct est_compiled_model *model, struct est_compiled_state *state, bool copies_mask,
				    struct est_tensor ret[3]);

/* ---- compiled_checkpoint.c */

/* A layer whose forward is made again first. */
void est_compiled_through_checkpoint(struct est_compiled_flow *flow, unsigned layer);
/* The last layer's, up to its output, which the final norm's backward needs. */
void est_compiled_recompute_last(struct est_compiled_model *model);

/* ---- compiled_backward.c */

/* A norm's: the stream's gradient in its own place, and what the product below takes of it. */
void est_compiled_through_norm(struct est_compiled_flow *flow, const struct est_norm_weights *norm, bool scaled);

#endif
