/* ZeRO-3's gradients: the bucket, the rank's flat partition, and the step by sub-groups. */
#include "estimator/ops.h"
#include "estimator/optimizer.h"
#include "estimator/zero3.h"

static struct est_tensor on_stream(struct est_zero3 *zero3, uint64_t numel, uint8_t element)
{
	return est_empty_on(zero3->tape, zero3->reduce_stream, numel, element, EST_BUFFERS);
}

static void drop_grad(struct est_tape *tape, struct est_leaf *leaf)
{
	est_drop(tape, leaf->grad);
	leaf->grad = est_none;
}

/* ---- the bucket */

/* reduce_scatter_coalesced(): all in one tensor, unless there is but one that needs no padding */
static struct est_tensor concatenate(struct est_zero3 *zero3, uint64_t parts)
{
	uint64_t numel = parts * zero3->schedule->ranks;

	return zero3->waiting_count == 1 && numel == zero3->filled
	       ? est_none : on_stream(zero3, numel, zero3->reduced_element);
}

/* A partition goes to the host, and comes back; in the last micro-batch the optimizer's gradient is made of it. */
static void offload(struct est_zero3 *zero3, const struct est_leaf *leaf)
{
	struct est_tensor part = on_stream(zero3, leaf->ours, zero3->accumulated_element);

	if (zero3->schedule->syncs && zero3->accumulated_element != EST_32BIT)
		est_drop(zero3->tape, on_stream(zero3, leaf->ours, EST_32BIT));
	est_drop(zero3->tape, part);
}

/* partition_grads() */
static void partition(struct est_zero3 *zero3)
{
	for (uint32_t i = 0; i < zero3->waiting_count; i++) {
		if (zero3->offloads_optimizer)
			offload(zero3, zero3->waiting[i]);
		drop_grad(zero3->tape, zero3->waiting[i]);
	}
}

/* What is too large for the bucket is cast for the reduction; others were, as they were copied into it. */
static struct est_tensor cast_whole(struct est_zero3 *zero3)
{
	bool copied = zero3->filled <= zero3->bucket;

	return copied || zero3->reduced_element == EST_16BIT ? est_none
	       : on_stream(zero3, zero3->filled, zero3->reduced_element);
}

/* The rank's parts are cast one by one for what they are accumulated into. They were views of what they were reduced in, which ends
 * with them. */
static struct est_tensor cast_parts(struct est_zero3 *zero3, struct est_tensor buffer)
{
	if (zero3->accumulated_element == zero3->reduced_element)
		return buffer;
	for (uint32_t i = 0; i < zero3->waiting_count; i++)
		zero3->waiting[i]->copy = on_stream(zero3, zero3->waiting[i]->ours, zero3->accumulated_element).storage;
	est_drop(zero3->tape, buffer);
	return est_none;
}

static void drop_casts(struct est_zero3 *zero3)
{
	for (uint32_t i = 0; i < zero3->waiting_count; i++) {
		est_storage_release(zero3->tape, zero3->waiting[i]->copy);
		zero3->waiting[i]->copy = 0;
	}
}

static void reverse(struct est_leaf **leaves, uint32_t count)
{
	for (uint32_t i = 0; i < count / 2; i++) {
		struct est_leaf *leaf = leaves[i];

		leaves[i] = leaves[count - 1 - i];
		leaves[count - 1 - i] = leaf;
	}
}

/* By ds_id, which is the order of the leaves: they come nearly in reverse. */
static void sort_waiting(struct est_zero3 *zero3)
{
	reverse(zero3->waiting, zero3->waiting_count);
	for (uint32_t i = 1; i < zero3->waiting_count; i++) {
		struct est_leaf *leaf = zero3->waiting[i];
		uint32_t place = i;

		for (; place > 0 && zero3->waiting[place - 1] > leaf; place--)
			zero3->waiting[place] = zero3->waiting[place - 1];
		zero3->waiting[place] = leaf;
	}
}

/* __reduce_and_partition_ipg_grads() */
static void flush(struct est_zero3 *zero3)
{
	struct est_tensor full, buffer;
	uint64_t parts = 0;

	for (uint32_t i = 0; i < zero3->waiting_count; i++)
		parts += zero3->waiting[i]->ours;
	if (parts == 0)
		return;
	sort_waiting(zero3);
	full = cast_whole(zero3);
	buffer = cast_parts(zero3, concatenate(zero3, parts));
	est_drop(zero3->tape, full);
	partition(zero3);
	drop_casts(zero3);
	est_drop(zero3->tape, buffer);
	zero3->filled = zero3->waiting_count = 0;
}

/* reduce_independent_p_g_buckets_and_remove_grads(): a gradient is copied into the bucket, unless it is larger. */
static void arrived(struct est_tape *tape, struct est_leaf *leaf, const void *context)
{
	struct est_zero3 *zero3 = (struct est_zero3 *)(uintptr_t)context;
	uint64_t numel = leaf->value.numel;

	if (zero3->filled + numel > zero3->bucket)
		flush(zero3);
	if (numel <= zero3->bucket)
		drop_grad(tape, leaf);
	zero3->filled += numel;
	zero3->waiting[zero3->waiting_count++] = leaf;
}

void est_zero3_reduce_rest(struct est_zero3 *zero3)
{
	flush(zero3);
}

/* ---- at rest */

/* _create_fp16_sub_groups(): each is as large as its last parameter makes it. The first leaf of one stands for it. It is stepped as a
 * whole: what no gradient reaches has zeros for one, and states as all others. */
static void fold(struct est_zero3 *zero3)
{
	struct est_leaf *first = NULL;

	for (uint32_t i = 0; i < zero3->tape->leaf_count; i++) {
		struct est_leaf *leaf = &zero3->tape->leaves[i];

		if (!est_is_trained(leaf))
			continue;
		leaf->on_host = zero3->offloads_optimizer;
		leaf->idle = false;
		leaf->flat = true;
		if (first && first->shard < zero3->sub_group) {
			leaf->folded = true;
			leaf->shard = 0;
			first->shard += leaf->ours;
			continue;
		}
		leaf->deferred = first != NULL;
		first = leaf;
	}
}

static uint64_t count_parts(const struct est_zero3 *zero3, bool trained)
{
	uint64_t parts = 0;

	for (uint32_t i = zero3->first_parameter; i < zero3->parameter_count; i++)
		parts += est_is_trained(&zero3->tape->leaves[i]) == trained ? zero3->tape->leaves[i].ours : 0;
	return parts;
}

/* The trained parts are one buffer, the frozen ones tensors of their own. */
void est_zero3_rest_frozen(struct est_zero3 *zero3)
{
	struct est_tape *tape = zero3->tape;

	if (zero3->offloads_parameters)
		tape->host_shards += count_parts(zero3, false) * EST_16BIT;
	for (uint32_t i = zero3->first_parameter; i < zero3->parameter_count && !zero3->offloads_parameters; i++)
		if (!est_is_trained(&tape->leaves[i]))
			est_persistent(tape, tape->leaves[i].ours, EST_16BIT, EST_WEIGHTS);
}

static uint8_t element_of(enum est_dtype dtype)
{
	return dtype == EST_FP32 ? EST_32BIT : EST_16BIT;
}

/* DeepSpeed's defaults: buffers of the optimizer, one for each thing that Adam keeps; those of parameters, their
 * elements, and the elements of trained parameters that stay on the host all the same. */
enum { OPTIMIZER_BUFFERS = 4, PARAMETER_BUFFERS = 5, PARAMETER_BUFFER = 100000000, IN_CPU = 1000000000 };

static uint64_t largest_sub_group(const struct est_tape *tape)
{
	uint64_t largest = 0;

	for (uint32_t i = 0; i < tape->leaf_count; i++)
		if (est_is_trained(&tape->leaves[i]) && tape->leaves[i].shard > largest)
			largest = tape->leaves[i].shard;
	return largest;
}

/* The gradients' partition stays there, and, but on a disk, the masters' own gradients. */
static void rest_states_on_host(struct est_zero3 *zero3, uint64_t trained)
{
	struct est_tape *tape = zero3->tape;

	tape->host_states += trained * zero3->accumulated_element;
	if (zero3->schedule->request->offload.optimizer == EST_ON_NVME)
		tape->host_shards += OPTIMIZER_BUFFERS * largest_sub_group(tape) * EST_32BIT;
	else
		tape->host_states += trained * EST_32BIT;
}

static void rest_weights_on_host(struct est_zero3 *zero3, uint64_t trained)
{
	struct est_tape *tape = zero3->tape;
	uint64_t kept = trained < IN_CPU ? trained : IN_CPU;

	if (zero3->schedule->request->offload.parameters == EST_ON_NVME)
		tape->host_shards += (kept + (uint64_t)PARAMETER_BUFFERS * PARAMETER_BUFFER) * EST_16BIT;
	else
		tape->host_shards += (trained + count_parts(zero3, false)) * EST_16BIT;
}

void est_zero3_partition(struct est_zero3 *zero3, const struct est_model *model)
{
	const struct est_parallelism *p = &zero3->schedule->request->parallelism;
	struct est_tape *tape = zero3->tape;
	uint64_t trained = count_parts(zero3, true);
	int64_t bucket = p->buckets.reduce_bucket_size;

	zero3->bucket = (uint64_t)(bucket == EST_AUTO ? model->hidden_size * model->hidden_size : bucket);
	zero3->sub_group = (uint64_t)p->sub_group_size;
	zero3->accumulated_element = element_of(p->grad_accum_dtype);
	zero3->reduced_element = element_of(p->communication_data_type);
	fold(zero3);
	if (zero3->offloads_parameters) {
		rest_weights_on_host(zero3, trained);
	} else {
		est_persistent(tape, trained, EST_16BIT, EST_WEIGHTS);
		est_zero3_rest_frozen(zero3);
	}
	est_persistent(tape, zero3->bucket, zero3->reduced_element, EST_BUFFERS);
	if (zero3->offloads_optimizer)
		rest_states_on_host(zero3, trained);
	else
		est_persistent(tape, trained, zero3->accumulated_element, EST_GRADIENTS);
	tape->accumulated = arrived;
	tape->accumulated_context = zero3;
}

/* ---- the step */

static struct est_zero3 *stepped(const struct est_schedule *schedule)
{
	return schedule && schedule->zero3 && !schedule->zero3->offloads_optimizer ? schedule->zero3 : NULL;
}

/* get_grad_norm_direct(): of each gradient, cast to fp64 */
static void take_norms(struct est_tape *tape)
{
	for (uint32_t i = 0; i < tape->leaf_count; i++)
		if (est_is_trained(&tape->leaves[i]))
			est_drop(tape, est_empty_as(tape, tape->leaves[i].ours, sizeof(double), EST_BUFFERS));
}

/* _prepare_fp32_grad_for_sub_group(): the concatenation of its gradients, and, where it is of another dtype, its
 * cast, are made for the optimizer; here the first of the two. */
static struct est_tensor flat_of(struct est_zero3 *zero3, uint64_t numel)
{
	if (zero3->accumulated_element == EST_32BIT)
		return est_none;
	return est_empty_as(zero3->tape, numel, zero3->accumulated_element, EST_GRADIENTS);
}

static const struct est_leaf *first_group(const struct est_tape *tape)
{
	for (uint32_t i = 0; i < tape->leaf_count; i++)
		if (est_is_trained(&tape->leaves[i]))
			return &tape->leaves[i];
	return NULL;
}

void est_zero3_flatten(struct est_schedule *schedule)
{
	struct est_zero3 *zero3 = stepped(schedule);
	const struct est_leaf *first = zero3 ? first_group(zero3->tape) : NULL;

	if (!first)
		return;
	est_mark(zero3->tape, EST_PHASE_OPTIMIZER_STEP);
	take_norms(zero3->tape);
	zero3->flat = est_hold(flat_of(zero3, first->shard));
}

void est_zero3_flattened(struct est_schedule *schedule)
{
	struct est_zero3 *zero3 = stepped(schedule);

	if (!zero3)
		return;
	est_drop(zero3->tape, zero3->flat);
	zero3->flat = est_none;
}

void est_zero3_step_rest(struct est_schedule *schedule)
{
	struct est_zero3 *zero3 = stepped(schedule);
	struct est_tensor flat, grad32;

	for (uint32_t i = 0; zero3 && i < zero3->tape->leaf_count; i++) {
		const struct est_leaf *leaf = &zero3->tape->leaves[i];

		if (!leaf->deferred)
			continue;
		flat = flat_of(zero3, leaf->shard);
		grad32 = est_empty_as(zero3->tape, leaf->shard, EST_32BIT, EST_OPTIMIZER);
		est_drop(zero3->tape, flat);
		est_optimizer_step_one(zero3->tape, schedule->request, leaf);
		est_drop(zero3->tape, grad32);
	}
}
