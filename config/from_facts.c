/* What follows from several keys of the files together. */
#include "config/frameworks.h"
#include "config/from.h"
#include <stdio.h>
#include <string.h>
#include <strings.h>

static const struct cfg_fact *fact_of(const struct cfg_from *from, enum cfg_from_fact which)
{
	return from->facts[which].said ? &from->facts[which] : NULL;
}

static bool is_on(const struct cfg_from *from, enum cfg_from_fact which)
{
	return from->facts[which].said && from->facts[which].value == 1;
}

static struct est_request *request_of(const struct cfg_from *from)
{
	return &from->reader->ret->request;
}

static bool is_named(const struct cfg_from *from, const char *field)
{
	return est_request_names(request_of(from), field);
}

static bool put_number(struct cfg_from *from, const char *field, int64_t value, const char *pointer)
{
	char text[32];

	snprintf(text, sizeof(text), "%lld", (long long)value);
	return cfg_from_put(from, field, text, pointer);
}

/* a x b, which may be more than there is a number for. */
static void put_product(struct cfg_from *from, const char *field, int64_t a, int64_t b, const char *pointer)
{
	int64_t product;

	if (__builtin_mul_overflow(a, b, &product))
		est_fault_add(from->reader->faults, pointer, EST_OUT_OF_RANGE, "asks for more ranks than there can be");
	else
		put_number(from, field, product, pointer);
}

static void fault(struct cfg_from *from, const char *pointer, const char *detail)
{
	est_fault_add(from->reader->faults, pointer, EST_CONTRADICTION, "%s", detail);
}

/* ---- method */

static const struct cfg_from_format *trainer_of(const struct cfg_from *from)
{
	size_t i;

	for (i = CFG_FORMATS; i-- > 0;)
		if (from->read[i] && cfg_from_formats[i]->framework)
			return cfg_from_formats[i];
	return NULL;
}

static void put_bits(struct cfg_from *from, const struct cfg_fact *bits)
{
	if (bits)
		put_number(from, "quantization.bits", bits->value, bits->pointer);
}

void cfg_from_conclude_method(struct cfg_from *from)
{
	const struct cfg_fact *adapter = fact_of(from, CFG_ADAPTER), *bits = fact_of(from, CFG_BITS);
	const struct cfg_from_format *trainer = trainer_of(from);
	bool by_default = trainer == &cfg_from_llama_factory; /* its finetuning_type is lora */
	int64_t method = adapter ? adapter->value : by_default ? EST_LORA : EST_FULL;

	if (bits && !adapter && !by_default && is_named(from, "method"))
		put_bits(from, bits);
	else if (bits && method != EST_LORA && method != EST_QLORA)
		fault(from, bits->pointer, "quantises the base, which is done with adapters only");
	else if (bits) {
		cfg_from_put(from, "method", "qlora", bits->pointer);
		put_bits(from, bits);
	} else if (adapter)
		cfg_from_put(from, "method", est_word_name(est_method_words, (int)method), adapter->pointer);
	else if (trainer)
		cfg_from_assume(from, "method", est_word_name(est_method_words, (int)method),
				by_default ? "the default of LLaMA-Factory's finetuning_type" : "Axolotl trains all without an adapter");
}

/* ---- how many GPUs */

static int64_t model_ranks(const struct cfg_from *from)
{
	const struct est_parallelism *p = &request_of(from)->parallelism;

	return p->tensor * p->pipeline * p->context;
}

/* accelerate writes both sizes, of which one is 1. */
static void conclude_context(struct cfg_from *from)
{
	const struct cfg_fact *ring = fact_of(from, CFG_RING), *ulysses = fact_of(from, CFG_ULYSSES);
	bool exchanges = ulysses && ulysses->value != 1;

	if (exchanges && put_number(from, "parallelism.context", ulysses->value, ulysses->pointer))
		cfg_from_put(from, "parallelism.context_backend", "ulysses", ulysses->pointer);
	if (ring && (ring->value != 1 || !exchanges))
		put_number(from, "parallelism.context", ring->value, ring->pointer);
}

/* Replicas x shards of a device mesh are the data-parallel ranks. */
static void conclude_gpus(struct cfg_from *from)
{
	const struct cfg_fact *replicas = fact_of(from, CFG_REPLICAS), *shards = fact_of(from, CFG_SHARDS);
	const struct cfg_fact *nodes = fact_of(from, CFG_NODES);
	const struct est_parallelism *p = &request_of(from)->parallelism;
	bool of_torch = p->context_backend == EST_RING; /* of DeepSpeed's sequences accelerate makes no mesh */

	if (of_torch && shards && shards->value > 0 && shards->value <= 65536 && (!replicas || replicas->value <= 65536)) {
		int64_t ranks = shards->value * (replicas && replicas->value > 0 ? replicas->value : 1);

		put_product(from, "parallelism.gpus", ranks, model_ranks(from), shards->pointer);
	}
	if (nodes && nodes->value > 0 && is_named(from, "parallelism.gpus") && p->gpus % nodes->value == 0)
		put_number(from, "parallelism.gpus_per_node", p->gpus / nodes->value, nodes->pointer);
}

/* train_batch_size = micro-batch x accumulation x data-parallel ranks: the one that is missing follows from the
 * others, and without accumulation there is none. */
static void conclude_batch(struct cfg_from *from)
{
	const struct cfg_fact *batch = fact_of(from, CFG_TRAIN_BATCH);
	struct est_request *request = request_of(from);
	bool micro = is_named(from, "micro_batch_size"), steps = is_named(from, "gradient_accumulation_steps");
	bool gpus = is_named(from, "parallelism.gpus");
	int64_t ranks = request->parallelism.gpus / model_ranks(from), known;

	if (!batch)
		return;
	ranks = ranks > 0 ? ranks : 1;
	known = (micro ? request->micro_batch_size : 1) * (gpus ? ranks : 1);
	if (steps || !micro || !gpus)
		known *= request->gradient_accumulation_steps;
	if (batch->value < 1 || batch->value % known)
		fault(from, batch->pointer, "is not micro-batch x accumulation x data-parallel ranks of what else is said");
	else if (micro && gpus && !steps)
		put_number(from, "gradient_accumulation_steps", batch->value / known, batch->pointer);
	else if (!micro)
		put_number(from, "micro_batch_size", batch->value / known, batch->pointer);
	else if (!gpus)
		put_product(from, "parallelism.gpus", batch->value / known, model_ranks(from), batch->pointer);
	else if (batch->value != known)
		fault(from, batch->pointer, "is not micro-batch x accumulation x data-parallel ranks");
}

/* ---- what shards */

/* Without a number of ranks there is nothing to share among. */
static bool has_gpus(struct cfg_from *from, const char *pointer)
{
	char place[EST_POINTER_MAX];

	if (is_named(from, "parallelism.gpus"))
		return true;
	snprintf(place, sizeof(place), "%.200s/parallelism/gpus", from->base);
	est_fault_add(from->reader->faults, place, EST_MISSING,
		      "is required: %.150s shares among GPUs, and no file says how many", pointer);
	return false;
}

/* DeepSpeed's own defaults, in place of the "auto" of its integration, where its file leaves a key out. */
static void assume_deepspeed(struct cfg_from *from)
{
	const struct cfg_default *row = cfg_frameworks[EST_DEEPSPEED].defaults;
	char text[32];

	for (; row->field; row++) {
		if (strncmp(row->field, "parallelism.", 12))
			continue;
		snprintf(text, sizeof(text), "%.0f", row->value);
		cfg_from_assume(from, row->field, text, row->source);
	}
}

static void conclude_zero(struct cfg_from *from, const struct cfg_fact *stage)
{
	static const char *const words[] = { NULL, "zero1", "zero2", "zero3" };

	if (stage->value < 1 || stage->value > 3) {
		est_fault_add(from->reader->faults, stage->pointer, EST_NOT_SUPPORTED_YET,
			      "must be 1, 2 or 3: DeepSpeed's optimizers without ZeRO are not modelled");
		return;
	}
	if (!has_gpus(from, stage->pointer))
		return;
	cfg_from_put(from, "parallelism.strategy", words[stage->value], stage->pointer);
	assume_deepspeed(from);
}

/* FSDP2: reshards or not; HYBRID_SHARD or a mesh with replicas is hsdp. */
static void conclude_fsdp2(struct cfg_from *from, const struct cfg_fact *on, const struct cfg_fact *sharding)
{
	const struct cfg_fact *replicas = fact_of(from, CFG_REPLICAS), *shards = fact_of(from, CFG_SHARDS);
	bool hybrid = (replicas && replicas->value > 1) || (sharding && sharding->value == CFG_HYBRID_SHARD);

	if (sharding && sharding->value == CFG_NO_SHARD)
		fault(from, sharding->pointer, "is of FSDP1 alone");
	else if (sharding && sharding->value != CFG_HYBRID_SHARD)
		cfg_from_put(from, "parallelism.reshard_after_forward", sharding->value == CFG_FULL_SHARD ? "true" : "false",
			     sharding->pointer);
	cfg_from_put(from, "parallelism.strategy", hybrid ? "hsdp" : "fsdp", on->pointer);
	if (hybrid && shards)
		put_number(from, "parallelism.shard_size", shards->value, shards->pointer);
}

static void conclude_fsdp1(struct cfg_from *from, const struct cfg_fact *on, const struct cfg_fact *sharding)
{
	bool whole = sharding && sharding->value == CFG_NO_SHARD;

	if (sharding && sharding->value == CFG_HYBRID_SHARD) {
		est_fault_add(from->reader->faults, sharding->pointer, EST_NOT_SUPPORTED_YET,
			      "FSDP1's hybrid sharding is not modelled: FSDP2's is");
		return;
	}
	cfg_from_put(from, "parallelism.strategy", whole ? "ddp" : "fsdp1", on->pointer);
	if (sharding && !whole)
		cfg_from_put(from, "parallelism.reshard_after_forward", sharding->value == CFG_FULL_SHARD ? "true" : "false",
			     sharding->pointer);
}

static void conclude_fsdp(struct cfg_from *from, const struct cfg_fact *on)
{
	const struct cfg_fact *version = fact_of(from, CFG_FSDP_VERSION), *sharding = fact_of(from, CFG_SHARDING);
	const struct cfg_fact *offload = fact_of(from, CFG_FSDP_OFFLOAD), *checkpoints = fact_of(from, CFG_FSDP_CHECKPOINTS);
	bool second = version ? version->value == 2 : !strcmp(on->format->fsdp_version, "2");

	if (!has_gpus(from, on->pointer))
		return;
	second ? conclude_fsdp2(from, on, sharding) : conclude_fsdp1(from, on, sharding);
	if (is_on(from, CFG_FSDP_OFFLOAD)) {
		cfg_from_put(from, "offload.parameters", "cpu", offload->pointer);
		cfg_from_put(from, "offload.optimizer", "cpu", offload->pointer);
	}
	if (is_on(from, CFG_FSDP_CHECKPOINTS))
		cfg_from_put(from, "gradient_checkpointing", "full", checkpoints->pointer);
}

/* accelerate is told of DeepSpeed, and not of the stage */
static bool is_deepspeed(const struct cfg_from *from)
{
	const char *type = json_string_value(json_object_get(from->reader->files[1], "distributed_type"));

	return type && !strcasecmp(type, "DEEPSPEED") && !from->read[0];
}

static void conclude_strategy(struct cfg_from *from)
{
	const struct cfg_fact *stage = fact_of(from, CFG_STAGE), *on = fact_of(from, CFG_FSDP_ON);
	bool trains = from->read[1] || from->read[2] || from->read[3] || from->read[4];

	if (on && !on->value)
		on = NULL;
	if (!stage && is_deepspeed(from))
		est_fault_add(from->reader->faults, "/from/accelerate/deepspeed_config/zero_stage", EST_MISSING,
			      "is required with distributed_type DEEPSPEED, or from.deepspeed");
	if (stage && on)
		est_fault_add(from->reader->faults, on->pointer, EST_CONTRADICTION, "asks for FSDP where %.150s asks for DeepSpeed",
			      stage->pointer);
	else if (stage)
		conclude_zero(from, stage);
	else if (on)
		conclude_fsdp(from, on);
	else if (trains && request_of(from)->parallelism.gpus > model_ranks(from))
		cfg_from_assume(from, "parallelism.strategy", "ddp", "no file shards, and so accelerate runs DDP");
}

/* ---- precision */

enum kind { BF16, FP16, FP32 };

static enum kind kind_of(enum est_precision precision)
{
	if (precision == EST_PURE_FP32)
		return FP32;
	return precision == EST_FP16_MASTER || precision == EST_FP16_MIXED || precision == EST_PURE_FP16 ? FP16 : BF16;
}

/* Accelerate makes trainable parameters fp32 under FSDP with mixed precision (fsdp_utils.py); else the Trainer takes
 * them as they were loaded, which since Transformers 5 is the checkpoint's type. */
static const char *mixed_word(const struct cfg_from *from, enum kind kind)
{
	const struct est_request *request = request_of(from);
	const struct cfg_fact *loaded = fact_of(from, CFG_LOADED);
	bool old = request->versions.transformers && request->versions.transformers < 5000;
	bool whole = request->method == EST_FULL || request->method == EST_FREEZE;

	if (kind == FP16)
		return "fp16_mixed";
	if (!whole || request->parallelism.strategy >= EST_FSDP || (loaded ? loaded->value == EST_FP32 : old))
		return "bf16_mixed";
	return "bf16_autocast";
}

static void put_precision(struct cfg_from *from, const struct cfg_fact *said, enum kind kind)
{
	static const char *const master[] = { "bf16_master", "fp16_master", "fp32" };
	static const char *const pure[] = { "bf16", "fp16", "fp32" };
	const struct est_request *request = request_of(from);
	const struct cfg_fact *loaded = fact_of(from, CFG_LOADED);
	/* A trainer with defaults of its own loads and casts in its own way. */
	bool own = kind == BF16 && request->framework != EST_TRANSFORMERS && !loaded;

	if (is_named(from, "precision")) {
		if (kind_of(request->precision) != kind)
			est_fault_add(from->reader->faults, said->pointer, EST_CONTRADICTION, "says %s where /precision says %s",
				      pure[kind], est_word_name(est_precision_words, (int)request->precision));
	} else if (fact_of(from, CFG_STAGE)) {
		cfg_from_put(from, "precision", master[kind], said->pointer);
	} else if (is_on(from, CFG_PURE)) {
		cfg_from_put(from, "precision", pure[kind], said->pointer);
	} else if (kind == FP32) {
		cfg_from_assume(from, "precision", loaded && loaded->value == EST_BF16 ? "bf16" : "fp32",
				"no 16-bit arithmetic is asked for; name bf16 when the model is loaded in it");
	} else if (!own || request->parallelism.strategy >= EST_FSDP) {
		cfg_from_assume(from, "precision", mixed_word(from, kind),
				"16-bit arithmetic over parameters as accelerate leaves them; bf16_mixed is over fp32 ones");
	}
}

static void conclude_precision(struct cfg_from *from)
{
	const struct cfg_fact *bf16 = fact_of(from, CFG_BF16), *fp16 = fact_of(from, CFG_FP16),
		*stage = fact_of(from, CFG_STAGE);

	if (is_on(from, CFG_BF16) && is_on(from, CFG_FP16))
		est_fault_add(from->reader->faults, fp16->pointer, EST_CONTRADICTION, "must not be on beside %.150s", bf16->pointer);
	else if (is_on(from, CFG_FP16))
		put_precision(from, fp16, FP16);
	else if (is_on(from, CFG_BF16))
		put_precision(from, bf16, BF16);
	else if (is_on(from, CFG_PURE))
		put_precision(from, fact_of(from, CFG_PURE), BF16);
	else if (bf16 || fp16)
		put_precision(from, bf16 ? bf16 : fp16, FP32);
	else if (stage && !is_named(from, "precision") && request_of(from)->method != EST_FULL)
		cfg_from_assume(from, "precision", "bf16_master", "DeepSpeed holds fp32 copies of what is trained");
}

void cfg_from_conclude(struct cfg_from *from)
{
	conclude_context(from);
	conclude_gpus(from);
	conclude_batch(from);
	conclude_strategy(from);
	conclude_precision(from);
}
