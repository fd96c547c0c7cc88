/* Operators of mixtures of experts that more than one implementation of them is made of (moe.c, routers.c). */
#ifndef EST_MOE_H
#define EST_MOE_H

#include "estimator/pass.h"

/* target[rows] = values, where target, which moves in and out, has no gradient of its own; that of the values is
 * indexed out of the target's. rows are borrowed, values released if temporary. */
struct est_tensor est_put_rows(struct est_tape *tape, struct est_tensor target, struct est_tensor rows,
			       struct est_tensor values);
/* F.grouped_mm(x.to(weight.dtype), weight) of numel elements: no operator of autocast's. weight is borrowed, a
 * parameter, perhaps transposed, or a sum with adapters. */
struct est_tensor est_grouped_mm(struct est_tape *tape, struct est_tensor x, struct est_tensor weight, uint64_t numel,
				 bool transposed);
/* x / divisor, both of which autograd keeps. Both are released if temporary. */
struct est_tensor est_divide(struct est_tape *tape, struct est_tensor x, struct est_tensor divisor);

#endif
