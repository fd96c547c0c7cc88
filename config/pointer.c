#include <stdio.h>
#include <string.h>
#include "config/read.h"

static size_t character_length(const char *text)
{
	size_t length = 1;

	while (((unsigned char)text[length] & 0xC0) == 0x80)
		length++;
	return length;
}

static bool append(char pointer[EST_POINTER_MAX], size_t *used, const char *bytes, size_t length)
{
	if (*used + length >= EST_POINTER_MAX)
		return false;
	memcpy(pointer + *used, bytes, length);
	*used += length;
	pointer[*used] = '\0';
	return true;
}

void cfg_pointer_add(char pointer[EST_POINTER_MAX], const char *key)
{
	size_t used = strlen(pointer), length;
	bool room = append(pointer, &used, "/", 1);

	for (; room && *key; key += length) {
		length = strcspn(key, "~/");
		if (length && append(pointer, &used, key, length))
			continue;
		length = character_length(key); /* escaped, or one by one to where the room ends */
		if (*key == '~')
			room = append(pointer, &used, "~0", 2);
		else if (*key == '/')
			room = append(pointer, &used, "~1", 2);
		else
			room = append(pointer, &used, key, length);
	}
}

void cfg_pointer_add_index(char pointer[EST_POINTER_MAX], size_t index)
{
	char digits[24];

	est_whole_text((int64_t)index, digits, sizeof(digits));
	cfg_pointer_add(pointer, digits);
}

static bool is_listed(const char *const known[], const char *key)
{
	while (*known && strcmp(*known, key))
		known++;
	return *known != NULL;
}

/* "a, b and c" */
static void list_names(const char *const names[], char *text, size_t size)
{
	for (size_t i = 0, used = 0; names[i] && used < size; i++) {
		const char *before = i == 0 ? "" : names[i + 1] ? ", " : " and ";

		used += (size_t)snprintf(text + used, size - used, "%s%s", before, names[i]);
	}
}

void cfg_check_members(const json_t *body, const char *const known[], struct est_faults *faults)
{
	char names[EST_DETAIL_MAX] = "";
	const char *key;
	json_t *value;

	list_names(known, names, sizeof(names));
	json_object_foreach(cfg_json_iterable(body), key, value) {
		char pointer[EST_POINTER_MAX] = "";

		cfg_pointer_add(pointer, key);
		if (!is_listed(known, key))
			est_fault_add(faults, pointer, EST_UNKNOWN_FIELD, "is not a known field: there are %.200s", names);
	}
}
