/* A query string, as it comes, to a checked request. What is accepted reads as the same when it is written as a
 * query again. */
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "estimator/fields.h"
#include "tests/fuzz/fuzz.h"

enum { QUERY_MAX = 1 << 16, VALUE_MAX = 4096 };

static const char *const not_fields[] = { "format", NULL };

static json_t *read_query(const char *query)
{
	static struct est_faults faults;
	json_t *body;

	faults.count = 0;
	body = cfg_query_to_json(query, not_fields, &faults);
	fuzz_require(!cfg_json_out_of_memory(), "memory is said to be short");
	fuzz_require(!body == (faults.count > 0), "a query is refused with a fault, or has none");
	if (!body)
		fuzz_check_faults(&faults);
	return body;
}

static size_t add_encoded(char *query, size_t used, const char *text)
{
	for (; *text && used + 4 < QUERY_MAX; text++)
		used += (size_t)snprintf(query + used, QUERY_MAX - used, isalnum((unsigned char)*text) ? "%c" : "%%%02X",
					 (unsigned char)*text);
	return used;
}

/* The fields that request names, and its model, as a query. "selective op" of gradient_checkpointing is its
 * selective=op. */
static void write_query(const struct cfg_request *request, const char *model, char query[QUERY_MAX])
{
	static char value[VALUE_MAX];
	size_t used = (size_t)snprintf(query, QUERY_MAX, "model=");
	char *text;

	used = add_encoded(query, used, model);
	for (size_t i = 0; i < est_request_field_count; i++) {
		const struct est_field *field = &est_request_fields[i];

		if (!est_field_is_named(field, &request->request) || field->kind >= EST_FIELD_MODEL)
			continue;
		est_field_text(field, &request->request, value, sizeof(value));
		text = strchr(value, ' ');
		if (text)
			*text = '\0';
		used += (size_t)snprintf(query + used, QUERY_MAX - used, text ? "&%s.%s=" : "&%s=", field->name, value);
		used = add_encoded(query, used, text ? text + 1 : value);
	}
}

/* Text has six digits of what is no whole number. */
static bool is_same(double a, double b)
{
	return a == b || fabs(a - b) <= 1e-5 * fabs(a);
}

static void check_round(const struct cfg_request *request, const char *model)
{
	static struct cfg_request again;
	static char query[QUERY_MAX];
	json_t *body;

	write_query(request, model, query);
	body = read_query(query);
	fuzz_require(body && fuzz_read(body, &again), "what was read is a query: %s", query);
	for (size_t i = 0; i < est_request_field_count; i++) {
		const struct est_field *field = &est_request_fields[i];

		if (field->kind < EST_FIELD_MODEL)
			fuzz_require(is_same(est_field_get(field, &request->request), est_field_get(field, &again.request)),
				     "%s stays what it was: %s", field->name, query);
	}
	json_decref(body);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct cfg_request request;
	char *query;
	json_t *body;

	if (memchr(data, '\0', size)) /* HTTP lets none through */
		return 0;
	fuzz_catalog();
	query = strndup((const char *)data, size);
	fuzz_require(query != NULL, "memory is short");
	body = read_query(query);
	if (body && fuzz_read(body, &request) && json_is_string(json_object_get(body, "model")))
		check_round(&request, json_string_value(json_object_get(body, "model")));
	json_decref(body);
	free(query);
	return 0;
}
