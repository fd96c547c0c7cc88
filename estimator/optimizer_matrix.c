/* Optimizers that treat matrices apart from vectors: Adafactor (transformers/optimization.py) and torch.optim.Muon
 * with fused AdamW for what is not a matrix of a layer. */
#include "estimator/dtensor.h"
#include "estimator/optimizer_row.h"

/* ---- Adafactor, with scale_parameter and relative_step off: second moments as a row and a column */

void est_states_adafactor(struct est_stepping *stepping, const struct est_trained *p)
{
	if (p->rows) {
		est_state(stepping, p->rows, EST_32BIT);
		est_state(stepping, p->columns, EST_32BIT);
	} else {
		est_state(stepping, p->numel, EST_32BIT);
	}
	est_state(stepping, 1, EST_32BIT); /* RMS */
}

enum adafactor { GRAD, P_DATA_FP32, UPDATE };

static void drop_scratch(struct est_stepping *stepping, uint64_t numel)
{
	est_drop(stepping->tape, est_scratch(stepping, numel, EST_32BIT));
}

/* _approx_sq_grad: the outer product of a row and a column of factors */
static struct est_tensor approximate(struct est_stepping *stepping, const struct est_trained *p)
{
	struct est_tensor r_factor, c_factor, product;

	drop_scratch(stepping, p->rows);    /* update.mean(dim=-1) */
	drop_scratch(stepping, p->columns); /* update.mean(dim=-2) */
	r_factor = est_scratch(stepping, p->rows, EST_32BIT);
	c_factor = est_scratch(stepping, p->columns, EST_32BIT);
	product = est_scratch(stepping, p->numel, EST_32BIT);
	est_drop(stepping->tape, r_factor);
	est_drop(stepping->tape, c_factor);
	return product;
}

void est_update_adafactor(struct est_stepping *stepping, const struct est_trained *p)
{
	bool upcasts = p->element != EST_32BIT;
	struct est_tensor squared, update;

	est_bind(stepping, GRAD, est_none); /* grad = p.grad; grad = grad.float() */
	if (upcasts)
		est_bind(stepping, GRAD, est_scratch(stepping, p->numel, EST_32BIT));
	est_bind(stepping, P_DATA_FP32, est_none);
	if (upcasts)
		est_bind(stepping, P_DATA_FP32, est_scratch(stepping, p->numel, EST_32BIT));
	squared = est_scratch(stepping, p->numel, EST_32BIT); /* update = (grad**2) + eps */
	update = est_scratch(stepping, p->numel, EST_32BIT);
	est_drop(stepping->tape, squared);
	est_bind(stepping, UPDATE, update);
	est_bind(stepping, UPDATE, p->rows ? approximate(stepping, p) : est_scratch(stepping, p->numel, EST_32BIT));
	drop_scratch(stepping, p->numel); /* -update */
}

/* ---- Muon */

bool est_muon_is_last(const struct est_trained *p)
{
	return !p->rows || !p->inner;
}

void est_states_muon(struct est_stepping *stepping, const struct est_trained *p)
{
	if (est_muon_is_last(p)) {
		est_states_fused(stepping, p);
		return;
	}
	est_state(stepping, p->numel, p->element);
}

enum { NEWTON_SCHULZ_STEPS = 5 };

/* grad.bfloat16() */
static struct est_tensor in_bf16(struct est_stepping *stepping, const struct est_trained *p, struct est_tensor original)
{
	bool is_bf16 = p->element != EST_32BIT && stepping->request->precision != EST_PURE_FP16;

	return is_bf16 ? est_hold(est_alias(stepping->tape, original)) : est_scratch(stepping, p->numel, EST_16BIT);
}

/* _zeropower_via_newtonschulz: always in bf16; gram matrices of the shorter side. original is the caller's, kept to the
 * end. */
static struct est_tensor orthogonalize(struct est_stepping *stepping, const struct est_trained *p,
				       struct est_tensor original)
{
	uint64_t side = p->rows < p->columns ? p->rows : p->columns;
	struct est_tape *tape = stepping->tape;
	struct est_tensor gram = est_none, update = est_none, next;
	struct est_tensor ortho = in_bf16(stepping, p, original);

	for (unsigned i = 0; i < NEWTON_SCHULZ_STEPS; i++) {
		next = est_scratch(stepping, side * side, EST_16BIT);
		est_drop(tape, gram);
		gram = next;
		next = est_scratch(stepping, side * side, EST_16BIT);
		est_drop(tape, update);
		update = next;
		next = est_scratch(stepping, p->numel, EST_16BIT);
		est_drop(tape, ortho);
		ortho = next;
	}
	est_drop(tape, gram);
	est_drop(tape, update);
	est_drop(tape, original);
	return ortho;
}

static void assign(struct est_tape *tape, struct est_dtensor *variable, struct est_dtensor value)
{
	est_drop(tape, variable->local);
	*variable = value;
}

/* The same of a DTensor, of which each rank has some rows: what is summed up or gathered on the way, DTensor decides for each product. */
static struct est_tensor orthogonalize_parts(struct est_stepping *stepping, const struct est_trained *p, struct est_tensor original)
{
	struct est_dtensor ortho = { .rows = p->height, .columns = p->columns, .placement = EST_CUT_ROWS }, gram = { 0 }, update = { 0 };
	bool is_tall = ortho.rows > ortho.columns;
	struct est_tape *tape = stepping->tape;

	ortho.local = in_bf16(stepping, p, original);
	if (is_tall)
		ortho = est_dtensor_transpose(ortho);
	for (unsigned i = 0; i < NEWTON_SCHULZ_STEPS; i++) {
		assign(tape, &gram, est_dtensor_mm(stepping, ortho, est_dtensor_transpose(ortho)));
		assign(tape, &update, est_dtensor_addmm(stepping, gram, gram, gram));
		assign(tape, &ortho, est_dtensor_addmm(stepping, ortho, update, ortho));
	}
	if (is_tall)
		ortho = est_dtensor_transpose(ortho);
	est_drop(tape, gram.local);
	est_drop(tape, update.local);
	est_drop(tape, original);
	est_drop(tape, est_dtensor_place(stepping, ortho, EST_CUT_ROWS).local); /* param.add_(update) */
	return ortho.local;
}

void est_update_muon(struct est_stepping *stepping, const struct est_trained *p)
{
	struct est_tensor update;

	if (est_muon_is_last(p))
		return;
	update = est_scratch(stepping, p->numel, p->element); /* grad.lerp(buf, momentum) */
	est_bind(stepping, 0, est_none);
	est_bind(stepping, 0, p->height > p->rows ? orthogonalize_parts(stepping, p, update) : orthogonalize(stepping, p, update));
}
