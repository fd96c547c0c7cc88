/* POST /k8s/mutate: fills in the GPUs of the container that trains, and leads the pod to nodes that hold its run. */
#include <stdio.h>
#include "config/patch.h"
#include "server/admission.h"

/* GPUs of one pod: its share of the run where it is known how many there are, else those of a node. */
static int64_t share_of(const struct est_parallelism *parallelism, const struct srv_gang *gang)
{
	int64_t gpus = parallelism->gpus, most = parallelism->gpus_per_node;
	int64_t pods = gang->pods > 1 ? gang->pods : (gpus + most - 1) / most;

	return (gpus + pods - 1) / pods;
}

/* ---- GPUs */

static void fill_in(const struct srv_context *context, const struct cfg_template *template, const struct cfg_pod *pod,
		    const struct srv_gang *gang, json_t *patch, char ret_note[SRV_SENTENCE_MAX])
{
	const struct cfg_request *request = &context->request;
	const char *resource = cfg_gpu_resource(request->cards_named ? request->cards[0]->vendor : EST_NVIDIA);
	int64_t gpus = share_of(&request->request.parallelism, gang);

	if (resource && cfg_patch_gpus(template, pod, resource, gpus, patch))
		snprintf(ret_note, SRV_SENTENCE_MAX, "%s: %lld was filled in", resource, (long long)gpus);
}

/* ---- nodes */

/* The labels of products that hold the run, of those that were named; new reference. */
static json_t *list_products(const struct srv_context *context)
{
	const struct est_report *report = &context->report;
	json_t *products = json_array();

	for (size_t i = 0; context->request.cards_named && i < report->fit_count; i++) {
		const struct cfg_card *card = cfg_catalog_card_of(context->edition->catalog, report->fits[i].gpu);
		const char *label;

		for (size_t at = 0; report->fits[i].verdict == EST_FITS && (label = cfg_card_label(card, &at));)
			json_array_append_new(products, json_string(label));
	}
	return products;
}

/* What the first that holds it needs, in MiB less one: the label of memory has to be greater. 0: none holds it. */
static uint64_t least_mib(const struct est_report *report)
{
	for (size_t i = 0; i < report->fit_count; i++)
		if (report->fits[i].verdict == EST_FITS && report->fits[i].gpu->vendor == EST_NVIDIA)
			return (report->fits[i].required_high - 1) >> 20;
	return 0;
}

static enum srv_progress lead(struct srv_call *call, const struct cfg_template *template, json_t *patch,
			      char ret_note[SRV_SENTENCE_MAX])
{
	struct srv_context *context = call->context;
	json_t *products;
	char mib[32];

	if (srv_leave_long(call, srv_is_long_run(&context->request)))
		return SRV_LEFT;
	if (!srv_replay(context))
		return SRV_SHORT;
	products = list_products(context);
	snprintf(mib, sizeof mib, "%llu", (unsigned long long)least_mib(&context->report));
	if (json_array_size(products)) {
		if (cfg_patch_affinity(template, "nvidia.com/gpu.product", "In", products, patch))
			snprintf(ret_note, SRV_SENTENCE_MAX, "goes to nodes with %s%s",
				 json_string_value(json_array_get(products, 0)), json_array_size(products) > 1 ? ", ..." : "");
	} else if (least_mib(&context->report)) {
		json_array_append_new(products, json_string(mib));
		if (cfg_patch_affinity(template, "nvidia.com/gpu.memory", "Gt", products, patch))
			snprintf(ret_note, SRV_SENTENCE_MAX, "goes to nodes whose GPUs have more than %s MiB", mib);
	}
	json_decref(products);
	return SRV_DONE;
}

/* ---- the route */

static bool is_complete(const struct cfg_pod *pod)
{
	return !pod->request || (pod->asks && !pod->steers);
}

/* Adds to patch what template i lacks. */
static enum srv_progress complete(struct srv_admission *admission, size_t i, json_t *patch)
{
	struct srv_call *call = admission->call;
	const struct srv_gang gang = srv_workload_gang(&admission->now, i);
	const struct cfg_pod *pod = &admission->now.pod[i];
	const struct cfg_template *template = &admission->now.template[i];
	const char *part = srv_workload_part(&admission->now, i);
	struct srv_judgement judgement;
	char led[SRV_SENTENCE_MAX] = "";
	json_t *body;
	enum srv_progress progress = srv_judge_read_own(call, pod, &admission->fallback, &gang, &judgement, &body);

	if (progress == SRV_DONE && judgement.outcome == SRV_RUN_HELD) {
		fill_in(call->context, template, pod, &gang, patch, judgement.note);
		if (pod->steers)
			progress = lead(call, template, patch, led);
	}
	srv_review_warn(&admission->answer, part, judgement.reason);
	srv_review_warn(&admission->answer, part, judgement.note);
	srv_review_warn(&admission->answer, part, led);
	json_decref(body);
	return progress;
}

/* What is made is completed; what is changed may be past changing. */
void srv_post_k8s_mutate(struct srv_call *call)
{
	enum srv_progress progress = SRV_DONE;
	struct srv_admission admission;
	json_t *body = srv_admission_begin(call, &admission), *patch;

	if (!body)
		return;
	admission.answer.patch = patch = json_array();
	if (!patch) /* reading a pod's request would forget it */
		progress = SRV_SHORT;
	for (size_t i = admission.review.old ? admission.now.count : 0; i < admission.now.count && progress == SRV_DONE; i++)
		if (!is_complete(&admission.now.pod[i]))
			progress = complete(&admission, i, patch);
	srv_admission_end(&admission, progress);
	json_decref(patch);
	json_decref(body);
}
