#include "estimator/explain.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include "estimator/device.h"
#include "estimator/words.h"

struct explaining {
	const struct est_request *request;
	const struct est_model *model;
	const struct est_report *report;
	struct est_explanation *items;
	size_t count;
};

/* Appends words to the formula of the present component. */
static void say(struct explaining *explaining, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void say(struct explaining *explaining, const char *format, ...)
{
	char *formula = explaining->items[explaining->count - 1].formula;
	size_t used = strlen(formula);
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(formula + used, EST_FORMULA_MAX - used, format, arguments);
	va_end(arguments);
}

static void begin(struct explaining *explaining, const char *component, uint64_t bytes, const char *source)
{
	explaining->items[explaining->count++] =
		(struct est_explanation){ .component = component, .bytes = bytes, .source = source };
}

/* ---- words */

static const char *const trained_types[] = {
	[EST_BF16_MASTER] = "bf16", [EST_FP16_MASTER] = "fp16", [EST_BF16_MIXED] = "fp32", [EST_FP16_MIXED] = "fp32",
	[EST_PURE_BF16] = "bf16", [EST_PURE_FP16] = "fp16", [EST_BF16_AUTOCAST] = "bf16", [EST_PURE_FP32] = "fp32",
};

static bool has_adapters(const struct est_request *request)
{
	return request->method == EST_LORA || request->method == EST_QLORA;
}

static const char *trained_type(const struct est_request *request)
{
	if (has_adapters(request) && !est_has_master(request))
		return est_word_name(est_dtype_words, (int)request->lora.adapter_dtype);
	return trained_types[request->precision];
}

static const struct {
	const char *states, *source;
} optimizers[] = {
	[EST_ADAMW_TORCH_FUSED] = { "two moments of each trained parameter", "torch/optim/adamw.py" },
	[EST_ADAMW_TORCH] = { "two moments of each trained parameter", "torch/optim/adamw.py" },
	[EST_ADAMW_8BIT] = { "two moments of 1 byte with a scale for each block; those of small parameters in fp32",
			     "bitsandbytes/optim/optimizer.py" },
	[EST_ADAMW_4BIT] = { "two moments of half a byte with a scale for each block", "torchao/optim/subclass_4bit.py" },
	[EST_ADAMW_FP8] = { "two moments of 1 byte with a scale for each block", "torchao/optim/subclass_fp8.py" },
	[EST_PAGED_ADAMW_32BIT] = { "two fp32 moments, those of large parameters in managed memory, outside the allocator",
				    "bitsandbytes/optim/optimizer.py" },
	[EST_PAGED_ADAMW_8BIT] = { "two moments of 1 byte, those of large parameters in managed memory, outside the allocator",
				   "bitsandbytes/optim/optimizer.py" },
	[EST_ADAFACTOR] = { "a mean for each row and column of a matrix, one moment of a vector",
			    "transformers/optimization.py" },
	[EST_LION] = { "one momentum of each trained parameter", "bitsandbytes/optim/lion.py" },
	[EST_LION_8BIT] = { "one momentum of 1 byte with a scale for each block", "bitsandbytes/optim/lion.py" },
	[EST_SGD] = { "no states", "torch/optim/sgd.py" },
	[EST_SGD_MOMENTUM] = { "one momentum of each trained parameter", "torch/optim/sgd.py" },
	[EST_MUON] = { "one momentum of each matrix within the layers, two moments of every other parameter",
		       "torch/optim/_muon.py" },
	[EST_GALORE_ADAMW] = { "two moments of each projected gradient, and the projections", "galore_torch/adamw.py" },
	[EST_APOLLO_ADAMW] = { "two moments of each projected gradient", "apollo_torch/apollo.py" },
	[EST_APOLLO_ADAMW_MINI] = { "two moments of each gradient projected to rank 1", "apollo_torch/apollo.py" },
	[EST_ADAMW_8BIT_TORCHAO] = { "two moments of 1 byte with a scale for each block", "torchao/optim/subclass_8bit.py" },
};

static const char *const shares[] = {
	[EST_ZERO1] = "the optimizer's states", [EST_ZERO2] = "gradients and the optimizer's states",
	[EST_ZERO3] = "weights, gradients and the optimizer's states",
	[EST_FSDP] = "weights, gradients and the optimizer's states",
	[EST_FSDP1] = "weights, gradients and the optimizer's states",
	[EST_HSDP] = "weights, gradients and the optimizer's states",
};

/* From which strategy on a row is shared. */
static void say_shares(struct explaining *explaining, enum est_strategy least)
{
	const struct est_parallelism *parallelism = &explaining->request->parallelism;

	if (parallelism->strategy >= least)
		say(explaining, "; %s shares %s among %" PRIu64 " ranks",
		    est_word_name(est_strategy_words, (int)parallelism->strategy), shares[parallelism->strategy],
		    est_shard_ranks(parallelism));
}

static void say_ratio(struct explaining *explaining, int64_t parameters, const char *what)
{
	const struct est_explanation *item = &explaining->items[explaining->count - 1];

	if (parameters > 0)
		say(explaining, ": %.2f bytes for each of the %" PRId64 " %s on this rank",
		    (double)item->bytes / (double)parameters, parameters, what);
}

/* ---- components */

static void explain_weights(struct explaining *explaining)
{
	const struct est_request *request = explaining->request;
	const struct est_quantization *quantization = &request->quantization;

	begin(explaining, "weights", explaining->report->per_gpu.weights,
	      request->method == EST_QLORA ? "bitsandbytes/functional.py, peft/tuners/lora"
	      : "torch.nn.Parameter, each rounded up to 512 bytes");
	if (request->method == EST_QLORA)
		say(explaining, "the layers' linear weights in %" PRId64 " bits (%s) with their scales, the rest of the base in 16 or 32 bits, and %s "
		    "adapters", quantization->bits, est_word_name(est_quantization_words, (int)quantization->type),
		    trained_type(request));
	else if (has_adapters(request))
		say(explaining, "the frozen base in %s and %s adapters", est_word_name(est_dtype_words, (int)request->base_dtype),
		    trained_type(request));
	else
		say(explaining, "parameters in %s", trained_type(request));
	say_ratio(explaining, explaining->report->parameters, "parameters");
	say_shares(explaining, EST_ZERO3);
}

static void explain_gradients(struct explaining *explaining)
{
	const struct est_request *request = explaining->request;

	begin(explaining, "gradients", explaining->report->per_gpu.gradients,
	      "torch/csrc/autograd/functions/accumulate_grad.h");
	say(explaining, "the most alive at once of the gradients of what is trained, in %s, and of their sums and copies on the way to the step",
	    trained_type(request));
	if (request->fuse_optimizer_in_backward)
		say(explaining, "; each is stepped and freed as it arrives");
	say_ratio(explaining, explaining->report->trainable_parameters, "trained parameters");
	say_shares(explaining, EST_ZERO2);
}

static void explain_optimizer(struct explaining *explaining)
{
	const struct est_request *request = explaining->request;

	begin(explaining, "optimizer", explaining->report->per_gpu.optimizer, optimizers[request->optimizer].source);
	if (est_has_master(request))
		say(explaining, "an fp32 copy of each trained parameter, and ");
	say(explaining, "%s (%s), and the most that its step takes on the way", optimizers[request->optimizer].states,
	    est_word_name(est_optimizer_words, (int)request->optimizer));
	say_ratio(explaining, explaining->report->trainable_parameters, "trained parameters");
	say_shares(explaining, EST_ZERO1);
}

/* The rank that the rows are of, where ranks differ; or NULL */
static const struct est_rank *rank_of(const struct est_report *report)
{
	for (size_t i = 0; i < report->rank_count; i++)
		if (report->ranks[i].kind == report->rank_kind)
			return &report->ranks[i];
	return NULL;
}

static void explain_activations(struct explaining *explaining)
{
	const struct est_request *request = explaining->request;
	const struct est_rank *rank = rank_of(explaining->report);
	int64_t length = (int64_t)est_rank_length(request), tokens = request->micro_batch_size * length;

	begin(explaining, "activations", explaining->report->per_gpu.activations,
	      "the model's code in Transformers, operator by operator (docs/physics.md)");
	say(explaining, "what autograd keeps of %" PRId64 " layers for %" PRId64 " x %" PRId64 " tokens",
	    rank ? rank->layers : est_model_stacked_layers(explaining->model), request->micro_batch_size, length);
	if (rank)
		say(explaining, " of up to %" PRId64 " micro-batches at once", rank->micro_batches);
	if (request->checkpointing != EST_CHECKPOINT_NONE)
		say(explaining, ", checkpoints (%s) leaving out what is computed again",
		    est_word_name(est_checkpointing_words, (int)request->checkpointing));
	say(explaining, ", with temporaries, logits (loss %s) and their gradients, at the worst instant",
	    est_word_name(est_loss_words, (int)request->loss));
	if (tokens > 0)
		say(explaining, ": %.0f bytes a token", (double)explaining->report->per_gpu.activations / (double)tokens);
}

static void explain_overhead(struct explaining *explaining)
{
	const struct est_report *report = explaining->report;
	const struct est_gpu *gpu = report->peak.gpu;
	uint64_t workspace = EST_WORKSPACES * est_device_workspace(gpu);
	uint64_t context = est_device_context(gpu).expected;
	uint64_t communication = est_device_communication(gpu, &explaining->request->parallelism).expected;

	begin(explaining, "workspace", workspace, "aten/src/ATen/cuda/CublasHandlePool.cpp");
	say(explaining, "%d workspaces of cuBLAS of %" PRIu64 " bytes on %s: one for the forward's thread, one for autograd's", EST_WORKSPACES,
	    est_device_workspace(gpu), gpu->id);
	begin(explaining, "cache", report->per_gpu.overhead - workspace - context - communication,
	      "c10/cuda/CUDACachingAllocator.cpp (docs/physics.md)");
	say(explaining, "reserved beyond the most that is allocated: free blocks and remainders of segments that the caching allocator keeps");
	begin(explaining, "context", context, "measured (docs/accuracy.md)");
	say(explaining, "the driver's context and loaded kernels of the process, outside PyTorch's allocator, on %s", gpu->id);
	begin(explaining, "communication", communication, "measured (docs/accuracy.md)");
	say(explaining, "buffers of NCCL's communicators, outside PyTorch's allocator, of %" PRId64 " GPUs",
	    explaining->request->parallelism.gpus);
}

static void explain_replay(struct explaining *explaining)
{
	explain_weights(explaining);
	explain_gradients(explaining);
	explain_optimizer(explaining);
	explain_activations(explaining);
	begin(explaining, "buffers", explaining->report->per_gpu.buffers,
	      "the model's register_buffer(), the batch, buckets of sharding");
	say(explaining, "what is no parameter and no activation: token ids, labels, positions, rotary tables, masks, buckets");
	explain_overhead(explaining);
}

static void explain_thumb(struct explaining *explaining)
{
	const struct est_rows *rows = &explaining->report->per_gpu;
	const struct {
		const char *component;
		uint64_t bytes;
	} parts[] = {
		{ "weights", rows->weights }, { "gradients", rows->gradients }, { "optimizer", rows->optimizer },
		{ "activations", rows->activations }, { "buffers", rows->buffers }, { "overhead", rows->overhead },
	};

	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
		begin(explaining, parts[i].component, parts[i].bytes, "the rule of thumb (estimator/thumb.h)");
		say(explaining, "bytes per parameter, shared as the strategy shares it; 8 %% on top as overhead");
		say_ratio(explaining, explaining->report->parameters, "parameters");
	}
}

size_t est_explain(const struct est_request *request, const struct est_model *model, const struct est_report *report,
		   struct est_explanation ret[EST_EXPLANATIONS_MAX])
{
	struct explaining explaining = { .request = request, .model = model, .report = report, .items = ret };

	report->replayed ? explain_replay(&explaining) : explain_thumb(&explaining);
	return explaining.count;
}
