#include "estimator/zero.h"

#include "estimator/ops.h"

enum { ALIGNMENT = 2 }; /* elements of a part: NCCL wants 4 bytes */

/* Their states are the same whether a parameter has a shape or not. */
static bool steps_elements(enum est_optimizer optimizer)
{
	return optimizer == EST_ADAMW_TORCH_FUSED || optimizer == EST_ADAMW_TORCH || optimizer == EST_SGD
	       || optimizer == EST_SGD_MOMENTUM;
}

bool est_zero_wanted(const struct est_request *request)
{
	const struct est_parallelism *p = &request->parallelism;

	return request->accounting == EST_REPLAY && p->gpus > 1 && (p->strategy == EST_ZERO1 || p->strategy == EST_ZERO2)
	       && request->precision == EST_BF16_MASTER && (request->method == EST_FULL || request->method == EST_LORA)
	       && steps_elements(request->optimizer) && !request->fuse_optimizer_in_backward;
}

bool est_zero_offloads(const struct est_request *request)
{
	return est_zero_wanted(request) && request->parallelism.strategy == EST_ZERO2;
}

static bool is_trained(const struct est_leaf *leaf)
{
	return leaf->parameter && leaf->value.requires_grad;
}

static void drop_grad(struct est_tape *tape, struct est_leaf *leaf)
{
	est_drop(tape, leaf->grad);
	leaf->grad = est_none;
}

/* ---- the bucket */

static void make_buffers(struct est_zero *zero, struct est_tape *tape)
{
	for (unsigned i = 0; i < zero->buffers; i++)
		if (!zero->buffer[i].storage)
			zero->buffer[i] = est_hold(est_empty_as(tape, zero->bucket, EST_16BIT, EST_BUFFERS));
}

/* async_inplace_copy_grad_to_fp32_buffer_from_gpu(), after its norm in fp64 */
static void copy_to_host(struct est_tape *tape, uint64_t numel)
{
	est_drop(tape, est_empty_as(tape, numel, sizeof(double), EST_BUFFERS));
	est_drop(tape, est_empty_as(tape, numel, EST_32BIT, EST_BUFFERS));
}

static void empty_to_host(struct est_zero *zero, struct est_tape *tape)
{
	for (struct est_leaf *leaf = zero->first; leaf && zero->last; leaf = leaf->next)
		copy_to_host(tape, leaf->ours);
	zero->first = NULL;
	zero->end = &zero->first;
}

/* Otherwise it stays to the end of the backward. */
static bool lets_go(const struct est_zero *zero, const struct est_leaf *large)
{
	if (zero->offloads)
		return zero->last || large->ours == 0;
	return !zero->keeps || large->ours > 0;
}

/* reduce_ipg_grads(): what is of this rank goes into its partition, which the first such bucket makes. */
static void flush(struct est_zero *zero, struct est_tape *tape)
{
	if (zero->reaches && !zero->partition.storage && !zero->offloads)
		zero->partition = est_hold(est_empty_as(tape, zero->touched, EST_16BIT, EST_GRADIENTS));
	if (zero->offloads)
		empty_to_host(zero, tape);
	if (zero->large && lets_go(zero, zero->large))
		drop_grad(tape, zero->large);
	zero->filled = 0;
	zero->reaches = false;
	zero->large = NULL;
}

/* A gradient larger than the bucket waits in its own memory, where it is to go to the host in that of a clone. */
static void set_aside(struct est_zero *zero, struct est_tape *tape, struct est_leaf *leaf)
{
	struct est_tensor clone;

	zero->large = leaf;
	if (!zero->offloads)
		return;
	clone = est_hold(est_empty_as(tape, leaf->grad.numel, leaf->grad.element, EST_GRADIENTS));
	drop_grad(tape, leaf);
	leaf->grad = clone;
}

static void append(struct est_zero *zero, struct est_leaf *leaf)
{
	leaf->next = NULL;
	*zero->end = leaf;
	zero->end = &leaf->next;
}

/* A gradient is copied into the bucket and becomes a view of it, unless it is larger. */
static void reduce(struct est_zero *zero, struct est_tape *tape, struct est_leaf *leaf)
{
	uint64_t numel = leaf->value.numel;

	if (zero->filled + numel > zero->bucket)
		flush(zero, tape);
	if (numel > zero->bucket)
		set_aside(zero, tape, leaf);
	else
		drop_grad(tape, leaf);
	if (zero->offloads && leaf->ours > 0)
		append(zero, leaf);
	zero->filled += numel;
	zero->reaches = zero->reaches || leaf->ours > 0;
}

static void arrived(struct est_tape *tape, struct est_leaf *leaf, const void *context)
{
	struct est_zero *zero = (struct est_zero *)(uintptr_t)context;

	make_buffers(zero, tape);
	if (!zero->keeps)
		reduce(zero, tape, leaf);
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
		total += is_trained(&tape->leaves[i]) ? tape->leaves[i].value.numel : 0;
	zero->share = (total + ALIGNMENT * ranks - 1) / (ALIGNMENT * ranks) * ALIGNMENT;
	for (uint32_t i = 0; i < tape->leaf_count; i++) {
		struct est_leaf *leaf = &tape->leaves[i];

		if (!is_trained(leaf))
			continue;
		leaf->folded = offset > 0;
		leaf->ours = within(offset, leaf->value.numel, zero->share);
		zero->touched += leaf->ours ? leaf->value.numel : 0;
		leaf->shard = leaf->folded ? 0 : zero->share;
		leaf->shard_element = EST_16BIT;
		leaf->on_host = zero->offloads;
		offset += leaf->value.numel;
	}
}

/* On the card a buffer for the largest gradient, and on the host its twin; there too fp32 gradients beside the masters, weights in
 * 16 bits, and what micro-batches accumulate. */
static void rest_on_host(const struct est_zero *zero, struct est_tape *tape, bool accumulates)
{
	uint64_t largest = 0, accumulated = accumulates ? zero->touched : 0;

	for (uint32_t i = 0; i < tape->leaf_count; i++)
		if (is_trained(&tape->leaves[i]) && tape->leaves[i].value.numel > largest)
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
	zero->offloads = request->offload.optimizer != EST_ON_GPU;
	zero->end = &zero->first;
	divide(zero, tape, est_shard_ranks(p));
	if (zero->offloads)
		rest_on_host(zero, tape, request->gradient_accumulation_steps > 1);
	tape->accumulated = arrived;
	tape->accumulated_context = zero;
	return zero;
}

/* The most that a part touches: what cuts through its beginning and its end counts whole. */
static uint64_t most_touched(const struct est_zero *zero, const struct est_tape *tape)
{
	uint64_t most = 0, touched = 0, offset = 0, end = zero->share;

	for (uint32_t i = 0; i < tape->leaf_count; i++) {
		uint64_t numel = tape->leaves[i].value.numel;

		if (!is_trained(&tape->leaves[i]))
			continue;
		touched += numel;
		offset += numel;
		most = touched > most ? touched : most;
		if (offset < end)
			continue;
		touched = offset % zero->share ? numel : 0;
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
		if (is_trained(leaf) && leaf->value.numel > largest)
			largest = leaf->value.numel;
	}
	return (within(0, largest, zero->share) - own) * sizeof(double);
}

uint64_t est_zero_surplus(const struct est_zero *zero, const struct est_tape *tape, const struct est_request *request)
{
	uint64_t partitions = request->gradient_accumulation_steps > 1 ? 2 : 1;

	/* gradients larger than the bucket, which wait for the end of a micro-batch that is not the last */
	if (zero && zero->offloads)
		return norm_surplus(zero, tape) + (partitions > 1 ? most_touched(zero, tape) * EST_16BIT : 0);
	return zero ? (most_touched(zero, tape) - zero->touched) * EST_16BIT * partitions : 0;
}

/* ---- the end of the backward, and the step */

static void reduce_kept(struct est_zero *zero, struct est_tape *tape)
{
	for (uint32_t i = 0; i < tape->leaf_count; i++)
		if (is_trained(&tape->leaves[i]) && tape->leaves[i].grad.storage)
			reduce(zero, tape, &tape->leaves[i]);
}

/* A later micro-batch's partition is added to the first's. */
static void average(struct est_zero *zero, struct est_tape *tape)
{
	if (zero->averaged.storage)
		est_drop(tape, zero->partition);
	else
		zero->averaged = zero->partition;
	zero->partition = est_none;
}

void est_zero_micro_begin(struct est_zero *zero, bool last)
{
	if (zero)
		zero->last = last;
}

bool est_zero_last_differs(const struct est_zero *zero)
{
	return zero && (zero->keeps || zero->offloads);
}

void est_zero_backward_end(struct est_zero *zero, struct est_tape *tape)
{
	if (!zero || (zero->keeps && !zero->last))
		return;
	if (zero->keeps)
		reduce_kept(zero, tape);
	flush(zero, tape);
	average(zero, tape);
	for (unsigned i = 0; i < zero->buffers; i++) {
		est_drop(tape, zero->buffer[i]);
		zero->buffer[i] = est_none;
	}
	for (uint32_t i = 0; i < tape->leaf_count; i++)
		if (is_trained(&tape->leaves[i]))
			drop_grad(tape, &tape->leaves[i]);
}

/* get_grad_norm_direct(): of each gradient, cast to fp64 */
static void take_norms(struct est_tape *tape)
{
	for (uint32_t i = 0; i < tape->leaf_count; i++)
		if (tape->leaves[i].ours)
			est_drop(tape, est_empty_as(tape, tape->leaves[i].ours, sizeof(double), EST_BUFFERS));
}

void est_zero_flatten(struct est_zero *zero, struct est_tape *tape)
{
	if (!zero || zero->offloads)
		return;
	est_mark(tape, EST_PHASE_OPTIMIZER_STEP);
	take_norms(tape);
	zero->flat = est_hold(est_empty_as(tape, zero->share, EST_16BIT, EST_GRADIENTS));
}

void est_zero_flattened(struct est_zero *zero, struct est_tape *tape)
{
	if (!zero || zero->offloads)
		return;
	est_drop(tape, zero->flat);
	est_drop(tape, zero->averaged);
	zero->flat = zero->averaged = est_none;
}
