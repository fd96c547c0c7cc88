/* GET /gpus and /gpus/{id}. */
#include <strings.h>
#include "server/handlers.h"

struct gpu_row {
	const char *id, *name, *vendor, *kind, *architecture, *form_factor, *memory_type;
	uint64_t memory_bytes, usable_bytes;
	int64_t bandwidth_gb_s, release_year;
	const char *compute_capability;
	bool bf16, fp8;
};

static const struct srv_column columns[] = {
	SRV_COLUMN("id", SRV_TEXT, struct gpu_row, id),
	SRV_COLUMN("name", SRV_TEXT, struct gpu_row, name),
	SRV_COLUMN("vendor", SRV_TEXT, struct gpu_row, vendor),
	SRV_COLUMN("kind", SRV_TEXT, struct gpu_row, kind),
	SRV_COLUMN("architecture", SRV_TEXT, struct gpu_row, architecture),
	SRV_OPTIONAL("compute_capability", SRV_TEXT, struct gpu_row, compute_capability),
	SRV_COLUMN("memory_bytes", SRV_U64, struct gpu_row, memory_bytes),
	SRV_COLUMN("usable_bytes", SRV_U64, struct gpu_row, usable_bytes),
	SRV_OPTIONAL("memory_type", SRV_TEXT, struct gpu_row, memory_type),
	SRV_OPTIONAL("bandwidth_gb_s", SRV_I64, struct gpu_row, bandwidth_gb_s),
	SRV_COLUMN("bf16", SRV_BOOL, struct gpu_row, bf16),
	SRV_COLUMN("fp8", SRV_BOOL, struct gpu_row, fp8),
	SRV_OPTIONAL("form_factor", SRV_TEXT, struct gpu_row, form_factor),
	SRV_OPTIONAL("release_year", SRV_I64, struct gpu_row, release_year),
};
static const struct srv_table table = SRV_TABLE(columns);

enum { Q, VENDOR, KIND, MIN_MEMORY_GIB, PARAMETERS };
static const struct srv_parameter parameters[PARAMETERS] = {
	[Q] = { .name = "q" },
	[VENDOR] = { .name = "vendor" },
	[KIND] = { .name = "kind" },
	[MIN_MEMORY_GIB] = { .name = "min_memory_gib", .number = true, .min = 0, .max = 1e9 },
};

static const char *text_of(const json_t *row, const char *key)
{
	return json_string_value(json_object_get(row, key));
}

static void fill_row(struct gpu_row *row, const struct cfg_card *card)
{
	const json_t *source = card->row;

	*row = (struct gpu_row){
		.id = card->gpu.id, .name = card->gpu.name, .vendor = text_of(source, "vendor"),
		.kind = text_of(source, "kind"), .architecture = text_of(source, "architecture"),
		.form_factor = text_of(source, "form_factor"), .memory_type = text_of(source, "memory_type"),
		.compute_capability = text_of(source, "compute_capability"),
		.memory_bytes = card->gpu.memory_bytes, .usable_bytes = card->gpu.usable_bytes,
		.bandwidth_gb_s = (int64_t)json_number_value(json_object_get(source, "bandwidth_gb_s")),
		.release_year = (int64_t)json_number_value(json_object_get(source, "release_year")),
		.bf16 = card->gpu.bf16, .fp8 = card->gpu.fp8,
	};
}

bool srv_gpus_init(struct srv_listing *listing, const struct cfg_catalog *catalog)
{
	static const char *const keys[] = { "id", "name", "aliases", NULL };
	size_t count;
	const struct cfg_card *cards = cfg_catalog_cards(catalog, &count);

	if (!srv_listing_init(listing, "gpus", &table, count, sizeof(struct gpu_row)))
		return false;
	for (size_t i = 0; i < count; i++) {
		fill_row(srv_listing_row(listing, i, sizeof(struct gpu_row)), &cards[i]);
		if (!srv_listing_keep(listing, i, cards[i].row, keys))
			return false;
	}
	return true;
}

static bool is_wanted(const struct gpu_row *row, const struct srv_value *values)
{
	if (values[VENDOR].given && strcasecmp(row->vendor ? row->vendor : "", values[VENDOR].text))
		return false;
	if (values[KIND].given && strcasecmp(row->kind ? row->kind : "", values[KIND].text))
		return false;
	return (double)row->memory_bytes >= values[MIN_MEMORY_GIB].number * 1024 * 1024 * 1024;
}

void srv_get_gpus(struct srv_call *call)
{
	const struct srv_listing *listing = &call->context->edition->gpus;
	struct srv_value values[PARAMETERS];
	size_t count = 0;

	if (!srv_list_begin(call, listing, parameters, PARAMETERS, values, &values[Q]))
		return;
	for (size_t i = 0; i < listing->count; i++)
		if (srv_listing_matches(listing, i, values[Q].text) && is_wanted(listing->rows[i], values))
			call->context->rows[count++] = listing->rows[i];
	srv_list_write(call, listing, count, count);
}

void srv_get_gpu(struct srv_call *call)
{
	const struct cfg_catalog *catalog = call->context->edition->catalog;
	size_t count, candidates = 0;
	const struct cfg_card *all = cfg_catalog_cards(catalog, &count);
	const struct cfg_card *card = cfg_catalog_find_card(catalog, call->id, &candidates);

	if (card)
		srv_list_write_one(call, &call->context->edition->gpus, (size_t)(card - all));
	else
		srv_list_not_found(call, "gpu", candidates, cfg_catalog_suggest_card(catalog, call->id));
}
