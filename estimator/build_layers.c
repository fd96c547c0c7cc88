/* The modules of a model's layers, as its constructor makes them. */
#include "estimator/build.h"

#include <string.h>
#include "estimator/expert_parallel.h"
#include "estimator/generation.h"
#include "estimator/lora.h"

struct est_tensor est_parameter_empty(struct est_pass *pass, uint64_t numel, uint8_t element)
{
	if (pass->schedule)
		return (struct est_tensor){ .numel = numel, .element = element };
	return est_empty_as(pass->tape, numel, element, EST_WEIGHTS);
}

uint32_t est_build_vector(struct est_pass *pass, uint64_t numel)
{
	struct est_tensor value = est_parameter_empty(pass, numel, pass->parameter_element);
	bool trained = pass->trains && !pass->frozen;
	uint32_t leaf = est_leaf_new(pass->tape, value, trained, true);

	pass->tape->leaves[leaf].idle = trained && pass->idle;
	return leaf;
}

uint32_t est_build_matrix(struct est_pass *pass, uint64_t rows, uint64_t columns)
{
	uint32_t leaf = est_build_vector(pass, rows * columns);

	pass->tape->leaves[leaf].rows = rows;
	return leaf;
}

/* ---- modules */

void est_build_linear(struct est_pass *pass, struct est_linear *linear, uint64_t in, uint64_t out, bool bias)
{
	linear->in = in;
	linear->out = out;
	linear->has_bias = bias;
	linear->module = est_modules_new(pass->tape, 3);
	if (pass->quantizes && pass->request->quantization.type == EST_GPTQ)
		linear->weight = est_gptq_pack(pass, linear);
	else if (pass->quantizes && pass->request->quantization.type == EST_HQQ)
		linear->weight = est_hqq_quantize(pass, linear);
	else if (pass->quantizes)
		linear->weight = est_quantize(pass, linear);
	else
		linear->weight = est_build_matrix(pass, out, in);
	if (!bias)
		return;
	linear->bias = est_build_vector(pass, out);
	pass->tape->leaves[linear->bias].of_4bit = pass->quantizes && linear->base == EST_BASE_4BIT;
}

void est_build_norm(struct est_pass *pass, struct est_norm_weights *norm, uint64_t width)
{
	enum est_norm kind = pass->model->norm;

	norm->width = width;
	norm->module = est_modules_new(pass->tape, 1);
	norm->weight = kind == EST_NORM_NONPARAMETRIC ? EST_NO_LEAF : est_build_vector(pass, width);
	norm->bias = kind == EST_LAYERNORM ? est_build_vector(pass, width) : EST_NO_LEAF;
	if (pass->tensor.splits_sequence && width == (uint64_t)pass->model->hidden_size)
		pass->tape->leaves[norm->weight].unsummed = true;
}

/* nn.LayerNorm in a model of other norms */
static void build_layer_norm(struct est_pass *pass, struct est_norm_weights *norm, uint64_t width)
{
	norm->width = width;
	norm->module = est_modules_new(pass->tape, 1);
	norm->weight = est_build_vector(pass, width);
	norm->bias = est_build_vector(pass, width);
}

static bool has_bias(const struct est_model *model, enum est_bias bias)
{
	return (bias == EST_BIAS_QKV && model->qkv_bias) || (bias == EST_BIAS_O && model->o_bias)
	       || (bias == EST_BIAS_MLP && model->mlp_bias) || (bias == EST_BIAS_MIXER && model->mixer_bias);
}

/* A router is no nn.Linear: never quantised. Its correction bias is a buffer. Before Transformers 5 it was one, which
 * bitsandbytes takes as any other and GPTQ leaves. */
static void build_router(struct est_pass *pass, struct est_linear *router)
{
	const struct est_model *model = pass->model;
	bool quantizes = pass->quantizes, linear = est_is_old_transformers(&pass->request->versions);
	uint8_t element = pass->parameter_element;

	pass->quantizes = quantizes && linear && pass->request->quantization.type != EST_GPTQ;
	if (est_architecture_row(model->architecture)->fp32_router)
		pass->parameter_element = EST_32BIT;
	est_build_linear(pass, router, (uint64_t)model->hidden_size, (uint64_t)model->num_experts, model->expert_bias);
	pass->parameter_element = element;
	router->flat = true;
	pass->tape->leaves[router->weight].inner = true;
	pass->quantizes = quantizes;
	if (model->router_correction_bias && pass->request->parallelism.expert <= 1)
		est_empty_as(pass->tape, (uint64_t)model->num_experts, EST_32BIT, EST_BUFFERS);
}

/* a 3-D parameter */
static uint32_t stack(struct est_pass *pass, uint64_t count, uint64_t rows, uint64_t columns)
{
	uint64_t numel = count * rows * columns;
	uint32_t leaf;

	if (est_is_mxfp4(pass->request)) {
		leaf = est_leaf_new(pass->tape, est_mxfp4_dequantize(pass, numel), false, true);
		pass->tape->leaves[leaf].rows = count * rows;
	} else {
		leaf = est_build_matrix(pass, count * rows, columns);
	}

	pass->tape->leaves[leaf].stack = count;
	return leaf;
}

/* an nn.Linear within a layer whose input is a matrix of tokens */
static void build_of_expert(struct est_pass *pass, struct est_linear *linear, uint64_t in, uint64_t out)
{
	est_build_linear(pass, linear, in, out, false);
	linear->flat = true;
	pass->tape->leaves[linear->weight].inner = true;
	pass->tape->leaves[linear->weight].linear = true;
}

/* w1, w2 and w3 of each expert */
static void build_experts_apart(struct est_pass *pass, struct est_experts *experts)
{
	uint64_t count = (uint64_t)pass->model->num_experts, hidden = (uint64_t)pass->model->hidden_size;
	uint64_t width = (uint64_t)pass->model->moe_intermediate_size;

	experts->apart = est_arena_take(pass->tape->arena, count, sizeof(*experts->apart));
	for (uint64_t i = 0; i < count && experts->apart; i++) {
		build_of_expert(pass, &experts->apart[i].w1, hidden, width);
		build_of_expert(pass, &experts->apart[i].w2, width, hidden);
		build_of_expert(pass, &experts->apart[i].w3, hidden, width);
	}
}

/* torchtitan's w1, w2 and w3 of the experts that a rank has, and the buffers that count what each gets and balance it */
static void build_experts_of_rank(struct est_pass *pass, struct est_experts *experts)
{
	uint64_t count = est_expert_share(pass->request, pass->model), hidden = (uint64_t)pass->model->hidden_size;
	uint64_t width = (uint64_t)pass->model->moe_intermediate_size;

	est_modules_new(pass->tape, 1);
	experts->permuted_indices = est_titan_permutation(pass);
	experts->w1 = stack(pass, count, width, hidden);
	experts->w2 = stack(pass, count, hidden, width);
	experts->w3 = stack(pass, count, width, hidden);
	for (unsigned i = 0; i < 2; i++)
		est_empty_as(pass->tape, (uint64_t)pass->model->num_experts, EST_32BIT, EST_BUFFERS);
}

/* gate_up_proj and down_proj of all experts, each in one */
static void build_experts(struct est_pass *pass, struct est_experts *experts)
{
	const struct est_model *model = pass->model;
	uint64_t count = (uint64_t)model->num_experts, hidden = (uint64_t)est_model_expert_width(model);
	uint64_t width = (uint64_t)model->moe_intermediate_size, widening = model->gated_mlp ? 2 : 1;

	if (est_is_old_transformers(&pass->request->versions)) {
		build_experts_apart(pass, experts);
		return;
	}
	if (pass->request->parallelism.expert > 1) {
		build_experts_of_rank(pass, experts);
		return;
	}
	est_modules_new(pass->tape, 1);
	experts->gate_up_proj = stack(pass, count, widening * width, hidden);
	experts->gate_up_proj_bias = model->expert_bias ? est_build_vector(pass, count * widening * width) : EST_NO_LEAF;
	experts->down_proj = stack(pass, count, hidden, width);
	experts->down_proj_bias = model->expert_bias ? est_build_vector(pass, count * hidden) : EST_NO_LEAF;
}

/* tril(ones()), which _init_weights() makes once more, to copy it */
static void build_triangle(struct est_tape *tape, uint64_t numel)
{
	struct est_tensor ones = est_empty_as(tape, numel, EST_BYTE, EST_BUFFERS), again;

	est_empty_as(tape, numel, EST_BYTE, EST_BUFFERS);
	est_drop(tape, ones);
	ones = est_empty_as(tape, numel, EST_BYTE, EST_BUFFERS);
	again = est_empty_as(tape, numel, EST_BYTE, EST_BUFFERS);
	est_drop(tape, ones);
	est_drop(tape, again);
}

void est_build_buffer(struct est_pass *pass, enum est_module_kind kind)
{
	uint64_t positions = (uint64_t)pass->model->max_position_embeddings;

	if (kind == EST_MODULE_SINUSOIDS)
		est_empty_as(pass->tape, positions * est_rotary_width(pass->model), EST_32BIT, EST_BUFFERS);
	else
		build_triangle(pass->tape, positions * positions);
}

/* Two parameters and two buffers of one element each. */
static void build_xielu(struct est_pass *pass, struct est_layer *layer)
{
	layer->alpha_p = est_build_vector(pass, 1);
	layer->alpha_n = est_build_vector(pass, 1);
	pass->tape->leaves[layer->alpha_p].module = pass->tape->leaves[layer->alpha_n].module = layer->act_fn;
	for (unsigned i = 0; i < 2; i++)
		est_empty_as(pass->tape, 1, pass->parameter_element, EST_BUFFERS);
}

static void build_sinks(struct est_pass *pass, const struct est_layer *layer, uint32_t *sinks)
{
	*sinks = est_build_vector(pass, (uint64_t)pass->model->num_attention_heads);
	pass->tape->leaves[*sinks].module = layer->self_attn;
}

/* _keep_in_fp32_modules: T5's wo, which Transformers does not quantise either */
static bool stays_dense(const struct est_pass *pass, const struct est_module *module)
{
	return est_is_left_dense(pass->request, pass->model)
	       || (pass->model->num_decoder_layers > 0 && strcmp(module->name, "wo") == 0);
}

void est_build_cut(struct est_pass *pass, struct est_linear *linear, enum est_cut cut)
{
	if (pass->tensor.ranks <= 1)
		return;
	linear->cut = cut;
	linear->group = &pass->tensor;
	pass->tape->leaves[linear->weight].parts = cut ? pass->tensor.ranks : 0;
	if (linear->has_bias && cut == EST_CUT_OUTPUTS)
		pass->tape->leaves[linear->bias].parts = pass->tensor.ranks;
}

/* Of what lies beside attention and MLP, optim_target_modules finds nothing by their names. */
static bool is_beside_blocks(const struct est_module *module)
{
	return module->offset == offsetof(struct est_layer, per_layer_input_gate)
	       || module->offset == offsetof(struct est_layer, per_layer_projection);
}

/* Transformers' own convolution and delta rule work on permuted views of these projections, and so do their gradients; the
 * kernels' gradients lie as the projections do. */
static bool comes_back_permuted(const struct est_versions *versions, enum est_width out)
{
	switch (out) {
	case EST_WIDTH_GATES:
		return true;
	case EST_WIDTH_SSM_CONV:
	case EST_WIDTH_DELTA_MIXED:
		return !versions->causal_conv1d;
	case EST_WIDTH_DELTA_HEADS:
	case EST_WIDTH_DELTA_BA:
		return !versions->flash_linear_attention;
	default:
		return false;
	}
}

static void build_projection(struct est_pass *pass, const struct est_module *module, struct est_linear *linear)
{
	bool quantizes = pass->quantizes, routes = module->out == EST_WIDTH_EXPERT_COUNT;
	uint8_t element = pass->parameter_element;

	pass->quantizes = quantizes && !stays_dense(pass, module);
	if (routes && est_architecture_row(pass->model->architecture)->fp32_router)
		pass->parameter_element = EST_32BIT;
	est_build_linear(pass, linear, est_width(pass->model, module->in), est_width(pass->model, module->out),
		     has_bias(pass->model, module->bias));
	pass->quantizes = quantizes;
	pass->parameter_element = element;
	est_build_cut(pass, linear, est_cut_of(module));
	pass->tape->leaves[linear->weight].inner = true;
	pass->tape->leaves[linear->weight].linear = !is_beside_blocks(module);
	linear->permuted = pass->batch > 1 /* else it is a matrix still, as it lies */
			   && comes_back_permuted(&pass->request->versions, module->out);
	linear->flat = module->in == EST_WIDTH_EXPERT_LATENT || module->out == EST_WIDTH_EXPERT_LATENT;
	linear->flat |= module->out == EST_WIDTH_EXPERT_COUNT;
	if (est_architecture_row(pass->model->architecture)->flat_shared_experts || pass->request->parallelism.expert > 1)
		linear->flat = module->in == EST_WIDTH_SHARED || module->out == EST_WIDTH_SHARED || module->out == EST_WIDTH_SHARED_GATE;
}

/* nn.Conv1d with a group of its own for each channel */
static void build_conv(struct est_pass *pass, struct est_mixer *mixer, uint64_t channels)
{
	mixer->conv_weight = est_build_vector(pass, channels * (uint64_t)pass->model->conv_kernel);
	mixer->conv_bias = pass->model->conv_bias ? est_build_vector(pass, channels) : EST_NO_LEAF;
}

/* A buffer with one factor for each feature of Mamba-2's projection. */
static void build_multipliers(struct est_pass *pass, struct est_tensor *ret)
{
	*ret = est_buffer(pass->tape, est_width(pass->model, EST_WIDTH_SSM_PROJECTED), pass->parameter_element);
}

static bool is_of_mixture(const struct est_module *module)
{
	return module->kind == EST_MODULE_ROUTER || module->kind == EST_MODULE_EXPERTS || module->in == EST_WIDTH_SHARED
	       || module->out == EST_WIDTH_SHARED || module->out == EST_WIDTH_SHARED_GATE;
}

static void build_layer(struct est_pass *pass, const struct est_module *module, struct est_layer *layer)
{
	for (; module->offset != SIZE_MAX; module++) {
		void *member = (char *)layer + module->offset;
		uint32_t first = pass->tape->leaf_count;

		if (!est_module_exists(pass->model, module))
			continue;
		pass->idle = est_is_indexer(module);
		if (module->kind == EST_MODULE_NORM)
			est_build_norm(pass, member, est_width(pass->model, module->out));
		else if (module->kind == EST_MODULE_LAYER_NORM)
			build_layer_norm(pass, member, est_width(pass->model, module->out));
		else if (module->kind == EST_MODULE_ROUTER)
			build_router(pass, member);
		else if (module->kind == EST_MODULE_EXPERTS)
			build_experts(pass, member);
		else if (module->kind == EST_MODULE_SINUSOIDS || module->kind == EST_MODULE_TRIANGLE)
			est_build_buffer(pass, module->kind);
		else if (module->kind == EST_MODULE_CONV)
			build_conv(pass, &layer->mixer, est_width(pass->model, module->out));
		else if (module->kind == EST_MODULE_VECTOR)
			*(uint32_t *)member = est_build_vector(pass, est_width(pass->model, module->out));
		else if (module->kind == EST_MODULE_MULTIPLIERS)
			build_multipliers(pass, member);
		else if (module->kind == EST_MODULE_XIELU)
			build_xielu(pass, layer);
		else if (module->kind == EST_MODULE_SINKS)
			build_sinks(pass, layer, member);
		else
			build_projection(pass, module, member);
		for (uint32_t i = first; i < pass->tape->leaf_count && is_of_mixture(module); i++)
			pass->tape->leaves[i].mixture = layer->mlp;
		pass->idle = false;
	}
}

static void name_blocks(struct est_tape *tape, struct est_layer *layer)
{
	layer->self_attn = est_modules_new(tape, 3);
	layer->mlp = layer->self_attn + 1;
	layer->act_fn = layer->self_attn + 2;
}

void est_build_layers(struct est_pass *pass)
{
	const struct est_model *model = pass->model;
	struct est_model space;

	pass->quantizes = pass->request->method == EST_QLORA && !est_is_mxfp4(pass->request);
	for (int64_t i = 0; i < est_model_stacked_layers(pass->model); i++) {
		pass->frozen = (pass->request->method == EST_FREEZE) && i < pass->model->num_hidden_layers - pass->request->trainable_layers;
		pass->tape->unit = est_unit_of_layer(i);
		name_blocks(pass->tape, &pass->layers[i]);
		pass->model = est_model_of_layer(model, i, &space);
		build_layer(pass, est_layer_modules(pass->model, i), &pass->layers[i]);
		pass->model = model;
		if (model->architecture == EST_ARCH_GEMMA4)
			pass->layers[i].layer_scalar = est_buffer(pass->tape, 1, pass->parameter_element);
		pass->layers[i].sparse_mlp = i < model->num_sparse_mlp_layers;
		pass->layers[i].shares = est_model_layer_shares(model, i);
		pass->layers[i].kind = (enum est_block_kind)pass->model->layer_kinds[i];
		pass->layers[i].indexed = est_model_layer_is_indexed(pass->model, i);
		pass->layers[i].sparse = est_model_layer_is_sparse(pass->model, i);
		pass->layers[i].rotated = est_model_layer_is_rotated(pass->model, i);
		pass->layers[i].sliding = est_model_layer_is_sliding(pass->model, i);
	}
	pass->tape->unit = est_unit_of_layer(pass->model->num_hidden_layers);
	pass->quantizes = false;
}
