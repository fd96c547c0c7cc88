/* Products of a compiled backward, and the gradients of parameters that they are. */
#include "estimator/compiled_backward.h"

static struct est_tape *tape_of(const struct est_compiled_model *model)
{
	return model->pass->tape;
}

void est_compiled_release(const struct est_compiled_model *model, struct est_tensor *tensor)
{
	est_plan_give(model->plan, tensor);
}

struct est_tensor est_compiled_temporary(const struct est_compiled_model *model, uint64_t numel)
{
	return est_plan_take(model->plan, numel, EST_16BIT, EST_ACTIVATIONS);
}

void est_compiled_drop_parts(const struct est_compiled_model *model, struct est_compiled_parts *parts)
{
	est_compiled_release(model, &parts->part[0]);
	est_compiled_release(model, &parts->part[1]);
}

/* ---- gradients of parameters */

static struct est_tensor gradient_of(const struct est_compiled_model *model, uint32_t leaf)
{
	struct est_tensor weight = est_leaf_tensor(tape_of(model), leaf);

	return est_plan_take(model->plan, weight.numel, weight.element, EST_GRADIENTS);
}

bool est_compiled_trains(const struct est_compiled_model *model, uint32_t leaf)
{
	return leaf != EST_NO_LEAF && est_is_trained(&tape_of(model)->leaves[leaf]);
}

void est_compiled_train(struct est_compiled_model *model, uint32_t leaf)
{
	if (est_compiled_trains(model, leaf))
		model->gradients[leaf] = gradient_of(model, leaf);
}

struct est_tensor est_compiled_begin_training(struct est_compiled_model *model, uint32_t leaf)
{
	struct est_tensor weight = est_leaf_tensor(tape_of(model), leaf);

	if (weight.element == EST_32BIT && est_compiled_trains(model, leaf))
		return est_compiled_temporary(model, weight.numel);
	est_compiled_train(model, leaf);
	return est_none;
}

void est_compiled_end_training(struct est_compiled_model *model, uint32_t leaf, struct est_tensor product)
{
	if (product.storage)
		est_compiled_train(model, leaf);
	est_compiled_release(model, &product);
}

static void train_at_once(struct est_compiled_model *model, uint32_t leaf)
{
	est_compiled_end_training(model, leaf, est_compiled_begin_training(model, leaf));
}

void est_compiled_train_linear(struct est_compiled_model *model, struct est_compiled_state *state, enum est_compiled_linear which)
{
	const struct est_linear *linear = est_compiled_linear(&model->pass->layers[state - model->layers], which);

	train_at_once(model, linear->weight);
	if (linear->has_bias)
		train_at_once(model, linear->bias);
}

/* ---- products */

static const struct est_linear *linear_of(const struct est_compiled_model *model, const struct est_compiled_state *state,
					  enum est_compiled_linear which)
{
	return est_compiled_linear(&model->pass->layers[state - model->layers], which);
}

static void through_adapter(struct est_compiled_model *model, struct est_compiled_product *product,
			    const struct est_adapter *adapter)
{
	struct est_tensor narrow;

	train_at_once(model, adapter->b.weight);
	est_compiled_release(model, &product->narrow);
	narrow = est_compiled_temporary(model, model->pass->tokens * adapter->a.out);
	est_compiled_release(model, &product->b);
	train_at_once(model, adapter->a.weight);
	est_compiled_release(model, &product->dropped);
	est_compiled_release(model, &narrow);
	est_compiled_release(model, &product->a);
}

/* The gradients of weight and adapter, and of the input where it is wanted, of the size of input, which goes where
 * nothing else needs it. */
struct est_compiled_parts est_compiled_through(struct est_compiled_model *model, struct est_compiled_state *state,
					       enum est_compiled_linear which, enum est_compiled_buffer input, bool last)
{
	const struct est_linear *linear = linear_of(model, state, which);
	struct est_compiled_product *product = &state->product[which];
	struct est_tensor trained = est_compiled_begin_training(model, linear->weight);
	struct est_compiled_parts parts = { { est_none, est_none } };
	bool wanted = est_compiled_wants_input(model, state, which);
	uint64_t numel = est_compiled_size(model, input);

	if (last && !linear->adapter)
		est_compiled_drop(model, state, input);
	if (linear->has_bias)
		train_at_once(model, linear->bias);
	if (linear->adapter) {
		through_adapter(model, product, linear->adapter);
		if (last)
			est_compiled_drop(model, state, input);
		if (wanted)
			parts.part[1] = est_compiled_temporary(model, numel);
		est_compiled_release(model, &product->mask);
	}
	if (wanted)
		parts.part[0] = est_compiled_temporary(model, numel);
	est_compiled_release(model, &product->weight);
	est_compiled_end_training(model, linear->weight, trained);
	return parts;
}

bool est_compiled_adapts(const struct est_compiled_model *model, const struct est_compiled_state *state,
			 enum est_compiled_linear which)
{
	return linear_of(model, state, which)->adapter != NULL;
}

struct est_compiled_pair est_compiled_pair_like(const struct est_compiled_model *model, const struct est_compiled_state *state,
						enum est_compiled_linear which, enum est_compiled_buffer like)
{
	struct est_compiled_pair pair = { est_compiled_like(model, like), est_none };

	if (est_compiled_adapts(model, state, which))
		pair.scaled = est_compiled_like(model, like);
	return pair;
}

void est_compiled_drop_pair(const struct est_compiled_model *model, struct est_compiled_pair *pair)
{
	est_compiled_release(model, &pair->grad);
	est_compiled_release(model, &pair->scaled);
}

/* The memory-efficient kernel: gradients of q, and of k and v of all heads; mask: a copy for each head that it is given,
 * or none */
void est_compiled_through_attention(struct est_compiled_model *model, struct est_compiled_state *state, bool copies_mask,
				    struct est_tensor ret[3])
{
	struct est_fused_call call = { .output = est_compiled_size(model, EST_C_ATTENDED) };
	struct est_tensor copy = est_none;

	if (copies_mask)
		copy = est_compiled_temporary(model, model->pass->batch * (uint64_t)model->pass->model->num_attention_heads
					  * model->pass->sequence * model->pass->sequence);
	call.in[0] = state->buffer[EST_C_QUERY_ROTATED];
	call.in[1] = state->buffer[EST_C_KEYS];
	call.in[2] = state->buffer[EST_C_VALUES];
	if (!model->plan->counts)
		est_fused_gradients(model->pass, model->cudnn ? EST_FUSED_ATEN_CUDNN : EST_FUSED_ATEN_EFFICIENT, &call, ret);
	for (unsigned i = 0; i < 3; i++)
		ret[i] = est_plan_receive(model->plan, call.in[i].numel, EST_16BIT, ret[i]);
	est_compiled_release(model, &copy);
	est_compiled_drop(model, state, EST_C_QUERY_ROTATED);
	est_compiled_drop(model, state, EST_C_KEYS);
	est_compiled_drop(model, state, EST_C_VALUES);
	est_compiled_drop(model, state, EST_C_LOGSUMEXP);
}
