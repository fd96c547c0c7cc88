/* mx.eval(): the order in which a graph's primitives run, and how long their buffers live (mlx/transforms.cpp, mlx/backend).
 *
 * The host walks the graph and allocates; the device follows. What a primitive reads stays until the command buffer that it is in
 * has run, though the graph needs it no more: a host that is far ahead holds more. */
#ifndef EST_MLX_EVAL_H
#define EST_MLX_EVAL_H

#include "estimator/mlx_graph.h"

/* How work goes to the device. */
struct est_mlx_device {
	uint32_t kernels;          /* a command buffer is committed once it has more (Metal), or as many (CPU) */
	uint32_t mega_elements;    /* or once its kernels read and write more, in 2^20 elements; 0: that does not count (CPU) */
	uint32_t in_flight;        /* committed ones that may wait; the host waits for one beyond that */
	uint64_t page;             /* larger buffers are multiples of it; 1: they are as long as asked for */
};

/* Metal on a base or Pro chip, and on a Max or Ultra (metal/device.cpp); one that the device is never behind in. */
extern const struct est_mlx_device est_mlx_metal, est_mlx_metal_large, est_mlx_metal_idle;
/* MLX's CPU backend (cpu/encoder.h): tasks of ten dispatches. */
extern const struct est_mlx_device est_mlx_cpu, est_mlx_cpu_idle;

/* What happens to memory. A buffer has one number as long as it lives. */
struct est_mlx_sink {
	void *context;
	void (*alloc)(void *context, uint32_t buffer, uint64_t bytes, enum est_category category, enum est_phase phase);
	void (*free)(void *context, uint32_t buffer);
	void (*begin)(void *context); /* the leaves are all there; NULL: nobody asks */
};

/* Runs what outputs[0..count) need, in the order in which mx.eval() is given them. Leaves are there already: they are told to the
 * sink first, in their order. Outputs stay; other leaves than tied ones go. False when there is no room. */
bool est_mlx_eval(struct est_mlx_graph *graph, const uint32_t *outputs, unsigned count, const struct est_mlx_device *device,
		  const struct est_mlx_sink *sink);

/* ---- between the files */

/* Where an array lies. */
struct est_mlx_place {
	int64_t strides[EST_MLX_DIMS];
	uint64_t span;             /* elements of the buffer that it has */
	uint32_t buffer;           /* + 1; 0: none */
	uint32_t references;
	bool row, column, contiguous; /* MLX's flags */
	bool done;
};

struct est_mlx_buffer {
	uint64_t bytes;
	uint32_t references;
	uint32_t counted;          /* the last command buffer that counts it */
	uint32_t next;             /* of the free ones */
};

enum { EST_MLX_TEMPORARIES = 4 };

struct est_mlx_run {
	struct est_mlx_graph *graph;
	const struct est_mlx_device *device;
	const struct est_mlx_sink *sink;
	struct est_mlx_place *places;
	struct est_mlx_buffer *buffers;
	uint32_t buffer_count, buffer_limit, free_buffer;
	/* of the primitive that runs */
	uint32_t array;
	unsigned kernels;
	uint32_t temporaries[EST_MLX_TEMPORARIES];
	unsigned temporary_count;
};

static inline const struct est_mlx_array *est_mlx_array_of(const struct est_mlx_run *run, uint32_t array)
{
	return est_mlx_at(run->graph, array);
}

/* Input i of the primitive that runs. */
static inline uint32_t est_mlx_input_of(const struct est_mlx_run *run, unsigned i)
{
	return est_mlx_input(run->graph, run->array, i);
}

/* Gives the outputs of the primitive run->array their places, counts its kernels, keeps its temporaries. */
void est_mlx_place(struct est_mlx_run *run);
/* A new buffer. */
uint32_t est_mlx_allocate(struct est_mlx_run *run, uint64_t bytes, enum est_category category);
/* The strides of rows one behind the other. */
void est_mlx_lay_rows(const struct est_mlx_shape *shape, struct est_mlx_place *place);

/* An array in rows in a buffer of its own; one that lies as another does, in its buffer. */
void est_mlx_place_rows(struct est_mlx_run *run, uint32_t array);
void est_mlx_share_as(struct est_mlx_run *run, uint32_t array, uint32_t with);

/* ---- mlx_views.c: the primitive run->array */
void est_mlx_place_view(struct est_mlx_run *run);
void est_mlx_place_checkpoint(struct est_mlx_run *run);
void est_mlx_place_transposed(struct est_mlx_run *run);
void est_mlx_place_expanded(struct est_mlx_run *run);
void est_mlx_place_squeezed(struct est_mlx_run *run);
void est_mlx_place_broadcast(struct est_mlx_run *run);
void est_mlx_place_reshaped(struct est_mlx_run *run);

#endif
