#include "estimator/compile.h"

#include <stddef.h>

static bool calls_flash_package(const struct est_request *request)
{
	return request->attention == EST_FLASH_ATTENTION_2 || request->attention == EST_FLASH_ATTENTION_3;
}

/* torchtitan and its kin compile each layer with its checkpoint. */
bool est_compile_falls_back(const struct est_request *request)
{
	bool checkpointed = request->checkpointing == EST_CHECKPOINT_FULL || request->checkpointing == EST_CHECKPOINT_OFFLOAD;

	return request->torch_compile && request->framework == EST_TORCHTITAN && checkpointed && calls_flash_package(request);
}

const char *est_compile_refuses(const struct est_request *request, const struct est_model *model)
{
	if (!request->torch_compile || (est_compile_falls_back(request) && !est_model_mixes(model)))
		return NULL;
	return "is modelled with framework torchtitan, the flash attention package and full checkpoints only";
}
