/* How long a step takes beside another: what is computed, recomputed, moved and waited for, from the assumptions in
 * steptime.c. Good for putting plans in order, not for a calendar. docs/plans.md tells the arithmetic. */
#ifndef CFG_STEPTIME_H
#define CFG_STEPTIME_H

#include <jansson.h>
#include <stddef.h>
#include "estimator/estimator.h"
#include "estimator/floor.h"

/* What a card does in a second: operations of its 16-bit matrix units (dense, of the data sheet), bytes of its
 * memory, bytes it sends to the next card of its node. */
struct cfg_speed {
	double operations, memory, link;
};

/* row: the card's of gpus.json; NULL for a card of which only the size is known, taken for an H100 without links. */
void cfg_speed_init(struct cfg_speed *speed, const char *gpu, const json_t *row);

/* What of a request does not depend on batch, length and GPUs. */
struct cfg_step {
	double active, layers, width;       /* parameters a token meets in products; of the model */
	double recomputed;                  /* parts of a forward that run again */
	double backward;                    /* forwards that a backward takes: 2, less where weights are frozen */
	double dequantised;                 /* bytes of memory that dequantising moves, each forward */
	double trained, all;                /* parameters */
	double element;                     /* bytes that a weight is gathered as */
	double stepped;                     /* bytes that the optimizer reads and writes */
	double checkpoint;                  /* bytes a token that checkpoints take to the host */
};
void cfg_step_init(struct cfg_step *step, const struct est_request *request, const struct est_model *model,
		   const struct est_floor *floor);

/* Seconds of a micro-batch of request with its share of the step, over those of the same tokens on the same cards
 * were everything trained and nothing recomputed, moved or waited for. */
double cfg_step_time(const struct cfg_step *step, const struct est_request *request, const struct cfg_speed *speed);

/* What all of it assumes, one sentence each; NULL behind the last. */
extern const char *const cfg_step_assumptions[];

#endif
