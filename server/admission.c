#include "server/admission.h"

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

/* ---- what both do */

static const struct policy *find_policy(const char *word)
{
	for (size_t i = 0; i < POLICIES; i++)
		if (!*word || !strcmp(policies[i].word, word))
			return &policies[i];
	return NULL;
}

static void read_workload(const struct srv_call *call, const json_t *object, struct srv_workload *ret)
{
	ret->count = object ? cfg_workload_templates(object, ret->template) : 0;
	for (size_t i = 0; i < ret->count; i++)
		cfg_pod_read(object, &ret->template[i], call->context->edition->catalog, &ret->pod[i]);
}

static bool is_same_run(const struct cfg_pod *a, const struct cfg_pod *b)
{
	return a->request && b->request && !strcmp(a->request, b->request);
}

/* Whether both are the same to us: what is judged depends on nothing else. */
static bool is_alike(const struct cfg_pod *a, const struct cfg_pod *b)
{
	return (is_same_run(a, b) || (!a->request && !b->request)) && a->gpus == b->gpus && a->asks == b->asks
	       && !a->container == !b->container && !memcmp(&a->wish, &b->wish, sizeof a->wish);
}

/* What an update leaves as it was is let through: it may have been let in by another policy, or by none, and those who
 * label, scale or delete it have no part in that. */
static bool says_the_same(const struct srv_admission *admission)
{
	const struct srv_workload *now = &admission->now;
	struct srv_workload old;
	bool same;

	if (!admission->review.old)
		return false;
	read_workload(admission->call, admission->review.old, &old);
	same = now->count == old.count;
	for (size_t i = 0; same && i < now->count; i++)
		same = is_alike(&now->pod[i], &old.pod[i]) && now->template[i].pods == old.template[i].pods;
	return same;
}

json_t *srv_admission_begin(struct srv_call *call, struct srv_admission *admission)
{
	struct est_faults *faults = &call->context->faults;
	struct srv_value values[PARAMETERS];
	json_t *body = NULL;

	*admission = (struct srv_admission){ .call = call };
	if (!srv_query_read(call->request->query, parameters, PARAMETERS, values, faults))
		srv_reply_faults(call->reply, faults);
	else if (!srv_leave_long(call, call->request->body_length > SRV_BODY_AT_ONCE))
		body = srv_parse_body(call);
	if (!body)
		return NULL;
	if (values[GPUS].given)
		cfg_wish_from_names(values[GPUS].text, call->context->edition->catalog, &admission->fallback);
	if (srv_review_read(body, &admission->review, faults)) {
		read_workload(call, admission->review.object, &admission->now);
		return body;
	}
	srv_reply_not_kubernetes(call->reply, faults);
	json_decref(body);
	return NULL;
}

void srv_admission_end(struct srv_admission *admission, enum srv_progress progress)
{
	struct srv_reply *reply = admission->call->reply;

	if (progress == SRV_LEFT)
		return;
	srv_review_write(reply->buffer, &admission->review, &admission->answer);
	reply->content_type = "application/json";
	if (progress == SRV_SHORT || cfg_json_is_short())
		srv_reply_no_memory(reply);
}

struct srv_gang srv_workload_gang(const struct srv_workload *workload, size_t of)
{
	struct srv_gang gang = { 0, 0 };

	for (size_t i = 0; i < workload->count; i++) {
		if (!is_same_run(&workload->pod[i], &workload->pod[of]))
			continue;
		gang.pods += workload->template[i].pods;
		gang.gpus += workload->template[i].pods * workload->pod[i].gpus;
	}
	return gang;
}

const char *srv_workload_part(const struct srv_workload *workload, size_t i)
{
	return workload->count > 1 ? workload->template[i].name : "";
}

/* ---- validating */

/* Whether it was judged already: a template like another of the same run. */
static bool is_repeated(const struct srv_workload *workload, size_t of)
{
	for (size_t i = 0; i < of; i++)
		if (is_alike(&workload->pod[i], &workload->pod[of]))
			return true;
	return false;
}

static bool refuses(const struct policy *policy, enum srv_outcome outcome)
{
	return (policy->refuses && outcome == SRV_RUN_NOT_HELD)
	       || (policy->refuses_unjudged && (outcome == SRV_RUN_UNJUDGED || outcome == SRV_RUN_WRONG));
}

static void conclude(struct srv_admission *admission, const struct policy *policy, const char *part,
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
	struct srv_admission admission;
	const struct srv_workload *now = &admission.now;
	json_t *body;

	if (!policy) {
		srv_reply_problem(call->reply, SRV_NOT_FOUND, "a policy is fail-open, fail-closed or warn");
		return;
	}
	body = srv_admission_begin(call, &admission);
	if (!body)
		return;
	for (size_t i = says_the_same(&admission) ? now->count : 0; i < now->count && progress == SRV_DONE; i++) {
		const struct srv_gang gang = srv_workload_gang(now, i);
		struct srv_judgement judgement;

		if (!now->pod[i].request || is_repeated(now, i))
			continue;
		progress = srv_judge(call, &now->pod[i], &admission.fallback, &gang, &judgement);
		if (progress == SRV_DONE)
			conclude(&admission, policy, srv_workload_part(now, i), &judgement);
	}
	srv_admission_end(&admission, progress);
	json_decref(body);
}
