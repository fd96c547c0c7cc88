#include <string.h>
#include "estimator/altup.h"
#include "estimator/architecture.h"
#include "estimator/compile.h"
#include "estimator/attention.h"
#include "estimator/encoder.h"
#include "estimator/unsloth.h"
#include "estimator/generation.h"
#include "estimator/litgpt.h"
#include "estimator/per_layer_inputs.h"
#include "estimator/repeat.h"

static est_layer_function *layer_of(const struct est_pass *pass)
{
	return est_unsloth_wanted(pass->request) ? est_unsloth_layer : est_architecture_row(pass->model->architecture)->layer;
}

/* What a layer returns beside its hidden states: attention's weights, or the tokens that it chose. A reentrant checkpoint
 * makes zeros for the gradient of either, and passes on those of the weights. */
static void return_beside(struct est_pass *pass)
{
	bool returns = est_architecture_row(pass->model->architecture)->returns_weights;
	struct est_tensor weights = pass->attn_weights, chosen = pass->runs_layers ? pass->next_indices : est_none;
	struct est_tensor beside = chosen.numel ? chosen : returns ? weights : est_none;

	if (pass->runs_layers && beside.numel && pass->tape->no_grad)
		pass->tape->beside = (struct est_tensor){ .numel = beside.numel, .element = beside.element };
	if (returns && pass->runs_layers)
		return;
	pass->attn_weights = est_none;
	if (returns)
		pass->tape->beside = weights;
	else
		est_drop(pass->tape, weights);
}

static struct est_tensor layer_function(void *context, struct est_tensor x, const void *layer)
{
	struct est_pass *pass = context;
	const struct est_model *model = pass->model;
	struct est_tensor y;

	pass->layer = layer;
	if (pass->full && !pass->layer->sliding)
		pass->model = pass->full;
	y = layer_of(pass)(pass, layer, x);
	pass->model = model;
	est_drop(pass->tape, pass->frame);
	pass->frame = est_none;
	return_beside(pass);
	return y;
}

bool est_is_checkpointed(const struct est_pass *pass, int64_t layer)
{
	const struct est_request *request = pass->request;

	if (pass->tape->no_grad)
		return false;
	if (request->checkpointing == EST_CHECKPOINT_EVERY_N) /* Transformers counts a vision tower's layers, which come first */
		return (pass->model->vision.num_hidden_layers + layer) % request->every_n_layers == 0;
	return request->checkpointing != EST_CHECKPOINT_NONE;
}

/* The same as a unit of its own within a checkpoint. */
static struct est_tensor unit_function(void *context, struct est_tensor x, const void *layer)
{
	struct est_pass *pass = context;
	unsigned unit = est_unit_of_layer((const struct est_layer *)layer - pass->layers);

	x = est_schedule_enter(pass->schedule, unit, x);
	return est_schedule_leave(pass->schedule, unit, layer_function(context, x, layer));
}

static struct est_tensor run_layer(struct est_pass *pass, const struct est_layer *layer, bool checkpointed,
				   struct est_tensor per_layer_input, struct est_tensor x)
{
	const struct est_rope *rope = est_layer_rope(pass, layer);
	bool attends = layer->kind == EST_LAYER_ATTENDS || pass->model->attends_beside; /* others are told of padding alone */
	struct est_call call = { .function = est_unit_is_checkpointed(pass->schedule) ? unit_function : layer_function,
				 .context = pass, .argument = layer,
				 .kwargs = { rope->cos, rope->sin, attends ? (layer->sliding ? pass->sliding_mask : pass->mask) : est_none,
					     pass->position_bias, pass->relative_positions, pass->topk_indices },
				 .second = per_layer_input, .states = pass->states };

	if (est_compiles_layers(pass->request))
		return est_compiled_layer(pass, layer, x);
	if (checkpointed)
		return est_checkpoint(pass->tape, &call, x, pass->request->use_reentrant);
	call.function = layer_function; /* whose unit is entered and left around it */
	return est_call_run(pass->tape, &call, x);
}

/* presents.append(...): the cache of keys and values, which is among the model's outputs */
static void keep_beside(struct est_pass *pass)
{
	if (pass->tape->beside.storage)
		pass->cache[pass->cache_count++] = pass->tape->beside;
	pass->tape->beside = est_none;
}

/* hidden_states = decoder_layer(hidden_states) for each; x moves in. What else a layer returns lives until the next
 * returns. */
struct est_tensor est_run_layers(struct est_pass *pass, struct est_tensor x)
{
	struct est_tensor per_layer_input = est_none;

	pass->runs_layers = true;
	for (int64_t i = 0; i < pass->model->num_hidden_layers; i = est_repeat_next(pass->tape, i)) {
		bool within = est_is_checkpointed(pass, i) && est_unit_is_checkpointed(pass->schedule);
		struct est_schedule *schedule = within ? NULL : pass->schedule;
		struct est_tensor weights = pass->attn_weights, y;

		pass->attn_weights = est_none;
		est_mark_layer(pass->tape, (unsigned)(pass->model->first_layer + i) + 1);
		x = est_hold(est_schedule_enter(schedule, est_unit_of_layer(i), x));
		if (est_unsloth_wanted(pass->request))
			pass->tape->offloads = est_unsloth_offloads(pass, i);
		est_enter_shared_layers(pass, i, &x);
		est_drop(pass->tape, per_layer_input);
		per_layer_input = est_per_layer_input(pass);
		y = run_layer(pass, &pass->layers[i], est_is_checkpointed(pass, i), per_layer_input, x);
		est_drop(pass->tape, weights);
		est_drop(pass->tape, x);
		est_drop(pass->tape, pass->topk_indices);
		pass->topk_indices = pass->next_indices;
		pass->next_indices = est_none;
		keep_beside(pass);
		x = est_hold(est_schedule_leave(schedule, est_unit_of_layer(i), y));
	}
	est_drop(pass->tape, per_layer_input);
	est_mark_layer(pass->tape, 0);
	pass->runs_layers = false;
	return x;
}

/* Learned positions (GPT-2: one row a position; OPT: one a token); held to the end of the forward, as inputs_embeds
 * is. */
static struct est_tensor look_up_positions(struct est_pass *pass)
{
	bool per_token = pass->model->architecture == EST_ARCH_OPT;
	uint32_t module = pass->tape->leaves[pass->embed_positions].module;
	struct est_tensor ids = est_buffer(pass->tape, per_token ? pass->tokens : pass->sequence, EST_INT64), positions;

	est_module_begin(pass->tape, module);
	positions = est_embedding(pass->tape, ids, pass->embed_positions,
				  (uint64_t)(pass->model->max_position_embeddings + pass->model->position_offset),
				  (uint64_t)pass->model->hidden_size);
	positions = est_module_leave(pass->tape, module, positions);
	est_drop(pass->tape, ids);
	return est_hold(positions);
}

/* x, which moves in, as a leaf that keeps its gradient as long as the graph lives. */
static struct est_tensor leaf_of_forward(struct est_pass *pass, struct est_tensor x)
{
	uint32_t leaf = est_leaf_new(pass->tape, est_alias(pass->tape, x), true, false);

	est_drop(pass->tape, x);
	return est_alias(pass->tape, est_leaf_tensor(pass->tape, leaf));
}

/* enable_input_require_grads(): with checkpoints over a frozen model the embedding's output becomes a leaf, which
 * keeps its gradient as long as the graph lives. x moves in. */
struct est_tensor est_require_input_grad(struct est_pass *pass, struct est_tensor x)
{
	bool checkpoints = pass->request->checkpointing != EST_CHECKPOINT_NONE || est_unsloth_wanted(pass->request);

	if (pass->model->architecture == EST_ARCH_TORCHTUNE || pass->request->method == EST_FULL || !checkpoints
	    || x.requires_grad || pass->tape->no_grad)
		return x;
	return leaf_of_forward(pass, x);
}

static struct est_tensor look_up_tokens(struct est_pass *pass)
{
	uint64_t rows = (uint64_t)pass->model->vocab_size, width = pass->lm_head.in;

	if (pass->tensor.ranks > 1)
		return est_cut_embedding(pass->tape, &pass->tensor, pass->input_ids, pass->embed_tokens, rows, width);
	return est_embedding(pass->tape, pass->input_ids, pass->embed_tokens, rows, width);
}

/* inputs_embeds: what the embedding gives, as the model's frame holds it to its end */
static struct est_tensor embed(struct est_pass *pass)
{
	const struct est_model *model = pass->model;
	uint32_t module = pass->tape->leaves[pass->embed_tokens].module;
	struct est_tensor x;

	if (est_unit_of_root(pass->schedule))
		est_schedule_begin(pass->schedule, est_unit_of_root(pass->schedule));
	for (uint32_t i = 1; i < pass->inner_count; i++)
		est_module_begin(pass->tape, pass->inner + i);
	est_schedule_begin(pass->schedule, 0);
	est_module_begin(pass->tape, pass->inner);
	est_module_begin(pass->tape, module);
	x = look_up_tokens(pass);
	if (est_architecture_row(model->architecture)->scaled_embedding) /* within the module */
		x = est_mul_scalar(pass->tape, x);
	x = est_require_input_grad(pass, x); /* a hook of the module, as the sharding's is, but the earlier one */
	if (pass->schedule && pass->schedule->embeds_apart)
		x = est_schedule_leave(pass->schedule, 0, x);
	x = est_module_leave(pass->tape, module, x);
	if (model->embedding_multiplier != 0)
		x = est_mul_scalar(pass->tape, x);
	if (pass->project_in.out)
		x = est_linear(pass->tape, &pass->project_in, x);
	return est_hold(x);
}

/* The leaf that the stage's input is, as it was received. */
static struct est_tensor receive(struct est_pass *pass)
{
	uint32_t leaf = est_leaf_new(pass->tape, est_alias(pass->tape, pass->received), true, false);

	est_schedule_begin(pass->schedule, 0); /* the model itself, where its norm and head are its unit */
	return est_hold(est_alias(pass->tape, est_leaf_tensor(pass->tape, leaf)));
}

void est_pass_give(struct est_pass *pass, struct est_tensor x)
{
	if (!pass->output)
		return;
	x = est_hold(est_alias(pass->tape, x));
	est_drop(pass->tape, *pass->output);
	*pass->output = x;
}

/* Bloom: word_embeddings_layernorm, then alibi and the mask */
static struct est_tensor norm_embedding(struct est_pass *pass, struct est_tensor inputs_embeds)
{
	struct est_tensor x = est_torch_layer_norm(pass, &pass->embedding_norm, inputs_embeds);

	est_make_position_bias(pass);
	est_make_masks(pass);
	return x;
}

/* inputs_embeds plus positions where they are learned; GPT-2 adds them before it makes its mask, OPT after */
static struct est_tensor embed_with_positions(struct est_pass *pass, struct est_tensor inputs_embeds,
					      struct est_tensor *ret_positions)
{
	bool masks_last = pass->model->architecture == EST_ARCH_GPT2;
	struct est_tensor x;

	*ret_positions = est_none;
	if (pass->embedding_norm.width)
		return norm_embedding(pass, inputs_embeds);
	est_make_position_bias(pass);
	if (!masks_last)
		est_make_masks(pass);
	if (pass->model->position != EST_LEARNED_POSITIONS)
		return est_alias(pass->tape, inputs_embeds);
	*ret_positions = look_up_positions(pass);
	x = est_add(pass->tape, inputs_embeds, *ret_positions);
	if (masks_last)
		est_make_masks(pass);
	return x;
}

static est_norm_function *final_norm_of(const struct est_pass *pass)
{
	return est_unsloth_wanted(pass->request) ? est_unsloth_norm
	       : est_architecture_row(pass->model->architecture)->final_norm;
}

/* hidden_states = norm(hidden_states), then project_out where the embedding is narrower; x moves in */
static struct est_tensor finish_hidden_states(struct est_pass *pass, struct est_tensor x)
{
	struct est_tensor y;

	if (est_tail_has_norm(pass->schedule))
		x = est_hold(est_schedule_enter(pass->schedule, est_unit_of_tail(pass->schedule), x));
	if (pass->model->final_norm) {
		y = est_hold(final_norm_of(pass)(pass, &pass->norm, x));
		if (pass->model->architecture == EST_ARCH_TORCHTUNE)
			pass->last_layer = est_hold(est_alias(pass->tape, x));
		est_drop(pass->tape, x);
		x = y;
	}
	if (pass->project_out.out) {
		y = est_hold(est_linear(pass->tape, &pass->project_out, x));
		est_drop(pass->tape, x);
		x = y;
	}
	if (est_tail_has_norm(pass->schedule) && pass->schedule->head_is_roots)
		x = est_hold(est_schedule_leave(pass->schedule, est_unit_of_tail(pass->schedule), x));
	else if (est_unit_of_tail(pass->schedule) && !est_tail_has_norm(pass->schedule))
		x = est_hold(est_schedule_enter(pass->schedule, est_unit_of_tail(pass->schedule), x));
	return est_hold(est_module_leave(pass->tape, pass->inner, x));
}

struct est_tensor est_pass_leave(struct est_pass *pass, struct est_tensor y)
{
	y = est_hold(est_schedule_leave(pass->schedule, est_unit_of_output(pass->schedule), y));
	for (uint32_t i = 1; i < pass->inner_count; i++)
		y = est_hold(est_module_leave(pass->tape, pass->inner + i, y));
	return y;
}

struct est_tensor est_pass_return(struct est_pass *pass, struct est_tensor y)
{
	if (!pass->schedule || pass->schedule->leaves_at_loss)
		return y;
	y = est_pass_leave(pass, y);
	est_schedule_forward_end(pass->schedule);
	return y;
}

struct est_tensor est_pass_forward(struct est_pass *pass)
{
	const struct est_architecture_row *row = est_architecture_row(pass->model->architecture);
	struct est_tape *tape = pass->tape;
	struct est_tensor inputs_embeds, per_layer[2], positions, x;

	memset(pass->ropes, 0, sizeof(pass->ropes));
	pass->mask = pass->sliding_mask = pass->position_bias = est_none;
	pass->forward_leaves = tape->leaf_count;
	pass->states = pass->model->num_kv_shared_layers ? est_shared_states_new(tape) : NULL;
	est_schedule_forward_begin(pass->schedule);
	if (est_model_is_encoder(pass->model))
		return est_encoder_forward(pass);
	if (pass->model->architecture == EST_ARCH_LITGPT)
		est_litgpt_hold_previous(pass);
	inputs_embeds = pass->model->lacks_embedding ? receive(pass) : embed(pass);
	est_per_layer_embed(pass, inputs_embeds, per_layer);
	x = embed_with_positions(pass, inputs_embeds, &positions);
	est_per_layer_project(pass, inputs_embeds, per_layer);
	if (row->rebinds_embedding) {
		est_drop(tape, inputs_embeds);
		inputs_embeds = est_none;
	}
	x = est_altup_expand(pass, x);
	if (row->drops_embedding_first)
		x = est_dropout(tape, x, pass->model->embedding_dropout);
	if (row->rotary)
		est_module_begin(tape, pass->rotary_emb);
	est_make_ropes(pass, pass->streams ? x.element : pass->parameter_element); /* of the streams, which autocast may have made fp32 */
	if (!row->drops_embedding_first)
		x = est_dropout(tape, x, pass->model->embedding_dropout);
	if (row->norms_embedding && !pass->model->lacks_embedding)
		x = est_l2_norm(pass, &pass->norm, x);
	x = est_run_layers(pass, est_hold(x));
	x = finish_hidden_states(pass, est_altup_join(pass, x));
	est_altup_drop(pass);
	est_drop(tape, inputs_embeds);
	est_drop(tape, positions);
	est_per_layer_drop(pass, per_layer);
	est_drop(tape, pass->attn_weights);
	est_drop(tape, pass->topk_indices);
	pass->attn_weights = pass->topk_indices = est_none;
	est_drop_masks_not_taken(pass);
	return x;
}

void est_pass_release(struct est_pass *pass)
{
	for (unsigned i = 0; i < 2; i++) {
		est_drop(pass->tape, pass->ropes[i].cos);
		est_drop(pass->tape, pass->ropes[i].sin);
	}
	est_drop(pass->tape, pass->mask);
	est_drop(pass->tape, pass->sliding_mask);
	est_drop(pass->tape, pass->position_bias);
	est_drop(pass->tape, pass->relative_positions);
	est_shared_states_drop(pass->tape, pass->states);
	pass->states = NULL;
}

void est_pass_end(struct est_pass *pass)
{
	for (uint32_t i = pass->forward_leaves; i < pass->tape->leaf_count; i++) {
		est_drop(pass->tape, pass->tape->leaves[i].value);
		est_drop(pass->tape, pass->tape->leaves[i].grad);
	}
	pass->tape->leaf_count = pass->forward_leaves;
}
