#include <string.h>
#include "config/read.h"
#include "estimator/generation.h"

/* The versions whose code is modelled. Packages of kernels that are not named are not there, whatever else is. */
static const struct {
	const char *field;
	int64_t version;
	const char *text;
	bool kernels;
} modelled[] = {
	{ "versions.torch", 2013, "2.13", false },
	{ "versions.transformers", 5023, "5.23", false },
	{ "versions.peft", 21, "0.21", false },
	{ "versions.trl", 1016, "1.16", false },
	{ "versions.accelerate", 1015, "1.15", false },
	{ "versions.bitsandbytes", 50, "0.50", false },
	{ "versions.deepspeed", 19, "0.19", false },
	{ "versions.flash_linear_attention", 6, "0.6", true },
	{ "versions.causal_conv1d", 1007, "1.7", true },
	{ "versions.mamba_ssm", 2003, "2.3", true },
};
enum { MODELLED = sizeof(modelled) / sizeof(modelled[0]) };
static const char newest[] = "torch 2.13, transformers 5.23, peft 0.21";

static bool is_kernels(const struct est_field *field)
{
	for (size_t i = 0; i < MODELLED; i++)
		if (!strcmp(field->name, modelled[i].field))
			return modelled[i].kernels;
	return false;
}

/* kernels: those of packages of kernels too */
static bool names_versions(const struct est_request *request, bool kernels)
{
	const struct est_field *field;
	size_t at = 0;

	while ((field = est_next_named(request, &at)))
		if (field->kind == EST_FIELD_VERSION && (kernels || !is_kernels(field)))
			return true;
	return false;
}

/* Modelled by itself, or refused. */
static bool is_old_generation(const struct est_request *request)
{
	return request->accounting == EST_REPLAY && est_is_old_transformers(&request->versions);
}

void cfg_warn_of_versions(const struct est_request *request, struct est_notes *warnings)
{
	size_t i;

	if (!names_versions(request, true))
		return;
	for (i = 0; i < MODELLED; i++) {
		const struct est_field *field = est_field_find(modelled[i].field);
		int64_t version = (int64_t)est_field_get(field, request);
		char value[EST_NOTE_VALUE_MAX];

		if (version == request->versions.transformers && is_old_generation(request))
			continue;
		if (est_field_is_named(field, request) && version != modelled[i].version)
			est_note_add(warnings, field->pointer, est_field_text(field, request, value, sizeof(value)),
				     "%s than %s, which is modelled", version < modelled[i].version ? "older" : "newer",
				     modelled[i].text);
	}
}

/* Whether the field says what is trained and how, so that an absent one is an assumption about the run. */
static bool is_assumed(const struct est_field *field, const struct est_request *request)
{
	return !field->required && !est_field_is_named(field, request) && est_field_applies(field, request, NULL);
}

static void note_generation(const struct est_request *request, struct est_notes *notes)
{
	const struct est_field *field = est_field_find("versions.transformers");
	char value[EST_NOTE_VALUE_MAX];

	est_note_add(notes, field->pointer, est_field_text(field, request, value, sizeof(value)),
		     "modelled as that release is: its loss %s, its sdpa %s k and v",
		     est_shifts_logits(&request->versions) ? "copies shifted logits" : "pads labels",
		     est_repeats_for_sdpa(&request->versions) ? "repeats" : "does not repeat");
}

/* reason: why it is that value; NULL: it always is. Without printf(): most fields of most requests are not named. */
static void note_default(const struct est_request *request, const struct est_field *field, const char *reason,
			 struct est_notes *notes)
{
	static const char unnamed[] = "not named: the default";
	enum { PREFIX = sizeof("not named: ") - 1 };
	struct est_note *note = est_note_begin(notes, field->pointer);

	if (!note)
		return;
	est_field_text(field, request, note->value, sizeof(note->value));
	memcpy(note->detail, unnamed, sizeof(unnamed));
	if (reason)
		est_copy_text(note->detail + PREFIX, sizeof(note->detail) - PREFIX, reason);
}

void cfg_note_assumptions(const struct est_request *request, const struct cfg_reasons *reasons,
			  struct est_notes *notes)
{
	size_t i;

	for (i = 0; i < est_request_field_count; i++)
		if (is_assumed(&est_request_fields[i], request))
			note_default(request, &est_request_fields[i], reasons->text[i], notes);
	if (is_old_generation(request))
		note_generation(request, notes);
	if (!names_versions(request, false) && request->framework != EST_MLX) /* of which a note says the release */
		est_note_add(notes, "/versions", newest, "not named: the newest that is modelled");
}
