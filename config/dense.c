#include "config/dense.h"

static const char falcon_variant[] = "a Falcon with ALiBi, biases, blocks in sequence or heads of a third kind, not modelled yet";
static const char bloom_variant[] = "apply_residual_connection_post_layernorm or slow_but_exact, not modelled yet";
static const char whole_rotation[] = "rotary embedding of whole heads (rotary_dim null), not modelled yet";
static const char many_keys[] = "GPT-BigCode without multi_query, not modelled yet";
static const char clipped_qkv[] = "clipped queries, keys and values (clip_qkv), not modelled yet";

static bool flag(const json_t *object, const char *key, bool fallback)
{
	const json_t *value = json_object_get(object, key);

	return json_is_boolean(value) ? json_is_true(value) : fallback;
}

/* The first architecture has one key_value head and one norm, the new one several heads and as many norms as it
 * says. */
static const char *settle_falcon(const json_t *object, struct est_model *model)
{
	bool several = flag(object, "new_decoder_architecture", false);
	const json_t *norms = json_object_get(object, "num_ln_in_parallel_attn");

	if (flag(object, "alibi", false) || flag(object, "bias", false) || !flag(object, "parallel_attn", true)
	    || (!several && !flag(object, "multi_query", true)) || (several && model->num_key_value_heads == 1))
		return falcon_variant;
	if (several)
		model->norms_per_layer = json_is_integer(norms) ? (int64_t)json_integer_value(norms) : 2;
	else
		model->num_key_value_heads = 1;
	return NULL;
}

/* rotary_dim as a share of the head, which gives it back when it is cut off. */
static const char *settle_rotary_dim(const json_t *object, struct est_model *model)
{
	const json_t *dim = json_object_get(object, "rotary_dim");
	int64_t rotary = json_is_integer(dim) ? (int64_t)json_integer_value(dim) : 64;

	if (json_is_null(dim))
		return whole_rotation;
	if (rotary > 0 && rotary <= model->head_dim)
		model->partial_rotary_factor = ((double)rotary + 1e-6) / (double)model->head_dim;
	return NULL;
}

/* MiniMax-M2's checkpoints say how many features of a head are rotated. */
static const char *settle_rotary_share(const json_t *object, struct est_model *model)
{
	const json_t *dim = json_object_get(object, "rotary_dim");

	if (json_is_integer(dim) && json_integer_value(dim) > 0 && json_integer_value(dim) <= model->head_dim)
		model->partial_rotary_factor = (double)json_integer_value(dim) / (double)model->head_dim;
	return NULL;
}

static const char *settle_mpt(const json_t *object, struct est_model *model)
{
	const json_t *attention = json_object_get(object, "attn_config"), *clip = json_object_get(attention, "clip_qkv");
	double dropout = json_number_value(json_object_get(attention, "attn_pdrop"));

	if (json_is_number(clip) && json_number_value(clip) != 0)
		return clipped_qkv;
	if (dropout >= 0 && dropout <= 1)
		model->attention_dropout = model->residual_dropout = dropout;
	return NULL;
}

const char *cfg_settle_dense(const json_t *object, uint64_t reads, struct est_model *model)
{
	if (reads & CFG_READS_FALCON)
		return settle_falcon(object, model);
	if (reads & CFG_READS_ROTARY_DIM)
		return settle_rotary_dim(object, model);
	if (reads & CFG_READS_ROTARY_SHARE)
		return settle_rotary_share(object, model);
	if (reads & CFG_READS_MPT)
		return settle_mpt(object, model);
	if ((reads & CFG_READS_BLOOM)
	    && (flag(object, "apply_residual_connection_post_layernorm", false) || flag(object, "slow_but_exact", false)))
		return bloom_variant;
	if ((reads & CFG_READS_MULTI_QUERY) && !flag(object, "multi_query", true))
		return many_keys;
	return NULL;
}
