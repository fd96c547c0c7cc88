/* ZeRO-1 and ZeRO-2: what rank 0 holds, against closed forms to the byte (the rows of truth/distributed.jsonl hold
 * the whole of it to real DeepSpeed). */
#include <stdlib.h>
#include <string.h>
#include "estimator/fields.h"
#include "estimator/replay.h"
#include "estimator/sharding.h"
#include "estimator/support.h"
#include "estimator/zero.h"
#include "tests/suite.h"

enum { S = 512, H = 2048, F = 4096, HEADS = 16, KV = 4, DIM = 128, V = 32768, LAYERS = 4, PARAMETERS = 9 * LAYERS + 3 };

#include "tests/llama.h"

/* Elements of the parameters, in the order of the module. */
static int64_t sizes[PARAMETERS], whole;

static void set_up(void)
{
	take_arena(LAYERS);
	whole = list_parameters(LAYERS, sizes);
}

static const struct est_model model = LLAMA(LAYERS);

static struct est_request sharded(enum est_strategy strategy, int64_t ranks, int64_t steps)
{
	return (struct est_request){
		.framework = EST_DEEPSPEED,
		.precision = EST_BF16_MASTER,
		.optimizer = EST_ADAMW_TORCH_FUSED,
		.checkpointing = EST_CHECKPOINT_FULL,
		.micro_batch_size = 1,
		.sequence_length = S,
		.gradient_accumulation_steps = steps,
		.parallelism = { .strategy = strategy, .gpus = ranks, .gpus_per_node = 8, .tensor = 1, .pipeline = 1, .context = 1,
				 .expert = 1, .contiguous_gradients = true, .grad_accum_dtype = EST_BF16,
				 .buckets = { .reduce_bucket_size = EST_AUTO } },
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

static int64_t share_of(int64_t ranks)
{
	return (whole + 2 * ranks - 1) / (2 * ranks) * 2;
}

/* Elements of all parameters that reach into a rank's part. */
static int64_t touched_by(int64_t rank, int64_t ranks)
{
	int64_t from = rank * share_of(ranks), to = from + share_of(ranks), offset = 0, touched = 0;

	for (int i = 0; i < PARAMETERS; i++) {
		touched += offset < to && offset + sizes[i] > from ? sizes[i] : 0;
		offset += sizes[i];
	}
	return touched;
}

/* How many these are. */
static int reaching_into(int64_t rank, int64_t ranks)
{
	int64_t from = rank * share_of(ranks), to = from + share_of(ranks), offset = 0;
	int count = 0;

	for (int i = 0; i < PARAMETERS; i++) {
		count += offset < to && offset + sizes[i] > from;
		offset += sizes[i];
	}
	return count;
}

static int count_buffers(enum est_part part, enum est_event_kind kind, int64_t bytes)
{
	int count = 0;

	for (size_t i = program.begin[part]; i < program.end[part]; i++) {
		const struct est_event *event = &program.events[i];

		count += event->kind == kind && event->category == EST_BUFFERS && (int64_t)event->bytes == bytes;
	}
	return count;
}

static const int64_t all_ranks[] = { 2, 3, 4, 8, 63, 1000 };

/* ---- tests */

START_TEST(the_optimizer_steps_one_flat_part)
{
	int64_t ranks = all_ranks[_i], share = share_of(ranks);
	struct est_request request = sharded(EST_ZERO2, ranks, 1);

	trace(&request);
	ck_assert_int_eq(growth_in(EST_PART_LOAD, EST_OPTIMIZER).end, block(4 * share));
	ck_assert_int_eq(growth_in(EST_PART_LOAD, EST_WEIGHTS).end, block(2 * share * ranks));
	ck_assert_int_eq(growth_in(EST_PART_STATES, EST_OPTIMIZER).end, 512 + 2 * block(4 * share));
	ck_assert_int_eq(growth_in(EST_PART_CLIP, EST_OPTIMIZER).peak, block(4 * share));
	ck_assert_int_eq(growth_in(EST_PART_UPDATE, EST_OPTIMIZER).end, -block(4 * share));
}
END_TEST

/* Of loading nothing is left but what is alive, for the engine gives the cache back: adapters are in the buffer, the rest is as it was. */
START_TEST(what_is_trained_is_loaded_into_one_buffer)
{
	struct est_request request = sharded(EST_ZERO2, 8, 1);
	uint64_t largest = 0;

	request.method = _i ? EST_LORA : EST_FULL;
	request.lora = (struct est_lora){ .rank = 16, .target_modules = { .all = true }, .adapter_dtype = EST_FP32 };
	request.base_dtype = EST_BF16;
	trace(&request);
	for (size_t i = program.begin[EST_PART_LOAD]; i < program.end[EST_PART_LOAD]; i++) {
		const struct est_event *event = &program.events[i];

		ck_assert_int_ne(event->kind, EST_EVENT_FREE);
		if (event->kind == EST_EVENT_ALLOC && event->category == EST_WEIGHTS && event->bytes > largest)
			largest = event->bytes;
	}
	ck_assert_int_eq((int64_t)largest, _i ? 2 * V * H : block(2 * share_of(8) * 8));
}
END_TEST

START_TEST(of_the_gradients_the_partition_is_left_until_it_is_flattened)
{
	int64_t ranks = all_ranks[_i], share = share_of(ranks), partition = block(2 * touched_by(0, ranks));
	int64_t flat = reaching_into(0, ranks) > 1 ? block(2 * share) : 0; /* of one tensor it is a view */

	for (enum est_strategy strategy = EST_ZERO1; strategy <= EST_ZERO2; strategy++) {
		struct est_request request = sharded(strategy, ranks, 1);

		trace(&request);
		ck_assert_int_eq(growth_in(EST_PART_MICRO_FIRST, EST_GRADIENTS).end, partition);
		ck_assert_int_eq(growth_in(EST_PART_CLIP, EST_GRADIENTS).peak, flat);
		ck_assert_int_eq(growth_in(EST_PART_CLIP, EST_GRADIENTS).end, -partition);
	}
}
END_TEST

/* The largest gradient is that of the embedding, of which rank 0 has its whole part. */
START_TEST(with_the_optimizer_on_the_host_nothing_of_it_is_left_on_the_card)
{
	int64_t steps = _i + 1, ranks = 8, share = share_of(ranks), largest = (int64_t)V * H;
	struct est_request request = sharded(EST_ZERO2, ranks, steps);
	enum est_part last = steps == 1 ? EST_PART_MICRO_FIRST : EST_PART_MICRO_NEXT;
	int64_t of_the_model;

	trace(&request);
	of_the_model = growth_in(EST_PART_LOAD, EST_BUFFERS).end;
	request.offload.optimizer = EST_ON_CPU;
	trace(&request);
	ck_assert_int_eq(growth_in(EST_PART_LOAD, EST_OPTIMIZER).end, 0);
	ck_assert_int_eq(growth_in(EST_PART_LOAD, EST_BUFFERS).end - of_the_model, block(2 * largest));
	ck_assert_int_eq(growth_in(EST_PART_MICRO_FIRST, EST_GRADIENTS).end, 0);
	ck_assert_int_eq(growth_in(EST_PART_CLIP, EST_GRADIENTS).peak, 0);
	ck_assert_int_eq(growth_in(EST_PART_CLIP, EST_OPTIMIZER).peak, 0);
	/* only the last micro-batch's gradients are put to a norm and cast */
	for (enum est_part part = EST_PART_MICRO_FIRST; part <= last; part++) {
		ck_assert_int_eq(count_buffers(part, EST_EVENT_ALLOC, block(8 * share)), part == last);
		ck_assert_int_eq(count_buffers(part, EST_EVENT_ALLOC, block(4 * share)), part == last);
	}
	/* fp32 gradients and masters, two moments and a step count; weights and the largest gradient in 16 bits;
	 * what is accumulated */
	ck_assert_int_eq((int64_t)program.host_states,
			 (4 + 4 + 8 + 2) * share + 4 + 2 * largest + (steps > 1 ? 2 * touched_by(0, ranks) : 0));
}
END_TEST

START_TEST(zero_1_has_all_gradients_beside_the_partition)
{
	int64_t ranks = all_ranks[_i];
	struct est_request request = sharded(EST_ZERO1, ranks, 1);
	int64_t peak;

	trace(&request);
	peak = growth_in(EST_PART_MICRO_FIRST, EST_GRADIENTS).peak;
	ck_assert_int_eq(peak, 2 * whole + block(2 * touched_by(0, ranks)));
	request.parallelism.strategy = EST_ZERO2;
	trace(&request);
	peak = growth_in(EST_PART_MICRO_FIRST, EST_GRADIENTS).peak;
	ck_assert_int_lt(peak, block(2 * touched_by(0, ranks)) + 2 * 2 * (int64_t)V * H);
}
END_TEST

START_TEST(a_later_micro_batch_fills_a_second_partition)
{
	struct est_request request = sharded(EST_ZERO2, 4, 2 + _i);

	trace(&request);
	ck_assert_int_eq(growth_in(EST_PART_MICRO_NEXT, EST_GRADIENTS).end, 0);
	ck_assert_int_ge(growth_in(EST_PART_MICRO_NEXT, EST_GRADIENTS).peak, block(2 * touched_by(0, 4)));
	request.parallelism.strategy = EST_ZERO1;
	trace(&request);
	ck_assert_uint_eq(program.accumulation_steps, 2);
	ck_assert_int_eq(growth_in(EST_PART_MICRO_FIRST, EST_GRADIENTS).end, 2 * whole);
	ck_assert_int_eq(growth_in(EST_PART_MICRO_NEXT, EST_GRADIENTS).end, block(2 * touched_by(0, 4)) - 2 * whole);
}
END_TEST

static const struct {
	int64_t named, elements;
	bool overlaps;
} buckets[] = { { EST_AUTO, (int64_t)H * H, false }, { EST_AUTO, (int64_t)H * H, true },
		{ 500000000, 500000000, false }, { 300000, 300000, true } };

START_TEST(a_bucket_lives_from_the_first_gradient_to_the_end_of_the_backward)
{
	struct est_request request = sharded(EST_ZERO2, 1, 1);
	int64_t bytes = block(2 * buckets[_i].elements);

	request.parallelism.buckets.reduce_bucket_size = buckets[_i].named;
	request.parallelism.overlap_comm = buckets[_i].overlaps;
	trace(&request);
	ck_assert_int_eq(count_buffers(EST_PART_MICRO_FIRST, EST_EVENT_ALLOC, bytes), buckets[_i].overlaps ? 2 : 1);
	ck_assert_int_eq(count_buffers(EST_PART_MICRO_FIRST, EST_EVENT_FREE, bytes), buckets[_i].overlaps ? 2 : 1);
	ck_assert_int_eq(growth_in(EST_PART_MICRO_FIRST, EST_BUFFERS).end, 0);
}
END_TEST

START_TEST(a_bucket_of_several_ranks_is_copied_to_be_exchanged)
{
	struct est_request request = sharded(EST_ZERO2, all_ranks[_i], 1);

	request.parallelism.buckets.reduce_bucket_size = 500000000; /* of all gradients */
	trace(&request);
	ck_assert_int_eq(count_buffers(EST_PART_MICRO_FIRST, EST_EVENT_ALLOC, block(2 * whole)), 1);
	request.parallelism.gpus = 1;
	trace(&request);
	ck_assert_int_eq(count_buffers(EST_PART_MICRO_FIRST, EST_EVENT_ALLOC, block(2 * whole)), 0);
}
END_TEST

START_TEST(a_partition_in_fp32_stays_until_the_optimizer_has_stepped)
{
	struct est_request request = sharded(EST_ZERO2, all_ranks[_i], 2);
	int64_t part = block(4 * share_of(all_ranks[_i]));

	request.parallelism.grad_accum_dtype = EST_FP32;
	trace(&request);
	ck_assert_int_eq(growth_in(EST_PART_MICRO_FIRST, EST_GRADIENTS).end, part);
	ck_assert_int_eq(growth_in(EST_PART_MICRO_NEXT, EST_GRADIENTS).end, 0);
	ck_assert_int_eq(growth_in(EST_PART_CLIP, EST_OPTIMIZER).peak, 0);
	ck_assert_int_eq(growth_in(EST_PART_UPDATE, EST_GRADIENTS).end, -part);
}
END_TEST

START_TEST(norms_are_taken_in_fp64_of_one_gradient_at_a_time)
{
	int64_t ranks = all_ranks[_i], largest = sizes[0] < share_of(ranks) ? sizes[0] : share_of(ranks);
	struct est_request request = sharded(EST_ZERO2, ranks, 1);

	trace(&request);
	ck_assert_int_eq(growth_in(EST_PART_CLIP, EST_BUFFERS).peak, block(8 * largest));
	ck_assert_int_eq(growth_in(EST_PART_CLIP, EST_BUFFERS).end, 0);
}
END_TEST

START_TEST(the_surplus_is_what_the_fullest_rank_touches_more)
{
	int64_t ranks = all_ranks[_i], most = 0;
	struct est_request request = sharded(EST_ZERO2, ranks, 1);

	for (int64_t rank = 0; rank < ranks; rank++)
		most = touched_by(rank, ranks) > most ? touched_by(rank, ranks) : most;
	trace(&request);
	ck_assert_int_eq((int64_t)program.surplus, 2 * (most - touched_by(0, ranks)));
	request.gradient_accumulation_steps = 4;
	trace(&request);
	ck_assert_int_eq((int64_t)program.surplus, 4 * (most - touched_by(0, ranks)));
}
END_TEST

/* ---- what is replayed, and what is refused */

static void name(struct est_request *request, const char *field)
{
	size_t i = (size_t)(est_field_find(field) - est_request_fields);

	request->named[i / 64] |= UINT64_C(1) << (i % 64);
}

static size_t faults_of(const struct est_request *request)
{
	static struct est_faults faults;

	memset(&faults, 0, sizeof(faults));
	est_support_check(request, &model, &faults);
	return faults.count;
}

START_TEST(buckets_are_accepted_where_they_are_replayed)
{
	struct est_request request = sharded(_i ? EST_ZERO2 : EST_ZERO1, 8, 1);
	size_t before = faults_of(&request);

	request.parallelism.overlap_comm = true;
	request.parallelism.buckets.reduce_bucket_size = 1000;
	name(&request, "parallelism.overlap_comm");
	name(&request, "parallelism.buckets.reduce_bucket_size");
	name(&request, "parallelism.grad_accum_dtype");
	ck_assert_uint_eq(faults_of(&request), before);
	request.parallelism.communication_data_type = EST_FP32;
	ck_assert_uint_eq(faults_of(&request), before);
	request.parallelism.grad_accum_dtype = EST_FP32; /* with ZeRO-1 that is another optimizer */
	ck_assert_uint_eq(faults_of(&request) > before, !_i);
	request.parallelism.strategy = EST_ZERO3; /* all of it is */
	ck_assert_uint_eq(faults_of(&request), before);
	request.optimizer = EST_MUON;
	ck_assert_uint_eq(faults_of(&request), before + 3);
}
END_TEST

START_TEST(what_is_not_replayed_is_a_static_share)
{
	struct est_request request = sharded(EST_ZERO2, 8, 1), other = request;

	ck_assert(est_zero_wanted(&request) && !est_sharding_is_static(&request));
	other.precision = EST_BF16_MIXED;
	ck_assert(!est_zero_wanted(&other) && est_sharding_is_static(&other));
	other = request;
	other.optimizer = EST_MUON;
	ck_assert(!est_zero_wanted(&other) && est_sharding_is_static(&other));
	other = request;
	other.method = EST_QLORA;
	other.quantization.bits = 4;
	ck_assert(est_zero_wanted(&other));
	other.quantization.type = EST_INT8; /* 8 bits: not looked into */
	other.quantization.bits = 8;
	ck_assert(!est_zero_wanted(&other) && est_sharding_is_static(&other));
	other = request;
	other.parallelism.gpus = 1; /* DeepSpeed runs as ever */
	ck_assert(est_zero_wanted(&other) && !est_sharding_is_static(&other));
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("zero");
	TCase *test = tcase_create("rank 0");

	tcase_add_checked_fixture(test, set_up, free_arena);
	tcase_add_loop_test(test, the_optimizer_steps_one_flat_part, 0, COUNT(all_ranks));
	tcase_add_loop_test(test, what_is_trained_is_loaded_into_one_buffer, 0, 2);
	tcase_add_loop_test(test, of_the_gradients_the_partition_is_left_until_it_is_flattened, 0, COUNT(all_ranks));
	tcase_add_loop_test(test, with_the_optimizer_on_the_host_nothing_of_it_is_left_on_the_card, 0, 2);
	tcase_add_loop_test(test, zero_1_has_all_gradients_beside_the_partition, 0, COUNT(all_ranks));
	tcase_add_loop_test(test, a_later_micro_batch_fills_a_second_partition, 0, 2);
	tcase_add_loop_test(test, a_bucket_lives_from_the_first_gradient_to_the_end_of_the_backward, 0, COUNT(buckets));
	tcase_add_loop_test(test, a_bucket_of_several_ranks_is_copied_to_be_exchanged, 0, COUNT(all_ranks));
	tcase_add_loop_test(test, a_partition_in_fp32_stays_until_the_optimizer_has_stepped, 0, COUNT(all_ranks));
	tcase_add_loop_test(test, norms_are_taken_in_fp64_of_one_gradient_at_a_time, 0, COUNT(all_ranks));
	tcase_add_loop_test(test, the_surplus_is_what_the_fullest_rank_touches_more, 0, COUNT(all_ranks));
	tcase_add_loop_test(test, buckets_are_accepted_where_they_are_replayed, 0, 2);
	tcase_add_test(test, what_is_not_replayed_is_a_static_share);
	suite_add_tcase(suite, test);
	return run_suite(suite);
}
