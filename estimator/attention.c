/* Attention: which kernel runs, what it keeps and what its backward takes. Kernel choice after
 * aten/src/ATen/native/transformers/cuda/sdp_utils.cpp, callers after transformers/integrations. */
#include "estimator/architecture.h"
#include "estimator/attention.h"
#include "estimator/generation.h"
#include "estimator/unsloth.h"

/* ---- choice */

/* Latent attention's values are of another width than its queries. */
static int64_t value_dim(const struct est_model *model)
{
	return model->kv_lora_rank ? model->v_head_dim : model->head_dim;
}

static bool flash_takes(const struct est_pass *pass, bool masked, uint8_t element)
{
	return pass->fused >= EST_SDPA_HAS_FLASH && !masked && element == EST_16BIT && pass->model->head_dim <= 256
	       && value_dim(pass->model) == pass->model->head_dim;
}

/* Its backward takes heads of up to 128 in steps of 8, and DeepSeek's of 192 and 128; masks and groups as well */
bool est_cudnn_takes(const struct est_pass *pass, uint8_t element)
{
	int64_t dim = pass->model->head_dim, of_values = value_dim(pass->model);

	return pass->fused == EST_SDPA_PREFERS_CUDNN && element == EST_16BIT && dim % 8 == 0 && of_values % 8 == 0
	       && of_values <= 128 && (dim <= 128 || (dim == 192 && of_values == 128));
}

/* transformers' use_gqa_in_sdpa(): without a mask the grouped heads go to SDPA as they are */
static bool passes_grouped(const struct est_pass *pass, bool masked)
{
	const struct est_model *model = pass->model;

	return !masked && !est_architecture_row(model->architecture)->expands_heads && model->head_dim <= 256
	       && model->num_key_value_heads != model->num_attention_heads
	       && !est_repeats_for_sdpa(&pass->request->versions);
}

static enum est_kernel sdpa_kernel(const struct est_pass *pass, bool masked, uint8_t element)
{
	if (est_cudnn_takes(pass, element))
		return EST_KERNEL_CUDNN;
	if (flash_takes(pass, masked, element))
		return EST_KERNEL_FLASH;
	/* the memory-efficient kernel is built without grouped heads */
	return passes_grouped(pass, masked) ? EST_KERNEL_MATH : EST_KERNEL_EFFICIENT;
}

static enum est_kernel choose_kernel(const struct est_pass *pass, bool masked, uint8_t element)
{
	static const enum est_kernel named[] = {
		[EST_EAGER] = EST_KERNEL_EAGER, [EST_FLASH_ATTENTION_2] = EST_KERNEL_FLASH_PACKAGE,
		[EST_FLASH_ATTENTION_3] = EST_KERNEL_FLASH_PACKAGE, [EST_FLEX_ATTENTION] = EST_KERNEL_FLEX,
		[EST_SDPA_FLASH] = EST_KERNEL_FLASH, [EST_SDPA_EFFICIENT] = EST_KERNEL_EFFICIENT,
		[EST_SDPA_MATH] = EST_KERNEL_MATH, [EST_SDPA_CUDNN] = EST_KERNEL_CUDNN,
	};

	if (pass->request->attention != EST_SDPA)
		return named[pass->request->attention];
	return sdpa_kernel(pass, masked, element);
}

static bool uses_flash_attention_package(const struct est_request *request)
{
	return request->attention == EST_FLASH_ATTENTION_2 || request->attention == EST_FLASH_ATTENTION_3;
}

bool est_layer_is_masked(const struct est_pass *pass, const struct est_layer *layer)
{
	if (est_model_is_bidirectional(pass->model))
		return pass->request->attention_mask
		       || (layer->sliding && (uint64_t)pass->model->sliding_window <= pass->sequence);
	if (est_architecture_row(pass->model->architecture)->expands_heads) /* makes its masks itself */
		return false;
	if (pass->model->architecture == EST_ARCH_MAMBA2)
		return false;
	if (est_unsloth_wanted(pass->request))
		return false; /* it trains without: padding is at the end */
	if (pass->request->attention == EST_EAGER || pass->request->attention == EST_FLEX_ATTENTION
	    || pass->request->attention_mask)
		return true;
	if (est_architecture_row(pass->model->architecture)->always_masked)
		return !uses_flash_attention_package(pass->request);
	/* a window that the sequence fills cannot be said by is_causal; the flash package has an argument for it */
	return layer->sliding && (uint64_t)pass->model->sliding_window <= pass->sequence
		&& !uses_flash_attention_package(pass->request);
}

/* What transformers' sdpa_attention_forward did before it took heads as they lie: k and v repeated whatever the
 * kernel, and .contiguous() of all three. By the request's word, so that the flash package's caller is left alone. */
static bool always_repeats(const struct est_pass *pass)
{
	return pass->request->attention == EST_SDPA && est_repeats_for_sdpa(&pass->request->versions);
}

static bool copies_heads(const struct est_pass *pass)
{
	return pass->request->attention == EST_SDPA && est_copies_for_sdpa(&pass->request->versions);
}

/* Whether q and k come out of a concatenation, contiguous; Liger's rotation works on the rows of the projection */
static bool joins_heads(const struct est_pass *pass)
{
	return pass->gathers_sequence || (est_rotates_a_part(pass->model) && !pass->request->liger_kernel)
	       || pass->model->kv_lora_rank || est_architecture_row(pass->model->architecture)->joins_heads;
}

/* ---- SDPA's math path (_scaled_dot_product_attention_math): q and k are scaled each, scores and softmax in their
 * dtype */

/* is_causal: ones().tril(), then 0 or -inf in the dtype of q */
static struct est_tensor causal_bias(struct est_pass *pass, uint8_t element)
{
	uint64_t scores = pass->sequence * pass->sequence;
	struct est_tensor ones = est_empty(pass->tape, scores, EST_BYTE),
		triangle = est_empty(pass->tape, scores, EST_BYTE), bias;

	est_drop(pass->tape, ones);
	bias = est_empty(pass->tape, scores, element);
	est_drop(pass->tape, triangle);
	return est_hold(bias);
}

static struct est_tensor math(struct est_pass *pass, struct est_tensor q, struct est_tensor k, struct est_tensor v,
			      struct est_tensor mask, uint64_t n_rep)
{
	struct est_tape *tape = pass->tape;
	uint64_t scores = q.numel / (uint64_t)pass->model->head_dim * pass->sequence;
	bool one_head = false; /* repeat_interleave copies */
	struct est_tensor scaled_q = est_hold(est_mul_scalar(tape, est_hold(q))), bias = est_none, key, value, weights, out;

	if (!mask.numel && !est_model_is_bidirectional(pass->model))
		bias = causal_bias(pass, q.element);
	key = est_hold(est_repeat_kv(tape, est_alias(tape, k), n_rep, one_head));
	value = est_hold(est_repeat_kv(tape, est_alias(tape, v), n_rep, one_head));
	weights = est_mul_scalar(tape, key);
	weights = est_matmul_heads(pass, scaled_q, !joins_heads(pass), weights, false, scores);
	weights = est_safe_softmax(tape, weights, scores / pass->sequence);
	weights = est_dropout(tape, weights, pass->model->attention_dropout);
	out = est_bmm(tape, weights, value, est_attention_output(pass, q));
	est_drop(tape, key);
	est_drop(tape, value);
	est_drop(tape, scaled_q);
	est_drop(tape, bias);
	est_finish(tape, q);
	est_finish(tape, k);
	est_finish(tape, v);
	return out;
}

/* ---- callers */

/* query, key, value = query.contiguous(), key.contiguous(), value.contiguous(): frame[] holds what they were and
 * are, in[] follows. repeat_kv's result is contiguous already, unless it is one head expanded; one head alone is so
 * too. */
static void make_contiguous(struct est_pass *pass, bool repeated, struct est_tensor in[3], struct est_tensor frame[3])
{
	bool one_head = pass->model->num_key_value_heads == 1;

	for (unsigned i = 0; i < 3; i++) {
		struct est_tensor was = frame[i];

		if (i == 0 ? pass->model->num_attention_heads == 1 : repeated != one_head)
			continue;
		in[i] = frame[i] = est_hold(est_contiguous(pass->tape, in[i]));
		est_drop(pass->tape, was);
	}
}

static struct est_tensor fused(struct est_pass *pass, enum est_kernel kernel, const struct est_tensor in[3],
			       struct est_tensor bias)
{
	static const enum est_fused_kernel kernels[] = {
		[EST_KERNEL_FLASH] = EST_FUSED_ATEN_FLASH, [EST_KERNEL_EFFICIENT] = EST_FUSED_ATEN_EFFICIENT,
		[EST_KERNEL_CUDNN] = EST_FUSED_ATEN_CUDNN,
	};
	struct est_fused_call call = {
		.in = { in[0], in[1], in[2] }, .mask = bias, .output = est_attention_output(pass, in[0]),
		.copies_output = (kernel == EST_KERNEL_FLASH && copies_heads(pass))
		|| (kernel == EST_KERNEL_CUDNN && joins_heads(pass)),
	};

	if (pass->request->parallelism.context > 1 && !pass->gathers_sequence)
		return est_ring_attention(pass, kernels[kernel], &call);
	return est_fused_attention(pass, kernels[kernel], &call);
}

/* pad_bias: the memory-efficient kernel wants rows of a multiple of 8 elements. bias moves in, held. */
static struct est_tensor align(struct est_pass *pass, struct est_tensor bias)
{
	uint64_t keys = pass->sequence;
	struct est_tensor padded = bias;

	if (keys % 8 == 0)
		return bias;
	padded = est_variable(pass->tape, bias.numel / keys * est_round_up(keys, 8), bias.element);
	est_drop(pass->tape, bias);
	return padded;
}

static bool repeats(const struct est_pass *pass, enum est_kernel kernel, bool masked)
{
	const struct est_model *model = pass->model;
	const struct est_architecture_row *row = est_architecture_row(model->architecture);
	bool broadcasts = row->always_masked || row->expands_heads;

	return model->num_attention_heads > model->num_key_value_heads && !broadcasts
	       && (masked || kernel == EST_KERNEL_EFFICIENT || always_repeats(pass));
}

/* sdpa_attention_forward: a mask makes transformers repeat k and v and PyTorch turn the boolean mask into an
 * additive one */
static struct est_tensor sdpa(struct est_pass *pass, enum est_kernel kernel, struct est_tensor q, struct est_tensor k,
			      struct est_tensor v, struct est_tensor mask)
{
	struct est_tape *tape = pass->tape;
	uint64_t n_rep = (uint64_t)(pass->model->num_attention_heads / pass->model->num_key_value_heads);
	const struct est_architecture_row *row = est_architecture_row(pass->model->architecture);
	struct est_tensor in[3] = { q, k, v }, frame[3] = { { 0 } }, bias = est_none, out;
	bool repeated = repeats(pass, kernel, mask.numel > 0), as_query = kernel == EST_KERNEL_FLASH
		|| kernel == EST_KERNEL_CUDNN;

	if (repeated)
		for (unsigned i = 1; i < 3; i++)
			in[i] = frame[i] = est_hold(est_repeat_kv(tape, in[i], n_rep, pass->model->num_key_value_heads == 1));
	if (copies_heads(pass))
		make_contiguous(pass, repeated, in, frame);
	for (unsigned i = 3; i-- > 0;)
		in[i] = est_autocast(tape, in[i]);
	if (mask.numel)
		bias = est_variable(tape, mask.numel, in[0].element);
	if (kernel == EST_KERNEL_EFFICIENT)
		bias = align(pass, bias);
	if (kernel == EST_KERNEL_MATH)
		out = math(pass, in[0], in[1], in[2], bias, mask.numel || row->expands_heads ? 1 : n_rep);
	else
		out = fused(pass, kernel, in, bias);
	/* the output lies as q does */
	if (as_query && (joins_heads(pass) || copies_heads(pass))
	    && !(pass->gathers_sequence && pass->model->num_attention_heads == 1))
		out = est_contiguous(tape, out);
	est_drop(tape, bias);
	est_drop_all(tape, frame, 3);
	return kernel == EST_KERNEL_MATH ? est_join_heads(pass, out) : out;
}

/* Where there is but one of either, permuted heads are a batch of matrices as they lie. */
static bool has_heads_and_batch(const struct est_pass *pass)
{
	return pass->batch > 1 && pass->model->num_attention_heads > 1;
}

struct est_tensor est_matmul_heads(struct est_pass *pass, struct est_tensor a, bool permuted_a, struct est_tensor b,
				   bool permuted_b, uint64_t numel)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor in[2] = { a, b }, copy[2];
	bool permuted[2] = { permuted_a, permuted_b };

	for (unsigned i = 2; i-- > 0;)
		in[i] = est_autocast(tape, in[i]);
	for (unsigned i = 0; i < 2; i++)
		copy[i] = permuted[i] && has_heads_and_batch(pass) ? est_contiguous(tape, est_hold(in[i])) : est_hold(in[i]);
	a = est_bmm(tape, copy[0], copy[1], numel);
	est_finish(tape, in[0]);
	est_finish(tape, in[1]);
	return a;
}

struct est_tensor est_join_heads(struct est_pass *pass, struct est_tensor x)
{
	if (pass->model->num_attention_heads == 1)
		return x.temporary ? x : est_alias(pass->tape, x);
	return pass->batch > 1 ? est_merge_heads(pass->tape, x) : est_contiguous(pass->tape, x);
}

/* softmax(weights, dtype=torch.float32).to(dtype); GPT-2's and Llama-4's have no dtype, and are in fp32 under
 * autocast only */
static struct est_tensor softmax(struct est_pass *pass, struct est_tensor weights, uint8_t element)
{
	bool in_own = pass->model->architecture == EST_ARCH_GPT2 || pass->model->architecture == EST_ARCH_LLAMA4;
	bool in_fp32 = !in_own || pass->tape->autocast;

	weights = in_fp32 ? est_softmax_in_fp32(pass->tape, weights) : est_softmax(pass->tape, weights);
	return est_to(pass->tape, weights, element);
}

/* Whether matmul copies what repeat_kv gives: not what it has copied, nor, where it was called for nothing, what lies
 * as matmul wants it. One head is expanded, a view that autocast's copy alone makes dense. */
static bool is_permuted(const struct est_pass *pass, struct est_tensor x, uint64_t n_rep, bool permuted)
{
	if (pass->model->num_key_value_heads == 1 && n_rep > 1)
		return !pass->tape->autocast || x.element == EST_16BIT;
	return permuted && n_rep == 1;
}

/* eager_attention_forward: scores in the dtype of q, softmax in fp32, probabilities cast back */
static struct est_tensor eager(struct est_pass *pass, const struct est_layer *layer, struct est_tensor q,
			       struct est_tensor k, struct est_tensor v, struct est_tensor mask)
{
	struct est_tape *tape = pass->tape;
	uint64_t n_rep = (uint64_t)(pass->model->num_attention_heads / pass->model->num_key_value_heads);
	uint64_t scores = q.numel / (uint64_t)pass->model->head_dim * pass->sequence;
	bool one_head = pass->model->num_key_value_heads == 1;
	struct est_tensor key_states = est_hold(est_repeat_kv(tape, est_alias(tape, k), n_rep, one_head));
	struct est_tensor value_states = est_hold(est_repeat_kv(tape, est_alias(tape, v), n_rep, one_head));
	bool joined = joins_heads(pass) || pass->model->kv_lora_rank || pass->model->attention_sinks;
	bool q_joined = joined && pass->model->architecture != EST_ARCH_KIMI_LINEAR; /* whose keys alone are put together */
	struct est_tensor weights, probabilities, logits = est_none, out;

	/* matmul copies operands that are permuted views: not those that a concatenation has made */
	weights = est_matmul_heads(pass, q, !q_joined, key_states,
				   is_permuted(pass, k, n_rep, !joined && !pass->fills_cache), scores);
	weights = est_mul_scalar(tape, weights);
	if (pass->model->attn_logit_softcapping != 0)
		weights = est_mul_scalar(tape, est_tanh(tape, est_mul_scalar(tape, weights)));
	weights = est_hold(est_add(tape, weights, mask));
	if (pass->model->attention_sinks)
		probabilities = est_attention_with_sinks(pass, layer, weights, v.element, &logits);
	else
		probabilities = softmax(pass, weights, q.element);
	est_drop(tape, weights);
	probabilities = est_hold(est_dropout(tape, probabilities, pass->model->attention_dropout));
	out = est_matmul_heads(pass, probabilities, false, value_states, is_permuted(pass, v, n_rep, !pass->fills_cache),
			       est_attention_output(pass, q));
	out = est_join_heads(pass, out);
	est_drop(tape, logits);
	pass->attn_weights = probabilities;
	est_drop(tape, key_states);
	est_drop(tape, value_states);
	return out;
}

static enum est_kernel kernel_of(const struct est_pass *pass, const struct est_layer *layer, uint8_t element)
{
	return choose_kernel(pass, est_layer_is_masked(pass, layer), pass->tape->autocast ? EST_16BIT : element);
}

static struct est_tensor permuted_heads(struct est_pass *pass, struct est_tensor x)
{
	bool one_head = x.numel == pass->tokens * (uint64_t)pass->model->head_dim;

	return one_head ? x : est_view_as_heads(pass->tape, x);
}

struct est_tensor est_rope_heads(struct est_pass *pass, struct est_tensor x)
{
	/* Liger's rotation takes them as they lie, but for those that are normed one by one */
	if (pass->request->liger_kernel && pass->model->architecture != EST_ARCH_GEMMA3)
		return x;
	return permuted_heads(pass, x);
}

struct est_permuted est_permuted_gradients(const struct est_pass *pass, const struct est_layer *layer, uint8_t element)
{
	enum est_kernel kernel = kernel_of(pass, layer, element);
	bool repeated = pass->model->num_attention_heads != pass->model->num_key_value_heads;
	bool query = kernel == EST_KERNEL_EAGER || kernel == EST_KERNEL_MATH;
	bool masked = est_layer_is_masked(pass, layer);

	/* flash gives gradients as its inputs lie, and those of repeated heads are sums */
	bool as_copied = kernel == EST_KERNEL_FLASH && (copies_heads(pass) || (repeated && always_repeats(pass)));

	bool as_sums = (kernel == EST_KERNEL_EFFICIENT && repeated)
		|| (kernel == EST_KERNEL_CUDNN && repeats(pass, kernel, masked))
		       || (kernel == EST_KERNEL_FLEX && est_flex_repeats(pass->model));

	bool as_received = pass->request->parallelism.context > 1; /* views of what went round the ring, head by head */

	if (est_is_ulysses(pass->request))
		return est_ulysses_permutes(pass);
	return (struct est_permuted){ query, query || as_copied || as_sums || as_received };
}

struct est_tensor est_heads(struct est_pass *pass, const struct est_layer *layer, struct est_tensor v)
{
	/* the gradient of a copy in a cache lies as the copy does */
	return pass->fills_cache || est_permuted_gradients(pass, layer, v.element).key_value ? permuted_heads(pass, v) : v;
}

struct est_tensor est_unrotated_query(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	return est_permuted_gradients(pass, layer, x.element).query ? permuted_heads(pass, x) : x;
}

struct est_tensor est_query_heads(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	return layer->rotated ? est_rope_heads(pass, x) : est_unrotated_query(pass, layer, x);
}

struct est_tensor est_key_heads(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	return layer->rotated ? est_rope_heads(pass, x) : est_heads(pass, layer, x);
}

/* torch.cat of the empty cache, which has the dtype of the first keys, and states */
static struct est_tensor cached(struct est_pass *pass, struct est_tensor states, uint8_t element)
{
	bool promotes = states.element != element;
	struct est_tensor copy = est_hold(promotes ? est_to(pass->tape, states, element) : est_cat(pass->tape, est_none,
												   states));

	pass->cache[pass->cache_count++] = est_hold(est_alias(pass->tape, copy));
	return copy;
}

void est_cache_update(struct est_pass *pass, struct est_tensor *k, struct est_tensor *v)
{
	struct est_tensor key = *k, value = *v;

	if (!pass->fills_cache)
		return;
	*k = cached(pass, key, key.element);
	*v = cached(pass, value, key.element);
	est_drop(pass->tape, key);
	est_drop(pass->tape, value);
}

void est_cache_drop(struct est_pass *pass)
{
	for (size_t i = 0; i < pass->cache_count; i++)
		est_drop(pass->tape, pass->cache[i]);
	pass->cache_count = 0;
}

struct est_tensor est_attention(struct est_pass *pass, const struct est_layer *layer, struct est_tensor q,
				struct est_tensor k, struct est_tensor v)
{
	bool masked = est_layer_is_masked(pass, layer);
	struct est_tensor mask = layer->sliding && pass->sliding_mask.numel ? pass->sliding_mask : pass->mask;
	enum est_kernel kernel = kernel_of(pass, layer, q.element);

	if (est_is_ulysses(pass->request) && !pass->gathers_sequence)
		return est_ulysses_attention(pass, layer, (const struct est_tensor[]){ q, k, v });
	if (!masked)
		mask = est_none;
	if (kernel == EST_KERNEL_EAGER)
		return eager(pass, layer, q, k, v, mask);
	if (kernel == EST_KERNEL_FLASH_PACKAGE)
		return est_flash_package(pass, layer, (const struct est_tensor[]){ q, k, v }, joins_heads(pass));
	if (kernel == EST_KERNEL_FLEX)
		return est_flex_attention(pass, (const struct est_tensor[]){ q, k, v }, mask, joins_heads(pass));
	return sdpa(pass, kernel, q, k, v, mask);
}
