#include "estimator/adapters.h"

#include <stdint.h>
#include <string.h>
#include "estimator/architecture.h"

static bool names(const struct est_names *names, const char *module)
{
	for (int i = 0; i < names->count; i++) {
		const char *dot = strrchr(names->name[i], '.');

		if (!strcmp(dot ? dot + 1 : names->name[i], module))
			return true;
	}
	return names->all;
}

static int64_t saved_parameters(const struct est_model *model, const struct est_names *saved)
{
	static const char *const vocabulary[] = { "lm_head", "embed_out", "embed_tokens", "embed_in", "wte" };
	int64_t width = model->embed_dim ? model->embed_dim : model->hidden_size;
	int64_t count = 0;

	for (size_t i = 0; i < sizeof(vocabulary) / sizeof(vocabulary[0]); i++)
		if (names(saved, vocabulary[i]))
			count += model->vocab_size * width;
	return count;
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
		if (names(&lora->target_modules, projections[i]))
			count += adapter_parameters(lora, model->hidden_size, model->embed_dim);
	return count;
}

bool est_adapts_experts(const struct est_model *model, const struct est_names *targets)
{
	return targets->all && model->num_experts > 1 && model->architecture != EST_ARCH_GPT_OSS;
}

/* PEFT adapts the experts' weights as one matrix of rank r for each expert; gate and up, which are fused, get twice the rank. */
static int64_t expert_parameters(const struct est_model *model, const struct est_lora *lora)
{
	struct est_lora fused = *lora;

	fused.rank = lora->rank * model->num_experts;
	fused.dora = false;
	return est_adapts_experts(model, &lora->target_modules) ? adapter_parameters(&fused, 2 * 2 * model->moe_intermediate_size, 2 * model->hidden_size)
		+ adapter_parameters(&fused, model->moe_intermediate_size, model->hidden_size) : 0;
}

/* The adapters of one layer. */
static int64_t layer_parameters(const struct est_model *model, const struct est_lora *lora, const struct est_module *module)
{
	int64_t count = 0;

	for (; module->offset != SIZE_MAX; module++) {
		int64_t in = (int64_t)est_width(model, module->in), out = (int64_t)est_width(model, module->out);

		if (module->kind == EST_MODULE_EXPERTS)
			count += expert_parameters(model, lora);
		if (module->kind != EST_MODULE_LINEAR || !est_module_exists(model, module)
		    || !names(&lora->target_modules, module->name)
		    || (!model->gated_mlp && !strcmp(module->name, "gate_proj")))
			continue;
		count += adapter_parameters(lora, in, out);
	}
	return count;
}

int64_t est_lora_parameters(const struct est_model *model, const struct est_lora *lora)
{
	int64_t count = lora->modules_to_save.count ? saved_parameters(model, &lora->modules_to_save) : 0;
	bool known = model->architecture != EST_ARCH_UNSUPPORTED; /* else Llama's modules stand for it */

	for (int64_t i = 0; i < model->num_hidden_layers; i++)
		count += layer_parameters(model, lora, known ? est_layer_modules(model, i)
							     : est_architecture_row(EST_ARCH_LLAMA)->modules);
	return count + projection_parameters(model, lora);
}

static int64_t final_norm_parameters(const struct est_model *model)
{
	if (!model->final_norm || model->norm == EST_NORM_NONPARAMETRIC)
		return 0;
	return model->hidden_size * (model->norm == EST_LAYERNORM ? 2 : 1);
}

static int64_t unfrozen_parameters(const struct est_model *model, int64_t layers)
{
	int64_t width = model->embed_dim ? model->embed_dim : model->hidden_size;
	int64_t head = model->vocab_size * width + (model->lm_head_bias ? model->vocab_size : 0);

	if (layers > model->num_hidden_layers)
		layers = model->num_hidden_layers;
	return layers * est_model_layer_parameters(model) + final_norm_parameters(model) + head;
}

int64_t est_trainable_parameters(const struct est_request *request, const struct est_model *model)
{
	switch (request->method) {
	case EST_LORA:
	case EST_QLORA:
		return est_lora_parameters(model, &request->lora);
	case EST_FREEZE:
		return unfrozen_parameters(model, request->trainable_layers);
	case EST_FULL:
		break;
	}
	return model->parameters;
}
