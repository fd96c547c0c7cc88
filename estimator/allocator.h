/* PyTorch's CUDA caching allocator (c10/cuda/CUDACachingAllocator.cpp) as bookkeeping without memory: what a sequence
 * of allocations and frees makes of torch.cuda's "allocated" and "reserved", and whether it succeeds under a limit.
 *
 * Sizes are in units of 512 bytes (torch rounds every request up to them). Requests up to 1 MiB come from segments of
 * 2 MiB, up to 10 MiB from segments of 20 MiB, larger ones from segments of their own size rounded to 2 MiB. The best
 * fit is the least free block by (size, address); what is left of it is split off (small pool: any remainder, large
 * pool: more than 1 MiB); freed blocks merge with free neighbours of their segment. With expandable segments each pool
 * is one segment that grows at its end, in steps of 2 MiB (small) or 20 MiB, and any remainder is split off.
 * When a segment does not fit under the limit, all cached memory that holds nothing is given back (whole free segments;
 * with expandable segments the steps that are free throughout) and it is tried once more. THEORY 8.4. */
#ifndef EST_ALLOCATOR_H
#define EST_ALLOCATOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "estimator/arena.h"

enum {
	EST_UNIT = 512,           /* bytes */
	EST_STREAMS = 5,          /* CUDA streams: each has pools of its own and never gets another's blocks */
	EST_COMPUTE_STREAM = 0,
	EST_POOLS = 2 * EST_STREAMS, /* small and large of each */
	EST_SMALL_REQUEST = (1 << 20) / EST_UNIT
};

#define EST_LARGEST_REQUEST (UINT32_MAX - 8192) /* units; its segment still fits 32 bits */

struct est_block;
struct est_pool;

/* Read the first group, in bytes; the rest is the allocator's own. */
struct est_allocator {
	uint64_t allocated;       /* requests that are alive, rounded to units */
	uint64_t held;            /* blocks they lie in: torch's own count, with remainders too small to split off */
	uint64_t reserved;        /* segments */
	uint64_t peak_allocated, peak_held, peak_reserved;
	uint64_t growths;         /* how often memory was reserved */
	uint64_t releases;        /* how often the cache was given back */
	uint64_t refused;         /* the least reserved would have been that was not within the limit; UINT64_MAX: never */
	bool out_of_memory;       /* a request did not fit under the limit; later ones are not served */
	bool exhausted;           /* the block table or the ids do not suffice: figures are not to be trusted */

	bool expandable;
	bool keeps_cache;         /* see est_allocator_limit() */
	bool parted;              /* see est_allocator_watch() */
	uint64_t limit;           /* bytes; UINT64_MAX without one */
	uint64_t watch;
	struct est_block *blocks;
	uint32_t block_count, block_max, spare;
	uint32_t *block_of_id;
	size_t id_count;
	struct est_pool *pools;   /* small and large of each stream */
	uint64_t address;         /* of the next segment */
};

/* An empty allocator for ids 0..ids-1 under a limit on reserved in bytes (0: none). All of its memory, about
 * 148 * ids + 145,000 bytes, comes from the arena, which must outlive it; false when the arena is too small. The block
 * table suffices for any sequence that uses an id once only, and for any other that leaves at most 1,000 segments
 * cached that hold nothing. */
bool est_allocator_init(struct est_allocator *allocator, struct est_arena *arena, size_t ids, bool expandable,
			uint64_t limit);

/* That arena size. */
size_t est_allocator_arena_size(size_t ids);

/* Empties it, as est_allocator_init() left it, and sets another limit. Much cheaper than a new one. */
void est_allocator_reset(struct est_allocator *allocator, uint64_t limit);

/* Sets another limit (0: none) on one that goes on; it is not out of memory any more, and nothing was refused so
 * far. With keeps_cache, which est_allocator_reset() ends, the first request that does not fit leaves it out of
 * memory and as it was, nothing given back: under another limit the same request may be made again. */
void est_allocator_limit(struct est_allocator *allocator, uint64_t limit, bool keeps_cache);

/* From now on the first request that is within the limit only by reserving more than watch (UINT64_MAX: none) leaves
 * it out of memory and parted, and as it was: up to here a run under the limit watch is the same. Segments of fixed
 * size only. The request may be made again under another watch. */
void est_allocator_watch(struct est_allocator *allocator, uint64_t watch);

/* Makes to, an allocator for as many ids and of the same kind of segments, a copy of from. False, and to as it was,
 * when its block table is too small, which that of est_allocator_init() never is. */
bool est_allocator_copy(struct est_allocator *to, const struct est_allocator *from);

/* One that is only to keep copies of from, now or a little later: smaller than est_allocator_init()'s. False, with
 * nothing taken, when the arena has no room for it. */
bool est_allocator_init_keeper(struct est_allocator *allocator, struct est_arena *arena,
			       const struct est_allocator *from);

/* Allocates units (0: nothing, as torch does for an empty tensor) under an id that is not alive. More than
 * EST_LARGEST_REQUEST units are taken for that many. */
void est_allocator_alloc(struct est_allocator *allocator, uint32_t id, uint32_t units);
void est_allocator_alloc_on(struct est_allocator *allocator, unsigned stream, uint32_t id, uint32_t units);

/* Frees what id holds; nothing happens when it holds nothing. */
void est_allocator_free(struct est_allocator *allocator, uint32_t id);

/* torch.cuda.empty_cache(): gives back all cached memory that holds nothing. */
void est_allocator_empty_cache(struct est_allocator *allocator);

/* torch.cuda.reset_peak_memory_stats(): the peaks become the present values. */
void est_allocator_reset_peaks(struct est_allocator *allocator);

/* The pool that serves a request. */
static inline unsigned est_pool_for(unsigned stream, uint32_t units)
{
	return 2 * stream + (units > EST_SMALL_REQUEST);
}

/* Units that hold bytes; saturates. */
static inline uint32_t est_units(uint64_t bytes)
{
	uint64_t units = bytes / EST_UNIT + (bytes % EST_UNIT != 0);

	return units > UINT32_MAX ? UINT32_MAX : (uint32_t)units;
}

/* Units that a request for bytes, a multiple of them, is served with. */
static inline uint32_t est_units_served(uint64_t bytes)
{
	uint64_t units = bytes / EST_UNIT;

	return units < EST_LARGEST_REQUEST ? (uint32_t)units : EST_LARGEST_REQUEST;
}

#endif
