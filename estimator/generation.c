#include "estimator/generation.h"

#include <stddef.h>
#include <string.h>
#include "estimator/adapters.h"
#include "estimator/schedule.h"
#include "estimator/zero.h"
#include "estimator/zero3.h"

enum { OLDEST = 4048, OLDEST_QWEN = 4032, HAS_QWEN = 4037, PADS_LABELS = 4049, SCALES_EACH = 4051, PASSES_GROUPS = 4054,
       TAKES_PERMUTED = 4056, NEXT = 5000, CUTS_EMBEDDING = 5023,
       GROUPS_IN_TORCH = 2005, SUMS_APART = 16 /* of PEFT */, WINDOW_ANYWAY = 4096, EXPERTS_MAX = 8,
       LOSS_IN_FP32 = 6 /* bytes a logit more than in 16 bits */ };

static bool is_older(int64_t version, int64_t than)
{
	return version != 0 && version < than;
}

bool est_is_first_qwen(const struct est_versions *versions, const struct est_model *model)
{
	return is_older(versions->transformers, HAS_QWEN) && !strcmp(model->model_type, "qwen2")
	       && (model->architecture == EST_ARCH_LLAMA || model->architecture == EST_ARCH_QWEN);
}

bool est_is_old_transformers(const struct est_versions *versions)
{
	return is_older(versions->transformers, NEXT);
}

bool est_is_left_dense(const struct est_request *request, const struct est_model *model)
{
	enum est_quantization_type type = request->quantization.type;
	bool bitsandbytes = type == EST_NF4 || type == EST_FP4 || type == EST_INT8;

	return model->architecture == EST_ARCH_FALCON && bitsandbytes && !est_is_old_transformers(&request->versions);
}

bool est_shifts_logits(const struct est_versions *versions)
{
	return is_older(versions->transformers, PADS_LABELS);
}

bool est_shifts_uncast(const struct est_versions *versions, const struct est_model *model)
{
	return est_shifts_logits(versions)
	       && (model->architecture == EST_ARCH_GPT_BIGCODE || est_is_first_qwen(versions, model));
}

uint64_t est_generation_surplus(const struct est_request *request, const struct est_model *model)
{
	uint64_t logits = (uint64_t)(request->micro_batch_size * request->sequence_length * model->vocab_size);

	return model->architecture == EST_ARCH_GPT_BIGCODE && est_shifts_uncast(&request->versions, model)
	       ? LOSS_IN_FP32 * logits : 0;
}

bool est_leaves_embedding_whole(const struct est_versions *versions)
{
	return is_older(versions->transformers, CUTS_EMBEDDING);
}

bool est_scales_rope_last(const struct est_versions *versions)
{
	return is_older(versions->transformers, SCALES_EACH);
}

bool est_repeats_for_sdpa(const struct est_versions *versions)
{
	return is_older(versions->transformers, PASSES_GROUPS)
	       || (est_is_old_transformers(versions) && is_older(versions->torch, GROUPS_IN_TORCH));
}

bool est_copies_for_sdpa(const struct est_versions *versions)
{
	return is_older(versions->transformers, TAKES_PERMUTED);
}

bool est_keeps_dequantized(const struct est_versions *versions)
{
	return !est_is_old_transformers(versions);
}

bool est_adds_in_place(const struct est_versions *versions)
{
	return versions->peft ? versions->peft < SUMS_APART : est_is_old_transformers(versions);
}

static bool is_sharded(const struct est_parallelism *parallelism)
{
	enum est_strategy strategy = parallelism->strategy;

	return parallelism->gpus > 1 && (strategy == EST_ZERO3 || strategy == EST_FSDP1 || est_is_fsdp2(strategy));
}

/* DeepSpeed's engine casts all of it back. */
bool est_prepares_kbit(const struct est_request *request)
{
	return request->method == EST_QLORA && request->quantization.prepare_kbit && !est_zero_wanted(request)
	       && !est_zero3_wanted(request)
	       && !(request->framework == EST_TRL && is_sharded(&request->parallelism));
}

bool est_casts_vocabulary_back(const struct est_request *request)
{
	const struct est_quantization *quantization = &request->quantization;
	bool four_bits = quantization->type == EST_NF4 || quantization->type == EST_FP4;

	bool casts = est_is_old_transformers(&request->versions) || request->objective == EST_ORPO;

	return casts && request->framework == EST_TRL && est_prepares_kbit(request) && four_bits
	       && request->precision == EST_BF16_MIXED;
}

/* Models whose code of these releases is Llama's but for what the replay has anyway */
static bool knows(const struct est_model *model, int64_t transformers)
{
	static const struct {
		const char *model_type;
		enum est_architecture architecture;
		int64_t since, before;
	} known[] = {
		{ "", EST_ARCH_LLAMA, OLDEST, NEXT }, { "llama", EST_ARCH_LLAMA, OLDEST, NEXT },
		{ "mistral", EST_ARCH_LLAMA, OLDEST, NEXT }, { "qwen2", EST_ARCH_LLAMA, OLDEST, NEXT },
		{ "qwen3", EST_ARCH_QWEN3, 4051, NEXT }, { "mixtral", EST_ARCH_MIXTRAL, OLDEST, NEXT },
		{ "gpt_bigcode", EST_ARCH_GPT_BIGCODE, OLDEST, 4054 },
	};

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (!strcmp(known[i].model_type, model->model_type) && known[i].architecture == model->architecture)
			return transformers >= known[i].since && transformers < known[i].before;
	return false;
}

static bool adapts_experts(const struct est_request *request, const struct est_model *model)
{
	bool adapts = est_has_adapters(request);

	return adapts && est_adapts_parameters(model, &request->lora.target_modules);
}

/* 4.49 to 4.52 make Qwen's mask by the window of its config.json, whether a layer uses it or not; others their own */
static bool makes_masks(const struct est_request *request, const struct est_model *model)
{
	int64_t version = request->versions.transformers, window = model->sliding_window;
	bool qwen = !strncmp(model->model_type, "qwen", strlen("qwen"));

	if (qwen && version >= 4049 && version <= 4052 && (window == 0 || window > WINDOW_ANYWAY))
		window = WINDOW_ANYWAY;
	return request->attention_mask || (request->attention == EST_SDPA && window > 0 && request->sequence_length >= window);
}

static bool is_plain_qwen(const struct est_request *request)
{
	bool adapts = request->method == EST_LORA && request->lora.target_modules.all && !request->lora.dora;
	bool half = request->precision == EST_PURE_BF16 || request->precision == EST_BF16_AUTOCAST || est_zero_wanted(request);

	return (request->method == EST_FULL || adapts) && half && request->micro_batch_size == 1
	       && request->attention == EST_FLASH_ATTENTION_2;
}

/* What is hooked on layers and gradients, whichever release calls them */
static bool shares_as_ever(const struct est_request *request)
{
	enum est_strategy strategy = request->parallelism.strategy;

	return strategy == EST_DDP || (strategy == EST_FSDP1 && est_schedule_wanted(request));
}

const char *est_generation_refuses(const struct est_request *request, const struct est_model *model)
{
	const bool first_qwen = est_is_first_qwen(&request->versions, model);
	const bool plain = est_models_language(request);
	const struct {
		bool refused;
		const char *why;
	} rows[] = {
		{ request->versions.transformers < (first_qwen ? OLDEST_QWEN : OLDEST),
		  "is older than 4.48, the oldest that is modelled" },
		{ first_qwen && !is_plain_qwen(request),
		  "is modelled with Qwen's own code as finetune.py runs it only: full or lora (all-linear), in 16 bits, one sequence, "
		  "flash_attention_2" },
		{ !first_qwen && !knows(model, request->versions.transformers),
		  "is modelled with Llama, Mistral, Mixtral, Qwen2, Qwen3 (from 4.51) and GPTBigCode (to 4.53) only" },
		{ model->num_experts > EXPERTS_MAX, "is modelled with at most 8 experts only" },
		{ model->num_experts > 0 && adapts_experts(request, model),
		  "is modelled with adapters on a mixture's attention only" },
		{ model->head_dim > 256, "is modelled with heads of at most 256 only" },
		{ request->framework != EST_TRANSFORMERS && request->framework != EST_TRL
		  && !(first_qwen && request->framework == EST_DEEPSPEED && est_zero_wanted(request)),
		  "is modelled with frameworks transformers and trl only" },
		{ est_casts_vocabulary_back(request) && request->lora.modules_to_save.count > 0,
		  "is modelled without lora.modules_to_save where TRL prepares the model" },
		{ request->method == EST_QLORA && request->quantization.type == EST_HQQ,
		  "is modelled without quantization.type hqq only" },
		{ request->parallelism.gpus > 1 && !shares_as_ever(request),
		  "is modelled on one GPU, or with strategies ddp and fsdp1 as they are replayed, only" },
		{ !plain || request->task != EST_CAUSAL_LM, "is modelled with objectives sft and pretrain only" },
		{ request->loss != EST_LOSS_STANDARD || request->liger_kernel,
		  "is modelled with the standard loss and without Liger's kernels only" },
		{ request->checkpointing != EST_CHECKPOINT_FULL, /* without, its Trainer fills a cache of keys and values */
		  "is modelled with gradient_checkpointing full only" },
		{ request->attention != EST_SDPA && request->attention != EST_FLASH_ATTENTION_2,
		  "is modelled with attention sdpa and flash_attention_2 only" },
		{ model->architecture == EST_ARCH_GPT_BIGCODE && request->attention != EST_FLASH_ATTENTION_2,
		  "is modelled with attention flash_attention_2 only, of GPTBigCode" },
		{ makes_masks(request, model), "is modelled without attention masks and windows that the sequence fills only" },
	};

	if (!est_is_old_transformers(&request->versions))
		return NULL;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		if (rows[i].refused)
			return rows[i].why;
	return NULL;
}
