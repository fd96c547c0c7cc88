/* Tensor parallelism: what a rank holds, against closed forms and against what it holds alone (the rows of
 * truth/distributed.jsonl hold the whole of it to real PyTorch). */
#include "estimator/replay.h"
#include "estimator/tensor_parallel.h"
#include "tests/suite.h"

enum { S = 1024, H = 2048, F = 8192, HEADS = 16, KV = 8, DIM = 128, V = 32768, LAYERS = 4 };

#include "tests/llama.h"

static const struct est_model model = LLAMA(LAYERS);
static struct est_levels levels;

static void set_up(void)
{
	take_arena(LAYERS);
}

static struct est_request request_of(int64_t tensor, int64_t gpus, bool sequence_parallel)
{
	return (struct est_request){
		.precision = EST_PURE_BF16,
		.optimizer = EST_ADAMW_TORCH_FUSED,
		.checkpointing = EST_CHECKPOINT_FULL,
		.micro_batch_size = 1,
		.sequence_length = S,
		.gradient_accumulation_steps = 1,
		.parallelism = { .strategy = gpus > tensor ? EST_FSDP : EST_SINGLE, .gpus = gpus, .gpus_per_node = 8,
				 .tensor = tensor,
				 .pipeline = 1, .context = 1, .expert = 1, .sequence_parallel = sequence_parallel,
				 .reshard_after_forward = true, .wrap = EST_WRAP_LAYER_ROOT, .param_dtype = EST_DTYPE_NONE,
				 .reduce_dtype = EST_DTYPE_NONE, .output_dtype = EST_DTYPE_NONE },
	};
}

static void trace(const struct est_request *request)
{
	static const uint64_t whole[EST_CATEGORIES] = { 1, 1, 1, 1, 1, 1 };

	arena.used = 0;
	ck_assert(est_program_trace(&program, &model, request, true, whole, &arena));
	est_replay_levels(&program, &levels);
}

static uint64_t peak_of(int64_t tensor, int64_t gpus, bool sequence_parallel)
{
	struct est_request request = request_of(tensor, gpus, sequence_parallel);

	trace(&request);
	return levels.allocated;
}

/* Elements of what is cut, and of the norms, which are not. */
static const uint64_t cut = LAYERS * ((uint64_t)H * DIM * (2 * HEADS + 2 * KV) + 3 * (uint64_t)H * F)
	+ 2 * (uint64_t)V * H;
static const uint64_t norms = (2 * LAYERS + 1) * (uint64_t)H;

static const int64_t groups[] = { 2, 4, 8 };

START_TEST(a_rank_has_its_part_of_what_is_cut)
{
	int64_t tensor = groups[_i];
	struct est_request request = request_of(tensor, tensor, false);

	trace(&request);
	ck_assert_uint_eq(levels.component[EST_WEIGHTS], 2 * (cut / (uint64_t)tensor + norms));
	/* the embedding's gradient is whole, and its part is there beside it while the optimizer steps */
	ck_assert_uint_eq(levels.component[EST_GRADIENTS],
			  2 * (cut / (uint64_t)tensor + norms) + 2 * (uint64_t)V * H);
	ck_assert_int_eq(program.trainable_parameters, (int64_t)(cut + norms));
}
END_TEST

/* Of a layer that is cut along its outputs lora_A is whole and lora_B cut, of one that is cut along its inputs the other way
 * round. */
START_TEST(a_rank_has_its_part_of_the_adapters)
{
	enum { RANK = 16, OUTPUTS = HEADS * DIM + 2 * KV * DIM + 2 * F, INPUTS = HEADS * DIM + F };
	struct est_request request = request_of(groups[_i], groups[_i], false);
	const uint64_t whole = (uint64_t)LAYERS * RANK * (5 + 2) * H, parts = (uint64_t)LAYERS * RANK * (OUTPUTS + INPUTS);
	const uint64_t ranks = (uint64_t)groups[_i];

	request.method = EST_LORA;
	request.lora = (struct est_lora){ .rank = RANK, .alpha = 32, .target_modules.all = true, .adapter_dtype = EST_BF16 };
	trace(&request);
	ck_assert_uint_eq(levels.component[EST_WEIGHTS], 2 * (cut / ranks + norms + whole + parts / ranks));
	ck_assert_uint_eq(levels.component[EST_GRADIENTS], 2 * (whole + parts / ranks));
	ck_assert_int_eq(program.trainable_parameters, (int64_t)(whole + parts));
}
END_TEST

START_TEST(no_rank_takes_more_than_one_of_fewer)
{
	ck_assert_uint_lt(peak_of(groups[_i], groups[_i], false), peak_of(groups[_i] / 2, groups[_i] / 2, false));
	ck_assert_uint_lt(peak_of(groups[_i], 4 * groups[_i], false), peak_of(groups[_i] / 2, 2 * groups[_i], false));
}
END_TEST

START_TEST(a_group_takes_no_less_than_one_rank_in_its_parts)
{
	ck_assert_uint_gt((uint64_t)groups[_i] * peak_of(groups[_i], groups[_i], true), peak_of(1, 1, false));
}
END_TEST

START_TEST(splitting_the_sequence_saves_activations)
{
	struct est_request request = request_of(groups[_i], groups[_i], false);
	uint64_t whole;

	trace(&request);
	whole = levels.phase_peak[EST_PHASE_FORWARD];
	request.parallelism.sequence_parallel = true;
	trace(&request);
	/* the inputs that checkpoints keep, at least */
	ck_assert_uint_le(levels.phase_peak[EST_PHASE_FORWARD] + LAYERS * 2 * (uint64_t)S * H * (uint64_t)(groups[_i] - 1)
				  / (uint64_t)groups[_i], whole);
}
END_TEST

START_TEST(a_part_of_the_words_has_its_part_of_the_logits)
{
	struct est_request request = request_of(groups[_i], groups[_i], true);
	const uint64_t logits = (uint64_t)S * V, part = logits / (uint64_t)groups[_i];
	uint64_t whole;

	trace(&request);
	whole = levels.phase_peak[EST_PHASE_LOSS_BACKWARD];
	request.loss = EST_LOSS_VOCAB_PARALLEL;
	trace(&request);
	/* 12 bytes a logit against 16 of a part; the model's forward has returned, with what its frame held;
	 * variables of positions */
	ck_assert_uint_le(levels.phase_peak[EST_PHASE_LOSS_BACKWARD] + 12 * logits, whole + 16 * part + 48 * S);
}
END_TEST

START_TEST(one_rank_is_none)
{
	struct est_request request = request_of(1, 1, false);
	uint64_t alone = peak_of(1, 1, false);

	request.parallelism.tensor = 0; /* not a request that the service makes */
	trace(&request);
	ck_assert_uint_eq(levels.allocated, alone);
}
END_TEST

/* Beside one data-parallel rank nothing is wrapped: the strategy changes nothing. */
START_TEST(shards_of_one_rank_are_none)
{
	struct est_request request = request_of(groups[_i], groups[_i], false);
	uint64_t alone = peak_of(groups[_i], groups[_i], false);

	request.parallelism.strategy = EST_FSDP;
	trace(&request);
	ck_assert_uint_eq(levels.allocated, alone);
}
END_TEST

START_TEST(shards_are_of_a_ranks_part)
{
	const uint64_t ranks = 2, tensor = (uint64_t)groups[_i];
	struct est_request request = request_of(groups[_i], groups[_i] * (int64_t)ranks, false);

	trace(&request);
	ck_assert_uint_eq(levels.component[EST_WEIGHTS], 2 * (cut / tensor + norms) / ranks);
}
END_TEST

static Suite *suite(void)
{
	Suite *suite = suite_create("tensor");
	TCase *tcase = tcase_create("tensor");

	tcase_add_unchecked_fixture(tcase, set_up, free_arena);
	tcase_add_loop_test(tcase, a_rank_has_its_part_of_what_is_cut, 0, 3);
	tcase_add_loop_test(tcase, a_rank_has_its_part_of_the_adapters, 0, 3);
	tcase_add_loop_test(tcase, no_rank_takes_more_than_one_of_fewer, 0, 3);
	tcase_add_loop_test(tcase, a_group_takes_no_less_than_one_rank_in_its_parts, 0, 3);
	tcase_add_loop_test(tcase, splitting_the_sequence_saves_activations, 0, 3);
	tcase_add_loop_test(tcase, a_part_of_the_words_has_its_part_of_the_logits, 0, 3);
	tcase_add_test(tcase, one_rank_is_none);
	tcase_add_loop_test(tcase, shards_of_one_rank_are_none, 0, 3);
	tcase_add_loop_test(tcase, shards_are_of_a_ranks_part, 0, 3);
	suite_add_tcase(suite, tcase);
	return suite;
}

int main(void)
{
	return run_suite(suite());
}
