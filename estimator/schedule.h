/* Sharding as a schedule around units: what a rank holds at rest, and what happens before and after a unit's forward and backward.
 * The layers do not know of it: their parameters are leaves without memory of their own, whose units the schedule gathers
 * and frees. A strategy is one row of functions; est_pass calls the five entry points below. */
#ifndef EST_SCHEDULE_H
#define EST_SCHEDULE_H

#include "estimator/model.h"
#include "estimator/request.h"
#include "estimator/tape.h"

/* What is gathered and reduced together. Unit 0 has the embedding (and everything else outside the layers, where that is one
 * group), units 1 to L the layers, unit L + 1, if any, the final norm and the head, one more, if any, what only the model itself has:
 * the final norm that accelerate does not find within an adapted model or one that sees, with what is beside the blocks of its
 * tower. Units of adapters (FSDP1), of experts and of those blocks come behind them. */
struct est_unit {
	struct est_leaf *first;        /* its sharded parameters, in the order of the modules: a list by est_leaf.next */
	uint64_t numel;                /* gathered elements, with the padding of shards */
	uint64_t bytes;                /* FSDP2: that these take, each in its parameter's dtype */
	uint64_t trained;              /* those of them whose gradients are reduced */
	uint64_t cast;                 /* elements of a rank's shards that are of another dtype than what is gathered */
	uint32_t gathered;             /* storage of the all-gather's output; 0: none */
	uint64_t ranks;                /* that share its parameters */
	unsigned nested;               /* the unit of the experts within this layer, or 0 */
	bool within;                   /* it is such a one */
	bool cuts_rows;                /* its matrices lie in stacks, and are cut along their rows, not by matrix */
	bool sleeps;                   /* no forward calls it: what reads its parameters gathers them by itself (est_schedule_read()) */
	bool unsharded, reduced;
	bool has_run, awaits_backward; /* in this micro-batch's forward; where its result has a gradient */
	unsigned previous;             /* the unit whose forward ended before, or EST_NO_UNIT */
	struct est_tensor gradient;    /* sharded, from its reduction to zero_grad() */
	struct est_tensor all_reduced; /* HSDP: what the replicas sum, to the end of the backward */
	uint8_t shard_element;         /* bytes of an element of what is trained at rest; FSDP1: of the flat parameter */
	uint8_t gathered_element;      /* FSDP1: of the flat parameter as it is gathered */
	uint8_t reduced_element;       /* FSDP2: of a reduction */
	uint32_t flat;                 /* FSDP1: storage of the gathered flat parameter; 0: it is not gathered */
	struct est_tensor replaced;    /* FSDP1: the shard before it was cast, which parameters show until the first forward */
	struct est_tensor unreduced;   /* FSDP1: gradient of the flat parameter until it is reduced */
};

enum { EST_NO_UNIT = INT32_MAX };

struct est_schedule;

/* A strategy; each function acts on one unit. */
struct est_strategy_row {
	void (*before_forward)(struct est_schedule *schedule, unsigned unit);
	void (*after_forward)(struct est_schedule *schedule, unsigned unit);
	void (*before_backward)(struct est_schedule *schedule, unsigned unit);
	void (*after_backward)(struct est_schedule *schedule, unsigned unit);
	/* outside of forward and backward, as a pipeline's stages ask for it (FSDPModule.unshard(), .wait(), .reshard());
	 * NULL where no stages are */
	void (*gather)(struct est_schedule *schedule, unsigned unit);
	void (*await)(struct est_schedule *schedule, unsigned unit);
	void (*release)(struct est_schedule *schedule, unsigned unit);
	/* of a whole micro-batch, and of each forward in it; NULL where units are all there is */
	void (*begin)(struct est_schedule *schedule);
	void (*begin_forward)(struct est_schedule *schedule);
	void (*end)(struct est_schedule *schedule);
	/* the unit's input requires a gradient, which is to come back to after_backward(); or NULL */
	void (*entered)(struct est_schedule *schedule, unsigned unit);
};

struct est_zero3;

struct est_schedule {
	const struct est_strategy_row *row;
	struct est_tape *tape;
	const struct est_request *request;
	uint64_t ranks;                /* that share a parameter */
	bool offloads;                 /* CPUOffloadPolicy: shards and their gradients lie on the host */
	bool replicates;               /* HSDP: groups of ranks hold the same shards */
	uint8_t gathered_element, reduced_element;
	bool rehearses;                /* the first micro-batch of all runs otherwise than the others */
	bool syncs;                    /* this micro-batch's backward reduces (no_sync() otherwise) */
	bool stays_gathered;           /* and leaves what it gathered to the next one's forward: a pipeline's stage */
	struct est_unit *units;
	unsigned unit_count, layers;
	bool embeds_apart;             /* the embedding is a unit of its own; else it has the head, or all that is beside the layers */
	bool has_tail;                 /* so are final norm and head together */
	bool norm_is_roots;            /* but for the norm, which is the root's */
	bool head_is_roots;            /* but for the head, which is of scores */
	bool has_root;                 /* the model itself has something that is in no other unit */
	bool evaluates;                /* a model that is only evaluated, one unit as a whole (schedule_reference.c) */
	unsigned passes;               /* forwards since the last backward */
	unsigned asleep;               /* the first of the units that no batch gathers here: a vision tower's blocks, or 0 */
	unsigned blocks;               /* how many are the tower's; behind them come layers that look at images */
	bool wraps_blocks;             /* they are units, not the root's */
	bool layers_are_roots;         /* and so are the layers': PEFT's policy, which FSDP2 does not know */
	bool leaves_at_loss;           /* unit 0 is the model itself, or the head is not called: its backward begins at the loss, not at
					* the logits, or at what a trainer makes the loss of */
	uint32_t *unit_of_module;      /* modules within a layer that are units of their own: FSDP1's adapters, experts; 0: none */
	bool prefetches_forward;       /* each unit says which is gathered ahead of its turn in the forward too */
	unsigned last_run;             /* the unit whose forward ended last, or EST_NO_UNIT */
	struct est_zero3 *zero3;       /* ZeRO-3, whose units are modules; or NULL */
	uint32_t held_gather;          /* all-gather output of the last unit, kept until the next has been copied out */
	uint32_t held_reduction;       /* input of the last reduce-scatter, kept until the next */
};

/* Whether the request's strategy has a schedule (others are static shares of the categories). */
bool est_schedule_wanted(const struct est_request *request);

/* Cuts the leaves of the tape from first_leaf on, made without memory, into units and shards; allocates what the rank holds at rest. Each leaf names
 * its unit. Returns the bytes of a gathered parameter's element; the tape is exhausted when the arena is too small. */
uint8_t est_schedule_init(struct est_schedule *schedule, struct est_tape *tape, uint32_t first_leaf,
			  const struct est_model *model, const struct est_request *request);

/* schedule_reference.c: the same of a reference model, only evaluated, beside the one that schedule is of. */
uint8_t est_schedule_init_reference(struct est_schedule *reference, const struct est_schedule *schedule, uint32_t first_leaf,
				    const struct est_model *model);

/* schedule_read.c: a parameter as code reads it that does not call its module, whose unit may sleep. */
struct est_tensor est_schedule_read(const struct est_schedule *schedule, struct est_tape *tape, uint32_t leaf);

/* Losses that read the head's weight, Liger's, TRL's and cut cross-entropy: the head is not called. FSDP2 completes its unit when
 * the model returns (_force_complete_incomplete_states()). */
bool est_schedule_fuses_head(const struct est_request *request);

/* Around a unit's forward, in the order of the code; schedule may be NULL, and then x and y come back as they are.
 * enter: x, borrowed, as the unit sees it (held). leave: y, temporary or held, as it leaves the unit. */
struct est_tensor est_schedule_enter(struct est_schedule *schedule, unsigned unit, struct est_tensor x);
struct est_tensor est_schedule_leave(struct est_schedule *schedule, unsigned unit, struct est_tensor y);
/* A unit without an input that requires a gradient: the embedding. */
void est_schedule_begin(struct est_schedule *schedule, unsigned unit);
/* A micro-batch begins; a forward of the model; the root's forward has returned; the backward is over; gradients are set to None. */
void est_schedule_micro_begin(struct est_schedule *schedule);
void est_schedule_forward_begin(struct est_schedule *schedule);
void est_schedule_forward_end(struct est_schedule *schedule);
void est_schedule_backward_end(struct est_schedule *schedule);
void est_schedule_zero_grad(struct est_schedule *schedule);
/* Reduces all units' gradients at once, after the last backward of those that did not. */
void est_schedule_reduce(struct est_schedule *schedule);

/* All units are asked for at once; have come; go. */
void est_schedule_gather(struct est_schedule *schedule);
void est_schedule_await(struct est_schedule *schedule);
void est_schedule_release(struct est_schedule *schedule);

/* Whether what the model returns is cast to 16 bits again: MixedPrecisionPolicy.output_dtype of FSDP2. schedule may be NULL. */
bool est_schedule_casts_outputs(const struct est_schedule *schedule);

/* Whether reentrant checkpoints lie around the layers' units, not inside of them. (Others do the same in both places.) */
bool est_unit_is_checkpointed(const struct est_schedule *schedule);

/* What is built beside the layers is so many units beyond the last of them, until the schedule tells its unit: a tower's blocks
 * behind what it has beside them. */
enum { EST_BUILT_NORM = 1, EST_BUILT_HEAD, EST_BUILT_TOWER };

/* Units by what they hold; those of the final norm and of the head are 0 where they are no units of their own. */
static inline unsigned est_unit_of_layer(int64_t layer)
{
	return 1 + (unsigned)layer;
}
unsigned est_unit_of_tail(const struct est_schedule *schedule);
bool est_tail_has_norm(const struct est_schedule *schedule);
unsigned est_unit_of_root(const struct est_schedule *schedule); /* what only the model itself has; 0 where that is the embedding's too */
unsigned est_unit_of_output(const struct est_schedule *schedule); /* whose backward begins at what the model returns */

/* fsdp1.c: makes units of adapters, where PEFT's policy does; how many. Cuts all units, whose leaves are joined, as flat parameters. */
unsigned est_fsdp1_name_adapters(struct est_schedule *schedule);
void est_fsdp1_shard(struct est_schedule *schedule);

/* schedule_experts.c: makes units of experts over expert-parallel ranks; how many. Says, before leaves join their units, what they are within. */
unsigned est_schedule_name_experts(struct est_schedule *schedule);
void est_schedule_nest_experts(struct est_schedule *schedule, const struct est_model *model);

/* schedule_tower.c: makes units of a tower's blocks, behind all others. The unit of what was built as the so manieth block; 0: as none. */
void est_schedule_name_blocks(struct est_schedule *schedule, const struct est_model *model);
unsigned est_schedule_unit_of_tower(const struct est_schedule *schedule, unsigned block);

/* Makes the shards of a unit's leaves, and says what it gathers and reduces. */
void est_schedule_shard(struct est_schedule *schedule, unsigned number);

/* fsdp2.c, fsdp1.c, zero3.c */
extern const struct est_strategy_row est_fsdp2, est_fsdp1, est_zero3_row;

#endif
