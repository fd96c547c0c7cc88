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
		return (model->lacks_kv ? 1 : 2) * d;
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

/* DeepSeek's latent attention: low-rank projections with a norm between them. */
static int64_t latent_attention_parameters(const struct est_model *model)
{
	int64_t h = model->hidden_size, heads = model->num_attention_heads, rank = model->q_lora_rank;
	int64_t query = heads * (model->qk_nope_head_dim + model->qk_rope_head_dim);
	int64_t compressed = model->kv_lora_rank + model->qk_rope_head_dim, value = heads * model->v_head_dim;
	int64_t q = rank ? linear_parameters(h, rank, model->qkv_bias) + rank + rank * query : h * query;

	return q + linear_parameters(h, compressed, model->qkv_bias) + model->kv_lora_rank
		+ model->kv_lora_rank * (heads * model->qk_nope_head_dim + value) + linear_parameters(value, h, model->o_bias);
}

static int64_t attention_parameters(const struct est_model *model)
{
	int64_t h = model->hidden_size;
	int64_t q = model->num_attention_heads * model->head_dim;
	int64_t kv = model->num_key_value_heads * model->head_dim;

	if (model->kv_lora_rank)
		return latent_attention_parameters(model);
	return (model->attention_sinks ? model->num_attention_heads : 0) + linear_parameters(h, model->gated_attention ? 2 * q : q, model->qkv_bias)
		+ (model->lacks_kv ? 0 : model->lacks_v_proj ? 1 : 2) * linear_parameters(h, kv, model->qkv_bias)
		+ linear_parameters(q, h, model->o_bias) + qk_norm_parameters(model);
}

static int64_t mlp_parameters(const struct est_model *model)
{
	int64_t h = model->hidden_size, f = model->intermediate_size;
	int64_t widening = model->gated_mlp ? 2 : 1;

	return widening * linear_parameters(h, f, model->mlp_bias) + linear_parameters(f, h, model->mlp_bias);
}

int64_t est_model_expert_width(const struct est_model *model)
{
	return model->moe_latent_size ? model->moe_latent_size : model->hidden_size;
}

/* Router, experts and what stands beside them; Qwen2-MoE's one shared expert has a gate. */
static int64_t mixture_parameters(const struct est_model *model)
{
	int64_t h = model->hidden_size, f = model->moe_intermediate_size, experts = model->num_experts;
	int64_t shared = model->shared_expert_intermediate_size;
	int64_t gate = model->shared_expert_gate ? h : 0, latent = model->moe_latent_size, width = est_model_expert_width(model);
	int64_t widening = model->gated_mlp ? 2 : 1;

	return linear_parameters(h, experts, model->expert_bias) + (model->router_correction_bias ? experts : 0)
		+ experts * (linear_parameters(width, widening * f, model->expert_bias) + linear_parameters(f, width, model->expert_bias))
		+ (widening + 1) * h * shared + gate + 2 * h * latent;
}

static int64_t embedding_parameters(const struct est_model *model)
{
	int64_t h = model->hidden_size;
	int64_t width = model->embed_dim ? model->embed_dim : h;
	int64_t count = (model->vocab_size + model->extra_embed_rows) * width;

	if (width != h)
		count += 2 * width * h;
	if (model->embedding_norm)
		count += norm_parameters(model->norm, h);
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

bool est_model_layer_is_sparse(const struct est_model *model, int64_t layer)
{
	if (model->single_blocks)
		return model->layer_kinds[layer] == EST_LAYER_ROUTES;
	if (model->moe_layer_interval > 1 && (model->first_layer + layer + 1) % model->moe_layer_interval != 0)
		return false;
	return model->num_experts > 0 && model->first_layer + layer >= model->first_k_dense_replace;
}

/* A convolution of three gates in one: LFM-2 */
static int64_t short_conv_parameters(const struct est_model *model)
{
	int64_t h = model->hidden_size;

	return linear_parameters(h, 3 * h, model->mixer_bias) + h * model->conv_kernel + (model->conv_bias ? h : 0)
		+ linear_parameters(h, h, model->mixer_bias);
}

/* Mamba-2: gate, x, B, C and dt in one projection, a convolution of x, B and C, three vectors of heads, a gated norm */
static int64_t mamba2_parameters(const struct est_model *model)
{
	int64_t h = model->hidden_size, inner = est_model_ssm_width(model), conv = est_model_conv_width(model);

	return linear_parameters(h, inner + conv + model->ssm_num_heads, model->mixer_bias) + conv * model->conv_kernel
		+ (model->conv_bias ? conv : 0) + 3 * model->ssm_num_heads + (model->ungated_norm ? 0 : inner)
		+ linear_parameters(inner, h, model->mixer_bias);
}

/* Projections of q, k and v, of a gate as wide as v, and two of the heads; a convolution; two vectors of heads; a norm of a head */
static int64_t delta_net_parameters(const struct est_model *model)
{
	int64_t h = model->hidden_size, heads = model->linear_num_value_heads, value = heads * model->linear_value_head_dim;
	int64_t conv = est_model_conv_width(model);

	return h * (conv + value + 2 * heads) + conv * model->conv_kernel + 2 * heads + model->linear_value_head_dim + value * h;
}

/* Projections of q, k, v and of the output, one of the heads, two pairs through the width of a head; a convolution; a bias of what is
 * forgotten, a vector of heads, a norm of a head */
static int64_t kimi_delta_parameters(const struct est_model *model)
{
	int64_t h = model->hidden_size, heads = model->linear_num_value_heads, head = model->linear_value_head_dim, inner = heads * head;

	return h * (4 * inner + heads + 2 * head) + 2 * head * inner + 3 * inner * model->conv_kernel + inner + heads + head;
}

static int64_t mixer_parameters(const struct est_model *model)
{
	if (model->architecture == EST_ARCH_KIMI_LINEAR)
		return kimi_delta_parameters(model);
	if (model->linear_num_value_heads)
		return delta_net_parameters(model);
	return model->architecture == EST_ARCH_LFM2 ? short_conv_parameters(model) : mamba2_parameters(model);
}

static int64_t feed_forward_parameters(const struct est_model *model, int64_t layer)
{
	bool sparse = est_model_layer_is_sparse(model, layer);
	int64_t dense = !sparse || model->dense_mlp_beside_experts ? mlp_parameters(model) : 0;
	int64_t scales = sparse && model->dense_mlp_beside_experts ? model->hidden_size + model->num_experts : 0;

	return dense + (sparse ? mixture_parameters(model) : 0) + scales;
}

/* DeepSeek-V3.2: queries of all heads, one key with a LayerNorm, a weight for each head */
static int64_t indexer_parameters(const struct est_model *model, int64_t layer)
{
	int64_t h = model->hidden_size, d = model->index_head_dim, heads = model->index_n_heads;

	return est_model_layer_is_indexed(model, layer) ? model->q_lora_rank * heads * d + h * d + 2 * d + h * heads : 0;
}

int64_t est_model_indexer_parameters(const struct est_model *model)
{
	int64_t sum = 0;

	for (int64_t layer = 0; model->index_topk && layer < model->num_hidden_layers; layer++)
		sum += indexer_parameters(model, layer);
	return sum;
}

/* Without the norms. */
static int64_t block_parameters(const struct est_model *model, int64_t layer)
{
	enum est_block_kind kind = (enum est_block_kind)model->layer_kinds[layer];
	int64_t mixes = kind == EST_LAYER_MIXES ? mixer_parameters(model) : attention_parameters(model);

	if (model->attends_beside)
		mixes += attention_parameters(model);
	if (model->single_blocks)
		return kind == EST_LAYER_FEEDS || kind == EST_LAYER_ROUTES ? feed_forward_parameters(model, layer) : mixes;
	return mixes + feed_forward_parameters(model, layer);
}

/* per_layer_input_gate, per_layer_projection and the norm behind them */
static int64_t per_layer_gate_parameters(const struct est_model *model)
{
	int64_t h = model->hidden_size, width = model->hidden_size_per_layer_input;

	return width ? 2 * h * width + norm_parameters(model->norm, h) : 0;
}

/* Gemma-3n: of a layer; beside the layers, projections into the other streams and out of them */
static int64_t stream_parameters(const struct est_model *model)
{
	int64_t h = model->hidden_size, n = model->altup_num_inputs;

	return n ? h + n * n + n * n * n + h * n + norm_parameters(model->norm, h) + 2 * h * model->laurel_rank
		+ norm_parameters(model->norm, h) : 0;
}

static int64_t stream_projection_parameters(const struct est_model *model)
{
	int64_t n = model->altup_num_inputs;

	return n ? 2 * (n - 1) * linear_parameters(model->hidden_size, model->hidden_size, false) : 0;
}

int64_t est_model_per_layer_input_parameters(const struct est_model *model)
{
	int64_t width = model->hidden_size_per_layer_input, all = width * model->num_hidden_layers;

	return model->vocab_size_per_layer_input * all + linear_parameters(model->hidden_size, all, false)
	       + (width ? norm_parameters(model->norm, width) : 0);
}

static int64_t layer_parameters(const struct est_model *whole, int64_t layer)
{
	struct est_model space;
	const struct est_model *model = est_model_of_layer(whole, layer, &space);
	int64_t xielu = model->activation == EST_XIELU ? 2 : 0;

	return block_parameters(model, layer) + indexer_parameters(model, layer) + xielu + per_layer_gate_parameters(model) + stream_parameters(model)
	       + model->norms_per_layer * norm_parameters(model->norm, model->hidden_size);
}

/* The last one of its kind before those that share. */
static bool is_last_of_its_kind(const struct est_model *model, int64_t layer)
{
	for (int64_t i = layer + 1; i < model->num_hidden_layers - model->num_kv_shared_layers; i++)
		if (est_model_layer_is_sliding(model, i) == est_model_layer_is_sliding(model, layer))
			return false;
	return true;
}

enum est_sharing est_model_layer_shares(const struct est_model *model, int64_t layer)
{
	if (!model->num_kv_shared_layers)
		return EST_SHARES_NOTHING;
	if (layer >= model->num_hidden_layers - model->num_kv_shared_layers)
		return EST_REUSES_STATES;
	return is_last_of_its_kind(model, layer) ? EST_STORES_STATES : EST_SHARES_NOTHING;
}

const struct est_model *est_model_of_layer(const struct est_model *model, int64_t layer, struct est_model *space)
{
	bool full, reuses;

	if (model->architecture != EST_ARCH_GEMMA4 && model->architecture != EST_ARCH_GEMMA3N)
		return model;
	full = !est_model_layer_is_sliding(model, layer);
	reuses = est_model_layer_shares(model, layer) == EST_REUSES_STATES;
	if (!full && !reuses)
		return model;
	*space = *model;
	if (full && model->global_head_dim)
		space->head_dim = model->global_head_dim;
	if (full && model->attention_k_eq_v && model->num_global_key_value_heads)
		space->num_key_value_heads = model->num_global_key_value_heads;
	space->lacks_v_proj = full && model->attention_k_eq_v;
	space->lacks_kv = reuses;
	if (reuses && model->use_double_wide_mlp)
		space->intermediate_size *= 2;
	return space;
}

bool est_model_layer_is_indexed(const struct est_model *model, int64_t layer)
{
	int64_t since = model->first_layer + layer - model->index_skip_topk_offset + 1;

	if (!model->index_topk)
		return false;
	return model->index_topk_freq <= 1 || since <= 0 || since % model->index_topk_freq == 0;
}

bool est_model_mixes(const struct est_model *model)
{
	for (int64_t i = 0; i < model->num_hidden_layers; i++)
		if (model->layer_kinds[i] == EST_LAYER_MIXES)
			return true;
	return false;
}

int64_t est_model_ssm_width(const struct est_model *model)
{
	return model->ssm_num_heads * model->ssm_head_dim;
}

int64_t est_model_conv_width(const struct est_model *model)
{
	if (model->linear_num_value_heads)
		return 2 * model->linear_num_key_heads * model->linear_key_head_dim
		       + model->linear_num_value_heads * model->linear_value_head_dim;
	return est_model_ssm_width(model) + 2 * model->ssm_num_groups * model->ssm_state_size;
}

int64_t est_model_layer_parameters(const struct est_model *model)
{
	return layer_parameters(model, model->num_hidden_layers - 1);
}

int64_t est_model_last_layers_parameters(const struct est_model *model, int64_t layers)
{
	int64_t sum = 0;

	for (int64_t i = 1; i <= layers; i++)
		sum += layer_parameters(model, model->num_hidden_layers - i);
	return sum;
}

/* What encoders have beside their layers, and a decoder with its layers: another attention and norm in each. */
static int64_t encoder_parameters(const struct est_model *model)
{
	int64_t h = model->hidden_size, norm = norm_parameters(model->norm, h), n = model->num_decoder_layers;
	int64_t decoder = n ? n * (est_model_layer_parameters(model) + attention_parameters(model) + norm) + norm : 0;
	int64_t bias = model->relative_attention_num_buckets * model->num_attention_heads;

	if (model->architecture == EST_ARCH_MODERNBERT) /* the head's dense layer and norm, less the norm that the first layer lacks */
		return linear_parameters(h, h, false) + norm - norm;
	if (model->architecture == EST_ARCH_DEBERTA)
		return 2 * model->position_buckets * h + norm;

	return (model->type_vocab_size + model->task_type_vocab_size) * h
	       + (model->pooler ? linear_parameters(h, h, true) : 0) + (n ? 2 : 1) * bias + decoder;
}

int64_t est_model_count_parameters(const struct est_model *model)
{
	int64_t final_norm = model->final_norm ? norm_parameters(model->norm, model->hidden_size) : 0;

	int64_t layers = 0;

	for (int64_t i = 0; i < model->num_hidden_layers; i++)
		layers += layer_parameters(model, i);
	return embedding_parameters(model) + est_model_per_layer_input_parameters(model) + stream_projection_parameters(model) + layers + final_norm + head_parameters(model)
		+ encoder_parameters(model) + est_vision_parameters(model);
}

int64_t est_model_stacked_layers(const struct est_model *model)
{
	return model->num_hidden_layers + model->num_decoder_layers;
}

int64_t est_model_all_layers(const struct est_model *model)
{
	return est_model_stacked_layers(model) + model->num_cross_attention_layers + model->vision.num_hidden_layers
	       + model->vision.num_global_layers + model->vision.num_deepstack + model->vision.audio.num_hidden_layers;
}

int64_t est_model_table_layers(const struct est_model *model)
{
	return est_model_all_layers(model) * (model->architecture == EST_ARCH_KIMI_LINEAR ? EST_TABLES_OF_KIMI : 1);
}

bool est_model_is_bidirectional(const struct est_model *model)
{
	return model->architecture == EST_ARCH_BERT || model->architecture == EST_ARCH_ELECTRA
	       || model->architecture == EST_ARCH_ROBERTA
	       || model->architecture == EST_ARCH_DISTILBERT || model->architecture == EST_ARCH_MODERNBERT
	       || model->architecture == EST_ARCH_DEBERTA;
}

bool est_model_is_encoder(const struct est_model *model)
{
	return model->num_decoder_layers > 0 || est_model_is_bidirectional(model);
}

bool est_model_layer_is_sliding(const struct est_model *model, int64_t layer)
{
	if (!model->sliding_window || model->architecture == EST_ARCH_GPT_NEO) /* which masks by buffers of its layers */
		return false;
	return !model->full_attention_every
	       || (model->first_layer + layer + !model->full_attention_first) % model->full_attention_every != 0;
}

bool est_model_layer_is_rotated(const struct est_model *model, int64_t layer)
{
	if (model->position != EST_ROPE)
		return false;
	if (model->no_rope_layer_interval)
		return (model->first_layer + layer + 1) % model->no_rope_layer_interval != 0;
	return !model->rotates_windows_only || !model->sliding_window || est_model_layer_is_sliding(model, layer);
}
