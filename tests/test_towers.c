/* Models that see: what their files say, what of them is trained, and what is refused. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "config/config.h"
#include "estimator/adapters.h"
#include "estimator/estimator.h"
#include "tests/source.h"
#include "tests/suite.h"

static struct cfg_catalog *catalog;

/* Reads body, which is released. */
static bool read_request(json_t *body, struct cfg_request *ret, struct est_faults *faults)
{
	bool read;

	ck_assert_ptr_nonnull(body);
	memset(faults, 0, sizeof(*faults));
	read = cfg_read_request(body, "", catalog, ret, faults);
	json_decref(body);
	return read;
}

/* ---- counted by Transformers and PEFT, of the models of tests/truth/events */

static const struct {
	const char *file;
	int64_t trainable;
} traced[] = {
	{ "qwen2_vl", 43790336 },       { "qwen2_5_vl_mixed", 43724032 },      { "qwen2_5_vl_frozen", 39810048 },
	{ "qwen2_5_vl_lora", 1134592 }, { "qwen3_vl_mask", 45650176 },         { "qwen3_vl_qlora", 1171456 },
	{ "qwen3_vl_moe", 55111936 },   { "qwen3_vl_moe_lora", 581632 },       { "gemma3_vl_mixed", 90800640 },
	{ "gemma3_vl_qv", 434176 },     { "ministral3_vl", 43036160 },         { "mistral3_lora_ckpt", 1159168 },
	{ "gemma4_e_vl", 49143496 },     { "gemma4_e_vl_lora_ckpt", 1532416 },  { "gemma4_e_vl_qlora", 1532416 },
	{ "llava", 42519808 },          { "exaone4_5_mixed_ckpt", 56172288 },  { "mllama_lora", 1454080 },
};

START_TEST(what_is_trained_is_what_transformers_counts)
{
	static struct cfg_request request;
	static struct est_faults faults;
	char path[4096];
	json_t *file;

	snprintf(path, sizeof(path), "%s/tests/truth/events/%s.json", source_root(), traced[_i].file);
	file = json_load_file(path, 0, NULL);
	ck_assert_msg(read_request(json_incref(json_object_get(file, "request")), &request, &faults), "%s: %s %s",
		      traced[_i].file, faults.item[0].pointer, faults.item[0].detail);
	ck_assert_int_eq(est_trainable_parameters(&request.request, &request.model), traced[_i].trainable);
	json_decref(file);
}
END_TEST

/* ---- faults */

#define TEXT "'hidden_size':1024,'num_hidden_layers':2,'num_attention_heads':8,'num_key_value_heads':4,'intermediate_size':3072,'vocab_size':1000"
#define QWEN(more) "{'model':{'model_type':'qwen3_vl','text_config':{" TEXT "},'vision_config':{'depth':2,'hidden_size':256,'num_heads':4" more "}}"
#define GEMMA4(audio) "{'model':{'model_type':'gemma4','text_config':{" TEXT ",'sliding_window_pattern':1,'num_kv_shared_layers':1}," \
	"'vision_config':{'hidden_size':256,'num_attention_heads':4},'audio_config':{" audio "}}"

static const struct {
	const char *name, *body, *pointer; /* NULL: estimated */
} cases[] = {
	{ "as it is", QWEN("") "}", NULL },
	{ "a frozen tower", QWEN("") ",'freeze_vision_tower':true}", NULL },
	{ "a frozen tower that is not there", "{'model':'llama-3.2-1b','freeze_vision_tower':true}", "/freeze_vision_tower" },
	{ "none, and none frozen", "{'model':'llama-3.2-1b','freeze_vision_tower':false}", NULL },
	{ "LLaMA-Factory's default without a tower", "{'model':'llama-3.2-1b','framework':'llama_factory'}", NULL },
	{ "a depth of none", QWEN(",'depth':0") "}", "/model/vision_config/depth" },
	{ "a width that is no number", QWEN(",'intermediate_size':'4304'") "}", "/model/vision_config/intermediate_size" },
	{ "a text without a vocabulary", "{'model':{'model_type':'qwen3_vl','text_config':{'hidden_size':1024}}}",
	  "/model/text_config/vocab_size" },
	{ "heads that do not divide", QWEN(",'num_heads':3") "}", "/model" },
	{ "a tower of another kind",
	  "{'model':{'model_type':'llava','text_config':{" TEXT "},'vision_config':{'model_type':'siglip_vision_model'}}}", "/model" },
	{ "a pooling head",
	  "{'model':{'model_type':'gemma3','text_config':{" TEXT "},'vision_config':{'vision_use_head':true}}}", "/model" },
	{ "an unknown language model",
	  "{'model':{'model_type':'llava','text_config':{'model_type':'palm'," TEXT "}}}", "/model/text_config/model_type" },
	{ "a tower that hears", GEMMA4("'hidden_size':256,'num_attention_heads':4") "}", NULL },
	{ "a tower that hears, of no heads", GEMMA4("'num_attention_heads':0") "}", "/model/audio_config/num_attention_heads" },
	{ "channels of nothing", GEMMA4("'subsampling_conv_channels':[0,32]") "}", "/model/audio_config/subsampling_conv_channels" },
	{ "heads that do not divide what is heard", GEMMA4("'hidden_size':100") "}", "/model" },
	{ "embeddings of each layer, over ranks", GEMMA4("") ",'parallelism':{'gpus':2,'strategy':'zero3'}}", "/parallelism/strategy" },
	{ "embeddings of each layer, in packages of attention", GEMMA4("") ",'attention':'flash_attention_2'}", "/attention" },
	{ "shared keys between layers with checkpoints and without",
	  GEMMA4("") ",'gradient_checkpointing':{'every_n_layers':2},'use_reentrant':true}", "/use_reentrant" },
	{ "preferences", QWEN("") ",'framework':'trl','objective':'dpo'}", "/objective" },
	{ "ranks", QWEN("") ",'parallelism':{'gpus':2,'strategy':'ddp'}}", NULL },
	{ "units", QWEN("") ",'precision':'bf16_mixed','parallelism':{'gpus':2,'strategy':'fsdp2'}}", NULL },
	{ "flat units", QWEN("") ",'precision':'bf16_mixed','parallelism':{'gpus':2,'strategy':'fsdp1'}}", NULL },
	{ "flat partitions", QWEN("") ",'parallelism':{'gpus':2,'strategy':'zero2'}}", NULL },
	{ "static shares", QWEN("") ",'parallelism':{'gpus':2,'strategy':'fsdp'}}", NULL },
	{ "kernels", QWEN("") ",'liger_kernel':true,'loss':'standard'}", "/liger_kernel" },
	{ "a head of labels", QWEN("") ",'task':'sequence_classification'}", "/task" },
	{ "modules of the tower alone", QWEN("") ",'method':'lora','lora':{'target_modules':['linear_fc1']}}", NULL },
	{ "modules of a frozen tower", QWEN("") ",'method':'lora','freeze_vision_tower':true,'lora':{'target_modules':['linear_fc1']}}",
	  "/lora/target_modules" },
};

static json_t *quoted(const char *text)
{
	char body[2048];

	snprintf(body, sizeof(body), "%s", text);
	for (char *c = body; *c; c++)
		*c = *c == '\'' ? '"' : *c;
	return json_loads(body, 0, NULL);
}

START_TEST(what_is_not_modelled_is_refused_with_its_pointer)
{
	static struct cfg_request request;
	static struct est_faults faults;
	bool read = read_request(quoted(cases[_i].body), &request, &faults);

	ck_assert_msg(read == !cases[_i].pointer, "%s: %s %s", cases[_i].name, faults.item[0].pointer, faults.item[0].detail);
	if (cases[_i].pointer)
		ck_assert_msg(!strcmp(faults.item[0].pointer, cases[_i].pointer), "%s: %s %s", cases[_i].name,
			      faults.item[0].pointer, faults.item[0].detail);
}
END_TEST

/* ---- figures */

static struct est_report estimate(const char *body, struct est_arena *arena)
{
	static struct cfg_request request;
	static struct est_faults faults;
	size_t size = est_arena_size(1), presets;
	const struct cfg_card *cards = cfg_catalog_cards(catalog, &presets);
	const struct est_gpu *gpu = &cards[0].gpu;
	struct est_report report;

	ck_assert_msg(read_request(quoted(body), &request, &faults), "%s: %s %s", body, faults.item[0].pointer,
		      faults.item[0].detail);
	est_arena_init(arena, malloc(size), size);
	ck_assert(est_run(&request.request, &request.model, &gpu, 1, arena, &report));
	return report;
}

START_TEST(the_upper_figure_has_room_for_a_tower_that_is_trained)
{
	struct est_arena arenas[2];
	struct est_report trained = estimate(QWEN("") ",'precision':'bf16'}", &arenas[0]);
	struct est_report frozen = estimate(QWEN("") ",'precision':'bf16','freeze_vision_tower':true}", &arenas[1]);
	uint64_t tower = (uint64_t)(trained.trainable_parameters - frozen.trainable_parameters);

	ck_assert_uint_gt(tower, 1000000);
	ck_assert_uint_eq(trained.peak.allocated.expected, frozen.peak.allocated.expected);
	/* a gradient and two states of two bytes each */
	ck_assert_uint_eq(trained.peak.allocated.high - frozen.peak.allocated.high, 6 * tower);
	for (unsigned i = 0; i < 2; i++)
		free(arenas[i].base);
}
END_TEST

START_TEST(a_master_copy_is_made_of_a_tower_that_is_trained)
{
	struct est_arena arenas[2];
	struct est_report trained = estimate(QWEN("") ",'precision':'bf16_master'}", &arenas[0]);
	struct est_report frozen = estimate(QWEN("") ",'precision':'bf16_master','freeze_vision_tower':true}", &arenas[1]);
	uint64_t tower = (uint64_t)(trained.trainable_parameters - frozen.trainable_parameters);
	uint64_t more = trained.per_gpu.optimizer - frozen.per_gpu.optimizer;

	/* master, gradient of it and two moments; blocks of 512 bytes and scalars beside */
	ck_assert_uint_ge(more, 16 * tower);
	ck_assert_uint_lt(more, 16 * tower + (1 << 20));
	for (unsigned i = 0; i < 2; i++)
		free(arenas[i].base);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("towers");
	TCase *test = tcase_create("towers");
	int failed;

	catalog = shipped_catalog();
	tcase_set_timeout(test, 60); /* arenas for any model are slow to fill where malloc() fills them */
	tcase_add_loop_test(test, what_is_trained_is_what_transformers_counts, 0, sizeof(traced) / sizeof(traced[0]));
	tcase_add_loop_test(test, what_is_not_modelled_is_refused_with_its_pointer, 0, sizeof(cases) / sizeof(cases[0]));
	tcase_add_test(test, the_upper_figure_has_room_for_a_tower_that_is_trained);
	tcase_add_test(test, a_master_copy_is_made_of_a_tower_that_is_trained);
	suite_add_tcase(suite, test);
	failed = run_suite(suite);
	cfg_catalog_destroy(catalog);
	return failed;
}
