/* ZeRO-3's trace of modules, and what is gathered ahead of it: PartitionedParameterCoordinator, by the names of its functions. */
#include "estimator/zero3.h"

/* ---- the trace */

static void record(struct est_zero3 *zero3, uint32_t module)
{
	if (zero3->step == zero3->step_limit) {
		zero3->tape->exhausted = true;
		return;
	}
	zero3->order[zero3->step] = module;
	zero3->steps = zero3->step + 1;
}

static void add_use(struct est_zero3 *zero3, uint32_t leaf, uint32_t step)
{
	struct est_zero3_parameter *parameter = &zero3->parameters[leaf];
	uint32_t number = zero3->use_count + 1;

	if (number == zero3->use_limit) {
		zero3->tape->exhausted = true;
		return;
	}
	zero3->use_count = number;
	zero3->uses[number] = (struct est_zero3_use){ .leaf = leaf, .step = step };
	if (parameter->first_use)
		zero3->uses[parameter->last_use].next = number;
	else
		parameter->first_use = number;
	parameter->last_use = number;
}

/* construct_parameter_trace_from_module_trace() */
static void construct_trace(struct est_zero3 *zero3)
{
	uint64_t before = 0;

	zero3->use_count = 0;
	for (uint32_t i = zero3->first_parameter; i < zero3->parameter_count; i++)
		zero3->parameters[i].first_use = zero3->parameters[i].last_use = 0;
	for (uint32_t step = 0; step < zero3->steps; step++) {
		const struct est_zero3_module *module = &zero3->modules[zero3->order[step]];

		zero3->before[step] = before;
		for (struct est_leaf *leaf = module->first; leaf; leaf = leaf->next) {
			add_use(zero3, (uint32_t)(leaf - zero3->tape->leaves), step);
			before += module->whole ? 0 : leaf->value.numel; /* it has none of its own */
		}
	}
}

/* _invalidate_trace() */
static void invalidate(struct est_zero3 *zero3)
{
	zero3->mode = EST_ZERO3_INVALID;
	zero3->steps = 0;
	est_zero3_clean(zero3);
}

/* trace_prologue() and record_module() */
void est_zero3_trace(struct est_zero3 *zero3, uint32_t module)
{
	bool is_next = zero3->step < zero3->steps && zero3->order[zero3->step] == module;

	if (zero3->mode == EST_ZERO3_COMPLETE && !is_next)
		invalidate(zero3);
	else if (zero3->mode == EST_ZERO3_RECORD)
		record(zero3, module);
}

void est_zero3_reset(struct est_zero3 *zero3)
{
	est_zero3_clean(zero3);
	if (zero3->mode == EST_ZERO3_RECORD) {
		construct_trace(zero3);
		zero3->mode = EST_ZERO3_COMPLETE;
	} else if (zero3->mode == EST_ZERO3_INVALID) {
		zero3->mode = EST_ZERO3_RECORD;
	}
	zero3->step = 0;
	zero3->queue = 1;
	zero3->available = 0;
	for (uint32_t i = zero3->first_parameter; i < zero3->parameter_count; i++) {
		zero3->parameters[i].fetched_for = -1;
		zero3->parameters[i].use = zero3->parameters[i].first_use;
	}
}

/* ---- ahead of it */

/* The module's uses leave the queue, unless a prefetch has seen them. */
static void discard_from_queue(struct est_zero3 *zero3, const struct est_zero3_module *module)
{
	uint32_t count = 0;

	for (struct est_leaf *leaf = module->first; leaf; leaf = leaf->next)
		count += est_zero3_parameter_of(zero3, leaf)->fetched_for < zero3->step;
	while (count-- > 0 && zero3->queue <= zero3->use_count) {
		const struct est_zero3_use *use = &zero3->uses[zero3->queue++];

		zero3->parameters[use->leaf].fetched_for = use->step;
	}
}

/* A list in the order of leaves. */
static void insert(struct est_zero3 *zero3, uint32_t *first, uint32_t leaf)
{
	uint32_t *link = first;

	while (*link && *link < leaf + 1)
		link = &zero3->parameters[*link - 1].next;
	zero3->parameters[leaf].next = *link;
	*link = leaf + 1;
}

static void prefetch(struct est_zero3 *zero3)
{
	int64_t room = zero3->max_live - zero3->available, numel = 0;
	int64_t most = room < zero3->prefetch_bucket ? room : zero3->prefetch_bucket;
	uint32_t first = 0, count = 0;

	while (zero3->queue <= zero3->use_count && numel < most) {
		const struct est_zero3_use *use = &zero3->uses[zero3->queue++];
		struct est_zero3_parameter *parameter = &zero3->parameters[use->leaf];

		if (parameter->fetched_for < use->step)
			parameter->fetched_for = use->step;
		if (est_zero3_is_gathered(parameter) || parameter->chosen)
			continue;
		parameter->chosen = true;
		insert(zero3, &first, use->leaf);
		count++;
		numel += (int64_t)zero3->tape->leaves[use->leaf].value.numel;
	}
	for (uint32_t i = first; i; i = zero3->parameters[i - 1].next)
		zero3->parameters[i - 1].chosen = false;
	est_zero3_all_gather(zero3, first, count);
}

void est_zero3_prefetch(struct est_zero3 *zero3, const struct est_zero3_module *module)
{
	if (zero3->mode != EST_ZERO3_COMPLETE)
		return;
	discard_from_queue(zero3, module);
	if (zero3->prefetch_bucket > 0)
		prefetch(zero3);
}

bool est_zero3_is_reused_soon(const struct est_zero3 *zero3, struct est_zero3_parameter *parameter)
{
	const struct est_zero3_use *use = &zero3->uses[parameter->use];

	while (parameter->use && use->step < zero3->step) {
		parameter->use = use->next;
		use = &zero3->uses[parameter->use];
	}
	return parameter->use && zero3->before[use->step] - zero3->before[zero3->step] < (uint64_t)zero3->max_reuse;
}
