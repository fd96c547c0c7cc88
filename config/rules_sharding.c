/* Rules for defaults of how ranks share a run. */
#include "config/default_rules.h"

#include <stddef.h>
#include "estimator/optimizer.h"

bool cfg_runs_accelerate(const struct est_request *request)
{
	return request->framework <= EST_UNSLOTH;
}

bool cfg_runs_deepspeed(const struct est_request *request)
{
	return est_is_zero(request->parallelism.strategy)
	       && (cfg_runs_accelerate(request) || request->framework == EST_DEEPSPEED);
}

const char *cfg_strategy_of_gpus(const struct cfg_rule_input *input, double *ret)
{
	const struct est_parallelism *parallelism = &input->request->parallelism;
	bool shards = parallelism->pipeline > 1 || parallelism->context > 1 || parallelism->expert > 1;

	*ret = shards && !est_is_ulysses(input->request) ? EST_FSDP : est_optimizer_sharing(input->request->optimizer);
	if (parallelism->context > 1)
		return "context parallelism's ranks share the parameters as data-parallel ones do";
	if (parallelism->expert > 1)
		return "experts are dealt out to ranks that share the parameters";
	if (parallelism->gpus <= parallelism->tensor * parallelism->pipeline)
		return NULL;
	return *ret == EST_ZERO3 ? "more than one data-parallel rank and no strategy named"
				 : "more than one data-parallel rank, of which this optimizer cannot step ZeRO's parts";
}

const char *cfg_precision_of_deepspeed(const struct cfg_rule_input *input, double *ret)
{
	*ret = EST_BF16_MASTER;
	return cfg_runs_deepspeed(input->request)
		? "DeepSpeed's engine casts all of the model to bf16, and holds fp32 masters of what is trained" : NULL;
}

/* The contract's default stays where no trainer is named. */
const char *cfg_precision_of_fsdp(const struct cfg_rule_input *input, double *ret)
{
	const struct est_request *request = input->request;
	enum est_strategy strategy = request->parallelism.strategy;
	bool shards = est_is_fsdp2(strategy) || strategy == EST_FSDP1;

	*ret = EST_BF16_MIXED;
	return shards && cfg_runs_accelerate(request) && request->framework != EST_TRANSFORMERS && !est_has_adapters(request)
		? "under mixed precision accelerate casts what FSDP trains to fp32" : NULL;
}

const char *cfg_precision_of_pipeline(const struct cfg_rule_input *input, double *ret)
{
	const struct est_parallelism *parallelism = &input->request->parallelism;

	*ret = EST_BF16_MIXED;
	return (parallelism->pipeline > 1 || parallelism->context > 1) && !est_is_ulysses(input->request)
	       && !est_has_adapters(input->request)
		? "as torchtitan trains in a pipeline, or over parts of sequences: fp32 parameters, bf16 compute" : NULL;
}

const char *cfg_schedule_of_stages(const struct cfg_rule_input *input, double *ret)
{
	*ret = EST_INTERLEAVED_1F1B;
	return input->request->parallelism.virtual_stages > 1 ? "more than one stage a rank" : NULL;
}

const char *cfg_stages_of_schedule(const struct cfg_rule_input *input, double *ret)
{
	*ret = 2;
	return input->request->parallelism.pipeline_schedule == EST_INTERLEAVED_1F1B
		? "torchtitan gives a rank two stages where the schedule interleaves them" : NULL;
}

const char *cfg_reshard_of_pipeline(const struct cfg_rule_input *input, double *ret)
{
	*ret = false;
	return input->request->parallelism.pipeline > 1
		? "torchtitan leaves a stage's parameters gathered from micro-batch to micro-batch" : NULL;
}

/* What a precision computes in, and whether its parameters are of that type themselves. */
static const struct {
	enum est_dtype type;
	bool pure;
} computes[] = {
	[EST_BF16_MASTER] = { EST_BF16, false },
	[EST_FP16_MASTER] = { EST_FP16, false },
	[EST_BF16_MIXED] = { EST_BF16, false },
	[EST_FP16_MIXED] = { EST_FP16, false },
	[EST_PURE_BF16] = { EST_BF16, true },
	[EST_PURE_FP16] = { EST_FP16, true },
	[EST_BF16_AUTOCAST] = { EST_BF16, false },
	[EST_PURE_FP32] = { EST_FP32, true },
};

const char *cfg_dtype_of_precision(const struct cfg_rule_input *input, double *ret)
{
	enum est_precision precision = input->request->precision;

	*ret = computes[precision].pure ? EST_DTYPE_NONE : computes[precision].type;
	return "the policy that accelerate makes of the precision";
}

const char *cfg_communication_of_precision(const struct cfg_rule_input *input, double *ret)
{
	*ret = computes[input->request->precision].type;
	return "the type that the precision computes in";
}

const char *cfg_communication_of_ulysses(const struct cfg_rule_input *input, double *ret)
{
	*ret = EST_FP32;
	return est_is_ulysses(input->request) ? "DeepSpeed's seq_parallel_communication_data_type" : NULL;
}

const char *cfg_backend_of_strategy(const struct cfg_rule_input *input, double *ret)
{
	const struct est_parallelism *parallelism = &input->request->parallelism;

	*ret = EST_ULYSSES;
	return parallelism->context > 1 && est_is_zero(parallelism->strategy)
		? "DeepSpeed deals sequences out so" : NULL;
}

const char *cfg_overlap_of_zero3(const struct cfg_rule_input *input, double *ret)
{
	*ret = true;
	return input->request->parallelism.strategy == EST_ZERO3 ? "DeepSpeed overlaps by default in stage 3" : NULL;
}

/* Trainer._fsdp_qlora_plugin_updates() */
const char *cfg_wrap_of_adapters(const struct cfg_rule_input *input, double *ret)
{
	const struct est_request *request = input->request;

	*ret = EST_WRAP_PEFT;
	return request->parallelism.strategy == EST_FSDP1 && est_has_adapters(request)
		? "the Trainer sets PEFT's fsdp_auto_wrap_policy() for FSDP1" : NULL;
}

const char *cfg_wrap_of_experts(const struct cfg_rule_input *input, double *ret)
{
	*ret = EST_WRAP_ACCELERATE;
	return input->request->parallelism.expert > 1 ? "torchtitan 0.2.2: the embedding is a unit, the norm and the head another" : NULL;
}

const char *cfg_storage_of_shards(const struct cfg_rule_input *input, double *ret)
{
	const struct est_request *request = input->request;
	enum est_strategy strategy = request->parallelism.strategy;

	*ret = EST_STORE_BF16;
	return (strategy == EST_FSDP1 || strategy == EST_ZERO3) && request->method == EST_QLORA
		? "FSDP1 and ZeRO-3 cut floating point only: bnb_4bit_quant_storage has to be the layer's type" : NULL;
}
