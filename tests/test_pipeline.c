/* A pipeline's stages against what can be counted by hand: layers, micro-batches in flight, buffers, gradients. (The
 * rows of truth/distributed.jsonl hold whole stages to real PyTorch.) */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "estimator/pipeline.h"
#include "estimator/replay.h"
#include "tests/suite.h"

enum { S = 512, H = 2048, F = 4096, HEADS = 16, KV = 4, DIM = 128, V = 32768, LAYERS = 14 };

static const uint64_t layer = (uint64_t)H * DIM * (2 * HEADS + 2 * KV) + 3 * (uint64_t)H * F + 2 * H;
static const uint64_t embedding = (uint64_t)V * H, stream = (uint64_t)S * H * 2;

#include "tests/llama.h"

static void set_up(void)
{
	take_arena(8 * LAYERS); /* several micro-batches are in flight */
}

static struct est_request staged(int64_t stages, int64_t micro_batches)
{
	return (struct est_request){
		.precision = EST_PURE_BF16,
		.optimizer = EST_ADAMW_TORCH_FUSED,
		.checkpointing = EST_CHECKPOINT_FULL,
		.micro_batch_size = 1,
		.sequence_length = S,
		.gradient_accumulation_steps = micro_batches,
		.parallelism = { .gpus = stages, .gpus_per_node = 8, .tensor = 1, .pipeline = stages, .virtual_stages = 1, .context = 1, .expert = 1,
				 .wrap = EST_WRAP_ACCELERATE, .param_dtype = EST_BF16, .reduce_dtype = EST_FP32,
				 .output_dtype = EST_DTYPE_NONE },
	};
}

static struct est_stage trace(const struct est_model *model, const struct est_request *request, int64_t index)
{
	static const uint64_t whole[EST_CATEGORIES] = { 1, 1, 1, 1, 1, 1 };
	struct est_stage stage = est_stage(model, &request->parallelism, request->gradient_accumulation_steps, index);
	struct est_model part;

	arena.used = 0;
	ck_assert(est_stage_part(model, request, index, &arena, &part));
	ck_assert(est_program_trace(&program, &part, request, true, whole, &arena));
	return stage;
}

/* Bytes of a category that are alive at the end of a part, and the most before that. */
static uint64_t alive(enum est_part part, enum est_category category, uint64_t *ret_most)
{
	uint64_t bytes = 0, most = 0;

	for (size_t i = 0; i < program.end[part]; i++) {
		const struct est_event *event = &program.events[i];

		if (event->kind == EST_EVENT_PHASE || event->category != category)
			continue;
		bytes += event->kind == EST_EVENT_ALLOC ? event->bytes : -event->bytes;
		most = bytes > most ? bytes : most;
	}
	if (ret_most)
		*ret_most = most;
	return bytes;
}

/* ---- how a model is cut */

/* torchtitan's generate_llm_fqn_per_model_part(): layers + 2 by equal shares, what is left over to the first; less
 * the embedding in the first stage and norm and head in the last. */
static const struct {
	int64_t layers, stages, held[6];
} cuts[] = {
	{ 14, 4, { 3, 4, 4, 3 } },
	{ 126, 16, { 7, 8, 8, 8, 8, 8 } },
	{ 32, 4, { 8, 9, 8, 7 } },
	{ 28, 4, { 7, 8, 7, 6 } },
	{ 7, 2, { 4, 3 } },
	{ 4, 4, { 1, 2, 1, 0 } },
};

START_TEST(layers_are_cut_as_torchtitan_does)
{
	struct est_model model = LLAMA(cuts[_i].layers);
	struct est_request request = staged(cuts[_i].stages, 1);
	int64_t next = 0;

	for (int64_t i = 0; i < cuts[_i].stages; i++) {
		struct est_stage stage = est_stage(&model, &request.parallelism, 1, i);

		ck_assert_int_eq(stage.first_layer, next);
		if (i < 6 && i + 1 < cuts[_i].stages)
			ck_assert_int_eq(stage.layers, cuts[_i].held[i]);
		next += stage.layers;
	}
	ck_assert_int_eq(next, cuts[_i].layers);
}
END_TEST

/* A layer is of the kind that it has in the whole model. */
START_TEST(a_stage_keeps_its_layers_kinds)
{
	struct est_model model = LLAMA(LAYERS), part;
	struct est_request request = staged(4, 8);
	struct est_stage stage;

	model.sliding_window = 128;
	model.full_attention_every = 3;
	model.num_experts = 8;
	model.first_k_dense_replace = 4;
	for (int64_t i = 0; i < LAYERS; i++)
		model.layer_kinds[i] = i % 2 ? EST_LAYER_MIXES : EST_LAYER_ATTENDS;
	stage = est_stage(&model, &request.parallelism, 8, 1);
	ck_assert(est_stage_part(&model, &request, 1, &arena, &part));
	for (int64_t i = 0; i < stage.layers; i++) {
		ck_assert_int_eq(est_model_layer_is_sliding(&part, i), est_model_layer_is_sliding(&model, stage.first_layer + i));
		ck_assert_int_eq(est_model_layer_is_sparse(&part, i), est_model_layer_is_sparse(&model, stage.first_layer + i));
		ck_assert_int_eq(part.layer_kinds[i], model.layer_kinds[stage.first_layer + i]);
	}
}
END_TEST

/* ---- what a stage holds */

/* min(stages - index, micro-batches) are in flight. */
static const struct {
	int64_t micro_batches, index;
	uint64_t in_flight;
} flights[] = { { 8, 0, 4 }, { 8, 1, 3 }, { 8, 3, 1 }, { 2, 0, 2 }, { 2, 1, 2 }, { 2, 3, 1 }, { 1, 0, 1 },
		{ 4, 0, 4 } };

START_TEST(fewer_micro_batches_are_in_flight_towards_the_end)
{
	struct est_model model = LLAMA(LAYERS);
	struct est_request request = staged(4, flights[_i].micro_batches);
	struct est_stage stage = est_stage(&model, &request.parallelism, flights[_i].micro_batches, flights[_i].index);

	ck_assert_uint_eq(stage.in_flight, flights[_i].in_flight);
}
END_TEST

/* The embedding is in the first, the final norm and the head in the last, the layers once each; gradients and
 * moments too. */
START_TEST(the_stages_hold_the_model_once)
{
	struct est_model model = LLAMA(LAYERS);
	struct est_request request = staged(4, 8);
	uint64_t weights = 0;

	for (int64_t i = 0; i < 4; i++) {
		struct est_stage stage = trace(&model, &request, i);
		uint64_t held = 2 * ((uint64_t)stage.layers * layer + (i == 0 || i == 3 ? embedding : 0) + (i == 3 ? H : 0));

		ck_assert_uint_eq(alive(EST_PART_LOAD, EST_WEIGHTS, NULL), held);
		ck_assert_uint_eq(alive(EST_PART_MICRO_NEXT, EST_GRADIENTS, NULL), held);
		ck_assert_uint_ge(alive(EST_PART_STATES, EST_OPTIMIZER, NULL), 2 * held);
		weights += held;
	}
	ck_assert_uint_eq(weights, 2 * (uint64_t)est_model_count_parameters(&model));
}
END_TEST

/* A buffer for each micro-batch's activations but in the first stage, one for each one's gradient but in the last. */
START_TEST(a_stage_receives_into_a_buffer_each)
{
	static const uint64_t sides[] = { 1, 2, 2, 1 };
	struct est_model model = LLAMA(LAYERS);
	struct est_request request = staged(4, 64);
	uint64_t before, positions = 2 * DIM / 2 * 4; /* the rotary embedding's two tables */

	trace(&model, &request, _i);
	before = alive(EST_PART_LOAD, EST_BUFFERS, NULL);
	ck_assert_uint_le(before - sides[_i] * 64 * stream, positions + 1024);
	ck_assert_uint_ge(before, sides[_i] * 64 * stream);
}
END_TEST

/* With checkpoints, what one more micro-batch in flight adds: the layers' inputs, and the stage's output. What the
 * first layer takes is the embedding's output, of others a buffer. */
START_TEST(a_micro_batch_in_flight_keeps_its_checkpoints)
{
	struct est_model model = LLAMA(LAYERS);
	struct est_request few = staged(4, 2), many = staged(4, 3);
	uint64_t most[2], held;

	held = (uint64_t)trace(&model, &few, _i).layers;
	alive(EST_PART_MICRO_NEXT, EST_ACTIVATIONS, &most[0]);
	trace(&model, &many, _i);
	alive(EST_PART_MICRO_NEXT, EST_ACTIVATIONS, &most[1]);
	ck_assert_uint_eq(most[1] - most[0], (held + (_i == 0)) * stream);
}
END_TEST

/* The last stage has one micro-batch at a time: more of them add nothing but the buffers that they are received
 * into. */
START_TEST(the_last_stage_has_one_at_a_time)
{
	struct est_model model = LLAMA(LAYERS);
	struct est_request few = staged(4, 4), many = staged(4, 32);
	uint64_t most[2];

	trace(&model, &few, 3);
	alive(EST_PART_MICRO_NEXT, EST_ACTIVATIONS, &most[0]);
	trace(&model, &many, 3);
	alive(EST_PART_MICRO_NEXT, EST_ACTIVATIONS, &most[1]);
	ck_assert_uint_eq(most[1], most[0]);
}
END_TEST

/* A step of any rank leaves what it found, gradients aside, and the update takes those. */
static void leaves_nothing_behind(const struct est_request *request)
{
	struct est_model model = LLAMA(LAYERS);

	for (int64_t i = 0; i < request->parallelism.pipeline; i++) {
		trace(&model, request, i);
		ck_assert_uint_eq(alive(EST_PART_UPDATE, EST_ACTIVATIONS, NULL), 0);
		ck_assert_uint_eq(alive(EST_PART_UPDATE, EST_GRADIENTS, NULL), 0);
		ck_assert_uint_eq(alive(EST_PART_UPDATE, EST_BUFFERS, NULL), alive(EST_PART_LOAD, EST_BUFFERS, NULL));
	}
}

START_TEST(a_step_leaves_nothing_behind)
{
	static const enum est_strategy strategies[] = { EST_SINGLE, EST_DDP, EST_FSDP };
	static const enum est_checkpointing checkpoints[] = { EST_CHECKPOINT_NONE, EST_CHECKPOINT_FULL };
	struct est_request request = staged(4, 6);

	request.parallelism.strategy = strategies[_i % 3];
	request.parallelism.gpus = request.parallelism.strategy == EST_SINGLE ? 4 : 8;
	request.checkpointing = checkpoints[_i / 3 % 2];
	request.use_reentrant = _i >= 6;
	request.precision = request.parallelism.strategy == EST_FSDP ? EST_BF16_MIXED : EST_PURE_BF16;
	leaves_nothing_behind(&request);
}
END_TEST

/* ---- with FSDP2 */

/* Shards at rest; the stage's parameters are gathered once and stay, its gradients whole in the dtype of the
 * reduction, until the last backward: 2 and 4 bytes an element. Then a rank has its shards' gradients, 4 bytes. */
START_TEST(a_sharded_stage_stays_gathered)
{
	struct est_model model = LLAMA(LAYERS);
	struct est_request request = staged(4, 8);
	uint64_t count, most, loaded;
	struct est_stage stage;

	request.precision = EST_BF16_MIXED;
	request.parallelism.strategy = EST_FSDP;
	request.parallelism.gpus = 8;
	stage = trace(&model, &request, 1);
	count = (uint64_t)stage.layers * layer;
	ck_assert_uint_eq(alive(EST_PART_LOAD, EST_WEIGHTS, NULL), 4 * count / 2);
	loaded = alive(EST_PART_LOAD, EST_BUFFERS, NULL);
	alive(EST_PART_MICRO_NEXT, EST_BUFFERS, &most);
	ck_assert_uint_ge(most, loaded + 2 * count);
	ck_assert_uint_le(most, loaded + 2 * count + 8 * layer + (1 << 22));
	ck_assert_uint_eq(alive(EST_PART_MICRO_NEXT, EST_GRADIENTS, &most), 4 * count / 2);
	ck_assert_uint_ge(most, 4 * count);
	ck_assert_uint_le(most, 4 * count + 4 * layer);
}
END_TEST

/* Stages that may be the most loaded are told apart; those between have no more than the second. */
START_TEST(candidates_are_first_second_and_last)
{
	struct est_model model = LLAMA(LAYERS);
	struct est_request request = staged(7, 16);
	struct est_stage stages[EST_STAGES_MAX], other;

	ck_assert_uint_eq(est_stage_candidates(&model, &request, stages), 3);
	ck_assert_int_eq(stages[0].kind, EST_FIRST_STAGE);
	ck_assert_int_eq(stages[1].kind, EST_MIDDLE_STAGE);
	ck_assert_int_eq(stages[2].kind, EST_LAST_STAGE);
	ck_assert_int_eq(stages[2].index, 6);
	for (int64_t i = 2; i < 6; i++) {
		other = est_stage(&model, &request.parallelism, 16, i);
		ck_assert_int_le(other.layers, stages[1].layers);
		ck_assert_uint_le(other.in_flight, stages[1].in_flight);
	}
	request = staged(2, 16);
	ck_assert_uint_eq(est_stage_candidates(&model, &request, stages), 2);
	ck_assert_int_eq(stages[1].kind, EST_LAST_STAGE);
}
END_TEST

/* Layers without experts hold less: of the stages in the middle another than the second may be the heaviest. */
START_TEST(a_heavier_stage_is_a_candidate_too)
{
	struct est_model model = LLAMA(LAYERS);
	struct est_request request = staged(8, 16);
	struct est_stage stages[EST_STAGES_MAX];

	model.num_experts = 8;
	model.num_experts_per_tok = 2;
	model.moe_intermediate_size = F;
	model.first_k_dense_replace = 5;
	ck_assert_uint_eq(est_stage_candidates(&model, &request, stages), 4);
	ck_assert_int_eq(stages[1].index, 1);
	ck_assert_int_eq(stages[2].index, 3); /* layers 5 and 6 */
	ck_assert_int_eq(stages[2].kind, EST_MIDDLE_STAGE);
	ck_assert_int_eq(stages[3].index, 7);
}
END_TEST

/* ---- several stages a rank */

static struct est_request interleaved(int64_t ranks, int64_t stages, int64_t micro_batches)
{
	struct est_request request = staged(ranks, micro_batches);

	request.parallelism.pipeline_schedule = EST_INTERLEAVED_1F1B;
	request.parallelism.virtual_stages = stages;
	return request;
}

/* ScheduleInterleaved1F1B._calculate_single_rank_operations() of torch 2.13: stage of the model, F or B, micro-batch. */
static const struct {
	int64_t ranks, stages, micro_batches, index;
	const char *order;
} orders[] = {
	{ 2, 2, 4, 0, "0F0 0F1 2F0 2F1 0F2 2B0 0F3 2B1 2F2 0B0 2F3 0B1 2B2 2B3 0B2 0B3 " },
	{ 2, 2, 4, 1, "1F0 1F1 3F0 3B0 3F1 3B1 1F2 1B0 1F3 1B1 3F2 3B2 3F3 3B3 1B2 1B3 " },
	{ 4, 2, 5, 1, "1F0 1F1 1F2 1F3 1F4 5F0 5F1 5F2 5F3 5F4 5B0 5B1 5B2 5B3 5B4 1B0 1B1 1B2 1B3 1B4 " },
	{ 3, 3, 6, 0, "0F0 0F1 0F2 3F0 3F1 3F2 6F0 6F1 6F2 0F3 0F4 6B0 0F5 6B1 3F3 6B2 3F4 3B0 3F5 3B1 6F3 3B2 6F4 0B0 6F5 0B1 0B2 "
		      "6B3 6B4 6B5 3B3 3B4 3B5 0B3 0B4 0B5 " },
	{ 4, 2, 8, 3, "3F0 3F1 3F2 3F3 7F0 7B0 7F1 7B1 7F2 7B2 7F3 7B3 3F4 3B0 3F5 3B1 3F6 3B2 3F7 3B3 7F4 7B4 7F5 7B5 7F6 7B6 7F7 7B7 "
		      "3B4 3B5 3B6 3B7 " },
	{ 2, 2, 1, 0, "0F0 2F0 2B0 0B0 " },
	/* Schedule1F1B */
	{ 4, 1, 4, 1, "1F0 1F1 1F2 1B0 1F3 1B1 1B2 1B3 " },
	{ 2, 1, 1, 0, "0F0 0B0 " },
};

START_TEST(a_rank_runs_in_the_order_of_the_schedule)
{
	struct est_request request = interleaved(orders[_i].ranks, orders[_i].stages, orders[_i].micro_batches);
	struct est_order order;
	struct est_action *actions;
	char text[512] = "";
	size_t used = 0;

	arena.used = 0;
	order = est_order_of_rank(&request.parallelism, orders[_i].micro_batches, orders[_i].index);
	ck_assert_uint_eq(order.traced, (uint64_t)orders[_i].micro_batches);
	actions = est_order_actions(&order, &arena);
	for (uint64_t i = 0; i < 2 * order.stages * order.traced; i++)
		used += (size_t)snprintf(text + used, sizeof(text) - used, "%lld%c%llu ",
					 (long long)(actions[i].stage * orders[_i].ranks + orders[_i].index),
					 actions[i].backward ? 'B' : 'F', (unsigned long long)actions[i].number);
	ck_assert_str_eq(text, orders[_i].order);
}
END_TEST

/* Of 64 micro-batches as many are traced as it takes, rounds whole. */
START_TEST(a_long_step_is_traced_in_part)
{
	struct est_request request = interleaved(4, 2, 64);
	struct est_order order = est_order_of_rank(&request.parallelism, 64, 0), last = est_order_of_rank(&request.parallelism, 64, 3);

	ck_assert_uint_eq(order.turn, 4);
	ck_assert_uint_eq(order.ahead, 4 + 6);
	ck_assert_uint_eq(order.traced, 16);
	ck_assert_uint_eq(est_order_in_flight(&order), 11);
	ck_assert_uint_eq(last.ahead, 4);
}
END_TEST

/* What all ranks hold together is the model: the embedding in the first stage, the head in the last, layers once. */
START_TEST(interleaved_stages_hold_the_model_once)
{
	struct est_model model = LLAMA(LAYERS);
	struct est_request request = interleaved(3, 2, 6);
	uint64_t weights = 0;

	for (int64_t i = 0; i < 3; i++) {
		struct est_stage stage = trace(&model, &request, i);
		uint64_t held = 2 * ((uint64_t)stage.layers * layer + (i == 0 || i == 2 ? embedding : 0) + (i == 2 ? H : 0));

		ck_assert_uint_eq(alive(EST_PART_LOAD, EST_WEIGHTS, NULL), held);
		ck_assert_uint_eq(alive(EST_PART_MICRO_NEXT, EST_GRADIENTS, NULL), held);
		weights += held;
	}
	ck_assert_uint_eq(weights, 2 * (uint64_t)est_model_count_parameters(&model));
}
END_TEST

/* What is sent stays to the end of the step, of micro-batches that are not traced too: one more adds what its stages send. */
START_TEST(what_is_sent_stays_to_the_end_of_the_step)
{
	static const uint64_t sends[] = { 3, 4, 3 }; /* of two stages' forwards and backwards, less those at the model's ends */
	struct est_model model = LLAMA(LAYERS);
	struct est_request few = interleaved(3, 2, 30), many = interleaved(3, 2, 60);
	uint64_t most[2][2];

	for (unsigned i = 0; i < 2; i++) {
		trace(&model, i ? &many : &few, _i);
		alive(EST_PART_MICRO_NEXT, EST_ACTIVATIONS, &most[i][0]);
		alive(EST_PART_MICRO_NEXT, EST_BUFFERS, &most[i][1]);
	}
	ck_assert_uint_eq(most[1][0], most[0][0]); /* those that are traced are the same */
	ck_assert_uint_ge(most[1][1] - most[0][1], 2 * 30 * sends[_i] * stream); /* and as many are received as sent */
	ck_assert_uint_le(most[1][1] - most[0][1], 2 * 30 * sends[_i] * stream + 30 * S * 8 + 4096);
}
END_TEST

START_TEST(an_interleaved_step_leaves_nothing_behind)
{
	static const enum est_strategy strategies[] = { EST_SINGLE, EST_DDP, EST_FSDP };
	struct est_request request = interleaved(3, 4, 24);

	request.parallelism.strategy = strategies[_i];
	request.parallelism.gpus = request.parallelism.strategy == EST_SINGLE ? 3 : 6;
	request.precision = request.parallelism.strategy == EST_FSDP ? EST_BF16_MIXED : EST_PURE_BF16;
	leaves_nothing_behind(&request);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("pipeline");
	TCase *tcase = tcase_create("stages");

	tcase_add_unchecked_fixture(tcase, set_up, free_arena);
	tcase_add_loop_test(tcase, layers_are_cut_as_torchtitan_does, 0, COUNT(cuts));
	tcase_add_test(tcase, a_stage_keeps_its_layers_kinds);
	tcase_add_loop_test(tcase, fewer_micro_batches_are_in_flight_towards_the_end, 0, COUNT(flights));
	tcase_add_test(tcase, the_stages_hold_the_model_once);
	tcase_add_loop_test(tcase, a_stage_receives_into_a_buffer_each, 0, 4);
	tcase_add_loop_test(tcase, a_micro_batch_in_flight_keeps_its_checkpoints, 0, 2);
	tcase_add_test(tcase, the_last_stage_has_one_at_a_time);
	tcase_add_loop_test(tcase, a_step_leaves_nothing_behind, 0, 12);
	tcase_add_test(tcase, a_sharded_stage_stays_gathered);
	tcase_add_test(tcase, candidates_are_first_second_and_last);
	tcase_add_test(tcase, a_heavier_stage_is_a_candidate_too);
	tcase_add_loop_test(tcase, a_rank_runs_in_the_order_of_the_schedule, 0, COUNT(orders));
	tcase_add_test(tcase, a_long_step_is_traced_in_part);
	tcase_add_test(tcase, interleaved_stages_hold_the_model_once);
	tcase_add_loop_test(tcase, what_is_sent_stays_to_the_end_of_the_step, 0, 3);
	tcase_add_loop_test(tcase, an_interleaved_step_leaves_nothing_behind, 0, 3);
	suite_add_tcase(suite, tcase);
	return run_suite(suite);
}
