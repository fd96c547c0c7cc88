/* What a report says of itself: what was assumed, and what its figures leave out. */
#include "estimator/notes.h"
#include "estimator/adapters.h"
#include "estimator/compile.h"
#include "estimator/framework.h"
#include "estimator/generation.h"
#include "estimator/kernels.h"
#include "estimator/megatron.h"
#include "estimator/mlx.h"
#include "estimator/objective.h"
#include "estimator/router_loss.h"
#include "estimator/schedule.h"
#include "estimator/sharding.h"
#include "estimator/tensor_parallel.h"
#include "estimator/words.h"
#include "estimator/zero.h"
#include "estimator/zero3.h"

static void note_kernel(const struct est_request *request, const struct est_model *model, struct est_report *report)
{
	bool old = est_is_old_transformers(&request->versions);

	if (request->method != EST_QLORA)
		return;
	if (est_is_left_dense(request, model))
		est_note_add(&report->warnings, "/quantization/type", "",
			     "Transformers 5 does not quantise Falcon's linear layers, which are of a class of their own: they stay in base_dtype");
	if (request->quantization.type == EST_HQQ)
		est_note_add(&report->assumptions, "/quantization/type", "hqq",
			     "hqq's default backend, which dequantises by PyTorch's operators and keeps each layer's input; scales and zeros in 16 "
			     "bits; prepare_kbit casts nothing over HQQ");
	if (request->quantization.type == EST_MXFP4)
		est_note_add(&report->assumptions, "/quantization/type", "mxfp4",
			     "Transformers does not train over MXFP4: dequantised to base_dtype while loaded (Mxfp4Config(dequantize=True))");
	if (request->quantization.type == EST_INT8 && request->quantization.llm_int8_threshold > 0)
		est_note_add(&report->assumptions, "/quantization/type", "int8",
			     "every input has outliers, in 8 columns; the upper figures have room for inputs without any, whose products stay in "
			     "their type");
	if (request->quantization.type != EST_GPTQ)
		return;
	est_note_add(&report->assumptions, "/quantization/type", "gptq",
		     old ? "AutoGPTQ's Triton kernel, which dequantises again in the backward; the upper figures have room for one that "
			   "keeps the dequantised weights"
			 : "GPT-QModel's kernel for training, of whose product autograd keeps the dequantised weight; prepare_kbit casts "
			   "nothing over GPTQ");
}

static void note_pipeline(const struct est_request *request, const struct est_model *model, struct est_report *report)
{
	const struct est_parallelism *p = &request->parallelism;

	(void)model;
	if (p->pipeline <= 1)
		return;
	est_note_add(&report->assumptions, "/parallelism/pipeline", "",
		     "stages of torch.distributed.pipelining under %s, cut as torchtitan cuts them: the embedding counts as a layer, "
		     "norm and head as another, the first stages take what is left over; each receives into a buffer of its own for each "
		     "micro-batch; a tied embedding has a copy in the first and in the last",
		     p->virtual_stages > 1 ? "ScheduleInterleaved1F1B" : "Schedule1F1B");
	if (p->virtual_stages > 1)
		est_note_add(&report->assumptions, "/parallelism/virtual_stages", "",
			     "rank i of p has the stages i, i + p and so on; whatever it sends, forward and backward, is held to the end of the "
			     "step, as torch 2.13 waits for all sends there");
	est_note_add(&report->assumptions, "/gradient_accumulation_steps", "", "the micro-batches of a step in the pipeline");
	if (request->gradient_accumulation_steps < p->pipeline)
		est_note_add(&report->warnings, "/gradient_accumulation_steps", "",
			     "fewer micro-batches than ranks, which torch's Schedule1F1B refuses: with %lld or more the first ones hold more",
			     (long long)p->pipeline);
}

static void note_context(const struct est_request *request, const struct est_model *model, struct est_report *report)
{
	const struct est_parallelism *p = &request->parallelism;

	(void)model;
	if (est_is_ulysses(request))
		est_note_add(&report->assumptions, "/parallelism/context", "ulysses",
			     "DeepSpeed's UlyssesSPAttentionHF: sequence_length / context tokens of each sequence, but in attention all of them of heads / context; "
			     "ZeRO shares states over all ranks, and reduces gradients in fp32");
	else if (p->context > 1)
		est_note_add(&report->assumptions, "/parallelism/context", "allgather",
			     "the last rank of torch's context_parallel(): sequence_length / context tokens of each sequence; each layer gathers all keys "
			     "and values at once and merges what the kernel gives for each rank in fp32");
	if (p->tensor > 1 && (p->context > 1 || p->pipeline > 1))
		est_note_add(&report->warnings, "/parallelism/tensor", "",
			     "with pipeline or context both splits are replayed, each as it is held against traces alone; together they are not");
	if (p->context > 1 || p->pipeline > 1)
		est_note_add(&report->assumptions, "/parallelism", "",
			     "NCCL's buffers are outside PyTorch's allocator: 0.3 to 0.9 GiB for a group of ranks that reduce or gather over NVLink, 1 to 3 GiB "
			     "for one whose ranks send to each other");
}

static void note_experts(const struct est_request *request, const struct est_model *model, struct est_report *report)
{
	const struct est_parallelism *p = &request->parallelism;

	(void)model;
	if (p->expert <= 1)
		return;
	est_note_add(&report->assumptions, "/parallelism/expert", "alltoall",
		     "torchtitan 0.2.2's ExpertParallel and mixture in the layers of Transformers: tokens are shared evenly among the experts; the upper "
		     "figures have room for a rank that is sent twice its share. Without load balancing one may be sent more");
	est_note_add(&report->assumptions, "/parallelism", "",
		     "NCCL's buffers are outside PyTorch's allocator: 1 to 3 GiB for a group of ranks that send to each other, as experts' do");
}

static void note_unsloth(const struct est_request *request, const struct est_model *model, struct est_report *report)
{
	(void)model;
	if (request->framework == EST_UNSLOTH)
		est_note_add(&report->assumptions, "/framework", "unsloth",
			     "Unsloth of August 2026 over Llama's forward: padding and packing change nothing, attention takes grouped heads as "
			     "they are, two buffers bring checkpoints back from the host, and the loss is compiled, in chunks of 4 GiB of "
			     "fp32 logits at most; the upper figures have room for one such chunk more");
}

static void note_limits(const struct est_request *request, const struct est_model *model, struct est_report *report)
{
	if (est_sharding_is_static(request))
		est_note_add(&report->warnings, "/parallelism/strategy", "",
			     "sharding is static so far: what is gathered, bucketed or prefetched on the way is left out of the expected "
			     "figures; the upper ones have room for it");
	if (model->vision.tower != EST_TOWER_NONE)
		est_note_add(&report->warnings, "/model", model->id,
			     "batches without images: the vision tower is weights, whose gradients and states, where it is trained, the upper "
			     "figures have room for; what images take on their way through it is in none of these figures");
	if (model->caches_in_training && request->framework != EST_TRL && request->checkpointing == EST_CHECKPOINT_NONE)
		est_note_add(&report->assumptions, "/gradient_checkpointing", "none",
			     "the Trainer's use_cache=False does not reach the language model's part of the configuration: a cache of keys "
			     "and values is filled in training");
	if (model->num_experts > 0 && est_is_old_transformers(&request->versions))
		est_note_add(&report->assumptions, "/model", "", "tokens are shared evenly among the experts, which run one by one");
	else if (request->method == EST_QLORA && model->num_experts > 0)
		est_note_add(&report->warnings, "/method", "",
			     "the experts stay as they are: Transformers 5 keeps them in 3-D parameters, and bitsandbytes replaces linear layers "
			     "only; prepare_kbit then casts them to fp32 with the rest");
	if (est_zero_wanted(request))
		est_note_add(&report->assumptions, "/parallelism/strategy", "",
			     "replayed as rank 0 of DeepSpeed 0.19, all parameters in one group; the upper figures have room for the parameters "
			     "that another rank's part may cut through");
	else if (est_zero3_wanted(request))
		est_note_add(&report->assumptions, "/parallelism/strategy", "",
			     "replayed as one rank of DeepSpeed 0.19 in the order in which Transformers 5 calls the modules%s%s",
			     request->method == EST_QLORA ? "; bitsandbytes' products hold the weights that were gathered for them as long as "
							    "the graph lives, so that a step has all of them at once" : "",
			     request->offload.optimizer == EST_ON_NVME || request->offload.parameters == EST_ON_NVME
				     ? "; what is on a disk passes through pinned buffers of DeepSpeed's default sizes" : "");
	else if (est_has_master(request))
		est_note_add(&report->assumptions, "/precision", "",
			     "the step makes an fp32 gradient for every master weight at once (4 bytes a parameter); an optimizer that steps in "
			     "buckets needs less, DeepSpeed's flattened copy 2 bytes more");
}

/* What "bf16": {"enabled": true} makes is not what the same word means of a Trainer without DeepSpeed. */
static void note_deepspeed(const struct est_request *request, const struct est_model *model, struct est_report *report)
{
	enum est_precision precision = request->precision;

	(void)model;
	if (est_is_zero(request->parallelism.strategy) && request->framework < EST_MEGATRON && !est_has_master(request)
	    && precision != EST_PURE_FP32)
		est_note_add(&report->warnings, "/precision", est_word_name(est_precision_words, (int)precision),
			     "with its bf16 or fp16 on DeepSpeed's engine trains 16-bit weights under fp32 masters, whatever the Trainer's own precision "
			     "is: that is bf16_master or fp16_master; %s", est_is_mixed(precision) || precision == EST_BF16_AUTOCAST
			     ? "this is a run under its torch_autocast alone" : "this is one without masters");
}

static void note_tensor(const struct est_request *request, const struct est_model *model, struct est_report *report)
{
	const struct est_names *targets = &request->lora.target_modules;

	if (request->parallelism.tensor <= 1)
		return;
	est_note_add(&report->assumptions, "/parallelism/tensor", "",
		     "split by DTensor as the plans of torchtitan and Transformers do it: embedding, head, attention and MLP, a tied head being tied again; "
		     "every rank has the embedding's gradient whole until it is reduced%s",
		     est_tensor_surplus(request, model)
			     ? "; the upper figures have room for an embedding that is whole, as older plans of Transformers' models leave it" : "");
	if (est_has_adapters(request) && (est_is_target(targets, "o_proj") || est_is_target(targets, "down_proj")))
		est_note_add(&report->warnings, "/lora/target_modules", "",
			     "adapters are cut as their layers are: of o_proj and down_proj lora_A, as PEFT 0.21 does it; with Transformers 5.23 those fail "
			     "in the forward, which reads the whole width from lora_A (5.18 does not)");
}

static void note_torchtitan(const struct est_request *request, const struct est_model *model, struct est_report *report)
{
	if (est_framework_surplus(request, model))
		est_note_add(&report->warnings, "/framework", est_word_name(est_framework_words, (int)request->framework),
			     "the experts are Transformers'; torchtitan's weigh what they give in fp32: the upper figures have room for it");
	if (est_compiles_layers(request))
		est_note_add(&report->assumptions, "/torch_compile", "true",
			     "each layer is one graph with its checkpoint, in the order that inductor chooses for long sequences; the upper figures have "
			     "room for temporaries in another%s",
			     est_compiles_loss(request) ? "" : "; the loss is not compiled, as with versions.torch 2.8: the lower figures are with that");
	if (est_compile_falls_back(request))
		est_note_add(&report->assumptions, "/torch_compile", "true",
			     "the layers run uncompiled: the flash attention package ends the compiled graph within each checkpoint, and "
			     "torch.utils.checkpoint then runs outside of it");
}

static void note_compiled_model(const struct est_request *request, const struct est_model *model, struct est_report *report)
{
	(void)model;
	if (!est_compiles_model(request))
		return;
	est_note_add(&report->assumptions, "/torch_compile", "true",
		     "the whole model is one graph with its loss, and attention is given a mask, as torch 2.13's inductor compiles it by "
		     "default: no mode, and every batch of one shape");
	est_note_add(&report->assumptions, "/torch_compile", "true",
		     "the upper figures have room for temporaries in another order and, reserved, for one more of the largest segments: the "
		     "logits' or the embedding's gradient's");
}

static void note_adapters(const struct est_request *request, const struct est_model *model, struct est_report *report)
{
	bool flat = request->parallelism.strategy == EST_FSDP1 && est_has_adapters(request) && est_is_mixed(request->precision);

	(void)model;
	if ((flat || est_upcasts_adapters(request)) && request->lora.adapter_dtype != EST_FP32)
		est_note_add(&report->assumptions, "/lora/adapter_dtype", "fp32",
			     "under mixed precision accelerate casts what FSDP trains to fp32: so the adapters lie and are stepped");
}

static void note_framework(const struct est_request *request, const struct est_model *model, struct est_report *report)
{
	const char *framework = est_word_name(est_framework_words, (int)request->framework);

	(void)model;
	if (request->framework == EST_TORCHTUNE)
		est_note_add(&report->assumptions, "/framework", framework,
			     "torchtune's own modules as of 0.4 and after 0.6; 0.5 to 0.6.1 keep 2 bytes a feature more of each trained norm");
	if (request->framework != EST_LITGPT)
		return;
	est_note_add(&report->assumptions, "/framework", framework,
		     "LitGPT's model code and fine-tuning loops of 2024, with Lightning's precision plugins and bitsandbytes 0.42");
	est_note_add(&report->assumptions, "/sequence_length", "",
		     "the logits of a batch (with QLoRA its layers' inputs too) live until those of the next are there: the batch before is taken "
		     "to be as long; where it was short the lower figures hold. The scripts of 2023 (torch 2.1) began with the longest");
}

/* What a reference model is to ranks that share it, which few expect. */
static void note_reference(const struct est_request *request, const struct est_model *model, struct est_report *report)
{
	(void)model;
	if (est_objective_holds_reference(request) && est_is_fsdp2(request->parallelism.strategy) && est_schedule_wanted(request))
		est_note_add(&report->assumptions, "/reference_model", "model",
			     "TRL shards the reference as one unit: while it runs all of it is gathered, and once more while it is copied out; "
			     "precomputed log-probabilities (reference_model: precomputed) need none of it");
}

static void note_objective(const struct est_request *request, const struct est_model *model, struct est_report *report)
{
	const char *loss = est_word_name(est_loss_words, (int)request->loss);
	const char *objective = est_word_name(est_objective_words, (int)request->objective);

	if (request->loss == EST_LOSS_CUT_CROSS_ENTROPY)
		est_note_add(&report->warnings, "/loss", loss,
			     "modelled from its source, not held against a trace; its variants that accumulate the head's gradient in fp32 need "
			     "4 bytes more for each of the head's elements");
	if (est_chunks_words(request))
		est_note_add(&report->assumptions, "/loss", loss, "prime-rl's fused head: all positions by 2,048 words at a time");
	else if (request->loss == EST_LOSS_CHUNKED && request->framework != EST_TRL && request->framework != EST_UNSLOTH
		 && est_models_language(request))
		est_note_add(&report->assumptions, "/loss", loss, "tiles as TRL 1.16 cuts them: 4,096 positions by 32,768 words");
	if (est_router_loss_wanted(request, model))
		est_note_add(&report->assumptions, "/loss", loss,
			     "TRL adds the loss that balances the routers: router_aux_loss_coef is not 0 in the model's config.json");
	else if (request->loss == EST_LOSS_CHUNKED && model->architecture == EST_ARCH_LLAMA4)
		est_note_add(&report->warnings, "/loss", loss,
			     "TRL adds the routers' auxiliary loss: about 4 bytes for each token, expert and sparse layer, not in these figures");
	if (est_has_adapters(request) && request->lora.dropout > 0 && est_objective_disables_dropout(request))
		est_note_add(&report->assumptions, "/lora/dropout", "", "TRL switches every dropout off for it: disable_dropout is true");
	if (request->objective == EST_GRPO)
		est_note_add(&report->warnings, "/objective", objective, "the update alone: generation is not in these figures");
	if (request->objective == EST_DPO || request->objective == EST_ORPO || request->objective == EST_REWARD)
		est_note_add(&report->assumptions, "/micro_batch_size", "", "counts pairs: two sequences each");
}

typedef void note_function(const struct est_request *request, const struct est_model *model, struct est_report *report);

/* In the order in which they are told. */
static note_function *const notes[] = {
	note_limits, est_kernels_note, note_kernel, note_unsloth, note_pipeline, note_context, note_experts, note_objective, note_reference,
	note_torchtitan, note_compiled_model, note_deepspeed, note_tensor, note_adapters, note_framework,
};

/* Megatron's run shares nothing with what the other notes tell of */
static void note_megatron(const struct est_request *request, struct est_report *report)
{
	const struct est_parallelism *p = &request->parallelism;

	est_note_add(&report->assumptions, "/framework", "megatron",
		     "Megatron-core's GPT with Transformer Engine, read in their source and not traced: weights' gradients are added to a buffer as "
		     "they are made, SwiGLU, rotary embeddings and norms are fused, sequences are not packed");
	est_note_add(&report->assumptions, "/loss", request->loss == EST_LOSS_VOCAB_PARALLEL ? "vocab_parallel" : "standard",
		     request->loss == EST_LOSS_VOCAB_PARALLEL
			     ? "cross_entropy_loss_fusion with Megatron's own kernels, whose backward copies the softmax in fp32; Transformer Engine's keeps "
			       "the logits' 16 bits; standard: without fusion"
			     : "vocab_parallel_cross_entropy without cross_entropy_loss_fusion");
	est_note_add(&report->assumptions, "/parallelism/strategy", p->strategy == EST_ZERO1 ? "zero1" : "",
		     p->strategy == EST_ZERO1 ? "Megatron's distributed optimizer: fp32 copies and moments are shared by the data-parallel ranks, those "
						"of experts by the ranks that have the same ones; parameters were loaded before they were moved into its buffer"
					      : "fp32 copies and moments are whole: zero1 is Megatron's distributed optimizer");
	if (p->pipeline > 1)
		est_note_add(&report->assumptions, "/parallelism/pipeline", "1f1b", "stages of equally many layers, the first ones take what is left over");
	if (p->expert > 1)
		est_note_add(&report->assumptions, "/parallelism/expert", "",
			     "every expert gets as many tokens as any other, sent by all-to-all; the upper figures have room for twice as many");
}

/* Nor does MLX's */
static void note_mlx(const struct est_request *request, struct est_report *report)
{
	static const char *const texts[] = {
		"MLX evaluates lazily: mlx-lm's step is one graph, compiled by mx.compile() and run by mx.eval() in an order of its own (MLX 0.32), so "
		"that phases interleave; activations live until the last kernel that reads them",
		"what a kernel reads lives until its command buffer has run: the host is taken to be as far ahead of the GPU as MLX lets it, ten buffers "
		"of a base or Pro chip; lower figures: a GPU that keeps up",
		"the upper figures have room for the longer command buffers of a Max or Ultra, and for releases without mx.fast.cross_entropy() (before "
		"0.32.4), which copy the logits",
		"reserved counts what MLX caches of freed buffers within a step: mlx-lm clears it after each (clear_cache_threshold 0), MLX when it "
		"nears the limit; verdicts need room for what is alive",
		"a card's usable memory is the working set that Metal recommends, which sysctl iogpu.wired_limit_mb moves; other programs and the "
		"system share that memory",
	};

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		est_note_add(&report->assumptions, "/framework", "mlx", "%s", texts[i]);
	est_note_add(&report->assumptions, "/attention", "sdpa",
		     "written out: in training MLX's attention is its fallback, and keeps the scores' softmax of each layer%s",
		     request->checkpointing == EST_CHECKPOINT_NONE ? "" : " while it is recomputed");
	est_note_add(&report->warnings, "/framework", "mlx",
		     "held against MLX's own graph and scheduler on the CPU, measured on no Mac");
}

void est_notes_of_replay(const struct est_request *request, const struct est_model *model, struct est_report *report)
{
	if (est_mlx_wanted(request)) {
		note_mlx(request, report);
		return;
	}
	if (est_megatron_wanted(request)) {
		note_megatron(request, report);
		return;
	}
	for (size_t i = 0; i < sizeof(notes) / sizeof(notes[0]); i++)
		notes[i](request, model, report);
}

/* The rule of thumb is CUDA's too, and the only figure there is for a Mac. */
void est_notes_of_thumb(const struct est_request *request, const struct est_gpu *const *gpus, size_t count, struct est_report *report)
{
	size_t i = 0;

	while (i < count && gpus[i]->vendor != EST_APPLE)
		i++;
	if (i == count && request->framework != EST_MLX)
		return;
	est_note_add(&report->warnings, "/accounting", "rule_of_thumb",
		     "the rule of thumb knows nothing of Apple's GPUs: MLX writes out attention scores in training, 2 bytes and more a head and pair "
		     "of tokens of each layer without checkpoints, and MLX and PyTorch's MPS both keep freed buffers; leave room for them");
}
