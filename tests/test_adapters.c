#include <stdlib.h>
#include "estimator/adapters.h"
#include "tests/suite.h"

static const struct est_model llama_8b = {
	.architecture = EST_ARCH_LLAMA, .vocab_size = 128256, .hidden_size = 4096, .num_hidden_layers = 32,
	.num_attention_heads = 32, .num_key_value_heads = 8, .head_dim = 128, .intermediate_size = 14336,
	.gated_mlp = true, .norms_per_layer = 2, .final_norm = true, .parameters = 8030261248,
};
static const struct est_model phi_3_mini = {
	.architecture = EST_ARCH_PHI3, .vocab_size = 32064, .hidden_size = 3072, .num_hidden_layers = 32,
	.num_attention_heads = 32, .num_key_value_heads = 32, .head_dim = 96, .intermediate_size = 8192,
	.gated_mlp = true,
};
static const struct est_model gpt2 = {
	.architecture = EST_ARCH_GPT2, .vocab_size = 50257, .hidden_size = 768, .num_hidden_layers = 12,
	.num_attention_heads = 12, .num_key_value_heads = 12, .head_dim = 64, .intermediate_size = 3072,
};
static const struct est_model pythia_410m = {
	.architecture = EST_ARCH_GPT_NEOX, .vocab_size = 50304, .hidden_size = 1024, .num_hidden_layers = 24,
	.num_attention_heads = 16, .num_key_value_heads = 16, .head_dim = 64, .intermediate_size = 4096,
};
static const struct est_model opt_350m = {
	.architecture = EST_ARCH_OPT, .vocab_size = 50272, .hidden_size = 1024, .num_hidden_layers = 24,
	.num_attention_heads = 16, .num_key_value_heads = 16, .head_dim = 64, .intermediate_size = 4096,
	.embed_dim = 512,
};

static const struct {
	const char *name;
	const struct est_model *model;
	struct est_lora lora;
	int64_t expected;
} adapters[] = {
	/* 16 * (8192 + 5120 + 5120 + 8192 + 3 * 18432) * 32 */
	{ "every linear module of Llama-3.1-8B", &llama_8b, { .rank = 16, .target_modules = { .all = true } }, 41943040 },
	/* 8 * (8192 + 5120) * 32 */
	{ "query and value", &llama_8b,
	  { .rank = 8, .target_modules = { .count = 2, .name = { "q_proj", "v_proj" } } }, 3407872 },
	{ "a path names its last part", &llama_8b,
	  { .rank = 8, .target_modules = { .count = 2, .name = { "self_attn.q_proj", "v_proj" } } }, 3407872 },
	{ "a module that is not there", &llama_8b, { .rank = 8, .target_modules = { .count = 1, .name = { "c_attn" } } },
	  0 },
	/* + (4096 + 1024 + 1024 + 4096 + 14336 + 14336 + 4096) * 32 magnitudes */
	{ "DoRA", &llama_8b, { .rank = 16, .dora = true, .target_modules = { .all = true } }, 41943040 + 1376256 },
	{ "the head trained whole", &llama_8b,
	  { .rank = 8, .target_modules = { .count = 2, .name = { "q_proj", "v_proj" } },
	    .modules_to_save = { .count = 1, .name = { "lm_head" } } }, 3407872 + 525336576 },
	{ "head and embedding trained whole", &llama_8b,
	  { .rank = 8, .target_modules = { .count = 2, .name = { "q_proj", "v_proj" } },
	    .modules_to_save = { .count = 2, .name = { "lm_head", "embed_tokens" } } }, 3407872 + 2 * 525336576 },
	/* 16 * (3072 + 9216 + 6144 + 3072 + 16384 + 11264) * 32 */
	{ "fused projections", &phi_3_mini, { .rank = 16, .target_modules = { .all = true } }, 25165824 },
	{ "GPT-2's fused attention", &gpt2, { .rank = 8, .target_modules = { .count = 1, .name = { "c_attn" } } },
	  294912 }, /* 8 * (768 + 2304) * 12 */
	{ "one name, two modules", &gpt2, { .rank = 8, .target_modules = { .count = 1, .name = { "c_proj" } } },
	  516096 }, /* 8 * (1536 + 3840) * 12 */
	{ "GPT-NeoX's fused attention", &pythia_410m,
	  { .rank = 8, .target_modules = { .count = 1, .name = { "query_key_value" } } }, 786432 },
	{ "OPT", &opt_350m, { .rank = 8, .target_modules = { .count = 2, .name = { "q_proj", "v_proj" } } }, 786432 },
	/* 8 * (4 * 2048 + 2 * 5120) * 24 + 8 * 2 * 1536 beside the embedding, once */
	{ "all of OPT-350m", &opt_350m, { .rank = 8, .target_modules = { .all = true } }, 3563520 },
};

START_TEST(adapters_count_as_peft_counts_them)
{
	int64_t count = est_lora_parameters(adapters[_i].model, &adapters[_i].lora);

	ck_assert_msg(count == adapters[_i].expected, "%s: %lld", adapters[_i].name, (long long)count);
}
END_TEST

START_TEST(a_plain_mlp_has_no_gate)
{
	struct est_model model = llama_8b;
	struct est_lora lora = { .rank = 16, .target_modules = { .all = true } };

	model.gated_mlp = false;
	ck_assert_int_eq(est_lora_parameters(&model, &lora), 41943040 - 16 * 18432 * 32);
}
END_TEST

START_TEST(the_method_says_what_is_trained)
{
	struct est_request request = { .method = EST_FULL, .trainable_layers = 2,
				       .lora = { .rank = 16, .target_modules = { .all = true } } };

	ck_assert_int_eq(est_trainable_parameters(&request, &llama_8b), 8030261248);
	request.method = EST_LORA;
	ck_assert_int_eq(est_trainable_parameters(&request, &llama_8b), 41943040);
	request.method = EST_QLORA;
	ck_assert_int_eq(est_trainable_parameters(&request, &llama_8b), 41943040);
	request.method = EST_FREEZE; /* 2 layers of 218,112,000, the final norm, the head of 128256 * 4096 */
	ck_assert_int_eq(est_trainable_parameters(&request, &llama_8b), 2 * 218112000 + 4096 + 525336576);
	request.trainable_layers = 1000;
	ck_assert_int_eq(est_trainable_parameters(&request, &llama_8b), INT64_C(32) * 218112000 + 4096 + 525336576);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("adapters");
	TCase *test = tcase_create("adapters");

	tcase_add_loop_test(test, adapters_count_as_peft_counts_them, 0, COUNT(adapters));
	tcase_add_test(test, a_plain_mlp_has_no_gate);
	tcase_add_test(test, the_method_says_what_is_trained);
	suite_add_tcase(suite, test);
	return run_suite(suite);
}
