/* A fine-tuning run as plain values: every field of the wire contract, defaults resolved.
 * Members are spelled as on the wire; fields.c says each one's name, range, default and meaning. */
#ifndef EST_REQUEST_H
#define EST_REQUEST_H

#include <stdbool.h>
#include <stdint.h>

enum est_dtype { EST_BF16, EST_FP16, EST_FP32, EST_DTYPE_NONE };

enum est_framework {
	EST_TRANSFORMERS, EST_TRL, EST_AXOLOTL, EST_LLAMA_FACTORY, EST_UNSLOTH, EST_DEEPSPEED,
	EST_TORCHTITAN, EST_TORCHTUNE, EST_LITGPT, EST_MEGATRON, EST_MLX
};

enum est_method { EST_FULL, EST_LORA, EST_QLORA, EST_FREEZE };

enum est_precision {
	EST_BF16_MASTER, EST_FP16_MASTER, EST_BF16_MIXED, EST_FP16_MIXED, EST_PURE_BF16,
	EST_PURE_FP16, EST_BF16_AUTOCAST, EST_PURE_FP32
};

enum est_optimizer {
	EST_ADAMW_TORCH_FUSED, EST_ADAMW_TORCH, EST_ADAMW_8BIT, EST_ADAMW_4BIT, EST_ADAMW_FP8,
	EST_PAGED_ADAMW_32BIT, EST_PAGED_ADAMW_8BIT, EST_ADAFACTOR, EST_LION, EST_LION_8BIT, EST_SGD,
	EST_SGD_MOMENTUM, EST_MUON, EST_GALORE_ADAMW, EST_APOLLO_ADAMW, EST_APOLLO_ADAMW_MINI,
	EST_ADAMW_8BIT_TORCHAO
};

enum est_attention {
	EST_SDPA, EST_FLASH_ATTENTION_2, EST_FLASH_ATTENTION_3, EST_EAGER, EST_FLEX_ATTENTION,
	EST_SDPA_FLASH, EST_SDPA_EFFICIENT, EST_SDPA_CUDNN, EST_SDPA_MATH
};

enum est_loss { EST_LOSS_STANDARD, EST_LOSS_CHUNKED, EST_LOSS_LIGER, EST_LOSS_CUT_CROSS_ENTROPY,
		EST_LOSS_VOCAB_PARALLEL };

enum est_checkpointing { EST_CHECKPOINT_NONE, EST_CHECKPOINT_FULL, EST_CHECKPOINT_SELECTIVE,
			 EST_CHECKPOINT_OFFLOAD, EST_CHECKPOINT_EVERY_N };
enum est_selective { EST_SELECTIVE_OP, EST_SELECTIVE_ATTENTION, EST_SELECTIVE_ALL_MATMUL };

enum est_strategy { EST_SINGLE, EST_DDP, EST_ZERO1, EST_ZERO2, EST_ZERO3, EST_FSDP, EST_FSDP1, EST_HSDP };
enum est_context_backend { EST_RING, EST_ULYSSES };
enum est_pipeline_schedule { EST_1F1B, EST_INTERLEAVED_1F1B };
enum est_wrap { EST_WRAP_ACCELERATE, EST_WRAP_LAYER_ROOT, EST_WRAP_PEFT };
enum est_device { EST_ON_GPU, EST_ON_CPU, EST_ON_NVME }; /* "none", "cpu", "nvme" */

enum est_quantization_type { EST_NF4, EST_FP4, EST_INT8, EST_GPTQ, EST_HQQ, EST_MXFP4,
			     EST_AFFINE /* MLX's: a scale and a bias for each group */ };
enum est_quant_storage { EST_STORE_UINT8, EST_STORE_BF16, EST_STORE_FP16, EST_STORE_FP32 };

enum est_objective { EST_SFT, EST_PRETRAIN, EST_DPO, EST_ORPO, EST_KTO, EST_REWARD, EST_GRPO };
enum est_reference { EST_REFERENCE_MODEL, EST_REFERENCE_ADAPTER, EST_REFERENCE_PRECOMPUTED, EST_REFERENCE_NONE };
enum est_task { EST_CAUSAL_LM, EST_MASKED_LM, EST_SEQUENCE_CLASSIFICATION, EST_SEQUENCE_TO_SEQUENCE };
enum est_accounting { EST_REPLAY, EST_RULE_OF_THUMB };

enum est_timeline { EST_TIMELINE_PHASES, EST_TIMELINE_FULL };

enum est_include { /* bits of est_request.include */
	EST_INCLUDE_LIMITS = 1, EST_INCLUDE_ADVICE = 2, EST_INCLUDE_TIMELINE = 4, EST_INCLUDE_HINTS = 8,
	EST_INCLUDE_RULE_OF_THUMB = 16, EST_INCLUDE_ALL = 31
};

enum { EST_NAMES_MAX = 32, EST_NAME_MAX = 64 };

/* A list of module names. all is the word "all-linear". */
struct est_names {
	bool all;
	int count;
	char name[EST_NAMES_MAX][EST_NAME_MAX];
};

/* A version as 1000 * major + minor (2.13 is 2013); 0 when the request does not name it. */
struct est_versions {
	int64_t torch, transformers, peft, trl, accelerate, bitsandbytes, deepspeed;
	int64_t flash_linear_attention, causal_conv1d, mamba_ssm; /* packages of kernels; 0: not installed */
};

struct est_buckets { /* elements; EST_AUTO: as the Hugging Face integration computes "auto" */
	int64_t reduce_bucket_size, allgather_bucket_size, prefetch_bucket_size, param_persistence_threshold;
};
enum { EST_AUTO = -1 };

struct est_parallelism {
	enum est_strategy strategy;
	int64_t gpus, gpus_per_node;
	int64_t tensor, pipeline, context, expert;
	enum est_pipeline_schedule pipeline_schedule;
	int64_t virtual_stages; /* of a rank of the pipeline */
	enum est_context_backend context_backend;
	int64_t shard_size; /* 0: all data-parallel ranks */
	bool sequence_parallel;
	bool reshard_after_forward;
	bool gradient_as_bucket_view;
	enum est_wrap wrap;
	enum est_dtype param_dtype, reduce_dtype, output_dtype;
	bool checkpoint_outside_unit;
	bool sync_each_microbatch;
	bool use_orig_params, limit_all_gathers;
	bool overlap_comm, contiguous_gradients;
	int64_t sub_group_size, max_live_parameters, max_reuse_distance;
	enum est_dtype grad_accum_dtype, communication_data_type;
	struct est_buckets buckets;
};

struct est_offload {
	enum est_device optimizer, parameters, activations;
};

struct est_lora {
	int64_t rank;
	double alpha; /* 0: not named, 2 * rank */
	double dropout;
	struct est_names target_modules;
	bool dora, rslora;
	struct est_names modules_to_save;
	enum est_dtype adapter_dtype;
};

struct est_quantization {
	int64_t bits;
	enum est_quantization_type type;
	bool double_quant;
	int64_t group_size; /* -1: one group */
	bool prepare_kbit;
	enum est_quant_storage quant_storage;
	double llm_int8_threshold; /* 0: no columns are multiplied apart */
};

struct est_request {
	enum est_framework framework;
	struct est_versions versions;
	enum est_method method;
	enum est_precision precision;
	enum est_dtype base_dtype;
	enum est_optimizer optimizer;
	int64_t optimizer_rank;
	enum est_dtype optimizer_state_dtype;
	double max_grad_norm;
	bool outputs_to_fp32;
	bool fuse_optimizer_in_backward;
	int64_t micro_batch_size, sequence_length, gradient_accumulation_steps;
	enum est_checkpointing checkpointing; /* wire: gradient_checkpointing, with the next two */
	enum est_selective selective;
	int64_t every_n_layers;
	bool use_reentrant;
	enum est_attention attention;
	bool attention_mask;
	enum est_loss loss;
	bool liger_kernel, torch_compile;
	bool expandable_segments;
	struct est_parallelism parallelism;
	struct est_offload offload;
	struct est_lora lora;
	struct est_quantization quantization;
	enum est_objective objective;
	enum est_reference reference_model;
	double beta;
	double completion_fraction;
	enum est_task task;
	int64_t target_length;
	int64_t trainable_layers;
	bool freeze_vision_tower;
	enum est_accounting accounting;
	double headroom_fraction;
	unsigned include; /* enum est_include */
	enum est_timeline timeline;
	bool explain;

	/* Not on the wire: the model is made on the card (from_config), as truth rows were, not loaded (from_pretrained). A
	 * tied head is then made, and dropped for the embedding's weight. */
	bool made_on_card;

	/* Bit i: the client named row i of est_request_fields[]; what is not named is an assumption. */
	uint64_t named[2];
};

/* Adapters are trained beside a frozen base. */
static inline bool est_has_adapters(const struct est_request *request)
{
	return request->method == EST_LORA || request->method == EST_QLORA;
}

/* fp32 weights that autocast, or FSDP's policy, computes with in 16 bits. */
static inline bool est_is_mixed(enum est_precision precision)
{
	return precision == EST_BF16_MIXED || precision == EST_FP16_MIXED;
}

/* The optimizer holds fp32 copies of 16-bit parameters. */
static inline bool est_has_master(const struct est_request *request)
{
	return request->precision == EST_BF16_MASTER || request->precision == EST_FP16_MASTER;
}

/* Ranks of context parallelism exchange parts of the sequence for parts of the heads in attention (DeepSpeed). */
static inline bool est_is_ulysses(const struct est_request *request)
{
	return request->parallelism.context > 1 && request->parallelism.context_backend == EST_ULYSSES;
}

/* sft and pretrain, whose loss is the language model's own; the other objectives are TRL's. */
static inline bool est_models_language(const struct est_request *request)
{
	return request->objective <= EST_PRETRAIN;
}

/* prime-rl's fused head: all positions, some words at a time. */
static inline bool est_chunks_words(const struct est_request *request)
{
	return request->loss == EST_LOSS_CHUNKED && request->framework == EST_TORCHTITAN;
}

/* DeepSpeed's stages. */
static inline bool est_is_zero(enum est_strategy strategy)
{
	return strategy >= EST_ZERO1 && strategy <= EST_ZERO3;
}

/* FSDP2, on one group of ranks or on several. */
static inline bool est_is_fsdp2(enum est_strategy strategy)
{
	return strategy == EST_FSDP || strategy == EST_HSDP;
}

/* FSDP2's parts of parameters are DTensors. */
static inline bool est_shards_dtensors(const struct est_request *request)
{
	return est_is_fsdp2(request->parallelism.strategy);
}

/* Tokens of a sequence that a rank has: all, or its part under context parallelism. */
static inline uint64_t est_rank_length(const struct est_request *request)
{
	int64_t context = request->parallelism.context;

	return (uint64_t)(context > 1 ? request->sequence_length / context : request->sequence_length);
}

/* Ranks that divide a sharded parameter: all data-parallel ones, or those of one group of HSDP. With FSDP2 and ZeRO those
 * of context parallelism too, which see other parts of the same sequences (the mesh dp_shard_cp of accelerate and
 * torchtitan, DeepSpeed's sequence data parallel group). */
static inline uint64_t est_shard_ranks(const struct est_parallelism *p)
{
	if (p->strategy == EST_HSDP && p->shard_size)
		return (uint64_t)(p->shard_size * p->context);
	if (est_is_fsdp2(p->strategy) || est_is_zero(p->strategy))
		return (uint64_t)(p->gpus / (p->tensor * p->pipeline));
	return (uint64_t)(p->gpus / (p->tensor * p->pipeline * p->context));
}

#endif
