#include "estimator/adapters.h"
#include "estimator/estimator.h"
#include "estimator/fields.h"
#include "estimator/framework.h"
#include "estimator/sharding.h"
#include "estimator/support.h"

typedef void rule(const struct est_request *request, const struct est_model *model, struct est_faults *faults);

/* Ranks that see different data; 0 when the model-parallel ranks do not divide the GPUs. */
static int64_t data_parallel_ranks(const struct est_parallelism *parallelism)
{
	/* Each factor is at most 2^20, so that three of them fit in 63 bits. */
	int64_t ranks = parallelism->tensor * parallelism->pipeline * parallelism->context;

	return parallelism->gpus % ranks ? 0 : parallelism->gpus / ranks;
}

static bool uses_sdpa(const struct est_request *request)
{
	/* The forced kernels end the list. */
	return request->attention == EST_SDPA || request->attention >= EST_SDPA_FLASH;
}

static void check_companions(const struct est_request *request, const struct est_model *model,
			     struct est_faults *faults)
{
	const struct est_field *field;
	size_t at = 0;

	(void)model;
	while ((field = est_next_named(request, &at))) {
		const char *only;

		if (!est_field_applies(field, request, &only) && only)
			est_fault_add(faults, field->pointer, EST_CONTRADICTION, "goes only with %s", only);
	}
}

static void check_freeze(const struct est_request *request, const struct est_model *model, struct est_faults *faults)
{
	if (request->method != EST_FREEZE)
		return;
	if (request->trainable_layers == 0)
		est_fault_add(faults, "/trainable_layers", EST_MISSING, "is required with method freeze");
	else if (request->trainable_layers > model->num_hidden_layers)
		est_fault_add(faults, "/trainable_layers", EST_OUT_OF_RANGE, "must be at most the model's %lld layers",
			      (long long)model->num_hidden_layers);
}

static void check_checkpointing(const struct est_request *request, const struct est_model *model,
				struct est_faults *faults)
{
	if (request->checkpointing == EST_CHECKPOINT_EVERY_N && request->every_n_layers > model->num_hidden_layers)
		est_fault_add(faults, "/gradient_checkpointing/every_n_layers", EST_OUT_OF_RANGE,
			      "must be at most the model's %lld layers", (long long)model->num_hidden_layers);
	if (request->checkpointing == EST_CHECKPOINT_SELECTIVE && request->use_reentrant)
		est_fault_add(faults, "/use_reentrant", EST_CONTRADICTION, "must be false with selective checkpointing");
}

static void check_ranks(const struct est_request *request, const struct est_model *model, struct est_faults *faults)
{
	const struct est_parallelism *parallelism = &request->parallelism;
	int64_t ranks = data_parallel_ranks(parallelism);

	(void)model;
	if (ranks == 0)
		est_fault_add(faults, "/parallelism/gpus", EST_CONTRADICTION,
			      "must be a multiple of tensor x pipeline x context = %lld",
			      (long long)(parallelism->tensor * parallelism->pipeline * parallelism->context));
	else if (parallelism->strategy == EST_SINGLE && ranks > 1)
		est_fault_add(faults, "/parallelism/strategy", EST_CONTRADICTION,
			      "must not be none with %lld data-parallel ranks", (long long)ranks);
	else if (parallelism->shard_size > 0 && ranks % parallelism->shard_size)
		est_fault_add(faults, "/parallelism/shard_size", EST_CONTRADICTION,
			      "must divide the %lld data-parallel ranks", (long long)ranks);
}

/* A stage accumulates whole gradients in its own weights, micro-batch after micro-batch: DeepSpeed refuses to share
 * them. */
static void check_stages(const struct est_request *request, const struct est_model *model, struct est_faults *faults)
{
	enum est_strategy strategy = request->parallelism.strategy;

	(void)model;
	if (request->parallelism.pipeline > 1 && (strategy == EST_ZERO2 || strategy == EST_ZERO3))
		est_fault_add(faults, "/parallelism/strategy", EST_CONTRADICTION,
			      "must not be zero2 or zero3 with pipeline above 1: DeepSpeed's stages keep weights and gradients whole");
}

/* ScheduleInterleaved1F1B: several stages a rank, whose micro-batches go round by round. */
static void check_virtual_stages(const struct est_request *request, const struct est_model *model, struct est_faults *faults)
{
	const struct est_parallelism *p = &request->parallelism;
	bool interleaves = p->pipeline_schedule == EST_INTERLEAVED_1F1B;
	int64_t steps = request->gradient_accumulation_steps, rounds = steps / p->pipeline ? steps / p->pipeline : 1;

	(void)model;
	if (p->pipeline == 1 && interleaves)
		est_fault_add(faults, "/parallelism/pipeline_schedule", EST_CONTRADICTION, "needs pipeline above 1");
	else if (p->pipeline == 1 && p->virtual_stages > 1)
		est_fault_add(faults, "/parallelism/virtual_stages", EST_CONTRADICTION, "needs pipeline above 1");
	else if (p->pipeline > 1 && interleaves != (p->virtual_stages > 1))
		est_fault_add(faults, "/parallelism/virtual_stages", EST_CONTRADICTION, "must be %s",
			      interleaves ? "above 1 with interleaved_1f1b" : "1 with 1f1b, under which a rank has one stage");
	else if (p->pipeline > 1 && interleaves && steps % rounds)
		est_fault_add(faults, "/gradient_accumulation_steps", EST_CONTRADICTION,
			      "must be a multiple of its %lld rounds (steps / pipeline): ScheduleInterleaved1F1B refuses others",
			      (long long)rounds);
}

static void check_model_parallel(const struct est_request *request, const struct est_model *model,
				 struct est_faults *faults)
{
	const struct est_parallelism *parallelism = &request->parallelism;
	/* The experts of an architecture that is not modelled are not counted. */
	int64_t experts = model->architecture == EST_ARCH_UNSUPPORTED ? 1 : parallelism->expert;

	if (model->num_attention_heads % parallelism->tensor)
		est_fault_add(faults, "/parallelism/tensor", EST_CONTRADICTION,
			      "must divide the model's %lld attention heads", (long long)model->num_attention_heads);
	if (parallelism->pipeline > model->num_hidden_layers)
		est_fault_add(faults, "/parallelism/pipeline", EST_CONTRADICTION,
			      "must be at most the model's %lld layers", (long long)model->num_hidden_layers);
	else if (parallelism->pipeline > 1 && parallelism->pipeline * parallelism->virtual_stages > model->num_hidden_layers)
		est_fault_add(faults, "/parallelism/virtual_stages", EST_CONTRADICTION,
			      "must be so few that the ranks have at most the model's %lld layers for stages",
			      (long long)model->num_hidden_layers);
	if (experts > 1 && model->num_experts % experts)
		est_fault_add(faults, "/parallelism/expert", EST_CONTRADICTION,
			      "must divide the model's %lld experts", (long long)model->num_experts);
	else if (experts > 1 && model->num_experts == 0)
		est_fault_add(faults, "/parallelism/expert", EST_CONTRADICTION, "needs a model with experts");
	if (parallelism->sequence_parallel && parallelism->tensor == 1)
		est_fault_add(faults, "/parallelism/sequence_parallel", EST_CONTRADICTION, "needs tensor above 1");
}

/* Beyond its end the model's code fails: learned positions, GPT-J's sines, MPT's biases. */
static bool has_table_of_positions(const struct est_model *model)
{
	return model->position == EST_LEARNED_POSITIONS || model->architecture == EST_ARCH_GPTJ
	       || model->architecture == EST_ARCH_MPT;
}

/* _supports_flex_attn; and its caller raises where there is dropout */
static const char *refuses_flex(const struct est_model *model)
{
	static const enum est_architecture without[] = { EST_ARCH_OLMOE, EST_ARCH_FALCON, EST_ARCH_BLOOM, EST_ARCH_MPT,
							 EST_ARCH_GPT2,
							 EST_ARCH_GPTJ, EST_ARCH_GPT_NEO, EST_ARCH_GPT_BIGCODE, EST_ARCH_STABLELM };

	for (size_t i = 0; i < sizeof(without) / sizeof(without[0]); i++)
		if (model->architecture == without[i])
			return "the model's class refuses it";
	return model->attention_dropout > 0 ? "it has no attention dropout, and the model asks for some" : NULL;
}

/* What its backward takes; PyTorch raises when no kernel that is allowed can run */
static bool cudnn_lacks(const struct est_model *model)
{
	int64_t values = model->kv_lora_rank ? model->v_head_dim : model->head_dim;

	return model->head_dim % 8 != 0 || values > 128 || (model->head_dim > 128 && model->head_dim != 192);
}

static void check_attention(const struct est_request *request, const struct est_model *model,
			    struct est_faults *faults)
{
	bool flash = request->attention == EST_FLASH_ATTENTION_2 || request->attention == EST_FLASH_ATTENTION_3
		|| request->attention == EST_SDPA_FLASH || request->attention == EST_SDPA_CUDNN;
	const char *why = request->attention == EST_FLEX_ATTENTION ? refuses_flex(model) : NULL;

	if (est_framework_model(request, model).refuses_sdpa && uses_sdpa(request))
		est_fault_add(faults, "/attention", EST_CONTRADICTION,
			      "must not be sdpa: the model's class refuses it (eager is its default)");
	else if (model->refuses_flash && model->refuses_sdpa && request->attention != EST_EAGER)
		est_fault_add(faults, "/attention", EST_CONTRADICTION, "must be eager: the model's class has nothing else");
	else if (model->refuses_flash && (request->attention == EST_FLASH_ATTENTION_2
					  || request->attention == EST_FLASH_ATTENTION_3))
		est_fault_add(faults, "/attention", EST_CONTRADICTION,
			      "must not be a package of flash attention: the model's class refuses it");
	else if (flash && request->precision == EST_PURE_FP32)
		est_fault_add(faults, "/attention", EST_CONTRADICTION,
			      "must not be flash attention with precision fp32");
	else if (request->attention == EST_SDPA_CUDNN && cudnn_lacks(model))
		est_fault_add(faults, "/attention", EST_CONTRADICTION, "must not be cuDNN's: it has no backward for heads of %lld",
			      (long long)model->head_dim);
	else if (why)
		est_fault_add(faults, "/attention", EST_CONTRADICTION, "must not be flex_attention: %s", why);
	if (has_table_of_positions(model) && model->max_position_embeddings > 0
	    && request->sequence_length > model->max_position_embeddings)
		est_fault_add(faults, "/sequence_length", EST_CONTRADICTION,
			      "must be at most the model's %lld positions",
			      (long long)model->max_position_embeddings);
}

static bool adapts_something(const struct est_request *request, const struct est_model *model)
{
	const struct est_model own = est_framework_model(request, model);
	struct est_lora adapters = request->lora;

	adapters.modules_to_save.count = 0;
	return est_lora_parameters(&own, &adapters) > 0
	       || (!request->freeze_vision_tower && est_lora_tower_parameters(model, &adapters) > 0);
}

/* PEFT's ParamWrapper, which adapts weights that are in no nn.Linear, knows neither; half of what is fused cannot be
 * adapted. */
static void check_expert_adapters(const struct est_request *request, const struct est_model *model,
				  struct est_faults *faults)
{
	const struct est_lora *lora = &request->lora;
	const struct est_names *targets = &lora->target_modules;
	bool gate_up = est_adapts_gate_up(model, targets);

	if (!est_adapts_parameters(model, targets))
		return;
	if (lora->dropout > 0)
		est_fault_add(faults, "/lora/dropout", EST_CONTRADICTION,
			      "must be 0: PEFT does not drop out where it adapts experts or a router");
	if (lora->dora)
		est_fault_add(faults, "/lora/dora", EST_CONTRADICTION,
			      "must be false: PEFT has no DoRA where it adapts experts or a router");
	if (!targets->all && gate_up != (est_is_target(targets, "up_proj") || est_is_target(targets, "w3")))
		est_fault_add(faults, "/lora/target_modules", EST_CONTRADICTION,
			      "must name gate_proj and up_proj together: they are fused in the experts");
}

static void check_lora(const struct est_request *request, const struct est_model *model, struct est_faults *faults)
{
	const struct est_names *targets = &request->lora.target_modules;

	if (!est_has_adapters(request))
		return;
	if (request->lora.rank > model->hidden_size)
		est_fault_add(faults, "/lora/rank", EST_OUT_OF_RANGE, "must be at most the model's hidden_size %lld",
			      (long long)model->hidden_size);
	if (!targets->all && targets->count == 0)
		est_fault_add(faults, "/lora/target_modules", EST_OUT_OF_RANGE, "must name at least one module");
	else if (!adapts_something(request, model))
		est_fault_add(faults, "/lora/target_modules", EST_CONTRADICTION,
			      "must name a linear module of this model, as its class in transformers calls it");
	else
		check_expert_adapters(request, model, faults);
}

static void check_freezing(const struct est_request *request, const struct est_model *model, struct est_faults *faults)
{
	const struct est_field *field = est_field_find("freeze_vision_tower");

	if (request->freeze_vision_tower && model->vision.tower == EST_TOWER_NONE && est_field_is_named(field, request))
		est_fault_add(faults, field->pointer, EST_CONTRADICTION, "must be false: this model has no vision tower");
}

static void check_quantization(const struct est_request *request, const struct est_model *model,
			       struct est_faults *faults)
{
	/* 0: either */
	static const int64_t only_bits[] = { [EST_NF4] = 4, [EST_FP4] = 4, [EST_INT8] = 8, [EST_MXFP4] = 4, [EST_AFFINE] = 0 };
	const struct est_quantization *quantization = &request->quantization;
	int64_t bits = only_bits[quantization->type];

	if (request->method != EST_QLORA)
		return;
	if (bits && bits != quantization->bits)
		est_fault_add(faults, "/quantization/bits", EST_CONTRADICTION, "must be %lld with type %s",
			      (long long)bits, est_word_name(est_quantization_words, (int)quantization->type));
	if (quantization->type == EST_MXFP4 && request->accounting == EST_REPLAY && model->architecture != EST_ARCH_GPT_OSS)
		est_fault_add(faults, "/quantization/type", EST_CONTRADICTION,
			      "must not be mxfp4: gpt-oss alone has checkpoints in it");
	if (quantization->type == EST_AFFINE && request->framework != EST_MLX)
		est_fault_add(faults, "/quantization/type", EST_CONTRADICTION, "must not be affine: it is MLX's own quantisation");
	/* int8_linear_matmul: "Only two or three dimensional matrices are supported for argument A" */
	if (quantization->type == EST_INT8 && request->accounting == EST_REPLAY && model->kv_lora_rank > 0)
		est_fault_add(faults, "/quantization/type", EST_CONTRADICTION,
			      "must not be int8: bitsandbytes multiplies two or three dimensions, and Transformers gives latent "
			      "attention's kv_b_proj four");
	if (quantization->group_size == 0)
		est_fault_add(faults, "/quantization/group_size", EST_OUT_OF_RANGE, "must be -1 or at least 1");
}

static void check_objective(const struct est_request *request, const struct est_model *model,
			    struct est_faults *faults)
{
	bool adapters = est_has_adapters(request);

	(void)model;
	if (request->reference_model == EST_REFERENCE_ADAPTER && !adapters)
		est_fault_add(faults, "/reference_model", EST_CONTRADICTION,
			      "must not be adapter: there is none with method %s",
			      est_word_name(est_method_words, (int)request->method));
}

static void check_fused_step(const struct est_request *request, const struct est_model *model,
			     struct est_faults *faults)
{
	(void)model;
	if (!request->fuse_optimizer_in_backward)
		return;
	if (request->max_grad_norm > 0)
		est_fault_add(faults, "/max_grad_norm", EST_CONTRADICTION,
			      "must be 0 with fuse_optimizer_in_backward: no gradient is left to clip");
	if (request->gradient_accumulation_steps > 1)
		est_fault_add(faults, "/gradient_accumulation_steps", EST_CONTRADICTION,
			      "must be 1 with fuse_optimizer_in_backward");
}

/* A generous bound on all bytes that the run could ever hold, in floating point: what passes cannot wrap 64 bits. */
static void check_size(const struct est_request *request, const struct est_model *model, struct est_faults *faults)
{
	const double limit = 0x1p60;
	bool longer_target = model->num_decoder_layers > 0 && request->target_length > request->sequence_length;
	double length = (double)(longer_target ? request->target_length : request->sequence_length);
	double sequences = 2.0 * (double)request->micro_batch_size;
	double layers = (double)est_model_stacked_layers(model), heads = (double)model->num_attention_heads;
	double width = (double)model->hidden_size + heads * (double)model->head_dim + (double)model->intermediate_size;
	double weights = 64 * (double)model->parameters;
	double tokens = sequences * length * (128 * layers * width + 32 * (double)model->vocab_size);
	/* of two positions of a chunk, for each feature of a delta rule */
	double pairs = 4096 * layers * sequences * (length + 64) * (double)model->linear_num_value_heads * (double)model->linear_value_head_dim;
	double scores = 32 * layers * sequences * heads * length * length;
	/* a pipeline's stage receives into a buffer for each micro-batch, twice, sends as much, and has the ids of all */
	double received = request->parallelism.pipeline > 1
				  ? 32 * (double)request->parallelism.virtual_stages * (double)request->gradient_accumulation_steps
					    * sequences * length * (double)model->hidden_size : 0;

	if (weights > limit)
		est_fault_add(faults, "/model", EST_OUT_OF_RANGE,
			      "must need less than 2^60 bytes for its weights and states");
	else if (tokens + pairs + scores + received > limit)
		est_fault_add(faults, "/sequence_length", EST_OUT_OF_RANGE,
			      "must need less than 2^60 bytes of activations with this micro_batch_size and model");
}

static rule *const rules[] = {
	check_companions, check_freeze, check_checkpointing, check_ranks, check_stages, check_virtual_stages,
	check_model_parallel, check_attention,
	check_freezing, check_lora, check_quantization, check_objective, check_fused_step, est_sharding_check, check_size,
};

bool est_check(const struct est_request *request, const struct est_model *model, struct est_faults *faults)
{
	size_t i, before = faults->count;

	for (i = 0; i < sizeof(rules) / sizeof(rules[0]); i++)
		rules[i](request, model, faults);
	est_support_check(request, model, faults);
	return faults->count == before;
}
