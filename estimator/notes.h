/* Assumptions and warnings of a whole estimate; those of single fields are config's. */
#ifndef EST_NOTES_H
#define EST_NOTES_H

#include "estimator/gpu.h"
#include "estimator/model.h"
#include "estimator/report.h"
#include "estimator/request.h"

/* Appends to report's assumptions and warnings what a replay of model takes for granted or leaves out. model is the
 * trainer's own (est_framework_model()). */
void est_notes_of_replay(const struct est_request *request, const struct est_model *model, struct est_report *report);

/* The same for the rule of thumb, judged on count cards. It is CUDA's too, and the only figure there is for a Mac. */
void est_notes_of_thumb(const struct est_request *request, const struct est_gpu *const *gpus, size_t count,
			struct est_report *report);

#endif
