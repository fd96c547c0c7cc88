/* Widths of modules in terms of a model's shape. */
#include "estimator/architecture.h"

uint64_t est_rotary_width(const struct est_model *model)
{
	if (model->kv_lora_rank)
		return (uint64_t)model->qk_rope_head_dim;
	return (uint64_t)((double)model->head_dim * model->partial_rotary_factor);
}

static uint64_t mixer_width(const struct est_model *model, enum est_width width)
{
	switch (width) {
	case EST_WIDTH_GATES:
		return 3 * (uint64_t)model->hidden_size;
	case EST_WIDTH_SSM_PROJECTED: /* gate; x, B and C; dt */
		return (uint64_t)(est_model_ssm_width(model) + est_model_conv_width(model) + model->ssm_num_heads);
	case EST_WIDTH_SSM_NORM:
		return model->ungated_norm ? 0 : (uint64_t)est_model_ssm_width(model);
	case EST_WIDTH_SSM_CONV:
		return (uint64_t)est_model_conv_width(model);
	case EST_WIDTH_DELTA:
	case EST_WIDTH_DELTA_MIXED:
		return (uint64_t)(model->linear_num_value_heads * model->linear_value_head_dim);
	case EST_WIDTH_DELTA_QKVZ:
		return (uint64_t)(est_model_conv_width(model) + model->linear_num_value_heads * model->linear_value_head_dim);
	case EST_WIDTH_DELTA_BA:
		return 2 * (uint64_t)model->linear_num_value_heads;
	case EST_WIDTH_DELTA_HEADS:
		return (uint64_t)model->linear_num_value_heads;
	case EST_WIDTH_DELTA_HEAD:
		return (uint64_t)model->linear_value_head_dim;
	case EST_WIDTH_SSM_HEADS:
		return (uint64_t)model->ssm_num_heads;
	default:
		return (uint64_t)est_model_ssm_width(model);
	}
}

static uint64_t latent_width(const struct est_model *model, enum est_width width)
{
	uint64_t heads = (uint64_t)model->num_attention_heads, query = heads * (uint64_t)model->head_dim;
	uint64_t value = heads * (uint64_t)model->v_head_dim, rank = (uint64_t)model->kv_lora_rank;

	switch (width) {
	case EST_WIDTH_Q_DIRECT:
		return model->q_lora_rank ? 0 : query;
	case EST_WIDTH_Q_RANK:
		return (uint64_t)model->q_lora_rank;
	case EST_WIDTH_KV_COMPRESSED:
		return rank + (uint64_t)model->qk_rope_head_dim;
	case EST_WIDTH_KV_RANK:
		return rank;
	case EST_WIDTH_KV_HEADS:
		return heads * (uint64_t)model->qk_nope_head_dim + value;
	case EST_WIDTH_V_HEADS:
		return value;
	case EST_WIDTH_Q_HEADS:
		return query;
	case EST_WIDTH_INDEX_HEADS:
		return (uint64_t)(model->index_n_heads * model->index_head_dim);
	case EST_WIDTH_INDEX_HEAD:
		return (uint64_t)model->index_head_dim;
	case EST_WIDTH_INDEX_WEIGHTS:
		return (uint64_t)model->index_n_heads;
	default:
		return mixer_width(model, width);
	}
}

uint64_t est_width(const struct est_model *model, enum est_width width)
{
	uint64_t head = (uint64_t)model->head_dim;
	uint64_t query = (uint64_t)model->num_attention_heads * head, key = (uint64_t)model->num_key_value_heads * head;

	switch (width) {
	case EST_WIDTH_QUERY:
		return query;
	case EST_WIDTH_GATED_QUERY:
		return 2 * query;
	case EST_WIDTH_VALUE:
		return model->lacks_v_proj || model->lacks_kv ? 0 : key;
	case EST_WIDTH_OWN_KEY:
		return model->lacks_kv ? 0 : key;
	case EST_WIDTH_OWN_KEY_HEAD:
		return model->lacks_kv ? 0 : head;
	case EST_WIDTH_STREAMS:
		return (uint64_t)model->altup_num_inputs;
	case EST_WIDTH_STREAM_PAIRS:
		return (uint64_t)(model->altup_num_inputs * model->altup_num_inputs);
	case EST_WIDTH_LAUREL:
		return (uint64_t)model->laurel_rank;
	case EST_WIDTH_PER_LAYER_INPUT:
		return (uint64_t)model->hidden_size_per_layer_input;
	case EST_WIDTH_PER_LAYER_NORM:
		return model->hidden_size_per_layer_input ? (uint64_t)model->hidden_size : 0;
	case EST_WIDTH_EXPERT_COUNT:
		return (uint64_t)model->num_experts;
	case EST_WIDTH_KEY:
		return key;
	case EST_WIDTH_QKV:
		return query + 2 * key;
	case EST_WIDTH_MLP:
		return (uint64_t)model->intermediate_size;
	case EST_WIDTH_GATE:
		return model->gated_mlp ? (uint64_t)model->intermediate_size : 0;
	case EST_WIDTH_GATE_UP:
		return 2 * (uint64_t)model->intermediate_size;
	case EST_WIDTH_HEAD:
		return head;
	case EST_WIDTH_HEAD_NORM:
		return model->qk_norm == EST_QK_NORM_NONE ? 0 : head;
	case EST_WIDTH_SECOND_NORM: /* hidden, where a layer has two norms */
		return model->norms_per_layer > 1 ? (uint64_t)model->hidden_size : 0;
	case EST_WIDTH_SANDWICH_NORM:
		return model->norms_per_layer > 2 ? (uint64_t)model->hidden_size : 0;
	case EST_WIDTH_QUERY_NORM:
		return model->qk_norm == EST_QK_NORM_NONE ? 0 : query;
	case EST_WIDTH_KEY_NORM:
		return model->qk_norm == EST_QK_NORM_NONE ? 0 : key;
	case EST_WIDTH_SHARED:
		return (uint64_t)model->shared_expert_intermediate_size;
	case EST_WIDTH_SHARED_GATE_UP:
		return 2 * (uint64_t)model->shared_expert_intermediate_size;
	case EST_WIDTH_EXPERT_LATENT:
		return (uint64_t)model->moe_latent_size;
	case EST_WIDTH_SHARED_GATE:
		return model->shared_expert_gate;
	case EST_WIDTH_HIDDEN:
		return (uint64_t)model->hidden_size;
	default:
		return latent_width(model, width);
	}
}
