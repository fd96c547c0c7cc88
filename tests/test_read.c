#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "config/elsewhere.h"
#include "config/frameworks.h"
#include "config/read.h"
#include "tests/catalog.h"
#include "tests/suite.h"

static struct cfg_request request;
static struct est_faults faults;

/* Reads text, with ' for ", into request and faults. */
static bool read_at(const char *text, const char *base)
{
	json_t *body = parse_quoted(text);
	bool right;

	memset(&faults, 0, sizeof(faults));
	right = cfg_read_request(body, base, catalog, &request, &faults);
	json_decref(body);
	ck_assert_msg(right == (faults.count == 0), "%s", text);
	return right;
}

#define LLAMA "'model':'llama-3.1-8b'"
#define THUMB "'model':'llama-3.1-8b','accounting':'rule_of_thumb'"

/* One fault or none: pointer NULL when accepted. */
static const struct {
	const char *name, *body, *pointer;
	enum est_fault_code code;
} cases[] = {
	{ "model alone is enough", "{" LLAMA "}", NULL, 0 },
	{ "no model", "{}", "/model", EST_MISSING },
	{ "null is absent", "{'model':null}", "/model", EST_MISSING },
	{ "a list is no request", "[]", "", EST_WRONG_TYPE },
	{ "an unknown preset", "{'model':'llama-9'}", "/model", EST_UNKNOWN_VALUE },
	{ "an unknown field", "{" LLAMA ",'sequence_lenght':1}", "/sequence_lenght", EST_UNKNOWN_FIELD },
	{ "an unknown field that is null", "{" LLAMA ",'color':null}", "/color", EST_UNKNOWN_FIELD },
	{ "an unknown field in a group", "{" LLAMA ",'lora':{'rnk':8}}", "/lora/rnk", EST_UNKNOWN_FIELD },
	{ "a dotted key is no path", "{" LLAMA ",'parallelism.gpus':8}", "/parallelism.gpus", EST_UNKNOWN_FIELD },
	{ "slash in a key", "{" LLAMA ",'a/b':1}", "/a~1b", EST_UNKNOWN_FIELD },
	{ "tilde in a key", "{" LLAMA ",'a~b':1}", "/a~0b", EST_UNKNOWN_FIELD },
	{ "an empty key", "{" LLAMA ",'':1}", "/", EST_UNKNOWN_FIELD },
	{ "an empty name of a group", "{" LLAMA ",'lora':{'':1}}", "/lora/", EST_UNKNOWN_FIELD },
	{ "a group that is a number", "{" LLAMA ",'parallelism':8}", "/parallelism", EST_WRONG_TYPE },
	{ "a group that is a word", "{" LLAMA ",'offload':'none'}", "/offload", EST_WRONG_TYPE },
	{ "a group that is null", "{" LLAMA ",'parallelism':null}", NULL, 0 },
	{ "an empty group", "{" LLAMA ",'parallelism':{}}", NULL, 0 },
	{ "a whole real", "{" LLAMA ",'sequence_length':4e3}", NULL, 0 },
	{ "a number as text", "{" LLAMA ",'sequence_length':'4'}", "/sequence_length", EST_WRONG_TYPE },
	{ "a number as boolean", "{" LLAMA ",'sequence_length':true}", "/sequence_length", EST_WRONG_TYPE },
	{ "a broken number", "{" LLAMA ",'sequence_length':4.5}", "/sequence_length", EST_OUT_OF_RANGE },
	{ "below the range", "{" LLAMA ",'micro_batch_size':0}", "/micro_batch_size", EST_OUT_OF_RANGE },
	{ "above the range", "{" LLAMA ",'micro_batch_size':65537}", "/micro_batch_size", EST_OUT_OF_RANGE },
	{ "beyond 2^53", "{" LLAMA ",'micro_batch_size':9007199254740993}", "/micro_batch_size", EST_OUT_OF_RANGE },
	{ "a huge real", "{" LLAMA ",'micro_batch_size':1e308}", "/micro_batch_size", EST_OUT_OF_RANGE },
	{ "a boolean as number", "{" LLAMA ",'torch_compile':0}", "/torch_compile", EST_WRONG_TYPE },
	{ "a negative norm", "{" LLAMA ",'max_grad_norm':-1}", "/max_grad_norm", EST_OUT_OF_RANGE },
	{ "a norm as text", "{" LLAMA ",'max_grad_norm':'1'}", "/max_grad_norm", EST_WRONG_TYPE },
	{ "a word in capitals", "{" LLAMA ",'optimizer':'AdamW'}", NULL, 0 },
	{ "a word that is near", "{" LLAMA ",'optimizer':'adamw_8bits'}", "/optimizer", EST_UNKNOWN_VALUE },
	{ "a word that is none", "{" LLAMA ",'optimizer':'none'}", "/optimizer", EST_UNKNOWN_VALUE },
	{ "a word with more behind it",
	  "{" LLAMA ",'precision':'bf16\\u00e9'}", "/precision", EST_UNKNOWN_VALUE },
	{ "a word as number", "{" LLAMA ",'method':1}", "/method", EST_WRONG_TYPE },
	{ "none stays no base type", "{" THUMB ",'method':'lora','base_dtype':'none'}", "/base_dtype",
	  EST_UNKNOWN_VALUE },
	{ "include", "{" LLAMA ",'include':['limits','ADVICE']}", NULL, 0 },
	{ "include nothing", "{" LLAMA ",'include':[]}", NULL, 0 },
	{ "include as word", "{" LLAMA ",'include':'limits'}", "/include", EST_WRONG_TYPE },
	{ "include something else", "{" LLAMA ",'include':['limits','all']}", "/include/1", EST_UNKNOWN_VALUE },
	{ "a version", "{" LLAMA ",'versions':{'torch':'2.13.0+cu128','transformers':'5'}}", NULL, 0 },
	{ "a package of kernels", "{" LLAMA ",'versions':{'flash_linear_attention':'0.6.0'}}", NULL, 0 },
	{ "a package of kernels as a flag", "{" LLAMA ",'versions':{'mamba_ssm':true}}", "/versions/mamba_ssm", EST_WRONG_TYPE },
	{ "a version as number", "{" LLAMA ",'versions':{'torch':2.13}}", "/versions/torch", EST_WRONG_TYPE },
	{ "a version with a sign", "{" LLAMA ",'versions':{'torch':'2.-1'}}", "/versions/torch", EST_OUT_OF_RANGE },
	{ "a version with a dot and nothing", "{" LLAMA ",'versions':{'torch':'2.'}}", "/versions/torch",
	  EST_OUT_OF_RANGE },
	{ "a version of nothing", "{" LLAMA ",'versions':{'torch':'0.0'}}", "/versions/torch", EST_OUT_OF_RANGE },
	{ "a version with a large number", "{" LLAMA ",'versions':{'torch':'2.1000'}}", "/versions/torch",
	  EST_OUT_OF_RANGE },
	{ "a version with a letter", "{" LLAMA ",'versions':{'torch':'v2'}}", "/versions/torch", EST_OUT_OF_RANGE },
	{ "an old version", "{" LLAMA ",'versions':{'transformers':'4.40'}}", "/versions/transformers",
	  EST_NOT_SUPPORTED_YET },
	{ "checkpointing on", "{" LLAMA ",'gradient_checkpointing':true}", NULL, 0 },
	{ "checkpointing in words", "{" LLAMA ",'gradient_checkpointing':'Full'}", NULL, 0 },
	{ "checkpointing each other layer", "{" LLAMA ",'gradient_checkpointing':{'every_n_layers':2}}", NULL, 0 },
	{ "checkpointing beyond the layers", "{" LLAMA ",'gradient_checkpointing':{'every_n_layers':33}}",
	  "/gradient_checkpointing/every_n_layers", EST_OUT_OF_RANGE },
	{ "checkpointing no layers", "{" LLAMA ",'gradient_checkpointing':{'every_n_layers':0}}",
	  "/gradient_checkpointing/every_n_layers", EST_OUT_OF_RANGE },
	{ "checkpointing layers as text", "{" LLAMA ",'gradient_checkpointing':{'every_n_layers':'2'}}",
	  "/gradient_checkpointing/every_n_layers", EST_WRONG_TYPE },
	{ "checkpointing by a number", "{" LLAMA ",'gradient_checkpointing':1}", "/gradient_checkpointing",
	  EST_WRONG_TYPE },
	{ "checkpointing two ways", "{" LLAMA ",'gradient_checkpointing':{'every_n_layers':2,'selective':'op'}}",
	  "/gradient_checkpointing", EST_WRONG_TYPE },
	{ "checkpointing selectively, unknown", "{" LLAMA ",'gradient_checkpointing':{'selective':'ops'}}",
	  "/gradient_checkpointing/selective", EST_UNKNOWN_VALUE },
	{ "checkpointing selectively", "{" LLAMA ",'gradient_checkpointing':{'selective':'attention'}}", NULL, 0 },
	{ "one card", "{" LLAMA ",'gpus':'H100-SXM5-80GB'}", NULL, 0 },
	{ "cards", "{" LLAMA ",'gpus':['h100-sxm5-80gb','rtx-4090']}", NULL, 0 },
	{ "no cards", "{" LLAMA ",'gpus':[]}", "/gpus", EST_OUT_OF_RANGE },
	{ "a card that is near", "{" LLAMA ",'gpus':['rtx-4090','rtx-4009']}", "/gpus/1", EST_UNKNOWN_VALUE },
	{ "a card that is none", "{" LLAMA ",'gpus':'abacus'}", "/gpus", EST_UNKNOWN_VALUE },
	{ "a card that is several", "{" LLAMA ",'gpus':['rtx-4090','1g.10gb']}", "/gpus/1", EST_AMBIGUOUS },
	{ "a card as number", "{" LLAMA ",'gpus':[80]}", "/gpus/0", EST_WRONG_TYPE },
	{ "cards as number", "{" LLAMA ",'gpus':80}", "/gpus", EST_WRONG_TYPE },
	{ "sizes", "{" LLAMA ",'gpu_memory_bytes':[1e10,20000000000]}", NULL, 0 },
	{ "a size alone", "{" LLAMA ",'gpu_memory_bytes':1}", "/gpu_memory_bytes", EST_WRONG_TYPE },
	{ "a size of nothing", "{" LLAMA ",'gpu_memory_bytes':[1,0]}", "/gpu_memory_bytes/1", EST_OUT_OF_RANGE },
	{ "a size as text", "{" LLAMA ",'gpu_memory_bytes':['1']}", "/gpu_memory_bytes/0", EST_WRONG_TYPE },
	{ "modules", "{" THUMB ",'method':'lora','lora':{'target_modules':['q_proj','v_proj']}}", NULL, 0 },
	{ "all modules", "{" THUMB ",'method':'lora','lora':{'target_modules':'All-Linear'}}", NULL, 0 },
	{ "all modules of a model whose router PEFT cannot adapt", "{'model':'llama-4-scout','method':'lora'}",
	  "/lora/target_modules", EST_CONTRADICTION },
	{ "its other modules, of such a model", "{'model':'llama-4-scout','method':'lora','lora':{'target_modules':['q_proj']}}", NULL, 0 },
	{ "all modules of a model with Mamba layers", "{'model':'nemotron-h-8b','method':'lora'}", "/lora/target_modules",
	  EST_CONTRADICTION },
	{ "its out_proj", "{'model':'nemotron-h-8b','method':'lora','lora':{'target_modules':['in_proj','out_proj']}}",
	  "/lora/target_modules", EST_CONTRADICTION },
	{ "its other modules", "{'model':'nemotron-h-8b','method':'lora','lora':{'target_modules':['in_proj','q_proj']}}", NULL, 0 },
	{ "an out_proj that PEFT adapts", "{'model':'lfm2-1.2b','method':'lora','lora':{'target_modules':['out_proj']}}", NULL, 0 },
	{ "selective checkpoints of mixers", "{'model':'granite-4.0-h-micro','gradient_checkpointing':'selective'}",
	  "/gradient_checkpointing", EST_NOT_SUPPORTED_YET },
	{ "mixers gathered by module", "{'model':'granite-4.0-h-micro','framework':'deepspeed','parallelism':{'gpus':4,'strategy':'zero3'}}",
	  "/parallelism/strategy", EST_NOT_SUPPORTED_YET },
	{ "modules by a pattern", "{" THUMB ",'method':'lora','lora':{'target_modules':'.*proj'}}",
	  "/lora/target_modules", EST_WRONG_TYPE },
	{ "a module without name", "{" THUMB ",'method':'lora','lora':{'target_modules':['q_proj','']}}",
	  "/lora/target_modules/1", EST_OUT_OF_RANGE },
	{ "a module as number", "{" THUMB ",'method':'lora','lora':{'target_modules':[1,'v_proj']}}",
	  "/lora/target_modules/0", EST_WRONG_TYPE },
	{ "33 modules", "{" THUMB ",'method':'lora','lora':{'target_modules':[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,"
			"17,18,19,20,21,22,23,24,25,26,27,28,29,30,31,32,33]}}", "/lora/target_modules",
	  EST_OUT_OF_RANGE },
	{ "no module", "{" THUMB ",'method':'lora','lora':{'target_modules':[]}}", "/lora/target_modules",
	  EST_OUT_OF_RANGE },
	{ "no module to save", "{" THUMB ",'method':'lora','lora':{'modules_to_save':[]}}", NULL, 0 },
	{ "modules to save by a word", "{" THUMB ",'method':'lora','lora':{'modules_to_save':'all-linear'}}",
	  "/lora/modules_to_save", EST_WRONG_TYPE },
	{ "bits", "{" THUMB ",'method':'qlora','quantization':{'bits':8}}", NULL, 0 },
	{ "bits between", "{" THUMB ",'method':'qlora','quantization':{'bits':6}}", "/quantization/bits",
	  EST_OUT_OF_RANGE },
	{ "buckets in a word", "{" LLAMA ",'parallelism':{'gpus':8,'buckets':'auto'}}", NULL, 0 },
	{ "a bucket in a word", "{" LLAMA ",'parallelism':{'buckets':{'reduce_bucket_size':'AUTO'}}}", NULL, 0 },
	{ "a bucket in another word", "{" LLAMA ",'parallelism':{'buckets':{'reduce_bucket_size':'big'}}}",
	  "/parallelism/buckets/reduce_bucket_size", EST_WRONG_TYPE },
	{ "buckets in another word", "{" LLAMA ",'parallelism':{'buckets':'big'}}", "/parallelism/buckets",
	  EST_WRONG_TYPE },
	{ "a lora field without lora", "{" LLAMA ",'lora':{'rank':8}}", "/lora/rank", EST_CONTRADICTION },
	{ "a trainer with a loss of its own", "{" LLAMA ",'framework':'trl'}", NULL, 0 },
	{ "the same with another loss named", "{" LLAMA ",'framework':'trl','loss':'standard'}", NULL, 0 },
};

START_TEST(reads_or_points_at_the_fault)
{
	read_at(cases[_i].body, "");
	ck_assert_msg(faults.count == (cases[_i].pointer != NULL), "%s: %zu faults, first %s %s", cases[_i].name,
		      faults.count, faults.item[0].pointer, faults.item[0].detail);
	if (!cases[_i].pointer)
		return;
	ck_assert_str_eq(faults.item[0].pointer, cases[_i].pointer);
	ck_assert_msg(faults.item[0].code == cases[_i].code, "%s: %s, %s", cases[_i].name,
		      est_fault_code_name(faults.item[0].code), faults.item[0].detail);
	ck_assert(faults.item[0].detail[0] != '\0');
}
END_TEST

START_TEST(tells_all_faults_at_once)
{
	read_at("{'method':7,'lora':{'rank':'8','rang':1},'sequence_length':0}", "/requests/3");
	ck_assert_uint_eq(faults.count, 5);
	ck_assert_str_eq(faults.item[0].pointer, "/requests/3/method");
	ck_assert_str_eq(faults.item[1].pointer, "/requests/3/lora/rank");
	ck_assert_str_eq(faults.item[2].pointer, "/requests/3/lora/rang");
	ck_assert_str_eq(faults.item[3].pointer, "/requests/3/sequence_length");
	ck_assert_str_eq(faults.item[4].pointer, "/requests/3/model");
}
END_TEST

START_TEST(points_into_the_batch_for_rules_across_fields_too)
{
	read_at("{" LLAMA ",'lora':{'rank':8}}", "/requests/3");
	ck_assert_uint_eq(faults.count, 1);
	ck_assert_str_eq(faults.item[0].pointer, "/requests/3/lora/rank");
}
END_TEST

START_TEST(counts_faults_beyond_the_list)
{
	char text[2000] = "{" LLAMA;
	int i;

	for (i = 0; i < 100; i++)
		snprintf(text + strlen(text), sizeof(text) - strlen(text), ",'zz%d':1", i);
	strcat(text, "}");
	read_at(text, "");
	ck_assert_uint_eq(faults.count, 100);
	ck_assert_str_eq(faults.item[EST_FAULTS_MAX - 1].pointer, "/zz63");
}
END_TEST

START_TEST(suggests_what_was_meant)
{
	read_at("{" LLAMA ",'sequence_lenght':1,'optimizer':'adamw_8bits','gpus':'rtx-4009','lora':{'rnk':1}}", "");
	ck_assert_uint_eq(faults.count, 4);
	ck_assert_ptr_nonnull(strstr(faults.item[0].detail, "\"sequence_length\""));
	ck_assert_ptr_nonnull(strstr(faults.item[1].detail, "\"adamw_8bit\""));
	ck_assert_ptr_nonnull(strstr(faults.item[2].detail, "\"rtx-4090\""));
	ck_assert_ptr_nonnull(strstr(faults.item[3].detail, "\"rank\""));
}
END_TEST

static const struct {
	const char *body, *pointer, *here;
} elsewhere[] = {
	{ "{" LLAMA ",'method':'lora','lora':{'r':8}}", "/lora/r", "(here it is \"lora.rank\")" },
	{ "{" LLAMA ",'lora_alpha':8}", "/lora_alpha", "(here it is \"lora.alpha\")" },
	{ "{" LLAMA ",'per_device_train_batch_size':8}", "/per_device_train_batch_size", "(here it is \"micro_batch_size\")" },
	{ "{" LLAMA ",'bf16':true}", "/bf16", "(here it is \"precision\")" },
	{ "{" LLAMA ",'method':'qlora','quantization':{'bnb_4bit_quant_type':'nf4'}}", "/quantization/bnb_4bit_quant_type",
	  "(here it is \"quantization.type\")" },
};

START_TEST(tells_what_is_called_otherwise_elsewhere)
{
	read_at(elsewhere[_i].body, "");
	ck_assert_uint_eq(faults.count, 1);
	ck_assert_str_eq(faults.item[0].pointer, elsewhere[_i].pointer);
	ck_assert_ptr_nonnull(strstr(faults.item[0].detail, elsewhere[_i].here));
}
END_TEST

START_TEST(what_is_called_otherwise_is_a_field_here)
{
	for (const struct cfg_elsewhere_row *row = cfg_elsewhere_rows; row->key; row++) {
		ck_assert_msg(est_field_find(row->field) != NULL, "%s%s: %s", row->group, row->key, row->field);
		ck_assert_str_eq(cfg_elsewhere_find(row->group, row->key), row->field);
		ck_assert_msg(!est_field_find(row->key), "%s is a name here too", row->key);
	}
	ck_assert_ptr_null(cfg_elsewhere_find("", "color"));
	ck_assert_ptr_null(cfg_elsewhere_find("lora.", "per_device_train_batch_size"));
}
END_TEST

START_TEST(cuts_a_long_key_between_characters)
{
	char text[1200] = "{" LLAMA ",'x";
	json_t *string;
	int i;

	for (i = 0; i < 200; i++)
		strcat(text, "\xC3\xA9");
	strcat(text, "':1}");
	read_at(text, "");
	ck_assert_uint_eq(faults.count, 1);
	ck_assert_uint_ge(strlen(faults.item[0].pointer), EST_POINTER_MAX - 3);
	string = json_string(faults.item[0].pointer); /* NULL when it is not UTF-8 */
	ck_assert_ptr_nonnull(string);
	json_decref(string);
}
END_TEST

START_TEST(takes_values_as_written)
{
	const struct est_request *got = &request.request;

	ck_assert(read_at("{" THUMB ",'method':'qlora','micro_batch_size':4.0,'headroom_fraction':0.25,"
			  "'include':['advice'],"
			  "'optimizer':'adamw_bnb_8bit','versions':{'torch':'2.13','peft':'0.21.2'},'lora':{'rank':64,"
			  "'target_modules':['q_proj','v_proj'],'dropout':0.1},"
			  "'parallelism':{'gpus':8,'buckets':'auto'}}",
			  ""));
	ck_assert_int_eq(got->micro_batch_size, 4);
	ck_assert_double_eq(got->headroom_fraction, 0.25);
	ck_assert_uint_eq(got->include, EST_INCLUDE_ADVICE);
	ck_assert_uint_eq(got->optimizer, EST_ADAMW_8BIT);
	ck_assert_int_eq(got->versions.torch, 2013);
	ck_assert_int_eq(got->versions.peft, 21);
	ck_assert_int_eq(got->lora.rank, 64);
	ck_assert_int_eq(got->lora.target_modules.count, 2);
	ck_assert(!got->lora.target_modules.all);
	ck_assert_str_eq(got->lora.target_modules.name[1], "v_proj");
	ck_assert_int_eq(got->parallelism.buckets.prefetch_bucket_size, EST_AUTO);
	ck_assert(est_request_names(got, "parallelism.buckets.prefetch_bucket_size"));
	ck_assert(!est_request_names(got, "parallelism.strategy"));
	ck_assert_uint_eq(got->parallelism.strategy, EST_ZERO3);
	ck_assert_uint_eq(got->precision, EST_BF16_MASTER); /* as DeepSpeed's engine casts it */
	ck_assert_double_eq(got->lora.alpha, 128);
	ck_assert_int_eq(got->target_length, 2048);
	ck_assert_str_eq(request.model.id, "llama-3.1-8b");
}
END_TEST

/* What a default becomes when other fields say so: body, field, value as text. */
static const struct {
	const char *body, *field, *value;
} defaults[] = {
	{ "{" LLAMA "}", "precision", "bf16_master" },
	{ "{" LLAMA "}", "optimizer", "adamw_torch_fused" },
	{ "{" LLAMA "}", "gradient_checkpointing", "none" },
	{ "{" LLAMA "}", "parallelism.strategy", "none" },
	{ "{" LLAMA ",'versions':{'torch':'2.4'}}", "optimizer", "adamw_torch" },
	{ "{" LLAMA ",'parallelism':{'gpus':8}}", "parallelism.strategy", "zero3" },
	{ "{" LLAMA ",'optimizer':'muon','parallelism':{'gpus':8}}", "parallelism.strategy", "fsdp" },
	{ "{" LLAMA ",'optimizer':'apollo_adamw','parallelism':{'gpus':8}}", "parallelism.strategy", "ddp" },
	{ "{" LLAMA ",'parallelism':{'gpus':8,'strategy':'ddp'}}", "parallelism.strategy", "ddp" },
	{ "{" LLAMA ",'parallelism':{'gpus':8}}", "parallelism.overlap_comm", "true" },
	{ "{" LLAMA ",'parallelism':{'gpus':8}}", "parallelism.buckets.reduce_bucket_size", "auto" },
	{ "{" LLAMA ",'framework':'deepspeed','parallelism':{'gpus':8}}", "parallelism.buckets.reduce_bucket_size",
	  "500000000" },
	{ "{" LLAMA ",'framework':'trl','loss':'standard'}", "gradient_checkpointing", "full" },
	{ "{" LLAMA ",'framework':'trl'}", "loss", "chunked" },
	{ "{" LLAMA ",'liger_kernel':true}", "loss", "liger" },
	{ "{" LLAMA ",'framework':'trl','liger_kernel':true}", "loss", "chunked" },
	{ "{" LLAMA ",'framework':'trl','liger_kernel':true,'versions':{'trl':'1.10'}}", "loss", "liger" },
	{ "{" LLAMA ",'objective':'dpo'}", "loss", "chunked" },
	{ "{" LLAMA ",'framework':'trl','objective':'orpo'}", "loss", "standard" },
	{ "{" LLAMA ",'framework':'trl','objective':'reward'}", "loss", "standard" },
	{ "{" LLAMA ",'framework':'trl'}", "sequence_length", "1024" },
	{ "{" LLAMA ",'framework':'trl','objective':'grpo'}", "sequence_length", "2048" },
	{ "{" LLAMA ",'framework':'trl','loss':'standard'}", "precision", "bf16_mixed" },
	{ "{" LLAMA ",'framework':'trl','loss':'standard','gradient_checkpointing':false}", "gradient_checkpointing",
	  "none" },
	{ "{" LLAMA ",'framework':'trl','versions':{'trl':'0.12'}}", "loss", "standard" },
	{ "{" LLAMA ",'framework':'llama_factory'}", "use_reentrant", "true" },
	{ "{" LLAMA ",'precision':'bf16_mixed'}", "outputs_to_fp32", "true" },
	{ "{" LLAMA ",'precision':'bf16'}", "outputs_to_fp32", "false" },
	{ "{" LLAMA ",'precision':'fp16_mixed'}", "parallelism.param_dtype", "fp16" },
	{ "{" LLAMA ",'precision':'bf16'}", "parallelism.reduce_dtype", "none" },
	{ "{" LLAMA ",'precision':'fp32'}", "parallelism.communication_data_type", "fp32" },
	{ "{'model':'gemma-2-2b'}", "attention", "eager" },
	{ "{" THUMB ",'method':'lora'}", "precision", "bf16_mixed" },
	{ "{" LLAMA ",'method':'lora','parallelism':{'gpus':8}}", "precision", "bf16_master" },
	{ "{" LLAMA ",'method':'lora','framework':'trl','parallelism':{'gpus':8}}", "base_dtype", "bf16" },
	{ "{" LLAMA ",'method':'lora','framework':'trl'}", "base_dtype", "fp32" },
	{ "{" LLAMA ",'method':'lora','parallelism':{'gpus':8,'strategy':'ddp'}}", "precision", "bf16_mixed" },
	{ "{" LLAMA ",'framework':'axolotl','parallelism':{'gpus':8,'strategy':'zero2'}}", "precision", "bf16_master" },
	{ "{" LLAMA ",'framework':'axolotl','parallelism':{'gpus':8,'strategy':'fsdp'}}", "precision", "bf16_mixed" },
	{ "{" LLAMA ",'framework':'axolotl','parallelism':{'gpus':8,'strategy':'ddp'}}", "precision", "bf16_autocast" },
	{ "{" LLAMA ",'parallelism':{'gpus':8,'strategy':'fsdp'}}", "precision", "bf16_master" },
	{ "{" THUMB ",'method':'lora'}", "lora.adapter_dtype", "fp32" },
	{ "{" THUMB ",'method':'lora'}", "lora.target_modules", "all-linear" },
	{ "{" THUMB ",'method':'lora','lora':{'rank':8}}", "lora.alpha", "16" },
	{ "{" THUMB ",'method':'lora','base_dtype':'fp16','versions':{'peft':'0.5'}}", "lora.adapter_dtype", "fp32" },
	{ "{" THUMB ",'method':'lora','base_dtype':'fp16','versions':{'peft':'0.6'}}", "lora.adapter_dtype", "fp16" },
	{ "{" THUMB ",'method':'qlora'}", "quantization.prepare_kbit", "true" },
	{ "{" THUMB ",'method':'qlora','framework':'trl'}", "quantization.prepare_kbit", "false" },
	{ "{" THUMB ",'method':'qlora','framework':'trl','versions':{'trl':'0.9'}}", "quantization.prepare_kbit",
	  "true" },
	{ "{" LLAMA ",'method':'qlora','framework':'trl','objective':'orpo'}", "quantization.prepare_kbit", "true" },
	{ "{" LLAMA ",'method':'qlora','framework':'trl','objective':'orpo'}", "lora.adapter_dtype", "fp32" },
	{ "{" THUMB ",'method':'lora','framework':'trl'}", "base_dtype", "fp32" },
	{ "{" THUMB ",'method':'lora','framework':'trl','versions':{'trl':'0.9'}}", "base_dtype", "bf16" },
	{ "{" THUMB ",'method':'lora','framework':'llama_factory'}", "lora.rank", "8" },
	{ "{" THUMB ",'method':'qlora','framework':'trl'}", "lora.adapter_dtype", "bf16" },
	{ "{" THUMB ",'method':'qlora','quantization':{'bits':8}}", "quantization.type", "int8" },
	{ "{" THUMB ",'method':'qlora','quantization':{'type':'int8'}}", "quantization.bits", "8" },
	{ "{" THUMB ",'method':'qlora'}", "quantization.group_size", "64" },
	{ "{" THUMB ",'framework':'litgpt'}", "precision", "bf16" },
	{ "{" LLAMA ",'framework':'litgpt'}", "outputs_to_fp32", "true" },
	{ "{" LLAMA ",'framework':'litgpt','method':'lora'}", "lora.rank", "8" },
	{ "{" LLAMA ",'framework':'litgpt','method':'lora'}", "lora.target_modules", "q_proj,v_proj" },
	{ "{" LLAMA ",'framework':'litgpt','method':'qlora'}", "optimizer", "paged_adamw_32bit" },
	{ "{" THUMB ",'framework':'megatron'}", "loss", "vocab_parallel" },
	{ "{" THUMB ",'framework':'mlx','method':'lora'}", "lora.rank", "8" },
	{ "{" THUMB ",'framework':'mlx','method':'lora'}", "lora.adapter_dtype", "fp32" },
	{ "{'model':'t5-base','accounting':'rule_of_thumb'}", "task", "sequence_to_sequence" },
	{ "{" THUMB ",'sequence_length':512}", "target_length", "512" },
	{ "{'model':'gpt2'}", "sequence_length", "1024" },
	{ "{'model':'llama-3.2-1b'}", "sequence_length", "2048" },
};

START_TEST(completes_what_is_not_named)
{
	const struct est_field *field = est_field_find(defaults[_i].field);
	char value[64];

	ck_assert_ptr_nonnull(field);
	ck_assert_msg(read_at(defaults[_i].body, ""), "%s %s", faults.item[0].pointer, faults.item[0].detail);
	ck_assert_str_eq(est_field_text(field, &request.request, value, sizeof(value)), defaults[_i].value);
}
END_TEST

/* Values whose own modelling is refused, but whose companions are completed all the same. */
START_TEST(completes_before_it_refuses)
{
	read_at("{" LLAMA ",'liger_kernel':true}", "");
	ck_assert_uint_eq(request.request.loss, EST_LOSS_LIGER);
	read_at("{" LLAMA ",'fuse_optimizer_in_backward':true}", "");
	ck_assert_double_eq(request.request.max_grad_norm, 0);
	read_at("{" LLAMA ",'objective':'dpo'}", "");
	ck_assert_uint_eq(request.request.reference_model, EST_REFERENCE_MODEL);
	read_at("{" LLAMA ",'objective':'dpo','method':'lora'}", "");
	ck_assert_uint_eq(request.request.reference_model, EST_REFERENCE_ADAPTER);
	read_at("{" LLAMA ",'method':'qlora','quantization':{'type':'gptq'}}", "");
	ck_assert_int_eq(request.request.quantization.group_size, 128);
	read_at("{" LLAMA ",'versions':{'transformers':'4.50'}}", "");
	ck_assert(request.request.use_reentrant);
	read_at("{" LLAMA ",'framework':'trl','versions':{'transformers':'4.50'}}", "");
	ck_assert(!request.request.use_reentrant);
	read_at("{" LLAMA ",'versions':{'transformers':'4.45'}}", "");
	ck_assert(request.request.parallelism.checkpoint_outside_unit);
}
END_TEST

static const struct est_note *find_note(const char *pointer)
{
	size_t i;

	for (i = 0; i < request.notes.count; i++)
		if (!strcmp(request.notes.item[i].pointer, pointer))
			return &request.notes.item[i];
	return NULL;
}

START_TEST(notes_each_default_that_matters)
{
	ck_assert(read_at("{" LLAMA ",'sequence_length':4096}", ""));
	ck_assert_ptr_null(find_note("/sequence_length"));
	ck_assert_ptr_null(find_note("/lora/rank"));
	ck_assert_ptr_null(find_note("/parallelism/wrap"));
	ck_assert_ptr_nonnull(find_note("/versions"));
	ck_assert_ptr_nonnull(find_note("/gpus"));
	ck_assert_ptr_nonnull(find_note("/attention"));
	ck_assert_str_eq(find_note("/attention")->value, "sdpa");
	ck_assert(read_at("{" THUMB ",'method':'lora','gpus':'rtx-4090','parallelism':{'gpus':2,'strategy':'fsdp'}}",
			""));
	ck_assert_ptr_null(find_note("/gpus"));
	ck_assert_str_eq(find_note("/lora/rank")->value, "16");
	ck_assert_str_eq(find_note("/parallelism/wrap")->value, "accelerate");
	ck_assert_uint_lt(request.notes.count, EST_NOTES_MAX);
}
END_TEST

START_TEST(warns_of_other_versions)
{
	ck_assert(read_at("{" LLAMA ",'versions':{'torch':'2.4','transformers':'6.1','peft':'0.21'}}", ""));
	ck_assert_uint_eq(request.warnings.count, 2);
	ck_assert_str_eq(request.warnings.item[0].pointer, "/versions/torch");
	ck_assert_str_eq(request.warnings.item[0].detail, "older than 2.13, which is modelled");
	ck_assert_str_eq(request.warnings.item[1].value, "6.1");
	ck_assert_str_eq(request.warnings.item[1].detail, "newer than 5.23, which is modelled");
	ck_assert_ptr_null(find_note("/versions"));
	ck_assert(read_at("{" LLAMA ",'versions':{'causal_conv1d':'1.6','mamba_ssm':'2.3.2','flash_linear_attention':'0.6.0'}}", ""));
	ck_assert_uint_eq(request.warnings.count, 1);
	ck_assert_str_eq(request.warnings.item[0].pointer, "/versions/causal_conv1d");
	ck_assert_str_eq(request.warnings.item[0].detail, "older than 1.7, which is modelled");
	ck_assert_ptr_nonnull(find_note("/versions")); /* of torch and the others */
}
END_TEST

/* Whatever the trainer, its defaults can be read, or are refused as not modelled, and never for another reason. */
START_TEST(says_which_generation_it_has_modelled)
{
	const struct est_note *note;

	ck_assert(read_at("{" LLAMA ",'gradient_checkpointing':'full','versions':{'transformers':'4.48.3'}}", ""));
	ck_assert_uint_eq(request.warnings.count, 0);
	note = find_note("/versions/transformers");
	ck_assert_ptr_nonnull(note);
	ck_assert_str_eq(note->value, "4.48");
	ck_assert_str_eq(note->detail, "modelled as that release is: its loss copies shifted logits, its sdpa repeats k and v");
	ck_assert(read_at("{" LLAMA ",'gradient_checkpointing':'full','versions':{'transformers':'4.57'}}", ""));
	note = find_note("/versions/transformers");
	ck_assert_ptr_nonnull(note);
	ck_assert_str_eq(note->detail, "modelled as that release is: its loss pads labels, its sdpa does not repeat k and v");
}
END_TEST

START_TEST(knows_the_defaults_of_every_trainer)
{
	static const char *const methods[] = { "full", "lora", "qlora" };
	const char *framework = est_framework_words[_i / 3].name;
	char text[256];
	size_t i;

	snprintf(text, sizeof(text), "{" THUMB ",'framework':'%s','method':'%s'}", framework, methods[_i % 3]);
	read_at(text, "");
	for (i = 0; i < faults.count; i++)
		ck_assert_msg(faults.item[i].code == EST_NOT_SUPPORTED_YET, "%s: %s %s", text, faults.item[i].pointer,
			      faults.item[i].detail);
	ck_assert(est_request_names(&request.request, "framework"));
	ck_assert_ptr_nonnull(find_note("/precision"));
}
END_TEST

/* Whether a row above this one says the same field for one of its methods. */
static bool is_said_twice(const struct cfg_default *first, const struct cfg_default *row)
{
	for (; first < row; first++)
		if (!strcmp(first->field, row->field) && first->methods & row->methods)
			return true;
	return false;
}

START_TEST(every_default_of_a_trainer_has_its_source)
{
	const struct cfg_default *first = cfg_frameworks[_i].defaults, *row;

	for (row = first; row->field; row++) {
		const struct est_field *field = est_field_find(row->field);

		ck_assert_int_lt(row - first, CFG_FRAMEWORK_DEFAULTS - 1);
		ck_assert_msg(field != NULL, "%s", row->field);
		ck_assert_msg(field->by_framework, "%s: its row says that no framework changes it", row->field);
		ck_assert_msg(row->source && strlen(row->source) > 10, "%s", row->field);
		ck_assert_msg(row->methods != 0 && !is_said_twice(first, row), "%s", row->field);
		if (field->kind == EST_FIELD_INT || field->kind == EST_FIELD_REAL)
			ck_assert_msg(row->value >= field->min && row->value <= field->max, "%s", row->field);
	}
}
END_TEST

START_TEST(every_trainer_has_its_row_of_defaults)
{
	size_t words = 0;

	while (est_framework_words[words].name)
		words++;
	ck_assert_uint_eq(cfg_framework_count, words);
}
END_TEST

START_TEST(every_code_is_among_the_cases)
{
	size_t i;
	bool found = false;

	for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		found = found || (cases[i].pointer && cases[i].code == (enum est_fault_code)_i);
	ck_assert_msg(found, "%s", est_fault_code_name((enum est_fault_code)_i));
}
END_TEST

START_TEST(judges_every_card_when_none_is_named)
{
	size_t count;

	cfg_catalog_cards(catalog, &count);
	ck_assert(read_at("{" LLAMA "}", ""));
	ck_assert_uint_eq(request.card_count, count);
	ck_assert_str_eq(request.cards[0]->id, "h100-sxm5-80gb");
	ck_assert(!request.cards_named);
}
END_TEST

START_TEST(keeps_the_order_of_cards_with_sizes_behind)
{
	ck_assert(read_at("{'gpu_memory_bytes':[12000000000]," LLAMA ",'gpus':['rtx-4090','H100-SXM5-80GB']}", ""));
	ck_assert_uint_eq(request.card_count, 3);
	ck_assert_str_eq(request.cards[0]->id, "rtx-4090");
	ck_assert_str_eq(request.cards[1]->id, "h100-sxm5-80gb");
	ck_assert_uint_eq(request.cards[2]->usable_bytes, UINT64_C(12000000000));
	ck_assert_str_eq(request.cards[2]->id, "12000000000-bytes");
	ck_assert(request.cards_named);
}
END_TEST

/* ---- Text to JSON */

static json_t *parse(const char *text, char reason[160], bool *ret_no_memory)
{
	return cfg_parse_json(text, strlen(text), reason, 160, ret_no_memory);
}

static const struct {
	const char *name, *text, *reason; /* NULL when it is JSON */
} texts[] = {
	{ "object", "{}", NULL },
	{ "scalar", " 5 ", NULL },
	{ "nothing", "", "line 1, column 0: the text ends too early" },
	{ "open", "{\"a\":", "line 1, column 5: the text ends too early" },
	{ "two values", "{} {}", "line 1, column 4: more text after the end of the value" },
	{ "duplicate key", "{\"a\":1,\"a\":2}", "line 1, column 10: an object has the same key twice" },
	{ "not UTF-8", "\"\xFF\"", "line 1, column 1: not UTF-8" },
	{ "NUL", "\"a\\u0000\"", "line 1, column 9: a NUL character in a string" },
	{ "too large", "1e999", "line 1, column 5: a number too large to hold" },
	{ "comma", "{\n\"a\":1,\n}", "line 3, column 1: not JSON" },
};

START_TEST(says_in_its_own_words_why_it_is_not_json)
{
	char reason[160] = "";
	bool no_memory;
	json_t *value = parse(texts[_i].text, reason, &no_memory);

	ck_assert_msg((value != NULL) == (texts[_i].reason == NULL), "%s", texts[_i].name);
	ck_assert(!no_memory);
	if (texts[_i].reason)
		ck_assert_str_eq(reason, texts[_i].reason);
	json_decref(value);
}
END_TEST

START_TEST(refuses_a_nul_outside_of_strings)
{
	static const char after_number[] = "[1\0]", at_end[] = "12\0";
	char reason[160];
	bool no_memory;

	ck_assert_ptr_null(cfg_parse_json(after_number, sizeof after_number - 1, reason, sizeof reason, &no_memory));
	ck_assert_str_eq(reason, "line 1, column 3: a NUL character");
	ck_assert_ptr_null(cfg_parse_json(at_end, sizeof at_end - 1, reason, sizeof reason, &no_memory));
	ck_assert(!no_memory);
}
END_TEST

static json_t *parse_nested(size_t levels)
{
	char text[256], reason[160];
	bool no_memory;

	memset(text, '[', levels);
	memset(text + levels, ']', levels);
	return cfg_parse_json(text, 2 * levels, reason, sizeof(reason), &no_memory);
}

/* A list of n + 1 items and nothing else. */
static json_t *parse_list(const char *first, const char *others, int n)
{
	char *text = malloc((size_t)n * strlen(others) + strlen(first) + 3), *end = text, reason[160];
	bool no_memory;
	json_t *value;
	int i;

	end += sprintf(end, "[%s", first);
	for (i = 0; i < n; i++)
		end += sprintf(end, "%s", others);
	end += sprintf(end, "]");
	value = cfg_parse_json(text, (size_t)(end - text), reason, sizeof(reason), &no_memory);
	free(text);
	return value;
}

START_TEST(bounds_nesting_and_values_before_anything_is_allocated)
{
	json_t *deep = parse_nested(32), *wide = parse_list("0", ",0", 131070);
	json_t *keyed = parse_list("{\"a\":1}", ",{\"a\":1}", 65534); /* keys are no values */

	ck_assert_ptr_nonnull(deep);
	ck_assert_ptr_nonnull(wide);
	ck_assert_ptr_nonnull(keyed);
	ck_assert_ptr_null(parse_nested(33));
	ck_assert_ptr_null(parse_list("0", ",0", 131071));
	ck_assert_ptr_null(parse_list("{\"a\":1}", ",{\"a\":1}", 65535));
	json_decref(deep);
	json_decref(wide);
	json_decref(keyed);
}
END_TEST

START_TEST(does_not_count_what_lies_in_strings)
{
	char reason[160];
	bool no_memory;
	json_t *value = parse("\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\\\"[[[[[[[[[[[[[[[[[[\"", reason, &no_memory);

	ck_assert_ptr_nonnull(value);
	json_decref(value);
}
END_TEST

static json_malloc_t allocate;
static int allocations_left;

const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
	return "allocator_may_return_null=1";
}

/* Passes on to the project's own allocator, which is made to fail at the end of the count by an impossible size. */
static void *allocate_or_fail(size_t size)
{
	return allocate(allocations_left-- == 0 ? SIZE_MAX / 2 : size);
}

/* The text's string has _i letters, so that each of its bytes, the closing quote too, is once the one for which a
 * buffer has to grow and cannot. */
START_TEST(tells_a_failed_allocation_from_bad_text)
{
	char text[256], reason[160];
	bool no_memory = true;
	json_free_t release;
	json_t *value;
	int n;

	snprintf(text, sizeof(text), "{\"%.*s\":{\"rank\":8,\"modules\":[\"q_proj\",\"v_proj\"]},\"beta\":0.5}", _i,
		 "a name that is as long as it takes to outgrow several buffers, one after the other");
	json_get_alloc_funcs(&allocate, &release);
	json_set_alloc_funcs(allocate_or_fail, release);
	for (n = 0; no_memory; n++) {
		allocations_left = n;
		value = parse(text, reason, &no_memory);
		ck_assert_msg((value == NULL) == no_memory, "allocation %d", n);
		if (no_memory)
			ck_assert_str_eq(reason, "out of memory");
		else
			json_decref(value);
		ck_assert(!cfg_json_out_of_memory());
	}
	json_set_alloc_funcs(allocate, release);
	ck_assert_int_gt(n, 10); /* there were allocations to fail */
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("read");
	TCase *reading = tcase_create("requests"), *parsing = tcase_create("text");

	cfg_json_init();
	tcase_add_checked_fixture(reading, open_catalog, close_catalog);
	tcase_add_loop_test(reading, reads_or_points_at_the_fault, 0, sizeof(cases) / sizeof(cases[0]));
	tcase_add_test(reading, tells_all_faults_at_once);
	tcase_add_test(reading, points_into_the_batch_for_rules_across_fields_too);
	tcase_add_test(reading, counts_faults_beyond_the_list);
	tcase_add_test(reading, suggests_what_was_meant);
	tcase_add_loop_test(reading, tells_what_is_called_otherwise_elsewhere, 0, (int)(sizeof(elsewhere) / sizeof(elsewhere[0])));
	tcase_add_test(reading, what_is_called_otherwise_is_a_field_here);
	tcase_add_test(reading, cuts_a_long_key_between_characters);
	tcase_add_test(reading, takes_values_as_written);
	tcase_add_loop_test(reading, completes_what_is_not_named, 0, sizeof(defaults) / sizeof(defaults[0]));
	tcase_add_test(reading, completes_before_it_refuses);
	tcase_add_test(reading, notes_each_default_that_matters);
	tcase_add_test(reading, warns_of_other_versions);
	tcase_add_test(reading, says_which_generation_it_has_modelled);
	tcase_add_loop_test(reading, knows_the_defaults_of_every_trainer, 0, 33);
	tcase_add_test(reading, every_trainer_has_its_row_of_defaults);
	tcase_add_loop_test(reading, every_default_of_a_trainer_has_its_source, 0, (int)cfg_framework_count);
	tcase_add_loop_test(reading, every_code_is_among_the_cases, 0, EST_FAULT_CODES);
	tcase_add_test(reading, judges_every_card_when_none_is_named);
	tcase_add_test(reading, keeps_the_order_of_cards_with_sizes_behind);
	tcase_add_loop_test(parsing, says_in_its_own_words_why_it_is_not_json, 0, sizeof(texts) / sizeof(texts[0]));
	tcase_add_test(parsing, refuses_a_nul_outside_of_strings);
	tcase_add_test(parsing, bounds_nesting_and_values_before_anything_is_allocated);
	tcase_add_test(parsing, does_not_count_what_lies_in_strings);
	tcase_add_loop_test(parsing, tells_a_failed_allocation_from_bad_text, 0, 72);
	suite_add_tcase(suite, reading);
	suite_add_tcase(suite, parsing);
	return run_suite(suite);
}
