#include "config/frameworks.h"

#define BIT(value) (1U << (value))

enum {
	WHOLE = BIT(EST_FULL) | BIT(EST_FREEZE),
	ADAPTERS = BIT(EST_LORA) | BIT(EST_QLORA),
	EVERY_METHOD = WHOLE | ADAPTERS
};

/* clang-format off */
const struct cfg_framework cfg_frameworks[] = {
	[EST_TRANSFORMERS] = {{
		{ NULL, 0, 0, NULL, NULL } /* estimator/fields.c has its defaults */
	}},
	[EST_TRL] = {{
		{ "precision", EST_BF16_MIXED, WHOLE,
		  "TRL loads a model by name in float32 and trains with bf16=True", NULL },
		{ "gradient_checkpointing", EST_CHECKPOINT_FULL, EVERY_METHOD, "TRL's configs switch it on", NULL },
		{ "loss", EST_LOSS_CHUNKED, EVERY_METHOD,
		  "TRL 1.x computes log-probabilities in tiles (chunked_logprob.py)", NULL },
		{ "lora.adapter_dtype", EST_BF16, BIT(EST_QLORA),
		  "TRL 1.x casts a quantised model's trainable parameters to bf16", NULL },
		{ "quantization.prepare_kbit", false, BIT(EST_QLORA),
		  "TRL 1.x does not call prepare_model_for_kbit_training", NULL },
	}},
	[EST_AXOLOTL] = {{
		{ "precision", EST_BF16_AUTOCAST, WHOLE, "Axolotl loads the model in bf16 and trains with bf16: auto", NULL },
	}},
	[EST_LLAMA_FACTORY] = {{
		{ "precision", EST_BF16_MIXED, WHOLE,
		  "LLaMA-Factory casts trainable parameters to fp32 unless pure_bf16 (model/adapter.py)", NULL },
		{ "gradient_checkpointing", EST_CHECKPOINT_FULL, EVERY_METHOD,
		  "LLaMA-Factory switches it on (disable_gradient_checkpointing: false)", NULL },
		{ "use_reentrant", true, EVERY_METHOD, "LLaMA-Factory's use_reentrant_gc is true", NULL },
		{ "lora.rank", 8, ADAPTERS, "LLaMA-Factory's lora_rank is 8 (hparams/finetuning_args.py)", NULL },
		{ "optimizer", EST_ADAMW_TORCH, EVERY_METHOD, "LLaMA-Factory's examples and web page: adamw_torch", NULL },
		{ "quantization.prepare_kbit", false, BIT(EST_QLORA),
		  "LLaMA-Factory upcasts norms only with upcast_layernorm (model/model_utils/checkpointing.py)", NULL },
		{ "freeze_vision_tower", true, EVERY_METHOD,
		  "LLaMA-Factory's freeze_vision_tower and freeze_multi_modal_projector are true (hparams/finetuning_args.py)", NULL },
	}},
	[EST_UNSLOTH] = {{
		{ "precision", EST_BF16_AUTOCAST, WHOLE, "Unsloth loads the model in bf16 and trains with autocast", NULL },
		{ "gradient_checkpointing", EST_CHECKPOINT_OFFLOAD, EVERY_METHOD,
		  "use_gradient_checkpointing = \"unsloth\" keeps checkpoints on the host", NULL },
		{ "use_reentrant", true, EVERY_METHOD, "Unsloth's checkpoints are reentrant", NULL },
		{ "loss", EST_LOSS_CHUNKED, EVERY_METHOD, "Unsloth's fused cross entropy (unsloth_zoo)", NULL },
		{ "optimizer", EST_ADAMW_8BIT, EVERY_METHOD, "UnslothTrainingArguments' optim is adamw_8bit", NULL },
		{ "quantization.prepare_kbit", false, BIT(EST_QLORA), "Unsloth leaves what is not quantised in 16 bits", NULL },
	}},
	[EST_DEEPSPEED] = {{
		{ "precision", EST_BF16_MASTER, WHOLE, "DeepSpeed holds fp32 master copies", NULL },
		{ "parallelism.buckets.reduce_bucket_size", 5e8, EVERY_METHOD, "deepspeed/runtime/zero/config.py", NULL },
		{ "parallelism.buckets.allgather_bucket_size", 5e8, EVERY_METHOD, "deepspeed/runtime/zero/config.py", NULL },
		{ "parallelism.buckets.prefetch_bucket_size", 5e7, EVERY_METHOD, "deepspeed/runtime/zero/config.py", NULL },
		{ "parallelism.buckets.param_persistence_threshold", 1e5, EVERY_METHOD,
		  "deepspeed/runtime/zero/config.py", NULL },
	}},
	[EST_TORCHTITAN] = {{
		{ "precision", EST_BF16_MIXED, WHOLE, "torchtitan: fp32 shards, bf16 compute (mixed_precision_param)", NULL },
		{ "gradient_checkpointing", EST_CHECKPOINT_SELECTIVE, EVERY_METHOD,
		  "torchtitan's activation_checkpoint.mode is selective, per op", NULL },
		{ "parallelism.wrap", EST_WRAP_LAYER_ROOT, EVERY_METHOD,
		  "torchtitan: fully_shard of each layer and of the model", NULL },
		{ "parallelism.reduce_dtype", EST_FP32, EVERY_METHOD,
		  "torchtitan's mixed_precision_reduce is float32", NULL },
		{ "parallelism.output_dtype", EST_DTYPE_NONE, EVERY_METHOD,
		  "torchtitan's policy names no output dtype", NULL },
		{ "expandable_segments", true, EVERY_METHOD, "torchtitan's run_train.sh sets PYTORCH_ALLOC_CONF", NULL },
		{ "parallelism.sync_each_microbatch", true, EVERY_METHOD,
		  "torchtitan's trainer never calls set_requires_gradient_sync", NULL },
	}},
	[EST_TORCHTUNE] = {{
		{ "precision", EST_PURE_BF16, EVERY_METHOD, "torchtune's recipes: dtype bf16, no autocast", NULL },
		{ "gradient_checkpointing", EST_CHECKPOINT_FULL, EVERY_METHOD,
		  "torchtune's recipes: enable_activation_checkpointing true", NULL },
		{ "loss", EST_LOSS_CHUNKED, EVERY_METHOD, "torchtune's recipes: CEWithChunkedOutputLoss", NULL },
		{ "lora.rank", 8, ADAPTERS, "torchtune's recipes: lora_rank 8", NULL },
		{ "lora.target_modules", false, ADAPTERS, "torchtune's recipes: lora_attn_modules, apply_lora_to_mlp",
		  "q_proj v_proj o_proj gate_proj up_proj down_proj" },
		{ "lora.adapter_dtype", EST_BF16, ADAPTERS, "torchtune's recipes: dtype bf16", NULL },
		{ "max_grad_norm", 0, EVERY_METHOD, "torchtune's recipes: clip_grad_norm null", NULL },
		{ "parallelism.wrap", EST_WRAP_LAYER_ROOT, EVERY_METHOD,
		  "torchtune: fully_shard of each layer and of the model", NULL },
	}},
	[EST_LITGPT] = {{
		{ "precision", EST_PURE_BF16, EVERY_METHOD, "LitGPT's config_hub: precision bf16-true", NULL },
		{ "outputs_to_fp32", true, EVERY_METHOD, "Lightning's precision plugins convert outputs to fp32 (half.py)", NULL },
		{ "optimizer", EST_ADAMW_TORCH, WHOLE | BIT(EST_LORA), "LitGPT: torch.optim.AdamW as it comes (foreach)", NULL },
		{ "optimizer", EST_PAGED_ADAMW_32BIT, BIT(EST_QLORA), "LitGPT: bnb.optim.PagedAdamW (finetune/lora.py)", NULL },
		{ "loss", EST_LOSS_CHUNKED, EVERY_METHOD, "LitGPT's chunked_cross_entropy (utils.py)", NULL },
		{ "max_grad_norm", 0, EVERY_METHOD, "LitGPT's fine-tuning does not clip", NULL },
		{ "lora.rank", 8, ADAPTERS, "LitGPT's finetune/lora.py: lora_r = 8", NULL },
		{ "lora.dropout", 0.05, ADAPTERS, "LitGPT's finetune/lora.py: lora_dropout = 0.05", NULL },
		{ "lora.target_modules", false, ADAPTERS, "LitGPT's finetune/lora.py: lora_query and lora_value", "q_proj v_proj" },
		{ "lora.adapter_dtype", EST_BF16, ADAPTERS, "LitGPT's config_hub: precision bf16-true", NULL },
		{ "quantization.prepare_kbit", false, BIT(EST_QLORA), "LitGPT: Lightning's BitsandbytesPrecision", NULL },
	}},
	[EST_MEGATRON] = {{
		{ "precision", EST_BF16_MASTER, WHOLE, "Megatron holds fp32 master copies and main gradients", NULL },
		{ "loss", EST_LOSS_VOCAB_PARALLEL, EVERY_METHOD, "Megatron's vocab_parallel_cross_entropy", NULL },
		{ "attention", EST_FLASH_ATTENTION_2, EVERY_METHOD,
		  "Megatron with Transformer Engine: flash attention", NULL },
		{ "parallelism.grad_accum_dtype", EST_FP32, EVERY_METHOD, "Megatron's main gradients are fp32", NULL },
		{ "parallelism.strategy", EST_ZERO1, EVERY_METHOD,
		  "Megatron's recipes: the distributed optimizer (use_distributed_optimizer)", NULL },
	}},
	[EST_MLX] = {{
		{ "precision", EST_PURE_BF16, EVERY_METHOD, "mlx-lm trains in the type of the checkpoint", NULL },
		{ "lora.rank", 8, ADAPTERS, "mlx-lm's lora_parameters: rank 8 (lora.py)", NULL },
		{ "lora.adapter_dtype", EST_FP32, ADAPTERS, "mlx-lm makes lora_a and lora_b in float32 (tuner/lora.py)", NULL },
		{ "max_grad_norm", 0, EVERY_METHOD, "mlx-lm does not clip", NULL },
		{ "optimizer", EST_ADAMW_TORCH, EVERY_METHOD, "mlx-lm's optimizer is adam; its adamw holds the same", NULL },
		{ "quantization.type", EST_AFFINE, BIT(EST_QLORA), "mlx_lm.convert quantises by mx.quantize(): affine", NULL },
	}},
};
/* clang-format on */
const size_t cfg_framework_count = sizeof(cfg_frameworks) / sizeof(cfg_frameworks[0]);
