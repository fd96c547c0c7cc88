/* What a trainer's compute_loss() runs in one micro-batch: passes of the model with their inputs, passes of a
 * reference model, the loss. */
#ifndef EST_OBJECTIVE_H
#define EST_OBJECTIVE_H

#include "estimator/pass.h"

/* Sequences that the model sees at once for each unit of micro_batch_size: 2 where that counts pairs (dpo, orpo,
 * reward). */
uint64_t est_objective_sequences(const struct est_request *request);
/* Whether a second copy of the model is held, frozen: the reference of dpo, kto, or of grpo with a KL term. */
bool est_objective_holds_reference(const struct est_request *request);
/* Rows of a head that scores whole sequences, in place of the language model's; 0: none. */
uint64_t est_objective_scores(const struct est_request *request);

/* Whether the trainer switches off every nn.Dropout, adapters' too (disable_dropout); and the model as that leaves it: what calls
 * functional.dropout() keeps its own. */
bool est_objective_disables_dropout(const struct est_request *request);
struct est_model est_objective_model(const struct est_request *request, const struct est_model *model);

/* From pass->input_ids to the last hidden state (held), under the autocast of the request's precision. */
struct est_tensor est_objective_forward(struct est_pass *pass);

/* From the inputs to the scalar that backward starts at (held). pass->reference is set where
 * est_objective_holds_reference(). */
struct est_tensor est_objective_loss(struct est_pass *pass);

#endif
