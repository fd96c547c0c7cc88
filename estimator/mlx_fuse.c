/* compile_fuse() (mlx/compile.cpp): parts of the graph that work on the same elements become one primitive. */
#include "estimator/mlx_compile.h"

/* As MLX has them: max_compile_depth, max_compile_arrays. */
enum { MOST_DEEP = 11, MOST_ARRAYS = 24, MOST_FUSED = 256 };

/* One try to fuse what leads to an array. */
struct fusion {
	struct est_mlx_compile *compile;
	uint32_t *inside, *possible;         /* by array: the number of the try that it is in, that it may be an input of */
	uint32_t *taken;                     /* and on the second way */
	bool *gone;                          /* by array: within a primitive already */
	uint32_t number;
	unsigned inside_count, possible_count;
	struct est_mlx_shape shape;
	uint32_t members[MOST_FUSED];        /* what is inside */
	uint32_t inputs[MOST_FUSED], tape[MOST_FUSED];
	unsigned input_count, length;
};

static bool is_fusable(enum est_mlx_op op)
{
	return op >= EST_MLX_ADD && op <= EST_MLX_BROADCAST;
}

static bool is_inside(const struct fusion *fusion, uint32_t array)
{
	return fusion->inside[array] == fusion->number;
}

static void add_possible(struct fusion *fusion, uint32_t array)
{
	fusion->possible_count += fusion->possible[array] != fusion->number;
	fusion->possible[array] = fusion->number;
}

static void drop_possible(struct fusion *fusion, uint32_t array)
{
	fusion->possible_count -= fusion->possible[array] == fusion->number;
	fusion->possible[array] = 0;
}

static bool all_readers_inside(const struct fusion *fusion, uint32_t array)
{
	const struct est_mlx_compile *compile = fusion->compile;

	for (uint32_t edge = compile->readers[array]; edge; edge = compile->edges[edge].next)
		if (!is_inside(fusion, compile->edges[edge].reader))
			return false;
	return true;
}

/* A broadcast that others read too is made again for those inside. */
static uint32_t split(struct fusion *fusion, uint32_t array)
{
	struct est_mlx_graph *graph = fusion->compile->graph;
	uint32_t of = est_mlx_input(graph, array, 0);
	uint32_t copy = est_mlx_like(graph, EST_MLX_BROADCAST, array, est_mlx_at(graph, array)->extra, 1, &of);

	est_mlx_at(graph, copy)->phase = est_mlx_at(graph, array)->phase;
	for (unsigned m = 0; copy && m < fusion->inside_count; m++)
		for (unsigned i = 0; i < est_mlx_at(graph, fusion->members[m])->input_count; i++)
			if (est_mlx_input(graph, fusion->members[m], i) == array)
				est_mlx_move_reader(fusion->compile, copy, fusion->members[m], i);
	return copy;
}

static void collect(struct fusion *fusion, uint32_t array, unsigned depth)
{
	struct est_mlx_graph *graph = fusion->compile->graph;
	const struct est_mlx_array *at = est_mlx_at(graph, array);

	if (is_inside(fusion, array))
		return;
	if (depth >= MOST_DEEP || !is_fusable(at->op) || (at->kept && !est_mlx_same_shape(&at->shape, &fusion->shape))) {
		add_possible(fusion, array);
		return;
	}
	if (depth > 0 && !all_readers_inside(fusion, array)) {
		if (at->op == EST_MLX_BROADCAST && fusion->possible_count < MOST_ARRAYS && !graph->exhausted)
			collect(fusion, split(fusion, array), depth);
		else
			add_possible(fusion, array);
		return;
	}
	if (at->kept)
		add_possible(fusion, array);
	else
		drop_possible(fusion, array);
	if (fusion->possible_count >= MOST_ARRAYS)
		return;
	if (fusion->inside_count == MOST_FUSED) {
		graph->exhausted = true;
		return;
	}
	fusion->inside[array] = fusion->number;
	fusion->members[fusion->inside_count++] = array;
	for (unsigned i = 0; i < at->input_count; i++)
		collect(fusion, est_mlx_input(graph, array, i), depth + 1);
}

/* The second way: inputs in the order in which they are met, and what is fused after what it reads. */
static void lay_out(struct fusion *fusion, uint32_t array)
{
	const struct est_mlx_graph *graph = fusion->compile->graph;
	bool inside = is_inside(fusion, array);

	if (fusion->taken[array] == fusion->number)
		return;
	fusion->taken[array] = fusion->number;
	for (unsigned i = 0; inside && i < est_mlx_at(graph, array)->input_count; i++)
		lay_out(fusion, est_mlx_input(graph, array, i));
	if (fusion->input_count == MOST_FUSED || fusion->length == MOST_FUSED)
		fusion->compile->graph->exhausted = true;
	else if (inside)
		fusion->tape[fusion->length++] = array;
	else
		fusion->inputs[fusion->input_count++] = array;
}

/* The output of the new primitive that stands for an array that was fused. */
static void replace(struct fusion *fusion, uint32_t output, uint32_t array)
{
	struct est_mlx_compile *compile = fusion->compile;
	struct est_mlx_graph *graph = compile->graph;
	struct est_mlx_array *made = est_mlx_at(graph, output);
	const struct est_mlx_array *old = est_mlx_at(graph, array);

	made->category = old->category;
	made->phase = old->phase;
	made->kept = old->kept;
	est_mlx_merge(compile, output, array);
	for (unsigned i = 0; i < compile->output_count; i++)
		if (compile->outputs[i] == array)
			compile->outputs[i] = output;
}

/* What is fused reads nothing any more; what of it the step returns goes on as an output. Returns how many. */
static unsigned dissolve(struct fusion *fusion, uint32_t *ret_outputs)
{
	struct est_mlx_compile *compile = fusion->compile;
	const struct est_mlx_graph *graph = compile->graph;
	unsigned count = 0;

	for (unsigned i = 0; i < fusion->length; i++) {
		uint32_t array = fusion->tape[i];

		fusion->gone[array] = true;
		for (unsigned slot = 0; slot < est_mlx_at(graph, array)->input_count; slot++)
			est_mlx_drop_reader(compile, array, slot);
	}
	for (unsigned i = 0; i < fusion->length; i++) {
		uint32_t array = fusion->tape[i];

		if (i + 1 == fusion->length || est_mlx_at(graph, array)->kept)
			ret_outputs[count++] = array;
		else
			compile->listed[array] = false;
	}
	return count;
}

static void make_primitive(struct fusion *fusion)
{
	struct est_mlx_graph *graph = fusion->compile->graph;
	uint32_t outputs[MOST_FUSED], first = 0;
	unsigned count = dissolve(fusion, outputs);

	for (unsigned i = 0; i < count; i++) {
		const struct est_mlx_array *old = est_mlx_at(graph, outputs[i]);

		if (i == 0)
			first = est_mlx_new(graph, EST_MLX_COMPILED, old->type, old->shape, fusion->length, fusion->input_count, fusion->inputs);
		else
			est_mlx_sibling(graph, first, old->type, old->shape);
	}
	if (graph->exhausted)
		return;
	for (unsigned i = 0; i < fusion->input_count; i++)
		est_mlx_add_reader(fusion->compile, fusion->inputs[i], first, i);
	for (unsigned i = 0; i < count; i++)
		replace(fusion, first + i, outputs[i]);
}

static bool make_tables(struct fusion *fusion)
{
	struct est_arena *arena = fusion->compile->graph->arena;
	uint32_t limit = fusion->compile->graph->limit;

	fusion->inside = est_arena_take(arena, limit, sizeof(uint32_t));
	fusion->possible = est_arena_take(arena, limit, sizeof(uint32_t));
	fusion->taken = est_arena_take(arena, limit, sizeof(uint32_t));
	fusion->gone = est_arena_take(arena, limit, sizeof(bool));
	return fusion->inside && fusion->possible && fusion->taken && fusion->gone;
}

bool est_mlx_fuse(struct est_mlx_compile *compile)
{
	struct est_mlx_graph *graph = compile->graph;
	struct fusion *fusion = est_arena_take(graph->arena, 1, sizeof(*fusion));

	if (!fusion)
		return false;
	fusion->compile = compile;
	if (!make_tables(fusion))
		return false;
	for (uint32_t i = compile->length; i-- > 0 && !graph->exhausted;) {
		uint32_t array = compile->tape[i];

		if (fusion->gone[array] || !is_fusable(est_mlx_at(graph, array)->op) || est_mlx_at(graph, array)->op == EST_MLX_BROADCAST)
			continue;
		fusion->number++;
		fusion->inside_count = fusion->possible_count = fusion->input_count = fusion->length = 0;
		fusion->shape = est_mlx_at(graph, array)->shape;
		collect(fusion, array, 0);
		if (fusion->inside_count <= 1)
			continue;
		lay_out(fusion, array);
		make_primitive(fusion);
	}
	return true;
}
