/* mx.vjp(): the graph of a function's gradients (mlx/transforms.cpp, the vjp() of each primitive in mlx/primitives.cpp and
 * mlx/fast.cpp). */
#include "estimator/mlx_graph.h"

enum { MOST_INPUTS = 48 };

/* One call of mx.vjp(). A checkpoint's runs within that of the step. */
struct pass {
	struct est_mlx_graph *graph;
	uint8_t *seen, *wanted;    /* by array: met, on the way to a primal */
	uint32_t *cotangent;       /* by array: what has arrived, or 0 */
	uint32_t *tape, length;
	uint32_t limit;            /* arrays there were when the tables were made */
};

static uint32_t arrived(const struct pass *pass, uint32_t array)
{
	return array < pass->limit ? pass->cotangent[array] : 0;
}

/* ---- products of primitives: fill gradient[i] where wants has bit i */

struct product {
	struct est_mlx_graph *graph;
	uint32_t array, cotangent;
	const uint32_t *inputs;
	unsigned wants;
	uint32_t *gradient;
};

static bool wants(const struct product *p, unsigned i)
{
	return p->wants >> i & 1;
}

static void of_add(const struct product *p)
{
	p->gradient[0] = p->gradient[1] = p->cotangent;
}

static void of_subtract(const struct product *p)
{
	p->gradient[0] = p->cotangent;
	if (wants(p, 1))
		p->gradient[1] = est_mlx_unary(p->graph, EST_MLX_NEGATIVE, p->cotangent);
}

static void of_multiply(const struct product *p)
{
	for (unsigned i = 0; i < 2; i++)
		if (wants(p, i))
			p->gradient[i] = est_mlx_binary(p->graph, EST_MLX_MULTIPLY, p->inputs[1 - i], p->cotangent);
}

static void of_divide(const struct product *p)
{
	struct est_mlx_graph *graph = p->graph;

	if (wants(p, 0))
		p->gradient[0] = est_mlx_binary(graph, EST_MLX_DIVIDE, p->cotangent, p->inputs[1]);
	if (wants(p, 1))
		p->gradient[1] = est_mlx_unary(graph, EST_MLX_NEGATIVE,
					       est_mlx_binary(graph, EST_MLX_DIVIDE,
							      est_mlx_binary(graph, EST_MLX_MULTIPLY, p->cotangent, p->inputs[0]),
							      est_mlx_unary(graph, EST_MLX_SQUARE, p->inputs[1])));
}

static void of_sigmoid(const struct product *p)
{
	struct est_mlx_graph *graph = p->graph;
	enum est_mlx_type type = est_mlx_at(graph, p->array)->type;
	uint32_t rest = est_mlx_binary(graph, EST_MLX_SUBTRACT, est_mlx_scalar(graph, type, 1), p->array);

	p->gradient[0] = est_mlx_binary(graph, EST_MLX_MULTIPLY, p->cotangent, est_mlx_binary(graph, EST_MLX_MULTIPLY, p->array, rest));
}

static void of_astype(const struct product *p)
{
	p->gradient[0] = est_mlx_astype(p->graph, p->cotangent, est_mlx_at(p->graph, p->inputs[0])->type);
}

static void of_select(const struct product *p)
{
	struct est_mlx_graph *graph = p->graph;
	enum est_mlx_type type = est_mlx_at(graph, p->cotangent)->type;

	if (wants(p, 1))
		p->gradient[1] = est_mlx_binary(graph, EST_MLX_MULTIPLY, est_mlx_astype(graph, p->inputs[0], type), p->cotangent);
	if (wants(p, 2))
		p->gradient[2] = est_mlx_binary(graph, EST_MLX_MULTIPLY,
						est_mlx_astype(graph, est_mlx_unary(graph, EST_MLX_NOT, p->inputs[0]), type), p->cotangent);
}

static void of_broadcast(const struct product *p)
{
	struct est_mlx_shape from = est_mlx_at(p->graph, p->inputs[0])->shape, to = est_mlx_at(p->graph, p->array)->shape;
	unsigned ahead = to.dims - from.dims, new = (1U << ahead) - 1, axes = new;

	for (unsigned i = ahead; i < to.dims; i++)
		if (from.size[i - ahead] != to.size[i])
			axes |= 1U << i;
	p->gradient[0] = est_mlx_squeeze(p->graph, est_mlx_sum(p->graph, p->cotangent, axes, true), new);
}

static void of_reshape(const struct product *p)
{
	p->gradient[0] = est_mlx_reshape(p->graph, p->cotangent, est_mlx_at(p->graph, p->inputs[0])->shape);
}

static void of_flatten(const struct product *p)
{
	struct est_mlx_shape from = est_mlx_at(p->graph, p->inputs[0])->shape;
	unsigned first = est_mlx_at(p->graph, p->array)->extra & 255, last = (unsigned)(est_mlx_at(p->graph, p->array)->extra >> 8);

	p->gradient[0] = est_mlx_unflatten(p->graph, p->cotangent, first, last - first + 1, from.size + first);
}

static void of_unflatten(const struct product *p)
{
	unsigned axis = est_mlx_at(p->graph, p->array)->extra & 255, count = (unsigned)(est_mlx_at(p->graph, p->array)->extra >> 8);

	p->gradient[0] = est_mlx_flatten(p->graph, p->cotangent, axis, axis + count - 1);
}

static void of_transpose(const struct product *p)
{
	const struct est_mlx_array *array = est_mlx_at(p->graph, p->array);
	uint64_t back = 0;

	for (unsigned i = 0; i < array->shape.dims; i++)
		back |= (uint64_t)i << 4 * (array->extra >> 4 * i & 15);
	p->gradient[0] = est_mlx_transpose(p->graph, p->cotangent, back);
}

static void of_expand(const struct product *p)
{
	p->gradient[0] = est_mlx_squeeze(p->graph, p->cotangent, (unsigned)est_mlx_at(p->graph, p->array)->extra);
}

static void of_squeeze(const struct product *p)
{
	p->gradient[0] = est_mlx_expand(p->graph, p->cotangent, (unsigned)est_mlx_at(p->graph, p->array)->extra);
}

static void of_matmul(const struct product *p)
{
	if (wants(p, 0))
		p->gradient[0] = est_mlx_matmul(p->graph, p->cotangent, est_mlx_swap_last(p->graph, p->inputs[1]));
	if (wants(p, 1))
		p->gradient[1] = est_mlx_matmul(p->graph, est_mlx_swap_last(p->graph, p->inputs[0]), p->cotangent);
	p->gradient[2] = p->cotangent; /* of addmm()'s third, with a beta of 1 */
}

/* The weight's columns are multiplied by: the same array, read the other way round */
static void of_quantized_matmul(const struct product *p)
{
	uint32_t inputs[4] = { p->cotangent, p->inputs[1], p->inputs[2], p->inputs[3] };
	const struct est_mlx_array *from = est_mlx_at(p->graph, p->inputs[0]);

	p->gradient[0] = est_mlx_new(p->graph, EST_MLX_QUANTIZED_MATMUL, from->type, from->shape, 1, 4, inputs);
}

static void of_softmax(const struct product *p)
{
	struct est_mlx_graph *graph = p->graph;
	unsigned last = 1U << (est_mlx_at(graph, p->array)->shape.dims - 1);
	uint32_t weighed = est_mlx_binary(graph, EST_MLX_MULTIPLY, p->array, p->cotangent);

	p->gradient[0] = est_mlx_binary(graph, EST_MLX_SUBTRACT, weighed,
					est_mlx_binary(graph, EST_MLX_MULTIPLY, p->array, est_mlx_sum(graph, weighed, last, true)));
}

static void of_logsumexp(const struct product *p)
{
	p->gradient[0] = est_mlx_binary(p->graph, EST_MLX_MULTIPLY, p->cotangent,
					est_mlx_like(p->graph, EST_MLX_SOFTMAX, p->inputs[0], 0, 1, p->inputs));
}

static void of_sum(const struct product *p)
{
	p->gradient[0] = est_mlx_broadcast_to(p->graph, p->cotangent, est_mlx_at(p->graph, p->inputs[0])->shape);
}

static void of_gather_axis(const struct product *p)
{
	uint32_t zero = est_mlx_scalar(p->graph, est_mlx_at(p->graph, p->inputs[0])->type, 0);
	uint32_t inputs[3] = { 0, p->inputs[1], p->cotangent };

	inputs[0] = est_mlx_broadcast_to(p->graph, zero, est_mlx_at(p->graph, p->inputs[0])->shape);
	inputs[0] = est_mlx_like(p->graph, EST_MLX_FULL, p->inputs[0], 0, 1, inputs);
	p->gradient[0] = est_mlx_like(p->graph, EST_MLX_SCATTER_AXIS, p->inputs[0], 0, 3, inputs);
}

/* One kernel gives both gradients, whether they are wanted or not. */
static void of_rms_norm(const struct product *p)
{
	const uint32_t inputs[3] = { p->inputs[0], p->inputs[1], p->cotangent };
	const struct est_mlx_array *weight = est_mlx_at(p->graph, p->inputs[1]);

	p->gradient[0] = est_mlx_like(p->graph, EST_MLX_RMS_NORM_VJP, p->inputs[0], 0, 3, inputs);
	p->gradient[1] = est_mlx_sibling(p->graph, p->gradient[0], weight->type, weight->shape);
}

static void of_rope(const struct product *p)
{
	uint32_t inputs[3] = { p->cotangent, p->inputs[1], 0 };
	const struct est_mlx_array *array = est_mlx_at(p->graph, p->array);

	if (array->input_count > 2)
		inputs[2] = p->inputs[2];
	p->gradient[0] = est_mlx_like(p->graph, EST_MLX_ROPE, p->cotangent, array->extra ^ 1, array->input_count, inputs);
}

static void of_cross_entropy(const struct product *p)
{
	const uint32_t inputs[3] = { p->inputs[0], p->inputs[1], p->cotangent };

	p->gradient[0] = est_mlx_like(p->graph, EST_MLX_CROSS_ENTROPY_VJP, p->inputs[0], 0, 3, inputs);
}

/* The arguments again, once the gradient above is there, and the function built on them again. */
static void of_checkpoint(const struct product *p)
{
	struct est_mlx_graph *graph = p->graph;
	unsigned count = est_mlx_at(graph, p->array)->input_count - 1U;
	uint32_t arguments[MOST_INPUTS + 1], again[MOST_INPUTS], output;

	for (unsigned i = 0; i < count; i++)
		arguments[i] = p->inputs[i];
	arguments[count] = p->array;
	again[0] = est_mlx_like(graph, EST_MLX_DEPENDS, arguments[0], 0, count + 1, arguments);
	for (unsigned i = 1; i < count; i++)
		again[i] = est_mlx_sibling(graph, again[0], est_mlx_at(graph, arguments[i])->type, est_mlx_at(graph, arguments[i])->shape);
	if (graph->exhausted)
		return;
	output = graph->again(graph->context, est_mlx_at(graph, p->array)->extra, again);
	est_mlx_vjp(graph, &output, 1, p->cotangent, again, count, p->gradient);
}

typedef void product_function(const struct product *product);

static product_function *const products[EST_MLX_OPS] = {
	[EST_MLX_ADD] = of_add, [EST_MLX_SUBTRACT] = of_subtract, [EST_MLX_MULTIPLY] = of_multiply, [EST_MLX_DIVIDE] = of_divide,
	[EST_MLX_SIGMOID] = of_sigmoid, [EST_MLX_ASTYPE] = of_astype, [EST_MLX_SELECT] = of_select, [EST_MLX_BROADCAST] = of_broadcast,
	[EST_MLX_RESHAPE] = of_reshape, [EST_MLX_FLATTEN] = of_flatten, [EST_MLX_UNFLATTEN] = of_unflatten,
	[EST_MLX_TRANSPOSE] = of_transpose, [EST_MLX_EXPAND] = of_expand, [EST_MLX_SQUEEZE] = of_squeeze, [EST_MLX_MATMUL] = of_matmul,
	[EST_MLX_ADDMM] = of_matmul, [EST_MLX_QUANTIZED_MATMUL] = of_quantized_matmul, [EST_MLX_SOFTMAX] = of_softmax,
	[EST_MLX_LOGSUMEXP] = of_logsumexp, [EST_MLX_REDUCE] = of_sum, [EST_MLX_GATHER_AXIS] = of_gather_axis,
	[EST_MLX_RMS_NORM] = of_rms_norm, [EST_MLX_ROPE] = of_rope, [EST_MLX_CROSS_ENTROPY] = of_cross_entropy,
	[EST_MLX_CHECKPOINT] = of_checkpoint,
};

/* ---- the tape */

/* Depth first through the inputs in their order; what leads to a primal goes on the tape. */
static void record(struct pass *pass, uint32_t output, uint32_t *stack, uint16_t *next)
{
	const struct est_mlx_graph *graph = pass->graph;
	uint32_t depth = 0;

	if (pass->seen[output])
		return;
	pass->seen[output] = true;
	stack[0] = output;
	next[0] = 0;
	for (;;) {
		uint32_t array = stack[depth];
		const struct est_mlx_array *at = est_mlx_at(graph, array);

		if (next[depth] < at->input_count) {
			uint32_t input = est_mlx_input(graph, array, next[depth]++);

			if (!pass->seen[input]) {
				pass->seen[input] = true;
				stack[++depth] = input;
				next[depth] = 0;
			}
			continue;
		}
		for (unsigned i = 0; i < at->input_count && at->op != EST_MLX_STOP && !pass->wanted[array]; i++)
			if (pass->wanted[est_mlx_input(graph, array, i)]) {
				pass->tape[pass->length++] = array;
				pass->wanted[array] = true;
			}
		if (depth-- == 0)
			return;
	}
}

static void accumulate(struct pass *pass, uint32_t input, uint32_t gradient)
{
	uint32_t *sum = &pass->cotangent[input];

	*sum = *sum ? est_mlx_binary(pass->graph, EST_MLX_ADD, *sum, gradient) : gradient;
}

static void run_backwards(struct pass *pass, uint32_t array)
{
	struct est_mlx_graph *graph = pass->graph;
	unsigned count = est_mlx_at(graph, array)->input_count;
	uint32_t inputs[MOST_INPUTS], gradient[MOST_INPUTS] = { 0 };
	uint64_t wanted = 0;
	struct product product = { graph, array, pass->cotangent[array], inputs, 0, gradient };

	if (!product.cotangent || count > MOST_INPUTS || graph->exhausted)
		return;
	for (unsigned i = 0; i < count; i++) {
		inputs[i] = est_mlx_input(graph, array, i);
		wanted |= (uint64_t)pass->wanted[inputs[i]] << i;
	}
	product.wants = (unsigned)wanted;
	if (est_mlx_at(graph, array)->phase == EST_PHASE_FORWARD)
		graph->phase = EST_PHASE_BACKWARD;
	if (!products[est_mlx_at(graph, array)->op]) {
		graph->exhausted = true; /* a primitive that the step never differentiates */
		return;
	}
	products[est_mlx_at(graph, array)->op](&product);
	for (unsigned i = 0; i < count; i++)
		if (wanted >> i & 1 && gradient[i])
			accumulate(pass, inputs[i], gradient[i]);
}

static bool make_tables(struct pass *pass, struct est_mlx_graph *graph, uint32_t **ret_stack, uint16_t **ret_next)
{
	struct est_arena *arena = graph->arena;

	*pass = (struct pass){ .graph = graph, .limit = graph->count };
	pass->seen = est_arena_take(arena, pass->limit, 1);
	pass->wanted = est_arena_take(arena, pass->limit, 1);
	pass->cotangent = est_arena_take(arena, pass->limit, sizeof(uint32_t));
	pass->tape = est_arena_reserve(arena, pass->limit, sizeof(uint32_t));
	*ret_stack = est_arena_reserve(arena, pass->limit, sizeof(uint32_t));
	*ret_next = est_arena_reserve(arena, pass->limit, sizeof(uint16_t));
	return pass->seen && pass->wanted && pass->cotangent && pass->tape && *ret_stack && *ret_next;
}

void est_mlx_vjp(struct est_mlx_graph *graph, const uint32_t *outputs, unsigned output_count, uint32_t cotangent, const uint32_t *primals,
		 unsigned primal_count, uint32_t *ret_gradients)
{
	size_t mark = graph->arena->used;
	struct pass pass;
	uint32_t *stack;
	uint16_t *next;

	if (graph->exhausted || !make_tables(&pass, graph, &stack, &next)) {
		graph->exhausted = true;
		est_arena_rewind(graph->arena, mark);
		return;
	}
	for (unsigned i = 0; i < primal_count; i++)
		pass.seen[primals[i]] = pass.wanted[primals[i]] = true;
	for (unsigned i = 0; i < output_count; i++)
		record(&pass, outputs[i], stack, next);
	pass.cotangent[outputs[0]] = cotangent;
	while (pass.length > 0)
		run_backwards(&pass, pass.tape[--pass.length]);
	for (unsigned i = 0; i < primal_count; i++)
		ret_gradients[i] = arrived(&pass, primals[i]);
	est_arena_rewind(graph->arena, mark);
}
