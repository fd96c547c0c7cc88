#include "server/routes.h"
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include "server/handlers.h"
#include "server/write.h"

struct route {
	const char *method, *pattern; /* a pattern ends in {id} or is the whole path */
	void (*handler)(struct srv_call *call);
	unsigned traits;
};

enum {
	PLAIN = 0,
	FORMATS = 1, /* ?format= and Accept choose; else there is one representation */
	BODY = 2,    /* takes application/json */
	OPEN = 4     /* is answered without a token: probes have none */
};

/* Rows of one pattern stand together; the first one's index is the route's number. */
static const struct route routes[] = {
	{ "POST", "/estimate", srv_post_estimate, FORMATS | BODY },
	{ "GET", "/estimate", srv_get_estimate, FORMATS },
	{ "POST", "/estimates", srv_post_estimates, FORMATS | BODY },
	{ "POST", "/plan", srv_post_plan, FORMATS | BODY },
	{ "POST", "/k8s/validate", srv_post_k8s_validate, BODY },
	{ "POST", "/k8s/validate/{id}", srv_post_k8s_validate, BODY },
	{ "POST", "/k8s/mutate", srv_post_k8s_mutate, BODY },
	{ "POST", "/k8s/filter", srv_post_k8s_filter, BODY },
	{ "GET", "/presets", srv_get_presets, FORMATS },
	{ "GET", "/presets/{id}", srv_get_preset, FORMATS },
	{ "GET", "/gpus", srv_get_gpus, FORMATS },
	{ "GET", "/gpus/{id}", srv_get_gpu, FORMATS },
	{ "GET", "/openapi.yaml", srv_get_openapi_yaml, PLAIN },
	{ "GET", "/openapi.json", srv_get_openapi_json, PLAIN },
	{ "GET", "/healthz", srv_get_healthz, OPEN },
	{ "GET", "/readyz", srv_get_readyz, OPEN },
	{ "GET", "/metrics", srv_get_metrics, PLAIN },
	{ "GET", "/page/{id}", srv_get_page_file, PLAIN },
	{ "GET", "/", srv_get_page, PLAIN },
};
enum { ROUTES = sizeof routes / sizeof routes[0] };
_Static_assert(sizeof routes / sizeof routes[0] < SRV_ROUTES_MAX, 
	       "every route needs a row of counters, and those without a route one more");

bool srv_route_row(size_t i, const char **ret_method, const char **ret_pattern)
{
	if (i >= ROUTES)
		return false;
	*ret_method = routes[i].method;
	*ret_pattern = routes[i].pattern;
	return true;
}

static const char id_mark[] = "{id}";

/* Whether path is one of pattern's; its {id}, still encoded, in *ret_id (NULL: the pattern has none). */
static bool matches(const char *pattern, const char *path, const char **ret_id)
{
	const char *mark = strstr(pattern, id_mark);
	size_t fixed = mark ? (size_t)(mark - pattern) : 0;

	*ret_id = NULL;
	if (!mark)
		return !strcmp(pattern, path);
	if (strncmp(pattern, path, fixed) || !path[fixed])
		return false;
	*ret_id = path + fixed;
	return true;
}

static int find_pattern(const char *path, const char **ret_id)
{
	for (int i = 0; i < ROUTES; i++)
		if (matches(routes[i].pattern, path, ret_id))
			return i;
	return SRV_NO_ROUTE;
}

/* HEAD is routed as GET: the transport leaves the body away. */
static const struct route *find_method(int first, const char *method)
{
	const char *wanted = !strcmp(method, "HEAD") ? "GET" : method;

	for (int i = first; i < ROUTES && !strcmp(routes[i].pattern, routes[first].pattern); i++)
		if (!strcmp(routes[i].method, wanted))
			return &routes[i];
	return NULL;
}

bool srv_route_takes_body(const char *method, const char *path)
{
	const char *id;
	int first = find_pattern(path, &id);
	const struct route *route = first < 0 ? NULL : find_method(first, method);

	return route && route->traits & BODY;
}

/* "GET, HEAD, OPTIONS, POST": what the path of that pattern allows. */
static void list_methods(int first, char *ret, size_t size)
{
	bool get = find_method(first, "GET"), post = find_method(first, "POST");

	snprintf(ret, size, "%sOPTIONS%s", get ? "GET, HEAD, " : "", post ? ", POST" : "");
}

static void add_allow(struct srv_reply *reply, int first)
{
	char methods[64];

	list_methods(first, methods, sizeof methods);
	srv_reply_header_copy(reply, "Allow", methods);
}

static void answer_options(const struct srv_request *request, struct srv_reply *reply, int first)
{
	reply->status = 204;
	add_allow(reply, first);
	if (request->origin && request->preflight_method && srv_reply_find(reply, "Access-Control-Allow-Origin")) {
		srv_reply_header(reply, "Access-Control-Allow-Methods", srv_reply_find(reply, "Allow"));
		srv_reply_header(reply, "Access-Control-Allow-Headers", "Authorization, Content-Type, If-None-Match, X-Request-Id");
		srv_reply_header(reply, "Access-Control-Max-Age", "600");
	}
}

/* ---- checks that come before the handler, each answering when it does not pass */

static bool choose_format(struct srv_call *call)
{
	size_t length;
	const char *name = srv_query_find(call->request->query, "format", &length);

	if (name && srv_format_find(name, length, &call->format))
		return true;
	if (!name && srv_format_negotiate(call->request->accept, &call->format))
		return true;
	srv_reply_problem(call->reply, SRV_NOT_ACCEPTABLE,
			  name ? "format must be json, csv, ndjson, records or table"
			       : "there are application/json, text/csv, application/x-ndjson and text/plain");
	return false;
}

static bool is_json(const char *content_type)
{
	static const char wanted[] = "application/json";
	size_t length = content_type ? strcspn(content_type, "; \t") : 0;

	return length == sizeof wanted - 1 && !strncasecmp(content_type, wanted, length);
}

static bool check_type(struct srv_call *call)
{
	const char *coding = call->request->content_encoding;

	if (!is_json(call->request->content_type))
		srv_reply_problem(call->reply, SRV_UNSUPPORTED_TYPE, "Content-Type must be application/json");
	else if (coding && strcasecmp(coding, "identity"))
		srv_reply_problem(call->reply, SRV_UNSUPPORTED_TYPE, "Content-Encoding must be absent");
	else
		return true;
	return false;
}

/* ---- headers that every answer has */

static bool is_safe_id(const char *id)
{
	size_t length = id ? strlen(id) : 0;

	return length && length <= 64
	       && strspn(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:=+/") == length;
}

static void add_request_id(struct srv_context *context, const struct srv_request *request, struct srv_reply *reply)
{
	uint64_t *state = &context->id_state, mixed;
	char id[SRV_HEX_SIZE];

	if (is_safe_id(request->request_id)) {
		srv_reply_header_copy(reply, "X-Request-Id", request->request_id);
		return;
	}
	*state += UINT64_C(0x9e3779b97f4a7c15); /* splitmix64: every id of a thread differs */
	mixed = (*state ^ *state >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	mixed = (mixed ^ mixed >> 27) * UINT64_C(0x94d049bb133111eb);
	srv_hex(mixed ^ mixed >> 31, id);
	srv_reply_header_copy(reply, "X-Request-Id", id);
}

static bool is_allowed_origin(const struct srv_service *service, const char *origin)
{
	for (int i = 0; i < service->origin_count; i++)
		if (!strcmp(service->origins[i], origin) || !strcmp(service->origins[i], "*"))
			return true;
	return false;
}

static void add_cors(const struct srv_service *service, const struct srv_request *request, struct srv_reply *reply)
{
	if (!service->origin_count)
		return;
	srv_reply_header(reply, "Vary", "Origin");
	if (!request->origin || !is_allowed_origin(service, request->origin))
		return;
	srv_reply_header_copy(reply, "Access-Control-Allow-Origin", request->origin);
	srv_reply_header(reply, "Access-Control-Expose-Headers", "ETag, X-Request-Id, Retry-After");
}

static void add_common(struct srv_context *context, const struct srv_request *request, struct srv_reply *reply)
{
	add_request_id(context, request, reply);
	srv_reply_header(reply, "X-Content-Type-Options", "nosniff");
	add_cors(context->service, request, reply);
}

/* ---- the one way in */

static void answer(struct srv_call *call, int first, const char *id)
{
	const struct route *route = find_method(first, call->request->method);

	if (!route) {
		srv_reply_problem(call->reply, SRV_METHOD_NOT_ALLOWED, "Allow lists the methods of this path");
		add_allow(call->reply, first);
	} else if (id && !srv_percent_decode(id, strlen(id), false, call->id, sizeof call->id)) {
		srv_reply_problem(call->reply, SRV_NOT_FOUND, "there is no such id");
	} else if ((!(route->traits & FORMATS) || choose_format(call))
		   && (!(route->traits & BODY) || check_type(call))) {
		route->handler(call);
	}
}

/* Preflights come without credentials, by the browser's rules. */
static bool may_ask(const struct srv_context *context, const struct srv_request *request, int first)
{
	return (first >= 0 && routes[first].traits & OPEN) || !strcmp(request->method, "OPTIONS")
	       || srv_tokens_admit(&context->edition->tokens, request->authorization);
}

void srv_route(struct srv_context *context, const struct srv_request *request, struct srv_reply *reply)
{
	struct srv_call call = { .context = context, .request = request, .reply = reply };
	const char *id;
	int first = find_pattern(request->path, &id);

	srv_reply_begin(reply, &context->buffer);
	reply->route = first;
	context->faults.count = 0;
	cfg_json_out_of_memory();
	if (!may_ask(context, request, first)) {
		srv_reply_problem(reply, SRV_UNAUTHORIZED, "Authorization must be Bearer and a token of this service");
		srv_reply_header(reply, "WWW-Authenticate", "Bearer realm=\"vramcast\"");
	} else if (first < 0 && strcmp(request->path, "*")) {
		srv_reply_problem(reply, SRV_NOT_FOUND, "there is nothing at this path; GET / shows what there is");
	} else if (!strcmp(request->method, "OPTIONS")) {
		add_cors(context->service, request, reply);
		answer_options(request, reply, first < 0 ? 0 : first);
		add_request_id(context, request, reply);
		return;
	} else if (first < 0) {
		srv_reply_problem(reply, SRV_NOT_FOUND, "only OPTIONS can be asked of *");
	} else {
		answer(&call, first, id);
	}
	if (context->buffer.failed)
		srv_reply_no_memory(reply);
	add_common(context, request, reply);
}

void srv_refuse(struct srv_context *context, const struct srv_request *request, enum srv_problem problem,
		const char *detail, struct srv_reply *reply)
{
	const char *id;

	srv_reply_begin(reply, &context->buffer);
	reply->route = find_pattern(request->path, &id);
	srv_reply_problem(reply, problem, detail);
	if (context->buffer.failed)
		srv_reply_no_memory(reply);
	add_common(context, request, reply);
}

size_t srv_route_patterns(const char *ret_patterns[SRV_ROUTES_MAX])
{
	for (size_t i = 0; i < ROUTES; i++)
		ret_patterns[i] = routes[i].pattern;
	return ROUTES;
}
