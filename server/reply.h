/* What a client asked and what it gets, without a socket. */
#ifndef SRV_REPLY_H
#define SRV_REPLY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "server/stream.h"

/* A request as the transport hands it over. Texts are borrowed for the call, NULL when the header is absent. */
struct srv_request {
	const char *method;           /* "POST"; case matters */
	const char *path;             /* as sent, still percent-encoded, without the query */
	const char *query;            /* behind the '?', still percent-encoded */
	const char *accept, *content_type, *content_encoding, *if_none_match;
	const char *origin, *preflight_method, *request_id, *authorization;
	const char *body;             /* body_length bytes; not NUL-ended */
	size_t body_length;
};

enum { SRV_HEADERS_MAX = 16, SRV_HEADER_TEXT_MAX = 1024 };

struct srv_header {
	const char *name, *value;
};

struct srv_memory;

/* An answer. The body is fixed (lives as long as the process, or as memory is held), or made while it is sent, or in the buffer that
 * the reply was begun with. */
struct srv_reply {
	int status;
	int route;                    /* of the table of routes, for the metrics; SRV_NO_ROUTE */
	const char *content_type;     /* NULL: no body */
	const char *fixed;
	size_t fixed_length;
	struct srv_memory *memory;    /* NULL, or of which fixed is the answer: borrowed until the context's next answer */
	struct srv_stream *stream;    /* NULL, or the body; belongs to who sends the reply */
	bool deferred;                /* nothing is answered: it takes long, and the context is one that defers */
	struct srv_buffer *buffer;
	size_t header_count;
	struct srv_header header[SRV_HEADERS_MAX];
	char text[SRV_HEADER_TEXT_MAX]; /* values that had to be made */
	size_t text_used;
};
enum { SRV_NO_ROUTE = -1 };

/* An empty 200 that writes its body to buffer, which is cleared. */
void srv_reply_begin(struct srv_reply *reply, struct srv_buffer *buffer);

/* Adds a header. value is borrowed and has to outlive the reply. */
void srv_reply_header(struct srv_reply *reply, const char *name, const char *value);
/* The same with a value that is copied; dropped when there is no room. */
void srv_reply_header_copy(struct srv_reply *reply, const char *name, const char *value);

/* Drops a body that would have been streamed. */
void srv_reply_drop_stream(struct srv_reply *reply);

/* Drops the body, whatever it is. */
void srv_reply_drop_body(struct srv_reply *reply);

/* Drops every header so far. */
void srv_reply_drop_headers(struct srv_reply *reply);

/* The value of a header of the reply, or NULL. */
const char *srv_reply_find(const struct srv_reply *reply, const char *name);

/* The bytes of the body. */
const char *srv_reply_body(const struct srv_reply *reply, size_t *ret_length);

/* A body that lives as long as the process. */
void srv_reply_fixed(struct srv_reply *reply, const char *content_type, const char *body, size_t length);

/* A body that is remembered. */
void srv_reply_remembered(struct srv_reply *reply, const char *content_type, struct srv_memory *memory);
/* Such a body becomes one in the buffer: memories are held by one thread, and the reply goes to another. */
void srv_reply_copy_remembered(struct srv_reply *reply);

/* Sets a strong ETag made of hash. True when If-None-Match holds it: the reply is then a 304 and needs no body. */
bool srv_reply_etag(struct srv_reply *reply, const struct srv_request *request, uint64_t hash);

#endif
