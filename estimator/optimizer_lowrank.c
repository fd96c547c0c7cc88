/* AdamW in a low-rank space: GaLore (galore_torch) and APOLLO (apollo_torch), with the Trainer's
 * optim_target_modules attn and mlp: the linear layers within decoder layers are projected, in a second group after
 * all the others. */
#include "estimator/optimizer_row.h"

enum variable { GRAD, DENOM, NORM_GRAD, FACTOR, SCALED_GRAD };

static uint64_t longer(const struct est_trained *p)
{
	return p->rows > p->columns ? p->rows : p->columns;
}

static uint64_t shorter(const struct est_trained *p)
{
	return p->rows < p->columns ? p->rows : p->columns;
}

bool est_lowrank_is_last(const struct est_trained *p)
{
	return p->linear;
}

/* proj_type "std": the shorter side is projected to the rank */
static void moments(struct est_stepping *stepping, const struct est_trained *p, uint64_t rank)
{
	est_state(stepping, rank * longer(p), p->element);
	est_state(stepping, rank * longer(p), p->element);
}

/* denom = exp_avg_sq.sqrt(), norm_grad = exp_avg / denom */
static void adam(struct est_stepping *stepping, uint64_t numel, uint8_t element)
{
	est_bind(stepping, DENOM, est_scratch(stepping, numel, element));
	est_bind(stepping, NORM_GRAD, est_scratch(stepping, numel, element));
}

static void project(struct est_stepping *stepping, const struct est_trained *p, uint64_t rank)
{
	est_bind(stepping, GRAD, est_none);
	est_bind(stepping, GRAD, est_scratch(stepping, rank * longer(p), p->element));
}

/* ---- GaLore */

/* singular vectors: there are no more than the shorter side */
static uint64_t galore_rank(const struct est_stepping *stepping, const struct est_trained *p)
{
	uint64_t rank = (uint64_t)stepping->request->optimizer_rank;

	return rank < shorter(p) ? rank : shorter(p);
}

void est_states_galore(struct est_stepping *stepping, const struct est_trained *p)
{
	uint64_t kept = p->element == EST_32BIT ? shorter(p) : galore_rank(stepping, p);

	if (!p->linear) {
		est_states_like(stepping, p);
		return;
	}
	/* ortho_matrix: cast to 16 bit; in fp32 it is a view of all singular vectors */
	est_state(stepping, kept * shorter(p), p->element);
	moments(stepping, p, galore_rank(stepping, p));
}

void est_update_galore(struct est_stepping *stepping, const struct est_trained *p)
{
	uint64_t rank = galore_rank(stepping, p);
	struct est_tensor back, scaled;

	if (!p->linear) {
		adam(stepping, p->numel, p->element);
		return;
	}
	project(stepping, p, rank);
	adam(stepping, rank * longer(p), p->element);
	back = est_scratch(stepping, p->numel, p->element); /* project_back(), times scale */
	scaled = est_scratch(stepping, p->numel, p->element);
	est_drop(stepping->tape, back);
	est_bind(stepping, NORM_GRAD, scaled);
}

/* ---- APOLLO */

static bool is_mini(const struct est_stepping *stepping)
{
	return stepping->request->optimizer == EST_APOLLO_ADAMW_MINI;
}

static uint64_t apollo_rank(const struct est_stepping *stepping)
{
	return is_mini(stepping) ? 1 : (uint64_t)stepping->request->optimizer_rank;
}

void est_states_apollo(struct est_stepping *stepping, const struct est_trained *p)
{
	uint64_t rank = apollo_rank(stepping);

	if (!p->linear) {
		est_states_like(stepping, p);
		return;
	}
	est_state(stepping, rank * shorter(p), p->element);
	moments(stepping, p, rank);
	est_state(stepping, 1, p->element); /* scaled_grad's norm */
}

/* norm(norm_grad) / (norm(grad) + 1e-8), of a channel each or of the whole */
static struct est_tensor scaling_factor(struct est_stepping *stepping, const struct est_trained *p)
{
	uint64_t channels = is_mini(stepping) ? 1 : longer(p);
	struct est_tensor norm = est_scratch(stepping, channels, p->element), grad_norm, sum, factor;

	grad_norm = est_scratch(stepping, channels, p->element);
	sum = est_scratch(stepping, channels, p->element);
	est_drop(stepping->tape, grad_norm);
	factor = est_scratch(stepping, channels, p->element);
	est_drop(stepping->tape, norm);
	est_drop(stepping->tape, sum);
	return factor;
}

void est_update_apollo(struct est_stepping *stepping, const struct est_trained *p)
{
	uint64_t rank = apollo_rank(stepping);
	struct est_tensor norm_grad, scaled, limited;

	if (!p->linear) {
		adam(stepping, p->numel, p->element);
		return;
	}
	project(stepping, p, rank);
	est_bind(stepping, DENOM, est_scratch(stepping, rank * longer(p), p->element));
	norm_grad = est_scratch(stepping, rank * longer(p), p->element);
	est_bind(stepping, NORM_GRAD, est_none);
	est_bind(stepping, FACTOR, scaling_factor(stepping, p));
	scaled = est_scratch(stepping, p->numel, p->element);
	est_bind(stepping, SCALED_GRAD, est_none);
	limited = est_scratch(stepping, p->numel, p->element); /* scaled_grad / limiter */
	est_drop(stepping->tape, scaled);
	est_bind(stepping, SCALED_GRAD, limited);
	est_drop(stepping->tape, norm_grad);
}
