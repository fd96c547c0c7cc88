#include <math.h>
#include <stdio.h>
#include <string.h>
#include "config/rows.h"

enum column_kind { TEXT, NUMBER, FLAG, TEXTS, OBJECT };
enum { MAY_BE_NULL = 1, MAY_BE_ABSENT = 2 };

/* A column that the program reads or shows; others are allowed, they are the file's own notes. */
struct column {
	const char *name;
	enum column_kind kind;
	unsigned flags;
};

/* clang-format off */
static const struct column preset_columns[] = {
	{ "id", TEXT, 0 },
	{ "hf_id", TEXT, 0 },
	{ "family", TEXT, 0 },
	{ "released", TEXT, 0 },
	{ "verified", TEXT, 0 },
	{ "aliases", TEXTS, 0 },
	{ "aliases_shared", TEXTS, MAY_BE_ABSENT },
	{ "config", OBJECT, 0 },
	{ "config_source", TEXTS, 0 },
	{ "params_total", NUMBER, 0 },
	{ "params_published", NUMBER, MAY_BE_NULL },
	{ "params_source", TEXT, MAY_BE_NULL },
};

static const struct column card_columns[] = {
	{ "id", TEXT, 0 },
	{ "name", TEXT, 0 },
	{ "vendor", TEXT, 0 },
	{ "kind", TEXT, 0 },
	{ "compute_capability", TEXT, MAY_BE_NULL },
	{ "memory_gib_marketed", NUMBER, 0 },
	{ "memory_mib_usable", NUMBER, MAY_BE_NULL },
	{ "memory_mib_planning", NUMBER, 0 },
	{ "memory_source", TEXT, MAY_BE_NULL },
	{ "memory_verified", TEXT, 0 },
	{ "bf16", FLAG, 0 },
	{ "fp8", FLAG, 0 },
	{ "aliases", TEXTS, 0 },
	{ "aliases_shared", TEXTS, MAY_BE_ABSENT },
};

static const char *const vendors[] = { [EST_NVIDIA] = "nvidia", [EST_AMD] = "amd", [EST_APPLE] = "apple",
	[EST_INTEL] = "intel", [EST_GOOGLE] = "google", [EST_AWS] = "aws", NULL };
static const char *const kinds[] = { [EST_DISCRETE] = "discrete", [EST_UNIFIED] = "unified", [EST_MIG] = "mig", NULL };
static const char *const preset_evidence[] = { "exact", "approx", "unverified", NULL };
static const char *const memory_evidence[] = { "driver-output", "test-fixture", "byte-count-unnamed",
	"community-record", "marketed", NULL };
/* clang-format on */

static bool is_texts(const json_t *value)
{
	size_t index;
	const json_t *text;

	json_array_foreach(value, index, text)
		if (!json_is_string(text) || json_string_length(text) == 0)
			return false;
	return json_is_array(value);
}

static bool is_of_kind(const json_t *value, enum column_kind kind)
{
	switch (kind) {
	case TEXT:
		return json_is_string(value) && json_string_length(value) > 0;
	case NUMBER:
		return json_is_number(value) && json_number_value(value) > 0;
	case FLAG:
		return json_is_boolean(value);
	case TEXTS:
		return is_texts(value);
	case OBJECT:
		return json_is_object(value);
	}
	return false;
}

static bool check_columns(const json_t *row, const struct column *columns, size_t count, char *fault, size_t size)
{
	static const char *const expected[] = { "a string", "a number above 0", "true or false", "a list of strings",
						"an object" };

	for (size_t i = 0; i < count; i++) {
		const json_t *value = json_object_get(row, columns[i].name);
		bool allowed = value ? json_is_null(value) && (columns[i].flags & MAY_BE_NULL)
				     : (columns[i].flags & MAY_BE_ABSENT) != 0;

		if (allowed || is_of_kind(value, columns[i].kind))
			continue;
		snprintf(fault, size, "%s must be %s", columns[i].name, expected[columns[i].kind]);
		return false;
	}
	return true;
}

static const char *text_of(const json_t *row, const char *column)
{
	return json_string_value(json_object_get(row, column));
}

static double number_of(const json_t *row, const char *column)
{
	return json_number_value(json_object_get(row, column));
}

/* Index of the row's word in words, or -1 with a fault. */
static int word_of(const json_t *row, const char *column, const char *const *words, char *fault, size_t size)
{
	const char *word = text_of(row, column);

	for (int i = 0; words[i]; i++)
		if (!strcmp(word, words[i]))
			return i;
	snprintf(fault, size, "%s is not a known word", column);
	return -1;
}

static bool check_id(const char *id, char *fault, size_t size)
{
	if (strspn(id, "abcdefghijklmnopqrstuvwxyz0123456789.-") == strlen(id) && strlen(id) < EST_ID_MAX)
		return true;
	snprintf(fault, size, "id must be of a-z, 0-9, dot and dash, shorter than %d", (int)EST_ID_MAX);
	return false;
}

/* What is said to be seen somewhere must say where. */
static bool check_source(const json_t *row, const char *column, bool needed, char *fault, size_t size)
{
	if (!needed || text_of(row, column))
		return true;
	snprintf(fault, size, "%s must say where the number was seen", column);
	return false;
}

static bool check_count(const struct cfg_preset *preset, int64_t counted, int64_t total, char *fault, size_t size)
{
	if (preset->model.architecture == EST_ARCH_UNSUPPORTED || counted == total)
		return true;
	snprintf(fault, size, "params_total is %lld, its config counts %lld", (long long)total, (long long)counted);
	return false;
}

/* The row's config as a shape; the first fault of the reader becomes the row's. */
static bool read_shape(const json_t *row, struct est_model *ret_model, char *fault, size_t size)
{
	struct est_faults faults;

	faults.count = 0;
	if (cfg_model_from_hf_config(json_object_get(row, "config"), "/config", ret_model, &faults))
		return true;
	snprintf(fault, size, "%s %s", faults.item[0].pointer, faults.item[0].detail);
	return false;
}

bool cfg_preset_from_row(const json_t *row, struct cfg_preset *ret, char *fault, size_t size)
{
	int64_t total = (int64_t)number_of(row, "params_total");
	int evidence;

	if (!check_columns(row, preset_columns, sizeof(preset_columns) / sizeof(preset_columns[0]), fault, size)
	    || !check_id(text_of(row, "id"), fault, size) || !read_shape(row, &ret->model, fault, size))
		return false;
	evidence = word_of(row, "verified", preset_evidence, fault, size);
	if (evidence < 0 || !check_source(row, "params_source", evidence < 2, fault, size))
		return false;
	ret->row = row;
	ret->id = text_of(row, "id");
	ret->hf_id = text_of(row, "hf_id");
	ret->family = text_of(row, "family");
	ret->released = text_of(row, "released");
	ret->verified = text_of(row, "verified");
	snprintf(ret->model.id, sizeof(ret->model.id), "%s", ret->id);
	ret->model.published_parameters = (int64_t)number_of(row, "params_published");
	if (!check_count(ret, ret->model.parameters, total, fault, size))
		return false;
	ret->model.parameters = total;
	return true;
}

/* "9.0" -> 90; 0 when there is none. */
static int64_t read_capability(const json_t *row)
{
	const char *text = text_of(row, "compute_capability");
	int major = 0, minor = 0;

	if (!text || sscanf(text, "%2d.%1d", &major, &minor) != 2)
		return 0;
	return 10 * major + minor;
}

/* Drivers show 0.85 to 1 of what is sold; Apple's own limit lies at two or three quarters of it. */
static bool check_memory(const json_t *row, double marketed_mib, double planning_mib, char *fault, size_t size)
{
	double usable = number_of(row, "memory_mib_usable");
	double least = json_object_get(row, "metal_default_limit_fraction") ? 0.6 : 0.85;

	if (planning_mib < least * marketed_mib || planning_mib > 1.05 * marketed_mib)
		snprintf(fault, size, "memory_mib_planning does not go with memory_gib_marketed");
	else if (usable > 0 && fabs(usable - planning_mib) > 0.5)
		snprintf(fault, size, "memory_mib_planning must be memory_mib_usable where that is known");
	else
		return true;
	return false;
}

static bool read_memory(const json_t *row, struct est_gpu *gpu, char *fault, size_t size)
{
	double marketed_mib = 1024 * number_of(row, "memory_gib_marketed");
	double planning_mib = number_of(row, "memory_mib_planning");
	const double mib = 1048576;

	if (!check_memory(row, marketed_mib, planning_mib, fault, size))
		return false;
	gpu->memory_bytes = (uint64_t)((gpu->vendor == EST_APPLE ? marketed_mib : planning_mib) * mib);
	gpu->usable_bytes = (uint64_t)(planning_mib * mib);
	return true;
}

static bool is_gaudi(const json_t *row)
{
	const char *architecture = text_of(row, "architecture");

	return architecture && !strcmp(architecture, "Gaudi");
}

bool cfg_card_from_row(const json_t *row, struct cfg_card *ret, char *fault, size_t size)
{
	struct est_gpu *gpu = &ret->gpu;
	int vendor, kind, evidence;

	if (!check_columns(row, card_columns, sizeof(card_columns) / sizeof(card_columns[0]), fault, size)
	    || !check_id(text_of(row, "id"), fault, size))
		return false;
	vendor = word_of(row, "vendor", vendors, fault, size);
	kind = vendor < 0 ? -1 : word_of(row, "kind", kinds, fault, size);
	evidence = kind < 0 ? -1 : word_of(row, "memory_verified", memory_evidence, fault, size);
	if (evidence < 0 || !check_source(row, "memory_source", evidence < 4, fault, size))
		return false;
	ret->row = row;
	gpu->id = text_of(row, "id");
	gpu->name = text_of(row, "name");
	gpu->vendor = is_gaudi(row) ? EST_HABANA : (enum est_vendor)vendor;
	gpu->kind = (enum est_gpu_kind)kind;
	gpu->compute_capability = read_capability(row);
	gpu->bf16 = json_is_true(json_object_get(row, "bf16"));
	gpu->fast_links = json_is_object(json_object_get(row, "interconnect"));
	gpu->fp8 = json_is_true(json_object_get(row, "fp8"));
	if ((gpu->vendor == EST_NVIDIA) != (gpu->compute_capability > 0)) {
		snprintf(fault, size, "compute_capability must be given for NVIDIA cards, and only there");
		return false;
	}
	return read_memory(row, gpu, fault, size);
}
