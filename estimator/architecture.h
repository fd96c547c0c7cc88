/* The families that the replay knows: one row each in architectures[]. */
#ifndef EST_ARCHITECTURE_H
#define EST_ARCHITECTURE_H

#include "estimator/pass.h"

/* A width in terms of the model's shape. */
enum est_width { EST_WIDTH_HIDDEN, EST_WIDTH_QUERY, EST_WIDTH_KEY, EST_WIDTH_QKV, EST_WIDTH_MLP, EST_WIDTH_GATE_UP,
		 EST_WIDTH_GATE,         /* of an MLP with a gate, one layer of its own */
		 EST_WIDTH_SANDWICH_NORM, /* hidden, where a layer has norms behind its blocks too */
		 EST_WIDTH_HEAD,
		 EST_WIDTH_HEAD_NORM,   /* of a head, where it has a norm */
		 EST_WIDTH_QUERY_NORM, EST_WIDTH_KEY_NORM, EST_WIDTH_SECOND_NORM, /* of all heads of q, of k, where
										   * they have a norm */
		 EST_WIDTH_EXPERT_LATENT, EST_WIDTH_SHARED, EST_WIDTH_SHARED_GATE_UP, /* of the shared experts together */
		 EST_WIDTH_SHARED_GATE, /* 1, where their output has a gate */
		 /* latent attention: q as heads (at once, or from its compressed form), q and k/v compressed, k_nope
		  * and v as heads */
		 EST_WIDTH_Q_DIRECT, EST_WIDTH_Q_HEADS, EST_WIDTH_Q_RANK, EST_WIDTH_KV_COMPRESSED, EST_WIDTH_KV_RANK,
		 EST_WIDTH_KV_HEADS, EST_WIDTH_V_HEADS,
		 /* an indexer's queries, its key, a weight for each head */
		 EST_WIDTH_INDEX_HEADS, EST_WIDTH_INDEX_HEAD, EST_WIDTH_INDEX_WEIGHTS,
		 /* mixers: three gates of LFM-2; Mamba-2's projection, what it mixes, what it convolves, its heads */
		 EST_WIDTH_GATES, EST_WIDTH_SSM_PROJECTED, EST_WIDTH_SSM, EST_WIDTH_SSM_NORM, EST_WIDTH_SSM_CONV, EST_WIDTH_SSM_HEADS,
		 /* the gated delta rule's values, their heads, one of them; q with a gate beside it */
		 EST_WIDTH_DELTA, EST_WIDTH_DELTA_QKVZ, EST_WIDTH_DELTA_BA, EST_WIDTH_DELTA_HEADS, EST_WIDTH_DELTA_HEAD,
		 EST_WIDTH_DELTA_MIXED, /* Kimi: q, k or v, which are convolved side by side */
		 EST_WIDTH_GATED_QUERY,
		 EST_WIDTH_VALUE,       /* of all heads, where v has a projection of its own */
		 EST_WIDTH_OWN_KEY, EST_WIDTH_OWN_KEY_HEAD, /* of a layer's own keys: of all heads, of one */
		 EST_WIDTH_STREAMS, EST_WIDTH_STREAM_PAIRS, EST_WIDTH_LAUREL,
		 EST_WIDTH_PER_LAYER_INPUT, EST_WIDTH_PER_LAYER_NORM, /* of a layer's second input; hidden, where there is one */
		 EST_WIDTH_EXPERT_COUNT };

/* Linear layers are adapted and quantised; a router is a bare weight, experts are bare 3-D weights. */
enum est_module_kind { EST_MODULE_LINEAR, EST_MODULE_NORM, EST_MODULE_ROUTER, EST_MODULE_EXPERTS, EST_MODULE_SINKS,
		       EST_MODULE_XIELU, EST_MODULE_SINUSOIDS, EST_MODULE_TRIANGLE,
		       EST_MODULE_CONV, EST_MODULE_VECTOR, EST_MODULE_MULTIPLIERS,
		       EST_MODULE_LAYER_NORM }; /* nn.LayerNorm beside norms of another kind */
/* Whether a linear layer has a bias: never, always, or as a flag of the shape says. */
enum est_bias { EST_BIAS_NONE, EST_BIAS_QKV, EST_BIAS_O, EST_BIAS_MLP, EST_BIAS_MIXER };

/* A module of a decoder layer; of a norm, out is the width. A linear layer or norm without width is not there. */
struct est_module {
	size_t offset;             /* in struct est_layer */
	enum est_module_kind kind;
	enum est_width in, out;
	enum est_bias bias;
	const char *name;          /* as PEFT's target_modules name it */
};

struct est_architecture_row {
	const struct est_module *modules;  /* in the order in which the constructor makes them; ends with offset SIZE_MAX */
	est_layer_function *layer;
	est_norm_function *final_norm;
	bool scaled_embedding;             /* Gemma: hidden_states * sqrt(hidden_size) */
	bool rotary;
	bool fp32_rope;                    /* OLMo: cos and sin stay fp32, q and k are cast back after them */
	bool rope_per_layer_type;          /* Gemma-3, OLMo-3: sliding layers have cos and sin of their own */
	bool cuts_whole_heads;             /* rotates a part of each head, cut off and joined again, even if that is all of it */
	bool complex_rope;                 /* DeepSeek-V2: one complex tensor for cos and sin */
	const struct est_module *sparse;   /* of the layers that have experts; NULL: there are none */
	const struct est_module *mixer, *mixer_sparse; /* of the layers that have another mixer than attention */
	const struct est_module *feeds;    /* of layers that are an MLP alone */
	bool norms_embedding;              /* NanoChat: the final norm is also the first */
	bool drops_embedding_first;        /* StarCoder-2, Phi: before the rotary embedding is made */
	bool always_masked;                /* Falcon: SDPA gets a mask always, and k and v with fewer heads as they are */
	bool returns_weights;              /* the model's loop holds attention's weights until the next layer returns */
	bool experts_by_their_own_names;   /* PEFT does not translate the names that experts had as single layers */
	bool peft_refuses_router;          /* an nn.Linear whose forward returns several tensors */
	bool peft_refuses_out_proj;        /* its kernels take the weight, not the module */
	bool flat_shared_experts;          /* they are given a matrix of tokens */
	bool fp32_logits;                  /* logits.float() in the place of the logits, before any loss */
	bool fp32_router;                  /* its weight is fp32 whatever the model is */
	bool records_routers;              /* its class gives its routers' logits, and its config a weight to the loss made of them */
	bool rebinds_embedding;            /* x = wte(idx); x = block(x): nothing holds the embedding's output any longer */
	bool expands_heads;                /* k and v come to SDPA with as many heads as q, and no mask does */
	bool joins_heads;                  /* q and k are concatenations, contiguous as heads */
	bool scales_queries;               /* Ministral 3: by their position */
	est_rope_function *rotate;         /* NULL: Llama's, or GPT-NeoX's on a part of each head */
};

/* The row of a supported architecture; EST_ARCH_UNSUPPORTED has none. */
const struct est_architecture_row *est_architecture_row(enum est_architecture architecture);

/* The modules of a layer (from 0). */
const struct est_module *est_layer_modules(const struct est_model *model, int64_t layer);
/* Whether the module is of an indexer, which runs without gradients. */
bool est_is_indexer(const struct est_module *module);
/* Whether this model's layers have the module. */
bool est_module_exists(const struct est_model *model, const struct est_module *module);

/* Features of a head that the rotary embedding turns. */
uint64_t est_rotary_width(const struct est_model *model);

uint64_t est_width(const struct est_model *model, enum est_width width);

#endif
