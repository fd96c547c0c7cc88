/* What tests over the shipped catalogue share: the catalogue, as a fixture, and requests that are written with ' for
 * ". */
#ifndef TESTS_CATALOG_H
#define TESTS_CATALOG_H

#include <check.h>
#include <string.h>
#include "tests/source.h"

static struct cfg_catalog *catalog;

static inline void open_catalog(void)
{
	catalog = shipped_catalog();
}

static inline void close_catalog(void)
{
	cfg_catalog_destroy(catalog);
}

/* New reference. */
static inline json_t *parse_quoted(const char *text)
{
	char json[4096], reason[160];
	size_t length = strlen(text);
	bool no_memory;
	json_t *value;

	ck_assert_uint_lt(length, sizeof(json));
	for (size_t i = 0; i < length; i++)
		json[i] = (char)(text[i] == '\'' ? '"' : text[i]);
	value = cfg_parse_json(json, length, reason, sizeof(reason), &no_memory);
	ck_assert_msg(value != NULL, "%s: %s", text, reason);
	return value;
}

#endif
