#include "config/towers.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

/* clang-format off */
const struct cfg_composite cfg_composites[] = {
	{ "exaone4_5", "exaone4", .caches_in_training = true, .shape = {
		EST_TOWER_EXAONE4_5, .hidden_size = 2048, .intermediate_size = 5120, .num_hidden_layers = 28,
		.num_attention_heads = 32,
		.num_key_value_heads = 8, .patch_size = 14, .temporal_patch_size = 2, .spatial_merge_size = 2 } },
	{ "gemma3", "gemma3_text", .caches_in_training = true, .ties_by_default = true, .shape = {
		EST_TOWER_SIGLIP, .hidden_size = 768, .intermediate_size = 3072, .num_hidden_layers = 12, .num_attention_heads = 12,
		.patch_size = 16, .temporal_patch_size = 1, .image_size = 224 } },
	{ "gemma4", "gemma4_text", .ties_by_default = true, .shape = {
		EST_TOWER_GEMMA4, .hidden_size = 768, .intermediate_size = 3072, .num_hidden_layers = 16, .num_attention_heads = 12,
		.patch_size = 16, .temporal_patch_size = 1, .num_position_embeddings = 10240 },
	  .audio = { 1024, 12, 8, 5, { 128, 32 }, 1536, true } },
	{ "llama4", "llama4_text", .caches_in_training = true, .shape = {
		EST_TOWER_LLAMA4, .hidden_size = 768, .intermediate_size = 5632, .num_hidden_layers = 34, .num_attention_heads = 16,
		.patch_size = 14, .temporal_patch_size = 1, .image_size = 448, .vision_output_dim = 7680, .projector_dim = 4096 } },
	{ "llava", "llama", .caches_in_training = true, .shape = {
		EST_TOWER_CLIP, .hidden_size = 1024, .intermediate_size = 4096, .num_hidden_layers = 24, .num_attention_heads = 16,
		.patch_size = 14, .temporal_patch_size = 1, .image_size = 336, .projector_bias = true } },
	{ "mistral3", "mistral", .shape = {
		EST_TOWER_PIXTRAL, .hidden_size = 1024, .intermediate_size = 4096, .num_hidden_layers = 24, .num_attention_heads = 16,
		.patch_size = 14, .temporal_patch_size = 1, .image_size = 1540, .spatial_merge_size = 2 } },
	{ "mllama", "mllama_text_model", .caches_in_training = true, .shape = {
		EST_TOWER_MLLAMA, .hidden_size = 1280, .intermediate_size = 5120, .num_hidden_layers = 32, .num_attention_heads = 16,
		.patch_size = 14, .temporal_patch_size = 1, .image_size = 448, .num_global_layers = 8, .max_num_tiles = 4,
		.max_aspect_ratio_id = 8, .vision_output_dim = 7680 } },
	{ "qwen2_vl", "qwen2_vl_text", .caches_in_training = true, .shape = {
		EST_TOWER_QWEN2_VL, .hidden_size = 1280, .intermediate_size = 5120, .num_hidden_layers = 32,
		.num_attention_heads = 16, .patch_size = 14, .temporal_patch_size = 2, .spatial_merge_size = 2 } },
	{ "qwen2_5_vl", "qwen2_5_vl_text", .caches_in_training = true, .shape = {
		EST_TOWER_QWEN2_5_VL, .hidden_size = 3584, .intermediate_size = 3420, .num_hidden_layers = 32,
		.num_attention_heads = 16, .patch_size = 14, .temporal_patch_size = 2, .spatial_merge_size = 2 } },
	{ "qwen3_5", "qwen3_5_text", .shape = {
		EST_TOWER_QWEN3_VL, .hidden_size = 1152, .intermediate_size = 4304, .num_hidden_layers = 27,
		.num_attention_heads = 16,
		.patch_size = 16, .temporal_patch_size = 2, .spatial_merge_size = 2, .num_position_embeddings = 2304 } },
	{ "qwen3_5_moe", "qwen3_5_moe_text", .shape = {
		EST_TOWER_QWEN3_VL, .hidden_size = 1152, .intermediate_size = 4304, .num_hidden_layers = 27,
		.num_attention_heads = 16,
		.patch_size = 16, .temporal_patch_size = 2, .spatial_merge_size = 2, .num_position_embeddings = 2304 } },
	{ "qwen3_vl", "qwen3_vl_text", .caches_in_training = true, .shape = {
		EST_TOWER_QWEN3_VL, .hidden_size = 1152, .intermediate_size = 4304, .num_hidden_layers = 27,
		.num_attention_heads = 16,
		.patch_size = 16, .temporal_patch_size = 2, .spatial_merge_size = 2, .num_position_embeddings = 2304,
		.num_deepstack = 3 } },
	{ "qwen3_vl_moe", "qwen3_vl_moe_text", .caches_in_training = true, .shape = {
		EST_TOWER_QWEN3_VL, .hidden_size = 1152, .intermediate_size = 4304, .num_hidden_layers = 27,
		.num_attention_heads = 16,
		.patch_size = 16, .temporal_patch_size = 2, .spatial_merge_size = 2, .num_position_embeddings = 2304,
		.num_deepstack = 3 } },
};

/* One member of the tower's shape and the names that files give it. The ranges keep every product within 2^62. */
static const struct key {
	const char *names[3];
	size_t offset;
	int64_t max;
} keys[] = {
#define KEY(member, most, ...) { { __VA_ARGS__ }, offsetof(struct est_vision, member), most }
	KEY(hidden_size, 1 << 14, "hidden_size"),
	KEY(intermediate_size, 1 << 16, "intermediate_size"),
	KEY(num_hidden_layers, 128, "depth", "num_hidden_layers"),
	KEY(num_attention_heads, 256, "num_heads", "num_attention_heads", "attention_heads"),
	KEY(num_key_value_heads, 256, "num_key_value_heads"),
	KEY(patch_size, 256, "patch_size"),
	KEY(temporal_patch_size, 16, "temporal_patch_size"),
	KEY(image_size, 1 << 14, "image_size"),
	KEY(spatial_merge_size, 16, "spatial_merge_size"),
	KEY(num_position_embeddings, 1 << 20, "num_position_embeddings", "num_positions", "position_embedding_size"),
	KEY(out_hidden_size, 1 << 17, "out_hidden_size"),
	KEY(num_deepstack, 64, "n_deepstack"),
	KEY(num_global_layers, 128, "num_global_layers"),
	KEY(max_num_tiles, 64, "max_num_tiles"),
	KEY(max_aspect_ratio_id, 1024, "max_aspect_ratio_id"),
	KEY(vision_output_dim, 1 << 16, "vision_output_dim", "adapter_out"),
	KEY(projector_dim, 1 << 16, "projector_input_dim", "adapter_out"),
}, audio_keys[] = {
	KEY(audio.hidden_size, 1 << 14, "hidden_size"),
	KEY(audio.num_hidden_layers, 128, "num_hidden_layers"),
	KEY(audio.num_attention_heads, 256, "num_attention_heads"),
	KEY(audio.conv_kernel_size, 256, "conv_kernel_size"),
	KEY(audio.output_proj_dims, 1 << 16, "output_proj_dims"),
#undef KEY
};
/* clang-format on */

const size_t cfg_composite_count = sizeof(cfg_composites) / sizeof(cfg_composites[0]);

static const char with_head[] = "a pooling head of the vision tower (vision_use_head), not modelled yet";
static const char many_features[] = "several layers of the vision tower as features (vision_feature_layer), not modelled yet";
static const char other_tower[] = "a vision tower that is not modelled yet";
static const char hears[] = "an audio tower, not modelled yet";
static const char other_audio[] = "an audio tower that is not modelled yet";
static const char irregular_heads[] = "heads that do not divide the width of the vision tower, not modelled yet";

const struct cfg_composite *cfg_composite_find(const char *model_type)
{
	for (size_t i = 0; i < cfg_composite_count; i++)
		if (!strcmp(cfg_composites[i].model_type, model_type))
			return &cfg_composites[i];
	return NULL;
}

const json_t *cfg_composite_text(const json_t *object)
{
	const json_t *text = json_object_get(object, "text_config");

	return json_is_object(text) ? text : object;
}

/* "mllama_text_model" is Llama's; older files say "qwen2_5_vl" of both. */
const char *cfg_composite_text_type(const struct cfg_composite *composite, const json_t *object)
{
	const char *type = json_string_value(json_object_get(cfg_composite_text(object), "model_type"));
	bool own = !type || !strncmp(type, composite->model_type, strlen(composite->model_type));

	return own ? composite->text : type;
}

static void complain(const struct cfg_hf_reading *reading, const char *where, const char *name, const char *detail)
{
	char key[EST_POINTER_MAX];

	snprintf(key, sizeof(key), "%s/%s", where, name);
	cfg_hf_complain(reading, key, EST_OUT_OF_RANGE, detail);
}

static void read_key(const struct cfg_hf_reading *reading, const json_t *object, const char *where,
		     const struct key *key)
{
	const json_t *value = NULL;
	const char *name = NULL;
	char detail[EST_DETAIL_MAX];
	int64_t number;

	for (size_t i = 0; i < 3 && key->names[i] && !value; i++) {
		name = key->names[i];
		value = json_object_get(object, name);
	}
	if (!value || json_is_null(value))
		return;
	number = (int64_t)json_integer_value(value);
	if (json_is_integer(value) && number >= 0 && number <= key->max
	    && (number > 0 || key->offset == offsetof(struct est_vision, num_deepstack))) {
		memcpy((char *)&reading->model->vision + key->offset, &number, sizeof(number));
		return;
	}
	snprintf(detail, sizeof(detail), "must be a whole number from 1 to %lld", (long long)key->max);
	complain(reading, where, name, detail);
}

/* Qwen2-VL calls the tower's width embed_dim, and hidden_size what comes out of it. */
static void read_embed_dim(const json_t *object, struct est_vision *vision)
{
	int64_t width = (int64_t)json_integer_value(json_object_get(object, "embed_dim"));
	int64_t ratio = (int64_t)json_integer_value(json_object_get(object, "mlp_ratio"));

	vision->out_hidden_size = vision->hidden_size;
	vision->hidden_size = width > 0 && width <= 1 << 14 ? width : 1280;
	vision->intermediate_size = vision->hidden_size * (ratio > 0 && ratio <= 16 ? ratio : 4);
}

/* The file's, or the catalogue's; NULL: there is none. */
static const json_t *audio_of(const json_t *object, const char **ret_where)
{
	const json_t *audio = json_object_get(object, "audio_config");

	*ret_where = audio ? "audio_config" : "audio";
	if (!audio)
		audio = json_object_get(object, "audio");
	return json_is_object(audio) ? audio : NULL;
}

static void read_audio(const struct cfg_hf_reading *reading, const struct cfg_composite *composite)
{
	struct est_audio *audio = &reading->model->vision.audio;
	const char *where;
	const json_t *object = audio_of(reading->object, &where), *channels, *clipped;

	if (!object || !composite->audio.num_hidden_layers)
		return;
	*audio = composite->audio;
	for (size_t i = 0; i < sizeof(audio_keys) / sizeof(audio_keys[0]); i++)
		read_key(reading, object, where, &audio_keys[i]);
	channels = json_object_get(object, "subsampling_conv_channels");
	for (size_t i = 0; i < 2 && json_array_size(channels) == 2; i++) {
		int64_t count = (int64_t)json_integer_value(json_array_get(channels, i));

		if (count > 0 && count <= 1 << 14)
			audio->subsampling_conv_channels[i] = count;
		else
			complain(reading, where, "subsampling_conv_channels", "must list two whole numbers from 1 to 16384");
	}
	clipped = json_object_get(object, "use_clipped_linears");
	if (json_is_boolean(clipped))
		audio->use_clipped_linears = json_is_true(clipped);
	if (audio->hidden_size % audio->num_attention_heads)
		cfg_hf_refuse(reading->model, other_audio);
}

/* What the file has and the tables of the towers have not. */
static const char *variant(const json_t *object, const json_t *tower, const struct est_vision *vision)
{
	const char *where;
	const char *type = json_string_value(json_object_get(tower, "model_type"));
	const char *kind = json_string_value(json_object_get(tower, "type")); /* the catalogue's */

	if (vision->tower == EST_TOWER_SIGLIP && json_is_true(json_object_get(tower, "vision_use_head")))
		return with_head;
	if (vision->tower == EST_TOWER_GEMMA4 && !strcmp(kind ? kind : "gemma4_vision", "gemma4_unified"))
		return other_tower;
	if (audio_of(object, &where) && !vision->audio.num_hidden_layers)
		return hears;
	if (json_is_array(json_object_get(object, "vision_feature_layer")))
		return many_features;
	if (type && vision->tower == EST_TOWER_CLIP && strcmp(type, "clip_vision_model") != 0)
		return other_tower;
	if (type && vision->tower == EST_TOWER_PIXTRAL && strcmp(type, "pixtral") != 0)
		return other_tower;
	if (vision->hidden_size % vision->num_attention_heads
	    || (vision->image_size && vision->patch_size > vision->image_size))
		return irregular_heads;
	return NULL;
}

/* cross_attention_layers are among num_hidden_layers; the catalogue counts them beside. */
static void settle_mllama(const struct cfg_hf_reading *reading, const json_t *tower)
{
	const json_t *text = cfg_composite_text(reading->object), *layers = json_object_get(text, "cross_attention_layers");
	const json_t *ratios = json_object_get(tower, "supported_aspect_ratios"),
		*counted = json_object_get(text, "num_cross_attention_layers");
	struct est_model *model = reading->model;
	int64_t count = (int64_t)json_array_size(layers);

	model->extra_embed_rows = 8;
	if (json_is_array(ratios) && json_array_size(ratios) <= 1024)
		model->vision.max_aspect_ratio_id = (int64_t)json_array_size(ratios);
	if (json_is_integer(counted) && json_integer_value(counted) >= 0 && json_integer_value(counted) < EST_LAYERS_MAX) {
		model->num_cross_attention_layers = (int64_t)json_integer_value(counted);
	} else if (json_is_array(layers) && count < model->num_hidden_layers) {
		model->num_cross_attention_layers = count;
		model->num_hidden_layers -= count;
	} else {
		complain(reading, "text_config", "cross_attention_layers", "must list some of the num_hidden_layers");
	}
}

static void settle_tying(const struct cfg_hf_reading *reading, const struct cfg_composite *composite)
{
	const json_t *outer = json_object_get(reading->object, "tie_word_embeddings");
	const json_t *inner = json_object_get(cfg_composite_text(reading->object), "tie_word_embeddings");

	reading->model->tie_word_embeddings = composite->ties_by_default;
	if (json_is_boolean(inner))
		reading->model->tie_word_embeddings = json_is_true(inner);
	if (json_is_boolean(outer))
		reading->model->tie_word_embeddings = json_is_true(outer) || (!composite->ties_by_default && json_is_true(inner));
}

void cfg_read_tower(const struct cfg_hf_reading *reading, const struct cfg_composite *composite)
{
	const json_t *tower = json_object_get(reading->object, "vision_config"), *bias, *indexes, *merge;
	const char *where = tower ? "vision_config" : "vision", *reason;
	struct est_model *model = reading->model;
	struct est_vision *vision = &model->vision;

	*vision = composite->shape;
	model->caches_in_training = composite->caches_in_training;
	if (!tower)
		tower = json_object_get(reading->object, "vision");
	for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
		read_key(reading, tower, where, &keys[i]);
	if (vision->tower == EST_TOWER_QWEN2_VL && !strcmp(where, "vision_config"))
		read_embed_dim(tower, vision);
	indexes = json_object_get(tower, "deepstack_visual_indexes");
	if (json_is_array(indexes) && json_array_size(indexes) <= 64)
		vision->num_deepstack = (int64_t)json_array_size(indexes);
	merge = json_object_get(reading->object, "spatial_merge_size");
	if (json_is_integer(merge) && json_integer_value(merge) > 0 && json_integer_value(merge) <= 16)
		vision->spatial_merge_size = (int64_t)json_integer_value(merge);
	bias = json_object_get(reading->object, "multimodal_projector_bias");
	if (json_is_boolean(bias))
		vision->projector_bias = json_is_true(bias);
	if (!vision->out_hidden_size || vision->tower == EST_TOWER_SIGLIP)
		vision->out_hidden_size = model->hidden_size;
	if (!vision->num_key_value_heads)
		vision->num_key_value_heads = vision->num_attention_heads;
	if (vision->tower == EST_TOWER_MLLAMA)
		settle_mllama(reading, tower);
	if (vision->tower == EST_TOWER_PIXTRAL && reading->object == cfg_composite_text(reading->object)
	    && !json_object_get(reading->object, "sliding_window"))
		model->sliding_window = 0;
	settle_tying(reading, composite);
	read_audio(reading, composite);
	reason = variant(reading->object, tower, vision);
	if (reason)
		cfg_hf_refuse(model, reason);
	if (est_model_all_layers(model) > EST_LAYERS_MAX)
		cfg_hf_complain(reading, where, EST_OUT_OF_RANGE, "must leave room for the language model's layers within 1024");
	model->parameters = est_model_count_parameters(model);
}
