#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "estimator/recurrent.h"
#include "tests/suite.h"

/* Operands are 32 x 32: 4 units of 512 bytes in 16 bits, 8 in 32 bits, 2 in bytes; a vector of 32 is one unit. */
enum { ROWS = 32, WIDTH = 32, NUMEL = ROWS * WIDTH, ARENA = 1 << 20 };

static struct est_arena arena;
static struct est_tape tape;
static const struct est_model heads = { .num_attention_heads = 2 };
static struct est_pass one = { .tape = &tape, .model = &heads, .batch = 1 }, two = { .tape = &tape, .model = &heads, .batch = 2 };
static char text[4096];

/* a, b: activations in 16 bits; A: one in 32; c: one that needs no gradient (cos); w, v: a norm's weight and bias;
 * W, B: a linear layer 32 -> 64 and its bias; X: its weight in fp32; i: indices */
static struct est_tensor a, b, A, c, indices;
static uint32_t w, v, W, B, X;
static struct {
	char name;
	uint32_t storage;
} names[16];
static unsigned name_count;

static uint32_t named_leaf(char name, uint64_t numel, uint8_t element, bool requires_grad, bool parameter)
{
	struct est_tensor value = est_empty(&tape, numel, element);

	names[name_count].name = name;
	names[name_count++].storage = value.storage;
	return est_leaf_new(&tape, value, requires_grad, parameter);
}

static struct est_tensor operand(char name, uint8_t element, bool requires_grad)
{
	return est_leaf_tensor(&tape, named_leaf(name, NUMEL, element, requires_grad, false));
}

static void set_up(void)
{
	static const struct est_tape_limits limits = {
		.events = 512,
		.storages = 128,
		.nodes = 64,
		.leaves = 16,
		.frames = 8,
		.frame_saves = 64,
	};

	est_arena_init(&arena, malloc(ARENA), ARENA);
	ck_assert(est_tape_init(&tape, &arena, &limits));
	name_count = 0;
	a = operand('a', EST_16BIT, true);
	b = operand('b', EST_16BIT, true);
	A = operand('A', EST_32BIT, true);
	c = operand('c', EST_16BIT, false);
	w = named_leaf('w', WIDTH, EST_16BIT, true, true);
	v = named_leaf('v', WIDTH, EST_16BIT, true, true);
	W = named_leaf('W', 2 * NUMEL, EST_16BIT, true, true);
	B = named_leaf('B', 2 * WIDTH, EST_16BIT, true, true);
	X = named_leaf('X', 2 * NUMEL, EST_32BIT, true, true);
	indices = est_leaf_tensor(&tape, named_leaf('i', ROWS, EST_INT64, false, false));
}

static void tear_down(void)
{
	free(arena.base);
}

/* ---- the operators, each on the operands above */

static struct est_tensor leaf(uint32_t number)
{
	return est_leaf_tensor(&tape, number);
}

static struct est_linear linear(uint32_t weight, bool has_bias)
{
	return (struct est_linear){ .weight = weight, .bias = B, .in = WIDTH, .out = 2 * WIDTH, .has_bias = has_bias };
}

static struct est_tensor run_linear(uint32_t weight, bool has_bias)
{
	struct est_linear layer = linear(weight, has_bias);

	return est_linear(&tape, &layer, a);
}

static struct est_tensor run_conv1d(void)
{
	struct est_linear layer = linear(W, true);

	return est_conv1d(&tape, &layer, a);
}

static struct est_tensor split_and_add(void)
{
	static const uint64_t halves[] = { NUMEL / 2, NUMEL / 2 };
	struct est_tensor parts[2];

	est_split(&tape, a, 2, halves, parts);
	return est_add(&tape, parts[0], parts[1]);
}

static struct est_tensor cat_of_products(void)
{
	struct est_tensor first = est_mul_scalar(&tape, a);

	return est_cat(&tape, first, est_mul_scalar(&tape, b));
}

static struct est_tensor frozen_linear(void)
{
	tape.leaves[W].value.requires_grad = false;
	return run_linear(W, false);
}

#define OP(function, expression)                                                                                       \
	static struct est_tensor function(void)                                                                        \
	{                                                                                                              \
		return expression;                                                                                     \
	}
OP(to_32, est_to(&tape, a, EST_32BIT))
OP(to_same, est_to(&tape, a, EST_16BIT))
OP(add, est_add(&tape, a, b))
OP(add_promoted, est_add(&tape, a, A))
OP(add_broadcast, est_add(&tape, a, leaf(w)))
OP(add_constant, est_add(&tape, a, c))
OP(mul, est_mul(&tape, a, b))
OP(mul_broadcast, est_mul(&tape, leaf(w), a))
OP(mul_constant, est_mul(&tape, a, c))
OP(mul_itself, est_mul(&tape, a, a))
OP(mul_outer, est_mul_outer(&tape, leaf(w), leaf(v), NUMEL))
OP(add_scalar, est_add_scalar(&tape, a))
OP(mul_scalar, est_mul_scalar(&tape, a))
OP(power, est_pow(&tape, a))
OP(mean, est_mean(&tape, a, ROWS))
OP(logarithm, est_log(&tape, a))
OP(square_root, est_sqrt(&tape, a))
OP(where, est_where_both(&tape, c, a, b))
OP(reciprocal_root, est_rsqrt(&tape, a))
OP(silu, est_silu(&tape, a))
OP(gelu, est_gelu(&tape, a))
OP(relu, est_relu(&tape, a))
OP(hyperbolic, est_tanh(&tape, a))
OP(dropout, est_dropout(&tape, a, 0.1))
OP(no_dropout, est_dropout(&tape, a, 0))
OP(softmax, est_softmax(&tape, a))
OP(safe_softmax, est_safe_softmax(&tape, a, ROWS))
OP(layer_norm, est_layer_norm(&tape, a, ROWS, w, v))
OP(layer_norm_plain, est_layer_norm(&tape, a, ROWS, EST_NO_LEAF, EST_NO_LEAF))
OP(rotate_half, est_rotate_half(&tape, a))
OP(slice, est_slice(&tape, a, NUMEL / 2))
OP(as_heads, est_view_as_heads(&tape, a))
OP(reshape, est_reshape(&tape, a))
OP(contiguous, est_contiguous(&tape, a))
OP(merge_heads, est_merge_heads(&tape, a))
OP(repeat_kv, est_repeat_kv(&tape, a, 4, false))
OP(repeat_kv_of_one, est_repeat_kv(&tape, a, 4, true))
OP(linear_plain, run_linear(W, false))
OP(linear_bias, run_linear(W, true))
OP(linear_fp32, run_linear(X, false))
OP(embedding, est_embedding(&tape, indices, W, 2 * WIDTH, WIDTH))
OP(bmm, est_bmm(&tape, a, b, NUMEL))
OP(matmul_heads, est_matmul_heads(&two, a, true, b, false, NUMEL))
OP(matmul_heads_of_one, est_matmul_heads(&one, a, true, b, true, NUMEL))
OP(autocast, est_autocast(&tape, A))

/* forward: what is allocated, the operator's own temporaries, and at last its output, which its caller drops: what
 * is still alive then autograd keeps. saved: the operands (by name), the output (o) and new tensors (their units)
 * that it keeps. backward: after the gradient of the output was made; the gradients of leaves stay. */
static const struct {
	const char *name;
	struct est_tensor (*run)(void);
	bool autocast;
	const char *forward, *saved, *backward;
} operators[] = {
	/* clang-format off */
	{ "cast", to_32, false, "+8 -8", "", "+4 -8" },
	{ "cast to its own dtype is the tensor itself", to_same, false, "", "", "" },
	{ "sum: one gradient for both, copied for the first leaf", add, false, "+4 -4", "", "+4" },
	{ "sum of two dtypes is of the larger; a gradient is cast", add_promoted, false, "+8 -8", "", "+4" },
	{ "broadcast sum: the gradient is summed", add_broadcast, false, "+4 -4", "", "+1" },
	{ "sum with a constant", add_constant, false, "+4 -4", "", "" },
	{ "product keeps both; other's gradient first", mul, false, "+4 -4", "a b", "+4 +4 -4" },
	{ "broadcast product: a whole gradient, then its sum", mul_broadcast, false, "+4 -4", "w a", "+4 +4 +1 -4 -4" },
	{ "product with a constant keeps that only", mul_constant, false, "+4 -4", "c", "+4 -4" },
	{ "square as a product: two gradients, added in place", mul_itself, false, "+4 -4", "a a", "+4 +4 -4 -4" },
	{ "outer product: two whole gradients, then their sums", mul_outer, false, "+4 -4", "w v", "+4 +4 +1 -4 +1 -4 -4" },
	{ "plus a number: the same gradient", add_scalar, false, "+4 -4", "", "" },
	{ "times a number", mul_scalar, false, "+4 -4", "", "+4 -4" },
	{ "pow: self ** (n - 1), times n, times grad", power, false, "+4 -4", "a", "+4 +4 +4 -4 -4 -4" },
	{ "mean over rows keeps nothing", mean, false, "+1 -1", "", "+4 -1" },
	{ "rsqrt keeps its result: result ** 3, scaled, times grad", reciprocal_root, false, "+4", "o",
	  "+4 +4 +4 -4 -4 -4 -4" },
	{ "log keeps its input", logarithm, false, "+4 -4", "a", "+4 -4" },
	{ "sqrt keeps its result: twice that, under grad", square_root, false, "+4", "o", "+4 +4 -4 -4 -4" },
	{ "where keeps its condition: the other's gradient first, each with a zero", where, false, "+4 -4", "c",
	  "+1 +4 -1 +1 +4 -1 -4" },
	{ "silu keeps its input", silu, false, "+4 -4", "a", "+4 -4" },
	{ "gelu keeps its input", gelu, false, "+4 -4", "a", "+4 -4" },
	{ "relu keeps its result", relu, false, "+4", "o", "+4 -4 -4" },
	{ "tanh keeps its result", hyperbolic, false, "+4", "o", "+4 -4 -4" },
	{ "dropout keeps a mask of bytes", dropout, false, "+4 +2 -4", "2", "+4 -4 -2" },
	{ "dropout of 0 is nothing", no_dropout, false, "", "", "" },
	{ "softmax keeps its result", softmax, false, "+4", "o", "+4 -4 -4" },
	{ "safe softmax looks for rows that are masked whole", safe_softmax, false, "+4 +2 +1 -1 -2", "o", "+4 -4 -4" },
	{ "layer norm keeps mean and rstd", layer_norm, false, "+4 +1 +1 -4", "a w v 1 1", "+4 +1 +1 -4 -1 -1" },
	{ "layer norm without parameters", layer_norm_plain, false, "+4 +1 +1 -4", "a 1 1", "+4 -4 -1 -1" },
	{ "layer norm under autocast runs in fp32, on casts of all three", layer_norm, true,
	  "+1 +1 +8 +8 +1 +1 -8", "8 1 1 1 1",
	  "+8 +1 +1 -8 -8 -1 -1 -1 -1 +4 -8 +1 -1 +1 -1" },
	{ "rotate_half: minus one half, then a concatenation", rotate_half, false, "+2 +4 -2 -4", "",
	  "+2 +4 -2 +4 -4 -4" },
	{ "cat: its gradients are views", cat_of_products, false, "+4 +4 +8 -4 -4 -8", "", "+4 +4 -8" },
	{ "split: views, one gradient for all", split_and_add, false, "+2 -2", "", "+4 -2" },
	{ "slice: a view, zeros behind it", slice, false, "", "", "+4 -2" },
	{ "heads: a view whose gradient is copied", as_heads, false, "", "", "+4 -4" },
	{ "reshape: a view", reshape, false, "", "", "" },
	{ "contiguous: a copy, the gradient passes", contiguous, false, "+4 -4", "", "" },
	{ "merged heads: a copy both ways", merge_heads, false, "+4 -4", "", "+4 -4" },
	{ "repeated heads: copies, summed on the way back", repeat_kv, false, "+16 -16", "", "+4 -16" },
	{ "one repeated head is a view of stride 0", repeat_kv_of_one, false, "", "", "+4 -16" },
	{ "linear: the weight's gradient first", linear_plain, false, "+8 -8", "a W", "+8 +4 -8" },
	{ "linear with a bias is addmm: the input's first, the bias's summed", linear_bias, false, "+8 -8", "a W",
	  "+4 +8 +1 -8" },
	{ "Conv1D is addmm too", run_conv1d, false, "+8 -8", "a W", "+4 +8 +1 -8" },
	{ "linear with a frozen weight does not keep its input", frozen_linear, false, "+8 -8", "W", "+4 -8" },
	{ "linear under autocast keeps the weight's cast, whose gradient is cast back", linear_fp32, true,
	  "+8 +8 -8", "a 8",
	  "+8 +4 -8 -8 +16 -8" },
	{ "linear in 16 bits is left alone by autocast", linear_plain, true, "+8 -8", "a W", "+8 +4 -8" },
	{ "embedding keeps its indices", embedding, false, "+4 -4", "i", "+8 -4" },
	{ "batched product keeps both", bmm, false, "+4 -4", "a b", "+4 +4 -4" },
	{ "batched product of permuted heads keeps a copy", matmul_heads, false, "+4 +4 -4", "4 b", "+4 +4 -4 -4" },
	{ "but of a batch of one they are views", matmul_heads_of_one, false, "+4 -4", "a b", "+4 +4 -4" },
	{ "autocast keeps the cast of a leaf to the end of its region", autocast, true, "+4", "", "+8 -4" },
	{ "autocast that is off does not", autocast, false, "", "", "" },
	/* clang-format on */
};

/* ---- what happened, as text */

static void append(char sign, uint64_t bytes)
{
	size_t used = strlen(text);

	snprintf(text + used, sizeof(text) - used, "%s%c%llu", used ? " " : "", sign, (unsigned long long)bytes / 512);
}

static const char *events_since(size_t first)
{
	text[0] = '\0';
	for (size_t i = first; i < tape.event_count; i++)
		append(tape.events[i].kind == EST_EVENT_ALLOC ? '+' : '-', tape.events[i].bytes);
	return text;
}

static char name_of(uint32_t storage, uint32_t output)
{
	for (unsigned i = 0; i < name_count; i++)
		if (names[i].storage == storage)
			return names[i].name;
	return storage == output ? 'o' : '\0';
}

static const char *saved_by_nodes(uint32_t output)
{
	text[0] = '\0';
	for (uint32_t i = 0; i < tape.node_count; i++) {
		for (unsigned k = 0; k < tape.nodes[i].saved_count; k++) {
			uint32_t storage = tape.nodes[i].saved[k];
			char name = name_of(storage, output);
			size_t used = strlen(text);

			if (name)
				snprintf(text + used, sizeof(text) - used, "%s%c", used ? " " : "", name);
			else
				snprintf(text + used, sizeof(text) - used, "%s%llu", used ? " " : "",
					 (unsigned long long)tape.storages[storage].bytes / 512);
		}
	}
	return text;
}

START_TEST(an_operator_allocates_and_keeps_what_pytorchs_does)
{
	const char *name = operators[_i].name;
	size_t first = tape.event_count;
	struct est_tensor out, grad;

	tape.autocast = operators[_i].autocast;
	out = operators[_i].run();
	ck_assert_msg(!strcmp(saved_by_nodes(out.storage), operators[_i].saved), "%s: keeps %s", name, text);
	est_finish(&tape, out);
	ck_assert_msg(!strcmp(events_since(first), operators[_i].forward), "%s: forward %s", name, text);
	est_autocast_exit(&tape);

	grad = est_empty(&tape, out.numel, out.element);
	first = tape.event_count;
	est_tape_backward(&tape, 0, out, grad);
	ck_assert_msg(!strcmp(events_since(first), operators[_i].backward), "%s: backward %s", name, text);
	ck_assert(!tape.exhausted);
	ck_assert_uint_eq(tape.node_count, 0);
}
END_TEST

/* Every storage that is alive is a leaf's value or gradient: nothing was lost on the way. */
START_TEST(an_operator_leaves_nothing_but_gradients)
{
	struct est_tensor out;
	int kept = 0, alive = 0;

	tape.autocast = operators[_i].autocast;
	out = operators[_i].run();
	est_finish(&tape, out);
	est_autocast_exit(&tape);
	if (tape.node_count == 0)
		return; /* the operand itself */
	est_tape_backward(&tape, 0, out, est_empty(&tape, out.numel, out.element));
	for (uint32_t i = 0; i < tape.leaf_count; i++) {
		kept += 1 + (tape.leaves[i].grad.storage != 0);
		ck_assert_msg(!tape.leaves[i].grad.storage
				      || (tape.leaves[i].grad.numel == tape.leaves[i].value.numel
					  && tape.leaves[i].grad.element == tape.leaves[i].value.element),
			      "%s: leaf %u", operators[_i].name, i);
	}
	for (size_t i = 0; i < tape.event_count; i++)
		alive += tape.events[i].kind == EST_EVENT_ALLOC ? 1 : -1;
	ck_assert_msg(alive == kept, "%s: %d storages are alive, %d of leaves", operators[_i].name, alive, kept);
}
END_TEST

START_TEST(without_gradients_an_operator_keeps_nothing)
{
	size_t first = tape.event_count;
	int alive = 0;

	tape.no_grad = true;
	tape.autocast = operators[_i].autocast;
	est_finish(&tape, operators[_i].run());
	est_autocast_exit(&tape);
	for (size_t i = first; i < tape.event_count; i++)
		alive += tape.events[i].kind == EST_EVENT_ALLOC ? 1 : -1;
	ck_assert_msg(alive == 0, "%s: %s", operators[_i].name, events_since(first));
	ck_assert_uint_eq(tape.node_count, 0);
}
END_TEST

/* EmbeddingBackwardKernel.cu above 3,072 indices, for n = 4,096 of 64 rows of 32: int64 lists of n (sorted indices,
 * their order, and two of segments: 64 units each), cub's 2 n + 512 entries (136), the 64 distinct rows' offsets
 * twice (1), and n / 10 + 64 = 473 partial segments: their offsets (8) and an fp32 sum of each (473 * 32 * 4 bytes:
 * 119). */
START_TEST(the_gradient_of_many_indices_is_sorted)
{
	struct est_tensor many = est_hold(est_empty(&tape, 4096, EST_INT64)), out, grad;
	size_t first;

	out = est_embedding(&tape, many, W, 2 * WIDTH, WIDTH);
	est_drop(&tape, out);
	grad = est_empty(&tape, out.numel, out.element);
	first = tape.event_count;
	est_tape_backward(&tape, 0, out, grad);
	ck_assert_str_eq(events_since(first),
			 "+8 +64 +64 +64 +136 -136 -64 +64 +1 +1 +8 +119 -64 -64 -64 -1 -1 -8 -119 -512");
}
END_TEST

START_TEST(gradients_of_weights_are_told_from_those_of_activations)
{
	struct est_tensor out = run_linear(W, true);

	est_drop(&tape, out);
	est_tape_backward(&tape, 0, out, est_empty(&tape, out.numel, out.element));
	ck_assert_int_eq(tape.storages[tape.leaves[W].grad.storage].category, EST_GRADIENTS);
	ck_assert_int_eq(tape.storages[tape.leaves[B].grad.storage].category, EST_GRADIENTS);
	ck_assert_int_eq(tape.storages[tape.leaves[0].grad.storage].category, EST_ACTIVATIONS);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("ops");
	TCase *test = tcase_create("ops");

	tcase_add_checked_fixture(test, set_up, tear_down);
	tcase_add_loop_test(test, an_operator_allocates_and_keeps_what_pytorchs_does, 0, COUNT(operators));
	tcase_add_loop_test(test, an_operator_leaves_nothing_but_gradients, 0, COUNT(operators));
	tcase_add_loop_test(test, without_gradients_an_operator_keeps_nothing, 0, COUNT(operators));
	tcase_add_test(test, the_gradient_of_many_indices_is_sorted);
	tcase_add_test(test, gradients_of_weights_are_told_from_those_of_activations);
	suite_add_tcase(suite, test);
	return run_suite(suite);
}
