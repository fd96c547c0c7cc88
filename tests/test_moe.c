/* What a mixture of experts and latent attention keep for the backward, counted by hand (THEORY 4.7: M pairs of
 * token and expert, M * (4h + 8f) by grouped products), and what PEFT adds to it. */
#include <stdlib.h>
#include <string.h>
#include "estimator/adapters.h"
#include "estimator/routers.h"
#include "tests/suite.h"

/* N tokens that visit K of E experts: M pairs. All sizes are multiples of 512 bytes: nothing is rounded. */
enum { N = 512, K = 2, E = 8, M = N * K, H = 256, F = 512, HEADS = 4, RANK = 16, ARENA = 8 << 20 };
/* latent attention: ranks of q and of k and v, widths of a head's parts */
enum { RQ = 256, RKV = 128, NOPE = 64, ROPE = 32, V = 64 };

static struct est_arena arena;
static struct est_tape tape;
static struct est_pass pass;
static struct est_model model;
static struct est_request request;
static struct est_tensor input;

static struct est_model model_of(enum est_architecture architecture)
{
	bool latent = architecture == EST_ARCH_DEEPSEEK_V3;

	/* clang-format off */
	return (struct est_model){
		.architecture = architecture, .vocab_size = 1024, .hidden_size = H, .num_hidden_layers = 1,
		.num_attention_heads = HEADS, .num_key_value_heads = HEADS, .head_dim = latent ? NOPE + ROPE : 64,
		.intermediate_size = F, .max_position_embeddings = 1024, .gated_mlp = true, .norm = EST_RMSNORM,
		.norms_per_layer = 2, .final_norm = true, .activation = EST_SILU, .partial_rotary_factor = 1,
		.num_experts = E, .num_experts_per_tok = K, .moe_intermediate_size = F, .n_group = 2, .topk_group = 1,
		.expert_bias = architecture == EST_ARCH_GPT_OSS, .kv_lora_rank = latent ? RKV : 0,
		.q_lora_rank = latent ? RQ : 0, .qk_nope_head_dim = NOPE, .qk_rope_head_dim = ROPE, .v_head_dim = V,
		.rope_interleave = true, .norm_topk_prob = architecture == EST_ARCH_MIXTRAL,
	};
	/* clang-format on */
}

static void build(enum est_architecture architecture, enum est_method method, const char *target)
{
	static const struct est_tape_limits limits = {
		.events = 8192, .storages = 1024, .nodes = 512, .leaves = 256, .frames = 8, .frame_saves = 512
	};
	struct est_names *names = &request.lora.target_modules;

	model = model_of(architecture);
	request = (struct est_request){ .method = method,
					.quantization = { .type = EST_MXFP4, .bits = 4 },
					.precision = EST_PURE_BF16,
					.base_dtype = EST_BF16,
					.micro_batch_size = 1,
					.sequence_length = N,
					.lora = { .rank = RANK, .alpha = 2 * RANK, .adapter_dtype = EST_BF16 } };
	names->count = target != NULL;
	names->all = target && !strcmp(target, "all-linear");
	if (target)
		strcpy(names->name[0], target);
	est_arena_init(&arena, malloc(ARENA), ARENA);
	ck_assert(est_tape_init(&tape, &arena, &limits));
	ck_assert(est_pass_build(&pass, &tape, &model, &request));
	pass.fused = EST_SDPA_HAS_FLASH;
	pass.ropes[0].cos = pass.ropes[0].sin = (struct est_tensor){ .numel = N * ROPE, .element = EST_16BIT };
	input = est_leaf_tensor(&tape, est_leaf_new(&tape, est_empty(&tape, N * H, EST_16BIT), true, false));
}

static uint64_t alive(void)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < tape.event_count; i++) {
		bytes += tape.events[i].kind == EST_EVENT_ALLOC ? tape.events[i].bytes : 0;
		bytes -= tape.events[i].kind == EST_EVENT_FREE ? tape.events[i].bytes : 0;
	}
	return bytes;
}

static void tear_down(void)
{
	ck_assert(!tape.exhausted);
	free(arena.base);
}

/* ---- what is kept */

static est_router *router_of(enum est_architecture architecture)
{
	switch (architecture) {
	case EST_ARCH_DEEPSEEK_V3:
		return est_route_deepseek_v3;
	case EST_ARCH_GPT_OSS:
		return est_route_gpt_oss;
	default:
		return est_route_softmax;
	}
}

static const struct {
	const char *name;
	enum est_architecture architecture;
	enum est_method method;
	const char *target;
	uint64_t router, experts;
} mixtures[] = {
	/* clang-format off */
	/* router: fp32 probabilities, the indices, and what the division by the weights' sum keeps. experts: input
	 * and output of the pairs, gate_up 4f, silu and product 2f each; three int64 indices and the pairs' weights
	 * in fp32 */
	{ "Mixtral", EST_ARCH_MIXTRAL, EST_FULL, NULL, 4 * N * E + 8 * M + 4 * N + 4 * M,
	  (uint64_t)M * (4 * H + 8 * F) + 3 * 8 * M + 4 * M },
	/* weights are cast, and not divided: norm_topk_prob is false */
	{ "Qwen3-MoE", EST_ARCH_QWEN3_MOE, EST_FULL, NULL, 4 * N * E + 8 * M,
	  (uint64_t)M * (4 * H + 8 * F) + 3 * 8 * M + 2 * M },
	/* the clamped gate keeps 14f; the experts' numbers once more, for the biases */
	{ "gpt-oss", EST_ARCH_GPT_OSS, EST_FULL, NULL, 8 * M + 2 * M,
	  (uint64_t)M * (4 * H + 14 * F) + 4 * 8 * M + 2 * M },
	/* frozen experts need not their inputs: gate_up, silu and the output of the pairs */
	{ "frozen experts", EST_ARCH_QWEN3_MOE, EST_LORA, "q_proj", 4 * N * E + 8 * M,
	  (uint64_t)M * (2 * H + 6 * F) + 3 * 8 * M + 2 * M },
	/* W + BA of the router and of all experts, made anew and kept; as they are trained, the pairs' inputs too */
	{ "adapted experts", EST_ARCH_QWEN3_MOE, EST_LORA, "all-linear", 4 * N * E + 8 * M + 2 * E * H,
	  (uint64_t)M * (4 * H + 8 * F) + 3 * 8 * M + 2 * M + (uint64_t)2 * E * 3 * H * F },
	/* only the down projection: the input of the pairs is not kept */
	{ "adapted down projection", EST_ARCH_QWEN3_MOE, EST_LORA, "down_proj", 4 * N * E + 8 * M,
	  (uint64_t)M * (2 * H + 8 * F) + 3 * 8 * M + 2 * M + (uint64_t)2 * E * H * F },
	/* clang-format on */
};

START_TEST(keeps_what_a_hand_counts)
{
	struct est_routing routing;
	struct est_tensor out;
	uint64_t before, experts;

	build(mixtures[_i].architecture, mixtures[_i].method, mixtures[_i].target);
	before = alive();
	router_of(mixtures[_i].architecture)(&pass, &pass.layers[0], input, &routing);
	out = est_hold(est_grouped_experts(&pass, &pass.layers[0], input, &routing));
	est_routing_drop(&tape, &routing);
	est_drop(&tape, out);
	experts = alive() - before - mixtures[_i].router;
	ck_assert_msg(experts == mixtures[_i].experts, "%s: %llu, not %llu", mixtures[_i].name,
		      (unsigned long long)experts, (unsigned long long)mixtures[_i].experts);
	tear_down();
}
END_TEST

START_TEST(latent_attention_keeps_low_ranks_and_heads)
{
	/* two norms: an fp32 copy, the factor before the weight, the result, 1 / rms; q and k of all heads; k_nope
	 * and v as they are projected; the output and its logsumexp */
	uint64_t norms = (uint64_t)N * (8 * (RQ + RKV) + 2 * 4), heads = (uint64_t)N * HEADS;
	uint64_t expected = norms + heads * (4 * (NOPE + ROPE) + 2 * (NOPE + V) + 2 * V + 4), before;

	build(EST_ARCH_DEEPSEEK_V3, EST_FULL, NULL);
	before = alive();
	est_finish(&tape, est_latent_attention(&pass, &pass.layers[0], input));
	ck_assert_uint_eq(alive() - before, expected);
	tear_down();
}
END_TEST

/* ---- the backward */

START_TEST(backward_leaves_gradients_alone)
{
	struct est_routing routing;
	struct est_tensor out;
	uint64_t before, gradients = 0;

	build(mixtures[_i].architecture, mixtures[_i].method, mixtures[_i].target);
	before = alive();
	router_of(mixtures[_i].architecture)(&pass, &pass.layers[0], input, &routing);
	out = est_hold(est_grouped_experts(&pass, &pass.layers[0], input, &routing));
	est_routing_drop(&tape, &routing);
	est_tape_backward(&tape, 0, out, est_empty(&tape, N * H, EST_16BIT));
	est_drop(&tape, out);
	for (uint32_t i = 0; i < tape.leaf_count; i++)
		if (tape.leaves[i].grad.storage)
			gradients += tape.storages[tape.leaves[i].grad.storage].bytes;
	ck_assert_uint_gt(gradients, 0);
	ck_assert_msg(alive() == before + gradients, "%s", mixtures[_i].name);
	tear_down();
}
END_TEST

/* ---- what PEFT adapts */

static const struct {
	const char *name;
	enum est_architecture architecture;
	const char *target;
	int64_t expected;
} adapters[] = {
	/* q, k, v, o; the router; rank 16 for each expert, 32 for gate and up */
	{ "all of Qwen3-MoE", EST_ARCH_QWEN3_MOE, "all-linear",
	  RANK * 4 * (H + HEADS * 64) + RANK *(H + E) + RANK *E *(2 * (H + 2 * F) + F + H) },
	{ "gpt-oss: attention alone", EST_ARCH_GPT_OSS, "all-linear", RANK * 4 * (H + HEADS * 64) },
	{ "the router", EST_ARCH_MIXTRAL, "gate", RANK *(H + E) },
	{ "the down projection of the experts", EST_ARCH_MIXTRAL, "down_proj", RANK *E *(F + H) },
	{ "query", EST_ARCH_MIXTRAL, "q_proj", RANK *(H + HEADS * 64) },
};

START_TEST(adapts_what_peft_adapts)
{
	int64_t trained = 0;

	build(adapters[_i].architecture, EST_LORA, adapters[_i].target);
	for (uint32_t i = 0; i < tape.leaf_count; i++)
		if (tape.leaves[i].parameter && tape.leaves[i].value.requires_grad)
			trained += (int64_t)tape.leaves[i].value.numel;
	ck_assert_msg(trained == adapters[_i].expected, "%s: %lld", adapters[_i].name, (long long)trained);
	ck_assert_int_eq(est_lora_parameters(&model, &request.lora), adapters[_i].expected);
	tear_down();
}
END_TEST

static uint64_t loading_peak(void)
{
	uint64_t bytes = 0, peak = 0;

	for (size_t i = 0; i < tape.event_count; i++) {
		bytes += tape.events[i].kind == EST_EVENT_ALLOC ? tape.events[i].bytes : 0;
		bytes -= tape.events[i].kind == EST_EVENT_FREE ? tape.events[i].bytes : 0;
		peak = bytes > peak ? bytes : peak;
	}
	return peak;
}

/* down_proj comes last but for biases: beside what is loaded there are its packed bytes with their scales, 4 bytes
 * for each scale, the 16-bit values, and while half of them are looked up 4 bytes for an index and 2 for what is
 * found. */
START_TEST(an_mxfp4_checkpoint_is_trained_over_in_16_bits)
{
	const uint64_t gate_up = (uint64_t)E * 2 * F * H;
	uint64_t in_16_bits, peak;

	build(EST_ARCH_GPT_OSS, EST_LORA, "q_proj");
	in_16_bits = alive();
	tear_down();
	build(EST_ARCH_GPT_OSS, EST_QLORA, "q_proj");
	ck_assert_uint_eq(alive(), in_16_bits);
	peak = loading_peak();
	ck_assert_uint_ge(peak, gate_up / 2 + gate_up / 32 + gate_up / 32 * 4 + gate_up * 2 + gate_up / 2 * 6);
	ck_assert_uint_le(peak, in_16_bits + gate_up / 2 + gate_up / 32 + gate_up / 32 * 4 + gate_up * 2 + gate_up / 2 * 6);
	tear_down();
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("moe");
	TCase *test = tcase_create("mixtures");

	tcase_add_loop_test(test, keeps_what_a_hand_counts, 0, COUNT(mixtures));
	tcase_add_loop_test(test, backward_leaves_gradients_alone, 0, COUNT(mixtures));
	tcase_add_test(test, latent_attention_keeps_low_ranks_and_heads);
	tcase_add_test(test, an_mxfp4_checkpoint_is_trained_over_in_16_bits);
	tcase_add_loop_test(test, adapts_what_peft_adapts, 0, COUNT(adapters));
	suite_add_tcase(suite, test);
	return run_suite(suite);
}
