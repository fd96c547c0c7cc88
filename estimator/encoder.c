#include "estimator/encoder.h"

#include "estimator/build.h"

/* ---- building */

static uint64_t hidden_size(const struct est_pass *pass)
{
	return (uint64_t)pass->model->hidden_size;
}

/* position_ids and token_type_ids */
static void build_id_buffers(struct est_pass *pass, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		est_empty_as(pass->tape, (uint64_t)pass->model->max_position_embeddings, EST_INT64, EST_BUFFERS);
}

static void build_bert(struct est_pass *pass)
{
	const struct est_model *model = pass->model;
	uint64_t hidden = hidden_size(pass);

	pass->embed_tokens = est_build_matrix(pass, (uint64_t)model->vocab_size, hidden);
	pass->embed_positions = est_build_matrix(pass, (uint64_t)model->max_position_embeddings, hidden);
	if (model->type_vocab_size)
		pass->token_type_embeddings = est_build_matrix(pass, (uint64_t)model->type_vocab_size, hidden);
	est_build_norm(pass, &pass->norm, hidden);
	build_id_buffers(pass, model->type_vocab_size ? 2 : 1);
	if (model->task_type_vocab_size)
		pass->task_type_embeddings = est_build_matrix(pass, (uint64_t)model->task_type_vocab_size, hidden);
	est_build_layers(pass);
}

static void build_deberta(struct est_pass *pass)
{
	pass->embed_tokens = est_build_matrix(pass, (uint64_t)pass->model->vocab_size, hidden_size(pass));
	est_build_norm(pass, &pass->norm, hidden_size(pass));
	build_id_buffers(pass, 1);
	est_build_layers(pass);
	pass->relative_embeddings = est_build_matrix(pass, 2 * (uint64_t)pass->model->position_buckets, hidden_size(pass));
	est_build_norm(pass, &pass->embedding_norm, hidden_size(pass));
}

static void build_modernbert(struct est_pass *pass)
{
	pass->embed_tokens = est_build_matrix(pass, (uint64_t)pass->model->vocab_size, hidden_size(pass));
	est_build_norm(pass, &pass->embedding_norm, hidden_size(pass));
	est_build_layers(pass);
	est_build_norm(pass, &pass->norm, hidden_size(pass));
	for (unsigned i = 0; i < 2 * est_rope_count(pass); i++) /* inv_freq and its original */
		est_empty_as(pass->tape, (uint64_t)pass->model->head_dim / 2, EST_32BIT, EST_BUFFERS);
}

static uint32_t build_position_bias(struct est_pass *pass)
{
	return est_build_matrix(pass, (uint64_t)pass->model->relative_attention_num_buckets,
				(uint64_t)pass->model->num_attention_heads);
}

static void build_t5(struct est_pass *pass)
{
	pass->embed_tokens = est_build_matrix(pass, (uint64_t)pass->model->vocab_size, hidden_size(pass));
	est_build_layers(pass);
	for (unsigned i = 0; i < 2; i++)
		pass->relative_attention_bias[i] = build_position_bias(pass);
	est_build_norm(pass, &pass->norm, hidden_size(pass));
	est_build_norm(pass, &pass->decoder_norm, hidden_size(pass));
}

/* The vocabulary's projection: the embedding's weight, where it is tied, with a bias of its own. */
static void build_vocabulary_head(struct est_pass *pass, bool bias)
{
	uint64_t vocabulary = (uint64_t)pass->model->vocab_size;

	if (!pass->model->tie_word_embeddings) {
		est_build_linear(pass, &pass->lm_head, hidden_size(pass), vocabulary, bias);
		return;
	}
	pass->lm_head = (struct est_linear){ .weight = pass->embed_tokens, .in = hidden_size(pass), .out = vocabulary,
					     .has_bias = bias };
	if (bias)
		pass->lm_head.bias = est_build_vector(pass, vocabulary);
}

void est_encoder_build(struct est_pass *pass)
{
	const struct est_model *model = pass->model;
	bool modern = model->architecture == EST_ARCH_MODERNBERT;

	if (model->num_decoder_layers) {
		build_t5(pass);
		build_vocabulary_head(pass, false);
		return;
	}
	if (modern)
		build_modernbert(pass);
	else if (model->architecture == EST_ARCH_DEBERTA)
		build_deberta(pass);
	else
		build_bert(pass);
	pass->quantizes = pass->request->method == EST_QLORA;
	est_build_linear(pass, &pass->head_dense, hidden_size(pass), hidden_size(pass), !modern);
	pass->quantizes = false;
	if (pass->request->task == EST_MASKED_LM) {
		est_build_norm(pass, &pass->head_norm, hidden_size(pass));
		build_vocabulary_head(pass, !modern || model->lm_head_bias);
	} else {
		est_build_linear(pass, &pass->lm_head, hidden_size(pass), (uint64_t)model->num_labels, true);
	}
}

/* ---- forward */

struct est_tensor est_encoder_forward(struct est_pass *pass)
{
	if (pass->model->architecture == EST_ARCH_MODERNBERT)
		return est_modernbert_forward(pass);
	if (pass->model->architecture == EST_ARCH_DEBERTA)
		return est_deberta_forward(pass);
	return pass->model->num_decoder_layers ? est_t5_forward(pass) : est_bert_forward(pass);
}
