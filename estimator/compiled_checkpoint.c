/* A checkpointed layer within a compiled backward. Inductor sums the gradients of a layer's norms in one kernel behind all of
 * it, so both parts of the stream's gradient, and what was projected, wait; weights of the attention block are trained behind
 * that kernel, those of the MLP too in the last layer, which is the first that runs. The memory-efficient kernel is given a
 * copy of the mask for every head there: inductor lays out anew what the recomputed forward has the mask laid out for
 * already. For cuDNN it does not, and the mask is kept from the forward. */
#include "estimator/compiled_backward.h"

#define ALL (~UINT32_C(0))

static bool is_last(const struct est_compiled_model *model, unsigned layer)
{
	return layer + 1 == (unsigned)model->pass->model->num_hidden_layers;
}

/* The forward once more; the product of gate and up comes with their gradients, but in the last layer, whose own output
 * is needed */
static void recompute(struct est_compiled_model *model, unsigned layer)
{
	est_compiled_forward(model, layer, ALL, is_last(model, layer));
}

/* The gradient of a product's input, of the size of input */
static struct est_tensor through(struct est_compiled_model *model, struct est_compiled_state *state, enum est_compiled_linear which,
				 enum est_compiled_buffer input)
{
	struct est_tensor grad = est_compiled_temporary(model, est_compiled_size(model, input));

	est_compiled_release(model, &state->product[which].weight);
	return grad;
}

/* Of gate and up: the MLP's two products, and what trains their weights */
struct mlp {
	struct est_tensor gate, up, inputs[2];
};

static void train_mlp(struct est_compiled_model *model, struct est_compiled_state *state, struct mlp *mlp)
{
	est_compiled_train_linear(model, state, EST_C_DOWN_PROJ);
	est_compiled_drop(model, state, EST_C_PRODUCT);
	est_compiled_train_linear(model, state, EST_C_UP_PROJ);
	est_compiled_release(model, &mlp->up);
	est_compiled_train_linear(model, state, EST_C_GATE_PROJ);
	est_compiled_release(model, &mlp->gate);
	est_compiled_drop(model, state, EST_C_NORMED_AGAIN);
}

static void through_last_mlp(struct est_compiled_model *model, struct est_compiled_state *state, struct mlp *mlp)
{
	struct est_tensor product = through(model, state, EST_C_DOWN_PROJ, EST_C_PRODUCT);

	mlp->up = est_compiled_like(model, EST_C_UP);
	mlp->gate = est_plan_adopt(model->plan, state->buffer[EST_C_UP]);
	state->buffer[EST_C_UP] = est_none;
	est_compiled_drop(model, state, EST_C_GATE);
	est_compiled_release(model, &product);
	mlp->inputs[0] = through(model, state, EST_C_UP_PROJ, EST_C_NORMED_AGAIN);
	mlp->inputs[1] = through(model, state, EST_C_GATE_PROJ, EST_C_NORMED_AGAIN);
}

static void through_mlp(struct est_compiled_model *model, struct est_compiled_state *state, struct mlp *mlp)
{
	struct est_tensor product = through(model, state, EST_C_DOWN_PROJ, EST_C_PRODUCT);

	est_compiled_make(model, state, EST_C_PRODUCT);
	mlp->up = est_compiled_like(model, EST_C_UP);
	mlp->gate = est_compiled_like(model, EST_C_GATE);
	est_compiled_drop(model, state, EST_C_GATE);
	est_compiled_drop(model, state, EST_C_UP);
	est_compiled_release(model, &product);
	est_compiled_train_linear(model, state, EST_C_DOWN_PROJ);
	est_compiled_drop(model, state, EST_C_PRODUCT);
	est_compiled_train_linear(model, state, EST_C_UP_PROJ);
	mlp->inputs[0] = through(model, state, EST_C_UP_PROJ, EST_C_NORMED_AGAIN);
	est_compiled_release(model, &mlp->up);
	est_compiled_train_linear(model, state, EST_C_GATE_PROJ);
	est_compiled_drop(model, state, EST_C_NORMED_AGAIN);
	mlp->inputs[1] = through(model, state, EST_C_GATE_PROJ, EST_C_NORMED_AGAIN);
	est_compiled_release(model, &mlp->gate);
}

/* The gradients of q, k and v as they were projected: q's in the place of attention's */
struct heads {
	struct est_tensor grad[3], inputs[3];
};

static void through_heads(struct est_compiled_model *model, struct est_compiled_state *state, struct est_tensor attended,
			  struct heads *heads)
{
	struct est_tensor all[3], summed;
	bool copies_mask = !model->cudnn && is_last(model, (unsigned)(state - model->layers));

	est_compiled_through_attention(model, state, copies_mask, all);
	heads->grad[2] = est_compiled_like(model, EST_C_VALUE);
	est_compiled_release(model, &all[2]);
	heads->inputs[2] = through(model, state, EST_C_V, EST_C_NORMED);
	summed = est_compiled_like(model, EST_C_KEY);
	heads->grad[1] = est_compiled_like(model, EST_C_KEY);
	est_compiled_release(model, &all[1]);
	est_compiled_release(model, &summed);
	est_compiled_drop(model, state, EST_C_KEY);
	est_compiled_drop(model, state, EST_C_KEY_RSTD);
	heads->inputs[1] = through(model, state, EST_C_K, EST_C_NORMED);
	heads->grad[0] = est_plan_adopt(model->plan, attended);
	est_compiled_release(model, &all[0]);
	est_compiled_drop(model, state, EST_C_QUERY);
	est_compiled_drop(model, state, EST_C_QUERY_RSTD);
	heads->inputs[0] = through(model, state, EST_C_Q, EST_C_NORMED);
}

static void train_attention(struct est_compiled_model *model, struct est_compiled_state *state, struct heads *heads)
{
	est_compiled_train_linear(model, state, EST_C_O);
	est_compiled_drop(model, state, EST_C_ATTENDED);
	est_compiled_train_linear(model, state, EST_C_V);
	est_compiled_release(model, &heads->grad[2]);
	est_compiled_train_linear(model, state, EST_C_K);
	est_compiled_release(model, &heads->grad[1]);
	est_compiled_train_linear(model, state, EST_C_Q);
	est_compiled_release(model, &heads->grad[0]);
	est_compiled_drop(model, state, EST_C_NORMED);
}

static void train_norms(struct est_compiled_model *model, const struct est_layer *layer)
{
	est_compiled_train(model, layer->input_layernorm.weight);
	est_compiled_train(model, layer->post_attention_layernorm.weight);
	if (layer->q_norm.width) {
		est_compiled_train(model, layer->q_norm.weight);
		est_compiled_train(model, layer->k_norm.weight);
	}
}

/* The stream's gradient between the blocks: in its own place, or, in the last layer, beside the one before, which waits */
static struct est_compiled_flow turn(struct est_compiled_flow *flow, bool last)
{
	struct est_compiled_flow before = { flow->model, est_none, est_none };
	struct est_compiled_model *model = flow->model;

	if (last) {
		before = *flow;
		flow->stream = est_compiled_like(model, EST_C_X);
	} else {
		est_compiled_release(model, &flow->second);
		flow->stream = est_plan_adopt(model->plan, flow->stream);
	}
	flow->second = model->stream == EST_32BIT ? est_compiled_like(model, EST_C_DOWN) : est_none;
	return before;
}

void est_compiled_through_checkpoint(struct est_compiled_flow *flow, unsigned i)
{
	struct est_compiled_model *model = flow->model;
	struct est_compiled_state *state = &model->layers[i];
	bool last = is_last(model, i);
	struct est_compiled_flow before;
	struct mlp mlp;
	struct heads heads;

	if (!last)
		recompute(model, i);
	if (last)
		through_last_mlp(model, state, &mlp);
	else
		through_mlp(model, state, &mlp);
	before = turn(flow, last);
	through_heads(model, state, through(model, state, EST_C_O, EST_C_ATTENDED), &heads);
	train_norms(model, &model->pass->layers[i]);
	est_compiled_drop(model, state, EST_C_MIDDLE);
	est_compiled_drop(model, state, EST_C_DOWN);
	est_compiled_drop(model, state, EST_C_RSTD_AGAIN);
	est_compiled_release(model, &mlp.inputs[0]);
	est_compiled_release(model, &mlp.inputs[1]);
	if (last)
		train_mlp(model, state, &mlp);
	est_compiled_release(model, &before.second);
	est_compiled_release(model, &before.stream);
	train_attention(model, state, &heads);
	est_compiled_release(model, &flow->second);
	flow->stream = est_plan_adopt(model->plan, flow->stream);
	if (model->stream == EST_32BIT)
		flow->second = est_compiled_like(model, EST_C_DOWN);
	for (unsigned k = 0; k < 3; k++)
		est_compiled_release(model, &heads.inputs[k]);
	est_compiled_drop(model, state, EST_C_X);
	est_compiled_drop(model, state, EST_C_RSTD);
}

void est_compiled_recompute_last(struct est_compiled_model *model)
{
	unsigned layer = (unsigned)model->pass->model->num_hidden_layers - 1;

	recompute(model, layer);
	est_compiled_make(model, &model->layers[layer], EST_C_DOWN);
}
