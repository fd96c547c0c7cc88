/* A whole compiled model: inductor's plan of buffers, what lives between forward and backward, and what a step leaves. */
#include <stdlib.h>
#include <string.h>
#include "estimator/compiled_plan.h"
#include "estimator/replay.h"
#include "tests/suite.h"

/* As in test_step.c: nothing is rounded. */
enum { B = 2, S = 512, N = B * S, H = 1024, F = 2560, HEADS = 8, KV = 2, DIM = 128, V = 32768, MIB = 1 << 20 };

#include "tests/llama.h"

static void set_up(void)
{
	take_arena(3);
}

/* ---- the plan */

enum { STEPS = 64, LARGE = 4096, SMALL = 1024 };

static struct est_tape tape;
static struct est_plan_step steps[STEPS];
static struct est_plan plan;

static void begin_plan(uint64_t given)
{
	static const struct est_tape_limits limits = { .events = STEPS, .nodes = 1, .storages = STEPS, .leaves = 1, .frames = 1,
						       .attributes = 1, .frame_saves = 1 };

	arena.used = 0;
	ck_assert(est_tape_init(&tape, &arena, &limits));
	for (unsigned i = 0; i < EST_CATEGORIES; i++)
		tape.shards[i] = 1;
	plan = (struct est_plan){ .steps = steps, .limit = STEPS };
	est_plan_begin(&plan, &tape, given);
}

static unsigned allocations(void)
{
	unsigned count = 0;

	for (size_t i = 0; i < tape.event_count; i++)
		count += tape.events[i].kind == EST_EVENT_ALLOC;
	return count;
}

/* Both times over of a graph, from what it is given: how many buffers it allocates */
static unsigned run_graph(void (*graph)(void), uint64_t given)
{
	begin_plan(given);
	graph();
	est_plan_settle(&plan);
	graph();
	return allocations();
}

static struct est_tensor take(uint64_t numel)
{
	return est_plan_take(&plan, numel, 2, EST_ACTIVATIONS);
}

/* One buffer after the other of the same size, with another in between */
static void one_by_one(void)
{
	struct est_tensor a = take(LARGE), b, c;

	est_plan_give(&plan, &a);
	b = take(SMALL);
	c = take(LARGE);
	est_plan_give(&plan, &b);
	est_plan_give(&plan, &c);
}

START_TEST(a_buffer_becomes_another_of_its_size)
{
	ck_assert_uint_eq(run_graph(one_by_one, 2 * LARGE), 2);
	ck_assert_uint_eq(tape.events[tape.event_count - 1].kind, EST_EVENT_FREE);
}
END_TEST

/* The same with the one in between gone before */
static void one_at_a_time(void)
{
	static const uint64_t sizes[] = { LARGE, SMALL, LARGE };

	for (unsigned i = 0; i < 3; i++) {
		struct est_tensor buffer = take(sizes[i]);

		est_plan_give(&plan, &buffer);
	}
}

/* Nothing is alive twice: kept until the third, the first would be beside the second. */
START_TEST(a_buffer_that_raises_the_peak_is_let_go)
{
	ck_assert_uint_eq(run_graph(one_at_a_time, 0), 3);
}
END_TEST

static void of_other_sizes(void)
{
	struct est_tensor a = take(LARGE), b;

	est_plan_give(&plan, &a);
	b = take(SMALL);
	est_plan_give(&plan, &b);
	b = est_plan_take(&plan, LARGE / 2, 4, EST_ACTIVATIONS);
	est_plan_give(&plan, &b);
}

START_TEST(a_buffer_becomes_none_of_another_size_or_type)
{
	ck_assert_uint_eq(run_graph(of_other_sizes, 16 * LARGE), 3);
}
END_TEST

static struct est_tensor saved;

/* What the graph was given goes for good, unless another value is written in its place. */
static void of_what_is_given(void)
{
	struct est_tensor a = saved, b;

	est_plan_give(&plan, &a);
	b = take(LARGE);
	est_plan_give(&plan, &b);
}

static void in_place(void)
{
	struct est_tensor a = est_plan_adopt(&plan, saved), b;

	est_plan_give(&plan, &a);
	b = take(LARGE);
	est_plan_give(&plan, &b);
}

static const struct {
	void (*graph)(void);
	unsigned allocations;
} givens[] = { { of_what_is_given, 2 }, { in_place, 1 } };

START_TEST(what_is_given_is_no_buffer_until_it_is_written)
{
	begin_plan(2 * LARGE);
	saved = est_hold(est_empty(&tape, LARGE, 2));
	givens[_i].graph();
	est_plan_settle(&plan);
	givens[_i].graph();
	ck_assert_uint_eq(allocations(), givens[_i].allocations);
}
END_TEST

/* ---- the model */

static struct est_request request_of(enum est_precision precision, enum est_checkpointing checkpointing)
{
	return (struct est_request){
		.precision = precision,
		.optimizer = EST_SGD,
		.torch_compile = true,
		.checkpointing = checkpointing,
		.max_grad_norm = 1,
		.micro_batch_size = B,
		.sequence_length = S,
		.gradient_accumulation_steps = 1,
		.outputs_to_fp32 = true,
		.parallelism = { .gpus = 1, .gpus_per_node = 8, .tensor = 1, .pipeline = 1, .context = 1, .expert = 1 },
	};
}

/* What is alive beyond the beginning of a part: when the backward begins, at most from there on, at the end */
struct walk {
	uint64_t before_backward, peak, end;
};

static struct walk walk_through(enum est_part part)
{
	struct walk walk = { 0, 0, 0 };
	bool backward = false;

	for (size_t i = program.begin[part]; i < program.end[part]; i++) {
		const struct est_event *event = &program.events[i];

		if (event->kind == EST_EVENT_PHASE && event->id == EST_PHASE_LOSS_BACKWARD) {
			backward = true;
			walk.before_backward = walk.end;
		}
		if (event->kind == EST_EVENT_ALLOC)
			walk.end += event->bytes;
		if (event->kind == EST_EVENT_FREE)
			walk.end -= event->bytes;
		if (backward && walk.end > walk.peak)
			walk.peak = walk.end;
	}
	return walk;
}

static uint64_t before_backward(enum est_architecture architecture, int64_t layers, const struct est_request *request)
{
	struct est_model model = llama_like(architecture, layers);

	trace_program(&model, request);
	return walk_through(EST_PART_MICRO_FIRST).before_backward;
}

/* Of a token in 16 bits: the stream twice, both norms' results, q, k and v of all heads and what attention makes of
 * them; gate, up and their product. Two statistics of the norms and one a head. */
static uint64_t kept(void)
{
	return N * (8 * (uint64_t)H + 8 * HEADS * DIM + 4 * HEADS + 6 * F + 8);
}

/* q and k as they were, and a statistic a head of both */
static uint64_t kept_by_qwen3(void)
{
	return kept() + N * ((2 * DIM + 4) * (uint64_t)(HEADS + KV));
}

/* The stream is of 32 bits, and copies of the weights stay. */
static uint64_t kept_under_autocast(void)
{
	const uint64_t weights = 2 * (uint64_t)H * HEADS * DIM + 2 * (uint64_t)H * KV * DIM + 3 * (uint64_t)H * F;

	return kept() + 2 * 2 * N * (uint64_t)H + 2 * weights;
}

static uint64_t kept_by_checkpoint(void)
{
	return 2 * N * (uint64_t)H;
}

static const struct {
	enum est_architecture architecture;
	enum est_precision precision;
	enum est_checkpointing checkpointing;
	uint64_t (*kept)(void);
} models[] = {
	{ EST_ARCH_LLAMA, EST_PURE_BF16, EST_CHECKPOINT_NONE, kept },
	{ EST_ARCH_LLAMA, EST_BF16_AUTOCAST, EST_CHECKPOINT_NONE, kept },
	{ EST_ARCH_QWEN3, EST_PURE_BF16, EST_CHECKPOINT_NONE, kept_by_qwen3 },
	{ EST_ARCH_LLAMA, EST_BF16_MIXED, EST_CHECKPOINT_NONE, kept_under_autocast },
	{ EST_ARCH_QWEN3, EST_PURE_BF16, EST_CHECKPOINT_FULL, kept_by_checkpoint },
};

START_TEST(a_layer_keeps_what_the_partitioner_saves)
{
	struct est_request request = request_of(models[_i].precision, models[_i].checkpointing);
	uint64_t two = before_backward(models[_i].architecture, 2, &request);

	ck_assert_uint_eq(before_backward(models[_i].architecture, 3, &request) - two, models[_i].kept());
}
END_TEST

/* Every gradient arrives, and nothing else of a step is left. */
START_TEST(a_step_leaves_gradients_only)
{
	struct est_request request = request_of(models[_i].precision, models[_i].checkpointing);
	struct est_model model = llama_like(models[_i].architecture, 2);
	uint64_t gradients;

	request.gradient_accumulation_steps = 2;
	trace_program(&model, &request);
	gradients = walk_through(EST_PART_MICRO_FIRST).end;
	ck_assert_uint_eq(walk_through(EST_PART_MICRO_NEXT).end, 0);
	request.torch_compile = false;
	request.checkpointing = EST_CHECKPOINT_NONE;
	trace_program(&model, &request);
	ck_assert_uint_eq(walk_through(EST_PART_MICRO_FIRST).end, gradients);
}
END_TEST

/* The logits, autograd's zeros of them and their gradient: 6 bytes a logit, of which 2 were there. */
START_TEST(the_backward_begins_with_zeros_of_the_logits)
{
	struct est_request request = request_of(EST_PURE_BF16, EST_CHECKPOINT_FULL);
	struct est_model model = llama_like(EST_ARCH_LLAMA, 2);
	struct walk walk;

	trace_program(&model, &request);
	walk = walk_through(EST_PART_MICRO_FIRST);
	ck_assert_uint_ge(walk.peak, walk.before_backward + 4 * (uint64_t)N * V);
}
END_TEST

/* The gradient of tied logits waits for that of the embedding, to which the head's product is added. */
START_TEST(a_tied_head_waits_for_the_embedding)
{
	struct est_request request = request_of(EST_PURE_BF16, EST_CHECKPOINT_NONE);
	struct est_model model = llama_like(EST_ARCH_LLAMA, 2);
	const uint64_t table = (uint64_t)V * H;

	model.tie_word_embeddings = true;
	trace_program(&model, &request);
	ck_assert_uint_ge(walk_through(EST_PART_MICRO_FIRST).peak, 2 * (uint64_t)N * V + 6 * table);
}
END_TEST

/* The first backward of checkpoints copies the mask for every head. */
START_TEST(checkpoints_copy_the_mask)
{
	struct est_request request = request_of(EST_PURE_BF16, EST_CHECKPOINT_FULL);
	struct est_model model = llama_like(EST_ARCH_LLAMA, 2);

	request.micro_batch_size = 1;
	request.sequence_length = 16384;
	trace_program(&model, &request);
	ck_assert_uint_ge(walk_through(EST_PART_MICRO_FIRST).peak, 2 * HEADS * (uint64_t)16384 * 16384);
}
END_TEST

int main(void)
{
	const int count = (int)(sizeof(models) / sizeof(models[0]));
	Suite *suite = suite_create("compiled");
	TCase *test = tcase_create("compiled");

	tcase_add_unchecked_fixture(test, set_up, NULL);
	tcase_add_test(test, a_buffer_becomes_another_of_its_size);
	tcase_add_test(test, a_buffer_that_raises_the_peak_is_let_go);
	tcase_add_test(test, a_buffer_becomes_none_of_another_size_or_type);
	tcase_add_loop_test(test, what_is_given_is_no_buffer_until_it_is_written, 0, 2);
	tcase_add_loop_test(test, a_layer_keeps_what_the_partitioner_saves, 0, count);
	tcase_add_loop_test(test, a_step_leaves_gradients_only, 0, count);
	tcase_add_test(test, the_backward_begins_with_zeros_of_the_logits);
	tcase_add_test(test, a_tied_head_waits_for_the_embedding);
	tcase_add_test(test, checkpoints_copy_the_mask);
	suite_add_tcase(suite, test);
	return run_suite(suite);
}
