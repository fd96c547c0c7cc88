/* The estimator on valid requests, drawn by the bytes: what is true of every answer (tests/rules.h). */
#include "config/limits.h"
#include "tests/drawn.h"
#include "tests/fuzz/fuzz.h"
#include "tests/rules.h"

enum { LIMITS_LAYERS_MAX = 2, LIMITS_EVERY = 4 };

static const char *broken_rule(struct draws *draws, const struct cfg_request *request)
{
	static const double factors[] = { 1.25, 1.5, 2, 3, 4, 64, 1e4, 1e9 };
	static struct est_report report;
	static struct cfg_trial trial;
	struct est_arena *arena = fuzz_arena();
	double factor = factors[draw(draws, sizeof(factors) / sizeof(factors[0]))];
	bool limits = est_model_all_layers(&request->model) <= LIMITS_LAYERS_MAX && !draw(draws, LIMITS_EVERY);
	const char *rule;

	if (!est_run(&request->request, &request->model, request->cards, request->card_count, arena, &report))
		return "the arena is large enough";
	rule = rule_of_report(&request->request, &report);
	rule = rule ? rule : rule_of_events(request, arena);
	rule = rule ? rule : rule_of_more(request, &report, factor, arena);
	if (rule || !limits)
		return rule;
	if (!cfg_limits(request, arena, &trial, &report))
		return "the arena is large enough for limits";
	return rule_of_limits(request, &report, arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct cfg_request request;
	struct draws draws = { .bytes = data, .left = size };
	const char *rule;

	if (!size || !draw_request(&draws, fuzz_catalog(), true, &request))
		return 0;
	fuzz_tell(&request);
	rule = broken_rule(&draws, &request);
	if (rule)
		rule_print(&request);
	fuzz_require(!rule, "%s", rule);
	return 0;
}
