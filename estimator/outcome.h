/* What the trace of a run and its replay came to, and how it becomes a report. Between run.c and outcome.c. */
#ifndef EST_OUTCOME_H
#define EST_OUTCOME_H

#include "estimator/estimator.h"
#include "estimator/replay.h"

/* Everything that depends on the card only through what its kernels can do: one trace, replayed for all cards of the
 * class. */
struct est_outcome {
	bool traced;
	struct est_levels levels;
	struct est_reserved reserved;
	int64_t trainable_parameters;
	uint64_t pinned, host_states;       /* outside the allocator, on the host */
	uint64_t managed;                   /* outside the allocator, where the driver moves it */
	uint64_t leftover;                  /* of the batch before, which may have been short */
	uint64_t unmodelled;                /* what sharding may take beyond all that, at most */
	uint64_t unpooled;                  /* and what the allocator may reserve for it */
	enum est_rank_kind kind;            /* of the rank that this is of */
	size_t rank_count;                  /* kinds of ranks, where they differ */
	struct est_rank ranks[EST_RANK_KINDS];
};

/* Makes *bytes least, unless it is more. */
static inline void est_raise(uint64_t *bytes, uint64_t least)
{
	if (*bytes < least)
		*bytes = least;
}

/* What is reserved, of which so much is allocated at least; a range whose upper end goes up by what is not replayed. */
struct est_range est_reserved_range(uint64_t allocated, uint64_t reserved);
struct est_range est_range_widened(struct est_range range, uint64_t bytes);
/* cuBLAS workspaces stay from the first product on: the same on top of every figure. */
uint64_t est_workspace_bytes(const struct est_gpu *gpu);
/* bytes as they are reserved: rounded up to segments. */
uint64_t est_whole_segments(uint64_t bytes);

/* The peak, the timeline, the host's memory, the ranks and the rows of one GPU as gpu has them. */
void est_outcome_report(const struct est_outcome *outcome, const struct est_request *request,
			const struct est_model *model, const struct est_gpu *gpu, struct est_report *report);
/* The rows alone, of a run so distributed. */
void est_outcome_rows(const struct est_outcome *outcome, const struct est_gpu *gpu,
		      const struct est_parallelism *parallelism, struct est_rows *rows);

#endif
