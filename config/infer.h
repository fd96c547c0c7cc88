/* The shape of a model of which little more than its size is known. Used by custom.c only. */
#ifndef CFG_INFER_H
#define CFG_INFER_H

#include "config/config.h"

/* Fills the members of *model that are 0 (hidden_size, num_hidden_layers, num_attention_heads, num_key_value_heads,
 * head_dim, intermediate_size, vocab_size) so that the shape looks like Llama's of that size and counts parameters
 * (1e5 to 1e13), within 2 % where the members that are given leave the room. */
void cfg_infer_shape(struct est_model *model, double parameters);

#endif
