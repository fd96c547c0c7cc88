#include <stdlib.h>
#include "estimator/dtensor.h"
#include "estimator/fields.h"
#include "tests/suite.h"

/* What DTensor of torch 2.13 chose for the products of Muon's step, and allocated for them: traced. */

enum { ARENA = 1 << 20, H = 2048, W = 8192 };

static const struct est_tape_limits roomy = {
	.events = 512, .storages = 256, .nodes = 64, .leaves = 16, .frames = 8, .frame_saves = 64,
};

static struct est_arena arena;
static struct est_tape tape;
static struct est_request request;
static struct est_stepping stepping;

static void set_up(void)
{
	est_arena_init(&arena, malloc(ARENA), ARENA);
	ck_assert(est_tape_init(&tape, &arena, &roomy));
	est_request_init(&request);
	request.parallelism.strategy = EST_FSDP;
	stepping = (struct est_stepping){ .tape = &tape, .request = &request };
}

static void tear_down(void)
{
	free(arena.base);
}

/* A matrix over the ranks, or what they sum up. */
static struct est_dtensor matrix(uint64_t rows, uint64_t columns, enum est_placement placement)
{
	uint64_t ranks = placement == EST_PARTIAL ? 1 : (uint64_t)request.parallelism.gpus;

	return (struct est_dtensor){ .rows = rows, .columns = columns, .placement = placement,
				     .local = est_variable(&tape, rows * columns / ranks, EST_16BIT) };
}

/* The bytes of the allocations since an event, of the tape's last ones. */
static void check_allocations(size_t first, const uint64_t *bytes, size_t count)
{
	size_t made = 0;

	for (size_t i = first; i < tape.event_count; i++) {
		if (tape.events[i].kind != EST_EVENT_ALLOC)
			continue;
		ck_assert_uint_lt(made, count);
		ck_assert_uint_eq(tape.events[i].bytes, bytes[made++]);
	}
	ck_assert_uint_eq(made, count);
}

#define PART(rows, columns, ranks) ((uint64_t)(rows) * (columns) * 2 / (ranks))

/* ortho @ ortho.T */
static const struct {
	uint64_t rows, columns;
	int64_t ranks;
	enum est_placement placement, out;
	uint64_t bytes[6];
	size_t count;
} grams[] = {
	/* both are cut along what is summed over; what is sent of the second is its transpose, made contiguous */
	{ H, H, 8, EST_CUT_ROWS, EST_PARTIAL,
	  { PART(H, H, 8), PART(H, H, 8), PART(H, H, 8), PART(H, H, 8), PART(H, H, 8), PART(H, H, 1) }, 6 },
	/* two ranks: the second is gathered by rows, and put together by columns */
	{ H, H, 2, EST_CUT_ROWS, EST_CUT_ROWS, { PART(H, H, 2), PART(H, H, 1), PART(H, H, 1), PART(H, H, 2) }, 4 },
	/* cut along the columns already */
	{ H, W, 8, EST_CUT_COLUMNS, EST_PARTIAL, { PART(H, H, 1) }, 1 },
};

START_TEST(a_gram_matrix_is_placed_as_costs_least)
{
	struct est_dtensor ortho, gram;
	size_t first;

	request.parallelism.gpus = grams[_i].ranks;
	ortho = matrix(grams[_i].rows, grams[_i].columns, grams[_i].placement);
	first = tape.event_count;
	gram = est_dtensor_mm(&stepping, ortho, est_dtensor_transpose(ortho));
	ck_assert_uint_eq(gram.rows, grams[_i].rows);
	ck_assert_uint_eq(gram.columns, grams[_i].rows);
	ck_assert_int_eq(gram.placement, grams[_i].out);
	check_allocations(first, grams[_i].bytes, grams[_i].count);
}
END_TEST

/* ortho + update @ ortho, the update summed up over ranks */
static const struct {
	uint64_t columns;
	enum est_placement out;
	uint64_t bytes[6];
	size_t count;
} steps[] = {
	/* the update's rows are reduced, ortho is gathered */
	{ H, EST_CUT_ROWS, { PART(H, H, 8), PART(H, H, 1), PART(H, H, 8) }, 3 },
	/* a wide ortho costs more to gather than to be cut along its columns, twice: for the sum and for the product */
	{ W, EST_CUT_COLUMNS,
	  { PART(H, W, 8), PART(H, W, 8), PART(H, H, 1), PART(H, W, 8), PART(H, W, 8), PART(H, W, 8) }, 6 },
};

START_TEST(a_step_is_placed_as_costs_least)
{
	struct est_dtensor ortho, update, out;
	size_t first;

	request.parallelism.gpus = 8;
	ortho = matrix(H, steps[_i].columns, EST_CUT_ROWS);
	update = matrix(H, H, EST_PARTIAL);
	first = tape.event_count;
	out = est_dtensor_addmm(&stepping, ortho, update, ortho);
	ck_assert_int_eq(out.placement, steps[_i].out);
	check_allocations(first, steps[_i].bytes, steps[_i].count);
}
END_TEST

START_TEST(machines_apart_choose_otherwise)
{
	struct est_dtensor ortho;
	const uint64_t gathered[] = { PART(256, 512, 8), PART(256, 512, 1), PART(256, 512, 1), PART(256, 256, 8) };
	size_t first;

	request.parallelism.gpus = 8;
	ortho = matrix(256, 512, EST_CUT_ROWS); /* so small that two exchanges wait longer than one gather */
	first = tape.event_count;
	ck_assert_int_eq(est_dtensor_mm(&stepping, ortho, est_dtensor_transpose(ortho)).placement, EST_CUT_ROWS);
	check_allocations(first, gathered, 4);
	ortho = matrix(512, H, EST_CUT_ROWS);
	ck_assert_int_eq(est_dtensor_mm(&stepping, ortho, est_dtensor_transpose(ortho)).placement, EST_PARTIAL);
	request.parallelism.gpus_per_node = 1;
	ortho = matrix(256, H, EST_CUT_ROWS);
	ck_assert_int_eq(est_dtensor_mm(&stepping, ortho, est_dtensor_transpose(ortho)).placement, EST_PARTIAL);
}
END_TEST

START_TEST(what_lies_right_is_not_moved)
{
	struct est_dtensor x, same;
	size_t first;

	request.parallelism.gpus = 8;
	x = matrix(H, W, EST_CUT_ROWS);
	first = tape.event_count;
	same = est_dtensor_place(&stepping, x, EST_CUT_ROWS);
	ck_assert_uint_eq(tape.event_count, first);
	ck_assert_uint_eq(same.local.storage, x.local.storage);
	est_drop(&tape, same.local);
	ck_assert_uint_eq(tape.event_count, first);
	est_drop(&tape, x.local);
	ck_assert_uint_eq(tape.event_count, first + 1);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("dtensor");
	TCase *tcase = tcase_create("dtensor");

	tcase_add_checked_fixture(tcase, set_up, tear_down);
	tcase_add_loop_test(tcase, a_gram_matrix_is_placed_as_costs_least, 0, COUNT(grams));
	tcase_add_loop_test(tcase, a_step_is_placed_as_costs_least, 0, COUNT(steps));
	tcase_add_test(tcase, machines_apart_choose_otherwise);
	tcase_add_test(tcase, what_lies_right_is_not_moved);
	suite_add_tcase(suite, tcase);
	return run_suite(suite);
}
