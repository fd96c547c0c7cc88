/* One request while it is being received: its target, headers and body, and what the transport refuses it for. Knows no
 * library: http.c feeds it. */
#ifndef SRV_EXCHANGE_H
#define SRV_EXCHANGE_H

#include <stdatomic.h>
#include "server/framing.h"
#include "server/problem.h"
#include "server/reply.h"

struct srv_limits {
	size_t max_body;           /* bytes of one body */
	size_t body_budget;        /* bytes of all bodies in flight */
	unsigned deadline_ms;      /* from a request's first line to the last byte of its answer */
	unsigned idle_ms;          /* between requests; rounded up to seconds for libmicrohttpd */
	unsigned drain_ms;         /* after the stop: for what is in flight */
	unsigned drain_delay_ms;   /* before the stop: /readyz is red, everything else as always */
};

/* Shared by all loops: the limits, and the bytes of all bodies in flight. */
struct srv_intake {
	struct srv_limits limits;
	atomic_size_t body_bytes;
};

struct srv_connection;
struct srv_job;

struct srv_exchange { /* all zero before the first use */
	struct srv_exchange *next;
	struct srv_connection *peer;
	uint64_t started;
	struct srv_framing framing;
	struct srv_request request;
	struct srv_buffer query, body;
	const char *expect;
	bool begun, wants_body;
	enum srv_problem problem;  /* what the request will be refused for once it has been read */
	const char *detail;
	struct srv_job *job;       /* of a worker that answers it, or has; NULL: none does */
	size_t received, charged;  /* bytes of the body: seen; counted in the budget */
};

/* Ready for the next request; keeps the memory of query and body. */
void srv_exchange_reset(struct srv_exchange *exchange);
/* Frees that memory. */
void srv_exchange_finish(struct srv_exchange *exchange);

/* Takes the query out of target, the text between method and version within the request line as read (a NUL in place of
 * the space behind it), which ends behind its '?' afterwards. */
void srv_exchange_target(struct srv_exchange *exchange, const char *target);

/* Method and path (borrowed) and version ("HTTP/1.1"), then every header line. */
void srv_exchange_begin(struct srv_exchange *exchange, const char *method, const char *path, const char *version);
void srv_exchange_header(struct srv_exchange *exchange, const char *name, size_t name_length, const char *value,
			 size_t value_length);

/* What has to be refused before the body is read, with its detail; SRV_OK when nothing has. */
enum srv_problem srv_exchange_check_head(struct srv_exchange *exchange, struct srv_intake *intake,
					 const char **ret_detail);

/* Takes size bytes of the body. False when the client sends without end and has to be cut off. */
bool srv_exchange_add_body(struct srv_exchange *exchange, struct srv_intake *intake, const char *data, size_t size);

/* Gives the body's bytes back to the budget, and its memory when it is long. */
void srv_exchange_forget_body(struct srv_exchange *exchange, struct srv_intake *intake);

#endif
