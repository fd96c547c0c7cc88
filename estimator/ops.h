/* The operators that decoder models are made of, as PyTorch runs them: what each allocates, what autograd keeps of
 * it and what its backward allocates. Arguments are released when temporary; results are temporary (tape.h). Order
 * matters and is PyTorch's: inputs are saved before the output is made, autograd's formulas compute the last input's
 * gradient first, and autocast casts the last argument first. Checked event by event against traces of torch 2.13. */
#ifndef EST_OPS_H
#define EST_OPS_H

#include "estimator/tape.h"
#include "estimator/tensor_parallel.h"


/* How a linear layer's frozen weight lies: as it is, or as bitsandbytes, GPTQ or HQQ packs it. */
enum est_base { EST_BASE_DENSE, EST_BASE_4BIT, EST_BASE_INT8, EST_BASE_GPTQ, EST_BASE_HQQ,
		EST_BASE_4BIT_OLD }; /* bitsandbytes before 0.43.2, quantised from fp16 */

/* A linear layer's parameters: leaves of the tape. */
struct est_linear {
	uint32_t weight, bias;
	uint32_t module;                   /* its number; the next two are those of PEFT's layer around it, and of
					    * its dropout */
	uint64_t in, out;
	bool has_bias;
	bool flat;                         /* its input is a matrix: the input's gradient passes no view */
	bool permuted;                     /* its result is transposed at once: the gradient comes back so, and is copied */
	bool untransposed;                 /* GPT-2's Conv1D: the weight is [in, out] */
	bool nested;                       /* double quantisation; HQQ: two values a byte */
	uint8_t quantized_from;            /* bitsandbytes: the dtype of what was quantised */
	bool mixed;                        /* LLM.int8: outlier columns of its input are multiplied apart */
	bool keeps_weight;                 /* GPTQ: autograd keeps the dequantised weight */
	bool adds_in_place;                /* GPTQ: result += adapter(x) */
	enum est_base base;
	enum est_cut cut;                  /* over tensor-parallel ranks: in and out are those of this rank's part */
	const struct est_tensor_group *group; /* of a layer that is cut */
	const struct est_adapter *adapter; /* LoRA on top, or NULL */
};

/* LoRA: lora_A, lora_B, and with DoRA the magnitudes of the rows. */
struct est_adapter {
	struct est_linear a, b;
	uint32_t magnitude;
	bool dora;
	double dropout;
	bool has_dropout; /* PEFT made a module for it, whose rate a trainer may have set to 0 since */
	bool scales;   /* alpha / rank is not 1 */
	/* the forward of another library than PEFT; NULL: PEFT's */
	struct est_tensor (*forward)(struct est_tape *tape, const struct est_linear *linear, struct est_tensor x);
	unsigned parts;   /* LitGPT: how many of fused q, k and v are adapted, and the width of each */
	uint64_t part[3];
	bool one_sequence;
};

/* Backward functions that many operators share (est_op.backward), each but the last of one input: */
typedef void est_backward_function(struct est_tape *tape, struct est_node *node, struct est_tensor ret[]);
/* a new tensor of the input's size in the gradient's dtype; the same, viewed; in the input's dtype */
est_backward_function est_backward_one, est_backward_view, est_backward_like_input;
/* the gradient as it came; as a view of it */
est_backward_function est_backward_pass, est_backward_pass_view;
/* a new tensor for each of two inputs that needs one, of its size in the gradient's dtype, the second's first */
est_backward_function est_backward_products;

/* The gradient of input i that the forward has made and node keeps as its saved tensor i; none where none is asked
 * for. */
struct est_tensor est_saved_grad(struct est_tape *tape, const struct est_node *node, unsigned i);

/* x.to(dtype): the same tensor when it has that dtype already. */
struct est_tensor est_to(struct est_tape *tape, struct est_tensor x, uint8_t element);
/* Elementwise, with broadcasting of the smaller operand and promotion to the larger dtype. */
struct est_tensor est_add(struct est_tape *tape, struct est_tensor a, struct est_tensor b);
/* a += b */
struct est_tensor est_add_in_place(struct est_tape *tape, struct est_tensor a, struct est_tensor b);
struct est_tensor est_sub(struct est_tape *tape, struct est_tensor a, struct est_tensor b);
struct est_tensor est_mul(struct est_tape *tape, struct est_tensor a, struct est_tensor b);
/* The same of numel elements, to which both may be broadcast. */
struct est_tensor est_mul_outer(struct est_tape *tape, struct est_tensor a, struct est_tensor b, uint64_t numel);
/* With a python number: nothing is kept. */
struct est_tensor est_add_scalar(struct est_tape *tape, struct est_tensor x);
struct est_tensor est_mul_scalar(struct est_tape *tape, struct est_tensor x);
/* x /= number */
struct est_tensor est_div_in_place(struct est_tape *tape, struct est_tensor x);
/* x.pow(2) and x.pow(3) (the backward of any other power than 2 is the same to memory). */
struct est_tensor est_pow(struct est_tape *tape, struct est_tensor x);
/* x.mean(-1): rows results. */
struct est_tensor est_mean(struct est_tape *tape, struct est_tensor x, uint64_t rows);
/* x.sum(): numel sums in element, whose gradient is expanded without memory. */
struct est_tensor est_sum_to(struct est_tape *tape, struct est_tensor x, uint64_t numel, uint8_t element);
struct est_tensor est_rsqrt(struct est_tape *tape, struct est_tensor x);
/* An operator of one operand, to numel elements of its dtype. */
struct est_tensor est_unary(struct est_tape *tape, const struct est_op *op, struct est_tensor x, bool keeps_input,
			    bool keeps_result, uint64_t numel);
/* Functions of one operand that keep their input (silu, gelu) or their result (tanh, relu). */
struct est_tensor est_silu(struct est_tape *tape, struct est_tensor x);
struct est_tensor est_gelu(struct est_tape *tape, struct est_tensor x);
struct est_tensor est_relu(struct est_tape *tape, struct est_tensor x);
struct est_tensor est_tanh(struct est_tape *tape, struct est_tensor x);
/* torch.nn.functional.dropout in training: the result and a mask of one byte each; nothing at all when p is 0. */
struct est_tensor est_dropout(struct est_tape *tape, struct est_tensor x, double p);
/* Softmax in the operand's dtype. */
struct est_tensor est_softmax(struct est_tape *tape, struct est_tensor x);
/* softmax(x, dtype=torch.float32), which autocast makes of any: a copy in fp32 first, but of fp16, for which the kernel on CUDA reads
 * what it is given (half_to_float). */
struct est_tensor est_softmax_in_fp32(struct est_tape *tape, struct est_tensor x);
/* _safe_softmax in the operand's own dtype, with its search for rows that are masked whole. */
struct est_tensor est_safe_softmax(struct est_tape *tape, struct est_tensor x, uint64_t rows);
/* F.layer_norm over rows; weight and bias are leaves, or EST_NO_LEAF. Autocast runs it in fp32. */
#define EST_NO_LEAF UINT32_MAX
struct est_tensor est_layer_norm(struct est_tape *tape, struct est_tensor x, uint64_t rows, uint32_t weight,
				 uint32_t bias);

/* The same without autocast, of x, weight and bias, those two perhaps none. */
struct est_tensor est_layer_norm_as_is(struct est_tape *tape, const struct est_tensor in[3], uint64_t rows);

/* torch.cat of half-negated halves: LlamaAttention's rotate_half. */
struct est_tensor est_rotate_half(struct est_tape *tape, struct est_tensor x);
/* x.view(other shape): nothing but that gradients that pass it are views, and are not added to in place. */
struct est_tensor est_reshape(struct est_tape *tape, struct est_tensor x);
/* x[..., start:end]: a view of numel elements; its backward is zeros of x with the gradient copied in. */
struct est_tensor est_slice(struct est_tape *tape, struct est_tensor x, uint64_t numel);
/* torch.cat of n <= EST_NODE_INPUTS, or of two. */
struct est_tensor est_cat_of(struct est_tape *tape, unsigned n, const struct est_tensor parts[]);
struct est_tensor est_cat(struct est_tape *tape, struct est_tensor a, struct est_tensor b);
/* x.chunk(n)/x.split(): views made by one operator, whose backward is one cat. ret[0..n). x is released when
 * temporary. */
void est_split(struct est_tape *tape, struct est_tensor x, unsigned n, const uint64_t numel[], struct est_tensor ret[]);
/* A view whose gradient arrives in another layout and is copied: view(b, s, heads, d).transpose(1, 2) before RoPE. */
struct est_tensor est_view_as_heads(struct est_tape *tape, struct est_tensor x);
/* .contiguous() or .reshape() of a permuted tensor: a copy. */
struct est_tensor est_contiguous(struct est_tape *tape, struct est_tensor x);
/* attn_output.transpose(1, 2).contiguous(): a copy whose gradient is copied back. */
struct est_tensor est_merge_heads(struct est_tape *tape, struct est_tensor x);
/* repeat_kv: expand and reshape, n_rep times as large; the same tensor when n_rep is 1. With one head the reshape is
 * a view (of stride 0) and copies nothing. */
struct est_tensor est_repeat_kv(struct est_tape *tape, struct est_tensor x, uint64_t n_rep, bool one_head);

/* nn.Linear.forward, under autocast with its casts; of whatever has taken its place: a quantised layer, one with
 * LoRA. */
struct est_tensor est_linear(struct est_tape *tape, const struct est_linear *linear, struct est_tensor x);
/* F.linear(x, weight) with another weight of linear's shape (borrowed), and no bias. */
struct est_tensor est_linear_by(struct est_tape *tape, const struct est_linear *linear, struct est_tensor weight,
				struct est_tensor x);
/* transformers' Conv1D (GPT-2): addmm on an untransposed weight. */
struct est_tensor est_conv1d(struct est_tape *tape, const struct est_linear *linear, struct est_tensor x);
/* F.embedding of tokens indices (int64 storage ids, borrowed) into weight (a leaf) of width columns. */
struct est_tensor est_embedding(struct est_tape *tape, struct est_tensor ids, uint32_t weight, uint64_t rows,
				uint64_t width);
/* embedding_dense_backward() of a node with extra: 0 the indices, 1 the rows of the table, whose gradient is as
 * edge_numel[0] says. */
void est_embedding_backward(struct est_tape *tape, struct est_node *node, struct est_tensor ret[]);

/* Casts an operand for a matrix product when autocast is on; trainable fp32 leaves are cast once and cached. */
struct est_tensor est_autocast(struct est_tape *tape, struct est_tensor x);

/* torch.matmul of two batched operands: a [batch, m, k] x b [batch, k, n]. */
struct est_tensor est_bmm(struct est_tape *tape, struct est_tensor a, struct est_tensor b, uint64_t numel);

#endif
