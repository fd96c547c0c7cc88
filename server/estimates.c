/* POST /estimates: many requests, answered while the answer is sent, by as many threads as have nothing else to do. */
#include <stdlib.h>
#include "config/common.h"
#include "estimator/fields.h"
#include "server/handlers.h"
#include "server/report.h"
#include "server/write.h"

enum { FIELDS_MAX = 128 }; /* est_request_fields has no more */

/* Read-only while it is answered: threads share it. */
struct batch_stream {
	struct srv_stream stream;
	enum srv_format format;
	struct cfg_batch batch;
	struct cfg_common *common;                 /* or NULL: its requests are read as a whole */
	size_t field_count;                        /* a column for each field that any of the requests names */
	const struct est_field *fields[FIELDS_MAX];
};

/* One of its requests, and the thread that answers it. */
struct item {
	const struct batch_stream *batch;
	size_t number;
	json_t *body;                              /* what the request borrows from, or NULL */
	struct srv_context *context;
	struct srv_buffer *buffer;
};

/* One request and what came out, as one row of a frame. The card is the first that is judged. */
struct batch_row {
	int64_t request, status;
	char error[EST_POINTER_MAX + EST_DETAIL_MAX];
	int64_t parameters, trainable_parameters;
	struct est_rows per_gpu;
	const char *phase;
	uint64_t allocated, reserved, device, device_high;
	const char *gpu, *verdict;
	uint64_t usable, required, required_high;
};

/* clang-format off */
static const struct srv_column number_columns[] = {
	SRV_COLUMN("request", SRV_I64, struct batch_row, request),
};
static const struct srv_column outcome_columns[] = {
	SRV_COLUMN("status", SRV_I64, struct batch_row, status),
	SRV_OPTIONAL("error", SRV_CHARS, struct batch_row, error),
};
static const struct srv_column answer_columns[] = {
	SRV_COLUMN("parameters", SRV_I64, struct batch_row, parameters),
	SRV_COLUMN("trainable_parameters", SRV_I64, struct batch_row, trainable_parameters),
	SRV_COLUMN("weights_bytes", SRV_U64, struct batch_row, per_gpu.weights),
	SRV_COLUMN("gradients_bytes", SRV_U64, struct batch_row, per_gpu.gradients),
	SRV_COLUMN("optimizer_bytes", SRV_U64, struct batch_row, per_gpu.optimizer),
	SRV_COLUMN("activations_bytes", SRV_U64, struct batch_row, per_gpu.activations),
	SRV_COLUMN("buffers_bytes", SRV_U64, struct batch_row, per_gpu.buffers),
	SRV_COLUMN("overhead_bytes", SRV_U64, struct batch_row, per_gpu.overhead),
	SRV_COLUMN("total_bytes", SRV_U64, struct batch_row, per_gpu.total),
	SRV_COLUMN("phase", SRV_TEXT, struct batch_row, phase),
	SRV_COLUMN("allocated_bytes", SRV_U64, struct batch_row, allocated),
	SRV_COLUMN("reserved_bytes", SRV_U64, struct batch_row, reserved),
	SRV_COLUMN("device_bytes", SRV_U64, struct batch_row, device),
	SRV_COLUMN("device_high_bytes", SRV_U64, struct batch_row, device_high),
	SRV_COLUMN("gpu", SRV_TEXT, struct batch_row, gpu),
	SRV_COLUMN("usable_bytes", SRV_U64, struct batch_row, usable),
	SRV_COLUMN("required_bytes", SRV_U64, struct batch_row, required),
	SRV_COLUMN("required_high_bytes", SRV_U64, struct batch_row, required_high),
	SRV_COLUMN("verdict", SRV_TEXT, struct batch_row, verdict),
};
/* clang-format on */
static const struct srv_table number_table = SRV_TABLE(number_columns), outcome_table = SRV_TABLE(outcome_columns);
static const struct srv_table answer_table = SRV_TABLE(answer_columns);

/* ---- one request: read, run, written */

/* The request as a whole -> the context's. */
static bool read_whole(struct item *item)
{
	struct srv_context *context = item->context;
	char base[EST_POINTER_MAX];
	const struct cfg_catalog *catalog = context->edition->catalog;
	bool told = item->batch->format == SRV_JSON; /* rows tell nothing of what was assumed */

	item->body = cfg_batch_request(&item->batch->batch, item->number, base);
	return item->body
	       && (told ? cfg_read_request(item->body, base, catalog, &context->request, &context->faults)
			: cfg_read_run(item->body, base, catalog, &context->request, &context->faults))
	       && srv_check_work(&context->request, base, &context->faults);
}

/* The same where what the requests have in common is read. */
static bool read_varied(const struct item *item)
{
	struct srv_context *context = item->context;

	return item->batch->common
	       && cfg_common_read(item->batch->common, item->number, item->batch->format != SRV_JSON, &context->request,
				  &context->faults)
	       && srv_check_work(&context->request, "", &context->faults);
}

/* Reads and runs it in the context. False with faults, or without when memory is short. */
static bool run(struct item *item)
{
	struct srv_context *context = item->context;
	struct cfg_request *request = &context->request;

	context->faults.count = 0;
	if (!read_varied(item)) {
		context->faults.count = 0;
		if (!read_whole(item))
			return false;
	}
	if (!est_request_names(&request->request, "include"))
		request->request.include = 0; /* of many, the verdicts alone */
	return srv_run(context);
}

static void write_failure(const struct item *item)
{
	if (srv_refusal(&item->context->faults) == SRV_OUT_OF_MEMORY)
		srv_write_text(item->buffer, srv_no_memory_body);
	else
		srv_problem_write_faults(item->buffer, &item->context->faults);
}

static void write_document(struct item *item)
{
	struct srv_buffer *buffer = item->buffer;
	size_t start;

	if (item->number)
		srv_buffer_add_byte(buffer, ',');
	start = buffer->length;
	if (run(item) && srv_write_estimate(item->context, SRV_JSON, buffer) && !cfg_json_is_short())
		return;
	buffer->length = start;
	write_failure(item);
}

/* ---- the same as a row */

static void fill_failure(struct srv_context *context, struct batch_row *row)
{
	const struct est_fault *fault = &context->faults.item[0];
	enum srv_problem problem = srv_refusal(&context->faults);

	row->status = srv_problem_row(problem)->status;
	if (problem == SRV_OUT_OF_MEMORY)
		snprintf(row->error, sizeof row->error, "memory ran short; try again");
	else
		snprintf(row->error, sizeof row->error, "%s %s", fault->pointer, fault->detail);
}

static void fill_answer(const struct est_report *report, struct batch_row *row)
{
	const struct est_fit *fit = &report->fits[0];

	row->status = 200;
	row->parameters = report->parameters;
	row->trainable_parameters = report->trainable_parameters;
	row->per_gpu = report->per_gpu;
	row->phase = report->replayed ? est_phase_name(report->peak.phase) : NULL;
	row->allocated = report->peak.allocated.expected;
	row->reserved = report->peak.reserved.expected;
	row->device = report->peak.device.expected;
	row->device_high = report->peak.device.high;
	row->gpu = fit->gpu->id;
	row->verdict = est_verdict_name(fit->verdict);
	row->usable = fit->gpu->usable_bytes;
	row->required = fit->required;
	row->required_high = fit->required_high;
}

/* The value that the request gives a field: text as it is, lists and objects as JSON. Borrowed, or made in *ret_made. */
static const char *value_text(const json_t *value, char **ret_made)
{
	*ret_made = NULL;
	if (!value || json_is_null(value))
		return "";
	if (json_is_string(value))
		return json_string_value(value);
	*ret_made = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(12));
	return *ret_made ? *ret_made : "";
}

static void write_field(const struct item *item, const struct est_field *field, bool csv)
{
	struct srv_buffer *buffer = item->buffer;
	const json_t *value = cfg_batch_value(&item->batch->batch, item->number, field->name);
	char *made;
	const char *text = value_text(value, &made);

	if (cfg_json_is_short())
		buffer->failed = true;
	if (csv) {
		srv_buffer_add_byte(buffer, ',');
		srv_write_csv_text(buffer, text);
	} else if (value && !json_is_null(value)) {
		srv_buffer_add_byte(buffer, ',');
		srv_write_string(buffer, field->name);
		srv_buffer_add_byte(buffer, ':');
		json_is_string(value) ? srv_write_string(buffer, text) : srv_write_text(buffer, text);
	}
	free(made);
}

static void write_csv_row(const struct item *item, const struct batch_row *row)
{
	const struct batch_stream *batch = item->batch;
	struct srv_buffer *buffer = item->buffer;

	srv_write_csv_cells(buffer, &number_table, row);
	for (size_t i = 0; i < batch->field_count; i++)
		write_field(item, batch->fields[i], true);
	srv_buffer_add_byte(buffer, ',');
	srv_write_csv_cells(buffer, &outcome_table, row);
	srv_buffer_add_byte(buffer, ',');
	if (row->status == 200)
		srv_write_csv_cells(buffer, &answer_table, row);
	for (size_t i = 1; i < answer_table.count && row->status != 200; i++)
		srv_buffer_add_byte(buffer, ',');
	srv_buffer_add_byte(buffer, '\n');
}

static void write_object_row(const struct item *item, const struct batch_row *row)
{
	const struct batch_stream *batch = item->batch;
	struct srv_buffer *buffer = item->buffer;

	srv_buffer_add_byte(buffer, '{');
	srv_write_members(buffer, &number_table, row);
	for (size_t i = 0; i < batch->field_count; i++)
		write_field(item, batch->fields[i], false);
	srv_buffer_add_byte(buffer, ',');
	srv_write_members(buffer, &outcome_table, row);
	if (row->status == 200) {
		srv_buffer_add_byte(buffer, ',');
		srv_write_members(buffer, &answer_table, row);
	}
	srv_buffer_add_byte(buffer, '}');
}

static void write_row(struct item *item)
{
	enum srv_format format = item->batch->format;
	struct batch_row row = { .request = (int64_t)item->number };

	if (run(item))
		fill_answer(&item->context->report, &row);
	else
		fill_failure(item->context, &row);
	if (format == SRV_CSV) {
		write_csv_row(item, &row);
		return;
	}
	if (item->number && format == SRV_RECORDS)
		srv_buffer_add_byte(item->buffer, ',');
	write_object_row(item, &row);
	if (format == SRV_NDJSON)
		srv_buffer_add_byte(item->buffer, '\n');
}

/* ---- the stream */

static void write_begin(const struct batch_stream *batch, struct srv_buffer *buffer)
{
	if (batch->format == SRV_JSON)
		SRV_PUT(buffer, "{\"results\":[");
	if (batch->format == SRV_RECORDS)
		srv_buffer_add_byte(buffer, '[');
	if (batch->format != SRV_CSV)
		return;
	srv_write_csv_names(buffer, &number_table);
	for (size_t i = 0; i < batch->field_count; i++) {
		srv_buffer_add_byte(buffer, ',');
		srv_write_csv_text(buffer, batch->fields[i]->name);
	}
	srv_buffer_add_byte(buffer, ',');
	srv_write_csv_names(buffer, &outcome_table);
	srv_buffer_add_byte(buffer, ',');
	srv_write_csv_names(buffer, &answer_table);
	srv_buffer_add_byte(buffer, '\n');
}

static void write_end(const struct batch_stream *batch, struct srv_buffer *buffer)
{
	if (batch->format == SRV_JSON)
		SRV_PUT(buffer, "]}");
	if (batch->format == SRV_RECORDS)
		srv_buffer_add_byte(buffer, ']');
}

static void write_item(struct item *item)
{
	cfg_json_out_of_memory(); /* what ran short before is no matter of this one */
	if (item->batch->format == SRV_JSON)
		write_document(item);
	else
		write_row(item);
	json_decref(item->body);
}

/* One request; with the first what stands before all, with the last what stands behind. */
static bool next_part(struct srv_stream *stream, struct srv_span *span, struct srv_context *context,
		      struct srv_buffer *buffer)
{
	const struct batch_stream *batch = (const struct batch_stream *)stream;
	struct item item = { .batch = batch, .number = span->at++, .context = context, .buffer = buffer };

	if (item.number == 0)
		write_begin(batch, buffer);
	if (item.number < batch->batch.count)
		write_item(&item);
	if (item.number + 1 >= batch->batch.count)
		write_end(batch, buffer);
	return span->at < span->end;
}

static void destroy(struct srv_stream *stream)
{
	struct batch_stream *batch = (struct batch_stream *)stream;

	cfg_common_destroy(batch->common);
	cfg_batch_finish(&batch->batch);
	free(batch);
}

static void list_fields(struct batch_stream *batch)
{
	bool named[FIELDS_MAX];

	cfg_batch_fields(&batch->batch, named);
	for (size_t i = 0; i < est_request_field_count; i++)
		if (named[i])
			batch->fields[batch->field_count++] = &est_request_fields[i];
}

/* body -> the reply's stream, or the faults of its envelope. */
static void begin_stream(struct srv_call *call, json_t *body)
{
	struct batch_stream *batch = calloc(1, sizeof *batch);

	if (!batch) {
		srv_reply_no_memory(call->reply);
		return;
	}
	if (!cfg_batch_init(&batch->batch, body, &call->context->faults)) {
		free(batch);
		srv_reply_refusal(call->reply, &call->context->faults);
		return;
	}
	batch->stream = (struct srv_stream){ .next = next_part, .destroy = destroy, .items = batch->batch.count,
					     .edition = srv_edition_hold(call->context->edition) };
	batch->format = call->format;
	batch->common = cfg_common_create(&batch->batch, call->context->edition->catalog);
	cfg_json_out_of_memory(); /* then every request is read as a whole */
	if (call->format != SRV_JSON)
		list_fields(batch);
	call->reply->stream = &batch->stream;
	call->reply->content_type = srv_format_media_type(call->format);
}

void srv_post_estimates(struct srv_call *call)
{
	json_t *body = srv_read_long_body(call, "many estimates come as json, csv, ndjson or records");

	if (body)
		begin_stream(call, body);
	json_decref(body);
}
