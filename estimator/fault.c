#include "estimator/fault.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *const code_names[EST_FAULT_CODES] = {
	[EST_MISSING] = "missing",
	[EST_UNKNOWN_FIELD] = "unknown_field",
	[EST_WRONG_TYPE] = "wrong_type",
	[EST_OUT_OF_RANGE] = "out_of_range",
	[EST_UNKNOWN_VALUE] = "unknown_value",
	[EST_AMBIGUOUS] = "ambiguous",
	[EST_CONTRADICTION] = "contradiction",
	[EST_NOT_SUPPORTED_YET] = "not_supported_yet",
};

const char *est_fault_code_name(enum est_fault_code code)
{
	return code < EST_FAULT_CODES ? code_names[code] : "";
}

/* What a client sent may be quoted, and goes into answers and logs. */
static void replace_controls(char *text)
{
	for (; *text; text++)
		if ((unsigned char)*text < ' ' || *text == 0x7f)
			*text = '?';
}

void est_text_trim(char *text)
{
	size_t length = strlen(text), begin = length, whole;
	unsigned char lead;

	while (begin > 0 && ((unsigned char)text[begin - 1] & 0xc0) == 0x80)
		begin--;
	if (begin == 0)
		return;
	lead = (unsigned char)text[--begin];
	whole = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : lead >= 0xc0 ? 2 : 1;
	if (length - begin < whole)
		text[begin] = '\0';
}

void est_fault_add(struct est_faults *faults, const char *pointer, enum est_fault_code code,
		   const char *format, ...)
{
	struct est_fault *fault;
	va_list arguments;

	if (faults->count++ >= EST_FAULTS_MAX)
		return;
	fault = &faults->item[faults->count - 1];
	fault->code = code;
	snprintf(fault->pointer, sizeof(fault->pointer), "%s", pointer);
	va_start(arguments, format);
	vsnprintf(fault->detail, sizeof(fault->detail), format, arguments);
	va_end(arguments);
	est_text_trim(fault->detail);
	replace_controls(fault->detail);
}
