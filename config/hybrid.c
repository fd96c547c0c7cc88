#include "config/hybrid.h"

#include <stdio.h>
#include <string.h>

static const char z_loss[] = "a z-loss beside the loss (z_loss_coefficient), not modelled yet";
static const char normed_falcon_h1[] = "a norm in Falcon-H1's mixers (mamba_rms_norm), not modelled yet";
static const char other_activation[] = "an activation of the convolution that is not modelled yet";
static const char too_deep[] = "more than 170 layers with Kimi's delta rule, not modelled";
static const char no_kinds[] = "no list of the kinds of its layers";

/* Names that layer_types and layers_block_type have for a kind, and the letters of hybrid_override_pattern. */
static const struct { const char *name; char letter; enum est_block_kind kind; } kinds[] = {
	{ "full_attention", '*', EST_LAYER_ATTENDS },
	{ "attention", '*', EST_LAYER_ATTENDS },
	{ "linear_attention", 'M', EST_LAYER_MIXES },
	{ "mamba", 'M', EST_LAYER_MIXES },
	{ "conv", 'M', EST_LAYER_MIXES },
	{ "mlp", '-', EST_LAYER_FEEDS },
	{ "moe", 'E', EST_LAYER_ROUTES },
};
enum { KINDS = sizeof(kinds) / sizeof(kinds[0]) };

static void set_kind(const struct cfg_hf_reading *reading, const char *key, int64_t layer, size_t kind)
{
	if (kind == KINDS)
		cfg_hf_complain(reading, key, EST_UNKNOWN_VALUE, "has a kind of layer that is not known");
	else
		reading->model->layer_kinds[layer] = (uint8_t)kinds[kind].kind;
}

static void read_list(const struct cfg_hf_reading *reading, const char *key, const json_t *list)
{
	if (json_array_size(list) != (size_t)reading->model->num_hidden_layers) {
		cfg_hf_complain(reading, key, EST_CONTRADICTION, "must list one type for each of num_hidden_layers");
		return;
	}
	for (int64_t layer = 0; layer < reading->model->num_hidden_layers; layer++) {
		const char *type = json_string_value(json_array_get(list, (size_t)layer));
		size_t kind = 0;

		while (kind < KINDS && (!type || strcmp(kinds[kind].name, type) != 0))
			kind++;
		set_kind(reading, key, layer, kind);
	}
}

static void read_pattern(const struct cfg_hf_reading *reading, const char *pattern)
{
	static const char key[] = "hybrid_override_pattern";

	if (strlen(pattern) != (size_t)reading->model->num_hidden_layers) {
		cfg_hf_complain(reading, key, EST_CONTRADICTION, "must have one letter for each of num_hidden_layers");
		return;
	}
	for (int64_t layer = 0; pattern[layer]; layer++) {
		size_t kind = 0;

		while (kind < KINDS && kinds[kind].letter != pattern[layer])
			kind++;
		set_kind(reading, key, layer, kind);
	}
}

/* LFM-2, Bamba: the layers that attend; in all others is the mixer. */
static void read_indices(const struct cfg_hf_reading *reading, const char *key, const json_t *indices)
{
	struct est_model *model = reading->model;
	const json_t *index;
	size_t i;

	memset(model->layer_kinds, EST_LAYER_MIXES, (size_t)model->num_hidden_layers);
	json_array_foreach(indices, i, index) {
		json_int_t layer = json_integer_value(index);

		if (!json_is_integer(index) || layer < 0 || layer >= model->num_hidden_layers)
			cfg_hf_complain(reading, key, EST_OUT_OF_RANGE, "must list layers from 0 to num_hidden_layers - 1");
		else
			model->layer_kinds[layer] = EST_LAYER_ATTENDS;
	}
}

/* Qwen3-Next, Qwen3.5: each fourth layer attends, or as the file says. */
static void read_interval(const struct cfg_hf_reading *reading)
{
	json_int_t every = json_integer_value(json_object_get(reading->object, "full_attention_interval"));
	struct est_model *model = reading->model;

	for (int64_t layer = 0; layer < model->num_hidden_layers; layer++)
		model->layer_kinds[layer] = (layer + 1) % (every > 0 ? every : 4) ? EST_LAYER_MIXES : EST_LAYER_ATTENDS;
}

static void read_kinds(const struct cfg_hf_reading *reading, uint64_t reads)
{
	static const char *const lists[] = { "layer_types", "layers_block_type" };
	const json_t *pattern = json_object_get(reading->object, "hybrid_override_pattern");
	const json_t *indices = json_object_get(reading->object, "full_attn_idxs");

	for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
		const json_t *list = json_object_get(reading->object, lists[i]);

		if (json_is_array(list)) {
			read_list(reading, lists[i], list);
			return;
		}
	}
	if (json_is_string(pattern))
		read_pattern(reading, json_string_value(pattern));
	else if (json_is_array(indices))
		read_indices(reading, "full_attn_idxs", indices);
	else if (reads & CFG_READS_BAMBA)
		read_indices(reading, "attn_layer_indices", json_object_get(reading->object, "attn_layer_indices"));
	else if (reads & (CFG_READS_FALCON_H1 | CFG_READS_MAMBA2))
		memset(reading->model->layer_kinds, EST_LAYER_MIXES, (size_t)reading->model->num_hidden_layers);
	else if (reads & CFG_READS_DELTA)
		read_interval(reading);
	else
		cfg_hf_refuse(reading->model, no_kinds);
}

/* Kimi-Linear: numbers from 1 of layers of one kind, in linear_attn_config. */
static void read_numbers(const struct cfg_hf_reading *rule, const char *key, enum est_block_kind kind)
{
	struct est_model *model = rule->model;
	const json_t *number;
	size_t i;

	json_array_foreach(json_object_get(rule->object, key), i, number) {
		json_int_t layer = json_integer_value(number);

		if (!json_is_integer(number) || layer < 1 || layer > model->num_hidden_layers) {
			cfg_hf_complain(rule, key, EST_OUT_OF_RANGE, "must list layers from 1 to num_hidden_layers");
			continue;
		}
		model->layer_kinds[layer - 1] = (uint8_t)kind;
	}
}

/* Kimi-Linear: layer_types go before linear_attn_config, its sizes before others; else each fourth layer after the first attends. */
static void read_kimi_kinds(const struct cfg_hf_reading *rule, const struct cfg_hf_reading *reading)
{
	struct est_model *model = reading->model;
	const json_t *types = json_object_get(reading->object, "layer_types");
	const uint8_t unknown = UINT8_MAX;

	for (int64_t layer = 0; layer < model->num_hidden_layers; layer++)
		model->layer_kinds[layer] = layer > 0 && layer % 4 == 0 ? EST_LAYER_ATTENDS : EST_LAYER_MIXES;
	if (json_is_array(types)) {
		read_list(reading, "layer_types", types);
		return;
	}
	if (!json_is_array(json_object_get(rule->object, "full_attn_layers"))
	    || !json_is_array(json_object_get(rule->object, "kda_layers")))
		return;
	memset(model->layer_kinds, unknown, (size_t)model->num_hidden_layers);
	read_numbers(rule, "full_attn_layers", EST_LAYER_ATTENDS);
	read_numbers(rule, "kda_layers", EST_LAYER_MIXES);
	if (!memchr(model->layer_kinds, unknown, (size_t)model->num_hidden_layers))
		return;
	cfg_hf_complain(rule, "kda_layers", EST_CONTRADICTION, "must list all of num_hidden_layers, together with full_attn_layers");
	memset(model->layer_kinds, EST_LAYER_MIXES, (size_t)model->num_hidden_layers); /* what follows knows no other kinds */
}

static void settle_kimi(const struct cfg_hf_reading *reading)
{
	struct cfg_hf_reading rule = *reading;
	struct est_model *model = reading->model;
	char pointer[EST_POINTER_MAX];

	snprintf(pointer, sizeof(pointer), "%s/linear_attn_config", reading->pointer);
	rule.object = json_object_get(reading->object, "linear_attn_config");
	rule.pointer = pointer;
	cfg_hf_read_keys(&rule, CFG_READS_KIMI_RULE);
	read_kimi_kinds(&rule, reading);
	model->linear_num_key_heads = model->linear_num_value_heads;
	model->linear_key_head_dim = model->linear_value_head_dim;
	if (model->activation != EST_SILU && model->activation != EST_GELU)
		cfg_hf_refuse(model, other_activation);
	if (model->num_hidden_layers > EST_LAYERS_MAX / EST_TABLES_OF_KIMI)
		cfg_hf_refuse(model, too_deep);
}

enum { SSM_HEAD_MAX = 4096, SSM_WIDTH_MAX = SSM_HEAD_MAX * 4096, SSM_EXPAND_MAX = 64 };

/* An integer of the file from 1 to max, or otherwise, with a complaint where it is another. */
static int64_t positive(const struct cfg_hf_reading *reading, const char *key, int64_t max, int64_t otherwise)
{
	const json_t *value = json_object_get(reading->object, key);
	char detail[EST_DETAIL_MAX];

	if (!json_is_integer(value))
		return otherwise;
	if (json_integer_value(value) >= 1 && json_integer_value(value) <= max)
		return json_integer_value(value);
	snprintf(detail, sizeof(detail), "must be a whole number from 1 to %lld", (long long)max);
	cfg_hf_complain(reading, key, EST_OUT_OF_RANGE, detail);
	return otherwise;
}

/* A mixer's width divided among its heads. */
static void divide_ssm(const struct cfg_hf_reading *reading, int64_t width)
{
	int64_t heads = reading->model->ssm_num_heads;
	bool divides = width % heads == 0 && width / heads <= SSM_HEAD_MAX;

	reading->model->ssm_head_dim = divides ? width / heads : 1;
	if (!divides)
		cfg_hf_complain(reading, "mamba_n_heads", EST_CONTRADICTION,
				"must divide the mixer's width (mamba_expand times hidden_size, or mamba_d_ssm), into 4096 at most each");
}

/* Mamba-2's heads: as wide as the file says, or as expand times the stream is divided among them. */
static void settle_ssm(const struct cfg_hf_reading *reading)
{
	static const char *const names[] = { "mamba_d_head", "mamba_head_dim" };
	struct est_model *model = reading->model;

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		model->ssm_head_dim = positive(reading, names[i], SSM_HEAD_MAX, model->ssm_head_dim);
	if (!model->ssm_head_dim)
		divide_ssm(reading, positive(reading, "mamba_expand", SSM_EXPAND_MAX, 2) * model->hidden_size);
	if (model->ssm_num_heads % model->ssm_num_groups)
		cfg_hf_complain(reading, "mamba_n_groups", EST_CONTRADICTION, "must divide the number of heads");
}

static bool is_true(const struct cfg_hf_reading *reading, const char *key)
{
	return json_is_true(json_object_get(reading->object, key));
}

static bool is_more_than_0(const struct cfg_hf_reading *reading, const char *key)
{
	return json_number_value(json_object_get(reading->object, key)) > 0;
}

/* Bamba's other loss; Falcon-H1's other norm, and a mixer of a width of its own. */
static void settle_others(const struct cfg_hf_reading *reading, uint64_t reads)
{
	const json_t *width = json_object_get(reading->object, "mamba_d_ssm");
	struct est_model *model = reading->model;

	if ((reads & CFG_READS_BAMBA) && is_more_than_0(reading, "z_loss_coefficient"))
		cfg_hf_refuse(model, z_loss);
	if (!(reads & CFG_READS_FALCON_H1))
		return;
	model->ungated_norm = !is_true(reading, "mamba_rms_norm");
	if (!model->ungated_norm)
		cfg_hf_refuse(model, normed_falcon_h1);
	if (!json_is_integer(json_object_get(reading->object, "mamba_d_head")) && !json_is_null(width))
		divide_ssm(reading, positive(reading, "mamba_d_ssm", SSM_WIDTH_MAX, 1024));
}

/* A Nemotron-H without experts in any layer has none. */
static void settle_single_blocks(struct est_model *model)
{
	bool routes = false;

	for (int64_t layer = 0; layer < model->num_hidden_layers; layer++)
		routes = routes || model->layer_kinds[layer] == EST_LAYER_ROUTES;
	if (!routes)
		model->num_experts = model->num_experts_per_tok = model->shared_expert_intermediate_size = model->moe_latent_size = 0;
}

void cfg_settle_hybrid(const struct cfg_hf_reading *reading, uint64_t reads)
{
	const json_t *positions = json_object_get(reading->object, "position_embedding_type");

	if (reads & CFG_READS_KIMI) {
		settle_kimi(reading);
		return;
	}
	read_kinds(reading, reads);
	if ((reads & CFG_READS_DELTA) && reading->model->linear_num_value_heads % reading->model->linear_num_key_heads)
		cfg_hf_complain(reading, "linear_num_key_heads", EST_CONTRADICTION, "must divide linear_num_value_heads");
	if (reads & CFG_READS_SSM)
		settle_ssm(reading);
	settle_others(reading, reads);
	if (reads & CFG_READS_NEMOTRON) /* _tied_weights_keys is empty: whatever the file says */
		reading->model->tie_word_embeddings = false;
	if (reading->model->single_blocks)
		settle_single_blocks(reading->model);
	if (reads & CFG_READS_POSITION_TYPE)
		reading->model->position = json_is_string(positions) && !strcmp(json_string_value(positions), "rope")
						   ? EST_ROPE : EST_NO_POSITIONS;
}
