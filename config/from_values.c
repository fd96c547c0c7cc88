/* What a row of a format's table makes of the value of its key. */
#include "config/from.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { NUMBER_MAX = 32 }; /* bytes of a number as text */

/* A scalar as the words spell it; NULL for what is none. text has NUMBER_MAX bytes. */
static const char *spell(const json_t *value, char *text)
{
	if (json_is_string(value))
		return json_string_value(value);
	if (json_is_boolean(value))
		return json_is_true(value) ? "true" : "false";
	if (!json_is_number(value))
		return NULL;
	snprintf(text, NUMBER_MAX, "%.17g", json_number_value(value));
	return text;
}

static const struct cfg_from_word *find_word(const struct cfg_from_word *words, const char *text)
{
	for (; words && text && words->from; words++)
		if (!strcasecmp(words->from, text))
			return words;
	return NULL;
}

/* "auto" is the trainer's own choice, but where the field knows the word. */
static bool is_left_open(const struct est_field *field, const char *text)
{
	return text && !strcasecmp(text, "auto") && !(field->words && est_word_find(field->words, text, strlen(text)));
}

/* YAML leaves "1e9" and "8" text, and lists of names may be one text with commas. */
static bool needs_typing(const struct est_field *field, const json_t *value)
{
	return json_is_string(value) && field->kind != EST_FIELD_MODEL;
}

/* DeepSpeed builds the optimizer of its own file, whatever the trainer's arguments say. */
static bool is_overruled(const struct cfg_from *from, const struct est_field *field)
{
	const char *source = from->source[field - est_request_fields];

	return from->format != &cfg_from_deepspeed && from->read[0] && strstr(source, "/deepspeed/optimizer/");
}

static void take_field(struct cfg_from *from, const struct cfg_from_row *row, const json_t *value, const char *pointer)
{
	const struct est_field *field = est_field_find(row->field);
	char buffer[NUMBER_MAX];
	const char *text = spell(value, buffer);
	const struct cfg_from_word *word = find_word(row->words, text);

	if (word && !word->to)
		return;
	if (is_overruled(from, field))
		cfg_from_ignore(from, pointer);
	else if (word)
		cfg_from_put(from, row->field, word->to, pointer);
	else if (is_left_open(field, text))
		return;
	else if (needs_typing(field, value))
		cfg_from_put(from, row->field, text, pointer);
	else
		cfg_from_put_value(from, field, value, pointer);
}

void cfg_from_say(struct cfg_from *from, enum cfg_from_fact which, int64_t value, const char *pointer)
{
	struct cfg_fact *fact = &from->facts[which];

	if (fact->said && fact->value != value) {
		est_fault_add(from->reader->faults, pointer, EST_CONTRADICTION, "says otherwise than %.150s", fact->pointer);
		return;
	}
	if (fact->said)
		return;
	fact->said = true;
	fact->value = value;
	fact->format = from->format;
	snprintf(fact->pointer, sizeof(fact->pointer), "%s", pointer);
}

static void take_fact(struct cfg_from *from, const struct cfg_from_row *row, const json_t *value, const char *pointer)
{
	char buffer[NUMBER_MAX], list[160] = "";
	const char *text = spell(value, buffer);
	const struct cfg_from_word *word = find_word(row->words, text);
	double number;

	if (word && word->to)
		cfg_from_say(from, row->fact, strtol(word->to, NULL, 10), pointer);
	else if (word || (text && !strcasecmp(text, "auto")))
		return;
	else if (!row->words && cfg_json_whole(value, &number) && number >= 0)
		cfg_from_say(from, row->fact, (int64_t)number, pointer);
	else if (!row->words)
		est_fault_add(from->reader->faults, pointer, EST_WRONG_TYPE, "must be a whole number");
	else {
		for (word = row->words; word->from; word++)
			snprintf(list + strlen(list), sizeof(list) - strlen(list), "%s%s", *list ? ", " : "", word->from);
		est_fault_add(from->reader->faults, pointer, text ? EST_UNKNOWN_VALUE : EST_WRONG_TYPE,
			      "must be one of %s: nothing else is modelled", list);
	}
}

static void take_fsdp_word(struct cfg_from *from, const char *text, size_t length, const char *pointer)
{
	const struct cfg_from_word *word = cfg_from_fsdp_words;

	while (word->from && (strlen(word->from) != length || strncasecmp(word->from, text, length)))
		word++;
	if (!word->from)
		est_fault_add(from->reader->faults, pointer, EST_UNKNOWN_VALUE,
			      "must be true, or of full_shard, shard_grad_op, no_shard, hybrid_shard, offload, auto_wrap");
	else if (!word->to)
		cfg_from_say(from, CFG_FSDP_OFFLOAD, 1, pointer);
	else if (*word->to)
		cfg_from_say(from, CFG_SHARDING, strtol(word->to, NULL, 10), pointer);
}

/* true, "full_shard auto_wrap" or ["full_shard", "auto_wrap"]; false and "" are off. */
static void take_fsdp(struct cfg_from *from, const json_t *value, const char *pointer)
{
	const char *text = json_string_value(value);
	size_t i, length;

	if (json_is_false(value) || (text && !*text) || (json_is_array(value) && !json_array_size(value)))
		return;
	cfg_from_say(from, CFG_FSDP_ON, 1, pointer);
	for (i = 0; i < json_array_size(value); i++) {
		const char *item = json_string_value(json_array_get(value, i));

		if (item)
			take_fsdp_word(from, item, strlen(item), pointer);
	}
	for (; text && *text; text += length + strspn(text + length, " ")) {
		length = strcspn(text, " ");
		take_fsdp_word(from, text, length, pointer);
	}
}

static bool is_off(const json_t *value)
{
	static const char *const words[] = { "", "no", "none", "false", "off", "auto" };
	const char *text = json_string_value(value);
	size_t i;

	for (i = 0; text && i < sizeof(words) / sizeof(words[0]); i++)
		if (!strcasecmp(text, words[i]))
			return true;
	return json_is_false(value) || (json_is_number(value) && json_number_value(value) == 0)
	       || (json_is_object(value) && !json_object_size(value)) || (json_is_array(value) && !json_array_size(value));
}

/* A path to another file, whose content must be beside it. */
static void take_path(struct cfg_from *from, const struct cfg_from_row *row, const json_t *value, const char *pointer)
{
	if (!is_off(value) && !from->read[0])
		est_fault_add(from->reader->faults, pointer, EST_MISSING,
			      "names a file that cannot be read from here: put its content in from.%s", row->why);
}

static void warn(struct cfg_from *from, const struct cfg_from_row *row, const char *pointer)
{
	est_note_add(&from->reader->ret->warnings, "/from", "",
		     "%.150s %s: not modelled, the figures are those without it", pointer, row->why);
	cfg_from_ignore(from, pointer);
}

void cfg_from_take(struct cfg_from *from, const struct cfg_from_row *row, const json_t *value, const char *pointer)
{
	switch (row->how) {
	case CFG_FROM_FIELD:
		take_field(from, row, value, pointer);
		break;
	case CFG_FROM_FACT:
		take_fact(from, row, value, pointer);
		break;
	case CFG_FROM_FSDP:
		take_fsdp(from, value, pointer);
		break;
	case CFG_FROM_FILE:
		take_path(from, row, value, pointer);
		break;
	case CFG_FROM_OFF:
		if (!is_off(value))
			est_fault_add(from->reader->faults, pointer, EST_NOT_SUPPORTED_YET, "%s", row->why);
		break;
	case CFG_FROM_WARN:
		if (!is_off(value))
			warn(from, row, pointer);
		break;
	}
}
