#include "server/http.h"
#include <microhttpd.h>
#include <stdlib.h>

enum { BLOCK_SIZE = 32 * 1024 }; /* libmicrohttpd's own buffer of a streamed answer */

struct body {
	struct srv_stream *stream;
	struct srv_context *context;
	struct srv_buffer part;   /* made and not sent yet, from sent on */
	size_t sent;
};

/* One part at most is made in a call: the loop serves others before the next. */
static ssize_t read_body(void *closure, uint64_t position, char *ret, size_t room)
{
	struct body *body = closure;
	size_t length;

	(void)position;
	if (body->sent == body->part.length) {
		srv_buffer_clear(&body->part);
		body->sent = 0;
		if (!srv_stream_part(body->stream, body->context, &body->part))
			return MHD_CONTENT_READER_END_OF_STREAM;
		if (body->part.failed)
			return MHD_CONTENT_READER_END_WITH_ERROR; /* the client sees a body that is cut off */
	}
	length = body->part.length - body->sent;
	length = length < room ? length : room;
	memcpy(ret, body->part.data + body->sent, length);
	body->sent += length;
	return (ssize_t)length;
}

static void free_body(void *closure)
{
	struct body *body = closure;

	srv_stream_destroy(body->stream);
	srv_buffer_finish(&body->part);
	free(body);
}

struct MHD_Response *srv_http_stream(struct srv_context *context, struct srv_stream *stream)
{
	struct body *body = calloc(1, sizeof *body);
	struct MHD_Response *response;

	if (!body) {
		srv_stream_destroy(stream);
		return NULL;
	}
	body->stream = stream;
	body->context = context;
	response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK_SIZE, read_body, body, free_body);
	if (!response)
		free_body(body);
	return response;
}
