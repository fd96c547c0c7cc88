/* LitGPT's own model code: litgpt/model.py, litgpt/lora.py and the losses of litgpt/finetune, as of its releases of
 * 2024. */
#ifndef EST_LITGPT_H
#define EST_LITGPT_H

#include "estimator/pass.h"

/* ---- litgpt.c */

/* The model as LitGPT's GPT builds it from the same checkpoint: q, k and v fused, nothing tied. */
struct est_model est_litgpt_model(const struct est_model *model);
/* Why LitGPT's code is not modelled for this request, NULL when it is; *ret_field says which field is to blame, NULL
 * the model. */
const char *est_litgpt_refuses(const struct est_request *request, const struct est_model *model,
			       const char **ret_field);
/* cos and sin, which the module keeps in fp32. */
void est_litgpt_build_rope(struct est_pass *pass);
est_layer_function est_litgpt_layer;
est_norm_function est_litgpt_norm;

/* ---- litgpt_lora.c */

/* lora_query, lora_key, lora_value, lora_projection, lora_mlp and lora_head, as target_modules say them by any name
 * that the modules have in Transformers. */
enum est_litgpt_part {
	EST_LITGPT_QUERY = 1, EST_LITGPT_KEY = 2, EST_LITGPT_VALUE = 4, EST_LITGPT_PROJECTION = 8, EST_LITGPT_MLP = 16,
	EST_LITGPT_HEAD = 32
};
/* Bits of enum est_litgpt_part; *ret_unknown is the first name that is none of them, or NULL. */
unsigned est_litgpt_parts(const struct est_names *targets, const char **ret_unknown);
/* Elements of all lora_A and lora_B. model is est_litgpt_model()'s. */
int64_t est_litgpt_lora_parameters(const struct est_model *model, const struct est_lora *lora);
/* LoRALinear and LoRAQKVLinear. False when the arena is too small. */
bool est_litgpt_lora_build(struct est_pass *pass);

/* ---- litgpt_loss.c */

/* The head in chunks of 128 positions and chunked_cross_entropy() over them (adapters), or whole logits, cross
 * entropy in chunks of 128 rows. hidden moves in; the loss is held. */
struct est_tensor est_litgpt_loss(struct est_pass *pass, struct est_tensor hidden);
/* What the training loop still holds of a batch before that is as long: from its backward until the next forward is
 * through. */
void est_litgpt_hold_previous(struct est_pass *pass);
void est_litgpt_drop_previous(struct est_pass *pass);
/* Its bytes: so much less is alive when that batch was short. */
uint64_t est_litgpt_leftover(const struct est_request *request, const struct est_model *model);

#endif
