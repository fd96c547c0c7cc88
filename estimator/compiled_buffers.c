/* Buffers of a whole compiled model. */
#include "estimator/compiled_model.h"

#define BIT(buffer) (UINT32_C(1) << (buffer))

const struct est_linear *est_compiled_linear(const struct est_layer *layer, enum est_compiled_linear which)
{
	const struct est_linear *const linears[EST_C_LINEARS] = {
		[EST_C_Q] = &layer->q_proj, [EST_C_K] = &layer->k_proj, [EST_C_V] = &layer->v_proj, [EST_C_O] = &layer->o_proj,
		[EST_C_GATE_PROJ] = &layer->gate_proj, [EST_C_UP_PROJ] = &layer->up_proj, [EST_C_DOWN_PROJ] = &layer->down_proj,
	};

	return linears[which];
}

bool est_compiled_has_head_norms(const struct est_compiled_model *model)
{
	return model->pass->layers[0].q_norm.width > 0;
}

/* The memory-efficient kernel pads its statistics' rows to 32. */
static uint64_t padded_rows(const struct est_compiled_model *model)
{
	return model->cudnn ? model->pass->tokens : model->pass->batch * est_round_up(model->pass->sequence, 32);
}

uint64_t est_compiled_size(const struct est_compiled_model *model, enum est_compiled_buffer which)
{
	const struct est_pass *pass = model->pass;
	const struct est_layer *layer = &pass->layers[0];
	uint64_t heads = (uint64_t)pass->model->num_attention_heads, own = (uint64_t)pass->model->num_key_value_heads;
	uint64_t q = layer->q_proj.out, k = layer->k_proj.out, hidden = layer->q_proj.in, wide = layer->gate_proj.out;
	const uint64_t widths[EST_C_BUFFERS] = {
		[EST_C_X] = hidden, [EST_C_RSTD] = 1, [EST_C_NORMED] = hidden, [EST_C_QUERY] = q, [EST_C_KEY] = k,
		[EST_C_VALUE] = k, [EST_C_QUERY_RSTD] = heads, [EST_C_KEY_RSTD] = own, [EST_C_QUERY_ROTATED] = q,
		[EST_C_KEYS] = q, [EST_C_VALUES] = q, [EST_C_ATTENDED] = q, [EST_C_LOGSUMEXP] = heads,
		[EST_C_ATTENDED_COPY] = q, [EST_C_MIDDLE] = hidden, [EST_C_RSTD_AGAIN] = 1, [EST_C_NORMED_AGAIN] = hidden,
		[EST_C_GATE] = wide, [EST_C_UP] = wide, [EST_C_PRODUCT] = wide, [EST_C_DOWN] = hidden,
	};

	return (which == EST_C_LOGSUMEXP ? padded_rows(model) : pass->tokens) * widths[which];
}

static uint8_t element_of(const struct est_compiled_model *model, enum est_compiled_buffer which)
{
	static const uint32_t statistics = BIT(EST_C_RSTD) | BIT(EST_C_RSTD_AGAIN) | BIT(EST_C_QUERY_RSTD) | BIT(EST_C_KEY_RSTD)
					   | BIT(EST_C_LOGSUMEXP);

	if (which == EST_C_X)
		return model->stream;
	return statistics & BIT(which) ? EST_32BIT : EST_16BIT;
}

struct est_tensor est_compiled_like(const struct est_compiled_model *model, enum est_compiled_buffer which)
{
	return est_plan_take(model->plan, est_compiled_size(model, which), element_of(model, which), EST_ACTIVATIONS);
}

void est_compiled_make(const struct est_compiled_model *model, struct est_compiled_state *state, enum est_compiled_buffer which)
{
	if (!state->buffer[which].storage)
		state->buffer[which] = est_compiled_like(model, which);
}

void est_compiled_drop(const struct est_compiled_model *model, struct est_compiled_state *state, enum est_compiled_buffer which)
{
	est_plan_give(model->plan, &state->buffer[which]);
}

void est_compiled_reuse(const struct est_compiled_model *model, struct est_compiled_state *state, enum est_compiled_buffer from,
			enum est_compiled_buffer to)
{
	state->buffer[to] = est_plan_adopt(model->plan, state->buffer[from]);
	state->buffer[from] = est_none;
}

/* ---- how far down the gradients go */

static bool adapts(const struct est_layer *layer, enum est_compiled_linear which)
{
	return est_compiled_linear(layer, which)->adapter != NULL;
}

enum est_compiled_reach est_compiled_reach(const struct est_compiled_model *model, const struct est_compiled_state *state)
{
	const struct est_layer *layer = &model->pass->layers[0];

	if (model->pass->request->method == EST_FULL || state != model->layers)
		return EST_C_TO_INPUT;
	if (adapts(layer, EST_C_Q) || adapts(layer, EST_C_K) || adapts(layer, EST_C_V))
		return EST_C_TO_HEADS;
	if (adapts(layer, EST_C_O))
		return EST_C_TO_ATTENDED;
	return adapts(layer, EST_C_GATE_PROJ) || adapts(layer, EST_C_UP_PROJ) ? EST_C_TO_GATE : EST_C_TO_DOWN;
}

bool est_compiled_wants_input(const struct est_compiled_model *model, const struct est_compiled_state *state,
			      enum est_compiled_linear which)
{
	static const enum est_compiled_reach beyond[EST_C_LINEARS] = {
		[EST_C_Q] = EST_C_TO_HEADS, [EST_C_K] = EST_C_TO_HEADS, [EST_C_V] = EST_C_TO_HEADS, [EST_C_O] = EST_C_TO_ATTENDED,
		[EST_C_GATE_PROJ] = EST_C_TO_GATE, [EST_C_UP_PROJ] = EST_C_TO_GATE, [EST_C_DOWN_PROJ] = EST_C_TO_DOWN,
	};

	return est_compiled_reach(model, state) > beyond[which];
}
