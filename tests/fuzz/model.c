/* A model's config.json, as it comes, to a shape. What is accepted is estimated in its plainest run, where that is
 * quick. */
#include "tests/fuzz/fuzz.h"
#include "estimator/fields.h"

enum { LAYERS_MAX = 8, LENGTH = 64 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct cfg_request request;
	json_t *model = fuzz_parse(data, size), *body;

	if (!model)
		return 0;
	body = json_pack("{s:o, s:i, s:s}", "model", model, "sequence_length", LENGTH, "gpus", "rtx-4090");
	fuzz_require(body != NULL, "memory is short");
	if (fuzz_read(body, &request)) {
		fuzz_require(request.model.parameters > 0, "a model has parameters");
		if (est_model_all_layers(&request.model) <= LAYERS_MAX)
			fuzz_estimate(&request);
	}
	json_decref(body);
	return 0;
}
