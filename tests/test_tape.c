#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "estimator/ops.h"
#include "tests/suite.h"

/* NUMEL elements are 4 units of 512 bytes in 16 bits, 8 in 32 bits. */
enum { NUMEL = 1024, ARENA = 1 << 20 };

static const struct est_tape_limits roomy = {
	.events = 512,
	.storages = 128,
	.nodes = 64,
	.leaves = 16,
	.frames = 8,
	.frame_saves = 64,
};

static struct est_arena arena;
static struct est_tape tape;
static char text[4096];

static void set_up(void)
{
	est_arena_init(&arena, malloc(ARENA), ARENA);
	ck_assert(est_tape_init(&tape, &arena, &roomy));
}

static void tear_down(void)
{
	free(arena.base);
}

/* What has happened since event number first: "+4 -8": units allocated and freed. */
static const char *events_since(size_t first)
{
	size_t used = 0;

	text[0] = '\0';
	for (size_t i = first; i < tape.event_count; i++) {
		const struct est_event *event = &tape.events[i];

		if (event->kind != EST_EVENT_PHASE)
			used += (size_t)snprintf(text + used, sizeof(text) - used, "%s%c%llu", used ? " " : "",
						 event->kind == EST_EVENT_ALLOC ? '+' : '-',
						 (unsigned long long)(event->bytes / 512));
	}
	return text;
}

static uint64_t live(void)
{
	uint64_t units = 0;

	for (size_t i = 0; i < tape.event_count; i++) {
		if (tape.events[i].kind == EST_EVENT_ALLOC)
			units += tape.events[i].bytes / 512;
		if (tape.events[i].kind == EST_EVENT_FREE)
			units -= tape.events[i].bytes / 512;
	}
	return units;
}

static struct est_tensor leaf(bool requires_grad, bool parameter, uint8_t element)
{
	return est_leaf_tensor(&tape, est_leaf_new(&tape, est_empty(&tape, NUMEL, element), requires_grad, parameter));
}

/* An activation that a gradient goes back to. */
static struct est_tensor input(void)
{
	return leaf(true, false, EST_16BIT);
}

static void backward(struct est_tensor root)
{
	est_tape_backward(&tape, 0, root, est_empty(&tape, root.numel, root.element));
}

/* ---- storages */

static const struct {
	uint64_t numel;
	uint8_t element;
	uint64_t shards, bytes;
} sizes[] = {
	{ 1, EST_16BIT, 1, 512 },     { 256, EST_16BIT, 1, 512 },   { 257, EST_16BIT, 1, 1024 },
	{ 1024, EST_32BIT, 1, 4096 }, { 3, EST_INT64, 1, 512 },     { 513, EST_BYTE, 1, 1024 },
	{ 1024, EST_32BIT, 8, 512 },  { 1024, EST_32BIT, 3, 1536 }, { 7, EST_32BIT, 8, 512 },
};

START_TEST(a_storage_is_rounded_up_to_512_bytes_after_it_is_sharded)
{
	struct est_tensor tensor;

	tape.shards[EST_ACTIVATIONS] = sizes[_i].shards;
	tensor = est_empty(&tape, sizes[_i].numel, sizes[_i].element);
	ck_assert_uint_eq(tape.events[0].bytes, sizes[_i].bytes);
	ck_assert_uint_eq(tensor.numel, sizes[_i].numel);
}
END_TEST

START_TEST(an_empty_tensor_has_no_storage)
{
	struct est_tensor tensor = est_empty(&tape, 0, EST_16BIT);

	ck_assert_uint_eq(tensor.storage, 0);
	est_drop(&tape, tensor);
	ck_assert_uint_eq(tape.event_count, 0);
}
END_TEST

START_TEST(a_storage_lives_as_long_as_its_last_reference)
{
	struct est_tensor first = est_hold(est_empty(&tape, NUMEL, EST_16BIT)),
			  second = est_hold(est_alias(&tape, first));

	est_drop(&tape, first);
	ck_assert_str_eq(events_since(0), "+4");
	est_drop(&tape, second);
	ck_assert_str_eq(events_since(0), "+4 -4");
}
END_TEST

START_TEST(an_operator_releases_a_temporary_argument_and_leaves_a_variable)
{
	struct est_tensor variable = est_hold(est_empty(&tape, NUMEL, EST_16BIT));
	struct est_tensor product = est_hold(est_mul_scalar(&tape, est_mul_scalar(&tape, variable)));

	ck_assert_str_eq(events_since(0), "+4 +4 +4 -4");
	est_drop(&tape, product);
	est_drop(&tape, variable);
	ck_assert_uint_eq(live(), 0);
}
END_TEST

START_TEST(ids_are_used_again_but_never_for_what_lives_as_long_as_the_run)
{
	struct est_tensor first = est_empty(&tape, NUMEL, EST_16BIT), again, forever;
	uint32_t id = first.storage;

	est_drop(&tape, first);
	forever = est_persistent(&tape, NUMEL, EST_32BIT, EST_OPTIMIZER);
	again = est_empty(&tape, NUMEL, EST_16BIT);
	ck_assert_uint_ne(forever.storage, id);
	ck_assert_uint_eq(again.storage, id);
	ck_assert_int_eq(tape.storages[forever.storage].category, EST_OPTIMIZER);
}
END_TEST

/* ---- graph */

START_TEST(nothing_is_kept_where_no_gradient_is_wanted)
{
	struct est_tensor frozen = leaf(false, true, EST_16BIT), trained = input();
	uint64_t before = live();

	est_drop(&tape, est_silu(&tape, frozen));
	est_drop(&tape, est_silu(&tape, est_hold(est_detach(&tape, trained))));
	tape.no_grad = true;
	est_drop(&tape, est_silu(&tape, trained));
	ck_assert_uint_eq(tape.node_count, 0);
	ck_assert_uint_eq(live(), before);
}
END_TEST

START_TEST(a_saved_tensor_outlives_its_variable_until_its_node_has_run)
{
	struct est_tensor x = input(), y = est_hold(est_mul_scalar(&tape, x)), z = est_hold(est_silu(&tape, y));
	size_t first = tape.event_count;

	est_drop(&tape, y);
	est_drop(&tape, z);
	ck_assert_str_eq(events_since(first), "-4"); /* z: nobody needs it, but silu needs y */
	backward(z);
	/* the root's gradient, silu's; y and the root's gradient go; then x's gradient */
	ck_assert_str_eq(events_since(first), "-4 +4 +4 -4 -4 +4 -4");
	ck_assert_uint_eq(tape.node_count, 0);
}
END_TEST

/* ---- accumulation. Two branches y1, y2 of x meet in z; what is x's gradient made of? */

static struct est_tensor scaled(struct est_tensor x)
{
	return est_mul_scalar(&tape, x); /* a gradient of its own */
}

static struct est_tensor viewed(struct est_tensor x)
{
	return est_mul_scalar(&tape, est_reshape(&tape, x)); /* a view of one */
}

static struct est_tensor same(struct est_tensor x)
{
	return est_add_scalar(&tape, x); /* the very gradient that arrives */
}

static const struct {
	const char *name;
	struct est_tensor (*first)(struct est_tensor x), (*second)(struct est_tensor x);
	const char *events; /* after the root's gradient; the second branch runs first */
} meetings[] = {
	{ "the second of two gradients is added to the first in place", scaled, scaled, "+4 +4 -4 -4" },
	{ "a view is not added to: a third tensor holds the sum", scaled, viewed, "+4 +4 -4 +4 -4 -4" },
	{ "a view may be added to what is no view", viewed, scaled, "+4 +4 -4 -4" },
	{ "nor is a gradient that others hold", scaled, same, "+4 -4" },
	{ "one gradient that comes on both ways is doubled into a new tensor", same, same, "+4 -4" },
};

START_TEST(gradients_are_added_in_place_only_when_they_are_nobody_elses)
{
	struct est_tensor x = input(), y1 = meetings[_i].first(x), z = est_add(&tape, y1, meetings[_i].second(x));
	struct est_tensor grad = est_empty(&tape, NUMEL, EST_16BIT);
	size_t first = tape.event_count;

	est_tape_backward(&tape, 0, z, grad);
	ck_assert_msg(!strcmp(events_since(first), meetings[_i].events), "%s: %s, not %s", meetings[_i].name, text,
		      meetings[_i].events);
	ck_assert_uint_ne(tape.leaves[0].grad.storage, 0);
	ck_assert_uint_eq(tape.storages[tape.leaves[0].grad.storage].references, 1);
}
END_TEST

/* ---- leaves */

START_TEST(a_leaf_steals_a_gradient_that_is_its_own)
{
	struct est_tensor x = input();
	struct est_tensor grad = est_empty(&tape, NUMEL, EST_16BIT);
	size_t first;
	struct est_tensor y = est_add_scalar(&tape, x);

	first = tape.event_count;
	est_tape_backward(&tape, 0, y, grad);
	ck_assert_str_eq(events_since(first), "");
	ck_assert_uint_eq(tape.leaves[0].grad.storage, grad.storage);
}
END_TEST

START_TEST(a_leaf_copies_a_gradient_that_another_leaf_needs)
{
	struct est_tensor a = leaf(true, true, EST_16BIT), b = leaf(true, true, EST_16BIT), sum = est_add(&tape, a, b);
	struct est_tensor grad = est_empty(&tape, NUMEL, EST_16BIT);
	size_t first = tape.event_count;

	est_tape_backward(&tape, 0, sum, grad);
	ck_assert_str_eq(events_since(first), "+4");
	ck_assert_uint_ne(tape.leaves[0].grad.storage, grad.storage);
	ck_assert_uint_eq(tape.leaves[1].grad.storage, grad.storage);
	ck_assert_int_eq(tape.storages[tape.leaves[0].grad.storage].category, EST_GRADIENTS);
}
END_TEST

START_TEST(a_second_backward_adds_to_the_gradient_that_is_there)
{
	struct est_tensor x = leaf(true, true, EST_16BIT);
	uint32_t grad;
	size_t first;

	backward(est_mul_scalar(&tape, x));
	grad = tape.leaves[0].grad.storage;
	first = tape.event_count;
	backward(est_mul_scalar(&tape, x));
	ck_assert_str_eq(events_since(first), "+4 +4 +4 -4 -4"); /* result, root's, x's: both gradients go */
	ck_assert_uint_eq(tape.leaves[0].grad.storage, grad);
}
END_TEST

START_TEST(a_tied_parameter_gets_one_gradient_when_its_last_use_has_arrived)
{
	struct est_linear tied = { .in = 32, .out = 32 };
	struct est_tensor x = input(), y;

	tied.weight = est_leaf_new(&tape, est_empty(&tape, 32 * 32, EST_16BIT), true, true);
	y = est_linear(&tape, &tied, est_linear(&tape, &tied, x));
	ck_assert_uint_eq(tape.leaves[tied.weight].uses, 2);
	backward(y);
	ck_assert_uint_eq(tape.leaves[tied.weight].uses, 0);
	ck_assert_uint_ne(tape.leaves[tied.weight].grad.storage, 0);
	ck_assert_uint_eq(tape.leaves[tied.weight].arrived.storage, 0);
	ck_assert_int_eq(tape.storages[tape.leaves[tied.weight].grad.storage].category, EST_GRADIENTS);
}
END_TEST

START_TEST(a_gradient_takes_the_dtype_of_its_tensor)
{
	struct est_tensor x = input();

	backward(est_to(&tape, x, EST_32BIT));
	ck_assert_uint_eq(tape.leaves[0].grad.element, EST_16BIT);
	ck_assert_uint_eq(tape.leaves[0].grad.numel, NUMEL);
}
END_TEST

/* ---- autocast */

static const struct {
	const char *name;
	bool requires_grad, no_grad;
	uint64_t casts; /* after two products with the same weight, in units of 4 */
} caches[] = {
	{ "a trained fp32 weight is cast once and kept", true, false, 1 },
	{ "a frozen one is cast for each use, and kept by autograd only", false, false, 2 },
	{ "the cache does not ask whether gradients are on", true, true, 1 },
};

START_TEST(autocast_keeps_the_casts_of_trained_weights_until_the_region_ends)
{
	struct est_linear linear = { .in = 32, .out = 32 };
	struct est_tensor x = input(), y;
	size_t first;
	uint64_t casts = 0;

	linear.weight = est_leaf_new(&tape, est_empty(&tape, 32 * 32, EST_32BIT), caches[_i].requires_grad, true);
	first = tape.event_count;
	tape.autocast = true;
	tape.no_grad = caches[_i].no_grad;
	for (unsigned i = 0; i < 2; i++) {
		y = est_linear(&tape, &linear, x);
		est_drop(&tape, y);
	}
	for (size_t i = first; i < tape.event_count; i++)
		casts += tape.events[i].kind == EST_EVENT_ALLOC;
	ck_assert_msg(casts - 2 == caches[_i].casts, "%s: %llu casts", caches[_i].name, (unsigned long long)casts - 2);
	ck_assert_msg((tape.leaves[linear.weight].cast.storage != 0) == (caches[_i].casts == 1), "%s", caches[_i].name);
	est_autocast_exit(&tape);
	ck_assert_uint_eq(tape.leaves[linear.weight].cast.storage, 0);
	ck_assert(!tape.autocast);
}
END_TEST

/* ---- checkpoints */

/* Two operators that keep their inputs. */
static struct est_tensor twice(void *context, struct est_tensor x, const void *argument)
{
	(void)context;
	(void)argument;
	return est_silu(&tape, est_silu(&tape, x));
}

/* The last of three keeps nothing. */
static struct est_tensor twice_and_scale(void *context, struct est_tensor x, const void *argument)
{
	return est_mul_scalar(&tape, twice(context, x, argument));
}

static struct est_tensor scale(void *context, struct est_tensor x, const void *argument)
{
	(void)context;
	(void)argument;
	return est_mul_scalar(&tape, x);
}

static const struct {
	const char *name;
	struct est_tensor (*function)(void *context, struct est_tensor x, const void *argument);
	bool reentrant;
	const char *forward, *backward; /* backward: after the root's gradient */
} checkpoints[] = {
	/* forward: silu(x) goes when silu(silu(x)) is there */
	{ "non-reentrant, two operators", twice, false, "+4 +4 -4",
	  /* stops at silu(x), the last saved; then two gradients, each drops what it read */
	  "+4 +4 -4 -4 +4 -4" },
	{ "reentrant, two operators", twice, true, "+4 +4 -4",
	  /* silu(x) and the output again; gradients of both; the output and the arriving gradient last */
	  "+4 +4 +4 -4 +4 -4 -4 -4" },
	{ "non-reentrant, the third operator keeps nothing", twice_and_scale, false, "+4 +4 -4 +4 -4",
	  /* mul needs nothing: its gradient first, then the recomputation, without mul */
	  "+4 -4 +4 +4 -4 -4 +4 -4" },
	{ "reentrant, the third operator keeps nothing", twice_and_scale, true, "+4 +4 -4 +4 -4",
	  "+4 +4 +4 -4 +4 +4 -4 -4 +4 -4 -4 -4" },
	{ "non-reentrant, nothing is kept: nothing is run again", scale, false, "+4", "+4 -4" },
	{ "reentrant, nothing is kept: it is run again all the same", scale, true, "+4", "+4 +4 -4 -4" },
};

START_TEST(a_checkpoint_keeps_its_input_and_runs_again_to_the_last_saved_tensor)
{
	struct est_call call = { .function = checkpoints[_i].function };
	struct est_tensor x = input(), y;
	size_t first = tape.event_count;

	y = est_hold(est_checkpoint(&tape, &call, x, checkpoints[_i].reentrant));
	ck_assert_msg(!strcmp(events_since(first), checkpoints[_i].forward), "%s: forward %s", checkpoints[_i].name,
		      text);
	first = tape.event_count + 1;
	backward(y);
	ck_assert_msg(!strcmp(events_since(first), checkpoints[_i].backward), "%s: backward %s", checkpoints[_i].name,
		      text);
	est_drop(&tape, y);
	ck_assert_uint_eq(live(), 4 + 4); /* x and its gradient */
	ck_assert_uint_eq(tape.node_count, 0);
	ck_assert(!tape.exhausted && !tape.stopped && !tape.recomputing && !tape.packing);
}
END_TEST

START_TEST(a_checkpoint_keeps_its_keyword_arguments_until_its_backward)
{
	struct est_tensor x = input(), mask = est_hold(est_empty(&tape, NUMEL, EST_BYTE)), y;
	struct est_call call = { .function = twice, .kwargs = { mask } };

	y = est_hold(est_checkpoint(&tape, &call, x, false));
	est_drop(&tape, mask);
	ck_assert_uint_eq(live(), 4 + 2 + 4);
	backward(y);
	ck_assert_uint_eq(live(), 4 + 4 + 4);
}
END_TEST

START_TEST(a_recomputation_runs_under_the_autocast_of_its_forward)
{
	struct est_call call = { .function = twice };
	struct est_tensor x = input(), y;

	tape.autocast = true;
	y = est_hold(est_checkpoint(&tape, &call, x, _i));
	est_autocast_exit(&tape);
	backward(y);
	ck_assert(!tape.autocast);
	ck_assert_uint_eq(live(), 4 + 4 + 4);
}
END_TEST

/* ---- exhaustion: a scenario that needs some of every table, with less and less of one */

static void scenario(void)
{
	struct est_call call = { .function = twice_and_scale };
	struct est_linear linear = { .in = 32, .out = 32 };
	struct est_tensor x = input(), y;

	linear.weight = est_leaf_new(&tape, est_empty(&tape, 32 * 32, EST_32BIT), true, true);
	tape.autocast = true;
	y = est_linear(&tape, &linear, x);
	y = est_hold(est_mul(&tape, y, est_silu(&tape, x)));
	x = est_hold(est_checkpoint(&tape, &call, y, false));
	est_drop(&tape, y);
	y = est_hold(est_checkpoint(&tape, &call, x, true));
	est_drop(&tape, x);
	est_autocast_exit(&tape);
	est_mark(&tape, EST_PHASE_BACKWARD);
	backward(y);
	est_drop(&tape, y);
}

static struct est_tape_limits needed(void)
{
	struct est_tape_limits limits = { .events = tape.event_count, .storages = tape.storage_count };

	limits.nodes = 16; /* tables of what is forgotten again: enough, checked by the first test */
	limits.leaves = 3;
	limits.frames = tape.frame_count;
	limits.frame_saves = tape.frame_save_count;
	return limits;
}

static void run_scenario(const struct est_tape_limits *limits)
{
	est_arena_rewind(&arena, 0);
	ck_assert(est_tape_init(&tape, &arena, limits));
	scenario();
}

START_TEST(tables_that_suffice_are_not_exhausted)
{
	struct est_tape_limits limits;

	scenario();
	ck_assert(!tape.exhausted);
	limits = needed();
	run_scenario(&limits);
	ck_assert(!tape.exhausted);
}
END_TEST

static void lower(struct est_tape_limits *limits, int table, unsigned by)
{
	switch (table) {
	case 0:
		limits->events -= by;
		break;
	case 1:
		limits->storages -= by;
		break;
	case 2:
		limits->leaves -= by;
		break;
	case 3:
		limits->frames -= by;
		break;
	default:
		limits->frame_saves -= by;
	}
}

/* How much can be taken from it: a model has one parameter, and est_leaf_new() some leaf to return. */
static size_t spare(const struct est_tape_limits *limits, int table)
{
	const size_t spares[] = { limits->events, limits->storages, limits->leaves - 1, limits->frames,
				  limits->frame_saves };

	return spares[table];
}

START_TEST(a_table_that_does_not_suffice_is_told_and_nothing_breaks)
{
	struct est_tape_limits most, limits;

	scenario();
	most = needed();
	for (unsigned by = 1; by <= spare(&most, _i); by++) {
		limits = most;
		lower(&limits, _i, by);
		run_scenario(&limits);
		ck_assert_msg(tape.exhausted, "table %d, %u less", _i, by);
	}
}
END_TEST

START_TEST(nodes_that_do_not_suffice_are_told_and_nothing_breaks)
{
	struct est_tape_limits limits;
	unsigned exhausted = 0;

	for (uint32_t nodes = 0; nodes <= 16; nodes++) {
		limits = roomy;
		limits.nodes = nodes;
		run_scenario(&limits);
		exhausted += tape.exhausted;
	}
	ck_assert_uint_ge(exhausted, 8); /* as many nodes are alive at once */
	ck_assert(!tape.exhausted);
}
END_TEST

START_TEST(an_arena_that_is_too_small_makes_no_tape)
{
	size_t whole = arena.used;

	for (size_t size = 0; size < whole; size += 64) {
		est_arena_init(&arena, arena.base, size);
		ck_assert(!est_tape_init(&tape, &arena, &roomy));
	}
	est_arena_init(&arena, arena.base, whole);
	ck_assert(est_tape_init(&tape, &arena, &roomy));
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("tape");
	TCase *test = tcase_create("tape");

	tcase_set_timeout(test, 60);
	tcase_add_checked_fixture(test, set_up, tear_down);
	tcase_add_loop_test(test, a_storage_is_rounded_up_to_512_bytes_after_it_is_sharded, 0, COUNT(sizes));
	tcase_add_test(test, an_empty_tensor_has_no_storage);
	tcase_add_test(test, a_storage_lives_as_long_as_its_last_reference);
	tcase_add_test(test, an_operator_releases_a_temporary_argument_and_leaves_a_variable);
	tcase_add_test(test, ids_are_used_again_but_never_for_what_lives_as_long_as_the_run);
	tcase_add_test(test, nothing_is_kept_where_no_gradient_is_wanted);
	tcase_add_test(test, a_saved_tensor_outlives_its_variable_until_its_node_has_run);
	tcase_add_loop_test(test, gradients_are_added_in_place_only_when_they_are_nobody_elses, 0, COUNT(meetings));
	tcase_add_test(test, a_leaf_steals_a_gradient_that_is_its_own);
	tcase_add_test(test, a_leaf_copies_a_gradient_that_another_leaf_needs);
	tcase_add_test(test, a_second_backward_adds_to_the_gradient_that_is_there);
	tcase_add_test(test, a_tied_parameter_gets_one_gradient_when_its_last_use_has_arrived);
	tcase_add_test(test, a_gradient_takes_the_dtype_of_its_tensor);
	tcase_add_loop_test(test, autocast_keeps_the_casts_of_trained_weights_until_the_region_ends, 0, COUNT(caches));
	tcase_add_loop_test(test, a_checkpoint_keeps_its_input_and_runs_again_to_the_last_saved_tensor, 0,
			    COUNT(checkpoints));
	tcase_add_test(test, a_checkpoint_keeps_its_keyword_arguments_until_its_backward);
	tcase_add_loop_test(test, a_recomputation_runs_under_the_autocast_of_its_forward, 0, 2);
	tcase_add_test(test, tables_that_suffice_are_not_exhausted);
	tcase_add_loop_test(test, a_table_that_does_not_suffice_is_told_and_nothing_breaks, 0, 5);
	tcase_add_test(test, nodes_that_do_not_suffice_are_told_and_nothing_breaks);
	tcase_add_test(test, an_arena_that_is_too_small_makes_no_tape);
	suite_add_tcase(suite, test);
	return run_suite(suite);
}
