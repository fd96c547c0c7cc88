#include <stdio.h>
#include <string.h>
#include "config/chunked.h"
#include "config/dense.h"
#include "config/encoders.h"
#include "config/families.h"
#include "config/hf_keys.h"
#include "config/hybrid.h"
#include "config/towers.h"

static const char unknown_activation[] = "an activation function that is not modelled yet";
static const char irregular_window[] = "a sliding window in an irregular pattern of layers, not modelled yet";
static const char irregular_rotation[] = "rotary embedding in an irregular pattern of layers, not modelled yet";
static const char other_stablelm[] = "qk_layernorm or use_parallel_residual, not modelled yet";
static const char irregular_mixture[] = "dense layers among those with experts, not modelled yet";
static const char router_loss[] = "the load-balancing loss of the router (output_router_logits), not modelled yet";
static const char clipped_qkv[] = "clipped queries, keys and values (clip_qkv), not modelled yet";

/* Transformers 5 writes the factor into rope_parameters. */
static void read_rope_parameters(const struct cfg_hf_reading *reading, uint64_t reads)
{
	const json_t *rope = json_object_get(reading->object, "rope_parameters");
	const json_t *factor = json_object_get(rope, "partial_rotary_factor");
	double value = json_number_value(factor);

	(void)reads;
	if (json_is_number(factor) && value >= 0 && value <= 1)
		reading->model->partial_rotary_factor = value;
}

static size_t next_full(const json_t *layer_types, size_t layer)
{
	while (layer < json_array_size(layer_types) && cfg_hf_is_sliding(layer_types, layer))
		layer++;
	return layer;
}

/* layer_types as a window and its period: full attention in layers n, 2n, ... (from 1), in 1, n + 1, ..., or nowhere,
 * or everywhere. */
static void read_layer_types(const struct cfg_hf_reading *reading, const json_t *layer_types)
{
	struct est_model *model = reading->model;
	size_t count = json_array_size(layer_types), first, second;

	if (!json_is_array(layer_types) || count != (size_t)model->num_hidden_layers) {
		cfg_hf_complain(reading, "layer_types", EST_CONTRADICTION, "must list one type for each of num_hidden_layers");
		return;
	}
	first = next_full(layer_types, 0);
	second = next_full(layer_types, first + 1);
	model->full_attention_first = first == 0;
	model->full_attention_every = first == 0 ? (int64_t)second : first < count ? (int64_t)first + 1 : 0;
	if (first == 0 && second == 1 && !model->masks_both_kinds)
		model->sliding_window = 0;
	for (size_t layer = 0; layer < count; layer++)
		if (cfg_hf_is_sliding(layer_types, layer) != est_model_layer_is_sliding(model, (int64_t)layer))
			cfg_hf_refuse(model, irregular_window);
}

static void read_window(const struct cfg_hf_reading *reading, uint64_t reads)
{
	const json_t *layer_types = json_object_get(reading->object, "layer_types");
	const json_t *from = json_object_get(reading->object, "max_window_layers");
	struct est_model *model = reading->model;

	if ((reads & CFG_READS_USE_WINDOW) && !json_is_true(json_object_get(reading->object, "use_sliding_window")))
		model->sliding_window = 0;
	if (!model->sliding_window && model->masks_both_kinds)
		cfg_hf_complain(reading, "sliding_window", EST_CONTRADICTION,
				"must be a number: the class makes a mask of it for any layers");
	if (!model->sliding_window)
		model->full_attention_every = 0;
	else if ((reads & CFG_READS_LAYER_TYPES) && layer_types && !json_is_null(layer_types))
		read_layer_types(reading, layer_types);
	else if (reads & CFG_READS_USE_WINDOW) {
		int64_t first = from ? json_integer_value(from) : 28;

		if (first >= model->num_hidden_layers)
			model->sliding_window = 0;
		else if (first > 0)
			cfg_hf_refuse(model, irregular_window);
	}
}

/* no_rope_layers (1: rotated, 0: not) as a period: layers n, 2n, ... have no rotary embedding. */
static void read_unrotated(const struct cfg_hf_reading *reading, uint64_t reads)
{
	const json_t *layers = json_object_get(reading->object, "no_rope_layers");
	struct est_model *model = reading->model;
	size_t first = 0, count = json_array_size(layers);

	(void)reads;
	if (cfg_hf_is_true(reading, "use_sliding_window"))
		cfg_hf_refuse(model, irregular_window);
	if (!layers || json_is_null(layers))
		return;
	if (count < (size_t)model->num_hidden_layers) {
		cfg_hf_complain(reading, "no_rope_layers", EST_CONTRADICTION, "must list a flag for each of num_hidden_layers");
		return;
	}
	while (first < count && json_integer_value(json_array_get(layers, first)))
		first++;
	model->no_rope_layer_interval = first < count ? (int64_t)first + 1 : 0;
	for (int64_t i = 0; i < model->num_hidden_layers; i++)
		if (!json_integer_value(json_array_get(layers, (size_t)i)) == est_model_layer_is_rotated(model, i))
			cfg_hf_refuse(model, irregular_rotation);
}

static void settle_opt(const struct cfg_hf_reading *reading, uint64_t reads)
{
	struct est_model *model = reading->model;

	(void)reads;
	model->final_norm = model->do_layer_norm_before
		&& !json_is_true(json_object_get(reading->object, "_remove_final_layer_norm"));
	if (json_is_false(json_object_get(reading->object, "layer_norm_elementwise_affine")))
		model->norm = EST_NORM_NONPARAMETRIC;
	if (model->embed_dim == model->hidden_size)
		model->embed_dim = 0;
}

/* mlp_layer_types: "dense" for the first layers, "sparse" for all others. */
static void read_mlp_layer_types(const struct cfg_hf_reading *reading)
{
	const json_t *types = json_object_get(reading->object, "mlp_layer_types"), *type;
	struct est_model *model = reading->model;
	size_t layer, dense = 0;

	json_array_foreach(types, layer, type) {
		const char *word = json_string_value(type);
		bool is_dense = word && !strcmp(word, "dense");

		if (is_dense && dense != layer)
			cfg_hf_refuse(model, irregular_mixture);
		dense += is_dense;
	}
	if (json_is_array(types))
		model->first_k_dense_replace = (int64_t)dense;
}

/* Without experts the MLP is what is shared between them otherwise. */
static void settle_granite(struct est_model *model)
{
	if (model->num_experts)
		return;
	if (model->shared_expert_intermediate_size)
		model->intermediate_size = model->shared_expert_intermediate_size;
	model->shared_expert_intermediate_size = model->num_experts_per_tok = 0;
}

/* moe_topk, of each layer or of all; the shared MLP is as wide as an expert. */
static void settle_hunyuan(const struct cfg_hf_reading *reading)
{
	const json_t *top = json_object_get(reading->object, "moe_topk"), *each;
	const json_t *first = json_is_array(top) ? json_array_get(top, 0) : top;
	struct est_model *model = reading->model;
	size_t layer;

	model->shared_expert_intermediate_size = model->intermediate_size;
	if (!top)
		return;
	if (!json_is_integer(first) || json_integer_value(first) < 1) {
		cfg_hf_complain(reading, "moe_topk", EST_OUT_OF_RANGE, "must be a whole number from 1 on, or list one for each layer");
		return;
	}
	json_array_foreach(top, layer, each)
		if (!json_equal(each, first))
			cfg_hf_refuse(model, irregular_mixture);
	model->num_experts_per_tok = json_integer_value(first);
}

/* Experts as wide as the MLP where the class has no width for them; the layers that have none. */
static void settle_mixture(const struct cfg_hf_reading *reading, uint64_t reads)
{
	struct est_model *model = reading->model;
	const json_t *step = json_object_get(reading->object, "decoder_sparse_step");
	const json_t *method = json_object_get(reading->object, "topk_method");

	if (reads & CFG_READS_GRANITE_SHARED)
		settle_granite(model);
	if (reads & CFG_READS_HUNYUAN)
		settle_hunyuan(reading);
	if (!(reads & CFG_READS_EXPERT_WIDTH))
		model->moe_intermediate_size = model->intermediate_size;
	if (reads & CFG_READS_SHARED_EXPERTS)
		model->shared_expert_intermediate_size = model->n_shared_experts * model->moe_intermediate_size;
	if (json_is_string(method) && (reads & CFG_READS_GROUP_LIMIT))
		model->group_limited = !strcmp(json_string_value(method), "group_limited_greedy");
	if ((reads & CFG_READS_SPARSE_STEP)
	    && ((step && json_integer_value(step) != 1)
		|| json_array_size(json_object_get(reading->object, "mlp_only_layers")) > 0))
		cfg_hf_refuse(model, irregular_mixture);
	read_mlp_layer_types(reading);
	if (cfg_hf_is_true(reading, "output_router_logits"))
		cfg_hf_refuse(model, router_loss);
	if (model->num_experts_per_tok > model->num_experts)
		cfg_hf_complain(reading, "num_experts_per_tok", EST_CONTRADICTION, "must be at most num_experts");
}

/* The heads of latent attention: those of q and k are of two parts, and all are distinct. */
static void settle_latent(const struct cfg_hf_reading *reading, uint64_t reads)
{
	struct est_model *model = reading->model;

	(void)reads;
	model->head_dim = model->qk_nope_head_dim + model->qk_rope_head_dim;
	if (model->num_key_value_heads && model->num_key_value_heads != model->num_attention_heads)
		cfg_hf_complain(reading, "num_key_value_heads", EST_CONTRADICTION,
				"must be num_attention_heads with latent attention");
}

static void require_sizes(const struct cfg_hf_reading *reading)
{
	const struct est_model *model = reading->model;
	const struct { const char *key; int64_t value; } sizes[] = {
		{ "vocab_size", model->vocab_size },
		{ "hidden_size", model->hidden_size },
		{ "num_hidden_layers", model->num_hidden_layers },
		{ "num_attention_heads", model->num_attention_heads },
		{ "intermediate_size", model->intermediate_size },
	};

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		if (!sizes[i].value)
			cfg_hf_complain(reading, sizes[i].key, EST_MISSING, "is required");
}

/* Heads from heads and widths from widths where the file leaves them out, then what the class itself would refuse. */
static void settle_heads(const struct cfg_hf_reading *reading, uint64_t reads)
{
	struct est_model *model = reading->model;

	(void)reads;
	if (!model->num_key_value_heads)
		model->num_key_value_heads = model->num_attention_heads;
	if (!model->head_dim && model->hidden_size % model->num_attention_heads)
		cfg_hf_complain(reading, "num_attention_heads", EST_CONTRADICTION, "must divide hidden_size");
	if (!model->head_dim)
		model->head_dim = model->hidden_size / model->num_attention_heads;
	if (model->num_attention_heads % model->num_key_value_heads)
		cfg_hf_complain(reading, "num_key_value_heads", EST_CONTRADICTION, "must divide num_attention_heads");
}

/* Widths that a class takes from others where its file leaves them out. */
static void settle_widths(const struct cfg_family *family, struct est_model *model)
{
	if (family->wide_mlp_by_default && !model->intermediate_size)
		model->intermediate_size = 4 * model->hidden_size;
	if ((family->reads & CFG_READS_DELTA) && !model->intermediate_size) /* of no layer, where all have experts */
		model->intermediate_size = model->shared_expert_intermediate_size;
	if (family->reads & CFG_READS_MAMBA2) { /* nothing attends, nothing feeds forward */
		model->num_attention_heads = model->ssm_num_heads;
		model->head_dim = model->ssm_head_dim;
		model->intermediate_size = model->hidden_size;
	}
}

static void settle_dense(const struct cfg_hf_reading *reading, uint64_t reads)
{
	const char *refused = cfg_settle_dense(reading->object, reads, reading->model);

	if (refused)
		cfg_hf_refuse(reading->model, refused);
}

static void settle_qk_norm(const struct cfg_hf_reading *reading, uint64_t reads)
{
	if (cfg_hf_is_true(reading, "use_qk_norm"))
		reading->model->qk_norm = reads & CFG_READS_COHERE ? EST_QK_NORM_PER_HEAD : EST_QK_NORM_HEAD;
}

/* Values of single keys that are not modelled. */
static void refuse_values(const struct cfg_hf_reading *reading, uint64_t reads)
{
	const json_t *clip = json_object_get(reading->object, "clip_qkv");
	struct est_model *model = reading->model;

	if ((reads & CFG_READS_PLAIN_QK) && (cfg_hf_is_true(reading, "qk_layernorm")
					     || cfg_hf_is_true(reading, "use_parallel_residual")))
		cfg_hf_refuse(model, other_stablelm);
	if (model->activation == EST_XIELU && model->architecture != EST_ARCH_APERTUS)
		cfg_hf_refuse(model, unknown_activation);
	if ((reads & CFG_READS_CLIP_QKV) && clip && !json_is_null(clip))
		cfg_hf_refuse(model, clipped_qkv);
}

/* What is settled once the sizes are read, in this order: for families that read any of the bits, or for all. */
static const struct {
	uint64_t reads;
	void (*settle)(const struct cfg_hf_reading *reading, uint64_t reads);
} settlements[] = {
	{ CFG_READS_LATENT, settle_latent },
	{ CFG_READS_BERT | CFG_READS_DISTILBERT | CFG_READS_DEBERTA | CFG_READS_MODERNBERT | CFG_READS_T5,
	  cfg_settle_encoder },
	{ UINT64_MAX, settle_heads },
	{ CFG_READS_LAYER_KINDS, cfg_settle_hybrid },
	{ UINT64_MAX, settle_dense },
	{ CFG_READS_EXPERTS | CFG_READS_GRANITE_SHARED, settle_mixture },
	{ CFG_READS_QKV_BIAS | CFG_READS_COHERE, settle_qk_norm },
	{ CFG_READS_WINDOW, read_window },
	{ CFG_READS_UNROTATED, read_unrotated },
	{ CFG_READS_GEMMA4, cfg_settle_gemma4 },
	{ CFG_READS_GEMMA3N, cfg_settle_gemma3n },
	{ CFG_READS_LLAMA4, cfg_settle_llama4 },
	{ CFG_READS_INDEXER, cfg_settle_indexer },
	{ CFG_READS_PARTIAL_ROTARY, read_rope_parameters },
	{ CFG_READS_OPT, settle_opt },
	{ UINT64_MAX, refuse_values },
};

static void read_family(struct cfg_hf_reading *reading, const struct cfg_family *family)
{
	struct est_model *model = reading->model;
	size_t before = reading->faults->count;

	*model = family->shape;
	cfg_hf_read_keys(reading, family->reads);
	settle_widths(family, model);
	if (reading->faults->count == before)
		require_sizes(reading);
	if (reading->faults->count > before)
		return;
	for (size_t i = 0; i < sizeof(settlements) / sizeof(settlements[0]); i++)
		if (settlements[i].reads == UINT64_MAX || family->reads & settlements[i].reads)
			settlements[i].settle(reading, family->reads);
	model->parameters = est_model_count_parameters(model);
}

/* The sizes of a refused model as far as its file tells them; nothing is counted. */
static void read_refused(struct cfg_hf_reading *reading, const struct cfg_refusal *refusal)
{
	const json_t *text = json_object_get(reading->object, "text_config");

	*reading->model = (struct est_model){ .partial_rotary_factor = 1, .do_layer_norm_before = true };
	if (text)
		reading->object = text;
	reading->faults = NULL;
	cfg_hf_read_keys(reading, CFG_READS_GQA);
	reading->model->unsupported = NULL;
	cfg_hf_refuse(reading->model, refusal->reason);
}

/* The language model by its own family, then what sees. */
static void read_composite(struct cfg_hf_reading *reading, const struct cfg_composite *composite)
{
	const char *type = cfg_composite_text_type(composite, reading->object);
	const struct cfg_family *family = cfg_family_find(type);
	struct cfg_hf_reading text = *reading;
	size_t before = reading->faults->count;
	char pointer[EST_POINTER_MAX];

	text.object = cfg_composite_text(reading->object);
	if (text.object != reading->object) {
		snprintf(pointer, sizeof(pointer), "%s/text_config", reading->pointer);
		text.pointer = pointer;
	}
	if (!family) {
		cfg_hf_complain(&text, "model_type", EST_UNKNOWN_VALUE, "is not a known model type of a language model with a tower");
		return;
	}
	read_family(&text, family);
	if (reading->faults->count == before)
		cfg_read_tower(reading, composite);
}

static void complain_type(const struct cfg_hf_reading *reading, const char *type)
{
	struct cfg_suggestion suggestion;
	char detail[EST_DETAIL_MAX];

	cfg_suggestion_init(&suggestion, type);
	for (size_t i = 0; i < cfg_family_count; i++)
		cfg_suggestion_offer(&suggestion, cfg_families[i].model_type);
	for (size_t i = 0; i < cfg_refusal_count; i++)
		cfg_suggestion_offer(&suggestion, cfg_refusals[i].model_type);
	for (size_t i = 0; i < cfg_composite_count; i++)
		cfg_suggestion_offer(&suggestion, cfg_composites[i].model_type);
	if (suggestion.nearest)
		snprintf(detail, sizeof(detail), "is not a known model type (did you mean %s?)", suggestion.nearest);
	else
		snprintf(detail, sizeof(detail), "is not a known model type");
	cfg_hf_complain(reading, "model_type", EST_UNKNOWN_VALUE, detail);
}

/* The catalogue names Ministral 3's language model and puts the tower beside it. */
static const struct cfg_composite *composite_of(const char *type, const json_t *object)
{
	bool sees = json_is_object(json_object_get(object, "vision"));

	return cfg_composite_find(sees && !strcmp(type, "ministral3") ? "mistral3" : type);
}

bool cfg_model_from_hf_config(const json_t *object, const char *pointer, struct est_model *ret_model,
			      struct est_faults *faults)
{
	struct est_model model = { 0 };
	struct cfg_hf_reading reading = { object, pointer, &model, faults };
	const char *type = json_string_value(json_object_get(object, "model_type"));
	const struct cfg_family *family = type ? cfg_family_find(type) : NULL;
	const struct cfg_composite *composite = type ? composite_of(type, object) : NULL;
	const struct cfg_refusal *refusal = type ? cfg_refusal_find(type) : NULL;
	size_t before = faults->count;

	if (!type)
		cfg_hf_complain(&reading, "model_type", EST_MISSING, "is required, a string");
	else if (composite)
		read_composite(&reading, composite);
	else if (family)
		read_family(&reading, family);
	else if (refusal)
		read_refused(&reading, refusal);
	else
		complain_type(&reading, type);
	if (faults->count > before)
		return false;
	snprintf(model.id, sizeof(model.id), "custom");
	snprintf(model.model_type, sizeof(model.model_type), "%s", type);
	*ret_model = model;
	return true;
}
