/* Head and loss: from the last hidden state to the scalar that backward starts at. */
#ifndef EST_LOSS_H
#define EST_LOSS_H

#include "estimator/pass.h"

/* LlamaForCausalLM.forward after the model: lm_head, scaling or soft-capping of the logits, ForCausalLMLoss,
 * accelerate's convert_outputs_to_fp32. hidden moves in; ends the autocast region. Returns the loss (held). */
struct est_tensor est_causal_lm_loss(struct est_pass *pass, struct est_tensor hidden);

/* TRL's SFTTrainer on its fused head (loss_chunked.c): log-probabilities in tiles, no logits. As above. */
struct est_tensor est_chunked_loss(struct est_pass *pass, struct est_tensor hidden);

/* prime-rl's fused head (loss_vocabulary.c): log-probabilities of all positions, a chunk of words at a time. As
 * above. */
struct est_tensor est_vocabulary_loss(struct est_pass *pass, struct est_tensor hidden);

/* Liger's lce_forward (loss_liger.c): head, loss and their gradients in one forward, a chunk of positions at a time.
 * As above. */
struct est_tensor est_liger_loss(struct est_pass *pass, struct est_tensor hidden);

/* Apple's cut cross entropy (loss_cut.c): neither logits nor their gradient reach memory. As above. */
struct est_tensor est_cut_loss(struct est_pass *pass, struct est_tensor hidden);

/* F.cross_entropy(logits.float()) within loss_parallel() (loss_parallel.c), of this rank's words; logits are
 * borrowed. Returns the loss (held). */
struct est_tensor est_parallel_loss(struct est_pass *pass, struct est_tensor logits);

/* The loss that the request names. As above. */
struct est_tensor est_loss(struct est_pass *pass, struct est_tensor hidden);

/* ---- pieces of these */

/* The head's input: marks the loss's forward, and, when its gradient arrives, the end of the loss's backward. x
 * moves in: the result (temporary) is its reference. Marks nothing under no_grad. */
struct est_tensor est_head_input(struct est_tape *tape, struct est_tensor x);

/* The head's parameters are read, not by its own forward: where sharding has to notice. */
void est_read_head(const struct est_pass *pass);

/* The frame of a loss that is made of the head's input at once: its marks, and the end of the autocast region. make
 * borrows its argument and gives the loss. hidden moves in, the result is held. */
struct est_tensor est_loss_at_once(struct est_pass *pass, struct est_tensor hidden,
				   struct est_tensor (*make)(struct est_pass *pass, struct est_tensor hidden));

/* x.sum(), x.mean() and the like: a scalar whose gradient is expanded without memory. x is released when temporary. */
struct est_tensor est_sum(struct est_tape *tape, struct est_tensor x);

/* Positions once labels are shifted: all but the last of each sequence; and those of them with a label:
 * completion_fraction of all tokens at most. Never 0. */
uint64_t est_shifted_positions(const struct est_pass *pass);
uint64_t est_labelled_positions(const struct est_pass *pass);

/* logits after their scaling or capping, as they leave the model's forward (held). hidden moves in; ends the
 * autocast region. */
struct est_tensor est_full_logits(struct est_pass *pass, struct est_tensor hidden);
/* F.cross_entropy in the logits' dtype. Both are borrowed. */
struct est_tensor est_cross_entropy(struct est_tape *tape, struct est_tensor logits, struct est_tensor labels);
/* ORPOTrainer (loss_orpo.c): full logits of chosen and rejected. As the losses above. */
struct est_tensor est_orpo_loss(struct est_pass *pass, struct est_tensor hidden);

/* What TRL's fused head is asked for beside log-probabilities: nothing, entropies, and these with whether the label
 * was the likeliest word, or with the mean logit. */
enum est_fused_metrics { EST_METRICS_NONE, EST_METRICS_ENTROPY, EST_METRICS_TOP1, EST_METRICS_MEAN_LOGITS };
/* What it returns, a value for each position but the last of a sequence; the gradient goes by log_probs. All held. */
struct est_fused_output {
	struct est_tensor log_probs, entropy, metric;
	struct est_tensor aux_loss; /* of the routers, a scalar; or none */
};

/* model(..., fused_lm_head=True) after the decoder. hidden moves in; ends the autocast region. */
struct est_fused_output est_fused_lm_head(struct est_pass *pass, struct est_tensor hidden,
					  enum est_fused_metrics metrics);
/* loss, a temporary scalar, with the routers' part added. */
struct est_tensor est_add_router_loss(struct est_tape *tape, struct est_tensor loss, const struct est_fused_output *output);
void est_fused_output_drop(struct est_tape *tape, const struct est_fused_output *output);

/* How many positions Liger's loss takes at once: pow2ceil(positions / ceil(vocabulary / hidden)), at most all. */
uint64_t est_liger_chunk(uint64_t positions, uint64_t vocabulary, uint64_t hidden);

#endif
