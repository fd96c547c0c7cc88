#include "config/space.h"
#include <math.h>
#include <string.h>
#include "config/axes.h"
#include "config/prices.h"
#include "config/read.h"

const struct est_word cfg_objective_words[] = {
	{ "fewest_gpus", CFG_FEWEST_GPUS, false }, { "largest_batch", CFG_LARGEST_BATCH, false },
	{ "longest_sequence", CFG_LONGEST_SEQUENCE, false }, { "cheapest", CFG_CHEAPEST, false }, { NULL, 0, false },
};

static int64_t read_count(const json_t *body, const char *name, int64_t most, int64_t otherwise,
			  struct est_faults *faults)
{
	const json_t *value = json_object_get(body, name);
	char pointer[EST_POINTER_MAX] = "";
	double number;

	cfg_pointer_add(pointer, name);
	if (!value || json_is_null(value))
		return otherwise;
	if (cfg_json_whole(value, &number) && number >= 1 && number <= (double)most)
		return (int64_t)number;
	est_fault_add(faults, pointer, json_is_number(value) ? EST_OUT_OF_RANGE : EST_WRONG_TYPE,
		      "must be a whole number from 1 to %lld", (long long)most);
	return otherwise;
}

static void read_objective(struct cfg_space *space, const json_t *value, struct est_faults *faults)
{
	const struct est_word *word = cfg_word_find(cfg_objective_words, value);
	char words[EST_DETAIL_MAX];

	if (word)
		space->objective = (enum cfg_objective)word->value;
	else if (value && !json_is_null(value))
		est_fault_add(faults, "/objective", json_is_string(value) ? EST_UNKNOWN_VALUE : EST_WRONG_TYPE, "must be %s",
			      est_word_list(cfg_objective_words, words, sizeof(words)));
}

/* Of the plan, else of the request, else the ones that have a price. */
static void read_cards(struct cfg_space *space, const json_t *gpus, struct est_faults *faults)
{
	struct cfg_request *base = &space->base;
	size_t count;
	const struct cfg_price *prices = cfg_prices(&count);

	if (gpus && !json_is_null(gpus)) {
		base->card_count = 0;
		cfg_read_gpus(gpus, "/gpus", space->catalog, base, faults);
	} else if (!base->cards_named) {
		base->card_count = 0;
		for (size_t i = 0; i < count; i++) {
			const struct cfg_card *card = cfg_catalog_find_card(space->catalog, prices[i].gpu, NULL);

			if (card)
				base->cards[base->card_count++] = &card->gpu;
		}
	}
	if (base->card_count > CFG_SPACE_CARDS)
		est_fault_add(faults, gpus ? "/gpus" : "/request/gpus", EST_OUT_OF_RANGE, "must be %d cards at most",
			      CFG_SPACE_CARDS);
}

static void read_prices(struct cfg_space *space, const json_t *prices, struct est_faults *faults)
{
	const char *name;
	json_t *value;

	for (size_t i = 0; i < space->base.card_count && i < CFG_SPACE_CARDS; i++) {
		const struct cfg_price *price = cfg_price_find(space->base.cards[i]->id);

		space->price[i] = price ? price->usd_per_hour : NAN;
	}
	if (prices && !json_is_null(prices) && !json_is_object(prices))
		est_fault_add(faults, "/prices", EST_WRONG_TYPE, "must be an object of prices an hour by gpu");
	json_object_foreach(cfg_json_iterable(prices), name, value) {
		const struct cfg_card *card = cfg_catalog_find_card(space->catalog, name, NULL);
		char pointer[EST_POINTER_MAX] = "/prices";

		cfg_pointer_add(pointer, name);
		if (!card)
			est_fault_add(faults, pointer, EST_UNKNOWN_FIELD, "is not a known gpu");
		else if (!json_is_number(value) || json_number_value(value) < 0)
			est_fault_add(faults, pointer, json_is_number(value) ? EST_OUT_OF_RANGE : EST_WRONG_TYPE,
				      "must be a number of 0 or more");
		for (size_t i = 0; card && i < space->base.card_count && i < CFG_SPACE_CARDS; i++)
			if (space->base.cards[i] == &card->gpu)
				space->price[i] = json_number_value(value);
	}
}

static bool read_request(struct cfg_space *space, const json_t *body, struct est_faults *faults)
{
	const json_t *request = json_object_get(body, "request");

	if (!json_is_object(request)) {
		est_fault_add(faults, "/request", request ? EST_WRONG_TYPE : EST_MISSING,
			      request ? "must be an object" : "is required");
		return false;
	}
	if (!cfg_read_request(request, "/request", space->catalog, &space->base, faults))
		return false;
	if (json_object_get(request, "from")) /* a changed field would contradict its file */
		est_fault_add(faults, "/request/from", EST_NOT_SUPPORTED_YET,
			      "is not modelled yet in a plan: name the fields themselves");
	if (space->base.request.accounting != EST_REPLAY)
		est_fault_add(faults, "/request/accounting", EST_CONTRADICTION, "must be replay: plans are confirmed by it");
	space->request = json_incref(cfg_json_iterable(request));
	return space->request != NULL;
}

static void count_recipes(struct cfg_space *space, struct est_faults *faults)
{
	space->recipe_count = 1;
	for (size_t i = 0; i < space->axis_count && space->recipe_count <= CFG_SPACE_RECIPES; i++)
		space->recipe_count *= space->axes[i].count;
	if (space->recipe_count > CFG_SPACE_RECIPES || space->recipe_count * space->base.card_count > CFG_SPACE_ENTRIES)
		est_fault_add(faults, "/vary", EST_OUT_OF_RANGE, "makes more than %d recipes, or %d with every card: vary less",
			      CFG_SPACE_RECIPES, CFG_SPACE_ENTRIES);
}

bool cfg_space_init(struct cfg_space *space, const json_t *body, const struct cfg_catalog *catalog,
		    struct est_faults *faults)
{
	static const char *const known[] = { "request", "gpus", "max_gpus", "vary", "objective", "limit", "prices", NULL };
	size_t before = faults->count;
	int64_t node;

	memset(space, 0, sizeof(*space));
	space->catalog = catalog;
	if (!json_is_object(body)) {
		est_fault_add(faults, "", EST_WRONG_TYPE, "must be an object");
		return false;
	}
	cfg_check_members(body, known, faults);
	read_objective(space, json_object_get(body, "objective"), faults);
	space->limit = (size_t)read_count(body, "limit", CFG_SPACE_LIMIT, CFG_SPACE_LIMIT_DEFAULT, faults);
	if (!read_request(space, body, faults))
		return false;
	node = space->base.request.parallelism.gpus;
	if (!est_request_names(&space->base.request, "parallelism.gpus")
	    && node < space->base.request.parallelism.gpus_per_node)
		node = space->base.request.parallelism.gpus_per_node;
	space->max_gpus = read_count(body, "max_gpus", CFG_SPACE_GPUS, node < CFG_SPACE_GPUS ? node : CFG_SPACE_GPUS, faults);
	read_cards(space, json_object_get(body, "gpus"), faults);
	read_prices(space, json_object_get(body, "prices"), faults);
	cfg_axes_read(space, json_object_get(body, "vary"), faults);
	cfg_axes_complete(space);
	count_recipes(space, faults);
	if (faults->count == before)
		return true;
	cfg_space_finish(space);
	return false;
}

void cfg_space_finish(struct cfg_space *space)
{
	json_decref(space->request);
	space->request = NULL;
}
