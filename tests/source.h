/* Where the project's sources lie, for programs that are not installed, and the catalogue among them. */
#ifndef TESTS_SOURCE_H
#define TESTS_SOURCE_H

#include <stdio.h>
#include <stdlib.h>
#include "config/config.h"

static inline const char *source_root(void)
{
	const char *root = getenv("VRAMCAST_SOURCE");

	return root ? root : ".";
}

/* To be destroyed by the caller. Without it nothing can be tested: says why, and ends the program. */
static inline struct cfg_catalog *shipped_catalog(void)
{
	char directory[4096], error[512];
	struct cfg_catalog *catalog;

	snprintf(directory, sizeof(directory), "%s/config", source_root());
	catalog = cfg_catalog_create(directory, error, sizeof(error));
	if (catalog)
		return catalog;
	fprintf(stderr, "%s: %s\n", directory, error);
	exit(EXIT_FAILURE);
}

#endif
