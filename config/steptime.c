#include "config/steptime.h"
#include <math.h>
#include <string.h>

/* clang-format off */
/* Dense 16-bit operations of the matrix units with 32-bit sums, 10^12 a second: data sheets of NVIDIA and AMD. */
static const struct { const char *gpu; double tera; } tensor_cores[] = {
	{ "a100-", 312 }, { "a800-", 312 }, { "a10g", 70 }, { "a10", 125 }, { "a30", 165 }, { "a40", 150 },
	{ "b100-", 1800 }, { "b200-", 2250 },
	{ "b300-", 2250 }, { "gb200-", 2500 }, { "gb300-", 2500 }, { "gh200-", 989 }, { "h100-nvl", 835 },
	{ "h100-pcie", 756 },
	{ "h100-sxm5", 989 }, { "h20-", 148 }, { "h200-nvl", 835 }, { "h200-sxm", 989 }, { "h800-", 989 },
	{ "l20", 120 }, { "l4", 121 }, { "l40s", 362 },
	{ "l40", 181 }, { "mi210-", 181 }, { "mi250x-", 191 }, { "mi300x-", 1307 }, { "mi325x-", 1307 },
	{ "mi350x-", 2300 }, { "mi355x-", 2500 },
	{ "rtx-3090", 71 }, { "rtx-4090", 165 }, { "rtx-5090", 209 }, { "rtx-a6000", 155 }, { "rtx-6000-ada", 182 },
	{ "t4", 65 }, { "v100-", 125 },
};
/* clang-format on */

/* The figures that docs/plans.md and cfg_step_assumptions[] state. */
static const double share_of_peak = 0.5, share_of_link = 0.8, operations_a_byte = 200;
static const double pcie = 20e9, network_fast = 50e9, network_slow = 12.5e9, host_memory = 200e9;
static const double fast_link = 300e9; /* both ways; with such links a node has a network card for each GPU */

const char *const cfg_step_assumptions[] = {
	"relative_step_time is 1 for full fine-tuning of the same tokens on the same cards with nothing recomputed, moved or waited for",
	"products run at half of the data sheet's dense 16-bit rate, or of 200 operations for each byte of memory bandwidth where the table "
	"has none",
	"cards of a node talk at 0.8 of their link's one-way rate, or at 20 GB/s over PCIe; nodes at 50 GB/s a GPU where the links have 300 GB/s "
	"or more, else at 12.5 GB/s a node",
	"communication of DDP, FSDP and ZeRO-3 runs beside the compute, that of ZeRO-1 and 2 after it",
	"what is offloaded crosses PCIe at 20 GB/s; the optimizer on the host waits for 200 GB/s of memory that a node's GPUs share",
	"tensor, pipeline and context ranks share the compute evenly; what they say to each other is not counted",
	"the host's memory is not judged: host, in the estimate of a plan's request, tells what it has to hold",
	NULL
};

/* The longest prefix: l40s before l4. */
static double tensor_rate(const char *gpu)
{
	size_t longest = 0;
	double rate = 0;

	for (size_t i = 0; i < sizeof(tensor_cores) / sizeof(tensor_cores[0]); i++) {
		size_t length = strlen(tensor_cores[i].gpu);

		if (length <= longest || strncmp(gpu, tensor_cores[i].gpu, length))
			continue;
		longest = length;
		rate = tensor_cores[i].tera * 1e12;
	}
	return rate;
}

void cfg_speed_init(struct cfg_speed *speed, const char *gpu, const json_t *row)
{
	double memory = 1e9 * json_number_value(json_object_get(row, "bandwidth_gb_s"));
	double link = 1e9 * json_number_value(json_object_get(json_object_get(row, "interconnect"), "gb_s"));
	double slices = json_number_value(json_object_get(row, "compute_slices")); /* of seven, where a card is cut */
	double rate = tensor_rate(row ? gpu : "h100-sxm5");

	speed->memory = memory > 0 ? memory : row ? 400e9 : 3350e9;
	speed->operations = rate > 0 ? rate * (slices > 0 ? slices / 7 : 1) : operations_a_byte * speed->memory;
	speed->link = link;
}

/* ---- the request */

/* Parameters whose products a token runs: of the experts those that are chosen, of the vocabulary the head alone. */
static double active_parameters(const struct est_model *model)
{
	double all = (double)est_model_count_parameters(model), idle = 0;
	double expert = 3 * (double)est_model_expert_width(model) * (double)model->moe_intermediate_size;

	for (int64_t layer = 0; layer < model->num_hidden_layers && model->num_experts > 0; layer++)
		if (est_model_layer_is_sparse(model, layer))
			idle += expert * (double)(model->num_experts - model->num_experts_per_tok);
	if (!model->tie_word_embeddings)
		idle += (double)model->vocab_size * (double)model->hidden_size;
	return all - idle > all / 1000 ? all - idle : all;
}

static double recomputed_share(const struct est_request *request)
{
	static const double selective[] = { [EST_SELECTIVE_OP] = 0.5, [EST_SELECTIVE_ATTENTION] = 0.2,
					    [EST_SELECTIVE_ALL_MATMUL] = 0.1 };

	if (request->checkpointing == EST_CHECKPOINT_NONE)
		return 0;
	return request->checkpointing == EST_CHECKPOINT_SELECTIVE ? selective[request->selective] : 1;
}

void cfg_step_init(struct cfg_step *step, const struct est_request *request, const struct est_model *model,
		   const struct est_floor *floor)
{
	bool adapts = request->method == EST_LORA || request->method == EST_QLORA;

	*step = (struct cfg_step){ .active = active_parameters(model), .layers = (double)model->num_hidden_layers,
				   .width = (double)(model->num_attention_heads * model->head_dim),
				   .recomputed = recomputed_share(request), .all = (double)est_model_count_parameters(model),
				   .trained = (double)floor->trained,
				   .element = request->precision == EST_PURE_FP32 ? 4 : 2 };
	/* frozen weights take no gradient: half of a backward's products */
	step->backward = adapts ? 1 : 1 + step->trained / step->all;
	if (request->method == EST_QLORA)
		step->dequantised = step->active * ((double)request->quantization.bits / 8 + 4);
	step->stepped = 2 * floor->states + floor->gradients + 4 * step->trained;
	if (request->checkpointing == EST_CHECKPOINT_OFFLOAD)
		step->checkpoint = 2 * step->layers * (double)model->hidden_size;
}

/* ---- its parts, in seconds of a micro-batch */

static double forward(const struct cfg_step *step, double tokens, double length, const struct cfg_speed *speed)
{
	double products = 2 * step->active * tokens, scores = 2 * step->layers * step->width * tokens * length; /* causal: half of 4 */

	return (products + scores) / (share_of_peak * speed->operations);
}

static double group_link(const struct est_parallelism *p, const struct cfg_speed *speed, double ranks)
{
	double inside = speed->link > 0 ? speed->link / 2 * share_of_link : pcie;
	double node = (double)p->gpus_per_node;
	double outside = speed->link >= fast_link ? network_fast : network_slow / node;

	return ranks <= node || inside < outside ? inside : outside;
}

/* Ranks that share the model, or the sequence. */
static double model_ranks(const struct est_parallelism *p)
{
	return (double)(p->tensor * p->pipeline);
}

/* Gathered weights and reduced gradients, of one micro-batch; the step's own parts are shared by its micro-batches. */
static double communication(const struct cfg_step *step, const struct est_request *request,
			    const struct cfg_speed *speed)
{
	const struct est_parallelism *p = &request->parallelism;
	double ranks = (double)est_shard_ranks(p), replicas = (double)p->gpus / ranks,
		micro = (double)request->gradient_accumulation_steps;
	double weights = step->element * step->all / model_ranks(p),
		gradients = step->element * step->trained / model_ranks(p), bytes;

	if (request->method == EST_QLORA)
		weights *= (double)request->quantization.bits / 16;
	if (p->gpus <= 1 || p->strategy == EST_SINGLE)
		return 0;
	if (p->strategy >= EST_ZERO3)
		bytes = (p->reshard_after_forward || p->strategy == EST_ZERO3 ? 2 : 1) * weights
			+ gradients / (p->sync_each_microbatch || p->strategy == EST_ZERO3 ? 1 : micro);
	else
		bytes = 2 * gradients / micro;
	bytes *= (ranks - 1) / ranks;
	if (p->strategy == EST_HSDP && replicas > 1)
		bytes += 2 * gradients / ranks / micro;
	return bytes / group_link(p, speed, p->strategy == EST_HSDP && replicas <= 1 ? ranks : (double)p->gpus);
}

/* The optimizer's pass over its states, on the card or on the host. */
static double optimizer_step(const struct cfg_step *step, const struct est_request *request,
			     const struct cfg_speed *speed)
{
	const struct est_parallelism *p = &request->parallelism;
	double shards = model_ranks(p) * (p->gpus > 1 && p->strategy >= EST_ZERO1 ? (double)est_shard_ranks(p) : 1);
	double node = (double)(p->gpus < p->gpus_per_node ? p->gpus : p->gpus_per_node);
	double seconds = step->stepped / shards / speed->memory;

	if (request->offload.optimizer != EST_ON_GPU)
		seconds = step->stepped / shards / (host_memory / node) + 2 * step->element * step->trained / shards / pcie;
	return seconds / (double)request->gradient_accumulation_steps;
}

double cfg_step_time(const struct cfg_step *step, const struct est_request *request, const struct cfg_speed *speed)
{
	const struct est_parallelism *p = &request->parallelism;
	double length = (double)request->sequence_length, tokens = length * (double)request->micro_batch_size;
	double once = forward(step, tokens, length, speed) / model_ranks(p) / (double)p->context;
	double moved = step->checkpoint * tokens * 2 / pcie / model_ranks(p) / (double)p->context;
	double compute = once * (1 + step->backward + step->recomputed)
			 + step->dequantised * (1 + step->backward + step->recomputed) / speed->memory / model_ranks(p);
	double talk = communication(step, request, speed), beside = fmax(compute, moved);

	if (request->offload.parameters != EST_ON_GPU)
		talk += 3 * step->element * step->all / model_ranks(p) / (double)est_shard_ranks(p) / pcie;
	if (p->strategy == EST_ZERO1 || p->strategy == EST_ZERO2)
		beside += talk;
	else
		beside = fmax(beside, talk);
	return (beside + optimizer_step(step, request, speed)) / (3 * once);
}
