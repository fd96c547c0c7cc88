/* transformers' flex_attention_forward: the compiled kernel under a BlockMask. */
#include "estimator/architecture.h"
#include "estimator/attention.h"

enum { BLOCK = 128 }; /* _DEFAULT_SPARSE_BLOCK_SIZE */

/* Partial and full blocks of each row and of each column of blocks: how many, and which, in 32 bits each. */
struct est_tensor est_block_mask(struct est_pass *pass)
{
	uint64_t blocks = est_round_up(pass->sequence, BLOCK) / BLOCK;

	return est_buffer(pass->tape, pass->batch * 4 * (blocks + blocks * blocks), EST_32BIT);
}

bool est_flex_repeats(const struct est_model *model)
{
	int64_t heads = model->num_attention_heads;

	return (heads & (heads - 1)) != 0 && heads != model->num_key_value_heads
	       && !est_architecture_row(model->architecture)->expands_heads;
}

/* In the dtype that autocast gives them, with all heads where they are repeated; held */
static void prepare(struct est_pass *pass, struct est_tensor in[3])
{
	const struct est_model *model = pass->model;
	uint64_t n_rep = est_flex_repeats(model) ? (uint64_t)(model->num_attention_heads / model->num_key_value_heads) : 1;
	struct est_tensor whole;

	for (unsigned i = 0; i < 3; i++) {
		whole = est_hold(i == 0 ? est_alias(pass->tape, in[i])
					: est_repeat_kv(pass->tape, est_alias(pass->tape, in[i]), n_rep, model->num_key_value_heads == 1));
		in[i] = est_hold(est_autocast(pass->tape, est_alias(pass->tape, whole)));
		est_drop(pass->tape, whole);
	}
}

struct est_tensor est_flex_attention(struct est_pass *pass, const struct est_tensor qkv[3], struct est_tensor mask,
				     bool joined)
{
	struct est_tape *tape = pass->tape;
	uint64_t lines = pass->tokens * (uint64_t)pass->model->num_attention_heads;
	struct est_tensor out, lse = est_none;
	struct est_fused_call call = { .in = { qkv[0], qkv[1], qkv[2] }, .mask = mask,
				       .output = est_attention_output(pass, qkv[0]), .logsumexp = &lse };

	prepare(pass, call.in);
	out = est_fused_attention(pass, EST_FUSED_FLEX, &call);
	est_drop_all(tape, call.in, 3);
	if (est_architecture_row(pass->model->architecture)->expands_heads) { /* asks for the output alone */
		est_drop(tape, lse);
		return joined ? est_contiguous(tape, out) : out;
	}
	/* lse.to(value.dtype): what the layer gets for weights */
	if (qkv[2].element == EST_16BIT)
		pass->attn_weights = est_variable(tape, lines, EST_16BIT);
	/* .transpose(1, 2).contiguous(): the output lies as q does */
	if (joined)
		out = est_contiguous(tape, out);
	if (qkv[2].element == EST_16BIT)
		est_drop(tape, lse);
	else
		pass->attn_weights = lse;
	return out;
}
