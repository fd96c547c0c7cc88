#include "estimator/compiled_plan.h"

#include <string.h>

/* Storages of the first time over are steps, not the tape's. */
#define COUNTED UINT32_C(0x80000000)

void est_plan_begin(struct est_plan *plan, struct est_tape *tape, uint64_t level)
{
	plan->tape = tape;
	plan->count = 0;
	plan->pool_count = 0;
	plan->level = plan->peak = (int64_t)level;
	plan->counts = true;
}

static struct est_plan_step *step(struct est_plan *plan)
{
	if (plan->count == plan->limit) {
		plan->tape->exhausted = true;
		return &plan->steps[plan->limit - 1];
	}
	return &plan->steps[plan->count++];
}

static struct est_plan_step *count_step(struct est_plan *plan, uint64_t bytes, uint8_t element, bool gives, bool pooled)
{
	struct est_plan_step *s = step(plan);

	plan->level += gives ? -(int64_t)bytes : (int64_t)bytes;
	if (plan->level > plan->peak)
		plan->peak = plan->level;
	*s = (struct est_plan_step){ .bytes = bytes, .level = plan->level, .element = element, .gives = gives, .pooled = pooled };
	return s;
}

/* ---- which buffer becomes which */

static struct est_plan_pool *pool_of(struct est_plan *plan, const struct est_plan_step *s)
{
	struct est_plan_pool *pool = plan->pools;

	while (pool < plan->pools + plan->pool_count && (pool->bytes != s->bytes || pool->element != s->element))
		pool++;
	if (pool == plan->pools + EST_PLAN_POOLS)
		return NULL;
	if (pool == plan->pools + plan->pool_count) {
		*pool = (struct est_plan_pool){ s->bytes, 0, s->element };
		plan->pool_count++;
	}
	return pool;
}

/* Whether the buffer given at step from may stay until it is taken at step to: what is alive in between is more by so much. */
static bool stay(struct est_plan *plan, uint32_t from, uint32_t to)
{
	int64_t bytes = (int64_t)plan->steps[to].bytes;

	for (uint32_t i = from + 1; i < to; i++)
		if (plan->steps[i].level + bytes > plan->peak)
			return false;
	for (uint32_t i = from + 1; i < to; i++)
		plan->steps[i].level += bytes;
	return true;
}

void est_plan_settle(struct est_plan *plan)
{
	for (uint32_t i = 0; i < plan->count; i++) {
		struct est_plan_step *s = &plan->steps[i];
		struct est_plan_pool *pool = s->pooled ? pool_of(plan, s) : NULL;

		if (!pool)
			continue;
		if (s->gives) {
			s->next = pool->last;
			pool->last = i + 1;
		} else if (pool->last && stay(plan, pool->last - 1, i)) {
			struct est_plan_step *given = &plan->steps[pool->last - 1];

			s->pair = pool->last;
			given->pair = i + 1;
			pool->last = given->next;
		}
	}
	plan->count = 0;
	plan->counts = false;
}

/* ---- takes and gives */

static struct est_tensor counted(const struct est_plan *plan, uint64_t numel, uint8_t element)
{
	return (struct est_tensor){ .numel = numel, .element = element, .storage = COUNTED | plan->count };
}

struct est_tensor est_plan_take(struct est_plan *plan, uint64_t numel, uint8_t element, enum est_category category)
{
	struct est_plan_step *s;
	struct est_tensor tensor;

	if (plan->counts) {
		count_step(plan, numel * element, element, false, true);
		return counted(plan, numel, element);
	}
	s = step(plan);
	if (!s->pair)
		return est_hold(est_empty_as(plan->tape, numel, element, category));
	tensor = plan->steps[s->pair - 1].parked;
	tensor.numel = numel;
	return tensor;
}

struct est_tensor est_plan_receive(struct est_plan *plan, uint64_t numel, uint8_t element, struct est_tensor tensor)
{
	if (plan->counts) {
		count_step(plan, numel * element, element, false, false);
		return counted(plan, numel, element);
	}
	step(plan);
	return est_hold(tensor);
}

void est_plan_give(struct est_plan *plan, struct est_tensor *tensor)
{
	struct est_plan_step *s;

	if (!tensor->storage)
		return;
	if (plan->counts) {
		count_step(plan, tensor->numel * tensor->element, tensor->element, true, (tensor->storage & COUNTED) != 0);
	} else {
		s = step(plan);
		if (s->pair)
			s->parked = *tensor;
		else
			est_drop(plan->tape, *tensor);
	}
	*tensor = est_none;
}

struct est_tensor est_plan_adopt(struct est_plan *plan, struct est_tensor tensor)
{
	uint64_t bytes = tensor.numel * tensor.element;

	if (!plan->counts) {
		step(plan);
		step(plan);
		return tensor;
	}
	count_step(plan, bytes, tensor.element, false, false);
	count_step(plan, bytes, tensor.element, true, false);
	return counted(plan, tensor.numel, tensor.element);
}
