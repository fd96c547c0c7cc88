/* What each component of the rows per GPU is made of, in words. */
#ifndef EST_EXPLAIN_H
#define EST_EXPLAIN_H

#include "estimator/model.h"
#include "estimator/report.h"
#include "estimator/request.h"

enum { EST_EXPLANATIONS_MAX = 9, EST_FORMULA_MAX = 384 };
struct est_explanation {
	const char *component;          /* as in the rows; what overhead is made of by its own name */
	char formula[EST_FORMULA_MAX];
	const char *source;             /* of the formula: a file upstream, or of this project */
	uint64_t bytes;
};

/* Explains report->per_gpu, of which the bytes add up to the total. Returns how many of ret. */
size_t est_explain(const struct est_request *request, const struct est_model *model, const struct est_report *report,
		   struct est_explanation ret[EST_EXPLANATIONS_MAX]);

#endif
