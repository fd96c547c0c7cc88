#include "estimator/step.h"

#include <string.h>
#include "estimator/ddp.h"
#include "estimator/framework.h"
#include "estimator/litgpt.h"
#include "estimator/generation.h"
#include "estimator/lora.h"
#include "estimator/megatron.h"
#include "estimator/mlx.h"
#include "estimator/objective.h"
#include "estimator/optimizer.h"
#include "estimator/pipeline.h"
#include "estimator/repeat.h"
#include "estimator/unsloth.h"
#include "estimator/zero3.h"

/* ---- how large the tables may grow: counts per layer, checked by the tape */

/* The most a layer was seen to need, over 1,099 requests of the dense families, each with 1, 32, 126 and 1,024
 * layers: Gemma 3 with DoRA, checkpointed, in two micro-batches 3,456 events, 214 nodes and 134 saves a frame,
 * without checkpoints 257 storages; OPT with DoRA 38 leaves. (Full fine-tuning: 1,669, 113, 63, 147, 20.) Gemma 3n, whose layer has
 * fourteen linear layers and nine norms, needs 6,801 events, 420 nodes, 394 storages, 286 saves, 66 leaves. Beside the
 * layers LitGPT's head needs most, in 512 chunks with an adapter. What is not used of a table is not touched: a run of
 * 32 layers touches 4 MB at most, a full one of Llama 1 MB. */
enum {
	EVENTS_PER_LAYER = 9000, NODES_PER_LAYER = 560, STORAGES_PER_LAYER = 600, LEAVES_PER_LAYER = 80,
	ATTRIBUTES_PER_LAYER = 32, SAVES_PER_LAYER = 384, BASE = 2048, ZERO3_BYTES_PER_LAYER = 32768
};

static struct est_tape_limits limits_for(int64_t layers)
{
	uint32_t n = (uint32_t)layers;

	return (struct est_tape_limits){ .events = (size_t)n * EVENTS_PER_LAYER + 64 * BASE,
					 .nodes = n * NODES_PER_LAYER + 4 * BASE,
					 .storages = n * STORAGES_PER_LAYER + 4 * BASE, .leaves = n * LEAVES_PER_LAYER + BASE,
					 .frames = 2 * n + 1, .attributes = n * ATTRIBUTES_PER_LAYER + BASE, .frame_saves = (size_t)n * SAVES_PER_LAYER };
}

size_t est_program_arena_size(int64_t layers)
{
	struct est_tape_limits limits = limits_for(layers);

	return limits.events * sizeof(struct est_event) + limits.nodes * sizeof(struct est_node)
	       + limits.storages * sizeof(struct est_storage)
	       + limits.leaves * (sizeof(struct est_leaf) + 3 * sizeof(struct est_tensor) + sizeof(uint32_t) + sizeof(bool))
	       + limits.frames * sizeof(struct est_frame) + (limits.frame_saves + limits.attributes) * sizeof(uint32_t)
	       + (size_t)layers * (2 * (sizeof(struct est_layer) + 1024) + sizeof(struct est_unit) + est_compiled_layer_size() + est_compiled_model_layer_size()
				   + ZERO3_BYTES_PER_LAYER) + est_repeat_arena_size(&limits) + 65536;
}

uint32_t est_program_ids(int64_t layers)
{
	return limits_for(layers).storages;
}

/* ---- parts */

static enum est_policy policy_of(const struct est_request *request)
{
	static const enum est_policy policies[] = {
		[EST_SELECTIVE_OP] = EST_KEEP_OP,
		[EST_SELECTIVE_ATTENTION] = EST_KEEP_ATTENTION,
		[EST_SELECTIVE_ALL_MATMUL] = EST_KEEP_ALL_MATMUL,
	};

	return request->checkpointing == EST_CHECKPOINT_SELECTIVE ? policies[request->selective] : EST_KEEP_NOTHING;
}

/* One micro-batch: Trainer.training_step(). */
static void trace_micro(struct est_pass *pass, bool last)
{
	struct est_tape *tape = pass->tape;
	bool recomputes_reentrantly = pass->request->checkpointing != EST_CHECKPOINT_NONE && pass->request->use_reentrant;
	struct est_tensor loss;

	if (tape->repeat && tape->repeat->failed)
		return; /* the trace is none */
	tape->frame_count = 0;
	tape->frame_save_count = 0;
	tape->pinned = 0;
	if (pass->schedule)
		pass->schedule->syncs = last || pass->request->parallelism.sync_each_microbatch;
	est_zero_micro_begin(pass->zero, last);
	est_ddp_micro_begin(pass->ddp, last);
	est_mark(tape, EST_PHASE_FORWARD);
	est_repeat_begin(tape);
	est_schedule_micro_begin(pass->schedule);
	loss = est_objective_loss(pass);
	est_cache_drop(pass);
	if (pass->schedule && pass->schedule->leaves_at_loss)
		loss = est_pass_leave(pass, loss);
	est_schedule_forward_end(pass->schedule);
	est_mark(tape, EST_PHASE_LOSS_BACKWARD);
	est_tape_backward(tape, 0, loss, est_empty(tape, 1, EST_32BIT));
	est_repeat_enter(tape, 0);
	est_schedule_backward_end(pass->schedule);
	est_zero_backward_end(pass->zero, tape);
	est_drop(tape, loss);
	est_release_attributes(tape, 0);
	est_pass_end(pass);
	if (recomputes_reentrantly)
		est_pass_release(pass);
	est_repeat_end(tape);
}

/* ZeRO-3 has to see one micro-batch before it knows how all others run, and what it never lets go is there from the
 * first step on: true when these are all the micro-batches of that step. */
static bool rehearse_zero3(struct est_pass *pass)
{
	int64_t steps = pass->request->gradient_accumulation_steps;

	trace_micro(pass, steps == 1);
	if (steps > 1)
		trace_micro(pass, steps == 2);
	est_zero3_rehearsed(pass->schedule->zero3);
	if (pass->reference)
		est_zero3_rehearsed(pass->reference->schedule->zero3);
	return steps <= 2;
}

static void rehearse(struct est_program *program, struct est_pass *pass)
{
	if (!pass->schedule || !pass->schedule->rehearses)
		return;
	program->rehearses_first = pass->schedule->zero3 != NULL;
	if (program->rehearses_first) {
		program->rehearses_all = rehearse_zero3(pass);
	} else {
		trace_micro(pass, true);
		est_schedule_zero_grad(pass->schedule);
	}
	pass->schedule->rehearses = false;
}

/* The first micro-batch. Where only the last one is reduced, whatever lies between is not the part that repeats: one
 * of them is traced here, which leaves what all of them would. Returns the count of micro-batches that are to be
 * played. */
static uint64_t trace_first(struct est_pass *pass)
{
	uint64_t steps = (uint64_t)pass->request->gradient_accumulation_steps;
	bool last_differs;

	trace_micro(pass, steps == 1);
	last_differs = (pass->schedule && !pass->request->parallelism.sync_each_microbatch)
		|| est_zero_last_differs(pass->zero) || est_ddp_last_differs(pass->ddp);
	if (!last_differs || steps <= 2)
		return steps;
	trace_micro(pass, false);
	return 2;
}

void est_program_begin(struct est_program *program, const struct est_tape *tape, enum est_part part)
{
	program->begin[part] = tape->event_count;
}

void est_program_end(struct est_program *program, const struct est_tape *tape, enum est_part part)
{
	program->end[part] = tape->event_count;
}

void est_program_empty(struct est_program *program, const struct est_tape *tape, enum est_part part)
{
	est_program_begin(program, tape, part);
	est_program_end(program, tape, part);
}

static int64_t count_trainable(const struct est_tape *tape)
{
	int64_t count = 0;

	for (uint32_t i = 0; i < tape->leaf_count; i++)
		if (tape->leaves[i].value.requires_grad && !tape->leaves[i].dragged)
			count += (int64_t)(tape->leaves[i].value.numel * (tape->leaves[i].parts ? tape->leaves[i].parts : 1));
	return count;
}

/* The micro-batches of a step: the rehearsal, the first and the others. */
static void trace_micros(struct est_program *program, struct est_pass *pass)
{
	struct est_tape *tape = pass->tape;

	est_program_begin(program, tape, EST_PART_REHEARSAL);
	rehearse(program, pass);
	est_program_end(program, tape, EST_PART_REHEARSAL);
	est_program_begin(program, tape, EST_PART_MICRO_FIRST);
	program->accumulation_steps = trace_first(pass);
	est_program_end(program, tape, EST_PART_MICRO_FIRST);
	est_program_begin(program, tape, EST_PART_MICRO_NEXT);
	if (pass->request->gradient_accumulation_steps > 1)
		trace_micro(pass, true);
	est_program_end(program, tape, EST_PART_MICRO_NEXT);
}

/* Those of a pipeline's stage, which do not come one after the other: all are the first. */
static void trace_stage(struct est_program *program, struct est_pass *pass, struct est_pipeline *pipeline)
{
	struct est_tape *tape = pass->tape;

	est_program_empty(program, tape, EST_PART_REHEARSAL);
	est_program_begin(program, tape, EST_PART_MICRO_FIRST);
	est_pipeline_step(pipeline);
	est_program_end(program, tape, EST_PART_MICRO_FIRST);
	program->accumulation_steps = 1;
	est_program_empty(program, tape, EST_PART_MICRO_NEXT);
}

/* No rank of a pipeline needs the tables of more layers than a model may have: of two stages the first traces four
 * micro-batches of half of them. */
static int64_t table_layers(const struct est_model *model, const struct est_request *request)
{
	struct est_order order;
	int64_t layers = 0;

	if (request->parallelism.pipeline <= 1)
		return est_model_table_layers(model);
	order = est_order_of(model, request);
	for (; model; model = model->next_stage)
		layers += model->num_hidden_layers;
	layers = est_order_traced_layers(&order, layers);
	return layers < EST_LAYERS_MAX ? layers : EST_LAYERS_MAX;
}

/* A pipeline rank's stages are models of their own to DDP. */
static void wrap_in_ddp(struct est_pass *pass)
{
	struct est_ddp *ddp = est_ddp_new(pass->tape, pass->request);

	for (; pass; pass = pass->next_stage) {
		pass->ddp = ddp;
		est_ddp_wrap(ddp, pass->first_leaf, pass->next_stage ? pass->next_stage->first_leaf : pass->tape->leaf_count);
	}
}

static void zero_grad(const struct est_pass *pass)
{
	for (; pass; pass = pass->next_stage)
		est_schedule_zero_grad(pass->schedule);
}

/* optimizer.step() and what is around it: the clipping before, zero_grad() after. */
static void trace_optimizer(struct est_program *program, struct est_pass *pass)
{
	struct est_tape *tape = pass->tape;
	struct est_update update;

	est_program_begin(program, tape, EST_PART_CLIP);
	if (pass->model->architecture == EST_ARCH_LITGPT)
		est_litgpt_hold_previous(pass);
	update.has_grads32 = est_zero_has_grads32(pass->zero);
	est_zero_flatten(pass->zero, tape);
	est_zero3_flatten(pass->schedule);
	est_optimizer_clip(tape, pass->request, &update);
	est_zero_flattened(pass->zero, tape);
	est_zero3_flattened(pass->schedule);
	est_program_end(program, tape, EST_PART_CLIP);
	est_program_begin(program, tape, EST_PART_STATES);
	est_optimizer_states(tape, pass->request);
	est_program_end(program, tape, EST_PART_STATES);
	est_program_begin(program, tape, EST_PART_UPDATE);
	est_optimizer_update(tape, pass->request, &update);
	est_zero_stepped(pass->zero, tape);
	est_zero3_step_rest(pass->schedule);
	zero_grad(pass);
	est_litgpt_drop_previous(pass);
	est_program_end(program, tape, EST_PART_UPDATE);
}

static void copy_list(struct est_program *program, const struct est_repeat *repeat)
{
	memcpy(program->copies, repeat->list, sizeof(program->copies));
	program->copies_count = repeat->list_count;
}

/* repeat: zeroed, or NULL to run all layers. */
static bool trace_by_tape(struct est_program *program, const struct est_model *model, const struct est_request *request,
			  enum est_sdpa_choice sdpa, const uint64_t shards[EST_CATEGORIES], struct est_arena *arena,
			  struct est_repeat *repeat)
{
	const struct est_model whole = est_framework_model(request, model), own = est_tensor_part(request, &whole);
	struct est_tape_limits limits = limits_for(table_layers(&own, request));
	struct est_tape *tape = est_arena_take(arena, 1, sizeof(*tape));
	struct est_pipeline *pipeline = NULL;
	struct est_pass pass, reference;

	memset(program, 0, sizeof(*program));
	if (!tape || !est_tape_init(tape, arena, &limits))
		return false;
	memcpy(tape->shards, shards, sizeof(tape->shards));
	tape->marks_layers = request->timeline == EST_TIMELINE_FULL;
	tape->policy = policy_of(request);
	tape->offloads = request->checkpointing == EST_CHECKPOINT_OFFLOAD;
	est_program_begin(program, tape, EST_PART_LOAD);
	est_mark(tape, EST_PHASE_LOAD);
	if (!est_pass_build(&pass, tape, &own, request))
		return false;
	if (est_objective_holds_reference(request) && !est_pass_build_reference(&reference, &pass))
		return false;
	pass.fused = reference.fused = sdpa;
	if (!est_pipeline_build(&pass))
		return false;
	pass.zero = est_zero_wrap(tape, &own, request);
	est_optimizer_load(tape, request);
	wrap_in_ddp(&pass);
	if (request->fuse_optimizer_in_backward)
		est_optimizer_fuse(tape, request);
	if (request->parallelism.pipeline > 1 && !(pipeline = est_pipeline_load(&pass)))
		return false;
	est_program_end(program, tape, EST_PART_LOAD);
	if (repeat && !pipeline)
		est_repeat_plan(repeat, &pass);
	if (pipeline)
		trace_stage(program, &pass, pipeline);
	else
		trace_micros(program, &pass);
	if (repeat && repeat->failed)
		return false;
	trace_optimizer(program, &pass);
	est_program_begin(program, tape, EST_PART_SECOND_STEP);
	est_ddp_rebuild(pass.ddp);
	est_program_end(program, tape, EST_PART_SECOND_STEP);
	program->events = tape->events;
	program->ids = tape->storage_count;
	if (repeat)
		copy_list(program, repeat);
	program->expandable = request->expandable_segments;
	program->pinned = tape->pinned + tape->host_shards;
	program->host_states = tape->host_states;
	program->managed = tape->managed;
	program->surplus = est_zero_surplus(pass.zero, tape, request) + est_gptq_surplus(&pass)
		+ est_optimizer_idle(tape, request)
			   + est_generation_surplus(request, model) + est_unsloth_surplus(&pass);
	if (own.architecture == EST_ARCH_LITGPT)
		program->leftover = est_litgpt_leftover(request, &own);
	program->trainable_parameters = count_trainable(tape);
	return !tape->exhausted && !arena->exhausted;
}

bool est_program_trace_whole(struct est_program *program, const struct est_model *model, const struct est_request *request,
			     enum est_sdpa_choice sdpa, const uint64_t shards[EST_CATEGORIES], struct est_arena *arena)
{
	if (est_megatron_wanted(request))
		return est_megatron_trace(program, model, request, arena);
	if (est_mlx_wanted(request))
		return est_mlx_trace(program, model, request, arena);
	return trace_by_tape(program, model, request, sdpa, shards, arena, NULL);
}

bool est_program_trace(struct est_program *program, const struct est_model *model, const struct est_request *request,
		       enum est_sdpa_choice sdpa, const uint64_t shards[EST_CATEGORIES], struct est_arena *arena)
{
	struct est_repeat repeat = { .copies = 0 };
	size_t mark = arena->used;
	bool exhausted = arena->exhausted, complete;

	if (est_megatron_wanted(request) || est_mlx_wanted(request))
		return est_program_trace_whole(program, model, request, sdpa, shards, arena);
	complete = trace_by_tape(program, model, request, sdpa, shards, arena, &repeat);
	if (!repeat.failed)
		return complete;
	est_arena_rewind(arena, mark);
	arena->exhausted = exhausted;
	return trace_by_tape(program, model, request, sdpa, shards, arena, NULL);
}
