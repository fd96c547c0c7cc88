#include <stdio.h>
#include <string.h>
#include "config/families.h"

enum key_kind { KEY_INT, KEY_BOOL, KEY_REAL, KEY_ACTIVATION };

/* One member of the shape and the names that config.json gives it, the class's own first. */
struct key {
	const char *names[6];
	enum key_kind kind;
	uint64_t reads; /* only in families that read one of these; 0: in all */
	size_t offset;  /* in struct est_model */
	double min, max;
};

#define MEMBER(member) offsetof(struct est_model, member)

/* The ranges keep every product of a count within 2^62. clang-format off */
static const struct key keys[] = {
	{ { "vocab_size" }, KEY_INT, 0, MEMBER(vocab_size), 1, 1 << 24 },
	{ { "hidden_size", "n_embd" }, KEY_INT, 0, MEMBER(hidden_size), 1, 1 << 17 },
	{ { "num_hidden_layers", "n_layer" }, KEY_INT, 0, MEMBER(num_hidden_layers), 1, EST_LAYERS_MAX },
	{ { "num_attention_heads", "n_head" }, KEY_INT, 0, MEMBER(num_attention_heads), 1, 4096 },
	{ { "num_key_value_heads" }, KEY_INT, CFG_READS_GQA, MEMBER(num_key_value_heads), 1, 4096 },
	{ { "head_dim" }, KEY_INT, CFG_READS_GQA, MEMBER(head_dim), 1, 4096 },
	{ { "intermediate_size", "n_inner", "ffn_dim" }, KEY_INT, 0, MEMBER(intermediate_size), 1, 1 << 20 },
	{ { "max_position_embeddings", "n_positions" }, KEY_INT, 0, MEMBER(max_position_embeddings), 1, 1 << 30 },
	{ { "tie_word_embeddings" }, KEY_BOOL, 0, MEMBER(tie_word_embeddings), 0, 0 },
	{ { "attention_bias" }, KEY_BOOL, CFG_READS_ATTENTION_BIAS | CFG_READS_QKV_BIAS | CFG_READS_OUT_BIAS,
	  MEMBER(qkv_bias), 0, 0 },
	{ { "attention_bias" }, KEY_BOOL, CFG_READS_ATTENTION_BIAS, MEMBER(o_bias), 0, 0 },
	{ { "attention_out_bias" }, KEY_BOOL, CFG_READS_OUT_BIAS, MEMBER(o_bias), 0, 0 },
	{ { "mlp_bias" }, KEY_BOOL, CFG_READS_MLP_BIAS, MEMBER(mlp_bias), 0, 0 },
	{ { "enable_bias", "use_bias" }, KEY_BOOL, CFG_READS_ENABLE_BIAS, MEMBER(qkv_bias), 0, 0 },
	{ { "enable_bias", "use_bias" }, KEY_BOOL, CFG_READS_ENABLE_BIAS, MEMBER(o_bias), 0, 0 },
	{ { "enable_bias", "use_bias" }, KEY_BOOL, CFG_READS_ENABLE_BIAS, MEMBER(mlp_bias), 0, 0 },
	{ { "hidden_activation", "hidden_act", "activation_function" }, KEY_ACTIVATION, 0, MEMBER(activation), 0, 0 },
	{ { "attention_dropout", "attn_pdrop" }, KEY_REAL, 0, MEMBER(attention_dropout), 0, 1 },
	{ { "resid_pdrop", "hidden_dropout", "dropout", "residual_dropout" }, KEY_REAL, CFG_READS_DROPOUT, MEMBER(residual_dropout), 0, 1 },
	{ { "embd_pdrop", "hidden_dropout", "embedding_dropout" }, KEY_REAL, CFG_READS_EMBEDDING_DROPOUT, MEMBER(embedding_dropout), 0, 1 },
	{ { "final_logit_softcapping" }, KEY_REAL, CFG_READS_SOFTCAP, MEMBER(final_logit_softcapping), 0, 1e6 },
	{ { "attn_logit_softcapping" }, KEY_REAL, CFG_READS_SOFTCAP, MEMBER(attn_logit_softcapping), 0, 1e6 },
	{ { "embedding_multiplier" }, KEY_REAL, CFG_READS_MULTIPLIERS, MEMBER(embedding_multiplier), 1e-6, 1e6 },
	{ { "residual_multiplier" }, KEY_REAL, CFG_READS_MULTIPLIERS, MEMBER(residual_multiplier), 1e-6, 1e6 },
	{ { "logits_scaling" }, KEY_REAL, CFG_READS_MULTIPLIERS, MEMBER(logits_scaling), 1e-6, 1e6 },
	{ { "partial_rotary_factor", "rotary_pct" }, KEY_REAL, CFG_READS_PARTIAL_ROTARY,
	  MEMBER(partial_rotary_factor), 0, 1 },
	{ { "sliding_window" }, KEY_INT, CFG_READS_WINDOW, MEMBER(sliding_window), 1, 1 << 30 },
	{ { "sliding_window_pattern" }, KEY_INT, CFG_READS_LAYER_TYPES, MEMBER(full_attention_every), 1, 4096 },
	{ { "no_rope_layer_interval" }, KEY_INT, CFG_READS_UNROTATED, MEMBER(no_rope_layer_interval), 1, 4096 },
	{ { "use_parallel_residual" }, KEY_BOOL, CFG_READS_PARALLEL_RESIDUAL, MEMBER(parallel_residual), 0, 0 },
	{ { "word_embed_proj_dim", "embed_dim" }, KEY_INT, CFG_READS_OPT, MEMBER(embed_dim), 1, 1 << 17 },
	{ { "do_layer_norm_before" }, KEY_BOOL, CFG_READS_OPT, MEMBER(do_layer_norm_before), 0, 0 },
	{ { "num_local_experts", "n_routed_experts", "num_experts" }, KEY_INT, CFG_READS_EXPERTS, MEMBER(num_experts), 1, 4096 },
	{ { "num_experts_per_tok" }, KEY_INT, CFG_READS_EXPERTS, MEMBER(num_experts_per_tok), 1, 4096 },
	{ { "moe_intermediate_size" }, KEY_INT, CFG_READS_EXPERT_WIDTH, MEMBER(moe_intermediate_size), 1, 1 << 17 },
	{ { "shared_expert_intermediate_size" }, KEY_INT, CFG_READS_SHARED_WIDTH, MEMBER(shared_expert_intermediate_size),
	  1, 1 << 20 },
	{ { "qkv_bias", "use_qkv_bias" }, KEY_BOOL, CFG_READS_SHARED_WIDTH | CFG_READS_PLAIN_QK, MEMBER(qkv_bias), 0, 0 },
	{ { "norm_topk_prob" }, KEY_BOOL, CFG_READS_NORM_TOPK, MEMBER(norm_topk_prob), 0, 0 },
	{ { "n_shared_experts" }, KEY_INT, CFG_READS_SHARED_EXPERTS, MEMBER(n_shared_experts), 0, 64 },
	{ { "first_k_dense_replace" }, KEY_INT, CFG_READS_SHARED_EXPERTS, MEMBER(first_k_dense_replace), 0, EST_LAYERS_MAX },
	{ { "n_group" }, KEY_INT, CFG_READS_SHARED_EXPERTS, MEMBER(n_group), 1, 4096 },
	{ { "topk_group" }, KEY_INT, CFG_READS_SHARED_EXPERTS, MEMBER(topk_group), 1, 4096 },
	{ { "kv_lora_rank" }, KEY_INT, CFG_READS_LATENT, MEMBER(kv_lora_rank), 1, 1 << 16 },
	{ { "q_lora_rank" }, KEY_INT, CFG_READS_LATENT, MEMBER(q_lora_rank), 1, 1 << 16 },
	{ { "qk_nope_head_dim" }, KEY_INT, CFG_READS_LATENT, MEMBER(qk_nope_head_dim), 1, 4096 },
	{ { "qk_rope_head_dim" }, KEY_INT, CFG_READS_LATENT, MEMBER(qk_rope_head_dim), 1, 4096 },
	{ { "v_head_dim" }, KEY_INT, CFG_READS_LATENT, MEMBER(v_head_dim), 1, 4096 },
	{ { "rope_interleave" }, KEY_BOOL, CFG_READS_LATENT, MEMBER(rope_interleave), 0, 0 },
	{ { "type_vocab_size" }, KEY_INT, CFG_READS_BERT, MEMBER(type_vocab_size), 1, 1 << 10 },
	{ { "attention_probs_dropout_prob" }, KEY_REAL, CFG_READS_BERT, MEMBER(attention_dropout), 0, 1 },
	{ { "hidden_dropout_prob" }, KEY_REAL, CFG_READS_BERT, MEMBER(residual_dropout), 0, 1 },
	{ { "dim" }, KEY_INT, CFG_READS_DISTILBERT, MEMBER(hidden_size), 1, 1 << 17 },
	{ { "n_layers" }, KEY_INT, CFG_READS_DISTILBERT, MEMBER(num_hidden_layers), 1, EST_LAYERS_MAX },
	{ { "n_heads" }, KEY_INT, CFG_READS_DISTILBERT, MEMBER(num_attention_heads), 1, 4096 },
	{ { "hidden_dim" }, KEY_INT, CFG_READS_DISTILBERT, MEMBER(intermediate_size), 1, 1 << 20 },
	{ { "activation" }, KEY_ACTIVATION, CFG_READS_DISTILBERT, MEMBER(activation), 0, 0 },
	{ { "dropout" }, KEY_REAL, CFG_READS_DISTILBERT, MEMBER(residual_dropout), 0, 1 },
	{ { "d_model" }, KEY_INT, CFG_READS_T5, MEMBER(hidden_size), 1, 1 << 17 },
	{ { "d_kv", "head_dim" }, KEY_INT, CFG_READS_T5, MEMBER(head_dim), 1, 4096 },
	{ { "d_ff" }, KEY_INT, CFG_READS_T5, MEMBER(intermediate_size), 1, 1 << 20 },
	{ { "num_layers" }, KEY_INT, CFG_READS_T5, MEMBER(num_hidden_layers), 1, EST_LAYERS_MAX / 2 },
	{ { "num_decoder_layers" }, KEY_INT, CFG_READS_T5, MEMBER(num_decoder_layers), 1, EST_LAYERS_MAX / 2 },
	{ { "num_heads" }, KEY_INT, CFG_READS_T5, MEMBER(num_attention_heads), 1, 4096 },
	{ { "relative_attention_num_buckets" }, KEY_INT, CFG_READS_T5, MEMBER(relative_attention_num_buckets), 2, 1 << 16 },
	{ { "dropout_rate" }, KEY_REAL, CFG_READS_T5, MEMBER(residual_dropout), 0, 1 },
	{ { "is_gated_act", "gated_mlp" }, KEY_BOOL, CFG_READS_T5, MEMBER(gated_mlp), 0, 0 },
	{ { "scale_decoder_outputs" }, KEY_BOOL, CFG_READS_T5, MEMBER(scale_decoder_outputs), 0, 0 },
};

/* Names of Transformers' activations.py whose operators the replay has. */
static const struct { const char *name; enum est_activation value; } activations[] = {
	{ "silu", EST_SILU },
	{ "swish", EST_SILU },
	{ "gelu", EST_GELU },
	{ "gelu_pytorch_tanh", EST_GELU },
	{ "gelu_new", EST_GELU_NEW },
	{ "relu", EST_RELU },
	{ "relu2", EST_RELU2 },
	{ "xielu", EST_XIELU },
};
/* clang-format on */

static const char unknown_activation[] = "an activation function that is not modelled yet";
static const char irregular_window[] = "a sliding window in an irregular pattern of layers, not modelled yet";
static const char irregular_rotation[] = "rotary embedding in an irregular pattern of layers, not modelled yet";
static const char other_stablelm[] = "qk_layernorm or use_parallel_residual, not modelled yet";
static const char with_vision[] = "a vision-language model, not modelled yet";
static const char irregular_mixture[] = "dense layers among those with experts, not modelled yet";
static const char router_loss[] = "the load-balancing loss of the router (output_router_logits), not modelled yet";
static const char clipped_qkv[] = "clipped queries, keys and values (clip_qkv), not modelled yet";

/* What is being read. faults NULL: a model that is refused anyway, nothing is said about its values. */
struct reading {
	const json_t *object;
	const char *pointer;
	struct est_model *model;
	struct est_faults *faults;
};

static void complain(const struct reading *reading, const char *key, enum est_fault_code code, const char *detail)
{
	char pointer[EST_POINTER_MAX];

	if (!reading->faults)
		return;
	snprintf(pointer, sizeof(pointer), "%s/%s", reading->pointer, key);
	est_fault_add(reading->faults, pointer, code, "%s", detail);
}

static void complain_range(const struct reading *reading, const char *name, const struct key *key)
{
	char detail[EST_DETAIL_MAX];

	snprintf(detail, sizeof(detail), "must be a %s from %.15g to %.15g",
		 key->kind == KEY_INT ? "whole number" : "number", key->min, key->max);
	complain(reading, name, EST_OUT_OF_RANGE, detail);
}

static void refuse(struct est_model *model, const char *reason)
{
	model->architecture = EST_ARCH_UNSUPPORTED;
	if (!model->unsupported)
		model->unsupported = reason;
}

static void read_number(const struct reading *reading, const struct key *key, const char *name, const json_t *value)
{
	char *member = (char *)reading->model + key->offset;
	double number = json_is_null(value) ? 0 : json_number_value(value);

	if (!json_is_number(value) && !json_is_null(value))
		complain(reading, name, EST_WRONG_TYPE, "must be a number");
	else if (json_is_number(value) && !(number >= key->min && number <= key->max))
		complain_range(reading, name, key);
	else if (key->kind == KEY_REAL)
		memcpy(member, &number, sizeof(number));
	else if (number != (double)(int64_t)number)
		complain_range(reading, name, key);
	else
		memcpy(member, &(int64_t){ (int64_t)number }, sizeof(int64_t));
}

static void read_bool(const struct reading *reading, const struct key *key, const char *name, const json_t *value)
{
	bool truth = json_is_true(value);

	if (json_is_boolean(value))
		memcpy((char *)reading->model + key->offset, &truth, sizeof(truth));
	else if (!json_is_null(value))
		complain(reading, name, EST_WRONG_TYPE, "must be true or false");
}

static void set_activation(struct est_model *model, const char *word)
{
	for (size_t i = 0; i < sizeof(activations) / sizeof(activations[0]); i++)
		if (!strcmp(word, activations[i].name)) {
			model->activation = activations[i].value;
			return;
		}
	refuse(model, unknown_activation);
}

static void read_activation(const struct reading *reading, const char *name, const json_t *value)
{
	const char *word = json_string_value(value);

	if (json_is_null(value))
		return;
	if (!word) {
		complain(reading, name, EST_WRONG_TYPE, "must be a string");
		return;
	}
	set_activation(reading->model, word);
}

static void read_key(const struct reading *reading, const struct key *key)
{
	for (size_t i = 0; key->names[i]; i++) {
		const json_t *value = json_object_get(reading->object, key->names[i]);

		if (!value)
			continue;
		if (key->kind == KEY_BOOL)
			read_bool(reading, key, key->names[i], value);
		else if (key->kind == KEY_ACTIVATION)
			read_activation(reading, key->names[i], value);
		else
			read_number(reading, key, key->names[i], value);
		return;
	}
}

static void read_keys(const struct reading *reading, uint64_t reads)
{
	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
		if (!keys[i].reads || (keys[i].reads & reads))
			read_key(reading, &keys[i]);
}

/* Transformers 5 writes the factor into rope_parameters. */
static void read_rope_parameters(const struct reading *reading)
{
	const json_t *rope = json_object_get(reading->object, "rope_parameters");
	const json_t *factor = json_object_get(rope, "partial_rotary_factor");
	double value = json_number_value(factor);

	if (json_is_number(factor) && value >= 0 && value <= 1)
		reading->model->partial_rotary_factor = value;
}

static bool is_sliding(const json_t *layer_types, size_t layer)
{
	const char *type = json_string_value(json_array_get(layer_types, layer));

	return type && !strcmp(type, "sliding_attention");
}

/* layer_types as a window and its period: full attention in layers n, 2n, ... (from 1), or nowhere, or everywhere. */
static void read_layer_types(const struct reading *reading, const json_t *layer_types)
{
	struct est_model *model = reading->model;
	size_t count = json_array_size(layer_types), full = 0;

	if (!json_is_array(layer_types) || count != (size_t)model->num_hidden_layers) {
		complain(reading, "layer_types", EST_CONTRADICTION, "must list one type for each of num_hidden_layers");
		return;
	}
	while (full < count && is_sliding(layer_types, full))
		full++;
	model->full_attention_every = full < count ? (int64_t)full + 1 : 0;
	if (full == 0)
		model->sliding_window = 0;
	for (size_t layer = 0; layer < count; layer++)
		if (is_sliding(layer_types, layer) != (full > 0 && (layer + 1) % (full + 1) != 0))
			refuse(model, irregular_window);
}

static void read_window(const struct reading *reading, uint64_t reads)
{
	const json_t *layer_types = json_object_get(reading->object, "layer_types");
	const json_t *from = json_object_get(reading->object, "max_window_layers");
	struct est_model *model = reading->model;

	if ((reads & CFG_READS_USE_WINDOW) && !json_is_true(json_object_get(reading->object, "use_sliding_window")))
		model->sliding_window = 0;
	if (!model->sliding_window)
		model->full_attention_every = 0;
	else if ((reads & CFG_READS_LAYER_TYPES) && layer_types && !json_is_null(layer_types))
		read_layer_types(reading, layer_types);
	else if (reads & CFG_READS_USE_WINDOW) {
		int64_t first = from ? json_integer_value(from) : 28;

		if (first >= model->num_hidden_layers)
			model->sliding_window = 0;
		else if (first > 0)
			refuse(model, irregular_window);
	}
}

static bool is_true(const struct reading *reading, const char *key)
{
	return json_is_true(json_object_get(reading->object, key));
}

/* no_rope_layers (1: rotated, 0: not) as a period: layers n, 2n, ... have no rotary embedding. */
static void read_unrotated(const struct reading *reading)
{
	const json_t *layers = json_object_get(reading->object, "no_rope_layers");
	struct est_model *model = reading->model;
	size_t first = 0, count = json_array_size(layers);

	if (is_true(reading, "use_sliding_window"))
		refuse(model, irregular_window);
	if (!layers || json_is_null(layers))
		return;
	if (count < (size_t)model->num_hidden_layers) {
		complain(reading, "no_rope_layers", EST_CONTRADICTION, "must list a flag for each of num_hidden_layers");
		return;
	}
	while (first < count && json_integer_value(json_array_get(layers, first)))
		first++;
	model->no_rope_layer_interval = first < count ? (int64_t)first + 1 : 0;
	for (int64_t i = 0; i < model->num_hidden_layers; i++)
		if (!json_integer_value(json_array_get(layers, (size_t)i)) == est_model_layer_is_rotated(model, i))
			refuse(model, irregular_rotation);
}

static void settle_opt(const struct reading *reading)
{
	struct est_model *model = reading->model;

	model->final_norm = model->do_layer_norm_before
		&& !json_is_true(json_object_get(reading->object, "_remove_final_layer_norm"));
	if (json_is_false(json_object_get(reading->object, "layer_norm_elementwise_affine")))
		model->norm = EST_NORM_NONPARAMETRIC;
	if (model->embed_dim == model->hidden_size)
		model->embed_dim = 0;
}

/* mlp_layer_types: "dense" for the first layers, "sparse" for all others. */
static void read_mlp_layer_types(const struct reading *reading)
{
	const json_t *types = json_object_get(reading->object, "mlp_layer_types"), *type;
	struct est_model *model = reading->model;
	size_t layer, dense = 0;

	json_array_foreach(types, layer, type) {
		const char *word = json_string_value(type);
		bool is_dense = word && !strcmp(word, "dense");

		if (is_dense && dense != layer)
			refuse(model, irregular_mixture);
		dense += is_dense;
	}
	if (json_is_array(types))
		model->first_k_dense_replace = (int64_t)dense;
}

/* Experts as wide as the MLP where the class has no width for them; the layers that have none. */
static void settle_mixture(const struct reading *reading, uint64_t reads)
{
	struct est_model *model = reading->model;
	const json_t *step = json_object_get(reading->object, "decoder_sparse_step");
	const json_t *method = json_object_get(reading->object, "topk_method");

	if (!(reads & CFG_READS_EXPERT_WIDTH))
		model->moe_intermediate_size = model->intermediate_size;
	if (reads & CFG_READS_SHARED_EXPERTS)
		model->shared_expert_intermediate_size = model->n_shared_experts * model->moe_intermediate_size;
	if (json_is_string(method) && (reads & CFG_READS_GROUP_LIMIT))
		model->group_limited = !strcmp(json_string_value(method), "group_limited_greedy");
	if ((reads & CFG_READS_SPARSE_STEP)
	    && ((step && json_integer_value(step) != 1)
		|| json_array_size(json_object_get(reading->object, "mlp_only_layers")) > 0))
		refuse(model, irregular_mixture);
	read_mlp_layer_types(reading);
	if (is_true(reading, "output_router_logits"))
		refuse(model, router_loss);
	if (model->num_experts_per_tok > model->num_experts)
		complain(reading, "num_experts_per_tok", EST_CONTRADICTION, "must be at most num_experts");
}

/* The heads of latent attention: those of q and k are of two parts, and all are distinct. */
static void settle_latent(const struct reading *reading)
{
	struct est_model *model = reading->model;

	model->head_dim = model->qk_nope_head_dim + model->qk_rope_head_dim;
	if (model->num_key_value_heads && model->num_key_value_heads != model->num_attention_heads)
		complain(reading, "num_key_value_heads", EST_CONTRADICTION, "must be num_attention_heads with latent attention");
}

/* Dropout by other names, and as many labels as the file names: two when it names none. */
static void settle_encoder(const struct reading *reading, uint64_t reads)
{
	const char *key = (reads & CFG_READS_BERT) ? "classifier_dropout" : "seq_classif_dropout";
	const json_t *classifier = json_object_get(reading->object, key);
	size_t labels = json_object_size(json_object_get(reading->object, "id2label"));
	struct est_model *model = reading->model;

	model->embedding_dropout = model->residual_dropout;
	model->classifier_dropout = (reads & CFG_READS_BERT) ? model->residual_dropout : 0.2;
	if (json_is_number(classifier))
		model->classifier_dropout = json_number_value(classifier);
	if (labels > 0)
		model->num_labels = (int64_t)labels;
}

/* T5 writes its activation as "relu" or "gated-gelu", which is gelu_new. A file that says that embeddings are not tied is of a checkpoint
 * with a head of its own, which from_pretrained() keeps apart although the class ties: T5 1.1, whose outputs are not scaled. */
static void settle_t5(const struct reading *reading)
{
	const char *projection = json_string_value(json_object_get(reading->object, "feed_forward_proj"));
	struct est_model *model = reading->model;

	if (projection) {
		model->gated_mlp = strncmp(projection, "gated-", 6) == 0;
		set_activation(model, !strcmp(projection, "gated-gelu") ? "gelu_new" : projection + (model->gated_mlp ? 6 : 0));
	}
	if (model->architecture != EST_ARCH_UNSUPPORTED)
		model->architecture = model->gated_mlp ? EST_ARCH_T5_GATED : EST_ARCH_T5;
	if (model->scale_decoder_outputs && !json_object_get(reading->object, "scale_decoder_outputs"))
		model->scale_decoder_outputs = model->tie_word_embeddings;
	if (!model->num_decoder_layers)
		model->num_decoder_layers = model->num_hidden_layers;
	if (est_model_stacked_layers(model) > EST_LAYERS_MAX)
		complain(reading, "num_decoder_layers", EST_OUT_OF_RANGE, "must leave room for the encoder's layers within 1024");
	model->attention_dropout = model->residual_dropout;
}

static void require_sizes(const struct reading *reading)
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
			complain(reading, sizes[i].key, EST_MISSING, "is required");
}

/* Heads from heads and widths from widths where the file leaves them out, then what the class itself would refuse. */
static void settle_heads(const struct reading *reading)
{
	struct est_model *model = reading->model;

	if (!model->num_key_value_heads)
		model->num_key_value_heads = model->num_attention_heads;
	if (!model->head_dim && model->hidden_size % model->num_attention_heads)
		complain(reading, "num_attention_heads", EST_CONTRADICTION, "must divide hidden_size");
	if (!model->head_dim)
		model->head_dim = model->hidden_size / model->num_attention_heads;
	if (model->num_attention_heads % model->num_key_value_heads)
		complain(reading, "num_key_value_heads", EST_CONTRADICTION, "must divide num_attention_heads");
}

static void read_family(struct reading *reading, const struct cfg_family *family)
{
	struct est_model *model = reading->model;
	const json_t *clip = json_object_get(reading->object, "clip_qkv");
	size_t before = reading->faults->count;

	*model = family->shape;
	read_keys(reading, family->reads);
	if (family->wide_mlp_by_default && !model->intermediate_size)
		model->intermediate_size = 4 * model->hidden_size;
	if (reading->faults->count == before)
		require_sizes(reading);
	if (reading->faults->count > before)
		return;
	if (family->reads & CFG_READS_LATENT)
		settle_latent(reading);
	if (family->reads & (CFG_READS_BERT | CFG_READS_DISTILBERT))
		settle_encoder(reading, family->reads);
	if (family->reads & CFG_READS_T5)
		settle_t5(reading);
	settle_heads(reading);
	if (family->reads & CFG_READS_EXPERTS)
		settle_mixture(reading, family->reads);
	if ((family->reads & CFG_READS_QKV_BIAS) && is_true(reading, "use_qk_norm"))
		model->qk_norm = EST_QK_NORM_HEAD;
	if (family->reads & CFG_READS_WINDOW)
		read_window(reading, family->reads);
	if ((family->reads & CFG_READS_COHERE) && is_true(reading, "use_qk_norm"))
		model->qk_norm = EST_QK_NORM_PER_HEAD;
	if ((family->reads & CFG_READS_PLAIN_QK) && (is_true(reading, "qk_layernorm") || is_true(reading, "use_parallel_residual")))
		refuse(model, other_stablelm);
	if (model->activation == EST_XIELU && model->architecture != EST_ARCH_APERTUS)
		refuse(model, unknown_activation);
	if (family->reads & CFG_READS_UNROTATED)
		read_unrotated(reading);
	if (json_is_object(json_object_get(reading->object, "vision")))
		refuse(model, with_vision);
	if (family->reads & CFG_READS_PARTIAL_ROTARY)
		read_rope_parameters(reading);
	if (family->reads & CFG_READS_OPT)
		settle_opt(reading);
	if ((family->reads & CFG_READS_CLIP_QKV) && clip && !json_is_null(clip))
		refuse(model, clipped_qkv);
	model->parameters = est_model_count_parameters(model);
}

/* The sizes of a refused model as far as its file tells them; nothing is counted. */
static void read_refused(struct reading *reading, const struct cfg_refusal *refusal)
{
	const json_t *text = json_object_get(reading->object, "text_config");

	*reading->model = (struct est_model){ .partial_rotary_factor = 1, .do_layer_norm_before = true };
	if (text)
		reading->object = text;
	reading->faults = NULL;
	read_keys(reading, CFG_READS_GQA);
	reading->model->unsupported = NULL;
	refuse(reading->model, refusal->reason);
}

static void complain_type(const struct reading *reading, const char *type)
{
	struct cfg_suggestion suggestion;
	char detail[EST_DETAIL_MAX];

	cfg_suggestion_init(&suggestion, type);
	for (size_t i = 0; i < cfg_family_count; i++)
		cfg_suggestion_offer(&suggestion, cfg_families[i].model_type);
	for (size_t i = 0; i < cfg_refusal_count; i++)
		cfg_suggestion_offer(&suggestion, cfg_refusals[i].model_type);
	if (suggestion.nearest)
		snprintf(detail, sizeof(detail), "is not a known model type (did you mean %s?)", suggestion.nearest);
	else
		snprintf(detail, sizeof(detail), "is not a known model type");
	complain(reading, "model_type", EST_UNKNOWN_VALUE, detail);
}

bool cfg_model_from_hf_config(const json_t *object, const char *pointer, struct est_model *ret_model,
			      struct est_faults *faults)
{
	struct est_model model = { 0 };
	struct reading reading = { object, pointer, &model, faults };
	const char *type = json_string_value(json_object_get(object, "model_type"));
	const struct cfg_family *family = type ? cfg_family_find(type) : NULL;
	const struct cfg_refusal *refusal = type ? cfg_refusal_find(type) : NULL;
	size_t before = faults->count;

	if (!type)
		complain(&reading, "model_type", EST_MISSING, "is required, a string");
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
