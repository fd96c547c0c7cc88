/* Schedule1F1B and _PipelineScheduleRuntime (under ScheduleInterleaved1F1B) of torch.distributed.pipelining: one step of a
 * rank's stages. */
#include "estimator/ddp.h"
#include "estimator/framework.h"
#include "estimator/loss.h"
#include "estimator/objective.h"
#include "estimator/pipeline.h"
#include "estimator/zero.h"

/* Stages that _add_unshard_reshard() keeps gathered at the same time. */
enum { ACTIVE_STAGES = 3 };

/* A micro-batch between its forward and its backward: its part of the tape, behind which that of others may lie. */
struct flight {
	struct est_pass pass;
	struct est_tensor root;       /* the loss, or what was sent */
	struct est_tensor output;     /* what the stage gave, of several stages (fwd_cache) */
	uint32_t first_node, end_node, first_attribute, end_attribute, end_leaf;
	uint32_t *uses;               /* of the model's leaves, in its graph */
};

struct stage {
	struct est_pass *pass;
	bool first, last;             /* of the model's stages */
	bool active, awaited;         /* of FSDP2: asked for, and whether it still has to come */
	struct flight *flights;       /* a ring */
	struct est_tensor *received, *gradients; /* what is received into: of each micro-batch */
};

struct est_pipeline {
	struct est_pass *pass;        /* of the first stage */
	struct est_order order;
	struct est_action *actions;
	uint64_t action_count, flights; /* of each stage's ring */
	struct stage *stages;
	bool first, last;             /* the model's is among them */
	uint32_t leaves;              /* of the model */
	struct est_tensor ids;        /* of all micro-batches: the first stage's input_ids, the last one's labels */
	/* variables of Schedule1F1B: */
	struct est_tensor output;     /* what the last forward gave, */
	struct est_tensor sent;       /* the gradient that was sent last, */
	struct est_tensor warm;       /* and the output of the last forward but one before the first backward (send_work) */
	/* and of the runtime of several stages: */
	struct est_tensor *sends;     /* what was sent is held to the end of the step (send_ops) */
	size_t send_count;
};

static bool is_of_many(const struct est_pipeline *pipeline)
{
	return pipeline->order.stages > 1;
}

/* ---- building */

bool est_pipeline_build(struct est_pass *pass)
{
	struct est_arena *arena = pass->tape->arena;
	struct est_pass *last = pass;

	for (const struct est_model *model = pass->model->next_stage; model; model = model->next_stage) {
		struct est_model whole, *own = est_arena_take(arena, 1, sizeof(*own));
		struct est_pass *next = est_arena_take(arena, 1, sizeof(*next));

		if (!own || !next)
			return false;
		whole = est_framework_model(pass->request, model);
		*own = est_tensor_part(pass->request, &whole);
		pass->tape->unit = 0;
		if (!est_pass_build(next, pass->tape, own, pass->request))
			return false;
		next->fused = pass->fused;
		last->next_stage = next;
		last = next;
	}
	return true;
}

/* ---- buffers */

/* Elements that pass from stage to stage: a split sequence is sent and received as it is split, rank by rank of the
 * tensor groups. */
static uint64_t boundary(const struct est_pass *pass)
{
	return pass->tokens * (uint64_t)pass->model->hidden_size / (pass->tensor.splits_sequence ? pass->tensor.ranks : 1);
}

/* A buffer for each micro-batch that is traced, and one for all the others. */
static struct est_tensor *make_buffers(const struct est_pipeline *pipeline)
{
	const struct est_pass *pass = pipeline->pass;
	const struct est_order *order = &pipeline->order;
	struct est_tensor *buffers = est_arena_take(pass->tape->arena, order->traced, sizeof(*buffers));
	uint64_t others = order->micro_batches - order->traced;

	for (uint64_t i = 0; buffers && i < order->traced; i++)
		buffers[i] = est_persistent(pass->tape, boundary(pass), pass->parameter_element, EST_BUFFERS);
	if (others)
		est_persistent(pass->tape, others * boundary(pass), pass->parameter_element, EST_BUFFERS);
	return buffers;
}

static struct flight *make_flights(const struct est_pipeline *pipeline)
{
	struct est_arena *arena = pipeline->pass->tape->arena;
	struct flight *flights = est_arena_take(arena, pipeline->flights, sizeof(*flights));

	for (uint64_t i = 0; flights && i < pipeline->flights; i++)
		flights[i].uses = est_arena_take(arena, pipeline->leaves, sizeof(*flights[i].uses));
	return flights;
}

static void load_stage(struct est_pipeline *pipeline, struct stage *stage, struct est_pass *pass)
{
	stage->pass = pass;
	stage->first = !pass->model->lacks_embedding;
	stage->last = !pass->model->lacks_head;
	stage->flights = make_flights(pipeline);
	if (!stage->first)
		stage->received = make_buffers(pipeline);
	if (!stage->last)
		stage->gradients = make_buffers(pipeline);
	pipeline->first |= stage->first;
	pipeline->last |= stage->last;
}

struct est_pipeline *est_pipeline_load(struct est_pass *pass)
{
	struct est_arena *arena = pass->tape->arena;
	struct est_pipeline *pipeline = est_arena_take(arena, 1, sizeof(*pipeline));
	uint64_t in_flight;

	if (!pipeline)
		return NULL;
	*pipeline = (struct est_pipeline){ .pass = pass, .order = est_order_of(pass->model, pass->request),
					   .leaves = pass->tape->leaf_count };
	in_flight = est_order_in_flight(&pipeline->order);
	pipeline->flights = in_flight < pipeline->order.traced ? in_flight : pipeline->order.traced;
	pipeline->action_count = 2 * pipeline->order.stages * pipeline->order.traced;
	pipeline->actions = est_order_actions(&pipeline->order, arena);
	pipeline->sends = est_arena_take(arena, pipeline->action_count + 1, sizeof(*pipeline->sends));
	pipeline->stages = est_arena_take(arena, pipeline->order.stages, sizeof(*pipeline->stages));
	for (uint64_t i = 0; pipeline->stages && pass; pass = pass->next_stage)
		load_stage(pipeline, &pipeline->stages[i++], pass);
	return arena->exhausted ? NULL : pipeline;
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

/* The work of a send keeps what it sends, and is kept to the end of the step. x moves in. */
static void hold_sent(struct est_pipeline *pipeline, struct est_tensor x)
{
	pipeline->sends[pipeline->send_count++] = x;
}

/* The last stage's loss, or what the stage gives, which it keeps for its backward. */
static struct est_tensor run_stage(const struct stage *stage, struct est_pass *pass)
{
	struct est_tensor out = est_objective_forward(pass);

	if (stage->last) {
		out = est_loss(pass, out);
	} else {
		est_autocast_exit(pass->tape);
		est_pass_give(pass, out);
	}
	if (pass->schedule && pass->schedule->leaves_at_loss)
		out = est_hold(est_schedule_leave(pass->schedule, 0, out));
	return out;
}

static void forward(struct est_pipeline *pipeline, struct stage *stage, uint64_t number)
{
	struct flight *flight = &stage->flights[number % pipeline->flights];
	struct est_tape *tape = stage->pass->tape;

	est_mark(tape, EST_PHASE_FORWARD);
	flight->first_node = tape->node_count;
	flight->first_attribute = tape->attribute_count;
	flight->pass = *stage->pass;
	flight->output = est_none;
	flight->pass.output = is_of_many(pipeline) ? &flight->output : &pipeline->output;
	flight->pass.input_ids = pipeline->ids;
	flight->pass.input_ids.numel = flight->pass.tokens; /* a view */
	if (!stage->first)
		flight->pass.received = stage->received[number];
	est_schedule_micro_begin(flight->pass.schedule);
	flight->root = run_stage(stage, &flight->pass);
	est_schedule_forward_end(flight->pass.schedule);
	if (is_of_many(pipeline) && !stage->last)
		hold_sent(pipeline, est_hold(est_alias(tape, flight->root)));
	flight->end_node = tape->node_count;
	flight->end_attribute = tape->attribute_count;
	flight->end_leaf = tape->leaf_count;
	put_uses_away(pipeline, flight);
}

/* ---- backward */

/* stage_backward() takes the input's gradient, which is sent while the next one comes. */
static void send_gradient(struct est_pipeline *pipeline, const struct stage *stage, struct flight *flight)
{
	struct est_leaf *input = &pipeline->pass->tape->leaves[flight->pass.forward_leaves];
	struct est_tensor gradient = input->grad;

	if (stage->first)
		return;
	input->grad = est_none;
	if (is_of_many(pipeline)) {
		hold_sent(pipeline, gradient);
		return;
	}
	est_drop(pipeline->pass->tape, pipeline->sent);
	pipeline->sent = gradient;
}

static void drop_leaves(struct est_tape *tape, const struct flight *flight)
{
	for (uint32_t i = flight->pass.forward_leaves; i < flight->end_leaf; i++) {
		est_drop(tape, tape->leaves[i].value);
		est_drop(tape, tape->leaves[i].grad);
	}
}

static struct est_tensor gradient_of(const struct stage *stage, uint64_t number)
{
	struct est_tape *tape = stage->pass->tape;

	return stage->last ? est_empty(tape, 1, EST_32BIT) : est_alias(tape, stage->gradients[number]);
}

static void backward(struct est_pipeline *pipeline, struct stage *stage, uint64_t number)
{
	struct flight *flight = &stage->flights[number % pipeline->flights];
	struct est_pass *pass = &flight->pass;
	struct est_tape *tape = pass->tape;
	bool reentrant = pass->request->checkpointing != EST_CHECKPOINT_NONE && pass->request->use_reentrant;

	bring_uses_back(pipeline, flight);
	est_zero_micro_begin(pass->zero, number + 1 == pipeline->order.traced);
	est_ddp_micro_begin(pass->ddp, number + 1 == pipeline->order.traced);
	est_mark(tape, stage->last ? EST_PHASE_LOSS_BACKWARD : EST_PHASE_BACKWARD);
	est_tape_backward_of(tape, flight->first_node, flight->end_node, flight->root, gradient_of(stage, number));
	est_schedule_backward_end(pass->schedule);
	est_zero_backward_end(pass->zero, tape);
	send_gradient(pipeline, stage, flight);
	est_drop(tape, flight->root);
	est_drop(tape, flight->output);
	est_release_attributes_of(tape, flight->first_attribute, flight->end_attribute);
	drop_leaves(tape, flight);
	if (reentrant)
		est_pass_release(pass);
}

/* ---- the runtime of several stages: what FSDP2 gathers, and when it is reduced */

/* The stages that come next, in their order, up to as many as may be active. */
static unsigned next_stages(const struct est_pipeline *pipeline, uint64_t position, uint32_t ret[ACTIVE_STAGES])
{
	unsigned count = 0;

	for (uint64_t i = position; i < pipeline->action_count && count < ACTIVE_STAGES; i++) {
		unsigned seen = 0;

		while (seen < count && ret[seen] != pipeline->actions[i].stage)
			seen++;
		if (seen == count)
			ret[count++] = pipeline->actions[i].stage;
	}
	return count;
}

static void release(struct stage *stage)
{
	if (stage->active)
		est_schedule_release(stage->pass->schedule);
	stage->active = false;
}

/* Others go, those that come next are asked for, and the one whose turn it is has come. */
static void gather_for(struct est_pipeline *pipeline, uint64_t position)
{
	uint32_t next[ACTIVE_STAGES] = { 0 };
	unsigned count = next_stages(pipeline, position, next);
	struct stage *now = &pipeline->stages[pipeline->actions[position].stage];

	for (uint64_t i = 0; i < pipeline->order.stages; i++) {
		unsigned soon = 0;

		while (soon < count && next[soon] != i)
			soon++;
		if (soon == count)
			release(&pipeline->stages[i]);
	}
	for (unsigned i = 0; i < count; i++) {
		struct stage *stage = &pipeline->stages[next[i]];

		if (!stage->active)
			est_schedule_gather(stage->pass->schedule);
		stage->awaited |= !stage->active;
		stage->active = true;
	}
	if (now->awaited)
		est_schedule_await(now->pass->schedule);
	now->awaited = false;
}

/* What is sent in the rounds that are not traced, where the second one that is begins its backwards. */
static void hold_others(struct est_pipeline *pipeline)
{
	const struct est_order *order = &pipeline->order;
	uint64_t sends = 2 * order->stages - pipeline->first - pipeline->last;
	uint64_t others = order->micro_batches - order->traced;

	if (others)
		hold_sent(pipeline, est_hold(est_empty_as(pipeline->pass->tape, others * sends * boundary(pipeline->pass),
							  pipeline->pass->parameter_element, EST_BUFFERS)));
}

static void run_many(struct est_pipeline *pipeline)
{
	uint64_t backwards = 0;

	for (uint64_t i = 0; i < pipeline->action_count; i++) {
		const struct est_action *action = &pipeline->actions[i];
		struct stage *stage = &pipeline->stages[action->stage];

		if (pipeline->pass->schedule)
			gather_for(pipeline, i);
		if (!action->backward) {
			forward(pipeline, stage, action->number);
			continue;
		}
		if (backwards++ == pipeline->order.stages * pipeline->order.turn)
			hold_others(pipeline);
		backward(pipeline, stage, action->number);
		if (action->number + 1 == pipeline->order.traced)
			est_schedule_reduce(stage->pass->schedule);
	}
	for (uint64_t i = 0; i < pipeline->order.stages && pipeline->pass->schedule; i++)
		release(&pipeline->stages[i]);
}

/* ---- step */

/* The work of a warm-up's send holds its tensor until a send of the cool-down takes its place: when no forward is left. */
static void hold_warm(struct est_pipeline *pipeline, const struct est_action *action)
{
	const struct est_order *order = &pipeline->order;
	struct est_tape *tape = pipeline->pass->tape;

	if (!action->backward && action->number + 1 == order->ahead && !pipeline->last) {
		pipeline->warm = est_hold(est_alias(tape, pipeline->output));
	} else if (action->backward && action->number + order->ahead + 1 == order->traced) {
		est_drop(tape, pipeline->warm);
		pipeline->warm = est_none;
	}
}

static void run_one(struct est_pipeline *pipeline)
{
	for (uint64_t i = 0; i < pipeline->action_count; i++) {
		const struct est_action *action = &pipeline->actions[i];

		(action->backward ? backward : forward)(pipeline, pipeline->stages, action->number);
		hold_warm(pipeline, action);
	}
	est_schedule_reduce(pipeline->pass->schedule); /* perform_reduce_grad(), before the function returns */
}

static void begin_step(struct est_pipeline *pipeline)
{
	struct est_tape *tape = pipeline->pass->tape;

	tape->frame_count = 0;
	tape->frame_save_count = 0;
	tape->pinned = 0;
	est_mark(tape, EST_PHASE_FORWARD);
	for (struct est_pass *pass = pipeline->pass; pass; pass = pass->next_stage)
		if (pass->schedule)
			pass->schedule->syncs = false;
	pipeline->ids = est_none;
	if (pipeline->first || pipeline->last)
		pipeline->ids = est_buffer(tape, pipeline->pass->tokens * pipeline->order.micro_batches, EST_INT64);
	pipeline->output = pipeline->sent = pipeline->warm = est_none;
}

static void end_step(struct est_pipeline *pipeline)
{
	struct est_tape *tape = pipeline->pass->tape;

	while (pipeline->send_count)
		est_drop(tape, pipeline->sends[--pipeline->send_count]);
	est_drop(tape, pipeline->output);
	est_drop(tape, pipeline->sent);
	est_drop(tape, pipeline->ids);
	tape->leaf_count = pipeline->leaves;
	tape->attribute_count = 0;
	tape->node_count = 0;
}

void est_pipeline_step(struct est_pipeline *pipeline)
{
	begin_step(pipeline);
	if (is_of_many(pipeline))
		run_many(pipeline);
	else
		run_one(pipeline);
	end_step(pipeline);
}
