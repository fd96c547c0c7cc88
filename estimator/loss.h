/* Head and loss: from the last hidden state to the scalar that backward starts at. */
#ifndef EST_LOSS_H
#define EST_LOSS_H

#include "estimator/pass.h"

/* LlamaForCausalLM.forward after the model: lm_head, scaling or soft-capping of the logits, ForCausalLMLoss, accelerate's
 * convert_outputs_to_fp32. hidden moves in; ends the autocast region. Returns the loss (held). */
struct est_tensor est_causal_lm_loss(struct est_pass *pass, struct est_tensor hidden);

#endif
