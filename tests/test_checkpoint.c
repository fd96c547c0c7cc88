#include <stdlib.h>
#include <string.h>
#include "estimator/ops.h"
#include "tests/suite.h"

enum { NUMEL = 1024, ARENA = 1 << 20, MATMULS = 7 };

static const struct est_tape_limits roomy = {
	.events = 512, .storages = 128, .nodes = 64, .leaves = 16, .frames = 8, .frame_saves = 64,
};

static struct est_arena arena;
static struct est_tape tape;

static void set_up(void)
{
	est_arena_init(&arena, malloc(ARENA), ARENA);
	ck_assert(est_tape_init(&tape, &arena, &roomy));
}

static void tear_down(void)
{
	free(arena.base);
}

static int count_since(size_t first, enum est_event_kind kind)
{
	int count = 0;

	for (size_t i = first; i < tape.event_count; i++)
		count += tape.events[i].kind == kind;
	return count;
}

/* ---- a layer of seven products and attention with its logsumexp after the third; a function of its input is saved
 * in the middle and at the end, so that everything is asked for again */

static struct est_tensor silu_of(struct est_tensor x)
{
	return est_silu(&tape, x);
}

static struct est_tensor layer(void *context, struct est_tensor x, const void *argument)
{
	struct est_tensor y = est_hold(silu_of(x)), out;

	(void)context;
	(void)argument;
	for (int i = 0; i < MATMULS; i++) {
		est_drop(&tape, est_result(&tape, EST_RESULT_OF_MATMUL, NUMEL, EST_16BIT));
		if (i == 2)
			for (int k = 0; k < 2; k++)
				est_drop(&tape, est_result(&tape, EST_RESULT_OF_ATTENTION, NUMEL, EST_16BIT));
	}
	out = silu_of(y);
	est_drop(&tape, y);
	return out;
}

static const struct {
	const char *name;
	enum est_policy policy;
	int kept;
} policies[] = {
	{ "nothing", EST_KEEP_NOTHING, 0 },
	{ "the first product and every second from there, and attention", EST_KEEP_OP, 4 + 2 },
	{ "attention alone", EST_KEEP_ATTENTION, 2 },
	{ "all products and attention", EST_KEEP_ALL_MATMUL, 7 + 2 },
};

START_TEST(what_is_kept_is_not_made_again)
{
	struct est_call call = { .function = layer };
	uint32_t leaf = est_leaf_new(&tape, est_empty(&tape, NUMEL, EST_16BIT), true, true);
	struct est_tensor out;
	size_t first = tape.event_count;
	int forward;

	tape.policy = policies[_i].policy;
	out = est_hold(est_checkpoint(&tape, &call, est_leaf_tensor(&tape, leaf), false));
	forward = count_since(first, EST_EVENT_ALLOC);
	/* y, seven products, two of attention, out: y and what is not kept is gone, out is ours */
	ck_assert_int_eq(forward, 1 + MATMULS + 2 + 1);
	ck_assert_msg(forward - count_since(first, EST_EVENT_FREE) == policies[_i].kept + 1, "%s", policies[_i].name);
	first = tape.event_count;
	est_tape_backward(&tape, 0, out, est_empty(&tape, NUMEL, EST_16BIT));
	/* the gradients of out, y and x, and all of the forward but out and what was kept */
	ck_assert_msg(count_since(first, EST_EVENT_ALLOC) == 3 + forward - 1 - policies[_i].kept, "%s: %d", policies[_i].name,
		      count_since(first, EST_EVENT_ALLOC));
	/* the leaf and its gradient are left, and out */
	ck_assert_int_eq(count_since(0, EST_EVENT_ALLOC) - count_since(0, EST_EVENT_FREE), 3);
	ck_assert(!tape.exhausted);
}
END_TEST

START_TEST(an_input_on_the_host_comes_back_for_the_recomputation)
{
	struct est_call call = { .function = layer };
	uint32_t leaf = est_leaf_new(&tape, est_empty(&tape, NUMEL, EST_16BIT), true, true);
	struct est_tensor x, out;
	int here, there;

	tape.offloads = _i & 1;
	x = est_hold(silu_of(est_leaf_tensor(&tape, leaf)));
	out = est_hold(est_checkpoint(&tape, &call, x, _i & 2));
	est_drop(&tape, x);
	/* the leaf, out, and x where the card keeps it */
	here = count_since(0, EST_EVENT_ALLOC) - count_since(0, EST_EVENT_FREE);
	ck_assert_int_eq(here, tape.offloads ? 2 : 3);
	ck_assert_uint_eq(tape.pinned, tape.offloads ? NUMEL * EST_16BIT : 0);
	est_tape_backward(&tape, 0, out, est_empty(&tape, NUMEL, EST_16BIT));
	there = count_since(0, EST_EVENT_ALLOC) - count_since(0, EST_EVENT_FREE);
	ck_assert_int_eq(there, 3); /* the leaf, its gradient and out */
}
END_TEST

START_TEST(without_a_checkpoint_nothing_is_kept)
{
	size_t first = tape.event_count;

	tape.policy = EST_KEEP_ALL_MATMUL;
	est_drop(&tape, est_result(&tape, EST_RESULT_OF_MATMUL, NUMEL, EST_16BIT));
	ck_assert_int_eq(count_since(first, EST_EVENT_ALLOC), 1);
	ck_assert_int_eq(count_since(first, EST_EVENT_FREE), 1);
}
END_TEST

/* ---- what calls share */

static struct est_tensor add_second(void *context, struct est_tensor x, const void *argument)
{
	(void)context;
	(void)argument;
	return est_mul(&tape, silu_of(x), tape.second);
}

START_TEST(a_second_input_gets_its_gradient)
{
	uint32_t leaf = est_leaf_new(&tape, est_empty(&tape, NUMEL, EST_16BIT), true, true);
	uint32_t other = est_leaf_new(&tape, est_empty(&tape, NUMEL, EST_16BIT), true, true);
	struct est_call call = { .function = add_second, .second = est_leaf_tensor(&tape, other) };
	struct est_tensor out;

	tape.offloads = _i & 1;
	out = est_hold(est_checkpoint(&tape, &call, est_leaf_tensor(&tape, leaf), _i & 2));
	ck_assert_uint_eq(tape.pinned, tape.offloads ? 2 * NUMEL * EST_16BIT : 0);
	est_tape_backward(&tape, 0, out, est_empty(&tape, NUMEL, EST_16BIT));
	ck_assert(tape.leaves[leaf].grad.storage && tape.leaves[other].grad.storage);
	/* two leaves, their gradients, and out */
	ck_assert_int_eq(count_since(0, EST_EVENT_ALLOC) - count_since(0, EST_EVENT_FREE), 5);
}
END_TEST

/* Leaves its result to others, and gives a function of it. */
static struct est_tensor share(void *context, struct est_tensor x, const void *argument)
{
	struct est_tensor key, out;

	(void)context;
	(void)argument;
	est_share_begin(&tape, true);
	key = est_hold(silu_of(x));
	est_share(&tape, &tape.states->entries[0], key, est_none);
	out = silu_of(key);
	est_drop(&tape, key);
	return out;
}

START_TEST(shared_states_live_as_long_as_a_call_holds_them)
{
	uint32_t leaf = est_leaf_new(&tape, est_empty(&tape, NUMEL, EST_16BIT), true, true);
	struct est_call plain = { .function = layer }, call = { .function = share, .states = est_shared_states_new(&tape) };
	struct est_tensor x, y, out;

	plain.states = call.states;
	x = est_hold(est_checkpoint(&tape, &plain, est_leaf_tensor(&tape, leaf), false)); /* given them, too */
	y = est_hold(est_checkpoint(&tape, &call, x, false));
	est_shared_states_drop(&tape, call.states); /* the model's frame ends */
	out = est_hold(silu_of(y));
	/* the leaf, x, what was shared, y and out */
	ck_assert_int_eq(count_since(0, EST_EVENT_ALLOC) - count_since(0, EST_EVENT_FREE), 5);
	est_tape_backward(&tape, 0, out, est_empty(&tape, NUMEL, EST_16BIT));
	ck_assert_uint_eq(call.states->holders, 0);
	/* the leaf, its gradient, x, y and out: neither what was shared nor what its graph held */
	ck_assert_int_eq(count_since(0, EST_EVENT_ALLOC) - count_since(0, EST_EVENT_FREE), 5);
	ck_assert(!tape.exhausted);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("checkpoint");
	TCase *tcase = tcase_create("checkpoint");

	tcase_add_checked_fixture(tcase, set_up, tear_down);
	tcase_add_loop_test(tcase, what_is_kept_is_not_made_again, 0, COUNT(policies));
	tcase_add_loop_test(tcase, an_input_on_the_host_comes_back_for_the_recomputation, 0, 4);
	tcase_add_test(tcase, without_a_checkpoint_nothing_is_kept);
	tcase_add_loop_test(tcase, a_second_input_gets_its_gradient, 0, 4);
	tcase_add_test(tcase, shared_states_live_as_long_as_a_call_holds_them);
	suite_add_tcase(suite, tcase);
	return run_suite(suite);
}
