#include "server/people.h"
#include "estimator/fields.h"
#include "server/formats.h"
#include "server/table.h"
#include "server/write.h"

/* A component, or a kind of peak, as a line of a table. */
struct line {
	const char *name;
	uint64_t single, per_gpu, at_peak;
};
struct peak_line {
	const char *name;
	struct est_range range;
};

/* An assumption and its reason. */
struct assumed_line {
	char field[EST_NAME_MAX];
	const char *value, *why;
};
enum { LINE_MAX_LENGTH = 120 };

/* clang-format off */
static const struct srv_column line_columns[] = {
	SRV_COLUMN("component", SRV_TEXT, struct line, name),
	SRV_OPTIONAL("one_gpu_bytes", SRV_U64, struct line, single),
	SRV_COLUMN("per_gpu_bytes", SRV_U64, struct line, per_gpu),
	SRV_OPTIONAL("at_peak_bytes", SRV_U64, struct line, at_peak),
};
static const struct srv_column peak_columns[] = {
	SRV_COLUMN("peak", SRV_TEXT, struct peak_line, name),
	SRV_COLUMN("low_bytes", SRV_U64, struct peak_line, range.low),
	SRV_COLUMN("expected_bytes", SRV_U64, struct peak_line, range.expected),
	SRV_COLUMN("high_bytes", SRV_U64, struct peak_line, range.high),
};
static const struct srv_column assumed_columns[] = {
	SRV_COLUMN("assumed", SRV_CHARS, struct assumed_line, field),
	SRV_COLUMN("value", SRV_TEXT, struct assumed_line, value),
	SRV_COLUMN("why", SRV_TEXT, struct assumed_line, why),
};
/* clang-format on */
static const struct srv_table line_table = SRV_TABLE(line_columns), peak_table = SRV_TABLE(peak_columns);
static const struct srv_table assumed_table = SRV_TABLE(assumed_columns);

/* Millions up to a billion, then billions. */
static void write_count(struct srv_buffer *buffer, int64_t parameters)
{
	bool large = parameters >= 1000000000;

	srv_write_fixed(buffer, (double)parameters / (large ? 1e9 : 1e6), 2);
	srv_write_text(buffer, large ? " billion" : " million");
}

static void write_word(struct srv_buffer *buffer, const struct cfg_request *request, const char *label,
		       const char *field)
{
	char value[64];

	srv_write_text(buffer, label);
	srv_write_text(buffer, est_field_text(est_field_find(field), &request->request, value, sizeof value));
}

/* What is run, in two lines; the fields are those that decide most. */
static void write_run(struct srv_buffer *buffer, const struct cfg_request *request, const struct est_report *report)
{
	static const struct {
		const char *label, *field;
	} words[] = {
		{ "\n", "micro_batch_size" }, { " x ", "sequence_length" }, { " tokens, checkpointing ", "gradient_checkpointing" },
		{ ", attention ", "attention" }, { ", loss ", "loss" }, { "; GPUs: ", "parallelism.gpus" },
		{ ", sharing ", "parallelism.strategy" },
	};

	srv_write_text(buffer, request->model.id);
	SRV_PUT(buffer, ": ");
	write_count(buffer, report->parameters);
	SRV_PUT(buffer, " parameters, ");
	write_count(buffer, report->trainable_parameters);
	write_word(buffer, request, " trained; ", "method");
	write_word(buffer, request, ", ", "precision");
	write_word(buffer, request, ", ", "optimizer");
	for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
		write_word(buffer, request, words[i].label, words[i].field);
	SRV_PUT(buffer, "\n\n");
}

static void write_components(struct srv_buffer *buffer, const struct cfg_request *request,
			     const struct est_report *report)
{
	const struct est_rows *one = &report->single_gpu, *per = &report->per_gpu;
	const uint64_t *peak = report->peak.at_peak;
	bool many = request->request.parallelism.gpus > 1;
	struct line lines[] = {
		{ "weights", one->weights, per->weights, peak[EST_WEIGHTS] },
		{ "gradients", one->gradients, per->gradients, peak[EST_GRADIENTS] },
		{ "optimizer", one->optimizer, per->optimizer, peak[EST_OPTIMIZER] },
		{ "activations", one->activations, per->activations, peak[EST_ACTIVATIONS] },
		{ "buffers", one->buffers, per->buffers, peak[EST_BUFFERS] },
		{ "overhead", one->overhead, per->overhead, peak[EST_WORKSPACE] },
		{ "total", one->total, per->total, report->replayed ? report->peak.allocated.expected : 0 },
	};
	const void *rows[sizeof lines / sizeof lines[0]];

	for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
		lines[i].single = many ? lines[i].single : 0;
		rows[i] = &lines[i];
	}
	srv_write_rows(buffer, SRV_FOR_PEOPLE, &line_table, rows, sizeof lines / sizeof lines[0]);
	srv_buffer_add_byte(buffer, '\n');
}

static void write_peak(struct srv_buffer *buffer, const struct est_peak *peak)
{
	const struct peak_line lines[] = { { "allocated", peak->allocated }, { "reserved", peak->reserved },
					   { "device", peak->device } };
	const void *rows[] = { &lines[0], &lines[1], &lines[2] };

	srv_write_rows(buffer, SRV_FOR_PEOPLE, &peak_table, rows, 3);
	SRV_PUT(buffer, "in ");
	srv_write_text(buffer, est_phase_name(peak->phase));
	SRV_PUT(buffer, " on ");
	srv_write_text(buffer, peak->gpu->id);
	SRV_PUT(buffer, "\n\n");
}

void srv_write_summary(struct srv_buffer *buffer, const struct cfg_request *request, const struct est_report *report)
{
	write_run(buffer, request, report);
	write_components(buffer, request, report);
	if (report->replayed)
		write_peak(buffer, &report->peak);
}

/* ---- below the verdicts */

static void write_warnings(struct srv_buffer *buffer, const struct est_notes *notes)
{
	for (size_t i = 0; i < notes->count; i++) {
		SRV_PUT(buffer, "warning: ");
		srv_write_text(buffer, notes->item[i].pointer);
		srv_buffer_add_byte(buffer, ' ');
		srv_write_text(buffer, notes->item[i].detail);
		srv_buffer_add_byte(buffer, '\n');
	}
}

/* "/lora/rank" -> "lora.rank", as a query string has it. */
static const char *dotted(const char *pointer, char name[EST_NAME_MAX])
{
	est_copy_text(name, EST_NAME_MAX, *pointer ? pointer + 1 : "");
	for (char *at = name; *at; at++)
		*at = *at == '/' ? '.' : *at;
	return name;
}

static bool is_default(const struct est_note *note)
{
	return !strcmp(note->detail, "not named: the default");
}

/* Assumptions of both lists that have a reason (ret_rows points to lines then), in their order. */
static size_t list_reasons(const struct est_notes *notes, struct assumed_line *lines, const void **ret_rows, size_t count)
{
	static const char unnamed[] = "not named: ";

	for (size_t i = 0; i < notes->count; i++) {
		const struct est_note *note = &notes->item[i];
		size_t skipped = strncmp(note->detail, unnamed, sizeof unnamed - 1) ? 0 : sizeof unnamed - 1;

		if (is_default(note))
			continue;
		lines[count].value = note->value;
		lines[count].why = note->detail + skipped;
		dotted(note->pointer, lines[count].field);
		ret_rows[count] = &lines[count];
		count++;
	}
	return count;
}

static void write_reasons(struct srv_buffer *buffer, const struct cfg_request *request, const struct est_report *report)
{
	struct assumed_line lines[2 * EST_NOTES_MAX];
	const void *rows[2 * EST_NOTES_MAX];
	size_t count = list_reasons(&report->assumptions, lines, rows, list_reasons(&request->notes, lines, rows, 0));

	if (!count)
		return;
	srv_buffer_add_byte(buffer, '\n');
	srv_write_rows(buffer, SRV_FOR_PEOPLE, &assumed_table, rows, count);
}

/* Fields at their plain defaults, as many as fit in a line. */
static void write_defaults(struct srv_buffer *buffer, const struct est_notes *notes)
{
	size_t line = buffer->length + 1;

	for (size_t i = 0, written = 0; i < notes->count; i++) {
		const struct est_note *note = &notes->item[i];
		char name[EST_NAME_MAX];

		if (!is_default(note))
			continue;
		dotted(note->pointer, name);
		if (!written++) {
			SRV_PUT(buffer, "\nby default: ");
		} else if (buffer->length - line + strlen(name) + strlen(note->value) + 3 > LINE_MAX_LENGTH) {
			SRV_PUT(buffer, ",\n    ");
			line = buffer->length - 4;
		} else {
			SRV_PUT(buffer, ", ");
		}
		srv_write_text(buffer, name);
		srv_buffer_add_byte(buffer, ' ');
		srv_write_text(buffer, *note->value ? note->value : "none");
	}
	if (buffer->length > line)
		srv_buffer_add_byte(buffer, '\n');
}

void srv_write_remarks(struct srv_buffer *buffer, const struct cfg_request *request, const struct est_report *report)
{
	if (request->warnings.count + report->warnings.count)
		srv_buffer_add_byte(buffer, '\n');
	write_warnings(buffer, &request->warnings);
	write_warnings(buffer, &report->warnings);
	write_reasons(buffer, request, report);
	write_defaults(buffer, &request->notes);
}
