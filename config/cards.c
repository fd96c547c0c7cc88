#include <stdio.h>
#include <string.h>
#include "config/read.h"

static const char peak_card[] = "h100-sxm5-80gb"; /* what the peak is told for when no card is named */

static void fault_card(const struct cfg_catalog *catalog, const char *name, size_t candidates, const char *pointer,
		       struct est_faults *faults)
{
	const char *near = cfg_catalog_suggest_card(catalog, name);

	if (candidates > 1)
		est_fault_add(faults, pointer, EST_AMBIGUOUS, "names %zu cards; name one by its id", candidates);
	else if (near)
		est_fault_add(faults, pointer, EST_UNKNOWN_VALUE, "is not a known gpu (did you mean \"%s\"?)", near);
	else
		est_fault_add(faults, pointer, EST_UNKNOWN_VALUE, "is not a known gpu");
}

static void read_card(const json_t *value, const char *pointer, const struct cfg_catalog *catalog,
		      struct cfg_request *ret, struct est_faults *faults)
{
	const struct cfg_card *card;
	size_t candidates = 0;

	if (!json_is_string(value)) {
		est_fault_add(faults, pointer, EST_WRONG_TYPE, "must be the id of a gpu");
		return;
	}
	card = cfg_catalog_find_card(catalog, json_string_value(value), &candidates);
	if (!card) {
		fault_card(catalog, json_string_value(value), candidates, pointer, faults);
		return;
	}
	ret->card_words[ret->card_count] = json_string_value(value);
	ret->cards[ret->card_count++] = &card->gpu;
}

/* Whether value is a list of 1 to most items. */
static bool check_list(const json_t *value, size_t most, const char *what, const char *pointer,
		       struct est_faults *faults)
{
	size_t count = json_array_size(value);

	if (!json_is_array(value))
		est_fault_add(faults, pointer, EST_WRONG_TYPE, "must be %s", what);
	else if (count < 1 || count > most)
		est_fault_add(faults, pointer, EST_OUT_OF_RANGE, "must have 1 to %zu items", most);
	else
		return true;
	return false;
}

static void item_pointer(char place[EST_POINTER_MAX], const char *pointer, size_t index)
{
	est_copy_text(place, EST_POINTER_MAX, pointer);
	cfg_pointer_add_index(place, index);
}

void cfg_read_gpus(const json_t *value, const char *pointer, const struct cfg_catalog *catalog,
		   struct cfg_request *ret, struct est_faults *faults)
{
	char place[EST_POINTER_MAX];
	size_t i;

	ret->cards_named = true;
	if (json_is_string(value)) {
		read_card(value, pointer, catalog, ret, faults);
		return;
	}
	if (!check_list(value, CFG_CARDS_MAX - CFG_SIZES_MAX, "the id of a gpu or a list of them", pointer, faults))
		return;
	for (i = 0; i < json_array_size(value); i++) {
		item_pointer(place, pointer, i);
		read_card(json_array_get(value, i), place, catalog, ret, faults);
	}
}

/* A card of which only the memory is known: judged as a Hopper that gives all of it to one process. */
static void make_card(double bytes, struct est_gpu *ret_gpu, char id[32])
{
	snprintf(id, 32, "%.0f-bytes", bytes);
	*ret_gpu = (struct est_gpu){
		.id = id, .name = id, .vendor = EST_NVIDIA, .kind = EST_DISCRETE, .compute_capability = 90,
		.memory_bytes = (uint64_t)bytes, .usable_bytes = (uint64_t)bytes, .bf16 = true, .fp8 = true,
	};
}

size_t cfg_read_sizes(const json_t *value, const char *pointer, const struct est_field *field,
		      struct cfg_request *ret, struct est_faults *faults)
{
	char place[EST_POINTER_MAX];
	size_t i, count = 0;
	double bytes;

	ret->cards_named = true;
	if (!check_list(value, CFG_SIZES_MAX, "a list of byte counts", pointer, faults))
		return 0;
	for (i = 0; i < json_array_size(value); i++) {
		const json_t *item = json_array_get(value, i);

		item_pointer(place, pointer, i);
		if (!json_is_number(item)) {
			est_fault_add(faults, place, EST_WRONG_TYPE, "must be a whole number of bytes");
		} else if (!cfg_json_whole(item, &bytes) || bytes < field->min || bytes > field->max) {
			est_fault_add(faults, place, EST_OUT_OF_RANGE, "must be a whole number from %.0f to %.0f",
				      field->min, field->max);
		} else {
			make_card(bytes, &ret->sizes[count], ret->size_id[count]);
			count++;
		}
	}
	return count;
}

static void take_all_cards(const struct cfg_catalog *catalog, struct cfg_request *ret)
{
	const struct cfg_card *first = cfg_catalog_find_card(catalog, peak_card, NULL);
	size_t i, count;
	const struct cfg_card *cards = cfg_catalog_cards(catalog, &count);

	if (first)
		ret->cards[ret->card_count++] = &first->gpu;
	for (i = 0; i < count && ret->card_count < CFG_CARDS_MAX; i++)
		if (&cards[i] != first)
			ret->cards[ret->card_count++] = &cards[i].gpu;
	for (i = 0; i < ret->card_count; i++)
		ret->card_words[i] = NULL;
	est_note_add(&ret->notes, "/gpus", "all", "no card is named: every one of the catalogue is judged, "
		     "and the peak is told for %s", ret->card_count ? ret->cards[0]->id : "none");
}

void cfg_finish_cards(const struct cfg_catalog *catalog, size_t size_count, struct cfg_request *ret)
{
	size_t i;

	for (i = 0; i < size_count; i++) {
		ret->card_words[ret->card_count] = NULL;
		ret->cards[ret->card_count++] = &ret->sizes[i];
	}
	if (size_count)
		est_note_add(&ret->notes, "/gpu_memory_bytes", "sm_90", "a card of which only the memory is known is "
			     "judged as an NVIDIA card of compute capability 9.0, all of its memory usable");
	if (!ret->card_count)
		take_all_cards(catalog, ret);
}
