/* Kimi Delta Attention's rule, chunk by chunk. */
#ifndef EST_KIMI_DELTA_H
#define EST_KIMI_DELTA_H

#include "estimator/pass.h"

/* chunk_kimi_delta_attention(): q, k and v (views), beta of each head and g, the decays of each feature, all borrowed -> what the heads
 * give, held, in the dtype of q. */
struct est_tensor est_chunk_kimi_delta(struct est_pass *pass, const struct est_tensor qkv[3], struct est_tensor beta,
				       struct est_tensor g);

#endif
