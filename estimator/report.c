#include "estimator/report.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include "estimator/words.h"

static const char *const category_names[EST_CATEGORIES] = {
	[EST_WEIGHTS] = "weights",
	[EST_GRADIENTS] = "gradients",
	[EST_OPTIMIZER] = "optimizer",
	[EST_ACTIVATIONS] = "activations",
	[EST_BUFFERS] = "buffers",
	[EST_WORKSPACE] = "workspace",
};

static const char *const phase_names[EST_PHASES] = {
	[EST_PHASE_LOAD] = "load",
	[EST_PHASE_FORWARD] = "forward",
	[EST_PHASE_LOSS_FORWARD] = "loss_forward",
	[EST_PHASE_LOSS_BACKWARD] = "loss_backward",
	[EST_PHASE_BACKWARD] = "backward",
	[EST_PHASE_OPTIMIZER_STEP] = "optimizer_step",
};

static const char *const rank_kind_names[] = {
	[EST_ANY_RANK] = "any_rank",
	[EST_FIRST_STAGE] = "first_pipeline_stage",
	[EST_MIDDLE_STAGE] = "middle_pipeline_stage",
	[EST_LAST_STAGE] = "last_pipeline_stage",
};

static const char *const verdict_names[] = {
	[EST_FITS] = "fits",
	[EST_TIGHT] = "tight",
	[EST_DOES_NOT_FIT] = "does_not_fit",
	[EST_UNSUPPORTED] = "unsupported",
};

const char *est_category_name(enum est_category category)
{
	return category < EST_CATEGORIES ? category_names[category] : "";
}

const char *est_phase_name(enum est_phase phase)
{
	return phase < EST_PHASES ? phase_names[phase] : "";
}

const char *est_verdict_name(enum est_verdict verdict)
{
	return verdict <= EST_UNSUPPORTED ? verdict_names[verdict] : "";
}

const char *est_rank_kind_name(enum est_rank_kind kind)
{
	return kind <= EST_LAST_STAGE ? rank_kind_names[kind] : "";
}

void est_report_init(struct est_report *ret_report)
{
	memset(ret_report, 0, offsetof(struct est_report, assumptions));
	ret_report->assumptions.count = ret_report->warnings.count = 0;
}

struct est_note *est_note_begin(struct est_notes *notes, const char *pointer)
{
	struct est_note *note = notes->count < EST_NOTES_MAX ? &notes->item[notes->count++] : NULL;

	if (note)
		note->pointer = pointer;
	return note;
}

void est_note_add(struct est_notes *notes, const char *pointer, const char *value, const char *format, ...)
{
	struct est_note *note = est_note_begin(notes, pointer);
	va_list arguments;

	if (!note)
		return;
	est_copy_text(note->value, sizeof(note->value), value);
	va_start(arguments, format);
	vsnprintf(note->detail, sizeof(note->detail), format, arguments);
	va_end(arguments);
}
