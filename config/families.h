/* What Transformers' configuration and modelling classes say by themselves: the shape of a model_type before its
 * config.json is read, and which keys of the file its code looks at. */
#ifndef CFG_FAMILIES_H
#define CFG_FAMILIES_H

#include "config/config.h"

/* Keys and rules that only some classes have: bits of cfg_family.reads. */
enum {
	CFG_READS_GQA = 1 << 0,             /* num_key_value_heads, head_dim */
	CFG_READS_ATTENTION_BIAS = 1 << 1,  /* attention_bias: q, k, v and the output projection */
	CFG_READS_MLP_BIAS = 1 << 2,
	CFG_READS_ENABLE_BIAS = 1 << 3,     /* OPT: every linear layer */
	CFG_READS_DROPOUT = 1 << 4,         /* dropout of the residual branches */
	CFG_READS_EMBEDDING_DROPOUT = 1 << 5,
	CFG_READS_SOFTCAP = 1 << 6,
	CFG_READS_MULTIPLIERS = 1 << 7,     /* Granite */
	CFG_READS_PARTIAL_ROTARY = 1 << 8,
	CFG_READS_WINDOW = 1 << 9,          /* sliding_window */
	CFG_READS_USE_WINDOW = 1 << 10,     /* only with use_sliding_window, from max_window_layers on */
	CFG_READS_LAYER_TYPES = 1 << 11,    /* layer_types, sliding_window_pattern */
	CFG_READS_PARALLEL_RESIDUAL = 1 << 12,
	CFG_READS_CLIP_QKV = 1 << 13,
	CFG_READS_OPT = 1 << 14,            /* word_embed_proj_dim, do_layer_norm_before, ... */
	CFG_READS_BERT = 1 << 15,           /* hidden_dropout_prob, type_vocab_size, ... */
	CFG_READS_DISTILBERT = 1 << 16,     /* dim, n_layers, ... */
	CFG_READS_T5 = 1 << 17,             /* d_model, num_layers, feed_forward_proj, ... */
	CFG_READS_EXPERTS = 1 << 20,        /* num_experts, num_experts_per_tok */
	CFG_READS_EXPERT_WIDTH = 1 << 21,   /* moe_intermediate_size; else the experts are of intermediate_size */
	CFG_READS_SHARED_EXPERTS = 1 << 22, /* n_shared_experts, first_k_dense_replace, n_group: DeepSeek's mixture */
	CFG_READS_LATENT = 1 << 23,         /* kv_lora_rank, q_lora_rank, ...: DeepSeek's attention */
	CFG_READS_NORM_TOPK = 1 << 24,      /* norm_topk_prob */
	CFG_READS_SPARSE_STEP = 1 << 25,    /* decoder_sparse_step, mlp_only_layers */
	CFG_READS_QKV_BIAS = 1 << 26,       /* attention_bias of q, k and v alone; use_qk_norm */
	CFG_READS_SHARED_WIDTH = 1 << 27,   /* shared_expert_intermediate_size, qkv_bias */
	CFG_READS_GROUP_LIMIT = 1 << 28     /* topk_method */
};

/* The same, beyond what an enumerator holds. */
#define CFG_READS_UNROTATED (UINT64_C(1) << 32) /* no_rope_layers, no_rope_layer_interval */
#define CFG_READS_OUT_BIAS (UINT64_C(1) << 33)  /* attention_out_bias, and attention_bias of q, k and v */
#define CFG_READS_COHERE (UINT64_C(1) << 34)    /* use_qk_norm, of all heads each */
#define CFG_READS_PLAIN_QK (UINT64_C(1) << 35)  /* use_qkv_bias; qk_layernorm and parallel residuals are refused */
#define CFG_READS_FALCON (UINT64_C(1) << 36)    /* new_decoder_architecture, multi_query, ... */
#define CFG_READS_ROTARY_DIM (UINT64_C(1) << 37) /* GPT-J */
#define CFG_READS_MULTI_QUERY (UINT64_C(1) << 38) /* GPT-BigCode: one key_value head */
#define CFG_READS_MPT (UINT64_C(1) << 39)       /* attn_config, expansion_ratio */
#define CFG_READS_GPT_NEO (UINT64_C(1) << 41)   /* num_layers, num_heads, window_size */
#define CFG_READS_ROTARY_SHARE (UINT64_C(1) << 42) /* rotary_dim of a head, or partial_rotary_factor */
#define CFG_READS_GRANITE_SHARED (UINT64_C(1) << 43) /* shared_intermediate_size: of a dense MLP beside experts, of which there may be none */
#define CFG_READS_LAYER_KINDS (UINT64_C(1) << 44) /* layer_types, hybrid_override_pattern, ...: attention or another mixer */
#define CFG_READS_SSM (UINT64_C(1) << 45)       /* mamba_n_heads, mamba_d_state, ...: Mamba-2 */
#define CFG_READS_POSITION_TYPE (UINT64_C(1) << 46) /* position_embedding_type */
#define CFG_READS_SHORT_CONV (UINT64_C(1) << 47) /* conv_L_cache, conv_bias: LFM-2 */
#define CFG_READS_NEMOTRON (UINT64_C(1) << 48)  /* moe_shared_expert_intermediate_size, moe_latent_size, ... */
#define CFG_READS_DELTA (UINT64_C(1) << 49)     /* linear_num_key_heads, ...: the gated delta rule */
#define CFG_READS_KIMI (UINT64_C(1) << 50)      /* linear_attn_config, num_experts_per_token, ...: Kimi-Linear */
#define CFG_READS_KIMI_RULE (UINT64_C(1) << 51) /* within linear_attn_config */
#define CFG_READS_MODERNBERT (UINT64_C(1) << 52) /* local_attention, global_attn_every_n_layers, ... */
#define CFG_READS_DEBERTA (UINT64_C(1) << 53)  /* relative_attention, position_buckets, ... */
#define CFG_READS_BAMBA (UINT64_C(1) << 54)     /* attn_layer_indices, z_loss_coefficient */
#define CFG_READS_FALCON_H1 (UINT64_C(1) << 55) /* mamba_d_ssm, mamba_rms_norm, ... */
#define CFG_READS_MAMBA2 (UINT64_C(1) << 56)    /* num_heads, state_size, ...: Mamba-2 alone */
#define CFG_READS_PHIMOE (UINT64_C(1) << 57)    /* lm_head_bias, input_jitter_noise */
#define CFG_READS_INDEXER (UINT64_C(1) << 58)   /* index_topk, index_n_heads, ...: DeepSeek's sparse attention */
#define CFG_READS_LLAMA4 (UINT64_C(1) << 59)    /* intermediate_size_mlp, attention_chunk_size, moe_layers, ... */
#define CFG_READS_GEMMA4 (UINT64_C(1) << 60)    /* global_head_dim, attention_k_eq_v, enable_moe_block, ... */
#define CFG_READS_GEMMA3N (UINT64_C(1) << 61)   /* altup_num_inputs, laurel_rank, activation_sparsity_pattern, ... */
#define CFG_READS_HUNYUAN (UINT64_C(1) << 31)   /* moe_topk; a shared MLP as wide as the experts */
#define CFG_READS_ERNIE (UINT64_C(1) << 29)     /* use_task_id */
#define CFG_READS_ELECTRA (UINT64_C(1) << 30)   /* embedding_size */
#define CFG_READS_BLOOM (UINT64_C(1) << 40)     /* apply_residual_connection_post_layernorm, slow_but_exact */

struct cfg_family {
	const char *model_type;
	uint64_t reads;
	bool wide_mlp_by_default; /* intermediate_size may be absent: 4 * hidden_size */
	struct est_model shape;   /* defaults of the class; 0 heads and head_dim: from the others */
};

/* A model_type that is known and whose modelling code the replay does not have. */
struct cfg_refusal {
	const char *model_type;
	const char *reason;
};

extern const struct cfg_family cfg_families[];
extern const size_t cfg_family_count;
extern const struct cfg_refusal cfg_refusals[];
extern const size_t cfg_refusal_count;

/* The row of model_type, or NULL. */
const struct cfg_family *cfg_family_find(const char *model_type);
const struct cfg_refusal *cfg_refusal_find(const char *model_type);

#endif
