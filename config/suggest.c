#include <ctype.h>
#include <string.h>
#include "config/config.h"

enum { LONGEST = 63 }; /* longer names are not compared: nobody mistypes them letter by letter */

static size_t least(size_t a, size_t b)
{
	return a < b ? a : b;
}

static bool same_letter(char a, char b)
{
	return tolower((unsigned char)a) == tolower((unsigned char)b);
}

size_t cfg_edit_distance(const char *a, const char *b)
{
	size_t rows[3][LONGEST + 1];
	size_t *before = rows[0], *above = rows[1], *row = rows[2];
	size_t a_length = strlen(a), b_length = strlen(b);

	if (a_length > LONGEST || b_length > LONGEST)
		return a_length > b_length ? a_length : b_length;
	for (size_t j = 0; j <= b_length; j++)
		above[j] = j;
	memset(before, 0, sizeof(rows[0]));
	for (size_t i = 1; i <= a_length; i++) {
		size_t *spare = before;

		row[0] = i;
		for (size_t j = 1; j <= b_length; j++) {
			size_t changed = above[j - 1] + !same_letter(a[i - 1], b[j - 1]);

			row[j] = least(changed, least(above[j], row[j - 1]) + 1);
			if (i > 1 && j > 1 && same_letter(a[i - 1], b[j - 2]) && same_letter(a[i - 2], b[j - 1]))
				row[j] = least(row[j], before[j - 2] + 1);
		}
		before = above;
		above = row;
		row = spare;
	}
	return above[b_length];
}

void cfg_suggestion_init(struct cfg_suggestion *suggestion, const char *name)
{
	suggestion->name = name;
	suggestion->nearest = NULL;
	suggestion->distance = strlen(name) / 3 + 1;
}

void cfg_suggestion_offer(struct cfg_suggestion *suggestion, const char *candidate)
{
	size_t distance = cfg_edit_distance(suggestion->name, candidate);

	if (distance >= suggestion->distance || distance >= strlen(candidate))
		return;
	suggestion->distance = distance;
	suggestion->nearest = candidate;
}
