#include <stdio.h>
#include <string.h>
#include "config/default_rules.h"
#include "config/frameworks.h"
#include "config/read.h"
#include "estimator/mlx.h"

static bool is_older(int64_t version, int64_t than)
{
	return version != 0 && version < than;
}

static const char *precision_of_adapters(const struct cfg_rule_input *input, double *ret)
{
	*ret = EST_BF16_MIXED;
	return est_has_adapters(input->request) ? "adapters in fp32 under bf16 autocast: PEFT's default" : NULL;
}

static const char *optimizer_of_old_torch(const struct cfg_rule_input *input, double *ret)
{
	*ret = EST_ADAMW_TORCH;
	return is_older(input->request->versions.torch, 2008)
		? "before torch 2.8 the Trainer's default is adamw_torch" : NULL;
}

static const char *outputs_of_accelerate(const struct cfg_rule_input *input, double *ret)
{
	enum est_precision precision = input->request->precision;

	*ret = true;
	if (!cfg_runs_accelerate(input->request))
		return NULL;
	return est_is_mixed(precision) || precision == EST_BF16_AUTOCAST
		? "accelerate casts outputs to fp32 under autocast" : NULL;
}

static const char *attention_of_model(const struct cfg_rule_input *input, double *ret)
{
	*ret = EST_EAGER;
	if (input->request->framework > EST_DEEPSPEED) /* which have model code of their own */
		return NULL;
	return input->model->refuses_sdpa ? "the model's class refuses sdpa" : NULL;
}

static const char *loss_of_liger(const struct cfg_rule_input *input, double *ret)
{
	const struct est_request *request = input->request;

	*ret = EST_LOSS_LIGER;
	if (request->liger_kernel && request->objective == EST_REWARD)
		return "liger_kernel fuses the head with the loss, as RewardTrainer leaves it";
	if (!request->liger_kernel || (request->framework == EST_TRL && !is_older(request->versions.trl, 1016)))
		return NULL; /* TRL 1.16 keeps its own head beside Liger's kernels */
	return "liger_kernel fuses the head with the loss";
}

static const char *loss_of_old_trl(const struct cfg_rule_input *input, double *ret)
{
	*ret = EST_LOSS_STANDARD;
	return input->request->framework == EST_TRL && is_older(input->request->versions.trl, 1000)
		? "before 1.0 TRL used the model's own loss" : NULL;
}

static const char *loss_of_objective(const struct cfg_rule_input *input, double *ret)
{
	const struct est_request *request = input->request;
	enum est_objective objective = request->objective;

	*ret = objective == EST_ORPO || objective == EST_REWARD ? EST_LOSS_STANDARD : EST_LOSS_CHUNKED;
	if (objective == EST_ORPO)
		return "ORPO's trainer takes whole logits";
	if (objective == EST_REWARD && !request->liger_kernel)
		return "a score for each sequence, and no logits";
	if (objective != EST_DPO && objective != EST_KTO && objective != EST_GRPO)
		return NULL;
	return is_older(request->versions.trl, 1000) ? NULL : "the trainers of TRL 1.x compute log-probabilities in tiles";
}

static const char *kbit_of_old_trl(const struct cfg_rule_input *input, double *ret)
{
	*ret = true;
	return input->request->framework == EST_TRL && is_older(input->request->versions.trl, 1000)
		? "before 1.0 TRL prepared quantised models itself" : NULL;
}

static bool is_orpo(const struct est_request *request)
{
	return request->framework == EST_TRL && request->objective == EST_ORPO;
}

static const char *kbit_of_orpo(const struct cfg_rule_input *input, double *ret)
{
	*ret = true;
	return is_orpo(input->request) ? "ORPO's trainer calls prepare_model_for_kbit_training still" : NULL;
}

static const char *adapters_of_orpo(const struct cfg_rule_input *input, double *ret)
{
	*ret = EST_FP32;
	return is_orpo(input->request) ? "ORPO's trainer leaves adapters as PEFT makes them" : NULL;
}

static const char *loaded_by_trl(const struct cfg_rule_input *input, double *ret)
{
	const struct est_request *request = input->request;

	*ret = EST_FP32;
	return request->framework == EST_TRL && est_has_adapters(request) && !is_older(request->versions.trl, 1000)
	       && !cfg_runs_deepspeed(request) /* whose engine casts it */
		? "TRL loads a model by name in float32 (create_model_from_path)" : NULL;
}

static const char *kbit_of_type(const struct cfg_rule_input *input, double *ret)
{
	*ret = false;
	return input->request->quantization.type == EST_MXFP4 ? "what was MXFP4 is trained over in bf16" : NULL;
}

static const char *adapters_of_old_peft(const struct cfg_rule_input *input, double *ret)
{
	*ret = input->request->base_dtype;
	return is_older(input->request->versions.peft, 12) && !is_older(input->request->versions.peft, 6)
		? "PEFT 0.6 to 0.11 keeps adapters in the base's dtype" : NULL;
}

static const char *clip_of_fused_step(const struct cfg_rule_input *input, double *ret)
{
	*ret = 0;
	return input->request->fuse_optimizer_in_backward
		? "with the step in backward there is nothing left to clip" : NULL;
}

static const char *type_of_bits(const struct cfg_rule_input *input, double *ret)
{
	*ret = EST_INT8;
	return input->request->quantization.bits == 8 ? "8 bits: bitsandbytes' LLM.int8" : NULL;
}

static const char *bits_of_type(const struct cfg_rule_input *input, double *ret)
{
	*ret = 8;
	return input->request->quantization.type == EST_INT8 ? "int8 has 8 bits" : NULL;
}

static const char *group_of_type(const struct cfg_rule_input *input, double *ret)
{
	enum est_quantization_type type = input->request->quantization.type;

	*ret = 128;
	return type == EST_GPTQ || type == EST_HQQ ? "128 is the habit of gptq and hqq" : NULL;
}

static const char *layers_of_mlx(const struct cfg_rule_input *input, double *ret)
{
	*ret = (double)est_mlx_trained_layers(input->request, input->model);
	return est_mlx_wanted(input->request) ? "mlx-lm's num_layers: the last 16 layers, or all where there are fewer" : NULL;
}

static const char *reference_of_objective(const struct cfg_rule_input *input, double *ret)
{
	const struct est_request *request = input->request;
	bool kept = request->objective == EST_DPO || request->objective == EST_KTO
		|| (request->objective == EST_GRPO && request->beta > 0);

	*ret = est_has_adapters(request) ? EST_REFERENCE_ADAPTER : EST_REFERENCE_MODEL;
	if (!kept)
		return NULL;
	return est_has_adapters(request) ? "the base with the adapter switched off" : "a second copy of the model";
}

static const char *task_of_model(const struct cfg_rule_input *input, double *ret)
{
	static const struct {
		const char *model_type;
		enum est_task task;
	} tasks[] = {
		{ "bert", EST_MASKED_LM }, { "roberta", EST_MASKED_LM }, { "modernbert", EST_MASKED_LM },
		{ "deberta-v2", EST_MASKED_LM }, { "distilbert", EST_MASKED_LM }, { "xlm-roberta", EST_MASKED_LM },
		{ "t5", EST_SEQUENCE_TO_SEQUENCE }, { "mt5", EST_SEQUENCE_TO_SEQUENCE },
		{ "bart", EST_SEQUENCE_TO_SEQUENCE },
	};
	size_t i;

	for (i = 0; i < sizeof(tasks) / sizeof(tasks[0]); i++) {
		*ret = tasks[i].task;
		if (!strcmp(input->model->model_type, tasks[i].model_type))
			return "the model's kind";
	}
	return NULL;
}

/* GPT-2 and BERT have fewer than the contract's default. */
static const char *sequence_of_model(const struct cfg_rule_input *input, double *ret)
{
	const struct est_field *field = est_field_find("sequence_length");
	int64_t positions = input->model->max_position_embeddings;

	*ret = (double)positions;
	return positions > 0 && (double)positions < field->fallback ? "as many positions as the model has" : NULL;
}

static const char *sequence_of_trl(const struct cfg_rule_input *input, double *ret)
{
	int64_t positions = input->model->max_position_embeddings;

	*ret = positions > 0 && positions < 1024 ? (double)positions : 1024;
	return input->request->framework == EST_TRL && input->request->objective != EST_GRPO ? "TRL's max_length is 1024" : NULL;
}

static const char *target_of_sequence(const struct cfg_rule_input *input, double *ret)
{
	*ret = (double)input->request->sequence_length;
	return "as long as sequence_length";
}

static const char *alpha_of_rank(const struct cfg_rule_input *input, double *ret)
{
	*ret = 2 * (double)input->request->lora.rank;
	return "twice the rank";
}

static const char *checkpoint_of_old_transformers(const struct cfg_rule_input *input, double *ret)
{
	*ret = true;
	return is_older(input->request->versions.transformers, 5000)
		? "before Transformers 5 the checkpoint wrapped the layer from outside" : NULL;
}

static const char *reentrant_of_old_transformers(const struct cfg_rule_input *input, double *ret)
{
	*ret = true;
	return input->request->framework == EST_TRANSFORMERS && is_older(input->request->versions.transformers, 5000)
		? "before Transformers 5 gradient_checkpointing_enable() was reentrant" : NULL;
}

/* In order: a rule may look at fields above its own. over: stronger than the trainer's row. */
static const struct {
	const char *field;
	cfg_default_rule *rule;
	bool over;
} rules[] = {
	{ "parallelism.context_backend", cfg_backend_of_strategy, false },
	{ "parallelism.strategy", cfg_strategy_of_gpus, false },
	{ "precision", cfg_precision_of_deepspeed, true },
	{ "precision", cfg_precision_of_fsdp, true },
	{ "precision", precision_of_adapters, false },
	{ "precision", cfg_precision_of_pipeline, false },
	{ "optimizer", optimizer_of_old_torch, false },
	{ "outputs_to_fp32", outputs_of_accelerate, false },
	{ "attention", attention_of_model, true },
	{ "loss", loss_of_old_trl, true },
	{ "loss", loss_of_liger, true },
	{ "loss", loss_of_objective, true },
	{ "use_reentrant", reentrant_of_old_transformers, false },
	{ "max_grad_norm", clip_of_fused_step, true },
	{ "lora.alpha", alpha_of_rank, false },
	{ "base_dtype", loaded_by_trl, false },
	{ "lora.adapter_dtype", adapters_of_old_peft, false },
	{ "lora.adapter_dtype", adapters_of_orpo, true },
	{ "quantization.type", type_of_bits, false },
	{ "quantization.bits", bits_of_type, false },
	{ "quantization.group_size", group_of_type, false },
	{ "quantization.prepare_kbit", kbit_of_old_trl, true },
	{ "quantization.prepare_kbit", kbit_of_orpo, true },
	{ "quantization.prepare_kbit", kbit_of_type, true },
	{ "trainable_layers", layers_of_mlx, false },
	{ "reference_model", reference_of_objective, false },
	{ "task", task_of_model, false },
	{ "sequence_length", sequence_of_trl, false },
	{ "sequence_length", sequence_of_model, false },
	{ "target_length", target_of_sequence, false },
	{ "parallelism.wrap", cfg_wrap_of_adapters, false },
	{ "parallelism.wrap", cfg_wrap_of_experts, true },
	{ "quantization.quant_storage", cfg_storage_of_shards, false },
	{ "parallelism.pipeline_schedule", cfg_schedule_of_stages, false },
	{ "parallelism.virtual_stages", cfg_stages_of_schedule, false },
	{ "parallelism.reshard_after_forward", cfg_reshard_of_pipeline, false },
	{ "parallelism.param_dtype", cfg_dtype_of_precision, false },
	{ "parallelism.reduce_dtype", cfg_dtype_of_precision, false },
	{ "parallelism.output_dtype", cfg_dtype_of_precision, false },
	{ "parallelism.grad_accum_dtype", cfg_communication_of_precision, false },
	{ "parallelism.communication_data_type", cfg_communication_of_ulysses, false },
	{ "parallelism.communication_data_type", cfg_communication_of_precision, false },
	{ "parallelism.overlap_comm", cfg_overlap_of_zero3, false },
	{ "parallelism.checkpoint_outside_unit", checkpoint_of_old_transformers, false },
};

static void take(struct est_request *request, const struct est_field *field, double value, const char *why,
		 struct cfg_reasons *reasons)
{
	if (est_field_is_named(field, request))
		return;
	est_field_set(field, request, value);
	reasons->text[field - est_request_fields] = why;
}

/* "q_proj v_proj" -> the list. */
static void set_names(struct est_names *names, const char *text)
{
	names->count = 0;
	while (*text && names->count < EST_NAMES_MAX) {
		size_t length = strcspn(text, " ");

		snprintf(names->name[names->count++], EST_NAME_MAX, "%.*s", (int)length, text);
		text += length + strspn(text + length, " ");
	}
}

static void apply_framework(struct est_request *request, struct cfg_reasons *reasons)
{
	const struct cfg_default *row = cfg_frameworks[request->framework].defaults;

	for (; row->field; row++) {
		const struct est_field *field;

		if (!(row->methods >> request->method & 1))
			continue;
		field = est_field_find(row->field);
		if (row->names && !est_field_is_named(field, request))
			set_names((struct est_names *)(void *)((char *)request + field->offset), row->names);
		take(request, field, row->value, row->source, reasons);
	}
}

void cfg_defaults_apply(struct est_request *request, const struct est_model *model, struct cfg_reasons *ret_reasons)
{
	const struct cfg_rule_input input = { request, model };
	size_t i;

	memset(ret_reasons, 0, sizeof(*ret_reasons));
	apply_framework(request, ret_reasons);
	for (i = 0; i < sizeof(rules) / sizeof(rules[0]); i++) {
		double value;
		const char *why = rules[i].rule(&input, &value);
		const struct est_field *field;

		if (!why)
			continue;
		field = est_field_find(rules[i].field);
		if (rules[i].over || !ret_reasons->text[field - est_request_fields])
			take(request, field, value, why, ret_reasons);
	}
}
