/* What releases of Transformers before 5 do otherwise: read in the source of 4.48.3 to 4.57.3, release by release. One
 * predicate a difference; those of 4.x hold for a version that is named only, as an absent one is the newest. */
#ifndef EST_GENERATION_H
#define EST_GENERATION_H

#include "estimator/model.h"
#include "estimator/request.h"

/* Qwen before Transformers had it (4.37): its checkpoints brought their own code (qwen.c). */
bool est_is_first_qwen(const struct est_versions *versions, const struct est_model *model);
struct est_model est_qwen_model(const struct est_model *model);

/* A release before 5 is named. */
bool est_is_old_transformers(const struct est_versions *versions);

/* Whether bitsandbytes is kept from a model's linear layers: Transformers 5 replaces what is a nn.Linear by its very type, and not
 * Falcon's layers, which are of a class of their own. */
bool est_is_left_dense(const struct est_request *request, const struct est_model *model);
/* ForCausalLMLoss takes logits[..., :-1, :].contiguous() (to 4.48) rather than padding the labels (from 4.49). */
bool est_shifts_logits(const struct est_versions *versions);

/* The model's class has a loss of its own, which shifts logits and casts none: GPTBigCode to 4.48.2, the first
 * Qwen. */
bool est_shifts_uncast(const struct est_versions *versions, const struct est_model *model);

/* Bytes that 4.48.3 takes beyond 4.48.0 to 4.48.2, which the version does not tell apart: the common loss for that
 * one. */
uint64_t est_generation_surplus(const struct est_request *request, const struct est_model *model);

/* LlamaRotaryEmbedding takes cosine and sine before it scales either (to 4.50). */
bool est_scales_rope_last(const struct est_versions *versions);

/* sdpa_attention_forward repeats k and v without a mask too: to 4.53, and to 4.57 with a PyTorch before 2.5. */
bool est_repeats_for_sdpa(const struct est_versions *versions);

/* Transformers' plans for tensor parallelism leave the embedding whole (5.18 does, 5.23 does not). */
bool est_leaves_embedding_whole(const struct est_versions *versions);

/* sdpa_attention_forward makes q, k and v contiguous (to 4.55): permuted heads are copied. */
bool est_copies_for_sdpa(const struct est_versions *versions);

/* GPTQ's kernel is torch.matmul(x, weights), as GPT-QModel trains, rather than a function that dequantises in its
 * backward again, as AutoGPTQ's Triton kernel did. */
bool est_keeps_dequantized(const struct est_versions *versions);

/* PEFT's layer over GPTQ: result += output (to 0.15), with no cast under autocast. */
bool est_adds_in_place(const struct est_versions *versions);

/* Whether what is not quantised is cast to fp32: PEFT's preparation, which TRL leaves out where the weights are
 * sharded (to 0.29). */
bool est_prepares_kbit(const struct est_request *request);

/* The SFTTrainer of that time, and the ORPOTrainer of any, take the embedding and the head of a 4-bit model, which PEFT's
 * preparation has made fp32, back to bf16 (peft_module_casting_to_bf16). */
bool est_casts_vocabulary_back(const struct est_request *request);

/* Why a run with a release before 5 is not modelled, for a message that begins with the version; NULL when it is, or
 * when the release is none of these. The model is any that the replay knows. */
const char *est_generation_refuses(const struct est_request *request, const struct est_model *model);

#endif
