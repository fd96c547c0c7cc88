#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "estimator/liger.h"
#include "estimator/loss.h"
#include "tests/suite.h"

/* Two sequences of 513 tokens before a head of 40,960 words: two slices of TRL's tiles. Figures are what is alive
 * beyond the hidden states and the head, by hand from the sources of each loss; u: small vectors, rounded to 512
 * bytes. */
enum { B = 2, S = 513, N = B * S, LABELLED = B * (S - 1), H = 256, V = 40960, SLICE = 32768, WORDS = 2048 };
#define TILE (UINT64_C(2) * LABELLED * SLICE)
#define NH   ((uint64_t)N * H)
#define LH   ((uint64_t)LABELLED * H)
#define NV   ((uint64_t)N * V)
#define VH   ((uint64_t)V * H)
#define L    ((uint64_t)LABELLED)
#define NC   ((uint64_t)N * WORDS)
enum { U = 512, IDS = 8704 /* of N and of B * (S + 1) */, LOSSES = 4608 /* 4 * N */, FLAGS = 1536 /* N */ };

static struct est_arena arena;
static struct est_tape tape;
static struct est_request request;
static struct est_pass pass;
static struct est_tensor hidden;

static const struct {
	const char *name;
	enum est_loss loss;
	uint8_t element; /* of the hidden states and the head */
	bool autocast, trained;
	uint64_t forward, kept, backward;
	enum est_framework framework;
} losses[] = {
	{ "the model's own: 10 NV, of which 4 stay, 12 in the backward", EST_LOSS_STANDARD, 2, false, true,
	  10 * NV + 2 * IDS + 2 * U, 4 * NV + IDS + 2 * U, 12 * NV + U, EST_TRL },
	{ "the same before a frozen head", EST_LOSS_STANDARD, 2, false, false, 10 * NV + 2 * IDS + 2 * U,
	  4 * NV + IDS + 2 * U, 12 * NV + U, EST_TRL },
	{ "the same in fp32: no cast, gradients 4 each", EST_LOSS_STANDARD, 4, false, true, 8 * NV + 2 * IDS + 2 * U,
	  4 * NV + IDS + 2 * U, 12 * NV + U, EST_TRL },
	{ "chunked: a tile, then 6 Vh and 6 nh beside one", EST_LOSS_CHUNKED, 2, false, true, 2 * LH + TILE + 53 * L,
	  2 * LH + 17 * L + U, 2 * LH + 17 * L + U + 4 * L + 6 * LH + 6 * VH + TILE, EST_TRL },
	{ "chunked before a frozen head: no Vh", EST_LOSS_CHUNKED, 2, false, false, 2 * LH + TILE + 53 * L,
	  2 * LH + 17 * L + U, 2 * LH + 17 * L + U + 4 * L + 6 * LH + TILE, EST_TRL },
	{ "chunked from fp32 under autocast: a slice cast, in the backward two at once", EST_LOSS_CHUNKED, 4, true,
	  true, 4 * LH + 37 * L + TILE + 2 * LH + 2 * SLICE *(uint64_t)H, 4 * LH + 17 * L + U,
	  4 * LH + 17 * L + U + 4 * L + 4 * LH + 4 * VH + TILE + 2 * LH + 2 * VH, EST_TRL },
	{ "liger: gradients in the forward, 8 positions at a time", EST_LOSS_LIGER, 2, false, true,
	  2 * IDS + 2 * NH + 2 * VH + LOSSES + FLAGS + UINT64_C(2) * 8 * V, 2 * NH + 2 * VH + U,
	  2 * NH + 2 * VH + 2 * U, EST_TRL },
	{ "liger before a frozen head: no Vh", EST_LOSS_LIGER, 2, false, false,
	  2 * IDS + 2 * NH + LOSSES + FLAGS + UINT64_C(2) * 8 * V, 2 * NH + U, 2 * NH + 2 * U, EST_TRL },
	{ "liger in fp32: each chunk's weight gradient beside", EST_LOSS_LIGER, 4, false, true,
	  2 * IDS + 4 * NH + 4 * VH + LOSSES + FLAGS + UINT64_C(4) * 8 * V + 4 * VH, 4 * NH + 4 * VH + U,
	  4 * NH + 4 * VH + 2 * U, EST_TRL },
	{ "cut: log-sum-exps and mean logits", EST_LOSS_CUT_CROSS_ENTROPY, 2, false, true, 12 * L + 4 * V,
	  8 * L + 4 * V + U, 8 * L + 4 * V + 2 * U + 2 * NH + 2 * VH + 4 * V + 5120 + 512, EST_TRL },
	{ "prime-rl's chunks of words: 14 bytes an element of one, 22 and the head's gradient in the backward",
	  EST_LOSS_CHUNKED, 2,
	  false, true, 14 * NC + 4 * LOSSES, LOSSES + U, 2 * LOSSES + U + 2 * NH + 2 * VH + 22 * NC + 2 * WORDS *(uint64_t)H,
	  EST_TORCHTITAN },
	{ "the same before a frozen head, whose gradient is made too", EST_LOSS_CHUNKED, 2, false, false, 14 * NC + 4 * LOSSES,
	  LOSSES + U, 2 * LOSSES + U + 2 * NH + 2 * VH + 22 * NC + 2 * WORDS *(uint64_t)H, EST_TORCHTITAN },
};

static uint32_t leaf(uint64_t numel, uint8_t element, bool trained)
{
	return est_leaf_new(&tape, est_empty(&tape, numel, element), trained, true);
}

static void set_up_with(enum est_loss loss, uint8_t element, bool autocast, bool trained)
{
	static const struct est_tape_limits limits = {
		.events = 4096, .storages = 256, .nodes = 64, .leaves = 8, .frames = 2, .frame_saves = 8
	};
	static const struct est_model model = { .architecture = EST_ARCH_LLAMA, .hidden_size = H, .vocab_size = V };

	ck_assert(est_tape_init(&tape, &arena, &limits));
	request = (struct est_request){ .loss = loss, .completion_fraction = 1 };
	pass = (struct est_pass){ .tape = &tape,
				  .model = &model,
				  .request = &request,
				  .batch = B,
				  .sequence = S,
				  .tokens = N,
				  .lm_head = { .in = H, .out = V } };
	hidden = est_leaf_tensor(&tape, leaf(NH, element, true));
	pass.lm_head.weight = leaf(VH, element, trained);
	tape.autocast = autocast;
}

static void set_up(void)
{
	size_t size = 1 << 20;

	est_arena_init(&arena, malloc(size), size);
	memset(arena.base, 0xa5, size);
}

static void tear_down(void)
{
	free(arena.base);
}

/* The most that is alive in events[first..), beyond what was at first. */
static uint64_t peak_since(size_t first, uint64_t *ret_end)
{
	uint64_t alive = 0, peak = 0;

	for (size_t i = first; i < tape.event_count; i++) {
		if (tape.events[i].kind == EST_EVENT_PHASE)
			continue;
		alive += tape.events[i].kind == EST_EVENT_ALLOC ? tape.events[i].bytes : -tape.events[i].bytes;
		if (peak < alive)
			peak = alive;
	}
	*ret_end = alive;
	return peak;
}

START_TEST(holds_what_its_source_holds)
{
	size_t first;
	uint64_t end;
	struct est_tensor loss;

	set_up_with(losses[_i].loss, losses[_i].element, losses[_i].autocast, losses[_i].trained);
	request.framework = losses[_i].framework;
	first = tape.event_count;
	loss = est_loss(&pass, est_hold(est_alias(&tape, hidden)));
	ck_assert_uint_eq(peak_since(first, &end), losses[_i].forward);
	ck_assert_uint_eq(end, losses[_i].kept);
	ck_assert(!tape.autocast);
	est_tape_backward(&tape, 0, loss, est_empty(&tape, 1, EST_32BIT));
	ck_assert_uint_eq(peak_since(first, &end),
			  losses[_i].backward > losses[_i].forward ? losses[_i].backward : losses[_i].forward);
	/* the gradients and the loss are left */
	ck_assert_uint_eq(end, losses[_i].element * (NH + losses[_i].trained * VH) + U);
	ck_assert(!tape.exhausted);
}
END_TEST

START_TEST(leaves_nothing_without_gradients)
{
	size_t first;
	uint64_t end, peak;

	set_up_with(losses[_i].loss, losses[_i].element, losses[_i].autocast, losses[_i].trained);
	request.framework = losses[_i].framework;
	first = tape.event_count;
	tape.no_grad = true;
	est_drop(&tape, est_loss(&pass, est_hold(est_alias(&tape, hidden))));
	peak = peak_since(first, &end);
	ck_assert_uint_eq(end, 0);
	ck_assert_uint_le(peak, losses[_i].forward);
	ck_assert_uint_eq(tape.node_count, 0);
}
END_TEST

static const struct {
	uint64_t positions, vocabulary, hidden, chunk;
} chunks[] = {
	{ 4096, 128256, 2048, 128 },                          /* 4096 / 63 = 65.02: the next power of two */
	{ 16384, 151936, 1024, 128 },                         /* / 149 */
	{ 4096, 256000, 2304, 64 },                           /* / 112 */
	{ 8, 128256, 2048, 1 },       { 100, 100, 200, 100 }, /* never more than there are */
};

START_TEST(takes_ligers_chunk)
{
	ck_assert_uint_eq(est_liger_chunk(chunks[_i].positions, chunks[_i].vocabulary, chunks[_i].hidden),
			  chunks[_i].chunk);
}
END_TEST

static const struct {
	enum est_architecture architecture;
	const char *model_type;
	double logits_scaling;
	enum est_loss loss;
	enum est_objective objective;
	bool known;
} kinds[] = {
	{ EST_ARCH_LLAMA, "llama", 0, EST_LOSS_LIGER, EST_SFT, true },     { EST_ARCH_GEMMA3, "", 0, EST_LOSS_LIGER, EST_SFT, true },
	{ EST_ARCH_PHI3, "phi3", 0, EST_LOSS_LIGER, EST_SFT, true },       { EST_ARCH_OLMO2, "olmo3", 0, EST_LOSS_LIGER, EST_SFT, true },
	{ EST_ARCH_OLMO, "olmo", 0, EST_LOSS_LIGER, EST_SFT, false },      { EST_ARCH_GPT2, "gpt2", 0, EST_LOSS_LIGER, EST_SFT, false },
	{ EST_ARCH_LLAMA, "internlm2", 0, EST_LOSS_LIGER, EST_SFT, false }, { EST_ARCH_MIXTRAL, "mixtral", 0, EST_LOSS_LIGER, EST_SFT, false },
	/* patched, but without a fused loss, which TRL's stands in for */
	{ EST_ARCH_LLAMA, "granite", 8, EST_LOSS_LIGER, EST_SFT, false },  { EST_ARCH_LLAMA, "granite", 8, EST_LOSS_CHUNKED, EST_DPO, true },
	/* no lm_head */
	{ EST_ARCH_LLAMA, "llama", 0, EST_LOSS_LIGER, EST_REWARD, false }, { EST_ARCH_LLAMA, "llama", 0, EST_LOSS_STANDARD, EST_REWARD, true },
};

START_TEST(knows_what_liger_patches)
{
	struct est_model model = { .architecture = kinds[_i].architecture, .logits_scaling = kinds[_i].logits_scaling };
	struct est_request asked = { .loss = kinds[_i].loss, .objective = kinds[_i].objective };

	snprintf(model.model_type, sizeof(model.model_type), "%s", kinds[_i].model_type);
	ck_assert((est_liger_refuses(&asked, &model) == NULL) == kinds[_i].known);
}
END_TEST

static const struct {
	uint64_t batch, sequence;
	double fraction;
	uint64_t positions;
} labels[] = {
	{ 2, 513, 1, 1024 },
	{ 2, 1000, 0.5, 1000 },
	{ 2, 1000, 0.9999, 1998 }, /* the last of a sequence predicts nothing */
	{ 1, 1, 1, 1 },
	{ 4, 1000, 0, 1 },
};

START_TEST(counts_positions_with_a_label)
{
	request = (struct est_request){ .completion_fraction = labels[_i].fraction };
	pass = (struct est_pass){ .request = &request,
				  .batch = labels[_i].batch,
				  .sequence = labels[_i].sequence,
				  .tokens = labels[_i].batch * labels[_i].sequence };
	ck_assert_uint_eq(est_labelled_positions(&pass), labels[_i].positions);
}
END_TEST

/* 9,000 positions are three tiles of 4,096, 100,000 words four slices: casts come in the order of both loops */
START_TEST(casts_tile_by_tile)
{
	const uint64_t positions = 3 * 3000 - 3, tile = UINT64_C(2) * 4096 * SLICE;
	struct est_tensor loss;
	uint64_t end, kept;
	size_t first;

	set_up_with(EST_LOSS_CHUNKED, 4, true, false);
	pass.batch = 3;
	pass.sequence = 3000;
	pass.tokens = 9000;
	pass.lm_head = (struct est_linear){ .weight = leaf(UINT64_C(100000) * H, 4, false), .in = H, .out = 100000 };
	hidden = est_leaf_tensor(&tape, leaf(UINT64_C(9000) * H, 4, true));
	first = tape.event_count;
	loss = est_loss(&pass, est_hold(est_alias(&tape, hidden)));
	peak_since(first, &kept);
	est_tape_backward(&tape, 0, loss, est_empty(&tape, 1, EST_32BIT));
	/* grad_hidden, a tile, a chunk of 4,096 and a slice with its predecessor: whole ones, in the second round of
	 * slices */
	ck_assert_uint_eq(peak_since(first, &end), kept + (4 * positions * H + 511) / 512 * 512
							   + (4 * positions + 511) / 512 * 512 + tile
							   + UINT64_C(2) * 4096 * H + 2 * UINT64_C(2) * SLICE * H);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("loss");
	TCase *c = tcase_create("losses");

	tcase_add_checked_fixture(c, set_up, tear_down);
	tcase_add_loop_test(c, holds_what_its_source_holds, 0, COUNT(losses));
	tcase_add_loop_test(c, leaves_nothing_without_gradients, 0, COUNT(losses));
	tcase_add_loop_test(c, takes_ligers_chunk, 0, COUNT(chunks));
	tcase_add_loop_test(c, knows_what_liger_patches, 0, COUNT(kinds));
	tcase_add_loop_test(c, counts_positions_with_a_label, 0, COUNT(labels));
	tcase_add_test(c, casts_tile_by_tile);
	suite_add_tcase(s, c);
	return s;
}

int main(void)
{
	return run_suite(suite());
}
