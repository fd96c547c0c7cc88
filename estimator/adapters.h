/* Which parameters a method trains, and how many. */
#ifndef EST_ADAPTERS_H
#define EST_ADAPTERS_H

#include <stdint.h>
#include "estimator/model.h"
#include "estimator/request.h"

/* Parameters that LoRA adds and trains: r * (in + out) for every linear module that is a target (DoRA: + out), and
 * full copies of the embedding or head in modules_to_save. "all-linear" is every linear module but the head. A target
 * is the last part of a module's name in Transformers ("q_proj", "c_attn"); one that the model lacks adds nothing. */
int64_t est_lora_parameters(const struct est_model *model, const struct est_lora *lora);

/* Whether PEFT 0.21 wraps the experts' fused weights too: "all-linear" does, where the class says how they are laid out. */
bool est_adapts_experts(const struct est_model *model, const struct est_names *targets);

/* Parameters with a gradient: all of them, the adapters, or (freeze) the last layers and the head, which is the embedding
 * where they are tied. */
int64_t est_trainable_parameters(const struct est_request *request, const struct est_model *model);

#endif
