#include "tests/ask.h"

#define POD(annotations, more, container) "{'apiVersion':'v1','kind':'Pod','metadata':{'name':'p','annotations':{" \
	annotations "}}," \
	"'spec':{" more "'containers':[{'name':'t'" container "}]}}"
#define SAYS(words) "'vramcast.io/request':'" words "'"
#define ON(product) "'nodeSelector':{'nvidia.com/gpu.product':'" product "'},"
#define ASKS(gpus) ",'resources':{'limits':{'nvidia.com/gpu':'" gpus "'}}"
#define LARGE "model=llama-3.1-8b method=lora"
#define REFUSED POD(SAYS(LARGE), ON("NVIDIA-L4"), ASKS("1"))

/* A review of an operation on object, with more members of the request. */
static void review(const char *target, const char *operation, const char *object, const char *more)
{
	char body[12 * 1024];

	snprintf(body, sizeof body, "{'apiVersion':'admission.k8s.io/v1','kind':'AdmissionReview','request':{'uid':'u-1',"
		 "'operation':'%s','object':%s%s}}", operation, object, more);
	post_quoted(target, body);
	ck_assert_msg(reply.status == 200, "%d: %s", reply.status, text());
	ck_assert_str_eq(reply.content_type, "application/json");
}

/* The response of the answer, which is borrowed from ret_answer. */
static const json_t *response(json_t **ret_answer)
{
	const json_t *told;

	*ret_answer = document();
	told = json_object_get(*ret_answer, "response");
	ck_assert_str_eq(member(*ret_answer, "apiVersion"), "admission.k8s.io/v1");
	ck_assert_str_eq(member(*ret_answer, "kind"), "AdmissionReview");
	ck_assert_str_eq(member(told, "uid"), "u-1");
	ck_assert(json_is_boolean(json_object_get(told, "allowed")));
	return told;
}

static bool is_allowed(json_t **ret_answer)
{
	const json_t *allowed = json_object_get(response(ret_answer), "allowed");

	return json_is_true(allowed);
}

/* ---- verdicts */

static const struct {
	const char *target, *object;
	bool allowed;
	const char *told; /* in the message, or else in a warning; NULL: there is neither */
} verdicts[] = {
	{ "/k8s/validate", REFUSED, false, " would fit: " },
	{ "/k8s/validate", REFUSED, false, "GiB a GPU; l4 has 22.5 GiB" },
	{ "/k8s/validate?timeout=2s", REFUSED, false, "l4 has" },
	{ "/k8s/validate/fail-open", REFUSED, false, "l4 has" },
	{ "/k8s/validate/warn", REFUSED, true, "l4 has" },
	{ "/k8s/validate", POD(SAYS(LARGE), ON("NVIDIA-A100-SXM4-80GB"), ASKS("1")), true, NULL },
	{ "/k8s/validate/fail-closed", POD(SAYS(LARGE), ON("NVIDIA-A100-SXM4-80GB"), ASKS("1")), true, NULL },
	{ "/k8s/validate", POD(SAYS(LARGE), ON("Tesla-T4"), ASKS("1")), false, "t4 cannot run it: the card has no bf16" },
	{ "/k8s/validate", POD(SAYS(LARGE) ",'vramcast.io/gpu':'l4,a100-80gb'", "", ASKS("1")), true,
	  "l4 has 22.5 GiB, but a100-sxm4-80gb holds it" },
	{ "/k8s/validate", POD(SAYS(LARGE) ",'vramcast.io/gpu':'a100-80gb'", ON("NVIDIA-L4"), ASKS("1")), false, "l4 has" },
	{ "/k8s/validate", POD(SAYS(LARGE) ",'vramcast.io/gpu':'a100-80gb'", ON("Our-A100"), ASKS("1")), true, NULL },
	{ "/k8s/validate", POD(SAYS(LARGE " gpus=l4"), "", ""), false, "l4 has" },
	{ "/k8s/validate", POD(SAYS(LARGE), "'nodeSelector':{'nvidia.com/gpu.memory':'8192'},", ASKS("1")), false,
	  "the GPU has 8.0 GiB" },
	{ "/k8s/validate", POD(SAYS("model=llama-3.2-1b precision=bf16_mixed micro_batch_size=2 gradient_checkpointing=true"),
			       ON("NVIDIA-GeForce-RTX-4090"), ""), true, "is tight: needs 23.8 GiB a GPU" },
	{ "/k8s/validate", POD(SAYS(LARGE), "", ASKS("1")), true, "no GPU is named by nodeSelector" },
	{ "/k8s/validate/fail-closed", POD(SAYS(LARGE), "", ASKS("1")), false, "no GPU is named by nodeSelector" },
	{ "/k8s/validate/warn", POD(SAYS(LARGE), "", ASKS("1")), true, "no GPU is named by nodeSelector" },
	{ "/k8s/validate?gpus=l4", POD(SAYS(LARGE), "", ASKS("1")), false, "l4 has" },
	{ "/k8s/validate?gpus=l4", POD(SAYS(LARGE " gpus=a100-80gb"), "", ASKS("1")), true, NULL },
	{ "/k8s/validate?gpus=l4", POD(SAYS(LARGE), ON("Foo"), ASKS("1")), true, "Foo is no GPU that is known" },
	{ "/k8s/validate", POD(SAYS(LARGE) ",'vramcast.io/gpu':'rtx-4009'", "", ASKS("1")), true,
	  "not judged, as rtx-4009 is no GPU that is known (did you mean rtx-4090?)" },
	{ "/k8s/validate/fail-closed", POD(SAYS(LARGE), ON("Foo"), ASKS("1")), false, "Foo is no GPU that is known" },
	{ "/k8s/validate", POD(SAYS("model=deepseek-v3"), "", ""), false, "which no GPU has" },
	{ "/k8s/validate", POD(SAYS("modell=x"), "", ""), true,
	  "annotation vramcast.io/request: /modell is not a known field (did you mean \"model\"?), and 1 more" },
	{ "/k8s/validate/fail-closed", POD(SAYS("model=x"), "", ""), false, "annotation vramcast.io/request: /model " },
	{ "/k8s/validate", POD(SAYS("{"), "", ""), true, "annotation vramcast.io/request: is not JSON: " },
	{ "/k8s/validate/fail-closed", POD(SAYS(LARGE) ",'vramcast.io/container':'x'", "", ""), false, "names no container" },
	{ "/k8s/validate", POD(SAYS("model=llama-3.1-8b parallelism.gpus=8"), ON("NVIDIA-A100-SXM4-80GB"), ASKS("3")), true,
	  "the request is of 8 GPUs, the pod asks for 3" },
	{ "/k8s/validate", POD(SAYS("model=llama-3.1-8b"), ON("NVIDIA-L4"), ASKS("2")), false,
	  "GiB on each of 2 GPUs; l4 has" },
	{ "/k8s/validate/fail-closed", POD("", ON("NVIDIA-L4"), ASKS("1")), true, NULL },
	{ "/k8s/validate/fail-closed", "{'apiVersion':'v1','kind':'ConfigMap'}", true, NULL },
	{ "/k8s/validate/fail-closed", "null", true, NULL },
};

static bool is_warned(const json_t *told, const char *wanted)
{
	const json_t *warnings = json_object_get(told, "warnings");

	for (size_t i = 0; i < json_array_size(warnings); i++) {
		const char *warning = json_string_value(json_array_get(warnings, i));

		ck_assert_msg(!strncmp(warning, "vramcast: ", 10) && strlen(warning) <= 256, "%s", warning);
		if (strstr(warning, wanted))
			return true;
	}
	return false;
}

START_TEST(an_object_is_judged_by_the_policy_of_the_path)
{
	json_t *answer;
	const json_t *told, *status;
	bool allowed = verdicts[_i].allowed;

	review(verdicts[_i].target, "CREATE", verdicts[_i].object, "");
	told = response(&answer);
	status = json_object_get(told, "status");
	ck_assert_msg(json_is_true(json_object_get(told, "allowed")) == allowed, "%s", text());
	ck_assert((status == NULL) == allowed);
	if (!verdicts[_i].told)
		ck_assert_msg(!json_object_get(told, "warnings"), "%s", text());
	else if (allowed)
		ck_assert_msg(is_warned(told, verdicts[_i].told), "%s", text());
	else
		ck_assert_msg(strstr(member(status, "message"), verdicts[_i].told) != NULL, "%s", text());
	json_decref(answer);
}
END_TEST

START_TEST(a_refusal_has_a_status_as_of_the_api)
{
	json_t *answer;
	const json_t *status;

	review("/k8s/validate", "CREATE", REFUSED, "");
	status = json_object_get(response(&answer), "status");
	ck_assert_str_eq(member(status, "status"), "Failure");
	ck_assert_str_eq(member(status, "reason"), "Forbidden");
	ck_assert_int_eq(json_integer_value(json_object_get(status, "code")), 403);
	json_decref(answer);
	review("/k8s/validate/fail-closed", "CREATE", POD(SAYS("x"), "", ""), "");
	status = json_object_get(response(&answer), "status");
	ck_assert_str_eq(member(status, "reason"), "BadRequest");
	ck_assert_int_eq(json_integer_value(json_object_get(status, "code")), 400);
	json_decref(answer);
}
END_TEST

/* ---- what is not judged */

#define DEPLOYMENT(note, replicas, image, product) \
	"{'apiVersion':'apps/v1','kind':'Deployment','metadata':{'labels':{" note \
	"'b':'" image "'},'annotations':{" note SAYS(LARGE) "}},'spec':{" replicas "'template':{'metadata':{'annotations':{" \
	  note \
	"'c':'" image "'}},'spec':{" ON(product) "'containers':[{'name':'t','image':'" image "'}]}}}}"

static const struct {
	const char *name, *operation, *object, *more;
	bool judged;
} operations[] = {
	{ "made", "CREATE", REFUSED, "", true },
	{ "deleted", "DELETE", "null", ",'oldObject':" REFUSED, false },
	{ "connected to", "CONNECT", "{'kind':'PodExecOptions'}", ",'subResource':'exec'", false },
	{ "updated in part", "UPDATE", REFUSED, ",'subResource':'status'", false },
	{ "updated in nothing", "UPDATE", REFUSED, ",'oldObject':" REFUSED, false },
	{ "updated in the request", "UPDATE", REFUSED, ",'oldObject':" POD(SAYS("model=gpt2"), ON("NVIDIA-L4"), ASKS("1")),
	  true },
	{ "updated in its nodes", "UPDATE", REFUSED, ",'oldObject':" POD(SAYS(LARGE), ON("NVIDIA-A100-SXM4-80GB"),
	  ASKS("1")), true },
	{ "updated without the old one", "UPDATE", REFUSED, "", true },
	{ "updated in other annotations, labels, images and replicas", "UPDATE", DEPLOYMENT("'a':'1',", "'replicas':1,",
	  "x", "NVIDIA-L4"),
	  ",'oldObject':" DEPLOYMENT("", "", "y", "NVIDIA-L4"), false },
	{ "updated in a template's nodes", "UPDATE", DEPLOYMENT("", "", "x", "NVIDIA-L4"),
	  ",'oldObject':" DEPLOYMENT("", "", "x", "NVIDIA-A100-SXM4-80GB"), true },
	{ "on its way out", "UPDATE",
	  "{'apiVersion':'v1','kind':'Pod','metadata':{'deletionTimestamp':'2026-01-01T00:00:00Z','annotations':{"
	  SAYS(LARGE) "}},'spec':{" ON("NVIDIA-L4") "'containers':[{'name':'t'}]}}", "", false },
};

START_TEST(what_says_nothing_new_is_let_through)
{
	json_t *answer;

	review("/k8s/validate", operations[_i].operation, operations[_i].object, operations[_i].more);
	ck_assert_msg(is_allowed(&answer) != operations[_i].judged, "%s", operations[_i].name);
	json_decref(answer);
}
END_TEST

/* ---- several templates */

#define WORKERS(workers, gpus) "{'apiVersion':'kubeflow.org/v1','kind':'PyTorchJob','metadata':{'annotations':{" \
	SAYS("model=llama-3.1-8b") "}},'spec':{'pytorchReplicaSpecs':{'Master':{'template':{'spec':{" \
	  ON("NVIDIA-A100-SXM4-80GB") \
	"'containers':[{'name':'t'" ASKS(gpus) "}]}}},'Worker':{'replicas':" workers ",'template':{'spec':{" \
	  ON("NVIDIA-A100-SXM4-80GB") \
	"'containers':[{'name':'t'" ASKS(gpus) "}]}}}}}}"

START_TEST(pods_that_are_one_run_are_judged_together)
{
	json_t *answer;

	review("/k8s/validate", "CREATE", WORKERS("0", "1"), "");
	ck_assert_ptr_nonnull(strstr(member(json_object_get(response(&answer), "status"), "message"), "Master: needs "));
	ck_assert_ptr_nonnull(strstr(text(), "GiB a GPU; a100-sxm4-80gb has 80.0 GiB"));
	json_decref(answer);
	review("/k8s/validate", "CREATE", WORKERS("7", "1"), "");
	ck_assert_msg(is_allowed(&answer), "%s", text());
	ck_assert_ptr_null(json_object_get(json_object_get(answer, "response"), "warnings"));
	json_decref(answer);
}
END_TEST

START_TEST(templates_that_are_alike_are_told_once)
{
	json_t *answer;

	review("/k8s/validate/warn", "CREATE", WORKERS("1", "1"), "");
	ck_assert_uint_eq(json_array_size(json_object_get(response(&answer), "warnings")), 2);
	ck_assert_ptr_null(strstr(text(), "Worker: "));
	json_decref(answer);
}
END_TEST

/* ---- mutating */

static const struct {
	const char *object, *patch; /* base64; NULL: none */
} mutations[] = {
	{ POD(SAYS("model=gpt2"), "", ""), /*
	  [{"op":"add","path":"/spec/containers/0/resources","value":{"limits":{"nvidia.com/gpu":"1"}}}] */
	  "W3sib3AiOiJhZGQiLCJwYXRoIjoiL3NwZWMvY29udGFpbmVycy8wL3Jlc291cmNlcyIsInZhbHVlIjp7ImxpbWl0cyI6eyJudmlkaWEuY29tL2dwdSI6IjEifX19XQ==" },
	{ POD(SAYS("model=gpt2"), "", ASKS("2")), NULL },
	{ POD(SAYS("modell=gpt2"), "", ""), NULL },
	{ POD("", "", ""), NULL },
	{ "null", NULL },
};

START_TEST(gpus_are_filled_in_where_there_are_none)
{
	json_t *answer;
	const json_t *told;

	review("/k8s/mutate?timeout=10s", "CREATE", mutations[_i].object, "");
	told = response(&answer);
	ck_assert(json_is_true(json_object_get(told, "allowed")));
	ck_assert_str_eq(member(told, "patch"), mutations[_i].patch ? mutations[_i].patch : "");
	ck_assert_str_eq(member(told, "patchType"), mutations[_i].patch ? "JSONPatch" : "");
	json_decref(answer);
}
END_TEST

static const struct {
	const char *name, *object, *told;
} shares[] = {
	{ "all of one GPU", POD(SAYS("model=gpt2"), "", ""), "nvidia.com/gpu: 1 was filled in" },
	{ "those of a node", POD(SAYS("model=gpt2 parallelism.gpus=16"), "", ""), "nvidia.com/gpu: 8 was filled in" },
	{ "those of a smaller node", POD(SAYS("model=gpt2 parallelism.gpus=16 parallelism.gpus_per_node=4"), "", ""),
	  "nvidia.com/gpu: 4 was filled in" },
	{ "those of an Indexed Job's pod", "{'apiVersion':'batch/v1','kind':'Job','metadata':{'annotations':{"
	  SAYS("model=gpt2 parallelism.gpus=8")
	  "}},'spec':{'completionMode':'Indexed','parallelism':4,'template':{'spec':{'containers':[{'name':'t'}]}}}}",
	    "nvidia.com/gpu: 2 was filled in" },
	{ "another vendor's", POD(SAYS("model=gpt2 gpus=mi300x"), "", ""), "amd.com/gpu: 1 was filled in" },
	{ "a faulty request's", POD(SAYS("model=nobody"), "", ""), "annotation vramcast.io/request: /model" },
	{ "none, of a template",
	  "{'apiVersion':'apps/v1','kind':'Deployment','metadata':{},'spec':{'template':{'metadata':{'annotations':{"
	  SAYS("model=gpt2") "}},'spec':{'containers':[{'name':'t'}]}}}}", "nvidia.com/gpu: 1 was filled in" },
};

START_TEST(a_pod_gets_its_share)
{
	json_t *answer;

	review("/k8s/mutate", "CREATE", shares[_i].object, "");
	ck_assert_msg(is_warned(response(&answer), shares[_i].told), "%s: %s", shares[_i].name, text());
	json_decref(answer);
}
END_TEST

START_TEST(what_is_changed_is_not_completed)
{
	json_t *answer;

	review("/k8s/mutate", "UPDATE", POD(SAYS("model=gpt2"), "", ""), ",'oldObject':" POD("", "", ""));
	ck_assert_str_eq(member(response(&answer), "patch"), "");
	json_decref(answer);
}
END_TEST

static const struct {
	const char *target, *object, *told; /* NULL: nothing */
} led[] = {
	{ "/k8s/mutate", POD(SAYS(LARGE) ",'vramcast.io/steer':'true'", "", ASKS("1")),
	  "goes to nodes whose GPUs have more than 35" },
	{ "/k8s/mutate", POD(SAYS(LARGE) ",'vramcast.io/steer':'true','vramcast.io/gpu':'l4,a100-80gb'", "", ASKS("1")),
	  "goes to nodes with NVIDIA-A100-SXM4-80GB" },
	{ "/k8s/mutate?gpus=l4,a100-80gb", POD(SAYS(LARGE) ",'vramcast.io/steer':'true'", "", ASKS("1")),
	  "goes to nodes with NVIDIA-A100-SXM4-80GB" },
	{ "/k8s/mutate?gpus=a100-80gb", POD(SAYS("model=gpt2 gpus=l4") ",'vramcast.io/steer':'true'", "", ""),
	  "goes to nodes with NVIDIA-L4" },
	{ "/k8s/mutate", POD(SAYS(LARGE) ",'vramcast.io/steer':'true'", ON("NVIDIA-L4"), ASKS("1")), NULL },
	{ "/k8s/mutate", POD(SAYS(LARGE) ",'vramcast.io/steer':'true','vramcast.io/gpu':'l4'", "", ASKS("1")), NULL },
	{ "/k8s/mutate", POD(SAYS("model=deepseek-v3") ",'vramcast.io/steer':'true'", "", ASKS("1")), NULL },
	{ "/k8s/mutate", POD(SAYS(LARGE) ",'vramcast.io/steer':'no'", "", ASKS("1")), NULL },
	{ "/k8s/mutate", POD(SAYS(LARGE), "", ASKS("1")), NULL },
};

START_TEST(a_pod_is_led_to_nodes_that_hold_it_where_it_asks_to_be)
{
	json_t *answer;
	const json_t *told;

	review(led[_i].target, "CREATE", led[_i].object, "");
	told = response(&answer);
	ck_assert_msg(!*member(told, "patch") == !led[_i].told, "%s", text());
	ck_assert_msg(!led[_i].told || is_warned(told, led[_i].told), "%s", text());
	json_decref(answer);
}
END_TEST

/* ---- what is no review, and what takes long */

static const char *const malformed[] = {
	"{}", "[]", "null", "7", "{'apiVersion':'admission.k8s.io/v1','kind':'AdmissionReview'}",
	"{'apiVersion':'admission.k8s.io/v1beta1','kind':'AdmissionReview','request':{'uid':'1','operation':'CREATE'}}",
	"{'apiVersion':'admission.k8s.io/v1','kind':'Pod','request':{'uid':'1','operation':'CREATE'}}",
	"{'apiVersion':'admission.k8s.io/v1','kind':'AdmissionReview','request':{'operation':'CREATE'}}",
	"{'apiVersion':'admission.k8s.io/v1','kind':'AdmissionReview','request':{'uid':'1','operation':7}}",
	"{'apiVersion':'admission.k8s.io/v1','kind':'AdmissionReview','request':[]}",
};

START_TEST(what_is_no_review_is_a_problem)
{
	static const char *const targets[] = { "/k8s/validate", "/k8s/mutate", "/k8s/validate/warn" };

	for (int i = 0; i < COUNT(targets); i++) {
		post_quoted(targets[i], malformed[_i]);
		check_problem(malformed[_i], 400);
	}
}
END_TEST

START_TEST(a_policy_that_is_none_is_not_found)
{
	post("/k8s/validate/strict", "{}");
	check_problem("strict", 404);
}
END_TEST

START_TEST(advice_is_left_to_workers_and_verdicts_are_not)
{
	context->defers = true;
	review("/k8s/validate", "CREATE", POD(SAYS(LARGE), ON("NVIDIA-A100-SXM4-80GB"), ASKS("1")), "");
	ck_assert(!reply.deferred);
	post_quoted("/k8s/validate",
	  "{'apiVersion':'admission.k8s.io/v1','kind':'AdmissionReview','request':{'uid':'1','operation':'CREATE',"
				     "'object':" REFUSED "}}");
	ck_assert(reply.deferred);
}
END_TEST

START_TEST(long_text_is_cut_between_characters)
{
	char object[4096], name[700];
	json_t *answer;

	for (size_t i = 0; i + 2 < sizeof name; i += 2)
		memcpy(name + i, "\xC3\xA9", 3); /* é */
	snprintf(object, sizeof object, "{'apiVersion':'batch.volcano.sh/v1','kind':'Job','metadata':{'annotations':{"
	  SAYS("model=x")
		 "}},'spec':{'tasks':[{'name':'x%s','template':{'spec':{'containers':[{'name':'t'}]}}},{'name':'y',"
		 "'template':{'spec':{'containers':[{'name':'t'}]}}}]}}", name);
	review("/k8s/validate", "CREATE", object, "");
	ck_assert_ptr_null(strstr(text(), "\xEF\xBF\xBD")); /* no U+FFFD */
	ck_assert(is_warned(response(&answer), "\xC3\xA9"));
	json_decref(answer);
}
END_TEST

int main(void)
{
	TCase *const cases[] = { tcase_create("admission") };

	tcase_add_loop_test(cases[0], an_object_is_judged_by_the_policy_of_the_path, 0, COUNT(verdicts));
	tcase_add_test(cases[0], a_refusal_has_a_status_as_of_the_api);
	tcase_add_loop_test(cases[0], what_says_nothing_new_is_let_through, 0, COUNT(operations));
	tcase_add_test(cases[0], pods_that_are_one_run_are_judged_together);
	tcase_add_test(cases[0], templates_that_are_alike_are_told_once);
	tcase_add_loop_test(cases[0], gpus_are_filled_in_where_there_are_none, 0, COUNT(mutations));
	tcase_add_loop_test(cases[0], a_pod_gets_its_share, 0, COUNT(shares));
	tcase_add_test(cases[0], what_is_changed_is_not_completed);
	tcase_add_loop_test(cases[0], a_pod_is_led_to_nodes_that_hold_it_where_it_asks_to_be, 0, COUNT(led));
	tcase_add_loop_test(cases[0], what_is_no_review_is_a_problem, 0, COUNT(malformed));
	tcase_add_test(cases[0], a_policy_that_is_none_is_not_found);
	tcase_add_test(cases[0], advice_is_left_to_workers_and_verdicts_are_not);
	tcase_add_test(cases[0], long_text_is_cut_between_characters);
	return run_cases("admission", cases, COUNT(cases));
}
