/* Models that see: which language model they hold, and the shape of their tower. */
#ifndef CFG_TOWERS_H
#define CFG_TOWERS_H

#include "config/hf_keys.h"

/* A composite config.json: its language model's keys lie in text_config (or, as older files and the catalogue have
 * it, at the top), the tower's in vision_config (the catalogue's: vision). */
struct cfg_composite {
	const char *model_type;
	const char *text;            /* model_type of the language model where text_config does not say */
	bool ties_by_default, caches_in_training;
	struct est_vision shape;     /* defaults of the tower's class; out_hidden_size 0: the language model's hidden_size */
	struct est_audio audio;      /* of the class that hears, where the file has one; num_hidden_layers 0: not modelled */
};

extern const struct cfg_composite cfg_composites[];
extern const size_t cfg_composite_count;

/* The row of model_type, or NULL. */
const struct cfg_composite *cfg_composite_find(const char *model_type);

/* Of a composite file: where the language model's keys are, and what it is. */
const json_t *cfg_composite_text(const json_t *object);
const char *cfg_composite_text_type(const struct cfg_composite *composite, const json_t *object);

/* Adds to the language model, which has been read, what the file says of tower, projector and tying. Tells faults. */
void cfg_read_tower(const struct cfg_hf_reading *reading, const struct cfg_composite *composite);

#endif
