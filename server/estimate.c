/* POST and GET /estimate. */
#include <inttypes.h>
#include <stdio.h>
#include "estimator/fields.h"
#include "server/handlers.h"
#include "server/report.h"

enum {
	REASON_MAX = 256,
	LAYERS_AT_ONCE = 130 /* the largest presets have 126 */
};

/* Limits and advice take dozens of replays: they are answered when they are asked for by name. */
static bool wants(const struct cfg_request *request, enum est_include part)
{
	return request->request.include & part && request->request.accounting == EST_REPLAY
	       && est_request_names(&request->request, "include");
}

/* MLX's graph takes ten times as long as a replay of CUDA's allocator. */
bool srv_is_long_run(const struct cfg_request *request)
{
	bool builds_graph = request->request.framework == EST_MLX && request->request.accounting == EST_REPLAY;

	return builds_graph || request->model.num_hidden_layers > LAYERS_AT_ONCE;
}

/* Dozens of replays, or one of a model beyond measure. */
static bool takes_long(const struct cfg_request *request)
{
	return wants(request, EST_INCLUDE_LIMITS) || wants(request, EST_INCLUDE_ADVICE) || srv_is_long_run(request);
}

bool srv_replay(struct srv_context *context)
{
	const struct cfg_request *request = &context->request;

	est_arena_clear(&context->arena);
	return est_run(&request->request, &request->model, request->cards, request->card_count, &context->arena,
		       &context->report);
}

bool srv_run(struct srv_context *context)
{
	const struct cfg_request *request = &context->request;

	if (!srv_replay(context))
		return false;
	context->report.limited = wants(request, EST_INCLUDE_LIMITS);
	context->advised = wants(request, EST_INCLUDE_ADVICE);
	return (!context->report.limited || cfg_limits(request, &context->arena, &context->trial, &context->report))
	       && (!context->advised || cfg_advise(request, &context->report, &context->arena, &context->trial, context->advice,
						   &context->advice_count));
}

bool srv_write_estimate(struct srv_context *context, enum srv_format format, struct srv_buffer *buffer)
{
	struct srv_estimate estimate = { context->edition->catalog, &context->request, &context->report, context->advised ? context->advice : NULL,
					 context->advice_count };

	return srv_report_write(buffer, format, &estimate, &context->arena, context->rows);
}

/* Runs the checked request and writes the estimate. */
static void run(struct srv_call *call)
{
	struct srv_context *context = call->context;

	if (srv_leave_long(call, takes_long(&context->request)))
		return;
	if (!srv_run(context) || !srv_write_estimate(context, call->format, call->reply->buffer) || cfg_json_is_short()) {
		srv_reply_no_memory(call->reply);
		return;
	}
	call->reply->content_type = srv_format_media_type(call->format);
}

bool srv_leave_long(struct srv_call *call, bool takes_long)
{
	call->reply->deferred = takes_long && call->context->defers;
	return call->reply->deferred;
}

bool srv_check_work(const struct cfg_request *request, const char *base, struct est_faults *faults)
{
	char pointer[EST_POINTER_MAX];

	if (!wants(request, EST_INCLUDE_LIMITS) || request->card_count <= CFG_LIMIT_CARDS)
		return true;
	snprintf(pointer, sizeof pointer, "%s/include", base);
	est_fault_add(faults, pointer, EST_OUT_OF_RANGE, "limits are looked for on %d cards at most: name them in gpus",
		      CFG_LIMIT_CARDS);
	return false;
}

/* body -> context->request. Answers the faults when there are some. */
static bool read_request(struct srv_call *call, const json_t *body)
{
	struct srv_context *context = call->context;

	if (cfg_read_request(body, "", context->edition->catalog, &context->request, &context->faults)
	    && srv_check_work(&context->request, "", &context->faults))
		return true;
	srv_reply_refusal(call->reply, &context->faults);
	return false;
}

json_t *srv_parse_body(struct srv_call *call)
{
	const struct srv_request *request = call->request;
	char reason[REASON_MAX];
	bool no_memory = false;
	json_t *body = cfg_parse_json(request->body ? request->body : "", request->body_length, reason, sizeof reason,
			      &no_memory);

	if (!body && no_memory)
		srv_reply_no_memory(call->reply);
	else if (!body)
		srv_reply_problem(call->reply, SRV_NOT_JSON, reason);
	return body;
}

json_t *srv_read_body(struct srv_call *call)
{
	if (srv_query_read(call->request->query, NULL, 0, NULL, &call->context->faults))
		return srv_parse_body(call);
	srv_reply_faults(call->reply, &call->context->faults);
	return NULL;
}

json_t *srv_read_long_body(struct srv_call *call, const char *for_people)
{
	if (call->format == SRV_FOR_PEOPLE) {
		srv_reply_problem(call->reply, SRV_NOT_ACCEPTABLE, for_people);
		return NULL;
	}
	return srv_leave_long(call, true) ? NULL : srv_read_body(call);
}

/* What an estimate depends on but for the request. */
static uint64_t hash_of_setting(const struct srv_call *call)
{
	const struct srv_edition *edition = call->context->edition;
	uint64_t hash = est_hash(edition->presets.hash, &edition->gpus.hash, sizeof edition->gpus.hash);

	hash = est_hash(hash, SRV_VERSION, sizeof SRV_VERSION);
	return est_hash(hash, &call->format, sizeof call->format);
}

static const char *const not_fields[] = { "format", NULL };

/* ---- what was answered before */

/* The key of all requests whose JSON is the same but for its spelling. False where the order of members may show in the
 * answer, or it is too long. */
static bool spell(const struct srv_call *call, const json_t *body, struct srv_memo_key *ret_key)
{
	char *spelled = call->context->spelled;
	size_t length = json_object_get(body, "from") ? 0 : cfg_json_spell(body, spelled, sizeof call->context->spelled);

	*ret_key = (struct srv_memo_key){ NULL, spelled, length, hash_of_setting(call) };
	return length > 0;
}

/* Memory to be sent as it is. False where there is none. */
static bool answer_from(struct srv_call *call, struct srv_memory *memory)
{
	if (memory)
		srv_reply_remembered(call->reply, srv_format_media_type(call->format), memory);
	return memory;
}

static bool find(struct srv_call *call, const struct srv_memo_key *key)
{
	return answer_from(call, srv_memo_find(&call->context->memo, key));
}

/* Remembers the answer, and sends it from there. */
static void keep(struct srv_call *call, const struct srv_memo_key *key)
{
	size_t length;
	const char *body = srv_reply_body(call->reply, &length);

	if (!call->reply->buffer->failed)
		answer_from(call, srv_memo_keep(&call->context->memo, key, body, length));
}

/* Reads, checks and estimates, unless the same was asked in another spelling: that one is then remembered too. What comes
 * but once is so written down once. */
static void answer(struct srv_call *call, const json_t *body, const struct srv_memo_key *as_sent)
{
	struct srv_memo_key spelled;
	bool has_spelling = spell(call, body, &spelled), known = has_spelling && find(call, &spelled);

	if (!known && read_request(call, body))
		run(call);
	if (call->reply->status == 200 && !call->reply->deferred)
		keep(call, known || !has_spelling ? as_sent : &spelled);
}

static void estimate_anew(struct srv_call *call, const struct srv_memo_key *as_sent)
{
	json_t *body = srv_parse_body(call);

	if (body && !cfg_query_into(call->request->query, not_fields, body, &call->context->faults))
		srv_reply_refusal(call->reply, &call->context->faults);
	else if (body)
		answer(call, body, as_sent);
	json_decref(body);
}

void srv_post_estimate(struct srv_call *call)
{
	const struct srv_request *request = call->request;
	const struct srv_memo_key key = { request->query, request->body, request->body_length, hash_of_setting(call) };

	if (find(call, &key) || srv_leave_long(call, request->body_length > SRV_BODY_AT_ONCE))
		return;
	estimate_anew(call, &key);
}

/* An estimate is a function of the request and the catalogues alone. */
static bool is_unchanged(struct srv_call *call)
{
	const char *query = call->request->query ? call->request->query : "";
	uint64_t hash = est_hash(hash_of_setting(call), query, strlen(query));

	srv_reply_header(call->reply, "Cache-Control", "public, max-age=60");
	return srv_reply_etag(call->reply, call->request, hash);
}

void srv_get_estimate(struct srv_call *call)
{
	const char *query = call->request->query ? call->request->query : "";
	json_t *body = cfg_query_to_json(query, not_fields, &call->context->faults);

	if (!body)
		srv_reply_refusal(call->reply, &call->context->faults);
	else if (read_request(call, body) && !is_unchanged(call))
		run(call);
	json_decref(body);
}
