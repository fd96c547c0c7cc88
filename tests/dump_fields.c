/* Prints the tables that the description has to equal, as one JSON object: "request" is the field table as JSON Schema
 * (nested as on the wire), "words" the lists of words of an answer, "routes" and "problems" the server's tables.
 * tests/drift.py compares. */
#include <assert.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "config/config.h"
#include "estimator/fields.h"
#include "server/problem.h"
#include "server/routes.h"

enum { EVERY_N_LAYERS_MAX = 65536 }; /* config/values.c */

static json_t *number(double value)
{
	return value == floor(value) && fabs(value) < 9007199254740992.0 ? json_integer((json_int_t)value)
									 : json_real(value);
}

/* Takes over value. */
static void put(json_t *object, const char *key, json_t *value)
{
	int failed = json_object_set_new(object, key, value);

	assert(!failed);
	(void)failed;
}

static json_t *typed(const char *type)
{
	json_t *schema = json_object();

	put(schema, "type", json_string(type));
	return schema;
}

/* A string that is one of words, aliases among them. */
static json_t *one_word(const struct est_word *words)
{
	json_t *schema = typed("string"), *list = json_array();

	for (; words->name; words++)
		json_array_append_new(list, json_string(words->name));
	put(schema, "enum", list);
	return schema;
}

/* A list of items (taken over), of least to most of them; 0: any number. */
static json_t *list_of(json_t *items, int least, int most)
{
	json_t *schema = typed("array");

	put(schema, "items", items);
	if (least)
		put(schema, "minItems", json_integer(least));
	if (most)
		put(schema, "maxItems", json_integer(most));
	return schema;
}

/* Takes over both. */
static json_t *either(json_t *a, json_t *b)
{
	json_t *schema = json_object(), *list = json_array();

	json_array_append_new(list, a);
	json_array_append_new(list, b);
	put(schema, "oneOf", list);
	return schema;
}

static json_t *ranged(const char *type, const struct est_field *field)
{
	json_t *schema = typed(type);

	put(schema, "minimum", number(field->min));
	if (isfinite(field->max))
		put(schema, "maximum", number(field->max));
	if (field->step > 1)
		put(schema, "multipleOf", number((double)field->step));
	return schema;
}

/* {key: value}, and nothing besides. Takes over value. */
static json_t *only(const char *key, json_t *value)
{
	json_t *schema = typed("object"), *properties = json_object();

	put(properties, key, value);
	put(schema, "properties", properties);
	put(schema, "required", json_pack("[s]", key));
	put(schema, "additionalProperties", json_false());
	return schema;
}

static json_t *checkpointing(const struct est_field *field)
{
	json_t *count = typed("integer"), *objects, *words = either(typed("boolean"), one_word(field->words));

	put(count, "minimum", json_integer(1));
	put(count, "maximum", json_integer(EVERY_N_LAYERS_MAX));
	objects = either(only("every_n_layers", count), only("selective", one_word(est_selective_words)));
	json_array_extend(json_object_get(words, "oneOf"), json_object_get(objects, "oneOf"));
	json_decref(objects);
	return words;
}

static json_t *names(void)
{
	json_t *schema = typed("string");

	put(schema, "minLength", json_integer(1));
	put(schema, "maxLength", json_integer(EST_NAME_MAX - 1));
	return list_of(schema, 0, EST_NAMES_MAX);
}

static json_t *version(void)
{
	json_t *schema = typed("string");

	put(schema, "pattern", json_string("^[0-9]{1,3}([.][0-9]{1,3})?([.+].*)?$"));
	return schema;
}

static json_t *schema_of(const struct est_field *field)
{
	switch (field->kind) {
	case EST_FIELD_BOOL:
		return typed("boolean");
	case EST_FIELD_INT:
		return field->words ? either(ranged("integer", field), one_word(field->words)) : ranged("integer", field);
	case EST_FIELD_REAL:
		return ranged("number", field);
	case EST_FIELD_WORD:
		return one_word(field->words);
	case EST_FIELD_WORDS:
		return list_of(one_word(field->words), 0, 0);
	case EST_FIELD_NAMES:
		return field->words ? either(one_word(field->words), names()) : names();
	case EST_FIELD_VERSION:
		return version();
	case EST_FIELD_CHECKPOINTING:
		return checkpointing(field);
	case EST_FIELD_MODEL:
		return either(typed("string"), typed("object"));
	case EST_FIELD_GPUS:
		return either(typed("string"), list_of(typed("string"), 1, CFG_CARDS_MAX - CFG_SIZES_MAX));
	case EST_FIELD_BYTES:
		return list_of(ranged("integer", field), 1, CFG_SIZES_MAX);
	case EST_FIELD_FILE:
		return typed("object");
	}
	return NULL;
}

static json_t *set_words(const struct est_word *words, unsigned bits)
{
	json_t *list = json_array();

	for (; words->name; words++)
		if (bits & (unsigned)words->value)
			json_array_append_new(list, json_string(words->name));
	return list;
}

/* What the field is when absent; NULL when that is no value of the wire (not named is a state of its own). */
static json_t *default_of(const struct est_field *field)
{
	switch (field->kind) {
	case EST_FIELD_BOOL:
		return json_boolean(field->fallback != 0);
	case EST_FIELD_INT:
	case EST_FIELD_REAL:
		if (field->words && *est_word_name(field->words, (int)field->fallback))
			return json_string(est_word_name(field->words, (int)field->fallback));
		return field->fallback < field->min ? NULL : number(field->fallback);
	case EST_FIELD_WORD:
		return json_string(est_word_name(field->words, (int)field->fallback));
	case EST_FIELD_WORDS:
		return set_words(field->words, (unsigned)field->fallback);
	case EST_FIELD_NAMES:
		return field->fallback != 0 ? json_string(est_word_name(field->words, 1)) : json_array();
	case EST_FIELD_CHECKPOINTING:
		return json_boolean(field->fallback != EST_CHECKPOINT_NONE);
	default:
		return NULL;
	}
}

/* The object that holds name's last part, made on the way down; *ret_last is that part. */
static json_t *parent_of(json_t *schema, const char *dotted, const char **ret_last)
{
	const char *dot;

	for (; (dot = strchr(dotted, '.')); dotted = dot + 1) {
		json_t *properties = json_object_get(schema, "properties");
		json_t *group = json_object_getn(properties, dotted, (size_t)(dot - dotted));

		if (!group) {
			group = typed("object");
			put(group, "additionalProperties", json_false());
			put(group, "properties", json_object());
			json_object_setn_new(properties, dotted, (size_t)(dot - dotted), group);
		}
		schema = group;
	}
	*ret_last = dotted;
	return schema;
}

/* A word that numbers of a group know may stand for the group as a whole ("buckets": "auto"). */
static void let_word_in(json_t *group, const struct est_field *field)
{
	char pattern[32];

	if (field->kind != EST_FIELD_INT || !field->words)
		return;
	snprintf(pattern, sizeof(pattern), "^%s$", field->words->name);
	put(group, "type", json_pack("[s, s]", "object", "string"));
	put(group, "pattern", json_string(pattern));
}

static void add_field(json_t *request, const struct est_field *field)
{
	const char *last;
	json_t *parent = parent_of(request, field->name, &last), *schema = schema_of(field), *otherwise = default_of(field);

	if (otherwise)
		put(schema, "default", otherwise);
	if (field->by_framework)
		put(schema, "x-default-depends", json_true());
	put(schema, "description", json_string(field->doc));
	put(json_object_get(parent, "properties"), last, schema);
	let_word_in(parent, field);
	if (field->required) {
		if (!json_object_get(parent, "required"))
			put(parent, "required", json_array());
		json_array_append_new(json_object_get(parent, "required"), json_string(last));
	}
}

static json_t *dump_request(void)
{
	json_t *request = typed("object");
	size_t i;

	put(request, "additionalProperties", json_false());
	put(request, "properties", json_object());
	for (i = 0; i < est_request_field_count; i++)
		add_field(request, &est_request_fields[i]);
	return request;
}

static json_t *dump_words(void)
{
	json_t *words = json_object(), *phases = json_array(), *categories = json_array(), *verdicts = json_array(),
	       *codes = json_array();
	int i;

	for (i = 0; i < EST_PHASES; i++)
		json_array_append_new(phases, json_string(est_phase_name((enum est_phase)i)));
	for (i = 0; i < EST_CATEGORIES; i++)
		json_array_append_new(categories, json_string(est_category_name((enum est_category)i)));
	for (i = EST_FITS; i <= EST_UNSUPPORTED; i++)
		json_array_append_new(verdicts, json_string(est_verdict_name((enum est_verdict)i)));
	for (i = 0; i < EST_FAULT_CODES; i++)
		json_array_append_new(codes, json_string(est_fault_code_name((enum est_fault_code)i)));
	put(words, "phase", phases);
	put(words, "category", categories);
	put(words, "verdict", verdicts);
	put(words, "code", codes);
	return words;
}

static json_t *dump_routes(void)
{
	json_t *routes = json_array();
	const char *method, *path;
	size_t i;

	for (i = 0; srv_route_row(i, &method, &path); i++)
		json_array_append_new(routes, json_pack("{s:s, s:s}", "method", method, "path", path));
	return routes;
}

static json_t *dump_problems(void)
{
	json_t *problems = json_array();
	int i;

	for (i = SRV_OK + 1; i < SRV_PROBLEMS; i++) {
		const struct srv_problem_row *row = srv_problem_row((enum srv_problem)i);

		json_array_append_new(problems, json_pack("{s:s+, s:i, s:s}", "type", "urn:vramcast:problem:", row->name,
							  "status", row->status, "title", row->title));
	}
	return problems;
}

int main(void)
{
	json_t *tables = json_object();
	int failed;

	put(tables, "request", dump_request());
	put(tables, "words", dump_words());
	put(tables, "routes", dump_routes());
	put(tables, "problems", dump_problems());
	failed = json_dumpf(tables, stdout, JSON_INDENT(2)) || putchar('\n') == EOF;
	json_decref(tables);
	return failed;
}
