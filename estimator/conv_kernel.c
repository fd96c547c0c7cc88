/* CausalConv1dFn of causal-conv1d 1.7 (causal_conv1d_interface.py, cpp_functions.py). */
#include "estimator/kernels.h"

/* The gradients of weight and bias are summed in fp32, and cast when both are there. */
static void backward_conv(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	struct est_tensor sum[3] = { { 0 } };

	ret[0] = est_empty(tape, node->extra[0], (uint8_t)node->extra[3]);
	for (unsigned i = 1; i < 3; i++)
		if (node->extra[i])
			sum[i] = node->extra[3 + i] == EST_32BIT && est_needs(node, i) ? est_grad_for(tape, node, i, EST_32BIT)
									      : est_empty(tape, node->extra[i], EST_32BIT);
	for (unsigned i = 1; i < 3; i++) {
		if (node->extra[i] && node->extra[3 + i] == EST_32BIT) {
			ret[i] = sum[i];
		} else if (node->extra[i]) {
			ret[i] = est_needs(node, i) ? est_grad_for(tape, node, i, (uint8_t)node->extra[3 + i])
						    : est_empty(tape, node->extra[i], (uint8_t)node->extra[3 + i]);
			est_drop(tape, sum[i]);
		}
	}
	ret[1].view = true; /* conv1d.weight.squeeze(1) */
	est_drop(tape, est_take_grad(node, 0));
}
static const struct est_op conv_op = { "CausalConv1dFn", backward_conv };

/* extra[0..2]: elements of x, weight and bias; extra[3..5]: their dtypes */
struct est_tensor est_kernel_conv(struct est_tape *tape, const struct est_mixer *mixer, struct est_tensor x)
{
	struct est_tensor in[3] = { x, est_leaf_tensor(tape, mixer->conv_weight), est_none }, out;
	struct est_node *node;

	if (mixer->conv_bias != EST_NO_LEAF)
		in[2] = est_leaf_tensor(tape, mixer->conv_bias);
	node = est_node_new(tape, &conv_op, 3, in);
	for (unsigned i = 0; i < 3 && node; i++) {
		node->extra[i] = in[i].numel;
		node->extra[3 + i] = in[i].element;
	}
	out = est_empty(tape, x.numel, x.element);
	for (unsigned i = 0; i < 3; i++)
		if (in[i].numel)
			est_save(tape, node, in[i]);
	return est_output(tape, node, 0, out);
}
