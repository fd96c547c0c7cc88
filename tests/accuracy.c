/* accuracy [--worst N] [--refused] [--group-by group|family] [--gate] FILE.jsonl...: replays truth rows against the
 * estimator and prints the error of each group of each file, or of each family (config.json's model_type). A row is {"id", "group", "request", "gpu", "measured": {"allocated_bytes",
 * "reserved_bytes", "device_bytes"}, "excludes"}, or, of a run that did not fit its card, {"outcome": "oom"} without
 * a measurement; rows whose request is not modelled yet are counted as refused, and --refused tells why. With --gate
 * it prints a TAP case for each row of the gates (as good as it has been?) instead. tests/truth/README.md tells where
 * the rows come from. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "config/config.h"
#include "tests/accuracy_phases.h"

enum { ROWS_MAX = 1024, SEGMENT = 2 << 20 };

struct error {
	double value;                  /* estimate / measurement - 1; NAN when there is no measurement */
	bool covered;                  /* the measurement is within the upper bound */
};

struct row {
	const char *id, *group;
	char text[512];                /* what was asked, or why it was refused */
	bool refused, out_of_memory;
	enum est_verdict verdict;
	struct error allocated, reserved, device;
	struct error untied;           /* reserved, where the head is not tied: docs/accuracy.md tells why apart */
	struct error phase[EST_PHASES]; /* of the most allocated within each phase */
};

struct summary {
	unsigned count;
	double mean, p95, max, bias, covered;
};

/* As good as it has been: at least so many modelled rows, and errors in percent that are not exceeded (untied: of
 * reserved where the head is not tied). NULL: all of the file. Groups are named as in the rows, blanks and all. */
struct gate {
	const char *group;
	unsigned rows;
	double allocated_mean, allocated_max, reserved_mean, untied_mean;
};

/* clang-format off */
static const struct gate single[] = {
	{ NULL,                              631, 0.01, 0.10, 0.08, 0.10 },
	{ "full bf16 checkpointed",          106, 0.01, 0.10, 0.08, 0.02 },
	{ "lora bf16_mixed checkpointed",     51, 0.01, 0.10, 0.01, 0.01 },
	{ "full bf16 plain",                  35, 0.01, 0.10, 0.01, 0.01 },
	{ "full bf16_mixed plain",             5, 0.01, 0.10, 0.01, 0.01 },
	{ "full bf16_autocast checkpointed",   5, 0.01, 0.10, 0.01, 0.01 },
	{ "full fp32 plain",                   6, 0.01, 0.10, 0.07, 0.30 },
	{ "full bf16_mixed checkpointed",      5, 0.01, 0.10, 0.01, 0.01 },
	{ "full bf16_autocast plain",          6, 0.01, 0.10, 0.92, 0.01 },
	{ "full fp32 checkpointed",            5, 0.01, 0.10, 0.48, 0.20 },
	{ "qlora bf16_mixed checkpointed",    32, 0.01, 0.10, 0.09, 0.20 },
	{ "lora bf16_mixed plain",            21, 0.01, 0.10, 0.04, 0.10 },
	{ "lora bf16 plain",                   4, 0.01, 0.10, 0.01, 0.01 },
	{ "lora bf16 checkpointed",            3, 0.01, 0.10, 0.01, 0.01 },
	{ "qlora bf16_mixed plain",            5, 0.01, 0.10, 0.03, 0.01 },
	{ "qlora bf16 checkpointed",           6, 0.01, 0.10, 0.01, 0.01 },
	{ "trl-sft full",                     13, 0.01, 0.10, 0.01, 0.01 },
	{ "trl-sft lora",                      4, 0.01, 0.10, 0.01, 0.01 },
	{ "trl-sft qlora",                     8, 0.01, 0.10, 0.01, 0.01 },
	{ "partial freeze",                    5, 0.01, 0.10, 0.01, 0.01 },
	{ "partial lora",                      9, 0.01, 0.10, 0.01, 0.01 },
	{ "checkpoint full",                  10, 0.01, 0.10, 0.01, 0.01 },
	{ "checkpoint lora",                   1, 0.01, 0.10, 0.01, 0.01 },
	{ "checkpoint qlora",                  1, 0.01, 0.10, 0.01, 0.01 },
	{ "quant qlora",                      12, 0.01, 0.10, 0.13, 0.10 },
	{ "dpo full",                          5, 0.01, 0.10, 0.01, 0.01 },
	{ "dpo lora",                          3, 0.01, 0.10, 0.01, 0.01 },
	{ "dpo qlora",                         1, 0.01, 0.10, 0.01, 0.01 },
	{ "grpo full",                         3, 0.01, 0.10, 0.01, 0.01 },
	{ "grpo lora",                         1, 0.01, 0.10, 0.01, 0.01 },
	{ "grpo qlora",                        1, 0.01, 0.10, 0.01, 0.01 },
	{ "reward full",                       3, 0.01, 0.10, 0.01, 0.01 },
	{ "reward lora",                       1, 0.01, 0.10, 0.01, 0.01 },
	{ "kto lora",                          1, 0.01, 0.10, 0.01, 0.01 },
	{ "orpo full",                         1, 0.01, 0.10, 0.01, 0.01 },
	{ "orpo lora",                         1, 0.01, 0.10, 0.01, 0.01 },
	{ "optim full",                       28, 0.01, 0.10, 0.20, 0.50 },
	{ "encoder full",                     18, 0.01, 0.10, 0.09, 0.01 },
	{ "partial qlora",                     1, 0.01, 0.10, 0.01, 0.01 },
	{ "kto full",                          1, 0.01, 0.10, 0.01, 0.01 },
	{ "liger full",                        7, 0.01, 0.10, 0.01, 0.01 },
	{ "liger lora",                        1, 0.01, 0.10, 0.01, 0.01 },
	{ "liger qlora",                       1, 0.01, 0.10, 0.01, 0.01 },
	{ "random full",                       4, 0.01, 0.10, 0.60, 0.60 },
	{ "random lora",                       7, 0.01, 0.10, 0.01, 0.01 },
	{ "random qlora",                      7, 0.02, 0.10, 0.01, 0.01 },
	{ "phimoe jitter",                    10, 0.01, 0.01, 0.01, 0.01 },
	{ "kimi linear",                      15, 0.01, 0.01, 0.10, 0.20 },
	{ "delta rule by kernels",            17, 0.01, 0.01, 0.01, 0.01 },
	{ "mamba2 by kernels",                12, 0.01, 0.01, 0.10, 0.10 },
	{ "convolutions by kernels",           4, 0.01, 0.01, 0.10, 0.01 },
	{ "kimi linear by kernels",            5, 0.01, 0.01, 0.01, 0.01 },
	{ "gemma-4 full",                     18, 0.01, 0.10, 0.12, 0.10 },
	{ "gemma-4 lora",                     12, 0.01, 0.10, 0.10, 0.01 },
	{ "gemma-4 qlora",                     8, 0.01, 0.10, 0.25, 0.10 },
	{ "gemma-3n full",                     8, 0.01, 0.10, 0.05, 0.05 },
	{ "gemma-3n lora",                     4, 0.01, 0.10, 0.01, 0.01 },
	{ "dora lora",                         3, 0.01, 0.01, 0.03, 0.05 },
	{ "dora qlora",                        3, 0.01, 0.01, 0.01, 0.01 },
	{ "hybrid full",                       5, 0.01, 0.01, 0.01, 0.01 },
	{ "hybrid lora",                       1, 0.01, 0.01, 0.10, 0.10 },
	{ "glm-5 full",                        2, 0.01, 0.01, 0.01, 0.01 },
	{ "selective lora",                    1, 0.01, 0.01, 0.04, 0.04 },
	{ "selective qlora",                   2, 0.01, 0.01, 0.05, 0.05 },
	{ "drawn full",                        4, 0.01, 0.01, 0.01, 0.01 },
	{ "drawn lora",                        4, 0.01, 0.01, 0.40, 0.80 },
	{ "drawn qlora",                      14, 0.01, 0.01, 0.10, 0.10 },
	{ "drawn freeze",                      4, 0.01, 0.01, 0.20, 0.10 },
	{ .rows = 0 },
};
static const struct gate distributed[] = {
	{ NULL,                              404, 0.01, 0.60, 0.35, 0.28 },
	{ "fsdp full accelerate",             43, 0.01, 0.10, 0.40, 0.30 },
	{ "fsdp full layer_root",              8, 0.01, 0.10, 1.90, 0.20 },
	{ "hsdp full accelerate",              5, 0.01, 0.10, 2.90, 0.10 },
	{ "hsdp full layer_root",              1, 0.01, 0.10, 15.00, 15.00 },
	{ "fsdp1 full layer_root",            16, 0.01, 0.10, 0.35, 0.50 },
	{ "fsdp1 lora peft",                  13, 0.01, 0.10, 0.01, 0.01 },
	{ "fsdp1 qlora peft",                  9, 0.01, 0.10, 0.25, 0.25 },
	{ "fsdp1 lora layer_root",             4, 0.01, 0.10, 0.30, 0.30 },
	{ "fsdp lora peft",                    1, 0.01, 0.10, 0.01, 0.01 },
	{ "fsdp qlora peft",                   1, 0.01, 0.10, 0.01, 0.01 },
	{ "ddp full ",                         7, 0.01, 0.10, 1.50, 0.10 },
	{ "fsdp lora accelerate",              9, 0.01, 0.10, 0.70, 0.70 },
	{ "ddp lora ",                         5, 0.01, 0.10, 0.50, 0.30 },
	{ "fsdp qlora accelerate",            14, 0.01, 0.10, 0.02, 0.02 },
	{ "fsdp qlora layer_root",             1, 0.01, 0.10, 0.01, 0.01 },
	{ "ddp qlora ",                        3, 0.01, 0.10, 0.10, 0.10 },
	{ "tensor full layer_root",           15, 0.01, 0.10, 0.60, 0.60 },
	{ "ulysses zero2 full",                1, 0.01, 0.01, 0.10, 0.10 },
	{ "ulysses zero3 full",                2, 0.01, 0.01, 0.10, 0.10 },
	{ "tensor full mixed",                 1, 0.01, 0.01, 0.10, 0.10 },
	{ "tensor lora",                       2, 0.01, 0.01, 0.10, 0.10 },
	{ "expert fsdp full",                  7, 0.01, 0.10, 0.01, 0.01 },
	{ "expert hsdp full",                  1, 0.01, 0.10, 0.01, 0.01 },
	{ "zero1 full ",                       6, 0.01, 0.10, 0.01, 0.01 },
	{ "zero2 full ",                      10, 0.01, 0.10, 0.01, 0.01 },
	{ "zero2 qlora ",                      1, 0.01, 0.10, 0.01, 0.01 },
	{ "zero2 lora ",                       2, 0.01, 0.10, 0.01, 0.01 },
	{ "zero3 full ",                      30, 0.02, 0.60, 0.30, 0.30 },
	{ "zero3 lora ",                       5, 0.01, 0.10, 0.50, 0.50 },
	{ "zero3 qlora ",                      2, 0.01, 0.10, 0.60, 0.01 },
	{ "pipeline none full",                1, 0.01, 0.01, 0.50, 0.50 },
	{ "pipeline fsdp full",                2, 0.01, 0.01, 1.50, 1.50 },
	{ "pipeline ddp full",                 1, 0.01, 0.01, 0.50, 0.50 },
	{ "pipeline none lora",                1, 0.01, 0.01, 0.60, 0.60 },
	{ "pipeline interleaved none full",    1, 0.01, 0.01, 0.10, 0.10 },
	{ "pipeline interleaved fsdp full",    2, 0.01, 0.01, 0.10, 0.10 },
	{ "context fsdp full",                 4, 0.01, 0.01, 0.50, 0.50 },
	{ "tower ddp full",                      1, 0.01, 0.01, 0.01, 0.01 },
	{ "tower ddp adapters",                  2, 0.01, 0.01, 0.50, 0.50 },
	{ "tower fsdp full",                     7, 0.01, 0.01, 0.01, 0.01 },
	{ "tower fsdp adapters",                 3, 0.01, 0.01, 0.01, 0.01 },
	{ "tower hsdp full",                     1, 0.01, 0.01, 0.01, 0.01 },
	{ "tower fsdp1 full",                    2, 0.01, 0.01, 0.01, 0.01 },
	{ "tower fsdp1 adapters",                3, 0.01, 0.01, 0.10, 0.10 },
	{ "tower zero1 full",                    1, 0.01, 0.01, 0.01, 0.01 },
	{ "tower zero2 full",                    5, 0.01, 0.01, 0.01, 0.01 },
	{ "tower zero2 adapters",                1, 0.01, 0.01, 0.01, 0.01 },
	{ "shards masters",                      6, 0.01, 0.01, 0.02, 0.01 },
	{ "shards autocast",                     3, 0.01, 0.01, 0.01, 0.01 },
	{ "shards liger",                        7, 0.01, 0.01, 0.08, 0.01 },
	{ "fsdp1 masters",                       4, 0.01, 0.01, 1.40, 2.30 },
	{ "fsdp1 fused",                         6, 0.01, 0.01, 0.10, 0.01 },
	{ "shards trl",                          4, 0.01, 0.01, 0.01, 0.01 },
	{ "shards preferences",                 12, 0.01, 0.01, 0.01, 0.01 },
	{ "shards saved",                        6, 0.01, 0.01, 0.01, 0.01 },
	{ "shards freeze",                       4, 0.01, 0.01, 0.01, 0.01 },
	{ "shards adapters",                     5, 0.01, 0.01, 0.01, 0.01 },
	{ "shards torchao",                      3, 0.01, 0.01, 0.01, 0.01 },
	{ "shards muon",                         8, 0.01, 0.01, 0.01, 0.01 },
	{ "zero2 freeze",                        1, 0.01, 0.01, 0.01, 0.01 },
	{ "zero3 liger",                         9, 0.01, 0.01, 0.40, 0.01 },
	{ "zero3 chunked",                       4, 0.01, 0.01, 0.03, 0.01 },
	{ "zero3 preference",                    8, 0.01, 0.01, 0.25, 0.05 },
	{ "zero3 saved",                         3, 0.01, 0.01, 0.05, 0.02 },
	{ "zero3 preference lora",               6, 0.03, 0.06, 0.03, 0.04 },
	{ "zero3 freeze",                        1, 0.01, 0.01, 0.01, 0.01 },
	{ "zero3 dora",                          1, 0.01, 0.01, 0.90, 0.90 },
	{ "drawn fsdp",                          7, 0.01, 0.01, 0.10, 0.01 },
	{ "drawn fsdp1",                         8, 0.01, 0.01, 0.01, 0.01 },
	{ "drawn zero",                          5, 0.01, 0.01, 0.01, 0.01 },
	{ "drawn mixtures",                      8, 0.04, 0.20, 0.10, 0.10 },
	{ .rows = 0 },
};
/* torch.compile */
static const struct gate compiled[] = {
	{ NULL,                              105, 0.16, 2.90, 1.20, 1.10 },
	{ "compiled none",                     7, 0.01, 0.01, 0.20, 0.20 },
	{ "compiled full",                     7, 0.01, 0.01, 3.60, 4.10 },
	{ "compiled selective",                7, 0.01, 0.01, 1.40, 1.60 },
	{ "compiled short",                    3, 2.90, 2.90, 0.70, 0.70 },
	{ "whole full",                       20, 0.07, 0.90, 0.30, 0.21 },
	{ "whole full checkpoints",            6, 0.24, 1.21, 0.80, 1.20 },
	{ "whole lora",                       16, 0.12, 1.81, 2.20, 0.50 },
	{ "aside full",                       17, 0.04, 0.55, 0.90, 0.14 },
	{ "aside full checkpoints",           12, 0.18, 1.00, 1.40, 2.30 },
	{ "aside lora",                       10, 0.01, 0.01, 0.20, 0.20 },
	{ .rows = 0 },
};
/* Measured on real GPUs: with Transformers 4.48, by LitGPT, and by prime-rl and torchtitan */
static const struct gate published[] = {
	{ "mistral-7b-v0.1|fms",              20, 0.02, 0.14, 0.00, 0.00 },
	{ "llama-3.2-3b|torchtune",            1, 0.10, 0.20, 0.00, 0.00 },
	{ "phi-1.5|litgpt",                    5, 0.30, 0.60, 0.00, 0.00 },
	{ "stablelm-base-alpha-3b|litgpt",     7, 0.30, 0.50, 0.00, 0.00 },
	{ "llama-2-7b|litgpt",                12, 0.40, 1.10, 0.00, 0.00 },
	{ "falcon-7b|litgpt",                  2, 0.60, 0.70, 0.00, 0.00 },
	{ "gemma-2b|litgpt",                   2, 0.40, 0.50, 0.00, 0.00 },
	{ "gemma-7b|litgpt",                   1, 1.10, 1.10, 0.00, 0.00 },
	{ "gemma-2-2b|litgpt",                 2, 0.60, 0.80, 0.00, 0.00 },
	{ "llama-3.1-8b|litgpt",               2, 0.30, 0.40, 0.00, 0.00 },
	{ "llama-3.2-1b|litgpt",               2, 0.60, 0.70, 0.00, 0.00 },
	{ "llama-3.2-3b|litgpt",               2, 0.50, 0.60, 0.00, 0.00 },
	{ "mistral-7b-instruct-v0.2|litgpt",   2, 0.30, 0.40, 0.00, 0.00 },
	{ "phi-2|litgpt",                      2, 0.20, 0.30, 0.00, 0.00 },
	{ "phi-3-mini|litgpt",                 2, 0.10, 0.20, 0.00, 0.00 },
	{ "tinyllama-1.1b|litgpt",             3, 1.00, 2.60, 0.00, 0.00 },
	{ "gpt_bigcode-santacoder|fms",        8, 0.09, 0.21, 0.00, 0.00 },
	{ "mixtral-8x7b|fms",                 14, 0.12, 0.69, 0.00, 0.00 },
	{ "llama-2-70b|fms",                   5, 0.01, 0.02, 0.00, 0.00 },
	{ "qwen3-0.6b|prime-rl",               4, 0.00, 0.00, 0.40, 0.00 },
	{ "qwen3-4b|prime-rl",                 5, 0.00, 0.00, 0.20, 0.00 },
	{ .rows = 0 },
};
/* clang-format on */

static const struct {
	const char *file;
	const struct gate *gates;
	double phase_mean; /* of each phase's own peak, all of the file; 0: not measured */
} gated[] = { { "single.jsonl", single, 0.03 }, { "distributed.jsonl", distributed, 0.50 },
	      { "compiled.jsonl", compiled, 0 }, { "published.jsonl", published, 0 } };

/* The rows of one file. */
static struct row rows[ROWS_MAX];
static size_t row_count;

/* ---- one row */

static struct error compare(const struct est_range *estimate, const json_t *measured, const char *name,
			    uint64_t excluded)
{
	double truth = json_number_value(json_object_get(measured, name));

	if (truth <= 0)
		return (struct error){ NAN, true };
	return (struct error){ (double)(estimate->expected - excluded) / truth - 1,
			       truth <= (double)(estimate->high - excluded) };
}

/* The error of a phase's own peak. */
static struct error compare_phase(const struct est_report *report, const json_t *measured, enum est_phase phase,
				  uint64_t excluded)
{
	double truth = phases_measured(json_object_get(measured, "phase_peaks"), phase);

	if (truth <= 0)
		return (struct error){ NAN, true };
	return (struct error){ ((double)phases_estimated(report, json_object_get(measured, "phase_peaks"), phase) -
				(double)excluded) / truth - 1, true };
}

static bool excludes_workspace(const json_t *row)
{
	json_t *excludes = json_object_get(row, "excludes"), *item;
	size_t i;

	json_array_foreach(excludes, i, item)
		if (strcmp(json_string_value(item), "workspace") == 0)
			return true;
	return false;
}

static void judge(json_t *json, bool tied, const struct est_report *report, struct row *row)
{
	const json_t *measured = json_object_get(json, "measured");
	const struct est_peak *peak = &report->peak;
	uint64_t workspace = excludes_workspace(json) ? peak->at_peak[EST_WORKSPACE] : 0;
	uint64_t segments = (workspace + SEGMENT - 1) / SEGMENT * SEGMENT;

	row->verdict = report->fits[0].verdict;
	row->allocated = compare(&peak->allocated, measured, "allocated_bytes", workspace);
	row->reserved = compare(&peak->reserved, measured, "reserved_bytes", segments);
	row->untied = tied ? (struct error){ NAN, true } : row->reserved;
	row->device = compare(&peak->device, measured, "device_bytes", segments);
	for (enum est_phase phase = 0; phase < EST_PHASES; phase++)
		row->phase[phase] = compare_phase(report, measured, phase, workspace);
}

/* What the model's config.json names as its model_type; "no family" of what has none. Borrowed from json or catalog. */
static const char *family_of(const json_t *json, const struct cfg_catalog *catalog)
{
	const json_t *model = json_object_get(json_object_get(json, "request"), "model");
	const struct cfg_preset *preset = NULL;
	const char *family;

	if (json_is_string(model))
		preset = cfg_catalog_find_preset(catalog, json_string_value(model), NULL);
	if (preset)
		model = json_object_get(preset->row, "config");
	family = json_string_value(json_object_get(model, "model_type"));
	return family ? family : "no family";
}

/* The tracer of one GPU makes its models on the card. */
static bool is_traced(const json_t *row)
{
	const char *tier = json_string_value(json_object_get(row, "tier"));

	return tier && !strcmp(tier, "traced");
}

static void evaluate(json_t *json, const struct cfg_catalog *catalog, struct est_arena *arena, struct row *row)
{
	static struct cfg_request request;
	static struct est_report report;
	static struct est_faults faults;
	json_t *body = json_object_get(json, "request"), *gpu = json_object_get(json, "gpu");
	const char *group = json_string_value(json_object_get(json, "group"));

	memset(row, 0, sizeof(*row));
	memset(&faults, 0, sizeof(faults));
	row->id = json_string_value(json_object_get(json, "id"));
	row->out_of_memory = json_object_get(json, "outcome") != NULL;
	row->group = group ? group : "out of memory";
	if (json_is_string(gpu))
		json_object_set(body, "gpus", gpu);
	row->refused = !cfg_read_request(body, "", catalog, &request, &faults);
	if (row->refused) {
		snprintf(row->text, sizeof(row->text), "%s %s", faults.item[0].pointer, faults.item[0].detail);
		return;
	}
	request.request.made_on_card = is_traced(json) && request.request.parallelism.gpus == 1;
	arena->used = 0;
	arena->exhausted = false;
	if (!est_run(&request.request, &request.model, request.cards, 1, arena, &report)) {
		fprintf(stderr, "accuracy: %s: the arena is too small\n", row->id);
		exit(3);
	}
	snprintf(row->text, sizeof(row->text), "%s b%lld s%lld", request.model.id,
		 (long long)request.request.micro_batch_size, (long long)request.request.sequence_length);
	judge(json, request.model.tie_word_embeddings, &report, row);
}

/* Fills rows[]; kept holds the strings that they point to. */
static void read_file(const char *path, bool by_family, const struct cfg_catalog *catalog, struct est_arena *arena,
		      json_t *kept)
{
	FILE *file = fopen(path, "r");
	char *line = NULL;
	size_t size = 0;

	if (!file) {
		perror(path);
		exit(3);
	}
	for (row_count = 0; row_count < ROWS_MAX && getline(&line, &size, file) > 0; row_count++) {
		json_t *json = json_loads(line, 0, NULL);

		if (!json) {
			fprintf(stderr, "accuracy: %s: row %zu is not JSON\n", path, row_count + 1);
			exit(3);
		}
		json_array_append_new(kept, json);
		evaluate(json, catalog, arena, &rows[row_count]);
		if (by_family)
			rows[row_count].group = family_of(json, catalog);
	}
	free(line);
	fclose(file);
}

/* ---- groups */

static bool belongs(const struct row *row, const char *group)
{
	return !group || strcmp(row->group, group) == 0;
}

static int compare_doubles(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* Of the errors at offset in the modelled rows of group that were measured. */
static struct summary summarize(const char *group, size_t offset)
{
	static double absolute[ROWS_MAX];
	struct summary summary = { 0 };

	for (size_t i = 0; i < row_count; i++) {
		struct error error;

		memcpy(&error, (const char *)&rows[i] + offset, sizeof(error));
		if (rows[i].refused || rows[i].out_of_memory || !belongs(&rows[i], group) || isnan(error.value))
			continue;
		absolute[summary.count++] = fabs(error.value);
		summary.mean += fabs(error.value);
		summary.bias += error.value;
		summary.covered += error.covered;
	}
	if (!summary.count)
		return summary;
	qsort(absolute, summary.count, sizeof(absolute[0]), compare_doubles);
	summary.mean /= summary.count;
	summary.bias /= summary.count;
	summary.covered /= summary.count;
	summary.p95 = absolute[(size_t)ceil(0.95 * summary.count) - 1];
	summary.max = absolute[summary.count - 1];
	return summary;
}

/* ---- printed for people */

static void print_summary(const char *name, const struct summary *summary)
{
	if (summary->count)
		printf("  %-14s n %3u  mean %7.3f %%  p95 %7.3f %%  max %7.3f %%  bias %+8.3f %%  "
		       "under upper bound %5.1f %%\n",
		       name, summary->count, 100 * summary->mean, 100 * summary->p95, 100 * summary->max,
		       100 * summary->bias, 100 * summary->covered);
}

static unsigned count_verdict(const char *group, enum est_verdict verdict)
{
	unsigned count = 0;

	for (size_t i = 0; i < row_count; i++)
		if (rows[i].out_of_memory && !rows[i].refused && belongs(&rows[i], group))
			count += rows[i].verdict == verdict;
	return count;
}

/* Runs that did not fit their card: which verdict they get. */
static void print_verdicts(const char *group)
{
	printf("  called");
	for (enum est_verdict verdict = EST_FITS; verdict <= EST_UNSUPPORTED; verdict++)
		printf("%s %s %u", verdict == EST_FITS ? "" : ",", est_verdict_name(verdict),
		       count_verdict(group, verdict));
	printf(" (none may be fits)\n");
}

static void print_group(const char *group)
{
	unsigned count = 0, refused = 0, out_of_memory = 0;
	struct summary summary;

	for (size_t i = 0; i < row_count; i++) {
		count += belongs(&rows[i], group);
		refused += belongs(&rows[i], group) && rows[i].refused;
		out_of_memory += belongs(&rows[i], group) && rows[i].out_of_memory;
	}
	printf("%-42s rows %3u  refused %3u\n", group ? group : "all", count, refused);
	summary = summarize(group, offsetof(struct row, allocated));
	print_summary("allocated", &summary);
	summary = summarize(group, offsetof(struct row, reserved));
	print_summary("reserved", &summary);
	summary = summarize(group, offsetof(struct row, untied));
	print_summary("  untied", &summary);
	summary = summarize(group, offsetof(struct row, device));
	print_summary("device", &summary);
	for (enum est_phase phase = 0; phase < EST_PHASES; phase++) {
		summary = summarize(group, offsetof(struct row, phase[phase]));
		print_summary(est_phase_name(phase), &summary);
	}
	if (out_of_memory)
		print_verdicts(group);
}

static bool is_first_of_its_group(size_t row)
{
	for (size_t i = 0; i < row; i++)
		if (strcmp(rows[i].group, rows[row].group) == 0)
			return false;
	return true;
}

static double error_of(const struct error *error)
{
	return isnan(error->value) ? 0 : fabs(error->value);
}

/* The largest of a row's errors; a run out of memory that fits is the worst of all. */
static double badness(const struct row *row)
{
	if (row->refused)
		return -1;
	if (row->out_of_memory)
		return row->verdict == EST_FITS ? 1e9 : -1;
	return fmax(error_of(&row->allocated), fmax(error_of(&row->reserved), error_of(&row->device)));
}

static int by_badness(const void *a, const void *b)
{
	double x = badness(a), y = badness(b);

	return (x < y) - (x > y);
}

static void print_error(const char *name, const struct error *error)
{
	if (!isnan(error->value))
		printf("  %s %+8.3f %%", name, 100 * error->value);
}

static void print_worst(size_t worst)
{
	qsort(rows, row_count, sizeof(rows[0]), by_badness);
	for (size_t i = 0; i < worst && i < row_count && badness(&rows[i]) >= 0; i++) {
		printf("%-14s", rows[i].id);
		if (rows[i].out_of_memory) {
			printf("  ran out of memory, called fits");
		} else {
			print_error("allocated", &rows[i].allocated);
			print_error("reserved", &rows[i].reserved);
			print_error("device", &rows[i].device);
			for (enum est_phase phase = 0; phase < EST_PHASES; phase++)
				if (error_of(&rows[i].phase[phase]) >= 0.001)
					print_error(est_phase_name(phase), &rows[i].phase[phase]);
		}
		printf("  %s: %s\n", rows[i].group, rows[i].text);
	}
}

/* The first fault of each refused row, with the number of rows that it comes first in. */
static void print_refusals(void)
{
	for (size_t i = 0; i < row_count; i++) {
		unsigned before = 0, count = 0;

		for (size_t k = 0; k < row_count; k++) {
			bool same = rows[k].refused && strcmp(rows[k].text, rows[i].text) == 0;

			count += same;
			before += same && k < i;
		}
		if (rows[i].refused && before == 0)
			printf("refused %3u: %s\n", count, rows[i].text);
	}
}

static void print_file(const char *path, size_t worst, bool refused)
{
	const char *name = strrchr(path, '/');

	printf("== %s\n", name ? name + 1 : path);
	for (size_t i = 0; i < row_count; i++)
		if (is_first_of_its_group(i))
			print_group(rows[i].group);
	if (row_count)
		print_group(NULL);
	if (refused)
		print_refusals();
	print_worst(worst);
}

/* ---- printed for the test runner */

static void print_case(unsigned number, bool good, const char *name)
{
	printf("%s %u - %s\n", good ? "ok" : "not ok", number, name);
}

static void check_gate(unsigned number, const struct gate *gate)
{
	struct summary allocated = summarize(gate->group, offsetof(struct row, allocated));
	struct summary reserved = summarize(gate->group, offsetof(struct row, reserved));
	unsigned modelled = allocated.count > reserved.count ? allocated.count : reserved.count;
	bool enough = modelled >= gate->rows;
	bool exact = 100 * allocated.mean <= gate->allocated_mean && 100 * allocated.max <= gate->allocated_max;
	struct summary untied = summarize(gate->group, offsetof(struct row, untied));
	bool near = 100 * reserved.mean <= gate->reserved_mean && 100 * untied.mean <= gate->untied_mean;
	char name[256];

	snprintf(name, sizeof(name),
		 "%s: n %u (%u), allocated mean %.4f %% (%.4f) max %.4f %% (%.4f), reserved mean %.3f %% (%.3f), "
		 "untied %.3f %% (%.3f)",
		 gate->group ? gate->group : "all", modelled, gate->rows, 100 * allocated.mean,
		 gate->allocated_mean, 100 * allocated.max, gate->allocated_max, 100 * reserved.mean,
		 gate->reserved_mean, 100 * untied.mean, gate->untied_mean);
	print_case(number, enough && exact && near, name);
}

/* The rows ran out of memory: no verdict may say that they fit. */
static void check_verdicts(void)
{
	char name[128];
	unsigned modelled = 0;

	for (size_t i = 0; i < row_count; i++)
		modelled += !rows[i].refused;
	snprintf(name, sizeof(name), "no run that went out of memory is called fits (%u of %zu are modelled)",
		 modelled, row_count);
	printf("1..1\n");
	print_case(1, count_verdict(NULL, EST_FITS) == 0, name);
}

/* Each phase's own peak: right for the right reason. Nothing is allocated in the load that is told of. */
static void check_phase(unsigned number, enum est_phase phase, double limit)
{
	struct summary summary = summarize(NULL, offsetof(struct row, phase[phase]));
	char name[128];

	snprintf(name, sizeof(name), "peaks of %s: n %u, mean %.4f %% (%.4f)", est_phase_name(phase), summary.count,
		 100 * summary.mean, limit);
	print_case(number, summary.count > 0 && 100 * summary.mean <= limit, name);
}

static void check_gates(const struct gate *gates, double phase_mean)
{
	unsigned count = 0, phases = phase_mean > 0 ? EST_PHASES - EST_PHASE_FORWARD : 0;

	while (gates[count].rows > 0)
		count++;
	printf("1..%u\n", count + phases);
	for (unsigned i = 0; i < count; i++)
		check_gate(i + 1, &gates[i]);
	for (unsigned i = 0; i < phases; i++)
		check_phase(count + i + 1, EST_PHASE_FORWARD + i, phase_mean);
}

static void check_file(const char *path)
{
	const char *slash = strrchr(path, '/');

	if (row_count && rows[0].out_of_memory) {
		check_verdicts();
		return;
	}
	for (size_t i = 0; i < sizeof(gated) / sizeof(gated[0]); i++)
		if (strcmp(gated[i].file, slash ? slash + 1 : path) == 0)
			check_gates(gated[i].gates, gated[i].phase_mean);
}

int main(int argc, char **argv)
{
	const char *source = getenv("VRAMCAST_SOURCE");
	size_t size = est_arena_size(1), worst = 0;
	char error[512], directory[1024];
	struct cfg_catalog *catalog;
	json_t *kept = json_array();
	struct est_arena arena;
	bool gate = false, refused = false, by_family = false;

	snprintf(directory, sizeof(directory), "%s/config", source ? source : ".");
	catalog = cfg_catalog_create(directory, error, sizeof(error));
	if (!catalog) {
		fprintf(stderr, "accuracy: %s\n", error);
		return 3;
	}
	est_arena_init(&arena, malloc(size), size);
	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--gate") == 0) {
			gate = true;
		} else if (strcmp(argv[i], "--refused") == 0) {
			refused = true;
		} else if (strcmp(argv[i], "--worst") == 0 && i + 1 < argc) {
			worst = (size_t)strtoul(argv[++i], NULL, 10);
		} else if (strcmp(argv[i], "--group-by") == 0 && i + 1 < argc) {
			by_family = strcmp(argv[++i], "family") == 0;
		} else {
			read_file(argv[i], by_family && !gate, catalog, &arena, kept);
			if (gate)
				check_file(argv[i]);
			else
				print_file(argv[i], worst, refused);
		}
	}
	free(arena.base);
	json_decref(kept);
	cfg_catalog_destroy(catalog);
	return 0;
}
