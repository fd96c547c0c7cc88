/* ZeRO-3: what a rank holds, against closed forms to the byte (the rows of truth/distributed.jsonl hold the whole of
 * it to real DeepSpeed). */
#include <stdlib.h>
#include <string.h>
#include "estimator/replay.h"
#include "estimator/sharding.h"
#include "estimator/zero3.h"
#include "tests/suite.h"

enum { S = 256, H = 1024, F = 2816, HEADS = 16, KV = 4, DIM = 64, V = 16384, LAYERS = 4, PARAMETERS = 9 * LAYERS + 3,
       RANKS = 4 };
/* what is kept of a parameter's size: 10 * H elements stay gathered for good with "auto" */
enum { MIB = 1 << 20, LARGEST = V * H };

#include "tests/llama.h"

static int64_t sizes[PARAMETERS], whole;

static void set_up(void)
{
	take_arena(LAYERS);
	whole = list_parameters(LAYERS, sizes);
}

static const struct est_model model = LLAMA(LAYERS);

static struct est_request sharded(int64_t ranks)
{
	return (struct est_request){
		.framework = EST_DEEPSPEED,
		.precision = EST_BF16_MASTER,
		.optimizer = EST_ADAMW_TORCH_FUSED,
		.checkpointing = EST_CHECKPOINT_FULL,
		.micro_batch_size = 1,
		.sequence_length = S,
		.gradient_accumulation_steps = 1,
		.parallelism = { .strategy = EST_ZERO3, .gpus = ranks, .gpus_per_node = 8, .tensor = 1, .pipeline = 1, .context = 1,
				 .expert = 1, .contiguous_gradients = true, .overlap_comm = true, .grad_accum_dtype = EST_BF16,
				 .communication_data_type = EST_BF16, .sub_group_size = 1000000000,
				 .max_live_parameters = 1000000000, .max_reuse_distance = 1000000000,
				 .buckets = { EST_AUTO, EST_AUTO, EST_AUTO, EST_AUTO } },
	};
}

static void trace(const struct est_request *request)
{
	uint64_t shards[EST_CATEGORIES];

	arena.used = 0;
	est_sharding_shares(request, shards);
	for (int i = 0; i < EST_CATEGORIES; i++)
		ck_assert_uint_eq(shards[i], 1);
	ck_assert(est_program_trace(&program, &model, request, true, shards, &arena));
}

/* ---- closed forms */

/* Every parameter is padded to a multiple of the ranks. */
static int64_t parts_among(int64_t ranks)
{
	int64_t parts = 0;

	for (int i = 0; i < PARAMETERS; i++)
		parts += (sizes[i] + ranks - 1) / ranks;
	return parts;
}

static int64_t persistent_bytes(int64_t threshold)
{
	int64_t bytes = 0;

	for (int i = 0; i < PARAMETERS; i++)
		bytes += sizes[i] <= threshold ? block(2 * sizes[i]) : 0;
	return bytes;
}

/* The most that is gathered in the forward; ret_end: what is at its end. */
static int64_t gathered_to(int64_t *ret_end)
{
	bool *gathered = calloc(program.ids, sizeof(*gathered));
	int64_t now = 0, most = 0;

	for (size_t i = program.begin[EST_PART_MICRO_FIRST]; i < program.end[EST_PART_MICRO_FIRST]; i++) {
		const struct est_event *event = &program.events[i];

		if (event->kind == EST_EVENT_PHASE && event->id != EST_PHASE_FORWARD)
			break;
		if (event->kind == EST_EVENT_ALLOC && event->stream == EST_ZERO3_GATHER)
			now += (int64_t)event->bytes;
		else if (event->kind == EST_EVENT_FREE && gathered[event->id])
			now -= (int64_t)event->bytes;
		if (event->kind != EST_EVENT_PHASE)
			gathered[event->id] = event->kind == EST_EVENT_ALLOC && event->stream == EST_ZERO3_GATHER;
		most = now > most ? now : most;
	}
	free(gathered);
	*ret_end = now;
	return most;
}

static int64_t gathered_in_forward(void)
{
	int64_t end;

	return gathered_to(&end);
}

/* The most that is gathered on a stream in the micro-batch, in bytes. */
static int64_t most_gathered(unsigned stream)
{
	bool *gathered = calloc(program.ids, sizeof(*gathered));
	int64_t now = 0, most = 0;

	for (size_t i = program.begin[EST_PART_MICRO_FIRST]; i < program.end[EST_PART_MICRO_FIRST]; i++) {
		const struct est_event *event = &program.events[i];

		if (event->kind == EST_EVENT_ALLOC && event->stream == stream)
			now += (int64_t)event->bytes;
		else if (event->kind == EST_EVENT_FREE && gathered[event->id])
			now -= (int64_t)event->bytes;
		if (event->kind != EST_EVENT_PHASE)
			gathered[event->id] = event->kind == EST_EVENT_ALLOC && event->stream == stream;
		most = now > most ? now : most;
	}
	free(gathered);
	return most;
}

static const int64_t all_ranks[] = { 2, 3, 4, 8, 63, 1000 };

/* ---- tests */

START_TEST(a_rank_holds_its_part_of_everything)
{
	int64_t ranks = all_ranks[_i], parts = parts_among(ranks);
	struct est_request request = sharded(ranks);

	trace(&request);
	ck_assert_int_eq(growth_in(EST_PART_LOAD, EST_WEIGHTS).end, block(2 * parts) + persistent_bytes(10 * H));
	ck_assert_int_eq(growth_in(EST_PART_LOAD, EST_GRADIENTS).end, block(2 * parts));
	ck_assert_int_eq(growth_in(EST_PART_LOAD, EST_OPTIMIZER).end, block(4 * parts));
	ck_assert_int_eq(growth_in(EST_PART_STATES, EST_OPTIMIZER).end, 512 + 2 * block(4 * parts));
	ck_assert_int_eq(growth_in(EST_PART_CLIP, EST_GRADIENTS).peak, block(2 * parts));
	ck_assert_int_eq(growth_in(EST_PART_CLIP, EST_OPTIMIZER).peak, block(4 * parts));
	ck_assert_int_eq(growth_in(EST_PART_UPDATE, EST_OPTIMIZER).end, -block(4 * parts));
}
END_TEST

START_TEST(a_micro_batch_leaves_nothing_behind)
{
	struct est_request request = sharded(all_ranks[_i]);

	request.gradient_accumulation_steps = 1 + _i % 3;
	trace(&request);
	for (enum est_part part = EST_PART_REHEARSAL; part <= EST_PART_MICRO_NEXT; part++)
		for (enum est_category category = 0; category < EST_CATEGORIES; category++)
			ck_assert_int_eq(growth_in(part, category).end, 0);
}
END_TEST

/* All of it, while coalesced ones are there twice; or what a prefetch may gather beyond the limit, and the module
 * that runs. */
START_TEST(as_much_is_gathered_as_may_live)
{
	static const int64_t lives[] = { 1000000000, 20000000, 8000000, 0 };
	struct est_request request = sharded(RANKS);
	int64_t live = lives[_i] < whole ? lives[_i] : whole;

	request.parallelism.max_live_parameters = request.parallelism.max_reuse_distance = lives[_i];
	trace(&request);
	ck_assert_int_le(gathered_in_forward(), 2 * live + 2 * (int64_t)LARGEST + 2 * MIB);
	ck_assert_int_ge(gathered_in_forward(), 2 * live - persistent_bytes(10 * H));
}
END_TEST

START_TEST(small_parameters_stay_up_to_the_threshold)
{
	static const int64_t thresholds[] = { 0, H, H * KV * DIM };
	struct est_request request = sharded(RANKS);

	request.parallelism.buckets.param_persistence_threshold = thresholds[_i];
	trace(&request);
	ck_assert_int_eq(growth_in(EST_PART_LOAD, EST_WEIGHTS).end,
			 block(2 * parts_among(RANKS)) + persistent_bytes(thresholds[_i]));
}
END_TEST

/* In the order of the model, each sub-group until it is full: here of one parameter, and a little more than one. */
START_TEST(the_step_takes_one_sub_group_at_a_time)
{
	struct est_request request = sharded(RANKS);
	int64_t first = sizes[0] / RANKS;

	request.parallelism.sub_group_size = first - _i; /* reached by the first parameter alone */
	trace(&request);
	ck_assert_int_eq(growth_in(EST_PART_CLIP, EST_GRADIENTS).peak, block(2 * first));
	ck_assert_int_eq(growth_in(EST_PART_CLIP, EST_OPTIMIZER).peak, block(4 * first));
	ck_assert_int_eq(growth_in(EST_PART_UPDATE, EST_OPTIMIZER).end, -block(4 * first));
	ck_assert_int_eq(growth_in(EST_PART_UPDATE, EST_GRADIENTS).end, 0);
	request.parallelism.sub_group_size = first + 1;
	trace(&request);
	ck_assert_int_eq(growth_in(EST_PART_CLIP, EST_OPTIMIZER).peak, block(4 * (first + sizes[1] / RANKS)));
}
END_TEST

/* Adafactor has no factors of what is flat, and takes its temporaries of one sub-group at a time. */
START_TEST(a_flat_part_is_a_vector_to_the_optimizer)
{
	struct est_request request = sharded(RANKS);
	int64_t part = parts_among(RANKS), whole_step;

	request.optimizer = EST_ADAFACTOR;
	trace(&request);
	ck_assert_int_eq(growth_in(EST_PART_STATES, EST_OPTIMIZER).end, block(4 * part) + block(4));
	whole_step = growth_in(EST_PART_UPDATE, EST_OPTIMIZER).peak;
	ck_assert_int_ge(whole_step, 2 * block(4 * part));
	request.parallelism.sub_group_size = part / 2;
	trace(&request);
	ck_assert_int_lt(growth_in(EST_PART_UPDATE, EST_OPTIMIZER).peak, whole_step);
}
END_TEST

START_TEST(gradients_in_fp32_are_stepped_as_they_lie)
{
	struct est_request request = sharded(RANKS);
	int64_t parts = parts_among(RANKS);

	request.parallelism.grad_accum_dtype = EST_FP32;
	trace(&request);
	ck_assert_int_eq(growth_in(EST_PART_LOAD, EST_GRADIENTS).end, block(4 * parts));
	ck_assert_int_eq(growth_in(EST_PART_CLIP, EST_GRADIENTS).peak, 0);
	ck_assert_int_eq(growth_in(EST_PART_CLIP, EST_OPTIMIZER).peak, block(4 * parts));
}
END_TEST

START_TEST(what_is_offloaded_lies_on_the_host)
{
	struct est_request request = sharded(RANKS);
	int64_t parts = parts_among(RANKS);

	request.offload.optimizer = EST_ON_CPU;
	request.offload.parameters = _i ? EST_ON_CPU : EST_ON_GPU;
	trace(&request);
	ck_assert_int_eq(growth_in(EST_PART_LOAD, EST_OPTIMIZER).end, 0);
	ck_assert_int_eq(growth_in(EST_PART_LOAD, EST_GRADIENTS).end, 0);
	ck_assert_int_eq(growth_in(EST_PART_LOAD, EST_WEIGHTS).end, (_i ? 0 : block(2 * parts)) + persistent_bytes(10 * H));
	ck_assert_int_eq(growth_in(EST_PART_CLIP, EST_OPTIMIZER).peak, 0);
	ck_assert_int_eq((int64_t)program.pinned, _i ? 2 * parts : 0);
	/* gradients in 16 bits and fp32, masters, two moments and a step count */
	ck_assert_int_eq((int64_t)program.host_states, (2 + 4 + 4 + 8) * parts + 4);
}
END_TEST

/* Of the card nothing changes; on the host there are DeepSpeed's buffers: four of the sub-group's fp32 elements,
 * five of 1e8 weights, and up to 1e9 weights as well. */
START_TEST(what_lies_on_a_disk_passes_through_buffers)
{
	struct est_request request = sharded(RANKS);
	int64_t parts = parts_among(RANKS);
	struct growth card;

	request.offload.optimizer = EST_ON_CPU;
	request.offload.parameters = _i ? EST_ON_CPU : EST_ON_GPU;
	trace(&request);
	card = growth_in(EST_PART_MICRO_FIRST, EST_BUFFERS);
	request.offload.optimizer = EST_ON_NVME;
	request.offload.parameters = _i ? EST_ON_NVME : EST_ON_GPU;
	trace(&request);
	ck_assert_int_eq(growth_in(EST_PART_MICRO_FIRST, EST_BUFFERS).peak, card.peak);
	ck_assert_int_eq((int64_t)program.pinned, 4 * 4 * parts + (_i ? 2 * (parts + INT64_C(500000000)) : 0));
	ck_assert_int_eq((int64_t)program.host_states, 2 * parts); /* the partition of gradients */
}
END_TEST

/* MatMul4Bit holds its weight as an attribute: what ZeRO-3 lets go of stays until the graph goes. */
START_TEST(weights_in_4_bits_stay_gathered_with_the_graph)
{
	struct est_request request = sharded(RANKS);
	int64_t packed = 0, held;

	request.base_dtype = EST_BF16;
	request.method = EST_QLORA;
	request.quantization = (struct est_quantization){ .bits = 4, .type = EST_NF4, .quant_storage = EST_STORE_BF16 };
	request.lora = (struct est_lora){ .rank = 16, .target_modules = { .all = true }, .adapter_dtype = EST_FP32 };
	request.parallelism.max_live_parameters = request.parallelism.max_reuse_distance = 1;
	request.parallelism.buckets.prefetch_bucket_size = 0;
	for (int i = 0; i < PARAMETERS; i++)
		packed += sizes[i] == H || sizes[i] == (int64_t)V * H ? 0 : block(sizes[i] / 2);
	trace(&request);
	gathered_to(&held);
	ck_assert_int_ge(held, packed);
	request.use_reentrant = true; /* no graph in their forward */
	trace(&request);
	gathered_to(&held);
	ck_assert_int_lt(held, packed);
}
END_TEST

START_TEST(of_a_lora_the_adapters_alone_are_stepped)
{
	struct est_request request = sharded(RANKS);
	int64_t rank = 16, adapters = 0;

	request.method = EST_LORA;
	request.lora = (struct est_lora){ .rank = rank, .target_modules = { .all = true }, .adapter_dtype = EST_FP32 };
	request.base_dtype = EST_BF16;
	for (int i = 0; i < PARAMETERS; i++) /* of the seven matrices of a layer, in x out */
		adapters += sizes[i] == H || sizes[i] == (int64_t)V * H ? 0 : rank * (H + sizes[i] / H);
	trace(&request);
	ck_assert_int_eq(program.trainable_parameters, adapters);
	ck_assert_int_eq(growth_in(EST_PART_LOAD, EST_OPTIMIZER).end, block(4 * adapters / RANKS));
	ck_assert_int_eq(growth_in(EST_PART_LOAD, EST_GRADIENTS).end, block(2 * adapters / RANKS));
}
END_TEST

/* PEFT's modules_to_save: what is frozen is cut as well as its copy, which is trained with the adapters. */
START_TEST(a_saved_head_is_trained_beside_the_frozen_one)
{
	struct est_request request = sharded(RANKS);
	int64_t adapters, frozen;

	request.method = EST_LORA;
	request.base_dtype = EST_BF16;
	request.lora = (struct est_lora){ .rank = 16, .target_modules = { .all = true }, .adapter_dtype = EST_FP32 };
	trace(&request);
	adapters = growth_in(EST_PART_LOAD, EST_GRADIENTS).end;
	frozen = growth_in(EST_PART_LOAD, EST_WEIGHTS).end;
	request.lora.modules_to_save = (struct est_names){ .count = 1, .name = { "lm_head" } };
	trace(&request);
	ck_assert_int_eq(growth_in(EST_PART_LOAD, EST_GRADIENTS).end, adapters + 2 * LARGEST / RANKS);
	ck_assert_int_eq(growth_in(EST_PART_LOAD, EST_WEIGHTS).end, frozen + 2 * LARGEST / RANKS);
}
END_TEST

/* A loss that reads the head's weight within the model's forward makes it the model's own: gathered first of all, to the end of the
 * backward, whatever may live. Elsewhere only what runs is there. */
START_TEST(a_head_that_is_read_is_there_throughout)
{
	static const enum est_loss losses[] = { EST_LOSS_STANDARD, EST_LOSS_LIGER, EST_LOSS_CHUNKED, EST_LOSS_CUT_CROSS_ENTROPY };
	struct est_request request = sharded(RANKS);
	int64_t held;

	request.loss = losses[_i];
	request.completion_fraction = 1;
	request.parallelism.max_live_parameters = request.parallelism.max_reuse_distance = 1;
	request.parallelism.buckets.prefetch_bucket_size = 0;
	trace(&request);
	gathered_to(&held);
	ck_assert_int_eq(held, _i ? block(2 * (int64_t)LARGEST) : 0);
	for (enum est_part part = EST_PART_REHEARSAL; part <= EST_PART_MICRO_NEXT; part++)
		for (enum est_category category = 0; category < EST_CATEGORIES; category++)
			ck_assert_int_eq(growth_in(part, category).end, 0);
}
END_TEST

/* ---- TRL's objectives */

static struct est_request preferring(enum est_reference reference)
{
	struct est_request request = sharded(RANKS);

	request.framework = EST_TRL;
	request.objective = EST_DPO;
	request.loss = EST_LOSS_CHUNKED;
	request.reference_model = reference;
	request.completion_fraction = 1;
	return request;
}

/* Its parts are tensors of their own, its forward alone is run, and gathered ahead of: nothing of it is used twice, so nothing stays. */
START_TEST(a_reference_model_has_an_engine_of_its_own)
{
	struct est_request request = preferring(EST_REFERENCE_MODEL);
	int64_t frozen = 0;

	request.gradient_accumulation_steps = 1 + _i;
	request.objective = _i == 1 ? EST_KTO : EST_DPO;
	for (int i = 0; i < PARAMETERS; i++)
		frozen += block(2 * ((sizes[i] + RANKS - 1) / RANKS));
	trace(&request);
	ck_assert_int_eq(growth_in(EST_PART_LOAD, EST_WEIGHTS).end,
			 block(2 * parts_among(RANKS)) + frozen + 2 * persistent_bytes(10 * H));
	ck_assert_int_ge(most_gathered(EST_ZERO3_REFERENCE), 2 * (int64_t)LARGEST);
	ck_assert_int_lt(most_gathered(EST_ZERO3_REFERENCE), 2 * whole);
	if (request.objective == EST_DPO) /* whose policy's trace is whole */
		ck_assert_int_ge(most_gathered(EST_ZERO3_GATHER), 2 * whole - persistent_bytes(10 * H));
	for (enum est_part part = EST_PART_REHEARSAL; part <= EST_PART_MICRO_NEXT; part++)
		for (enum est_category category = 0; category < EST_CATEGORIES; category++)
			ck_assert_int_eq(growth_in(part, category).end, 0);
}
END_TEST

/* A forward of the same modules without gradients makes DeepSpeed forget that their backward is to come: what is gathered for it stays to
 * its end, but for what a checkpoint runs once more. (Nothing goes back through q_proj of the first layer.) */
START_TEST(an_adapter_switched_off_leaves_its_weights_gathered)
{
	struct est_request request = preferring(_i ? EST_REFERENCE_ADAPTER : EST_REFERENCE_PRECOMPUTED);

	request.method = EST_LORA;
	request.base_dtype = EST_BF16;
	request.lora = (struct est_lora){ .rank = 16, .target_modules = { .all = true }, .adapter_dtype = EST_FP32 };
	request.parallelism.max_live_parameters = request.parallelism.max_reuse_distance = 1;
	request.parallelism.buckets.prefetch_bucket_size = 0;
	request.checkpointing = EST_CHECKPOINT_NONE;
	trace(&request);
	if (_i)
		ck_assert_int_ge(most_gathered(EST_ZERO3_GATHER), 2 * (whole - LARGEST) - 2 * MIB - persistent_bytes(10 * H));
	else
		ck_assert_int_lt(most_gathered(EST_ZERO3_GATHER), 2 * (whole - LARGEST));
	request.checkpointing = EST_CHECKPOINT_FULL;
	trace(&request);
	ck_assert_int_lt(most_gathered(EST_ZERO3_GATHER), 2 * (whole - LARGEST));
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("zero3");
	TCase *test = tcase_create("a rank");

	tcase_add_checked_fixture(test, set_up, free_arena);
	tcase_add_loop_test(test, a_rank_holds_its_part_of_everything, 0, COUNT(all_ranks));
	tcase_add_loop_test(test, a_micro_batch_leaves_nothing_behind, 0, COUNT(all_ranks));
	tcase_add_loop_test(test, as_much_is_gathered_as_may_live, 0, 4);
	tcase_add_loop_test(test, small_parameters_stay_up_to_the_threshold, 0, 3);
	tcase_add_loop_test(test, the_step_takes_one_sub_group_at_a_time, 0, 2);
	tcase_add_test(test, a_flat_part_is_a_vector_to_the_optimizer);
	tcase_add_test(test, gradients_in_fp32_are_stepped_as_they_lie);
	tcase_add_loop_test(test, what_is_offloaded_lies_on_the_host, 0, 2);
	tcase_add_loop_test(test, what_lies_on_a_disk_passes_through_buffers, 0, 2);
	tcase_add_test(test, weights_in_4_bits_stay_gathered_with_the_graph);
	tcase_add_test(test, of_a_lora_the_adapters_alone_are_stepped);
	tcase_add_loop_test(test, a_head_that_is_read_is_there_throughout, 0, 4);
	tcase_add_test(test, a_saved_head_is_trained_beside_the_frozen_one);
	tcase_add_loop_test(test, a_reference_model_has_an_engine_of_its_own, 0, 3);
	tcase_add_loop_test(test, an_adapter_switched_off_leaves_its_weights_gathered, 0, 2);
	suite_add_tcase(suite, test);
	return run_suite(suite);
}
