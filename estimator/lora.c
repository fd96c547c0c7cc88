#include "estimator/lora.h"

#include <string.h>
#include "estimator/architecture.h"

/* ---- building */

static bool is_listed(const struct est_names *names, const char *name)
{
	for (int i = 0; i < names->count; i++) {
		const char *dot = strrchr(names->name[i], '.');

		if (strcmp(dot ? dot + 1 : names->name[i], name) == 0)
			return true;
	}
	return false;
}

static uint32_t adapter_parameter(struct est_pass *pass, uint64_t numel)
{
	return est_leaf_new(pass->tape, est_empty_as(pass->tape, numel, pass->parameter_element, EST_WEIGHTS), true, true);
}

static bool wrap(struct est_pass *pass, struct est_linear *linear)
{
	const struct est_lora *lora = &pass->request->lora;
	struct est_adapter *adapter = est_arena_take(pass->tape->arena, 1, sizeof(*adapter));

	if (!adapter)
		return false;
	adapter->a = (struct est_linear){ .in = linear->in, .out = (uint64_t)lora->rank };
	adapter->b = (struct est_linear){ .in = (uint64_t)lora->rank, .out = linear->out };
	adapter->a.weight = adapter_parameter(pass, linear->in * (uint64_t)lora->rank);
	adapter->b.weight = adapter_parameter(pass, (uint64_t)lora->rank * linear->out);
	adapter->dropout = lora->dropout;
	adapter->dora = lora->dora;
	if (lora->dora)
		adapter->magnitude = adapter_parameter(pass, linear->out);
	for (unsigned i = 0; i < 2; i++) {
		const struct est_linear *part = i == 0 ? &adapter->a : &adapter->b;

		pass->tape->leaves[part->weight].rows = part->out;
		pass->tape->leaves[part->weight].inner = true;
	}
	linear->adapter = adapter;
	return true;
}

/* "all-linear" is every linear layer but the head */
static bool is_target(const struct est_pass *pass, const struct est_module *module)
{
	const struct est_names *targets = &pass->request->lora.target_modules;

	return module->kind == EST_MODULE_LINEAR && est_module_exists(pass->model, module)
	       && (targets->all || is_listed(targets, module->name));
}

static bool wrap_layers(struct est_pass *pass)
{
	for (int64_t i = 0; i < pass->model->num_hidden_layers; i++)
		for (const struct est_module *module = est_layer_modules(pass->model, i); module->offset != SIZE_MAX; module++)
			if (is_target(pass, module)
			    && !wrap(pass, (struct est_linear *)((char *)&pass->layers[i] + module->offset)))
				return false;
	return true;
}

/* OPT-350m's project_in and project_out, beside its narrower embedding */
static bool wrap_projections(struct est_pass *pass)
{
	const struct est_names *targets = &pass->request->lora.target_modules;

	if (!pass->project_in.out)
		return true;
	if ((targets->all || is_listed(targets, "project_out")) && !wrap(pass, &pass->project_out))
		return false;
	return (!targets->all && !is_listed(targets, "project_in")) || wrap(pass, &pass->project_in);
}

/* autocast_adapter_dtype: the adapters, made in the base's dtype, are cast to fp32 when all are there */
static void cast_adapters(struct est_pass *pass, uint32_t first, uint8_t element)
{
	for (uint32_t i = first; i < pass->tape->leaf_count; i++) {
		struct est_leaf *leaf = &pass->tape->leaves[i];
		struct est_tensor old = leaf->value;

		if (old.element == element)
			continue;
		leaf->value = est_hold(est_empty_as(pass->tape, old.numel, element, EST_WEIGHTS));
		leaf->value.requires_grad = true;
		leaf->value.source = old.source;
		est_drop(pass->tape, old);
	}
}

/* modules_to_save: a trainable copy in the base's dtype; the original stays. Tied ones part. */
static void save_modules(struct est_pass *pass)
{
	const struct est_names *saved = &pass->request->lora.modules_to_save;
	uint64_t numel = (uint64_t)pass->model->vocab_size * pass->lm_head.in;

	if (is_listed(saved, "embed_tokens") || is_listed(saved, "wte") || is_listed(saved, "embed_in"))
		pass->embed_tokens = adapter_parameter(pass, numel);
	if (is_listed(saved, "lm_head") || is_listed(saved, "embed_out"))
		pass->lm_head.weight = adapter_parameter(pass, numel);
}

bool est_lora_build(struct est_pass *pass)
{
	uint32_t first = pass->tape->leaf_count;

	if (!wrap_projections(pass) || !wrap_layers(pass))
		return false;
	cast_adapters(pass, first, pass->request->lora.adapter_dtype == EST_FP32 ? EST_32BIT : EST_16BIT);
	save_modules(pass);
	return true;
}

/* ---- forward */

/* lora_B(lora_A(dropout(x))) * scaling */
static struct est_tensor update(struct est_tape *tape, const struct est_adapter *adapter, struct est_tensor x)
{
	struct est_tensor y = est_linear(tape, &adapter->a, est_dropout(tape, x, adapter->dropout));

	return est_mul_scalar(tape, est_linear(tape, &adapter->b, y));
}

struct est_tensor est_adapted_linear(struct est_tape *tape, const struct est_linear *linear, struct est_tensor x)
{
	const struct est_adapter *adapter = linear->adapter;
	uint8_t adapter_element = est_leaf_tensor(tape, adapter->a.weight).element;
	struct est_linear base = *linear;
	struct est_tensor input = est_hold(x), result, cast, sum;
	uint8_t result_element;
	bool quantized = linear->base != EST_BASE_DENSE;

	base.adapter = NULL;
	result = est_linear(tape, &base, input);
	result_element = result.element;
	if (linear->base == EST_BASE_4BIT)
		result = est_contiguous(tape, result); /* peft clones it */
	result = est_hold(result);
	/* over a quantised base autocast casts, else peft does */
	cast = est_hold(quantized && tape->autocast ? est_alias(tape, input) : est_to(tape, input, adapter_element));
	sum = adapter->dora ? est_dora(tape, linear, cast, result) : update(tape, adapter, cast);
	if (quantized && !tape->autocast)
		sum = est_to(tape, sum, result_element);
	sum = est_add(tape, result, sum);
	est_drop(tape, result);
	if (!quantized)
		sum = est_to(tape, sum, result_element);
	est_drop(tape, cast);
	est_finish(tape, x);
	return sum;
}
