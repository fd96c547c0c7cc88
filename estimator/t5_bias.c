/* T5Attention.compute_bias: a bucket for each pair of positions, a learned number for each bucket and head. */
#include "estimator/encoder.h"

/* new = f(old), one integer or float for each pair of positions */
static struct est_tensor step(struct est_pass *pass, struct est_tensor old, uint8_t element)
{
	struct est_tensor next = est_buffer(pass->tape, old.numel, element);

	est_drop(pass->tape, old);
	return next;
}

/* How far apart, or, in the decoder, how far behind: what is not small is put into logarithmic bins. */
static struct est_tensor distances(struct est_pass *pass, uint64_t pairs, bool is_decoder,
				   struct est_tensor *ret_buckets)
{
	struct est_tensor distance;

	if (is_decoder) { /* -min(distance, 0) */
		*ret_buckets = est_none;
		distance = est_buffer(pass->tape, pairs, EST_INT64);
		return step(pass, step(pass, distance, EST_INT64), EST_INT64);
	}
	*ret_buckets = step(pass, step(pass, est_buffer(pass->tape, pairs, EST_BYTE), EST_INT64), EST_INT64);
	*ret_buckets = step(pass, *ret_buckets, EST_INT64); /* 0 + (distance > 0) * n */
	return est_buffer(pass->tape, pairs, EST_INT64);
}

/* T5Attention._relative_position_bucket */
static struct est_tensor relative_buckets(struct est_pass *pass, uint64_t pairs, bool is_decoder)
{
	struct est_tape *tape = pass->tape;
	struct est_tensor buckets, distance = distances(pass, pairs, is_decoder, &buckets);
	struct est_tensor small, large, full, chosen;

	small = est_buffer(pass->tape, pairs, EST_BYTE);
	large = est_buffer(pass->tape, pairs, EST_32BIT);
	for (unsigned i = 0; i < 4; i++) /* / max_exact, log, / log(...), * bins */
		large = step(pass, large, EST_32BIT);
	large = step(pass, step(pass, large, EST_INT64), EST_INT64);
	full = est_buffer(pass->tape, pairs, EST_INT64);
	chosen = est_buffer(pass->tape, pairs, EST_INT64);
	est_drop(tape, full);
	est_drop(tape, large);
	large = chosen;
	chosen = est_buffer(pass->tape, pairs, EST_INT64);
	if (is_decoder)
		buckets = est_buffer(pass->tape, pairs, EST_INT64); /* 0 + chosen; in the encoder it is added in place */
	est_drop(tape, chosen);
	est_drop(tape, distance);
	est_drop(tape, small);
	est_drop(tape, large);
	return buckets;
}

struct est_tensor est_position_bias(struct est_pass *pass, uint32_t relative_attention_bias, bool is_decoder)
{
	uint64_t length = pass->sequence, heads = (uint64_t)pass->model->num_attention_heads;
	struct est_tensor context = est_buffer(pass->tape, length, EST_INT64), positions = step(pass, context, EST_INT64);
	struct est_tensor memory, relative, buckets, values;

	memory = est_buffer(pass->tape, length, EST_INT64);
	relative = est_buffer(pass->tape, length * length, EST_INT64);
	buckets = relative_buckets(pass, length * length, is_decoder);
	values = est_embedding(pass->tape, buckets, relative_attention_bias,
			       (uint64_t)pass->model->relative_attention_num_buckets, heads);
	est_drop(pass->tape, positions);
	est_drop(pass->tape, memory);
	est_drop(pass->tape, relative);
	est_drop(pass->tape, buckets);
	return est_hold(values);
}
