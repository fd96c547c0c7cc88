/* What comes from the workers: connections sleep while a worker has their job; answers that are made part by part. */
#include <microhttpd.h>
#include <stdlib.h>
#include "server/http.h"

enum { BLOCK_SIZE = 32 * 1024 }; /* libmicrohttpd's own buffer of a streamed answer */

void srv_http_submit(struct srv_http *http, struct MHD_Connection *connection, struct srv_connection *peer,
		     struct srv_job *job)
{
	job->desk = &http->desk;
	job->connection = connection;
	job->peer = peer;
	if (peer)
		peer->waits = true;
	http->jobs++;
	MHD_suspend_connection(connection);
	srv_pool_do(http->pool, job);
}

/* The client's time begins anew: what passed was ours. */
static void wake(struct srv_connection *peer)
{
	if (!peer)
		return;
	peer->waits = false;
	peer->since = srv_now();
}

void srv_http_resume(struct srv_http *http)
{
	struct srv_job *next;

	for (struct srv_job *job = srv_desk_take(&http->desk); job; job = next) {
		next = job->next;
		http->jobs--;
		wake(job->peer);
		MHD_resume_connection(job->connection);
	}
}

/* ---- a body in parts */

struct body {
	struct srv_http *http;
	struct MHD_Connection *connection;
	struct srv_connection *peer;
	struct srv_job job;       /* makes the parts; its buffer is sent from sent on */
	size_t sent;
};

/* Sends what there is; else has a worker make more, and the connection sleeps until then. */
static ssize_t read_body(void *closure, uint64_t position, char *ret, size_t room)
{
	struct body *body = closure;
	struct srv_job *job = &body->job;
	size_t length = job->buffer.length - body->sent;

	(void)position;
	if (job->buffer.failed)
		return MHD_CONTENT_READER_END_WITH_ERROR; /* the client sees a body that is cut off */
	if (!length && job->ended)
		return MHD_CONTENT_READER_END_OF_STREAM;
	if (!length) {
		srv_buffer_clear(&job->buffer);
		body->sent = 0;
		srv_http_submit(body->http, body->connection, body->peer, job);
		return 0;
	}
	length = length < room ? length : room;
	memcpy(ret, job->buffer.data + body->sent, length);
	body->sent += length;
	return (ssize_t)length;
}

static void free_body(void *closure)
{
	struct body *body = closure;

	srv_stream_destroy(body->job.stream);
	srv_buffer_finish(&body->job.buffer);
	free(body);
}

struct MHD_Response *srv_http_stream(struct srv_http *http, struct MHD_Connection *connection,
				     struct srv_connection *peer, struct srv_stream *stream)
{
	struct body *body = calloc(1, sizeof *body);
	struct MHD_Response *response;

	if (!body) {
		srv_stream_destroy(stream);
		return NULL;
	}
	*body = (struct body){ .http = http, .connection = connection, .peer = peer, .job = { .stream = stream } };
	response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK_SIZE, read_body, body, free_body);
	if (!response)
		free_body(body);
	return response;
}
