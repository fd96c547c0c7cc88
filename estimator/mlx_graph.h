/* MLX's lazy graph: arrays that know the primitive and the inputs they come from, and nothing of their values.
 *
 * What Python writes is built with these functions as mlx/ops.cpp builds it (MLX 0.32): scalars and narrow arrays are broadcast,
 * types promoted, products of matrices flattened. mlx_gradient.c adds vector-Jacobian products, mlx_simplify.c and mlx_fuse.c do
 * what mx.compile() does to a graph, mlx_eval.c runs it. An array is a number; those that one primitive makes have numbers one
 * behind the other. 0 is no array. */
#ifndef EST_MLX_GRAPH_H
#define EST_MLX_GRAPH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "estimator/arena.h"
#include "estimator/report.h"

enum est_mlx_type { EST_MLX_BOOL, EST_MLX_BF16, EST_MLX_F16, EST_MLX_F32, EST_MLX_I32, EST_MLX_U64 };

/* The primitives. What they do is in tables: mlx_gradient.c (products), mlx_fuse.c (which are fused), mlx_kernels.c (buffers). */
enum est_mlx_op {
	EST_MLX_LEAF,     /* no primitive: an input of the step */
	EST_MLX_SCALAR,   /* nor here: a Python number; extra: its bits */
	EST_MLX_STOP,     /* StopGradient: a second name */
	EST_MLX_ADD, EST_MLX_SUBTRACT, EST_MLX_MULTIPLY, EST_MLX_DIVIDE, EST_MLX_MAXIMUM, EST_MLX_MINIMUM, EST_MLX_POWER, EST_MLX_COMPARE,
	EST_MLX_SQUARE, EST_MLX_SQRT, EST_MLX_SIGMOID, EST_MLX_NEGATIVE, EST_MLX_TANH, EST_MLX_NOT, EST_MLX_ASTYPE,
	EST_MLX_SELECT, EST_MLX_BROADCAST,
	EST_MLX_COMPILED, /* fused */
	EST_MLX_RESHAPE, EST_MLX_FLATTEN, EST_MLX_UNFLATTEN, EST_MLX_TRANSPOSE, EST_MLX_EXPAND, EST_MLX_SQUEEZE, EST_MLX_SLICE,
	EST_MLX_DEPENDS, EST_MLX_CHECKPOINT /* CustomTransforms of mx.checkpoint() */,
	EST_MLX_MATMUL, EST_MLX_ADDMM, EST_MLX_QUANTIZED_MATMUL, EST_MLX_SOFTMAX, EST_MLX_LOGSUMEXP, EST_MLX_REDUCE, EST_MLX_GATHER,
	EST_MLX_GATHER_AXIS, EST_MLX_SCATTER_AXIS,
	EST_MLX_DEQUANTIZE, EST_MLX_ARANGE, EST_MLX_FULL,
	EST_MLX_RMS_NORM, EST_MLX_RMS_NORM_VJP, EST_MLX_ROPE, EST_MLX_CROSS_ENTROPY, EST_MLX_CROSS_ENTROPY_VJP,
	EST_MLX_OPS
};

enum { EST_MLX_DIMS = 5, EST_MLX_SCALARS = 64 };

struct est_mlx_shape {
	uint32_t dims;
	uint64_t size[EST_MLX_DIMS];
};

struct est_mlx_array {
	uint8_t op, type;         /* enum est_mlx_op, est_mlx_type */
	uint8_t phase, category;  /* enum est_phase, est_category */
	uint8_t outputs, position; /* of its primitive: how many there are, and which one this is */
	bool tied;                /* a leaf that stays for as long as the run: no step replaces it */
	bool kept;                /* an output of the step that Python holds */
	uint16_t input_count;
	uint32_t inputs;          /* the first in est_mlx_graph.inputs */
	uint64_t extra;           /* axes, constants: what two primitives are alike by, beside shape and type */
	struct est_mlx_shape shape;
};

struct est_mlx_graph {
	struct est_arena *arena;
	struct est_mlx_array *arrays;
	uint32_t count, limit;
	uint32_t *inputs;
	uint32_t input_count, input_limit;
	enum est_phase phase;     /* of the arrays to come */
	enum est_category category;
	uint32_t scalars[EST_MLX_SCALARS], scalar_count;
	bool exhausted;           /* a limit was reached: the graph is not whole */

	/* mx.checkpoint(): builds the function again on other inputs, and returns its output */
	uint32_t (*again)(void *context, uint64_t which, const uint32_t *arguments);
	void *context;
};

/* Room for so many arrays, from arena. False when it is too small. */
bool est_mlx_graph_init(struct est_mlx_graph *graph, struct est_arena *arena, uint32_t limit);

static inline struct est_mlx_array *est_mlx_at(const struct est_mlx_graph *graph, uint32_t array)
{
	return &graph->arrays[array];
}

static inline uint32_t est_mlx_input(const struct est_mlx_graph *graph, uint32_t array, unsigned i)
{
	return graph->inputs[graph->arrays[array].inputs + i];
}

static inline void est_mlx_set_input(struct est_mlx_graph *graph, uint32_t array, unsigned i, uint32_t input)
{
	graph->inputs[graph->arrays[array].inputs + i] = input;
}

/* The first output of the array's primitive. */
static inline uint32_t est_mlx_first(const struct est_mlx_graph *graph, uint32_t array)
{
	return array - graph->arrays[array].position;
}

uint64_t est_mlx_elements(const struct est_mlx_shape *shape);
uint64_t est_mlx_type_bytes(enum est_mlx_type type);
bool est_mlx_same_shape(const struct est_mlx_shape *one, const struct est_mlx_shape *other);
struct est_mlx_shape est_mlx_shape(unsigned dims, const uint64_t *size);
/* The shape of an array by its literal sizes. */
#define EST_MLX_SHAPE(...) \
	est_mlx_shape(sizeof((uint64_t[]){ __VA_ARGS__ }) / sizeof(uint64_t), (uint64_t[]){ __VA_ARGS__ })

/* ---- arrays */

/* An array of count inputs (of the first output, where there are several: they follow by est_mlx_sibling()). */
uint32_t est_mlx_new(struct est_mlx_graph *graph, enum est_mlx_op op, enum est_mlx_type type, struct est_mlx_shape shape, uint64_t extra,
		     unsigned count, const uint32_t *inputs);
/* The next output of the same primitive. */
uint32_t est_mlx_sibling(struct est_mlx_graph *graph, uint32_t first, enum est_mlx_type type, struct est_mlx_shape shape);
/* What the step finds in memory. tied: it stays as it is. */
uint32_t est_mlx_leaf(struct est_mlx_graph *graph, enum est_mlx_type type, struct est_mlx_shape shape, enum est_category category, bool tied);
/* A Python number as an array: one for each that differs, as mx.compile() merges equal ones first of all. */
uint32_t est_mlx_scalar(struct est_mlx_graph *graph, enum est_mlx_type type, double value);

/* ---- operators, as mlx.core has them */

uint32_t est_mlx_astype(struct est_mlx_graph *graph, uint32_t a, enum est_mlx_type type);
uint32_t est_mlx_broadcast_to(struct est_mlx_graph *graph, uint32_t a, struct est_mlx_shape shape);
uint32_t est_mlx_unary(struct est_mlx_graph *graph, enum est_mlx_op op, uint32_t a);
/* Broadcasts and promotes. */
uint32_t est_mlx_binary(struct est_mlx_graph *graph, enum est_mlx_op op, uint32_t a, uint32_t b);
/* A bool; which tells comparisons apart that differ. */
uint32_t est_mlx_compare(struct est_mlx_graph *graph, uint32_t a, uint32_t b, uint64_t which);
/* a, and by op a Python number. */
uint32_t est_mlx_scaled(struct est_mlx_graph *graph, enum est_mlx_op op, uint32_t a, double number);
uint32_t est_mlx_where(struct est_mlx_graph *graph, uint32_t condition, uint32_t a, uint32_t b);
uint32_t est_mlx_reshape(struct est_mlx_graph *graph, uint32_t a, struct est_mlx_shape shape);
uint32_t est_mlx_flatten(struct est_mlx_graph *graph, uint32_t a, unsigned first, unsigned last);
/* Axis into parts of size[0..count). */
uint32_t est_mlx_unflatten(struct est_mlx_graph *graph, uint32_t a, unsigned axis, unsigned count, const uint64_t *size);
/* axes: 4 bits for each dimension, the first in the lowest. */
uint32_t est_mlx_transpose(struct est_mlx_graph *graph, uint32_t a, uint64_t axes);
uint32_t est_mlx_swap_last(struct est_mlx_graph *graph, uint32_t a);
/* axes: a bit for each, of what comes out and of what goes in. */
uint32_t est_mlx_expand(struct est_mlx_graph *graph, uint32_t a, unsigned axes);
uint32_t est_mlx_squeeze(struct est_mlx_graph *graph, uint32_t a, unsigned axes);
uint32_t est_mlx_matmul(struct est_mlx_graph *graph, uint32_t a, uint32_t b);
/* axes: a bit for each; they stay, of size 1, with keep. */
uint32_t est_mlx_sum(struct est_mlx_graph *graph, uint32_t a, unsigned axes, bool keep);
uint32_t est_mlx_mean(struct est_mlx_graph *graph, uint32_t a, unsigned axes, bool keep);
/* An array of the shape and type of a, of one operand and what else the operator reads. */
uint32_t est_mlx_like(struct est_mlx_graph *graph, enum est_mlx_op op, uint32_t a, uint64_t extra, unsigned count, const uint32_t *inputs);

/* ---- gradients */

/* The vector-Jacobian products of outputs (with cotangents of the first one alone) for the primals, as mx.vjp() makes them; 0
 * where none arrives. */
void est_mlx_vjp(struct est_mlx_graph *graph, const uint32_t *outputs, unsigned output_count, uint32_t cotangent, const uint32_t *primals,
		 unsigned primal_count, uint32_t *ret_gradients);

#endif
