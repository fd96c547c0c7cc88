#include <stdlib.h>
#include <string.h>
#include "estimator/model.h"
#include "estimator/step.h"
#include "estimator/support.h"
#include "estimator/task.h"
#include "tests/suite.h"

/* b sequences of s tokens, a hidden size with heads that divide it: no product is rounded to 512. */
enum { B = 2, S = 512, T = 256, N = B * S, M = B * T, H = 1024, F = 4096, HEADS = 16, V = 32768, P = 512,
       BUCKETS = 32 };

static struct est_arena arena;
static struct est_program program;

static void set_up(void)
{
	size_t size = est_program_arena_size(4);

	est_arena_init(&arena, malloc(size), size);
	memset(arena.base, 0xa5, size);
}

static void tear_down(void)
{
	free(arena.base);
}

static const struct est_model bert = {
	.architecture = EST_ARCH_BERT, .vocab_size = V, .hidden_size = H, .num_hidden_layers = 1, .num_attention_heads = HEADS,
	.num_key_value_heads = HEADS, .head_dim = H / HEADS, .intermediate_size = F, .max_position_embeddings = P,
	.tie_word_embeddings = true, .qkv_bias = true, .o_bias = true, .mlp_bias = true, .norm = EST_LAYERNORM,
	.norms_per_layer = 2, .final_norm = true, .activation = EST_GELU, .position = EST_LEARNED_POSITIONS,
	.partial_rotary_factor = 1, .attention_dropout = 0.1, .residual_dropout = 0.1, .embedding_dropout = 0.1,
	.classifier_dropout = 0.1, .type_vocab_size = 2, .pooler = true, .num_labels = 2,
};

static const struct est_model t5 = {
	.architecture = EST_ARCH_T5, .vocab_size = V, .hidden_size = H, .num_hidden_layers = 1, .num_decoder_layers = 1,
	.num_attention_heads = HEADS, .num_key_value_heads = HEADS, .head_dim = H / HEADS, .intermediate_size = F,
	.tie_word_embeddings = true, .norm = EST_RMSNORM, .norms_per_layer = 2, .final_norm = true, .activation = EST_RELU,
	.position = EST_RELATIVE_POSITIONS, .partial_rotary_factor = 1, .attention_dropout = 0.1, .residual_dropout = 0.1,
	.relative_attention_num_buckets = BUCKETS, .scale_decoder_outputs = true,
};

static struct est_request request_of(enum est_task task)
{
	return (struct est_request){
		.precision = EST_PURE_BF16, .optimizer = EST_ADAMW_TORCH_FUSED, .max_grad_norm = 1, .micro_batch_size = B,
		.sequence_length = S, .target_length = T, .gradient_accumulation_steps = 1, .task = task,
		.parallelism = { .gpus = 1, .gpus_per_node = 8, .tensor = 1, .pipeline = 1, .context = 1, .expert = 1 },
	};
}

static void trace(const struct est_model *model, const struct est_request *request)
{
	static const uint64_t whole[EST_CATEGORIES] = { 1, 1, 1, 1, 1, 1 };

	arena.used = 0;
	ck_assert(est_program_trace(&program, model, request, true, whole, &arena));
}

/* What is alive, beyond what the parts before have left, when the loss begins. */
static uint64_t kept_by_forward(const struct est_model *model, const struct est_request *request)
{
	uint64_t alive = 0;

	trace(model, request);
	for (size_t i = program.begin[EST_PART_MICRO_FIRST]; i < program.end[EST_PART_MICRO_FIRST]; i++) {
		const struct est_event *event = &program.events[i];

		if (event->kind == EST_EVENT_PHASE && event->id == EST_PHASE_LOSS_FORWARD)
			return alive;
		if (event->kind != EST_EVENT_PHASE)
			alive += event->kind == EST_EVENT_ALLOC ? event->bytes : -event->bytes;
	}
	ck_abort_msg("no loss");
	return 0;
}

/* What one more layer of a stack keeps. */
static uint64_t kept_by_layer(const struct est_model *model, size_t layers_offset, const struct est_request *request)
{
	struct est_model deeper = *model;
	int64_t *layers = (int64_t *)(void *)((char *)&deeper + layers_offset);
	uint64_t less = kept_by_forward(model, request);

	*layers += 1;
	return kept_by_forward(&deeper, request) - less;
}

static size_t encoder_layers(void)
{
	return offsetof(struct est_model, num_hidden_layers);
}

static size_t decoder_layers(void)
{
	return offsetof(struct est_model, num_decoder_layers);
}

/* ---- layers */

/* q, k, v 6h; output 2h and its logsumexp; each of two dropouts a mask h, a sum 2h, LayerNorm's result 2h and two
 * fp32 statistics; up's result and gelu's 8h each */
static uint64_t bert_layer(void)
{
	return (uint64_t)N * (34 * H + 4 * HEADS + 16);
}

START_TEST(a_bert_layer_keeps_34_bytes_per_token_and_feature)
{
	struct est_request request = request_of(EST_MASKED_LM);

	ck_assert_uint_eq(kept_by_layer(&bert, encoder_layers(), &request), bert_layer());
}
END_TEST

/* scores before softmax go; softmax's result and dropout's 2 bytes each, the mask 1, contiguous q, k and v; no
 * logsumexp */
START_TEST(eager_attention_keeps_five_bytes_per_score)
{
	struct est_request request = request_of(EST_MASKED_LM);

	request.attention = EST_EAGER;
	ck_assert_uint_eq(kept_by_layer(&bert, encoder_layers(), &request),
			  bert_layer() - (uint64_t)4 * HEADS * N + (uint64_t)5 * HEADS * N * S);
}
END_TEST

START_TEST(a_mask_is_shared_and_its_bias_is_each_layers)
{
	struct est_request request = request_of(EST_MASKED_LM);

	request.attention_mask = true;
	ck_assert_uint_eq(kept_by_layer(&bert, encoder_layers(), &request), bert_layer() + (uint64_t)2 * N * S);
}
END_TEST

START_TEST(a_checkpointed_layer_keeps_its_input)
{
	struct est_request request = request_of(EST_MASKED_LM);

	request.checkpointing = EST_CHECKPOINT_FULL;
	ck_assert_uint_eq(kept_by_layer(&bert, encoder_layers(), &request), (uint64_t)2 * N * H);
}
END_TEST

/* distilbert has no dropout behind its attention */
START_TEST(a_distilbert_layer_keeps_one_mask_less)
{
	struct est_request request = request_of(EST_MASKED_LM);
	struct est_model model = bert;

	model.architecture = EST_ARCH_DISTILBERT;
	model.type_vocab_size = 0;
	ck_assert_uint_eq(kept_by_layer(&model, encoder_layers(), &request), bert_layer() - (uint64_t)N * H);
}
END_TEST

/* Per token: a norm keeps 4h + 2h + 2h and 4; a residual branch a mask h and a sum 2h; the MLP relu's and dropout's
 * results 2f each and a mask f. Attention: q, k, v, output 8h, logsumexp 4 a head, a copy of the position bias. */
static uint64_t t5_encoder_layer(void)
{
	return (uint64_t)N * (2 * (8 * H + 4) + 2 * 3 * H + 5 * F + 8 * H + 4 * HEADS) + (uint64_t)2 * HEADS * S * S;
}

START_TEST(a_t5_layer_keeps_a_copy_of_the_position_bias)
{
	struct est_request request = request_of(EST_SEQUENCE_TO_SEQUENCE);

	ck_assert_uint_eq(kept_by_layer(&t5, encoder_layers(), &request), t5_encoder_layer());
}
END_TEST

/* + a norm, a branch and an attention whose k and v are of the encoder's tokens; booleans say what is causal */
static uint64_t t5_decoder_layer(void)
{
	uint64_t own = (uint64_t)M * (3 * (8 * H + 4) + 3 * 3 * H + 5 * F + 8 * H + 4 * H + 2 * 4 * HEADS);

	return own + (uint64_t)4 * N * H + (uint64_t)2 * HEADS * T * T + (uint64_t)T * T;
}

START_TEST(a_t5_decoder_layer_attends_to_the_encoder_too)
{
	struct est_request request = request_of(EST_SEQUENCE_TO_SEQUENCE);

	ck_assert_uint_eq(kept_by_layer(&t5, decoder_layers(), &request), t5_decoder_layer());
}
END_TEST

START_TEST(a_gate_keeps_two_projections_and_their_product)
{
	struct est_request request = request_of(EST_SEQUENCE_TO_SEQUENCE);
	struct est_model model = t5;

	model.architecture = EST_ARCH_T5_GATED;
	model.gated_mlp = true;
	model.activation = EST_GELU;
	/* 2f each: gelu's input and result, the other projection, dropout's result; without a gate relu's and dropout's */
	ck_assert_uint_eq(kept_by_layer(&model, encoder_layers(), &request), t5_encoder_layer() + (uint64_t)4 * N * F);
}
END_TEST

/* ---- parameters */

static uint64_t weights(const struct est_model *model, enum est_task task)
{
	struct est_request request = request_of(task);
	uint64_t bytes = 0;

	trace(model, &request);
	for (size_t i = program.begin[EST_PART_LOAD]; i < program.end[EST_PART_LOAD]; i++)
		if (program.events[i].kind == EST_EVENT_ALLOC && program.events[i].category == EST_WEIGHTS)
			bytes += program.events[i].bytes;
	return bytes;
}

enum {
	LAYERNORM = 2 * H, DENSE = H * H + H,
	BERT_LAYER = 4 * DENSE + 2 * H * F + F + H + 2 * LAYERNORM,
	BERT_BODY = (V + P + 2) * H + LAYERNORM + BERT_LAYER,
	T5_LAYER = 4 * H * H + 2 * H * F + 2 * H, T5_DECODER_LAYER = T5_LAYER + 4 * H * H + H,
	T5_BODY = V * H + T5_LAYER + T5_DECODER_LAYER + 2 * H + 2 * BUCKETS * HEADS
};

START_TEST(counts_are_those_of_the_bare_model)
{
	ck_assert_int_eq(est_model_count_parameters(&bert), BERT_BODY + DENSE);
	ck_assert_int_eq(est_model_count_parameters(&t5), T5_BODY);
}
END_TEST

START_TEST(an_untied_head_is_counted)
{
	struct est_model model = t5;

	model.tie_word_embeddings = false;
	ck_assert_int_eq(est_model_count_parameters(&model), T5_BODY + V * H);
	ck_assert_uint_eq(weights(&model, EST_SEQUENCE_TO_SEQUENCE),
			  weights(&t5, EST_SEQUENCE_TO_SEQUENCE) + (uint64_t)2 * V * H);
}
END_TEST

/* Heads by task: the classifier's two biases take an allocation of their own. */
START_TEST(a_head_stands_on_the_body)
{
	ck_assert_uint_eq(weights(&bert, EST_MASKED_LM), (uint64_t)2 * (BERT_BODY + DENSE + LAYERNORM + V));
	ck_assert_uint_eq(weights(&bert, EST_SEQUENCE_CLASSIFICATION), (uint64_t)2 * (BERT_BODY + DENSE + 2 * H) + 512);
	ck_assert_uint_eq(weights(&t5, EST_SEQUENCE_TO_SEQUENCE), (uint64_t)2 * T5_BODY);
}
END_TEST

static const struct {
	enum est_architecture architecture;
	enum est_task task;
	int64_t trainable; /* beside the adapters of rank 8 on the layers' 4 H x H and 2 H x F */
} adapted[] = {
	{ EST_ARCH_BERT, EST_SEQUENCE_CLASSIFICATION, 8 * 2 * H + 2 * H + 2 },  /* the pooler's adapter, a classifier */
	{ EST_ARCH_ROBERTA, EST_SEQUENCE_CLASSIFICATION, DENSE + 2 * H + 2 },   /* a classifier of two layers */
	{ EST_ARCH_BERT, EST_MASKED_LM, 8 * 2 * H },                           /* an adapter in the head's transform */
};

START_TEST(lora_trains_the_classifier_and_adapts_the_rest)
{
	struct est_request request = request_of(adapted[_i].task);
	struct est_model model = bert;

	model.architecture = adapted[_i].architecture;
	request.method = EST_LORA;
	request.base_dtype = EST_BF16;
	request.lora = (struct est_lora){ .rank = 8, .target_modules = { .all = true }, .adapter_dtype = EST_FP32 };
	trace(&model, &request);
	ck_assert_int_eq(program.trainable_parameters, 8 * (4 * 2 * H + 2 * (H + F)) + adapted[_i].trainable);
}
END_TEST

START_TEST(lora_adapts_both_attentions_of_a_decoder)
{
	struct est_request request = request_of(EST_SEQUENCE_TO_SEQUENCE);

	request.method = EST_LORA;
	request.base_dtype = EST_BF16;
	request.lora = (struct est_lora){ .rank = 8, .target_modules = { .all = true }, .adapter_dtype = EST_FP32 };
	trace(&t5, &request);
	ck_assert_int_eq(program.trainable_parameters, 8 * (12 * 2 * H + 4 * (H + F)));
}
END_TEST

/* ---- tasks */

static const struct {
	const struct est_model *model;
	enum est_task task;
	bool suits;
} tasks[] = {
	{ &bert, EST_MASKED_LM, true },           { &bert, EST_SEQUENCE_CLASSIFICATION, true },
	{ &bert, EST_CAUSAL_LM, false },          { &bert, EST_SEQUENCE_TO_SEQUENCE, false },
	{ &t5, EST_SEQUENCE_TO_SEQUENCE, true },  { &t5, EST_MASKED_LM, false },
	{ &t5, EST_CAUSAL_LM, false },            { &t5, EST_SEQUENCE_CLASSIFICATION, false },
};

START_TEST(a_model_has_classes_for_some_tasks)
{
	ck_assert_int_eq(est_task_suits(tasks[_i].model, tasks[_i].task), tasks[_i].suits);
}
END_TEST

static size_t faults_of(const struct est_model *model, const struct est_request *request)
{
	struct est_faults faults = { 0 };

	est_support_check(request, model, &faults);
	return faults.count;
}

/* One change each to what is modelled. */
static struct est_request spoiled(struct est_request request, int how)
{
	switch (how) {
	case 0:
		request.attention = EST_FLASH_ATTENTION_2;
		break;
	case 1:
		request.checkpointing = EST_CHECKPOINT_FULL;
		request.use_reentrant = true;
		break;
	case 2:
		request.precision = EST_PURE_FP16;
		break;
	case 3:
		request.task = EST_MASKED_LM;
		break;
	default:
		request.liger_kernel = true;
	}
	return request;
}

START_TEST(what_is_not_modelled_of_t5_is_refused)
{
	struct est_request request = request_of(EST_SEQUENCE_TO_SEQUENCE), changed = spoiled(request, _i);

	ck_assert_uint_eq(faults_of(&t5, &request), 0);
	ck_assert_uint_ge(faults_of(&t5, &changed), 1);
}
END_TEST

START_TEST(peft_adapts_a_distilbert_classifier_by_names_only)
{
	struct est_request request = request_of(EST_SEQUENCE_CLASSIFICATION);
	struct est_model model = bert;

	model.architecture = EST_ARCH_DISTILBERT;
	request.method = EST_LORA;
	request.lora.target_modules.all = true;
	ck_assert_uint_eq(faults_of(&model, &request), 1);
	request.lora.target_modules.all = false;
	ck_assert_uint_eq(faults_of(&model, &request), 0);
}
END_TEST

/* The step leaves what the load and the states have made: every gradient and activation goes. */
static const struct {
	const struct est_model *model;
	enum est_task task;
	enum est_checkpointing checkpointing;
	enum est_attention attention;
} steps[] = {
	{ &bert, EST_SEQUENCE_CLASSIFICATION, EST_CHECKPOINT_NONE, EST_SDPA },
	{ &bert, EST_MASKED_LM, EST_CHECKPOINT_FULL, EST_EAGER },
	{ &t5, EST_SEQUENCE_TO_SEQUENCE, EST_CHECKPOINT_NONE, EST_SDPA },
	{ &t5, EST_SEQUENCE_TO_SEQUENCE, EST_CHECKPOINT_FULL, EST_SDPA },
	{ &t5, EST_SEQUENCE_TO_SEQUENCE, EST_CHECKPOINT_EVERY_N, EST_EAGER },
};

START_TEST(a_step_gives_back_what_it_takes)
{
	struct est_request request = request_of(steps[_i].task);
	uint64_t alive = 0;

	request.checkpointing = steps[_i].checkpointing;
	request.every_n_layers = 1;
	request.attention = steps[_i].attention;
	request.attention_mask = true;
	trace(steps[_i].model, &request);
	for (enum est_part part = EST_PART_MICRO_FIRST; part < EST_PARTS; part++)
		for (size_t i = program.begin[part]; part != EST_PART_STATES && i < program.end[part]; i++)
			if (program.events[i].kind != EST_EVENT_PHASE)
				alive += program.events[i].kind == EST_EVENT_ALLOC ? program.events[i].bytes
										   : -program.events[i].bytes;
	ck_assert_uint_eq(alive, 0);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("encoder");
	TCase *test = tcase_create("encoder");

	tcase_add_checked_fixture(test, set_up, tear_down);
	tcase_add_test(test, a_bert_layer_keeps_34_bytes_per_token_and_feature);
	tcase_add_test(test, eager_attention_keeps_five_bytes_per_score);
	tcase_add_test(test, a_mask_is_shared_and_its_bias_is_each_layers);
	tcase_add_test(test, a_checkpointed_layer_keeps_its_input);
	tcase_add_test(test, a_distilbert_layer_keeps_one_mask_less);
	tcase_add_test(test, a_t5_layer_keeps_a_copy_of_the_position_bias);
	tcase_add_test(test, a_t5_decoder_layer_attends_to_the_encoder_too);
	tcase_add_test(test, a_gate_keeps_two_projections_and_their_product);
	tcase_add_test(test, counts_are_those_of_the_bare_model);
	tcase_add_test(test, an_untied_head_is_counted);
	tcase_add_test(test, a_head_stands_on_the_body);
	tcase_add_loop_test(test, lora_trains_the_classifier_and_adapts_the_rest, 0, sizeof(adapted) / sizeof(adapted[0]));
	tcase_add_test(test, lora_adapts_both_attentions_of_a_decoder);
	tcase_add_loop_test(test, a_model_has_classes_for_some_tasks, 0, sizeof(tasks) / sizeof(tasks[0]));
	tcase_add_loop_test(test, what_is_not_modelled_of_t5_is_refused, 0, 5);
	tcase_add_test(test, peft_adapts_a_distilbert_classifier_by_names_only);
	tcase_add_loop_test(test, a_step_gives_back_what_it_takes, 0, sizeof(steps) / sizeof(steps[0]));
	suite_add_tcase(suite, test);
	return run_suite(suite);
}
