#include "estimator/architecture.h"
#include "estimator/fields.h"
#include "estimator/pipeline.h"

/* Decoders that are an embedding, layers with rotary embeddings, a norm and a head, and nothing beside. */
static bool cuts(const struct est_model *model)
{
	return model->architecture != EST_ARCH_UNSUPPORTED && !est_model_is_encoder(model) && model->position == EST_ROPE
	       && model->vision.tower == EST_TOWER_NONE && model->embed_dim == 0 && !model->embedding_norm
	       && !model->caches_in_training
	       && est_architecture_row(model->architecture)->rotary && model->architecture != EST_ARCH_QWEN;
}

static bool runs_stages(enum est_framework framework)
{
	return framework == EST_TRANSFORMERS || framework == EST_TORCHTITAN;
}

/* Of many stages a rank so many passes lie on the tape that its tables, made for the largest model, may be too short. */
static void check_tables(const struct est_request *request, const struct est_model *model, struct est_faults *faults)
{
	const struct est_parallelism *p = &request->parallelism;
	const struct est_stage first = est_stage(model, p, request->gradient_accumulation_steps, 0);
	const struct est_order order = est_order_of_rank(p, request->gradient_accumulation_steps, 0);

	if (p->virtual_stages > 1 && est_order_traced_layers(&order, first.layers) > EST_LAYERS_MAX)
		est_fault_add(faults, "/parallelism/virtual_stages", EST_NOT_SUPPORTED_YET,
			      "is not modelled yet with so many ranks: there are %llu micro-batches in flight",
			      (unsigned long long)first.in_flight);
}

void est_pipeline_check(const struct est_request *request, const struct est_model *model, struct est_faults *faults)
{
	enum est_strategy strategy = request->parallelism.strategy;
	bool shards = est_is_fsdp2(strategy);
	bool adapts = est_has_adapters(request);
	const struct est_refusal rows[] = {
		{ "framework", !runs_stages(request->framework) },
		{ "parallelism.strategy", strategy == EST_ZERO1 || strategy == EST_FSDP1 },
		{ "precision", shards && est_has_master(request) },
		{ "optimizer", shards && !est_has_master(request) && !est_schedule_wanted(request) },
		{ "method", request->method == EST_FREEZE },
		{ "lora.modules_to_save", adapts && request->lora.modules_to_save.count > 0 },
		{ "quantization.type", request->method == EST_QLORA && request->quantization.type > EST_INT8 },
		{ "offload.optimizer", request->offload.optimizer != EST_ON_GPU },
		{ "offload.parameters", request->offload.parameters != EST_ON_GPU },
	};

	if (request->parallelism.pipeline == 1 || request->accounting != EST_REPLAY)
		return;
	if (!cuts(model))
		est_fault_add(faults, "/parallelism/pipeline", EST_NOT_SUPPORTED_YET,
			      "stages of this model are not modelled yet: only those of decoders with rotary embeddings are");
	est_refuse_with("a pipeline's stages", rows, sizeof(rows) / sizeof(rows[0]), request, faults);
	est_refuse_other_steps("a pipeline's stages", request, faults);
	check_tables(request, model, faults);
}
