/* The small query strings of the lists: q, limit and the like. (That of GET /estimate is read by config/.) */
#ifndef SRV_QUERY_H
#define SRV_QUERY_H

#include <stdbool.h>
#include <stddef.h>
#include "estimator/fault.h"

enum { SRV_PARAMETER_MAX = 256 };

struct srv_parameter {
	const char *name;
	bool number;           /* else text */
	bool whole;            /* a number without a fraction */
	double min, max, fallback;
};

struct srv_value {
	bool given;
	double number;         /* fallback when not given */
	char text[SRV_PARAMETER_MAX];
};

/* Decodes length bytes of a query string or path segment ('+' is a space only when plus) into ret (size bytes,
 * NUL-ended). False when it is too long, badly escaped or holds a NUL. */
bool srv_percent_decode(const char *text, size_t length, bool plus, char *ret, size_t size);

/* Reads query (NULL: none) by its parameters into values, one each. "format" is everyone's and passed over. What is
 * unknown, repeated, no number or out of range is a fault at "/name". Whether there was none. */
bool srv_query_read(const char *query, const struct srv_parameter *parameters, size_t count, struct srv_value *values,
		    struct est_faults *faults);

/* The raw value of the first parameter called name: its start, and its length in *ret_length. NULL when absent. */
const char *srv_query_find(const char *query, const char *name, size_t *ret_length);

#endif
