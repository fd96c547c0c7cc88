#include "estimator/ops.h"
#include "estimator/optimizer.h"

/* One row per optimizer: its states per parameter and its step's temporaries. */
struct optimizer {
	unsigned moments;      /* state tensors of the parameter's size */
	bool step_on_gpu;      /* a fused kernel keeps its step count, a scalar, beside them */
	bool foreach_sqrt;     /* _multi_tensor_adamw: the list of sqrt(exp_avg_sq) of all parameters at once */
};

static const struct optimizer optimizers[] = {
	[EST_ADAMW_TORCH_FUSED] = { 2, true, false },
	[EST_ADAMW_TORCH]       = { 2, false, true },
	[EST_SGD]               = { 0, false, false },
	[EST_SGD_MOMENTUM]      = { 1, false, false },
};

static bool has_master(const struct est_request *request)
{
	return request->precision == EST_BF16_MASTER || request->precision == EST_FP16_MASTER;
}

static bool is_trained(const struct est_leaf *leaf)
{
	return leaf->parameter && leaf->value.requires_grad;
}

void est_optimizer_load(struct est_tape *tape, const struct est_request *request)
{
	for (uint32_t i = 0; i < tape->leaf_count && has_master(request); i++)
		if (is_trained(&tape->leaves[i]))
			est_persistent(tape, tape->leaves[i].value.numel, EST_32BIT, EST_OPTIMIZER);
}

/* One temporary per trained parameter, in element bytes; they are linked by their order in ret. */
static struct est_tensor *list_like_parameters(struct est_tape *tape, uint8_t element, bool scalar, enum est_category category)
{
	struct est_tensor *list = est_arena_take(tape->arena, tape->leaf_count, sizeof(*list));

	for (uint32_t i = 0; i < tape->leaf_count && list; i++) {
		const struct est_leaf *leaf = &tape->leaves[i];

		if (is_trained(leaf))
			list[i] = est_empty_as(tape, scalar ? 1 : leaf->value.numel, element ? element : leaf->value.element,
					       category);
	}
	return list;
}

static void drop_list(struct est_tape *tape, struct est_tensor *list)
{
	for (uint32_t i = tape->leaf_count; i-- > 0 && list;)
		est_drop(tape, list[i]);
}

/* torch.nn.utils.clip_grad_norm_: a norm per gradient, their stack, the total, the coefficient */
static void clip_grad_norm(struct est_tape *tape)
{
	size_t mark = tape->arena->used;
	struct est_tensor *norms = list_like_parameters(tape, EST_16BIT, true, EST_BUFFERS), stack, total;

	stack = est_empty_as(tape, tape->leaf_count, EST_16BIT, EST_BUFFERS);
	total = est_empty_as(tape, 1, EST_16BIT, EST_BUFFERS);
	est_drop(tape, stack);
	drop_list(tape, norms);
	est_drop(tape, total);
	est_arena_rewind(tape->arena, mark);
}

void est_optimizer_clip(struct est_tape *tape, const struct est_request *request, struct est_update *update)
{
	est_mark(tape, EST_PHASE_OPTIMIZER_STEP);
	if (request->max_grad_norm > 0)
		clip_grad_norm(tape);
	update->grads32 = NULL;
	if (has_master(request))
		update->grads32 = list_like_parameters(tape, EST_32BIT, false, EST_OPTIMIZER);
}

void est_optimizer_states(struct est_tape *tape, const struct est_request *request)
{
	const struct optimizer *optimizer = &optimizers[request->optimizer];

	for (uint32_t i = 0; i < tape->leaf_count; i++) {
		const struct est_tensor *value = &tape->leaves[i].value;

		if (!is_trained(&tape->leaves[i]))
			continue;
		if (optimizer->step_on_gpu)
			est_persistent(tape, 1, EST_32BIT, EST_OPTIMIZER);
		for (unsigned k = 0; k < optimizer->moments; k++)
			est_persistent(tape, value->numel, has_master(request) ? EST_32BIT : value->element, EST_OPTIMIZER);
	}
}

static void zero_grad(struct est_tape *tape)
{
	for (uint32_t i = 0; i < tape->leaf_count; i++) {
		est_drop(tape, tape->leaves[i].grad);
		tape->leaves[i].grad = est_none;
	}
}

void est_optimizer_update(struct est_tape *tape, const struct est_request *request, struct est_update *update)
{
	if (optimizers[request->optimizer].foreach_sqrt)
		drop_list(tape, list_like_parameters(tape, has_master(request) ? EST_32BIT : 0, false, EST_OPTIMIZER));
	drop_list(tape, update->grads32);
	zero_grad(tape);
}
