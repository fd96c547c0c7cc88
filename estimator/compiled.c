/* A decoder layer of Llama's kind as torch.compile runs it: what AOTAutograd's min-cut partitioner saves, and the
 * buffers of inductor's code in its order, read off the code that torch 2.13 generates for layers of Llama-3.1-8B
 * and Qwen3-4B with 8,192 tokens. Pointwise operators and norms are fused into what reads them: between the products
 * nothing reaches memory but what stands here. */
#include "estimator/attention.h"

/* The layer's buffers: 16 bits an element, but for statistics of rows. */
enum buffer {
	NORMED, QUERY, KEY, VALUE, QUERY_ROTATED, KEY_ROTATED, ATTENDED, LOGSUMEXP, PROJECTED, NORMED_AGAIN, GATE, UP, PRODUCT,
	RSTD, RSTD_AGAIN, QUERY_RSTD, KEY_RSTD, BUFFERS
};
#define BIT(buffer) (UINT32_C(1) << (buffer))

/* One layer between its forward and its backward. */
struct est_compiled_layer {
	struct est_pass *pass;
	const struct est_layer *layer;
	struct est_tensor x, buffer[BUFFERS]; /* storage 0: not there */
	struct est_rope rope;
};

size_t est_compiled_layer_size(void)
{
	return sizeof(struct est_compiled_layer);
}

/* ---- buffers */

static uint64_t size_of(const struct est_compiled_layer *c, enum buffer which)
{
	const struct est_layer *layer = c->layer;
	uint64_t heads = (uint64_t)c->pass->model->num_attention_heads, own = (uint64_t)c->pass->model->num_key_value_heads;
	uint64_t head_norms = layer->q_norm.width > 0;
	const uint64_t widths[BUFFERS] = {
		[NORMED] = layer->q_proj.in, [QUERY] = layer->q_proj.out, [KEY] = layer->k_proj.out, [VALUE] = layer->v_proj.out,
		[QUERY_ROTATED] = layer->q_proj.out, [KEY_ROTATED] = layer->k_proj.out, [ATTENDED] = layer->o_proj.in,
		[LOGSUMEXP] = heads, [PROJECTED] = layer->o_proj.out, [NORMED_AGAIN] = layer->up_proj.in,
		[GATE] = layer->gate_proj.out, [UP] = layer->up_proj.out, [PRODUCT] = layer->down_proj.in, [RSTD] = 1,
		[RSTD_AGAIN] = 1, [QUERY_RSTD] = heads * head_norms, [KEY_RSTD] = own * head_norms,
	};

	return c->pass->tokens * widths[which];
}

static uint8_t element_of(const struct est_compiled_layer *c, enum buffer which)
{
	return which == LOGSUMEXP || which >= RSTD ? EST_32BIT : c->x.element;
}

static void make(struct est_compiled_layer *c, enum buffer which)
{
	if (!c->buffer[which].storage)
		c->buffer[which] = est_variable(c->pass->tape, size_of(c, which), element_of(c, which));
}

static void drop(struct est_compiled_layer *c, enum buffer which)
{
	est_drop(c->pass->tape, c->buffer[which]);
	c->buffer[which] = est_none;
}

static void drop_unless(struct est_compiled_layer *c, uint32_t kept, enum buffer which)
{
	if (!(kept & BIT(which)))
		drop(c, which);
}

/* A temporary of the size of a buffer. */
static struct est_tensor like(const struct est_compiled_layer *c, enum buffer which)
{
	return est_variable(c->pass->tape, size_of(c, which), c->x.element);
}

/* What is saved beside x. The product and both norms' results are inputs of products that train a weight; the
 * residual sum is made again from x and the projection. Within a checkpoint only what its policy names stays: of
 * every second product query, value and gate. The result of the last, down, is named and not needed. */
static uint32_t kept_by(const struct est_request *request, const struct est_layer *layer)
{
	static const uint32_t attention = BIT(VALUE) | BIT(ATTENDED) | BIT(LOGSUMEXP);
	uint32_t all = attention | BIT(NORMED) | BIT(QUERY_ROTATED) | BIT(KEY_ROTATED) | BIT(PROJECTED) | BIT(NORMED_AGAIN)
		       | BIT(GATE) | BIT(UP) | BIT(PRODUCT) | BIT(RSTD) | BIT(RSTD_AGAIN);

	if (request->checkpointing == EST_CHECKPOINT_FULL)
		return 0;
	if (request->checkpointing == EST_CHECKPOINT_SELECTIVE)
		return attention | BIT(QUERY) | BIT(GATE);
	return layer->q_norm.width ? all | BIT(QUERY) | BIT(KEY) | BIT(QUERY_RSTD) | BIT(KEY_RSTD) : all;
}

/* ---- backward */

/* cos and sin turn what the products made; the head norms' backward needs that once more */
static void rotate(struct est_compiled_layer *c, enum buffer from, enum buffer to)
{
	make(c, from == QUERY ? QUERY_RSTD : KEY_RSTD);
	make(c, to);
	if (!c->layer->q_norm.width)
		drop(c, from);
}

/* Everything up to gate and up that is not there: a checkpoint's forward within the backward's graph */
static void recompute(struct est_compiled_layer *c)
{
	bool attends = !c->buffer[ATTENDED].storage;

	if (attends) {
		make(c, RSTD);
		make(c, NORMED);
		make(c, QUERY);
		make(c, KEY);
		make(c, VALUE);
		rotate(c, QUERY, QUERY_ROTATED);
		rotate(c, KEY, KEY_ROTATED);
		make(c, ATTENDED);
		make(c, LOGSUMEXP);
	}
	make(c, PROJECTED);
	make(c, RSTD_AGAIN);
	make(c, NORMED_AGAIN);
	make(c, GATE);
	make(c, UP);
}

/* A weight's gradient, and where it goes */
struct gradients {
	struct est_tensor grad[16];
	uint32_t leaf[16];
	unsigned count;
};

static void train(struct est_compiled_layer *c, struct gradients *gradients, uint32_t leaf)
{
	struct est_tensor weight = est_leaf_tensor(c->pass->tape, leaf);

	gradients->leaf[gradients->count] = leaf;
	gradients->grad[gradients->count++] =
		est_hold(est_empty_as(c->pass->tape, weight.numel, weight.element, EST_GRADIENTS));
}

/* silu(gate) * up: its result is made again, or up's buffer becomes its gradient where it is saved. Gives the
 * gradient of NORMED_AGAIN, in two parts. */
static void backward_mlp(struct est_compiled_layer *c, struct gradients *gradients, struct est_tensor ret[2])
{
	struct est_tape *tape = c->pass->tape;
	const struct est_layer *layer = c->layer;
	bool saved = c->buffer[PRODUCT].storage != 0;
	struct est_tensor product_grad, gate_grad, up_grad;

	if (saved) {
		train(c, gradients, layer->down_proj.weight);
		drop(c, PRODUCT);
	}
	product_grad = like(c, PRODUCT);
	make(c, PRODUCT);
	gate_grad = saved ? c->buffer[PRODUCT] : like(c, GATE);
	up_grad = saved ? c->buffer[UP] : like(c, UP);
	if (saved)
		c->buffer[PRODUCT] = c->buffer[UP] = est_none;
	drop(c, GATE);
	drop(c, UP);
	est_drop(tape, product_grad);
	if (!saved) {
		train(c, gradients, layer->down_proj.weight);
		drop(c, PRODUCT);
	}
	train(c, gradients, layer->up_proj.weight);
	ret[0] = like(c, NORMED_AGAIN);
	est_drop(tape, up_grad);
	train(c, gradients, layer->gate_proj.weight);
	drop(c, NORMED_AGAIN);
	ret[1] = like(c, NORMED_AGAIN);
	est_drop(tape, gate_grad);
}

/* The gradients of the rotated query and key, and of the value: ret */
static void backward_attention(struct est_compiled_layer *c, struct est_tensor ret[3])
{
	struct est_tensor attended_grad = like(c, ATTENDED);
	struct est_fused_call call = { .output = size_of(c, ATTENDED) };

	make(c, RSTD);
	make(c, NORMED);
	if (!c->buffer[QUERY_ROTATED].storage)
		rotate(c, QUERY, QUERY_ROTATED);
	if (!c->buffer[KEY_ROTATED].storage) {
		make(c, KEY);
		rotate(c, KEY, KEY_ROTATED);
	}
	call.in[0] = c->buffer[QUERY_ROTATED];
	call.in[1] = c->buffer[KEY_ROTATED];
	call.in[2] = c->buffer[VALUE];
	est_fused_gradients(c->pass, EST_FUSED_ATEN_FLASH, &call, ret);
	for (unsigned i = 0; i < 3; i++)
		ret[i] = est_hold(ret[i]);
	drop(c, QUERY_ROTATED);
	drop(c, KEY_ROTATED);
	drop(c, VALUE);
	drop(c, LOGSUMEXP);
	est_drop(c->pass->tape, attended_grad);
}

/* grad through the rotation and the head norm, then through the projection: ret_input, of the size of NORMED. The
 * result is the gradient that the projection's weight takes. */
static struct est_tensor backward_heads(struct est_compiled_layer *c, enum buffer which, struct est_tensor grad,
					struct est_tensor *ret_input)
{
	struct est_tensor turned = like(c, which);

	est_drop(c->pass->tape, grad);
	drop(c, which);
	*ret_input = like(c, NORMED);
	return turned;
}

static void backward_layer(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	struct est_compiled_layer *c = (struct est_compiled_layer *)(uintptr_t)node->extra[0];
	const struct est_layer *layer = c->layer;
	struct est_tensor again[2], heads[3], inputs[3], sums, x_grad;
	struct gradients gradients = { .count = 0 };

	recompute(c);
	backward_mlp(c, &gradients, again);
	x_grad = like(c, NORMED);
	est_drop(tape, est_take_grad(node, 0));
	backward_attention(c, heads);
	inputs[2] = like(c, NORMED);
	heads[1] = backward_heads(c, KEY, heads[1], &inputs[1]);
	heads[0] = backward_heads(c, QUERY, heads[0], &inputs[0]);
	est_drop(tape, c->rope.cos);
	est_drop(tape, c->rope.sin);
	sums = est_empty(tape, size_of(c, NORMED) / 8, EST_32BIT); /* of the norms' weights: a row for 16 tokens each */
	train(c, &gradients, layer->input_layernorm.weight);
	train(c, &gradients, layer->post_attention_layernorm.weight);
	if (layer->q_norm.width) {
		train(c, &gradients, layer->q_norm.weight);
		train(c, &gradients, layer->k_norm.weight);
	}
	est_drop(tape, sums);
	est_drop(tape, again[0]);
	est_drop(tape, again[1]);
	drop(c, PROJECTED);
	train(c, &gradients, layer->o_proj.weight);
	drop(c, ATTENDED);
	train(c, &gradients, layer->v_proj.weight);
	est_drop(tape, heads[2]);
	train(c, &gradients, layer->k_proj.weight);
	est_drop(tape, heads[1]);
	train(c, &gradients, layer->q_proj.weight);
	est_drop(tape, heads[0]);
	for (unsigned i = 0; i < BUFFERS; i++)
		drop(c, (enum buffer)i);
	est_drop_all(tape, inputs, 3);
	est_drop(tape, c->x);
	ret[0] = x_grad;
	for (unsigned i = 0; i < gradients.count; i++)
		est_deliver(tape, EST_EDGE_LEAF | gradients.leaf[i], gradients.grad[i]);
}
static const struct est_op layer_op = { "CompiledLayer", backward_layer };

/* ---- forward */

/* The weights whose gradients backward_layer() delivers */
static void expect_gradients(struct est_tape *tape, const struct est_layer *layer)
{
	const uint32_t leaves[] = {
		layer->input_layernorm.weight, layer->q_proj.weight, layer->k_proj.weight, layer->v_proj.weight, layer->o_proj.weight,
		layer->post_attention_layernorm.weight, layer->gate_proj.weight, layer->up_proj.weight, layer->down_proj.weight,
		layer->q_norm.weight, layer->k_norm.weight,
	};
	unsigned count = layer->q_norm.width ? 11 : 9;

	for (unsigned i = 0; i < count; i++)
		tape->leaves[leaves[i]].uses++;
}

static void attend(struct est_compiled_layer *c, uint32_t kept)
{
	make(c, RSTD);
	make(c, NORMED);
	drop_unless(c, kept, RSTD);
	make(c, QUERY);
	make(c, KEY);
	make(c, VALUE);
	drop_unless(c, kept, NORMED);
	if (c->layer->q_norm.width && kept & BIT(QUERY_RSTD)) {
		make(c, QUERY_RSTD);
		make(c, KEY_RSTD);
	}
	make(c, QUERY_ROTATED);
	drop_unless(c, kept, QUERY);
	make(c, KEY_ROTATED);
	drop_unless(c, kept, KEY);
	make(c, ATTENDED);
	make(c, LOGSUMEXP);
	drop_unless(c, kept, QUERY_ROTATED);
	drop_unless(c, kept, KEY_ROTATED);
	drop_unless(c, kept, VALUE);
	drop_unless(c, kept, LOGSUMEXP);
}

/* The product takes the place of what it is made of, where that is not saved. */
static void gate(struct est_compiled_layer *c, uint32_t kept)
{
	enum buffer place = !(kept & BIT(GATE)) ? GATE : UP;

	make(c, GATE);
	make(c, UP);
	drop_unless(c, kept, NORMED_AGAIN);
	if (kept & BIT(place)) {
		make(c, PRODUCT);
		return;
	}
	c->buffer[PRODUCT] = c->buffer[place];
	c->buffer[place] = est_none;
	drop_unless(c, kept, GATE);
	drop_unless(c, kept, UP);
}

/* x + projected + down, in the place of one of the last two */
static struct est_tensor finish(struct est_compiled_layer *c, uint32_t kept)
{
	struct est_tensor down = like(c, PROJECTED), out;

	drop_unless(c, kept, PRODUCT);
	if (kept & BIT(PROJECTED))
		return down;
	out = c->buffer[PROJECTED];
	c->buffer[PROJECTED] = est_none;
	est_drop(c->pass->tape, down);
	return out;
}

/* The layer's state, for one micro-batch after the other. */
static struct est_compiled_layer *state_of(struct est_pass *pass, const struct est_layer *layer)
{
	if (!pass->compiled)
		pass->compiled = est_arena_take(pass->tape->arena, (size_t)pass->model->num_hidden_layers, sizeof(*pass->compiled));
	return pass->compiled ? &pass->compiled[layer - pass->layers] : NULL;
}

struct est_tensor est_compiled_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_compiled_layer *c = state_of(pass, layer);
	struct est_node *node;
	struct est_tensor out;
	uint32_t kept;

	if (!c) {
		pass->tape->exhausted = true;
		return est_alias(pass->tape, x);
	}
	*c = (struct est_compiled_layer){ .pass = pass, .layer = layer, .x = x };
	node = est_node_new(pass->tape, &layer_op, 1, &x);
	kept = node ? kept_by(pass->request, layer) : 0;
	attend(c, kept);
	make(c, PROJECTED);
	drop_unless(c, kept, ATTENDED);
	make(c, RSTD_AGAIN);
	make(c, NORMED_AGAIN);
	drop_unless(c, kept, RSTD_AGAIN);
	gate(c, kept);
	out = finish(c, kept);
	out.temporary = true;
	if (node) {
		c->x = est_hold(est_alias(pass->tape, x));
		c->rope.cos = est_hold(est_alias(pass->tape, est_layer_rope(pass, layer)->cos));
		c->rope.sin = est_hold(est_alias(pass->tape, est_layer_rope(pass, layer)->sin));
		node->extra[0] = (uint64_t)(uintptr_t)c;
		expect_gradients(pass->tape, layer);
	}
	return est_output(pass->tape, node, 0, out);
}
