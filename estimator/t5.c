/* T5Stack twice: T5LayerNorm, attention with a relative position bias, an MLP with or without a gate. */
#include "estimator/encoder.h"

/* A stack in its forward. The checkpointed blocks run again after it has returned, so each keeps what it was called
 * with. */
struct stack {
	struct est_pass pass;                   /* with the stack's own length */
	struct est_pass *owner;
	uint32_t relative_attention_bias;       /* leaf */
	bool is_decoder, use_cache;
	uint64_t source_length;                 /* of encoder_hidden_states */
	struct est_tensor encoder_hidden_states, mask, cross_mask;
};

struct block {
	struct stack *stack;
	const struct est_layer *layer;
	struct est_tensor bias, cross_bias;     /* position biases; numel 0: to be made */
	struct est_tensor made_bias, made_cross_bias;
};

/* ---- modules */

/* weight * (x * rsqrt(mean(x32^2) + eps)): x keeps its dtype, and is multiplied in fp32 */
static struct est_tensor norm(struct est_pass *pass, const struct est_norm_weights *weights, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	uint64_t rows = x.numel / weights->width;
	struct est_tensor weight = est_leaf_tensor(tape, weights->weight), variance, y;

	variance = est_hold(est_mean(tape, est_pow(tape, est_to(tape, est_hold(x), EST_32BIT)), rows));
	y = est_mul(tape, est_hold(x), est_rsqrt(tape, est_add_scalar(tape, variance)));
	if (weight.element != EST_32BIT)
		y = est_to(tape, y, weight.element);
	y = est_mul(tape, weight, y);
	est_drop(tape, variance);
	est_finish(tape, x);
	return y;
}

static struct est_tensor dropout(struct est_pass *pass, struct est_tensor x)
{
	return est_dropout(pass->tape, x, pass->model->residual_dropout);
}

/* x + dropout(y): y moves in */
static struct est_tensor residual_add(struct est_pass *pass, struct est_tensor x, struct est_tensor y)
{
	struct est_tensor sum = est_add(pass->tape, x, dropout(pass, y));

	est_drop(pass->tape, y);
	return sum;
}

/* The stream takes the dtype of wo's weight, also where autocast would cast it back. */
static struct est_tensor contract(struct est_pass *pass, const struct est_linear *wo, struct est_tensor x)
{
	struct est_tensor y = est_hold(est_dropout(pass->tape, x, pass->model->residual_dropout)), cast;

	est_drop(pass->tape, x);
	if (wo->base == EST_BASE_DENSE) {
		cast = est_hold(est_to(pass->tape, y, est_leaf_tensor(pass->tape, wo->weight).element));
		est_drop(pass->tape, y);
		y = cast;
	}
	x = est_linear(pass->tape, wo, y);
	est_drop(pass->tape, y);
	return x;
}

static struct est_tensor dense_act_dense(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor inner = est_hold(est_linear(tape, &layer->up_proj, x)), y = est_hold(est_activate(pass, inner));

	est_drop(tape, inner);
	return contract(pass, &layer->down_proj, y);
}

static struct est_tensor dense_gated_act_dense(struct est_pass *pass, const struct est_layer *layer,
					       struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor gelu = est_hold(est_activate(pass, est_linear(tape, &layer->gate_proj, x))), linear, y;

	linear = est_hold(est_linear(tape, &layer->up_proj, x));
	y = contract(pass, &layer->down_proj, est_hold(est_mul(tape, gelu, linear)));
	est_drop(tape, gelu);
	est_drop(tape, linear);
	return y;
}

static struct est_tensor feed_forward(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor normed = est_hold(norm(pass, &layer->post_attention_layernorm, x)), y;

	y = pass->model->gated_mlp ? dense_gated_act_dense(pass, layer, normed) : dense_act_dense(pass, layer, normed);
	y = est_hold(y);
	est_drop(tape, normed);
	return residual_add(pass, x, y);
}

/* ---- position bias */

/* Cross attention has no bias of its own, and adds zeros. With gradient checkpointing they ask for a gradient. */
static struct est_tensor zero_bias(struct stack *stack, uint8_t element)
{
	struct est_pass *pass = &stack->pass;
	uint64_t numel = (uint64_t)pass->model->num_attention_heads * pass->sequence * stack->source_length;
	struct est_tensor zeros = est_variable(pass->tape, numel, element);

	if (pass->request->checkpointing == EST_CHECKPOINT_NONE)
		return zeros;
	if (pass->tape->recomputing) { /* of another graph */
		zeros.requires_grad = true;
		return zeros;
	}
	return est_leaf_tensor(pass->tape, est_leaf_new(pass->tape, zeros, true, false));
}

/* create_position_bias_mask */
static struct est_tensor bias_mask(struct stack *stack, struct est_tensor bias, struct est_tensor mask, bool is_causal,
				   bool permuted)
{
	struct est_tape *tape = stack->pass.tape;
	struct est_tensor causal = est_none, out = est_alias(tape, bias);

	if (mask.numel) {
		out = est_where(tape, mask, out, mask.numel * (uint64_t)stack->pass.model->num_attention_heads);
	} else if (is_causal) {
		causal = est_buffer(stack->pass.tape, stack->pass.sequence * stack->pass.sequence, EST_BYTE);
		out = est_where(tape, causal, out, bias.numel);
	}
	out = permuted ? est_contiguous(tape, out) : out;
	est_drop(tape, causal);
	return est_hold(out);
}

/* ---- attention */

/* The zeros of cross attention move in, the result is held. They are a leaf, whose cast autocast caches: in a
 * recomputation, where the tape knows no leaf of them, until that is over. */
static struct est_tensor cache_cast(struct est_tape *tape, struct est_tensor zeros)
{
	struct est_tensor cast;

	if (!tape->recomputing || !zeros.requires_grad || !tape->autocast || zeros.element != EST_32BIT)
		return zeros;
	cast = est_hold(est_to(tape, zeros, EST_16BIT));
	est_attach(tape, &tape->scratch, cast);
	est_drop(tape, zeros);
	return cast;
}

static struct est_tensor attend(struct stack *stack, const struct est_tensor qkv[3], bool is_cross,
				struct est_tensor bias)
{
	struct est_pass *pass = &stack->pass;
	uint64_t keys = is_cross ? stack->source_length : pass->sequence;
	struct est_tensor mask = is_cross ? stack->cross_mask : stack->mask, out;
	bool is_leaf;

	if (pass->request->attention == EST_EAGER)
		return est_eager_scores(pass, qkv, keys, stack->use_cache, bias, mask);
	is_leaf = is_cross && !mask.numel;
	mask = bias_mask(stack, bias, mask, stack->is_decoder && !is_cross, !is_cross);
	if (is_leaf)
		mask = cache_cast(pass->tape, mask);
	out = est_biased_attention(pass, qkv, keys, mask);
	est_drop(pass->tape, mask);
	return out;
}

/* The decoder's cache is on although nothing is generated: model.config.use_cache does not reach its copy of the
 * configuration. */
static struct est_tensor cached(struct stack *stack, struct est_tensor states)
{
	struct est_pass *owner = stack->owner;
	struct est_tensor copy;

	if (!stack->use_cache)
		return states;
	copy = est_hold(est_cat(owner->tape, est_none, states));
	owner->cache[owner->cache_count++] = est_hold(est_alias(owner->tape, copy));
	return copy;
}

static struct est_tensor project(struct stack *stack, const struct est_linear *linear, struct est_tensor x)
{
	return est_hold(est_encoder_heads(&stack->pass, est_linear(stack->pass.tape, linear, x)));
}

/* o(attention(q(x), k(y), v(y))); *bias is made when it has no elements */
static struct est_tensor attention(struct stack *stack, const struct est_linear qkvo[4], struct est_tensor x,
				   struct est_tensor y, bool is_cross, struct est_tensor *bias)
{
	struct est_tape *tape = stack->pass.tape;
	struct est_tensor qkv[3], out, before[2];

	for (unsigned i = 0; i < 3; i++)
		qkv[i] = project(stack, &qkvo[i], i == 0 ? x : y);
	for (unsigned i = 0; i < 2; i++) {
		before[i] = qkv[1 + i];
		qkv[1 + i] = cached(stack, before[i]);
	}
	for (unsigned i = 0; i < 2 && stack->use_cache; i++)
		est_drop(tape, before[i]);
	if (!bias->numel && is_cross)
		*bias = zero_bias(stack, qkv[0].element);
	else if (!bias->numel)
		*bias = est_position_bias(&stack->pass, stack->relative_attention_bias, stack->is_decoder);
	out = est_hold(attend(stack, qkv, is_cross, *bias));
	x = est_linear(tape, &qkvo[3], out);
	est_drop(tape, out);
	est_drop_all(tape, qkv, 3);
	return est_hold(x);
}

static struct est_tensor self_attention(struct block *block, struct est_tensor x)
{
	struct est_pass *pass = &block->stack->pass;
	const struct est_layer *layer = block->layer;
	const struct est_linear qkvo[] = { layer->q_proj, layer->k_proj, layer->v_proj, layer->o_proj };
	struct est_tensor normed = est_hold(norm(pass, &layer->input_layernorm, x)), bias = block->bias;

	x = residual_add(pass, x, attention(block->stack, qkvo, normed, normed, false, &bias));
	est_drop(pass->tape, normed);
	if (!block->bias.numel)
		block->made_bias = bias;
	return est_hold(x);
}

static struct est_tensor cross_attention(struct block *block, struct est_tensor x)
{
	struct est_pass *pass = &block->stack->pass;
	const struct est_layer *layer = block->layer;
	const struct est_linear qkvo[] = { layer->cross_q_proj, layer->cross_k_proj, layer->cross_v_proj,
					   layer->cross_o_proj };
	struct est_tensor normed = est_hold(norm(pass, &layer->cross_attn_layernorm, x)), bias = block->cross_bias, out;
	struct est_tensor weights = pass->attn_weights; /* of the self attention: the block's frame still has them */

	pass->attn_weights = est_none;
	out = attention(block->stack, qkvo, normed, block->stack->encoder_hidden_states, true, &bias);
	out = residual_add(pass, x, out);
	est_drop(pass->tape, normed);
	est_drop(pass->tape, weights);
	est_drop(pass->tape, x);
	if (!block->cross_bias.numel)
		block->made_cross_bias = bias;
	return est_hold(out);
}

/* ---- blocks */

/* What a recomputation makes anew is its own to give up. */
static void give_up_biases(struct block *block)
{
	struct est_tape *tape = block->stack->pass.tape;

	if (!tape->recomputing)
		return;
	est_drop(tape, block->made_bias);
	est_drop(tape, block->made_cross_bias);
}

static struct est_tensor block_function(void *context, struct est_tensor x, const void *argument)
{
	struct block *block = context;
	struct est_pass *pass = &block->stack->pass;
	struct est_tensor first = block->made_bias, first_cross = block->made_cross_bias, y;

	(void)argument;
	block->made_bias = block->made_cross_bias = est_none;
	x = self_attention(block, x);
	if (block->stack->is_decoder)
		x = cross_attention(block, x);
	y = feed_forward(pass, block->layer, x);
	est_drop(pass->tape, x);
	est_drop(pass->tape, pass->attn_weights);
	pass->attn_weights = est_none;
	give_up_biases(block);
	if (pass->tape->recomputing) {
		block->made_bias = first;
		block->made_cross_bias = first_cross;
	}
	return y;
}

static struct est_tensor run_block(struct block *block, int64_t index, struct est_tensor x)
{
	struct stack *stack = block->stack;
	struct est_call call = { .function = block_function, .context = block,
				 .kwargs = { stack->mask, block->bias, stack->encoder_hidden_states, stack->cross_mask,
					     block->cross_bias } };

	/* the encoder's blocks are counted first */
	if (!est_is_checkpointed(&stack->pass, stack->is_decoder ? stack->pass.model->num_hidden_layers + index : index))
		return block_function(block, x, NULL);
	return est_checkpoint(stack->pass.tape, &call, x, false);
}

/* x moves in. ret_biases: those that the first block has made and all share; zeros that are a leaf are its own. */
static struct est_tensor run_blocks(struct stack *stack, const struct est_layer *layers, int64_t count,
				    struct est_tensor x, struct est_tensor ret_biases[2])
{
	struct est_tape *tape = stack->pass.tape;
	struct block *blocks = est_arena_take(tape->arena, (size_t)count, sizeof(*blocks));
	struct est_tensor y;

	ret_biases[0] = ret_biases[1] = est_none;
	if (!blocks) {
		tape->exhausted = true;
		return x;
	}
	for (int64_t i = 0; i < count; i++) {
		blocks[i] = (struct block){ .stack = stack, .layer = &layers[i] };
		if (i > 0) {
			blocks[i].bias = blocks[0].made_bias;
			blocks[i].cross_bias = blocks[0].made_cross_bias;
		}
		est_mark_layer(tape, (unsigned)(&layers[i] - stack->owner->layers) + 1);
		y = run_block(&blocks[i], i, x);
		est_drop(tape, x);
		x = est_hold(y);
	}
	est_mark_layer(tape, 0);
	ret_biases[0] = blocks[0].made_bias;
	if (!blocks[0].made_cross_bias.requires_grad)
		ret_biases[1] = blocks[0].made_cross_bias;
	return x;
}

/* create_causal_mask or create_bidirectional_mask, and that of the cross attention */
static void make_masks(struct stack *stack, uint8_t element)
{
	struct est_pass *pass = &stack->pass;
	bool eager = pass->request->attention == EST_EAGER;

	if (!stack->is_decoder) {
		stack->mask = est_bidirectional_mask(pass, pass->sequence, pass->sequence, element);
		return;
	}
	if (eager) { /* causal, booleans first; SDPA's path says it to the bias instead */
		struct est_tensor causal = est_buffer(pass->tape, pass->sequence * pass->sequence, EST_BYTE);

		stack->mask = est_buffer(pass->tape, pass->batch * pass->sequence * pass->sequence, element);
		est_drop(pass->tape, causal);
	}
	stack->cross_mask = est_bidirectional_mask(pass, pass->sequence, stack->source_length, element);
}

/* ---- stacks */

/* dropout(embed_tokens(ids)) through all blocks and the final norm. ids are borrowed. */
static struct est_tensor run_stack(struct stack *stack, struct est_tensor ids, int64_t first, int64_t count,
				   const struct est_norm_weights *final_norm)
{
	struct est_pass *pass = &stack->pass;
	struct est_tape *tape = pass->tape;
	struct est_tensor embeds, biases[2], x, y;

	embeds = est_embedding(tape, ids, pass->embed_tokens, (uint64_t)pass->model->vocab_size,
			       (uint64_t)pass->model->hidden_size);
	embeds = est_hold(est_require_input_grad(stack->owner, embeds));
	make_masks(stack, embeds.element);
	x = run_blocks(stack, &stack->owner->layers[first], count, est_hold(dropout(pass, embeds)), biases);
	y = est_hold(norm(pass, final_norm, x));
	est_drop(tape, x);
	x = est_hold(dropout(pass, y));
	est_drop(tape, y);
	est_drop(tape, embeds);
	est_drop(tape, biases[0]);
	est_drop(tape, biases[1]);
	est_drop(tape, stack->mask);
	est_drop(tape, stack->cross_mask);
	return x;
}

static struct stack *stack_new(struct est_pass *pass, uint64_t length)
{
	struct stack *stack = est_arena_take(pass->tape->arena, 1, sizeof(*stack));

	if (!stack) {
		pass->tape->exhausted = true;
		return NULL;
	}
	*stack = (struct stack){ .pass = *pass, .owner = pass };
	stack->pass.sequence = length;
	stack->pass.tokens = pass->batch * length;
	return stack;
}

/* _shift_right(labels) */
static struct est_tensor shift_right(struct est_pass *pass, uint64_t length)
{
	struct est_tensor ids = est_buffer(pass->tape, pass->batch * length, EST_INT64);

	est_drop(pass->tape, est_buffer(pass->tape, pass->batch * (length - 1), EST_INT64));
	est_drop(pass->tape, est_buffer(pass->tape, ids.numel, EST_BYTE));
	return ids;
}

struct est_tensor est_t5_forward(struct est_pass *pass)
{
	const struct est_model *model = pass->model;
	uint64_t target = (uint64_t)pass->request->target_length;
	struct stack *encoder = stack_new(pass, pass->sequence), *decoder = stack_new(pass, target);
	struct est_tensor ids, x;

	if (!encoder || !decoder)
		return est_none;
	encoder->relative_attention_bias = pass->relative_attention_bias[0];
	x = run_stack(encoder, pass->input_ids, 0, model->num_hidden_layers, &pass->norm);
	pass->encoder_last_hidden_state = x;
	ids = shift_right(pass, target);
	decoder->relative_attention_bias = pass->relative_attention_bias[1];
	decoder->is_decoder = true;
	decoder->use_cache = pass->request->checkpointing == EST_CHECKPOINT_NONE;
	decoder->source_length = pass->sequence;
	decoder->encoder_hidden_states = x;
	x = run_stack(decoder, ids, model->num_hidden_layers, model->num_decoder_layers, &pass->decoder_norm);
	est_drop(pass->tape, ids);
	return x;
}
