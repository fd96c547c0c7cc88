/* The catalogues as they were loaded at one time, prepared for being listed, and who may ask. A reload makes a new
 * edition and leaves this one to those who began with it. Read-only but for the count of its users. */
#ifndef SRV_EDITION_H
#define SRV_EDITION_H

#include <stdatomic.h>
#include "config/config.h"
#include "server/listing.h"
#include "server/token.h"

struct srv_edition {
	struct cfg_catalog *catalog;
	struct srv_listing presets, gpus;
	struct srv_tokens tokens;
	atomic_int users;
};

/* An edition of the catalogues in directory and the tokens in token_file (NULL: everybody may ask), with one user.
 * NULL, and one line in error, when they cannot be loaded, are not sound or memory is short. */
struct srv_edition *srv_edition_create(const char *directory, const char *token_file, char *error, size_t size);

/* One more user; the same edition. Takes NULL. */
struct srv_edition *srv_edition_hold(struct srv_edition *edition);
/* One user less; the last one frees it. Takes NULL. */
void srv_edition_release(struct srv_edition *edition);

#endif
