#include "server/reply.h"
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include "server/memo.h"
#include "server/write.h"

void srv_reply_begin(struct srv_reply *reply, struct srv_buffer *buffer)
{
	srv_buffer_clear(buffer);
	reply->status = 200;
	reply->route = SRV_NO_ROUTE;
	reply->content_type = NULL;
	reply->fixed = NULL;
	reply->fixed_length = 0;
	reply->memory = NULL;
	reply->stream = NULL;
	reply->deferred = false;
	reply->buffer = buffer;
	reply->header_count = 0;
	reply->text_used = 0;
}

void srv_reply_header(struct srv_reply *reply, const char *name, const char *value)
{
	if (reply->header_count < SRV_HEADERS_MAX)
		reply->header[reply->header_count++] = (struct srv_header){ name, value };
}

void srv_reply_header_copy(struct srv_reply *reply, const char *name, const char *value)
{
	size_t size = strlen(value) + 1;
	char *copy = reply->text + reply->text_used;

	if (size > sizeof reply->text - reply->text_used)
		return;
	memcpy(copy, value, size);
	reply->text_used += size;
	srv_reply_header(reply, name, copy);
}

void srv_reply_drop_stream(struct srv_reply *reply)
{
	if (reply->stream)
		srv_stream_destroy(reply->stream);
	reply->stream = NULL;
}

void srv_reply_drop_body(struct srv_reply *reply)
{
	srv_buffer_clear(reply->buffer);
	srv_reply_drop_stream(reply);
	reply->fixed = NULL;
	reply->memory = NULL;
}

void srv_reply_drop_headers(struct srv_reply *reply)
{
	reply->header_count = 0;
	reply->text_used = 0;
}

const char *srv_reply_find(const struct srv_reply *reply, const char *name)
{
	for (size_t i = 0; i < reply->header_count; i++)
		if (!strcasecmp(reply->header[i].name, name))
			return reply->header[i].value;
	return NULL;
}

const char *srv_reply_body(const struct srv_reply *reply, size_t *ret_length)
{
	if (reply->fixed) {
		*ret_length = reply->fixed_length;
		return reply->fixed;
	}
	*ret_length = reply->buffer->length;
	return reply->buffer->length ? reply->buffer->data : "";
}

void srv_reply_fixed(struct srv_reply *reply, const char *content_type, const char *body, size_t length)
{
	reply->content_type = content_type;
	reply->fixed = body;
	reply->fixed_length = length;
}

void srv_reply_remembered(struct srv_reply *reply, const char *content_type, struct srv_memory *memory)
{
	size_t length;
	const char *body = srv_memory_bytes(memory, &length);

	srv_reply_fixed(reply, content_type, body, length);
	reply->memory = memory;
}

void srv_reply_copy_remembered(struct srv_reply *reply)
{
	if (!reply->memory)
		return;
	srv_buffer_clear(reply->buffer);
	srv_buffer_add(reply->buffer, reply->fixed, reply->fixed_length);
	reply->fixed = NULL;
	reply->memory = NULL;
}

/* Whether a list of entity tags holds tag; a weak one matches too (RFC 9110 13.1.2). */
static bool holds_tag(const char *list, const char *tag)
{
	size_t length = strlen(tag);

	for (;;) {
		list += strspn(list, ", \t");
		if (!*list)
			return false;
		if (*list == '*')
			return true;
		list += !strncmp(list, "W/", 2) ? 2 : 0;
		if (!strncmp(list, tag, length) && strchr(", \t", list[length])) /* the end of the text too */
			return true;
		list += strcspn(list, ",");
	}
}

bool srv_reply_etag(struct srv_reply *reply, const struct srv_request *request, uint64_t hash)
{
	char digits[SRV_HEX_SIZE], tag[sizeof digits + 2];

	srv_hex(hash, digits);
	snprintf(tag, sizeof tag, "\"%s\"", digits);
	srv_reply_header_copy(reply, "ETag", tag);
	if (!request->if_none_match || !holds_tag(request->if_none_match, tag))
		return false;
	reply->status = 304;
	return true;
}
