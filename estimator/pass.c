#include <string.h>
#include "estimator/architecture.h"
#include "estimator/compile.h"
#include "estimator/attention.h"
#include "estimator/encoder.h"
#include "estimator/unsloth.h"
#include "estimator/generation.h"
#include "estimator/litgpt.h"

unsigned est_rope_count(const struct est_pass *pass)
{
	const struct est_architecture_row *row = est_architecture_row(pass->model->architecture);
	bool sliding = false, full = false;

	for (int64_t i = 0; i < pass->model->num_hidden_layers; i++)
		*(pass->layers[i].sliding ? &sliding : &full) = true;
	if (!row->rotary || pass->model->position != EST_ROPE)
		return 0;
	return row->rope_per_layer_type && sliding && full ? 2 : 1;
}

/* ---- buffers of a forward: positions, cos and sin, masks */

static struct est_tensor buffer(struct est_pass *pass, uint64_t numel, uint8_t element)
{
	return est_hold(est_empty_as(pass->tape, numel, element, EST_BUFFERS));
}

/* LlamaRotaryEmbedding.forward: fp32 frequencies, cos and sin of the pairs, both in the dtype of the stream. gpt-oss has each
 * angle once. */
static void make_rope(struct est_pass *pass, const struct est_model *model, struct est_rope *rope, uint8_t element)
{
	uint64_t pairs = pass->sequence * est_rotary_width(model);
	bool twice = pass->model->architecture != EST_ARCH_GPT_OSS, last = est_scales_rope_last(&pass->request->versions);
	struct est_tensor freqs = buffer(pass, pairs / 2, EST_32BIT), emb, cos, sin, raw[2];
	bool cast = element == EST_16BIT;

	emb = twice ? buffer(pass, pairs, EST_32BIT) : est_none;
	pairs /= twice ? 1 : 2;
	raw[0] = buffer(pass, pairs, EST_32BIT);
	if (last)
		raw[1] = buffer(pass, pairs, EST_32BIT);
	cos = buffer(pass, pairs, EST_32BIT);
	est_drop(pass->tape, raw[0]);
	if (!last)
		raw[1] = buffer(pass, pairs, EST_32BIT);
	sin = buffer(pass, pairs, EST_32BIT);
	est_drop(pass->tape, raw[1]);
	rope->cos = cast ? buffer(pass, pairs, EST_16BIT) : cos;
	rope->sin = cast ? buffer(pass, pairs, EST_16BIT) : sin;
	est_drop(pass->tape, freqs);
	est_drop(pass->tape, emb);
	if (cast) {
		est_drop(pass->tape, cos);
		est_drop(pass->tape, sin);
	}
}

/* DeepSeek-V2's: complex numbers, scaled once more */
static void make_complex_rope(struct est_pass *pass, struct est_rope *rope)
{
	uint64_t pairs = pass->sequence * est_rotary_width(pass->model);
	struct est_tensor freqs = buffer(pass, pairs / 2, EST_32BIT), ones = buffer(pass, pairs / 2, EST_32BIT);
	struct est_tensor polar = buffer(pass, pairs, EST_32BIT);

	est_drop(pass->tape, ones);
	rope->cos = buffer(pass, pairs, EST_32BIT);
	rope->sin = est_none;
	est_drop(pass->tape, polar);
	est_drop(pass->tape, freqs);
}

void est_make_ropes(struct est_pass *pass, uint8_t element)
{
	const struct est_architecture_row *row = est_architecture_row(pass->model->architecture);

	if (est_unsloth_wanted(pass->request)) {
		pass->ropes[0].cos = est_hold(est_alias(pass->tape, pass->angles.cos));
		pass->ropes[0].sin = est_hold(est_alias(pass->tape, pass->angles.sin));
		return;
	}
	for (unsigned i = 0; i < est_rope_count(pass); i++) {
		struct est_rope *rope = &pass->ropes[i];

		if (pass->model->mrope)
			est_make_multimodal_rope(pass, rope);
		else if (row->complex_rope)
			make_complex_rope(pass, rope);
		else
			make_rope(pass, i == 0 && pass->full ? pass->full : pass->model, rope, row->fp32_rope ? EST_32BIT : element);
	}
}

/* Llama-4's chunks are counted from where the padding of each sequence ends. */
static bool masks_each_sequence(const struct est_pass *pass, bool window)
{
	return window && pass->model->architecture == EST_ARCH_LLAMA4;
}

/* true & (k > q - window, or of the same chunk) & (k <= q) */
static struct est_tensor causal_window(struct est_pass *pass)
{
	uint64_t square = pass->sequence * pass->sequence, scores = (masks_each_sequence(pass, true) ? pass->batch : 1) * square;
	struct est_tensor in_window = buffer(pass, scores, EST_BYTE), so_far = buffer(pass, scores, EST_BYTE), causal, both;

	est_drop(pass->tape, in_window);
	causal = buffer(pass, square, EST_BYTE);
	both = buffer(pass, scores, EST_BYTE);
	est_drop(pass->tape, causal);
	est_drop(pass->tape, so_far);
	return both;
}

/* masking_utils: a boolean mask for SDPA; eager gets an additive one in the dtype of the stream */
static struct est_tensor make_mask(struct est_pass *pass, bool window)
{
	uint64_t scores = pass->sequence * pass->sequence;
	bool padded = pass->request->attention_mask || pass->request->framework == EST_TRL; /* TRL's collators always pass one */
	struct est_tensor causal, mask;

	if (pass->request->attention == EST_FLEX_ATTENTION)
		return est_block_mask(pass);
	causal = mask = window ? causal_window(pass) : buffer(pass, scores, EST_BYTE);
	if (padded) { /* causal & padding */
		struct est_tensor both = buffer(pass, masks_each_sequence(pass, window) ? pass->batch * scores : scores, EST_BYTE);

		est_drop(pass->tape, causal);
		mask = buffer(pass, pass->batch * scores, EST_BYTE);
		est_drop(pass->tape, both);
	} else {
		mask.numel = pass->batch * scores; /* expanded over the batch, without memory */
	}
	if (pass->request->attention == EST_EAGER) {
		causal = mask;
		mask = buffer(pass, pass->batch * scores, pass->parameter_element);
		est_drop(pass->tape, causal);
	}
	if (pass->model->architecture == EST_ARCH_MPT) { /* .to(torch.bool) */
		causal = mask;
		mask = buffer(pass, pass->batch * scores, EST_BYTE);
		est_drop(pass->tape, causal);
	}
	return mask;
}

static void make_masks(struct est_pass *pass)
{
	bool full = false, sliding = false;
	bool sliding_first = pass->model->vision.tower == EST_TOWER_SIGLIP; /* Gemma-3's: in the order of the layers' types */

	if (pass->request->attention == EST_FLASH_ATTENTION_2 || pass->request->attention == EST_FLASH_ATTENTION_3)
		return; /* the padding mask itself, two-dimensional */
	for (int64_t i = 0; i < pass->model->num_hidden_layers; i++)
		if (est_layer_is_masked(pass, &pass->layers[i]))
			*(pass->layers[i].sliding ? &sliding : &full) = true;
	if (sliding && sliding_first)
		pass->sliding_mask = make_mask(pass, true);
	if (full)
		pass->mask = make_mask(pass, false);
	/* Qwen2-MoE makes the sliding mask, of whatever window, whether a layer takes it or not */
	if ((sliding && !sliding_first) || pass->model->architecture == EST_ARCH_QWEN2_MOE)
		pass->sliding_mask = make_mask(pass, true);
}

const struct est_rope *est_layer_rope(const struct est_pass *pass, const struct est_layer *layer)
{
	return &pass->ropes[layer->sliding && pass->ropes[1].cos.numel];
}

/* ---- forward */

static est_layer_function *layer_of(const struct est_pass *pass)
{
	return est_unsloth_wanted(pass->request) ? est_unsloth_layer : est_architecture_row(pass->model->architecture)->layer;
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
	if (pass->runs_layers && est_architecture_row(pass->model->architecture)->returns_weights)
		return y;
	est_drop(pass->tape, pass->attn_weights);
	pass->attn_weights = est_none;
	return y;
}

bool est_is_checkpointed(const struct est_pass *pass, int64_t layer)
{
	const struct est_request *request = pass->request;

	if (pass->tape->no_grad)
		return false;
	if (request->checkpointing == EST_CHECKPOINT_EVERY_N)
		return layer % request->every_n_layers == 0;
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

static struct est_tensor run_layer(struct est_pass *pass, const struct est_layer *layer, bool checkpointed, struct est_tensor x)
{
	const struct est_rope *rope = est_layer_rope(pass, layer);
	struct est_call call = { .function = est_unit_is_checkpointed(pass->schedule) ? unit_function : layer_function,
				 .context = pass, .argument = layer,
				 .kwargs = { rope->cos, rope->sin, layer->sliding ? pass->sliding_mask : pass->mask,
					     pass->position_bias, pass->relative_positions, pass->topk_indices } };

	if (est_compiles_layers(pass->request))
		return est_compiled_layer(pass, layer, x);
	return checkpointed ? est_checkpoint(pass->tape, &call, x, pass->request->use_reentrant) : layer_function(pass, x, layer);
}

/* presents.append(...): the cache of keys and values, which is among the model's outputs */
static void keep_beside(struct est_pass *pass)
{
	if (pass->tape->beside.numel)
		pass->cache[pass->cache_count++] = pass->tape->beside;
	pass->tape->beside = est_none;
}

/* hidden_states = decoder_layer(hidden_states) for each; x moves in. What else a layer returns lives until the next returns. */
struct est_tensor est_run_layers(struct est_pass *pass, struct est_tensor x)
{
	pass->runs_layers = true;
	for (int64_t i = 0; i < pass->model->num_hidden_layers; i++) {
		bool within = est_is_checkpointed(pass, i) && est_unit_is_checkpointed(pass->schedule);
		struct est_schedule *schedule = within ? NULL : pass->schedule;
		struct est_tensor weights = pass->attn_weights, y;

		pass->attn_weights = est_none;
		est_mark_layer(pass->tape, (unsigned)(pass->model->first_layer + i) + 1);
		x = est_hold(est_schedule_enter(schedule, est_unit_of_layer(i), x));
		if (est_unsloth_wanted(pass->request))
			pass->tape->offloads = est_unsloth_offloads(pass, i);
		y = run_layer(pass, &pass->layers[i], est_is_checkpointed(pass, i), x);
		est_drop(pass->tape, weights);
		est_drop(pass->tape, x);
		est_drop(pass->tape, pass->topk_indices);
		pass->topk_indices = pass->next_indices;
		pass->next_indices = est_none;
		keep_beside(pass);
		x = est_hold(est_schedule_leave(schedule, est_unit_of_layer(i), y));
	}
	est_mark_layer(pass->tape, 0);
	pass->runs_layers = false;
	return x;
}

/* Learned positions (GPT-2: one row a position; OPT: one a token); held to the end of the forward, as inputs_embeds is. */
static struct est_tensor look_up_positions(struct est_pass *pass)
{
	bool per_token = pass->model->architecture == EST_ARCH_OPT;
	uint32_t module = pass->tape->leaves[pass->embed_positions].module;
	struct est_tensor ids = buffer(pass, per_token ? pass->tokens : pass->sequence, EST_INT64), positions;

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

/* enable_input_require_grads(): with checkpoints over a frozen model the embedding's output becomes a leaf, which keeps its
 * gradient as long as the graph lives. x moves in. */
struct est_tensor est_require_input_grad(struct est_pass *pass, struct est_tensor x)
{
	bool checkpoints = pass->request->checkpointing != EST_CHECKPOINT_NONE || est_unsloth_wanted(pass->request);

	if (pass->model->architecture == EST_ARCH_TORCHTUNE || pass->request->method == EST_FULL || !checkpoints || x.requires_grad || pass->tape->no_grad)
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

	if (pass->schedule && pass->schedule->norm_is_roots)
		est_schedule_begin(pass->schedule, est_unit_of_tail(pass->schedule) + 1);
	est_schedule_begin(pass->schedule, 0);
	for (uint32_t i = 0; i < pass->inner_count; i++)
		est_module_begin(pass->tape, pass->inner + i);
	est_module_begin(pass->tape, module);
	x = look_up_tokens(pass);
	if (est_architecture_row(model->architecture)->scaled_embedding) /* within the module */
		x = est_mul_scalar(pass->tape, x);
	x = est_require_input_grad(pass, x); /* a hook of the module, as the sharding's is, but the earlier one */
	if (est_unit_of_tail(pass->schedule))
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

/* ALiBi. Bloom: one row for each head of each sequence, in the dtype of the stream; MPT: one for each head, for all positions, fp32 */
static void make_position_bias(struct est_pass *pass)
{
	uint64_t heads = (uint64_t)pass->model->num_attention_heads, rows = heads * pass->sequence;
	struct est_tensor alibi, repeated;

	if (pass->model->position != EST_ALIBI)
		return;
	if (pass->model->architecture == EST_ARCH_MPT) {
		pass->position_bias = buffer(pass, heads * (uint64_t)pass->model->max_position_embeddings, EST_32BIT);
		return;
	}
	alibi = pass->request->attention_mask ? est_none : buffer(pass, rows, EST_32BIT); /* else of each sequence at once */
	repeated = buffer(pass, rows * pass->batch, EST_32BIT);
	pass->position_bias = est_hold(est_to(pass->tape, est_hold(repeated), pass->parameter_element));
	est_drop(pass->tape, repeated);
	est_drop(pass->tape, alibi);
}

/* Bloom: word_embeddings_layernorm, then alibi and the mask */
static struct est_tensor norm_embedding(struct est_pass *pass, struct est_tensor inputs_embeds)
{
	struct est_tensor x = est_torch_layer_norm(pass, &pass->embedding_norm, inputs_embeds);

	make_position_bias(pass);
	make_masks(pass);
	return x;
}

/* inputs_embeds plus positions where they are learned; GPT-2 adds them before it makes its mask, OPT after */
static struct est_tensor embed_with_positions(struct est_pass *pass, struct est_tensor inputs_embeds, struct est_tensor *ret_positions)
{
	bool masks_last = pass->model->architecture == EST_ARCH_GPT2;
	struct est_tensor x;

	*ret_positions = est_none;
	if (pass->embedding_norm.width)
		return norm_embedding(pass, inputs_embeds);
	make_position_bias(pass);
	if (!masks_last)
		make_masks(pass);
	if (pass->model->position != EST_LEARNED_POSITIONS)
		return est_alias(pass->tape, inputs_embeds);
	*ret_positions = look_up_positions(pass);
	x = est_add(pass->tape, inputs_embeds, *ret_positions);
	if (masks_last)
		make_masks(pass);
	return x;
}

static est_norm_function *final_norm_of(const struct est_pass *pass)
{
	return est_unsloth_wanted(pass->request) ? est_unsloth_norm : est_architecture_row(pass->model->architecture)->final_norm;
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
	if (est_unit_of_tail(pass->schedule) && !est_tail_has_norm(pass->schedule))
		x = est_hold(est_schedule_enter(pass->schedule, est_unit_of_tail(pass->schedule), x));
	return est_hold(est_module_leave(pass->tape, pass->inner, x));
}

struct est_tensor est_pass_forward(struct est_pass *pass)
{
	const struct est_architecture_row *row = est_architecture_row(pass->model->architecture);
	struct est_tape *tape = pass->tape;
	struct est_tensor inputs_embeds, positions, x;

	memset(pass->ropes, 0, sizeof(pass->ropes));
	pass->mask = pass->sliding_mask = pass->position_bias = est_none;
	pass->forward_leaves = tape->leaf_count;
	if (est_model_is_encoder(pass->model))
		return est_encoder_forward(pass);
	if (pass->model->architecture == EST_ARCH_LITGPT)
		est_litgpt_hold_previous(pass);
	inputs_embeds = pass->model->lacks_embedding ? receive(pass) : embed(pass);
	x = embed_with_positions(pass, inputs_embeds, &positions);
	if (row->rebinds_embedding) {
		est_drop(tape, inputs_embeds);
		inputs_embeds = est_none;
	}
	if (row->drops_embedding_first)
		x = est_dropout(tape, x, pass->model->embedding_dropout);
	if (row->rotary)
		est_module_begin(tape, pass->rotary_emb);
	est_make_ropes(pass, pass->parameter_element);
	if (!row->drops_embedding_first)
		x = est_dropout(tape, x, pass->model->embedding_dropout);
	x = est_run_layers(pass, est_hold(x));
	x = finish_hidden_states(pass, x);
	est_drop(tape, inputs_embeds);
	est_drop(tape, positions);
	est_drop(tape, pass->attn_weights);
	est_drop(tape, pass->topk_indices);
	pass->attn_weights = pass->topk_indices = est_none;
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
}

void est_pass_end(struct est_pass *pass)
{
	for (uint32_t i = pass->forward_leaves; i < pass->tape->leaf_count; i++) {
		est_drop(pass->tape, pass->tape->leaves[i].value);
		est_drop(pass->tape, pass->tape->leaves[i].grad);
	}
	pass->tape->leaf_count = pass->forward_leaves;
}
