/* Liger's kernels in place of the modelling code's operators (liger_kernel 0.8.5: ops/rms_norm.py, swiglu.py,
 * geglu.py, rope.py). */
#ifndef EST_LIGER_H
#define EST_LIGER_H

#include "estimator/pass.h"

/* LigerRMSNorm: keeps its input and 4 bytes a row; the input's gradient overwrites the output's when in_place. x is
 * released when temporary. */
struct est_tensor est_liger_norm(struct est_pass *pass, const struct est_norm_weights *norm, struct est_tensor x,
				 bool in_place);
/* The same of heads that are permuted already (Gemma 3): of a contiguous copy, which is kept in x's stead; not in
 * place. */
struct est_tensor est_liger_head_norm(struct est_pass *pass, const struct est_norm_weights *norm, struct est_tensor x);
/* act(gate) * up: keeps both, and writes their gradients over them; of halves of one tensor it makes copies first.
 * Both are released when temporary. */
struct est_tensor est_liger_gate(struct est_tape *tape, struct est_tensor gate, struct est_tensor up, bool halves);
/* apply_rotary_pos_emb in place: ret[0], ret[1] (held) lie where q and k do, or in copies where those are no
 * contiguous rows. q and k are borrowed. */
void est_liger_rope(struct est_pass *pass, const struct est_rope *rope, struct est_tensor q, struct est_tensor k,
		    struct est_tensor ret[2]);
/* Why Liger's kernels are not replayed for this model, to follow the field's name; NULL where they are. */
const char *est_liger_refuses(const struct est_request *request, const struct est_model *model);

#endif
