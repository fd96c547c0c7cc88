/* A reference model under FSDP2 as TRL prepares it (prepare_fsdp() of trl/models/utils.py): fully_shard() of the model and of nothing
 * within it. Its forward gathers all of it at once. */
#include <string.h>
#include "estimator/schedule.h"

/* One flat list, in the order of the modules: an append to each leaf would walk it. */
static void join(struct est_schedule *schedule, uint32_t first_leaf)
{
	struct est_tape *tape = schedule->tape;
	struct est_leaf **link = &schedule->units->first;

	for (uint32_t i = first_leaf; i < tape->leaf_count; i++) {
		tape->leaves[i].unit = 0;
		*link = &tape->leaves[i];
		link = &tape->leaves[i].next;
	}
}

/* GRPO asks its reference before the steps that are replayed, after which it stays gathered when it is told to. */
static void gather_for_good(struct est_schedule *schedule)
{
	const struct est_request *request = schedule->request;

	if (request->objective != EST_GRPO || request->parallelism.reshard_after_forward)
		return;
	est_schedule_begin(schedule, 0);
	est_schedule_forward_end(schedule);
}

uint8_t est_schedule_init_reference(struct est_schedule *schedule, struct est_tape *tape, uint32_t first_leaf,
				    const struct est_request *request)
{
	const struct est_parallelism *p = &request->parallelism;

	*schedule = (struct est_schedule){ .row = &est_fsdp2, .tape = tape, .request = request, .evaluates = true,
					   .offloads = request->offload.parameters == EST_ON_CPU, .replicates = p->strategy == EST_HSDP,
					   .ranks = est_shard_ranks(p), .last_run = EST_NO_UNIT, .unit_count = 1 };
	schedule->units = est_arena_take(tape->arena, 1, sizeof(*schedule->units));
	if (!schedule->units) {
		tape->exhausted = true;
		return 0;
	}
	schedule->units->ranks = schedule->ranks;
	join(schedule, first_leaf);
	est_schedule_shard(schedule, 0);
	schedule->gathered_element = tape->leaves[first_leaf].value.element;
	gather_for_good(schedule);
	return schedule->gathered_element;
}
