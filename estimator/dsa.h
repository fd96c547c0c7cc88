/* DeepSeek's sparse attention (DSA) on top of latent attention. */
#ifndef EST_DSA_H
#define EST_DSA_H

#include "estimator/pass.h"

/* The mask of a layer's attention, held: of the tokens that its indexer chose, or, in a layer that has none, that of
 * the layer before (pass->topk_indices). x, and q_resid, queries in their compressed form, are borrowed. ret_frame:
 * the indices and their mask, held by the caller's frame to its end. */
struct est_tensor est_choose_tokens(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x,
				    struct est_tensor q_resid, struct est_tensor ret_frame[2]);

#endif
