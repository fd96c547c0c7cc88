#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "config/config.h"
#include "tests/suite.h"

static struct cfg_catalog *shipped; /* loaded once, before the tests fork */

static struct cfg_catalog *load_shipped(void)
{
	const char *root = getenv("VRAMCAST_SOURCE");
	char path[4096], error[512] = "";
	struct cfg_catalog *catalog;

	snprintf(path, sizeof(path), "%s/config", root ? root : ".");
	catalog = cfg_catalog_create(path, error, sizeof(error));
	if (!catalog)
		fprintf(stderr, "%s\n", error);
	return catalog;
}

static const struct cfg_preset *preset_at(int i)
{
	size_t count;
	const struct cfg_preset *presets = cfg_catalog_presets(shipped, &count);

	ck_assert_uint_lt((size_t)i, count);
	return &presets[i];
}

static const struct cfg_card *card_at(int i)
{
	size_t count;
	const struct cfg_card *cards = cfg_catalog_cards(shipped, &count);

	ck_assert_uint_lt((size_t)i, count);
	return &cards[i];
}

static int64_t whole(const json_t *object, const char *key, int64_t fallback)
{
	const json_t *value = json_object_get(object, key);

	return json_is_integer(value) ? (int64_t)json_integer_value(value) : fallback;
}

static bool is_modelled(const struct cfg_preset *preset)
{
	return preset->model.architecture != EST_ARCH_UNSUPPORTED;
}

/* params_total is what a second program counted from config; on exact rows, with extras, what is published. */
static void check_count(const struct cfg_preset *preset)
{
	int64_t published = whole(preset->row, "params_published", 0), extra = 0;
	union { const json_t *given; json_t *iterated; } extras = { json_object_get(preset->row, "published_extra") };
	const char *key;
	json_t *value;

	json_object_foreach(extras.iterated, key, value)
		extra += (int64_t)json_integer_value(value);
	ck_assert_msg(preset->model.parameters == whole(preset->row, "params_total", 0), "%s", preset->id);
	if (!strcmp(preset->verified, "exact"))
		ck_assert_msg(preset->model.parameters + extra == published, "%s", preset->id);
	if (is_modelled(preset))
		ck_assert_msg(est_model_count_parameters(&preset->model) == preset->model.parameters, "%s counts %lld",
			      preset->id, (long long)est_model_count_parameters(&preset->model));
}

static void check_reason(const struct cfg_preset *preset)
{
	ck_assert_msg(is_modelled(preset) == (preset->model.unsupported == NULL), "%s", preset->id);
	ck_assert_str_eq(preset->model.id, preset->id);
	ck_assert_str_ne(preset->model.model_type, "");
	ck_assert_msg(preset->model.hidden_size > 0 && preset->model.num_hidden_layers > 0, "%s", preset->id);
}

static const char *word_of(const json_t *config, const char *key, const char *fallback)
{
	const char *word = json_string_value(json_object_get(config, key));

	return word ? word : fallback;
}

static bool flag_of(const json_t *config, const char *key, bool fallback)
{
	const json_t *value = json_object_get(config, key);

	return value ? json_is_true(value) : fallback;
}

/* The file says what its model's code is made of; the table of classes must say the same. */
static void check_class(const struct cfg_preset *preset)
{
	static const char *const norms[] = { "rmsnorm", "layernorm", "layernorm_nobias", "nonparametric" };
	static const char *const qk_norms[] = { "", "head", "head_layernorm", "full", "per_head_separate" };
	static const char *const positions[] = { "rope", "learned", "alibi", "none", "relative" };
	const struct est_model *model = &preset->model;
	const json_t *config = json_object_get(preset->row, "config");

	if (!is_modelled(preset))
		return;
	ck_assert_str_eq(word_of(config, "norm_type", ""), norms[model->norm]);
	ck_assert_str_eq(word_of(config, "qk_norm", ""), qk_norms[model->qk_norm]);
	ck_assert_str_eq(word_of(config, "position_embedding", ""), positions[model->position]);
	ck_assert_int_eq(flag_of(config, "gated_mlp", false), model->gated_mlp);
	ck_assert_int_eq(flag_of(config, "qkv_bias", false), model->qkv_bias);
	ck_assert_int_eq(flag_of(config, "o_bias", false), model->o_bias);
	ck_assert_int_eq(flag_of(config, "mlp_bias", false), model->mlp_bias);
	ck_assert_int_eq(flag_of(config, "final_norm", true), model->final_norm);
	ck_assert_int_eq(whole(config, "norms_per_layer", 2), model->norms_per_layer);
	ck_assert_int_eq(whole(config, "position_offset", 0), model->position_offset);
	/* ModernBERT's local attention is half of it to each side; Llama-4's chunks take its place */
	ck_assert_int_eq(whole(config, "sliding_window", whole(config, "attention_chunk_size", 0)),
			 est_model_is_bidirectional(model) ? 2 * model->sliding_window : model->sliding_window);
	ck_assert_int_eq(whole(config, "head_dim", 0), model->head_dim);
	ck_assert_int_eq(whole(config, "num_key_value_heads", 0), model->num_key_value_heads);
}

static void check_window(const struct cfg_preset *preset)
{
	const json_t *counts = json_object_get(json_object_get(preset->row, "config"), "layer_counts");
	int64_t sliding = 0, attends = 0, mixes = 0;

	if (!is_modelled(preset) || !counts)
		return;
	for (int64_t layer = 0; layer < preset->model.num_hidden_layers; layer++) {
		sliding += est_model_layer_is_sliding(&preset->model, layer);
		attends += preset->model.layer_kinds[layer] == EST_LAYER_ATTENDS;
		mixes += preset->model.layer_kinds[layer] == EST_LAYER_MIXES;
	}
	ck_assert_msg(sliding == whole(counts, "sliding_attention", 0), "%s: %lld slide", preset->id, (long long)sliding);
	ck_assert_msg(attends - sliding == whole(counts, "full_attention", whole(counts, "attention_layers", 0)),
		      "%s: %lld attend", preset->id, (long long)attends);
	ck_assert_msg(mixes == whole(counts, "mamba", 0) + whole(counts, "conv", 0) + whole(counts, "linear_attention", 0),
		      "%s: %lld mix", preset->id, (long long)mixes);
}

START_TEST(a_preset_is_what_its_file_says)
{
	const struct cfg_preset *preset = preset_at(_i);

	check_count(preset);
	check_reason(preset);
	check_class(preset);
	check_window(preset);
}
END_TEST

START_TEST(a_preset_is_found_by_all_its_names)
{
	const struct cfg_preset *preset = preset_at(_i);
	const json_t *aliases = json_object_get(preset->row, "aliases"), *alias;
	size_t i, candidates;

	ck_assert_ptr_eq(cfg_catalog_find_preset(shipped, preset->id, &candidates), preset);
	ck_assert_uint_eq(candidates, 1);
	ck_assert_ptr_eq(cfg_catalog_find_preset(shipped, preset->hf_id, NULL), preset);
	json_array_foreach(aliases, i, alias)
		ck_assert_ptr_eq(cfg_catalog_find_preset(shipped, json_string_value(alias), NULL), preset);
	ck_assert_str_eq(cfg_catalog_suggest_preset(shipped, preset->id), preset->id);
}
END_TEST

static void check_names(const struct cfg_card *card)
{
	const json_t *aliases = json_object_get(card->row, "aliases"), *alias;
	const json_t *shared = json_object_get(card->row, "aliases_shared");
	size_t i, candidates;

	ck_assert_ptr_eq(cfg_catalog_find_card(shipped, card->gpu.id, NULL), card);
	ck_assert_ptr_eq(cfg_catalog_find_card(shipped, card->gpu.name, NULL), card);
	json_array_foreach(aliases, i, alias)
		ck_assert_ptr_eq(cfg_catalog_find_card(shipped, json_string_value(alias), NULL), card);
	json_array_foreach(shared, i, alias) {
		ck_assert_ptr_null(cfg_catalog_find_card(shipped, json_string_value(alias), &candidates));
		ck_assert_uint_gt(candidates, 1);
	}
}

static void check_memory(const struct cfg_card *card)
{
	int64_t usable_mib = whole(card->row, "memory_mib_usable", 0);
	uint64_t marketed = (uint64_t)json_number_value(json_object_get(card->row, "memory_gib_marketed")) << 30;

	ck_assert_msg(card->gpu.usable_bytes <= card->gpu.memory_bytes, "%s", card->gpu.id);
	ck_assert_msg(card->gpu.memory_bytes >= marketed / 10 * 8 && card->gpu.memory_bytes <= marketed / 10 * 11, "%s",
		      card->gpu.id);
	if (usable_mib)
		ck_assert_msg(card->gpu.usable_bytes == (uint64_t)usable_mib << 20, "%s", card->gpu.id);
	ck_assert_msg((card->gpu.vendor == EST_NVIDIA) == (card->gpu.compute_capability >= 60), "%s", card->gpu.id);
	if (card->gpu.vendor == EST_NVIDIA)
		ck_assert_msg(card->gpu.bf16 == (card->gpu.compute_capability >= 80), "%s", card->gpu.id);
}

START_TEST(a_card_has_its_names_and_what_its_driver_says)
{
	check_names(card_at(_i));
	check_memory(card_at(_i));
}
END_TEST

/* Names as people write them; id NULL: not found, because candidates rows bear the name. */
static const struct {
	const char *name, *id;
	size_t candidates;
} lookups[] = {
	{ "h100", "h100-sxm5-80gb", 1 },
	{ "H100-SXM5-80GB", "h100-sxm5-80gb", 1 },
	{ "NVIDIA H100 80GB HBM3", "h100-sxm5-80gb", 1 },
	{ "nvidia_h100_80gb_hbm3", "h100-sxm5-80gb", 1 },
	{ "a100", "a100-sxm4-40gb", 1 },
	{ "a100-80gb", "a100-sxm4-80gb", 1 },
	{ "v100", "v100-sxm2-16gb", 1 },
	{ "rtx 3080", NULL, 2 },
	{ "rtx-2060", "rtx-2060", 1 },
	{ "NVIDIA GeForce RTX 2060", NULL, 2 },
	{ "1g.10gb", NULL, 3 },
	{ "apple m3 max", NULL, 5 },
	{ "h1000", NULL, 0 },
	{ "", NULL, 0 },
};

START_TEST(a_card_is_found_by_what_people_call_it)
{
	size_t candidates = 99;
	const struct cfg_card *card = cfg_catalog_find_card(shipped, lookups[_i].name, &candidates);

	ck_assert_msg(candidates == lookups[_i].candidates, "%s: %zu", lookups[_i].name, candidates);
	ck_assert_msg((card != NULL) == (lookups[_i].id != NULL), "%s", lookups[_i].name);
	if (card)
		ck_assert_str_eq(card->gpu.id, lookups[_i].id);
}
END_TEST

START_TEST(a_capability_is_ten_times_the_version)
{
	ck_assert_int_eq(cfg_catalog_find_card(shipped, "h100", NULL)->gpu.compute_capability, 90);
	ck_assert_int_eq(cfg_catalog_find_card(shipped, "rtx-5090", NULL)->gpu.compute_capability, 120);
	ck_assert_int_eq(cfg_catalog_find_card(shipped, "t4", NULL)->gpu.compute_capability, 75);
}
END_TEST

START_TEST(apple_lends_a_part_of_its_memory)
{
	const struct cfg_card *card = cfg_catalog_find_card(shipped, "apple-m1-max-64gb", NULL);

	ck_assert_uint_eq(card->gpu.memory_bytes, UINT64_C(64) << 30);
	ck_assert_uint_eq(card->gpu.usable_bytes, UINT64_C(48) << 30);
}
END_TEST

START_TEST(near_misses_are_suggested)
{
	ck_assert_str_eq(cfg_catalog_suggest_card(shipped, "h100-sxm-80gb"), "h100-sxm5-80gb");
	ck_assert_str_eq(cfg_catalog_suggest_preset(shipped, "lama-3.1-8b"), "llama-3.1-8b");
	ck_assert_str_eq(cfg_catalog_suggest_preset(shipped, "gemma2-2b"), "gemma-2-2b");
	ck_assert_ptr_null(cfg_catalog_suggest_preset(shipped, "something-else-entirely"));
	ck_assert_ptr_null(cfg_catalog_suggest_card(shipped, ""));
}
END_TEST

#define PRESET(id, aliases, more) "{\"id\":\"" id "\",\"hf_id\":\"x/" id "\",\"family\":\"f\"," \
	"\"released\":\"2024\",\"verified\":\"exact\",\"aliases\":" aliases "," \
	"\"config\":{\"model_type\":\"llama\",\"vocab_size\":10,\"hidden_size\":4," \
	"\"num_hidden_layers\":1,\"num_attention_heads\":2,\"intermediate_size\":8}," \
	"\"config_source\":[\"s\"],\"params_published\":1,\"params_source\":\"s\",\"params_total\":252" more "}"
#define CARD(id, aliases, more) "{\"id\":\"" id "\",\"name\":\"Card " id "\",\"vendor\":\"nvidia\"," \
	"\"kind\":\"discrete\",\"compute_capability\":\"9.0\",\"memory_gib_marketed\":80,\"memory_mib_usable\":81559," \
	"\"memory_mib_planning\":81559,\"memory_source\":\"s\",\"memory_verified\":\"driver-output\",\"bf16\":true," \
	"\"fp8\":true,\"aliases\":" aliases more "}"
#define ONE_CARD "[" CARD("c", "[]", "") "]"
#define ONE_PRESET "[" PRESET("p", "[]", "") "]"

/* Catalogues by hand: what is said of them; NULL: they load. 252 = 2 * 40 + 4 + 64 + 96 + 8. */
static const struct {
	const char *name, *models, *gpus, *says;
} catalogs[] = {
	{ "one row each", ONE_PRESET, ONE_CARD, NULL },
	{ "a name that two rows share and declare", "[" PRESET("a", "[]", ",\"aliases_shared\":[\"n\"]") ","
	  PRESET("b", "[]", ",\"aliases_shared\":[\"N\"]") "]", ONE_CARD, NULL },
	{ "a file that is not there", NULL, ONE_CARD, "models.json: " },
	{ "a file that is not JSON", "[", ONE_CARD, "models.json: line 1" },
	{ "no list", "{}", ONE_CARD, "models.json: must be a list of rows" },
	{ "no rows", "[]", ONE_CARD, "models.json: must be a list of rows" },
	{ "a row that is no object", "[3]", ONE_CARD, "models.json: row 1 must have an id" },
	{ "rows out of order", "[" PRESET("b", "[]", "") "," PRESET("a", "[]", "") "]", ONE_CARD,
	  "models.json: a: row 2 must have an id, after the one" },
	{ "an id twice", "[" PRESET("a", "[]", "") "," PRESET("a", "[]", "") "]", ONE_CARD, "models.json: a: row 2" },
	{ "capitals in an id", "[" PRESET("A", "[]", "") "]", ONE_CARD, "models.json: A: id must be of a-z" },
	{ "a wrong total", "[" PRESET("p", "[]", "0") "]", ONE_CARD,
	  "models.json: p: params_total is 2520, its config counts 252" },
	{ "a column that is missing", "[{\"id\":\"p\"}]", ONE_CARD, "models.json: p: hf_id must be a string" },
	{ "an alias that is no text", "[" PRESET("p", "[1]", "") "]", ONE_CARD,
	  "models.json: p: aliases must be a list" },
	{ "an alias of two rows, not declared", "[" PRESET("a", "[\"n\"]", "") "," PRESET("b", "[\"N\"]", "") "]",
	  ONE_CARD, "models.json: a: the name n must be one row's own" },
	{ "an alias that is another row's id", "[" PRESET("a", "[\"b\"]", "") "," PRESET("b", "[]", "") "]", ONE_CARD,
	  "models.json: a: the name b must be one row's own" },
	{ "a shared alias that only one row bears", "[" PRESET("a", "[]", ",\"aliases_shared\":[\"n\"]") "]", ONE_CARD,
	  "models.json: a: the name n must be" },
	{ "a card without memory", ONE_PRESET,
	  "[{\"id\":\"c\",\"name\":\"C\",\"vendor\":\"nvidia\",\"kind\":\"discrete\","
	  "\"compute_capability\":\"9.0\"}]", "gpus.json: c: memory_gib_marketed must be a number above 0" },
	{ "a card twice as large as sold", ONE_PRESET, "[{\"id\":\"c\",\"name\":\"C\",\"vendor\":\"amd\",\"kind\":"
	  "\"discrete\",\"compute_capability\":null,\"memory_gib_marketed\":40,\"memory_mib_usable\":81559,"
	  "\"memory_mib_planning\":81559,\"memory_source\":\"s\",\"memory_verified\":\"driver-output\",\"bf16\":true,"
	  "\"fp8\":true,\"aliases\":[]}]", "gpus.json: c: memory_mib_planning does not go with" },
	{ "a driver figure without a source", ONE_PRESET, "[{\"id\":\"c\",\"name\":\"C\",\"vendor\":\"amd\",\"kind\":"
	  "\"discrete\",\"compute_capability\":null,\"memory_gib_marketed\":80,\"memory_mib_usable\":81559,"
	  "\"memory_mib_planning\":81559,\"memory_source\":null,\"memory_verified\":\"driver-output\",\"bf16\":true,"
	  "\"fp8\":true,\"aliases\":[]}]", "gpus.json: c: memory_source must say where" },
	{ "a vendor that nobody knows", ONE_PRESET, "[{\"id\":\"c\",\"name\":\"C\",\"vendor\":\"3dfx\",\"kind\":"
	  "\"discrete\",\"compute_capability\":null,\"memory_gib_marketed\":80,\"memory_mib_usable\":81559,"
	  "\"memory_mib_planning\":81559,\"memory_source\":\"s\",\"memory_verified\":\"driver-output\",\"bf16\":true,"
	  "\"fp8\":true,\"aliases\":[]}]", "gpus.json: c: vendor is not a known word" },
	{ "an AMD card with NVIDIA's capability", ONE_PRESET,
	  "[{\"id\":\"c\",\"name\":\"C\",\"vendor\":\"amd\",\"kind\":"
	  "\"discrete\",\"compute_capability\":\"9.0\",\"memory_gib_marketed\":80,\"memory_mib_usable\":81559,"
	  "\"memory_mib_planning\":81559,\"memory_source\":\"s\",\"memory_verified\":\"driver-output\",\"bf16\":true,"
	  "\"fp8\":true,\"aliases\":[]}]", "gpus.json: c: compute_capability must be given for NVIDIA" },
};

static void write_file(const char *directory, const char *name, const char *text, char *ret_path, size_t size)
{
	FILE *file;

	snprintf(ret_path, size, "%s/%s", directory, name);
	if (!text)
		return;
	file = fopen(ret_path, "w");
	ck_assert_ptr_nonnull(file);
	ck_assert_int_ge(fputs(text, file), 0);
	ck_assert_int_eq(fclose(file), 0);
}

START_TEST(a_faulty_catalogue_is_refused_by_file_row_and_fault)
{
	char directory[] = "/tmp/test_catalog.XXXXXX", models[128], gpus[128], error[512] = "";
	struct cfg_catalog *catalog;

	ck_assert_ptr_nonnull(mkdtemp(directory));
	write_file(directory, "models.json", catalogs[_i].models, models, sizeof(models));
	write_file(directory, "gpus.json", catalogs[_i].gpus, gpus, sizeof(gpus));
	catalog = cfg_catalog_create(directory, error, sizeof(error));
	unlink(models);
	unlink(gpus);
	rmdir(directory);
	ck_assert_msg((catalog != NULL) == (catalogs[_i].says == NULL), "%s: %s", catalogs[_i].name, error);
	if (catalogs[_i].says)
		ck_assert_msg(!strncmp(error, catalogs[_i].says, strlen(catalogs[_i].says)), "%s: %s",
			      catalogs[_i].name, error);
	cfg_catalog_destroy(catalog);
}
END_TEST

/* A comment of the protocol: which rows' totals are the file's word only. */
static void list_uncounted(void)
{
	size_t count;
	const struct cfg_preset *presets = cfg_catalog_presets(shipped, &count);

	printf("# taken from the catalogue, not counted:");
	for (size_t i = 0; i < count; i++)
		if (!is_modelled(&presets[i]))
			printf(" %s", presets[i].id);
	printf("\n");
	fflush(stdout);
}

int main(void)
{
	Suite *suite = suite_create("catalog");
	TCase *test = tcase_create("catalog");
	size_t presets, cards;
	int failed;

	shipped = load_shipped();
	if (!shipped)
		return EXIT_FAILURE;
	cfg_catalog_presets(shipped, &presets);
	cfg_catalog_cards(shipped, &cards);
	list_uncounted();
	tcase_add_loop_test(test, a_preset_is_what_its_file_says, 0, (int)presets);
	tcase_add_loop_test(test, a_preset_is_found_by_all_its_names, 0, (int)presets);
	tcase_add_loop_test(test, a_card_has_its_names_and_what_its_driver_says, 0, (int)cards);
	tcase_add_loop_test(test, a_card_is_found_by_what_people_call_it, 0, COUNT(lookups));
	tcase_add_test(test, a_capability_is_ten_times_the_version);
	tcase_add_test(test, apple_lends_a_part_of_its_memory);
	tcase_add_test(test, near_misses_are_suggested);
	tcase_add_loop_test(test, a_faulty_catalogue_is_refused_by_file_row_and_fault, 0, COUNT(catalogs));
	suite_add_tcase(suite, test);
	failed = run_suite(suite);
	cfg_catalog_destroy(shipped);
	return failed;
}
