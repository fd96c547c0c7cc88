#include <stdlib.h>
#include "estimator/model.h"
#include "tests/suite.h"

/* A Llama with every size told apart: h 64, f 160, 4 heads of 16, 2 of keys and values, V 1000, 3 layers. */
static const struct est_model llama = {
	.architecture = EST_ARCH_LLAMA, .vocab_size = 1000, .hidden_size = 64, .num_hidden_layers = 3,
	.num_attention_heads = 4, .num_key_value_heads = 2, .head_dim = 16, .intermediate_size = 160,
	.max_position_embeddings = 128, .gated_mlp = true, .norm = EST_RMSNORM, .norms_per_layer = 2,
	.final_norm = true, .position = EST_ROPE, .partial_rotary_factor = 1, .do_layer_norm_before = true,
};

/* Counted by hand: q 64*64, k and v 64*32 each, o 64*64; three matrices 64*160; two norms of 64. */
enum { LAYER = 4096 + 2 * 2048 + 4096 + 3 * 10240 + 2 * 64, REST = 2 * 64000 + 64 };

static int64_t count(struct est_model model)
{
	return est_model_count_parameters(&model);
}

START_TEST(a_llama_counts_what_a_hand_counts)
{
	ck_assert_int_eq(est_model_layer_parameters(&llama), LAYER);
	ck_assert_int_eq(est_model_count_parameters(&llama), REST + 3 * LAYER);
}
END_TEST

START_TEST(tied_embeddings_count_once)
{
	struct est_model model = llama;

	model.tie_word_embeddings = true;
	ck_assert_int_eq(count(model), REST + 3 * LAYER - 64000);
}
END_TEST

/* What one change of the shape adds to each layer and to the rest. */
static const struct {
	const char *name;
	size_t flag;
	int layer, rest;
} biases[] = {
	{ "q, k and v", offsetof(struct est_model, qkv_bias), 64 + 32 + 32, 0 },
	{ "the output projection", offsetof(struct est_model, o_bias), 64, 0 },
	{ "gate, up and down", offsetof(struct est_model, mlp_bias), 160 + 160 + 64, 0 },
	{ "the head", offsetof(struct est_model, lm_head_bias), 0, 1000 },
};

START_TEST(a_bias_adds_one_for_each_output)
{
	struct est_model model = llama;

	*((bool *)(void *)((char *)&model + biases[_i].flag)) = true;
	ck_assert_msg(count(model) == REST + 3 * LAYER + 3 * biases[_i].layer + biases[_i].rest, "%s", biases[_i].name);
}
END_TEST

static const struct {
	enum est_qk_norm kind;
	int adds;
} qk_norms[] = {
	{ EST_QK_NORM_NONE, 0 },
	{ EST_QK_NORM_HEAD, 16 + 16 },
	{ EST_QK_NORM_HEAD_LAYERNORM, 2 * (16 + 16) },
	{ EST_QK_NORM_FULL, 64 + 32 },
	{ EST_QK_NORM_PER_HEAD, 4 * 16 + 2 * 16 },
};

START_TEST(norms_of_queries_and_keys_count_their_weights)
{
	struct est_model model = llama;

	model.qk_norm = qk_norms[_i].kind;
	ck_assert_int_eq(est_model_layer_parameters(&model), LAYER + qk_norms[_i].adds);
}
END_TEST

static const struct {
	enum est_norm kind;
	int tensors;
} norms[] = {
	{ EST_RMSNORM, 1 },
	{ EST_LAYERNORM, 2 },
	{ EST_LAYERNORM_NOBIAS, 1 },
	{ EST_NORM_NONPARAMETRIC, 0 },
};

START_TEST(a_norm_counts_its_tensors)
{
	struct est_model model = llama;

	model.norm = norms[_i].kind;
	ck_assert_int_eq(est_model_layer_parameters(&model), LAYER + (norms[_i].tensors - 1) * 2 * 64);
	ck_assert_int_eq(count(model), REST + 3 * LAYER + (norms[_i].tensors - 1) * 7 * 64);
}
END_TEST

START_TEST(learned_positions_count_their_rows)
{
	struct est_model model = llama;

	model.position = EST_LEARNED_POSITIONS;
	model.position_offset = 2;
	ck_assert_int_eq(count(model), REST + 3 * LAYER + (128 + 2) * 64);
}
END_TEST

START_TEST(a_narrow_embedding_has_two_projections)
{
	struct est_model model = llama;

	model.embed_dim = 32;
	ck_assert_int_eq(count(model), 2 * 32000 + 2 * 32 * 64 + 64 + 3 * LAYER);
}
END_TEST

START_TEST(an_ungated_mlp_has_two_matrices)
{
	struct est_model model = llama;

	model.gated_mlp = false;
	ck_assert_int_eq(est_model_layer_parameters(&model), LAYER - 10240);
}
END_TEST

/* Layers from 0; s slides, f attends in full. */
static const struct {
	const char *name;
	int window, every;
	const char *layers;
} windows[] = {
	{ "without a window none slides", 0, 2, "ffffff" },
	{ "a window alone is everywhere", 4096, 0, "ssssss" },
	{ "Gemma 2 alternates, sliding first", 4096, 2, "sfsfsf" },
	{ "Gemma 3 attends in full in each sixth", 512, 6, "sssssf" },
	{ "a period of one leaves none sliding", 512, 1, "fff" },
};

START_TEST(layers_slide_by_the_period)
{
	struct est_model model = { .sliding_window = windows[_i].window, .full_attention_every = windows[_i].every };

	for (int64_t layer = 0; layer < 6 && windows[_i].layers[layer]; layer++)
		ck_assert_msg(est_model_layer_is_sliding(&model, layer) == (windows[_i].layers[layer] == 's'), 
			      "%s, layer %d", windows[_i].name, (int)layer);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("model");
	TCase *test = tcase_create("model");

	tcase_add_test(test, a_llama_counts_what_a_hand_counts);
	tcase_add_test(test, tied_embeddings_count_once);
	tcase_add_loop_test(test, a_bias_adds_one_for_each_output, 0, COUNT(biases));
	tcase_add_loop_test(test, norms_of_queries_and_keys_count_their_weights, 0, COUNT(qk_norms));
	tcase_add_loop_test(test, a_norm_counts_its_tensors, 0, COUNT(norms));
	tcase_add_test(test, learned_positions_count_their_rows);
	tcase_add_test(test, a_narrow_embedding_has_two_projections);
	tcase_add_test(test, an_ungated_mlp_has_two_matrices);
	tcase_add_loop_test(test, layers_slide_by_the_period, 0, COUNT(windows));
	suite_add_tcase(suite, test);
	return run_suite(suite);
}
