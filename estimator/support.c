#include "estimator/support.h"

#include <stdio.h>
#include <string.h>
#include "estimator/adapters.h"
#include "estimator/compile.h"
#include "estimator/context.h"
#include "estimator/expert_parallel.h"
#include "estimator/fields.h"
#include "estimator/framework.h"
#include "estimator/generation.h"
#include "estimator/kernels.h"
#include "estimator/task.h"
#include "estimator/tensor_parallel.h"
#include "estimator/liger.h"
#include "estimator/lora.h"
#include "estimator/megatron.h"
#include "estimator/mlx.h"
#include "estimator/per_layer_inputs.h"
#include "estimator/pipeline.h"
#include "estimator/schedule.h"
#include "estimator/zero3.h"
#include "estimator/unsloth.h"
#include "estimator/zero.h"

#define BIT(value) (UINT64_C(1) << (value))
#define ANY UINT64_MAX /* also values beyond the bits */

/* The values that each accounting models: a bit for each (words by their enum, booleans and small numbers as they are,
 * none of them negative). A field without a row is modelled whole. To model one more value is to add its bit here. */
static const struct modelled {
	const char *field;
	uint64_t replay, rule_of_thumb;
} modelled[] = {
	{ "method", ANY, BIT(EST_FULL) | BIT(EST_LORA) | BIT(EST_QLORA) },
	{ "optimizer",
	  ANY,
	  BIT(EST_ADAMW_TORCH_FUSED) | BIT(EST_ADAMW_TORCH) | BIT(EST_SGD) | BIT(EST_SGD_MOMENTUM)
	  | BIT(EST_ADAMW_8BIT) | BIT(EST_ADAMW_8BIT_TORCHAO) | BIT(EST_ADAMW_4BIT) | BIT(EST_ADAMW_FP8)
	  | BIT(EST_ADAFACTOR) },
	{ "fuse_optimizer_in_backward", ANY, BIT(false) },
	{ "gradient_checkpointing",
	  ANY,
	  BIT(EST_CHECKPOINT_NONE) | BIT(EST_CHECKPOINT_FULL) },
	{ "loss",
	  ANY, ANY },
	{ "liger_kernel", ANY, BIT(false) },
	{ "torch_compile", ANY, BIT(false) },
	{ "parallelism.tensor", ANY, BIT(1) },
	{ "parallelism.pipeline", ANY, BIT(1) },
	{ "parallelism.context", ANY, BIT(1) },
	{ "parallelism.expert", ANY, BIT(1) },
	{ "parallelism.sequence_parallel", ANY, BIT(false) },
	{ "offload.optimizer", ANY, BIT(EST_ON_GPU) },
	{ "offload.parameters", ANY, BIT(EST_ON_GPU) },
	{ "offload.activations", BIT(EST_ON_GPU) | BIT(EST_ON_CPU), BIT(EST_ON_GPU) },
	{ "lora.dora", ANY, BIT(false) },
	{ "quantization.type", BIT(EST_NF4) | BIT(EST_FP4) | BIT(EST_INT8) | BIT(EST_GPTQ) | BIT(EST_HQQ) | BIT(EST_MXFP4)
	  | BIT(EST_AFFINE),
	  BIT(EST_NF4) | BIT(EST_FP4) | BIT(EST_INT8) | BIT(EST_AFFINE) },
	{ "quantization.double_quant", ANY, BIT(true) },
	{ "quantization.quant_storage", BIT(EST_STORE_UINT8) | BIT(EST_STORE_BF16), BIT(EST_STORE_UINT8) | BIT(EST_STORE_BF16) },
	{ "objective", ANY, BIT(EST_SFT) | BIT(EST_PRETRAIN) },
	{ "task", ANY, ANY },
};

/* Schedules of DeepSpeed, whose sharding is static so far, and of FSDP1 where it is. Naming their default changes nothing, naming
 * anything else is refused; the types of communication depend on the precision and are refused when named. */
static const char *const schedules[] = {
	"parallelism.limit_all_gathers", "parallelism.contiguous_gradients",
};
/* Of DeepSpeed, whose stages 1 and 2 are replayed. */
static const char *const zero_schedules[] = {
	"parallelism.overlap_comm", "parallelism.sub_group_size", "parallelism.max_live_parameters",
	"parallelism.max_reuse_distance", "parallelism.buckets.reduce_bucket_size", "parallelism.buckets.allgather_bucket_size",
	"parallelism.buckets.prefetch_bucket_size", "parallelism.buckets.param_persistence_threshold",
};
static const char *const zero_types[] = { "parallelism.grad_accum_dtype", "parallelism.communication_data_type" };
/* The same of FSDP, where it is not replayed; what only the replay of FSDP1 knows. */
static const char *const fsdp_schedules[] = {
	"parallelism.reshard_after_forward", "parallelism.wrap", "parallelism.sync_each_microbatch",
};
static const char *const fsdp1_schedules[] = { "parallelism.checkpoint_outside_unit", "parallelism.use_orig_params" };
static const char *const fsdp_types[] = { "parallelism.param_dtype", "parallelism.reduce_dtype", "parallelism.output_dtype" };

static bool has_bit(uint64_t bits, double value)
{
	return value < 64 && bits >> (unsigned)value & 1;
}

static void refuse(const char *name, const struct est_request *request, struct est_faults *faults)
{
	est_field_refuse(name, request, faults, "is not modelled yet with accounting %s",
			 est_word_name(est_accounting_words, (int)request->accounting));
}

static void check_values(const struct est_request *request, struct est_faults *faults)
{
	bool method_refused = false;
	size_t i;

	for (i = 0; i < sizeof(modelled) / sizeof(modelled[0]); i++) {
		uint64_t bits = request->accounting == EST_REPLAY ? modelled[i].replay : modelled[i].rule_of_thumb;
		const struct est_field *field;
		bool hangs_on_method;

		if (bits == ANY)
			continue;
		field = est_field_find(modelled[i].field);
		hangs_on_method = field->when == EST_WITH_ADAPTERS || field->when == EST_WITH_QLORA;
		/* The details of a method that is refused as a whole are not worth a word each. */
		if (has_bit(bits, est_field_get(field, request)) || (method_refused && hangs_on_method))
			continue;
		method_refused = method_refused || !strcmp(field->name, "method");
		if (est_field_is_named(field, request) || est_field_applies(field, request, NULL))
			refuse(field->name, request, faults);
	}
}

static void check_named(const char *const *names, size_t count, bool default_is_fine, const struct est_request *request,
			struct est_faults *faults)
{
	size_t i;

	for (i = 0; i < count; i++) {
		const struct est_field *field = est_field_find(names[i]);

		if (est_field_is_named(field, request)
		    && !(default_is_fine && !(est_field_get(field, request) != field->fallback)))
			refuse(field->name, request, faults);
	}
}

/* FSDP2's CPUOffloadPolicy: parameters, gradients and the optimizer, or nothing. To a disk ZeRO-3 alone. */
static void check_offload(const struct est_request *request, struct est_faults *faults)
{
	enum est_device parameters = request->offload.parameters, optimizer = request->offload.optimizer;

	if (est_zero3_wanted(request))
		return;
	if (parameters == EST_ON_NVME || (parameters != EST_ON_GPU && (!est_schedule_wanted(request) || optimizer != parameters)))
		refuse("offload.parameters", request, faults);
	else if (optimizer == EST_ON_NVME || (optimizer != parameters && !est_zero_wanted(request)))
		refuse("offload.optimizer", request, faults);
	/* saved activations are checkpoints: what is kept within a layer is never moved */
	if (request->offload.activations == EST_ON_CPU && request->checkpointing != EST_CHECKPOINT_OFFLOAD)
		refuse("offload.activations", request, faults);
}

static void check_model(const struct est_model *model, struct est_faults *faults)
{
	if (model->unsupported)
		est_fault_add(faults, "/model", EST_NOT_SUPPORTED_YET, "%s", model->unsupported);
	else if (model->architecture == EST_ARCH_UNSUPPORTED
		 || (model->num_experts > 0 && !est_architecture_row(model->architecture)->sparse))
		est_fault_add(faults, "/model", EST_NOT_SUPPORTED_YET,
			      "the architecture of this model is not modelled yet with accounting replay");
}

/* Packages of flash attention give no sinks, and pad the values of latent attention; flex_attention works sinks in afterwards */
static void check_kernel(const struct est_request *request, const struct est_model *model, struct est_faults *faults)
{
	bool flash = request->attention == EST_FLASH_ATTENTION_2 || request->attention == EST_FLASH_ATTENTION_3;
	bool flex = request->attention == EST_FLEX_ATTENTION;
	bool padded = model->kv_lora_rank > 0 && (flex || model->v_head_dim != model->head_dim);

	if ((flash || flex) && (padded || model->attention_sinks))
		est_fault_add(faults, "/attention", EST_NOT_SUPPORTED_YET,
			      "%s attention is not modelled yet with this model's %s", flex ? "flex" : "flash",
			      padded ? "values, narrower than its keys" : "attention sinks");
	if (request->checkpointing == EST_CHECKPOINT_SELECTIVE && model->num_experts > 0)
		refuse("gradient_checkpointing", request, faults);
}

/* modules_to_save: the embedding and the head so far */
static bool saves_vocabulary_only(const struct est_names *names)
{
	static const char *const vocabulary[] = { "embed_tokens", "embed_in", "wte", "word_embeddings", "embeddings",
						   "lm_head", "embed_out" };
	int known = 0;

	for (int i = 0; i < names->count; i++)
		for (size_t k = 0; k < sizeof(vocabulary) / sizeof(vocabulary[0]); k++)
			known += strcmp(names->name[i], vocabulary[k]) == 0;
	return known == names->count;
}

/* PEFT knows that the kernels of some mixers take the weight of out_proj and pass its module by. */
static void check_adapters(const struct est_request *request, const struct est_model *model, struct est_faults *faults)
{
	bool adapts = est_has_adapters(request);

	if (adapts && model->architecture != EST_ARCH_UNSUPPORTED && est_architecture_row(model->architecture)->peft_refuses_router
	    && est_is_target(&request->lora.target_modules, "router"))
		est_fault_add(faults, "/lora/target_modules", EST_CONTRADICTION,
			      "must name modules other than router: PEFT adapts one result, and this model's router returns several; "
			      "all-linear stands for it too");
	if (!adapts || model->architecture == EST_ARCH_UNSUPPORTED || !est_model_mixes(model)
	    || !est_architecture_row(model->architecture)->peft_refuses_out_proj)
		return;
	if (est_is_target(&request->lora.target_modules, "out_proj"))
		est_fault_add(faults, "/lora/target_modules", EST_CONTRADICTION,
			      "must name modules other than out_proj: PEFT refuses to adapt it in models with Mamba layers, and all-linear "
			      "stands for it too");
}

/* The trainers of preferences have a loss of their own, whatever a model's is */
static void check_loss(const struct est_request *request, struct est_faults *faults)
{
	static const struct {
		enum est_objective objective;
		enum est_loss loss;
	} pairs[] = { { EST_DPO, EST_LOSS_CHUNKED }, { EST_KTO, EST_LOSS_CHUNKED }, { EST_GRPO, EST_LOSS_CHUNKED },
		      { EST_ORPO, EST_LOSS_STANDARD } };

	if (request->framework == EST_LLAMA_FACTORY && !est_models_language(request))
		est_field_refuse("objective", request, faults,
				 "is not modelled yet with llama_factory, whose own trainers hold whole logits in fp32; TRL's do not");
	for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++)
		if (request->objective == pairs[i].objective && request->loss != pairs[i].loss)
			est_fault_add(faults, "/loss", EST_NOT_SUPPORTED_YET, "with objective %s only %s is modelled",
				      est_word_name(est_objective_words, (int)request->objective),
				      est_word_name(est_loss_words, (int)pairs[i].loss));
}

static void check_liger(const struct est_request *request, const struct est_model *model, struct est_faults *faults)
{
	bool replays = model->architecture != EST_ARCH_UNSUPPORTED && !est_model_is_encoder(model);
	const char *why = request->liger_kernel && replays ? est_liger_refuses(request, model) : NULL;

	if (why)
		est_field_refuse("liger_kernel", request, faults, "%s", why);
}

static bool packs_buffers(const struct est_request *request)
{
	return request->method == EST_QLORA && (request->quantization.type == EST_GPTQ || request->quantization.type == EST_HQQ);
}

static void refuse_for(const char *name, const struct est_request *request, const char *model, struct est_faults *faults)
{
	est_field_refuse(name, request, faults, "is not modelled yet with %s", model);
}

/* What is modelled of decoders and not of encoders yet */
static void check_encoder(const struct est_request *request, const struct est_model *model, struct est_faults *faults)
{
	bool t5 = model->num_decoder_layers > 0, adapts = est_has_adapters(request);
	bool biased = request->attention == EST_SDPA || request->attention == EST_EAGER || request->attention == EST_SDPA_EFFICIENT;
	bool modern = model->architecture == EST_ARCH_MODERNBERT;
	bool saves_pre_classifier = model->architecture == EST_ARCH_DISTILBERT && request->task == EST_SEQUENCE_CLASSIFICATION;
	bool plain = request->checkpointing == EST_CHECKPOINT_NONE || request->checkpointing == EST_CHECKPOINT_FULL
		     || request->checkpointing == EST_CHECKPOINT_EVERY_N;
	const struct est_refusal rows[] = {
		{ "method", request->method == EST_FREEZE },
		{ "quantization.type", packs_buffers(request) },
		{ "objective", !est_models_language(request) },
		{ "loss", request->loss != EST_LOSS_STANDARD },
		{ "task", modern && request->task != EST_MASKED_LM },
		{ "attention", modern && request->attention != EST_SDPA },
		{ "liger_kernel", request->liger_kernel },
		{ "lora.dora", adapts && request->lora.dora },
		{ "lora.modules_to_save", adapts && request->lora.modules_to_save.count > 0 },
		{ "attention", request->attention == EST_FLEX_ATTENTION || (t5 && !biased) },
		{ "precision", t5 && request->precision == EST_PURE_FP16 },
		{ "gradient_checkpointing", t5 && !plain },
		{ "use_reentrant", t5 && request->checkpointing != EST_CHECKPOINT_NONE && request->use_reentrant },
	};

	est_refuse_with(t5 ? "an encoder and decoder" : "an encoder", rows, sizeof(rows) / sizeof(rows[0]), request, faults);
	if (request->method == EST_QLORA && request->task == EST_SEQUENCE_CLASSIFICATION)
		est_fault_add(faults, "/task", EST_NOT_SUPPORTED_YET,
			      "sequence_classification is not modelled yet with qlora: Transformers 5 quantises the classifier too, and PEFT "
			      "cannot train it then");
	if (model->architecture == EST_ARCH_DEBERTA && request->method == EST_FULL && request->use_reentrant
	    && request->checkpointing != EST_CHECKPOINT_NONE)
		est_fault_add(faults, "/use_reentrant", EST_CONTRADICTION,
			      "must be false: all layers of DeBERTa read one normed table of distances, whose graph the first layer that is "
			      "recomputed would free");
	if (adapts && saves_pre_classifier && request->lora.target_modules.all)
		est_fault_add(faults, "/lora/target_modules", EST_CONTRADICTION,
			      "must name modules: PEFT saves DistilBERT's pre_classifier whole and refuses to adapt it too");
}

/* PEFT's ParamWrapper, on the fused weights of experts and on routers, adds the factors to the weight itself in each forward. Traced: flat
 * parameters fail there, by a view of them that is written to, or factors that nothing has gathered. */
static void check_adapted_parameters(const struct est_request *request, struct est_faults *faults)
{
	if (request->parallelism.strategy == EST_FSDP1)
		est_fault_add(faults, "/lora/target_modules", EST_CONTRADICTION,
			      "must name no experts or routers under fsdp1: PEFT adapts them as parameters, which fails where these are flat; "
			      "all-linear stands for them too");
	else if (request->parallelism.strategy == EST_ZERO3)
		refuse("lora.target_modules", request, faults);
	else if (request->parallelism.wrap == EST_WRAP_PEFT)
		refuse_for("parallelism.wrap", request, "adapters of experts or routers", faults);
}

/* What is modelled of attention and not of other mixers: selective checkpoints, and parameters that are gathered by module */
static void check_mixers(const struct est_request *request, const struct est_model *model, struct est_faults *faults)
{
	static const char mixers[] = "layers that are no attention";

	if (!est_model_mixes(model))
		return;
	if (request->checkpointing == EST_CHECKPOINT_SELECTIVE)
		refuse_for("gradient_checkpointing", request, mixers, faults);
	if (est_zero3_wanted(request))
		refuse_for("parallelism.strategy", request, mixers, faults);
	if (model->architecture == EST_ARCH_MAMBA2 && request->loss != EST_LOSS_STANDARD)
		refuse_for("loss", request, "a stream in fp32", faults);
}

/* ZeRO-3's hooks hand modules views that they may not change in place, as the noise does. */
static void check_jitter(const struct est_request *request, const struct est_model *model, struct est_faults *faults)
{
	if (model->input_jitter_noise > 0 && est_zero3_wanted(request))
		refuse_for("parallelism.strategy", request, "noise on the input of experts", faults);
}

/* What is modelled of language models and not of those that see, whose tower no batch runs here */
static void check_tower(const struct est_request *request, const struct est_model *model, struct est_faults *faults)
{
	const struct est_refusal rows[] = {
		{ "objective", !est_models_language(request) },
		{ "task", request->task != EST_CAUSAL_LM },
		{ "loss", request->loss != EST_LOSS_STANDARD && request->loss != EST_LOSS_CHUNKED },
		{ "liger_kernel", request->liger_kernel },
		{ "attention", request->attention == EST_FLASH_ATTENTION_3 || request->attention == EST_FLEX_ATTENTION
			       || request->attention == EST_SDPA_CUDNN },
		{ "quantization.type", packs_buffers(request) },
		{ "fuse_optimizer_in_backward", request->fuse_optimizer_in_backward },
		/* counted among the layers are those with cross attention, wherever they lie */
		{ "gradient_checkpointing",
		  request->checkpointing == EST_CHECKPOINT_EVERY_N && model->vision.tower == EST_TOWER_MLLAMA },
	};

	est_refuse_with("a vision tower", rows, sizeof(rows) / sizeof(rows[0]), request, faults);
}

static void check_task(const struct est_request *request, const struct est_model *model, struct est_faults *faults)
{
	if (model->architecture == EST_ARCH_UNSUPPORTED)
		return;
	if (!est_task_suits(model, request->task))
		refuse_for("task", request, "this kind of model", faults);
	else if (est_model_is_encoder(model))
		check_encoder(request, model, faults);
}

static void check_generation(const struct est_request *request, const struct est_model *model, struct est_faults *faults)
{
	const char *why = est_generation_refuses(request, model);

	if (why)
		est_field_refuse("versions.transformers", request, faults, "%s", why);
}

/* GPTQ's and HQQ's packed weights are no parameters: no strategy shards them, and nothing but a linear layer holds them */
static void check_packed(const struct est_request *request, const struct est_model *model, struct est_faults *faults)
{
	enum est_strategy strategy = request->parallelism.strategy;
	bool whole = request->parallelism.gpus == 1 || strategy == EST_SINGLE || strategy == EST_DDP || est_zero_wanted(request);
	bool flat = strategy == EST_FSDP1 && est_schedule_wanted(request) && request->quantization.type == EST_GPTQ;

	if (request->method != EST_QLORA)
		return;
	if (est_is_mxfp4(request) && !whole)
		refuse_for("quantization.type", request, "sharded weights", faults);
	if (!packs_buffers(request)) {
		static const char *const groups[] = { "quantization.group_size" };

		check_named(groups, 1, true, request, faults);
		return;
	}
	if (model->num_experts > 0 && !(est_is_old_transformers(&request->versions) && request->quantization.type == EST_GPTQ))
		refuse_for("quantization.type", request, "a mixture of experts", faults);
	if (!whole && !flat)
		refuse_for("quantization.type", request, "sharded weights", faults);
	if (request->lora.dora)
		refuse_for("quantization.type", request, "DoRA", faults);
}

static void check_unsloth(const struct est_request *request, const struct est_model *model, struct est_faults *faults)
{
	const char *what = est_unsloth_wanted(request) ? est_unsloth_refuses(request, model) : NULL;

	if (what)
		est_fault_add(faults, "/framework", EST_NOT_SUPPORTED_YET, "unsloth is modelled %s", what);
}

static void check_compile(const struct est_request *request, const struct est_model *model, struct est_faults *faults)
{
	const char *why = est_compile_refuses(request, model);

	if (why)
		est_fault_add(faults, "/torch_compile", EST_NOT_SUPPORTED_YET, "%s", why);
}

/* Tensor-parallel ranks without others beside them that see other data */
static bool shards_nothing(const struct est_request *request)
{
	return request->parallelism.tensor > 1 && est_shard_ranks(&request->parallelism) == 1;
}

void est_support_check(const struct est_request *request, const struct est_model *model, struct est_faults *faults)
{
	check_values(request, faults);
	if (est_megatron_wanted(request) && request->accounting == EST_REPLAY) {
		check_model(model, faults);
		est_megatron_check(request, model, faults);
		return;
	}
	if (est_mlx_wanted(request) && request->accounting == EST_REPLAY) {
		check_model(model, faults);
		est_mlx_check(request, model, faults);
		return;
	}
	check_named(schedules, sizeof(schedules) / sizeof(schedules[0]), true, request, faults);
	if (!est_zero3_wanted(request) && !est_zero_wanted(request)) {
		check_named(zero_schedules, sizeof(zero_schedules) / sizeof(zero_schedules[0]), true, request, faults);
		check_named(zero_types, sizeof(zero_types) / sizeof(zero_types[0]), false, request, faults);
	}
	if (request->accounting == EST_REPLAY)
		check_offload(request, faults);
	if (shards_nothing(request)) {
		/* nothing is wrapped */
	} else if (!est_schedule_wanted(request)) {
		check_named(fsdp_schedules, sizeof(fsdp_schedules) / sizeof(fsdp_schedules[0]), true, request, faults);
		check_named(fsdp_types, sizeof(fsdp_types) / sizeof(fsdp_types[0]), false, request, faults);
	} else if (request->parallelism.wrap == EST_WRAP_PEFT && request->parallelism.strategy != EST_FSDP1
		   && request->parallelism.strategy != EST_ZERO3 && model->tie_word_embeddings) {
		refuse_for("parallelism.wrap", request, "a tied head", faults);
	} else if (request->method != EST_FULL && est_adapts_parameters(model, &request->lora.target_modules)) {
		check_adapted_parameters(request, faults);
	}
	if (!est_schedule_wanted(request) || request->parallelism.strategy != EST_FSDP1)
		check_named(fsdp1_schedules, sizeof(fsdp1_schedules) / sizeof(fsdp1_schedules[0]), true, request, faults);
	if (request->lora.modules_to_save.count > 0 && !saves_vocabulary_only(&request->lora.modules_to_save))
		refuse("lora.modules_to_save", request, faults);
	if (request->accounting != EST_REPLAY)
		return;
	check_model(model, faults);
	check_kernel(request, model, faults);
	check_task(request, model, faults);
	check_adapters(request, model, faults);
	check_mixers(request, model, faults);
	est_kernels_check(request, model, faults);
	check_jitter(request, model, faults);
	check_loss(request, faults);
	est_tensor_check(request, model, faults);
	if (model->vision.tower != EST_TOWER_NONE)
		check_tower(request, model, faults);
	else
		check_liger(request, model, faults);
	est_per_layer_check(request, model, faults);
	est_pipeline_check(request, model, faults);
	est_context_check(request, model, faults);
	est_expert_check(request, model, faults);
	check_packed(request, model, faults);
	check_generation(request, model, faults);
	check_compile(request, model, faults);
	if (model->architecture != EST_ARCH_UNSUPPORTED)
		est_framework_check(request, model, faults);
	check_unsloth(request, model, faults);
}
