/* A body that is made while it is sent, part by part, so that a long answer neither holds its thread nor fills the memory. */
#ifndef SRV_STREAM_H
#define SRV_STREAM_H

#include <stdbool.h>
#include "server/buffer.h"

struct srv_stream {
	/* Appends the next part of the body to buffer. False when there is no more, and nothing was appended. Called by the
	 * thread that made the stream, between its other requests. */
	bool (*next)(struct srv_stream *stream, struct srv_buffer *buffer);
	void (*destroy)(struct srv_stream *stream);
};

/* Appends all that is left of the stream to buffer and destroys it: for who has no socket. */
void srv_stream_drain(struct srv_stream *stream, struct srv_buffer *buffer);

#endif
