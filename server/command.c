#include "server/command.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include "server/service.h"

enum { EXIT_FITS = 0, EXIT_DOES_NOT_FIT = 1, EXIT_BAD_REQUEST = 2, EXIT_TROUBLE = 3, PIECE = 64 * 1024,
       ERROR_MAX = 1024 };

static int fail(const char *what, const char *why)
{
	fprintf(stderr, "vramcast: %s: %s\n", what, why);
	return EXIT_TROUBLE;
}

/* All of the file, max bytes and one more at most. False when it cannot be read. */
static bool read_file(FILE *file, size_t max, struct srv_buffer *ret)
{
	while (ret->length <= max) {
		size_t got;

		if (!srv_buffer_reserve(ret, PIECE))
			return false;
		got = fread(ret->data + ret->length, 1, PIECE, file);
		ret->length += got;
		if (!got)
			return !ferror(file);
	}
	return true;
}

static bool read_request(const struct cfg_settings *settings, struct srv_buffer *ret)
{
	bool is_input = !settings->file || !strcmp(settings->file, "-"), right;
	FILE *file = is_input ? stdin : fopen(settings->file, "rb");

	if (!file)
		return false;
	right = read_file(file, settings->max_body, ret);
	if (!is_input)
		fclose(file);
	return right;
}

/* The cards of the command line take the place of the request's. What is no JSON object is left for the service to
 * refuse. */
static void name_cards(const struct cfg_settings *settings, struct srv_buffer *body)
{
	json_t *request = json_loadb(body->data, body->length, JSON_REJECT_DUPLICATES, NULL), *cards = json_array();
	char *text;

	for (int i = 0; i < settings->gpu_count; i++)
		json_array_append_new(cards, json_string(settings->gpu[i]));
	if (json_is_object(request) && !json_object_set(request, "gpus", cards)
	    && (text = json_dumps(request, JSON_COMPACT))) {
		srv_buffer_clear(body);
		srv_buffer_add(body, text, strlen(text));
		free(text);
	}
	json_decref(cards);
	json_decref(request);
}

static int verdict_of(const struct srv_context *context)
{
	const struct est_report *report = &context->report;
	size_t fitting = 0;

	for (size_t i = 0; i < report->fit_count; i++)
		fitting += report->fits[i].verdict == EST_FITS;
	return fitting && (fitting == report->fit_count || !context->request.cards_named) ? EXIT_FITS : EXIT_DOES_NOT_FIT;
}

static int answer(const struct cfg_settings *settings, struct srv_context *context, const struct srv_buffer *body)
{
	struct srv_request request = { .method = "POST", .path = "/estimate", .content_type = "application/json",
				       .body = body->data, .body_length = body->length };
	struct srv_reply reply;
	char query[64];
	const char *text;
	size_t length;
	FILE *out;

	snprintf(query, sizeof query, "format=%s", settings->format ? settings->format : "json");
	request.query = query;
	srv_route(context, &request, &reply);
	text = srv_reply_body(&reply, &length);
	out = reply.status == 200 ? stdout : stderr;
	fwrite(text, 1, length, out);
	if (length && text[length - 1] != '\n')
		fputc('\n', out);
	if (fflush(stdout))
		return fail("standard output", strerror(errno));
	if (reply.status != 200)
		return reply.status < 500 ? EXIT_BAD_REQUEST : EXIT_TROUBLE;
	return verdict_of(context);
}

static int run(const struct cfg_settings *settings, struct srv_service *service)
{
	struct srv_context *context = srv_context_create(service);
	struct srv_buffer body = { 0 };
	int code;

	if (!context)
		return fail("memory", "is short");
	if (!read_request(settings, &body))
		code = fail(settings->file ? settings->file : "standard input", errno ? strerror(errno) : "cannot be read");
	else if (body.length > settings->max_body)
		code = fail("the request", "is longer than --max-body allows");
	else {
		if (settings->gpu_count)
			name_cards(settings, &body);
		code = answer(settings, context, &body);
	}
	srv_buffer_finish(&body);
	srv_context_destroy(context);
	return code;
}

int srv_command_estimate(const struct cfg_settings *settings)
{
	char error[ERROR_MAX];
	struct srv_edition *edition = srv_edition_create(cfg_settings_catalog(settings), NULL, error, sizeof error);
	struct srv_service service;
	int code;

	if (!edition)
		return fail("the catalogue", error);
	srv_service_init(&service, edition, NULL, 0);
	code = run(settings, &service);
	srv_service_finish(&service);
	return code;
}
