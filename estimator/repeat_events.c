/* Whose the events of a micro-batch are, and which of them are copied for the layers that were not run. */
#include "estimator/repeat_events.h"

/* ---- whose an event is */

/* A release outside of layers is of the unit that allocated. */
static void name_event(struct est_copying *c, uint32_t i, enum est_repeat_unit unit)
{
	const struct est_event *event = &c->events[i];
	uint32_t *birth = &c->birth[event->id];

	c->unit[i] = (uint8_t)unit;
	c->origin[i] = EST_NOWHERE;
	if (event->kind == EST_EVENT_ALLOC) {
		*birth = i + 1;
	} else if (event->kind == EST_EVENT_FREE) {
		c->origin[i] = *birth - 1;
		if (unit == EST_UNIT_NONE && *birth)
			c->unit[i] = c->unit[c->origin[i]];
		*birth = 0;
	}
}

static void name_events(struct est_copying *c)
{
	const struct est_repeat *repeat = c->repeat;

	for (unsigned m = 0; m < repeat->mark_count; m++) {
		uint32_t i = (uint32_t)(repeat->marks[m].event - repeat->begin);
		uint32_t end = m + 1 < repeat->mark_count ? (uint32_t)(repeat->marks[m + 1].event - repeat->begin) : c->count;

		for (; i < end; i++)
			name_event(c, i, repeat->marks[m].unit);
	}
}

/* ---- seams */

static bool is_beside_gap(uint8_t unit)
{
	return unit == EST_UNIT_BEFORE || unit == EST_UNIT_AFTER;
}

static uint32_t end_of_stretch(const struct est_copying *c, uint32_t i)
{
	uint8_t unit = c->unit[i];

	while (i < c->count && c->unit[i] == unit)
		i++;
	return i;
}

static bool add_seam(struct est_copying *c, uint32_t first, uint32_t second, uint32_t end)
{
	bool falls = c->unit[first] == EST_UNIT_AFTER;

	if (second == end || !is_beside_gap(c->unit[second]) || second - first != end - second || c->seam_count == EST_SEAMS)
		return false;
	c->seams[c->seam_count++] = (struct est_seam){ falls ? second : first, falls ? first : second, second - first, c->slot_count };
	c->slot_count += second - first;
	return true;
}

/* Each stretch of a unit beside the gap has to meet one, as long, of the other. */
static bool find_seams(struct est_copying *c)
{
	uint32_t i = 0, second, end;

	while (i < c->count) {
		second = end_of_stretch(c, i);
		if (!is_beside_gap(c->unit[i])) {
			i = second;
			continue;
		}
		end = second < c->count ? end_of_stretch(c, second) : second;
		if (!add_seam(c, i, second, end))
			return false;
		i = end;
	}
	return true;
}

/* ---- what is copied */

uint32_t est_repeat_slot(const struct est_copying *c, uint32_t event)
{
	for (unsigned s = 0; s < c->seam_count; s++) {
		const struct est_seam *seam = &c->seams[s];

		if (event - seam->before < seam->length)
			return seam->slot + event - seam->before;
		if (event - seam->after < seam->length)
			return seam->slot + event - seam->after;
	}
	return EST_NOWHERE;
}

/* What is released by events of the units before and after the gap: of their own, of the ones before them, or of the ones
 * after. */
static bool relate(const struct est_copying *c, uint32_t before, uint32_t after, struct est_slot *ret_slot)
{
	enum est_repeat_unit of_before, of_after;

	if (before == EST_NOWHERE || after == EST_NOWHERE)
		return false;
	of_before = c->unit[before];
	of_after = c->unit[after];
	ret_slot->toward = (int32_t)of_before - (int32_t)EST_UNIT_BEFORE;
	ret_slot->target = est_repeat_slot(c, of_before == EST_UNIT_AFTER ? before : after);
	if (of_before == EST_UNIT_BEFORE && of_after == EST_UNIT_AFTER)
		return est_repeat_slot(c, before) == ret_slot->target;
	return (of_before == EST_UNIT_FIRST && of_after == EST_UNIT_BEFORE)
	       || (of_before == EST_UNIT_AFTER && of_after == EST_UNIT_LAST);
}

static bool are_alike(const struct est_event *one, const struct est_event *other)
{
	return one->kind == other->kind && one->bytes == other->bytes && one->category == other->category
	       && one->stream == other->stream && (one->kind != EST_EVENT_PHASE || one->id == other->id);
}

static bool make_slot(struct est_copying *c, const struct est_seam *seam, uint32_t k)
{
	const struct est_event *before = &c->events[seam->before + k], *after = &c->events[seam->after + k];
	struct est_slot *slot = &c->slots[seam->slot + k], *target;

	if (!are_alike(before, after))
		return false;
	if (before->kind != EST_EVENT_FREE)
		return true;
	if (!relate(c, c->origin[seam->before + k], c->origin[seam->after + k], slot) || slot->target == EST_NOWHERE)
		return false;
	target = &c->slots[slot->target];
	if (target->released)
		return false;
	target->released = true;
	target->local = slot->toward == 0 && slot->target >= seam->slot;
	target->toward = slot->toward;
	return true;
}

static bool make_slots(struct est_copying *c)
{
	c->slots = est_arena_take(c->tape->arena, c->slot_count, sizeof(*c->slots));
	c->steps = est_arena_reserve(c->tape->arena, c->slot_count, sizeof(*c->steps));
	if (!c->slots || !c->steps)
		return false;
	for (unsigned s = 0; s < c->seam_count; s++)
		for (uint32_t k = 0; k < c->seams[s].length; k++)
			if (!make_slot(c, &c->seams[s], k))
				return false;
	return true;
}

bool est_repeat_find(struct est_copying *c)
{
	struct est_arena *arena = c->tape->arena;

	c->birth = est_arena_take(arena, c->tape->storage_count, sizeof(*c->birth));
	c->origin = est_arena_reserve(arena, c->count, sizeof(*c->origin));
	c->unit = est_arena_reserve(arena, c->count, sizeof(*c->unit));
	if (!c->birth || !c->origin || !c->unit)
		return false;
	name_events(c);
	return find_seams(c) && make_slots(c);
}
