/* GET /presets and /presets/{id}. */
#include <strings.h>
#include "server/handlers.h"

struct preset_row {
	const char *id, *hf_id, *family, *released, *verified;
	const char *model_type, *unsupported;
	int64_t parameters, num_hidden_layers, hidden_size, num_attention_heads, num_key_value_heads, head_dim;
	int64_t intermediate_size, vocab_size, max_position_embeddings, num_experts;
	bool tie_word_embeddings;
};

static const struct srv_column columns[] = {
	SRV_COLUMN("id", SRV_TEXT, struct preset_row, id),
	SRV_COLUMN("hf_id", SRV_TEXT, struct preset_row, hf_id),
	SRV_COLUMN("family", SRV_TEXT, struct preset_row, family),
	SRV_COLUMN("released", SRV_TEXT, struct preset_row, released),
	SRV_COLUMN("model_type", SRV_TEXT, struct preset_row, model_type),
	SRV_COLUMN("parameters", SRV_I64, struct preset_row, parameters),
	SRV_COLUMN("num_hidden_layers", SRV_I64, struct preset_row, num_hidden_layers),
	SRV_COLUMN("hidden_size", SRV_I64, struct preset_row, hidden_size),
	SRV_COLUMN("num_attention_heads", SRV_I64, struct preset_row, num_attention_heads),
	SRV_COLUMN("num_key_value_heads", SRV_I64, struct preset_row, num_key_value_heads),
	SRV_COLUMN("head_dim", SRV_I64, struct preset_row, head_dim),
	SRV_COLUMN("intermediate_size", SRV_I64, struct preset_row, intermediate_size),
	SRV_COLUMN("vocab_size", SRV_I64, struct preset_row, vocab_size),
	SRV_COLUMN("max_position_embeddings", SRV_I64, struct preset_row, max_position_embeddings),
	SRV_OPTIONAL("num_experts", SRV_I64, struct preset_row, num_experts),
	SRV_COLUMN("tie_word_embeddings", SRV_BOOL, struct preset_row, tie_word_embeddings),
	SRV_COLUMN("verified", SRV_TEXT, struct preset_row, verified),
	SRV_OPTIONAL("unsupported", SRV_TEXT, struct preset_row, unsupported),
};
static const struct srv_table table = SRV_TABLE(columns);

enum { Q, FAMILY, LIMIT, OFFSET, PARAMETERS };
static const struct srv_parameter parameters[PARAMETERS] = {
	[Q] = { .name = "q" },
	[FAMILY] = { .name = "family" },
	[LIMIT] = { .name = "limit", .number = true, .whole = true, .min = 1, .max = 1e6, .fallback = 1e6 },
	[OFFSET] = { .name = "offset", .number = true, .whole = true, .min = 0, .max = 1e6 },
};

static void fill_row(struct preset_row *row, const struct cfg_preset *preset)
{
	const struct est_model *model = &preset->model;

	*row = (struct preset_row){
		.id = preset->id, .hf_id = preset->hf_id, .family = preset->family, .released = preset->released,
		.verified = preset->verified, .model_type = model->model_type, .unsupported = model->unsupported,
		.parameters = model->parameters, .num_hidden_layers = model->num_hidden_layers,
		.hidden_size = model->hidden_size, .num_attention_heads = model->num_attention_heads,
		.num_key_value_heads = model->num_key_value_heads, .head_dim = model->head_dim,
		.intermediate_size = model->intermediate_size, .vocab_size = model->vocab_size,
		.max_position_embeddings = model->max_position_embeddings, .num_experts = model->num_experts,
		.tie_word_embeddings = model->tie_word_embeddings,
	};
}

bool srv_presets_init(struct srv_listing *listing, const struct cfg_catalog *catalog)
{
	static const char *const keys[] = { "id", "hf_id", "aliases", NULL };
	size_t count;
	const struct cfg_preset *presets = cfg_catalog_presets(catalog, &count);

	if (!srv_listing_init(listing, "presets", &table, count, sizeof(struct preset_row)))
		return false;
	for (size_t i = 0; i < count; i++) {
		fill_row(srv_listing_row(listing, i, sizeof(struct preset_row)), &presets[i]);
		if (!srv_listing_keep(listing, i, presets[i].row, keys))
			return false;
	}
	return true;
}

void srv_get_presets(struct srv_call *call)
{
	const struct srv_listing *listing = &call->context->edition->presets;
	struct srv_value values[PARAMETERS];
	size_t total = 0, count = 0;

	if (!srv_list_begin(call, listing, parameters, PARAMETERS, values, &values[Q]))
		return;
	for (size_t i = 0; i < listing->count; i++) {
		const struct preset_row *row = listing->rows[i];

		if (!srv_listing_matches(listing, i, values[Q].text)
		    || (values[FAMILY].given && strcasecmp(row->family, values[FAMILY].text)))
			continue;
		if (total++ >= (size_t)values[OFFSET].number && count < (size_t)values[LIMIT].number)
			call->context->rows[count++] = row;
	}
	srv_list_write(call, listing, count, total);
}

void srv_get_preset(struct srv_call *call)
{
	const struct cfg_catalog *catalog = call->context->edition->catalog;
	size_t count, candidates = 0;
	const struct cfg_preset *all = cfg_catalog_presets(catalog, &count);
	const struct cfg_preset *preset = cfg_catalog_find_preset(catalog, call->id, &candidates);

	if (preset)
		srv_list_write_one(call, &call->context->edition->presets, (size_t)(preset - all));
	else
		srv_list_not_found(call, "preset", candidates, cfg_catalog_suggest_preset(catalog, call->id));
}
