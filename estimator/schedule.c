#include "estimator/schedule.h"

#include <string.h>
#include "estimator/generation.h"
#include "estimator/ops.h"
#include "estimator/optimizer.h"
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
	if (op == &enter_op && schedule->row->entered)
		schedule->row->entered(schedule, unit);
	x = est_output(schedule->tape, node, 0, x);
	x.temporary = temporary;
	return x;
}

/* What has been left to another unit is none. */
static bool is_unit(const struct est_schedule *schedule, unsigned unit)
{
	return schedule && (!schedule->units || schedule->units[unit].first);
}

void est_schedule_begin(struct est_schedule *schedule, unsigned unit)
{
	if (is_unit(schedule, unit))
		schedule->row->before_forward(schedule, unit);
}

struct est_tensor est_schedule_enter(struct est_schedule *schedule, unsigned unit, struct est_tensor x)
{
	if (!is_unit(schedule, unit))
		return x;
	est_schedule_begin(schedule, unit);
	return hooked(schedule, &enter_op, unit, x);
}

struct est_tensor est_schedule_leave(struct est_schedule *schedule, unsigned unit, struct est_tensor y)
{
	if (!is_unit(schedule, unit))
		return y;
	schedule->row->after_forward(schedule, unit);
	if (schedule->units)
		schedule->units[unit].awaits_backward = y.requires_grad && !schedule->tape->no_grad;
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

void est_schedule_forward_begin(struct est_schedule *schedule)
{
	if (schedule && schedule->row->begin_forward)
		schedule->row->begin_forward(schedule);
}

/* Units whose input has no gradient are reduced in the engine's final callback, which goes over the units in order, the
 * model itself first. */
static void finish_units(struct est_schedule *schedule)
{
	unsigned root = est_unit_of_root(schedule);

	if (root && !schedule->units[root].reduced)
		schedule->row->after_backward(schedule, root);
	for (unsigned i = 0; i < schedule->unit_count; i++) {
		struct est_unit *unit = &schedule->units[i];

		if (!unit->reduced)
			schedule->row->after_backward(schedule, i);
		unit->reduced = unit->has_run = unit->awaits_backward = false;
		est_drop(schedule->tape, unit->all_reduced);
		unit->all_reduced = est_none;
		est_storage_release(schedule->tape, unit->gathered); /* ahead of a backward that did not come */
		unit->gathered = 0;
	}
	est_storage_release(schedule->tape, schedule->held_reduction);
	schedule->held_reduction = 0;
	schedule->last_run = EST_NO_UNIT;
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

void est_schedule_reduce(struct est_schedule *schedule)
{
	bool stays;

	if (!schedule)
		return;
	stays = schedule->stays_gathered;
	schedule->syncs = true;
	schedule->stays_gathered = false;
	finish_units(schedule);
	schedule->stays_gathered = stays;
}

static void each_unit(struct est_schedule *schedule, void (*act)(struct est_schedule *schedule, unsigned unit))
{
	for (unsigned unit = 0; unit < schedule->unit_count; unit++)
		if (is_unit(schedule, unit))
			act(schedule, unit);
}

void est_schedule_gather(struct est_schedule *schedule)
{
	each_unit(schedule, schedule->row->gather);
}

void est_schedule_await(struct est_schedule *schedule)
{
	each_unit(schedule, schedule->row->await);
}

void est_schedule_release(struct est_schedule *schedule)
{
	each_unit(schedule, schedule->row->release);
}

/* FSDP1's flat parameters lose theirs when the next forward finds none in the original ones. */
void est_schedule_zero_grad(struct est_schedule *schedule)
{
	if (schedule && schedule->row == &est_fsdp1 && schedule->request->parallelism.use_orig_params)
		est_mark(schedule->tape, EST_PHASE_FORWARD);
	for (unsigned unit = 0; schedule && unit < schedule->unit_count; unit++) {
		est_drop(schedule->tape, schedule->units[unit].gradient);
		schedule->units[unit].gradient = est_none;
	}
}

/* ---- units and shards */

static bool is_reentrant(const struct est_request *request)
{
	return request->checkpointing != EST_CHECKPOINT_NONE && request->use_reentrant;
}

unsigned est_unit_of_tail(const struct est_schedule *schedule)
{
	return schedule && schedule->has_tail ? schedule->layers + 1 : 0;
}

bool est_schedule_casts_outputs(const struct est_schedule *schedule)
{
	enum est_dtype output = schedule ? schedule->request->parallelism.output_dtype : EST_DTYPE_NONE;

	return schedule && schedule->row == &est_fsdp2 && (output == EST_BF16 || output == EST_FP16);
}

bool est_unit_is_checkpointed(const struct est_schedule *schedule)
{
	return schedule && schedule->request->parallelism.checkpoint_outside_unit && is_reentrant(schedule->request);
}

bool est_tail_has_norm(const struct est_schedule *schedule)
{
	return est_unit_of_tail(schedule) && !schedule->norm_is_roots;
}

unsigned est_unit_of_root(const struct est_schedule *schedule)
{
	return schedule && schedule->norm_is_roots ? schedule->layers + schedule->has_tail + 1 : 0;
}

static unsigned unit_of(const struct est_schedule *schedule, const struct est_leaf *leaf)
{
	if (schedule->unit_of_module && schedule->unit_of_module[leaf->module])
		return schedule->unit_of_module[leaf->module];
	if (leaf->unit > 0 && leaf->unit <= schedule->layers && schedule->layers_are_roots)
		return est_unit_of_root(schedule);
	if (leaf->unit <= schedule->layers)
		return leaf->unit;
	if (leaf->unit >= schedule->layers + EST_BUILT_TOWER)
		return est_schedule_unit_of_tower(schedule, leaf->unit - schedule->layers - EST_BUILT_TOWER);
	if (leaf->unit == schedule->layers + EST_BUILT_NORM && schedule->norm_is_roots)
		return est_unit_of_root(schedule);
	return est_unit_of_tail(schedule);
}

bool est_schedule_steps_parts(const struct est_request *request)
{
	return est_optimizer_steps_parts(request) && !request->fuse_optimizer_in_backward;
}

static bool models_words(const struct est_request *request)
{
	return (request->objective == EST_SFT || request->objective == EST_PRETRAIN) && request->task == EST_CAUSAL_LM;
}

/* The model's own loss, over logits */
static bool has_plain_loss(const struct est_request *request)
{
	bool chunks_words = request->loss == EST_LOSS_CHUNKED && request->framework == EST_TORCHTITAN;

	return models_words(request)
	       && (request->loss == EST_LOSS_STANDARD || request->loss == EST_LOSS_VOCAB_PARALLEL || chunks_words);
}

/* Losses that read the head's weight, Liger's, TRL's and cut cross-entropy: the head is not called. FSDP2 completes its unit when
 * the model returns (_force_complete_incomplete_states()). */
static bool fuses_head(const struct est_request *request)
{
	return models_words(request) && !has_plain_loss(request);
}

/* LoRA, and 4-bit QLoRA as it is quantised. */
static bool adapts_plainly(const struct est_request *request)
{
	const struct est_quantization *q = &request->quantization;
	bool adapts = request->method == EST_LORA
		      || (request->method == EST_QLORA && q->bits == 4 && !est_prepares_kbit(request));

	return adapts && !request->lora.dora && request->lora.modules_to_save.count == 0;
}

/* bitsandbytes' own storage. */
static bool packs_bytes(const struct est_request *request)
{
	const struct est_quantization *q = &request->quantization;

	return request->method == EST_QLORA && q->type != EST_GPTQ && q->quant_storage == EST_STORE_UINT8;
}

/* Flat parameters, a unit for each layer and the model as the root (what accelerate makes of it too): full models; adapters, each of
 * which PEFT's policy makes a unit, or, in the layers', where use_orig_params lets them be. Weights packed as bytes cannot be
 * flattened. Precisions: those of 16 bits, with a policy or without any, and of full models fp32 and masters. */
static bool is_replayed_fsdp1(const struct est_request *request)
{
	const struct est_parallelism *p = &request->parallelism;
	bool bytes = packs_bytes(request), mixed = est_is_mixed(request->precision);
	bool pure = request->precision == EST_PURE_BF16 || request->precision == EST_PURE_FP16
		    || (request->precision == EST_PURE_FP32 && request->method == EST_FULL);
	bool casts = p->param_dtype == EST_BF16 || p->param_dtype == EST_FP16;
	bool leaves = p->param_dtype == EST_DTYPE_NONE && p->reduce_dtype == EST_DTYPE_NONE;
	bool masters = est_has_master(request) && request->method == EST_FULL;
	bool half = mixed ? casts : pure ? leaves : masters && (casts || leaves);
	bool together = request->method == EST_LORA && p->wrap != EST_WRAP_PEFT && p->use_orig_params && half;
	bool adapts = adapts_plainly(request) && !bytes && (p->wrap == EST_WRAP_PEFT || together) && half;
	bool whole = request->method == EST_FULL && p->wrap != EST_WRAP_PEFT && (mixed || half);

	return est_schedule_steps_parts(request) && has_plain_loss(request) && !request->liger_kernel
	       && (whole || (adapts && request->loss == EST_LOSS_STANDARD)) && request->offload.parameters == EST_ON_GPU;
}

/* All layers, or, of ranks that share nothing but parameters, the last ones. */
static bool trains_layers(const struct est_request *request)
{
	const struct est_parallelism *p = &request->parallelism;

	return request->method == EST_FULL
	       || (request->method == EST_FREEZE && p->tensor * p->pipeline * p->context * p->expert == 1);
}

/* Full models, the last layers of them, and adapters. PEFT's policy is for adapters. */
static bool is_replayed_fsdp2(const struct est_request *request)
{
	const struct est_quantization *q = &request->quantization;
	bool packs = q->type == EST_NF4 || q->type == EST_FP4 || (q->bits == 4 && !est_prepares_kbit(request));

	return est_schedule_steps_parts(request) && models_words(request) && (request->method != EST_QLORA || packs)
	       && request->lora.modules_to_save.count == 0
	       && (est_has_adapters(request) || (trains_layers(request) && request->parallelism.wrap != EST_WRAP_PEFT));
}

bool est_schedule_wanted(const struct est_request *request)
{
	enum est_strategy strategy = request->parallelism.strategy;

	/* beside tensor parallelism one data-parallel rank alone is not wrapped */
	if (request->accounting != EST_REPLAY || (request->parallelism.tensor > 1 && est_shard_ranks(&request->parallelism) == 1))
		return false;
	if (strategy == EST_FSDP1)
		return is_replayed_fsdp1(request);
	if (strategy == EST_ZERO3)
		return est_zero3_wanted(request);
	return est_is_fsdp2(strategy) && is_replayed_fsdp2(request);
}

static uint8_t element_of(enum est_dtype dtype, uint8_t otherwise)
{
	if (dtype == EST_DTYPE_NONE)
		return otherwise;
	return dtype == EST_FP32 ? EST_32BIT : EST_16BIT;
}

/* A parameter is cut along its first dimension, of experts along that of the experts (or their rows), and padded to a multiple of
 * the ranks. */
static uint64_t shard_of(const struct est_leaf *leaf, uint64_t ranks, bool cuts_rows)
{
	uint64_t rows = leaf->stack && !cuts_rows ? leaf->stack : leaf->rows ? leaf->rows : leaf->value.numel;

	return (rows + ranks - 1) / ranks * (leaf->value.numel / rows);
}

static void shard(struct est_schedule *schedule, struct est_leaf *leaf)
{
	struct est_unit *unit = &schedule->units[leaf->unit];
	bool trained = leaf->value.requires_grad && !leaf->idle;

	leaf->shard = shard_of(leaf, unit->ranks, unit->cuts_rows);
	leaf->shard_element = leaf->value.element;
	leaf->on_host = schedule->offloads;
	if (leaf->on_host)
		schedule->tape->host_shards += leaf->shard * leaf->shard_element * (trained ? 2 : 1);
	else
		est_persistent(schedule->tape, leaf->shard, leaf->shard_element, EST_WEIGHTS);
	if (leaf->value.element != EST_BYTE) /* packed weights are gathered as they are */
		leaf->value.element = element_of(schedule->request->parallelism.param_dtype, leaf->value.element);
	unit->numel += leaf->shard * unit->ranks;
	unit->bytes += leaf->shard * unit->ranks * leaf->value.element;
	unit->trained += trained ? leaf->shard * unit->ranks : 0;
	unit->cast += leaf->shard_element != leaf->value.element ? leaf->shard : 0;
	if (!trained)
		return;
	schedule->shard_element = leaf->shard_element;
	schedule->reduced_element = element_of(schedule->request->parallelism.reduce_dtype, leaf->value.element);
}

/* Whether an adapter's leaf, which is made last, comes before another in the order of the modules: behind what it adapts. */
static bool comes_before(const struct est_leaf *adapter, const struct est_leaf *leaf)
{
	return adapter->adapts && adapter->adapts < (leaf->adapts ? leaf->adapts : leaf->module);
}

static void join_unit(struct est_schedule *schedule, struct est_leaf *leaf)
{
	struct est_leaf **link;

	leaf->unit = unit_of(schedule, leaf);
	link = &schedule->units[leaf->unit].first;
	while (*link && !comes_before(leaf, *link))
		link = &(*link)->next;
	leaf->next = *link;
	*link = leaf;
}

static void shard_unit(struct est_schedule *schedule, unsigned number)
{
	for (struct est_leaf *leaf = schedule->units[number].first; leaf; leaf = leaf->next)
		shard(schedule, leaf);
}

/* fully_shard() of what is within others comes first: experts, layers, and what the model has beside them last. */
static void shard_units(struct est_schedule *schedule)
{
	unsigned own = schedule->layers + schedule->has_tail + schedule->norm_is_roots;

	for (unsigned number = own + 1; number < schedule->unit_count; number++)
		shard_unit(schedule, number);
	for (unsigned number = 1; number <= schedule->layers; number++)
		shard_unit(schedule, number);
	shard_unit(schedule, 0);
	for (unsigned number = schedule->layers + 1; number <= own; number++)
		shard_unit(schedule, number);
}

static void shard_all(struct est_schedule *schedule, uint32_t first_leaf)
{
	struct est_tape *tape = schedule->tape;

	for (uint32_t i = first_leaf; i < tape->leaf_count; i++)
		if (!tape->leaves[i].value.storage) /* else ignored: it is whole on every rank */
			join_unit(schedule, &tape->leaves[i]);
	if (schedule->row == &est_fsdp1) {
		est_fsdp1_shard(schedule);
		return;
	}
	shard_units(schedule);
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

uint8_t est_schedule_init(struct est_schedule *schedule, struct est_tape *tape, uint32_t first_leaf,
			  const struct est_model *model, const struct est_request *request)
{
	const struct est_parallelism *p = &request->parallelism;
	bool sees = model->vision.tower != EST_TOWER_NONE;

	memset(schedule, 0, sizeof(*schedule));
	schedule->row = p->strategy == EST_FSDP1 ? &est_fsdp1 : &est_fsdp2;
	schedule->tape = tape;
	schedule->request = request;
	schedule->offloads = request->offload.parameters == EST_ON_CPU;
	schedule->replicates = p->strategy == EST_HSDP;
	schedule->stays_gathered = p->pipeline > 1;
	schedule->ranks = est_shard_ranks(p);
	schedule->layers = (unsigned)model->num_hidden_layers;
	schedule->gathered_element = EST_16BIT;
	if (p->strategy == EST_ZERO3) {
		schedule->leaves_at_loss = models_words(request);
		shard_modules(schedule, model);
		return EST_16BIT;
	}
	schedule->leaves_at_loss = p->wrap == EST_WRAP_LAYER_ROOT || p->strategy == EST_FSDP1;
	schedule->has_tail = !schedule->leaves_at_loss && !model->tie_word_embeddings;
	schedule->norm_is_roots = sees ? !schedule->leaves_at_loss : schedule->has_tail && est_has_adapters(request);
	if (request->loss == EST_LOSS_VOCAB_PARALLEL) /* which is computed outside of the model */
		schedule->leaves_at_loss = false;
	if (fuses_head(request))
		schedule->leaves_at_loss = true;
	schedule->layers_are_roots = schedule->norm_is_roots && p->wrap == EST_WRAP_PEFT;
	schedule->unit_count = schedule->layers + 1 + schedule->has_tail + schedule->norm_is_roots;
	schedule->last_run = EST_NO_UNIT;
	if (schedule->row == &est_fsdp1)
		schedule->unit_count += est_fsdp1_name_adapters(schedule);
	schedule->unit_count += est_schedule_name_experts(schedule);
	est_schedule_name_blocks(schedule, model);
	schedule->units = est_arena_take(tape->arena, schedule->unit_count, sizeof(*schedule->units));
	if (!schedule->units) {
		tape->exhausted = true;
		return 0;
	}
	for (unsigned i = 0; i < schedule->unit_count; i++)
		schedule->units[i].ranks = schedule->ranks;
	est_schedule_nest_experts(schedule, model);
	shard_all(schedule, first_leaf);
	while (first_leaf + 1 < tape->leaf_count && !tape->leaves[first_leaf].shard_element) /* packed, and whole on every rank */
		first_leaf++;
	schedule->gathered_element = tape->leaves[first_leaf].value.element;
	if (!schedule->reduced_element)
		schedule->reduced_element = element_of(p->reduce_dtype, schedule->gathered_element);
	return schedule->gathered_element;
}

uint8_t est_schedule_init_reference(struct est_schedule *reference, const struct est_schedule *schedule, uint32_t first_leaf,
				    const struct est_model *model)
{
	struct est_tape *tape = schedule->tape;

	*reference = (struct est_schedule){ .row = schedule->row, .tape = tape, .request = schedule->request, .ranks = schedule->ranks,
					    .layers = schedule->layers, .gathered_element = schedule->gathered_element };
	reference->zero3 = est_arena_take(tape->arena, 1, sizeof(*reference->zero3));
	if (!reference->zero3 || !est_zero3_init_reference(reference->zero3, reference, model, first_leaf))
		tape->exhausted = true;
	return EST_16BIT;
}
