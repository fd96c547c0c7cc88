/* DebertaV2Model, the third version's: attention by content and by relative position (DisentangledSelfAttention). */
#include "estimator/encoder.h"
#include "estimator/recurrent.h"

/* ---- operators */

/* zeros that the gradient is scattered into */
static const struct est_op gather_op = { "Gather", est_backward_one };

/* torch.gather, which keeps its operand too. x is released when temporary, index is borrowed. */
static struct est_tensor gather(struct est_tape *tape, struct est_tensor x, struct est_tensor index, uint64_t numel)
{
	struct est_node *node = est_node_new(tape, &gather_op, 1, &x);
	struct est_tensor out;

	est_save(tape, node, x);
	est_save(tape, node, index);
	out = est_empty(tape, numel, x.element);
	est_finish(tape, x);
	return est_output(tape, node, 0, out);
}

/* transpose_for_scores() of a projection: a copy, whose gradient is copied back. x is released when temporary. */
static struct est_tensor transpose_for_scores(struct est_pass *pass, struct est_tensor x)
{
	return pass->model->num_attention_heads > 1 ? est_merge_heads(pass->tape, x) : x;
}

/* ---- attention */

/* The frame of disentangled_attention_bias(): what lives to its end. */
struct bias {
	struct est_tensor query, key; /* pos_query_layer, pos_key_layer */
	struct est_tensor position, gathered;
};

/* transpose_for_scores(linear(embeddings)).repeat(batch, 1, 1): a copy for one sequence too, whose gradient, that of
 * a transposed operand, then lies as the projection does. Held. */
static struct est_tensor project_positions(struct est_pass *pass, const struct est_linear *linear,
					   struct est_tensor embeddings)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor x = est_linear(tape, linear, embeddings);

	if (pass->batch > 1)
		return est_hold(est_repeat_interleave(tape, transpose_for_scores(pass, x), pass->batch));
	if (pass->model->num_attention_heads > 1)
		x = est_contiguous(tape, x);
	return est_hold(est_contiguous(tape, x));
}

/* torch.clamp(relative_pos + att_span, 0, 2 * att_span - 1), of -relative_pos, if so told; held */
static struct est_tensor clamped_positions(struct est_pass *pass, bool negated)
{
	uint64_t scores = pass->sequence * pass->sequence;
	struct est_tensor negative = negated ? est_buffer(pass->tape, scores, EST_INT64) : est_none;
	struct est_tensor sum = est_buffer(pass->tape, scores, EST_INT64), clamped;

	est_drop(pass->tape, negative);
	clamped = est_buffer(pass->tape, scores, EST_INT64);
	est_drop(pass->tape, sum);
	return clamped;
}

/* Of each content to each distance (borrowed both), then of each position: gathered, and divided by the scale;
 * temporary */
static struct est_tensor score(struct est_pass *pass, struct est_tensor content, struct est_tensor distances,
			       bool negated, uint64_t numel, struct est_tensor ret_frame[2])
{
	struct est_tape *tape = pass->tape;
	uint64_t spans = 2 * (uint64_t)pass->model->position_buckets, width = (uint64_t)pass->model->head_dim;
	struct est_tensor by_distance;

	if (negated) /* p2c_pos before p2c_att */
		ret_frame[0] = clamped_positions(pass, true);
	by_distance = est_hold(est_bmm(tape, content, distances, content.numel / width * spans));
	if (!negated)
		ret_frame[0] = clamped_positions(pass, false);
	ret_frame[1] = est_hold(gather(tape, by_distance, ret_frame[0], numel));
	est_drop(tape, by_distance);
	return est_mul_scalar(tape, ret_frame[1]);
}

/* disentangled_attention_bias(); numel: of the scores */
static struct est_tensor attention_bias(struct est_pass *pass, const struct est_layer *layer, struct est_tensor query,
					struct est_tensor key, struct est_tensor embeddings, uint64_t numel)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor pos_query = project_positions(pass, &layer->q_proj, embeddings);
	struct est_tensor pos_key = project_positions(pass, &layer->k_proj, embeddings), frame[2][2], sum;

	sum = est_add_scalar(tape, score(pass, query, pos_key, false, numel, frame[0]));
	sum = est_hold(est_add_in_place(tape, sum, score(pass, key, pos_query, true, numel, frame[1])));
	for (unsigned i = 0; i < 2; i++) {
		est_drop(tape, frame[i][0]);
		est_drop(tape, frame[i][1]);
	}
	est_drop(tape, pos_key);
	est_drop(tape, pos_query);
	return sum;
}

/* dropout(softmax(scores.masked_fill(~mask, min))); scores, held, moves in and lives on as a variable of the frame */
static struct est_tensor probabilities(struct est_pass *pass, struct est_tensor *scores)
{
	struct est_tape *tape = pass->tape;
	uint64_t mask = pass->batch * pass->sequence * pass->sequence;
	struct est_tensor masked, probs, dropped;

	masked = est_hold(est_masked_fill(tape, *scores, est_empty_as(tape, mask, EST_BYTE, EST_BUFFERS)));
	est_drop(tape, *scores);
	*scores = masked;
	masked = est_alias(tape, masked);
	probs = est_hold(est_softmax(tape, tape->autocast ? est_to(tape, masked, EST_32BIT) : masked));
	dropped = est_hold(est_dropout(tape, probs, pass->model->attention_dropout));
	est_drop(tape, probs);
	return dropped;
}

static struct est_tensor merge(struct est_pass *pass, struct est_tensor x)
{
	return pass->model->num_attention_heads == 1 ? est_alias(pass->tape, x) : est_join_heads(pass, x);
}

struct est_tensor est_disentangled_attention(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	uint64_t numel = pass->tokens * pass->sequence * (uint64_t)pass->model->num_attention_heads;
	struct est_tensor query = est_hold(transpose_for_scores(pass, est_linear(tape, &layer->q_proj, x)));
	struct est_tensor key = est_hold(transpose_for_scores(pass, est_linear(tape, &layer->k_proj, x)));
	struct est_tensor value = est_hold(transpose_for_scores(pass, est_linear(tape, &layer->v_proj, x)));
	struct est_tensor scores, sum, embeddings, bias, mask, probs, context, out;

	scores = est_hold(est_bmm(tape, query, est_mul_scalar(tape, key), numel));
	embeddings = est_hold(est_dropout(tape, pass->position_bias, pass->model->residual_dropout));
	bias = est_hold(attention_bias(pass, layer, query, key, embeddings, numel));
	sum = est_hold(est_add(tape, scores, bias));
	est_drop(tape, scores);
	mask = est_buffer(pass->tape, pass->batch * pass->sequence * pass->sequence, EST_BYTE);
	probs = probabilities(pass, &sum);
	context = est_hold(est_bmm(tape, probs, value, query.numel));
	out = merge(pass, context);
	est_drop(tape, context);
	est_drop(tape, probs);
	est_drop(tape, mask);
	est_drop(tape, sum);
	est_drop(tape, bias);
	est_drop(tape, embeddings);
	est_drop(tape, value);
	est_drop(tape, key);
	est_drop(tape, query);
	return out;
}

/* ---- before the layers */

/* The embeddings times the mask, which is cast to their dtype: dropout(LayerNorm(words) * mask) */
static struct est_tensor embeddings(struct est_pass *pass, struct est_tensor mask)
{
	const struct est_model *model = pass->model;
	struct est_tape *tape = pass->tape;
	struct est_tensor words, places, x, y;

	words = est_embedding(tape, pass->input_ids, pass->embed_tokens, (uint64_t)model->vocab_size,
			      (uint64_t)model->hidden_size);
	words = est_hold(est_require_input_grad(pass, words));
	places = est_variable(tape, words.numel, words.element); /* zeros that nothing reads */
	x = est_hold(est_torch_layer_norm(pass, &pass->norm, words));
	mask = est_hold(est_to(tape, mask, x.element));
	y = est_hold(est_mul(tape, x, mask));
	est_drop(tape, x);
	x = est_hold(est_dropout(tape, y, model->embedding_dropout));
	est_drop(tape, y);
	est_drop(tape, mask);
	est_drop(tape, places);
	est_drop(tape, words);
	return x;
}

/* Elements of what one function gives to the next, each of which makes one tensor and lets go of the one before. */
static struct est_tensor chain(struct est_pass *pass, uint64_t numel, unsigned count, uint8_t element)
{
	struct est_tensor x = est_none, next;

	for (unsigned i = 0; i < count; i++) {
		next = est_buffer(pass->tape, numel, element);
		est_drop(pass->tape, x);
		x = next;
	}
	return x;
}

/* make_log_bucket_position() */
static struct est_tensor log_buckets(struct est_pass *pass, uint64_t scores)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor sign = est_buffer(pass->tape, scores, EST_INT64),
		below = est_buffer(pass->tape, scores, EST_BYTE), above, near;
	struct est_tensor magnitude, abs_pos, log_pos, far, out;

	above = est_buffer(pass->tape, scores, EST_BYTE);
	near = est_buffer(pass->tape, scores, EST_BYTE);
	est_drop(tape, above);
	est_drop(tape, below);
	magnitude = est_buffer(pass->tape, scores, EST_INT64);
	abs_pos = est_buffer(pass->tape, scores, EST_INT64);
	est_drop(tape, magnitude);
	est_drop(tape, near);
	log_pos = chain(pass, scores, 6, EST_32BIT); /* ceil(log(abs_pos / mid) / log(...) * (mid - 1)) + mid */
	near = est_buffer(pass->tape, scores, EST_BYTE);
	below = est_buffer(pass->tape, scores, EST_32BIT);
	far = est_buffer(pass->tape, scores, EST_32BIT);
	out = est_buffer(pass->tape, scores, EST_32BIT);
	est_drop(tape, far);
	est_drop(tape, below);
	est_drop(tape, near);
	est_drop(tape, log_pos);
	est_drop(tape, abs_pos);
	est_drop(tape, sign);
	return out;
}

/* build_relative_position(): each position less each other, in buckets; held */
static struct est_tensor relative_positions(struct est_pass *pass)
{
	struct est_tape *tape = pass->tape;
	uint64_t scores = pass->sequence * pass->sequence;
	struct est_tensor q_ids = est_buffer(pass->tape, pass->sequence, EST_INT64),
		k_ids = est_buffer(pass->tape, pass->sequence, EST_INT64);
	struct est_tensor distance = est_buffer(pass->tape, scores, EST_INT64), buckets = log_buckets(pass, scores), out;

	est_drop(tape, distance);
	out = est_buffer(pass->tape, scores, EST_INT64);
	est_drop(tape, buckets);
	est_drop(tape, k_ids);
	est_drop(tape, q_ids);
	return out;
}

struct est_tensor est_deberta_forward(struct est_pass *pass)
{
	struct est_tape *tape = pass->tape;
	bool padded = pass->request->attention_mask;
	uint8_t element = padded ? EST_INT64 : EST_32BIT; /* torch.ones() */
	struct est_tensor mask = { .numel = pass->tokens, .element = element }, types, x, y;

	if (!padded)
		mask = est_buffer(pass->tape, pass->tokens, element);
	types = est_buffer(pass->tape, pass->tokens, EST_INT64);
	x = embeddings(pass, mask);
	pass->mask = est_buffer(pass->tape, pass->tokens * pass->sequence, element); /* each query's by each key's */
	pass->relative_positions = relative_positions(pass);
	pass->position_bias = est_hold(est_torch_layer_norm(pass, &pass->embedding_norm,
							    est_leaf_tensor(tape, pass->relative_embeddings)));
	y = est_run_layers(pass, est_hold(est_alias(tape, x)));
	est_cache_drop(pass); /* all_hidden_states */
	est_drop(tape, x);
	est_drop(tape, types);
	est_drop(tape, mask);
	return y;
}
