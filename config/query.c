#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include "config/read.h"

enum { SEGMENTS_MAX = 8 }; /* model.text_config.rope_scaling.factor has four */

/* One key=value, decoded in place of its own copy. */
struct pair {
	const char *key, *value;
	char pointer[EST_POINTER_MAX]; /* of the key */
	struct est_faults *faults;
};

static int hex_digit(char c)
{
	static const char digits[] = "0123456789abcdef";
	const char *at = c < '0' ? NULL : strchr(digits, c | 0x20);

	return at ? (int)(at - digits) : -1;
}

/* Percent-decodes length bytes into ret (length + 1 bytes), '+' is a space. False on a broken escape or a NUL. */
static bool decode(const char *text, size_t length, char *ret)
{
	size_t i;

	for (i = 0; i < length; i++) {
		int high, low;

		if (text[i] != '%') {
			*ret++ = (char)(text[i] == '+' ? ' ' : text[i]);
			continue;
		}
		if (length - i < 3 || (high = hex_digit(text[i + 1])) < 0 || (low = hex_digit(text[i + 2])) < 0
		    || high + low == 0)
			return false;
		*ret++ = (char)(high << 4 | low);
		i += 2;
	}
	*ret = '\0';
	return true;
}

/* The length bytes at text as the number or boolean that they spell in JSON, else as a string. New reference. */
static json_t *literal(const char *text, size_t length)
{
	json_t *value = NULL;

	if (length && strchr("-0123456789tf", text[0]))
		value = cfg_json_load(text, length, NULL);
	if (value)
		return value;
	return json_stringn(text, length);
}

/* The comma-separated parts of text, each a string or, when they are numbers by kind, a literal. New reference. */
static json_t *split(const char *text, bool numbers)
{
	json_t *list = json_array();
	size_t length;

	for (;; text += length + 1) {
		length = strcspn(text, ",");
		if (json_array_append_new(list, numbers ? literal(text, length) : json_stringn(text, length))) {
			json_decref(list);
			return NULL;
		}
		if (!text[length])
			return list;
	}
}

/* The value by the kind of its field; what does not fit stays text, for the reader to refuse. New reference. */
json_t *cfg_text_value(const struct est_field *field, const char *text)
{
	switch (field ? field->kind : EST_FIELD_INT) {
	case EST_FIELD_WORD:
	case EST_FIELD_VERSION:
	case EST_FIELD_MODEL:
		return json_string(text);
	case EST_FIELD_NAMES:
		if (field->words && est_word_find(field->words, text, strlen(text)))
			return json_string(text);
		return split(text, false);
	case EST_FIELD_WORDS:
	case EST_FIELD_GPUS:
		return split(text, false);
	case EST_FIELD_BYTES:
		return split(text, true);
	default:
		return literal(text, strlen(text));
	}
}

static bool is_list(const struct est_field *field)
{
	return field && (field->kind == EST_FIELD_NAMES || field->kind == EST_FIELD_WORDS
			 || field->kind == EST_FIELD_GPUS || field->kind == EST_FIELD_BYTES);
}

/* Puts value (stolen) at the last segment of the key; a list that is there already grows. */
static void put(json_t *object, const char *segment, const struct est_field *field, json_t *value,
		const struct pair *pair)
{
	json_t *there = json_object_get(object, segment);

	if (!value) {
		est_fault_add(pair->faults, pair->pointer, EST_WRONG_TYPE, "must be UTF-8");
	} else if (!there) {
		json_object_set_new(object, segment, value);
		return;
	} else if (is_list(field) && json_is_array(there) && json_is_array(value)) {
		json_array_extend(there, value);
	} else {
		est_fault_add(pair->faults, pair->pointer, EST_CONTRADICTION, "is given twice");
	}
	json_decref(value);
}

/* The object in parent under segment, made when absent; NULL, with a fault, when something else is there. Borrowed. */
static json_t *enter(json_t *parent, const char *segment, const struct pair *pair)
{
	json_t *child = json_object_get(parent, segment);

	if (!child && !json_object_set_new(parent, segment, json_object()))
		child = json_object_get(parent, segment);
	if (json_is_object(child))
		return child;
	est_fault_add(pair->faults, pair->pointer, EST_CONTRADICTION, "is given both whole and by its members");
	return NULL;
}

/* "lora.rank" -> object.lora.rank, and the pointer that a fault in it has. */
static void place(json_t *object, struct pair *pair)
{
	const struct est_field *field = est_field_find(pair->key);
	const char *rest = pair->key;
	char segment[EST_NAME_MAX];
	int depth;

	for (depth = 0; object && depth < SEGMENTS_MAX; depth++) {
		size_t length = strcspn(rest, ".");

		if (length >= sizeof(segment))
			break;
		snprintf(segment, sizeof(segment), "%.*s", (int)length, rest);
		cfg_pointer_add(pair->pointer, segment);
		if (!rest[length]) {
			put(object, segment, field, cfg_text_value(field, pair->value), pair);
			return;
		}
		object = enter(object, segment, pair);
		rest += length + 1;
	}
	if (object)
		est_fault_add(pair->faults, pair->pointer, EST_UNKNOWN_FIELD, "is not a known field");
}

static bool is_skipped(const char *key, const char *const *skip)
{
	for (; skip && *skip; skip++)
		if (!strcmp(key, *skip))
			return true;
	return false;
}

/* One "key=value" of length bytes; buffer has room for both decoded. */
static void read_pair(json_t *object, const char *text, size_t length, const char *const *skip, char *buffer,
		      struct est_faults *faults)
{
	const char *equals = memchr(text, '=', length);
	size_t key_length = equals ? (size_t)(equals - text) : length;
	char *value = buffer + key_length + 1;
	struct pair pair = { .key = buffer, .value = value, .faults = faults };
	json_t *key;

	value[0] = '\0';
	if (!decode(text, key_length, buffer)
	    || (equals && !decode(equals + 1, length - key_length - 1, value))) {
		est_fault_add(faults, "", EST_WRONG_TYPE, "the query must be percent-encoded text without NUL");
		return;
	}
	if (is_skipped(pair.key, skip))
		return;
	key = json_string(pair.key);
	if (key)
		place(object, &pair);
	else
		est_fault_add(faults, "", EST_WRONG_TYPE, "the query must be UTF-8");
	json_decref(key);
}

json_t *cfg_query_to_json(const char *query, const char *const *skip, struct est_faults *faults)
{
	size_t before = faults->count, length;
	char *buffer = malloc(strlen(query) + 2);
	json_t *object = json_object();

	for (; buffer && object && *query; query += length + (query[length] == '&')) {
		length = strcspn(query, "&");
		if (length)
			read_pair(object, query, length, skip, buffer, faults);
	}
	if (!buffer || !object || faults->count > before || cfg_json_is_short()) {
		json_decref(object);
		object = NULL;
	}
	free(buffer);
	return object;
}

/* Moves the members of from into object, groups one by one. */
static bool merge(json_t *object, json_t *from, const char *pointer, struct est_faults *faults)
{
	const char *key;
	json_t *value;
	bool right = true;

	json_object_foreach(from, key, value) {
		json_t *there = json_object_get(object, key);
		char place[EST_POINTER_MAX];

		snprintf(place, sizeof(place), "%s", pointer);
		cfg_pointer_add(place, key);
		if (json_is_object(there) && json_is_object(value))
			right = merge(there, value, place, faults) && right;
		else if (there && !json_is_null(there)) {
			est_fault_add(faults, place, EST_CONTRADICTION, "is given in the query and in the body");
			right = false;
		} else if (json_object_set(object, key, value))
			right = false;
	}
	return right;
}

bool cfg_query_into(const char *query, const char *const *skip, json_t *body, struct est_faults *faults)
{
	json_t *fields;
	bool right;

	if (!query || !*query)
		return true;
	fields = cfg_query_to_json(query, skip, faults);
	right = fields && (!json_is_object(body) || merge(body, fields, "", faults)) && !cfg_json_is_short();
	json_decref(fields);
	return right;
}
