/* HTTP by libmicrohttpd for one loop: framing guard, body and its limits, deadlines, replies. With loop.c the only
 * place that names MHD_. Everything here belongs to one thread, but for the bytes of bodies in flight. */
#ifndef SRV_HTTP_H
#define SRV_HTTP_H

#include <netinet/in.h>
#include "server/exchange.h"
#include "server/log.h"
#include "server/work.h"

struct MHD_Connection;
struct MHD_Daemon;
struct MHD_Response;

struct srv_connection {
	struct srv_connection *next, *previous;
	uint64_t since;           /* the request began, or the last one ended */
	int fd;
	struct srv_exchange *exchange; /* of the request in flight; NULL: none is, or memory was short */
	bool busy, used, cut;     /* a request is in flight; there was one; shut down by us */
	bool waits;               /* for a worker: no fault of the client's */
	char remote[INET6_ADDRSTRLEN];
};

struct srv_http {
	struct srv_context *context;
	struct srv_intake *intake;           /* of all loops */
	struct srv_pool *pool;               /* of all loops */
	struct srv_desk desk;                /* where its workers put what is done */
	size_t jobs;                         /* that are with them */
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

/* http_stream.c: a response for connection whose body stream (which it steals) makes, part by part, by a worker; NULL
 * when memory is short. */
struct MHD_Response *srv_http_stream(struct srv_http *http, struct MHD_Connection *connection,
				     struct srv_connection *peer, struct srv_stream *stream);

/* http_stream.c: leaves job to a worker while connection sleeps. Called within a callback of libmicrohttpd. */
void srv_http_submit(struct srv_http *http, struct MHD_Connection *connection, struct srv_connection *peer,
		     struct srv_job *job);
/* Wakes the connections whose jobs are done. Called between rounds. */
void srv_http_resume(struct srv_http *http);

/* http_connections.c: a connection was opened (address: its client's, or NULL), or is closed, in which case its peer is
 * freed. NULL when memory is short. */
struct srv_connection *srv_http_open(struct srv_http *http, int fd, const struct sockaddr *address);
void srv_http_close(struct srv_http *http, struct srv_connection *peer);

/* Cuts connections that are past their deadline: MHD sees them closed and cleans up. */
void srv_http_reap(struct srv_http *http);

/* Frees what the loop kept, after its daemons have been stopped. */
void srv_http_finish(struct srv_http *http);

#endif
