/* Schedule1F1B._step_microbatches(), and _get_1f1b_rank_ops() as ScheduleInterleaved1F1B calls it: of one stage a rank both
 * are the same but for how many forwards run ahead. */
#include "estimator/pipeline.h"

static uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* One stage: as many forwards as ranks follow. Traced are as many as are in flight, one with gradients to accumulate
 * into, and the last. */
static struct est_order order_of_one(uint64_t ranks_on, uint64_t micro_batches)
{
	uint64_t in_flight = least(ranks_on, micro_batches), traced = least(in_flight + 2, micro_batches);

	return (struct est_order){ .stages = 1, .turn = micro_batches, .ahead = in_flight - 1,
				   .micro_batches = micro_batches, .traced = traced };
}

/* Rounds of at least as many micro-batches as there are ranks. Traced are so many of them that all stages have been through
 * two turns of backwards while forwards run ahead: in the first there is no gradient to accumulate into. */
static struct est_order order_of_many(uint64_t ranks, uint64_t ranks_on, uint64_t stages, uint64_t micro_batches)
{
	uint64_t rounds = micro_batches / ranks ? micro_batches / ranks : 1, turn = micro_batches / rounds;
	uint64_t ahead = least((stages - 1) * turn + 2 * (ranks_on - 1), stages * micro_batches);
	uint64_t filled = (ahead + stages * turn - 1) / (stages * turn);

	return (struct est_order){ .stages = stages, .turn = turn, .ahead = ahead, .micro_batches = micro_batches,
				   .traced = least(filled + 2, rounds) * turn };
}

struct est_order est_order_of_rank(const struct est_parallelism *p, int64_t micro_batches, int64_t index)
{
	uint64_t ranks = (uint64_t)p->pipeline, ranks_on = (uint64_t)(p->pipeline - index);

	if (p->virtual_stages == 1)
		return order_of_one(ranks_on, (uint64_t)micro_batches);
	return order_of_many(ranks, ranks_on, (uint64_t)p->virtual_stages, (uint64_t)micro_batches);
}

struct est_order est_order_of(const struct est_model *part, const struct est_request *request)
{
	return est_order_of_rank(&request->parallelism, request->gradient_accumulation_steps,
				 request->parallelism.pipeline - part->ranks_on);
}

uint64_t est_order_in_flight(const struct est_order *order)
{
	return least(order->ahead + 1, order->stages * order->micro_batches);
}

/* The n-th pass of a direction, of the stage whose turn it is. */
static struct est_action action(const struct est_order *order, uint64_t n, bool backward)
{
	uint64_t turns = n / order->turn, stage = turns % order->stages;

	return (struct est_action){ .backward = backward, .stage = (uint32_t)(backward ? order->stages - 1 - stage : stage),
				    .number = turns / order->stages * order->turn + n % order->turn };
}

struct est_action *est_order_actions(const struct est_order *order, struct est_arena *arena)
{
	uint64_t passes = order->stages * order->traced;
	struct est_action *actions = est_arena_take(arena, 2 * passes, sizeof(*actions)), *next = actions;

	for (uint64_t n = 0; actions && n < passes + order->ahead; n++) {
		if (n < passes)
			*next++ = action(order, n, false);
		if (n >= order->ahead)
			*next++ = action(order, n - order->ahead, true);
	}
	return actions;
}

/* The tables of a layer have room for two micro-batches of it (step.c); a stage takes as much again as a layer. */
int64_t est_order_traced_layers(const struct est_order *order, int64_t layers)
{
	return (layers + (int64_t)order->stages) * ((int64_t)order->traced + 1) / 2;
}
