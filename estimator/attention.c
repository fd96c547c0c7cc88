/* Attention: which kernel runs, what it keeps and what its backward takes. Kernel choice after
 * aten/src/ATen/native/transformers/cuda/sdp_utils.cpp, callers after transformers/integrations. */
#include "estimator/architecture.h"
#include "estimator/generation.h"

/* ---- choice */

/* Latent attention's values are of another width than its queries. */
static int64_t value_dim(const struct est_model *model)
{
	return model->kv_lora_rank ? model->v_head_dim : model->head_dim;
}

static uint64_t output_numel(const struct est_pass *pass, struct est_tensor q)
{
	return q.numel / (uint64_t)pass->model->head_dim * (uint64_t)value_dim(pass->model);
}

static bool flash_takes(const struct est_pass *pass, bool masked, uint8_t element)
{
	return pass->flash && !masked && element == EST_16BIT && pass->model->head_dim <= 256
	       && value_dim(pass->model) == pass->model->head_dim;
}

/* transformers' use_gqa_in_sdpa(): without a mask the grouped heads go to SDPA as they are */
static bool passes_grouped(const struct est_pass *pass, bool masked)
{
	const struct est_model *model = pass->model;

	return !masked && model->head_dim <= 256 && model->num_key_value_heads != model->num_attention_heads
	       && !est_repeats_for_sdpa(&pass->request->versions);
}

static enum est_kernel sdpa_kernel(const struct est_pass *pass, bool masked, uint8_t element)
{
	if (flash_takes(pass, masked, element))
		return EST_KERNEL_FLASH;
	/* the memory-efficient kernel is built without grouped heads */
	return passes_grouped(pass, masked) ? EST_KERNEL_MATH : EST_KERNEL_EFFICIENT;
}

static enum est_kernel choose_kernel(const struct est_pass *pass, bool masked, uint8_t element)
{
	switch (pass->request->attention) {
	case EST_EAGER:
		return EST_KERNEL_EAGER;
	case EST_FLASH_ATTENTION_2:
	case EST_FLASH_ATTENTION_3:
		return masked ? EST_KERNEL_FLASH_VARLEN : EST_KERNEL_FLASH;
	case EST_SDPA_FLASH:
		return EST_KERNEL_FLASH;
	case EST_SDPA_EFFICIENT:
		return EST_KERNEL_EFFICIENT;
	case EST_SDPA_MATH:
		return EST_KERNEL_MATH;
	case EST_SDPA_CUDNN:
		return EST_KERNEL_CUDNN;
	case EST_SDPA:
	case EST_FLEX_ATTENTION:
		break;
	}
	return sdpa_kernel(pass, masked, element);
}

static bool uses_flash_attention_package(const struct est_request *request)
{
	return request->attention == EST_FLASH_ATTENTION_2 || request->attention == EST_FLASH_ATTENTION_3;
}

bool est_layer_is_masked(const struct est_pass *pass, const struct est_layer *layer)
{
	if (est_model_is_bidirectional(pass->model))
		return pass->request->attention_mask;
	if (pass->request->attention == EST_EAGER || pass->request->attention_mask)
		return true;
	if (est_architecture_row(pass->model->architecture)->always_masked)
		return !uses_flash_attention_package(pass->request);
	/* a window that the sequence fills cannot be said by is_causal; the flash package has an argument for it */
	return layer->sliding && (uint64_t)pass->model->sliding_window <= pass->sequence
		&& !uses_flash_attention_package(pass->request);
}

/* What transformers' sdpa_attention_forward did before it took heads as they lie: k and v repeated whatever the kernel, and
 * .contiguous() of all three. By the request's word, so that the flash package's caller is left alone. */
static bool always_repeats(const struct est_pass *pass)
{
	return pass->request->attention == EST_SDPA && est_repeats_for_sdpa(&pass->request->versions);
}

static bool copies_heads(const struct est_pass *pass)
{
	return pass->request->attention == EST_SDPA && est_copies_for_sdpa(&pass->request->versions);
}

/* ---- fused kernels. extra: 0 batch, 1 heads, 2 sequence, 3 head_dim, 4 elements of k, 5 bytes of an element, 6 elements of v,
 * 7 elements of an output that lies otherwise than its backward takes it */

static uint64_t round_up(uint64_t n, uint64_t multiple)
{
	return (n + multiple - 1) / multiple * multiple;
}

static uint64_t query_numel(const struct est_node *node)
{
	return node->extra[0] * node->extra[1] * node->extra[2] * node->extra[3];
}

/* dq, dk and dv, needed or not */
static void make_input_grads(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	for (unsigned i = 0; i < 3; i++) {
		ret[i] = est_empty(tape, i == 0 ? query_numel(node) : node->extra[i == 1 ? 4 : 6], (uint8_t)node->extra[5]);
		ret[i].view = true;
	}
}

/* attention_backward.cu: out.contiguous(). flash_api.cpp mha_bwd: softmax_d, the fp32 accumulator of dq, and dk, dv of every
 * query head when they are grouped */
static void backward_flash(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	uint64_t batch = node->extra[0], heads = node->extra[1], sequence = node->extra[2], dim = node->extra[3];
	uint64_t rows = batch * heads * round_up(sequence, 128);
	struct est_tensor work[4] = { { 0 } }, output = est_none;

	if (node->extra[7])
		output = est_empty_as(tape, node->extra[7], EST_16BIT, EST_BUFFERS);
	make_input_grads(tape, node, ret);
	work[0] = est_empty_as(tape, rows, EST_32BIT, EST_BUFFERS);
	work[1] = est_empty_as(tape, rows * (dim <= 192 ? round_up(dim, 32) : 256), EST_32BIT, EST_BUFFERS);
	for (unsigned i = 2; i < 4 && node->extra[4] != query_numel(node); i++)
		work[i] = est_empty_as(tape, batch * heads * sequence * dim, EST_16BIT, EST_BUFFERS);
	for (unsigned i = 4; i-- > 0;)
		est_drop(tape, work[i]);
	est_drop(tape, output);
}
static const struct est_op flash_op = { "FlashAttention", backward_flash };

/* hopper/flash_api.cpp mha_bwd: softmax_d and the logarithm of the sums to base 2, fp32 accumulators of dq and, when they are
 * grouped, of dk and dv of each of their own heads */
static void backward_flash_3(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	uint64_t batch = node->extra[0], heads = node->extra[1], sequence = node->extra[2], dim = node->extra[3];
	uint64_t padded = round_up(sequence, 128), rows = batch * heads * padded;
	bool grouped = node->extra[4] != query_numel(node);
	uint64_t key_rows = node->extra[4] / dim / sequence * padded, width = round_up(dim, dim > 64 && dim <= 128 ? 32 : 64);
	uint64_t numel[5] = { rows, rows, rows * width, grouped ? key_rows * width : 0, grouped ? key_rows * width : 0 };
	struct est_tensor work[5];

	make_input_grads(tape, node, ret);
	for (unsigned i = 0; i < 5; i++)
		work[i] = est_empty_as(tape, numel[i], EST_32BIT, EST_BUFFERS);
	for (unsigned i = 5; i-- > 0;)
		est_drop(tape, work[i]);
}
static const struct est_op flash_3_op = { "FlashAttention3", backward_flash_3 };

static const struct est_op *flash_of(const struct est_pass *pass)
{
	return pass->request->attention == EST_FLASH_ATTENTION_3 ? &flash_3_op : &flash_op;
}

/* attention_backward.cu: delta, and an fp32 accumulator of dq in blocks of 128 rows for 16-bit kernels */
static void backward_efficient(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	uint64_t batch = node->extra[0], heads = node->extra[1], sequence = node->extra[2], dim = node->extra[3];
	struct est_tensor delta, accumulator = est_none;

	make_input_grads(tape, node, ret);
	delta = est_empty_as(tape, batch * heads * sequence, EST_32BIT, EST_BUFFERS);
	if (node->extra[5] == EST_16BIT)
		accumulator = est_empty_as(tape, batch * heads * round_up(sequence, 128) * round_up(dim, 64), EST_32BIT,
					   EST_BUFFERS);
	est_drop(tape, accumulator);
	est_drop(tape, delta);
}
static const struct est_op efficient_op = { "EfficientAttention", backward_efficient };

static void backward_cudnn(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	make_input_grads(tape, node, ret);
}
static const struct est_op cudnn_op = { "CudnnAttention", backward_cudnn };

/* What a fused kernel keeps: q, k, v, its bias, the output, logsumexp and two random-state scalars. */
static struct est_tensor fused(struct est_pass *pass, const struct est_op *op, const struct est_tensor in[3], struct est_tensor bias,
			       uint64_t lse_rows)
{
	struct est_tape *tape = pass->tape;
	struct est_node *node = est_node_new(tape, op, 3, in);
	struct est_tensor out, small[3];

	for (unsigned i = 0; i < 3; i++)
		est_save(tape, node, in[i]);
	if (bias.numel)
		est_save(tape, node, bias);
	out = est_result(tape, EST_RESULT_OF_ATTENTION, output_numel(pass, in[0]), in[0].element);
	/* the memory-efficient kernel makes it for a backward only */
	small[0] = est_result(tape, EST_RESULT_OF_ATTENTION, op == &efficient_op && !node ? 0 : lse_rows, EST_32BIT);
	small[1] = est_empty(tape, 2, EST_INT64);
	small[2] = est_empty(tape, 1, EST_INT64);
	est_save(tape, node, out);
	est_save(tape, node, small[0]);
	/* the two scalars of random state are of no account */
	for (unsigned i = 0; i < 3; i++)
		est_drop(tape, small[i]);
	if (node) {
		node->extra[0] = pass->batch;
		node->extra[1] = (uint64_t)pass->model->num_attention_heads;
		node->extra[2] = pass->sequence;
		node->extra[3] = (uint64_t)pass->model->head_dim;
		node->extra[4] = op == &efficient_op ? in[0].numel : in[1].numel; /* of all heads */
		node->extra[5] = in[1].element;
		node->extra[6] = op == &efficient_op ? output_numel(pass, in[0]) : in[2].numel;
		node->extra[7] = op == &flash_op && copies_heads(pass) ? out.numel : 0;
	}
	for (unsigned i = 0; i < 3; i++)
		est_finish(tape, in[i]);
	return est_output(tape, node, 0, out);
}

/* ---- SDPA's math path (_scaled_dot_product_attention_math): q and k are scaled each, scores and softmax in their dtype */

/* is_causal: ones().tril(), then 0 or -inf in the dtype of q */
static struct est_tensor causal_bias(struct est_pass *pass, uint8_t element)
{
	uint64_t scores = pass->sequence * pass->sequence;
	struct est_tensor ones = est_empty(pass->tape, scores, EST_BYTE), triangle = est_empty(pass->tape, scores, EST_BYTE), bias;

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
	weights = est_bmm_heads(tape, scaled_q, est_mul_scalar(tape, key), scores);
	weights = est_safe_softmax(tape, weights, scores / pass->sequence);
	weights = est_dropout(tape, weights, pass->model->attention_dropout);
	out = est_bmm(tape, weights, value, q.numel);
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

/* Whether q and k come out of a concatenation, contiguous; Liger's rotation works on the rows of the projection */
static bool joins_heads(const struct est_pass *pass)
{
	return (est_rotates_a_part(pass->model) && !pass->request->liger_kernel) || pass->model->kv_lora_rank;
}

/* query, key, value = query.contiguous(), key.contiguous(), value.contiguous(): frame[] holds what they were and are, in[]
 * follows. repeat_kv's result is contiguous already, unless it is one head expanded; one head alone is so too. */
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

/* sdpa_attention_forward: a mask makes transformers repeat k and v and PyTorch turn the boolean mask into an additive one */
static struct est_tensor sdpa(struct est_pass *pass, enum est_kernel kernel, struct est_tensor q, struct est_tensor k,
			      struct est_tensor v, struct est_tensor mask)
{
	struct est_tape *tape = pass->tape;
	uint64_t n_rep = (uint64_t)(pass->model->num_attention_heads / pass->model->num_key_value_heads);
	uint64_t lse = pass->batch * (uint64_t)pass->model->num_attention_heads;
	bool broadcasts = est_architecture_row(pass->model->architecture)->always_masked;
	struct est_tensor in[3] = { q, k, v }, frame[3] = { { 0 } }, bias = est_none, out;
	bool repeats = n_rep > 1 && !broadcasts && (mask.numel || kernel == EST_KERNEL_EFFICIENT || always_repeats(pass));

	if (repeats)
		for (unsigned i = 1; i < 3; i++)
			in[i] = frame[i] = est_hold(est_repeat_kv(tape, in[i], n_rep, pass->model->num_key_value_heads == 1));
	if (copies_heads(pass))
		make_contiguous(pass, repeats, in, frame);
	for (unsigned i = 3; i-- > 0;)
		in[i] = est_autocast(tape, in[i]);
	if (mask.numel)
		bias = est_hold(est_empty(tape, mask.numel, in[0].element));
	if (kernel == EST_KERNEL_MATH)
		out = math(pass, in[0], in[1], in[2], bias, mask.numel ? 1 : n_rep);
	else if (kernel == EST_KERNEL_EFFICIENT)
		out = fused(pass, &efficient_op, in, bias, lse * round_up(pass->sequence, 32));
	else
		out = fused(pass, kernel == EST_KERNEL_CUDNN ? &cudnn_op : flash_of(pass), in, bias, lse * pass->sequence);
	/* flash attention's output lies as q does */
	if (kernel == EST_KERNEL_FLASH && (joins_heads(pass) || copies_heads(pass)))
		out = est_contiguous(tape, out);
	est_drop(tape, bias);
	for (unsigned i = 0; i < 3; i++)
		est_drop(tape, frame[i]);
	return kernel == EST_KERNEL_MATH ? est_merge_heads(tape, out) : out;
}

/* flash-attn with padding: q, k and v are unpadded into copies, the output is padded again */
static struct est_tensor flash_varlen(struct est_pass *pass, struct est_tensor q, struct est_tensor k, struct est_tensor v)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor in[3] = { q, k, v };

	for (unsigned i = 3; i-- > 0;)
		in[i] = est_contiguous(tape, est_autocast(tape, in[i]));
	return est_contiguous(tape, fused(pass, flash_of(pass), in, est_none,
					  pass->tokens * (uint64_t)pass->model->num_attention_heads));
}

struct est_tensor est_matmul_heads(struct est_tape *tape, struct est_tensor a, bool copies_a, struct est_tensor b, bool copies_b,
				   uint64_t numel)
{
	struct est_tensor in[2] = { a, b }, copy[2];
	bool copies[2] = { copies_a, copies_b };

	for (unsigned i = 2; i-- > 0;)
		in[i] = est_autocast(tape, in[i]);
	for (unsigned i = 0; i < 2; i++)
		copy[i] = copies[i] ? est_contiguous(tape, est_hold(in[i])) : est_hold(in[i]);
	a = est_bmm(tape, copy[0], copy[1], numel);
	est_finish(tape, in[0]);
	est_finish(tape, in[1]);
	return a;
}

/* softmax(weights, dtype=torch.float32).to(dtype); GPT-2's has no dtype, and is in fp32 under autocast only */
static struct est_tensor softmax(struct est_pass *pass, struct est_tensor weights, uint8_t element)
{
	bool in_fp32 = pass->model->architecture != EST_ARCH_GPT2 || pass->tape->autocast;

	if (in_fp32)
		weights = est_to(pass->tape, weights, EST_32BIT);
	return est_to(pass->tape, est_softmax(pass->tape, weights), element);
}

/* eager_attention_forward: scores in the dtype of q, softmax in fp32, probabilities cast back */
static struct est_tensor eager(struct est_pass *pass, const struct est_layer *layer, struct est_tensor q, struct est_tensor k, struct est_tensor v,
			       struct est_tensor mask)
{
	struct est_tape *tape = pass->tape;
	uint64_t n_rep = (uint64_t)(pass->model->num_attention_heads / pass->model->num_key_value_heads);
	uint64_t scores = q.numel / (uint64_t)pass->model->head_dim * pass->sequence;
	bool one_head = pass->model->num_key_value_heads == 1;
	struct est_tensor key_states = est_hold(est_repeat_kv(tape, est_alias(tape, k), n_rep, one_head));
	struct est_tensor value_states = est_hold(est_repeat_kv(tape, est_alias(tape, v), n_rep, one_head));
	bool joined = joins_heads(pass) || pass->model->kv_lora_rank || pass->model->attention_sinks;
	struct est_tensor weights, probabilities, logits = est_none, out;

	/* matmul copies operands that are permuted views: not those that a concatenation or repeat_kv has made */
	weights = est_matmul_heads(tape, q, !joined, key_states, !joined && (n_rep == 1 || one_head), scores);
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
	out = est_matmul_heads(tape, probabilities, false, value_states, n_rep == 1 || one_head, output_numel(pass, q));
	out = est_merge_heads(tape, out);
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

	/* flash gives gradients as its inputs lie, and those of repeated heads are sums */
	bool as_copied = kernel == EST_KERNEL_FLASH && (copies_heads(pass) || (repeated && always_repeats(pass)));

	return (struct est_permuted){ query, query || as_copied || (kernel == EST_KERNEL_EFFICIENT && repeated) };
}

struct est_tensor est_heads(struct est_pass *pass, const struct est_layer *layer, struct est_tensor v)
{
	return est_permuted_gradients(pass, layer, v.element).key_value ? permuted_heads(pass, v) : v;
}

struct est_tensor est_query_heads(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	if (layer->rotated)
		return est_rope_heads(pass, x);
	return est_permuted_gradients(pass, layer, x.element).query ? permuted_heads(pass, x) : x;
}

struct est_tensor est_key_heads(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	return layer->rotated ? est_rope_heads(pass, x) : est_heads(pass, layer, x);
}

struct est_tensor est_attention(struct est_pass *pass, const struct est_layer *layer, struct est_tensor q, struct est_tensor k,
				struct est_tensor v)
{
	bool masked = est_layer_is_masked(pass, layer);
	struct est_tensor mask = layer->sliding && pass->sliding_mask.numel ? pass->sliding_mask : pass->mask;
	enum est_kernel kernel = kernel_of(pass, layer, q.element);

	if (!masked)
		mask = est_none;
	if (kernel == EST_KERNEL_EAGER)
		return eager(pass, layer, q, k, v, mask);
	if (kernel == EST_KERNEL_FLASH_VARLEN)
		return flash_varlen(pass, q, k, v);
	return sdpa(pass, kernel, q, k, v, mask);
}
