#include <assert.h>
#include <stddef.h>
#include "estimator/architecture.h"
#include "estimator/litgpt.h"
#include "estimator/torchtune.h"

/* A linear layer under Llama's name, and under another. */
#define LINEAR(module, in, out, bias) NAMED(module, #module, in, out, bias)
#define NAMED(module, name, in, out, bias) \
	{ offsetof(struct est_layer, module), EST_MODULE_LINEAR, EST_WIDTH_##in, EST_WIDTH_##out, EST_BIAS_##bias, name }
#define NORM(module, width) { offsetof(struct est_layer, module), EST_MODULE_NORM, EST_WIDTH_##width, EST_WIDTH_##width, EST_BIAS_NONE, #module }
#define BARE(module, kind) \
	{ offsetof(struct est_layer, module), EST_MODULE_##kind, EST_WIDTH_HIDDEN, EST_WIDTH_HIDDEN, EST_BIAS_NONE, #module }
#define WIDE(module, kind, width) \
	{ offsetof(struct est_layer, module), EST_MODULE_##kind, EST_WIDTH_##width, EST_WIDTH_##width, EST_BIAS_NONE, #module }
#define ROUTER BARE(router, ROUTER)
#define EXPERTS BARE(experts, EXPERTS)
#define END { SIZE_MAX, EST_MODULE_LINEAR, EST_WIDTH_HIDDEN, EST_WIDTH_HIDDEN, EST_BIAS_NONE, NULL }

/* clang-format off */
static const struct est_module llama[] = {
	LINEAR(q_proj, HIDDEN, QUERY, QKV), LINEAR(k_proj, HIDDEN, KEY, QKV), LINEAR(v_proj, HIDDEN, KEY, QKV),
	LINEAR(o_proj, QUERY, HIDDEN, O),
	LINEAR(gate_proj, HIDDEN, MLP, MLP), LINEAR(up_proj, HIDDEN, MLP, MLP), LINEAR(down_proj, MLP, HIDDEN, MLP),
	NORM(input_layernorm, HIDDEN), NORM(post_attention_layernorm, HIDDEN), END
};
static const struct est_module qwen3[] = {
	LINEAR(q_proj, HIDDEN, QUERY, QKV), LINEAR(k_proj, HIDDEN, KEY, QKV), LINEAR(v_proj, HIDDEN, KEY, QKV),
	LINEAR(o_proj, QUERY, HIDDEN, O), NORM(q_norm, HEAD), NORM(k_norm, HEAD),
	LINEAR(gate_proj, HIDDEN, MLP, MLP), LINEAR(up_proj, HIDDEN, MLP, MLP), LINEAR(down_proj, MLP, HIDDEN, MLP),
	NORM(input_layernorm, HIDDEN), NORM(post_attention_layernorm, HIDDEN), END
};
static const struct est_module gemma2[] = {
	LINEAR(q_proj, HIDDEN, QUERY, QKV), LINEAR(k_proj, HIDDEN, KEY, QKV), LINEAR(v_proj, HIDDEN, KEY, QKV),
	LINEAR(o_proj, QUERY, HIDDEN, O),
	LINEAR(gate_proj, HIDDEN, MLP, MLP), LINEAR(up_proj, HIDDEN, MLP, MLP), LINEAR(down_proj, MLP, HIDDEN, MLP),
	NORM(input_layernorm, HIDDEN), NORM(post_attention_layernorm, HIDDEN),
	NORM(pre_feedforward_layernorm, HIDDEN), NORM(post_feedforward_layernorm, HIDDEN), END
};
static const struct est_module gemma3[] = {
	LINEAR(q_proj, HIDDEN, QUERY, QKV), LINEAR(k_proj, HIDDEN, KEY, QKV), LINEAR(v_proj, HIDDEN, KEY, QKV),
	LINEAR(o_proj, QUERY, HIDDEN, O), NORM(q_norm, HEAD), NORM(k_norm, HEAD),
	LINEAR(gate_proj, HIDDEN, MLP, MLP), LINEAR(up_proj, HIDDEN, MLP, MLP), LINEAR(down_proj, MLP, HIDDEN, MLP),
	NORM(input_layernorm, HIDDEN), NORM(post_attention_layernorm, HIDDEN),
	NORM(pre_feedforward_layernorm, HIDDEN), NORM(post_feedforward_layernorm, HIDDEN), END
};
#define GEMMA4_DENSE \
	LINEAR(q_proj, HIDDEN, QUERY, QKV), NORM(q_norm, HEAD), NORM(k_norm, OWN_KEY_HEAD), LINEAR(k_proj, HIDDEN, OWN_KEY, QKV), \
	LINEAR(v_proj, HIDDEN, VALUE, QKV), LINEAR(o_proj, QUERY, HIDDEN, O), LINEAR(gate_proj, HIDDEN, MLP, MLP), \
	LINEAR(up_proj, HIDDEN, MLP, MLP), LINEAR(down_proj, MLP, HIDDEN, MLP), NORM(input_layernorm, HIDDEN), \
	NORM(post_attention_layernorm, HIDDEN), NORM(pre_feedforward_layernorm, HIDDEN), NORM(post_feedforward_layernorm, HIDDEN), \
	LINEAR(per_layer_input_gate, HIDDEN, PER_LAYER_INPUT, NONE), LINEAR(per_layer_projection, PER_LAYER_INPUT, HIDDEN, NONE), \
	NORM(post_per_layer_input_norm, PER_LAYER_NORM)
static const struct est_module gemma4[] = { GEMMA4_DENSE, END };
static const struct est_module gemma4_moe[] = {
	GEMMA4_DENSE, WIDE(router_scale, VECTOR, HIDDEN), WIDE(per_expert_scale, VECTOR, EXPERT_COUNT),
	NAMED(router, "proj", HIDDEN, EXPERT_COUNT, NONE), EXPERTS, NORM(post_feedforward_layernorm_1, HIDDEN),
	NORM(post_feedforward_layernorm_2, HIDDEN), NORM(pre_feedforward_layernorm_2, HIDDEN), END
};
static const struct est_module gemma3n[] = {
	LINEAR(q_proj, HIDDEN, QUERY, QKV), NORM(q_norm, HEAD), LINEAR(k_proj, HIDDEN, OWN_KEY, QKV), LINEAR(v_proj, HIDDEN, VALUE, QKV),
	NORM(k_norm, OWN_KEY_HEAD), LINEAR(o_proj, QUERY, HIDDEN, O), LINEAR(gate_proj, HIDDEN, MLP, MLP),
	LINEAR(up_proj, HIDDEN, MLP, MLP), LINEAR(down_proj, MLP, HIDDEN, MLP), NORM(input_layernorm, HIDDEN),
	NORM(post_attention_layernorm, HIDDEN), NORM(pre_feedforward_layernorm, HIDDEN), NORM(post_feedforward_layernorm, HIDDEN),
	WIDE(altup.correct_output_scale, VECTOR, HIDDEN), NAMED(altup.correction_coefs, "correction_coefs", STREAMS, STREAMS, NONE),
	NAMED(altup.prediction_coefs, "prediction_coefs", STREAMS, STREAM_PAIRS, NONE),
	NAMED(altup.modality_router, "modality_router", HIDDEN, STREAMS, NONE), NORM(altup.router_norm, HIDDEN),
	NAMED(laurel.linear_left, "linear_left", HIDDEN, LAUREL, NONE), NAMED(laurel.linear_right, "linear_right", LAUREL, HIDDEN, NONE),
	NORM(laurel.post_laurel_norm, HIDDEN), LINEAR(per_layer_input_gate, HIDDEN, PER_LAYER_INPUT, NONE),
	LINEAR(per_layer_projection, PER_LAYER_INPUT, HIDDEN, NONE), NORM(post_per_layer_input_norm, PER_LAYER_NORM), END
};
static const struct est_module phi3[] = {
	LINEAR(o_proj, QUERY, HIDDEN, O), LINEAR(qkv_proj, HIDDEN, QKV, QKV),
	LINEAR(gate_up_proj, HIDDEN, GATE_UP, MLP), LINEAR(down_proj, MLP, HIDDEN, MLP),
	NORM(input_layernorm, HIDDEN), NORM(post_attention_layernorm, HIDDEN), END
};
static const struct est_module olmo2[] = {
	LINEAR(q_proj, HIDDEN, QUERY, QKV), LINEAR(k_proj, HIDDEN, KEY, QKV), LINEAR(v_proj, HIDDEN, KEY, QKV),
	LINEAR(o_proj, QUERY, HIDDEN, O), NORM(q_norm, QUERY), NORM(k_norm, KEY),
	LINEAR(gate_proj, HIDDEN, MLP, MLP), LINEAR(up_proj, HIDDEN, MLP, MLP), LINEAR(down_proj, MLP, HIDDEN, MLP),
	NORM(post_attention_layernorm, HIDDEN), NORM(post_feedforward_layernorm, HIDDEN), END
};
/* ln_1, c_attn, c_proj, ln_2, mlp.c_fc, mlp.c_proj */
static const struct est_module gpt2[] = {
	NORM(input_layernorm, HIDDEN), NAMED(qkv_proj, "c_attn", HIDDEN, QKV, QKV), NAMED(o_proj, "c_proj", QUERY, HIDDEN, O),
	NORM(post_attention_layernorm, HIDDEN),
	NAMED(up_proj, "c_fc", HIDDEN, MLP, MLP), NAMED(down_proj, "c_proj", MLP, HIDDEN, MLP), END
};
/* query_key_value, dense, dense_h_to_4h, dense_4h_to_h */
static const struct est_module gpt_neox[] = {
	NORM(input_layernorm, HIDDEN), NORM(post_attention_layernorm, HIDDEN),
	NAMED(qkv_proj, "query_key_value", HIDDEN, QKV, QKV), NAMED(o_proj, "dense", QUERY, HIDDEN, O),
	NAMED(up_proj, "dense_h_to_4h", HIDDEN, MLP, MLP), NAMED(down_proj, "dense_4h_to_h", MLP, HIDDEN, MLP), END
};
/* k_proj, v_proj, q_proj, out_proj, self_attn_layer_norm, fc1, fc2, final_layer_norm */
static const struct est_module opt[] = {
	LINEAR(k_proj, HIDDEN, KEY, QKV), LINEAR(v_proj, HIDDEN, KEY, QKV), LINEAR(q_proj, HIDDEN, QUERY, QKV),
	NAMED(o_proj, "out_proj", QUERY, HIDDEN, O), NORM(input_layernorm, HIDDEN),
	NAMED(up_proj, "fc1", HIDDEN, MLP, MLP), NAMED(down_proj, "fc2", MLP, HIDDEN, MLP),
	NORM(post_attention_layernorm, HIDDEN), END
};

#define ATTENTION LINEAR(q_proj, HIDDEN, QUERY, QKV), LINEAR(k_proj, HIDDEN, KEY, QKV), LINEAR(v_proj, HIDDEN, KEY, QKV), \
	LINEAR(o_proj, QUERY, HIDDEN, O)
#define DENSE_MLP LINEAR(gate_proj, HIDDEN, MLP, MLP), LINEAR(up_proj, HIDDEN, MLP, MLP), LINEAR(down_proj, MLP, HIDDEN, MLP)
#define PLAIN_MLP(up, down) NAMED(up_proj, up, HIDDEN, MLP, MLP), NAMED(down_proj, down, MLP, HIDDEN, MLP)
/* of the same names, in a layer that has no dense MLP */
#define SHARED_EXPERTS LINEAR(gate_proj, HIDDEN, SHARED, MLP), LINEAR(up_proj, HIDDEN, SHARED, MLP), \
	LINEAR(down_proj, SHARED, HIDDEN, MLP)
#define NORMS NORM(input_layernorm, HIDDEN), NORM(post_attention_layernorm, HIDDEN)
#define HEAD_NORMS NORM(q_norm, HEAD_NORM), NORM(k_norm, HEAD_NORM)
#define LATENT LINEAR(q_proj, HIDDEN, Q_DIRECT, NONE), LINEAR(q_a_proj, HIDDEN, Q_RANK, QKV), \
	NORM(q_a_layernorm, Q_RANK), LINEAR(q_b_proj, Q_RANK, Q_HEADS, NONE), \
	LINEAR(kv_a_proj_with_mqa, HIDDEN, KV_COMPRESSED, QKV), NORM(kv_a_layernorm, KV_RANK), \
	LINEAR(kv_b_proj, KV_RANK, KV_HEADS, NONE), LINEAR(o_proj, V_HEADS, HIDDEN, O)
static const struct est_module qwen[] = {
	NAMED(qkv_proj, "c_attn", HIDDEN, QKV, QKV), NAMED(o_proj, "c_proj", QUERY, HIDDEN, O),
	NAMED(up_proj, "w1", HIDDEN, MLP, MLP),
	NAMED(gate_proj, "w2", HIDDEN, MLP, MLP), NAMED(down_proj, "c_proj", MLP, HIDDEN, MLP), NORMS, END
};
static const struct est_module mixtral[] = { ATTENTION, ROUTER, EXPERTS, NORMS, END };
static const struct est_module qwen2_moe[] = {
	ATTENTION, ROUTER, EXPERTS, SHARED_EXPERTS, LINEAR(shared_expert_gate, HIDDEN, SHARED_GATE, NONE), NORMS, END
};
static const struct est_module qwen3_moe[] = { ATTENTION, HEAD_NORMS, EXPERTS, ROUTER, NORMS, END };
static const struct est_module olmoe[] = {
	ATTENTION, NORM(q_norm, QUERY), NORM(k_norm, KEY), ROUTER, EXPERTS, NORMS, END
};
static const struct est_module flex_olmo[] = {
	ATTENTION, NORM(q_norm, QUERY), NORM(k_norm, KEY), ROUTER, EXPERTS, NORM(post_attention_layernorm, HIDDEN),
	NORM(post_feedforward_layernorm, HIDDEN), END
};
static const struct est_module latent[] = { LATENT, DENSE_MLP, NORMS, END };
static const struct est_module latent_moe[] = { LATENT, EXPERTS, ROUTER, SHARED_EXPERTS, NORMS, END };
#define INDEXER NAMED(indexer.wq_b, "wq_b", Q_RANK, INDEX_HEADS, NONE), NAMED(indexer.wk, "wk", HIDDEN, INDEX_HEAD, NONE), \
	WIDE(indexer.k_norm, LAYER_NORM, INDEX_HEAD), NAMED(indexer.weights_proj, "weights_proj", HIDDEN, INDEX_WEIGHTS, NONE)
static const struct est_module indexed[] = { LATENT, INDEXER, DENSE_MLP, NORMS, END };
static const struct est_module indexed_moe[] = { LATENT, INDEXER, EXPERTS, ROUTER, SHARED_EXPERTS, NORMS, END };
static const struct est_module glm4[] = { ATTENTION, HEAD_NORMS, DENSE_MLP, NORMS, END };
static const struct est_module glm4_moe[] = { ATTENTION, HEAD_NORMS, EXPERTS, ROUTER, SHARED_EXPERTS, NORMS, END };
static const struct est_module ernie4_5_moe[] = { ATTENTION, ROUTER, EXPERTS, SHARED_EXPERTS, NORMS, END };
static const struct est_module hunyuan_moe[] = {
	ATTENTION, HEAD_NORMS, NAMED(router, "wg", HIDDEN, EXPERT_COUNT, NONE), EXPERTS, SHARED_EXPERTS, NORMS, END
};
#define GRANITE_MLP(width, both) NAMED(gate_up_proj, "input_linear", HIDDEN, both, NONE), \
	NAMED(down_proj, "output_linear", width, HIDDEN, NONE)
static const struct est_module granite[] = { NORMS, GRANITE_MLP(MLP, GATE_UP), ATTENTION, END };
static const struct est_module granite_moe[] = {
	NORMS, ROUTER, EXPERTS, GRANITE_MLP(SHARED, SHARED_GATE_UP), ATTENTION, END
};
/* mamba.conv1d, in_proj, dt_bias, A_log, norm, D, out_proj */
#define MAMBA2 WIDE(mixer.conv_weight, CONV, SSM_CONV), NAMED(mixer.in_proj, "in_proj", HIDDEN, SSM_PROJECTED, MIXER), \
	WIDE(mixer.dt_bias, VECTOR, SSM_HEADS), WIDE(mixer.a_log, VECTOR, SSM_HEADS), NORM(mixer.norm, SSM_NORM), \
	WIDE(mixer.d, VECTOR, SSM_HEADS), NAMED(mixer.out_proj, "out_proj", SSM, HIDDEN, MIXER)
static const struct est_module granite_mamba[] = { NORMS, GRANITE_MLP(MLP, GATE_UP), MAMBA2, END };
static const struct est_module granite_mamba_moe[] = {
	NORMS, ROUTER, EXPERTS, GRANITE_MLP(SHARED, SHARED_GATE_UP), MAMBA2, END
};
static const struct est_module bamba[] = { DENSE_MLP, NORMS, ATTENTION, END };
static const struct est_module bamba_mamba[] = { DENSE_MLP, NORMS, MAMBA2, END };
static const struct est_module falcon_h1[] = { DENSE_MLP, MAMBA2, BARE(mixer.mup_vector, MULTIPLIERS), ATTENTION, NORMS,
					       END };
static const struct est_module mamba2[] = { NORM(input_layernorm, HIDDEN), MAMBA2, END };
#define LFM2_ATTENTION LINEAR(q_proj, HIDDEN, QUERY, NONE), LINEAR(k_proj, HIDDEN, KEY, NONE), LINEAR(v_proj, HIDDEN, KEY, NONE), \
	NAMED(o_proj, "out_proj", QUERY, HIDDEN, NONE), NORM(q_norm, HEAD), NORM(k_norm, HEAD)
#define LFM2_CONV WIDE(mixer.conv_weight, CONV, HIDDEN), NAMED(mixer.in_proj, "in_proj", HIDDEN, GATES, MIXER), \
	NAMED(mixer.out_proj, "out_proj", HIDDEN, HIDDEN, MIXER)
#define LFM2_MLP NAMED(gate_proj, "w1", HIDDEN, MLP, NONE), NAMED(up_proj, "w3", HIDDEN, MLP, NONE), \
	NAMED(down_proj, "w2", MLP, HIDDEN, NONE)
static const struct est_module lfm2[] = { LFM2_ATTENTION, LFM2_MLP, NORMS, END };
static const struct est_module lfm2_moe[] = { LFM2_ATTENTION, EXPERTS, ROUTER, NORMS, END };
static const struct est_module lfm2_conv[] = { LFM2_CONV, LFM2_MLP, NORMS, END };
static const struct est_module lfm2_conv_moe[] = { LFM2_CONV, EXPERTS, ROUTER, NORMS, END };
/* norm, then one block: mixer */
static const struct est_module nemotron_attention[] = { NORM(input_layernorm, HIDDEN), ATTENTION, END };
static const struct est_module nemotron_mamba[] = { NORM(input_layernorm, HIDDEN), MAMBA2, END };
static const struct est_module nemotron_mlp[] = { NORM(input_layernorm, HIDDEN), PLAIN_MLP("up_proj", "down_proj"),
						  END };
static const struct est_module nemotron_moe[] = {
	NORM(input_layernorm, HIDDEN), EXPERTS, ROUTER, LINEAR(up_proj, HIDDEN, SHARED, MLP),
	LINEAR(down_proj, SHARED, HIDDEN, MLP),
	LINEAR(fc1_latent_proj, HIDDEN, EXPERT_LATENT, MLP), LINEAR(fc2_latent_proj, EXPERT_LATENT, HIDDEN, MLP), END
};
/* conv1d, dt_bias, A_log, norm, out_proj, in_proj_qkv, in_proj_z, in_proj_b, in_proj_a */
#define DELTA_NET WIDE(mixer.conv_weight, CONV, SSM_CONV), WIDE(mixer.dt_bias, VECTOR, DELTA_HEADS), \
	WIDE(mixer.a_log, VECTOR, DELTA_HEADS), NORM(mixer.norm, DELTA_HEAD), NAMED(mixer.out_proj, "out_proj", DELTA, HIDDEN, NONE), \
	NAMED(mixer.in_proj, "in_proj_qkv", HIDDEN, SSM_CONV, NONE), NAMED(mixer.z_proj, "in_proj_z", HIDDEN, DELTA, NONE), \
	NAMED(mixer.b_proj, "in_proj_b", HIDDEN, DELTA_HEADS, NONE), NAMED(mixer.a_proj, "in_proj_a", HIDDEN, DELTA_HEADS, NONE)
#define GATED_ATTENTION LINEAR(q_proj, HIDDEN, GATED_QUERY, QKV), LINEAR(k_proj, HIDDEN, KEY, QKV), LINEAR(v_proj, HIDDEN, KEY, QKV), \
	LINEAR(o_proj, QUERY, HIDDEN, O), NORM(q_norm, HEAD), NORM(k_norm, HEAD)
#define GATED_MIXTURE ROUTER, EXPERTS, SHARED_EXPERTS, LINEAR(shared_expert_gate, HIDDEN, SHARED_GATE, NONE)
/* conv1d, in_proj_qkvz, in_proj_ba, dt_bias, A_log, norm, out_proj */
#define DELTA_NET_BY_HEAD WIDE(mixer.conv_weight, CONV, SSM_CONV), NAMED(mixer.in_proj, "in_proj_qkvz", HIDDEN, DELTA_QKVZ, NONE), \
	NAMED(mixer.b_proj, "in_proj_ba", HIDDEN, DELTA_BA, NONE), WIDE(mixer.dt_bias, VECTOR, DELTA_HEADS), \
	WIDE(mixer.a_log, VECTOR, DELTA_HEADS), NORM(mixer.norm, DELTA_HEAD), NAMED(mixer.out_proj, "out_proj", DELTA, HIDDEN, NONE)
static const struct est_module qwen3_next_delta[] = { DELTA_NET_BY_HEAD, DENSE_MLP, NORMS, END };
static const struct est_module qwen3_next_delta_moe[] = { DELTA_NET_BY_HEAD, GATED_MIXTURE, NORMS, END };
static const struct est_module qwen3_5[] = { GATED_ATTENTION, DENSE_MLP, NORMS, END };
static const struct est_module qwen3_5_moe[] = { GATED_ATTENTION, GATED_MIXTURE, NORMS, END };
static const struct est_module qwen3_5_delta[] = { DELTA_NET, DENSE_MLP, NORMS, END };
static const struct est_module qwen3_5_delta_moe[] = { DELTA_NET, GATED_MIXTURE, NORMS, END };
/* q_proj, k_proj, v_proj, conv1d, forget_gate (f_a_proj, f_b_proj, dt_bias, A_log), b_proj, g_a_proj, g_b_proj, o_norm, o_proj */
#define KIMI_DELTA LINEAR(q_proj, HIDDEN, DELTA_MIXED, NONE), LINEAR(k_proj, HIDDEN, DELTA_MIXED, NONE), \
	LINEAR(v_proj, HIDDEN, DELTA_MIXED, NONE), WIDE(mixer.conv_weight, CONV, SSM_CONV), \
	NAMED(mixer.f_a_proj, "f_a_proj", HIDDEN, DELTA_HEAD, NONE), NAMED(mixer.f_b_proj, "f_b_proj", DELTA_HEAD, DELTA, NONE), \
	WIDE(mixer.dt_bias, VECTOR, DELTA), WIDE(mixer.a_log, VECTOR, DELTA_HEADS), \
	NAMED(mixer.b_proj, "b_proj", HIDDEN, DELTA_HEADS, NONE), NAMED(mixer.g_a_proj, "g_a_proj", HIDDEN, DELTA_HEAD, NONE), \
	NAMED(mixer.g_b_proj, "g_b_proj", DELTA_HEAD, DELTA, NONE), NORM(mixer.norm, DELTA_HEAD), LINEAR(o_proj, DELTA, HIDDEN, NONE)
static const struct est_module kimi_delta[] = { KIMI_DELTA, DENSE_MLP, NORMS, END };
static const struct est_module kimi_delta_moe[] = { KIMI_DELTA, EXPERTS, ROUTER, SHARED_EXPERTS, NORMS, END };
static const struct est_module llama4_moe[] = { ATTENTION, EXPERTS, ROUTER, SHARED_EXPERTS, NORMS, END };
static const struct est_module gpt_oss[] = { ATTENTION, BARE(sinks, SINKS), ROUTER, EXPERTS, NORMS, END };

/* BERT: attention.self.query, key, value, attention.output.dense and LayerNorm, intermediate.dense, output.dense and
 * LayerNorm */
static const struct est_module bert[] = {
	NAMED(q_proj, "query", HIDDEN, QUERY, QKV), NAMED(k_proj, "key", HIDDEN, KEY, QKV),
	NAMED(v_proj, "value", HIDDEN, KEY, QKV),
	NAMED(o_proj, "dense", QUERY, HIDDEN, O), NORM(input_layernorm, HIDDEN),
	NAMED(up_proj, "dense", HIDDEN, MLP, MLP), NAMED(down_proj, "dense", MLP, HIDDEN, MLP),
	NORM(post_attention_layernorm, HIDDEN), END
};
static const struct est_module deberta[] = {
	NAMED(q_proj, "query_proj", HIDDEN, QUERY, QKV), NAMED(k_proj, "key_proj", HIDDEN, KEY, QKV),
	NAMED(v_proj, "value_proj", HIDDEN, KEY, QKV), NAMED(o_proj, "dense", QUERY, HIDDEN, O), NORM(input_layernorm, HIDDEN),
	NAMED(up_proj, "dense", HIDDEN, MLP, MLP), NAMED(down_proj, "dense", MLP, HIDDEN, MLP),
	NORM(post_attention_layernorm, HIDDEN), END
};
static const struct est_module distilbert[] = {
	NAMED(q_proj, "q_lin", HIDDEN, QUERY, QKV), NAMED(k_proj, "k_lin", HIDDEN, KEY, QKV),
	NAMED(v_proj, "v_lin", HIDDEN, KEY, QKV),
	NAMED(o_proj, "out_lin", QUERY, HIDDEN, O), NORM(input_layernorm, HIDDEN),
	NAMED(up_proj, "lin1", HIDDEN, MLP, MLP), NAMED(down_proj, "lin2", MLP, HIDDEN, MLP),
	NORM(post_attention_layernorm, HIDDEN), END
};
#define MODERNBERT_BLOCKS NAMED(qkv_proj, "Wqkv", HIDDEN, QKV, QKV), NAMED(o_proj, "Wo", QUERY, HIDDEN, O), \
	NORM(post_attention_layernorm, HIDDEN), NAMED(gate_up_proj, "Wi", HIDDEN, GATE_UP, MLP), NAMED(down_proj, "Wo", MLP, HIDDEN, MLP)
static const struct est_module modernbert[] = { NORM(input_layernorm, HIDDEN), MODERNBERT_BLOCKS, END };
static const struct est_module modernbert_first[] = { MODERNBERT_BLOCKS, END };
#define T5_ATTENTION NAMED(q_proj, "q", HIDDEN, QUERY, NONE), NAMED(k_proj, "k", HIDDEN, KEY, NONE), \
	NAMED(v_proj, "v", HIDDEN, KEY, NONE), NAMED(o_proj, "o", QUERY, HIDDEN, NONE), NORM(input_layernorm, HIDDEN)
#define T5_CROSS_ATTENTION NAMED(cross_q_proj, "q", HIDDEN, QUERY, NONE), NAMED(cross_k_proj, "k", HIDDEN, KEY, NONE), \
	NAMED(cross_v_proj, "v", HIDDEN, KEY, NONE), NAMED(cross_o_proj, "o", QUERY, HIDDEN, NONE), NORM(cross_attn_layernorm, HIDDEN)
#define T5_MLP NAMED(up_proj, "wi", HIDDEN, MLP, NONE), NAMED(down_proj, "wo", MLP, HIDDEN, NONE), NORM(post_attention_layernorm, HIDDEN)
#define T5_GATED_MLP NAMED(gate_proj, "wi_0", HIDDEN, MLP, NONE), NAMED(up_proj, "wi_1", HIDDEN, MLP, NONE), \
	NAMED(down_proj, "wo", MLP, HIDDEN, NONE), NORM(post_attention_layernorm, HIDDEN)
static const struct est_module t5[] = { T5_ATTENTION, T5_MLP, END };
static const struct est_module t5_decoder[] = { T5_ATTENTION, T5_CROSS_ATTENTION, T5_MLP, END };
static const struct est_module t5_gated[] = { T5_ATTENTION, T5_GATED_MLP, END };
static const struct est_module t5_gated_decoder[] = { T5_ATTENTION, T5_CROSS_ATTENTION, T5_GATED_MLP, END };
#define FUSED_MLP LINEAR(gate_up_proj, HIDDEN, GATE_UP, MLP), LINEAR(down_proj, MLP, HIDDEN, MLP)
static const struct est_module starcoder2[] = { ATTENTION, PLAIN_MLP("c_fc", "c_proj"), NORMS, END };
static const struct est_module phi[] = {
	LINEAR(q_proj, HIDDEN, QUERY, QKV), LINEAR(k_proj, HIDDEN, KEY, QKV), LINEAR(v_proj, HIDDEN, KEY, QKV),
	NAMED(o_proj, "dense", QUERY, HIDDEN, O), PLAIN_MLP("fc1", "fc2"), NORM(input_layernorm, HIDDEN), END
};
static const struct est_module cohere[] = {
	ATTENTION, NORM(q_norm, QUERY_NORM), NORM(k_norm, KEY_NORM), DENSE_MLP, NORM(input_layernorm, HIDDEN), END
};
static const struct est_module glm[] = { ATTENTION, FUSED_MLP, NORMS, END };
/* input, post_attention (before the MLP), post_self_attn, post_mlp */
static const struct est_module glm4_dense[] = {
	ATTENTION, FUSED_MLP, NORM(input_layernorm, HIDDEN), NORM(pre_feedforward_layernorm, HIDDEN),
	NORM(post_attention_layernorm, HIDDEN), NORM(post_feedforward_layernorm, HIDDEN), END
};
static const struct est_module exaone4[] = {
	ATTENTION, HEAD_NORMS, DENSE_MLP, NORM(post_attention_layernorm, HIDDEN), NORM(post_feedforward_layernorm, HIDDEN), END
};
static const struct est_module nemotron[] = { ATTENTION, PLAIN_MLP("up_proj", "down_proj"), NORMS, END };
static const struct est_module hunyuan[] = { ATTENTION, HEAD_NORMS, DENSE_MLP, NORMS, END };
static const struct est_module nanochat[] = { ATTENTION, PLAIN_MLP("fc1", "fc2"), NORMS, END };
static const struct est_module apertus[] = {
	ATTENTION, HEAD_NORMS, PLAIN_MLP("up_proj", "down_proj"), BARE(alpha_p, XIELU), NORMS, END
};

#define GPT_ATTENTION LINEAR(k_proj, HIDDEN, KEY, QKV), LINEAR(v_proj, HIDDEN, KEY, QKV), LINEAR(q_proj, HIDDEN, QUERY, QKV), \
	NAMED(o_proj, "out_proj", QUERY, HIDDEN, O)
#define FUSED_ATTENTION(qkv, o) NAMED(qkv_proj, qkv, HIDDEN, QKV, QKV), NAMED(o_proj, o, QUERY, HIDDEN, O)
/* query_key_value, dense, dense_h_to_4h, dense_4h_to_h, one norm or ln_attn and ln_mlp */
static const struct est_module falcon[] = {
	FUSED_ATTENTION("query_key_value", "dense"), PLAIN_MLP("dense_h_to_4h", "dense_4h_to_h"),
	NORM(input_layernorm, HIDDEN), NORM(post_attention_layernorm, SECOND_NORM), END
};
static const struct est_module bloom[] = {
	NORM(input_layernorm, HIDDEN), FUSED_ATTENTION("query_key_value", "dense"), NORM(post_attention_layernorm, HIDDEN),
	PLAIN_MLP("dense_h_to_4h", "dense_4h_to_h"), END
};
static const struct est_module mpt[] = {
	NORM(input_layernorm, HIDDEN), FUSED_ATTENTION("Wqkv", "out_proj"), NORM(post_attention_layernorm, HIDDEN),
	PLAIN_MLP("up_proj", "down_proj"), END
};
static const struct est_module gptj[] = {
	NORM(input_layernorm, HIDDEN), GPT_ATTENTION, BARE(sinks, SINUSOIDS), PLAIN_MLP("fc_in", "fc_out"), END
};
static const struct est_module gpt_neo[] = {
	NORM(input_layernorm, HIDDEN), BARE(sinks, TRIANGLE), GPT_ATTENTION, NORM(post_attention_layernorm, HIDDEN),
	PLAIN_MLP("c_fc", "c_proj"), END
};
static const struct est_module gpt_bigcode[] = {
	NORM(input_layernorm, HIDDEN), FUSED_ATTENTION("c_attn", "c_proj"), NORM(post_attention_layernorm, HIDDEN),
	PLAIN_MLP("c_fc", "c_proj"), END
};

/* norm_1, attn, proj, post_attention_norm, norm_2, fc_1, fc_2 (or fc), proj, post_mlp_norm */
static const struct est_module litgpt[] = {
	NORM(input_layernorm, HIDDEN), FUSED_ATTENTION("attn", "proj"), NORM(post_attention_layernorm, SANDWICH_NORM),
	NORM(pre_feedforward_layernorm, SECOND_NORM), LINEAR(gate_proj, HIDDEN, GATE, MLP), LINEAR(up_proj, HIDDEN, MLP, MLP),
	LINEAR(down_proj, MLP, HIDDEN, MLP), NORM(post_feedforward_layernorm, SANDWICH_NORM), END
};

/* attn.q_proj, k_proj, v_proj, output_proj; mlp.w1, w2, w3; sa_norm, mlp_norm */
static const struct est_module torchtune[] = {
	LINEAR(q_proj, HIDDEN, QUERY, QKV), LINEAR(k_proj, HIDDEN, KEY, QKV), LINEAR(v_proj, HIDDEN, KEY, QKV),
	LINEAR(o_proj, QUERY, HIDDEN, O), LINEAR(gate_proj, HIDDEN, MLP, MLP), LINEAR(down_proj, MLP, HIDDEN, MLP),
	LINEAR(up_proj, HIDDEN, MLP, MLP), NORM(input_layernorm, HIDDEN), NORM(post_attention_layernorm, HIDDEN), END
};

static const struct est_architecture_row architectures[] = {
	[EST_ARCH_LLAMA]    = { llama, est_llama_layer, est_llama_norm, .rotary = true },
	[EST_ARCH_QWEN3]    = { qwen3, est_qwen3_layer, est_llama_norm, .rotary = true },
	[EST_ARCH_GEMMA]    = { llama, est_gemma_layer, est_gemma_norm, .scaled_embedding = true, .rotary = true },
	[EST_ARCH_GEMMA2]   = { gemma2, est_gemma2_layer, est_gemma_norm, .scaled_embedding = true, .rotary = true },
	[EST_ARCH_GEMMA3]   = { gemma3, est_gemma3_layer, est_gemma_norm, .scaled_embedding = true, .rotary = true,
				.rope_per_layer_type = true },
	[EST_ARCH_GEMMA4]   = { gemma4, est_gemma4_layer, est_gemma4_norm, .scaled_embedding = true, .rotary = true,
				.rope_per_layer_type = true, .sparse = gemma4_moe, .experts_by_their_own_names = true },
	[EST_ARCH_GEMMA3N]  = { gemma3n, est_gemma3n_layer, est_gemma4_norm, .scaled_embedding = true, .rotary = true,
				.rope_per_layer_type = true },
	[EST_ARCH_PHI3]     = { phi3, est_phi3_layer, est_llama_norm, .rotary = true, .cuts_whole_heads = true },
	[EST_ARCH_OLMO]     = { llama, est_olmo_layer, est_olmo_norm, .rotary = true, .fp32_rope = true },
	[EST_ARCH_OLMO2]    = { olmo2, est_olmo2_layer, est_olmo2_norm, .rotary = true, .fp32_rope = true,
				.rope_per_layer_type = true },
	[EST_ARCH_GPT2]     = { .modules = gpt2, .layer = est_gpt2_layer, .final_norm = est_torch_layer_norm },
	[EST_ARCH_GPT_NEOX] = { gpt_neox, est_gpt_neox_layer, est_torch_layer_norm, .rotary = true, .cuts_whole_heads = true },
	[EST_ARCH_OPT]      = { .modules = opt, .layer = est_opt_layer, .final_norm = est_torch_layer_norm },
	[EST_ARCH_QWEN2_VL]    = { llama, est_qwen2_vl_layer, est_llama_norm, .rotary = true },
	[EST_ARCH_MINISTRAL3]  = { llama, est_llama_layer, est_llama_norm, .rotary = true, .scales_queries = true },
	[EST_ARCH_ERNIE4_5]    = { llama, est_llama_layer, est_llama_norm, .rotary = true, .fp32_rope = true,
				   .rotate = est_apply_ernie_rope },
	[EST_ARCH_STABLELM]    = { llama, est_stablelm_layer, est_torch_layer_norm, .rotary = true },
	[EST_ARCH_STARCODER2]  = { starcoder2, est_starcoder2_layer, est_torch_layer_norm, .rotary = true,
				   .drops_embedding_first = true },
	[EST_ARCH_PHI]         = { phi, est_phi_layer, est_torch_layer_norm, .rotary = true, .drops_embedding_first = true },
	[EST_ARCH_COHERE]      = { cohere, est_cohere_layer, est_cohere_norm, .rotary = true,
				   .rotate = est_apply_cohere_rope },
	[EST_ARCH_GLM]         = { glm, est_glm_layer, est_llama_norm, .rotary = true, .rotate = est_apply_glm_rope },
	[EST_ARCH_GLM4]        = { glm4_dense, est_glm4_layer, est_llama_norm, .rotary = true, .rotate = est_apply_glm_rope },
	[EST_ARCH_EXAONE4]     = { exaone4, est_exaone4_layer, est_llama_norm, .rotary = true },
	[EST_ARCH_APERTUS]     = { apertus, est_apertus_layer, est_llama_norm, .rotary = true },
	[EST_ARCH_ARCEE]       = { nemotron, est_arcee_layer, est_llama_norm, .rotary = true },
	[EST_ARCH_JAIS2]       = { nemotron, est_jais2_layer, est_torch_layer_norm, .rotary = true },
	[EST_ARCH_NEMOTRON]    = { nemotron, est_nemotron_layer, est_nemotron_norm, .rotary = true, .cuts_whole_heads = true },
	[EST_ARCH_HELIUM]      = { llama, est_helium_layer, est_olmo2_norm, .rotary = true, .rotate = est_apply_helium_rope },
	[EST_ARCH_HUNYUAN]     = { hunyuan, est_hunyuan_layer, est_llama_norm, .rotary = true },
	[EST_ARCH_NANOCHAT]    = { nanochat, est_nanochat_layer, est_l2_norm, .rotary = true, .norms_embedding = true,
				   .rotate = est_apply_nanochat_rope },
	[EST_ARCH_VAULTGEMMA]  = { llama, est_vaultgemma_layer, est_gemma_norm, .scaled_embedding = true, .rotary = true },
	[EST_ARCH_FALCON]      = { falcon, est_falcon_layer, est_torch_layer_norm, .rotary = true, .always_masked = true,
				   .returns_weights = true },
	[EST_ARCH_BLOOM]       = { bloom, est_bloom_layer, est_torch_layer_norm, .returns_weights = true },
	[EST_ARCH_MPT]         = { mpt, est_mpt_layer, est_torch_layer_norm, .returns_weights = true },
	[EST_ARCH_GPTJ]        = { gptj, est_gptj_layer, est_torch_layer_norm, .returns_weights = true },
	[EST_ARCH_GPT_NEO]     = { gpt_neo, est_gpt_neo_layer, est_torch_layer_norm, .returns_weights = true },
	[EST_ARCH_GPT_BIGCODE] = { gpt_bigcode, est_gpt_bigcode_layer, est_torch_layer_norm, .rotary = false },
	[EST_ARCH_MIXTRAL]     = { mixtral, est_mixtral_layer, est_llama_norm, .rotary = true, .sparse = mixtral, .records_routers = true },
	[EST_ARCH_QWEN2_MOE]   = { llama, est_qwen2_moe_layer, est_llama_norm, .rotary = true, .sparse = qwen2_moe,
				   .flat_shared_experts = true, .experts_by_their_own_names = true, .records_routers = true },
	[EST_ARCH_QWEN3_MOE]   = { qwen3, est_qwen3_moe_layer, est_llama_norm, .rotary = true, .sparse = qwen3_moe, .records_routers = true },
	[EST_ARCH_OLMOE]       = { olmoe, est_olmoe_layer, est_llama_norm, .rotary = true, .sparse = olmoe, .records_routers = true },
	[EST_ARCH_FLEX_OLMO]   = { olmo2, est_flex_olmo_layer, est_olmo2_norm, .rotary = true, .fp32_rope = true,
				   .sparse = flex_olmo, .records_routers = true },
	[EST_ARCH_DEEPSEEK_V2] = { latent, est_deepseek_v2_layer, est_llama_norm, .rotary = true, .complex_rope = true,
				   .sparse = latent_moe },
	[EST_ARCH_DEEPSEEK_V3] = { latent, est_deepseek_v3_layer, est_llama_norm, .rotary = true, .sparse = latent_moe },
	[EST_ARCH_DEEPSEEK_V32] = { latent, est_deepseek_v3_layer, est_llama_norm, .rotary = true, .sparse = latent_moe,
				   .always_masked = true },
	[EST_ARCH_GLM_MOE_DSA] = { latent, est_deepseek_v3_layer, est_llama_norm, .rotary = true, .sparse = latent_moe,
				   .always_masked = true },
	[EST_ARCH_GLM4_MOE]    = { glm4, est_glm4_moe_layer, est_llama_norm, .rotary = true, .cuts_whole_heads = true,
				   .sparse = glm4_moe },
	[EST_ARCH_SOLAR_OPEN]  = { glm4, est_solar_open_layer, est_llama_norm, .rotary = true, .sparse = glm4_moe },
	[EST_ARCH_DOTS1]       = { glm4, est_dots1_layer, est_llama_norm, .rotary = true, .sparse = glm4_moe },
	[EST_ARCH_EXAONE_MOE]  = { glm4, est_exaone_moe_layer, est_llama_norm, .rotary = true, .sparse = glm4_moe },
	[EST_ARCH_MINIMAX_M2]  = { olmoe, est_minimax_m2_layer, est_llama_norm, .rotary = true, .cuts_whole_heads = true,
				   .sparse = olmoe, .records_routers = true },
	[EST_ARCH_ERNIE4_5_MOE] = { llama, est_ernie4_5_moe_layer, est_llama_norm, .rotary = true, .fp32_rope = true,
				   .rotate = est_apply_ernie_rope, .sparse = ernie4_5_moe, .flat_shared_experts = true,
				   .fp32_router = true, .records_routers = true },
	[EST_ARCH_HUNYUAN_MOE] = { hunyuan, est_hunyuan_moe_layer, est_llama_norm, .rotary = true, .sparse = hunyuan_moe,
				   .fp32_router = true },
	[EST_ARCH_GRANITE_MOE] = { granite, est_granite_moe_layer, est_llama_norm, .rotary = true, .sparse = granite_moe,
				   .mixer = granite_mamba, .mixer_sparse = granite_mamba_moe, .experts_by_their_own_names = true, .records_routers = true },
	[EST_ARCH_NEMOTRON_H]  = { nemotron_attention, est_nemotron_h_layer, est_olmo2_norm, .rotary = false,
				   .sparse = nemotron_moe,
				   .mixer = nemotron_mamba, .feeds = nemotron_mlp, .experts_by_their_own_names = true,
				   .peft_refuses_out_proj = true, .fp32_logits = true },
	[EST_ARCH_BAMBA]       = { bamba, est_bamba_layer, est_llama_norm, .rotary = true, .cuts_whole_heads = true,
				   .mixer = bamba_mamba, .returns_weights = true },
	[EST_ARCH_FALCON_H1]   = { falcon_h1, est_falcon_h1_layer, est_llama_norm, .rotary = true, .mixer = falcon_h1,
				   .peft_refuses_out_proj = true },
	[EST_ARCH_MAMBA2]      = { mamba2, est_mamba2_layer, est_llama_norm, .rotary = false, .mixer = mamba2,
				   .peft_refuses_out_proj = true, .fp32_logits = true },
	[EST_ARCH_QWEN3_5]     = { qwen3_5, est_qwen3_5_layer, est_gemma_norm, .rotary = true, .cuts_whole_heads = true,
				   .sparse = qwen3_5_moe,
				   .mixer = qwen3_5_delta, .mixer_sparse = qwen3_5_delta_moe, .flat_shared_experts = true,
				   .experts_by_their_own_names = true, .records_routers = true },
	[EST_ARCH_QWEN3_NEXT]  = { qwen3_5, est_qwen3_5_layer, est_gemma_norm, .rotary = true, .cuts_whole_heads = true,
				   .sparse = qwen3_5_moe,
				   .mixer = qwen3_next_delta, .mixer_sparse = qwen3_next_delta_moe, .flat_shared_experts = true, .records_routers = true },
	[EST_ARCH_KIMI_LINEAR] = { latent, est_kimi_linear_layer, est_llama_norm, .rotary = false, .sparse = latent_moe,
				   .mixer = kimi_delta, .mixer_sparse = kimi_delta_moe, .experts_by_their_own_names = true },
	[EST_ARCH_LFM2]        = { lfm2, est_lfm2_layer, est_llama_norm, .rotary = true, .sparse = lfm2_moe,
				   .mixer = lfm2_conv,
				   .mixer_sparse = lfm2_conv_moe, .experts_by_their_own_names = true },
	[EST_ARCH_PHIMOE]      = { llama, est_phimoe_layer, est_torch_layer_norm, .rotary = true, .sparse = mixtral,
				   .experts_by_their_own_names = true, .peft_refuses_router = true, .records_routers = true },
	[EST_ARCH_LLAMA4]      = { llama, est_llama4_layer, est_llama4_norm, .rotary = true, .complex_rope = true,
				   .sparse = llama4_moe,
				   .flat_shared_experts = true, .experts_by_their_own_names = true, .peft_refuses_router = true },
	[EST_ARCH_GPT_OSS]     = { gpt_oss, est_gpt_oss_layer, est_olmo2_norm, .rotary = true, .sparse = gpt_oss,
				   .experts_by_their_own_names = true, .records_routers = true },
	[EST_ARCH_QWEN]        = { qwen, est_qwen_layer, est_qwen_norm, .rotary = false },
	[EST_ARCH_LITGPT]      = { .modules = litgpt, .layer = est_litgpt_layer, .final_norm = est_litgpt_norm,
				   .rebinds_embedding = true, .expands_heads = true, .joins_heads = true },
	[EST_ARCH_TORCHTUNE]   = { .modules = torchtune, .layer = est_torchtune_layer, .final_norm = est_torchtune_norm,
				   .rebinds_embedding = true, .expands_heads = true },
	[EST_ARCH_BERT]        = { .modules = bert, .layer = est_bert_layer },
	[EST_ARCH_ELECTRA]     = { .modules = bert, .layer = est_bert_layer },
	[EST_ARCH_ROBERTA]     = { .modules = bert, .layer = est_bert_layer },
	[EST_ARCH_MODERNBERT]  = { .modules = modernbert, .layer = est_modernbert_layer, .rotary = true,
				   .rope_per_layer_type = true, .rotate = est_apply_modernbert_rope },
	[EST_ARCH_DEBERTA]     = { .modules = deberta, .layer = est_deberta_layer },
	[EST_ARCH_DISTILBERT]  = { .modules = distilbert, .layer = est_distilbert_layer },
	[EST_ARCH_T5]          = { .modules = t5 },
	[EST_ARCH_T5_GATED]    = { .modules = t5_gated },
};
/* clang-format on */

const struct est_architecture_row *est_architecture_row(enum est_architecture architecture)
{
	assert(architecture != EST_ARCH_UNSUPPORTED && architecture < sizeof(architectures) / sizeof(architectures[0]));
	return &architectures[architecture];
}

const struct est_module *est_layer_modules(const struct est_model *model, int64_t layer)
{
	const struct est_architecture_row *row = est_architecture_row(model->architecture);

	if (layer >= model->num_hidden_layers)
		return model->gated_mlp ? t5_gated_decoder : t5_decoder;
	if (model->architecture == EST_ARCH_MODERNBERT && layer == 0)
		return modernbert_first;
	if (model->layer_kinds[layer] == EST_LAYER_MIXES)
		return est_model_layer_is_sparse(model, layer) ? row->mixer_sparse : row->mixer;
	if (est_model_layer_is_indexed(model, layer))
		return est_model_layer_is_sparse(model, layer) ? indexed_moe : indexed;
	if (est_model_layer_is_sparse(model, layer))
		return row->sparse;
	return model->layer_kinds[layer] == EST_LAYER_FEEDS ? row->feeds : row->modules;
}

bool est_is_indexer(const struct est_module *module)
{
	return module->offset >= offsetof(struct est_layer, indexer)
	       && module->offset < offsetof(struct est_layer, indexer) + sizeof(struct est_indexer);
}

bool est_module_exists(const struct est_model *model, const struct est_module *module)
{
	return est_width(model, module->in) > 0 && est_width(model, module->out) > 0;
}
