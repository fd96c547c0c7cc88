/* What comes from the workers: connections sleep while a worker has their job; answers that are made part by part.
 *
 * A body of which several threads may make spans at once has a ring of slots, each with a span and the job that makes it:
 * the first slot's is being sent, the others' follow in order and are made ahead while workers have nothing else to do.
 * Each stops at a part's size until its turn comes: how much is made ahead depends on the slots, not on the client. */
#include <microhttpd.h>
#include <stdlib.h>
#include "server/http.h"

enum {
	BLOCK_SIZE = 32 * 1024, /* libmicrohttpd's own buffer of a streamed answer */
	SLOTS_A_THREAD = 2,     /* so that none of them waits for another whose span takes long */
	FIRST_ITEMS = 32        /* of a span at most, as long as nothing is known of the items' sizes */
};

struct slot {
	struct srv_job job;
	bool taken, out;        /* it has a span; a worker has it */
};

struct srv_body { /* the loop's own, but for the jobs that are out */
	struct srv_http *http;
	struct MHD_Connection *connection;
	struct srv_connection *peer;
	struct srv_stream *stream;
	struct srv_span rest;     /* what no slot has yet */
	uint64_t items, bytes;    /* sent so far */
	size_t sent;              /* of the first slot's buffer */
	size_t out;               /* jobs with the workers */
	bool sleeps;              /* the connection, until the first slot's job is done */
	bool dropped;             /* there is no connection any more */
	size_t first, count;
	struct slot slots[];
};

static void free_body(struct srv_body *body)
{
	srv_stream_destroy(body->stream);
	for (size_t i = 0; i < body->count; i++)
		srv_buffer_finish(&body->slots[i].job.buffer);
	free(body);
}

/* ---- to the workers and back */

static void sleep_until_done(struct MHD_Connection *connection, struct srv_connection *peer)
{
	if (peer)
		peer->waits = true;
	MHD_suspend_connection(connection);
}

/* The client's time begins anew: what passed was ours. */
static void wake(struct MHD_Connection *connection, struct srv_connection *peer)
{
	if (peer) {
		peer->waits = false;
		peer->since = srv_now();
	}
	MHD_resume_connection(connection);
}

void srv_http_submit(struct srv_http *http, struct MHD_Connection *connection, struct srv_connection *peer,
		     struct srv_job *job)
{
	job->desk = &http->desk;
	job->connection = connection;
	job->peer = peer;
	http->jobs++;
	sleep_until_done(connection, peer);
	srv_pool_do(http->pool, job);
}

static struct slot *slot_at(struct srv_body *body, size_t i)
{
	return &body->slots[(body->first + i) % body->count];
}

static void hand_out(struct srv_body *body, struct slot *slot, void (*queue)(struct srv_pool *pool, struct srv_job *job))
{
	slot->out = true;
	body->out++;
	body->http->jobs++;
	queue(body->http->pool, &slot->job);
}

/* Has the slots behind the first go on. */
static void work_ahead(struct srv_body *body)
{
	for (size_t i = 1; i < body->count; i++) {
		struct slot *slot = slot_at(body, i);

		if (slot->taken && !slot->out && !slot->job.ended && !slot->job.buffer.failed
		    && slot->job.buffer.length < SRV_PART_SIZE)
			hand_out(body, slot, srv_pool_do_ahead);
	}
}

static void come_back(struct srv_body *body, struct slot *slot)
{
	slot->out = false;
	body->out--;
	if (body->dropped && !body->out) {
		free_body(body);
	} else if (!body->dropped && body->sleeps && slot == slot_at(body, 0)) {
		body->sleeps = false;
		wake(body->connection, body->peer);
	} else if (!body->dropped) {
		work_ahead(body);
	}
}

void srv_http_resume(struct srv_http *http)
{
	struct srv_job *next;

	for (struct srv_job *job = srv_desk_take(&http->desk); job; job = next) {
		next = job->next;
		http->jobs--;
		if (job->body)
			come_back(job->body, (struct slot *)job);
		else
			wake(job->connection, job->peer);
	}
}

/* ---- a body in parts */

/* Items of the next span: those that fill a part, going by what was sent, but so that at the end all slots have some. A slot
 * alone has them all. */
static size_t next_items(const struct srv_body *body)
{
	size_t left = body->rest.end - body->rest.at, share = left / body->count, items;
	uint64_t fitting = body->items ? body->items * SRV_PART_SIZE / (body->bytes + 1) : FIRST_ITEMS;

	if (body->count == 1)
		return left;
	items = share < fitting ? share : (size_t)fitting;
	return items ? items : left > 0;
}

/* Gives the slot the next span, where one is left. */
static void take_span(struct srv_body *body, struct slot *slot)
{
	size_t items = next_items(body);

	slot->taken = items > 0;
	slot->job.ended = false;
	slot->job.span = (struct srv_span){ body->rest.at, body->rest.at + items };
	body->rest.at += items;
	srv_buffer_clear(&slot->job.buffer);
}

static bool is_sent(const struct srv_body *body, const struct slot *slot)
{
	const struct srv_job *job = &slot->job;

	return slot->taken && !slot->out && job->ended && !job->buffer.failed && body->sent == job->buffer.length;
}

/* The slot whose span is being sent: the next one, where all of it was. */
static struct slot *front(struct srv_body *body)
{
	struct slot *slot = slot_at(body, 0);

	while (is_sent(body, slot)) {
		body->items = slot->job.span.end;
		body->first = (body->first + 1) % body->count;
		body->sent = 0;
		take_span(body, slot);
		slot = slot_at(body, 0);
	}
	return slot;
}

static ssize_t wait_for(struct srv_body *body, struct slot *slot)
{
	if (slot->out) {
		srv_pool_hurry(body->http->pool, &slot->job);
	} else {
		srv_buffer_clear(&slot->job.buffer);
		body->sent = 0;
		hand_out(body, slot, srv_pool_do);
	}
	work_ahead(body);
	body->sleeps = true;
	sleep_until_done(body->connection, body->peer);
	return 0;
}

/* Sends what there is; else has workers make more, and the connection sleeps until then. */
static ssize_t read_body(void *closure, uint64_t position, char *ret, size_t room)
{
	struct srv_body *body = closure;
	struct slot *slot = front(body);
	const struct srv_buffer *buffer = &slot->job.buffer;
	size_t length;

	(void)position;
	if (!slot->taken)
		return MHD_CONTENT_READER_END_OF_STREAM;
	if (!slot->out && buffer->failed)
		return MHD_CONTENT_READER_END_WITH_ERROR; /* the client sees a body that is cut off */
	if (slot->out || body->sent == buffer->length)
		return wait_for(body, slot);
	length = buffer->length - body->sent;
	length = length < room ? length : room;
	memcpy(ret, buffer->data + body->sent, length);
	body->sent += length;
	body->bytes += length;
	work_ahead(body);
	return (ssize_t)length;
}

/* Jobs that are out keep the body: the last one to come back frees it. */
static void drop_body(void *closure)
{
	struct srv_body *body = closure;

	body->dropped = true;
	atomic_store(&body->stream->left, true);
	if (!body->out)
		free_body(body);
}

static struct srv_body *make_body(struct srv_http *http, struct srv_stream *stream)
{
	size_t threads = (size_t)srv_pool_threads(http->pool), most = threads > 1 ? SLOTS_A_THREAD * threads : 1;
	size_t count = stream->items < 1 ? 1 : stream->items < most ? stream->items : most;
	struct srv_body *body;

	body = calloc(1, sizeof *body + count * sizeof body->slots[0]);
	if (!body)
		return NULL;
	*body = (struct srv_body){ .http = http, .stream = stream, .rest = { 0, stream->items ? stream->items : 1 },
				   .count = count };
	for (size_t i = 0; i < count; i++) {
		body->slots[i].job = (struct srv_job){ .desk = &http->desk, .body = body, .stream = stream };
		take_span(body, &body->slots[i]);
	}
	return body;
}

struct MHD_Response *srv_http_stream(struct srv_http *http, struct MHD_Connection *connection,
				     struct srv_connection *peer, struct srv_stream *stream)
{
	struct srv_body *body = make_body(http, stream);
	struct MHD_Response *response;

	if (!body) {
		srv_stream_destroy(stream);
		return NULL;
	}
	body->connection = connection;
	body->peer = peer;
	response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK_SIZE, read_body, body, drop_body);
	if (!response)
		free_body(body);
	return response;
}
