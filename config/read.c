#include <stdio.h>
#include <string.h>
#include "config/elsewhere.h"
#include "config/from.h"

/* Whether rows lie under the dotted name group. */
static bool is_group(const char *group)
{
	size_t i, length = strlen(group);

	for (i = 0; i < est_request_field_count; i++)
		if (!strncmp(est_request_fields[i].name, group, length) && est_request_fields[i].name[length] == '.')
			return true;
	return false;
}

/* Reports a key that no row has; tells what it is called here, or suggests among the names that lie in the same object. */
static void fault_unknown(struct cfg_reader *reader, const char *prefix, const char *key, const char *pointer)
{
	const char *here = cfg_elsewhere_find(prefix, key);
	struct cfg_suggestion suggestion;
	size_t i, length = strlen(prefix);
	char name[64];

	if (here) {
		est_fault_add(reader->faults, pointer, EST_UNKNOWN_FIELD, "is not a known field (here it is \"%s\")", here);
		return;
	}
	cfg_suggestion_init(&suggestion, key);
	for (i = 0; i < est_request_field_count && reader->faults->count < EST_FAULTS_MAX; i++) /* beyond them nobody reads it */
		if (!strncmp(est_request_fields[i].name, prefix, length))
			cfg_suggestion_offer(&suggestion, est_request_fields[i].name + length);
	if (!suggestion.nearest) {
		est_fault_add(reader->faults, pointer, EST_UNKNOWN_FIELD, "is not a known field");
		return;
	}
	snprintf(name, sizeof(name), "%s", suggestion.nearest);
	est_fault_add(reader->faults, pointer, EST_UNKNOWN_FIELD, "is not a known field (did you mean \"%s\"?)", name);
}

static void read_group(struct cfg_reader *reader, const json_t *object, const char *prefix, const char *pointer);

/* A word in the place of a group ("buckets": "auto") goes to every number in it that knows the word. */
static bool read_group_word(struct cfg_reader *reader, const char *group, const json_t *value)
{
	size_t i, length = strlen(group);
	bool read = false;

	for (i = 0; i < est_request_field_count; i++) {
		const struct est_field *field = &est_request_fields[i];
		const struct est_word *word = cfg_word_find(field->words, value);

		if (field->kind != EST_FIELD_INT || !word || strncmp(field->name, group, length)
		    || field->name[length] != '.')
			continue;
		est_field_set(field, &reader->ret->request, word->value);
		est_request_name(&reader->ret->request, field);
		read = true;
	}
	return read;
}

/* The member key of the object that lies at prefix ("", "lora."); pointer is the member's. */
static void read_member(struct cfg_reader *reader, const char *prefix, const char *key, const json_t *value,
			const char *pointer)
{
	const struct est_field *field;
	char name[96];
	size_t length = est_copy_text(name, sizeof(name), prefix);

	length += est_copy_text(name + length, sizeof(name) - length, key);
	field = est_field_find(name);
	if (length + 1 >= sizeof(name) || strchr(key, '.') || (!field && !is_group(name))) {
		fault_unknown(reader, prefix, key, pointer);
	} else if (json_is_null(value)) {
		return;
	} else if (field) {
		cfg_read_value(reader, field, value, pointer);
		est_request_name(&reader->ret->request, field);
	} else if (json_is_object(value)) {
		est_copy_text(name + length, sizeof(name) - length, ".");
		read_group(reader, value, name, pointer);
	} else if (!read_group_word(reader, name, value)) {
		est_fault_add(reader->faults, pointer, EST_WRONG_TYPE, "must be an object");
	}
}

static void read_member_of(struct cfg_reader *reader, const char *prefix, const char *key, const json_t *value,
			   const char *pointer)
{
	char place[EST_POINTER_MAX];

	est_copy_text(place, sizeof(place), pointer);
	cfg_pointer_add(place, key);
	read_member(reader, prefix, key, value, place);
}

static void read_group(struct cfg_reader *reader, const json_t *object, const char *prefix, const char *pointer)
{
	const char *key;
	json_t *value;

	json_object_foreach(cfg_json_iterable(object), key, value)
		read_member_of(reader, prefix, key, value, pointer);
}

static void fault_missing(struct cfg_reader *reader, const char *base, const struct est_field *field)
{
	char place[2 * EST_POINTER_MAX];

	snprintf(place, sizeof(place), "%s%s", base, field->pointer);
	est_fault_add(reader->faults, place, EST_MISSING, "is required");
}

static void require_fields(struct cfg_reader *reader, const char *base)
{
	size_t i;

	for (i = 0; i < est_request_field_count; i++) {
		const struct est_field *field = &est_request_fields[i];

		if (field->required && !est_field_is_named(field, &reader->ret->request))
			fault_missing(reader, base, field);
	}
}

/* est_check() points into the request; the client sees the request where it lies in its batch. */
static bool check(struct cfg_request *request, const struct cfg_from *from, const char *base, struct est_faults *faults)
{
	size_t i = faults->count;
	bool right = est_check(&request->request, &request->model, faults);

	if (from)
		cfg_from_point(from, faults, i);
	for (; *base && i < faults->count && i < EST_FAULTS_MAX; i++) {
		char inside[EST_POINTER_MAX];

		if (!strncmp(faults->item[i].pointer, base, strlen(base)))
			continue;
		memcpy(inside, faults->item[i].pointer, sizeof(inside));
		snprintf(faults->item[i].pointer, sizeof(inside), "%.64s%.180s", base, inside);
	}
	return right;
}

/* An empty request: the lists, which are large, have no items, and are left as they are. */
void cfg_read_begin(struct cfg_request *ret)
{
	est_request_init(&ret->request);
	memset(&ret->model, 0, sizeof(ret->model));
	ret->notes.count = ret->warnings.count = 0;
	ret->ignored.listed = false;
	ret->ignored.total = ret->ignored.count = ret->ignored.used = 0;
	ret->card_count = 0;
	ret->cards_named = false;
}

/* What follows from the fields; from: the files they are from too, or NULL. before: the faults there were. */
static bool finish(struct cfg_reader *reader, const struct cfg_from *from, const char *base, size_t before)
{
	struct cfg_request *ret = reader->ret;
	struct cfg_reasons reasons;

	require_fields(reader, base);
	if (reader->faults->count > before)
		return false;
	cfg_finish_cards(reader->catalog, reader->size_count, ret);
	cfg_defaults_apply(&ret->request, &ret->model, &reasons);
	if (!reader->bare) {
		cfg_note_assumptions(&ret->request, &reasons, &ret->notes);
		cfg_warn_of_versions(&ret->request, &ret->warnings);
	}
	return check(ret, from, base, reader->faults) && !cfg_json_is_short();
}

static bool finish_with_files(struct cfg_reader *reader, const char *base, size_t before)
{
	struct cfg_from from; /* large, and seldom needed */

	return cfg_from_read(&from, reader, base) && finish(reader, &from, base, before);
}

void cfg_read_members(struct cfg_reader *reader, const json_t *body, const json_t *read, const char *base)
{
	const char *key;
	json_t *value;

	json_object_foreach(cfg_json_iterable(body), key, value)
		if (!json_object_get(read, key))
			read_member_of(reader, "", key, value, base);
}

bool cfg_read_finish(struct cfg_reader *reader, const char *base, size_t before)
{
	if (reader->ret->ignored.listed)
		return finish_with_files(reader, base, before);
	return finish(reader, NULL, base, before);
}

static bool read_whole(struct cfg_reader *reader, const json_t *body, const char *base)
{
	size_t before = reader->faults->count;

	cfg_read_begin(reader->ret);
	if (!json_is_object(body)) {
		est_fault_add(reader->faults, base, EST_WRONG_TYPE, "must be an object");
		return false;
	}
	cfg_read_members(reader, body, NULL, base);
	return cfg_read_finish(reader, base, before);
}

bool cfg_read_request(const json_t *body, const char *base, const struct cfg_catalog *catalog, struct cfg_request *ret,
		      struct est_faults *faults)
{
	struct cfg_reader reader = { .catalog = catalog, .ret = ret, .faults = faults };

	return read_whole(&reader, body, base);
}

bool cfg_read_run(const json_t *body, const char *base, const struct cfg_catalog *catalog, struct cfg_request *ret,
		  struct est_faults *faults)
{
	struct cfg_reader reader = { .catalog = catalog, .ret = ret, .faults = faults, .bare = true };

	return read_whole(&reader, body, base);
}
