/* Every exact preset of the catalogue with full, lora and qlora: an estimate whose figures are in order, or a
 * refusal with a reason that docs/models.md tells. test_presets --list prints the table that docs/models.md has to
 * have. */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "config/config.h"
#include "config/families.h"
#include "estimator/estimator.h"
#include "tests/source.h"
#include "tests/suite.h"

enum { METHODS = 3, USUAL_LENGTH = 2048, TABLE_MAX = 1 << 16 };

static const char *const methods[METHODS] = { "full", "lora", "qlora" };
/* Reasons other than those of cfg_refusals[]. */
static const struct {
	const char *pointer, *reason;
} reasons[] = {
	{ "/lora/target_modules",
	  "must name modules other than out_proj: PEFT refuses to adapt it in models with Mamba layers, and all-linear stands for it too" },
	{ "/lora/target_modules",
	  "must name modules other than router: PEFT adapts one result, and this model's router returns several; all-linear stands for it too" },
	{ "/model", "embeddings of each layer, and layers that share keys and values, not modelled yet" },
};

static struct cfg_catalog *catalog;
static const struct cfg_preset *presets;
static size_t preset_count;
static void *memory; /* of the arena: mapped, as malloc() would fill all of it under MALLOC_PERTURB_ */

static bool is_exact(const struct cfg_preset *preset)
{
	return strcmp(preset->verified, "exact") == 0;
}

/* The preset with a method, and a sequence that it has positions for. */
static bool read_request(const struct cfg_preset *preset, const char *method, struct cfg_request *ret,
			 struct est_faults *faults)
{
	int64_t positions = preset->model.max_position_embeddings;
	int64_t length = positions > 0 && positions < USUAL_LENGTH ? positions / 2 : USUAL_LENGTH;
	json_t *body = json_pack("{s:s, s:s, s:I}", "model", preset->id, "method", method, "sequence_length",
				 (json_int_t)length);
	bool read;

	memset(faults, 0, sizeof(*faults));
	read = cfg_read_request(body, "", catalog, ret, faults);
	json_decref(body);
	return read;
}

/* ---- estimates */

static void check_range(const char *id, const char *method, const char *name, struct est_range range, uint64_t least)
{
	ck_assert_msg(range.low > 0 && range.low <= range.expected && range.expected <= range.high
		      && range.high < UINT64_C(1) << 60,
		      "%s, %s: %s is not in order: %llu, %llu, %llu", id, method, name, (unsigned long long)range.low,
		      (unsigned long long)range.expected, (unsigned long long)range.high);
	ck_assert_msg(range.expected >= least, "%s, %s: %s is less than what it contains", id, method, name);
}

static void check_estimate(const char *id, const char *method, const struct cfg_request *request)
{
	struct est_arena arena;
	size_t cards;
	const struct est_gpu *gpu = &cfg_catalog_cards(catalog, &cards)[0].gpu;
	struct est_report report;

	est_arena_init(&arena, memory, est_arena_size(1));
	ck_assert_msg(est_run(&request->request, &request->model, &gpu, 1, &arena, &report), "%s, %s: too large", id, method);
	check_range(id, method, "allocated", report.peak.allocated, report.per_gpu.weights);
	check_range(id, method, "reserved", report.peak.reserved, report.peak.allocated.expected);
	check_range(id, method, "device", report.peak.device, report.peak.reserved.expected);
	ck_assert_msg(report.fits[0].required <= report.fits[0].required_high
		      && report.fits[0].required > report.per_gpu.weights, "%s, %s: required", id, method);
	ck_assert_msg(report.trainable_parameters > 0 && report.trainable_parameters <= 2 * request->model.parameters,
		      "%s, %s: trains %lld", id, method, (long long)report.trainable_parameters);
}

static bool is_told(const struct est_fault *fault)
{
	for (size_t i = 0; i < cfg_refusal_count; i++)
		if (!strcmp(fault->pointer, "/model") && !strcmp(fault->detail, cfg_refusals[i].reason))
			return true;
	for (size_t i = 0; i < sizeof(reasons) / sizeof(reasons[0]); i++)
		if (!strcmp(fault->pointer, reasons[i].pointer) && !strcmp(fault->detail, reasons[i].reason))
			return true;
	return false;
}

START_TEST(an_exact_preset_is_estimated_or_refused_with_a_reason)
{
	static struct cfg_request request;
	static struct est_faults faults;
	const struct cfg_preset *preset = &presets[_i];

	for (size_t i = 0; i < METHODS && is_exact(preset); i++) {
		if (read_request(preset, methods[i], &request, &faults)) {
			check_estimate(preset->id, methods[i], &request);
			continue;
		}
		for (size_t k = 0; k < faults.count && k < EST_FAULTS_MAX; k++)
			ck_assert_msg(is_told(&faults.item[k]), "%s, %s: %s %s", preset->id, methods[i], faults.item[k].pointer,
				      faults.item[k].detail);
	}
}
END_TEST

/* ---- docs/models.md */

/* | `preset` | methods | reason | for each preset that is refused, after the heading. */
static void write_table(char *table, size_t size)
{
	static struct cfg_request request;
	static struct est_faults faults;
	size_t used = (size_t)snprintf(table, size, "| preset | refused with | reason |\n|---|---|---|\n");

	for (size_t i = 0; i < preset_count; i++) {
		char with[64] = "", reason[EST_DETAIL_MAX] = "";

		for (size_t k = 0; k < METHODS && is_exact(&presets[i]); k++) {
			if (read_request(&presets[i], methods[k], &request, &faults))
				continue;
			snprintf(with + strlen(with), sizeof(with) - strlen(with), "%s%s", *with ? ", " : "", methods[k]);
			snprintf(reason, sizeof(reason), "%s", faults.item[0].detail);
		}
		if (*with && used < size)
			used += (size_t)snprintf(table + used, size - used, "| `%s` | %s | %s |\n", presets[i].id, with, reason);
	}
}

START_TEST(the_documented_list_is_that_of_the_refused_presets)
{
	static char table[TABLE_MAX], text[2 * TABLE_MAX];
	char path[4096];
	size_t read;
	FILE *file;

	snprintf(path, sizeof(path), "%s/docs/models.md", source_root());
	file = fopen(path, "r");
	ck_assert_ptr_nonnull(file);
	read = fread(text, 1, sizeof(text) - 1, file);
	fclose(file);
	text[read] = '\0';
	write_table(table, sizeof(table));
	ck_assert_msg(strstr(text, table) != NULL, "docs/models.md has not the table that test_presets --list prints");
}
END_TEST

int main(int argc, char **argv)
{
	static char table[TABLE_MAX];
	Suite *suite = suite_create("presets");
	TCase *test = tcase_create("presets");
	int failed;

	catalog = shipped_catalog();
	presets = cfg_catalog_presets(catalog, &preset_count);
	if (argc > 1 && !strcmp(argv[1], "--list")) {
		write_table(table, sizeof(table));
		fputs(table, stdout);
		cfg_catalog_destroy(catalog);
		return EXIT_SUCCESS;
	}
	memory = mmap(NULL, est_arena_size(1), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (memory == MAP_FAILED) {
		perror("mmap");
		return EXIT_FAILURE;
	}
	tcase_set_timeout(test, 60);
	tcase_add_loop_test(test, an_exact_preset_is_estimated_or_refused_with_a_reason, 0, (int)preset_count);
	tcase_add_test(test, the_documented_list_is_that_of_the_refused_presets);
	suite_add_tcase(suite, test);
	failed = run_suite(suite);
	cfg_catalog_destroy(catalog);
	return failed;
}
