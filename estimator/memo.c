#include "estimator/memo.h"

#include <stdalign.h>
#include <stddef.h>
#include <string.h>
#include "estimator/fields.h"

struct entry {
	uint64_t before;            /* position of the one before it in its bucket, which may be gone */
	uint64_t hash;
	size_t key_length;
	struct est_outcome outcome;
	uint8_t key[];
};

/* ---- keys */

static void put(struct est_key *key, uint64_t value)
{
	while (key->length < EST_KEY_MAX) {
		key->bytes[key->length++] = (uint8_t)(value < 0x80 ? value : (value & 0x7f) | 0x80);
		if (value < 0x80)
			return;
		value >>= 7;
	}
	key->whole = false;
}

static void put_real(struct est_key *key, double value)
{
	uint64_t bits;

	memcpy(&bits, &value, sizeof(bits));
	put(key, bits);
}

static void put_names(struct est_key *key, const struct est_names *names)
{
	put(key, names->all);
	put(key, (uint64_t)names->count);
	for (int i = 0; i < names->count; i++)
		for (const char *at = names->name[i];; at++) {
			put(key, (uint8_t)*at);
			if (!*at)
				break;
		}
}

static void put_field(struct est_key *key, const struct est_field *field, const struct est_request *request)
{
	const void *at = (const char *)request + field->offset;

	switch (field->kind) {
	case EST_FIELD_BOOL:
		put(key, *(const bool *)at);
		break;
	case EST_FIELD_INT:
	case EST_FIELD_VERSION:
		put(key, (uint64_t)*(const int64_t *)at);
		break;
	case EST_FIELD_REAL:
		put_real(key, *(const double *)at);
		break;
	case EST_FIELD_WORD:
		put(key, (uint64_t)*(const int *)at);
		break;
	case EST_FIELD_CHECKPOINTING:
		put(key, (uint64_t)request->checkpointing);
		put(key, (uint64_t)request->selective);
		put(key, (uint64_t)request->every_n_layers);
		break;
	case EST_FIELD_NAMES:
		put_names(key, at);
		break;
	case EST_FIELD_WORDS: /* include */
	case EST_FIELD_MODEL:
	case EST_FIELD_GPUS:
	case EST_FIELD_BYTES:
	case EST_FIELD_FILE:
		break; /* of the answer, or read into what else the key has */
	}
}

/* The bytes of the struct between its names and what was published of it, as words, most of which are zero. Its padding
 * is zero in every model that config/ makes; where it is not, a run that is known is not found, and no harm is done. */
static void put_model(struct est_key *key, const struct est_model *model)
{
	const char *at = (const char *)model + offsetof(struct est_model, model_type);
	const char *end = (const char *)model + offsetof(struct est_model, published_parameters);
	uint64_t word, zeros = 0;

	_Static_assert((offsetof(struct est_model, published_parameters) - offsetof(struct est_model, model_type))
			       % sizeof(word) == 0, "the words end where the bytes do");
	for (; at < end; at += sizeof(word)) {
		memcpy(&word, at, sizeof(word));
		if (!word) {
			zeros++;
			continue;
		}
		put(key, zeros);
		put(key, word);
		zeros = 0;
	}
	put(key, zeros);
}

static uint64_t fold(uint64_t hash)
{
	hash *= UINT64_C(0x9e3779b97f4a7c15);
	return hash ^ hash >> 32;
}

uint64_t est_hash(uint64_t hash, const void *data, size_t length)
{
	const uint8_t *bytes = data;
	uint64_t word;

	hash += length;
	for (; length; bytes += sizeof(word), length -= sizeof(word)) {
		word = 0;
		if (length < sizeof(word)) {
			memcpy(&word, bytes, length);
			length = sizeof(word);
		} else {
			memcpy(&word, bytes, sizeof(word));
		}
		hash = fold(hash ^ word);
	}
	return fold(hash); /* the last word's high bits reach the low ones too */
}

void est_key_write(struct est_key *key, const struct est_request *request, const struct est_model *model,
		   enum est_sdpa_choice sdpa, const uint64_t shards[EST_CATEGORIES], int effort)
{
	key->length = 0;
	key->whole = true;
	put(key, (uint64_t)effort);
	put(key, (uint64_t)sdpa);
	for (int i = 0; i < EST_CATEGORIES; i++)
		put(key, shards[i]);
	put(key, request->made_on_card);
	for (size_t i = 0; i < est_request_field_count; i++)
		if (!est_request_fields[i].answers)
			put_field(key, &est_request_fields[i], request);
	put_model(key, model);
	key->hash = est_hash(0, key->bytes, key->length);
}

/* ---- the ring */

void est_memo_init(struct est_memo *memo, void *bytes, size_t size)
{
	memset(memo, 0, sizeof(*memo));
	memo->bytes = bytes;
	memo->size = size / alignof(max_align_t) * alignof(max_align_t);
	memo->end = memo->size; /* 0 is no position */
}

static size_t bucket_of(const struct est_key *key)
{
	return (size_t)(key->hash % EST_MEMO_BUCKETS);
}

/* Whether an entry at position has not been written over. */
static bool is_there(const struct est_memo *memo, uint64_t position)
{
	return position && position + memo->size >= memo->end;
}

static struct entry *entry_at(const struct est_memo *memo, uint64_t position)
{
	return (struct entry *)(void *)(memo->bytes + position % memo->size);
}

static bool is_of(const struct entry *entry, const struct est_key *key)
{
	return entry->hash == key->hash && entry->key_length == key->length
	       && !memcmp(entry->key, key->bytes, key->length);
}

bool est_memo_find(const struct est_memo *memo, const struct est_key *key, struct est_outcome *ret_outcome)
{
	for (uint64_t at = memo->bucket[bucket_of(key)]; is_there(memo, at); at = entry_at(memo, at)->before) {
		const struct entry *entry = entry_at(memo, at);

		if (!is_of(entry, key))
			continue;
		*ret_outcome = entry->outcome;
		return key->whole;
	}
	return false;
}

static uint64_t entry_size(size_t key_length)
{
	const uint64_t align = alignof(max_align_t);

	return (sizeof(struct entry) + key_length + align - 1) / align * align;
}

/* Position of size bytes behind the last entry, in one piece. What lay there is forgotten by that. */
static uint64_t make_room(struct est_memo *memo, uint64_t size)
{
	uint64_t left = memo->size - memo->end % memo->size, at = left < size ? memo->end + left : memo->end;

	memo->end = at + size;
	return at;
}

void est_memo_keep(struct est_memo *memo, const struct est_key *key, const struct est_outcome *outcome)
{
	uint64_t size = entry_size(key->length), *bucket = &memo->bucket[bucket_of(key)], at;
	struct entry *entry;

	if (!key->whole || size > memo->size)
		return;
	at = make_room(memo, size);
	entry = entry_at(memo, at);
	*entry = (struct entry){ .before = *bucket, .hash = key->hash, .key_length = key->length, .outcome = *outcome };
	memcpy(entry->key, key->bytes, key->length);
	*bucket = at;
}
