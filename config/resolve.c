#include <stdio.h>
#include <string.h>
#include "config/config.h"

static void note_evidence(const struct cfg_preset *preset, struct est_notes *notes)
{
	if (!strcmp(preset->verified, "approx"))
		est_note_add(notes, "/model", preset->id, "the preset's parameter count is known to rounding only");
	else if (!strcmp(preset->verified, "unverified"))
		est_note_add(notes, "/model", preset->id,
			     "the preset's shape is unverified: no published parameter count confirms it");
}

static bool find_preset(const char *name, const char *pointer, const struct cfg_catalog *catalog,
			struct est_model *ret_model, struct est_notes *notes, struct est_faults *faults)
{
	size_t candidates = 0;
	const struct cfg_preset *preset = cfg_catalog_find_preset(catalog, name, &candidates);
	const char *near = preset ? NULL : cfg_catalog_suggest_preset(catalog, name);

	if (preset) {
		*ret_model = preset->model;
		note_evidence(preset, notes);
	} else if (candidates > 1)
		est_fault_add(faults, pointer, EST_AMBIGUOUS, "names %zu presets; name one by its id", candidates);
	else if (near)
		est_fault_add(faults, pointer, EST_UNKNOWN_VALUE, "is not a known model (did you mean \"%s\"?)", near);
	else
		est_fault_add(faults, pointer, EST_UNKNOWN_VALUE, "is not a known model");
	return preset;
}

/* A config.json of an architecture that is not modelled says too little for any accounting: its size is not in it. */
static bool read_config(const json_t *object, const char *pointer, struct est_model *ret_model,
			struct est_faults *faults)
{
	struct est_model model;

	if (!cfg_model_from_hf_config(object, pointer, &model, faults))
		return false;
	if (!model.parameters) {
		est_fault_add(faults, pointer, EST_NOT_SUPPORTED_YET, "%s", model.unsupported);
		return false;
	}
	*ret_model = model;
	return true;
}

bool cfg_read_model(const json_t *value, const char *pointer, const struct cfg_catalog *catalog,
		    struct est_model *ret_model, struct est_notes *notes, struct est_faults *faults)
{
	if (json_is_string(value))
		return find_preset(json_string_value(value), pointer, catalog, ret_model, notes, faults);
	if (json_object_get(value, "model_type"))
		return read_config(value, pointer, ret_model, faults);
	if (json_object_get(value, "parameters"))
		return cfg_model_from_parameters(value, pointer, ret_model, notes, faults);
	est_fault_add(faults, pointer, json_is_object(value) ? EST_MISSING : EST_WRONG_TYPE,
		      "must be a preset id, a config.json (which has model_type) or an object with parameters");
	return false;
}
