/* Gemma-3n's alternating updates: altup_num_inputs streams [streams, tokens, hidden], of which a layer runs one. */
#ifndef EST_ALTUP_H
#define EST_ALTUP_H

#include "estimator/pass.h"

/* altup_projections and altup_unembed_projections of the model; nothing for others. LoRA on them: false when the arena is too small. */
void est_altup_build(struct est_pass *pass);
bool est_altup_adapt(struct est_pass *pass);

/* The streams of inputs_embeds, which moves in, scaled to its magnitude; inputs_embeds itself for models of one stream. */
struct est_tensor est_altup_expand(struct est_pass *pass, struct est_tensor inputs_embeds);
/* Their mean, brought back the same way; hidden_states, held, moves in, the result is held. */
struct est_tensor est_altup_join(struct est_pass *pass, struct est_tensor hidden_states);
/* The model's forward ends. */
void est_altup_drop(struct est_pass *pass);

/* One stream of hidden_states (borrowed): a view, held. */
struct est_tensor est_altup_stream(struct est_pass *pass, struct est_tensor hidden_states);
/* altup.predict(hidden_states), held; hidden_states is borrowed. */
struct est_tensor est_altup_predict(struct est_pass *pass, const struct est_layer *layer, struct est_tensor hidden_states);
/* altup.correct(predictions, activated), held; both are borrowed. */
struct est_tensor est_altup_correct(struct est_pass *pass, const struct est_layer *layer, struct est_tensor predictions,
				    struct est_tensor activated);
/* corrected[1:] += addend; corrected, held, moves in and out, addend (temporary) is released. */
struct est_tensor est_altup_add(struct est_pass *pass, struct est_tensor corrected, struct est_tensor addend);

#endif
