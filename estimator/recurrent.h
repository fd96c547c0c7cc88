/* Operators of layers that are no attention: causal convolutions, state spaces, linear attention. As in ops.h,
 * arguments are released when temporary and results are temporary. */
#ifndef EST_RECURRENT_H
#define EST_RECURRENT_H

#include "estimator/pass.h"

/* The variables of a function's frame that live to its end. */
enum { EST_VARIABLES = 24 };
struct est_variables {
	struct est_tensor tensor[EST_VARIABLES];
	unsigned count;
};

/* x as a variable: held. */
struct est_tensor est_keep(struct est_variables *variables, struct est_tensor x);
void est_variables_drop(struct est_tape *tape, const struct est_variables *variables);

/* torch.exp, which keeps its result; torch.log and F.softplus, which keep their input. Autocast runs them in fp32. */
struct est_tensor est_exp(struct est_tape *tape, struct est_tensor x);
struct est_tensor est_log(struct est_tape *tape, struct est_tensor x);
struct est_tensor est_softplus(struct est_tape *tape, struct est_tensor x);
/* torch.sqrt, which keeps its result. */
struct est_tensor est_sqrt(struct est_tape *tape, struct est_tensor x);
/* torch.where(condition, a, b) of one size: keeps the condition. */
struct est_tensor est_where_both(struct est_tape *tape, struct est_tensor condition, struct est_tensor a, struct est_tensor b);
/* -x */
struct est_tensor est_neg(struct est_tape *tape, struct est_tensor x);
/* torch.clamp with one bound or two: its backward makes a mask for each. */
struct est_tensor est_clamp(struct est_tape *tape, struct est_tensor x, unsigned bounds);
/* x.sum(-1): rows results, in the operand's dtype; the gradient is expanded. */
struct est_tensor est_sum_last(struct est_tape *tape, struct est_tensor x, uint64_t rows);
/* Each of a less each of b, numel differences: both gradients are sums. a and b are borrowed. */
struct est_tensor est_sub_outer(struct est_tape *tape, struct est_tensor a, struct est_tensor b, uint64_t numel);
/* x.cumsum(): the gradient is summed up backwards, in two flipped copies. Autocast runs it in fp32. */
struct est_tensor est_cumsum(struct est_tape *tape, struct est_tensor x);
/* x.masked_fill(mask, number): keeps the mask, which is released when temporary. */
struct est_tensor est_masked_fill(struct est_tape *tape, struct est_tensor x, struct est_tensor mask);
/* F.pad to numel elements: a copy even where nothing is added. */
struct est_tensor est_pad(struct est_tape *tape, struct est_tensor x, uint64_t numel);
/* x.expand() to n times its elements: a view, whose gradient is summed. */
struct est_tensor est_expand(struct est_tape *tape, struct est_tensor x, uint64_t n);
/* x.repeat_interleave(n): a copy, for n = 1 too. */
struct est_tensor est_repeat_interleave(struct est_tape *tape, struct est_tensor x, uint64_t n);
/* A permuted operand that einsum or reshape copies: its gradient is a view of the copy's. x is borrowed. */
struct est_tensor est_permuted_copy(struct est_tape *tape, struct est_tensor x);

/* apply_mask_to_padding_states(): x * attention_mask[:, :, None] in a padded batch, else x. */
struct est_tensor est_without_padding(struct est_pass *pass, struct est_tensor x);

/* causal_conv1d_fn(): F.conv1d of channels apart in the dtype of its weight, padded by conv_kernel - 1 positions and
 * cut to the sequence again; silu of it, if so told. Where causal-conv1d is installed: its kernel. x, permuted, is
 * borrowed. */
struct est_tensor est_causal_conv(struct est_pass *pass, const struct est_mixer *mixer, struct est_tensor x,
				  bool activates);

#endif
