/* One forward pass of a model over a micro-batch: its parameters as leaves of the tape, its buffers, and the pieces that the
 * families' modelling code is written with. */
#ifndef EST_PASS_H
#define EST_PASS_H

#include "estimator/device.h"
#include "estimator/model.h"
#include "estimator/ops.h"
#include "estimator/request.h"
#include "estimator/schedule.h"
#include "estimator/zero.h"

/* A norm's parameters; EST_NO_LEAF where it has none. */
struct est_norm_weights {
	uint32_t weight, bias, module;
	uint64_t width;
};

/* An expert of Transformers 4: w2(act(w1(x)) * w3(x)) */
struct est_expert {
	struct est_linear w1, w2, w3;
};

/* The experts' fused weights, and LoRA on them; or each by itself; or, over expert-parallel ranks, torchtitan's three of a rank's own. */
struct est_experts {
	struct est_expert *apart;                                            /* NULL: fused */
	uint32_t w1, w2, w3;
	struct est_tensor permuted_indices;                                  /* of the last tokens that came; none: the experts are not dealt out */
	uint32_t gate_up_proj, gate_up_proj_bias, down_proj, down_proj_bias; /* biases: EST_NO_LEAF where there are none */
	const struct est_adapter *gate_up_adapter, *down_adapter;            /* or NULL */
};

/* The modules of a mixer that is no attention: the projections, a causal convolution, vectors of one element a head, the norm of
 * what comes out. */
struct est_mixer {
	struct est_linear in_proj, out_proj, z_proj, b_proj, a_proj;
	struct est_linear f_a_proj, f_b_proj, g_a_proj, g_b_proj; /* Kimi's: what is forgotten, and the output's gate */
	uint32_t conv_weight, conv_bias;            /* conv_bias: EST_NO_LEAF where there is none */
	uint32_t dt_bias, a_log, d;
	struct est_tensor mup_vector;               /* Falcon-H1: multipliers of in_proj's features, a buffer; or none */
	struct est_norm_weights norm;
};

/* Gemma-3n's alternating updates: what predicts all streams of one, and corrects them by what a layer made of that one. */
struct est_altup {
	uint32_t correct_output_scale;
	struct est_linear correction_coefs, prediction_coefs, modality_router;
	struct est_norm_weights router_norm;
};

/* Its augmented residual: a projection of low rank. */
struct est_laurel {
	struct est_linear linear_left, linear_right;
	struct est_norm_weights post_laurel_norm;
};

/* DeepSeek-V3.2's choice of tokens; no gradient reaches it. */
struct est_indexer {
	struct est_linear wq_b, wk, weights_proj;
	struct est_norm_weights k_norm;
};

/* The modules of a decoder layer under the names of Llama's; a family uses those it has (architecture.c lists them). */
struct est_layer {
	struct est_linear q_proj, k_proj, v_proj, o_proj;
	struct est_linear qkv_proj;                 /* fused: Phi-3, GPT-2's c_attn, GPT-NeoX's query_key_value */
	struct est_linear gate_proj, up_proj, down_proj;
	struct est_linear gate_up_proj;             /* fused: Phi-3 */
	struct est_norm_weights input_layernorm, post_attention_layernorm;
	struct est_norm_weights pre_feedforward_layernorm, post_feedforward_layernorm;
	struct est_norm_weights post_feedforward_layernorm_1, post_feedforward_layernorm_2, pre_feedforward_layernorm_2;
	struct est_norm_weights q_norm, k_norm;
	struct est_linear router;
	uint32_t router_scale, per_expert_scale;    /* Gemma-4 */
	struct est_tensor layer_scalar;
	struct est_linear per_layer_input_gate, per_layer_projection;
	struct est_norm_weights post_per_layer_input_norm;
	enum est_sharing shares;                    /* its keys and values */
	struct est_altup altup;
	struct est_laurel laurel;
	bool sparse_mlp;
	struct est_experts experts;
	struct est_linear shared_expert_gate;
	/* latent attention */
	struct est_linear q_a_proj, q_b_proj, kv_a_proj_with_mqa, kv_b_proj;
	struct est_norm_weights q_a_layernorm, kv_a_layernorm;
	uint32_t sinks;
	struct est_indexer indexer;
	/* a decoder's attention to the encoder's output */
	struct est_linear cross_q_proj, cross_k_proj, cross_v_proj, cross_o_proj;
	struct est_norm_weights cross_attn_layernorm;
	uint32_t alpha_p, alpha_n;                  /* of Apertus' xIELU */
	struct est_mixer mixer;
	struct est_linear fc1_latent_proj, fc2_latent_proj;
	uint32_t self_attn, mlp, act_fn;            /* numbers of modules without parameters of their own */
	bool sliding, sparse, rotated, indexed;
	enum est_block_kind kind;
};

/* Which kernel attention runs; attention.c chooses as PyTorch does. */
enum est_kernel { EST_KERNEL_EAGER, EST_KERNEL_FLASH, EST_KERNEL_EFFICIENT, EST_KERNEL_MATH, EST_KERNEL_CUDNN,
		  EST_KERNEL_FLASH_PACKAGE, EST_KERNEL_FLEX };

/* cos and sin of rotary embeddings. */
struct est_rope {
	struct est_tensor cos, sin;
};

/* A router's logits (held), and the layer that it is of, as est_mark_layer() counts. */
struct est_router_record {
	struct est_tensor logits;
	unsigned layer;
};

struct est_stream_frame;
struct est_compiled_layer;
struct est_compiled_model;

struct est_pass {
	struct est_tape *tape;
	const struct est_model *model;
	const struct est_request *request;
	const struct est_model *full;               /* the shape of layers that attend in full, where it is another; else NULL */
	uint64_t batch, sequence, tokens;
	uint8_t parameter_element;                  /* bytes of a parameter that is not quantised: the dtype of the stream */
	struct est_schedule *schedule;              /* of a sharded model, or NULL */
	struct est_zero *zero;                      /* of ZeRO's gradients, or NULL */
	struct est_ddp *ddp;                        /* of DDP's buckets, or NULL */
	struct est_tensor_group tensor;             /* of tensor-parallel ranks; model is a rank's part */
	bool trains, quantizes;                     /* while building: what is made is trained, is quantised */
	bool idle;                                  /* while building: a part that the forward does not run */
	bool frozen;                                /* while building: a part that method freeze does not train */
	struct est_pass *reference;                 /* a second, frozen model on the same tape, or NULL */
	uint32_t base_embed_tokens, base_lm_head;   /* weights as they were loaded, where PEFT trains copies: what is left without adapters */
	enum est_sdpa_choice fused;                 /* what sdpa may choose on the card */

	uint32_t embed_tokens, embed_positions, lm_head_bias;
	uint32_t tower;                             /* the module of its first linear layer, then while adapters are made of the next */
	uint32_t inner, inner_count, rotary_emb;    /* modules: the decoder and PEFT's two around the whole; the rotary embedding */
	struct est_linear lm_head, project_in, project_out;
	struct est_norm_weights norm;
	struct est_layer *layers;
	uint32_t embed_tokens_per_layer;            /* Gemma-4: what layers are given beside the stream */
	struct est_linear per_layer_model_projection;
	struct est_norm_weights per_layer_projection_norm;
	struct est_linear altup_projections[EST_STREAMS_MAX - 1], altup_unembed_projections[EST_STREAMS_MAX - 1];

	/* encoders */
	uint32_t token_type_embeddings, task_type_embeddings;
	struct est_linear head_dense;               /* the pooler, or the dense layer of the task's head */
	struct est_norm_weights head_norm, decoder_norm;
	uint32_t relative_attention_bias[2];        /* of the encoder, of the decoder */
	uint32_t relative_embeddings;               /* DeBERTa's, of distances */
	struct est_tensor relative_positions;
	struct est_tensor labels;                   /* of the micro-batch, as the task has them */
	struct est_tensor pooler_output;            /* BERT's, for a classifier */
	struct est_tensor encoder_last_hidden_state; /* held until the loss is known, as the decoder's cache is */
	bool gathers_sequence;                      /* in Ulysses' attention: all tokens, some of the heads, one after the other */
	uint32_t first_leaf;                        /* of the model: those from here on are its parameters */
	struct est_pass *next_stage;                /* of the same rank of a pipeline, on the same tape, or NULL */
	bool fills_cache;                           /* of keys and values, although nothing is generated */
	struct est_tensor *cache;
	size_t cache_count;

	struct est_tensor received;                 /* of a pipeline's stage: what the one before sent; or none */
	struct est_tensor *output;                  /* and what its schedule holds of its last output; or NULL */
	uint32_t forward_leaves;                    /* leaves from here on are the forward's own: embeddings made to require a gradient */
	struct est_tensor input_ids;
	const struct est_layer *layer;              /* the one that runs */
	struct est_rope angles;                     /* Unsloth's, of all positions and for the whole run */
	struct est_rope ropes[2];                   /* shared by all layers; the second for sliding ones where they have their own */
	bool runs_layers;                           /* in the model's loop, not in a recomputation */
	struct est_tensor position_bias;            /* ALiBi's */
	struct est_norm_weights embedding_norm;
	struct est_tensor last_layer;               /* the output of torchtune's, which its frame holds until the head is through */
	struct est_tensor previous[2];              /* what LitGPT's loop still holds of the batch before: logits, inputs */
	struct est_tensor attn_weights;             /* eager: the layer's frame holds them to its end (`hidden_states, _ = ...`) */
	struct est_tensor topk_indices, next_indices; /* the tokens that the layer before chose, and that this one has */
	struct est_tensor frame;                    /* another variable of the layer's frame, held to its end */
	struct est_compiled_layer *compiled;        /* one a layer, or NULL: nothing is compiled */
	struct est_compiled_model *compiled_model;  /* or NULL: not as a whole */
	struct est_tensor mask, sliding_mask;       /* 4-D masks; storage 0 and numel 0: none */
	struct est_tensor per_layer_inputs;         /* of all layers; numel 0: there are none */
	struct est_router_record *routers;          /* what hooks record of the routers that are called, or NULL */
	uint64_t router_count;
	struct est_shared_states *states;           /* keys and values that layers share, or NULL */
	struct est_stream_frame *streams;           /* what the model's frame holds of its streams, or NULL */
};

typedef struct est_tensor est_layer_function(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x);
typedef void est_rope_function(struct est_pass *pass, const struct est_rope *rope, struct est_tensor q, struct est_tensor k,
			       struct est_tensor ret[2]);
typedef struct est_tensor est_norm_function(struct est_pass *pass, const struct est_norm_weights *norm, struct est_tensor x);
/* How a layer calls one of its blocks. */
typedef struct est_tensor est_block_call(struct est_pass *pass, const struct est_layer *layer, est_layer_function *forward,
					 struct est_tensor x);

/* ---- attention.c */

/* Whether any layer, or one with a sliding window, gets a 4-D mask: padding, a window that the sequence fills, eager. */
bool est_layer_is_masked(const struct est_pass *pass, const struct est_layer *layer);
/* q or k as heads before RoPE, whose gradient comes back permuted and is copied, unless there is but one head. x is released
 * when temporary. */
struct est_tensor est_rope_heads(struct est_pass *pass, struct est_tensor x);
/* q or v as heads, where no RoPE follows: its gradient comes back permuted, and is copied, unless a fused kernel takes it as it
 * is. The tensor is released when temporary. */
struct est_tensor est_heads(struct est_pass *pass, const struct est_layer *layer, struct est_tensor v);
/* q as heads, where nothing but attention transposes them. x is released when temporary. */
struct est_tensor est_unrotated_query(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x);
/* q and k as heads, in a layer that rotates them or leaves them as they are. x is released when temporary. */
struct est_tensor est_query_heads(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x);
struct est_tensor est_key_heads(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x);
/* Whether attention's backward leaves the gradient of q, and those of k and v, permuted. */
struct est_permuted {
	bool query, key_value;
};
struct est_permuted est_permuted_gradients(const struct est_pass *pass, const struct est_layer *layer, uint8_t element);
/* torch.matmul(a, b) of [batch, heads, ...] to numel elements: autocast casts b, then a. It makes one dimension of batch and heads, for
 * which an operand that is permuted is copied, unless the batch is 1. Operands are released when temporary. */
struct est_tensor est_matmul_heads(struct est_pass *pass, struct est_tensor a, bool permuted_a, struct est_tensor b, bool permuted_b,
				   uint64_t numel);
/* attn_output.transpose(1, 2).contiguous() of such a product: a copy, whose gradient is copied back, or is a view where the batch is 1. */
struct est_tensor est_join_heads(struct est_pass *pass, struct est_tensor x);
/* ALL_ATTENTION_FUNCTIONS[...]: q, k, v after RoPE -> the heads' outputs side by side. q, k, v are borrowed. */
struct est_tensor est_attention(struct est_pass *pass, const struct est_layer *layer, struct est_tensor q, struct est_tensor k,
				struct est_tensor v);

/* key_states, value_states = past_key_values.update(key_states, value_states), where the pass fills a cache: copies take the place
 * of both. */
void est_cache_update(struct est_pass *pass, struct est_tensor *k, struct est_tensor *v);
/* The outputs of the forward are done with, and the cache in them. */
void est_cache_drop(struct est_pass *pass);

/* ---- compiled.c */

/* A decoder layer as torch.compile runs it, its checkpoint within; x is borrowed. */
struct est_tensor est_compiled_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x);
/* Bytes of a layer's state between forward and backward. */
size_t est_compiled_layer_size(void);

/* ---- compiled_model.c */

/* The whole model as torch.compile runs it, from the tokens to its loss (held). */
struct est_tensor est_compiled_model_loss(struct est_pass *pass);
/* Bytes of a layer's state between forward and backward. */
size_t est_compiled_model_layer_size(void);

/* ---- modules.c */

/* x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + eps) of rows; x32 and the variance, held, are variables of the caller's
 * frame */
struct est_tensor est_normalized(struct est_tape *tape, struct est_tensor x32, struct est_tensor *ret_variance, uint64_t rows);
/* LlamaRMSNorm: weight * (x32 * rsqrt(mean(x32^2) + eps)).to(dtype) */
struct est_tensor est_llama_norm(struct est_pass *pass, const struct est_norm_weights *norm, struct est_tensor x);
/* GemmaRMSNorm: (x32 * rsqrt(...)) * (1 + weight32), then the dtype */
struct est_tensor est_gemma_norm(struct est_pass *pass, const struct est_norm_weights *norm, struct est_tensor x);
/* Olmo2RMSNorm: (weight * x32 * rsqrt(...)).to(dtype) */
struct est_tensor est_olmo2_norm(struct est_pass *pass, const struct est_norm_weights *norm, struct est_tensor x);
/* The same for q and k, whose norms Liger leaves as they are. */
struct est_tensor est_olmo2_head_norm(struct est_pass *pass, const struct est_norm_weights *norm, struct est_tensor x);
/* OlmoLayerNorm: F.layer_norm(x32, no parameters).to(dtype) */
struct est_tensor est_olmo_norm(struct est_pass *pass, const struct est_norm_weights *norm, struct est_tensor x);
/* nn.LayerNorm */
struct est_tensor est_torch_layer_norm(struct est_pass *pass, const struct est_norm_weights *norm, struct est_tensor x);
/* A norm's call, with a module's hooks around forward. */
struct est_tensor est_call_norm(struct est_pass *pass, est_norm_function *forward, const struct est_norm_weights *norm,
				struct est_tensor x);
/* A layer's self_attn, to which x is passed by name and hidden from hooks; its mlp. x is borrowed. */
est_block_call est_call_attention, est_call_mlp;
/* ACT2FN[hidden_act] */
struct est_tensor est_activate(struct est_pass *pass, struct est_tensor x);
/* apply_rotary_pos_emb of Llama: ret[0], ret[1] are q and k rotated (held). q and k are borrowed. */
void est_apply_rope(struct est_pass *pass, const struct est_rope *rope, struct est_tensor q, struct est_tensor k,
		    struct est_tensor ret[2]);
/* The same of GPT-NeoX and Phi-3, on the first partial_rotary_factor of each head. */
void est_apply_partial_rope(struct est_pass *pass, const struct est_rope *rope, struct est_tensor q, struct est_tensor k,
			    struct est_tensor ret[2]);
/* Whether the model's heads come out of a concatenation: contiguous, so that flash attention's output has to be copied. */
bool est_rotates_a_part(const struct est_model *model);
/* dropout(down_proj(act(gate_proj(x)) * up_proj(x))) */
struct est_tensor est_gated_mlp(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x);
/* down(act(gate(x)) * up(x)); x is borrowed */
struct est_tensor est_gate_and_up(struct est_pass *pass, const struct est_linear *gate_proj, const struct est_linear *up_proj,
				  const struct est_linear *down_proj, struct est_tensor x);

/* What a decoder layer of Llama's kind is made of. */
struct est_blocks {
	est_norm_function *norm;
	est_layer_function *attention, *mlp;
};

/* ---- llama.c */

/* residual = x; x = input_layernorm(x); x = residual + self_attn(x); residual = x;
 * x = residual + mlp(post_attention_layernorm(x)) */
struct est_tensor est_pre_norm_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x,
				     const struct est_blocks *blocks);
/* The same with a norm before and after each block (gemma.c). */
struct est_tensor est_sandwich_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x,
				     const struct est_blocks *blocks);
/* x = x + norm(block(x)) for both blocks (olmo.c). */
struct est_tensor est_post_norm_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x,
				      const struct est_blocks *blocks);
/* down_proj(act(up_proj(x))) of GPT-NeoX, dropout of it of StarCoder-2, down_proj(up * act(gate)) of a fused gate_up_proj. */
est_layer_function est_plain_mlp, est_dropped_mlp, est_fused_mlp;
/* GPT-2's layer, of these blocks: its frame holds what attention gave to the end. x is borrowed. */
struct est_tensor est_gpt_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x, est_layer_function *attention,
				est_layer_function *mlp);
/* Apertus: xielu in the place of act (xielu.c). */
est_layer_function est_xielu_mlp;
/* self_attn of Llama, of Qwen3, with the same norms after the transposition, and after the rotation (hunyuan.c); x is borrowed. */
est_layer_function est_llama_attention, est_qwen3_attention, est_head_norm_attention, est_hunyuan_attention;
/* The same without weights (llama4.c), as est_l2_norm() is of the stream. */
struct est_tensor est_l2_norm_heads(struct est_pass *pass, struct est_tensor heads);
/* Of OLMo-2: q_norm and k_norm over all heads; x is borrowed. */
est_layer_function est_olmo2_attention;
/* q_norm(q), of each head; heads move in */
struct est_tensor est_norm_heads(struct est_pass *pass, const struct est_norm_weights *norm, struct est_tensor heads);
/* o_proj(attention(rope(q), rope(k), v)); q, k and v, as heads, move in */
struct est_tensor est_attend(struct est_pass *pass, const struct est_layer *layer, struct est_tensor q, struct est_tensor k,
			     struct est_tensor v);
/* o_proj(attention(q, k, v)) of what is rotated already, or is not; q, k and v move in */
struct est_tensor est_attend_as_is(struct est_pass *pass, const struct est_layer *layer, struct est_tensor q, struct est_tensor k,
				   struct est_tensor v);
/* est_attend() with attention's output multiplied by sigmoid(gate), which moves in. */
struct est_tensor est_attend_gated(struct est_pass *pass, const struct est_layer *layer, struct est_tensor q, struct est_tensor k,
				   struct est_tensor v, struct est_tensor gate);

/* ---- moe.c, mla.c */

/* A router's choice: the variables of the block's frame. */
struct est_routing {
	struct est_tensor logits, weights, indices;
};

/* grouped_mm_experts_forward: tokens sorted by expert, two grouped products, weighted sum. x [tokens, hidden] and routing are
 * borrowed. */
struct est_tensor est_grouped_experts(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x,
				      const struct est_routing *routing);
/* x[rows], or torch.gather(): numel elements. Keeps rows, which are cast first where they are of 32 bits; its backward fills zeros of x.
 * Both are released when temporary. */
struct est_tensor est_gather_rows(struct est_tape *tape, struct est_tensor x, struct est_tensor rows, uint64_t numel);
/* x.sum() over experts to numel elements, which autocast runs into fp32; the gradient is expanded and copied. x is borrowed. */
struct est_tensor est_sum_of_experts(struct est_tape *tape, struct est_tensor x, uint64_t numel);
/* The loop over experts of Transformers 4 (experts.c); x [tokens, hidden] and routing are borrowed. */
struct est_tensor est_looped_experts(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x,
				     const struct est_routing *routing);
/* Qwen2-MoE's block in the place of the MLP: a gated shared expert beside the others; a layer without experts has an MLP. */
est_layer_function est_qwen2_mixture;
/* torchtitan's block over expert-parallel ranks (titan_moe.c) in the place of any mixture. */
est_layer_function est_titan_mixture;
/* Where rows that come from other ranks lie when they are sorted by expert: an attribute of a layer's plan, which stays. */
struct est_tensor est_titan_permutation(const struct est_pass *pass);
/* DeepSeek's self_attn; x is borrowed. */
est_layer_function est_latent_attention, est_unrotated_latent_attention;
/* gpt-oss: its self_attn, and its experts' gate, gate_up borrowed. */
est_layer_function est_gpt_oss_attention;
/* The probabilities of eager attention scores (borrowed) beside the sinks' column, in element; ret_logits: what the frame holds. */
struct est_tensor est_attention_with_sinks(struct est_pass *pass, const struct est_layer *layer, struct est_tensor weights,
					   uint8_t element, struct est_tensor *ret_logits);
struct est_tensor est_clamped_gate(struct est_pass *pass, struct est_tensor gate_up);
/* apply_rotary_pos_emb on pairs of features: of a head's halves, or interleaved. q and k are borrowed, ret[] held. */
void est_apply_paired_rope(struct est_pass *pass, const struct est_rope *rope, bool interleaved, struct est_tensor q,
			   struct est_tensor k, struct est_tensor ret[2]);

/* DeepSeek-V2's and Llama-4's apply_rotary_emb, by complex numbers. q and k are borrowed, ret[] held. permuted: gradients that are
 * copied first; one_by_one: each is cast back before the next is turned. */
void est_apply_complex_rope(struct est_pass *pass, struct est_permuted permuted, bool one_by_one, struct est_tensor q, struct est_tensor k,
			    struct est_tensor ret[2]);

/* ---- mamba2.c, lfm2.c, delta_net.c */

/* The mixers' forward without packages of kernels, as Transformers' modelling code has it; x is borrowed. */
est_layer_function est_mamba2_mixer, est_short_conv, est_delta_net, est_kimi_delta_attention;

/* ---- rotary.c */

/* The rotary embedding of the architecture, applied in a layer. q and k are borrowed, ret[] held. */
void est_rotate(struct est_pass *pass, const struct est_layer *layer, struct est_tensor q, struct est_tensor k,
		struct est_tensor ret[2]);
/* ModernBERT's: of halves, in fp32. */
est_rope_function est_apply_modernbert_rope;
/* Llama's the other way (nanochat.c). */
est_rope_function est_apply_nanochat_rope;
/* Of neighbouring features: in fp32 (ERNIE 4.5, Cohere), of a part of each head (GLM), or as Llama's (Helium). */
est_rope_function est_apply_ernie_rope, est_apply_cohere_rope, est_apply_glm_rope, est_apply_helium_rope;
/* Qwen's VisionRotaryEmbedding.forward of the language model: cos and sin of three positions a token, for each sequence. */
void est_make_multimodal_rope(struct est_pass *pass, struct est_rope *rope);
/* Ministral 3: q * (1 + beta * log(1 + floor(position / original_max_position_embeddings))).to(dtype); others: q. q moves in. */
struct est_tensor est_scale_query(struct est_pass *pass, struct est_tensor q);

/* ---- pass_buffers.c */

/* Pairs of cos and sin of a forward, and the one of a layer. */
unsigned est_rope_count(const struct est_pass *pass);
const struct est_rope *est_layer_rope(const struct est_pass *pass, const struct est_layer *layer);
/* Cos and sin of all layers, in element bytes unless the architecture has them in fp32: pass->ropes. */
void est_make_ropes(struct est_pass *pass, uint8_t element);
/* The 4-D masks that some layer needs: pass->mask, pass->sliding_mask. */
void est_make_masks(struct est_pass *pass);
/* The model's frame ends, and with it those that are of no layer. */
void est_drop_masks_not_taken(struct est_pass *pass);
/* ALiBi. Bloom: one row for each head of each sequence, in the dtype of the stream; MPT: one for each head, for all positions, fp32.
 * pass->position_bias. */
void est_make_position_bias(struct est_pass *pass);

/* ---- build.c, pass.c */

/* Bytes of an element of what the model is loaded in, before anything is cast: the dtype of its buffers. */
uint8_t est_loaded_element(const struct est_request *request);
/* A parameter's memory: none yet where a schedule cuts it into shards. */
struct est_tensor est_parameter_empty(struct est_pass *pass, uint64_t numel, uint8_t element);
/* Builds the parameters as the model's constructor does, in its order: weights in the events, leaves in the tape. */
bool est_pass_build(struct est_pass *pass, struct est_tape *tape, const struct est_model *model, const struct est_request *request);
/* The same again, frozen and without adapters: pass->reference. */
bool est_pass_build_reference(struct est_pass *reference, struct est_pass *pass);
/* input_ids -> last hidden state after the final norm: embedding, buffers, decoder layers with their checkpoints. */
struct est_tensor est_pass_forward(struct est_pass *pass);
/* The model's own forward returns y (held), the loss; what a trainer makes the loss of: nothing happens where that is not sharded by itself.
 * y moves in and out. */
struct est_tensor est_pass_leave(struct est_pass *pass, struct est_tensor y);
struct est_tensor est_pass_return(struct est_pass *pass, struct est_tensor y);
/* The model's layers with their checkpoints; x moves in. */
struct est_tensor est_run_layers(struct est_pass *pass, struct est_tensor x);
/* Whether the layer (from 0) is checkpointed. */
bool est_is_checkpointed(const struct est_pass *pass, int64_t layer);
/* enable_input_require_grads(): with checkpoints over a frozen model the embedding's output becomes a leaf. x moves in. */
struct est_tensor est_require_input_grad(struct est_pass *pass, struct est_tensor x);
/* Gives up cos, sin and the masks: at the end of the forward, or, where reentrant checkpoints still need them, of the backward. */
void est_pass_release(struct est_pass *pass);

/* Holds x, which the stage gives, in the place of the output before (pass->output). x is borrowed. */
void est_pass_give(struct est_pass *pass, struct est_tensor x);

/* After the backward: the graph goes, and with it the input's gradient. */
void est_pass_end(struct est_pass *pass);

/* The families' decoder layers, one file each or a few: llama.c, gemma.c, phi3.c, olmo.c, gpt.c. x is borrowed. */
est_layer_function est_llama_layer, est_qwen2_vl_layer, est_qwen3_layer, est_gemma_layer, est_gemma2_layer, est_gemma3_layer, est_phi3_layer,
	est_olmo_layer, est_olmo2_layer, est_gpt2_layer, est_gpt_neox_layer, est_opt_layer, est_mixtral_layer,
	est_qwen2_moe_layer, est_qwen3_moe_layer, est_olmoe_layer, est_flex_olmo_layer, est_deepseek_v2_layer, est_deepseek_v3_layer,
	est_glm4_moe_layer, est_solar_open_layer, est_dots1_layer, est_gpt_oss_layer, est_bert_layer, est_deberta_layer, est_distilbert_layer, est_modernbert_layer,
	est_starcoder2_layer, est_arcee_layer, est_jais2_layer, est_nemotron_layer, est_helium_layer, est_hunyuan_layer, est_nanochat_layer,
	est_vaultgemma_layer, est_glm_layer, est_glm4_layer, est_exaone4_layer, est_apertus_layer, est_phi_layer,
	est_stablelm_layer, est_cohere_layer, est_falcon_layer, est_bloom_layer, est_mpt_layer, est_gptj_layer,
	est_qwen_layer, est_gpt_neo_layer, est_gpt_bigcode_layer, est_exaone_moe_layer, est_minimax_m2_layer, est_ernie4_5_moe_layer,
	est_granite_moe_layer, est_hunyuan_moe_layer, est_phimoe_layer, est_llama4_layer, est_gemma4_layer, est_gemma3n_layer, est_lfm2_layer, est_bamba_layer, est_falcon_h1_layer, est_mamba2_layer, est_nemotron_h_layer, est_qwen3_5_layer,
	est_kimi_linear_layer;
est_norm_function est_l2_norm, est_cohere_norm, est_nemotron_norm, est_qwen_norm, est_llama4_norm, est_gemma4_norm;
/* The first Qwen's tables (qwen.c). */
void est_qwen_build_tables(struct est_pass *pass);

#endif
