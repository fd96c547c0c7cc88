#include "estimator/thumb.h"

#include <math.h>

static const double overhead_share = 0.08, kept_by_checkpointing = 0.15, activation_bytes = 34;

/* Bytes per trained parameter. */
static const struct {
	double weights, gradients, master;
} precisions[] = {
	[EST_BF16_MASTER] = { 2, 2, 4 },
	[EST_FP16_MASTER] = { 2, 2, 4 },
	[EST_BF16_MIXED] = { 4, 4, 0 },
	[EST_FP16_MIXED] = { 4, 4, 0 },
	[EST_PURE_BF16] = { 2, 2, 0 },
	[EST_PURE_FP16] = { 2, 2, 0 },
	[EST_BF16_AUTOCAST] = { 2, 2, 0 },
	[EST_PURE_FP32] = { 4, 4, 0 },
};

/* Bytes of state per trained parameter beside the master copy. Of low rank: AdamW's moments of a projection to rank
 * out of hidden_size directions. */
static const struct {
	double states;
	enum { WHOLE, OF_RANK, OF_RANK_1 } width;
} optimizers[] = {
	[EST_ADAMW_TORCH_FUSED] = { 8, WHOLE },
	[EST_ADAMW_TORCH] = { 8, WHOLE },
	[EST_ADAMW_8BIT] = { 2, WHOLE },
	[EST_ADAMW_4BIT] = { 1, WHOLE },
	[EST_ADAMW_FP8] = { 2, WHOLE },
	[EST_PAGED_ADAMW_32BIT] = { 8, WHOLE },
	[EST_PAGED_ADAMW_8BIT] = { 2, WHOLE },
	[EST_ADAFACTOR] = { 0, WHOLE },
	[EST_LION] = { 4, WHOLE },
	[EST_LION_8BIT] = { 1, WHOLE },
	[EST_SGD] = { 0, WHOLE },
	[EST_SGD_MOMENTUM] = { 4, WHOLE },
	[EST_MUON] = { 4, WHOLE },
	[EST_GALORE_ADAMW] = { 8, OF_RANK },
	[EST_APOLLO_ADAMW] = { 8, OF_RANK },
	[EST_APOLLO_ADAMW_MINI] = { 8, OF_RANK_1 },
	[EST_ADAMW_8BIT_TORCHAO] = { 2, WHOLE },
};

/* What a strategy divides among the GPUs. */
static const struct {
	bool weights, gradients, optimizer;
} shards[] = {
	[EST_SINGLE] = { false, false, false },
	[EST_DDP] = { false, false, false },
	[EST_ZERO1] = { false, false, true },
	[EST_ZERO2] = { false, true, true },
	[EST_ZERO3] = { true, true, true },
	[EST_FSDP] = { true, true, true },
	[EST_FSDP1] = { true, true, true },
	[EST_HSDP] = { true, true, true },
};

static double states_of(const struct est_request *request, const struct est_model *model)
{
	double rank = optimizers[request->optimizer].width == OF_RANK ? (double)request->optimizer_rank : 1;

	if (optimizers[request->optimizer].width == WHOLE)
		return optimizers[request->optimizer].states;
	return optimizers[request->optimizer].states * fmin(1, rank / (double)model->hidden_size);
}

static double frozen_of(const struct est_request *request)
{
	if (request->method == EST_QLORA)
		return request->quantization.bits == 4 ? 0.55 : 1.05;
	if (request->method == EST_LORA)
		return request->base_dtype == EST_FP32 ? 4 : 2;
	return precisions[request->precision].weights;
}

static uint64_t whole(double bytes)
{
	return bytes < 0x1p60 ? (uint64_t)(bytes + 0.5) : UINT64_C(1) << 60;
}

static void finish(struct est_rows *rows)
{
	double sum = (double)rows->weights + (double)rows->gradients + (double)rows->optimizer
		+ (double)rows->activations;

	rows->buffers = 0;
	rows->overhead = whole(overhead_share * sum);
	rows->total = rows->weights + rows->gradients + rows->optimizer + rows->activations + rows->overhead;
}

void est_thumb(const struct est_request *request, const struct est_model *model, int64_t trainable,
	       struct est_rows *ret_single_gpu, struct est_rows *ret_per_gpu)
{
	const struct est_parallelism *parallelism = &request->parallelism;
	enum est_strategy strategy = parallelism->strategy;
	bool adds = est_has_adapters(request);
	double trained = (double)trainable;
	double frozen = (double)model->parameters - (adds ? 0 : trained);
	double weights = frozen * frozen_of(request) + trained * precisions[request->precision].weights;
	double gradients = trained * precisions[request->precision].gradients;
	double optimizer = trained * (precisions[request->precision].master + states_of(request, model));
	double activations = activation_bytes * (double)request->micro_batch_size * (double)request->sequence_length
		* (double)model->hidden_size * (double)model->num_hidden_layers
		* (request->checkpointing == EST_CHECKPOINT_NONE ? 1 : kept_by_checkpointing);
	double ranks = strategy == EST_HSDP && parallelism->shard_size ? (double)parallelism->shard_size
								       : (double)parallelism->gpus;

	weights *= request->offload.parameters == EST_ON_GPU;
	optimizer *= request->offload.optimizer == EST_ON_GPU;
	activations *= request->offload.activations == EST_ON_GPU;
	*ret_single_gpu = (struct est_rows){
		.weights = whole(weights), .gradients = whole(gradients),
		.optimizer = whole(optimizer), .activations = whole(activations),
	};
	*ret_per_gpu = (struct est_rows){
		.weights = whole(shards[strategy].weights ? weights / ranks : weights),
		.gradients = whole(shards[strategy].gradients ? gradients / ranks : gradients),
		.optimizer = whole(shards[strategy].optimizer ? optimizer / ranks : optimizer),
		.activations = whole(activations),
	};
	finish(ret_single_gpu);
	finish(ret_per_gpu);
}
