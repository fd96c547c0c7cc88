/* A body, as it comes, to a checked request. Reading it twice gives the same; what is accepted is estimated where
 * that is quick. */
#include "tests/fuzz/fuzz.h"
#include "estimator/fields.h"

enum { LAYERS_MAX = 8 };

static bool is_same(const struct cfg_request *a, const struct cfg_request *b)
{
	for (size_t i = 0; i < est_request_field_count; i++) {
		const struct est_field *field = &est_request_fields[i];

		if (est_field_get(field, &a->request) != est_field_get(field, &b->request))
			return false;
	}
	return a->card_count == b->card_count && a->model.parameters == b->model.parameters
		&& a->notes.count == b->notes.count;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct cfg_request request, again;
	json_t *body = fuzz_parse(data, size);

	if (body && fuzz_read(body, &request)) {
		fuzz_require(fuzz_read(body, &again) && is_same(&request, &again), "the same body is read as the same request");
		if (est_model_all_layers(&request.model) <= LAYERS_MAX)
			fuzz_estimate(&request);
	}
	json_decref(body);
	return 0;
}
