/* Requests at random, from a seed or from the bytes of a fuzzer. */
#ifndef TESTS_DRAWN_H
#define TESTS_DRAWN_H

#include "config/config.h"

/* Where choices come from: bytes, and nought once they are used up; or, without bytes, splitmix64 from state. */
struct draws {
	const uint8_t *bytes;
	size_t left;
	uint64_t state;
};

/* A number from 0 to below - 1. */
uint64_t draw(struct draws *draws, uint64_t below);

/* A request of a random preset: its plainest first, then with changes as long as it stays valid. short_models:
 * mostly of a few layers only, and with fields that only a file of a config or a list can say. False when the
 * plainest is none. */
bool draw_request(struct draws *draws, const struct cfg_catalog *catalog, bool short_models, struct cfg_request *ret);

#endif
