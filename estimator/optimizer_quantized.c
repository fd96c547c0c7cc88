/* Optimizers with quantised states: bitsandbytes (optim/optimizer.py) and torchao (optim/adam.py, subclass_*.py).
 * Their kernels update in place: no temporaries. */
#include "estimator/optimizer_row.h"

enum { SMALLEST_QUANTIZED = 4096, SMALLEST_PAGED = 100000 };
enum { CODES_8BIT = 256, CODES_4BIT = 16 };

static uint64_t blocks_of(uint64_t numel, uint64_t block)
{
	return (numel + block - 1) / block;
}

/* ---- bitsandbytes */

/* name2qmap: an fp32 table for signed values, another for the unsigned ones of the second moment */
static void code_tables(struct est_stepping *stepping)
{
	for (unsigned i = 0; i < stepping->row->moments && !stepping->has_tables; i++)
		est_state(stepping, CODES_8BIT, EST_32BIT);
	stepping->has_tables = !stepping->request->fuse_optimizer_in_backward; /* else each parameter's optimizer has
									        * its own */
}

/* get_state_buffer(): managed memory when the optimizer is paged and the parameter large */
static void state_buffer(struct est_stepping *stepping, uint64_t numel, uint8_t element)
{
	struct est_tape *tape = stepping->tape;

	if (stepping->row->paged && numel >= SMALLEST_PAGED)
		tape->managed += numel * element / tape->shards[EST_OPTIMIZER];
	else
		est_state(stepping, numel, element);
}

void est_states_bnb_32bit(struct est_stepping *stepping, const struct est_trained *p)
{
	for (unsigned i = 0; i < stepping->row->moments; i++)
		state_buffer(stepping, p->numel, EST_32BIT);
}

void est_states_bnb_8bit(struct est_stepping *stepping, const struct est_trained *p)
{
	if (p->numel < SMALLEST_QUANTIZED) {
		est_states_bnb_32bit(stepping, p);
		return;
	}
	code_tables(stepping);
	for (unsigned i = 0; i < stepping->row->moments; i++)
		state_buffer(stepping, p->numel, EST_BYTE);
	for (unsigned i = 0; i < stepping->row->moments; i++)
		est_state(stepping, blocks_of(p->numel, stepping->row->block), EST_32BIT);
}

/* ---- torchao: what it does not quantise keeps the parameter's dtype */

static bool quantizes(const struct est_stepping *stepping, const struct est_trained *p)
{
	return p->numel >= SMALLEST_QUANTIZED && p->numel % stepping->row->block == 0;
}

static void torchao_states(struct est_stepping *stepping, const struct est_trained *p, uint64_t bytes, uint64_t codes)
{
	for (unsigned i = 0; i < stepping->row->moments; i++) {
		if (!quantizes(stepping, p)) {
			est_state(stepping, p->numel, p->element);
			continue;
		}
		est_state(stepping, bytes, EST_BYTE);
		est_state(stepping, p->numel / stepping->row->block, EST_32BIT);
		est_state(stepping, codes, EST_32BIT);
	}
}

void est_states_torchao_8bit(struct est_stepping *stepping, const struct est_trained *p)
{
	torchao_states(stepping, p, p->numel, CODES_8BIT);
}

void est_states_torchao_4bit(struct est_stepping *stepping, const struct est_trained *p)
{
	torchao_states(stepping, p, p->numel / 2, CODES_4BIT);
}

void est_states_torchao_fp8(struct est_stepping *stepping, const struct est_trained *p)
{
	torchao_states(stepping, p, p->numel, 0);
}
