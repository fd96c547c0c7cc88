#include "estimator/schedule.h"

#include <string.h>
#include "estimator/ops.h"
#include "estimator/zero3.h"

/* ---- hooks in the graph */

static void backward_enter(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	struct est_schedule *schedule = (struct est_schedule *)(uintptr_t)node->extra[1];

	(void)tape;
	ret[0] = est_take_grad(node, 0);
	schedule->row->after_backward(schedule, (unsigned)node->extra[0]);
}
static const struct est_op enter_op = { "PostBackwardHook", backward_enter };

static void backward_leave(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	struct est_schedule *schedule = (struct est_schedule *)(uintptr_t)node->extra[1];

	(void)tape;
	schedule->row->before_backward(schedule, (unsigned)node->extra[0]);
	ret[0] = est_take_grad(node, 0);
}
static const struct est_op leave_op = { "PreBackwardHook", backward_leave };

static struct est_tensor hooked(struct est_schedule *schedule, const struct est_op *op, unsigned unit, struct est_tensor x)
{
	struct est_node *node = est_node_new(schedule->tape, op, 1, &x);
	bool temporary = x.temporary;

	if (!node)
		return x;
	node->extra[0] = unit;
	node->extra[1] = (uint64_t)(uintptr_t)schedule;
	x = est_output(schedule->tape, node, 0, x);
	x.temporary = temporary;
	return x;
}

void est_schedule_begin(struct est_schedule *schedule, unsigned unit)
{
	if (schedule)
		schedule->row->before_forward(schedule, unit);
}

struct est_tensor est_schedule_enter(struct est_schedule *schedule, unsigned unit, struct est_tensor x)
{
	if (!schedule)
		return x;
	est_schedule_begin(schedule, unit);
	return hooked(schedule, &enter_op, unit, x);
}

struct est_tensor est_schedule_leave(struct est_schedule *schedule, unsigned unit, struct est_tensor y)
{
	if (!schedule)
		return y;
	schedule->row->after_forward(schedule, unit);
	return hooked(schedule, &leave_op, unit, y);
}

void est_schedule_forward_end(struct est_schedule *schedule)
{
	if (!schedule)
		return;
	est_storage_release(schedule->tape, schedule->held_gather);
	schedule->held_gather = 0;
}

void est_schedule_micro_begin(struct est_schedule *schedule)
{
	if (schedule && schedule->row->begin)
		schedule->row->begin(schedule);
}

/* Units whose input has no gradient are reduced in the engine's final callback, which goes over the units in order. */
static void finish_units(struct est_schedule *schedule)
{
	for (unsigned i = 0; i < schedule->unit_count; i++) {
		struct est_unit *unit = &schedule->units[i];

		if (!unit->reduced)
			schedule->row->after_backward(schedule, i);
		unit->reduced = false;
		est_drop(schedule->tape, unit->all_reduced);
		unit->all_reduced = est_none;
		est_storage_release(schedule->tape, unit->gathered); /* ahead of a backward that did not come */
		unit->gathered = 0;
	}
	est_storage_release(schedule->tape, schedule->held_reduction);
	schedule->held_reduction = 0;
}

void est_schedule_backward_end(struct est_schedule *schedule)
{
	if (!schedule)
		return;
	if (schedule->row->end)
		schedule->row->end(schedule);
	else
		finish_units(schedule);
}

void est_schedule_zero_grad(struct est_schedule *schedule)
{
	for (unsigned unit = 0; schedule && unit < schedule->unit_count; unit++) {
		est_drop(schedule->tape, schedule->units[unit].gradient);
		schedule->units[unit].gradient = est_none;
	}
}

/* ---- units and shards */

unsigned est_unit_of_tail(const struct est_schedule *schedule)
{
	return schedule && schedule->has_tail ? schedule->layers + 1 : 0;
}

bool est_tail_has_norm(const struct est_schedule *schedule)
{
	return est_unit_of_tail(schedule) && !schedule->norm_is_roots;
}

/* Leaves beyond the layers are built as the final norm's (L + 1) and the head's (L + 2). */
static unsigned unit_of(const struct est_schedule *schedule, const struct est_leaf *leaf)
{
	if (leaf->unit <= schedule->layers)
		return leaf->unit;
	if (leaf->unit == schedule->layers + 1 && schedule->norm_is_roots)
		return schedule->layers + 2;
	return est_unit_of_tail(schedule);
}

/* What is held against traces; anything else is a static share (sharding.h). */
bool est_schedule_is_plain(const struct est_request *request)
{
	bool plain_step = request->optimizer == EST_ADAMW_TORCH_FUSED || request->optimizer == EST_ADAMW_TORCH
			  || request->optimizer == EST_SGD || request->optimizer == EST_SGD_MOMENTUM;
	bool chunks_words = request->loss == EST_LOSS_CHUNKED && request->framework == EST_TORCHTITAN;
	bool plain_loss = (request->objective == EST_SFT || request->objective == EST_PRETRAIN) && request->task == EST_CAUSAL_LM
			  && !request->liger_kernel && (request->loss == EST_LOSS_STANDARD || chunks_words);

	return plain_step && plain_loss && !request->fuse_optimizer_in_backward;
}

static bool is_reentrant(const struct est_request *request)
{
	return request->checkpointing != EST_CHECKPOINT_NONE && request->use_reentrant;
}

/* Units of whole layers. */
static bool is_plain_fsdp(const struct est_request *request)
{
	return est_schedule_is_plain(request) && request->parallelism.wrap != EST_WRAP_PEFT && !is_reentrant(request);
}

/* Flat parameters that are trained whole, a unit for each layer and the model as the root (what accelerate makes of it too). */
static bool is_replayed_fsdp1(const struct est_request *request)
{
	return is_plain_fsdp(request) && request->method == EST_FULL && request->precision == EST_BF16_MIXED
	       && request->offload.parameters == EST_ON_GPU;
}

/* Full models, LoRA, and 4-bit QLoRA as it is quantised; gathered in 16 bits or in fp32, without masters. */
static bool is_replayed_fsdp2(const struct est_request *request)
{
	const struct est_quantization *q = &request->quantization;
	bool adapts = request->method == EST_LORA || (request->method == EST_QLORA && q->bits == 4 && !q->prepare_kbit);
	bool whole = !request->lora.dora && request->lora.modules_to_save.count == 0;
	bool master = request->precision == EST_BF16_MASTER || request->precision == EST_FP16_MASTER;

	return is_plain_fsdp(request) && (request->method == EST_FULL || (adapts && whole)) && !master
	       && request->precision != EST_BF16_AUTOCAST;
}

bool est_schedule_wanted(const struct est_request *request)
{
	enum est_strategy strategy = request->parallelism.strategy;

	if (request->accounting != EST_REPLAY)
		return false;
	if (strategy == EST_FSDP1)
		return is_replayed_fsdp1(request);
	if (strategy == EST_ZERO3)
		return est_zero3_wanted(request);
	return (strategy == EST_FSDP || strategy == EST_HSDP) && is_replayed_fsdp2(request);
}

static uint8_t element_of(enum est_dtype dtype, uint8_t otherwise)
{
	if (dtype == EST_DTYPE_NONE)
		return otherwise;
	return dtype == EST_FP32 ? EST_32BIT : EST_16BIT;
}

/* A parameter is cut along its first dimension, of experts along that of the experts, and padded to a multiple of the ranks. */
static uint64_t shard_of(const struct est_leaf *leaf, uint64_t ranks)
{
	uint64_t rows = leaf->stack ? leaf->stack : leaf->rows ? leaf->rows : leaf->value.numel;

	return (rows + ranks - 1) / ranks * (leaf->value.numel / rows);
}

static void shard(struct est_schedule *schedule, struct est_leaf *leaf)
{
	struct est_unit *unit = &schedule->units[leaf->unit];
	bool trained = leaf->value.requires_grad;

	leaf->shard = shard_of(leaf, schedule->ranks);
	leaf->shard_element = leaf->value.element;
	leaf->on_host = schedule->offloads;
	if (leaf->on_host)
		schedule->tape->host_shards += leaf->shard * leaf->shard_element * (trained ? 2 : 1);
	else
		est_persistent(schedule->tape, leaf->shard, leaf->shard_element, EST_WEIGHTS);
	leaf->value.element = element_of(schedule->request->parallelism.param_dtype, leaf->value.element);
	unit->numel += leaf->shard * schedule->ranks;
	unit->trained += trained ? leaf->shard * schedule->ranks : 0;
	unit->cast += leaf->shard_element != leaf->value.element ? leaf->shard : 0;
	if (trained)
		schedule->shard_element = leaf->shard_element;
}

/* A flat parameter is cut as it lies: the first rank, which is replayed, has the unit's first parameters whole, a part of one
 * and nothing of the rest. */
static void shard_flat(struct est_schedule *schedule, unsigned number)
{
	struct est_tape *tape = schedule->tape;
	struct est_unit *unit = &schedule->units[number];
	uint64_t numel = 0, share, left;
	uint8_t element = tape->leaves[0].shard_element;

	for (const struct est_leaf *leaf = unit->first; leaf; leaf = leaf->next)
		numel += leaf->value.numel;
	left = share = (numel + schedule->ranks - 1) / schedule->ranks;
	for (struct est_leaf *leaf = unit->first; leaf; leaf = leaf->next) {
		leaf->shard = leaf->value.numel < left ? leaf->value.numel : left;
		left -= leaf->shard;
	}
	est_persistent(tape, share, element, EST_WEIGHTS);
	unit->numel = unit->trained = share * schedule->ranks;
	unit->cast = element != tape->leaves[0].value.element ? share : 0;
}

static void shard_all_flat(struct est_schedule *schedule)
{
	struct est_tape *tape = schedule->tape;

	for (uint32_t i = 0; i < tape->leaf_count; i++) {
		struct est_leaf *leaf = &tape->leaves[i];

		leaf->shard_element = schedule->shard_element = leaf->value.element;
		leaf->value.element = element_of(schedule->request->parallelism.param_dtype, leaf->value.element);
	}
	for (unsigned number = 0; number < schedule->unit_count; number++)
		shard_flat(schedule, number);
}

static void join_unit(struct est_schedule *schedule, struct est_leaf *leaf)
{
	struct est_unit *unit;

	leaf->unit = unit_of(schedule, leaf);
	unit = &schedule->units[leaf->unit];
	*(unit->last ? &unit->last->next : &unit->first) = leaf;
	unit->last = leaf;
}

static void shard_all(struct est_schedule *schedule)
{
	struct est_tape *tape = schedule->tape;

	for (uint32_t i = 0; i < tape->leaf_count; i++)
		if (!tape->leaves[i].value.storage) /* else ignored: it is whole on every rank */
			join_unit(schedule, &tape->leaves[i]);
	if (schedule->row == &est_fsdp1) {
		shard_all_flat(schedule);
		return;
	}
	for (uint32_t i = 0; i < tape->leaf_count; i++)
		if (!tape->leaves[i].value.storage)
			shard(schedule, &tape->leaves[i]);
}

static void begin_module(void *context, uint32_t module)
{
	est_schedule_begin(context, module);
}

static struct est_tensor enter_module(void *context, uint32_t module, struct est_tensor x)
{
	return est_schedule_enter(context, module, x);
}

static struct est_tensor leave_module(void *context, uint32_t module, struct est_tensor y)
{
	return est_schedule_leave(context, module, y);
}

/* ZeRO-3: every module is a unit. The model and its layers have the numbers that units have everywhere. */
static void shard_modules(struct est_schedule *schedule, const struct est_model *model)
{
	struct est_tape *tape = schedule->tape;

	schedule->row = &est_zero3_row;
	schedule->zero3 = est_arena_take(tape->arena, 1, sizeof(*schedule->zero3));
	if (!schedule->zero3 || !est_zero3_init(schedule->zero3, schedule, model))
		tape->exhausted = true;
	tape->hooks = (struct est_module_hooks){ schedule, begin_module, enter_module, leave_module };
}

uint8_t est_schedule_init(struct est_schedule *schedule, struct est_tape *tape, const struct est_model *model,
			  const struct est_request *request)
{
	const struct est_parallelism *p = &request->parallelism;

	memset(schedule, 0, sizeof(*schedule));
	schedule->row = p->strategy == EST_FSDP1 ? &est_fsdp1 : &est_fsdp2;
	schedule->tape = tape;
	schedule->request = request;
	schedule->offloads = request->offload.parameters == EST_ON_CPU;
	schedule->replicates = p->strategy == EST_HSDP;
	schedule->ranks = est_shard_ranks(p);
	schedule->layers = (unsigned)model->num_hidden_layers;
	schedule->gathered_element = EST_16BIT;
	if (p->strategy == EST_ZERO3) {
		schedule->root_leaves_at_loss = true;
		shard_modules(schedule, model);
		return EST_16BIT;
	}
	schedule->root_leaves_at_loss = p->wrap == EST_WRAP_LAYER_ROOT || p->strategy == EST_FSDP1;
	schedule->has_tail = !schedule->root_leaves_at_loss && !model->tie_word_embeddings;
	schedule->norm_is_roots = schedule->has_tail && request->method != EST_FULL;
	schedule->unit_count = schedule->layers + 1 + schedule->has_tail + schedule->norm_is_roots;
	schedule->units = est_arena_take(tape->arena, schedule->unit_count, sizeof(*schedule->units));
	if (!schedule->units) {
		tape->exhausted = true;
		return 0;
	}
	shard_all(schedule);
	schedule->gathered_element = tape->leaves[0].value.element;
	schedule->reduced_element = element_of(p->reduce_dtype, schedule->gathered_element);
	return schedule->gathered_element;
}
