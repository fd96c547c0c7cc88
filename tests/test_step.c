#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "estimator/replay.h"
#include "tests/suite.h"

/* A micro-batch of N token slots and a model whose sizes are multiples of 256 elements: nothing is rounded. */
enum { B = 2, S = 512, N = B * S, H = 1024, F = 2560, HEADS = 8, KV = 2, DIM = 128, V = 32768, MIB = 1 << 20 };

#include "tests/llama.h"

static void set_up(void)
{
	take_arena(3);
}

static struct est_request request_of(enum est_precision precision, enum est_optimizer optimizer)
{
	return (struct est_request){
		.precision = precision,
		.optimizer = optimizer,
		.max_grad_norm = 1,
		.micro_batch_size = B,
		.sequence_length = S,
		.gradient_accumulation_steps = 1,
		.outputs_to_fp32 = true,
		.parallelism = { .gpus = 1, .gpus_per_node = 8, .tensor = 1, .pipeline = 1, .context = 1, .expert = 1 },
	};
}

static void trace(const struct est_model *model, const struct est_request *request)
{
	static const uint64_t whole[EST_CATEGORIES] = { 1, 1, 1, 1, 1, 1 };

	arena.used = 0;
	ck_assert(est_program_trace(&program, model, request, true, whole, &arena));
}

/* ---- a walk through a part: what is alive beyond its beginning, at its phases and at most */

struct walk {
	uint64_t at[EST_PHASES], peak[EST_PHASES]; /* when a phase begins; within it */
	uint64_t end;
};

static struct walk walk_through(enum est_part part)
{
	enum est_phase phase = EST_PHASE_LOAD;
	struct walk walk = { 0 };

	for (size_t i = program.begin[part]; i < program.end[part]; i++) {
		const struct est_event *event = &program.events[i];

		if (event->kind == EST_EVENT_PHASE) {
			phase = (enum est_phase)event->id;
			walk.at[phase] = walk.end;
		} else {
			walk.end += event->kind == EST_EVENT_ALLOC ? event->bytes : -event->bytes;
		}
		if (walk.end < UINT64_MAX / 2 && walk.end > walk.peak[phase])
			walk.peak[phase] = walk.end;
	}
	return walk;
}

static uint64_t allocated_in(enum est_part part, enum est_category category)
{
	uint64_t bytes = 0;

	for (size_t i = program.begin[part]; i < program.end[part]; i++)
		if (program.events[i].kind == EST_EVENT_ALLOC && program.events[i].category == category)
			bytes += program.events[i].bytes;
	return bytes;
}

static uint64_t parameters(const struct est_model *model)
{
	return (uint64_t)est_model_count_parameters(model);
}

/* ---- what one decoder layer keeps for its backward: the forward's end with two layers less that with one */

/* (a query, k key width; per token and layer). Twice LlamaRMSNorm: fp32 copy 4h, rstd 4, normalised 2h; input of q,
 * k, v 2h; q, k, v 2a + 2*2k; output 2a and its logsumexp 4 a head; input of gate and up 2h; silu's input and
 * result, up, product: 8f */
static uint64_t llama_saved(void)
{
	return N * (16 * (uint64_t)H + 4 * HEADS * DIM + 4 * KV * DIM + 4 * HEADS + 8 * F + 8);
}

/* + q_norm and k_norm on each head, the same three tensors each */
static uint64_t qwen3_saved(void)
{
	return llama_saved() + N * ((6 * DIM + 4) * (uint64_t)(HEADS + KV));
}

/* Transformers before 4.56: copies of q, k and v stand for them, and as flash attention's output lies like q, o_proj
 * keeps a copy of it; before 4.54 k and v are repeated too */
static uint64_t copied_saved(void)
{
	return llama_saved() + N * 2 * (uint64_t)HEADS * DIM;
}

static uint64_t repeated_saved(void)
{
	return copied_saved() + N * 2 * 2 * (uint64_t)(HEADS - KV) * DIM;
}

/* Gemma's norms multiply in fp32: the normalised x and 1 + weight in fp32 (4h, 4 bytes of each weight), no 16-bit
 * factor */
static uint64_t gemma_saved(void)
{
	return llama_saved() + 2 * (2 * (uint64_t)N * H + 4 * H);
}

/* A checkpoint keeps its input. */
static uint64_t checkpoint_saved(void)
{
	return 2 * (uint64_t)N * H;
}

/* Eager: k and v of every head, the scores' softmax in fp32 and its 16-bit copy; the output is copied, for o_proj
 * keeps it as merged heads only; no logsumexp. bmm keeps q as a copy, which stands for q itself. */
static uint64_t eager_saved(void)
{
	return llama_saved() - N * (4 * (uint64_t)HEADS) + 2 * 2 * (uint64_t)N * (HEADS - KV) * DIM
	       + 6 * (uint64_t)B * HEADS * S * S;
}

/* fp32 stream under autocast: the norms keep x itself (4h; the layer's input, and the residual between) and the fp32
 * factor 4h; each projection a 16-bit cast of its own input (q, k, v: 6h, gate, up: 4h) and the cast of its weight;
 * the rest is in 16 bits. */
static uint64_t mixed_saved(void)
{
	uint64_t weights = 2 * (uint64_t)H * (HEADS + KV) * DIM + 3 * (uint64_t)H * F;

	return N * (2 * (8 * (uint64_t)H + 4) + 6 * H + 4 * H + 4 * HEADS * DIM + 4 * KV * DIM + 4 * HEADS + 8 * F)
	       + 2 * weights;
}

static const struct {
	const char *name;
	enum est_architecture architecture;
	enum est_precision precision;
	enum est_checkpointing checkpointing;
	enum est_attention attention;
	uint64_t (*saved)(void);
} layers[] = {
	{ "llama", EST_ARCH_LLAMA, EST_PURE_BF16, EST_CHECKPOINT_NONE, EST_SDPA, llama_saved },
	{ "llama with flash attention", EST_ARCH_LLAMA, EST_PURE_FP16, EST_CHECKPOINT_NONE, EST_FLASH_ATTENTION_2,
	  llama_saved },
	{ "llama with master weights", EST_ARCH_LLAMA, EST_BF16_MASTER, EST_CHECKPOINT_NONE, EST_SDPA, llama_saved },
	{ "autocast over 16-bit weights", EST_ARCH_LLAMA, EST_BF16_AUTOCAST, EST_CHECKPOINT_NONE, EST_SDPA,
	  llama_saved },
	{ "qwen3", EST_ARCH_QWEN3, EST_PURE_BF16, EST_CHECKPOINT_NONE, EST_SDPA, qwen3_saved },
	{ "gemma", EST_ARCH_GEMMA, EST_PURE_BF16, EST_CHECKPOINT_NONE, EST_SDPA, gemma_saved },
	{ "checkpoint", EST_ARCH_LLAMA, EST_PURE_BF16, EST_CHECKPOINT_FULL, EST_SDPA, checkpoint_saved },
	{ "checkpoint of gemma", EST_ARCH_GEMMA, EST_PURE_BF16, EST_CHECKPOINT_FULL, EST_SDPA, checkpoint_saved },
	{ "eager", EST_ARCH_LLAMA, EST_PURE_BF16, EST_CHECKPOINT_NONE, EST_EAGER, eager_saved },
	{ "mixed", EST_ARCH_LLAMA, EST_BF16_MIXED, EST_CHECKPOINT_NONE, EST_SDPA, mixed_saved },
};

static uint64_t kept_by_forward(struct est_model model, const struct est_request *request)
{
	trace(&model, request);
	return walk_through(EST_PART_MICRO_FIRST).at[EST_PHASE_LOSS_FORWARD];
}

START_TEST(a_layer_keeps_what_the_closed_form_says)
{
	struct est_request request = request_of(layers[_i].precision, EST_ADAMW_TORCH_FUSED);
	uint64_t one, two, expected = layers[_i].saved();

	request.checkpointing = layers[_i].checkpointing;
	request.attention = layers[_i].attention;
	one = kept_by_forward(llama_like(layers[_i].architecture, 1), &request);
	two = kept_by_forward(llama_like(layers[_i].architecture, 2), &request);
	ck_assert_msg(two - one == expected, "%s: %llu bytes, not %llu (%+lld)", layers[_i].name,
		      (unsigned long long)(two - one), (unsigned long long)expected, (long long)(two - one - expected));
}
END_TEST

/* Transformers before 5 */
static const struct {
	const char *name;
	struct est_versions versions;
	enum est_checkpointing checkpointing;
	enum est_attention attention;
	uint64_t (*saved)(void);
} old_layers[] = {
	{ "repeated before 4.54", { .transformers = 4053 }, EST_CHECKPOINT_NONE, EST_SDPA, repeated_saved },
	{ "copied before 4.56", { .transformers = 4054 }, EST_CHECKPOINT_NONE, EST_SDPA, copied_saved },
	{ "repeated with an old torch", { .torch = 2004, .transformers = 4055 }, EST_CHECKPOINT_NONE, EST_SDPA,
	  repeated_saved },
	{ "as today from 4.56 on", { .transformers = 4056 }, EST_CHECKPOINT_NONE, EST_SDPA, llama_saved },
	{ "the flash package", { .transformers = 4048 }, EST_CHECKPOINT_NONE, EST_FLASH_ATTENTION_2, llama_saved },
	{ "a checkpoint", { .transformers = 4048 }, EST_CHECKPOINT_FULL, EST_SDPA, checkpoint_saved },
};

START_TEST(a_layer_of_an_old_release_keeps_its_copies)
{
	struct est_request request = request_of(EST_PURE_BF16, EST_ADAMW_TORCH_FUSED);
	uint64_t one, two, expected = old_layers[_i].saved();

	request.versions = old_layers[_i].versions;
	request.checkpointing = old_layers[_i].checkpointing;
	request.attention = old_layers[_i].attention;
	one = kept_by_forward(llama_like(EST_ARCH_LLAMA, 1), &request);
	two = kept_by_forward(llama_like(EST_ARCH_LLAMA, 2), &request);
	ck_assert_msg(two - one == expected, "%s: %llu bytes, not %llu (%+lld)", old_layers[_i].name,
		      (unsigned long long)(two - one), (unsigned long long)expected, (long long)(two - one - expected));
}
END_TEST

/* Compiled, per token: x, both norms' results, the projection 2h each; rotated q and k, v, attention's output and
 * logsumexp; gate, up and their product 2f each; two statistics. With head norms q and k as they were, and a
 * statistic a head. */
static uint64_t compiled_saved(void)
{
	return N * (8 * (uint64_t)H + 4 * HEADS * DIM + 4 * KV * DIM + 4 * HEADS + 6 * F + 8);
}

static uint64_t compiled_qwen3_saved(void)
{
	return compiled_saved() + N * ((2 * DIM + 4) * (uint64_t)(HEADS + KV));
}

/* x, q, v, attention's output and logsumexp, gate: every second product, but down, whose result no gradient needs */
static uint64_t compiled_selective_saved(void)
{
	return N * (2 * (uint64_t)H + 4 * HEADS * DIM + 2 * KV * DIM + 4 * HEADS + 2 * F);
}

static const struct {
	enum est_architecture architecture;
	enum est_checkpointing checkpointing;
	uint64_t (*saved)(void);
} compiled_layers[] = {
	{ EST_ARCH_LLAMA, EST_CHECKPOINT_NONE, compiled_saved },
	{ EST_ARCH_QWEN3, EST_CHECKPOINT_NONE, compiled_qwen3_saved },
	{ EST_ARCH_LLAMA, EST_CHECKPOINT_FULL, checkpoint_saved },
	{ EST_ARCH_LLAMA, EST_CHECKPOINT_SELECTIVE, compiled_selective_saved },
	{ EST_ARCH_QWEN3, EST_CHECKPOINT_SELECTIVE, compiled_selective_saved },
};

static struct est_request compiled_request(enum est_checkpointing checkpointing)
{
	struct est_request request = request_of(EST_PURE_BF16, EST_ADAMW_TORCH_FUSED);

	request.framework = EST_TORCHTITAN;
	request.torch_compile = true;
	request.checkpointing = checkpointing;
	return request;
}

START_TEST(a_compiled_layer_keeps_what_the_partitioner_saves)
{
	struct est_request request = compiled_request(compiled_layers[_i].checkpointing);
	uint64_t one = kept_by_forward(llama_like(compiled_layers[_i].architecture, 1), &request);
	uint64_t two = kept_by_forward(llama_like(compiled_layers[_i].architecture, 2), &request);

	ck_assert_uint_eq(two - one, compiled_layers[_i].saved());
}
END_TEST

/* Every gradient arrives, and nothing else of a compiled step is left. */
START_TEST(a_compiled_step_leaves_gradients_only)
{
	struct est_request request = compiled_request(compiled_layers[_i].checkpointing);
	struct est_model model = llama_like(compiled_layers[_i].architecture, 2);

	uint64_t gradients;

	request.gradient_accumulation_steps = 2;
	trace(&model, &request);
	gradients = walk_through(EST_PART_MICRO_FIRST).end;
	ck_assert_uint_ge(gradients, 2 * parameters(&model));
	ck_assert_uint_eq(walk_through(EST_PART_MICRO_NEXT).end, 0);
	request.torch_compile = false;
	trace(&model, &request);
	ck_assert_uint_eq(walk_through(EST_PART_MICRO_FIRST).end, gradients);
}
END_TEST

/* The compiled loss: logits of 16 bits and their gradient, 4 bytes a logit where it is 12. */
START_TEST(a_compiled_loss_copies_no_logits)
{
	struct est_request request = compiled_request(EST_CHECKPOINT_FULL);
	struct est_model model = llama_like(EST_ARCH_LLAMA, 1);
	const uint64_t logits = (uint64_t)N * V;
	uint64_t before;
	struct walk walk;

	request.versions.torch = 2008;
	trace(&model, &request);
	walk = walk_through(EST_PART_MICRO_FIRST);
	before = walk.at[EST_PHASE_LOSS_FORWARD];
	ck_assert_uint_ge(walk.peak[EST_PHASE_LOSS_BACKWARD] - before, 4 * logits);
	/* the gradient, then that of the head, as large here, and of its input */
	ck_assert_uint_le(walk.peak[EST_PHASE_LOSS_BACKWARD] - before, 4 * logits + 2 * (uint64_t)N * H + MIB);
}
END_TEST

/* The package's third version beside the second, in a layer: logarithms of sums to base 2, and fp32 accumulators of
 * its own heads' dk and dv in the place of 16-bit ones of each query head. */
START_TEST(flash_attention_3_accumulates_for_its_own_heads)
{
	struct est_model model = llama_like(EST_ARCH_LLAMA, 1);
	struct est_request request = request_of(EST_PURE_BF16, EST_ADAMW_TORCH_FUSED);
	const uint64_t rows = (uint64_t)N * HEADS, own = 2 * 4 * (uint64_t)N * KV * DIM, expanded = 2 * 2 * rows * DIM;
	uint64_t second;

	request.attention = EST_FLASH_ATTENTION_2;
	trace(&model, &request);
	second = allocated_in(EST_PART_MICRO_FIRST, EST_BUFFERS);
	request.attention = EST_FLASH_ATTENTION_3;
	trace(&model, &request);
	ck_assert_uint_eq(allocated_in(EST_PART_MICRO_FIRST, EST_BUFFERS) + expanded, second + 4 * rows + own);
}
END_TEST

/* ---- head and loss */

/* 16-bit logits, their fp32 copy, log_softmax's result: 10 bytes a logit at most, 4 kept; backward 4 + 4 + 4. */
START_TEST(the_loss_takes_10_then_4_then_12_bytes_a_logit)
{
	struct est_model model = llama_like(EST_ARCH_LLAMA, 1);
	struct est_request request = request_of(EST_PURE_BF16, EST_ADAMW_TORCH_FUSED);
	const uint64_t logits = (uint64_t)N * V, labels = 8 * (B * (S + 1) + N), scalars = 16 * 512;
	uint64_t before, most;
	struct walk walk;

	trace(&model, &request);
	walk = walk_through(EST_PART_MICRO_FIRST);
	before = walk.at[EST_PHASE_LOSS_FORWARD];
	most = walk.peak[EST_PHASE_LOSS_FORWARD] - before;
	ck_assert_uint_ge(most, 10 * logits);
	ck_assert_uint_le(most, 10 * logits + labels + scalars);
	/* inputs and labels have been dropped, the head keeps its input */
	before -= 2 * 8 * N;
	ck_assert_uint_ge(walk.at[EST_PHASE_LOSS_BACKWARD], before + 4 * logits);
	ck_assert_uint_le(walk.at[EST_PHASE_LOSS_BACKWARD], before + 4 * logits + labels + 8 * N + scalars);
	most = walk.peak[EST_PHASE_LOSS_BACKWARD] - before;
	ck_assert_uint_ge(most, 12 * logits);
	ck_assert_uint_le(most, 12 * logits + labels + 8 * N + scalars);
}
END_TEST

/* To 4.48 the loss shifts logits: a copy of all positions but the last, or, of one sequence, a view. Bytes a logit,
 * and a shifted logit, in the forward; of these 4 are kept, and backward takes 12. */
static const struct {
	const char *name;
	struct est_versions versions;
	int64_t batch;
	enum est_precision precision;
	uint64_t whole, shifted;
	bool shifts;
} generations[] = {
	{ "14 at most", { .transformers = 4048 }, 2, EST_PURE_BF16, 6, 8, true },
	{ "10 of one sequence", { .transformers = 4048 }, 1, EST_PURE_BF16, 6, 4, true },
	{ "12 without a cast", { .transformers = 4048 }, 2, EST_PURE_FP32, 4, 8, true },
	{ "10 where labels are padded", { .transformers = 4049 }, 2, EST_PURE_BF16, 6, 4, false },
	{ "10 in the last of 4", { .transformers = 4057 }, 2, EST_PURE_BF16, 6, 4, false },
};

START_TEST(the_loss_of_each_generation_takes_its_bytes_a_logit)
{
	struct est_model model = llama_like(EST_ARCH_LLAMA, 1);
	struct est_request request = request_of(generations[_i].precision, EST_ADAMW_TORCH_FUSED);
	const uint64_t batch = (uint64_t)generations[_i].batch, whole = batch * S * V;
	const uint64_t shifted = generations[_i].shifts ? batch * (S - 1) * V : whole, small = 8 * 4 * N + 16 * 512;
	uint64_t before, forward, backward;
	struct walk walk;

	request.versions = generations[_i].versions;
	request.micro_batch_size = generations[_i].batch;
	trace(&model, &request);
	walk = walk_through(EST_PART_MICRO_FIRST);
	before = walk.at[EST_PHASE_LOSS_FORWARD];
	forward = walk.peak[EST_PHASE_LOSS_FORWARD] - before;
	backward = walk.peak[EST_PHASE_LOSS_BACKWARD] - before;
	ck_assert_msg(forward >= generations[_i].whole * whole + generations[_i].shifted * shifted
			      && forward <= generations[_i].whole * whole + generations[_i].shifted * shifted + small,
		      "%s: %.4f bytes a logit", generations[_i].name, (double)forward / (double)whole);
	ck_assert_msg(walk.at[EST_PHASE_LOSS_BACKWARD] + small >= before + 4 * shifted
			      && walk.at[EST_PHASE_LOSS_BACKWARD] <= before + 4 * shifted + small,
		      "%s: what is kept", generations[_i].name);
	ck_assert_msg(backward + small >= 12 * shifted && backward <= 12 * shifted + small, "%s: %.4f in backward",
		      generations[_i].name, (double)backward / (double)whole);
}
END_TEST

/* With 4 bytes a weight autocast casts the head too: 2 V h, kept to its backward. */
START_TEST(the_cast_of_an_fp32_head_is_kept)
{
	struct est_model model = llama_like(EST_ARCH_LLAMA, 1);
	struct est_request request = request_of(EST_BF16_MIXED, EST_ADAMW_TORCH_FUSED);
	uint64_t head = 2 * (uint64_t)V * H, logits = (uint64_t)N * V;
	struct walk walk;

	trace(&model, &request);
	walk = walk_through(EST_PART_MICRO_FIRST);
	ck_assert_uint_ge(walk.peak[EST_PHASE_LOSS_FORWARD] - walk.at[EST_PHASE_LOSS_FORWARD], 10 * logits + head);
	ck_assert_uint_le(walk.peak[EST_PHASE_LOSS_FORWARD] - walk.at[EST_PHASE_LOSS_FORWARD],
			  10 * logits + head + 2 * N * H + MIB / 16);
}
END_TEST

/* ---- weights, gradients, states */

static const struct {
	const char *name;
	enum est_precision precision;
	enum est_optimizer optimizer;
	unsigned weights, master, states, temporaries; /* bytes a parameter */
	bool scalars;                                  /* a step count on the GPU for each tensor */
} optimizers[] = {
	{ "fused AdamW in 16 bits", EST_PURE_BF16, EST_ADAMW_TORCH_FUSED, 2, 0, 4, 0, true },
	{ "fused AdamW in fp16", EST_PURE_FP16, EST_ADAMW_TORCH_FUSED, 2, 0, 4, 0, true },
	{ "fused AdamW on autocast", EST_BF16_AUTOCAST, EST_ADAMW_TORCH_FUSED, 2, 0, 4, 0, true },
	{ "fused AdamW in fp32", EST_PURE_FP32, EST_ADAMW_TORCH_FUSED, 4, 0, 8, 0, true },
	{ "fused AdamW, mixed", EST_BF16_MIXED, EST_ADAMW_TORCH_FUSED, 4, 0, 8, 0, true },
	{ "fused AdamW with a master: fp32 gradients", EST_BF16_MASTER, EST_ADAMW_TORCH_FUSED, 2, 4, 8, 4, true },
	{ "fused AdamW with an fp16 master", EST_FP16_MASTER, EST_ADAMW_TORCH_FUSED, 2, 4, 8, 4, true },
	{ "foreach AdamW: all square roots at once", EST_PURE_BF16, EST_ADAMW_TORCH, 2, 0, 4, 2, false },
	{ "foreach AdamW in fp32", EST_PURE_FP32, EST_ADAMW_TORCH, 4, 0, 8, 4, false },
	{ "foreach AdamW with a master", EST_BF16_MASTER, EST_ADAMW_TORCH, 2, 4, 8, 8, false },
	{ "SGD keeps nothing", EST_PURE_BF16, EST_SGD, 2, 0, 0, 0, false },
	{ "SGD with a master", EST_BF16_MASTER, EST_SGD, 2, 4, 0, 4, false },
	{ "momentum", EST_PURE_BF16, EST_SGD_MOMENTUM, 2, 0, 2, 0, false },
	{ "momentum in fp32", EST_PURE_FP32, EST_SGD_MOMENTUM, 4, 0, 4, 0, false },
};

START_TEST(weights_gradients_and_states_take_their_bytes_a_parameter)
{
	struct est_model model = llama_like(EST_ARCH_LLAMA, 2);
	struct est_request request = request_of(optimizers[_i].precision, optimizers[_i].optimizer);
	const uint64_t count = parameters(&model), tensors = 2 * 9 + 3, small = 64 * 1024;
	const char *name = optimizers[_i].name;
	uint64_t temporaries = 0;
	struct walk micro, step[2];

	trace(&model, &request);
	ck_assert_uint_eq((uint64_t)program.trainable_parameters, count);
	ck_assert_msg(allocated_in(EST_PART_LOAD, EST_WEIGHTS) == optimizers[_i].weights * count, "%s: weights", name);
	ck_assert_msg(allocated_in(EST_PART_LOAD, EST_OPTIMIZER) == optimizers[_i].master * count, "%s: master", name);
	ck_assert_msg(allocated_in(EST_PART_STATES, EST_OPTIMIZER)
			      == optimizers[_i].states * count + optimizers[_i].scalars * 512 * tensors,
		      "%s: states", name);
	micro = walk_through(EST_PART_MICRO_FIRST);
	ck_assert_msg(micro.end == optimizers[_i].weights * count, "%s: gradients %llu", name,
		      (unsigned long long)micro.end);
	step[0] = walk_through(EST_PART_CLIP);
	step[1] = walk_through(EST_PART_UPDATE);
	temporaries = step[0].end + step[1].peak[EST_PHASE_LOAD];
	ck_assert_msg(temporaries >= optimizers[_i].temporaries * count
			      && temporaries <= optimizers[_i].temporaries * count + small,
		      "%s: temporaries of %.3f bytes a parameter", name, (double)temporaries / (double)count);
	ck_assert_msg(micro.end + step[0].end + step[1].end == 0, "%s: a step leaves something", name);
}
END_TEST

/* ---- accumulation */

START_TEST(a_later_micro_batch_adds_to_the_gradients_in_place)
{
	struct est_model model = llama_like(EST_ARCH_LLAMA, 2);
	struct est_request request = request_of(EST_PURE_BF16, EST_ADAMW_TORCH_FUSED);

	trace(&model, &request);
	ck_assert_uint_eq(program.begin[EST_PART_MICRO_NEXT], program.end[EST_PART_MICRO_NEXT]);
	request.gradient_accumulation_steps = 8;
	trace(&model, &request);
	ck_assert_uint_eq(program.accumulation_steps, 8);
	ck_assert_uint_gt(program.end[EST_PART_MICRO_NEXT], program.begin[EST_PART_MICRO_NEXT]);
	ck_assert_uint_eq(walk_through(EST_PART_MICRO_FIRST).end, 2 * parameters(&model));
	ck_assert_uint_eq(walk_through(EST_PART_MICRO_NEXT).end, 0);
}
END_TEST

/* ---- shape of every program */

static const enum est_architecture architectures[] = {
	EST_ARCH_LLAMA, EST_ARCH_QWEN3, EST_ARCH_GEMMA, EST_ARCH_GEMMA2,   EST_ARCH_GEMMA3, EST_ARCH_PHI3,
	EST_ARCH_OLMO,  EST_ARCH_OLMO2, EST_ARCH_GPT2,  EST_ARCH_GPT_NEOX, EST_ARCH_OPT,
};

/* Allocations and frees of an id alternate, sizes agree, ids are below program.ids, and what a step makes it takes
 * back. */
static void check_events(const char *name)
{
	uint64_t *alive = calloc(program.ids, sizeof(*alive));

	for (enum est_part part = EST_PART_LOAD; part < EST_PARTS; part++) {
		for (size_t i = program.begin[part]; i < program.end[part]; i++) {
			const struct est_event *event = &program.events[i];

			if (event->kind == EST_EVENT_PHASE)
				continue;
			ck_assert_msg(event->id > 0 && event->id < program.ids, "%s: id %u", name, event->id);
			ck_assert_msg(event->bytes > 0 && event->bytes % 512 == 0, "%s: event %zu", name, i);
			ck_assert_msg(alive[event->id] == (event->kind == EST_EVENT_ALLOC ? 0 : event->bytes),
				      "%s: event %zu", name, i);
			alive[event->id] = event->kind == EST_EVENT_ALLOC ? event->bytes : 0;
		}
	}
	free(alive);
	ck_assert_msg(walk_through(EST_PART_MICRO_FIRST).end + walk_through(EST_PART_CLIP).end
				      + walk_through(EST_PART_UPDATE).end
			      == 0,
		      "%s: a step leaves something", name);
}

START_TEST(every_program_is_whole_and_balanced)
{
	struct est_model model = llama_like(architectures[_i], 3);
	char name[128];

	model.gated_mlp = architectures[_i] < EST_ARCH_GPT2;
	model.norm = architectures[_i] == EST_ARCH_OLMO   ? EST_NORM_NONPARAMETRIC
		     : architectures[_i] >= EST_ARCH_GPT2 ? EST_LAYERNORM
							  : EST_RMSNORM;
	model.do_layer_norm_before = true;
	model.sliding_window = architectures[_i] == EST_ARCH_GEMMA3 ? 256 : 0;
	model.full_attention_every = 2;
	if (architectures[_i] >= EST_ARCH_GPT2)
		model.num_key_value_heads = HEADS;
	for (unsigned variant = 0; variant < 128; variant++) {
		struct est_request request = request_of(variant & 1 ? EST_BF16_MIXED : EST_PURE_BF16, EST_ADAMW_TORCH);

		request.checkpointing = variant & 2 ? EST_CHECKPOINT_FULL : EST_CHECKPOINT_NONE;
		request.use_reentrant = variant & 4;
		request.attention = variant & 8 ? EST_EAGER : EST_SDPA;
		request.attention_mask = variant & 16;
		request.gradient_accumulation_steps = variant & 32 ? 2 : 1;
		request.versions.transformers = variant & 64 ? 4048 : 0;
		snprintf(name, sizeof(name), "architecture %d, variant %u", (int)architectures[_i], variant);
		trace(&model, &request);
		check_events(name);
	}
}
END_TEST

START_TEST(an_arena_that_is_too_small_makes_no_program)
{
	struct est_model model = llama_like(EST_ARCH_LLAMA, 2);
	struct est_request request = request_of(EST_PURE_BF16, EST_ADAMW_TORCH_FUSED);
	static const uint64_t whole[EST_CATEGORIES] = { 1, 1, 1, 1, 1, 1 };
	size_t needed;

	trace(&model, &request);
	needed = arena.used;
	for (size_t size = 0; size < needed; size += needed / 97) {
		est_arena_init(&arena, arena.base, size);
		ck_assert_msg(!est_program_trace(&program, &model, &request, true, whole, &arena), "%zu of %zu bytes",
			      size, needed);
	}
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("step");
	TCase *test = tcase_create("step");

	tcase_set_timeout(test, 60);
	tcase_add_checked_fixture(test, set_up, free_arena);
	tcase_add_loop_test(test, a_layer_keeps_what_the_closed_form_says, 0, COUNT(layers));
	tcase_add_test(test, flash_attention_3_accumulates_for_its_own_heads);
	tcase_add_loop_test(test, a_compiled_layer_keeps_what_the_partitioner_saves, 0, COUNT(compiled_layers));
	tcase_add_loop_test(test, a_compiled_step_leaves_gradients_only, 0, COUNT(compiled_layers));
	tcase_add_test(test, a_compiled_loss_copies_no_logits);
	tcase_add_loop_test(test, a_layer_of_an_old_release_keeps_its_copies, 0, COUNT(old_layers));
	tcase_add_test(test, the_loss_takes_10_then_4_then_12_bytes_a_logit);
	tcase_add_loop_test(test, the_loss_of_each_generation_takes_its_bytes_a_logit, 0, COUNT(generations));
	tcase_add_test(test, the_cast_of_an_fp32_head_is_kept);
	tcase_add_loop_test(test, weights_gradients_and_states_take_their_bytes_a_parameter, 0, COUNT(optimizers));
	tcase_add_test(test, a_later_micro_batch_adds_to_the_gradients_in_place);
	tcase_add_loop_test(test, every_program_is_whole_and_balanced, 0, COUNT(architectures));
	tcase_add_test(test, an_arena_that_is_too_small_makes_no_program);
	suite_add_tcase(suite, test);
	return run_suite(suite);
}
