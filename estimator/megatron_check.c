/* What of a request Megatron refuses, or is not modelled of it. */
#include "estimator/fields.h"
#include "estimator/megatron.h"

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
		{ "objective", !est_models_language(request) },
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
