#include <string.h>
#include "tests/accuracy_phases.h"

/* The traces' words. Those of sharded runs cut the backward finer: the head's own ends the loss's. */
static const struct {
	const char *name;
	enum est_phase phase;
} words[] = {
	{ "forward", EST_PHASE_FORWARD },
	{ "layer_forward", EST_PHASE_FORWARD },
	{ "loss_forward", EST_PHASE_LOSS_FORWARD },
	{ "reference_forward", EST_PHASE_LOSS_FORWARD },
	{ "loss_backward", EST_PHASE_LOSS_BACKWARD },
	{ "backward", EST_PHASE_BACKWARD },
	{ "head_backward", EST_PHASE_LOSS_BACKWARD },
	{ "norm_backward", EST_PHASE_BACKWARD },
	{ "layer_backward", EST_PHASE_BACKWARD },
	{ "backward_end", EST_PHASE_BACKWARD },
	{ "optimizer_step", EST_PHASE_OPTIMIZER_STEP },
};

double phases_measured(const json_t *peaks, enum est_phase phase)
{
	double most = 0;

	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		double peak = json_number_value(json_object_get(peaks, words[i].name));

		if (words[i].phase == phase && peak > most)
			most = peak;
	}
	return most;
}

static uint64_t estimated(const struct est_report *report, enum est_phase phase)
{
	for (size_t i = 0; i < report->moments; i++)
		if (report->timeline[i].phase == phase)
			return report->timeline[i].allocated;
	return 0;
}

uint64_t phases_estimated(const struct est_report *report, const json_t *peaks, enum est_phase phase)
{
	uint64_t most = estimated(report, phase);

	while (++phase < EST_PHASES && phases_measured(peaks, phase) <= 0)
		if (estimated(report, phase) > most)
			most = estimated(report, phase);
	return most;
}
