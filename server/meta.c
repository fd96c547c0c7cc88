/* The routes about the service itself: page, description, health, metrics. */
#include <string.h>
#include "server/assets.h"
#include "server/handlers.h"
#include "server/routes.h"

enum { THREADS_MAX = 1024 };

static void answer_asset(struct srv_call *call, const struct srv_asset *asset, const char *cache)
{
	srv_reply_header(call->reply, "Cache-Control", cache);
	if (!srv_reply_etag(call->reply, call->request, asset->hash))
		srv_reply_fixed(call->reply, asset->content_type, (const char *)asset->bytes, asset->length);
}

/* A file of the page: asked for again each time, so that the files of two releases never mix; nothing of the page comes from
 * elsewhere, and no text can become script. */
static void answer_page(struct srv_call *call, const struct srv_asset *asset)
{
	srv_reply_header(call->reply, "Content-Security-Policy",
			 "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
			 "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'");
	srv_reply_header(call->reply, "Referrer-Policy", "no-referrer");
	answer_asset(call, asset, "no-cache");
}

void srv_get_page(struct srv_call *call)
{
	answer_page(call, &srv_page[0]);
}

void srv_get_page_file(struct srv_call *call)
{
	for (size_t i = 0; i < srv_page_count; i++)
		if (!strcmp(srv_page[i].name, call->id)) {
			answer_page(call, &srv_page[i]);
			return;
		}
	srv_reply_problem(call->reply, SRV_NOT_FOUND, "the page has no such file");
}

void srv_get_openapi_yaml(struct srv_call *call)
{
	answer_asset(call, &srv_openapi_yaml, "public, max-age=300");
}

void srv_get_openapi_json(struct srv_call *call)
{
	answer_asset(call, &srv_openapi_json, "public, max-age=300");
}

static void answer_ok(struct srv_call *call)
{
	static const char ok[] = "{\"status\":\"ok\"}";

	srv_reply_header(call->reply, "Cache-Control", "no-store");
	srv_reply_fixed(call->reply, "application/json", ok, sizeof ok - 1);
}

void srv_get_healthz(struct srv_call *call)
{
	answer_ok(call);
}

static bool is_full(const struct srv_service *service)
{
	int most = atomic_load_explicit(&service->most_long_requests, memory_order_relaxed);

	return most && atomic_load_explicit(&service->long_requests, memory_order_relaxed) >= most;
}

void srv_get_readyz(struct srv_call *call)
{
	if (atomic_load_explicit(&call->context->service->draining, memory_order_relaxed))
		srv_reply_problem(call->reply, SRV_DRAINING, "the service is finishing what it has begun");
	else if (is_full(call->context->service))
		srv_reply_problem(call->reply, SRV_OVERLOADED, "as many long requests as the service takes are under way");
	else
		answer_ok(call);
}

void srv_get_metrics(struct srv_call *call)
{
	const struct srv_service *service = call->context->service;
	const struct srv_metrics *metrics[THREADS_MAX] = { &call->context->metrics };
	const char *patterns[SRV_ROUTES_MAX];
	size_t count = service->contexts ? (size_t)service->context_count : 1, routes = srv_route_patterns(patterns);

	count = count < THREADS_MAX ? count : THREADS_MAX;
	for (size_t i = 0; service->contexts && i < count; i++)
		metrics[i] = &service->contexts[i]->metrics;
	srv_reply_header(call->reply, "Cache-Control", "no-store");
	call->reply->content_type = "text/plain; version=0.0.4; charset=utf-8";
	srv_metrics_write(call->reply->buffer, metrics, count, patterns, routes,
			  (uint64_t)atomic_load_explicit(&service->long_requests, memory_order_relaxed));
}
