/* A bump allocator over memory that the caller gives: the only work space of the estimator.
 * One arena belongs to one thread; nothing in it outlives the call that filled it. */
#ifndef EST_ARENA_H
#define EST_ARENA_H

#include <stdbool.h>
#include <stddef.h>

struct est_memo;

struct est_arena {
	char *base;
	size_t size;
	size_t used;
	bool exhausted; /* some est_arena_take() returned NULL */
	struct est_memo *memo; /* of the arena's thread (memo.h), or NULL */
};

/* Wraps size bytes at base (aligned for any object). The caller keeps owning them. There is no memo. */
void est_arena_init(struct est_arena *arena, void *base, size_t size);

/* count objects of size bytes, aligned for any object and zeroed. NULL, and arena->exhausted, when
 * they do not fit. Given back by est_arena_rewind() only. */
void *est_arena_take(struct est_arena *arena, size_t count, size_t size);

/* The same without zeroing: for tables that are filled before they are read. */
void *est_arena_reserve(struct est_arena *arena, size_t count, size_t size);

/* Gives back everything, and forgets that it did not suffice. */
void est_arena_clear(struct est_arena *arena);

/* Gives back everything taken since used was read off arena->used. */
void est_arena_rewind(struct est_arena *arena, size_t used);

#endif
