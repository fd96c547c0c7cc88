#include "estimator/megatron.h"

#include <string.h>
#include "estimator/adapters.h"
#include "estimator/fields.h"
#include "estimator/pipeline.h"

/* TE's workspaces for products, each for good: one, and four streams of grouped products */
enum { VOCABULARY_MULTIPLE = 128, TE_WORKSPACE = 32 << 20, GROUPED_STREAMS = 4, GPT_IDS = 4 };

bool est_megatron_wanted(const struct est_request *request)
{
	return request->framework == EST_MEGATRON;
}

struct est_model est_megatron_model(const struct est_model *model)
{
	struct est_model gpt = *model;

	gpt.cut_by_layers = true;
	return gpt;
}

/* ---- sizes */

static uint64_t round_up(uint64_t value, uint64_t multiple)
{
	return (value + multiple - 1) / multiple * multiple;
}

static void measure(struct est_megatron *run, struct est_tape *tape, const struct est_model *model, const struct est_request *request)
{
	const struct est_parallelism *p = &request->parallelism;
	uint64_t ranks = (uint64_t)p->tensor, tokens = (uint64_t)(request->micro_batch_size * request->sequence_length);

	*run = (struct est_megatron){
		.tape = tape, .model = model, .request = request, .tokens = tokens,
		.splits_sequence = p->sequence_parallel && ranks > 1,
		.hidden = (uint64_t)model->hidden_size, .heads = (uint64_t)model->num_attention_heads / ranks,
		.key_value_heads = (uint64_t)model->num_key_value_heads / ranks, .query_dim = (uint64_t)model->head_dim,
		.value_dim = (uint64_t)(model->kv_lora_rank ? model->v_head_dim : model->head_dim),
		.ffn = (uint64_t)model->intermediate_size / ranks,
		.words = round_up((uint64_t)model->vocab_size, VOCABULARY_MULTIPLE * ranks) / ranks,
		.experts = (uint64_t)(model->num_experts / p->expert),
	};
	run->rows = run->splits_sequence ? tokens / ranks : tokens;
	run->pairs = run->rows * (uint64_t)model->num_experts_per_tok;
}

/* ---- parameters */

/* Experts' matrices come by the thousand: beyond so many of a layer, several count as one. */
enum { EXPERTS_APART = 16 };

static void list(struct est_megatron_weights *weights, uint64_t numel)
{
	if (numel)
		weights->numel[weights->count++] = numel;
	weights->total += numel;
}

static void list_experts(struct est_megatron *run, int64_t layer)
{
	uint64_t numel = est_megatron_expert_numel(run, layer), apart = run->experts < EXPERTS_APART ? run->experts : EXPERTS_APART;

	for (uint64_t i = 0; i < 2 * apart && numel; i++)
		list(&run->routed, (i % 2 ? 1 : 2) * numel * run->experts / apart);
}

static bool list_weights(struct est_megatron *run)
{
	const struct est_model *model = run->model;
	size_t layers = (size_t)model->num_hidden_layers;
	uint64_t found[EST_MEGATRON_WEIGHTS];

	run->others.numel = est_arena_take(run->tape->arena, layers * EST_MEGATRON_WEIGHTS + 3, sizeof(*run->others.numel));
	run->routed.numel = est_arena_take(run->tape->arena, layers * 2 * EXPERTS_APART + 1, sizeof(*run->routed.numel));
	if (!run->others.numel || !run->routed.numel)
		return false;
	list(&run->others, model->lacks_embedding ? 0 : run->words * run->hidden);
	for (int64_t i = 0; i < (int64_t)layers; i++) {
		size_t count = est_megatron_list_layer(run, i, found);

		for (size_t k = 0; k < count; k++)
			list(&run->others, found[k]);
		list_experts(run, i);
	}
	if (!model->lacks_head)
		list(&run->others, run->hidden);
	if (!model->lacks_head && (!model->tie_word_embeddings || model->lacks_embedding))
		list(&run->others, run->words * run->hidden);
	return true;
}

/* ---- load: the modules, then the buffers that they are moved into, then the optimizer's copies */

static bool shards_states(const struct est_request *request)
{
	return request->parallelism.strategy == EST_ZERO1;
}

/* Ranks among which the states of so many parameters are shared */
static uint64_t state_ranks(const struct est_request *request, bool routed)
{
	const struct est_parallelism *p = &request->parallelism;
	uint64_t gpus = (uint64_t)(p->gpus / p->pipeline);

	if (!shards_states(request))
		return 1;
	return gpus / (uint64_t)(routed ? p->expert : p->tensor);
}

/* A tensor for good; numel 0: none */
static struct est_tensor own(const struct est_megatron *run, uint64_t numel, uint8_t element, enum est_category category)
{
	return numel ? est_persistent(run->tape, numel, element, category) : est_none;
}

static uint8_t gradient_element(const struct est_request *request)
{
	return request->parallelism.grad_accum_dtype == EST_BF16 ? EST_16BIT : EST_32BIT;
}

static bool make_modules(const struct est_megatron *run, const struct est_megatron_weights *weights, struct est_tensor **ret)
{
	*ret = est_arena_take(run->tape->arena, weights->count + 1, sizeof(**ret));
	for (size_t i = 0; i < weights->count && *ret; i++)
		(*ret)[i] = own(run, weights->numel[i], EST_16BIT, EST_WEIGHTS);
	return *ret != NULL;
}

/* A buffer of gradients; with the distributed optimizer, which gathers parameters where they are used, one of those too */
static void move_to_buffers(const struct est_megatron *run, const struct est_megatron_weights *weights, struct est_tensor *modules)
{
	if (shards_states(run->request))
		own(run, weights->total, EST_16BIT, EST_WEIGHTS);
	own(run, weights->total, gradient_element(run->request), EST_GRADIENTS);
	for (size_t i = 0; i < weights->count && shards_states(run->request); i++)
		est_drop(run->tape, modules[i]);
}

/* One tensor for each parameter of which the rank has a part: parts are cut out of the buffer one after the other */
static void make_states_of(const struct est_megatron *run, const struct est_megatron_weights *weights, uint64_t ranks, uint8_t element)
{
	uint64_t left = weights->total / ranks;

	if (run->request->offload.optimizer != EST_ON_GPU) {
		run->tape->host_states += left * element;
		return;
	}
	for (size_t i = 0; i < weights->count && left; i++) {
		uint64_t numel = weights->numel[i] < left ? weights->numel[i] : left;

		own(run, numel, element, EST_OPTIMIZER);
		left -= numel;
	}
}

static void make_states(const struct est_megatron *run, uint8_t element)
{
	make_states_of(run, &run->others, state_ranks(run->request, false), element);
	make_states_of(run, &run->routed, state_ranks(run->request, true), element);
}

static bool load_modules(const struct est_megatron *run)
{
	struct est_tensor *others, *routed;

	if (!make_modules(run, &run->others, &others) || !make_modules(run, &run->routed, &routed))
		return false;
	move_to_buffers(run, &run->others, others);
	move_to_buffers(run, &run->routed, routed);
	make_states(run, EST_32BIT);
	return true;
}

/* Weights' outputs, of all shapes that there are: autograd is given one tensor for each in the place of a gradient that went into
 * the buffer */
static void load_dummies(const struct est_megatron *run)
{
	const struct est_model *model = run->model;
	uint64_t query = run->heads * run->query_dim, expert = model->num_experts ? (uint64_t)model->moe_intermediate_size : 0;
	uint64_t mixed = model->kv_lora_rank ? 0 : query + 2 * run->key_value_heads * run->query_dim;
	uint64_t shared = expert ? (uint64_t)(model->shared_expert_intermediate_size / run->request->parallelism.tensor) : 0;
	uint64_t dense = est_model_layer_is_sparse(model, 0) ? 0 : run->ffn;
	const uint64_t outputs[] = { model->lacks_head ? 0 : run->words, mixed, query, 2 * dense, dense, 2 * shared, shared, 2 * expert,
				     expert };

	for (size_t i = 0; i < sizeof(outputs) / sizeof(outputs[0]); i++)
		own(run, outputs[i] * run->hidden, EST_16BIT, EST_BUFFERS);
}

/* Beside them what the head gathers its input into, and workspaces */
static void load_buffers(const struct est_megatron *run)
{
	if (run->splits_sequence && !run->model->lacks_head)
		own(run, run->tokens * run->hidden, EST_16BIT, EST_BUFFERS);
	load_dummies(run);
	for (unsigned i = 0; i < (run->model->num_experts ? 1 + GROUPED_STREAMS : 1); i++)
		own(run, TE_WORKSPACE, EST_BYTE, EST_WORKSPACE);
}

static bool load(struct est_megatron *run, uint64_t flights)
{
	size_t layers = (size_t)run->model->num_hidden_layers;

	if (!list_weights(run) || !load_modules(run))
		return false;
	load_buffers(run);
	run->layers = est_arena_take(run->tape->arena, flights * layers, sizeof(*run->layers));
	run->inputs = est_arena_take(run->tape->arena, flights, sizeof(*run->inputs));
	if (!run->layers || !run->inputs)
		return false;
	memset(run->layers, 0, flights * layers * sizeof(*run->layers));
	return true;
}

/* ---- a micro-batch */

static struct est_megatron_layer *flight_layers(const struct est_megatron *run, uint64_t flight)
{
	return &run->layers[flight * (uint64_t)run->model->num_hidden_layers];
}

/* VocabParallelEmbedding, transposed to [s, b, h], and cut along the sequence */
static struct est_tensor embed(const struct est_megatron *run)
{
	bool transposes = run->request->micro_batch_size > 1;
	struct est_tensor found, out;

	if (run->model->lacks_embedding) /* received */
		return est_megatron_take(run, run->rows * run->hidden);
	found = est_megatron_take(run, run->tokens * run->hidden);
	if (!transposes && !run->splits_sequence)
		return found;
	out = est_megatron_take(run, run->rows * run->hidden);
	est_drop(run->tape, found);
	return out;
}

/* Ids, labels, positions and the mask of the loss */
static struct est_tensor batch(const struct est_megatron *run)
{
	return est_hold(est_empty_as(run->tape, GPT_IDS * run->tokens, EST_INT64, EST_BUFFERS));
}

static struct est_tensor run_layers(const struct est_megatron *run, uint64_t flight)
{
	struct est_megatron_layer *layers = flight_layers(run, flight);
	struct est_tensor x = embed(run);

	for (int64_t i = 0; i < run->model->num_hidden_layers; i++)
		x = est_megatron_layer_forward(run, i, &layers[i], x);
	return x;
}

/* The gradient moves in */
static void run_layers_backward(const struct est_megatron *run, uint64_t flight, struct est_tensor grad)
{
	struct est_megatron_layer *layers = flight_layers(run, flight);

	for (int64_t i = run->model->num_hidden_layers; i-- > 0;)
		grad = est_megatron_layer_backward(run, i, &layers[i], grad);
	if (!run->model->lacks_embedding) {
		struct est_tensor whole = est_megatron_gather(run, run->hidden), table;

		table = est_hold(est_empty_as(run->tape, run->words * run->hidden, EST_16BIT, EST_GRADIENTS));
		est_drop(run->tape, whole);
		est_drop(run->tape, table); /* added to the buffer */
	}
	est_drop(run->tape, grad);
}

/* What the head and vocab_parallel_cross_entropy() keep: the stream and its norm, exp(logits) in fp32 */
struct loss {
	struct est_tensor stream, normed, softmax;
};

static void forward_loss(const struct est_megatron *run, struct est_tensor x, struct loss *loss)
{
	struct est_tensor logits;

	est_mark(run->tape, EST_PHASE_LOSS_FORWARD);
	loss->stream = x;
	loss->normed = est_megatron_take(run, run->rows * run->hidden);
	logits = est_megatron_take(run, run->tokens * run->words);
	loss->softmax = est_hold(est_empty_as(run->tape, run->tokens * run->words, EST_32BIT, EST_ACTIVATIONS));
	est_drop(run->tape, logits);
}

/* The logits' gradient in 16 bits: in place and cast, or, by the graph that inductor makes of the fused loss, out of a copy of
 * the softmax */
static struct est_tensor backward_logits(const struct est_megatron *run, struct est_tensor softmax)
{
	uint64_t numel = run->tokens * run->words;
	struct est_tensor copy = est_none, logits;

	if (run->request->loss == EST_LOSS_VOCAB_PARALLEL)
		copy = est_hold(est_empty_as(run->tape, numel, EST_32BIT, EST_ACTIVATIONS));
	logits = est_megatron_take(run, numel);
	est_drop(run->tape, copy);
	est_drop(run->tape, softmax);
	return logits;
}

/* The input's gradient is summed over the ranks */
static struct est_tensor backward_loss(const struct est_megatron *run, struct loss *loss)
{
	struct est_tensor logits, dgrad, part;

	est_mark(run->tape, EST_PHASE_LOSS_BACKWARD);
	logits = backward_logits(run, loss->softmax);
	dgrad = est_megatron_take(run, run->tokens * run->hidden);
	if (run->splits_sequence) {
		part = est_megatron_take(run, run->rows * run->hidden);
		est_drop(run->tape, dgrad);
		dgrad = part;
	}
	est_drop(run->tape, logits);
	est_drop(run->tape, loss->normed);
	part = est_megatron_take(run, run->rows * run->hidden); /* the norm's */
	est_drop(run->tape, dgrad);
	est_drop(run->tape, loss->stream);
	return part;
}

static void forward(const struct est_megatron *run, uint64_t flight)
{
	est_mark(run->tape, EST_PHASE_FORWARD);
	run->inputs[flight] = batch(run);
	if (!run->model->lacks_head)
		return;
	est_drop(run->tape, run_layers(run, flight)); /* sent, and let go of */
}

/* Of the last stage forward and backward follow each other */
static void backward(const struct est_megatron *run, uint64_t flight)
{
	struct loss loss;
	struct est_tensor grad;

	if (run->model->lacks_head) {
		grad = est_megatron_take(run, run->rows * run->hidden); /* received */
	} else {
		forward_loss(run, run_layers(run, flight), &loss);
		grad = backward_loss(run, &loss);
	}
	est_mark(run->tape, EST_PHASE_BACKWARD);
	run_layers_backward(run, flight, grad);
	est_drop(run->tape, run->inputs[flight]);
}

/* ---- the step */

static void begin(struct est_program *program, const struct est_tape *tape, enum est_part part)
{
	program->begin[part] = tape->event_count;
}

static void end(struct est_program *program, const struct est_tape *tape, enum est_part part)
{
	program->end[part] = tape->event_count;
}

static void empty(struct est_program *program, const struct est_tape *tape, enum est_part part)
{
	begin(program, tape, part);
	end(program, tape, part);
}

/* forward_backward_pipelining_without_interleaving(), as many micro-batches as differ: all of a step in the first part */
static bool trace_stage(const struct est_megatron *run, const struct est_order *order)
{
	const struct est_action *actions = est_order_actions(order, run->tape->arena);
	uint64_t flights = est_order_in_flight(order);

	for (uint64_t i = 0; actions && i < 2 * order->traced; i++)
		(actions[i].backward ? backward : forward)(run, actions[i].number % flights);
	return actions != NULL;
}

/* A stage's micro-batches do not come one after the other: all are the first part */
static bool trace_pipeline(struct est_program *program, const struct est_megatron *run, const struct est_order *order)
{
	bool complete;

	program->accumulation_steps = 1;
	begin(program, run->tape, EST_PART_MICRO_FIRST);
	complete = trace_stage(run, order);
	end(program, run->tape, EST_PART_MICRO_FIRST);
	empty(program, run->tape, EST_PART_MICRO_NEXT);
	return complete;
}

static void trace_micros(struct est_program *program, const struct est_megatron *run)
{
	bool accumulates = run->request->gradient_accumulation_steps > 1;

	program->accumulation_steps = (uint64_t)run->request->gradient_accumulation_steps;
	for (enum est_part part = EST_PART_MICRO_FIRST; part <= EST_PART_MICRO_NEXT; part++) {
		begin(program, run->tape, part);
		if (part == EST_PART_MICRO_FIRST || accumulates) {
			forward(run, 0);
			backward(run, 0);
		}
		end(program, run->tape, part);
	}
}

/* The precision-aware optimizer takes gradients as they are */
static bool copies_gradients(const struct est_request *request)
{
	return gradient_element(request) == EST_16BIT && request->optimizer_state_dtype == EST_FP32
	       && request->offload.optimizer == EST_ON_GPU;
}

/* Adam's moments, made in the first step; gradients that are not fp32 are copied for it */
static void trace_step(struct est_program *program, const struct est_megatron *run)
{
	uint64_t stepped = run->others.total / state_ranks(run->request, false) + run->routed.total / state_ranks(run->request, true);
	uint8_t moment = run->request->optimizer_state_dtype == EST_FP32 ? EST_32BIT : EST_16BIT;
	struct est_tensor copies = est_none;

	begin(program, run->tape, EST_PART_CLIP);
	est_mark(run->tape, EST_PHASE_OPTIMIZER_STEP);
	if (copies_gradients(run->request))
		copies = est_hold(est_empty_as(run->tape, stepped, EST_32BIT, EST_OPTIMIZER));
	end(program, run->tape, EST_PART_CLIP);
	begin(program, run->tape, EST_PART_STATES);
	make_states(run, moment);
	make_states(run, moment);
	end(program, run->tape, EST_PART_STATES);
	begin(program, run->tape, EST_PART_UPDATE);
	est_drop(run->tape, copies);
	end(program, run->tape, EST_PART_UPDATE);
}

/* Without a pipeline, one micro-batch after the other */
static struct est_order order_of(const struct est_model *model, const struct est_request *request)
{
	if (request->parallelism.pipeline > 1)
		return est_order_of(model, request);
	return (struct est_order){ .stages = 1, .turn = 1, .micro_batches = 1, .traced = 2 };
}

/* Of a layer a table holds its module, its states and what it keeps of each micro-batch in flight */
static struct est_tape_limits limits_for(const struct est_model *model, const struct est_order *order)
{
	uint64_t layers = (uint64_t)model->num_hidden_layers + 4, flights = est_order_in_flight(order), micros = order->traced;

	return (struct est_tape_limits){ .events = (size_t)(layers * (micros * 512 + 5 * (EST_MEGATRON_WEIGHTS + 2 * EXPERTS_APART)) + 1024), .nodes = 1, .leaves = 1, .frames = 1, .attributes = 1,
					 .storages = (uint32_t)(layers * (flights * EST_MEGATRON_KEPT + 4 * (EST_MEGATRON_WEIGHTS + 2 * EXPERTS_APART)) + 256), .frame_saves = 1 };
}

bool est_megatron_trace(struct est_program *program, const struct est_model *model, const struct est_request *request,
			struct est_arena *arena)
{
	const struct est_order order = order_of(model, request);
	struct est_tape_limits limits = limits_for(model, &order);
	struct est_tape *tape = est_arena_take(arena, 1, sizeof(*tape));
	struct est_megatron run;

	memset(program, 0, sizeof(*program));
	if (!tape || !est_tape_init(tape, arena, &limits))
		return false;
	for (unsigned i = 0; i < EST_CATEGORIES; i++)
		tape->shards[i] = 1;
	measure(&run, tape, model, request);
	begin(program, tape, EST_PART_LOAD);
	est_mark(tape, EST_PHASE_LOAD);
	if (!load(&run, est_order_in_flight(&order)))
		return false;
	end(program, tape, EST_PART_LOAD);
	empty(program, tape, EST_PART_REHEARSAL);
	if (request->parallelism.pipeline <= 1)
		trace_micros(program, &run);
	else if (!trace_pipeline(program, &run, &order))
		return false;
	trace_step(program, &run);
	program->events = tape->events;
	program->ids = tape->storage_count;
	program->expandable = request->expandable_segments;
	program->host_states = tape->host_states;
	program->surplus = run.others.total + run.routed.total; /* what published runs have beyond it: docs/accuracy.md */
	program->trainable_parameters = est_trainable_parameters(request, model);
	return !tape->exhausted && !arena->exhausted;
}

/* ---- what does not go */

static bool is_modelled(const struct est_model *model)
{
	static const enum est_architecture known[] = { EST_ARCH_LLAMA, EST_ARCH_QWEN3, EST_ARCH_MIXTRAL, EST_ARCH_QWEN2_MOE,
						       EST_ARCH_QWEN3_MOE, EST_ARCH_DEEPSEEK_V2, EST_ARCH_DEEPSEEK_V3 };

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (model->architecture == known[i])
			return model->vision.tower == EST_TOWER_NONE && model->residual_multiplier == 0
			       && model->embedding_multiplier == 0 && model->activation == EST_SILU;
	return false;
}

static bool is_flash(enum est_attention attention)
{
	return attention == EST_FLASH_ATTENTION_2 || attention == EST_FLASH_ATTENTION_3 || attention == EST_SDPA;
}

static void check_ranks(const struct est_request *request, const struct est_model *model, struct est_faults *faults)
{
	const struct est_parallelism *p = &request->parallelism;

	if (!model->kv_lora_rank && model->num_key_value_heads % p->tensor)
		est_fault_add(faults, "/parallelism/tensor", EST_NOT_SUPPORTED_YET, "must divide the model's %lld key_value heads",
			      (long long)model->num_key_value_heads);
	if (model->intermediate_size % p->tensor)
		est_fault_add(faults, "/parallelism/tensor", EST_CONTRADICTION, "must divide the model's %lld features of the MLP",
			      (long long)model->intermediate_size);
	if (p->sequence_parallel && request->sequence_length % p->tensor)
		est_fault_add(faults, "/sequence_length", EST_CONTRADICTION, "must be a multiple of tensor with sequence_parallel");
	if (model->num_experts > 0 && p->tensor > 1 && !p->sequence_parallel)
		est_fault_add(faults, "/parallelism/sequence_parallel", EST_CONTRADICTION,
			      "must be true: Megatron trains experts beside tensor parallelism with it only");
	if (p->expert > 1 && (p->gpus / p->pipeline) % p->expert)
		est_fault_add(faults, "/parallelism/expert", EST_CONTRADICTION,
			      "must divide the %lld ranks of a stage, among which experts are dealt out", (long long)(p->gpus / p->pipeline));
}

void est_megatron_check(const struct est_request *request, const struct est_model *model, struct est_faults *faults)
{
	const struct est_parallelism *p = &request->parallelism;
	const struct est_refusal rows[] = {
		{ "method", request->method != EST_FULL },
		{ "precision", !est_has_master(request) },
		{ "optimizer", request->optimizer != EST_ADAMW_TORCH_FUSED && request->optimizer != EST_ADAMW_TORCH },
		{ "gradient_checkpointing", request->checkpointing > EST_CHECKPOINT_SELECTIVE },
		{ "attention", !is_flash(request->attention) },
		{ "attention_mask", request->attention_mask },
		{ "loss", request->loss != EST_LOSS_VOCAB_PARALLEL && request->loss != EST_LOSS_STANDARD },
		{ "liger_kernel", request->liger_kernel },
		{ "torch_compile", request->torch_compile },
		{ "fuse_optimizer_in_backward", request->fuse_optimizer_in_backward },
		{ "objective", request->objective != EST_SFT && request->objective != EST_PRETRAIN },
		{ "task", request->task != EST_CAUSAL_LM },
		{ "parallelism.strategy", p->strategy > EST_ZERO1 },
		{ "parallelism.context", p->context > 1 },
		{ "parallelism.virtual_stages", p->virtual_stages > 1 },
		{ "offload.optimizer", request->offload.optimizer == EST_ON_NVME },
		{ "offload.parameters", request->offload.parameters != EST_ON_GPU },
		{ "offload.activations", request->offload.activations != EST_ON_GPU },
	};

	est_refuse_with("Megatron's own layers", rows, sizeof(rows) / sizeof(rows[0]), request, faults);
	if (model->architecture != EST_ARCH_UNSUPPORTED && !is_modelled(model))
		est_fault_add(faults, "/model", EST_NOT_SUPPORTED_YET, "Megatron's code of this architecture is not modelled yet");
	check_ranks(request, model, faults);
}
