#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include "server/handlers.h"
#include "server/write.h"

/* Sets the ETag of listing for this query and format; true when the client has it already (304). */
static bool is_unchanged(struct srv_call *call, const struct srv_listing *listing)
{
	const char *query = call->request->query ? call->request->query : "";
	uint64_t hash = est_hash(listing->hash, SRV_VERSION, sizeof SRV_VERSION);

	hash = est_hash(hash, &call->format, sizeof call->format);
	hash = est_hash(hash, query, strlen(query) + 1);
	hash = est_hash(hash, call->request->path, strlen(call->request->path));
	srv_reply_header(call->reply, "Cache-Control", "public, max-age=300");
	return srv_reply_etag(call->reply, call->request, hash);
}

bool srv_list_begin(struct srv_call *call, const struct srv_listing *listing, const struct srv_parameter *parameters, size_t count,
		    struct srv_value *values, struct srv_value *text)
{
	if (!srv_query_read(call->request->query, parameters, count, values, &call->context->faults)) {
		srv_reply_faults(call->reply, &call->context->faults);
		return false;
	}
	if (is_unchanged(call, listing))
		return false;
	for (char *at = text->text; *at; at++)
		*at = (char)tolower((unsigned char)*at);
	return true;
}

void srv_list_write(struct srv_call *call, const struct srv_listing *listing, size_t count, size_t total)
{
	struct srv_buffer *buffer = call->reply->buffer;

	call->reply->content_type = srv_format_media_type(call->format);
	if (call->format != SRV_JSON) {
		srv_write_rows(buffer, call->format, listing->table, call->context->rows, count);
		return;
	}
	srv_buffer_add_byte(buffer, '{');
	srv_write_string(buffer, listing->name);
	srv_buffer_add_byte(buffer, ':');
	srv_write_rows(buffer, SRV_JSON, listing->table, call->context->rows, count);
	SRV_PUT(buffer, ",\"total\":");
	srv_write_u64(buffer, total);
	srv_buffer_add_byte(buffer, '}');
}

void srv_list_write_one(struct srv_call *call, const struct srv_listing *listing, size_t i)
{
	if (is_unchanged(call, listing))
		return;
	call->reply->content_type = srv_format_media_type(call->format);
	if (call->format == SRV_JSON)
		srv_listing_write_one(call->reply->buffer, listing, i);
	else
		srv_write_rows(call->reply->buffer, call->format, listing->table, &listing->rows[i], 1);
}

void srv_list_not_found(struct srv_call *call, const char *noun, size_t candidates, const char *suggestion)
{
	char detail[EST_DETAIL_MAX];

	if (candidates > 1)
		snprintf(detail, sizeof detail, "the name stands for %zu %ss; use an id", candidates, noun);
	else if (suggestion)
		snprintf(detail, sizeof detail, "there is no such %s (did you mean %s?)", noun, suggestion);
	else
		snprintf(detail, sizeof detail, "there is no such %s", noun);
	srv_reply_problem(call->reply, SRV_NOT_FOUND, detail);
}
