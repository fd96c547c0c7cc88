#include "server/http.h"
#include <microhttpd.h>
#include <stdio.h>
#include <stdlib.h>
#include "server/problem.h"

enum {
	POOL_SIZE = 16 * 1024,    /* memory of one connection: request line, headers, answer's headers */
	COPY_MAX = 16 * 1024,     /* answers up to here are copied, longer ones handed over */
	MESSAGES_A_SECOND = 20
};

static struct MHD_Response *no_memory;

/* ---- log */

static void add_line(struct srv_http *http)
{
	if (http->line.failed || !srv_log_add(http->log, http->ring, http->line.data, http->line.length))
		srv_metric_add(&http->context->metrics.log_dropped, 1);
}

static void on_message(void *closure, const char *format, va_list arguments) __attribute__((format(printf, 2, 0)));
static void on_message(void *closure, const char *format, va_list arguments)
{
	struct srv_http *http = closure;
	char text[512];
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	if (now.tv_sec != http->message_second)
		http->message_count = 0;
	http->message_second = now.tv_sec;
	if (!http->log || http->message_count++ >= MESSAGES_A_SECOND)
		return;
	vsnprintf(text, sizeof text, format, arguments);
	text[strcspn(text, "\r\n")] = '\0';
	srv_buffer_clear(&http->line);
	srv_log_write_event(&http->line, http->log_json, &http->clock, "warning", text);
	add_line(http);
}

static bool is_probe(const char *path)
{
	return !strcmp(path, "/healthz") || !strcmp(path, "/readyz");
}

static void record(struct srv_http *http, const struct srv_exchange *exchange, const struct srv_reply *reply)
{
	uint64_t spent = srv_now() - exchange->started;
	const char *id = srv_reply_find(reply, "X-Request-Id");
	size_t length;
	struct srv_access access = {
		.remote = exchange->peer ? exchange->peer->remote : "-",
		.method = exchange->request.method,
		.path = exchange->request.path,
		.request_id = id ? id : "-",
		.status = reply->status,
		.nanoseconds = spent,
	};

	srv_metrics_count(&http->context->metrics, reply->route, access.method, reply->status, spent);
	srv_metric_add(&http->context->metrics.body_bytes, exchange->received);
	if (!http->log || is_probe(access.path))
		return;
	if (strcmp(access.method, "HEAD")) {
		srv_reply_body(reply, &length);
		access.bytes = length;
	}
	srv_buffer_clear(&http->line);
	srv_log_write_access(&http->line, http->log_json, &http->clock, &access);
	add_line(http);
}

/* ---- replies */

/* libmicrohttpd only reads what is persistent, but asks for a pointer to what may change. */
static struct MHD_Response *make_static(size_t length, const char *bytes)
{
	return MHD_create_response_from_buffer(length, (void *)(uintptr_t)bytes, MHD_RESPMEM_PERSISTENT);
}

static void release(void *memory)
{
	srv_memory_release(memory);
}

/* Sent from where it lies. Only this loop has the memory and the response. */
static struct MHD_Response *make_remembered(const struct srv_reply *reply)
{
	struct MHD_Response *response = MHD_create_response_from_buffer_with_free_callback_cls(
		reply->fixed_length, (void *)(uintptr_t)reply->fixed, release, reply->memory);

	if (response)
		srv_memory_hold(reply->memory);
	return response;
}

/* The reply's body as a response; takes the buffer's memory when it is long. */
static struct MHD_Response *make_response(struct srv_http *http, struct MHD_Connection *connection,
					  const struct srv_exchange *exchange, struct srv_reply *reply)
{
	struct srv_buffer *buffer = reply->buffer;
	struct MHD_Response *response;
	size_t length;
	char *body;

	if (!reply->content_type)
		return make_static(0, "");
	if (reply->stream) {
		struct srv_stream *stream = reply->stream;

		reply->stream = NULL;
		return srv_http_stream(http, connection, exchange->peer, stream);
	}
	if (reply->memory)
		return make_remembered(reply);
	if (reply->fixed)
		return make_static(reply->fixed_length, reply->fixed);
	if (buffer->length <= COPY_MAX)
		return MHD_create_response_from_buffer(buffer->length, buffer->data, MHD_RESPMEM_MUST_COPY);
	body = srv_buffer_release(buffer, &length);
	srv_buffer_reserve(buffer, length); /* the next answer will be of that size; when not, it grows */
	response = MHD_create_response_from_buffer(length, body, MHD_RESPMEM_MUST_FREE);
	if (!response)
		free(body);
	return response;
}

static bool add_headers(struct MHD_Response *response, const struct srv_reply *reply, bool close)
{
	bool added = true;

	if (reply->content_type)
		added = MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, reply->content_type) == MHD_YES;
	for (size_t i = 0; i < reply->header_count && added; i++)
		added = MHD_add_response_header(response, reply->header[i].name, reply->header[i].value) == MHD_YES;
	if (close && added)
		added = MHD_add_response_header(response, MHD_HTTP_HEADER_CONNECTION, "close") == MHD_YES;
	return added;
}

static enum MHD_Result send_reply(struct srv_http *http, struct MHD_Connection *connection,
				  const struct srv_exchange *exchange, struct srv_reply *reply)
{
	struct MHD_Response *response;
	enum MHD_Result queued;

	record(http, exchange, reply);
	response = make_response(http, connection, exchange, reply);
	if (!response || !add_headers(response, reply, http->draining)) {
		if (response)
			MHD_destroy_response(response);
		return MHD_queue_response(connection, MHD_HTTP_SERVICE_UNAVAILABLE, no_memory);
	}
	queued = MHD_queue_response(connection, (unsigned)reply->status, response);
	MHD_destroy_response(response);
	return queued;
}

/* Answers in the first call: libmicrohttpd then closes the connection and reads no more of it. */
static enum MHD_Result refuse_now(struct srv_http *http, struct MHD_Connection *connection,
				  const struct srv_exchange *exchange, enum srv_problem problem, const char *detail)
{
	struct srv_reply reply;

	srv_refuse(http->context, &exchange->request, problem, detail, &reply);
	return send_reply(http, connection, exchange, &reply);
}

/* ---- the request, call by call */

static struct srv_exchange *take_exchange(struct srv_http *http)
{
	struct srv_exchange *exchange = http->spare;

	if (!exchange)
		return calloc(1, sizeof *exchange);
	http->spare = exchange->next;
	srv_exchange_reset(exchange);
	return exchange;
}

static void *on_target(void *closure, const char *target, struct MHD_Connection *connection)
{
	struct srv_http *http = closure;
	struct srv_exchange *exchange = take_exchange(http);
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);

	if (!exchange)
		return NULL;
	exchange->started = srv_now();
	exchange->peer = info ? info->socket_context : NULL;
	if (exchange->peer) {
		exchange->peer->exchange = exchange;
		exchange->peer->since = exchange->started;
		exchange->peer->busy = true;
	}
	http->active++;
	srv_metric_add(&http->context->metrics.in_flight, 1);
	srv_exchange_target(exchange, target);
	return exchange;
}

static enum MHD_Result on_header(void *closure, enum MHD_ValueKind kind, const char *name, size_t name_length,
				 const char *value, size_t value_length)
{
	(void)kind;
	srv_exchange_header(closure, name, name_length, value ? value : "", value ? value_length : 0);
	return MHD_YES;
}

static enum MHD_Result begin(struct srv_http *http, struct MHD_Connection *connection, struct srv_exchange *exchange,
			     const char *path, const char *method, const char *version)
{
	enum srv_problem problem;
	const char *detail;

	srv_exchange_begin(exchange, method, path, version);
	MHD_get_connection_values_n(connection, MHD_HEADER_KIND, on_header, exchange);
	problem = srv_exchange_check_head(exchange, http->intake, &detail);
	return problem ? refuse_now(http, connection, exchange, problem, detail) : MHD_YES;
}

/* Leaves the request to a worker; it comes back to answer() when that is done. */
static enum MHD_Result defer(struct srv_http *http, struct MHD_Connection *connection, struct srv_exchange *exchange)
{
	if (!srv_pool_enter(http->pool)) {
		srv_exchange_forget_body(exchange, http->intake);
		return refuse_now(http, connection, exchange, SRV_OVERLOADED,
				  "as many long requests as the service takes are under way; try again");
	}
	exchange->job = calloc(1, sizeof *exchange->job);
	if (!exchange->job) {
		srv_pool_leave(http->pool);
		return refuse_now(http, connection, exchange, SRV_OUT_OF_MEMORY, "memory ran short; try again");
	}
	exchange->job->request = &exchange->request;
	srv_http_submit(http, connection, exchange->peer, exchange->job);
	return MHD_YES;
}

static enum MHD_Result answer(struct srv_http *http, struct MHD_Connection *connection, struct srv_exchange *exchange)
{
	struct srv_reply reply, *answered = exchange->job ? &exchange->job->reply : &reply;

	if (exchange->problem)
		srv_refuse(http->context, &exchange->request, exchange->problem, exchange->detail, &reply);
	else if (!exchange->job)
		srv_route(http->context, &exchange->request, &reply);
	if (answered->deferred)
		return defer(http, connection, exchange);
	srv_exchange_forget_body(exchange, http->intake);
	return send_reply(http, connection, exchange, answered);
}

static enum MHD_Result on_request(void *closure, struct MHD_Connection *connection, const char *path,
				  const char *method, const char *version, const char *data, size_t *size, void **state)
{
	struct srv_http *http = closure;
	struct srv_exchange *exchange = *state;
	size_t length = *size;

	if (!exchange)
		return MHD_queue_response(connection, MHD_HTTP_SERVICE_UNAVAILABLE, no_memory);
	if (!exchange->begun)
		return begin(http, connection, exchange, path, method, version);
	if (!length)
		return answer(http, connection, exchange);
	*size = 0;
	return srv_exchange_add_body(exchange, http->intake, data, length) ? MHD_YES : MHD_NO;
}

static void forget_job(struct srv_http *http, struct srv_exchange *exchange)
{
	if (!exchange->job)
		return;
	srv_reply_drop_stream(&exchange->job->reply);
	srv_buffer_finish(&exchange->job->buffer);
	free(exchange->job);
	exchange->job = NULL;
	srv_pool_leave(http->pool);
}

static void complete(struct srv_http *http, struct srv_exchange *exchange)
{
	http->last_active = srv_now();
	if (exchange->peer) {
		exchange->peer->exchange = NULL;
		exchange->peer->since = http->last_active;
		exchange->peer->busy = false;
		exchange->peer->used = true;
	}
	http->active--;
	srv_metric_add(&http->context->metrics.in_flight, (uint64_t)-1);
	srv_exchange_forget_body(exchange, http->intake);
	forget_job(http, exchange);
	exchange->next = http->spare;
	http->spare = exchange;
}

static void on_completed(void *closure, struct MHD_Connection *connection, void **state,
			 enum MHD_RequestTerminationCode code)
{
	struct srv_exchange *exchange = *state;

	(void)connection;
	(void)code;
	*state = NULL;
	if (exchange)
		complete(closure, exchange);
}

/* ---- daemons */

static void on_connection(void *closure, struct MHD_Connection *connection, void **peer,
			  enum MHD_ConnectionNotificationCode code)
{
	struct srv_http *http = closure;
	bool opened = code == MHD_CONNECTION_NOTIFY_STARTED;
	const union MHD_ConnectionInfo *fd, *address;
	struct srv_connection *closed = *peer;

	srv_metric_add(&http->context->metrics.connections, opened ? 1 : (uint64_t)-1);
	if (!opened) {
		/* libmicrohttpd completes no request that it drops for its arguments: those behind a NUL are its own to
		 * parse, and may not fit its memory */
		if (closed && closed->exchange)
			complete(http, closed->exchange);
		srv_http_close(http, closed);
		*peer = NULL;
		return;
	}
	fd = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
	address = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
	*peer = srv_http_open(http, fd ? fd->connect_fd : -1, address ? address->client_addr : NULL);
}

/* The target stays as it was sent: "/estimate%00.json" is not "/estimate". */
static size_t leave_escaped(void *closure, struct MHD_Connection *connection, char *text)
{
	(void)closure;
	(void)connection;
	return strlen(text);
}

static void on_panic(void *closure, const char *file, unsigned line, const char *reason)
{
	(void)closure;
	fprintf(stderr, "vramcast: libmicrohttpd gave up: %s (%s:%u)\n", reason ? reason : "no reason", file, line);
	abort();
}

bool srv_http_init_process(void)
{
	MHD_set_panic_func(on_panic, NULL);
	no_memory = make_static(strlen(srv_no_memory_body), srv_no_memory_body);
	return no_memory
	       && MHD_add_response_header(no_memory, MHD_HTTP_HEADER_CONTENT_TYPE, srv_problem_type) == MHD_YES
	       && MHD_add_response_header(no_memory, MHD_HTTP_HEADER_RETRY_AFTER, "1") == MHD_YES
	       && MHD_add_response_header(no_memory, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store") == MHD_YES;
}

struct MHD_Daemon *srv_http_start(struct srv_http *http, int listen_fd, unsigned connection_limit)
{
	return MHD_start_daemon(MHD_USE_EPOLL | MHD_USE_ERROR_LOG | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL, on_request, http,
				MHD_OPTION_EXTERNAL_LOGGER, on_message, http,
				MHD_OPTION_LISTEN_SOCKET, listen_fd,
				MHD_OPTION_CONNECTION_LIMIT, connection_limit,
				MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)POOL_SIZE,
				MHD_OPTION_CONNECTION_TIMEOUT, (http->intake->limits.idle_ms + 999) / 1000,
				MHD_OPTION_UNESCAPE_CALLBACK, leave_escaped, NULL,
				MHD_OPTION_URI_LOG_CALLBACK, on_target, http,
				MHD_OPTION_NOTIFY_COMPLETED, on_completed, http,
				MHD_OPTION_NOTIFY_CONNECTION, on_connection, http,
				MHD_OPTION_END);
}

void srv_http_finish(struct srv_http *http)
{
	while (http->spare) {
		struct srv_exchange *next = http->spare->next;

		srv_exchange_finish(http->spare);
		free(http->spare);
		http->spare = next;
	}
	srv_buffer_finish(&http->line);
}
