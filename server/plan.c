/* POST /plan: a search, slice by slice while the answer is sent, so that other requests are served between. */
#include <math.h>
#include <stdlib.h>
#include "config/plan.h"
#include "config/prices.h"
#include "config/steptime.h"
#include "estimator/verdict.h"
#include "server/advice.h"
#include "server/handlers.h"
#include "server/table.h"
#include "server/write.h"

enum { SLICE_LAYERS = 400 }; /* of the replay, some 10 ms */

struct plan_stream {
	struct srv_stream stream;
	struct srv_context *context; /* of who makes the part */
	enum srv_format format;
	struct cfg_search *search;
	size_t written;
	bool begun;
};

/* A plan without its objects. */
struct plan_row {
	const char *gpu;
	int64_t gpus, micro_batch_size, sequence_length;
	uint64_t required, required_high;
	double utilization, step_time, price;
};

/* clang-format off */
static const struct srv_column plan_columns[] = {
	SRV_COLUMN("gpu", SRV_TEXT, struct plan_row, gpu),
	SRV_COLUMN("gpus", SRV_I64, struct plan_row, gpus),
	SRV_COLUMN("micro_batch_size", SRV_I64, struct plan_row, micro_batch_size),
	SRV_COLUMN("sequence_length", SRV_I64, struct plan_row, sequence_length),
	SRV_COLUMN("required_bytes", SRV_U64, struct plan_row, required),
	SRV_COLUMN("required_high_bytes", SRV_U64, struct plan_row, required_high),
	SRV_COLUMN("utilization", SRV_RATIO, struct plan_row, utilization),
	SRV_COLUMN("relative_step_time", SRV_RATIO, struct plan_row, step_time),
	SRV_COLUMN("price_per_hour", SRV_RATIO, struct plan_row, price), /* the last: not every card has one */
};
static const struct srv_table plan_table = SRV_TABLE(plan_columns);
static const struct srv_table unpriced_table = { plan_columns, sizeof(plan_columns) / sizeof(plan_columns[0]) - 1 };
/* clang-format on */

static struct plan_row row_of(const struct cfg_plan *plan)
{
	return (struct plan_row){ .gpu = plan->card->id, .gpus = plan->gpus, .micro_batch_size = plan->batch,
				  .sequence_length = plan->length, .required = plan->required, .required_high = plan->required_high,
				  .utilization = plan->usable ? (double)plan->required / (double)plan->usable : 0,
				  .step_time = plan->step_time, .price = plan->price };
}

/* The request that confirms the plan, as JSON. */
static void write_request(const struct plan_stream *plans, const struct cfg_plan *plan, bool csv, struct srv_buffer *buffer)
{
	json_t *request = cfg_space_request(cfg_search_space(plans->search), &plan->recipe, plan->card);
	char *text = request ? json_dumps(request, JSON_COMPACT | JSON_REAL_PRECISION(12)) : NULL;

	if (!text)
		buffer->failed = true;
	else if (csv)
		srv_write_csv_text(buffer, text);
	else
		srv_write_text(buffer, text);
	free(text);
	json_decref(request);
}

static void write_object(const struct plan_stream *plans, const struct cfg_plan *plan, struct srv_buffer *buffer)
{
	struct plan_row row = row_of(plan);

	srv_buffer_add_byte(buffer, '{');
	srv_write_members(buffer, isnan(plan->price) ? &unpriced_table : &plan_table, &row);
	if (plan->required_high > plan->usable) {
		SRV_PUT(buffer, ",\"short_bytes\":");
		srv_write_u64(buffer, plan->required_high - plan->usable);
	}
	SRV_PUT(buffer, ",\"change\":");
	srv_write_changes(buffer, plan->recipe.changes, plan->recipe.change_count);
	SRV_PUT(buffer, ",\"request\":");
	write_request(plans, plan, false, buffer);
	srv_buffer_add_byte(buffer, '}');
}

static void write_csv(const struct plan_stream *plans, const struct cfg_plan *plan, struct srv_buffer *buffer)
{
	struct plan_row row = row_of(plan);

	srv_write_csv_cells(buffer, isnan(plan->price) ? &unpriced_table : &plan_table, &row);
	if (isnan(plan->price))
		srv_buffer_add_byte(buffer, ',');
	srv_buffer_add_byte(buffer, ',');
	write_request(plans, plan, true, buffer);
	srv_buffer_add_byte(buffer, '\n');
}

static void write_plan(struct plan_stream *plans, const struct cfg_plan *plan, struct srv_buffer *buffer)
{
	bool listed = plans->format == SRV_JSON || plans->format == SRV_RECORDS;

	if (plans->format == SRV_CSV) {
		write_csv(plans, plan, buffer);
		return;
	}
	if (listed && plans->written++)
		srv_buffer_add_byte(buffer, ',');
	write_object(plans, plan, buffer);
	if (plans->format == SRV_NDJSON)
		srv_buffer_add_byte(buffer, '\n');
}

/* ---- what stands around the plans */

static void write_begin(const struct plan_stream *plans, struct srv_buffer *buffer)
{
	if (plans->format == SRV_JSON) {
		SRV_PUT(buffer, "{\"objective\":");
		srv_write_string(buffer, est_word_name(cfg_objective_words, (int)cfg_search_space(plans->search)->objective));
		SRV_PUT(buffer, ",\"plans\":[");
	} else if (plans->format == SRV_RECORDS) {
		srv_buffer_add_byte(buffer, '[');
	} else if (plans->format == SRV_CSV) {
		srv_write_csv_names(buffer, &plan_table);
		SRV_PUT(buffer, ",request\n");
	}
}

static void write_nearest(struct plan_stream *plans, struct srv_buffer *buffer)
{
	struct cfg_plan plan;

	if (plans->written || !cfg_search_nearest(plans->search, &plans->context->arena, &plan))
		return;
	SRV_PUT(buffer, ",\"nearest\":");
	write_object(plans, &plan, buffer);
}

static void write_prices(const struct cfg_space *space, struct srv_buffer *buffer)
{
	bool first = true;

	srv_buffer_add_byte(buffer, '[');
	for (size_t i = 0; i < space->base.card_count; i++) {
		const struct cfg_price *price = cfg_price_find(space->base.cards[i]->id);

		if (!price || fabs(price->usd_per_hour - space->price[i]) > 1e-9)
			continue;
		srv_write_text(buffer, first ? "{\"gpu\":" : ",{\"gpu\":");
		first = false;
		srv_write_string(buffer, price->gpu);
		SRV_PUT(buffer, ",\"usd_per_hour\":");
		srv_write_fixed(buffer, price->usd_per_hour, 2);
		SRV_PUT(buffer, ",\"source\":");
		srv_write_string(buffer, price->source);
		SRV_PUT(buffer, ",\"date\":");
		srv_write_string(buffer, price->date);
		srv_buffer_add_byte(buffer, '}');
	}
	srv_buffer_add_byte(buffer, ']');
}

static void write_end(struct plan_stream *plans, struct srv_buffer *buffer)
{
	const struct cfg_search *search = plans->search;

	if (plans->format == SRV_RECORDS)
		srv_buffer_add_byte(buffer, ']');
	if (plans->format != SRV_JSON)
		return;
	SRV_PUT(buffer, "],\"examined\":");
	srv_write_u64(buffer, cfg_search_examined(search));
	SRV_PUT(buffer, ",\"replays\":");
	srv_write_u64(buffer, cfg_search_replays(search));
	srv_write_text(buffer, cfg_search_complete(search) ? ",\"complete\":true" : ",\"complete\":false");
	write_nearest(plans, buffer);
	SRV_PUT(buffer, ",\"prices\":");
	write_prices(cfg_search_space(search), buffer);
	SRV_PUT(buffer, ",\"assumptions\":[");
	for (size_t i = 0; cfg_step_assumptions[i]; i++) {
		if (i)
			srv_buffer_add_byte(buffer, ',');
		srv_write_string(buffer, cfg_step_assumptions[i]);
	}
	SRV_PUT(buffer, "]}");
}

/* ---- the stream */

/* A slice of the search. Between plans JSON has room for a blank, which tells the client that it goes on. */
static bool next_part(struct srv_stream *stream, struct srv_span *span, struct srv_context *context,
		      struct srv_buffer *buffer)
{
	struct plan_stream *plans = (struct plan_stream *)stream;
	struct est_arena *arena = &context->arena;
	bool blanks = plans->format == SRV_JSON || plans->format == SRV_RECORDS;
	enum cfg_progress progress;
	struct cfg_plan plan;

	(void)span;
	plans->context = context;
	cfg_json_out_of_memory();
	if (!plans->begun)
		write_begin(plans, buffer);
	plans->begun = true;
	est_arena_clear(arena);
	progress = cfg_search_advance(plans->search, SLICE_LAYERS, arena, &plan);
	if (progress == CFG_SEARCHING && blanks)
		srv_buffer_add_byte(buffer, ' ');
	if (progress == CFG_FOUND)
		write_plan(plans, &plan, buffer);
	if (progress == CFG_SEARCH_NO_MEMORY)
		buffer->failed = true;
	if (progress == CFG_SEARCHED)
		write_end(plans, buffer);
	buffer->failed = buffer->failed || cfg_json_is_short();
	return progress == CFG_SEARCHING || progress == CFG_FOUND;
}

static void destroy(struct srv_stream *stream)
{
	struct plan_stream *plans = (struct plan_stream *)stream;

	cfg_search_destroy(plans->search);
	free(plans);
}

/* body -> the search; NULL: faults, or memory is short. */
static struct cfg_search *begin_search(struct srv_call *call, const json_t *body)
{
	struct srv_context *context = call->context;
	struct cfg_space *space = malloc(sizeof *space);
	struct cfg_search *search = NULL;

	if (space && cfg_space_init(space, body, context->edition->catalog, &context->faults)) {
		search = cfg_json_is_short() ? NULL : cfg_search_create(space);
		if (!search)
			cfg_space_finish(space);
	}
	free(space);
	return search;
}

static void begin_stream(struct srv_call *call, const json_t *body)
{
	struct plan_stream *plans = calloc(1, sizeof *plans);
	struct cfg_search *search = plans ? begin_search(call, body) : NULL;

	if (!search) {
		free(plans);
		srv_reply_refusal(call->reply, &call->context->faults);
		return;
	}
	*plans = (struct plan_stream){ .stream = { .next = next_part, .destroy = destroy,
						   .edition = srv_edition_hold(call->context->edition) },
				       .format = call->format, .search = search };
	call->reply->stream = &plans->stream;
	call->reply->content_type = srv_format_media_type(call->format);
}

void srv_post_plan(struct srv_call *call)
{
	json_t *body = srv_read_long_body(call, "plans come as json, csv, ndjson or records");

	if (body)
		begin_stream(call, body);
	json_decref(body);
}
