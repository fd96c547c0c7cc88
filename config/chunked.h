/* Layers that attend to a part of the tokens: Llama-4's in chunks, DeepSeek's sparse attention to those that an
 * indexer chooses. */
#ifndef CFG_CHUNKED_H
#define CFG_CHUNKED_H

#include "config/hf_keys.h"

/* Llama-4: rotated layers attend in chunks, the others in full; which layers have experts. Refuses other patterns. */
void cfg_settle_llama4(const struct cfg_hf_reading *reading, uint64_t reads);
/* Gemma-4: experts beside the MLP. Refuses a last layer that slides, and attention in both directions. */
void cfg_settle_gemma4(const struct cfg_hf_reading *reading, uint64_t reads);
/* Gemma-3n: how many of the first layers have a sparse MLP. Refuses other patterns of them. */
void cfg_settle_gemma3n(const struct cfg_hf_reading *reading, uint64_t reads);
/* GLM-5: indexer_types as how often a layer has an indexer of its own. Refuses patterns that are none. */
void cfg_settle_indexer(const struct cfg_hf_reading *reading, uint64_t reads);

#endif
