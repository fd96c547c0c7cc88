/* torch.utils.checkpoint, both ways. */
#include <string.h>
#include "estimator/tape.h"

struct est_tensor est_call_run(struct est_tape *tape, const struct est_call *call, struct est_tensor input)
{
	tape->second = call->second;
	tape->states = call->states;
	if (call->states)
		call->states->stored = NULL;
	return call->function(call->context, input, call->argument);
}

/* ---- states that calls share */

struct est_shared_states *est_shared_states_new(struct est_tape *tape)
{
	struct est_shared_states *states = est_arena_take(tape->arena, 1, sizeof(*states));

	if (states) {
		memset(states, 0, sizeof(*states));
		states->holders = 1;
	}
	return states;
}

void est_share_begin(struct est_tape *tape, bool makes)
{
	if (tape->states)
		tape->states->makes = makes;
}

static void drop_entry(struct est_tape *tape, struct est_shared_entry *entry)
{
	est_drop(tape, entry->key);
	est_drop(tape, entry->value);
	while (entry->graph_count > 0)
		est_storage_release(tape, entry->graph[--entry->graph_count]);
	entry->key = entry->value = est_none;
}

void est_share(struct est_tape *tape, struct est_shared_entry *entry, struct est_tensor key, struct est_tensor value)
{
	struct est_shared_states *states = tape->states;
	struct est_shared_entry old = *entry;

	*entry = states->next;
	entry->key = est_hold(est_alias(tape, key));
	entry->value = est_hold(est_alias(tape, value));
	states->next.graph_count = 0;
	states->makes = false;
	states->stored = entry;
	drop_entry(tape, &old);
}

void est_share_graph(struct est_tape *tape, struct est_shared_entry *entry, uint32_t storage)
{
	if (!storage)
		return;
	if (entry->graph_count == EST_STATES_HOLD) {
		tape->exhausted = true;
		return;
	}
	est_storage_retain(tape, storage);
	entry->graph[entry->graph_count++] = storage;
}

static struct est_shared_states *hold_states(struct est_shared_states *states)
{
	if (states)
		states->holders++;
	return states;
}

void est_shared_states_drop(struct est_tape *tape, struct est_shared_states *states)
{
	if (!states || --states->holders > 0)
		return;
	for (unsigned i = 0; i < 2; i++)
		drop_entry(tape, &states->entries[i]);
}

/* ---- what is kept of a call */

/* What a checkpoint keeps of an input: a reference, or, on the host, no memory of the card. */
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

/* The call as a checkpoint keeps it. */
static struct est_call keep_call(struct est_tape *tape, const struct est_call *call)
{
	struct est_call kept = *call;

	if (call->second.numel)
		kept.second = keep_input(tape, call->second);
	for (unsigned i = 0; i < EST_CALL_KWARGS; i++)
		est_storage_retain(tape, call->kwargs[i].storage);
	hold_states(call->states);
	return kept;
}

static void drop_call(struct est_tape *tape, const struct est_call *call)
{
	est_drop(tape, call->second);
	est_drop_all(tape, call->kwargs, EST_CALL_KWARGS);
	est_shared_states_drop(tape, call->states);
}

/* ---- use_reentrant=False: saved tensors are replaced by positions; the first one that the backward asks for runs
 * the forward again, up to the last of them. */

/* The call for the recomputation, with a reference to its second input. */
static struct est_call fetch_call(struct est_tape *tape, const struct est_call *kept)
{
	struct est_call call = *kept;

	if (kept->second.numel)
		call.second = fetch_input(tape, kept->second);
	return call;
}

static struct est_tensor checkpoint_non_reentrant(struct est_tape *tape, const struct est_call *call,
						  struct est_tensor input)
{
	struct est_frame *frame;
	struct est_tensor out;

	if (tape->frame_count == tape->frame_limit) {
		tape->exhausted = true;
		return est_call_run(tape, call, input);
	}
	frame = &tape->frames[tape->frame_count++];
	memset(frame, 0, sizeof(*frame));
	frame->autocast = tape->autocast;
	frame->saved = tape->frame_saves + tape->frame_save_count;
	frame->input = keep_input(tape, input);
	frame->call = keep_call(tape, call);
	tape->packing = tape->frame_count;
	out = est_call_run(tape, call, input);
	tape->packing = 0;
	return out;
}

static void recompute(struct est_tape *tape, uint32_t number)
{
	struct est_frame *frame = &tape->frames[number - 1];
	struct est_tensor input = fetch_input(tape, frame->input);
	struct est_call call = fetch_call(tape, &frame->call);
	uint32_t attributes = tape->attribute_count;
	bool autocast = tape->autocast;

	frame->matmuls = 0;
	tape->recomputing = number;
	tape->recomputed_saves = 0;
	tape->stopped = frame->count == 0;
	tape->autocast = frame->autocast;
	input.source = 0;
	est_finish(tape, est_call_run(tape, &call, input));
	est_drop(tape, tape->beside);
	tape->beside = est_none;
	est_drop(tape, input);
	est_drop(tape, call.second);
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
	drop_call(tape, &frame->call);
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

/* ---- use_reentrant=True: one node that saves its inputs; its backward runs the whole forward with gradients and a
 * backward of its own. */

struct reentrant {
	struct est_call call;
	struct est_tensor input; /* it and call.second as kept: references of the node, or what waits on the host */
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
	struct est_tensor zeros = context->beside ? est_variable(tape, context->beside, context->element)
		: est_none, beside;
	struct est_tensor input = fetch_input(tape, context->input);
	struct est_call call = fetch_call(tape, &context->call);
	bool autocast = tape->autocast;
	struct est_tensor out;

	leaf = est_leaf_new(tape, input, true, false);
	if (call.second.numel)
		call.second = est_leaf_tensor(tape, est_leaf_new(tape, call.second, call.second.requires_grad, false));
	tape->autocast = context->autocast;
	out = est_hold(est_call_run(tape, &call, est_leaf_tensor(tape, leaf)));
	if (context->autocast)
		est_autocast_exit(tape);
	tape->autocast = autocast;
	beside = take_beside(tape);
	if (beside.requires_grad)
		est_tape_seed(tape, beside, est_alias(tape, zeros));
	/* the caller keeps its gradients and the outputs until it returns */
	est_tape_backward(tape, first, out, est_alias(tape, node->grad[0]));
	est_drop(tape, out);
	est_drop(tape, beside);
	est_drop(tape, zeros);
	est_release_attributes(tape, attributes);
	if (call.states && call.states->stored) { /* its graph ends in the input, which has its gradient */
		est_share_graph(tape, call.states->stored, tape->leaves[leaf].value.storage);
		est_share_graph(tape, call.states->stored, tape->leaves[leaf].grad.storage);
	}
	for (uint32_t i = 0; leaf + i < tape->leaf_count; i++) {
		ret[i] = tape->leaves[leaf + i].grad;
		if (tape->keeps_boundaries) {
			est_attach(tape, node, tape->leaves[leaf + i].value);
			est_attach(tape, node, tape->leaves[leaf + i].grad);
		}
		est_drop(tape, tape->leaves[leaf + i].value);
	}
	tape->leaf_count = leaf;
}

static const struct est_op reentrant_op = { "CheckpointFunction", backward_reentrant };

/* The node has a reference of its own then. */
static void save_kept(struct est_tape *tape, struct est_node *node, struct est_tensor kept)
{
	if (!kept.numel)
		return;
	est_save(tape, node, kept);
	est_drop(tape, kept);
}

static struct est_tensor checkpoint_reentrant(struct est_tape *tape, const struct est_call *call,
					      struct est_tensor input)
{
	struct est_tensor in[2] = { input, call->second };
	struct est_node *node = est_node_new(tape, &reentrant_op, 2, in);
	struct reentrant *context = est_arena_take(tape->arena, 1, sizeof(*context));
	bool no_grad = tape->no_grad;
	struct est_tensor out;

	if (!node || !context)
		return est_call_run(tape, call, input);
	*context = (struct reentrant){ *call, keep_input(tape, input), tape->autocast, 0, 0 };
	if (call->second.numel)
		context->call.second = keep_input(tape, call->second);
	node->context = context;
	save_kept(tape, node, context->input);
	save_kept(tape, node, context->call.second);
	for (unsigned i = 0; i < EST_CALL_KWARGS; i++) /* in the function that the node keeps */
		est_attach(tape, node, call->kwargs[i]);
	tape->no_grad = true;
	out = est_call_run(tape, call, input);
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
