/* mlx.optimizers (mlx/python/mlx/optimizers/optimizers.py): states in the parameter's type, a step that makes new states and new
 * parameters of the old. */
#include "estimator/mlx_step.h"

enum { STATES = 2 };

struct update {
	struct est_mlx_step *step;
	struct est_mlx_graph *graph;
	uint32_t gradient, parameter, rate; /* rate: the learning rate, in the gradient's type */
	uint32_t state[STATES];             /* replaced by the new ones */
};

static uint32_t times(struct est_mlx_graph *graph, uint32_t a, uint32_t b)
{
	return est_mlx_binary(graph, EST_MLX_MULTIPLY, a, b);
}

static uint32_t scaled(struct est_mlx_graph *graph, uint32_t a, double by)
{
	return est_mlx_scaled(graph, EST_MLX_MULTIPLY, a, by);
}

static uint32_t plus(struct est_mlx_graph *graph, uint32_t a, uint32_t b)
{
	return est_mlx_binary(graph, EST_MLX_ADD, a, b);
}

static uint32_t minus(struct est_mlx_graph *graph, uint32_t a, uint32_t b)
{
	return est_mlx_binary(graph, EST_MLX_SUBTRACT, a, b);
}

static uint32_t adam(struct update *u)
{
	struct est_mlx_graph *graph = u->graph;
	uint32_t step, root;

	u->state[0] = plus(graph, scaled(graph, u->state[0], 0.9), scaled(graph, u->gradient, 0.1));
	u->state[1] = plus(graph, scaled(graph, u->state[1], 0.999), scaled(graph, est_mlx_unary(graph, EST_MLX_SQUARE, u->gradient), 0.001));
	step = times(graph, u->rate, u->state[0]);
	root = est_mlx_scaled(graph, EST_MLX_ADD, est_mlx_unary(graph, EST_MLX_SQRT, u->state[1]), 1e-8);
	return minus(graph, u->parameter, est_mlx_binary(graph, EST_MLX_DIVIDE, step, root));
}

static uint32_t adamw(struct update *u)
{
	uint32_t kept = minus(u->graph, est_mlx_scalar(u->graph, est_mlx_at(u->graph, u->rate)->type, 1), scaled(u->graph, u->rate, 0.01));

	u->parameter = times(u->graph, u->parameter, kept);
	return adam(u);
}

static uint32_t sgd(struct update *u)
{
	return minus(u->graph, u->parameter, times(u->graph, u->rate, u->gradient));
}

static uint32_t sgd_momentum(struct update *u)
{
	u->state[0] = plus(u->graph, scaled(u->graph, u->state[0], 0.95), u->gradient);
	return minus(u->graph, u->parameter, times(u->graph, u->rate, u->state[0]));
}

static uint32_t addmm(struct est_mlx_graph *graph, uint32_t c, uint32_t a, uint32_t b)
{
	const uint32_t inputs[3] = { a, b, c };

	return est_mlx_like(graph, EST_MLX_ADDMM, c, 0, 3, inputs);
}

/* Five rounds of Newton and Schulz, on the side of the matrix that is shorter. */
static uint32_t orthogonal(struct est_mlx_graph *graph, uint32_t x)
{
	const struct est_mlx_shape shape = est_mlx_at(graph, x)->shape;
	bool tall = shape.size[0] > shape.size[1];
	uint32_t norm, square, blend;

	x = tall ? est_mlx_swap_last(graph, x) : x;
	norm = est_mlx_sum(graph, est_mlx_unary(graph, EST_MLX_SQUARE, est_mlx_flatten(graph, x, 0, 1)), 1, true);
	norm = est_mlx_reshape(graph, est_mlx_unary(graph, EST_MLX_SQRT, norm), EST_MLX_SHAPE(1, 1));
	x = est_mlx_binary(graph, EST_MLX_DIVIDE, x, est_mlx_scaled(graph, EST_MLX_ADD, norm, 1e-7));
	for (unsigned round = 0; round < 5; round++) {
		square = est_mlx_matmul(graph, x, est_mlx_swap_last(graph, x));
		blend = addmm(graph, scaled(graph, square, -4.775), square, square);
		x = addmm(graph, scaled(graph, x, 3.4445), blend, x);
	}
	return tall ? est_mlx_swap_last(graph, x) : x;
}

static uint32_t muon(struct update *u)
{
	struct est_mlx_graph *graph = u->graph;
	uint32_t gradient = plus(graph, u->gradient, scaled(graph, u->parameter, 0.01)), step;

	u->state[0] = plus(graph, scaled(graph, u->state[0], 0.95), scaled(graph, gradient, 0.05));
	step = plus(graph, scaled(graph, gradient, 0.05), scaled(graph, u->state[0], 0.95));
	if (est_mlx_at(graph, step)->shape.dims >= 2) {
		step = orthogonal(graph, step);
		u->rate = scaled(graph, u->rate, (double)est_mlx_at(graph, step)->shape.size[0]);
	}
	return minus(graph, u->parameter, times(graph, u->rate, step));
}

/* Which of mlx.optimizers the house's words mean, and how many arrays of a parameter's shape it holds of each; sgd makes its velocity
 * and never changes it. */
static const struct {
	uint32_t (*apply)(struct update *update);
	unsigned states;
	bool idle;
} optimizers[] = {
	[EST_ADAMW_TORCH_FUSED] = { adamw, 2, false }, [EST_ADAMW_TORCH] = { adamw, 2, false }, [EST_SGD] = { sgd, 1, true },
	[EST_SGD_MOMENTUM] = { sgd_momentum, 1, false }, [EST_MUON] = { muon, 1, false },
};

bool est_mlx_knows_optimizer(enum est_optimizer optimizer)
{
	return (unsigned)optimizer < sizeof(optimizers) / sizeof(optimizers[0]) && optimizers[optimizer].apply;
}

static uint32_t as_output(struct est_mlx_graph *graph, uint32_t array, enum est_category category)
{
	est_mlx_at(graph, array)->category = (uint8_t)category;
	return array;
}

/* New parameters come before all states, as mx.eval() gets the model before the optimizer. */
void est_mlx_update(struct est_mlx_step *step)
{
	struct est_mlx_graph *graph = &step->graph;
	enum est_optimizer optimizer = step->request->optimizer;
	uint32_t rate = est_mlx_leaf(graph, EST_MLX_F32, (struct est_mlx_shape){ 0 }, EST_OPTIMIZER, true);
	uint32_t *states_out = step->outputs + step->output_count + step->trained_count;
	unsigned states = optimizers[optimizer].states, changing = optimizers[optimizer].idle ? 0 : states;

	graph->phase = EST_PHASE_OPTIMIZER_STEP;
	graph->category = EST_WORKSPACE;
	for (uint32_t i = 0; i < step->trained_count && !graph->exhausted; i++) {
		const struct est_mlx_array *parameter = est_mlx_at(graph, step->trained[i]);
		struct update update = { step, graph, step->gradients[i], step->trained[i], est_mlx_astype(graph, rate, parameter->type),
					 { 0 } };
		uint32_t made;

		for (unsigned s = 0; s < states; s++)
			update.state[s] = est_mlx_leaf(graph, parameter->type, parameter->shape, EST_OPTIMIZER, optimizers[optimizer].idle);
		made = optimizers[optimizer].apply(&update);
		step->outputs[step->output_count + i] = as_output(graph, made, EST_WEIGHTS);
		for (unsigned s = 0; s < changing; s++)
			states_out[i * changing + s] = as_output(graph, update.state[s], EST_OPTIMIZER);
	}
	step->output_count += step->trained_count * (1 + changing);
}
