/* Constructors of Transformers' vision models, and of what hears beside one. Tables of their modules in the order in which they are made. */
#include <stddef.h>
#include "estimator/model.h"

/* A width in terms of the tower's shape; the last ones are the language model's. */
enum width {
	ONE, HIDDEN, QKV, MLP, PATCH, MERGED, POSITIONS, POSITIONS_AND_CLASS, OUT, TILES, RATIOS, TILE_PATCHES, LAYERS_OUT,
	ADAPTER, HEAD, TWO, POSITION_TABLE,
	AUDIO, AUDIO_TWICE, AUDIO_MLP, AUDIO_HEAD, AUDIO_KERNEL, AUDIO_CLIPS, AUDIO_OUT, AUDIO_TIMES, KERNEL, CHANNELS_OF_ONE,
	CHANNELS_OF_BOTH, KERNELS, SUBSAMPLED,
	TEXT, TEXT_QUERY, TEXT_KEY, TEXT_HEAD, TEXT_MLP
};

/* Which layers a table is for, and how often it stands there. */
enum repeat { ONCE, PER_LAYER, PER_DEEPSTACK, PER_GLOBAL_LAYER, PER_CROSS_LAYER, PER_AUDIO, PER_AUDIO_LAYER };

struct module {
	enum est_part_kind kind;
	const char *name;
	enum width in, out;
	enum { WITHOUT, WITH, AS_PROJECTOR } bias;
};

struct stack {
	enum repeat repeat;
	const struct module *modules; /* ends with kind EST_PART_KINDS */
};

/* clang-format off */
#define LINEAR(name, in, out) { EST_PART_LINEAR, name, in, out, WITH }
#define BARE(name, in, out) { EST_PART_LINEAR, name, in, out, WITHOUT }
#define PATCHES(name, bias) { EST_PART_CONVOLUTION, name, PATCH, HIDDEN, bias }
#define PARAMETER(in, out) { EST_PART_PARAMETER, NULL, in, out, WITHOUT }
#define RMS(width) PARAMETER(ONE, width)
#define LAYER_NORM(width) PARAMETER(ONE, width), PARAMETER(ONE, width)
#define FREQUENCIES { EST_PART_BUFFER, NULL, ONE, ONE, WITHOUT }, { EST_PART_BUFFER, NULL, ONE, ONE, WITHOUT }
#define LAST { EST_PART_KINDS, NULL, ONE, ONE, WITHOUT }

static const struct module patches[] = { PATCHES("proj", WITHOUT), FREQUENCIES, LAST };
static const struct module qwen2_vl_block[] = {
	LAYER_NORM(HIDDEN), LAYER_NORM(HIDDEN), LINEAR("qkv", HIDDEN, QKV), LINEAR("proj", HIDDEN, HIDDEN),
	LINEAR("fc1", HIDDEN, MLP), LINEAR("fc2", MLP, HIDDEN), LAST
};
static const struct module qwen2_vl_merger[] = {
	LAYER_NORM(HIDDEN), LINEAR("0", MERGED, MERGED), LINEAR("2", MERGED, OUT), LAST
};
#define GATED_MLP LINEAR("gate_proj", HIDDEN, MLP), LINEAR("up_proj", HIDDEN, MLP), LINEAR("down_proj", MLP, HIDDEN)
static const struct module qwen2_5_vl_block[] = {
	RMS(HIDDEN), RMS(HIDDEN), LINEAR("qkv", HIDDEN, QKV), LINEAR("proj", HIDDEN, HIDDEN), GATED_MLP, LAST
};
static const struct module exaone4_5_block[] = {
	RMS(HIDDEN), RMS(HIDDEN), LINEAR("proj", HIDDEN, HIDDEN), LINEAR("qkv", HIDDEN, QKV), GATED_MLP, LAST
};
static const struct module qwen2_5_vl_merger[] = {
	RMS(HIDDEN), LINEAR("0", MERGED, MERGED), LINEAR("2", MERGED, OUT), LAST
};
static const struct module qwen3_vl_patches[] = { PATCHES("proj", WITH), PARAMETER(POSITIONS, HIDDEN), FREQUENCIES,
						  LAST };
static const struct module qwen3_vl_block[] = {
	LAYER_NORM(HIDDEN), LAYER_NORM(HIDDEN), LINEAR("qkv", HIDDEN, QKV), LINEAR("proj", HIDDEN, HIDDEN),
	LINEAR("linear_fc1", HIDDEN, MLP), LINEAR("linear_fc2", MLP, HIDDEN), LAST
};
#define MERGER LINEAR("linear_fc1", MERGED, MERGED), LINEAR("linear_fc2", MERGED, OUT), LAST
static const struct module qwen3_vl_merger[] = { LAYER_NORM(HIDDEN), MERGER };
static const struct module deepstack_merger[] = { LAYER_NORM(MERGED), MERGER };

#define ATTENTION(kind, out_proj) kind("k_proj", HIDDEN, HIDDEN), kind("v_proj", HIDDEN, HIDDEN), kind("q_proj", HIDDEN, HIDDEN), \
	kind(out_proj, HIDDEN, HIDDEN)
#define PLAIN_MLP LINEAR("fc1", HIDDEN, MLP), LINEAR("fc2", MLP, HIDDEN)
static const struct module siglip_embeddings[] = { PATCHES("patch_embedding", WITH), PARAMETER(POSITIONS, HIDDEN),
						   LAST };
static const struct module siglip_layer[] = {
	LAYER_NORM(HIDDEN), ATTENTION(LINEAR, "out_proj"), LAYER_NORM(HIDDEN), PLAIN_MLP, LAST
};
static const struct module gemma3_projector[] = { LAYER_NORM(HIDDEN), PARAMETER(HIDDEN, OUT), RMS(HIDDEN), LAST };
static const struct module clip_embeddings[] = {
	PARAMETER(ONE, HIDDEN), PATCHES("patch_embedding", WITHOUT), PARAMETER(POSITIONS_AND_CLASS, HIDDEN),
	LAYER_NORM(HIDDEN), LAST
};
static const struct module clip_layer[] = {
	ATTENTION(LINEAR, "out_proj"), LAYER_NORM(HIDDEN), PLAIN_MLP, LAYER_NORM(HIDDEN), LAST
};
#define PROJECTOR(name, in, out) { EST_PART_LINEAR, name, in, out, AS_PROJECTOR }
static const struct module llava_projector[] = {
	LAYER_NORM(HIDDEN), PROJECTOR("linear_1", HIDDEN, OUT), PROJECTOR("linear_2", OUT, OUT), LAST
};
static const struct module pixtral_patches[] = { PATCHES("patch_conv", WITHOUT), RMS(HIDDEN), LAST };
static const struct module pixtral_layer[] = {
	RMS(HIDDEN), BARE("gate_proj", HIDDEN, MLP), BARE("up_proj", HIDDEN, MLP), BARE("down_proj", MLP, HIDDEN),
	ATTENTION(BARE, "o_proj"), RMS(HIDDEN), LAST
};
static const struct module mistral3_projector[] = {
	FREQUENCIES, RMS(HIDDEN), BARE("merging_layer", MERGED, HIDDEN), PROJECTOR("linear_1", HIDDEN, OUT),
	PROJECTOR("linear_2", OUT, OUT), LAST
};

static const struct module gemma4_patches[] = { BARE("input_proj", PATCH, HIDDEN), PARAMETER(TWO, POSITION_TABLE),
						LAST };
static const struct module gemma4_layer[] = {
	BARE("linear", HIDDEN, HIDDEN), BARE("linear", HIDDEN, HIDDEN), BARE("linear", HIDDEN, HIDDEN),
	BARE("linear", HIDDEN, HIDDEN),
	RMS(HEAD), RMS(HEAD), BARE("linear", HIDDEN, MLP), BARE("linear", HIDDEN, MLP), BARE("linear", MLP, HIDDEN),
	RMS(HIDDEN), RMS(HIDDEN), RMS(HIDDEN), RMS(HIDDEN), LAST
};
static const struct module gemma4_projector[] = { BARE("embedding_projection", HIDDEN, TEXT), LAST };
#define SCALARS(width) { EST_PART_BUFFER, NULL, ONE, width, WITHOUT }
#define CLIPPED(in, out) BARE("linear", in, out), SCALARS(AUDIO_CLIPS), SCALARS(AUDIO_CLIPS), SCALARS(AUDIO_CLIPS), \
	SCALARS(AUDIO_CLIPS)
#define FEED_FORWARD CLIPPED(AUDIO, AUDIO_MLP), CLIPPED(AUDIO_MLP, AUDIO), RMS(AUDIO), RMS(AUDIO)
#define CONVOLUTION(name, in, out) { EST_PART_CONVOLUTION, name, in, out, WITHOUT }
static const struct module gemma4_subsampling[] = {
	CONVOLUTION("conv", KERNEL, CHANNELS_OF_ONE), RMS(CHANNELS_OF_ONE), CONVOLUTION("conv", KERNELS, CHANNELS_OF_BOTH),
	RMS(CHANNELS_OF_BOTH), BARE("input_proj_linear", SUBSAMPLED, AUDIO), SCALARS(AUDIO_TIMES), LAST
};
static const struct module gemma4_audio_layer[] = {
	FEED_FORWARD, FEED_FORWARD, CLIPPED(AUDIO, AUDIO), CLIPPED(AUDIO, AUDIO), CLIPPED(AUDIO, AUDIO), CLIPPED(AUDIO, AUDIO),
	BARE("relative_k_proj", AUDIO, AUDIO), RMS(AUDIO_HEAD), SCALARS(ONE), CLIPPED(AUDIO, AUDIO_TWICE), CLIPPED(AUDIO, AUDIO),
	CONVOLUTION("depthwise_conv1d", AUDIO_KERNEL, AUDIO), RMS(AUDIO), RMS(AUDIO), RMS(AUDIO), RMS(AUDIO), RMS(AUDIO), LAST
};
static const struct module gemma4_audio_projector[] = {
	LINEAR("output_proj", AUDIO, AUDIO_OUT), BARE("embedding_projection", AUDIO_OUT, TEXT), LAST
};
static const struct module llama4_embeddings[] = {
	BARE("linear", PATCH, HIDDEN), PARAMETER(ONE, HIDDEN), PARAMETER(POSITIONS_AND_CLASS, HIDDEN), FREQUENCIES,
	LAYER_NORM(HIDDEN), LAYER_NORM(HIDDEN), LAST
};
static const struct module llama4_layer[] = {
	LINEAR("q_proj", HIDDEN, HIDDEN), LINEAR("k_proj", HIDDEN, HIDDEN), LINEAR("v_proj", HIDDEN, HIDDEN),
	LINEAR("o_proj", HIDDEN, HIDDEN), PLAIN_MLP, LAYER_NORM(HIDDEN), LAYER_NORM(HIDDEN), LAST
};
static const struct module llama4_projector[] = {
	BARE("fc1", MLP, ADAPTER), BARE("fc2", ADAPTER, ADAPTER), BARE("linear_1", LAYERS_OUT, TEXT), LAST
};

#define GATE PARAMETER(ONE, ONE)
static const struct module mllama_embeddings[] = {
	PATCHES("patch_embedding", WITHOUT), PARAMETER(ONE, HIDDEN), GATE, PARAMETER(POSITIONS_AND_CLASS, HIDDEN),
	PARAMETER(RATIOS, TILE_PATCHES), PARAMETER(RATIOS, TILES), GATE, PARAMETER(RATIOS, TILES), GATE, LAYER_NORM(HIDDEN),
	LAYER_NORM(HIDDEN), LAST
};
#define MLLAMA_LAYER BARE("q_proj", HIDDEN, HIDDEN), BARE("k_proj", HIDDEN, HIDDEN), BARE("v_proj", HIDDEN, HIDDEN), \
	BARE("o_proj", HIDDEN, HIDDEN), PLAIN_MLP, LAYER_NORM(HIDDEN), LAYER_NORM(HIDDEN)
static const struct module mllama_layer[] = { MLLAMA_LAYER, LAST };
static const struct module mllama_global_layer[] = { MLLAMA_LAYER, GATE, GATE, LAST };
static const struct module mllama_cross_layer[] = {
	BARE("q_proj", TEXT, TEXT_QUERY), BARE("k_proj", TEXT, TEXT_KEY), BARE("v_proj", TEXT, TEXT_KEY),
	BARE("o_proj", TEXT_QUERY, TEXT),
	RMS(TEXT_HEAD), RMS(TEXT_HEAD), RMS(TEXT), GATE, BARE("gate_proj", TEXT, TEXT_MLP), BARE("up_proj", TEXT, TEXT_MLP),
	BARE("down_proj", TEXT_MLP, TEXT), RMS(TEXT), GATE, LAST
};
static const struct module mllama_projector[] = { LINEAR("multi_modal_projector", LAYERS_OUT, TEXT), LAST };

enum { STACKS = 6 };
static const struct stack towers[][STACKS] = {
	[EST_TOWER_NONE]       = { { ONCE, NULL } },
	[EST_TOWER_QWEN2_VL]   = { { ONCE, patches }, { PER_LAYER, qwen2_vl_block }, { ONCE, qwen2_vl_merger } },
	[EST_TOWER_QWEN2_5_VL] = { { ONCE, patches }, { PER_LAYER, qwen2_5_vl_block }, { ONCE, qwen2_5_vl_merger } },
	[EST_TOWER_EXAONE4_5]  = { { ONCE, patches }, { PER_LAYER, exaone4_5_block }, { ONCE, qwen2_5_vl_merger } },
	[EST_TOWER_QWEN3_VL]   = { { ONCE, qwen3_vl_patches }, { PER_LAYER, qwen3_vl_block }, { ONCE, qwen3_vl_merger },
				   { PER_DEEPSTACK, deepstack_merger } },
	[EST_TOWER_SIGLIP]     = { { ONCE, siglip_embeddings }, { PER_LAYER, siglip_layer }, { ONCE, gemma3_projector } },
	[EST_TOWER_PIXTRAL]    = { { ONCE, pixtral_patches }, { PER_LAYER, pixtral_layer }, { ONCE, mistral3_projector } },
	[EST_TOWER_CLIP]       = { { ONCE, clip_embeddings }, { PER_LAYER, clip_layer }, { ONCE, llava_projector } },
	[EST_TOWER_GEMMA4]     = { { ONCE, gemma4_patches }, { PER_LAYER, gemma4_layer }, { PER_AUDIO, gemma4_subsampling },
				   { PER_AUDIO_LAYER, gemma4_audio_layer }, { ONCE, gemma4_projector },
				   { PER_AUDIO, gemma4_audio_projector } },
	[EST_TOWER_LLAMA4]     = { { ONCE, llama4_embeddings }, { PER_LAYER, llama4_layer }, { ONCE, llama4_projector } },
	[EST_TOWER_MLLAMA]     = { { ONCE, mllama_embeddings }, { PER_LAYER, mllama_layer },
				   { PER_GLOBAL_LAYER, mllama_global_layer }, { PER_CROSS_LAYER, mllama_cross_layer },
				   { ONCE, mllama_projector } },
};
/* clang-format on */

/* of images; a kernel of 3 x 3, twice by strides of two */
enum { CHANNELS = 3, KERNEL_SIZE = 9, STRIDES = 4 };

static int64_t count_of(const struct est_model *model, enum repeat repeat)
{
	switch (repeat) {
	case PER_LAYER:
		return model->vision.num_hidden_layers;
	case PER_DEEPSTACK:
		return model->vision.num_deepstack;
	case PER_GLOBAL_LAYER:
		return model->vision.num_global_layers;
	case PER_CROSS_LAYER:
		return model->num_cross_attention_layers;
	case PER_AUDIO_LAYER:
		return model->vision.audio.num_hidden_layers;
	case PER_AUDIO:
		return model->vision.audio.num_hidden_layers > 0;
	case ONCE:
		break;
	}
	return 1;
}

static int64_t patches_of(const struct est_vision *vision)
{
	int64_t side = vision->image_size / vision->patch_size;

	return vision->num_position_embeddings ? vision->num_position_embeddings : side * side;
}

static int64_t text_width(const struct est_model *model, enum width width)
{
	switch (width) {
	case TEXT_QUERY:
		return model->num_attention_heads * model->head_dim;
	case TEXT_KEY:
		return model->num_key_value_heads * model->head_dim;
	case TEXT_HEAD:
		return model->head_dim;
	case TEXT_MLP:
		return model->intermediate_size;
	default:
		return model->hidden_size;
	}
}

static int64_t audio_width(const struct est_model *model, enum width width)
{
	const struct est_audio *audio = &model->vision.audio;
	const int64_t *channels = audio->subsampling_conv_channels;

	switch (width) {
	case AUDIO:
		return audio->hidden_size;
	case AUDIO_TWICE:
		return 2 * audio->hidden_size;
	case AUDIO_MLP:
		return 4 * audio->hidden_size;
	case AUDIO_HEAD:
		return audio->hidden_size / audio->num_attention_heads;
	case AUDIO_KERNEL:
		return audio->conv_kernel_size;
	case AUDIO_CLIPS:
		return audio->use_clipped_linears;
	case AUDIO_OUT:
		return audio->output_proj_dims;
	case AUDIO_TIMES:
		return audio->hidden_size / 2;
	case KERNEL:
		return KERNEL_SIZE;
	case KERNELS:
		return KERNEL_SIZE * channels[0];
	case CHANNELS_OF_ONE:
		return channels[0];
	case CHANNELS_OF_BOTH:
		return channels[1];
	case SUBSAMPLED:
		return channels[0] / STRIDES * channels[1];
	default:
		return text_width(model, width);
	}
}

static int64_t width_of(const struct est_model *model, enum width width)
{
	const struct est_vision *vision = &model->vision;
	int64_t hidden = vision->hidden_size, merge = vision->spatial_merge_size;

	switch (width) {
	case ONE:
		return 1;
	case HIDDEN:
		return hidden;
	case QKV:
		return hidden + 2 * (hidden / vision->num_attention_heads) * vision->num_key_value_heads;
	case MLP:
		return vision->intermediate_size;
	case PATCH:
		return CHANNELS * vision->temporal_patch_size * vision->patch_size * vision->patch_size;
	case MERGED:
		return hidden * merge * merge;
	case POSITIONS:
		return patches_of(vision);
	case POSITIONS_AND_CLASS:
		return patches_of(vision) + 1;
	case OUT:
		return vision->out_hidden_size;
	case TILES:
		return vision->max_num_tiles * hidden;
	case RATIOS:
		return vision->max_aspect_ratio_id + 1;
	case TILE_PATCHES:
		return vision->max_num_tiles * (patches_of(vision) + 1) * hidden;
	case HEAD:
		return hidden / vision->num_attention_heads;
	case TWO:
		return 2;
	case POSITION_TABLE:
		return patches_of(vision) * hidden;
	case ADAPTER:
		return vision->projector_dim;
	case LAYERS_OUT:
		return vision->vision_output_dim;
	default:
		return audio_width(model, width);
	}
}

static bool visit_modules(const struct est_model *model, const struct module *module, unsigned block, est_vision_visit *visit,
			  void *context)
{
	for (; module->kind != EST_PART_KINDS; module++) {
		struct est_vision_part part = {
			.kind = module->kind, .block = block, .name = module->name, .in = (uint64_t)width_of(model, module->in),
			.out = (uint64_t)width_of(model, module->out),
			.bias = module->bias == WITH || (module->bias == AS_PROJECTOR && model->vision.projector_bias),
		};

		if (!visit(context, &part))
			return false;
	}
	return true;
}

static bool is_block(enum repeat repeat)
{
	return repeat == PER_LAYER || repeat == PER_GLOBAL_LAYER || repeat == PER_CROSS_LAYER;
}

bool est_vision_each(const struct est_model *model, est_vision_visit *visit, void *context)
{
	const struct stack *stack = towers[model->vision.tower];
	unsigned blocks = 0;

	for (unsigned i = 0; i < STACKS && stack[i].modules; i++)
		for (int64_t layer = 0; layer < count_of(model, stack[i].repeat); layer++)
			if (!visit_modules(model, stack[i].modules, is_block(stack[i].repeat) ? ++blocks : 0, visit, context))
				return false;
	return true;
}

unsigned est_vision_blocks(const struct est_model *model)
{
	return (unsigned)(model->vision.num_hidden_layers + model->vision.num_global_layers);
}

unsigned est_vision_cross_layers(const struct est_model *model)
{
	return (unsigned)model->num_cross_attention_layers;
}

bool est_vision_wraps_blocks(const struct est_model *model)
{
	switch (model->vision.tower) {
	case EST_TOWER_QWEN2_VL:
	case EST_TOWER_QWEN2_5_VL:
	case EST_TOWER_QWEN3_VL:
	case EST_TOWER_PIXTRAL:
	case EST_TOWER_LLAMA4:
	case EST_TOWER_MLLAMA:
		return true;
	default:
		return false;
	}
}

uint64_t est_vision_part_parameters(const struct est_vision_part *part)
{
	return part->kind == EST_PART_BUFFER ? 0 : part->in * part->out + (part->bias ? part->out : 0);
}

static bool add_parameters(void *context, const struct est_vision_part *part)
{
	*(int64_t *)context += (int64_t)est_vision_part_parameters(part);
	return true;
}

int64_t est_vision_parameters(const struct est_model *model)
{
	int64_t count = 0;

	est_vision_each(model, add_parameters, &count);
	return count;
}
