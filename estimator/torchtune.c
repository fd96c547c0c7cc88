/* torchtune/modules: TransformerDecoder, TransformerSelfAttentionLayer, MultiHeadAttention, FeedForward, RMSNorm. */
#include "estimator/torchtune.h"

#include <string.h>
#include "estimator/adapters.h"
#include "estimator/architecture.h"
#include "estimator/loss.h"
#include "estimator/split.h"

enum { CHUNKS = 8 };

/* ---- configuration */

struct est_model est_torchtune_model(const struct est_model *model)
{
	struct est_model decoder = *model;

	if (model->architecture != EST_ARCH_LLAMA)
		return decoder;
	decoder.architecture = EST_ARCH_TORCHTUNE;
	decoder.sliding_window = 0;
	decoder.attention_dropout = decoder.residual_dropout = decoder.embedding_dropout = 0;
	return decoder;
}

/* Qwen2's builders, of the same layers, take another rotary embedding. A shape without a model_type is Llama's. */
static bool has_code(const struct est_model *model)
{
	bool named = !strcmp(model->model_type, "llama") || !strcmp(model->model_type, "mistral") || !model->model_type[0];

	return model->architecture == EST_ARCH_TORCHTUNE
	       || (named && model->architecture == EST_ARCH_LLAMA && model->residual_multiplier == 0
		   && model->embedding_multiplier == 0
		   && model->no_rope_layer_interval == 0 && !(model->partial_rotary_factor > 0
							      && model->partial_rotary_factor < 1) && model->activation == EST_SILU);
}

static bool adapts_head(const struct est_request *request)
{
	return !request->lora.target_modules.all && est_is_target(&request->lora.target_modules, "lm_head");
}

const char *est_torchtune_refuses(const struct est_request *request, const struct est_model *model,
				  const char **ret_field)
{
	const bool adapts = request->method == EST_LORA;
	const struct { const char *field; bool refused; } rows[] = {
		{ "method", request->method != EST_FULL && !adapts },
		{ "precision", request->precision != EST_PURE_BF16 },
		{ "base_dtype", adapts && request->base_dtype != EST_BF16 },
		{ "loss", request->loss != EST_LOSS_CHUNKED && request->loss != EST_LOSS_STANDARD },
		{ "attention", request->attention != EST_SDPA && request->attention != EST_FLEX_ATTENTION },
		{ "attention_mask", request->attention_mask },
		{ "liger_kernel", request->liger_kernel },
		{ "objective", request->objective != EST_SFT },
		{ "task", request->task != EST_CAUSAL_LM },
		{ "gradient_checkpointing",
		  request->checkpointing != EST_CHECKPOINT_NONE && request->checkpointing != EST_CHECKPOINT_FULL },
		{ "use_reentrant", request->use_reentrant && request->checkpointing != EST_CHECKPOINT_NONE },
		{ "parallelism.strategy", request->parallelism.strategy != EST_SINGLE },
		{ "lora.adapter_dtype", adapts && request->lora.adapter_dtype != EST_BF16 },
		{ "lora.dora", adapts && request->lora.dora },
		{ "lora.modules_to_save", adapts && request->lora.modules_to_save.count > 0 },
		{ "lora.target_modules", adapts && adapts_head(request) },
	};

	*ret_field = NULL;
	if (!has_code(model))
		return "torchtune's code of this architecture is not modelled yet";
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		if (!rows[i].refused)
			continue;
		*ret_field = rows[i].field;
		return "is not modelled yet with torchtune's own code";
	}
	return NULL;
}

/* ---- RotaryPositionalEmbeddings */

void est_torchtune_build_rope(struct est_pass *pass)
{
	uint64_t width = (uint64_t)pass->model->head_dim;

	est_empty_as(pass->tape, (uint64_t)pass->model->max_position_embeddings * width, EST_32BIT, EST_BUFFERS);
	est_empty_as(pass->tape, width / 2, EST_32BIT, EST_BUFFERS); /* theta */
}

/* rope_cache: the module's, or, of packed sequences, the lines of their positions. Held. */
static struct est_tensor rope_cache(struct est_pass *pass)
{
	uint64_t width = (uint64_t)pass->model->head_dim;

	if (pass->request->attention == EST_FLEX_ATTENTION)
		return est_variable(pass->tape, pass->tokens * width, EST_32BIT);
	return (struct est_tensor){ .numel = pass->sequence * width, .element = EST_32BIT };
}

/* xshaped[..., i] * rope_cache[..., j] */
static struct est_tensor turned(struct est_tape *tape, struct est_tensor xshaped, struct est_tensor cache)
{
	return est_mul(tape, est_slice(tape, xshaped, xshaped.numel / 2), est_slice(tape, cache, cache.numel / 2));
}

/* Pairs of features in fp32, stacked, and back to the dtype of x, which the caller's frame holds until then: x moves
 * in. */
static struct est_tensor rotate(struct est_pass *pass, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor cache = rope_cache(pass), xshaped, parts[2], x_out, out;

	xshaped = est_hold(est_reshape(tape, est_to(tape, x, EST_32BIT)));
	parts[0] = turned(tape, xshaped, cache);
	parts[0] = est_hold(est_sub(tape, parts[0], turned(tape, xshaped, cache)));
	parts[1] = turned(tape, xshaped, cache);
	parts[1] = est_hold(est_add(tape, parts[1], turned(tape, xshaped, cache)));
	x_out = est_hold(est_reshape(tape, est_cat(tape, parts[0], parts[1])));
	est_drop(tape, parts[1]);
	est_drop(tape, parts[0]);
	out = est_hold(est_to(tape, x_out, x.element));
	est_drop(tape, xshaped);
	est_drop(tape, x_out);
	est_drop(tape, cache);
	est_drop(tape, x);
	return out;
}

/* ---- MultiHeadAttention */

/* v as heads: the gradient of expanded ones is a sum of another layout, and is copied. x is released when temporary. */
static struct est_tensor value_heads(struct est_pass *pass, struct est_tensor x)
{
	bool expanded = pass->model->num_attention_heads != pass->model->num_key_value_heads;

	return expanded && pass->model->num_key_value_heads > 1 ? est_view_as_heads(pass->tape, x) : x;
}

/* k or v as many heads as q has: x moves in, held */
static struct est_tensor expand(struct est_pass *pass, struct est_tensor x)
{
	uint64_t n_rep = (uint64_t)(pass->model->num_attention_heads / pass->model->num_key_value_heads);
	struct est_tensor out;

	if (n_rep == 1)
		return x;
	out = est_hold(est_repeat_kv(pass->tape, x, n_rep, pass->model->num_key_value_heads == 1));
	est_drop(pass->tape, x);
	return out;
}

static struct est_tensor attention(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor q = rotate(pass, est_hold(est_linear(tape, &layer->q_proj, x))), k, v, output, out;

	k = est_hold(est_linear(tape, &layer->k_proj, x));
	v = est_hold(value_heads(pass, est_linear(tape, &layer->v_proj, x)));
	k = expand(pass, rotate(pass, k));
	v = expand(pass, v);
	output = est_hold(est_attention(pass, layer, q, k, v));
	out = est_linear(tape, &layer->o_proj, output);
	est_drop(tape, output);
	est_drop(tape, q);
	est_drop(tape, k);
	est_drop(tape, v);
	return out;
}

/* ---- RMSNorm, FeedForward, TransformerSelfAttentionLayer */

/* x_normed = (x_fp32 * rsqrt(x_fp32.pow(2).mean() + eps)).type_as(x); x_normed * self.scale. (From 0.5 to 0.6.1 it
 * was F.rms_norm of x.float(), which keeps 2 bytes a feature more of a trained scale's input.) */
struct est_tensor est_torchtune_norm(struct est_pass *pass, const struct est_norm_weights *norm, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor x_fp32 = est_hold(est_to(tape, est_hold(x), EST_32BIT)), x_normed, out;

	x_normed = est_mean(tape, est_pow(tape, x_fp32), x.numel / norm->width);
	x_normed = est_mul(tape, x_fp32, est_rsqrt(tape, est_add_scalar(tape, x_normed)));
	x_normed = est_hold(est_to(tape, x_normed, x.element));
	out = est_mul(tape, x_normed, est_leaf_tensor(tape, norm->weight));
	est_drop(tape, x_normed);
	est_drop(tape, x_fp32);
	est_finish(tape, x);
	return out;
}

/* h = silu(w1(x)); h = h * w3(x); h = w2(h). x is borrowed. */
static struct est_tensor feed_forward(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor h = est_hold(est_silu(tape, est_linear(tape, &layer->gate_proj, x))), product, out;

	product = est_hold(est_mul(tape, h, est_linear(tape, &layer->up_proj, x)));
	est_drop(tape, h);
	out = est_linear(tape, &layer->down_proj, product);
	est_drop(tape, product);
	return out;
}

struct est_tensor est_torchtune_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor sa_norm = est_hold(est_torchtune_norm(pass, &layer->input_layernorm, x)), attn_out, h,
		mlp_out, normed, out;

	attn_out = est_hold(attention(pass, layer, sa_norm));
	h = est_hold(est_add(tape, attn_out, x));
	est_drop(tape, sa_norm); /* h = ... */
	normed = est_hold(est_torchtune_norm(pass, &layer->post_attention_layernorm, h));
	mlp_out = est_hold(feed_forward(pass, layer, normed));
	est_drop(tape, normed);
	out = est_add(tape, h, mlp_out);
	est_drop(tape, h);
	est_drop(tape, attn_out);
	est_drop(tape, mlp_out);
	return out;
}

/* ---- losses */

/* The frame of TransformerDecoder.forward goes. */
static void drop_last_layer(struct est_pass *pass)
{
	est_drop(pass->tape, pass->last_layer);
	pass->last_layer = est_none;
}

/* The head's output of each chunk of positions, in bf16. hidden moves in. */
static struct est_tensor *chunked_output(struct est_pass *pass, struct est_tensor hidden, uint64_t *ret_count)
{
	struct est_tape *tape = pass->tape;
	uint64_t per_chunk = (pass->sequence + CHUNKS - 1) / CHUNKS;
	struct est_tensor *chunk = est_split_rows(tape, hidden, pass->sequence, per_chunk,
						  pass->batch * pass->lm_head.in, ret_count);
	bool folds = est_leaf_tensor(tape, pass->lm_head.weight).requires_grad && pass->batch > 1;

	for (uint64_t i = 0; i < *ret_count && chunk; i++) {
		struct est_tensor x = chunk[i];

		/* matmul folds the sequences of a trained weight's input into rows: a copy of what is cut out */
		chunk[i] = est_hold(est_linear(tape, &pass->lm_head, folds ? est_contiguous(tape, x) : x));
		est_drop(tape, x);
	}
	est_drop(tape, hidden);
	drop_last_layer(pass);
	return chunk;
}

/* compute_cross_entropy() of each chunk: upcast and cross entropy */
static struct est_tensor chunked_loss(struct est_pass *pass, struct est_tensor hidden, struct est_tensor labels)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor total = est_none;
	uint64_t count;
	struct est_tensor *logits = chunked_output(pass, hidden, &count);

	for (uint64_t i = 0; i < count && logits; i++) {
		struct est_tensor logits32 = est_hold(est_to(tape, logits[i], EST_32BIT));
		struct est_tensor loss = est_hold(est_cross_entropy(tape, logits32, labels)), sum;

		est_drop(tape, logits32);
		sum = total.numel ? est_hold(est_add(tape, total, loss)) : loss;
		if (total.numel) {
			est_drop(tape, total);
			est_drop(tape, loss);
		}
		total = sum;
	}
	for (uint64_t i = count; i-- > 0 && logits;)
		est_drop(tape, logits[i]);
	return total.numel ? total : est_variable(tape, 1, EST_32BIT);
}

static struct est_tensor whole_loss(struct est_pass *pass, struct est_tensor hidden, struct est_tensor labels)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor logits = est_hold(est_to(tape, est_linear(tape, &pass->lm_head, hidden), EST_32BIT)), loss;

	est_drop(tape, hidden);
	drop_last_layer(pass);
	loss = est_hold(est_cross_entropy(tape, logits, labels));
	est_drop(tape, logits);
	return loss;
}

/* _loss_step(): labels shifted by hstack() */
struct est_tensor est_torchtune_loss(struct est_pass *pass, struct est_tensor hidden)
{
	struct est_tensor labels = est_buffer(pass->tape, pass->tokens, EST_INT64), loss;

	hidden = est_hold(est_head_input(pass->tape, hidden));
	loss = pass->request->loss == EST_LOSS_CHUNKED ? chunked_loss(pass, hidden, labels) : whole_loss(pass, hidden, labels);
	est_drop(pass->tape, labels);
	return loss;
}
