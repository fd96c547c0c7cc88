#include "server/edition.h"
#include <stdio.h>
#include <stdlib.h>
#include "server/handlers.h"

struct srv_edition *srv_edition_create(const char *directory, const char *token_file, char *error, size_t size)
{
	struct srv_edition *edition = calloc(1, sizeof *edition);

	snprintf(error, size, "memory is short");
	if (!edition)
		return NULL;
	atomic_init(&edition->users, 1);
	edition->catalog = cfg_catalog_create(directory, error, size);
	if (edition->catalog && (!token_file || srv_tokens_read(token_file, &edition->tokens, error, size))
	    && srv_presets_init(&edition->presets, edition->catalog)
	    && srv_gpus_init(&edition->gpus, edition->catalog))
		return edition;
	srv_edition_release(edition);
	return NULL;
}

struct srv_edition *srv_edition_hold(struct srv_edition *edition)
{
	if (edition)
		atomic_fetch_add(&edition->users, 1);
	return edition;
}

void srv_edition_release(struct srv_edition *edition)
{
	if (!edition || atomic_fetch_sub(&edition->users, 1) > 1)
		return;
	srv_listing_finish(&edition->presets);
	srv_listing_finish(&edition->gpus);
	cfg_catalog_destroy(edition->catalog);
	free(edition);
}
