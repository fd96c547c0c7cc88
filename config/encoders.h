/* What a config.json of encoders says in words of its own: BERT and its kin, ModernBERT, DeBERTa, T5. */
#ifndef CFG_ENCODERS_H
#define CFG_ENCODERS_H

#include "config/hf_keys.h"

/* Settles a shape whose sizes are read by what the file says to a family with these bits. Refuses what is not
 * modelled. */
void cfg_settle_encoder(const struct cfg_hf_reading *reading, uint64_t reads);

#endif
