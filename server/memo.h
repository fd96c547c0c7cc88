/* Answers that a thread has given, by the request's own bytes, and by those of its JSON in one spelling: an estimate is a
 * function of the request and the catalogues alone. A slot for each hash, whose answer the next one with that hash takes the
 * place of; what is compared is the whole request. */
#ifndef SRV_MEMO_H
#define SRV_MEMO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Longer requests and answers are not remembered: a thread's memo holds 9 MB at most. */
enum { SRV_MEMO_SLOTS = 128, SRV_MEMO_REQUEST_MAX = 8 << 10, SRV_MEMO_ANSWER_MAX = 64 << 10 };

/* A remembered answer: there until the memo forgets it and nobody holds it any more. All of that is one thread's. */
struct srv_memory;

struct srv_memo { /* all zero is an empty memo */
	struct srv_memory *slots[SRV_MEMO_SLOTS];
};

/* What an answer depends on. Texts are borrowed. */
struct srv_memo_key {
	const char *query, *body;     /* NULL: none */
	size_t body_length;
	uint64_t setting;             /* a hash of the rest: catalogues, format */
};

/* The answer, borrowed until the next srv_memo_keep(). NULL when there is none. */
struct srv_memory *srv_memo_find(const struct srv_memo *memo, const struct srv_memo_key *key);

/* Remembers an answer of length bytes, unless it is too long or memory short: as above, or NULL. */
struct srv_memory *srv_memo_keep(struct srv_memo *memo, const struct srv_memo_key *key, const char *answer, size_t length);

const char *srv_memory_bytes(const struct srv_memory *memory, size_t *ret_length);

/* One more holder, and one less. */
void srv_memory_hold(struct srv_memory *memory);
void srv_memory_release(struct srv_memory *memory);

void srv_memo_finish(struct srv_memo *memo);

#endif
