#include "estimator/zero.h"

#include "estimator/ops.h"
#include "estimator/optimizer.h"

enum { ALIGNMENT = 2 /* elements of a part: NCCL wants 4 bytes */, REDUCTIONS = 1 /* a stream */ };

/* Also over weights in 4 bits, which the engine's cast to the 16 bits of the rest passes by. */
static bool trains_halves(const struct est_request *request)
{
	bool quantised = request->method == EST_QLORA && request->quantization.bits == 4
			 && request->quantization.type != EST_HQQ && request->quantization.type != EST_MXFP4;

	return est_has_master(request) && (request->method != EST_QLORA || quantised);
}

/* ZeRO-1 with fp32 gradients is another optimizer of DeepSpeed's, bf16_optimizer.py: not modelled. */
bool est_zero_wanted(const struct est_request *request)
{
	const struct est_parallelism *p = &request->parallelism;
	bool stage = p->strategy == EST_ZERO2 || (p->strategy == EST_ZERO1 && p->grad_accum_dtype != EST_FP32);

	return request->accounting == EST_REPLAY && stage && trains_halves(request)
	       && est_optimizer_steps_parts(request);
}

/* ---- parts of the flat parameter */

static uint64_t within(uint64_t offset, uint64_t numel, uint64_t end)
{
	uint64_t left = offset < end ? end - offset : 0;

	return numel < left ? numel : left;
}

static void divide(struct est_zero *zero, struct est_tape *tape, uint64_t ranks)
{
	uint64_t total = 0, offset = 0;

	for (uint32_t i = 0; i < tape->leaf_count; i++)
		total += est_is_trained(&tape->leaves[i]) ? tape->leaves[i].value.numel : 0;
	zero->share = (total + ALIGNMENT * ranks - 1) / (ALIGNMENT * ranks) * ALIGNMENT;
	for (uint32_t i = 0; i < tape->leaf_count; i++) {
		struct est_leaf *leaf = &tape->leaves[i];

		if (!est_is_trained(leaf))
			continue;
		leaf->folded = offset > 0;
		leaf->idle = false; /* the rank's part is stepped as a whole */
		leaf->offset = offset;
		leaf->ours = within(offset, leaf->value.numel, zero->share);
		zero->touched += leaf->ours ? leaf->value.numel : 0;
		zero->reaching += leaf->ours > 0;
		leaf->shard = leaf->folded ? 0 : zero->share;
		leaf->shard_element = EST_16BIT;
		leaf->flat = true;
		leaf->on_host = zero->offloads;
		offset += leaf->value.numel;
	}
}

/* The engine moves what it trains to the host, gives the cache back, and makes all of it views of one buffer. */
static void flatten(const struct est_zero *zero, struct est_tape *tape, uint64_t ranks)
{
	struct est_tensor flat;

	for (uint32_t i = 0; i < tape->leaf_count; i++)
		if (est_is_trained(&tape->leaves[i]))
			est_storage_release(tape, tape->leaves[i].value.storage);
	flat = est_persistent(tape, zero->share * ranks, EST_16BIT, EST_WEIGHTS);
	for (uint32_t i = 0; i < tape->leaf_count; i++) {
		if (!est_is_trained(&tape->leaves[i]))
			continue;
		tape->leaves[i].value.storage = flat.storage;
		est_storage_retain(tape, flat.storage);
	}
	est_tape_empty_cache(tape);
}

/* On the card a buffer for the largest gradient, and on the host its twin; there too fp32 gradients beside the
 * masters, weights in 16 bits, and what micro-batches accumulate. */
static void rest_on_host(const struct est_zero *zero, struct est_tape *tape, bool accumulates)
{
	uint64_t largest = 0, accumulated = accumulates && !zero->accumulates32 ? zero->touched : 0;

	for (uint32_t i = 0; i < tape->leaf_count; i++)
		if (est_is_trained(&tape->leaves[i]) && tape->leaves[i].value.numel > largest)
			largest = tape->leaves[i].value.numel;
	est_persistent(tape, largest, EST_16BIT, EST_BUFFERS);
	tape->host_states += zero->share * (EST_32BIT + EST_16BIT) + (largest + accumulated) * EST_16BIT;
}

/* "auto": as Transformers fills it in */
static uint64_t bucket_of(const struct est_model *model, int64_t named)
{
	return (uint64_t)(named == EST_AUTO ? model->hidden_size * model->hidden_size : named);
}

struct est_zero *est_zero_wrap(struct est_tape *tape, const struct est_model *model, const struct est_request *request)
{
	const struct est_parallelism *p = &request->parallelism;
	struct est_zero *zero = est_zero_wanted(request) ? est_arena_take(tape->arena, 1, sizeof(*zero)) : NULL;

	if (!zero)
		return NULL;
	zero->keeps = p->strategy == EST_ZERO1;
	zero->buffers = p->overlap_comm ? 2 : 1;
	zero->bucket = bucket_of(model, p->buckets.reduce_bucket_size);
	zero->accumulates32 = p->grad_accum_dtype == EST_FP32;
	zero->reduced = p->communication_data_type == EST_FP32 ? EST_32BIT : EST_16BIT;
	zero->stream = p->overlap_comm ? REDUCTIONS : 0;
	zero->offloads = request->offload.optimizer != EST_ON_GPU;
	zero->end = &zero->first;
	divide(zero, tape, est_shard_ranks(p));
	flatten(zero, tape, est_shard_ranks(p));
	if (zero->offloads)
		rest_on_host(zero, tape, request->gradient_accumulation_steps > 1);
	tape->accumulated = est_zero_arrived;
	tape->accumulated_context = zero;
	return zero;
}

/* Elements of gradients that a rank holds at the end of a backward: the partition, where a gradient reaches into it, and
 * zeros for what has none. */
struct touched {
	uint64_t all, unreached;
};

static void touch(struct touched *touched, const struct est_leaf *leaf)
{
	touched->all += leaf->value.numel;
	touched->unreached += leaf->reached ? 0 : leaf->value.numel;
}

static uint64_t held(struct touched touched)
{
	return (touched.all > touched.unreached ? touched.all : 0) + touched.unreached;
}

/* What rank 0 holds so. */
static uint64_t own_touched(const struct est_tape *tape)
{
	struct touched touched = { 0 };

	for (uint32_t i = 0; i < tape->leaf_count; i++)
		if (tape->leaves[i].ours)
			touch(&touched, &tape->leaves[i]);
	return held(touched);
}

/* The most that a part touches: what cuts through its beginning and its end counts whole. */
static uint64_t most_touched(const struct est_zero *zero, const struct est_tape *tape)
{
	uint64_t most = 0, offset = 0, end = zero->share;
	struct touched touched = { 0 };

	for (uint32_t i = 0; i < tape->leaf_count; i++) {
		uint64_t numel = tape->leaves[i].value.numel;

		if (!est_is_trained(&tape->leaves[i]))
			continue;
		touch(&touched, &tape->leaves[i]);
		offset += numel;
		most = held(touched) > most ? held(touched) : most;
		if (offset < end)
			continue;
		touched = (struct touched){ 0 };
		if (offset % zero->share)
			touch(&touched, &tape->leaves[i]);
		end = (offset / zero->share + 1) * zero->share;
	}
	return most;
}

/* What another rank's norm may take beyond this rank's, of a larger part of one parameter. */
static uint64_t norm_surplus(const struct est_zero *zero, const struct est_tape *tape)
{
	uint64_t own = 0, largest = 0;

	for (uint32_t i = 0; i < tape->leaf_count; i++) {
		const struct est_leaf *leaf = &tape->leaves[i];

		own = leaf->ours > own ? leaf->ours : own;
		if (est_is_trained(leaf) && leaf->value.numel > largest)
			largest = leaf->value.numel;
	}
	return (within(0, largest, zero->share) - own) * sizeof(double);
}

/* Another rank's partition in fp32, which is there as soon as gradients come, where none reaches rank 0's. */
static uint64_t late_partition(const struct est_zero *zero)
{
	return zero->reached || zero->offloads ? 0 : zero->share * EST_32BIT;
}

uint64_t est_zero_surplus(const struct est_zero *zero, const struct est_tape *tape, const struct est_request *request)
{
	uint64_t partitions = request->gradient_accumulation_steps > 1 ? 2 : 1;

	/* gradients larger than the bucket, which wait for the end of a micro-batch that is not the last */
	if (zero && zero->accumulates32)
		return norm_surplus(zero, tape) + late_partition(zero);
	if (zero && zero->offloads)
		return norm_surplus(zero, tape) + (partitions > 1 ? most_touched(zero, tape) * EST_16BIT : 0);
	return zero ? (most_touched(zero, tape) - own_touched(tape)) * EST_16BIT * partitions : 0;
}

/* ---- the step */

/* get_grad_norm_direct(): of each gradient, cast to fp64 */
static void take_norms(struct est_tape *tape)
{
	for (uint32_t i = 0; i < tape->leaf_count; i++)
		if (tape->leaves[i].ours)
			est_drop(tape, est_empty_as(tape, tape->leaves[i].ours, sizeof(double), EST_BUFFERS));
}

bool est_zero_has_grads32(const struct est_zero *zero)
{
	return zero && zero->accumulates32 && !zero->offloads;
}

void est_zero_flatten(struct est_zero *zero, struct est_tape *tape)
{
	if (!zero || zero->offloads)
		return;
	est_mark(tape, EST_PHASE_OPTIMIZER_STEP);
	take_norms(tape);
	if (!zero->accumulates32 && zero->reaching > 1)
		zero->flat = est_hold(est_empty_as(tape, zero->share, EST_16BIT, EST_GRADIENTS));
}

void est_zero_flattened(struct est_zero *zero, struct est_tape *tape)
{
	if (!zero || zero->offloads)
		return;
	est_drop(tape, zero->flat);
	est_drop(tape, zero->averaged);
	for (uint32_t i = 0; i < tape->leaf_count; i++) {
		est_drop(tape, tape->leaves[i].accumulated);
		tape->leaves[i].accumulated = est_none;
	}
	zero->flat = zero->averaged = est_none;
}

void est_zero_stepped(struct est_zero *zero, struct est_tape *tape)
{
	if (!zero)
		return;
	est_drop(tape, zero->partition);
	zero->partition = est_none;
}
