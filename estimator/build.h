/* The pieces that a model's constructor is built with: parameters as leaves, in the order of the calls. */
#ifndef EST_BUILD_H
#define EST_BUILD_H

#include "estimator/architecture.h"

/* A parameter of numel elements, one of rows x columns, a linear layer (quantised while pass->quantizes) and a norm
 * of the model's kind. */
uint32_t est_build_vector(struct est_pass *pass, uint64_t numel);
uint32_t est_build_matrix(struct est_pass *pass, uint64_t rows, uint64_t columns);
void est_build_linear(struct est_pass *pass, struct est_linear *linear, uint64_t in, uint64_t out, bool bias);
void est_build_norm(struct est_pass *pass, struct est_norm_weights *norm, uint64_t width);

/* The vision tower and its projector, or nothing (tower.c). */
unsigned est_tower_unit(const struct est_model *model, const struct est_vision_part *part); /* of its leaves, as they are built */
void est_tower_build(struct est_pass *pass);

/* A buffer of all positions: EST_MODULE_SINUSOIDS, GPT-J's sines and cosines, or EST_MODULE_TRIANGLE, a boolean
 * causal mask. */
void est_build_buffer(struct est_pass *pass, enum est_module_kind kind);
/* Marks a layer that was built with the widths of this rank's part. The bias of a sum over ranks is whole. */
void est_build_cut(struct est_pass *pass, struct est_linear *linear, enum est_cut cut);

/* All layers of pass->layers: of the model's stack, and of its decoder after them. */
void est_build_layers(struct est_pass *pass);

#endif
