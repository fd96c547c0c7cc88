/* A step told by layers, and what its components are made of. */
#include "estimator/words.h"
#include "tests/ask.h"

/* Of every kind that runs otherwise: a part played twice, a schedule, checkpoints that are reentrant, two stacks, no
 * layers. */
static const char *const requests[] = {
	"{\"model\":\"llama-3.2-1b\",\"gpus\":\"h100\",\"precision\":\"bf16_mixed\"",
	"{\"model\":\"llama-3.2-1b\",\"gpus\":\"h100\",\"gradient_accumulation_steps\":8,\"gradient_checkpointing\":true",
	"{\"model\":\"llama-3.2-1b\",\"gpus\":\"h100\",\"precision\":\"bf16_mixed\",\"gradient_checkpointing\":true,\"use_reentrant\":true",
	"{\"model\":\"llama-3.2-1b\",\"gpus\":\"h100\",\"method\":\"qlora\",\"gradient_checkpointing\":true",
	"{\"model\":\"llama-3.2-1b\",\"gpus\":\"h100\",\"precision\":\"bf16_mixed\",\"parallelism\":{\"gpus\":8,\"strategy\":\"fsdp\"}",
	"{\"model\":\"llama-3.2-1b\",\"gpus\":\"h100\",\"parallelism\":{\"gpus\":8,\"strategy\":\"zero3\"}",
	"{\"model\":\"llama-3.2-1b\",\"gpus\":\"h100\",\"parallelism\":{\"gpus\":8,\"strategy\":\"zero2\"},\"gradient_accumulation_steps\":2",
	"{\"model\":\"t5-base\",\"gpus\":\"h100\",\"precision\":\"fp32\"",
	"{\"model\":\"bert-base-uncased\",\"gpus\":\"h100\",\"precision\":\"fp32\"",
	"{\"model\":\"llama-3.2-1b\",\"gpus\":\"h100\",\"framework\":\"torchtitan\",\"gradient_checkpointing\":true",
};

/* The answer to a request without its last brace, with more members. */
static json_t *answer_to(const char *request, const char *more)
{
	char body[1024];

	snprintf(body, sizeof body, "%s%s}", request, more);
	post("/estimate", body);
	ck_assert_msg(reply.status == 200, "%s: %s", body, text());
	return document();
}

static json_int_t number(const json_t *object, const char *key)
{
	return json_integer_value(json_object_get(object, key));
}

static json_int_t most(const json_t *timeline, const char *phase, const char *key)
{
	json_int_t most = -1;

	for (size_t i = 0; i < json_array_size(timeline); i++) {
		const json_t *point = json_array_get(timeline, i);

		if (!strcmp(member(point, "phase"), phase) && number(point, key) > most)
			most = number(point, key);
	}
	return most;
}

START_TEST(the_layers_of_a_phase_reach_what_the_phase_does)
{
	json_t *phases = answer_to(requests[_i], ""), *full = answer_to(requests[_i], ",\"timeline\":\"full\"");
	const json_t *coarse = json_object_get(phases, "timeline"), *fine = json_object_get(full, "timeline");

	ck_assert_uint_gt(json_array_size(fine), json_array_size(coarse));
	for (size_t i = 0; i < json_array_size(coarse); i++) {
		const json_t *phase = json_array_get(coarse, i);
		const char *name = member(phase, "phase");

		ck_assert_msg(most(fine, name, "allocated_bytes") == number(phase, "allocated_bytes"),
			      "%d %s: %lld, not %lld", _i, name,
			      (long long)most(fine, name, "allocated_bytes"), (long long)number(phase, "allocated_bytes"));
		ck_assert_msg(most(fine, name, "reserved_bytes") == number(phase, "reserved_bytes"),
			      "%d %s: %lld, not %lld reserved", _i,
			      name, (long long)most(fine, name, "reserved_bytes"), (long long)number(phase, "reserved_bytes"));
	}
	json_object_del(full, "timeline");
	json_object_del(phases, "timeline");
	ck_assert_msg(json_equal(full, phases), "%d: the rest of the answer differs", _i);
	json_decref(full);
	json_decref(phases);
}
END_TEST

START_TEST(layers_go_up_in_forward_and_down_in_backward)
{
	json_t *answer = answer_to(requests[0], ",\"timeline\":\"full\"");
	const json_t *timeline = json_object_get(answer, "timeline"), *point;
	json_int_t up = 0, down = 16;
	size_t i;

	for (i = 0; i < json_array_size(timeline); i++) {
		point = json_array_get(timeline, i);
		if (!json_object_get(point, "layer"))
			continue;
		if (!strcmp(member(point, "phase"), "forward"))
			ck_assert_int_eq(number(point, "layer"), up++);
		else
			ck_assert_int_eq(number(point, "layer"), --down);
		ck_assert_int_le(number(point, "allocated_bytes"), number(point, "reserved_bytes"));
	}
	ck_assert_int_eq(up, 16);
	ck_assert_int_eq(down, 0);
	json_decref(answer);
}
END_TEST

START_TEST(a_deep_model_is_told_in_a_bounded_number)
{
	static const char deep[] = "{\"model\":{\"parameters\":3e9,\"hidden_size\":512,\"num_hidden_layers\":1000},\"gpus\":\"h100\","
				   "\"gradient_accumulation_steps\":2,\"precision\":\"bf16\"";
	json_t *phases = answer_to(deep, ""), *full = answer_to(deep, ",\"timeline\":\"full\"");
	const json_t *fine = json_object_get(full, "timeline"), *coarse = json_object_get(phases, "timeline");

	ck_assert_uint_le(json_array_size(fine), 1024);
	ck_assert_uint_gt(json_array_size(fine), 512);
	ck_assert_int_eq(most(fine, "backward", "allocated_bytes"), number(json_array_get(coarse, 3), "allocated_bytes"));
	json_decref(full);
	json_decref(phases);
}
END_TEST

START_TEST(the_explanation_adds_up_to_the_total)
{
	const char *more = _i % 2 ? ",\"explain\":true,\"accounting\":\"rule_of_thumb\"" : ",\"explain\":true";
	json_t *answer = answer_to(requests[_i / 2], more);
	const json_t *items = json_object_get(answer, "explanation"), *rows = json_object_get(answer, "per_gpu");
	json_int_t sum = 0;

	for (size_t i = 0; i < json_array_size(items); i++) {
		const json_t *item = json_array_get(items, i);
		char key[64];

		snprintf(key, sizeof key, "%s_bytes", member(item, "component"));
		if (json_object_get(rows, key))
			ck_assert_int_eq(number(rows, key), number(item, "bytes"));
		ck_assert_uint_gt(strlen(member(item, "formula")), 20);
		ck_assert_uint_lt(strlen(member(item, "formula")), 383);
		ck_assert_uint_gt(strlen(member(item, "source")), 10);
		sum += number(item, "bytes");
	}
	ck_assert_int_eq(sum, number(rows, "total_bytes"));
	json_decref(answer);
}
END_TEST

static const char *formula_of(const json_t *answer, size_t i)
{
	return member(json_array_get(json_object_get(answer, "explanation"), i), "formula");
}

START_TEST(formulas_say_what_is_asked_for)
{
	json_t *answer = answer_to(requests[5], ",\"explain\":true");

	ck_assert_ptr_nonnull(strstr(formula_of(answer, 0), "bf16"));
	ck_assert_ptr_nonnull(strstr(formula_of(answer, 0), "zero3 shares"));
	ck_assert_ptr_nonnull(strstr(formula_of(answer, 2), "an fp32 copy"));
	json_decref(answer);
	answer = answer_to(requests[3], ",\"explain\":true");
	ck_assert_ptr_nonnull(strstr(formula_of(answer, 0), "4 bits (nf4)"));
	ck_assert_ptr_null(strstr(formula_of(answer, 0), "shares"));
	ck_assert_ptr_nonnull(strstr(formula_of(answer, 3), "checkpoints (full)"));
	json_decref(answer);
}
END_TEST

/* A text that is missing in the tables of estimator/explain.c would be no source, or "(null)". */
START_TEST(every_optimizer_and_strategy_is_explained)
{
	static const struct { const char *field; const struct est_word *words; } all[] = {
		{ "optimizer", est_optimizer_words }, { "parallelism.gpus=8&parallelism.strategy", est_strategy_words } };
	char target[128];

	for (const struct est_word *word = all[_i].words; word->name; word++) {
		json_t *answer;

		if (_i && word->value == EST_SINGLE)
			continue;
		snprintf(target, sizeof target, "/estimate?explain=true&%s=%s", all[_i].field, word->name);
		post(target, "{\"model\":\"llama-3.2-1b\",\"gpus\":\"h100\"}");
		ck_assert_msg(reply.status == 200, "%s: %s", word->name, text());
		answer = document();
		for (size_t i = 0; i < json_array_size(json_object_get(answer, "explanation")); i++) {
			const json_t *item = json_array_get(json_object_get(answer, "explanation"), i);

			ck_assert_msg(json_is_string(json_object_get(item, "source")), "%s: no source", word->name);
			ck_assert_msg(!strstr(formula_of(answer, i), "(null)"), "%s: %s", word->name, formula_of(answer, i));
		}
		json_decref(answer);
	}
}
END_TEST

START_TEST(the_query_adds_fields_to_a_body)
{
	json_t *answer;

	post("/estimate?timeline=full&explain=true&parallelism.gpus=8", "{\"model\":\"llama-3.2-1b\",\"gpus\":\"h100\","
									  "\"parallelism\":{\"strategy\":\"zero3\"}}");
	ck_assert_int_eq(reply.status, 200);
	answer = document();
	ck_assert_uint_gt(json_array_size(json_object_get(answer, "timeline")), 30);
	ck_assert_ptr_nonnull(strstr(formula_of(answer, 0), "among 8 ranks"));
	json_decref(answer);
	post("/estimate?gpus=t4", "{\"model\":\"llama-3.2-1b\",\"gpus\":\"h100\"}");
	ck_assert_int_eq(reply.status, 422);
	ck_assert_ptr_nonnull(strstr(text(), "\"/gpus\""));
	post("/estimate?colour=red", "{\"model\":\"llama-3.2-1b\",\"gpus\":\"h100\"}");
	ck_assert_int_eq(reply.status, 422);
	ck_assert_ptr_nonnull(strstr(text(), "\"/colour\""));
	post("/estimate?explain=true", "[]");
	ck_assert_int_eq(reply.status, 422);
}
END_TEST

int main(void)
{
	TCase *tcase = tcase_create("timeline");

	tcase_set_timeout(tcase, 60);
	tcase_add_loop_test(tcase, the_layers_of_a_phase_reach_what_the_phase_does, 0, COUNT(requests));
	tcase_add_test(tcase, layers_go_up_in_forward_and_down_in_backward);
	tcase_add_test(tcase, a_deep_model_is_told_in_a_bounded_number);
	tcase_add_loop_test(tcase, the_explanation_adds_up_to_the_total, 0, 2 * COUNT(requests));
	tcase_add_test(tcase, formulas_say_what_is_asked_for);
	tcase_add_loop_test(tcase, every_optimizer_and_strategy_is_explained, 0, 2);
	tcase_add_test(tcase, the_query_adds_fields_to_a_body);
	return run_cases("timeline", (TCase *const[]){ tcase }, 1);
}
