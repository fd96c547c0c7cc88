/* Fine-tuning with mlx-lm on Apple's GPUs: MLX's own graph of the step, compiled and run as MLX does it.
 *
 * Of MLX 0.32 and mlx-lm 0.32. The graph, its gradients, what mx.compile() makes of it and the order in which it runs are MLX's and the
 * same on every device; what is alive beyond that depends on how far the host is ahead of the GPU (mlx_eval.h). */
#ifndef EST_MLX_H
#define EST_MLX_H

#include "estimator/fault.h"
#include "estimator/mlx_eval.h"
#include "estimator/model.h"
#include "estimator/request.h"
#include "estimator/step.h"

bool est_mlx_wanted(const struct est_request *request);

/* The layers, from the last, that the run trains: trainable_layers, or else mlx-lm's num_layers of 16 where there are as many. */
int64_t est_mlx_trained_layers(const struct est_request *request, const struct est_model *model);

/* Parameters that mlx_lm.lora trains: adapters of the last layers, or those layers whole; never embedding, head or final norm. */
int64_t est_mlx_trainable_parameters(const struct est_request *request, const struct est_model *model);

/* Faults for what mlx_lm.lora does not have or is not modelled of it. */
void est_mlx_check(const struct est_request *request, const struct est_model *model, struct est_faults *faults);

/* How a step is run. */
struct est_mlx_setting {
	const struct est_mlx_device *device;
	bool fused_loss;           /* mx.fast.cross_entropy(), which releases before 0.32.4 lack */
};

/* Builds the step that updates, compiles it and runs it. False when the arena is too small. */
bool est_mlx_run(const struct est_request *request, const struct est_model *model, const struct est_mlx_setting *setting,
		 struct est_arena *arena, const struct est_mlx_sink *sink);
/* Numbers of buffers that the sink is told of are less. */
uint32_t est_mlx_most_buffers(const struct est_request *request, const struct est_model *model);

/* What is alive at most in a step: mx.get_peak_memory(). False when the arena is too small. */
bool est_mlx_peak(const struct est_request *request, const struct est_model *model, const struct est_mlx_setting *setting,
		  struct est_arena *arena, uint64_t *ret_bytes);

/* est_program_trace() of such a run: the host as far ahead of a base or Pro chip as MLX lets it, with room above for a larger chip and an
 * older release, and below for a GPU that keeps up (est_program.surplus, .leftover). */
bool est_mlx_trace(struct est_program *program, const struct est_model *model, const struct est_request *request, struct est_arena *arena);

#endif
