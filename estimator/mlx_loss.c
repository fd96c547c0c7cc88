/* default_loss() of mlx_lm/tuner/trainer.py over mlx/nn/losses.py. */
#include "estimator/mlx_step.h"

/* mx.fast.cross_entropy(): fp32 of each token, the logits as they are. */
static uint32_t fused(struct est_mlx_step *step, uint32_t logits, uint32_t targets)
{
	const uint32_t inputs[2] = { logits, targets };
	uint32_t loss = est_mlx_new(&step->graph, EST_MLX_CROSS_ENTROPY, EST_MLX_F32, EST_MLX_SHAPE(step->batch, step->length), 0, 2, inputs);

	return est_mlx_astype(&step->graph, loss, step->type);
}

/* The logits less their maximum, their logarithm of sums, less the one of the target. */
static uint32_t unfused(struct est_mlx_step *step, uint32_t logits, uint32_t targets)
{
	struct est_mlx_graph *graph = &step->graph;
	struct est_mlx_shape column = EST_MLX_SHAPE(step->batch, step->length, 1);
	uint32_t most = est_mlx_new(graph, EST_MLX_REDUCE, step->type, column, 1U << 31, 1, &logits), score[2], sum;

	most = est_mlx_like(graph, EST_MLX_STOP, most, 0, 1, &most);
	score[0] = logits = est_mlx_binary(graph, EST_MLX_SUBTRACT, logits, most);
	score[1] = est_mlx_expand(graph, targets, 1U << 2);
	score[0] = est_mlx_new(graph, EST_MLX_GATHER_AXIS, step->type, column, 0, 2, score);
	sum = est_mlx_new(graph, EST_MLX_LOGSUMEXP, step->type, column, 0, 1, &logits);
	return est_mlx_binary(graph, EST_MLX_SUBTRACT, est_mlx_squeeze(graph, sum, 1U << 2), est_mlx_squeeze(graph, score[0], 1U << 2));
}

/* lengths[:, i:i + 1] */
static uint32_t bound(struct est_mlx_step *step, uint32_t lengths, uint64_t i)
{
	return est_mlx_new(&step->graph, EST_MLX_SLICE, EST_MLX_I32, EST_MLX_SHAPE(step->batch, 1), i, 1, &lengths);
}

void est_mlx_loss(struct est_mlx_step *step, uint32_t logits, uint32_t targets, uint32_t lengths, uint32_t ret_outputs[2])
{
	struct est_mlx_graph *graph = &step->graph;
	uint32_t steps = est_mlx_new(graph, EST_MLX_ARANGE, EST_MLX_I32, EST_MLX_SHAPE(step->length), 0, 0, NULL), mask, loss, tokens;

	mask = est_mlx_compare(graph, est_mlx_compare(graph, steps, bound(step, lengths, 0), 0),
			       est_mlx_compare(graph, steps, bound(step, lengths, 1), 1), 2);
	loss = step->fused_loss ? fused(step, logits, targets) : unfused(step, logits, targets);
	loss = est_mlx_binary(graph, EST_MLX_MULTIPLY, loss, mask);
	tokens = est_mlx_sum(graph, mask, 3, false);
	loss = est_mlx_sum(graph, est_mlx_astype(graph, loss, EST_MLX_F32), 3, false);
	ret_outputs[0] = est_mlx_binary(graph, EST_MLX_DIVIDE, loss, tokens);
	ret_outputs[1] = est_mlx_like(graph, EST_MLX_STOP, tokens, 0, 1, &tokens);
}
