#include "estimator/framework.h"

#include "estimator/fields.h"
#include "estimator/generation.h"
#include "estimator/litgpt.h"
#include "estimator/megatron.h"
#include "estimator/objective.h"
#include "estimator/torchtune.h"

/* A trainer's model code: the model it makes, and why it does not. NULL where it runs that of Transformers. */
static const struct {
	struct est_model (*model)(const struct est_model *model);
	const char *(*refuses)(const struct est_request *request, const struct est_model *model, const char **ret_field);
} frameworks[] = {
	[EST_TORCHTUNE] = { est_torchtune_model, est_torchtune_refuses },
	[EST_LITGPT] = { est_litgpt_model, est_litgpt_refuses },
	[EST_MEGATRON] = { est_megatron_model, NULL },
	[EST_MLX] = { NULL, NULL },
};

struct est_model est_framework_model(const struct est_request *request, const struct est_model *model)
{
	if (est_is_first_qwen(&request->versions, model))
		return est_qwen_model(model);
	return frameworks[request->framework].model ? frameworks[request->framework].model(model)
						    : est_objective_model(request, model);
}

uint64_t est_framework_surplus(const struct est_request *request, const struct est_model *model)
{
	uint64_t pairs = (uint64_t)(request->micro_batch_size * request->sequence_length * model->num_experts_per_tok);

	/* over expert-parallel ranks its own are replayed */
	return request->framework == EST_TORCHTITAN && request->parallelism.expert <= 1 && model->num_experts > 0 ? 12 * pairs * (uint64_t)model->hidden_size : 0;
}

void est_framework_check(const struct est_request *request, const struct est_model *model, struct est_faults *faults)
{
	const char *name = NULL, *why = NULL;

	if (frameworks[request->framework].refuses)
		why = frameworks[request->framework].refuses(request, model, &name);
	if (why && !name)
		est_fault_add(faults, "/model", EST_NOT_SUPPORTED_YET, "%s", why);
	else if (why)
		est_field_refuse(name, request, faults, "%s", why);
}
