/* Matrix products of DTensors over one dimension of a mesh: how operands are placed anew before a product, what that costs by DTensor's
 * own estimate, of which it takes the least, and what is allocated on the way (torch/distributed/tensor: _ops/_matrix_ops.py,
 * _collective_utils.py, _redistribute.py). */
#ifndef EST_DTENSOR_H
#define EST_DTENSOR_H

#include "estimator/optimizer_row.h"

enum est_placement { EST_REPLICATED, EST_CUT_ROWS, EST_CUT_COLUMNS, EST_PARTIAL };

/* A matrix in 16 bits, of which local is this rank's part, or its part of the sum. */
struct est_dtensor {
	uint64_t rows, columns;
	enum est_placement placement;
	bool transposed; /* local is a view of the transposed matrix */
	struct est_tensor local;
};

/* x.T: a view, which borrows x */
struct est_dtensor est_dtensor_transpose(struct est_dtensor x);
/* a @ b, and bias + a @ b: all are borrowed, the result is held. */
struct est_dtensor est_dtensor_mm(struct est_stepping *stepping, struct est_dtensor a, struct est_dtensor b);
struct est_dtensor est_dtensor_addmm(struct est_stepping *stepping, struct est_dtensor bias, struct est_dtensor a, struct est_dtensor b);
/* x.redistribute(): what x was stays, and is a reference of the result's where nothing is to be done. */
struct est_dtensor est_dtensor_place(struct est_stepping *stepping, struct est_dtensor x, enum est_placement placement);

#endif
