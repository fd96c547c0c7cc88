/* Transformer Engine's modules, as Megatron calls them. */
#include "estimator/megatron_run.h"

struct est_tensor est_megatron_take(const struct est_megatron *run, uint64_t numel)
{
	return est_hold(est_empty_as(run->tape, numel, EST_16BIT, EST_ACTIVATIONS));
}

struct est_tensor est_megatron_take32(const struct est_megatron *run, uint64_t numel)
{
	return est_hold(est_empty_as(run->tape, numel, EST_32BIT, EST_ACTIVATIONS));
}

struct est_tensor est_megatron_gather(const struct est_megatron *run, uint64_t width)
{
	return run->splits_sequence ? est_megatron_take(run, run->tokens * width) : est_none;
}

/* A norm's backward, or a sum of two gradients, of width features: another tensor for the one that moves in */
struct est_tensor est_megatron_another(const struct est_megatron *run, uint64_t numel, struct est_tensor old)
{
	struct est_tensor tensor = est_megatron_take(run, numel);

	est_drop(run->tape, old);
	return tensor;
}

struct est_tensor est_megatron_scatter(const struct est_megatron *run, uint64_t width, struct est_tensor whole)
{
	return run->splits_sequence ? est_megatron_another(run, run->rows * width, whole) : whole;
}

void est_megatron_keep(struct est_megatron_layer *layer, enum est_megatron_kept what, struct est_tensor tensor)
{
	layer->kept[what] = tensor;
}

void est_megatron_release(const struct est_megatron *run, struct est_megatron_layer *layer, enum est_megatron_kept what)
{
	est_drop(run->tape, layer->kept[what]);
	layer->kept[what] = est_none;
}

/* LayerNorm, Linear of column-parallel outputs: gathers its input for as long as the product takes, and keeps it as it was */
struct est_tensor est_megatron_column(const struct est_megatron *run, uint64_t in, uint64_t out)
{
	struct est_tensor whole = est_megatron_gather(run, in), y = est_megatron_take(run, run->tokens * out);

	est_drop(run->tape, whole);
	return y;
}

/* The gradient moves in -> that of the input, summed over the ranks. The input is gathered once more for the weight's. */
struct est_tensor est_megatron_column_backward(const struct est_megatron *run, uint64_t in, struct est_tensor grad)
{
	struct est_tensor whole = est_megatron_gather(run, in), dgrad = est_megatron_take(run, run->tokens * in);

	dgrad = est_megatron_scatter(run, in, dgrad);
	est_drop(run->tape, whole);
	est_drop(run->tape, grad);
	return dgrad;
}

/* Linear of row-parallel inputs: the ranks' results are summed, and scattered where the sequence is split */
struct est_tensor est_megatron_row(const struct est_megatron *run)
{
	return est_megatron_scatter(run, run->hidden, est_megatron_take(run, run->tokens * run->hidden));
}

/* grad is borrowed */
struct est_tensor est_megatron_row_backward(const struct est_megatron *run, uint64_t in)
{
	struct est_tensor whole = est_megatron_gather(run, run->hidden), dgrad = est_megatron_take(run, run->tokens * in);

	est_drop(run->tape, whole);
	return dgrad;
}

/* bias_dropout_add(): residual + y; y moves in */
struct est_tensor est_megatron_add_residual(const struct est_megatron *run, struct est_tensor y)
{
	return est_megatron_another(run, run->rows * run->hidden, y);
}
