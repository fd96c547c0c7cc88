#include "estimator/mlx_graph.h"

#include <string.h>

enum { INPUTS_PER_ARRAY = 3 };

bool est_mlx_graph_init(struct est_mlx_graph *graph, struct est_arena *arena, uint32_t limit)
{
	*graph = (struct est_mlx_graph){ .arena = arena, .limit = limit, .count = 1, .input_count = 1, .input_limit = INPUTS_PER_ARRAY * limit,
					 .phase = EST_PHASE_FORWARD, .category = EST_ACTIVATIONS };
	graph->arrays = est_arena_reserve(arena, limit, sizeof(*graph->arrays));
	graph->inputs = est_arena_reserve(arena, graph->input_limit, sizeof(*graph->inputs));
	if (!graph->arrays || !graph->inputs)
		return false;
	memset(graph->arrays, 0, sizeof(*graph->arrays));
	return true;
}

/* ---- shapes */

uint64_t est_mlx_elements(const struct est_mlx_shape *shape)
{
	uint64_t elements = 1;

	for (unsigned i = 0; i < shape->dims; i++)
		elements *= shape->size[i];
	return elements;
}

uint64_t est_mlx_type_bytes(enum est_mlx_type type)
{
	static const uint8_t bytes[] = {
		[EST_MLX_BOOL] = 1, [EST_MLX_BF16] = 2, [EST_MLX_F16] = 2, [EST_MLX_F32] = 4, [EST_MLX_I32] = 4, [EST_MLX_U64] = 8
	};

	return bytes[type];
}

bool est_mlx_same_shape(const struct est_mlx_shape *one, const struct est_mlx_shape *other)
{
	return one->dims == other->dims && memcmp(one->size, other->size, one->dims * sizeof(one->size[0])) == 0;
}

struct est_mlx_shape est_mlx_shape(unsigned dims, const uint64_t *size)
{
	struct est_mlx_shape shape = { .dims = dims };

	for (unsigned i = 0; i < dims; i++)
		shape.size[i] = size[i];
	return shape;
}

/* What both broadcast to. */
static struct est_mlx_shape broadcast_shape(const struct est_mlx_shape *a, const struct est_mlx_shape *b)
{
	struct est_mlx_shape shape = a->dims >= b->dims ? *a : *b;
	const struct est_mlx_shape *other = a->dims >= b->dims ? b : a;
	unsigned ahead = shape.dims - other->dims;

	for (unsigned i = 0; i < other->dims; i++)
		if (shape.size[ahead + i] == 1)
			shape.size[ahead + i] = other->size[i];
	return shape;
}

/* ---- arrays */

static uint32_t take(struct est_mlx_graph *graph, unsigned count, const uint32_t *inputs)
{
	uint32_t array = graph->count;

	if (graph->count >= graph->limit || graph->input_count + count > graph->input_limit) {
		graph->exhausted = true;
		return 0;
	}
	graph->count++;
	graph->arrays[array] = (struct est_mlx_array){ .phase = (uint8_t)graph->phase, .category = (uint8_t)graph->category, .outputs = 1,
						      .inputs = graph->input_count, .input_count = (uint16_t)count };
	for (unsigned i = 0; i < count; i++)
		graph->inputs[graph->input_count++] = inputs[i];
	return array;
}

uint32_t est_mlx_new(struct est_mlx_graph *graph, enum est_mlx_op op, enum est_mlx_type type, struct est_mlx_shape shape, uint64_t extra,
		     unsigned count, const uint32_t *inputs)
{
	uint32_t array = take(graph, count, inputs);
	struct est_mlx_array *made = est_mlx_at(graph, array);

	if (!array)
		return 0;
	made->op = (uint8_t)op;
	made->type = (uint8_t)type;
	made->shape = shape;
	made->extra = extra;
	return array;
}

uint32_t est_mlx_sibling(struct est_mlx_graph *graph, uint32_t first, enum est_mlx_type type, struct est_mlx_shape shape)
{
	uint32_t array = take(graph, 0, NULL);
	struct est_mlx_array *made = est_mlx_at(graph, array), *head = est_mlx_at(graph, first);

	if (!array)
		return 0;
	made->op = head->op;
	made->type = (uint8_t)type;
	made->shape = shape;
	made->extra = head->extra;
	made->inputs = head->inputs;
	made->input_count = head->input_count;
	made->position = (uint8_t)(array - first);
	for (uint32_t i = first; i <= array; i++)
		est_mlx_at(graph, i)->outputs = (uint8_t)(array - first + 1);
	return array;
}

uint32_t est_mlx_leaf(struct est_mlx_graph *graph, enum est_mlx_type type, struct est_mlx_shape shape, enum est_category category, bool tied)
{
	uint32_t array = est_mlx_new(graph, EST_MLX_LEAF, type, shape, 0, 0, NULL);

	est_mlx_at(graph, array)->category = (uint8_t)category;
	est_mlx_at(graph, array)->tied = tied;
	return array;
}

uint32_t est_mlx_scalar(struct est_mlx_graph *graph, enum est_mlx_type type, double value)
{
	const struct est_mlx_shape shape = { 0 };
	uint64_t bits;
	uint32_t made;

	memcpy(&bits, &value, sizeof(bits));
	for (uint32_t i = 0; i < graph->scalar_count; i++)
		if (est_mlx_at(graph, graph->scalars[i])->type == type && est_mlx_at(graph, graph->scalars[i])->extra == bits)
			return graph->scalars[i];
	made = est_mlx_new(graph, EST_MLX_SCALAR, type, shape, bits, 0, NULL);
	if (graph->scalar_count == EST_MLX_SCALARS)
		graph->exhausted = true;
	else
		graph->scalars[graph->scalar_count++] = made;
	return made;
}

uint32_t est_mlx_like(struct est_mlx_graph *graph, enum est_mlx_op op, uint32_t a, uint64_t extra, unsigned count, const uint32_t *inputs)
{
	const struct est_mlx_array *like = est_mlx_at(graph, a);

	return est_mlx_new(graph, op, like->type, like->shape, extra, count, inputs);
}

/* ---- operators */

uint32_t est_mlx_astype(struct est_mlx_graph *graph, uint32_t a, enum est_mlx_type type)
{
	const struct est_mlx_array *from = est_mlx_at(graph, a);

	return from->type == type ? a : est_mlx_new(graph, EST_MLX_ASTYPE, type, from->shape, 0, 1, &a);
}

uint32_t est_mlx_broadcast_to(struct est_mlx_graph *graph, uint32_t a, struct est_mlx_shape shape)
{
	const struct est_mlx_array *from = est_mlx_at(graph, a);

	return est_mlx_same_shape(&from->shape, &shape) ? a : est_mlx_new(graph, EST_MLX_BROADCAST, from->type, shape, 0, 1, &a);
}

uint32_t est_mlx_unary(struct est_mlx_graph *graph, enum est_mlx_op op, uint32_t a)
{
	return est_mlx_like(graph, op, a, 0, 1, &a);
}

/* The types that a step meets are ordered as they are promoted, but for fp16 with bf16, which it does not mix. */
static enum est_mlx_type promoted(const struct est_mlx_graph *graph, uint32_t a, uint32_t b)
{
	enum est_mlx_type one = est_mlx_at(graph, a)->type, other = est_mlx_at(graph, b)->type;

	if (one >= EST_MLX_I32 || other >= EST_MLX_I32) /* whole numbers give way to floating ones */
		return one >= EST_MLX_I32 && other != EST_MLX_BOOL && other < EST_MLX_I32 ? other
		     : other >= EST_MLX_I32 && one != EST_MLX_BOOL && one < EST_MLX_I32 ? one
		     : one > other ? one : other;
	return one > other ? one : other;
}

static void broadcast_both(struct est_mlx_graph *graph, uint32_t pair[2])
{
	struct est_mlx_shape shape = broadcast_shape(&est_mlx_at(graph, pair[0])->shape, &est_mlx_at(graph, pair[1])->shape);

	pair[0] = est_mlx_broadcast_to(graph, pair[0], shape);
	pair[1] = est_mlx_broadcast_to(graph, pair[1], shape);
}

uint32_t est_mlx_binary(struct est_mlx_graph *graph, enum est_mlx_op op, uint32_t a, uint32_t b)
{
	enum est_mlx_type type = promoted(graph, a, b);
	uint32_t pair[2] = { est_mlx_astype(graph, a, type), est_mlx_astype(graph, b, type) };

	broadcast_both(graph, pair);
	return est_mlx_like(graph, op, pair[0], 0, 2, pair);
}

uint32_t est_mlx_compare(struct est_mlx_graph *graph, uint32_t a, uint32_t b, uint64_t which)
{
	uint32_t array = est_mlx_binary(graph, EST_MLX_COMPARE, a, b);

	est_mlx_at(graph, array)->type = EST_MLX_BOOL;
	est_mlx_at(graph, array)->extra = which;
	return array;
}

uint32_t est_mlx_scaled(struct est_mlx_graph *graph, enum est_mlx_op op, uint32_t a, double number)
{
	return est_mlx_binary(graph, op, a, est_mlx_scalar(graph, est_mlx_at(graph, a)->type, number));
}

uint32_t est_mlx_where(struct est_mlx_graph *graph, uint32_t condition, uint32_t a, uint32_t b)
{
	const struct est_mlx_array *value = est_mlx_at(graph, a);
	struct est_mlx_shape shape = broadcast_shape(&value->shape, &est_mlx_at(graph, condition)->shape);
	uint32_t inputs[3];

	inputs[0] = est_mlx_broadcast_to(graph, condition, shape);
	inputs[1] = est_mlx_broadcast_to(graph, a, shape);
	inputs[2] = est_mlx_broadcast_to(graph, b, shape);
	return est_mlx_like(graph, EST_MLX_SELECT, inputs[1], 0, 3, inputs);
}

static uint32_t reshaped(struct est_mlx_graph *graph, enum est_mlx_op op, uint32_t a, struct est_mlx_shape shape, uint64_t extra)
{
	return est_mlx_new(graph, op, est_mlx_at(graph, a)->type, shape, extra, 1, &a);
}

uint32_t est_mlx_reshape(struct est_mlx_graph *graph, uint32_t a, struct est_mlx_shape shape)
{
	return est_mlx_same_shape(&est_mlx_at(graph, a)->shape, &shape) ? a : reshaped(graph, EST_MLX_RESHAPE, a, shape, 0);
}

uint32_t est_mlx_flatten(struct est_mlx_graph *graph, uint32_t a, unsigned first, unsigned last)
{
	struct est_mlx_shape from = est_mlx_at(graph, a)->shape, shape = { .dims = from.dims - (last - first) };

	if (first == last)
		return a;
	memcpy(shape.size, from.size, (first + 1) * sizeof(shape.size[0]));
	for (unsigned i = first + 1; i <= last; i++)
		shape.size[first] *= from.size[i];
	for (unsigned i = last + 1; i < from.dims; i++)
		shape.size[i - (last - first)] = from.size[i];
	return reshaped(graph, EST_MLX_FLATTEN, a, shape, first | last << 8);
}

uint32_t est_mlx_unflatten(struct est_mlx_graph *graph, uint32_t a, unsigned axis, unsigned count, const uint64_t *size)
{
	struct est_mlx_shape from = est_mlx_at(graph, a)->shape, shape = { .dims = from.dims + count - 1 };

	if (count == 1)
		return a;
	memcpy(shape.size, from.size, axis * sizeof(shape.size[0]));
	memcpy(shape.size + axis, size, count * sizeof(shape.size[0]));
	for (unsigned i = axis + 1; i < from.dims; i++)
		shape.size[i + count - 1] = from.size[i];
	return reshaped(graph, EST_MLX_UNFLATTEN, a, shape, axis | count << 8);
}

uint32_t est_mlx_transpose(struct est_mlx_graph *graph, uint32_t a, uint64_t axes)
{
	struct est_mlx_shape from = est_mlx_at(graph, a)->shape, shape = from;

	for (unsigned i = 0; i < from.dims; i++)
		shape.size[i] = from.size[axes >> 4 * i & 15];
	return reshaped(graph, EST_MLX_TRANSPOSE, a, shape, axes);
}

uint32_t est_mlx_swap_last(struct est_mlx_graph *graph, uint32_t a)
{
	unsigned dims = est_mlx_at(graph, a)->shape.dims;
	uint64_t axes = 0;

	for (unsigned i = 0; i < dims; i++)
		axes |= (uint64_t)(i == dims - 1 ? dims - 2 : i == dims - 2 ? dims - 1 : i) << 4 * i;
	return est_mlx_transpose(graph, a, axes);
}

uint32_t est_mlx_expand(struct est_mlx_graph *graph, uint32_t a, unsigned axes)
{
	struct est_mlx_shape from = est_mlx_at(graph, a)->shape, shape = { 0 };
	unsigned next = 0;

	if (!axes)
		return a;
	while (next < from.dims || axes >> shape.dims) {
		bool fresh = axes >> shape.dims & 1;

		shape.size[shape.dims++] = fresh ? 1 : from.size[next++];
	}
	return reshaped(graph, EST_MLX_EXPAND, a, shape, axes);
}

uint32_t est_mlx_squeeze(struct est_mlx_graph *graph, uint32_t a, unsigned axes)
{
	struct est_mlx_shape from = est_mlx_at(graph, a)->shape, shape = { 0 };

	if (!axes)
		return a;
	for (unsigned i = 0; i < from.dims; i++)
		if (!(axes >> i & 1))
			shape.size[shape.dims++] = from.size[i];
	return reshaped(graph, EST_MLX_SQUEEZE, a, shape, axes);
}

/* A matrix of weights is multiplied with all rows at once; stacks of matrices broadcast (matmul(), mlx/ops.cpp). */
uint32_t est_mlx_matmul(struct est_mlx_graph *graph, uint32_t a, uint32_t b)
{
	struct est_mlx_shape from = est_mlx_at(graph, a)->shape, other = est_mlx_at(graph, b)->shape, shape;
	enum est_mlx_type type = promoted(graph, a, b);
	uint32_t pair[2] = { est_mlx_astype(graph, a, type), est_mlx_astype(graph, b, type) }, product;
	bool flat = from.dims > 2 && other.dims == 2;

	if (flat) {
		pair[0] = est_mlx_flatten(graph, pair[0], 0, from.dims - 2);
	} else if (from.dims > 2) {
		struct est_mlx_shape one = from, two = other;

		for (unsigned i = 0; i + 2 < from.dims; i++)
			one.size[i] = two.size[i] = from.size[i] > other.size[i] ? from.size[i] : other.size[i];
		pair[0] = est_mlx_broadcast_to(graph, pair[0], one);
		pair[1] = est_mlx_broadcast_to(graph, pair[1], two);
	}
	shape = est_mlx_at(graph, pair[0])->shape;
	shape.size[shape.dims - 1] = other.size[other.dims - 1];
	product = est_mlx_new(graph, EST_MLX_MATMUL, type, shape, 0, 2, pair);
	return flat ? est_mlx_unflatten(graph, product, 0, from.dims - 1, from.size) : product;
}

/* Without what has one element already there is nothing to add. */
uint32_t est_mlx_sum(struct est_mlx_graph *graph, uint32_t a, unsigned axes, bool keep)
{
	struct est_mlx_shape shape = est_mlx_at(graph, a)->shape, from = shape;
	enum est_mlx_type type = est_mlx_at(graph, a)->type;
	uint32_t sum;

	for (unsigned i = 0; i < shape.dims; i++)
		if (axes >> i & 1)
			shape.size[i] = 1;
	type = type == EST_MLX_BOOL ? EST_MLX_I32 : type;
	sum = est_mlx_same_shape(&shape, &from) ? est_mlx_astype(graph, a, type)
						: est_mlx_new(graph, EST_MLX_REDUCE, type, shape, axes, 1, &a);
	return keep ? sum : est_mlx_squeeze(graph, sum, axes);
}

uint32_t est_mlx_mean(struct est_mlx_graph *graph, uint32_t a, unsigned axes, bool keep)
{
	const struct est_mlx_shape shape = est_mlx_at(graph, a)->shape;
	double elements = 1;

	for (unsigned i = 0; i < shape.dims; i++)
		if (axes >> i & 1)
			elements *= (double)shape.size[i];
	return est_mlx_scaled(graph, EST_MLX_MULTIPLY, est_mlx_sum(graph, a, axes, keep), 1 / elements);
}
