/* Which parameters a method trains, and how many. */
#ifndef EST_ADAPTERS_H
#define EST_ADAPTERS_H

#include <stdint.h>
#include "estimator/architecture.h"

/* Parameters that LoRA adds and trains: r * (in + out) for every linear module that is a target (DoRA: + out), and
 * full copies of the embedding or head in modules_to_save. "all-linear" is every linear module but the head. A target
 * is the last part of a module's name in Transformers ("q_proj", "c_attn"); one that the model lacks adds nothing. */
int64_t est_lora_parameters(const struct est_model *model, const struct est_lora *lora);
/* The same for the model's vision tower. */
int64_t est_lora_tower_parameters(const struct est_model *model, const struct est_lora *lora);

/* Whether modules_to_save name the embedding, or the head, as the model's class calls it (GPT-NeoX's head was embed_out before
 * Transformers 5). PEFT passes over a name that no module has. */
bool est_saves_embedding(const struct est_model *model, const struct est_names *saved);
bool est_saves_head(const struct est_model *model, const struct est_names *saved);

/* Whether targets name a module (or are "all-linear"). */
bool est_is_target(const struct est_names *targets, const char *name);

/* Whether PEFT adapts a linear layer or router of the model. "all-linear" is every linear layer but the head; where
 * PEFT 0.21 knows that Transformers 5 has fused a family's experts, it is the fused weights and the router too, and
 * the names of an MLP's layers mean the experts alone. */
bool est_is_adapted(const struct est_model *model, const struct est_names *targets, const struct est_module *module);
/* Whether PEFT adapts a part of a vision tower: linear layers, and convolutions by their names. */
bool est_is_part_adapted(const struct est_names *targets, const struct est_vision_part *part);
/* The experts' fused weights. */
bool est_adapts_gate_up(const struct est_model *model, const struct est_names *targets);
bool est_adapts_down(const struct est_model *model, const struct est_names *targets);
/* Whether targets name any of these, experts or router, whole or in part. */
bool est_adapts_parameters(const struct est_model *model, const struct est_names *targets);

/* accelerate's fsdp2_prepare_model(): under mixed precision adapters become fp32 whatever they were, but in a model with Params4bit. */
bool est_upcasts_adapters(const struct est_request *request);

/* Parameters with a gradient: all of them, the adapters, or (freeze) the last layers and the head, which is the
 * embedding where they are tied. */
int64_t est_trainable_parameters(const struct est_request *request, const struct est_model *model);

#endif
