#include "config/chunked.h"

#include <string.h>

static const char irregular_chunks[] = "chunked attention in an irregular pattern of layers, not modelled yet";
static const char irregular_experts[] = "experts in an irregular pattern of layers (moe_layers), not modelled yet";
static const char irregular_sparsity[] = "sparse activations in other layers than the first, not modelled yet";
static const char last_slides[] = "a sliding window in the last layer, which the class makes attend in full, not modelled yet";
static const char both_directions[] = "attention in both directions (use_bidirectional_attention), not modelled yet";
static const char irregular_indexers[] = "indexers in an irregular pattern of layers (indexer_types), not modelled yet";

/* Whether moe_layers lists the layers that the interval gives. */
static bool is_regular(const json_t *moe_layers, const struct est_model *model)
{
	size_t next = 0;

	for (int64_t i = 0; i < model->num_hidden_layers; i++)
		if (est_model_layer_is_sparse(model, i) && json_integer_value(json_array_get(moe_layers, next++)) != i)
			return false;
	return next == json_array_size(moe_layers);
}

void cfg_settle_llama4(const struct cfg_hf_reading *reading, uint64_t reads)
{
	const json_t *layer_types = json_object_get(reading->object, "layer_types"), *type;
	const json_t *moe_layers = json_object_get(reading->object, "moe_layers");
	struct est_model *model = reading->model;
	size_t layer;

	(void)reads;
	model->shared_expert_intermediate_size = model->moe_intermediate_size;
	model->full_attention_every = model->sliding_window ? model->no_rope_layer_interval : 0;
	json_array_foreach(layer_types, layer, type) {
		const char *word = json_string_value(type);

		if (word && !strcmp(word, "chunked_attention") != est_model_layer_is_sliding(model, (int64_t)layer))
			cfg_hf_refuse(model, irregular_chunks);
	}
	if (json_is_array(moe_layers) && !is_regular(moe_layers, model))
		cfg_hf_refuse(model, irregular_experts);
}

/* Whether each kind of layer, sliding or not, that there is has one that stores keys and values for those behind it. */
static bool stores_all_kinds(const struct est_model *model)
{
	bool stores[2] = { false, false }, reuses[2] = { false, false };

	for (int64_t i = 0; i < model->num_hidden_layers; i++) {
		enum est_sharing sharing = est_model_layer_shares(model, i);
		bool sliding = est_model_layer_is_sliding(model, i);

		stores[sliding] = stores[sliding] || sharing == EST_STORES_STATES;
		reuses[sliding] = reuses[sliding] || sharing == EST_REUSES_STATES;
	}
	return (stores[0] || !reuses[0]) && (stores[1] || !reuses[1]);
}

static void settle_sharing(const struct cfg_hf_reading *reading)
{
	if (reading->model->num_kv_shared_layers && !stores_all_kinds(reading->model))
		cfg_hf_complain(reading, "num_kv_shared_layers", EST_CONTRADICTION,
				"must leave a layer of each of layer_types that has keys and values of its own");
}

void cfg_settle_gemma3n(const struct cfg_hf_reading *reading, uint64_t reads)
{
	enum { SPARSE_BY_DEFAULT = 10 };
	const json_t *pattern = json_object_get(reading->object, "activation_sparsity_pattern"), *each;
	struct est_model *model = reading->model;
	size_t layer;

	(void)reads;
	settle_sharing(reading);
	model->num_sparse_mlp_layers = model->num_hidden_layers > SPARSE_BY_DEFAULT ? SPARSE_BY_DEFAULT : 0;
	if (!pattern || json_is_null(pattern))
		return;
	if (json_array_size(pattern) != (size_t)model->num_hidden_layers) {
		cfg_hf_complain(reading, "activation_sparsity_pattern", EST_CONTRADICTION, "must list a number for each of num_hidden_layers");
		return;
	}
	model->num_sparse_mlp_layers = 0;
	json_array_foreach(pattern, layer, each) {
		bool sparse = json_number_value(each) > 0;

		if (sparse && (int64_t)layer != model->num_sparse_mlp_layers)
			cfg_hf_refuse(model, irregular_sparsity);
		model->num_sparse_mlp_layers += sparse;
	}
}

void cfg_settle_gemma4(const struct cfg_hf_reading *reading, uint64_t reads)
{
	const char *attention = json_string_value(json_object_get(reading->object, "use_bidirectional_attention"));
	struct est_model *model = reading->model;

	(void)reads;
	model->dense_mlp_beside_experts = model->num_experts > 0;
	if (model->num_experts)
		model->norms_per_layer += 3;
	settle_sharing(reading);
	if (model->num_kv_shared_layers && !model->hidden_size_per_layer_input)
		cfg_hf_complain(reading, "num_kv_shared_layers", EST_CONTRADICTION,
				"must be 0 without hidden_size_per_layer_input: the class fails where it cuts the inputs of such layers");
	if (est_model_layer_is_sliding(model, model->num_hidden_layers - 1))
		cfg_hf_refuse(model, last_slides);
	if (attention && !strcmp(attention, "all"))
		cfg_hf_refuse(model, both_directions);
}

static bool is_full(const json_t *types, size_t layer)
{
	const char *type = json_string_value(json_array_get(types, layer));

	return type && !strcmp(type, "full");
}

void cfg_settle_indexer(const struct cfg_hf_reading *reading, uint64_t reads)
{
	const json_t *types = json_object_get(reading->object, "indexer_types");
	struct est_model *model = reading->model;
	size_t first = 0, count = json_array_size(types), next;

	(void)reads;
	if (json_object_get(reading->object, "index_topk_pattern"))
		cfg_hf_refuse(model, irregular_indexers);
	if (!json_is_array(types))
		return;
	while (first < count && is_full(types, first))
		first++;
	for (next = first; next < count && !is_full(types, next);)
		next++;
	model->index_skip_topk_offset = (int64_t)first;
	model->index_topk_freq = (int64_t)(next - first) + 1;
	for (size_t i = 0; i < count; i++)
		if (is_full(types, i) != est_model_layer_is_indexed(model, (int64_t)i))
			cfg_hf_refuse(model, irregular_indexers);
}
