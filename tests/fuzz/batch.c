/* Many requests in one body, and plans: POST /estimates where the body has requests or a sweep, else /plan. A letter
 * before the body chooses the format: c, n or r. A stream is left half way when it is long. A plan is confirmed by
 * /estimate. */
#include <stdlib.h>
#include <string.h>
#include "config/batch.h"
#include "tests/fuzz/served.h"

enum { PARTS_MAX = 24, PLANS_MAX = 3 };

static const struct { char letter; const char *query; } formats[] = {
	{ 'c', "format=csv" }, { 'n', "format=ndjson" }, { 'r', "format=records" },
};

/* Asks; whether the answer, in reply's buffer, is whole. */
static bool post(const char *path, const char *query, const char *body, size_t length, struct srv_reply *reply)
{
	const struct srv_request request = { .method = "POST", .path = path, .query = query,
					     .content_type = "application/json", .body = body, .body_length = length };
	struct srv_span span;
	bool more = true;

	srv_route(served_context(), &request, reply);
	fuzz_require(served_status_is_fit(reply->status), "status %d", reply->status);
	if (!reply->stream)
		return true;
	span = srv_stream_span(reply->stream);
	for (int i = 0; i < PARTS_MAX && more; i++)
		more = srv_stream_part(reply->stream, &span, served_context(), reply->buffer);
	fuzz_require(!reply->buffer->failed, "memory is said to be short");
	srv_reply_drop_stream(reply);
	return !more;
}

/* The answer as JSON; new reference. */
static json_t *answer(const struct srv_reply *reply)
{
	size_t length;
	const char *body = srv_reply_body(reply, &length);
	json_t *value = json_loadb(body, length, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);

	fuzz_require(value != NULL, "an answer is JSON: %.*s", (int)(length < 1000 ? length : 1000), body);
	return value;
}

static void check_results(const json_t *results, json_t *body)
{
	static struct est_faults faults;
	struct cfg_batch batch;
	const json_t *result;
	size_t i;

	faults.count = 0;
	fuzz_require(cfg_batch_init(&batch, body, &faults), "an envelope that was answered is right");
	fuzz_require(json_array_size(results) == batch.count, "every request has a result");
	json_array_foreach(results, i, result)
		fuzz_require(!json_object_get(result, "peak") != !json_object_get(result, "errors")
				     || json_object_get(result, "per_gpu"), "result %zu is an estimate or a problem", i);
	cfg_batch_finish(&batch);
}

/* A plan's request, sent to /estimate, fits and needs what the plan says. */
static void check_plan(const json_t *plan)
{
	struct srv_reply reply;
	char *text = json_dumps(json_object_get(plan, "request"), JSON_COMPACT | JSON_REAL_PRECISION(12));
	json_t *estimate;
	const json_t *fit;

	fuzz_require(text != NULL, "a plan has a request");
	post("/estimate", NULL, text, strlen(text), &reply);
	estimate = answer(&reply);
	fit = json_array_get(json_object_get(estimate, "fits"), 0);
	fuzz_require(fit && !strcmp(json_string_value(json_object_get(fit, "verdict")), "fits"), "a plan fits: %s", text);
	fuzz_require(json_equal(json_object_get(fit, "required_bytes"), json_object_get(plan, "required_bytes")),
		     "a plan needs what it says: %s", text);
	json_decref(estimate);
	free(text);
}

static void check_plans(const json_t *plans)
{
	const json_t *plan;
	size_t i;

	json_array_foreach(plans, i, plan)
		if (i < PLANS_MAX)
			check_plan(plan);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct srv_reply reply;
	const char *query = NULL;
	bool batched, whole;
	json_t *body, *document;

	for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++)
		if (size && data[0] == formats[i].letter)
			query = formats[i].query;
	data += query != NULL;
	size -= query != NULL;
	body = fuzz_parse(data, size);
	batched = json_object_get(body, "requests") || json_object_get(body, "sweep");
	whole = post(batched ? "/estimates" : "/plan", query, (const char *)data, size, &reply);
	if (whole && (!query || reply.status != 200)) {
		document = answer(&reply);
		if (reply.status == 200 && batched)
			check_results(json_object_get(document, "results"), body);
		else if (reply.status == 200)
			check_plans(json_object_get(document, "plans"));
		json_decref(document);
	}
	json_decref(body);
	return 0;
}
