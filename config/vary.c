#include "config/vary.h"
#include <math.h>
#include "config/read.h"

/* The defaults of before may follow from what is changed now. */
static void forget_defaults(struct est_request *request)
{
	for (size_t i = 0; i < est_request_field_count; i++) {
		const struct est_field *field = &est_request_fields[i];

		if (!est_field_is_named(field, request))
			est_field_set(field, request, field->fallback);
	}
}

bool cfg_vary(const struct cfg_request *base, const struct cfg_change *changes, size_t count, struct est_request *ret)
{
	struct est_faults faults;
	struct cfg_reasons reasons;

	*ret = base->request;
	forget_defaults(ret);
	for (size_t i = 0; i < count; i++) {
		const struct est_field *field = est_field_find(changes[i].name);

		if (isnan(changes[i].value)) {
			est_request_forget(ret, field);
			continue;
		}
		est_field_set(field, ret, changes[i].value);
		est_request_name(ret, field);
	}
	ret->timeline = EST_TIMELINE_PHASES; /* of what is asked, not of what is tried */
	cfg_defaults_apply(ret, &base->model, &reasons);
	faults.count = 0;
	return est_check(ret, &base->model, &faults);
}
