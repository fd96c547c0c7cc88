/* Megatron: what a rank holds, keeps of a layer and needs for a moment, against what can be counted by hand in megatron/core
 * and Transformer Engine. */
#include <check.h>
#include "estimator/megatron.h"
#include "estimator/pipeline.h"

#define COUNT(table) (int)(sizeof(table) / sizeof((table)[0]))

enum { S = 1024, H = 1024, F = 2816, HEADS = 8, KV = 4, DIM = 128, V = 2048, LAYERS = 4, EXPERTS = 16, CHOSEN = 2, MF = 512 };

#include "tests/llama.h"

enum { ATTENTION = 2 * H * HEADS * DIM + 2 * H * KV * DIM, LAYER = ATTENTION + 3 * H * F + 2 * H,
       WHOLE = LAYERS * LAYER + 2 * V * H + H, MIB = 1 << 20 };

static void set_up(void)
{
	take_arena(2 * LAYERS);
}

static struct est_request run_on(int64_t gpus, int64_t tensor)
{
	return (struct est_request){
		.framework = EST_MEGATRON, .precision = EST_BF16_MASTER, .optimizer = EST_ADAMW_TORCH_FUSED,
		
		.optimizer_state_dtype = EST_FP32, .attention = EST_FLASH_ATTENTION_2, .loss = EST_LOSS_VOCAB_PARALLEL, .micro_batch_size = 1, .sequence_length = S,
		.gradient_accumulation_steps = 1,
		.parallelism = { .strategy = EST_ZERO1, .gpus = gpus, .gpus_per_node = 8, .tensor = tensor, .pipeline = 1, .virtual_stages = 1,
				 .context = 1, .expert = 1, .sequence_parallel = tensor > 1, .grad_accum_dtype = EST_FP32 },
	};
}

static struct est_model llama(int64_t layers)
{
	struct est_model model = LLAMA(layers);

	return model;
}

static struct est_model mixture(void)
{
	struct est_model model = llama(LAYERS);

	model.architecture = EST_ARCH_QWEN3_MOE;
	model.num_experts = EXPERTS;
	model.num_experts_per_tok = CHOSEN;
	model.moe_intermediate_size = MF;
	return model;
}

static void trace(const struct est_model *model, const struct est_request *request)
{
	const struct est_model gpt = est_megatron_model(model);

	trace_program(&gpt, request);
}

static uint64_t activations_kept(const struct est_model *model, const struct est_request *request)
{
	trace(model, request);
	return most_alive(EST_ACTIVATIONS, EST_PHASE_FORWARD);
}

/* Bytes that one more layer keeps, where the most is alive when the last one is through. */
static uint64_t kept_of_a_layer(const struct est_request *request)
{
	struct est_model few = llama(LAYERS), many = llama(2 * LAYERS);
	uint64_t most = activations_kept(&few, request);

	return (activations_kept(&many, request) - most) / LAYERS;
}

/* ---- at rest */

static const struct { int64_t gpus; enum est_dtype gradients; } ranks[] = { { 1, EST_FP32 }, { 4, EST_FP32 }, { 8, EST_BF16 } };

/* 2 + 4 (or 2) + 12 / n bytes a parameter */
START_TEST(states_are_shared_by_data_parallel_ranks)
{
	struct est_request request = run_on(ranks[_i].gpus, 1);
	struct est_model model = llama(LAYERS);
	uint64_t n = (uint64_t)ranks[_i].gpus, room = 512 * (uint64_t)(8 * LAYERS + 4);

	request.parallelism.grad_accum_dtype = ranks[_i].gradients;
	trace(&model, &request);
	ck_assert_uint_eq(most_alive(EST_WEIGHTS, EST_PHASE_FORWARD), 2 * (uint64_t)WHOLE);
	ck_assert_uint_eq(most_alive(EST_GRADIENTS, EST_PHASE_FORWARD), (ranks[_i].gradients == EST_FP32 ? 4 : 2) * (uint64_t)WHOLE);
	ck_assert_uint_le(4 * (uint64_t)WHOLE / n, most_alive(EST_OPTIMIZER, EST_PHASE_FORWARD));
	ck_assert_uint_le(most_alive(EST_OPTIMIZER, EST_PHASE_FORWARD), 4 * (uint64_t)WHOLE / n + room);
	ck_assert_int_le((int64_t)(8 * (uint64_t)WHOLE / n), growth_in(EST_PART_STATES, EST_OPTIMIZER).end);
}
END_TEST

/* Megatron moves parameters that were loaded before: for a moment there are two of each. */
START_TEST(parameters_move_into_a_buffer)
{
	struct est_request request = run_on(2, 1);
	struct est_model model = llama(LAYERS);
	struct growth load;

	trace(&model, &request);
	load = growth_in(EST_PART_LOAD, EST_WEIGHTS);
	ck_assert_int_ge(load.peak, 4 * (int64_t)WHOLE);
	ck_assert_int_eq(load.end, 2 * (int64_t)WHOLE);
	request.parallelism.strategy = EST_DDP;
	trace(&model, &request);
	load = growth_in(EST_PART_LOAD, EST_WEIGHTS);
	ck_assert_int_eq(load.peak, load.end);
	ck_assert_int_ge(growth_in(EST_PART_STATES, EST_OPTIMIZER).end, 8 * (int64_t)WHOLE);
}
END_TEST

/* bf16 gradients, which fp32 moments are given a copy of, and those of the precision-aware optimizer not. */
START_TEST(moments_may_be_narrow)
{
	struct est_request request = run_on(1, 1);
	struct est_model model = llama(LAYERS);

	request.parallelism.grad_accum_dtype = EST_BF16;
	trace(&model, &request);
	ck_assert_int_eq(growth_in(EST_PART_CLIP, EST_OPTIMIZER).end, 4 * (int64_t)WHOLE);
	request.optimizer_state_dtype = EST_BF16;
	trace(&model, &request);
	ck_assert_int_eq(growth_in(EST_PART_CLIP, EST_OPTIMIZER).end, 0);
	ck_assert_int_ge(growth_in(EST_PART_STATES, EST_OPTIMIZER).end, 4 * (int64_t)WHOLE);
	ck_assert_int_le(growth_in(EST_PART_STATES, EST_OPTIMIZER).end, 4 * (int64_t)WHOLE + 512 * (8 * LAYERS + 4));
}
END_TEST

START_TEST(a_host_holds_what_is_offloaded)
{
	struct est_request request = run_on(1, 1);
	struct est_model model = llama(LAYERS);

	request.offload.optimizer = EST_ON_CPU;
	trace(&model, &request);
	ck_assert_uint_eq(program.host_states, 12 * (uint64_t)WHOLE);
	ck_assert_uint_eq(most_alive(EST_OPTIMIZER, EST_PHASE_BACKWARD), 0);
	ck_assert_int_eq(growth_in(EST_PART_STATES, EST_OPTIMIZER).end, 0);
}
END_TEST

/* Experts are dealt out, and the ranks that have the same ones are fewer than those of all else. */
START_TEST(experts_have_ranks_of_their_own)
{
	struct est_request request = run_on(8, 1);
	struct est_model model = mixture();
	uint64_t routed = 3 * (uint64_t)LAYERS * EXPERTS * H * MF, others = LAYERS * (uint64_t)(ATTENTION + H * EXPERTS + 2 * H) + 2 * V * H + H;

	request.parallelism.expert = 4;
	trace(&model, &request);
	ck_assert_uint_eq(most_alive(EST_WEIGHTS, EST_PHASE_FORWARD), 2 * (others + routed / 4));
	ck_assert_uint_ge(most_alive(EST_OPTIMIZER, EST_PHASE_FORWARD), 4 * (others / 8 + routed / 4 / 2));
	ck_assert_uint_le(most_alive(EST_OPTIMIZER, EST_PHASE_FORWARD), 4 * (others / 8 + routed / 4 / 2) + 512 * 64);
}
END_TEST

/* ---- a layer */

/* input, normed, residual, normed again: 8 s h; q, k, v and attention's output: 4 s a d + 4 s kv d, and its sums; up and gate,
 * activated: 6 s f */
START_TEST(a_layer_keeps_its_parts)
{
	struct est_request request = run_on(1, 1);
	uint64_t attention = 4 * S * (HEADS + KV) * DIM + 4 * S * HEADS, kept = 8 * S * H + attention + 6 * S * F;

	ck_assert_uint_eq(kept_of_a_layer(&request), kept);
	request.checkpointing = EST_CHECKPOINT_SELECTIVE; /* core attention runs again, for its sums */
	ck_assert_uint_eq(kept_of_a_layer(&request), kept - 4 * S * HEADS);
	request.checkpointing = EST_CHECKPOINT_FULL;
	ck_assert_uint_eq(kept_of_a_layer(&request), 2 * S * H);
}
END_TEST

/* TransformerEngine keeps the residual stream as it is split, and a rank has its part of everything else. */
START_TEST(a_split_sequence_divides_all_that_is_kept)
{
	struct est_request alone = run_on(1, 1), split = run_on(4, 4), whole = split;
	uint64_t kept = kept_of_a_layer(&alone);

	ck_assert_uint_eq(kept_of_a_layer(&split), kept / 4);
	whole.parallelism.sequence_parallel = false;
	ck_assert_uint_eq(kept_of_a_layer(&whole), 8 * S * H + (kept - 8 * S * H) / 4);
}
END_TEST

/* Of each pair of token and expert what the expert gets, 2 h, and what it makes of it, 6 f. */
START_TEST(a_mixture_keeps_its_pairs)
{
	struct est_request one = run_on(4, 1), two = one;
	struct est_model model = mixture();
	uint64_t kept;

	one.parallelism.expert = two.parallelism.expert = 4;
	kept = activations_kept(&model, &one);
	model.num_experts_per_tok = 2 * CHOSEN;
	ck_assert_uint_ge(activations_kept(&model, &two) - kept, LAYERS * (uint64_t)CHOSEN * S * (2 * H + 6 * MF));
}
END_TEST

/* ---- the loss */

/* logits in 16 bits and the softmax in fp32; fused, the backward copies it */
START_TEST(a_fused_loss_copies_the_softmax)
{
	struct est_request request = run_on(1, 1);
	struct est_model model = llama(LAYERS);
	uint64_t fused, plain;

	trace(&model, &request);
	fused = most_alive(EST_ACTIVATIONS, EST_PHASE_LOSS_BACKWARD);
	request.loss = EST_LOSS_STANDARD;
	trace(&model, &request);
	plain = most_alive(EST_ACTIVATIONS, EST_PHASE_LOSS_BACKWARD);
	ck_assert_uint_eq(fused - plain, 4 * S * V);
	ck_assert_uint_eq(most_alive(EST_ACTIVATIONS, EST_PHASE_LOSS_FORWARD), plain);
}
END_TEST

/* ---- a pipeline */

/* Layers alone count, and the first stages take what is left over. */
START_TEST(stages_have_equally_many_layers)
{
	const struct est_model model = llama(2 * LAYERS), gpt = est_megatron_model(&model);
	const struct est_parallelism three = { .gpus = 3, .tensor = 1, .pipeline = 3, .virtual_stages = 1, .context = 1, .expert = 1 };
	static const int64_t layers[] = { 3, 3, 2 };

	for (int64_t i = 0; i < 3; i++)
		ck_assert_int_eq(est_stage(&gpt, &three, 4, i).layers, layers[i]);
}
END_TEST

/* The first stage has as many micro-batches in flight as there are stages. */
START_TEST(the_first_stage_holds_the_most)
{
	struct est_request request = run_on(4, 1);
	struct est_model model = llama(2 * LAYERS), gpt = est_megatron_model(&model), part;
	uint64_t kept[4];

	request.parallelism.pipeline = 4;
	request.gradient_accumulation_steps = 8;
	for (int64_t i = 0; i < 3; i++) {
		arena.used = 0;
		ck_assert(est_stage_part(&gpt, &request, i, &arena, &part));
		trace_program(&part, &request);
		kept[i] = most_alive(EST_ACTIVATIONS, EST_PHASE_FORWARD);
	}
	ck_assert_uint_gt(kept[0], kept[1] * 5 / 4);
	ck_assert_uint_gt(kept[1], kept[2] * 5 / 4);
}
END_TEST

/* A step leaves what it found. */
START_TEST(a_step_leaves_nothing)
{
	struct est_request request = run_on(8, 2);
	struct est_model model = mixture();

	request.parallelism.expert = 4;
	request.gradient_accumulation_steps = 2;
	request.checkpointing = _i == 0 ? EST_CHECKPOINT_NONE : _i == 1 ? EST_CHECKPOINT_FULL : EST_CHECKPOINT_SELECTIVE;
	trace(&model, &request);
	for (unsigned category = 0; category < EST_CATEGORIES; category++) {
		ck_assert_int_eq(growth_in(EST_PART_MICRO_FIRST, (enum est_category)category).end, 0);
		ck_assert_int_eq(growth_in(EST_PART_MICRO_NEXT, (enum est_category)category).end, 0);
	}
}
END_TEST

/* ---- what does not go */

static bool is_refused(const struct est_request *request, const struct est_model *model, const char *pointer)
{
	static struct est_faults faults;

	faults.count = 0;
	est_megatron_check(request, model, &faults);
	for (size_t i = 0; i < faults.count; i++)
		if (!strcmp(faults.item[i].pointer, pointer))
			return true;
	return false;
}

START_TEST(contradictions_have_a_pointer)
{
	struct est_model model = llama(LAYERS), experts = mixture();
	struct est_request request = run_on(8, 2);

	ck_assert(!is_refused(&request, &model, "/parallelism/tensor"));
	request.parallelism.tensor = 8; /* of 4 heads of keys */
	ck_assert(is_refused(&request, &model, "/parallelism/tensor"));
	request = run_on(8, 2);
	request.parallelism.sequence_parallel = false;
	ck_assert(!is_refused(&request, &model, "/parallelism/sequence_parallel"));
	ck_assert(is_refused(&request, &experts, "/parallelism/sequence_parallel"));
	request.parallelism.expert = 3;
	ck_assert(is_refused(&request, &experts, "/parallelism/expert"));
	request.parallelism.strategy = EST_ZERO3;
	ck_assert(is_refused(&request, &model, "/parallelism/strategy"));
	request.method = EST_LORA;
	ck_assert(is_refused(&request, &model, "/method"));
	model.architecture = EST_ARCH_GPT2;
	ck_assert(is_refused(&request, &model, "/model"));
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("megatron");
	TCase *tcase = tcase_create("megatron");
	SRunner *runner = srunner_create(suite);
	int failed;

	tcase_add_checked_fixture(tcase, set_up, free_arena);
	tcase_add_loop_test(tcase, states_are_shared_by_data_parallel_ranks, 0, COUNT(ranks));
	tcase_add_test(tcase, parameters_move_into_a_buffer);
	tcase_add_test(tcase, moments_may_be_narrow);
	tcase_add_test(tcase, a_host_holds_what_is_offloaded);
	tcase_add_test(tcase, experts_have_ranks_of_their_own);
	tcase_add_test(tcase, a_layer_keeps_its_parts);
	tcase_add_test(tcase, a_split_sequence_divides_all_that_is_kept);
	tcase_add_test(tcase, a_mixture_keeps_its_pairs);
	tcase_add_test(tcase, a_fused_loss_copies_the_softmax);
	tcase_add_test(tcase, stages_have_equally_many_layers);
	tcase_add_test(tcase, the_first_stage_holds_the_most);
	tcase_add_loop_test(tcase, a_step_leaves_nothing, 0, 3);
	tcase_add_test(tcase, contradictions_have_a_pointer);
	suite_add_tcase(suite, tcase);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
