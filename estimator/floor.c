#include "estimator/floor.h"

#include "estimator/adapters.h"
#include "estimator/framework.h"
#include "estimator/megatron.h"
#include "estimator/mlx.h"

/* State bytes of a trained element that is stepped in e bytes: by_element * e + fixed. What lies in managed memory, is a factor of
 * rows and columns, or of low rank, counts nothing. */
static const struct { double by_element, fixed; } states[] = {
	[EST_ADAMW_TORCH_FUSED] = { 2, 0 }, [EST_ADAMW_TORCH] = { 2, 0 }, [EST_ADAMW_8BIT] = { 0, 2 }, [EST_ADAMW_4BIT] = { 0, 1 },
	[EST_ADAMW_FP8] = { 0, 2 }, [EST_LION] = { 0, 4 }, [EST_LION_8BIT] = { 0, 1 }, [EST_SGD_MOMENTUM] = { 1, 0 }, [EST_MUON] = { 1, 0 },
	[EST_ADAMW_8BIT_TORCHAO] = { 0, 2 },
};

static bool adapts(const struct est_request *request)
{
	return request->method == EST_LORA || request->method == EST_QLORA;
}

static bool is_32_bit(enum est_precision precision)
{
	return est_is_mixed(precision) || precision == EST_PURE_FP32;
}

/* Bytes of a frozen element. */
static double frozen_element(const struct est_request *request)
{
	if (request->method == EST_QLORA && request->quantization.type != EST_MXFP4)
		return (double)request->quantization.bits / 8;
	return 2;
}

/* Parameters of the model as its task has it: a classifier has no head for the vocabulary. */
static double count_parameters(const struct est_request *request, const struct est_model *model)
{
	bool classifies = request->task == EST_SEQUENCE_CLASSIFICATION || request->objective == EST_REWARD;
	int64_t head = classifies && !model->tie_word_embeddings ? model->vocab_size * model->hidden_size : 0;

	return (double)(est_model_count_parameters(model) - head);
}

static void add_parameters(struct est_floor *floor, const struct est_request *request, const struct est_model *model)
{
	/* adapters may be of 16 bits; a tower that no batch runs, and an indexer, have no gradients, and no states */
	double element = is_32_bit(request->precision) && !adapts(request) ? 4 : 2;
	double counted = (double)est_trainable_parameters(request, model), all = count_parameters(request, model);
	double trained = counted < all ? counted : all, frozen = adapts(request) ? all : all - trained;
	bool idle = model->vision.tower != EST_TOWER_NONE || model->num_cross_attention_layers > 0 || (model->index_topk && adapts(request));
	double master = est_has_master(request) && !adapts(request) ? 4 : 0, stepped = trained - (double)est_model_indexer_parameters(model);
	bool narrow = est_megatron_wanted(request) && request->optimizer_state_dtype != EST_FP32;
	double moment = narrow ? 2 : master > 0 ? master : element;
	unsigned optimizer = (unsigned)request->optimizer;

	floor->trained = (int64_t)trained;
	floor->weights = frozen * frozen_element(request) + trained * element;
	if (idle || optimizer >= sizeof(states) / sizeof(states[0]))
		return;
	stepped = stepped > 0 ? stepped : 0;
	/* MLX steps a parameter when its gradient is there */
	floor->gradients = request->fuse_optimizer_in_backward || est_mlx_wanted(request) ? 0 : stepped * element;
	floor->masters = master > 0 && !request->fuse_optimizer_in_backward ? stepped : 0;
	floor->states = stepped * (master + states[optimizer].fixed + states[optimizer].by_element * moment);
}

/* The input of each checkpoint, or of each layer where there are none. */
static void add_checkpoints(struct est_floor *floor, const struct est_request *request, const struct est_model *model)
{
	double layers = (double)model->num_hidden_layers;

	if (request->checkpointing == EST_CHECKPOINT_OFFLOAD || est_mlx_wanted(request) || request->method == EST_FREEZE || request->offload.activations != EST_ON_GPU
	    || est_model_is_encoder(model))
		return;
	if (request->checkpointing == EST_CHECKPOINT_EVERY_N)
		layers = (double)(model->num_hidden_layers / request->every_n_layers);
	floor->checkpoints = 2 * layers * (double)model->hidden_size;
}

/* Whole logits of 16 bits beside their fp32 copy, which a compiled loss does not make. */
static void add_logits(struct est_floor *floor, const struct est_request *request, const struct est_model *model)
{
	bool own_loop = request->framework == EST_UNSLOTH || request->framework > EST_DEEPSPEED;
	double element = request->torch_compile || own_loop ? 2 : request->precision == EST_PURE_FP32 ? 4 : 6;

	if (request->loss != EST_LOSS_STANDARD || request->task != EST_CAUSAL_LM || !est_models_language(request)
	    || request->framework == EST_UNSLOTH)
		return;
	floor->logits = element * (double)model->vocab_size;
}

void est_floor_init(struct est_floor *floor, const struct est_request *request, const struct est_model *model)
{
	const struct est_model own = est_framework_model(request, model);

	*floor = (struct est_floor){ 0 };
	add_parameters(floor, request, &own);
	add_checkpoints(floor, request, &own);
	add_logits(floor, request, &own);
}

uint64_t est_floor_bytes(const struct est_floor *floor, const struct est_request *request)
{
	const struct est_parallelism *p = &request->parallelism;
	enum est_strategy strategy = p->strategy;
	double ranks = p->gpus > 1 ? (double)est_shard_ranks(p) : 1, model_ranks = (double)(p->tensor * p->pipeline * (est_megatron_wanted(request) ? p->expert : 1));
	double tokens = (double)request->micro_batch_size * (double)request->sequence_length / (double)(p->context * p->tensor * p->pipeline);
	double weights = floor->weights / (strategy >= EST_ZERO3 ? ranks : 1), gradients = floor->gradients / (strategy >= EST_ZERO2 ? ranks : 1);
	double optimizer = floor->states / (strategy >= EST_ZERO1 ? ranks : 1), step, loss;
	/* DeepSpeed may drop what it has copied, and Megatron copies nothing */
	double copies = strategy <= EST_DDP && !est_megatron_wanted(request) ? 4 * floor->masters : 0;

	if (request->offload.parameters != EST_ON_GPU)
		weights = 0;
	if (request->offload.optimizer != EST_ON_GPU)
		optimizer = gradients = copies = 0;
	step = (weights + gradients + copies + optimizer) / model_ranks;
	loss = (weights + optimizer) / model_ranks + tokens * (floor->checkpoints + floor->logits);
	/* a router's correction is a buffer, and counted among the parameters as published totals do */
	return (uint64_t)((step > loss ? step : loss) * (1 - 1.0 / 1024));
}
