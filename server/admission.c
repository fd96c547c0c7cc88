/* POST /k8s/validate and /k8s/mutate: admission webhooks of Kubernetes. */
#include <stdio.h>
#include "config/patch.h"
#include "server/judge.h"
#include "server/review.h"

/* An API server takes no query in the URL of a webhook, so that a policy is a part of the path. */
struct policy {
	const char *word;
	bool refuses;            /* what is not held */
	bool refuses_unjudged;   /* and what cannot be judged */
};
static const struct policy policies[] = {
	{ "fail-open", true, false }, { "fail-closed", true, true }, { "warn", false, false },
};
enum { POLICIES = sizeof policies / sizeof policies[0] };

/* The API server tells how long it waits; gpus are those of the cluster, and may be added by a proxy. */
enum { TIMEOUT, GPUS, PARAMETERS };
static const struct srv_parameter parameters[PARAMETERS] = {
	[TIMEOUT] = { .name = "timeout" },
	[GPUS] = { .name = "gpus" },
};

/* An object under review. */
struct admission {
	struct srv_call *call;
	struct srv_review review;
	struct cfg_wish fallback;       /* where nothing says which GPU */
	size_t count;
	struct cfg_template template[CFG_TEMPLATES_MAX];
	struct cfg_pod pod[CFG_TEMPLATES_MAX];
	struct srv_review_answer answer;
};

/* ---- what both do */

static const struct policy *find_policy(const char *word)
{
	for (size_t i = 0; i < POLICIES; i++)
		if (!*word || !strcmp(policies[i].word, word))
			return &policies[i];
	return NULL;
}

static void read_object(struct admission *admission)
{
	const struct cfg_catalog *catalog = admission->call->context->edition->catalog;
	const json_t *object = admission->review.object;

	admission->count = object ? cfg_workload_templates(object, admission->template) : 0;
	for (size_t i = 0; i < admission->count; i++)
		cfg_pod_read(object, &admission->template[i], catalog, &admission->pod[i]);
}

/* The body of the review; new reference. NULL: it was answered why not, or is left to somebody else. */
static json_t *begin(struct srv_call *call, struct admission *admission)
{
	struct est_faults *faults = &call->context->faults;
	struct srv_value values[PARAMETERS];
	json_t *body = NULL;

	*admission = (struct admission){ .call = call };
	if (!srv_query_read(call->request->query, parameters, PARAMETERS, values, faults))
		srv_reply_faults(call->reply, faults);
	else if (!srv_leave_long(call, call->request->body_length > SRV_BODY_AT_ONCE))
		body = srv_parse_body(call);
	if (!body)
		return NULL;
	if (values[GPUS].given)
		cfg_wish_from_names(values[GPUS].text, call->context->edition->catalog, &admission->fallback);
	if (srv_review_read(body, &admission->review, faults)) {
		read_object(admission);
		return body;
	}
	srv_reply_not_kubernetes(call->reply, faults);
	json_decref(body);
	return NULL;
}

static void end(struct admission *admission, enum srv_progress progress)
{
	struct srv_reply *reply = admission->call->reply;

	if (progress == SRV_LEFT)
		return;
	srv_review_write(reply->buffer, &admission->review, &admission->answer);
	reply->content_type = "application/json";
	if (progress == SRV_SHORT || cfg_json_is_short())
		srv_reply_no_memory(reply);
}

static bool is_same_run(const struct cfg_pod *a, const struct cfg_pod *b)
{
	return a->request && b->request && !strcmp(a->request, b->request);
}

/* Templates of one request are one run together. */
static struct srv_gang gang_of(const struct admission *admission, size_t of)
{
	struct srv_gang gang = { 0, 0 };

	for (size_t i = 0; i < admission->count; i++) {
		if (!is_same_run(&admission->pod[i], &admission->pod[of]))
			continue;
		gang.pods += admission->template[i].pods;
		gang.gpus += admission->template[i].pods * admission->pod[i].gpus;
	}
	return gang;
}

/* Before what is said of one template among several. */
static const char *part_of(const struct admission *admission, size_t i)
{
	return admission->count > 1 ? admission->template[i].name : "";
}

/* ---- validating */

/* Whether it was judged already: a template like another of the same run. */
static bool is_repeated(const struct admission *admission, size_t of)
{
	const struct cfg_pod *pod = &admission->pod[of];

	for (size_t i = 0; i < of; i++)
		if (is_same_run(&admission->pod[i], pod) && admission->pod[i].gpus == pod->gpus
		    && !memcmp(&admission->pod[i].wish, &pod->wish, sizeof pod->wish))
			return true;
	return false;
}

static bool refuses(const struct policy *policy, enum srv_outcome outcome)
{
	return (policy->refuses && outcome == SRV_RUN_NOT_HELD)
	       || (policy->refuses_unjudged && (outcome == SRV_RUN_UNJUDGED || outcome == SRV_RUN_WRONG));
}

static void conclude(struct admission *admission, const struct policy *policy, const char *part,
		     const struct srv_judgement *judgement)
{
	struct srv_review_answer *answer = &admission->answer;

	if (refuses(policy, judgement->outcome)) {
		srv_review_refuse(answer, judgement->outcome == SRV_RUN_WRONG ? 400 : 403, part, judgement->reason,
				  judgement->remedy);
	} else {
		srv_review_warn(answer, part, judgement->reason);
		srv_review_warn(answer, part, judgement->remedy);
	}
	srv_review_warn(answer, part, judgement->note);
}

void srv_post_k8s_validate(struct srv_call *call)
{
	const struct policy *policy = find_policy(call->id);
	enum srv_progress progress = SRV_DONE;
	struct admission admission;
	json_t *body;

	if (!policy) {
		srv_reply_problem(call->reply, SRV_NOT_FOUND, "a policy is fail-open, fail-closed or warn");
		return;
	}
	body = begin(call, &admission);
	if (!body)
		return;
	for (size_t i = 0; i < admission.count && progress == SRV_DONE; i++) {
		const struct srv_gang gang = gang_of(&admission, i);
		struct srv_judgement judgement;

		if (!admission.pod[i].request || is_repeated(&admission, i))
			continue;
		progress = srv_judge(call, &admission.pod[i], &admission.fallback, &gang, &judgement);
		if (progress == SRV_DONE)
			conclude(&admission, policy, part_of(&admission, i), &judgement);
	}
	end(&admission, progress);
	json_decref(body);
}

/* ---- mutating */

/* GPUs of one pod: its share of the run where it is known how many there are, else those of a node. */
static int64_t share_of(const struct est_parallelism *parallelism, const struct srv_gang *gang)
{
	int64_t gpus = parallelism->gpus, most = parallelism->gpus_per_node;
	int64_t pods = gang->pods > 1 ? gang->pods : (gpus + most - 1) / most;

	return (gpus + pods - 1) / pods;
}

/* Adds to patch what the container of template lacks. */
static enum srv_progress fill_in(struct admission *admission, size_t i, json_t *patch)
{
	const struct srv_gang gang = gang_of(admission, i);
	const struct cfg_pod *pod = &admission->pod[i];
	const struct cfg_request *request = &admission->call->context->request;
	struct srv_judgement judgement;
	json_t *body;
	enum srv_progress progress = srv_judge_read(admission->call, pod, &pod->wish, &gang, &judgement, &body);

	if (progress == SRV_DONE && judgement.outcome == SRV_RUN_HELD) {
		enum est_vendor vendor = request->cards_named ? request->cards[0]->vendor : EST_NVIDIA;
		const char *resource = cfg_gpu_resource(vendor);
		int64_t gpus = share_of(&request->request.parallelism, &gang);

		if (resource && cfg_patch_gpus(&admission->template[i], pod, resource, gpus, patch))
			snprintf(judgement.note, sizeof judgement.note, "%s: %lld was filled in", resource, (long long)gpus);
	}
	srv_review_warn(&admission->answer, part_of(admission, i), judgement.reason);
	srv_review_warn(&admission->answer, part_of(admission, i), judgement.note);
	json_decref(body);
	return progress;
}

void srv_post_k8s_mutate(struct srv_call *call)
{
	enum srv_progress progress = SRV_DONE;
	struct admission admission;
	json_t *body = begin(call, &admission), *patch;

	if (!body)
		return;
	admission.answer.patch = patch = json_array();
	for (size_t i = 0; i < admission.count && progress == SRV_DONE; i++)
		if (admission.pod[i].request && !admission.pod[i].asks)
			progress = fill_in(&admission, i, patch);
	end(&admission, progress);
	json_decref(patch);
	json_decref(body);
}
