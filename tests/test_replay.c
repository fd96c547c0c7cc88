/* The replay against its plain form: every step played, every limit tried from the start. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "estimator/recurrence.h"
#include "tests/plain.h"
#include "tests/suite.h"

enum { WEIGHTS = 12, GRADIENTS = 12, STATES = 24, TEMPORARIES = 40,
       IDS = 1 + WEIGHTS + GRADIENTS + STATES + TEMPORARIES, EVENTS = 8192, PROGRAMS = 150 };
enum { FIRST_WEIGHT = 1, FIRST_GRADIENT = FIRST_WEIGHT + WEIGHTS, FIRST_STATE = FIRST_GRADIENT + GRADIENTS,
       FIRST_TEMPORARY = FIRST_STATE + STATES };

/* ---- programs at random */

struct maker {
	struct est_event events[EVENTS];
	size_t count;
	uint64_t seed, bytes[IDS];
	bool alive[IDS];
};

static uint64_t draw(struct maker *maker, uint64_t below)
{
	maker->seed ^= maker->seed << 13;
	maker->seed ^= maker->seed >> 7;
	maker->seed ^= maker->seed << 17;
	return maker->seed % below;
}

/* From a few bytes to some hundred MiB, each magnitude as likely. */
static uint64_t draw_bytes(struct maker *maker)
{
	uint64_t bytes = (UINT64_C(1) << (8 + draw(maker, 20))) + draw(maker, 1 << 20);

	return (bytes + EST_UNIT - 1) / EST_UNIT * EST_UNIT;
}

static void add(struct maker *maker, enum est_event_kind kind, uint32_t id, uint64_t bytes)
{
	ck_assert_uint_lt(maker->count, EVENTS);
	maker->events[maker->count++] = (struct est_event){ .kind = (uint8_t)kind, .id = id, .bytes = bytes,
							    .category = EST_ACTIVATIONS };
}

static void make_alive(struct maker *maker, uint32_t id, bool alive)
{
	if (maker->alive[id] == alive)
		return;
	if (alive && !maker->bytes[id])
		maker->bytes[id] = draw_bytes(maker);
	maker->alive[id] = alive;
	add(maker, alive ? EST_EVENT_ALLOC : EST_EVENT_FREE, id, maker->bytes[id]);
}

static void make_all(struct maker *maker, uint32_t first, uint32_t count, bool alive)
{
	for (uint32_t i = 0; i < count; i++)
		make_alive(maker, first + i, alive);
}

/* Temporaries come and go; the gradients come on the way where they are not there yet, or in place of old ones. */
static void make_micro(struct maker *maker, unsigned length, bool replaces)
{
	add(maker, EST_EVENT_PHASE, EST_PHASE_FORWARD, 0);
	for (unsigned i = 0; i < length; i++) {
		uint32_t id = FIRST_TEMPORARY + (uint32_t)draw(maker, TEMPORARIES);

		if (i == length / 2)
			add(maker, EST_EVENT_PHASE, EST_PHASE_LOSS_BACKWARD, 0);
		if (!maker->alive[id])
			maker->bytes[id] = draw_bytes(maker);
		make_alive(maker, id, !maker->alive[id]);
		id = FIRST_GRADIENT + (uint32_t)draw(maker, GRADIENTS);
		if (i % 8 == 0 && replaces)
			make_alive(maker, id, false);
		if (i % 8 == 0)
			make_alive(maker, id, true);
	}
	make_all(maker, FIRST_GRADIENT, GRADIENTS, true);
	make_all(maker, FIRST_TEMPORARY, TEMPORARIES, false);
}

static void make_part(struct maker *maker, enum est_part part, uint64_t accumulation_steps, bool replaces)
{
	switch (part) {
	case EST_PART_LOAD:
		make_all(maker, FIRST_WEIGHT, WEIGHTS, true);
		break;
	case EST_PART_SECOND_STEP: /* some weights lie in other pieces from there on */
		for (uint32_t id = FIRST_WEIGHT; id < FIRST_WEIGHT + draw(maker, WEIGHTS / 2); id++) {
			make_alive(maker, id, false);
			maker->bytes[id] = 0;
			make_alive(maker, id, true);
		}
		break;
	case EST_PART_REHEARSAL:
		break;
	case EST_PART_MICRO_FIRST:
		make_micro(maker, 150, false);
		break;
	case EST_PART_MICRO_NEXT:
		if (accumulation_steps > 1)
			make_micro(maker, 100, replaces);
		break;
	case EST_PART_CLIP:
		add(maker, EST_EVENT_PHASE, EST_PHASE_OPTIMIZER_STEP, 0);
		make_all(maker, FIRST_TEMPORARY, 3, true);
		break;
	case EST_PART_STATES:
		make_all(maker, FIRST_STATE, STATES, true);
		break;
	default:
		make_all(maker, FIRST_TEMPORARY, 3, false);
		make_all(maker, FIRST_GRADIENT, GRADIENTS, false);
	}
}

static void make_program(struct maker *maker, uint64_t seed, struct est_program *program)
{
	memset(maker, 0, sizeof(*maker));
	maker->seed = seed * UINT64_C(0x9E3779B97F4A7C15) + 1;
	*program = (struct est_program){ .events = maker->events, .ids = IDS, .accumulation_steps = 1 + seed % 6 };
	for (enum est_part part = EST_PART_LOAD; part < EST_PARTS; part++) {
		program->begin[part] = maker->count;
		make_part(maker, part, program->accumulation_steps, seed % 4 == 3);
		program->end[part] = maker->count;
	}
}

/* ---- tests */

static char memory[2 << 20];

START_TEST(what_is_not_played_again_would_have_been_the_same)
{
	static struct maker maker;
	struct est_program program;
	struct plain plain = { .program = &program };
	struct est_levels levels;
	struct est_reserved reserved, tight, peak;
	struct est_arena arena;

	make_program(&maker, (uint64_t)_i, &program);
	est_arena_init(&arena, memory, sizeof(memory));
	ck_assert(est_allocator_init(&plain.allocator, &arena, IDS, false, 0));
	est_replay_levels(&program, &levels);
	ck_assert(est_replay_reserved(&program, &arena, levels.allocated, NULL, NULL, &reserved));
	est_arena_init(&arena, memory + sizeof(memory) / 2, est_replay_arena_size(IDS)); /* no room to keep more than must be */
	ck_assert(est_replay_reserved(&program, &arena, levels.allocated, NULL, NULL, &tight));
	ck_assert_uint_eq(reserved.least, tight.least);
	est_arena_init(&arena, memory + sizeof(memory) / 2, sizeof(memory) / 2);
	ck_assert(est_replay_peak(&program, &arena, &peak));
	ck_assert(plain_runs(&plain, 0));
	ck_assert_uint_eq(levels.allocated, plain.allocator.peak_allocated);
	ck_assert_uint_eq(reserved.peak, plain.allocator.peak_reserved);
	ck_assert_uint_eq(peak.peak, reserved.peak);
	ck_assert_uint_eq(peak.least, reserved.peak);
	for (unsigned i = 0; i < EST_PHASES; i++) {
		ck_assert_uint_eq(reserved.phase[i], plain.phase_reserved[i]);
		ck_assert_uint_eq(peak.phase[i], plain.phase_reserved[i]);
	}
	ck_assert_uint_eq(reserved.least, plain_least(&plain, levels.allocated, reserved.peak));
	ck_assert(reserved.least == reserved.peak || plain_runs(&plain, reserved.least));
}
END_TEST

START_TEST(the_least_limit_lies_below_the_peak_where_the_cache_can_be_given_back)
{
	static struct maker maker;
	struct est_program program;
	struct est_levels levels;
	struct est_reserved reserved;
	struct est_arena arena;
	unsigned below = 0;

	for (uint64_t seed = 0; seed < PROGRAMS; seed++) {
		make_program(&maker, seed, &program);
		est_arena_init(&arena, memory, sizeof(memory));
		est_replay_levels(&program, &levels);
		ck_assert(est_replay_reserved(&program, &arena, levels.allocated, NULL, NULL, &reserved));
		ck_assert_uint_ge(reserved.least, levels.allocated);
		ck_assert_uint_le(reserved.least, reserved.peak);
		below += reserved.least < reserved.peak;
	}
	ck_assert_uint_gt(below, PROGRAMS / 3); /* or the programs would not test the search */
}
END_TEST

START_TEST(the_arena_size_is_enough_and_less_is_told)
{
	static struct maker maker;
	struct est_program program;
	struct est_reserved reserved;
	struct est_arena arena;
	size_t size = est_replay_arena_size(IDS);

	make_program(&maker, 1, &program);
	ck_assert_uint_le(size, sizeof(memory));
	est_arena_init(&arena, memory, size);
	ck_assert(est_replay_reserved(&program, &arena, 1, NULL, NULL, &reserved));
	est_arena_init(&arena, memory, size / 2);
	ck_assert(!est_replay_reserved(&program, &arena, 1, NULL, NULL, &reserved));
}
END_TEST

/* A request of units was served from a block; then a segment is reserved. Pools 1 and 3: large ones of two streams. */
static const struct {
	const char *name;
	uint32_t units, block, segment;
	unsigned pool;
	bool broken;
} recurrences[] = {
	{ "the segment would have fitted better", 30000, 90000, 50000, 1, true },
	{ "it is as large as the block: the older one is taken", 30000, 90000, 90000, 1, false },
	{ "it is larger than the block", 30000, 90000, 100000, 1, false },
	{ "it is too small for the request", 60000, 90000, 30000, 1, false },
	{ "it is of another pool", 30000, 90000, 50000, 3, false },
	{ "the block fitted exactly", 30000, 30000, 40960, 1, false },
	{ "the request is as large as the segment", 40960, 90000, 40960, 1, true },
};

START_TEST(a_step_recurs_unless_a_new_segment_is_in_its_way)
{
	struct est_recurrence recurrence = { .broken = false };

	est_recurrence_note(&recurrence, 1, recurrences[_i].units, recurrences[_i].block);
	est_recurrence_grow(&recurrence, recurrences[_i].pool, recurrences[_i].segment);
	ck_assert_msg(recurrence.broken == recurrences[_i].broken, "%s", recurrences[_i].name);
}
END_TEST

START_TEST(classes_are_in_the_order_of_what_they_hold)
{
	unsigned before = est_class_of(0);

	for (uint64_t units = 1; units <= UINT32_MAX; units += units / 64 + 1) {
		ck_assert_uint_ge(est_class_of((uint32_t)units), before);
		before = est_class_of((uint32_t)units);
	}
	ck_assert_uint_lt(est_class_of(UINT32_MAX), EST_CLASSES);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("replay");
	TCase *test = tcase_create("replay");

	tcase_set_timeout(test, 60);
	tcase_add_loop_test(test, what_is_not_played_again_would_have_been_the_same, 0, PROGRAMS);
	tcase_add_test(test, the_least_limit_lies_below_the_peak_where_the_cache_can_be_given_back);
	tcase_add_test(test, the_arena_size_is_enough_and_less_is_told);
	tcase_add_loop_test(test, a_step_recurs_unless_a_new_segment_is_in_its_way, 0,
			    (int)(sizeof(recurrences) / sizeof(recurrences[0])));
	tcase_add_test(test, classes_are_in_the_order_of_what_they_hold);
	suite_add_tcase(suite, test);
	return run_suite(suite);
}
