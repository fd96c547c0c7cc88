/* Fused attention kernels: what their backward takes beside the gradients, worked out from the sources that
 * attention_kernels.c names. What they keep, and in which order, is held to traces (test_events.c). */
#include <stdlib.h>
#include <string.h>
#include "estimator/replay.h"
#include "tests/suite.h"

/* 1080: 1088 in blocks of 64 and of 32, 1120 of 80, 1152 of 96 and of 128 */
enum { B = 2, S = 1080, HEADS = 8, KV = 2, WORK_MAX = 8 };

static struct est_arena arena;
static struct est_program program;

static void set_up(void)
{
	size_t size = est_program_arena_size(1);

	est_arena_init(&arena, malloc(size), size);
}

static void tear_down(void)
{
	free(arena.base);
}

static struct est_model model_of(int64_t head_dim)
{
	return (struct est_model){
		.architecture = EST_ARCH_LLAMA, .vocab_size = 512, .hidden_size = 512, .num_hidden_layers = 1,
		.num_attention_heads = HEADS, .num_key_value_heads = KV, .head_dim = head_dim, .intermediate_size = 512,
		.max_position_embeddings = 4096, .gated_mlp = true, .norm = EST_RMSNORM, .norms_per_layer = 2, .final_norm = true,
		.activation = EST_SILU, .partial_rotary_factor = 1,
	};
}

static void trace(const struct est_model *model, const struct est_request *request, enum est_sdpa_choice sdpa)
{
	static const uint64_t whole[EST_CATEGORIES] = { 1, 1, 1, 1, 1, 1 };

	ck_assert(est_program_trace(&program, model, request, sdpa, whole, &arena));
}

/* The buffers that the backward of the layers allocates, rounded to 512 as all allocations are. */
static size_t work_of_backward(uint64_t work[WORK_MAX])
{
	enum est_phase phase = EST_PHASE_LOAD;
	size_t count = 0;

	for (size_t i = program.begin[EST_PART_MICRO_FIRST]; i < program.end[EST_PART_MICRO_FIRST]; i++) {
		const struct est_event *event = &program.events[i];

		if (event->kind == EST_EVENT_PHASE)
			phase = (enum est_phase)event->id;
		if (event->kind != EST_EVENT_ALLOC || phase != EST_PHASE_BACKWARD || event->category != EST_BUFFERS)
			continue;
		ck_assert_uint_lt(count, WORK_MAX);
		work[count++] = event->bytes;
	}
	return count;
}

static const struct {
	const char *name;
	enum est_attention attention;
	int64_t head_dim;
	bool mask;
	enum est_sdpa_choice sdpa;
	int64_t window;
	uint64_t work[WORK_MAX];
} kernels[] = {
	/* softmax_d of 1152 rows, dq, and dk, dv of all heads */
	{ "flash", EST_SDPA, 64, false, EST_SDPA_HAS_FLASH, 0,
	  { 4 * B * HEADS * 1152, 4 * B * HEADS * 1152 * 64, 2 * B * HEADS * S * 64, 2 * B * HEADS * S * 64 } },
	{ "heads of 80 in 96 columns", EST_SDPA, 80, false, EST_SDPA_HAS_FLASH, 0,
	  { 4 * B * HEADS * 1152, 4 * B * HEADS * 1152 * 96, 2 * B * HEADS * S * 80, 2 * B * HEADS * S * 80 } },
	{ "FlashAttention 2", EST_FLASH_ATTENTION_2, 64, false, EST_SDPA_HAS_FLASH, 0,
	  { 4 * B * HEADS * 1152, 4 * B * HEADS * 1152 * 64, 2 * B * HEADS * S * 64, 2 * B * HEADS * S * 64 } },
	/* the mask's indices, then 128 rows more a sequence instead of rounding */
	{ "FlashAttention 2, unpadded", EST_FLASH_ATTENTION_2, 64, true, EST_SDPA_HAS_FLASH, 0,
	  { 4 * HEADS * B * (S + 128), 4 * HEADS * B * (S + 128) * 64, 2 * B * HEADS * S * 64, 2 * B * HEADS * S * 64 } },
	{ "FlashAttention 3 in blocks of 128", EST_FLASH_ATTENTION_3, 64, false, EST_SDPA_HAS_FLASH, 0,
	  { 4 * B * HEADS * 1152, 4 * B * HEADS * 1152, 4 * B * HEADS * 1152 * 64, 4 * B * KV * 1152 * 64,
	    4 * B * KV * 1152 * 64 } },
	{ "of 64", EST_FLASH_ATTENTION_3, 128, false, EST_SDPA_HAS_FLASH, 0,
	  { 4 * B * HEADS * 1088, 4 * B * HEADS * 1088, 4 * B * HEADS * 1088 * 128, 4 * B * KV * 1152 * 128,
	    4 * B * KV * 1152 * 128 } },
	{ "of keys of 80", EST_FLASH_ATTENTION_3, 256, false, EST_SDPA_HAS_FLASH, 0,
	  { 4 * B * HEADS * 1088, 4 * B * HEADS * 1088, 4 * B * HEADS * 1088 * 256, 4 * B * KV * 1120 * 256,
	    4 * B * KV * 1120 * 256 } },
	/* 2160 tokens and one block a sequence, rounded: 2432 in blocks of 128 */
	{ "FlashAttention 3, unpadded", EST_FLASH_ATTENTION_3, 64, true, EST_SDPA_HAS_FLASH, 0,
	  { 4 * HEADS * 2432, 4 * HEADS * 2432, 4 * HEADS * 2432 * 64, 4 * KV * 2432 * 64, 4 * KV * 2432 * 64 } },
	{ "memory-efficient, where there is no flash", EST_SDPA, 96, true, EST_SDPA_LACKS_FLASH, 0,
	  { 4 * B * HEADS * S, 4 * B * HEADS * 1152 * 128 } },
	/* sums of rows, dq in fp32, dk and dv of all heads in 16 bits */
	{ "cuDNN's where it is preferred", EST_SDPA, 64, false, EST_SDPA_PREFERS_CUDNN, 0,
	  { 4 * B * HEADS * S + 4 * B * HEADS * S * 64 + 2 * 2 * B * HEADS * S * 64 } },
	{ "cuDNN's under a mask, whose keys are repeated", EST_SDPA, 64, true, EST_SDPA_PREFERS_CUDNN, 0,
	  { 4 * B * HEADS * S + 4 * B * HEADS * S * 64 } },
	{ "cuDNN's by name", EST_SDPA_CUDNN, 64, false, EST_SDPA_HAS_FLASH, 0,
	  { 4 * B * HEADS * S + 4 * B * HEADS * S * 64 + 2 * 2 * B * HEADS * S * 64 } },
	{ "heads too wide for cuDNN's", EST_SDPA, 160, false, EST_SDPA_PREFERS_CUDNN, 0,
	  { 4 * B * HEADS * 1152, 4 * B * HEADS * 1152 * 160, 2 * B * HEADS * S * 160, 2 * B * HEADS * S * 160 } },
	/* the gradient of logsumexp, that over ln 2, delta */
	{ "flex_attention", EST_FLEX_ATTENTION, 64, false, EST_SDPA_HAS_FLASH, 0,
	  { 4 * B * HEADS * S, 4 * B * HEADS * S, 4 * B * HEADS * S } },
	{ "FlashAttention 2 in a window, which costs nothing", EST_FLASH_ATTENTION_2, 64, false, EST_SDPA_HAS_FLASH, 512,
	  { 4 * B * HEADS * 1152, 4 * B * HEADS * 1152 * 64, 2 * B * HEADS * S * 64, 2 * B * HEADS * S * 64 } },
};

START_TEST(a_backward_takes_what_its_source_allocates)
{
	struct est_request request = {
		.precision = EST_PURE_BF16, .optimizer = EST_ADAMW_TORCH_FUSED, .micro_batch_size = B, .sequence_length = S,
		.gradient_accumulation_steps = 1, .attention = kernels[_i].attention, .attention_mask = kernels[_i].mask,
		.parallelism = { .gpus = 1, .gpus_per_node = 8, .tensor = 1, .pipeline = 1, .context = 1, .expert = 1 },
	};
	struct est_model model = model_of(kernels[_i].head_dim);
	uint64_t work[WORK_MAX] = { 0 };
	size_t count;

	model.sliding_window = kernels[_i].window;
	model.full_attention_every = 0;
	trace(&model, &request, kernels[_i].sdpa);
	count = work_of_backward(work);
	for (size_t i = 0; i < count || (i < WORK_MAX && kernels[_i].work[i]); i++)
		ck_assert_msg(work[i] == (kernels[_i].work[i] + 511) / 512 * 512, "%s: allocation %zu has %llu bytes, not %llu",
			      kernels[_i].name, i, (unsigned long long)work[i], (unsigned long long)kernels[_i].work[i]);
}
END_TEST

/* The window is said by an argument or by blocks; sdpa has only a mask for it: b * s^2 booleans, and 16 bits of each
 * kept */
START_TEST(only_sdpa_needs_a_mask_for_a_window)
{
	static const enum est_attention attentions[] = { EST_FLASH_ATTENTION_2, EST_FLASH_ATTENTION_3,
							 EST_FLEX_ATTENTION, EST_SDPA };
	struct est_request request = {
		.precision = EST_PURE_BF16, .optimizer = EST_ADAMW_TORCH_FUSED, .micro_batch_size = B, .sequence_length = S,
		.gradient_accumulation_steps = 1,
		.parallelism = { .gpus = 1, .gpus_per_node = 8, .tensor = 1, .pipeline = 1, .context = 1, .expert = 1 },
	};
	struct est_model model = model_of(64);

	model.sliding_window = 512;
	for (int i = 0; i < COUNT(attentions); i++) {
		uint64_t largest = 0;

		request.attention = attentions[i];
		arena.used = 0;
		trace(&model, &request, EST_SDPA_HAS_FLASH);
		for (size_t k = program.begin[EST_PART_MICRO_FIRST]; k < program.end[EST_PART_MICRO_FIRST]; k++)
			if (program.events[k].category == EST_BUFFERS && program.events[k].bytes == (S * S + 511) / 512 * 512)
				largest = program.events[k].bytes;
		ck_assert_int_eq(largest > 0, attentions[i] == EST_SDPA);
	}
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("attention");
	TCase *test = tcase_create("attention");

	tcase_add_checked_fixture(test, set_up, tear_down);
	tcase_add_loop_test(test, a_backward_takes_what_its_source_allocates, 0, COUNT(kernels));
	tcase_add_test(test, only_sdpa_needs_a_mask_for_a_window);
	suite_add_tcase(suite, test);
	return run_suite(suite);
}
