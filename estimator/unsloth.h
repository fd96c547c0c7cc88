/* framework unsloth: the forward that Unsloth puts in the place of Llama's and its kin's. */
#ifndef EST_UNSLOTH_H
#define EST_UNSLOTH_H

#include "estimator/pass.h"

bool est_unsloth_wanted(const struct est_request *request);
/* Why the patched forward is not replayed for the request, a clause about framework unsloth; NULL when it is. */
const char *est_unsloth_refuses(const struct est_request *request, const struct est_model *model);

/* What it keeps for the whole run: angles of all positions, the buffer that weights are dequantised into, those that
 * bring checkpoints back from the host. */
void est_unsloth_load(struct est_pass *pass);
/* Whether the input of a layer's checkpoint waits on the host: not the last's, nor a small one's. */
bool est_unsloth_offloads(const struct est_pass *pass, int64_t layer);

/* LlamaDecoderLayer_fast_forward */
est_layer_function est_unsloth_layer;
/* fast_rms_layernorm */
est_norm_function est_unsloth_norm;
/* unsloth_fused_ce_loss (loss_unsloth.c); as the losses of loss.h. */
struct est_tensor est_unsloth_loss(struct est_pass *pass, struct est_tensor hidden);
/* Bytes that it takes beyond the replayed ones where it cannot be compiled. */
uint64_t est_unsloth_surplus(const struct est_pass *pass);

#endif
