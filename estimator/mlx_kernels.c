/* What each primitive does with memory: a second name for an input's buffer, an input's buffer for its own, or a new one
 * (mlx/backend/common, and metal and cpu where they agree). */
#include "estimator/mlx_eval.h"

#include <string.h>

void est_mlx_lay_rows(const struct est_mlx_shape *shape, struct est_mlx_place *place)
{
	int64_t stride = 1;

	for (unsigned i = shape->dims; i-- > 0;) {
		place->strides[i] = stride;
		stride *= (int64_t)shape->size[i];
	}
	place->span = (uint64_t)stride;
	place->row = place->contiguous = true;
	place->column = shape->dims <= 1;
	for (unsigned i = 0; i < shape->dims; i++)
		place->column |= shape->size[i] == (uint64_t)stride;
}

/* ---- new buffers and shared ones */

static void give_buffer(struct est_mlx_run *run, uint32_t array, uint64_t bytes)
{
	struct est_mlx_place *place = &run->places[array];
	uint32_t buffer = est_mlx_allocate(run, bytes, (enum est_category)est_mlx_array_of(run, array)->category);

	if (run->graph->exhausted)
		return;
	run->buffers[buffer].references = 1;
	place->buffer = buffer + 1;
	place->done = true;
}

void est_mlx_place_rows(struct est_mlx_run *run, uint32_t array)
{
	struct est_mlx_place *place = &run->places[array];

	est_mlx_lay_rows(&est_mlx_array_of(run, array)->shape, place);
	give_buffer(run, array, place->span * est_mlx_type_bytes(est_mlx_array_of(run, array)->type));
}

/* As another array lies, in a buffer of its own. */
static void place_as(struct est_mlx_run *run, uint32_t array, uint32_t like)
{
	struct est_mlx_place *place = &run->places[array];
	uint32_t references = place->references;

	*place = run->places[like];
	place->references = references;
	give_buffer(run, array, place->span * est_mlx_type_bytes(est_mlx_array_of(run, array)->type));
}

static void share(struct est_mlx_run *run, uint32_t array, uint32_t with)
{
	struct est_mlx_place *place = &run->places[array];

	place->buffer = run->places[with].buffer;
	place->done = true;
	if (place->buffer)
		run->buffers[place->buffer - 1].references++;
}

void est_mlx_share_as(struct est_mlx_run *run, uint32_t array, uint32_t with)
{
	uint32_t references = run->places[array].references;

	run->places[array] = run->places[with];
	run->places[array].references = references;
	share(run, array, with);
}

static uint32_t keep_temporary(struct est_mlx_run *run, uint64_t bytes)
{
	uint32_t buffer = est_mlx_allocate(run, bytes, EST_WORKSPACE);

	if (run->temporary_count < EST_MLX_TEMPORARIES && !run->graph->exhausted)
		run->temporaries[run->temporary_count++] = buffer;
	return buffer;
}

static bool is_sole(const struct est_mlx_run *run, uint32_t array)
{
	const struct est_mlx_place *place = &run->places[array];

	return place->buffer && place->references == 1 && run->buffers[place->buffer - 1].references == 1;
}

/* is_donatable(): nothing else refers to the array or its buffer, which fits. */
static bool may_take(const struct est_mlx_run *run, uint32_t input, uint32_t array)
{
	const struct est_mlx_array *from = est_mlx_array_of(run, input), *to = est_mlx_array_of(run, array);
	uint64_t bytes = est_mlx_elements(&to->shape) * est_mlx_type_bytes(to->type);

	return is_sole(run, input) && est_mlx_type_bytes(from->type) == est_mlx_type_bytes(to->type)
	       && run->buffers[run->places[input].buffer - 1].bytes <= bytes + 16384;
}

/* ---- elementwise */

static bool is_small(const struct est_mlx_run *run, uint32_t array)
{
	return est_mlx_array_of(run, array)->op == EST_MLX_SCALAR || run->places[array].span == 1;
}

static void unary(struct est_mlx_run *run)
{
	uint32_t input = est_mlx_input_of(run, 0);

	run->kernels = 1;
	if (!run->places[input].contiguous)
		est_mlx_place_rows(run, run->array);
	else if (may_take(run, input, run->array))
		est_mlx_share_as(run, run->array, input);
	else
		place_as(run, run->array, input);
}

/* Takes the first input's place that may be taken; else lies like the first that is no scalar. */
static void elementwise(struct est_mlx_run *run)
{
	unsigned count = est_mlx_array_of(run, run->array)->input_count;
	bool rows = true, columns = true;
	uint32_t like = 0, taken = 0;

	run->kernels = 1;
	for (unsigned i = 0; i < count; i++) {
		uint32_t input = est_mlx_input_of(run, i);

		if (is_small(run, input))
			continue;
		rows &= run->places[input].row;
		columns &= run->places[input].column;
		like = like ? like : input;
		if (!taken && may_take(run, input, run->array))
			taken = input;
	}
	if (!rows && !columns) {
		taken = taken && run->places[taken].row ? taken : 0;
		like = 0;
	}
	if (taken)
		est_mlx_share_as(run, run->array, taken);
	else if (like)
		place_as(run, run->array, like);
	else
		est_mlx_place_rows(run, run->array);
}

/* Whether all inputs that are no scalars lie alike (compiled_check_contiguity()). */
static bool lie_alike(const struct est_mlx_run *run)
{
	const struct est_mlx_array *array = est_mlx_array_of(run, run->array);
	bool all = true, rows = true, columns = true;
	unsigned wide = 0;

	for (unsigned i = 0; i < array->input_count; i++) {
		uint32_t input = est_mlx_input_of(run, i);
		const struct est_mlx_place *place = &run->places[input];
		bool same = est_mlx_same_shape(&est_mlx_array_of(run, input)->shape, &array->shape);

		if (est_mlx_array_of(run, input)->shape.dims == 0)
			continue;
		wide++;
		all &= place->contiguous && same;
		rows &= place->row && same;
		columns &= place->column && same;
	}
	return wide > 1 ? rows || columns : wide == 1 ? all : array->shape.dims == 0;
}

/* compiled_allocate_outputs() */
static void compiled(struct est_mlx_run *run)
{
	const struct est_mlx_array *array = est_mlx_array_of(run, run->array);
	bool alike = lie_alike(run);
	uint32_t like = 0, output = 0;

	run->kernels = 1;
	for (unsigned i = 0; i < array->input_count && output < array->outputs; i++) {
		uint32_t input = est_mlx_input_of(run, i), to = run->array + output;
		const struct est_mlx_array *from = est_mlx_array_of(run, input);
		bool same = est_mlx_elements(&from->shape) == est_mlx_elements(&array->shape);

		if (alike && !like && same && from->shape.dims > 0)
			like = input;
		if (from->shape.dims == 0 || !is_sole(run, input)
		    || est_mlx_type_bytes(from->type) != est_mlx_type_bytes(est_mlx_array_of(run, to)->type)
		    || (!alike && (!run->places[input].row || !same)))
			continue;
		est_mlx_share_as(run, to, input);
		output++;
	}
	for (; output < array->outputs; output++) {
		if (like)
			place_as(run, run->array + output, like);
		else
			est_mlx_place_rows(run, run->array + output);
	}
}

/* ---- the rest: rows in a new buffer, some after a copy of what does not lie as the kernel reads it */

static void fresh(struct est_mlx_run *run)
{
	run->kernels = 1;
	for (uint32_t i = 0; i < est_mlx_array_of(run, run->array)->outputs; i++)
		est_mlx_place_rows(run, run->array + i);
}

/* Matrices may be transposed, nothing else. */
static bool is_matrix(const struct est_mlx_run *run, uint32_t array)
{
	const struct est_mlx_shape *shape = &est_mlx_array_of(run, array)->shape;
	const int64_t *strides = run->places[array].strides + shape->dims - 2;
	const uint64_t *size = shape->size + shape->dims - 2;

	return shape->dims < 2 || (strides[1] == 1 && ((uint64_t)strides[0] == size[1] || size[0] == 1))
	       || (strides[0] == 1 && ((uint64_t)strides[1] == size[0] || size[1] == 1));
}

static void copy_unless_matrix(struct est_mlx_run *run, uint32_t input)
{
	const struct est_mlx_array *array = est_mlx_array_of(run, input);

	if (is_matrix(run, input))
		return;
	keep_temporary(run, est_mlx_elements(&array->shape) * est_mlx_type_bytes(array->type));
	run->kernels++;
}

static void product(struct est_mlx_run *run)
{
	copy_unless_matrix(run, est_mlx_input_of(run, 0));
	if (est_mlx_array_of(run, run->array)->op != EST_MLX_QUANTIZED_MATMUL)
		copy_unless_matrix(run, est_mlx_input_of(run, 1));
	est_mlx_place_rows(run, run->array);
	run->kernels++;
}

static void softmax(struct est_mlx_run *run)
{
	uint32_t input = est_mlx_input_of(run, 0);
	const struct est_mlx_place *place = &run->places[input];
	unsigned dims = est_mlx_array_of(run, input)->shape.dims;

	run->kernels = 1;
	if (!place->contiguous || place->strides[dims - 1] != 1)
		est_mlx_place_rows(run, run->array);
	else if (is_sole(run, input))
		est_mlx_share_as(run, run->array, input);
	else
		place_as(run, run->array, input);
}

/* Partial sums of the weight's gradient: rows of at most 512 groups, of all tokens where a row is long */
static void rms_norm_gradient(struct est_mlx_run *run)
{
	enum { GROUPS = 512, LOOPED = 4096 };
	const struct est_mlx_array *x = est_mlx_array_of(run, est_mlx_input_of(run, 0)), *weight = est_mlx_array_of(run, est_mlx_input_of(run, 1));
	uint64_t width = x->shape.size[x->shape.dims - 1], rows = est_mlx_elements(&x->shape) / width, each = (rows + GROUPS - 1) / GROUPS;
	uint64_t groups = width > LOOPED ? rows : (rows + each - 1) / each;

	for (unsigned i = 0; i < 3; i += 2)
		if (!run->places[est_mlx_input_of(run, i)].row)
			keep_temporary(run, est_mlx_elements(&x->shape) * est_mlx_type_bytes(x->type));
	fresh(run);
	if (weight->shape.dims > 0) {
		keep_temporary(run, groups * width * est_mlx_type_bytes(weight->type));
		run->kernels++;
	}
}

static void rope(struct est_mlx_run *run)
{
	uint32_t input = est_mlx_input_of(run, 0);

	run->kernels = 1;
	if (run->places[input].row && is_sole(run, input))
		est_mlx_share_as(run, run->array, input);
	else
		est_mlx_place_rows(run, run->array);
}

typedef void place_function(struct est_mlx_run *run);

static place_function *const places[EST_MLX_OPS] = {
	[EST_MLX_ADD] = elementwise, [EST_MLX_SUBTRACT] = elementwise, [EST_MLX_MULTIPLY] = elementwise,
	[EST_MLX_DIVIDE] = elementwise, [EST_MLX_MAXIMUM] = elementwise, [EST_MLX_MINIMUM] = elementwise,
	[EST_MLX_POWER] = elementwise, [EST_MLX_COMPARE] = elementwise, [EST_MLX_SQUARE] = unary, [EST_MLX_SQRT] = unary,
	[EST_MLX_SIGMOID] = unary, [EST_MLX_NEGATIVE] = unary, [EST_MLX_TANH] = unary, [EST_MLX_NOT] = unary,
	[EST_MLX_ASTYPE] = unary, [EST_MLX_SELECT] = elementwise, [EST_MLX_BROADCAST] = est_mlx_place_broadcast,
	[EST_MLX_COMPILED] = compiled, [EST_MLX_RESHAPE] = est_mlx_place_reshaped, [EST_MLX_FLATTEN] = est_mlx_place_reshaped,
	[EST_MLX_UNFLATTEN] = est_mlx_place_reshaped, [EST_MLX_TRANSPOSE] = est_mlx_place_transposed,
	[EST_MLX_EXPAND] = est_mlx_place_expanded, [EST_MLX_SQUEEZE] = est_mlx_place_squeezed,
	[EST_MLX_SLICE] = est_mlx_place_view, [EST_MLX_DEPENDS] = est_mlx_place_view,
	[EST_MLX_CHECKPOINT] = est_mlx_place_checkpoint, [EST_MLX_MATMUL] = product, [EST_MLX_ADDMM] = product,
	[EST_MLX_QUANTIZED_MATMUL] = product, [EST_MLX_SOFTMAX] = softmax, [EST_MLX_LOGSUMEXP] = fresh, [EST_MLX_REDUCE] = fresh,
	[EST_MLX_GATHER] = fresh, [EST_MLX_GATHER_AXIS] = fresh, [EST_MLX_SCATTER_AXIS] = elementwise,
	[EST_MLX_DEQUANTIZE] = fresh, [EST_MLX_ARANGE] = fresh, [EST_MLX_FULL] = fresh, [EST_MLX_RMS_NORM] = softmax,
	[EST_MLX_RMS_NORM_VJP] = rms_norm_gradient, [EST_MLX_ROPE] = rope, [EST_MLX_CROSS_ENTROPY] = fresh,
	[EST_MLX_CROSS_ENTROPY_VJP] = fresh,
};

void est_mlx_place(struct est_mlx_run *run)
{
	places[est_mlx_array_of(run, run->array)->op](run);
}
