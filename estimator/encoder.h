/* Models that are no causal decoders: encoders (BERT and its kin) and pairs of an encoder and a decoder (T5). */
#ifndef EST_ENCODER_H
#define EST_ENCODER_H

#include "estimator/pass.h"

/* Builds the parameters of body and head in the constructor's order. */
void est_encoder_build(struct est_pass *pass);

/* input_ids -> last hidden state (held), which the head of the task takes. */
struct est_tensor est_encoder_forward(struct est_pass *pass);

/* ---- bert.c, modernbert.c, deberta.c, t5.c */

struct est_tensor est_bert_forward(struct est_pass *pass);
struct est_tensor est_modernbert_forward(struct est_pass *pass);
struct est_tensor est_deberta_forward(struct est_pass *pass);
struct est_tensor est_t5_forward(struct est_pass *pass);

/* DisentangledSelfAttention; x is borrowed. */
est_layer_function est_disentangled_attention;

/* ---- t5_bias.c */

/* The position bias of a stack of pass->sequence positions, [1, heads, length, length] as a permuted view; held. The
 * leaf is the stack's nn.Embedding of buckets. */
struct est_tensor est_position_bias(struct est_pass *pass, uint32_t relative_attention_bias, bool is_decoder);

/* ---- encoder_attention.c */

/* masking_utils.create_bidirectional_mask over a padded batch: booleans [batch, 1, queries, keys], or, for eager
 * attention, additive in element bytes. est_none without padding. Held. */
struct est_tensor est_bidirectional_mask(struct est_pass *pass, uint64_t queries, uint64_t keys, uint8_t element);

/* x.view(batch, length, heads, head_dim).transpose(1, 2) of a projection: its gradient comes back permuted unless a
 * fused kernel takes it as it is. x is released when temporary. */
struct est_tensor est_encoder_heads(struct est_pass *pass, struct est_tensor x);

/* eager_attention_forward of BERT and T5: softmax in the scores' own dtype. bias and mask are added when they have
 * elements; keys is the length of k and v, joined whether they are copies of a cache. All tensors are borrowed; the
 * probabilities stay in pass->attn_weights. */
struct est_tensor est_eager_scores(struct est_pass *pass, const struct est_tensor qkv[3], uint64_t keys, bool joined,
				   struct est_tensor bias, struct est_tensor mask);

/* Memory-efficient attention with an additive mask that may require a gradient: [rows, heads, queries, keys], where
 * rows is 1 or the batch. All tensors are borrowed. */
struct est_tensor est_biased_attention(struct est_pass *pass, const struct est_tensor qkv[3], uint64_t keys,
				       struct est_tensor bias);

/* torch.where(condition, x, a number): numel elements; condition (held) is kept for the gradient. x is released when
 * temporary. */
struct est_tensor est_where(struct est_tape *tape, struct est_tensor condition, struct est_tensor x, uint64_t numel);

#endif
