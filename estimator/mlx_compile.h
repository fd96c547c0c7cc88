/* mx.compile() on a graph (mlx/compile.cpp): what is written twice runs once, and operators on the same elements become one. */
#ifndef EST_MLX_COMPILE_H
#define EST_MLX_COMPILE_H

#include "estimator/mlx_graph.h"

/* Who reads an array: input slot of a primitive. An edge has the number of its place in est_mlx_graph.inputs, and is in the list of the
 * array that stands there; 0 ends a list, and edge 0 is that of no array's. */
struct est_mlx_edge {
	uint32_t reader;           /* the first output of its primitive */
	uint32_t next, before;
};

struct est_mlx_compile {
	struct est_mlx_graph *graph;
	uint32_t *outputs;         /* of the step; the caller's, replaced as they are fused */
	unsigned output_count;
	uint32_t *tape, length;    /* inputs before what reads them */
	uint32_t *order;           /* place on the tape, by array */
	struct est_mlx_edge *edges;
	uint32_t *readers, *last;  /* by array: the first edge and the last */
	bool *listed;              /* by array: it has a list of readers, even an empty one */
};

/* Compiles what leads to outputs[0..count), and replaces those in outputs that were merged or fused. False when there is no room. */
bool est_mlx_compile(struct est_mlx_graph *graph, uint32_t *outputs, unsigned count);

/* ---- between the two files */

/* Whatever reads source reads target instead. */
void est_mlx_merge(struct est_mlx_compile *compile, uint32_t target, uint32_t source);
/* Input slot of reader becomes array: in no list before, or out of the one of what it was. */
void est_mlx_add_reader(struct est_mlx_compile *compile, uint32_t array, uint32_t reader, unsigned slot);
void est_mlx_move_reader(struct est_mlx_compile *compile, uint32_t array, uint32_t reader, unsigned slot);
/* Input slot of reader leaves the list of what it is. */
void est_mlx_drop_reader(struct est_mlx_compile *compile, uint32_t reader, unsigned slot);
/* Fuses what is on the tape. False when there is no room. */
bool est_mlx_fuse(struct est_mlx_compile *compile);

#endif
