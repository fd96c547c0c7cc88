/* DeepSpeed's ZeRO-1 and ZeRO-2 on rank 0: gradients pass through a bucket into the rank's partition, which the step
 * flattens and casts, or to the host. The weights stay whole; the optimizer steps an fp32 copy of that part.
 * DISTRIBUTED 5 and II 7, DeepSpeed 0.19. */
#ifndef EST_ZERO_H
#define EST_ZERO_H

#include "estimator/model.h"
#include "estimator/request.h"
#include "estimator/tape.h"

struct est_zero {
	bool keeps;                    /* ZeRO-1: all gradients stay to the end of the last backward */
	unsigned buffers;              /* of a bucket each: two with overlap_comm */
	uint64_t bucket;               /* elements of one */
	uint64_t share;                /* elements of a rank's part of the flat parameter, padding included */
	uint64_t touched;              /* elements of all parameters that reach into it, each counted whole */
	uint64_t reaching;             /* how many these are */
	bool reached;                  /* gradients of some have come: not of a vision tower's */
	uint64_t filled;               /* elements that wait in the bucket */
	bool reaches;                  /* some of them are of this rank's part */
	bool accumulates32;            /* the partition is the rank's part in fp32, from the first micro-batch to the step */
	uint8_t reduced;               /* bytes of an element that ranks exchange */
	uint8_t stream;                /* of the reductions */
	bool offloads;                 /* the optimizer is on the host, and so is the partition: */
	bool last;                     /* the micro-batch is the step's last: what it accumulates on the host becomes
				        * the fp32 gradient */
	struct est_leaf *first, **end; /* those in the bucket, linked by next */
	struct est_leaf *large;        /* the one that is larger than a bucket and waits in its own memory, or NULL */
	struct est_tensor buffer[2], partition, averaged, flat;
};

/* Whether the request's gradients are replayed so: ZeRO-1 or 2 with bf16 weights and fp32 masters, of a full model
 * or of adapters, and an optimizer that a flat parameter does not change. Others are static shares. */
bool est_zero_wanted(const struct est_request *request);

/* Folds the trained leaves of the tape into a flat parameter of which rank 0 has a part, and watches their
 * gradients. NULL where that is not wanted, or the arena is too small. Of the tape's arena. */
struct est_zero *est_zero_wrap(struct est_tape *tape, const struct est_model *model, const struct est_request *request);

/* zero may be NULL in all of these. A micro-batch begins; last: of the step. Whether that one differs from the
 * others, once one has been traced. */
void est_zero_micro_begin(struct est_zero *zero, bool last);
bool est_zero_last_differs(const struct est_zero *zero);
/* The backward of the micro-batch is over. */
void est_zero_backward_end(struct est_zero *zero, struct est_tape *tape);
/* The step: norms are taken, clipped or not, the partition's gradients are copied to be flat (but one alone), and, once they are
 * cast to fp32, both are gone. Those in fp32 are the optimizer's as they are, and go when it has stepped. */
void est_zero_flatten(struct est_zero *zero, struct est_tape *tape);
void est_zero_flattened(struct est_zero *zero, struct est_tape *tape);
bool est_zero_has_grads32(const struct est_zero *zero);
void est_zero_stepped(struct est_zero *zero, struct est_tape *tape);

/* Bytes that another rank may hold beyond rank 0, at most: its part may cut through larger parameters. */
uint64_t est_zero_surplus(const struct est_zero *zero, const struct est_tape *tape, const struct est_request *request);

/* zero_gradients.c: a gradient has arrived (est_tape.accumulated). */
void est_zero_arrived(struct est_tape *tape, struct est_leaf *leaf, const void *context);

#endif
