/* The families that the replay knows: one row each in architectures[]. */
#ifndef EST_ARCHITECTURE_H
#define EST_ARCHITECTURE_H

#include "estimator/pass.h"

/* A width in terms of the model's shape. */
enum est_width { EST_WIDTH_HIDDEN, EST_WIDTH_QUERY, EST_WIDTH_KEY, EST_WIDTH_QKV, EST_WIDTH_MLP, EST_WIDTH_GATE_UP,
		 EST_WIDTH_HEAD };
/* Whether a linear layer has a bias: never, always, or as a flag of the shape says. */
enum est_bias { EST_BIAS_NONE, EST_BIAS_QKV, EST_BIAS_O, EST_BIAS_MLP };

/* A module of a decoder layer: a linear layer, or a norm (out is then its width). */
struct est_module {
	size_t offset;             /* in struct est_layer */
	bool is_norm;
	enum est_width in, out;
	enum est_bias bias;
	const char *name;          /* as PEFT's target_modules name it */
};

struct est_architecture_row {
	const struct est_module *modules;  /* in the order in which the constructor makes them; ends with offset SIZE_MAX */
	est_layer_function *layer;
	est_norm_function *final_norm;
	bool scaled_embedding;             /* Gemma: hidden_states * sqrt(hidden_size) */
	bool rotary;
	bool fp32_rope;                    /* OLMo: cos and sin stay fp32, q and k are cast back after them */
	bool rope_per_layer_type;          /* Gemma-3, OLMo-3: sliding layers have cos and sin of their own */
};

/* The row of a supported architecture; EST_ARCH_UNSUPPORTED has none. */
const struct est_architecture_row *est_architecture_row(enum est_architecture architecture);

uint64_t est_width(const struct est_model *model, enum est_width width);

#endif
