#include <string.h>
#include "estimator/liger.h"
#include "estimator/objective.h"

/* Rows of the partial sums of a norm's weight gradient: one a multiprocessor. Those of an H100; another card's few
 * more or less are some hundred kilobytes. */
enum { MULTIPROCESSORS = 132 };

/* ---- RMSNorm: inputs x, weight. extra[0]: the gradient is written in place, extra[1]: it is permuted and copied
 * first */

static void backward_norm(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	bool trains = est_needs(node, 1);
	struct est_tensor grad = node->extra[1] ? est_empty(tape, node->grad[0].numel, node->grad[0].element)
						: est_none,
			  partial;

	partial = trains ? est_empty(tape, MULTIPROCESSORS * node->edge_numel[1], EST_32BIT) : est_none;
	ret[0] = node->extra[0] ? est_take_grad(node, 0) : est_empty(tape, node->grad[0].numel, node->grad[0].element);
	ret[0].view = true;
	if (trains)
		ret[1] = est_grad_for(tape, node, 1, node->edge_element[1]);
	est_drop(tape, partial);
	est_drop(tape, grad);
}
static const struct est_op norm_op = { "LigerRMSNorm", backward_norm };

static struct est_tensor norm(struct est_pass *pass, const struct est_norm_weights *norm, struct est_tensor x,
			      bool in_place, bool permuted)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor in[2] = { x, est_leaf_tensor(tape, norm->weight) }, rows, out, rstd;
	struct est_node *node = est_node_new(tape, &norm_op, 2, in);

	rows = permuted ? est_empty(tape, x.numel, x.element) : est_alias(tape, x);
	out = est_empty(tape, x.numel, x.element);
	rstd = est_empty(tape, x.numel / norm->width, EST_32BIT);
	est_save(tape, node, rows);
	est_save(tape, node, in[1]);
	est_save(tape, node, rstd);
	if (node) {
		node->extra[0] = in_place;
		node->extra[1] = permuted;
	}
	est_drop(tape, rstd);
	est_drop(tape, rows);
	est_finish(tape, x);
	return est_output(tape, node, 0, out);
}

struct est_tensor est_liger_norm(struct est_pass *pass, const struct est_norm_weights *weights, struct est_tensor x,
				 bool in_place)
{
	return norm(pass, weights, x, in_place, false);
}

static bool is_one_head(const struct est_pass *pass, struct est_tensor x)
{
	return x.numel == pass->tokens * (uint64_t)pass->model->head_dim;
}

struct est_tensor est_liger_head_norm(struct est_pass *pass, const struct est_norm_weights *weights,
				      struct est_tensor x)
{
	return norm(pass, weights, x, false, !is_one_head(pass, x));
}

/* ---- SwiGLU, GeGLU */

static void backward_gate(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	for (unsigned i = 0; i < 2; i++) {
		ret[i] = est_saved_grad(tape, node, i);
		ret[i].view = true;
	}
}
static const struct est_op gate_op = { "LigerSiLUMul", backward_gate };

struct est_tensor est_liger_gate(struct est_tape *tape, struct est_tensor gate, struct est_tensor up, bool halves)
{
	struct est_tensor in[2] = { gate, up }, rows[2], out;
	struct est_node *node = est_node_new(tape, &gate_op, 2, in);

	for (unsigned i = 0; i < 2; i++)
		rows[i] = halves ? est_empty(tape, in[i].numel, in[i].element) : est_alias(tape, in[i]);
	out = est_empty(tape, gate.numel, gate.element);
	for (unsigned i = 0; i < 2; i++) {
		est_save(tape, node, rows[i]);
		est_drop(tape, rows[i]);
	}
	est_finish(tape, gate);
	est_finish(tape, up);
	return est_output(tape, node, 0, out);
}

/* ---- RoPE: extra[i]: the gradient of q, of k comes permuted and is copied */

static void backward_rope(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	for (unsigned i = 0; i < 2; i++) {
		ret[i] = node->extra[i] ? est_empty(tape, node->grad[i].numel, node->grad[i].element)
					: est_take_grad(node, i);
		ret[i].view = true;
	}
}
static const struct est_op rope_op = { "LigerRope", backward_rope };

/* Whether heads reach the rotation in another order than (batch, sequence, head): cut from a fused projection, or
 * normed one by one */
static bool is_copied(const struct est_pass *pass, struct est_tensor x)
{
	enum est_architecture architecture = pass->model->architecture;

	return architecture == EST_ARCH_PHI3 || (architecture == EST_ARCH_GEMMA3 && !is_one_head(pass, x));
}

void est_liger_rope(struct est_pass *pass, const struct est_rope *rope, struct est_tensor q, struct est_tensor k,
		    struct est_tensor ret[2])
{
	struct est_tape *tape = pass->tape;
	struct est_tensor in[2] = { q, k };
	struct est_node *node = est_node_new(tape, &rope_op, 2, in);
	struct est_permuted permuted = est_permuted_gradients(pass, pass->layer, q.element);

	for (unsigned i = 0; i < 2; i++) {
		ret[i] = is_copied(pass, in[i]) ? est_empty(tape, in[i].numel, in[i].element) : est_detach(tape, in[i]);
		ret[i] = est_hold(est_output(tape, node, i, ret[i]));
	}
	est_save(tape, node, rope->cos);
	est_save(tape, node, rope->sin);
	if (!node)
		return;
	node->extra[0] = permuted.query;
	node->extra[1] = permuted.key_value;
}

/* MODEL_TYPE_TO_APPLY_LIGER_FN (liger_kernel 0.8.5, transformers/monkey_patch.py); of any other model_type a line in the log tells that
 * no kernels were applied. */
static bool is_patched(const char *model_type)
{
	static const char *const types[] = {
		"deepseek_v2", "deepseek_v3", "exaone4", "falcon_h1", "gemma", "gemma2", "gemma3", "gemma3_text", "gemma4", "gemma4_text",
		"glm4", "glm4v", "glm4v_moe", "gpt_oss", "granite", "hunyuan_v1_dense", "hunyuan_v1_moe", "internvl", "llama", "llama4",
		"llama4_text", "llava", "ministral", "mistral", "mixtral", "mllama", "mllama_text_model", "nemotron", "olmo2", "olmo3",
		"paligemma", "phi3", "pixtral", "qwen2", "qwen2_5_vl", "qwen2_5_vl_text", "qwen2_vl", "qwen2_vl_text", "qwen3", "qwen3_5",
		"qwen3_5_moe", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_moe", "qwen3_next", "qwen3_vl", "qwen3_vl_moe", "qwen3_vl_moe_text",
		"qwen3_vl_text", "smollm3", "smolvlm",
	};

	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++)
		if (!strcmp(model_type, types[i]))
			return true;
	return *model_type == '\0'; /* a shape without a name */
}

/* Granite's patch leaves head and loss alone, but for a cross entropy of its own */
static bool follows(const struct est_request *request, const struct est_model *model)
{
	return model->architecture >= EST_ARCH_LLAMA && model->architecture <= EST_ARCH_OLMO2
	       && model->architecture != EST_ARCH_OLMO && model->architecture != EST_ARCH_GEMMA4 && !model->mrope
	       && (model->logits_scaling == 0 || request->loss == EST_LOSS_CHUNKED);
}

const char *est_liger_refuses(const struct est_request *request, const struct est_model *model)
{
	if (!is_patched(model->model_type))
		return "changes nothing: Liger 0.8.5 has no kernels for models of this model_type; leave it out";
	if (est_objective_scores(request) && request->loss == EST_LOSS_LIGER)
		return "fails with a head of scores, as Liger's fused loss calls lm_head: name loss standard, for fused_linear_cross_entropy "
		       "false in liger_kernel_config";
	return follows(request, model) ? NULL : "is not modelled yet with this model";
}
