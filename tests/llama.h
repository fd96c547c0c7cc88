/* What tests of whole programs share: work space, and a small Llama. Include it behind an enum of the model's sizes: H, F, HEADS, KV, DIM,
 * V. */
#ifndef TESTS_LLAMA_H
#define TESTS_LLAMA_H

#include <check.h>
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

static inline int64_t block(int64_t bytes)
{
	return (bytes + 511) / 512 * 512;
}

/* What of a category a part of the program adds: at most, and to its end. */
struct growth {
	int64_t peak, end;
};

static inline struct growth growth_in(enum est_part part, enum est_category category)
{
	struct growth growth = { 0, 0 };

	for (size_t i = program.begin[part]; i < program.end[part]; i++) {
		const struct est_event *event = &program.events[i];

		if (event->kind == EST_EVENT_PHASE || event->category != category)
			continue;
		growth.end += event->kind == EST_EVENT_ALLOC ? (int64_t)event->bytes : -(int64_t)event->bytes;
		growth.peak = growth.end > growth.peak ? growth.end : growth.peak;
	}
	return growth;
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

static inline struct est_model llama_like(enum est_architecture architecture, int64_t layers)
{
	struct est_model model = LLAMA(layers);

	model.architecture = architecture;
	return model;
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

/* The program of a request, whole: nothing is shared. */
static inline void trace_program(const struct est_model *model, const struct est_request *request)
{
	static const uint64_t whole[EST_CATEGORIES] = { 1, 1, 1, 1, 1, 1 };

	arena.used = 0;
	ck_assert(est_program_trace(&program, model, request, EST_SDPA_HAS_FLASH, whole, &arena));
}

/* The most that is alive of a category in a phase of a program's micro-batches; of all categories: EST_CATEGORIES. */
static inline uint64_t most_alive(enum est_category category, enum est_phase of)
{
	enum est_phase phase = EST_PHASE_LOAD;
	uint64_t bytes = 0, top = 0;

	for (size_t i = 0; i < program.end[EST_PART_MICRO_NEXT]; i++) {
		const struct est_event *event = &program.events[i];

		if (event->kind == EST_EVENT_PHASE)
			phase = (enum est_phase)event->id;
		else if (event->category == category || category == EST_CATEGORIES)
			bytes += event->kind == EST_EVENT_ALLOC ? event->bytes : -event->bytes;
		if (phase == of && bytes > top)
			top = bytes;
	}
	return top;
}

#endif
