#include "estimator/mlx_eval.h"

#include <string.h>

enum { WIDTH = 20 }; /* MLX_BFS_MAX_WIDTH */

const struct est_mlx_device est_mlx_metal = { 40, 40, 10, 16384 };
const struct est_mlx_device est_mlx_metal_large = { 50, 50, 10, 16384 };
const struct est_mlx_device est_mlx_metal_idle = { 0, 1, 0, 16384 };
const struct est_mlx_device est_mlx_cpu = { 10, 0, 10, 1 };
const struct est_mlx_device est_mlx_cpu_idle = { 1, 0, 0, 1 };

/* ---- the order */

struct order {
	struct est_mlx_graph *graph;
	uint32_t *degree;                    /* by first output: how often it is read */
	uint32_t *tape, length;
	uint32_t *stack, depth;              /* arrays whose inputs did not fit in the width, and at which they go on */
	uint16_t *next;
	uint32_t met;                        /* primitives that are not on the tape yet */
};

static bool has_primitive(const struct est_mlx_graph *graph, uint32_t array)
{
	return est_mlx_at(graph, array)->op > EST_MLX_SCALAR;
}

static void meet(struct order *order, uint32_t input)
{
	uint32_t first = est_mlx_first(order->graph, input);

	if (!has_primitive(order->graph, input))
		return;
	if (order->degree[first]++ == 0) {
		order->stack[order->depth] = first;
		order->next[order->depth++] = 0;
		order->met++;
	}
}

/* How often each primitive is read, counted depth first from array 0 on, which stands for eval's own and has the outputs as inputs. */
static void count_degrees(struct order *order)
{
	order->depth = 1;
	order->stack[0] = 0;
	order->next[0] = 0;
	while (order->depth > 0) {
		uint32_t array = order->stack[order->depth - 1];
		uint16_t *slot = &order->next[order->depth - 1];

		if (*slot == est_mlx_at(order->graph, array)->input_count)
			order->depth--;
		else
			meet(order, est_mlx_input(order->graph, array, (*slot)++));
	}
}

/* Puts the inputs of an array on the tape that nothing else is left to read, from slot on, while the tape is not too wide: then the
 * rest waits. */
static void widen(struct order *order, uint32_t array, unsigned slot, uint32_t at)
{
	const struct est_mlx_graph *graph = order->graph;

	for (; slot < est_mlx_at(graph, array)->input_count; slot++) {
		uint32_t input = est_mlx_input(graph, array, slot), first = est_mlx_first(graph, input);

		if (!has_primitive(graph, input))
			continue;
		if (order->length - at >= WIDTH) {
			order->stack[order->depth] = array;
			order->next[order->depth++] = (uint16_t)slot;
			return;
		}
		if (--order->degree[first] > 0)
			continue;
		order->met--;
		order->tape[order->length++] = first;
	}
}

/* By width first; the tape is run from its end. */
static void lay_tape(struct order *order)
{
	uint32_t at = 0;

	order->depth = 0;
	order->tape[0] = 0;
	order->length = 1;
	while (order->met > 0 && (at < order->length || order->depth > 0)) {
		if (at < order->length) {
			uint32_t array = order->tape[at++];

			widen(order, array, 0, at);
		} else {
			order->depth--;
			widen(order, order->stack[order->depth], order->next[order->depth], at);
		}
	}
}

static bool make_order(struct order *order, struct est_mlx_graph *graph, const uint32_t *outputs, unsigned count)
{
	struct est_arena *arena = graph->arena;

	*order = (struct order){ .graph = graph };
	if (graph->input_count + count > graph->input_limit)
		return false;
	graph->arrays[0].inputs = graph->input_count;
	graph->arrays[0].input_count = (uint16_t)count;
	memcpy(graph->inputs + graph->input_count, outputs, count * sizeof(*outputs));
	order->degree = est_arena_take(arena, graph->count, sizeof(uint32_t));
	order->tape = est_arena_reserve(arena, graph->count, sizeof(uint32_t));
	order->stack = est_arena_reserve(arena, graph->count, sizeof(uint32_t));
	order->next = est_arena_reserve(arena, graph->count, sizeof(uint16_t));
	if (!order->degree || !order->tape || !order->stack || !order->next)
		return false;
	count_degrees(order);
	lay_tape(order);
	return order->met == 0;
}

/* ---- lifetimes */

/* A buffer that a command buffer holds. */
struct held {
	uint32_t buffer, command_buffer;
};

struct queue {
	struct est_mlx_run run;
	struct held *held;
	uint32_t first, end, limit;          /* a ring */
	uint32_t command_buffer, completed;  /* the open one; how many have run */
	uint32_t kernels;                    /* of the open one */
	uint64_t elements;
};

uint32_t est_mlx_allocate(struct est_mlx_run *run, uint64_t bytes, enum est_category category)
{
	uint32_t buffer = run->free_buffer ? run->free_buffer - 1 : run->buffer_count;
	uint64_t page = run->device->page;

	if (buffer == run->buffer_limit) {
		run->graph->exhausted = true;
		return 0;
	}
	if (run->free_buffer)
		run->free_buffer = run->buffers[buffer].next;
	else
		run->buffer_count++;
	if (bytes > page)
		bytes = (bytes + page - 1) / page * page;
	run->buffers[buffer] = (struct est_mlx_buffer){ .bytes = bytes, .counted = UINT32_MAX };
	run->sink->alloc(run->sink->context, buffer, bytes, category, (enum est_phase)est_mlx_at(run->graph, run->array)->phase);
	return buffer;
}

static void release(struct est_mlx_run *run, uint32_t buffer)
{
	struct est_mlx_buffer *at = &run->buffers[buffer];

	if (--at->references > 0)
		return;
	run->sink->free(run->sink->context, buffer);
	at->next = run->free_buffer;
	run->free_buffer = buffer + 1;
}

static void hold(struct queue *queue, uint32_t buffer, uint32_t command_buffer)
{
	struct held *last = &queue->held[queue->end % queue->limit];

	if (queue->end - queue->first == queue->limit) {
		queue->run.graph->exhausted = true;
		return;
	}
	*last = (struct held){ buffer, command_buffer };
	queue->end++;
	queue->run.buffers[buffer].references++;
}

static void complete(struct queue *queue, uint32_t completed)
{
	queue->completed = completed;
	for (; queue->first < queue->end && queue->held[queue->first % queue->limit].command_buffer < completed; queue->first++)
		release(&queue->run, queue->held[queue->first % queue->limit].buffer);
}

static void count_elements(struct queue *queue, uint32_t array)
{
	const struct est_mlx_place *place = &queue->run.places[array];
	struct est_mlx_buffer *buffer = &queue->run.buffers[place->buffer - 1];

	if (buffer->counted == queue->command_buffer)
		return;
	buffer->counted = queue->command_buffer;
	queue->elements += place->span;
}

/* What the primitive reads, and the outputs of it that nothing may want, are held; not what became its output. */
static void hold_operands(struct queue *queue, uint32_t first)
{
	const struct est_mlx_graph *graph = queue->run.graph;
	const struct est_mlx_array *at = est_mlx_at(graph, first);
	uint32_t own = queue->run.places[first].buffer;

	for (unsigned i = 0; i < at->input_count; i++) {
		uint32_t buffer = queue->run.places[est_mlx_input(graph, first, i)].buffer;

		if (buffer && buffer != own)
			hold(queue, buffer - 1, queue->command_buffer);
	}
	for (uint32_t i = 1; i < at->outputs; i++)
		hold(queue, queue->run.places[first + i].buffer - 1, queue->command_buffer);
	for (unsigned i = 0; i < queue->run.temporary_count; i++)
		hold(queue, queue->run.temporaries[i], queue->command_buffer);
}

/* CPU: each kernel and what holds its operands is a dispatch, and so many are a task. */
static void dispatch_on_cpu(struct queue *queue, uint32_t first)
{
	for (unsigned i = 0; i < queue->run.kernels; i++)
		if (++queue->kernels % queue->run.device->kernels == 0)
			queue->command_buffer++;
	hold_operands(queue, first);
	if (++queue->kernels % queue->run.device->kernels == 0)
		queue->command_buffer++;
}

static void dispatch_on_gpu(struct queue *queue, uint32_t first)
{
	const struct est_mlx_graph *graph = queue->run.graph;
	const struct est_mlx_array *at = est_mlx_at(graph, first);

	hold_operands(queue, first);
	if (queue->run.kernels > 0) {
		for (unsigned i = 0; i < at->input_count; i++)
			if (queue->run.places[est_mlx_input(graph, first, i)].buffer)
				count_elements(queue, est_mlx_input(graph, first, i));
		for (uint32_t i = 0; i < at->outputs; i++)
			count_elements(queue, first + i);
	}
	queue->kernels += queue->run.kernels;
	if (queue->kernels > queue->run.device->kernels || queue->elements >> 20 > queue->run.device->mega_elements) {
		queue->command_buffer++;
		queue->kernels = 0;
		queue->elements = 0;
	}
}

static void drop(struct est_mlx_run *run, uint32_t array, uint32_t references)
{
	struct est_mlx_place *place = &run->places[array];

	place->references -= references;
	if (place->references == 0 && place->buffer) {
		release(run, place->buffer - 1);
		place->buffer = 0;
	}
}

static void evaluate(struct queue *queue, uint32_t first)
{
	struct est_mlx_run *run = &queue->run;
	const struct est_mlx_array *at = est_mlx_at(run->graph, first);

	run->array = first;
	run->kernels = run->temporary_count = 0;
	est_mlx_place(run);
	if (run->graph->exhausted)
		return;
	if (run->device->mega_elements)
		dispatch_on_gpu(queue, first);
	else
		dispatch_on_cpu(queue, first);
	if (queue->command_buffer - queue->completed > run->device->in_flight)
		complete(queue, run->device->in_flight ? queue->completed + 1 : queue->command_buffer);
	for (unsigned i = 0; i < at->input_count; i++)
		drop(run, est_mlx_input(run->graph, first, i), at->outputs);
	for (uint32_t i = 0; i < at->outputs; i++)
		drop(run, first + i, 0);
}

/* An array is held by every output of the primitives that read it, by Python where that keeps it. */
static void count_references(struct est_mlx_run *run, const struct order *order)
{
	const struct est_mlx_graph *graph = run->graph;

	for (uint32_t t = 0; t < order->length; t++) {
		const struct est_mlx_array *at = est_mlx_at(graph, order->tape[t]);

		for (unsigned i = 0; i < at->input_count; i++)
			run->places[est_mlx_input(graph, order->tape[t], i)].references += t ? at->outputs : 1;
	}
	for (uint32_t i = 1; i < graph->count; i++)
		run->places[i].references += graph->arrays[i].tied;
}

static void place_leaves(struct est_mlx_run *run)
{
	const struct est_mlx_graph *graph = run->graph;

	for (uint32_t i = 1; i < graph->count; i++) {
		const struct est_mlx_array *at = est_mlx_at(graph, i);

		if (at->op != EST_MLX_LEAF || !run->places[i].references)
			continue;
		run->array = i;
		est_mlx_lay_rows(&at->shape, &run->places[i]);
		run->places[i].buffer = 1 + est_mlx_allocate(run, run->places[i].span * est_mlx_type_bytes(at->type),
							     (enum est_category)at->category);
		run->buffers[run->places[i].buffer - 1].references = 1;
	}
}

static bool make_queue(struct queue *queue, struct est_mlx_graph *graph, const struct est_mlx_device *device, const struct est_mlx_sink *sink)
{
	struct est_arena *arena = graph->arena;

	*queue = (struct queue){ .run = { .graph = graph, .device = device, .sink = sink,
					   .buffer_limit = graph->limit },
				  .limit = graph->input_count + EST_MLX_TEMPORARIES * graph->count };
	queue->run.places = est_arena_take(arena, graph->count, sizeof(*queue->run.places));
	queue->run.buffers = est_arena_reserve(arena, queue->run.buffer_limit, sizeof(*queue->run.buffers));
	queue->held = est_arena_reserve(arena, queue->limit, sizeof(*queue->held));
	return queue->run.places && queue->run.buffers && queue->held;
}

bool est_mlx_eval(struct est_mlx_graph *graph, const uint32_t *outputs, unsigned count, const struct est_mlx_device *device,
		  const struct est_mlx_sink *sink)
{
	size_t mark = graph->arena->used;
	struct order order;
	struct queue queue;
	bool whole = make_order(&order, graph, outputs, count) && make_queue(&queue, graph, device, sink);

	if (whole) {
		count_references(&queue.run, &order);
		place_leaves(&queue.run);
		if (sink->begin)
			sink->begin(sink->context);
		for (uint32_t i = order.length; i-- > 1 && !graph->exhausted;)
			evaluate(&queue, order.tape[i]);
		complete(&queue, UINT32_MAX);
	}
	est_arena_rewind(graph->arena, mark);
	return whole && !graph->exhausted;
}
