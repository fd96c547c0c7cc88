/* Where est_field_find() looks for a name: a table of hashes, made when the estimator is built (slots.c). */
#ifndef EST_SLOTS_H
#define EST_SLOTS_H

#include <stddef.h>
#include <string.h>

enum { EST_SLOTS = 512 };

/* Of the letters that tell the names of fields apart, and the length. Names with the same one follow each other. */
static inline size_t est_slot(const char *name)
{
	size_t length = strlen(name);
	const unsigned char *bytes = (const unsigned char *)name;

	if (!length)
		return 0;
	return (length * 31 + bytes[length - 1] * 7u + bytes[length / 2] * 37u + bytes[length * 3 / 4] * 11u + bytes[0])
	       % EST_SLOTS;
}

#endif
