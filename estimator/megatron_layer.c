/* TransformerLayer of megatron/core/transformer: SelfAttention, MLASelfAttention, MLP and MoELayer over the modules of Transformer
 * Engine. Gradients of weights are added to Megatron's buffer by the product that makes them. */
#include "estimator/megatron.h"

#include "estimator/ops.h"

struct est_tensor est_megatron_take(const struct est_megatron *run, uint64_t numel)
{
	return est_hold(est_empty_as(run->tape, numel, EST_16BIT, EST_ACTIVATIONS));
}

static struct est_tensor take32(const struct est_megatron *run, uint64_t numel)
{
	return est_hold(est_empty_as(run->tape, numel, EST_32BIT, EST_ACTIVATIONS));
}

struct est_tensor est_megatron_gather(const struct est_megatron *run, uint64_t width)
{
	return run->splits_sequence ? est_megatron_take(run, run->tokens * width) : est_none;
}

static void keep(struct est_megatron_layer *layer, enum est_megatron_kept what, struct est_tensor tensor)
{
	layer->kept[what] = tensor;
}

static void release(const struct est_megatron *run, struct est_megatron_layer *layer, enum est_megatron_kept what)
{
	est_drop(run->tape, layer->kept[what]);
	layer->kept[what] = est_none;
}

/* ---- modules of Transformer Engine */

/* LayerNorm, Linear of column-parallel outputs: gathers its input for as long as the product takes, and keeps it as it was */
static struct est_tensor column_linear(const struct est_megatron *run, uint64_t in, uint64_t out)
{
	struct est_tensor whole = est_megatron_gather(run, in), y = est_megatron_take(run, run->tokens * out);

	est_drop(run->tape, whole);
	return y;
}

/* The gradient moves in -> that of the input, summed over the ranks. The input is gathered once more for the weight's. */
static struct est_tensor column_linear_backward(const struct est_megatron *run, uint64_t in, struct est_tensor grad)
{
	struct est_tensor whole = est_megatron_gather(run, in), dgrad = est_megatron_take(run, run->tokens * in), part;

	if (run->splits_sequence) {
		part = est_megatron_take(run, run->rows * in);
		est_drop(run->tape, dgrad);
		dgrad = part;
	}
	est_drop(run->tape, whole);
	est_drop(run->tape, grad);
	return dgrad;
}

/* Linear of row-parallel inputs: the ranks' results are summed, and scattered where the sequence is split */
static struct est_tensor row_linear(const struct est_megatron *run)
{
	struct est_tensor y = est_megatron_take(run, run->tokens * run->hidden), part;

	if (!run->splits_sequence)
		return y;
	part = est_megatron_take(run, run->rows * run->hidden);
	est_drop(run->tape, y);
	return part;
}

/* grad is borrowed */
static struct est_tensor row_linear_backward(const struct est_megatron *run, uint64_t in)
{
	struct est_tensor whole = est_megatron_gather(run, run->hidden), dgrad = est_megatron_take(run, run->tokens * in);

	est_drop(run->tape, whole);
	return dgrad;
}

/* A norm's backward, or a sum of two gradients, of width features: another tensor for the one that moves in */
static struct est_tensor another(const struct est_megatron *run, uint64_t numel, struct est_tensor old)
{
	struct est_tensor tensor = est_megatron_take(run, numel);

	est_drop(run->tape, old);
	return tensor;
}

/* bias_dropout_add(): residual + y; y moves in */
static struct est_tensor add_residual(const struct est_megatron *run, struct est_tensor y)
{
	return another(run, run->rows * run->hidden, y);
}

/* ---- SelfAttention */

static bool norms_heads(const struct est_model *model)
{
	return model->qk_norm == EST_QK_NORM_HEAD;
}

/* linear_qkv, the heads' norms, fused rotary embedding; value is made contiguous for the kernel */
static void project(const struct est_megatron *run, struct est_megatron_layer *layer)
{
	uint64_t query = run->heads * run->query_dim, key = run->key_value_heads * run->query_dim;
	struct est_tensor mixed, q = est_none, k = est_none;

	keep(layer, EST_MEGATRON_NORMED, est_megatron_take(run, run->rows * run->hidden));
	mixed = column_linear(run, run->hidden, query + 2 * key);
	if (run->key_value_heads > 1 || norms_heads(run->model)) /* groups of queries, side by side */
		q = est_megatron_take(run, run->tokens * query);
	if (norms_heads(run->model)) {
		keep(layer, EST_MEGATRON_QUERY_NORMED, q);
		q = est_megatron_take(run, run->tokens * query);
		keep(layer, EST_MEGATRON_KEY_NORMED, est_megatron_take(run, run->tokens * key));
		k = est_megatron_take(run, run->tokens * key);
	}
	keep(layer, EST_MEGATRON_QUERY, est_megatron_take(run, run->tokens * query));
	est_drop(run->tape, q);
	keep(layer, EST_MEGATRON_KEY, est_megatron_take(run, run->tokens * key));
	est_drop(run->tape, k);
	keep(layer, EST_MEGATRON_VALUE, est_megatron_take(run, run->tokens * key));
	est_drop(run->tape, mixed);
}

/* The gradients of query, key and value move in -> that of the normed input */
static struct est_tensor project_backward(const struct est_megatron *run, struct est_megatron_layer *layer, struct est_tensor grad[3])
{
	uint64_t query = run->heads * run->query_dim, key = run->key_value_heads * run->query_dim;
	struct est_tensor mixed;

	grad[0] = another(run, run->tokens * query, grad[0]);
	grad[1] = another(run, run->tokens * key, grad[1]);
	if (norms_heads(run->model)) {
		grad[0] = another(run, run->tokens * query, grad[0]);
		grad[1] = another(run, run->tokens * key, grad[1]);
		release(run, layer, EST_MEGATRON_QUERY_NORMED);
		release(run, layer, EST_MEGATRON_KEY_NORMED);
	}
	mixed = est_megatron_take(run, run->tokens * (query + 2 * key));
	for (unsigned i = 0; i < 3; i++)
		est_drop(run->tape, grad[i]);
	return column_linear_backward(run, run->hidden, mixed);
}

/* ---- MLASelfAttention */

static void project_query(const struct est_megatron *run, struct est_megatron_layer *layer, struct est_tensor *ret_query)
{
	uint64_t rank = (uint64_t)run->model->q_lora_rank;

	if (!rank) {
		*ret_query = column_linear(run, run->hidden, run->heads * run->query_dim);
		return;
	}
	keep(layer, EST_MEGATRON_QUERY_LATENT, est_megatron_take(run, run->rows * rank));
	keep(layer, EST_MEGATRON_QUERY_LATENT_NORMED, est_megatron_take(run, run->rows * rank));
	*ret_query = column_linear(run, rank, run->heads * run->query_dim);
}

/* Down to the latent, whose norm is fused with the product up; query and key are concatenations */
static void project_latent(const struct est_megatron *run, struct est_megatron_layer *layer)
{
	const struct est_model *model = run->model;
	uint64_t rank = (uint64_t)model->kv_lora_rank, rope = (uint64_t)model->qk_rope_head_dim;
	struct est_tensor query, position, up;

	keep(layer, EST_MEGATRON_NORMED, est_megatron_take(run, run->rows * run->hidden));
	keep(layer, EST_MEGATRON_LATENT, est_megatron_take(run, run->rows * (rank + rope)));
	position = est_megatron_gather(run, rope);
	project_query(run, layer, &query);
	keep(layer, EST_MEGATRON_LATENT_NORMED, est_megatron_take(run, run->rows * rank));
	up = column_linear(run, rank, run->heads * ((uint64_t)model->qk_nope_head_dim + run->value_dim));
	keep(layer, EST_MEGATRON_QUERY, est_megatron_take(run, run->tokens * run->heads * run->query_dim));
	est_drop(run->tape, query);
	keep(layer, EST_MEGATRON_KEY, est_megatron_take(run, run->tokens * run->heads * run->query_dim));
	est_drop(run->tape, position);
	keep(layer, EST_MEGATRON_VALUE, est_megatron_take(run, run->tokens * run->heads * run->value_dim));
	est_drop(run->tape, up);
}

static struct est_tensor project_query_backward(const struct est_megatron *run, struct est_megatron_layer *layer, struct est_tensor grad)
{
	uint64_t rank = (uint64_t)run->model->q_lora_rank;

	if (!rank)
		return column_linear_backward(run, run->hidden, grad);
	grad = another(run, run->rows * rank, column_linear_backward(run, rank, grad));
	release(run, layer, EST_MEGATRON_QUERY_LATENT_NORMED);
	release(run, layer, EST_MEGATRON_QUERY_LATENT);
	return another(run, run->rows * run->hidden, grad);
}

static struct est_tensor project_latent_backward(const struct est_megatron *run, struct est_megatron_layer *layer,
						 struct est_tensor grad[3])
{
	const struct est_model *model = run->model;
	uint64_t rank = (uint64_t)model->kv_lora_rank, rope = (uint64_t)model->qk_rope_head_dim;
	struct est_tensor up = est_megatron_take(run, run->tokens * run->heads * ((uint64_t)model->qk_nope_head_dim + run->value_dim));
	struct est_tensor latent, of_query, of_latent;

	est_drop(run->tape, grad[1]);
	est_drop(run->tape, grad[2]);
	latent = another(run, run->rows * rank, column_linear_backward(run, rank, up));
	release(run, layer, EST_MEGATRON_LATENT_NORMED);
	latent = another(run, run->rows * (rank + rope), latent);
	release(run, layer, EST_MEGATRON_LATENT);
	of_latent = another(run, run->rows * run->hidden, latent);
	of_query = project_query_backward(run, layer, another(run, run->tokens * run->heads * run->query_dim, grad[0]));
	latent = another(run, run->rows * run->hidden, of_query);
	est_drop(run->tape, of_latent);
	return latent;
}

/* ---- core attention: flash, of FlashAttention or cuDNN; recomputed where checkpoints are selective */

static bool recomputes_core(const struct est_megatron *run)
{
	return run->request->checkpointing == EST_CHECKPOINT_SELECTIVE;
}

static void attend(const struct est_megatron *run, struct est_megatron_layer *layer)
{
	struct est_tensor sums;

	keep(layer, EST_MEGATRON_ATTENDED, est_megatron_take(run, run->tokens * run->heads * run->value_dim));
	sums = take32(run, run->tokens * run->heads);
	if (recomputes_core(run))
		est_drop(run->tape, sums);
	else
		keep(layer, EST_MEGATRON_LOGSUMEXP, sums);
}

/* Flash attention's backward: the query's gradient in fp32 first, and those of grouped keys and values for each head */
static void attend_backward(const struct est_megatron *run, struct est_megatron_layer *layer, struct est_tensor grad, struct est_tensor ret[3])
{
	uint64_t query = run->tokens * run->heads * run->query_dim, value = run->tokens * run->heads * run->value_dim;
	uint64_t groups = run->model->kv_lora_rank ? run->heads : run->key_value_heads;
	struct est_tensor again = est_none, sums = est_none, delta, accumulated, expanded[2] = { { 0 } };

	if (recomputes_core(run)) {
		again = est_megatron_take(run, value);
		sums = take32(run, run->tokens * run->heads);
	}
	ret[0] = est_megatron_take(run, query);
	ret[1] = est_megatron_take(run, query / run->heads * groups);
	ret[2] = est_megatron_take(run, value / run->heads * groups);
	delta = take32(run, run->tokens * run->heads);
	accumulated = take32(run, query);
	if (groups != run->heads) {
		expanded[0] = est_megatron_take(run, query);
		expanded[1] = est_megatron_take(run, value);
	}
	est_drop(run->tape, expanded[1]);
	est_drop(run->tape, expanded[0]);
	est_drop(run->tape, accumulated);
	est_drop(run->tape, delta);
	est_drop(run->tape, sums);
	est_drop(run->tape, again);
	est_drop(run->tape, grad);
	release(run, layer, EST_MEGATRON_LOGSUMEXP);
	release(run, layer, EST_MEGATRON_VALUE);
	release(run, layer, EST_MEGATRON_KEY);
	release(run, layer, EST_MEGATRON_QUERY);
}

static struct est_tensor attention(const struct est_megatron *run, struct est_megatron_layer *layer)
{
	if (run->model->kv_lora_rank)
		project_latent(run, layer);
	else
		project(run, layer);
	attend(run, layer);
	return add_residual(run, row_linear(run));
}

/* grad, that of attention's output, moves in -> that of the layer's input */
static struct est_tensor attention_backward(const struct est_megatron *run, struct est_megatron_layer *layer, struct est_tensor grad)
{
	struct est_tensor attended = row_linear_backward(run, run->heads * run->value_dim), parts[3], x, sum;

	release(run, layer, EST_MEGATRON_ATTENDED);
	attend_backward(run, layer, attended, parts);
	x = run->model->kv_lora_rank ? project_latent_backward(run, layer, parts) : project_backward(run, layer, parts);
	x = another(run, run->rows * run->hidden, x); /* the norm's */
	release(run, layer, EST_MEGATRON_NORMED);
	sum = another(run, run->rows * run->hidden, x);
	est_drop(run->tape, grad);
	return sum;
}

/* ---- MLP: fc1 with its norm, SwiGLU in one kernel, fc2 */

static struct est_tensor mlp(const struct est_megatron *run, struct est_megatron_layer *layer, uint64_t ffn)
{
	keep(layer, EST_MEGATRON_UP, column_linear(run, run->hidden, 2 * ffn));
	keep(layer, EST_MEGATRON_ACTIVATED, est_megatron_take(run, run->tokens * ffn));
	return row_linear(run);
}

/* The gradient of the output is borrowed -> that of the normed input */
static struct est_tensor mlp_backward(const struct est_megatron *run, struct est_megatron_layer *layer, uint64_t ffn)
{
	struct est_tensor activated = row_linear_backward(run, ffn), up;

	release(run, layer, EST_MEGATRON_ACTIVATED);
	up = another(run, run->tokens * 2 * ffn, activated);
	release(run, layer, EST_MEGATRON_UP);
	return column_linear_backward(run, run->hidden, up);
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
		tokens = another(run, numel, tokens);
	return run->experts > 1 && is_sent(run) ? another(run, numel, tokens) : tokens;
}

/* And back: what moves in has the rows of the experts, the result those of the stream */
static struct est_tensor combine(const struct est_megatron *run, struct est_tensor y)
{
	uint64_t numel = run->pairs * run->hidden;

	if (is_sent(run) && run->experts > 1)
		y = another(run, numel, y);
	if (is_sent(run))
		y = another(run, numel, y);
	return another(run, run->rows * run->hidden, y);
}

static struct est_tensor mixture(const struct est_megatron *run, struct est_megatron_layer *layer)
{
	uint64_t ffn = (uint64_t)run->model->moe_intermediate_size;
	struct est_tensor shared = est_none, y;

	if (shared_ffn(run))
		shared = mlp(run, layer, shared_ffn(run));
	keep(layer, EST_MEGATRON_SCORES, take32(run, run->rows * (uint64_t)run->model->num_experts));
	keep(layer, EST_MEGATRON_DISPATCHED, dispatch(run));
	keep(layer, EST_MEGATRON_EXPERT_UP, est_megatron_take(run, run->pairs * 2 * ffn));
	keep(layer, EST_MEGATRON_EXPERT_ACTIVATED, est_megatron_take(run, run->pairs * ffn));
	y = combine(run, est_megatron_take(run, run->pairs * run->hidden));
	if (shared_ffn(run)) {
		y = another(run, run->rows * run->hidden, y);
		est_drop(run->tape, shared);
	}
	return y;
}

static struct est_tensor mixture_backward(const struct est_megatron *run, struct est_megatron_layer *layer)
{
	uint64_t ffn = (uint64_t)run->model->moe_intermediate_size;
	struct est_tensor grad = dispatch(run), of_shared, sum;

	grad = another(run, run->pairs * ffn, grad);
	release(run, layer, EST_MEGATRON_EXPERT_ACTIVATED);
	grad = another(run, run->pairs * 2 * ffn, grad);
	release(run, layer, EST_MEGATRON_EXPERT_UP);
	grad = another(run, run->pairs * run->hidden, grad);
	release(run, layer, EST_MEGATRON_DISPATCHED);
	grad = combine(run, grad);
	release(run, layer, EST_MEGATRON_SCORES);
	if (!shared_ffn(run))
		return grad;
	of_shared = mlp_backward(run, layer, shared_ffn(run));
	sum = another(run, run->rows * run->hidden, of_shared);
	est_drop(run->tape, grad);
	return sum;
}

static bool is_sparse(const struct est_megatron *run, int64_t layer)
{
	return est_model_layer_is_sparse(run->model, layer);
}

static struct est_tensor feed_forward(const struct est_megatron *run, int64_t number, struct est_megatron_layer *layer)
{
	keep(layer, EST_MEGATRON_SECOND_NORMED, est_megatron_take(run, run->rows * run->hidden));
	return add_residual(run, is_sparse(run, number) ? mixture(run, layer) : mlp(run, layer, run->ffn));
}

static struct est_tensor feed_forward_backward(const struct est_megatron *run, int64_t number, struct est_megatron_layer *layer,
					       struct est_tensor grad)
{
	struct est_tensor x = is_sparse(run, number) ? mixture_backward(run, layer) : mlp_backward(run, layer, run->ffn), sum;

	x = another(run, run->rows * run->hidden, x); /* the norm's */
	release(run, layer, EST_MEGATRON_SECOND_NORMED);
	release(run, layer, EST_MEGATRON_RESIDUAL);
	sum = another(run, run->rows * run->hidden, x);
	est_drop(run->tape, grad);
	return sum;
}

/* ---- TransformerLayer */

static void release_all_but_input(const struct est_megatron *run, struct est_megatron_layer *layer)
{
	for (unsigned i = EST_MEGATRON_INPUT + 1; i < EST_MEGATRON_KEPT; i++)
		release(run, layer, (enum est_megatron_kept)i);
}

static struct est_tensor run_layer(const struct est_megatron *run, int64_t number, struct est_megatron_layer *layer)
{
	keep(layer, EST_MEGATRON_RESIDUAL, attention(run, layer));
	return feed_forward(run, number, layer);
}

struct est_tensor est_megatron_layer_forward(const struct est_megatron *run, int64_t number, struct est_megatron_layer *layer,
					     struct est_tensor x)
{
	struct est_tensor y;

	keep(layer, EST_MEGATRON_INPUT, x);
	y = run_layer(run, number, layer);
	if (run->request->checkpointing == EST_CHECKPOINT_FULL)
		release_all_but_input(run, layer);
	return y;
}

struct est_tensor est_megatron_layer_backward(const struct est_megatron *run, int64_t number, struct est_megatron_layer *layer,
					      struct est_tensor grad)
{
	if (run->request->checkpointing == EST_CHECKPOINT_FULL)
		est_drop(run->tape, run_layer(run, number, layer));
	grad = attention_backward(run, layer, feed_forward_backward(run, number, layer, grad));
	release(run, layer, EST_MEGATRON_INPUT);
	return grad;
}

/* ---- parameters: weights one by one, vectors together */

static size_t list_attention(const struct est_megatron *run, uint64_t *ret)
{
	const struct est_model *model = run->model;
	uint64_t query = run->heads * run->query_dim, mixed = query + 2 * run->key_value_heads * run->query_dim;
	uint64_t rank = (uint64_t)model->kv_lora_rank, query_rank = (uint64_t)model->q_lora_rank;
	size_t count = 0;

	ret[count++] = run->heads * run->value_dim * run->hidden;
	if (!rank) {
		ret[count++] = mixed * run->hidden;
		ret[count++] = (model->qkv_bias ? mixed : 0) + (norms_heads(model) ? 2 * run->query_dim : 0) + 2 * run->hidden;
		return count;
	}
	ret[count++] = run->hidden * (rank + (uint64_t)model->qk_rope_head_dim);
	ret[count++] = rank * run->heads * ((uint64_t)model->qk_nope_head_dim + run->value_dim);
	ret[count++] = query_rank ? query_rank * run->hidden : run->hidden * query;
	ret[count++] = query_rank * query;
	ret[count++] = rank + query_rank + 2 * run->hidden;
	return count;
}

size_t est_megatron_list_layer(const struct est_megatron *run, int64_t layer, uint64_t ret[EST_MEGATRON_WEIGHTS])
{
	bool sparse = is_sparse(run, layer);
	uint64_t ffn = sparse ? shared_ffn(run) : run->ffn;
	size_t count = list_attention(run, ret);

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
