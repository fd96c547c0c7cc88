/* What the tests of the routes share: the service on the project's own catalogues, without a socket, and how to ask
 * it. */
#ifndef TESTS_ASK_H
#define TESTS_ASK_H

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include "server/handlers.h"
#include "server/routes.h"
#include "tests/source.h"
#include "tests/suite.h"

#define MODEL "{\"model\":\"llama-3.2-1b\",\"gpus\":\"h100-sxm5-80gb\"}"

static const char *const origins[] = { "https://example.org" };
static struct srv_service service;
static struct srv_context *context;
static struct srv_reply reply;

static inline void start(void)
{
	char directory[4096], error[512];
	struct srv_edition *edition;

	snprintf(directory, sizeof directory, "%s/config", source_root());
	edition = srv_edition_create(directory, NULL, error, sizeof error);
	ck_assert_msg(edition != NULL, "%s", error);
	srv_service_init(&service, edition, origins, COUNT(origins));
	context = srv_context_create(&service);
	ck_assert_ptr_nonnull(context);
}

static inline void stop(void)
{
	srv_context_destroy(context);
	srv_service_finish(&service);
}

static inline void route(const struct srv_request *request)
{
	srv_route(context, request, &reply);
	if (reply.stream)
		srv_stream_drain(reply.stream, context, reply.buffer);
	reply.stream = NULL;
}

/* Asks for a target: path, and query behind a '?'. */
static inline void ask(const char *method, const char *target, struct srv_request request)
{
	static char path[1024];
	char *query;

	snprintf(path, sizeof path, "%s", target);
	query = strchr(path, '?');
	if (query)
		*query++ = '\0';
	request.method = method;
	request.path = path;
	request.query = query;
	request.body_length = request.body ? strlen(request.body) : 0;
	if (request.body && !request.content_type)
		request.content_type = "application/json";
	route(&request);
}

static inline void get(const char *target)
{
	ask("GET", target, (struct srv_request){ 0 });
}

static inline void post(const char *target, const char *body)
{
	ask("POST", target, (struct srv_request){ .body = body });
}

/* The same with ' for " in the body. */
static inline void post_quoted(const char *target, const char *body)
{
	static char quoted[16 * 1024];
	size_t length = strlen(body);

	ck_assert_uint_lt(length, sizeof quoted);
	for (size_t i = 0; i <= length; i++)
		quoted[i] = (char)(body[i] == '\'' ? '"' : body[i]);
	post(target, quoted);
}

/* The body as text; lives until the next request. */
static inline const char *text(void)
{
	static char fixed[64 * 1024 + 1];
	size_t length;
	const char *body = srv_reply_body(&reply, &length);

	if (reply.fixed) {
		ck_assert_uint_lt(length, sizeof fixed);
		memcpy(fixed, body, length);
		fixed[length] = '\0';
		return fixed;
	}
	srv_buffer_add_byte(reply.buffer, '\0');
	reply.buffer->length--;
	return reply.buffer->data;
}

/* The body as JSON; new reference. */
static inline json_t *document(void)
{
	size_t length;
	const char *body = srv_reply_body(&reply, &length);
	json_error_t error;
	json_t *read = json_loadb(body, length, JSON_REJECT_DUPLICATES, &error);

	ck_assert_msg(read != NULL, "%s: %.200s", error.text, body);
	return read;
}

static inline const char *header(const char *name)
{
	const char *value = srv_reply_find(&reply, name);

	return value ? value : "";
}

static inline const char *member(const json_t *object, const char *key)
{
	const char *value = json_string_value(json_object_get(object, key));

	return value ? value : "";
}

/* The reply is a problem document of that status, with the headers of one. */
static inline void check_problem(const char *name, int status)
{
	json_t *problem;

	ck_assert_msg(reply.status == status, "%s: %d instead of %d", name, reply.status, status);
	ck_assert_msg(!strcmp(reply.content_type, "application/problem+json"), "%s: %s", name, reply.content_type);
	ck_assert_str_eq(header("Cache-Control"), "no-store");
	ck_assert_str_eq(header("X-Content-Type-Options"), "nosniff");
	problem = document();
	ck_assert_msg(!strncmp(member(problem, "type"), "urn:vramcast:problem:", 21), "%s", name);
	ck_assert_msg(*member(problem, "title"), "%s", name);
	ck_assert_msg(*member(problem, "detail"), "%s", name);
	ck_assert_int_eq(json_integer_value(json_object_get(problem, "status")), status);
	ck_assert_msg(json_is_array(json_object_get(problem, "errors")), "%s", name);
	json_decref(problem);
}

static inline size_t count_lines(const char *lines)
{
	size_t count = 0;

	for (; *lines; lines++)
		count += *lines == '\n';
	return count;
}

/* Runs the cases, each with a service of its own. What main() returns. */
static inline int run_cases(const char *name, TCase *const *cases, int count)
{
	Suite *suite = suite_create(name);

	cfg_json_init();
	for (int i = 0; i < count; i++) {
		tcase_add_unchecked_fixture(cases[i], start, stop);
		suite_add_tcase(suite, cases[i]);
	}
	return run_suite(suite);
}

#endif
