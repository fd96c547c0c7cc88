#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "config/from.h"

typedef void read_field(struct cfg_reader *reader, const struct est_field *field, const json_t *value,
			const char *pointer);

enum {
	EXACT_BITS = 53, /* whole numbers up to 2^53 survive a double, and JavaScript */
	RANGE_MAX = 80
};

bool cfg_json_whole(const json_t *value, double *ret)
{
	double number = json_number_value(value);

	if (!json_is_number(value) || !(fabs(number) <= ldexp(1, EXACT_BITS)) || number != floor(number))
		return false;
	*ret = number;
	return true;
}

static void set(struct cfg_reader *reader, const struct est_field *field, double value)
{
	est_field_set(field, &reader->ret->request, value);
}

static void read_bool(struct cfg_reader *reader, const struct est_field *field, const json_t *value,
		      const char *pointer)
{
	if (json_is_boolean(value))
		set(reader, field, json_is_true(value));
	else
		est_fault_add(reader->faults, pointer, EST_WRONG_TYPE, "must be true or false");
}

/* The range in words. "4 or 8" where the steps are that few. */
static const char *range_text(const struct est_field *field, char *text, size_t size)
{
	if (field->step > 0 && field->min + field->step >= field->max)
		snprintf(text, size, "%.0f or %.0f", field->min, field->max);
	else if (isinf(field->max))
		snprintf(text, size, "%g or more", field->min);
	else
		snprintf(text, size, "from %.*g to %.*g", 16, field->min, 16, field->max);
	return text;
}

static bool is_in_range(const struct est_field *field, double value)
{
	return value >= field->min && value <= field->max
		&& (field->step <= 0 || fmod(value - field->min, field->step) == 0);
}

const struct est_word *cfg_word_find(const struct est_word *words, const json_t *value)
{
	if (!words || !json_is_string(value))
		return NULL;
	return est_word_find(words, json_string_value(value), json_string_length(value));
}

static void read_int(struct cfg_reader *reader, const struct est_field *field, const json_t *value, const char *pointer)
{
	const struct est_word *word = cfg_word_find(field->words, value);
	char range[RANGE_MAX];
	double number;

	if (word)
		set(reader, field, word->value);
	else if (!json_is_number(value))
		est_fault_add(reader->faults, pointer, EST_WRONG_TYPE, "must be a whole number %s%s",
			      range_text(field, range, sizeof(range)), field->words ? " or \"auto\"" : "");
	else if (!cfg_json_whole(value, &number) || !is_in_range(field, number))
		est_fault_add(reader->faults, pointer, EST_OUT_OF_RANGE, "must be a whole number %s",
			      range_text(field, range, sizeof(range)));
	else
		set(reader, field, number);
}

static void read_real(struct cfg_reader *reader, const struct est_field *field, const json_t *value,
		      const char *pointer)
{
	char range[RANGE_MAX];

	if (!json_is_number(value))
		est_fault_add(reader->faults, pointer, EST_WRONG_TYPE, "must be a number %s",
			      range_text(field, range, sizeof(range)));
	else if (!is_in_range(field, json_number_value(value)))
		est_fault_add(reader->faults, pointer, EST_OUT_OF_RANGE, "must be a number %s",
			      range_text(field, range, sizeof(range)));
	else
		set(reader, field, json_number_value(value));
}

/* Reports a value that is none of words, with the nearest of them. */
static void fault_word(struct cfg_reader *reader, const struct est_word *words, const json_t *value,
		       const char *pointer)
{
	struct cfg_suggestion suggestion;
	const struct est_word *word;
	char list[200];

	est_word_list(words, list, sizeof(list));
	if (!json_is_string(value)) {
		est_fault_add(reader->faults, pointer, EST_WRONG_TYPE, "must be text: %s", list);
		return;
	}
	cfg_suggestion_init(&suggestion, json_string_value(value));
	for (word = words; word->name; word++)
		cfg_suggestion_offer(&suggestion, word->name);
	if (suggestion.nearest)
		est_fault_add(reader->faults, pointer, EST_UNKNOWN_VALUE, "is not a known value (did you mean \"%s\"?)",
			      suggestion.nearest);
	else
		est_fault_add(reader->faults, pointer, EST_UNKNOWN_VALUE, "must be %s", list);
}

static void read_word(struct cfg_reader *reader, const struct est_field *field, const json_t *value,
		      const char *pointer)
{
	const struct est_word *word = cfg_word_find(field->words, value);

	if (word)
		set(reader, field, word->value);
	else
		fault_word(reader, field->words, value, pointer);
}

static void read_words(struct cfg_reader *reader, const struct est_field *field, const json_t *value,
		       const char *pointer)
{
	unsigned bits = 0;
	size_t i;

	if (!json_is_array(value)) {
		est_fault_add(reader->faults, pointer, EST_WRONG_TYPE, "must be a list of words");
		return;
	}
	for (i = 0; i < json_array_size(value); i++) {
		const json_t *item = json_array_get(value, i);
		const struct est_word *word = cfg_word_find(field->words, item);
		char place[EST_POINTER_MAX];

		snprintf(place, sizeof(place), "%s", pointer);
		cfg_pointer_add_index(place, i);
		if (word)
			bits |= (unsigned)word->value;
		else
			fault_word(reader, field->words, item, place);
	}
	set(reader, field, bits);
}

static void read_name(struct cfg_reader *reader, struct est_names *names, const json_t *item,
		      const char *pointer, size_t i)
{
	size_t length = json_string_length(item);
	char place[EST_POINTER_MAX];

	if (json_is_string(item) && length > 0 && length < EST_NAME_MAX) {
		memcpy(names->name[names->count++], json_string_value(item), length + 1);
		return;
	}
	snprintf(place, sizeof(place), "%s", pointer);
	cfg_pointer_add_index(place, i);
	if (json_is_string(item))
		est_fault_add(reader->faults, place, EST_OUT_OF_RANGE, "must have 1 to %d bytes", EST_NAME_MAX - 1);
	else
		est_fault_add(reader->faults, place, EST_WRONG_TYPE, "must be the name of a module");
}

static void read_names(struct cfg_reader *reader, const struct est_field *field, const json_t *value,
		       const char *pointer)
{
	struct est_names *names = (void *)((char *)&reader->ret->request + field->offset);
	size_t i, count = json_array_size(value);

	names->all = cfg_word_find(field->words, value) != NULL;
	names->count = 0;
	if (names->all)
		return;
	if (!json_is_array(value))
		est_fault_add(reader->faults, pointer, EST_WRONG_TYPE, "must be %sa list of names",
			      field->words ? "\"all-linear\" or " : "");
	else if (count > EST_NAMES_MAX)
		est_fault_add(reader->faults, pointer, EST_OUT_OF_RANGE, "must have at most %d names", EST_NAMES_MAX);
	else
		for (i = 0; i < count; i++)
			read_name(reader, names, json_array_get(value, i), pointer, i);
}

/* "2.13", "5.23.0.dev0", "4" -> 1000 * major + minor. */
static bool parse_version(const char *text, double *ret)
{
	unsigned long major, minor = 0;
	char *end;

	if (!isdigit((unsigned char)text[0]))
		return false;
	major = strtoul(text, &end, 10);
	if (end[0] == '.' && !isdigit((unsigned char)end[1]))
		return false;
	if (end[0] == '.')
		minor = strtoul(end + 1, &end, 10);
	if (major > 999 || minor > 999 || major + minor == 0 || (*end && *end != '.' && *end != '+'))
		return false;
	*ret = 1000.0 * (double)major + (double)minor;
	return true;
}

static void read_version(struct cfg_reader *reader, const struct est_field *field, const json_t *value,
			 const char *pointer)
{
	double version;

	if (!json_is_string(value))
		est_fault_add(reader->faults, pointer, EST_WRONG_TYPE, "must be text like \"2.13\"");
	else if (!parse_version(json_string_value(value), &version))
		est_fault_add(reader->faults, pointer, EST_OUT_OF_RANGE, "must be a version like \"2.13\"");
	else
		set(reader, field, version);
}

/* {"every_n_layers": n} or {"selective": word} */
static void read_checkpointing_object(struct cfg_reader *reader, const json_t *object, const char *pointer)
{
	struct est_request *request = &reader->ret->request;
	const json_t *layers = json_object_get(object, "every_n_layers"), *kind = json_object_get(object, "selective");
	const struct est_word *word = cfg_word_find(est_selective_words, kind);
	char place[EST_POINTER_MAX];
	double number;

	snprintf(place, sizeof(place), "%s/%s", pointer, kind ? "selective" : "every_n_layers");
	if (json_object_size(object) != 1 || (!layers && !kind)) {
		est_fault_add(reader->faults, pointer, EST_WRONG_TYPE,
			      "must be true, false, a word, {\"every_n_layers\": n} or {\"selective\": word}");
	} else if (word) {
		request->checkpointing = EST_CHECKPOINT_SELECTIVE;
		request->selective = (enum est_selective)word->value;
	} else if (kind) {
		fault_word(reader, est_selective_words, kind, place);
	} else if (!json_is_number(layers)) {
		est_fault_add(reader->faults, place, EST_WRONG_TYPE, "must be a whole number");
	} else if (!cfg_json_whole(layers, &number) || number < 1 || number > 65536) {
		est_fault_add(reader->faults, place, EST_OUT_OF_RANGE, "must be a whole number from 1 to 65536");
	} else {
		request->checkpointing = EST_CHECKPOINT_EVERY_N;
		request->every_n_layers = (int64_t)number;
	}
}

static void read_checkpointing(struct cfg_reader *reader, const struct est_field *field, const json_t *value,
			       const char *pointer)
{
	if (json_is_boolean(value))
		set(reader, field, json_is_true(value) ? EST_CHECKPOINT_FULL : EST_CHECKPOINT_NONE);
	else if (json_is_object(value))
		read_checkpointing_object(reader, value, pointer);
	else
		read_word(reader, field, value, pointer);
}

static void read_model(struct cfg_reader *reader, const struct est_field *field, const json_t *value,
		       const char *pointer)
{
	(void)field;
	cfg_read_model(value, pointer, reader->catalog, &reader->ret->model, &reader->ret->notes, reader->faults);
}

static void read_gpus(struct cfg_reader *reader, const struct est_field *field, const json_t *value,
		      const char *pointer)
{
	(void)field;
	cfg_read_gpus(value, pointer, reader->catalog, reader->ret, reader->faults);
}

static void read_sizes(struct cfg_reader *reader, const struct est_field *field, const json_t *value,
		       const char *pointer)
{
	reader->size_count = cfg_read_sizes(value, pointer, field, reader->ret, reader->faults);
}

/* Kept until the request's own fields are read. */
static void read_file(struct cfg_reader *reader, const struct est_field *field, const json_t *value,
		      const char *pointer)
{
	size_t i;

	if (!json_is_object(value)) {
		est_fault_add(reader->faults, pointer, EST_WRONG_TYPE, "must be the file's content as an object");
		return;
	}
	for (i = 0; i < CFG_FORMATS; i++)
		if (!strcmp(field->name + strlen("from."), cfg_from_formats[i]->name))
			reader->files[i] = value;
	reader->ret->ignored.listed = true;
}

static read_field *const readers[] = {
	[EST_FIELD_BOOL] = read_bool,
	[EST_FIELD_INT] = read_int,
	[EST_FIELD_REAL] = read_real,
	[EST_FIELD_WORD] = read_word,
	[EST_FIELD_WORDS] = read_words,
	[EST_FIELD_NAMES] = read_names,
	[EST_FIELD_VERSION] = read_version,
	[EST_FIELD_CHECKPOINTING] = read_checkpointing,
	[EST_FIELD_MODEL] = read_model,
	[EST_FIELD_GPUS] = read_gpus,
	[EST_FIELD_BYTES] = read_sizes,
	[EST_FIELD_FILE] = read_file,
};

void cfg_read_value(struct cfg_reader *reader, const struct est_field *field, const json_t *value, const char *pointer)
{
	readers[field->kind](reader, field, value, pointer);
}
