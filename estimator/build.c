/* A model's parameters as leaves, in the order in which its constructor, a quantiser and PEFT make them. */
#include "estimator/build.h"

#include <string.h>
#include "estimator/altup.h"
#include "estimator/architecture.h"
#include "estimator/encoder.h"
#include "estimator/litgpt.h"
#include "estimator/torchtune.h"
#include "estimator/lora.h"
#include "estimator/objective.h"
#include "estimator/per_layer_inputs.h"
#include "estimator/generation.h"
#include "estimator/unsloth.h"

static void build_embeddings(struct est_pass *pass, uint64_t embed_dim)
{
	const struct est_model *model = pass->model;
	uint64_t hidden = (uint64_t)model->hidden_size;

	if (model->lacks_embedding)
		return;
	/* tied, it is the head; a head of scores has weights of its own */
	pass->frozen = pass->request->method == EST_FREEZE
		       && (!model->tie_word_embeddings || est_objective_scores(pass->request));
	est_modules_new(pass->tape, 1);
	pass->embed_tokens = est_build_matrix(pass, (uint64_t)(model->vocab_size + model->extra_embed_rows), embed_dim);
	pass->tape->leaves[pass->embed_tokens].parts = pass->tensor.ranks;
	pass->frozen = (pass->request->method == EST_FREEZE);
	if (model->embedding_norm)
		est_build_norm(pass, &pass->embedding_norm, hidden);
	est_modules_new(pass->tape, 1);
	if (model->position == EST_LEARNED_POSITIONS)
		pass->embed_positions = est_build_matrix(pass,
							 (uint64_t)(model->max_position_embeddings + model->position_offset), hidden);
	if (embed_dim == hidden)
		return;
	pass->quantizes = pass->request->method == EST_QLORA && !est_is_mxfp4(pass->request);
	est_build_linear(pass, &pass->project_out, hidden, embed_dim, false);
	est_build_linear(pass, &pass->project_in, embed_dim, hidden, false);
	pass->quantizes = false;
}

static void make_and_drop_head(struct est_pass *pass)
{
	const struct est_leaf *embedding = &pass->tape->leaves[pass->embed_tokens];

	if (pass->request->made_on_card && !pass->schedule)
		est_drop(pass->tape, est_hold(est_empty_as(pass->tape, embedding->value.numel, embedding->value.element,
							   EST_WEIGHTS)));
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
		est_build_linear(pass, &pass->lm_head, embed_dim, scores, false);
		return;
	}
	pass->lm_head = (struct est_linear){ .weight = pass->embed_tokens, .in = embed_dim, .out = (uint64_t)model->vocab_size,
					     .module = est_modules_new(pass->tape, 3) };
	pass->quantizes = model->architecture == EST_ARCH_LITGPT && pass->request->method == EST_QLORA; /* whatever is linear */
	if (model->tie_word_embeddings) {
		pass->tape->leaves[pass->embed_tokens].shared_with = pass->lm_head.module;
		make_and_drop_head(pass);
		pass->lm_head.has_bias = model->lm_head_bias; /* only the weight is the embedding's */
		if (model->lm_head_bias)
			pass->lm_head.bias = est_build_vector(pass, (uint64_t)model->vocab_size);
	} else {
		est_build_linear(pass, &pass->lm_head, embed_dim, (uint64_t)model->vocab_size, model->lm_head_bias);
	}
	est_build_cut(pass, &pass->lm_head, EST_CUT_OUTPUTS);
	pass->quantizes = false;
}

/* ---- dtypes */

uint8_t est_loaded_element(const struct est_request *request)
{
	if (est_has_adapters(request) && !est_has_master(request))
		return est_dtype_element(request, request->base_dtype);
	return est_is_mixed(request->precision) || request->precision == EST_PURE_FP32 ? EST_32BIT : EST_16BIT;
}

/* A parameter that will be sharded has no memory yet. */
static void cast_leaf(struct est_pass *pass, struct est_leaf *leaf, uint8_t element)
{
	struct est_tensor old = leaf->value;

	if (!old.storage) {
		leaf->value.element = element;
		return;
	}
	leaf->value = est_hold(est_empty_as(pass->tape, old.numel, element, EST_WEIGHTS));
	leaf->value.source = old.source;
	leaf->value.requires_grad = old.requires_grad;
	est_drop(pass->tape, old);
}

/* peft's prepare_model_for_kbit_training: every parameter that is not quantised becomes fp32, but over GPTQ and HQQ */
static void upcast(struct est_pass *pass)
{
	if (pass->request->quantization.type == EST_GPTQ || pass->request->quantization.type == EST_HQQ)
		return;
	for (uint32_t i = pass->first_leaf; i < pass->tape->leaf_count; i++)
		if (est_is_16bit(pass->tape->leaves[i].value.element) && !pass->tape->leaves[i].packed)
			cast_leaf(pass, &pass->tape->leaves[i], EST_32BIT);
	pass->parameter_element = EST_32BIT;
}

/* Linear4bit.forward casts its bias to the compute dtype for good. Here before the first one, as that is replayed
 * for all. */
static void cast_biases_back(struct est_pass *pass)
{
	for (uint32_t i = pass->first_leaf; i < pass->tape->leaf_count; i++)
		if (pass->tape->leaves[i].of_4bit && pass->tape->leaves[i].value.element == EST_32BIT)
			cast_leaf(pass, &pass->tape->leaves[i], EST_16BIT);
}

/* TRL's peft_module_casting_to_bf16, after the adapters: the embedding and the head go back, both what the model was made with and
 * what PEFT trains in their place; norms stay */
static void cast_vocabulary_back(struct est_pass *pass)
{
	const uint32_t vocabulary[] = { pass->base_embed_tokens, pass->base_lm_head, pass->embed_tokens, pass->lm_head.weight };

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
	pass->cache = est_arena_take(pass->tape->arena, 4 * (size_t)model->num_decoder_layers
				     + 2 * (size_t)model->num_hidden_layers + 1, sizeof(*pass->cache));
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
		est_build_norm(pass, &pass->norm, (uint64_t)model->hidden_size);
	est_build_layers(pass);
	pass->frozen = false;
	if (model->final_norm && !final_norm_first)
		est_build_norm(pass, &pass->norm, (uint64_t)model->hidden_size);
	if (model->architecture == EST_ARCH_GPT_BIGCODE)
		est_build_buffer(pass, EST_MODULE_TRIANGLE);
	if (model->architecture == EST_ARCH_QWEN)
		est_qwen_build_tables(pass);
	/* rotary_emb.inv_freq and its original */
	for (unsigned i = 0; i < 2 * est_rope_count(pass); i++)
		est_empty_as(pass->tape, est_rotary_width(i < 2 && pass->full ? pass->full : model) / 2, EST_32BIT, EST_BUFFERS);
	est_per_layer_inputs_build(pass);
	est_altup_build(pass);
	if (head_first)
		est_litgpt_build_rope(pass);
	else
		build_head(pass, embed_dim);
	if (model->architecture == EST_ARCH_TORCHTUNE)
		est_torchtune_build_rope(pass);
	pass->base_embed_tokens = pass->embed_tokens;
	pass->base_lm_head = pass->lm_head.weight;
	return !pass->tape->exhausted;
}

/* PEFT's task type SEQ_CLS saves the scoring head: a trained copy beside it */
static void save_score(struct est_pass *pass)
{
	uint64_t numel = pass->lm_head.in * pass->lm_head.out;

	pass->tape->unit = pass->tape->leaves[pass->lm_head.weight].unit;
	pass->lm_head.weight = est_leaf_new(pass->tape, est_parameter_empty(pass, numel, est_saved_element(pass)), true, true);
	pass->tape->leaves[pass->lm_head.weight].rows = pass->lm_head.out;
}

bool est_pass_build(struct est_pass *pass, struct est_tape *tape, const struct est_model *model,
		    const struct est_request *request)
{
	*pass = (struct est_pass){ .tape = tape, .model = model, .request = request,
				   .batch = (uint64_t)request->micro_batch_size * est_objective_sequences(request),
				   .sequence = est_rank_length(request), .first_leaf = tape->leaf_count };
	pass->tokens = pass->batch * pass->sequence;
	pass->tensor = est_tensor_group_of(request);
	pass->parameter_element = est_loaded_element(request);
	tape->halves = request->precision == EST_PURE_FP16 || request->precision == EST_FP16_MIXED
		       || request->precision == EST_FP16_MASTER;
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
		pass->parameter_element = est_schedule_init(pass->schedule, pass->tape, pass->first_leaf, model, request);
	return !tape->exhausted;
}

bool est_pass_build_reference(struct est_pass *reference, struct est_pass *pass)
{
	uint32_t first = pass->tape->leaf_count;

	*reference = (struct est_pass){ .tape = pass->tape, .model = pass->model, .request = pass->request,
					.batch = pass->batch, .sequence = pass->sequence, .tokens = pass->tokens,
					.parameter_element = est_loaded_element(pass->request) };
	pass->reference = reference;
	if (pass->schedule && !(reference->schedule = est_arena_take(pass->tape->arena, 1, sizeof(*reference->schedule))))
		return false;
	if (!build_model(reference))
		return false;
	if (est_has_adapters(pass->request))
		reference->inner_count = 1; /* PEFT is around the other */
	for (uint32_t i = first; i < pass->tape->leaf_count; i++)
		pass->tape->leaves[i].reference = pass->request->method == EST_FULL;
	if (reference->schedule)
		reference->parameter_element = est_schedule_init_reference(reference->schedule, pass->schedule, first, pass->model);
	return !pass->tape->exhausted;
}
