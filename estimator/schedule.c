#include "estimator/schedule.h"

#include <string.h>
#include "estimator/objective.h"
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
	if (op == &enter_op && schedule->row->entered)
		schedule->row->entered(schedule, unit);
	x = est_output(schedule->tape, node, 0, x);
	x.temporary = temporary;
	return x;
}

/* What has been left to another unit is none, nor is what no forward calls. */
static bool is_unit(const struct est_schedule *schedule, unsigned number)
{
	const struct est_unit *unit = schedule && schedule->units ? &schedule->units[number] : NULL;

	return schedule && (!unit || (number < schedule->unit_count && unit->first && !unit->sleeps));
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
	schedule->passes = 0;
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
	return schedule && schedule->has_root ? schedule->layers + schedule->has_tail + 1 : 0;
}

unsigned est_unit_of_output(const struct est_schedule *schedule)
{
	unsigned tail = est_unit_of_tail(schedule);

	if (!schedule || !schedule->embeds_apart)
		return 0;
	return tail && !schedule->head_is_roots && !schedule->units[tail].sleeps ? tail : est_unit_of_root(schedule);
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
	if (leaf->unit == schedule->layers + EST_BUILT_HEAD && schedule->head_is_roots)
		return est_unit_of_root(schedule);
	return est_unit_of_tail(schedule);
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
	unit->shard_element = leaf->shard_element;
	unit->reduced_element = element_of(schedule->request->parallelism.reduce_dtype, leaf->value.element);
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

void est_schedule_shard(struct est_schedule *schedule, unsigned number)
{
	for (struct est_leaf *leaf = schedule->units[number].first; leaf; leaf = leaf->next)
		shard(schedule, leaf);
}

/* fully_shard() of what is within others comes first: experts, layers, and what the model has beside them last. */
static void shard_units(struct est_schedule *schedule)
{
	unsigned own = schedule->layers + schedule->has_tail + schedule->has_root;

	for (unsigned number = own + 1; number < schedule->unit_count; number++)
		est_schedule_shard(schedule, number);
	for (unsigned number = 1; number <= schedule->layers; number++)
		est_schedule_shard(schedule, number);
	est_schedule_shard(schedule, 0);
	for (unsigned number = schedule->layers + 1; number <= own; number++)
		est_schedule_shard(schedule, number);
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

/* What accelerate's fsdp2_prepare_model() makes units of beside the layers: the embedding, where it is not the head too, and the final
 * norm, which it does not find within PEFT's model or one that sees, with the head. A head of scores is no output embedding. Others
 * leave all of it to the model. */
static void lay_out(struct est_schedule *schedule, const struct est_model *model)
{
	const struct est_request *request = schedule->request;
	const struct est_parallelism *p = &request->parallelism;
	bool is_root = p->wrap == EST_WRAP_LAYER_ROOT || p->strategy == EST_FSDP1, scores = est_objective_scores(request) > 0;
	bool sees = model->vision.tower != EST_TOWER_NONE, finds_norm = !sees && !est_has_adapters(request);

	schedule->leaves_at_loss = est_schedule_fuses_head(request) || (is_root && request->loss != EST_LOSS_VOCAB_PARALLEL);
	schedule->embeds_apart = !is_root && (scores || !model->tie_word_embeddings);
	schedule->has_tail = schedule->embeds_apart && (finds_norm || !scores);
	schedule->norm_is_roots = sees ? !is_root : schedule->embeds_apart && !finds_norm;
	schedule->head_is_roots = scores && schedule->embeds_apart;
	schedule->has_root = schedule->norm_is_roots || schedule->head_is_roots;
	schedule->layers_are_roots = schedule->norm_is_roots && p->wrap == EST_WRAP_PEFT;
	if (!est_models_language(request)) /* what it returns is no loss */
		schedule->leaves_at_loss = false;
}

/* A head that is a unit by itself gathers nothing unless it is called, and TRL's patched forward does not. */
static bool head_sleeps(const struct est_schedule *schedule)
{
	const struct est_request *request = schedule->request;
	bool reads = request->objective == EST_DPO || request->objective == EST_KTO || request->objective == EST_GRPO
		     || (est_schedule_fuses_head(request) && request->loss == EST_LOSS_CHUNKED);

	return reads && est_has_adapters(request) && schedule->norm_is_roots;
}

uint8_t est_schedule_init(struct est_schedule *schedule, struct est_tape *tape, uint32_t first_leaf,
			  const struct est_model *model, const struct est_request *request)
{
	const struct est_parallelism *p = &request->parallelism;

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
		schedule->leaves_at_loss = est_models_language(request);
		shard_modules(schedule, model);
		return EST_16BIT;
	}
	lay_out(schedule, model);
	schedule->unit_count = schedule->layers + 1 + schedule->has_tail + schedule->has_root;
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
	if (schedule->has_tail)
		schedule->units[est_unit_of_tail(schedule)].sleeps = head_sleeps(schedule);
	est_schedule_nest_experts(schedule, model);
	shard_all(schedule, first_leaf);
	while (first_leaf + 1 < tape->leaf_count && !tape->leaves[first_leaf].shard_element) /* packed, and whole on every rank */
		first_leaf++;
	schedule->gathered_element = tape->leaves[first_leaf].value.element;
	if (!schedule->reduced_element)
		schedule->reduced_element = element_of(p->reduce_dtype, schedule->gathered_element);
	if (est_objective_holds_reference(request) && request->objective != EST_GRPO && !p->reshard_after_forward)
		schedule->rehearses = true; /* its reference is gathered once, and stays */
	return schedule->gathered_element;
}
