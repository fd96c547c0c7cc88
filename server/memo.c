#include "server/memo.h"
#include <stdlib.h>
#include <string.h>
#include "server/reply.h"

struct srv_memory {
	uint64_t setting;
	size_t query_length, body_length, answer_length;
	char bytes[]; /* query, body, answer */
};

static size_t query_length(const struct srv_memo_key *key)
{
	return key->query ? strlen(key->query) : 0;
}

static size_t slot_of(const struct srv_memo_key *key)
{
	uint64_t hash = srv_hash(SRV_HASH_SEED, &key->setting, sizeof key->setting);

	hash = srv_hash(hash, key->query, query_length(key));
	hash = srv_hash(hash, key->body, key->body_length);
	return (hash ^ hash >> 32) % SRV_MEMO_SLOTS;
}

static bool is_same(const char *one, const char *other, size_t length)
{
	return length == 0 || !memcmp(one, other, length);
}

static bool is_of(const struct srv_memory *memory, const struct srv_memo_key *key)
{
	size_t query = query_length(key);

	return memory->setting == key->setting && memory->query_length == query && memory->body_length == key->body_length
	       && is_same(memory->bytes, key->query, query) && is_same(memory->bytes + query, key->body, key->body_length);
}

bool srv_memo_find(const struct srv_memo *memo, const struct srv_memo_key *key, struct srv_buffer *buffer)
{
	const struct srv_memory *memory = memo->slots[slot_of(key)];

	if (!memory || !is_of(memory, key))
		return false;
	srv_buffer_add(buffer, memory->bytes + memory->query_length + memory->body_length, memory->answer_length);
	return true;
}

static char *append(char *to, const char *bytes, size_t length)
{
	if (length)
		memcpy(to, bytes, length);
	return to + length;
}

void srv_memo_keep(struct srv_memo *memo, const struct srv_memo_key *key, const struct srv_buffer *buffer)
{
	struct srv_memory *memory, **slot = &memo->slots[slot_of(key)];
	size_t query = query_length(key), request = query + key->body_length;

	if (buffer->failed || request > SRV_MEMO_REQUEST_MAX || buffer->length > SRV_MEMO_ANSWER_MAX)
		return;
	memory = malloc(sizeof *memory + request + buffer->length);
	if (!memory)
		return;
	*memory = (struct srv_memory){ .setting = key->setting, .query_length = query, .body_length = key->body_length,
				       .answer_length = buffer->length };
	append(append(append(memory->bytes, key->query, query), key->body, key->body_length), buffer->data, buffer->length);
	free(*slot);
	*slot = memory;
}

void srv_memo_finish(struct srv_memo *memo)
{
	for (size_t i = 0; i < SRV_MEMO_SLOTS; i++) {
		free(memo->slots[i]);
		memo->slots[i] = NULL;
	}
}
