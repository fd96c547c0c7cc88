/* Primitives that give an input's buffer a second name, and reshaping, which does where it can (mlx/backend/common/common.cpp). */
#include "estimator/mlx_eval.h"

#include <string.h>

void est_mlx_place_view(struct est_mlx_run *run)
{
	for (uint32_t i = 0; i < est_mlx_array_of(run, run->array)->outputs; i++)
		est_mlx_share_as(run, run->array + i, est_mlx_input_of(run, i));
}

/* The output of the function, which comes after its arguments. */
void est_mlx_place_checkpoint(struct est_mlx_run *run)
{
	est_mlx_share_as(run, run->array, est_mlx_input_of(run, est_mlx_array_of(run, run->array)->input_count - 1U));
}

/* is row (column) contiguous: strides are products of the sizes behind (before) */
static void find_flags(const struct est_mlx_shape *shape, struct est_mlx_place *place)
{
	int64_t ahead = 1, behind = 1;

	if (!place->contiguous || place->span != est_mlx_elements(shape))
		return;
	place->row = place->column = true;
	for (unsigned i = 0, last = shape->dims; i < shape->dims; i++) {
		last--;
		place->column &= place->strides[i] == ahead || shape->size[i] == 1;
		ahead *= (int64_t)shape->size[i];
		place->row &= place->strides[last] == behind || shape->size[last] == 1;
		behind *= (int64_t)shape->size[last];
	}
}

void est_mlx_place_transposed(struct est_mlx_run *run)
{
	const struct est_mlx_array *array = est_mlx_array_of(run, run->array);
	const struct est_mlx_place *from = &run->places[est_mlx_input_of(run, 0)];
	struct est_mlx_place *place = &run->places[run->array];

	est_mlx_share_as(run, run->array, est_mlx_input_of(run, 0));
	for (unsigned i = 0; i < array->shape.dims; i++)
		place->strides[i] = from->strides[array->extra >> 4 * i & 15];
	find_flags(&array->shape, place);
}

void est_mlx_place_expanded(struct est_mlx_run *run)
{
	const struct est_mlx_array *array = est_mlx_array_of(run, run->array);
	struct est_mlx_place *place = &run->places[run->array];
	unsigned next = 0;

	est_mlx_share_as(run, run->array, est_mlx_input_of(run, 0));
	for (unsigned i = 0; i < array->shape.dims; i++)
		place->strides[i] = array->extra >> i & 1 ? 1 : run->places[est_mlx_input_of(run, 0)].strides[next++];
}

void est_mlx_place_squeezed(struct est_mlx_run *run)
{
	const struct est_mlx_array *array = est_mlx_array_of(run, run->array), *from = est_mlx_array_of(run, est_mlx_input_of(run, 0));
	struct est_mlx_place *place = &run->places[run->array];
	unsigned kept = 0;

	est_mlx_share_as(run, run->array, est_mlx_input_of(run, 0));
	for (unsigned i = 0; i < from->shape.dims; i++)
		if (!(array->extra >> i & 1))
			place->strides[kept++] = run->places[est_mlx_input_of(run, 0)].strides[i];
}

void est_mlx_place_broadcast(struct est_mlx_run *run)
{
	const struct est_mlx_array *array = est_mlx_array_of(run, run->array), *from = est_mlx_array_of(run, est_mlx_input_of(run, 0));
	const struct est_mlx_place *source = &run->places[est_mlx_input_of(run, 0)];
	struct est_mlx_place *place = &run->places[run->array];
	unsigned ahead = array->shape.dims - from->shape.dims;

	est_mlx_share_as(run, run->array, est_mlx_input_of(run, 0));
	if (from->op == EST_MLX_SCALAR) {
		place->span = 1;
		place->contiguous = true;
	}
	memset(place->strides, 0, sizeof(place->strides));
	for (unsigned i = 0; i < from->shape.dims; i++)
		if (from->shape.size[i] == array->shape.size[ahead + i])
			place->strides[ahead + i] = source->strides[i];
	if (est_mlx_elements(&array->shape) > est_mlx_elements(&from->shape))
		place->row = place->column = false;
}

/* The dimensions of an array that lie one behind the other, joined. */
static unsigned collapse(const struct est_mlx_shape *shape, const struct est_mlx_place *place, uint64_t *size, int64_t *strides)
{
	unsigned count = 0;

	for (unsigned i = 0; i < shape->dims; i++) {
		if (shape->size[i] == 1)
			continue;
		if (count > 0 && strides[count - 1] == place->strides[i] * (int64_t)shape->size[i]) {
			size[count - 1] *= shape->size[i];
			strides[count - 1] = place->strides[i];
		} else {
			size[count] = shape->size[i];
			strides[count++] = place->strides[i];
		}
	}
	return count;
}

/* prepare_reshape(): whether the new dimensions fit in those that are contiguous; fills strides. */
static bool fits_without_copy(const struct est_mlx_run *run, int64_t *ret_strides)
{
	const struct est_mlx_shape *to = &est_mlx_array_of(run, run->array)->shape;
	uint64_t size[EST_MLX_DIMS];
	int64_t strides[EST_MLX_DIMS];
	uint32_t input = est_mlx_input_of(run, 0);
	unsigned count = collapse(&est_mlx_array_of(run, input)->shape, &run->places[input], size, strides), j = 0;

	for (unsigned i = 0; i < to->dims; i++) {
		if (j < count && size[j] % to->size[i] == 0) {
			size[j] /= to->size[i];
			ret_strides[i] = (int64_t)size[j] * strides[j];
			j += size[j] == 1;
		} else if (to->size[i] == 1 && i > 0) {
			ret_strides[i] = ret_strides[i - 1];
		} else {
			return false;
		}
	}
	return true;
}

void est_mlx_place_reshaped(struct est_mlx_run *run)
{
	const struct est_mlx_place *from = &run->places[est_mlx_input_of(run, 0)];
	struct est_mlx_place *place = &run->places[run->array], rows = { 0 };
	int64_t strides[EST_MLX_DIMS] = { 0 };

	est_mlx_lay_rows(&est_mlx_array_of(run, run->array)->shape, &rows);
	if (from->row) {
		est_mlx_share_as(run, run->array, est_mlx_input_of(run, 0));
		memcpy(place->strides, rows.strides, sizeof(strides));
		place->column = rows.column;
	} else if (fits_without_copy(run, strides)) {
		est_mlx_share_as(run, run->array, est_mlx_input_of(run, 0));
		memcpy(place->strides, strides, sizeof(strides));
	} else {
		est_mlx_place_rows(run, run->array);
		run->kernels = 1;
	}
}
