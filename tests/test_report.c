#include "tests/ask.h"

/* Whether the keys of object are exactly those of the list, in its order. */
static void check_keys(json_t *object, const char *const *keys, size_t count)
{
	void *at = json_object_iter(object);

	for (size_t i = 0; i < count; i++, at = json_object_iter_next(object, at)) {
		ck_assert_msg(at != NULL, "%s is missing", keys[i]);
		ck_assert_str_eq(json_object_iter_key(at), keys[i]);
	}
	ck_assert_msg(at == NULL, "%s is too much", at ? json_object_iter_key(at) : "");
}
#define CHECK_KEYS(object, ...)                                                                           \
	do {                                                                                              \
		static const char *const keys_[] = { __VA_ARGS__ };                                       \
		check_keys((object), keys_, sizeof keys_ / sizeof keys_[0]);                              \
	} while (0)

START_TEST(an_estimate_has_the_members_of_the_contract_in_their_order)
{
	json_t *read, *peak;

	post("/estimate", MODEL);
	ck_assert_msg(reply.status == 200, "%s", text());
	read = document();
	CHECK_KEYS(read, "model", "single_gpu", "per_gpu", "peak", "timeline", "host", "rule_of_thumb", "fits",
		   "assumptions", "warnings", "hints");
	CHECK_KEYS(json_object_get(read, "single_gpu"), "weights_bytes", "gradients_bytes", "optimizer_bytes",
		   "activations_bytes", "buffers_bytes", "overhead_bytes", "total_bytes");
	CHECK_KEYS(json_object_get(read, "per_gpu"), "weights_bytes", "gradients_bytes", "optimizer_bytes",
		   "activations_bytes", "buffers_bytes", "overhead_bytes", "total_bytes", "rank_kind");
	ck_assert_str_eq(member(json_object_get(read, "per_gpu"), "rank_kind"), "any_rank");
	peak = json_object_get(read, "peak");
	CHECK_KEYS(peak, "phase", "gpu", "at_peak", "allocated", "reserved", "device");
	CHECK_KEYS(json_object_get(peak, "at_peak"), "weights_bytes", "gradients_bytes", "optimizer_bytes",
		   "activations_bytes", "buffers_bytes", "workspace_bytes");
	CHECK_KEYS(json_object_get(peak, "device"), "low_bytes", "expected_bytes", "high_bytes");
	CHECK_KEYS(json_object_get(read, "host"), "pinned_bytes", "pageable_bytes");
	CHECK_KEYS(json_object_get(read, "rule_of_thumb"), "weights_bytes", "gradients_bytes", "optimizer_bytes",
		   "activations_bytes", "overhead_bytes", "total_bytes", "per_gpu_bytes");
	CHECK_KEYS(json_array_get(json_object_get(read, "timeline"), 0), "phase", "allocated_bytes", "reserved_bytes");
	CHECK_KEYS(json_array_get(json_object_get(read, "fits"), 0), "gpu", "name", "memory_bytes", "usable_bytes",
		   "required_bytes", "required_high_bytes", "headroom_bytes", "utilization", "verdict");
	CHECK_KEYS(json_array_get(json_object_get(read, "assumptions"), 0), "pointer", "value", "detail");
	ck_assert_str_eq(member(json_object_get(read, "model"), "id"), "llama-3.2-1b");
	json_decref(read);
}
END_TEST

START_TEST(what_follows_from_the_numbers_of_a_row_does)
{
	json_t *read, *row;
	size_t i;

	post("/estimate", "{\"model\":\"llama-3.1-8b\",\"gpus\":[\"t4\",\"a100-80gb\",\"h200-sxm-141gb\",\"l4\"]}");
	ck_assert_msg(reply.status == 200, "%s", text());
	read = document();
	json_array_foreach(json_object_get(read, "fits"), i, row) {
		json_int_t usable = json_integer_value(json_object_get(row, "usable_bytes"));
		json_int_t required = json_integer_value(json_object_get(row, "required_bytes"));
		json_int_t high = json_integer_value(json_object_get(row, "required_high_bytes"));

		ck_assert_int_eq(json_integer_value(json_object_get(row, "headroom_bytes")), usable - high);
		ck_assert_double_eq_tol(json_real_value(json_object_get(row, "utilization")),
					(double)required / (double)usable, 0.00006);
	}
	json_decref(read);
}
END_TEST

START_TEST(fits_come_in_the_order_of_the_cards_asked_for)
{
	static const char *const cards[] = { "l4", "t4", "h100-sxm5-80gb", "a100-sxm4-80gb" };
	json_t *read;

	post("/estimate",
	     "{\"model\":\"llama-3.2-1b\",\"gpus\":[\"l4\",\"T4\",\"h100-sxm5-80gb\",\"a100-sxm4-80gb\"]}");
	ck_assert_msg(reply.status == 200, "%s", text());
	read = document();
	ck_assert_uint_eq(json_array_size(json_object_get(read, "fits")), 4);
	for (size_t i = 0; i < 4; i++)
		ck_assert_str_eq(member(json_array_get(json_object_get(read, "fits"), i), "gpu"), cards[i]);
	ck_assert_str_eq(member(json_object_get(read, "peak"), "gpu"), "l4");
	json_decref(read);
}
END_TEST

START_TEST(without_cards_all_of_the_catalogue_are_judged)
{
	json_t *read;

	get("/estimate?model=llama-3.2-1b&accounting=rule_of_thumb");
	ck_assert_msg(reply.status == 200, "%s", text());
	read = document();
	ck_assert_uint_eq(json_array_size(json_object_get(read, "fits")), context->edition->gpus.count);
	json_decref(read);
}
END_TEST

START_TEST(the_rule_of_thumb_has_no_peak_and_no_timeline)
{
	json_t *read;

	post("/estimate", "{\"model\":{\"parameters\":\"8B\"},\"accounting\":\"rule_of_thumb\",\"gpus\":\"rtx-4090\"}");
	ck_assert_msg(reply.status == 200, "%s", text());
	read = document();
	CHECK_KEYS(read, "model", "single_gpu", "per_gpu", "host", "rule_of_thumb", "fits", "assumptions", "warnings",
		   "hints");
	json_decref(read);
}
END_TEST

START_TEST(include_leaves_out_what_it_does_not_name)
{
	json_t *read;

	post("/estimate", "{\"model\":\"llama-3.2-1b\",\"gpus\":\"l4\",\"include\":[\"timeline\"]}");
	ck_assert_msg(reply.status == 200, "%s", text());
	read = document();
	ck_assert_ptr_nonnull(json_object_get(read, "timeline"));
	ck_assert_ptr_null(json_object_get(read, "rule_of_thumb"));
	json_decref(read);
	post("/estimate", "{\"model\":\"llama-3.2-1b\",\"gpus\":\"l4\",\"include\":[\"rule_of_thumb\"]}");
	read = document();
	ck_assert_ptr_null(json_object_get(read, "timeline"));
	ck_assert_ptr_nonnull(json_object_get(read, "rule_of_thumb"));
	json_decref(read);
}
END_TEST

START_TEST(limits_are_answered_when_they_are_asked_for)
{
	json_t *read, *fit;

	post("/estimate", "{\"model\":\"llama-3.2-1b\",\"gpus\":\"a100-40gb\",\"include\":[\"limits\"]}");
	read = document();
	fit = json_array_get(json_object_get(read, "fits"), 0);
	ck_assert_int_eq(json_integer_value(json_object_get(fit, "min_gpus")), 1);
	ck_assert_int_gt(json_integer_value(json_object_get(fit, "max_sequence_length")), 2048);
	json_decref(read);
	post("/estimate", "{\"model\":\"llama-3.2-1b\",\"include\":[\"limits\"]}");
	check_problem("limits of all cards", 422);
	ck_assert_ptr_nonnull(strstr(text(), "\"/include\""));
	post("/estimate", MODEL);
	read = document();
	ck_assert_ptr_null(json_object_get(json_array_get(json_object_get(read, "fits"), 0), "min_gpus"));
	json_decref(read);
}
END_TEST

static const char *const advised[] = {
	"{\"model\":\"llama-3.2-1b\",\"gpus\":[\"rtx-4090\",\"l4\"],\"micro_batch_size\":4,\"include\":[\"advice\"]}",
	"{\"model\":\"llama-3.2-1b\",\"gpus\":[\"l4\"],\"method\":\"lora\",\"lora\":{\"rank\":64},\"attention\":\"eager\",\"include\":[\"advice\"]}",
	"{\"model\":\"llama-3.2-1b\",\"gpus\":[\"l4\"],\"parallelism\":{\"strategy\":\"ddp\",\"gpus\":4},\"include\":[\"advice\"]}",
};

/* What a client would do with advice: takes its change into the request. The card's verdict then, and what it
 * requires. */
static json_t *follow(const char *asked, const json_t *change)
{
	json_t *body = json_loads(asked, 0, NULL), *read, *fits;
	char *dumped;

	json_object_del(body, "include");
	json_object_update_recursive(body, (json_t *)(uintptr_t)change);
	dumped = json_dumps(body, 0);
	post("/estimate", dumped);
	ck_assert_msg(reply.status == 200, "%s: %s", dumped, text());
	read = document();
	fits = json_incref(json_object_get(read, "fits"));
	free(dumped);
	json_decref(body);
	json_decref(read);
	return fits;
}

START_TEST(advice_that_is_followed_does_what_it_says)
{
	json_t *read, *advice, *item;
	size_t i;

	post("/estimate", advised[_i]);
	ck_assert_int_eq(reply.status, 200);
	read = document();
	advice = json_object_get(read, "advice");
	ck_assert_uint_ge(json_array_size(advice), 5);
	json_array_foreach(advice, i, item) {
		json_t *fits = follow(advised[_i], json_object_get(item, "change")), *first = json_array_get(fits, 0);
		bool makes_first_fit = false;
		size_t k;
		json_t *id;

		ck_assert_int_eq(json_integer_value(json_object_get(first, "required_bytes")),
				 json_integer_value(json_object_get(item, "required_bytes")));
		ck_assert_int_gt(json_integer_value(json_object_get(item, "saves_bytes")), 0);
		ck_assert_msg(*member(item, "cost"), "no cost");
		json_array_foreach(json_object_get(item, "makes_fit"), k, id)
			makes_first_fit |= !strcmp(json_string_value(id), member(first, "gpu"));
		if (makes_first_fit)
			ck_assert_str_eq(member(first, "verdict"), "fits");
		json_decref(fits);
	}
	json_decref(read);
}
END_TEST

#define AFFINITY(key, operator, value) "{'nodeAffinity':{'requiredDuringSchedulingIgnoredDuringExecution':{'nodeSelectorTerms':[" \
	"{'matchExpressions':[{'key':'" key "','operator':'" operator "','values':['" value "']}]}]}}}"

static const struct {
	const char *name, *body, *slurm, *kubernetes, *ray;
} hinted[] = {
	{ "one card", "'gpus':'l4'", "--nodes=1 --ntasks-per-node=1 --gres=gpu:1 --constraint=\"l4\"",
	  "{'nvidia.com/gpu':1,'pods':1,'resources':{'limits':{'nvidia.com/gpu':1}},'nvidia.com/gpu.product':['NVIDIA-L4'],"
	  "'affinity':" AFFINITY("nvidia.com/gpu.product", "In", "NVIDIA-L4") "}",
	  "{'num_workers':1,'use_gpu':true,'resources_per_worker':{'GPU':1},'accelerator_type':'L4'}" },
	{ "by the client's words, those that fit", "'gpus':['t4','H100','l40s']",
	  "--nodes=1 --ntasks-per-node=1 --gres=gpu:1 --constraint=\"H100|l40s\"", NULL, NULL },
	{ "a word that no shell takes", "'gpus':'NVIDIA L4'",
	  "--nodes=1 --ntasks-per-node=1 --gres=gpu:1 --constraint=\"l4\"", NULL, NULL },
	{ "two nodes", "'gpus':'h100-sxm5-80gb','parallelism':{'gpus':16}",
	  "--nodes=2 --ntasks-per-node=8 --gres=gpu:8 --constraint=\"h100-sxm5-80gb\"",
	  "{'nvidia.com/gpu':8,'pods':2,'resources':{'limits':{'nvidia.com/gpu':8}},'nvidia.com/gpu.product':['NVIDIA-H100-80GB-HBM3'],"
	  "'affinity':" AFFINITY("nvidia.com/gpu.product", "In", "NVIDIA-H100-80GB-HBM3") "}",
	  "{'num_workers':16,'use_gpu':true,'resources_per_worker':{'GPU':1},'accelerator_type':'H100'}" },
	{ "AMD's plugin", "'gpus':'mi300x','parallelism':{'gpus':4,'gpus_per_node':2}",
	  "--nodes=2 --ntasks-per-node=2 --gres=gpu:2 --constraint=\"mi300x\"",
	  "{'amd.com/gpu':2,'pods':2,'resources':{'limits':{'amd.com/gpu':2}}}",
	  "{'num_workers':4,'use_gpu':true,'resources_per_worker':{'GPU':1},'accelerator_type':'AMD-Instinct-MI300X-OAM'}" },
	{ "none fits", "'gpus':'t4'", "--nodes=1 --ntasks-per-node=1 --gres=gpu:1",
	  "{'nvidia.com/gpu':1,'pods':1,'resources':{'limits':{'nvidia.com/gpu':1}},'nvidia.com/gpu.product':[]}",
	  "{'num_workers':1,'use_gpu':true,'resources_per_worker':{'GPU':1},'accelerator_type':'T4'}" },
};

static void check_hint(const char *name, const json_t *hint, const char *expected)
{
	char body[512];
	json_t *wanted;

	if (!expected)
		return;
	snprintf(body, sizeof body, "%s", expected);
	for (char *at = body; (at = strchr(at, '\''));)
		*at = '"';
	wanted = json_loads(body, 0, NULL);
	ck_assert_msg(wanted != NULL, "%s", body);
	ck_assert_msg(json_equal(hint, wanted), "%s: %s", name, text());
	json_decref(wanted);
}

START_TEST(hints_are_ready_to_paste)
{
	char body[256];
	json_t *read, *hints;

	snprintf(body, sizeof body, "{'model':'qwen3-0.6b','method':'lora',%s}", hinted[_i].body);
	for (char *at = body; (at = strchr(at, '\''));)
		*at = '"';
	post("/estimate", body);
	ck_assert_msg(reply.status == 200, "%s: %s", hinted[_i].name, text());
	read = document();
	hints = json_object_get(read, "hints");
	ck_assert_str_eq(member(json_object_get(hints, "slurm"), "options"), hinted[_i].slurm);
	check_hint(hinted[_i].name, json_object_get(hints, "kubernetes"), hinted[_i].kubernetes);
	check_hint(hinted[_i].name, json_object_get(hints, "ray"), hinted[_i].ray);
	json_decref(read);
}
END_TEST

/* A node with one MiB less than the least that is taken is short of what the run needs at most. */
START_TEST(without_names_nodes_are_chosen_by_memory)
{
	static const char path[] = "nodeSelectorTerms";
	json_t *read, *term;
	const json_t *affinity, *fit;
	long long least, needed;

	get("/estimate?model=qwen3-0.6b&method=lora");
	read = document();
	affinity = json_object_get(json_object_get(json_object_get(read, "hints"), "kubernetes"), "affinity");
	affinity = json_object_get(json_object_get(affinity, "nodeAffinity"),
				   "requiredDuringSchedulingIgnoredDuringExecution");
	term = json_array_get(json_object_get(json_array_get(json_object_get(affinity, path), 0), "matchExpressions"), 0);
	ck_assert_str_eq(member(term, "key"), "nvidia.com/gpu.memory");
	ck_assert_str_eq(member(term, "operator"), "Gt");
	least = atoll(json_string_value(json_array_get(json_object_get(term, "values"), 0)));
	fit = json_array_get(json_object_get(read, "fits"), 0);
	needed = json_integer_value(json_object_get(fit, "required_high_bytes"));
	ck_assert_int_lt(least * 1048576, needed);
	ck_assert_int_ge((least + 1) * 1048576, needed);
	ck_assert_ptr_null(json_object_get(json_object_get(json_object_get(read, "hints"), "slurm"), "constraint"));
	json_decref(read);
}
END_TEST

START_TEST(get_and_post_give_the_same_bytes)
{
	char *posted;

	post("/estimate", "{\"model\":\"llama-3.2-1b\",\"parallelism\":{\"strategy\":\"zero3\",\"gpus\":8},"
			  "\"gradient_checkpointing\":true,\"gpus\":[\"l4\",\"t4\"]}");
	ck_assert_msg(reply.status == 200, "%s", text());
	posted = strdup(text());
	get("/estimate?model=llama-3.2-1b&parallelism.strategy=zero3&parallelism.gpus=8&gradient_checkpointing=true"
	    "&gpus=l4&gpus=t4&format=json");
	ck_assert_str_eq(text(), posted);
	free(posted);
}
END_TEST

START_TEST(the_same_request_gives_the_same_bytes)
{
	char *first;

	post("/estimate", MODEL);
	first = strdup(text());
	post("/estimate", "{\"model\":\"qwen2.5-7b\",\"gpus\":\"l4\"}");
	post("/estimate", MODEL);
	ck_assert_str_eq(text(), first);
	free(first);
}
END_TEST

START_TEST(an_estimate_comes_in_every_format)
{
	static const struct {
		const char *format, *type;
		size_t lines;
	} formats[] = {
		{ "csv", "text/csv; charset=utf-8; header=present", 3 },
		{ "ndjson", "application/x-ndjson", 2 },
		{ "table", "text/plain; charset=utf-8", 31 },
		{ "records", "application/json", 0 },
	};
	char target[64];

	snprintf(target, sizeof target, "/estimate?format=%s", formats[_i].format);
	post(target, "{\"model\":\"llama-3.2-1b\",\"gpus\":[\"l4\",\"t4\"]}");
	ck_assert_msg(reply.status == 200, "%s", text());
	ck_assert_str_eq(reply.content_type, formats[_i].type);
	ck_assert_uint_eq(count_lines(text()), formats[_i].lines);
	ck_assert_ptr_nonnull(strstr(text(), "l4"));
}
END_TEST

/* Columns stand under one another, and what was not asked for is left out. */
START_TEST(a_table_is_for_people)
{
	const char *line;

	post("/estimate?format=table", "{\"model\":\"llama-3.2-1b\",\"gpus\":\"l4\",\"neftune_noise_alpha\":null,\"parallelism\":{\"gpus\":4},"
				       "\"from\":{\"training_arguments\":{\"neftune_noise_alpha\":5}}}");
	ck_assert_int_eq(reply.status, 422); /* a field that there is not, null or not */
	post("/estimate?format=table", "{\"model\":\"llama-3.2-1b\",\"gpus\":\"l4\",\"parallelism\":{\"gpus\":4},"
				       "\"from\":{\"training_arguments\":{\"neftune_noise_alpha\":5}}}");
	ck_assert_int_eq(reply.status, 200);
	ck_assert_msg(!strncmp(text(), "llama-3.2-1b: 1.24 billion parameters, 1.24 billion trained; full, ", 67),
		      "%.80s", text());
	ck_assert_ptr_nonnull(strstr(text(), "\n8 x 2048 tokens, checkpointing none, "));
	ck_assert_ptr_nonnull(strstr(text(), "; GPUs: 4, sharing ddp\n"));
	line = strstr(text(), "\ncomponent    one_gpu GiB  per_gpu GiB  at_peak GiB\n");
	ck_assert_ptr_nonnull(line);
	for (line = strchr(line + 1, '\n') + 1; *line != '\n'; line = strchr(line, '\n') + 1)
		ck_assert_uint_eq(strcspn(line, "\n"), strlen("component    one_gpu GiB  per_gpu GiB  at_peak GiB"));
	ck_assert_ptr_nonnull(strstr(text(), "\nwarning: /from /from/training_arguments/neftune_noise_alpha adds noise"));
	post("/estimate?format=table", "{\"model\":\"llama-3.2-1b\",\"gpus\":\"l4\",\"accounting\":\"rule_of_thumb\"}");
	ck_assert_ptr_nonnull(strstr(text(), "\ncomponent    per_gpu GiB\n"));
	ck_assert_ptr_null(strstr(text(), "\npeak "));
}
END_TEST

/* Below the verdicts: warnings, assumptions with their reasons, and the plain defaults, all that JSON tells. */
START_TEST(a_table_ends_with_what_was_assumed)
{
	static const char request[] = "{\"model\":\"llama-3.2-1b\",\"gpus\":\"l4\",\"method\":\"qlora\",\"versions\":{\"torch\":\"2.8\"}}";
	char *table;
	const char *at, *defaults, *verdict;
	json_t *answer;
	size_t i;
	const json_t *note;

	post("/estimate?format=table", request);
	table = strdup(text());
	verdict = strstr(table, "\nl4 ");
	at = strstr(table, "\nwarning: /versions/torch older than");
	ck_assert_msg(verdict && at > verdict, "%s", table);
	at = strstr(at, "\n\nassumed ");
	ck_assert_ptr_nonnull(at);
	ck_assert_ptr_null(strstr(table, "not named"));
	defaults = strstr(at, "\n\nby default: framework transformers, ");
	ck_assert_ptr_nonnull(defaults);
	post("/estimate", request);
	answer = document();
	ck_assert_uint_gt(json_array_size(json_object_get(answer, "assumptions")), 20);
	json_array_foreach(json_object_get(answer, "assumptions"), i, note) {
		bool plain = !strcmp(member(note, "detail"), "not named: the default");
		char name[64], line[128];

		snprintf(name, sizeof name, "%s", member(note, "pointer") + 1);
		for (char *slash = name; (slash = strchr(slash, '/')); )
			*slash = '.';
		snprintf(line, sizeof line, "%s %s", name, plain ? *member(note, "value") ? member(note, "value") : "none" : "");
		verdict = strstr(plain ? defaults : at, line);
		ck_assert_msg(verdict && (plain || verdict < defaults), "%s", line);
	}
	for (at = defaults + 2; *at; at = strchr(at, '\n') + 1)
		ck_assert_uint_le(strcspn(at, "\n"), 120);
	json_decref(answer);
	free(table);
}
END_TEST

START_TEST(short_of_memory_is_a_503_and_the_next_request_is_answered)
{
	size_t size = context->arena.size;

	context->arena.size = 0;
	post("/estimate", MODEL);
	ck_assert_str_eq(header("Retry-After"), "1");
	check_problem("no work space", 503);
	context->arena.size = size;
	post("/estimate", MODEL);
	ck_assert_int_eq(reply.status, 200);
}
END_TEST

static TCase *estimate_tests(void)
{
	TCase *test = tcase_create("estimate");

	tcase_add_test(test, an_estimate_has_the_members_of_the_contract_in_their_order);
	tcase_add_test(test, what_follows_from_the_numbers_of_a_row_does);
	tcase_add_test(test, fits_come_in_the_order_of_the_cards_asked_for);
	tcase_add_test(test, without_cards_all_of_the_catalogue_are_judged);
	tcase_add_test(test, the_rule_of_thumb_has_no_peak_and_no_timeline);
	tcase_add_test(test, include_leaves_out_what_it_does_not_name);
	tcase_add_test(test, limits_are_answered_when_they_are_asked_for);
	tcase_add_loop_test(test, advice_that_is_followed_does_what_it_says, 0, COUNT(advised));
	tcase_add_loop_test(test, hints_are_ready_to_paste, 0, COUNT(hinted));
	tcase_add_test(test, a_table_is_for_people);
	tcase_add_test(test, a_table_ends_with_what_was_assumed);
	tcase_add_test(test, without_names_nodes_are_chosen_by_memory);
	tcase_add_test(test, get_and_post_give_the_same_bytes);
	tcase_add_test(test, the_same_request_gives_the_same_bytes);
	tcase_add_loop_test(test, an_estimate_comes_in_every_format, 0, 4);
	tcase_add_test(test, short_of_memory_is_a_503_and_the_next_request_is_answered);
	return test;
}

int main(void)
{
	TCase *const cases[] = { estimate_tests() };

	return run_cases("report", cases, COUNT(cases));
}
