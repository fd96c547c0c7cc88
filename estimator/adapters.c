#include "estimator/adapters.h"

#include <stdint.h>
#include <string.h>
#include "estimator/litgpt.h"
#include "estimator/mlx.h"
#include "estimator/objective.h"

bool est_is_target(const struct est_names *targets, const char *name)
{
	for (int i = 0; i < targets->count; i++) {
		const char *dot = strrchr(targets->name[i], '.');

		if (!strcmp(dot ? dot + 1 : targets->name[i], name))
			return true;
	}
	return targets->all;
}

/* The embedding's name where it is not embed_tokens */
static const char *const embeddings[EST_ARCH_T5_GATED + 1] = {
	[EST_ARCH_GPT2] = "wte", [EST_ARCH_GPT_BIGCODE] = "wte", [EST_ARCH_GPTJ] = "wte", [EST_ARCH_GPT_NEO] = "wte",
	[EST_ARCH_MPT] = "wte", [EST_ARCH_GPT_NEOX] = "embed_in", [EST_ARCH_FALCON] = "word_embeddings",
	[EST_ARCH_BLOOM] = "word_embeddings", [EST_ARCH_MAMBA2] = "embeddings", [EST_ARCH_NEMOTRON_H] = "embeddings",
};

bool est_saves_embedding(const struct est_model *model, const struct est_names *saved)
{
	const char *name = embeddings[model->architecture];

	return saved->count > 0 && est_is_target(saved, name ? name : "embed_tokens");
}

bool est_saves_head(const struct est_model *model, const struct est_names *saved)
{
	return saved->count > 0 && (est_is_target(saved, "lm_head")
				    || (model->architecture == EST_ARCH_GPT_NEOX && est_is_target(saved, "embed_out")));
}

static int64_t saved_parameters(const struct est_model *model, const struct est_names *saved)
{
	int64_t width = model->embed_dim ? model->embed_dim : model->hidden_size;

	return (est_saves_embedding(model, saved) + est_saves_head(model, saved)) * model->vocab_size * width;
}

/* LoRA on a linear layer in x out. */
static int64_t adapter_parameters(const struct est_lora *lora, int64_t in, int64_t out)
{
	return lora->rank * (in + out) + (lora->dora ? out : 0);
}

/* The projections beside an embedding that is narrower than the model, once a model. */
static int64_t projection_parameters(const struct est_model *model, const struct est_lora *lora)
{
	static const char *const projections[] = { "project_in", "project_out" };
	int64_t count = 0;

	if (!model->embed_dim || model->embed_dim == model->hidden_size)
		return 0;
	for (size_t i = 0; i < sizeof(projections) / sizeof(projections[0]); i++)
		if (est_is_target(&lora->target_modules, projections[i]))
			count += adapter_parameters(lora, model->hidden_size, model->embed_dim);
	return count;
}

/* Gemma-4's projection to the inputs of all layers; Gemma-3n's into its other streams and back, which have numbers for names. */
static int64_t per_layer_input_parameters(const struct est_model *model, const struct est_lora *lora)
{
	int64_t h = model->hidden_size, count = 0;

	if (model->hidden_size_per_layer_input && est_is_target(&lora->target_modules, "per_layer_model_projection"))
		count = adapter_parameters(lora, h, model->hidden_size_per_layer_input * model->num_hidden_layers);
	if (model->altup_num_inputs && lora->target_modules.all)
		count += 2 * (model->altup_num_inputs - 1) * adapter_parameters(lora, h, h);
	return count;
}

/* Families of which PEFT knows that Transformers 5 has fused their experts: it translates names of the old layers.
 * None of those that see. */
static bool translates_names(const struct est_model *model)
{
	return model->architecture != EST_ARCH_UNSUPPORTED && model->num_experts > 0 && model->vision.tower == EST_TOWER_NONE
	       && !est_architecture_row(model->architecture)->experts_by_their_own_names;
}

bool est_adapts_gate_up(const struct est_model *model, const struct est_names *targets)
{
	return translates_names(model) && (est_is_target(targets, "gate_proj") || est_is_target(targets, "w1"));
}

bool est_adapts_down(const struct est_model *model, const struct est_names *targets)
{
	return translates_names(model) && (est_is_target(targets, "down_proj") || est_is_target(targets, "w2"));
}

bool est_adapts_parameters(const struct est_model *model, const struct est_names *targets)
{
	static const char *const names[] = { "gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3" };

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (translates_names(model) && est_is_target(targets, names[i]))
			return true;
	return false;
}

/* Names that stand for the experts' weights then, and no longer for a dense MLP or shared experts. */
static bool is_translated(const char *name)
{
	return !strcmp(name, "gate_proj") || !strcmp(name, "up_proj") || !strcmp(name, "down_proj");
}

bool est_is_adapted(const struct est_model *model, const struct est_names *targets, const struct est_module *module)
{
	if (module->kind == EST_MODULE_ROUTER)
		return translates_names(model) && est_is_target(targets, "gate");
	return module->kind == EST_MODULE_LINEAR && est_module_exists(model, module)
	       && !(translates_names(model) && is_translated(module->name)) && est_is_target(targets, module->name);
}

/* One matrix of rank r for each expert; gate and up, which are fused, get twice the rank. */
static int64_t expert_parameters(const struct est_model *model, const struct est_lora *lora)
{
	int64_t rank = lora->rank * model->num_experts, hidden = est_model_expert_width(model),
		width = model->moe_intermediate_size;
	int64_t gate_up = est_adapts_gate_up(model, &lora->target_modules) ? 2 * rank * (hidden + 2 * width) : 0;

	return gate_up + (est_adapts_down(model, &lora->target_modules) ? rank * (width + hidden) : 0);
}

bool est_is_part_adapted(const struct est_names *targets, const struct est_vision_part *part)
{
	if (part->kind == EST_PART_CONVOLUTION)
		return !targets->all && est_is_target(targets, part->name);
	return part->kind == EST_PART_LINEAR && est_is_target(targets, part->name);
}

struct tower_count {
	const struct est_lora *lora;
	int64_t parameters;
};

static bool count_part(void *context, const struct est_vision_part *part)
{
	struct tower_count *count = context;

	if (est_is_part_adapted(&count->lora->target_modules, part))
		count->parameters += adapter_parameters(count->lora, (int64_t)part->in, (int64_t)part->out);
	return true;
}

int64_t est_lora_tower_parameters(const struct est_model *model, const struct est_lora *lora)
{
	struct tower_count count = { .lora = lora };

	est_vision_each(model, count_part, &count);
	return count.parameters;
}

/* The adapters of one layer. */
static int64_t layer_parameters(const struct est_model *model, const struct est_lora *lora,
				const struct est_module *module)
{
	int64_t count = 0;

	for (; module->offset != SIZE_MAX; module++) {
		int64_t in = (int64_t)est_width(model, module->in), out = (int64_t)est_width(model, module->out);

		if (module->kind == EST_MODULE_EXPERTS)
			count += expert_parameters(model, lora);
		if (module->kind == EST_MODULE_ROUTER)
			out = model->num_experts;
		if (!est_is_adapted(model, &lora->target_modules, module)
		    || (!model->gated_mlp && !strcmp(module->name, "gate_proj")))
			continue;
		count += adapter_parameters(lora, in, out);
	}
	return count;
}

int64_t est_lora_parameters(const struct est_model *model, const struct est_lora *lora)
{
	int64_t count = saved_parameters(model, &lora->modules_to_save);
	struct est_model space;
	bool known = model->architecture != EST_ARCH_UNSUPPORTED; /* else Llama's modules stand for it */
	const struct est_module *counted = NULL;                  /* of a layer like the model, which came to one */
	int64_t one = 0;

	if (model->architecture == EST_ARCH_LITGPT)
		return est_litgpt_lora_parameters(model, lora);
	for (int64_t i = 0; i < est_model_stacked_layers(model); i++) {
		const struct est_model *shape = est_model_of_layer(model, i, &space);
		const struct est_module *modules = known ? est_layer_modules(model, i)
							 : est_architecture_row(EST_ARCH_LLAMA)->modules;

		if (shape != model || modules != counted) /* most layers are like the one before */
			one = layer_parameters(shape, lora, modules);
		counted = shape == model ? modules : NULL;
		count += one;
	}
	return count + projection_parameters(model, lora) + per_layer_input_parameters(model, lora);
}

static int64_t final_norm_parameters(const struct est_model *model)
{
	if (!model->final_norm || model->norm == EST_NORM_NONPARAMETRIC)
		return 0;
	return model->hidden_size * (model->norm == EST_LAYERNORM ? 2 : 1);
}

static int64_t head_parameters(const struct est_request *request, const struct est_model *model)
{
	int64_t width = model->embed_dim ? model->embed_dim : model->hidden_size;
	int64_t scores = (int64_t)est_objective_scores(request);

	return scores ? scores * width : model->vocab_size * width + (model->lm_head_bias ? model->vocab_size : 0);
}

static int64_t unfrozen_parameters(const struct est_request *request, const struct est_model *model)
{
	int64_t layers = request->trainable_layers;

	if (layers > model->num_hidden_layers)
		layers = model->num_hidden_layers;
	return est_model_last_layers_parameters(model, layers) + final_norm_parameters(model)
	       + head_parameters(request, model);
}

int64_t est_trainable_parameters(const struct est_request *request, const struct est_model *model)
{
	if (est_mlx_wanted(request))
		return est_mlx_trainable_parameters(request, model);
	switch (request->method) {
	case EST_LORA:
	case EST_QLORA:
		return est_lora_parameters(model, &request->lora)
		       + (request->freeze_vision_tower ? 0 : est_lora_tower_parameters(model, &request->lora));
	case EST_FREEZE:
		return unfrozen_parameters(request, model);
	case EST_FULL:
		break;
	}
	return model->parameters - (request->freeze_vision_tower ? est_vision_parameters(model) : 0);
}

bool est_upcasts_adapters(const struct est_request *request)
{
	return est_shards_dtensors(request) && request->parallelism.wrap != EST_WRAP_LAYER_ROOT && est_is_mixed(request->precision)
	       && request->method == EST_LORA;
}
