#include "tests/drawn.h"
#include <math.h>
#include <string.h>
#include "config/vary.h"

enum { TRIES = 40, CHANGES_MAX = 8, FEW_LAYERS = 3, FIELDS_MAX = 128 };

uint64_t draw(struct draws *draws, uint64_t below)
{
	uint64_t mixed = 0;

	if (!draws->bytes) {
		draws->state += UINT64_C(0x9e3779b97f4a7c15); /* splitmix64 */
		mixed = (draws->state ^ draws->state >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
		mixed = (mixed ^ mixed >> 27) * UINT64_C(0x94d049bb133111eb);
		return (mixed ^ mixed >> 31) % below;
	}
	for (uint64_t range = below - 1; range; range >>= 8) {
		mixed = mixed << 8 | (draws->left ? *draws->bytes : 0);
		draws->bytes += draws->left > 0;
		draws->left -= draws->left > 0;
	}
	return mixed % below;
}

/* ---- one field */

static const char *const skipped[] = { "accounting", "include", "headroom_fraction", "versions.", "sequence_length",
				       NULL };

static bool is_skipped(const struct est_field *field)
{
	for (size_t i = 0; skipped[i]; i++)
		if (!strncmp(field->name, skipped[i], strlen(skipped[i])))
			return true;
	return field->kind > EST_FIELD_WORD && field->kind != EST_FIELD_CHECKPOINTING;
}

static const struct est_field *draw_field(struct draws *draws)
{
	const struct est_field *fields[FIELDS_MAX];
	size_t count = 0;

	for (size_t i = 0; i < est_request_field_count; i++)
		if (!is_skipped(&est_request_fields[i]))
			fields[count++] = &est_request_fields[i];
	return fields[draw(draws, count)];
}

static double draw_word(struct draws *draws, const struct est_word *words)
{
	size_t count = 0;

	while (words[count].name)
		count++;
	return words[draw(draws, count)].value;
}

/* Small numbers mostly, powers of two often, either end of the range sometimes. */
static double draw_number(struct draws *draws, const struct est_field *field)
{
	static const double numbers[] = { 0, 1, 2, 3, 4, 7, 8, 16, 64, 100, 1000, 1e6, 5e8, 1e18 };
	double value = numbers[draw(draws, sizeof(numbers) / sizeof(numbers[0]))];

	return value < field->min ? field->min : value > field->max ? field->max : value;
}

static struct cfg_change draw_change(struct draws *draws)
{
	const struct est_field *field = draw_field(draws);

	switch (field->kind) {
	case EST_FIELD_BOOL:
		return (struct cfg_change){ field->name, (double)draw(draws, 2) };
	case EST_FIELD_WORD:
	case EST_FIELD_CHECKPOINTING:
		return (struct cfg_change){ field->name, draw_word(draws, field->words) };
	default:
		return (struct cfg_change){ field->name, draw_number(draws, field) };
	}
}

/* ---- the plainest request */

/* Of a config: the first layers alone, also of what it lists for each layer. */
static void cut_layers(json_t *config, json_int_t layers)
{
	size_t whole = (size_t)json_integer_value(json_object_get(config, "num_hidden_layers"));
	const char *key;
	json_t *value;

	json_object_foreach(config, key, value)
		for (size_t i = json_array_size(value) == whole ? whole : 0; i > (size_t)layers; i--)
			json_array_remove(value, i - 1);
	json_object_set_new(config, "num_hidden_layers", json_integer(layers));
}

/* A preset by its name; or its config with a few layers, which takes a part of the time. New reference. */
static json_t *draw_model(struct draws *draws, const struct cfg_catalog *catalog, bool shortened)
{
	size_t count;
	const struct cfg_preset *presets = cfg_catalog_presets(catalog, &count);
	const struct cfg_preset *preset = &presets[draw(draws, count)];
	json_t *config;

	if (!shortened || !draw(draws, 32))
		return json_string(preset->id);
	config = json_deep_copy(json_object_get(preset->row, "config"));
	cut_layers(config, (json_int_t)draw(draws, FEW_LAYERS) + 1);
	return config;
}

static json_t *draw_names(struct draws *draws)
{
	static const char *const modules[] = { "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
					       "lm_head", "embed_tokens", "c_attn", "query_key_value", "qkv_proj",
					       "gate_up_proj", "dense", "fc1", "in_proj" };
	json_t *names = json_array();

	for (uint64_t left = draw(draws, 4) + 1; left; left--)
		json_array_append_new(names, json_string(modules[draw(draws, sizeof(modules) / sizeof(modules[0]))]));
	return names;
}

/* What no change can say: lists of names, versions. */
static void draw_texts(struct draws *draws, json_t *body)
{
	static const char *const torches[] = { "2.1", "2.4", "2.5", "2.6", "2.8", "2.9", "2.13" };
	static const char *const transformers[] = { "4.36", "4.44", "4.48", "4.53", "4.57", "5.0", "5.23" };
	uint64_t choice = draw(draws, 8);

	if (choice == 1)
		json_object_set_new(body, "lora", json_pack("{s:o}", "target_modules", draw_names(draws)));
	if (choice == 2)
		json_object_set_new(body, "lora", json_pack("{s:o}", "modules_to_save", draw_names(draws)));
	if (choice == 1 || choice == 2)
		json_object_set_new(body, "method", json_string(draw(draws, 2) ? "lora" : "qlora"));
	if (choice == 3)
		json_object_set_new(body, "versions", json_pack("{s:s}", "torch", torches[draw(draws, 7)]));
	if (choice == 4)
		json_object_set_new(body, "versions", json_pack("{s:s}", "transformers", transformers[draw(draws, 7)]));
	if (choice == 5)
		json_object_set_new(body, "versions", json_pack("{s:s, s:s, s:s}", "flash_linear_attention", "0.6", "causal_conv1d", "1.7",
								"mamba_ssm", "2.3"));
}

bool draw_request(struct draws *draws, const struct cfg_catalog *catalog, bool short_models, struct cfg_request *ret)
{
	static struct est_request varied;
	static struct est_faults faults;
	json_t *model = draw_model(draws, catalog, short_models);
	json_t *body = json_pack("{s:o, s:[s,s,s], s:i}", "model", model, "gpus", "h100-sxm5-80gb", "rtx-4090", "t4",
				 "sequence_length", 1 << (5 + draw(draws, short_models ? 20 : 8)));
	bool valid;

	if (short_models)
		draw_texts(draws, body);
	faults.count = 0;
	valid = cfg_read_request(body, "", catalog, ret, &faults);
	json_decref(body);
	for (int i = 0, made = 0; valid && i < TRIES && made < CHANGES_MAX && (!draws->bytes || draws->left); i++) {
		struct cfg_change change = draw_change(draws);

		if (!cfg_vary(ret, &change, 1, &varied))
			continue;
		ret->request = varied;
		made++;
	}
	return valid;
}
