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
		length = character_length(key);
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

	snprintf(digits, sizeof(digits), "%zu", index);
	cfg_pointer_add(pointer, digits);
}
