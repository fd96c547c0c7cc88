/* TRL 1.16's fused head: trl/trainer/utils.py (add_fused_lm_head) and trl/kernels/chunked_logprob.py. */
#include "estimator/loss.h"
#include "estimator/router_loss.h"

enum { TILE_POSITIONS = 4096, TILE_COLUMNS = 32768 };

/* Indices of est_node.extra: the product's shape, and bytes of an element of what it is made from and made in. */
enum { POSITIONS, VOCABULARY, HIDDEN, COMPUTE, HIDDEN_ELEMENT, WEIGHT_ELEMENT, HAS_BIAS };

static uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* ---- tiles */

/* Steps through count tiles: the first, the second, the last. Those between are like the second. */
static uint64_t next_tile(uint64_t i, uint64_t count)
{
	return i >= 1 && i + 2 < count ? count - 1 : i + 1;
}

static uint64_t tiles_of(uint64_t size, uint64_t tile)
{
	return (size + tile - 1) / tile;
}

static uint64_t tile_size(uint64_t i, uint64_t size, uint64_t tile)
{
	return least(tile, size - i * tile);
}

static struct est_tensor tile_buffer(struct est_tape *tape, const uint64_t shape[])
{
	return est_empty(tape, least(shape[POSITIONS], TILE_POSITIONS) * TILE_COLUMNS, (uint8_t)shape[COMPUTE]);
}

/* variable = part.to(compute_dtype): the variable's old value goes when the new one is there */
static void assign_cast(struct est_tape *tape, struct est_tensor *variable, uint64_t numel, uint64_t element,
			uint64_t compute)
{
	est_assign(tape, variable, element == compute ? est_none : est_empty(tape, numel, (uint8_t)compute));
}

/* What both directions do for each tile: casts of a slice of the hidden states and of one of the head. keeps: the
 * latter is a variable too (backward), or an inner expression (forward). */
static void run_tiles(struct est_tape *tape, const uint64_t shape[], bool keeps, struct est_tensor *hidden_chunk,
		      struct est_tensor *weight_chunk)
{
	uint64_t rows = tiles_of(shape[POSITIONS], TILE_POSITIONS), columns = tiles_of(shape[VOCABULARY], TILE_COLUMNS);

	for (uint64_t i = 0; i < rows; i = next_tile(i, rows)) {
		assign_cast(tape, hidden_chunk, tile_size(i, shape[POSITIONS], TILE_POSITIONS) * shape[HIDDEN],
			    shape[HIDDEN_ELEMENT], shape[COMPUTE]);
		for (uint64_t k = 0; k < columns; k = next_tile(k, columns)) {
			assign_cast(tape, weight_chunk, tile_size(k, shape[VOCABULARY], TILE_COLUMNS) * shape[HIDDEN],
				    shape[WEIGHT_ELEMENT], shape[COMPUTE]);
			if (!keeps)
				assign_cast(tape, weight_chunk, 0, 0, 0);
		}
	}
}

/* ---- ChunkedLogProbFunction: inputs hidden, weight, bias */

/* The fp32 accumulator of input i's gradient: that gradient itself where the input is fp32. */
static struct est_tensor accumulator(struct est_tape *tape, const struct est_node *node, unsigned i)
{
	if (!est_needs(node, i))
		return est_none;
	if (node->edge_element[i] == EST_32BIT)
		return est_grad_for(tape, node, i, EST_32BIT);
	return est_empty(tape, node->edge_numel[i], EST_32BIT);
}

static void backward_log_prob(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	struct est_tensor sums[3], tile, hidden_chunk = est_none, weight_chunk = est_none;

	for (unsigned i = 0; i < 3; i++)
		sums[i] = accumulator(tape, node, i);
	tile = tile_buffer(tape, node->extra);
	run_tiles(tape, node->extra, true, &hidden_chunk, &weight_chunk);
	for (unsigned i = 0; i < 3; i++)
		if (est_needs(node, i))
			ret[i] = node->edge_element[i] == EST_32BIT
					 ? est_alias(tape, sums[i])
					 : est_grad_for(tape, node, i, node->edge_element[i]);
	est_drop_all(tape, sums, 3);
	est_drop(tape, hidden_chunk);
	est_drop(tape, weight_chunk);
	est_drop(tape, tile);
}
static const struct est_op log_prob_op = { "ChunkedLogProb", backward_log_prob };

/* What the forward's frame holds to its end: seven running statistics of a position, the last cast of the hidden
 * states, the tile. */
enum { STATISTICS = 7, LOCALS = STATISTICS + 2 };

static void fold_tiles(struct est_tape *tape, const uint64_t shape[], struct est_tensor locals[LOCALS])
{
	struct est_tensor *hidden_chunk = &locals[STATISTICS], weight_chunk = est_none;

	for (unsigned i = 0; i < STATISTICS; i++)
		locals[i] = est_empty(tape, shape[POSITIONS], EST_32BIT);
	locals[STATISTICS + 1] = tile_buffer(tape, shape);
	*hidden_chunk = est_none;
	run_tiles(tape, shape, false, hidden_chunk, &weight_chunk);
}

/* (target_logit >= running_max) & (target_logit > max_before_target) */
static struct est_tensor likeliest(struct est_tape *tape, uint64_t positions)
{
	struct est_tensor a = est_empty(tape, positions, EST_BYTE), b = est_empty(tape, positions, EST_BYTE);
	struct est_tensor both = est_empty(tape, positions, EST_BYTE);

	est_drop(tape, a);
	est_drop(tape, b);
	return both;
}

static struct est_fused_output log_probabilities(struct est_tape *tape, struct est_node *node,
						 const struct est_tensor in[3], struct est_tensor targets,
						 const uint64_t shape[], enum est_fused_metrics metrics)
{
	struct est_tensor locals[LOCALS], log_z, temporary;
	struct est_fused_output out = { est_none, est_none, est_none, est_none };

	fold_tiles(tape, shape, locals);
	temporary = est_empty(tape, shape[POSITIONS], EST_32BIT);
	log_z = est_empty(tape, shape[POSITIONS], EST_32BIT);
	est_drop(tape, temporary);
	out.log_probs = est_empty(tape, shape[POSITIONS], EST_32BIT);
	if (metrics != EST_METRICS_NONE) {
		temporary = est_empty(tape, shape[POSITIONS], EST_32BIT);
		out.entropy = est_empty(tape, shape[POSITIONS], EST_32BIT);
		est_drop(tape, temporary);
	}
	if (metrics == EST_METRICS_TOP1)
		out.metric = likeliest(tape, shape[POSITIONS]);
	else if (metrics == EST_METRICS_MEAN_LOGITS)
		out.metric = est_empty(tape, shape[POSITIONS], EST_32BIT);
	for (unsigned i = 0; i < 3; i++)
		if (in[i].numel)
			est_save(tape, node, in[i]);
	est_save(tape, node, targets);
	est_save(tape, node, log_z);
	est_save(tape, node, out.entropy.numel ? out.entropy : log_z);
	est_drop_all(tape, locals, LOCALS);
	est_drop(tape, log_z);
	out.log_probs = est_output(tape, node, 0, out.log_probs);
	return out;
}

/* _ChunkedLogProbFunction.apply(hidden, weight, bias, targets): hidden and targets are temporary */
static struct est_fused_output apply(struct est_pass *pass, struct est_tensor hidden, struct est_tensor targets,
				     enum est_fused_metrics metrics)
{
	struct est_tape *tape = pass->tape;
	const struct est_linear *head = &pass->lm_head;
	struct est_tensor in[3] = { hidden, est_schedule_read(pass->schedule, tape, head->weight), est_none };
	uint64_t shape[EST_NODE_EXTRA] = { targets.numel,  head->out,      head->in,
					   hidden.element, hidden.element, in[1].element };
	struct est_fused_output out;
	struct est_node *node;

	if (tape->autocast)
		shape[COMPUTE] = EST_16BIT;
	if (head->has_bias)
		in[2] = est_leaf_tensor(tape, head->bias);
	node = est_node_new(tape, &log_prob_op, 3, in);
	est_save_shapes(node, shape);
	out = log_probabilities(tape, node, in, targets, shape, metrics);
	est_finish(tape, hidden);
	est_finish(tape, in[1]);
	est_finish(tape, targets);
	return out;
}

/* ---- positions in, positions out */

static const struct est_op index_op = { "Index", est_backward_like_input };

/* x[mask]: nonzero's coordinates, then the positions; x is borrowed */
static struct est_tensor masked(struct est_tape *tape, struct est_tensor x, struct est_tensor mask, uint64_t positions)
{
	struct est_node *node = est_node_new(tape, &index_op, 1, &x);
	struct est_tensor coordinates = est_empty_as(tape, 2 * positions, EST_INT64, EST_BUFFERS), out;

	est_save(tape, node, mask);
	out = est_empty(tape, x.numel / mask.numel * positions, x.element);
	est_drop(tape, coordinates);
	return est_output(tape, node, 0, out);
}

static void backward_scatter(struct est_tape *tape, struct est_node *node, struct est_tensor ret[])
{
	ret[0] = est_grad_for(tape, node, 0, EST_32BIT);
}
static const struct est_op scatter_op = { "MaskedScatter", backward_scatter };

/* x.new_zeros(mask.shape).masked_scatter(mask, x): x is borrowed */
static struct est_tensor scattered(struct est_tape *tape, struct est_tensor x, struct est_tensor mask)
{
	struct est_node *node = est_node_new(tape, &scatter_op, 1, &x);
	struct est_tensor zeros, out;

	if (!x.numel)
		return est_none;
	zeros = est_empty(tape, mask.numel, x.element);
	est_save(tape, node, mask);
	out = est_empty(tape, mask.numel, x.element);
	est_drop(tape, zeros);
	return est_hold(est_output(tape, node, 0, out));
}

struct est_fused_output est_fused_lm_head(struct est_pass *pass, struct est_tensor hidden,
					  enum est_fused_metrics metrics)
{
	struct est_tape *tape = pass->tape;
	uint64_t shifted = est_shifted_positions(pass), positions = est_labelled_positions(pass);
	struct est_tensor states, mask, compact, coordinates, targets;
	struct est_fused_output flat, out;

	states = est_hold(est_slice(tape, est_head_input(tape, hidden), shifted * pass->lm_head.in));
	est_read_head(pass);
	mask = est_buffer(tape, shifted, EST_BYTE);
	compact = masked(tape, states, mask, positions);
	coordinates = est_empty_as(tape, 2 * positions, EST_INT64, EST_BUFFERS);
	targets = est_empty_as(tape, positions, EST_INT64, EST_BUFFERS);
	est_drop(tape, coordinates);
	flat = apply(pass, compact, targets, metrics);
	out.log_probs = scattered(tape, flat.log_probs, mask);
	out.entropy = scattered(tape, flat.entropy, mask);
	out.metric = scattered(tape, flat.metric, mask);
	est_fused_output_drop(tape, &flat);
	out.aux_loss = est_router_loss(pass);
	est_router_loss_end(pass);
	est_drop(tape, states);
	est_drop(tape, mask);
	est_autocast_exit(tape);
	return out;
}

void est_fused_output_drop(struct est_tape *tape, const struct est_fused_output *output)
{
	est_drop(tape, output->log_probs);
	est_drop(tape, output->entropy);
	est_drop(tape, output->metric);
	est_drop(tape, output->aux_loss);
}

struct est_tensor est_add_router_loss(struct est_tape *tape, struct est_tensor loss, const struct est_fused_output *output)
{
	return output->aux_loss.numel ? est_add(tape, loss, output->aux_loss) : loss;
}

/* SFTTrainer.compute_loss: -log_probs, summed */
struct est_tensor est_chunked_loss(struct est_pass *pass, struct est_tensor hidden)
{
	struct est_tape *tape = pass->tape;
	struct est_fused_output output = est_fused_lm_head(pass, hidden, EST_METRICS_TOP1);
	struct est_tensor per_token_loss = est_hold(est_mul_scalar(tape, output.log_probs));
	struct est_tensor loss = est_hold(est_add_router_loss(tape, est_sum(tape, per_token_loss), &output));

	est_fused_output_drop(tape, &output);
	est_drop(tape, per_token_loss);
	return loss;
}
