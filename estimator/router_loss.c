/* load_balancing_loss_func (transformers/models/mixtral/modeling_mixtral.py), which TRL's fused head adds to the loss of a
 * mixture of experts unless router_aux_loss_coef is 0 (trl/trainer/utils.py). */
#include "estimator/router_loss.h"

#include "estimator/architecture.h"
#include "estimator/loss.h"
#include "estimator/routers.h"

enum { SINCE_TRL = 1016 };

bool est_router_loss_wanted(const struct est_request *request, const struct est_model *model)
{
	enum est_objective objective = request->objective;
	bool prefers = objective == EST_DPO || objective == EST_KTO || objective == EST_GRPO;
	bool known = !request->versions.trl || request->versions.trl >= SINCE_TRL;

	return (prefers || request->framework == EST_TRL) && known && request->loss == EST_LOSS_CHUNKED && model->num_experts > 0
	       && model->architecture != EST_ARCH_UNSUPPORTED && est_architecture_row(model->architecture)->records_routers;
}

void est_router_loss_begin(struct est_pass *pass)
{
	pass->router_count = 0;
	if (est_router_loss_wanted(pass->request, pass->model))
		pass->routers = est_arena_take(pass->tape->arena, (size_t)pass->model->num_hidden_layers, sizeof(*pass->routers));
}

void est_router_loss_record(struct est_pass *pass, struct est_tensor logits)
{
	if (pass->routers)
		pass->routers[pass->router_count++] =
			(struct est_router_record){ est_hold(est_alias(pass->tape, logits)), pass->tape->layer };
}

/* What the function's frame holds: the attention mask in fp32, and a layer's probabilities, the best of them and their indices,
 * until the next layer's are there. */
enum { MASK, PROBABILITIES, BEST, INDICES, FRAME };

/* torch.topk(routing_weights, top_k): its graph leads nowhere, and goes with the values */
static void choose(struct est_pass *pass, struct est_tensor frame[FRAME])
{
	struct est_tensor best, indices;

	pass->tape->no_grad = true;
	best = est_hold(est_best_experts(pass, frame[PROBABILITIES], &indices));
	pass->tape->no_grad = false;
	est_assign(pass->tape, &frame[BEST], best);
	est_assign(pass->tape, &frame[INDICES], indices);
}

/* tokens_per_expert_sum + zeros.scatter_add_(0, selected_experts, flat_mask.repeat_interleave(top_k)) */
static void count_tokens(struct est_pass *pass, uint64_t pairs)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor counts = est_empty(tape, (uint64_t)pass->model->num_experts, EST_32BIT);
	struct est_tensor weights = est_empty(tape, pairs, EST_32BIT);

	est_drop(tape, weights);
	est_drop(tape, counts);
}

/* (routing_weights.float() * flat_mask.unsqueeze(-1)).sum(dim=0) of one layer */
static struct est_tensor sum_of_probabilities(struct est_pass *pass, struct est_tensor logits, struct est_tensor frame[FRAME])
{
	struct est_tape *tape = pass->tape;
	struct est_tensor x = est_alias(tape, logits);

	x = tape->autocast ? est_softmax_in_fp32(tape, x) : est_softmax(tape, x);
	est_assign(tape, &frame[PROBABILITIES], x);
	choose(pass, frame);
	count_tokens(pass, frame[INDICES].numel);
	x = est_mul(tape, est_to(tape, frame[PROBABILITIES], EST_32BIT), frame[MASK]);
	return est_sum_to(tape, x, (uint64_t)pass->model->num_experts, EST_32BIT);
}

struct est_tensor est_router_loss(struct est_pass *pass)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor frame[FRAME] = { est_none, est_none, est_none, est_none }, sum = est_none;

	if (!pass->router_count)
		return est_none;
	frame[MASK] = est_buffer(tape, pass->tokens, EST_32BIT);
	for (uint64_t i = 0; i < pass->router_count; i++) {
		struct est_tensor share;

		est_mark_layer(tape, pass->routers[i].layer);
		share = sum_of_probabilities(pass, pass->routers[i].logits, frame);
		est_assign(tape, &sum, sum.numel ? est_add(tape, sum, share) : share);
	}
	est_mark_layer(tape, 0);
	est_drop_all(tape, frame, FRAME);
	frame[0] = est_hold(est_sum(tape, sum));
	est_drop(tape, sum);
	return frame[0];
}

void est_router_loss_end(struct est_pass *pass)
{
	for (uint64_t i = 0; i < pass->router_count; i++)
		est_drop(pass->tape, pass->routers[i].logits);
	pass->routers = NULL;
	pass->router_count = 0;
}
