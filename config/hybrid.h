/* What a config.json says of models whose layers are not all of one kind: attention here, a recurrent or
 * convolutional mixer there. */
#ifndef CFG_HYBRID_H
#define CFG_HYBRID_H

#include "config/families.h"
#include "config/hf_keys.h"

/* Settles the kinds of layers and the sizes of mixers, heads settled, by what the file says to a family with these
 * bits. */
void cfg_settle_hybrid(const struct cfg_hf_reading *reading, uint64_t reads);

#endif
