/* HTTP by libmicrohttpd for one loop: framing guard, body and its limits, deadlines, replies. With loop.c the only
 * place that names MHD_ (http.c, http_stream.c). Everything here belongs to one thread, but for the bytes of bodies in flight. */
#ifndef SRV_HTTP_H
#define SRV_HTTP_H

#include "server/exchange.h"
#include "server/log.h"
#include "server/service.h"

struct MHD_Daemon;
struct MHD_Response;

struct srv_connection;

struct srv_http {
	struct srv_context *context;
	struct srv_intake *intake;           /* of all loops */
	struct srv_log *log;
	int ring;
	bool log_json;
	bool draining;                       /* every answer closes its connection */
	size_t active;                       /* requests begun and not completed */
	uint64_t last_active;                /* when the last one was, srv_now() */
	struct srv_log_clock clock;
	struct srv_buffer line;              /* of the log */
	time_t message_second;               /* of libmicrohttpd's messages: a few a second are logged */
	int message_count;
	struct srv_connection *connections;  /* open ones */
	struct srv_exchange *spare;          /* finished ones, to be used again */
};

/* CLOCK_MONOTONIC in nanoseconds. */
uint64_t srv_now(void);

/* What must happen once in the process, before any daemon. False when memory is short. */
bool srv_http_init_process(void);

/* A daemon without a thread of its own for a listening socket, which it closes in the end. NULL when it cannot
 * start. */
struct MHD_Daemon *srv_http_start(struct srv_http *http, int listen_fd, unsigned connection_limit);

/* http_stream.c: a response whose body stream (which it steals) makes; NULL when memory is short. */
struct MHD_Response *srv_http_stream(struct srv_context *context, struct srv_stream *stream);

/* Cuts connections that are past their deadline: MHD sees them closed and cleans up. */
void srv_http_reap(struct srv_http *http);

/* Frees what the loop kept, after its daemons have been stopped. */
void srv_http_finish(struct srv_http *http);

#endif
