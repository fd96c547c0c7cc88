/* The loss that balances the load of a mixture's experts, which TRL's trainers add to their own. */
#ifndef EST_ROUTER_LOSS_H
#define EST_ROUTER_LOSS_H

#include "estimator/pass.h"

/* Whether the trainer asks the model for its routers' logits. */
bool est_router_loss_wanted(const struct est_request *request, const struct est_model *model);

/* From here on the pass holds the logits of each router that its forward calls. */
void est_router_loss_begin(struct est_pass *pass);
/* A router gave logits (borrowed). */
void est_router_loss_record(struct est_pass *pass, struct est_tensor logits);
/* load_balancing_loss_func of these: a scalar (held); none where nothing was recorded. The logits stay held until
 * est_router_loss_end(), as the backbone's outputs do. */
struct est_tensor est_router_loss(struct est_pass *pass);
void est_router_loss_end(struct est_pass *pass);

#endif
