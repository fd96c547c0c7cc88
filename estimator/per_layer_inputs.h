/* A second input of each layer beside the stream (hidden_size_per_layer_input). Nothing is done for models without. */
#ifndef EST_PER_LAYER_INPUTS_H
#define EST_PER_LAYER_INPUTS_H

#include "estimator/pass.h"

/* embed_tokens_per_layer, per_layer_model_projection, per_layer_projection_norm. */
void est_per_layer_inputs_build(struct est_pass *pass);

/* Looks up input_ids in the second embedding, and makes pass->per_layer_inputs of that and of inputs_embeds (borrowed), unless the model
 * around the language model does the former: then ret[] is what its frame holds. */
void est_per_layer_embed(struct est_pass *pass, struct est_tensor inputs_embeds, struct est_tensor ret[2]);
/* Makes pass->per_layer_inputs after the masks, where that was left. */
void est_per_layer_project(struct est_pass *pass, struct est_tensor inputs_embeds, const struct est_tensor embedded[2]);
/* The model's forward ends. */
void est_per_layer_drop(struct est_pass *pass, const struct est_tensor embedded[2]);

/* Before the first layer that takes keys and values of others the model cuts its inputs to the positions whose logits are wanted,
 * which in training are all. x, held, moves in and out. */
void est_enter_shared_layers(struct est_pass *pass, int64_t layer, struct est_tensor *x);
/* What one layer is given: a view, held, whose gradient is zeros of all layers with this one's filled in. */
struct est_tensor est_per_layer_input(struct est_pass *pass);
/* norm(projection(act(gate(x)) * per_layer_input)) */
struct est_tensor est_gate_per_layer_input(struct est_pass *pass, const struct est_layer *layer, struct est_tensor per_layer_input,
					   struct est_tensor x);

/* Refuses what is not modelled of such models, and a step that PyTorch would refuse. */
void est_per_layer_check(const struct est_request *request, const struct est_model *model, struct est_faults *faults);

#endif
