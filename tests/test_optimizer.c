#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "estimator/ops.h"
#include "estimator/optimizer.h"
#include "tests/suite.h"

/* A model of three parameters, in 16 bits: an embedding of 8192 x 1024, a layer's matrix of 1024 x 3072, a norm's
 * 1024. */
enum { VOCABULARY = 8192, HIDDEN = 1024, WIDTH = 3072, ARENA = 1 << 20 };

static const struct est_tape_limits roomy = {
	.events = 512, .storages = 256, .nodes = 64, .leaves = 16, .frames = 8, .frame_saves = 64,
};

static struct est_arena arena;
static struct est_tape tape;

static void parameter(uint64_t rows, uint64_t columns, bool inner, uint8_t element, bool trained)
{
	uint64_t numel = rows ? rows * columns : columns;
	uint32_t leaf = est_leaf_new(&tape, est_empty_as(&tape, numel, element, EST_WEIGHTS), trained, true);

	tape.leaves[leaf].rows = rows;
	tape.leaves[leaf].inner = inner;
	tape.leaves[leaf].linear = inner;
}

static void build(uint8_t element)
{
	ck_assert(est_tape_init(&tape, &arena, &roomy));
	parameter(VOCABULARY, HIDDEN, false, element, true);
	parameter(HIDDEN, WIDTH, true, element, true);
	parameter(0, HIDDEN, false, element, true);
	parameter(HIDDEN, HIDDEN, true, element, false); /* frozen: no optimizer sees it */
}

static void set_up(void)
{
	est_arena_init(&arena, malloc(ARENA), ARENA);
}

static void tear_down(void)
{
	free(arena.base);
}

/* Bytes alive at the end of the events since first, and the most that were alive within them. */
struct rise {
	int64_t kept, peak;
};

static struct rise rise_since(size_t first)
{
	struct rise rise = { 0, 0 };

	for (size_t i = first; i < tape.event_count; i++) {
		const struct est_event *event = &tape.events[i];

		if (event->kind == EST_EVENT_ALLOC)
			rise.kept += (int64_t)event->bytes;
		else if (event->kind == EST_EVENT_FREE)
			rise.kept -= (int64_t)event->bytes;
		if (rise.kept > rise.peak)
			rise.peak = rise.kept;
	}
	return rise;
}

/* ---- states, by hand. E, M, N: elements of embedding, matrix, norm; every block is rounded up to 512 bytes. */

#define E ((int64_t)VOCABULARY * HIDDEN)
#define M ((int64_t)HIDDEN * WIDTH)
#define N ((int64_t)HIDDEN)
#define KIB ((int64_t)1024)

static const struct {
	const char *name;
	enum est_optimizer optimizer;
	uint8_t element;
	int64_t states, managed;
} states[] = {
	{ "SGD has none", EST_SGD, 2, 0, 0 },
	{ "momentum has the parameter's dtype", EST_SGD_MOMENTUM, 2, 2 * (E + M + N), 0 },
	{ "fused AdamW has two and a step count each", EST_ADAMW_TORCH_FUSED, 2, 2 * 2 * (E + M + N) + 3 * 512, 0 },
	{ "foreach AdamW has two", EST_ADAMW_TORCH, 4, 2 * 4 * (E + M + N), 0 },
	/* a byte and 4/256 bytes, twice; the norm in fp32; two code tables */
	{ "bitsandbytes quantises from 4096 elements on", EST_ADAMW_8BIT, 2, 2 * (E + M) * 65 / 64 + 2 * 4 * N + 2 * KIB, 0 },
	{ "its states do not follow the parameter's dtype", EST_ADAMW_8BIT, 4,
	  2 * (E + M) * 65 / 64 + 2 * 4 * N + 2 * KIB, 0 },
	{ "Lion's state is fp32", EST_LION, 2, 4 * (E + M + N), 0 },
	{ "8-bit Lion has one state and one table", EST_LION_8BIT, 2, (E + M) * 65 / 64 + 4 * N + KIB, 0 },
	/* absmax and what is small stays in the allocator */
	{ "paged 8-bit states are managed memory", EST_PAGED_ADAMW_8BIT, 2, 2 * (E + M) / 64 + 2 * 4 * N + 2 * KIB,
	  2 * (E + M) },
	{ "paged 32-bit states are managed memory", EST_PAGED_ADAMW_32BIT, 2, 2 * 4 * N, 2 * 4 * (E + M) },
	/* codes, scales of 4/256, a table of 1 KiB for each state; the norm keeps its dtype */
	{ "torchao quantises embeddings too", EST_ADAMW_8BIT_TORCHAO, 2, 2 * (E + M) * 65 / 64 + 4 * KIB + 2 * 2 * N, 0 },
	/* half a byte, 4/128, a table of 64 bytes in 512 */
	{ "torchao's 4-bit states have blocks of 128", EST_ADAMW_4BIT, 2, 2 * (E + M) * 17 / 32 + 4 * 512 + 2 * 2 * N, 0 },
	{ "torchao's fp8 states have no table", EST_ADAMW_FP8, 4, 2 * (E + M) * 65 / 64 + 2 * 4 * N, 0 },
	/* a row and a column in fp32, RMS on the card */
	{ "Adafactor factors matrices", EST_ADAFACTOR, 2,
	  4 * (VOCABULARY + HIDDEN) + 4 * (HIDDEN + WIDTH) + 4 * N + 3 * 512, 0 },
	{ "Muon has one for a layer's matrix", EST_MUON, 2, 2 * M + 2 * 2 * (E + N) + 2 * 512, 0 },
	/* rank 128: the projection of the shorter side, two moments of the longer one */
	{ "GaLore projects a layer's matrix", EST_GALORE_ADAMW, 2, 2 * 128 * (HIDDEN + 2 * WIDTH) + 2 * 2 * (E + N), 0 },
	/* the singular vectors are a view of all of them */
	{ "GaLore keeps all singular vectors in fp32", EST_GALORE_ADAMW, 4,
	  4 * HIDDEN * HIDDEN + 4 * 128 * 2 * WIDTH + 2 * 4 * (E + N), 0 },
	{ "APOLLO keeps a norm too", EST_APOLLO_ADAMW, 2, 2 * 128 * (HIDDEN + 2 * WIDTH) + 512 + 2 * 2 * (E + N), 0 },
	{ "APOLLO-Mini has rank one", EST_APOLLO_ADAMW_MINI, 2, 2 * (HIDDEN + 2 * WIDTH) + 512 + 2 * 2 * (E + N), 0 },
};

static struct est_request request_for(enum est_optimizer optimizer, uint8_t element)
{
	return (struct est_request){ .optimizer = optimizer, .optimizer_rank = 128, .max_grad_norm = 1,
				     .precision = element == EST_32BIT ? EST_PURE_FP32 : EST_PURE_BF16 };
}

START_TEST(the_first_step_makes_the_states)
{
	struct est_request request = request_for(states[_i].optimizer, states[_i].element);
	size_t first;

	build(states[_i].element);
	first = tape.event_count;
	est_optimizer_load(&tape, &request);
	est_optimizer_states(&tape, &request);
	ck_assert_msg(rise_since(first).kept == states[_i].states, "%s: %lld, not %lld", states[_i].name,
		      (long long)rise_since(first).kept, (long long)states[_i].states);
	ck_assert_msg((int64_t)tape.managed == states[_i].managed, "%s: managed", states[_i].name);
}
END_TEST

START_TEST(a_frozen_model_has_no_states)
{
	struct est_request request = request_for(states[_i].optimizer, states[_i].element);
	size_t first;

	ck_assert(est_tape_init(&tape, &arena, &roomy));
	parameter(HIDDEN, WIDTH, true, EST_16BIT, false);
	first = tape.event_count;
	est_optimizer_states(&tape, &request);
	ck_assert_msg(rise_since(first).kept == 0, "%s", states[_i].name);
}
END_TEST

/* Experts in one parameter of 8 matrices of 512 x 1024, and their router of 8 x 1024. */
static const struct {
	const char *name;
	enum est_optimizer optimizer;
	int64_t states;
} moe_states[] = {
	/* 8 rows of 512, 8 columns of 1024, the router's 8 and 1024, each in 512-byte blocks; RMS twice */
	{ "Adafactor factors each matrix of a stack", EST_ADAFACTOR, 4 * (8 * 512 + 8 * 1024) + 512 + 4 * 1024 + 2 * 512 },
	/* the stack goes to AdamW, the router to Muon */
	{ "Muon takes no stack", EST_MUON, 2 * 2 * 8 * 512 * 1024 + 512 + 2 * 8 * 1024 },
	{ "GaLore projects neither", EST_GALORE_ADAMW, 2 * 2 * (8 * 512 * 1024 + 8 * 1024) },
};

START_TEST(experts_are_stacks_and_routers_no_linear_layers)
{
	struct est_request request = request_for(moe_states[_i].optimizer, EST_16BIT);
	size_t first;

	ck_assert(est_tape_init(&tape, &arena, &roomy));
	parameter(8 * 512, 1024, false, EST_16BIT, true);
	tape.leaves[0].stack = 8;
	parameter(8, 1024, true, EST_16BIT, true);
	tape.leaves[1].linear = false;
	first = tape.event_count;
	est_optimizer_states(&tape, &request);
	ck_assert_msg(rise_since(first).kept == moe_states[_i].states, "%s: %lld", moe_states[_i].name,
		      (long long)rise_since(first).kept);
}
END_TEST

/* ---- what a step allocates on the way: by hand, in the order of the parameters */

static const struct {
	const char *name;
	enum est_optimizer optimizer;
	uint8_t element;
	int64_t peak;
	int64_t torch; /* 0: the newest */
} updates[] = {
	{ "fused AdamW allocates nothing", EST_ADAMW_TORCH_FUSED, 2, 0, 0 },
	{ "SGD allocates nothing", EST_SGD_MOMENTUM, 2, 0, 0 },
	{ "bitsandbytes allocates nothing", EST_ADAMW_8BIT, 2, 0, 0 },
	{ "torchao's compiled step allocates nothing", EST_ADAMW_4BIT, 2, 0, 0 },
	{ "foreach AdamW has a square root of everything", EST_ADAMW_TORCH, 2, 2 * (E + M + N), 0 },
	{ "that of PyTorch 2.1 too", EST_ADAMW_TORCH, 2, 2 * (E + M + N), 2001 },
	{ "that of 2.0 a sum with eps beside it", EST_ADAMW_TORCH, 2, 2 * 2 * (E + M + N), 2000 },
	/* fp32: gradient, parameter, the update and the last one to be made of it, its factors */
	{ "Adafactor upcasts gradient and parameter", EST_ADAFACTOR, 2, 4 * 4 * E + 4 * (VOCABULARY + HIDDEN), 0 },
	{ "Adafactor has two copies in fp32", EST_ADAFACTOR, 4, 2 * 4 * E + 4 * (VOCABULARY + HIDDEN), 0 },
	/* lerp and two orthogonalised ones; two gram matrices and their updates, of which three at once beside all that */
	{ "Muon orthogonalises in bf16", EST_MUON, 2, 3 * 2 * M + 2 * 2 * HIDDEN * HIDDEN, 0 },
	{ "Muon casts fp32", EST_MUON, 4, 4 * M + 2 * 2 * M + 2 * 2 * HIDDEN * HIDDEN, 0 },
	/* denom and norm_grad of the embedding, and the norm's denom before the old one goes */
	{ "GaLore's AdamW is not fused", EST_GALORE_ADAMW, 2, 2 * 2 * E + 2 * N, 0 },
	{ "nor is APOLLO's", EST_APOLLO_ADAMW, 2, 2 * 2 * E + 2 * N, 0 },
	{ "nor APOLLO-Mini's", EST_APOLLO_ADAMW_MINI, 4, 2 * 4 * E + 4 * N, 0 },
};

static void give_gradients(void)
{
	for (uint32_t i = 0; i < tape.leaf_count; i++)
		if (tape.leaves[i].value.requires_grad)
			tape.leaves[i].grad = est_hold(est_empty_as(&tape, tape.leaves[i].value.numel,
								    tape.leaves[i].value.element, EST_GRADIENTS));
}

START_TEST(a_step_gives_back_what_it_takes)
{
	struct est_request request = request_for(updates[_i].optimizer, updates[_i].element);
	struct est_update update = { 0 };
	struct rise rise;
	size_t first;

	request.versions.torch = updates[_i].torch;
	build(updates[_i].element);
	give_gradients();
	est_optimizer_clip(&tape, &request, &update);
	first = tape.event_count;
	est_optimizer_update(&tape, &request, &update);
	rise = rise_since(first);
	ck_assert_msg(rise.peak == updates[_i].peak, "%s: %lld, not %lld", updates[_i].name, (long long)rise.peak,
		      (long long)updates[_i].peak);
	ck_assert_msg(rise.kept + updates[_i].element * (E + M + N) == 0, "%s: the gradients are gone, and no more",
		      updates[_i].name);
}
END_TEST

/* ---- fp32 master weights */

START_TEST(masters_are_what_is_stepped)
{
	struct est_request request = request_for(EST_ADAMW_TORCH_FUSED, EST_16BIT);
	struct est_update update = { 0 };
	size_t first;

	request.precision = EST_BF16_MASTER;
	build(EST_16BIT);
	first = tape.event_count;
	est_optimizer_load(&tape, &request);
	ck_assert_int_eq(rise_since(first).kept, 4 * (E + M + N));
	first = tape.event_count;
	est_optimizer_states(&tape, &request);
	ck_assert_int_eq(rise_since(first).kept, 2 * 4 * (E + M + N) + 3 * 512);
	first = tape.event_count;
	request.max_grad_norm = 0;
	est_optimizer_clip(&tape, &request, &update);
	ck_assert_int_eq(rise_since(first).kept, 4 * (E + M + N));
	est_optimizer_update(&tape, &request, &update);
	ck_assert_int_eq(rise_since(first).kept, 0);
}
END_TEST

/* ---- fused in the backward */

/* The last thing that happens to a parameter: its gradient arrives, through the graph of one product with it. */
static size_t arrive(uint32_t leaf)
{
	struct est_tensor root = est_leaf_tensor(&tape, leaf);
	size_t first = tape.event_count;

	tape.leaves[leaf].uses = 1;
	est_tape_backward(&tape, 0, root, est_empty_as(&tape, root.numel, root.element, EST_GRADIENTS));
	return first;
}

static const struct {
	const char *name;
	enum est_optimizer optimizer;
	enum est_precision precision;
	int64_t peak; /* of the embedding's step, its gradient included */
} fused[] = {
	{ "fused AdamW has the gradient", EST_ADAMW_TORCH_FUSED, EST_PURE_BF16, 2 * E },
	{ "foreach AdamW a square root of it", EST_ADAMW_TORCH, EST_PURE_BF16, 2 * 2 * E },
	{ "a master has a gradient of its own", EST_ADAMW_TORCH_FUSED, EST_BF16_MASTER, 6 * E },
	{ "Adafactor its four copies", EST_ADAFACTOR, EST_PURE_BF16, 2 * E + 4 * 4 * E + 4 * (VOCABULARY + HIDDEN) },
	{ "GaLore's AdamW two more", EST_GALORE_ADAMW, EST_PURE_BF16, 3 * 2 * E },
};

START_TEST(a_parameter_is_stepped_as_its_gradient_arrives)
{
	struct est_request request = request_for(fused[_i].optimizer, EST_16BIT);
	struct est_update update = { 0 };
	struct rise rise;
	size_t first;

	request.precision = fused[_i].precision;
	request.fuse_optimizer_in_backward = true;
	build(EST_16BIT);
	est_optimizer_fuse(&tape, &request);
	rise = rise_since(arrive(0));
	ck_assert_msg(rise.peak == fused[_i].peak, "%s: %lld, not %lld", fused[_i].name, (long long)rise.peak,
		      (long long)fused[_i].peak);
	ck_assert_msg(rise.kept == 0, "%s: something is left", fused[_i].name);
	ck_assert_uint_eq(tape.leaves[0].grad.storage, 0);
	/* and the step has nothing more to do */
	first = tape.event_count;
	est_optimizer_clip(&tape, &request, &update);
	est_optimizer_update(&tape, &request, &update);
	ck_assert_int_eq(rise_since(first).peak, 0);
}
END_TEST

START_TEST(each_parameter_has_tables_of_its_own)
{
	struct est_request request = request_for(EST_ADAMW_8BIT, EST_16BIT);
	size_t first;

	request.fuse_optimizer_in_backward = true;
	build(EST_16BIT);
	first = tape.event_count;
	est_optimizer_states(&tape, &request);
	ck_assert_int_eq(rise_since(first).kept, 2 * (E + M) * 65 / 64 + 2 * 4 * N + 2 * 2 * KIB);
}
END_TEST

START_TEST(states_are_sharded_with_their_category)
{
	struct est_request request = request_for(EST_PAGED_ADAMW_32BIT, EST_16BIT);
	size_t first;

	build(EST_16BIT);
	tape.shards[EST_OPTIMIZER] = 4;
	first = tape.event_count;
	est_optimizer_states(&tape, &request);
	ck_assert_int_eq(rise_since(first).kept, 2 * 4 * N / 4);
	ck_assert_int_eq((int64_t)tape.managed, 2 * 4 * (E + M) / 4);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("optimizer");
	TCase *tcase = tcase_create("optimizer");

	tcase_add_checked_fixture(tcase, set_up, tear_down);
	tcase_add_loop_test(tcase, the_first_step_makes_the_states, 0, COUNT(states));
	tcase_add_loop_test(tcase, a_frozen_model_has_no_states, 0, COUNT(states));
	tcase_add_loop_test(tcase, experts_are_stacks_and_routers_no_linear_layers, 0, COUNT(moe_states));
	tcase_add_loop_test(tcase, a_step_gives_back_what_it_takes, 0, COUNT(updates));
	tcase_add_test(tcase, masters_are_what_is_stepped);
	tcase_add_loop_test(tcase, a_parameter_is_stepped_as_its_gradient_arrives, 0, COUNT(fused));
	tcase_add_test(tcase, each_parameter_has_tables_of_its_own);
	tcase_add_test(tcase, states_are_sharded_with_their_category);
	suite_add_tcase(suite, tcase);
	return run_suite(suite);
}
