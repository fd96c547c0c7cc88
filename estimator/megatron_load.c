/* What a rank of Megatron's holds: parameters, the buffers that they and their gradients lie in, the optimizer's states. */
#include "estimator/megatron_run.h"

#include <string.h>

/* TE's workspaces for products, each for good: one, and four streams of grouped products */
enum { VOCABULARY_MULTIPLE = 128, TE_WORKSPACE = 32 << 20, GROUPED_STREAMS = 4 };

static uint64_t round_up(uint64_t value, uint64_t multiple)
{
	return (value + multiple - 1) / multiple * multiple;
}

static void measure(struct est_megatron *run, struct est_tape *tape, const struct est_model *model,
		    const struct est_request *request)
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

static void list(struct est_megatron_weights *weights, uint64_t numel)
{
	if (numel)
		weights->numel[weights->count++] = numel;
	weights->total += numel;
}

static void list_experts(struct est_megatron *run, int64_t layer)
{
	uint64_t numel = est_megatron_expert_numel(run, layer), most = EST_MEGATRON_EXPERTS_APART;
	uint64_t apart = run->experts < most ? run->experts : most;

	for (uint64_t i = 0; i < 2 * apart && numel; i++)
		list(&run->routed, (i % 2 ? 1 : 2) * numel * run->experts / apart);
}

static bool list_weights(struct est_megatron *run)
{
	const struct est_model *model = run->model;
	size_t layers = (size_t)model->num_hidden_layers;
	uint64_t found[EST_MEGATRON_WEIGHTS];

	run->others.numel = est_arena_take(run->tape->arena, layers * EST_MEGATRON_WEIGHTS + 3, sizeof(*run->others.numel));
	run->routed.numel = est_arena_take(run->tape->arena, layers * EST_MEGATRON_EXPERT_WEIGHTS + 1, sizeof(*run->routed.numel));
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
static struct est_tensor own(const struct est_megatron *run, uint64_t numel, uint8_t element,
			     enum est_category category)
{
	return numel ? est_persistent(run->tape, numel, element, category) : est_none;
}

uint8_t est_megatron_gradient_element(const struct est_request *request)
{
	return request->parallelism.grad_accum_dtype == EST_FP32 ? EST_32BIT : EST_16BIT;
}

static bool make_modules(const struct est_megatron *run, const struct est_megatron_weights *weights,
			 struct est_tensor **ret)
{
	*ret = est_arena_take(run->tape->arena, weights->count + 1, sizeof(**ret));
	for (size_t i = 0; i < weights->count && *ret; i++)
		(*ret)[i] = own(run, weights->numel[i], EST_16BIT, EST_WEIGHTS);
	return *ret != NULL;
}

/* A buffer of gradients; with the distributed optimizer, which gathers parameters where they are used, one of those too */
static void move_to_buffers(const struct est_megatron *run, const struct est_megatron_weights *weights,
			    struct est_tensor *modules)
{
	if (shards_states(run->request))
		own(run, weights->total, EST_16BIT, EST_WEIGHTS);
	own(run, weights->total, est_megatron_gradient_element(run->request), EST_GRADIENTS);
	for (size_t i = 0; i < weights->count && shards_states(run->request); i++)
		est_drop(run->tape, modules[i]);
}

/* One tensor for each parameter of which the rank has a part: parts are cut out of the buffer one after the other */
static void make_states_of(const struct est_megatron *run, const struct est_megatron_weights *weights, uint64_t ranks,
			   uint8_t element)
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

void est_megatron_make_states(const struct est_megatron *run, uint8_t element)
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
	est_megatron_make_states(run, EST_32BIT);
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

uint64_t est_megatron_stepped(const struct est_megatron *run)
{
	return run->others.total / state_ranks(run->request, false) + run->routed.total / state_ranks(run->request, true);
}

bool est_megatron_load(struct est_megatron *run, struct est_tape *tape, const struct est_model *model,
		       const struct est_request *request,
		       uint64_t flights)
{
	size_t layers = (size_t)model->num_hidden_layers;

	measure(run, tape, model, request);
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
