/* A miniature of PyTorch's autograd on tensors without data.
 *
 * A tensor is a handle on a storage (bytes and a reference count). Operators (ops.h) make output tensors, and a node when
 * some input requires a gradient; the node keeps references to what its backward needs. est_tape_backward() runs the nodes in
 * reverse order of creation, which is the order of PyTorch's engine (ready nodes by sequence number), and accumulates
 * gradients by its rules. Every allocation and release becomes an event; replay.c plays them through the allocator.
 *
 * Lifetimes are those of the Python code that is mirrored. An operator's result is *temporary*: the next operator that takes
 * it releases it when it returns, as Python does with the value of an inner expression. est_hold() makes it a variable, to be
 * given up by est_drop() (Python's del, or the end of the function).
 */
#ifndef EST_TAPE_H
#define EST_TAPE_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "estimator/arena.h"
#include "estimator/report.h"

enum { EST_NODE_INPUTS = 5, EST_NODE_OUTPUTS = 4, EST_NODE_SAVED = 10, EST_NODE_EXTRA = 8 };

enum est_event_kind { EST_EVENT_ALLOC, EST_EVENT_FREE, EST_EVENT_PHASE };

/* An edge names where a gradient goes: 1 + 4 * node + output, or a leaf with the top bit set. */
#define EST_EDGE_LEAF UINT32_C(0x80000000)

struct est_event {
	uint64_t bytes;    /* of the storage, rounded up to 512 */
	uint32_t id;       /* which storage: ids are reused after EST_EVENT_FREE. EST_EVENT_PHASE: enum est_phase */
	/* EST_EVENT_PHASE: bytes is 0, or 1 + the layer that runs from here on (est_tape.marks_layers) */
	uint8_t kind;
	uint8_t category;  /* enum est_category */
	uint8_t stream;    /* whose pool it comes from */
};

/* Dtypes, named by the bytes of an element. EST_OTHER_16BIT is bf16 under fp16 autocast, or fp16 under bf16: it has two bytes too,
 * autocast casts it, and with EST_16BIT it promotes to fp32. */
enum est_element { EST_BYTE = 1, EST_16BIT = 2, EST_OTHER_16BIT = 3, EST_32BIT = 4, EST_INT64 = 8 };

static inline uint64_t est_element_bytes(uint8_t element)
{
	return element == EST_OTHER_16BIT ? 2 : element;
}

static inline bool est_is_16bit(uint8_t element)
{
	return element == EST_16BIT || element == EST_OTHER_16BIT;
}

struct est_tensor {
	uint64_t numel;
	uint32_t storage;      /* 0: no memory (beyond an early stop) */
	uint32_t source;       /* where its gradient goes: an edge, see est_node; 0: nowhere */
	uint8_t element;       /* its dtype: enum est_element */
	bool requires_grad;
	bool view;             /* a gradient that is a view of a living base: cannot be added to in place */
	bool distributed;      /* a gradient that is a DTensor: neither can the engine, of a subclass */
	bool temporary;
};

struct est_tape;
struct est_node;
struct est_repeat;

/* One kind of operator: backward turns the gradients of the outputs (node->grad[], owned by the engine) into those of the
 * inputs: ret[i] for every input i with node->edge[i], new references or moved ones (est_node_take_grad()). */
struct est_op {
	const char *name;
	void (*backward)(struct est_tape *tape, struct est_node *node, struct est_tensor ret[]);
};

struct est_node {
	const struct est_op *op;
	uint32_t edge[EST_NODE_INPUTS];           /* gradient destinations of the inputs; 0: none */
	uint8_t edge_element[EST_NODE_INPUTS];    /* dtype of the input: a gradient of another dtype is cast */
	uint64_t edge_numel[EST_NODE_INPUTS];
	struct est_tensor grad[EST_NODE_OUTPUTS]; /* input buffer: what has arrived for each output */
	uint32_t saved[EST_NODE_SAVED];           /* storages, or indices of frame's when frame is set */
	uint8_t saved_count;
	bool backwards;                           /* the gradient of the last input is used first */
	bool distributed;                         /* runs on DTensors */
	uint16_t layer;                           /* 1 + the layer that it is of; 0: of none */
	uint32_t frame;                           /* checkpoint frame + 1; 0: saved holds storages */
	uint64_t extra[EST_NODE_EXTRA];           /* shapes, as the operator likes */
	const void *context;
};

/* A leaf: a parameter, or the detached input of a checkpoint. */
struct est_leaf {
	struct est_tensor value;
	struct est_tensor grad;     /* .grad; storage 0: None */
	struct est_tensor arrived;  /* input buffer of AccumulateGrad */
	struct est_tensor cast;     /* autocast's cached 16-bit copy; storage 0: none */
	uint32_t uses;              /* edges of the running graph that still have to arrive */
	bool parameter;             /* its gradient counts as one; a checkpoint's input is none */
	bool of_4bit;               /* a bias beside a weight of 4 bits */
	bool packed;                /* such a weight, in whatever type it is stored */
	bool idle;                  /* a parameter that the forward does not run: it requires a gradient, and none comes */
	bool reference;             /* of a reference model: it would require a gradient, but is only used without */
	uint64_t rows;              /* of a matrix, as its module shapes it; of all matrices of a stack; 0: a vector */
	uint64_t stack;             /* how many matrices lie in a 3-D parameter of experts; 0: it is none */
	bool inner;                 /* a matrix within a decoder layer: no embedding, no head */
	bool linear;                /* and of an nn.Linear of attention or an MLP: no router */
	uint32_t module;            /* whose parameter it is: numbers are given in the order of construction, see est_module_hooks */
	uint32_t mixture;           /* the block of a mixture of experts that it is part of, a module; 0: of none */
	uint32_t adapts;            /* of an adapter: the module that it adapts; else 0 */
	uint32_t shared_with;       /* another module that reads it: the head where it is tied; 0: none */
	/* of a sharded model (schedule.h) */
	uint32_t unit;              /* what it is gathered with */
	struct est_leaf *next;      /* of the same unit, or NULL */
	uint64_t shard;             /* elements of this rank's part */
	uint8_t shard_element;      /* bytes of one; 0: the parameter is whole */
	uint8_t ungathered_element; /* of a parameter that shows its shard, until it is gathered (FSDP1); 0: it does not */
	bool on_host;               /* the shard, its gradient and the optimizer are */
	uint32_t unsharded;         /* storage of the gathered parameter; 0: it is not gathered */
	uint32_t copy;              /* of it, its shard or its gradient, while the unit is gathered or reduced; or 0 */
	uint64_t offset, ours;      /* of a flat parameter: elements before this leaf, and of it in this rank's part (zero.h) */
	bool dragged;               /* frozen, but part of a flat parameter that is trained (FSDP1): gradients come, and are not stepped */
	bool reached;               /* its gradient has come in some micro-batch: what no forward runs has none (zero.h) */
	bool flat;                  /* stepped as a vector, whatever its shape: it lies in a flat parameter */
	bool folded;                /* stepped with that flat parameter, whose first leaf has the rank's part as its shard */
	uint64_t parts;             /* tensor-parallel ranks that hold a part each; 0: they hold the whole */
	bool unsummed;              /* a rank's gradient is that of its part of the sequence: summed in the step */
	bool deferred;              /* stepped after all others: a later sub-group (zero3.h) */
	struct est_tensor accumulated; /* gradient of micro-batches that were not reduced, in the dtype of the reduction */
};

static inline bool est_is_trained(const struct est_leaf *leaf)
{
	return leaf->parameter && leaf->value.requires_grad;
}

/* Keys and values that a layer leaves for those behind it, and the storages that the graph behind them holds when a checkpoint has
 * recomputed them: in its forward it holds none. */
enum { EST_STATES_HOLD = 128 };
struct est_shared_entry {
	struct est_tensor key, value;
	uint32_t graph[EST_STATES_HOLD];
	uint32_t graph_count;
};

/* A dictionary of them, by the kind of layer. Whoever was given it keeps it alive, and with it what lies in it last. */
struct est_shared_states {
	struct est_shared_entry entries[2];
	struct est_shared_entry next; /* that is being made */
	bool makes;                   /* what nodes hold is of its graph */
	struct est_shared_entry *stored; /* by the call that runs; or NULL */
	uint32_t holders;
};

/* What torch.utils.checkpoint is called with: function(context, input, argument); second is another positional argument, to which a
 * gradient may go too (est_tape.second while the function runs), or none; kwargs are the tensors that the call keeps alive beside
 * them (cos, sin, masks), states a dictionary (est_tape.states), or NULL. */
enum { EST_CALL_KWARGS = 6 };
struct est_call {
	struct est_tensor (*function)(void *context, struct est_tensor input, const void *argument);
	void *context;
	const void *argument;
	struct est_tensor second;
	struct est_tensor kwargs[EST_CALL_KWARGS];
	struct est_shared_states *states;
};

/* What selective checkpointing keeps (torch.utils.checkpoint.create_selective_checkpoint_contexts), and of what operators it
 * may keep the result. */
enum est_policy { EST_KEEP_NOTHING, EST_KEEP_OP, EST_KEEP_ATTENTION, EST_KEEP_ALL_MATMUL };
enum est_result { EST_RESULT_OF_MATMUL, EST_RESULT_OF_ATTENTION };
enum { EST_KEPT = 64 }; /* DoRA on eight linear layers makes six products of each */

/* One non-reentrant checkpoint: what its forward saved by position, recomputed on the first demand. */
struct est_frame {
	struct est_call call;
	struct est_tensor input;
	uint32_t *saved;            /* storages after the recomputation, taken one by one */
	uint32_t count;             /* how many the forward saved */
	uint32_t released;          /* how many of them the backward is done with */
	bool recomputed, autocast;
	uint32_t kept[EST_KEPT];    /* results that the policy keeps, in order; the recomputation takes them instead of running */
	uint8_t kept_count, kept_taken;
	uint8_t matmuls;            /* how many have run in the forward, or in the recomputation */
};

struct est_storage {
	uint64_t bytes;
	uint32_t references;        /* 0: free; next then links the list of free ids */
	uint32_t next;
	enum est_category category;
};

/* What is called around the calls of modules (nn.Module.register_forward_pre_hook() and its kin), x being what goes in, y what comes
 * out: both come back, perhaps as outputs of a node. */
struct est_module_hooks {
	void *context;
	void (*begin)(void *context, uint32_t module);
	struct est_tensor (*enter)(void *context, uint32_t module, struct est_tensor x);
	struct est_tensor (*leave)(void *context, uint32_t module, struct est_tensor y);
};

enum { EST_DOOMED = 16 };

struct est_tape {
	struct est_arena *arena;
	struct est_event *events;
	size_t event_count, event_limit;
	struct est_storage *storages;
	uint32_t storage_count, storage_limit, storage_free;
	struct est_node *nodes;
	uint32_t node_count, node_limit;
	struct est_node scratch;    /* stands for the nodes of a recomputation, which are not kept */
	struct est_leaf *leaves;
	uint32_t leaf_count, leaf_limit;
	uint32_t cast_begin, cast_end; /* leaves outside of this range hold no cast */
	struct est_frame *frames;
	uint32_t frame_count, frame_limit;
	uint32_t *frame_saves;      /* pool of est_frame.saved */
	size_t frame_save_count, frame_save_limit;

	/* register_post_accumulate_grad_hook of every parameter; NULL: none */
	void (*accumulated)(struct est_tape *tape, struct est_leaf *leaf, const void *context);
	const void *accumulated_context;
	struct est_module_hooks hooks; /* begin NULL: none */
	uint32_t module, modules;   /* of the leaves to come; how many there are */
	bool zero3;                 /* F.linear is DeepSpeed's autograd function, and a parameter that is freed gets other memory: what was
				     * detached of it before stays */
	unsigned backwards;         /* how many run, one in the other */
	bool keeps_boundaries;      /* inputs of reentrant checkpoints, and their gradients, stay to the end of the backward (FSDP1's hooks) */
	enum est_policy policy;     /* of the checkpoints to come */
	bool offloads;              /* their inputs wait on the host (save_on_cpu) and come back for the recomputation */
	struct est_tensor staging;  /* where they come back to, when that is always the same */
	uint64_t pinned;            /* bytes of host memory that they take */
	bool no_grad;               /* torch.no_grad() */
	bool autocast;              /* inside an autocast region */
	bool halves;                /* EST_16BIT is fp16 */
	bool distributed;           /* operators run on DTensors */
	bool adapters_off;          /* PEFT's disable_adapter(): linear layers run without theirs */
	uint32_t packing;           /* frame + 1 whose forward runs; saved tensors are only counted */
	uint32_t recomputing;       /* frame + 1 that is being recomputed */
	uint32_t recomputed_saves;
	uint32_t *attributes;       /* storages that python attributes of graph nodes hold: as long as the graph lives */
	uint32_t attribute_count, attribute_limit;
	uint32_t doomed[EST_DOOMED]; /* saved by nodes of the recomputation that lead nowhere; held until they are discarded */
	uint32_t doomed_count;
	struct est_tensor second;   /* of the call that runs (est_call.second) */
	struct est_shared_states *states; /* the same */
	struct est_tensor beside;   /* what a checkpointed call returns beside its result, for its caller to take; or none */
	bool stopped;               /* the recomputation has all it needs: nothing is allocated any more */
	enum est_category category; /* of what operators allocate */
	uint8_t stream;             /* the current CUDA stream */
	bool marks_layers;          /* events say which layer runs: for a drawing of the step */
	uint16_t layer;             /* 1 + the one that runs; 0: none */
	enum est_phase phase;
	uint32_t unit;              /* of the leaves to come */
	uint64_t shards[EST_CATEGORIES]; /* static sharding: a rank holds one part in so many of what is in a category */
	uint64_t host_shards, host_states; /* bytes on the host: shards and their gradients (pinned), the states of their optimizer */
	struct est_repeat *repeat;  /* which layers are not run; NULL: all are (repeat.h) */
	uint64_t managed;           /* bytes of states in managed memory (paged optimizers), outside the allocator */
	bool exhausted;             /* a limit was reached: the trace is not whole */
};

/* How large the tables may grow. */
struct est_tape_limits {
	size_t events;
	uint32_t storages, nodes, leaves, frames, attributes;
	size_t frame_saves;
};

/* Takes all tables from arena. False when it is too small. */
bool est_tape_init(struct est_tape *tape, struct est_arena *arena, const struct est_tape_limits *limits);

/* ---- tensors */

/* A new storage of numel elements: a temporary tensor without a node. */
struct est_tensor est_empty(struct est_tape *tape, uint64_t numel, uint8_t element);
struct est_tensor est_empty_as(struct est_tape *tape, uint64_t numel, uint8_t element, enum est_category category);
/* The same out of the pool of another stream; the current one stays what it is. */
struct est_tensor est_empty_on(struct est_tape *tape, unsigned stream, uint64_t numel, uint8_t element,
			       enum est_category category);
/* The same for what lives as long as the run: its id is never one that a step has used, so that steps can be replayed. */
struct est_tensor est_persistent(struct est_tape *tape, uint64_t numel, uint8_t element, enum est_category category);

/* torch.cuda.empty_cache() after loading, where what is alive has been moved on the way: all events but the allocations of that go. Once
 * only. */
void est_tape_empty_cache(struct est_tape *tape);

extern const struct est_tensor est_none;

static inline void est_storage_retain(struct est_tape *tape, uint32_t storage)
{
	if (storage)
		tape->storages[storage].references++;
}

/* The last reference has gone. */
void est_storage_free(struct est_tape *tape, uint32_t storage);

static inline void est_storage_release(struct est_tape *tape, uint32_t storage)
{
	assert(!storage || tape->storages[storage].references > 0);
	if (storage && --tape->storages[storage].references == 0)
		est_storage_free(tape, storage);
}

/* Another reference to the same storage, gradient included (a view, or a second name): temporary. */
static inline struct est_tensor est_alias(struct est_tape *tape, struct est_tensor tensor)
{
	est_storage_retain(tape, tensor.storage);
	tensor.temporary = true;
	return tensor;
}

/* Without its gradient: temporary. */
static inline struct est_tensor est_detach(struct est_tape *tape, struct est_tensor tensor)
{
	tensor = est_alias(tape, tensor);
	tensor.source = 0;
	tensor.requires_grad = false;
	return tensor;
}

static inline struct est_tensor est_hold(struct est_tensor tensor)
{
	tensor.temporary = false;
	return tensor;
}

/* A variable of numel elements that no operator made. */
static inline struct est_tensor est_variable(struct est_tape *tape, uint64_t numel, uint8_t element)
{
	return est_hold(est_empty(tape, numel, element));
}

/* A variable that no gradient reaches: positions, masks, labels. */
static inline struct est_tensor est_buffer(struct est_tape *tape, uint64_t numel, uint8_t element)
{
	return est_hold(est_empty_as(tape, numel, element, EST_BUFFERS));
}

static inline void est_drop(struct est_tape *tape, struct est_tensor tensor)
{
	est_storage_release(tape, tensor.storage);
}

static inline void est_drop_all(struct est_tape *tape, const struct est_tensor tensors[], unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		est_drop(tape, tensors[i]);
}

/* variable = value: what the variable held goes when the value is there. */
static inline void est_assign(struct est_tape *tape, struct est_tensor *variable, struct est_tensor value)
{
	est_drop(tape, *variable);
	*variable = est_hold(value);
}

/* What an operator does with its argument at its end. */
static inline void est_finish(struct est_tape *tape, struct est_tensor argument)
{
	if (argument.temporary)
		est_drop(tape, argument);
}

/* ---- graph */

/* A node for inputs[0..count) when one requires a gradient and gradients are on, else NULL: then nothing is saved and the output
 * requires none. The caller saves (inputs before it makes the output, as PyTorch does) and sets extra. */
struct est_node *est_node_new(struct est_tape *tape, const struct est_op *op, size_t count, const struct est_tensor *inputs);
/* Keeps a tensor for node's backward. */
void est_save(struct est_tape *tape, struct est_node *node, struct est_tensor tensor);
static inline void est_save_all(struct est_tape *tape, struct est_node *node, const struct est_tensor tensors[], unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		est_save(tape, node, tensors[i]);
}

/* Keeps shapes for node's backward, which may be NULL. */
static inline void est_save_shapes(struct est_node *node, const uint64_t extra[EST_NODE_EXTRA])
{
	for (unsigned i = 0; node && i < EST_NODE_EXTRA; i++)
		node->extra[i] = extra[i];
}

static inline uint32_t est_edge_of(uint32_t node, unsigned output)
{
	return 1 + 4 * node + output;
}

/* out as output i of node (NULL: of nothing): where its gradient goes. Temporary. */
static inline struct est_tensor est_output(const struct est_tape *tape, const struct est_node *node, unsigned i,
					   struct est_tensor out)
{
	out.requires_grad = node != NULL;
	out.source = node && node != &tape->scratch ? est_edge_of((uint32_t)(node - tape->nodes), i) : 0;
	out.temporary = true;
	return out;
}

/* Keeps a tensor as an attribute of a node (ctx.tensors = ..., not save_for_backward): no checkpoint's hook sees it. */
void est_attach(struct est_tape *tape, const struct est_node *node, struct est_tensor tensor);
/* The graph that has been attached to since attribute_count was count is destroyed. */
void est_release_attributes(struct est_tape *tape, uint32_t count);
/* The same of what was attached from first to end, where another graph has been attached to since. */
void est_release_attributes_of(struct est_tape *tape, uint32_t first, uint32_t end);
/* The nodes from first to end lead nowhere (their result was detached) and die: what they saved goes. */
void est_discard_nodes(struct est_tape *tape, uint32_t first, uint32_t end);
/* No gradient reaches the node: what it saved goes, and what its checkpoint would keep for it does not come. */
void est_pass_over(struct est_tape *tape, struct est_node *node);
/* Moves the gradient of output i out of node. */
static inline struct est_tensor est_take_grad(struct est_node *node, unsigned i)
{
	struct est_tensor grad = node->grad[i];

	node->grad[i] = est_none;
	return grad;
}

/* A parameter whose gradient node's backward makes and delivers itself, beside those of its inputs: there are more than fit. */
void est_expect(struct est_tape *tape, const struct est_node *node, uint32_t leaf);
/* Whether anything waits for the gradient of input i. */
static inline bool est_needs(const struct est_node *node, unsigned i)
{
	return node->edge[i] != 0;
}

/* A gradient for input i: storage of input i's size in element bytes; weights' gradients are categorised as such. */
struct est_tensor est_grad_for(struct est_tape *tape, const struct est_node *node, unsigned i, uint8_t element);

/* A leaf over value (its reference moves in), a parameter or a detached input. Returns the leaf's number. */
uint32_t est_leaf_new(struct est_tape *tape, struct est_tensor value, bool requires_grad, bool parameter);
/* The leaf as an operand (borrowed: not temporary). */
static inline struct est_tensor est_leaf_tensor(const struct est_tape *tape, uint32_t leaf)
{
	return tape->leaves[leaf].value;
}

/* The leaf whose value tensor is, or NULL. */
struct est_leaf *est_parameter_of(struct est_tape *tape, struct est_tensor tensor);
/* A view of a parameter, to be saved: it lies in the memory that ZeRO-3 has gathered the parameter into, and keeps that when the
 * parameter is let go of. */
struct est_tensor est_view_of_parameter(struct est_tape *tape, struct est_tensor parameter);

/* ---- modules */

/* Numbers count modules that are built now, and returns the first, whose the leaves to come are. */
uint32_t est_modules_new(struct est_tape *tape, uint32_t count);
/* A module is called with x, and returns y; begin: with nothing that its hooks see a gradient of. */
void est_module_begin(struct est_tape *tape, uint32_t module);
struct est_tensor est_module_enter(struct est_tape *tape, uint32_t module, struct est_tensor x);
struct est_tensor est_module_leave(struct est_tape *tape, uint32_t module, struct est_tensor y);

/* ---- engine */

/* Marks a phase in the events. */
void est_mark(struct est_tape *tape, enum est_phase phase);
/* The layer that runs from here on, counted from 1; 0: none. Of it are the nodes made from here on, and so its backward. */
void est_mark_layer(struct est_tape *tape, unsigned layer);
/* Another gradient (moved) that arrives at root before est_tape_backward(). */
void est_tape_seed(struct est_tape *tape, struct est_tensor root, struct est_tensor grad);
/* Runs the nodes from node_count down to first with grad (moved) arriving at root, then forgets them. */
void est_tape_backward(struct est_tape *tape, uint32_t first, struct est_tensor root, struct est_tensor grad);
/* The same of the graph whose nodes are those from first to end, where others were made since: no node is forgotten. */
void est_tape_backward_of(struct est_tape *tape, uint32_t first, uint32_t end, struct est_tensor root, struct est_tensor grad);
/* Keeps leaf's cast (moved in) until then. */
void est_keep_cast(struct est_tape *tape, struct est_leaf *leaf, struct est_tensor cast);
/* A gradient (moved in) arrives at an edge: of a node that runs later, or of a leaf. */
void est_deliver(struct est_tape *tape, uint32_t edge, struct est_tensor grad);
/* Leaves an autocast region: the cached casts go. */
void est_autocast_exit(struct est_tape *tape);

/* A dictionary without entries, held once; NULL when the arena is too small. */
struct est_shared_states *est_shared_states_new(struct est_tape *tape);
/* What nodes hold that are made from here on is (makes) or is not of the graph behind the next entry. */
void est_share_begin(struct est_tape *tape, bool makes);
/* Puts key and value (borrowed) in the place of what is there. */
void est_share(struct est_tape *tape, struct est_shared_entry *entry, struct est_tensor key, struct est_tensor value);
/* The graph behind an entry holds storage too. */
void est_share_graph(struct est_tape *tape, struct est_shared_entry *entry, uint32_t storage);
/* One holder less (states may be NULL): with the last one the entries go. */
void est_shared_states_drop(struct est_tape *tape, struct est_shared_states *states);

/* Runs the call with input (borrowed), unchecked. */
struct est_tensor est_call_run(struct est_tape *tape, const struct est_call *call, struct est_tensor input);
/* torch.utils.checkpoint: runs the call and keeps only its inputs (borrowed), the kwargs and the states. */
struct est_tensor est_checkpoint(struct est_tape *tape, const struct est_call *call, struct est_tensor input, bool reentrant);
/* The result of an operator, as est_empty() makes it, or, in a recomputation, as the forward kept it by tape->policy. */
struct est_tensor est_result(struct est_tape *tape, enum est_result of, uint64_t numel, uint8_t element);
/* Storage k of a node's saved tensors, recomputing its checkpoint when needed; called by the engine before backward. */
void est_frame_unpack(struct est_tape *tape, struct est_node *node);
/* count of a frame's saved tensors are done with; with the last one the checkpoint's input and kwargs go. */
void est_frame_release(struct est_tape *tape, uint32_t frame, uint32_t count);

#endif
