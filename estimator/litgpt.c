/* litgpt/model.py: one GPT for all families, told apart by its configuration. */
#include "estimator/litgpt.h"
#include "estimator/architecture.h"

/* ---- configuration */

static bool is_gemma(const struct est_model *model)
{
	return model->architecture == EST_ARCH_GEMMA || model->architecture == EST_ARCH_GEMMA2;
}

struct est_model est_litgpt_model(const struct est_model *model)
{
	struct est_model gpt = *model;

	if (model->architecture == EST_ARCH_LITGPT || model->architecture == EST_ARCH_UNSUPPORTED)
		return gpt;
	gpt.architecture = EST_ARCH_LITGPT;
	gpt.parallel_residual = model->architecture == EST_ARCH_PHI || model->architecture == EST_ARCH_FALCON
				|| (model->architecture == EST_ARCH_GPT_NEOX && model->parallel_residual);
	gpt.tie_word_embeddings = false;
	gpt.activation = model->activation == EST_SILU ? EST_SILU : EST_GELU; /* F.gelu, whatever its approximation */
	gpt.embedding_multiplier = is_gemma(model) ? 1 : 0;
	gpt.sliding_window = model->architecture == EST_ARCH_GEMMA2 ? model->sliding_window : 0;
	gpt.final_logit_softcapping = 0; /* the head in chunks leaves it out */
	gpt.attention_dropout = gpt.residual_dropout = gpt.embedding_dropout = 0;
	gpt.refuses_sdpa = false;
	gpt.parameters = est_model_count_parameters(&gpt);
	return gpt;
}

static bool has_code(const struct est_model *model)
{
	switch (model->architecture) {
	case EST_ARCH_LLAMA:
		return model->residual_multiplier == 0 && model->no_rope_layer_interval == 0;
	case EST_ARCH_GEMMA:
	case EST_ARCH_GEMMA2:
	case EST_ARCH_PHI:
	case EST_ARCH_PHI3:
	case EST_ARCH_GPT_NEOX:
	case EST_ARCH_FALCON:
	case EST_ARCH_LITGPT:
		return true;
	default:
		return false;
	}
}

const char *est_litgpt_refuses(const struct est_request *request, const struct est_model *model, const char **ret_field)
{
	enum { CHUNKS_MAX = 512, CHUNK = 128 };
	const bool adapts = est_has_adapters(request);
	const bool four_bits = request->method != EST_QLORA || request->quantization.type == EST_NF4
			       || request->quantization.type == EST_FP4;
	const char *unknown = NULL;
	const struct { const char *field; bool refused; } rows[] = {
		{ "method", request->method == EST_FREEZE },
		{ "precision", request->precision != EST_PURE_BF16 && request->precision != EST_PURE_FP16 },
		{ "base_dtype", adapts && request->base_dtype == EST_FP32 },
		{ "loss", request->loss != EST_LOSS_CHUNKED },
		{ "attention", request->attention != EST_SDPA },
		{ "attention_mask", request->attention_mask },
		{ "liger_kernel", request->liger_kernel },
		{ "objective", request->objective != EST_SFT },
		{ "gradient_checkpointing", request->checkpointing != EST_CHECKPOINT_NONE },
		{ "parallelism.strategy", request->parallelism.strategy != EST_SINGLE },
		{ "lora.adapter_dtype", adapts && request->lora.adapter_dtype == EST_FP32 },
		{ "lora.dora", adapts && request->lora.dora },
		{ "lora.modules_to_save", adapts && request->lora.modules_to_save.count > 0 },
		{ "lora.target_modules", adapts && (!est_litgpt_parts(&request->lora.target_modules, &unknown) || unknown) },
		{ "quantization.type", !four_bits },
		{ "quantization.prepare_kbit", request->method == EST_QLORA && request->quantization.prepare_kbit },
		{ "quantization.quant_storage",
		  request->method == EST_QLORA && request->quantization.quant_storage != EST_STORE_UINT8 },
		{ "sequence_length", request->sequence_length > CHUNKS_MAX * CHUNK },
		{ "micro_batch_size", !adapts && request->micro_batch_size > CHUNKS_MAX * CHUNK / request->sequence_length },
		{ "task", request->task != EST_CAUSAL_LM },
	};

	*ret_field = NULL;
	if (!has_code(model))
		return "LitGPT's code of this architecture is not modelled yet";
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		if (!rows[i].refused)
			continue;
		*ret_field = rows[i].field;
		return "is not modelled yet with LitGPT's own code";
	}
	return NULL;
}

/* ---- rotary embedding */

static uint64_t rope_numel(const struct est_pass *pass)
{
	return pass->sequence * est_rotary_width(pass->model);
}

/* build_rope_cache(), once max_seq_length is set */
void est_litgpt_build_rope(struct est_pass *pass)
{
	for (unsigned i = 0; i < 2; i++)
		est_empty_as(pass->tape, rope_numel(pass), EST_32BIT, EST_BUFFERS);
}

/* cos[:T] or sin[:T]: the module holds their memory */
static struct est_tensor rope_cache(const struct est_pass *pass)
{
	return (struct est_tensor){ .numel = rope_numel(pass), .element = EST_32BIT };
}

/* apply_rope(): ((x * cos) + (cat(-x2, x1) * sin)).to(x.dtype) */
static struct est_tensor apply_rope(struct est_pass *pass, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor x1 = est_hold(est_slice(tape, x, x.numel / 2)),
		x2 = est_hold(est_slice(tape, x, x.numel - x.numel / 2));
	struct est_tensor rotated = est_hold(est_cat(tape, est_mul_scalar(tape, x2), x1)), roped, out;

	roped = est_mul(tape, x, rope_cache(pass));
	roped = est_hold(est_add(tape, roped, est_mul(tape, rotated, rope_cache(pass))));
	out = est_to(tape, roped, x.element);
	est_drop(tape, x1);
	est_drop(tape, x2);
	est_drop(tape, rotated);
	est_drop(tape, roped);
	return out;
}

/* x[..., :rope_n_elem]: the whole head is an alias, no slice */
static struct est_tensor rotary_part(struct est_pass *pass, struct est_tensor x, uint64_t rotary)
{
	return rotary == x.numel ? est_reshape(pass->tape, x) : est_slice(pass->tape, x, rotary);
}

/* q = torch.cat((apply_rope(q[..., :n]), q[..., n:]), dim=-1), and the same of k; in[] moves in and out, what is
 * rotated lives in the frame to its end: frame[] */
static void rotate(struct est_pass *pass, struct est_tensor in[2], struct est_tensor frame[2])
{
	struct est_tape *tape = pass->tape;

	for (unsigned i = 0; i < 2; i++) {
		uint64_t rotary = in[i].numel / (uint64_t)pass->model->head_dim * est_rotary_width(pass->model);
		struct est_tensor part = est_hold(rotary_part(pass, in[i], rotary));

		frame[i] = est_hold(apply_rope(pass, part));
		est_drop(tape, part);
	}
	for (unsigned i = 0; i < 2; i++) {
		struct est_tensor rest = est_slice(tape, in[i], in[i].numel - frame[i].numel);
		struct est_tensor joined = est_hold(est_cat(tape, frame[i], rest));

		est_drop(tape, in[i]);
		in[i] = joined;
	}
}

/* ---- attention */

/* ones(T, T).triu(diagonal=1), or .tril(): its ones are made -inf. Held. */
static struct est_tensor triangle(struct est_pass *pass, uint8_t element)
{
	uint64_t scores = pass->sequence * pass->sequence;
	struct est_tensor ones = est_empty_as(pass->tape, scores, element, EST_BUFFERS), mask;

	mask = est_buffer(pass->tape, scores, element);
	est_drop(pass->tape, ones);
	est_drop(pass->tape, est_empty_as(pass->tape, scores, EST_BYTE, EST_BUFFERS));
	return mask;
}

/* softmax(tanh(q @ k.mT * scale / cap) * cap + mask, dtype=float).to(dtype) @ v: SDPA has no cap. mask is borrowed,
 * and made where there is none. */
static struct est_tensor capped_attention(struct est_pass *pass, const struct est_tensor in[3], struct est_tensor mask)
{
	struct est_tape *tape = pass->tape;
	uint64_t numel = in[0].numel / (uint64_t)pass->model->head_dim * pass->sequence;
	struct est_tensor scores = est_hold(est_mul_scalar(tape, est_bmm(tape, in[0], in[1], numel))), next, out,
		made = est_none;

	next = est_hold(est_mul_scalar(tape, est_tanh(tape, est_mul_scalar(tape, scores))));
	est_drop(tape, scores);
	if (!mask.numel)
		mask = made = triangle(pass, in[0].element);
	scores = est_hold(est_add(tape, next, mask));
	est_drop(tape, next);
	next = est_hold(est_to(tape, est_softmax(tape, est_to(tape, scores, EST_32BIT)), scores.element));
	est_drop(tape, scores);
	out = est_bmm(tape, next, in[2], in[0].numel);
	est_drop(tape, next);
	est_drop(tape, made);
	return est_join_heads(pass, out);
}

/* A window is a mask: the triangle, plus that of what lies too far back, which the frame holds as well. */
static struct est_tensor scaled_dot_product_attention(struct est_pass *pass, const struct est_layer *layer,
						      const struct est_tensor in[3], struct est_tensor frame[2])
{
	if (pass->model->attn_logit_softcapping == 0)
		return est_attention(pass, layer, in[0], in[1], in[2]);
	for (unsigned i = 0; i < 2 && layer->sliding; i++)
		frame[i] = triangle(pass, in[0].element);
	return capped_attention(pass, in, frame[0]);
}

/* qkv by groups -> q, k and v as heads, k and v expanded to as many as q has */
static void split_heads(struct est_pass *pass, struct est_tensor qkv, struct est_tensor ret[3])
{
	const struct est_model *model = pass->model;
	uint64_t head = pass->tokens * (uint64_t)model->head_dim;
	uint64_t query = head * (uint64_t)model->num_attention_heads, key = head * (uint64_t)model->num_key_value_heads;
	uint64_t n_rep = query / key;
	bool one_group = model->num_key_value_heads == 1;
	struct est_tensor part[3];

	est_split(pass->tape, est_view_as_heads(pass->tape, qkv), 3, (const uint64_t[]){ query, key, key }, part);
	for (unsigned i = 0; i < 3; i++)
		part[i] = est_hold(part[i]);
	ret[0] = est_hold(n_rep > 1 && !one_group ? est_contiguous(pass->tape, part[0]) : est_alias(pass->tape, part[0]));
	for (unsigned i = 1; i < 3; i++)
		ret[i] = est_hold(n_rep > 1 ? est_repeat_kv(pass->tape, part[i], n_rep, one_group) : est_alias(pass->tape, part[i]));
	est_drop_all(pass->tape, part, 3);
}

static struct est_tensor attention(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor qkv = est_hold(est_linear(tape, &layer->qkv_proj, x)), in[3], roped[2], mask[2] = { { 0 } }, y, out;

	split_heads(pass, qkv, in);
	rotate(pass, in, roped);
	y = est_hold(scaled_dot_product_attention(pass, layer, in, mask));
	out = est_linear(tape, &layer->o_proj, y);
	est_drop(tape, y);
	est_drop(tape, qkv);
	est_drop_all(tape, in, 3);
	for (unsigned i = 0; i < 2; i++) {
		est_drop(tape, roped[i]);
		est_drop(tape, mask[i]);
	}
	return out;
}

/* ---- norms, MLPs, blocks */

/* RMSNorm.forward: x = x.float(); (x * rsqrt(mean(x * x)) * weight.float()).to(dtype) */
static struct est_tensor rms_norm(struct est_pass *pass, const struct est_norm_weights *norm, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor x32 = est_hold(est_to(tape, est_hold(x), EST_32BIT)), norm_x, x_normed, weight, out;

	norm_x = est_hold(est_mean(tape, est_mul(tape, x32, x32), x.numel / norm->width));
	x_normed = est_hold(est_mul(tape, x32, est_rsqrt(tape, est_add_scalar(tape, norm_x))));
	weight = est_leaf_tensor(tape, norm->weight);
	out = est_to(tape, est_mul(tape, x_normed, est_to(tape, weight, EST_32BIT)), x.element);
	est_drop(tape, x_normed);
	est_drop(tape, norm_x);
	est_drop(tape, x32);
	est_finish(tape, x);
	return out;
}

struct est_tensor est_litgpt_norm(struct est_pass *pass, const struct est_norm_weights *norm, struct est_tensor x)
{
	return pass->model->norm == EST_RMSNORM ? rms_norm(pass, norm, x) : est_torch_layer_norm(pass, norm, x);
}

/* nn.Identity where the block has no such norm. x is released when temporary. */
static struct est_tensor norm_or_identity(struct est_pass *pass, const struct est_norm_weights *norm,
					  struct est_tensor x)
{
	return norm->width ? est_litgpt_norm(pass, norm, x) : x;
}

/* GptNeoxMLP.forward, or LLaMAMLP's and GemmaMLP's: proj(act(fc_1(x)) * fc_2(x)). x is borrowed. */
static struct est_tensor mlp(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor fc_1, fc_2, product, out;

	if (!pass->model->gated_mlp)
		return est_plain_mlp(pass, layer, x);
	fc_1 = est_hold(est_linear(tape, &layer->gate_proj, x));
	fc_2 = est_hold(est_linear(tape, &layer->up_proj, x));
	product = est_hold(est_mul(tape, est_activate(pass, fc_1), fc_2));
	out = est_linear(tape, &layer->down_proj, product);
	est_drop(tape, product);
	est_drop(tape, fc_1);
	est_drop(tape, fc_2);
	return out;
}

/* x = mlp(norm_2(x)) + attention(norm_1(x)) + x; norm_1's where the two share one */
static struct est_tensor parallel_block(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor x_normed = est_hold(est_litgpt_norm(pass, &layer->input_layernorm, x)), attended, out;

	attended = est_hold(attention(pass, layer, x_normed));
	if (layer->pre_feedforward_layernorm.width) {
		out = est_hold(est_litgpt_norm(pass, &layer->pre_feedforward_layernorm, x));
		est_drop(tape, x_normed);
		x_normed = out;
	}
	out = est_add(tape, est_add(tape, mlp(pass, layer, x_normed), attended), x);
	est_drop(tape, attended);
	est_drop(tape, x_normed);
	return out;
}

/* x = attention(norm_1(x)) + x; x = mlp(norm_2(x)) + x; with norms behind both in Gemma-2 */
static struct est_tensor serial_block(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor x_normed = est_hold(est_litgpt_norm(pass, &layer->input_layernorm, x)), attended, normed, y, out;

	attended = norm_or_identity(pass, &layer->post_attention_layernorm, attention(pass, layer, x_normed));
	attended = est_hold(attended);
	y = est_hold(est_add(tape, attended, x));
	normed = est_hold(est_litgpt_norm(pass, &layer->pre_feedforward_layernorm, y));
	out = mlp(pass, layer, normed);
	est_drop(tape, normed);
	out = est_add(tape, norm_or_identity(pass, &layer->post_feedforward_layernorm, out), y);
	est_drop(tape, y);
	est_drop(tape, attended);
	est_drop(tape, x_normed);
	return out;
}

struct est_tensor est_litgpt_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	return pass->model->parallel_residual ? parallel_block(pass, layer, x) : serial_block(pass, layer, x);
}
