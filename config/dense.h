/* What a config.json of the older dense decoders says in words of its own: Falcon, Bloom, MPT, GPT-J, GPT-BigCode. */
#ifndef CFG_DENSE_H
#define CFG_DENSE_H

#include <jansson.h>
#include "config/families.h"

/* Settles a shape whose sizes are read, heads included, by what else object says to a family with these bits.
 * Returns why the replay refuses the model, or NULL. */
const char *cfg_settle_dense(const json_t *object, uint64_t reads, struct est_model *model);

#endif
