/* What a thread remembers of earlier runs (estimator/memo.h): answers with it are those without it, byte for byte. */
#include <math.h>
#include "config/vary.h"
#include "tests/ask.h"
#include "tests/drawn.h"

enum { REQUESTS = 150, VARIANTS = 4, SMALL_RING = 16 * 1024 };

static const uint64_t whole[EST_CATEGORIES] = { 1, 1, 1, 1, 1, 1 };

/* The answer to the context's request, with that memo or none. To be freed. */
static char *answer(struct est_memo *memo)
{
	struct srv_buffer buffer = { 0 };
	size_t length;

	context->arena.memo = memo;
	ck_assert(srv_run(context));
	ck_assert(srv_write_estimate(context, SRV_JSON, &buffer));
	srv_buffer_add_byte(&buffer, '\0');
	ck_assert(!buffer.failed);
	return srv_buffer_release(&buffer, &length);
}

/* Asks with the memo and without; whether the memo knew all of it. */
static bool is_known(struct est_memo *memo)
{
	uint64_t end = memo->end;
	char *remembered = answer(memo), *fresh = answer(NULL);

	ck_assert_str_eq(remembered, fresh);
	free(remembered);
	free(fresh);
	return memo->end == end;
}

/* Other cards, more of them or fewer, and another way to answer: the same run. */
static void change_cards(struct draws *draws)
{
	struct cfg_request *request = &context->request;
	size_t count;
	const struct cfg_card *cards = cfg_catalog_cards(context->edition->catalog, &count);

	request->card_count = 1 + draw(draws, 3);
	for (size_t i = 0; i < request->card_count; i++) {
		request->cards[i] = &cards[draw(draws, count)].gpu;
		request->card_words[i] = NULL;
	}
	request->request.headroom_fraction = (double)draw(draws, 5) / 10;
	request->request.include = EST_INCLUDE_TIMELINE;
	if (draw(draws, 24))
		return;
	est_request_name(&request->request, est_field_find("include"));
	request->request.include |= EST_INCLUDE_LIMITS | EST_INCLUDE_ADVICE;
}

/* A field or two with another value: mostly another run, sometimes none. */
static void change_fields(struct draws *draws)
{
	static struct est_request varied;
	const struct cfg_change changes[] = { { "micro_batch_size", (double)(1 + draw(draws, 3)) },
					      { "gradient_checkpointing", (double)draw(draws, 2) } };

	if (!cfg_vary(&context->request, changes, 1 + draw(draws, 2), &varied))
		return;
	context->request.request = varied;
}

START_TEST(an_answer_that_is_remembered_is_the_one_that_is_computed)
{
	struct draws draws = { .state = 7 };
	struct est_memo memos[2], *large = &memos[0], *small = &memos[1];
	void *bytes = malloc(1 << 20), *few = malloc(SMALL_RING);
	unsigned known = 0, lost = 0, asked = 0;

	est_memo_init(large, bytes, 1 << 20);
	est_memo_init(small, few, SMALL_RING); /* of which the oldest make room all the time */
	for (unsigned i = 0; i < REQUESTS; i++) {
		if (!draw_request(&draws, context->edition->catalog, true, &context->request))
			continue;
		for (unsigned variant = 0; variant < VARIANTS; variant++) {
			change_cards(&draws);
			known += is_known(large);
			lost += !is_known(small);
			asked++;
			if (variant % 2)
				change_fields(&draws);
		}
	}
	ck_assert_msg(asked > REQUESTS && known > asked / 4 && lost >= asked - known, "%u, of which %u and %u", asked, known, lost);
	ck_assert_uint_gt(small->end, 8 * SMALL_RING);
	free(bytes);
	free(few);
}
END_TEST

/* ---- keys */

static void begin(const char *body)
{
	json_t *read = json_loads(body, 0, NULL);

	context->faults.count = 0;
	ck_assert_msg(cfg_read_request(read, "", context->edition->catalog, &context->request, &context->faults), "%s",
		      context->faults.item[0].detail);
	json_decref(read);
	memset(context->request.card_words, 0, sizeof(context->request.card_words));
}

static bool is_same_key(const struct est_request *one, const struct est_request *other)
{
	static struct est_key key, second;

	est_key_write(&key, one, &context->request.model, EST_SDPA_HAS_FLASH, whole, 0);
	est_key_write(&second, other, &context->request.model, EST_SDPA_HAS_FLASH, whole, 0);
	ck_assert(key.whole && second.whole);
	return key.length == second.length && !memcmp(key.bytes, second.bytes, key.length);
}

/* Another value of the row; false where it has no place in the request. */
static bool change(const struct est_field *field, struct est_request *request)
{
	struct est_names *names = (struct est_names *)(void *)((char *)request + field->offset);
	double value;

	switch (field->kind) {
	case EST_FIELD_MODEL:
	case EST_FIELD_GPUS:
	case EST_FIELD_BYTES:
	case EST_FIELD_FILE:
		return false;
	case EST_FIELD_NAMES:
		names->count = 1;
		snprintf(names->name[0], sizeof(names->name[0]), "q_proj");
		return true;
	case EST_FIELD_REAL:
		est_field_set(field, request, est_field_get(field, request) + 0.125);
		return true;
	default:
		value = est_field_get(field, request);
		est_field_set(field, request, value > 0 ? value - 1 : value + 1);
		return true;
	}
}

START_TEST(every_field_is_in_the_key_but_those_that_say_how_to_answer)
{
	static struct est_request base, other;
	unsigned fields = 0;

	begin(MODEL);
	base = context->request.request;
	for (size_t i = 0; i < est_request_field_count; i++) {
		const struct est_field *field = &est_request_fields[i];

		other = base;
		if (!change(field, &other))
			continue;
		ck_assert_msg(is_same_key(&base, &other) == field->answers, "%s", field->name);
		fields++;
	}
	ck_assert_uint_gt(fields, 80);
	other = base;
	memset(other.named, 0xff, sizeof(other.named));
	ck_assert(is_same_key(&base, &other));
}
END_TEST

START_TEST(what_has_no_row_of_its_own_is_in_the_key_too)
{
	static struct est_request base, other;

	begin(MODEL);
	base = context->request.request;
#define DIFFERS(member, value) (other = base, other.member = (value), !is_same_key(&base, &other))
	ck_assert(DIFFERS(made_on_card, true));
	ck_assert(DIFFERS(selective, EST_SELECTIVE_ATTENTION));
	ck_assert(DIFFERS(every_n_layers, 3));
	ck_assert(DIFFERS(lora.target_modules.all, false));
	base.lora.target_modules.count = 2;
	strcpy(base.lora.target_modules.name[0], "ab");
	strcpy(base.lora.target_modules.name[1], "c");
	other = base;
	strcpy(other.lora.target_modules.name[0], "a");
	strcpy(other.lora.target_modules.name[1], "bc");
	ck_assert(!is_same_key(&base, &other));
	strcpy(other.lora.target_modules.name[0], "xxxxx"); /* what is left behind the end of a name is not in it */
	strcpy(other.lora.target_modules.name[0], "ab");
	strcpy(other.lora.target_modules.name[1], "c");
	ck_assert(is_same_key(&base, &other));
}
END_TEST

START_TEST(every_byte_of_the_model_is_in_the_key_but_its_names)
{
	static struct est_key key, other;
	struct est_model model;
	size_t begin_of = offsetof(struct est_model, model_type), end_of = offsetof(struct est_model, published_parameters);

	begin(MODEL);
	est_key_write(&key, &context->request.request, &context->request.model, EST_SDPA_HAS_FLASH, whole, 0);
	for (size_t i = 0; i < sizeof(model); i++) {
		bool same;

		model = context->request.model;
		((unsigned char *)&model)[i] ^= 0x55;
		est_key_write(&other, &context->request.request, &model, EST_SDPA_HAS_FLASH, whole, 0);
		same = key.length == other.length && !memcmp(key.bytes, other.bytes, key.length);
		ck_assert_msg(same == (i < begin_of || i >= end_of), "byte %zu", i);
	}
}
END_TEST

START_TEST(a_shape_is_known_by_whatever_name_it_has)
{
	json_t *config;
	const struct cfg_preset *preset = cfg_catalog_find_preset(context->edition->catalog, "llama-3.2-1b", NULL);
	char *fresh, *other;
	uint64_t end;

	begin(MODEL);
	fresh = answer(&context->outcomes);
	end = context->outcomes.end;
	config = json_pack("{s:O, s:s}", "model", json_object_get(preset->row, "config"), "gpus", "h100-sxm5-80gb");
	context->faults.count = 0;
	ck_assert(cfg_read_request(config, "", context->edition->catalog, &context->request, &context->faults));
	json_decref(config);
	memset(context->request.card_words, 0, sizeof(context->request.card_words));
	ck_assert_str_ne(context->request.model.id, "llama-3.2-1b");
	other = answer(&context->outcomes);
	ck_assert_uint_eq(context->outcomes.end, end);
	ck_assert_str_eq(strstr(fresh, "\"peak\":"), strstr(other, "\"peak\":"));
	free(fresh);
	free(other);
}
END_TEST

START_TEST(how_it_is_written_and_for_which_cards_does_not_matter)
{
	static const char *const bodies[] = {
		"{\"model\":\"llama-3.2-1b\",\"method\":\"lora\",\"lora\":{\"rank\":8}}",
		"{ \"lora\" : {\"rank\":8.0} , \"method\":\"lora\",\n\"model\":\"Llama-3.2-1B\", \"optimizer\": null}",
		"{\"model\":\"llama-3.2-1b\",\"method\":\"lora\",\"lora\":{\"rank\":8},\"gpus\":[\"l4\",\"a100-80gb\"],\"explain\":true}",
		"{\"model\":\"llama-3.2-1b\",\"method\":\"lora\",\"lora\":{\"rank\":8},\"gpu_memory_bytes\":[17179869184],\"headroom_fraction\":0.1}",
	};
	uint64_t end;

	post("/estimate", bodies[0]); /* judges all cards: every kind of run */
	ck_assert_int_eq(reply.status, 200);
	end = context->outcomes.end;
	for (int i = 1; i < COUNT(bodies); i++) {
		post(i % 2 ? "/estimate?format=csv" : "/estimate", bodies[i]);
		ck_assert_int_eq(reply.status, 200);
		ck_assert_msg(context->outcomes.end == end, "%s", bodies[i]);
	}
	post("/estimates", "{\"requests\":[{\"model\":\"llama-3.2-1b\",\"method\":\"lora\",\"lora\":{\"rank\":8},\"gpus\":\"t4\"}]}");
	ck_assert_uint_eq(context->outcomes.end, end);
	post("/estimate", "{\"model\":\"llama-3.2-1b\",\"method\":\"lora\",\"lora\":{\"rank\":9}}");
	ck_assert_uint_gt(context->outcomes.end, end);
}
END_TEST

int main(void)
{
	TCase *tcase = tcase_create("outcomes");

	tcase_set_timeout(tcase, 230);
	tcase_add_test(tcase, an_answer_that_is_remembered_is_the_one_that_is_computed);
	tcase_add_test(tcase, every_field_is_in_the_key_but_those_that_say_how_to_answer);
	tcase_add_test(tcase, what_has_no_row_of_its_own_is_in_the_key_too);
	tcase_add_test(tcase, every_byte_of_the_model_is_in_the_key_but_its_names);
	tcase_add_test(tcase, a_shape_is_known_by_whatever_name_it_has);
	tcase_add_test(tcase, how_it_is_written_and_for_which_cards_does_not_matter);
	return run_cases("outcomes", (TCase *const[]){ tcase }, 1);
}
