#include <string.h>
#include "config/read.h"

enum { SORTED_MAX = 64 }; /* members of an object; of more the order is kept */

struct text {
	unsigned char *bytes;
	size_t length, room;
	bool whole;
};

struct member {
	const char *key;
	const json_t *value;
};

static void put(struct text *text, const void *bytes, size_t length)
{
	text->whole = text->whole && length <= text->room - text->length;
	if (!text->whole)
		return;
	memcpy(text->bytes + text->length, bytes, length);
	text->length += length;
}

static void put_count(struct text *text, char tag, size_t count)
{
	put(text, &tag, 1);
	put(text, &count, sizeof(count));
}

static void put_value(struct text *text, const json_t *value);

static void put_member(struct text *text, const struct member *member)
{
	put(text, member->key, strlen(member->key) + 1);
	put_value(text, member->value);
}

/* By insertion: they are few. */
static void put_sorted(struct text *text, const json_t *object)
{
	struct member members[SORTED_MAX], next;
	size_t count = 0, at;
	json_t *value;

	json_object_foreach(cfg_json_iterable(object), next.key, value) {
		next.value = value;
		for (at = count++; at > 0 && strcmp(members[at - 1].key, next.key) > 0; at--)
			members[at] = members[at - 1];
		members[at] = next;
	}
	for (size_t i = 0; i < count; i++)
		put_member(text, &members[i]);
}

static void put_object(struct text *text, const json_t *object)
{
	struct member member;
	json_t *value;

	put_count(text, '{', json_object_size(object));
	if (json_object_size(object) <= SORTED_MAX) {
		put_sorted(text, object);
		return;
	}
	json_object_foreach(cfg_json_iterable(object), member.key, value) {
		member.value = value;
		put_member(text, &member);
	}
}

static void put_list(struct text *text, const json_t *list)
{
	size_t i;
	const json_t *item;

	put_count(text, '[', json_array_size(list));
	json_array_foreach(list, i, item)
		put_value(text, item);
}

static void put_value(struct text *text, const json_t *value)
{
	json_int_t whole = json_integer_value(value);
	double real = json_real_value(value);

	switch (json_typeof(value)) {
	case JSON_OBJECT:
		put_object(text, value);
		break;
	case JSON_ARRAY:
		put_list(text, value);
		break;
	case JSON_STRING:
		put_count(text, '"', json_string_length(value));
		put(text, json_string_value(value), json_string_length(value));
		break;
	case JSON_INTEGER:
		put(text, "i", 1);
		put(text, &whole, sizeof(whole));
		break;
	case JSON_REAL:
		put(text, "r", 1);
		put(text, &real, sizeof(real));
		break;
	default:
		put(text, json_is_null(value) ? "n" : json_is_true(value) ? "t" : "f", 1);
	}
}

size_t cfg_json_spell(const json_t *value, void *to, size_t room)
{
	struct text text = { .bytes = to, .room = room, .whole = true };

	put_value(&text, value);
	return text.whole ? text.length : 0;
}
