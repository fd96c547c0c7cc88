#include "server/advice.h"
#include <math.h>
#include <stdio.h>
#include "server/write.h"

static bool is_word(const struct est_field *field)
{
	return field->kind == EST_FIELD_WORD || field->kind == EST_FIELD_CHECKPOINTING;
}

/* A word as it is spelled, anything else as its text, which is JSON; in text where it has to be made. */
static const char *value_text(const struct est_field *field, double value, char *text, size_t size)
{
	struct est_request request = { 0 };

	if (isnan(value))
		return "null"; /* the request's own is left out */
	if (is_word(field))
		return est_word_name(field->words, (int)value);
	est_field_set(field, &request, value);
	return est_field_text(field, &request, text, size);
}

static void write_value(struct srv_buffer *buffer, const struct est_field *field, double value)
{
	char room[64];
	const char *text = value_text(field, value, room, sizeof room);

	if (is_word(field) && !isnan(value))
		srv_write_string(buffer, text);
	else
		srv_write_text(buffer, text);
}

void srv_change_words(const struct cfg_change *changes, size_t count, char *ret, size_t size)
{
	char room[64];
	size_t used = 0;

	ret[0] = '\0';
	for (size_t i = 0; i < count && used < size; i++) {
		const char *value = value_text(est_field_find(changes[i].name), changes[i].value, room, sizeof room);

		used += (size_t)snprintf(ret + used, size - used, "%s%s=%s", i ? " " : "", changes[i].name, value);
	}
}

/* Bytes of name that are the same group as before, dot included. */
static size_t group_length(const char *name)
{
	size_t length = strcspn(name, ".");

	return name[length] ? length + 1 : 0;
}

void srv_write_changes(struct srv_buffer *buffer, const struct cfg_change *changes, size_t count)
{
	const char *open = NULL; /* the name in whose group we are */

	srv_buffer_add_byte(buffer, '{');
	for (size_t i = 0; i < count; i++) {
		const char *name = changes[i].name;
		size_t group = group_length(name);
		bool same = open && group && !strncmp(open, name, group);

		if (open && !same)
			srv_buffer_add_byte(buffer, '}');
		if (i)
			srv_buffer_add_byte(buffer, ',');
		if (group && !same) {
			srv_write_string_n(buffer, name, group - 1);
			SRV_PUT(buffer, ":{");
		}
		open = group ? name : NULL;
		srv_write_string(buffer, name + group);
		srv_buffer_add_byte(buffer, ':');
		write_value(buffer, est_field_find(name), changes[i].value);
	}
	if (open)
		srv_buffer_add_byte(buffer, '}');
	srv_buffer_add_byte(buffer, '}');
}

static void write_cards(struct srv_buffer *buffer, const struct cfg_request *request, const bool *marked)
{
	bool first = true;

	srv_buffer_add_byte(buffer, '[');
	for (size_t i = 0; i < request->card_count; i++) {
		if (!marked[i])
			continue;
		if (!first)
			srv_buffer_add_byte(buffer, ',');
		first = false;
		srv_write_string(buffer, request->cards[i]->id);
	}
	srv_buffer_add_byte(buffer, ']');
}

void srv_write_advice(struct srv_buffer *buffer, const struct cfg_request *request, const struct cfg_advice *advice,
		      size_t count)
{
	srv_buffer_add_byte(buffer, '[');
	for (size_t i = 0; i < count; i++) {
		if (i)
			srv_buffer_add_byte(buffer, ',');
		SRV_PUT(buffer, "{\"change\":");
		srv_write_changes(buffer, advice[i].changes, advice[i].change_count);
		SRV_PUT(buffer, ",\"saves_bytes\":");
		srv_write_u64(buffer, advice[i].saves);
		SRV_PUT(buffer, ",\"required_bytes\":");
		srv_write_u64(buffer, advice[i].required);
		SRV_PUT(buffer, ",\"cost\":");
		srv_write_string(buffer, advice[i].cost);
		SRV_PUT(buffer, ",\"makes_fit\":");
		write_cards(buffer, request, advice[i].makes_fit);
		srv_buffer_add_byte(buffer, '}');
	}
	srv_buffer_add_byte(buffer, ']');
}
