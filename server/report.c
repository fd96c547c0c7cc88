#include "server/report.h"
#include <stddef.h>
#include "estimator/explain.h"
#include "server/advice.h"
#include "server/hints.h"
#include "server/people.h"
#include "server/table.h"
#include "server/write.h"

/* clang-format off */
static const struct srv_column model_columns[] = {
	SRV_COLUMN("id", SRV_CHARS, struct est_model, id),
	SRV_COLUMN("parameters", SRV_I64, struct est_model, parameters),
};
static const struct srv_column trainable_columns[] = {
	SRV_COLUMN("trainable_parameters", SRV_I64, struct est_report, trainable_parameters),
};
static const struct srv_column shape_columns[] = {
	SRV_OPTIONAL("model_type", SRV_CHARS, struct est_model, model_type),
	SRV_COLUMN("hidden_size", SRV_I64, struct est_model, hidden_size),
	SRV_COLUMN("num_hidden_layers", SRV_I64, struct est_model, num_hidden_layers),
	SRV_COLUMN("num_attention_heads", SRV_I64, struct est_model, num_attention_heads),
	SRV_COLUMN("num_key_value_heads", SRV_I64, struct est_model, num_key_value_heads),
	SRV_COLUMN("head_dim", SRV_I64, struct est_model, head_dim),
	SRV_COLUMN("intermediate_size", SRV_I64, struct est_model, intermediate_size),
	SRV_COLUMN("vocab_size", SRV_I64, struct est_model, vocab_size),
	SRV_COLUMN("max_position_embeddings", SRV_I64, struct est_model, max_position_embeddings),
	SRV_OPTIONAL("sliding_window", SRV_I64, struct est_model, sliding_window),
	SRV_OPTIONAL("num_experts", SRV_I64, struct est_model, num_experts),
	SRV_COLUMN("tie_word_embeddings", SRV_BOOL, struct est_model, tie_word_embeddings),
	SRV_COLUMN("inferred", SRV_BOOL, struct est_model, inferred),
};
static const struct srv_column rows_columns[] = {
	SRV_COLUMN("weights_bytes", SRV_U64, struct est_rows, weights),
	SRV_COLUMN("gradients_bytes", SRV_U64, struct est_rows, gradients),
	SRV_COLUMN("optimizer_bytes", SRV_U64, struct est_rows, optimizer),
	SRV_COLUMN("activations_bytes", SRV_U64, struct est_rows, activations),
	SRV_COLUMN("buffers_bytes", SRV_U64, struct est_rows, buffers),
	SRV_COLUMN("overhead_bytes", SRV_U64, struct est_rows, overhead),
	SRV_COLUMN("total_bytes", SRV_U64, struct est_rows, total),
};
static const struct srv_column thumb_columns[] = {
	SRV_COLUMN("weights_bytes", SRV_U64, struct est_rows, weights),
	SRV_COLUMN("gradients_bytes", SRV_U64, struct est_rows, gradients),
	SRV_COLUMN("optimizer_bytes", SRV_U64, struct est_rows, optimizer),
	SRV_COLUMN("activations_bytes", SRV_U64, struct est_rows, activations),
	SRV_COLUMN("overhead_bytes", SRV_U64, struct est_rows, overhead),
	SRV_COLUMN("total_bytes", SRV_U64, struct est_rows, total),
};
static const struct srv_column range_columns[] = {
	SRV_COLUMN("low_bytes", SRV_U64, struct est_range, low),
	SRV_COLUMN("expected_bytes", SRV_U64, struct est_range, expected),
	SRV_COLUMN("high_bytes", SRV_U64, struct est_range, high),
};
static const struct srv_column moment_columns[] = {
	SRV_COLUMN("allocated_bytes", SRV_U64, struct est_moment, allocated),
	SRV_COLUMN("reserved_bytes", SRV_U64, struct est_moment, reserved),
};
static const struct srv_column point_columns[] = {
	SRV_COLUMN("allocated_bytes", SRV_U64, struct est_point, allocated),
	SRV_COLUMN("reserved_bytes", SRV_U64, struct est_point, reserved),
};
static const struct srv_column explanation_columns[] = {
	SRV_COLUMN("component", SRV_TEXT, struct est_explanation, component),
	SRV_COLUMN("formula", SRV_CHARS, struct est_explanation, formula),
	SRV_COLUMN("source", SRV_TEXT, struct est_explanation, source),
	SRV_COLUMN("bytes", SRV_U64, struct est_explanation, bytes),
};
static const struct srv_column host_columns[] = {
	SRV_COLUMN("pinned_bytes", SRV_U64, struct est_report, host_pinned),
	SRV_COLUMN("pageable_bytes", SRV_U64, struct est_report, host_pageable),
};
static const struct srv_column note_columns[] = {
	SRV_COLUMN("pointer", SRV_TEXT, struct est_note, pointer),
	SRV_OPTIONAL("value", SRV_CHARS, struct est_note, value),
	SRV_COLUMN("detail", SRV_CHARS, struct est_note, detail),
};

/* A verdict with what follows from it. */
struct fit_row {
	const char *gpu, *name, *verdict, *reason;
	uint64_t memory, usable, required, required_high;
	int64_t headroom;
	double utilization;
	int64_t min_gpus, max_micro_batch_size, max_sequence_length;
};
static const struct srv_column fit_columns[] = {
	SRV_COLUMN("gpu", SRV_TEXT, struct fit_row, gpu),
	SRV_COLUMN("name", SRV_TEXT, struct fit_row, name),
	SRV_COLUMN("memory_bytes", SRV_U64, struct fit_row, memory),
	SRV_COLUMN("usable_bytes", SRV_U64, struct fit_row, usable),
	SRV_COLUMN("required_bytes", SRV_U64, struct fit_row, required),
	SRV_COLUMN("required_high_bytes", SRV_U64, struct fit_row, required_high),
	SRV_COLUMN("headroom_bytes", SRV_I64, struct fit_row, headroom),
	SRV_COLUMN("utilization", SRV_RATIO, struct fit_row, utilization),
	SRV_COLUMN("verdict", SRV_TEXT, struct fit_row, verdict),
	SRV_OPTIONAL("reason", SRV_TEXT, struct fit_row, reason),
	SRV_COLUMN("min_gpus", SRV_I64, struct fit_row, min_gpus), /* from here on limits, which not every answer has */
	SRV_COLUMN("max_micro_batch_size", SRV_I64, struct fit_row, max_micro_batch_size),
	SRV_COLUMN("max_sequence_length", SRV_I64, struct fit_row, max_sequence_length),
};
enum { LIMITS = 3 };

/* A kind of rank. */
struct rank_row {
	const char *kind;
	int64_t layers, micro_batches;
	uint64_t allocated;
};
static const struct srv_column rank_columns[] = {
	SRV_COLUMN("rank_kind", SRV_TEXT, struct rank_row, kind),
	SRV_COLUMN("layers", SRV_I64, struct rank_row, layers),
	SRV_COLUMN("micro_batches", SRV_I64, struct rank_row, micro_batches),
	SRV_COLUMN("allocated_bytes", SRV_U64, struct rank_row, allocated),
};

static const struct srv_table rank_table = SRV_TABLE(rank_columns);
static const struct srv_table model_table = SRV_TABLE(model_columns), trainable_table = SRV_TABLE(trainable_columns);
static const struct srv_table shape_table = SRV_TABLE(shape_columns), rows_table = SRV_TABLE(rows_columns);
static const struct srv_table thumb_table = SRV_TABLE(thumb_columns), range_table = SRV_TABLE(range_columns);
static const struct srv_table point_table = SRV_TABLE(point_columns),
	explanation_table = SRV_TABLE(explanation_columns);
static const struct srv_table moment_table = SRV_TABLE(moment_columns), host_table = SRV_TABLE(host_columns);
static const struct srv_table note_table = SRV_TABLE(note_columns), fit_table = SRV_TABLE(fit_columns);
/* clang-format on */

static struct srv_table fit_table_of(const struct est_report *report)
{
	struct srv_table table = fit_table;

	table.count -= report->limited ? 0 : LIMITS;
	return table;
}

static struct fit_row fit_row(const struct est_fit *fit)
{
	const struct est_gpu *gpu = fit->gpu;

	return (struct fit_row){
		.gpu = gpu->id, .name = gpu->name, .verdict = est_verdict_name(fit->verdict), .reason = fit->reason,
		.memory = gpu->memory_bytes, .usable = gpu->usable_bytes, .required = fit->required,
		.required_high = fit->required_high,
		.headroom = (int64_t)(gpu->usable_bytes - fit->required_high), /* both below 2^53: wraps to negative */
		.utilization = gpu->usable_bytes ? (double)fit->required / (double)gpu->usable_bytes : 0,
		.min_gpus = fit->min_gpus, .max_micro_batch_size = fit->max_micro_batch_size,
		.max_sequence_length = fit->max_sequence_length,
	};
}

size_t srv_report_arena_size(size_t fit_count)
{
	return fit_count * sizeof(struct fit_row) + _Alignof(max_align_t);
}

static bool make_fit_rows(const struct est_report *report, struct est_arena *arena, const void **ret_rows)
{
	struct fit_row *made = est_arena_take(arena, report->fit_count, sizeof *made);

	if (!made)
		return false;
	for (size_t i = 0; i < report->fit_count; i++) {
		made[i] = fit_row(&report->fits[i]);
		ret_rows[i] = &made[i];
	}
	return true;
}

/* ---- the document, key by key */

static void write_model(struct srv_buffer *buffer, const struct est_model *model, const struct est_report *report)
{
	SRV_PUT(buffer, "{\"model\":{");
	srv_write_members(buffer, &model_table, model);
	srv_buffer_add_byte(buffer, ',');
	srv_write_members(buffer, &trainable_table, report);
	srv_buffer_add_byte(buffer, ',');
	srv_write_members(buffer, &shape_table, model);
	srv_buffer_add_byte(buffer, '}');
}

static void write_at_peak(struct srv_buffer *buffer, const uint64_t *at_peak)
{
	for (int i = 0; i < EST_CATEGORIES; i++) {
		srv_buffer_add_byte(buffer, i ? ',' : '{');
		srv_buffer_add_byte(buffer, '"');
		srv_write_text(buffer, est_category_name((enum est_category)i));
		SRV_PUT(buffer, "_bytes\":");
		srv_write_u64(buffer, at_peak[i]);
	}
	srv_buffer_add_byte(buffer, '}');
}

static void write_peak(struct srv_buffer *buffer, const struct est_peak *peak)
{
	SRV_PUT(buffer, ",\"peak\":{\"phase\":");
	srv_write_string(buffer, est_phase_name(peak->phase));
	SRV_PUT(buffer, ",\"gpu\":");
	srv_write_string(buffer, peak->gpu->id);
	SRV_PUT(buffer, ",\"at_peak\":");
	write_at_peak(buffer, peak->at_peak);
	SRV_PUT(buffer, ",\"allocated\":");
	srv_write_object(buffer, &range_table, &peak->allocated);
	SRV_PUT(buffer, ",\"reserved\":");
	srv_write_object(buffer, &range_table, &peak->reserved);
	SRV_PUT(buffer, ",\"device\":");
	srv_write_object(buffer, &range_table, &peak->device);
	srv_buffer_add_byte(buffer, '}');
}

static void write_timeline(struct srv_buffer *buffer, const struct est_report *report)
{
	SRV_PUT(buffer, ",\"timeline\":[");
	for (size_t i = 0; i < report->moments; i++) {
		if (i)
			srv_buffer_add_byte(buffer, ',');
		SRV_PUT(buffer, "{\"phase\":");
		srv_write_string(buffer, est_phase_name(report->timeline[i].phase));
		srv_buffer_add_byte(buffer, ',');
		srv_write_members(buffer, &moment_table, &report->timeline[i]);
		srv_buffer_add_byte(buffer, '}');
	}
	srv_buffer_add_byte(buffer, ']');
}

/* timeline full */
static void write_points(struct srv_buffer *buffer, const struct est_report *report)
{
	SRV_PUT(buffer, ",\"timeline\":[");
	for (size_t i = 0; i < report->point_count; i++) {
		const struct est_point *point = &report->points[i];

		if (i)
			srv_buffer_add_byte(buffer, ',');
		SRV_PUT(buffer, "{\"phase\":");
		srv_write_string(buffer, est_phase_name(point->phase));
		if (point->layer >= 0) {
			SRV_PUT(buffer, ",\"layer\":");
			srv_write_i64(buffer, point->layer);
		}
		srv_buffer_add_byte(buffer, ',');
		srv_write_members(buffer, &point_table, point);
		srv_buffer_add_byte(buffer, '}');
	}
	srv_buffer_add_byte(buffer, ']');
}

static void write_thumb(struct srv_buffer *buffer, const struct est_report *report)
{
	SRV_PUT(buffer, ",\"rule_of_thumb\":{");
	srv_write_members(buffer, &thumb_table, &report->thumb);
	SRV_PUT(buffer, ",\"per_gpu_bytes\":");
	srv_write_u64(buffer, report->thumb_per_gpu.total);
	srv_buffer_add_byte(buffer, '}');
}

static void write_explanation(struct srv_buffer *buffer, const struct cfg_request *request,
			      const struct est_report *report)
{
	struct est_explanation items[EST_EXPLANATIONS_MAX];
	size_t count = est_explain(&request->request, &request->model, report, items);

	SRV_PUT(buffer, ",\"explanation\":[");
	for (size_t i = 0; i < count; i++) {
		if (i)
			srv_buffer_add_byte(buffer, ',');
		srv_write_object(buffer, &explanation_table, &items[i]);
	}
	srv_buffer_add_byte(buffer, ']');
}

/* The members of an array, going on behind first ones when there are some. */
static bool write_notes(struct srv_buffer *buffer, const struct est_notes *notes, bool first)
{
	for (size_t i = 0; i < notes->count; i++, first = false) {
		if (!first)
			srv_buffer_add_byte(buffer, ',');
		srv_write_object(buffer, &note_table, &notes->item[i]);
	}
	return first;
}

/* Of what came from files: what was not used. */
static void write_ignored(struct srv_buffer *buffer, const struct cfg_ignored *ignored)
{
	const char *pointer = ignored->text;

	SRV_PUT(buffer, ",\"ignored\":[");
	for (size_t i = 0; i < ignored->count; i++, pointer += strlen(pointer) + 1) {
		if (i)
			srv_buffer_add_byte(buffer, ',');
		srv_write_string(buffer, pointer);
	}
	srv_buffer_add_byte(buffer, ']');
}

/* The rows, of which kind of rank they are, and what the other kinds need. */
static void write_per_gpu(struct srv_buffer *buffer, const struct est_report *report)
{
	srv_buffer_add_byte(buffer, '{');
	srv_write_members(buffer, &rows_table, &report->per_gpu);
	SRV_PUT(buffer, ",\"rank_kind\":\"");
	srv_write_text(buffer, est_rank_kind_name(report->rank_kind));
	srv_buffer_add_byte(buffer, '"');
	for (size_t i = 0; i < report->rank_count; i++) {
		const struct est_rank *rank = &report->ranks[i];
		const struct rank_row row = { est_rank_kind_name(rank->kind), rank->layers, rank->micro_batches, rank->allocated };

		srv_write_text(buffer, i ? "," : ",\"ranks\":[");
		srv_write_object(buffer, &rank_table, &row);
	}
	if (report->rank_count)
		srv_buffer_add_byte(buffer, ']');
	srv_buffer_add_byte(buffer, '}');
}

static void write_document(struct srv_buffer *buffer, const struct srv_estimate *estimate, const void *const *rows)
{
	const struct cfg_request *request = estimate->request;
	const struct est_report *report = estimate->report;
	struct srv_table table = fit_table_of(report);

	write_model(buffer, &request->model, report);
	SRV_PUT(buffer, ",\"single_gpu\":");
	srv_write_object(buffer, &rows_table, &report->single_gpu);
	SRV_PUT(buffer, ",\"per_gpu\":");
	write_per_gpu(buffer, report);
	if (report->replayed) {
		write_peak(buffer, &report->peak);
		if (report->point_count)
			write_points(buffer, report);
		else if (request->request.include & EST_INCLUDE_TIMELINE)
			write_timeline(buffer, report);
	}
	if (request->request.explain)
		write_explanation(buffer, request, report);
	SRV_PUT(buffer, ",\"host\":");
	srv_write_object(buffer, &host_table, report);
	if (request->request.include & EST_INCLUDE_RULE_OF_THUMB)
		write_thumb(buffer, report);
	SRV_PUT(buffer, ",\"fits\":");
	srv_write_rows(buffer, SRV_JSON, &table, rows, report->fit_count);
	if (estimate->advice) {
		SRV_PUT(buffer, ",\"advice\":");
		srv_write_advice(buffer, request, estimate->advice, estimate->advice_count);
	}
	SRV_PUT(buffer, ",\"assumptions\":[");
	write_notes(buffer, &report->assumptions, write_notes(buffer, &request->notes, true));
	SRV_PUT(buffer, "],\"warnings\":[");
	write_notes(buffer, &report->warnings, write_notes(buffer, &request->warnings, true));
	srv_buffer_add_byte(buffer, ']');
	if (request->ignored.listed)
		write_ignored(buffer, &request->ignored);
	if (request->request.include & EST_INCLUDE_HINTS) {
		SRV_PUT(buffer, ",\"hints\":");
		srv_write_hints(buffer, estimate->catalog, request, report);
	}
	srv_buffer_add_byte(buffer, '}');
}

bool srv_report_write(struct srv_buffer *buffer, enum srv_format format, const struct srv_estimate *estimate,
		      struct est_arena *arena, const void **rows)
{
	const struct est_report *report = estimate->report;
	struct srv_table table = fit_table_of(report);

	if (!make_fit_rows(report, arena, rows))
		return false;
	if (format == SRV_JSON) {
		write_document(buffer, estimate, rows);
		return true;
	}
	if (format == SRV_FOR_PEOPLE)
		srv_write_summary(buffer, estimate->request, report);
	srv_write_rows(buffer, format, &table, rows, report->fit_count);
	if (format == SRV_FOR_PEOPLE)
		srv_write_remarks(buffer, estimate->request, report);
	return true;
}
