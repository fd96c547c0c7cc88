#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "estimator/adapters.h"
#include "estimator/device.h"
#include "estimator/estimator.h"
#include "estimator/replay.h"
#include "estimator/verdict.h"
#include "estimator/words.h"
#include "tests/suite.h"

#define GIB(n)       ((uint64_t)(n) << 30)
#define NVIDIA(card, capability, gib)                                                                                  \
	{                                                                                                              \
		.id = card, .name = card, .vendor = EST_NVIDIA, .compute_capability = capability,                      \
		.memory_bytes = GIB(gib), .usable_bytes = GIB(gib), .bf16 = (capability) >= 80,                        \
		.fp8 = (capability) >= 89                                                                              \
	}

enum { CARDS = 8 };
static const struct est_gpu cards[CARDS] = {
	NVIDIA("a100", 80, 80),
	NVIDIA("h100", 90, 80),
	NVIDIA("t4", 75, 16),
	NVIDIA("rtx", 89, 24),
	NVIDIA("small", 86, 2),
	{ .id = "mi300x",
	  .name = "mi300x",
	  .vendor = EST_AMD,
	  .memory_bytes = GIB(192),
	  .usable_bytes = GIB(191),
	  .bf16 = true },
	{ .id = "m4",
	  .name = "m4",
	  .vendor = EST_APPLE,
	  .kind = EST_UNIFIED,
	  .memory_bytes = GIB(4),
	  .usable_bytes = GIB(3),
	  .bf16 = true },
	{ .id = "tpu",
	  .name = "tpu",
	  .vendor = EST_GOOGLE,
	  .memory_bytes = GIB(32),
	  .usable_bytes = GIB(31),
	  .bf16 = true },
};

static struct est_arena arena;
static struct est_report report, other;

static void set_up(void)
{
	/* enough for 16 layers; est_arena_size(), for any model, is slow to fill under a sanitizer */
	size_t size = est_program_arena_size(16) + est_replay_arena_size(est_program_ids(16)) + (1 << 20);

	ck_assert_uint_lt(size, est_arena_size(CARDS));
	est_arena_init(&arena, malloc(size), size);
	ck_assert_ptr_nonnull(arena.base);
}

static void tear_down(void)
{
	free(arena.base);
}

/* ---- requests and models */

static struct est_request plain(void)
{
	return (struct est_request){
		.precision = EST_PURE_BF16,
		.optimizer_rank = 128,
		.max_grad_norm = 1,
		.outputs_to_fp32 = true,
		.micro_batch_size = 1,
		.sequence_length = 512,
		.gradient_accumulation_steps = 1,
		.every_n_layers = 1,
		.completion_fraction = 1,
		.target_length = 512,
		.parallelism = { .gpus = 1,
				 .gpus_per_node = 8,
				 .tensor = 1,
				 .pipeline = 1,
				 .context = 1,
				 .expert = 1,
				 .reshard_after_forward = true,
				 .use_orig_params = true,
				 .limit_all_gathers = true },
		.lora = { .rank = 16 },
		.quantization = { .bits = 4, .double_quant = true, .group_size = 64 },
	};
}

static struct est_model llama(int64_t layers)
{
	struct est_model model = {
		.architecture = EST_ARCH_LLAMA,
		.vocab_size = 4000,
		.hidden_size = 512,
		.num_hidden_layers = layers,
		.num_attention_heads = 8,
		.num_key_value_heads = 2,
		.head_dim = 64,
		.intermediate_size = 1400,
		.max_position_embeddings = 8192,
		.gated_mlp = true,
		.norm = EST_RMSNORM,
		.norms_per_layer = 2,
		.final_norm = true,
		.activation = EST_SILU,
		.partial_rotary_factor = 1,
	};

	model.parameters = est_model_count_parameters(&model);
	return model;
}

static struct est_model qwen3(int64_t layers)
{
	struct est_model model = llama(layers);

	model.architecture = EST_ARCH_QWEN3;
	model.qk_norm = EST_QK_NORM_HEAD;
	model.tie_word_embeddings = true;
	model.parameters = est_model_count_parameters(&model);
	return model;
}

static struct est_model gemma3(int64_t layers)
{
	struct est_model model = qwen3(layers);

	model.architecture = EST_ARCH_GEMMA3;
	model.norms_per_layer = 4;
	model.activation = EST_GELU;
	model.sliding_window = 256;
	model.full_attention_every = 3;
	model.parameters = est_model_count_parameters(&model);
	return model;
}

static struct est_model gpt2(int64_t layers)
{
	struct est_model model = llama(layers);

	model.architecture = EST_ARCH_GPT2;
	model.num_key_value_heads = 8;
	model.position = EST_LEARNED_POSITIONS;
	model.norm = EST_LAYERNORM;
	model.gated_mlp = false;
	model.qkv_bias = model.o_bias = model.mlp_bias = true;
	model.tie_word_embeddings = true;
	model.activation = EST_GELU_NEW;
	model.attention_dropout = model.residual_dropout = model.embedding_dropout = 0.1;
	model.parameters = est_model_count_parameters(&model);
	return model;
}

static const struct {
	const char *name;
	struct est_model (*make)(int64_t layers);
} families[] = { { "llama", llama }, { "qwen3", qwen3 }, { "gemma3", gemma3 }, { "gpt2", gpt2 } };

/* Runs a request that est_check() accepts, judged for all cards, the one of number first leading. */
static void run_on(const struct est_request *request, const struct est_model *model, unsigned first,
		   struct est_report *ret)
{
	static struct est_faults faults;
	const struct est_gpu *list[CARDS];

	faults.count = 0;
	ck_assert_msg(est_check(request, model, &faults), "%s %s", faults.item[0].pointer, faults.item[0].detail);
	for (unsigned i = 0; i < CARDS; i++)
		list[i] = &cards[(first + i) % CARDS];
	arena.used = 0;
	ck_assert(est_run(request, model, list, CARDS, &arena, ret));
}

static uint64_t allocated(const struct est_request *request, const struct est_model *model)
{
	run_on(request, model, 0, &other);
	return other.peak.allocated.expected;
}

/* ---- what holds of every report */

static void check_range(const char *name, const struct est_range *range)
{
	ck_assert_msg(range->low <= range->expected && range->expected <= range->high, "%s: low, expected, high", name);
	ck_assert_msg(range->high < UINT64_C(1) << 62, "%s: wrapped", name);
}

static void check_peak(const char *name, const struct est_peak *peak)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < EST_CATEGORIES; i++)
		sum += peak->at_peak[i];
	ck_assert_msg(sum == peak->allocated.expected, "%s: at_peak does not add up", name);
	check_range(name, &peak->allocated);
	check_range(name, &peak->reserved);
	check_range(name, &peak->device);
	ck_assert_msg(peak->allocated.expected <= peak->reserved.expected, "%s: allocated > reserved", name);
	ck_assert_msg(peak->reserved.expected <= peak->device.expected, "%s: reserved > device", name);
	ck_assert_msg(peak->allocated.high <= peak->reserved.high && peak->reserved.high <= peak->device.high,
		      "%s: high", name);
}

static void check_rows(const char *name, const struct est_rows *rows, const struct est_peak *peak)
{
	ck_assert_msg(rows->weights >= peak->at_peak[EST_WEIGHTS], "%s: weights", name);
	ck_assert_msg(rows->gradients >= peak->at_peak[EST_GRADIENTS], "%s: gradients", name);
	ck_assert_msg(rows->optimizer >= peak->at_peak[EST_OPTIMIZER], "%s: optimizer", name);
	ck_assert_msg(rows->activations >= peak->at_peak[EST_ACTIVATIONS], "%s: activations", name);
	ck_assert_msg(rows->buffers >= peak->at_peak[EST_BUFFERS], "%s: buffers", name);
	ck_assert_msg(rows->overhead >= peak->at_peak[EST_WORKSPACE], "%s: overhead", name);
	ck_assert_msg(rows->total
			      == rows->weights + rows->gradients + rows->optimizer + rows->activations + rows->buffers
					 + rows->overhead,
		      "%s: total", name);
}

static void check_timeline(const char *name, const struct est_report *of)
{
	uint64_t most = 0;
	enum est_phase phase = EST_PHASE_LOAD;

	for (size_t i = 0; i < of->moments; i++) {
		ck_assert_msg(of->timeline[i].allocated <= of->timeline[i].reserved, "%s: moment %zu", name, i);
		if (of->timeline[i].allocated > most) {
			most = of->timeline[i].allocated;
			phase = of->timeline[i].phase;
		}
	}
	ck_assert_msg(most == of->peak.allocated.expected && phase == of->peak.phase,
		      "%s: the peak is not in its phase", name);
}

static void check_fit(const char *name, const struct est_fit *fit, const struct est_request *request)
{
	uint64_t usable = est_usable_bytes(fit->gpu, request->headroom_fraction);
	enum est_verdict verdict = fit->required_high <= usable ? EST_FITS
				   : fit->required <= usable    ? EST_TIGHT
								: EST_DOES_NOT_FIT;

	ck_assert_msg(fit->required <= fit->required_high, "%s: %s: required", name, fit->gpu->id);
	ck_assert_msg(fit->verdict == (fit->reason ? EST_UNSUPPORTED : verdict), "%s: %s: verdict", name, fit->gpu->id);
	ck_assert_msg((fit->reason != NULL) == (est_device_refuses(fit->gpu, request) != NULL), "%s: %s: reason", name,
		      fit->gpu->id);
}

static void check_report(const char *name, const struct est_request *request, const struct est_report *of)
{
	struct est_range outside = est_device_outside(of->peak.gpu, &request->parallelism);

	ck_assert(of->replayed);
	check_peak(name, &of->peak);
	check_rows(name, &of->per_gpu, &of->peak);
	check_timeline(name, of);
	ck_assert_uint_eq(of->fit_count, CARDS);
	for (unsigned i = 0; i < CARDS; i++)
		check_fit(name, &of->fits[i], request);
	ck_assert_ptr_eq(of->fits[0].gpu, of->peak.gpu);
	ck_assert_msg(of->peak.allocated.expected + outside.expected <= of->fits[0].required,
		      "%s: required is less than allocated", name);
	ck_assert_msg(of->fits[0].required <= of->peak.device.expected, "%s: required is more than device", name);
	ck_assert_msg(of->fits[0].required_high <= of->peak.device.high, "%s: required_high is more than device's",
		      name);
}

/* ---- the grid: family x precision in the loop's number, the rest by bits */

enum { PRECISIONS = EST_PURE_FP32 + 1, VARIANTS = 32 };

static struct est_request of_variant(int number, unsigned variant, char name[96])
{
	static const enum est_optimizer optimizers[] = {
		EST_ADAMW_TORCH_FUSED,
		EST_ADAMW_TORCH,
		EST_SGD,
		EST_SGD_MOMENTUM,
	};
	struct est_request request = plain();

	request.precision = (enum est_precision)(number % PRECISIONS);
	request.checkpointing = variant & 1 ? EST_CHECKPOINT_FULL : EST_CHECKPOINT_NONE;
	request.attention = variant & 2 ? EST_EAGER : EST_SDPA;
	request.attention_mask = variant & 4;
	request.optimizer = optimizers[variant >> 3];
	request.use_reentrant = variant % 3 == 0;
	request.gradient_accumulation_steps = 1 + variant % 5 / 3;
	snprintf(name, 96, "%s, precision %d, variant %u", families[number / PRECISIONS].name, (int)request.precision,
		 variant);
	return request;
}

START_TEST(every_report_is_consistent)
{
	struct est_model model = families[_i / PRECISIONS].make(4);
	char name[96];

	for (unsigned variant = 0; variant < VARIANTS; variant++) {
		struct est_request request = of_variant(_i, variant, name);

		run_on(&request, &model, variant % CARDS, &report);
		check_report(name, &request, &report);
	}
}
END_TEST

START_TEST(more_of_anything_never_needs_less)
{
	struct est_model model = families[_i / PRECISIONS].make(4), deeper = families[_i / PRECISIONS].make(5);
	char name[96];

	for (unsigned variant = 0; variant < VARIANTS; variant++) {
		struct est_request request = of_variant(_i, variant, name), more = request;
		uint64_t bytes = allocated(&request, &model);

		ck_assert_msg(allocated(&request, &deeper) >= bytes, "%s: a layer more", name);
		more.micro_batch_size = 3;
		ck_assert_msg(allocated(&more, &model) >= bytes, "%s: a larger batch", name);
		more = request;
		more.sequence_length = 700;
		ck_assert_msg(allocated(&more, &model) >= bytes, "%s: longer sequences", name);
		more.sequence_length = 5000; /* 5,000 indices: the embedding's other kernel */
		ck_assert_msg(allocated(&more, &model) >= bytes, "%s: much longer sequences", name);
	}
}
END_TEST

START_TEST(checkpoints_never_need_more)
{
	struct est_model model = families[_i / PRECISIONS].make(6);
	char name[96];

	for (unsigned variant = 0; variant < VARIANTS; variant += 2) {
		struct est_request without = of_variant(_i, variant, name), with = without;

		with.checkpointing = EST_CHECKPOINT_FULL;
		ck_assert_msg(allocated(&with, &model) <= allocated(&without, &model), "%s", name);
	}
}
END_TEST

START_TEST(the_same_inputs_give_the_same_report)
{
	struct est_model model = families[_i / PRECISIONS].make(3);
	struct est_fit fits[CARDS];
	char name[96];
	struct est_request request = of_variant(_i, 13, name);

	run_on(&request, &model, 1, &report);
	memcpy(fits, report.fits, sizeof(fits));
	memset(arena.base, 0x5a, arena.used);
	run_on(&request, &model, 1, &other);
	ck_assert_msg(!memcmp(fits, other.fits, sizeof(fits)), "%s", name);
	report.fits = other.fits;
	ck_assert_msg(!memcmp(&report, &other, sizeof(report)), "%s", name);
}
END_TEST

/* ---- sharding */

static const struct {
	enum est_strategy strategy;
	bool weights, gradients, optimizer; /* divided among the ranks */
} strategies[] = {
	{ EST_ZERO1, false, false, true },
	{ EST_ZERO2, false, true, true },
	{ EST_ZERO3, true, true, true },
};

static void check_share(const char *row, uint64_t whole, uint64_t share, bool divided, uint64_t ranks)
{
	uint64_t rounding = divided ? 512 * UINT64_C(100) : 0; /* each tensor to 512 bytes */
	uint64_t expected = divided ? whole / ranks : whole;

	ck_assert_msg(share >= expected && share <= expected + rounding, "%s: %llu of %llu", row,
		      (unsigned long long)share, (unsigned long long)whole);
}

START_TEST(zero_divides_what_its_stage_says_among_the_ranks)
{
	struct est_model model = llama(4);
	struct est_request request = plain();

	request.parallelism.strategy = strategies[_i].strategy;
	for (int64_t ranks = 2; ranks <= 64; ranks *= 4) {
		request.parallelism.gpus = ranks;
		run_on(&request, &model, 0, &report);
		check_share("weights", report.single_gpu.weights, report.per_gpu.weights, strategies[_i].weights,
			    (uint64_t)ranks);
		check_share("gradients", report.single_gpu.gradients, report.per_gpu.gradients,
			    strategies[_i].gradients, (uint64_t)ranks);
		check_share("optimizer", report.single_gpu.optimizer, report.per_gpu.optimizer,
			    strategies[_i].optimizer, (uint64_t)ranks);
		ck_assert_uint_ge(report.single_gpu.total, report.per_gpu.total - report.per_gpu.overhead);
	}
}
END_TEST

/* What DeepSpeed and FSDP fill in where nothing is named. */
static struct est_request shared_by(enum est_strategy strategy, int64_t ranks, enum est_method method)
{
	bool fsdp = strategy >= EST_FSDP;
	struct est_request request = plain();

	request.method = method;
	request.precision = fsdp ? EST_BF16_MIXED : EST_BF16_MASTER;
	request.base_dtype = EST_BF16;
	request.lora.target_modules.all = true;
	request.quantization = (struct est_quantization){ .bits = 4, .double_quant = true, .group_size = 64,
							   .quant_storage = EST_STORE_BF16 };
	request.checkpointing = EST_CHECKPOINT_FULL;
	request.parallelism.strategy = strategy;
	request.parallelism.wrap = strategy == EST_FSDP1 && method != EST_FULL ? EST_WRAP_PEFT : EST_WRAP_ACCELERATE;
	request.parallelism.gpus = ranks;
	request.parallelism.overlap_comm = strategy == EST_ZERO3;
	request.parallelism.grad_accum_dtype = request.parallelism.communication_data_type = EST_BF16;
	request.parallelism.sub_group_size = 1000000000;
	request.parallelism.max_live_parameters = request.parallelism.max_reuse_distance = 1000000000;
	request.parallelism.buckets.reduce_bucket_size = request.parallelism.buckets.prefetch_bucket_size = EST_AUTO;
	request.parallelism.buckets.param_persistence_threshold = EST_AUTO;
	return request;
}

/* Llama-3.1-8B: more parameters than ZeRO-3 lets live, and no row of theirs that 1,024 ranks would have to be padded
 * for */
static struct est_model eight_billion(void)
{
	struct est_model model = llama(32);

	model.vocab_size = 128256;
	model.hidden_size = 4096;
	model.num_attention_heads = 32;
	model.num_key_value_heads = 8;
	model.head_dim = 128;
	model.intermediate_size = 14336;
	model.parameters = est_model_count_parameters(&model);
	return model;
}

static uint64_t allocated_bytes(const struct est_request *request)
{
	struct est_model model = eight_billion();

	run_on(request, &model, 0, &report);
	return report.peak.allocated.expected;
}

static uint64_t allocated_by(enum est_strategy strategy, int64_t ranks, enum est_method method)
{
	const struct est_request request = shared_by(strategy, ranks, method);

	return allocated_bytes(&request);
}

/* At the same batch a GPU never needs more for being one of many, but for the padding of its parts: FSDP2 cuts the
 * 16 rows of a lora_A, and pads them, to one for each rank. */
static const struct {
	enum est_strategy strategy;
	enum est_method method;
	int64_t ranks;
} scaled[] = { { EST_DDP, EST_FULL, 1024 },  { EST_ZERO1, EST_FULL, 1024 }, { EST_ZERO2, EST_FULL, 1024 },
	       { EST_ZERO3, EST_FULL, 1024 }, { EST_FSDP, EST_FULL, 1024 },  { EST_FSDP1, EST_FULL, 1024 },
	       { EST_HSDP, EST_FULL, 1024 },  { EST_DDP, EST_LORA, 1024 },   { EST_ZERO2, EST_LORA, 1024 },
	       { EST_ZERO3, EST_LORA, 1024 }, { EST_FSDP, EST_LORA, 16 },   { EST_FSDP1, EST_LORA, 1024 },
	       { EST_ZERO1, EST_QLORA, 1024 }, { EST_ZERO2, EST_QLORA, 1024 }, { EST_FSDP1, EST_QLORA, 1024 } };

START_TEST(more_gpus_never_need_more_memory_each)
{
	enum { PADDING = 1 << 20 };
	uint64_t before = UINT64_MAX - PADDING;

	for (int64_t ranks = 2; ranks <= scaled[_i].ranks; ranks *= 2) {
		uint64_t bytes = allocated_by(scaled[_i].strategy, ranks, scaled[_i].method);

		ck_assert_msg(bytes <= before + PADDING, "%lld GPUs: %llu, half as many: %llu", (long long)ranks,
			      (unsigned long long)bytes, (unsigned long long)before);
		before = bytes;
	}
}
END_TEST

/* The same with gradients in fp32; with the optimizer on the host the card needs less still. */
START_TEST(zero_with_fp32_gradients_or_on_the_host_divides_them_too)
{
	uint64_t before = UINT64_MAX;

	for (int64_t ranks = 2; ranks <= 1024; ranks *= 8) {
		struct est_request halves = shared_by(_i ? EST_ZERO2 : EST_ZERO1, ranks, EST_FULL), whole = halves, host = halves;

		whole.parallelism.strategy = EST_ZERO2;
		whole.parallelism.grad_accum_dtype = EST_FP32;
		host.offload.optimizer = EST_ON_CPU;
		ck_assert_uint_lt(allocated_bytes(&whole), before);
		before = allocated_bytes(&whole);
		if (ranks <= 16) /* on more a buffer for the largest gradient weighs more */
			ck_assert_uint_lt(allocated_bytes(&host), allocated_bytes(&halves));
	}
}
END_TEST

START_TEST(each_stage_of_zero_needs_no_more_than_the_one_before)
{
	static const enum est_strategy stages[] = { EST_DDP, EST_ZERO1, EST_ZERO2, EST_ZERO3 };
	static const enum est_method methods[] = { EST_FULL, EST_LORA, EST_QLORA };
	static const int64_t ranks[] = { 8, 64, 1024 };
	enum est_method method = methods[_i];
	int count = method == EST_QLORA ? COUNT(stages) - 1 : COUNT(stages); /* ZeRO-3 gathers what bitsandbytes then holds */
	uint64_t small = method == EST_FULL ? 0 : 64 << 20; /* a bucket weighs more than what is divided of adapters */

	for (int k = 0; k < COUNT(ranks); k++)
		for (int i = 1; i < count; i++)
			ck_assert_uint_le(allocated_by(stages[i], ranks[k], method), allocated_by(stages[i - 1], ranks[k], method) + small);
}
END_TEST

/* ---- what is said beside the figures */

static bool is_warned(const char *pointer)
{
	for (size_t i = 0; i < report.warnings.count; i++)
		if (strcmp(report.warnings.item[i].pointer, pointer) == 0)
			return true;
	return false;
}

static bool is_noted(const char *pointer)
{
	for (size_t i = 0; i < report.assumptions.count; i++)
		if (strcmp(report.assumptions.item[i].pointer, pointer) == 0)
			return true;
	return false;
}

/* The order of a compiled backward is inductor's, and where blocks come to lie the allocator's. */
START_TEST(a_compiled_model_has_room_both_ways)
{
	struct est_model model = llama(4);
	struct est_request request = plain();
	const uint64_t tokens = (uint64_t)(request.micro_batch_size * request.sequence_length);
	const uint64_t wide = 2 * tokens * (uint64_t)model.intermediate_size, logits = 2 * tokens * (uint64_t)model.vocab_size;

	request.precision = EST_PURE_BF16;
	request.torch_compile = true;
	run_on(&request, &model, 0, &report);
	ck_assert(is_noted("/torch_compile"));
	ck_assert_uint_lt(report.peak.allocated.low, report.peak.allocated.expected);
	ck_assert_uint_ge(report.peak.allocated.high, report.peak.allocated.expected + 2 * wide);
	ck_assert_uint_ge(report.peak.reserved.high, report.peak.reserved.expected + 2 * wide + logits);
	request.torch_compile = false;
	run_on(&request, &model, 0, &report);
	ck_assert(!is_noted("/torch_compile"));
	ck_assert_uint_eq(report.peak.allocated.low, report.peak.allocated.expected);
}
END_TEST

/* accelerate casts what is asked for in 16 bits: an answer has to say so. */
START_TEST(adapters_that_are_upcast_are_noted)
{
	struct est_model model = llama(4);
	struct est_request request = plain();

	request.method = EST_LORA;
	request.precision = EST_BF16_MIXED;
	request.base_dtype = EST_BF16;
	request.lora = (struct est_lora){ .rank = 16, .target_modules = { .all = true }, .adapter_dtype = EST_BF16 };
	request.parallelism.strategy = _i ? EST_FSDP : EST_DDP;
	request.parallelism.gpus = 4;
	request.parallelism.param_dtype = EST_BF16;
	request.parallelism.reduce_dtype = EST_BF16;
	run_on(&request, &model, 0, &report);
	ck_assert(is_noted("/lora/adapter_dtype") == (_i == 1));
}
END_TEST

/* LLM.int8 multiplies outliers in 16 bits, and adds them to what else it has: where there are none, products of an
 * fp32 stream stay in fp32. */
START_TEST(inputs_without_outliers_have_room)
{
	struct est_model model = llama(4);
	struct est_request request = plain();
	uint64_t high, mixed;

	request.method = EST_QLORA;
	request.precision = EST_BF16_MIXED;
	request.base_dtype = EST_BF16;
	request.lora.target_modules = (struct est_names){ .count = 1, .name = { "q_proj" } };
	request.quantization = (struct est_quantization){ .bits = 8, .group_size = 64, .type = EST_INT8, .prepare_kbit = true,
							   .llm_int8_threshold = 6 };
	run_on(&request, &model, 0, &report);
	ck_assert(is_noted("/quantization/type"));
	high = report.peak.allocated.high;
	mixed = report.peak.allocated.expected;
	request.quantization.llm_int8_threshold = 0;
	run_on(&request, &model, 0, &report);
	ck_assert(!is_noted("/quantization/type"));
	ck_assert_uint_gt(report.peak.allocated.expected, mixed);
	ck_assert_uint_ge(high, report.peak.allocated.expected);
}
END_TEST

/* Which of AutoGPTQ's kernels runs is not said: the others keep a layer's weights, in 16 bits, while it is
 * recomputed. */
START_TEST(a_kernel_that_keeps_weights_has_room)
{
	struct est_model model = llama(4);
	struct est_request request = plain();
	uint64_t hidden = (uint64_t)model.hidden_size, key_value = 2 * 64, width = (uint64_t)model.intermediate_size;
	uint64_t layer = 2 * (2 * hidden * hidden + 2 * hidden * key_value + 3 * hidden * width), room;

	request.method = EST_QLORA;
	request.precision = EST_FP16_MIXED;
	request.base_dtype = EST_FP16;
	request.lora.target_modules.all = true;
	request.quantization.group_size = 128;
	request.checkpointing = EST_CHECKPOINT_FULL;
	request.quantization.type = EST_HQQ; /* has one kernel */
	run_on(&request, &model, 0, &report);
	ck_assert(is_noted("/quantization/type"));
	request.quantization.type = EST_GPTQ;
	for (int old = 0; old < 2; old++) {
		request.versions.transformers = old ? 4048 : 0;
		run_on(&request, &model, 0, &report);
		ck_assert(is_noted("/quantization/type"));
		room = report.peak.allocated.high - report.peak.allocated.expected;
		ck_assert_uint_eq(room, report.peak.allocated.expected / 1000 * 10 + (16 << 20) + (old ? layer : 0));
	}
}
END_TEST

/* Segments that grow leave less unused than those of one size each; what is allocated does not depend on them. */
START_TEST(expandable_segments_reserve_less)
{
	const struct est_gpu *gpu = &cards[0];
	struct est_request request = plain();
	struct est_model model = llama(4);

	request.sequence_length = 4096;
	arena.used = 0;
	ck_assert(est_run(&request, &model, &gpu, 1, &arena, &report));
	request.expandable_segments = true;
	arena.used = 0;
	ck_assert(est_run(&request, &model, &gpu, 1, &arena, &other));
	ck_assert_uint_eq(other.peak.allocated.expected, report.peak.allocated.expected);
	ck_assert_uint_lt(other.peak.reserved.expected, report.peak.reserved.expected);
	ck_assert_uint_ge(other.peak.reserved.expected, other.peak.allocated.expected);
}
END_TEST

/* FSDP1's concatenated gradients may lie in the pool of another stream: that is room above reserved, not above
 * allocated. */
START_TEST(another_streams_pool_widens_what_is_reserved)
{
	struct est_model model = llama(4);
	struct est_request request = plain();
	uint64_t flat = 2 * 2 * (2 * (uint64_t)model.vocab_size * (uint64_t)model.hidden_size);

	request.precision = EST_BF16_MIXED;
	request.parallelism.gpus = 4;
	request.parallelism.strategy = EST_FSDP1;
	run_on(&request, &model, 0, &report);
	ck_assert_uint_ge(report.peak.reserved.high, report.peak.reserved.expected + flat);
	ck_assert_uint_lt(report.peak.allocated.high, report.peak.allocated.expected + flat + (16 << 20));
	ck_assert_uint_ge(report.fits[0].required_high, report.fits[0].required + flat);
}
END_TEST

/* A setting that is not replayed is not refused: its shares, a warning, and room for what the replay of its
 * neighbour holds. */
START_TEST(a_share_has_room_for_what_a_replay_holds)
{
	static const enum est_strategy sharded[] = { EST_FSDP, EST_HSDP, EST_FSDP1 };
	struct est_model model = llama(4);
	struct est_request request = plain();
	uint64_t replayed;

	request.precision = EST_BF16_MIXED;
	request.checkpointing = EST_CHECKPOINT_FULL;
	request.parallelism.gpus = 8;
	request.parallelism.strategy = sharded[_i];
	run_on(&request, &model, 0, &report);
	ck_assert(!is_warned("/parallelism/strategy"));
	replayed = report.peak.allocated.expected;
	request.parallelism.wrap = EST_WRAP_PEFT; /* which is for adapters, and not replayed of whole models */
	run_on(&request, &model, 0, &report);
	ck_assert(is_warned("/parallelism/strategy"));
	ck_assert_uint_ge(report.peak.allocated.high, replayed);
	ck_assert_uint_ge(report.fits[0].required_high, replayed);
}
END_TEST

static const struct {
	enum est_strategy strategy;
	enum est_precision precision;
	bool told;
} precisions[] = {
	{ EST_ZERO3, EST_BF16_MIXED, true },   { EST_ZERO2, EST_PURE_BF16, true },  { EST_ZERO1, EST_BF16_AUTOCAST, true },
	{ EST_ZERO3, EST_BF16_MASTER, false }, { EST_ZERO2, EST_PURE_FP32, false }, { EST_FSDP, EST_BF16_MIXED, false },
};

START_TEST(a_precision_that_deepspeed_does_not_make_is_told)
{
	struct est_model model = llama(2);
	struct est_request request = plain();

	request.parallelism.gpus = 8;
	request.parallelism.strategy = precisions[_i].strategy;
	request.precision = precisions[_i].precision;
	run_on(&request, &model, 0, &report);
	ck_assert_int_eq(is_warned("/precision"), precisions[_i].told);
}
END_TEST

START_TEST(experts_that_are_not_quantised_are_told)
{
	struct est_model model = llama(2);
	struct est_request request = plain();

	request.method = EST_QLORA;
	request.lora.rank = 8;
	request.lora.target_modules.count = 1;
	snprintf(request.lora.target_modules.name[0], sizeof(request.lora.target_modules.name[0]), "q_proj");
	request.quantization.bits = 4;
	run_on(&request, &model, 0, &report);
	ck_assert(!is_warned("/method"));
	model.architecture = EST_ARCH_MIXTRAL;
	model.num_experts = 8;
	model.num_experts_per_tok = 2;
	model.moe_intermediate_size = model.intermediate_size;
	run_on(&request, &model, 0, &report);
	ck_assert(is_warned("/method"));
}
END_TEST

/* torchtitan's experts: room for three fp32 tensors of all pairs, and said so. */
START_TEST(experts_weighed_in_fp32_have_room)
{
	struct est_request request = plain();
	struct est_model model = llama(2);
	uint64_t room, other_room;

	model.architecture = EST_ARCH_MIXTRAL;
	model.num_experts = 8;
	model.num_experts_per_tok = 2;
	model.moe_intermediate_size = model.intermediate_size;
	request.framework = EST_TORCHTITAN;
	run_on(&request, &model, 0, &report);
	ck_assert(is_warned("/framework"));
	room = report.peak.allocated.high - report.peak.allocated.expected;
	request.framework = EST_TRANSFORMERS;
	run_on(&request, &model, 0, &report);
	ck_assert(!is_warned("/framework"));
	other_room = report.peak.allocated.high - report.peak.allocated.expected;
	ck_assert_uint_eq(room - other_room, 12 * 512 * 2 * 512);
}
END_TEST

/* What is not replayed of a sharded step widens the range upwards: 8B on 8 cards took 20.7 (ZeRO-3, two
 * micro-batches) and 20.4 GiB (FSDP1) where it was traced, stepped after the backward. */
static const struct {
	enum est_strategy strategy;
	uint64_t traced;
} traced[] = {
	{ EST_ZERO3, UINT64_C(22183705088) }, { EST_FSDP1, UINT64_C(21904187392) },
};

START_TEST(what_is_not_replayed_has_room_in_the_upper_figures)
{
	struct est_model model = llama(32);
	struct est_request request = plain();
	uint64_t slack;

	model.vocab_size = 128256;
	model.hidden_size = 4096;
	model.num_attention_heads = 32;
	model.num_key_value_heads = 8;
	model.intermediate_size = 14336;
	model.tie_word_embeddings = false;
	request.fuse_optimizer_in_backward = true; /* then it is not replayed */
	request.max_grad_norm = 0;
	request.precision = traced[_i].strategy == EST_FSDP1 ? EST_BF16_MIXED : EST_BF16_MASTER;
	request.checkpointing = EST_CHECKPOINT_FULL;
	request.sequence_length = 2048;
	request.parallelism.gpus = 8;
	request.parallelism.strategy = traced[_i].strategy;
	run_on(&request, &model, 0, &report);
	ck_assert_uint_ge(report.peak.allocated.high, traced[_i].traced);
	slack = report.peak.allocated.high - report.peak.allocated.expected;
	ck_assert_uint_ge(report.peak.reserved.high - report.peak.reserved.expected, slack / 2);
	request.fuse_optimizer_in_backward = false;
	request.max_grad_norm = 1;
	request.parallelism.strategy = EST_FSDP;
	request.precision = EST_BF16_MIXED;
	run_on(&request, &model, 0, &report);
	ck_assert_uint_lt(report.peak.allocated.high - report.peak.allocated.expected, slack / 4);
	ck_assert_uint_gt(report.single_gpu.total, report.per_gpu.total);
}
END_TEST

/* ---- Llama-3.2-1B, bf16, fused AdamW, checkpoints, one sequence of 2,048, calculated by hand.
 *
 * Parameters: embedding (tied) 128,256 * 2,048 = 262,668,288; a layer: q 2,048 * 2,048, k and v 2,048 * 512 each, o
 * 2,048 * 2,048, gate, up, down 2,048 * 8,192 each, two norms of 2,048: 60,821,504, 16 times 973,144,064; last norm
 * 2,048: 1,235,814,400 in 1 + 16 * 9 + 1 = 146 tensors. */
static const uint64_t tokens = 2048, hidden = 2048, vocabulary = 128256, parameters = 1235814400, tensors = 146;

static struct est_model llama_1b(void)
{
	struct est_model model = llama(16);

	model.vocab_size = 128256;
	model.hidden_size = 2048;
	model.num_attention_heads = 32;
	model.num_key_value_heads = 8;
	model.intermediate_size = 8192;
	model.max_position_embeddings = 131072;
	model.tie_word_embeddings = true;
	model.parameters = est_model_count_parameters(&model);
	return model;
}

static void run_1b(enum est_checkpointing checkpointing)
{
	struct est_model model = llama_1b();
	struct est_request request = plain();

	request.sequence_length = 2048;
	request.checkpointing = checkpointing;
	run_on(&request, &model, 0, &report);
	check_report("1B", &request, &report);
}

static uint64_t moment(enum est_phase phase)
{
	const uint64_t workspaces = 2 * 8519680; /* cuBLAS's, on an A100 */

	for (size_t i = 0; i < report.moments; i++)
		if (report.timeline[i].phase == phase)
			return report.timeline[i].allocated - workspaces;
	ck_abort_msg("no moment of phase %d", (int)phase);
}

static const uint64_t weights = 2 * 1235814400ULL, gradients = 2 * 1235814400ULL;
/* two moments in bf16, and a step count of 512 bytes a tensor */
static const uint64_t states = 4 * 1235814400ULL + 146 * 512;
/* rotary_emb.inv_freq and its original: 32 floats each */
static const uint64_t inverse_frequencies = 2 * 512;

/* The tied embedding gets a gradient from the head and one from the lookup, and, as the first is a view (mm's,
 * transposed) that is not added to, a third tensor for their sum: gradients are at most 2 V h * 2 bytes above their
 * own. */
START_TEST(a_1b_model_has_the_rows_that_people_know)
{
	struct est_model model = llama_1b();

	ck_assert_uint_eq((uint64_t)model.parameters, parameters);
	run_1b(EST_CHECKPOINT_FULL);
	ck_assert_uint_eq((uint64_t)report.trainable_parameters, parameters);
	ck_assert_uint_eq(report.per_gpu.weights, weights);
	ck_assert_uint_eq(report.per_gpu.gradients, gradients + 2 * 2 * vocabulary * hidden);
	ck_assert_uint_eq(report.per_gpu.optimizer, states);
	ck_assert_mem_eq(&report.per_gpu, &report.single_gpu, sizeof(report.per_gpu));
}
END_TEST

/* A step holds weights, gradients and states; clip_grad_norm_ a norm of 512 bytes a tensor, their stack, the total. */
START_TEST(the_step_of_a_1b_model_holds_weights_gradients_and_states)
{
	uint64_t norms = (tensors + 2) * 512;

	run_1b(EST_CHECKPOINT_FULL);
	ck_assert_uint_eq(moment(EST_PHASE_OPTIMIZER_STEP), weights + gradients + states + inverse_frequencies + norms);
	ck_assert_uint_eq(moment(EST_PHASE_OPTIMIZER_STEP), 9886666752); /* real PyTorch's, traced */
}
END_TEST

/* When the loss is differentiated there are weights and states, no gradients yet, and of activations
 *   16 checkpoints of 2 h bytes a token (the inputs of the layers; nobody keeps the last one's output),
 *   the last norm's fp32 copy, normalised copy, result and rstd (4 h + 2 h + 2 h + 4),
 *   12 bytes a logit: log_softmax's result and two gradients in fp32,
 *   cos and sin (64 elements of 2 bytes a token each), kept for the layers to run again, and input_ids (8 a token),
 *   the loss: 512 bytes.
 * PyTorch's trace has two small ones more: position_ids (8 a token), which the checkpoints keep, and the 1 that
 * backward() begins with. */
START_TEST(the_loss_of_a_1b_model_peaks_at_12_bytes_a_logit)
{
	uint64_t checkpoints = 16 * 2 * tokens * hidden, norm = tokens * (8 * hidden + 4),
		 logits = 12 * tokens * vocabulary;
	uint64_t cos_sin = 2 * 2 * 64 * tokens, input_ids = 8 * tokens, position_ids = 8 * tokens;
	uint64_t sum = weights + states + inverse_frequencies + checkpoints + norm + logits + cos_sin + input_ids + 512;

	ck_assert_uint_eq(sum + position_ids + 512, 10735320064); /* real PyTorch's, traced */
	run_1b(EST_CHECKPOINT_FULL);
	ck_assert_uint_ge(moment(EST_PHASE_LOSS_BACKWARD), sum);
	ck_assert_uint_le(moment(EST_PHASE_LOSS_BACKWARD), sum + position_ids + 512);
}
END_TEST

/* Without checkpoints a layer keeps 16 h + 4 q + 4 kv + 4 heads + 8 f + 8 bytes a token (THEORY 4.1), instead of its
 * input's 2 h. */
START_TEST(without_checkpoints_a_1b_model_keeps_the_closed_form)
{
	uint64_t with, without, layer = tokens * (16 * 2048 + 4 * 2048 + 4 * 512 + 4 * 32 + 8 * 8192 + 8);

	run_1b(EST_CHECKPOINT_FULL);
	with = moment(EST_PHASE_LOSS_BACKWARD);
	run_1b(EST_CHECKPOINT_NONE);
	without = moment(EST_PHASE_LOSS_BACKWARD);
	/* cos and sin are kept either way */
	ck_assert_uint_eq(without - with, 16 * (layer - 2 * tokens * hidden));
}
END_TEST

/* ---- optimizers, and what lies outside the card */

START_TEST(every_optimizer_gives_a_consistent_report)
{
	struct est_model model = llama(3);
	struct est_request request = plain();

	request.optimizer = (enum est_optimizer)_i;
	for (unsigned variant = 0; variant < 4; variant++) {
		request.fuse_optimizer_in_backward = variant & 1;
		request.max_grad_norm = variant & 1 ? 0 : 1;
		request.precision = variant & 2 ? EST_BF16_MASTER : EST_BF16_MIXED;
		run_on(&request, &model, 0, &report);
		check_report(est_word_name(est_optimizer_words, _i), &request, &report);
		ck_assert_int_eq(report.host_pageable > 0,
				 _i == EST_PAGED_ADAMW_32BIT || _i == EST_PAGED_ADAMW_8BIT);
	}
}
END_TEST

START_TEST(checkpoints_on_the_host_are_counted_there)
{
	struct est_model model = llama(12);
	struct est_request request = plain();
	uint64_t checkpoints = 12 * 512 * 512 * 2; /* layers, tokens, hidden size, bytes */

	request.checkpointing = EST_CHECKPOINT_FULL;
	run_on(&request, &model, 0, &other);
	ck_assert_uint_eq(other.host_pinned, 0);
	request.checkpointing = EST_CHECKPOINT_OFFLOAD;
	for (unsigned i = 0; i < 2; i++) {
		request.use_reentrant = i;
		run_on(&request, &model, 0, &report);
		ck_assert_uint_eq(report.host_pinned, checkpoints);
		/* at the loss none is on the card; the last one is alive there either way, as what the final norm reads */
		ck_assert_uint_eq(other.timeline[EST_PHASE_LOSS_BACKWARD - EST_PHASE_FORWARD].allocated
					  - report.timeline[EST_PHASE_LOSS_BACKWARD - EST_PHASE_FORWARD].allocated,
				  checkpoints);
	}
}
END_TEST

START_TEST(managed_memory_is_on_the_card_while_there_is_room)
{
	struct est_model model = llama(12);
	struct est_request request = plain();
	uint64_t outside;

	request.optimizer = EST_ADAMW_TORCH_FUSED;
	run_on(&request, &model, 0, &other);
	request.optimizer = EST_PAGED_ADAMW_32BIT;
	run_on(&request, &model, 0, &report);
	outside = est_device_outside(report.peak.gpu, &request.parallelism).expected;
	ck_assert_uint_gt(report.host_pageable, 7 * (uint64_t)model.parameters);
	ck_assert_uint_lt(report.host_pageable, 8 * (uint64_t)model.parameters);
	ck_assert_uint_eq(report.peak.device.expected, report.peak.reserved.expected + outside + report.host_pageable);
	ck_assert_uint_lt(report.peak.allocated.expected, other.peak.allocated.expected);
	ck_assert_uint_le(report.fits[0].required, other.fits[0].required);
	/* on the card of 2 GiB no more than there is */
	request.micro_batch_size = 4;
	run_on(&request, &model, 4, &report);
	ck_assert_uint_le(report.peak.device.high, GIB(2));
}
END_TEST

/* ---- freeze */

START_TEST(what_is_trained_of_a_frozen_model_is_what_is_told)
{
	struct est_model model = families[_i].make(12);
	struct est_request request = plain();
	uint64_t last = 0;

	request.method = EST_FREEZE;
	request.optimizer = EST_SGD;
	for (request.trainable_layers = 1; request.trainable_layers <= 12; request.trainable_layers += 11) {
		run_on(&request, &model, 0, &report);
		check_report(families[_i].name, &request, &report);
		ck_assert_int_eq(report.trainable_parameters, est_trainable_parameters(&request, &model));
		/* 16-bit gradients, each rounded up to a block */
		ck_assert_uint_ge(report.per_gpu.gradients, 2 * (uint64_t)report.trainable_parameters);
		ck_assert_uint_gt(report.per_gpu.gradients, last);
		last = report.per_gpu.gradients;
	}
}
END_TEST

/* ---- limits */

START_TEST(the_largest_accepted_request_is_finite)
{
	struct est_model model = families[_i].make(16);
	struct est_request request = plain();
	static struct est_faults faults;

	model.position = EST_ROPE;
	model.vocab_size = 1 << 18;
	model.parameters = est_model_count_parameters(&model);
	request.micro_batch_size = 65536;
	request.sequence_length = 1 << 24;
	do {
		request.sequence_length /= 2;
		faults.count = 0;
	} while (!est_check(&request, &model, &faults));
	for (unsigned variant = 0; variant < 4; variant++) {
		request.checkpointing = variant & 1 ? EST_CHECKPOINT_FULL : EST_CHECKPOINT_NONE;
		request.attention = variant & 2 ? EST_EAGER : EST_SDPA;
		run_on(&request, &model, 0, &report);
		check_report(families[_i].name, &request, &report);
		ck_assert_uint_gt(report.peak.allocated.expected, /* the residual stream of each layer at least */
				  2 * 16 * (uint64_t)request.micro_batch_size * (uint64_t)request.sequence_length
					  * 512);
		for (unsigned i = 0; i < CARDS; i++)
			ck_assert_int_ne(report.fits[i].verdict, EST_FITS);
	}
}
END_TEST

START_TEST(an_arena_that_is_too_small_is_told_and_nothing_breaks)
{
	struct est_model model = llama(2);
	struct est_request request = plain();
	const struct est_gpu *card = &cards[0];
	size_t step = 1 << 12, successes = 0;

	request.checkpointing = _i ? EST_CHECKPOINT_FULL : EST_CHECKPOINT_NONE;
	for (size_t size = 0; successes < 3; size += step) {
		est_arena_init(&arena, arena.base, size);
		if (est_run(&request, &model, &card, 1, &arena, &report))
			successes++;
		else
			ck_assert_msg(successes == 0, "%zu bytes are too few, fewer were enough", size);
		ck_assert_uint_le(arena.used, size);
		if (successes == 1)
			other = report;
	}
	ck_assert_mem_eq(&other.peak, &report.peak, sizeof(report.peak));
}
END_TEST

START_TEST(the_rule_of_thumb_has_no_peak)
{
	struct est_model model = llama(4);
	struct est_request request = plain();

	request.accounting = EST_RULE_OF_THUMB;
	run_on(&request, &model, 0, &report);
	ck_assert(!report.replayed);
	ck_assert_uint_eq(report.moments, 0);
	ck_assert_mem_eq(&report.single_gpu, &report.thumb, sizeof(report.thumb));
	ck_assert_mem_eq(&report.per_gpu, &report.thumb_per_gpu, sizeof(report.thumb));
	for (unsigned i = 0; i < CARDS; i++) {
		check_fit("rule of thumb", &report.fits[i], &request);
		ck_assert_uint_eq(report.fits[i].required, report.thumb_per_gpu.total);
		ck_assert_uint_eq(report.fits[i].required_high, report.thumb_per_gpu.total);
	}
}
END_TEST

static bool says_of_macs(enum est_framework framework, const char *card)
{
	struct est_model model = llama(4);
	struct est_request request = plain();
	const struct est_gpu *judged = NULL;

	for (int i = 0; i < CARDS; i++)
		if (strcmp(cards[i].id, card) == 0)
			judged = &cards[i];
	ck_assert_ptr_nonnull(judged);
	request.accounting = EST_RULE_OF_THUMB;
	request.framework = framework;
	arena.used = 0;
	ck_assert(est_run(&request, &model, &judged, 1, &arena, &report));
	ck_assert_int_eq(report.fits[0].verdict == EST_UNSUPPORTED, false);
	for (size_t i = 0; i < report.warnings.count; i++)
		if (strcmp(report.warnings.item[i].pointer, "/accounting") == 0) {
			/* the end of it: not cut off */
			ck_assert_ptr_nonnull(strstr(report.warnings.item[i].detail, "leave room for them"));
			return true;
		}
	return false;
}

START_TEST(the_rule_of_thumb_warns_of_macs)
{
	ck_assert(says_of_macs(EST_TRANSFORMERS, "m4"));
	ck_assert(says_of_macs(EST_MLX, "m4"));
	ck_assert(says_of_macs(EST_MLX, "a100"));
	ck_assert(!says_of_macs(EST_TRANSFORMERS, "a100"));
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("run");
	TCase *test = tcase_create("run");

	tcase_set_timeout(test, 60);
	tcase_add_checked_fixture(test, set_up, tear_down);
	tcase_add_loop_test(test, every_report_is_consistent, 0, COUNT(families) * PRECISIONS);
	tcase_add_loop_test(test, more_of_anything_never_needs_less, 0, COUNT(families) * PRECISIONS);
	tcase_add_loop_test(test, checkpoints_never_need_more, 0, COUNT(families) * PRECISIONS);
	tcase_add_loop_test(test, the_same_inputs_give_the_same_report, 0, COUNT(families) * PRECISIONS);
	tcase_add_test(test, a_kernel_that_keeps_weights_has_room);
	tcase_add_test(test, a_compiled_model_has_room_both_ways);
	tcase_add_loop_test(test, adapters_that_are_upcast_are_noted, 0, 2);
	tcase_add_test(test, inputs_without_outliers_have_room);
	tcase_add_test(test, experts_weighed_in_fp32_have_room);
	tcase_add_test(test, expandable_segments_reserve_less);
	tcase_add_test(test, another_streams_pool_widens_what_is_reserved);
	tcase_add_loop_test(test, a_share_has_room_for_what_a_replay_holds, 0, 3);
	tcase_add_loop_test(test, a_precision_that_deepspeed_does_not_make_is_told, 0, COUNT(precisions));
	tcase_add_test(test, experts_that_are_not_quantised_are_told);
	tcase_add_loop_test(test, what_is_not_replayed_has_room_in_the_upper_figures, 0, COUNT(traced));
	tcase_add_loop_test(test, more_gpus_never_need_more_memory_each, 0, COUNT(scaled));
	tcase_add_loop_test(test, zero_with_fp32_gradients_or_on_the_host_divides_them_too, 0, 2);
	tcase_add_loop_test(test, each_stage_of_zero_needs_no_more_than_the_one_before, 0, 3);
	tcase_add_loop_test(test, zero_divides_what_its_stage_says_among_the_ranks, 0, COUNT(strategies));
	tcase_add_loop_test(test, every_optimizer_gives_a_consistent_report, 0, EST_ADAMW_8BIT_TORCHAO + 1);
	tcase_add_loop_test(test, what_is_trained_of_a_frozen_model_is_what_is_told, 0, COUNT(families));
	tcase_add_test(test, checkpoints_on_the_host_are_counted_there);
	tcase_add_test(test, managed_memory_is_on_the_card_while_there_is_room);
	tcase_add_test(test, a_1b_model_has_the_rows_that_people_know);
	tcase_add_test(test, the_step_of_a_1b_model_holds_weights_gradients_and_states);
	tcase_add_test(test, the_loss_of_a_1b_model_peaks_at_12_bytes_a_logit);
	tcase_add_test(test, without_checkpoints_a_1b_model_keeps_the_closed_form);
	tcase_add_loop_test(test, the_largest_accepted_request_is_finite, 0, COUNT(families));
	tcase_add_loop_test(test, an_arena_that_is_too_small_is_told_and_nothing_breaks, 0, 2);
	tcase_add_test(test, the_rule_of_thumb_has_no_peak);
	tcase_add_test(test, the_rule_of_thumb_warns_of_macs);
	suite_add_tcase(suite, test);
	return run_suite(suite);
}
