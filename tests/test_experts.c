/* Expert parallelism: what a rank holds of experts that are dealt out, gathers of them and is sent, against what can
 * be counted by hand in torchtitan's apply_fsdp(), its ExpertParallel and its MoE. */
#include <check.h>
#include "estimator/expert_parallel.h"

#define COUNT(table) (int)(sizeof(table) / sizeof((table)[0]))

enum { S = 512, H = 1024, F = 512, HEADS = 8, KV = 4, DIM = 128, V = 2048, LAYERS = 4, EXPERTS = 16, CHOSEN = 2 };

#include "tests/llama.h"

/* Elements of a layer's experts, and of what else it has: attention, the router, norms of heads and of the stream. */
enum { ROUTED = 3 * EXPERTS * H * F, DENSE = 2 * H * HEADS * DIM + 2 * H * KV * DIM + EXPERTS * H + 2 * DIM + 2 * H };

static void set_up(void)
{
	take_arena(LAYERS);
}

static struct est_model mixture(void)
{
	struct est_model model = LLAMA(LAYERS);

	model.architecture = EST_ARCH_QWEN3_MOE;
	model.qk_norm = EST_QK_NORM_PER_HEAD;
	model.num_experts = EXPERTS;
	model.num_experts_per_tok = CHOSEN;
	model.moe_intermediate_size = F;
	model.norm_topk_prob = true;
	return model;
}

static struct est_request dealt_out(int64_t expert, int64_t gpus)
{
	return (struct est_request){
		.framework = EST_TORCHTITAN,
		.precision = EST_BF16_MIXED,
		.optimizer = EST_ADAMW_TORCH_FUSED,
		.checkpointing = EST_CHECKPOINT_FULL,
		.attention = EST_SDPA_FLASH,
		.micro_batch_size = 1,
		.sequence_length = S,
		.gradient_accumulation_steps = 1,
		.parallelism = { .strategy = EST_FSDP, .gpus = gpus, .gpus_per_node = 8, .tensor = 1, .pipeline = 1, .context = 1,
				 .expert = expert, .reshard_after_forward = true, .wrap = EST_WRAP_ACCELERATE,
				 .param_dtype = EST_BF16, .reduce_dtype = EST_FP32, .output_dtype = EST_DTYPE_NONE },
	};
}

static void trace_mixture(const struct est_request *request)
{
	struct est_model model = mixture();

	trace_program(&model, request);
}

static const struct { int64_t expert, gpus; } groups[] = { { 2, 8 }, { 4, 8 }, { 8, 8 }, { 16, 16 } };

/* 4 bytes an element of everything; a shard of a norm is less than the 512 bytes that a block has at least. */
static void check_shards(uint64_t ranks)
{
	uint64_t whole = LAYERS * (uint64_t)(ROUTED + DENSE) + 2 * (uint64_t)V * H + H, norms = 4 * LAYERS + 1;
	uint64_t bytes = most_alive(EST_WEIGHTS, EST_PHASE_FORWARD);

	ck_assert_uint_ge(bytes, 4 * whole / ranks);
	ck_assert_uint_le(bytes, 4 * whole / ranks + 512 * norms);
}

/* The experts are divided by the ranks that have others and by those that have the same. */
START_TEST(all_ranks_share_the_parameters)
{
	struct est_request request = dealt_out(groups[_i].expert, groups[_i].gpus);

	trace_mixture(&request);
	check_shards((uint64_t)groups[_i].gpus);
}
END_TEST

START_TEST(replicas_have_the_same_shards)
{
	struct est_request request = dealt_out(2, 16);

	request.parallelism.strategy = EST_HSDP;
	request.parallelism.shard_size = 8;
	trace_mixture(&request);
	check_shards(8);
}
END_TEST

/* As a layer's experts have been copied out: the layer's other parameters and its experts', the outputs of both
 * gathers, and what was gathered ahead, the next layer with its experts. In 16 bits; one rank alone gathers nothing
 * of its experts, and casts the last of the three. */
START_TEST(the_next_layer_is_gathered_ahead)
{
	struct est_request request = dealt_out(groups[_i].expert, groups[_i].gpus);
	uint64_t experts = 2 * (uint64_t)ROUTED / (uint64_t)groups[_i].expert, rest = 2 * (uint64_t)DENSE;
	bool alone = groups[_i].expert == groups[_i].gpus;
	uint64_t gathered = alone ? 2 * rest + experts / 3 : 2 * rest + 2 * experts, counters = LAYERS * 2 * 512, bytes;

	trace_mixture(&request);
	bytes = most_alive(EST_BUFFERS, EST_PHASE_FORWARD);
	ck_assert_uint_ge(bytes, rest + experts + gathered + counters);
	ck_assert_uint_le(bytes, rest + experts + gathered + counters + S * DIM * 8 + 64 * 1024);
}
END_TEST

/* The more ranks the experts are dealt out to, the less of them is gathered at once; what is sent stays. */
START_TEST(a_step_takes_less_of_fewer_experts)
{
	uint64_t before = UINT64_MAX;

	for (int64_t expert = 2; expert <= 8; expert *= 2) {
		struct est_request request = dealt_out(expert, 8);
		uint64_t bytes;

		trace_mixture(&request);
		bytes = most_alive(EST_CATEGORIES, EST_PHASE_BACKWARD);
		ck_assert_uint_lt(bytes, before);
		before = bytes;
	}
}
END_TEST

/* Nor does it take more on more ranks, before and after there are more of them than experts. */
START_TEST(a_step_takes_less_on_more_ranks)
{
	uint64_t before = UINT64_MAX;

	for (int64_t gpus = 4; gpus <= 64; gpus *= 2) {
		struct est_request request = dealt_out(4, gpus);
		uint64_t bytes;

		trace_mixture(&request);
		bytes = most_alive(EST_CATEGORIES, EST_PHASE_BACKWARD);
		ck_assert_uint_lt(bytes, before);
		before = bytes;
	}
}
END_TEST

/* A row is kept as it comes to the experts, and four times as wide as they are. */
START_TEST(a_row_more_is_kept_in_every_graph)
{
	struct est_model model = mixture();
	struct est_request request = dealt_out(4, 8);
	uint64_t rows = S * CHOSEN, kept = rows * (2 * H + 8 * F), passing = rows * 8 * (H + F);

	ck_assert_uint_eq(est_expert_surplus(&request, &model), kept + passing);
	request.checkpointing = EST_CHECKPOINT_NONE;
	ck_assert_uint_eq(est_expert_surplus(&request, &model), LAYERS * kept + passing);
	request.parallelism.expert = 1;
	ck_assert_uint_eq(est_expert_surplus(&request, &model), 0);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("experts");
	TCase *tcase = tcase_create("experts");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_checked_fixture(tcase, set_up, free_arena);
	tcase_add_loop_test(tcase, all_ranks_share_the_parameters, 0, COUNT(groups));
	tcase_add_test(tcase, replicas_have_the_same_shards);
	tcase_add_loop_test(tcase, the_next_layer_is_gathered_ahead, 0, COUNT(groups));
	tcase_add_test(tcase, a_step_takes_less_of_fewer_experts);
	tcase_add_test(tcase, a_step_takes_less_on_more_ranks);
	tcase_add_test(tcase, a_row_more_is_kept_in_every_graph);
	suite_add_tcase(suite, tcase);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
