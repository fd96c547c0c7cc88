/* mlx-lm's fine-tuning step as MLX's graph (mlx_lm.lora): between the files that build it. */
#ifndef EST_MLX_STEP_H
#define EST_MLX_STEP_H

#include "estimator/mlx_graph.h"
#include "estimator/model.h"
#include "estimator/request.h"

/* What a linear layer has, in the order in which Python's dictionaries hold it: its own weight (packed, with scales and biases, where it
 * is quantised), its bias, an adapter's two matrices. */
enum est_mlx_part { EST_MLX_WEIGHT, EST_MLX_SCALES, EST_MLX_BIASES, EST_MLX_BIAS, EST_MLX_LORA_A, EST_MLX_LORA_B, EST_MLX_PARTS };

/* The first part of each module of a layer; a norm has one. In the order of mlx-lm's constructors. */
enum est_mlx_slot {
	EST_MLX_Q = 0, EST_MLX_K = EST_MLX_Q + EST_MLX_PARTS, EST_MLX_V = EST_MLX_K + EST_MLX_PARTS, EST_MLX_O = EST_MLX_V + EST_MLX_PARTS,
	EST_MLX_Q_NORM = EST_MLX_O + EST_MLX_PARTS, EST_MLX_K_NORM, EST_MLX_GATE, EST_MLX_DOWN = EST_MLX_GATE + EST_MLX_PARTS,
	EST_MLX_UP = EST_MLX_DOWN + EST_MLX_PARTS, EST_MLX_INPUT_NORM = EST_MLX_UP + EST_MLX_PARTS, EST_MLX_POST_NORM, EST_MLX_SLOTS
};

/* Arrays of a layer, or what stands for them in a checkpoint; 0: it has no such part. */
struct est_mlx_layer {
	uint32_t slot[EST_MLX_SLOTS];
};

enum { EST_MLX_TRAINED_MAX = 24 }; /* parameters of a layer that are trained, at most */

struct est_mlx_step {
	struct est_mlx_graph graph;
	const struct est_request *request;
	const struct est_model *model;
	uint64_t batch, length;   /* tokens that go in */
	enum est_mlx_type type;   /* of the checkpoint */
	int64_t first_trained;    /* layers before it are frozen */
	bool fused_loss;          /* mx.fast.cross_entropy(), which older releases lack */
	struct est_mlx_layer *layers;
	struct est_mlx_layer ends; /* embedding: at EST_MLX_Q, head: at EST_MLX_K, final norm: at EST_MLX_INPUT_NORM */
	uint32_t offset;          /* of the rotary embedding: 0 */
	uint32_t *trained, trained_count; /* every layer's in its order */
	uint32_t *gradients;      /* of them */
	uint32_t *outputs;        /* of the step, in the order of the arrays that mx.eval() gets */
	unsigned output_count;
};

/* ---- mlx_layers.c */

/* Leaves for all parameters. False when there is no room. */
bool est_mlx_load(struct est_mlx_step *step);
/* Logits of ids. */
uint32_t est_mlx_forward(struct est_mlx_step *step, uint32_t ids);
/* A layer on other arrays than its own: arguments are its trained parameters and its input. As est_mlx_graph.again wants it. */
uint32_t est_mlx_layer_again(void *context, uint64_t layer, const uint32_t *arguments);

/* ---- mlx_optimizer.c */

/* Leaves for the states that mlx.optimizers hold of every trained parameter, and the update of all of them: appends new parameters,
 * then new states, to the step's outputs. */
void est_mlx_update(struct est_mlx_step *step);
/* Whether mlx_lm.lora has the optimizer. */
bool est_mlx_knows_optimizer(enum est_optimizer optimizer);

/* ---- mlx_loss.c */

/* default_loss(): the loss, and the number of tokens that it is the mean of. */
void est_mlx_loss(struct est_mlx_step *step, uint32_t logits, uint32_t targets, uint32_t lengths, uint32_t ret_outputs[2]);

#endif
