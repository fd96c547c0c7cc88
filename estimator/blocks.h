/* The books of the caching allocator: a table of blocks, linked to their neighbours, and the pools that hold the free
 * ones. Internal to allocator.c and segments.c; inline because the replay lives in it. */
#ifndef EST_BLOCKS_H
#define EST_BLOCKS_H

#include <stdbool.h>
#include <stdint.h>
#include "estimator/allocator.h"
#include "estimator/bins.h"

struct est_pool {
	struct est_bins free;
	bool small;
	uint32_t last;  /* expandable: the block at the end of the segment; never a hole */
	uint32_t holes; /* expandable: the first hole by address */
};

static inline struct est_pool *est_pool_of(const struct est_allocator *allocator, uint32_t index)
{
	return &allocator->pools[allocator->blocks[index].pool];
}

static inline bool est_block_is_free(const struct est_allocator *allocator, uint32_t index)
{
	return allocator->blocks[index].state == EST_BLOCK_FREE;
}

static inline bool est_block_is_hole(const struct est_allocator *allocator, uint32_t index)
{
	return allocator->blocks[index].state == EST_BLOCK_HOLE;
}

static inline void est_raise_peak(uint64_t *peak, uint64_t value)
{
	if (*peak < value)
		*peak = value;
}

/* A record out of the table; 0, and exhausted, when it is full. */
static inline uint32_t est_record_take(struct est_allocator *allocator)
{
	uint32_t index = allocator->spare;

	if (index) {
		allocator->spare = allocator->blocks[index].next;
		return index;
	}
	if (allocator->block_count < allocator->block_max)
		return allocator->block_count++;
	allocator->exhausted = true;
	return 0;
}

static inline void est_record_drop(struct est_allocator *allocator, uint32_t index)
{
	allocator->blocks[index].units = 0; /* it is none */
	allocator->blocks[index].next = allocator->spare;
	allocator->spare = index;
}

/* Cuts what lies beyond units off a block; returns it, in no bin, in the same state. 0 when the table is full. */
static inline uint32_t est_block_split(struct est_allocator *allocator, uint32_t index, uint64_t units, bool expandable)
{
	struct est_block *block = &allocator->blocks[index];
	uint32_t rest = est_record_take(allocator);

	if (!rest)
		return 0;
	allocator->blocks[rest] = (struct est_block){
		.address = block->address + units, .units = block->units - units,
		.before = index, .after = block->after, .pool = block->pool, .state = block->state,
	};
	allocator->blocks[block->after].before = rest;
	block->after = rest;
	block->units = units;
	if (expandable && est_pool_of(allocator, index)->last == index)
		est_pool_of(allocator, index)->last = rest;
	return rest;
}

/* Makes one block of two neighbours: the earlier one. Neither is in a bin. */
static inline uint32_t est_block_join(struct est_allocator *allocator, uint32_t index, uint32_t after, bool expandable)
{
	struct est_block *block = &allocator->blocks[index];
	const struct est_block *other = &allocator->blocks[after];

	block->units += other->units;
	block->after = other->after;
	allocator->blocks[other->after].before = index;
	if (expandable && est_pool_of(allocator, index)->last == after)
		est_pool_of(allocator, index)->last = index;
	est_record_drop(allocator, after);
	return index;
}

/* Takes a block, in no bin, for free: merges it with free neighbours and puts the result into its bin. */
__attribute__((always_inline)) static inline uint32_t est_block_settle(struct est_allocator *allocator, uint32_t index,
								       bool expandable)
{
	struct est_bins *bins = &est_pool_of(allocator, index)->free;
	uint32_t before = allocator->blocks[index].before;
	uint32_t after = allocator->blocks[index].after;

	if (est_block_is_free(allocator, before)) {
		est_bins_remove(bins, allocator->blocks, before);
		index = est_block_join(allocator, before, index, expandable);
	}
	if (est_block_is_free(allocator, after)) {
		est_bins_remove(bins, allocator->blocks, after);
		index = est_block_join(allocator, index, after, expandable);
	}
	allocator->blocks[index].state = EST_BLOCK_FREE;
	est_bins_insert(bins, allocator->blocks, index);
	return index;
}

/* Units that a request would find in a free block if what follows it were mapped. */
static inline uint64_t est_block_stretch(const struct est_allocator *allocator, uint32_t index)
{
	uint32_t after = allocator->blocks[index].after;

	if (!after)
		return UINT64_MAX;
	return allocator->blocks[index].units + (est_block_is_hole(allocator, after) ? allocator->blocks[after].units : 0);
}

/* The best fit, out of its bin; 0 when there is none. */
__attribute__((always_inline)) static inline uint32_t est_pool_fit(struct est_allocator *allocator,
								   struct est_pool *pool, uint32_t units, bool expandable)
{
	uint32_t index = est_bins_find(&pool->free, allocator->blocks, units);
	uint32_t next;

	while (expandable && index && (next = est_bins_next(&pool->free, allocator->blocks, index))
	       && est_block_stretch(allocator, next) < est_block_stretch(allocator, index))
		index = next;
	if (index)
		est_bins_remove(&pool->free, allocator->blocks, index);
	return index;
}

/* A block of at least units that new memory lies behind, in no bin: a segment of its own, or the expandable one grown.
 * 0 when that does not fit under the limit or the table is full. */
uint32_t est_segments_grow(struct est_allocator *allocator, struct est_pool *pool, uint32_t units);

/* The same; where the limit is in the way, and the cache is not to be kept, once more after all of it was given back.
 * 0: out of memory, or exhausted. */
uint32_t est_segments_grow_or_release(struct est_allocator *allocator, struct est_pool *pool, uint32_t units);

/* Gives back every segment that is free throughout (expandable: every step that is). */
void est_segments_release(struct est_allocator *allocator);

/* ---- a request and its end, without what is counted of them: the loop of a replay. expandable is
 * allocator->expandable, a constant where the loop is compiled for each */

/* units: 1 to EST_LARGEST_REQUEST. Returns the units of the block that served it, before it was cut; 0 when none
 * did. */
__attribute__((always_inline)) static inline uint64_t est_serve(struct est_allocator *allocator, unsigned pool_number,
								uint32_t id, uint32_t units,
				 bool expandable)
{
	struct est_pool *pool = &allocator->pools[pool_number];
	uint32_t index = est_pool_fit(allocator, pool, units, expandable), cut;
	struct est_block *block;
	uint64_t found;

	if (!index && !(index = est_segments_grow_or_release(allocator, pool, units)))
		return 0;
	block = &allocator->blocks[index];
	found = block->units;
	block->state = EST_BLOCK_FREE;
	if (found - units >= (pool_number % 2 == 0 || expandable ? 1 : EST_SMALL_REQUEST + 1)
	    && (cut = est_block_split(allocator, index, units, expandable)))
		est_bins_insert(&pool->free, allocator->blocks, cut);
	block->state = EST_BLOCK_USED;
	block->requested = units;
	allocator->block_of_id[id] = index;
	return found;
}

/* The end of what id holds, if it is anything. */
__attribute__((always_inline)) static inline void est_serve_free(struct est_allocator *allocator, uint32_t id,
								 bool expandable)
{
	uint32_t index = allocator->block_of_id[id];

	if (!index)
		return;
	allocator->block_of_id[id] = 0;
	est_block_settle(allocator, index, expandable);
}

#endif
