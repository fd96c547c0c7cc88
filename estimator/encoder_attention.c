/* Attention that is not causal, and attention with a bias that is learned. */
#include "estimator/encoder.h"

static uint64_t round_up(uint64_t n, uint64_t multiple)
{
	return (n + multiple - 1) / multiple * multiple;
}

struct est_tensor est_bidirectional_mask(struct est_pass *pass, uint64_t queries, uint64_t keys, uint8_t element)
{
	struct est_tape *tape = pass->tape;
	bool unpadded = !pass->request->attention_mask;
	bool two_dimensional = pass->request->attention == EST_FLASH_ATTENTION_2
		|| pass->request->attention == EST_FLASH_ATTENTION_3;
	struct est_tensor mask, additive;

	if (unpadded || two_dimensional)
		return est_none;
	mask = est_buffer(tape, pass->batch * queries * keys, EST_BYTE);
	if (pass->request->attention != EST_EAGER)
		return mask;
	additive = est_buffer(tape, mask.numel, element);
	est_drop(tape, mask);
	return additive;
}

struct est_tensor est_encoder_heads(struct est_pass *pass, struct est_tensor x)
{
	bool copied = pass->request->attention == EST_EAGER || pass->request->attention == EST_SDPA_MATH;

	return copied && pass->model->num_attention_heads > 1 ? est_view_as_heads(pass->tape, x) : x;
}

/* matmul copies its permuted operands, in the dtype that autocast gives them, unless the batch is 1 */
static struct est_tensor contiguous(struct est_pass *pass, struct est_tensor x)
{
	struct est_tensor cast = est_autocast(pass->tape, x);

	return pass->batch > 1 ? est_contiguous(pass->tape, cast) : cast;
}

/* softmax(q k^T * scaling + bias + mask), in fp32 under autocast */
static struct est_tensor probabilities(struct est_pass *pass, struct est_tensor weights, struct est_tensor bias,
				       struct est_tensor mask)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor out;

	weights = est_mul_scalar(tape, weights);
	if (bias.numel)
		weights = est_add(tape, weights, bias);
	if (mask.numel)
		weights = est_add(tape, weights, mask);
	weights = est_hold(weights);
	out = est_alias(tape, weights);
	out = est_hold(est_softmax(tape, tape->autocast ? est_to(tape, out, EST_32BIT) : out));
	est_drop(tape, weights);
	weights = est_hold(est_dropout(tape, out, pass->model->attention_dropout));
	est_drop(tape, out);
	return weights;
}

struct est_tensor est_eager_scores(struct est_pass *pass, const struct est_tensor qkv[3], uint64_t keys, bool joined,
				   struct est_tensor bias, struct est_tensor mask)
{
	struct est_tape *tape = pass->tape;
	uint64_t scores = qkv[0].numel / (uint64_t)pass->model->head_dim * keys;
	struct est_tensor q = contiguous(pass, qkv[0]), k = joined ? qkv[1] : contiguous(pass, qkv[1]), weights, out;

	weights = probabilities(pass, est_bmm(tape, q, k, scores), bias, mask);
	pass->attn_weights = weights;
	weights = est_autocast(tape, weights);
	out = est_bmm(tape, weights, joined ? qkv[2] : contiguous(pass, qkv[2]), qkv[0].numel);
	return est_join_heads(pass, out);
}

/* ---- a learned bias. extra: 0 batch, 1 heads, 2 queries, 3 head_dim, 4 elements of k, 5 keys, 6 bytes of an
 * element */

/* The gradient of the bias is made for the whole batch, its rows padded to 16 elements. */
static struct est_tensor bias_grad(struct est_tape *tape, const struct est_node *node)
{
	uint64_t lines = node->extra[0] * node->extra[1] * node->extra[2], keys = node->extra[5];
	struct est_tensor grad = est_empty(tape, (lines - 1) * round_up(keys, 16) + keys, (uint8_t)node->extra[6]);

	grad.numel = lines * keys;
	grad.view = keys % 16 != 0; /* with gaps: nothing is added to it in place */
	return grad;
}

static void backward_biased(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	uint64_t batch = node->extra[0], heads = node->extra[1], queries = node->extra[2], dim = node->extra[3];
	uint8_t element = (uint8_t)node->extra[6];
	struct est_tensor delta, accumulator = est_none;

	for (unsigned i = 0; i < 3; i++) {
		ret[i] = est_empty(tape, i == 0 ? batch * heads * queries * dim : node->extra[4], element);
		ret[i].view = true;
	}
	if (est_needs(node, 3))
		ret[3] = bias_grad(tape, node);
	delta = est_empty_as(tape, batch * heads * queries, EST_32BIT, EST_BUFFERS);
	if (element == EST_16BIT)
		accumulator = est_empty_as(tape, batch * heads * round_up(queries, 128) * round_up(dim, 64), EST_32BIT,
					   EST_BUFFERS);
	est_drop(tape, accumulator);
	est_drop(tape, delta);
}
static const struct est_op biased_op = { "BiasedAttention", backward_biased };

/* constant_pad_nd: its gradient is cut out again, in two copies */
static void backward_pad(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	struct est_tensor padded = est_empty(tape, node->extra[0], node->grad[0].element);

	est_drop(tape, est_take_grad(node, 0));
	ret[0] = est_grad_for(tape, node, 0, padded.element);
	est_drop(tape, padded);
}
static const struct est_op pad_op = { "ConstantPadNd", backward_pad };

/* The kernel wants rows of 8 elements: others are padded, and a slice of the unpadded width is passed on. */
static struct est_tensor aligned(struct est_tape *tape, struct est_tensor bias, uint64_t keys)
{
	struct est_node *node;
	struct est_tensor out;

	if (keys % 8 == 0)
		return bias;
	node = est_node_new(tape, &pad_op, 1, &bias);
	out = est_empty(tape, bias.numel / keys * round_up(keys, 8), bias.element);
	if (node)
		node->extra[0] = out.numel;
	out = est_output(tape, node, 0, out);
	out.numel = bias.numel;
	est_finish(tape, bias);
	return out;
}

/* expand() over the batch: its gradient is the sum */
static const struct est_op expand_op = { "Expand", est_backward_one };

static struct est_tensor expanded(struct est_tape *tape, struct est_tensor bias, uint64_t numel)
{
	struct est_node *node;
	struct est_tensor out;

	if (bias.numel == numel)
		return bias;
	node = est_node_new(tape, &expand_op, 1, &bias);
	out = est_detach(tape, bias);
	out.numel = numel;
	est_finish(tape, bias);
	return est_output(tape, node, 0, out);
}

struct est_tensor est_biased_attention(struct est_pass *pass, const struct est_tensor qkv[3], uint64_t keys,
				       struct est_tensor bias)
{
	struct est_tape *tape = pass->tape;
	uint64_t heads = (uint64_t)pass->model->num_attention_heads, dim = (uint64_t)pass->model->head_dim;
	uint64_t queries = qkv[0].numel / (pass->batch * heads * dim);
	struct est_tensor in[4] = { qkv[0], qkv[1], qkv[2], bias }, argument, out, small[3];
	struct est_node *node;

	for (unsigned i = 4; i-- > 0;)
		in[i] = est_autocast(tape, in[i]);
	argument = in[3]; /* autocast's copy lives as long as the call */
	in[3] = expanded(tape, aligned(tape, est_hold(argument), keys), pass->batch * heads * queries * keys);
	node = est_node_new(tape, &biased_op, 4, in);
	est_save_all(tape, node, in, 4);
	out = est_empty(tape, in[0].numel, in[0].element);
	small[0] = est_empty(tape, pass->batch * heads * round_up(queries, 32), EST_32BIT);
	small[1] = est_empty(tape, 1, EST_INT64);
	small[2] = est_empty(tape, 1, EST_INT64);
	est_save(tape, node, out);
	est_save(tape, node, small[0]);
	est_drop_all(tape, small, 3);
	est_save_shapes(node, (const uint64_t[EST_NODE_EXTRA]){ pass->batch, heads, queries, dim, in[1].numel, keys, in[0].element });
	for (unsigned i = 0; i < 4; i++)
		est_finish(tape, in[i]);
	est_finish(tape, argument);
	return est_output(tape, node, 0, out);
}

/* extra[0]: elements of the result */
static void backward_where(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	ret[0] = est_empty(tape, node->extra[0], node->grad[0].element);
}
static const struct est_op where_op = { "Where", backward_where };

struct est_tensor est_where(struct est_tape *tape, struct est_tensor condition, struct est_tensor x, uint64_t numel)
{
	struct est_node *node = est_node_new(tape, &where_op, 1, &x);
	struct est_tensor out;

	est_save(tape, node, condition);
	out = est_empty(tape, numel, x.element);
	if (node)
		node->extra[0] = numel;
	est_finish(tape, x);
	return est_output(tape, node, 0, out);
}
