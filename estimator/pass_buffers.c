/* What a forward makes beside its hidden states: cos and sin, masks, a bias of positions. */
#include "estimator/architecture.h"
#include "estimator/attention.h"
#include "estimator/generation.h"
#include "estimator/unsloth.h"

unsigned est_rope_count(const struct est_pass *pass)
{
	const struct est_architecture_row *row = est_architecture_row(pass->model->architecture);
	bool sliding = false, full = false;

	for (int64_t i = 0; i < pass->model->num_hidden_layers; i++)
		*(pass->layers[i].sliding ? &sliding : &full) = true;
	if (!row->rotary || pass->model->position != EST_ROPE)
		return 0;
	return row->rope_per_layer_type && sliding && full ? 2 : 1;
}

/* Positions that are rotated: of one sequence, or, where the batch brings its position_ids, of all. */
static uint64_t positions_of(const struct est_pass *pass)
{
	return est_is_ulysses(pass->request) ? pass->tokens : pass->sequence;
}

/* LlamaRotaryEmbedding.forward: fp32 frequencies, cos and sin of the pairs, both in the dtype of the stream. gpt-oss
 * has each angle once. */
static void make_rope(struct est_pass *pass, const struct est_model *model, struct est_rope *rope, uint8_t element)
{
	uint64_t pairs = positions_of(pass) * est_rotary_width(model);
	bool twice = pass->model->architecture != EST_ARCH_GPT_OSS, last = est_scales_rope_last(&pass->request->versions);
	struct est_tensor freqs = est_buffer(pass->tape, pairs / 2, EST_32BIT), emb, cos, sin, raw[2];
	bool cast = element != EST_32BIT;

	emb = twice ? est_buffer(pass->tape, pairs, EST_32BIT) : est_none;
	pairs /= twice ? 1 : 2;
	raw[0] = est_buffer(pass->tape, pairs, EST_32BIT);
	if (last)
		raw[1] = est_buffer(pass->tape, pairs, EST_32BIT);
	cos = est_buffer(pass->tape, pairs, EST_32BIT);
	est_drop(pass->tape, raw[0]);
	if (!last)
		raw[1] = est_buffer(pass->tape, pairs, EST_32BIT);
	sin = est_buffer(pass->tape, pairs, EST_32BIT);
	est_drop(pass->tape, raw[1]);
	rope->cos = cast ? est_buffer(pass->tape, pairs, element) : cos;
	rope->sin = cast ? est_buffer(pass->tape, pairs, element) : sin;
	est_drop(pass->tape, freqs);
	est_drop(pass->tape, emb);
	if (cast) {
		est_drop(pass->tape, cos);
		est_drop(pass->tape, sin);
	}
}

/* DeepSeek-V2's: complex numbers, scaled once more */
static void make_complex_rope(struct est_pass *pass, struct est_rope *rope)
{
	uint64_t pairs = positions_of(pass) * est_rotary_width(pass->model);
	struct est_tensor freqs = est_buffer(pass->tape, pairs / 2, EST_32BIT),
		ones = est_buffer(pass->tape, pairs / 2, EST_32BIT);
	struct est_tensor polar = est_buffer(pass->tape, pairs, EST_32BIT);

	est_drop(pass->tape, ones);
	rope->cos = est_buffer(pass->tape, pairs, EST_32BIT);
	rope->sin = est_none;
	est_drop(pass->tape, polar);
	est_drop(pass->tape, freqs);
}

void est_make_ropes(struct est_pass *pass, uint8_t element)
{
	const struct est_architecture_row *row = est_architecture_row(pass->model->architecture);

	if (est_unsloth_wanted(pass->request)) {
		pass->ropes[0].cos = est_hold(est_alias(pass->tape, pass->angles.cos));
		pass->ropes[0].sin = est_hold(est_alias(pass->tape, pass->angles.sin));
		return;
	}
	for (unsigned i = 0; i < est_rope_count(pass); i++) {
		struct est_rope *rope = &pass->ropes[i];

		if (pass->model->mrope)
			est_make_multimodal_rope(pass, rope);
		else if (row->complex_rope)
			make_complex_rope(pass, rope);
		else
			make_rope(pass, i == 0 && pass->full ? pass->full : pass->model, rope, row->fp32_rope ? EST_32BIT : element);
	}
}

/* Llama-4's chunks are counted from where the padding of each sequence ends. */
static bool masks_each_sequence(const struct est_pass *pass, bool window)
{
	return window && pass->model->architecture == EST_ARCH_LLAMA4;
}

/* true & (k > q - window, or of the same chunk) & (k <= q) */
static struct est_tensor causal_window(struct est_pass *pass)
{
	uint64_t square = pass->sequence * pass->sequence, scores = (masks_each_sequence(pass, true)
								     ? pass->batch : 1) * square;
	struct est_tensor in_window = est_buffer(pass->tape, scores, EST_BYTE),
		so_far = est_buffer(pass->tape, scores, EST_BYTE), causal, both;

	est_drop(pass->tape, in_window);
	causal = est_buffer(pass->tape, square, EST_BYTE);
	both = est_buffer(pass->tape, scores, EST_BYTE);
	est_drop(pass->tape, causal);
	est_drop(pass->tape, so_far);
	return both;
}

/* masking_utils: a boolean mask for SDPA; eager gets an additive one in the dtype of the stream */
static struct est_tensor make_mask(struct est_pass *pass, bool window)
{
	uint64_t scores = pass->sequence * pass->sequence;
	bool padded = pass->request->attention_mask || pass->request->framework == EST_TRL; /* TRL's collators always pass one */
	struct est_tensor causal, mask;

	if (pass->request->attention == EST_FLEX_ATTENTION)
		return est_block_mask(pass);
	causal = mask = window ? causal_window(pass) : est_buffer(pass->tape, scores, EST_BYTE);
	if (padded) { /* causal & padding */
		struct est_tensor both = est_buffer(pass->tape,
						    masks_each_sequence(pass, window) ? pass->batch * scores : scores, EST_BYTE);

		est_drop(pass->tape, causal);
		mask = est_buffer(pass->tape, pass->batch * scores, EST_BYTE);
		est_drop(pass->tape, both);
	} else {
		mask.numel = pass->batch * scores; /* expanded over the batch, without memory */
	}
	if (pass->request->attention == EST_EAGER) {
		causal = mask;
		mask = est_buffer(pass->tape, pass->batch * scores, pass->parameter_element);
		est_drop(pass->tape, causal);
	}
	if (pass->model->architecture == EST_ARCH_MPT) { /* .to(torch.bool) */
		causal = mask;
		mask = est_buffer(pass->tape, pass->batch * scores, EST_BYTE);
		est_drop(pass->tape, causal);
	}
	return mask;
}

/* Whether some layer takes the mask of windows, or that of full attention. */
static bool is_taken(const struct est_pass *pass, bool sliding)
{
	for (int64_t i = 0; i < pass->model->num_hidden_layers; i++)
		if (pass->layers[i].sliding == sliding && est_layer_is_masked(pass, &pass->layers[i]))
			return true;
	return false;
}

static bool is_made(const struct est_pass *pass, bool sliding)
{
	return is_taken(pass, sliding)
	       || (pass->model->masks_both_kinds && est_layer_is_masked(pass, &(struct est_layer){ .sliding = sliding }));
}

void est_make_masks(struct est_pass *pass)
{
	bool full, sliding;
	bool sliding_first = pass->model->vision.tower == EST_TOWER_SIGLIP; /* Gemma-3's: in the order of the layers' types */

	if (pass->request->attention == EST_FLASH_ATTENTION_2 || pass->request->attention == EST_FLASH_ATTENTION_3)
		return; /* the padding mask itself, two-dimensional */
	full = is_made(pass, false);
	sliding = is_made(pass, true);
	if (sliding && sliding_first)
		pass->sliding_mask = make_mask(pass, true);
	if (full)
		pass->mask = make_mask(pass, false);
	/* Qwen2-MoE makes the sliding mask, of whatever window, whether a layer takes it or not */
	if ((sliding && !sliding_first) || pass->model->architecture == EST_ARCH_QWEN2_MOE)
		pass->sliding_mask = make_mask(pass, true);
}

void est_drop_masks_not_taken(struct est_pass *pass)
{
	struct est_tensor *masks[2] = { &pass->mask, &pass->sliding_mask };

	for (unsigned i = 0; i < 2; i++) {
		if (!pass->model->masks_both_kinds || is_taken(pass, i == 1))
			continue;
		est_drop(pass->tape, *masks[i]);
		*masks[i] = est_none;
	}
}

const struct est_rope *est_layer_rope(const struct est_pass *pass, const struct est_layer *layer)
{
	return &pass->ropes[layer->sliding && pass->ropes[1].cos.numel];
}

void est_make_position_bias(struct est_pass *pass)
{
	uint64_t heads = (uint64_t)pass->model->num_attention_heads, rows = heads * pass->sequence;
	struct est_tensor alibi, repeated;

	if (pass->model->position != EST_ALIBI)
		return;
	if (pass->model->architecture == EST_ARCH_MPT) {
		pass->position_bias = est_buffer(pass->tape, heads * (uint64_t)pass->model->max_position_embeddings, EST_32BIT);
		return;
	}
	alibi = pass->request->attention_mask ? est_none : est_buffer(pass->tape, rows, EST_32BIT); /* else of each sequence at once */
	repeated = est_buffer(pass->tape, rows * pass->batch, EST_32BIT);
	pass->position_bias = est_hold(est_to(pass->tape, est_hold(repeated), pass->parameter_element));
	est_drop(pass->tape, repeated);
	est_drop(pass->tape, alibi);
}
