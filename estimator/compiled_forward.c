/* torch.compile of a whole model of Llama's kind, as Transformers' Trainer does it: Dynamo sees one graph, the loss within.
 * AOTAutograd's min-cut partitioner chooses what the backward finds: beside the inputs and results of products what
 * attention keeps, and the stream twice a layer; autocast's copies of weights all stay. Dynamo of torch 2.13 never leaves
 * the causal mask out, so attention gets one, k and v are repeated for all heads, and the memory-efficient kernel runs, or cuDNN's.
 * What inductor fuses reaches memory nowhere between these buffers. */
#include "estimator/compiled_model.h"

#define BIT(buffer) (UINT32_C(1) << (buffer))

static void drop_unless(const struct est_compiled_model *model, struct est_compiled_state *state, uint32_t kept,
			enum est_compiled_buffer which)
{
	if (!(kept & BIT(which)))
		est_compiled_drop(model, state, which);
}

/* torch.where(mask, 0, -inf) of each sequence, for all layers. Inductor pads its rows to 128 bytes where they are long
 * (config.padding_stride_threshold); one made of the batch's own mask is first padded for the kernel. */
static void make_mask(struct est_compiled_model *model)
{
	const struct est_pass *pass = model->pass;
	bool padded = pass->sequence > 1024 && (pass->sequence % 8 == 0 || !pass->request->attention_mask);
	uint64_t row = est_round_up(pass->sequence, padded ? 64 : 8);

	if (!model->mask.storage)
		model->mask = est_plan_take(model->plan, pass->batch * pass->sequence * row, EST_16BIT, EST_ACTIVATIONS);
}

/* autocast's copy of a weight: none of one that is of 16 bits already */
static struct est_tensor cast(const struct est_compiled_model *model, uint32_t leaf)
{
	struct est_tensor weight = est_leaf_tensor(model->pass->tape, leaf);

	return weight.element == EST_32BIT ? est_plan_take(model->plan, weight.numel, EST_16BIT, EST_ACTIVATIONS) : est_none;
}

/* Whether an adapter is of 32 bits. */
static bool is_wide(const struct est_compiled_model *model, const struct est_adapter *adapter)
{
	return est_leaf_tensor(model->pass->tape, adapter->a.weight).element == EST_32BIT;
}

/* What an adapter multiplies in the place of the layer's own buffer: its cast there and back is not undone where heads lie
 * otherwise, and dropout leaves another, with a mask for the input's gradient. */
static void take_adapters_input(const struct est_compiled_model *model, struct est_compiled_state *state,
				enum est_compiled_linear which, const struct est_linear *linear)
{
	struct est_compiled_product *product = &state->product[which];
	uint64_t numel = model->pass->tokens * linear->in;

	if (linear->adapter->dropout > 0) {
		if (est_compiled_wants_input(model, state, which))
			product->mask = est_plan_take(model->plan, numel, EST_BYTE, EST_ACTIVATIONS);
		product->dropped = est_plan_take(model->plan, numel, EST_16BIT, EST_ACTIVATIONS);
	} else if (which == EST_C_O && is_wide(model, linear->adapter)) {
		est_compiled_make(model, state, EST_C_ATTENDED_COPY);
	}
}

/* linear(x) into to, and what its adapter adds to it: a temporary, or none */
static struct est_tensor multiply(const struct est_compiled_model *model, struct est_compiled_state *state,
				  enum est_compiled_linear which, enum est_compiled_buffer to)
{
	const struct est_linear *linear = est_compiled_linear(&model->pass->layers[0] + (state - model->layers), which);
	struct est_compiled_product *product = &state->product[which];

	if (!product->weight.storage)
		product->weight = cast(model, linear->weight);
	est_compiled_make(model, state, to);
	if (!linear->adapter)
		return est_none;
	product->a = cast(model, linear->adapter->a.weight);
	take_adapters_input(model, state, which, linear);
	product->narrow = est_plan_take(model->plan, model->pass->tokens * linear->adapter->a.out, EST_16BIT, EST_ACTIVATIONS);
	product->b = cast(model, linear->adapter->b.weight);
	return est_plan_take(model->plan, est_compiled_size(model, to), EST_16BIT, EST_ACTIVATIONS);
}

/* k and v, repeated for all heads; q's own place serves for v where it is not kept */
static void repeat(const struct est_compiled_model *model, struct est_compiled_state *state, uint32_t kept)
{
	const struct est_model *shape = model->pass->model;

	est_compiled_make(model, state, EST_C_QUERY_ROTATED);
	est_compiled_make(model, state, EST_C_KEYS);
	drop_unless(model, state, kept, EST_C_KEY);
	if (shape->num_attention_heads == shape->num_key_value_heads)
		est_compiled_reuse(model, state, EST_C_VALUE, EST_C_VALUES);
	else if (!(kept & BIT(EST_C_QUERY)))
		est_compiled_reuse(model, state, EST_C_QUERY, EST_C_VALUES);
	else
		est_compiled_make(model, state, EST_C_VALUES);
	est_compiled_drop(model, state, EST_C_VALUE);
	drop_unless(model, state, kept, EST_C_QUERY);
}

static void attend(struct est_compiled_model *model, struct est_compiled_state *state, uint32_t kept)
{
	struct est_tensor added[3];

	est_compiled_make(model, state, EST_C_RSTD);
	est_compiled_make(model, state, EST_C_NORMED);
	drop_unless(model, state, kept, EST_C_RSTD);
	added[0] = multiply(model, state, EST_C_Q, EST_C_QUERY);
	added[1] = multiply(model, state, EST_C_K, EST_C_KEY);
	added[2] = multiply(model, state, EST_C_V, EST_C_VALUE);
	drop_unless(model, state, kept, EST_C_NORMED);
	if (est_compiled_has_head_norms(model)) {
		est_compiled_make(model, state, EST_C_QUERY_RSTD);
		est_compiled_make(model, state, EST_C_KEY_RSTD);
		drop_unless(model, state, kept, EST_C_QUERY_RSTD);
		drop_unless(model, state, kept, EST_C_KEY_RSTD);
	}
	repeat(model, state, kept);
	for (unsigned i = 0; i < 3; i++)
		est_plan_give(model->plan, &added[i]);
	make_mask(model);
	est_compiled_make(model, state, EST_C_ATTENDED);
	est_compiled_make(model, state, EST_C_LOGSUMEXP);
	drop_unless(model, state, kept, EST_C_QUERY_ROTATED);
	drop_unless(model, state, kept, EST_C_KEYS);
	drop_unless(model, state, kept, EST_C_VALUES);
	drop_unless(model, state, kept, EST_C_LOGSUMEXP);
}

/* o_proj's result, to which the stream is added in place; a wider stream is another buffer, but for the first layer's,
 * which is summed again whenever it is needed */
static void project(const struct est_compiled_model *model, struct est_compiled_state *state, uint32_t kept)
{
	struct est_tensor added = multiply(model, state, EST_C_O, EST_C_MIDDLE), narrow = state->buffer[EST_C_MIDDLE];
	bool widens = model->stream == EST_32BIT && kept & BIT(EST_C_MIDDLE) && state != model->layers;

	if (widens) {
		state->buffer[EST_C_MIDDLE] = est_compiled_like(model, EST_C_X);
		est_plan_give(model->plan, &narrow);
	} else {
		state->buffer[EST_C_MIDDLE] = est_plan_adopt(model->plan, narrow);
	}
	drop_unless(model, state, kept, EST_C_ATTENDED);
	est_plan_give(model->plan, &added);
}

void est_compiled_forward(struct est_compiled_model *model, unsigned layer, uint32_t kept, bool multiplies)
{
	struct est_compiled_state *state = &model->layers[layer];
	struct est_tensor added[2];

	attend(model, state, kept);
	project(model, state, kept);
	est_compiled_make(model, state, EST_C_RSTD_AGAIN);
	est_compiled_make(model, state, EST_C_NORMED_AGAIN);
	drop_unless(model, state, kept, EST_C_RSTD_AGAIN);
	added[0] = multiply(model, state, EST_C_GATE_PROJ, EST_C_GATE);
	added[1] = multiply(model, state, EST_C_UP_PROJ, EST_C_UP);
	drop_unless(model, state, kept, EST_C_NORMED_AGAIN);
	if (multiplies && kept & BIT(EST_C_GATE))
		est_compiled_make(model, state, EST_C_PRODUCT);
	else if (multiplies)
		est_compiled_reuse(model, state, EST_C_GATE, EST_C_PRODUCT);
	drop_unless(model, state, kept, EST_C_UP);
	est_plan_give(model->plan, &added[0]);
	est_plan_give(model->plan, &added[1]);
}

/* The stream after the layer: the next one's X, in the place of down_proj's result unless it is wider. */
static void finish_layer(const struct est_compiled_model *model, unsigned layer, uint32_t kept)
{
	struct est_compiled_state *state = &model->layers[layer], *next = state + 1;
	struct est_tensor added = multiply(model, state, EST_C_DOWN_PROJ, EST_C_DOWN);

	drop_unless(model, state, kept, EST_C_PRODUCT);
	if (model->stream == EST_16BIT) {
		next->buffer[EST_C_X] = est_plan_adopt(model->plan, state->buffer[EST_C_DOWN]);
		state->buffer[EST_C_DOWN] = est_none;
	} else {
		est_compiled_make(model, next, EST_C_X);
		est_compiled_drop(model, state, EST_C_DOWN);
	}
	drop_unless(model, state, kept, EST_C_MIDDLE);
	est_plan_give(model->plan, &added);
}

/* Whether the input of the product is what its adapter multiplies. */
static bool adapts(const struct est_layer *layer, enum est_compiled_linear which)
{
	const struct est_adapter *adapter = est_compiled_linear(layer, which)->adapter;

	return adapter && adapter->dropout <= 0;
}

/* What a backward needs that goes so far down. */
static uint32_t kept_to(const struct est_compiled_model *model, enum est_compiled_reach reach)
{
	static const uint32_t gate = BIT(EST_C_GATE) | BIT(EST_C_UP), middle = BIT(EST_C_MIDDLE) | BIT(EST_C_RSTD_AGAIN);
	static const uint32_t attention = BIT(EST_C_QUERY_ROTATED) | BIT(EST_C_KEYS) | BIT(EST_C_VALUES) | BIT(EST_C_ATTENDED)
					  | BIT(EST_C_LOGSUMEXP);
	static const uint32_t heads = BIT(EST_C_QUERY) | BIT(EST_C_KEY) | BIT(EST_C_QUERY_RSTD) | BIT(EST_C_KEY_RSTD);
	uint32_t kept = 0;

	if (reach >= EST_C_TO_GATE)
		kept |= gate;
	if (reach >= EST_C_TO_ATTENDED)
		kept |= middle;
	if (reach >= EST_C_TO_HEADS)
		kept |= attention | (est_compiled_has_head_norms(model) ? heads : 0);
	return reach == EST_C_TO_INPUT ? kept | BIT(EST_C_RSTD) : kept;
}

/* What stays of a layer: X by itself, with a checkpoint alone. An input of a product stays where its weight, or its
 * adapter's, is trained. */
static uint32_t kept_of(const struct est_compiled_model *model, unsigned i)
{
	const struct est_layer *layer = &model->pass->layers[i];
	bool full = model->pass->request->method == EST_FULL;
	uint32_t kept = kept_to(model, est_compiled_reach(model, &model->layers[i]));

	if (model->checkpoints)
		return 0;
	if (full || adapts(layer, EST_C_Q) || adapts(layer, EST_C_K) || adapts(layer, EST_C_V))
		kept |= BIT(EST_C_NORMED);
	if (adapts(layer, EST_C_O) && !is_wide(model, layer->o_proj.adapter)) /* which would be of ATTENDED_COPY */
		kept |= BIT(EST_C_ATTENDED);
	if (full || adapts(layer, EST_C_GATE_PROJ) || adapts(layer, EST_C_UP_PROJ))
		kept |= BIT(EST_C_NORMED_AGAIN);
	if (full || adapts(layer, EST_C_DOWN_PROJ))
		kept |= BIT(EST_C_PRODUCT);
	return kept;
}

/* A checkpoint's forward keeps no copies of weights for the backward. */
static void drop_products(const struct est_compiled_model *model, struct est_compiled_state *state)
{
	for (unsigned i = 0; i < EST_C_LINEARS; i++)
		est_plan_give(model->plan, &state->product[i].weight);
}

static void run_layers(struct est_compiled_model *model)
{
	unsigned layers = (unsigned)model->pass->model->num_hidden_layers;

	if (model->pass->request->method == EST_FULL) /* else made again of the tokens wherever it is needed */
		est_compiled_make(model, &model->layers[0], EST_C_X);
	for (unsigned i = 0; i < layers; i++) {
		uint32_t kept = kept_of(model, i);

		est_compiled_mark_layer(model, i + 1);
		est_compiled_forward(model, i, kept, true);
		finish_layer(model, i, kept);
		if (model->checkpoints)
			drop_products(model, &model->layers[i]);
	}
	est_compiled_mark_layer(model, 0);
}

/* The final norm, the head and ForCausalLMLoss: no copy of the logits in fp32, but the one that accelerate makes of
 * autocast's results. */
static void end_with_loss(struct est_compiled_model *model)
{
	struct est_pass *pass = model->pass;
	struct est_compiled_state *last = &model->layers[pass->model->num_hidden_layers];

	est_compiled_make(model, last, EST_C_RSTD);
	est_compiled_make(model, last, EST_C_NORMED);
	if (model->checkpoints) {
		est_compiled_drop(model, last, EST_C_X);
		if (!model->cudnn) /* the mask is made again */
			est_plan_give(model->plan, &model->mask);
	}
	est_compiled_mark(model, EST_PHASE_LOSS_FORWARD);
	model->head.weight = cast(model, pass->lm_head.weight);
	model->logits = est_plan_take(model->plan, pass->tokens * pass->lm_head.out, EST_16BIT, EST_ACTIVATIONS);
	if (pass->request->method != EST_FULL)
		est_compiled_drop(model, last, EST_C_NORMED);
	model->labels = est_plan_take(model->plan, pass->batch * (pass->sequence + 1), EST_INT64, EST_BUFFERS);
	for (unsigned i = 0; i < 2; i++)
		model->statistics[i] = est_plan_take(model->plan, pass->tokens, EST_32BIT, EST_ACTIVATIONS);
	if (model->casts_outputs)
		model->outputs = est_plan_take(model->plan, model->logits.numel, EST_32BIT, EST_ACTIVATIONS);
}

void est_compiled_forward_graph(struct est_compiled_model *model)
{
	run_layers(model);
	end_with_loss(model);
}
