/* A reference model as TRL prepares it (trl/models/utils.py): for ZeRO-3 an engine of its own (prepare_deepspeed()); under FSDP2
 * fully_shard() of the model and of nothing within it, so that its forward gathers all of it at once (prepare_fsdp()). */
#include <string.h>
#include "estimator/schedule.h"
#include "estimator/zero3.h"

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

static uint8_t init_fsdp2(struct est_schedule *schedule, struct est_tape *tape, uint32_t first_leaf, const struct est_request *request)
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

static uint8_t init_zero3(struct est_schedule *reference, const struct est_schedule *schedule, uint32_t first_leaf,
			  const struct est_model *model)
{
	struct est_tape *tape = schedule->tape;

	*reference = (struct est_schedule){ .row = schedule->row, .tape = tape, .request = schedule->request, .ranks = schedule->ranks,
					    .layers = schedule->layers, .gathered_element = schedule->gathered_element };
	reference->zero3 = est_arena_take(tape->arena, 1, sizeof(*reference->zero3));
	if (!reference->zero3 || !est_zero3_init_reference(reference->zero3, reference, model, first_leaf))
		tape->exhausted = true;
	return EST_16BIT;
}

uint8_t est_schedule_init_reference(struct est_schedule *reference, const struct est_schedule *schedule, uint32_t first_leaf,
				    const struct est_model *model)
{
	return schedule->zero3 ? init_zero3(reference, schedule, first_leaf, model)
			       : init_fsdp2(reference, schedule->tape, first_leaf, schedule->request);
}
