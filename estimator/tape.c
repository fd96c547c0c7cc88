#include <assert.h>
#include <string.h>
#include "estimator/repeat.h"

#define DISCARDED UINT32_MAX      /* a position of a frame that nobody will ask for, held until est_discard_nodes() */
#define PASSED (UINT32_MAX - 1)   /* the same, not held */
#define KEPT UINT32_MAX           /* for next, which links what is free only */

enum { ALIGNMENT = 512 }; /* the caching allocator's rounding */

const struct est_tensor est_none = { 0 };

bool est_tape_init(struct est_tape *tape, struct est_arena *arena, const struct est_tape_limits *limits)
{
	memset(tape, 0, sizeof(*tape));
	tape->arena = arena;
	tape->event_limit = limits->events;
	tape->storage_limit = limits->storages;
	tape->node_limit = limits->nodes;
	tape->leaf_limit = limits->leaves;
	tape->frame_limit = limits->frames;
	tape->frame_save_limit = limits->frame_saves;
	tape->attribute_limit = limits->attributes;
	tape->attributes = est_arena_reserve(arena, limits->attributes, sizeof(*tape->attributes));
	tape->events = est_arena_reserve(arena, limits->events, sizeof(*tape->events));
	tape->storages = est_arena_reserve(arena, limits->storages, sizeof(*tape->storages));
	tape->nodes = est_arena_reserve(arena, limits->nodes, sizeof(*tape->nodes));
	tape->leaves = est_arena_reserve(arena, limits->leaves, sizeof(*tape->leaves));
	tape->frames = est_arena_reserve(arena, limits->frames, sizeof(*tape->frames));
	tape->frame_saves = est_arena_reserve(arena, limits->frame_saves, sizeof(*tape->frame_saves));
	tape->storage_count = 1; /* 0 is "no storage" */
	tape->category = EST_ACTIVATIONS;
	for (unsigned i = 0; i < EST_CATEGORIES; i++)
		tape->shards[i] = 1;
	return !arena->exhausted;
}

static void record(struct est_tape *tape, enum est_event_kind kind, uint32_t id, uint64_t bytes,
		   enum est_category category)
{
	struct est_event *event;

	if (tape->event_count == tape->event_limit) {
		tape->exhausted = true;
		return;
	}
	event = &tape->events[tape->event_count++];
	event->kind = (uint8_t)kind;
	event->id = id;
	event->bytes = bytes;
	event->category = (uint8_t)category;
	event->stream = tape->stream;
}

static uint32_t unused_id(struct est_tape *tape)
{
	if (tape->storage_count < tape->storage_limit)
		return tape->storage_count++;
	tape->exhausted = true;
	return 0;
}

static uint32_t recycled_id(struct est_tape *tape)
{
	uint32_t id = tape->storage_free;

	if (!id)
		return unused_id(tape);
	tape->storage_free = tape->storages[id].next;
	return id;
}

static uint32_t storage_new(struct est_tape *tape, uint64_t bytes, enum est_category category, bool persistent)
{
	uint32_t id;

	if (bytes == 0)
		return 0;
	id = persistent ? unused_id(tape) : recycled_id(tape);
	if (!id)
		return 0;
	bytes = (bytes + tape->shards[category] - 1) / tape->shards[category];
	bytes = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
	tape->storages[id].bytes = bytes;
	tape->storages[id].references = 1;
	tape->storages[id].next = 0;
	tape->storages[id].category = category;
	record(tape, EST_EVENT_ALLOC, id, bytes, category);
	return id;
}

void est_storage_free(struct est_tape *tape, uint32_t storage)
{
	struct est_storage *s = &tape->storages[storage];

	record(tape, EST_EVENT_FREE, storage, s->bytes, s->category);
	s->next = tape->storage_free;
	tape->storage_free = storage;
}

void est_tape_empty_cache(struct est_tape *tape)
{
	struct est_event *end = tape->events + tape->event_count, *kept = end;

	for (struct est_event *event = end; event-- > tape->events;) {
		struct est_storage *s = &tape->storages[event->id];

		if (event->kind == EST_EVENT_PHASE) {
			*--kept = *event;
		} else if (event->kind == EST_EVENT_ALLOC && s->references > 0 && s->next != KEPT) {
			s->next = KEPT;
			*--kept = *event;
		}
	}
	tape->event_count = (size_t)(end - kept);
	memmove(tape->events, kept, tape->event_count * sizeof(*kept));
}

struct est_tensor est_empty_as(struct est_tape *tape, uint64_t numel, uint8_t element, enum est_category category)
{
	struct est_tensor tensor = { .numel = numel, .element = element, .temporary = true };

	if (!tape->stopped)
		tensor.storage = storage_new(tape, numel * est_element_bytes(element), category, false);
	return tensor;
}

struct est_tensor est_empty_on(struct est_tape *tape, unsigned stream, uint64_t numel, uint8_t element,
			       enum est_category category)
{
	const uint8_t current = tape->stream;
	struct est_tensor tensor;

	tape->stream = (uint8_t)stream;
	tensor = est_empty_as(tape, numel, element, category);
	tape->stream = current;
	return tensor;
}

struct est_tensor est_persistent(struct est_tape *tape, uint64_t numel, uint8_t element, enum est_category category)
{
	return (struct est_tensor){ .numel = numel, .element = element,
				    .storage = storage_new(tape, numel * est_element_bytes(element), category, true) };
}

struct est_tensor est_empty(struct est_tape *tape, uint64_t numel, uint8_t element)
{
	return est_empty_as(tape, numel, element, tape->category);
}

/* ---- graph */

static bool any_requires_grad(size_t count, const struct est_tensor *inputs)
{
	for (size_t i = 0; i < count; i++)
		if (inputs[i].requires_grad)
			return true;
	return false;
}

static void connect(struct est_tape *tape, struct est_node *node, size_t count, const struct est_tensor *inputs)
{
	for (size_t i = 0; i < count; i++) {
		if (!inputs[i].requires_grad)
			continue;
		node->edge[i] = inputs[i].source;
		node->edge_element[i] = inputs[i].element;
		node->edge_numel[i] = inputs[i].numel;
		if (inputs[i].source & EST_EDGE_LEAF)
			tape->leaves[inputs[i].source & ~EST_EDGE_LEAF].uses++;
	}
}

struct est_node *est_node_new(struct est_tape *tape, const struct est_op *op, size_t count,
			      const struct est_tensor *inputs)
{
	struct est_node *node = &tape->scratch;

	assert(count <= EST_NODE_INPUTS);
	if (tape->no_grad || !any_requires_grad(count, inputs))
		return NULL;
	if (!tape->recomputing && tape->node_count == tape->node_limit)
		tape->exhausted = true;
	else if (!tape->recomputing)
		node = &tape->nodes[tape->node_count++];
	memset(node, 0, sizeof(*node));
	node->op = op;
	node->frame = tape->packing;
	node->distributed = tape->distributed;
	node->layer = tape->layer;
	if (node != &tape->scratch)
		connect(tape, node, count, inputs);
	return node;
}

/* The checkpoint's hook detaches what requires a gradient: of a gathered parameter that keeps what it is now. A frozen one is kept
 * itself, and is let go of when ZeRO-3 partitions it. */
static uint32_t detached(struct est_tape *tape, struct est_tensor tensor)
{
	const struct est_leaf *leaf = tape->zero3 && tensor.requires_grad ? est_parameter_of(tape, tensor) : NULL;

	return leaf && leaf->unsharded ? leaf->unsharded : tensor.storage;
}

static void save_for_recomputation(struct est_tape *tape, struct est_tensor tensor)
{
	struct est_frame *frame = &tape->frames[tape->recomputing - 1];
	uint32_t storage = detached(tape, tensor);

	if (tape->stopped)
		return;
	if (tape->states && tape->states->makes && frame->saved[tape->recomputed_saves] != DISCARDED)
		est_share_graph(tape, &tape->states->next, storage);
	if (frame->saved[tape->recomputed_saves] == PASSED)
		storage = 0;
	else if (frame->saved[tape->recomputed_saves] != DISCARDED)
		frame->saved[tape->recomputed_saves] = storage;
	else if (tape->doomed_count < EST_DOOMED)
		tape->doomed[tape->doomed_count++] = storage;
	else
		tape->exhausted = true;
	est_storage_retain(tape, storage);
	tape->recomputed_saves++;
	/* torch.utils.checkpoint's early stop: nothing after the last saved tensor runs */
	if (tape->recomputed_saves == frame->count)
		tape->stopped = true;
}

static void save_by_position(struct est_tape *tape, struct est_node *node)
{
	struct est_frame *frame = &tape->frames[tape->packing - 1];

	if (tape->frame_save_count == tape->frame_save_limit) {
		tape->exhausted = true;
		return;
	}
	tape->frame_save_count++;
	frame->saved[frame->count] = 0;
	node->saved[node->saved_count++] = frame->count++;
}

void est_save(struct est_tape *tape, struct est_node *node, struct est_tensor tensor)
{
	if (!node)
		return;
	if (tape->recomputing) {
		save_for_recomputation(tape, tensor);
		return;
	}
	assert(node->saved_count < EST_NODE_SAVED);
	if (node->frame) {
		save_by_position(tape, node);
	} else {
		est_storage_retain(tape, tensor.storage);
		node->saved[node->saved_count++] = tensor.storage;
	}
}

void est_attach(struct est_tape *tape, const struct est_node *node, struct est_tensor tensor)
{
	if (!node || tape->stopped || !tensor.storage)
		return;
	if (tape->attribute_count == tape->attribute_limit) {
		tape->exhausted = true;
		return;
	}
	if (tape->states && tape->states->makes)
		est_share_graph(tape, &tape->states->next, tensor.storage);
	est_storage_retain(tape, tensor.storage);
	tape->attributes[tape->attribute_count++] = tensor.storage;
}

void est_release_attributes(struct est_tape *tape, uint32_t count)
{
	while (tape->attribute_count > count)
		est_storage_release(tape, tape->attributes[--tape->attribute_count]);
}

void est_release_attributes_of(struct est_tape *tape, uint32_t first, uint32_t end)
{
	for (uint32_t i = end; i-- > first;) {
		est_storage_release(tape, tape->attributes[i]);
		tape->attributes[i] = 0;
	}
}

/* Autocast's cached cast of a parameter outlives the product that made it. */
static bool is_cached_cast(const struct est_tape *tape, const struct est_node *node)
{
	const struct est_tensor *cast;

	if (!(node->edge[0] & EST_EDGE_LEAF))
		return false;
	cast = &tape->leaves[node->edge[0] & ~EST_EDGE_LEAF].cast;
	return cast->numel && cast->source == est_edge_of((uint32_t)(node - tape->nodes), 0);
}

static void discard(struct est_tape *tape, struct est_node *node)
{
	if (is_cached_cast(tape, node))
		return;
	for (unsigned i = 0; i < EST_NODE_INPUTS; i++)
		if (node->edge[i] & EST_EDGE_LEAF)
			tape->leaves[node->edge[i] & ~EST_EDGE_LEAF].uses--;
	for (unsigned i = 0; i < node->saved_count; i++) {
		if (node->frame)
			tape->frames[node->frame - 1].saved[node->saved[i]] = DISCARDED;
		else
			est_storage_release(tape, node->saved[i]);
	}
	if (node->frame)
		tape->frames[node->frame - 1].released += node->saved_count;
	node->saved_count = 0;
}

void est_pass_over(struct est_tape *tape, struct est_node *node)
{
	struct est_frame *frame = node->frame ? &tape->frames[node->frame - 1] : NULL;

	for (unsigned i = 0; i < node->saved_count; i++) {
		if (!frame || frame->recomputed)
			est_storage_release(tape, frame ? frame->saved[node->saved[i]] : node->saved[i]);
		else
			frame->saved[node->saved[i]] = PASSED;
	}
	if (frame)
		est_frame_release(tape, node->frame, node->saved_count);
	node->saved_count = 0;
}

void est_discard_nodes(struct est_tape *tape, uint32_t first, uint32_t end)
{
	for (uint32_t i = first; i < end; i++)
		discard(tape, &tape->nodes[i]);
	while (tape->doomed_count > 0)
		est_storage_release(tape, tape->doomed[--tape->doomed_count]);
}

static bool edge_is_parameter(const struct est_tape *tape, uint32_t edge)
{
	return (edge & EST_EDGE_LEAF) && tape->leaves[edge & ~EST_EDGE_LEAF].parameter;
}

struct est_tensor est_grad_for(struct est_tape *tape, const struct est_node *node, unsigned i, uint8_t element)
{
	return est_empty_as(tape, node->edge_numel[i], element,
			    edge_is_parameter(tape, node->edge[i]) ? EST_GRADIENTS : EST_ACTIVATIONS);
}

uint32_t est_leaf_new(struct est_tape *tape, struct est_tensor value, bool requires_grad, bool parameter)
{
	struct est_leaf *leaf;

	if (tape->leaf_count == tape->leaf_limit) {
		tape->exhausted = true;
		return 0;
	}
	leaf = &tape->leaves[tape->leaf_count];
	memset(leaf, 0, sizeof(*leaf));
	leaf->value = est_hold(value);
	leaf->value.requires_grad = requires_grad;
	leaf->parameter = parameter;
	leaf->unit = tape->unit;
	leaf->module = tape->module;
	leaf->value.source = EST_EDGE_LEAF | tape->leaf_count;
	return tape->leaf_count++;
}

struct est_leaf *est_parameter_of(struct est_tape *tape, struct est_tensor tensor)
{
	return tensor.source & EST_EDGE_LEAF ? &tape->leaves[tensor.source & ~EST_EDGE_LEAF] : NULL;
}

struct est_tensor est_view_of_parameter(struct est_tape *tape, struct est_tensor parameter)
{
	const struct est_leaf *leaf = tape->zero3 ? est_parameter_of(tape, parameter) : NULL;

	if (leaf && leaf->unsharded)
		parameter.storage = leaf->unsharded;
	return parameter;
}

/* ---- modules */

uint32_t est_modules_new(struct est_tape *tape, uint32_t count)
{
	tape->module = tape->modules + 1;
	tape->modules += count;
	return tape->module;
}

void est_module_begin(struct est_tape *tape, uint32_t module)
{
	if (tape->hooks.begin && !tape->stopped)
		tape->hooks.begin(tape->hooks.context, module);
}

struct est_tensor est_module_enter(struct est_tape *tape, uint32_t module, struct est_tensor x)
{
	return tape->hooks.begin && !tape->stopped ? tape->hooks.enter(tape->hooks.context, module, x) : x;
}

struct est_tensor est_module_leave(struct est_tape *tape, uint32_t module, struct est_tensor y)
{
	return tape->hooks.begin && !tape->stopped ? tape->hooks.leave(tape->hooks.context, module, y) : y;
}

/* ---- */

void est_mark(struct est_tape *tape, enum est_phase phase)
{
	record(tape, EST_EVENT_PHASE, (uint32_t)phase, 0, EST_ACTIVATIONS);
	tape->phase = phase;
	tape->layer = 0;
	est_repeat_enter(tape, 0);
}

void est_mark_layer(struct est_tape *tape, unsigned layer)
{
	if (tape->layer == layer)
		return;
	tape->layer = (uint16_t)layer;
	est_repeat_enter(tape, layer);
	if (tape->marks_layers)
		record(tape, EST_EVENT_PHASE, (uint32_t)tape->phase, layer, EST_ACTIVATIONS);
}

void est_keep_cast(struct est_tape *tape, struct est_leaf *leaf, struct est_tensor cast)
{
	uint32_t number = (uint32_t)(leaf - tape->leaves);

	leaf->cast = est_hold(cast);
	if (tape->cast_begin == tape->cast_end || number < tape->cast_begin)
		tape->cast_begin = number;
	if (number >= tape->cast_end)
		tape->cast_end = number + 1;
}

void est_autocast_exit(struct est_tape *tape)
{
	tape->autocast = false;
	for (uint32_t i = tape->cast_begin; i < tape->cast_end; i++) {
		est_drop(tape, tape->leaves[i].cast);
		tape->leaves[i].cast = est_none;
	}
	tape->cast_begin = tape->cast_end = 0;
}
