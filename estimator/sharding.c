#include "estimator/sharding.h"

#include "estimator/megatron.h"
#include "estimator/schedule.h"
#include "estimator/zero.h"

bool est_sharding_is_static(const struct est_request *request)
{
	enum est_strategy strategy = request->parallelism.strategy;

	return !est_megatron_wanted(request) && request->parallelism.gpus > request->parallelism.tensor && strategy != EST_SINGLE && strategy != EST_DDP
	       && !est_zero_wanted(request)
	       && !est_schedule_wanted(request);
}

void est_sharding_shares(const struct est_request *request, uint64_t ret[EST_CATEGORIES])
{
	enum est_strategy strategy = request->parallelism.strategy;
	uint64_t ranks = est_shard_ranks(&request->parallelism);

	for (unsigned i = 0; i < EST_CATEGORIES; i++)
		ret[i] = 1;
	if (!est_sharding_is_static(request))
		return;
	ret[EST_OPTIMIZER] = ranks;
	if (strategy != EST_ZERO1)
		ret[EST_GRADIENTS] = ranks;
	if (strategy != EST_ZERO1 && strategy != EST_ZERO2)
		ret[EST_WEIGHTS] = ranks;
}

/* ---- what is not replayed */

/* What a bound is made of: elements of the whole model, of embedding and head, of a layer; bytes of an element as it
 * is gathered. */
struct sizes {
	uint64_t whole, vocabulary, layer, trained, ranks, element, experts;
	uint64_t ignored; /* bytes of a quantised model that are whole on every rank */
	bool accumulates;
};

/* DeepSpeed's buckets: 5e8 elements of 16 bits to reduce, a second with overlap_comm, as much again to gather and
 * concatenate. */
static const uint64_t buckets = UINT64_C(4) * 500000000 * 2;

/* The step: partitions of gradients, their flat copy (2 bytes each) and its fp32 copy (4); the partition of the last
 * micro-batch. */
static uint64_t zero_step(const struct sizes *sizes)
{
	return 10 * sizes->trained / sizes->ranks;
}

static uint64_t zero(const struct sizes *sizes)
{
	return buckets + zero_step(sizes);
}

/* Gathered: up to max_live_parameters (1e9 elements), twice while coalesced ones are copied apart; the vocabulary's
 * gradients. */
static uint64_t zero3(const struct sizes *sizes)
{
	uint64_t live = sizes->whole < 1000000000 ? sizes->whole : 1000000000;

	return buckets + zero_step(sizes) + 2 * sizes->element * live + 2 * sizes->element * sizes->vocabulary;
}

/* The root's flat parameter, its gradient and that in fp32; of layers: two gathered, the gradients, their
 * concatenation, its fp32 copy. Under no_sync() whole gradients stay. */
static uint64_t fsdp1(const struct sizes *sizes)
{
	uint64_t unreduced = sizes->accumulates ? 4 * sizes->trained : 0;

	return unreduced + (2 * sizes->element + 4) * sizes->vocabulary + (5 * sizes->element + 4) * sizes->layer;
}

/* Of the root: the all-gather's output, the parameters, both gradients of a tied embedding, a reduction's input and
 * output in fp32; of layers: two outputs, the parameters, gradients, two reductions' inputs in fp32. More ranks than
 * experts hold whole ones, with gradient and states. Scales, and weights that are packed as uint8, are not sharded. */
static uint64_t fsdp2(const struct sizes *sizes)
{
	uint64_t unreduced = sizes->accumulates ? 4 * sizes->trained : 0;
	uint64_t padding = sizes->experts && sizes->ranks > sizes->experts ? 16 * sizes->whole / sizes->experts : 0;

	return unreduced + padding + sizes->ignored + (4 * sizes->element + 8) * sizes->vocabulary
		+ (4 * sizes->element + 8) * sizes->layer;
}

static struct sizes sizes_of(const struct est_request *request, const struct est_model *model, int64_t trained)
{
	uint64_t embedding = (uint64_t)model->vocab_size * (uint64_t)model->hidden_size;
	struct sizes sizes = { .whole = (uint64_t)est_model_count_parameters(model), .trained = (uint64_t)trained,
			       .vocabulary = model->tie_word_embeddings ? embedding : 2 * embedding,
			       .ranks = est_shard_ranks(&request->parallelism), .element = request->precision == EST_PURE_FP32 ? 4 : 2,
			       .accumulates = request->gradient_accumulation_steps > 1, .experts = (uint64_t)model->num_experts };

	if (request->method == EST_QLORA)
		sizes.ignored = sizes.whole / 16
				+ (request->quantization.quant_storage == EST_STORE_UINT8
					   ? sizes.whole * (uint64_t)request->quantization.bits / 8 : 0);
	if (sizes.whole > sizes.vocabulary)
		sizes.layer = (sizes.whole - sizes.vocabulary) / (uint64_t)model->num_hidden_layers;
	return sizes;
}

uint64_t est_sharding_unmodelled(const struct est_request *request, const struct est_model *model, int64_t trained)
{
	static uint64_t (*const bounds[])(const struct sizes *) = {
		[EST_ZERO1] = zero, [EST_ZERO2] = zero, [EST_ZERO3] = zero3, [EST_FSDP1] = fsdp1, [EST_FSDP] = fsdp2,
		[EST_HSDP] = fsdp2,
	};
	struct sizes sizes = sizes_of(request, model, trained);

	return est_sharding_is_static(request) ? bounds[request->parallelism.strategy](&sizes) : 0;
}

uint64_t est_sharding_unpooled(const struct est_request *request, const struct est_model *model)
{
	struct sizes sizes = sizes_of(request, model, 0);

	if (request->parallelism.strategy != EST_FSDP1 || !est_schedule_wanted(request))
		return 0;
	if (request->method == EST_FULL)
		return 2 * sizes.element * (sizes.vocabulary + sizes.layer);
	return request->parallelism.wrap == EST_WRAP_PEFT ? 0 : 2 * sizes.element * sizes.layer;
}
