#include "estimator/model.h"

static int64_t norm_parameters(enum est_norm norm, int64_t width)
{
	static const int64_t tensors[] = {
		[EST_RMSNORM] = 1, [EST_LAYERNORM] = 2, [EST_LAYERNORM_NOBIAS] = 1, [EST_NORM_NONPARAMETRIC] = 0,
	};

	return tensors[norm] * width;
}

static int64_t linear_parameters(int64_t in, int64_t out, bool bias)
{
	return in * out + (bias ? out : 0);
}

static int64_t qk_norm_parameters(const struct est_model *model)
{
	int64_t d = model->head_dim;
	int64_t q = model->num_attention_heads * d, k = model->num_key_value_heads * d;

	switch (model->qk_norm) {
	case EST_QK_NORM_HEAD:
		return 2 * d;
	case EST_QK_NORM_HEAD_LAYERNORM:
		return 4 * d;
	case EST_QK_NORM_FULL:
	case EST_QK_NORM_PER_HEAD:
		return q + k;
	case EST_QK_NORM_NONE:
		break;
	}
	return 0;
}

static int64_t attention_parameters(const struct est_model *model)
{
	int64_t h = model->hidden_size;
	int64_t q = model->num_attention_heads * model->head_dim;
	int64_t kv = model->num_key_value_heads * model->head_dim;

	return linear_parameters(h, q, model->qkv_bias) + 2 * linear_parameters(h, kv, model->qkv_bias)
		+ linear_parameters(q, h, model->o_bias) + qk_norm_parameters(model);
}

static int64_t mlp_parameters(const struct est_model *model)
{
	int64_t h = model->hidden_size, f = model->intermediate_size;
	int64_t widening = model->gated_mlp ? 2 : 1;

	return widening * linear_parameters(h, f, model->mlp_bias) + linear_parameters(f, h, model->mlp_bias);
}

static int64_t embedding_parameters(const struct est_model *model)
{
	int64_t h = model->hidden_size;
	int64_t width = model->embed_dim ? model->embed_dim : h;
	int64_t count = model->vocab_size * width;

	if (width != h)
		count += 2 * width * h;
	if (model->position == EST_LEARNED_POSITIONS)
		count += (model->max_position_embeddings + model->position_offset) * h;
	return count;
}

static int64_t head_parameters(const struct est_model *model)
{
	int64_t width = model->embed_dim ? model->embed_dim : model->hidden_size;
	int64_t bias = model->lm_head_bias ? model->vocab_size : 0;

	return (model->tie_word_embeddings ? 0 : model->vocab_size * width) + bias;
}

int64_t est_model_layer_parameters(const struct est_model *model)
{
	return attention_parameters(model) + mlp_parameters(model)
		+ model->norms_per_layer * norm_parameters(model->norm, model->hidden_size);
}

int64_t est_model_count_parameters(const struct est_model *model)
{
	int64_t final_norm = model->final_norm ? norm_parameters(model->norm, model->hidden_size) : 0;

	return embedding_parameters(model) + model->num_hidden_layers * est_model_layer_parameters(model)
		+ final_norm + head_parameters(model);
}

bool est_model_layer_is_sliding(const struct est_model *model, int64_t layer)
{
	if (!model->sliding_window)
		return false;
	return !model->full_attention_every || (layer + 1) % model->full_attention_every != 0;
}
