/* Matrix products: linear layers, embeddings, batched products. */
#include "estimator/lora.h"

struct est_tensor est_autocast(struct est_tape *tape, struct est_tensor x)
{
	struct est_leaf *leaf;

	if (!tape->autocast || (x.element != EST_32BIT && x.element != EST_OTHER_16BIT))
		return x;
	leaf = est_parameter_of(tape, x);
	/* kept are casts of fp32 alone */
	if (x.element != EST_32BIT || !leaf || !(x.requires_grad || leaf->reference))
		return est_to(tape, x, EST_16BIT);
	if (!leaf->cast.numel)
		est_keep_cast(tape, leaf, est_to(tape, x, EST_16BIT));
	return leaf->cast;
}

static void make_view_grad(struct est_tape *tape, struct est_node *node, unsigned i, struct est_tensor ret[])
{
	if (!est_needs(node, i))
		return;
	ret[i] = est_grad_for(tape, node, i, node->grad[0].element);
	ret[i].view = true;
}

/* MmBackward, inputs x (self) and weight (mat2): the weight's gradient first. Both are views (TBackward,
 * ViewBackward), x's unless it is a matrix (extra[0]). */
static void backward_mm(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	make_view_grad(tape, node, 1, ret);
	make_view_grad(tape, node, 0, ret);
	ret[0].view = !node->extra[0];
}
static const struct est_op mm_op = { "Mm", backward_mm };

/* AddmmBackward, with the bias (self) last: its gradient is the output's, summed. */
static void backward_addmm(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	make_view_grad(tape, node, 0, ret);
	make_view_grad(tape, node, 1, ret);
	if (est_needs(node, 2))
		ret[2] = est_hold(est_alias(tape, node->grad[0]));
}
static const struct est_op addmm_op = { "Addmm", backward_addmm };

/* addmm(bias, x, weight) without a transposition: the weight's gradient is no view */
static void backward_conv1d(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	backward_addmm(tape, node, ret);
	ret[1].view = false;
}
static const struct est_op conv1d_op = { "Conv1D", backward_conv1d };

static const struct est_op *op_of(const struct est_linear *linear)
{
	if (linear->untransposed)
		return &conv1d_op;
	return linear->has_bias ? &addmm_op : &mm_op;
}

/* LinearFunctionForZeroStage3: x's gradient first; neither is a view */
static void backward_linear_function(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	for (unsigned i = 0; i < 2; i++)
		if (est_needs(node, i))
			ret[i] = est_grad_for(tape, node, i, node->grad[0].element);
	if (est_needs(node, 2))
		ret[2] = est_hold(est_grad_for(tape, node, 2, node->grad[0].element));
}
static const struct est_op linear_function_op = { "LinearFunctionForZeroStage3", backward_linear_function };

/* DeepSpeed's F.linear under ZeRO-3: it keeps input and weight whether they are needed or not, after the product. */
static struct est_tensor linear_function(struct est_tape *tape, const struct est_linear *linear, struct est_tensor x)
{
	struct est_tensor in[3] = { x, est_leaf_tensor(tape, linear->weight),
				    linear->has_bias ? est_leaf_tensor(tape, linear->bias) : est_none };
	struct est_tensor out = est_result(tape, EST_RESULT_OF_MATMUL, x.numel / linear->in * linear->out, x.element);
	struct est_node *node = est_node_new(tape, &linear_function_op, 3, in);

	for (unsigned i = 0; i < (linear->has_bias ? 3 : 2); i++)
		est_save(tape, node, in[i]);
	out = est_output(tape, node, 0, out);
	est_finish(tape, x);
	return out;
}

/* F.linear(x, weight, bias) by the operator; weight is borrowed, bias is or none. */
static struct est_tensor multiply(struct est_tape *tape, const struct est_linear *linear, const struct est_op *op,
				  struct est_tensor x, struct est_tensor weight, struct est_tensor bias)
{
	uint64_t rows = x.numel / linear->in;
	struct est_tensor in[3] = { x, weight, bias };
	struct est_tensor out;
	struct est_node *node;

	if (bias.numel)
		in[2] = est_autocast(tape, bias);
	in[1] = est_autocast(tape, in[1]);
	in[0] = est_autocast(tape, est_hold(x)); /* the call holds its argument */
	node = est_node_new(tape, op, 3, in);
	if (node) {
		node->extra[0] = linear->flat;
		/* with a bias the input is reshaped before the weight is transposed: TBackward comes before ViewBackward */
		node->backwards = op != &mm_op;
	}
	if (node && in[1].requires_grad)
		est_save(tape, node, in[0]);
	if (node && in[0].requires_grad)
		est_save(tape, node, in[1]);
	out = op == &mm_op ? est_result(tape, EST_RESULT_OF_MATMUL, rows * linear->out, in[0].element)
				      : est_empty(tape, rows * linear->out, in[0].element);
	out = est_output(tape, node, 0, out);
	for (unsigned i = 0; i < 3; i++)
		est_finish(tape, in[i]);
	est_finish(tape, x);
	return out;
}

/* What is permuted at once has its gradient copied back. */
static struct est_tensor copied_back(struct est_tape *tape, const struct est_linear *linear, struct est_tensor x)
{
	return linear->permuted ? est_view_as_heads(tape, x) : x;
}

static struct est_tensor dense(struct est_tape *tape, const struct est_linear *linear, struct est_tensor x)
{
	struct est_tensor bias = linear->has_bias ? est_leaf_tensor(tape, linear->bias) : est_none;

	return copied_back(tape, linear, multiply(tape, linear, op_of(linear), x, est_leaf_tensor(tape, linear->weight), bias));
}

struct est_tensor est_linear_by(struct est_tape *tape, const struct est_linear *linear, struct est_tensor weight,
				struct est_tensor x)
{
	return copied_back(tape, linear, multiply(tape, linear, &mm_op, x, weight, est_none));
}

/* The collectives are hooks of the module, whose call holds its argument until they have run. */
static struct est_tensor cut_linear(struct est_tape *tape, const struct est_linear *linear, struct est_tensor x)
{
	struct est_tensor y = est_cut_enter(tape, linear->group, linear->cut, est_hold(x));

	tape->distributed = linear->cut == EST_CUT_OUTPUTS && linear->group->splits_sequence; /* what was gathered is a DTensor still */
	y = dense(tape, linear, y);
	tape->distributed = false;
	y = est_cut_leave(tape, linear->group, linear->cut, y);
	est_finish(tape, x);
	return y;
}

struct est_tensor est_linear(struct est_tape *tape, const struct est_linear *linear, struct est_tensor x)
{
	if (linear->adapter && linear->adapter->forward)
		return linear->adapter->forward(tape, linear, x);
	if (linear->adapter)
		return est_adapted_linear(tape, linear, x);
	x = est_module_enter(tape, linear->module, x);
	if (linear->cut)
		x = cut_linear(tape, linear, x);
	else if (linear->base == EST_BASE_GPTQ)
		x = est_gptq_linear(tape, linear, x);
	else if (linear->base == EST_BASE_HQQ)
		x = est_hqq_linear(tape, linear, x);
	else if (linear->base != EST_BASE_DENSE)
		x = est_quantized_linear(tape, linear, x);
	else
		x = tape->zero3 && !linear->untransposed ? linear_function(tape, linear, x) : dense(tape, linear, x);
	return est_module_leave(tape, linear->module, x);
}

struct est_tensor est_conv1d(struct est_tape *tape, const struct est_linear *linear, struct est_tensor x)
{
	struct est_linear conv1d = *linear;

	conv1d.untransposed = true;
	return est_linear(tape, &conv1d, x);
}

void est_embedding_backward(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	uint64_t indices = node->extra[0], vocabulary = node->extra[1], width = node->edge_numel[0] / vocabulary;
	uint64_t distinct = indices < vocabulary ? indices : vocabulary, partial = indices / 10 + distinct;
	struct est_tensor work[7];

	ret[0] = est_grad_for(tape, node, 0, node->grad[0].element);
	if (indices <= 3072)
		return;
	/* EmbeddingBackwardKernel.cu's sorted path: sorted indices, their segments, and fp32 partial sums per segment */
	for (unsigned i = 0; i < 3; i++)
		work[i] = est_empty_as(tape, indices, EST_INT64, EST_BUFFERS);
	est_drop(tape, est_empty_as(tape, 2 * indices + 512, EST_INT64, EST_BUFFERS)); /* cub's sort */
	est_drop(tape, work[2]);
	work[2] = est_empty_as(tape, indices, EST_INT64, EST_BUFFERS);
	work[3] = est_empty_as(tape, distinct, EST_INT64, EST_BUFFERS);
	work[4] = est_empty_as(tape, distinct, EST_INT64, EST_BUFFERS);
	work[5] = est_empty_as(tape, partial, EST_INT64, EST_BUFFERS);
	work[6] = est_empty_as(tape, partial * width, EST_32BIT, EST_BUFFERS);
	est_drop_all(tape, work, 7);
}
static const struct est_op embedding_op = { "Embedding", est_embedding_backward };

struct est_tensor est_embedding(struct est_tape *tape, struct est_tensor ids, uint32_t weight, uint64_t rows,
				uint64_t width)
{
	struct est_tensor table = est_leaf_tensor(tape, weight), out;
	struct est_node *node = est_node_new(tape, &embedding_op, 1, &table);

	est_save(tape, node, ids);
	if (node) {
		node->extra[0] = ids.numel;
		node->extra[1] = rows;
	}
	out = est_output(tape, node, 0, est_empty(tape, ids.numel * width, table.element));
	est_finish(tape, ids);
	return out;
}

static const struct est_op bmm_op = { "Bmm", est_backward_products };

struct est_tensor est_bmm(struct est_tape *tape, struct est_tensor a, struct est_tensor b, uint64_t numel)
{
	struct est_tensor in[2] = { a, b }, out;
	struct est_node *node;

	in[1] = est_autocast(tape, b);
	in[0] = est_autocast(tape, a);
	node = est_node_new(tape, &bmm_op, 2, in);
	if (node && in[1].requires_grad)
		est_save(tape, node, in[0]);
	if (node && in[0].requires_grad)
		est_save(tape, node, in[1]);
	out = est_output(tape, node, 0, est_empty(tape, numel, in[0].element));
	est_finish(tape, in[0]);
	est_finish(tape, in[1]);
	return out;
}
