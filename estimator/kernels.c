/* Which packages of kernels a model's layers that are no attention have, what a run without them is told, and what they refuse. */
#include "estimator/kernels.h"

#include <stdio.h>
#include "estimator/fields.h"

enum { WIDTH_MIN = 2, WIDTH_MAX = 4 /* of causal-conv1d's kernels */ };

static bool has_delta_rule(const struct est_model *model)
{
	return model->linear_num_value_heads > 0;
}

static bool has_mamba2(const struct est_model *model)
{
	return model->ssm_num_heads > 0;
}

static const struct package {
	const char *field, *name;
	bool (*helps)(const struct est_model *model);
} packages[] = {
	{ "versions.flash_linear_attention", "flash-linear-attention", has_delta_rule },
	{ "versions.mamba_ssm", "mamba-ssm", has_mamba2 },
	{ "versions.causal_conv1d", "causal-conv1d", est_model_mixes },
};
enum { PACKAGES = sizeof(packages) / sizeof(packages[0]) };

static bool is_installed(const struct package *package, const struct est_request *request)
{
	return est_field_get(est_field_find(package->field), request) != 0;
}

bool est_kernel_runs_mamba2(const struct est_request *request, const struct est_model *model)
{
	return request->versions.mamba_ssm != 0 && has_mamba2(model);
}

/* The names of what the model has use for and is, or is not, installed, in one line; fields: and of the fields that say so */
static void list_packages(const struct est_request *request, const struct est_model *model, bool installed, bool fields,
			  char *ret, size_t size)
{
	size_t length = 0;

	ret[0] = '\0';
	for (size_t i = 0; i < PACKAGES; i++)
		if (packages[i].helps(model) && is_installed(&packages[i], request) == installed && length < size)
			length += (size_t)snprintf(ret + length, size - length, "%s%s", length ? ", " : "",
						   fields ? packages[i].field : packages[i].name);
}

void est_kernels_note(const struct est_request *request, const struct est_model *model, struct est_report *report)
{
	char names[EST_NOTE_DETAIL_MAX], fields[EST_NOTE_DETAIL_MAX];

	if (!est_model_mixes(model))
		return;
	list_packages(request, model, true, false, names, sizeof(names));
	if (names[0])
		est_note_add(&report->assumptions, "/model", "",
			     "layers that are no attention run by kernels of %s%s", names,
			     est_kernel_runs_mamba2(request, model) ? "; gradients are summed up of as many parts as on an H100" : "");
	list_packages(request, model, false, false, names, sizeof(names));
	list_packages(request, model, false, true, fields, sizeof(fields));
	if (names[0])
		est_note_add(&report->assumptions, "/model", "",
			     "layers that are no attention run as Transformers does without %s; a run that has them takes less: name %s", names,
			     fields);
}

void est_kernels_check(const struct est_request *request, const struct est_model *model, struct est_faults *faults)
{
	static const char with[] = "mamba-ssm's kernels";
	const struct est_refusal rows[] = {
		{ "parallelism.tensor", request->parallelism.tensor > 1 },
		{ "objective", !est_models_language(request) },
	};

	if (!est_model_mixes(model))
		return;
	if (request->versions.causal_conv1d && (model->conv_kernel < WIDTH_MIN || model->conv_kernel > WIDTH_MAX))
		est_fault_add(faults, "/versions/causal_conv1d", EST_CONTRADICTION,
			      "must not be named: its kernels are of widths 2 to 4, and the model's convolutions of %lld",
			      (long long)model->conv_kernel);
	if (!est_kernel_runs_mamba2(request, model))
		return;
	if (!request->versions.causal_conv1d)
		est_fault_add(faults, "/versions/mamba_ssm", EST_CONTRADICTION,
			      "must go with versions.causal_conv1d: mamba-ssm's function for training calls causal-conv1d, and fails without");
	if (request->method == EST_QLORA)
		est_fault_add(faults, "/method", EST_CONTRADICTION,
			      "must not be qlora with mamba-ssm: its function multiplies by the weight of out_proj as it lies, which is packed");
	est_refuse_with(with, rows, sizeof(rows) / sizeof(rows[0]), request, faults);
}
