/* Outcomes that a thread has come to, by all that they depend on: requests that differ in their cards, their format or
 * in how they are written come to the same ones. Exact: what is compared is the whole key, and an outcome that is
 * remembered is the one that another run would come to.
 *
 * Entries lie one behind the other in a ring of bytes that the caller gives. The oldest make room. */
#ifndef EST_MEMO_H
#define EST_MEMO_H

#include "estimator/device.h"
#include "estimator/outcome.h"

/* 64 bits of length bytes, going on from hash, which is 0 at first. Multiplies and folds eight bytes at a time: for tables,
 * and to tell whether a thing has changed, not against who looks for collisions. */
uint64_t est_hash(uint64_t hash, const void *data, size_t length);

enum { EST_KEY_MAX = 8192, EST_MEMO_BUCKETS = 1024 };

/* Whole numbers one behind the other, in as many bytes as each needs. */
struct est_key {
	uint64_t hash;
	size_t length;
	bool whole;                         /* there was room for all of it */
	uint8_t bytes[EST_KEY_MAX];
};

struct est_memo {
	char *bytes;
	uint64_t size;                      /* of the ring */
	/* Position behind the last entry. Positions only grow; the place in the ring is the remainder by size, and what is
	 * more than size behind the end has been written over. */
	uint64_t end;
	uint64_t bucket[EST_MEMO_BUCKETS];  /* position of the last entry with such a hash, or 0 */
	struct est_key key;                 /* room for the one that is being asked for: large, kept off the stack */
};

/* Wraps size bytes at bytes (aligned for any object), which the caller keeps owning. Nothing is remembered yet. */
void est_memo_init(struct est_memo *memo, void *bytes, size_t size);

/* All that the outcome of a traced and replayed run depends on: of the request all but what says how to answer
 * (est_field.answers) and which fields were named; of the model all but its names; the kernels that SDPA has; what of each
 * category a rank holds; and effort, which run.c gives a meaning. */
void est_key_write(struct est_key *key, const struct est_request *request, const struct est_model *model,
		   enum est_sdpa_choice sdpa, const uint64_t shards[EST_CATEGORIES], int effort);

/* The outcome of that key; false when there is none. */
bool est_memo_find(const struct est_memo *memo, const struct est_key *key, struct est_outcome *ret_outcome);
/* Remembers it. One with a key that was cut, or larger than the ring, is not. */
void est_memo_keep(struct est_memo *memo, const struct est_key *key, const struct est_outcome *outcome);

#endif
