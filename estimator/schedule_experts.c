/* Units of routed experts over expert-parallel ranks: one within each layer that has some, over the ranks that share
 * them, with hooks of its own around the experts' module. Units run ahead of their turn in the forward too, as
 * torchtitan says explicitly: the host waits for the counts of tokens, and the implicit order would come too late.
 * Source: apply_fsdp() of torchtitan 0.2.2. */
#include "estimator/expert_parallel.h"
#include "estimator/schedule.h"

static bool is_of_experts(const struct est_leaf *leaf)
{
	return leaf->stack > 0;
}

static void begin_module(void *context, uint32_t module)
{
	(void)context;
	(void)module;
}

static struct est_tensor enter_module(void *context, uint32_t module, struct est_tensor x)
{
	struct est_schedule *schedule = context;
	unsigned unit = schedule->unit_of_module[module];

	return unit ? est_schedule_enter(schedule, unit, x) : x;
}

static struct est_tensor leave_module(void *context, uint32_t module, struct est_tensor y)
{
	struct est_schedule *schedule = context;
	unsigned unit = schedule->unit_of_module[module];

	return unit ? est_schedule_leave(schedule, unit, y) : y;
}

unsigned est_schedule_name_experts(struct est_schedule *schedule)
{
	struct est_tape *tape = schedule->tape;
	unsigned count = 0;

	if (schedule->request->parallelism.expert <= 1)
		return 0;
	schedule->unit_of_module = est_arena_take(tape->arena, tape->modules + 1, sizeof(*schedule->unit_of_module));
	for (uint32_t i = 0; i < tape->leaf_count && schedule->unit_of_module; i++)
		if (is_of_experts(&tape->leaves[i]) && !schedule->unit_of_module[tape->leaves[i].module])
			schedule->unit_of_module[tape->leaves[i].module] = schedule->unit_count + count++;
	tape->hooks = (struct est_module_hooks){ schedule, begin_module, enter_module, leave_module };
	schedule->prefetches_forward = true;
	return count;
}

void est_schedule_nest_experts(struct est_schedule *schedule, const struct est_model *model)
{
	struct est_tape *tape = schedule->tape;

	if (schedule->request->parallelism.expert <= 1)
		return;
	for (uint32_t i = 0; i < tape->leaf_count; i++) {
		const struct est_leaf *leaf = &tape->leaves[i];
		unsigned number = is_of_experts(leaf) ? schedule->unit_of_module[leaf->module] : 0;

		if (!number)
			continue;
		schedule->units[leaf->unit].nested = number;
		schedule->units[number].within = true;
		schedule->units[number].ranks = est_expert_shard_ranks(&schedule->request->parallelism);
		schedule->units[number].cuts_rows = est_expert_cuts_rows(schedule->request, model);
	}
}
