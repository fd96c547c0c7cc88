#include "estimator/ddp.h"

/* ELEMENTS: of 1, 2, 4 and 8 bytes, and EST_OTHER_16BIT with the first */
enum { FIRST_BUCKET = 1 << 20, BUCKET = 25 << 20, ELEMENTS = 4 };

struct wrapped {
	uint32_t first, end;              /* leaves */
	struct est_tensor whole[ELEMENTS]; /* a bucket for all gradients of a dtype */
	struct wrapped *next;
};

/* Leaves whose gradients have come, in that order. */
struct arrivals {
	uint32_t count, *leaves;
	bool *known; /* by leaf */
};

struct est_ddp {
	struct est_tape *tape;
	const struct est_request *request;
	struct wrapped *models;
	struct arrivals arrivals;
	struct arrivals *arrived; /* those */
};

static unsigned kind_of(const struct est_leaf *leaf)
{
	return (unsigned)__builtin_ctz(leaf->value.element) % ELEMENTS;
}

static uint64_t bytes_of(const struct est_leaf *leaf)
{
	return leaf->value.numel * est_element_bytes(leaf->value.element);
}

struct est_ddp *est_ddp_new(struct est_tape *tape, const struct est_request *request)
{
	struct est_ddp *ddp;

	if (request->parallelism.strategy != EST_DDP || !(ddp = est_arena_take(tape->arena, 1, sizeof(*ddp))))
		return NULL;
	ddp->tape = tape;
	ddp->request = request;
	ddp->arrived = &ddp->arrivals;
	ddp->arrivals.leaves = est_arena_take(tape->arena, tape->leaf_count, sizeof(*ddp->arrivals.leaves));
	ddp->arrivals.known = est_arena_take(tape->arena, tape->leaf_count, sizeof(*ddp->arrivals.known));
	return ddp->arrivals.leaves && ddp->arrivals.known ? ddp : NULL;
}

static struct est_tensor make_bucket(struct est_tape *tape, uint64_t bytes)
{
	return bytes > 0 ? est_hold(est_persistent(tape, bytes, 1, EST_BUFFERS)) : est_none;
}

/* A bucket that is being filled, of each dtype. */
struct filling {
	uint64_t bytes[ELEMENTS];
	bool later[ELEMENTS]; /* there is one already */
};

static void fill(struct est_tape *tape, struct filling *filling, const struct est_leaf *leaf)
{
	unsigned kind = kind_of(leaf);

	filling->bytes[kind] += bytes_of(leaf);
	if (filling->bytes[kind] < (filling->later[kind] ? BUCKET : FIRST_BUCKET))
		return;
	make_bucket(tape, filling->bytes[kind]);
	filling->bytes[kind] = 0;
	filling->later[kind] = true;
}

static void make_rest(struct est_tape *tape, const struct filling *filling)
{
	for (unsigned kind = 0; kind < ELEMENTS; kind++)
		make_bucket(tape, filling->bytes[kind]);
}

static void drop_whole(struct est_tape *tape, const struct wrapped *model)
{
	for (unsigned kind = 0; kind < ELEMENTS; kind++)
		est_drop(tape, model->whole[kind]);
}

/* Before a pipeline's first step its stages run once, for the shapes: the reducer knows the order when that begins, which is about the
 * reverse one. */
static bool knows_order(const struct est_ddp *ddp)
{
	return ddp->request->parallelism.pipeline > 1;
}

static void rebuild_in_reverse(const struct est_ddp *ddp, const struct wrapped *model)
{
	struct filling filling = { 0 };

	drop_whole(ddp->tape, model);
	for (uint32_t i = model->end; i-- > model->first;)
		if (est_is_trained(&ddp->tape->leaves[i]))
			fill(ddp->tape, &filling, &ddp->tape->leaves[i]);
	make_rest(ddp->tape, &filling);
}

void est_ddp_wrap(struct est_ddp *ddp, uint32_t first, uint32_t end)
{
	struct wrapped *model = ddp ? est_arena_take(ddp->tape->arena, 1, sizeof(*model)) : NULL;
	uint64_t bytes[ELEMENTS] = { 0 };

	if (!model)
		return;
	*model = (struct wrapped){ .first = first, .end = end, .next = ddp->models };
	ddp->models = model;
	for (uint32_t i = first; i < end; i++)
		if (est_is_trained(&ddp->tape->leaves[i]))
			bytes[kind_of(&ddp->tape->leaves[i])] += bytes_of(&ddp->tape->leaves[i]);
	for (unsigned kind = 0; kind < ELEMENTS; kind++)
		model->whole[kind] = make_bucket(ddp->tape, bytes[kind]);
	if (knows_order(ddp))
		rebuild_in_reverse(ddp, model);
}

/* mark_variable_ready(): the reducer notes the order, and with gradient_as_bucket_view the gradient becomes a view of its bucket. */
static void mark_ready(struct est_tape *tape, struct est_leaf *leaf, const void *context)
{
	const struct est_ddp *ddp = context;
	uint32_t number = (uint32_t)(leaf - tape->leaves);

	if (!ddp->arrived->known[number])
		ddp->arrived->leaves[ddp->arrived->count++] = number;
	ddp->arrived->known[number] = true;
	if (!ddp->request->parallelism.gradient_as_bucket_view)
		return;
	est_drop(tape, leaf->grad);
	leaf->grad = est_none;
}

static bool reduces_last_only(const struct est_ddp *ddp)
{
	return ddp && !ddp->request->parallelism.sync_each_microbatch;
}

bool est_ddp_last_differs(const struct est_ddp *ddp)
{
	return reduces_last_only(ddp) && ddp->request->parallelism.gradient_as_bucket_view;
}

void est_ddp_micro_begin(const struct est_ddp *ddp, bool last)
{
	if (!ddp)
		return;
	ddp->tape->accumulated = last || !reduces_last_only(ddp) ? mark_ready : NULL;
	ddp->tape->accumulated_context = ddp;
}

/* What the forward does not run, a vision tower, would come last of all, from its last layer on. */
static void fill_idle(const struct est_ddp *ddp, const struct wrapped *model, struct filling *filling)
{
	for (uint32_t i = model->end; i-- > model->first;)
		if (ddp->tape->leaves[i].idle && est_is_trained(&ddp->tape->leaves[i]))
			fill(ddp->tape, filling, &ddp->tape->leaves[i]);
}

static void rebuild(const struct est_ddp *ddp, const struct wrapped *model)
{
	struct filling filling = { 0 };

	drop_whole(ddp->tape, model);
	for (uint32_t i = 0; i < ddp->arrivals.count; i++) {
		uint32_t number = ddp->arrivals.leaves[i];

		if (number >= model->first && number < model->end)
			fill(ddp->tape, &filling, &ddp->tape->leaves[number]);
	}
	fill_idle(ddp, model, &filling);
	make_rest(ddp->tape, &filling);
}

void est_ddp_rebuild(const struct est_ddp *ddp)
{
	if (!ddp || knows_order(ddp))
		return;
	est_mark(ddp->tape, EST_PHASE_FORWARD);
	for (const struct wrapped *model = ddp->models; model; model = model->next)
		rebuild(ddp, model);
}
