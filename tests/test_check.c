#include <math.h>
#include <stdio.h>
#include <string.h>
#include "estimator/estimator.h"
#include "estimator/fields.h"
#include "tests/suite.h"

/* Llama-3.1-8B, as far as the rules look at it. */
static struct est_model llama(void)
{
	return (struct est_model){
		.architecture = EST_ARCH_LLAMA, .vocab_size = 128256, .hidden_size = 4096, .num_hidden_layers = 32,
		.num_attention_heads = 32, .num_key_value_heads = 8, .head_dim = 128, .intermediate_size = 14336,
		.max_position_embeddings = 131072, .parameters = 8030261248,
	};
}

/* "a=1 b=2": fields by their numbers as est_field_set() takes them; all are named. */
static void set_fields(struct est_request *request, const char *assignments)
{
	char name[64];
	double value;
	int used;

	est_request_init(request);
	for (; sscanf(assignments, " %63[^=]=%lf%n", name, &value, &used) == 2; assignments += used) {
		const struct est_field *field = est_field_find(name);

		ck_assert_msg(field != NULL, "%s", name);
		est_field_set(field, request, value);
		est_request_name(request, field);
	}
	ck_assert_msg(strspn(assignments, " ") == strlen(assignments), "not read: %s", assignments);
}

#define MLX "framework=10 precision=4 max_grad_norm=0 optimizer=1 "
#define THUMB "accounting=1 "   /* rule_of_thumb */
#define LORA THUMB "method=1 "
#define QLORA THUMB "method=2 "
/* torchtitan, fp32 shards and bf16 compute, whole checkpoints, under fsdp */
#define TITAN "framework=6 precision=2 gradient_checkpointing=1 parallelism.strategy=5 "
#define ULYSSES "parallelism.gpus=4 parallelism.context=4 parallelism.context_backend=1 "
#define SHARED_EXPERTS "method=1 precision=2 base_dtype=0 parallelism.gpus=8 "
#define ADAPTED "method=1 torch_compile=1 base_dtype=0 outputs_to_fp32=1 "
#define UNSLOTH "framework=4 method=1 precision=2 loss=1 "

static const struct {
	const char *name, *fields, *pointer; /* NULL: accepted */
	enum est_fault_code code;
} cases[] = {
	{ "nothing named", "", NULL, 0 },
	{ "as many GPUs as ranks", THUMB "parallelism.gpus=8 parallelism.strategy=4", NULL, 0 },
	{ "lora without lora", "lora.rank=8", "/lora/rank", EST_CONTRADICTION },
	{ "quantization without qlora", LORA "quantization.bits=4", "/quantization/bits", EST_CONTRADICTION },
	{ "a base type without a base", "base_dtype=0", "/base_dtype", EST_CONTRADICTION },
	{ "a rank for an optimizer without one", "optimizer_rank=8", "/optimizer_rank", EST_CONTRADICTION },
	{ "layers to train without freeze", "trainable_layers=2", "/trainable_layers", EST_CONTRADICTION },
	{ "a decoder length without decoder", "target_length=64", "/target_length", EST_CONTRADICTION },
	{ "a reference without preferences", "reference_model=3", "/reference_model", EST_CONTRADICTION },
	{ "a shard size without hsdp", "parallelism.strategy=5 parallelism.shard_size=1", "/parallelism/shard_size",
	  EST_CONTRADICTION },
	{ "a rank as wide as the model", LORA "lora.rank=4096", NULL, 0 },
	{ "a rank wider than the model", LORA "lora.rank=4097", "/lora/rank", EST_OUT_OF_RANGE },
	{ "every 32 layers", "gradient_checkpointing=4", NULL, 0 },
	{ "ranks that do not divide", "parallelism.gpus=7 parallelism.strategy=4 parallelism.tensor=2",
	  "/parallelism/gpus",
	  EST_CONTRADICTION },
	{ "data-parallel ranks without strategy", "parallelism.gpus=8 parallelism.strategy=0", "/parallelism/strategy",
	  EST_CONTRADICTION },
	{ "shards that do not divide", "parallelism.gpus=8 parallelism.strategy=7 parallelism.shard_size=3",
	  "/parallelism/shard_size", EST_CONTRADICTION },
	{ "shards that divide", "precision=2 parallelism.gpus=8 parallelism.strategy=7 parallelism.shard_size=4", NULL, 0 },
	{ "heads that do not divide", "parallelism.gpus=3 parallelism.tensor=3", "/parallelism/tensor",
	  EST_CONTRADICTION },
	{ "more stages than layers", "parallelism.gpus=33 parallelism.pipeline=33", "/parallelism/pipeline",
	  EST_CONTRADICTION },
	{ "stages that share gradients", "parallelism.gpus=8 parallelism.pipeline=2 parallelism.strategy=3", "/parallelism/strategy",
	  EST_CONTRADICTION },
	{ "stages that share weights", "parallelism.gpus=8 parallelism.pipeline=2 parallelism.strategy=4", "/parallelism/strategy",
	  EST_CONTRADICTION },
	{ "stages", "precision=2 parallelism.gpus=8 parallelism.pipeline=4 parallelism.strategy=5", NULL, 0 },
	{ "stages alone", "precision=2 parallelism.gpus=4 parallelism.pipeline=4", NULL, 0 },
	{ "stages with replicas", "precision=2 parallelism.gpus=8 parallelism.pipeline=4 parallelism.strategy=1", NULL, 0 },
	{ "stages with shards and masters", "parallelism.gpus=8 parallelism.pipeline=4 parallelism.strategy=5", "/precision",
	  EST_NOT_SUPPORTED_YET },
	{ "stages that share states", "parallelism.gpus=8 parallelism.pipeline=2 parallelism.strategy=2", "/parallelism/strategy",
	  EST_NOT_SUPPORTED_YET },
	{ "stages of a trainer that has none", "framework=1 precision=2 parallelism.gpus=2 parallelism.pipeline=2", "/framework",
	  EST_NOT_SUPPORTED_YET },
	{ "stages by the rule", THUMB "parallelism.gpus=2 parallelism.pipeline=2", "/parallelism/pipeline", EST_NOT_SUPPORTED_YET },
	{ "stages and a fused head", "precision=2 loss=2 parallelism.gpus=2 parallelism.pipeline=2", "/loss", EST_NOT_SUPPORTED_YET },
	{ "stages in turn", "precision=2 gradient_accumulation_steps=8 parallelism.gpus=8 parallelism.pipeline=4 "
			    "parallelism.pipeline_schedule=1 parallelism.virtual_stages=2 parallelism.strategy=5", NULL, 0 },
	{ "stages in turn, of one a rank", "precision=2 parallelism.gpus=4 parallelism.pipeline=4 parallelism.pipeline_schedule=1",
	  "/parallelism/virtual_stages", EST_CONTRADICTION },
	{ "two stages a rank, not in turn", "precision=2 parallelism.gpus=4 parallelism.pipeline=4 parallelism.virtual_stages=2",
	  "/parallelism/virtual_stages", EST_CONTRADICTION },
	{ "more stages in turn than layers",
	  "precision=2 parallelism.gpus=4 parallelism.pipeline=4 parallelism.pipeline_schedule=1 parallelism.virtual_stages=9",
	  "/parallelism/virtual_stages", EST_CONTRADICTION },
	{ "rounds that do not divide",
	  "precision=2 gradient_accumulation_steps=9 parallelism.gpus=4 parallelism.pipeline=4 parallelism.pipeline_schedule=1 "
	  "parallelism.virtual_stages=2", "/gradient_accumulation_steps", EST_CONTRADICTION },
	{ "a schedule without a pipeline", "parallelism.pipeline_schedule=1", "/parallelism/pipeline_schedule", EST_CONTRADICTION },
	{ "stages of a rank without a pipeline", "parallelism.virtual_stages=2", "/parallelism/virtual_stages", EST_CONTRADICTION },
	{ "parts of sequences", "precision=2 parallelism.gpus=8 parallelism.context=4 parallelism.strategy=5", NULL, 0 },
	{ "parts of sequences in stages",
	  "precision=2 parallelism.gpus=8 parallelism.context=2 parallelism.pipeline=2 parallelism.strategy=5", NULL, 0 },
	{ "parts of sequences without shards", "precision=2 parallelism.gpus=4 parallelism.context=4", "/parallelism/strategy",
	  EST_CONTRADICTION },
	{ "parts of sequences in a ring under ZeRO", "parallelism.gpus=4 parallelism.context=4 parallelism.strategy=4", "/parallelism/strategy",
	  EST_CONTRADICTION },
	{ "parts of sequences exchanged under ZeRO", ULYSSES "parallelism.strategy=4", NULL, 0 },
	{ "parts of sequences exchanged in shards", ULYSSES "precision=2 parallelism.strategy=5", "/parallelism/strategy", EST_CONTRADICTION },
	{ "parts exchanged, reduced in 16 bits", ULYSSES "parallelism.strategy=3", "/parallelism/communication_data_type", EST_CONTRADICTION },
	{ "parts exchanged, reduced in fp32", ULYSSES "parallelism.strategy=3 parallelism.communication_data_type=2", NULL, 0 },
	{ "parts exchanged that do not divide", ULYSSES "parallelism.strategy=4 sequence_length=2046", "/sequence_length", EST_CONTRADICTION },
	{ "more ranks than heads to exchange",
	  "parallelism.gpus=64 parallelism.context=64 parallelism.context_backend=1 parallelism.strategy=4", "/parallelism/context",
	  EST_CONTRADICTION },
	{ "more ranks than key_value heads to exchange",
	  "parallelism.gpus=32 parallelism.context=32 parallelism.context_backend=1 parallelism.strategy=4", NULL, 0 },
	{ "parts exchanged for eager attention", ULYSSES "parallelism.strategy=4 attention=3", "/attention", EST_CONTRADICTION },
	{ "parts of padded sequences exchanged", ULYSSES "parallelism.strategy=4 attention_mask=1", "/attention_mask", EST_NOT_SUPPORTED_YET },
	{ "an exchange between no ranks", "parallelism.context_backend=1", "/parallelism/context_backend", EST_CONTRADICTION },
	{ "sequences that do not divide",
	  "precision=2 sequence_length=2044 parallelism.gpus=4 parallelism.context=4 parallelism.strategy=5", "/sequence_length",
	  EST_CONTRADICTION },
	{ "parts of padded sequences",
	  "precision=2 attention_mask=1 parallelism.gpus=4 parallelism.context=4 parallelism.strategy=5", "/attention_mask",
	  EST_CONTRADICTION },
	{ "parts of sequences for the flash package",
	  "precision=2 attention=1 parallelism.gpus=4 parallelism.context=4 parallelism.strategy=5", "/attention", EST_CONTRADICTION },
	{ "experts that are not there", "parallelism.expert=2", "/parallelism/expert", EST_CONTRADICTION },
	{ "a sequence split over one rank", "parallelism.sequence_parallel=1", "/parallelism/sequence_parallel",
	  EST_CONTRADICTION },
	{ "flash attention in fp32", "attention=1 precision=7", "/attention", EST_CONTRADICTION },
	{ "int8 in 4 bits", QLORA "quantization.type=2 quantization.bits=4", "/quantization/bits", EST_CONTRADICTION },
	{ "int8 in 8 bits", QLORA "quantization.type=2 quantization.bits=8", NULL, 0 },
	{ "a group of nothing", QLORA "quantization.group_size=0", "/quantization/group_size", EST_OUT_OF_RANGE },
	{ "gptq in groups", "method=2 quantization.type=3 quantization.group_size=32", NULL, 0 },
	{ "nf4 in other groups", "method=2 quantization.group_size=128", "/quantization/group_size", EST_NOT_SUPPORTED_YET },
	{ "hqq in groups", "method=2 quantization.type=4 quantization.group_size=64", NULL, 0 },
	{ "hqq under 4.48", "method=2 quantization.type=4 versions.transformers=4048 gradient_checkpointing=1",
	  "/versions/transformers", EST_NOT_SUPPORTED_YET },
	{ "hqq in shards", "method=2 quantization.type=4 parallelism.gpus=2 parallelism.strategy=5", "/quantization/type",
	  EST_NOT_SUPPORTED_YET },
	{ "mxfp4 of a model that is never in it", "method=2 quantization.type=5", "/quantization/type", EST_CONTRADICTION },
	{ "hqq and magnitudes", "method=2 quantization.type=4 lora.dora=1", "/quantization/type", EST_NOT_SUPPORTED_YET },
	{ "gptq and replicas", "method=2 quantization.type=3 parallelism.gpus=2 parallelism.strategy=1", NULL, 0 },
	{ "gptq in shards", "method=2 quantization.type=3 parallelism.gpus=2 parallelism.strategy=5", "/quantization/type",
	  EST_NOT_SUPPORTED_YET },
	{ "gptq and magnitudes", "method=2 quantization.type=3 lora.dora=1", "/quantization/type", EST_NOT_SUPPORTED_YET },
	{ "gptq by the rule", QLORA "quantization.type=3", "/quantization/type", EST_NOT_SUPPORTED_YET },
	{ "an adapter as reference without one", "objective=2 reference_model=1", "/reference_model",
	  EST_CONTRADICTION },
	{ "bitsandbytes over DTensors", "optimizer=2 parallelism.gpus=8 parallelism.strategy=5", "/optimizer", EST_CONTRADICTION },
	{ "a paged one over them", "optimizer=6 parallelism.gpus=8 parallelism.strategy=7", "/optimizer", EST_CONTRADICTION },
	{ "Adafactor over them", "optimizer=7 parallelism.gpus=8 parallelism.strategy=5", "/optimizer", EST_CONTRADICTION },
	{ "Adafactor over flat parameters", "optimizer=7 parallelism.gpus=8 parallelism.strategy=6", NULL, 0 },
	{ "torchao over DTensors", "optimizer=16 parallelism.gpus=8 parallelism.strategy=5", NULL, 0 },
	{ "APOLLO over them", "optimizer=14 parallelism.gpus=8 parallelism.strategy=5", "/optimizer", EST_CONTRADICTION },
	{ "GaLore over them", "optimizer=13 parallelism.gpus=8 parallelism.strategy=5", NULL, 0 },
	{ "GaLore over vectors", "optimizer=13 parallelism.gpus=8 parallelism.strategy=4", "/optimizer", EST_CONTRADICTION },
	{ "Muon over vectors", "optimizer=12 parallelism.gpus=8 parallelism.strategy=3", "/optimizer", EST_CONTRADICTION },
	{ "Muon over vectors of FSDP1", "optimizer=12 parallelism.gpus=8 parallelism.strategy=6", "/optimizer", EST_CONTRADICTION },
	{ "Muon over DTensors", "optimizer=12 parallelism.gpus=8 parallelism.strategy=5", NULL, 0 },
	{ "Muon over adapters", "optimizer=12 method=1 lora.rank=8 parallelism.gpus=8 parallelism.strategy=5", NULL, 0 },
	{ "Muon over adapters of fewer rows than ranks", "optimizer=12 method=1 lora.rank=8 parallelism.gpus=16 parallelism.strategy=5",
	  "/lora/rank", EST_CONTRADICTION },
	{ "Muon on replicas", "optimizer=12 parallelism.gpus=8 parallelism.strategy=1", NULL, 0 },
	{ "clipping what is already gone", "fuse_optimizer_in_backward=1 max_grad_norm=1", "/max_grad_norm",
	  EST_CONTRADICTION },
	{ "adding up what is already gone",
	  "fuse_optimizer_in_backward=1 max_grad_norm=0 gradient_accumulation_steps=2",
	  "/gradient_accumulation_steps", EST_CONTRADICTION },
	{ "choosing what to keep, reentrantly", "gradient_checkpointing=2 use_reentrant=1", "/use_reentrant",
	  EST_CONTRADICTION },
	{ "freeze without layers", "method=3", "/trainable_layers", EST_MISSING },
	{ "freeze", "method=3 trainable_layers=32", NULL, 0 },
	{ "a sequence split over two ranks", "parallelism.gpus=2 parallelism.tensor=2 parallelism.sequence_parallel=1", NULL, 0 },
	{ "a sequence that two ranks cannot split",
	  "parallelism.gpus=2 parallelism.tensor=2 parallelism.sequence_parallel=1 sequence_length=1023", "/sequence_length",
	  EST_CONTRADICTION },
	{ "freeze more than there is", "method=3 trainable_layers=33", "/trainable_layers", EST_OUT_OF_RANGE },
	{ "the longest sequence of the largest batch", "micro_batch_size=65536 sequence_length=16777216",
	  "/sequence_length", EST_OUT_OF_RANGE },
	{ "the longest sequence of the most micro-batches",
	  "precision=2 sequence_length=16777216 gradient_accumulation_steps=65536 parallelism.gpus=2 parallelism.pipeline=2",
	  "/sequence_length", EST_OUT_OF_RANGE },
	{ "a long sequence", "sequence_length=131072", NULL, 0 },
	{ "lora by replay", "method=1", NULL, 0 },
	{ "8-bit states by replay", "optimizer=2", NULL, 0 },
	{ "8-bit states by the rule", THUMB "optimizer=2", NULL, 0 },
	{ "a paged optimizer by the rule", THUMB "optimizer=5", "/optimizer", EST_NOT_SUPPORTED_YET },
	{ "flex attention", "attention=4", NULL, 0 },
	{ "cuDNN's attention", "attention=7", NULL, 0 },
	{ "cuDNN's attention in fp32", "attention=7 precision=7", "/attention", EST_CONTRADICTION },
	{ "another loss by replay", "loss=2", NULL, 0 },
	{ "another loss by the rule, which knows none", THUMB "loss=2", NULL, 0 },
	{ "Unsloth", UNSLOTH, NULL, 0 },
	{ "Unsloth in 4 bits", UNSLOTH " method=2 quantization.prepare_kbit=0", NULL, 0 },
	{ "Unsloth over fp4", UNSLOTH " method=2 quantization.type=1 quantization.prepare_kbit=0", "/framework", EST_NOT_SUPPORTED_YET },
	{ "Unsloth of full fine-tuning", UNSLOTH " method=0", "/framework", EST_NOT_SUPPORTED_YET },
	{ "Unsloth in pure bf16", UNSLOTH " precision=4", "/framework", EST_NOT_SUPPORTED_YET },
	{ "Unsloth with dropout", UNSLOTH " lora.dropout=0.1", "/framework", EST_NOT_SUPPORTED_YET },
	{ "Unsloth with the model's loss", UNSLOTH " loss=0", "/framework", EST_NOT_SUPPORTED_YET },
	{ "Unsloth's checkpoints", UNSLOTH " gradient_checkpointing=3 use_reentrant=1", NULL, 0 },
	{ "Unsloth's checkpoints, not reentrant", UNSLOTH " gradient_checkpointing=3", "/framework", EST_NOT_SUPPORTED_YET },
	{ "Unsloth on two GPUs", UNSLOTH " parallelism.gpus=2 parallelism.strategy=1", "/framework", EST_NOT_SUPPORTED_YET },
	{ "liger", "liger_kernel=1", NULL, 0 },
	{ "liger by the rule", THUMB "liger_kernel=1", "/liger_kernel", EST_NOT_SUPPORTED_YET },
	{ "compile", THUMB "torch_compile=1", "/torch_compile", EST_NOT_SUPPORTED_YET },
	{ "compile by replay", "torch_compile=1", "/torch_compile", EST_NOT_SUPPORTED_YET },
	{ "compile of layers that run uncompiled", "framework=6 torch_compile=1 attention=1 gradient_checkpointing=1", NULL, 0 },
	{ "compile of layers with autocast", "framework=6 torch_compile=1 precision=2", "/torch_compile", EST_NOT_SUPPORTED_YET },
	{ "compile of adapters", LORA "framework=6 torch_compile=1 precision=4", "/torch_compile", EST_NOT_SUPPORTED_YET },
	{ "compile of every second layer's checkpoint", "framework=6 torch_compile=1 precision=4 gradient_checkpointing=4",
	  "/torch_compile", EST_NOT_SUPPORTED_YET },
	{ "flash attention 3", "attention=2", NULL, 0 },
	{ "activations on the host", "offload.activations=1", "/offload/activations", EST_NOT_SUPPORTED_YET },
	{ "checkpoints on the host", "offload.activations=1 gradient_checkpointing=3", NULL, 0 },
	{ "tensor parallel", "parallelism.gpus=2 parallelism.tensor=2", NULL, 0 },
	{ "tensor parallel by the rule of thumb", THUMB "parallelism.gpus=2 parallelism.tensor=2", "/parallelism/tensor",
	  EST_NOT_SUPPORTED_YET },
	{ "more ranks than key_value heads", "parallelism.gpus=16 parallelism.tensor=16", "/parallelism/tensor", EST_CONTRADICTION },
	{ "tensor parallel and shards", "precision=2 parallelism.gpus=8 parallelism.tensor=2 parallelism.strategy=5", NULL, 0 },
	{ "tensor parallel, one group of ranks, shards", "parallelism.gpus=2 parallelism.tensor=2 parallelism.strategy=5", NULL, 0 },
	{ "tensor parallel and replicas", "parallelism.gpus=8 parallelism.tensor=2 parallelism.strategy=1", "/parallelism/strategy",
	  EST_CONTRADICTION },
	{ "tensor parallel and ZeRO", "parallelism.gpus=8 parallelism.tensor=2 parallelism.strategy=3", "/parallelism/strategy",
	  EST_NOT_SUPPORTED_YET },
	{ "tensor parallel and adapters", "method=1 parallelism.gpus=2 parallelism.tensor=2", NULL, 0 },
	{ "tensor parallel and adapters in a split sequence",
	  "method=1 parallelism.gpus=2 parallelism.tensor=2 parallelism.sequence_parallel=1", "/parallelism/sequence_parallel",
	  EST_NOT_SUPPORTED_YET },
	{ "tensor parallel and adapters in shards", "method=1 precision=2 parallelism.gpus=4 parallelism.tensor=2 parallelism.strategy=5",
	  "/parallelism/strategy", EST_NOT_SUPPORTED_YET },
	{ "tensor parallel and magnitudes", "method=1 lora.dora=1 parallelism.gpus=2 parallelism.tensor=2", "/lora/dora",
	  EST_NOT_SUPPORTED_YET },
	{ "tensor parallel over packed weights", "method=2 parallelism.gpus=2 parallelism.tensor=2", "/method", EST_CONTRADICTION },
	{ "tensor parallel under autocast", "precision=2 parallelism.gpus=2 parallelism.tensor=2", NULL, 0 },
	{ "a split sequence of padded batches",
	  "attention_mask=1 parallelism.gpus=2 parallelism.tensor=2 parallelism.sequence_parallel=1", "/parallelism/sequence_parallel",
	  EST_NOT_SUPPORTED_YET },
	{ "tensor parallel and quantised states", "parallelism.gpus=2 parallelism.tensor=2 optimizer=6", "/optimizer",
	  EST_NOT_SUPPORTED_YET },
	{ "the loss of a part of the words", "parallelism.gpus=2 parallelism.tensor=2 loss=4", NULL, 0 },
	{ "a part of the words of one rank alone", "loss=4", "/loss", EST_CONTRADICTION },
	{ "offload", "offload.optimizer=1", "/offload/optimizer", EST_NOT_SUPPORTED_YET },
	{ "parameters on the host", "offload.optimizer=1 offload.parameters=1", "/offload/parameters", EST_NOT_SUPPORTED_YET },
	{ "a sharded model with masters", "parallelism.gpus=8 parallelism.strategy=5", NULL, 0 },
	{ "a sharded model with masters, wrapped", "parallelism.gpus=8 parallelism.strategy=5 parallelism.wrap=1", NULL, 0 },
	{ "a sharded model stepped in its backward, wrapped",
	  "fuse_optimizer_in_backward=1 max_grad_norm=0 parallelism.gpus=8 parallelism.strategy=5 parallelism.wrap=1",
	  "/parallelism/wrap", EST_NOT_SUPPORTED_YET },
	{ "a sharded model with states of 8 bits", "optimizer=2 parallelism.gpus=8 parallelism.strategy=5", "/optimizer",
	  EST_CONTRADICTION },
	{ "a sharded model on the host",
	  "precision=2 parallelism.gpus=8 parallelism.strategy=5 offload.optimizer=1 offload.parameters=1", NULL, 0 },
	{ "a sharded optimizer on the host",
	  "precision=2 parallelism.gpus=8 parallelism.strategy=5 offload.optimizer=1", "/offload/optimizer",
	  EST_NOT_SUPPORTED_YET },
	{ "zero2's optimizer on the host", "parallelism.gpus=8 parallelism.strategy=3 offload.optimizer=1", NULL, 0 },
	{ "a disk with zero3", "parallelism.gpus=8 parallelism.strategy=4 offload.optimizer=2 offload.parameters=2", NULL, 0 },
	{ "a disk with zero2", "parallelism.gpus=8 parallelism.strategy=3 offload.optimizer=2", "/offload/optimizer",
	  EST_NOT_SUPPORTED_YET },
	{ "a disk with fsdp2", "precision=2 parallelism.gpus=8 parallelism.strategy=5 offload.optimizer=2 offload.parameters=2",
	  "/offload/parameters", EST_NOT_SUPPORTED_YET },
	{ "zero1's optimizer on the host", "parallelism.gpus=8 parallelism.strategy=2 offload.optimizer=1", NULL, 0 },
	{ "an optimizer on the host that is not replayed",
	  "precision=2 parallelism.gpus=8 parallelism.strategy=2 offload.optimizer=1", "/offload/optimizer", EST_NOT_SUPPORTED_YET },
	{ "dora", LORA "lora.dora=1", "/lora/dora", EST_NOT_SUPPORTED_YET },
	{ "an fsdp1 type", "task=2 parallelism.strategy=6 parallelism.param_dtype=0", "/parallelism/param_dtype",
	  EST_NOT_SUPPORTED_YET },
	{ "an fsdp1 switch as it is anyway", "task=2 parallelism.strategy=6 parallelism.reshard_after_forward=1", NULL, 0 },
	{ "an fsdp1 switch the other way", "task=2 parallelism.strategy=6 parallelism.reshard_after_forward=0",
	  "/parallelism/reshard_after_forward", EST_NOT_SUPPORTED_YET },
	{ "a bucket", "parallelism.strategy=4 precision=2 parallelism.buckets.reduce_bucket_size=5e8",
	  "/parallelism/buckets/reduce_bucket_size", EST_NOT_SUPPORTED_YET },
	{ "preferences on whole logits", "objective=2 reference_model=2", "/loss", EST_NOT_SUPPORTED_YET },
	{ "preferences in tiles", "objective=2 reference_model=2 loss=1", NULL, 0 },
	{ "orpo in tiles", "objective=3 loss=1", "/loss", EST_NOT_SUPPORTED_YET },
	{ "orpo", "objective=3", NULL, 0 },
	{ "kto", "objective=4 reference_model=0 loss=1", NULL, 0 },
	{ "a reward model", "objective=5", NULL, 0 },
	{ "grpo", "objective=6 beta=0.1 reference_model=0 loss=1", NULL, 0 },
	{ "grpo by the rule", THUMB "objective=6", "/objective", EST_NOT_SUPPORTED_YET },
	{ "scored sequences", "task=2", NULL, 0 },
	{ "Megatron's layers", "framework=9", NULL, 0 },
	{ "Megatron's distributed optimizer", "framework=9 parallelism.gpus=8 parallelism.strategy=2", NULL, 0 },
	{ "Megatron's ZeRO-3", "framework=9 parallelism.gpus=8 parallelism.strategy=4", "/parallelism/strategy", EST_NOT_SUPPORTED_YET },
	{ "adapters in Megatron's layers", "framework=9 method=1", "/method", EST_NOT_SUPPORTED_YET },
	{ "another precision in Megatron's layers", "framework=9 precision=2", "/precision", EST_NOT_SUPPORTED_YET },
	{ "MLX", MLX "", NULL, 0 },
	{ "MLX's LoRA", MLX "method=1 gradient_checkpointing=1 trainable_layers=8", NULL, 0 },
	{ "MLX over its own quantisation", MLX "method=2 quantization.type=6", NULL, 0 },
	{ "MLX over bitsandbytes", MLX "method=2", "/quantization/type", EST_NOT_SUPPORTED_YET },
	{ "groups that MLX does not cut", MLX "method=2 quantization.type=6 quantization.group_size=16",
	  "/quantization/group_size", EST_NOT_SUPPORTED_YET },
	{ "PEFT's preparation in MLX", MLX "method=2 quantization.type=6 quantization.prepare_kbit=1", "/quantization/prepare_kbit",
	  EST_CONTRADICTION },
	{ "MLX's quantisation elsewhere", "method=2 quantization.type=6", "/quantization/type", EST_CONTRADICTION },
	{ "MLX's Muon", MLX "optimizer=12", NULL, 0 },
	{ "MLX's Adafactor", MLX "optimizer=7", NULL, 0 },
	{ "an optimizer that MLX lacks", MLX "optimizer=2", "/optimizer", EST_NOT_SUPPORTED_YET },
	{ "MLX clipping", "framework=10 precision=4 optimizer=1", "/max_grad_norm", EST_NOT_SUPPORTED_YET },
	{ "MLX in masters", "framework=10 max_grad_norm=0 optimizer=1", "/precision", EST_NOT_SUPPORTED_YET },
	{ "MLX with FlashAttention", MLX "attention=1", "/attention", EST_NOT_SUPPORTED_YET },
	{ "MLX with Liger", MLX "liger_kernel=1", "/liger_kernel", EST_NOT_SUPPORTED_YET },
	{ "MLX's DoRA", MLX "method=1 lora.dora=1", "/lora/dora", EST_NOT_SUPPORTED_YET },
	{ "several Macs", MLX "parallelism.gpus=2 parallelism.strategy=1", "/parallelism/gpus", EST_NOT_SUPPORTED_YET },
	{ "MLX with the last layers and the head", MLX "method=3 trainable_layers=2", "/method", EST_NOT_SUPPORTED_YET },
	{ "more layers than there are in MLX", MLX "trainable_layers=4000", "/trainable_layers", EST_OUT_OF_RANGE },
	{ "MLX by the rule of thumb", THUMB "framework=10 precision=4", NULL, 0 },
	{ "torchtune's modules", "framework=7 precision=4 loss=1 gradient_checkpointing=1", NULL, 0 },
	{ "torchtune in masters", "framework=7 loss=1", "/precision", EST_NOT_SUPPORTED_YET },
	{ "torchtune's offloading", "framework=7 precision=4 loss=1 gradient_checkpointing=3", "/gradient_checkpointing",
	  EST_NOT_SUPPORTED_YET },
	{ "LitGPT's model code", "framework=8 precision=4 loss=1", NULL, 0 },
	{ "LitGPT under autocast", "framework=8 precision=2 loss=1", "/precision", EST_NOT_SUPPORTED_YET },
	{ "LitGPT's checkpoints", "framework=8 precision=4 loss=1 gradient_checkpointing=1", "/gradient_checkpointing",
	  EST_NOT_SUPPORTED_YET },
	{ "LitGPT's FSDP", "framework=8 precision=4 loss=1 parallelism.gpus=2 parallelism.strategy=5", "/parallelism/strategy",
	  EST_NOT_SUPPORTED_YET },
	{ "every precision", "precision=5", NULL, 0 },
	{ "reentrant checkpoints", "gradient_checkpointing=1 use_reentrant=1", NULL, 0 },
	{ "selective checkpoints", "gradient_checkpointing=2", NULL, 0 },
	{ "an old transformers", "versions.transformers=4045", "/versions/transformers", EST_NOT_SUPPORTED_YET },
	{ "4.48", "versions.transformers=4048 gradient_checkpointing=1", NULL, 0 },
	{ "the last of 4", "versions.transformers=4057 gradient_checkpointing=1", NULL, 0 },
	{ "4.47, its attention", "versions.transformers=4047 gradient_checkpointing=1", "/versions/transformers",
	  EST_NOT_SUPPORTED_YET },
	{ "4.48 and its cache", "versions.transformers=4048", "/versions/transformers", EST_NOT_SUPPORTED_YET },
	{ "4.48 and masks", "versions.transformers=4048 gradient_checkpointing=1 attention_mask=1", "/versions/transformers",
	  EST_NOT_SUPPORTED_YET },
	{ "4.48 and eager", "versions.transformers=4048 gradient_checkpointing=1 attention=3", "/versions/transformers",
	  EST_NOT_SUPPORTED_YET },
	{ "4.48 and Liger", "versions.transformers=4048 gradient_checkpointing=1 liger_kernel=1", "/versions/transformers",
	  EST_NOT_SUPPORTED_YET },
	{ "4.48 and another loss", "versions.transformers=4048 gradient_checkpointing=1 loss=1", "/versions/transformers",
	  EST_NOT_SUPPORTED_YET },
	{ "4.48 and preferences", "versions.transformers=4048 gradient_checkpointing=1 objective=3", "/versions/transformers",
	  EST_NOT_SUPPORTED_YET },
	{ "4.48 and another trainer", "versions.transformers=4048 gradient_checkpointing=1 framework=2",
	  "/versions/transformers", EST_NOT_SUPPORTED_YET },
	{ "4.48 and replicas", "versions.transformers=4048 gradient_checkpointing=1 parallelism.gpus=2 parallelism.strategy=1",
	  NULL, 0 },
	{ "4.48 and modules that gather by themselves",
	  "versions.transformers=4048 gradient_checkpointing=1 parallelism.gpus=2 parallelism.strategy=4", "/versions/transformers",
	  EST_NOT_SUPPORTED_YET },
	{ "4.48 by the rule", THUMB "versions.transformers=4048", NULL, 0 },
	{ "a new transformers", "versions.transformers=5023", NULL, 0 },
};

START_TEST(accepts_or_points_at_the_fault)
{
	struct est_model model = llama();
	struct est_request request;
	struct est_faults faults = { 0 };
	size_t i;
	bool right;

	set_fields(&request, cases[_i].fields);
	request.every_n_layers = 32;
	right = est_check(&request, &model, &faults);
	ck_assert_int_eq(right, faults.count == 0);
	ck_assert_msg((faults.count > 0) == (cases[_i].pointer != NULL), "%s: %s %s", cases[_i].name,
		      faults.item[0].pointer, faults.item[0].detail);
	/* What is contradicted may not be modelled either; that is told too, and nothing else. */
	for (i = 1; i < faults.count; i++)
		ck_assert_msg(faults.item[i].code == EST_NOT_SUPPORTED_YET, "%s: %s %s", cases[_i].name,
			      faults.item[i].pointer, faults.item[i].detail);
	if (!cases[_i].pointer)
		return;
	ck_assert_str_eq(faults.item[0].pointer, cases[_i].pointer);
	ck_assert_msg(faults.item[0].code == cases[_i].code, "%s: %s", cases[_i].name, faults.item[0].detail);
}
END_TEST

/* Changes to the model that the rules notice. */
static void refuse_sdpa(struct est_model *model)
{
	model->refuses_sdpa = true;
}

static void refuse_package(struct est_model *model)
{
	model->refuses_flash = true;
}

static void refuse_flash(struct est_model *model)
{
	model->refuses_flash = model->refuses_sdpa = true;
}

static void learn_positions(struct est_model *model)
{
	model->position = EST_LEARNED_POSITIONS;
	model->max_position_embeddings = 1024;
}

static void tabulate_positions(struct est_model *model)
{
	model->architecture = EST_ARCH_GPTJ;
	model->max_position_embeddings = 1024;
}

static void forget_positions(struct est_model *model)
{
	model->position = EST_LEARNED_POSITIONS;
	model->max_position_embeddings = 0;
}

static void forget_architecture(struct est_model *model)
{
	model->architecture = EST_ARCH_UNSUPPORTED;
}

static void give_reason(struct est_model *model)
{
	model->unsupported = "state space models are not modelled yet";
}

static void add_experts(struct est_model *model)
{
	model->num_experts = 8;
}

static void become_mixtral(struct est_model *model)
{
	model->architecture = EST_ARCH_MIXTRAL;
	model->num_experts = 8;
	model->num_experts_per_tok = 2;
	model->moe_intermediate_size = model->intermediate_size;
}

static void name_mixtral(struct est_model *model)
{
	become_mixtral(model);
	snprintf(model->model_type, sizeof(model->model_type), "mixtral");
}

static void name_qwen(struct est_model *model)
{
	snprintf(model->model_type, sizeof(model->model_type), "qwen2");
}

static void name_bigcode(struct est_model *model)
{
	model->architecture = EST_ARCH_GPT_BIGCODE;
	snprintf(model->model_type, sizeof(model->model_type), "gpt_bigcode");
}

static void name_larger_mixtral(struct est_model *model)
{
	name_mixtral(model);
	model->num_experts = 16;
}

static void become_deepseek(struct est_model *model)
{
	model->architecture = EST_ARCH_DEEPSEEK_V3;
	model->kv_lora_rank = 512;
	model->qk_nope_head_dim = 64;
	model->qk_rope_head_dim = 64;
	model->v_head_dim = 64;
	model->n_group = model->topk_group = 1;
}

static void become_gpt2(struct est_model *model)
{
	model->architecture = EST_ARCH_GPT2;
}

static void drop_attention(struct est_model *model)
{
	model->attention_dropout = 0.1;
}

static void widen_heads(struct est_model *model)
{
	model->head_dim = 256;
}

static void become_bamba(struct est_model *model)
{
	model->architecture = EST_ARCH_BAMBA;
	model->ssm_num_heads = 32;
	model->ssm_head_dim = 64;
	model->ssm_num_groups = 1;
	model->ssm_state_size = 128;
	model->ssm_chunk_size = 256;
	model->conv_kernel = 4;
	model->layer_kinds[0] = EST_LAYER_MIXES;
}

static void widen_convolutions(struct est_model *model)
{
	become_bamba(model);
	model->conv_kernel = 5;
}

static void add_sinks(struct est_model *model)
{
	model->attention_sinks = model->refuses_sdpa = true;
}

static void blow_up(struct est_model *model)
{
	model->parameters = INT64_C(1) << 60;
}

static void complete_llama(struct est_model *model)
{
	model->gated_mlp = true;
	model->activation = EST_SILU;
	model->partial_rotary_factor = 1;
}

static void complete_qwen2(struct est_model *model)
{
	complete_llama(model);
	model->qkv_bias = true;
}

static const struct {
	const char *name;
	void (*change)(struct est_model *model);
	const char *fields, *pointer;
	enum est_fault_code code;
} models[] = {
	{ "sdpa where it is refused", refuse_sdpa, "", "/attention", EST_CONTRADICTION },
	{ "a forced kernel where sdpa is refused", refuse_sdpa, "attention=8", "/attention", EST_CONTRADICTION },
	{ "flash attention where sdpa is refused", refuse_sdpa, "attention=1", NULL, 0 },
	{ "another kernel where sdpa is refused", refuse_sdpa, "attention=4", NULL, 0 },
	{ "flex attention where its class refuses it", become_gpt2, "attention=4", "/attention", EST_CONTRADICTION },
	{ "flex attention with dropout", drop_attention, "attention=4", "/attention", EST_CONTRADICTION },
	{ "dropout of other attention", drop_attention, "attention=1", NULL, 0 },
	{ "cuDNN's attention of wide heads", widen_heads, "attention=7", "/attention", EST_CONTRADICTION },
	{ "flash attention of wide heads", widen_heads, "attention=1", NULL, 0 },
	{ "eager where sdpa is refused", refuse_sdpa, "attention=3", NULL, 0 },
	{ "sdpa where there is only eager", refuse_flash, "", "/attention", EST_CONTRADICTION },
	{ "flash attention where there is only eager", refuse_flash, "attention=1", "/attention", EST_CONTRADICTION },
	{ "eager where there is only eager", refuse_flash, "attention=3", NULL, 0 },
	{ "a package of flash attention where the class refuses it", refuse_package, "attention=1", "/attention", EST_CONTRADICTION },
	{ "sdpa where only the packages are refused", refuse_package, "", NULL, 0 },
	{ "kernels of Mamba-2", become_bamba, "versions.mamba_ssm=2003 versions.causal_conv1d=1007", NULL, 0 },
	{ "those without convolutions", become_bamba, "versions.mamba_ssm=2003", "/versions/mamba_ssm", EST_CONTRADICTION },
	{ "convolutions without those", become_bamba, "versions.causal_conv1d=1007", NULL, 0 },
	{ "wide convolutions by kernels", widen_convolutions, "versions.causal_conv1d=1007", "/versions/causal_conv1d", EST_CONTRADICTION },
	{ "a packed weight for kernels of Mamba-2", become_bamba, "method=2 versions.mamba_ssm=2003 versions.causal_conv1d=1007", "/method",
	  EST_CONTRADICTION },
	{ "beyond the table of rotations", tabulate_positions, "sequence_length=1025", "/sequence_length",
	  EST_CONTRADICTION },
	{ "beyond the learned positions", learn_positions, "sequence_length=1025", "/sequence_length",
	  EST_CONTRADICTION },
	{ "all learned positions", learn_positions, "sequence_length=1024", NULL, 0 },
	{ "an unknown architecture", forget_architecture, "", "/model", EST_NOT_SUPPORTED_YET },
	{ "an unknown architecture by the rule", forget_architecture, THUMB, NULL, 0 },
	{ "a model with a reason", give_reason, "", "/model", EST_NOT_SUPPORTED_YET },
	{ "a mixture by replay", become_mixtral, "", NULL, 0 },
	{ "adapters on experts", become_mixtral, LORA, NULL, 0 },
	{ "4.48's experts", name_mixtral, "versions.transformers=4048 gradient_checkpointing=1", NULL, 0 },
	{ "4.48's GPTBigCode", name_bigcode, "versions.transformers=4048 gradient_checkpointing=1 attention=1", NULL, 0 },
	{ "4.48's GPTBigCode and its masks", name_bigcode, "versions.transformers=4048 gradient_checkpointing=1",
	  "/versions/transformers", EST_NOT_SUPPORTED_YET },
	{ "4.54's GPTBigCode", name_bigcode, "versions.transformers=4054 gradient_checkpointing=1 attention=1",
	  "/versions/transformers", EST_NOT_SUPPORTED_YET },
	{ "the first Qwen", name_qwen, "versions.transformers=4032 gradient_checkpointing=1 attention=1 precision=4", NULL, 0 },
	{ "the first Qwen in batches", name_qwen,
	  "versions.transformers=4032 gradient_checkpointing=1 attention=1 precision=4 micro_batch_size=2", "/versions/transformers",
	  EST_NOT_SUPPORTED_YET },
	{ "Qwen2 before 4.48", name_qwen, "versions.transformers=4037 gradient_checkpointing=1 attention=1 precision=4",
	  "/versions/transformers", EST_NOT_SUPPORTED_YET },
	{ "16 of 4.48's experts", name_larger_mixtral, "versions.transformers=4048 gradient_checkpointing=1",
	  "/versions/transformers", EST_NOT_SUPPORTED_YET },
	{ "adapters on 4.48's experts", name_mixtral, "versions.transformers=4048 gradient_checkpointing=1 method=1",
	  "/versions/transformers", EST_NOT_SUPPORTED_YET },
	{ "fused experts in hqq", become_mixtral, "method=2 quantization.type=4", "/quantization/type", EST_NOT_SUPPORTED_YET },
	{ "fused experts in gptq", become_mixtral, "method=2 quantization.type=3", "/quantization/type", EST_NOT_SUPPORTED_YET },
	{ "experts dealt out", become_mixtral, TITAN "parallelism.gpus=8 parallelism.expert=4", NULL, 0 },
	{ "experts dealt out within replicas", become_mixtral,
	  TITAN "parallelism.strategy=7 parallelism.gpus=8 parallelism.shard_size=4 parallelism.expert=4", NULL, 0 },
	{ "more ranks than experts", become_mixtral, TITAN "parallelism.gpus=32 parallelism.expert=16", "/parallelism/expert", EST_CONTRADICTION },
	{ "ranks that do not divide the experts", become_mixtral, TITAN "parallelism.gpus=9 parallelism.expert=3", "/parallelism/expert",
	  EST_CONTRADICTION },
	{ "experts' ranks among others", become_mixtral, TITAN "parallelism.gpus=6 parallelism.expert=4", "/parallelism/expert",
	  EST_CONTRADICTION },
	{ "experts' ranks across replicas", become_mixtral,
	  TITAN "parallelism.strategy=7 parallelism.gpus=8 parallelism.shard_size=2 parallelism.expert=4", "/parallelism/expert",
	  EST_CONTRADICTION },
	{ "rows of an expert that do not divide", become_mixtral, TITAN "parallelism.gpus=24 parallelism.expert=8", "/parallelism/expert",
	  EST_CONTRADICTION },
	{ "experts dealt out without shards", become_mixtral, TITAN "parallelism.strategy=1 parallelism.gpus=8 parallelism.expert=4",
	  "/parallelism/strategy", EST_CONTRADICTION },
	{ "experts dealt out by DeepSpeed", become_mixtral, TITAN "parallelism.strategy=4 parallelism.gpus=8 parallelism.expert=4",
	  "/parallelism/strategy", EST_NOT_SUPPORTED_YET },
	{ "experts dealt out by Transformers", become_mixtral,
	  "precision=2 parallelism.strategy=5 parallelism.gpus=8 parallelism.expert=4", "/framework", EST_NOT_SUPPORTED_YET },
	{ "experts dealt out in stages", become_mixtral, TITAN "parallelism.gpus=8 parallelism.pipeline=2 parallelism.expert=4",
	  "/parallelism/pipeline", EST_NOT_SUPPORTED_YET },
	{ "experts dealt out and matrices of a kind", become_mixtral, TITAN "optimizer=12 parallelism.gpus=8 parallelism.expert=4", "/optimizer",
	  EST_NOT_SUPPORTED_YET },
	{ "experts dealt out in fp32", become_mixtral, TITAN "parallelism.param_dtype=2 parallelism.gpus=8 parallelism.expert=4",
	  "/parallelism/param_dtype", EST_NOT_SUPPORTED_YET },
	{ "experts dealt out by the rule", become_mixtral, THUMB "parallelism.gpus=8 parallelism.strategy=5 parallelism.expert=4",
	  "/parallelism/expert", EST_NOT_SUPPORTED_YET },
	{ "dropout of adapted experts", become_mixtral, LORA "lora.dropout=0.1", "/lora/dropout", EST_CONTRADICTION },
	{ "DoRA of adapted experts", become_mixtral, LORA "lora.dora=1", "/lora/dora", EST_CONTRADICTION },
	{ "adapted experts in shards", become_mixtral, SHARED_EXPERTS "parallelism.strategy=5", NULL, 0 },
	{ "adapted experts in shards of replicas", become_mixtral, SHARED_EXPERTS "parallelism.strategy=7 parallelism.shard_size=4", NULL, 0 },
	{ "adapted experts in flat parameters", become_mixtral, SHARED_EXPERTS "parallelism.strategy=6 parallelism.use_orig_params=1",
	  "/lora/target_modules", EST_CONTRADICTION },
	{ "adapted experts in units of their own", become_mixtral, SHARED_EXPERTS "parallelism.strategy=5 parallelism.wrap=2",
	  "/parallelism/wrap", EST_NOT_SUPPORTED_YET },
	{ "selective checkpoints of a mixture", become_mixtral, "gradient_checkpointing=2", "/gradient_checkpointing",
	  EST_NOT_SUPPORTED_YET },
	{ "flash attention of latent heads", become_deepseek, "attention=1", "/attention", EST_NOT_SUPPORTED_YET },
	{ "latent heads", become_deepseek, "", NULL, 0 },
	{ "flex attention of latent heads", become_deepseek, "attention=4", "/attention", EST_NOT_SUPPORTED_YET },
	{ "flex attention with sinks", add_sinks, "attention=4", "/attention", EST_NOT_SUPPORTED_YET },
	{ "flash attention with sinks", add_sinks, "attention=1", "/attention", EST_NOT_SUPPORTED_YET },
	{ "experts by replay", add_experts, "", "/model", EST_NOT_SUPPORTED_YET },
	{ "experts that divide, not modelled", add_experts, THUMB "parallelism.expert=4", "/parallelism/expert",
	  EST_NOT_SUPPORTED_YET },
	{ "compile of layers", complete_llama, "framework=6 torch_compile=1 gradient_checkpointing=1 precision=4", NULL, 0 },
	{ "compile of layers with biases", complete_qwen2, "framework=6 torch_compile=1 precision=4", "/torch_compile",
	  EST_NOT_SUPPORTED_YET },
	{ "compile of a whole model", complete_llama, "torch_compile=1 precision=4", NULL, 0 },
	{ "compile of a whole model under autocast", complete_qwen2, "torch_compile=1 precision=2 outputs_to_fp32=1 gradient_checkpointing=1",
	  NULL, 0 },
	{ "compile of a whole mixture", become_mixtral, "torch_compile=1 precision=4", "/torch_compile", EST_NOT_SUPPORTED_YET },
	{ "compile of a model with adapters", complete_llama, ADAPTED "precision=2", NULL, 0 },
	{ "compile of its checkpoints", complete_llama, ADAPTED "precision=2 gradient_checkpointing=1",
	  "/torch_compile", EST_NOT_SUPPORTED_YET },
	{ "compile of DoRA", complete_llama, ADAPTED "precision=2 lora.dora=1", "/torch_compile",
	  EST_NOT_SUPPORTED_YET },
	{ "compile of a narrow rank", complete_llama, ADAPTED "precision=2 lora.rank=4", "/torch_compile",
	  EST_NOT_SUPPORTED_YET },
	{ "compile of a quantised model", complete_llama, "method=2 torch_compile=1 precision=2", "/torch_compile",
	  EST_NOT_SUPPORTED_YET },
	{ "compile of reentrant checkpoints", complete_llama, "torch_compile=1 precision=4 gradient_checkpointing=1 use_reentrant=1",
	  "/torch_compile", EST_NOT_SUPPORTED_YET },
	{ "compile of a whole model by trl", complete_llama, "framework=1 torch_compile=1 precision=4", "/torch_compile",
	  EST_NOT_SUPPORTED_YET },
	{ "compile of a whole model on two GPUs", complete_llama, "torch_compile=1 precision=4 parallelism.gpus=2 parallelism.strategy=1",
	  "/torch_compile",
	  EST_NOT_SUPPORTED_YET },
	{ "compile around a package", complete_llama, "torch_compile=1 precision=4 attention=1", "/torch_compile",
	  EST_NOT_SUPPORTED_YET },
	{ "compile of fp16", complete_llama, "torch_compile=1 precision=5", "/torch_compile", EST_NOT_SUPPORTED_YET },
	{ "compile with Liger's kernels", complete_llama, "torch_compile=1 precision=4 liger_kernel=1", "/torch_compile",
	  EST_NOT_SUPPORTED_YET },
	{ "compile of an odd length", complete_llama, "torch_compile=1 precision=4 sequence_length=1001", "/torch_compile",
	  EST_NOT_SUPPORTED_YET },
	{ "compile by another torch", complete_llama, "torch_compile=1 precision=4 versions.torch=2014", "/torch_compile",
	  EST_NOT_SUPPORTED_YET },
	{ "compile by LitGPT", complete_llama, "framework=8 torch_compile=1 precision=4", "/torch_compile", EST_NOT_SUPPORTED_YET },
	{ "learned positions without number", forget_positions, "sequence_length=65536", NULL, 0 },
	{ "experts that do not divide", add_experts, THUMB "parallelism.expert=3", "/parallelism/expert",
	  EST_CONTRADICTION },
	{ "more parameters than bytes can count", blow_up, THUMB, "/model", EST_OUT_OF_RANGE },
};

START_TEST(looks_at_the_model)
{
	struct est_model model = llama();
	struct est_request request;
	struct est_faults faults = { 0 };

	models[_i].change(&model);
	set_fields(&request, models[_i].fields);
	est_check(&request, &model, &faults);
	ck_assert_msg((faults.count > 0) == (models[_i].pointer != NULL), "%s: %s %s", models[_i].name,
		      faults.item[0].pointer, faults.item[0].detail);
	if (!models[_i].pointer)
		return;
	ck_assert_str_eq(faults.item[0].pointer, models[_i].pointer);
	ck_assert_int_eq(faults.item[0].code, models[_i].code);
	if (model.unsupported)
		ck_assert_str_eq(faults.item[0].detail, model.unsupported);
}
END_TEST

START_TEST(says_whose_layers_mlx_has)
{
	struct est_model model = llama();
	struct est_request request;
	struct est_faults faults = { 0 };

	model.architecture = EST_ARCH_GEMMA2;
	strcpy(model.model_type, "gemma2");
	set_fields(&request, MLX "");
	ck_assert(!est_check(&request, &model, &faults));
	ck_assert_uint_eq(faults.count, 1);
	ck_assert_str_eq(faults.item[0].pointer, "/model");
	ck_assert_ptr_nonnull(strstr(faults.item[0].detail, "llama, mistral, qwen2 and qwen3 are")); /* the end: not cut off */
}
END_TEST

START_TEST(tells_a_refused_default_from_a_named_value)
{
	struct est_model model = llama();
	struct est_request request;
	struct est_faults faults = { 0 };

	est_request_init(&request);
	request.accounting = EST_RULE_OF_THUMB;
	request.objective = EST_DPO;
	est_check(&request, &model, &faults);
	ck_assert_uint_eq(faults.count, 1);
	ck_assert_ptr_nonnull(strstr(faults.item[0].detail, "the default here"));
	ck_assert_ptr_nonnull(strstr(faults.item[0].detail, "dpo"));
}
END_TEST

START_TEST(tells_every_contradiction_at_once)
{
	struct est_model model = llama();
	struct est_request request;
	struct est_faults faults = { 0 };

	set_fields(&request,
			"lora.rank=8 trainable_layers=2 parallelism.gpus=3 parallelism.strategy=4 loss=4 method=0");
	ck_assert(!est_check(&request, &model, &faults));
	ck_assert_uint_eq(faults.count, 3);
}
END_TEST

/* No value that a field accepts by itself may make est_check() do anything but accept or refuse: the smallest and the
 * largest of every number, every word, in a replay and by the rule of thumb. */
START_TEST(survives_the_ends_of_every_range)
{
	const struct est_field *field = &est_request_fields[_i % (int)est_request_field_count];
	struct est_model model = llama();
	struct est_request request;
	int value;

	if (field->kind >= EST_FIELD_MODEL)
		return;
	for (value = -1; value < 20; value++) {
		struct est_faults faults = { 0 };
		bool right;

		est_request_init(&request);
		request.accounting = _i < (int)est_request_field_count ? EST_REPLAY : EST_RULE_OF_THUMB;
		if (field->kind == EST_FIELD_INT)
			est_field_set(field, &request, value < 0 ? field->min : field->max);
		else if (field->kind == EST_FIELD_WORD && !*est_word_name(field->words, value))
			continue;
		else if (value >= 0)
			est_field_set(field, &request, value);
		est_request_name(&request, field);
		right = est_check(&request, &model, &faults);
		ck_assert_msg(right == (faults.count == 0), "%s", field->name);
		ck_assert_msg(right || faults.item[0].pointer[0] == '/', "%s", field->name);
	}
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("check");
	TCase *rules = tcase_create("rules");

	tcase_add_loop_test(rules, accepts_or_points_at_the_fault, 0, sizeof(cases) / sizeof(cases[0]));
	tcase_add_loop_test(rules, looks_at_the_model, 0, sizeof(models) / sizeof(models[0]));
	tcase_add_test(rules, says_whose_layers_mlx_has);
	tcase_add_test(rules, tells_a_refused_default_from_a_named_value);
	tcase_add_test(rules, tells_every_contradiction_at_once);
	tcase_add_loop_test(rules, survives_the_ends_of_every_range, 0, 2 * (int)est_request_field_count);
	suite_add_tcase(suite, rules);
	return run_suite(suite);
}
