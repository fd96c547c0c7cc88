#include "server/memo.h"
#include "tests/ask.h"

static struct srv_memo memo;

static struct srv_memo_key key_of(const char *query, const char *body, uint64_t setting)
{
	return (struct srv_memo_key){ query, body, body ? strlen(body) : 0, setting };
}

static void keep(const char *query, const char *body, uint64_t setting, const char *answer, size_t length)
{
	struct srv_memo_key key = key_of(query, body, setting);

	srv_memo_keep(&memo, &key, answer, length);
}

/* The answer; NULL when there is none. */
static const char *find(const char *query, const char *body, uint64_t setting)
{
	static char answer[1024];
	struct srv_memo_key key = key_of(query, body, setting);
	struct srv_memory *found = srv_memo_find(&memo, &key);
	const char *bytes;
	size_t length;

	if (!found)
		return NULL;
	bytes = srv_memory_bytes(found, &length);
	ck_assert_uint_lt(length, sizeof answer);
	memcpy(answer, bytes, length);
	answer[length] = '\0';
	return answer;
}

START_TEST(an_answer_is_found_by_all_that_it_depends_on)
{
	ck_assert_ptr_null(find(NULL, "body", 1));
	keep(NULL, "body", 1, "one", 3);
	ck_assert_str_eq(find(NULL, "body", 1), "one");
	ck_assert_ptr_null(find(NULL, "bodx", 1));
	ck_assert_ptr_null(find(NULL, "bod", 1));
	ck_assert_ptr_null(find("b", "ody", 1)); /* the same bytes, cut elsewhere */
	ck_assert_ptr_null(find(NULL, "body", 2));
	ck_assert_ptr_null(find(NULL, NULL, 1));
	keep("q=1", NULL, 1, "two", 3);
	ck_assert_str_eq(find("q=1", NULL, 1), "two");
	keep(NULL, "body", 1, "three", 5);
	ck_assert_str_eq(find(NULL, "body", 1), "three");
	srv_memo_finish(&memo);
	ck_assert_ptr_null(find(NULL, "body", 1));
}
END_TEST

START_TEST(an_answer_takes_the_place_of_one_with_its_hash)
{
	char body[32];
	unsigned found = 0;

	for (unsigned i = 0; i < 4 * SRV_MEMO_SLOTS; i++) {
		snprintf(body, sizeof body, "body %u", i);
		keep(NULL, body, 1, body, strlen(body));
		ck_assert_str_eq(find(NULL, body, 1), body);
	}
	for (unsigned i = 0; i < 4 * SRV_MEMO_SLOTS; i++) {
		const char *answer;

		snprintf(body, sizeof body, "body %u", i);
		answer = find(NULL, body, 1);
		ck_assert(!answer || !strcmp(answer, body));
		found += answer != NULL;
	}
	ck_assert_uint_gt(found, SRV_MEMO_SLOTS / 2);
	ck_assert_uint_le(found, SRV_MEMO_SLOTS);
	srv_memo_finish(&memo);
}
END_TEST

START_TEST(an_answer_that_is_held_outlives_the_memo)
{
	const struct srv_memo_key key = { NULL, "body", 4, 1 };
	struct srv_memory *held = srv_memo_keep(&memo, &key, "one", 3);
	size_t length;

	ck_assert_ptr_eq(srv_memo_find(&memo, &key), held);
	srv_memory_hold(held);
	srv_memo_keep(&memo, &key, "three", 5);
	ck_assert_str_eq(find(NULL, "body", 1), "three");
	srv_memo_finish(&memo);
	ck_assert_mem_eq(srv_memory_bytes(held, &length), "one", 3);
	ck_assert_uint_eq(length, 3);
	srv_memory_release(held);
}
END_TEST

START_TEST(what_is_long_is_not_remembered)
{
	static char long_body[SRV_MEMO_REQUEST_MAX + 2], long_answer[SRV_MEMO_ANSWER_MAX + 1];

	memset(long_body, 'x', sizeof long_body - 1);
	keep(NULL, long_body, 1, "answer", 6);
	ck_assert_ptr_null(find(NULL, long_body, 1));
	keep(NULL, "body", 1, long_answer, sizeof long_answer);
	ck_assert_ptr_null(find(NULL, "body", 1));
}
END_TEST

static char *copy_of_answer(void)
{
	size_t length;
	const char *body = srv_reply_body(&reply, &length);
	char *copy = malloc(length + 1);

	memcpy(copy, body, length);
	copy[length] = '\0';
	return copy;
}

/* Whether the request was answered without being read as fields. */
static bool is_known(const char *target, const char *body)
{
	enum { NEVER = CFG_CARDS_MAX + 1 };

	context->request.card_count = NEVER;
	post(target, body);
	ck_assert_msg(reply.status == 200, "%s", body);
	return context->request.card_count == NEVER;
}

START_TEST(a_request_in_another_spelling_gets_the_same_answer)
{
	static const char *const same[] = {
		"{\"model\":\"llama-3.2-1b\",\"lora\":{\"rank\":8,\"dropout\":0.05},\"method\":\"lora\",\"gpus\":[\"t4\",\"l4\"]}",
		"{ \"gpus\":[\"t4\",\n\"l4\"], \"lora\":{\"dropout\":5e-2,\"rank\":8}, \"method\":\"lora\", \"model\":\"llama-3.2-1b\"}",
		"{\"\\u006dodel\":\"llama-3.2-1b\",\"method\":\"l\\u006fra\",\"gpus\":[\"t4\",\"l4\"],\"lora\":{\"rank\":8,\"dropout\":0.05}}",
	};
	static const char *const other[] = {
		"{\"gpus\":[\"l4\",\"t4\"],\"model\":\"llama-3.2-1b\",\"lora\":{\"rank\":8,\"dropout\":0.05},\"method\":\"lora\"}",
		"{\"gpus\":[\"T4\",\"l4\"],\"model\":\"llama-3.2-1b\",\"lora\":{\"rank\":8,\"dropout\":0.05},\"method\":\"lora\"}",
	};
	char *first;

	ck_assert(!is_known("/estimate", same[0]));
	first = copy_of_answer();
	for (int i = 0; i < COUNT(same); i++) {
		ck_assert_msg(is_known("/estimate", same[i]), "%s", same[i]);
		ck_assert_str_eq(text(), first);
	}
	ck_assert(is_known("/estimate?method=lora", "{\"model\":\"llama-3.2-1b\",\"lora\":{\"dropout\":0.05,\"rank\":8},\"gpus\":[\"t4\",\"l4\"]}"));
	ck_assert(!is_known("/estimate?format=csv", same[1]));
	for (int i = 0; i < COUNT(other); i++)
		ck_assert_msg(!is_known("/estimate", other[i]), "%s", other[i]);
	free(first);
}
END_TEST

/* In what order a file names its keys is told: ignored lists them so. */
START_TEST(the_order_within_a_file_is_not_lost)
{
	static const char *const bodies[] = {
		"{\"from\":{\"axolotl\":{\"base_model\":\"llama-3.2-1b\",\"seed\":1,\"wandb_project\":\"x\"}},\"gpus\":\"t4\"}",
		"{\"from\":{\"axolotl\":{\"base_model\":\"llama-3.2-1b\",\"wandb_project\":\"x\",\"seed\":1}},\"gpus\":\"t4\"}",
	};
	char *first;

	ck_assert(!is_known("/estimate", bodies[0]));
	first = copy_of_answer();
	ck_assert(!is_known("/estimate", bodies[1]));
	ck_assert_str_ne(text(), first);
	free(first);
}
END_TEST

START_TEST(a_request_that_comes_again_gets_the_same_answer)
{
	static const char *const targets[] = { "/estimate", "/estimate?format=csv", "/estimate?sequence_length=512" };
	char *first[COUNT(targets)];

	for (int i = 0; i < COUNT(targets); i++) {
		post(targets[i], MODEL);
		ck_assert_int_eq(reply.status, 200);
		first[i] = copy_of_answer();
		ck_assert(i == 0 || strcmp(first[i], first[0]));
	}
	memset(&context->report, 0, sizeof context->report); /* nothing is written from these again */
	memset(&context->request, 0, sizeof context->request);
	for (int i = 0; i < COUNT(targets); i++) {
		char *second;

		post(targets[i], MODEL);
		ck_assert_int_eq(reply.status, 200);
		ck_assert_str_eq(reply.content_type, i == 1 ? "text/csv; charset=utf-8; header=present" : "application/json");
		second = copy_of_answer();
		ck_assert_str_eq(first[i], second);
		ck_assert_uint_eq(context->request.card_count, 0);
		free(second);
		free(first[i]);
	}
}
END_TEST

START_TEST(a_fault_is_found_again)
{
	for (int i = 0; i < 2; i++) {
		post("/estimate", "{\"model\":\"llama-3.2-1b\",\"sequence_length\":0}");
		check_problem("a length of 0", 422);
	}
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("memo");
	TCase *test = tcase_create("memo");

	tcase_add_unchecked_fixture(test, start, stop);
	tcase_set_timeout(test, 60);
	tcase_add_test(test, an_answer_is_found_by_all_that_it_depends_on);
	tcase_add_test(test, an_answer_takes_the_place_of_one_with_its_hash);
	tcase_add_test(test, an_answer_that_is_held_outlives_the_memo);
	tcase_add_test(test, what_is_long_is_not_remembered);
	tcase_add_test(test, a_request_in_another_spelling_gets_the_same_answer);
	tcase_add_test(test, the_order_within_a_file_is_not_lost);
	tcase_add_test(test, a_request_that_comes_again_gets_the_same_answer);
	tcase_add_test(test, a_fault_is_found_again);
	suite_add_tcase(suite, test);
	return run_suite(suite);
}
