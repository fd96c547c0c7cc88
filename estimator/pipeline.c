#include "estimator/pipeline.h"

/* Layers before stage number of so many, where embedding and head count as one each, or layers alone count. */
static int64_t layers_before(const struct est_model *model, int64_t stages, int64_t number)
{
	int64_t units = model->num_hidden_layers + (model->cut_by_layers ? 0 : 2), each = units / stages, left = units % stages;

	if (model->cut_by_layers)
		return each * number + (number < left ? number : left);
	if (number == 0)
		return 0;
	return each * number + (number < left ? number : left) - 1 - (number == stages);
}

static int64_t stages_of(const struct est_parallelism *parallelism)
{
	return parallelism->pipeline * parallelism->virtual_stages;
}

static int64_t layers_of(const struct est_model *model, int64_t stages, int64_t number)
{
	return layers_before(model, stages, number + 1) - layers_before(model, stages, number);
}

static enum est_rank_kind kind_of(const struct est_parallelism *parallelism, int64_t index)
{
	if (index == 0)
		return EST_FIRST_STAGE;
	return index == parallelism->pipeline - 1 ? EST_LAST_STAGE : EST_MIDDLE_STAGE;
}

struct est_stage est_stage(const struct est_model *model, const struct est_parallelism *parallelism,
			   int64_t micro_batches, int64_t index)
{
	const struct est_order order = est_order_of_rank(parallelism, micro_batches, index);
	int64_t stages = stages_of(parallelism);
	struct est_stage stage = { .kind = kind_of(parallelism, index), .index = index, .count = parallelism->pipeline,
				   .first_layer = layers_before(model, stages, index),
				   .in_flight = est_order_in_flight(&order) };

	for (int64_t number = index; number < stages; number += parallelism->pipeline)
		stage.layers += layers_of(model, stages, number);
	return stage;
}

/* What a stage holds, as a model. A tied embedding is in the first stage and, as the head, in the last: a copy each,
 * with a gradient each. */
static struct est_model model_of(const struct est_model *model, const struct est_parallelism *parallelism, int64_t number)
{
	int64_t stages = stages_of(parallelism);
	struct est_model part = *model;

	part.first_layer = layers_before(model, stages, number);
	part.ranks_on = parallelism->pipeline - number % parallelism->pipeline;
	part.num_hidden_layers = layers_of(model, stages, number);
	for (int64_t i = 0; i < part.num_hidden_layers; i++)
		part.layer_kinds[i] = model->layer_kinds[part.first_layer + i];
	part.lacks_embedding = number > 0;
	part.lacks_head = number < stages - 1;
	part.tie_word_embeddings = false;
	part.final_norm = model->final_norm && !part.lacks_head;
	if (part.lacks_embedding)
		part.embedding_multiplier = 0;
	return part;
}

bool est_stage_part(const struct est_model *model, const struct est_request *request, int64_t index,
		    struct est_arena *arena, struct est_model *ret_part)
{
	const struct est_parallelism *p = &request->parallelism;
	struct est_model *last = ret_part, *next;

	if (p->pipeline <= 1) {
		*ret_part = *model;
		return true;
	}
	*ret_part = model_of(model, p, index);
	for (int64_t number = index + p->pipeline; number < stages_of(p); number += p->pipeline) {
		if (!(next = est_arena_take(arena, 1, sizeof(*next))))
			return false;
		*next = model_of(model, p, number);
		last->next_stage = next;
		last = next;
	}
	return true;
}

static int64_t parameters_of_rank(const struct est_model *model, const struct est_parallelism *p, int64_t index)
{
	int64_t count = 0;

	for (int64_t number = index; number < stages_of(p); number += p->pipeline) {
		const struct est_model part = model_of(model, p, number);

		count += est_model_count_parameters(&part);
	}
	return count;
}

/* A rank in the middle with the most parameters, the earliest of those: the second, unless layers differ. */
static int64_t heaviest_in_the_middle(const struct est_model *model, const struct est_parallelism *p)
{
	int64_t heaviest = 1, most = 0;

	for (int64_t i = 1; i < p->pipeline - 1; i++) {
		int64_t parameters = parameters_of_rank(model, p, i);

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
	int64_t indices[EST_STAGES_MAX] = { 0, 1 }; /* of two ranks the second is the last */
	unsigned count = 2;

	if (p->pipeline > 2) {
		int64_t heaviest = heaviest_in_the_middle(model, p);

		if (heaviest > 1)
			indices[count++] = heaviest;
		indices[count++] = p->pipeline - 1;
	}
	for (unsigned i = 0; i < count; i++)
		ret[i] = est_stage(model, p, request->gradient_accumulation_steps, indices[i]);
	return count;
}
