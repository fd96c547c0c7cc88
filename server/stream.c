#include "server/stream.h"

void srv_stream_drain(struct srv_stream *stream, struct srv_buffer *buffer)
{
	while (stream->next(stream, buffer))
		continue;
	stream->destroy(stream);
}
