/* The events of layers that were not run: those of the units beside the gap, with other storages. */
#include "estimator/repeat_events.h"

#include <string.h>

/* ---- ids */

/* Numbers of local storages are used again once they are released: spare is a list of those, by slots that had them. */
static void number_seam(struct est_copying *c, const struct est_seam *seam)
{
	uint32_t spare = EST_NOWHERE, locals = 0;

	for (uint32_t i = seam->slot; i < seam->slot + seam->length; i++) {
		struct est_slot *slot = &c->slots[i];
		const struct est_event *event = &c->events[seam->before + i - seam->slot];

		if (event->kind == EST_EVENT_FREE && c->slots[slot->target].local) {
			c->slots[slot->target].target = spare;
			spare = slot->target;
		} else if (event->kind == EST_EVENT_ALLOC && !slot->local) {
			slot->number = c->kept++;
		} else if (event->kind == EST_EVENT_ALLOC && spare == EST_NOWHERE) {
			slot->number = locals++;
		} else if (event->kind == EST_EVENT_ALLOC) {
			slot->number = c->slots[spare].number;
			spare = c->slots[spare].target;
		}
	}
	c->locals = locals > c->locals ? locals : c->locals;
}

/* Ids that are taken for each unit: those of the copies, and of the two beside them, where theirs have to be others. */
static uint32_t units_named(const struct est_copying *c)
{
	return (uint32_t)c->repeat->copies + 2;
}

/* The id of what a slot allocates in a copy, counted from 1 in the order of layers; 0 is the unit before. */
static uint32_t id_of(const struct est_copying *c, const struct est_slot *slot, uint32_t copy)
{
	return c->tape->storage_count + slot->number + c->kept * (slot->local ? units_named(c) : copy);
}

/* ---- gradients */

/* The gradient that a unit before the gap has left. */
static bool adopt(struct est_copying *c, struct est_leaf *leaf)
{
	uint32_t birth = c->birth[leaf->grad.storage], i = birth ? est_repeat_slot(c, birth - 1) : EST_NOWHERE;
	struct est_storage *storages = c->tape->storages;

	if (i == EST_NOWHERE || c->slots[i].released || c->unit[birth - 1] != EST_UNIT_BEFORE)
		return false;
	c->adopted++;
	storages[id_of(c, &c->slots[i], 1)] = storages[leaf->grad.storage];
	leaf->grad.storage = id_of(c, &c->slots[i], 1);
	return true;
}

/* Leaves come layer after layer, perhaps more than once: the one that is a leaf's counterpart lies as far from the first of its
 * layer. */
static bool give_gradients(struct est_copying *c)
{
	struct est_tape *tape = c->tape;
	const struct est_repeat *repeat = c->repeat;
	unsigned period = (unsigned)repeat->period, first = est_unit_of_layer(repeat->first + 2 * repeat->period);
	unsigned end = first + (unsigned)repeat->copies * period;
	uint32_t *begin = est_arena_take(tape->arena, end, sizeof(*begin));

	for (uint32_t i = 0; begin && i < tape->leaf_count; i++) {
		struct est_leaf *leaf = &tape->leaves[i], *twin;

		if (leaf->unit >= end)
			continue;
		if (i == 0 || leaf[-1].unit != leaf->unit)
			begin[leaf->unit] = i;
		if (leaf->unit < first || leaf->grad.storage)
			continue;
		twin = &tape->leaves[begin[leaf->unit - period] + i - begin[leaf->unit]];
		if (twin->unit + period != leaf->unit)
			return false;
		leaf->grad = twin->grad;
		if (!leaf->grad.storage)
			continue;
		if (leaf->unit < first + period && !adopt(c, leaf))
			return false;
		if (leaf->unit >= first + period) {
			leaf->grad.storage += c->kept;
			tape->storages[leaf->grad.storage] = tape->storages[twin->grad.storage];
		}
	}
	return begin != NULL;
}

/* What no release names has to be the gradient of a leaf. */
static bool is_whole(const struct est_copying *c)
{
	uint32_t left = 0;

	for (unsigned s = 0; s < c->seam_count; s++)
		for (uint32_t k = 0; k < c->seams[s].length; k++)
			left += c->events[c->seams[s].before + k].kind == EST_EVENT_ALLOC && !c->slots[c->seams[s].slot + k].released;
	return left == c->adopted;
}

/* ---- copies */

static bool falls(const struct est_seam *seam)
{
	return seam->after < seam->before;
}

/* Which storage the event of a slot is about, in a copy. */
static uint32_t id_in(const struct est_copying *c, const struct est_slot *slot, bool releases, uint32_t copy)
{
	if (releases)
		return id_of(c, &c->slots[slot->target], copy + (uint32_t)slot->toward);
	return id_of(c, slot, copy);
}

/* What the id grows by from one copy to the next that is written. */
static uint32_t step_of(const struct est_copying *c, const struct est_slot *slot, bool releases, bool falling)
{
	if (releases ? c->slots[slot->target].local : slot->local)
		return 0;
	return falling ? -c->kept : c->kept;
}

/* Those of one copy. ret_steps: what each id grows by to the next one that is written. */
static void write_copy(const struct est_copying *c, const struct est_seam *seam, const struct est_event *from, struct est_event *to,
		       uint32_t ret_steps[])
{
	const bool falling = falls(seam);

	for (uint32_t k = 0; k < seam->length; k++) {
		const struct est_slot *slot = &c->slots[seam->slot + k];
		const bool releases = from[k].kind == EST_EVENT_FREE;

		to[k] = from[k];
		ret_steps[k] = 0;
		if (from[k].kind == EST_EVENT_PHASE)
			continue;
		to[k].id = id_in(c, slot, releases, falling ? (uint32_t)c->repeat->copies : 1);
		ret_steps[k] = step_of(c, slot, releases, falling);
	}
}

/* All copies of a seam to where they belong: the first by what it is, each other by the one before. */
static void write_copies(const struct est_copying *c, const struct est_seam *seam, const struct est_event *from, struct est_event *to)
{
	const size_t length = seam->length;
	const uint32_t *steps = c->steps;

	write_copy(c, seam, from, to, c->steps);
	for (int64_t n = 1; n < c->repeat->copies; n++, to += length)
		for (size_t k = 0; k < length; k++) {
			to[length + k] = to[k];
			to[length + k].id += steps[k];
		}
}

/* What units beside the gap release of each other is the copies' from now on, and the copies release what is theirs: perhaps later
 * than they did themselves, when its id would be another's. */
static void turn_to_copies(const struct est_copying *c, const struct est_seam *seam)
{
	const uint32_t copies = (uint32_t)c->repeat->copies;

	for (uint32_t k = 0; k < seam->length; k++) {
		const struct est_slot *slot = &c->slots[seam->slot + k];
		struct est_event *before = &c->events[seam->before + k], *after = &c->events[seam->after + k];
		const bool releases = before->kind == EST_EVENT_FREE;

		if (slot->toward < 0 && releases)
			after->id = id_in(c, slot, releases, copies + 1);
		else if (slot->toward < 0)
			before->id = id_of(c, slot, 0);
		if (slot->toward > 0 && releases)
			before->id = id_in(c, slot, releases, 0);
		else if (slot->toward > 0)
			after->id = id_of(c, slot, copies + 1);
	}
}

static void put_copies(struct est_copying *c, struct est_repeat *repeat)
{
	const uint32_t copies = (uint32_t)repeat->copies;
	uint32_t ahead = copies * c->slot_count, end = c->count;

	for (unsigned s = c->seam_count; s-- > 0;) {
		const struct est_seam *seam = &c->seams[s];
		const uint32_t second = falls(seam) ? seam->before : seam->after;

		turn_to_copies(c, seam);
		memmove(c->events + second + ahead, c->events + second, (end - second) * sizeof(*c->events));
		ahead -= copies * seam->length;
		write_copies(c, seam, c->events + second - seam->length, c->events + second + ahead);
		repeat->list[repeat->list_count + s] = (struct est_copies){ repeat->begin + second + ahead, seam->length, copies };
		end = second;
	}
	repeat->list_count += c->seam_count;
	c->tape->event_count += copies * c->slot_count;
	c->tape->storage_count += units_named(c) * c->kept + c->locals;
}

static bool have_room(const struct est_copying *c)
{
	const struct est_tape *tape = c->tape;
	const uint64_t copies = (uint64_t)c->repeat->copies;

	return tape->event_count + copies * c->slot_count <= tape->event_limit
	       && tape->storage_count + units_named(c) * c->kept + c->locals <= tape->storage_limit
	       && c->repeat->list_count + c->seam_count <= EST_COPIES_MAX;
}

static bool copy(struct est_copying *c, struct est_repeat *repeat)
{
	if (!est_repeat_find(c))
		return false;
	for (unsigned s = 0; s < c->seam_count; s++)
		number_seam(c, &c->seams[s]);
	if (!have_room(c) || !give_gradients(c) || !is_whole(c))
		return false;
	put_copies(c, repeat);
	return true;
}

size_t est_repeat_arena_size(const struct est_tape_limits *limits)
{
	size_t of_event = sizeof(uint32_t) + sizeof(uint8_t), of_slot = sizeof(struct est_slot) + sizeof(uint32_t);
	size_t of_layer = sizeof(uint64_t) + sizeof(uint32_t);

	return limits->events * of_event + limits->events / 2 * of_slot + limits->storages * sizeof(uint32_t) + limits->frames * of_layer;
}

bool est_repeat_copy(struct est_tape *tape)
{
	struct est_repeat *repeat = tape->repeat;
	struct est_copying copying = { .tape = tape, .repeat = repeat, .events = tape->events + repeat->begin,
				   .count = (uint32_t)(tape->event_count - repeat->begin) };
	size_t mark = tape->arena->used;
	bool copied = copy(&copying, repeat);

	est_arena_rewind(tape->arena, mark);
	return copied;
}
