/* compile_dfs() and compile_simplify() (mlx/compile.cpp): the tape of a graph, and equal parts of it merged. */
#include "estimator/mlx_compile.h"

#include <string.h>

enum { PASSES = 3 };

/* ---- who reads what */

static uint32_t edge_of(const struct est_mlx_compile *compile, uint32_t reader, unsigned slot)
{
	return est_mlx_at(compile->graph, reader)->inputs + slot;
}

/* Behind the others of array's list. */
static void append(struct est_mlx_compile *compile, uint32_t array, uint32_t edge)
{
	compile->edges[edge].next = 0;
	compile->edges[edge].before = compile->last[array];
	if (compile->last[array])
		compile->edges[compile->last[array]].next = edge;
	else
		compile->readers[array] = edge;
	compile->last[array] = edge;
	compile->listed[array] = true;
}

void est_mlx_add_reader(struct est_mlx_compile *compile, uint32_t array, uint32_t reader, unsigned slot)
{
	uint32_t edge = edge_of(compile, reader, slot);

	compile->edges[edge].reader = reader;
	est_mlx_set_input(compile->graph, reader, slot, array);
	append(compile, array, edge);
}

void est_mlx_drop_reader(struct est_mlx_compile *compile, uint32_t reader, unsigned slot)
{
	uint32_t edge = edge_of(compile, reader, slot), array = est_mlx_input(compile->graph, reader, slot);
	const struct est_mlx_edge *at = &compile->edges[edge];

	if (!at->before && compile->readers[array] != edge)
		return; /* it has left before */
	if (at->before)
		compile->edges[at->before].next = at->next;
	else
		compile->readers[array] = at->next;
	if (at->next)
		compile->edges[at->next].before = at->before;
	else
		compile->last[array] = at->before;
	compile->edges[edge].next = compile->edges[edge].before = 0;
}

void est_mlx_move_reader(struct est_mlx_compile *compile, uint32_t array, uint32_t reader, unsigned slot)
{
	est_mlx_drop_reader(compile, reader, slot);
	est_mlx_add_reader(compile, array, reader, slot);
}

/* The primitive reads nothing any more. */
static void drop_primitive(struct est_mlx_compile *compile, uint32_t reader)
{
	for (unsigned i = 0; i < est_mlx_at(compile->graph, reader)->input_count; i++)
		est_mlx_drop_reader(compile, reader, i);
}

void est_mlx_merge(struct est_mlx_compile *compile, uint32_t target, uint32_t source)
{
	uint32_t edge = compile->readers[source];

	if (!compile->listed[source])
		return;
	compile->listed[target] = true;
	while (edge) {
		uint32_t next = compile->edges[edge].next;

		compile->graph->inputs[edge] = target;
		append(compile, target, edge);
		edge = next;
	}
	compile->readers[source] = compile->last[source] = 0;
	compile->listed[source] = false;
}

/* ---- the tape */

struct walk {
	uint32_t *stack;
	uint16_t *next;
	bool *seen;
};

static void walk_from(struct est_mlx_compile *compile, struct walk *walk, uint32_t output)
{
	struct est_mlx_graph *graph = compile->graph;
	uint32_t depth = 0;

	if (walk->seen[output])
		return;
	walk->seen[output] = true;
	walk->stack[0] = output;
	walk->next[0] = 0;
	for (;;) {
		uint32_t array = walk->stack[depth];

		if (walk->next[depth] < est_mlx_at(graph, array)->input_count) {
			unsigned slot = walk->next[depth]++;
			uint32_t input = est_mlx_input(graph, array, slot), first = est_mlx_first(graph, input);

			est_mlx_add_reader(compile, input, array, slot);
			if (!walk->seen[first]) {
				walk->seen[first] = true;
				walk->stack[++depth] = first;
				walk->next[depth] = 0;
			}
			continue;
		}
		compile->tape[compile->length++] = array;
		if (depth-- == 0)
			return;
	}
}

/* Room for arrays that fusing makes is left in the graph's limit. */
static bool make_tables(struct est_mlx_compile *compile, struct walk *walk)
{
	struct est_arena *arena = compile->graph->arena;
	uint32_t limit = compile->graph->limit;

	compile->tape = est_arena_reserve(arena, limit, sizeof(uint32_t));
	compile->order = est_arena_take(arena, limit, sizeof(uint32_t));
	compile->edges = est_arena_take(arena, compile->graph->input_limit, sizeof(*compile->edges));
	compile->readers = est_arena_take(arena, limit, sizeof(uint32_t));
	compile->last = est_arena_take(arena, limit, sizeof(uint32_t));
	compile->listed = est_arena_take(arena, limit, sizeof(bool));
	walk->stack = est_arena_reserve(arena, limit, sizeof(uint32_t));
	walk->next = est_arena_reserve(arena, limit, sizeof(uint16_t));
	walk->seen = est_arena_take(arena, limit, sizeof(bool));
	return compile->tape && compile->order && compile->edges && compile->readers && compile->last && compile->listed && walk->stack
	       && walk->next && walk->seen;
}

/* ---- simplify */

static void drop_second_names(struct est_mlx_compile *compile)
{
	const struct est_mlx_graph *graph = compile->graph;
	uint32_t length = 0;

	for (uint32_t i = 0; i < compile->length; i++) {
		uint32_t array = compile->tape[i], of;

		if (est_mlx_at(graph, array)->op != EST_MLX_STOP) {
			compile->tape[length++] = array;
			continue;
		}
		of = est_mlx_input(graph, array, 0);
		drop_primitive(compile, array);
		est_mlx_merge(compile, of, array);
		for (unsigned o = 0; o < compile->output_count; o++)
			if (compile->outputs[o] == array) {
				compile->outputs[o] = of;
				est_mlx_at(graph, of)->kept = true;
			}
	}
	compile->length = length;
}

/* is_equivalent() of the primitives; those of several outputs never meet their like in a step. */
static bool is_alike(const struct est_mlx_graph *graph, uint32_t one, uint32_t other)
{
	const struct est_mlx_array *a = est_mlx_at(graph, one), *b = est_mlx_at(graph, other);

	return a->op == b->op && a->type == b->type && a->extra == b->extra && a->input_count == b->input_count && a->outputs == 1
	       && b->outputs == 1 && a->op != EST_MLX_DEPENDS && a->op != EST_MLX_CHECKPOINT && est_mlx_same_shape(&a->shape, &b->shape)
	       && memcmp(graph->inputs + a->inputs, graph->inputs + b->inputs, a->input_count * sizeof(uint32_t)) == 0;
}

static uint32_t hash_of(const struct est_mlx_graph *graph, uint32_t array)
{
	const struct est_mlx_array *a = est_mlx_at(graph, array);
	uint32_t hash = a->op;

	for (unsigned i = 0; i < a->input_count; i++)
		hash = hash * 2654435761U + est_mlx_input(graph, array, i);
	return hash ^ hash >> 15;
}

/* Merges reader with one like it that is in the table of the readers before it. */
static void merge_with_like(struct est_mlx_compile *compile, uint32_t reader, uint32_t *table, uint32_t mask)
{
	const struct est_mlx_graph *graph = compile->graph;
	uint32_t at = hash_of(graph, reader) & mask;

	for (; table[at]; at = (at + 1) & mask) {
		uint32_t target = table[at], source = reader;

		if (target == reader || !is_alike(graph, target, reader))
			continue;
		if (compile->order[source] < compile->order[target]) {
			source = target;
			target = reader;
		}
		if (est_mlx_at(graph, source)->kept)
			continue;
		drop_primitive(compile, source);
		est_mlx_merge(compile, target, source);
		table[at] = target;
		return;
	}
	table[at] = reader;
}

static void merge_readers(struct est_mlx_compile *compile, uint32_t array, uint32_t *table, uint32_t limit)
{
	uint32_t count = 0, size = 4;

	for (uint32_t edge = compile->readers[array]; edge; edge = compile->edges[edge].next)
		count++;
	if (count < 2)
		return;
	while (size < 2 * count)
		size *= 2;
	if (size > limit) {
		compile->graph->exhausted = true;
		return;
	}
	memset(table, 0, size * sizeof(*table));
	for (uint32_t edge = compile->readers[array], next; edge; edge = next) {
		next = compile->edges[edge].next;
		while (next && compile->edges[next].reader == compile->edges[edge].reader) /* it reads the array twice */
			next = compile->edges[next].next;
		merge_with_like(compile, compile->edges[edge].reader, table, size - 1);
	}
}

static bool is_orphan(const struct est_mlx_compile *compile, uint32_t array)
{
	const struct est_mlx_array *at = est_mlx_at(compile->graph, array);

	for (uint32_t i = 0; i < at->outputs; i++)
		if (compile->listed[array + i] || est_mlx_at(compile->graph, array + i)->kept)
			return false;
	return true;
}

static void merge_pass(struct est_mlx_compile *compile, uint32_t *table, uint32_t limit)
{
	uint32_t length = 0;

	for (uint32_t i = 0; i < compile->length; i++) {
		uint32_t array = compile->tape[i];

		for (uint32_t o = 0; o < est_mlx_at(compile->graph, array)->outputs; o++)
			merge_readers(compile, array + o, table, limit);
		if (!is_orphan(compile, array))
			compile->tape[length++] = array;
	}
	compile->length = length;
}

static bool simplify(struct est_mlx_compile *compile)
{
	uint32_t limit = 1;
	uint32_t *table;

	while (limit < 2 * compile->graph->limit)
		limit *= 2;
	table = est_arena_reserve(compile->graph->arena, limit, sizeof(*table));
	if (!table)
		return false;
	drop_second_names(compile);
	for (uint32_t i = 0; i < compile->length; i++)
		compile->order[compile->tape[i]] = i;
	for (unsigned pass = 0; pass < PASSES; pass++)
		merge_pass(compile, table, limit);
	return true;
}

bool est_mlx_compile(struct est_mlx_graph *graph, uint32_t *outputs, unsigned count)
{
	size_t mark = graph->arena->used;
	struct est_mlx_compile compile = { .graph = graph, .outputs = outputs, .output_count = count };
	struct walk walk;
	bool whole = make_tables(&compile, &walk);

	for (unsigned i = 0; whole && i < count; i++) {
		est_mlx_at(graph, outputs[i])->kept = true;
		walk_from(&compile, &walk, est_mlx_first(graph, outputs[i]));
	}
	whole = whole && simplify(&compile) && est_mlx_fuse(&compile);
	est_arena_rewind(graph->arena, mark);
	return whole && !graph->exhausted;
}
