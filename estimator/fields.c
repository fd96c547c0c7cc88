#include "estimator/fields.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Where a field lives, and with it what it is called: the member's own name. */
#define TOP(member) .name = #member, .pointer = "/" #member, .offset = offsetof(struct est_request, member)
#define IN(group, member) .name = #group "." #member, .pointer = "/" #group "/" #member, \
	.offset = offsetof(struct est_request, group.member)
#define BUCKET(member) .name = "parallelism.buckets." #member, .pointer = "/parallelism/buckets/" #member, \
	.offset = offsetof(struct est_request, parallelism.buckets.member), .kind = EST_FIELD_INT, .min = 0, \
	.max = 1e15, .words = est_auto_words, .fallback = EST_AUTO, .by_framework = true
#define NOWHERE(word) .name = #word, .pointer = "/" #word

/* What it may hold, and what it is when absent. */
#define BOOL(otherwise) .kind = EST_FIELD_BOOL, .fallback = otherwise
#define INT(from, to, otherwise) .kind = EST_FIELD_INT, .min = from, .max = to, .fallback = otherwise
#define REAL(from, to, otherwise) .kind = EST_FIELD_REAL, .min = from, .max = to, .fallback = otherwise
#define WORD(list, otherwise) .kind = EST_FIELD_WORD, .words = list, .fallback = otherwise
#define VERSION .kind = EST_FIELD_VERSION, .max = 999999
#define BY_FRAMEWORK .by_framework = true

/* Upper ends keep every product that the estimator forms below 2^63; est_check() bounds batch x length. */
enum { RANKS_MAX = 65536, LENGTH_MAX = 1 << 24, GPUS_MAX = 1 << 20 };

/* clang-format off */
const struct est_field est_request_fields[] = {
	{ NOWHERE(model), .kind = EST_FIELD_MODEL, .required = true,
	  .doc = "A preset id, alias or Hugging Face id; a config.json; or a custom shape (parameters is enough)." },
	{ TOP(framework), WORD(est_framework_words, EST_TRANSFORMERS),
	  .doc = "The trainer whose defaults apply where a field is not named." },
	{ IN(versions, torch), VERSION, .doc = "PyTorch's version." },
	{ IN(versions, transformers), VERSION,
	  .doc = "Transformers' version: the copies that its loss makes, the layout of experts." },
	{ IN(versions, peft), VERSION, .doc = "PEFT's version: the adapters' dtype, what all-linear reaches." },
	{ IN(versions, trl), VERSION, .doc = "TRL's version: its loss, its preparation of quantised models." },
	{ IN(versions, accelerate), VERSION, .doc = "Accelerate's version: what FSDP wraps." },
	{ IN(versions, bitsandbytes), VERSION, .doc = "bitsandbytes' version." },
	{ IN(versions, deepspeed), VERSION, .doc = "DeepSpeed's version." },
	{ TOP(method), WORD(est_method_words, EST_FULL), .doc = "What is trained." },
	{ TOP(precision), WORD(est_precision_words, EST_BF16_MASTER), BY_FRAMEWORK,
	  .doc = "The types of weights, gradients, optimizer states and arithmetic." },
	{ TOP(base_dtype), WORD(est_base_dtype_words, EST_BF16),
	  .doc = "The type of the frozen base weights (lora) or of what is not quantised (qlora)." },
	{ TOP(optimizer), WORD(est_optimizer_words, EST_ADAMW_TORCH_FUSED), BY_FRAMEWORK,
	  .doc = "The optimizer, named as in the Trainer's optim." },
	{ TOP(optimizer_rank), INT(1, RANKS_MAX, 128), .doc = "Rank of GaLore's and APOLLO's projections." },
	{ TOP(max_grad_norm), REAL(0, INFINITY, 1), BY_FRAMEWORK, .doc = "Gradient clipping; 0 is none." },
	{ TOP(outputs_to_fp32), BOOL(false), BY_FRAMEWORK,
	  .doc = "Whether the model's outputs are cast to fp32 (accelerate's convert_outputs_to_fp32)." },
	{ TOP(fuse_optimizer_in_backward), BOOL(false),
	  .doc = "Each parameter is stepped as its gradient arrives, so that gradients never add up." },
	{ TOP(micro_batch_size), INT(1, 65536, 1), .doc = "Sequences per GPU and forward pass." },
	{ TOP(sequence_length), INT(1, LENGTH_MAX, 2048), .doc = "Padded tokens per sequence." },
	{ TOP(gradient_accumulation_steps), INT(1, 65536, 1),
	  .doc = "Forward and backward passes per optimizer step." },
	{ .name = "gradient_checkpointing", .pointer = "/gradient_checkpointing",
	  .offset = offsetof(struct est_request, checkpointing), .kind = EST_FIELD_CHECKPOINTING,
	  .words = est_checkpointing_words, .fallback = EST_CHECKPOINT_NONE, BY_FRAMEWORK,
	  .doc = "Which activations are recomputed in backward; true is full, selective is op." },
	{ TOP(use_reentrant), BOOL(false), BY_FRAMEWORK, .doc = "The switch of torch.utils.checkpoint." },
	{ TOP(attention), WORD(est_attention_words, EST_SDPA), BY_FRAMEWORK,
	  .doc = "The attention implementation; sdpa picks the kernel that PyTorch would on the judged card." },
	{ TOP(attention_mask), BOOL(false), .doc = "Padded batches: a 4-D mask reaches the attention." },
	{ TOP(loss), WORD(est_loss_words, EST_LOSS_STANDARD), BY_FRAMEWORK,
	  .doc = "How the loss is computed; standard holds the full logits and their fp32 copy." },
	{ TOP(liger_kernel), BOOL(false), .doc = "Liger's fused RMSNorm, SwiGLU, RoPE and loss." },
	{ TOP(torch_compile), BOOL(false), .doc = "The model is compiled." },
	{ IN(parallelism, strategy), WORD(est_strategy_words, EST_SINGLE), BY_FRAMEWORK,
	  .doc = "How data-parallel ranks share the state; zero3 when only gpus is given and more than 1." },
	{ IN(parallelism, gpus), INT(1, GPUS_MAX, 1), .doc = "All GPUs of the job." },
	{ IN(parallelism, gpus_per_node), INT(1, 1024, 8), .doc = "GPUs in one machine." },
	{ IN(parallelism, tensor), INT(1, GPUS_MAX, 1), .doc = "Tensor-parallel ranks." },
	{ IN(parallelism, pipeline), INT(1, GPUS_MAX, 1), .doc = "Pipeline stages." },
	{ IN(parallelism, context), INT(1, GPUS_MAX, 1), .doc = "Context-parallel ranks." },
	{ IN(parallelism, expert), INT(1, GPUS_MAX, 1), .doc = "Expert-parallel ranks." },
	{ IN(parallelism, shard_size), INT(1, GPUS_MAX, 0),
	  .doc = "Ranks in one shard group of hsdp; all data-parallel ranks when absent." },
	{ IN(parallelism, sequence_parallel), BOOL(false),
	  .doc = "Norms and dropouts are split along the sequence, with tensor above 1." },
	{ IN(parallelism, reshard_after_forward), BOOL(true), .doc = "Gathered weights are freed after forward." },
	{ IN(parallelism, gradient_as_bucket_view), BOOL(false), .doc = "DDP's gradients are views into its buckets." },
	{ IN(parallelism, wrap), WORD(est_wrap_words, EST_WRAP_ACCELERATE), BY_FRAMEWORK,
	  .doc = "What FSDP makes a unit of." },
	{ IN(parallelism, param_dtype), WORD(est_dtype_words, EST_BF16), BY_FRAMEWORK,
	  .doc = "FSDP's mixed precision: the type of gathered weights; none leaves them." },
	{ IN(parallelism, reduce_dtype), WORD(est_dtype_words, EST_BF16), BY_FRAMEWORK,
	  .doc = "FSDP's mixed precision: the type of reduced gradients; none leaves them." },
	{ IN(parallelism, output_dtype), WORD(est_dtype_words, EST_BF16), BY_FRAMEWORK,
	  .doc = "FSDP's mixed precision: the type of outputs; none leaves them." },
	{ IN(parallelism, checkpoint_outside_unit), BOOL(false), BY_FRAMEWORK,
	  .doc = "The checkpoint wraps the FSDP unit instead of lying inside it." },
	{ IN(parallelism, sync_each_microbatch), BOOL(false),
	  .doc = "FSDP reduces after each micro-batch; otherwise unsharded gradients stay until the last." },
	{ IN(parallelism, use_orig_params), BOOL(true), .doc = "FSDP1's use_orig_params." },
	{ IN(parallelism, limit_all_gathers), BOOL(true), .doc = "FSDP1's limit_all_gathers." },
	{ IN(parallelism, overlap_comm), BOOL(false), BY_FRAMEWORK,
	  .doc = "DeepSpeed overlaps reduction with backward." },
	{ IN(parallelism, contiguous_gradients), BOOL(true), BY_FRAMEWORK,
	  .doc = "DeepSpeed copies gradients into one buffer." },
	{ IN(parallelism, sub_group_size), INT(1, 1e15, 1e9), BY_FRAMEWORK,
	  .doc = "ZeRO-3: elements stepped at a time." },
	{ IN(parallelism, max_live_parameters), INT(0, 1e15, 1e9), BY_FRAMEWORK,
	  .doc = "ZeRO-3: elements gathered at most." },
	{ IN(parallelism, max_reuse_distance), INT(0, 1e15, 1e9), BY_FRAMEWORK,
	  .doc = "ZeRO-3: elements within which a parameter that is used again stays gathered." },
	{ IN(parallelism, grad_accum_dtype), WORD(est_base_dtype_words, EST_BF16), BY_FRAMEWORK,
	  .doc = "DeepSpeed: the type in which gradients accumulate." },
	{ IN(parallelism, communication_data_type), WORD(est_base_dtype_words, EST_BF16), BY_FRAMEWORK,
	  .doc = "DeepSpeed: the type in which gradients are reduced." },
	{ BUCKET(reduce_bucket_size), .doc = "DeepSpeed: elements reduced at a time." },
	{ BUCKET(allgather_bucket_size), .doc = "DeepSpeed ZeRO-1 and 2: elements gathered at a time after the step." },
	{ BUCKET(prefetch_bucket_size), .doc = "ZeRO-3: elements gathered ahead." },
	{ BUCKET(param_persistence_threshold), .doc = "ZeRO-3: parameters with fewer elements stay gathered." },
	{ IN(offload, optimizer), WORD(est_device_words, EST_ON_GPU), .doc = "Where optimizer states live." },
	{ IN(offload, parameters), WORD(est_device_words, EST_ON_GPU), .doc = "Where sharded parameters live." },
	{ IN(offload, activations), WORD(est_device_words, EST_ON_GPU), .doc = "Where saved activations live." },
	{ IN(lora, rank), INT(1, RANKS_MAX, 16), .doc = "Rank of the adapters." },
	{ IN(lora, alpha), REAL(0, INFINITY, 0),
	  .doc = "Scale of the adapters: no memory depends on it; twice the rank when absent." },
	{ IN(lora, dropout), REAL(0, 1, 0), .doc = "Dropout in front of the adapters." },
	{ IN(lora, target_modules), .kind = EST_FIELD_NAMES, .words = est_all_linear_words, .fallback = 1,
	  .doc = "The modules that get an adapter: all-linear or a list of names." },
	{ IN(lora, dora), BOOL(false), .doc = "Weight-decomposed adapters (DoRA)." },
	{ IN(lora, rslora), BOOL(false), .doc = "Rank-stabilised scaling: no memory depends on it." },
	{ IN(lora, modules_to_save), .kind = EST_FIELD_NAMES, .doc = "Modules that are copied and trained in full." },
	{ IN(lora, adapter_dtype), WORD(est_base_dtype_words, EST_FP32), BY_FRAMEWORK,
	  .doc = "The type of the adapters." },
	{ IN(quantization, bits), INT(4, 8, 4), .step = 4, BY_FRAMEWORK, .doc = "Bits of a quantised weight: 4 or 8." },
	{ IN(quantization, type), WORD(est_quantization_words, EST_NF4), BY_FRAMEWORK, .doc = "The quantised format." },
	{ IN(quantization, double_quant), BOOL(true), .doc = "The scales are quantised too (nf4, fp4)." },
	{ IN(quantization, group_size), INT(-1, 1 << 20, 64), BY_FRAMEWORK,
	  .doc = "Weights that share a scale, -1 is a whole row; 64 with nf4 and fp4, 128 with gptq and hqq." },
	{ IN(quantization, prepare_kbit), BOOL(true), BY_FRAMEWORK,
	  .doc = "PEFT's prepare_model_for_kbit_training: what is not quantised becomes fp32." },
	{ IN(quantization, quant_storage), WORD(est_storage_words, EST_STORE_UINT8),
	  .doc = "The type that holds the packed weights." },
	{ TOP(objective), WORD(est_objective_words, EST_SFT),
	  .doc = "What is optimised; dpo, orpo and reward count pairs, grpo completions." },
	{ TOP(reference_model), WORD(est_reference_words, EST_REFERENCE_NONE), BY_FRAMEWORK,
	  .doc = "Where the reference of dpo, kto and grpo comes from; adapter is the base without its adapter." },
	{ TOP(beta), REAL(0, INFINITY, 0), .doc = "Weight of the KL term of grpo: above 0 a reference model is kept." },
	{ TOP(completion_fraction), REAL(0, 1, 1), .doc = "Share of the tokens that carry a label." },
	{ TOP(task), WORD(est_task_words, EST_CAUSAL_LM), BY_FRAMEWORK, .doc = "The head of the model." },
	{ TOP(target_length), INT(1, LENGTH_MAX, 2048), BY_FRAMEWORK,
	  .doc = "Decoder tokens of sequence_to_sequence; sequence_length when absent." },
	{ TOP(trainable_layers), INT(1, 65536, 0), .doc = "Layers that are trained, from the last, with freeze." },
	{ TOP(accounting), WORD(est_accounting_words, EST_REPLAY),
	  .doc = "replay runs a training step on paper; rule_of_thumb is bytes per parameter and 8 % on top." },
	{ NOWHERE(gpus), .kind = EST_FIELD_GPUS, .doc = "The accelerators to judge; all when absent." },
	{ NOWHERE(gpu_memory_bytes), .kind = EST_FIELD_BYTES, .min = 1, .max = 1125899906842624.0,
	  .doc = "Memory of cards to judge that are not in the catalogue." },
	{ TOP(headroom_fraction), REAL(0, 0.5, 0), .doc = "Share of each card's memory to leave free." },
	{ TOP(include), .kind = EST_FIELD_WORDS, .words = est_include_words, .fallback = EST_INCLUDE_ALL,
	  .doc = "Parts of the answer that cost more than the verdict; all for one estimate, none for many." },
};
/* clang-format on */

enum { FIELDS = sizeof(est_request_fields) / sizeof(est_request_fields[0]) };
const size_t est_request_field_count = FIELDS;
_Static_assert(FIELDS <= 128, "est_request.named has a bit for each field");
_Static_assert(sizeof(enum est_method) == sizeof(int), "words are written as int");
