/* SelfAttention and MLASelfAttention of megatron/core/transformer, around a flash kernel. */
#include "estimator/megatron_run.h"

static bool norms_heads(const struct est_model *model)
{
	return model->qk_norm == EST_QK_NORM_HEAD;
}

/* linear_qkv, the heads' norms, fused rotary embedding; value is made contiguous for the kernel */
static void project(const struct est_megatron *run, struct est_megatron_layer *layer)
{
	uint64_t query = run->heads * run->query_dim, key = run->key_value_heads * run->query_dim;
	struct est_tensor mixed, q = est_none, k = est_none;

	est_megatron_keep(layer, EST_MEGATRON_NORMED, est_megatron_take(run, run->rows * run->hidden));
	mixed = est_megatron_column(run, run->hidden, query + 2 * key);
	if (run->key_value_heads > 1 || norms_heads(run->model)) /* groups of queries, side by side */
		q = est_megatron_take(run, run->tokens * query);
	if (norms_heads(run->model)) {
		est_megatron_keep(layer, EST_MEGATRON_QUERY_NORMED, q);
		q = est_megatron_take(run, run->tokens * query);
		est_megatron_keep(layer, EST_MEGATRON_KEY_NORMED, est_megatron_take(run, run->tokens * key));
		k = est_megatron_take(run, run->tokens * key);
	}
	est_megatron_keep(layer, EST_MEGATRON_QUERY, est_megatron_take(run, run->tokens * query));
	est_drop(run->tape, q);
	est_megatron_keep(layer, EST_MEGATRON_KEY, est_megatron_take(run, run->tokens * key));
	est_drop(run->tape, k);
	est_megatron_keep(layer, EST_MEGATRON_VALUE, est_megatron_take(run, run->tokens * key));
	est_drop(run->tape, mixed);
}

/* The gradients of query, key and value move in -> that of the normed input */
static struct est_tensor project_backward(const struct est_megatron *run, struct est_megatron_layer *layer,
					  struct est_tensor grad[3])
{
	uint64_t query = run->heads * run->query_dim, key = run->key_value_heads * run->query_dim;
	struct est_tensor mixed;

	grad[0] = est_megatron_another(run, run->tokens * query, grad[0]);
	grad[1] = est_megatron_another(run, run->tokens * key, grad[1]);
	if (norms_heads(run->model)) {
		grad[0] = est_megatron_another(run, run->tokens * query, grad[0]);
		grad[1] = est_megatron_another(run, run->tokens * key, grad[1]);
		est_megatron_release(run, layer, EST_MEGATRON_QUERY_NORMED);
		est_megatron_release(run, layer, EST_MEGATRON_KEY_NORMED);
	}
	mixed = est_megatron_take(run, run->tokens * (query + 2 * key));
	for (unsigned i = 0; i < 3; i++)
		est_drop(run->tape, grad[i]);
	return est_megatron_column_backward(run, run->hidden, mixed);
}

/* ---- MLASelfAttention */

static void project_query(const struct est_megatron *run, struct est_megatron_layer *layer,
			  struct est_tensor *ret_query)
{
	uint64_t rank = (uint64_t)run->model->q_lora_rank;

	if (!rank) {
		*ret_query = est_megatron_column(run, run->hidden, run->heads * run->query_dim);
		return;
	}
	est_megatron_keep(layer, EST_MEGATRON_QUERY_LATENT, est_megatron_take(run, run->rows * rank));
	est_megatron_keep(layer, EST_MEGATRON_QUERY_LATENT_NORMED, est_megatron_take(run, run->rows * rank));
	*ret_query = est_megatron_column(run, rank, run->heads * run->query_dim);
}

/* Down to the latent, whose norm is fused with the product up; query and key are concatenations */
static void project_latent(const struct est_megatron *run, struct est_megatron_layer *layer)
{
	const struct est_model *model = run->model;
	uint64_t rank = (uint64_t)model->kv_lora_rank, rope = (uint64_t)model->qk_rope_head_dim;
	struct est_tensor query, position, up;

	est_megatron_keep(layer, EST_MEGATRON_NORMED, est_megatron_take(run, run->rows * run->hidden));
	est_megatron_keep(layer, EST_MEGATRON_LATENT, est_megatron_take(run, run->rows * (rank + rope)));
	position = est_megatron_gather(run, rope);
	project_query(run, layer, &query);
	est_megatron_keep(layer, EST_MEGATRON_LATENT_NORMED, est_megatron_take(run, run->rows * rank));
	up = est_megatron_column(run, rank, run->heads * ((uint64_t)model->qk_nope_head_dim + run->value_dim));
	est_megatron_keep(layer, EST_MEGATRON_QUERY, est_megatron_take(run, run->tokens * run->heads * run->query_dim));
	est_drop(run->tape, query);
	est_megatron_keep(layer, EST_MEGATRON_KEY, est_megatron_take(run, run->tokens * run->heads * run->query_dim));
	est_drop(run->tape, position);
	est_megatron_keep(layer, EST_MEGATRON_VALUE, est_megatron_take(run, run->tokens * run->heads * run->value_dim));
	est_drop(run->tape, up);
}

static struct est_tensor project_query_backward(const struct est_megatron *run, struct est_megatron_layer *layer,
						struct est_tensor grad)
{
	uint64_t rank = (uint64_t)run->model->q_lora_rank;

	if (!rank)
		return est_megatron_column_backward(run, run->hidden, grad);
	grad = est_megatron_another(run, run->rows * rank, est_megatron_column_backward(run, rank, grad));
	est_megatron_release(run, layer, EST_MEGATRON_QUERY_LATENT_NORMED);
	est_megatron_release(run, layer, EST_MEGATRON_QUERY_LATENT);
	return est_megatron_another(run, run->rows * run->hidden, grad);
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
	latent = est_megatron_another(run, run->rows * rank, est_megatron_column_backward(run, rank, up));
	est_megatron_release(run, layer, EST_MEGATRON_LATENT_NORMED);
	latent = est_megatron_another(run, run->rows * (rank + rope), latent);
	est_megatron_release(run, layer, EST_MEGATRON_LATENT);
	of_latent = est_megatron_another(run, run->rows * run->hidden, latent);
	of_query = project_query_backward(run, layer, est_megatron_another(run, run->tokens * run->heads * run->query_dim, grad[0]));
	latent = est_megatron_another(run, run->rows * run->hidden, of_query);
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

	est_megatron_keep(layer, EST_MEGATRON_ATTENDED, est_megatron_take(run, run->tokens * run->heads * run->value_dim));
	sums = est_megatron_take32(run, run->tokens * run->heads);
	if (recomputes_core(run))
		est_drop(run->tape, sums);
	else
		est_megatron_keep(layer, EST_MEGATRON_LOGSUMEXP, sums);
}

/* Flash attention's backward: the query's gradient in fp32 first, and those of grouped keys and values for each head */
static void attend_backward(const struct est_megatron *run, struct est_megatron_layer *layer, struct est_tensor grad,
			    struct est_tensor ret[3])
{
	uint64_t query = run->tokens * run->heads * run->query_dim, value = run->tokens * run->heads * run->value_dim;
	uint64_t groups = run->model->kv_lora_rank ? run->heads : run->key_value_heads;
	struct est_tensor again = est_none, sums = est_none, delta, accumulated, expanded[2] = { { 0 } };

	if (recomputes_core(run)) {
		again = est_megatron_take(run, value);
		sums = est_megatron_take32(run, run->tokens * run->heads);
	}
	ret[0] = est_megatron_take(run, query);
	ret[1] = est_megatron_take(run, query / run->heads * groups);
	ret[2] = est_megatron_take(run, value / run->heads * groups);
	delta = est_megatron_take32(run, run->tokens * run->heads);
	accumulated = est_megatron_take32(run, query);
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
	est_megatron_release(run, layer, EST_MEGATRON_LOGSUMEXP);
	est_megatron_release(run, layer, EST_MEGATRON_VALUE);
	est_megatron_release(run, layer, EST_MEGATRON_KEY);
	est_megatron_release(run, layer, EST_MEGATRON_QUERY);
}

struct est_tensor est_megatron_attention(const struct est_megatron *run, struct est_megatron_layer *layer)
{
	if (run->model->kv_lora_rank)
		project_latent(run, layer);
	else
		project(run, layer);
	attend(run, layer);
	return est_megatron_add_residual(run, est_megatron_row(run));
}

/* grad, that of attention's output, moves in -> that of the layer's input */
struct est_tensor est_megatron_attention_backward(const struct est_megatron *run, struct est_megatron_layer *layer,
						  struct est_tensor grad)
{
	struct est_tensor attended = est_megatron_row_backward(run, run->heads * run->value_dim), parts[3], x, sum;

	est_megatron_release(run, layer, EST_MEGATRON_ATTENDED);
	attend_backward(run, layer, attended, parts);
	x = run->model->kv_lora_rank ? project_latent_backward(run, layer, parts) : project_backward(run, layer, parts);
	x = est_megatron_another(run, run->rows * run->hidden, x); /* the norm's */
	est_megatron_release(run, layer, EST_MEGATRON_NORMED);
	sum = est_megatron_another(run, run->rows * run->hidden, x);
	est_drop(run->tape, grad);
	return sum;
}

/* ---- weights */

size_t est_megatron_list_attention(const struct est_megatron *run, uint64_t ret[EST_MEGATRON_WEIGHTS])
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
