#include "config/pod.h"
#include "tests/catalog.h"
#include "tests/suite.h"

/* ---- which GPUs */

#define AFFINITY(terms) \
	"{'affinity':{'nodeAffinity':{'requiredDuringSchedulingIgnoredDuringExecution':{'nodeSelectorTerms':[" terms "]}}}}"
#define TERM(expression) "{'matchExpressions':[" expression "]}"
#define PRODUCT(values) "{'key':'nvidia.com/gpu.product','operator':'In','values':[" values "]}"

static const struct {
	const char *spec, *cards, *unknown; /* cards: ids and MiB of sizes, each behind a blank */
} specs[] = {
	{ "{'nodeSelector':{'nvidia.com/gpu.product':'NVIDIA-L4'}}", " l4", "" },
	{ "{'nodeSelector':{'nvidia.com/gpu.product':'NVIDIA-A100-SXM4-80GB'}}", " a100-sxm4-80gb", "" },
	{ "{'nodeSelector':{'nvidia.com/gpu.product':'Tesla-T4-SHARED'}}", " t4", "" },
	{ "{'nodeSelector':{'nvidia.com/gpu.product':'Foo','nvidia.com/gpu.memory':'8192'}}", " 8192", "Foo" },
	{ "{'nodeSelector':{'nvidia.com/gpu.product':'Foo'}}", "", "Foo" },
	{ "{'nodeSelector':{'nvidia.com/gpu.memory':'8192'}}", " 8192", "" },
	{ "{'nodeSelector':{'nvidia.com/gpu.memory':'8 GiB'}}", "", "" },
	{ "{'nodeSelector':{'nvidia.com/gpu.memory':'-1'}}", "", "" },
	{ "{'nodeSelector':{'nvidia.com/gpu.memory':'99999999999999999999'}}", "", "" },
	{ "{'nodeSelector':{'cloud.google.com/gke-accelerator':'nvidia-tesla-t4'}}", " t4", "" },
	{ "{'nodeSelector':{'kubernetes.io/arch':'amd64'}}", "", "" },
	{ AFFINITY(TERM(PRODUCT("'NVIDIA-L4','Tesla-T4'"))), " l4 t4", "" },
	{ AFFINITY(TERM(PRODUCT("'NVIDIA-L4'")) "," TERM(PRODUCT("'Tesla-T4','Foo'"))), " l4 t4", "Foo" },
	{ AFFINITY(TERM(PRODUCT("'NVIDIA-L4'")) "," TERM("{'key':'zone','operator':'In','values':['a']}")), "", "" },
	{ AFFINITY(TERM("{'key':'nvidia.com/gpu.memory','operator':'Gt','values':['23027']}")), " 23028", "" },
	{ AFFINITY(TERM("{'key':'nvidia.com/gpu.product','operator':'NotIn','values':['Tesla-T4']}")), "", "" },
	{ "{'affinity':{'nodeAffinity':{'preferredDuringSchedulingIgnoredDuringExecution':[]}}}", "", "" },
	{ "{'nodeSelector':7,'affinity':'x'}", "", "" },
};

static void write_wish(const struct cfg_wish *wish, char *ret, size_t size)
{
	size_t used = 0;

	ret[0] = '\0';
	for (size_t i = 0; i < wish->card_count; i++)
		used += (size_t)snprintf(ret + used, size - used, " %s", wish->cards[i]->gpu.id);
	for (size_t i = 0; i < wish->size_count; i++)
		used += (size_t)snprintf(ret + used, size - used, " %llu", (unsigned long long)wish->sizes[i] >> 20);
}

START_TEST(the_cards_are_those_that_the_nodes_may_have)
{
	json_t *spec = parse_quoted(specs[_i].spec);
	struct cfg_wish wish;
	char cards[512];

	cfg_wish_from_spec(spec, catalog, &wish);
	write_wish(&wish, cards, sizeof cards);
	ck_assert_msg(!strcmp(cards, specs[_i].cards), "%s:%s", specs[_i].spec, cards);
	ck_assert_str_eq(wish.unknown, specs[_i].unknown);
	json_decref(spec);
}
END_TEST

START_TEST(cards_are_named_by_commas)
{
	struct cfg_wish wish;
	char cards[512];

	cfg_wish_from_names(" t4, nvidia-l4,,T4 ,"
	  "a-name-that-is-longer-than-any-label-of-Kubernetes-may-be-and-then-some-more", catalog, &wish);
	write_wish(&wish, cards, sizeof cards);
	ck_assert_str_eq(cards, " t4 l4");
	ck_assert_uint_eq(strlen(wish.unknown), CFG_WISH_NAME_MAX - 1);
}
END_TEST

START_TEST(a_wish_has_room_for_so_many)
{
	struct cfg_wish wish = { 0 };
	size_t count;
	const struct cfg_card *cards = cfg_catalog_cards(catalog, &count);

	ck_assert_uint_gt(count, CFG_WISH_MAX);
	for (size_t i = 0; i < count; i++)
		ck_assert(cfg_wish_add_card(&wish, &cards[i]) == (i < CFG_WISH_MAX));
	ck_assert(cfg_wish_add_card(&wish, &cards[0]));
	ck_assert_uint_eq(wish.card_count, CFG_WISH_MAX);
	for (uint64_t i = 0; i <= CFG_WISH_MAX; i++)
		ck_assert(cfg_wish_add_size(&wish, i + 1) == (i < CFG_WISH_MAX));
}
END_TEST

/* ---- which container, how many GPUs */

static const struct {
	const char *annotations, *containers;
	int index; /* -1: none */
	int64_t gpus;
	bool asks;
} pods[] = {
	{ "{}", "[{'name':'a'},{'name':'b'}]", 0, 0, false },
	{ "{}", "[{'name':'a'},{'name':'b','resources':{'limits':{'nvidia.com/gpu':'2'}}}]", 1, 2, true },
	{ "{'vramcast.io/container':'b'}", "[{'name':'a','resources':{'limits':{'nvidia.com/gpu':1}}},{'name':'b'}]", 1, 0,
	  false },
	{ "{'vramcast.io/container':'c'}", "[{'name':'a'}]", -1, 0, false },
	{ "{}", "[{'name':'a','resources':{'requests':{'nvidia.com/gpu':'3'}}}]", 0, 3, true },
	{ "{}", "[{'name':'a','resources':{'limits':{'amd.com/gpu':'8'}}}]", 0, 8, true },
	{ "{}", "[{'name':'a','resources':{'limits':{'nvidia.com/gpu':'x'}}}]", 0, 0, true },
	{ "{}", "[{'name':'a','resources':{'limits':{'nvidia.com/gpu':'-4'}}}]", 0, 0, true },
	{ "{}", "[{'name':'a','resources':{'limits':{'nvidia.com/gpu':9223372036854775807}}}]", 0, 1 << 20, true },
	{ "{}", "[{'name':'a','resources':{'limits':{'nvidia.com/mig-1g.5gb':'1'}}}]", 0, 0, true },
	{ "{}", "[7]", 0, 0, false },
	{ "{}", "[]", -1, 0, false },
	{ "{}", "{}", -1, 0, false },
};

START_TEST(the_container_is_found_that_trains)
{
	json_t *object = json_pack("{s:{s:o}, s:{s:o}}", "metadata", "annotations", parse_quoted(pods[_i].annotations), "spec",
				   "containers", parse_quoted(pods[_i].containers));
	struct cfg_template template;
	struct cfg_pod pod;

	ck_assert(cfg_workload_pod(object, &template));
	cfg_pod_read(NULL, &template, catalog, &pod);
	ck_assert_msg((pod.container != NULL) == (pods[_i].index >= 0), "%s", pods[_i].containers);
	ck_assert(!pod.container || (int)pod.container_index == pods[_i].index);
	ck_assert_msg(pod.gpus == pods[_i].gpus, "%s: %lld", pods[_i].containers, (long long)pod.gpus);
	ck_assert(pod.asks == pods[_i].asks);
	ck_assert_ptr_null(pod.request);
	json_decref(object);
}
END_TEST

START_TEST(a_template_speaks_for_itself_before_its_owner_does)
{
	json_t *owner = parse_quoted("{'metadata':{'annotations':{'vramcast.io/request':'model=a','vramcast.io/gpu':'t4'}}}");
	json_t *object = parse_quoted("{'metadata':{'annotations':{'vramcast.io/request':'model=b'}},"
				      "'spec':{'nodeSelector':{'nvidia.com/gpu.product':'Foo'}}}");
	struct cfg_template template;
	struct cfg_pod pod;

	ck_assert(cfg_workload_pod(object, &template));
	cfg_pod_read(owner, &template, catalog, &pod);
	ck_assert_str_eq(pod.request, "model=b");
	ck_assert_str_eq(pod.wish.cards[0]->gpu.id, "t4");
	json_decref(object);
	json_decref(owner);
}
END_TEST

/* ---- the body */

static const struct {
	const char *request;
	int64_t pod_gpus, run_gpus;
	const char *body; /* NULL: a fault */
} bodies[] = {
	{ "model=gpt2", 0, 0, "{'model':'gpt2'}" },
	{ " model=gpt2\n  lora.rank=8\tmethod=lora ", 0, 0, "{'model':'gpt2','lora':{'rank':8},'method':'lora'}" },
	{ "model=a&b=c%20+", 0, 0, "{'model':'a&b=c%20+'}" },
	{ "\n{\"model\":\"gpt2\"}", 1, 1, "{'model':'gpt2'}" },
	{ "model=gpt2", 4, 4, "{'model':'gpt2','parallelism':{'gpus':4}}" },
	{ "model=gpt2", 4, 8, "{'model':'gpt2','parallelism':{'gpus':8,'gpus_per_node':4}}" },
	{ "model=gpt2 parallelism.gpus=2", 4, 8, "{'model':'gpt2','parallelism':{'gpus':2}}" },
	{ "{\"model\":\"gpt2\",\"parallelism\":null}", 2, 2, "{'model':'gpt2','parallelism':{'gpus':2}}" },
	{ "{\"model\":\"gpt2\",\"parallelism\":7}", 2, 2, "{'model':'gpt2','parallelism':7}" },
	{ "{\"model\":\"gpt2\",\"parallelism\":{\"gpus\":16,\"gpus_per_node\":16}}", 8, 8,
	  "{'model':'gpt2','parallelism':{'gpus':16,'gpus_per_node':16}}" },
	{ "{\"model\"", 0, 0, NULL },
	{ "{\"model\":1,\"model\":2}", 0, 0, NULL },
	{ "just words", 0, 0, "{'just':'','words':''}" },
};

START_TEST(a_request_is_json_or_words_and_the_pod_says_the_rest)
{
	const struct cfg_pod pod = { .request = bodies[_i].request, .gpus = bodies[_i].pod_gpus };
	const struct cfg_wish none = { 0 };
	struct est_faults faults = { 0 };
	json_t *body = cfg_pod_body(&pod, &none, bodies[_i].run_gpus, &faults);

	ck_assert_msg((body != NULL) == (bodies[_i].body != NULL), "%s", bodies[_i].request);
	ck_assert((faults.count == 0) == (body != NULL));
	if (body) {
		json_t *wanted = parse_quoted(bodies[_i].body);
		char *text = json_dumps(body, JSON_COMPACT);

		ck_assert_msg(json_equal(body, wanted), "%s: %s", bodies[_i].request, text);
		free(text);
		json_decref(wanted);
	}
	json_decref(body);
}
END_TEST

START_TEST(a_wish_goes_before_the_cards_of_the_request)
{
	const struct cfg_pod pod = { .request = "model=gpt2 gpus=l4 gpu_memory_bytes=1" };
	struct cfg_wish wish = { .size_count = 1, .sizes = { 2048 } };
	struct est_faults faults = { 0 };
	json_t *body = cfg_pod_body(&pod, &wish, 0, &faults), *wanted;

	wanted = parse_quoted("{'model':'gpt2','gpus':null,'gpu_memory_bytes':[2048]}");
	ck_assert(json_equal(body, wanted));
	json_decref(wanted);
	json_decref(body);
}
END_TEST

START_TEST(every_vendor_that_has_a_plugin_has_a_resource)
{
	ck_assert_str_eq(cfg_gpu_resource(EST_NVIDIA), "nvidia.com/gpu");
	ck_assert_str_eq(cfg_gpu_resource(EST_HABANA), "habana.ai/gaudi");
	ck_assert_ptr_null(cfg_gpu_resource(EST_APPLE));
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("pod");
	TCase *test = tcase_create("pod");

	cfg_json_init();
	tcase_add_unchecked_fixture(test, open_catalog, close_catalog);
	tcase_add_loop_test(test, the_cards_are_those_that_the_nodes_may_have, 0, COUNT(specs));
	tcase_add_test(test, cards_are_named_by_commas);
	tcase_add_test(test, a_wish_has_room_for_so_many);
	tcase_add_loop_test(test, the_container_is_found_that_trains, 0, COUNT(pods));
	tcase_add_test(test, a_template_speaks_for_itself_before_its_owner_does);
	tcase_add_loop_test(test, a_request_is_json_or_words_and_the_pod_says_the_rest, 0, COUNT(bodies));
	tcase_add_test(test, a_wish_goes_before_the_cards_of_the_request);
	tcase_add_test(test, every_vendor_that_has_a_plugin_has_a_resource);
	suite_add_tcase(suite, test);
	return run_suite(suite);
}
