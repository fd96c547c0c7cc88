/* Head and loss: from the last hidden state to the scalar that backward starts at. */
#ifndef EST_LOSS_H
#define EST_LOSS_H

#include "estimator/pass.h"

/* LlamaForCausalLM.forward after the model: lm_head, scaling or soft-capping of the logits, ForCausalLMLoss, accelerate's
 * convert_outputs_to_fp32. hidden moves in; ends the autocast region. Returns the loss (held). */
struct est_tensor est_causal_lm_loss(struct est_pass *pass, struct est_tensor hidden);

/* TRL's SFTTrainer on its fused head (loss_chunked.c): log-probabilities in tiles, no logits. As above. */
struct est_tensor est_chunked_loss(struct est_pass *pass, struct est_tensor hidden);

/* Liger's lce_forward (loss_liger.c): head, loss and their gradients in one forward, a chunk of positions at a time. As above. */
struct est_tensor est_liger_loss(struct est_pass *pass, struct est_tensor hidden);

/* Apple's cut cross entropy (loss_cut.c): neither logits nor their gradient reach memory. As above. */
struct est_tensor est_cut_loss(struct est_pass *pass, struct est_tensor hidden);

/* The loss that the request names. As above. */
struct est_tensor est_loss(struct est_pass *pass, struct est_tensor hidden);

/* ---- pieces of these */

/* The head's input: marks the loss's forward, and, when its gradient arrives, the end of the loss's backward. x moves in: the
 * result (temporary) is its reference. Marks nothing under no_grad. */
struct est_tensor est_head_input(struct est_tape *tape, struct est_tensor x);

/* x.sum(), x.mean() and the like: a scalar whose gradient is expanded without memory. x is released when temporary. */
struct est_tensor est_sum(struct est_tape *tape, struct est_tensor x);

/* Positions once labels are shifted: all but the last of each sequence; and those of them with a label: completion_fraction of all
 * tokens at most. Never 0. */
uint64_t est_shifted_positions(const struct est_pass *pass);
uint64_t est_labelled_positions(const struct est_pass *pass);

/* What TRL's fused head returns, per position but the last: fp32 log-probabilities (which lead to the gradient), entropies and
 * whether the label was the likeliest token. All held. */
struct est_fused_output {
	struct est_tensor log_probs, entropy, is_top1;
};

/* model(..., fused_lm_head=True) after the decoder. hidden moves in; ends the autocast region. with_metrics: entropy and is_top1
 * are wanted too. */
struct est_fused_output est_fused_lm_head(struct est_pass *pass, struct est_tensor hidden, bool with_metrics);
void est_fused_output_drop(struct est_tape *tape, const struct est_fused_output *output);

/* How many positions Liger's loss takes at once: pow2ceil(positions / ceil(vocabulary / hidden)), at most all. */
uint64_t est_liger_chunk(uint64_t positions, uint64_t vocabulary, uint64_t hidden);

#endif
