#include "estimator/allocator.h"

#include <string.h>
#include "estimator/blocks.h"

enum { SPARE_SEGMENTS = 1024 };

void est_allocator_alloc_on(struct est_allocator *allocator, unsigned stream, uint32_t id, uint32_t units)
{
	if (!units || allocator->out_of_memory || allocator->exhausted)
		return;
	if (id >= allocator->id_count || stream >= EST_STREAMS) {
		allocator->exhausted = true;
		return;
	}
	if (units > EST_LARGEST_REQUEST)
		units = EST_LARGEST_REQUEST;
	if (!est_serve(allocator, est_pool_for(stream, units), id, units, allocator->expandable))
		return;
	allocator->allocated += (uint64_t)units * EST_UNIT;
	allocator->held += allocator->blocks[allocator->block_of_id[id]].units * EST_UNIT;
	est_raise_peak(&allocator->peak_allocated, allocator->allocated);
	est_raise_peak(&allocator->peak_held, allocator->held);
}

void est_allocator_alloc(struct est_allocator *allocator, uint32_t id, uint32_t units)
{
	est_allocator_alloc_on(allocator, EST_COMPUTE_STREAM, id, units);
}

void est_allocator_free(struct est_allocator *allocator, uint32_t id)
{
	uint32_t index = id < allocator->id_count ? allocator->block_of_id[id] : 0;

	if (!index)
		return;
	allocator->allocated -= (uint64_t)allocator->blocks[index].requested * EST_UNIT;
	allocator->held -= allocator->blocks[index].units * EST_UNIT;
	est_serve_free(allocator, id, allocator->expandable);
}

void est_allocator_empty_cache(struct est_allocator *allocator)
{
	allocator->releases++;
	est_segments_release(allocator);
}

static size_t tables_size(size_t blocks, size_t ids)
{
	return blocks * sizeof(struct est_block) + (ids + 1) * sizeof(uint32_t) + EST_POOLS * sizeof(struct est_pool)
	       + 3 * _Alignof(max_align_t);
}

static bool take_tables(struct est_allocator *allocator, struct est_arena *arena, size_t blocks)
{
	allocator->block_max = (uint32_t)blocks;
	allocator->blocks = est_arena_reserve(arena, blocks, sizeof(*allocator->blocks));
	allocator->block_of_id = est_arena_reserve(arena, allocator->id_count + 1, sizeof(*allocator->block_of_id));
	allocator->pools = est_arena_reserve(arena, EST_POOLS, sizeof(*allocator->pools));
	return allocator->blocks && allocator->block_of_id && allocator->pools;
}

bool est_allocator_init(struct est_allocator *allocator, struct est_arena *arena, size_t ids, bool expandable,
			uint64_t limit)
{
	*allocator = (struct est_allocator){ .expandable = expandable, .id_count = ids };
	if (ids > (UINT32_MAX - SPARE_SEGMENTS) / 3 || !take_tables(allocator, arena, 3 * ids + SPARE_SEGMENTS))
		return false;
	est_allocator_reset(allocator, limit);
	return true;
}

size_t est_allocator_arena_size(size_t ids)
{
	return tables_size(3 * ids + SPARE_SEGMENTS, ids);
}

bool est_allocator_init_keeper(struct est_allocator *allocator, struct est_arena *arena, const struct est_allocator *from)
{
	size_t blocks = from->block_count + from->block_count / 4;

	*allocator = (struct est_allocator){ .expandable = from->expandable, .id_count = from->id_count };
	return tables_size(blocks, from->id_count) <= arena->size - arena->used && take_tables(allocator, arena, blocks);
}

static void clear(struct est_pool *pool, bool small)
{
	pool->small = small;
	pool->last = pool->holes = 0;
	pool->free.words = 0;
	memset(pool->free.occupied, 0, sizeof(pool->free.occupied));
}

void est_allocator_reset(struct est_allocator *allocator, uint64_t limit)
{
	allocator->allocated = allocator->held = allocator->reserved = 0;
	est_allocator_reset_peaks(allocator);
	allocator->growths = allocator->releases = 0;
	allocator->exhausted = false;
	est_allocator_limit(allocator, limit, false);
	allocator->blocks[0] = (struct est_block){ 0 }; /* no block: used, hence nobody's free neighbour */
	allocator->block_count = 1;
	allocator->spare = 0;
	allocator->address = 0;
	memset(allocator->block_of_id, 0, allocator->id_count * sizeof(*allocator->block_of_id));
	for (unsigned i = 0; i < EST_POOLS; i++)
		clear(&allocator->pools[i], i % 2 == 0);
}

void est_allocator_limit(struct est_allocator *allocator, uint64_t limit, bool keeps_cache)
{
	allocator->limit = limit ? limit : UINT64_MAX;
	allocator->refused = UINT64_MAX;
	allocator->out_of_memory = allocator->parted = false;
	allocator->keeps_cache = keeps_cache;
	est_allocator_watch(allocator, UINT64_MAX);
}

void est_allocator_watch(struct est_allocator *allocator, uint64_t watch)
{
	allocator->watch = watch;
	if (allocator->parted)
		allocator->out_of_memory = allocator->parted = false;
}

bool est_allocator_copy(struct est_allocator *to, const struct est_allocator *from)
{
	const struct est_allocator tables = *to;

	if (tables.block_max < from->block_count)
		return false;
	*to = *from;
	to->block_max = tables.block_max;
	to->blocks = memcpy(tables.blocks, from->blocks, from->block_count * sizeof(*tables.blocks));
	to->block_of_id = memcpy(tables.block_of_id, from->block_of_id, from->id_count * sizeof(*tables.block_of_id));
	to->pools = tables.pools;
	for (unsigned i = 0; i < EST_POOLS; i++) {
		if (from->pools[i].free.words || from->pools[i].last)
			to->pools[i] = from->pools[i];
		else
			clear(&to->pools[i], from->pools[i].small);
	}
	return true;
}

void est_allocator_reset_peaks(struct est_allocator *allocator)
{
	allocator->peak_allocated = allocator->allocated;
	allocator->peak_held = allocator->held;
	allocator->peak_reserved = allocator->reserved;
}
