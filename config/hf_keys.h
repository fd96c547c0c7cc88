/* Keys of a config.json that go into a member of the model's shape as they are. */
#ifndef CFG_HF_KEYS_H
#define CFG_HF_KEYS_H

#include "config/config.h"

/* What is being read. faults NULL: a model that is refused anyway, nothing is said about its values. */
struct cfg_hf_reading {
	const json_t *object;
	const char *pointer;
	struct est_model *model;
	struct est_faults *faults;
};

/* Tells a fault of the value of key; nothing when faults are not wanted. */
void cfg_hf_complain(const struct cfg_hf_reading *reading, const char *key, enum est_fault_code code,
		     const char *detail);
/* The model is known and not modelled: reason, a string that stays, unless there is one already. */
void cfg_hf_refuse(struct est_model *model, const char *reason);
/* Whether the file says true of key; whether layer_types, a list, has a sliding window in that layer. */
bool cfg_hf_is_true(const struct cfg_hf_reading *reading, const char *key);
bool cfg_hf_is_sliding(const json_t *layer_types, size_t layer);
/* An activation by its name in Transformers' activations.py; refuses the model when the replay does not have it. */
void cfg_hf_set_activation(struct est_model *model, const char *word);
/* Reads the keys that all families have, and those of the bits of reads (CFG_READS_*); tells faults of their values. */
void cfg_hf_read_keys(const struct cfg_hf_reading *reading, uint64_t reads);

#endif
