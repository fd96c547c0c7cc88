/* x.split() and x.chunk() into any number of views. */
#ifndef EST_SPLIT_H
#define EST_SPLIT_H

#include "estimator/tape.h"

/* All views of x (borrowed), of per_part rows each but for the last, of rows of width elements: held. *ret_count is
 * their number. Their gradients wait for each other and are joined by one cat. NULL when the arena is too small. */
struct est_tensor *est_split_rows(struct est_tape *tape, struct est_tensor x, uint64_t rows, uint64_t per_part,
				  uint64_t width, uint64_t *ret_count);

#endif
