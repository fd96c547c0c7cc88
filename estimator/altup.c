/* Gemma3nTextAltUp, and what Gemma3nTextModel does around its layers. modeling_gemma3n.py. */
#include "estimator/altup.h"

#include "estimator/build.h"
#include "estimator/lora.h"

/* The variables of the model's frame. */
struct est_stream_frame {
	struct est_tensor target_magnitude, new_magnitude, altup_proj, altup_unemb_proj, current;
	struct est_tensor temp_hidden_states[EST_STREAMS_MAX];
};

static unsigned streams_of(const struct est_pass *pass)
{
	return (unsigned)pass->model->altup_num_inputs;
}

static uint64_t stream_numel(const struct est_pass *pass)
{
	return pass->tokens * (uint64_t)pass->model->hidden_size;
}

/* ---- building */

/* named_embed: optimizers that take matrices leave those to another whose name has "embed" in it */
static void build_projection(struct est_pass *pass, struct est_linear *linear, bool named_embed)
{
	uint64_t hidden = (uint64_t)pass->model->hidden_size;

	est_build_linear(pass, linear, hidden, hidden, false);
	pass->tape->leaves[linear->weight].inner = !named_embed;
}

void est_altup_build(struct est_pass *pass)
{
	pass->frozen = pass->request->method == EST_FREEZE;
	for (unsigned i = 1; i < streams_of(pass); i++)
		build_projection(pass, &pass->altup_projections[i - 1], false);
	for (unsigned i = 1; i < streams_of(pass); i++)
		build_projection(pass, &pass->altup_unembed_projections[i - 1], true);
	pass->frozen = false;
}

bool est_altup_adapt(struct est_pass *pass)
{
	if (!pass->request->lora.target_modules.all) /* they are called 0, 1 and 2 */
		return true;
	for (unsigned i = 1; i < streams_of(pass); i++)
		if (!est_lora_wrap(pass, &pass->altup_projections[i - 1]))
			return false;
	for (unsigned i = 1; i < streams_of(pass); i++)
		if (!est_lora_wrap(pass, &pass->altup_unembed_projections[i - 1]))
			return false;
	return true;
}

/* ---- operators */

/* a / b: both are kept */
static void backward_div(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	uint64_t numel = node->grad[0].numel;
	uint8_t element = node->grad[0].element;

	if (est_needs(node, 1)) { /* -grad * ((a / b) / b) */
		struct est_tensor quotient = est_empty(tape, numel, element), again = est_empty(tape, numel, element);
		struct est_tensor negated = est_empty(tape, numel, element);

		ret[1] = est_empty(tape, numel, element);
		est_drop(tape, quotient);
		est_drop(tape, again);
		est_drop(tape, negated);
	}
	if (est_needs(node, 0))
		ret[0] = est_empty(tape, numel, element);
}
static const struct est_op div_op = { "Div", backward_div };

static struct est_tensor divide(struct est_tape *tape, struct est_tensor a, struct est_tensor b)
{
	struct est_node *node = est_node_new(tape, &div_op, 2, (struct est_tensor[]){ a, b });
	struct est_tensor out;

	if (node && b.requires_grad)
		est_save(tape, node, a);
	est_save(tape, node, b);
	out = est_empty(tape, a.numel, a.element > b.element ? a.element : b.element);
	est_finish(tape, a);
	est_finish(tape, b);
	return est_output(tape, node, 0, out);
}

static const struct est_op clamp_op = { "Clamp", est_backward_one };
static const struct est_op repeat_op = { "Repeat", est_backward_one };
static const struct est_op sqrt_op = { "Sqrt", est_backward_one };

/* x += y of a view x of another layout: the base's gradient is a copy of its own, into which the sum's is written, and that comes
 * through zeros of the base */
static void backward_add_to_view(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	struct est_tensor grad = est_take_grad(node, 0), zeros = est_empty(tape, grad.numel, grad.element);

	est_drop(tape, grad);
	ret[0] = est_empty(tape, zeros.numel, zeros.element);
	ret[1] = est_empty(tape, zeros.numel, zeros.element);
	node->grad[0] = zeros; /* to be given up with the node's own */
}
static const struct est_op add_to_view_op = { "CopySlices", backward_add_to_view };

/* x[1:] += y, which python writes back: a copy of the slice onto itself. Each time the gradient is copied, and the slice of it apart;
 * extra[0]: elements of the slice */
static void backward_add_to_slice(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	struct est_tensor grad = est_take_grad(node, 0), copied = est_empty(tape, grad.numel, grad.element), slice, zeros, part;
	uint64_t rows = node->extra[0];

	slice = est_empty(tape, rows, grad.element);
	zeros = est_empty(tape, rows, grad.element);
	est_drop(tape, zeros);
	est_drop(tape, grad);
	zeros = est_empty(tape, copied.numel, copied.element);
	est_drop(tape, slice);
	est_drop(tape, zeros);
	ret[0] = est_empty(tape, copied.numel, copied.element);
	part = est_empty(tape, rows, copied.element);
	node->grad[0] = copied; /* to be given up with the node's own */
	ret[1] = part;
}
static const struct est_op add_to_slice_op = { "CopySlices", backward_add_to_slice };

static struct est_tensor in_place(struct est_tape *tape, const struct est_op *op, struct est_tensor x, struct est_tensor y,
				  uint64_t extra)
{
	struct est_node *node = est_node_new(tape, op, 2, (struct est_tensor[]){ x, y });
	struct est_tensor out = est_output(tape, node, 0, est_detach(tape, x));

	if (node)
		node->extra[0] = extra;
	est_finish(tape, x);
	est_finish(tape, y);
	return out;
}

/* ---- around the layers */

/* torch.mean(x ** 2, dim=-1, keepdim=True) */
static struct est_tensor mean_square(struct est_pass *pass, struct est_tensor x)
{
	return est_mean(pass->tape, est_pow(pass->tape, x), pass->tokens);
}

struct est_tensor est_altup_stream(struct est_pass *pass, struct est_tensor hidden_states)
{
	return est_hold(est_slice(pass->tape, est_hold(hidden_states), stream_numel(pass)));
}

/* Projects x, which moves in, to a stream of the target's magnitude; projected is the variable that the projection is. */
static void project(struct est_pass *pass, const struct est_linear *projection, uint8_t element, struct est_tensor x, unsigned stream,
		    struct est_tensor *projected)
{
	struct est_stream_frame *frame = pass->streams;
	struct est_tape *tape = pass->tape;
	struct est_tensor clamped;

	est_assign(tape, projected, est_linear(tape, projection, x));
	x = est_to(tape, *projected, element);
	est_assign(tape, &frame->current, x.temporary ? x : est_alias(tape, x));
	est_assign(tape, &frame->new_magnitude, mean_square(pass, frame->current));
	clamped = est_unary(tape, &clamp_op, frame->new_magnitude, true, false, pass->tokens);
	est_assign(tape, &frame->new_magnitude, est_unary(tape, &sqrt_op, clamped, false, true, pass->tokens));
	est_assign(tape, &frame->current, divide(tape, est_mul(tape, frame->current, frame->target_magnitude), frame->new_magnitude));
	est_assign(tape, &frame->temp_hidden_states[stream], est_alias(tape, frame->current));
}

struct est_tensor est_altup_expand(struct est_pass *pass, struct est_tensor inputs_embeds)
{
	struct est_tape *tape = pass->tape;
	struct est_stream_frame *frame;
	struct est_tensor out;

	pass->streams = NULL;
	if (!streams_of(pass) || !(frame = est_arena_take(tape->arena, 1, sizeof(*frame))))
		return inputs_embeds;
	*frame = (struct est_stream_frame){ 0 };
	pass->streams = frame;
	est_assign(tape, &frame->target_magnitude, est_pow(tape, mean_square(pass, est_hold(inputs_embeds))));
	est_assign(tape, &frame->temp_hidden_states[0], est_alias(tape, inputs_embeds));
	for (unsigned i = 1; i < streams_of(pass); i++)
		project(pass, &pass->altup_projections[i - 1], inputs_embeds.element, est_hold(inputs_embeds), i,
			&frame->altup_proj);
	out = est_cat_of(tape, streams_of(pass), frame->temp_hidden_states);
	est_finish(tape, inputs_embeds);
	return out;
}

struct est_tensor est_altup_join(struct est_pass *pass, struct est_tensor hidden_states)
{
	struct est_stream_frame *frame = pass->streams;
	struct est_tape *tape = pass->tape;
	struct est_tensor out;

	if (!frame)
		return hidden_states;
	est_assign(tape, &frame->target_magnitude,
	       est_pow(tape, mean_square(pass, est_slice(tape, hidden_states, stream_numel(pass)))));
	est_assign(tape, &frame->temp_hidden_states[0], est_slice(tape, hidden_states, stream_numel(pass)));
	for (unsigned i = 1; i < streams_of(pass); i++)
		est_assign(tape, &frame->temp_hidden_states[i], est_none);
	for (unsigned i = 1; i < streams_of(pass); i++)
		project(pass, &pass->altup_unembed_projections[i - 1], pass->parameter_element,
			est_slice(tape, hidden_states, stream_numel(pass)), i, &frame->altup_unemb_proj);
	out = est_hold(est_cat_of(tape, streams_of(pass), frame->temp_hidden_states));
	est_drop(tape, hidden_states);
	hidden_states = est_hold(est_mean(tape, out, stream_numel(pass)));
	est_drop(tape, out);
	return hidden_states;
}

void est_altup_drop(struct est_pass *pass)
{
	struct est_stream_frame *frame = pass->streams;

	if (!frame)
		return;
	est_drop_all(pass->tape, frame->temp_hidden_states, EST_STREAMS_MAX);
	est_drop(pass->tape, frame->target_magnitude);
	est_drop(pass->tape, frame->new_magnitude);
	est_drop(pass->tape, frame->altup_proj);
	est_drop(pass->tape, frame->altup_unemb_proj);
	est_drop(pass->tape, frame->current);
	pass->streams = NULL;
}

/* ---- in a layer */

/* tanh(modality_router(router_norm(x) * scale).float()).type_as(x), held; x is borrowed */
static struct est_tensor modalities(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor inputs = est_hold(est_mul_scalar(tape, est_gemma4_norm(pass, &layer->altup.router_norm, x))), routed;

	routed = est_hold(est_linear(tape, &layer->altup.modality_router, inputs));
	x = est_hold(est_to(tape, est_tanh(tape, est_to(tape, routed, EST_32BIT)), x.element));
	est_drop(tape, routed);
	est_drop(tape, inputs);
	return x;
}

struct est_tensor est_altup_predict(struct est_pass *pass, const struct est_layer *layer, struct est_tensor hidden_states)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor active = est_altup_stream(pass, hidden_states), coefs, operand, out;

	out = modalities(pass, layer, active);
	est_drop(tape, active);
	coefs = est_hold(est_view_as_heads(tape, est_linear(tape, &layer->altup.prediction_coefs, out)));
	active = est_autocast(tape, coefs);
	operand = est_autocast(tape, est_hold(hidden_states));
	active = est_bmm(tape, operand, active, hidden_states.numel);
	active = est_hold(in_place(tape, &add_to_view_op, active, est_hold(hidden_states), 0));
	est_drop(tape, out);
	out = est_hold(est_to(tape, est_contiguous(tape, active), hidden_states.element));
	est_drop(tape, active);
	est_drop(tape, coefs);
	return out;
}

struct est_tensor est_altup_correct(struct est_pass *pass, const struct est_layer *layer, struct est_tensor predictions,
				    struct est_tensor activated)
{
	const struct est_linear *linear = &layer->altup.correction_coefs;
	struct est_tape *tape = pass->tape;
	struct est_tensor routed = modalities(pass, layer, activated), innovation, repeated, weight, coefs, corrected;

	innovation = est_hold(est_sub(tape, activated, est_slice(tape, predictions, stream_numel(pass))));
	repeated = est_hold(est_unary(tape, &repeat_op, innovation, false, false, predictions.numel));
	est_drop(tape, innovation);
	weight = est_leaf_tensor(tape, linear->weight);
	weight = est_hold(est_unary(tape, &clamp_op, weight, true, false, weight.numel));
	coefs = est_hold(est_reshape(tape, est_add_scalar(tape, est_linear_by(tape, linear, weight, routed))));
	corrected = est_hold(est_add_in_place(tape, est_mul(tape, repeated, coefs), predictions));
	est_drop(tape, repeated);
	est_drop(tape, coefs);
	est_drop(tape, weight);
	est_drop(tape, routed);
	return corrected;
}

struct est_tensor est_altup_add(struct est_pass *pass, struct est_tensor corrected, struct est_tensor addend)
{
	corrected.temporary = true;
	return est_hold(in_place(pass->tape, &add_to_slice_op, corrected, addend, corrected.numel - stream_numel(pass)));
}
