#include "server/memo.h"
#include <stdlib.h>
#include <string.h>
#include "estimator/memo.h"

struct srv_memory {
	unsigned holders; /* the memo, and answers on their way */
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
	uint64_t hash = est_hash(key->setting, key->query, query_length(key));

	return est_hash(hash, key->body, key->body_length) % SRV_MEMO_SLOTS;
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

struct srv_memory *srv_memo_find(const struct srv_memo *memo, const struct srv_memo_key *key)
{
	struct srv_memory *memory = memo->slots[slot_of(key)];

	return memory && is_of(memory, key) ? memory : NULL;
}

const char *srv_memory_bytes(const struct srv_memory *memory, size_t *ret_length)
{
	*ret_length = memory->answer_length;
	return memory->bytes + memory->query_length + memory->body_length;
}

void srv_memory_hold(struct srv_memory *memory)
{
	memory->holders++;
}

void srv_memory_release(struct srv_memory *memory)
{
	if (--memory->holders == 0)
		free(memory);
}

static char *append(char *to, const char *bytes, size_t length)
{
	if (length)
		memcpy(to, bytes, length);
	return to + length;
}

/* Takes the place of what was in the slot, which those who hold it still have. */
static void put(struct srv_memory **slot, struct srv_memory *memory)
{
	if (*slot)
		srv_memory_release(*slot);
	*slot = memory;
}

struct srv_memory *srv_memo_keep(struct srv_memo *memo, const struct srv_memo_key *key, const char *answer, size_t length)
{
	struct srv_memory *memory;
	size_t query = query_length(key), request = query + key->body_length;

	if (request > SRV_MEMO_REQUEST_MAX || length > SRV_MEMO_ANSWER_MAX)
		return NULL;
	memory = malloc(sizeof *memory + request + length);
	if (!memory)
		return NULL;
	*memory = (struct srv_memory){ .holders = 1, .setting = key->setting, .query_length = query,
				       .body_length = key->body_length, .answer_length = length };
	append(append(append(memory->bytes, key->query, query), key->body, key->body_length), answer, length);
	put(&memo->slots[slot_of(key)], memory);
	return memory;
}

void srv_memo_finish(struct srv_memo *memo)
{
	for (size_t i = 0; i < SRV_MEMO_SLOTS; i++)
		put(&memo->slots[i], NULL);
}
