/* Operators of rules that scan a sequence in chunks: the gated delta rule (delta_net.c) and Kimi's (kimi_delta.c). As in
 * ops.h, arguments are released when temporary and results are temporary, but where it says otherwise. */
#ifndef EST_CHUNKS_H
#define EST_CHUNKS_H

#include "estimator/recurrent.h"

enum { EST_CHUNK = 64 }; /* positions of a chunk */

/* base[:, :, i] = x; base moves in, the result is held. others: elements that the chunks which are run as this one
 * keep beside it */
struct est_tensor est_copy_into_slice(struct est_tape *tape, struct est_tensor base, struct est_tensor x, uint64_t others);
/* a @ b of chunks, or of one: both are seen as stacks of matrices, so that gradients are views. Both are borrowed. */
struct est_tensor est_chunk_product(struct est_tape *tape, struct est_tensor a, struct est_tensor b, uint64_t numel);
/* x[..., i, ...] of numel elements; x is borrowed. */
struct est_tensor est_part(struct est_tape *tape, struct est_tensor x, uint64_t numel);
/* x.unsqueeze(), which is borrowed. */
struct est_tensor est_unsqueezed(struct est_tape *tape, struct est_tensor x);
/* A variable that is given up to the operator that takes it. */
struct est_tensor est_give_up(struct est_tensor x);

#endif
