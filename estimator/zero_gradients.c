/* ZeRO-1's and ZeRO-2's gradients: the bucket, what the ranks exchange of it, and the rank's partition. */
#include "estimator/ops.h"
#include "estimator/zero.h"

static void drop_grad(struct est_tape *tape, struct est_leaf *leaf)
{
	est_drop(tape, leaf->grad);
	leaf->grad = est_none;
}

/* ---- what ranks exchange */

/* Slices that are reduced at once: each is of one rank, and neighbours of one rank are one. */
struct slices {
	unsigned count;
	uint64_t numel;
	const struct est_leaf *first; /* the first leaf whose slice of this rank has not been added to the partition */
};

/* allreduce_bucket(): several slices are copied into one tensor, and cast; then this rank's are added to a partition
 * in fp32. */
static void all_reduce(struct est_zero *zero, struct est_tape *tape, struct slices *slices, const struct est_leaf *end)
{
	struct est_tensor reduced = est_none, cast;

	if (slices->count > 1)
		reduced = est_empty_on(tape, zero->stream, slices->numel, EST_16BIT, EST_BUFFERS);
	if (zero->reduced != EST_16BIT) {
		cast = est_empty_on(tape, zero->stream, slices->numel, zero->reduced, EST_BUFFERS);
		est_drop(tape, reduced);
		reduced = cast;
	}
	for (; slices->first != end; slices->first = slices->first->next)
		if (zero->accumulates32 && zero->reduced != EST_32BIT && slices->first->ours)
			est_drop(tape, est_empty_on(tape, zero->stream, slices->first->ours, EST_32BIT, EST_BUFFERS));
	est_drop(tape, reduced);
	slices->count = 0;
	slices->numel = 0;
}

/* average_tensor(): the bucket's gradients, cut where the parts of the ranks begin. */
static void average_bucket(struct est_zero *zero, struct est_tape *tape)
{
	struct slices slices = { .first = zero->first };
	uint64_t before = UINT64_MAX;

	for (const struct est_leaf *leaf = zero->first; leaf; leaf = leaf->next) {
		uint64_t begin = leaf->offset, end = leaf->offset + leaf->value.numel;

		while (begin < end) {
			uint64_t rank = begin / zero->share, border = (rank + 1) * zero->share;
			uint64_t stop = border < end ? border : end;

			slices.count += rank != before || (rank == 0 && zero->accumulates32);
			slices.numel += stop - begin;
			if (slices.numel > zero->bucket)
				all_reduce(zero, tape, &slices, leaf->next);
			before = rank;
			begin = stop;
		}
	}
	if (slices.count > 0)
		all_reduce(zero, tape, &slices, NULL);
}

/* ---- the bucket */

static void make_buffers(struct est_zero *zero, struct est_tape *tape)
{
	for (unsigned i = 0; i < zero->buffers; i++)
		if (!zero->buffer[i].storage)
			zero->buffer[i] = est_buffer(tape, zero->bucket, EST_16BIT);
}

/* async_inplace_copy_grad_to_fp32_buffer_from_gpu(), after its norm in fp64; in fp32 it goes as it is */
static void copy_to_host(struct est_zero *zero, struct est_tape *tape, uint64_t numel)
{
	est_drop(tape, est_empty_on(tape, zero->stream, numel, sizeof(double), EST_BUFFERS));
	if (!zero->accumulates32)
		est_drop(tape, est_empty_on(tape, zero->stream, numel, EST_32BIT, EST_BUFFERS));
}

static void empty_to_host(struct est_zero *zero, struct est_tape *tape)
{
	for (struct est_leaf *leaf = zero->first; leaf && zero->last; leaf = leaf->next)
		if (leaf->ours)
			copy_to_host(zero, tape, leaf->ours);
}

/* Otherwise it stays to the end of the backward. */
static bool lets_go(const struct est_zero *zero, const struct est_leaf *large)
{
	if (zero->keeps)
		return large->ours > 0;
	return !zero->offloads || zero->accumulates32 || zero->last || large->ours == 0;
}

/* All parameters that reach into the rank's part, whole, or that part in fp32. */
static void make_partition(struct est_zero *zero, struct est_tape *tape)
{
	uint64_t numel = zero->accumulates32 ? zero->share : zero->touched;
	uint8_t element = zero->accumulates32 ? EST_32BIT : EST_16BIT;

	if (zero->reaches && !zero->partition.storage && (!zero->offloads || zero->accumulates32))
		zero->partition = est_hold(est_empty_on(tape, zero->stream, numel, element, EST_GRADIENTS));
}

static void drop_large(struct est_zero *zero, struct est_tape *tape)
{
	if (zero->large && lets_go(zero, zero->large))
		drop_grad(tape, zero->large);
}

/* reduce_ipg_grads(): what is of this rank goes into its partition, which the first such bucket makes. */
static void flush(struct est_zero *zero, struct est_tape *tape)
{
	if (zero->accumulates32)
		make_partition(zero, tape);
	average_bucket(zero, tape);
	make_partition(zero, tape);
	if (zero->offloads)
		empty_to_host(zero, tape);
	drop_large(zero, tape);
	zero->first = NULL;
	zero->end = &zero->first;
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
	append(zero, leaf);
	zero->filled += numel;
	zero->reaches = zero->reaches || leaf->ours > 0;
}

void est_zero_arrived(struct est_tape *tape, struct est_leaf *leaf, const void *context)
{
	struct est_zero *zero = (struct est_zero *)(uintptr_t)context;

	leaf->reached = true;
	zero->reached = zero->reached || leaf->ours > 0;
	make_buffers(zero, tape);
	if (!zero->keeps)
		reduce(zero, tape, leaf);
}

/* ---- the end of the backward */

static void reduce_kept(struct est_zero *zero, struct est_tape *tape)
{
	for (uint32_t i = 0; i < tape->leaf_count; i++)
		if (est_is_trained(&tape->leaves[i]) && tape->leaves[i].grad.storage)
			reduce(zero, tape, &tape->leaves[i]);
}

/* get_all_grad_tensors(): zeros for parameters of the rank's part that have no gradient. Those of a later micro-batch are
 * added to the first's. */
static void make_zeros(struct est_tape *tape)
{
	for (uint32_t i = 0; i < tape->leaf_count; i++) {
		struct est_leaf *leaf = &tape->leaves[i];
		struct est_tensor *zeros = leaf->accumulated.storage ? &leaf->grad : &leaf->accumulated;

		if (leaf->ours && !leaf->reached)
			*zeros = est_hold(est_empty_as(tape, leaf->value.numel, EST_16BIT, EST_GRADIENTS));
	}
}

/* A later micro-batch's partition is added to the first's. One in fp32 is the same for all, and made by the last where no
 * gradient has reached it. */
static void average(struct est_zero *zero, struct est_tape *tape)
{
	if (zero->offloads)
		return;
	if (zero->accumulates32) {
		if (zero->last && !zero->partition.storage)
			zero->partition = est_hold(est_empty_as(tape, zero->share, EST_32BIT, EST_GRADIENTS));
		return;
	}
	make_zeros(tape);
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
	return zero && (zero->keeps || zero->offloads || (zero->accumulates32 && !zero->reached));
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
		if (est_is_trained(&tape->leaves[i]))
			drop_grad(tape, &tape->leaves[i]);
}
