/* The routers of mixtures of experts: which experts a token visits, and with what weight. */
#ifndef EST_ROUTERS_H
#define EST_ROUTERS_H

#include "estimator/pass.h"

/* x is borrowed; ret holds the router's logits, weights and indices: to be given up by est_routing_drop(). */
typedef void est_router(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x,
			struct est_routing *ret);

/* softmax over all experts, the best of them, made to add up to 1 or not: Mixtral, Qwen, OLMoE */
est_router est_route_softmax;
/* the same of Transformers 4's Mixtral, whose gate is an nn.Linear; x is tokens */
est_router est_route_linear;
/* the same by a linear layer, in fp32 where that is: HunYuan; x is tokens */
est_router est_route_hunyuan;
/* the same in fp32, perhaps among the best groups only */
est_router est_route_deepseek_v2;
/* sigmoid in fp32; chosen by corrected scores: DeepSeek-V3, GLM-4-MoE, dots1 */
est_router est_route_deepseek_v3;
/* softmax over the logits of the chosen experts; Granite's in fp32 */
est_router est_route_gpt_oss, est_route_granite;
/* sigmoid in fp32, chosen by corrected scores without groups: MiniMax-M2 */
est_router est_route_minimax_m2;
/* sigmoid, chosen by corrected scores: LFM-2 */
est_router est_route_lfm2;
/* sigmoid of the chosen logits, 0 elsewhere: a weight for every expert, no indices. Llama-4; x is tokens */
est_router est_route_llama4;
/* softmax in fp32, chosen by corrected probabilities: ERNIE 4.5 */
est_router est_route_ernie4_5;

/* topk of probabilities, made to add up to 1: the weights, held. ret_indices: held */
struct est_tensor est_choose_evenly(struct est_pass *pass, struct est_tensor probabilities,
				    struct est_tensor *ret_indices);

/* x.view(-1, hidden) -> router, experts -> reshape; x is borrowed. */
struct est_tensor est_routed(struct est_pass *pass, const struct est_layer *layer, struct est_tensor x,
			     est_router *route);

/* route(x) as a module is called. x is borrowed. */
void est_call_router(struct est_pass *pass, const struct est_layer *layer, est_router *route, struct est_tensor x,
		     struct est_routing *ret);
/* torch.topk() over experts: as many of each token's probabilities (borrowed) as are chosen; ret_indices: of which (held) */
struct est_tensor est_best_experts(struct est_pass *pass, struct est_tensor probabilities, struct est_tensor *ret_indices);
void est_routing_drop(struct est_tape *tape, const struct est_routing *routing);

#endif
