/* A body that is made while it is sent, part by part, so that a long answer neither holds its thread nor fills the
 * memory. One of items that do not depend on each other may be made by several threads at once, a span of it each. */
#ifndef SRV_STREAM_H
#define SRV_STREAM_H

#include <stdatomic.h>
#include <stdbool.h>
#include "server/buffer.h"

struct srv_context;
struct srv_edition;

/* What of the items is still to be made: at, and the ones after it before end. */
struct srv_span {
	size_t at, end;
};

struct srv_stream {
	/* Appends the next part of the body to buffer and says whether the span has more. The thread is whose context it is; it
	 * may differ from part to part. Where there are items a part is one of them, and several threads may be here at once,
	 * each for a span of its own: the stream itself does not change. */
	bool (*next)(struct srv_stream *stream, struct srv_span *span, struct srv_context *context, struct srv_buffer *buffer);
	void (*destroy)(struct srv_stream *stream);
	size_t items;                /* 0: one part follows from the other, and their number is not known */
	atomic_bool left;            /* nobody waits for the rest */
	struct srv_edition *edition; /* that the stream began with, held */
};

/* The whole of the stream. */
struct srv_span srv_stream_span(const struct srv_stream *stream);

/* The next part of the span, by the edition that the stream began with. */
bool srv_stream_part(struct srv_stream *stream, struct srv_span *span, struct srv_context *context,
		     struct srv_buffer *buffer);

/* Appends all of it to buffer and destroys the stream: for who has no socket. */
void srv_stream_drain(struct srv_stream *stream, struct srv_context *context, struct srv_buffer *buffer);

/* Releases the edition too. */
void srv_stream_destroy(struct srv_stream *stream);

#endif
