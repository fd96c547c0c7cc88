#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "config/read.h"
#include "config/rows.h"

/* A name under which a row is found: its id, its other own name, or an alias. */
struct name {
	const char *text; /* borrowed from the kept JSON */
	size_t row;
	bool shared;      /* of aliases_shared: names several rows, and is refused as ambiguous */
};

struct index {
	struct name *names; /* sorted without regard to case */
	size_t count;
};

struct cfg_catalog {
	json_t *preset_rows, *card_rows;
	struct cfg_preset *presets;
	struct cfg_card *cards;
	size_t preset_count, card_count;
	struct index preset_index, card_index;
};

/* Where a fault is told: the file and, below, the row. */
struct complaint {
	const char *file;
	char *error;
	size_t size;
};

static bool complain(const struct complaint *complaint, const json_t *row, const char *fault)
{
	const char *id = json_string_value(json_object_get(row, "id"));

	snprintf(complaint->error, complaint->size, "%s: %s%s%s", complaint->file, id ? id : "", id ? ": " : "", fault);
	return false;
}

/* Names are compared without regard to case, and "NVIDIA A10" is nvidia_a10 is nvidia-a10. */
static int fold(char letter)
{
	if (letter == ' ' || letter == '_')
		return '-';
	return letter >= 'A' && letter <= 'Z' ? letter - 'A' + 'a' : (unsigned char)letter;
}

static int compare_text(const char *a, const char *b)
{
	while (*a && (*a == *b || fold(*a) == fold(*b))) {
		a++;
		b++;
	}
	return (*a ? fold(*a) : 0) - (*b ? fold(*b) : 0);
}

static int compare_names(const void *a, const void *b)
{
	const struct name *left = a, *right = b;
	int order = compare_text(left->text, right->text);

	if (order)
		return order;
	if (left->row != right->row)
		return left->row < right->row ? -1 : 1;
	return left->shared - right->shared;
}

static void add_name(struct index *index, const char *text, size_t row, bool shared)
{
	index->names[index->count++] = (struct name){ text, row, shared };
}

static void add_names(struct index *index, const json_t *texts, size_t row, bool shared)
{
	size_t i;
	const json_t *text;

	json_array_foreach(texts, i, text)
		add_name(index, json_string_value(text), row, shared);
}

static size_t count_names(const json_t *rows)
{
	size_t count = 0, i;
	const json_t *row;

	json_array_foreach(rows, i, row)
		count += 2 + json_array_size(json_object_get(row, "aliases"))
			+ json_array_size(json_object_get(row, "aliases_shared"));
	return count;
}

/* Sorts, and keeps one entry of each text and row; one that is the row's own before one that it shares. */
static void settle_index(struct index *index)
{
	size_t kept = 0;

	qsort(index->names, index->count, sizeof(*index->names), compare_names);
	for (size_t i = 0; i < index->count; i++) {
		const struct name *name = &index->names[i], *last = kept ? &index->names[kept - 1] : NULL;

		if (!last || last->row != name->row || compare_text(last->text, name->text))
			index->names[kept++] = *name;
	}
	index->count = kept;
}

/* Entries from first on that have its text. */
static size_t run_length(const struct index *index, size_t first)
{
	size_t end = first + 1;

	while (end < index->count && !compare_text(index->names[end].text, index->names[first].text))
		end++;
	return end - first;
}

/* A name of its own leads to one row; a shared one is declared by every row that bears it, and by two at least. */
static bool check_names(const struct index *index, const json_t *rows, const struct complaint *complaint)
{
	for (size_t first = 0, length; first < index->count; first += length) {
		size_t shared = 0;
		char fault[256];

		length = run_length(index, first);
		for (size_t i = first; i < first + length; i++)
			shared += index->names[i].shared;
		if ((length == 1 && !shared) || (length > 1 && shared == length))
			continue;
		snprintf(fault, sizeof(fault), "the name %.64s must be one row's own, or in aliases_shared of several",
			 index->names[first].text);
		return complain(complaint, json_array_get(rows, index->names[first].row), fault);
	}
	return true;
}

/* Names of all rows: column is the second own name beside the id. */
static bool build_index(struct index *index, const json_t *rows, const char *column,
			const struct complaint *complaint)
{
	size_t i;
	const json_t *row;

	index->names = calloc(count_names(rows) + 1, sizeof(*index->names));
	if (!index->names)
		return complain(complaint, NULL, "out of memory");
	json_array_foreach(rows, i, row) {
		const char *id = json_string_value(json_object_get(row, "id"));
		const char *other = json_string_value(json_object_get(row, column));

		add_name(index, id, i, false);
		add_name(index, other, i, false);
		add_names(index, json_object_get(row, "aliases"), i, false);
		add_names(index, json_object_get(row, "aliases_shared"), i, true);
	}
	settle_index(index);
	return check_names(index, rows, complaint);
}

/* The text of a file, to be freed; NULL when it cannot be read or there is no memory for it. */
static char *read_text(const char *path, size_t *ret_length)
{
	FILE *file = fopen(path, "r");
	char *text = NULL;
	long length;

	if (!file)
		return NULL;
	if (fseek(file, 0, SEEK_END) == 0 && (length = ftell(file)) > 0 && fseek(file, 0, SEEK_SET) == 0)
		text = malloc((size_t)length);
	if (text && fread(text, 1, (size_t)length, file) != (size_t)length) {
		free(text);
		text = NULL;
	}
	fclose(file);
	*ret_length = text ? (size_t)length : 0;
	return text;
}

/* A JSON file, as cfg_json_load() reads it. */
static json_t *load_file(const char *path, json_error_t *ret_error)
{
	size_t length;
	char *text = read_text(path, &length);
	json_t *rows;

	if (!text) {
		*ret_error = (json_error_t){ .line = -1 };
		snprintf(ret_error->text, sizeof(ret_error->text), "unable to read %.100s", path);
		return NULL;
	}
	*ret_error = (json_error_t){ .text = "out of memory" };
	rows = cfg_json_load(text, length, ret_error);
	free(text);
	return rows;
}

/* The list of rows in directory/file, sorted by id, every one an object with an id. NULL after a complaint. */
static json_t *load_rows(const char *directory, const struct complaint *complaint)
{
	char path[4096], fault[512];
	json_error_t json_error;
	const char *before = "";
	json_t *rows, *row;
	size_t i;

	snprintf(path, sizeof(path), "%s/%s", directory, complaint->file);
	rows = load_file(path, &json_error);
	if (!rows)
		snprintf(fault, sizeof(fault), "line %d: %s", json_error.line, json_error.text);
	else if (json_array_size(rows) == 0)
		snprintf(fault, sizeof(fault), "must be a list of rows");
	if (json_array_size(rows) == 0) {
		complain(complaint, NULL, fault);
		json_decref(rows);
		return NULL;
	}
	json_array_foreach(rows, i, row) {
		const char *id = json_string_value(json_object_get(row, "id"));

		if (!id || strcmp(before, id) >= 0) {
			snprintf(fault, sizeof(fault), "row %zu must have an id, after the one before", i + 1);
			complain(complaint, row, fault);
			json_decref(rows);
			return NULL;
		}
		before = id;
	}
	return rows;
}

static bool load_presets(struct cfg_catalog *catalog, const char *directory, const struct complaint *complaint)
{
	char fault[512];
	size_t i;
	const json_t *row;

	catalog->preset_rows = load_rows(directory, complaint);
	if (!catalog->preset_rows)
		return false;
	catalog->preset_count = json_array_size(catalog->preset_rows);
	catalog->presets = calloc(catalog->preset_count, sizeof(*catalog->presets));
	if (!catalog->presets)
		return complain(complaint, NULL, "out of memory");
	json_array_foreach(catalog->preset_rows, i, row)
		if (!cfg_preset_from_row(row, &catalog->presets[i], fault, sizeof(fault)))
			return complain(complaint, row, fault);
	return build_index(&catalog->preset_index, catalog->preset_rows, "hf_id", complaint);
}

static bool load_cards(struct cfg_catalog *catalog, const char *directory, const struct complaint *complaint)
{
	char fault[512];
	size_t i;
	const json_t *row;

	catalog->card_rows = load_rows(directory, complaint);
	if (!catalog->card_rows)
		return false;
	catalog->card_count = json_array_size(catalog->card_rows);
	catalog->cards = calloc(catalog->card_count, sizeof(*catalog->cards));
	if (!catalog->cards)
		return complain(complaint, NULL, "out of memory");
	if (catalog->card_count > CFG_CARDS_MAX)
		return complain(complaint, NULL, "has more rows than a request can be judged for");
	json_array_foreach(catalog->card_rows, i, row)
		if (!cfg_card_from_row(row, &catalog->cards[i], fault, sizeof(fault)))
			return complain(complaint, row, fault);
	return build_index(&catalog->card_index, catalog->card_rows, "name", complaint);
}

struct cfg_catalog *cfg_catalog_create(const char *directory, char *error, size_t size)
{
	struct cfg_catalog *catalog = calloc(1, sizeof(*catalog));

	if (!catalog) {
		snprintf(error, size, "out of memory");
		return NULL;
	}
	if (load_presets(catalog, directory, &(struct complaint){ "models.json", error, size })
	    && load_cards(catalog, directory, &(struct complaint){ "gpus.json", error, size }))
		return catalog;
	cfg_catalog_destroy(catalog);
	return NULL;
}

void cfg_catalog_destroy(struct cfg_catalog *catalog)
{
	if (!catalog)
		return;
	free(catalog->preset_index.names);
	free(catalog->card_index.names);
	free(catalog->presets);
	free(catalog->cards);
	json_decref(catalog->preset_rows);
	json_decref(catalog->card_rows);
	free(catalog);
}

const struct cfg_preset *cfg_catalog_presets(const struct cfg_catalog *catalog, size_t *ret_count)
{
	*ret_count = catalog->preset_count;
	return catalog->presets;
}

const struct cfg_card *cfg_catalog_cards(const struct cfg_catalog *catalog, size_t *ret_count)
{
	*ret_count = catalog->card_count;
	return catalog->cards;
}

/* Whether text names one row, then *ret_row. *ret_candidates: how many it names. */
static bool find_row(const struct index *index, const char *text, size_t *ret_row, size_t *ret_candidates)
{
	size_t low = 0, high = index->count, candidates = 0;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (compare_text(index->names[middle].text, text) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	if (low < index->count && !compare_text(index->names[low].text, text))
		candidates = run_length(index, low);
	if (ret_candidates)
		*ret_candidates = candidates;
	if (candidates == 1)
		*ret_row = index->names[low].row;
	return candidates == 1;
}

const struct cfg_preset *cfg_catalog_find_preset(const struct cfg_catalog *catalog, const char *name,
						 size_t *ret_candidates)
{
	size_t row;

	return find_row(&catalog->preset_index, name, &row, ret_candidates) ? &catalog->presets[row] : NULL;
}

const struct cfg_card *cfg_catalog_find_card(const struct cfg_catalog *catalog, const char *name,
						 size_t *ret_candidates)
{
	size_t row;

	return find_row(&catalog->card_index, name, &row, ret_candidates) ? &catalog->cards[row] : NULL;
}

const struct cfg_card *cfg_catalog_card_of(const struct cfg_catalog *catalog, const struct est_gpu *gpu)
{
	uintptr_t first = (uintptr_t)catalog->cards, at = (uintptr_t)gpu - offsetof(struct cfg_card, gpu);

	if (at - first >= catalog->card_count * sizeof(struct cfg_card))
		return NULL;
	return &catalog->cards[(at - first) / sizeof(struct cfg_card)];
}

const char *cfg_catalog_suggest_preset(const struct cfg_catalog *catalog, const char *name)
{
	struct cfg_suggestion suggestion;

	cfg_suggestion_init(&suggestion, name);
	for (size_t i = 0; i < catalog->preset_count; i++)
		cfg_suggestion_offer(&suggestion, catalog->presets[i].id);
	return suggestion.nearest;
}

const char *cfg_catalog_suggest_card(const struct cfg_catalog *catalog, const char *name)
{
	struct cfg_suggestion suggestion;

	cfg_suggestion_init(&suggestion, name);
	for (size_t i = 0; i < catalog->card_count; i++)
		cfg_suggestion_offer(&suggestion, catalog->cards[i].gpu.id);
	return suggestion.nearest;
}
