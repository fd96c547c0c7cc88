#include "config/axes.h"
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "config/read.h"

/* ---- what varies, where no values are given */

enum { OFFLOAD_NONE, OFFLOAD_OPTIMIZER, OFFLOAD_ALL }; /* the values of "offload" */

/* name: as in vary; field: the row whose values these are. Scales have none here. */
static const struct {
	const char *name, *field;
	size_t count;
	double values[8];
} varying[] = {
	{ "parallelism.strategy", "parallelism.strategy", 6,
	  { EST_SINGLE, EST_DDP, EST_ZERO1, EST_ZERO2, EST_ZERO3, EST_FSDP } },
	{ "gradient_checkpointing", "gradient_checkpointing", 4,
	  { EST_CHECKPOINT_NONE, EST_CHECKPOINT_SELECTIVE, EST_CHECKPOINT_FULL, EST_CHECKPOINT_OFFLOAD } },
	{ "optimizer", "optimizer", 5, { EST_ADAMW_TORCH_FUSED, EST_ADAMW_8BIT, EST_PAGED_ADAMW_8BIT, EST_ADAMW_4BIT,
					 EST_ADAFACTOR } },
	{ "micro_batch_size", "micro_batch_size", 0, { 0 } },
	{ "offload", "offload", 3, { OFFLOAD_NONE, OFFLOAD_OPTIMIZER, OFFLOAD_ALL } },
	{ "method", "method", 3, { EST_FULL, EST_LORA, EST_QLORA } },
	{ "quantization", "quantization.bits", 2, { 4, 8 } },
	{ "quantization.bits", "quantization.bits", 2, { 4, 8 } },
	{ "lora.rank", "lora.rank", 5, { 8, 16, 32, 64, 128 } },
	{ "sequence_length", "sequence_length", 0, { 0 } },
	{ "loss", "loss", 2, { EST_LOSS_STANDARD, EST_LOSS_CHUNKED } },
};
enum { VARYING = sizeof(varying) / sizeof(varying[0]), BY_DEFAULT = 5 }; /* the first of them, when vary is absent */

enum { BATCH_MOST = 512, LENGTH_LEAST = 512, LENGTH_MOST = 1 << 17 };

/* ---- scales */

static void add_value(struct cfg_scale *scale, int64_t value)
{
	size_t at = scale->count;

	while (at > 0 && scale->values[at - 1] >= value)
		at--;
	if (scale->count == CFG_SCALE_VALUES || (at < scale->count && scale->values[at] == value))
		return;
	memmove(&scale->values[at + 1], &scale->values[at], (scale->count - at) * sizeof(scale->values[0]));
	scale->values[at] = value;
	scale->count++;
}

/* least, 1.5 least, 2 least, 3 least, ... */
static void fill_scale(struct cfg_scale *scale, int64_t least, int64_t most)
{
	for (int64_t value = least; value <= most; value *= 2) {
		add_value(scale, value);
		if (value > 1 && value + value / 2 <= most)
			add_value(scale, value + value / 2);
	}
}

/* Some of one node, or whole nodes; only as many as the model-parallel ranks and HSDP's groups divide. */
static void fill_gpus(struct cfg_space *space)
{
	const struct est_parallelism *p = &space->base.request.parallelism;
	int64_t ranks = p->tensor * p->pipeline * p->context, step = ranks * (p->shard_size ? p->shard_size : 1);

	for (int64_t gpus = 1; gpus <= space->max_gpus; gpus++)
		if (gpus % ranks == 0 && (gpus == ranks || gpus % step == 0)
		    && (gpus <= p->gpus_per_node || gpus % p->gpus_per_node == 0))
			add_value(&space->gpus, gpus);
	if (p->gpus <= space->max_gpus)
		add_value(&space->gpus, p->gpus);
}

static struct cfg_scale *scale_of(struct cfg_space *space, const char *name)
{
	if (!strcmp(name, "micro_batch_size"))
		return &space->batches;
	return strcmp(name, "sequence_length") ? NULL : &space->lengths;
}

static void fill_named_scale(struct cfg_space *space, struct cfg_scale *scale)
{
	int64_t positions = space->base.model.max_position_embeddings;

	if (scale == &space->batches)
		fill_scale(scale, 1, BATCH_MOST);
	else
		fill_scale(scale, LENGTH_LEAST, positions > 0 && positions < LENGTH_MOST ? positions : LENGTH_MOST);
}

/* ---- axes */

static struct cfg_axis *find_axis(struct cfg_space *space, const char *name)
{
	for (size_t i = 0; i < space->axis_count; i++)
		if (!strcmp(space->axes[i].name, name))
			return &space->axes[i];
	return NULL;
}

static void add_to_axis(struct cfg_axis *axis, double value)
{
	for (size_t i = 0; i < axis->count; i++)
		if (fabs(axis->values[i] - value) < 0.5)
			return;
	if (axis->count < CFG_AXIS_VALUES)
		axis->values[axis->count++] = value;
}

/* The request's own value comes first, so that of two plans alike the one with fewer changes does. */
static struct cfg_axis *add_axis(struct cfg_space *space, const char *name)
{
	const struct est_field *field = est_field_find(name);
	struct cfg_axis *axis = &space->axes[space->axis_count++];

	*axis = (struct cfg_axis){ .name = field ? field->name : "offload", .field = field };
	if (field && field->kind != EST_FIELD_CHECKPOINTING)
		add_to_axis(axis, est_field_get(field, &space->base.request));
	return axis;
}

static void vary_by_table(struct cfg_space *space, size_t row)
{
	struct cfg_scale *scale = scale_of(space, varying[row].field);
	struct cfg_axis *axis = scale ? NULL : add_axis(space, varying[row].field);

	if (scale)
		fill_named_scale(space, scale);
	for (size_t i = 0; axis && i < varying[row].count; i++)
		add_to_axis(axis, varying[row].values[i]);
}

static size_t find_varying(const char *name)
{
	size_t row = 0;

	while (row < VARYING && strcmp(varying[row].name, name))
		row++;
	return row;
}

/* ---- vary, as it is sent */

static void fault_name(const char *pointer, struct est_faults *faults)
{
	char names[EST_DETAIL_MAX] = "";

	for (size_t i = 0; i < VARYING; i++)
		snprintf(names + strlen(names), sizeof(names) - strlen(names), "%s%s", i ? ", " : "", varying[i].name);
	est_fault_add(faults, pointer, EST_UNKNOWN_VALUE, "must be one of %.200s", names);
}

static bool is_taken(struct cfg_space *space, const char *field, const char *pointer, struct est_faults *faults)
{
	struct cfg_scale *scale = scale_of(space, field);
	bool taken = scale ? scale->count > 0 : find_axis(space, field) != NULL;

	if (taken)
		est_fault_add(faults, pointer, EST_CONTRADICTION, "stands twice");
	else if (space->axis_count == CFG_AXES_MAX)
		est_fault_add(faults, pointer, EST_OUT_OF_RANGE, "is one too many: %d may vary", CFG_AXES_MAX);
	return taken || space->axis_count == CFG_AXES_MAX;
}

static void vary_known(struct cfg_space *space, size_t row, const char *pointer, struct est_faults *faults)
{
	if (!is_taken(space, varying[row].field, pointer, faults))
		vary_by_table(space, row);
}

static void vary_name(struct cfg_space *space, const json_t *name, const char *pointer, struct est_faults *faults)
{
	size_t row = json_is_string(name) ? find_varying(json_string_value(name)) : VARYING;

	if (row == VARYING)
		fault_name(pointer, faults);
	else
		vary_known(space, row, pointer, faults);
}

/* A list of values of any field that is a number or a word. */
static void vary_values(struct cfg_space *space, const struct est_field *field, const json_t *values,
			const char *pointer, struct est_faults *faults)
{
	static const unsigned kinds = 1U << EST_FIELD_BOOL | 1U << EST_FIELD_INT | 1U << EST_FIELD_REAL | 1U << EST_FIELD_WORD
				      | 1U << EST_FIELD_CHECKPOINTING;
	struct cfg_request *scratch = &space->base; /* put back below */
	struct cfg_reader reader = { .catalog = space->catalog, .ret = scratch, .faults = faults };
	struct cfg_scale *scale = scale_of(space, field->name);
	double own = est_field_get(field, &scratch->request);
	struct cfg_axis *axis;

	if (!(kinds >> field->kind & 1) || !strcmp(field->name, "accounting") || !strcmp(field->name, "parallelism.gpus")) {
		est_fault_add(faults, pointer, EST_UNKNOWN_FIELD, "is not a field that can vary");
		return;
	}
	axis = scale ? NULL : &space->axes[space->axis_count++];
	if (axis)
		*axis = (struct cfg_axis){ .name = field->name, .field = field };
	for (size_t i = 0; i < json_array_size(values); i++) {
		const json_t *value = json_array_get(values, i);
		char place[EST_POINTER_MAX];
		size_t before = faults->count;

		snprintf(place, sizeof(place), "%s", pointer);
		cfg_pointer_add_index(place, i);
		if (json_is_object(value))
			est_fault_add(faults, place, EST_WRONG_TYPE, "must be a word here");
		else
			cfg_read_value(&reader, field, value, place);
		if (faults->count == before && scale)
			add_value(scale, (int64_t)est_field_get(field, &scratch->request));
		else if (faults->count == before)
			add_to_axis(axis, est_field_get(field, &scratch->request));
	}
	est_field_set(field, &scratch->request, own);
}

static void vary_member(struct cfg_space *space, const char *name, const json_t *values, struct est_faults *faults)
{
	char pointer[EST_POINTER_MAX] = "/vary";
	const struct est_field *field = est_field_find(name);
	size_t row = find_varying(name);

	cfg_pointer_add(pointer, name);
	if (!field && row == VARYING)
		est_fault_add(faults, pointer, EST_UNKNOWN_FIELD, "is not a known field");
	else if (json_is_null(values) && row < VARYING)
		vary_known(space, row, pointer, faults);
	else if (!field || !json_is_array(values) || json_array_size(values) < 1 || json_array_size(values) > CFG_AXIS_VALUES)
		est_fault_add(faults, pointer, EST_WRONG_TYPE, "must be a list of 1 to %d values%s", CFG_AXIS_VALUES,
			      row < VARYING ? ", or null" : "");
	else if (!is_taken(space, field->name, pointer, faults))
		vary_values(space, field, values, pointer, faults);
}

void cfg_axes_read(struct cfg_space *space, const json_t *vary, struct est_faults *faults)
{
	const char *name;
	json_t *value;
	size_t i;

	for (i = 0; i < BY_DEFAULT && (!vary || json_is_null(vary)); i++)
		vary_by_table(space, i);
	if (vary && !json_is_null(vary) && !json_is_array(vary) && !json_is_object(vary))
		est_fault_add(faults, "/vary", EST_WRONG_TYPE, "must be a list of fields, or an object of lists of their values");
	json_array_foreach(cfg_json_iterable(vary), i, value) {
		char pointer[EST_POINTER_MAX] = "/vary";

		cfg_pointer_add_index(pointer, i);
		vary_name(space, value, pointer, faults);
	}
	json_object_foreach(cfg_json_iterable(vary), name, value)
		vary_member(space, name, value, faults);
}

void cfg_axes_complete(struct cfg_space *space)
{
	const struct est_request *request = &space->base.request;
	static const char strategy[] = "parallelism.strategy";

	if (space->objective == CFG_LARGEST_BATCH && !space->batches.count)
		fill_named_scale(space, &space->batches);
	if (space->objective == CFG_LONGEST_SEQUENCE && !space->lengths.count)
		fill_named_scale(space, &space->lengths);
	if (!space->batches.count)
		add_value(&space->batches, request->micro_batch_size);
	if (!space->lengths.count)
		add_value(&space->lengths, request->sequence_length);
	fill_gpus(space);
	if (!find_axis(space, strategy) && !est_request_names(request, strategy) && space->axis_count < CFG_AXES_MAX) {
		struct cfg_axis *axis = add_axis(space, strategy);

		add_to_axis(axis, EST_SINGLE);
		add_to_axis(axis, EST_ZERO3);
	}
}
