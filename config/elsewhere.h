/* What fields of a request are called elsewhere: in PEFT's and bitsandbytes' configurations, trainers' files, calculators. */
#ifndef CFG_ELSEWHERE_H
#define CFG_ELSEWHERE_H

#include <stddef.h>

struct cfg_elsewhere_row {
	const char *group;  /* with its dot: "lora."; "": the request itself */
	const char *key;
	const char *field;  /* as est_field_find() knows it */
};

/* Up to the one without key. */
extern const struct cfg_elsewhere_row cfg_elsewhere_rows[];

/* The field that key means in the group, by the rows or as a key of a file that "from" takes; NULL: nobody's. */
const char *cfg_elsewhere_find(const char *group, const char *key);

#endif
