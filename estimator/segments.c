#include "estimator/blocks.h"

enum {
	MIB = (1 << 20) / EST_UNIT,
	MEDIUM_REQUEST = 10 * MIB, /* below: shares a segment of LARGE_SEGMENT */
	SMALL_SEGMENT = 2 * MIB,
	LARGE_SEGMENT = 20 * MIB,
	SEGMENT_STEP = 2 * MIB     /* larger segments are multiples of it */
};

static uint64_t round_up(uint64_t units, uint64_t step)
{
	return (units + step - 1) / step * step;
}

static void reserve(struct est_allocator *allocator, uint64_t units)
{
	allocator->reserved += units * EST_UNIT;
	allocator->growths++;
	est_raise_peak(&allocator->peak_reserved, allocator->reserved);
}

static bool within_limit(struct est_allocator *allocator, uint64_t units)
{
	uint64_t reserved = allocator->reserved + units * EST_UNIT;

	if (reserved <= allocator->limit) {
		allocator->parted = reserved > allocator->watch;
		return !allocator->parted;
	}
	if (reserved < allocator->refused)
		allocator->refused = reserved;
	return false;
}

/* ---- segments of fixed size */

static uint32_t new_segment(struct est_allocator *allocator, struct est_pool *pool, uint32_t units)
{
	uint64_t size = pool->small ? SMALL_SEGMENT
		: units < MEDIUM_REQUEST ? LARGE_SEGMENT : round_up(units, SEGMENT_STEP);
	uint32_t index;

	if (!within_limit(allocator, size))
		return 0;
	index = est_record_take(allocator);
	if (!index)
		return 0;
	allocator->blocks[index] = (struct est_block){
		.address = allocator->address, .units = size, .pool = (uint8_t)(pool - allocator->pools),
	};
	allocator->address += size;
	reserve(allocator, size);
	return index;
}

static void release_segment(struct est_allocator *allocator, uint32_t index)
{
	const struct est_block *block = &allocator->blocks[index];

	if (block->before || block->after)
		return;
	est_bins_remove(&est_pool_of(allocator, index)->free, allocator->blocks, index);
	allocator->reserved -= block->units * EST_UNIT;
	est_record_drop(allocator, index);
}

/* ---- expandable segments: one a pool; beyond its last block lies address space without end */

static uint64_t step_of(const struct est_pool *pool)
{
	return pool->small ? SMALL_SEGMENT : LARGE_SEGMENT;
}

static void add_hole(struct est_allocator *allocator, struct est_pool *pool, uint32_t index)
{
	struct est_block *blocks = allocator->blocks;
	uint32_t previous = 0, next = pool->holes;

	while (next && blocks[next].address < blocks[index].address) {
		previous = next;
		next = blocks[next].next;
	}
	blocks[index].previous = previous;
	blocks[index].next = next;
	blocks[next].previous = index;
	if (previous)
		blocks[previous].next = index;
	else
		pool->holes = index;
}

static void remove_hole(struct est_allocator *allocator, struct est_pool *pool, uint32_t index)
{
	struct est_block *blocks = allocator->blocks;

	blocks[blocks[index].next].previous = blocks[index].previous;
	if (blocks[index].previous)
		blocks[blocks[index].previous].next = blocks[index].next;
	else
		pool->holes = blocks[index].next;
}

/* Where units could lie if holes from here on were mapped: the run of free blocks and holes is long enough. */
static bool has_room(const struct est_allocator *allocator, uint32_t index, uint64_t units)
{
	uint64_t run = 0;

	for (; index && run < units; index = allocator->blocks[index].after) {
		if (!est_block_is_free(allocator, index) && !est_block_is_hole(allocator, index))
			return false;
		run += allocator->blocks[index].units;
	}
	return true;
}

/* The free block or hole at the lowest hole where units can be made; 0: at the end, after nothing that is free. */
static uint32_t find_room(const struct est_allocator *allocator, const struct est_pool *pool, uint64_t units)
{
	for (uint32_t hole = pool->holes; hole; hole = allocator->blocks[hole].next) {
		uint32_t before = allocator->blocks[hole].before;
		uint32_t start = est_block_is_free(allocator, before) ? before : hole;

		if (has_room(allocator, start, units))
			return start;
	}
	return est_block_is_free(allocator, pool->last) ? pool->last : 0;
}

/* Puts memory behind the first units of a hole (0: behind new address space at the end), in whole steps. Returns the
 * free block that it is part of then; 0 when it does not fit under the limit. */
static uint32_t map(struct est_allocator *allocator, struct est_pool *pool, uint32_t hole, uint64_t units)
{
	uint64_t size = round_up(units, step_of(pool));
	uint32_t index = hole, rest = 0, last = pool->last;

	if (hole && size > allocator->blocks[hole].units)
		size = allocator->blocks[hole].units;
	if (!within_limit(allocator, size))
		return 0;
	if (!hole) {
		index = est_record_take(allocator);
		if (!index)
			return 0;
		allocator->blocks[index] = (struct est_block){
			.address = last ? allocator->blocks[last].address + allocator->blocks[last].units : 0,
			.units = size, .before = last, .pool = (uint8_t)(pool - allocator->pools),
		};
		if (last)
			allocator->blocks[last].after = index;
		pool->last = index;
	} else {
		if (size < allocator->blocks[hole].units && !(rest = est_block_split(allocator, hole, size, true)))
			return 0;
		remove_hole(allocator, pool, hole);
		if (rest)
			add_hole(allocator, pool, rest);
	}
	reserve(allocator, size);
	return est_block_settle(allocator, index, true);
}

static uint32_t grow(struct est_allocator *allocator, struct est_pool *pool, uint32_t units)
{
	uint32_t index = find_room(allocator, pool, units);

	if (!index || est_block_is_hole(allocator, index))
		index = map(allocator, pool, index, units);
	while (index && allocator->blocks[index].units < units)
		index = map(allocator, pool, allocator->blocks[index].after, units - allocator->blocks[index].units);
	if (index)
		est_bins_remove(&pool->free, allocator->blocks, index);
	return index;
}

/* Merges a new hole with neighbouring ones; one at the end of the segment is no block any more. */
static void settle_hole(struct est_allocator *allocator, struct est_pool *pool, uint32_t index)
{
	uint32_t before = allocator->blocks[index].before;
	uint32_t after = allocator->blocks[index].after;

	allocator->blocks[index].state = EST_BLOCK_HOLE;
	if (est_block_is_hole(allocator, after)) {
		remove_hole(allocator, pool, after);
		index = est_block_join(allocator, index, after, true);
	}
	if (est_block_is_hole(allocator, before)) {
		remove_hole(allocator, pool, before);
		index = est_block_join(allocator, before, index, true);
	}
	if (allocator->blocks[index].after) {
		add_hole(allocator, pool, index);
		return;
	}
	pool->last = allocator->blocks[index].before;
	allocator->blocks[pool->last].after = 0;
	est_record_drop(allocator, index);
}

/* Takes the memory away from the whole steps within a free block. */
static void unmap(struct est_allocator *allocator, uint32_t index)
{
	struct est_pool *pool = est_pool_of(allocator, index);
	uint64_t address = allocator->blocks[index].address;
	uint64_t begin = round_up(address, step_of(pool));
	uint64_t end = (address + allocator->blocks[index].units) / step_of(pool) * step_of(pool);
	uint32_t rest;

	if (begin >= end)
		return;
	est_bins_remove(&pool->free, allocator->blocks, index);
	if (end < address + allocator->blocks[index].units && (rest = est_block_split(allocator, index, end - address, true)))
		est_bins_insert(&pool->free, allocator->blocks, rest);
	if (begin > address && (rest = est_block_split(allocator, index, begin - address, true))) {
		est_bins_insert(&pool->free, allocator->blocks, index);
		index = rest;
	}
	allocator->reserved -= allocator->blocks[index].units * EST_UNIT;
	settle_hole(allocator, pool, index);
}

uint32_t est_segments_grow(struct est_allocator *allocator, struct est_pool *pool, uint32_t units)
{
	return allocator->expandable ? grow(allocator, pool, units) : new_segment(allocator, pool, units);
}

uint32_t est_segments_grow_or_release(struct est_allocator *allocator, struct est_pool *pool, uint32_t units)
{
	uint32_t index = est_segments_grow(allocator, pool, units);

	if (!index && !allocator->exhausted && !allocator->keeps_cache && !allocator->parted) {
		est_allocator_empty_cache(allocator);
		index = est_segments_grow(allocator, pool, units);
	}
	if (!index)
		allocator->out_of_memory = !allocator->exhausted;
	return index;
}

void est_segments_release(struct est_allocator *allocator)
{
	for (unsigned i = 0; i < EST_POOLS; i++) {
		const struct est_bins *bins = &allocator->pools[i].free;
		uint32_t next;

		for (uint32_t index = est_bins_first_from(bins, 0); index; index = next) {
			next = est_bins_next(bins, allocator->blocks, index);
			if (allocator->expandable)
				unmap(allocator, index);
			else
				release_segment(allocator, index);
		}
	}
}
