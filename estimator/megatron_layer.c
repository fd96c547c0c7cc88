/* TransformerLayer of megatron/core/transformer: MLP and MoELayer over the modules of Transformer Engine, attention beside them
 * (megatron_attention.c). Gradients of weights are added to Megatron's buffer by the product that makes them. */
#include "estimator/megatron_run.h"

/* ---- MLP: fc1 with its norm, SwiGLU in one kernel, fc2 */

static struct est_tensor mlp(const struct est_megatron *run, struct est_megatron_layer *layer, uint64_t ffn)
{
	est_megatron_keep(layer, EST_MEGATRON_UP, est_megatron_column(run, run->hidden, 2 * ffn));
	est_megatron_keep(layer, EST_MEGATRON_ACTIVATED, est_megatron_take(run, run->tokens * ffn));
	return est_megatron_row(run);
}

/* The gradient of the output is borrowed -> that of the normed input */
static struct est_tensor mlp_backward(const struct est_megatron *run, struct est_megatron_layer *layer, uint64_t ffn)
{
	struct est_tensor activated = est_megatron_row_backward(run, ffn), up;

	est_megatron_release(run, layer, EST_MEGATRON_ACTIVATED);
	up = est_megatron_another(run, run->tokens * 2 * ffn, activated);
	est_megatron_release(run, layer, EST_MEGATRON_UP);
	return est_megatron_column_backward(run, run->hidden, up);
}

/* ---- MoELayer with MoEAlltoAllTokenDispatcher and TEGroupedMLP */

static uint64_t shared_ffn(const struct est_megatron *run)
{
	return (uint64_t)(run->model->shared_expert_intermediate_size / run->request->parallelism.tensor);
}

static bool is_sent(const struct est_megatron *run)
{
	return run->request->parallelism.expert > 1;
}

/* Tokens sorted by expert, sent to its rank, sorted by the experts there */
static struct est_tensor dispatch(const struct est_megatron *run)
{
	uint64_t numel = run->pairs * run->hidden;
	struct est_tensor tokens = est_megatron_take(run, numel);

	if (is_sent(run))
		tokens = est_megatron_another(run, numel, tokens);
	return run->experts > 1 && is_sent(run) ? est_megatron_another(run, numel, tokens) : tokens;
}

/* And back: what moves in has the rows of the experts, the result those of the stream */
static struct est_tensor combine(const struct est_megatron *run, struct est_tensor y)
{
	uint64_t numel = run->pairs * run->hidden;

	if (is_sent(run) && run->experts > 1)
		y = est_megatron_another(run, numel, y);
	if (is_sent(run))
		y = est_megatron_another(run, numel, y);
	return est_megatron_another(run, run->rows * run->hidden, y);
}

static struct est_tensor mixture(const struct est_megatron *run, struct est_megatron_layer *layer)
{
	uint64_t ffn = (uint64_t)run->model->moe_intermediate_size;
	struct est_tensor shared = est_none, y;

	if (shared_ffn(run))
		shared = mlp(run, layer, shared_ffn(run));
	est_megatron_keep(layer, EST_MEGATRON_SCORES, est_megatron_take32(run, run->rows * (uint64_t)run->model->num_experts));
	est_megatron_keep(layer, EST_MEGATRON_DISPATCHED, dispatch(run));
	est_megatron_keep(layer, EST_MEGATRON_EXPERT_UP, est_megatron_take(run, run->pairs * 2 * ffn));
	est_megatron_keep(layer, EST_MEGATRON_EXPERT_ACTIVATED, est_megatron_take(run, run->pairs * ffn));
	y = combine(run, est_megatron_take(run, run->pairs * run->hidden));
	if (shared_ffn(run)) {
		y = est_megatron_another(run, run->rows * run->hidden, y);
		est_drop(run->tape, shared);
	}
	return y;
}

static struct est_tensor mixture_backward(const struct est_megatron *run, struct est_megatron_layer *layer)
{
	uint64_t ffn = (uint64_t)run->model->moe_intermediate_size;
	struct est_tensor grad = dispatch(run), of_shared, sum;

	grad = est_megatron_another(run, run->pairs * ffn, grad);
	est_megatron_release(run, layer, EST_MEGATRON_EXPERT_ACTIVATED);
	grad = est_megatron_another(run, run->pairs * 2 * ffn, grad);
	est_megatron_release(run, layer, EST_MEGATRON_EXPERT_UP);
	grad = est_megatron_another(run, run->pairs * run->hidden, grad);
	est_megatron_release(run, layer, EST_MEGATRON_DISPATCHED);
	grad = combine(run, grad);
	est_megatron_release(run, layer, EST_MEGATRON_SCORES);
	if (!shared_ffn(run))
		return grad;
	of_shared = mlp_backward(run, layer, shared_ffn(run));
	sum = est_megatron_another(run, run->rows * run->hidden, of_shared);
	est_drop(run->tape, grad);
	return sum;
}

static bool is_sparse(const struct est_megatron *run, int64_t layer)
{
	return est_model_layer_is_sparse(run->model, layer);
}

static struct est_tensor feed_forward(const struct est_megatron *run, int64_t number, struct est_megatron_layer *layer)
{
	est_megatron_keep(layer, EST_MEGATRON_SECOND_NORMED, est_megatron_take(run, run->rows * run->hidden));
	return est_megatron_add_residual(run, is_sparse(run, number) ? mixture(run, layer) : mlp(run, layer, run->ffn));
}

static struct est_tensor feed_forward_backward(const struct est_megatron *run, int64_t number,
					       struct est_megatron_layer *layer,
					       struct est_tensor grad)
{
	struct est_tensor x = is_sparse(run, number) ? mixture_backward(run, layer) : mlp_backward(run, layer, run->ffn), sum;

	x = est_megatron_another(run, run->rows * run->hidden, x); /* the norm's */
	est_megatron_release(run, layer, EST_MEGATRON_SECOND_NORMED);
	est_megatron_release(run, layer, EST_MEGATRON_RESIDUAL);
	sum = est_megatron_another(run, run->rows * run->hidden, x);
	est_drop(run->tape, grad);
	return sum;
}

/* ---- TransformerLayer */

static void release_all_but_input(const struct est_megatron *run, struct est_megatron_layer *layer)
{
	for (unsigned i = EST_MEGATRON_INPUT + 1; i < EST_MEGATRON_KEPT; i++)
		est_megatron_release(run, layer, (enum est_megatron_kept)i);
}

static struct est_tensor run_layer(const struct est_megatron *run, int64_t number, struct est_megatron_layer *layer)
{
	est_megatron_keep(layer, EST_MEGATRON_RESIDUAL, est_megatron_attention(run, layer));
	return feed_forward(run, number, layer);
}

struct est_tensor est_megatron_layer_forward(const struct est_megatron *run, int64_t number,
					     struct est_megatron_layer *layer,
					     struct est_tensor x)
{
	struct est_tensor y;

	est_megatron_keep(layer, EST_MEGATRON_INPUT, x);
	y = run_layer(run, number, layer);
	if (run->request->checkpointing == EST_CHECKPOINT_FULL)
		release_all_but_input(run, layer);
	return y;
}

struct est_tensor est_megatron_layer_backward(const struct est_megatron *run, int64_t number,
					      struct est_megatron_layer *layer,
					      struct est_tensor grad)
{
	if (run->request->checkpointing == EST_CHECKPOINT_FULL)
		est_drop(run->tape, run_layer(run, number, layer));
	grad = est_megatron_attention_backward(run, layer, feed_forward_backward(run, number, layer, grad));
	est_megatron_release(run, layer, EST_MEGATRON_INPUT);
	return grad;
}

/* ---- parameters: weights one by one, vectors together */

size_t est_megatron_list_layer(const struct est_megatron *run, int64_t layer, uint64_t ret[EST_MEGATRON_WEIGHTS])
{
	bool sparse = is_sparse(run, layer);
	uint64_t ffn = sparse ? shared_ffn(run) : run->ffn;
	size_t count = est_megatron_list_attention(run, ret);

	ret[count++] = 2 * ffn * run->hidden;
	ret[count++] = ffn * run->hidden;
	if (sparse)
		ret[count++] = run->hidden * ((uint64_t)run->model->num_experts + (run->model->shared_expert_gate ? 1 : 0));
	return count;
}

uint64_t est_megatron_expert_numel(const struct est_megatron *run, int64_t layer)
{
	return is_sparse(run, layer) ? (uint64_t)run->model->moe_intermediate_size * run->hidden : 0;
}
