#include "tests/ask.h"

#define POD(annotations, more, gpus) "{'metadata':{'name':'p','annotations':{" annotations "}},'spec':{" more \
	"'containers':[{'name':'t','resources':{'limits':{'nvidia.com/gpu':'" gpus "'}}}]}}"
#define SAYS "'vramcast.io/request':'model=llama-3.1-8b method=lora'"
#define NODE(name, labels) "{'metadata':{'name':'" name "','labels':{" labels "}},'status':{'x':[1,2.5,null,true]}}"
#define PRODUCT(name) "'nvidia.com/gpu.product':'" name "'"
#define LARGE NODE("large", PRODUCT("NVIDIA-A100-SXM4-80GB") ",'nvidia.com/gpu.count':'8'")
#define SMALL NODE("small", PRODUCT("NVIDIA-L4"))

static const struct {
	const char *pod, *node, *why; /* NULL: the node is left */
} nodes[] = {
	{ POD(SAYS, "", "1"), LARGE, NULL },
	{ POD(SAYS, "", "8"), LARGE, NULL },
	{ POD(SAYS, "", "16"), LARGE, "vramcast: takes 16 GPUs, the node has 8" },
	{ POD(SAYS, "", "1"), SMALL, "GiB a GPU; l4 has 22.5 GiB" },
	{ POD(SAYS, "", "1"), NODE("old", PRODUCT("Tesla-T4")), "vramcast: t4 cannot run it: " },
	{ POD(SAYS, "", "1"), NODE("sized", PRODUCT("Foo") ",'nvidia.com/gpu.memory':'8192'"), "the GPU has 8.0 GiB" },
	{ POD(SAYS, "", "1"), NODE("sized", "'nvidia.com/gpu.memory':'81920'"), NULL },
	{ POD(SAYS, "", "1"), NODE("foo", PRODUCT("Foo")), NULL },
	{ POD(SAYS, "", "1"), NODE("plain", ""), NULL },
	{ POD("", "", "1"), SMALL, NULL },
	{ POD("'vramcast.io/request':'modell=x'", "", "1"), SMALL, NULL },
	{ POD(SAYS, "", "1"), "7", NULL },
};

START_TEST(a_node_is_left_unless_its_cards_do_not_hold_the_run)
{
	char body[4096];
	json_t *answer, *kept, *node;
	const json_t *items;

	/* Another kind of card beside it, so that the right row is found. */
	snprintf(body, sizeof body, "{'Pod':%s,'Nodes':{'items':[" NODE("other", PRODUCT("NVIDIA-H100-80GB-HBM3"))
	  ",%s]},'NodeNames':null}",
		 nodes[_i].pod, nodes[_i].node);
	post_quoted("/k8s/filter", body);
	ck_assert_msg(reply.status == 200, "%s", text());
	answer = document();
	ck_assert_str_eq(member(answer, "Error"), "");
	ck_assert(json_is_null(json_object_get(answer, "NodeNames")));
	items = json_object_get(json_object_get(answer, "Nodes"), "items");
	ck_assert_msg(json_array_size(items) == (nodes[_i].why ? 1 : 2), "%s", text());
	if (nodes[_i].why) {
		ck_assert_uint_eq(json_object_size(json_object_get(answer, "FailedNodes")), 1);
		ck_assert_msg(strstr(text(), nodes[_i].why) != NULL, "%s", text());
	} else {
		for (size_t i = 0; body[i]; i++)
			body[i] = (char)(body[i] == '\'' ? '"' : body[i]);
		kept = json_loads(body, 0, NULL);
		node = json_array_get(json_object_get(json_object_get(kept, "Nodes"), "items"), 1);
		ck_assert_msg(json_equal(json_array_get(items, 1), node), "%s", text());
		json_decref(kept);
	}
	json_decref(answer);
}
END_TEST

static const struct {
	const char *pod;
	bool left;
} named[] = {
	{ POD(SAYS, "", "1"), true },
	{ POD("", "'nodeSelector':{" PRODUCT("NVIDIA-L4") "},", "1"), true },
	{ POD(SAYS, "'nodeSelector':{" PRODUCT("NVIDIA-L4") "},", "1"), false },
	{ POD(SAYS ",'vramcast.io/gpu':'a100-80gb'", "", "1"), true },
	{ POD("'vramcast.io/request':'modell=x'", "", "1"), true },
};

START_TEST(of_names_all_are_left_or_none)
{
	char body[4096];
	json_t *answer;

	snprintf(body, sizeof body, "{'Pod':%s,'Nodes':null,'NodeNames':['a','b']}", named[_i].pod);
	post_quoted("/k8s/filter", body);
	answer = document();
	ck_assert(json_is_null(json_object_get(answer, "Nodes")));
	ck_assert_uint_eq(json_array_size(json_object_get(answer, "NodeNames")), named[_i].left ? 2 : 0);
	ck_assert_uint_eq(json_object_size(json_object_get(answer, "FailedNodes")), named[_i].left ? 0 : 2);
	ck_assert(named[_i].left || strstr(member(json_object_get(answer, "FailedNodes"), "a"), "l4 has") != NULL);
	json_decref(answer);
}
END_TEST

static const char *const malformed[] = {
	"{}", "[]", "null", "{'Pod':{'spec':{}}}", "{'Pod':{},'NodeNames':[]}", "{'Pod':7,'NodeNames':[]}",
	"{'Pod':{'spec':{}},'NodeNames':'a'}", "{'Pod':{'spec':{}},'Nodes':{}}", "{'Pod':{'spec':{}},'Nodes':{'items':{}}}",
	"{'Pod':{'spec':{}},'Nodes':[]}",
};

START_TEST(what_is_no_arguments_is_a_problem)
{
	post_quoted("/k8s/filter", malformed[_i]);
	check_problem(malformed[_i], 400);
}
END_TEST

START_TEST(many_nodes_are_left_to_workers)
{
	static char body[80 * 1024];
	size_t used = (size_t)snprintf(body, sizeof body, "{\"Pod\":{\"spec\":{}},\"Nodes\":{\"items\":[0");

	while (used < 70 * 1024)
		used += (size_t)snprintf(body + used, sizeof body - used, ",{\"metadata\":{\"name\":\"node\"}}");
	snprintf(body + used, sizeof body - used, "]}}");
	context->defers = true;
	post("/k8s/filter", body);
	ck_assert(reply.deferred);
	context->defers = false;
	post("/k8s/filter", body);
	ck_assert_int_eq(reply.status, 200);
}
END_TEST

int main(void)
{
	TCase *const cases[] = { tcase_create("extender") };

	tcase_add_loop_test(cases[0], a_node_is_left_unless_its_cards_do_not_hold_the_run, 0, COUNT(nodes));
	tcase_add_loop_test(cases[0], of_names_all_are_left_or_none, 0, COUNT(named));
	tcase_add_loop_test(cases[0], what_is_no_arguments_is_a_problem, 0, COUNT(malformed));
	tcase_add_test(cases[0], many_nodes_are_left_to_workers);
	return run_cases("extender", cases, COUNT(cases));
}
