#include "config/from.h"
#include <stdio.h>
#include <string.h>
#include <strings.h>

enum { KEY_MAX = 128, TEXT_MAX = 2048, TYPO = 2, COMPARED_MAX = 256 };

const struct cfg_from_format *const cfg_from_formats[CFG_FORMATS] = {
	&cfg_from_deepspeed, &cfg_from_accelerate, &cfg_from_training_arguments, &cfg_from_axolotl, &cfg_from_llama_factory,
};

/* Groups whose members may carry a prefix, and groups that count only where another key has a value. */
static const struct {
	const char *group, *prefix, *key, *value;
} groups[] = {
	{ "fsdp_config.", "fsdp_", "distributed_type", "FSDP" },
	{ "deepspeed_config.", "", "distributed_type", "DEEPSPEED" },
	{ "parallelism_config.", "parallelism_config_", NULL, NULL },
	{ "dynamo_config.", "dynamo_", NULL, NULL },
};

/* ---- fields */

void cfg_from_ignore(struct cfg_from *from, const char *pointer)
{
	struct cfg_ignored *ignored = &from->reader->ret->ignored;
	size_t length = strlen(pointer) + 1;

	ignored->total++;
	if (ignored->used + length > sizeof(ignored->text))
		return;
	memcpy(ignored->text + ignored->used, pointer, length);
	ignored->used += length;
	ignored->count++;
}

static char *source_of(struct cfg_from *from, const struct est_field *field)
{
	return from->source[field - est_request_fields];
}

/* The model has no text: two are the same when they count as many parameters by the same name. */
static const char *text_of(const struct cfg_request *request, const struct est_field *field, char *text)
{
	if (field->kind == EST_FIELD_MODEL)
		snprintf(text, TEXT_MAX, "%s", request->model.id);
	else
		est_field_text(field, &request->request, text, TEXT_MAX);
	return text;
}

static bool fault_contradiction(struct cfg_from *from, const struct est_field *field, const char *pointer,
				const char *before, const char *now)
{
	const char *source = source_of(from, field), *said = *source ? source : field->pointer;

	est_fault_add(from->reader->faults, pointer, EST_CONTRADICTION, "says %.64s where %.100s says %.48s", now, said,
		      before);
	return false;
}

/* A path or name that is no preset says nothing where the model is known already. */
static bool is_other_name(const struct cfg_from *from, const json_t *value)
{
	return !json_is_string(value) || !cfg_catalog_find_preset(from->reader->catalog, json_string_value(value), NULL);
}

bool cfg_from_put_value(struct cfg_from *from, const struct est_field *field, const json_t *value, const char *pointer)
{
	struct cfg_reader *reader = from->reader;
	struct est_request kept = reader->ret->request;
	struct est_model model = reader->ret->model;
	bool named = est_field_is_named(field, &kept);
	size_t faults = reader->faults->count;
	char before[TEXT_MAX], now[TEXT_MAX];

	if (named && field->kind == EST_FIELD_MODEL && is_other_name(from, value)) {
		cfg_from_ignore(from, pointer);
		return true;
	}
	text_of(reader->ret, field, before);
	cfg_read_value(reader, field, value, pointer);
	if (reader->faults->count > faults)
		return false;
	text_of(reader->ret, field, now);
	if (named && strcmp(before, now)) {
		reader->ret->request = kept;
		reader->ret->model = model;
		return fault_contradiction(from, field, pointer, before, now);
	}
	if (!named)
		snprintf(source_of(from, field), EST_POINTER_MAX, "%s", pointer);
	est_request_name(&reader->ret->request, field);
	return true;
}

bool cfg_from_put(struct cfg_from *from, const char *name, const char *text, const char *pointer)
{
	const struct est_field *field = est_field_find(name);
	json_t *value = cfg_text_value(field, text);
	bool right = value && cfg_from_put_value(from, field, value, pointer);

	from->no_memory = from->no_memory || !value;
	json_decref(value);
	return right;
}

void cfg_from_assume(struct cfg_from *from, const char *name, const char *text, const char *why)
{
	struct cfg_request *ret = from->reader->ret;
	const struct est_field *field = est_field_find(name);
	json_t *value = cfg_text_value(field, text);

	from->no_memory = from->no_memory || !value;
	if (value && !est_field_is_named(field, &ret->request)) {
		cfg_read_value(from->reader, field, value, field->pointer);
		est_request_name(&ret->request, field);
		est_note_add(&ret->notes, field->pointer, text, "not named: %s", why);
	}
	json_decref(value);
}

/* ---- keys */

/* The tables of the format in turn; NULL behind the last. */
static const struct cfg_from_row *table_of(const struct cfg_from_format *format, size_t i)
{
	return i == 0 ? format->rows : i <= 2 ? format->more[i - 1] : NULL;
}

/* Whether rows lie below name. */
static bool is_group(const struct cfg_from_format *format, const char *name)
{
	const struct cfg_from_row *row;
	size_t i, length = strlen(name);

	for (i = 0; (row = table_of(format, i)); i++)
		for (; row->key; row++)
			if (!strncmp(row->key, name, length) && row->key[length] == '.')
				return true;
	return false;
}

/* Every row of name takes its part of the value. Whether there is one. */
static bool take_rows(struct cfg_from *from, const char *name, const json_t *value, const char *pointer)
{
	const struct cfg_from_row *row;
	bool known = false;
	size_t i;

	for (i = 0; (row = table_of(from->format, i)); i++)
		for (; row->key; row++)
			if (!strcmp(row->key, name)) {
				cfg_from_take(from, row, value, pointer);
				known = true;
			}
	return known;
}

/* A key that is nearly one of the table's is a typing error more likely than a key that is not known here. Looked for in as many keys
 * as a file of anyone's has: each is compared with all of the tables. */
static void warn_of_typo(struct cfg_from *from, const char *name, const char *pointer)
{
	const struct cfg_from_row *row;
	size_t i;

	if (from->compared++ >= COMPARED_MAX)
		return;
	for (i = 0; strlen(name) > 2 * TYPO + 1 && (row = table_of(from->format, i)); i++)
		for (; row->key; row++)
			if (cfg_edit_distance(name, row->key) <= TYPO) {
				est_note_add(&from->reader->ret->warnings, "/from", "",
					     "%.120s is not a known key (did you mean \"%.64s\"?)", pointer, row->key);
				return;
			}
}

static void read_object(struct cfg_from *from, const json_t *object, const char *prefix, const char *pointer);

static void read_key(struct cfg_from *from, const char *name, const json_t *value, const char *pointer)
{
	char prefix[KEY_MAX + 1];

	if (json_is_null(value) || take_rows(from, name, value, pointer))
		return;
	if (json_is_object(value) && is_group(from->format, name)) {
		snprintf(prefix, sizeof(prefix), "%s.", name);
		read_object(from, value, prefix, pointer);
		return;
	}
	warn_of_typo(from, name, pointer);
	cfg_from_ignore(from, pointer);
}

/* What of key is its name below prefix: some groups repeat their own in front. NULL where the group does not count. */
static const char *bare_key(const struct cfg_from *from, const char *prefix, const char *key)
{
	size_t i;

	for (i = 0; i < sizeof(groups) / sizeof(groups[0]); i++) {
		size_t length = strlen(groups[i].prefix);
		const char *when = groups[i].key ? json_string_value(json_object_get(from->root, groups[i].key)) : NULL;

		if (strcmp(groups[i].group, prefix))
			continue;
		if (when && strcasecmp(when, groups[i].value))
			return NULL;
		return strncmp(key, groups[i].prefix, length) ? key : key + length;
	}
	return key;
}

static void read_object(struct cfg_from *from, const json_t *object, const char *prefix, const char *pointer)
{
	const char *key;
	json_t *value;

	json_object_foreach(cfg_json_iterable(object), key, value) {
		char place[EST_POINTER_MAX], name[KEY_MAX];
		const char *bare = bare_key(from, prefix, key);

		snprintf(place, sizeof(place), "%s", pointer);
		cfg_pointer_add(place, key);
		if (!bare || strchr(bare, '.') || snprintf(name, sizeof(name), "%s%s", prefix, bare) >= (int)sizeof(name))
			cfg_from_ignore(from, place);
		else
			read_key(from, name, value, place);
	}
}

/* ---- the whole */

static void read_as(struct cfg_from *from, const struct cfg_from_format *format, const json_t *object,
		    const char *pointer)
{
	from->format = format;
	from->root = object;
	read_object(from, object, "", pointer);
}

/* {"deepspeed": {...}} within a trainer's file: its content instead of its path, read first as if it stood beside
 * it. */
static void read_inner(struct cfg_from *from, const json_t *object, const char *pointer)
{
	const json_t *inner = json_object_get(object, "deepspeed");
	char place[EST_POINTER_MAX];

	if (!json_is_object(inner))
		return;
	snprintf(place, sizeof(place), "%.200s/deepspeed", pointer);
	from->read[0] = true;
	read_as(from, &cfg_from_deepspeed, inner, place);
}

static void read_format(struct cfg_from *from, size_t i)
{
	const json_t *object = from->reader->files[i];
	char pointer[EST_POINTER_MAX], place[EST_POINTER_MAX];

	snprintf(pointer, sizeof(pointer), "%.150s/from/%s", from->base, cfg_from_formats[i]->name);
	from->read[i] = true;
	read_inner(from, object, pointer);
	if (cfg_from_formats[i]->framework)
		cfg_from_put(from, "framework", cfg_from_formats[i]->framework, pointer);
	read_as(from, cfg_from_formats[i], object, pointer);
	if (cfg_from_formats[i]->fsdp_by_config && json_object_size(json_object_get(object, "fsdp_config"))) {
		snprintf(place, sizeof(place), "%.200s/fsdp_config", pointer);
		cfg_from_say(from, CFG_FSDP_ON, 1, place);
	}
}

/* What the trainers take for keys that their files leave out. */
static void take_absent(struct cfg_from *from, const struct cfg_from_format *format)
{
	const struct cfg_from_row *row;
	size_t i;
	char why[96];

	snprintf(why, sizeof(why), "the default of %s", format->title);
	for (i = 0; (row = table_of(format, i)); i++)
		for (; row->key; row++)
			if (row->otherwise && est_field_applies(est_field_find(row->field), &from->reader->ret->request, NULL))
				cfg_from_assume(from, row->field, row->otherwise, why);
}

/* A file may set what its own other keys make meaningless (lora_r without an adapter); only a client who names it
 * himself contradicts himself. */
static void drop_idle(struct cfg_from *from)
{
	struct est_request *request = &from->reader->ret->request;
	size_t i;

	for (i = 0; i < est_request_field_count; i++) {
		const struct est_field *field = &est_request_fields[i];
		const char *only;

		if (!*from->source[i] || est_field_applies(field, request, &only) || !only)
			continue;
		est_request_forget(request, field);
		cfg_from_ignore(from, from->source[i]);
		from->source[i][0] = '\0';
	}
}

bool cfg_from_read(struct cfg_from *from, struct cfg_reader *reader, const char *base)
{
	size_t i, faults = reader->faults->count;

	memset(from, 0, sizeof(*from));
	from->reader = reader;
	from->base = base;
	for (i = 0; i < CFG_FORMATS; i++)
		if (reader->files[i])
			read_format(from, i);
	if (reader->faults->count > faults)
		return !from->no_memory;
	cfg_from_conclude_method(from);
	for (i = CFG_FORMATS; i-- > 0;)
		if (from->read[i])
			take_absent(from, cfg_from_formats[i]);
	cfg_from_conclude(from);
	drop_idle(from);
	return !from->no_memory;
}

void cfg_from_point(const struct cfg_from *from, struct est_faults *faults, size_t first)
{
	size_t i, j;

	for (i = first; i < faults->count && i < EST_FAULTS_MAX; i++)
		for (j = 0; j < est_request_field_count; j++)
			if (*from->source[j] && !strcmp(faults->item[i].pointer, est_request_fields[j].pointer)) {
				memcpy(faults->item[i].pointer, from->source[j], sizeof(faults->item[i].pointer));
				break;
			}
}
