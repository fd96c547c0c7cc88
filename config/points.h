/* What a search knows of one recipe: replays at some points (numbers of GPUs, batches, lengths), and what follows from them for the
 * others. A replay that fails by more than 1/64 fails for fewer GPUs, larger batches and longer sequences too: what is alive at once is
 * monotone in the three, as tests/rules.c holds it to be. */
#ifndef CFG_POINTS_H
#define CFG_POINTS_H

#include "config/space.h"
#include "config/steptime.h"

/* Indices into the space's scales. */
struct cfg_point {
	uint16_t gpus, batch, length;
};

/* One replay: of each card the least that is required, where it is of the same kind as the one that was asked for; else 0. */
struct cfg_probe {
	struct cfg_probe *next;
	struct cfg_point point;
	bool judged;                    /* else from what is alive at once: at least so much */
	uint64_t required_high[];
};

struct cfg_known {
	struct est_floor floor;
	struct cfg_step step;
	struct est_parallelism parallelism; /* and what else of the request the bounds go by */
	struct est_offload offload;
	enum est_method method;
	enum est_precision precision;
	int64_t gradient_accumulation_steps;
	struct cfg_probe *probes;
};

/* Whether nothing excludes that card fits at point. run: a request whose batch, length, GPUs and offload may be overwritten. */
bool cfg_known_allows(const struct cfg_space *space, const struct cfg_known *known, size_t card, struct cfg_point point,
		      struct est_request *run);
/* Whether a replay without the allocator has passed at point, or at one that needs more. */
bool cfg_known_passes(const struct cfg_space *space, const struct cfg_known *known, size_t card, struct cfg_point point);
/* What a replay said of card at point itself; 0: there was none. */
uint64_t cfg_known_at(const struct cfg_known *known, size_t card, struct cfg_point point, bool judged);
/* run's batch, length, GPUs and offload as they are at point. */
void cfg_known_set(const struct cfg_space *space, const struct cfg_known *known, struct cfg_point point, struct est_request *run);
/* What card has to give; bytes. */
uint64_t cfg_space_usable(const struct cfg_space *space, size_t card);

#endif
