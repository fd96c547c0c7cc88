/* PipelineScheduleSingle of torch.distributed.pipelining: Schedule1F1B._step_microbatches() on one stage. */
#include "estimator/loss.h"
#include "estimator/objective.h"
#include "estimator/pipeline.h"
#include "estimator/zero.h"

/* A micro-batch between its forward and its backward: its part of the tape, behind which that of others may lie. */
struct flight {
	struct est_pass pass;
	struct est_tensor root;       /* the loss, or what was sent */
	uint32_t first_node, end_node, first_attribute, end_attribute, end_leaf;
	uint32_t *uses;               /* of the model's leaves, in its graph */
};

struct est_pipeline {
	struct est_pass *pass;
	bool first, last;             /* of the stages */
	struct flight *flights;       /* a ring */
	uint64_t in_flight, traced;
	uint32_t leaves;              /* of the model */
	struct est_tensor *received, *gradients; /* what is received into: of each micro-batch */
	struct est_tensor ids;        /* of all micro-batches: the first stage's input_ids, the last one's labels */
	/* variables of the schedule: */
	struct est_tensor output;     /* what the last forward gave, */
	struct est_tensor sent;       /* and the gradient that was sent last */
};

/* ---- buffers */

/* A buffer for each micro-batch that is traced, and one for all the others. */
static struct est_tensor *make_buffers(struct est_pipeline *pipeline)
{
	struct est_pass *pass = pipeline->pass;
	struct est_tape *tape = pass->tape;
	struct est_tensor *buffers = est_arena_take(tape->arena, pipeline->traced, sizeof(*buffers));
	/* a split sequence is sent and received as it is split, rank by rank of the tensor groups */
	uint64_t numel = pass->tokens * (uint64_t)pass->model->hidden_size / (pass->tensor.splits_sequence
									      ? pass->tensor.ranks : 1);
	uint64_t others = (uint64_t)pass->request->gradient_accumulation_steps - pipeline->traced;

	for (uint64_t i = 0; buffers && i < pipeline->traced; i++)
		buffers[i] = est_persistent(tape, numel, pass->parameter_element, EST_BUFFERS);
	if (others)
		est_persistent(tape, others * numel, pass->parameter_element, EST_BUFFERS);
	return buffers;
}

static struct flight *make_flights(struct est_pipeline *pipeline)
{
	struct est_arena *arena = pipeline->pass->tape->arena;
	struct flight *flights = est_arena_take(arena, pipeline->in_flight, sizeof(*flights));

	for (uint64_t i = 0; flights && i < pipeline->in_flight; i++)
		flights[i].uses = est_arena_take(arena, pipeline->leaves, sizeof(*flights[i].uses));
	return flights;
}

struct est_pipeline *est_pipeline_load(struct est_pass *pass)
{
	const struct est_model *model = pass->model;
	struct est_pipeline *pipeline = est_arena_take(pass->tape->arena, 1, sizeof(*pipeline));

	if (!pipeline)
		return NULL;
	*pipeline = (struct est_pipeline){ .pass = pass, .first = !model->lacks_embedding, .last = !model->lacks_head,
					   .in_flight = est_stage_in_flight(model, pass->request),
					   .traced = est_stage_traced(model, pass->request), .leaves = pass->tape->leaf_count };
	pipeline->flights = make_flights(pipeline);
	if (!pipeline->first)
		pipeline->received = make_buffers(pipeline);
	if (!pipeline->last)
		pipeline->gradients = make_buffers(pipeline);
	return pass->tape->arena->exhausted ? NULL : pipeline;
}

/* ---- forward */

/* Another forward counts its own uses of the model's leaves. */
static void put_uses_away(struct est_pipeline *pipeline, struct flight *flight)
{
	struct est_leaf *leaves = pipeline->pass->tape->leaves;

	for (uint32_t i = 0; i < pipeline->leaves; i++) {
		flight->uses[i] = leaves[i].uses;
		leaves[i].uses = 0;
	}
}

static void bring_uses_back(struct est_pipeline *pipeline, const struct flight *flight)
{
	for (uint32_t i = 0; i < pipeline->leaves; i++)
		pipeline->pass->tape->leaves[i].uses = flight->uses[i];
}

/* The last stage's loss, or what the stage gives, which it keeps for its backward. */
static struct est_tensor run_stage(struct est_pipeline *pipeline, struct est_pass *pass)
{
	struct est_tensor out = est_objective_forward(pass);

	if (pipeline->last) {
		out = est_loss(pass, out);
	} else {
		est_autocast_exit(pass->tape);
		est_pass_give(pass, out);
	}
	if (pass->schedule && pass->schedule->root_leaves_at_loss)
		out = est_hold(est_schedule_leave(pass->schedule, 0, out));
	return out;
}

static void forward(struct est_pipeline *pipeline, uint64_t number)
{
	struct flight *flight = &pipeline->flights[number % pipeline->in_flight];
	struct est_tape *tape = pipeline->pass->tape;

	est_mark(tape, EST_PHASE_FORWARD);
	flight->first_node = tape->node_count;
	flight->first_attribute = tape->attribute_count;
	flight->pass = *pipeline->pass;
	flight->pass.output = &pipeline->output;
	flight->pass.input_ids = pipeline->ids;
	flight->pass.input_ids.numel = flight->pass.tokens; /* a view */
	if (!pipeline->first)
		flight->pass.received = pipeline->received[number];
	est_schedule_micro_begin(flight->pass.schedule);
	flight->root = run_stage(pipeline, &flight->pass);
	est_schedule_forward_end(flight->pass.schedule);
	flight->end_node = tape->node_count;
	flight->end_attribute = tape->attribute_count;
	flight->end_leaf = tape->leaf_count;
	put_uses_away(pipeline, flight);
}

/* ---- backward */

/* stage_backward() takes the input's gradient, which is sent while the next one comes. */
static void send_gradient(struct est_pipeline *pipeline, struct flight *flight)
{
	struct est_leaf *input = &pipeline->pass->tape->leaves[flight->pass.forward_leaves];

	if (pipeline->first)
		return;
	est_drop(pipeline->pass->tape, pipeline->sent);
	pipeline->sent = input->grad;
	input->grad = est_none;
}

static void drop_leaves(struct est_tape *tape, const struct flight *flight)
{
	for (uint32_t i = flight->pass.forward_leaves; i < flight->end_leaf; i++) {
		est_drop(tape, tape->leaves[i].value);
		est_drop(tape, tape->leaves[i].grad);
	}
}

static struct est_tensor gradient_of(const struct est_pipeline *pipeline, uint64_t number)
{
	struct est_tape *tape = pipeline->pass->tape;

	return pipeline->last ? est_empty(tape, 1, EST_32BIT) : est_alias(tape, pipeline->gradients[number]);
}

static void backward(struct est_pipeline *pipeline, uint64_t number)
{
	struct flight *flight = &pipeline->flights[number % pipeline->in_flight];
	struct est_pass *pass = &flight->pass;
	struct est_tape *tape = pass->tape;
	bool reentrant = pass->request->checkpointing != EST_CHECKPOINT_NONE && pass->request->use_reentrant;

	bring_uses_back(pipeline, flight);
	est_zero_micro_begin(pass->zero, number + 1 == pipeline->traced);
	est_mark(tape, pipeline->last ? EST_PHASE_LOSS_BACKWARD : EST_PHASE_BACKWARD);
	est_tape_backward_of(tape, flight->first_node, flight->end_node, flight->root, gradient_of(pipeline, number));
	est_schedule_backward_end(pass->schedule);
	est_zero_backward_end(pass->zero, tape);
	send_gradient(pipeline, flight);
	est_drop(tape, flight->root);
	est_release_attributes_of(tape, flight->first_attribute, flight->end_attribute);
	drop_leaves(tape, flight);
	if (reentrant)
		est_pass_release(pass);
}

/* ---- step */

static void begin_step(struct est_pipeline *pipeline)
{
	struct est_tape *tape = pipeline->pass->tape;
	uint64_t all = pipeline->pass->tokens * (uint64_t)pipeline->pass->request->gradient_accumulation_steps;

	tape->frame_count = 0;
	tape->frame_save_count = 0;
	tape->pinned = 0;
	est_mark(tape, EST_PHASE_FORWARD);
	if (pipeline->pass->schedule)
		pipeline->pass->schedule->syncs = false;
	pipeline->ids = est_none;
	if (pipeline->first || pipeline->last)
		pipeline->ids = est_buffer(tape, all, EST_INT64);
	pipeline->output = pipeline->sent = est_none;
}

static void end_step(struct est_pipeline *pipeline)
{
	struct est_tape *tape = pipeline->pass->tape;

	est_schedule_reduce(pipeline->pass->schedule); /* perform_reduce_grad(), before the function returns */
	est_drop(tape, pipeline->output);
	est_drop(tape, pipeline->sent);
	est_drop(tape, pipeline->ids);
	tape->leaf_count = pipeline->leaves;
	tape->attribute_count = 0;
	tape->node_count = 0;
}

void est_pipeline_step(struct est_pipeline *pipeline)
{
	uint64_t forwards = 0, backwards = 0;

	begin_step(pipeline);
	while (forwards < pipeline->in_flight)
		forward(pipeline, forwards++);
	while (backwards < pipeline->traced) {
		backward(pipeline, backwards++);
		if (forwards < pipeline->traced)
			forward(pipeline, forwards++);
	}
	end_step(pipeline);
}
