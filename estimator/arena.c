#include "estimator/arena.h"

#include <stdalign.h>
#include <stdint.h>
#include <string.h>

void est_arena_init(struct est_arena *arena, void *base, size_t size)
{
	arena->base = base;
	arena->size = size;
	arena->used = 0;
	arena->exhausted = false;
	arena->memo = NULL;
}

void est_arena_clear(struct est_arena *arena)
{
	arena->used = 0;
	arena->exhausted = false;
}

void *est_arena_reserve(struct est_arena *arena, size_t count, size_t size)
{
	const size_t align = alignof(max_align_t);
	size_t bytes;
	char *object;

	if (__builtin_mul_overflow(count, size, &bytes) || bytes > SIZE_MAX - align
	    || (bytes = (bytes + align - 1) & ~(align - 1)) > arena->size - arena->used) {
		arena->exhausted = true;
		return NULL;
	}
	object = arena->base + arena->used;
	arena->used += bytes;
	return object;
}

void *est_arena_take(struct est_arena *arena, size_t count, size_t size)
{
	void *object = est_arena_reserve(arena, count, size);

	return object ? memset(object, 0, count * size) : NULL;
}

void est_arena_rewind(struct est_arena *arena, size_t used)
{
	arena->used = used;
}
