#include <math.h>
#include "config/infer.h"

/* Depths of dense Llama-like decoders by size; between them, and beyond the ends, log-log. clang-format off */
static const struct { double parameters, layers; } depths[] = {
	{ 1e5, 2 }, { 1e7, 6 }, { 1.6e8, 12 }, { 1.236e9, 16 }, { 3.213e9, 28 }, { 8.03e9, 32 }, { 7.055e10, 80 },
	{ 4.0585e11, 126 },
};
/* clang-format on */
enum { DEPTHS = sizeof(depths) / sizeof(depths[0]), WIDEST = 1 << 16, DEEPEST = EST_LAYERS_MAX, WIDEST_MLP = 1 << 20 };

static const double mlp_ratio = 3.5; /* intermediate_size / hidden_size of Llama 3 */

static double typical_layers(double parameters)
{
	size_t i = 1;
	double slope;

	while (i < DEPTHS - 1 && parameters > depths[i].parameters)
		i++;
	slope = log(depths[i].layers / depths[i - 1].layers) / log(depths[i].parameters / depths[i - 1].parameters);
	return depths[i].layers * pow(parameters / depths[i].parameters, slope);
}

static int64_t clamp(double value, int64_t least, int64_t most)
{
	if (!(value > (double)least))
		return least;
	return value < (double)most ? (int64_t)llround(value) : most;
}

static int64_t typical_vocabulary(double parameters)
{
	if (parameters < 1e7)
		return 1024;
	return parameters < 1e9 ? 32000 : 128256;
}

static int64_t typical_head_dim(int64_t hidden_size)
{
	return hidden_size < 2048 ? 64 : 128;
}

/* Few heads keep keys of their own; of many, 8 groups or 4. */
static int64_t typical_key_value_heads(int64_t heads)
{
	if (heads % 8 == 0)
		return 8;
	return heads > 8 && heads % 4 == 0 ? 4 : heads;
}

static void fill_heads(struct est_model *model)
{
	int64_t h = model->hidden_size;

	if (!model->head_dim && model->num_attention_heads)
		model->head_dim = clamp((double)h / (double)model->num_attention_heads, 1, h);
	if (!model->head_dim)
		model->head_dim = h < typical_head_dim(h) ? h : typical_head_dim(h);
	if (!model->num_attention_heads)
		model->num_attention_heads = clamp((double)(h / model->head_dim), 1, h);
	if (!model->num_key_value_heads)
		model->num_key_value_heads = typical_key_value_heads(model->num_attention_heads);
}

/* As many layers of intermediate_size (or of the usual one) as parameters leave room for. */
static int64_t layers_that_fit(const struct est_model *model, double parameters)
{
	struct est_model trial = *model;
	double layer, rest;

	if (!trial.intermediate_size)
		trial.intermediate_size = clamp(mlp_ratio * (double)trial.hidden_size, 1, WIDEST_MLP);
	trial.num_hidden_layers = 1;
	layer = (double)est_model_layer_parameters(&trial);
	trial.num_hidden_layers = 0;
	rest = parameters - (double)est_model_count_parameters(&trial);
	return clamp(rest / layer, 1, DEEPEST);
}

/* A power of two, about a sixteenth of the width and 256 at most: what widths of MLPs are multiples of. */
static int64_t mlp_step(int64_t hidden_size)
{
	int64_t step = 1;

	while (step < 256 && step * 32 <= hidden_size)
		step *= 2;
	return step;
}

static int64_t mlp_that_fits(const struct est_model *model, double parameters)
{
	int64_t step = mlp_step(model->hidden_size);
	double each = 3 * (double)model->hidden_size * (double)model->num_hidden_layers;
	double rest = parameters - (double)est_model_count_parameters(model); /* intermediate_size is 0 here */

	return step * clamp(rest / each / (double)step, 1, WIDEST_MLP / step);
}

/* Fills what is left when the width is decided. */
static void fill(struct est_model *model, bool width_given, double parameters)
{
	fill_heads(model);
	if (!model->num_hidden_layers && (width_given || model->intermediate_size))
		model->num_hidden_layers = layers_that_fit(model, parameters);
	else if (!model->num_hidden_layers)
		model->num_hidden_layers = clamp(typical_layers(parameters), 1, DEEPEST);
	if (!model->intermediate_size)
		model->intermediate_size = mlp_that_fits(model, parameters);
}

/* How far the shape is from what was asked and from Llama's proportions: 0 is a match. */
static double oddity(const struct est_model *model, double parameters)
{
	double miss = fabs(log((double)est_model_count_parameters(model) / parameters));
	double mlp = fabs(log((double)model->intermediate_size / (mlp_ratio * (double)model->hidden_size)));
	double depth = fabs(log((double)model->num_hidden_layers / typical_layers(parameters)));

	return 20 * miss + mlp + depth / 2;
}

/* The step between widths that are worth trying: whole heads, and fours of them where a model is large. */
static int64_t width_step(const struct est_model *model, int64_t width)
{
	if (model->head_dim && model->num_attention_heads)
		return 64;
	if (model->head_dim)
		return model->head_dim;
	if (model->num_attention_heads)
		return model->num_attention_heads;
	return width < 1024 ? 64 : 4 * typical_head_dim(width);
}

void cfg_infer_shape(struct est_model *model, double parameters)
{
	struct est_model best = { 0 };
	double least = INFINITY;

	if (!model->vocab_size)
		model->vocab_size = typical_vocabulary(parameters);
	if (model->hidden_size) {
		fill(model, true, parameters);
		return;
	}
	for (int64_t width = width_step(model, 0); width <= WIDEST; width += width_step(model, width)) {
		struct est_model trial = *model;
		double odd;

		trial.hidden_size = width;
		fill(&trial, false, parameters);
		odd = oddity(&trial, parameters);
		if (odd < least) {
			least = odd;
			best = trial;
		}
	}
	*model = best;
}
