/* NanoChatDecoderLayer: norms without weights, those of the heads after their rotation, and a rotation the other
 * way. */
#include "estimator/pass.h"

/* rotate_half: cat((x2, -x1)). Its slices are gone through from the last to the first, and what was negated is the
 * first's: it outlives the gradient that came. */
static void backward_rotate_back(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	uint8_t element = node->grad[0].element;
	struct est_tensor negated = est_empty(tape, node->edge_numel[0] / 2, element), other;

	ret[0] = est_grad_for(tape, node, 0, element);
	est_drop(tape, est_take_grad(node, 0));
	other = est_grad_for(tape, node, 0, element);
	est_drop(tape, negated);
	est_drop(tape, other);
}
static const struct est_op rotate_back_op = { "RotateBack", backward_rotate_back };

/* x is borrowed */
static struct est_tensor rotate_back(struct est_tape *tape, struct est_tensor x)
{
	struct est_node *node = est_node_new(tape, &rotate_back_op, 1, &x);
	struct est_tensor negated = est_empty(tape, x.numel / 2, x.element), out = est_empty(tape, x.numel, x.element);

	est_drop(tape, negated);
	return est_output(tape, node, 0, out);
}

void est_apply_nanochat_rope(struct est_pass *pass, const struct est_rope *rope, struct est_tensor q,
			     struct est_tensor k, struct est_tensor ret[2])
{
	const struct est_tensor in[2] = { q, k };
	struct est_tape *tape = pass->tape;

	for (unsigned i = 0; i < 2; i++) {
		struct est_tensor with_cos = est_mul(tape, in[i], rope->cos);

		ret[i] = est_hold(est_add(tape, with_cos, est_mul(tape, rotate_back(tape, in[i]), rope->sin)));
	}
}

struct est_tensor est_nanochat_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	static const struct est_blocks blocks = { est_l2_norm, est_hunyuan_attention, est_plain_mlp };

	return est_pre_norm_layer(pass, layer, x, &blocks);
}
