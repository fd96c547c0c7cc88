/* torchtune's own modules (torchtune/modules, as of 0.4 and after 0.6), as its single-device recipes run them. */
#ifndef EST_TORCHTUNE_H
#define EST_TORCHTUNE_H

#include "estimator/pass.h"

/* The model as torchtune's builders make it of the same checkpoint. */
struct est_model est_torchtune_model(const struct est_model *model);
/* As est_litgpt_refuses(). */
const char *est_torchtune_refuses(const struct est_request *request, const struct est_model *model,
				  const char **ret_field);
/* The rotary embedding's cache: cos and sin of all positions, one for all layers. */
void est_torchtune_build_rope(struct est_pass *pass);
est_layer_function est_torchtune_layer;
est_norm_function est_torchtune_norm;
/* CEWithChunkedOutputLoss over eight chunks of the head's output, or CrossEntropyLoss over fp32 logits. hidden moves
 * in; the loss is held. */
struct est_tensor est_torchtune_loss(struct est_pass *pass, struct est_tensor hidden);

#endif
