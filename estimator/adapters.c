#include "estimator/adapters.h"

#include <string.h>

/* Widths of a layer's linear modules. EMBED stands for the projections beside a narrower embedding, once a model. */
enum width { HIDDEN, QUERY, KEY, QKV, MLP, GATE_UP, EMBED };

struct module {
	const char *name; /* NULL ends a list */
	enum width in, out;
};

static const struct module split_modules[] = {
	{ "q_proj", HIDDEN, QUERY },
	{ "k_proj", HIDDEN, KEY },
	{ "v_proj", HIDDEN, KEY },
	{ "o_proj", QUERY, HIDDEN },
	{ "gate_proj", HIDDEN, MLP },
	{ "up_proj", HIDDEN, MLP },
	{ "down_proj", MLP, HIDDEN },
	{ 0 }
};

static const struct module phi3_modules[] = {
	{ "qkv_proj", HIDDEN, QKV },
	{ "o_proj", QUERY, HIDDEN },
	{ "gate_up_proj", HIDDEN, GATE_UP },
	{ "down_proj", MLP, HIDDEN },
	{ 0 }
};

static const struct module gpt2_modules[] = {
	{ "c_attn", HIDDEN, QKV },
	{ "c_proj", QUERY, HIDDEN },
	{ "c_fc", HIDDEN, MLP },
	{ "c_proj", MLP, HIDDEN },
	{ 0 }
};

static const struct module neox_modules[] = {
	{ "query_key_value", HIDDEN, QKV },
	{ "dense", QUERY, HIDDEN },
	{ "dense_h_to_4h", HIDDEN, MLP },
	{ "dense_4h_to_h", MLP, HIDDEN },
	{ 0 }
};

static const struct module opt_modules[] = {
	{ "q_proj", HIDDEN, QUERY },
	{ "k_proj", HIDDEN, KEY },
	{ "v_proj", HIDDEN, KEY },
	{ "out_proj", QUERY, HIDDEN },
	{ "fc1", HIDDEN, MLP },
	{ "fc2", MLP, HIDDEN },
	{ "project_in", EMBED, HIDDEN },
	{ "project_out", HIDDEN, EMBED },
	{ 0 }
};

static const struct module *modules_of(const struct est_model *model)
{
	switch (model->architecture) {
	case EST_ARCH_PHI3:
		return phi3_modules;
	case EST_ARCH_GPT2:
		return gpt2_modules;
	case EST_ARCH_GPT_NEOX:
		return neox_modules;
	case EST_ARCH_OPT:
		return opt_modules;
	default:
		return split_modules;
	}
}

static int64_t width_of(const struct est_model *model, enum width width)
{
	int64_t query = model->num_attention_heads * model->head_dim;
	int64_t key = model->num_key_value_heads * model->head_dim;

	switch (width) {
	case HIDDEN:
		return model->hidden_size;
	case QUERY:
		return query;
	case KEY:
		return key;
	case QKV:
		return query + 2 * key;
	case MLP:
		return model->intermediate_size;
	case GATE_UP:
		return 2 * model->intermediate_size;
	case EMBED:
		return model->embed_dim;
	}
	return 0;
}

/* How often the model has the module. */
static int64_t count_of(const struct est_model *model, const struct module *module)
{
	if (module->in == EMBED || module->out == EMBED)
		return model->embed_dim && model->embed_dim != model->hidden_size;
	if (!model->gated_mlp && !strcmp(module->name, "gate_proj"))
		return 0;
	return model->num_hidden_layers;
}

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

int64_t est_lora_parameters(const struct est_model *model, const struct est_lora *lora)
{
	int64_t count = lora->modules_to_save.count ? saved_parameters(model, &lora->modules_to_save) : 0;

	for (const struct module *module = modules_of(model); module->name; module++) {
		int64_t in = width_of(model, module->in), out = width_of(model, module->out);

		if (names(&lora->target_modules, module->name))
			count += count_of(model, module) * (lora->rank * (in + out) + (lora->dora ? out : 0));
	}
	return count;
}

static int64_t unfrozen_parameters(const struct est_model *model, int64_t layers)
{
	int64_t width = model->embed_dim ? model->embed_dim : model->hidden_size;
	int64_t head = model->vocab_size * width + (model->lm_head_bias ? model->vocab_size : 0);

	if (layers > model->num_hidden_layers)
		layers = model->num_hidden_layers;
	return layers * est_model_layer_parameters(model) + head;
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
