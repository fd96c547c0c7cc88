/* transformers' flash_attention_forward: packages FlashAttention 2 and 3. A padded batch is unpadded first
 * (integrations' _upad_input, _pad_input). */
#include "estimator/attention.h"

/* tensor.reshape(-1, heads, head_dim)[indices]: its gradient is zeros of the tensor's size with the rows' put in */
static const struct est_op gather_op = { "Index", est_backward_view };

/* zeros[indices] = rows: the rows' gradient is gathered */
static const struct est_op scatter_op = { "IndexPut", est_backward_one };

/* Both copy all rows: how many are padding is not known. indices (held) is kept. x is released when temporary. */
static struct est_tensor copy_rows(struct est_tape *tape, const struct est_op *op, struct est_tensor x,
				   struct est_tensor indices)
{
	struct est_node *node = est_node_new(tape, op, 1, &x);
	struct est_tensor out;

	est_save(tape, node, indices);
	out = est_empty(tape, x.numel, x.element);
	est_finish(tape, x);
	return est_output(tape, node, 0, out);
}

static enum est_fused_kernel package(const struct est_pass *pass)
{
	return pass->request->attention == EST_FLASH_ATTENTION_3 ? EST_FUSED_FLASH_3 : EST_FUSED_FLASH_2;
}

/* fa_peft_integration_check() */
static void to_half(struct est_pass *pass, struct est_tensor in[3])
{
	bool casts = in[0].element == EST_32BIT;

	for (unsigned i = 0; i < 3; i++)
		in[i] = casts ? est_hold(est_to(pass->tape, in[i], EST_16BIT)) : est_hold(est_alias(pass->tape, in[i]));
}

/* k, v, q in this order; heads that were joined are copied to lie by tokens */
static void unpad(struct est_pass *pass, struct est_tensor in[3], struct est_tensor indices, bool joined)
{
	static const unsigned order[3] = { 1, 2, 0 };

	for (unsigned i = 0; i < 3; i++) {
		struct est_tensor *x = &in[order[i]], padded = *x;

		*x = est_hold(copy_rows(pass->tape, &gather_op, joined && x != &in[2] ? est_contiguous(pass->tape, padded) : padded,
					indices));
		est_drop(pass->tape, padded);
	}
}

struct est_tensor est_flash_package(struct est_pass *pass, const struct est_layer *layer,
				    const struct est_tensor qkv[3], bool joined)
{
	struct est_tape *tape = pass->tape;
	bool unpadded = pass->request->attention_mask, like_query = package(pass) == EST_FUSED_FLASH_2;
	struct est_fused_call call = {
		.in = { qkv[0], qkv[1], qkv[2] }, .unpadded = unpadded, .output = est_attention_output(pass, qkv[0]),
		.windowed = layer->sliding && (uint64_t)pass->model->sliding_window < pass->sequence,
	};
	struct est_tensor indices = est_none, out;

	to_half(pass, call.in);
	if (unpadded) {
		indices = est_buffer(tape, pass->tokens, EST_INT64);
		unpad(pass, call.in, indices, joined);
	}
	out = est_fused_attention(pass, package(pass), &call);
	if (unpadded)
		out = copy_rows(tape, &scatter_op, out, indices);
	est_drop(tape, indices);
	est_drop_all(tape, call.in, 3);
	/* the caller's .reshape(): FlashAttention 2's output lies as q does */
	return joined && !unpadded && like_query ? est_contiguous(tape, out) : out;
}
