/* gpt-oss: rotary embedding of halves, attention sinks, experts with clamped activations. modeling_gpt_oss.py. */
#include "estimator/pass.h"

struct est_tensor est_gpt_oss_attention(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x)
{
	return est_llama_attention(pass, layer, x);
}
struct est_tensor est_clamped_gate(struct est_pass *pass, struct est_tensor gate_up)
{
	(void)pass;
	return gate_up;
}
