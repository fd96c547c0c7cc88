/* The towers of a model that sees, and perhaps hears: what its constructor makes, and with it the projector into the language model. A
 * batch without images and sound does not run them, so they are weights here, with what trains them. */
#ifndef EST_VISION_H
#define EST_VISION_H

#include <stdbool.h>
#include <stdint.h>

/* One row of towers[] in vision.c each. */
enum est_tower {
	EST_TOWER_NONE,
	EST_TOWER_QWEN2_VL,
	EST_TOWER_QWEN2_5_VL,
	EST_TOWER_EXAONE4_5,
	EST_TOWER_QWEN3_VL,
	EST_TOWER_SIGLIP,  /* Gemma-3 */
	EST_TOWER_PIXTRAL, /* Mistral-3 */
	EST_TOWER_CLIP,    /* LLaVA */
	EST_TOWER_LLAMA4,
	EST_TOWER_GEMMA4,
	EST_TOWER_MLLAMA   /* with the language model's cross-attention layers */
};

/* Gemma-4's encoder of sound; num_hidden_layers 0: there is none. */
struct est_audio {
	int64_t hidden_size, num_hidden_layers, num_attention_heads, conv_kernel_size;
	int64_t subsampling_conv_channels[2], output_proj_dims;
	bool use_clipped_linears;         /* four scalars beside most linear layers */
};

struct est_vision {
	enum est_tower tower;
	int64_t hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, num_key_value_heads;
	int64_t patch_size, temporal_patch_size, image_size;
	int64_t spatial_merge_size;       /* patches of a side that are merged into one token */
	int64_t num_position_embeddings;
	int64_t out_hidden_size;          /* of the language model */
	int64_t num_deepstack;            /* Qwen3-VL: mergers for the first layers of the language model */
	bool projector_bias;
	int64_t projector_dim;            /* Llama-4: of its adapter */
	int64_t num_global_layers, max_num_tiles, max_aspect_ratio_id, vision_output_dim; /* Mllama */
	struct est_audio audio;
};

/* An encoder layer's or projector's parameter, or linear layer of two. */
enum est_part_kind { EST_PART_LINEAR, EST_PART_CONVOLUTION, EST_PART_PARAMETER, EST_PART_BUFFER, EST_PART_KINDS };
struct est_vision_part {
	enum est_part_kind kind;
	unsigned block;           /* which block of the tower it is of, or, behind these, which layer that looks at images; 0: none */
	const char *name;         /* of a linear layer or convolution, as PEFT's target_modules name it */
	uint64_t in, out;         /* of a convolution: what it takes in for one output; else rows of out elements */
	bool bias;
};

struct est_model;
typedef bool est_vision_visit(void *context, const struct est_vision_part *part);

/* Calls visit for the parts of the model's tower in the order of its constructor, until one returns false: then so
 * does this. Nothing for a model without. */
bool est_vision_each(const struct est_model *model, est_vision_visit *visit, void *context);

/* Whether the model's _no_split_modules, which accelerate wraps where no classes are named, name the tower's blocks and
 * nothing that the model has not: then accelerate ends, and people name the decoder layers. */
bool est_vision_wraps_blocks(const struct est_model *model);

/* Blocks of the tower, and layers of the language model that look at images and nothing else: FSDP makes units of them. */
unsigned est_vision_blocks(const struct est_model *model);
unsigned est_vision_cross_layers(const struct est_model *model);

/* Elements of a part's parameters. */
uint64_t est_vision_part_parameters(const struct est_vision_part *part);
/* Parameters of the tower and its projector. */
int64_t est_vision_parameters(const struct est_model *model);

#endif
