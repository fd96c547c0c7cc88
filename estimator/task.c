#include "estimator/task.h"

#include "estimator/encoder.h"
#include "estimator/loss.h"

bool est_task_suits(const struct est_model *model, enum est_task task)
{
	if (model->num_decoder_layers)
		return task == EST_SEQUENCE_TO_SEQUENCE;
	if (est_model_is_bidirectional(model))
		return task == EST_MASKED_LM || task == EST_SEQUENCE_CLASSIFICATION;
	return task == EST_CAUSAL_LM || task == EST_SEQUENCE_CLASSIFICATION;
}

uint64_t est_task_labels(const struct est_pass *pass)
{
	if (pass->request->task == EST_SEQUENCE_CLASSIFICATION)
		return pass->batch;
	if (pass->request->task == EST_SEQUENCE_TO_SEQUENCE)
		return pass->batch * (uint64_t)pass->request->target_length;
	return pass->tokens;
}

/* ---- what the logits are made of: the frame's own variables */

/* The model's outputs, the encoder's last hidden state and the decoder's cache among them, until the loss is taken out;
 * accelerate casts those of 16 bits all at once. logits moves in. */
static void drop_outputs(struct est_pass *pass, struct est_tensor logits, bool casts)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor outputs[] = { logits, pass->encoder_last_hidden_state }, cast[2] = { est_none, est_none };

	for (unsigned i = 0; i < 2; i++)
		if (casts && est_is_16bit(outputs[i].element))
			cast[i] = est_hold(est_to(tape, outputs[i], EST_32BIT));
	est_drop_all(tape, outputs, 2);
	est_drop_all(tape, cast, 2);
	est_cache_drop(pass);
	pass->encoder_last_hidden_state = est_none;
}

/* ModernBERT's ForMaskedLMLoss casts the logits to fp32 */
static struct est_tensor labels_loss(struct est_pass *pass, struct est_tensor logits)
{
	struct est_tensor logits32, loss;

	if (pass->model->architecture != EST_ARCH_MODERNBERT)
		return est_hold(est_cross_entropy(pass->tape, logits, pass->labels));
	logits32 = est_hold(est_to(pass->tape, logits, EST_32BIT));
	loss = est_hold(est_cross_entropy(pass->tape, logits32, pass->labels));
	est_drop(pass->tape, logits32);
	return loss;
}

/* logits = lm_head(x), then the loss, then the end of the model's frame: x and what else it holds go. Both move in. */
static struct est_tensor loss_of(struct est_pass *pass, struct est_tensor x, struct est_tensor frame)
{
	struct est_tape *tape = pass->tape;
	bool casts = tape->autocast && pass->request->outputs_to_fp32;
	struct est_tensor input = est_hold(est_head_input(tape, est_alias(tape, x))), logits, loss;

	logits = est_hold(est_linear(tape, &pass->lm_head, input));
	est_drop(tape, input);
	if (pass->request->task == EST_MASKED_LM) { /* the head's own frame ends here */
		est_drop(tape, x);
		x = est_none;
	}
	loss = labels_loss(pass, logits);
	est_drop(tape, frame);
	est_drop(tape, x);
	est_autocast_exit(tape);
	drop_outputs(pass, logits, casts);
	return loss;
}

/* layer_norm(act(dense(x))) */
static struct est_tensor masked_lm(struct est_pass *pass, struct est_tensor hidden)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor x = est_hold(est_linear(tape, &pass->head_dense, hidden)), y = est_hold(est_activate(pass, x));

	est_drop(tape, x);
	x = est_hold(est_torch_layer_norm(pass, &pass->head_norm, y));
	est_drop(tape, y);
	return loss_of(pass, x, hidden);
}

/* The first token through a dense layer, with dropout before it in RoBERTa and ELECTRA; BERT's model has done so
 * itself */
static struct est_tensor first_token(struct est_pass *pass, struct est_tensor hidden)
{
	const struct est_model *model = pass->model;
	struct est_tape *tape = pass->tape;
	struct est_tensor x = est_slice(tape, hidden, pass->batch * (uint64_t)model->hidden_size);

	if (model->architecture == EST_ARCH_DISTILBERT)
		return est_relu(tape, est_linear(tape, &pass->head_dense, x));
	if (model->architecture == EST_ARCH_DEBERTA) /* ContextPooler, whose own dropout is 0 */
		return est_gelu(tape, est_linear(tape, &pass->head_dense, x));
	x = est_dropout(tape, x, model->classifier_dropout);
	if (model->architecture == EST_ARCH_ELECTRA)
		return est_gelu(tape, est_linear(tape, &pass->head_dense, x));
	return est_tanh(tape, est_linear(tape, &pass->head_dense, x));
}

static struct est_tensor classification(struct est_pass *pass, struct est_tensor hidden)
{
	struct est_tensor x = pass->pooler_output;

	x.temporary = true;
	if (!x.numel)
		x = first_token(pass, hidden);
	x = est_hold(est_dropout(pass->tape, x, pass->model->classifier_dropout));
	return loss_of(pass, x, hidden);
}

static struct est_tensor sequence_to_sequence(struct est_pass *pass, struct est_tensor hidden)
{
	struct est_tensor x = est_alias(pass->tape, hidden);

	if (pass->model->scale_decoder_outputs)
		x = est_mul_scalar(pass->tape, x);
	return loss_of(pass, est_hold(x), hidden);
}

struct est_tensor est_task_loss(struct est_pass *pass, struct est_tensor hidden)
{
	if (pass->request->task == EST_SEQUENCE_TO_SEQUENCE)
		return sequence_to_sequence(pass, hidden);
	return pass->request->task == EST_MASKED_LM ? masked_lm(pass, hidden) : classification(pass, hidden);
}
