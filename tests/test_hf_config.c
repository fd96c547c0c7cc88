#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "config/families.h"
#include "tests/source.h"
#include "tests/suite.h"

static bool read_text(const char *text, struct est_model *ret_model, struct est_faults *faults)
{
	json_t *object = json_loads(text, 0, NULL);
	bool read;

	ck_assert_msg(object, "%s", text);
	faults->count = 0;
	read = cfg_model_from_hf_config(object, "/model", ret_model, faults);
	json_decref(object);
	return read;
}

/* Members that a replay looks at, as numbers: what the config.json of a model and its preset must agree on. */
#define INT(member) { #member, offsetof(struct est_model, member), 'i' }
#define REAL(member) { #member, offsetof(struct est_model, member), 'r' }
#define BOOL(member) { #member, offsetof(struct est_model, member), 'b' }
#define BYTE(member) { #member, offsetof(struct est_model, member), 'y' }
#define ENUM(member) { #member, offsetof(struct est_model, member), 'e' }
static const struct {
	const char *name;
	size_t offset;
	char kind;
} members[] = {
	ENUM(architecture), INT(vocab_size), INT(hidden_size), INT(num_hidden_layers), INT(num_attention_heads),
	INT(num_key_value_heads), INT(head_dim), INT(intermediate_size), INT(max_position_embeddings),
	BOOL(tie_word_embeddings), BOOL(gated_mlp), BOOL(qkv_bias), BOOL(o_bias), BOOL(mlp_bias), BOOL(lm_head_bias),
	ENUM(norm), INT(norms_per_layer), BOOL(final_norm), ENUM(qk_norm), ENUM(activation), ENUM(position),
	INT(linear_num_key_heads), INT(linear_key_head_dim), INT(conv_kernel), INT(n_group), INT(num_experts_per_tok),
	BYTE(layer_kinds[0]), BYTE(layer_kinds[1]), BYTE(layer_kinds[3]), BYTE(layer_kinds[4]), BYTE(layer_kinds[5]), BYTE(layer_kinds[7]),
	INT(ssm_head_dim),
	INT(position_offset), INT(embed_dim), REAL(partial_rotary_factor), INT(sliding_window),
	INT(full_attention_every), BOOL(full_attention_first),
	BOOL(parallel_residual), BOOL(do_layer_norm_before), REAL(attention_dropout), REAL(residual_dropout),
	REAL(embedding_dropout), REAL(final_logit_softcapping), REAL(attn_logit_softcapping),
	REAL(embedding_multiplier),
	REAL(residual_multiplier), REAL(logits_scaling), BOOL(refuses_sdpa), INT(num_experts), INT(moe_intermediate_size),
	INT(shared_expert_intermediate_size),
	INT(first_k_dense_replace), INT(q_lora_rank), INT(parameters),
	INT(no_rope_layer_interval), BOOL(rotates_windows_only), BOOL(embedding_norm), BOOL(refuses_flash),
	INT(num_attention_heads),
};

static double member_of(const struct est_model *model, size_t i)
{
	const char *at = (const char *)model + members[i].offset;
	int64_t whole;
	double real;
	bool flag;
	int word;

	switch (members[i].kind) {
	case 'i':
		memcpy(&whole, at, sizeof(whole));
		return (double)whole;
	case 'r':
		memcpy(&real, at, sizeof(real));
		return real;
	case 'y':
		return *(const uint8_t *)at;
	case 'b':
		memcpy(&flag, at, sizeof(flag));
		return flag;
	default:
		memcpy(&word, at, sizeof(word));
		return word;
	}
}

/* Published config.json files in tests/hf_config, by the preset of the same model. */
static const char *const published[] = { "gemma-2-2b", "gemma-2b", "gemma-3-1b", "gpt2", "llama-3.1-8b", "llama-3.2-1b",
	"mistral-7b-v0.1", "mistral-7b-v0.3", "olmo-1b", "olmo-2-7b", "opt-1.3b", "opt-350m", "phi-3-mini", "pythia-1b",
	"qwen2.5-7b", "qwen3-8b" };

START_TEST(a_published_config_and_its_preset_are_one_shape)
{
	char path[4096];
	struct est_faults faults = { 0 };
	struct est_model model;
	const struct cfg_preset *preset;
	struct cfg_catalog *catalog = shipped_catalog();
	json_t *object;

	preset = cfg_catalog_find_preset(catalog, published[_i], NULL);
	snprintf(path, sizeof(path), "%s/tests/hf_config/%s.json", source_root(), published[_i]);
	object = json_load_file(path, 0, NULL);
	ck_assert_msg(preset && object, "%s", published[_i]);
	ck_assert_msg(cfg_model_from_hf_config(object, "/model", &model, &faults), "%s %s", published[_i],
		      faults.item[0].pointer);
	for (size_t i = 0; i < sizeof(members) / sizeof(members[0]); i++)
		ck_assert_msg(member_of(&model, i) == member_of(&preset->model, i), "%s: %s is %g, of the preset %g",
			      published[_i], members[i].name, member_of(&model, i), member_of(&preset->model, i));
	ck_assert_str_eq(model.model_type, preset->model.model_type);
	ck_assert_str_eq(model.id, "custom");
	json_decref(object);
	cfg_catalog_destroy(catalog);
}
END_TEST

#define SIZES "\"vocab_size\":1000,\"hidden_size\":64,\"num_hidden_layers\":8,\"num_attention_heads\":4," \
	"\"intermediate_size\":160"
#define CONFIG(type, more) "{\"model_type\":\"" type "\"," SIZES more "}"

#define GEMMA4 ",\"num_key_value_heads\":2,\"head_dim\":16,\"global_head_dim\":32,\"sliding_window_pattern\":2,\"vocab_size_per_layer_input\":500," \
	"\"hidden_size_per_layer_input\":16"

#define GEMMA3N KV2 ",\"head_dim\":16,\"sliding_window_pattern\":2,\"vocab_size_per_layer_input\":500,\"hidden_size_per_layer_input\":16," \
	"\"laurel_rank\":8"
#define ZEROS "0,0,0,0,0,0"

#define DEBERTA ",\"relative_attention\":true,\"share_att_key\":true,\"position_buckets\":16,\"norm_rel_ebd\":\"layer_norm\"," \
	"\"position_biased_input\":false"
#define DEBERTA3 DEBERTA ",\"pos_att_type\":\"p2c|c2p\""
#define KV2 ",\"num_key_value_heads\":2"
#define GRANITE_KINDS ",\"layer_types\":[\"mamba\",\"attention\",\"mamba\",\"mamba\",\"mamba\",\"full_attention\",\"mamba\"," \
	"\"linear_attention\"]"

#define KIMI_LISTS(full, kda) ",\"linear_attn_config\":{\"head_dim\":24,\"num_heads\":6,\"short_conv_kernel_size\":3," \
	"\"full_attn_layers\":" full ",\"kda_layers\":" kda "}"
#define KIMI_RULE KIMI_LISTS("[4,8]", "[1,2,3,5,6,7]")
#define KIMI_TYPES ",\"layer_types\":[\"full_attention\",\"linear_attention\",\"linear_attention\",\"linear_attention\"," \
	"\"linear_attention\",\"linear_attention\",\"linear_attention\",\"linear_attention\"]"
#define SLIDING3 "\"sliding_attention\",\"sliding_attention\",\"sliding_attention\""

/* One member of what is read, and what it must be. */
static const struct {
	const char *name, *text, *member;
	double value;
} readings[] = {
	{ "no key_value heads are all heads", CONFIG("llama", ""), "num_key_value_heads", 4 },
	{ "a null is a key that is not there", CONFIG("llama", ",\"num_key_value_heads\":null"),
	  "num_key_value_heads", 4 },
	{ "no head_dim is width by heads", CONFIG("llama", ""), "head_dim", 16 },
	{ "a head_dim of its own stays", CONFIG("llama", ",\"head_dim\":32"), "head_dim", 32 },
	{ "4096.0 is 4096", CONFIG("llama", ",\"max_position_embeddings\":4096.0"), "max_position_embeddings", 4096 },
	{ "Llama is not tied by itself", CONFIG("llama", ""), "tie_word_embeddings", 0 },
	{ "Llama is tied when it says so", CONFIG("llama", ",\"tie_word_embeddings\":true"), "tie_word_embeddings", 1 },
	{ "Gemma is tied by itself", CONFIG("gemma", ",\"num_key_value_heads\":1"), "tie_word_embeddings", 1 },
	{ "Gemma has heads of 256", CONFIG("gemma", ",\"num_key_value_heads\":1"), "head_dim", 256 },
	{ "Qwen 3 has heads of 128", CONFIG("qwen3", ",\"num_key_value_heads\":2"), "head_dim", 128 },
	{ "Qwen 3 norms each head", CONFIG("qwen3", ",\"num_key_value_heads\":2"), "qk_norm", EST_QK_NORM_HEAD },
	{ "attention_bias biases q, k and v of Llama", CONFIG("llama", ",\"attention_bias\":true"), "qkv_bias", 1 },
	{ "attention_bias biases the output of Llama", CONFIG("llama", ",\"attention_bias\":true"), "o_bias", 1 },
	{ "mlp_bias biases the MLP of Llama", CONFIG("llama", ",\"mlp_bias\":true"), "mlp_bias", 1 },
	{ "Mistral's code knows no attention_bias",
	  CONFIG("mistral", ",\"num_key_value_heads\":4,\"attention_bias\":true"), "qkv_bias", 0 },
	{ "Qwen 2 has biased q, k and v", CONFIG("qwen2", ",\"num_key_value_heads\":2"), "qkv_bias", 1 },
	{ "Qwen 2 has an unbiased output", CONFIG("qwen2", ",\"num_key_value_heads\":2"), "o_bias", 0 },
	{ "Mistral slides by itself", CONFIG("mistral", ",\"num_key_value_heads\":4"), "sliding_window", 4096 },
	{ "Mistral's null switches the window off",
	  CONFIG("mistral", ",\"num_key_value_heads\":4,\"sliding_window\":null"), "sliding_window", 0 },
	{ "Qwen 2's window counts only when used",
	  CONFIG("qwen2", ",\"num_key_value_heads\":4,\"sliding_window\":512"), "sliding_window", 0 },
	{ "Qwen 2's window from the first layer on", CONFIG("qwen2",
	  ",\"num_key_value_heads\":4,\"sliding_window\":512,\"use_sliding_window\":true,\"max_window_layers\":0"),
	  "sliding_window", 512 },
	{ "Qwen 2's window beyond the last layer", CONFIG("qwen2",
	  ",\"num_key_value_heads\":4,\"sliding_window\":512,\"use_sliding_window\":true,\"max_window_layers\":8"),
	  "sliding_window", 0 },
	{ "Qwen 2's window in the last layers only is not modelled", CONFIG("qwen2",
	  ",\"num_key_value_heads\":4,\"sliding_window\":512,\"use_sliding_window\":true,\"max_window_layers\":6"),
	  "architecture", EST_ARCH_UNSUPPORTED },
	{ "Gemma 2 alternates", CONFIG("gemma2", ""), "full_attention_every", 2 },
	{ "Gemma 2 refuses sdpa", CONFIG("gemma2", ""), "refuses_sdpa", 1 },
	{ "Gemma 2 caps its scores", CONFIG("gemma2", ""), "attn_logit_softcapping", 50 },
	{ "Gemma 2 caps its logits", CONFIG("gemma2", ""), "final_logit_softcapping", 30 },
	{ "a null lifts the cap", CONFIG("gemma2", ",\"final_logit_softcapping\":null"), "final_logit_softcapping", 0 },
	{ "Gemma 3 caps nothing", CONFIG("gemma3_text", ""), "attn_logit_softcapping", 0 },
	{ "Gemma 3's pattern is read", CONFIG("gemma3_text", ",\"sliding_window_pattern\":4"),
	  "full_attention_every", 4 },
	{ "layer_types tell the period", CONFIG("gemma3_text", ",\"layer_types\":[\"sliding_attention\","
	  "\"sliding_attention\",\"full_attention\",\"sliding_attention\",\"sliding_attention\",\"full_attention\","
	  "\"sliding_attention\",\"sliding_attention\"]"), "full_attention_every", 3 },
	{ "layer_types without sliding lift the window", CONFIG("olmo3", ",\"layer_types\":[\"full_attention\","
	  "\"full_attention\",\"full_attention\",\"full_attention\",\"full_attention\",\"full_attention\","
	  "\"full_attention\",\"full_attention\"]"), "sliding_window", 0 },
	{ "irregular layer_types are not modelled", CONFIG("olmo3", ",\"layer_types\":[\"sliding_attention\","
	  "\"full_attention\",\"full_attention\",\"full_attention\",\"full_attention\",\"full_attention\","
	  "\"full_attention\",\"full_attention\"]"), "architecture", EST_ARCH_UNSUPPORTED },
	{ "OLMo 3 attends in full in each fourth", CONFIG("olmo3", ""), "full_attention_every", 4 },
	{ "OLMo's norms have no weights", CONFIG("olmo", ""), "norm", EST_NORM_NONPARAMETRIC },
	{ "OLMo that clips is not modelled", CONFIG("olmo", ",\"clip_qkv\":8.0"), "architecture",
	  EST_ARCH_UNSUPPORTED },
	{ "Phi-3 drops out its residual", CONFIG("phi3", ",\"resid_pdrop\":0.25"), "residual_dropout", 0.25 },
	{ "Phi-3's code knows no embedding dropout", CONFIG("phi3", ",\"embd_pdrop\":0.25"), "embedding_dropout", 0 },
	{ "Phi-4-mini rotates three quarters", CONFIG("phi3", ",\"partial_rotary_factor\":0.75"),
	  "partial_rotary_factor", 0.75 },
	{ "rope_parameters tell the share, too", CONFIG("phi3", ",\"rope_parameters\":{\"partial_rotary_factor\":0.5}"),
	  "partial_rotary_factor", 0.5 },
	{ "NeoX rotates a quarter", CONFIG("gpt_neox", ""), "partial_rotary_factor", 0.25 },
	{ "rotary_pct is NeoX's word", CONFIG("gpt_neox", ",\"rotary_pct\":1.0"), "partial_rotary_factor", 1 },
	{ "NeoX is parallel by itself", CONFIG("gpt_neox", ""), "parallel_residual", 1 },
	{ "NeoX in sequence", CONFIG("gpt_neox", ",\"use_parallel_residual\":false"), "parallel_residual", 0 },
	{ "NeoX's hidden_dropout is of the embedding, too", CONFIG("gpt_neox", ",\"hidden_dropout\":0.5"),
	  "embedding_dropout", 0.5 },
	{ "NeoX has a bias by itself", CONFIG("gpt_neox", ""), "o_bias", 1 },
	{ "NeoX without attention_bias", CONFIG("gpt_neox", ",\"attention_bias\":false"), "qkv_bias", 0 },
	{ "GPT-2 has an MLP four times as wide",
	  "{\"model_type\":\"gpt2\",\"vocab_size\":100,\"n_embd\":64,\"n_layer\":2,"
	  "\"n_head\":4}", "intermediate_size", 256 },
	{ "GPT-2 drops out a tenth", "{\"model_type\":\"gpt2\",\"vocab_size\":100,\"n_embd\":64,\"n_layer\":2,"
	  "\"n_head\":4}", "attention_dropout", 0.1 },
	{ "GPT-2's gelu_new is eight operators",
	  "{\"model_type\":\"gpt2\",\"vocab_size\":100,\"n_embd\":64,\"n_layer\":2,"
	  "\"n_head\":4}", "activation", EST_GELU_NEW },
	{ "the tanh gelu of torch is one kernel", CONFIG("llama", ",\"hidden_act\":\"gelu_pytorch_tanh\""),
	  "activation",
	  EST_GELU },
	{ "swish is silu", CONFIG("llama", ",\"hidden_act\":\"swish\""), "activation", EST_SILU },
	{ "an activation of many operators is not modelled", CONFIG("llama", ",\"hidden_act\":\"quick_gelu\""),
	  "architecture", EST_ARCH_UNSUPPORTED },
	{ "OPT without biases", CONFIG("opt", ",\"enable_bias\":false"), "mlp_bias", 0 },
	{ "OPT's ffn_dim", "{\"model_type\":\"opt\",\"vocab_size\":100,\"hidden_size\":64,\"num_hidden_layers\":2,"
	  "\"num_attention_heads\":4,\"ffn_dim\":96}", "intermediate_size", 96 },
	{ "OPT's embedding as wide as the rest has no projection", CONFIG("opt", ",\"word_embed_proj_dim\":64"),
	  "embed_dim", 0 },
	{ "OPT that norms after has no final norm", CONFIG("opt", ",\"do_layer_norm_before\":false"), "final_norm", 0 },
	{ "Granite multiplies even by 1", CONFIG("granite", ""), "residual_multiplier", 1 },
	{ "Granite's multiplier", CONFIG("granite", ",\"residual_multiplier\":0.22"), "residual_multiplier", 0.22 },
	{ "Llama has no multiplier", CONFIG("llama", ",\"residual_multiplier\":0.22"), "residual_multiplier", 0 },
	{ "SmolLM3 leaves each fourth layer unrotated", CONFIG("smollm3", ""), "no_rope_layer_interval", 4 },
	{ "SmolLM3's flags tell the period", CONFIG("smollm3", ",\"no_rope_layers\":[1,0,1,0,1,0,1,0]"),
	  "no_rope_layer_interval", 2 },
	{ "SmolLM3 that rotates all", CONFIG("smollm3", ",\"no_rope_layers\":[1,1,1,1,1,1,1,1]"),
	  "no_rope_layer_interval", 0 },
	{ "irregular rotation is not modelled", CONFIG("smollm3", ",\"no_rope_layers\":[1,0,1,1,1,0,1,0]"),
	  "architecture", EST_ARCH_UNSUPPORTED },
	{ "SmolLM3's window is not modelled", CONFIG("smollm3", ",\"use_sliding_window\":true"), "architecture",
	  EST_ARCH_UNSUPPORTED },
	{ "Seed-OSS's output bias is its own", CONFIG("seed_oss",
						      ",\"attention_out_bias\":true,\"num_key_value_heads\":4"), "o_bias", 1 },
	{ "Seed-OSS has none by itself", CONFIG("seed_oss", ",\"num_key_value_heads\":4"), "o_bias", 0 },
	{ "Ministral beside a tower", CONFIG("ministral3", ",\"vision\":{},\"num_key_value_heads\":4"), "architecture",
	  EST_ARCH_MINISTRAL3 },
	{ "ModernBERT's local_attention is of both sides", CONFIG("modernbert", ",\"local_attention\":256"),
	  "sliding_window", 128 },
	{ "ModernBERT's windows by itself", CONFIG("modernbert", ""), "sliding_window", 64 },
	{ "ModernBERT's head has a bias", CONFIG("modernbert", ",\"decoder_bias\":false"), "lm_head_bias", 0 },
	{ "ModernBERT with dropout is not modelled", CONFIG("modernbert", ",\"mlp_dropout\":0.1"), "architecture",
	  EST_ARCH_UNSUPPORTED },
	{ "ModernBERT in another pattern is not modelled", CONFIG("modernbert",
								  ",\"layer_types\":[\"sliding_attention\"]"), "architecture",
	  EST_ARCH_UNSUPPORTED },
	{ "ERNIE's use_bias is of all", CONFIG("ernie4_5", ",\"use_bias\":true"), "mlp_bias", 1 },
	{ "StableLM's use_qkv_bias", CONFIG("stablelm", ",\"use_qkv_bias\":true,\"num_key_value_heads\":4"), "qkv_bias", 1 },
	{ "StableLM with norms of heads is not modelled", CONFIG("stablelm",
	  ",\"qk_layernorm\":true,\"num_key_value_heads\":4"), "architecture", EST_ARCH_UNSUPPORTED },
	{ "StarCoder-2's residual_dropout", CONFIG("starcoder2", ",\"residual_dropout\":0.25"), "residual_dropout", 0.25 },
	{ "StarCoder-2's embedding_dropout", CONFIG("starcoder2", ",\"embedding_dropout\":0.25"), "embedding_dropout", 0.25 },
	{ "Phi's head has a bias", CONFIG("phi", ""), "lm_head_bias", 1 },
	{ "Cohere's norms of heads", CONFIG("cohere", ",\"use_qk_norm\":true"), "qk_norm", EST_QK_NORM_PER_HEAD },
	{ "Cohere scales its logits", CONFIG("cohere", ""), "logits_scaling", 0.0625 },
	{ "Cohere-2 rotates within windows", CONFIG("cohere2", ""), "rotates_windows_only", 1 },
	{ "GLM rotates half", CONFIG("glm", ""), "partial_rotary_factor", 0.5 },
	{ "GLM-4 without attention_bias", CONFIG("glm4", ",\"attention_bias\":false"), "qkv_bias", 0 },
	{ "EXAONE-4 without a window", CONFIG("exaone4", ",\"num_key_value_heads\":4,\"sliding_window\":null"),
	  "sliding_window", 0 },
	{ "Apertus' activation", CONFIG("apertus", ""), "activation", EST_XIELU },
	{ "xIELU elsewhere is not modelled", CONFIG("llama", ",\"hidden_act\":\"xielu\""), "architecture",
	  EST_ARCH_UNSUPPORTED },
	{ "Falcon has one key_value head", CONFIG("falcon", ""), "num_key_value_heads", 1 },
	{ "the new Falcon has several", CONFIG("falcon", ",\"new_decoder_architecture\":true,\"num_kv_heads\":2"),
	  "num_key_value_heads", 2 },
	{ "the new Falcon has two norms", CONFIG("falcon", ",\"new_decoder_architecture\":true,\"num_kv_heads\":2"),
	  "norms_per_layer", 2 },
	{ "or one", CONFIG("falcon",
	  ",\"new_decoder_architecture\":true,\"num_kv_heads\":2,\"num_ln_in_parallel_attn\":1"), "norms_per_layer", 1 },
	{ "Falcon with ALiBi is not modelled", CONFIG("falcon", ",\"alibi\":true"), "architecture", EST_ARCH_UNSUPPORTED },
	{ "Bloom norms its embedding", CONFIG("bloom", ""), "embedding_norm", 1 },
	{ "Bloom knows eager attention only", CONFIG("bloom", ""), "refuses_flash", 1 },
	{ "a slow but exact Bloom is not modelled", CONFIG("bloom", ",\"slow_but_exact\":true"), "architecture",
	  EST_ARCH_UNSUPPORTED },
	{ "MPT's own names", "{\"model_type\":\"mpt\",\"vocab_size\":100,\"d_model\":64,\"n_layers\":2,\"n_heads\":4}",
	  "num_attention_heads", 4 },
	{ "MPT's dropout is attention's", CONFIG("mpt", ",\"attn_config\":{\"attn_pdrop\":0.25}"), "residual_dropout", 0.25 },
	{ "MPT that clips is not modelled", CONFIG("mpt", ",\"attn_config\":{\"clip_qkv\":8}"), "architecture",
	  EST_ARCH_UNSUPPORTED },
	{ "GPT-J that rotates whole heads is not modelled", CONFIG("gptj", ",\"rotary_dim\":null"), "architecture",
	  EST_ARCH_UNSUPPORTED },
	{ "GPT-Neo's own names",
	  "{\"model_type\":\"gpt_neo\",\"vocab_size\":100,\"hidden_size\":64,\"num_layers\":2,\"num_heads\":4}",
	  "num_attention_heads", 4 },
	{ "GPT-BigCode has one key_value head", CONFIG("gpt_bigcode", ""), "num_key_value_heads", 1 },
	{ "GPT-BigCode with many is not modelled", CONFIG("gpt_bigcode", ",\"multi_query\":false"), "architecture",
	  EST_ARCH_UNSUPPORTED },
	{ "keys that nobody knows are allowed", CONFIG("llama", ",\"surprise\":[1,2,{}]"), "hidden_size", 64 },
	{ "Mixtral's experts are as wide as its MLP", CONFIG("mixtral", ",\"num_key_value_heads\":2"),
	  "moe_intermediate_size", 160 },
	{ "Mixtral has eight experts by itself", CONFIG("mixtral", ",\"num_key_value_heads\":2"), "num_experts", 8 },
	{ "experts under DeepSeek's name", CONFIG("deepseek_v3", ",\"n_routed_experts\":32"), "num_experts", 32 },
	{ "shared experts are one MLP", CONFIG("deepseek_v3", ",\"moe_intermediate_size\":48,\"n_shared_experts\":2"),
	  "shared_expert_intermediate_size", 96 },
	{ "a null q_lora_rank projects q at once", CONFIG("deepseek_v3", ",\"q_lora_rank\":null"), "q_lora_rank", 0 },
	{ "latent heads are of two parts", CONFIG("deepseek_v3", ",\"qk_nope_head_dim\":32,\"qk_rope_head_dim\":16"),
	  "head_dim", 48 },
	{ "dense layers come first", CONFIG("glm4_moe_lite", ",\"mlp_layer_types\":[\"dense\",\"dense\",\"sparse\"]"),
	  "first_k_dense_replace", 2 },
	{ "a refused model tells its sizes", CONFIG("dbrx", ""), "hidden_size", 64 },
	{ "a refused model counts nothing", CONFIG("dbrx", ""), "parameters", 0 },
	{ "kinds of layers are read", CONFIG("granitemoehybrid", GRANITE_KINDS), "layer_kinds[1]", EST_LAYER_ATTENDS },
	{ "mixers among them", CONFIG("granitemoehybrid", GRANITE_KINDS), "layer_kinds[7]", EST_LAYER_MIXES },
	{ "a hybrid without kinds is not modelled", CONFIG("granitemoehybrid", ""), "architecture", EST_ARCH_UNSUPPORTED },
	{ "Mamba-2's heads share what expand gives", CONFIG("granitemoehybrid", GRANITE_KINDS ",\"mamba_n_heads\":8"),
	  "ssm_head_dim", 16 },
	{ "Granite's MLP is the shared one", CONFIG("granitemoehybrid", GRANITE_KINDS ",\"shared_intermediate_size\":96"),
	  "intermediate_size", 96 },
	{ "a pattern is read by letter", CONFIG("nemotron_h", KV2 ",\"hybrid_override_pattern\":\"M-M*MEM-\""),
	  "layer_kinds[5]", EST_LAYER_ROUTES },
	{ "no experts in the pattern, none in the model", CONFIG("nemotron_h",
								 KV2 ",\"hybrid_override_pattern\":\"M-M*M-M-\""),
	  "num_experts", 0 },
	{ "Nemotron-H's head is not tied", CONFIG("nemotron_h", KV2 ",\"hybrid_override_pattern\":\"M-M*M-M-\""
								    ",\"tie_word_embeddings\":true"),
	  "tie_word_embeddings", 0 },
	{ "Kimi-Linear's fifth layer attends", CONFIG("kimi_linear", ""), "layer_kinds[4]", EST_LAYER_ATTENDS },
	{ "its first does not", CONFIG("kimi_linear", ""), "layer_kinds[0]", EST_LAYER_MIXES },
	{ "or its layers attend as linear_attn_config numbers them", CONFIG("kimi_linear", KIMI_RULE), "layer_kinds[3]", EST_LAYER_ATTENDS },
	{ "which tells the heads of the rule", CONFIG("kimi_linear", KIMI_RULE), "linear_num_key_heads", 6 },
	{ "and their width", CONFIG("kimi_linear", KIMI_RULE), "linear_key_head_dim", 24 },
	{ "and that of the convolution", CONFIG("kimi_linear", KIMI_RULE), "conv_kernel", 3 },
	{ "layer_types go before", CONFIG("kimi_linear", KIMI_RULE KIMI_TYPES), "layer_kinds[3]", EST_LAYER_MIXES },
	{ "experts by the checkpoint's own names", CONFIG("kimi_linear", ",\"num_experts_per_token\":6,\"num_expert_group\":4"),
	  "num_experts_per_tok", 6 },
	{ "their groups", CONFIG("kimi_linear", ",\"num_experts_per_token\":6,\"num_expert_group\":4"), "n_group", 4 },
	{ "a convolution that another function follows", CONFIG("kimi_linear", ",\"hidden_act\":\"relu2\""), "architecture",
	  EST_ARCH_UNSUPPORTED },
	{ "Bamba lists what attends", CONFIG("bamba", KV2 ",\"attn_layer_indices\":[5]"), "layer_kinds[5]",
	  EST_LAYER_ATTENDS },
	{ "Bamba mixes elsewhere", CONFIG("bamba", KV2 ",\"attn_layer_indices\":[5]"), "layer_kinds[4]", EST_LAYER_MIXES },
	{ "Bamba rotates half of each head", CONFIG("bamba", KV2), "partial_rotary_factor", 0.5 },
	{ "a z-loss is not modelled", CONFIG("bamba", KV2 ",\"z_loss_coefficient\":0.1"), "architecture",
	  EST_ARCH_UNSUPPORTED },
	{ "Falcon-H1 mixes everywhere", CONFIG("falcon_h1", KV2), "layer_kinds[1]", EST_LAYER_MIXES },
	{ "Falcon-H1's mixers have a width of their own", CONFIG("falcon_h1",
								 KV2 ",\"mamba_d_ssm\":2048,\"mamba_n_heads\":32"),
	  "ssm_head_dim", 64 },
	{ "Falcon-H1's mixers are as wide as expand gives", CONFIG("falcon_h1",
								   KV2 ",\"mamba_d_ssm\":null,\"mamba_n_heads\":16"),
	  "ssm_head_dim", 8 },
	{ "a norm of what they scan is not modelled", CONFIG("falcon_h1", KV2 ",\"mamba_rms_norm\":true"), "architecture",
	  EST_ARCH_UNSUPPORTED },
	{ "Mamba-2 alone needs no attention's sizes", "{\"model_type\":\"mamba2\",\"hidden_size\":64,\"num_heads\":16,\"head_dim\":8}",
	  "architecture", EST_ARCH_MAMBA2 },
	{ "DeBERTa's third version", CONFIG("deberta-v2", DEBERTA3), "architecture", EST_ARCH_DEBERTA },
	{ "its kinds of scores in a list", CONFIG("deberta-v2", DEBERTA ",\"pos_att_type\":[\"p2c\",\"c2p\"]"), "architecture",
	  EST_ARCH_DEBERTA },
	{ "the second has a convolution", CONFIG("deberta-v2", DEBERTA3 ",\"conv_kernel_size\":3"), "architecture",
	  EST_ARCH_UNSUPPORTED },
	{ "a DeBERTa by the class's defaults", CONFIG("deberta-v2", ""), "architecture", EST_ARCH_UNSUPPORTED },
	{ "LFM-2 lists what attends", CONFIG("lfm2", KV2 ",\"full_attn_idxs\":[2,5]"), "layer_kinds[5]", EST_LAYER_ATTENDS },
	{ "LFM-2 convolves elsewhere", CONFIG("lfm2", KV2 ",\"full_attn_idxs\":[2,5]"), "layer_kinds[4]", EST_LAYER_MIXES },
	{ "MiniMax-M2 rotates rotary_dim", CONFIG("minimax_m2", KV2 ",\"head_dim\":64,\"rotary_dim\":32"),
	  "partial_rotary_factor", 0.5 },
	{ "Arcee's MLP has no gate", CONFIG("arcee", KV2 ",\"mlp_bias\":true"), "parameters", 393024 },
	{ "Nemotron's norms have biases", CONFIG("nemotron", KV2 ",\"mlp_bias\":true"), "parameters", 394112 },
	{ "Nemotron rotates half of a head", CONFIG("nemotron", ""), "partial_rotary_factor", 0.5 },
	{ "or all of it", CONFIG("nemotron", ",\"partial_rotary_factor\":1.0"), "partial_rotary_factor", 1 },
	{ "or what rope_parameters say", CONFIG("nemotron", ",\"rope_parameters\":{\"partial_rotary_factor\":0.25}"),
	  "partial_rotary_factor", 0.25 },
	{ "Jais-2 has biases throughout", CONFIG("jais2", KV2), "parameters", 395648 },
	{ "Helium's attention_bias is of q, k and v", CONFIG("helium", KV2 ",\"head_dim\":16,\"attention_bias\":true"),
	  "parameters", 474176 },
	{ "HunYuan norms heads", CONFIG("hunyuan_v1_dense", KV2 ",\"head_dim\":32,\"attention_bias\":true"), "parameters", 574528 },
	{ "Ministral counts as Mistral does", CONFIG("ministral", KV2 ",\"head_dim\":32"), "parameters", 571456 },
	{ "Ministral's windows are everywhere by themselves", CONFIG("ministral", KV2), "full_attention_every", 0 },
	{ "full attention first", CONFIG("ministral", KV2 ",\"layer_types\":[\"full_attention\"," SLIDING3 "," SLIDING3 ","
	  "\"sliding_attention\"]"), "architecture", EST_ARCH_LLAMA },
	{ "in periods that are not met is not modelled", CONFIG("ministral", KV2 ",\"layer_types\":[\"full_attention\"," SLIDING3
	  ",\"full_attention\",\"full_attention\",\"sliding_attention\",\"sliding_attention\"]"), "architecture", EST_ARCH_UNSUPPORTED },
	{ "CWM attends in full first", CONFIG("cwm", KV2), "full_attention_first", 1 },
	{ "CWM with full attention last", CONFIG("cwm", KV2 ",\"layer_types\":[" SLIDING3 ",\"full_attention\"," SLIDING3
	  ",\"full_attention\"]"), "full_attention_first", 0 },
	{ "CWM's period", CONFIG("cwm", KV2), "full_attention_every", 4 },
	{ "CWM's mlp_bias", CONFIG("cwm", KV2 ",\"mlp_bias\":true"), "parameters", 1164352 },
	{ "IQuest-Coder's heads are of 128", CONFIG("iquestcoder", KV2), "parameters", 1161280 },
	{ "VaultGemma has two norms a layer", CONFIG("vaultgemma", KV2), "parameters", 1883712 },
	{ "VaultGemma caps its scores", CONFIG("vaultgemma", KV2), "refuses_sdpa", 1 },
	{ "Solar Open has experts in all layers", CONFIG("solar_open", KV2 ",\"head_dim\":16,\"n_routed_experts\":4,\"num_experts_per_tok\":2,"
	  "\"moe_intermediate_size\":32,\"attention_bias\":true"), "parameters", 476224 + 8 * 4 },
	{ "Solar Open needs no width of an MLP", "{\"model_type\":\"solar_open\",\"vocab_size\":1000,\"hidden_size\":64,"
	  "\"num_hidden_layers\":8,\"num_attention_heads\":8}", "moe_intermediate_size", 1280 },
	{ "FlexOlmo's experts are as wide as its MLP", CONFIG("flex_olmo", KV2 ",\"num_experts\":4,\"num_experts_per_tok\":2"), "parameters", 1213248 },
	{ "Youtu's latent attention", CONFIG("youtu", ",\"q_lora_rank\":32,\"kv_lora_rank\":16,\"qk_nope_head_dim\":16,"
	  "\"qk_rope_head_dim\":8,\"v_head_dim\":16,\"attention_bias\":true"), "parameters", 414592 },
	{ "Youtu by the class's defaults", CONFIG("youtu", ",\"tie_word_embeddings\":false"), "parameters", 15366208 },
	{ "CamemBERT is RoBERTa", CONFIG("camembert", ""), "parameters", 401984 },
	{ "data2vec's text model too", CONFIG("data2vec-text", ""), "parameters", 401984 },
	{ "ERNIE is BERT", CONFIG("ernie", ",\"task_type_vocab_size\":16"), "parameters", 401984 },
	{ "but for types of tasks", CONFIG("ernie", ",\"use_task_id\":true"), "parameters", 402176 },
	{ "ELECTRA has no pooler", CONFIG("electra", ",\"embedding_size\":64"), "parameters", 397824 },
	{ "ELECTRA's narrow embeddings are not modelled", CONFIG("electra", ""), "architecture", EST_ARCH_UNSUPPORTED },
	{ "NanoChat's norms have no weights", CONFIG("nanochat", KV2), "parameters", 390144 },
	{ "NanoChat caps its logits", CONFIG("nanochat", KV2), "final_logit_softcapping", 15 },
	{ "or does not", CONFIG("nanochat", KV2 ",\"final_logit_softcapping\":null"), "final_logit_softcapping", 0 },
	{ "HunYuan's shared MLP is as wide as its experts", CONFIG("hunyuan_v1_moe", KV2 ",\"head_dim\":16,\"num_experts\":4,"
	  "\"moe_topk\":[2,2,2,2,2,2,2,2]"), "parameters", 1458496 },
	{ "HunYuan's moe_topk by layer is not modelled", CONFIG("hunyuan_v1_moe", KV2 ",\"num_experts\":4,\"moe_topk\":[2,1]"),
	  "architecture", EST_ARCH_UNSUPPORTED },
	/* as Transformers counts them */
	{ "Gemma-4's embeddings of each layer", CONFIG("gemma4_text", GEMMA4), "parameters", 548816 },
	{ "layers that share have no keys and values", CONFIG("gemma4_text", GEMMA4 ",\"num_kv_shared_layers\":4"), "parameters", 524144 },
	{ "and perhaps a wider MLP", CONFIG("gemma4_text", GEMMA4 ",\"num_kv_shared_layers\":4,\"use_double_wide_mlp\":true"), "parameters",
	  647024 },
	{ "keys for values, where there are any", CONFIG("gemma4_text", GEMMA4 ",\"num_kv_shared_layers\":4,\"attention_k_eq_v\":true,"
	  "\"num_global_key_value_heads\":1"), "parameters", 511856 },
	{ "Gemma-4 by the class's defaults", CONFIG("gemma4_text", ",\"sliding_window_pattern\":2"), "parameters", 540728640 },
	{ "Gemma-3n's streams", CONFIG("gemma3n_text", GEMMA3N ",\"num_kv_shared_layers\":4"), "parameters", 520080 },
	{ "two of them", CONFIG("gemma3n_text", GEMMA3N ",\"num_kv_shared_layers\":4,\"altup_num_inputs\":2"), "parameters", 502128 },
	{ "Gemma-3n whose layers share nothing", CONFIG("gemma3n_text", GEMMA3N ",\"num_kv_shared_layers\":0"), "parameters", 536528 },
	{ "a width of the MLP for each layer", "{\"model_type\":\"gemma3n_text\",\"vocab_size\":1000,\"hidden_size\":64,\"num_hidden_layers\":8,"
	  "\"num_attention_heads\":4,\"intermediate_size\":[160,160,160,160,160,160,160,160]" GEMMA3N ",\"num_kv_shared_layers\":4}",
	  "parameters", 520080 },
	{ "different widths are not modelled", "{\"model_type\":\"gemma3n_text\",\"vocab_size\":1000,\"hidden_size\":64,\"num_hidden_layers\":8,"
	  "\"num_attention_heads\":4,\"intermediate_size\":[160,160,160,160,160,160,160,320]" GEMMA3N ",\"num_kv_shared_layers\":4}",
	  "architecture", EST_ARCH_UNSUPPORTED },
	{ "sparse activations first", CONFIG("gemma3n_text", GEMMA3N ",\"num_kv_shared_layers\":4,"
	  "\"activation_sparsity_pattern\":[0.95,0.9," ZEROS "]"), "architecture", EST_ARCH_GEMMA3N },
	{ "sparse activations last", CONFIG("gemma3n_text", GEMMA3N ",\"num_kv_shared_layers\":4,\"activation_sparsity_pattern\":[" ZEROS ",0.95,0.9]"),
	  "architecture", EST_ARCH_UNSUPPORTED },
	{ "a last layer that slides is made to attend in full", CONFIG("gemma4_text", GEMMA4 ",\"sliding_window_pattern\":3"), "architecture",
	  EST_ARCH_UNSUPPORTED },
	{ "attention in both directions", CONFIG("gemma4_text", GEMMA4 ",\"use_bidirectional_attention\":\"all\""), "architecture",
	  EST_ARCH_UNSUPPORTED },
	{ "or of images alone", CONFIG("gemma4_text", GEMMA4 ",\"use_bidirectional_attention\":\"vision\""), "architecture", EST_ARCH_GEMMA4 },
	{ "a refused model's text is nested", "{\"model_type\":\"gemma3n\",\"text_config\":{\"hidden_size\":2560}}",
	  "hidden_size", 2560 },
	{ "a refused model may say what it likes", "{\"model_type\":\"gemma3n\",\"intermediate_size\":[1,2]}",
	  "intermediate_size", 0 },
};

START_TEST(a_key_or_its_absence_makes_the_shape)
{
	struct est_faults faults;
	struct est_model model;
	size_t i = 0;

	ck_assert_msg(read_text(readings[_i].text, &model, &faults), "%s: %s %s", readings[_i].name,
		      faults.item[0].pointer, faults.item[0].detail);
	while (strcmp(members[i].name, readings[_i].member) != 0)
		ck_assert_msg(++i < sizeof(members) / sizeof(members[0]), "%s", readings[_i].member);
	ck_assert_msg(member_of(&model, i) == readings[_i].value, "%s: %s is %g", readings[_i].name,
		      readings[_i].member,
		      member_of(&model, i));
	ck_assert_msg((model.architecture == EST_ARCH_UNSUPPORTED) == (model.unsupported != NULL), "%s",
		      readings[_i].name);
}
END_TEST

static const struct {
	const char *name, *text, *pointer;
	enum est_fault_code code;
} faulty[] = {
	{ "no model_type", "{" SIZES "}", "/model/model_type", EST_MISSING },
	{ "a model_type that is no text", "{\"model_type\":3}", "/model/model_type", EST_MISSING },
	{ "an unknown model_type", CONFIG("lama", ""), "/model/model_type", EST_UNKNOWN_VALUE },
	{ "no sizes", "{\"model_type\":\"llama\"}", "/model/vocab_size", EST_MISSING },
	{ "a size of null", CONFIG("llama", ",\"hidden_size\":null"), "/model/hidden_size", EST_MISSING },
	{ "a size in text", "{\"model_type\":\"gpt2\",\"n_embd\":\"64\"}", "/model/n_embd", EST_WRONG_TYPE },
	{ "no layers", CONFIG("llama", ",\"num_hidden_layers\":0"), "/model/num_hidden_layers", EST_OUT_OF_RANGE },
	{ "too many layers", CONFIG("llama", ",\"num_hidden_layers\":1025"), "/model/num_hidden_layers",
	  EST_OUT_OF_RANGE },
	{ "half a head", CONFIG("llama", ",\"num_attention_heads\":1.5"), "/model/num_attention_heads",
	  EST_OUT_OF_RANGE },
	{ "heads that do not divide the width", CONFIG("llama", ",\"num_attention_heads\":5"),
	  "/model/num_attention_heads",
	  EST_CONTRADICTION },
	{ "key_value heads that do not divide the heads", CONFIG("llama", ",\"num_key_value_heads\":3"),
	  "/model/num_key_value_heads", EST_CONTRADICTION },
	{ "a switch that is a number", CONFIG("llama", ",\"tie_word_embeddings\":1"), "/model/tie_word_embeddings",
	  EST_WRONG_TYPE },
	{ "an activation that is a number", CONFIG("llama", ",\"hidden_act\":1"), "/model/hidden_act", EST_WRONG_TYPE },
	{ "dropout above 1", CONFIG("llama", ",\"attention_dropout\":1.5"), "/model/attention_dropout",
	  EST_OUT_OF_RANGE },
	{ "layer_types of another length", CONFIG("gemma2", ",\"layer_types\":[\"full_attention\"]"),
	  "/model/layer_types",
	  EST_CONTRADICTION },
	{ "a pattern of another length than the layers", CONFIG("gemma3n_text", GEMMA3N ",\"num_kv_shared_layers\":4,"
	  "\"activation_sparsity_pattern\":[0.95]"), "/model/activation_sparsity_pattern", EST_CONTRADICTION },
	{ "more streams than are modelled", CONFIG("gemma3n_text", GEMMA3N ",\"num_kv_shared_layers\":4,\"altup_num_inputs\":5"),
	  "/model/altup_num_inputs", EST_OUT_OF_RANGE },
	{ "fewer layers than Gemma-3n shares by default", CONFIG("gemma3n_text", GEMMA3N), "/model/num_kv_shared_layers", EST_CONTRADICTION },
	{ "no keys of one's own to share", CONFIG("gemma4_text", GEMMA4 ",\"num_kv_shared_layers\":7"), "/model/num_kv_shared_layers",
	  EST_CONTRADICTION },
	{ "more layers that share than there are", CONFIG("gemma4_text", GEMMA4 ",\"num_kv_shared_layers\":9"), "/model/num_kv_shared_layers",
	  EST_CONTRADICTION },
	{ "shared keys without embeddings of each layer",
	  CONFIG("gemma4_text", GEMMA4 ",\"hidden_size_per_layer_input\":0,\"num_kv_shared_layers\":4"), "/model/num_kv_shared_layers",
	  EST_CONTRADICTION },
	{ "kinds of layers of another number", CONFIG("lfm2", KV2 ",\"layer_types\":[\"conv\"]"), "/model/layer_types",
	  EST_CONTRADICTION },
	{ "a kind of layer that is not known", CONFIG("lfm2",
						      KV2 ",\"layer_types\":[\"conv\",\"conv\",\"conv\",\"conv\",\"conv\","
	  "\"conv\",\"conv\",\"rwkv\"]"), "/model/layer_types", EST_UNKNOWN_VALUE },
	{ "a pattern of another length", CONFIG("nemotron_h", KV2 ",\"hybrid_override_pattern\":\"M-\""),
	  "/model/hybrid_override_pattern", EST_CONTRADICTION },
	{ "a letter that is not known", CONFIG("nemotron_h", KV2 ",\"hybrid_override_pattern\":\"M-M*M-MX\""),
	  "/model/hybrid_override_pattern", EST_UNKNOWN_VALUE },
	{ "an index beyond the layers", CONFIG("lfm2", KV2 ",\"full_attn_idxs\":[8]"), "/model/full_attn_idxs",
	  EST_OUT_OF_RANGE },
	{ "a layer that linear_attn_config leaves out", CONFIG("kimi_linear", KIMI_LISTS("[4]", "[1,2,3,5,6,7]")),
	  "/model/linear_attn_config/kda_layers", EST_CONTRADICTION },
	{ "one that it numbers twice in the place of another", CONFIG("kimi_linear", KIMI_LISTS("[4,4]", "[1,2,3,5,6,7]")),
	  "/model/linear_attn_config/kda_layers", EST_CONTRADICTION },
	{ "one that is not there", CONFIG("kimi_linear", KIMI_LISTS("[4,9]", "[1,2,3,5,6,7,8]")),
	  "/model/linear_attn_config/full_attn_layers", EST_OUT_OF_RANGE },
	{ "a head of no width", CONFIG("kimi_linear", ",\"linear_attn_config\":{\"head_dim\":0}"), "/model/linear_attn_config/head_dim",
	  EST_OUT_OF_RANGE },
	{ "more heads than the stream is wide", CONFIG("granitemoehybrid", GRANITE_KINDS ",\"mamba_n_heads\":4096"),
	  "/model/mamba_n_heads", EST_CONTRADICTION },
	{ "heads that do not divide the stream", CONFIG("granitemoehybrid", GRANITE_KINDS ",\"mamba_n_heads\":7"),
	  "/model/mamba_n_heads", EST_CONTRADICTION },
	{ "a head wider than any", CONFIG("granitemoehybrid", GRANITE_KINDS ",\"mamba_d_head\":8192"),
	  "/model/mamba_d_head", EST_OUT_OF_RANGE },
	{ "a stream divided by nothing", CONFIG("granitemoehybrid", GRANITE_KINDS ",\"mamba_expand\":0"),
	  "/model/mamba_expand", EST_OUT_OF_RANGE },
	{ "a stream beyond all numbers", CONFIG("granitemoehybrid", GRANITE_KINDS ",\"mamba_expand\":9223372036854775807"),
	  "/model/mamba_expand", EST_OUT_OF_RANGE },
	{ "a mixer less wide than it has heads", CONFIG("falcon_h1", KV2 ",\"mamba_d_ssm\":16,\"mamba_n_heads\":32"),
	  "/model/mamba_n_heads", EST_CONTRADICTION },
	{ "groups that do not divide the heads", CONFIG("granitemoehybrid", GRANITE_KINDS ",\"mamba_n_groups\":3"),
	  "/model/mamba_n_groups", EST_CONTRADICTION },
	{ "moe_topk that is no number", CONFIG("hunyuan_v1_moe", KV2 ",\"moe_topk\":\"2\""), "/model/moe_topk", EST_OUT_OF_RANGE },
	{ "moe_topk above the experts", CONFIG("hunyuan_v1_moe", KV2 ",\"num_experts\":4,\"moe_topk\":5"),
	  "/model/num_experts_per_tok", EST_CONTRADICTION },
	{ "no window where masks of both kinds are made", CONFIG("cwm", KV2 ",\"sliding_window\":null"), "/model/sliding_window",
	  EST_CONTRADICTION },
	{ "layer_types that are no list", CONFIG("gemma2", ",\"layer_types\":\"full\""), "/model/layer_types",
	  EST_CONTRADICTION },
};

/* The later of two equal keys wins in jansson: the cases above override SIZES that way. */
START_TEST(a_fault_points_at_the_key_of_the_file)
{
	struct est_faults faults;
	struct est_model model = { .hidden_size = -1 };

	ck_assert_msg(!read_text(faulty[_i].text, &model, &faults), "%s", faulty[_i].name);
	ck_assert_str_eq(faults.item[0].pointer, faulty[_i].pointer);
	ck_assert_msg(faults.item[0].code == faulty[_i].code, "%s: %s", faulty[_i].name, faults.item[0].detail);
	ck_assert_int_eq(model.hidden_size, -1);
}
END_TEST

START_TEST(every_faulty_key_is_told)
{
	struct est_faults faults;
	struct est_model model;

	ck_assert(!read_text(CONFIG("llama", ",\"hidden_size\":0,\"vocab_size\":\"x\",\"mlp_bias\":3"), &model,
		      &faults));
	ck_assert_uint_eq(faults.count, 3);
	ck_assert(!read_text("{\"model_type\":\"llama\"}", &model, &faults));
	ck_assert_uint_eq(faults.count, 5);
}
END_TEST

START_TEST(a_near_miss_is_suggested)
{
	struct est_faults faults;
	struct est_model model;

	ck_assert(!read_text(CONFIG("gemma_2", ""), &model, &faults));
	ck_assert_msg(strstr(faults.item[0].detail, "did you mean gemma2?"), "%s", faults.item[0].detail);
}
END_TEST

START_TEST(a_model_type_is_modelled_or_refused_and_never_both)
{
	ck_assert_ptr_eq(cfg_family_find(cfg_families[_i].model_type), &cfg_families[_i]);
	ck_assert_ptr_null(cfg_refusal_find(cfg_families[_i].model_type));
	ck_assert(cfg_families[_i].shape.architecture != EST_ARCH_UNSUPPORTED);
}
END_TEST

START_TEST(a_refusal_says_why)
{
	char text[256];
	struct est_faults faults;
	struct est_model model;

	ck_assert_ptr_eq(cfg_refusal_find(cfg_refusals[_i].model_type), &cfg_refusals[_i]);
	snprintf(text, sizeof(text), "{\"model_type\":\"%s\"}", cfg_refusals[_i].model_type);
	ck_assert(read_text(text, &model, &faults));
	ck_assert_int_eq(model.architecture, EST_ARCH_UNSUPPORTED);
	ck_assert_ptr_eq(model.unsupported, cfg_refusals[_i].reason);
}
END_TEST

START_TEST(the_largest_config_counts_without_overflow)
{
	struct est_faults faults;
	struct est_model model;

	ck_assert(read_text("{\"model_type\":\"llama\",\"vocab_size\":16777216,\"hidden_size\":131072,"
			    "\"num_hidden_layers\":1024,\"num_attention_heads\":4096,\"head_dim\":4096,"
			    "\"intermediate_size\":1048576}", &model, &faults));
	/* 4 * 2^17 * 2^24 of attention and 3 * 2^17 * 2^20 of MLP in each of 2^10 layers, 2 * 2^24 * 2^17 outside. */
	ck_assert(model.parameters > INT64_C(1) << 53 && model.parameters < INT64_C(1) << 54);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("hf_config");
	TCase *test = tcase_create("hf_config");

	tcase_add_loop_test(test, a_published_config_and_its_preset_are_one_shape, 0, COUNT(published));
	tcase_add_loop_test(test, a_key_or_its_absence_makes_the_shape, 0, COUNT(readings));
	tcase_add_loop_test(test, a_fault_points_at_the_key_of_the_file, 0, COUNT(faulty));
	tcase_add_test(test, every_faulty_key_is_told);
	tcase_add_test(test, a_near_miss_is_suggested);
	tcase_add_loop_test(test, a_model_type_is_modelled_or_refused_and_never_both, 0, (int)cfg_family_count);
	tcase_add_loop_test(test, a_refusal_says_why, 0, (int)cfg_refusal_count);
	tcase_add_test(test, the_largest_config_counts_without_overflow);
	suite_add_tcase(suite, test);
	return run_suite(suite);
}
