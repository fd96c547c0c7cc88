#include "tests/fuzz/fuzz.h"
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "config/limits.h"
#include "estimator/fields.h"
#include "tests/rules.h"

const char *fuzz_directory(void)
{
	static char directory[4096];
	const char *source = getenv("VRAMCAST_SOURCE");

	snprintf(directory, sizeof(directory), "%s/config", source ? source : ".");
	return directory;
}

const struct cfg_catalog *fuzz_catalog(void)
{
	static struct cfg_catalog *catalog;
	char error[512];

	if (catalog)
		return catalog;
	cfg_json_init();
	catalog = cfg_catalog_create(fuzz_directory(), error, sizeof(error));
	fuzz_require(catalog != NULL, "%s", error);
	return catalog;
}

struct est_arena *fuzz_arena(void)
{
	static struct est_arena arena;
	size_t size = est_arena_size(FUZZ_CARDS) + cfg_limits_arena_size(FUZZ_CARDS);

	if (!arena.base)
		est_arena_init(&arena, malloc(size), size);
	fuzz_require(arena.base != NULL, "memory is short");
	est_arena_init(&arena, arena.base, size);
	return &arena;
}

void fuzz_require(bool holds, const char *format, ...)
{
	va_list arguments;

	if (holds)
		return;
	va_start(arguments, format);
	fflush(stdout);
	fprintf(stderr, "broken: ");
	vfprintf(stderr, format, arguments);
	fprintf(stderr, "\n");
	va_end(arguments);
	abort();
}

/* Whether text may stand in an answer: UTF-8, without control characters, not empty. */
static bool is_fit(const char *text)
{
	json_t *string = json_string(text);

	json_decref(string);
	for (const char *at = text; *at; at++)
		if ((unsigned char)*at < ' ')
			return false;
	return string && *text;
}

json_t *fuzz_parse(const uint8_t *data, size_t size)
{
	char *text = malloc(size ? size : 1); /* so that a sanitizer sees what is read behind its end */
	char reason[160] = "";
	bool no_memory = true;
	json_t *value;

	fuzz_catalog();
	fuzz_require(text != NULL, "memory is short");
	memcpy(text, data, size);
	value = cfg_parse_json(text, size, reason, sizeof(reason), &no_memory);
	fuzz_require(!no_memory, "memory is said to be short");
	fuzz_require(value || is_fit(reason), "the reason for refusing a text: %s", reason);
	free(text);
	return value;
}

void fuzz_check_faults(const struct est_faults *faults)
{
	size_t listed = faults->count < EST_FAULTS_MAX ? faults->count : EST_FAULTS_MAX;

	fuzz_require(listed > 0, "what is refused has a fault");
	for (size_t i = 0; i < listed; i++) {
		const struct est_fault *fault = &faults->item[i];
		json_t *pointer = json_string(fault->pointer);

		fuzz_require(pointer && (!fault->pointer[0] || fault->pointer[0] == '/'), "a pointer: %s", fault->pointer);
		fuzz_require(is_fit(fault->detail), "a detail: %s", fault->detail);
		json_decref(pointer);
	}
}

static bool is_word(const struct est_word *words, double value)
{
	for (; words && words->name; words++)
		if (words->value == value)
			return true;
	return false;
}

static bool is_in_range(const struct est_field *field, const struct est_request *request)
{
	double value = est_field_get(field, request);

	if (field->kind == EST_FIELD_WORD || is_word(field->words, value))
		return is_word(field->words, value);
	if (field->kind != EST_FIELD_INT && field->kind != EST_FIELD_REAL)
		return true;
	return value >= field->min && value <= field->max && (field->kind == EST_FIELD_REAL || value == floor(value));
}

void fuzz_check_request(const struct cfg_request *request)
{
	for (size_t i = 0; i < est_request_field_count; i++)
		if (est_field_is_named(&est_request_fields[i], &request->request))
			fuzz_require(is_in_range(&est_request_fields[i], &request->request), "%s is out of its range",
				     est_request_fields[i].name);
	fuzz_require(request->card_count > 0 && request->card_count <= CFG_CARDS_MAX, "there are cards to judge");
	for (size_t i = 0; i < request->card_count; i++)
		fuzz_require(request->cards[i] != NULL, "card %zu is one", i);
}

bool fuzz_read(const json_t *body, struct cfg_request *ret)
{
	static struct est_faults faults;
	bool right;

	faults.count = 0;
	right = cfg_read_request(body, "", fuzz_catalog(), ret, &faults);
	fuzz_require(!cfg_json_out_of_memory(), "memory is said to be short");
	fuzz_require(right == !faults.count, "a request is refused with a fault, or has none");
	if (right)
		fuzz_check_request(ret);
	else
		fuzz_check_faults(&faults);
	return right;
}

void fuzz_tell(const struct cfg_request *request)
{
	if (getenv("VRAMCAST_VERBOSE"))
		rule_print(request);
}

void fuzz_estimate(const struct cfg_request *request)
{
	static struct est_report report;
	struct est_arena *arena = fuzz_arena();
	size_t cards = request->card_count < FUZZ_CARDS ? request->card_count : FUZZ_CARDS;
	const char *rule = "the arena is large enough";

	fuzz_tell(request);
	if (est_run(&request->request, &request->model, request->cards, cards, arena, &report))
		rule = rule_of_report(&request->request, &report);
	if (rule)
		rule_print(request);
	fuzz_require(!rule, "%s", rule);
}
