#include "config/read.h"

/* What is modelled when no version is named. */
static const char newest[] = "torch 2.13, transformers 5.23, peft 0.21";

static bool names_versions(const struct est_request *request)
{
	const struct est_versions *versions = &request->versions;

	return versions->torch || versions->transformers || versions->peft || versions->trl || versions->accelerate
		|| versions->bitsandbytes || versions->deepspeed;
}

/* Whether the field says what is trained and how, so that an absent one is an assumption about the run. */
static bool is_assumed(const struct est_field *field, const struct est_request *request)
{
	return !field->required && !est_field_is_named(field, request) && est_field_applies(field, request, NULL);
}

void cfg_note_assumptions(const struct est_request *request, const struct cfg_reasons *reasons,
			  struct est_notes *notes)
{
	size_t i;

	for (i = 0; i < est_request_field_count; i++) {
		const struct est_field *field = &est_request_fields[i];
		char value[EST_NOTE_VALUE_MAX];

		if (is_assumed(field, request))
			est_note_add(notes, field->pointer,
				     est_field_text(field, request, value, sizeof(value)), "not named: %s",
				     reasons->text[i] ? reasons->text[i] : "the default");
	}
	if (!names_versions(request))
		est_note_add(notes, "/versions", newest, "not named: the newest that is modelled");
}
