/* Heads and losses of encoders by task. */
#ifndef EST_TASK_H
#define EST_TASK_H

#include "estimator/pass.h"

/* Integers that a micro-batch's labels have. */
uint64_t est_task_labels(const struct est_pass *pass);

/* From the last hidden state to the loss (held), as the task's class computes it; hidden moves in, the autocast
 * region ends. */
struct est_tensor est_task_loss(struct est_pass *pass, struct est_tensor hidden);

/* Whether the model has a class for the task. */
bool est_task_suits(const struct est_model *model, enum est_task task);

#endif
