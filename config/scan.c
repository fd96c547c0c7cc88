#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "config/read.h"

/* jansson turns a byte of "[{},{},...]" into 79 and recurses once for each level, so both are bounded before it sees
 * the text. 32 levels hold any request (a batch with a config.json nests 6 deep). */
enum { NESTING_MAX = 32, VALUES_MAX = 131072 };

static _Thread_local bool allocation_failed, loading;

/* While text is read the first failure is made to last: jansson 2.14 goes on after a string lost bytes for want of
 * memory, and runs off the end of its buffer when the closing quote was among them, unless the copy that it makes next
 * fails too. */
static void *allocate(size_t size)
{
	void *memory = loading && allocation_failed ? NULL : malloc(size);

	if (!memory)
		allocation_failed = true;
	return memory;
}

json_t *cfg_json_load(const char *text, size_t length, json_error_t *ret_error)
{
	json_t *value;

	loading = true;
	value = json_loadb(text, length, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, ret_error);
	loading = false;
	if (!allocation_failed)
		return value;
	/* Whatever came out is not to be trusted. */
	json_decref(value);
	return NULL;
}

void cfg_json_init(void)
{
	json_set_alloc_funcs(allocate, free);
	json_object_seed(0);
}

json_t *cfg_json_iterable(const json_t *object)
{
	union { const json_t *given; json_t *iterated; } both = { object };

	return both.iterated;
}

bool cfg_json_out_of_memory(void)
{
	bool failed = allocation_failed;

	allocation_failed = false;
	return failed;
}

bool cfg_json_is_short(void)
{
	return allocation_failed;
}

/* What the scan has seen; whether the text is JSON at all is for jansson to say. */
struct scan {
	size_t nesting, values;
	int line, column;
	bool in_string, escaped, in_word; /* word: a number or a literal */
	bool after_string;                /* a ':' makes the string before it a key, which is no value */
};

static void scan_structure(struct scan *scan, char c)
{
	scan->in_word = false;
	if (c == ':')
		scan->values -= scan->after_string;
	else if (c == '[' || c == '{')
		scan->nesting++;
	else if ((c == ']' || c == '}') && scan->nesting)
		scan->nesting--;
	scan->in_string = c == '"';
	scan->values += c == '[' || c == '{' || c == '"';
	scan->after_string = false;
}

static void scan_string(struct scan *scan, char c)
{
	scan->in_string = scan->escaped || c != '"';
	scan->escaped = c == '\\' && !scan->escaped;
	scan->after_string = !scan->in_string;
}

static void scan_byte(struct scan *scan, char c)
{
	scan->line += c == '\n';
	scan->column = c == '\n' ? 0 : scan->column + 1;
	if (scan->in_string) {
		scan_string(scan, c);
	} else if (c == ' ' || c == '\t' || c == '\n' || c == '\r') {
		scan->in_word = false;
	} else if (c == '[' || c == ']' || c == '{' || c == '}' || c == ':' || c == ',' || c == '"') {
		scan_structure(scan, c);
	} else {
		scan->values += !scan->in_word;
		scan->in_word = true;
	}
}

/* Whether a text is within all bounds without being understood: a level takes a bracket, a value a byte. */
static bool is_small(const char *text, size_t length)
{
	size_t brackets = 0, i;

	if (length > VALUES_MAX || memchr(text, '\0', length))
		return false;
	for (i = 0; i < length; i++)
		brackets += (text[i] | 0x20) == '{'; /* or '[', of which that bit makes the other */
	return brackets <= NESTING_MAX;
}

/* A NUL is refused here: jansson 2.14 overlooks one behind a number. */
static bool scan_text(const char *text, size_t length, char *reason, size_t size)
{
	struct scan scan = { .line = 1 };
	size_t i;

	if (is_small(text, length))
		return true;
	for (i = 0; i < length; i++) {
		scan_byte(&scan, text[i]);
		if (!text[i]) {
			snprintf(reason, size, "line %d, column %d: a NUL character", scan.line, scan.column);
			return false;
		}
		if (scan.nesting > NESTING_MAX || scan.values > VALUES_MAX) {
			if (scan.nesting > NESTING_MAX)
				snprintf(reason, size, "line %d, column %d: nested deeper than %d levels", scan.line,
					 scan.column, NESTING_MAX);
			else
				snprintf(reason, size, "line %d, column %d: more than %d values", scan.line,
					 scan.column, VALUES_MAX);
			return false;
		}
	}
	return true;
}

/* jansson's own text quotes the input, which must not come back to the client. */
static const char *error_words(enum json_error_code code)
{
	switch (code) {
	case json_error_stack_overflow:
		return "nested too deep";
	case json_error_premature_end_of_input:
		return "the text ends too early";
	case json_error_end_of_input_expected:
		return "more text after the end of the value";
	case json_error_invalid_utf8:
		return "not UTF-8";
	case json_error_null_character:
	case json_error_null_byte_in_key:
		return "a NUL character in a string";
	case json_error_duplicate_key:
		return "an object has the same key twice";
	case json_error_numeric_overflow:
		return "a number too large to hold";
	default:
		return "not JSON";
	}
}

json_t *cfg_parse_json(const char *text, size_t length, char *reason, size_t size, bool *ret_no_memory)
{
	json_error_t error;
	json_t *value;

	*ret_no_memory = false;
	if (!scan_text(text, length, reason, size))
		return NULL;
	cfg_json_out_of_memory();
	value = cfg_json_load(text, length, &error);
	*ret_no_memory = cfg_json_out_of_memory();
	if (*ret_no_memory)
		snprintf(reason, size, "out of memory");
	else if (!value)
		snprintf(reason, size, "line %d, column %d: %s", error.line, error.column,
			 error_words(json_error_code(&error)));
	return value;
}
