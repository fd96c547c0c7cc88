/* Axolotl's YAML (axolotl/utils/schemas/). */
#include "config/from_rows.h"

/* clang-format off */

static const struct cfg_from_word adapters[] = { /* as enum est_method */
	{ "lora", "1" }, { "qlora", "2" }, { "", NULL }, { NULL, NULL }
};
static const struct cfg_from_word optimizers[] = {
	OPTIMIZER_NAMES, { NULL, NULL }
};
static const struct cfg_from_word storages[] = {
	{ "bfloat16", "bf16" }, { "float16", "fp16" }, { "float32", "fp32" }, { NULL, NULL }
};

static const struct cfg_from_row rows[] = {
	FIELD("base_model", "model"),
	FIELD("micro_batch_size", "micro_batch_size"),
	FIELD("gradient_accumulation_steps", "gradient_accumulation_steps"),
	OFF("batch_size", "name gradient_accumulation_steps instead"),
	OR("sequence_len", "sequence_length", "512"),
	WORDS("optimizer", "optimizer", optimizers),
	OFF("optim_args", "name what it says of a rank in optimizer_rank instead: it is not read"),
	FIELD("max_grad_norm", "max_grad_norm"),
	FIELD("gradient_checkpointing", "gradient_checkpointing"),
	FIELD("gradient_checkpointing_kwargs.use_reentrant", "use_reentrant"),
	OFF("selective_checkpointing", "Axolotl's selective checkpoints are not modelled"),
	OFF("activation_offloading", "name gradient_checkpointing offload instead: Axolotl's own is not modelled"),
	OFF("layer_offloading", "layers on the CPU are not modelled"),
	FACT("bf16", CFG_BF16, cfg_from_switch),
	FACT("fp16", CFG_FP16, cfg_from_switch),
	FACT("bfloat16", CFG_PURE, cfg_from_switch),
	OFF("fp8", "fp8 arithmetic is not modelled"),
	OFF("float32", "name precision fp32 instead"),
	/* PEFT and what it adapts */
	FACT("adapter", CFG_ADAPTER, adapters),
	FACT("load_in_4bit", CFG_BITS, WHEN_TRUE("4")),
	FACT("load_in_8bit", CFG_BITS, WHEN_TRUE("8")),
	WORDS("gptq", "quantization.type", WHEN_TRUE("gptq")),
	FIELD("bnb_config_kwargs.bnb_4bit_quant_type", "quantization.type"),
	FIELD("bnb_config_kwargs.bnb_4bit_use_double_quant", "quantization.double_quant"),
	WORDS("bnb_config_kwargs.bnb_4bit_quant_storage", "quantization.quant_storage", storages),
	FIELD("lora_r", "lora.rank"),
	FIELD("lora_alpha", "lora.alpha"),
	FIELD("lora_dropout", "lora.dropout"),
	WORDS("lora_target_linear", "lora.target_modules", WHEN_TRUE("all-linear")),
	FIELD("lora_target_modules", "lora.target_modules"),
	FIELD("lora_modules_to_save", "lora.modules_to_save"),
	FIELD("peft_use_dora", "lora.dora"),
	FIELD("peft_use_rslora", "lora.rslora"),
	OFF("lora_target_parameters", "adapters of named parameters are not modelled"),
	OFF("lora_rank_pattern", "ranks by pattern are not modelled"),
	OFF("peft_layers_to_transform", "adapters in some layers only are not modelled"),
	OFF("peft_autocast_adapter_dtype", "name lora.adapter_dtype instead"),
	OFF("peft_trainable_token_indices", "training single tokens is not modelled"),
	OFF("unfrozen_parameters", "training named parameters only is not modelled"),
	OFF("relora", "ReLoRA is not modelled"),
	OFF("quantize_moe_experts", "quantised experts of Axolotl's are not modelled"),
	OFF("qat", "quantisation-aware training is not modelled"),
	WARN("lora_mlp_kernel", "fuses the MLP with its adapters"),
	WARN("lora_qkv_kernel", "fuses q, k, v with their adapters"),
	WARN("lora_o_kernel", "fuses o with its adapter"),
	/* kernels and losses */
	FIELD("attn_implementation", "attention"),
	WORDS("flash_attention", "attention", WHEN_TRUE("flash_attention_2")),
	WORDS("sdp_attention", "attention", WHEN_TRUE("sdpa")),
	WORDS("eager_attention", "attention", WHEN_TRUE("eager")),
	WORDS("flex_attention", "attention", WHEN_TRUE("flex_attention")),
	OFF("xformers_attention", "xFormers' attention is not modelled"),
	OFF("sage_attention", "SageAttention is not modelled"),
	WORDS("liger_fused_linear_cross_entropy", "loss", WHEN_TRUE("liger")),
	WORDS("cut_cross_entropy", "loss", WHEN_TRUE("cut_cross_entropy")),
	OFF("chunked_cross_entropy", "Axolotl's chunked loss is not modelled"),
	WARN("liger_rms_norm", "saves less of the norms"),
	WARN("liger_glu_activation", "saves less of the MLP"),
	WARN("liger_rope", "rotates in place"),
	WARN("tiled_mlp", "runs the MLP in tiles"),
	FIELD("torch_compile", "torch_compile"),
	FIELD("rl", "objective"),
	WORDS("reward_model", "objective", WHEN_TRUE("reward")),
	WORDS("precompute_ref_log_probs", "reference_model", WHEN_TRUE("precomputed")),
	FIELD("trl.beta", "beta"),
	WARN("neftune_noise_alpha", "adds noise to the embeddings"),
	WARN("auto_find_batch_size", "halves the batch until it fits"),
	/* many GPUs */
	FIELD("world_size", "parallelism.gpus"),
	FIELD("tensor_parallel_size", "parallelism.tensor"),
	FIELD("context_parallel_size", "parallelism.context"),
	FIELD("sequence_parallel_degree", "parallelism.context"),
	FACT("dp_replicate_size", CFG_REPLICAS, NULL),
	FACT("dp_shard_size", CFG_SHARDS, NULL),
	FILE_OF("deepspeed", "deepspeed"),
	FSDP("fsdp"),
	FACT("fsdp_version", CFG_FSDP_VERSION, cfg_from_fsdp_versions),
	END
};
const struct cfg_from_format cfg_from_axolotl = {
	"axolotl", "Axolotl", rows, { cfg_from_fsdp_rows, NULL }, "axolotl", "1", true
};
