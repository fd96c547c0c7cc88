/* Optimizers: the states they keep and what their step allocates on the way. THEORY 5, TRACED 2. */
#ifndef EST_OPTIMIZER_H
#define EST_OPTIMIZER_H

#include "estimator/request.h"
#include "estimator/tape.h"

/* What is allocated before training: fp32 master weights with EST_BF16_MASTER and EST_FP16_MASTER. */
void est_optimizer_load(struct est_tape *tape, const struct est_request *request);
/* What a step holds from its clipping to its update. */
struct est_update {
	struct est_tensor *grads32; /* gradients of the master weights */
};

/* The three parts of a step over all trainable parameters of the tape: clip_grad_norm_(); the states, made by the first
 * step; optimizer.step()'s temporaries and zero_grad(set_to_none=True). */
void est_optimizer_clip(struct est_tape *tape, const struct est_request *request, struct est_update *update);
void est_optimizer_states(struct est_tape *tape, const struct est_request *request);
void est_optimizer_update(struct est_tape *tape, const struct est_request *request, struct est_update *update);

#endif
