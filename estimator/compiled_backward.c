/* The backward of a whole compiled model (compiled_model.h): one operator, whose gradients of parameters all reach the engine
 * at its end. The order is that of the graph from the last layer to the first; inductor reorders what lowers the peak that it
 * estimates, which the lower figure allows for. */
#include "estimator/compiled_backward.h"

static struct est_tape *tape_of(const struct est_compiled_model *model)
{
	return model->pass->tape;
}

/* ---- a layer */

/* A norm's: the stream's gradient in its own place, and what the product below takes of it */
void est_compiled_through_norm(struct est_compiled_flow *flow, const struct est_norm_weights *norm, bool scaled)
{
	struct est_compiled_model *model = flow->model;

	flow->stream = est_plan_adopt(model->plan, flow->stream);
	if (model->stream == EST_32BIT || scaled)
		flow->second = est_compiled_temporary(model, est_compiled_size(model, EST_C_DOWN));
	est_compiled_train(model, norm->weight);
}

/* silu(gate) * up; gate's gradient takes up's own place where no adapter needs a second one */
static void through_gate(struct est_compiled_model *model, struct est_compiled_state *state, struct est_compiled_parts *product,
			 struct est_compiled_parts ret[2])
{
	bool in_place = !est_compiled_adapts(model, state, EST_C_GATE_PROJ) && !est_compiled_adapts(model, state, EST_C_UP_PROJ);
	struct est_compiled_pair up = est_compiled_pair_like(model, state, EST_C_UP_PROJ, EST_C_UP), gate = { est_none, est_none };

	if (in_place) {
		gate.grad = est_plan_adopt(model->plan, state->buffer[EST_C_UP]);
		state->buffer[EST_C_UP] = est_none;
	} else {
		gate = est_compiled_pair_like(model, state, EST_C_GATE_PROJ, EST_C_GATE);
	}
	est_compiled_drop_parts(model, product);
	est_compiled_drop(model, state, EST_C_GATE);
	est_compiled_drop(model, state, EST_C_UP);
	ret[0] = est_compiled_through(model, state, EST_C_UP_PROJ, EST_C_NORMED_AGAIN, false);
	est_compiled_drop_pair(model, &up);
	ret[1] = est_compiled_through(model, state, EST_C_GATE_PROJ, EST_C_NORMED_AGAIN, true);
	est_compiled_drop_pair(model, &gate);
}

/* The gradients of the MLP's input, as far as they are wanted */
static void through_mlp(struct est_compiled_flow *flow, struct est_compiled_state *state, struct est_compiled_parts ret[2])
{
	struct est_compiled_model *model = flow->model;
	struct est_compiled_parts product = est_compiled_through(model, state, EST_C_DOWN_PROJ, EST_C_PRODUCT, true);

	ret[0] = ret[1] = (struct est_compiled_parts){ { est_none, est_none } };
	est_compiled_release(model, &flow->second);
	if (est_compiled_reach(model, state) > EST_C_TO_DOWN)
		through_gate(model, state, &product, ret);
}

/* From the gradients of q, and of k and v of all heads, to that of the layer's normed input, in three times two parts. k's is
 * summed and turned in two buffers, q's in k's place, v's summed. */
static void through_heads(struct est_compiled_model *model, struct est_compiled_state *state, struct est_tensor heads[3],
			  struct est_compiled_parts ret[3])
{
	struct est_tensor summed = est_compiled_like(model, EST_C_KEY);
	struct est_compiled_pair k = est_compiled_pair_like(model, state, EST_C_K, EST_C_KEY), q, v;
	bool norms = state->buffer[EST_C_QUERY].storage != 0;

	est_compiled_release(model, &heads[1]);
	q = est_compiled_pair_like(model, state, EST_C_Q, EST_C_QUERY);
	est_compiled_release(model, &heads[0]);
	if (!norms)
		est_compiled_release(model, &summed);
	v = est_compiled_pair_like(model, state, EST_C_V, EST_C_VALUE);
	est_compiled_release(model, &heads[2]);
	ret[2] = est_compiled_through(model, state, EST_C_V, EST_C_NORMED, false);
	est_compiled_drop_pair(model, &v);
	est_compiled_release(model, &summed);
	est_compiled_drop(model, state, EST_C_KEY);
	est_compiled_drop(model, state, EST_C_KEY_RSTD);
	ret[1] = est_compiled_through(model, state, EST_C_K, EST_C_NORMED, false);
	est_compiled_drop_pair(model, &k);
	est_compiled_drop(model, state, EST_C_QUERY);
	est_compiled_drop(model, state, EST_C_QUERY_RSTD);
	ret[0] = est_compiled_through(model, state, EST_C_Q, EST_C_NORMED, true);
	est_compiled_drop_pair(model, &q);
}

/* o_proj, attention and the projections before it; inputs: the gradients of the layer's normed input, as far as they are
 * wanted */
static void through_attention_block(struct est_compiled_flow *flow, struct est_compiled_state *state,
				    struct est_compiled_parts inputs[3])
{
	struct est_compiled_model *model = flow->model;
	struct est_compiled_parts attended = est_compiled_through(model, state, EST_C_O, EST_C_ATTENDED, false);
	struct est_tensor heads[3];

	est_compiled_drop(model, state, EST_C_ATTENDED_COPY);
	est_compiled_release(model, &flow->second);
	est_compiled_release(model, &attended.part[1]);
	if (est_compiled_reach(model, state) >= EST_C_TO_HEADS) {
		est_compiled_through_attention(model, state, false, heads);
		est_compiled_drop(model, state, EST_C_ATTENDED);
		est_compiled_drop_parts(model, &attended);
		through_heads(model, state, heads, inputs);
	}
	est_compiled_drop(model, state, EST_C_ATTENDED);
}

static void through_layer(struct est_compiled_flow *flow, unsigned i)
{
	struct est_compiled_model *model = flow->model;
	const struct est_layer *layer = &model->pass->layers[i];
	struct est_compiled_state *state = &model->layers[i];
	struct est_compiled_parts again[2], inputs[3] = { { { est_none, est_none } } };

	through_mlp(flow, state, again);
	if (est_compiled_reach(model, state) < EST_C_TO_ATTENDED)
		return;
	est_compiled_through_norm(flow, &layer->post_attention_layernorm, est_compiled_adapts(model, state, EST_C_O));
	est_compiled_drop_parts(model, &again[0]);
	est_compiled_drop_parts(model, &again[1]);
	est_compiled_drop(model, state, EST_C_MIDDLE);
	est_compiled_drop(model, state, EST_C_RSTD_AGAIN);
	through_attention_block(flow, state, inputs);
	if (est_compiled_reach(model, state) < EST_C_TO_INPUT)
		return;
	if (layer->q_norm.width) {
		est_compiled_train(model, layer->q_norm.weight);
		est_compiled_train(model, layer->k_norm.weight);
	}
	est_compiled_through_norm(flow, &layer->input_layernorm, i > 0 && est_compiled_adapts(model, state - 1, EST_C_DOWN_PROJ));
	for (unsigned k = 0; k < 3; k++)
		est_compiled_drop_parts(model, &inputs[k]);
	est_compiled_drop(model, state, EST_C_X);
	est_compiled_drop(model, state, EST_C_RSTD);
}

/* ---- ends of the graph */

/* The gradient of the logits, of which autograd makes one of zeros too, as they are an output that nobody uses: it is of the
 * type that they left the graph with. It takes the logits' place where they are no output themselves. */
static struct est_tensor through_loss(struct est_compiled_model *model)
{
	struct est_tensor grad = model->casts_outputs ? est_plan_adopt(model->plan, model->logits)
				 : est_compiled_temporary(model, model->logits.numel);

	if (!model->casts_outputs)
		est_compiled_release(model, &model->logits);
	model->logits = est_none;
	est_compiled_release(model, &model->zeros);
	est_compiled_release(model, &model->labels);
	est_compiled_release(model, &model->statistics[0]);
	est_compiled_release(model, &model->statistics[1]);
	return grad;
}

/* What of the head's gradient waits for the embedding's, where they are one parameter */
struct head {
	struct est_tensor grad, trained;
	bool tied;
};

static struct head through_head(struct est_compiled_flow *flow)
{
	struct est_compiled_model *model = flow->model;
	struct est_compiled_state *last = &model->layers[model->pass->model->num_hidden_layers];
	uint32_t weight = model->pass->lm_head.weight;
	bool tied = weight == model->pass->embed_tokens && est_compiled_trains(model, weight);
	struct head head = { through_loss(model), est_none, tied };
	bool narrow = est_leaf_tensor(tape_of(model), weight).element == EST_16BIT;

	est_compiled_mark(model, EST_PHASE_BACKWARD);
	if (!(head.tied && narrow)) {
		head.trained = est_compiled_begin_training(model, weight);
		est_compiled_drop(model, last, EST_C_NORMED);
	}
	flow->stream = est_compiled_like(model, EST_C_DOWN);
	est_compiled_release(model, &model->head.weight);
	if (!(head.tied && narrow))
		est_compiled_release(model, &head.grad);
	if (!head.tied) {
		est_compiled_end_training(model, weight, head.trained);
		head.trained = est_none;
	}
	return head;
}

/* The final norm: a stream of 32 bits has its gradient in X's place */
static void through_final_norm(struct est_compiled_flow *flow)
{
	struct est_compiled_model *model = flow->model;
	unsigned layers = (unsigned)model->pass->model->num_hidden_layers;
	struct est_compiled_state *last = &model->layers[layers];
	struct est_tensor hidden = flow->stream;

	if (model->stream == EST_32BIT) {
		est_compiled_make(model, last, EST_C_X);
		flow->stream = last->buffer[EST_C_X];
		last->buffer[EST_C_X] = est_none;
	}
	est_compiled_through_norm(flow, &model->pass->norm, est_compiled_adapts(model, last - 1, EST_C_DOWN_PROJ));
	if (model->stream == EST_32BIT)
		est_compiled_release(model, &hidden);
	est_compiled_drop(model, last, EST_C_X);
	est_compiled_drop(model, last, EST_C_RSTD);
}

/* embedding_dense_backward() into zeros of 32 bits, to which a tied head's gradient is added: by the product itself
 * where it is of 16 */
static void through_embedding(struct est_compiled_flow *flow, struct head *head)
{
	struct est_compiled_model *model = flow->model;
	uint32_t leaf = model->pass->embed_tokens;
	struct est_tensor weight = est_leaf_tensor(tape_of(model), leaf), sums, narrow = est_none;

	if (!est_compiled_trains(model, leaf)) {
		est_compiled_release(model, &flow->stream);
		return;
	}
	sums = est_plan_take(model->plan, weight.numel, EST_32BIT, EST_ACTIVATIONS);
	est_compiled_release(model, &flow->stream);
	if (weight.element == EST_32BIT && !head->tied) {
		est_compiled_release(model, &sums);
	} else if (head->tied && weight.element == EST_16BIT) {
		narrow = est_compiled_temporary(model, weight.numel);
		est_compiled_release(model, &sums);
	}
	est_compiled_train(model, leaf);
	est_compiled_release(model, &sums);
	est_compiled_release(model, &narrow);
	est_compiled_release(model, &head->trained);
	est_compiled_release(model, &head->grad);
	est_compiled_drop(model, &model->layers[model->pass->model->num_hidden_layers], EST_C_NORMED);
}

static void deliver(struct est_compiled_model *model, uint32_t first, struct est_tensor ret[])
{
	struct est_tape *tape = tape_of(model);

	for (uint32_t i = 0; i < tape->leaf_count; i++) {
		struct est_tensor grad = model->gradients[i];

		if (!est_compiled_trains(model, i))
			continue;
		model->gradients[i] = est_none;
		if (i == first)
			ret[0] = grad;
		else
			est_deliver(tape, EST_EDGE_LEAF | i, grad);
	}
}

static void backward_graph(struct est_compiled_model *model)
{
	struct est_compiled_flow flow = { .model = model, .stream = est_none, .second = est_none };
	unsigned layers = (unsigned)model->pass->model->num_hidden_layers;
	struct head head = through_head(&flow);

	if (model->checkpoints)
		est_compiled_recompute_last(model);
	through_final_norm(&flow);
	for (unsigned i = layers; i-- > 0;) {
		est_compiled_mark_layer(model, i + 1);
		if (model->checkpoints)
			est_compiled_through_checkpoint(&flow, i);
		else
			through_layer(&flow, i);
	}
	est_compiled_mark_layer(model, 0);
	est_compiled_release(model, &model->mask);
	est_compiled_release(model, &flow.second);
	through_embedding(&flow, &head);
}

static void backward_model(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	struct est_compiled_model *model = (struct est_compiled_model *)(uintptr_t)node->extra[0];

	model->zeros = est_variable(tape, model->logits.numel, model->casts_outputs ? EST_32BIT : EST_16BIT);
	est_compiled_run(model, backward_graph);
	deliver(model, (uint32_t)node->extra[1], ret);
}
const struct est_op est_compiled_model_op = { "CompiledModel", backward_model };
