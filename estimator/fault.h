/* What is wrong with a request: a caller-owned, bounded list that is filled and never raised. */
#ifndef EST_FAULT_H
#define EST_FAULT_H

#include <stddef.h>

enum { EST_FAULTS_MAX = 64, EST_POINTER_MAX = 256, EST_DETAIL_MAX = 256 };

/* Machine-readable reasons; est_fault_code_name() spells them as on the wire. */
enum est_fault_code {
	EST_MISSING,          /* missing: a required field is absent */
	EST_UNKNOWN_FIELD,    /* unknown_field */
	EST_WRONG_TYPE,       /* wrong_type */
	EST_OUT_OF_RANGE,     /* out_of_range */
	EST_UNKNOWN_VALUE,    /* unknown_value: not one of the words, no such preset or card */
	EST_AMBIGUOUS,        /* ambiguous: an alias that names several rows */
	EST_CONTRADICTION,    /* contradiction: fields that exclude each other */
	EST_NOT_SUPPORTED_YET, /* not_supported_yet: in the contract, not modelled so far */
	EST_FAULT_CODES
};

struct est_fault {
	char pointer[EST_POINTER_MAX]; /* RFC 6901, of the value at fault; "" is the whole body */
	enum est_fault_code code;
	char detail[EST_DETAIL_MAX];   /* lower case, one sentence without the full stop */
};

struct est_faults {
	size_t count;                  /* true count, may exceed EST_FAULTS_MAX */
	struct est_fault item[EST_FAULTS_MAX];
};

/* Takes away the beginning of a character of UTF-8 that the text was cut within. */
void est_text_trim(char *text);

const char *est_fault_code_name(enum est_fault_code code);

/* Appends a fault; beyond EST_FAULTS_MAX it only counts. pointer is taken as it is (already escaped), control characters
 * of the detail are replaced. */
void est_fault_add(struct est_faults *faults, const char *pointer, enum est_fault_code code,
		   const char *format, ...) __attribute__((format(printf, 4, 5)));

#endif
