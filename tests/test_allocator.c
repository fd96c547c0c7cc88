#include <stdlib.h>
#include "estimator/allocator.h"
#include "estimator/blocks.h"
#include "tests/suite.h"

enum { IDS = 300, ARENA = 1 << 20, M = (1 << 20) / EST_UNIT /* 1 MiB in units */ };

static _Alignas(max_align_t) char memory[ARENA];

static struct est_allocator fresh(bool expandable, uint64_t limit)
{
	struct est_arena arena;
	struct est_allocator allocator;

	est_arena_init(&arena, memory, sizeof(memory));
	ck_assert(est_allocator_init(&allocator, &arena, IDS, expandable, limit));
	return allocator;
}

/* Units 0 frees. What is expected after the step is in units of 512 bytes. */
struct step {
	uint32_t id, units;
	uint64_t held, reserved;
};

static const struct {
	const char *name;
	bool expandable;
	uint64_t limit; /* MiB */
	struct step steps[12];
} traces[] = {
	{ "small requests share segments of 2 MiB", false, 0, {
		{ 0, 1, 1, 2 * M },
		{ 1, M, M + 1, 2 * M },
		{ 2, M, 2 * M + 1, 4 * M },         /* 2 MiB - 1 MiB - 512 is one unit short */
		{ 3, M - 1, 3 * M, 4 * M },         /* exactly what is left of the first */
		{ 4, M, 4 * M, 4 * M },             /* and of the second */
		{ 5, 1, 4 * M + 1, 6 * M } } },
	{ "requests up to 10 MiB share segments of 20 MiB", false, 0, {
		{ 0, M + 1, M + 1, 20 * M },
		{ 1, 9 * M, 10 * M + 1, 20 * M },
		{ 2, 10 * M - 1, 20 * M, 20 * M },
		{ 3, 10 * M, 30 * M, 30 * M },      /* 10 MiB have a segment of their own, */
		{ 4, 11 * M + 1, 42 * M, 42 * M } } }, /* rounded to 2 MiB; the rest, below 1 MiB, is not split off */
	{ "in the large pool a rest of 1 MiB stays, one unit more is split off", false, 0, {
		{ 0, 13 * M, 14 * M, 14 * M },      /* a segment of 14 MiB, held whole */
		{ 0, 0, 0, 14 * M },
		{ 1, 13 * M - 1, 13 * M - 1, 14 * M },
		{ 2, M + 1, 14 * M, 14 * M },       /* lies in the rest */
		{ 3, M + 1, 15 * M + 1, 34 * M } } },
	{ "the best fit is the smallest block that is large enough", false, 0, {
		{ 0, 12 * M, 12 * M, 12 * M }, { 1, 16 * M, 28 * M, 28 * M }, { 2, 14 * M, 42 * M, 42 * M },
		{ 0, 0, 30 * M, 42 * M }, { 1, 0, 14 * M, 42 * M }, { 2, 0, 0, 42 * M },
		{ 3, 13 * M, 14 * M, 42 * M },      /* of 14 MiB, not of 16 */
		{ 4, 15 * M, 30 * M, 42 * M },      /* of 16 MiB */
		{ 5, 12 * M, 42 * M, 42 * M } } },
	{ "free neighbours become one block", false, 0, {
		{ 0, 5 * M, 5 * M, 20 * M }, { 1, 5 * M, 10 * M, 20 * M }, { 2, 5 * M, 15 * M, 20 * M },
		{ 3, 5 * M, 20 * M, 20 * M },
		{ 1, 0, 15 * M, 20 * M }, { 3, 0, 10 * M, 20 * M },
		{ 4, 10 * M, 20 * M, 30 * M },      /* 5 and 5 with a block between are not 10 */
		{ 2, 0, 15 * M, 30 * M },
		{ 5, 15 * M, 30 * M, 30 * M } } },  /* three of 5 are 15 */
	{ "under a limit cached segments go before a request fails", false, 30, {
		{ 0, 20 * M, 20 * M, 20 * M },
		{ 0, 0, 0, 20 * M },
		{ 1, 24 * M, 24 * M, 24 * M },      /* 20 + 24 are above 30: the 20 are released */
		{ 2, 2 * M, 24 * M, 24 * M } } },   /* out of memory: 20 MiB more would be needed */
	{ "a segment of which a part is alive stays", false, 30, {
		{ 0, 5 * M, 5 * M, 20 * M },
		{ 1, 16 * M, 5 * M, 20 * M },       /* 15 are cached, but not a segment: out of memory */
		{ 0, 0, 0, 20 * M } } },
	{ "expandable segments grow at their end by 20 MiB", true, 0, {
		{ 0, 3 * M, 3 * M, 20 * M },
		{ 1, 30 * M, 33 * M, 40 * M },      /* 17 free at the end and 20 new */
		{ 2, 7 * M, 40 * M, 40 * M },
		{ 1, 0, 10 * M, 40 * M },
		{ 3, 25 * M, 35 * M, 40 * M },      /* any rest is split off, */
		{ 4, 5 * M, 40 * M, 40 * M },       /* and used */
		{ 5, 1, 40 * M + 1, 42 * M } } },   /* the small pool's grows by 2 MiB */
	{ "an expandable segment's end is taken last", true, 0, {
		{ 0, 4 * M, 4 * M, 20 * M }, { 1, 12 * M, 16 * M, 20 * M }, { 2, 3 * M, 19 * M, 20 * M },
		{ 1, 0, 7 * M, 20 * M }, { 2, 0, 4 * M, 20 * M },
		{ 3, 10 * M, 14 * M, 20 * M }, { 4, 2 * M, 16 * M, 20 * M },
		{ 3, 0, 6 * M, 20 * M },            /* free: 10 between blocks, 4 at the end */
		{ 5, 3 * M, 9 * M, 20 * M },        /* into the 10: the 4 could still grow */
		{ 6, 8 * M, 17 * M, 40 * M } } },   /* 7 are left of the 10: the 4 grow */
	{ "expandable steps that are free throughout are given back", true, 60, {
		{ 0, 10 * M, 10 * M, 20 * M }, { 1, 40 * M, 50 * M, 60 * M }, { 2, 10 * M, 60 * M, 60 * M },
		{ 1, 0, 20 * M, 60 * M },           /* 10 to 50 MiB are free: 20 to 40 is a whole step */
		{ 3, 1, 20 * M + 1, 42 * M } } },   /* which the small pool's 2 MiB need */
	{ "a hole is mapped again where the request finds room", true, 60, {
		{ 0, 10 * M, 10 * M, 20 * M }, { 1, 40 * M, 50 * M, 60 * M }, { 2, 10 * M, 60 * M, 60 * M },
		{ 1, 0, 20 * M, 60 * M }, { 3, 1, 20 * M + 1, 42 * M }, { 3, 0, 20 * M, 42 * M },
		{ 4, 40 * M, 60 * M, 60 * M } } },  /* 2 MiB are given back, 20 mapped between 10 and 10 */
};

START_TEST(hand_made_traces)
{
	struct est_allocator allocator = fresh(traces[_i].expandable, traces[_i].limit << 20);

	for (int i = 0; i < COUNT(traces[0].steps); i++) {
		const struct step *step = &traces[_i].steps[i];

		if (!step->units && !step->held && !step->reserved)
			break;
		if (step->units)
			est_allocator_alloc(&allocator, step->id, step->units);
		else
			est_allocator_free(&allocator, step->id);
		ck_assert_msg(allocator.held == step->held * EST_UNIT, "%s, step %d: held %llu", traces[_i].name, i,
			      (unsigned long long)allocator.held / EST_UNIT);
		ck_assert_msg(allocator.reserved == step->reserved * EST_UNIT, "%s, step %d: reserved %llu",
			      traces[_i].name, i, (unsigned long long)allocator.reserved / EST_UNIT);
	}
	ck_assert(!allocator.exhausted);
}
END_TEST

START_TEST(out_of_memory_sticks_until_a_reset)
{
	struct est_allocator allocator = fresh(false, UINT64_C(20) << 20);

	est_allocator_alloc(&allocator, 0, 12 * M);
	ck_assert(!allocator.out_of_memory);
	est_allocator_alloc(&allocator, 1, 12 * M);
	ck_assert(allocator.out_of_memory);
	est_allocator_alloc(&allocator, 2, 1);
	ck_assert_uint_eq(allocator.allocated, UINT64_C(12) << 20);
	est_allocator_free(&allocator, 1);
	est_allocator_free(&allocator, 0);
	ck_assert_uint_eq(allocator.allocated, 0);
	ck_assert(allocator.out_of_memory);
	est_allocator_reset(&allocator, UINT64_C(24) << 20);
	ck_assert(!allocator.out_of_memory);
	ck_assert_uint_eq(allocator.reserved + allocator.peak_reserved + allocator.peak_allocated, 0);
	est_allocator_alloc(&allocator, 0, 12 * M);
	est_allocator_alloc(&allocator, 1, 12 * M);
	ck_assert(!allocator.out_of_memory);
}
END_TEST

START_TEST(a_run_parts_from_one_with_less)
{
	struct est_allocator allocator = fresh(false, UINT64_C(50) << 20);

	est_allocator_watch(&allocator, UINT64_C(30) << 20);
	est_allocator_alloc(&allocator, 0, 30 * M);
	ck_assert(!allocator.parted);
	est_allocator_free(&allocator, 0);
	est_allocator_alloc(&allocator, 1, 60 * M); /* too much for both: the cache goes, and nothing else */
	ck_assert(allocator.out_of_memory && !allocator.parted);
	ck_assert_uint_eq(allocator.reserved, 0);
	est_allocator_limit(&allocator, UINT64_C(50) << 20, false);
	est_allocator_watch(&allocator, UINT64_C(30) << 20);
	est_allocator_alloc(&allocator, 0, 20 * M);
	est_allocator_free(&allocator, 0);
	est_allocator_alloc(&allocator, 1, 24 * M); /* 44 are within 50, not within 30 */
	ck_assert(allocator.out_of_memory && allocator.parted);
	ck_assert_uint_eq(allocator.reserved, 20 * M * EST_UNIT);
	est_allocator_watch(&allocator, UINT64_MAX);
	est_allocator_alloc(&allocator, 1, 24 * M);
	ck_assert(!allocator.out_of_memory && !allocator.parted);
	ck_assert_uint_eq(allocator.reserved, 44 * M * EST_UNIT);
}
END_TEST

START_TEST(a_keeper_takes_what_fits_into_it)
{
	struct est_allocator allocator = fresh(false, 0), keeper, small;
	static _Alignas(max_align_t) char more[ARENA];
	struct est_arena arena;

	est_arena_init(&arena, more, sizeof(more));
	ck_assert(est_allocator_init_keeper(&small, &arena, &allocator));
	for (uint32_t id = 0; id < IDS; id++)
		est_allocator_alloc(&allocator, id, id + 1);
	ck_assert(!est_allocator_copy(&small, &allocator));
	ck_assert(est_allocator_init_keeper(&keeper, &arena, &allocator));
	ck_assert(est_allocator_copy(&keeper, &allocator));
	est_allocator_reset(&allocator, 0);
	ck_assert(est_allocator_copy(&allocator, &keeper));
	for (uint32_t id = 0; id < IDS; id++)
		est_allocator_free(&allocator, id);
	ck_assert_uint_eq(allocator.allocated, 0);
	for (uint32_t id = 0; id < IDS; id++)
		est_allocator_alloc(&allocator, id, 30 * M);
	ck_assert(!allocator.exhausted);
	arena.size = arena.used;
	ck_assert(!est_allocator_init_keeper(&keeper, &arena, &allocator));
	ck_assert(!arena.exhausted);
}
END_TEST

START_TEST(a_stream_never_gets_anothers_blocks)
{
	struct est_allocator allocator = fresh(false, 0);

	est_allocator_alloc_on(&allocator, 1, 0, 30 * M);
	est_allocator_free(&allocator, 0);
	est_allocator_alloc(&allocator, 1, 30 * M);
	ck_assert_uint_eq(allocator.reserved, UINT64_C(60) << 20);
	est_allocator_alloc_on(&allocator, 1, 2, 30 * M);
	ck_assert_uint_eq(allocator.reserved, UINT64_C(60) << 20);
	est_allocator_alloc_on(&allocator, EST_STREAMS, 3, 1);
	ck_assert(allocator.exhausted);
}
END_TEST

START_TEST(peaks_can_be_measured_anew)
{
	struct est_allocator allocator = fresh(false, 0);

	est_allocator_alloc(&allocator, 0, 13 * M);
	est_allocator_alloc(&allocator, 1, 1);
	est_allocator_free(&allocator, 0);
	ck_assert_uint_eq(allocator.peak_allocated, (13 * M + 1) * EST_UNIT);
	ck_assert_uint_eq(allocator.peak_held, (14 * M + 1) * EST_UNIT);
	est_allocator_empty_cache(&allocator);
	ck_assert_uint_eq(allocator.reserved, 2 * M * EST_UNIT);
	ck_assert_uint_eq(allocator.peak_reserved, 16 * M * EST_UNIT);
	est_allocator_reset_peaks(&allocator);
	ck_assert_uint_eq(allocator.peak_allocated, EST_UNIT);
	ck_assert_uint_eq(allocator.peak_held, EST_UNIT);
	ck_assert_uint_eq(allocator.peak_reserved, 2 * M * EST_UNIT);
}
END_TEST

START_TEST(nothing_is_allocated_or_freed_for_nothing)
{
	struct est_allocator allocator = fresh(false, 0);

	est_allocator_alloc(&allocator, 0, 0);
	est_allocator_free(&allocator, 0);
	est_allocator_free(&allocator, IDS);
	ck_assert_uint_eq(allocator.reserved + allocator.allocated, 0);
	ck_assert(!allocator.exhausted);
	est_allocator_alloc(&allocator, IDS, 1);
	ck_assert(allocator.exhausted);
	ck_assert_uint_eq(allocator.reserved, 0);
}
END_TEST

START_TEST(the_largest_request_is_finite)
{
	struct est_allocator allocator = fresh(_i, 0);

	for (uint32_t id = 0; id < IDS; id++)
		est_allocator_alloc(&allocator, id, UINT32_MAX);
	ck_assert_uint_gt(allocator.allocated, (uint64_t)IDS << 40);
	ck_assert_uint_ge(allocator.reserved, allocator.held);
	for (uint32_t id = 0; id < IDS; id++)
		est_allocator_free(&allocator, id);
	ck_assert_uint_eq(allocator.held, 0);
	ck_assert(!allocator.exhausted);
}
END_TEST

START_TEST(a_full_table_is_told_and_never_overrun)
{
	struct est_arena arena;
	struct est_allocator allocator;

	est_arena_init(&arena, memory, sizeof(memory));
	ck_assert(est_allocator_init(&allocator, &arena, 1, _i, 0));
	for (uint32_t i = 0; i < 5000; i++) { /* each needs a segment of its own: none before is large enough */
		est_allocator_alloc(&allocator, 0, (10 + 2 * i) * M);
		est_allocator_free(&allocator, 0);
	}
	ck_assert(allocator.exhausted == !_i); /* an expandable segment only grows */
	est_allocator_reset(&allocator, 0);
	est_allocator_alloc(&allocator, 0, 1);
	ck_assert_uint_eq(allocator.allocated, EST_UNIT);
	ck_assert(!allocator.exhausted);
}
END_TEST

START_TEST(an_arena_too_small_is_refused)
{
	struct est_arena arena;
	struct est_allocator allocator;

	est_arena_init(&arena, memory, 1000);
	ck_assert(!est_allocator_init(&allocator, &arena, IDS, false, 0));
	est_arena_init(&arena, memory, sizeof(memory));
	ck_assert(!est_allocator_init(&allocator, &arena, SIZE_MAX, false, 0));
	ck_assert(!est_allocator_init(&allocator, &arena, UINT32_MAX, false, 0));
}
END_TEST

START_TEST(units_round_up_and_saturate)
{
	ck_assert_uint_eq(est_units(0), 0);
	ck_assert_uint_eq(est_units(1), 1);
	ck_assert_uint_eq(est_units(512), 1);
	ck_assert_uint_eq(est_units(513), 2);
	ck_assert_uint_eq(est_units(8519680), 16640);
	ck_assert_uint_eq(est_units(UINT64_MAX), UINT32_MAX);
}
END_TEST

/* ---- a pseudo-random trace: allocations of all kinds of sizes, each id alive or not by turns */

static uint32_t next(uint64_t *seed)
{
	*seed = *seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (uint32_t)(*seed >> 33);
}

static void random_step(struct est_allocator *allocator, uint64_t *seed, bool alive[IDS])
{
	static const struct { uint32_t least, span; } kinds[] = {
		{ 1, 16 }, { 1, M }, { M + 1, 9 * M }, { 10 * M, 50 * M },
	};
	uint32_t id = next(seed) % IDS, kind = next(seed) % 4, size = next(seed);

	if (alive[id])
		est_allocator_free(allocator, id);
	else
		est_allocator_alloc(allocator, id, kinds[kind].least + size % kinds[kind].span);
	alive[id] = !alive[id];
}

static void check_block(const struct est_allocator *allocator, uint32_t index)
{
	const struct est_block *block = &allocator->blocks[index], *after = &allocator->blocks[block->after];

	if (!block->after)
		return;
	ck_assert_uint_eq(after->before, index);
	ck_assert_uint_eq(block->address + block->units, after->address);
	ck_assert_uint_eq(block->pool, after->pool);
	ck_assert(block->state == EST_BLOCK_USED || block->state != after->state);
}

static uint32_t check_bins(const struct est_allocator *allocator, const struct est_bins *bins)
{
	uint32_t count = 0, following, fit;

	for (uint32_t index = est_bins_first_from(bins, 0); index; index = following, count++) {
		following = est_bins_next(bins, allocator->blocks, index);
		fit = est_bins_find(bins, allocator->blocks, allocator->blocks[index].units);
		ck_assert_int_eq(allocator->blocks[index].state, EST_BLOCK_FREE);
		ck_assert(fit == index || (allocator->blocks[fit].units == allocator->blocks[index].units
					   && est_block_precedes(&allocator->blocks[fit], &allocator->blocks[index])));
		ck_assert(!following || est_block_precedes(&allocator->blocks[index], &allocator->blocks[following]));
	}
	return count;
}

/* Blocks tile their segments, no two free neighbours, every free block in its bin and in order, counts add up. */
static void check_books(const struct est_allocator *allocator)
{
	uint64_t reserved = 0, held = 0, allocated = 0;
	uint32_t free = 0, found = 0;

	for (uint32_t i = 1; i < allocator->block_count; i++) {
		const struct est_block *block = &allocator->blocks[i];

		if (!block->units)
			continue;
		check_block(allocator, i);
		reserved += block->state == EST_BLOCK_HOLE ? 0 : block->units;
		held += block->state == EST_BLOCK_USED ? block->units : 0;
		allocated += block->state == EST_BLOCK_USED ? block->requested : 0;
		free += block->state == EST_BLOCK_FREE;
	}
	for (unsigned i = 0; i < 2 * EST_STREAMS; i++)
		found += check_bins(allocator, &allocator->pools[i].free);
	ck_assert_uint_eq(found, free);
	ck_assert_uint_eq(reserved * EST_UNIT, allocator->reserved);
	ck_assert_uint_eq(held * EST_UNIT, allocator->held);
	ck_assert_uint_eq(allocated * EST_UNIT, allocator->allocated);
	ck_assert_uint_le(allocator->held, allocator->reserved);
	ck_assert_uint_le(allocator->reserved, allocator->limit);
}

/* Figures of an independent program: plain lists searched from end to end, fixed segments as the reference of the
 * traced truth, expandable ones and the limit after CUDACachingAllocator.cpp. */
static const struct {
	bool expandable;
	uint64_t limit; /* MiB */
	uint64_t allocated, peak_allocated, reserved, peak_reserved;
	bool out_of_memory;
} figures[] = {
	{ false, 0, UINT64_C(1575417856), UINT64_C(2255922176), UINT64_C(2944401408), UINT64_C(2944401408), false },
	{ true, 0, UINT64_C(1575417856), UINT64_C(2255922176), UINT64_C(2550136832), UINT64_C(2550136832), false },
	{ false, 2742, UINT64_C(1575417856), UINT64_C(2255922176), UINT64_C(2583691264), UINT64_C(2820669440), false },
	{ false, 2544, UINT64_C(1575417856), UINT64_C(2255922176), UINT64_C(2596274176), UINT64_C(2646605824), false },
	{ false, 2348, UINT64_C(0), UINT64_C(2255922176), UINT64_C(2436890624), UINT64_C(2457862144), true },
	{ false, 2150, UINT64_C(0), UINT64_C(2003396096), UINT64_C(2248146944), UINT64_C(2248146944), true },
	{ false, 2018, UINT64_C(0), UINT64_C(1905852928), UINT64_C(2084569088), UINT64_C(2084569088), true },
	{ true, 2402, UINT64_C(0), UINT64_C(2255922176), UINT64_C(2483027968), UINT64_C(2503999488), true },
	{ true, 2318, UINT64_C(0), UINT64_C(2202391040), UINT64_C(2415919104), UINT64_C(2415919104), true },
	{ true, 2234, UINT64_C(0), UINT64_C(2132230656), UINT64_C(2311061504), UINT64_C(2332033024), true },
	{ true, 2150, UINT64_C(0), UINT64_C(2003396096), UINT64_C(2206203904), UINT64_C(2248146944), true },
	{ true, 2094, UINT64_C(0), UINT64_C(1991083520), UINT64_C(2164260864), UINT64_C(2185232384), true },
};

START_TEST(a_random_trace_gives_the_figures_of_the_reference)
{
	struct est_allocator allocator = fresh(figures[_i].expandable, figures[_i].limit << 20);
	bool alive[IDS] = { false };
	uint64_t seed = 1;

	for (int i = 0; i < 6000; i++) {
		random_step(&allocator, &seed, alive);
		if (i % 61 == 0)
			check_books(&allocator);
	}
	ck_assert_uint_eq(allocator.allocated, figures[_i].allocated);
	ck_assert_uint_eq(allocator.peak_allocated, figures[_i].peak_allocated);
	ck_assert_uint_eq(allocator.reserved, figures[_i].reserved);
	ck_assert_uint_eq(allocator.peak_reserved, figures[_i].peak_reserved);
	ck_assert(allocator.out_of_memory == figures[_i].out_of_memory);
	for (uint32_t id = 0; id < IDS; id++)
		est_allocator_free(&allocator, id);
	check_books(&allocator);
	ck_assert_uint_eq(allocator.allocated + allocator.held, 0);
	est_allocator_empty_cache(&allocator);
	check_books(&allocator);
	ck_assert_uint_eq(allocator.reserved, 0);
	ck_assert(!allocator.exhausted);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("allocator");
	TCase *test = tcase_create("allocator");

	tcase_add_loop_test(test, hand_made_traces, 0, COUNT(traces));
	tcase_add_test(test, out_of_memory_sticks_until_a_reset);
	tcase_add_test(test, a_run_parts_from_one_with_less);
	tcase_add_test(test, a_keeper_takes_what_fits_into_it);
	tcase_add_test(test, a_stream_never_gets_anothers_blocks);
	tcase_add_test(test, peaks_can_be_measured_anew);
	tcase_add_test(test, nothing_is_allocated_or_freed_for_nothing);
	tcase_add_loop_test(test, the_largest_request_is_finite, 0, 2);
	tcase_add_loop_test(test, a_full_table_is_told_and_never_overrun, 0, 2);
	tcase_add_test(test, an_arena_too_small_is_refused);
	tcase_add_test(test, units_round_up_and_saturate);
	tcase_add_loop_test(test, a_random_trace_gives_the_figures_of_the_reference, 0, COUNT(figures));
	suite_add_tcase(suite, test);
	return run_suite(suite);
}
