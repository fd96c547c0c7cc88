#include "server/query.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int hex_value(char digit)
{
	if (digit >= '0' && digit <= '9')
		return digit - '0';
	digit = (char)(digit | 0x20);
	return digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

bool srv_percent_decode(const char *text, size_t length, bool plus, char *ret, size_t size)
{
	size_t used = 0;

	for (size_t i = 0; i < length; i++) {
		int byte = text[i];

		if (byte == '%') {
			int high = i + 2 < length ? hex_value(text[i + 1]) : -1;
			int low = i + 2 < length ? hex_value(text[i + 2]) : -1;

			if (high < 0 || low < 0)
				return false;
			byte = 16 * high + low;
			i += 2;
		} else if (byte == '+' && plus) {
			byte = ' ';
		}
		if (!byte || used + 1 >= size)
			return false;
		ret[used++] = (char)byte;
	}
	ret[used] = '\0';
	return true;
}

/* One "name=value" of a query string. */
struct pair {
	const char *name, *value;
	size_t name_length, value_length;
};

static bool next_pair(const char **cursor, struct pair *ret)
{
	const char *text = *cursor + strspn(*cursor, "&");
	size_t length = strcspn(text, "&"), name = strcspn(text, "=&");

	if (!length)
		return false;
	ret->name = text;
	ret->name_length = name;
	ret->value = name < length ? text + name + 1 : text + length;
	ret->value_length = name < length ? length - name - 1 : 0;
	*cursor = text + length;
	return true;
}

static bool is_called(const struct pair *pair, const char *name)
{
	return strlen(name) == pair->name_length && !memcmp(name, pair->name, pair->name_length);
}

const char *srv_query_find(const char *query, const char *name, size_t *ret_length)
{
	struct pair pair;

	while (query && next_pair(&query, &pair)) {
		if (!is_called(&pair, name))
			continue;
		*ret_length = pair.value_length;
		return pair.value;
	}
	return NULL;
}

/* "/name" as a JSON pointer: '~' and '/' escaped, what does not fit cut off. */
static void make_pointer(const struct pair *pair, char *ret, size_t size)
{
	char name[SRV_PARAMETER_MAX];
	size_t used = 0;

	if (!srv_percent_decode(pair->name, pair->name_length, true, name, sizeof name))
		snprintf(name, sizeof name, "%.*s", (int)(pair->name_length < 64 ? pair->name_length : 64), pair->name);
	ret[used++] = '/';
	for (const char *at = name; *at && used + 3 < size; at++) {
		if (*at == '~' || *at == '/') {
			ret[used++] = '~';
			ret[used++] = *at == '~' ? '0' : '1';
		} else {
			ret[used++] = *at;
		}
	}
	ret[used] = '\0';
}

static void read_number(const struct srv_parameter *parameter, const char *pointer, struct srv_value *value,
			struct est_faults *faults)
{
	char *end;
	double number = strtod(value->text, &end);

	if (!*value->text || *end || strspn(value->text, "0123456789.eE+-") != strlen(value->text))
		est_fault_add(faults, pointer, EST_WRONG_TYPE, "must be a number");
	else if (!(number >= parameter->min && number <= parameter->max)
		 || (parameter->whole && number != (double)(long)number))
		est_fault_add(faults, pointer, EST_OUT_OF_RANGE, "must be a %snumber from %.15g to %.15g",
			      parameter->whole ? "whole " : "", parameter->min, parameter->max);
	else
		value->number = number;
}

static void read_pair(const struct pair *pair, const struct srv_parameter *parameter, struct srv_value *value,
		      struct est_faults *faults)
{
	char pointer[EST_POINTER_MAX];

	make_pointer(pair, pointer, sizeof pointer);
	if (!parameter)
		est_fault_add(faults, pointer, EST_UNKNOWN_FIELD, "is not a known parameter");
	else if (value->given)
		est_fault_add(faults, pointer, EST_CONTRADICTION, "must not be given twice");
	else if (!srv_percent_decode(pair->value, pair->value_length, true, value->text, sizeof value->text))
		est_fault_add(faults, pointer, EST_WRONG_TYPE,
			      "must be properly percent-encoded text of at most %d bytes", SRV_PARAMETER_MAX - 1);
	else if (parameter->number)
		read_number(parameter, pointer, value, faults);
	if (parameter)
		value->given = true;
}

bool srv_query_read(const char *query, const struct srv_parameter *parameters, size_t count, struct srv_value *values,
		    struct est_faults *faults)
{
	struct pair pair;

	for (size_t i = 0; i < count; i++) {
		values[i].given = false;
		values[i].text[0] = '\0';
		values[i].number = parameters[i].fallback;
	}
	while (query && next_pair(&query, &pair)) {
		size_t i = 0;

		if (is_called(&pair, "format"))
			continue;
		while (i < count && !is_called(&pair, parameters[i].name))
			i++;
		read_pair(&pair, i < count ? &parameters[i] : NULL, i < count ? &values[i] : NULL, faults);
	}
	return !faults->count;
}
