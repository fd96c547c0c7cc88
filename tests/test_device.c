#include <stdlib.h>
#include <string.h>
#include "estimator/device.h"
#include "tests/suite.h"

static const uint64_t mib = 1 << 20;

static const struct est_gpu p100 = { .vendor = EST_NVIDIA, .compute_capability = 60 };
static const struct est_gpu v100 = { .vendor = EST_NVIDIA, .compute_capability = 70, .fast_links = true };
static const struct est_gpu t4 = { .vendor = EST_NVIDIA, .compute_capability = 75 };
static const struct est_gpu a100 = { .vendor = EST_NVIDIA, .compute_capability = 80, .bf16 = true, .fast_links = true };
static const struct est_gpu a10 = { .vendor = EST_NVIDIA, .compute_capability = 86, .bf16 = true };
static const struct est_gpu rtx_4090 = { .vendor = EST_NVIDIA, .compute_capability = 89, .bf16 = true, .fp8 = true };
static const struct est_gpu h100 = {
	.vendor = EST_NVIDIA, .compute_capability = 90, .bf16 = true, .fp8 = true, .fast_links = true,
};
static const struct est_gpu b200 = {
	.vendor = EST_NVIDIA, .compute_capability = 100, .bf16 = true, .fp8 = true, .fast_links = true,
};
static const struct est_gpu rtx_5090 = { .vendor = EST_NVIDIA, .compute_capability = 120, .bf16 = true, .fp8 = true };
static const struct est_gpu bare_size = { .vendor = EST_NVIDIA, .bf16 = true };
static const struct est_gpu mi300x = { .vendor = EST_AMD, .bf16 = true, .fp8 = true, .fast_links = true };
static const struct est_gpu m1 = { .vendor = EST_APPLE, .kind = EST_UNIFIED };
static const struct est_gpu m4 = { .vendor = EST_APPLE, .kind = EST_UNIFIED, .bf16 = true };
static const struct est_gpu arc = { .vendor = EST_INTEL, .bf16 = true };
static const struct est_gpu gaudi = { .vendor = EST_HABANA, .bf16 = true, .fp8 = true, .fast_links = true };
static const struct est_gpu tpu = { .vendor = EST_GOOGLE, .bf16 = true, .fast_links = true };
static const struct est_gpu trainium = { .vendor = EST_AWS, .bf16 = true, .fp8 = true, .fast_links = true };

static const struct {
	const struct est_gpu *gpu;
	uint64_t workspace;         /* bytes */
	uint64_t context;           /* MiB expected */
} cards[] = {
	{ &p100, 8519680, 300 }, { &v100, 8519680, 380 }, { &t4, 8519680, 330 }, { &a100, 8519680, 450 },
	{ &a10, 8519680, 380 }, { &rtx_4090, 8519680, 430 }, { &h100, 33554432, 520 }, { &b200, 33554432, 600 },
	{ &rtx_5090, 33554432, 480 }, { &bare_size, 8519680, 450 }, { &mi300x, 33554432, 600 }, { &m4, 0, 200 },
	{ &arc, 0, 500 }, { &tpu, 0, 528 }, { &trainium, 0, 512 },
	{ &gaudi, 0, 512 },
};

START_TEST(a_card_has_its_workspace_and_context)
{
	struct est_range context = est_device_context(cards[_i].gpu);

	ck_assert_uint_eq(est_device_workspace(cards[_i].gpu), cards[_i].workspace);
	ck_assert_uint_eq(context.expected, cards[_i].context * mib);
	ck_assert_uint_gt(context.low, 0);
	ck_assert_uint_lt(context.low, context.expected);
	ck_assert_uint_lt(context.expected, context.high);
}
END_TEST

START_TEST(the_measured_contexts_lie_in_the_range)
{
	struct est_range ada = est_device_context(&rtx_4090);

	ck_assert_uint_le(ada.low, 426 * mib); /* RTX 6000 Ada, torch 2.10: 426 MiB */
	ck_assert_uint_ge(ada.high, 426 * mib);
}
END_TEST

static const struct {
	const char *name;
	const struct est_gpu *gpu;
	struct est_parallelism parallelism;
	uint64_t low, expected, high; /* MiB */
} groups[] = {
	{ "one card talks to nobody", &h100, { .strategy = EST_ZERO3, .gpus = 1 }, 0, 0, 0 },
	{ "NVLink", &h100, { .strategy = EST_ZERO3, .gpus = 8 }, 307, 614, 922 },
	{ "PCIe", &rtx_4090, { .strategy = EST_DDP, .gpus = 2 }, 150, 230, 310 },
	{ "hybrid sharding has two groups", &a100, { .strategy = EST_HSDP, .gpus = 16 }, 614, 1228, 1844 },
	{ "a tensor group more", &h100, { .strategy = EST_FSDP, .gpus = 8, .tensor = 2 }, 614, 1228, 1844 },
	{ "stages alone", &h100, { .strategy = EST_SINGLE, .gpus = 8, .pipeline = 8 }, 1024, 1536, 3072 },
	{ "parts of sequences", &h100, { .strategy = EST_FSDP, .gpus = 8, .context = 2 }, 1331, 2150, 3994 },
	{ "a pipeline's peers", &h100, { .strategy = EST_DDP, .gpus = 8, .pipeline = 2 }, 1331, 2150, 3994 },
	{ "RCCL's first and further group", &mi300x, { .strategy = EST_HSDP, .gpus = 8 }, 1014, 1690, 2536 },
	{ "TPUs have none of their own", &tpu, { .strategy = EST_FSDP, .gpus = 8 }, 0, 0, 0 },
};

START_TEST(communicators_cost_by_link_and_group)
{
	struct est_range range = est_device_communication(groups[_i].gpu, &groups[_i].parallelism);
	struct est_range context = est_device_context(groups[_i].gpu);
	struct est_range outside = est_device_outside(groups[_i].gpu, &groups[_i].parallelism);

	ck_assert_msg(range.low == groups[_i].low * mib && range.expected == groups[_i].expected * mib
		      && range.high == groups[_i].high * mib, "%s", groups[_i].name);
	ck_assert_uint_eq(outside.low, range.low + context.low);
	ck_assert_uint_eq(outside.expected, range.expected + context.expected);
	ck_assert_uint_eq(outside.high, range.high + context.high);
}
END_TEST

static const struct {
	const struct est_gpu *gpu;
	int64_t torch;
	enum est_attention attention;
	enum est_sdpa_choice choice;
} choices[] = {
	{ &t4, 0, EST_SDPA, EST_SDPA_LACKS_FLASH },
	{ &a100, 0, EST_SDPA, EST_SDPA_HAS_FLASH },
	{ &rtx_4090, 0, EST_SDPA, EST_SDPA_HAS_FLASH },
	{ &h100, 0, EST_SDPA, EST_SDPA_PREFERS_CUDNN },
	{ &b200, 0, EST_SDPA, EST_SDPA_PREFERS_CUDNN },
	{ &rtx_5090, 0, EST_SDPA, EST_SDPA_HAS_FLASH },
	{ &h100, 2011, EST_SDPA, EST_SDPA_PREFERS_CUDNN },
	{ &h100, 2010, EST_SDPA, EST_SDPA_HAS_FLASH },
	{ &h100, 0, EST_SDPA_FLASH, EST_SDPA_HAS_FLASH },
	{ &bare_size, 0, EST_SDPA, EST_SDPA_HAS_FLASH },
	{ &mi300x, 0, EST_SDPA, EST_SDPA_HAS_FLASH },
};

START_TEST(sdpa_chooses_by_card_and_release)
{
	const struct est_request request = { .attention = choices[_i].attention, .versions = { .torch = choices[_i].torch } };

	ck_assert_int_eq(est_device_sdpa(choices[_i].gpu, &request), choices[_i].choice);
}
END_TEST

/* Runs everywhere: fp32 with fused AdamW and sdpa. A case changes one thing. */
static const struct est_request plain = { .precision = EST_PURE_FP32, .parallelism = { .gpus = 1 } };

#define FP32 .precision = EST_PURE_FP32
#define THUMB .accounting = EST_RULE_OF_THUMB
#define BITS4 .method = EST_QLORA, .quantization = { .bits = 4, .type = EST_NF4 }
#define BITS8 .method = EST_QLORA, .quantization = { .bits = 8, .type = EST_INT8 }
static const struct {
	const char *name;
	struct est_request request;
	const struct est_gpu *runs[8], *refuses[12];
} recipes[] = {
	{ "fp32", { FP32, .micro_batch_size = 1 }, { &p100, &v100, &mi300x },
	  { &m1, &m4, &tpu, &trainium, &gaudi, &arc } },
	{ "fp32 by the rule of thumb", { FP32, THUMB }, { &p100, &m1, &m4, &tpu, &trainium, &gaudi, &arc }, { 0 } },
	{ "eager attention", { FP32, .attention = EST_EAGER }, { &p100, &h100, &arc }, { &tpu, &gaudi } },
	{ "the math kernel", { FP32, .attention = EST_SDPA_MATH }, { &p100, &h100, &arc }, { &tpu, &gaudi } },
	{ "fp32 with MLX", { FP32, .framework = EST_MLX }, { &m1, &m4 }, { &p100, &h100, &mi300x } },
	{ "bf16 with MLX", { .precision = EST_PURE_BF16, .framework = EST_MLX }, { &m1, &m4 }, { &h100 } },
	{ "MLX by the rule of thumb", { FP32, THUMB, .framework = EST_MLX }, { &m4, &h100 }, { 0 } },
	{ "bf16", { .precision = EST_PURE_BF16 }, { &a100, &h100, &mi300x, &bare_size },
	  { &p100, &v100, &t4, &m1, &m4 } },
	{ "bf16 by the rule of thumb", { .precision = EST_PURE_BF16, THUMB }, { &a100, &m4 }, { &v100, &m1 } },
	{ "bf16 with a master copy", { .precision = EST_BF16_MASTER }, { &a10 }, { &v100 } },
	{ "bf16 autocast", { .precision = EST_BF16_AUTOCAST }, { &a10 }, { &t4 } },
	{ "bf16 mixed", { .precision = EST_BF16_MIXED }, { &a10 }, { &t4 } },
	{ "fp16", { .precision = EST_FP16_MIXED }, { &v100, &t4, &p100, &h100 }, { 0 } },
	{ "fp8 states", { FP32, .optimizer = EST_ADAMW_FP8 }, { &rtx_4090, &h100, &mi300x }, { &a100, &v100, &m4, &tpu } },
	{ "FlashAttention 2", { FP32, .attention = EST_FLASH_ATTENTION_2 }, { &a100, &rtx_4090, &h100, &mi300x, &bare_size },
	  { &v100, &t4, &m4, &tpu, &arc } },
	{ "FlashAttention 3", { FP32, .attention = EST_FLASH_ATTENTION_3 }, { &h100 },
	  { &a100, &b200, &rtx_5090, &mi300x, &m4 } },
	{ "the flash kernel", { FP32, .attention = EST_SDPA_FLASH }, { &a100, &h100, &mi300x }, { &t4, &m4, &tpu } },
	{ "the efficient kernel", { FP32, .attention = EST_SDPA_EFFICIENT }, { &p100, &t4, &h100 }, { &m4, &tpu } },
	{ "the cuDNN kernel", { FP32, .attention = EST_SDPA_CUDNN }, { &a100, &b200 }, { &t4, &mi300x, &m4 } },
	{ "torch.compile", { FP32, .torch_compile = true }, { &v100, &h100, &mi300x }, { &p100, &m4, &tpu } },
	{ "Liger", { FP32, .liger_kernel = true }, { &t4, &h100 }, { &p100, &m4 } },
	{ "cut cross entropy", { FP32, .loss = EST_LOSS_CUT_CROSS_ENTROPY }, { &a10, &h100 }, { &t4, &p100, &m4 } },
	{ "8-bit AdamW", { FP32, .optimizer = EST_ADAMW_8BIT }, { &p100, &t4, &h100, &mi300x },
	  { &m4, &tpu, &trainium } },
	{ "paged AdamW", { FP32, .optimizer = EST_PAGED_ADAMW_32BIT }, { &t4, &h100 }, { &m4, &tpu } },
	{ "4-bit AdamW", { FP32, .optimizer = EST_ADAMW_4BIT }, { &a100, &mi300x }, { &t4, &m4, &tpu } },
	{ "4-bit base weights", { FP32, BITS4 }, { &p100, &t4, &a10, &mi300x }, { &tpu, &trainium, &m4 } },
	{ "8-bit base weights", { FP32, BITS8 }, { &t4, &a10, &h100 }, { &p100, &v100, &tpu } },
	{ "several GPUs", { FP32, .parallelism = { .gpus = 8, .strategy = EST_ZERO3 } }, { &v100, &h100, &mi300x }, { &m4 } },
	{ "several Macs with MLX", { FP32, .parallelism = { .gpus = 8 }, .framework = EST_MLX }, { &m4 }, { 0 } },
};

START_TEST(a_recipe_is_refused_by_the_cards_that_cannot_run_it)
{
	for (int i = 0; i < COUNT(recipes[0].runs) && recipes[_i].runs[i]; i++)
		ck_assert_msg(!est_device_refuses(recipes[_i].runs[i], &recipes[_i].request), "%s, runs %d: %s",
			      recipes[_i].name, i, est_device_refuses(recipes[_i].runs[i], &recipes[_i].request));
	for (int i = 0; i < COUNT(recipes[0].refuses) && recipes[_i].refuses[i]; i++)
		ck_assert_msg(est_device_refuses(recipes[_i].refuses[i], &recipes[_i].request) != NULL,
			      "%s, refuses %d", recipes[_i].name, i);
}
END_TEST

START_TEST(cards_of_cuda_and_rocm_alone_run_the_plain_recipe)
{
	for (int i = 0; i < COUNT(cards); i++)
		ck_assert_int_eq(est_device_refuses(cards[i].gpu, &plain) == NULL,
				 cards[i].gpu->vendor == EST_NVIDIA || cards[i].gpu->vendor == EST_AMD);
}
END_TEST

/* What a Mac cannot run is said before what is not modelled of it. */
static const struct {
	struct est_request request;
	const char *says;
} on_a_mac[] = {
	{ { FP32 }, "(MPS)" },
	{ { FP32, BITS4 }, "(MPS)" },
	{ { FP32, .framework = EST_LITGPT }, "(MPS)" },
	{ { .precision = EST_PURE_BF16 }, "no bf16 arithmetic" },
	{ { FP32, .torch_compile = true }, "Triton" },
	{ { FP32, .optimizer = EST_ADAMW_8BIT }, "bitsandbytes" },
	{ { FP32, .parallelism = { .gpus = 2 } }, "collective" },
};

START_TEST(a_mac_says_why)
{
	const char *reason = est_device_refuses(&m1, &on_a_mac[_i].request);

	ck_assert_ptr_nonnull(reason);
	ck_assert_msg(strstr(reason, on_a_mac[_i].says) != NULL, "%s: %s", on_a_mac[_i].says, reason);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("device");
	TCase *test = tcase_create("device");

	tcase_add_loop_test(test, a_card_has_its_workspace_and_context, 0, COUNT(cards));
	tcase_add_test(test, the_measured_contexts_lie_in_the_range);
	tcase_add_loop_test(test, communicators_cost_by_link_and_group, 0, COUNT(groups));
	tcase_add_loop_test(test, sdpa_chooses_by_card_and_release, 0, COUNT(choices));
	tcase_add_loop_test(test, a_recipe_is_refused_by_the_cards_that_cannot_run_it, 0, COUNT(recipes));
	tcase_add_test(test, cards_of_cuda_and_rocm_alone_run_the_plain_recipe);
	tcase_add_loop_test(test, a_mac_says_why, 0, COUNT(on_a_mac));
	suite_add_tcase(suite, test);
	return run_suite(suite);
}
