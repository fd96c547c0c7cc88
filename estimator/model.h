/* The shape of a model: what a Hugging Face config.json says that memory depends on.
 * Filled by config/ from a preset, a config.json or a parameter count; read-only afterwards. */
#ifndef EST_MODEL_H
#define EST_MODEL_H

#include <stdbool.h>
#include <stdint.h>
#include "estimator/vision.h"

/* Which modelling code of Transformers the model runs: one row of architectures[] in architecture.c. */
enum est_architecture {
	EST_ARCH_UNSUPPORTED, /* known to the catalogue, not to the replay: refused with the reason */
	EST_ARCH_LLAMA,       /* llama, mistral, qwen2, granite-like pre-norm decoders with RMSNorm and SwiGLU */
	EST_ARCH_QWEN3,       /* + per-head q_norm, k_norm */
	EST_ARCH_GEMMA,
	EST_ARCH_GEMMA2,
	EST_ARCH_GEMMA3,
	EST_ARCH_GEMMA4,      /* layers that attend in full have heads of their own width; experts beside the MLP */
	EST_ARCH_PHI3,        /* fused qkv_proj and gate_up_proj */
	EST_ARCH_OLMO,        /* non-parametric LayerNorm */
	EST_ARCH_OLMO2,       /* post-norm, full-width q_norm and k_norm */
	EST_ARCH_GPT2,
	EST_ARCH_GPT_NEOX,
	EST_ARCH_OPT,
	EST_ARCH_QWEN2_VL,    /* Llama's, projections cut into heads after all three are made */
	EST_ARCH_MINISTRAL3,  /* Llama's, queries scaled by their position */
	EST_ARCH_ERNIE4_5,    /* Llama's, rotary embedding of neighbours in fp32 */
	EST_ARCH_STABLELM,    /* Llama's with LayerNorm, rotating a part of each head */
	EST_ARCH_STARCODER2,
	EST_ARCH_PHI,         /* attention and MLP side by side */
	EST_ARCH_COHERE,      /* the same, a LayerNorm of python operators */
	EST_ARCH_GLM,
	EST_ARCH_GLM4,
	EST_ARCH_EXAONE4,
	EST_ARCH_APERTUS,
	EST_ARCH_ARCEE,       /* Llama's with an MLP without a gate */
	EST_ARCH_JAIS2,       /* the same with LayerNorm */
	EST_ARCH_NEMOTRON,    /* and with one that adds 1 to its weight; rotates a part of each head */
	EST_ARCH_HELIUM,      /* Llama's, norms multiplied in fp32, rotary embedding of neighbours */
	EST_ARCH_HUNYUAN,     /* norms of q and k after their rotation */
	EST_ARCH_NANOCHAT,    /* the same and an MLP without a gate; norms have no weights, and there is one more before the layers */
	EST_ARCH_VAULTGEMMA,  /* Gemma-2 without norms behind its blocks */
	EST_ARCH_FALCON,      /* fused q, k and v, of one key_value head or several; attention and MLP side by side */
	EST_ARCH_BLOOM,       /* ALiBi, a norm of the embedding, GELU by an autograd function of its own */
	EST_ARCH_MPT,         /* ALiBi */
	EST_ARCH_GPTJ,        /* scores in fp32; attention and MLP side by side */
	EST_ARCH_GPT_NEO,     /* scores in fp32, a causal mask of its own in each layer */
	EST_ARCH_GPT_BIGCODE, /* GPT-2 with one key_value head */
	EST_ARCH_MIXTRAL,     /* mixtures of experts: a router and fused 3-D expert weights for the MLP */
	EST_ARCH_QWEN2_MOE,   /* + a gated shared expert */
	EST_ARCH_QWEN3_MOE,
	EST_ARCH_OLMOE,
	EST_ARCH_FLEX_OLMO,   /* OLMo-2's with OLMoE's mixture */
	EST_ARCH_DEEPSEEK_V2, /* latent attention, dense first layers, shared experts */
	EST_ARCH_DEEPSEEK_V3,
	EST_ARCH_DEEPSEEK_V32, /* DeepSeek-V3 with an indexer that chooses the tokens to attend to */
	EST_ARCH_GLM_MOE_DSA, /* the same, whose choice the next layers may take */
	EST_ARCH_GLM4_MOE,    /* DeepSeek-V3's mixture, grouped-query attention */
	EST_ARCH_SOLAR_OPEN,  /* the same with Llama's attention */
	EST_ARCH_DOTS1,
	EST_ARCH_EXAONE_MOE,
	EST_ARCH_MINIMAX_M2,
	EST_ARCH_ERNIE4_5_MOE, /* shared experts first, a router in fp32 */
	EST_ARCH_LFM2,        /* short convolutions beside attention */
	EST_ARCH_NEMOTRON_H,  /* layers of one block each: Mamba-2, attention, an MLP or experts without gates */
	EST_ARCH_BAMBA,       /* Mamba-2 or attention before an MLP */
	EST_ARCH_FALCON_H1,   /* both in each layer, side by side */
	EST_ARCH_MAMBA2,      /* Mamba-2 alone */
	EST_ARCH_QWEN3_5,     /* the gated delta rule beside attention with an output gate */
	EST_ARCH_QWEN3_NEXT,  /* the same, its projections interleaved by head */
	EST_ARCH_KIMI_LINEAR, /* a delta rule that decays each feature beside latent attention without positions; DeepSeek-V3's mixture */
	EST_ARCH_HUNYUAN_MOE, /* HunYuan's attention; a shared expert first, a router in fp32 that is a linear layer */
	EST_ARCH_GRANITE_MOE, /* a dense MLP of fused projections, experts, or both */
	EST_ARCH_PHIMOE,      /* Mixtral with LayerNorm, a router that samples */
	EST_ARCH_LLAMA4,      /* every expert gets every token, scaled by its score */
	EST_ARCH_GEMMA3N,     /* several streams, of which one is run through a layer and the others are predicted */
	EST_ARCH_GPT_OSS,     /* attention sinks, experts with biases and clamped activations */
	EST_ARCH_BERT,        /* encoders: post-norm, no causal mask */
	EST_ARCH_ELECTRA,     /* BERT's with a classifier of two layers and no pooler */
	EST_ARCH_ROBERTA,     /* positions of the tokens that are no padding */
	EST_ARCH_DISTILBERT,
	EST_ARCH_DEBERTA,     /* the third version: attention by content and by relative position */
	EST_ARCH_QWEN,        /* the first Qwen, by the code of its checkpoints (qwen.c) */
	EST_ARCH_MODERNBERT,  /* pre-norm, rotary, with windows */
	EST_ARCH_LITGPT,      /* LitGPT's GPT, whatever the family (litgpt.h) */
	EST_ARCH_TORCHTUNE,   /* torchtune's TransformerDecoder (torchtune.h) */
	EST_ARCH_T5,          /* an encoder and a decoder with relative position biases */
	EST_ARCH_T5_GATED
};

enum est_norm { EST_RMSNORM, EST_LAYERNORM, EST_LAYERNORM_NOBIAS, EST_NORM_NONPARAMETRIC };
enum est_qk_norm { EST_QK_NORM_NONE, EST_QK_NORM_HEAD, EST_QK_NORM_HEAD_LAYERNORM, EST_QK_NORM_FULL,
		   EST_QK_NORM_PER_HEAD };
enum est_position { EST_ROPE, EST_LEARNED_POSITIONS, EST_ALIBI, EST_NO_POSITIONS,
		    EST_RELATIVE_POSITIONS };
/* By what autograd keeps: silu and gelu are one kernel; gelu_new (NewGELUActivation) is eight python operators. */
enum est_activation { EST_SILU, EST_GELU, EST_GELU_NEW, EST_RELU, EST_RELU2, EST_XIELU };

/* What a layer of a hybrid is: attention, the family's other mixer (a convolution, a state space, linear attention), or, where each
 * layer is one block, an MLP or a mixture of experts. */
enum est_block_kind { EST_LAYER_ATTENDS, EST_LAYER_MIXES, EST_LAYER_FEEDS, EST_LAYER_ROUTES };

/* Rotary embeddings of three positions, of time, height and width, for each token of each sequence: features of the three side by side
 * (Qwen2-VL) or by turns (Qwen3-VL). */
enum est_mrope { EST_MROPE_NONE, EST_MROPE_SECTIONS, EST_MROPE_INTERLEAVED };

enum { EST_ID_MAX = 96, EST_LAYERS_MAX = 1024, EST_STREAMS_MAX = 4,
       EST_TABLES_OF_KIMI = 6 }; /* a layer of Kimi-Linear takes as much of a program's tables as so many others */

struct est_model {
	char id[EST_ID_MAX];         /* preset id, or "custom" */
	char model_type[EST_ID_MAX]; /* config.json's model_type, "" when inferred */
	enum est_architecture architecture;
	int64_t vocab_size, hidden_size, num_hidden_layers;
	int64_t num_attention_heads, num_key_value_heads, head_dim;
	int64_t intermediate_size, max_position_embeddings;
	bool tie_word_embeddings;
	bool gated_mlp;
	bool qkv_bias, o_bias, mlp_bias, lm_head_bias;
	enum est_norm norm;
	int64_t norms_per_layer;
	bool final_norm;
	enum est_qk_norm qk_norm;
	enum est_activation activation;
	enum est_position position;
	int64_t position_offset;      /* OPT: 2 more rows of positions */
	int64_t embed_dim;            /* OPT-350m: width of the embedding when not hidden_size, with projections; else 0 */
	double partial_rotary_factor; /* 1: the whole head is rotated */
	int64_t sliding_window;       /* 0: none */
	bool full_attention_first;    /* ModernBERT: layers 0, n, 2n, ... attend in full, not the ones before them */
	int64_t full_attention_every; /* with a window: layers n, 2n, ... attend in full (Gemma-2: 2, Gemma-3: 6); 0: none does */
	int64_t no_rope_layer_interval; /* SmolLM3: layers n, 2n, ... have no rotary embedding; 0: all have one */
	int64_t global_head_dim, num_global_key_value_heads; /* Gemma-4: of layers that attend in full; 0: as in others */
	bool attention_k_eq_v;        /* Gemma-4: layers that attend in full take their keys for values */
	bool lacks_v_proj;            /* of the shape of such a layer */
	int64_t num_kv_shared_layers; /* Gemma-4: the last layers, which attend to keys and values of layers before them */
	bool lacks_kv;                /* of the shape of such a layer */
	bool use_double_wide_mlp;     /* their MLP is twice as wide */
	int64_t hidden_size_per_layer_input, vocab_size_per_layer_input; /* a second embedding, of so many features for each layer; 0: none */
	bool dense_mlp_beside_experts;
	int64_t altup_num_inputs, laurel_rank; /* Gemma-3n: its streams, a projection of low rank beside attention */
	int64_t num_sparse_mlp_layers; /* the first layers, whose MLP keeps but the largest activations */
	bool l2_qk_norm, tunes_temperature; /* Llama-4: heads that are rotated are normed, others are scaled by their position */
	bool rotates_windows_only;    /* Cohere-2, EXAONE-4: with a window, the layers that attend in full have none */
	bool parallel_residual;       /* GPT-NeoX: attention and MLP read the same input */
	bool do_layer_norm_before;    /* OPT: false in 350m only */
	double attention_dropout, residual_dropout, embedding_dropout; /* as trained by default */
	double final_logit_softcapping, attn_logit_softcapping;        /* 0: none */
	double embedding_multiplier, residual_multiplier, logits_scaling; /* Granite multiplies even by 1; 0: no such op */
	bool embedding_norm;          /* Bloom */
	bool masks_both_kinds;        /* of windows and of full attention, whether a layer takes them or not */
	bool refuses_flash;           /* _supports_flash_attn = False */
	bool refuses_sdpa;            /* _supports_sdpa = False: eager is the default */

	int64_t num_experts;          /* 0: dense */
	int64_t num_experts_per_tok, moe_intermediate_size;
	int64_t n_shared_experts;     /* experts of moe_intermediate_size that every token visits */
	int64_t shared_expert_intermediate_size; /* or one of this width (Qwen2-MoE); settled: the width of all together */
	bool shared_expert_gate;      /* its output is weighted by a gate of one feature */
	int64_t first_k_dense_replace; /* the first layers, whose MLP is dense */
	int64_t moe_latent_size;      /* experts work on so many features, projected; 0: on those of the stream */
	int64_t moe_layer_interval;   /* Llama-4: of so many layers one, the last, has experts; 0: all */
	int64_t n_group, topk_group;  /* groups of experts, and how many of them the router chooses */
	bool norm_topk_prob;          /* the weights of the chosen experts are made to add up to 1 */
	bool group_limited;           /* DeepSeek-V2's topk_method group_limited_greedy */
	bool expert_bias;             /* of the experts and the router */
	double input_jitter_noise;    /* Phi-3.5-MoE multiplies what experts and router get by noise around 1; 0: no such op */
	bool router_correction_bias;  /* e_score_correction_bias: a buffer, counted as published totals do */

	int64_t kv_lora_rank;         /* latent attention (MLA); 0: none. head_dim is then that of q and k */
	int64_t q_lora_rank;          /* 0: q is projected at once */
	int64_t qk_nope_head_dim, qk_rope_head_dim, v_head_dim;
	bool rope_interleave;
	int64_t index_topk;           /* DeepSeek-V3.2: so many tokens that an indexer chooses for each; 0: no indexer */
	int64_t index_n_heads, index_head_dim;
	int64_t index_topk_freq, index_skip_topk_offset; /* GLM-5: how often a layer has an indexer of its own; 0: all have */
	bool attention_sinks;         /* a learned logit for each head */

	uint8_t layer_kinds[EST_LAYERS_MAX]; /* enum est_block_kind of each layer */
	bool single_blocks;           /* Nemotron-H: a layer has attention, a mixer or an MLP, and one norm */
	int64_t conv_kernel;          /* width of the causal convolution of a mixer */
	bool conv_bias, mixer_bias;   /* of the convolution, of the mixer's projections */
	bool attends_beside;          /* Falcon-H1: the layers that mix attend too */
	bool ungated_norm;            /* no norm of what Mamba-2's scan gives, which its gate multiplies by itself */
	bool residual_in_fp32;        /* Mamba-2 alone */
	int64_t ssm_num_heads, ssm_head_dim, ssm_state_size, ssm_num_groups, ssm_chunk_size; /* Mamba-2 */
	int64_t linear_num_key_heads, linear_num_value_heads, linear_key_head_dim, linear_value_head_dim; /* gated delta rule */
	bool gated_attention;         /* q_proj gives a gate for attention's output too */

	int64_t type_vocab_size;      /* token types with an embedding; 0: none */
	int64_t task_type_vocab_size; /* ERNIE: types of tasks with an embedding; 0: none */
	bool pooler;                  /* a dense layer on the first token */
	int64_t num_labels;           /* of a classifier */
	double classifier_dropout;
	int64_t num_decoder_layers;   /* of a model that has an encoder of num_hidden_layers too; else 0 */
	int64_t relative_attention_num_buckets; /* rows of each stack's position bias; 0: none */
	bool scale_decoder_outputs;   /* T5 (1.0): the head's input is multiplied */
	int64_t position_buckets;     /* DeBERTa: an embedding for each distance up to it, in either direction; 0: none */

	struct est_vision vision;     /* the tower, or none */
	enum est_mrope mrope;
	bool caches_in_training;      /* config.use_cache = False does not reach its language model: keys and values are cached */
	int64_t num_cross_attention_layers; /* Mllama: beside num_hidden_layers; without images they do not run */
	int64_t extra_embed_rows;     /* Mllama: rows of the embedding that the head does not have */

	/* of a pipeline's stage, whose num_hidden_layers and layer_kinds are those that it holds (pipeline.h) */
	int64_t first_layer;          /* what its first one is in the whole model */
	int64_t ranks_on;             /* ranks from this one to the last, both included */
	const struct est_model *next_stage; /* of the same rank, or NULL */
	bool cut_by_layers;           /* into stages of equally many layers: embedding and head do not count (Megatron) */
	bool lacks_embedding, lacks_head; /* other stages have them; the head with the final norm */

	int64_t parameters;           /* total, tied embeddings once */
	int64_t published_parameters; /* of the catalogue row; 0 when unknown */
	bool inferred;                /* the shape was inferred from a parameter count: an assumption */
	const char *unsupported;      /* why the replay refuses the model, or NULL */
};

/* True when layer (from 0) has experts for its MLP. */
bool est_model_layer_is_sparse(const struct est_model *model, int64_t layer);

/* Layers of all stacks and stages as a program's tables count them. */
int64_t est_model_table_layers(const struct est_model *model);

/* Parameters of the last decoder layer, and of everything, counted from the shape: attention, MLP, norms, biases,
 * embeddings (tied ones once). THEORY 2. Exact for the architectures that the replay knows. */
int64_t est_model_layer_parameters(const struct est_model *model);
int64_t est_model_count_parameters(const struct est_model *model);
/* Parameters of the last layers, so many of them. */
int64_t est_model_last_layers_parameters(const struct est_model *model, int64_t layers);

/* Of these the ones of indexers, which choose tokens without a gradient: they are trained by name, and no step changes them. */
int64_t est_model_indexer_parameters(const struct est_model *model);

/* Features that experts are given. */
int64_t est_model_expert_width(const struct est_model *model);

/* Whether a layer has another mixer than attention. */
bool est_model_mixes(const struct est_model *model);
/* Features that Mamba-2 mixes; those that a mixer's convolution reads: of Mamba-2 with B and C of all groups, or q, k and v. */
int64_t est_model_ssm_width(const struct est_model *model);
int64_t est_model_conv_width(const struct est_model *model);

/* True when layer (from 0) has a rotary embedding, where the model has one. */
bool est_model_layer_is_rotated(const struct est_model *model, int64_t layer);

/* Layers of all stacks: those of the decoder follow. */
int64_t est_model_stacked_layers(const struct est_model *model);
/* Whether every token attends to all: an encoder alone. */
bool est_model_is_bidirectional(const struct est_model *model);
/* An encoder, alone or with a decoder. */
bool est_model_is_encoder(const struct est_model *model);

/* Layers of all stacks and of the tower: what takes memory for tables. */
int64_t est_model_all_layers(const struct est_model *model);

/* The shape of a layer (from 0): model itself, or space, filled, where the layer attends with heads of its own width. */
const struct est_model *est_model_of_layer(const struct est_model *model, int64_t layer, struct est_model *space);

/* What a layer (from 0) does with its keys and values: leaves them to those behind it of its kind, sliding or not, or takes theirs. */
enum est_sharing { EST_SHARES_NOTHING, EST_STORES_STATES, EST_REUSES_STATES };
enum est_sharing est_model_layer_shares(const struct est_model *model, int64_t layer);

/* Parameters beside the layers that make their second input of the tokens (hidden_size_per_layer_input). */
int64_t est_model_per_layer_input_parameters(const struct est_model *model);

/* True when layer (from 0) chooses tokens itself, where the model does: others take the choice of the layer before. */
bool est_model_layer_is_indexed(const struct est_model *model, int64_t layer);

/* True when layer (from 0) attends within the sliding window. */
bool est_model_layer_is_sliding(const struct est_model *model, int64_t layer);

#endif
