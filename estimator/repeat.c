/* Which layers are alike, and which of them are run. */
#include "estimator/repeat.h"

#include <string.h>
#include "estimator/compile.h"
#include "estimator/unsloth.h"

enum { UNITS_RUN = 4, PERIOD_MAX = 8 };

/* ---- which layers are alike */

/* Sharded layers gather and reduce ahead of their turn, DDP looks when each gradient arrives, as steps do that are fused into the
 * backward, compiled layers are planned as a whole, and a table of embeddings for each layer is one for all. */
static bool may_leave_out(const struct est_pass *pass)
{
	const struct est_request *request = pass->request;
	const struct est_tape *tape = pass->tape;

	return request->parallelism.gpus <= 1 && !pass->schedule && !pass->zero && !pass->ddp && !tape->accumulated && !tape->hooks.begin
	       && !tape->marks_layers && !est_compiles_layers(request) && !est_compiles_model(request)
	       && !pass->model->hidden_size_per_layer_input;
}

static uint64_t mix(uint64_t hash, uint64_t value)
{
	hash = (hash ^ value) * UINT64_C(0x9e3779b97f4a7c15);
	return hash ^ hash >> 32;
}

/* Of what a layer is besides its parameters. */
static uint64_t kind_of(const struct est_pass *pass, int64_t i)
{
	const struct est_layer *layer = &pass->layers[i];

	return (uint64_t)layer->kind << 8 | (uint64_t)layer->sliding << 0 | (uint64_t)layer->sparse << 1
	       | (uint64_t)layer->rotated << 2 | (uint64_t)layer->indexed << 3 | (uint64_t)est_is_checkpointed(pass, i) << 4
	       | (uint64_t)est_unsloth_offloads(pass, i) << 5;
}

/* begins: the leaf before is of another layer. */
static uint64_t kind_of_leaf(const struct est_leaf *leaf, bool begins)
{
	return leaf->value.numel << 16 | (uint64_t)leaf->value.element << 8 | (uint64_t)leaf->value.requires_grad << 0
	       | (uint64_t)leaf->parameter << 1 | (uint64_t)leaf->of_4bit << 2 | (uint64_t)leaf->idle << 3
	       | (uint64_t)leaf->reference << 4 | (uint64_t)begins << 5;
}

/* One number for each layer, the same for those that are made of the same. NULL when there is no room for them. */
static const uint64_t *describe_layers(const struct est_pass *pass, int64_t count)
{
	const struct est_tape *tape = pass->tape;
	uint64_t *kinds = est_arena_take(tape->arena, (size_t)count, sizeof(*kinds));

	if (!kinds)
		return NULL;
	for (int64_t i = 0; i < count; i++)
		kinds[i] = mix(0, kind_of(pass, i));
	for (uint32_t i = 0; i < tape->leaf_count; i++) {
		const struct est_leaf *leaf = &tape->leaves[i];
		uint64_t *kind;

		if (leaf->unit < est_unit_of_layer(0) || leaf->unit >= est_unit_of_layer(count))
			continue;
		kind = &kinds[leaf->unit - est_unit_of_layer(0)];
		*kind = mix(*kind, kind_of_leaf(leaf, i == 0 || leaf[-1].unit != leaf->unit));
	}
	return kinds;
}

/* The longest row of layers each of which is like the one a period before. */
static void find_row(struct est_repeat *repeat, const uint64_t *kinds, int64_t count, int64_t period)
{
	int64_t first = 0;

	for (int64_t i = period; i <= count; i++) {
		int64_t copies = (i - first) / period - UNITS_RUN;

		if (i < count && kinds[i] == kinds[i - period])
			continue;
		if (copies > 1 && copies * period > repeat->copies * repeat->period) {
			repeat->first = first;
			repeat->period = period;
			repeat->copies = copies;
		}
		first = i - period + 1;
	}
}

void est_repeat_plan(struct est_repeat *repeat, const struct est_pass *pass)
{
	int64_t count = pass->model->num_hidden_layers;
	const uint64_t *kinds;

	if (!may_leave_out(pass) || !(kinds = describe_layers(pass, count)))
		return;
	for (int64_t period = 1; period <= PERIOD_MAX; period++)
		find_row(repeat, kinds, count, period);
	if (repeat->copies)
		pass->tape->repeat = repeat;
}

/* ---- the run */

int64_t est_repeat_next(struct est_tape *tape, int64_t layer)
{
	struct est_repeat *repeat = tape->repeat;
	int64_t next = layer + 1;

	if (!repeat)
		return next;
	if (next == repeat->first + repeat->period)
		repeat->pinned = tape->pinned;
	if (next != repeat->first + 2 * repeat->period)
		return next;
	tape->pinned += (uint64_t)repeat->copies * (tape->pinned - repeat->pinned);
	repeat->leaps = true;
	return next + repeat->copies * repeat->period;
}

static enum est_repeat_unit unit_of(const struct est_repeat *repeat, int64_t layer)
{
	int64_t unit = layer < repeat->first ? -1 : (layer - repeat->first) / repeat->period;

	if (unit >= UNITS_RUN / 2)
		unit -= repeat->copies;
	return unit >= 0 && unit < UNITS_RUN ? (enum est_repeat_unit)(EST_UNIT_FIRST + unit) : EST_UNIT_NONE;
}

void est_repeat_enter(struct est_tape *tape, unsigned layer)
{
	struct est_repeat *repeat = tape->repeat;
	struct est_repeat_mark *last;
	enum est_repeat_unit unit;

	if (!repeat || !repeat->mark_count)
		return;
	unit = unit_of(repeat, (int64_t)layer - 1);
	last = &repeat->marks[repeat->mark_count - 1];
	if (last->unit == unit)
		return;
	if (repeat->mark_count == EST_REPEAT_MARKS)
		repeat->failed = true;
	else
		repeat->marks[repeat->mark_count++] = (struct est_repeat_mark){ tape->event_count, unit };
}

void est_repeat_begin(struct est_tape *tape)
{
	struct est_repeat *repeat = tape->repeat;

	if (!repeat)
		return;
	repeat->leaps = false;
	repeat->begin = tape->event_count;
	repeat->marks[0] = (struct est_repeat_mark){ tape->event_count, EST_UNIT_NONE };
	repeat->mark_count = 1;
}

void est_repeat_end(struct est_tape *tape)
{
	struct est_repeat *repeat = tape->repeat;

	if (!repeat)
		return;
	if (repeat->leaps && !repeat->failed && !tape->exhausted)
		repeat->failed = !est_repeat_copy(tape);
	repeat->mark_count = 0;
}
