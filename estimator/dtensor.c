#include "estimator/dtensor.h"

#include <math.h>

/* ---- what a redistribution costs: microseconds, by the estimates of MeshTopoInfo */

struct mesh {
	double ranks, bandwidth, latency; /* GB/s; of a hop */
};

static struct mesh mesh_of(const struct est_request *request)
{
	const struct est_parallelism *p = &request->parallelism;
	uint64_t ranks = est_shard_ranks(p);
	bool between_hosts = ranks > (uint64_t)p->gpus_per_node;

	return (struct mesh){ (double)ranks, 87.7 * (between_hosts ? 0.22 : 1), between_hosts ? 2.7 : 0.6 };
}

static double moving(const struct mesh *mesh, double bytes, double hops)
{
	return 6.6 + hops * mesh->latency + bytes / (1 << 30) * hops / mesh->ranks / mesh->bandwidth * 1e6;
}

/* redistribute_cost() */
static double cost_of(const struct mesh *mesh, const struct est_dtensor *x, enum est_placement target)
{
	double bytes = (double)(x->rows * x->columns) * EST_16BIT, hops = mesh->ranks - 1;

	if (x->placement == target || x->placement == EST_REPLICATED)
		return x->placement == target || target != EST_PARTIAL ? 0 : INFINITY;
	if (target == EST_PARTIAL)
		return INFINITY;
	if (x->placement == EST_PARTIAL)
		return moving(mesh, bytes, target == EST_REPLICATED ? 2 * hops : hops);
	return target == EST_REPLICATED ? moving(mesh, bytes, hops) : moving(mesh, bytes / mesh->ranks, hops) + 1;
}

/* ---- redistributing */

static struct est_tensor make(struct est_stepping *stepping, const struct est_dtensor *x, bool whole)
{
	uint64_t ranks = est_shard_ranks(&stepping->request->parallelism), numel = x->rows * x->columns;

	return est_scratch(stepping, whole ? numel : (numel + ranks - 1) / ranks, EST_16BIT);
}

/* What is sent has to be contiguous. */
static struct est_tensor contiguous(struct est_stepping *stepping, const struct est_dtensor *x)
{
	return x->transposed ? make(stepping, x, false) : est_none;
}

/* shard_dim_alltoall(): what is sent or what came, of columns, is put in the order of rows */
static struct est_tensor exchange(struct est_stepping *stepping, const struct est_dtensor *x)
{
	struct est_tensor sent = contiguous(stepping, x), first = make(stepping, x, false), second = make(stepping, x, false);

	est_drop(stepping->tape, first);
	est_drop(stepping->tape, sent);
	return second;
}

/* all_gather_single(): by rows, put together anew where columns were cut */
static struct est_tensor gather(struct est_stepping *stepping, const struct est_dtensor *x)
{
	struct est_tensor sent = contiguous(stepping, x), came = make(stepping, x, true), columns = est_none;

	if (x->placement == EST_CUT_COLUMNS) {
		columns = make(stepping, x, true);
		est_drop(stepping->tape, came);
	}
	est_drop(stepping->tape, sent);
	return x->placement == EST_CUT_COLUMNS ? columns : came;
}

struct est_dtensor est_dtensor_place(struct est_stepping *stepping, struct est_dtensor x, enum est_placement placement)
{
	struct est_dtensor placed = x;

	placed.placement = placement;
	if (x.placement == placement) {
		placed.local = est_hold(est_alias(stepping->tape, x.local));
		return placed;
	}
	placed.transposed = false;
	if (x.placement == EST_PARTIAL)
		placed.local = make(stepping, &x, placement == EST_REPLICATED);
	else if (x.placement == EST_REPLICATED)
		placed.local = make(stepping, &x, false);
	else
		placed.local = placement == EST_REPLICATED ? gather(stepping, &x) : exchange(stepping, &x);
	return placed;
}

/* ---- products */

/* gen_single_dim_einsum_strategies("mk,kn->mn"), in its order: of several that cost the same the first is taken. A bias is placed as the
 * result. */
static const struct strategy {
	enum est_placement out, a, b;
} strategies[] = {
	{ EST_REPLICATED, EST_REPLICATED, EST_REPLICATED },
	{ EST_PARTIAL, EST_CUT_COLUMNS, EST_CUT_ROWS },
	{ EST_CUT_ROWS, EST_CUT_ROWS, EST_REPLICATED },
	{ EST_CUT_COLUMNS, EST_REPLICATED, EST_CUT_COLUMNS },
	{ EST_PARTIAL, EST_PARTIAL, EST_REPLICATED },
	{ EST_PARTIAL, EST_REPLICATED, EST_PARTIAL },
};
enum { STRATEGIES = sizeof(strategies) / sizeof(strategies[0]) };

static const struct strategy *cheapest(const struct mesh *mesh, const struct est_dtensor *bias, const struct est_dtensor *a,
				       const struct est_dtensor *b)
{
	const struct strategy *best = NULL;
	double least = INFINITY;

	for (unsigned i = 0; i < STRATEGIES; i++) {
		double cost = cost_of(mesh, a, strategies[i].a) + cost_of(mesh, b, strategies[i].b)
			      + (bias ? cost_of(mesh, bias, strategies[i].out) : 0);

		if (!best || cost < least) {
			best = &strategies[i];
			least = cost;
		}
	}
	return best;
}

static struct est_dtensor multiply(struct est_stepping *stepping, const struct est_dtensor *bias, const struct est_dtensor *a,
				   const struct est_dtensor *b)
{
	struct mesh mesh = mesh_of(stepping->request);
	const struct strategy *strategy = cheapest(&mesh, bias, a, b);
	struct est_dtensor out = { .rows = a->rows, .columns = b->columns, .placement = strategy->out }, placed[3] = { 0 };

	if (bias)
		placed[0] = est_dtensor_place(stepping, *bias, strategy->out);
	placed[1] = est_dtensor_place(stepping, *a, strategy->a);
	placed[2] = est_dtensor_place(stepping, *b, strategy->b);
	out.local = make(stepping, &out, strategy->out == EST_PARTIAL || strategy->out == EST_REPLICATED);
	for (unsigned i = 3; i-- > 0;)
		est_drop(stepping->tape, placed[i].local);
	return out;
}

struct est_dtensor est_dtensor_transpose(struct est_dtensor x)
{
	static const enum est_placement across[] = {
		[EST_REPLICATED] = EST_REPLICATED, [EST_CUT_ROWS] = EST_CUT_COLUMNS, [EST_CUT_COLUMNS] = EST_CUT_ROWS,
		[EST_PARTIAL] = EST_PARTIAL,
	};

	return (struct est_dtensor){ .rows = x.columns, .columns = x.rows, .placement = across[x.placement],
				     .transposed = !x.transposed, .local = x.local };
}

struct est_dtensor est_dtensor_mm(struct est_stepping *stepping, struct est_dtensor a, struct est_dtensor b)
{
	return multiply(stepping, NULL, &a, &b);
}

struct est_dtensor est_dtensor_addmm(struct est_stepping *stepping, struct est_dtensor bias, struct est_dtensor a, struct est_dtensor b)
{
	return multiply(stepping, &bias, &a, &b);
}
