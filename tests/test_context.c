/* Context parallelism: what a rank holds of sequences that are dealt out, and the ring's buffers, against what can be counted by hand
 * in torch's _templated_ring_attention() and its backward. */
#include <stdlib.h>
#include <string.h>
#include "estimator/attention.h"
#include "estimator/replay.h"
#include "tests/suite.h"

enum { S = 4096, H = 2048, F = 4096, HEADS = 16, KV = 4, DIM = 128, V = 32768, LAYERS = 4 };

#include "tests/llama.h"

static void set_up(void)
{
	take_arena(LAYERS);
}

static struct est_request dealt_out(int64_t context, int64_t data)
{
	return (struct est_request){
		.precision = EST_BF16_MIXED,
		.optimizer = EST_ADAMW_TORCH_FUSED,
		.checkpointing = EST_CHECKPOINT_FULL,
		.attention = EST_SDPA_FLASH,
		.micro_batch_size = 1,
		.sequence_length = S,
		.gradient_accumulation_steps = 1,
		.parallelism = { .strategy = EST_FSDP, .gpus = context * data, .gpus_per_node = 8, .tensor = 1, .pipeline = 1,
				 .context = context, .expert = 1, .reshard_after_forward = true, .wrap = EST_WRAP_ACCELERATE,
				 .param_dtype = EST_BF16, .reduce_dtype = EST_BF16, .output_dtype = EST_BF16 },
	};
}

/* ---- the ring */

struct counted {
	uint64_t alive, most;
};

static struct counted count(const struct est_tape *tape, size_t from)
{
	struct counted counted = { 0, 0 };

	for (size_t i = from; i < tape->event_count; i++) {
		const struct est_event *event = &tape->events[i];

		if (event->kind != EST_EVENT_PHASE)
			counted.alive += event->kind == EST_EVENT_ALLOC ? event->bytes : -event->bytes;
		if (counted.alive > counted.most && counted.alive < UINT64_MAX / 2)
			counted.most = counted.alive;
	}
	return counted;
}

static const int64_t rings[] = { 2, 4, 8 };

/* Queries of n elements, pairs of keys and values of m, 16 bits; a line of a head and token is an fp32 number. */
struct sizes {
	uint64_t n, m, lines;
};

static struct sizes sizes_of(int64_t ranks)
{
	uint64_t tokens = S / (uint64_t)ranks;

	return (struct sizes){ tokens * HEADS * DIM, 2 * tokens * KV * DIM, tokens * HEADS };
}

static struct est_tensor attend(struct est_pass *pass, struct est_tape *tape, struct sizes sizes)
{
	struct est_fused_call call = { .output = sizes.n };

	for (unsigned i = 0; i < 3; i++) {
		uint32_t leaf = est_leaf_new(tape, est_empty(tape, i ? sizes.m / 2 : sizes.n, EST_16BIT), true, false);

		call.in[i] = est_leaf_tensor(tape, leaf);
	}
	return est_ring_attention(pass, EST_FUSED_ATEN_FLASH, &call);
}

/* When a step's result is merged: the gathered pairs of all ranks, the kernel's output and its fp32 copy, what has been merged so far, a
 * difference and its product, in fp32 each; and the logsumexp. The output and the logsumexp are left. */
START_TEST(a_forward_gathers_pairs_and_merges_in_fp32)
{
	const struct est_tape_limits limits = { .events = 4096, .storages = 512, .nodes = 64, .leaves = 8, .frames = 1, .attributes = 8,
						.frame_saves = 8 };
	struct est_request request = dealt_out(rings[_i], 1);
	struct est_model model = LLAMA(1);
	struct sizes s = sizes_of(rings[_i]);
	struct est_tape tape;
	struct est_pass pass = { .tape = &tape, .model = &model, .request = &request, .batch = 1, .sequence = S / (uint64_t)rings[_i],
				 .tokens = S / (uint64_t)rings[_i] };
	struct counted counted;
	uint64_t inputs = 2 * s.n + 2 * s.m;

	arena.used = 0;
	ck_assert(est_tape_init(&tape, &arena, &limits));
	attend(&pass, &tape, s);
	counted = count(&tape, 0);
	ck_assert_uint_eq(counted.alive, inputs + 2 * s.n + 4 * s.lines);
	ck_assert_uint_eq(counted.most, inputs + 2 * (uint64_t)rings[_i] * s.m + 2 * s.n + 4 * 4 * s.n + 4 * s.lines);
}
END_TEST

/* In the backward's second step, as the kernel is done: the accumulated gradient of queries, those of keys and values as they were
 * sent and as they came, all in fp32, the gathered pairs, a pair that was to be sent, the kernel's gradients of this step, to
 * half of the keys, and of the one before, to all. */
START_TEST(a_backward_sends_gradients_in_fp32)
{
	const struct est_tape_limits limits = { .events = 4096, .storages = 512, .nodes = 64, .leaves = 8, .frames = 1, .attributes = 8,
						.frame_saves = 8 };
	struct est_request request = dealt_out(rings[_i], 1);
	struct est_model model = LLAMA(1);
	struct sizes s = sizes_of(rings[_i]);
	struct est_tape tape;
	struct est_pass pass = { .tape = &tape, .model = &model, .request = &request, .batch = 1, .sequence = S / (uint64_t)rings[_i],
				 .tokens = S / (uint64_t)rings[_i] };
	uint64_t ring = 4 * s.n + 4 * s.m + 8 * s.m + 2 * (uint64_t)rings[_i] * s.m + 2 * s.m;
	/* dq, dk, dv; the kernel's sums of rows, its accumulator of dq, and dk and dv of all heads, of half of the keys */
	uint64_t kernel = 2 * s.n + s.m + 4 * s.lines + 4 * s.n + 2 * s.n, before = 2 * s.n + 2 * s.m;
	struct est_tensor out;
	struct counted counted;
	size_t forward;

	arena.used = 0;
	ck_assert(est_tape_init(&tape, &arena, &limits));
	out = est_hold(attend(&pass, &tape, s));
	forward = tape.event_count;
	est_tape_backward(&tape, 0, out, est_empty(&tape, s.n, EST_16BIT));
	est_drop(&tape, out);
	counted = count(&tape, forward);
	/* beside the gradient that came */
	ck_assert_uint_eq(counted.most, 2 * s.n + ring + kernel + before);
	ck_assert(!tape.exhausted);
}
END_TEST

/* ---- Ulysses */

/* At the second all-to-all: query, key and value exchanged, the kernel's output and its copy in the order of positions, what is
 * exchanged of it, once more in the order of heads, and position_ids twice. Exchanged tensors, output and logsumexp are left, and what
 * comes out. Of four key heads two ranks have two each, four have one, and eight have one that is repeated. */
START_TEST(an_exchange_gives_heads_for_positions)
{
	const struct est_tape_limits limits = { .events = 4096, .storages = 512, .nodes = 64, .leaves = 8, .frames = 1, .attributes = 8,
						.frame_saves = 8 };
	const uint64_t ranks = (uint64_t)rings[_i];
	struct est_request request = dealt_out(rings[_i], 1);
	struct est_model model = LLAMA(1);
	const struct est_layer layer = { .rotated = true };
	struct sizes s = sizes_of(rings[_i]);
	struct est_tape tape;
	struct est_pass pass = { .tape = &tape, .model = &model, .request = &request, .batch = 1, .sequence = S / ranks, .tokens = S / ranks };
	const uint64_t query = 2 * s.n, keys = 2 * (ranks < KV ? KV / ranks : 1) * S * DIM, inputs = query + 2 * s.m;
	struct est_tensor in[3], out;
	struct counted counted;
	size_t forward;

	arena.used = 0;
	request.parallelism.context_backend = EST_ULYSSES;
	ck_assert(est_tape_init(&tape, &arena, &limits));
	for (unsigned i = 0; i < 3; i++)
		in[i] = est_leaf_tensor(&tape, est_leaf_new(&tape, est_empty(&tape, i ? s.m / 2 : s.n, EST_16BIT), true, false));
	out = est_hold(est_attention(&pass, &layer, in[0], in[1], in[2]));
	forward = tape.event_count;
	counted = count(&tape, 0);
	ck_assert_uint_eq(counted.most, inputs + 5 * query + 2 * keys + 4 * s.lines + 16 * S);
	ck_assert_uint_eq(counted.alive, inputs + 3 * query + 2 * keys + 4 * s.lines);
	est_tape_backward(&tape, 0, out, est_empty(&tape, s.n, EST_16BIT));
	est_drop(&tape, out);
	/* the kernel's gradients, sums of rows and accumulator, and dk and dv of all heads, beside the output's gradient, exchanged */
	counted = count(&tape, forward);
	ck_assert_uint_eq(counted.most, 2 * query + 2 * keys + 4 * s.lines + 2 * query + 2 * query);
	ck_assert(!tape.exhausted);
}
END_TEST

/* ZeRO's states are shared by the ranks of data and of context parallelism together. */
START_TEST(ulysses_ranks_share_the_states)
{
	struct est_parallelism p = dealt_out(4, 2).parallelism;

	p.context_backend = EST_ULYSSES;
	for (p.strategy = EST_ZERO1; p.strategy <= EST_ZERO3; p.strategy++)
		ck_assert_uint_eq(est_shard_ranks(&p), 8);
}
END_TEST

/* ---- a rank */

/* 4 bytes an element, divided by the ranks of data and of context parallelism together. */
START_TEST(its_ranks_share_the_parameters)
{
	struct est_model model = LLAMA(LAYERS);
	struct est_request request = dealt_out(2, 2);

	trace_program(&model, &request);
	ck_assert_uint_eq(most_alive(EST_WEIGHTS, EST_PHASE_FORWARD), 4 * (uint64_t)est_model_count_parameters(&model) / 4);
	request.parallelism.strategy = EST_HSDP;
	request.parallelism.shard_size = 1;
	trace_program(&model, &request);
	ck_assert_uint_eq(most_alive(EST_WEIGHTS, EST_PHASE_FORWARD), 4 * (uint64_t)est_model_count_parameters(&model) / 2);
}
END_TEST

/* The logits and their copies are those of a rank's tokens: 12 bytes a logit when the loss's gradients are there. */
START_TEST(a_rank_has_the_logits_of_its_tokens)
{
	struct est_model model = LLAMA(LAYERS);
	struct est_request request = dealt_out(rings[_i], 1);
	uint64_t tokens = S / (uint64_t)rings[_i], logits, checkpoints = (LAYERS + 2) * tokens * H * 4;

	trace_program(&model, &request);
	logits = most_alive(EST_ACTIVATIONS, EST_PHASE_LOSS_BACKWARD);
	ck_assert_uint_ge(logits, 12 * tokens * V);
	ck_assert_uint_le(logits, 12 * tokens * V + checkpoints + 16 * tokens * H);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("context");
	TCase *tcase = tcase_create("context");

	tcase_add_checked_fixture(tcase, set_up, free_arena);
	tcase_add_loop_test(tcase, a_forward_gathers_pairs_and_merges_in_fp32, 0, COUNT(rings));
	tcase_add_loop_test(tcase, an_exchange_gives_heads_for_positions, 0, COUNT(rings));
	tcase_add_test(tcase, ulysses_ranks_share_the_states);
	tcase_add_loop_test(tcase, a_backward_sends_gradients_in_fp32, 0, COUNT(rings));
	tcase_add_test(tcase, its_ranks_share_the_parameters);
	tcase_add_loop_test(tcase, a_rank_has_the_logits_of_its_tokens, 0, COUNT(rings));
	suite_add_tcase(suite, tcase);
	return run_suite(suite);
}
