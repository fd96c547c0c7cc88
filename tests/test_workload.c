#include "config/patch.h"
#include "config/workload.h"
#include "tests/catalog.h"
#include "tests/suite.h"

#define SPEC "{'containers':[{'name':'a'}]}"
#define TEMPLATE "{'metadata':{},'spec':" SPEC "}"
#define IN_TEMPLATE "{'template':" TEMPLATE "}"

static const struct {
	const char *object, *pointer, *name; /* of the first template */
	size_t count;
	int64_t pods;
} objects[] = {
	{ "{'apiVersion':'v1','kind':'Pod','spec':" SPEC "}", "", "", 1, 1 },
	{ "{'apiVersion':'apps/v1','kind':'Deployment','spec':{'replicas':3,'template':" TEMPLATE "}}", "/spec/template",
	  "", 1, 1 },
	{ "{'apiVersion':'apps/v1','kind':'StatefulSet','spec':" IN_TEMPLATE "}", "/spec/template", "", 1, 1 },
	{ "{'apiVersion':'apps/v1','kind':'DaemonSet','spec':" IN_TEMPLATE "}", "/spec/template", "", 1, 1 },
	{ "{'apiVersion':'apps/v1','kind':'ReplicaSet','spec':" IN_TEMPLATE "}", "/spec/template", "", 1, 1 },
	{ "{'apiVersion':'batch/v1','kind':'Job','spec':{'parallelism':4,'template':" TEMPLATE "}}", "/spec/template", "",
	  1, 1 },
	{ "{'apiVersion':'batch/v1','kind':'Job','spec':{'parallelism':4,'completionMode':'Indexed','template':" TEMPLATE "}}",
	  "/spec/template", "", 1, 4 },
	{ "{'apiVersion':'batch/v1','kind':'CronJob','spec':{'jobTemplate':{'spec':{'parallelism':2,"
	  "'completionMode':'Indexed',"
	  "'template':" TEMPLATE "}}}}", "/spec/jobTemplate/spec/template", "", 1, 2 },
	{ "{'apiVersion':'batch.volcano.sh/v1alpha1','kind':'Job','spec':{'tasks':[{'name':'w','replicas':5,'template':"
	  TEMPLATE
	  "}]}}", "/spec/tasks/0/template", "w", 1, 5 },
	{ "{'apiVersion':'jobset.x-k8s.io/v1alpha2','kind':'JobSet','spec':{'replicatedJobs':[{'name':'workers','replicas':2,"
	  "'template':{'spec':{'parallelism':3,'template':" TEMPLATE "}}},{'name':'odd'}]}}",
	  "/spec/replicatedJobs/0/template/spec/template", "workers", 1, 6 },
	{ "{'apiVersion':'kubeflow.org/v1','kind':'PyTorchJob','spec':{'pytorchReplicaSpecs':{'Wor/ker':{'replicas':3,"
	  "'template':" TEMPLATE
	  "},'Master':" IN_TEMPLATE "}}}", "/spec/pytorchReplicaSpecs/Wor~1ker/template", "Wor/ker", 2, 3 },
	{ "{'apiVersion':'v1','kind':'Service','spec':{}}", NULL, NULL, 0, 0 },
	{ "{'apiVersion':'v1','kind':'Job','spec':" IN_TEMPLATE "}", NULL, NULL, 0, 0 },
	{ "{'apiVersion':'v1','kind':'Pod'}", NULL, NULL, 0, 0 },
	{ "{'kind':'Pod','spec':{}}", NULL, NULL, 0, 0 },
	{ "{'apiVersion':'v1','kind':'Pod','spec':[]}", NULL, NULL, 0, 0 },
	{ "{'apiVersion':'jobset.x-k8s.io/v1','kind':'JobSet','spec':{'replicatedJobs':7}}", NULL, NULL, 0, 0 },
	{ "[]", NULL, NULL, 0, 0 },
};

START_TEST(the_templates_of_a_kind_are_found)
{
	struct cfg_template found[CFG_TEMPLATES_MAX];
	json_t *object = parse_quoted(objects[_i].object);
	size_t count = cfg_workload_templates(object, found);

	ck_assert_msg(count == objects[_i].count, "%s: %zu", objects[_i].object, count);
	if (count) {
		ck_assert_str_eq(found[0].pointer, objects[_i].pointer);
		ck_assert_str_eq(found[0].name, objects[_i].name);
		ck_assert_int_eq(found[0].pods, objects[_i].pods);
		ck_assert(json_is_object(found[0].spec));
	}
	json_decref(object);
}
END_TEST

START_TEST(more_templates_than_there_is_room_for_are_left_out)
{
	struct cfg_template found[CFG_TEMPLATES_MAX];
	json_t *template = parse_quoted(IN_TEMPLATE), *tasks = json_array();
	json_t *object = json_pack("{s:s, s:s, s:{s:o}}", "apiVersion", "batch.volcano.sh/v1", "kind", "Job", "spec",
	  "tasks", tasks);

	for (int i = 0; i < CFG_TEMPLATES_MAX + 3; i++)
		json_array_append(tasks, template);
	ck_assert_uint_eq(cfg_workload_templates(object, found), CFG_TEMPLATES_MAX);
	json_decref(object);
	json_decref(template);
}
END_TEST

static const struct {
	const char *container, *operation; /* NULL: nothing to be added */
} patches[] = {
	{ "{'name':'a'}", "{'op':'add','path':'/spec/containers/0/resources','value':{'limits':{'nvidia.com/gpu':'4'}}}" },
	{ "{'name':'a','resources':{}}",
	  "{'op':'add','path':'/spec/containers/0/resources/limits','value':{'nvidia.com/gpu':'4'}}" },
	{ "{'name':'a','resources':{'requests':{'cpu':'1'}}}",
	  "{'op':'add','path':'/spec/containers/0/resources/limits','value':{'nvidia.com/gpu':'4'}}" },
	{ "{'name':'a','resources':{'limits':{'memory':'1Gi'}}}",
	  "{'op':'add','path':'/spec/containers/0/resources/limits/nvidia.com~1gpu','value':'4'}" },
	{ "{'name':'a','resources':{'limits':{'nvidia.com/gpu':'1'}}}", NULL },
	{ "{'name':'a','resources':{'limits':{'nvidia.com/gpu':'0'}}}", NULL },
	{ "{'name':'a','resources':{'requests':{'nvidia.com/gpu':2}}}", NULL },
	{ "{'name':'a','resources':{'limits':{'nvidia.com/mig-1g.5gb':'1'}}}", NULL },
	{ "{'name':'a','resources':{'limits':{'amd.com/gpu':'1'}}}", NULL },
	{ "{'name':'a','resources':{'claims':[{'name':'gpus'}]}}", NULL },
};

START_TEST(what_a_container_says_is_never_overwritten)
{
	json_t *pod = json_pack("{s:{s:[o]}}", "spec", "containers", parse_quoted(patches[_i].container)), *patch =
	  json_array();
	struct cfg_template template;
	struct cfg_pod read;
	bool added;

	ck_assert(cfg_workload_pod(pod, &template));
	cfg_pod_read(NULL, &template, catalog, &read);
	added = cfg_patch_gpus(&template, &read, "nvidia.com/gpu", 4, patch);
	ck_assert_msg(added == (patches[_i].operation != NULL), "%s", patches[_i].container);
	ck_assert_uint_eq(json_array_size(patch), added);
	if (added) {
		json_t *wanted = parse_quoted(patches[_i].operation);

		ck_assert_msg(json_equal(json_array_get(patch, 0), wanted), "%s", patches[_i].container);
		json_decref(wanted);
	}
	json_decref(patch);
	json_decref(pod);
}
END_TEST

#define REQUIRED "requiredDuringSchedulingIgnoredDuringExecution"
#define EXPRESSION "{'key':'k','operator':'In','values':['v']}"
#define TERM "{'matchExpressions':[" EXPRESSION "]}"

static const struct {
	const char *spec, *patch;
} affinities[] = {
	{ "{}", "[{'op':'add','path':'/spec/affinity','value':{'nodeAffinity':{'" REQUIRED "':{'nodeSelectorTerms':[" TERM
	  "]}}}}]" },
	{ "{'affinity':null}",
	  "[{'op':'add','path':'/spec/affinity','value':{'nodeAffinity':{'" REQUIRED "':{'nodeSelectorTerms':[" TERM
	    "]}}}}]" },
	{ "{'affinity':{'podAffinity':{}}}",
	  "[{'op':'add','path':'/spec/affinity/nodeAffinity','value':{'" REQUIRED "':{'nodeSelectorTerms':[" TERM "]}}}]" },
	{ "{'affinity':{'nodeAffinity':{'preferredDuringSchedulingIgnoredDuringExecution':[]}}}",
	  "[{'op':'add','path':'/spec/affinity/nodeAffinity/" REQUIRED "','value':{'nodeSelectorTerms':[" TERM "]}}]" },
	{ "{'affinity':{'nodeAffinity':{'" REQUIRED
	  "':{'nodeSelectorTerms':[{'matchExpressions':[{'key':'zone'}]},{'matchFields':[]}]}}}}",
	  "[{'op':'add','path':'/spec/affinity/nodeAffinity/" REQUIRED "/nodeSelectorTerms/0/matchExpressions/-','value':"
	    EXPRESSION "},"
	  "{'op':'add','path':'/spec/affinity/nodeAffinity/" REQUIRED "/nodeSelectorTerms/1/matchExpressions','value':["
	    EXPRESSION "]}]" },
	{ "{'affinity':{'nodeAffinity':{'" REQUIRED "':{'nodeSelectorTerms':[]}}}}", "[]" },
};

START_TEST(what_is_required_of_nodes_is_added_to_every_term)
{
	json_t *pod = json_pack("{s:o}", "spec", parse_quoted(affinities[_i].spec)), *patch = json_array();
	json_t *values = json_pack("[s]", "v"), *wanted = parse_quoted(affinities[_i].patch);
	struct cfg_template template;
	char *text;

	ck_assert(cfg_workload_pod(pod, &template));
	ck_assert(cfg_patch_affinity(&template, "k", "In", values, patch) == (json_array_size(wanted) > 0));
	text = json_dumps(patch, JSON_COMPACT);
	ck_assert_msg(json_equal(patch, wanted), "%s", text);
	free(text);
	json_decref(wanted);
	json_decref(values);
	json_decref(patch);
	json_decref(pod);
}
END_TEST

START_TEST(a_pointer_that_would_be_cut_leads_nowhere)
{
	struct cfg_template template = { .pods = 1 };
	struct cfg_pod pod = { .request = "model=gpt2" };
	json_t *values = json_array(), *patch = json_array(), *container = json_object();

	memset(template.pointer, 'x', 200);
	pod.container = container;
	ck_assert(!cfg_patch_gpus(&template, &pod, "nvidia.com/gpu", 1, patch));
	ck_assert(!cfg_patch_affinity(&template, "k", "In", values, patch));
	ck_assert_uint_eq(json_array_size(patch), 0);
	json_decref(container);
	json_decref(values);
	json_decref(patch);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("workload");
	TCase *test = tcase_create("workload");

	cfg_json_init();
	tcase_add_unchecked_fixture(test, open_catalog, close_catalog);
	tcase_add_loop_test(test, the_templates_of_a_kind_are_found, 0, COUNT(objects));
	tcase_add_test(test, more_templates_than_there_is_room_for_are_left_out);
	tcase_add_loop_test(test, what_a_container_says_is_never_overwritten, 0, COUNT(patches));
	tcase_add_loop_test(test, what_is_required_of_nodes_is_added_to_every_term, 0, COUNT(affinities));
	tcase_add_test(test, a_pointer_that_would_be_cut_leads_nowhere);
	suite_add_tcase(suite, test);
	return run_suite(suite);
}
