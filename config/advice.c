#include "config/advice.h"
#include <stdlib.h>
#include <string.h>
#include "estimator/optimizer.h"

/* A change from the table becomes those of one request: fixed values, or what depends on it. False: it makes no
 * sense there. */
typedef bool advice_rule(const struct est_request *request, struct cfg_advice *advice);

static void change(struct cfg_advice *advice, const char *name, double value)
{
	advice->changes[advice->change_count++] = (struct cfg_change){ name, value };
}

static bool is_alone(const struct est_request *request)
{
	return request->parallelism.gpus == 1;
}

static bool checkpoint_all(const struct est_request *request, struct cfg_advice *advice)
{
	change(advice, "gradient_checkpointing", EST_CHECKPOINT_FULL);
	return request->checkpointing != EST_CHECKPOINT_FULL && request->checkpointing != EST_CHECKPOINT_OFFLOAD;
}

static bool checkpoint_operators(const struct est_request *request, struct cfg_advice *advice)
{
	change(advice, "gradient_checkpointing", EST_CHECKPOINT_SELECTIVE);
	return request->checkpointing == EST_CHECKPOINT_NONE;
}

static bool offload_checkpoints(const struct est_request *request, struct cfg_advice *advice)
{
	change(advice, "gradient_checkpointing", EST_CHECKPOINT_OFFLOAD);
	return request->checkpointing != EST_CHECKPOINT_OFFLOAD;
}

static bool accumulate(const struct est_request *request, struct cfg_advice *advice)
{
	change(advice, "micro_batch_size", (double)(request->micro_batch_size / 2));
	change(advice, "gradient_accumulation_steps", 2 * (double)request->gradient_accumulation_steps);
	return request->micro_batch_size % 2 == 0;
}

static bool halve_sequence(const struct est_request *request, struct cfg_advice *advice)
{
	change(advice, "sequence_length", (double)(request->sequence_length / 2));
	return request->sequence_length >= 512;
}

static bool is_32_bit_adamw(enum est_optimizer optimizer)
{
	return optimizer == EST_ADAMW_TORCH_FUSED || optimizer == EST_ADAMW_TORCH || optimizer == EST_PAGED_ADAMW_32BIT;
}

static bool optimize_in_8_bits(const struct est_request *request, struct cfg_advice *advice)
{
	change(advice, "optimizer", EST_ADAMW_8BIT);
	return is_32_bit_adamw(request->optimizer);
}

static bool page_states(const struct est_request *request, struct cfg_advice *advice)
{
	change(advice, "optimizer", EST_PAGED_ADAMW_8BIT);
	return is_32_bit_adamw(request->optimizer) || request->optimizer == EST_ADAMW_8BIT;
}

static bool fuse_step(const struct est_request *request, struct cfg_advice *advice)
{
	change(advice, "fuse_optimizer_in_backward", true);
	change(advice, "max_grad_norm", 0);
	return !request->fuse_optimizer_in_backward && request->method == EST_FULL
	       && request->gradient_accumulation_steps == 1;
}

static bool use_liger(const struct est_request *request, struct cfg_advice *advice)
{
	change(advice, "liger_kernel", true);
	change(advice, "loss", EST_LOSS_LIGER);
	return !request->liger_kernel && request->loss == EST_LOSS_STANDARD;
}

static bool chunk_loss(const struct est_request *request, struct cfg_advice *advice)
{
	change(advice, "loss", EST_LOSS_CHUNKED);
	return request->loss == EST_LOSS_STANDARD;
}

static bool use_flash(const struct est_request *request, struct cfg_advice *advice)
{
	change(advice, "attention", EST_FLASH_ATTENTION_2);
	return request->attention == EST_EAGER || (request->attention == EST_SDPA && request->attention_mask);
}

static bool adapt(const struct est_request *request, struct cfg_advice *advice)
{
	change(advice, "method", EST_LORA);
	return !est_has_adapters(request);
}

static bool quantize(const struct est_request *request, struct cfg_advice *advice)
{
	change(advice, "method", EST_QLORA);
	return request->method != EST_QLORA && request->framework != EST_MLX;
}

static bool quantize_by_mlx(const struct est_request *request, struct cfg_advice *advice)
{
	change(advice, "method", EST_QLORA);
	return request->method != EST_QLORA && request->framework == EST_MLX;
}

static bool halve_rank(const struct est_request *request, struct cfg_advice *advice)
{
	change(advice, "lora.rank", (double)(request->lora.rank / 2));
	return est_has_adapters(request) && request->lora.rank >= 16;
}

static bool share(const struct est_request *request, struct cfg_advice *advice, int64_t gpus)
{
	enum est_strategy strategy = est_optimizer_sharing(request->optimizer);

	change(advice, "parallelism.strategy", strategy);
	change(advice, "parallelism.gpus", (double)gpus);
	return is_alone(request) && strategy != EST_DDP;
}

static bool share_by_2(const struct est_request *request, struct cfg_advice *advice)
{
	return share(request, advice, 2);
}

static bool share_by_8(const struct est_request *request, struct cfg_advice *advice)
{
	return share(request, advice, 8);
}

static bool share_weights_too(const struct est_request *request, struct cfg_advice *advice)
{
	enum est_strategy strategy = request->parallelism.strategy, sharing = est_optimizer_sharing(request->optimizer);

	change(advice, "parallelism.strategy", sharing);
	return !is_alone(request) && sharing != EST_DDP && (strategy == EST_DDP || strategy == EST_ZERO1 || strategy == EST_ZERO2);
}

static bool offload_optimizer(const struct est_request *request, struct cfg_advice *advice)
{
	change(advice, "offload.optimizer", EST_ON_CPU);
	return !is_alone(request) && request->offload.optimizer == EST_ON_GPU;
}

static bool offload_all(const struct est_request *request, struct cfg_advice *advice)
{
	change(advice, "offload.optimizer", EST_ON_CPU);
	change(advice, "offload.parameters", EST_ON_CPU);
	return !is_alone(request) && request->offload.parameters == EST_ON_GPU;
}

/* factor: what one pays, as a multiple of the time that the same training takes without the change; what costs
 * quality or cards is given one that puts it behind what costs time alone. From the papers and the documentation of
 * each, rounded; it only orders the list. */
static const struct {
	advice_rule *rule;
	double factor;
	const char *cost;
} rows[] = {
	{ use_flash, 1.0, "none: the same result, as fast or faster; needs the flash-attn package" },
	{ use_liger, 1.0, "none: the same result, as fast or faster; needs the liger-kernel package" },
	{ chunk_loss, 1.02, "about 2 % more time per step" },
	{ fuse_step, 1.05, "no clipping and no accumulation of gradients" },
	{ accumulate, 1.1, "up to 10 % more time per step: the same batch in twice as many passes" },
	{ optimize_in_8_bits, 1.1, "states rounded to 8 bits in blocks; needs bitsandbytes" },
	{ page_states, 1.2, "states of 8 bits that move to the host when memory is short; needs bitsandbytes" },
	{ checkpoint_operators, 1.15, "about 15 % more time per step" },
	{ checkpoint_all, 1.3, "about 30 % more time per step" },
	{ offload_checkpoints, 1.4, "about 40 % more time per step, and the checkpoints in host memory" },
	{ share_weights_too, 1.5, "half as much communication again" },
	{ offload_optimizer, 1.8, "states in host memory; the step waits for them" },
	{ offload_all, 3.0, "weights and states in host memory; every layer waits for them" },
	{ halve_rank, 2.0, "adapters of half the rank" },
	{ share_by_2, 2.5, "a second GPU" },
	{ adapt, 3.0, "adapters are trained, the model's own weights are not" },
	{ quantize, 3.5, "adapters over weights of 4 bits; about 40 % more time per step; needs bitsandbytes" },
	{ quantize_by_mlx, 3.5, "adapters over weights of 4 bits; needs a checkpoint of mlx_lm.convert" },
	{ halve_sequence, 4.0, "longer samples are cut" },
	{ share_by_8, 8.0, "seven more GPUs" },
};
_Static_assert(sizeof(rows) / sizeof(rows[0]) <= CFG_ADVICE_MAX, "every row may be listed");

/* Runs the changed request; whether it is valid and needs less. */
static bool estimate(const struct cfg_request *request, const struct est_report *report, struct est_arena *arena,
		     struct cfg_trial *trial, struct cfg_advice *advice, bool *ret_exhausted)
{
	uint64_t required = report->fits[0].required;
	size_t mark = arena->used;
	struct est_fit *fits;

	if (!cfg_vary(request, advice->changes, advice->change_count, &trial->request))
		return false;
	fits = est_arena_take(arena, report->fit_count, sizeof(*fits));
	*ret_exhausted = !fits || !est_judge_cards(&trial->request, &request->model, request->cards, report->fit_count,
						   1, arena, fits);
	advice->required = *ret_exhausted ? required : fits[0].required;
	advice->saves = required > advice->required ? required - advice->required : 0;
	for (size_t i = 0; i < report->fit_count && advice->saves; i++)
		advice->makes_fit[i] = fits[i].verdict == EST_FITS && report->fits[i].verdict != EST_FITS;
	est_arena_rewind(arena, mark);
	return advice->saves > 0;
}

static int by_worth(const void *a, const void *b)
{
	double x = ((const struct cfg_advice *)a)->worth, y = ((const struct cfg_advice *)b)->worth;

	return (x < y) - (x > y);
}

bool cfg_advise(const struct cfg_request *request, const struct est_report *report, struct est_arena *arena,
		struct cfg_trial *trial, struct cfg_advice *ret, size_t *ret_count)
{
	bool exhausted = false;

	*ret_count = 0;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]) && !exhausted; i++) {
		struct cfg_advice *advice = &ret[*ret_count];

		memset(advice, 0, sizeof(*advice));
		advice->cost = rows[i].cost;
		if (!rows[i].rule(&request->request, advice) || !estimate(request, report, arena, trial, advice, &exhausted))
			continue;
		advice->worth = (double)advice->saves / rows[i].factor;
		++*ret_count;
	}
	qsort(ret, *ret_count, sizeof(*ret), by_worth);
	return !exhausted;
}
