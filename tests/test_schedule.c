/* Ranks that share a model: what FSDP2, HSDP, FSDP1 and DDP hold, against closed forms to the byte (the rows of
 * truth/distributed.jsonl hold the whole of it to real PyTorch). */
#include <stdlib.h>
#include <string.h>
#include "estimator/replay.h"
#include "estimator/schedule.h"
#include "estimator/sharding.h"
#include "tests/suite.h"

/* Sizes of which 4 ranks take whole rows, and every shard whole blocks of 512 bytes. */
enum { S = 512, H = 2048, F = 4096, HEADS = 16, KV = 4, DIM = 128, V = 32768, LAYERS = 4, RANKS = 4 };

/* Elements of a layer, of the embedding, of the whole. */
static const uint64_t layer = (uint64_t)H * DIM * (2 * HEADS + 2 * KV) + 3 * (uint64_t)H * F + 2 * H;
static const uint64_t embedding = (uint64_t)V * H;

#include "tests/llama.h"

static void set_up(void)
{
	take_arena(LAYERS);
}

static struct est_model llama(bool tied)
{
	struct est_model model = LLAMA(LAYERS);

	model.tie_word_embeddings = tied;
	return model;
}

static struct est_request sharded(enum est_strategy strategy)
{
	return (struct est_request){
		.precision = EST_BF16_MIXED,
		.optimizer = EST_ADAMW_TORCH_FUSED,
		.checkpointing = EST_CHECKPOINT_FULL,
		.micro_batch_size = 1,
		.sequence_length = S,
		.gradient_accumulation_steps = 1,
		.outputs_to_fp32 = true,
		.parallelism = { .strategy = strategy, .gpus = RANKS, .gpus_per_node = 8, .tensor = 1, .pipeline = 1, .context = 1,
				 .expert = 1, .reshard_after_forward = true, .wrap = EST_WRAP_ACCELERATE, .param_dtype = EST_BF16,
				 .reduce_dtype = EST_BF16, .output_dtype = EST_BF16 },
	};
}

static void trace(const struct est_model *model, const struct est_request *request)
{
	static const uint64_t whole[EST_CATEGORIES] = { 1, 1, 1, 1, 1, 1 };

	arena.used = 0;
	ck_assert(est_program_trace(&program, model, request, true, whole, &arena));
}

/* ---- what of a category is alive */

struct walk {
	uint64_t peak[EST_PHASES], most, end;
};

static struct walk walk_through(enum est_part part, enum est_category category)
{
	enum est_phase phase = EST_PHASE_LOAD;
	struct walk walk = { 0 };

	for (size_t i = program.begin[part]; i < program.end[part]; i++) {
		const struct est_event *event = &program.events[i];

		if (event->kind == EST_EVENT_PHASE)
			phase = (enum est_phase)event->id;
		else if (event->category == category)
			walk.end += event->kind == EST_EVENT_ALLOC ? event->bytes : -event->bytes;
		if (walk.end < UINT64_MAX / 2 && walk.end > walk.peak[phase])
			walk.peak[phase] = walk.end;
		if (walk.peak[phase] > walk.most)
			walk.most = walk.peak[phase];
	}
	return walk;
}

static uint64_t count_on_other_streams(void)
{
	uint64_t count = 0;

	for (size_t i = program.begin[EST_PART_MICRO_FIRST]; i < program.end[EST_PART_MICRO_FIRST]; i++)
		count += program.events[i].kind == EST_EVENT_ALLOC && program.events[i].stream > 0;
	return count;
}

/* cos, sin, positions and labels beside the gathered weights */
enum { SMALL = 1 << 20 };

static void between(const char *what, uint64_t bytes, uint64_t expected, uint64_t slack)
{
	ck_assert_msg(bytes >= expected && bytes <= expected + slack, "%s: %llu bytes, not %llu (%+lld)", what,
		      (unsigned long long)bytes, (unsigned long long)expected, (long long)(bytes - expected));
}

/* ---- FSDP2 and HSDP */

static const enum est_strategy strategies[] = { EST_FSDP, EST_HSDP };

/* fp32 shards, sharded gradients and moments: 4, 4 and 8 bytes an element, divided by the ranks of a shard group. */
START_TEST(a_rank_holds_its_share_between_steps)
{
	struct est_request request = sharded(strategies[_i]);
	struct est_model model = llama(false);
	uint64_t count = (uint64_t)est_model_count_parameters(&model), ranks = RANKS;

	if (strategies[_i] == EST_HSDP)
		request.parallelism.shard_size = (int64_t)(ranks = RANKS / 2);
	trace(&model, &request);
	ck_assert_uint_eq(walk_through(EST_PART_LOAD, EST_WEIGHTS).end, 4 * count / ranks);
	ck_assert_uint_eq(walk_through(EST_PART_MICRO_FIRST, EST_GRADIENTS).end, 4 * count / ranks);
	between("moments", walk_through(EST_PART_STATES, EST_OPTIMIZER).end, 8 * count / ranks, 64 * 1024);
	ck_assert_uint_eq(walk_through(EST_PART_UPDATE, EST_GRADIENTS).end, -(4 * count / ranks));
	ck_assert_uint_eq((uint64_t)program.trainable_parameters, count);
	ck_assert_uint_eq(walk_through(EST_PART_MICRO_FIRST, EST_BUFFERS).end, 0);
}
END_TEST

/* Wrapped by accelerate: the embedding, each layer, and norm with head are units. At a unit's copy-out its all-gather's
 * output, its parameters and the last output are alive, 2 bytes an element each; the head, the last unit, is the
 * largest. */
START_TEST(a_forward_gathers_unit_by_unit)
{
	struct est_request request = sharded(EST_FSDP);
	struct est_model model = llama(false);
	struct walk buffers;

	trace(&model, &request);
	buffers = walk_through(EST_PART_MICRO_FIRST, EST_BUFFERS);
	between("forward", buffers.peak[EST_PHASE_FORWARD], 2 * layer + 4 * (embedding + H), SMALL);
	ck_assert_uint_gt(count_on_other_streams(), 2 * LAYERS);
}
END_TEST

/* The root group (layer_root, or accelerate's of tied models) is gathered first and stays. */
START_TEST(the_root_stays_gathered)
{
	struct est_request request = sharded(EST_FSDP);
	struct est_model model = llama(true);
	uint64_t root = embedding + H, first_layer = 4 * root + 4 * layer;

	request.parallelism.wrap = _i ? EST_WRAP_ACCELERATE : EST_WRAP_LAYER_ROOT;
	trace(&model, &request);
	between("forward", walk_through(EST_PART_MICRO_FIRST, EST_BUFFERS).peak[EST_PHASE_FORWARD], first_layer, SMALL);
}
END_TEST

/* A rank that is alone gathers nothing: each parameter is cast from its shard, which is whole, the largest one last
 * alive. */
START_TEST(one_rank_only_casts)
{
	struct est_request request = sharded(EST_FSDP);
	struct est_model model = llama(true);

	request.parallelism.gpus = 1;
	trace(&model, &request);
	between("forward", walk_through(EST_PART_MICRO_FIRST, EST_BUFFERS).peak[EST_PHASE_FORWARD],
		2 * (embedding + H) + 2 * embedding, SMALL);
	ck_assert_uint_eq(walk_through(EST_PART_LOAD, EST_WEIGHTS).end, 4 * (uint64_t)est_model_count_parameters(&model));
}
END_TEST

/* reshard_after_forward=False: every layer and the embedding stay to their backward. */
START_TEST(without_resharding_all_units_stay)
{
	struct est_request request = sharded(EST_FSDP);
	struct est_model model = llama(false);
	uint64_t all = 2 * (LAYERS * layer + 2 * embedding + H);

	request.parallelism.reshard_after_forward = false;
	trace(&model, &request);
	between("forward", walk_through(EST_PART_MICRO_FIRST, EST_BUFFERS).peak[EST_PHASE_FORWARD],
		all + 2 * layer + 2 * (embedding + H), SMALL);
}
END_TEST

/* accelerate's no_sync(): the whole model's gradients stay, in the dtype of the reduction, until the last
 * micro-batch. */
START_TEST(unreduced_gradients_stay_whole)
{
	struct est_request request = sharded(EST_FSDP);
	struct est_model model = llama(false);
	uint64_t count = (uint64_t)est_model_count_parameters(&model);

	request.parallelism.reduce_dtype = _i ? EST_FP32 : EST_BF16;
	request.gradient_accumulation_steps = 8;
	trace(&model, &request);
	ck_assert_uint_eq(walk_through(EST_PART_MICRO_FIRST, EST_GRADIENTS).end, (_i ? 4 : 2) * count);
	ck_assert_uint_eq(walk_through(EST_PART_MICRO_NEXT, EST_GRADIENTS).end, 4 * count / RANKS - (_i ? 4 : 2) * count);
	ck_assert_uint_eq(program.accumulation_steps, 2);
	request.parallelism.sync_each_microbatch = true;
	trace(&model, &request);
	ck_assert_uint_eq(walk_through(EST_PART_MICRO_FIRST, EST_GRADIENTS).end, 4 * count / RANKS);
	ck_assert_uint_eq(walk_through(EST_PART_MICRO_NEXT, EST_GRADIENTS).end, 0);
	ck_assert_uint_eq(program.accumulation_steps, 8);
}
END_TEST

/* The embedding's output, made to require a gradient for checkpoints over a frozen model, is no parameter to be
 * kept. */
START_TEST(what_is_no_parameter_is_not_kept)
{
	struct est_request request = sharded(EST_FSDP);
	struct est_model model = llama(false);

	request.method = EST_LORA;
	request.lora.rank = 16;
	request.lora.target_modules.all = true;
	request.parallelism.reduce_dtype = EST_FP32;
	request.gradient_accumulation_steps = 2;
	trace(&model, &request);
	ck_assert_uint_eq(walk_through(EST_PART_MICRO_FIRST, EST_GRADIENTS).end, 4 * (uint64_t)program.trainable_parameters);
	ck_assert_uint_eq(walk_through(EST_PART_MICRO_FIRST, EST_ACTIVATIONS).end, 0);
}
END_TEST

/* HSDP sums 16-bit shards among the replicas: they stay beside the fp32 ones to the end of the backward. */
START_TEST(what_replicas_sum_stays)
{
	struct est_request request = sharded(EST_HSDP);
	struct est_model model = llama(false);
	uint64_t count = (uint64_t)est_model_count_parameters(&model), most;

	request.parallelism.shard_size = RANKS / 2;
	trace(&model, &request);
	most = walk_through(EST_PART_MICRO_FIRST, EST_GRADIENTS).most;
	ck_assert_uint_ge(most, (4 + 2) * count / (RANKS / 2));
	request.parallelism.reduce_dtype = EST_FP32;
	trace(&model, &request);
	ck_assert_uint_lt(walk_through(EST_PART_MICRO_FIRST, EST_GRADIENTS).most, most);
}
END_TEST

/* QLoRA: what is packed as bf16 is sharded (half a byte a weight), its scales are whole; packed as uint8 nothing of
 * it is. */
START_TEST(packed_weights_are_sharded_as_they_are_stored)
{
	struct est_request request = sharded(EST_FSDP);
	struct est_model model = llama(false);
	uint64_t packed = LAYERS * (layer - 2 * H), rest = 2 * embedding + (2 * LAYERS + 1) * H, scales = packed / 64;

	request.method = EST_QLORA;
	request.lora.rank = 16;
	request.lora.target_modules.all = true;
	request.quantization.bits = 4;
	request.quantization.quant_storage = EST_STORE_BF16;
	trace(&model, &request);
	between("bf16", walk_through(EST_PART_LOAD, EST_WEIGHTS).end,
		(packed / 2 + 2 * rest + 2 * (uint64_t)program.trainable_parameters) / RANKS + 4 * scales, 64 * 1024);
	request.quantization.quant_storage = EST_STORE_UINT8;
	trace(&model, &request);
	between("uint8", walk_through(EST_PART_LOAD, EST_WEIGHTS).end,
		packed / 2 + (2 * rest + 2 * (uint64_t)program.trainable_parameters) / RANKS + 4 * scales, 64 * 1024);
}
END_TEST

/* CPUOffloadPolicy: nothing stays on the card between micro-batches; fp32 shards, their gradients, two moments are
 * on the host. */
START_TEST(what_is_offloaded_is_on_the_host)
{
	struct est_request request = sharded(EST_FSDP);
	struct est_model model = llama(false);
	uint64_t count = (uint64_t)est_model_count_parameters(&model);

	request.offload.parameters = request.offload.optimizer = EST_ON_CPU;
	trace(&model, &request);
	ck_assert_uint_eq(walk_through(EST_PART_LOAD, EST_WEIGHTS).end, 0);
	ck_assert_uint_eq(walk_through(EST_PART_MICRO_FIRST, EST_GRADIENTS).end, 0);
	ck_assert_uint_eq(walk_through(EST_PART_STATES, EST_OPTIMIZER).end, 0);
	ck_assert_uint_eq(program.pinned, (4 + 4) * count / RANKS);
	between("states", program.host_states, 8 * count / RANKS, 1024);
	between("forward", walk_through(EST_PART_MICRO_FIRST, EST_BUFFERS).peak[EST_PHASE_FORWARD],
		2 * layer + 4 * (embedding + H), SMALL);
}
END_TEST

/* ---- FSDP1 */

/* Cut as it lies, a flat parameter is shared out like any other: 4, 4 and 8 bytes an element. */
START_TEST(flat_parameters_are_shared_out)
{
	struct est_request request = sharded(EST_FSDP1);
	struct est_model model = llama(_i);
	uint64_t count = (uint64_t)est_model_count_parameters(&model);

	trace(&model, &request);
	ck_assert_uint_eq(walk_through(EST_PART_LOAD, EST_WEIGHTS).end, 4 * count / RANKS);
	ck_assert_uint_eq(walk_through(EST_PART_MICRO_FIRST, EST_GRADIENTS).end, 4 * count / RANKS);
	between("moments", walk_through(EST_PART_STATES, EST_OPTIMIZER).end, 8 * count / RANKS, 64 * 1024);
	ck_assert_uint_eq(walk_through(EST_PART_UPDATE, EST_GRADIENTS).end, -(4 * count / RANKS));
	ck_assert_uint_eq(walk_through(EST_PART_MICRO_FIRST, EST_BUFFERS).end, 0);
}
END_TEST

/* The root and one layer, without an output of the all-gather; in the backward the layer before is gathered ahead. A
 * layer's shard is cast for its all-gather. The gradients of the root's parameters meet their concatenation at the
 * end. */
START_TEST(the_root_and_one_layer_are_gathered)
{
	struct est_request request = sharded(EST_FSDP1);
	struct est_model model = llama(false);
	uint64_t root = 2 * embedding + H, cast = 2 * layer / RANKS;
	struct walk buffers;

	trace(&model, &request);
	buffers = walk_through(EST_PART_MICRO_FIRST, EST_BUFFERS);
	between("forward", buffers.peak[EST_PHASE_FORWARD], 2 * root + 2 * layer + cast, SMALL);
	between("loss", buffers.peak[EST_PHASE_LOSS_BACKWARD], 2 * root + 2 * layer + cast, SMALL);
	between("backward", buffers.most, 2 * root + 4 * layer + cast, SMALL);
	between("gradients", walk_through(EST_PART_MICRO_FIRST, EST_GRADIENTS).most,
		4 * LAYERS * layer / RANKS + 4 * root, SMALL);
}
END_TEST

/* SHARD_GRAD_OP: all units stay from their forward to their backward, and, without synchronisation, beyond it; the
 * gradients of the flat parameters stay in the dtype of the parameters, whatever they are reduced in. */
START_TEST(what_is_not_synchronised_stays_flat)
{
	struct est_request request = sharded(EST_FSDP1);
	struct est_model model = llama(false);
	uint64_t count = (uint64_t)est_model_count_parameters(&model);

	request.parallelism.reshard_after_forward = _i;
	request.parallelism.reduce_dtype = EST_FP32;
	request.gradient_accumulation_steps = 4;
	trace(&model, &request);
	ck_assert_uint_eq(walk_through(EST_PART_MICRO_FIRST, EST_GRADIENTS).end, 2 * count);
	ck_assert_uint_eq(walk_through(EST_PART_MICRO_FIRST, EST_BUFFERS).end, _i ? 0 : 2 * count);
	ck_assert_uint_eq(walk_through(EST_PART_MICRO_NEXT, EST_GRADIENTS).end, 4 * count / RANKS - 2 * count);
	if (!_i)
		between("forward", walk_through(EST_PART_MICRO_FIRST, EST_BUFFERS).peak[EST_PHASE_FORWARD],
			2 * count + 2 * layer / RANKS, SMALL);
}
END_TEST

enum { ROOT = 2 * V * H + H };

static struct est_request adapted(enum est_strategy strategy, enum est_wrap wrap)
{
	struct est_request request = sharded(strategy);

	request.method = EST_LORA;
	request.base_dtype = EST_BF16;
	request.lora = (struct est_lora){ .rank = 8, .target_modules = { .all = true }, .adapter_dtype = EST_FP32 };
	request.parallelism.wrap = wrap;
	request.parallelism.use_orig_params = true;
	return request;
}

/* PEFT's policy: the base is sharded as it is, adapters in fp32; of the base there are no gradients, and it is
 * gathered by layers. */
START_TEST(adapters_are_flat_by_themselves)
{
	struct est_request request = adapted(EST_FSDP1, EST_WRAP_PEFT);
	struct est_model model = llama(false);
	uint64_t base = (uint64_t)est_model_count_parameters(&model), adapters;

	request.parallelism.use_orig_params = _i;
	request.use_reentrant = _i;
	trace(&model, &request);
	adapters = (uint64_t)program.trainable_parameters;
	between("weights", walk_through(EST_PART_LOAD, EST_WEIGHTS).end, (2 * base + 4 * adapters) / RANKS, 64 * 1024);
	between("gradients", walk_through(EST_PART_MICRO_FIRST, EST_GRADIENTS).end, 4 * adapters / RANKS, 64 * 1024);
	between("moments", walk_through(EST_PART_STATES, EST_OPTIMIZER).end, 8 * adapters / RANKS, 256 * 1024);
	between("forward", walk_through(EST_PART_MICRO_FIRST, EST_BUFFERS).peak[EST_PHASE_FORWARD],
		2 * (uint64_t)ROOT + 2 * layer, SMALL);
	between("loss", walk_through(EST_PART_MICRO_FIRST, EST_BUFFERS).peak[EST_PHASE_LOSS_BACKWARD],
		2 * (uint64_t)ROOT + 2 * layer, SMALL);
	ck_assert_uint_eq(walk_through(EST_PART_MICRO_FIRST, EST_BUFFERS).end, 0);
	ck_assert_uint_eq(walk_through(EST_PART_REHEARSAL, EST_GRADIENTS).end, 0);
}
END_TEST

/* Without that policy a layer's flat parameter is trained as a whole, the root's is not: shards and gradients in
 * fp32, moments of the adapters alone. */
START_TEST(what_is_flat_with_an_adapter_gets_gradients)
{
	struct est_request request = adapted(EST_FSDP1, EST_WRAP_LAYER_ROOT);
	struct est_model model = llama(false);
	uint64_t adapters, layers;

	trace(&model, &request);
	adapters = (uint64_t)program.trainable_parameters;
	layers = LAYERS * layer + adapters;
	/* the shards that were cast are there until the first forward */
	between("weights", walk_through(EST_PART_LOAD, EST_WEIGHTS).end, (2 * (uint64_t)ROOT + 6 * layers) / RANKS, 64 * 1024);
	between("gradients", walk_through(EST_PART_MICRO_FIRST, EST_GRADIENTS).end, 4 * layers / RANKS, 64 * 1024);
	ck_assert_uint_lt(walk_through(EST_PART_STATES, EST_OPTIMIZER).end, 8 * adapters);
	ck_assert_uint_gt(walk_through(EST_PART_STATES, EST_OPTIMIZER).end, 0);
}
END_TEST

/* Around the unit, reentrant checkpoints leave their inputs and gradients to the end: of all layers but the one that
 * runs. */
START_TEST(boundaries_outside_of_units_stay)
{
	struct est_request request = adapted(EST_FSDP1, EST_WRAP_PEFT);
	struct est_model model = llama(false);
	uint64_t inside, boundary = 2 * (uint64_t)S * H;

	request.use_reentrant = true;
	trace(&model, &request);
	inside = walk_through(EST_PART_MICRO_FIRST, EST_ACTIVATIONS).peak[EST_PHASE_BACKWARD];
	request.parallelism.checkpoint_outside_unit = true;
	trace(&model, &request);
	ck_assert_uint_eq(walk_through(EST_PART_MICRO_FIRST, EST_ACTIVATIONS).end, 0);
	ck_assert_uint_ge(walk_through(EST_PART_MICRO_FIRST, EST_ACTIVATIONS).peak[EST_PHASE_BACKWARD],
			  inside + (LAYERS - 2) * boundary);
}
END_TEST

/* FSDP2 does not know PEFT's policy: all layers are gathered at once, twice while they are copied out. */
START_TEST(fsdp2_makes_no_unit_of_a_layer_by_pefts_policy)
{
	struct est_request request = adapted(EST_FSDP, EST_WRAP_PEFT);
	struct est_model model = llama(false);
	uint64_t gathered;

	trace(&model, &request);
	gathered = 2 * (LAYERS * layer + (uint64_t)program.trainable_parameters);
	ck_assert_uint_ge(walk_through(EST_PART_MICRO_FIRST, EST_BUFFERS).peak[EST_PHASE_FORWARD], 2 * gathered);
	ck_assert_uint_ge(walk_through(EST_PART_MICRO_FIRST, EST_BUFFERS).peak[EST_PHASE_BACKWARD], gathered);
	ck_assert_uint_eq(walk_through(EST_PART_MICRO_FIRST, EST_BUFFERS).end, 0);
}
END_TEST

/* What has no schedule is static, and nothing is both. */
START_TEST(fsdp1_is_replayed_or_static)
{
	struct est_request requests[7];
	bool wanted = _i < 2;

	for (int i = 0; i < COUNT(requests); i++)
		requests[i] = sharded(EST_FSDP1);
	requests[1].liger_kernel = true;
	requests[1].loss = EST_LOSS_LIGER;
	requests[2].parallelism.wrap = EST_WRAP_PEFT;
	requests[3].method = EST_LORA; /* use_orig_params is off: PyTorch refuses what is trained in part */
	requests[4].objective = EST_DPO;
	requests[5].precision = EST_PURE_BF16;
	requests[6].optimizer = EST_MUON;
	ck_assert(est_schedule_wanted(&requests[_i]) == wanted);
	ck_assert(est_sharding_is_static(&requests[_i]) != wanted);
}
END_TEST

START_TEST(fsdp2_is_replayed_or_static)
{
	struct est_request requests[13];
	bool wanted = _i < 9;

	for (int i = 0; i < COUNT(requests); i++)
		requests[i] = sharded(i % 2 ? EST_FSDP : EST_HSDP);
	requests[1].precision = EST_BF16_MASTER;
	requests[2].precision = EST_BF16_AUTOCAST;
	requests[3].method = EST_FREEZE;
	requests[4].liger_kernel = true;
	requests[4].loss = EST_LOSS_LIGER;
	requests[5].optimizer = EST_ADAMW_8BIT_TORCHAO;
	requests[6].objective = EST_DPO;
	requests[7].objective = EST_REWARD;
	requests[8].objective = EST_ORPO;
	requests[9].optimizer = EST_ADAMW_8BIT; /* its kernels refuse DTensors */
	requests[10].task = EST_SEQUENCE_CLASSIFICATION;
	requests[11].fuse_optimizer_in_backward = true;
	requests[12].objective = EST_KTO; /* its reference is quantised: fully_shard() takes no bytes */
	requests[12].method = EST_QLORA;
	requests[12].quantization = (struct est_quantization){ .type = EST_NF4, .bits = 4 };
	ck_assert(est_schedule_wanted(&requests[_i]) == wanted);
	ck_assert(est_sharding_is_static(&requests[_i]) != wanted);
}
END_TEST

/* A fused loss does not call the head, whose unit is done when the model returns: the last layer is gathered ahead of the loss's
 * backward, and not of the head's. */
START_TEST(a_fused_loss_gathers_the_last_layer_first)
{
	struct est_request request = sharded(strategies[_i]);
	struct est_model model = llama(false);
	struct walk walk;

	trace(&model, &request);
	walk = walk_through(EST_PART_MICRO_FIRST, EST_BUFFERS);
	request.loss = EST_LOSS_LIGER;
	trace(&model, &request);
	ck_assert_uint_ge(walk_through(EST_PART_MICRO_FIRST, EST_BUFFERS).peak[EST_PHASE_LOSS_BACKWARD], 2 * layer);
	ck_assert_uint_eq(walk_through(EST_PART_MICRO_FIRST, EST_BUFFERS).end, walk.end);
}
END_TEST

/* A model of n elements under DPO or KTO; in completions all words count. */
static struct est_request preferred(enum est_objective objective, enum est_reference reference)
{
	struct est_request request = sharded(EST_FSDP);

	request.framework = EST_TRL;
	request.objective = objective;
	request.loss = EST_LOSS_CHUNKED;
	request.reference_model = reference;
	request.completion_fraction = 1;
	return request;
}

/* TRL wraps a reference as one unit: 4 bytes an element more are sharded, and its forward gathers 2 bytes an element twice, beside the
 * policy's norm and head, which wait for the backward. */
START_TEST(a_reference_is_gathered_as_a_whole)
{
	struct est_request request = preferred(EST_DPO, EST_REFERENCE_MODEL);
	struct est_model model = llama(false);
	uint64_t count = (uint64_t)est_model_count_parameters(&model);
	struct walk buffers;

	trace(&model, &request);
	buffers = walk_through(EST_PART_MICRO_FIRST, EST_BUFFERS);
	ck_assert_uint_eq(walk_through(EST_PART_LOAD, EST_WEIGHTS).end, 2 * 4 * count / RANKS);
	between("reference", buffers.most, 4 * count + 2 * (embedding + H), 2 * SMALL);
	ck_assert_uint_eq(buffers.end, 0);
	ck_assert_uint_eq((uint64_t)program.trainable_parameters, count);
}
END_TEST

/* It has no backward to be resharded after: told not to after its forward it stays for good, from the first micro-batch on. */
START_TEST(a_reference_that_is_not_resharded_stays)
{
	struct est_request request = preferred(EST_DPO, EST_REFERENCE_MODEL);
	struct est_model model = llama(false);
	uint64_t count = (uint64_t)est_model_count_parameters(&model);

	request.parallelism.reshard_after_forward = false;
	trace(&model, &request);
	between("first", walk_through(EST_PART_REHEARSAL, EST_BUFFERS).end, 2 * count, 0);
	ck_assert_uint_eq(walk_through(EST_PART_MICRO_FIRST, EST_BUFFERS).end, 0);
	request.objective = EST_GRPO; /* asks before the steps */
	request.beta = 0.1;
	trace(&model, &request);
	between("load", walk_through(EST_PART_LOAD, EST_BUFFERS).end, 2 * count, SMALL);
}
END_TEST

static unsigned count_allocations(uint64_t bytes, unsigned stream)
{
	unsigned count = 0;

	for (size_t i = program.begin[EST_PART_MICRO_FIRST]; i < program.end[EST_PART_MICRO_FIRST]; i++)
		count += program.events[i].kind == EST_EVENT_ALLOC && program.events[i].bytes == bytes
			 && program.events[i].stream == stream;
	return count;
}

/* KTO runs the policy twice before its backward: norm and head, gathered once and let go of after the loss's backward, are gathered
 * again before the embedding's, which came after them in the order of both. */
START_TEST(a_second_forward_gathers_in_vain)
{
	struct est_request request = preferred(EST_DPO, EST_REFERENCE_PRECOMPUTED);
	struct est_model model = llama(false);

	trace(&model, &request);
	ck_assert_uint_eq(count_allocations(2 * (embedding + H), 1), 1);
	request.objective = EST_KTO;
	trace(&model, &request);
	ck_assert_uint_eq(count_allocations(2 * (embedding + H), 1), 2);
	ck_assert_uint_eq(walk_through(EST_PART_MICRO_FIRST, EST_BUFFERS).end, 0);
}
END_TEST

/* Beside adapters the head is a unit by itself, which TRL's head does not call: nothing is gathered for it but the weight that it
 * reads, a DTensor, once in the policy's forward and once in that of the reference, the model without its adapters. */
START_TEST(a_head_that_is_read_is_gathered_by_itself)
{
	struct est_request request = preferred(EST_DPO, EST_REFERENCE_ADAPTER);
	struct est_model model = llama(false);

	request.method = EST_LORA;
	request.base_dtype = EST_BF16;
	request.lora = (struct est_lora){ .rank = 8, .target_modules = { .all = true }, .adapter_dtype = EST_FP32 };
	trace(&model, &request);
	ck_assert_uint_eq(count_allocations(2 * embedding, 0), 2 + 3); /* the embedding's own: both forwards, and the backward */
	ck_assert_uint_eq(count_allocations(2 * embedding, 1), 3);
	request.objective = EST_ORPO; /* calls it */
	request.loss = EST_LOSS_STANDARD;
	trace(&model, &request);
	ck_assert_uint_eq(count_allocations(2 * embedding, 1), 1 + 2);
}
END_TEST

/* PEFT's copies of embedding and head lie in fp32 in the units of the originals, which gather both: 2 bytes an element each. */
START_TEST(saved_modules_are_gathered_with_the_originals)
{
	struct est_request request = preferred(EST_SFT, EST_REFERENCE_NONE);
	struct est_model model = llama(false);
	uint64_t count = (uint64_t)est_model_count_parameters(&model), adapters;

	request.loss = EST_LOSS_STANDARD;
	request.method = EST_LORA;
	request.base_dtype = EST_BF16;
	request.lora = (struct est_lora){ .rank = 8, .target_modules = { .all = true }, .adapter_dtype = EST_FP32,
					  .modules_to_save = { .count = 2, .name = { "embed_tokens", "lm_head" } } };
	ck_assert(est_schedule_wanted(&request));
	trace(&model, &request);
	adapters = (uint64_t)program.trainable_parameters - 2 * embedding;
	between("weights", walk_through(EST_PART_LOAD, EST_WEIGHTS).end, (2 * count + 4 * (adapters + 2 * embedding)) / RANKS,
		64 * 1024);
	ck_assert_uint_eq(count_allocations(4 * embedding, 1), 3);
	between("gradients", walk_through(EST_PART_MICRO_FIRST, EST_GRADIENTS).end, 4 * (adapters + 2 * embedding) / RANKS,
		64 * 1024);
}
END_TEST

/* TRL's head reads the copy's shards, fp32, whole; what comes back to them is cut to the rank's rows, and nothing is reduced. */
START_TEST(a_saved_head_that_is_read_is_not_reduced)
{
	struct est_request request = preferred(EST_SFT, EST_REFERENCE_NONE);
	struct est_model model = llama(false);

	request.method = EST_LORA;
	request.base_dtype = EST_BF16;
	request.lora = (struct est_lora){ .rank = 8, .target_modules = { .all = true }, .adapter_dtype = EST_FP32,
					  .modules_to_save = { .count = 1, .name = { "lm_head" } } };
	trace(&model, &request);
	ck_assert_uint_eq(count_allocations(4 * embedding, 0), 2); /* the weight and its gradient */
	ck_assert_uint_eq(count_allocations(4 * embedding / RANKS, 0), 1);
	ck_assert_uint_eq(count_allocations(4 * embedding / RANKS, 2), 0);
	between("gradients", walk_through(EST_PART_MICRO_FIRST, EST_GRADIENTS).end,
		4 * (uint64_t)program.trainable_parameters / RANKS, 64 * 1024);
}
END_TEST

/* PEFT's copy of the head of scores is stepped in fp32, as accelerate has it, in the model's own unit. */
START_TEST(scores_are_the_models_own)
{
	struct est_request request = preferred(EST_REWARD, EST_REFERENCE_NONE);
	struct est_model model = llama(_i);
	uint64_t without;

	request.loss = EST_LOSS_STANDARD;
	request.method = EST_LORA;
	request.base_dtype = EST_BF16;
	request.lora = (struct est_lora){ .rank = 8, .target_modules = { .all = true }, .adapter_dtype = EST_FP32 };
	trace(&model, &request);
	without = (uint64_t)program.trainable_parameters - H;
	ck_assert_uint_eq(count_allocations(2 * embedding, 1), 2);
	between("gradients", walk_through(EST_PART_MICRO_FIRST, EST_GRADIENTS).end, 4 * (without / RANKS + H), 4096);
}
END_TEST

/* The fp32 masters are of a rank's shards: with AdamW 12 bytes for each of its elements, beside 2 of the weight. */
START_TEST(masters_are_of_shards)
{
	struct est_request request = sharded(EST_FSDP);
	struct est_model model = llama(false);
	uint64_t mixed, masters;

	request.precision = EST_BF16_MIXED;
	trace(&model, &request);
	mixed = walk_through(EST_PART_LOAD, EST_WEIGHTS).end;
	request.precision = EST_BF16_MASTER;
	trace(&model, &request);
	masters = walk_through(EST_PART_LOAD, EST_OPTIMIZER).end;
	ck_assert_uint_eq(masters, mixed);
	ck_assert_uint_lt(walk_through(EST_PART_LOAD, EST_WEIGHTS).end, mixed);
}
END_TEST

/* ---- DDP */

/* The reducer's buckets hold as many bytes as the gradients, which lie beside them or are views of them. */
START_TEST(buckets_are_as_large_as_the_gradients)
{
	struct est_request request = sharded(EST_DDP);
	struct est_model model = llama(false);
	uint64_t bytes = 4 * (uint64_t)est_model_count_parameters(&model), rope;

	request.parallelism.gradient_as_bucket_view = _i;
	trace(&model, &request);
	rope = walk_through(EST_PART_LOAD, EST_BUFFERS).end - bytes;
	ck_assert_uint_le(rope, 4096);
	ck_assert_uint_eq(walk_through(EST_PART_MICRO_FIRST, EST_GRADIENTS).end, _i ? 0 : bytes);
	ck_assert_uint_eq(count_on_other_streams(), 0);
}
END_TEST

/* One bucket of all gradients at first; the second step's forward replaces it by one of 1 MiB and others of 25, each as much larger as the
 * parameter that filled it. */
START_TEST(buckets_are_made_anew_before_the_second_step)
{
	struct est_request request = sharded(EST_DDP);
	struct est_model model = llama(false);
	uint64_t left = 4 * (uint64_t)est_model_count_parameters(&model), least = 1 << 20;
	const struct est_event *event, *end;

	trace(&model, &request);
	event = program.events + program.begin[EST_PART_SECOND_STEP];
	end = program.events + program.end[EST_PART_SECOND_STEP];
	ck_assert_int_ge(end - event, 5);
	ck_assert_int_eq(event->kind, EST_EVENT_PHASE);
	ck_assert_int_eq((++event)->kind, EST_EVENT_FREE);
	ck_assert_uint_eq(event->bytes, left);
	while (++event < end) {
		ck_assert_int_eq(event->kind, EST_EVENT_ALLOC);
		ck_assert(event->bytes >= least || event + 1 == end);
		left -= event->bytes;
		least = 25 << 20;
	}
	ck_assert_uint_eq(left, 0);
}
END_TEST

/* Under no_sync() a gradient is no view of its bucket yet: all lie beside the buckets until the last micro-batch. */
START_TEST(views_of_buckets_begin_with_the_micro_batch_that_is_reduced)
{
	struct est_request request = sharded(EST_DDP);
	struct est_model model = llama(false);
	uint64_t bytes = 4 * (uint64_t)est_model_count_parameters(&model);

	request.gradient_accumulation_steps = 2 + _i;
	request.parallelism.gradient_as_bucket_view = true;
	trace(&model, &request);
	ck_assert_uint_eq(walk_through(EST_PART_MICRO_FIRST, EST_GRADIENTS).end, bytes);
	ck_assert_int_eq((int64_t)walk_through(EST_PART_MICRO_NEXT, EST_GRADIENTS).end, -(int64_t)bytes);
	request.parallelism.sync_each_microbatch = true;
	trace(&model, &request);
	ck_assert_uint_eq(walk_through(EST_PART_MICRO_FIRST, EST_GRADIENTS).end, 0);
}
END_TEST

/* accelerate's upcast: adapters in 16 bits are stepped in fp32, but where torch's own fully_shard() wraps or weights are in 4 bits. */
START_TEST(accelerate_upcasts_what_fsdp2_trains)
{
	struct est_request request = sharded(EST_FSDP);
	struct est_model model = llama(false);
	uint64_t upcast, kept;

	request.method = EST_LORA;
	request.lora = (struct est_lora){ .rank = 16, .target_modules = { .all = true }, .adapter_dtype = EST_BF16 };
	request.base_dtype = EST_BF16;
	trace(&model, &request);
	upcast = walk_through(EST_PART_STATES, EST_OPTIMIZER).end;
	request.parallelism.wrap = EST_WRAP_LAYER_ROOT;
	trace(&model, &request);
	kept = walk_through(EST_PART_STATES, EST_OPTIMIZER).end;
	ck_assert_uint_ge(upcast, 2 * kept * 9 / 10);
	ck_assert_uint_le(upcast, 2 * kept);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("schedule");
	TCase *test = tcase_create("ranks");

	tcase_add_checked_fixture(test, set_up, free_arena);
	tcase_add_loop_test(test, a_rank_holds_its_share_between_steps, 0, COUNT(strategies));
	tcase_add_test(test, a_forward_gathers_unit_by_unit);
	tcase_add_loop_test(test, the_root_stays_gathered, 0, 2);
	tcase_add_test(test, without_resharding_all_units_stay);
	tcase_add_test(test, one_rank_only_casts);
	tcase_add_loop_test(test, unreduced_gradients_stay_whole, 0, 2);
	tcase_add_test(test, what_is_no_parameter_is_not_kept);
	tcase_add_test(test, what_replicas_sum_stays);
	tcase_add_test(test, what_is_offloaded_is_on_the_host);
	tcase_add_test(test, packed_weights_are_sharded_as_they_are_stored);
	tcase_add_loop_test(test, flat_parameters_are_shared_out, 0, 2);
	tcase_add_test(test, the_root_and_one_layer_are_gathered);
	tcase_add_loop_test(test, what_is_not_synchronised_stays_flat, 0, 2);
	tcase_add_loop_test(test, adapters_are_flat_by_themselves, 0, 2);
	tcase_add_test(test, what_is_flat_with_an_adapter_gets_gradients);
	tcase_add_test(test, boundaries_outside_of_units_stay);
	tcase_add_test(test, fsdp2_makes_no_unit_of_a_layer_by_pefts_policy);
	tcase_add_loop_test(test, fsdp1_is_replayed_or_static, 0, 7);
	tcase_add_loop_test(test, fsdp2_is_replayed_or_static, 0, 13);
	tcase_add_test(test, masters_are_of_shards);
	tcase_add_test(test, a_reference_is_gathered_as_a_whole);
	tcase_add_test(test, a_reference_that_is_not_resharded_stays);
	tcase_add_test(test, a_second_forward_gathers_in_vain);
	tcase_add_test(test, a_head_that_is_read_is_gathered_by_itself);
	tcase_add_test(test, saved_modules_are_gathered_with_the_originals);
	tcase_add_test(test, a_saved_head_that_is_read_is_not_reduced);
	tcase_add_loop_test(test, scores_are_the_models_own, 0, 2);
	tcase_add_loop_test(test, a_fused_loss_gathers_the_last_layer_first, 0, COUNT(strategies));
	tcase_add_loop_test(test, buckets_are_as_large_as_the_gradients, 0, 2);
	tcase_add_test(test, buckets_are_made_anew_before_the_second_step);
	tcase_add_loop_test(test, views_of_buckets_begin_with_the_micro_batch_that_is_reduced, 0, 2);
	tcase_add_test(test, accelerate_upcasts_what_fsdp2_trains);
	suite_add_tcase(suite, test);
	return run_suite(suite);
}
