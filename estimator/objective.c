/* The trainers of trl 1.16: sft_trainer.py, dpo_trainer.py, grpo_trainer.py, kto_trainer.py, reward_trainer.py, and
 * experimental/orpo/orpo_trainer.py; transformers' Trainer for the rest. */
#include "estimator/objective.h"

#include "estimator/compile.h"
#include "estimator/loss.h"
#include "estimator/router_loss.h"
#include "estimator/task.h"

uint64_t est_objective_sequences(const struct est_request *request)
{
	enum est_objective objective = request->objective;

	return objective == EST_DPO || objective == EST_ORPO || objective == EST_REWARD ? 2 : 1;
}

bool est_objective_holds_reference(const struct est_request *request)
{
	bool refers = request->objective == EST_DPO || request->objective == EST_KTO
		      || (request->objective == EST_GRPO && request->beta > 0);

	return refers && request->reference_model == EST_REFERENCE_MODEL;
}

uint64_t est_objective_scores(const struct est_request *request)
{
	if (request->objective == EST_REWARD)
		return 1;
	return request->task == EST_SEQUENCE_CLASSIFICATION ? 2 : 0;
}

/* ---- dropout */

/* DPOConfig, KTOConfig, RewardConfig and ORPOConfig: disable_dropout is true; GRPOConfig: false */
bool est_objective_disables_dropout(const struct est_request *request)
{
	enum est_objective objective = request->objective;

	return objective == EST_DPO || objective == EST_KTO || objective == EST_REWARD || objective == EST_ORPO;
}

/* Which dropouts are modules, in Transformers' modelling code; no attention's is, nor any of other architectures. */
static const struct {
	enum est_architecture architecture;
	bool attention, residual, embedding;
} dropout_modules[] = {
	{ EST_ARCH_GPT2, true, true, true },         { EST_ARCH_GPT_NEO, true, true, true },
	{ EST_ARCH_GPTJ, true, true, true },         { EST_ARCH_GPT_BIGCODE, false, true, true },
	{ EST_ARCH_GPT_NEOX, false, true, true },    { EST_ARCH_PHI, false, true, true },
	{ EST_ARCH_STABLELM, false, true, false },   { EST_ARCH_BLOOM, true, false, false },
	{ EST_ARCH_FALCON, true, false, false },
};

struct est_model est_objective_model(const struct est_request *request, const struct est_model *model)
{
	struct est_model own = *model;

	if (!est_objective_disables_dropout(request))
		return own;
	for (size_t i = 0; i < sizeof(dropout_modules) / sizeof(dropout_modules[0]); i++) {
		if (dropout_modules[i].architecture != model->architecture)
			continue;
		own.attention_dropout = dropout_modules[i].attention ? 0 : own.attention_dropout;
		own.residual_dropout = dropout_modules[i].residual ? 0 : own.residual_dropout;
		own.embedding_dropout = dropout_modules[i].embedding ? 0 : own.embedding_dropout;
	}
	return own;
}

/* ---- inputs and passes */

/* One value a token, as the collator makes them */
static struct est_tensor input(struct est_pass *pass)
{
	return est_buffer(pass->tape, pass->tokens, EST_INT64);
}

enum { INPUTS_MAX = 8 };
struct inputs {
	struct est_tensor tensors[INPUTS_MAX];
	unsigned count;
};

static void take_inputs(struct est_pass *pass, struct inputs *inputs, unsigned count)
{
	for (inputs->count = 0; inputs->count < count; inputs->count++)
		inputs->tensors[inputs->count] = input(pass);
	pass->input_ids = inputs->tensors[0];
}

static void drop_inputs(struct est_tape *tape, const struct inputs *inputs)
{
	est_drop_all(tape, inputs->tensors, inputs->count);
}

/* torchtitan leaves it to FSDP2's policy. */
static bool uses_autocast(const struct est_request *request)
{
	enum est_precision precision = request->precision;
	bool mixed = est_is_mixed(precision) || precision == EST_BF16_AUTOCAST;

	return mixed && request->parallelism.expert <= 1;
}

/* TRL prepares a reference that is sharded itself, and leaves accelerate's autocast out. */
static bool is_sharded_reference(const struct est_pass *pass)
{
	return pass->schedule && pass->schedule->evaluates;
}

/* Up to the last hidden state. Reentrant checkpoints need what the layers share until the backward. */
struct est_tensor est_objective_forward(struct est_pass *pass)
{
	const struct est_request *request = pass->request;
	bool recomputes_reentrantly = request->checkpointing != EST_CHECKPOINT_NONE && request->use_reentrant;
	struct est_tensor hidden;

	pass->tape->autocast = uses_autocast(request) && !is_sharded_reference(pass);
	hidden = est_pass_forward(pass);
	if (!recomputes_reentrantly || pass->tape->no_grad)
		est_pass_release(pass);
	return hidden;
}

/* input_ids.masked_fill(completion_mask == 0, -100) */
static struct est_tensor completion_labels(struct est_pass *pass)
{
	struct est_tensor outside = est_empty_as(pass->tape, pass->tokens, EST_BYTE, EST_BUFFERS), labels = input(pass);

	est_drop(pass->tape, outside);
	return labels;
}

/* The model with its fused head, which is where it returns. */
static struct est_fused_output run_model(struct est_pass *pass, enum est_fused_metrics metrics)
{
	struct est_fused_output output = est_fused_lm_head(pass, est_objective_forward(pass), metrics);

	output.log_probs = est_pass_return(pass, output.log_probs);
	return output;
}

/* What is trained, whose routers' logits the trainers ask for */
static struct est_fused_output run_policy(struct est_pass *pass, enum est_fused_metrics metrics)
{
	est_router_loss_begin(pass);
	return run_model(pass, metrics);
}

/* PEFT's disable_adapter(): copies of whole modules are passed by too. */
static void switch_off(struct est_pass *pass)
{
	pass->tape->adapters_off = true;
	pass->embed_tokens = pass->base_embed_tokens;
	pass->lm_head.weight = pass->base_lm_head;
}

/* log_probs of a pass without gradients: the reference model, or the policy with its adapter switched off (off) or
 * on */
static void run_without_gradients(const struct est_pass *pass, bool off, enum est_fused_metrics metrics, bool kept,
				  struct est_fused_output *ret)
{
	struct est_tape *tape = pass->tape;
	struct est_pass copy = *pass;
	struct est_fused_output output;

	tape->no_grad = true;
	if (off)
		switch_off(&copy);
	output = run_model(&copy, metrics);
	tape->no_grad = tape->adapters_off = false;
	*ret = (struct est_fused_output){ est_none, est_none, est_none, est_none };
	if (kept)
		*ret = output;
	else
		est_fused_output_drop(tape, &output);
}

/* With a reference model's own schedule its modules have that one's hooks. */
static void run_reference(struct est_pass *pass, bool kept, struct est_fused_output *ret)
{
	struct est_module_hooks hooks = pass->tape->hooks;

	if (pass->reference)
		pass->reference->input_ids = pass->input_ids;
	if (pass->reference && pass->reference->schedule)
		pass->tape->hooks.context = pass->reference->schedule;
	run_without_gradients(pass->reference ? pass->reference : pass, true,
			      pass->reference ? EST_METRICS_NONE : EST_METRICS_MEAN_LOGITS, kept, ret);
	pass->tape->hooks = hooks;
}

/* ---- objectives */

/* Trainer.compute_loss: the model's own loss, or SFTTrainer's */
static struct est_tensor language_model_loss(struct est_pass *pass)
{
	/* input_ids, labels, and a mask that TRL's collator always makes */
	bool masked = pass->request->attention_mask || pass->request->framework == EST_TRL;
	struct est_tensor loss;
	struct inputs inputs;

	take_inputs(pass, &inputs, masked ? 3 : 2);
	est_router_loss_begin(pass);
	loss = est_compiles_model(pass->request) ? est_compiled_model_loss(pass) : est_loss(pass, est_objective_forward(pass));
	drop_inputs(pass->tape, &inputs);
	return loss;
}

static bool runs_reference(const struct est_request *request)
{
	return request->reference_model == EST_REFERENCE_MODEL || request->reference_model == EST_REFERENCE_ADAPTER;
}

/* The loss, held; what it was made of, which moves in, goes. */
static struct est_tensor end_of_preference(struct est_tape *tape, const struct est_fused_output *output,
					   const struct est_fused_output *reference, struct est_tensor labels)
{
	struct est_tensor loss = est_hold(est_add_router_loss(tape, est_sum(tape, output->log_probs), output));

	est_fused_output_drop(tape, output);
	est_fused_output_drop(tape, reference);
	est_drop(tape, labels);
	return loss;
}

/* DPOTrainer: chosen and rejected in one pass, then the reference on top of what the policy keeps */
static struct est_tensor dpo_loss(struct est_pass *pass)
{
	struct est_tape *tape = pass->tape;
	struct est_fused_output output, reference = { est_none, est_none, est_none, est_none };
	struct est_tensor labels, loss;
	struct inputs inputs;

	take_inputs(pass, &inputs, 3); /* input_ids, attention_mask, completion_mask */
	labels = completion_labels(pass);
	output = run_policy(pass, EST_METRICS_MEAN_LOGITS);
	if (runs_reference(pass->request))
		run_reference(pass, true, &reference);
	loss = end_of_preference(tape, &output, &reference, labels);
	drop_inputs(tape, &inputs);
	return loss;
}

/* GRPOTrainer's update: reference and old log-probabilities come with the batch */
static struct est_tensor grpo_loss(struct est_pass *pass)
{
	struct est_tape *tape = pass->tape;
	struct est_fused_output output;
	struct est_tensor labels, loss;
	struct inputs inputs;

	take_inputs(pass, &inputs, 4); /* prompts and completions with their masks, joined: both are held */
	labels = completion_labels(pass);
	output = run_policy(pass, EST_METRICS_ENTROPY);
	est_drop(tape, labels);
	loss = est_hold(est_add_router_loss(tape, est_sum(tape, output.log_probs), &output));
	est_fused_output_drop(tape, &output);
	drop_inputs(tape, &inputs);
	return loss;
}

/* KTOTrainer: a pass over mismatched completions without gradients comes first, and the reference makes both */
static struct est_tensor kto_loss(struct est_pass *pass)
{
	struct est_tape *tape = pass->tape;
	struct est_fused_output output, ignored, reference = { est_none, est_none, est_none, est_none };
	struct est_tensor labels, loss;
	struct inputs inputs;

	take_inputs(pass, &inputs, 6); /* ids, mask and completion mask, of the examples and of the mismatched ones */
	labels = completion_labels(pass);
	run_without_gradients(pass, false, EST_METRICS_MEAN_LOGITS, false, &ignored);
	est_drop(tape, labels);
	labels = completion_labels(pass);
	output = run_policy(pass, EST_METRICS_MEAN_LOGITS);
	if (runs_reference(pass->request)) {
		struct est_tensor mismatched = completion_labels(pass);

		run_reference(pass, false, &ignored);
		est_drop(tape, mismatched);
		run_reference(pass, true, &reference);
	}
	loss = end_of_preference(tape, &output, &reference, labels);
	drop_inputs(tape, &inputs);
	return loss;
}

/* ...ForSequenceClassification: a score for each token, of which the last one's is taken */
static struct est_tensor score_loss(struct est_pass *pass)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor hidden, scores, pooled, loss;
	struct inputs inputs;

	take_inputs(pass, &inputs, 2); /* input_ids, attention_mask */
	hidden = est_hold(est_head_input(tape, est_objective_forward(pass)));
	scores = est_hold(est_linear(tape, &pass->lm_head, hidden));
	pooled = est_pass_return(pass, est_hold(est_slice(tape, est_alias(tape, scores), pass->batch * pass->lm_head.out)));
	loss = est_hold(est_sum(tape, est_to(tape, pooled, EST_32BIT)));
	est_drop(tape, pooled);
	est_drop(tape, hidden);
	est_drop(tape, scores);
	est_autocast_exit(tape);
	drop_inputs(tape, &inputs);
	return loss;
}

/* ORPOTrainer: full logits */
static struct est_tensor orpo_loss(struct est_pass *pass)
{
	struct est_tensor loss;
	struct inputs inputs;

	take_inputs(pass, &inputs,
		    6); /* ids, masks, labels: of the chosen, of the rejected (half as long each), and joined */
	loss = est_orpo_loss(pass, est_objective_forward(pass));
	drop_inputs(pass->tape, &inputs);
	return loss;
}

/* The classes of encoders, and of an encoder with a decoder: labels and loss are their task's */
static struct est_tensor encoder_loss(struct est_pass *pass)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor loss;
	struct inputs inputs;

	take_inputs(pass, &inputs, pass->request->attention_mask ? 2 : 1); /* input_ids, attention_mask */
	pass->labels = est_buffer(tape, est_task_labels(pass), EST_INT64);
	loss = est_task_loss(pass, est_objective_forward(pass));
	est_drop(tape, pass->labels);
	drop_inputs(tape, &inputs);
	return loss;
}

struct est_tensor est_objective_loss(struct est_pass *pass)
{
	static struct est_tensor (*const objectives[])(struct est_pass *) = {
		[EST_SFT] = language_model_loss,
		[EST_PRETRAIN] = language_model_loss,
		[EST_DPO] = dpo_loss,
		[EST_ORPO] = orpo_loss,
		[EST_KTO] = kto_loss,
		[EST_REWARD] = score_loss,
		[EST_GRPO] = grpo_loss,
	};

	if (est_model_is_encoder(pass->model))
		return encoder_loss(pass);
	if (est_objective_scores(pass->request))
		return score_loss(pass);
	return objectives[pass->request->objective](pass);
}
