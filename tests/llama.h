/* What tests of whole programs share: work space, and a small Llama. Include it behind an enum of the model's sizes: H, F, HEADS, KV, DIM,
 * V. */
#ifndef TESTS_LLAMA_H
#define TESTS_LLAMA_H

#include <stdlib.h>
#include <string.h>
#include "estimator/replay.h"

static struct est_arena arena;
static struct est_program program;

/* Work space for a model with so many layers, filled: nothing may depend on what was there. */
static inline void take_arena(int64_t layers)
{
	size_t size = est_program_arena_size(layers);

	est_arena_init(&arena, malloc(size), size);
	memset(arena.base, 0xa5, size);
}

static inline void free_arena(void)
{
	free(arena.base);
}

#define LLAMA(layers) { \
	.architecture = EST_ARCH_LLAMA, \
	.vocab_size = V, \
	.hidden_size = H, \
	.num_hidden_layers = (layers), \
	.num_attention_heads = HEADS, \
	.num_key_value_heads = KV, \
	.head_dim = DIM, \
	.intermediate_size = F, \
	.max_position_embeddings = 4096, \
	.gated_mlp = true, \
	.norm = EST_RMSNORM, \
	.norms_per_layer = 2, \
	.final_norm = true, \
	.activation = EST_SILU, \
	.partial_rotary_factor = 1, \
}

/* Elements of its parameters, in the order of the module: 9 a layer and 3. Returns their sum. */
static inline int64_t list_parameters(int layers, int64_t *ret_sizes)
{
	static const int64_t one[] = { H * HEADS * DIM, H * KV * DIM, H * KV * DIM, H * HEADS * DIM, H * F, H * F, H * F, H, H };
	int64_t *at = ret_sizes, whole = 0;

	*at++ = (int64_t)V * H;
	for (int i = 0; i < layers; i++, at += sizeof(one) / sizeof(one[0]))
		memcpy(at, one, sizeof(one));
	*at++ = H;
	*at++ = (int64_t)V * H;
	while (at-- > ret_sizes)
		whole += *at;
	return whole;
}

#endif
