/* Trainers' own files in place of fields. The expected values are what the trainers make of them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "config/from.h"
#include "tests/catalog.h"
#include "tests/suite.h"

static struct cfg_request request;
static struct est_faults faults;

/* Reads text, with ' for ", as a request at base. */
static bool read_at(const char *text, const char *base)
{
	json_t *body = parse_quoted(text);
	bool right;

	memset(&faults, 0, sizeof(faults));
	right = cfg_read_request(body, base, catalog, &request, &faults);
	json_decref(body);
	return right;
}

#define LLAMA "'model':'llama-3.1-8b'"
#define ON8 LLAMA ",'parallelism':{'gpus':8}"
#define TRAIN(members) "{" LLAMA ",'from':{'training_arguments':{" members "}}}"
#define TRAIN8(members) "{" ON8 ",'from':{'training_arguments':{" members "}}}"
#define ZERO(members) "{" ON8 ",'from':{'deepspeed':{'bf16':{'enabled':true},'zero_optimization':{" members "}}}}"
#define ACCELERATE(members) "{" LLAMA ",'from':{'accelerate':{" members "}}}"
#define AXOLOTL(members) "{" LLAMA ",'from':{'axolotl':{" members "}}}"
#define FACTORY(members) "{" LLAMA ",'from':{'llama_factory':{" members "}}}"

/* clang-format off */
/* What a request reads as: "field=value" with blanks between, and the keys that are ignored. */
static const struct {
	const char *name, *body, *fields, *ignored;
} cases[] = {
	{ "the batch", TRAIN("'per_device_train_batch_size':4,'gradient_accumulation_steps':2"),
	  "micro_batch_size=4 gradient_accumulation_steps=2", "" },
	{ "TrainingArguments' own default", TRAIN(""), "micro_batch_size=8 method=full", "" },
	{ "null is absent", TRAIN("'per_device_train_batch_size':null"), "micro_batch_size=8", "" },
	{ "the field stands above a default", "{" LLAMA ",'micro_batch_size':2,'from':{'training_arguments':{}}}",
	  "micro_batch_size=2", "" },
	{ "the same said twice", "{" LLAMA ",'micro_batch_size':2,'from':{'training_arguments':{'per_device_train_batch_size':2}}}",
	  "micro_batch_size=2", "" },
	{ "what no memory depends on", TRAIN("'learning_rate':1e-5,'output_dir':'x','a/b':1"), "",
	  "/from/training_arguments/learning_rate /from/training_arguments/output_dir /from/training_arguments/a~1b" },
	{ "an unknown key in a known object", ZERO("'stage':3,'color':1"), "parallelism.strategy=zero3",
	  "/from/deepspeed/zero_optimization/color" },
	{ "an unknown object as one", TRAIN("'accelerator_config':{'split_batches':false}"), "",
	  "/from/training_arguments/accelerator_config" },
	{ "an optimizer by the contract's name", TRAIN("'optim':'paged_adamw_8bit'"), "optimizer=paged_adamw_8bit", "" },
	{ "an optimizer by another name", TRAIN("'optim':'adamw_torch_8bit'"), "optimizer=adamw_8bit_torchao", "" },
	{ "checkpoints", TRAIN("'gradient_checkpointing':true,'gradient_checkpointing_kwargs':{'use_reentrant':true}"),
	  "gradient_checkpointing=full use_reentrant=true", "" },
	{ "bf16 over what Transformers 5 loads", TRAIN("'bf16':true"), "precision=bf16_autocast", "" },
	{ "bf16 over fp32 parameters", TRAIN("'bf16':true,'model_init_kwargs':{'dtype':'float32'}"),
	  "precision=bf16_mixed", "" },
	{ "bf16 of adapters", "{" LLAMA ",'method':'lora','from':{'training_arguments':{'bf16':true}}}",
	  "precision=bf16_mixed", "" },
	{ "bf16 with a precision of the same kind", "{" LLAMA ",'precision':'bf16_mixed','from':{'training_arguments':{'bf16':true}}}",
	  "precision=bf16_mixed", "" },
	{ "fp16", TRAIN("'fp16':true"), "precision=fp16_mixed", "" },
	{ "neither", TRAIN("'bf16':false,'fp16':false"), "precision=fp32", "" },
	{ "TRL keeps its own ways", "{" LLAMA ",'framework':'trl','from':{'training_arguments':{'bf16':true,'max_length':512}}}",
	  "precision=bf16_mixed sequence_length=512 loss=chunked", "" },
	{ "no sharding is DDP", TRAIN8("'bf16':true"), "parallelism.strategy=ddp", "" },
	{ "FSDP by its word is the second", TRAIN8("'bf16':true,'fsdp':'full_shard auto_wrap'"),
	  "parallelism.strategy=fsdp parallelism.reshard_after_forward=true precision=bf16_mixed", "" },
	{ "FSDP by a list", TRAIN8("'bf16':true,'fsdp':['shard_grad_op','offload']"),
	  "parallelism.strategy=fsdp parallelism.reshard_after_forward=false offload.parameters=cpu offload.optimizer=cpu", "" },
	{ "FSDP1", TRAIN8("'bf16':true,'fsdp':true,'fsdp_config':{'fsdp_version':1,'use_orig_params':true}"),
	  "parallelism.strategy=fsdp1 parallelism.use_orig_params=true", "" },
	{ "no FSDP", TRAIN8("'fsdp':'','fsdp_config':{'min_num_params':0,'xla':false}"), "parallelism.strategy=ddp", "" },
	{ "ZeRO", ZERO("'stage':2,'overlap_comm':true,'reduce_bucket_size':2e8"),
	  "parallelism.strategy=zero2 parallelism.overlap_comm=true parallelism.buckets.reduce_bucket_size=200000000 "
	  "parallelism.buckets.allgather_bucket_size=500000000 precision=bf16_master", "" },
	{ "auto as the integration computes it", ZERO("'stage':3,'reduce_bucket_size':'auto','stage3_param_persistence_threshold':'auto'"),
	  "parallelism.buckets.reduce_bucket_size=auto parallelism.buckets.param_persistence_threshold=auto "
	  "parallelism.buckets.prefetch_bucket_size=50000000", "" },
	{ "offload", ZERO("'stage':3,'offload_optimizer':{'device':'cpu'},'offload_param':{'device':'cpu','pin_memory':true}"),
	  "offload.optimizer=cpu offload.parameters=cpu", "/from/deepspeed/zero_optimization/offload_param/pin_memory" },
	{ "the trainer fills in auto",
	  "{" ON8 ",'from':{'deepspeed':{'bf16':{'enabled':'auto'},'fp16':{'enabled':'auto'},'train_batch_size':'auto',"
	  "'train_micro_batch_size_per_gpu':'auto','gradient_clipping':'auto','zero_optimization':{'stage':1}},"
	  "'training_arguments':{'bf16':true,'per_device_train_batch_size':2,'max_grad_norm':0.5}}}",
	  "micro_batch_size=2 max_grad_norm=0.5 precision=bf16_master parallelism.strategy=zero1", "" },
	{ "DeepSpeed's optimizer stands above optim", "{" ON8 ",'from':{'training_arguments':{'optim':'adamw_torch','bf16':true,"
	  "'deepspeed':{'optimizer':{'type':'AdamW','params':{'lr':'auto'}},'zero_optimization':{'stage':1}}}}}",
	  "optimizer=adamw_torch_fused parallelism.strategy=zero1",
	  "/from/training_arguments/deepspeed/optimizer/params /from/training_arguments/optim" },
	{ "accumulation of train_batch_size", "{" ON8 ",'from':{'deepspeed':{'train_batch_size':64,'train_micro_batch_size_per_gpu':2,"
	  "'bf16':{'enabled':true},'zero_optimization':{'stage':3}}}}",
	  "gradient_accumulation_steps=4 micro_batch_size=2", "" },
	{ "micro-batch of train_batch_size", "{" ON8 ",'from':{'deepspeed':{'train_batch_size':64,'bf16':{'enabled':true},"
	  "'zero_optimization':{'stage':3}}}}", "micro_batch_size=8 gradient_accumulation_steps=1", "" },
	{ "GPUs of train_batch_size", "{" LLAMA ",'from':{'deepspeed':{'train_batch_size':64,'train_micro_batch_size_per_gpu':2,"
	  "'gradient_accumulation_steps':8,'bf16':{'enabled':true},'zero_optimization':{'stage':3}}}}",
	  "parallelism.gpus=4", "" },
	{ "accelerate's DDP", ACCELERATE("'distributed_type':'MULTI_GPU','mixed_precision':'bf16','num_machines':2,'num_processes':8,"
	  "'machine_rank':0"), "parallelism.strategy=ddp parallelism.gpus=8 parallelism.gpus_per_node=4",
	  "/from/accelerate/machine_rank" },
	{ "accelerate's FSDP2", ACCELERATE("'distributed_type':'FSDP','mixed_precision':'bf16','num_processes':4,'fsdp_config':"
	  "{'fsdp_version':2,'fsdp_reshard_after_forward':true,'fsdp_auto_wrap_policy':'TRANSFORMER_BASED_WRAP',"
	  "'fsdp_offload_params':false,'fsdp_activation_checkpointing':true}"),
	  "parallelism.strategy=fsdp parallelism.gpus=4 precision=bf16_mixed gradient_checkpointing=full offload.parameters=none", "" },
	{ "accelerate's FSDP1", ACCELERATE("'distributed_type':'FSDP','mixed_precision':'bf16','num_processes':4,'fsdp_config':"
	  "{'fsdp_sharding_strategy':'SHARD_GRAD_OP'}"), "parallelism.strategy=fsdp1 parallelism.reshard_after_forward=false", "" },
	{ "what FSDP left behind", ACCELERATE("'distributed_type':'MULTI_GPU','num_processes':2,'fsdp_config':{'fsdp_version':2}"),
	  "parallelism.strategy=ddp", "/from/accelerate/fsdp_config/fsdp_version" },
	{ "accelerate's DeepSpeed", ACCELERATE("'distributed_type':'DEEPSPEED','mixed_precision':'bf16','num_processes':4,"
	  "'deepspeed_config':{'zero_stage':3,'offload_optimizer_device':'cpu','offload_param_device':'cpu','gradient_clipping':0.5}"),
	  "parallelism.strategy=zero3 offload.optimizer=cpu precision=bf16_master max_grad_norm=0.5", "" },
	{ "the mesh", ACCELERATE("'distributed_type':'FSDP','mixed_precision':'bf16','num_processes':8,'fsdp_config':"
	  "{'fsdp_version':2},'parallelism_config':{'parallelism_config_dp_replicate_size':2,'parallelism_config_dp_shard_size':4}"),
	  "parallelism.strategy=hsdp parallelism.shard_size=4", "" },
	{ "parts of sequences in a ring", ACCELERATE("'distributed_type':'FSDP','mixed_precision':'bf16','num_processes':8,'fsdp_config':"
	  "{'fsdp_version':2},'parallelism_config':{'parallelism_config_dp_shard_size':2,'parallelism_config_cp_size':4,"
	  "'parallelism_config_sp_size':1}"), "parallelism.gpus=8 parallelism.context=4 parallelism.context_backend=ring", "" },
	{ "parts of sequences exchanged", ACCELERATE("'distributed_type':'DEEPSPEED','mixed_precision':'bf16','num_processes':8,"
	  "'deepspeed_config':{'zero_stage':3},'parallelism_config':{'parallelism_config_cp_size':1,'parallelism_config_sp_size':4}"),
	  "parallelism.strategy=zero3 parallelism.context=4 parallelism.context_backend=ulysses parallelism.communication_data_type=fp32", "" },
	{ "Axolotl", "{'from':{'axolotl':{'base_model':'meta-llama/Llama-3.1-8B','adapter':'qlora','load_in_4bit':true,'lora_r':32,"
	  "'lora_target_linear':true,'micro_batch_size':2,'sequence_len':4096,'bf16':'auto','optimizer':'paged_adamw_8bit',"
	  "'attn_implementation':'flash_attention_2','gradient_checkpointing':true,'datasets':[]}}}",
	  "framework=axolotl method=qlora quantization.bits=4 lora.rank=32 lora.target_modules=all-linear sequence_length=4096 "
	  "optimizer=paged_adamw_8bit attention=flash_attention_2 gradient_checkpointing=full", "/from/axolotl/datasets" },
	{ "Axolotl's LoRA over 8 bits", AXOLOTL("'adapter':'lora','load_in_8bit':true"),
	  "method=qlora quantization.bits=8", "" },
	{ "Axolotl without an adapter", AXOLOTL("'bf16':true,'flash_attention':true"),
	  "method=full sequence_length=512 precision=bf16_autocast attention=flash_attention_2", "" },
	{ "a rank without an adapter", AXOLOTL("'lora_r':16"), "method=full", "/from/axolotl/lora_r" },
	{ "a path beside the known model", AXOLOTL("'base_model':'./merged'"), "method=full", "/from/axolotl/base_model" },
	{ "Axolotl's FSDP", "{" ON8 ",'from':{'axolotl':{'bf16':true,'fsdp_version':2,'fsdp_config':{'reshard_after_forward':true}}}}",
	  "parallelism.strategy=fsdp precision=bf16_mixed", "" },
	{ "LLaMA-Factory", "{'from':{'llama_factory':{'model_name_or_path':'Qwen/Qwen3-4B','stage':'sft','lora_target':'q_proj,v_proj',"
	  "'cutoff_len':1024,'per_device_train_batch_size':1,'bf16':true,'template':'qwen3_nothink'}}}",
	  "framework=llama_factory method=lora lora.rank=8 lora.target_modules=q_proj,v_proj sequence_length=1024 micro_batch_size=1",
	  "/from/llama_factory/template" },
	{ "LLaMA-Factory's defaults", FACTORY(""), "method=lora lora.rank=8 lora.target_modules=all-linear sequence_length=2048 "
	  "micro_batch_size=8 gradient_checkpointing=full", "" },
	{ "LLaMA-Factory's QLoRA", FACTORY("'quantization_bit':4,'quantization_type':'fp4','double_quantization':false"),
	  "method=qlora quantization.bits=4 quantization.type=fp4 quantization.double_quant=false", "" },
	{ "LLaMA-Factory's full", FACTORY("'finetuning_type':'full','pure_bf16':true,'flash_attn':'fa2','lora_rank':4,"
	  "'disable_gradient_checkpointing':true"),
	  "method=full precision=bf16 attention=flash_attention_2 gradient_checkpointing=none",
	  "/from/llama_factory/lora_rank" },
	{ "LLaMA-Factory's freeze", FACTORY("'finetuning_type':'freeze'"), "method=freeze trainable_layers=2", "" },
	{ "ORPO has no reference", FACTORY("'stage':'dpo','pref_loss':'orpo'"), "objective=dpo reference_model=none", "" },
};

static const struct {
	const char *name, *body, *pointer;
	enum est_fault_code code;
} wrong[] = {
	{ "a list is no file", "{" LLAMA ",'from':{'axolotl':[]}}", "/from/axolotl", EST_WRONG_TYPE },
	{ "an unknown format", "{" LLAMA ",'from':{'torchtune':{}}}", "/from/torchtune", EST_UNKNOWN_FIELD },
	{ "a field says otherwise", "{" LLAMA ",'micro_batch_size':4,'from':{'training_arguments':{'per_device_train_batch_size':2}}}",
	  "/from/training_arguments/per_device_train_batch_size", EST_CONTRADICTION },
	{ "files say otherwise", "{" ON8 ",'from':{'deepspeed':{'gradient_accumulation_steps':2,'zero_optimization':{'stage':3}},"
	  "'training_arguments':{'gradient_accumulation_steps':4}}}", "/from/training_arguments/gradient_accumulation_steps",
	  EST_CONTRADICTION },
	{ "bf16 and fp16", TRAIN("'bf16':true,'fp16':true"), "/from/training_arguments/fp16", EST_CONTRADICTION },
	{ "bf16 in one file alone", "{" ON8 ",'from':{'deepspeed':{'bf16':{'enabled':true},'zero_optimization':{'stage':3}},"
	  "'training_arguments':{'bf16':false}}}", "/from/training_arguments/bf16", EST_CONTRADICTION },
	{ "a precision of another kind", "{" LLAMA ",'precision':'fp32','from':{'training_arguments':{'bf16':true}}}",
	  "/from/training_arguments/bf16", EST_CONTRADICTION },
	{ "FSDP and DeepSpeed", "{" ON8 ",'from':{'deepspeed':{'zero_optimization':{'stage':3}},'training_arguments':{'fsdp':true}}}",
	  "/from/training_arguments/fsdp", EST_CONTRADICTION },
	{ "another strategy", "{" LLAMA ",'parallelism':{'gpus':8,'strategy':'ddp'},'from':{'deepspeed':{'zero_optimization':{'stage':3}}}}",
	  "/from/deepspeed/zero_optimization/stage", EST_CONTRADICTION },
	{ "another framework", "{" LLAMA ",'framework':'trl','from':{'axolotl':{}}}", "/from/axolotl", EST_CONTRADICTION },
	{ "another model", "{" LLAMA ",'from':{'axolotl':{'base_model':'Qwen/Qwen3-4B'}}}", "/from/axolotl/base_model",
	  EST_CONTRADICTION },
	{ "a train_batch_size that does not come out", "{" ON8 ",'from':{'deepspeed':{'train_batch_size':60,"
	  "'train_micro_batch_size_per_gpu':2,'zero_optimization':{'stage':3}}}}", "/from/deepspeed/train_batch_size",
	  EST_CONTRADICTION },
	{ "a train_batch_size that is another", "{" ON8 ",'from':{'deepspeed':{'train_batch_size':64,'gradient_accumulation_steps':1,"
	  "'train_micro_batch_size_per_gpu':2,'zero_optimization':{'stage':3}}}}", "/from/deepspeed/train_batch_size",
	  EST_CONTRADICTION },
	{ "shards among how many", "{" LLAMA ",'from':{'deepspeed':{'zero_optimization':{'stage':3}}}}",
	  "/parallelism/gpus", EST_MISSING },
	{ "DeepSpeed of which stage", ACCELERATE("'distributed_type':'DEEPSPEED','num_processes':2"),
	  "/from/accelerate/deepspeed_config/zero_stage", EST_MISSING },
	{ "a path", TRAIN8("'deepspeed':'ds_z3_config.json'"), "/from/training_arguments/deepspeed", EST_MISSING },
	{ "no model anywhere", "{'from':{'axolotl':{}}}", "/model", EST_MISSING },
	{ "out of range at the file's value", TRAIN("'per_device_train_batch_size':0"),
	  "/from/training_arguments/per_device_train_batch_size", EST_OUT_OF_RANGE },
	{ "an unknown optimizer", TRAIN("'optim':'lomo'"), "/from/training_arguments/optim", EST_UNKNOWN_VALUE },
	{ "an fsdp of another world", TRAIN8("'fsdp':'everything'"), "/from/training_arguments/fsdp", EST_UNKNOWN_VALUE },
	{ "what memory depends on and is not modelled", FACTORY("'use_badam':true"), "/from/llama_factory/use_badam",
	  EST_NOT_SUPPORTED_YET },
	{ "DeepSpeed without ZeRO", ZERO("'stage':0"), "/from/deepspeed/zero_optimization/stage", EST_NOT_SUPPORTED_YET },
	{ "a rule across fields, at the file's value", AXOLOTL("'adapter':'lora','lora_r':65536"),
	  "/from/axolotl/lora_r", EST_OUT_OF_RANGE },
	{ "more ranks than there are numbers for", "{" LLAMA ",'parallelism':{'tensor':1048576,'pipeline':1048576,'context':1048576},'from':"
	  "{'accelerate':{'parallelism_config':{'dp_shard_size':65536}}}}",
	  "/from/accelerate/parallelism_config/dp_shard_size", EST_OUT_OF_RANGE },
	{ "a quantised base without adapters", FACTORY("'finetuning_type':'full','quantization_bit':4"),
	  "/from/llama_factory/quantization_bit", EST_CONTRADICTION },
};
/* clang-format on */

static void check_field(const char *name, const char *expected)
{
	char field_name[96], text[2048];
	size_t length = strcspn(expected, "=");
	const struct est_field *field;

	snprintf(field_name, sizeof(field_name), "%.*s", (int)length, expected);
	field = est_field_find(field_name);
	ck_assert_msg(field != NULL, "%s: %s", name, field_name);
	est_field_text(field, &request.request, text, sizeof(text));
	expected += length + 1;
	length = strcspn(expected, " ");
	ck_assert_msg(strlen(text) == length && !strncmp(text, expected, length), "%s: %s is %s, not %s", name,
		      field_name, text, expected);
}

START_TEST(a_file_reads_as_the_trainer_reads_it)
{
	const char *field = cases[_i].fields, *pointer = request.ignored.text;
	char ignored[4096] = "";
	size_t i;

	/* What is not modelled yet is read all the same. */
	if (!read_at(cases[_i].body, ""))
		ck_assert_msg(faults.item[0].code == EST_NOT_SUPPORTED_YET, "%s: %s %s", cases[_i].name, faults.item[0].pointer,
			      faults.item[0].detail);
	for (; *field; field += strcspn(field, " "), field += *field == ' ')
		check_field(cases[_i].name, field);
	for (i = 0; i < request.ignored.count; i++, pointer += strlen(pointer) + 1) {
		ck_assert_uint_lt(strlen(ignored) + strlen(pointer) + 2, sizeof(ignored));
		strcat(i ? strcat(ignored, " ") : ignored, pointer);
	}
	ck_assert_msg(!strcmp(ignored, cases[_i].ignored), "%s: ignored %s", cases[_i].name, ignored);
	ck_assert(request.ignored.listed);
}
END_TEST

START_TEST(a_contradiction_is_told_where_it_stands)
{
	size_t i = 0;

	ck_assert_msg(!read_at(wrong[_i].body, ""), "%s", wrong[_i].name);
	while (i < faults.count && strcmp(faults.item[i].pointer, wrong[_i].pointer))
		i++;
	ck_assert_msg(i < faults.count, "%s: %s %s", wrong[_i].name, faults.item[0].pointer, faults.item[0].detail);
	ck_assert_msg(faults.item[i].code == wrong[_i].code, "%s: %s", wrong[_i].name, faults.item[i].detail);
}
END_TEST

START_TEST(in_a_batch_pointers_begin_with_the_request)
{
	ck_assert(!read_at("{" LLAMA ",'micro_batch_size':4,'from':{'training_arguments':{'per_device_train_batch_size':2}}}",
			   "/requests/3"));
	ck_assert_str_eq(faults.item[0].pointer, "/requests/3/from/training_arguments/per_device_train_batch_size");
	ck_assert(!read_at(AXOLOTL("'adapter':'lora','lora_r':65536"), "/requests/3"));
	ck_assert_str_eq(faults.item[0].pointer, "/requests/3/from/axolotl/lora_r");
}
END_TEST

static const char *warning_with(const char *text)
{
	size_t i;

	for (i = 0; i < request.warnings.count; i++)
		if (strstr(request.warnings.item[i].detail, text))
			return request.warnings.item[i].detail;
	return NULL;
}

START_TEST(a_typing_error_and_what_is_left_out_are_warned_of)
{
	ck_assert(read_at(TRAIN("'gradient_checkpointng':true,'neftune_noise_alpha':5,'save_steps':10"), ""));
	ck_assert(warning_with("did you mean \"gradient_checkpointing\""));
	ck_assert(warning_with("neftune_noise_alpha adds noise"));
	ck_assert(!warning_with("save_steps"));
	ck_assert_uint_eq(request.ignored.count, 3);
}
END_TEST

START_TEST(a_default_of_the_trainer_is_an_assumption)
{
	size_t i = 0;

	ck_assert(read_at(TRAIN(""), ""));
	while (i < request.notes.count && strcmp(request.notes.item[i].pointer, "/micro_batch_size"))
		i++;
	ck_assert_uint_lt(i, request.notes.count);
	ck_assert_str_eq(request.notes.item[i].detail, "not named: the default of TrainingArguments");
	ck_assert_str_eq(request.notes.item[i].value, "8");
}
END_TEST

START_TEST(more_is_ignored_than_there_is_room_for)
{
	json_t *body = json_pack("{s:s,s:{s:{}}}", "model", "llama-3.1-8b", "from", "axolotl"), *file;
	int i;

	file = json_object_get(json_object_get(body, "from"), "axolotl");
	for (i = 0; i < 2000; i++) {
		char key[32];

		snprintf(key, sizeof(key), "key_number_%d", i);
		json_object_set_new(file, key, json_integer(i));
	}
	memset(&faults, 0, sizeof(faults));
	ck_assert(cfg_read_request(body, "", catalog, &request, &faults));
	json_decref(body);
	ck_assert_uint_eq(request.ignored.total, 2000);
	ck_assert_uint_lt(request.ignored.count, 2000);
	ck_assert_uint_le(request.ignored.used, sizeof(request.ignored.text));
}
END_TEST

/* A key that is not known is compared with all that are: in a file of very many keys in the first ones alone. */
START_TEST(typing_errors_are_looked_for_in_so_many_keys)
{
	json_t *body = json_pack("{s:s,s:{s:{}}}", "model", "llama-3.1-8b", "from", "axolotl"), *file;
	bool first = _i == 0;

	file = json_object_get(json_object_get(body, "from"), "axolotl");
	if (first)
		json_object_set_new(file, "sequence_lem", json_integer(1));
	for (int i = 0; i < 300; i++) {
		char key[32];

		snprintf(key, sizeof(key), "key_number_%d", i);
		json_object_set_new(file, key, json_integer(i));
	}
	if (!first)
		json_object_set_new(file, "sequence_lem", json_integer(1));
	memset(&faults, 0, sizeof(faults));
	ck_assert(cfg_read_request(body, "", catalog, &request, &faults));
	json_decref(body);
	ck_assert(request.warnings.count == (first ? 1 : 0));
	ck_assert_uint_eq(request.ignored.total, 301);
}
END_TEST

START_TEST(without_files_nothing_is_listed)
{
	ck_assert(read_at("{" LLAMA "}", ""));
	ck_assert(!request.ignored.listed);
}
END_TEST

/* Every row names a field or a fact that there is, and its words are values of that field. */
START_TEST(every_row_leads_somewhere)
{
	const struct cfg_from_format *format = cfg_from_formats[_i];
	const struct cfg_from_row *tables[] = { format->rows, format->more[0], format->more[1] };

	for (size_t t = 0; t < 3; t++)
		for (const struct cfg_from_row *row = tables[t]; row && row->key; row++) {
			const struct est_field *field = row->field ? est_field_find(row->field) : NULL;

			ck_assert_msg((row->how == CFG_FROM_FIELD) == (field != NULL), "%s", row->key);
			ck_assert_msg((row->how >= CFG_FROM_FILE) == (row->why != NULL), "%s", row->key);
			for (const struct cfg_from_word *word = row->words; field && word && word->from; word++)
				ck_assert_msg(!word->to || !field->words || field->kind == EST_FIELD_CHECKPOINTING
					      || est_word_find(field->words, word->to, strlen(word->to)), "%s: %s", row->key, word->to);
		}
}
END_TEST

static Suite *suite(void)
{
	Suite *suite = suite_create("from");
	TCase *files = tcase_create("files");

	tcase_add_unchecked_fixture(files, open_catalog, close_catalog);
	tcase_add_loop_test(files, a_file_reads_as_the_trainer_reads_it, 0, (int)(sizeof(cases) / sizeof(cases[0])));
	tcase_add_loop_test(files, a_contradiction_is_told_where_it_stands, 0, (int)(sizeof(wrong) / sizeof(wrong[0])));
	tcase_add_test(files, in_a_batch_pointers_begin_with_the_request);
	tcase_add_test(files, a_typing_error_and_what_is_left_out_are_warned_of);
	tcase_add_test(files, a_default_of_the_trainer_is_an_assumption);
	tcase_add_test(files, more_is_ignored_than_there_is_room_for);
	tcase_add_loop_test(files, typing_errors_are_looked_for_in_so_many_keys, 0, 2);
	tcase_add_test(files, without_files_nothing_is_listed);
	tcase_add_loop_test(files, every_row_leads_somewhere, 0, CFG_FORMATS);
	suite_add_tcase(suite, files);
	return suite;
}

int main(void)
{
	return run_suite(suite());
}
