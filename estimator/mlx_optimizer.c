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

static uint32_t every_axis(const struct est_mlx_graph *graph, uint32_t x)
{
	return (1U << est_mlx_at(graph, x)->shape.dims) - 1;
}

static uint32_t rms(struct est_mlx_graph *graph, uint32_t x)
{
	return est_mlx_unary(graph, EST_MLX_SQRT, est_mlx_mean(graph, est_mlx_unary(graph, EST_MLX_SQUARE, x), every_axis(graph, x), false));
}

static uint32_t rsqrt(struct est_mlx_graph *graph, uint32_t x)
{
	return est_mlx_like(graph, EST_MLX_SQRT, x, 1, 1, &x);
}

/* rate * old + (1 - rate) * new: the decay follows from the count of steps, as the learning rate does */
static uint32_t decayed(struct update *u, uint32_t old, uint32_t new)
{
	struct est_mlx_graph *graph = u->graph;
	uint32_t rest = minus(graph, est_mlx_scalar(graph, est_mlx_at(graph, u->rate)->type, 1), u->rate);

	return plus(graph, times(graph, u->rate, old), times(graph, rest, new));
}

/* Sums of squares of rows and of columns of a matrix, whose product stands for those of its elements. */
static uint32_t factored(struct update *u, uint32_t squares)
{
	struct est_mlx_graph *graph = u->graph;
	uint32_t row, column;

	u->state[0] = decayed(u, u->state[0], est_mlx_mean(graph, squares, 2, false));
	u->state[1] = decayed(u, u->state[1], est_mlx_mean(graph, squares, 1, false));
	row = rsqrt(graph, est_mlx_binary(graph, EST_MLX_DIVIDE, u->state[0], est_mlx_mean(graph, u->state[0], 1, true)));
	column = rsqrt(graph, u->state[1]);
	return times(graph, est_mlx_expand(graph, row, 2), est_mlx_expand(graph, column, 1));
}

static uint32_t adafactor(struct update *u)
{
	struct est_mlx_graph *graph = u->graph;
	enum est_mlx_type type = est_mlx_at(graph, u->parameter)->type;
	uint32_t squares = est_mlx_scaled(graph, EST_MLX_ADD, est_mlx_unary(graph, EST_MLX_SQUARE, u->gradient), 1e-30), step, rate, clip;

	rate = times(graph, est_mlx_binary(graph, EST_MLX_MAXIMUM, est_mlx_scalar(graph, type, 1e-3), rms(graph, u->parameter)), u->rate);
	if (est_mlx_at(graph, u->gradient)->shape.dims >= 2)
		step = factored(u, squares);
	else
		step = rsqrt(graph, u->state[0] = decayed(u, u->state[0], squares));
	step = times(graph, step, u->gradient);
	clip = est_mlx_scaled(graph, EST_MLX_DIVIDE, rms(graph, step), 1);
	step = est_mlx_binary(graph, EST_MLX_DIVIDE, step, est_mlx_binary(graph, EST_MLX_MAXIMUM, est_mlx_scalar(graph, type, 1), clip));
	return minus(graph, u->parameter, times(graph, rate, step));
}

/* Which of mlx.optimizers the house's words mean, and how many arrays it holds of each parameter, of the parameter's shape or, factored, of
 * a matrix' rows and columns; sgd makes its velocity and never changes it. */
static const struct {
	uint32_t (*apply)(struct update *update);
	unsigned states;
	bool idle, factored;
} optimizers[] = {
	[EST_ADAMW_TORCH_FUSED] = { adamw, 2, false, false }, [EST_ADAMW_TORCH] = { adamw, 2, false, false },
	[EST_SGD] = { sgd, 1, true, false }, [EST_SGD_MOMENTUM] = { sgd_momentum, 1, false, false }, [EST_MUON] = { muon, 1, false, false },
	[EST_ADAFACTOR] = { adafactor, 2, false, true },
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

/* How many states a parameter has, and what shape each. */
static unsigned states_of(enum est_optimizer optimizer, const struct est_mlx_shape *shape, struct est_mlx_shape ret[STATES])
{
	bool factored = optimizers[optimizer].factored;

	for (unsigned s = 0; s < STATES; s++)
		ret[s] = factored && shape->dims == 2 ? EST_MLX_SHAPE(shape->size[s]) : *shape;
	return factored && shape->dims < 2 ? 1 : optimizers[optimizer].states;
}

/* Updates a trained parameter; its new states, where they change, are next_state[0..count). Returns the count. */
static unsigned update_one(struct est_mlx_step *step, uint32_t i, uint32_t rate, uint32_t *next_state)
{
	struct est_mlx_graph *graph = &step->graph;
	enum est_optimizer optimizer = step->request->optimizer;
	const struct est_mlx_array *parameter = est_mlx_at(graph, step->trained[i]);
	struct update update = { step, graph, step->gradients[i], step->trained[i], est_mlx_astype(graph, rate, parameter->type), { 0 } };
	struct est_mlx_shape shapes[STATES];
	unsigned states = states_of(optimizer, &parameter->shape, shapes);
	uint32_t made;

	for (unsigned s = 0; s < states; s++)
		update.state[s] = est_mlx_leaf(graph, parameter->type, shapes[s], EST_OPTIMIZER, optimizers[optimizer].idle);
	made = optimizers[optimizer].apply(&update);
	step->outputs[step->output_count + i] = as_output(graph, made, EST_WEIGHTS);
	if (optimizers[optimizer].idle)
		return 0;
	for (unsigned s = 0; s < states; s++)
		next_state[s] = as_output(graph, update.state[s], EST_OPTIMIZER);
	return states;
}

/* New parameters come before all states, as mx.eval() gets the model before the optimizer. */
void est_mlx_update(struct est_mlx_step *step)
{
	struct est_mlx_graph *graph = &step->graph;
	uint32_t rate = est_mlx_leaf(graph, EST_MLX_F32, (struct est_mlx_shape){ 0 }, EST_OPTIMIZER, true);
	unsigned states = 0;

	graph->phase = EST_PHASE_OPTIMIZER_STEP;
	graph->category = EST_WORKSPACE;
	for (uint32_t i = 0; i < step->trained_count && !graph->exhausted; i++)
		states += update_one(step, i, rate, step->outputs + step->output_count + step->trained_count + states);
	step->output_count += step->trained_count + states;
}
