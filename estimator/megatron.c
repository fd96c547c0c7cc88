/* A step of Megatron's: the micro-batches, the loss, the optimizer. */
#include "estimator/megatron_run.h"

#include <string.h>
#include "estimator/adapters.h"
#include "estimator/pipeline.h"

enum { GPT_IDS = 4 }; /* ids, labels, positions, the mask of the loss */

bool est_megatron_wanted(const struct est_request *request)
{
	return request->framework == EST_MEGATRON;
}

struct est_model est_megatron_model(const struct est_model *model)
{
	struct est_model gpt = *model;

	gpt.cut_by_layers = true;
	return gpt;
}

/* ---- a micro-batch */

static struct est_megatron_layer *flight_layers(const struct est_megatron *run, uint64_t flight)
{
	return &run->layers[flight * (uint64_t)run->model->num_hidden_layers];
}

/* VocabParallelEmbedding, transposed to [s, b, h], and cut along the sequence */
static struct est_tensor embed(const struct est_megatron *run)
{
	bool transposes = run->request->micro_batch_size > 1;
	struct est_tensor found, out;

	if (run->model->lacks_embedding) /* received */
		return est_megatron_take(run, run->rows * run->hidden);
	found = est_megatron_take(run, run->tokens * run->hidden);
	if (!transposes && !run->splits_sequence)
		return found;
	out = est_megatron_take(run, run->rows * run->hidden);
	est_drop(run->tape, found);
	return out;
}

static struct est_tensor batch(const struct est_megatron *run)
{
	return est_hold(est_empty_as(run->tape, GPT_IDS * run->tokens, EST_INT64, EST_BUFFERS));
}

static struct est_tensor run_layers(const struct est_megatron *run, uint64_t flight)
{
	struct est_megatron_layer *layers = flight_layers(run, flight);
	struct est_tensor x = embed(run);

	for (int64_t i = 0; i < run->model->num_hidden_layers; i++)
		x = est_megatron_layer_forward(run, i, &layers[i], x);
	return x;
}

/* The gradient moves in */
static void run_layers_backward(const struct est_megatron *run, uint64_t flight, struct est_tensor grad)
{
	struct est_megatron_layer *layers = flight_layers(run, flight);

	for (int64_t i = run->model->num_hidden_layers; i-- > 0;)
		grad = est_megatron_layer_backward(run, i, &layers[i], grad);
	if (!run->model->lacks_embedding) {
		struct est_tensor whole = est_megatron_gather(run, run->hidden), table;

		table = est_hold(est_empty_as(run->tape, run->words * run->hidden, EST_16BIT, EST_GRADIENTS));
		est_drop(run->tape, whole);
		est_drop(run->tape, table); /* added to the buffer */
	}
	est_drop(run->tape, grad);
}

/* What the head and vocab_parallel_cross_entropy() keep: the stream and its norm, exp(logits) in fp32 */
struct loss {
	struct est_tensor stream, normed, softmax;
};

static void forward_loss(const struct est_megatron *run, struct est_tensor x, struct loss *loss)
{
	struct est_tensor logits;

	est_mark(run->tape, EST_PHASE_LOSS_FORWARD);
	loss->stream = x;
	loss->normed = est_megatron_take(run, run->rows * run->hidden);
	logits = est_megatron_take(run, run->tokens * run->words);
	loss->softmax = est_hold(est_empty_as(run->tape, run->tokens * run->words, EST_32BIT, EST_ACTIVATIONS));
	est_drop(run->tape, logits);
}

/* The logits' gradient in 16 bits: in place and cast, or, by the graph that inductor makes of the fused loss, out of a copy of
 * the softmax */
static struct est_tensor backward_logits(const struct est_megatron *run, struct est_tensor softmax)
{
	uint64_t numel = run->tokens * run->words;
	struct est_tensor copy = est_none, logits;

	if (run->request->loss == EST_LOSS_VOCAB_PARALLEL)
		copy = est_hold(est_empty_as(run->tape, numel, EST_32BIT, EST_ACTIVATIONS));
	logits = est_megatron_take(run, numel);
	est_drop(run->tape, copy);
	est_drop(run->tape, softmax);
	return logits;
}

/* The input's gradient is summed over the ranks */
static struct est_tensor backward_loss(const struct est_megatron *run, struct loss *loss)
{
	struct est_tensor logits, dgrad;

	est_mark(run->tape, EST_PHASE_LOSS_BACKWARD);
	logits = backward_logits(run, loss->softmax);
	dgrad = est_megatron_scatter(run, run->hidden, est_megatron_take(run, run->tokens * run->hidden));
	est_drop(run->tape, logits);
	est_drop(run->tape, loss->normed);
	dgrad = est_megatron_another(run, run->rows * run->hidden, dgrad); /* the norm's */
	est_drop(run->tape, loss->stream);
	return dgrad;
}

static void forward(const struct est_megatron *run, uint64_t flight)
{
	est_mark(run->tape, EST_PHASE_FORWARD);
	run->inputs[flight] = batch(run);
	if (!run->model->lacks_head)
		return;
	est_drop(run->tape, run_layers(run, flight)); /* sent, and let go of */
}

/* Of the last stage forward and backward follow each other */
static void backward(const struct est_megatron *run, uint64_t flight)
{
	struct loss loss;
	struct est_tensor grad;

	if (run->model->lacks_head) {
		grad = est_megatron_take(run, run->rows * run->hidden); /* received */
	} else {
		forward_loss(run, run_layers(run, flight), &loss);
		grad = backward_loss(run, &loss);
	}
	est_mark(run->tape, EST_PHASE_BACKWARD);
	run_layers_backward(run, flight, grad);
	est_drop(run->tape, run->inputs[flight]);
}

/* ---- the step */

/* forward_backward_pipelining_without_interleaving(), as many micro-batches as differ: all of a step in the first part */
static bool trace_stage(const struct est_megatron *run, const struct est_order *order)
{
	const struct est_action *actions = est_order_actions(order, run->tape->arena);
	uint64_t flights = est_order_in_flight(order);

	for (uint64_t i = 0; actions && i < 2 * order->traced; i++)
		(actions[i].backward ? backward : forward)(run, actions[i].number % flights);
	return actions != NULL;
}

/* A stage's micro-batches do not come one after the other: all are the first part */
static bool trace_pipeline(struct est_program *program, const struct est_megatron *run, const struct est_order *order)
{
	bool complete;

	program->accumulation_steps = 1;
	est_program_begin(program, run->tape, EST_PART_MICRO_FIRST);
	complete = trace_stage(run, order);
	est_program_end(program, run->tape, EST_PART_MICRO_FIRST);
	est_program_empty(program, run->tape, EST_PART_MICRO_NEXT);
	return complete;
}

static void trace_micros(struct est_program *program, const struct est_megatron *run)
{
	bool accumulates = run->request->gradient_accumulation_steps > 1;

	program->accumulation_steps = (uint64_t)run->request->gradient_accumulation_steps;
	for (enum est_part part = EST_PART_MICRO_FIRST; part <= EST_PART_MICRO_NEXT; part++) {
		est_program_begin(program, run->tape, part);
		if (part == EST_PART_MICRO_FIRST || accumulates) {
			forward(run, 0);
			backward(run, 0);
		}
		est_program_end(program, run->tape, part);
	}
}

/* The precision-aware optimizer takes gradients as they are */
static bool copies_gradients(const struct est_request *request)
{
	return est_megatron_gradient_element(request) == EST_16BIT && request->optimizer_state_dtype == EST_FP32
	       && request->offload.optimizer == EST_ON_GPU;
}

/* Adam's moments, made in the first step; gradients that are not fp32 are copied for it */
static void trace_step(struct est_program *program, const struct est_megatron *run)
{
	uint8_t moment = run->request->optimizer_state_dtype == EST_FP32 ? EST_32BIT : EST_16BIT;
	struct est_tensor copies = est_none;

	est_program_begin(program, run->tape, EST_PART_CLIP);
	est_mark(run->tape, EST_PHASE_OPTIMIZER_STEP);
	if (copies_gradients(run->request))
		copies = est_hold(est_empty_as(run->tape, est_megatron_stepped(run), EST_32BIT, EST_OPTIMIZER));
	est_program_end(program, run->tape, EST_PART_CLIP);
	est_program_begin(program, run->tape, EST_PART_STATES);
	est_megatron_make_states(run, moment);
	est_megatron_make_states(run, moment);
	est_program_end(program, run->tape, EST_PART_STATES);
	est_program_begin(program, run->tape, EST_PART_UPDATE);
	est_drop(run->tape, copies);
	est_program_end(program, run->tape, EST_PART_UPDATE);
}

/* Without a pipeline, one micro-batch after the other */
static struct est_order order_of(const struct est_model *model, const struct est_request *request)
{
	if (request->parallelism.pipeline > 1)
		return est_order_of(model, request);
	return (struct est_order){ .stages = 1, .turn = 1, .micro_batches = 1, .traced = 2 };
}

/* Of a layer a table holds its weights, three states of each, and what it keeps of each micro-batch in flight */
static struct est_tape_limits limits_for(const struct est_model *model, const struct est_order *order)
{
	enum { WEIGHTS = EST_MEGATRON_WEIGHTS + EST_MEGATRON_EXPERT_WEIGHTS, EVENTS = 512 };
	uint64_t layers = (uint64_t)model->num_hidden_layers + 4;
	uint64_t events = layers * (order->traced * EVENTS + 5 * WEIGHTS) + 1024;
	uint64_t storages = layers * (est_order_in_flight(order) * EST_MEGATRON_KEPT + 4 * WEIGHTS) + 256;

	return (struct est_tape_limits){ .events = events, .storages = (uint32_t)storages, .nodes = 1, .leaves = 1, .frames = 1,
					 .attributes = 1, .frame_saves = 1 };
}

bool est_megatron_trace(struct est_program *program, const struct est_model *model, const struct est_request *request,
			struct est_arena *arena)
{
	const struct est_order order = order_of(model, request);
	struct est_tape_limits limits = limits_for(model, &order);
	struct est_tape *tape = est_arena_take(arena, 1, sizeof(*tape));
	struct est_megatron run;

	memset(program, 0, sizeof(*program));
	if (!tape || !est_tape_init(tape, arena, &limits))
		return false;
	for (unsigned i = 0; i < EST_CATEGORIES; i++)
		tape->shards[i] = 1;
	est_program_begin(program, tape, EST_PART_LOAD);
	est_mark(tape, EST_PHASE_LOAD);
	if (!est_megatron_load(&run, tape, model, request, est_order_in_flight(&order)))
		return false;
	est_program_end(program, tape, EST_PART_LOAD);
	est_program_empty(program, tape, EST_PART_REHEARSAL);
	if (request->parallelism.pipeline <= 1)
		trace_micros(program, &run);
	else if (!trace_pipeline(program, &run, &order))
		return false;
	trace_step(program, &run);
	program->events = tape->events;
	program->ids = tape->storage_count;
	program->expandable = request->expandable_segments;
	program->host_states = tape->host_states;
	program->surplus = run.others.total + run.routed.total; /* what published runs have beyond it: docs/accuracy.md */
	program->trainable_parameters = est_trainable_parameters(request, model);
	return !tape->exhausted && !arena->exhausted;
}
