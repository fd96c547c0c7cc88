#include "estimator/ddp.h"

enum { FIRST_BUCKET = 1 << 20, BUCKET = 25 << 20 };

/* mark_variable_ready_dense(): the gradient becomes a view of its bucket. */
static void move_into_bucket(struct est_tape *tape, struct est_leaf *leaf, const void *context)
{
	(void)context;
	est_drop(tape, leaf->grad);
	leaf->grad = est_none;
}

static void make_bucket(struct est_tape *tape, uint64_t bytes)
{
	if (bytes > 0)
		est_persistent(tape, bytes, 1, EST_BUFFERS);
}

void est_ddp_wrap(struct est_tape *tape, const struct est_request *request, uint32_t first, uint32_t end)
{
	uint64_t filled = 0, capacity = FIRST_BUCKET;

	if (request->parallelism.strategy != EST_DDP)
		return;
	for (uint32_t i = end; i-- > first;) {
		const struct est_leaf *leaf = &tape->leaves[i];

		if (!leaf->parameter || !leaf->value.requires_grad)
			continue;
		filled += leaf->value.numel * leaf->value.element;
		if (filled < capacity)
			continue;
		make_bucket(tape, filled);
		filled = 0;
		capacity = BUCKET;
	}
	make_bucket(tape, filled);
}

static bool views_buckets(const struct est_request *request)
{
	return request->parallelism.strategy == EST_DDP && request->parallelism.gradient_as_bucket_view;
}

bool est_ddp_last_differs(const struct est_request *request)
{
	return views_buckets(request) && !request->parallelism.sync_each_microbatch;
}

void est_ddp_micro_begin(struct est_tape *tape, const struct est_request *request, bool last)
{
	if (views_buckets(request))
		tape->accumulated = last || !est_ddp_last_differs(request) ? move_into_bucket : NULL;
}
