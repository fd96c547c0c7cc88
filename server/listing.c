#include "server/listing.h"
#include <ctype.h>
#include <stdlib.h>
#include "estimator/memo.h"
#include "server/write.h"

bool srv_listing_init(struct srv_listing *listing, const char *name, const struct srv_table *table, size_t count,
		      size_t size)
{
	size_t room = count ? count : 1;

	listing->name = name;
	listing->table = table;
	listing->count = count;
	listing->hash = 0;
	listing->storage = calloc(room, size);
	listing->rows = calloc(room, sizeof *listing->rows);
	listing->search = calloc(room, sizeof *listing->search);
	listing->source = calloc(room, sizeof *listing->source);
	return listing->storage && listing->rows && listing->search && listing->source;
}

void srv_listing_finish(struct srv_listing *listing)
{
	for (size_t i = 0; i < listing->count; i++) {
		if (listing->search)
			free(listing->search[i]);
		if (listing->source)
			free(listing->source[i]);
	}
	free(listing->storage);
	free(listing->rows);
	free(listing->search);
	free(listing->source);
	*listing = (struct srv_listing){ 0 };
}

void *srv_listing_row(struct srv_listing *listing, size_t i, size_t size)
{
	char *row = (char *)listing->storage + i * size;

	listing->rows[i] = row;
	return row;
}

static void add_line(struct srv_buffer *buffer, const json_t *value)
{
	const char *text = json_string_value(value);

	if (!text)
		return;
	for (; *text; text++)
		srv_buffer_add_byte(buffer, (char)tolower((unsigned char)*text));
	srv_buffer_add_byte(buffer, '\n');
}

bool srv_listing_keep(struct srv_listing *listing, size_t i, const json_t *source, const char *const *keys)
{
	struct srv_buffer search = { 0 };
	size_t length;

	for (; *keys; keys++) {
		const json_t *value = json_object_get(source, *keys);

		add_line(&search, value);
		for (size_t j = 0; j < json_array_size(value); j++)
			add_line(&search, json_array_get(value, j));
	}
	srv_buffer_add_byte(&search, '\0');
	if (search.failed) {
		srv_buffer_finish(&search);
		return false;
	}
	listing->search[i] = srv_buffer_release(&search, &length);
	/* 15 digits: 0.1 stays 0.1 */
	listing->source[i] = json_dumps(source, JSON_COMPACT | JSON_REAL_PRECISION(15));
	if (!listing->source[i])
		return false;
	listing->hash = est_hash(listing->hash, listing->source[i], strlen(listing->source[i]) + 1);
	return true;
}

static bool holds(const char *search, const char *word, size_t length)
{
	for (; (search = strchr(search, *word)); search++)
		if (!strncmp(search, word, length))
			return true;
	return false;
}

bool srv_listing_matches(const struct srv_listing *listing, size_t i, const char *text)
{
	size_t length;

	for (text += strspn(text, " "); *text; text += strspn(text, " ")) {
		length = strcspn(text, " ");
		if (!holds(listing->search[i], text, length))
			return false;
		text += length;
	}
	return true;
}

void srv_listing_write_one(struct srv_buffer *buffer, const struct srv_listing *listing, size_t i)
{
	srv_buffer_add_byte(buffer, '{');
	srv_write_members(buffer, listing->table, listing->rows[i]);
	SRV_PUT(buffer, ",\"catalog\":");
	srv_write_text(buffer, listing->source[i]);
	srv_buffer_add_byte(buffer, '}');
}
