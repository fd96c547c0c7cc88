#include "server/judge.h"
#include <stdio.h>
#include "config/advice.h"
#include "estimator/verdict.h"
#include "server/advice.h"

static double gib(uint64_t bytes)
{
	return (double)bytes / (1024.0 * 1024 * 1024);
}

bool srv_judge_held(const struct est_fit *fit)
{
	return fit->verdict == EST_FITS || fit->verdict == EST_TIGHT;
}

/* ---- sentences */

/* Of a card of which only the memory is known there is no name. */
static const char *name_of(const struct cfg_request *request, const struct est_gpu *gpu)
{
	bool is_size = gpu >= request->sizes && gpu < request->sizes + CFG_SIZES_MAX;

	return is_size ? "the GPU" : gpu->id;
}

static void write_need(const struct cfg_request *request, uint64_t bytes, char *ret, size_t size)
{
	long long gpus = (long long)request->request.parallelism.gpus;

	if (gpus > 1)
		snprintf(ret, size, "needs %.1f GiB on each of %lld GPUs", gib(bytes), gpus);
	else
		snprintf(ret, size, "needs %.1f GiB a GPU", gib(bytes));
}

void srv_judge_reason(const struct cfg_request *request, const struct est_fit *fit, char ret[SRV_SENTENCE_MAX])
{
	uint64_t usable = est_usable_bytes(fit->gpu, request->request.headroom_fraction);
	char need[80];

	write_need(request, fit->required, need, sizeof need);
	if (fit->verdict == EST_UNSUPPORTED)
		snprintf(ret, SRV_SENTENCE_MAX, "%s cannot run it: %s", name_of(request, fit->gpu), fit->reason);
	else
		snprintf(ret, SRV_SENTENCE_MAX, "%s; %s has %.1f GiB", need, name_of(request, fit->gpu), gib(usable));
}

static void write_tight(const struct cfg_request *request, const struct est_fit *fit, char ret[SRV_SENTENCE_MAX])
{
	uint64_t usable = est_usable_bytes(fit->gpu, request->request.headroom_fraction);
	char need[80];

	write_need(request, fit->required, need, sizeof need);
	snprintf(ret, SRV_SENTENCE_MAX, "is tight: %s, %.1f GiB if memory fragments; %s has %.1f GiB", need,
		 gib(fit->required_high), name_of(request, fit->gpu), gib(usable));
}

static void write_remedy(const struct cfg_advice *advice, char ret[SRV_SENTENCE_MAX])
{
	char words[160];

	srv_change_words(advice->changes, advice->change_count, words, sizeof words);
	snprintf(ret, SRV_SENTENCE_MAX, "%s would fit: %.1f GiB, %s", words, gib(advice->required), advice->cost);
}

/* ---- the request */

static void write_faults(const struct est_faults *faults, char ret[SRV_SENTENCE_MAX])
{
	const struct est_fault *fault = &faults->item[0];
	char more[40] = "";

	if (faults->count > 1)
		snprintf(more, sizeof more, ", and %zu more", faults->count - 1);
	snprintf(ret, SRV_SENTENCE_MAX, "annotation %s: %.80s%s%.100s%s", CFG_ANNOTATION_REQUEST, fault->pointer,
		 *fault->pointer ? " " : "", fault->detail, more);
}

enum srv_progress srv_judge_read(struct srv_call *call, const struct cfg_pod *pod, const struct cfg_wish *wish,
				 const struct srv_gang *gang, struct srv_judgement *ret, json_t **ret_body)
{
	struct srv_context *context = call->context;
	struct est_faults *faults = &context->faults;
	json_t *body;

	*ret = (struct srv_judgement){ .outcome = SRV_RUN_WRONG };
	faults->count = 0;
	*ret_body = body = cfg_pod_body(pod, wish, gang->gpus, faults);
	if (body && !pod->container) {
		snprintf(ret->reason, sizeof ret->reason, "annotation %s names no container of the pod", CFG_ANNOTATION_CONTAINER);
	} else if (body && cfg_read_request(body, "", context->edition->catalog, &context->request, faults)) {
		ret->outcome = SRV_RUN_HELD;
	} else {
		if (cfg_json_is_short() || !faults->count)
			return SRV_SHORT;
		write_faults(faults, ret->reason);
	}
	return SRV_DONE;
}

enum srv_progress srv_judge_read_own(struct srv_call *call, const struct cfg_pod *pod, const struct cfg_wish *fallback,
				     const struct srv_gang *gang, struct srv_judgement *ret, json_t **ret_body)
{
	enum srv_progress progress = srv_judge_read(call, pod, &pod->wish, gang, ret, ret_body);

	if (progress != SRV_DONE || ret->outcome != SRV_RUN_HELD || call->context->request.cards_named
	    || cfg_wish_is_empty(fallback) || *pod->wish.unknown)
		return progress;
	json_decref(*ret_body);
	return srv_judge_read(call, pod, fallback, gang, ret, ret_body);
}

/* ---- the verdict */

/* The card that lacks least, or, of those that hold it, has least to spare. */
static const struct est_fit *nearest(const struct est_report *report, bool held)
{
	const struct est_fit *found = NULL;
	int64_t least = INT64_MAX;

	for (size_t i = 0; i < report->fit_count; i++) {
		const struct est_fit *fit = &report->fits[i];
		int64_t spare = (int64_t)fit->gpu->usable_bytes - (int64_t)(held ? fit->required_high : fit->required);
		int64_t distance = held ? spare : -spare;

		if (srv_judge_held(fit) != held || (found && distance >= least))
			continue;
		found = fit;
		least = distance;
	}
	return found;
}

/* A card that can run it and lacks memory says more than one that cannot run it. */
static const struct est_fit *not_holding(const struct est_report *report)
{
	for (size_t i = 0; i < report->fit_count; i++)
		if (report->fits[i].verdict == EST_DOES_NOT_FIT)
			return nearest(report, false);
	return report->fit_count ? &report->fits[0] : NULL;
}

static void judge_cards(const struct srv_context *context, struct srv_judgement *ret)
{
	const struct cfg_request *request = &context->request;
	const struct est_fit *holding = nearest(&context->report, true), *other = nearest(&context->report, false);
	size_t used;

	if (!holding) {
		ret->outcome = SRV_RUN_NOT_HELD;
		srv_judge_reason(request, not_holding(&context->report), ret->reason);
	} else if (other) {
		ret->outcome = SRV_RUN_IN_PART;
		srv_judge_reason(request, other, ret->reason);
		used = strlen(ret->reason);
		snprintf(ret->reason + used, sizeof ret->reason - used, ", but %s holds it", name_of(request, holding->gpu));
	} else if (holding->verdict == EST_TIGHT) {
		ret->outcome = SRV_RUN_TIGHT;
		write_tight(request, holding, ret->reason);
	}
}

/* Whether a card that a cluster may have holds it. */
static bool is_held_somewhere(const struct est_report *report)
{
	for (size_t i = 0; i < report->fit_count; i++)
		if (srv_judge_held(&report->fits[i]) && cfg_gpu_resource(report->fits[i].gpu->vendor))
			return true;
	return false;
}

/* Without a card it is not held where none of the catalogue holds it. What it needs is told of the first. */
static void judge_any(const struct srv_context *context, const struct cfg_pod *pod, struct srv_judgement *ret)
{
	const char *near = cfg_catalog_suggest_card(context->edition->catalog, pod->wish.unknown);
	bool held = is_held_somewhere(&context->report);
	char need[80];

	write_need(&context->request, context->report.fits[0].required, need, sizeof need);
	ret->outcome = held ? SRV_RUN_UNJUDGED : SRV_RUN_NOT_HELD;
	if (!held)
		snprintf(ret->reason, sizeof ret->reason, "%s, which no GPU has", need);
	else if (*pod->wish.unknown)
		snprintf(ret->reason, sizeof ret->reason, "%s; not judged, as %s is no GPU that is known%s%s%s", need,
			 pod->wish.unknown, near ? " (did you mean " : "", near ? near : "", near ? "?)" : "");
	else
		snprintf(ret->reason, sizeof ret->reason, "%s; no GPU is named by nodeSelector, affinity or annotation %s", need,
			 CFG_ANNOTATION_GPU);
}

/* The first change, as they are ranked, that makes a card hold it. */
static enum srv_progress advise(struct srv_context *context, struct srv_judgement *ret)
{
	const struct cfg_request *request = &context->request;

	if (request->request.accounting != EST_REPLAY)
		return SRV_DONE;
	if (!cfg_advise(request, &context->report, &context->arena, &context->trial, context->advice, &context->advice_count))
		return SRV_SHORT;
	for (size_t i = 0; i < context->advice_count && !*ret->remedy; i++)
		for (size_t j = 0; j < request->card_count && !*ret->remedy; j++)
			if (context->advice[i].makes_fit[j])
				write_remedy(&context->advice[i], ret->remedy);
	return SRV_DONE;
}

/* The pods of a gang that is known ask for all GPUs of the run; of others, for a whole part of them. */
static void compare_gpus(const struct cfg_request *request, const struct cfg_pod *pod, const struct srv_gang *gang,
			 struct srv_judgement *ret)
{
	int64_t named = request->request.parallelism.gpus;

	if (!pod->gpus || (gang->pods > 1 ? named == gang->gpus : named % pod->gpus == 0))
		return;
	snprintf(ret->note, sizeof ret->note, "the request is of %lld GPUs, the pod%s for %lld", (long long)named,
		 gang->pods > 1 ? "s ask" : " asks", (long long)(gang->pods > 1 ? gang->gpus : pod->gpus));
}

static enum srv_progress run(struct srv_call *call, const struct cfg_pod *pod, struct srv_judgement *ret)
{
	struct srv_context *context = call->context;
	const struct cfg_request *request = &context->request;

	if (srv_leave_long(call, srv_is_long_run(request)))
		return SRV_LEFT;
	if (!srv_replay(context))
		return SRV_SHORT;
	if (!request->cards_named) {
		judge_any(context, pod, ret);
		return SRV_DONE;
	}
	judge_cards(context, ret);
	if (ret->outcome != SRV_RUN_NOT_HELD)
		return SRV_DONE;
	return srv_leave_long(call, true) ? SRV_LEFT : advise(context, ret);
}

enum srv_progress srv_judge(struct srv_call *call, const struct cfg_pod *pod, const struct cfg_wish *fallback,
			    const struct srv_gang *gang, struct srv_judgement *ret)
{
	json_t *body;
	enum srv_progress progress = srv_judge_read_own(call, pod, fallback, gang, ret, &body);

	if (progress == SRV_DONE && ret->outcome == SRV_RUN_HELD) {
		compare_gpus(&call->context->request, pod, gang, ret);
		progress = run(call, pod, ret);
	}
	json_decref(body);
	return progress;
}
