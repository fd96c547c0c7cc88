/* Pieces of Gemma-4's modelling code that Gemma-3n's has too. */
#ifndef EST_GEMMA4_H
#define EST_GEMMA4_H

#include "estimator/pass.h"

/* key_states and value_states of a layer that has its own, held; x is borrowed. */
typedef void est_states_function(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x, struct est_tensor ret[2]);

/* self_attn: keys and values are the layer's own, which it may leave to others, or those that another left. x is borrowed. */
struct est_tensor est_share_attention(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x,
				      est_states_function *make_states);
/* apply_rotary_pos_emb(norm(x)) of heads; x, held, moves in, the result is held. */
struct est_tensor est_gemma4_heads(struct est_pass *pass, const struct est_layer *layer, const struct est_norm_weights *norm,
				   struct est_tensor x);
/* v_norm, which has no weight, of v_proj's result v, which moves in; held. */
struct est_tensor est_gemma4_values(struct est_pass *pass, const struct est_layer *layer, struct est_tensor v);

#endif
