#include "estimator/lora.h"

#include <stddef.h>
#include "estimator/adapters.h"
#include "estimator/altup.h"
#include "estimator/build.h"
#include "estimator/kernels.h"
#include "estimator/litgpt.h"
#include "estimator/objective.h"
#include "estimator/zero3.h"

enum { LAYER = 1, DROPOUT = 2, MODULES }; /* PEFT's modules, counted from the one that is adapted */

/* ---- building */

static bool is_listed(const struct est_names *names, const char *name)
{
	return !names->all && est_is_target(names, name);
}

/* A trainable leaf of what was made as value. */
static uint32_t adapter_leaf(struct est_pass *pass, struct est_tensor value)
{
	uint32_t leaf;

	est_modules_new(pass->tape, 1);
	leaf = est_leaf_new(pass->tape, value, true, true);
	pass->tape->leaves[leaf].idle = pass->idle;
	return leaf;
}

static uint32_t adapter_parameter(struct est_pass *pass, uint64_t numel, uint8_t element)
{
	return adapter_leaf(pass, est_parameter_empty(pass, numel, element));
}

/* _move_adapter_to_device_of_base_layer: in the dtype of the base's weight, or in what bitsandbytes and HQQ compute;
 * packed integers leave them in fp32 */
static uint8_t moved_element(const struct est_pass *pass, const struct est_linear *base)
{
	if (base->base == EST_BASE_DENSE)
		return pass->parameter_element;
	return base->base == EST_BASE_INT8 || base->base == EST_BASE_GPTQ ? EST_32BIT : EST_16BIT;
}

/* lora_A and lora_B beside base; NULL when the arena is too small */
static struct est_adapter *make_adapter(struct est_pass *pass, const struct est_linear *base, uint64_t rank)
{
	const struct est_lora *lora = &pass->request->lora;
	uint8_t element = moved_element(pass, base);
	struct est_adapter *adapter = est_arena_take(pass->tape->arena, 1, sizeof(*adapter));

	if (!adapter)
		return NULL;
	if (pass->model->architecture == EST_ARCH_TORCHTUNE)
		adapter->forward = est_plain_lora_linear;
	adapter->a = (struct est_linear){ .in = base->in, .out = rank };
	adapter->b = (struct est_linear){ .in = rank, .out = base->out };
	adapter->a.weight = adapter_parameter(pass, base->in * rank, element);
	adapter->b.weight = adapter_parameter(pass, rank * base->out, element);
	adapter->has_dropout = lora->dropout > 0;
	adapter->dropout = est_objective_disables_dropout(pass->request) ? 0 : lora->dropout;
	adapter->scales = lora->rslora || (int64_t)lora->alpha != lora->rank;
	adapter->dora = lora->dora;
	if (lora->dora)
		adapter->magnitude = adapter_leaf(pass, est_dora_magnitude(pass, base, element));
	for (unsigned i = 0; i < 2; i++) {
		struct est_linear *part = i == 0 ? &adapter->a : &adapter->b;

		part->module = pass->tape->leaves[part->weight].module;
		pass->tape->leaves[part->weight].rows = part->out;
		pass->tape->leaves[part->weight].inner = true;
		pass->tape->leaves[part->weight].linear = true;
	}
	return adapter;
}

/* Of a layer that is cut over tensor-parallel ranks a rank has a part of lora_B's outputs, or of lora_A's inputs. */
static void cut_adapter(struct est_pass *pass, const struct est_linear *linear, struct est_adapter *adapter)
{
	if (linear->cut == EST_CUT_OUTPUTS)
		est_build_cut(pass, &adapter->b, EST_CUT_OUTPUTS);
	else if (linear->cut == EST_CUT_INPUTS)
		est_build_cut(pass, &adapter->a, EST_CUT_INPUTS);
}

bool est_lora_wrap(struct est_pass *pass, struct est_linear *linear)
{
	struct est_adapter *adapter = make_adapter(pass, linear, (uint64_t)pass->request->lora.rank);

	if (!adapter)
		return false;
	adapter->a.flat = adapter->b.flat = linear->flat;
	adapter->b.permuted = linear->permuted;
	pass->tape->leaves[adapter->a.weight].adapts = pass->tape->leaves[adapter->b.weight].adapts = linear->module;
	pass->tape->leaves[adapter->a.weight].shared_with = linear->module + LAYER; /* which asks for its dtype */
	cut_adapter(pass, linear, adapter);
	linear->adapter = adapter;
	return true;
}

static bool wrap(struct est_pass *pass, struct est_layer *layer, const struct est_module *module)
{
	bool wrapped;

	/* the clamped weight of correction_coefs is multiplied by itself */
	pass->idle = est_is_indexer(module) || module->offset == offsetof(struct est_layer, altup.correction_coefs)
		     || (module->offset == offsetof(struct est_layer, mixer.out_proj)
			 && est_kernel_runs_mamba2(pass->request, pass->model));
	wrapped = est_lora_wrap(pass, (struct est_linear *)((char *)layer + module->offset));
	pass->idle = false;
	return wrapped;
}

static bool wrap_layers(struct est_pass *pass, enum est_module_kind kind)
{
	const struct est_names *targets = &pass->request->lora.target_modules;

	struct est_model space;

	for (int64_t i = 0; i < est_model_stacked_layers(pass->model); i++) {
		const struct est_model *model = est_model_of_layer(pass->model, i, &space);

		pass->tape->unit = est_unit_of_layer(i);
		for (const struct est_module *module = est_layer_modules(model, i); module->offset != SIZE_MAX; module++)
			if (module->kind == kind && est_is_adapted(model, targets, module)
			    && !wrap(pass, &pass->layers[i], module))
				return false;
	}
	return true;
}

/* One lora_A and lora_B for all experts: of rank for each expert, and twice that for gate and up, which are fused. */
static bool wrap_experts(struct est_pass *pass, struct est_experts *experts)
{
	const struct est_model *model = pass->model;
	const struct est_names *targets = &pass->request->lora.target_modules;
	uint64_t rank = (uint64_t)(pass->request->lora.rank * model->num_experts);
	uint64_t hidden = (uint64_t)model->hidden_size, width = (uint64_t)model->moe_intermediate_size;
	const struct est_linear gate_up = { .in = hidden, .out = 2 * width }, down = { .in = width, .out = hidden };

	if (est_adapts_gate_up(model, targets) && !(experts->gate_up_adapter = make_adapter(pass, &gate_up, 2 * rank)))
		return false;
	return !est_adapts_down(model, targets) || (experts->down_adapter = make_adapter(pass, &down, rank));
}

/* Bare parameters after all modules. */
static bool wrap_parameters(struct est_pass *pass)
{
	for (int64_t i = 0; i < pass->model->num_hidden_layers; i++) {
		pass->tape->unit = est_unit_of_layer(i);
		if (pass->layers[i].sparse && !wrap_experts(pass, &pass->layers[i].experts))
			return false;
	}
	return wrap_layers(pass, EST_MODULE_ROUTER);
}

static bool wrap_part(void *context, const struct est_vision_part *part)
{
	struct est_pass *pass = context;
	struct est_adapter *adapter;
	uint32_t module = pass->tower;

	if (part->kind == EST_PART_LINEAR)
		pass->tower += MODULES;
	if (!est_is_part_adapted(&pass->request->lora.target_modules, part))
		return true;
	pass->tape->unit = est_tower_unit(pass->model, part);
	adapter = make_adapter(pass, &(struct est_linear){ .in = part->in, .out = part->out }, (uint64_t)pass->request->lora.rank);
	if (adapter && part->kind == EST_PART_LINEAR)
		pass->tape->leaves[adapter->a.weight].adapts = pass->tape->leaves[adapter->b.weight].adapts = module;
	return adapter;
}

/* The vision tower's, without a gradient as long as there are no images. */
static bool wrap_tower(struct est_pass *pass)
{
	bool wrapped;

	if (pass->request->freeze_vision_tower)
		return true;
	pass->idle = true;
	wrapped = est_vision_each(pass->model, wrap_part, pass);
	pass->idle = false;
	return wrapped;
}

/* modules_to_save of PEFT's SEQ_CLS: what is called classifier, which in RoBERTa is two layers */
static bool saves_head_dense(const struct est_pass *pass)
{
	return pass->request->task == EST_SEQUENCE_CLASSIFICATION && pass->model->architecture != EST_ARCH_BERT;
}

static const char *head_dense_name(const struct est_pass *pass)
{
	return pass->model->architecture == EST_ARCH_DISTILBERT ? "vocab_transform" : "dense";
}

/* OPT-350m's project_in and project_out, beside its narrower embedding */
static bool wrap_projections(struct est_pass *pass)
{
	const struct est_names *targets = &pass->request->lora.target_modules;

	if (!pass->project_in.out)
		return true;
	if ((targets->all || is_listed(targets, "project_out")) && !est_lora_wrap(pass, &pass->project_out))
		return false;
	return (!targets->all && !is_listed(targets, "project_in")) || est_lora_wrap(pass, &pass->project_in);
}

/* Beside the embedding of each layer */
static bool wrap_per_layer_projection(struct est_pass *pass)
{
	return !pass->per_layer_model_projection.out
	       || !est_is_target(&pass->request->lora.target_modules, "per_layer_model_projection")
	       || est_lora_wrap(pass, &pass->per_layer_model_projection);
}

/* The dense layer of an encoder's head, unless it is one of the classifier's modules and trained as a whole. */
static bool wrap_head(struct est_pass *pass)
{
	const struct est_names *targets = &pass->request->lora.target_modules;

	if (!pass->head_dense.out || saves_head_dense(pass))
		return true;
	return (!targets->all && !is_listed(targets, head_dense_name(pass))) || est_lora_wrap(pass, &pass->head_dense);
}

/* Sharded runs cast what they gather themselves */
uint8_t est_dtype_element(const struct est_request *request, enum est_dtype dtype)
{
	enum est_dtype cast = request->precision == EST_FP16_MIXED ? EST_FP16 : EST_BF16;
	bool casts = est_is_mixed(request->precision) || request->precision == EST_BF16_AUTOCAST;
	bool whole = request->parallelism.strategy == EST_SINGLE || request->parallelism.strategy == EST_DDP;

	if (dtype == EST_FP32)
		return EST_32BIT;
	return casts && whole && dtype != cast ? EST_OTHER_16BIT : EST_16BIT;
}

/* DeepSpeed's engine casts the whole module to 16 bits, adapters too. */
static uint8_t adapter_element(const struct est_request *request)
{
	if (est_zero_wanted(request) || est_zero3_wanted(request))
		return EST_16BIT;
	return est_upcasts_adapters(request) ? EST_32BIT : est_dtype_element(request, request->lora.adapter_dtype);
}

/* autocast_adapter_dtype: the adapters, made in the base's dtype, are cast to fp32 when all are there; magnitudes: DoRA's, which are
 * no matrices */
static void cast_adapters(struct est_pass *pass, uint32_t first, uint8_t matrices, uint8_t magnitudes)
{
	for (uint32_t i = first; i < pass->tape->leaf_count; i++) {
		struct est_leaf *leaf = &pass->tape->leaves[i];
		struct est_tensor old = leaf->value;
		uint8_t element = leaf->linear ? matrices : magnitudes;

		if (old.element == element)
			continue;
		leaf->value = est_hold(est_parameter_empty(pass, old.numel, element));
		leaf->value.requires_grad = true;
		leaf->value.source = old.source;
		est_drop(pass->tape, old);
	}
}

/* TRL's trainers but ORPO's: `if param.requires_grad and "lora_magnitude_vector" not in name` of a quantised model it becomes bf16, copies
 * of whole modules too */
static bool casts_trained(const struct est_request *request)
{
	return request->framework == EST_TRL && request->method == EST_QLORA && request->objective != EST_ORPO
	       && request->lora.adapter_dtype == EST_BF16;
}

uint8_t est_saved_element(const struct est_pass *pass)
{
	return est_upcasts_adapters(pass->request) ? EST_32BIT : pass->parameter_element;
}

/* A trainable copy of a matrix, which the optimizer takes for what the original is: a module of its own, called in the original's place. */
static uint32_t saved_matrix(struct est_pass *pass, uint32_t original, uint64_t rows, uint64_t columns)
{
	struct est_leaf *leaves = pass->tape->leaves;
	uint32_t copy;

	est_modules_new(pass->tape, 1);
	pass->tape->unit = leaves[original].unit;
	copy = adapter_parameter(pass, rows * columns, est_saved_element(pass));
	leaves[copy].rows = rows;
	leaves[copy].inner = leaves[original].inner;
	leaves[copy].linear = leaves[original].linear;
	return copy;
}

/* modules_to_save: a trainable copy; the original stays. Tied ones part. */
static void save_modules(struct est_pass *pass)
{
	const struct est_names *saved = &pass->request->lora.modules_to_save;
	uint64_t rows = (uint64_t)pass->model->vocab_size, columns = pass->lm_head.in;

	if (est_saves_embedding(pass->model, saved))
		pass->embed_tokens = saved_matrix(pass, pass->embed_tokens, rows, columns);
	if (est_saves_head(pass->model, saved))
		pass->lm_head.weight = saved_matrix(pass, pass->lm_head.weight, rows, columns);
	if (est_saves_head(pass->model, saved))
		pass->lm_head.module = pass->tape->leaves[pass->lm_head.weight].module;
}

/* A trainable copy of a whole linear layer. */
static void save_linear(struct est_pass *pass, struct est_linear *linear)
{
	linear->weight = saved_matrix(pass, linear->weight, linear->out, linear->in);
	if (linear->has_bias)
		linear->bias = adapter_parameter(pass, linear->out, est_saved_element(pass));
}

static void save_classifier(struct est_pass *pass)
{
	if (pass->request->task != EST_SEQUENCE_CLASSIFICATION)
		return;
	if (saves_head_dense(pass))
		save_linear(pass, &pass->head_dense);
	save_linear(pass, &pass->lm_head);
}

bool est_lora_build(struct est_pass *pass)
{
	uint32_t first = pass->tape->leaf_count;
	uint8_t element = adapter_element(pass->request);

	if (pass->model->architecture == EST_ARCH_LITGPT)
		return est_litgpt_lora_build(pass);
	pass->tape->unit = 0;
	if (!wrap_tower(pass) || !wrap_projections(pass) || !wrap_layers(pass, EST_MODULE_LINEAR) || !wrap_head(pass)
	    || !wrap_per_layer_projection(pass) || !est_altup_adapt(pass) || !wrap_parameters(pass))
		return false;
	cast_adapters(pass, first, element, casts_trained(pass->request) ? EST_32BIT : element);
	first = pass->tape->leaf_count;
	save_modules(pass);
	save_classifier(pass);
	if (casts_trained(pass->request))
		cast_adapters(pass, first, EST_16BIT, EST_16BIT);
	return true;
}

/* ---- forward */

static struct est_tensor drop_out(struct est_tape *tape, const struct est_linear *linear, struct est_tensor x)
{
	x = est_module_enter(tape, linear->module + DROPOUT, x);
	return est_module_leave(tape, linear->module + DROPOUT, est_dropout(tape, x, linear->adapter->dropout));
}

/* lora_B(lora_A(dropout(x))) * scaling */
static struct est_tensor update(struct est_tape *tape, const struct est_linear *linear, struct est_tensor x)
{
	const struct est_adapter *adapter = linear->adapter;
	struct est_tensor y = est_linear(tape, &adapter->a, drop_out(tape, linear, x));

	return est_mul_scalar(tape, est_linear(tape, &adapter->b, y));
}

/* result + the update, cast to element; 0: as it is. */
static struct est_tensor add_update(struct est_tape *tape, const struct est_linear *linear, struct est_tensor x,
				    uint8_t element, struct est_tensor result)
{
	struct est_tensor delta = update(tape, linear, x);

	if (element)
		delta = est_to(tape, delta, element);
	return linear->adds_in_place ? est_gptq_add(tape, linear, result, delta) : est_add(tape, result, delta);
}

/* The dtype of a weight that its module shows. */
static uint8_t element_of(const struct est_leaf *leaf)
{
	return leaf->ungathered_element ? leaf->ungathered_element : leaf->value.element;
}

/* Switched off, the adapter's layer calls what it is around. */
static struct est_tensor base_alone(struct est_tape *tape, const struct est_linear *linear, struct est_tensor x)
{
	struct est_linear base = *linear;

	base.adapter = NULL;
	x = est_linear(tape, &base, est_module_enter(tape, linear->module + LAYER, x));
	return est_module_leave(tape, linear->module + LAYER, x);
}

struct est_tensor est_adapted_linear(struct est_tape *tape, const struct est_linear *linear, struct est_tensor x)
{
	const struct est_adapter *adapter = linear->adapter;
	uint8_t adapter_element = element_of(&tape->leaves[adapter->a.weight]);
	struct est_linear base = *linear;
	struct est_tensor input, result, cast, sum;
	uint8_t result_element;
	/* over a quantised base autocast casts, else peft does */
	bool quantized = linear->base == EST_BASE_GPTQ  ? linear->adds_in_place
			 : linear->base == EST_BASE_HQQ ? tape->autocast : linear->base != EST_BASE_DENSE;

	if (tape->adapters_off)
		return base_alone(tape, linear, x);
	x = est_module_enter(tape, linear->module + LAYER, x);
	input = est_hold(x);
	base.adapter = NULL;
	result = est_linear(tape, &base, input);
	result_element = result.element;
	if (linear->base == EST_BASE_4BIT)
		result = est_contiguous(tape, result); /* peft clones it */
	result = est_hold(result);
	cast = est_hold(quantized && tape->autocast ? est_alias(tape, input) : est_to(tape, input, adapter_element));
	sum = adapter->dora ? est_dora(tape, linear, cast, result)
	      : add_update(tape, linear, cast, quantized && !tape->autocast ? result_element : 0, result);
	est_drop(tape, result);
	if (!quantized || (adapter->dora && !tape->autocast))
		sum = est_to(tape, sum, result_element);
	est_drop(tape, cast);
	est_finish(tape, x);
	return est_module_leave(tape, linear->module + LAYER, sum);
}

struct est_tensor est_plain_lora_linear(struct est_tape *tape, const struct est_linear *linear, struct est_tensor x)
{
	const struct est_adapter *adapter = linear->adapter;
	struct est_tensor input = est_hold(x), pretrained, lora, out;
	struct est_linear base = *linear;

	base.adapter = NULL;
	pretrained = est_hold(est_linear(tape, &base, input));
	lora = est_linear(tape, &adapter->a, est_dropout(tape, input, adapter->dropout));
	lora = est_hold(est_mul_scalar(tape, est_linear(tape, &adapter->b, lora)));
	out = est_add(tape, pretrained, lora);
	est_drop(tape, pretrained);
	est_drop(tape, lora);
	est_finish(tape, x);
	return out;
}
