/* torch.utils.checkpoint, both ways. */
#include <string.h>
#include "estimator/tape.h"

/* ---- use_reentrant=False: saved tensors are replaced by positions; the first one that the backward asks for runs
 * the forward again, up to the last of them. */

static struct est_tensor run(const struct est_call *call, struct est_tensor input)
{
	return call->function(call->context, input, call->argument);
}

/* What a checkpoint keeps of its input: a reference, or, on the host, no memory of the card. */
static struct est_tensor keep_input(struct est_tape *tape, struct est_tensor input)
{
	if (!tape->offloads)
		return est_hold(est_alias(tape, input));
	tape->pinned += input.numel * est_element_bytes(input.element);
	input.storage = 0;
	return est_hold(input);
}

/* The input for the recomputation, a reference of its own. */
static struct est_tensor fetch_input(struct est_tape *tape, struct est_tensor kept)
{
	struct est_tensor input = kept;

	if (kept.storage)
		return est_hold(est_alias(tape, kept));
	if (tape->staging.storage)
		return est_hold(est_alias(tape, tape->staging));
	input.storage = est_empty(tape, kept.numel, kept.element).storage;
	return input;
}

static struct est_tensor checkpoint_non_reentrant(struct est_tape *tape, const struct est_call *call,
						  struct est_tensor input)
{
	struct est_frame *frame;
	struct est_tensor out;

	if (tape->frame_count == tape->frame_limit) {
		tape->exhausted = true;
		return run(call, input);
	}
	frame = &tape->frames[tape->frame_count++];
	memset(frame, 0, sizeof(*frame));
	frame->call = *call;
	frame->autocast = tape->autocast;
	frame->saved = tape->frame_saves + tape->frame_save_count;
	frame->input = keep_input(tape, input);
	for (unsigned i = 0; i < EST_CALL_KWARGS; i++)
		est_storage_retain(tape, call->kwargs[i].storage);
	tape->packing = tape->frame_count;
	out = run(call, input);
	tape->packing = 0;
	return out;
}

static void recompute(struct est_tape *tape, uint32_t number)
{
	struct est_frame *frame = &tape->frames[number - 1];
	struct est_tensor input = fetch_input(tape, frame->input);
	uint32_t attributes = tape->attribute_count;
	bool autocast = tape->autocast;

	frame->matmuls = 0;
	tape->recomputing = number;
	tape->recomputed_saves = 0;
	tape->stopped = frame->count == 0;
	tape->autocast = frame->autocast;
	input.source = 0;
	est_finish(tape, run(&frame->call, input));
	est_drop(tape, tape->beside);
	tape->beside = est_none;
	est_drop(tape, input);
	if (frame->autocast)
		est_autocast_exit(tape);
	tape->autocast = autocast;
	tape->recomputing = 0;
	tape->stopped = false;
	est_release_attributes(tape, attributes);
	frame->recomputed = true;
}

void est_frame_unpack(struct est_tape *tape, struct est_node *node)
{
	struct est_frame *frame = &tape->frames[node->frame - 1];

	if (node->saved_count && !frame->recomputed)
		recompute(tape, node->frame);
	for (unsigned i = 0; i < node->saved_count; i++)
		node->saved[i] = frame->saved[node->saved[i]]; /* the reference moves */
	node->frame = 0;
}

void est_frame_release(struct est_tape *tape, uint32_t number, uint32_t count)
{
	struct est_frame *frame = &tape->frames[number - 1];

	if (count == 0 || (frame->released += count) < frame->count)
		return;
	while (frame->kept_taken < frame->kept_count)
		est_storage_release(tape, frame->kept[frame->kept_taken++]);
	est_drop(tape, frame->input);
	for (unsigned i = 0; i < EST_CALL_KWARGS; i++)
		est_drop(tape, frame->call.kwargs[i]);
}

/* ---- selective: results that are kept beside what would be recomputed */

/* "op" is torchtitan's list, with every second product recomputed: query, value, gate and down stay */
static bool keeps(const struct est_tape *tape, struct est_frame *frame, enum est_result of)
{
	if (of == EST_RESULT_OF_MATMUL)
		frame->matmuls++;
	if (of == EST_RESULT_OF_ATTENTION)
		return tape->policy != EST_KEEP_NOTHING;
	return tape->policy == EST_KEEP_ALL_MATMUL || (tape->policy == EST_KEEP_OP && frame->matmuls % 2 == 1);
}

struct est_tensor est_result(struct est_tape *tape, enum est_result of, uint64_t numel, uint8_t element)
{
	uint32_t number = tape->recomputing ? tape->recomputing : tape->packing;
	struct est_frame *frame = number ? &tape->frames[number - 1] : NULL;
	struct est_tensor out;

	if (!frame || tape->stopped || !keeps(tape, frame, of)
	    || (tape->recomputing && frame->kept_taken == frame->kept_count))
		return est_empty(tape, numel, element);
	if (tape->recomputing)
		return (struct est_tensor){ .numel = numel, .element = element, .temporary = true,
					    .storage = frame->kept[frame->kept_taken++] };
	out = est_empty(tape, numel, element);
	if (frame->kept_count == EST_KEPT) {
		tape->exhausted = true;
		return out;
	}
	est_storage_retain(tape, out.storage);
	frame->kept[frame->kept_count++] = out.storage;
	return out;
}

/* ---- use_reentrant=True: one node that saves its input; its backward runs the whole forward with gradients and a
 * backward of its own. */

struct reentrant {
	struct est_call call;
	struct est_tensor input; /* as kept: a reference of the node, or what waits on the host */
	bool autocast;
	uint64_t beside; /* elements of what it returns beside its result, */
	uint8_t element; /* and their bytes */
};

static struct est_tensor take_beside(struct est_tape *tape)
{
	struct est_tensor beside = tape->beside;

	tape->beside = est_none;
	return beside;
}

static void backward_reentrant(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	const struct reentrant *context = node->context;
	uint32_t first = tape->node_count, leaf = tape->leaf_count, attributes = tape->attribute_count;
	/* an output that nothing uses has zeros for a gradient */
	struct est_tensor zeros = context->beside ? est_hold(est_empty(tape, context->beside, context->element))
		: est_none, beside;
	struct est_tensor input = fetch_input(tape, context->input);
	bool autocast = tape->autocast;
	struct est_tensor out;

	leaf = est_leaf_new(tape, input, true, false);
	tape->autocast = context->autocast;
	out = est_hold(run(&context->call, est_leaf_tensor(tape, leaf)));
	if (context->autocast)
		est_autocast_exit(tape);
	tape->autocast = autocast;
	beside = take_beside(tape);
	if (beside.numel)
		est_tape_seed(tape, beside, est_alias(tape, zeros));
	/* the caller keeps its gradients and the outputs until it returns */
	est_tape_backward(tape, first, out, est_alias(tape, node->grad[0]));
	est_drop(tape, out);
	est_drop(tape, beside);
	est_drop(tape, zeros);
	est_release_attributes(tape, attributes);
	ret[0] = tape->leaves[leaf].grad;
	if (tape->keeps_boundaries) {
		est_attach(tape, node, tape->leaves[leaf].value);
		est_attach(tape, node, tape->leaves[leaf].grad);
	}
	est_drop(tape, tape->leaves[leaf].value);
	tape->leaf_count = leaf;
}

static const struct est_op reentrant_op = { "CheckpointFunction", backward_reentrant };

static struct est_tensor checkpoint_reentrant(struct est_tape *tape, const struct est_call *call,
					      struct est_tensor input)
{
	struct est_node *node = est_node_new(tape, &reentrant_op, 1, &input);
	struct reentrant *context = est_arena_take(tape->arena, 1, sizeof(*context));
	bool no_grad = tape->no_grad;
	struct est_tensor out;

	if (!node || !context)
		return run(call, input);
	*context = (struct reentrant){ *call, keep_input(tape, input), tape->autocast, 0, 0 };
	node->context = context;
	est_save(tape, node, context->input);
	est_drop(tape, context->input); /* the node has its own reference */
	tape->no_grad = true;
	out = run(call, input);
	tape->no_grad = no_grad;
	context->beside = tape->beside.numel;
	context->element = tape->beside.element;
	return est_output(tape, node, 0, out);
}

struct est_tensor est_checkpoint(struct est_tape *tape, const struct est_call *call, struct est_tensor input,
				 bool reentrant)
{
	return reentrant ? checkpoint_reentrant(tape, call, input) : checkpoint_non_reentrant(tape, call, input);
}
