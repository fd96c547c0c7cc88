#include "estimator/pipeline.h"

/* ---- stages */

/* Layers before stage index, where embedding and head count as one each. */
static int64_t layers_before(const struct est_model *model, int64_t stages, int64_t index)
{
	int64_t units = model->num_hidden_layers + 2, each = units / stages, left = units % stages;

	if (index == 0)
		return 0;
	return each * index + (index < left ? index : left) - 1 - (index == stages);
}

struct est_stage est_stage(const struct est_model *model, const struct est_parallelism *parallelism,
			   int64_t micro_batches, int64_t index)
{
	int64_t stages = parallelism->pipeline, first = layers_before(model, stages, index), behind = stages - index;
	struct est_stage stage = { .kind = EST_MIDDLE_STAGE, .index = index, .count = stages, .first_layer = first,
				   .layers = layers_before(model, stages, index + 1) - first,
				   .in_flight = (uint64_t)(behind < micro_batches ? behind : micro_batches) };

	if (index == 0)
		stage.kind = EST_FIRST_STAGE;
	else if (index == stages - 1)
		stage.kind = EST_LAST_STAGE;
	return stage;
}

/* A tied embedding is in the first stage and, as the head, in the last: a copy each, with a gradient each. */
struct est_model est_stage_model(const struct est_model *model, const struct est_stage *stage)
{
	struct est_model part = *model;

	part.first_layer = stage->first_layer;
	part.stages_on = stage->count - stage->index;
	part.num_hidden_layers = stage->layers;
	for (int64_t i = 0; i < stage->layers; i++)
		part.layer_kinds[i] = model->layer_kinds[stage->first_layer + i];
	part.lacks_embedding = stage->kind != EST_FIRST_STAGE;
	part.lacks_head = stage->kind != EST_LAST_STAGE;
	part.tie_word_embeddings = false;
	part.final_norm = model->final_norm && !part.lacks_head;
	if (part.lacks_embedding)
		part.embedding_multiplier = 0;
	return part;
}

struct est_model est_stage_part(const struct est_model *model, const struct est_request *request, int64_t index)
{
	struct est_stage stage;

	if (request->parallelism.pipeline <= 1)
		return *model;
	stage = est_stage(model, &request->parallelism, request->gradient_accumulation_steps, index);
	return est_stage_model(model, &stage);
}

/* A stage in the middle with the most parameters, the earliest of those: the second, unless layers differ. */
static int64_t heaviest_in_the_middle(const struct est_model *model, const struct est_request *request)
{
	const struct est_parallelism *p = &request->parallelism;
	int64_t heaviest = 1, most = 0;

	for (int64_t i = 1; i < p->pipeline - 1; i++) {
		const struct est_stage stage = est_stage(model, p, request->gradient_accumulation_steps, i);
		const struct est_model part = est_stage_model(model, &stage);
		int64_t parameters = est_model_count_parameters(&part);

		if (parameters > most) {
			most = parameters;
			heaviest = i;
		}
	}
	return heaviest;
}

unsigned est_stage_candidates(const struct est_model *model, const struct est_request *request,
			      struct est_stage ret[EST_STAGES_MAX])
{
	const struct est_parallelism *p = &request->parallelism;
	int64_t indices[EST_STAGES_MAX] = { 0, 1 }; /* of two stages the second is the last */
	unsigned count = 2;

	if (p->pipeline > 2) {
		int64_t heaviest = heaviest_in_the_middle(model, request);

		if (heaviest > 1)
			indices[count++] = heaviest;
		indices[count++] = p->pipeline - 1;
	}
	for (unsigned i = 0; i < count; i++)
		ret[i] = est_stage(model, p, request->gradient_accumulation_steps, indices[i]);
	return count;
}

uint64_t est_stage_in_flight(const struct est_model *stage, const struct est_request *request)
{
	int64_t steps = request->gradient_accumulation_steps;

	return (uint64_t)(stage->stages_on < steps ? stage->stages_on : steps);
}

/* As many as are in flight, one with gradients to accumulate into, and the last. */
uint64_t est_stage_traced(const struct est_model *stage, const struct est_request *request)
{
	uint64_t steps = (uint64_t)request->gradient_accumulation_steps, least = est_stage_in_flight(stage, request) + 2;

	return least < steps ? least : steps;
}

/* The tables of a layer have room for two micro-batches of it (step.c), and no stage needs those of more layers than
 * a model may have: of two stages the first traces four micro-batches of half of them. */
int64_t est_stage_traced_layers(const struct est_model *stage, const struct est_request *request)
{
	int64_t layers = (stage->num_hidden_layers + 1) * ((int64_t)est_stage_traced(stage, request) + 1) / 2;

	return layers < EST_LAYERS_MAX ? layers : EST_LAYERS_MAX;
}
