#include "server/problem.h"
#include <stdio.h>
#include "config/config.h"
#include "server/write.h"

const char srv_problem_type[] = "application/problem+json";

/* clang-format off */
static const struct srv_problem_row problems[SRV_PROBLEMS] = {
	[SRV_NOT_JSON]           = { 400, "not-json", "The body is not JSON", NULL },
	[SRV_NOT_KUBERNETES]     = { 400, "not-kubernetes", "The body is not what Kubernetes sends here", NULL },
	[SRV_BAD_FRAMING]        = { 400, "bad-framing", "The request is not proper HTTP", NULL },
	[SRV_UNAUTHORIZED]       = { 401, "unauthorized", "A token is needed", NULL },
	[SRV_NOT_FOUND]          = { 404, "not-found", "There is nothing here", NULL },
	[SRV_METHOD_NOT_ALLOWED] = { 405, "method-not-allowed", "The method is not allowed here", NULL },
	[SRV_NOT_ACCEPTABLE]     = { 406, "not-acceptable", "The answer does not exist in that format", NULL },
	[SRV_LENGTH_REQUIRED]    = { 411, "length-required", "The body's length is required", NULL },
	[SRV_TOO_LARGE]          = { 413, "too-large", "The body is too large", NULL },
	[SRV_TARGET_TOO_LONG]    = { 414, "target-too-long", "The request target is too long", NULL },
	[SRV_UNSUPPORTED_TYPE]   = { 415, "unsupported-media-type", "The body has to be application/json", NULL },
	[SRV_EXPECTATION_FAILED] = { 417, "expectation-failed", "The expectation cannot be met", NULL },
	[SRV_INVALID]            = { 422, "invalid", "The request is not valid", NULL },
	[SRV_OUT_OF_MEMORY]      = { 503, "out-of-memory", "The service is short of memory", "1" },
	[SRV_OVERLOADED]         = { 503, "overloaded", "The service is overloaded", "1" },
	[SRV_DRAINING]           = { 503, "draining", "The service is going away", "1" },
};
/* clang-format on */

const char srv_no_memory_body[] =
	"{\"type\":\"urn:vramcast:problem:out-of-memory\",\"title\":\"The service is short of memory\",\"status\":503,"
	"\"detail\":\"memory ran short while this request was answered; try again\",\"errors\":[]}";

const struct srv_problem_row *srv_problem_row(enum srv_problem problem)
{
	return problem > SRV_OK && problem < SRV_PROBLEMS ? &problems[problem] : NULL;
}

static void begin_reply(struct srv_reply *reply, enum srv_problem problem)
{
	const struct srv_problem_row *row = &problems[problem];

	srv_reply_drop_headers(reply);
	srv_reply_drop_body(reply);
	reply->status = row->status;
	reply->content_type = srv_problem_type;
	srv_reply_header(reply, "Cache-Control", "no-store");
	if (row->retry_after)
		srv_reply_header(reply, "Retry-After", row->retry_after);
}

/* Writes the members up to detail, without the closing brace. */
static void begin_document(struct srv_buffer *buffer, enum srv_problem problem, const char *detail)
{
	const struct srv_problem_row *row = &problems[problem];

	SRV_PUT(buffer, "{\"type\":\"urn:vramcast:problem:");
	srv_write_text(buffer, row->name);
	SRV_PUT(buffer, "\",\"title\":");
	srv_write_string(buffer, row->title);
	SRV_PUT(buffer, ",\"status\":");
	srv_write_i64(buffer, row->status);
	SRV_PUT(buffer, ",\"detail\":");
	srv_write_string(buffer, detail);
}

void srv_reply_problem(struct srv_reply *reply, enum srv_problem problem, const char *detail)
{
	begin_reply(reply, problem);
	begin_document(reply->buffer, problem, detail);
	SRV_PUT(reply->buffer, ",\"errors\":[]}");
}

static void write_fault(struct srv_buffer *buffer, const struct est_fault *fault)
{
	SRV_PUT(buffer, "{\"pointer\":");
	srv_write_string(buffer, fault->pointer);
	SRV_PUT(buffer, ",\"code\":");
	srv_write_string(buffer, est_fault_code_name(fault->code));
	SRV_PUT(buffer, ",\"detail\":");
	srv_write_string(buffer, fault->detail);
	srv_buffer_add_byte(buffer, '}');
}

static void write_faults(struct srv_buffer *buffer, enum srv_problem problem, const struct est_faults *faults)
{
	size_t listed = faults->count < EST_FAULTS_MAX ? faults->count : EST_FAULTS_MAX;
	char detail[96];

	if (listed < faults->count)
		snprintf(detail, sizeof detail, "the request has %zu faults, of which the first %zu are listed",
			 faults->count, listed);
	else
		snprintf(detail, sizeof detail, "the request has %zu fault%s", listed, listed == 1 ? "" : "s");
	begin_document(buffer, problem, detail);
	SRV_PUT(buffer, ",\"errors\":[");
	for (size_t i = 0; i < listed; i++) {
		if (i)
			srv_buffer_add_byte(buffer, ',');
		write_fault(buffer, &faults->item[i]);
	}
	SRV_PUT(buffer, "]");
	if (listed < faults->count) {
		SRV_PUT(buffer, ",\"count\":");
		srv_write_u64(buffer, faults->count);
	}
	srv_buffer_add_byte(buffer, '}');
}

void srv_problem_write_faults(struct srv_buffer *buffer, const struct est_faults *faults)
{
	write_faults(buffer, SRV_INVALID, faults);
}

static void reply_faults(struct srv_reply *reply, enum srv_problem problem, const struct est_faults *faults)
{
	begin_reply(reply, problem);
	write_faults(reply->buffer, problem, faults);
}

void srv_reply_faults(struct srv_reply *reply, const struct est_faults *faults)
{
	reply_faults(reply, SRV_INVALID, faults);
}

void srv_reply_not_kubernetes(struct srv_reply *reply, const struct est_faults *faults)
{
	reply_faults(reply, SRV_NOT_KUBERNETES, faults);
}

void srv_reply_no_memory(struct srv_reply *reply)
{
	srv_reply_drop_headers(reply);
	srv_reply_drop_body(reply);
	reply->status = problems[SRV_OUT_OF_MEMORY].status;
	srv_reply_fixed(reply, srv_problem_type, srv_no_memory_body, sizeof srv_no_memory_body - 1);
	srv_reply_header(reply, "Cache-Control", "no-store");
	srv_reply_header(reply, "Retry-After", "1");
}

enum srv_problem srv_refusal(const struct est_faults *faults)
{
	return cfg_json_out_of_memory() || !faults->count ? SRV_OUT_OF_MEMORY : SRV_INVALID;
}

void srv_reply_refusal(struct srv_reply *reply, const struct est_faults *faults)
{
	if (srv_refusal(faults) == SRV_OUT_OF_MEMORY)
		srv_reply_no_memory(reply);
	else
		srv_reply_faults(reply, faults);
}
