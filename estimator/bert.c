/* BertEmbeddings and BertLayer, with what RoBERTa, XLM-RoBERTa and DistilBERT do in another way. */
#include "estimator/encoder.h"

/* ---- embeddings */

/* RoBERTa counts the positions of what is no padding: (cumsum(mask) * mask).long() + padding_idx */
static struct est_tensor positions_of_tokens(struct est_pass *pass)
{
	struct est_tape *tape = pass->tape;
	uint64_t tokens = pass->tokens;
	struct est_tensor flags = est_buffer(pass->tape, tokens, EST_BYTE),
		mask = est_buffer(pass->tape, tokens, EST_32BIT), sum, next;

	est_drop(tape, flags);
	sum = est_buffer(pass->tape, tokens, EST_INT64);
	next = est_buffer(pass->tape, tokens, EST_32BIT);
	est_drop(tape, sum);
	sum = est_buffer(pass->tape, tokens, EST_32BIT); /* + past_key_values_length */
	est_drop(tape, next);
	next = est_buffer(pass->tape, tokens, EST_32BIT);
	est_drop(tape, sum);
	sum = est_buffer(pass->tape, tokens, EST_INT64);
	flags = est_buffer(pass->tape, tokens, EST_INT64);
	est_drop(tape, sum);
	est_drop(tape, mask);
	est_drop(tape, next);
	return flags;
}

/* Type 0 for all: gathered from a buffer by position, for one sequence that is expanded, or for each token (RoBERTa) */
static struct est_tensor embed_token_types(struct est_pass *pass, uint64_t positions)
{
	const struct est_model *model = pass->model;
	struct est_tensor types = est_buffer(pass->tape, positions, EST_INT64), ids = types, copy = est_none, out;

	ids.numel = pass->tokens;
	if (positions < pass->tokens) /* F.embedding's reshape of expanded indices */
		copy = est_buffer(pass->tape, pass->tokens, EST_INT64);
	out = est_embedding(pass->tape, ids, pass->token_type_embeddings, (uint64_t)model->type_vocab_size,
			    (uint64_t)model->hidden_size);
	est_drop(pass->tape, copy);
	est_drop(pass->tape, types);
	return est_hold(out);
}

static struct est_tensor embed_positions(struct est_pass *pass, struct est_tensor ids, uint64_t positions)
{
	ids.numel = positions;
	return est_hold(est_embedding(pass->tape, ids, pass->embed_positions, (uint64_t)pass->model->max_position_embeddings,
				      (uint64_t)pass->model->hidden_size));
}

/* ERNIE: embeddings += task_type_embeddings(zeros). x moves in; held are the sum and, in ret_frame, variables of the
 * frame. */
static struct est_tensor add_task_type(struct est_pass *pass, struct est_tensor x, struct est_tensor ret_frame[2])
{
	const struct est_model *model = pass->model;
	struct est_tensor sum;

	if (!model->task_type_vocab_size)
		return x;
	ret_frame[0] = est_buffer(pass->tape, pass->tokens, EST_INT64);
	ret_frame[1] = est_hold(est_embedding(pass->tape, ret_frame[0], pass->task_type_embeddings,
					      (uint64_t)model->task_type_vocab_size, (uint64_t)model->hidden_size));
	sum = est_hold(est_add_in_place(pass->tape, x, ret_frame[1]));
	est_drop(pass->tape, x);
	return sum;
}

/* dropout(LayerNorm(words + types + positions)) */
static struct est_tensor embeddings(struct est_pass *pass)
{
	const struct est_model *model = pass->model;
	struct est_tape *tape = pass->tape;
	bool per_token = model->architecture == EST_ARCH_ROBERTA;
	uint64_t positions = per_token ? pass->tokens : pass->sequence;
	struct est_tensor ids = per_token ? positions_of_tokens(pass) : est_none, words, types = est_none, places, x, y,
		task[2] = { { 0 } };

	words = est_embedding(tape, pass->input_ids, pass->embed_tokens, (uint64_t)model->vocab_size,
			      (uint64_t)model->hidden_size);
	words = est_hold(est_require_input_grad(pass, words));
	x = est_hold(est_alias(tape, words));
	if (model->type_vocab_size) {
		types = embed_token_types(pass, positions);
		y = est_hold(est_add(tape, x, types));
		est_drop(tape, x);
		x = y;
	}
	places = embed_positions(pass, ids, positions);
	y = est_hold(est_add(tape, x, places));
	est_drop(tape, x);
	y = add_task_type(pass, y, task);
	x = est_hold(est_torch_layer_norm(pass, &pass->norm, y));
	est_drop(tape, y);
	y = est_hold(est_dropout(tape, x, model->embedding_dropout));
	est_drop(tape, x);
	est_drop(tape, task[0]);
	est_drop(tape, task[1]);
	est_drop(tape, words);
	est_drop(tape, types);
	est_drop(tape, places);
	est_drop(tape, ids);
	return y;
}

/* ---- layers */

/* DistilBERT projects the result within */
static struct est_tensor self_attention(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor qkv[3], out, projected;

	qkv[0] = est_hold(est_encoder_heads(pass, est_linear(tape, &layer->q_proj, x)));
	qkv[1] = est_hold(est_encoder_heads(pass, est_linear(tape, &layer->k_proj, x)));
	qkv[2] = est_hold(est_encoder_heads(pass, est_linear(tape, &layer->v_proj, x)));
	if (pass->request->attention == EST_EAGER)
		out = est_eager_scores(pass, qkv, pass->sequence, false, est_none, pass->mask);
	else
		out = est_attention(pass, layer, qkv[0], qkv[1], qkv[2]);
	out = est_hold(out);
	if (pass->model->architecture == EST_ARCH_DISTILBERT) {
		projected = est_hold(est_linear(tape, &layer->o_proj, out));
		est_drop(tape, out);
		out = projected;
	}
	est_drop_all(tape, qkv, 3);
	return out;
}

/* LayerNorm(dropout(dense(x)) + residual) */
static struct est_tensor output(struct est_pass *pass, const struct est_linear *dense,
				const struct est_norm_weights *norm, struct est_tensor x, struct est_tensor residual)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor y = est_hold(est_linear(tape, dense, x)), dropped;

	dropped = est_hold(est_dropout(tape, y, pass->model->residual_dropout));
	est_drop(tape, y);
	y = est_torch_layer_norm(pass, norm, est_add(tape, dropped, residual));
	est_drop(tape, dropped);
	return y;
}

/* act(up_proj(x)) */
static struct est_tensor intermediate(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tensor y = est_hold(est_linear(pass->tape, &layer->up_proj, x)), activated;

	activated = est_hold(est_activate(pass, y));
	est_drop(pass->tape, y);
	return activated;
}

/* BertLayer, whatever its attention */
static struct est_tensor layer_with(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x,
				    est_layer_function *attention)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor context = est_hold(attention(pass, layer, x)), attended;

	attended = est_hold(output(pass, &layer->o_proj, &layer->input_layernorm, context, x));
	est_drop(tape, context);
	context = intermediate(pass, layer, attended);
	x = output(pass, &layer->down_proj, &layer->post_attention_layernorm, context, attended);
	est_drop(tape, context);
	est_drop(tape, attended);
	return x;
}

struct est_tensor est_bert_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	return layer_with(pass, layer, x, self_attention);
}

/* The model's loop collects all hidden states. */
struct est_tensor est_deberta_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	x = layer_with(pass, layer, x, est_disentangled_attention);
	if (pass->runs_layers)
		pass->tape->beside = est_hold(est_alias(pass->tape, x));
	return x;
}

/* sa_layer_norm(attention + x), then output_layer_norm(dropout(lin2(act(lin1(x)))) + x) */
struct est_tensor est_distilbert_layer(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor context, y = self_attention(pass, layer, x), attended;

	attended = est_hold(est_torch_layer_norm(pass, &layer->input_layernorm, est_add(tape, y, x)));
	est_drop(tape, y);
	context = intermediate(pass, layer, attended);
	y = est_hold(est_linear(tape, &layer->down_proj, context));
	est_drop(tape, context);
	context = est_hold(est_dropout(tape, y, pass->model->residual_dropout));
	est_drop(tape, y);
	y = est_torch_layer_norm(pass, &layer->post_attention_layernorm, est_add(tape, context, attended));
	est_drop(tape, context);
	est_drop(tape, attended);
	return y;
}

/* tanh(dense(first token)) */
static struct est_tensor pool(struct est_pass *pass, struct est_tensor x)
{
	struct est_tensor first = est_slice(pass->tape, x, pass->batch * (uint64_t)pass->model->hidden_size);

	return est_hold(est_tanh(pass->tape, est_linear(pass->tape, &pass->head_dense, first)));
}

struct est_tensor est_bert_forward(struct est_pass *pass)
{
	bool pools = pass->model->architecture == EST_ARCH_BERT && pass->request->task == EST_SEQUENCE_CLASSIFICATION;
	struct est_tensor embedding_output = embeddings(pass), x;

	pass->mask = est_bidirectional_mask(pass, pass->sequence, pass->sequence, embedding_output.element);
	x = est_run_layers(pass, est_hold(est_alias(pass->tape, embedding_output)));
	pass->pooler_output = pools ? pool(pass, x) : est_none;
	est_drop(pass->tape, embedding_output);
	return x;
}
