/* Requests that a fuzzer found to break the service or a rule: each is estimated now, and its answer keeps the rules,
 * or is refused. */
#include <check.h>
#include "tests/catalog.h"
#include "tests/rules.h"

#define COUNT(table) (int)(sizeof(table) / sizeof((table)[0]))
#define FALCON "{'model_type':'falcon','vocab_size':1000,'hidden_size':512,'num_hidden_layers':2," \
	"'num_attention_heads':8,"
#define DEEPSEEK_V32 "{'model_type':'deepseek_v32','vocab_size':1000,'hidden_size':1024,'num_hidden_layers':4," \
	"'num_attention_heads':8,'intermediate_size':1024,'moe_intermediate_size':256,'n_routed_experts':8," \
	"'num_experts_per_tok':2,'n_shared_experts':1,'first_k_dense_replace':3,'q_lora_rank':256,'kv_lora_rank':128," \
	"'qk_nope_head_dim':64,'qk_rope_head_dim':32,'v_head_dim':64,'index_topk':64,'index_n_heads':32," \
	"'index_head_dim':128,'n_group':1,'topk_group':1}"
#define QWEN3_NEXT "{'model_type':'qwen3_next','vocab_size':1000,'hidden_size':512,'num_hidden_layers':1," \
	"'num_attention_heads':8,'num_key_value_heads':2,'head_dim':64,'intermediate_size':1024," \
	"'linear_num_key_heads':4,'linear_num_value_heads':8,'linear_key_head_dim':64,'linear_value_head_dim':64," \
	"'linear_conv_kernel_dim':4,'layer_types':['linear_attention'],'num_experts':8,'num_experts_per_tok':2," \
	"'moe_intermediate_size':256,'shared_expert_intermediate_size':256,'decoder_sparse_step':1}"

#define LARGE_INDEXER "{'model_type':'deepseek_v32','vocab_size':129280,'hidden_size':7168,'num_hidden_layers':1," \
	"'num_attention_heads':128,'intermediate_size':18432,'moe_intermediate_size':2048,'n_routed_experts':8," \
	"'num_experts_per_tok':2,'n_shared_experts':1,'first_k_dense_replace':3,'q_lora_rank':1536,'kv_lora_rank':512," \
	"'qk_nope_head_dim':128,'qk_rope_head_dim':64,'v_head_dim':128,'index_topk':2048,'index_n_heads':64," \
	"'index_head_dim':128,'n_group':1,'topk_group':1}"
#define SMALL_LLAMA "{'model_type':'llama','vocab_size':1000,'hidden_size':512,'num_hidden_layers':1," \
	"'num_attention_heads':8,'num_key_value_heads':8,'intermediate_size':1024,'max_position_embeddings':131072}"

/* Adapters over four ranks of FSDP2; the head is tied to the embedding or not. */
#define ADAPTED(tied) "'model':{'model_type':'llama','vocab_size':1000,'hidden_size':512,'num_hidden_layers':1," \
	"'num_attention_heads':8,'num_key_value_heads':8,'intermediate_size':1024,'tie_word_embeddings':" #tied "}," \
	"'method':'lora','gpus':'h100','sequence_length':64,'parallelism':{'gpus':4,'strategy':'fsdp'}"

#define JITTER "{'model_type':'phimoe','vocab_size':1000,'hidden_size':512,'num_hidden_layers':2,'num_attention_heads':8," \
	"'num_key_value_heads':2,'intermediate_size':512,'num_local_experts':4,'input_jitter_noise':0.01}"

/* of three bytes each */
#define LONG "\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac"

/* clang-format off */
static const struct {
	const char *name, *body;
	const char *pointer; /* of its fault; NULL: it is estimated */
} cases[] = {
	{ "the new Falcon with a head of keys for each of queries",
	  "{'model':" FALCON "'new_decoder_architecture':true},'gpus':'t4','sequence_length':64}", NULL },
	{ "indexers have no gradients, hence no states in the floor",
	  "{'model':" DEEPSEEK_V32 ",'gpus':'t4','sequence_length':64}", NULL },
	{ "what no gradient reaches in a checkpoint: the state after a single chunk of the delta rule",
	  "{'model':" QWEN3_NEXT ",'gpus':'t4','sequence_length':32,'gradient_checkpointing':true,"
	  "'gradient_accumulation_steps':4}", NULL },
	{ "a sub-group of ZeRO-3 that begins with an indexer",
	  "{'model':" LARGE_INDEXER ",'gpus':'h200','sequence_length':32,'parallelism':{'strategy':'zero3'}}", NULL },
	{ "LitGPT's head in 512 chunks, over one layer",
	  "{'model':" SMALL_LLAMA ",'framework':'litgpt','method':'lora','gpus':'h100','sequence_length':65536}", NULL },
	{ "the same head with an adapter, in two micro-batches",
	  "{'model':" SMALL_LLAMA ",'framework':'litgpt','method':'lora','gpus':'h100','sequence_length':65536,"
	  "'gradient_accumulation_steps':4,'lora':{'target_modules':['lm_head','q_proj'],'dropout':0.1}}", NULL },
	{ "Unsloth's loss in thousands of chunks, over one layer",
	  "{'model':" SMALL_LLAMA ",'framework':'unsloth','method':'lora','gpus':'h100','sequence_length':131072,"
	  "'micro_batch_size':65536}", NULL },
	{ "Bloom with one head",
	  "{'model':{'model_type':'bloom','vocab_size':2000,'hidden_size':512,'num_hidden_layers':1,'num_attention_heads':1},"
	  "'gpus':'h100','sequence_length':64,'micro_batch_size':2}", NULL },
	{ "the floor of Megatron's moments in 16 bits",
	  "{'model':" SMALL_LLAMA ",'framework':'megatron','gpus':'h100','sequence_length':32,'optimizer_state_dtype':'fp16'}", NULL },
	{ "noise on the input of experts", "{'model':" JITTER ",'gpus':'t4','sequence_length':64}", NULL },
	{ "the same among ranks of ZeRO-3", "{'model':" JITTER ",'gpus':'t4','parallelism':{'gpus':2,'strategy':'zero3'}}",
	  "/parallelism/strategy" },
	{ "copies beside a tied head in FSDP2's units", "{" ADAPTED(true) ",'lora':{'modules_to_save':['lm_head']}}", "/lora/modules_to_save" },
	{ "copies beside a head of its own", "{" ADAPTED(false) ",'lora':{'modules_to_save':['lm_head','embed_tokens']}}", NULL },
	{ "Liger's loss over a head that nothing gathers", "{" ADAPTED(false) ",'liger_kernel':true,'loss':'liger'}", "/loss" },
	{ "Liger's loss over a tied head", "{" ADAPTED(true) ",'liger_kernel':true,'loss':'liger'}", NULL },
	{ "a control character in what is refused",
	  "{'model':" SMALL_LLAMA ",'method':'lora','gpus':'h100','sequence_length':64,"
	  "'lora':{'modules_to_save':['a\\rb\\u007f']}}", "/lora/modules_to_save" },
	{ "what is refused is cut within a character",
	  "{'model':" SMALL_LLAMA ",'method':'lora','gpus':'h100','sequence_length':64,'lora':{'modules_to_save':["
	  "'" LONG "','" LONG "','" LONG "','" LONG "','" LONG "','x" LONG "','y" LONG "','z" LONG "']}}", "/lora/modules_to_save" },
};
/* clang-format on */

/* Fit to be sent: UTF-8, no control characters. */
static void check_detail(const char *detail)
{
	json_t *string = json_string(detail);

	ck_assert_ptr_nonnull(string);
	json_decref(string);
	for (const char *at = detail; *at; at++)
		ck_assert((unsigned char)*at >= ' ' && *at != 0x7f);
}

START_TEST(is_refused_or_keeps_the_rules)
{
	static struct cfg_request request;
	static struct est_report report;
	static struct est_faults faults;
	struct est_arena arena;
	json_t *body = parse_quoted(cases[_i].body);
	const char *pointer = cases[_i].pointer, *rule;
	bool right;

	faults.count = 0;
	right = cfg_read_request(body, "", catalog, &request, &faults);
	json_decref(body);
	ck_assert_msg(right == !pointer && right == !faults.count, "%s: %s %s", cases[_i].name, faults.item[0].pointer,
		      faults.item[0].detail);
	if (!right) {
		ck_assert_str_eq(faults.item[0].pointer, pointer);
		check_detail(faults.item[0].detail);
		return;
	}
	est_arena_init(&arena, malloc(est_arena_size(request.card_count)), est_arena_size(request.card_count));
	ck_assert(est_run(&request.request, &request.model, request.cards, request.card_count, &arena, &report));
	rule = rule_of_report(&request.request, &report);
	rule = rule ? rule : rule_of_events(&request, &arena);
	rule = rule ? rule : rule_of_more(&request, &report, 2, &arena);
	ck_assert_msg(!rule, "%s: %s", cases[_i].name, rule);
	free(arena.base);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("found");
	TCase *tcase = tcase_create("requests");
	SRunner *runner;
	int failed;

	cfg_json_init();
	tcase_add_unchecked_fixture(tcase, open_catalog, close_catalog);
	tcase_add_loop_test(tcase, is_refused_or_keeps_the_rules, 0, COUNT(cases));
	suite_add_tcase(suite, tcase);
	runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
