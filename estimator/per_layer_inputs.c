/* What Gemma-4's smaller models give each layer beside the stream: a row of a second embedding that has one for every layer, and a
 * projection of the first. Gemma4TextModel.get_per_layer_inputs() and project_per_layer_inputs(), modeling_gemma4.py. */
#include "estimator/per_layer_inputs.h"

#include "estimator/build.h"
#include "estimator/fields.h"

static uint64_t width_of_all(const struct est_model *model)
{
	return (uint64_t)(model->hidden_size_per_layer_input * model->num_hidden_layers);
}

void est_per_layer_inputs_build(struct est_pass *pass)
{
	const struct est_model *model = pass->model;
	struct est_linear *projection = &pass->per_layer_model_projection;

	if (!model->hidden_size_per_layer_input)
		return;
	pass->frozen = pass->request->method == EST_FREEZE;
	est_modules_new(pass->tape, 1);
	pass->embed_tokens_per_layer = est_build_matrix(pass, (uint64_t)model->vocab_size_per_layer_input, width_of_all(model));
	pass->quantizes = pass->request->method == EST_QLORA;
	est_build_linear(pass, projection, (uint64_t)model->hidden_size, width_of_all(model), false);
	pass->tape->leaves[projection->weight].inner = true;
	pass->quantizes = false;
	est_build_norm(pass, &pass->per_layer_projection_norm, (uint64_t)model->hidden_size_per_layer_input);
	pass->frozen = false;
}

/* The rows of input_ids, scaled; held. Gemma-3n's table has fewer than its vocabulary: ids beyond are replaced first. */
static struct est_tensor embed(struct est_pass *pass)
{
	uint64_t rows = (uint64_t)pass->model->vocab_size_per_layer_input;
	bool replaces = pass->model->architecture == EST_ARCH_GEMMA3N;
	struct est_tensor ids = replaces ? est_buffer(pass->tape, pass->tokens, EST_INT64) : est_hold(est_alias(pass->tape, pass->input_ids));
	struct est_tensor x;

	x = est_hold(est_mul_scalar(pass->tape, est_embedding(pass->tape, ids, pass->embed_tokens_per_layer, rows,
							      width_of_all(pass->model))));
	est_drop(pass->tape, ids);
	return x;
}

/* (norm(projection(inputs_embeds) * scale) + embedded) * scale */
static void project(struct est_pass *pass, struct est_tensor inputs_embeds, struct est_tensor embedded)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor projected = est_linear(tape, &pass->per_layer_model_projection, inputs_embeds), normed;

	if (pass->model->architecture == EST_ARCH_GEMMA3N)
		projected = est_div_in_place(tape, projected);
	else
		projected = est_mul_scalar(tape, projected);
	projected = est_hold(est_reshape(tape, projected));
	normed = est_hold(est_gemma4_norm(pass, &pass->per_layer_projection_norm, projected));
	est_drop(tape, projected);
	pass->per_layer_inputs = est_hold(est_mul_scalar(tape, est_add(tape, normed, embedded)));
	est_drop(tape, normed);
}

/* Gemma4Model, around the language model, looks the tokens up itself, beside a copy of their embeddings without those of images, and
 * keeps both to its end; masks come between. */
static bool is_wrapped(const struct est_pass *pass)
{
	return pass->model->vision.tower != EST_TOWER_NONE;
}

void est_per_layer_embed(struct est_pass *pass, struct est_tensor inputs_embeds, struct est_tensor ret[2])
{
	ret[0] = ret[1] = pass->per_layer_inputs = est_none;
	if (!pass->model->hidden_size_per_layer_input)
		return;
	if (is_wrapped(pass))
		ret[1] = est_variable(pass->tape, inputs_embeds.numel, inputs_embeds.element);
	ret[0] = embed(pass);
	if (is_wrapped(pass))
		return;
	project(pass, inputs_embeds, ret[0]);
	est_drop(pass->tape, ret[0]);
	ret[0] = est_none;
}

void est_per_layer_project(struct est_pass *pass, struct est_tensor inputs_embeds, const struct est_tensor embedded[2])
{
	if (embedded[0].numel)
		project(pass, inputs_embeds, embedded[0]);
}

void est_per_layer_drop(struct est_pass *pass, const struct est_tensor embedded[2])
{
	est_drop(pass->tape, embedded[0]);
	est_drop(pass->tape, embedded[1]);
	est_drop(pass->tape, pass->per_layer_inputs);
	pass->per_layer_inputs = est_none;
}

/* hidden_states[:, 0:, :] and the like: a view of all, by an operator of its own */
static const struct est_op alias_op = { "Alias", est_backward_pass };

static struct est_tensor sliced_whole(struct est_tape *tape, struct est_tensor x)
{
	struct est_node *node = est_node_new(tape, &alias_op, 1, &x);
	struct est_tensor out = est_output(tape, node, 0, est_detach(tape, x));

	est_drop(tape, x);
	return est_hold(out);
}

/* Packages of flash attention and flex_attention take no part of a mask: nothing is cut for them. */
static bool slices(const struct est_request *request)
{
	enum est_attention attention = request->attention;

	return attention != EST_FLASH_ATTENTION_2 && attention != EST_FLASH_ATTENTION_3 && attention != EST_FLEX_ATTENTION;
}

void est_enter_shared_layers(struct est_pass *pass, int64_t layer, struct est_tensor *x)
{
	if (layer != pass->model->num_hidden_layers - pass->model->num_kv_shared_layers || !slices(pass->request))
		return;
	*x = sliced_whole(pass->tape, *x);
	pass->per_layer_inputs = sliced_whole(pass->tape, pass->per_layer_inputs);
}

struct est_tensor est_per_layer_input(struct est_pass *pass)
{
	if (!pass->per_layer_inputs.numel)
		return est_none;
	return est_hold(est_slice(pass->tape, pass->per_layer_inputs,
				  pass->tokens * (uint64_t)pass->model->hidden_size_per_layer_input));
}

struct est_tensor est_gate_per_layer_input(struct est_pass *pass, const struct est_layer *layer, struct est_tensor per_layer_input,
					   struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor y = est_hold(est_linear(tape, &layer->per_layer_input_gate, x)), z = est_hold(est_activate(pass, y));

	est_drop(tape, y);
	y = est_hold(est_mul(tape, z, per_layer_input));
	est_drop(tape, z);
	z = est_hold(est_linear(tape, &layer->per_layer_projection, y));
	est_drop(tape, y);
	y = est_gemma4_norm(pass, &layer->post_per_layer_input_norm, z);
	est_drop(tape, z);
	return y;
}

/* ---- what is not modelled */

/* A checkpointed layer that takes keys and values of one that is not runs the backward of that one too; and the graph of such states
 * leads to checkpoints, which hold the dictionary that the states are in. */
static bool mixes_graphs(const struct est_request *request)
{
	return request->checkpointing == EST_CHECKPOINT_EVERY_N && request->every_n_layers > 1 && request->use_reentrant;
}

/* bf16 and fp16 make fp32 of each other. */
static bool mixes_16_bits(const struct est_request *request)
{
	bool other = request->precision == EST_BF16_MIXED ? request->base_dtype == EST_FP16 : request->base_dtype == EST_BF16;

	return est_has_adapters(request) && est_is_mixed(request->precision) && other && request->base_dtype != EST_FP32;
}

void est_per_layer_check(const struct est_request *request, const struct est_model *model, struct est_faults *faults)
{
	enum { FLASH_HEAD_MAX = 256 };
	const struct est_parallelism *parallelism = &request->parallelism;
	enum est_quantization_type type = request->quantization.type;
	const struct est_refusal rows[] = {
		{ "parallelism.strategy", parallelism->strategy != EST_SINGLE },
		{ "parallelism.tensor", parallelism->tensor > 1 },
		{ "parallelism.pipeline", parallelism->pipeline > 1 },
		{ "parallelism.context", parallelism->context > 1 },
		{ "attention", !slices(request) || request->attention == EST_SDPA_MATH
			       || (request->attention == EST_SDPA_FLASH && model->global_head_dim > FLASH_HEAD_MAX) },
		{ "quantization.type", request->method == EST_QLORA && (type == EST_GPTQ || type == EST_HQQ) },
		{ "objective", request->objective == EST_REWARD }, /* their classes have none for scores */
		{ "task", request->task != EST_CAUSAL_LM && request->objective != EST_REWARD },
	};

	if (!model->hidden_size_per_layer_input)
		return;
	if (mixes_16_bits(request))
		est_field_refuse("base_dtype", request, faults,
				 "must be the 16-bit type of the precision with embeddings of each layer: bf16 and fp16 make fp32 of each "
				 "other, which is not modelled yet");
	if (model->altup_num_inputs && request->method == EST_QLORA)
		est_fault_add(faults, "/method", EST_CONTRADICTION,
			      "must not be qlora: Gemma-3n's code multiplies the weight of correction_coefs itself, which is packed then");
	est_refuse_with("embeddings of each layer", rows, sizeof(rows) / sizeof(rows[0]), request, faults);
	if (model->num_kv_shared_layers && mixes_graphs(request))
		est_fault_add(faults, "/use_reentrant", EST_CONTRADICTION,
			      "must be false with every_n_layers: where layers share keys and values, the graphs of those that are "
			      "checkpointed and of those that are not are freed before their time, or never");
}
