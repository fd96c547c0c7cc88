/* ZeRO-3's all-gathers (partition_parameters.py): alone, a parameter is gathered into its own memory; several are
 * gathered into one tensor, and concatenated out of it when the first is waited for. */
#include "estimator/ops.h"
#include "estimator/zero3.h"

static struct est_leaf *leaf_of(const struct est_zero3 *zero3, const struct est_zero3_parameter *parameter)
{
	return &zero3->tape->leaves[parameter - zero3->parameters];
}

static struct est_tensor on_stream(struct est_zero3 *zero3, uint64_t numel, uint8_t element)
{
	return est_empty_on(zero3->tape, zero3->gather_stream, numel, element, EST_BUFFERS);
}

static struct est_tensor on_own_stream(struct est_zero3 *zero3, uint64_t numel, uint8_t element)
{
	return est_empty_as(zero3->tape, numel, element, EST_BUFFERS);
}

/* Parameters on the host come to the card first, each its part, and go when the gather is under way. */
static void gather_alone(struct est_zero3 *zero3, struct est_zero3_parameter *parameter)
{
	struct est_leaf *leaf = leaf_of(zero3, parameter);
	struct est_tensor part = est_none;

	leaf->unsharded = on_stream(zero3, leaf->ours * zero3->schedule->ranks, leaf->value.element).storage;
	if (zero3->offloads_parameters)
		part = on_stream(zero3, leaf->ours, leaf->value.element);
	est_drop(zero3->tape, part);
	parameter->gather = 0;
}

static uint32_t unused_gather(struct est_zero3 *zero3)
{
	uint32_t number = 1;

	while (number <= zero3->gather_count && zero3->gathers[number].waiting > 0)
		number++;
	if (number > zero3->gather_count)
		zero3->gather_count = number;
	return number;
}

static void gather_coalesced(struct est_zero3 *zero3, uint32_t first, uint32_t count)
{
	uint32_t number = unused_gather(zero3);
	struct est_zero3_gather *gather = &zero3->gathers[number];
	struct est_zero3_parameter *parameter;
	uint64_t parts = 0;
	uint8_t element = EST_16BIT;

	for (uint32_t i = first; i; i = parameter->next) {
		parameter = &zero3->parameters[i - 1];
		parts += leaf_of(zero3, parameter)->ours;
		element = leaf_of(zero3, parameter)->value.element;
		parameter->gather = number;
	}
	*gather = (struct est_zero3_gather){ .first = first, .waiting = count };
	gather->flat = on_stream(zero3, parts * zero3->schedule->ranks, element).storage;
	if (zero3->offloads_parameters)
		est_drop(zero3->tape, on_stream(zero3, parts, element));
}

/* NoGatherHandle: on one rank a parameter is its part, or what comes of it from the host. */
static void take_whole(struct est_zero3 *zero3, uint32_t first)
{
	for (uint32_t i = first; i; i = zero3->parameters[i - 1].next) {
		struct est_leaf *leaf = &zero3->tape->leaves[i - 1];

		if (zero3->offloads_parameters)
			leaf->unsharded = on_stream(zero3, leaf->value.numel, leaf->value.element).storage;
		zero3->parameters[i - 1].gather = 0;
	}
}

void est_zero3_all_gather(struct est_zero3 *zero3, uint32_t first, uint32_t count)
{
	for (uint32_t i = first; i; i = zero3->parameters[i - 1].next) {
		zero3->available += (int64_t)zero3->tape->leaves[i - 1].value.numel;
		zero3->parameters[i - 1].pending = true;
	}
	if (zero3->schedule->ranks == 1)
		take_whole(zero3, first);
	else if (count == 1)
		gather_alone(zero3, &zero3->parameters[first - 1]);
	else if (count > 1)
		gather_coalesced(zero3, first, count);
}

/* The parameters are concatenated out of the parts of all ranks, at the first that is waited for. */
static void complete(struct est_zero3 *zero3, struct est_zero3_gather *gather)
{
	for (uint32_t i = gather->first; i; i = zero3->parameters[i - 1].next) {
		struct est_leaf *leaf = &zero3->tape->leaves[i - 1];

		leaf->unsharded = (zero3->cleans ? on_own_stream : on_stream)(zero3, leaf->value.numel, leaf->value.element).storage;
		zero3->parameters[i - 1].available = true;
	}
	gather->complete = true;
}

void est_zero3_wait(struct est_zero3 *zero3, struct est_zero3_parameter *parameter)
{
	struct est_zero3_gather *gather = &zero3->gathers[parameter->gather];

	parameter->pending = false;
	parameter->available = true;
	if (!parameter->gather)
		return;
	if (!gather->complete)
		complete(zero3, gather);
	parameter->gather = 0;
	if (--gather->waiting == 0)
		est_storage_release(zero3->tape, gather->flat);
}

void est_zero3_release(struct est_zero3 *zero3, struct est_zero3_parameter *parameter)
{
	struct est_leaf *leaf = leaf_of(zero3, parameter);

	est_storage_release(zero3->tape, leaf->unsharded);
	leaf->unsharded = 0;
	parameter->available = false;
	zero3->available -= (int64_t)leaf->value.numel;
}

/* The registry lets go of its all-gathers when all that they gathered has come and gone. */
static void hold_gathers(struct est_zero3 *zero3, void (*hold)(struct est_tape *tape, uint32_t storage))
{
	for (uint32_t i = 1; i <= zero3->gather_count; i++)
		if (zero3->gathers[i].held)
			hold(zero3->tape, zero3->gathers[i].flat);
}

/* _clean_inflight_param_registry(), on the current stream */
void est_zero3_clean(struct est_zero3 *zero3)
{
	for (uint32_t i = 1; i <= zero3->gather_count; i++)
		zero3->gathers[i].held = zero3->gathers[i].waiting > 0;
	hold_gathers(zero3, est_storage_retain);
	zero3->cleans = true;
	for (uint32_t i = zero3->first_parameter; i < zero3->parameter_count; i++) {
		struct est_zero3_parameter *parameter = &zero3->parameters[i];

		if (!parameter->pending)
			continue;
		est_zero3_wait(zero3, parameter);
		if (!parameter->owners)
			est_zero3_release(zero3, parameter);
	}
	zero3->cleans = false;
	hold_gathers(zero3, est_storage_release);
}

/* ZeROOrderedDict.__getitem__(): what is missing is gathered at once, one parameter after the other, and is external to the module whose
 * forward runs from then on: it comes and goes with the model's own, of which there are none. */
void est_zero3_read(struct est_zero3 *zero3, uint32_t module)
{
	struct est_leaf *first = zero3->modules[module].first;

	zero3->modules[0].first = first;
	for (struct est_leaf *leaf = first; leaf; leaf = leaf->next) {
		struct est_zero3_parameter *parameter = est_zero3_parameter_of(zero3, leaf);

		if (parameter->available)
			continue;
		leaf->unsharded = on_own_stream(zero3, leaf->ours * zero3->schedule->ranks, leaf->value.element).storage;
		if (zero3->offloads_parameters)
			est_drop(zero3->tape, on_own_stream(zero3, leaf->ours, leaf->value.element));
		parameter->available = true;
	}
}
