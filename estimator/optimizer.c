#include "estimator/optimizer.h"

#include "estimator/optimizer_row.h"
#include "estimator/tensor_parallel.h"

/* clang-format off */
static const struct est_optimizer_row rows[] = {
	[EST_ADAMW_TORCH_FUSED]  = { .moments = 2, .states = est_states_fused },
	[EST_ADAMW_TORCH]        = { .moments = 2, .states = est_states_like, .foreach_sqrt = true },
	[EST_SGD]                = { .moments = 0, .states = est_states_like },
	[EST_SGD_MOMENTUM]       = { .moments = 1, .states = est_states_like },
	[EST_ADAMW_8BIT]         = { .moments = 2, .block = 256, .states = est_states_bnb_8bit },
	[EST_PAGED_ADAMW_8BIT]   = { .moments = 2, .block = 256, .states = est_states_bnb_8bit,
				     .paged = true },
	[EST_PAGED_ADAMW_32BIT]  = { .moments = 2, .states = est_states_bnb_32bit, .paged = true },
	[EST_LION]               = { .moments = 1, .states = est_states_bnb_32bit },
	[EST_LION_8BIT]          = { .moments = 1, .block = 256, .states = est_states_bnb_8bit },
	[EST_ADAMW_8BIT_TORCHAO] = { .moments = 2, .block = 256, .states = est_states_torchao_8bit },
	[EST_ADAMW_4BIT]         = { .moments = 2, .block = 128, .states = est_states_torchao_4bit },
	[EST_ADAMW_FP8]          = { .moments = 2, .block = 256, .states = est_states_torchao_fp8 },
	[EST_ADAFACTOR]          = { .states = est_states_adafactor, .update = est_update_adafactor },
	[EST_MUON]               = { .moments = 2, .is_last = est_muon_is_last, .states = est_states_muon,
				     .update = est_update_muon },
	[EST_GALORE_ADAMW]       = { .moments = 2, .is_last = est_lowrank_is_last, .states = est_states_galore,
				     .update = est_update_galore },
	[EST_APOLLO_ADAMW]       = { .moments = 2, .is_last = est_lowrank_is_last, .states = est_states_apollo,
				     .update = est_update_apollo },
	[EST_APOLLO_ADAMW_MINI]  = { .moments = 2, .is_last = est_lowrank_is_last, .states = est_states_apollo,
				     .update = est_update_apollo },
};
/* clang-format on */

/* As a parameter of its own, or for all that are folded into it. */
static bool is_stepped(const struct est_leaf *leaf)
{
	return leaf->parameter && leaf->value.requires_grad && !leaf->folded && !leaf->idle && !leaf->dragged;
}

/* This rank's part, as it lies between steps. */
static struct est_tensor at_rest(const struct est_leaf *leaf)
{
	if (!leaf->shard_element)
		return leaf->value;
	return (struct est_tensor){ .numel = leaf->shard, .element = leaf->shard_element };
}

static struct est_trained trained(const struct est_leaf *leaf, const struct est_request *request)
{
	struct est_tensor value = at_rest(leaf);
	uint64_t stack = leaf->stack ? leaf->stack : 1;
	uint64_t columns = leaf->rows && !leaf->flat ? leaf->value.numel / leaf->rows : 0;

	return (struct est_trained){ .numel = value.numel, .rows = columns ? value.numel / columns : 0,
				     .columns = columns * stack, .height = columns ? leaf->value.numel / columns : 0,
				     .element = est_has_master(request) ? EST_32BIT : value.element,
				     .inner = leaf->inner, .linear = leaf->linear };
}

/* ---- what the rows are made of */

void est_bind(struct est_stepping *stepping, unsigned variable, struct est_tensor value)
{
	est_drop(stepping->tape, stepping->variable[variable]);
	stepping->variable[variable] = value;
}

struct est_tensor est_scratch(struct est_stepping *stepping, uint64_t numel, uint8_t element)
{
	if (stepping->on_host)
		return (struct est_tensor){ .numel = numel, .element = element };
	return est_hold(est_empty_as(stepping->tape, numel, element, EST_OPTIMIZER));
}

/* On a disk they pass through buffers (zero3_gradients.c). */
static void rest_on_host(struct est_tape *tape, const struct est_request *request, uint64_t bytes)
{
	if (request->offload.optimizer != EST_ON_NVME)
		tape->host_states += bytes;
}

void est_state(struct est_stepping *stepping, uint64_t numel, uint8_t element)
{
	if (stepping->on_host)
		rest_on_host(stepping->tape, stepping->request, numel * element);
	else
		est_persistent(stepping->tape, numel, element, EST_OPTIMIZER);
}

void est_states_like(struct est_stepping *stepping, const struct est_trained *p)
{
	for (unsigned i = 0; i < stepping->row->moments; i++)
		est_state(stepping, p->numel, p->element);
}

void est_states_fused(struct est_stepping *stepping, const struct est_trained *p)
{
	est_state(stepping, 1, EST_32BIT); /* step */
	est_states_like(stepping, p);
}

/* ---- which steps parts of parameters */

static bool is_torchs(enum est_optimizer optimizer)
{
	return optimizer == EST_ADAMW_TORCH_FUSED || optimizer == EST_ADAMW_TORCH || optimizer == EST_SGD
	       || optimizer == EST_SGD_MOMENTUM;
}

static bool is_torchaos(enum est_optimizer optimizer)
{
	return optimizer == EST_ADAMW_8BIT_TORCHAO || optimizer == EST_ADAMW_4BIT || optimizer == EST_ADAMW_FP8;
}

static bool is_bitsandbytes(enum est_optimizer optimizer)
{
	return optimizer == EST_ADAMW_8BIT || optimizer == EST_PAGED_ADAMW_8BIT || optimizer == EST_PAGED_ADAMW_32BIT
	       || optimizer == EST_LION || optimizer == EST_LION_8BIT;
}

/* FSDP2's parts of matrices, over one dimension of a mesh. */
static bool steps_matrices(const struct est_parallelism *p)
{
	return p->strategy == EST_FSDP && p->tensor * p->expert == 1;
}

bool est_optimizer_steps_parts(const struct est_request *request)
{
	enum est_optimizer optimizer = request->optimizer;
	bool on_gpu = request->offload.optimizer == EST_ON_GPU;

	if (request->fuse_optimizer_in_backward)
		return false;
	if (is_torchs(optimizer))
		return true;
	if (optimizer == EST_MUON)
		return on_gpu && steps_matrices(&request->parallelism);
	return on_gpu && (is_torchaos(optimizer)
			  || (!est_shards_dtensors(request) && (is_bitsandbytes(optimizer) || optimizer == EST_ADAFACTOR)));
}

static bool is_apollo(enum est_optimizer optimizer)
{
	return optimizer == EST_APOLLO_ADAMW || optimizer == EST_APOLLO_ADAMW_MINI;
}

const char *est_optimizer_refuses_dtensors(enum est_optimizer optimizer)
{
	if (is_bitsandbytes(optimizer))
		return "bitsandbytes' kernels take no DTensors";
	if (is_apollo(optimizer))
		return "APOLLO multiplies DTensors by a projection that is none";
	return optimizer == EST_ADAFACTOR ? "Transformers' Adafactor adds DTensors to moments that are none" : NULL;
}

const char *est_optimizer_refuses_vectors(enum est_optimizer optimizer)
{
	if (optimizer == EST_MUON)
		return "torch.optim.Muon steps matrices";
	return optimizer == EST_GALORE_ADAMW || is_apollo(optimizer) ? "it projects the gradients of matrices" : NULL;
}

enum est_strategy est_optimizer_sharing(enum est_optimizer optimizer)
{
	if (!est_optimizer_refuses_vectors(optimizer))
		return EST_ZERO3;
	return est_optimizer_refuses_dtensors(optimizer) ? EST_DDP : EST_FSDP;
}

/* ---- all parameters */

typedef void each_function(struct est_stepping *stepping, const struct est_trained *p);

/* Calls function for the trained parameters among the tape's leaves, the first group before the last. What lies on other ranks
 * alone has no gradient here, and is passed by; so is, unless deferred, what a later sub-group steps. */
static void for_each(struct est_stepping *stepping, bool deferred, each_function *function)
{
	const struct est_tape *tape = stepping->tape;

	for (unsigned last = 0; last < (stepping->row->is_last ? 2 : 1); last++)
		for (uint32_t i = 0; i < tape->leaf_count; i++) {
			struct est_trained p;

			if (!is_stepped(&tape->leaves[i]) || at_rest(&tape->leaves[i]).numel == 0
			    || (tape->leaves[i].deferred && !deferred))
				continue;
			p = trained(&tape->leaves[i], stepping->request);
			stepping->on_host = tape->leaves[i].on_host;
			if (!stepping->row->is_last || stepping->row->is_last(&p) == last)
				function(stepping, &p);
		}
}

static struct est_stepping begin(struct est_tape *tape, const struct est_request *request)
{
	return (struct est_stepping){ .tape = tape, .request = request, .row = &rows[request->optimizer] };
}

void est_optimizer_load(struct est_tape *tape, const struct est_request *request)
{
	for (uint32_t i = 0; i < tape->leaf_count && est_has_master(request); i++)
		if (is_stepped(&tape->leaves[i]) && !tape->leaves[i].on_host)
			est_persistent(tape, at_rest(&tape->leaves[i]).numel, EST_32BIT, EST_OPTIMIZER);
		else if (is_stepped(&tape->leaves[i]))
			rest_on_host(tape, request, at_rest(&tape->leaves[i]).numel * EST_32BIT);
}

/* One temporary per trained parameter, in element bytes; they are linked by their order in ret. */
static struct est_tensor *list_like_parameters(struct est_tape *tape, uint8_t element, bool scalar,
					       enum est_category category)
{
	struct est_tensor *list = est_arena_take(tape->arena, tape->leaf_count, sizeof(*list));

	for (uint32_t i = 0; i < tape->leaf_count && list; i++) {
		const struct est_leaf *leaf = &tape->leaves[i];

		if (is_stepped(leaf) && !leaf->on_host && !leaf->deferred)
			list[i] = est_empty_as(tape, scalar ? 1 : at_rest(leaf).numel, element ? element : at_rest(leaf).element,
					       category);
	}
	return list;
}

static void drop_list(struct est_tape *tape, struct est_tensor *list)
{
	for (uint32_t i = tape->leaf_count; i-- > 0 && list;)
		est_drop(tape, list[i]);
}

/* What DTensor's operators make of gradients that are not placed over tensor-parallel ranks as they need them: for a
 * norm the sum of those that are a rank's own, as large as they are; for an update the rank's part, as the parameter
 * is cut. */
static struct est_tensor *list_redistributed(struct est_tape *tape, bool for_norm)
{
	struct est_tensor *list = est_arena_take(tape->arena, tape->leaf_count, sizeof(*list));

	for (uint32_t i = 0; i < tape->leaf_count && list; i++) {
		const struct est_leaf *leaf = &tape->leaves[i];
		uint64_t numel = for_norm ? leaf->grad.numel : leaf->value.numel;

		if (is_stepped(leaf) && est_tensor_is_misplaced(leaf) && (leaf->unsummed || !for_norm))
			list[i] = est_empty_as(tape, numel, leaf->grad.element, EST_GRADIENTS);
	}
	return list;
}

/* torch.nn.utils.clip_grad_norm_: a norm per gradient, their stack, the total, the coefficient */
static void clip_grad_norm(struct est_tape *tape)
{
	size_t mark = tape->arena->used;
	struct est_tensor *summed = list_redistributed(tape, true);
	struct est_tensor *norms = list_like_parameters(tape, EST_16BIT, true, EST_BUFFERS), stack, total;

	drop_list(tape, summed);
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
	update->grads32 = NULL;
	if (request->fuse_optimizer_in_backward)
		return;
	if (request->max_grad_norm > 0)
		clip_grad_norm(tape);
	if (est_has_master(request) && !update->has_grads32)
		update->grads32 = list_like_parameters(tape, EST_32BIT, false, EST_OPTIMIZER);
}

void est_optimizer_states(struct est_tape *tape, const struct est_request *request)
{
	struct est_stepping stepping = begin(tape, request);

	for_each(&stepping, true, stepping.row->states);
}

uint64_t est_optimizer_idle(const struct est_tape *tape, const struct est_request *request)
{
	uint64_t bytes = 0;

	for (uint32_t i = 0; i < tape->leaf_count; i++) {
		const struct est_leaf *leaf = &tape->leaves[i];
		uint64_t rest = leaf->shard_element ? leaf->shard * leaf->shard_element : leaf->value.numel * leaf->value.element;

		bytes += leaf->idle && !leaf->on_host ? (1 + rows[request->optimizer].moments) * rest : 0;
	}
	return bytes;
}

static void zero_grad(struct est_tape *tape, struct est_leaf *leaf)
{
	est_drop(tape, leaf->grad);
	leaf->grad = est_none;
}

static void end(struct est_stepping *stepping)
{
	for (unsigned i = 0; i < EST_VARIABLES; i++)
		est_bind(stepping, i, est_none);
}

enum { ADDS_IN_PLACE = 2001 }; /* PyTorch 2.1 */

/* torch._foreach_sqrt() of the second moments, to which eps was added into other tensors before 2.1 */
static void foreach_denominators(struct est_tape *tape, const struct est_request *request)
{
	uint8_t element = est_has_master(request) ? EST_32BIT : 0;
	bool apart = request->versions.torch != 0 && request->versions.torch < ADDS_IN_PLACE;
	struct est_tensor *roots = list_like_parameters(tape, element, false, EST_OPTIMIZER);

	if (apart)
		drop_list(tape, list_like_parameters(tape, element, false, EST_OPTIMIZER));
	drop_list(tape, roots);
}

/* Of each operator's arguments anew: the fused step, or lerp of the first moments; then addcmul of the second, with
 * gradient times gradient. */
static void update_parts(struct est_tape *tape, bool foreach)
{
	struct est_tensor *once = list_redistributed(tape, false), *again;

	drop_list(tape, once);
	if (!foreach)
		return;
	once = list_redistributed(tape, false);
	again = list_redistributed(tape, false);
	drop_list(tape, again);
	drop_list(tape, once);
}

void est_optimizer_update(struct est_tape *tape, const struct est_request *request, struct est_update *update)
{
	struct est_stepping stepping = begin(tape, request);
	size_t mark = tape->arena->used;

	if (request->fuse_optimizer_in_backward)
		return;
	update_parts(tape, stepping.row->foreach_sqrt);
	est_arena_rewind(tape->arena, mark);
	if (stepping.row->foreach_sqrt)
		foreach_denominators(tape, request);
	if (stepping.row->update)
		for_each(&stepping, false, stepping.row->update);
	end(&stepping);
	drop_list(tape, update->grads32);
	for (uint32_t i = 0; i < tape->leaf_count; i++)
		zero_grad(tape, &tape->leaves[i]);
}

/* ---- one parameter alone */

void est_optimizer_step_one(struct est_tape *tape, const struct est_request *request, const struct est_leaf *leaf)
{
	const struct est_trained p = trained(leaf, request);
	struct est_stepping stepping = begin(tape, request);

	if (stepping.row->foreach_sqrt)
		est_bind(&stepping, 0, est_scratch(&stepping, p.numel, p.element));
	if (stepping.row->update)
		stepping.row->update(&stepping, &p);
	end(&stepping);
}

/* Fused in the backward: an optimizer of one parameter. */
static void step_alone(struct est_tape *tape, struct est_leaf *leaf, const void *context)
{
	const struct est_request *request = context;
	uint64_t numel = est_has_master(request) ? at_rest(leaf).numel : 0;
	struct est_tensor grad32 = est_empty_as(tape, numel, EST_32BIT, EST_OPTIMIZER);

	est_optimizer_step_one(tape, request, leaf);
	est_drop(tape, grad32);
	zero_grad(tape, leaf);
}

void est_optimizer_fuse(struct est_tape *tape, const struct est_request *request)
{
	tape->accumulated = step_alone;
	tape->accumulated_context = request;
}
