/* Optimizers: the states they keep and what their step allocates on the way. THEORY 5, TRACED 2; checked event by event
 * against traces of torch 2.13, transformers 5.23, bitsandbytes 0.50, torchao 0.18, galore-torch 1.0 and apollo-torch
 * 1.0.
 *
 * With bf16_master and fp16_master the optimizer steps an fp32 copy of each parameter with an fp32 gradient, as
 * DeepSpeed does: states that follow the parameter's dtype are fp32 then, those of bitsandbytes and Adafactor are
 * what they always are. A parameter keeps its shape, but where it lies in a flat one (FSDP1, ZeRO): that is a vector to all of
 * them. */
#ifndef EST_OPTIMIZER_H
#define EST_OPTIMIZER_H

#include "estimator/request.h"
#include "estimator/tape.h"

/* Whether the optimizer, after the backward, steps a rank's parts of parameters as traces of the strategy do: torch.optim's AdamW and SGD everywhere; on the
 * card torchao's too, Muon those of FSDP2, and, of flat parameters, those of bitsandbytes and Adafactor. */
bool est_optimizer_steps_parts(const struct est_request *request);
/* Why the optimizer's first step fails over DTensors, FSDP2's parameters; NULL: it does not. */
const char *est_optimizer_refuses_dtensors(enum est_optimizer optimizer);

/* Why the first step fails where a parameter is a part of a flat one, a vector (FSDP1, ZeRO); NULL: it does not. */
const char *est_optimizer_refuses_vectors(enum est_optimizer optimizer);

/* The strategy that shares all there is, as the optimizer can step it: zero3, which is the contract's default; else fsdp; else ddp, which
 * shares nothing. */
enum est_strategy est_optimizer_sharing(enum est_optimizer optimizer);

/* What is allocated before training: fp32 master weights with EST_BF16_MASTER and EST_FP16_MASTER. */
void est_optimizer_load(struct est_tape *tape, const struct est_request *request);
/* With fuse_optimizer_in_backward: from now on every parameter has an optimizer of its own that steps it, and drops
 * its gradient, as soon as that has arrived. request has to live as long as the tape. */
void est_optimizer_fuse(struct est_tape *tape, const struct est_request *request);
/* What a step holds from its clipping to its update. */
struct est_update {
	struct est_tensor *grads32; /* gradients of the master weights */
	bool has_grads32;           /* they are there before the step, which makes none */
};

/* The three parts of a step over all trainable parameters of the tape: clip_grad_norm_(); the states, made by the first
 * step; optimizer.step()'s temporaries and zero_grad(set_to_none=True). Nothing is left to do for the first and the
 * last with fuse_optimizer_in_backward. */
void est_optimizer_clip(struct est_tape *tape, const struct est_request *request, struct est_update *update);
void est_optimizer_states(struct est_tape *tape, const struct est_request *request);
void est_optimizer_update(struct est_tape *tape, const struct est_request *request, struct est_update *update);

/* The step of one parameter alone, beside its gradient: its temporaries. */
void est_optimizer_step_one(struct est_tape *tape, const struct est_request *request, const struct est_leaf *leaf);

/* What gradients and states of the parameters that the forward did not run would take at most, if it ran them. */
uint64_t est_optimizer_idle(const struct est_tape *tape, const struct est_request *request);

#endif
