/* A model's parameters as leaves, in the order in which its constructor, a quantiser and PEFT make them. */
#include "estimator/build.h"

#include <string.h>
#include "estimator/architecture.h"
#include "estimator/encoder.h"
#include "estimator/litgpt.h"
#include "estimator/torchtune.h"
#include "estimator/lora.h"
#include "estimator/objective.h"
#include "estimator/generation.h"
#include "estimator/unsloth.h"

static bool freezes(const struct est_pass *pass)
{
	return pass->request->method == EST_FREEZE;
}

struct est_tensor est_parameter_empty(struct est_pass *pass, uint64_t numel, uint8_t element)
{
	if (pass->schedule)
		return (struct est_tensor){ .numel = numel, .element = element };
	return est_empty_as(pass->tape, numel, element, EST_WEIGHTS);
}

static uint32_t parameter(struct est_pass *pass, uint64_t numel)
{
	struct est_tensor value = est_parameter_empty(pass, numel, pass->parameter_element);
	bool trained = pass->trains && !pass->frozen;
	uint32_t leaf = est_leaf_new(pass->tape, value, trained, true);

	pass->tape->leaves[leaf].idle = trained && pass->idle;
	return leaf;
}

static uint32_t matrix(struct est_pass *pass, uint64_t rows, uint64_t columns)
{
	uint32_t leaf = parameter(pass, rows * columns);

	pass->tape->leaves[leaf].rows = rows;
	return leaf;
}

/* ---- modules */

static void build_linear(struct est_pass *pass, struct est_linear *linear, uint64_t in, uint64_t out, bool bias)
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
		linear->weight = matrix(pass, out, in);
	if (!bias)
		return;
	linear->bias = parameter(pass, out);
	pass->tape->leaves[linear->bias].of_4bit = pass->quantizes && linear->base == EST_BASE_4BIT;
}

static void build_norm(struct est_pass *pass, struct est_norm_weights *norm, uint64_t width)
{
	enum est_norm kind = pass->model->norm;

	norm->width = width;
	norm->module = est_modules_new(pass->tape, 1);
	norm->weight = kind == EST_NORM_NONPARAMETRIC ? EST_NO_LEAF : parameter(pass, width);
	norm->bias = kind == EST_LAYERNORM ? parameter(pass, width) : EST_NO_LEAF;
	if (pass->tensor.splits_sequence && width == (uint64_t)pass->model->hidden_size)
		pass->tape->leaves[norm->weight].unsummed = true;
}

/* nn.LayerNorm in a model of other norms */
static void build_layer_norm(struct est_pass *pass, struct est_norm_weights *norm, uint64_t width)
{
	norm->width = width;
	norm->module = est_modules_new(pass->tape, 1);
	norm->weight = parameter(pass, width);
	norm->bias = parameter(pass, width);
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
	build_linear(pass, router, (uint64_t)model->hidden_size, (uint64_t)model->num_experts, model->expert_bias);
	pass->parameter_element = element;
	router->flat = true;
	pass->tape->leaves[router->weight].inner = true;
	pass->quantizes = quantizes;
	if (model->router_correction_bias)
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
		leaf = matrix(pass, count * rows, columns);
	}

	pass->tape->leaves[leaf].stack = count;
	return leaf;
}

/* an nn.Linear within a layer whose input is a matrix of tokens */
static void build_of_expert(struct est_pass *pass, struct est_linear *linear, uint64_t in, uint64_t out)
{
	build_linear(pass, linear, in, out, false);
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
	est_modules_new(pass->tape, 1);
	experts->gate_up_proj = stack(pass, count, widening * width, hidden);
	experts->gate_up_proj_bias = model->expert_bias ? parameter(pass, count * widening * width) : EST_NO_LEAF;
	experts->down_proj = stack(pass, count, hidden, width);
	experts->down_proj_bias = model->expert_bias ? parameter(pass, count * hidden) : EST_NO_LEAF;
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

/* Of all positions: GPT-J's sines and cosines, or a boolean causal mask. */
static void build_buffer(struct est_pass *pass, enum est_module_kind kind)
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
	layer->alpha_p = parameter(pass, 1);
	layer->alpha_n = parameter(pass, 1);
	pass->tape->leaves[layer->alpha_p].module = pass->tape->leaves[layer->alpha_n].module = layer->act_fn;
	for (unsigned i = 0; i < 2; i++)
		est_empty_as(pass->tape, 1, pass->parameter_element, EST_BUFFERS);
}

static void build_sinks(struct est_pass *pass, const struct est_layer *layer, uint32_t *sinks)
{
	*sinks = parameter(pass, (uint64_t)pass->model->num_attention_heads);
	pass->tape->leaves[*sinks].module = layer->self_attn;
}

/* _keep_in_fp32_modules: T5's wo, which Transformers does not quantise either */
static bool stays_dense(const struct est_model *model, const struct est_module *module)
{
	return model->num_decoder_layers > 0 && strcmp(module->name, "wo") == 0;
}

/* The layer was built with the widths of this rank's part. The bias of a sum over ranks is whole. */
static void cut(struct est_pass *pass, struct est_linear *linear, enum est_cut cut)
{
	if (pass->tensor.ranks <= 1)
		return;
	linear->cut = cut;
	linear->group = &pass->tensor;
	pass->tape->leaves[linear->weight].parts = cut ? pass->tensor.ranks : 0;
	if (linear->has_bias && cut == EST_CUT_OUTPUTS)
		pass->tape->leaves[linear->bias].parts = pass->tensor.ranks;
}

static void build_projection(struct est_pass *pass, const struct est_module *module, struct est_linear *linear)
{
	bool quantizes = pass->quantizes;

	pass->quantizes = quantizes && !stays_dense(pass->model, module);
	build_linear(pass, linear, est_width(pass->model, module->in), est_width(pass->model, module->out),
		     has_bias(pass->model, module->bias));
	pass->quantizes = quantizes;
	cut(pass, linear, est_cut_of(module));
	pass->tape->leaves[linear->weight].inner = true;
	pass->tape->leaves[linear->weight].linear = true;
	linear->permuted = module->out == EST_WIDTH_GATES || module->out == EST_WIDTH_DELTA_HEADS
			   || module->out == EST_WIDTH_DELTA_BA || module->out == EST_WIDTH_SSM_CONV;
	linear->flat = module->in == EST_WIDTH_EXPERT_LATENT || module->out == EST_WIDTH_EXPERT_LATENT;
	linear->flat |= module->out == EST_WIDTH_EXPERT_COUNT;
	if (est_architecture_row(pass->model->architecture)->flat_shared_experts)
		linear->flat = module->in == EST_WIDTH_SHARED || module->out == EST_WIDTH_SHARED || module->out == EST_WIDTH_SHARED_GATE;
}

/* nn.Conv1d with a group of its own for each channel */
static void build_conv(struct est_pass *pass, struct est_mixer *mixer, uint64_t channels)
{
	mixer->conv_weight = parameter(pass, channels * (uint64_t)pass->model->conv_kernel);
	mixer->conv_bias = pass->model->conv_bias ? parameter(pass, channels) : EST_NO_LEAF;
}

/* A buffer with one factor for each feature of Mamba-2's projection. */
static void build_multipliers(struct est_pass *pass, struct est_tensor *ret)
{
	*ret = est_hold(est_empty_as(pass->tape, est_width(pass->model, EST_WIDTH_SSM_PROJECTED), pass->parameter_element, EST_BUFFERS));
}

static void build_layer(struct est_pass *pass, const struct est_module *module, struct est_layer *layer)
{

	for (; module->offset != SIZE_MAX; module++) {
		void *member = (char *)layer + module->offset;

		if (!est_module_exists(pass->model, module))
			continue;
		pass->idle = est_is_indexer(module);
		if (module->kind == EST_MODULE_NORM)
			build_norm(pass, member, est_width(pass->model, module->out));
		else if (module->kind == EST_MODULE_LAYER_NORM)
			build_layer_norm(pass, member, est_width(pass->model, module->out));
		else if (module->kind == EST_MODULE_ROUTER)
			build_router(pass, member);
		else if (module->kind == EST_MODULE_EXPERTS)
			build_experts(pass, member);
		else if (module->kind == EST_MODULE_SINUSOIDS || module->kind == EST_MODULE_TRIANGLE)
			build_buffer(pass, module->kind);
		else if (module->kind == EST_MODULE_CONV)
			build_conv(pass, &layer->mixer, est_width(pass->model, module->out));
		else if (module->kind == EST_MODULE_VECTOR)
			*(uint32_t *)member = parameter(pass, est_width(pass->model, module->out));
		else if (module->kind == EST_MODULE_MULTIPLIERS)
			build_multipliers(pass, member);
		else if (module->kind == EST_MODULE_XIELU)
			build_xielu(pass, layer);
		else if (module->kind == EST_MODULE_SINKS)
			build_sinks(pass, layer, member);
		else
			build_projection(pass, module, member);
		pass->idle = false;
	}
}

static void name_blocks(struct est_tape *tape, struct est_layer *layer)
{
	layer->self_attn = est_modules_new(tape, 3);
	layer->mlp = layer->self_attn + 1;
	layer->act_fn = layer->self_attn + 2;
}

static void build_layers(struct est_pass *pass)
{
	const struct est_model *model = pass->model;
	struct est_model space;

	pass->quantizes = pass->request->method == EST_QLORA && !est_is_mxfp4(pass->request);
	for (int64_t i = 0; i < est_model_stacked_layers(pass->model); i++) {
		pass->frozen = freezes(pass) && i < pass->model->num_hidden_layers - pass->request->trainable_layers;
		pass->tape->unit = est_unit_of_layer(i);
		name_blocks(pass->tape, &pass->layers[i]);
		pass->model = est_model_of_layer(model, i, &space);
		build_layer(pass, est_layer_modules(pass->model, i), &pass->layers[i]);
		pass->model = model;
		if (model->architecture == EST_ARCH_GEMMA4)
			pass->layers[i].layer_scalar = est_hold(est_empty_as(pass->tape, 1, pass->parameter_element, EST_BUFFERS));
		pass->layers[i].kind = (enum est_block_kind)pass->model->layer_kinds[i];
		pass->layers[i].indexed = est_model_layer_is_indexed(pass->model, i);
		pass->layers[i].sparse = est_model_layer_is_sparse(pass->model, i);
		pass->layers[i].rotated = est_model_layer_is_rotated(pass->model, i);
		pass->layers[i].sliding = est_model_layer_is_sliding(pass->model, i);
	}
	pass->tape->unit = est_unit_of_layer(pass->model->num_hidden_layers);
	pass->quantizes = false;
}

static void build_embeddings(struct est_pass *pass, uint64_t embed_dim)
{
	const struct est_model *model = pass->model;
	uint64_t hidden = (uint64_t)model->hidden_size;

	if (model->lacks_embedding)
		return;
	pass->frozen = freezes(pass) && !model->tie_word_embeddings;
	est_modules_new(pass->tape, 1);
	pass->embed_tokens = matrix(pass, (uint64_t)(model->vocab_size + model->extra_embed_rows), embed_dim);
	pass->tape->leaves[pass->embed_tokens].parts = pass->tensor.ranks;
	pass->frozen = freezes(pass);
	if (model->embedding_norm)
		build_norm(pass, &pass->embedding_norm, hidden);
	est_modules_new(pass->tape, 1);
	if (model->position == EST_LEARNED_POSITIONS)
		pass->embed_positions = matrix(pass, (uint64_t)(model->max_position_embeddings + model->position_offset), hidden);
	if (embed_dim == hidden)
		return;
	pass->quantizes = pass->request->method == EST_QLORA && !est_is_mxfp4(pass->request);
	build_linear(pass, &pass->project_out, hidden, embed_dim, false);
	build_linear(pass, &pass->project_in, embed_dim, hidden, false);
	pass->quantizes = false;
}

static void make_and_drop_head(struct est_pass *pass)
{
	const struct est_leaf *embedding = &pass->tape->leaves[pass->embed_tokens];

	if (pass->request->made_on_card && !pass->schedule)
		est_drop(pass->tape, est_hold(est_empty_as(pass->tape, embedding->value.numel, embedding->value.element, EST_WEIGHTS)));
}

static void build_head(struct est_pass *pass, uint64_t embed_dim)
{
	const struct est_model *model = pass->model;
	uint64_t scores = est_objective_scores(pass->request);

	pass->lm_head = (struct est_linear){ .in = embed_dim, .out = (uint64_t)model->vocab_size }; /* the widths are the embedding's too */
	if (model->lacks_head)
		return;
	pass->tape->unit = est_unit_of_layer(model->num_hidden_layers) + 1;
	if (scores) {
		build_linear(pass, &pass->lm_head, embed_dim, scores, false);
		return;
	}
	pass->lm_head = (struct est_linear){ .weight = pass->embed_tokens, .in = embed_dim, .out = (uint64_t)model->vocab_size,
					     .module = est_modules_new(pass->tape, 3) };
	pass->quantizes = model->architecture == EST_ARCH_LITGPT && pass->request->method == EST_QLORA; /* whatever is linear */
	if (model->tie_word_embeddings) {
		pass->tape->leaves[pass->embed_tokens].shared_with = pass->lm_head.module;
		make_and_drop_head(pass);
	} else {
		build_linear(pass, &pass->lm_head, embed_dim, (uint64_t)model->vocab_size, model->lm_head_bias);
	}
	cut(pass, &pass->lm_head, EST_CUT_OUTPUTS);
	pass->quantizes = false;
}

/* ---- for models that are no decoders */

uint32_t est_build_vector(struct est_pass *pass, uint64_t numel)
{
	return parameter(pass, numel);
}

uint32_t est_build_matrix(struct est_pass *pass, uint64_t rows, uint64_t columns)
{
	return matrix(pass, rows, columns);
}

void est_build_linear(struct est_pass *pass, struct est_linear *linear, uint64_t in, uint64_t out, bool bias)
{
	build_linear(pass, linear, in, out, bias);
}

void est_build_norm(struct est_pass *pass, struct est_norm_weights *norm, uint64_t width)
{
	build_norm(pass, norm, width);
}

void est_build_layers(struct est_pass *pass)
{
	build_layers(pass);
}

/* ---- dtypes */

static uint8_t element_of(const struct est_request *request)
{
	if (est_has_adapters(request))
		return request->base_dtype == EST_FP32 ? EST_32BIT : EST_16BIT;
	return request->precision == EST_BF16_MIXED || request->precision == EST_FP16_MIXED || request->precision == EST_PURE_FP32
		       ? EST_32BIT : EST_16BIT;
}

static void cast_leaf(struct est_pass *pass, struct est_leaf *leaf, uint8_t element)
{
	struct est_tensor old = leaf->value;

	leaf->value = est_hold(est_empty_as(pass->tape, old.numel, element, EST_WEIGHTS));
	leaf->value.source = old.source;
	est_drop(pass->tape, old);
}

/* peft's prepare_model_for_kbit_training: every parameter that is not quantised becomes fp32, but over GPTQ and HQQ */
static void upcast(struct est_pass *pass)
{
	if (pass->request->quantization.type == EST_GPTQ || pass->request->quantization.type == EST_HQQ)
		return;
	for (uint32_t i = 0; i < pass->tape->leaf_count; i++)
		if (pass->tape->leaves[i].value.element == EST_16BIT)
			cast_leaf(pass, &pass->tape->leaves[i], EST_32BIT);
	pass->parameter_element = EST_32BIT;
}

/* Linear4bit.forward casts its bias to the compute dtype for good. Here before the first one, as that is replayed for all. */
static void cast_biases_back(struct est_pass *pass)
{
	for (uint32_t i = 0; i < pass->tape->leaf_count; i++)
		if (pass->tape->leaves[i].of_4bit && pass->tape->leaves[i].value.element == EST_32BIT)
			cast_leaf(pass, &pass->tape->leaves[i], EST_16BIT);
}

/* TRL's peft_module_casting_to_bf16, after the adapters: the embedding and the head go back, norms stay */
static void cast_vocabulary_back(struct est_pass *pass)
{
	const uint32_t vocabulary[] = { pass->embed_tokens, pass->lm_head.weight };

	for (size_t i = 0; i < sizeof(vocabulary) / sizeof(vocabulary[0]); i++)
		if (pass->tape->leaves[vocabulary[i]].value.element == EST_32BIT)
			cast_leaf(pass, &pass->tape->leaves[vocabulary[i]], EST_16BIT);
	pass->parameter_element = EST_16BIT;
}

/* The shape of the first layer that attends in full, in the arena; NULL when that is too small. */
static const struct est_model *shape_of_full_layers(struct est_pass *pass)
{
	struct est_model *shape = est_arena_take(pass->tape->arena, 1, sizeof(*shape));
	int64_t layer = 0;

	while (layer + 1 < pass->model->num_hidden_layers && est_model_layer_is_sliding(pass->model, layer))
		layer++;
	return shape ? est_model_of_layer(pass->model, layer, shape) : NULL;
}

static bool build_model(struct est_pass *pass)
{
	const struct est_model *model = pass->model;
	uint64_t embed_dim = (uint64_t)(model->embed_dim ? model->embed_dim : model->hidden_size);
	bool final_norm_first = model->architecture == EST_ARCH_OPT, head_first = model->architecture == EST_ARCH_LITGPT;

	pass->layers = est_arena_take(pass->tape->arena, (size_t)est_model_stacked_layers(model), sizeof(*pass->layers));
	pass->cache = est_arena_take(pass->tape->arena, 4 * (size_t)model->num_decoder_layers + 2 * (size_t)model->num_hidden_layers + 1,
				     sizeof(*pass->cache));
	if (!pass->layers || !pass->cache)
		return false;
	if (model->global_head_dim && !(pass->full = shape_of_full_layers(pass)))
		return false;
	if (est_model_is_encoder(model)) {
		est_encoder_build(pass);
		return !pass->tape->exhausted;
	}
	pass->inner_count = est_has_adapters(pass->request) ? 3 : 1;
	pass->rotary_emb = est_modules_new(pass->tape, pass->inner_count + 1);
	pass->inner = pass->rotary_emb + 1;
	est_modules_new(pass->tape, 1); /* what follows is not called */
	est_tower_build(pass);
	if (head_first)
		build_head(pass, embed_dim);
	build_embeddings(pass, embed_dim);
	pass->frozen = false; /* the final norm and the head are trained */
	if (model->final_norm && final_norm_first)
		build_norm(pass, &pass->norm, (uint64_t)model->hidden_size);
	build_layers(pass);
	pass->frozen = false;
	if (model->final_norm && !final_norm_first)
		build_norm(pass, &pass->norm, (uint64_t)model->hidden_size);
	if (model->architecture == EST_ARCH_GPT_BIGCODE)
		build_buffer(pass, EST_MODULE_TRIANGLE);
	if (model->architecture == EST_ARCH_QWEN)
		est_qwen_build_tables(pass);
	/* rotary_emb.inv_freq and its original */
	for (unsigned i = 0; i < 2 * est_rope_count(pass); i++)
		est_empty_as(pass->tape, est_rotary_width(i < 2 && pass->full ? pass->full : model) / 2, EST_32BIT, EST_BUFFERS);
	if (head_first)
		est_litgpt_build_rope(pass);
	else
		build_head(pass, embed_dim);
	if (model->architecture == EST_ARCH_TORCHTUNE)
		est_torchtune_build_rope(pass);
	return !pass->tape->exhausted;
}

/* PEFT's task type SEQ_CLS saves the scoring head: a trained copy beside it */
static void save_score(struct est_pass *pass)
{
	uint64_t numel = pass->lm_head.in * pass->lm_head.out;

	pass->lm_head.weight = est_leaf_new(pass->tape, est_empty_as(pass->tape, numel, pass->parameter_element, EST_WEIGHTS), true, true);
}

bool est_pass_build(struct est_pass *pass, struct est_tape *tape, const struct est_model *model, const struct est_request *request)
{
	*pass = (struct est_pass){ .tape = tape, .model = model, .request = request,
				   .batch = (uint64_t)request->micro_batch_size * est_objective_sequences(request),
				   .sequence = est_rank_length(request) };
	pass->tokens = pass->batch * pass->sequence;
	pass->tensor = est_tensor_group_of(request);
	pass->parameter_element = element_of(request);
	pass->trains = !est_has_adapters(request);
	est_modules_new(tape, est_unit_of_layer(est_model_stacked_layers(model))); /* the model and its layers */
	if (est_schedule_wanted(request) && !(pass->schedule = est_arena_take(tape->arena, 1, sizeof(*pass->schedule))))
		return false;
	pass->fills_cache = model->caches_in_training && request->framework != EST_TRL
			    && request->checkpointing == EST_CHECKPOINT_NONE;
	if (!build_model(pass))
		return false;
	if (est_prepares_kbit(request))
		upcast(pass);
	if (est_has_adapters(request) && !est_lora_build(pass))
		return false;
	cast_biases_back(pass);
	if (est_casts_vocabulary_back(request))
		cast_vocabulary_back(pass);
	if (est_has_adapters(request) && est_objective_scores(request) && !est_model_is_encoder(model))
		save_score(pass);
	est_unsloth_load(pass);
	if (pass->schedule)
		pass->parameter_element = est_schedule_init(pass->schedule, pass->tape, model, request);
	return !tape->exhausted;
}

bool est_pass_build_reference(struct est_pass *reference, struct est_pass *pass)
{
	uint32_t first = pass->tape->leaf_count;

	*reference = (struct est_pass){ .tape = pass->tape, .model = pass->model, .request = pass->request, .batch = pass->batch,
					.sequence = pass->sequence, .tokens = pass->tokens,
					.parameter_element = element_of(pass->request) };
	pass->reference = reference;
	if (!build_model(reference))
		return false;
	for (uint32_t i = first; i < pass->tape->leaf_count; i++)
		pass->tape->leaves[i].reference = pass->request->method == EST_FULL;
	return true;
}
