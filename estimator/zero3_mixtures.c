/* Mixtures of experts that DeepSpeed flags as leaf modules (zero/leaf_module_config.py): their parameters are gathered and let go
 * together, and nothing within them has hooks. The coordinator looks into modules as deep as the one that it lets go of is looked into:
 * for a parameter of such a block into all, for any other into none, where these blocks have no parameters of their own. */
#include "estimator/zero3.h"

static bool is_flagged(enum est_architecture architecture)
{
	static const enum est_architecture flagged[] = { EST_ARCH_MIXTRAL, EST_ARCH_QWEN2_MOE, EST_ARCH_QWEN3_MOE };

	for (size_t i = 0; i < sizeof(flagged) / sizeof(flagged[0]); i++)
		if (architecture == flagged[i])
			return true;
	return false;
}

/* The numbers of a layer's modules: name_blocks() in build_layers.c. */
static uint32_t self_attn_of(uint32_t mixture)
{
	return mixture - 1;
}

static uint32_t act_fn_of(uint32_t mixture)
{
	return mixture + 1;
}

/* What adapts a linear layer of the block is within it too. */
static uint32_t mixture_of(const struct est_zero3 *zero3, const struct est_leaf *leaf)
{
	return leaf->mixture ? leaf->mixture : leaf->adapts ? zero3->modules[leaf->adapts].mixture : 0;
}

static void join(struct est_zero3 *zero3, const struct est_leaf *leaf, uint32_t mixture)
{
	zero3->modules[leaf->module].mixture = mixture;
	zero3->modules[act_fn_of(mixture)].mixture = mixture;
	zero3->modules[mixture].whole = true;
	zero3->modules[leaf->unit].attention = self_attn_of(mixture);
}

/* Elements of the parameters of modules and of all that is within them. */
static void count_deep(struct est_zero3 *zero3, const struct est_leaf *leaf, uint64_t hidden)
{
	struct est_zero3_module *modules = zero3->modules;
	uint32_t own = est_zero3_module_of(zero3, leaf), layer = leaf->unit <= zero3->schedule->layers ? leaf->unit : 0;
	bool is_norm = !leaf->rows && leaf->value.numel == hidden;

	modules[0].deep += leaf->value.numel;
	if (layer)
		modules[layer].deep += leaf->value.numel;
	if (own > zero3->schedule->layers)
		modules[own].deep += leaf->value.numel;
	if (layer && modules[layer].attention && !modules[own].whole && !is_norm)
		modules[modules[layer].attention].deep += leaf->value.numel;
}

void est_zero3_join_mixtures(struct est_zero3 *zero3, const struct est_model *model)
{
	struct est_tape *tape = zero3->tape;

	if (!is_flagged(model->architecture))
		return;
	for (uint32_t i = zero3->first_parameter; i < zero3->parameter_count; i++)
		if (mixture_of(zero3, &tape->leaves[i]))
			join(zero3, &tape->leaves[i], mixture_of(zero3, &tape->leaves[i]));
	for (uint32_t i = zero3->first_parameter; i < zero3->parameter_count; i++)
		count_deep(zero3, &tape->leaves[i], (uint64_t)model->hidden_size);
}

/* __params_to_release() */
bool est_zero3_mixture_stays(const struct est_zero3 *zero3, uint32_t mixture, uint32_t layer)
{
	uint64_t traversed = 0;

	for (uint32_t step = zero3->step; step < zero3->steps && traversed < (uint64_t)zero3->max_reuse; step++) {
		uint32_t module = zero3->order[step];

		if (module == mixture || module == layer || module == 0)
			return true;
		traversed += zero3->modules[module].deep;
	}
	return false;
}
