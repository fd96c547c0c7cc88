/* Free blocks of one pool, ordered by (size, address): the set that PyTorch keeps as a std::set, kept here as bins of
 * nearly equal size with a bitmap over them. Finding the best fit is a bit scan and a short walk within one bin.
 * Internal to allocator.c; inline because the replay lives in it. */
#ifndef EST_BINS_H
#define EST_BINS_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum est_block_state { EST_BLOCK_USED, EST_BLOCK_FREE, EST_BLOCK_HOLE /* address space without memory behind it */ };

/* A run of memory within a segment. Indices are into the allocator's block table; 0 is no block. Sizes and addresses
 * count units of 512 bytes. */
struct est_block {
	uint64_t address, units;
	uint32_t before, after;   /* neighbours in the segment */
	uint32_t previous, next;  /* in the ring of the bin; of holes: in the list by address */
	uint32_t requested;       /* units asked for, at most units: a small remainder is not split off */
	uint16_t bin;             /* while it is in one */
	uint8_t pool;
	uint8_t state;            /* enum est_block_state */
};

/* 64 bins an octave: as a double the sizes are in order by their bits, the exponent first. */
enum { EST_BIN_BITS = 6, EST_BINS = 64 << EST_BIN_BITS, EST_BIN_WORDS = EST_BINS / 64, EST_MANTISSA_BITS = 52,
       EST_BIAS = 1023 };

struct est_bins {
	uint64_t words;                /* bit i: occupied[i] is not 0 */
	uint64_t occupied[EST_BIN_WORDS];
	uint32_t head[EST_BINS];       /* first of the ring, in order; meaningless where the bit is 0 */
};

/* The bin of blocks of that many units, 1 to INT64_MAX. */
static inline unsigned est_bin_of(uint64_t units)
{
	double size = (double)(int64_t)units;
	uint64_t bits;

	memcpy(&bits, &size, sizeof(bits));
	return (unsigned)(bits >> (EST_MANTISSA_BITS - EST_BIN_BITS)) - (EST_BIAS << EST_BIN_BITS);
}

static inline bool est_block_precedes(const struct est_block *one, const struct est_block *other)
{
	return one->units != other->units ? one->units < other->units : one->address < other->address;
}

/* Puts a block, in no bin so far, where it belongs. */
__attribute__((always_inline)) static inline void est_bins_insert(struct est_bins *bins, struct est_block *blocks,
								  uint32_t index)
{
	struct est_block *block = &blocks[index];
	unsigned bin = est_bin_of(block->units), word = bin / 64;
	uint64_t bit = UINT64_C(1) << bin % 64;
	uint32_t follower, last;

	block->bin = (uint16_t)bin;
	if (!(bins->occupied[word] & bit)) {
		bins->occupied[word] |= bit;
		bins->words |= UINT64_C(1) << word;
		bins->head[bin] = block->previous = block->next = index;
		return;
	}
	follower = bins->head[bin];
	last = blocks[follower].previous;
	if (est_block_precedes(block, &blocks[follower])) {
		bins->head[bin] = index;
	} else if (est_block_precedes(block, &blocks[last])) {
		do
			follower = blocks[follower].next;
		while (est_block_precedes(&blocks[follower], block));
		last = blocks[follower].previous;
	}
	block->next = follower;
	block->previous = last;
	blocks[last].next = index;
	blocks[follower].previous = index;
}

static inline void est_bins_remove(struct est_bins *bins, struct est_block *blocks, uint32_t index)
{
	const struct est_block *block = &blocks[index];
	unsigned bin = block->bin, word = bin / 64;

	if (block->next == index) {
		bins->occupied[word] ^= UINT64_C(1) << bin % 64;
		bins->words &= ~((uint64_t)(bins->occupied[word] == 0) << word);
		return;
	}
	blocks[block->previous].next = block->next;
	blocks[block->next].previous = block->previous;
	if (bins->head[bin] == index)
		bins->head[bin] = block->next;
}

/* The first block of the first occupied bin from bin on; 0 when there is none. */
static inline uint32_t est_bins_first_from(const struct est_bins *bins, unsigned bin)
{
	unsigned word = bin / 64;
	uint64_t bits;

	if (bin >= EST_BINS)
		return 0;
	bits = bins->occupied[word] & ~UINT64_C(0) << bin % 64;
	if (!bits) {
		uint64_t words = bins->words & ~UINT64_C(1) << word; /* ~1 << word: the words above this one */

		if (!words)
			return 0;
		word = (unsigned)__builtin_ctzll(words);
		bits = bins->occupied[word];
	}
	return bins->head[word * 64 + (unsigned)__builtin_ctzll(bits)];
}

/* The block that follows index in the order; 0 after the last. */
static inline uint32_t est_bins_next(const struct est_bins *bins, const struct est_block *blocks, uint32_t index)
{
	unsigned bin = blocks[index].bin;

	if (blocks[index].next != bins->head[bin])
		return blocks[index].next;
	return est_bins_first_from(bins, bin + 1);
}

/* The least block, by (size, address), of at least units; 0 when there is none. */
static inline uint32_t est_bins_find(const struct est_bins *bins, const struct est_block *blocks, uint64_t units)
{
	unsigned bin = est_bin_of(units);
	uint32_t index = est_bins_first_from(bins, bin);

	if (!index || blocks[index].units >= units)
		return index;
	if (blocks[blocks[index].previous].units < units)
		return est_bins_first_from(bins, bin + 1);
	do
		index = blocks[index].next;
	while (blocks[index].units < units);
	return index;
}

#endif
