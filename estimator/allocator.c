#include "estimator/allocator.h"

#include <string.h>
#include "estimator/bins.h"

enum {
	MIB = (1 << 20) / EST_UNIT,
	SMALL_REQUEST = MIB,       /* at most: from the small pool */
	MEDIUM_REQUEST = 10 * MIB, /* below: shares a segment of LARGE_SEGMENT */
	SMALL_SEGMENT = 2 * MIB,
	LARGE_SEGMENT = 20 * MIB,
	SEGMENT_STEP = 2 * MIB,    /* larger segments are multiples of it */
	SPARE_SEGMENTS = 1024
};

static const uint32_t largest_request = UINT32_MAX - 2 * SEGMENT_STEP;

struct est_pool {
	struct est_bins free;
	bool small;
	uint32_t last;  /* expandable: the block at the end of the segment; never a hole */
	uint32_t holes; /* expandable: the first hole by address */
};

static uint64_t round_up(uint64_t units, uint64_t step)
{
	return (units + step - 1) / step * step;
}

static struct est_pool *pool_of(const struct est_allocator *allocator, uint32_t index)
{
	return &allocator->pools[allocator->blocks[index].pool];
}

static bool is_free(const struct est_allocator *allocator, uint32_t index)
{
	return allocator->blocks[index].state == EST_BLOCK_FREE;
}

static bool is_hole(const struct est_allocator *allocator, uint32_t index)
{
	return allocator->blocks[index].state == EST_BLOCK_HOLE;
}

static void raise_peak(uint64_t *peak, uint64_t value)
{
	if (*peak < value)
		*peak = value;
}

static void reserve(struct est_allocator *allocator, uint64_t units)
{
	allocator->reserved += units * EST_UNIT;
	raise_peak(&allocator->peak_reserved, allocator->reserved);
}

static bool within_limit(const struct est_allocator *allocator, uint64_t units)
{
	return allocator->reserved + units * EST_UNIT <= allocator->limit;
}

/* A record out of the table; 0, and exhausted, when it is full. */
static uint32_t take_record(struct est_allocator *allocator)
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

static void drop_record(struct est_allocator *allocator, uint32_t index)
{
	allocator->blocks[index] = (struct est_block){ .next = allocator->spare };
	allocator->spare = index;
}

/* Cuts what lies beyond units off a block; returns it, in no bin, in the same state. 0 when the table is full. */
static uint32_t split(struct est_allocator *allocator, uint32_t index, uint64_t units)
{
	struct est_block *block = &allocator->blocks[index];
	uint32_t rest = take_record(allocator);

	if (!rest)
		return 0;
	allocator->blocks[rest] = (struct est_block){
		.address = block->address + units, .units = block->units - units,
		.before = index, .after = block->after, .pool = block->pool, .state = block->state,
	};
	allocator->blocks[block->after].before = rest;
	block->after = rest;
	block->units = units;
	if (pool_of(allocator, index)->last == index)
		pool_of(allocator, index)->last = rest;
	return rest;
}

/* Makes one block of two neighbours: the earlier one. Neither is in a bin. */
static uint32_t join(struct est_allocator *allocator, uint32_t index, uint32_t after)
{
	struct est_block *block = &allocator->blocks[index];
	const struct est_block *other = &allocator->blocks[after];

	block->units += other->units;
	block->after = other->after;
	allocator->blocks[other->after].before = index;
	if (pool_of(allocator, index)->last == after)
		pool_of(allocator, index)->last = index;
	drop_record(allocator, after);
	return index;
}

/* Takes a block, in no bin, for free: merges it with free neighbours and puts the result into its bin. */
static uint32_t settle(struct est_allocator *allocator, uint32_t index)
{
	struct est_bins *bins = &pool_of(allocator, index)->free;
	uint32_t before = allocator->blocks[index].before;
	uint32_t after = allocator->blocks[index].after;

	if (is_free(allocator, before)) {
		est_bins_remove(bins, allocator->blocks, before);
		index = join(allocator, before, index);
	}
	if (is_free(allocator, after)) {
		est_bins_remove(bins, allocator->blocks, after);
		index = join(allocator, index, after);
	}
	allocator->blocks[index].state = EST_BLOCK_FREE;
	est_bins_insert(bins, allocator->blocks, index);
	return index;
}

/* ---- segments of fixed size */

static uint32_t new_segment(struct est_allocator *allocator, struct est_pool *pool, uint32_t units)
{
	uint64_t size = pool->small ? SMALL_SEGMENT
		: units < MEDIUM_REQUEST ? LARGE_SEGMENT : round_up(units, SEGMENT_STEP);
	uint32_t index;

	if (!within_limit(allocator, size))
		return 0;
	index = take_record(allocator);
	if (!index)
		return 0;
	allocator->blocks[index] = (struct est_block){
		.address = allocator->address, .units = size, .pool = (uint16_t)(pool - allocator->pools),
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
	est_bins_remove(&pool_of(allocator, index)->free, allocator->blocks, index);
	allocator->reserved -= block->units * EST_UNIT;
	drop_record(allocator, index);
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
		if (!is_free(allocator, index) && !is_hole(allocator, index))
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
		uint32_t start = is_free(allocator, before) ? before : hole;

		if (has_room(allocator, start, units))
			return start;
	}
	return is_free(allocator, pool->last) ? pool->last : 0;
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
		index = take_record(allocator);
		if (!index)
			return 0;
		allocator->blocks[index] = (struct est_block){
			.address = last ? allocator->blocks[last].address + allocator->blocks[last].units : 0,
			.units = size, .before = last, .pool = (uint16_t)(pool - allocator->pools),
		};
		if (last)
			allocator->blocks[last].after = index;
		pool->last = index;
	} else {
		if (size < allocator->blocks[hole].units && !(rest = split(allocator, hole, size)))
			return 0;
		remove_hole(allocator, pool, hole);
		if (rest)
			add_hole(allocator, pool, rest);
	}
	reserve(allocator, size);
	return settle(allocator, index);
}

static uint32_t grow(struct est_allocator *allocator, struct est_pool *pool, uint32_t units)
{
	uint32_t index = find_room(allocator, pool, units);

	if (!index || is_hole(allocator, index))
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
	if (is_hole(allocator, after)) {
		remove_hole(allocator, pool, after);
		index = join(allocator, index, after);
	}
	if (is_hole(allocator, before)) {
		remove_hole(allocator, pool, before);
		index = join(allocator, before, index);
	}
	if (allocator->blocks[index].after) {
		add_hole(allocator, pool, index);
		return;
	}
	pool->last = allocator->blocks[index].before;
	allocator->blocks[pool->last].after = 0;
	drop_record(allocator, index);
}

/* Takes the memory away from the whole steps within a free block. */
static void unmap(struct est_allocator *allocator, uint32_t index)
{
	struct est_pool *pool = pool_of(allocator, index);
	uint64_t address = allocator->blocks[index].address;
	uint64_t begin = round_up(address, step_of(pool));
	uint64_t end = (address + allocator->blocks[index].units) / step_of(pool) * step_of(pool);
	uint32_t rest;

	if (begin >= end)
		return;
	est_bins_remove(&pool->free, allocator->blocks, index);
	if (end < address + allocator->blocks[index].units && (rest = split(allocator, index, end - address)))
		est_bins_insert(&pool->free, allocator->blocks, rest);
	if (begin > address && (rest = split(allocator, index, begin - address))) {
		est_bins_insert(&pool->free, allocator->blocks, index);
		index = rest;
	}
	allocator->reserved -= allocator->blocks[index].units * EST_UNIT;
	settle_hole(allocator, pool, index);
}

/* Units that a request would find in a free block if what follows it were mapped. */
static uint64_t stretch(const struct est_allocator *allocator, uint32_t index)
{
	uint32_t after = allocator->blocks[index].after;

	if (!after)
		return UINT64_MAX;
	return allocator->blocks[index].units + (is_hole(allocator, after) ? allocator->blocks[after].units : 0);
}

/* ---- requests */

static uint32_t find_fit(struct est_allocator *allocator, struct est_pool *pool, uint32_t units)
{
	uint32_t index = est_bins_find(&pool->free, allocator->blocks, units);
	uint32_t next;

	while (allocator->expandable && index && (next = est_bins_next(&pool->free, allocator->blocks, index))
	       && stretch(allocator, next) < stretch(allocator, index))
		index = next;
	if (index)
		est_bins_remove(&pool->free, allocator->blocks, index);
	return index;
}

static uint32_t find_new(struct est_allocator *allocator, struct est_pool *pool, uint32_t units)
{
	return allocator->expandable ? grow(allocator, pool, units) : new_segment(allocator, pool, units);
}

static void give(struct est_allocator *allocator, uint32_t index, uint32_t id, uint32_t units)
{
	struct est_block *block = &allocator->blocks[index];
	struct est_pool *pool = pool_of(allocator, index);
	uint64_t rest = block->units - units;
	uint32_t cut = 0;

	block->state = EST_BLOCK_FREE;
	if ((pool->small || allocator->expandable ? rest >= 1 : rest > SMALL_REQUEST)
	    && (cut = split(allocator, index, units)))
		est_bins_insert(&pool->free, allocator->blocks, cut);
	block->state = EST_BLOCK_USED;
	block->requested = units;
	allocator->block_of_id[id] = index;
	allocator->allocated += (uint64_t)units * EST_UNIT;
	allocator->held += block->units * EST_UNIT;
	raise_peak(&allocator->peak_allocated, allocator->allocated);
	raise_peak(&allocator->peak_held, allocator->held);
}

void est_allocator_alloc_on(struct est_allocator *allocator, unsigned stream, uint32_t id, uint32_t units)
{
	struct est_pool *pool;
	uint32_t index;

	if (!units || allocator->out_of_memory || allocator->exhausted)
		return;
	if (id >= allocator->id_count || stream >= EST_STREAMS) {
		allocator->exhausted = true;
		return;
	}
	if (units > largest_request)
		units = largest_request;
	pool = &allocator->pools[2 * stream + (units > SMALL_REQUEST)];
	index = find_fit(allocator, pool, units);
	if (!index)
		index = find_new(allocator, pool, units);
	if (!index && !allocator->exhausted) {
		est_allocator_empty_cache(allocator);
		index = find_new(allocator, pool, units);
	}
	if (index)
		give(allocator, index, id, units);
	else
		allocator->out_of_memory = !allocator->exhausted;
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
	allocator->block_of_id[id] = 0;
	allocator->allocated -= (uint64_t)allocator->blocks[index].requested * EST_UNIT;
	allocator->held -= allocator->blocks[index].units * EST_UNIT;
	settle(allocator, index);
}

void est_allocator_empty_cache(struct est_allocator *allocator)
{
	for (unsigned i = 0; i < 2 * EST_STREAMS; i++) {
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

/* ---- life */

bool est_allocator_init(struct est_allocator *allocator, struct est_arena *arena, size_t ids, bool expandable,
			uint64_t limit)
{
	size_t blocks = 3 * ids + SPARE_SEGMENTS;

	*allocator = (struct est_allocator){ .expandable = expandable, .id_count = ids };
	if (ids > (UINT32_MAX - SPARE_SEGMENTS) / 3)
		return false;
	allocator->block_max = (uint32_t)blocks;
	allocator->blocks = est_arena_take(arena, blocks, sizeof(*allocator->blocks));
	allocator->block_of_id = est_arena_take(arena, ids + 1, sizeof(*allocator->block_of_id));
	allocator->pools = est_arena_take(arena, 2 * EST_STREAMS, sizeof(*allocator->pools));
	if (!allocator->blocks || !allocator->block_of_id || !allocator->pools)
		return false;
	est_allocator_reset(allocator, limit);
	return true;
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
	allocator->out_of_memory = allocator->exhausted = false;
	allocator->limit = limit ? limit : UINT64_MAX;
	allocator->block_count = 1; /* 0 is no block: used, and nobody's neighbour */
	allocator->spare = 0;
	allocator->address = 0;
	memset(allocator->block_of_id, 0, allocator->id_count * sizeof(*allocator->block_of_id));
	for (unsigned i = 0; i < 2 * EST_STREAMS; i++)
		clear(&allocator->pools[i], i % 2 == 0);
}

void est_allocator_reset_peaks(struct est_allocator *allocator)
{
	allocator->peak_allocated = allocator->allocated;
	allocator->peak_held = allocator->held;
	allocator->peak_reserved = allocator->reserved;
}
