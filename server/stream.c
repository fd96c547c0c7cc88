#include "server/stream.h"
#include "server/service.h"

struct srv_span srv_stream_span(const struct srv_stream *stream)
{
	return (struct srv_span){ 0, stream->items };
}

bool srv_stream_part(struct srv_stream *stream, struct srv_span *span, struct srv_context *context,
		     struct srv_buffer *buffer)
{
	struct srv_edition *now = context->edition;
	bool more;

	context->edition = stream->edition;
	more = stream->next(stream, span, context, buffer);
	context->edition = now;
	return more;
}

void srv_stream_drain(struct srv_stream *stream, struct srv_context *context, struct srv_buffer *buffer)
{
	struct srv_span span = srv_stream_span(stream);

	while (srv_stream_part(stream, &span, context, buffer))
		continue;
	srv_stream_destroy(stream);
}

void srv_stream_destroy(struct srv_stream *stream)
{
	struct srv_edition *edition = stream->edition;

	stream->destroy(stream);
	srv_edition_release(edition);
}
