/* Attention's parts: the kernels (attention_kernels.c), and the callers of Transformers' integrations other than
 * sdpa and eager (attention_flash.c, attention_flex.c). */
#ifndef EST_ATTENTION_H
#define EST_ATTENTION_H

#include "estimator/pass.h"

/* A fused kernel. */
enum est_fused_kernel {
	EST_FUSED_ATEN_FLASH,  /* PyTorch's own, made of FlashAttention 2 */
	EST_FUSED_ATEN_EFFICIENT,
	EST_FUSED_ATEN_CUDNN,
	EST_FUSED_FLASH_2,     /* the packages */
	EST_FUSED_FLASH_3,
	EST_FUSED_FLEX,        /* torch.compile(flex_attention) */
};

/* q, k, v as the kernel gets them. */
struct est_fused_call {
	struct est_tensor in[3];
	struct est_tensor mask;     /* the additive bias, or flex_attention's BlockMask; est_none: none */
	uint64_t output;            /* elements of the output */
	bool unpadded;              /* one row of all sequences (cu_seqlens) */
	bool windowed;              /* the layer's window is shorter than the sequence */
	bool half_keys;             /* the keys are half as many as the queries, in est_fused_gradients() */
	bool copies_output;         /* heads lie otherwise than the output's gradient: the backward copies one of them */
	struct est_tensor *logsumexp; /* where flex_attention returns it, held */
};

/* The kernel's output; it keeps q, k, v, the mask, the output and the rows' logsumexp for its backward. in[] is
 * released where temporary. */
struct est_tensor est_fused_attention(struct est_pass *pass, enum est_fused_kernel kernel,
				      const struct est_fused_call *call);

/* The same over the ranks of context parallelism, of whose last one this is: each has a part of the sequence
 * (attention_ring.c). */
struct est_tensor est_ring_attention(struct est_pass *pass, enum est_fused_kernel kernel,
				     const struct est_fused_call *call);

/* All of it where the ranks of context parallelism exchange parts of the sequence for parts of the heads: q, k, v, borrowed, as
 * est_attention() gets them (attention_ulysses.c). */
struct est_tensor est_ulysses_attention(struct est_pass *pass, const struct est_layer *layer, const struct est_tensor qkv[3]);
struct est_permuted est_ulysses_permutes(const struct est_pass *pass);

/* The gradients of q, k and v alone, and what the kernel takes beside them for a while. */
void est_fused_gradients(struct est_pass *pass, enum est_fused_kernel kernel, const struct est_fused_call *call,
			 struct est_tensor ret[3]);

/* transformers' flash_attention_forward: q, k, v, unpadded first and padded again where the batch is padded. All are
 * borrowed. joined: q and k come out of a concatenation. */
struct est_tensor est_flash_package(struct est_pass *pass, const struct est_layer *layer,
				    const struct est_tensor qkv[3], bool joined);

/* transformers' flex_attention_forward. All are borrowed; mask is the BlockMask. */
struct est_tensor est_flex_attention(struct est_pass *pass, const struct est_tensor qkv[3], struct est_tensor mask,
				     bool joined);
/* Whether it repeats k and v: where the heads are not a power of two. */
bool est_flex_repeats(const struct est_model *model);
/* torch.nn.attention.flex_attention.create_block_mask() for the whole micro-batch: held. */
struct est_tensor est_block_mask(struct est_pass *pass);

/* Whether SDPA gives its work to cuDNN, of an element of so many bytes, masked or not. */
bool est_cudnn_takes(const struct est_pass *pass, uint8_t element);

/* Width of an output's head over that of the query's: elements of the output of such queries. */
uint64_t est_attention_output(const struct est_pass *pass, struct est_tensor q);
uint64_t est_round_up(uint64_t n, uint64_t multiple);

#endif
