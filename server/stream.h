/* A body that is made while it is sent, part by part, so that a long answer neither holds its thread nor fills the
 * memory. */
#ifndef SRV_STREAM_H
#define SRV_STREAM_H

#include <stdbool.h>
#include "server/buffer.h"

struct srv_context;
struct srv_edition;

struct srv_stream {
	/* Appends the next part of the body to buffer. False when there is no more, and nothing was appended. The thread is
	 * whose context it is; it may differ from part to part. */
	bool (*next)(struct srv_stream *stream, struct srv_context *context, struct srv_buffer *buffer);
	void (*destroy)(struct srv_stream *stream);
	struct srv_edition *edition; /* that the stream began with, held */
};

/* The next part, by the edition that the stream began with. */
bool srv_stream_part(struct srv_stream *stream, struct srv_context *context, struct srv_buffer *buffer);

/* Appends all that is left to buffer and destroys the stream: for who has no socket. */
void srv_stream_drain(struct srv_stream *stream, struct srv_context *context, struct srv_buffer *buffer);

/* Releases the edition too. */
void srv_stream_destroy(struct srv_stream *stream);

#endif
