#include <stdlib.h>
#include <string.h>
#include "estimator/objective.h"
#include "estimator/router_loss.h"
#include "estimator/step.h"
#include "tests/suite.h"

/* A small untied model; sizes are multiples of 256 elements. W: its bytes in 16 bits, norms and all. */
enum { H = 512, F = 1280, V = 4096, LAYERS = 2, S = 384 };
#define W    UINT64_C(2) * (2 * V * H + LAYERS * (4 * H * H + 3 * H * F + 2 * H) + H)
#define HEAD (UINT64_C(2) * V * H)

static struct est_arena arena;
static struct est_program program;

static const struct est_model model = {
	.architecture = EST_ARCH_LLAMA,
	.vocab_size = V,
	.hidden_size = H,
	.num_hidden_layers = LAYERS,
	.num_attention_heads = 4,
	.num_key_value_heads = 4,
	.head_dim = 128,
	.intermediate_size = F,
	.max_position_embeddings = 4096,
	.gated_mlp = true,
	.norm = EST_RMSNORM,
	.norms_per_layer = 2,
	.final_norm = true,
	.activation = EST_SILU,
	.partial_rotary_factor = 1,
};

static struct est_request request_of(enum est_objective objective, enum est_reference reference, double beta)
{
	return (struct est_request){
		.precision = EST_PURE_BF16,
		.max_grad_norm = 1,
		.micro_batch_size = 1,
		.sequence_length = S,
		.gradient_accumulation_steps = 1,
		.completion_fraction = 1,
		.objective = objective,
		.reference_model = reference,
		.beta = beta,
		.loss = objective == EST_ORPO || objective == EST_SFT ? EST_LOSS_STANDARD : EST_LOSS_CHUNKED,
		.parallelism = { .gpus = 1, .gpus_per_node = 8, .tensor = 1, .pipeline = 1, .context = 1, .expert = 1 },
	};
}

static void trace(const struct est_request *request)
{
	static const uint64_t whole[EST_CATEGORIES] = { 1, 1, 1, 1, 1, 1 };

	arena.used = 0;
	ck_assert(est_program_trace(&program, &model, request, true, whole, &arena));
}

static void set_up(void)
{
	size_t size = est_program_arena_size(LAYERS);

	est_arena_init(&arena, malloc(size), size);
	memset(arena.base, 0xa5, size);
}

static void tear_down(void)
{
	free(arena.base);
}

static uint64_t loaded(void)
{
	uint64_t alive = 0;

	for (size_t i = program.begin[EST_PART_LOAD]; i < program.end[EST_PART_LOAD]; i++)
		if (program.events[i].kind != EST_EVENT_PHASE && program.events[i].category == EST_WEIGHTS)
			alive += program.events[i].kind == EST_EVENT_ALLOC ? program.events[i].bytes
									   : -program.events[i].bytes;
	return alive;
}

/* Allocations of so many bytes in the first micro-batch. */
static unsigned allocations_of(uint64_t bytes)
{
	unsigned count = 0;

	for (size_t i = program.begin[EST_PART_MICRO_FIRST]; i < program.end[EST_PART_MICRO_FIRST]; i++)
		count += program.events[i].kind == EST_EVENT_ALLOC && program.events[i].bytes == bytes;
	return count;
}

static const struct {
	const char *name;
	enum est_objective objective;
	enum est_reference reference;
	double beta;
	uint64_t weights;
	unsigned sequences, forwards, backwards; /* passes of the decoder layers */
} objectives[] = {
	{ "sft", EST_SFT, EST_REFERENCE_NONE, 0, W, 1, 1, 1 },
	{ "dpo with a reference model: its weights, and a pass", EST_DPO, EST_REFERENCE_MODEL, 0, 2 * (W), 2, 2, 1 },
	{ "dpo with log-probabilities from before", EST_DPO, EST_REFERENCE_PRECOMPUTED, 0, W, 2, 1, 1 },
	{ "dpo without a reference", EST_DPO, EST_REFERENCE_NONE, 0, W, 2, 1, 1 },
	{ "kto: mismatched completions, and the reference on both", EST_KTO, EST_REFERENCE_MODEL, 0, 2 * (W), 1, 4, 1 },
	{ "grpo: no KL term, no reference", EST_GRPO, EST_REFERENCE_MODEL, 0, W, 1, 1, 1 },
	{ "grpo with a KL term: the reference's figures come with the batch", EST_GRPO, EST_REFERENCE_MODEL, 0.04,
	  2 * (W), 1, 1, 1 },
	{ "reward: a row in place of the head", EST_REWARD, EST_REFERENCE_NONE, 0, W - HEAD + 2 * H, 2, 1, 1 },
	{ "orpo", EST_ORPO, EST_REFERENCE_NONE, 0, W, 2, 1, 1 },
};

START_TEST(holds_and_runs_what_the_objective_needs)
{
	struct est_request request =
		request_of(objectives[_i].objective, objectives[_i].reference, objectives[_i].beta);
	uint64_t tokens = objectives[_i].sequences * S;

	trace(&request);
	ck_assert_uint_eq(est_objective_sequences(&request), objectives[_i].sequences);
	ck_assert_uint_eq(loaded(), objectives[_i].weights);
	/* in each layer gate, up, silu and their product forward; backward the gradients of these four */
	ck_assert_uint_eq(allocations_of(2 * tokens * F),
			  4 * LAYERS * (objectives[_i].forwards + objectives[_i].backwards));
	ck_assert_int_eq(program.trainable_parameters,
			 (int64_t)(objectives[_i].objective == EST_REWARD ? W - HEAD + 2 * H : W) / 2);
}
END_TEST

/* A frozen base with adapters is its own reference: a pass without adapters, no weights. */
START_TEST(switches_adapters_off_for_the_reference)
{
	struct est_request request = request_of(EST_DPO, EST_REFERENCE_ADAPTER, 0);
	const uint64_t low_rank = UINT64_C(4) * 2 * S * 48; /* lora_A's result in fp32 */
	unsigned with;

	request.method = EST_LORA;
	request.base_dtype = EST_FP32;
	request.precision = EST_PURE_FP32;
	request.lora = (struct est_lora){
		.rank = 48, .alpha = 48, .target_modules = { .all = true }, .adapter_dtype = EST_FP32
	};
	trace(&request);
	with = allocations_of(low_rank);
	ck_assert(!est_objective_holds_reference(&request));
	request.reference_model = EST_REFERENCE_PRECOMPUTED;
	trace(&request);
	ck_assert_uint_gt(with, 0);
	ck_assert_uint_eq(allocations_of(low_rank), with);
}
END_TEST

static const struct {
	enum est_objective objective;
	enum est_task task;
	uint64_t rows;
} scores[] = {
	{ EST_SFT, EST_CAUSAL_LM, 0 },
	{ EST_SFT, EST_SEQUENCE_CLASSIFICATION, 2 },
	{ EST_REWARD, EST_CAUSAL_LM, 1 },
	{ EST_DPO, EST_CAUSAL_LM, 0 },
};

START_TEST(scores_sequences_with_rows)
{
	struct est_request request = { .objective = scores[_i].objective, .task = scores[_i].task };

	ck_assert_uint_eq(est_objective_scores(&request), scores[_i].rows);
}
END_TEST

/* disable_dropout: what is a module goes, what is a function's argument stays. */
static const struct {
	enum est_objective objective;
	enum est_architecture architecture;
	double attention, residual, embedding;
} dropouts[] = {
	{ EST_SFT, EST_ARCH_GPT2, 0.1, 0.1, 0.1 },     { EST_GRPO, EST_ARCH_GPT2, 0.1, 0.1, 0.1 },
	{ EST_DPO, EST_ARCH_GPT2, 0, 0, 0 },           { EST_KTO, EST_ARCH_PHI, 0.1, 0, 0 },
	{ EST_REWARD, EST_ARCH_BLOOM, 0, 0.1, 0.1 },   { EST_ORPO, EST_ARCH_LLAMA, 0.1, 0.1, 0.1 },
};

START_TEST(switches_dropout_modules_off)
{
	struct est_request request = request_of(dropouts[_i].objective, EST_REFERENCE_NONE, 0);
	struct est_model dropped = model;

	dropped.architecture = dropouts[_i].architecture;
	dropped.attention_dropout = dropped.residual_dropout = dropped.embedding_dropout = 0.1;
	dropped = est_objective_model(&request, &dropped);
	ck_assert_double_eq(dropped.attention_dropout, dropouts[_i].attention);
	ck_assert_double_eq(dropped.residual_dropout, dropouts[_i].residual);
	ck_assert_double_eq(dropped.embedding_dropout, dropouts[_i].embedding);
}
END_TEST

/* Who asks a mixture for its routers' logits. */
static const struct {
	enum est_framework framework;
	enum est_objective objective;
	enum est_architecture architecture;
	int64_t trl;
	bool wanted;
} routers[] = {
	{ EST_TRL, EST_SFT, EST_ARCH_MIXTRAL, 0, true },       { EST_TRL, EST_SFT, EST_ARCH_MIXTRAL, 1010, false },
	{ EST_TRANSFORMERS, EST_SFT, EST_ARCH_MIXTRAL, 0, false }, { EST_TRANSFORMERS, EST_DPO, EST_ARCH_OLMOE, 0, true },
	{ EST_TRL, EST_GRPO, EST_ARCH_DEEPSEEK_V3, 0, false }, { EST_TRL, EST_REWARD, EST_ARCH_QWEN3_MOE, 0, false },
};

START_TEST(balances_routers_with_trl)
{
	struct est_request request = request_of(routers[_i].objective, EST_REFERENCE_NONE, 0);
	struct est_model mixture = model;

	mixture.architecture = routers[_i].architecture;
	mixture.num_experts = 8;
	request.framework = routers[_i].framework;
	request.versions.trl = routers[_i].trl;
	request.loss = request.objective == EST_REWARD ? EST_LOSS_STANDARD : EST_LOSS_CHUNKED;
	ck_assert_int_eq(est_router_loss_wanted(&request, &mixture), routers[_i].wanted);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("objective");
	TCase *c = tcase_create("objectives");

	tcase_add_checked_fixture(c, set_up, tear_down);
	tcase_add_loop_test(c, holds_and_runs_what_the_objective_needs, 0, COUNT(objectives));
	tcase_add_test(c, switches_adapters_off_for_the_reference);
	tcase_add_loop_test(c, scores_sequences_with_rows, 0, COUNT(scores));
	tcase_add_loop_test(c, switches_dropout_modules_off, 0, COUNT(dropouts));
	tcase_add_loop_test(c, balances_routers_with_trl, 0, COUNT(routers));
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
