#include "estimator/fault.h"

#include <stdarg.h>
#include <stdio.h>

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
}
