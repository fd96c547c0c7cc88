#include "server/exchange.h"
#include <strings.h>
#include "server/routes.h"

enum {
	TARGET_MAX = 8 * 1024, /* path and query, each; fits the memory of a connection */
	DRAIN_FACTOR = 16,     /* a body beyond its limit is read and dropped up to so many times the limit */
	BODY_KEEP = 16 * 1024  /* a body's memory up to here is kept for the next request */
};

static const char too_large[] = "the body is larger than this service takes";
static const char too_many[] = "too many bodies are being read; try again";

void srv_exchange_reset(struct srv_exchange *exchange)
{
	struct srv_buffer query = exchange->query, body = exchange->body;

	*exchange = (struct srv_exchange){ .query = query, .body = body };
	srv_buffer_clear(&exchange->query);
	srv_buffer_clear(&exchange->body);
}

void srv_exchange_finish(struct srv_exchange *exchange)
{
	srv_buffer_finish(&exchange->query);
	srv_buffer_finish(&exchange->body);
}

/* The first problem stays. */
static void mark(struct srv_exchange *exchange, enum srv_problem problem, const char *detail)
{
	if (exchange->problem)
		return;
	exchange->problem = problem;
	exchange->detail = detail;
}

/* libmicrohttpd would hang on a query that does not fit a connection's memory, so it never sees one. Behind a target as
 * it should be stands "HTTP/1."; a NUL within the target ended it early. */
void srv_exchange_target(struct srv_exchange *exchange, const char *target)
{
	static const char version[] = "HTTP/1.";
	size_t length = strlen(target);
	char *query = strchr(target, '?');
	size_t path_length = query ? (size_t)(query - target) : length;

	if (!length || strncmp(target + length + 1, version, sizeof version - 1)) {
		mark(exchange, SRV_BAD_FRAMING, "the request line must be a method, a target and HTTP/1.1");
		return;
	}
	if (path_length > TARGET_MAX || length - path_length > TARGET_MAX)
		mark(exchange, SRV_TARGET_TOO_LONG,
		     "path and query must be shorter than 8192 bytes each; POST takes more");
	else if (query)
		srv_buffer_add(&exchange->query, query + 1, length - path_length);
	if (exchange->query.failed)
		mark(exchange, SRV_OUT_OF_MEMORY, "memory ran short while the request was read");
	if (query)
		query[1] = '\0';
}

void srv_exchange_begin(struct srv_exchange *exchange, const char *method, const char *path, const char *version)
{
	exchange->begun = true;
	exchange->request.path = path;
	exchange->request.method = method;
	exchange->request.query = exchange->query.length ? exchange->query.data : NULL;
	exchange->framing.http11 = strcmp(version, "HTTP/1.0") != 0;
	exchange->wants_body = srv_route_takes_body(method, path);
}

/* Headers that somebody asks for, and where they go. */
#define HEADER(name, member) { name, sizeof(name) - 1, offsetof(struct srv_exchange, member) }
static const struct {
	const char *name;
	size_t length, offset;
} wanted[] = {
	HEADER("accept", request.accept),
	HEADER("content-type", request.content_type),
	HEADER("content-encoding", request.content_encoding),
	HEADER("if-none-match", request.if_none_match),
	HEADER("origin", request.origin),
	HEADER("access-control-request-method", request.preflight_method),
	HEADER("x-request-id", request.request_id),
	HEADER("authorization", request.authorization),
	HEADER("expect", expect),
};

void srv_exchange_header(struct srv_exchange *exchange, const char *name, size_t name_length, const char *value,
			 size_t value_length)
{
	srv_framing_header(&exchange->framing, name, name_length, value, value_length);
	for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
		if (wanted[i].length != name_length || strncasecmp(wanted[i].name, name, name_length))
			continue;
		memcpy((char *)exchange + wanted[i].offset, &value, sizeof value);
		return;
	}
}

static bool is_over_budget(struct srv_intake *intake, uint64_t more)
{
	return atomic_load_explicit(&intake->body_bytes, memory_order_relaxed) + more > intake->limits.body_budget;
}

enum srv_problem srv_exchange_check_head(struct srv_exchange *exchange, struct srv_intake *intake,
					 const char **ret_detail)
{
	const struct srv_framing *framing = &exchange->framing;
	uint64_t limit = intake->limits.max_body, length = framing->content_length;

	if (srv_framing_finish(&exchange->framing)) {
		*ret_detail = framing->fault;
		return SRV_BAD_FRAMING;
	}
	*ret_detail = exchange->detail;
	if (exchange->problem)
		return exchange->problem;
	if (exchange->expect && strcasecmp(exchange->expect, "100-continue")) {
		*ret_detail = "the only expectation that is met is 100-continue";
		return SRV_EXPECTATION_FAILED;
	}
	if (!strcmp(exchange->request.method, "POST") && !framing->lengths && !framing->codings) {
		*ret_detail = "a POST needs Content-Length or Transfer-Encoding: chunked";
		return SRV_LENGTH_REQUIRED;
	}
	*ret_detail = too_large;
	if (length / DRAIN_FACTOR > limit || (length > limit && exchange->expect))
		return SRV_TOO_LARGE;
	if (length > limit)
		mark(exchange, SRV_TOO_LARGE, too_large);
	*ret_detail = too_many;
	return exchange->wants_body && length <= limit && is_over_budget(intake, length) ? SRV_OVERLOADED : SRV_OK;
}

bool srv_exchange_add_body(struct srv_exchange *exchange, struct srv_intake *intake, const char *data, size_t size)
{
	size_t limit = intake->limits.max_body;

	exchange->received += size;
	if (exchange->received / DRAIN_FACTOR > limit)
		return false;
	if (exchange->received > limit)
		mark(exchange, SRV_TOO_LARGE, too_large);
	else if (exchange->wants_body && is_over_budget(intake, size))
		mark(exchange, SRV_OVERLOADED, too_many);
	if (exchange->problem || !exchange->wants_body) {
		srv_exchange_forget_body(exchange, intake);
		return true;
	}
	atomic_fetch_add_explicit(&intake->body_bytes, size, memory_order_relaxed);
	exchange->charged += size;
	srv_buffer_add(&exchange->body, data, size);
	if (exchange->body.failed)
		mark(exchange, SRV_OUT_OF_MEMORY, "memory ran short while the body was read");
	exchange->request.body = exchange->body.data;
	exchange->request.body_length = exchange->body.length;
	return true;
}

void srv_exchange_forget_body(struct srv_exchange *exchange, struct srv_intake *intake)
{
	if (exchange->charged)
		atomic_fetch_sub_explicit(&intake->body_bytes, exchange->charged, memory_order_relaxed);
	exchange->charged = 0;
	exchange->request.body = NULL;
	exchange->request.body_length = 0;
	if (exchange->body.capacity > BODY_KEEP)
		srv_buffer_finish(&exchange->body);
	else
		srv_buffer_clear(&exchange->body);
}
