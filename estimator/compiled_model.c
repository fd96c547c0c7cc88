/* The graphs of a whole compiled model, as two operators of the tape: one forward, one backward. */
#include "estimator/compiled_model.h"

#include <string.h>

void est_compiled_mark(const struct est_compiled_model *model, enum est_phase phase)
{
	if (!model->plan->counts)
		est_mark(model->pass->tape, phase);
}

void est_compiled_mark_layer(const struct est_compiled_model *model, unsigned layer)
{
	if (!model->plan->counts)
		est_mark_layer(model->pass->tape, layer);
}

static uint64_t bytes_of(const struct est_tensor *tensors, size_t count)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < count; i++)
		bytes += tensors[i].storage ? tensors[i].numel * tensors[i].element : 0;
	return bytes;
}

/* What a graph is given beside the parameters */
static uint64_t given(const struct est_compiled_model *model)
{
	const struct est_tensor others[] = { model->mask, model->labels, model->logits, model->statistics[0],
					     model->statistics[1], model->zeros, model->head.weight };
	uint64_t bytes = bytes_of(others, sizeof(others) / sizeof(others[0]));

	for (int64_t i = 0; i <= model->pass->model->num_hidden_layers; i++) {
		const struct est_compiled_state *state = &model->layers[i];

		bytes += bytes_of(state->buffer, EST_C_BUFFERS);
		for (unsigned k = 0; k < EST_C_LINEARS; k++)
			bytes += bytes_of(&state->product[k].weight, sizeof(state->product[k]) / sizeof(struct est_tensor));
	}
	return bytes;
}

void est_compiled_run(struct est_compiled_model *model, void (*graph)(struct est_compiled_model *model))
{
	size_t bytes = ((size_t)model->pass->model->num_hidden_layers + 1) * sizeof(*model->layers);
	struct est_compiled_model before = *model;

	memcpy(model->before, model->layers, bytes);
	est_plan_begin(model->plan, model->pass->tape, given(model));
	graph(model);
	*model = before;
	memcpy(model->layers, model->before, bytes);
	est_plan_settle(model->plan);
	graph(model);
}

static struct est_plan *plan_of(struct est_arena *arena, size_t states)
{
	struct est_plan *plan = est_arena_take(arena, 1, sizeof(*plan));

	if (!plan)
		return NULL;
	plan->limit = (uint32_t)states * EST_PLAN_STEPS_PER_LAYER;
	plan->steps = est_arena_reserve(arena, plan->limit, sizeof(*plan->steps));
	return plan->steps ? plan : NULL;
}

static struct est_compiled_model *model_of(struct est_pass *pass)
{
	struct est_arena *arena = pass->tape->arena;
	struct est_compiled_model *model = pass->compiled_model;

	if (!model)
		model = pass->compiled_model = est_arena_take(arena, 1, sizeof(*model));
	if (!model)
		return NULL;
	if (!model->layers) {
		size_t states = (size_t)pass->model->num_hidden_layers + 1;

		model->layers = est_arena_take(arena, states, sizeof(*model->layers));
		model->before = est_arena_take(arena, states, sizeof(*model->before));
		model->gradients = est_arena_take(arena, pass->tape->leaf_count, sizeof(*model->gradients));
		model->plan = plan_of(arena, states);
	}
	return model->layers && model->before && model->gradients && model->plan ? model : NULL;
}

/* One node for all of the model, of whose trained parameters the first is its input, and the others come beside it */
static struct est_node *join_graph(struct est_compiled_model *model)
{
	struct est_tape *tape = model->pass->tape;
	struct est_node *node = NULL;

	for (uint32_t i = 0; i < tape->leaf_count; i++) {
		struct est_tensor value = est_leaf_tensor(tape, i);

		if (!est_is_trained(&tape->leaves[i]))
			continue;
		if (node) {
			est_expect(tape, node, i);
			continue;
		}
		node = est_node_new(tape, &est_compiled_model_op, 1, &value);
		node->extra[0] = (uint64_t)(uintptr_t)model;
		node->extra[1] = i;
	}
	return node;
}

struct est_tensor est_compiled_model_loss(struct est_pass *pass)
{
	struct est_compiled_model *model = model_of(pass);
	struct est_node *node;
	struct est_tensor loss;

	if (!model) {
		pass->tape->exhausted = true;
		return est_variable(pass->tape, 1, EST_32BIT);
	}
	pass->forward_leaves = pass->tape->leaf_count;
	model->pass = pass;
	model->stream = pass->parameter_element;
	model->checkpoints = pass->request->checkpointing == EST_CHECKPOINT_FULL;
	model->cudnn = est_cudnn_takes(pass, EST_16BIT);
	model->casts_outputs = pass->request->precision != EST_PURE_BF16;
	node = join_graph(model);
	est_compiled_run(model, est_compiled_forward_graph);
	loss = est_hold(est_output(pass->tape, node, 0, est_empty(pass->tape, 1, EST_32BIT)));
	est_drop(pass->tape, model->outputs);
	model->outputs = est_none;
	return loss;
}

size_t est_compiled_model_layer_size(void)
{
	return 2 * sizeof(struct est_compiled_state) + EST_PLAN_STEPS_PER_LAYER * sizeof(struct est_plan_step);
}
